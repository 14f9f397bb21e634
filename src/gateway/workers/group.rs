//! Workers of one name, who share their work.
//!
//! A job goes to the worker that has the fewest, in turn where several have, or to the one that has
//! other jobs of the same socket, so that each client's events stay in order. What a worker has not
//! acknowledged when it goes is given to another one, and marked. One that acknowledges nothing of
//! what it has for half of the time that there is has gone as far as the others are concerned: they
//! get what it has, and it gets one job at a time, seldom, until it acknowledges something.
//!
//! Of one socket only a few jobs are *lined up*, with a worker or waiting for one, and the others
//! follow as these end: one that sends without end is served in turn with the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::admission::{Wanted, Worker};
use super::{Gauges, GroupName};
use crate::Raw;
use crate::gateway::seldom::Seldom;
use crate::gateway::state::{Rules, State};
use crate::gateway::webhooks::Outcome;

/// One socket or room has at most this part of the queue and of its bytes, so that no client can
/// keep the others out,
const LANE_SHARE: usize = 16;
/// but so many jobs and bytes at least.
const LANE_JOBS_MIN: usize = 64;
const LANE_BYTES_MIN: usize = 256 << 10;
/// Jobs of a lane that are lined up: this part of what one worker may have, but so many at least.
const LINED_UP_SHARE: usize = 4;
const LINED_UP_MIN: usize = 8;

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

/// When a job was lined up, as a number that grows from 1, and its own number.
type Place = (u64, u64);

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
    /// None while it is behind others of its lane.
    place: Option<Place>,
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
    worker: Worker,
    sender: UnboundedSender<Work>,
    /// Jobs that it has, and those that wait for it, in order.
    in_flight: BTreeSet<Place>,
    backlog: BTreeSet<Place>,
    /// The place of the last job that it was given.
    turn: u64,
    /// Since when it has acknowledged nothing, while it has something.
    silent_since: Option<Instant>,
    /// It was silent for too long: until then it is not tried again. None once it acknowledges.
    rests_until: Option<Instant>,
}

impl Instance {
    fn jobs(&self) -> usize {
        self.in_flight.len() + self.backlog.len()
    }

    /// It has acknowledged something.
    fn heard(&mut self) {
        self.rests_until = None;
        self.silent_since = (!self.in_flight.is_empty()).then(Instant::now);
    }

    fn forget(&mut self, place: Place) {
        self.in_flight.remove(&place);
        self.backlog.remove(&place);
        if self.in_flight.is_empty() {
            self.silent_since = None;
        }
    }
}

/// The jobs of one socket or room.
#[derive(Default)]
struct Lane {
    /// How many are lined up, and the numbers of the others.
    lined_up: usize,
    behind: BTreeSet<u64>,
    bytes: usize,
    /// The worker that has the first of them.
    home: Option<Arc<str>>,
}

impl Lane {
    fn jobs(&self) -> usize {
        self.lined_up + self.behind.len()
    }
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
    /// Jobs that are lined up and that no worker has yet.
    pending: BTreeSet<Place>,
    lanes: HashMap<Arc<str>, Lane>,
    /// The last number, and the last place.
    numbers: u64,
    places: u64,
    /// When jobs end, by number.
    deadlines: BTreeSet<(Instant, u64)>,
    is_watched: bool,
}

