//! The engines of the comparison: how each is started, and the rounds in which they take turns.
//!
//! A round measures every engine once, each in two fresh processes: one for the loads, one for
//! the memory row, so that no engine's memory has been through a load before. The order is
//! turned by one from round to round.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::load::{self, Plan};
use crate::probe::{self, Probe};
use crate::record::Phase;
use crate::sys;
use crate::table::{Column, Row};

/// The rows of the table, in the order in which a round yields their figures.
pub(crate) const ROWS: [Row; 5] = [
    row("connect, upgrade and join the namespace, per connection", "µs", 1, true),
    row("fan-out, one broadcast at a time, per delivery", "µs", 2, true),
    row("fan-out, 8 broadcasts in flight, per delivery", "µs", 3, true),
    row("echo, 256 in flight, per echo", "µs", 2, true),
    // The floor keeps next to nothing; to divide by it would say nothing.
    row("memory per idle connection", "B", 0, false),
];

const fn row(title: &'static str, unit: &'static str, decimals: usize, relative: bool) -> Row {
    Row { title, unit, decimals, relative }
}

/// A server that can be started.
pub(crate) struct Engine {
    name: &'static str,
    version: String,
    program: PathBuf,
    arguments: Vec<String>,
}

/// What is to be done in every round.
pub(crate) struct Bench {
    pub(crate) plan: Plan,
    pub(crate) idle_connections: usize,
    pub(crate) server_cpu: Option<usize>,
    pub(crate) rounds: usize,
}

/// The floor and the engines that are there; those in `wanted` must be.
pub(crate) fn installed(corecast: Option<&Path>, wanted: Option<&[String]>) -> Result<Vec<Engine>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let floor = Engine {
        name: "floor",
        version: env!("CARGO_PKG_VERSION").into(),
        program: std::env::current_exe()?,
        arguments: ["floor", "--listen"].map(String::from).into(),
    };
    let ours = here.join("../target/release/examples/bench_server");
    let node = here.join("engines/node");
    let rust = here.join("engines/socketioxide");
    let python = here.join("engines/python");
    let candidates = [
        Engine {
            name: "corecast",
            version: String::new(),
            program: corecast.map_or(ours, Path::to_path_buf),
            arguments: vec!["--listen".into()],
        },
        Engine {
            name: "socket.io",
            version: node_version(&node),
            program: "node".into(),
            arguments: vec![node.join("server.mjs").display().to_string(), "--listen".into()],
        },
        Engine {
            name: "socketioxide",
            version: lock_version(&rust.join("Cargo.lock"), "socketioxide"),
            program: rust.join("target/release/socketioxide-bench"),
            arguments: vec!["--listen".into()],
        },
        Engine {
            name: "python-socketio",
            version: pip_version(&python, "python-socketio"),
            program: python.join("venv/bin/python"),
            arguments: vec![python.join("server.py").display().to_string(), "--listen".into()],
        },
    ];
    let mut engines = vec![floor];
    for engine in candidates {
        let there = match engine.name {
            "socket.io" => node.join("node_modules/socket.io").exists(),
            _ => engine.program.exists(),
        };
        let asked = wanted.map(|names| names.iter().any(|name| name == engine.name));
        ensure!(
            there || asked != Some(true) && (engine.name != "corecast" || corecast.is_none()),
            "{} is not installed ({}): peers come with scripts/peers.sh, corecast with \
             `cargo build --release --example bench_server`",
            engine.name,
            engine.program.display()
        );
        if there && asked.unwrap_or(true) {
            engines.push(engine);
        }
    }
    for name in wanted.into_iter().flatten() {
        let known = ["floor", "corecast", "socket.io", "socketioxide", "python-socketio"];
        ensure!(known.contains(&name.as_str()), "no engine {name}; there are {known:?}");
    }
    Ok(engines)
}

