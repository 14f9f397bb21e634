//! The comparison as Markdown, for a pull request: the gates in sight, the rest folded away.

use std::fmt::Write as _;

use super::thresholds::Metric;
use super::{Comparison, Row, Verdict};

pub(super) fn markdown(found: &Comparison) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "### {} {}: {}\n",
        match found.failed() {
            Ok(true) => "❌",
            Ok(false) if !found.interrupted => "✅",
            _ => "⚠️",
        },
        found.scenario,
        found.headline()
    );
    let _ = writeln!(
        text,
        "`{}` → `{}`, {} rounds, both in each. Medians; the change with its {} % interval. \
         Equal builds fail in {} % of comparisons at most.\n",
        found.base,
        found.new,
        found.rounds,
        (found.confidence * 100.0 * 1e3).floor() / 1e3,
        found.false_alarms * 100.0,
    );
    for silence in &found.silences {
        let _ = writeln!(text, "**{}**\n", silence.sentence());
    }
    text.push_str(HEADER);
    for row in found.gates() {
        line(&mut text, row);
    }
    let others: Vec<&Row> = found.rows.iter().filter(|row| !row.gate).collect();
    if !others.is_empty() {
        text.push_str("\n<details><summary>");
        let _ = write!(text, "{} figures that do not decide", others.len());
        let moved = |row: &&&Row| matches!(row.verdict, Some(Verdict::Worse | Verdict::Better));
        match others.iter().filter(moved).count() {
            0 => {}
            count => {
                let _ = write!(text, ", {count} of them better or worse");
            }
        }
        let _ = write!(text, " (95 % intervals)</summary>\n\n{HEADER}");
        others.iter().for_each(|row| line(&mut text, row));
        text.push_str("\n</details>\n");
    }
    let _ = write!(text, "\n<sub>{}</sub>\n", found.host);
    text
}

const HEADER: &str = "| | base | new | change | limit | |\n|---|---:|---:|---:|---:|---|\n";

fn line(text: &mut String, row: &Row) {
    let verdict = match row.verdict {
        Some(Verdict::Better) => "🟢 better",
        Some(Verdict::Same) => "same",
        Some(Verdict::Worse) => "🔴 **worse**",
        Some(Verdict::Unsure) => "unsure",
        None => "–",
    };
    let _ = writeln!(
        text,
        "| {} | {} | {} | **{}** ({} … {}) | {} | {verdict} |",
        name(row).replace('|', "\\|"),
        value(row.metric, row.base),
        value(row.metric, row.new),
        percent(row.ratio),
        percent(row.low),
        percent(row.high),
        limit(row),
    );
}

/// Phase, load if it is called otherwise, metric.
pub(super) fn name(row: &Row) -> String {
    let load = row.load.as_ref().filter(|load| **load != row.phase);
    let load = load.map_or(String::new(), |load| format!(" {load}"));
    format!("{}{load}: {}", row.phase, row.metric.title())
}

/// A figure with its unit, three digits or so.
pub(super) fn value(metric: Metric, value: f64) -> String {
    let (value, unit) = match metric {
        Metric::MemoryPerConnection => return format!("{value:.0} B"),
        Metric::DeliveriesPerSecond if value >= 10_000.0 => (value / 1000.0, "k/s"),
        Metric::DeliveriesPerSecond => (value, "/s"),
        _ if value < 1e-6 => (value * 1e9, " ns"),
        _ if value < 1e-3 => (value * 1e6, " µs"),
        _ if value < 1.0 => (value * 1e3, " ms"),
        _ => (value, " s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$}{unit}")
}

/// A ratio as a change.
pub(super) fn percent(ratio: f64) -> String {
    match (ratio - 1.0) * 100.0 {
        change if change.is_infinite() => "∞".into(),
        change if change.abs() >= 1000.0 => format!("× {ratio:.1}"),
        change => format!("{change:+.1} %"),
    }
}

/// What the change may be without being worse.
pub(super) fn limit(row: &Row) -> String {
    let limit = 1.0 + row.threshold;
    percent(if row.metric.more_is_better() { 1.0 / limit } else { limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_or_so() {
        for (metric, figure, text) in [
            (Metric::CpuPerDelivery, 3.14159e-6, "3.14 µs"),
            (Metric::CpuPerDelivery, 5.32e-7, "532 ns"),
            (Metric::Max, 0.2097, "210 ms"),
            (Metric::Max, 2.0, "2.00 s"),
            (Metric::MemoryPerConnection, 462.4, "462 B"),
            (Metric::DeliveriesPerSecond, 812_345.0, "812k/s"),
            (Metric::DeliveriesPerSecond, 50.0, "50.0/s"),
        ] {
            assert_eq!(value(metric, figure), text);
        }
        assert_eq!(
            [0.9, 1.0004, 1.123, 40.0].map(percent),
            ["-10.0 %", "+0.0 %", "+12.3 %", "× 40.0"]
        );
    }
}
