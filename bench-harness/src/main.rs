//! `bench-harness`: loads a Socket.IO server and says what its work costs.
//!
//! This file is the command line; the README says what is measured and how to read it.

mod ab;
mod client;
mod codec;
mod compare;
mod deflate;
mod engines;
mod event;
mod floor;
mod load;
mod message;
mod meter;
mod peers;
mod poller;
mod polling;
mod probe;
mod progress;
mod record;
mod report;
mod rows;
mod run;
mod scenario;
mod server;
mod shared;
mod stalled;
mod sys;
mod table;
mod worker;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use client::Wait;
use scenario::Scenario;

#[derive(Parser)]
#[command(version, about = "Loads a Socket.IO server and says what its work costs")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a scenario against a server, and say what its work costs
    Run(RunArguments),
    /// Print a scenario that comes along, to start one of your own from
    Scenario {
        #[arg(value_parser = ready_names())]
        name: String,
    },
    /// Show what runs have found: a table, a page with plots, interval logs
    Report(report::Arguments),
    /// Start each engine in turn, measure all of them, print a table of ratios to the floor
    Peers(peers::Arguments),
    /// Compare two builds by their records; exit status 1 says that the new one is worse
    Compare(compare::Arguments),
    /// Measure two builds of a server in turn, and compare them
    Ab(ab::Arguments),
    /// Be the floor: the server that does the least work the load allows
    Floor {
        #[arg(long, default_value = "127.0.0.1:4000")]
        listen: SocketAddr,
        /// Milliseconds from one ping of a client to the next
        #[arg(long, default_value_t = 25_000, value_parser = clap::value_parser!(u64).range(1..))]
        ping_interval: u64,
    },
    /// Be a client process of `run`
    #[command(hide = true)]
    Worker,
}

#[derive(clap::Args)]
struct RunArguments {
    /// A TOML file, or the name of one that comes along: ab, all, binary, churn, connect,
    /// deflate, echo, fanout, idle, mixed, overload, polling, rooms, stalled
    scenario: PathBuf,
    /// Where the server listens, HOST:PORT; without it the scenario has to start one
    #[arg(long, value_parser = address)]
    url: Option<SocketAddr>,
    /// The server's process, for its CPU time and memory
    #[arg(long, requires = "url")]
    pid: Option<u32>,
    /// What tables call the server
    #[arg(long)]
    label: Option<String>,
    /// Clients, instead of the scenario's number; larger rooms and more in flight shrink to it
    #[arg(long)]
    count: Option<usize>,
    /// Client processes, instead of the scenario's number
    #[arg(long)]
    processes: Option<usize>,
    /// Share of the clients that does not read, instead of the scenario's
    #[arg(long)]
    stalled: Option<f64>,
    /// Length of each phase that does not connect, instead of the scenario's
    #[arg(long, value_parser = positive)]
    seconds: Option<f64>,
    /// Pin the client processes to these CPUs, in turn
    #[arg(long, value_delimiter = ',', value_name = "CPU,…")]
    client_cpu: Vec<usize>,
    /// Pin the server that the scenario starts to this CPU
    #[arg(long, conflicts_with = "url")]
    server_cpu: Option<usize>,
    /// How the clients wait; spinning spares the server the wake-ups
    #[arg(long, value_enum)]
    wait: Option<Wait>,
    /// Also write the record here, for `report` and `compare`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    outputs: report::Outputs,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run(arguments),
        Command::Scenario { name } => print_scenario(&name),
        Command::Report(arguments) => report::run(&arguments).map(|()| 0),
        Command::Peers(arguments) => peers::run(arguments),
        Command::Compare(arguments) => return compare::run(&arguments),
        Command::Ab(arguments) => return ab::run(&arguments),
        Command::Floor { listen, ping_interval } => {
            floor::run(listen, Duration::from_millis(ping_interval)).map(|()| 0)
        }
        Command::Worker => worker::run().map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("bench-harness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// 0, or 130 if it was interrupted and the record is not complete.
fn run(arguments: RunArguments) -> Result<u8> {
    let mut scenario = Scenario::find(&arguments.scenario)?;
    arguments.change(&mut scenario);
    scenario.check()?;
    run::catch_interrupts()?;
    let outputs = &arguments.outputs;
    let keep = |record: &record::Record| {
        arguments.json.as_deref().map_or(Ok(()), |path| record.write(path))?;
        outputs.make(&[report::Labelled { label: &record.server, record }])
    };
    let record = match arguments.url {
        Some(address) => {
            let label = arguments.label.clone().unwrap_or_else(|| address.to_string());
            let target = run::Target { address, pid: arguments.pid, label };
            run::measure(&scenario, &target, &keep)?
        }
        None => run::with_server(&scenario, &keep)?,
    };
    if record.complete {
        return Ok(0);
    }
    eprintln!("bench-harness: interrupted; this is what was found until then");
    Ok(130)
}

impl RunArguments {
    /// What the command line says goes before what the scenario says.
    fn change(&self, scenario: &mut Scenario) {
        if let Some(count) = self.count {
            scenario.scale(count);
        }
        let clients = &mut scenario.clients;
        clients.stalled = self.stalled.unwrap_or(clients.stalled);
        clients.processes = self.processes.unwrap_or(clients.processes);
        clients.wait = self.wait.unwrap_or(clients.wait);
        if !self.client_cpu.is_empty() {
            clients.cpus.clone_from(&self.client_cpu);
        }
        for phase in &mut scenario.phases {
            phase.seconds = self.seconds.unwrap_or(phase.seconds);
        }
        if let Some(server) = &mut scenario.server {
            server.cpu = self.server_cpu.or(server.cpu);
            server.label = self.label.clone().or(server.label.take());
        }
    }
}

fn ready_names() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(scenario::READY.map(|(name, _)| name))
}

fn print_scenario(name: &str) -> Result<u8> {
    let found = scenario::READY.iter().find(|(ready, _)| *ready == name);
    print!("{}", found.context("no such scenario")?.1);
    Ok(0)
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("a number above 0".into()),
    }
}

/// `HOST:PORT`, with or without a scheme in front and a slash behind.
fn address(text: &str) -> Result<SocketAddr> {
    let bare = text.trim_start_matches("http://").trim_start_matches("ws://").trim_end_matches('/');
    ensure!(!bare.contains("://"), "only http:// and ws:// are spoken");
    let mut found = bare.to_socket_addrs().context("HOST:PORT is wanted")?;
    found.next().context("the host has no address")
}
