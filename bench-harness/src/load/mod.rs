//! The loads of a phase: when operations begin, what is due for them, and what came.
//!
//! A load knows its operations and proves that each receipt came once; `worker.rs` moves bytes and
//! time. Latency counts from the intended time: with a rate the moment that the schedule names,
//! however late the message left; in a closed loop the moment at which a place became free.

mod dial;
mod fanout;
mod own;

use std::collections::VecDeque;
use std::ops::Range;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::client::{Client, Heard};
use crate::record::{Distribution, Interval, Kind};
use crate::scenario::{self, Churn, Scenario};
use crate::shared::Shared;

pub(crate) use fanout::text;

/// A load under way in one process.
pub(crate) enum Load<'a> {
    Dial(dial::Dial<'a>),
    Idle(Tally),
    Fanout(fanout::Fanout<'a>),
    Own(own::Own),
    /// Other processes have it.
    Absent(Tally),
}

/// Which part of all clients a process has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) process: usize,
    pub(crate) processes: usize,
}

/// What a load needs to know when it begins.
pub(crate) struct Setting<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) shared: &'a Shared,
    pub(crate) part: Part,
    pub(crate) phase: usize,
    /// Clients that are connected and stay, of all processes.
    pub(crate) steady: usize,
    /// When the phase begins, warm-up included.
    pub(crate) begin: u64,
}

/// What a load has counted; what is measured is apart from what is verified.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Operations finished and receipts within the measured part.
    pub(crate) finished: u64,
    pub(crate) deliveries: u64,
    pub(crate) intervals: Vec<Interval>,
    /// Warm-up and drain included.
    pub(crate) all_sent: u64,
    pub(crate) all_due: u64,
    pub(crate) all_received: u64,
    /// The interval that is open, while something is measured.
    #[serde(skip)]
    open: Option<Distribution>,
    /// What began until then was measured.
    #[serde(skip)]
    closed: u64,
}

/// When operations begin.
#[derive(Debug)]
pub(crate) enum Pace {
    /// Number k of all processes begins at `begin + k × step` nanoseconds; ours are `next` and
    /// every `stride`-th from there.
    Rate { begin: u64, step: f64, next: u64, stride: u64 },
    /// When each of the free places became free.
    Window(VecDeque<u64>),
    /// Nothing begins any more.
    Over,
}

impl Part {
    /// How many of the first `count` of all clients this process has; they are its first ones.
    pub(crate) fn of(self, count: usize) -> usize {
        (count + self.processes - 1 - self.process) / self.processes
    }

    /// The number among all clients of client `index` of this process.
    pub(crate) fn number(self, index: usize) -> usize {
        index * self.processes + self.process
    }
}

impl Pace {
    pub(crate) fn new(load: &scenario::Load, clients: usize, setting: &Setting<'_>) -> Self {
        let Part { process, processes } = setting.part;
        if let Some(rate) = load.rate {
            let (next, stride) = (process as u64, processes as u64);
            return Pace::Rate { begin: setting.begin, step: 1e9 / rate, next, stride };
        }
        let places = setting.part.of(load.in_flight(clients));
        Pace::Window(VecDeque::from(vec![setting.begin; places]))
    }

    /// The intended time of the next operation, if that is not after `now`.
    pub(crate) fn due(&self, now: u64) -> Option<u64> {
        self.next().filter(|at| *at <= now)
    }

    /// The intended time of the next operation, if one is foreseeable.
    pub(crate) fn next(&self) -> Option<u64> {
        match self {
            Pace::Rate { begin, step, next, .. } => Some(begin + (*next as f64 * step) as u64),
            Pace::Window(places) => places.front().copied(),
            Pace::Over => None,
        }
    }

    /// The operation that was due has begun.
    pub(crate) fn begun(&mut self) {
        match self {
            Pace::Rate { next, stride, .. } => *next += *stride,
            Pace::Window(places) => drop(places.pop_front()),
            Pace::Over => {}
        }
    }

    /// An operation has ended.
    pub(crate) fn ended(&mut self, now: u64) {
        if let Pace::Window(places) = self {
            places.push_back(now);
        }
    }
}

impl Tally {
    /// Enters a receipt; `finished` operations ended with it.
    pub(crate) fn receive(&mut self, intended: u64, now: u64, finished: u64) {
        self.all_received += 1;
        if let Some(open) = &mut self.open {
            open.record(now.saturating_sub(intended));
            self.deliveries += 1;
            self.finished += finished;
        } else if intended <= self.closed {
            // To leave out what was slow at the end would be to leave out the slowest.
            self.overdue(now.saturating_sub(intended), 1);
        }
    }

