//! The arithmetic and the text of the comparison table.
//!
//! The table divides each engine's figure by the floor's of the same round, then takes the
//! median of these ratios: what disturbs a machine for minutes disturbs both halves of a ratio.

use std::fmt::Write as _;

use serde::Serialize;

/// One row of the comparison.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) decimals: usize,
    pub(crate) base: Base,
    /// The name of the phase that it was read from.
    pub(crate) phase: &'static str,
}

/// What a figure is divided by, round by round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Base {
    /// The floor's figure, where the floor has one.
    Floor,
    /// This engine's figure in the row that is read from that phase.
    Phase(&'static str),
    /// Nothing: it is a bound of its own, or the floor has so little that a ratio says nothing.
    None,
}

/// An engine's figures: `values[round][row]`, `None` where it was not measured or has failed.
#[derive(Debug, Serialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) values: Vec<Vec<Option<f64>>>,
}

/// All figures; the first column is the floor.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Line>,
    pub(crate) columns: Vec<Column>,
}

impl Table {
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("| |");
        for column in &self.columns {
            let _ = write!(text, " {} |", column.name);
        }
        let _ = write!(text, "\n|---|{}", "---:|".repeat(self.columns.len()));
        for (row, line) in self.rows.iter().enumerate() {
            let _ = write!(text, "\n| {} |", line.title);
            for column in 0..self.columns.len() {
                let _ = write!(text, " {} |", self.cell(row, column));
            }
        }
        text.push('\n');
        text
    }

    /// `median unit (lowest–highest)`, or with a base `median unit, ratio × (lowest–highest)`.
    fn cell(&self, row: usize, column: usize) -> String {
        let Line { unit, decimals, .. } = self.rows[row];
        let values: Vec<f64> = self.values(row, column).flatten().collect();
        let Some(middle) = median(&values) else { return "–".into() };
        let ratios = self.ratios(row, column);
        match median(&ratios) {
            Some(ratio) => {
                let (low, high) = spread(&ratios);
                format!("{middle:.decimals$} {unit}, **{ratio:.2} ×** ({low:.2}–{high:.2})")
            }
            None => {
                let (low, high) = spread(&values);
                format!("{middle:.decimals$} {unit} ({low:.decimals$}–{high:.decimals$})")
            }
        }
    }

    /// Round by round.
    fn values(&self, row: usize, column: usize) -> impl Iterator<Item = Option<f64>> {
        self.columns[column].values.iter().map(move |round| round[row])
    }

    /// Each round's figure by the base's of the same round.
    fn ratios(&self, row: usize, column: usize) -> Vec<f64> {
        let base = match self.rows[row].base {
            Base::Floor => (column > 0).then_some((row, 0)),
            Base::Phase(phase) => {
                self.rows.iter().position(|line| line.phase == phase).map(|row| (row, column))
            }
            Base::None => None,
        };
        let Some((base_row, base_column)) = base else { return Vec::new() };
        let pairs = self.values(row, column).zip(self.values(base_row, base_column));
        pairs.filter_map(|(value, base)| Some(value? / base?)).collect()
    }
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

    fn line(title: &str, base: Base) -> Line {
        Line { title: title.into(), unit: "µs", decimals: 1, base, phase: "p" }
    }

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        // In the second round everything was slow, in the third the peer failed.
        let column = |name: &str, values: [Option<f64>; 3]| Column {
            name: name.into(),
            values: values.iter().map(|value| vec![*value]).collect(),
        };
        let table = Table {
            rows: vec![line("echo", Base::Floor)],
            columns: vec![
                column("floor", [2.0, 4.0, 2.0].map(Some)),
                column("peer", [Some(3.0), Some(6.2), None]),
            ],
        };
        assert_eq!(table.ratios(0, 1), [1.5, 1.55]);
        assert_eq!(table.cell(0, 0), "2.0 µs (2.0–4.0)");
        assert_eq!(table.cell(0, 1), "4.6 µs, **1.52 ×** (1.50–1.55)");
    }

    #[test]
    fn the_table_has_a_cell_for_every_row_and_engine() {
        let other = Line { phase: "q", ..line("two shards", Base::Phase("p")) };
        let table = Table {
            rows: vec![line("one shard", Base::Floor), other, line("memory", Base::None)],
            columns: vec![
                Column { name: "floor".into(), values: vec![vec![None, None, Some(9.0)]] },
                Column { name: "ours".into(), values: vec![vec![Some(4.0), Some(5.0), Some(8.0)]] },
            ],
        };
        let text = table.markdown();
        assert!(text.contains("| one shard | – | 4.0 µs (4.0–4.0) |"), "{text}");
        assert!(text.contains("| two shards | – | 5.0 µs, **1.25 ×** (1.25–1.25) |"), "{text}");
        assert!(text.contains("| memory | 9.0 µs (9.0–9.0) | 8.0 µs (8.0–8.0) |"), "{text}");
    }
}
