//! Results: their shape in JSON, their text, and the arithmetic of the comparison table.
//!
//! The table divides each engine's figure by the floor's of the same round, then takes the
//! median of these ratios: what disturbs a machine for minutes disturbs both halves of a ratio.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Quantiles in microseconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let [p50, p90, p99, p999] =
            [0.5, 0.9, 0.99, 0.999].map(|quantile| histogram.value_at_quantile(quantile));
        Self { p50, p90, p99, p999, max: histogram.max() }
    }
}

/// Connections opened, and what each of them cost.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Connected {
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// CPU time of the server by wall time.
    pub(crate) server_busy: f64,
    /// CPU time of the server per connection: TCP accept, upgrade, namespace.
    pub(crate) cpu_us: f64,
    /// Growth of the server's resident memory per connection.
    pub(crate) rss_bytes: f64,
    pub(crate) handshakes: Latency,
}

/// A load's measured part, and the totals that were verified.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Loaded {
    pub(crate) seconds: f64,
    pub(crate) messages: u64,
    pub(crate) deliveries: u64,
    pub(crate) per_second: f64,
    pub(crate) server_busy: f64,
    /// CPU time of the server per delivery.
    pub(crate) cpu_us: f64,
    pub(crate) latency: Latency,
    /// Warm-up and drain included: each arrived exactly once everywhere.
    pub(crate) all_messages: u64,
    pub(crate) all_deliveries: u64,
}

/// All that one `run` found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Run {
    pub(crate) host: String,
    pub(crate) payload: usize,
    pub(crate) connect: Option<Connected>,
    /// CPU time of the server by wall time with nobody sending.
    pub(crate) idle_busy: Option<f64>,
    pub(crate) loads: Vec<(String, Loaded)>,
}

impl Run {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if let Some(found) = &self.connect {
            let _ = writeln!(
                text,
                "connect   {} connections, {:.0}/s, CPU {:.2} µs each, memory {:.0} B each, \
                 server {:.0} % busy\n          {}",
                found.connections,
                found.per_second,
                found.cpu_us,
                found.rss_bytes,
                found.server_busy * 100.0,
                latency(&found.handshakes)
            );
        }
        if let Some(busy) = self.idle_busy {
            let _ = writeln!(text, "idle      server {:.3} % busy", busy * 100.0);
        }
        for (name, load) in &self.loads {
            let _ = writeln!(
                text,
                "{name:<9} {:.0} deliveries/s, CPU {:.3} µs each, server {:.0} % busy, \
                 {} messages in {:.1} s\n          {}\n          \
                 {} messages, {} deliveries in all, each exactly once",
                load.per_second,
                load.cpu_us,
                load.server_busy * 100.0,
                load.messages,
                load.seconds,
                latency(&load.latency),
                load.all_messages,
                load.all_deliveries
            );
        }
        text
    }
}

fn latency(found: &Latency) -> String {
    let Latency { p50, p90, p99, p999, max } = found;
    format!("latency µs: p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}")
}

/// One row of the comparison.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Row {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) decimals: usize,
    /// Whether the floor's figure is a bound that others can be divided by.
    pub(crate) relative: bool,
}

/// An engine's figures: `values[row][round]`.
#[derive(Debug, Serialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) values: Vec<Vec<f64>>,
}

/// The Markdown table; the first column is the floor.
pub(crate) fn table(rows: &[Row], columns: &[Column]) -> String {
    let mut text = String::from("| CPU time of the server, or its memory |");
    for column in columns {
        let _ = write!(text, " {} |", column.name);
    }
    let _ = write!(text, "\n|---|{}", "---:|".repeat(columns.len()));
    for (index, row) in rows.iter().enumerate() {
        let _ = write!(text, "\n| {} |", row.title);
        for (place, column) in columns.iter().enumerate() {
            let floor = (row.relative && place > 0).then(|| columns[0].values[index].as_slice());
            let _ = write!(text, " {} |", cell(row, &column.values[index], floor));
        }
    }
    text.push('\n');
    text
}

/// `median unit (lowest–highest)`, or with a floor `median unit, ratio × (lowest–highest)`.
fn cell(row: &Row, values: &[f64], floor: Option<&[f64]>) -> String {
    let Some(middle) = median(values) else { return "–".into() };
    let (unit, decimals) = (row.unit, row.decimals);
    match floor.map(|floor| ratios(values, floor)) {
        Some(ratios) => {
            let (low, high) = spread(&ratios);
            let ratio = median(&ratios).unwrap_or(f64::NAN);
            format!("{middle:.decimals$} {unit}, **{ratio:.2} ×** ({low:.2}–{high:.2})")
        }
        None => {
            let (low, high) = spread(values);
            format!("{middle:.decimals$} {unit} ({low:.decimals$}–{high:.decimals$})")
        }
    }
}

/// Each round's figure by the floor's of the same round.
fn ratios(values: &[f64], floor: &[f64]) -> Vec<f64> {
    values.iter().zip(floor).map(|(value, floor)| value / floor).collect()
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

fn spread(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(*value), high.max(*value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        // A round in which everything is twice as slow changes no ratio.
        let (floor, engine) = ([2.0, 4.0, 2.0], [3.0, 6.0, 3.2]);
        assert_eq!(median(&ratios(&engine, &floor)), Some(1.5));
        assert_eq!(spread(&engine), (3.0, 6.0));
    }

    #[test]
    fn quantiles_come_from_the_histogram() {
        let mut histogram = crate::client::histogram().expect("bounds");
        for value in 1..=1000 {
            histogram.saturating_record(value);
        }
        let found = Latency::of(&histogram);
        assert_eq!((found.p50, found.p90, found.p99, found.max), (500, 900, 990, 1000));
    }

    #[test]
    fn the_table_has_a_cell_for_every_engine() {
        let row = |title, relative| Row { title, unit: "µs", decimals: 1, relative };
        let column = |name: &str, values| Column { name: name.into(), version: "".into(), values };
        let text = table(
            &[row("echo", true), row("memory", false)],
            &[
                column("floor", vec![vec![4.0, 5.0, 4.0], vec![0.0]]),
                column("peer", vec![vec![8.0, 5.0, 6.0], vec![]]),
            ],
        );
        assert!(text.contains("| echo | 4.0 µs (4.0–5.0) | 6.0 µs, **1.50 ×** (1.00–2.00) |"));
        assert!(text.contains("| memory | 0.0 µs (0.0–0.0) | – |"), "{text}");
    }
}
