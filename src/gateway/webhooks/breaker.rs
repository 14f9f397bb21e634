//! When to leave a backend alone: after failures in a row, or too many of the last requests.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gateway::config::units::Time;

/// When no requests are made for a while, as the backend is down.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Failures in a row after which it opens. Default: 10.
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

/// The state of one backend.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Failures since the last success.
    in_row: u32,
    /// The last requests, one bit each, set where it has failed.
    history: u128,
    /// How many bits count.
    known: u32,
    open_until: Option<Instant>,
    is_probing: bool,
}

impl Breaker {
    pub(super) fn gate(&self, now: Instant) -> Gate {
        match self.open_until {
            None => Gate::Closed,
            Some(_) if self.is_probing => Gate::Probing,
            Some(until) if now < until => Gate::Open(until),
            Some(_) => Gate::Ajar,
        }
    }

    /// A request is made; true if it is the one that tries.
    pub(super) fn begin(&mut self) -> bool {
        self.is_probing = self.open_until.is_some();
        self.is_probing
    }

    /// A request has come to an end. Those that were under way when it opened do not count.
    pub(super) fn end(
        &mut self,
        config: &Config,
        is_probe: bool,
        is_good: bool,
        now: Instant,
    ) -> Turn {
        if self.open_until.is_some() {
            return if is_probe { self.probed(config.open.0, is_good, now) } else { Turn::Stays };
        }
        self.history = self.history << 1 | u128::from(!is_good);
        self.known = (self.known + 1).min(config.of);
        self.in_row = if is_good { 0 } else { self.in_row + 1 };
        let mask = u128::MAX >> (128 - config.of);
        let failed = (self.history & mask).count_ones();
        let is_bad = self.known == config.of && failed * 100 > config.percent * config.of;
        if self.in_row < config.failures && !is_bad {
            return Turn::Stays;
        }
        *self = Breaker { open_until: Some(now + config.open.0), ..Breaker::default() };
        Turn::Opens
    }

    fn probed(&mut self, open: Duration, is_good: bool, now: Instant) -> Turn {
        let open_until = if is_good { None } else { Some(now + open) };
        *self = Breaker { open_until, ..Breaker::default() };
        if is_good { Turn::Closes } else { Turn::Stays }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config { failures: 3, percent: 50, of: 10, open: Time::secs(5) };

    fn after(breaker: &mut Breaker, results: &str, now: Instant) -> Turn {
        let mut turn = Turn::Stays;
        for result in results.chars() {
            assert_eq!(turn, Turn::Stays);
            let is_probe = breaker.begin();
            turn = breaker.end(&CONFIG, is_probe, result == '+', now);
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
        assert_eq!(breaker.end(&CONFIG, false, true, start), Turn::Stays);
        assert_eq!(breaker.gate(until), Gate::Ajar);
        assert!(breaker.begin());
        assert_eq!(breaker.gate(until), Gate::Probing);
        assert_eq!(breaker.end(&CONFIG, false, false, until), Turn::Stays);
        assert_eq!(breaker.gate(until), Gate::Probing);
        assert_eq!(breaker.end(&CONFIG, true, false, until), Turn::Stays);
        assert_eq!(breaker.gate(until), Gate::Open(until + CONFIG.open.0));
        assert!(breaker.begin());
        assert_eq!(breaker.end(&CONFIG, true, true, until), Turn::Closes);
        assert_eq!(breaker.gate(until), Gate::Closed);
        assert_eq!(after(&mut breaker, "--", start), Turn::Stays);
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
