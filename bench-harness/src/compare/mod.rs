//! `compare`: two builds, judged from rounds in which both were measured.
//!
//! Every figure of a round of one build is divided by the other's of the same round; `stats` says
//! what the ratios of all rounds speak for, `thresholds` what of it matters. A verdict is passed
//! only when the whole interval is on one side, so noise leads to "unsure" and not to a failure.
//! Only metrics that gate decide, and what `silence` finds: loads that one side did not serve at
//! all. The probability of a false alarm is divided among them, and among the looks of `ab`, so
//! that it holds for all together (Bonferroni).

mod html;
mod markdown;
mod silence;
pub(crate) mod stats;
mod text;
mod thresholds;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::record::{Kind, Load, Phase, Record};
use crate::report::{Labelled, Page};
use crate::scenario::{self, Scenario};
use silence::Silence;
use stats::Estimate;
pub(crate) use thresholds::Thresholds;
use thresholds::{Metric, Rule};

/// Tail of the intervals that decide nothing: 95 % of confidence.
const TAIL: f64 = 0.025;
/// Share of the false alarms that silences may have; the gates have the rest. A build that is
/// silent is so in each round, so a small share is proved by fewer rounds than `ab` has.
const SILENCES: f64 = 0.02;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Record of the old build, or a folder of them: 1.json, 2.json, …, one per round
    base: PathBuf,
    /// Record of the new build, or a folder of them with the same numbers
    new: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// How to judge, and where to write it.
#[derive(clap::Args)]
pub(crate) struct Output {
    /// What counts as worse, and what gates (default: see the README)
    #[arg(long, value_name = "FILE.toml")]
    thresholds: Option<PathBuf>,
    /// Write a summary for a pull request here
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write a page with the verdicts and the curves of all rounds here
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write all figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What can be said about a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Better,
    /// Not worse and not better by more than the threshold.
    Same,
    Worse,
    /// The interval holds both a change that matters and one that does not.
    Unsure,
}

/// A metric of a phase or of one of its loads, compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) phase: String,
    /// `None` for figures of the phase as a whole.
    pub(crate) load: Option<String>,
    pub(crate) metric: Metric,
    pub(crate) gate: bool,
    pub(crate) threshold: f64,
    /// Medians of the rounds: seconds, bytes, or a rate.
    pub(crate) base: f64,
    pub(crate) new: f64,
    /// New by base, of every round in which both are above 0.
    pub(crate) ratios: Vec<f64>,
    pub(crate) ratio: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// `None` with too few rounds to judge.
    pub(crate) verdict: Option<Verdict>,
}

/// Everything that `compare` found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Comparison {
    pub(crate) scenario: String,
    pub(crate) base: String,
    pub(crate) new: String,
    pub(crate) host: String,
    pub(crate) rounds: usize,
    /// What the rows that gate need at least.
    pub(crate) rounds_needed: usize,
    pub(crate) false_alarms: f64,
    /// Confidence of the intervals of rows that gate; that of the others is 0.95.
    pub(crate) confidence: f64,
    /// Whether `ab` was to go on and could not.
    pub(crate) interrupted: bool,
    pub(crate) silences: Vec<Silence>,
    pub(crate) rows: Vec<Row>,
}

/// A comparison and the rounds of (base, new) that it is of.
pub(crate) struct Found {
    pub(crate) comparison: Comparison,
    pub(crate) rounds: Vec<(Record, Record)>,
}

/// Compares, prints, writes: 0 without a regression, 1 with one, 2 if it cannot be said.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let judge = || -> Result<Found> {
        let thresholds = arguments.output.thresholds()?;
        let rounds = pair(read(&arguments.base)?, read(&arguments.new)?)?;
        Ok(Found { comparison: Comparison::of(&rounds, &thresholds, 1)?, rounds })
    };
    conclude(judge(), &arguments.output)
}

