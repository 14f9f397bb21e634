//! A page with plots of one record or of several overlaid: one file that asks nobody for anything.
//!
//! The histograms are boiled down here to what a screen can show; html/page.js draws it. The
//! tables stand in the page as text, for readers without JavaScript.

use std::collections::BTreeMap;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::Labelled;
use super::figures::{self, Table};
use crate::record::{Distribution, Interval, Load, Phase, Sample};

/// Points of a percentile curve for each factor of ten in 1 / (1 - quantile).
const CURVE_STEPS: u32 = 20;
/// Rows of the heat map for each factor of ten in latency.
const HEAT_STEPS: f64 = 10.0;
/// Nanoseconds. The lowest row holds what took less: a ping in time took nothing.
const SHORTEST: u64 = 1000;
/// Points of a line over time, columns of a heat map: more intervals than that are put together.
const TIMES_MAX: usize = 120;

/// What is to be shown.
pub(crate) struct Page<'a> {
    pub(crate) title: &'a str,
    /// HTML that stands above the first table: a verdict. Its author answers for its markup.
    pub(crate) lead: &'a str,
    pub(crate) records: &'a [Labelled<'a>],
}

/// What page.js reads. Times are seconds, latencies nanoseconds, memory bytes.
#[derive(Serialize)]
struct Data<'a> {
    curve_steps: u32,
    heat_steps: f64,
    /// In the order of their colours.
    labels: Vec<&'a str>,
    records: Vec<RecordData>,
}

#[derive(Serialize)]
struct RecordData {
    /// Index of its label.
    label: usize,
    phases: Vec<PhaseData>,
}

#[derive(Serialize)]
struct PhaseData {
    name: String,
    start: f64,
    seconds: f64,
    samples: Vec<SampleData>,
    loads: Vec<LoadData>,
}

/// Middle and length of the interval, what was counted in it and at its end.
#[derive(Serialize)]
struct SampleData {
    at: f64,
    seconds: f64,
    server_cpu: Option<f64>,
    client_cpu: f64,
    resident: Option<u64>,
    connections: u64,
    receipts: f64,
}

#[derive(Serialize)]
struct LoadData {
    name: String,
    /// What a receipt is, what several are.
    one: &'static str,
    many: &'static str,
    about: String,
    count: u64,
    /// Latency at quantile 1 - 10^(-index / `CURVE_STEPS`); the last one is the maximum, which
    /// stands at 1 - 1 / count.
    curve: Vec<u64>,
    times: Vec<TimeData>,
}

#[derive(Serialize)]
struct TimeData {
    /// Middle of the interval and its length.
    at: f64,
    seconds: f64,
    count: u64,
    p50: u64,
    p99: u64,
    max: u64,
    /// How many receipts took from 10^(row / `HEAT_STEPS`) to the next row's.
    heat: BTreeMap<u32, u64>,
}

impl Page<'_> {
    /// The whole file.
    pub(crate) fn html(&self) -> Result<String> {
        // What could end the script element, or begin a comment in it, is escaped.
        let data = serde_json::to_string(&self.data())?.replace('<', "\\u003c");
        let about = |text: &String| format!("<p>{}</p>", escaped(text).replace('\n', "<br>"));
        let about: String = figures::headings(self.records).iter().map(about).collect();
        let mut page = String::new();
        for part in include_str!("html/page.html").split_inclusive("-->") {
            match part.rsplit_once("<!--") {
                Some((before, name)) => {
                    page += before;
                    page += &match name {
                        "title-->" => escaped(self.title),
                        "style-->" => include_str!("html/page.css").to_owned(),
                        "about-->" => about.clone(),
                        "lead-->" => self.lead.to_owned(),
                        "table-->" => self.table(),
                        "data-->" => data.clone(),
                        "script-->" => include_str!("html/page.js").to_owned(),
                        other => format!("<!--{other}"),
                    };
                }
                None => page += part,
            }
        }
        Ok(page)
    }

    /// The figures; those of many rounds are there for who asks.
    fn table(&self) -> String {
        let table = table(&figures::table(self.records));
        let label =
            |one: &Labelled<'_>| self.records.iter().filter(|o| o.label == one.label).count();
        match self.records.iter().any(|one| label(one) > 1) {
            true => format!("<details><summary>Each round</summary>{table}</details>"),
            false => table,
        }
    }

    fn data(&self) -> Data<'_> {
        let mut labels: Vec<&str> = Vec::new();
        let mut records = Vec::new();
        // Overlaid, heat maps would hide each other.
        let heat = self.records.len() == 1;
        for one in self.records {
            let label = labels.iter().position(|label| *label == one.label);
            let label = label.unwrap_or_else(|| {
                labels.push(one.label);
                labels.len() - 1
            });
            let phases = figures::phases(one.record).into_iter();
            let phases = phases.map(|(name, found)| phase(name, found, heat)).collect();
            records.push(RecordData { label, phases });
        }
        Data { curve_steps: CURVE_STEPS, heat_steps: HEAT_STEPS, labels, records }
    }
}

