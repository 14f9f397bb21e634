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

/// The servers' names, where they tell the records apart; else the files'.
fn labels(paths: &[PathBuf], records: &[Record]) -> Vec<String> {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let twice = |record: &Record| records.iter().filter(|r| r.server == record.server).count() > 1;
    let label = |(path, record): (&PathBuf, &Record)| match twice(record) {
        true => stem(path),
        false => record.server.clone(),
    };
    paths.iter().zip(records).map(label).collect()
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
