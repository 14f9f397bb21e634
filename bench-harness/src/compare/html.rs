//! The verdicts as HTML, for the head of a report's page.

use std::fmt::Write as _;

use super::markdown::{limit, name, percent, value};
use super::{Comparison, Verdict};
use crate::report::escaped;

pub(super) fn lead(found: &Comparison) -> String {
    let mut text = format!("<h2>{}</h2>\n", found.headline());
    for silence in &found.silences {
        let _ = writeln!(text, "<p><strong>{}</strong></p>", escaped(&silence.sentence()));
    }
    let _ = writeln!(
        text,
        "<p>{} to {}, {} rounds. Medians, and the change with its interval; equal builds fail in \
         {} % of comparisons at most.</p>\n<table><thead><tr><th></th><th>base</th>\
         <th>new</th><th>change</th><th>interval</th><th>limit</th><th>verdict</th></tr></thead>\
         <tbody>",
        escaped(&found.base),
        escaped(&found.new),
        found.rounds,
        found.false_alarms * 100.0
    );
    let (gates, others) = (found.rows.iter().filter(|row| row.gate), found.rows.iter());
    for row in gates.chain(others.filter(|row| !row.gate)) {
        let verdict = match row.verdict {
            Some(Verdict::Better) => "better",
            Some(Verdict::Same) => "same",
            Some(Verdict::Worse) => "<strong>worse</strong>",
            Some(Verdict::Unsure) => "unsure",
            None => "–",
        };
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{} … {}</td><td>{}</td>\
             <td>{verdict}{}</td></tr>",
            escaped(&name(row)),
            value(row.metric, row.base),
            value(row.metric, row.new),
            percent(row.ratio),
            percent(row.low),
            percent(row.high),
            limit(row),
            if row.gate { " (gate)" } else { "" }
        );
    }
    text + "</tbody></table>\n"
}
