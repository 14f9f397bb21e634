//! One backend: how many requests are under way, and whether it is down.
//!
//! Whoever changes something calls `pump`, which starts the requests that may be made now; each is
//! a task of the control thread. There is no task that only waits.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::answer::{Fault, Lost, Outcome, Reply, Verdict, attempt};
use super::breaker::{Breaker, Gate, Shown, Turn};
use super::config::Settings;
use super::lanes::{Job, Lanes, Waiter};
use super::message::Message;
use crate::gateway::seldom::Seldom;
use crate::gateway::state::State;

/// What the one who waits is given.
pub(super) type Ended = Result<Answered, Lost>;

/// A request that was answered.
#[derive(Debug)]
pub(super) enum Answered {
    Taken(Reply),
    Refused(Reply),
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
    /// How many of its jobs may be in one request from now on.
    company: usize,
    /// What the backend has asked for.
    pause: Duration,
}

/// What is sent in one request.
struct Load {
    jobs: Vec<Job>,
    /// Their lanes.
    lanes: Vec<Arc<str>>,
    /// How many jobs it may have.
    most: usize,
    is_batch: bool,
    /// It tries whether somebody is there again.
    is_probe: bool,
    /// It tries whether requests go well again.
    is_trial: bool,
}

#[derive(Default)]
struct Inner {
    queue: Lanes,
    in_flight: usize,
    /// Open while nobody is there; no request is made then.
    down: Breaker,
    /// Open while too many requests fail, for whatever reason. Whoever waits is served, but the
    /// others are held back, so that they do not use up their attempts.
    failing: Breaker,
    /// When `pump` is called for the time alone.
    alarm: Option<Instant>,
    losses: Seldom,
    refusals: Seldom,
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
    /// Whether it is left alone, as it is down or fails.
    pub(crate) is_open: bool,
}

/// What was asked, until it is known how it has ended: counts it once, whatever happens.
pub(super) struct Asked {
    state: Arc<State>,
    hook: Arc<Hook>,
    since: Instant,
    end: Lost,
}

impl Asked {
    /// How it has ended; `why` is for the log.
    pub(super) fn ends(mut self, outcome: Outcome, why: String) {
        self.end = Lost { outcome, why };
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let (Lost { outcome, why }, took) = (&self.end, self.since.elapsed());
        self.hook.ended(&self.state, &mut self.hook.lock(), *outcome, took, why);
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
        let (now, in_flight) = (Instant::now(), inner.in_flight);
        let is_open = [&inner.down, &inner.failing].iter().any(|it| it.gate(now) != Gate::Closed);
        let (queued, bytes) = (inner.queue.jobs(), inner.queue.bytes());
        Gauges { name: self.name.clone(), queued, bytes, in_flight, is_open }
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
        let settings = self.settings.load();
        match inner.queue.push(&settings.config, message, None, Instant::now()) {
            Ok(()) => {
                self.pump(state, &mut inner);
                Ok(())
            }
            Err(Lost { outcome, why }) => {
                self.ended(state, &mut inner, outcome, Duration::ZERO, &why);
                Err(outcome)
            }
        }
    }

    /// Asks something, and waits for the answer. How it has ended is for the caller to say.
    pub(super) async fn ask(
        self: &Arc<Hook>,
        state: &Arc<State>,
        message: Message,
    ) -> (Asked, Ended) {
        let since = Instant::now();
        let end = Lost { outcome: Outcome::Abandoned, why: "nobody waits for it".into() };
        let asked = Asked { state: state.clone(), hook: self.clone(), since, end };
        let until = since + self.settings.load().config.answer_within.0;
        let (sender, receiver) = oneshot::channel();
        let failure: Arc<OnceLock<String>> = Arc::default();
        let waiter = Waiter { sender, until, failure: failure.clone() };
        if let Err(lost) = self.push(state, message, waiter, since) {
            return (asked, Err(lost));
        }
        // Timers are made on the thread that they run on.
        let wait = async move { tokio::time::timeout_at(until.into(), receiver).await };
        let waited = state.on_control(wait).await;
        let lost = |outcome, why: &str| Err(Lost { outcome, why: why.into() });
        let ended = match waited {
            Some(Ok(Ok(ended))) => ended,
            Some(Err(_)) => {
                let why = failure.get().map_or("no answer has come", String::as_str);
                lost(Outcome::TimedOut, why)
            }
            Some(Ok(Err(_))) | None => lost(Outcome::ShutDown, "the gateway ends"),
        };
        (asked, ended)
    }