impl Bench {
    /// Runs all rounds; says on standard error how far it is.
    pub(crate) fn run(&self, engines: &[Engine]) -> Result<Vec<Column>> {
        let mut columns: Vec<Column> = engines
            .iter()
            .map(|engine| Column {
                name: format!("{} {}", engine.name, engine.version).trim().into(),
                version: engine.version.clone(),
                values: vec![Vec::new(); ROWS.len()],
            })
            .collect();
        for round in 0..self.rounds {
            for turn in 0..engines.len() {
                let index = (round + turn) % engines.len();
                let name = engines[index].name;
                let figures = self
                    .round(&engines[index])
                    .with_context(|| format!("{name}, round {}", round + 1))?;
                eprintln!("round {} of {}: {name} {figures:.3?}", round + 1, self.rounds);
                for (values, figure) in columns[index].values.iter_mut().zip(figures) {
                    values.push(figure);
                }
            }
        }
        Ok(columns)
    }

    /// One figure for each of `ROWS`.
    fn round(&self, engine: &Engine) -> Result<[f64; ROWS.len()]> {
        let mut figures = [0.0; ROWS.len()];
        let server = Server::start(engine, self.server_cpu)?;
        let probe = Probe::new(server.child.id())?;
        load::check_limits(self.plan.connections, &probe)?;
        load::warm_up(server.address, &self.plan)?;
        let (mut client, connected) = load::connect(server.address, &self.plan, &probe)?;
        figures[0] = cpu_us(&connected);
        for (figure, (name, kind, in_flight)) in figures[1..].iter_mut().zip(load::ALL) {
            let in_flight = in_flight.min(self.plan.connections);
            let found = load::run(&mut client, (name, kind, in_flight), &self.plan, &probe);
            *figure = cpu_us(&found.context(name)?);
        }
        drop((client, server));

        let server = Server::start(engine, self.server_cpu)?;
        let probe = Probe::new(server.child.id())?;
        load::check_limits(self.idle_connections, &probe)?;
        let plan = Plan { connections: self.idle_connections, ..self.plan };
        let (_client, connected) = load::connect(server.address, &plan, &probe)?;
        figures[ROWS.len() - 1] = connected.memory_per_connection().unwrap_or(f64::NAN);
        Ok(figures)
    }

    /// What was measured, where, in one paragraph.
    pub(crate) fn heading(&self, columns: &[Column]) -> String {
        let cpu = match self.server_cpu {
            Some(cpu) => format!("the server on CPU {cpu} alone"),
            None => "nothing pinned".into(),
        };
        format!(
            "{} connections over loopback, {} bytes of data, {}; {} rounds of {} s per row in \
             turn, memory at {} connections. Median, and its ratio to the floor's figure of the \
             same round (lowest–highest). {}. Engines: {}.\n",
            self.plan.connections,
            self.plan.payload,
            cpu,
            self.rounds,
            self.plan.seconds,
            self.idle_connections,
            probe::host(),
            columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
        )
    }
}

fn cpu_us(phase: &Phase) -> f64 {
    phase.cpu_per_delivery().map_or(f64::NAN, |seconds| seconds * 1e6)
}

/// A running engine; ends with this value.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(engine: &Engine, cpu: Option<usize>) -> Result<Self> {
        // A port that is free now; whoever takes it in between makes the start fail loudly.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(&engine.program);
        command.args(&engine.arguments).arg(address.to_string()).stdout(Stdio::null());
        if engine.name == "corecast" {
            command.args(["--cpus", &cpu.unwrap_or(0).to_string()]);
        }
        sys::confine(&mut command, cpu);
        let child = command
            .spawn()
            .with_context(|| format!("start {}: is it installed?", engine.program.display()))?;
        let mut server = Self { child, address };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended at once: {status}; its error is above", engine.name);
            }
            if started.elapsed() > Duration::from_secs(10) {
                bail!("{} does not listen on {address} after 10 s", engine.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        Ok(server)
    }
}

impl Drop for Server {
    /// Asks it to end, then makes it.
    fn drop(&mut self) {
        let _ = sys::terminate(self.child.id());
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(2) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn node_version(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("node_modules/socket.io/package.json"));
    let package: serde_json::Value =
        text.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    package["version"].as_str().unwrap_or_default().into()
}

/// The version of `package` in a Cargo lock file.
fn lock_version(path: &Path, package: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let name = format!("name = \"{package}\"\nversion = \"");
    text.split_once(&name)
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or(String::new(), |(version, _)| version.into())
}

/// The version of `package` that a folder's requirements pin.
fn pip_version(folder: &Path, package: &str) -> String {
    let text = std::fs::read_to_string(folder.join("requirements.txt")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("=="));
    line.unwrap_or_default().into()
}