/// Prints and writes what was found; the exit status of `compare` and `ab`.
pub(crate) fn conclude(found: Result<Found>, output: &Output) -> ExitCode {
    let judge = |found: Found| -> Result<bool> {
        found.write(output)?;
        found.comparison.failed()
    };
    match found.and_then(judge) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bench-harness: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl Found {
    fn write(&self, output: &Output) -> Result<()> {
        let found = &self.comparison;
        print!("{}", text::text(found));
        let write = |path: &Option<PathBuf>, text: String| match path {
            Some(path) => {
                fs::write(path, text).with_context(|| format!("write {}", path.display()))
            }
            None => Ok(()),
        };
        write(&output.markdown, markdown::markdown(found))?;
        if output.html.is_some() {
            write(&output.html, self.page()?)?;
        }
        if output.json.is_some() {
            write(&output.json, serde_json::to_string_pretty(found)? + "\n")?;
        }
        Ok(())
    }

    /// The verdicts, then the plots of all rounds in two colours.
    fn page(&self) -> Result<String> {
        let (base, new) = (&self.comparison.base, &self.comparison.new);
        // Of the same name they would share a colour.
        let base = if base == new { &format!("{base} (base)") } else { base };
        let sides = [
            self.rounds.iter().map(|(base, _)| base).collect::<Vec<_>>(),
            self.rounds.iter().map(|(_, new)| new).collect(),
        ];
        let records: Vec<Labelled<'_>> = sides
            .iter()
            .zip([base, new])
            .flat_map(|(records, label)| {
                records.iter().map(move |record| Labelled { label, record })
            })
            .collect();
        let lead = html::lead(&self.comparison);
        Page { title: &self.comparison.scenario, lead: &lead, records: &records }.html()
    }
}

impl Output {
    pub(crate) fn thresholds(&self) -> Result<Thresholds> {
        Thresholds::read(self.thresholds.as_deref())
    }
}

/// The records at `path` by round: a file is round 1, a folder has a file for each.
fn read(path: &Path) -> Result<BTreeMap<u32, Record>> {
    if !path.is_dir() {
        return Ok(BTreeMap::from([(1, Record::read(path)?)]));
    }
    let mut records = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let round = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok());
        if let Some(round) = round.filter(|_| path.extension().is_some_and(|end| end == "json")) {
            records.insert(round, Record::read(&path)?);
        }
    }
    ensure!(
        !records.is_empty(),
        "no records in {}: there must be 1.json, 2.json, …, each written by `run --json`",
        path.display()
    );
    Ok(records)
}

/// Pairs rounds by their number; one that only one side has, or that was interrupted, is left out.
fn pair(
    mut base: BTreeMap<u32, Record>,
    new: BTreeMap<u32, Record>,
) -> Result<Vec<(Record, Record)>> {
    let mut rounds = Vec::new();
    for (number, new) in new {
        match base.remove(&number) {
            Some(base) if base.complete && new.complete => rounds.push((base, new)),
            Some(_) => eprintln!("round {number} is left out: it was interrupted"),
            None => eprintln!("round {number} is left out: the base has no record of it"),
        }
    }
    base.keys().for_each(|number| eprintln!("round {number} is left out: only the base has it"));
    ensure!(!rounds.is_empty(), "there is no round that both sides have a complete record of");
    Ok(rounds)
}

/// Fails before the first round of `scenario` where no number of rounds would lead to a verdict.
pub(crate) fn check(scenario: &Scenario, thresholds: &Thresholds) -> Result<()> {
    let names: Vec<&str> = scenario.phases.iter().map(|phase| phase.name.as_str()).collect();
    thresholds.check_phases(&names)?;
    let gates = |phase: &scenario::Phase| {
        let kinds: Vec<Kind> = phase.loads.iter().map(|load| load.kind).collect();
        metrics(&kinds).into_iter().any(|(load, metric)| {
            let scheduled = load.is_some_and(|at| phase.loads[at].rate.is_some());
            let has = metric != Metric::DeliveriesPerSecond || !scheduled;
            has && thresholds.rule(&phase.name, metric).gate
        })
    };
    ensure!(
        scenario.phases.iter().any(gates),
        "nothing gates, so nothing can fail: let the thresholds say `gate = true` for a metric \
         that the scenario has"
    );
    Ok(())
}

impl Comparison {
    /// Compares rounds of (base, new). `looks`: how often at most the same rounds, and more, are
    /// judged; 1 unless the first verdict decides whether there is another.
    pub(crate) fn of(
        rounds: &[(Record, Record)],
        thresholds: &Thresholds,
        looks: usize,
    ) -> Result<Self> {
        let Some((base, new)) = rounds.first() else { bail!("no rounds") };
        for (number, (one, other)) in rounds.iter().enumerate() {
            for record in [one, other] {
                ensure!(
                    shape(record) == shape(base),
                    "round {} of {} has other phases or loads than the first round of {}: \
                     compare runs of one scenario",
                    number + 1,
                    record.server,
                    base.server
                );
            }
        }
        let names: Vec<&str> = base.phases.iter().map(|phase| phase.name.as_str()).collect();
        thresholds.check_phases(&names)?;
        let mut rows = rows(base, rounds, thresholds);
        let gates = rows.iter().filter(|row| row.gate).count();
        let of_gates = (1.0 - SILENCES) * thresholds.false_alarms;
        let tail = (of_gates / (gates * looks).max(1) as f64).min(TAIL);
        let rounds_needed = stats::rounds_needed(tail);
        rows.iter_mut()
            .for_each(|row| row.judge(if row.gate { tail } else { TAIL }, rounds_needed));
        Ok(Self {
            scenario: base.scenario.clone(),
            base: base.server.clone(),
            new: new.server.clone(),
            host: base.host.clone(),
            rounds: rounds.len(),
            rounds_needed,
            false_alarms: thresholds.false_alarms,
            confidence: 1.0 - 2.0 * tail,
            interrupted: false,
            silences: silence::find(rounds, SILENCES * thresholds.false_alarms / looks as f64),
            rows,
        })
    }