pub(super) struct Group {
    /// The name of the key, and the workers' own.
    name: GroupName,
    inner: Mutex<Inner>,
    losses: Seldom,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Group {
    pub(super) fn new(name: GroupName) -> Group {
        Group { name, inner: Mutex::default(), losses: Seldom::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn gauges(&self) -> Gauges {
        let (inner, (key, name)) = (self.lock(), self.name.clone());
        Gauges { key, name, workers: inner.workers.len(), waiting: inner.jobs.len() }
    }

    /// Whether events may be given to it: somebody is there, or has just gone and may come back.
    pub(super) fn is_there(&self, timeout: Duration) -> bool {
        let inner = self.lock();
        let has_just_gone = inner.empty_since.is_some_and(|since| since.elapsed() < timeout);
        !inner.workers.is_empty() || has_just_gone
    }

    /// Whether it is there, or has left something behind.
    pub(super) fn is_needed(&self, timeout: Duration) -> bool {
        let is_there = self.is_there(timeout);
        is_there || !self.lock().jobs.is_empty()
    }

    /// Whether workers that are there have something to do.
    pub(super) fn is_busy(&self) -> bool {
        let inner = self.lock();
        !inner.workers.is_empty() && !inner.jobs.is_empty()
    }

    /// Those that would not be let in any more as what they are.
    pub(super) fn strangers(&self, rules: &Rules) -> Vec<Arc<str>> {
        let inner = self.lock();
        let strange = inner.workers.iter().filter(|(_, it)| !it.worker.is_permitted(rules));
        strange.map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn wants(&self, wants: &impl Fn(&Wanted) -> bool) -> bool {
        self.lock().wanted.as_ref().is_some_and(|wanted| wants(wanted))
    }

    pub(super) fn join(
        self: &Arc<Group>,
        state: &Arc<State>,
        id: Arc<str>,
        worker: Worker,
        sender: UnboundedSender<Work>,
    ) {
        let inner = &mut *self.lock();
        inner.wanted = Some(worker.wanted.clone());
        inner.empty_since = None;
        let instance = Instance {
            worker,
            sender,
            in_flight: BTreeSet::new(),
            backlog: BTreeSet::new(),
            turn: 0,
            silent_since: None,
            rests_until: None,
        };
        inner.workers.insert(id, instance);
        self.relieve(state, inner);
        self.pump(state, inner);
    }

    /// A worker has gone; others get what it had.
    pub(super) fn leave(self: &Arc<Group>, state: &Arc<State>, id: &str) {
        let inner = &mut *self.lock();
        let Some(gone) = inner.workers.remove(id) else { return };
        if inner.workers.is_empty() {
            inner.empty_since = Some(Instant::now());
        }
        inner.take_back(gone.in_flight, gone.backlog);
        self.pump(state, inner);
    }

    /// Others get what workers have that have been silent for too long.
    fn relieve(&self, state: &State, inner: &mut Inner) {
        let (now, timeout) = (Instant::now(), state.rules().config.workers.timeout.0);
        let mut silent = Vec::new();
        for (id, worker) in &mut inner.workers {
            let Some(since) = worker.silent_since else { continue };
            if now < since + patience(timeout) {
                continue;
            }
            if worker.rests_until.is_none() {
                let (key, name) = (&*self.name.0, &*self.name.1);
                tracing::warn!(key, name, id = &**id, "a worker does not acknowledge anything");
            }
            worker.rests_until = Some(now + timeout);
            silent.push(id.clone());
        }
        if inner.workers.values().all(|worker| worker.rests_until.is_some()) {
            return;
        }
        for id in silent {
            let Some(worker) = inner.workers.get_mut(&id) else { continue };
            worker.silent_since = None;
            let in_flight = std::mem::take(&mut worker.in_flight);
            let backlog = std::mem::take(&mut worker.backlog);
            inner.take_back(in_flight, backlog);
        }
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
        let (is_again, place, worker) = (false, None, None);
        let job = Job { event, lane, raw, waiter, until, is_again, place, worker };
        let inner = &mut *self.lock();
        if inner.is_full(&job, config.queue, config.queue_bytes.0) {
            self.ended(state, Outcome::QueueFull);
            return Err(Outcome::QueueFull);
        }
        inner.numbers += 1;
        let (number, lane) = (inner.numbers, job.lane.clone());
        inner.bytes += job.size();
        let known = inner.lanes.entry(lane.clone()).or_default();
        known.bytes += job.size();
        known.behind.insert(number);
        inner.jobs.insert(number, job);
        inner.deadlines.insert((until, number));
        inner.line_up(&lane, config.in_flight);
        if !std::mem::replace(&mut inner.is_watched, true) {
            let first = until.min(Instant::now() + patience(config.timeout.0));
            state.spawn(watch(self.clone(), state.clone(), first));
        }
        self.pump(state, inner);
        Ok(())
    }

    /// A worker has acknowledged a job; the first one counts.
    pub(super) fn answered(
        self: &Arc<Group>,
        state: &Arc<State>,
        id: &str,
        number: u64,
        answer: Raw,
    ) {
        let inner = &mut *self.lock();
        self.end(state, inner, number, Outcome::Delivered, Ok(answer));
        if let Some(worker) = inner.workers.get_mut(id) {
            worker.heard();
        }
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
        inner.remove(number, &job);
        inner.line_up(&job.lane, state.rules().config.workers.in_flight);
        self.ended(state, outcome);
        if let Some(waiter) = job.waiter {
            let _ = waiter.send(answer);
        }
    }

    /// Counts how something has ended; what is lost also goes to the log, now and then.
    fn ended(&self, state: &State, outcome: Outcome) {
        let (key, name) = (&*self.name.0, &*self.name.1);
        state.metrics.work(key, outcome);
        // What is lost at the end is told by `give_up`.
        if outcome.is_dead()
            && outcome != Outcome::ShutDown
            && let Some(lost) = self.losses.count()
        {
            tracing::warn!(key, name, reason = outcome.as_str(), lost, "not acknowledged");
        }
    }

    /// Gives up what has not been acknowledged, as the gateway ends.
    pub(super) fn give_up(&self, state: &State) {
        let inner = &mut *self.lock();
        let lost = inner.jobs.len();
        if lost > 0 {
            let (key, name) = (&*self.name.0, &*self.name.1);
            tracing::warn!(key, name, lost, "not acknowledged, as the gateway ends");
        }
        while let Some(number) = inner.jobs.keys().next().copied() {
            self.end(state, inner, number, Outcome::ShutDown, Err(Outcome::ShutDown));
        }
    }

    /// Gives workers what they may have now.
    fn pump(self: &Arc<Group>, state: &State, inner: &mut Inner) {
        let (now, most) = (Instant::now(), state.rules().config.workers.in_flight);
        while let Some(place) = inner.pending.first().copied() {
            let Some(job) = inner.jobs.get_mut(&place.1) else {
                inner.pending.pop_first();
                continue;
            };
            let home = inner.lanes.get(&job.lane).and_then(|lane| lane.home.clone());
            // It may have gone while nothing of the lane was with it.
            let home = home.filter(|id| inner.workers.contains_key(id));
            let Some(worker) = home.or_else(|| idlest(&inner.workers, most, now)) else { break };
            inner.pending.pop_first();
            job.worker = Some(worker.clone());
            if let Some(lane) = inner.lanes.get_mut(&job.lane) {
                lane.home = Some(worker.clone());
            }
            if let Some(instance) = inner.workers.get_mut(&worker) {
                instance.backlog.insert(place);
                instance.turn = instance.turn.max(place.0);
            }
        }
        for instance in inner.workers.values_mut() {
            while instance.in_flight.len() < most
                && let Some(place) = instance.backlog.pop_first()
            {
                let number = place.1;
                let Some(job) = inner.jobs.get(&number) else { continue };
                instance.in_flight.insert(place);
                instance.silent_since.get_or_insert(now);
                let within = job.until.saturating_duration_since(now);
                let (group, event, args) = (self.clone(), job.event, job.args());
                // One that has gone is dealt with by `leave`.
                let _ = instance.sender.send(Work { group, number, event, args, within });
            }
        }
    }

    /// Ends what has not been acknowledged in time; returns when to look again.
    fn expire(self: &Arc<Group>, state: &Arc<State>) -> Option<Instant> {
        let (now, inner) = (Instant::now(), &mut *self.lock());
        while inner.deadlines.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, number)) = inner.deadlines.pop_first() else { break };
            let is_down = inner.workers.is_empty();
            let outcome = if is_down { Outcome::BackendDown } else { Outcome::TimedOut };
            self.end(state, inner, number, outcome, Err(outcome));
        }
        self.relieve(state, inner);
        self.pump(state, inner);
        let deadline = inner.deadlines.first().map(|(at, _)| *at);
        inner.is_watched = deadline.is_some();
        let patience = patience(state.rules().config.workers.timeout.0);
        let silent = inner.workers.values().filter_map(|worker| worker.silent_since);
        let silent = silent.map(|since| since + patience).filter(|at| *at > now).min();
        // Whoever is given something from now on is not silent before that.
        Some(deadline?.min(now + patience).min(silent.unwrap_or(now + patience)))
    }
}

impl Inner {
    /// Whether there is no room for another job, in all or for its socket.
    fn is_full(&self, job: &Job, queue: usize, queue_bytes: usize) -> bool {
        let size = job.size();
        let is_greedy = |lane: &Lane| {
            lane.jobs() >= LANE_JOBS_MIN.max(queue / LANE_SHARE)
                || lane.bytes + size > LANE_BYTES_MIN.max(queue_bytes / LANE_SHARE)
        };
        self.jobs.len() >= queue
            || self.bytes + size > queue_bytes
            || self.lanes.get(&job.lane).is_some_and(is_greedy)
    }

