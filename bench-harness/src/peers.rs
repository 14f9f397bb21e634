//! `bench-harness peers`: all engines in turn, round after round, and the table of ratios.
//!
//! A round measures every engine once, in a fresh process for each set-up, so that no row has what
//! another one left behind. The order is turned by one from round to round. What a peer fails at
//! is said and left out; what the floor or corecast fails at ends the comparison.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::engines::{self, Engine, Places};
use crate::probe;
use crate::record::Record;
use crate::rows::{Measure, Numbers, Row, SETUPS, Setup, Shards};
use crate::run::{self, Target};
use crate::scenario::Scenario;
use crate::sys;
use crate::table::{Column, Table};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Connections of most rows
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(100..))]
    connections: u32,
    /// Connections of the rows of memory and growth
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1500..))]
    idle_connections: u32,
    /// Connections of the rows with many rooms; fewer if fewer files may be open
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(100..))]
    room_connections: u32,
    /// Length of each measurement
    #[arg(long, default_value_t = 2.0, value_parser = crate::positive)]
    seconds: f64,
    /// How often each engine is measured, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// One round of half a second per row, 1,000 connections, 2,000 where there are more: to try
    /// it out, not to believe it
    #[arg(
        long,
        conflicts_with_all =
            ["connections", "idle_connections", "room_connections", "seconds", "rounds"]
    )]
    quick: bool,
    /// Only these rows; an unknown one is answered by the list
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    rows: Vec<String>,
    /// Engines to measure, after the floor (default: those that are installed)
    #[arg(long, value_delimiter = ',', value_name = "ENGINE,…")]
    engines: Option<Vec<String>>,
    /// corecast's bench server (default: target/release/examples/bench_server, if it is there)
    #[arg(long, value_name = "PROGRAM")]
    corecast: Option<PathBuf>,
    /// Folder of the peers, `bench-harness/engines` of the source (default: where this program was
    /// built)
    #[arg(long, value_name = "FOLDER")]
    engines_in: Option<PathBuf>,
    /// Pin the servers to this CPU
    #[arg(long, value_name = "CPU")]
    server_cpu: Option<usize>,
    /// Pin the client to this CPU
    #[arg(long, value_name = "CPU")]
    client_cpu: Option<usize>,
    /// Also write the figures of all rounds here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the table here
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// What is to be done in every round.
pub(crate) struct Bench {
    pub(crate) numbers: Numbers,
    pub(crate) rounds: usize,
    pub(crate) server_cpu: Option<usize>,
    pub(crate) client_cpu: Option<usize>,
    /// Names of measures; all, if there are none.
    pub(crate) rows: Vec<String>,
}

/// All that was found, as it is written to JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    host: String,
    server_cpu: Option<usize>,
    rounds: usize,
    numbers: Numbers,
    table: Table,
    /// Why it ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

