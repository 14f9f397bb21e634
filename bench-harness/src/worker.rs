//! A client process: holds its part of the connections, and runs what the parent asks for.
//!
//! Orders come in and answers go out as lines of JSON (`Order`, `Answer`); what has to be known at
//! once goes through memory that all processes share. Between orders heartbeats are answered.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Stdin, Write, stdin, stdout};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::client::{Client, Heard, Wait};
use crate::load::{self, Load, Part, Setting, Tally};
use crate::meter::{self, Meter, Reading, nanoseconds};
use crate::probe::Probe;
use crate::record::Kind;
use crate::scenario::Scenario;
use crate::shared::Shared;
use crate::stalled::{self, Sent, Woken};
use crate::sys;

/// What a process is started for: its first line of input.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) scenario: Scenario,
    pub(crate) target: SocketAddr,
    /// The server's, if it is known.
    pub(crate) pid: Option<u32>,
    pub(crate) process: usize,
    /// It is the process of those that ask.
    pub(crate) asks: bool,
    /// All processes.
    pub(crate) crew: usize,
    /// Where `Shared` is.
    pub(crate) shared: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Do what phase number `phase` needs before it begins, with so many clients connected.
    Prepare { phase: usize, connected: usize },
    /// Begin it then, in nanoseconds of the common clock.
    Go { begin: u64 },
    /// Let those who had stopped reading read again, to whom this was sent.
    Wake { sent: Vec<Sent> },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Started, or prepared.
    Ready,
    Done(Done),
    Woken(Woken),
    Failed(String),
}

/// What one process did in a phase.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) reading: Reading,
    pub(crate) loads: Vec<Tally>,
}

/// After the last receipt, how long to listen for one too many.
const LINGER: f64 = 0.03;
/// What is still missing this long after an interruption is given up.
const GIVE_UP: Duration = Duration::from_secs(1);
/// The longest wait for events; counters of other processes are looked at so often.
const LOOK: u64 = 5_000_000;

struct Worker {
    job: Job,
    part: Part,
    shared: Shared,
    client: Client,
    /// The first process reads the server's clocks.
    probe: Option<Probe>,
    /// By the size of rooms: how many of our clients, the first ones, are in theirs.
    rooms: BTreeMap<usize, usize>,
    orders: BufReader<Stdin>,
}

/// Serves the parent until it closes our input.
pub(crate) fn run() -> Result<()> {
    let failed = match Worker::start() {
        Ok(mut worker) => worker.serve(),
        Err(error) => Err(error),
    };
    failed.or_else(|error| answer(&Answer::Failed(format!("{error:#}"))))
}

impl Job {
    /// Whether a load is, in part, for the clients of this process.
    fn takes(&self, kind: Kind) -> bool {
        match kind {
            Kind::Connect => true,
            Kind::Echo => self.asks || self.scenario.clients.asking == 0,
            Kind::Idle | Kind::Fanout | Kind::Churn => !self.asks,
        }
    }

    /// What no load has asked for. Those that ask hear the broadcasts to others too.
    fn unasked(&self, index: usize, heard: &Heard<'_>) -> Result<()> {
        match heard {
            Heard::Packet(packet) if !self.asks => Err(anyhow!(
                "connection {index} received an event that nobody waits for, an old one again or \
                 one that was never sent: {}",
                load::text(packet)
            )),
            Heard::Packet(_) | Heard::Joined { .. } | Heard::Ping { .. } => Ok(()),
        }
    }
}

impl Worker {
    fn start() -> Result<Self> {
        let mut orders = BufReader::new(stdin());
        let mut line = String::new();
        orders.read_line(&mut line)?;
        let job: Job = serde_json::from_str(&line).context("the job that the parent gives")?;
        let clients = &job.scenario.clients;
        sys::raise_open_files().context("raise the limit of open files")?;
        if let Some(cpu) = clients.cpus.get(job.process % clients.cpus.len().max(1)) {
            sys::pin_to(*cpu).with_context(|| format!("pin a client process to CPU {cpu}"))?;
        }
        if job.asks && !sys::hurry() {
            eprintln!(
                "bench-harness: those that ask have no priority, which takes root: their latency \
                 has what other processes on their CPU do in it"
            );
        }
        let process = if job.asks { 0 } else { job.process };
        let part = Part { process, processes: clients.processes };
        let client = Client::new(job.target, clients, process)?;
        client.watch(stdin().as_raw_fd())?;
        let shared = Shared::open(&job.shared)?;
        let probe = job.pid.filter(|_| job.process == 0).map(Probe::new).transpose()?;
        Ok(Self { job, part, shared, client, probe, rooms: BTreeMap::new(), orders })
    }

