//! What is worth saying of each load, and in which words: the cells of all tables.

use std::time::Duration;

use super::Labelled;
use crate::record::{Kind, Load, Phase, Record, Stalled};

/// Quantiles that have a column, and their heads.
const QUANTILES: [(f64, &str); 5] =
    [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")];

/// Stands where there is nothing to say.
const NONE: &str = "–";

/// Cells row by row; the first `left` columns are words, the others figures.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) left: usize,
    pub(crate) heads: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// A row for each load of each phase, or for the phase if it has none; those of several records
/// one below the other.
pub(crate) fn table(records: &[Labelled<'_>]) -> Table {
    let several = records.len() > 1;
    let mut heads = vec!["phase", "load"];
    heads.extend(several.then_some("server"));
    let left = heads.len();
    heads.extend(["offered", "per second"]);
    heads.extend(QUANTILES.map(|(_, head)| head));
    heads.extend(["CPU each", "busy", "memory"]);
    let mut rows = Vec::new();
    for (phase, load) in places(records) {
        for one in records {
            let found = find(one.record, &phase, &load);
            let Some((at, found)) = found else { continue };
            let mut row = vec![phase.clone(), load.clone()];
            row.extend(several.then(|| one.label.to_owned()));
            row.extend(cells(at, found));
            rows.push(row);
        }
    }
    Table { left, heads, rows }
}

/// The phases by names that tell them apart.
pub(super) fn phases(record: &Record) -> Vec<(String, &Phase)> {
    distinct(record.phases.iter().map(|phase| (&*phase.name, phase)))
}

/// The loads by names that tell them apart.
pub(super) fn loads(phase: &Phase) -> Vec<(String, &Load)> {
    distinct(phase.loads.iter().map(|load| (&*load.name, load)))
}

/// The second `name` is called `name 2`.
fn distinct<'a, T>(named: impl Iterator<Item = (&'a str, T)>) -> Vec<(String, T)> {
    let mut seen: Vec<&str> = Vec::new();
    let number = |(name, one)| {
        seen.push(name);
        match seen.iter().filter(|other| **other == name).count() {
            1 => (name.to_owned(), one),
            count => (format!("{name} {count}"), one),
        }
    };
    named.map(number).collect()
}

/// Names of the phases and their loads, in the order in which they first appear.
fn places(records: &[Labelled<'_>]) -> Vec<(String, String)> {
    let mut places: Vec<(String, String)> = Vec::new();
    for (name, phase) in records.iter().flat_map(|one| phases(one.record)) {
        let mut loads: Vec<String> = loads(phase).into_iter().map(|(load, _)| load).collect();
        if loads.is_empty() {
            loads.push(NONE.to_owned());
        }
        for load in loads {
            let place = (name.clone(), load);
            if !places.contains(&place) {
                places.push(place);
            }
        }
    }
    places
}

type Place<'a> = (&'a Phase, Option<&'a Load>);

fn find<'a>(record: &'a Record, phase: &str, load: &str) -> Option<Place<'a>> {
    let (_, phase) = phases(record).into_iter().find(|(name, _)| name == phase)?;
    let found = loads(phase).into_iter().find(|(name, _)| name == load).map(|(_, load)| load);
    (found.is_some() || phase.loads.is_empty() && load == NONE).then_some((phase, found))
}

fn cells(phase: &Phase, load: Option<&Load>) -> Vec<String> {
    let none = || NONE.to_owned();
    let per_second = |load: &Load| count((load.deliveries as f64 / phase.seconds).round() as u64);
    let latency = load.map(Load::latency).unwrap_or_default();
    let quantile = |(quantile, _)| match latency.0.is_empty() {
        true => none(),
        false => time(latency.at(quantile) as f64),
    };
    let offered = load.and_then(offered).unwrap_or_else(none);
    let mut cells = vec![offered, load.map_or_else(none, per_second)];
    cells.extend(QUANTILES.map(quantile));
    // The server's time cannot be told apart by load: it stands beside the first one.
    let first = load.is_none_or(|load| phase.loads.first().is_some_and(|f| std::ptr::eq(f, load)));
    let server = phase.server.filter(|_| first);
    let quotient = |value: Option<f64>| value.filter(|_| first);
    cells.push(quotient(phase.cpu_per_delivery()).map_or_else(none, |cpu| time(cpu * 1e9)));
    let busy = |busy: f64| format!("{} %", significant(busy * 100.0));
    cells.push(quotient(phase.server_busy()).map_or_else(none, busy));
    cells.push(match (server, phase.memory_per_connection()) {
        (None, _) => none(),
        (Some(used), None) => bytes(used.resident_after as f64),
        (Some(used), Some(each)) => {
            format!("{} ({} each)", bytes(used.resident_after as f64), bytes(each))
        }
    });
    cells
}

/// The schedule of a load, or its window; nothing is offered to an idle server.
pub(super) fn offered(load: &Load) -> Option<String> {
    match (load.rate, load.in_flight) {
        (Some(rate), _) => Some(format!("{rate}/s")),
        (None, Some(window)) if load.kind != Kind::Idle => {
            Some(format!("{} at a time", count(window)))
        }
        (None, _) => None,
    }
}

