//! When to leave a backend alone: after failures in a row, or too many of the last requests.
//!
//! A socket, or a room, whose requests go on failing says no more about the backend than that: only
//! the first of its failures counts until it has succeeded, so that it takes several of them to
//! open a breaker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gateway::config::units::Time;

/// When no requests are made for a while, as the backend is down; or, where it is there but fails,
/// none that nobody waits for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Failures in a row after which it opens, of as many sockets or rooms unless nobody was
    /// there. Default: 10.
    pub failures: u32,
    /// Percentage of the last requests that have failed at which it opens. Default: 50; 100 leaves
    /// it to the failures in a row.
    pub percent: u32,
    /// How many requests the percentage is of, 2 to 128; with fewer it does not open. Default: 40.
    pub of: u32,
    /// How long it stays open before one request tries whether the backend is back. Default: 5s.
    pub open: Time,
}

impl Default for Config {
    fn default() -> Config {
        Config { failures: 10, percent: 50, of: 40, open: Time::secs(5) }
    }
}

impl Config {
    /// # Errors
    /// A value is out of its range.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Config { failures: 0, .. } => Err("breaker.failures: must be 1 or more".into()),
            Config { percent, .. } if !(1..=100).contains(percent) => {
                Err("breaker.percent: must be 1 to 100".into())
            }
            Config { of, .. } if !(2..=128).contains(of) => {
                Err("breaker.of: must be 2 to 128".into())
            }
            _ => Ok(()),
        }
    }
}

/// What may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Requests may be made.
    Closed,
    /// One request may be made, to see whether the backend is back.
    Ajar,
    /// None before that moment.
    Open(Instant),
    /// None while one request tries.
    Probing,
}

/// What a result has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Stays,
    /// It was closed and is open now.
    Opens,
    /// The backend is back.
    Closes,
}

/// Sockets and rooms whose last request has failed, at most; the oldest are forgotten.
const BLAMED_MAX: usize = 128;

/// How a request has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) is_good: bool,
    /// Whom it was about; empty if its failure cannot be their fault.
    pub(super) subjects: &'a [Arc<str>],
    pub(super) started: Instant,
    /// It is the one that tries.
    pub(super) is_probe: bool,
}

/// The state of one backend.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Failures since the last success.
    in_row: u32,
    /// The last requests, one bit each, set where it has failed.
    history: u128,
    /// How many bits count.
    known: u32,
    blamed: VecDeque<Arc<str>>,
    open: Option<Open>,
    is_probing: bool,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: Instant,
    until: Instant,
}

impl Breaker {
    pub(super) fn gate(&self, now: Instant) -> Gate {
        match self.open {
            None => Gate::Closed,
            Some(_) if self.is_probing => Gate::Probing,
            Some(Open { until, .. }) if now < until => Gate::Open(until),
            Some(_) => Gate::Ajar,
        }
    }