    fn serve(&mut self) -> Result<()> {
        answer(&Answer::Ready)?;
        let mut prepared = (0, 0);
        loop {
            self.client.wait = Wait::Block;
            match self.order()? {
                None => return Ok(()),
                Some(Order::Prepare { phase, connected }) => {
                    prepared = (phase, connected);
                    self.prepare(phase, connected)?;
                    answer(&Answer::Ready)?;
                }
                Some(Order::Go { begin }) => {
                    self.client.wait = self.job.scenario.clients.wait;
                    let done = self.phase(prepared, begin)?;
                    answer(&Answer::Done(done))?;
                }
                // Nobody of them has stopped reading.
                Some(Order::Wake { .. }) if self.job.asks => {
                    answer(&Answer::Woken(Woken::default()))?;
                }
                Some(Order::Wake { sent }) => {
                    let scenario = &self.job.scenario;
                    let woken = stalled::wake(&mut self.client, scenario, self.part, &sent)?;
                    answer(&Answer::Woken(woken))?;
                }
            }
        }
    }

    /// The next order; `None` when there are no more.
    fn order(&mut self) -> Result<Option<Order>> {
        self.client.is_called = false;
        while !self.client.is_called {
            self.client.turn(Duration::from_millis(200), |index, heard, _| {
                self.job.unasked(index, &heard)
            })?;
        }
        let mut line = String::new();
        if self.orders.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line).context("an order of the parent")?))
    }

    /// Puts the clients into the rooms that the phase has.
    fn prepare(&mut self, phase: usize, connected: usize) -> Result<()> {
        if self.job.asks {
            return Ok(());
        }
        let members = self.part.of(connected.min(self.job.scenario.steady()));
        // Whoever leaves now is in no room when it comes back.
        self.rooms.values_mut().for_each(|joined| *joined = members.min(*joined));
        let sizes: Vec<usize> = self.job.scenario.phases[phase]
            .loads
            .iter()
            .filter(|load| load.kind == Kind::Fanout)
            .filter_map(|load| load.room_size)
            .collect();
        for size in sizes {
            let joined = self.rooms.insert(size, members).unwrap_or(0);
            let mut loads = [Load::join(size, joined..members, self.part)];
            let mut watch = Watch::new(&self.shared, &self.job);
            while !(loads[0].is_complete() && loads[0].unfinished() == 0
                || self.shared.is_stopped())
            {
                loads[0].send(&mut self.client, sys::now())?;
                watch.turn(&mut self.client, &mut loads, Duration::from_millis(5))?;
                watch.look(&loads, &self.client, self.patience())?;
            }
        }
        Ok(())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.job.scenario.clients.patience)
    }

    fn phase(&mut self, (number, connected): (usize, usize), begin: u64) -> Result<Done> {
        let scenario = &self.job.scenario;
        let phase = &scenario.phases[number];
        let setting = Setting {
            scenario,
            shared: &self.shared,
            part: self.part,
            phase: number,
            steady: if self.job.asks {
                scenario.steady()
            } else {
                connected.min(scenario.steady())
            },
            begin,
        };
        let count = phase.loads.len();
        let load = |at: usize| match self.job.takes(phase.loads[at].kind) {
            true => Load::new(at, &setting),
            false => Load::Absent(Tally::default()),
        };
        let mut loads: Vec<Load<'_>> = (0..count).map(load).collect();
        let opening = begin + nanoseconds(phase.warmup());
        let end = (!phase.connects()).then(|| opening + nanoseconds(phase.seconds));
        let interval = nanoseconds(phase.interval());
        let mut meter = Meter::new(self.probe.as_ref(), opening, end, interval)?;
        let mut watch = Watch::new(&self.shared, &self.job);
        let mut is_silent = false;
        loop {
            let now = sys::now();
            meter.tick(now, &mut loads, self.shared.joined())?;
            let is_stopped = self.shared.is_stopped();
            if !is_silent && (is_stopped || meter.is_closed() || loads[0].is_complete()) {
                is_silent = true;
                self.shared.fall_silent();
                loads.iter_mut().for_each(|load| load.fall_silent(now));
            }
            if is_silent && self.shared.silent() == self.job.crew {
                meter.close(now, &mut loads, self.shared.joined())?;
                if loads.iter().all(|load| load.unfinished() == 0) {
                    break;
                }
            }
            if !is_silent && now >= begin {
                for load in &mut loads {
                    load.send(&mut self.client, now)?;
                }
            }
            let foreseen = loads.iter().filter_map(Load::next).filter(|at| *at > now && !is_silent);
            let next = foreseen.chain(meter.next()).chain([now + LOOK]).min().unwrap_or(now);
            let timeout = Duration::from_nanos(next.saturating_sub(sys::now()).max(1_000));
            watch.turn(&mut self.client, &mut loads, timeout)?;
            if !watch.look(
                &loads,
                &self.client,
                if is_stopped { GIVE_UP } else { self.patience() },
            )? {
                break;
            }
        }
        let late = meter::in_seconds(LINGER);
        while sys::now() < late {
            watch.turn(&mut self.client, &mut loads, Duration::from_millis(5))?;
        }
        let joined = self.part.of(setting.steady);
        for load in loads.iter_mut().filter(|load| matches!(load, Load::Idle(_))) {
            load.overdue(&self.client, joined, sys::now());
        }
        let loads = loads.iter_mut().map(|load| std::mem::take(load.tally())).collect();
        Ok(Done { reading: meter.reading(), loads })
    }
}