    /// Enters the latency of `count` receipts that the measured part has not seen come.
    fn overdue(&mut self, latency: u64, count: u64) {
        let last = self.intervals.last_mut().map(|last| &mut last.latency);
        if let Some(last) = self.open.as_mut().or(last) {
            last.record_many(latency, count);
        }
    }

    /// Measures from here on.
    pub(crate) fn open(&mut self) {
        self.open = Some(Distribution::default());
    }

    /// Ends an interval that is `start` to `start + seconds` of the measured part.
    pub(crate) fn close_interval(&mut self, start: f64, seconds: f64) {
        if let Some(open) = &mut self.open {
            let latency = std::mem::take(open);
            self.intervals.push(Interval { start, seconds, latency });
        }
    }

    /// Measures nothing that begins after `now`.
    pub(crate) fn close(&mut self, now: u64) {
        self.open = None;
        self.closed = now;
    }

    /// Adds what another process has counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.finished += other.finished;
        self.deliveries += other.deliveries;
        self.all_sent += other.all_sent;
        self.all_due += other.all_due;
        self.all_received += other.all_received;
        for (at, theirs) in other.intervals.iter().enumerate() {
            match self.intervals.get_mut(at) {
                Some(ours) => ours.latency.add(&theirs.latency),
                None => self.intervals.push(theirs.clone()),
            }
        }
    }
}

impl<'a> Load<'a> {
    /// Load number `at` of the setting's phase.
    pub(crate) fn new(at: usize, setting: &Setting<'a>) -> Self {
        let load = &setting.scenario.phases[setting.phase].loads[at];
        match (load.kind, load.what()) {
            (Kind::Connect, _) | (Kind::Churn, Churn::Reconnect) => {
                Load::Dial(dial::Dial::new(load, setting))
            }
            (Kind::Idle, _) => Load::Idle(Tally::default()),
            (Kind::Fanout, _) => Load::Fanout(fanout::Fanout::new(at, load, setting)),
            (Kind::Echo | Kind::Churn, _) => Load::Own(own::Own::new(at, load, setting)),
        }
    }

    /// Puts `clients` of this process into rooms of `size`.
    pub(crate) fn join(size: usize, clients: Range<usize>, part: Part) -> Self {
        Load::Own(own::Own::join(fanout::room_name(size), size, clients, part))
    }

    /// Heartbeats that should have come over a second ago are as late as they are by `now`.
    pub(crate) fn overdue(&mut self, client: &Client, clients: usize, now: u64) {
        let Load::Idle(tally) = self else { return };
        for late in client.overdue(now, clients).filter(|late| *late > 1_000_000_000) {
            tally.overdue(late, 1);
        }
    }

    /// Nothing begins any more: what the schedule had until `now` and could not begin is as late as
    /// it is by now.
    pub(crate) fn fall_silent(&mut self, now: u64) {
        let (pace, tally, receipts) = match self {
            Load::Dial(dial) => (&mut dial.pace, &mut dial.tally, 1),
            Load::Idle(_) | Load::Absent(_) => return,
            Load::Fanout(fanout) => {
                let receipts = fanout.receipts();
                (&mut fanout.pace, &mut fanout.tally, receipts)
            }
            Load::Own(own) => (&mut own.pace, &mut own.tally, 1),
        };
        while let (Pace::Rate { .. }, Some(intended)) = (&*pace, pace.due(now)) {
            tally.overdue(now - intended, receipts);
            pace.begun();
        }
    }

    /// Begins what is due at `now`.
    pub(crate) fn send(&mut self, client: &mut Client, now: u64) -> Result<()> {
        match self {
            Load::Dial(dial) => dial.send(client, now),
            Load::Idle(_) | Load::Absent(_) => Ok(()),
            Load::Fanout(fanout) => fanout.send(client, now),
            Load::Own(own) => own.send(client, now),
        }
    }

