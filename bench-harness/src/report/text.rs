//! Tables in columns for a terminal, one below the other where it is narrow, and as Markdown.
//!
//! Colour only where console finds a terminal that wants it: not in a pipe, not with NO_COLOR.

use console::{Term, measure_text_width, style};

use super::figures::Table;

/// Between two columns.
const GAP: usize = 2;

/// For standard output as it is now.
pub(crate) fn terminal(table: &Table) -> String {
    let width = Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
    let widths = widths(table);
    let needed = widths.iter().sum::<usize>() + GAP * (widths.len() - 1);
    if width.is_some_and(|width| width < needed) { stacked(table) } else { columns(table, &widths) }
}

fn widths(table: &Table) -> Vec<usize> {
    let column = |index: usize| {
        let cells = table.rows.iter().map(|row| measure_text_width(&row[index]));
        cells.max().unwrap_or(0).max(measure_text_width(table.heads[index]))
    };
    (0..table.heads.len()).map(column).collect()
}

fn columns(table: &Table, widths: &[usize]) -> String {
    let heads: Vec<String> = table.heads.iter().map(|head| (*head).to_owned()).collect();
    let mut text = style(line(table, widths, &heads, None)).bold().to_string() + "\n";
    let mut above = None;
    for row in &table.rows {
        text += &line(table, widths, row, above);
        text.push('\n');
        above = Some(row);
    }
    text
}

/// A row set in columns. The phase, its first cell, is left out where it is that of the row above.
fn line(table: &Table, widths: &[usize], cells: &[String], above: Option<&Vec<String>>) -> String {
    let mut line = String::new();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let said = index == 0 && above.is_some_and(|above| above[0] == *cell);
        let cell = if said { "" } else { cell };
        let space = " ".repeat(width - measure_text_width(cell));
        if index > 0 {
            line += &" ".repeat(GAP);
        }
        line += &if index < table.left { format!("{cell}{space}") } else { space + cell };
    }
    line.trim_end().to_owned()
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
        let text = columns(&table(), &widths(&table()));
        let lines = ["phase  load      p50   max", "chat   all   1.20 µs  3 ms"];
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [&lines[..], &["       a|b         –  12 s"]].concat()
        );
    }

    #[test]
    fn a_narrow_terminal_gets_blocks() {
        let text = stacked(&table());
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