    fn push(
        self: &Arc<Hook>,
        state: &Arc<State>,
        message: Message,
        waiter: Waiter,
        since: Instant,
    ) -> Result<(), Lost> {
        let mut inner = self.lock();
        let settings = self.settings.load();
        let is_held =
            |breaker: &Breaker| matches!(breaker.gate(since), Gate::Open(_) | Gate::Probing);
        // Nor does anybody wait behind what is held back.
        let is_behind = inner.queue.is_behind(&settings.config, &message);
        if is_held(&inner.down) || (is_behind && is_held(&inner.failing)) {
            return Err(left_alone());
        }
        inner.queue.push(&settings.config, message, Some(waiter), since)?;
        self.pump(state, &mut inner);
        Ok(())
    }

    /// Starts the requests that may be made now.
    fn pump(self: &Arc<Hook>, state: &Arc<State>, inner: &mut Inner) {
        let settings = self.settings.load_full();
        while inner.in_flight < settings.config.concurrency.max(1) && inner.queue.has_ready() {
            let now = Now { state, settings: &settings, time: Instant::now() };
            let gate = inner.gate(now.time);
            match gate {
                Gate::Closed | Gate::Ajar => {}
                Gate::Probing => return,
                Gate::Open(until) => return self.set_alarm(state, inner, until),
            }
            let mut load = match self.take(&now, inner, gate == Gate::Ajar) {
                Taken::Load(load) => load,
                Taken::Nothing => continue,
                Taken::Later(at) => return self.set_alarm(state, inner, at),
            };
            load.is_probe = inner.down.begin(now.time);
            load.is_trial = !load.is_awaited() && inner.failing.begin(now.time);
            inner.in_flight += 1;
            let (hook, settings, state_of_task) = (self.clone(), settings.clone(), state.clone());
            state.spawn(async move { hook.deliver(&state_of_task, &settings, load).await });
        }
    }

    /// Takes what goes into the next request; one job if that is to try the backend.
    fn take(&self, now: &Now<'_>, inner: &mut Inner, is_try: bool) -> Taken {
        if is_try {
            inner.queue.prefer_others_than_blamed(&inner.failing);
        }
        if let Some(lane) = inner.queue.next_urgent() {
            let mut load = Load::of(1, false);
            self.take_from(now, inner, lane, &mut load);
            return load.or_nothing();
        }
        let batch = now.settings.config.batch;
        if let Some(batch) = batch
            && let Some(at) = inner.queue.batch_due(batch.events, batch.within.0)
            && at > now.time
        {
            return Taken::Later(at);
        }
        let most = batch.filter(|_| !is_try).map_or(1, |batch| batch.events);
        let mut load = Load::of(most, batch.is_some());
        while load.jobs.len() < load.most
            && let Some(lane) = inner.queue.next_ready(load.jobs.len())
        {
            self.take_from(now, inner, lane, &mut load);
        }
        load.or_nothing()
    }

    /// Takes jobs of a lane that was ready; what is over already ends here.
    fn take_from(&self, now: &Now<'_>, inner: &mut Inner, lane: Arc<str>, load: &mut Load) {
        let before = load.jobs.len();
        while load.jobs.len() < load.most
            && let Some(first) = inner.queue.first(&lane)
        {
            let is_alone = first.waiter.is_some() || first.company <= load.jobs.len();
            if load.is_batch && is_alone {
                break;
            }
            let Some(job) = inner.queue.pop(&lane) else { break };
            match &job.waiter {
                // Whoever waited has counted it.
                Some(waiter) if waiter.sender.is_closed() => inner.queue.release(&job),
                None if now.is_too_old(&job) => {
                    self.lost(now.state, inner, &job, Outcome::Expired, "it is too old");
                }
                _ => {
                    load.most = load.most.min(job.company);
                    load.jobs.push(job);
                }
            }
        }
        let is_busy = load.jobs.len() > before;
        inner.queue.taken(&lane, is_busy);
        if is_busy {
            load.lanes.push(lane);
        }
    }