/// What one receipt of a load is, and several of them.
pub(super) fn nouns(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Connect => ("connection", "connections"),
        Kind::Idle => ("ping", "pings"),
        Kind::Fanout => ("delivery", "deliveries"),
        Kind::Echo => ("echo", "echoes"),
        Kind::Churn => ("change", "changes"),
    }
}

/// What was run, where and when, and how many receipts were checked: three lines for each label.
pub(super) fn headings(records: &[Labelled<'_>]) -> Vec<String> {
    let mut labels: Vec<&str> = Vec::new();
    for one in records {
        if !labels.contains(&one.label) {
            labels.push(one.label);
        }
    }
    let several = labels.len() > 1;
    let of = |label: &str| {
        let rounds = records.iter().filter(|one| one.label == label).map(|one| one.record);
        let prefix = if several { format!("{label}: ") } else { String::new() };
        prefix + &heading(&rounds.collect::<Vec<_>>())
    };
    labels.into_iter().map(of).collect()
}

/// Of the rounds of one thing.
fn heading(rounds: &[&Record]) -> String {
    let Some(first) = rounds.first() else { return String::new() };
    let loads = || rounds.iter().flat_map(|record| &record.phases).flat_map(|phase| &phase.loads);
    let sum = |of: fn(&Load) -> u64| loads().map(of).sum::<u64>();
    let (due, received) = (sum(|load| load.all_due), sum(|load| load.all_received));
    format!(
        "{} against {}, {}{}{}\n{} connections from {}, {}, bench-harness {}\n\
         {} operations, {} receipts{}, each exactly once",
        first.scenario,
        first.server,
        date(first.began),
        if rounds.len() > 1 { format!(", {} rounds", rounds.len()) } else { String::new() },
        if rounds.iter().all(|record| record.complete) { "" } else { ", INTERRUPTED" },
        count(first.connections),
        counted(first.processes, "process", "processes"),
        first.host,
        first.harness,
        count(sum(|load| load.all_sent)),
        count(received),
        if due == received { String::new() } else { format!(" of {} due", count(due)) },
    ) + &stalled(rounds)
}

/// A line on the clients that did not read, if there were any.
fn stalled(rounds: &[&Record]) -> String {
    let found = || rounds.iter().filter_map(|record| record.stalled);
    let sum = |of: fn(Stalled) -> u64| found().map(of).sum::<u64>();
    let clients = sum(|found| found.clients);
    if clients == 0 {
        return String::new();
    }
    format!(
        "\n{} did not read: {} closed by the server; {} reached them later, {} skipped",
        counted(clients, "client", "clients"),
        count(sum(|found| found.closed)),
        counted(sum(|found| found.received), "broadcast", "broadcasts"),
        count(sum(|found| found.skipped)),
    )
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Three digits of a figure above 1, two decimals below.
pub(super) fn significant(value: f64) -> String {
    let decimals = match value.abs() {
        at if at >= 99.95 || value == 0.0 => 0,
        at if at >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// Nanoseconds in the unit that leaves one to three digits before the point.
pub(super) fn time(nanoseconds: f64) -> String {
    scaled(nanoseconds, &["ns", "µs", "ms", "s"])
}

/// Bytes in powers of a thousand.
pub(super) fn bytes(bytes: f64) -> String {
    scaled(bytes, &["B", "kB", "MB", "GB"])
}

fn scaled(value: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut units = units.iter();
    let mut unit = units.next();
    while value.abs() >= 999.5 {
        let Some(next) = units.next() else { break };
        value /= 1000.0;
        unit = Some(next);
    }
    let whole = unit.is_some_and(|unit| ["ns", "B"].contains(unit)) && value.fract() == 0.0;
    let number = if whole { format!("{value:.0}") } else { significant(value) };
    format!("{number} {}", unit.unwrap_or(&""))
}

/// A number with a comma before every third digit.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `2026-11-27 15:20 UTC`.
pub(super) fn date(epoch: f64) -> String {
    let seconds = Duration::try_from_secs_f64(epoch).unwrap_or_default().as_secs();
    // Days counted from 1 March of the year 0, so that the odd day of a leap year comes last.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        let texts = [0.0, 812.0, 999.6, 1234.0, 99_960.0, 5e6, 123_456_789.0, 7.2e12].map(time);
        let expected =
            ["0 ns", "812 ns", "1.00 µs", "1.23 µs", "100 µs", "5.00 ms", "123 ms", "7200 s"];
        assert_eq!(texts, expected);
        assert_eq!(bytes(378.4), "378 B");
        assert_eq!(bytes(-2_560.0), "-2.56 kB");
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // As `date -u -d @N` says.
        assert_eq!(date(0.0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_399.9), "2000-02-28 23:59 UTC");
        assert_eq!(date(951_868_800.0), "2000-03-01 00:00 UTC");
        assert_eq!(date(1_709_164_800.0), "2024-02-29 00:00 UTC");
        assert_eq!(date(1_795_793_520.0), "2026-11-27 15:32 UTC");
    }
}
