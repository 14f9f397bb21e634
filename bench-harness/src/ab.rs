//! `ab`: two builds of a server measured in turn, and compared as soon as the figures are clear.
//!
//! A round runs the scenario on both builds, each in a fresh process on the same CPU with fresh
//! client processes, and leaves a record of each. Odd rounds start with the base, even ones
//! with the new build (base, new, new, base, …), so that neither what a machine does over minutes
//! nor what the first leaves to the second favours one of them.
//!
//! After some rounds `compare` looks. It stops when a gate is worse or none can be, else it goes on
//! to the next look, up to the last. Each look could be a false alarm, so each gets its share of
//! the probability: Bonferroni, whatever the noise and however rounds depend on each other. Ctrl-C
//! is a look too, the last one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::compare::{self, Comparison, Found, Output};
use crate::record::Record;
use crate::run::{self, Target};
use crate::scenario::Scenario;
use crate::server::Server;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Server binary of the old build
    #[arg(long, value_name = "PROGRAM")]
    base_bin: PathBuf,
    /// Server binary of the new build
    #[arg(long, value_name = "PROGRAM")]
    new_bin: PathBuf,
    /// What tables call the old build
    #[arg(long, default_value = "base")]
    base_name: String,
    /// What tables call the new build
    #[arg(long, default_value = "new")]
    new_name: String,
    /// Arguments of both binaries; {address} is where to listen, {cpu} is --server-cpu or 0
    #[arg(long, default_value = "--listen {address} --cpus {cpu}", allow_hyphen_values = true)]
    args: String,
    /// Further arguments of the old build
    #[arg(long, default_value = "", allow_hyphen_values = true, hide_default_value = true)]
    base_args: String,
    /// Further arguments of the new build
    #[arg(long, default_value = "", allow_hyphen_values = true, hide_default_value = true)]
    new_args: String,
    /// Pin the servers to this CPU (default: not pinned)
    #[arg(long)]
    server_cpu: Option<usize>,
    /// Rounds before the first look at the figures
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Rounds after which the last look is taken, however unsure
    #[arg(long, default_value_t = 40)]
    max_rounds: usize,
    /// Where the records go: base/N.json and new/N.json
    #[arg(long, value_name = "DIR", default_value = "ab")]
    out: PathBuf,
    #[command(flatten)]
    output: Output,
    /// Clients, instead of the scenario's number
    #[arg(long)]
    count: Option<usize>,
    /// Length of each phase that does not connect, instead of the scenario's
    #[arg(long, value_parser = crate::positive)]
    seconds: Option<f64>,
    /// Pin the client processes to these CPUs, in turn
    #[arg(long, value_delimiter = ',', value_name = "CPU,…")]
    client_cpu: Vec<usize>,
    /// A TOML file, or the name of a scenario that comes along, as for `run`
    scenario: PathBuf,
}

/// One of the two.
struct Side<'a> {
    name: &'a str,
    command: Vec<String>,
    records: PathBuf,
}

/// Measures, prints, writes; the exit status is that of `compare`, or 130 after an interruption.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let found = arguments.measure();
    let interrupted = match &found {
        Ok(found) => found.comparison.interrupted,
        Err(_) => run::is_interrupted(),
    };
    let status = compare::conclude(found, &arguments.output);
    if !interrupted {
        return status;
    }
    let out = arguments.out.display();
    eprintln!("bench-harness: interrupted; `compare {out}/base {out}/new` judges what is there");
    ExitCode::from(130)
}

/// The numbers of rounds after which figures are looked at: from `first` on half as many again
/// each time, up to `last`.
pub(crate) fn looks(first: usize, last: usize) -> Vec<usize> {
    let next = |at: &usize| (*at < last).then(|| (at + at.div_ceil(2)).min(last));
    std::iter::successors(Some(first.min(last)), next).collect()
}

