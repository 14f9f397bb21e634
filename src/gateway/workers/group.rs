//! Workers of one name, who share their work.
//!
//! A job goes to the worker that has the fewest, or to the one that has other jobs of the same
//! socket, so that each client's events stay in order. What a worker has not acknowledged when it
//! goes is given to another one, and marked.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::admission::Wanted;
use crate::Raw;
use crate::gateway::state::State;
use crate::gateway::webhooks::Outcome;

/// Who waits for the answer to an event.
pub(super) type Waiter = UnboundedSender<Result<Raw, Outcome>>;

/// What a worker is to do.
pub(super) struct Work {
    pub(super) group: Arc<Group>,
    pub(super) number: u64,
    pub(super) event: &'static str,
    pub(super) args: Raw,
    /// How long its acknowledgement is of use.
    pub(super) within: Duration,
}

/// An event until it is acknowledged.
struct Job {
    event: &'static str,
    /// The socket or room that it is about.
    lane: Arc<str>,
    /// One object, without the brace at its end.
    raw: Raw,
    waiter: Option<Waiter>,
    until: Instant,
    /// A worker had it that has gone.
    is_again: bool,
    worker: Option<Arc<str>>,
}

impl Job {
    fn size(&self) -> usize {
        let attachments: usize = self.raw.attachments.iter().map(Bytes::len).sum();
        self.raw.json.len() + attachments + self.lane.len() + 256
    }

    /// What a worker gets.
    fn args(&self) -> Raw {
        let end = format!(",\"redelivered\":{}}}", self.is_again);
        let json = [&self.raw.json[..], end.as_bytes()].concat();
        Raw { json: json.into(), ..self.raw.clone() }
    }
}

/// One connected worker.
struct Instance {
    sender: UnboundedSender<Work>,
    /// Jobs that it has, and those that wait for it, by number, which is the order of arrival.
    in_flight: BTreeSet<u64>,
    backlog: BTreeSet<u64>,
}

/// The jobs of one socket or room.
#[derive(Default)]
struct Lane {
    jobs: usize,
    /// The worker that has the first of them.
    home: Option<Arc<str>>,
}

#[derive(Default)]
struct Inner {
    /// As the worker said that came last.
    wanted: Option<Arc<Wanted>>,
    workers: HashMap<Arc<str>, Instance>,
    /// When the last worker has gone.
    empty_since: Option<Instant>,
    jobs: BTreeMap<u64, Job>,
    bytes: usize,
    /// Jobs that no worker has yet.
    pending: BTreeSet<u64>,
    lanes: HashMap<Arc<str>, Lane>,
    next: u64,
    deadlines: VecDeque<(Instant, u64)>,
    is_watched: bool,
}