    /// Lines up as many jobs of a lane as it may have; forgets a lane without jobs.
    fn line_up(&mut self, name: &Arc<str>, in_flight: usize) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let most = LINED_UP_MIN.max(in_flight / LINED_UP_SHARE);
        while lane.lined_up < most
            && let Some(number) = lane.behind.pop_first()
        {
            let Some(job) = self.jobs.get_mut(&number) else { continue };
            lane.lined_up += 1;
            self.places += 1;
            let place = (self.places, number);
            job.place = Some(place);
            self.pending.insert(place);
        }
        if lane.jobs() == 0 {
            self.lanes.remove(name);
        }
    }

    /// Takes a job that has ended out of everything.
    fn remove(&mut self, number: u64, job: &Job) {
        self.bytes -= job.size();
        self.deadlines.remove(&(job.until, number));
        if let Some(lane) = self.lanes.get_mut(&job.lane) {
            lane.bytes -= job.size();
            match job.place {
                Some(_) => lane.lined_up -= 1,
                None => drop(lane.behind.remove(&number)),
            }
        }
        let Some(place) = job.place else { return };
        self.pending.remove(&place);
        if let Some(instance) = job.worker.as_ref().and_then(|id| self.workers.get_mut(id)) {
            instance.forget(place);
        }
    }

