//! The arithmetic and the text of the comparison table.
//!
//! The table divides each engine's figure by the floor's of the same round, then takes the
//! median of these ratios: what disturbs a machine for minutes disturbs both halves of a ratio.

use std::fmt::Write as _;

use serde::Serialize;

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