fn phase(name: String, phase: &Phase, heat: bool) -> PhaseData {
    let loads = figures::loads(phase).into_iter();
    PhaseData {
        name,
        start: phase.start,
        seconds: phase.seconds,
        samples: samples(phase),
        loads: loads.map(|(name, found)| load(name, found, heat)).collect(),
    }
}

fn load(name: String, load: &Load, heat: bool) -> LoadData {
    let all = load.latency();
    let (one, many) = figures::nouns(load.kind);
    let about = match (figures::offered(load), load.payload) {
        (None, _) => String::new(),
        (Some(offered), 0) => offered,
        (Some(offered), payload) => format!("{offered}, {payload} B"),
    };
    LoadData {
        name,
        one,
        many,
        about,
        count: all.0.len(),
        curve: curve(&all.0),
        times: grouped(&load.intervals).map(|group| time(group, heat)).collect(),
    }
}

fn curve(all: &Histogram<u64>) -> Vec<u64> {
    if all.is_empty() {
        return Vec::new();
    }
    let steps = (all.len() as f64).log10() * f64::from(CURVE_STEPS);
    let quantile = |step: u32| 1.0 - 10f64.powf(-f64::from(step) / f64::from(CURVE_STEPS));
    let below = (0..steps.ceil() as u32).map(|step| all.value_at_quantile(quantile(step)));
    below.chain([all.max()]).collect()
}

/// Neighbours put together, so that `TIMES_MAX` groups are left at most.
fn grouped<T>(all: &[T]) -> impl Iterator<Item = &[T]> {
    all.chunks(all.len().div_ceil(TIMES_MAX).max(1))
}

fn time(group: &[Interval], heat: bool) -> TimeData {
    let mut all = Distribution::default();
    group.iter().for_each(|interval| all.add(&interval.latency));
    let seconds = group.iter().map(|interval| interval.seconds).sum::<f64>();
    let mut rows = BTreeMap::new();
    for value in all.0.iter_recorded().filter(|_| heat) {
        let row = (value.value_iterated_to().max(SHORTEST) as f64).log10() * HEAT_STEPS;
        *rows.entry(row as u32).or_default() += value.count_at_value();
    }
    TimeData {
        at: group.first().map_or(0.0, |first| first.start) + seconds / 2.0,
        seconds,
        count: all.0.len(),
        p50: all.at(0.5),
        p99: all.at(0.99),
        max: all.0.max(),
        heat: rows,
    }
}

fn samples(phase: &Phase) -> Vec<SampleData> {
    let sample = |group: &[Sample]| {
        let sum = |of: fn(&Sample) -> f64| group.iter().map(of).sum::<f64>();
        let (seconds, last) = (sum(|one| one.seconds), group.last().copied().unwrap_or_default());
        SampleData {
            at: last.at - seconds / 2.0,
            seconds,
            server_cpu: phase.server.map(|_| sum(|one| one.server_cpu_seconds)),
            client_cpu: sum(|one| one.client_cpu_seconds),
            resident: phase.server.map(|_| last.server_resident),
            connections: last.connections,
            receipts: receipts(phase, last.at - seconds, last.at),
        }
    };
    grouped(&phase.samples).map(sample).collect()
}

/// Receipts of all loads from one time to another; an interval that lies across a border counts
/// with the part that lies within.
fn receipts(phase: &Phase, from: f64, to: f64) -> f64 {
    let intervals = phase.loads.iter().flat_map(|load| &load.intervals);
    let within = |one: &Interval| {
        let common = (one.start + one.seconds).min(to) - one.start.max(from);
        one.latency.0.len() as f64 * (common / one.seconds).clamp(0.0, 1.0)
    };
    intervals.filter(|one| one.seconds > 0.0).map(within).sum()
}

fn table(table: &Table) -> String {
    let cell = |tag: &str, index: usize, text: &str| {
        let class = if index < table.left { "" } else { " class=figure" };
        format!("<{tag}{class}>{}</{tag}>", escaped(text))
    };
    let mut text = String::from("<table><thead><tr>");
    for (index, head) in table.heads.iter().enumerate() {
        text += &cell("th", index, head);
    }
    text += "</tr></thead><tbody>";
    for row in &table.rows {
        text += "<tr>";
        for (index, value) in row.iter().enumerate() {
            text += &cell("td", index, value);
        }
        text += "</tr>\n";
    }
    text + "</tbody></table>"
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
