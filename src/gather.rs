//! What all shards have to say to one question, for a future on any thread.
//!
//! Each shard gets a [`Part`] with its mail and puts its answer into it, once. A part that is
//! dropped instead, because its mailbox was full or its shard has ended, counts as silent, and so
//! does every part that is still out at the deadline: a stalled shard makes an answer incomplete,
//! never late.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// What the shards have answered. Derefs to the value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gathered<T> {
    /// The answers, put together.
    pub value: T,
    /// Whether it is the whole: every shard has answered within
    /// [`Options::requests_timeout`](crate::Options::requests_timeout), and none had more than
    /// [`Options::max_gather_bytes`](crate::Options::max_gather_bytes) to say.
    pub is_complete: bool,
}

impl<T> std::ops::Deref for Gathered<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: IntoIterator> IntoIterator for Gathered<T> {
    type Item = T::Item;
    type IntoIter = T::IntoIter;

    fn into_iter(self) -> T::IntoIter {
        self.value.into_iter()
    }
}

/// The place where parts meet.
struct Gather<T>(Mutex<State<T>>);

struct State<T> {
    parts: Vec<T>,
    /// Parts that are still out.
    missing: usize,
    /// Parts that will not come.
    silent: usize,
    waker: Option<Waker>,
}

impl<T> Gather<T> {
    /// Changes the state, unless all is over; then wakes whoever waits, if now it is.
    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = lock(&self.0);
        if state.missing == 0 {
            return;
        }
        change(&mut state);
        let waker = if state.missing == 0 { state.waker.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What one shard has to answer.
pub(crate) struct Part<T>(Option<Arc<Gather<T>>>);

impl<T> Part<T> {
    /// The answer of this shard.
    pub(crate) fn put(mut self, answer: T) {
        if let Some(gather) = self.0.take() {
            gather.change(|state| {
                state.missing -= 1;
                state.parts.push(answer);
            });
        }
    }
}

impl<T> Drop for Part<T> {
    fn drop(&mut self) {
        if let Some(gather) = self.0.take() {
            gather.change(|state| {
                state.missing -= 1;
                state.silent += 1;
            });
        }
    }
}

/// The answers of all shards, when they have come or their time is up: those that came, and the
/// number of shards that were silent.
pub(crate) struct Gathering<T> {
    gather: Arc<Gather<T>>,
    deadline: Option<(Deadlines, Due)>,
}

impl<T: Send + 'static> Gathering<T> {
    /// A gathering and one part for each of `shards`.
    pub(crate) fn new(shards: usize) -> (Gathering<T>, Vec<Part<T>>) {
        let state = State { parts: Vec::new(), missing: shards, silent: 0, waker: None };
        let gather = Arc::new(Gather(Mutex::new(state)));
        let parts = (0..shards).map(|_| Part(Some(gather.clone()))).collect();
        (Gathering { gather, deadline: None }, parts)
    }

    /// Goes without the parts that are still out at `at`.
    pub(crate) fn until(mut self, at: Instant, deadlines: &Deadlines) -> Gathering<T> {
        let gather = self.gather.clone();
        let expire = move || {
            gather.change(|state| {
                state.silent += state.missing;
                state.missing = 0;
            });
        };
        let due = deadlines.set(at, Box::new(expire));
        self.deadline = due.map(|due| (deadlines.clone(), due));
        self
    }
}

impl<T> Future for Gathering<T> {
    type Output = (Vec<T>, usize);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.gather.0);
        if state.missing > 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready((std::mem::take(&mut state.parts), state.silent))
    }
}

impl<T> Drop for Gathering<T> {
    fn drop(&mut self) {
        if let Some((deadlines, due)) = self.deadline.take() {
            deadlines.clear(due);
        }
    }
}

/// A deadline and a number that makes it one of its kind.
type Due = (Instant, u64);
type Expire = Box<dyn FnOnce() + Send>;

/// The deadlines of gatherings, kept by a thread of its own, since every shard may be stalled. The
/// thread is started for the first of them; it costs nothing but its stack while there is none.
#[derive(Clone, Default)]
pub(crate) struct Deadlines(Arc<Bench>);

