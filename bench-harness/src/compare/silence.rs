//! Loads that one side did not serve: what ratios cannot say.
//!
//! A ratio takes a figure of each side, so what a build that delivers nothing within the measured
//! part does to a row is to take it away. On a starved machine a short window may be empty by
//! chance; equal builds have such windows as often as each other. If it is always the same side,
//! that is as likely as that as many coins fall alike. If it is so in every round, each has two
//! coins: of builds that are silent by chance, each for itself, in half of all rounds at least
//! either both are or none is.

use serde::Serialize;

use super::stats;
use crate::record::{Kind, Record};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Side {
    Base,
    New,
}

/// A load of which one side delivered nothing in some rounds in which the other one did, and
/// never the other way round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Silence {
    pub(crate) phase: String,
    pub(crate) load: String,
    /// The silent one.
    pub(crate) side: Side,
    pub(crate) rounds: usize,
    pub(crate) rounds_in_all: usize,
    /// So many are no chance.
    pub(crate) rounds_needed: usize,
}

/// Silences in rounds of (base, new), all of one shape: those that are certain, and those that a
/// side has never broken. Equal builds have a certain one with probability `tail` at most.
pub(super) fn find(rounds: &[(Record, Record)], tail: f64) -> Vec<Silence> {
    let Some((first, _)) = rounds.first() else { return Vec::new() };
    // Pings come when the server likes, seconds apart.
    let served = |kind| kind != Kind::Idle;
    let loads = first.phases.iter().flat_map(|phase| &phase.loads);
    let tests = loads.filter(|load| served(load.kind)).count().max(1);
    let coins = stats::rounds_needed(tail / tests as f64);
    let mut found = Vec::new();
    for (at, phase) in first.phases.iter().enumerate() {
        for (index, load) in phase.loads.iter().enumerate().filter(|(_, load)| served(load.kind)) {
            let count = |record: &Record| record.phases[at].loads[index].deliveries;
            let counts: Vec<_> =
                rounds.iter().map(|(base, new)| (count(base), count(new))).collect();
            let Some((side, silent)) = silent(&counts) else { continue };
            let always = silent == rounds.len();
            let one = Silence {
                phase: phase.name.clone(),
                load: load.name.clone(),
                side,
                rounds: silent,
                rounds_in_all: rounds.len(),
                rounds_needed: if always { coins.div_ceil(2) } else { coins },
            };
            if one.is_certain() || side.never(&counts) {
                found.push(one);
            }
        }
    }
    found
}

/// Which side alone delivered nothing, if it is always the same, and in how many of the rounds,
/// from how many (base, new) delivered.
fn silent(counts: &[(u64, u64)]) -> Option<(Side, usize)> {
    let without = |test: fn(&&(u64, u64)) -> bool| counts.iter().filter(test).count();
    let base = without(|(base, new)| *base == 0 && *new > 0);
    let new = without(|(base, new)| *base > 0 && *new == 0);
    match (base, new) {
        (1.., 0) => Some((Side::Base, base)),
        (0, 1..) => Some((Side::New, new)),
        _ => None,
    }
}

impl Side {
    /// Whether it delivered nothing at all.
    fn never(self, counts: &[(u64, u64)]) -> bool {
        counts.iter().all(|(base, new)| match self {
            Side::Base => *base == 0,
            Side::New => *new == 0,
        })
    }
}

impl Silence {
    /// Whether it is no chance.
    pub(super) fn is_certain(&self) -> bool {
        self.rounds >= self.rounds_needed
    }

    /// Whether it fails the new build.
    pub(super) fn is_regression(&self) -> bool {
        self.side == Side::New && self.is_certain()
    }

    pub(super) fn sentence(&self) -> String {
        let Self { phase, load, side, rounds, rounds_in_all, rounds_needed } = self;
        let load = if load == phase { String::new() } else { format!(" {load}") };
        let (silent, other) = match side {
            Side::Base => ("base", "new build"),
            Side::New => ("new build", "base"),
        };
        let so = match (side, self.is_certain()) {
            (_, false) => format!("; it takes {rounds_needed} to be sure"),
            (Side::Base, true) => "; there is nothing to compare with".into(),
            (Side::New, true) => String::new(),
        };
        format!(
            "{phase}{load}: the {silent} delivered nothing within the measured part, and the \
             {other} did, in {rounds} of {rounds_in_all} rounds{so}"
        )
    }
}
