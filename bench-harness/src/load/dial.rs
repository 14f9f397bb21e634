//! Connections that are made: all of them once, or some of them again and again.

use anyhow::Result;

use super::{Pace, Setting, Tally};
use crate::client::Client;
use crate::record::Kind;
use crate::scenario;
use crate::shared::Shared;

pub(crate) struct Dial<'a> {
    shared: &'a Shared,
    goal: Goal,
    begun: u64,
    pub(crate) is_complete: bool,
    pub(crate) pace: Pace,
    pub(crate) tally: Tally,
}

enum Goal {
    /// So many connections of this process, no more and no fewer.
    Count(usize),
    /// Connections from `first` on leave and come back in turn; `open` are on their way.
    Again { first: usize, turn: usize, open: Vec<bool> },
}

impl<'a> Dial<'a> {
    pub(crate) fn new(load: &scenario::Load, setting: &Setting<'a>) -> Self {
        let (scenario, part) = (setting.scenario, setting.part);
        let all = scenario.clients.count;
        let goal = if load.kind == Kind::Connect {
            Goal::Count(part.of(load.count.unwrap_or(all)))
        } else {
            let first = part.of(scenario.steady() + scenario.clients.stalled());
            Goal::Again { first, turn: 0, open: vec![false; part.of(all) - first] }
        };
        let pace = Pace::new(load, all, setting);
        Self {
            shared: setting.shared,
            goal,
            begun: 0,
            is_complete: false,
            pace,
            tally: Tally::default(),
        }
    }

    pub(crate) fn send(&mut self, client: &mut Client, now: u64) -> Result<()> {
        if let Goal::Count(count) = self.goal {
            let gone = client.truncate(count);
            self.shared.join(-(gone as i64));
            self.is_complete = client.ready() == count;
        }
        loop {
            // The schedule ends with the last connection: nothing behind it is ever overdue.
            if matches!(self.goal, Goal::Count(count) if client.len() == count) {
                self.pace = Pace::Over;
            }
            let Some(intended) = self.pace.due(now) else { return Ok(()) };
            match &mut self.goal {
                Goal::Count(_) => client.start(intended)?,
                Goal::Again { first, turn, open } => {
                    let all = client.len().saturating_sub(*first).min(open.len());
                    let free = (0..all).map(|at| (*turn + at) % all).find(|at| !open[*at]);
                    let Some(at) = free else { return Ok(()) };
                    *turn = at + 1;
                    open[at] = true;
                    self.shared.join(-1);
                    client.restart(*first + at, intended)?;
                }
            }
            self.begun += 1;
            self.tally.all_sent += 1;
            self.tally.all_due += 1;
            self.pace.begun();
        }
    }

    pub(crate) fn joined(&mut self, index: usize, intended: u64, now: u64) {
        if let Goal::Again { first, open, .. } = &mut self.goal
            && let Some(open) = index.checked_sub(*first).and_then(|at| open.get_mut(at))
        {
            *open = false;
        }
        self.shared.join(1);
        self.tally.receive(intended, now, 1);
        self.pace.ended(now);
    }

    pub(crate) fn unfinished(&self) -> u64 {
        self.begun - self.tally.all_received
    }
}