/// Where that thread waits.
#[derive(Default)]
struct Bench {
    agenda: Mutex<Agenda>,
    changed: Condvar,
}

#[derive(Default)]
struct Agenda {
    due: BTreeMap<Due, Expire>,
    next: u64,
    is_kept: bool,
}

/// How long the thread waits for more to do before it ends.
const IDLE: std::time::Duration = std::time::Duration::from_secs(60);

impl Deadlines {
    fn set(&self, at: Instant, expire: Expire) -> Option<Due> {
        let mut agenda = lock(&self.0.agenda);
        if !agenda.is_kept {
            let bench = self.0.clone();
            let thread = std::thread::Builder::new().name("corecast-deadlines".into());
            if let Err(error) = thread.spawn(move || keep(&bench)) {
                log::error!("no thread for deadlines, waiting without them: {error}");
                return None;
            }
            agenda.is_kept = true;
        }
        let due = (at, agenda.next);
        agenda.next += 1;
        agenda.due.insert(due, expire);
        let is_first = agenda.due.first_key_value().is_some_and(|(first, _)| *first == due);
        drop(agenda);
        if is_first {
            self.0.changed.notify_one();
        }
        Some(due)
    }

    fn clear(&self, due: Due) {
        let expire = lock(&self.0.agenda).due.remove(&due);
        // Dropped after the lock was released: it may be the last to know its gathering.
        drop(expire);
    }
}

/// Calls what is due until nothing was for a while.
fn keep(bench: &Bench) {
    let mut agenda = lock(&bench.agenda);
    loop {
        let now = Instant::now();
        let next = agenda.due.first_key_value().map(|((at, _), _)| *at);
        if next.is_some_and(|at| at <= now) {
            let expire = agenda.due.pop_first();
            drop(agenda);
            if let Some((_, expire)) = expire {
                expire();
            }
            agenda = lock(&bench.agenda);
            continue;
        }
        let wait = next.map_or(IDLE, |at| at - now);
        let waited = bench.changed.wait_timeout(agenda, wait);
        let (held, timeout) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        agenda = held;
        if next.is_none() && timeout.timed_out() && agenda.due.is_empty() {
            agenda.is_kept = false;
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(future)
    }

    #[test]
    fn answers_of_other_threads_meet() {
        let (gathering, parts) = Gathering::new(8);
        let threads = parts.into_iter().zip(0..8u64).map(|(part, number)| {
            std::thread::spawn(move || if number == 3 { drop(part) } else { part.put(number) })
        });
        let threads: Vec<_> = threads.collect();
        let (mut answers, silent) = block_on(gathering);
        answers.sort_unstable();
        assert_eq!((answers, silent), (vec![0, 1, 2, 4, 5, 6, 7], 1));
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }

    #[test]
    fn a_silent_shard_delays_nobody_beyond_the_deadline() {
        let deadlines = Deadlines::default();
        let far = Instant::now() + Duration::from_secs(3_600);
        let (patient, kept) = Gathering::<u8>::new(1);
        let patient = patient.until(far, &deadlines);
        let (gathering, mut parts) = Gathering::new(2);
        let gathering = gathering.until(Instant::now() + Duration::from_millis(20), &deadlines);
        let late = parts.pop().expect("two parts");
        parts.pop().expect("two parts").put(1);
        assert_eq!(block_on(gathering), (vec![1], 1));
        late.put(2);
        assert_eq!(lock(&deadlines.0.agenda).due.len(), 1, "only the patient one");
        drop(patient);
        assert_eq!(lock(&deadlines.0.agenda).due.len(), 0, "nobody waits");
        kept.into_iter().for_each(|part| part.put(0));
    }

    #[test]
    fn no_shards_no_waiting() {
        let (gathering, parts) = Gathering::<u8>::new(0);
        assert!(parts.is_empty());
        assert_eq!(block_on(gathering), (vec![], 0));
    }
}
