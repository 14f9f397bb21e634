//! What waits for one backend, in order.
//!
//! What concerns one socket, or one room, is a *lane*: its first job is under way or waits, the
//! others stay behind it. What a socket or room may have in the queue is bounded as well as the
//! whole, so that one client does not take the places of all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::answer::{Lost, Outcome};
use super::breaker::Breaker;
use super::config::{Config, Order};
use super::hook::Ended;
use super::message::{Kind, Message};

/// A socket or room may have this part of the queue.
const SHARES: usize = 16;
/// And so many jobs whatever the part.
const SHARE_MIN: usize = 64;

/// Something to tell.
pub(super) struct Job {
    pub(super) message: Message,
    pub(super) lane: Arc<str>,
    /// The socket or room that it is about.
    pub(super) subject: Arc<str>,
    /// Who waits for the answer.
    pub(super) waiter: Option<Waiter>,
    pub(super) attempts: u32,
    /// How many jobs may be in one request with it, itself included.
    pub(super) company: usize,
    pub(super) since: Instant,
}

pub(super) struct Waiter {
    pub(super) sender: oneshot::Sender<Ended>,
    pub(super) until: Instant,
    /// Why the first attempt has failed.
    pub(super) failure: Arc<OnceLock<String>>,
}

/// What concerns one socket or room, in order.
#[derive(Default)]
struct Lane {
    jobs: VecDeque<Job>,
    place: Place,
    /// Its first jobs are under way, or wait for another attempt.
    is_busy: bool,
}

/// Among which lanes one is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    None,
    Ready,
    Urgent,
}

/// What a socket or room has that has not ended.
#[derive(Clone, Copy, Default)]
struct Share {
    jobs: usize,
    bytes: usize,
}

#[derive(Default)]
pub(super) struct Lanes {
    lanes: HashMap<Arc<str>, Lane>,
    /// Lanes whose first job may be sent; those that somebody waits for apart.
    ready: VecDeque<Arc<str>>,
    urgent: VecDeque<Arc<str>>,
    /// Jobs of the lanes that are ready.
    ready_jobs: usize,
    shares: HashMap<Arc<str>, Share>,
    /// Jobs that have not ended, and their bytes.
    total: Share,
}

impl Lanes {
    /// How many jobs have not ended.
    pub(super) fn jobs(&self) -> usize {
        self.total.jobs
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        self.total.bytes
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty() || self.has_urgent()
    }

    /// Whether a job is ready that somebody waits for.
    pub(super) fn has_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// Puts a job behind the others of its lane.
    ///
    /// # Errors
    /// Too many wait.
    pub(super) fn push(
        &mut self,
        config: &Config,
        message: Message,
        waiter: Option<Waiter>,
        since: Instant,
    ) -> Result<(), Lost> {
        let full = |why: &str| Lost { outcome: Outcome::QueueFull, why: why.into() };
        self.check(config, &message, waiter.is_some()).map_err(full)?;
        let subject: Arc<str> = message.subject.as_str().into();
        let lane = match config.order {
            Order::Socket => subject.clone(),
            Order::None => message.id.as_str().into(),
        };
        let bytes = message.size();
        for share in [self.shares.entry(subject.clone()).or_default(), &mut self.total] {
            *share = Share { jobs: share.jobs + 1, bytes: share.bytes + bytes };
        }
        let entry = self.lanes.entry(lane.clone()).or_default();
        let (attempts, company) = (0, usize::MAX);
        let job = Job { message, lane: lane.clone(), subject, waiter, attempts, company, since };
        entry.jobs.push_back(job);
        self.ready_jobs += usize::from(entry.place == Place::Ready);
        self.line_up(lane);
        Ok(())
    }

    /// Whether it would come behind something that nobody waits for.
    pub(super) fn is_behind(&self, config: &Config, message: &Message) -> bool {
        let first = self.first(&message.subject).filter(|_| config.order == Order::Socket);
        first.is_some_and(|job| job.waiter.is_none())
    }

