//! One measurement: connects clients, or keeps messages in flight, and reads the probe around it.
//!
//! A load warms up, then is measured between two moments at which a message has just finished,
//! then is drained, so that every message ever sent is accounted for. Latency counts from the
//! intended send time: in a closed loop the moment at which a place in the window became free,
//! with a rate the moment that the schedule names, however late the message really left.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};

use crate::client::{Client, PATIENCE, Wait};
use crate::codec::Event;
use crate::ledger::{Kind, Ledger};
use crate::probe::Probe;
use crate::sys;
use crate::table::{Connected, Latency, Loaded};

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
}

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
    Client::new(target, plan.wait)?.connect(plan.connections.div_ceil(5))?;
    std::thread::sleep(SETTLE / 2);
    Ok(())
}

/// Connects `plan.connections` clients; measures CPU time and the growth of memory.
pub(crate) fn connect(
    target: SocketAddr,
    plan: &Plan,
    probe: &Probe,
) -> Result<(Client, Connected)> {
    let mut client = Client::new(target, plan.wait)?;
    let (rss, cpu, started) = (probe.resident()?, probe.cpu()?, Instant::now());
    client.connect(plan.connections)?;
    let (spent, seconds) = (probe.cpu()? - cpu, started.elapsed().as_secs_f64());
    let handshakes = Latency::of(&client.handshakes);
    rest(&mut client, SETTLE)?;
    let connections = plan.connections as f64;
    let growth = probe.resident()? as f64 - rss as f64;
    let connected = Connected {
        connections: plan.connections,
        seconds,
        per_second: connections / seconds,
        server_busy: spent.as_secs_f64() / seconds,
        cpu_us: spent.as_secs_f64() * 1e6 / connections,
        rss_bytes: growth / connections,
        handshakes,
    };
    Ok((client, connected))
}

/// CPU time of the server per second while nobody sends; heartbeats are answered.
pub(crate) fn idle(client: &mut Client, plan: &Plan, probe: &Probe) -> Result<f64> {
    let (cpu, started) = (probe.cpu()?, Instant::now());
    rest(client, Duration::from_secs_f64(plan.seconds))?;
    Ok((probe.cpu()? - cpu).as_secs_f64() / started.elapsed().as_secs_f64())
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
    cpu: Duration,
    started: Instant,
    finished: u64,
    deliveries: u64,
}

impl Window {
    fn open(ledger: &mut Ledger, probe: &Probe, now: Instant) -> Result<Self> {
        ledger.recording = true;
        let (finished, deliveries) = (ledger.finished, ledger.deliveries);
        Ok(Self { cpu: probe.cpu()?, started: now, finished, deliveries })
    }

    fn close(self, ledger: &mut Ledger, probe: &Probe, now: Instant) -> Result<Loaded> {
        ledger.recording = false;
        let seconds = (now - self.started).as_secs_f64();
        let spent = (probe.cpu()? - self.cpu).as_secs_f64();
        let deliveries = ledger.deliveries - self.deliveries;
        Ok(Loaded {
            seconds,
            messages: ledger.finished - self.finished,
            deliveries,
            per_second: deliveries as f64 / seconds,
            server_busy: spent / seconds,
            cpu_us: spent * 1e6 / deliveries as f64,
            latency: Latency::of(&ledger.latency),
            all_messages: 0,
            all_deliveries: 0,
        })
    }
}

/// Keeps `in_flight` messages under way (at most, with a rate) and measures.
pub(crate) fn run(
    client: &mut Client,
    kind: Kind,
    in_flight: usize,
    plan: &Plan,
    probe: &Probe,
) -> Result<Loaded> {
    let connections = client.len();
    ensure!(in_flight > 0 && connections > 0, "nothing to do: --in-flight and --connections");
    match kind {
        Kind::Fanout => ensure!(in_flight <= 64, "at most 64 broadcasts in flight are tracked"),
        Kind::Echo => ensure!(in_flight <= connections, "one echo per connection in flight"),
    }
    let mut event = match kind {
        Kind::Fanout => Event::new("pub", "msg", plan.payload),
        Kind::Echo => Event::new("echo", "echo", plan.payload),
    };
    let begin = Instant::now();
    let warm = begin + Duration::from_secs_f64((plan.seconds / 5.0).clamp(0.05, 1.0));
    let mut ledger = Ledger::new(kind, connections, begin)?;
    let (mut window, mut result): (Option<Window>, Option<Loaded>) = (None, None);
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
            client.send(sender, event.frame(number))?;
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
            None if result.is_none() => window = Some(Window::open(&mut ledger, probe, now)?),
            Some(open) if (now - open.started).as_secs_f64() >= plan.seconds => {
                result = Some(open.close(&mut ledger, probe, now)?);
            }
            other => window = other,
        }
    }
    let mut result = result.ok_or_else(|| anyhow!("nothing was measured"))?;
    (result.all_messages, result.all_deliveries) = (sent, ledger.deliveries);
    let receivers = if kind == Kind::Fanout { connections as u64 } else { 1 };
    ensure!(sent * receivers == ledger.deliveries, "{}", ledger.missing());
    Ok(result)
}

fn duration(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn altered(receiver: usize, packet: &[u8]) -> anyhow::Error {
    let text = String::from_utf8_lossy(&packet[..packet.len().min(200)]);
    anyhow!("connection {receiver} received something else than what was sent: {text}")
}
