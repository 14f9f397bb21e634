//! What is made of records: a table in the terminal, Markdown, interval logs, a page with plots.
//!
//! `figures` knows what is worth saying about a load and in which words; `text` sets it in columns;
//! `html` plots it; `hlog` hands the histograms to HdrHistogram's own tools. None of them measures.

mod figures;
mod hlog;
mod html;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::record::Record;
pub(crate) use html::{Page, escaped};

/// A record and what it is called beside others. Records of the same label share a colour: they
/// are rounds of one thing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labelled<'a> {
    pub(crate) label: &'a str,
    pub(crate) record: &'a Record,
}

/// Where results go besides the table on standard output.
#[derive(Debug, clap::Args)]
pub(crate) struct Outputs {
    /// Write a page with plots; it needs nothing but a browser
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write one HdrHistogram interval log (.hlog) for each load into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) hlog: Option<PathBuf>,
    /// Print Markdown instead of a table
    #[arg(long)]
    pub(crate) markdown: bool,
}

/// The arguments of `report`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Files that `run --json` wrote; several are overlaid
    #[arg(required = true, value_name = "RECORD.json")]
    records: Vec<PathBuf>,
    #[command(flatten)]
    outputs: Outputs,
}

/// Reads records and makes of them what was asked for.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let paths = &arguments.records;
    let records: Vec<Record> =
        paths.iter().map(|path| Record::read(path)).collect::<Result<_>>()?;
    let labels = labels(paths, &records);
    let labelled: Vec<Labelled<'_>> =
        labels.iter().zip(&records).map(|(label, record)| Labelled { label, record }).collect();
    arguments.outputs.make(&labelled)
}

/// The servers' names, where they tell the records apart; else the files', with as many of their
/// folders as it takes. A file that is given twice has one label.
fn labels(paths: &[PathBuf], records: &[Record]) -> Vec<String> {
    let twice = |record: &Record| records.iter().filter(|r| r.server == record.server).count() > 1;
    let all = || paths.iter().zip(records);
    let longest = paths.iter().map(|path| path.components().count()).max().unwrap_or(0);
    let label = |(path, record): (&PathBuf, &Record)| {
        if !twice(record) {
            return record.server.clone();
        }
        let is_free = |parts: &usize| {
            let label = end(path, *parts);
            all().filter(|(other, _)| *other != path).all(|(other, record)| {
                let taken = if twice(record) { end(other, *parts) } else { record.server.clone() };
                taken != label
            })
        };
        let parts = (1..=longest).find(is_free);
        // Files that differ in their extensions only.
        parts.map_or_else(|| path.display().to_string(), |parts| end(path, parts))
    };
    all().map(label).collect()
}

/// The last `parts` of a path, or all that it has, without the extension.
fn end(path: &Path, parts: usize) -> String {
    let path = path.with_extension("");
    let before = path.components().count().saturating_sub(parts);
    path.components().skip(before).collect::<PathBuf>().display().to_string()
}

impl Outputs {
    /// Prints the table (or Markdown) and writes the files that were asked for.
    pub(crate) fn make(&self, records: &[Labelled<'_>]) -> Result<()> {
        let table = figures::table(records);
        let table = if self.markdown { text::markdown(&table) } else { text::terminal(&table) };
        print!("{}\n\n{table}", figures::headings(records).join("\n"));
        if let Some(path) = &self.html {
            let page = Page { title: &records[0].record.scenario, lead: "", records }.html()?;
            std::fs::write(path, page).with_context(|| format!("write {}", path.display()))?;
        }
        if let Some(folder) = &self.hlog {
            hlog::write(folder, records)?;
        }
        Ok(())
    }
}
