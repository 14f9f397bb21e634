//! The engines of the comparison: how each is started, and the rounds in which they take turns.
//!
//! A round measures every engine once, each in two fresh processes: one for the loads, one for
//! the memory row, so that no engine's memory has been through a load before. The order is
//! turned by one from round to round.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::client::Wait;
use crate::probe;
use crate::record::Record;
use crate::run::{self, Target};
use crate::scenario::Scenario;
use crate::server::Server;
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
    pub(crate) connections: usize,
    /// Bytes of data in each event.
    pub(crate) payload: usize,
    pub(crate) seconds: f64,
    pub(crate) client_cpu: Option<usize>,
    pub(crate) wait: Wait,
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
        let (connections, payload) = (self.connections, self.payload);
        // A fifth connects and leaves first, so that the server has run its handshake code.
        let loads = format!(
            "[[phase]]\nname = \"first\"\nload = [{{ kind = \"connect\", count = {} }}]\n\
             [[phase]]\nname = \"gone\"\nload = [{{ kind = \"connect\", count = 0 }}]\n\
             [[phase]]\nname = \"connect\"\nload = [{{ kind = \"connect\" }}]\n\
             [[phase]]\nname = \"fanout-1\"\n\
             load = [{{ kind = \"fanout\", payload = {payload}, in_flight = 1 }}]\n\
             [[phase]]\nname = \"fanout-8\"\n\
             load = [{{ kind = \"fanout\", payload = {payload}, in_flight = 8 }}]\n\
             [[phase]]\nname = \"echo\"\n\
             load = [{{ kind = \"echo\", payload = {payload}, in_flight = {} }}]\n",
            connections.div_ceil(5),
            connections.min(256)
        );
        let mut figures = [0.0; ROWS.len()];
        let loaded = self.measure(engine, connections, &loads)?;
        for (figure, name) in figures.iter_mut().zip(["connect", "fanout-1", "fanout-8", "echo"]) {
            let phase = loaded.phases.iter().find(|phase| phase.name == name);
            let cpu = phase.and_then(|phase| phase.cpu_per_delivery());
            *figure = cpu.map_or(f64::NAN, |seconds| seconds * 1e6);
        }
        let idle = self.measure(engine, self.idle_connections, "")?;
        let memory = idle.phases.first().and_then(|phase| phase.memory_per_connection());
        figures[ROWS.len() - 1] = memory.unwrap_or(f64::NAN);
        Ok(figures)
    }

    /// What `phases` find of a new process of the engine.
    fn measure(&self, engine: &Engine, count: usize, phases: &str) -> Result<Record> {
        let mut scenario =
            Scenario::parse(&format!("[clients]\ncount = {count}\n{phases}"), "table")?;
        scenario.clients.cpus.extend(self.client_cpu);
        scenario.clients.wait = self.wait;
        for phase in &mut scenario.phases {
            phase.seconds = self.seconds;
        }
        let mut command = vec![engine.program.display().to_string()];
        command.extend(engine.arguments.iter().cloned());
        command.push("{address}".into());
        if engine.name == "corecast" {
            command.extend(["--cpus".into(), self.server_cpu.unwrap_or(0).to_string()]);
        }
        let server = Server::start(&command, self.server_cpu)?;
        let pid = Some(server.pid());
        let label = engine.name.to_owned();
        let record = run::measure(&scenario, &Target { address: server.address, pid, label })?;
        ensure!(record.complete, "interrupted");
        Ok(record)
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
            self.connections,
            self.payload,
            cpu,
            self.rounds,
            self.seconds,
            self.idle_connections,
            probe::host(),
            columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
        )
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