    /// A request is made; true if it is the one that tries.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let is_probe = self.gate(now) == Gate::Ajar;
        self.is_probing |= is_probe;
        is_probe
    }

    /// A request has come to an end.
    pub(super) fn end(&mut self, config: &Config, shown: &Shown<'_>, now: Instant) -> Turn {
        let counts = self.blame(shown);
        if let Some(open) = &mut self.open {
            // One that was under way when it opened says nothing.
            if shown.is_good && shown.started >= open.since {
                (self.open, self.is_probing) = (None, false);
                return Turn::Closes;
            }
            if shown.is_probe {
                (open.until, self.is_probing) = (now + config.open.0, false);
            }
            return Turn::Stays;
        }
        if !counts {
            return Turn::Stays;
        }
        self.history = self.history << 1 | u128::from(!shown.is_good);
        self.known = (self.known + 1).min(config.of);
        self.in_row = if shown.is_good { 0 } else { self.in_row + 1 };
        let mask = u128::MAX >> (128 - config.of);
        let failed = (self.history & mask).count_ones();
        let is_bad = self.known == config.of && failed * 100 > config.percent * config.of;
        if self.in_row < config.failures && !is_bad {
            return Turn::Stays;
        }
        (self.in_row, self.history, self.known) = (0, 0, 0);
        self.open = Some(Open { since: now, until: now + config.open.0 });
        Turn::Opens
    }

    /// Whether the last request about it has failed.
    pub(super) fn blames(&self, subject: &str) -> bool {
        self.blamed.iter().any(|known| **known == *subject)
    }

    /// Remembers whose request has failed; false if it has failed with somebody who is known for
    /// it.
    fn blame(&mut self, shown: &Shown<'_>) -> bool {
        if shown.is_good {
            self.blamed.retain(|known| !shown.subjects.contains(known));
            return true;
        }
        let is_known = shown.subjects.iter().any(|subject| self.blames(subject));
        for subject in shown.subjects {
            if !self.blames(subject) {
                self.blamed.push_back(subject.clone());
            }
        }
        let beyond = self.blamed.len().saturating_sub(BLAMED_MAX);
        self.blamed.drain(..beyond);
        !is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config { failures: 3, percent: 50, of: 10, open: Time::secs(5) };

    /// One character a request: good, bad by nobody's fault, bad about the socket of that letter.
    fn after(breaker: &mut Breaker, results: &str, now: Instant) -> Turn {
        let mut turn = Turn::Stays;
        for result in results.chars() {
            assert_eq!(turn, Turn::Stays, "{results}");
            let is_probe = breaker.begin(now);
            let subjects = match result {
                '+' | '-' => vec![],
                subject => vec![subject.to_lowercase().to_string().into()],
            };
            let is_good = result == '+' || result.is_uppercase();
            let shown = Shown { is_good, subjects: &subjects, started: now, is_probe };
            turn = breaker.end(&CONFIG, &shown, now);
        }
        turn
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_probe_closes_it() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        assert_eq!(after(&mut breaker, "--+--+-", start), Turn::Stays);
        assert_eq!(breaker.gate(start), Gate::Closed);
        assert_eq!(after(&mut breaker, "--", start), Turn::Opens);
        let until = start + CONFIG.open.0;
        assert_eq!(breaker.gate(start), Gate::Open(until));
        // What was under way changes nothing.
        let (good, before) = (true, start - CONFIG.open.0);
        let late = Shown { is_good: good, subjects: &[], started: before, is_probe: false };
        assert_eq!(breaker.end(&CONFIG, &late, start), Turn::Stays);
        assert_eq!(breaker.gate(until), Gate::Ajar);
        assert!(breaker.begin(until));
        assert_eq!(breaker.gate(until), Gate::Probing);
        assert_eq!(breaker.end(&CONFIG, &Shown { is_good: false, ..late }, until), Turn::Stays);
        assert_eq!(breaker.gate(until), Gate::Probing);
        let probe = Shown { is_good: false, subjects: &[], started: until, is_probe: true };
        assert_eq!(breaker.end(&CONFIG, &probe, until), Turn::Stays);
        let again = until + CONFIG.open.0;
        assert_eq!(breaker.gate(until), Gate::Open(again));
        assert!(breaker.begin(again));
        let probe = Shown { is_good: true, started: again, ..probe };
        assert_eq!(breaker.end(&CONFIG, &probe, again), Turn::Closes);
        assert_eq!(breaker.gate(again), Gate::Closed);
        assert_eq!(after(&mut breaker, "--", start), Turn::Stays);
    }

    #[test]
    fn what_was_asked_beside_the_probe_closes_it_as_well() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        assert_eq!(after(&mut breaker, "---", start), Turn::Opens);
        assert_eq!(after(&mut breaker, "-----", start), Turn::Stays);
        assert_eq!(after(&mut breaker, "+", start), Turn::Closes);
    }

    #[test]
    fn one_who_always_fails_does_not_open_it() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        assert_eq!(after(&mut breaker, "aaaaabababababababab", start), Turn::Stays);
        assert!(breaker.blames("a") && !breaker.blames("c"));
        // A success of its own makes the next failure count again.
        assert_eq!(after(&mut breaker, "Aaba", start), Turn::Stays);
        assert_eq!(after(&mut breaker, "cd", start), Turn::Opens);
        // They are known when it is closed again.
        assert_eq!(after(&mut breaker, "+", start), Turn::Closes);
        assert_eq!(after(&mut breaker, "abcdabcdabcd", start), Turn::Stays);
    }

    #[test]
    fn too_large_a_share_of_failures_opens_it() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        // Five of ten are not more than half.
        assert_eq!(after(&mut breaker, "-+-+-+-+-+", start), Turn::Stays);
        assert_eq!(after(&mut breaker, "--", start), Turn::Opens);
        let mut fresh = Breaker::default();
        assert_eq!(after(&mut fresh, "--+--+--", start), Turn::Stays);
    }
}
