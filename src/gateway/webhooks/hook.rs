//! One backend: what waits for it, how many requests are under way, and whether it is down.
//!
//! What concerns one socket, or one room, is a *lane*: its first job is under way or waits, the
//! others stay behind it. Whoever changes something calls `pump`, which starts the requests that
//! may be made now; each is a task of the control thread. There is no task that only waits.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::answer::{Outcome, Reply, Verdict, attempt};
use super::breaker::{Breaker, Gate, Turn};
use super::config::{Order, Settings};
use super::message::Message;
use crate::gateway::state::State;

/// Lines in the log about what was lost, at most one in this time.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// Something to tell.
struct Job {
    message: Message,
    lane: Arc<str>,
    /// Who waits for the answer.
    waiter: Option<Waiter>,
    attempts: u32,
    since: Instant,
}

struct Waiter {
    sender: oneshot::Sender<Ended>,
    until: Instant,
}

/// What the one who waits is given.
pub(super) type Ended = Result<Answered, Outcome>;

/// A request that was answered.
#[derive(Debug)]
pub(super) enum Answered {
    Taken(Reply),
    Refused(Reply),
}

/// What concerns one socket or room, in order.
#[derive(Default)]
struct Lane {
    jobs: VecDeque<Job>,
    /// It is among those that may be served.
    is_lined_up: bool,
    /// Its first jobs are under way, or wait for another attempt.
    is_busy: bool,
}

/// What holds at the moment.
struct Now<'a> {
    state: &'a Arc<State>,
    settings: &'a Arc<Settings>,
    time: Instant,
}

/// Why a request has failed.
struct Failure {
    why: String,
    /// It is one of the attempts that a job has.
    counts: bool,
    /// What the backend has asked for.
    pause: Duration,
}

/// What is sent in one request.
struct Load {
    jobs: Vec<Job>,
    /// Their lanes.
    lanes: Vec<Arc<str>>,
    is_batch: bool,
    is_probe: bool,
}

#[derive(Default)]
struct Inner {
    lanes: HashMap<Arc<str>, Lane>,
    /// Lanes whose first job may be sent; those that somebody waits for apart.
    ready: VecDeque<Arc<str>>,
    urgent: VecDeque<Arc<str>>,
    /// Jobs that have not ended, and their bytes.
    jobs: usize,
    bytes: usize,
    in_flight: usize,
    breaker: Breaker,
    /// When `pump` is called for the time alone.
    alarm: Option<Instant>,
    losses: Losses,
}

/// What was lost since the last line in the log.
#[derive(Default)]
struct Losses {
    logged: Option<Instant>,
    untold: u64,
}