    /// Whether a metric that gates is worse, or the new build does not serve what the base does.
    pub(crate) fn regressed(&self) -> bool {
        self.worse() > 0 || self.silences.iter().any(Silence::is_regression)
    }

    /// Whether more rounds could not change the exit status: something is worse, or nothing may be.
    pub(crate) fn decided(&self) -> bool {
        let certain = self.silences.iter().all(Silence::is_certain);
        let judges = self.gates().next().is_some() || !self.silences.is_empty();
        self.regressed() || certain && judges && !self.gates().any(Row::may_be_worse)
    }

    /// Whether the new build fails; an error if that cannot be said.
    fn failed(&self) -> Result<bool> {
        if !self.regressed() {
            self.judged()?;
        }
        Ok(self.regressed())
    }

    /// Fails if a side is silent or nothing gates, so that there is nothing to compare, or with the
    /// number of rounds that it takes if there were too few.
    fn judged(&self) -> Result<()> {
        if let Some(silence) = self.silences.iter().find(|silence| !silence.is_regression()) {
            bail!("no verdict: {}", silence.sentence());
        }
        ensure!(
            self.gates().next().is_some(),
            "nothing gates, so nothing can fail: `run` needs --pid to know the server's CPU time, \
             or let the thresholds say `gate = true` for another metric"
        );
        ensure!(
            self.rounds >= self.rounds_needed,
            "{} rounds are too few for a verdict: {} metrics gate, and to keep false alarms at \
             {} % takes {} rounds (`ab` makes them)",
            self.rounds,
            self.gates().count(),
            self.false_alarms * 100.0,
            self.rounds_needed
        );
        Ok(())
    }

    pub(crate) fn gates(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.gate)
    }

    /// How many gates are worse.
    fn worse(&self) -> usize {
        self.gates().filter(|row| row.verdict == Some(Verdict::Worse)).count()
    }

    /// The result in one line, without names.
    pub(crate) fn headline(&self) -> String {
        let found = match self.failed() {
            Ok(true) => self.regression(),
            Ok(false) => match self.gates().filter(|row| row.may_be_worse()).count() {
                0 => "no regression".into(),
                unsure => format!(
                    "no regression found, but {unsure} of {} gates are unsure",
                    self.gates().count()
                ),
            },
            Err(_) if !self.silences.is_empty() => "no verdict: one side delivers nothing".into(),
            Err(_) if self.gates().next().is_none() => "no verdict: nothing gates".into(),
            Err(_) => format!("no verdict: {} rounds are too few", self.rounds),
        };
        match self.interrupted {
            true => format!("interrupted after {} rounds: {found}", self.rounds),
            false => found,
        }
    }

    fn regression(&self) -> String {
        let (worse, gates) = (self.worse(), self.gates().count());
        let silent = match self.silences.iter().filter(|one| one.is_regression()).count() {
            0 => None,
            1 => Some("nothing delivered in one load".into()),
            loads => Some(format!("nothing delivered in {loads} loads")),
        };
        let worse = (worse > 0).then(|| format!("{worse} of {gates} gates worse"));
        let parts: Vec<String> = worse.into_iter().chain(silent).collect();
        format!("regression: {}", parts.join(", "))
    }
}

/// What has to be alike for figures to be comparable.
fn shape(record: &Record) -> Vec<(&str, Vec<(&str, Kind)>)> {
    record
        .phases
        .iter()
        .map(|phase| {
            let loads = phase.loads.iter().map(|load| (load.name.as_str(), load.kind));
            (phase.name.as_str(), loads.collect())
        })
        .collect()
}

/// A row for each metric that some round has of both sides, not judged yet. All records have the
/// shape of the first.
fn rows(first: &Record, rounds: &[(Record, Record)], thresholds: &Thresholds) -> Vec<Row> {
    let mut rows = Vec::new();
    for (at, phase) in first.phases.iter().enumerate() {
        let all: Vec<_> = rounds
            .iter()
            .map(|(base, new)| (figures(&base.phases[at]), figures(&new.phases[at])))
            .collect();
        for (index, (load, metric, _)) in all[0].0.iter().enumerate() {
            // On a starved machine a round may deliver nothing; the others still count.
            let pairs = all.iter().filter_map(|(base, new)| base[index].2.zip(new[index].2));
            let pairs: Vec<_> = pairs.collect();
            let load = load.map(|load| phase.loads[load].name.clone());
            let rule = thresholds.rule(&phase.name, *metric);
            rows.extend(Row::new(&phase.name, load, *metric, rule, &pairs));
        }
    }
    rows
}

