//! One measurement: connects clients, or keeps messages in flight, and reads the probe around it.
//!
//! A load warms up, then is measured between two moments at which a message has just finished,
//! then is drained, so that every message ever sent is accounted for. Latency counts from the
//! intended send time: in a closed loop the moment at which a place in the window became free,
//! with a rate the moment that the schedule names, however late the message really left.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};

use crate::client::{Client, Dialect, HANDSHAKES, PATIENCE, Wait};
use crate::codec::{Data, Event};
use crate::ledger::Ledger;
use crate::probe::Probe;
use crate::record::{Distribution, Interval, Kind, Load, Phase, Usage};
use crate::sys;

/// How a load is generated and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) connections: usize,
    /// Bytes of data in each event.
    pub(crate) payload: usize,
    /// Length of the measured part.
    pub(crate) seconds: f64,
    /// Messages per second; without it a message is sent whenever one finishes.
    pub(crate) rate: Option<f64>,
    pub(crate) wait: Wait,
    pub(crate) dialect: Dialect,
    pub(crate) data: Data,
    /// The beginning of the run.
    pub(crate) began: Instant,
}

/// What is measured if nothing is chosen: name, kind, messages in flight.
pub(crate) const ALL: [(&str, Kind, usize); 3] =
    [("fanout-1", Kind::Fanout, 1), ("fanout-8", Kind::Fanout, 8), ("echo", Kind::Echo, 256)];
/// Descriptors that a process needs besides its connections.
const SPARE_FILES: u64 = 64;
/// A server that was loaded or connected to settles for so long before it is looked at.
const SETTLE: Duration = Duration::from_secs(1);

/// Fails with the fix if either side cannot open enough files.
pub(crate) fn check_limits(connections: usize, probe: &Probe) -> Result<()> {
    let needed = connections as u64 + SPARE_FILES;
    for (who, limit) in [("client", sys::raise_open_files()?), ("server", probe.open_files()?)] {
        ensure!(
            limit >= needed,
            "the {who} may open {limit} files and needs {needed}: run it after \
             `ulimit -n {needed}`, as root if the hard limit (`ulimit -Hn`) is lower, or use \
             fewer --connections"
        );
    }
    Ok(())
}

/// Connects once and leaves, so that the server has run its handshake code before it is measured.
pub(crate) fn warm_up(target: SocketAddr, plan: &Plan) -> Result<()> {
    Client::new(target, plan.wait, plan.dialect)?.connect(plan.connections.div_ceil(5))?;
    std::thread::sleep(SETTLE / 2);
    Ok(())
}

/// Connects `plan.connections` clients; measures CPU time and the growth of memory.
pub(crate) fn connect(target: SocketAddr, plan: &Plan, probe: &Probe) -> Result<(Client, Phase)> {
    let mut client = Client::new(target, plan.wait, plan.dialect)?;
    let meter = Meter::start(probe)?;
    client.connect(plan.connections)?;
    let (seconds, cpu) = meter.read(probe)?;
    let latency = std::mem::take(&mut client.handshakes);
    rest(&mut client, SETTLE)?;
    let joined = client.len() as u64;
    let mut load = Load {
        in_flight: Some(HANDSHAKES as u64),
        ..counted("connect", Kind::Connect, seconds, joined, latency)
    };
    (load.all_sent, load.all_due, load.all_received) = (joined, joined, joined);
    let phase = meter.phase("connect", plan, probe, client.len(), (seconds, cpu), Some(load))?;
    Ok((client, phase))
}

/// CPU time of the server while nobody sends; heartbeats are answered.
pub(crate) fn idle(client: &mut Client, plan: &Plan, probe: &Probe) -> Result<Phase> {
    let meter = Meter::start(probe)?;
    rest(client, Duration::from_secs_f64(plan.seconds))?;
    let read = meter.read(probe)?;
    meter.phase("idle", plan, probe, client.len(), read, None)
}

/// The load of a phase with its one interval; totals of the warm-up are still missing.
fn counted(name: &str, kind: Kind, seconds: f64, count: u64, latency: Distribution) -> Load {
    Load {
        name: name.into(),
        kind,
        payload: 0,
        rate: None,
        in_flight: None,
        finished: count,
        deliveries: latency.0.len(),
        all_sent: 0,
        all_due: 0,
        all_received: 0,
        intervals: vec![Interval { start: 0.0, seconds, latency }],
    }
}

/// Readings at the beginning of a measured part.
struct Meter {
    started: Instant,
    server: (Duration, u64),
    client: (Duration, u64),
}

impl Meter {
    fn start(probe: &Probe) -> Result<Self> {
        let us = Probe::new(std::process::id())?;
        let (server, client) = (probe.resident()?, us.resident()?);
        let (server, client) = ((probe.cpu()?, server), (us.cpu()?, client));
        Ok(Self { started: Instant::now(), server, client })
    }

    /// Seconds since the start, and CPU time since then: the server's, ours.
    fn read(&self, probe: &Probe) -> Result<(f64, [f64; 2])> {
        let us = Probe::new(std::process::id())?;
        let spent = [probe.cpu()? - self.server.0, us.cpu()? - self.client.0];
        Ok((self.started.elapsed().as_secs_f64(), spent.map(|cpu| cpu.as_secs_f64())))
    }