    /// What a worker had waits again, in order.
    fn take_back(&mut self, in_flight: BTreeSet<Place>, backlog: BTreeSet<Place>) {
        for (_, number) in &in_flight {
            if let Some(job) = self.jobs.get_mut(number) {
                job.is_again = true;
            }
        }
        for place in in_flight.into_iter().chain(backlog) {
            let Some(job) = self.jobs.get_mut(&place.1) else { continue };
            job.worker = None;
            if let Some(lane) = self.lanes.get_mut(&job.lane) {
                lane.home = None;
            }
            self.pending.insert(place);
        }
    }
}

/// How long a worker may acknowledge nothing while others are there, as others need time too.
fn patience(timeout: Duration) -> Duration {
    (timeout / 2).max(Duration::from_millis(1))
}

/// Ends jobs that are too old, until there are none.
async fn watch(group: Arc<Group>, state: Arc<State>, first: Instant) {
    let mut next = Some(first);
    while let Some(at) = next {
        tokio::time::sleep_until(at).await;
        next = group.expire(&state);
    }
}

/// The worker with the fewest jobs that may have another one; of several, the one whose last job
/// is the oldest. One that was silent is tried with a single job, after a rest, unless all were.
fn idlest(workers: &HashMap<Arc<str>, Instance>, most: usize, now: Instant) -> Option<Arc<str>> {
    let is_any_awake = workers.values().any(|worker| worker.rests_until.is_none());
    let may = |worker: &Instance| match worker.rests_until {
        Some(until) if is_any_awake => until <= now && worker.jobs() == 0,
        _ => worker.jobs() < most,
    };
    let free = workers.iter().filter(|(_, worker)| may(worker));
    free.min_by_key(|(_, worker)| (worker.jobs(), worker.turn)).map(|(id, _)| id.clone())
}
