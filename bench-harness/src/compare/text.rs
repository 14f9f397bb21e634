//! The comparison on a terminal.

use std::fmt::Write as _;

use super::markdown::{limit, name, percent, value};
use super::{Comparison, Row, Verdict};

pub(super) fn text(found: &Comparison) -> String {
    let mut text = String::new();
    let width = found.rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "{}: {} → {}, {} rounds\n{:width$} {:>10} {:>10} {:>9}  {:^21} {:>9}",
        found.scenario,
        found.base,
        found.new,
        found.rounds,
        "",
        "base",
        "new",
        "change",
        "interval",
        "limit"
    );
    for gate in [true, false] {
        for row in found.rows.iter().filter(|row| row.gate == gate) {
            line(&mut text, row, width);
        }
    }
    for silence in &found.silences {
        let _ = writeln!(text, "{}", silence.sentence());
    }
    let _ = writeln!(text, "{}", found.headline());
    text
}

fn line(text: &mut String, row: &Row, width: usize) {
    let verdict = match row.verdict {
        Some(Verdict::Better) => "better",
        Some(Verdict::Same) => "same",
        Some(Verdict::Worse) => "worse",
        Some(Verdict::Unsure) => "unsure",
        None => "",
    };
    let _ = writeln!(
        text,
        "{:width$} {:>10} {:>10} {:>9}  {:>9} … {:>9} {:>9}  {verdict}{}",
        name(row),
        value(row.metric, row.base),
        value(row.metric, row.new),
        percent(row.ratio),
        percent(row.low),
        percent(row.high),
        limit(row),
        if row.gate { " (gate)" } else { "" }
    );
}