/// One backend, for as long as it is configured or something waits for it.
pub(super) struct Hook {
    pub(super) name: Box<str>,
    settings: ArcSwap<Settings>,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How a backend is doing, for metrics.
#[derive(Debug, Clone)]
pub(crate) struct Gauges {
    pub(crate) name: Box<str>,
    /// Happenings that have not ended.
    pub(crate) queued: usize,
    /// Their bytes.
    pub(crate) bytes: usize,
    /// Requests under way.
    pub(crate) in_flight: usize,
    /// Whether it is left alone, as it is down.
    pub(crate) is_open: bool,
}

/// What was asked, until it is known how it has ended: counts it once, whatever happens.
pub(super) struct Asked {
    state: Arc<State>,
    hook: Arc<Hook>,
    since: Instant,
    outcome: Outcome,
}

impl Asked {
    /// How it has ended.
    pub(super) fn ends(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let (outcome, took) = (self.outcome, self.since.elapsed());
        self.hook.ended(&self.state, &mut self.hook.lock(), outcome, took, "nobody waits for it");
    }
}

impl Hook {
    pub(super) fn new(settings: Settings) -> Hook {
        let name = settings.config.name.as_str().into();
        Hook { name, settings: ArcSwap::from_pointee(settings), inner: Mutex::default() }
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Other settings hold for the next request.
    pub(super) fn configure(&self, settings: Arc<Settings>) {
        self.settings.store(settings);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn gauges(&self) -> Gauges {
        let inner = self.lock();
        let is_open = inner.breaker.gate(Instant::now()) != Gate::Closed;
        let Inner { jobs, bytes, in_flight, .. } = *inner;
        Gauges { name: self.name.clone(), queued: jobs, bytes, in_flight, is_open }
    }

    /// Tells something that nobody waits for. Never waits.
    ///
    /// # Errors
    /// Why it is lost, which is counted.
    pub(super) fn tell(
        self: &Arc<Hook>,
        state: &Arc<State>,
        message: Message,
    ) -> Result<(), Outcome> {
        let mut inner = self.lock();
        let pushed = self.push(&mut inner, message, None, Instant::now());
        match pushed {
            Ok(()) => self.pump(state, &mut inner),
            Err(outcome) => self.ended(state, &mut inner, outcome, Duration::ZERO, "not taken"),
        }
        pushed
    }

    /// Asks something, and waits for the answer. How it has ended is for the caller to say.
    pub(super) async fn ask(
        self: &Arc<Hook>,
        state: &Arc<State>,
        message: Message,
    ) -> (Asked, Ended) {
        let since = Instant::now();
        let outcome = Outcome::Abandoned;
        let asked = Asked { state: state.clone(), hook: self.clone(), since, outcome };
        let until = since + self.settings.load().config.answer_within.0;
        let (sender, receiver) = oneshot::channel();
        let waiter = Some(Waiter { sender, until });
        let pushed = {
            let mut inner = self.lock();
            let pushed = self.push(&mut inner, message, waiter, since);
            if pushed.is_ok() {
                self.pump(state, &mut inner);
            }
            pushed
        };
        if let Err(outcome) = pushed {
            return (asked, Err(outcome));
        }
        // Timers are made on the thread that they run on.
        let wait = async move { tokio::time::timeout_at(until.into(), receiver).await };
        let waited = state.on_control(wait).await;
        let ended = match waited {
            Some(Ok(Ok(ended))) => ended,
            Some(Err(_)) => Err(Outcome::TimedOut),
            Some(Ok(Err(_))) | None => Err(Outcome::ShutDown),
        };
        (asked, ended)
    }

    fn push(
        &self,
        inner: &mut Inner,
        message: Message,
        waiter: Option<Waiter>,
        since: Instant,
    ) -> Result<(), Outcome> {
        let settings = self.settings.load();
        let config = &settings.config;
        let bytes = inner.bytes + message.size();
        if inner.jobs >= config.queue || bytes > config.queue_bytes.0 {
            return Err(Outcome::QueueFull);
        }
        let is_down = matches!(inner.breaker.gate(since), Gate::Open(_) | Gate::Probing);
        if waiter.is_some() && is_down {
            return Err(Outcome::BackendDown);
        }
        inner.jobs += 1;
        inner.bytes = bytes;
        let lane: Arc<str> = match config.order {
            Order::Socket => message.subject.as_str().into(),
            Order::None => message.id.as_str().into(),
        };
        let entry = inner.lanes.entry(lane.clone()).or_default();
        entry.jobs.push_back(Job { message, lane: lane.clone(), waiter, attempts: 0, since });
        inner.line_up(lane);
        Ok(())
    }

    /// Starts the requests that may be made now.
    fn pump(self: &Arc<Hook>, state: &Arc<State>, inner: &mut Inner) {
        let settings = self.settings.load_full();
        while inner.in_flight < settings.config.concurrency.max(1) && inner.has_ready() {
            let now = Now { state, settings: &settings, time: Instant::now() };
            match inner.breaker.gate(now.time) {
                Gate::Closed | Gate::Ajar => {}
                Gate::Probing => return,
                Gate::Open(until) => return self.set_alarm(state, inner, until),
            }
            let mut load = match self.take(&now, inner) {
                Taken::Load(load) => load,
                Taken::Nothing => continue,
                Taken::Later(at) => return self.set_alarm(state, inner, at),
            };
            load.is_probe = inner.breaker.begin();
            inner.in_flight += 1;
            let (hook, settings, state_of_task) = (self.clone(), settings.clone(), state.clone());
            state.spawn(async move { hook.deliver(&state_of_task, &settings, load).await });
        }
    }

    /// Takes what goes into the next request.
    fn take(&self, now: &Now<'_>, inner: &mut Inner) -> Taken {
        let mut load =
            Load { jobs: Vec::new(), lanes: Vec::new(), is_batch: false, is_probe: false };
        if let Some(lane) = inner.urgent.pop_front() {
            self.take_from(now, inner, lane, 1, &mut load);
            return load.or_nothing();
        }
        let Some(batch) = now.settings.config.batch else {
            if let Some(lane) = inner.ready.pop_front() {
                self.take_from(now, inner, lane, 1, &mut load);
            }
            return load.or_nothing();
        };
        if let Some(at) = inner.batch_due(batch.events, batch.within.0)
            && at > now.time
        {
            return Taken::Later(at);
        }
        load.is_batch = true;
        while load.jobs.len() < batch.events
            && let Some(lane) = inner.ready.pop_front()
        {
            let room = batch.events - load.jobs.len();
            self.take_from(now, inner, lane, room, &mut load);
        }
        load.or_nothing()
    }

    /// Takes up to `count` jobs of a lane that is ready; what is over already ends here.
    fn take_from(
        &self,
        now: &Now<'_>,
        inner: &mut Inner,
        lane: Arc<str>,
        count: usize,
        load: &mut Load,
    ) {
        let before = load.jobs.len();
        if let Some(lane) = inner.lanes.get_mut(&lane) {
            lane.is_lined_up = false;
        }
        while load.jobs.len() - before < count {
            let Some(jobs) = inner.lanes.get_mut(&lane).map(|lane| &mut lane.jobs) else { break };
            let Some(first) = jobs.front() else { break };
            if load.is_batch && first.waiter.is_some() {
                break;
            }
            let Some(job) = jobs.pop_front() else { break };
            match &job.waiter {
                // Whoever waited has counted it.
                Some(waiter) if waiter.sender.is_closed() => inner.release(&job),
                None if now.is_too_old(&job) => {
                    self.lost(now.state, inner, &job, Outcome::Expired, "it is too old");
                }
                _ => load.jobs.push(job),
            }
        }
        if load.jobs.len() > before {
            if let Some(lane) = inner.lanes.get_mut(&lane) {
                lane.is_busy = true;
            }
            load.lanes.push(lane);
        } else {
            inner.line_up(lane);
        }
    }

    async fn deliver(self: Arc<Hook>, state: &Arc<State>, settings: &Arc<Settings>, load: Load) {
        let messages: Vec<_> = load.jobs.iter().map(|job| &job.message).collect();
        let is_awaited = load.jobs.iter().any(|job| job.waiter.is_some());
        let started = Instant::now();
        let verdict = attempt(settings, &messages, load.is_batch, is_awaited).await;
        state.metrics.attempt(&self.name, verdict.is_good(), started.elapsed());
        // Its connection is free for the next request then.
        tokio::task::yield_now().await;
        let now = Now { state, settings, time: Instant::now() };
        let inner = &mut *self.lock();
        inner.in_flight -= 1;
        let was_closed = inner.breaker.gate(now.time) == Gate::Closed;
        let breaker = &settings.config.breaker;
        match inner.breaker.end(breaker, load.is_probe, verdict.is_good(), now.time) {
            Turn::Stays => {}
            Turn::Closes => tracing::info!(webhook = &*self.name, "the backend is back"),
            Turn::Opens => {
                tracing::warn!(webhook = &*self.name, "the backend is down, leaving it alone");
                inner.fail_waiters();
            }
        }
        match verdict {
            Verdict::Failed { why, is_down, pause } => {
                // A probe that finds nobody says nothing about what it has brought.
                let counts = was_closed || !is_down;
                let pause = pause.unwrap_or_default().min(settings.config.max_backoff.0);
                let again = self.sort_out(&now, inner, load, &Failure { why, counts, pause });
                self.again_later(state, again);
            }
            verdict => self.finish(state, inner, load, verdict),
        }
        self.pump(state, inner);
    }

    /// Ends the jobs of a request that was answered.
    fn finish(&self, state: &State, inner: &mut Inner, load: Load, verdict: Verdict) {
        let (outcome, why) = match &verdict {
            Verdict::Taken(_) => (Outcome::Delivered, ""),
            Verdict::Refused(_) => (Outcome::Refused, ""),
            Verdict::Unusable(why) => (Outcome::BadAnswer, why.as_str()),
            Verdict::Failed { why, .. } => (Outcome::Failed, why.as_str()),
        };
        for job in &load.jobs {
            inner.release(job);
            if job.waiter.is_none() {
                self.ended(state, inner, outcome, job.since.elapsed(), why);
            }
        }
        // Only a job that is alone in its request is awaited.
        let waiter = load.jobs.into_iter().find_map(|job| job.waiter);
        if let Some(waiter) = waiter {
            let _ = waiter.sender.send(match verdict {
                Verdict::Taken(reply) => Ok(Answered::Taken(reply)),
                Verdict::Refused(reply) => Ok(Answered::Refused(reply)),
                Verdict::Unusable(_) | Verdict::Failed { .. } => Err(outcome),
            });
        }
        for lane in load.lanes {
            inner.free(lane);
        }
    }

    /// Which jobs of a request that has failed are tried again, and when; the others end. They go
    /// back to the heads of their lanes, which stay busy until then.
    fn sort_out(&self, now: &Now<'_>, inner: &mut Inner, load: Load, failure: &Failure) -> Again {
        let config = &now.settings.config;
        let attempts = load.jobs.iter().map(|job| job.attempts).min().unwrap_or_default();
        let pause = failure.pause + jitter(config.backoff.0, config.max_backoff.0, attempts);
        let is_open = inner.breaker.gate(now.time) != Gate::Closed;
        let mut lanes = Vec::new();
        for mut job in load.jobs.into_iter().rev() {
            job.attempts += u32::from(failure.counts);
            let outcome = match &job.waiter {
                Some(_) if is_open => Some(Outcome::BackendDown),
                Some(waiter) if now.time + pause >= waiter.until => Some(Outcome::Failed),
                None if job.attempts > config.retries => Some(Outcome::Failed),
                None if now.is_too_old(&job) => Some(Outcome::Expired),
                _ => None,
            };
            match outcome {
                Some(outcome) => self.end(now.state, inner, job, outcome, &failure.why),
                None => {
                    lanes.push(job.lane.clone());
                    inner.lanes.entry(job.lane.clone()).or_default().jobs.push_front(job);
                }
            }
        }
        // The others go on at once.
        for lane in load.lanes {
            if !lanes.contains(&lane) {
                inner.free(lane);
            }
        }
        Again { lanes, pause }
    }

    fn again_later(self: &Arc<Hook>, state: &Arc<State>, again: Again) {
        if again.lanes.is_empty() {
            return;
        }
        let (hook, state_of_task) = (self.clone(), state.clone());
        state.spawn(async move {
            tokio::time::sleep(again.pause).await;
            let mut inner = hook.lock();
            for lane in again.lanes {
                inner.free(lane);
            }
            hook.pump(&state_of_task, &mut inner);
        });
    }

    /// A job comes to an end without an answer.
    fn end(&self, state: &State, inner: &mut Inner, job: Job, outcome: Outcome, why: &str) {
        match job.waiter {
            None => self.lost(state, inner, &job, outcome, why),
            Some(_) => inner.release(&job),
        }
        if let Some(waiter) = job.waiter {
            let _ = waiter.sender.send(Err(outcome));
        }
    }

    fn lost(&self, state: &State, inner: &mut Inner, job: &Job, outcome: Outcome, why: &str) {
        inner.release(job);
        self.ended(state, inner, outcome, job.since.elapsed(), why);
    }

    /// Counts how something has ended; what is lost also goes to the log, now and then.
    fn ended(&self, state: &State, inner: &mut Inner, outcome: Outcome, took: Duration, why: &str) {
        state.metrics.webhook(&self.name, outcome.as_str(), took);
        if !outcome.is_dead() {
            return;
        }
        let losses = &mut inner.losses;
        losses.untold += 1;
        if losses.logged.is_none_or(|at| at.elapsed() >= LOG_PAUSE) {
            let (webhook, reason) = (&*self.name, outcome.as_str());
            tracing::warn!(webhook, reason, why, lost = losses.untold, "not delivered");
            *losses = Losses { logged: Some(Instant::now()), untold: 0 };
        }
    }

    /// Calls `pump` at that moment, unless it is called before.
    fn set_alarm(self: &Arc<Hook>, state: &Arc<State>, inner: &mut Inner, at: Instant) {
        if inner.alarm.is_some_and(|alarm| alarm <= at) {
            return;
        }
        inner.alarm = Some(at);
        let (hook, state_of_task) = (self.clone(), state.clone());
        state.spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            let mut inner = hook.lock();
            if inner.alarm == Some(at) {
                inner.alarm = None;
                hook.pump(&state_of_task, &mut inner);
            }
        });
    }