/// Whether anything still arrives.
struct Watch<'a> {
    shared: &'a Shared,
    job: &'a Job,
    received: u64,
    delivered: u64,
    heard: u64,
}

impl<'a> Watch<'a> {
    fn new(shared: &'a Shared, job: &'a Job) -> Self {
        Self { shared, job, received: 0, delivered: 0, heard: sys::now() }
    }

    /// One turn of the client, whose receipts go to `loads`.
    fn turn(
        &mut self,
        client: &mut Client,
        loads: &mut [Load<'_>],
        timeout: Duration,
    ) -> Result<()> {
        client.turn(timeout, |index, heard, now| {
            for load in loads.iter_mut() {
                if load.hear(index, &heard, now)? {
                    return Ok(());
                }
            }
            self.job.unasked(index, &heard)
        })?;
        let received = loads.iter_mut().map(|load| load.tally().all_received).sum();
        if received != self.received {
            self.shared.deliver(received - self.received);
            self.received = received;
        }
        Ok(())
    }

    /// Fails if something is missing and nothing has come for `patience`; false if that is so after
    /// an interruption, when nobody minds.
    fn look(&mut self, loads: &[Load<'_>], client: &Client, patience: Duration) -> Result<bool> {
        let (now, delivered) = (sys::now(), self.shared.delivered());
        if delivered != self.delivered || loads.iter().all(|load| load.unfinished() == 0) {
            (self.delivered, self.heard) = (delivered, now);
            return Ok(true);
        }
        if now - self.heard < patience.as_nanos() as u64 {
            return Ok(true);
        }
        if self.shared.is_stopped() {
            return Ok(false);
        }
        let missing: Vec<String> = loads.iter().filter_map(Load::missing).collect();
        let handshakes = client.handshakes();
        if missing.is_empty() {
            bail!(
                "{} of {} connections joined the namespace, then nothing came for {patience:?}; \
                 the others: {handshakes}",
                client.ready(),
                client.len()
            );
        }
        bail!("nothing arrived for {patience:?}: {}", missing.join("; "))
    }
}

fn answer(answer: &Answer) -> Result<()> {
    let mut out = stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
