//! The engines of the comparison, and how each is started.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::rows::Shards;
use crate::server::Server;

/// Names of all engines, in the order of the table.
const NAMES: [&str; 5] = ["floor", "corecast", "socket.io", "socketioxide", "python-socketio"];

/// A server that can be started.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    version: String,
    /// Program and first arguments.
    command: Vec<String>,
    /// What is there when it is installed.
    proof: PathBuf,
}

impl Engine {
    /// What tables call it.
    pub(crate) fn label(&self) -> String {
        format!("{} {}", self.name, self.version).trim().into()
    }

    /// Whether it is one of those that others have written.
    pub(crate) fn is_peer(&self) -> bool {
        !["floor", "corecast"].contains(&self.name)
    }

    /// Starts it on CPU `cpu`, or as `shards` says.
    pub(crate) fn start(
        &self,
        cpu: Option<usize>,
        ping_interval: u32,
        shards: Shards,
    ) -> Result<Server> {
        let mut command = self.command.clone();
        let options = ["--listen", "{address}", "--ping-interval", &ping_interval.to_string()];
        command.extend(options.map(String::from));
        let (cpus, cpu) = match shards {
            Shards::Alone => (cpu.unwrap_or(0).to_string(), cpu),
            Shards::Sharing(count) => {
                ((0..count).map(|cpu| cpu.to_string()).collect::<Vec<_>>().join(","), None)
            }
        };
        if self.name == "corecast" {
            command.extend(["--cpus".into(), cpus]);
        }
        Server::start(&command, cpu)
    }
}

/// Where engines are, if not where this program was built.
#[derive(Default)]
pub(crate) struct Places {
    /// `bench-harness/engines` of the source.
    pub(crate) engines: Option<PathBuf>,
    /// Our bench server.
    pub(crate) corecast: Option<PathBuf>,
}

/// The floor and the engines that are there; those in `wanted` must be. Who is not there is said
/// on standard error.
pub(crate) fn installed(places: &Places, wanted: Option<&[String]>) -> Result<Vec<Engine>> {
    for name in wanted.into_iter().flatten() {
        ensure!(NAMES.contains(&name.as_str()), "no engine {name}; there are {NAMES:?}");
    }
    let is_wanted = |name: &str| wanted.map(|names| names.iter().any(|wanted| wanted == name));
    let mut engines = Vec::new();
    for engine in all(places)? {
        let is_there = engine.proof.exists();
        let is_asked_for = match engine.name {
            "floor" => Some(true),
            "corecast" if places.corecast.is_some() => Some(true),
            name => is_wanted(name),
        };
        let fix = if engine.name == "corecast" {
            "`cargo build --release --example bench_server`, or --corecast"
        } else {
            "`scripts/peers.sh --install-only` in corecast's source, or --engines-in"
        };
        let missing = format!("{} is not installed: {fix}", engine.name);
        ensure!(is_there || is_asked_for != Some(true), "{missing}");
        if !is_there && is_asked_for.is_none() {
            eprintln!("{missing}; left out");
        }
        if is_there && is_asked_for.unwrap_or(true) {
            engines.push(engine);
        }
    }
    Ok(engines)
}

fn all(places: &Places) -> Result<[Engine; 5]> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours = places.corecast.clone();
    let ours = ours.unwrap_or_else(|| source.join("../target/release/examples/bench_server"));
    let floor = std::env::current_exe()?;
    let engines = places.engines.clone().unwrap_or_else(|| source.join("engines"));
    let (node, rust, python) =
        (engines.join("node"), engines.join("socketioxide"), engines.join("python"));
    let oxide = rust.join("target/release/socketioxide-bench");
    let words = |words: &[&Path]| words.iter().map(|word| word.display().to_string()).collect();
    Ok([
        Engine {
            name: NAMES[0],
            version: env!("CARGO_PKG_VERSION").into(),
            command: words(&[&floor, Path::new("floor")]),
            proof: floor,
        },
        Engine { name: NAMES[1], version: String::new(), command: words(&[&ours]), proof: ours },
        Engine {
            name: NAMES[2],
            version: node_version(&node),
            command: words(&[Path::new("node"), &node.join("server.mjs")]),
            proof: node.join("node_modules/socket.io"),
        },
        Engine {
            name: NAMES[3],
            version: lock_version(&rust.join("Cargo.lock"), NAMES[3]),
            command: words(&[&oxide]),
            proof: oxide,
        },
        Engine {
            name: NAMES[4],
            version: pip_version(&python.join("requirements.txt"), NAMES[4]),
            command: words(&[&python.join("venv/bin/python"), &python.join("server.py")]),
            proof: python.join("venv/bin/python"),
        },
    ])
}

/// The version of an npm package that is installed.
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

/// The version of `package` that a file of requirements pins.
fn pip_version(path: &Path, package: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("=="));
    line.unwrap_or_default().into()
}
