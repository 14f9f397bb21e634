//! A run: the server, the client processes, phase after phase, and what they found put together.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::client::Transport;
use crate::load::Tally;
use crate::meter;
use crate::probe::{self, Probe};
use crate::progress::Progress;
use crate::record::{FORMAT, Kind, Load, Phase, Record, Stalled, Usage};
use crate::scenario::{self, Clients, Scenario};
use crate::server::Server;
use crate::shared::Shared;
use crate::stalled::{Sent, Woken};
use crate::sys;
use crate::worker::{Answer, Done, Job, Order};

/// Descriptors that a process needs besides its connections.
const SPARE_FILES: u64 = 64;
/// From the order to begin until the beginning, so that all processes have heard it.
const AHEAD: f64 = 0.02;

/// Where the server is, and what else is known of it.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// For its CPU time and memory.
    pub(crate) pid: Option<u32>,
    pub(crate) label: String,
}

/// Set by the first Ctrl-C; the second one ends the program.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on Ctrl-C ends a phase early first, and only then the program.
pub(crate) fn catch_interrupts() -> Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let flag = &*INTERRUPTED;
        // In this order: the first signal finds the flag not yet set.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))?;
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// Whether it has come to that.
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Starts the scenario's own server and measures it.
pub(crate) fn with_server(scenario: &Scenario, keep: Keep<'_>) -> Result<Record> {
    let own = scenario.server.as_ref().context(
        "no server: give --url (and --pid for CPU time and memory), or let the scenario start one \
         by `[server] command`",
    )?;
    let mut server = Server::start(&own.command, own.cpu)?;
    let program = std::path::Path::new(&own.command[0]).file_name().unwrap_or_default();
    let label = own.label.clone().unwrap_or_else(|| program.to_string_lossy().into_owned());
    let target = Target { address: server.address, pid: Some(server.pid()), label };
    measure(scenario, &target, keep).map_err(|error| match server.ended() {
        Some(ended) => error.context(format!("the server {ended}")),
        None => error,
    })
}

/// What is done with the record while all clients are still connected: a million of them take
/// minutes to leave.
pub(crate) type Keep<'a> = &'a dyn Fn(&Record) -> Result<()>;

/// Runs all phases against a server that is there. After an interruption the record has what was
/// found until then, and is not complete.
pub(crate) fn measure(scenario: &Scenario, target: &Target, keep: Keep<'_>) -> Result<Record> {
    let server = target.pid.map(Probe::new).transpose()?;
    check_sources(scenario, target.address)?;
    check_limits(scenario, server.as_ref())?;
    let began = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let origin = sys::now();
    let mut crew = Crew::start(scenario, target)?;
    let mut record = Record {
        format: FORMAT,
        scenario: scenario.name.clone(),
        server: target.label.clone(),
        began,
        complete: true,
        harness: env!("CARGO_PKG_VERSION").into(),
        host: probe::host(),
        connections: (scenario.clients.count + scenario.clients.asking) as u64,
        processes: scenario.clients.processes as u64,
        phases: Vec::new(),
        stalled: None,
    };
    for number in 0..scenario.phases.len() {
        let name = &scenario.phases[number].name;
        let phase = crew.phase(number, server.as_ref(), origin);
        record.phases.extend(phase.with_context(|| format!("phase {name}"))?);
        if is_interrupted() {
            record.complete = false;
            break;
        }
    }
    if scenario.clients.stalled() > 0 && record.complete {
        record.stalled = Some(crew.wake(&record.phases)?);
    }
    keep(&record)?;
    Ok(record)
}

fn check_sources(scenario: &Scenario, target: SocketAddr) -> Result<()> {
    for source in &scenario.clients.sources {
        ensure!(
            source.is_ipv4() == target.is_ipv4(),
            "sources: {source} cannot reach {target}: one is IPv4, the other IPv6"
        );
    }
    Ok(())
}

/// Fails with the fix if a client process or the server cannot open enough files.
fn check_limits(scenario: &Scenario, server: Option<&Probe>) -> Result<()> {
    let (count, processes) = (scenario.clients.count, scenario.clients.processes);
    let each = files_of_a_client(scenario);
    let asking = scenario.clients.asking;
    let ours = count.div_ceil(processes).max(asking) as u64 * each + SPARE_FILES;
    let theirs = (count + asking) as u64 * each + SPARE_FILES;
    let hard = sys::raise_open_files()?;
    ensure!(
        hard >= ours,
        "a client process may open {hard} files and needs {ours}: use more processes (`processes` \
         in [clients], {} would do), run it after `ulimit -n {ours}`, as root if the hard limit \
         (`ulimit -Hn`) is lower, or use a smaller --count",
        (count as u64 * each).div_ceil(hard.saturating_sub(SPARE_FILES).max(1))
    );
    let limit = server.map_or(Ok(u64::MAX), Probe::open_files)?;
    ensure!(
        limit >= theirs,
        "the server may open {limit} files and needs {theirs}: start it after \
         `ulimit -n {theirs}`, as root if the hard limit is lower, or use a smaller --count"
    );
    Ok(())
}