    /// Enters what connection `index` has heard; whether that was for this load. Fails if it should
    /// not have come.
    pub(crate) fn hear(&mut self, index: usize, heard: &Heard<'_>, now: u64) -> Result<bool> {
        match (self, heard) {
            (Load::Dial(dial), Heard::Joined { intended }) => {
                dial.joined(index, *intended, now);
                Ok(true)
            }
            (Load::Idle(tally), Heard::Ping { due }) => {
                tally.all_due += 1;
                tally.receive(*due, now, 1);
                Ok(true)
            }
            (Load::Fanout(fanout), Heard::Packet(packet)) => fanout.receive(index, packet, now),
            (Load::Own(own), Heard::Packet(packet)) => own.receive(index, packet, now),
            _ => Ok(false),
        }
        .map_err(|error| anyhow!("connection {index} {error:#}"))
    }

    /// Operations of this process that have not ended; a broadcast counts in each process.
    pub(crate) fn unfinished(&self) -> u64 {
        match self {
            Load::Dial(dial) => dial.unfinished(),
            Load::Idle(_) | Load::Absent(_) => 0,
            Load::Fanout(fanout) => fanout.unfinished(),
            Load::Own(own) => own.unfinished(),
        }
    }

    /// Whether nothing more will begin: true of what has an end of its own only.
    pub(crate) fn is_complete(&self) -> bool {
        match self {
            Load::Dial(dial) => dial.is_complete,
            Load::Own(own) => own.is_joined(),
            Load::Idle(_) | Load::Fanout(_) | Load::Absent(_) => false,
        }
    }

    /// When this load wants to be asked next, if it knows.
    pub(crate) fn next(&self) -> Option<u64> {
        match self {
            Load::Dial(dial) => dial.pace.next(),
            Load::Idle(_) | Load::Absent(_) => None,
            Load::Fanout(fanout) => fanout.pace.next(),
            Load::Own(own) => own.pace.next(),
        }
    }

    pub(crate) fn tally(&mut self) -> &mut Tally {
        match self {
            Load::Dial(dial) => &mut dial.tally,
            Load::Idle(tally) | Load::Absent(tally) => tally,
            Load::Fanout(fanout) => &mut fanout.tally,
            Load::Own(own) => &mut own.tally,
        }
    }

    /// What has not come, for an error text.
    pub(crate) fn missing(&self) -> Option<String> {
        match self {
            Load::Fanout(fanout) => fanout.missing(),
            Load::Own(own) => own.missing(),
            Load::Dial(_) | Load::Idle(_) | Load::Absent(_) => None,
        }
    }
}

/// Two characters that no other load of the scenario has.
pub(crate) fn tag(phase: usize, load: usize) -> [u8; 2] {
    const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    [LETTERS[phase % 62], LETTERS[load % 62]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_and_places_are_divided_without_rest() {
        for (count, processes) in [(1, 1), (10, 3), (64, 5), (3, 4)] {
            let parts = (0..processes).map(|process| Part { process, processes });
            assert_eq!(parts.clone().map(|part| part.of(count)).sum::<usize>(), count);
            let mut numbers: Vec<usize> =
                parts.flat_map(|part| (0..part.of(count)).map(move |at| part.number(at))).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_schedule_does_not_wait_for_anybody() {
        let mut pace = Pace::Rate { begin: 1000, step: 100.0, next: 1, stride: 2 };
        assert_eq!((pace.due(1099), pace.due(1100)), (None, Some(1100)));
        pace.begun();
        pace.ended(5000);
        assert_eq!(pace.due(9999), Some(1300), "late, but intended for then");
    }

    #[test]
    fn a_place_counts_from_when_it_became_free() {
        let mut pace = Pace::Window(VecDeque::from(vec![10]));
        assert_eq!(pace.due(50), Some(10));
        pace.begun();
        assert_eq!(pace.due(50), None);
        pace.ended(60);
        assert_eq!(pace.due(90), Some(60));
    }

    #[test]
    fn only_what_lies_in_the_measured_part_is_measured() {
        let mut tally = Tally::default();
        tally.receive(0, 9, 1);
        tally.open();
        tally.receive(100, 150, 1);
        tally.close_interval(0.0, 1.0);
        tally.receive(100, 250, 0);
        tally.close_interval(1.0, 1.0);
        tally.close(300);
        tally.receive(290, 400, 1);
        tally.receive(310, 400, 1);
        assert_eq!((tally.all_received, tally.deliveries, tally.finished), (5, 2, 1));
        let mut both = tally.clone();
        both.add(&tally);
        assert_eq!((both.all_received, both.intervals.len()), (10, 2));
        let last = &both.intervals[1].latency;
        assert_eq!((last.0.len(), last.at(1.0)), (4, 150), "what began in time, not what came");
    }
}