/// What can be compared in a phase with loads of these kinds: of the whole, then of each load by
/// its index.
fn metrics(kinds: &[Kind]) -> Vec<(Option<usize>, Metric)> {
    let only = |wanted| kinds.iter().all(|kind| *kind == wanted);
    let connection = only(Kind::Connect) || only(Kind::Idle);
    let cpu = if connection { Metric::CpuPerConnection } else { Metric::CpuPerDelivery };
    let mut found = vec![(None, cpu)];
    if kinds.contains(&Kind::Connect) {
        found.push((None, Metric::MemoryPerConnection));
    }
    for (at, kind) in kinds.iter().enumerate() {
        if *kind != Kind::Idle {
            found.push((Some(at), Metric::DeliveriesPerSecond));
        }
        let latencies = [Metric::P50, Metric::P90, Metric::P99, Metric::P999, Metric::Max];
        found.extend(latencies.map(|metric| (Some(at), metric)));
    }
    found
}

/// The `metrics` of a phase with the figure, in seconds, bytes, or a rate, if the phase has it.
fn figures(phase: &Phase) -> Vec<(Option<usize>, Metric, Option<f64>)> {
    let kinds: Vec<Kind> = phase.loads.iter().map(|load| load.kind).collect();
    let latency = |load: &Load| (!load.intervals.is_empty()).then(|| load.latency());
    let latencies: Vec<_> = phase.loads.iter().map(latency).collect();
    let figure = |at: Option<usize>, metric: Metric| match metric {
        Metric::CpuPerConnection if kinds.contains(&Kind::Idle) => {
            phase.server_busy().map(|busy| busy / phase.connections.max(1) as f64)
        }
        Metric::CpuPerDelivery | Metric::CpuPerConnection => phase.cpu_per_delivery(),
        Metric::MemoryPerConnection => phase.memory_per_connection(),
        Metric::DeliveriesPerSecond => {
            // With a rate, the schedule says how many there are.
            let load = at.map(|at| &phase.loads[at]).filter(|load| load.rate.is_none());
            load.map(|load| load.deliveries as f64 / phase.seconds)
        }
        _ => {
            let all = at.and_then(|at| latencies[at].as_ref());
            all.zip(metric.quantile()).map(|(all, quantile)| all.at(quantile) as f64 / 1e9)
        }
    };
    metrics(&kinds).into_iter().map(|(at, metric)| (at, metric, figure(at, metric))).collect()
}

impl Row {
    /// Not judged yet; `None` if no round has a ratio.
    fn new(
        phase: &str,
        load: Option<String>,
        metric: Metric,
        rule: Rule,
        figures: &[(f64, f64)],
    ) -> Option<Self> {
        let positive = figures.iter().filter(|(base, new)| *base > 0.0 && *new > 0.0);
        // A phase that took no time has no rate.
        let ratios = positive.map(|(base, new)| new / base).filter(|ratio| ratio.is_normal());
        let ratios: Vec<f64> = ratios.collect();
        let (base, new): (Vec<f64>, Vec<f64>) = figures.iter().copied().unzip();
        let ratio = stats::median(&ratios)?;
        Some(Self {
            phase: phase.into(),
            load,
            metric,
            gate: rule.gate,
            threshold: rule.threshold,
            base: stats::median(&base)?,
            new: stats::median(&new)?,
            ratios,
            ratio,
            low: 0.0,
            high: f64::INFINITY,
            verdict: None,
        })
    }

    fn judge(&mut self, tail: f64, rounds_needed: usize) {
        if let Some(Estimate { ratio, low, high }) = stats::estimate(&self.ratios, tail) {
            (self.ratio, self.low, self.high) = (ratio, low, high);
        }
        if self.ratios.len() >= rounds_needed {
            self.verdict = Some(self.verdict_of_interval());
        }
    }

    fn verdict_of_interval(&self) -> Verdict {
        let (least, most) = self.cost();
        let limit = 1.0 + self.threshold;
        match (least, most) {
            _ if least > limit => Verdict::Worse,
            _ if most < 1.0 / limit => Verdict::Better,
            _ if least >= 1.0 / limit && most <= limit => Verdict::Same,
            _ => Verdict::Unsure,
        }
    }

    /// Whether a change for the worse that matters has not been ruled out.
    fn may_be_worse(&self) -> bool {
        self.verdict.is_none() || self.cost().1 > 1.0 + self.threshold
    }

    /// The interval, above 1 for the worse.
    fn cost(&self) -> (f64, f64) {
        if self.metric.more_is_better() {
            (1.0 / self.high, 1.0 / self.low)
        } else {
            (self.low, self.high)
        }
    }
}

#[cfg(test)]
mod tests;