/// Measures, prints, and writes what is asked for. 0, 130 if it was interrupted, 1 if the floor or
/// corecast failed after something was found.
pub(crate) fn run(arguments: Arguments) -> Result<u8> {
    let places = Places { engines: arguments.engines_in, corecast: arguments.corecast };
    let engines = engines::installed(&places, arguments.engines.as_deref())?;
    let files = sys::raise_open_files().context("raise the limit of open files")?;
    let numbers = Numbers::new(
        arguments.seconds,
        [arguments.connections, arguments.idle_connections, arguments.room_connections],
        files,
    );
    let bench = Bench {
        numbers: if arguments.quick { Numbers::QUICK } else { numbers },
        rounds: if arguments.quick { 1 } else { arguments.rounds.into() },
        server_cpu: arguments.server_cpu,
        client_cpu: arguments.client_cpu,
        rows: arguments.rows,
    };
    run::catch_interrupts()?;
    let found = bench.run(&engines)?;
    print!("{}", found.markdown());
    let json = serde_json::to_string_pretty(&found)? + "\n";
    for (path, text) in [(arguments.json, json), (arguments.markdown, found.markdown())] {
        if let Some(path) = path {
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(if run::is_interrupted() { 130 } else { u8::from(found.failure.is_some()) })
}

/// Names of all measures, for errors and the command line's help.
pub(crate) fn names() -> Vec<&'static str> {
    SETUPS.iter().flat_map(|setup| setup.measures).map(|measure| measure.name).collect()
}

impl Bench {
    /// Runs all rounds; says on standard error how far it is.
    pub(crate) fn run(mut self, engines: &[Engine]) -> Result<Found> {
        for name in &self.rows {
            ensure!(names().contains(&name.as_str()), "no row {name}; there are {:?}", names());
        }
        if self.needs("{half") {
            self.find_capacity(&engines[0])?;
        }
        let rows: Vec<&Row> = SETUPS
            .iter()
            .flat_map(|setup| self.wanted(setup))
            .flat_map(|measure| measure.rows)
            .collect();
        let column = |engine: &Engine| Column { name: engine.label(), values: Vec::new() };
        let mut columns: Vec<Column> = engines.iter().map(column).collect();
        let mut failure = None;
        'rounds: for round in 0..self.rounds {
            for turn in 0..engines.len() {
                if run::is_interrupted() {
                    eprintln!("interrupted; this is what was found until then");
                    break 'rounds;
                }
                let index = (round + turn) % engines.len();
                let (engine, of) = (&engines[index], self.rounds);
                eprintln!("round {} of {of}: {}", round + 1, engine.label());
                let found = self.round(engine);
                let found = found.with_context(|| format!("{}, round {}", engine.name, round + 1));
                let found = match found {
                    Err(error) if round > 0 => {
                        eprintln!("{error:#}; this is what was found until then");
                        failure = Some(format!("{error:#}"));
                        break 'rounds;
                    }
                    found => found?,
                };
                let figures = rows.iter().map(|row| found.get(&key(row)).copied());
                columns[index].values.push(figures.collect());
            }
        }
        let rows = rows.iter().map(|row| row.line(&self.numbers)).collect();
        let table = Table { rows, columns };
        let (host, server_cpu) = (probe::host(), self.server_cpu);
        let (rounds, numbers) = (self.rounds, self.numbers);
        Ok(Found { host, server_cpu, rounds, numbers, table, failure })
    }

    fn wanted(&self, setup: &'static Setup) -> impl Iterator<Item = &'static Measure> {
        let is_wanted = |name| self.rows.is_empty() || self.rows.iter().any(|row| row == name);
        setup.measures.iter().filter(move |measure| is_wanted(measure.name))
    }

    fn needs(&self, number: &str) -> bool {
        let mut measures = SETUPS.iter().flat_map(|setup| self.wanted(setup));
        measures.any(|measure| measure.phases.contains(number))
    }

    /// Half of what the floor can, one at a time and with eight in flight.
    fn find_capacity(&mut self, floor: &Engine) -> Result<()> {
        let names = ["fanout-1", "fanout-8"];
        let setup = &SETUPS[0];
        let measures = setup.measures.iter().filter(|measure| names.contains(&measure.name));
        let record = self.measure(floor, setup, &measures.collect::<Vec<_>>())?;
        let [one, eight] = names.map(|name| {
            let phase = record.phases.iter().find(|phase| phase.name == name);
            phase.map_or(0.0, |phase| phase.deliveries() as f64 / phase.seconds)
        });
        let clients = self.numbers.clients as f64;
        (self.numbers.half, self.numbers.half_8) = (one / clients / 2.0, eight / clients / 2.0);
        eprintln!("the floor's capacity: {one:.0} deliveries/s, {eight:.0}/s with 8 in flight");
        Ok(())
    }

    /// Every figure of one engine, by the key of its row.
    fn round(&self, engine: &Engine) -> Result<BTreeMap<String, f64>> {
        let mut figures = BTreeMap::new();
        for setup in &SETUPS {
            let measures: Vec<&Measure> = self.wanted(setup).collect();
            if run::is_interrupted() {
                break;
            }
            if measures.is_empty() || !setup.who.has(engine.name) {
                continue;
            }
            let record = match self.measure(engine, setup, &measures) {
                Ok(record) => record,
                Err(_) if run::is_interrupted() => break,
                Err(error) if engine.is_peer() => {
                    eprintln!("{} fails: {error:#}", engine.name);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !record.complete {
                break;
            }
            for row in measures.iter().flat_map(|measure| measure.rows) {
                let phase = record.phases.iter().find(|phase| phase.name == row.phase);
                if let Some(figure) = phase.and_then(|phase| row.figure(phase)) {
                    eprintln!("  {}: {figure:.3} {}", row.line(&self.numbers).title, row.unit);
                    figures.insert(key(row), figure);
                }
            }
        }
        Ok(figures)
    }

    fn measure(&self, engine: &Engine, setup: &Setup, measures: &[&Measure]) -> Result<Record> {
        let mut text = format!("[clients]\n{}\n", setup.clients);
        if let (Some(cpu), Shards::Alone) = (self.client_cpu, setup.shards) {
            text += &format!("cpus = [{cpu}]\n");
        }
        for measure in measures {
            text += measure.phases;
        }
        let scenario = Scenario::parse(&self.numbers.fill(&text), measures[0].name)?;
        let mut server = engine.start(self.server_cpu, setup.ping_interval, setup.shards)?;
        let pid = Some(server.pid());
        let target = Target { address: server.address, pid, label: engine.label() };
        run::measure(&scenario, &target, &|_| Ok(())).map_err(|error| match server.ended() {
            Some(ended) => error.context(format!("the server {ended}")),
            None => error,
        })
    }
}

impl Found {
    /// What was measured, where, in one paragraph; then the table.
    pub(crate) fn markdown(&self) -> String {
        let Numbers { seconds, clients, idle, half, .. } = self.numbers;
        let cpu = match self.server_cpu {
            Some(cpu) => format!("the server on CPU {cpu} alone"),
            None => "nothing pinned".into(),
        };
        let half = if half > 0.0 {
            format!(" Half of what the floor can: {half:.1} broadcasts a second.")
        } else {
            String::new()
        };
        format!(
            "{clients} connections over loopback, 128 bytes of data unless said, {cpu}; {} rounds \
             of {seconds} s per row in turn, memory at {idle} connections. Median, and its ratio \
             to the floor's figure of the same round (lowest–highest).{half} {}.\n\n{}",
            self.rounds,
            self.host,
            self.table.markdown()
        )
    }
}

/// What tells a row from the others.
fn key(row: &Row) -> String {
    format!("{} {}", row.phase, row.title)
}
