//! `bench-harness`: loads a Socket.IO server and says what its work costs.
//!
//! This file is the command line; the README says what is measured and how to read it.

mod client;
mod codec;
mod deflate;
mod engines;
mod floor;
mod ledger;
mod load;
mod message;
mod poller;
mod polling;
mod probe;
mod record;
mod report;
mod sys;
mod table;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use client::{Dialect, Transport, Wait};
use codec::Data;
use load::Plan;
use probe::Probe;
use record::{Kind, Record};

#[derive(Parser)]
#[command(version, about = "Loads a Socket.IO server and says what its work costs")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure a server that runs already
    Run(RunArguments),
    /// Show what runs have found: a table, a page with plots, interval logs
    Report(report::Arguments),
    /// Start each engine in turn, measure all of them, print a Markdown table
    Table(TableArguments),
    /// Be the floor: the server that does the least work the load allows
    Floor {
        #[arg(long, default_value = "127.0.0.1:4000")]
        listen: SocketAddr,
        /// Milliseconds from one ping of a client to the next
        #[arg(long, default_value_t = 25_000, value_parser = clap::value_parser!(u64).range(1..))]
        ping_interval: u64,
    },
}

#[derive(clap::Args)]
struct LoadArguments {
    /// Connections that receive every broadcast
    #[arg(long, default_value_t = 5000)]
    connections: usize,
    /// Bytes of data in each event, at least 16
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(16..))]
    payload: u16,
    /// Length of each measurement
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    seconds: f64,
    /// Pin the client to this CPU
    #[arg(long)]
    client_cpu: Option<usize>,
    /// How the client waits; spinning spares the server the wake-ups
    #[arg(long, value_enum, default_value = "spin")]
    wait: Wait,
    /// What the clients speak
    #[arg(long, value_enum, default_value = "websocket")]
    transport: Transport,
    /// Offer permessage-deflate; the server has to accept it
    #[arg(long)]
    deflate: bool,
    /// What the data of events is
    #[arg(long, value_enum, default_value = "text")]
    data: Data,
    /// Also write the results here
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(clap::Args)]
struct RunArguments {
    /// Where the server listens
    #[arg(long, default_value = "127.0.0.1:4000")]
    url: SocketAddr,
    /// The server's process
    #[arg(long)]
    pid: u32,
    #[arg(long, value_enum, default_value = "all")]
    mode: Mode,
    /// Messages in flight; by default 1 broadcast, 256 echoes; ignored by mode all
    #[arg(long)]
    in_flight: Option<usize>,
    /// Messages per second, sent on schedule (default: one whenever one finishes)
    #[arg(long, value_parser = positive)]
    rate: Option<f64>,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    outputs: report::Outputs,
}

#[derive(clap::Args)]
struct TableArguments {
    /// How often each engine is measured, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Connections of the memory row
    #[arg(long, default_value_t = 15_000)]
    idle_connections: usize,
    /// Pin the servers to this CPU
    #[arg(long)]
    server_cpu: Option<usize>,
    /// corecast's bench server (default: target/release/examples/bench_server, if it is there)
    #[arg(long)]
    corecast: Option<PathBuf>,
    /// Engines to measure, after the floor (default: those that are installed)
    #[arg(long, value_delimiter = ',')]
    engines: Option<Vec<String>>,
    #[command(flatten)]
    load: LoadArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Connect,
    Idle,
    Fanout,
    Echo,
    All,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Table(arguments) => table(&arguments),
        Command::Floor { listen, ping_interval } => {
            floor::run(listen, Duration::from_millis(ping_interval))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-harness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl LoadArguments {
    fn plan(&self, rate: Option<f64>) -> Result<Plan> {
        sys::raise_open_files().context("raise the limit of open files")?;
        if let Some(cpu) = self.client_cpu {
            sys::pin_to(cpu).with_context(|| format!("pin the client to CPU {cpu}"))?;
        }
        Ok(Plan {
            connections: self.connections,
            payload: self.payload.into(),
            seconds: self.seconds,
            rate,
            wait: self.wait,
            dialect: Dialect { transport: self.transport, deflate: self.deflate },
            data: self.data,
            began: Instant::now(),
        })
    }
}

fn run(arguments: &RunArguments) -> Result<()> {
    let (mode, target) = (arguments.mode, arguments.url);
    let probe = Probe::new(arguments.pid)?;
    let plan = arguments.load.plan(arguments.rate)?;
    load::check_limits(plan.connections, &probe)?;
    let (mut client, connected) = load::connect(target, &plan, &probe)?;
    let mut phases = vec![connected];
    if matches!(mode, Mode::Idle | Mode::All) {
        phases.push(load::idle(&mut client, &plan, &probe)?);
    }
    let one = match mode {
        Mode::Fanout => Some(("fanout", Kind::Fanout, arguments.in_flight.unwrap_or(1))),
        Mode::Echo => Some(("echo", Kind::Echo, arguments.in_flight.unwrap_or(256))),
        _ => None,
    };
    let all = load::ALL.into_iter().filter(|_| mode == Mode::All);
    let all = all.map(|(name, kind, in_flight)| (name, kind, in_flight.min(plan.connections)));
    for load in one.into_iter().chain(all) {
        let found = load::run(&mut client, load, &plan, &probe);
        phases.push(found.with_context(|| format!("{}, {} in flight", load.0, load.2))?);
    }
    let record = Record {
        format: record::FORMAT,
        scenario: format!("{mode:?}").to_lowercase(),
        server: target.to_string(),
        began: (SystemTime::now().duration_since(UNIX_EPOCH)? - plan.began.elapsed()).as_secs_f64(),
        complete: true,
        harness: env!("CARGO_PKG_VERSION").into(),
        host: probe::host(),
        connections: client.len() as u64,
        processes: 1,
        phases,
    };
    arguments.load.json.as_deref().map_or(Ok(()), |path| record.write(path))?;
    arguments.outputs.make(&[report::Labelled { label: &record.server, record: &record }])
}

fn table(arguments: &TableArguments) -> Result<()> {
    let plan = arguments.load.plan(None)?;
    let corecast = arguments.corecast.as_deref();
    let engines = engines::installed(corecast, arguments.engines.as_deref())?;
    let bench = engines::Bench {
        plan,
        idle_connections: arguments.idle_connections,
        server_cpu: arguments.server_cpu,
        rounds: arguments.rounds.into(),
    };
    let columns = bench.run(&engines)?;
    println!("{}", bench.heading(&columns));
    print!("{}", table::table(&engines::ROWS, &columns));
    write_json(arguments.load.json.as_deref(), &(probe::host(), engines::ROWS, columns))
}

fn write_json(path: Option<&Path>, value: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(value)?;
    std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("a number above 0".into()),
    }
}