    async fn deliver(self: Arc<Hook>, state: &Arc<State>, settings: &Arc<Settings>, load: Load) {
        let messages: Vec<_> = load.jobs.iter().map(|job| &job.message).collect();
        let started = Instant::now();
        let verdict = attempt(settings, &messages, load.is_batch, load.is_awaited()).await;
        let fault = verdict.fault();
        state.metrics.attempt(&self.name, fault.is_none(), started.elapsed());
        // Its connection is free for the next request then.
        tokio::task::yield_now().await;
        let now = Now { state, settings, time: Instant::now() };
        let inner = &mut *self.lock();
        inner.in_flight -= 1;
        let was_up = inner.down.gate(now.time) == Gate::Closed;
        self.judge(&now, inner, &load, fault, started);
        let jobs = load.jobs.len();
        match verdict {
            Verdict::Failed { why, fault, pause } => {
                let (counts, company) = match fault {
                    // A probe that finds nobody says nothing about what it has brought.
                    Fault::Absent | Fault::Down => (was_up, usize::MAX),
                    Fault::Busy => (true, usize::MAX),
                    // Nor does one about the others in it, which are parted until it is found.
                    Fault::Failing => (jobs == 1, (jobs / 2).max(1)),
                };
                let pause = pause.unwrap_or_default().min(settings.config.max_backoff.0);
                let failure = Failure { why, counts, company, pause };
                let again = self.sort_out(&now, inner, load, &failure);
                self.again_later(state, again);
            }
            Verdict::Refused(_) if jobs > 1 => inner.part(load),
            verdict => self.finish(state, inner, load, verdict),
        }
        self.pump(state, inner);
    }

    /// What a request has shown about the backend.
    fn judge(
        &self,
        now: &Now<'_>,
        inner: &mut Inner,
        load: &Load,
        fault: Option<Fault>,
        started: Instant,
    ) {
        let (breaker, webhook) = (&now.settings.config.breaker, &*self.name);
        let subjects: Vec<_> = load.jobs.iter().map(|job| job.subject.clone()).collect();
        let subjects = if fault == Some(Fault::Absent) { &[][..] } else { &subjects[..] };
        let is_good = !matches!(fault, Some(Fault::Absent | Fault::Down));
        let shown = Shown { is_good, subjects, started, is_probe: load.is_probe };
        let turn = inner.down.end(breaker, &shown, now.time);
        match turn {
            Turn::Stays => {}
            Turn::Closes => tracing::info!(webhook, "the backend is back"),
            Turn::Opens => {
                tracing::warn!(webhook, "the backend is down, leaving it alone");
                inner.fail_waiters();
            }
        }
        let shown = Shown { is_good: fault.is_none(), is_probe: load.is_trial, ..shown };
        match (turn, inner.failing.end(breaker, &shown, now.time)) {
            (Turn::Stays, Turn::Closes) => tracing::info!(webhook, "the backend works again"),
            (Turn::Stays, Turn::Opens) => {
                tracing::warn!(webhook, "the backend fails, holding back what nobody waits for");
            }
            // It was said.
            _ => {}
        }
    }

    /// Ends the jobs of a request that was answered.
    fn finish(&self, state: &State, inner: &mut Inner, load: Load, verdict: Verdict) {
        let (outcome, why) = match &verdict {
            Verdict::Taken(_) => (Outcome::Delivered, String::new()),
            Verdict::Refused(reply) => (Outcome::NotTaken, reply.why()),
            Verdict::Unusable(why) => (Outcome::BadAnswer, why.clone()),
            Verdict::Failed { why, .. } => (Outcome::Failed, why.clone()),
        };
        for job in &load.jobs {
            inner.queue.release(job);
            if job.waiter.is_none() {
                self.ended(state, inner, outcome, job.since.elapsed(), &why);
            }
        }
        // Only a job that is alone in its request is awaited.
        let waiter = load.jobs.into_iter().find_map(|job| job.waiter);
        if let Some(waiter) = waiter {
            let _ = waiter.sender.send(match verdict {
                Verdict::Taken(reply) => Ok(Answered::Taken(reply)),
                Verdict::Refused(reply) => Ok(Answered::Refused(reply)),
                Verdict::Unusable(_) | Verdict::Failed { .. } => Err(Lost { outcome, why }),
            });
        }
        for lane in load.lanes {
            inner.queue.free(lane);
        }
    }

