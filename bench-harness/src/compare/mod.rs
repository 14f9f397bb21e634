//! `compare`: two builds, judged from rounds in which both were measured.
//!
//! Every figure of a round of one build is divided by the other's of the same round; `stats` says
//! what the ratios of all rounds speak for, `thresholds` what of it matters. A verdict is passed
//! only when the whole interval is on one side, so noise leads to "unsure" and not to a failure.
//! Only metrics that gate decide, and the probability of a false alarm is divided among them, and
//! among the looks of `ab`, so that it holds for all together (Bonferroni).

mod html;
mod markdown;
pub(crate) mod stats;
mod text;
mod thresholds;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::record::{Kind, Phase, Record};
use crate::report::{Labelled, Page};
use stats::Estimate;
pub(crate) use thresholds::Thresholds;
use thresholds::{Metric, Rule};

/// Tail of the intervals that decide nothing: 95 % of confidence.
const TAIL: f64 = 0.025;

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
        found.comparison.judged()?;
        Ok(found.comparison.regressed())
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
        for name in thresholds.phases() {
            let known = base.phases.iter().any(|phase| phase.name == name);
            ensure!(known, "the thresholds have a phase {name}, which the records have not");
        }
        let mut rows = Vec::new();
        for (at, phase) in base.phases.iter().enumerate() {
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
        let gates = rows.iter().filter(|row| row.gate).count();
        let tail = (thresholds.false_alarms / (gates * looks).max(1) as f64).min(TAIL);
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
            rows,
        })
    }

    /// Whether a metric that gates is worse.
    pub(crate) fn regressed(&self) -> bool {
        self.gates().any(|row| row.verdict == Some(Verdict::Worse))
    }

    /// Whether more rounds could not change the exit status: something is worse, or nothing may be.
    pub(crate) fn decided(&self) -> bool {
        self.regressed() || self.gates().next().is_some() && !self.gates().any(Row::may_be_worse)
    }

    /// Fails if nothing gates, or with the number of rounds that it takes if there were too few.
    fn judged(&self) -> Result<()> {
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

    /// The result in one line, without names.
    pub(crate) fn headline(&self) -> String {
        let count = |test: fn(&&Row) -> bool| self.gates().filter(test).count();
        let worse = count(|row| row.verdict == Some(Verdict::Worse));
        let unsure = count(|row| row.may_be_worse() && row.verdict != Some(Verdict::Worse));
        match (self.judged(), worse, unsure, self.gates().count()) {
            (_, _, _, 0) => "no verdict: nothing gates".into(),
            (Err(_), ..) => format!("no verdict: {} rounds are too few", self.rounds),
            (_, 1.., _, gates) => format!("regression: {worse} of {gates} gates worse"),
            (_, 0, 0, _) => "no regression".into(),
            (_, 0, _, gates) => {
                format!("no regression found, but {unsure} of {gates} gates are unsure")
            }
        }
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

/// What can be compared in a phase, of the whole, then of each load by its index; the figure, in
/// seconds, bytes, or a rate, if the phase has it. The list is as long for phases of one shape.
fn figures(phase: &Phase) -> Vec<(Option<usize>, Metric, Option<f64>)> {
    let only = |kind| phase.loads.iter().all(|load| load.kind == kind);
    let (connects, idles) = (only(Kind::Connect), only(Kind::Idle));
    let delivery = phase.cpu_per_delivery().filter(|_| !connects && !idles);
    let connection = match (connects, idles) {
        (true, _) => phase.cpu_per_delivery(),
        (_, true) => phase.server_busy().map(|busy| busy / phase.connections.max(1) as f64),
        _ => None,
    };
    let mut found = vec![
        (None, Metric::CpuPerDelivery, delivery),
        (None, Metric::CpuPerConnection, connection),
        (None, Metric::MemoryPerConnection, phase.memory_per_connection()),
    ];
    for (at, load) in phase.loads.iter().enumerate() {
        // With a rate, the schedule says how many there are.
        let closed = load.rate.is_none() && load.kind != Kind::Idle;
        let rate = closed.then(|| load.deliveries as f64 / phase.seconds);
        found.push((Some(at), Metric::DeliveriesPerSecond, rate));
        let latency = (!load.intervals.is_empty()).then(|| load.latency());
        for (metric, quantile) in [
            (Metric::P50, 0.5),
            (Metric::P90, 0.9),
            (Metric::P99, 0.99),
            (Metric::P999, 0.999),
            (Metric::Max, 1.0),
        ] {
            let figure = latency.as_ref().map(|all| all.at(quantile) as f64 / 1e9);
            found.push((Some(at), metric, figure));
        }
    }
    found
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
        let ratios: Vec<f64> = positive.map(|(base, new)| new / base).collect();
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