pub(super) struct Group {
    name: Arc<str>,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Group {
    pub(super) fn new(name: Arc<str>) -> Group {
        Group { name, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Name, workers, jobs.
    pub(super) fn gauges(&self) -> (Arc<str>, usize, usize) {
        let inner = self.lock();
        (self.name.clone(), inner.workers.len(), inner.jobs.len())
    }

    /// Whether somebody is there, has just gone, or has left something behind.
    pub(super) fn is_needed(&self, state: &State) -> bool {
        let (inner, timeout) = (self.lock(), state.rules().config.workers.timeout.0);
        let has_just_gone = inner.empty_since.is_some_and(|since| since.elapsed() < timeout);
        !inner.workers.is_empty() || !inner.jobs.is_empty() || has_just_gone
    }

    pub(super) fn wants(&self, wants: &impl Fn(&Wanted) -> bool) -> bool {
        self.lock().wanted.as_ref().is_some_and(|wanted| wants(wanted))
    }

    pub(super) fn join(
        self: &Arc<Group>,
        state: &Arc<State>,
        id: Arc<str>,
        wanted: Arc<Wanted>,
        sender: UnboundedSender<Work>,
    ) {
        let mut inner = self.lock();
        inner.wanted = Some(wanted);
        inner.empty_since = None;
        let (in_flight, backlog) = (BTreeSet::new(), BTreeSet::new());
        inner.workers.insert(id, Instance { sender, in_flight, backlog });
        self.pump(state, &mut inner);
    }

    /// A worker has gone; others get what it had.
    pub(super) fn leave(self: &Arc<Group>, state: &Arc<State>, id: &str) {
        let inner = &mut *self.lock();
        let Some(gone) = inner.workers.remove(id) else { return };
        if inner.workers.is_empty() {
            inner.empty_since = Some(Instant::now());
        }
        for number in &gone.in_flight {
            if let Some(job) = inner.jobs.get_mut(number) {
                job.is_again = true;
            }
        }
        for number in gone.in_flight.into_iter().chain(gone.backlog) {
            let Some(job) = inner.jobs.get_mut(&number) else { continue };
            job.worker = None;
            if let Some(lane) = inner.lanes.get_mut(&job.lane) {
                lane.home = None;
            }
            inner.pending.insert(number);
        }
        self.pump(state, inner);
    }

    /// Gives an event, or another happening, to one worker. `raw` is one object without the brace
    /// at its end. Never waits.
    ///
    /// # Errors
    /// Why it is lost, which is counted; the waiter hears nothing.
    pub(super) fn give(
        self: &Arc<Group>,
        state: &Arc<State>,
        event: &'static str,
        lane: Arc<str>,
        raw: Raw,
        waiter: Option<Waiter>,
    ) -> Result<(), Outcome> {
        let rules = state.rules();
        let config = &rules.config.workers;
        let until = Instant::now() + config.timeout.0;
        let job = Job { event, lane, raw, waiter, until, is_again: false, worker: None };
        let inner = &mut *self.lock();
        let bytes = inner.bytes + job.size();
        if inner.jobs.len() >= config.queue || bytes > config.queue_bytes.0 {
            self.ended(state, Outcome::QueueFull);
            return Err(Outcome::QueueFull);
        }
        let number = inner.next;
        inner.next += 1;
        inner.bytes = bytes;
        let lane = inner.lanes.entry(job.lane.clone()).or_default();
        lane.jobs += 1;
        inner.jobs.insert(number, job);
        inner.pending.insert(number);
        inner.deadlines.push_back((until, number));
        if !std::mem::replace(&mut inner.is_watched, true) {
            state.spawn(watch(self.clone(), state.clone(), until));
        }
        self.pump(state, inner);
        Ok(())
    }

    /// A worker has acknowledged a job; the first one counts.
    pub(super) fn answered(self: &Arc<Group>, state: &Arc<State>, number: u64, answer: Raw) {
        let inner = &mut *self.lock();
        self.end(state, inner, number, Outcome::Delivered, Ok(answer));
        self.pump(state, inner);
    }

    fn end(
        &self,
        state: &State,
        inner: &mut Inner,
        number: u64,
        outcome: Outcome,
        answer: Result<Raw, Outcome>,
    ) {
        let Some(job) = inner.jobs.remove(&number) else { return };
        inner.bytes -= job.size();
        inner.pending.remove(&number);
        if let Some(worker) = job.worker.as_ref().and_then(|id| inner.workers.get_mut(id)) {
            worker.in_flight.remove(&number);
            worker.backlog.remove(&number);
        }
        if let Some(lane) = inner.lanes.get_mut(&job.lane) {
            lane.jobs -= 1;
            if lane.jobs == 0 {
                inner.lanes.remove(&job.lane);
            }
        }
        self.ended(state, outcome);
        if let Some(waiter) = job.waiter {
            let _ = waiter.send(answer);
        }
    }

    fn ended(&self, state: &State, outcome: Outcome) {
        state.metrics.work(&self.name, outcome);
        if outcome.is_dead() {
            tracing::debug!(group = &*self.name, reason = outcome.as_str(), "not acknowledged");
        }
    }

    /// Gives workers what they may have now.
    fn pump(self: &Arc<Group>, state: &State, inner: &mut Inner) {
        let most = state.rules().config.workers.in_flight;
        while let Some(number) = inner.pending.first().copied() {
            let Some(job) = inner.jobs.get_mut(&number) else {
                inner.pending.pop_first();
                continue;
            };
            let home = inner.lanes.get(&job.lane).and_then(|lane| lane.home.clone());
            let Some(worker) = home.or_else(|| idlest(&inner.workers, most)) else { break };
            inner.pending.pop_first();
            job.worker = Some(worker.clone());
            if let Some(lane) = inner.lanes.get_mut(&job.lane) {
                lane.home = Some(worker.clone());
            }
            if let Some(instance) = inner.workers.get_mut(&worker) {
                instance.backlog.insert(number);
            }
        }
        for instance in inner.workers.values_mut() {
            while instance.in_flight.len() < most
                && let Some(number) = instance.backlog.pop_first()
            {
                let Some(job) = inner.jobs.get(&number) else { continue };
                instance.in_flight.insert(number);
                let within = job.until.saturating_duration_since(Instant::now());
                let (group, event, args) = (self.clone(), job.event, job.args());
                // One that has gone is dealt with by `leave`.
                let _ = instance.sender.send(Work { group, number, event, args, within });
            }
        }
    }

    /// Ends what has not been acknowledged in time; returns when to look again.
    fn expire(self: &Arc<Group>, state: &Arc<State>) -> Option<Instant> {
        let (now, inner) = (Instant::now(), &mut *self.lock());
        while inner.deadlines.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, number)) = inner.deadlines.pop_front() else { break };
            let is_down = inner.workers.is_empty();
            let outcome = if is_down { Outcome::BackendDown } else { Outcome::TimedOut };
            self.end(state, inner, number, outcome, Err(outcome));
        }
        self.pump(state, inner);
        let next = inner.deadlines.front().map(|(at, _)| *at);
        inner.is_watched = next.is_some();
        next
    }
}

/// Ends jobs that are too old, until there are none.
async fn watch(group: Arc<Group>, state: Arc<State>, first: Instant) {
    let mut next = Some(first);
    while let Some(at) = next {
        tokio::time::sleep_until(at).await;
        next = group.expire(&state);
    }
}

/// The worker with the fewest jobs that may have another one.
fn idlest(workers: &HashMap<Arc<str>, Instance>, most: usize) -> Option<Arc<str>> {
    let free =
        workers.iter().filter(|(_, worker)| worker.in_flight.len() + worker.backlog.len() < most);
    let jobs = |worker: &Instance| worker.in_flight.len() + worker.backlog.len();
    free.min_by_key(|(_, worker)| jobs(worker)).map(|(id, _)| id.clone())
}