    /// Which jobs of a request that has failed are tried again, and when; the others end. They go
    /// back to the heads of their lanes, which stay busy until then.
    fn sort_out(&self, now: &Now<'_>, inner: &mut Inner, load: Load, failure: &Failure) -> Again {
        let config = &now.settings.config;
        let attempts = load.jobs.iter().map(|job| job.attempts).min().unwrap_or_default();
        let pause = failure.pause + jitter(config.backoff.0, config.max_backoff.0, attempts);
        let is_down = inner.down.gate(now.time) != Gate::Closed;
        let (jobs, mut lanes) = (load.jobs.len(), Vec::new());
        for mut job in load.jobs.into_iter().rev() {
            job.attempts += u32::from(failure.counts);
            job.company = job.company.min(failure.company);
            // Nothing is given up for what others in the same request may have done.
            if job.attempts > config.retries && jobs > 1 {
                (job.attempts, job.company) = (config.retries, job.company.min(jobs / 2));
            }
            let outcome = match &job.waiter {
                Some(_) if is_down => Some(Outcome::BackendDown),
                Some(waiter) if now.time + pause >= waiter.until => Some(Outcome::Failed),
                None if job.attempts > config.retries => Some(Outcome::Failed),
                None if now.is_too_old(&job) => Some(Outcome::Expired),
                _ => None,
            };
            match outcome {
                Some(outcome) => self.end(now.state, inner, job, outcome, &failure.why),
                None => {
                    if let Some(waiter) = &job.waiter {
                        let _ = waiter.failure.set(failure.why.clone());
                    }
                    lanes.push(job.lane.clone());
                    inner.queue.put_back(job);
                }
            }
        }
        // The others go on at once.
        for lane in load.lanes {
            if !lanes.contains(&lane) {
                inner.queue.free(lane);
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
                inner.queue.free(lane);
            }
            hook.pump(&state_of_task, &mut inner);
        });
    }

    /// A job comes to an end without an answer.
    fn end(&self, state: &State, inner: &mut Inner, mut job: Job, outcome: Outcome, why: &str) {
        let Some(waiter) = job.waiter.take() else {
            return self.lost(state, inner, &job, outcome, why);
        };
        inner.queue.release(&job);
        let _ = waiter.sender.send(Err(Lost { outcome, why: why.into() }));
    }

    fn lost(&self, state: &State, inner: &mut Inner, job: &Job, outcome: Outcome, why: &str) {
        inner.queue.release(job);
        self.ended(state, inner, outcome, job.since.elapsed(), why);
    }

    /// Counts how something has ended; what is lost or refused also goes to the log, now and then.
    fn ended(&self, state: &State, inner: &mut Inner, outcome: Outcome, took: Duration, why: &str) {
        state.metrics.webhook(&self.name, outcome.as_str(), took);
        let webhook = &*self.name;
        if outcome.is_dead() {
            if let Some(lost) = inner.losses.count() {
                tracing::warn!(webhook, reason = outcome.as_str(), why, lost, "not delivered");
            }
        } else if outcome == Outcome::Refused
            && let Some(refused) = inner.refusals.count()
        {
            tracing::info!(webhook, why, refused, "refused by the backend");
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
        let lost = inner.queue.jobs();
        if lost > 0 {
            let webhook = &*self.name;
            tracing::warn!(webhook, lost, "not delivered, as the gateway ends");
        }
        for job in inner.queue.all() {
            self.end(state, inner, job, Outcome::ShutDown, "the gateway ends");
        }
    }
}

/// How it ends for whoever would wait for a backend that is down.
fn left_alone() -> Lost {
    Lost { outcome: Outcome::BackendDown, why: "the backend is left alone".into() }
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
    fn of(most: usize, is_batch: bool) -> Load {
        let (jobs, lanes) = (Vec::new(), Vec::new());
        Load { jobs, lanes, most, is_batch, is_probe: false, is_trial: false }
    }

    fn is_awaited(&self) -> bool {
        self.jobs.iter().any(|job| job.waiter.is_some())
    }

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
    /// What may be done with what is ready.
    fn gate(&self, now: Instant) -> Gate {
        let (down, failing) = (self.down.gate(now), self.failing.gate(now));
        let goes_on = matches!(down, Gate::Closed | Gate::Ajar);
        match goes_on && failing != Gate::Closed && !self.queue.has_urgent() {
            true => failing,
            false => down,
        }
    }

    /// Parts what was refused as a whole, until it is known which of it the backend refuses.
    fn part(&mut self, load: Load) {
        let company = load.jobs.len() / 2;
        for job in load.jobs.into_iter().rev() {
            self.queue.put_back(Job { company: job.company.min(company), ..job });
        }
        for lane in load.lanes {
            self.queue.free(lane);
        }
    }

    /// Nobody waits for a backend that is down.
    fn fail_waiters(&mut self) {
        for mut job in self.queue.awaited() {
            self.queue.release(&job);
            if let Some(waiter) = job.waiter.take() {
                let _ = waiter.sender.send(Err(left_alone()));
            }
        }
    }
}