    /// Gives up what waits, as the gateway ends.
    pub(super) fn give_up(&self, state: &State) {
        let inner = &mut *self.lock();
        if inner.jobs > 0 {
            let (webhook, lost) = (&*self.name, inner.jobs);
            tracing::warn!(webhook, lost, "not delivered, as the gateway ends");
        }
        for (_, lane) in std::mem::take(&mut inner.lanes) {
            for job in lane.jobs {
                self.end(state, inner, job, Outcome::ShutDown, "the gateway ends");
            }
        }
    }
}

impl Now<'_> {
    fn is_too_old(&self, job: &Job) -> bool {
        self.time.duration_since(job.since) > self.settings.config.max_age.0
    }
}

enum Taken {
    Load(Load),
    /// What was ready is over already.
    Nothing,
    /// A batch may still grow.
    Later(Instant),
}

/// Lanes whose first jobs are tried again after a pause.
struct Again {
    lanes: Vec<Arc<str>>,
    pause: Duration,
}

impl Load {
    fn or_nothing(self) -> Taken {
        if self.jobs.is_empty() { Taken::Nothing } else { Taken::Load(self) }
    }
}

/// A pause of up to `base * 2^attempts`, chosen at random.
fn jitter(base: Duration, max: Duration, attempts: u32) -> Duration {
    let longest = base.saturating_mul(1 << attempts.min(20)).min(max);
    // Without randomness of the system pauses are as long as they may be.
    let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
    longest.mul_f64(share)
}