/// A polling client that says more than hello and pong keeps a second connection for its POSTs.
fn files_of_a_client(scenario: &Scenario) -> u64 {
    let mut loads = scenario.phases.iter().flat_map(|phase| &phase.loads);
    let has_posts = loads.any(|load| !matches!(load.kind, Kind::Connect | Kind::Idle));
    if scenario.clients.transport == Transport::Polling && has_posts { 2 } else { 1 }
}

/// The client processes.
struct Crew<'a> {
    scenario: &'a Scenario,
    shared: Shared,
    members: Vec<Member>,
    answers: Receiver<(usize, Result<Answer>)>,
    /// Clients that are connected by order.
    connected: usize,
}

/// One of them; it ends with its value.
struct Member {
    child: Child,
    orders: ChildStdin,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Crew<'a> {
    fn start(scenario: &'a Scenario, target: &Target) -> Result<Self> {
        let (shared, (sender, answers)) = (Shared::new()?, channel());
        let mut crew = Self { scenario, shared, members: Vec::new(), answers, connected: 0 };
        let Clients { processes, asking, .. } = scenario.clients;
        let all = processes + usize::from(asking > 0);
        for process in 0..all {
            let asks = process == processes;
            let job = Job {
                scenario: if asks { scenario.asking() } else { scenario.clone() },
                target: target.address,
                pid: target.pid,
                process,
                asks,
                crew: all,
                shared: crew.shared.path(),
            };
            crew.members.push(Member::start(&job, sender.clone())?);
        }
        crew.gather("starting", |_| {})?;
        Ok(crew)
    }

    fn order(&mut self, order: &Order) -> Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        for member in &mut self.members {
            member.orders.write_all(line.as_bytes()).context("a client process has ended")?;
        }
        Ok(())
    }

    /// Waits for an answer of each process; passes an interruption on to them.
    fn gather(&mut self, what: &str, look: impl Fn(&Shared)) -> Result<Vec<Answer>> {
        let mut found = Vec::new();
        while found.len() < self.members.len() {
            if is_interrupted() {
                self.shared.stop();
            }
            match self.answers.recv_timeout(Duration::from_millis(50)) {
                Ok((process, Ok(Answer::Failed(text)))) => return Err(self.failed(process, text)),
                Ok((_, Ok(answer))) => found.push(answer),
                Ok((process, Err(error))) => {
                    return Err(self.failed(process, format!("{what}: {error:#}")));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("all client processes have ended"),
            }
            look(&self.shared);
        }
        Ok(found)
    }

    fn failed(&self, process: usize, text: String) -> anyhow::Error {
        let error = anyhow!("{text}");
        if self.members.len() == 1 {
            error
        } else {
            error.context(format!("client process {process}"))
        }
    }

    /// `None` if it was interrupted before it began.
    fn phase(
        &mut self,
        number: usize,
        server: Option<&Probe>,
        origin: u64,
    ) -> Result<Option<Phase>> {
        let plan = &self.scenario.phases[number];
        self.shared.reset();
        self.connected = self.scenario.connected_after(plan).unwrap_or(self.connected);
        let progress = Progress::new(plan, self.connected + self.scenario.clients.asking);
        self.order(&Order::Prepare { phase: number, connected: self.connected })?;
        self.gather("preparing", |shared| progress.preparing(shared))?;
        if is_interrupted() {
            return Ok(None);
        }
        let server_before = server.map(Probe::resident).transpose()?;
        let client_before = self.resident()?;
        let begin = meter::in_seconds(AHEAD);
        self.order(&Order::Go { begin })?;
        let found = self.gather("loading", |shared| progress.show(shared, begin))?;
        drop(progress);
        let done = found.into_iter().filter_map(|answer| match answer {
            Answer::Done(done) => Some(done),
            _ => None,
        });
        if !is_interrupted() {
            std::thread::sleep(Duration::from_secs_f64(plan.settle()));
        }
        let usage = |cpu_seconds, resident_before, resident_after| Usage {
            cpu_seconds,
            resident_before,
            resident_after,
        };
        let mut phase = merge(self.scenario, plan, done.collect())?;
        phase.start = (phase.start - origin as f64 / 1e9).max(0.0);
        phase.connections = self.shared.joined();
        phase.client = usage(phase.client.cpu_seconds, client_before, self.resident()?);
        let cpu = phase.samples.iter().map(|sample| sample.server_cpu_seconds).sum();
        phase.server = match (server, server_before) {
            (Some(probe), Some(before)) => Some(usage(cpu, before, probe.resident()?)),
            _ => None,
        };
        Ok(Some(phase))
    }

    /// What became of the clients that had stopped reading, after `phases`.
    fn wake(&mut self, phases: &[Phase]) -> Result<Stalled> {
        self.order(&Order::Wake { sent: sent(self.scenario, phases) })?;
        let mut all = Woken::default();
        for answer in self.gather("reading what stalled clients still get", |_| {})? {
            if let Answer::Woken(woken) = answer {
                all.add(woken);
            }
        }
        ensure!(all.to_open <= all.due, "stalled clients received more than was sent");
        Ok(Stalled {
            clients: all.clients,
            closed: all.closed,
            received: all.to_closed + all.to_open,
            skipped: all.due - all.to_open,
        })
    }

    /// Resident memory of all client processes.
    fn resident(&self) -> Result<u64> {
        let each = |member: &Member| Probe::new(member.child.id())?.resident();
        self.members.iter().map(each).sum()
    }
}