    /// Whether there is a place for one more. Beyond what others may fill, an eighth is for what
    /// somebody waits for, and a quarter for clients that come and go.
    fn check(
        &self,
        config: &Config,
        message: &Message,
        is_awaited: bool,
    ) -> Result<(), &'static str> {
        let (size, is_end) = (message.size(), message.kind == Kind::Disconnect);
        let share = self.shares.get(&*message.subject).copied().unwrap_or_default();
        let is_beyond = share.jobs >= (config.queue / SHARES).max(SHARE_MIN)
            || share.bytes + size > config.queue_bytes.0 / SHARES;
        // Its end is told whatever it has sent before, and one thing at a time may be of any size.
        if is_beyond && share.jobs > 0 && !is_end {
            return Err("too much of its socket or room waits");
        }
        let eighths = match message.kind {
            Kind::Connect | Kind::Disconnect => 2,
            Kind::Event if is_awaited => 1,
            _ => 0,
        };
        let most = |of: usize| of.saturating_add(of.div_ceil(8).saturating_mul(eighths));
        let is_full = self.total.jobs >= most(config.queue)
            || self.total.bytes + size > most(config.queue_bytes.0);
        if is_full { Err("too much waits") } else { Ok(()) }
    }

    /// Takes a lane that somebody waits for.
    pub(super) fn next_urgent(&mut self) -> Option<Arc<str>> {
        self.urgent.pop_front()
    }

    /// Takes a lane that is ready, if its first job may be with so many others.
    pub(super) fn next_ready(&mut self, others: usize) -> Option<Arc<str>> {
        let first = self.lanes.get(self.ready.front()?).and_then(|lane| lane.jobs.front());
        if first.is_some_and(|job| job.company <= others) {
            return None;
        }
        let lane = self.ready.pop_front()?;
        self.ready_jobs -= self.lanes.get(&lane).map_or(0, |lane| lane.jobs.len());
        Some(lane)
    }

    /// Lets somebody be the next whose last request has not failed, if there is one.
    pub(super) fn prefer_others_than_blamed(&mut self, breaker: &Breaker) {
        let lanes = &self.lanes;
        let is_good = |lane: &Arc<str>| {
            let first = lanes.get(lane).and_then(|lane| lane.jobs.front());
            first.is_some_and(|job| !breaker.blames(&job.subject))
        };
        for queue in [&mut self.urgent, &mut self.ready] {
            if let Some(lane) = queue.iter().position(is_good).and_then(|at| queue.remove(at)) {
                queue.push_front(lane);
            }
        }
    }

    /// The first job of a lane that was taken.
    pub(super) fn first(&self, lane: &str) -> Option<&Job> {
        self.lanes.get(lane)?.jobs.front()
    }

    pub(super) fn pop(&mut self, lane: &str) -> Option<Job> {
        self.lanes.get_mut(lane)?.jobs.pop_front()
    }

    /// Puts a job back to the head of its lane.
    pub(super) fn put_back(&mut self, job: Job) {
        self.lanes.entry(job.lane.clone()).or_default().jobs.push_front(job);
    }

    /// A lane was taken: its first jobs are under way, or there were none.
    pub(super) fn taken(&mut self, lane: &Arc<str>, is_busy: bool) {
        if let Some(known) = self.lanes.get_mut(lane) {
            (known.place, known.is_busy) = (Place::None, is_busy);
        }
        if !is_busy {
            self.line_up(lane.clone());
        }
    }

    /// Puts a lane where its first job belongs, unless it is busy or there; it goes if it has none.
    fn line_up(&mut self, lane: Arc<str>) {
        let Some(known) = self.lanes.get_mut(&lane) else { return };
        if known.is_busy || known.place != Place::None {
            return;
        }
        match known.jobs.front().map(|job| job.waiter.is_some()) {
            None => drop(self.lanes.remove(&lane)),
            Some(true) => {
                known.place = Place::Urgent;
                self.urgent.push_back(lane);
            }
            Some(false) => {
                known.place = Place::Ready;
                self.ready_jobs += known.jobs.len();
                self.ready.push_back(lane);
            }
        }
    }

    /// The first jobs of a lane have ended, or may be tried again.
    pub(super) fn free(&mut self, lane: Arc<str>) {
        if let Some(known) = self.lanes.get_mut(&lane) {
            known.is_busy = false;
            self.line_up(lane);
        }
    }

    /// A job is not held any more.
    pub(super) fn release(&mut self, job: &Job) {
        let bytes = job.message.size();
        let less = |share: Share| Share { jobs: share.jobs - 1, bytes: share.bytes - bytes };
        self.total = less(self.total);
        if let Some(share) = self.shares.get_mut(&job.subject) {
            *share = less(*share);
            if share.jobs == 0 {
                self.shares.remove(&job.subject);
            }
        }
    }

    /// When the next batch is to leave: at once when it is full, or was sent before; `None` if
    /// nothing waits.
    pub(super) fn batch_due(&self, events: usize, within: Duration) -> Option<Instant> {
        let first = self.first(self.ready.front()?)?;
        let was_sent = first.attempts > 0 || first.company < usize::MAX;
        let wait = if was_sent || self.ready_jobs >= events { Duration::ZERO } else { within };
        Some(first.since + wait)
    }

    /// Takes out what somebody waits for.
    pub(super) fn awaited(&mut self) -> Vec<Job> {
        let mut awaited = Vec::new();
        for lane in self.lanes.values_mut() {
            for job in std::mem::take(&mut lane.jobs) {
                match job.waiter {
                    Some(_) => awaited.push(job),
                    None => lane.jobs.push_back(job),
                }
            }
        }
        let left = self.ready.iter().filter_map(|lane| self.lanes.get(lane));
        self.ready_jobs = left.map(|lane| lane.jobs.len()).sum();
        for lane in std::mem::take(&mut self.urgent) {
            self.taken(&lane, false);
        }
        awaited
    }

    /// Takes out everything that is not under way.
    pub(super) fn all(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.lanes).into_values().flat_map(|lane| lane.jobs).collect()
    }
}