    fn phase(
        &self,
        name: &str,
        plan: &Plan,
        probe: &Probe,
        connections: usize,
        (seconds, [server, client]): (f64, [f64; 2]),
        load: Option<Load>,
    ) -> Result<Phase> {
        let us = Probe::new(std::process::id())?;
        let usage = |cpu_seconds, resident_before, resident_after| Usage {
            cpu_seconds,
            resident_before,
            resident_after,
        };
        Ok(Phase {
            name: name.into(),
            start: (self.started - plan.began).as_secs_f64(),
            seconds,
            connections: connections as u64,
            server: Some(usage(server, self.server.1, probe.resident()?)),
            client: usage(client, self.client.1, us.resident()?),
            samples: Vec::new(),
            loads: load.into_iter().collect(),
        })
    }
}

fn rest(client: &mut Client, time: Duration) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < time {
        client.turn(Duration::from_millis(10), |index, packet, _| {
            let text = String::from_utf8_lossy(&packet[..packet.len().min(100)]);
            Err(anyhow!("connection {index} received an event that nobody sent: {text}"))
        })?;
    }
    Ok(())
}

/// The measured part of a load, as it is under way.
struct Window {
    meter: Meter,
    finished: u64,
}

/// The event of a load that is possible.
fn event(kind: Kind, in_flight: usize, connections: usize, plan: &Plan) -> Result<Event> {
    ensure!(in_flight > 0 && connections > 0, "nothing to do: --in-flight and --connections");
    if kind == Kind::Echo {
        ensure!(in_flight <= connections, "one echo per connection in flight");
        return Ok(Event::new("echo", "echo", plan.payload, plan.data));
    }
    ensure!(in_flight <= 64, "at most 64 broadcasts in flight are tracked");
    Ok(Event::new("pub", "msg", plan.payload, plan.data))
}

/// Keeps `in_flight` messages under way (at most, with a rate) and measures.
pub(crate) fn run(
    client: &mut Client,
    (name, kind, in_flight): (&str, Kind, usize),
    plan: &Plan,
    probe: &Probe,
) -> Result<Phase> {
    let connections = client.len();
    let mut event = event(kind, in_flight, connections, plan)?;
    let begin = Instant::now();
    let warm = begin + Duration::from_secs_f64((plan.seconds / 5.0).clamp(0.05, 1.0));
    let mut ledger = Ledger::new(kind, connections, begin);
    let (mut window, mut result): (Option<Window>, Option<Phase>) = (None, None);
    let (mut now, mut heard) = (begin, begin);
    let (mut sent, mut arrived, mut finished) = (0u64, 0, 0);
    while result.is_none() || ledger.unfinished() > 0 {
        // Read before sending: a message that becomes possible now is intended now.
        while result.is_none() && ledger.has_room(in_flight) {
            let due = plan.rate.map_or(now, |rate| begin + duration(sent as f64 / rate));
            if due > now {
                break;
            }
            let (sender, number) = ledger.send(due);
            client.emit(sender, &mut event, number)?;
            sent += 1;
        }
        let patience = if plan.rate.is_some() { Duration::ZERO } else { duration(0.01) };
        client.turn(patience, |receiver, packet, at| {
            let number = event.sequence(packet).ok_or_else(|| altered(receiver, packet))?;
            ledger.deliver(receiver, number, at)
        })?;
        now = Instant::now();
        if ledger.deliveries != arrived || ledger.unfinished() == 0 {
            (arrived, heard) = (ledger.deliveries, now);
        } else if now - heard > PATIENCE {
            bail!("nothing arrived for {PATIENCE:?}: {}", ledger.missing());
        }
        if ledger.finished == finished || now < warm {
            continue;
        }
        finished = ledger.finished;
        match window.take() {
            None if result.is_none() => {
                ledger.recording = true;
                window = Some(Window { meter: Meter::start(probe)?, finished });
            }
            Some(open) if (now - open.meter.started).as_secs_f64() >= plan.seconds => {
                ledger.recording = false;
                let (read, meter) = (open.meter.read(probe)?, open.meter);
                let latency = std::mem::take(&mut ledger.latency);
                let load = Load {
                    payload: plan.payload as u64,
                    rate: plan.rate,
                    in_flight: Some(in_flight as u64),
                    ..counted(name, kind, read.0, finished - open.finished, latency)
                };
                result = Some(meter.phase(name, plan, probe, connections, read, Some(load))?);
            }
            other => window = other,
        }
    }
    let mut result = result.ok_or_else(|| anyhow!("nothing was measured"))?;
    let receivers = if kind == Kind::Echo { 1 } else { connections as u64 };
    for load in &mut result.loads {
        (load.all_sent, load.all_due) = (sent, sent * receivers);
        load.all_received = ledger.deliveries;
        ensure!(load.all_due == load.all_received, "{}", ledger.missing());
    }
    Ok(result)
}

fn duration(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn altered(receiver: usize, packet: &[u8]) -> anyhow::Error {
    let text = String::from_utf8_lossy(&packet[..packet.len().min(200)]);
    anyhow!("connection {receiver} received something else than what was sent: {text}")
}