impl Member {
    fn start(job: &Job, answers: Sender<(usize, Result<Answer>)>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped());
        sys::confine(&mut command, None);
        // Out of reach of the terminal's Ctrl-C: the parent tells them.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().context("start a client process")?;
        let mut orders = child.stdin.take().context("input of a client process")?;
        let output = child.stdout.take().context("output of a client process")?;
        let process = job.process;
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let answer = line
                    .map_err(anyhow::Error::from)
                    .and_then(|line| Ok(serde_json::from_str(&line)?));
                if answers.send((process, answer)).is_err() {
                    return;
                }
            }
            let _ = answers.send((process, Err(anyhow!("it ended without an answer"))));
        });
        orders.write_all((serde_json::to_string(job)? + "\n").as_bytes())?;
        Ok(Self { child, orders })
    }
}

/// What was sent to everybody in `phases`.
fn sent(scenario: &Scenario, phases: &[Phase]) -> Vec<Sent> {
    let (mut all, mut connected) = (Vec::<Sent>::new(), 0);
    for (plan, found) in scenario.phases.iter().zip(phases) {
        if let Some(count) = scenario.connected_after(plan) {
            connected = count;
            // Whoever leaves, and perhaps comes back, gets nothing of what was sent before.
            all.iter_mut().for_each(|sent| sent.connected = connected.min(sent.connected));
        }
        let loads = plan.loads.iter().zip(&found.loads).filter(|(plan, _)| plan.reaches_all());
        let broadcasts = loads.map(|(_, load)| load.all_sent).sum();
        all.push(Sent { broadcasts, connected });
    }
    all
}

/// What the processes found, as one phase; fails if a receipt is missing or one too many.
fn merge(scenario: &Scenario, plan: &scenario::Phase, done: Vec<Done>) -> Result<Phase> {
    let mut tallies = vec![Tally::default(); plan.loads.len()];
    let mut phase = Phase {
        name: plan.name.clone(),
        start: 0.0,
        seconds: 0.0,
        connections: 0,
        server: None,
        client: Usage::default(),
        samples: Vec::new(),
        loads: Vec::new(),
    };
    for Done { reading, loads } in done {
        for (all, one) in tallies.iter_mut().zip(&loads) {
            all.add(one);
        }
        phase.client.cpu_seconds += reading.client_cpu;
        for (at, sample) in reading.samples.into_iter().enumerate() {
            match phase.samples.get_mut(at) {
                None => phase.samples.push(sample),
                Some(all) => {
                    all.client_cpu_seconds += sample.client_cpu_seconds;
                    all.server_cpu_seconds += sample.server_cpu_seconds;
                    all.server_resident += sample.server_resident;
                }
            }
        }
        if reading.seconds > phase.seconds {
            phase.seconds = reading.seconds;
            phase.start = reading.opened as f64 / 1e9;
        }
    }
    for (load, tally) in plan.loads.iter().zip(tallies) {
        let Tally { all_sent, all_due, all_received, .. } = tally;
        ensure!(
            all_due == all_received || is_interrupted(),
            "load {}: {all_due} receipts were due and {all_received} came",
            load.name
        );
        let closed = load.rate.is_none() && load.kind != Kind::Idle;
        let Clients { count, asking, .. } = scenario.clients;
        let clients = if load.kind == Kind::Echo && asking > 0 { asking } else { count };
        phase.loads.push(Load {
            name: load.name.clone(),
            kind: load.kind,
            payload: if load.has_data() { load.payload() as u64 } else { 0 },
            rate: load.rate,
            in_flight: closed.then(|| load.in_flight(clients) as u64),
            finished: tally.finished,
            deliveries: tally.deliveries,
            all_sent,
            all_due,
            all_received,
            intervals: tally.intervals,
        });
    }
    Ok(phase)
}