impl Inner {
    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.urgent.is_empty()
    }

    /// Puts a lane where its first job belongs, unless it is busy or there; it goes if it has none.
    fn line_up(&mut self, lane: Arc<str>) {
        let Some(known) = self.lanes.get_mut(&lane) else { return };
        if known.is_busy || known.is_lined_up {
            return;
        }
        known.is_lined_up = true;
        match known.jobs.front().map(|job| job.waiter.is_some()) {
            None => drop(self.lanes.remove(&lane)),
            Some(true) => self.urgent.push_back(lane),
            Some(false) => self.ready.push_back(lane),
        }
    }

    /// The first jobs of a lane have ended, or may be tried again.
    fn free(&mut self, lane: Arc<str>) {
        if let Some(known) = self.lanes.get_mut(&lane) {
            known.is_busy = false;
            self.line_up(lane);
        }
    }

    /// A job is not held any more.
    fn release(&mut self, job: &Job) {
        self.jobs -= 1;
        self.bytes -= job.message.size();
    }

    /// When the next batch is to leave: at once when it is full; `None` if nothing waits.
    fn batch_due(&self, events: usize, within: Duration) -> Option<Instant> {
        let since = self.ready.iter().filter_map(|lane| self.lanes.get(lane)?.jobs.front());
        let oldest = since.take(events).map(|job| job.since).min()?;
        let mut waiting = 0;
        for lane in &self.ready {
            waiting += self.lanes.get(lane).map_or(0, |lane| lane.jobs.len());
            if waiting >= events {
                return Some(oldest);
            }
        }
        Some(oldest + within)
    }

    /// Nobody waits for a backend that is down.
    fn fail_waiters(&mut self) {
        let mut failed = Vec::new();
        for lane in self.lanes.values_mut() {
            for job in std::mem::take(&mut lane.jobs) {
                match job.waiter {
                    Some(_) => failed.push(job),
                    None => lane.jobs.push_back(job),
                }
            }
        }
        for job in failed {
            self.release(&job);
            if let Some(waiter) = job.waiter {
                let _ = waiter.sender.send(Err(Outcome::BackendDown));
            }
        }
    }
}