impl Arguments {
    fn measure(&self) -> Result<Found> {
        ensure!(self.rounds > 1, "--rounds is {}; it takes more to compare", self.rounds);
        let (scenario, thresholds) = (self.scenario()?, self.output.thresholds()?);
        compare::check(&scenario, &thresholds)?;
        let base = self.side(&self.base_name, &self.base_bin, &self.base_args, "base")?;
        let new = self.side(&self.new_name, &self.new_bin, &self.new_args, "new")?;
        run::catch_interrupts()?;
        let looks = looks(self.rounds, self.max_rounds.max(self.rounds));
        let (mut rounds, mut look) = (Vec::new(), 0);
        loop {
            while rounds.len() < looks[look] && !run::is_interrupted() {
                eprintln!("round {} of {}", rounds.len() + 1, looks[look]);
                match self.round(rounds.len() + 1, &scenario, &base, &new) {
                    // Whatever it says: what is cut short may fail at anything.
                    Err(_) if run::is_interrupted() => {}
                    round => rounds.push(round?),
                }
            }
            ensure!(!rounds.is_empty(), "interrupted before the first round was complete");
            let mut comparison = Comparison::of(&rounds, &thresholds, looks.len())?;
            comparison.interrupted = rounds.len() < looks[look];
            look += 1;
            if comparison.interrupted || comparison.decided() || look == looks.len() {
                return Ok(Found { comparison, rounds });
            }
            eprintln!("{} rounds: {}, going on", rounds.len(), comparison.headline());
        }
    }

    fn scenario(&self) -> Result<Scenario> {
        let mut scenario = Scenario::find(&self.scenario)?;
        if let Some(count) = self.count {
            scenario.scale(count);
        }
        if !self.client_cpu.is_empty() {
            scenario.clients.cpus.clone_from(&self.client_cpu);
        }
        for phase in &mut scenario.phases {
            phase.seconds = self.seconds.unwrap_or(phase.seconds);
        }
        scenario.check()?;
        Ok(scenario)
    }

    fn side<'a>(
        &self,
        name: &'a str,
        program: &Path,
        arguments: &str,
        folder: &str,
    ) -> Result<Side<'a>> {
        ensure!(program.is_file(), "{} is not there: build it first", program.display());
        let records = self.out.join(folder);
        fs::create_dir_all(&records).with_context(|| format!("create {}", records.display()))?;
        ensure!(
            fs::read_dir(&records)?.next().is_none(),
            "{} has records of an earlier run: remove it, or give another --out",
            records.display()
        );
        let cpu = self.server_cpu.unwrap_or(0).to_string();
        let words = self.args.split_whitespace().chain(arguments.split_whitespace());
        // A name without a folder would be looked for in PATH.
        let program = std::path::absolute(program)?;
        let mut command = vec![program.display().to_string()];
        command.extend(words.map(|word| word.replace("{cpu}", &cpu)));
        Ok(Side { name, command, records })
    }

    /// Measures both builds, in an order that alternates.
    fn round(
        &self,
        number: usize,
        scenario: &Scenario,
        base: &Side<'_>,
        new: &Side<'_>,
    ) -> Result<(Record, Record)> {
        let turn = |side: &Side<'_>| {
            let what = || format!("round {number}, {}", side.name);
            self.turn(number, scenario, side).with_context(what)
        };
        if number % 2 == 1 {
            let base = turn(base)?;
            Ok((base, turn(new)?))
        } else {
            let new = turn(new)?;
            Ok((turn(base)?, new))
        }
    }

    /// Measures one build in a fresh process; the record is also left in the side's folder.
    fn turn(&self, number: usize, scenario: &Scenario, side: &Side<'_>) -> Result<Record> {
        let server = Server::start(&side.command, self.server_cpu)?;
        let (address, pid) = (server.address, Some(server.pid()));
        let target = Target { address, pid, label: side.name.into() };
        let record = run::measure(scenario, &target, &|_| Ok(()))?;
        ensure!(record.complete, "interrupted");
        record.write(&side.records.join(format!("{number}.json")))?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_few_and_end_at_the_last_round() {
        assert_eq!(looks(20, 40), [20, 30, 40]);
        assert_eq!(looks(20, 20), [20]);
        assert_eq!(looks(8, 9), [8, 9]);
        assert_eq!(looks(2, 10), [2, 3, 5, 8, 10]);
    }
}
