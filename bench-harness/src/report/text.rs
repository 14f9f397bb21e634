//! Tables for a terminal, with fewer columns where it is narrow, and as Markdown.
//!
//! Colour only where console finds a terminal that wants it: not in a pipe, not with NO_COLOR.

use console::{Term, measure_text_width, style};

use super::figures::Table;

/// Between two columns.
const GAP: usize = 2;

/// For standard output as it is now.
pub(crate) fn terminal(table: &Table) -> String {
    let width = Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
    laid_out(table, width.unwrap_or(usize::MAX))
}

/// Columns, in as many tables below each other as `width` demands; blocks where not even one
/// column of figures fits beside the names.
fn laid_out(table: &Table, width: usize) -> String {
    let widths = widths(table);
    let names: usize = widths[..table.left].iter().map(|width| width + GAP).sum();
    let figures = table.left..widths.len();
    if figures.clone().any(|index| names + widths[index] > width) {
        return stacked(table);
    }
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut used = usize::MAX;
    for index in figures {
        let needed = widths[index] + GAP;
        match parts.last_mut() {
            Some(part) if used + needed <= width => part.push(index),
            _ => {
                parts.push((0..table.left).chain([index]).collect());
                used = names - GAP;
            }
        }
        used += needed;
    }
    parts.iter().map(|part| columns(table, &widths, part)).collect::<Vec<_>>().join("\n")
}

fn widths(table: &Table) -> Vec<usize> {
    let column = |index: usize| {
        let cells = table.rows.iter().map(|row| measure_text_width(&row[index]));
        cells.max().unwrap_or(0).max(measure_text_width(table.heads[index]))
    };
    (0..table.heads.len()).map(column).collect()
}

fn columns(table: &Table, widths: &[usize], part: &[usize]) -> String {
    let heads: Vec<String> = table.heads.iter().map(|head| (*head).to_owned()).collect();
    let line = |row: &[String], above| line(table.left, widths, part, row, above);
    let mut text = style(line(&heads, None)).bold().to_string() + "\n";
    let mut above = None;
    for row in &table.rows {
        text += &line(row, above);
        text.push('\n');
        above = Some(&*row[0]);
    }
    text
}

/// A row set in columns. Its first cell, the phase, is left out where it is that of the row above.
fn line(
    left: usize,
    widths: &[usize],
    part: &[usize],
    row: &[String],
    above: Option<&str>,
) -> String {
    let cell = |index: &usize| {
        let text = if *index == 0 && above == Some(&row[0]) { "" } else { &row[*index] };
        let space = " ".repeat(widths[*index] - measure_text_width(text));
        if *index < left { format!("{text}{space}") } else { space + text }
    };
    let cells: Vec<String> = part.iter().map(cell).collect();
    cells.join(&" ".repeat(GAP)).trim_end().to_owned()
}

/// A block of lines for each row.
fn stacked(table: &Table) -> String {
    let (left, heads) = (table.left, &table.heads);
    let width = heads[left..].iter().map(|head| measure_text_width(head)).max().unwrap_or(0);
    let mut text = String::new();
    for row in &table.rows {
        text += &format!("{}\n", style(row[..left].join(" / ")).bold());
        for (head, cell) in heads[left..].iter().zip(&row[left..]) {
            let space = " ".repeat(width - measure_text_width(head));
            text += &format!("  {}{space}  {cell}\n", style(head).dim());
        }
    }
    text
}

/// A Markdown table.
pub(crate) fn markdown(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let rule = |index| if index < table.left { "---" } else { "---:" }.to_owned();
    // What names a phase may hold anything; a bar would begin another cell.
    let escaped = |cell: &String| cell.replace('|', "\\|");
    let mut text = line(table.heads.iter().map(|head| (*head).to_owned()).collect());
    text += &line((0..table.heads.len()).map(rule).collect());
    for row in &table.rows {
        text += &line(row.iter().map(escaped).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |cells: [&str; 4]| cells.map(String::from).to_vec();
        Table {
            left: 2,
            heads: vec!["phase", "load", "p50", "max"],
            rows: vec![row(["chat", "all", "1.20 µs", "3 ms"]), row(["chat", "a|b", "–", "12 s"])],
        }
    }

    #[test]
    fn columns_line_up_and_a_phase_is_named_once() {
        let lines = [
            "phase  load      p50   max",
            "chat   all   1.20 µs  3 ms",
            "       a|b         –  12 s",
        ];
        assert_eq!(laid_out(&table(), 26), lines.join("\n") + "\n");
    }

    #[test]
    fn a_narrow_terminal_gets_tables_below_each_other() {
        let first = "phase  load      p50\nchat   all   1.20 µs\n       a|b         –\n";
        let second = "phase  load   max\nchat   all   3 ms\n       a|b   12 s\n";
        assert_eq!(laid_out(&table(), 25), format!("{first}\n{second}"));
        assert_eq!(laid_out(&table(), 20), format!("{first}\n{second}"));
    }

    #[test]
    fn a_very_narrow_terminal_gets_blocks() {
        let text = laid_out(&table(), 19);
        assert_eq!(text.lines().next(), Some("chat / all"));
        assert_eq!(text.lines().nth(1), Some("  p50  1.20 µs"));
        assert_eq!(text.lines().count(), 6);
    }

    #[test]
    fn markdown_keeps_its_columns() {
        let text = markdown(&table());
        assert_eq!(text.lines().nth(1), Some("| --- | --- | ---: | ---: |"));
        assert_eq!(text.lines().nth(3), Some("| chat | a\\|b | – | 12 s |"));
    }
}
