//! How many connections the API has, and which of them goes if there are too many.
//!
//! A connection that does nothing keeps nobody out: the one that has been idle for longest is
//! closed for one that comes. Where all have a request under way, a few more are let in, for those
//! who ask how the gateway is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Connections beyond the limit, for probes.
const RESERVE: usize = 16;
/// Pause between two lines in the log.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// The connections there are.
pub(super) struct Places {
    limit: usize,
    seats: Mutex<HashMap<u64, Arc<Seat>>>,
    /// Requests under way.
    at_work: AtomicUsize,
    /// Counts what happens: a clock that is good for the order alone.
    clock: AtomicU64,
    /// A connection has ended, or is idle.
    freed: Notify,
    warned: Mutex<Option<Instant>>,
}

/// One connection.
struct Seat {
    /// Requests under way.
    at_work: AtomicUsize,
    /// When a request has begun or ended, or the connection.
    used: AtomicU64,
    leave: Notify,
}

/// A connection's place, until this is dropped.
pub(super) struct Place {
    id: u64,
    seat: Arc<Seat>,
    places: Arc<Places>,
}

/// A request under way; its connection is not closed until this is dropped.
pub(super) struct Work {
    seat: Arc<Seat>,
    places: Arc<Places>,
}

impl Places {
    pub(super) fn new(limit: usize) -> Arc<Places> {
        Arc::new(Places {
            limit,
            seats: Mutex::default(),
            at_work: AtomicUsize::new(0),
            clock: AtomicU64::new(0),
            freed: Notify::new(),
            warned: Mutex::default(),
        })
    }

    /// A place for a connection that has come. Where there is none, another one is closed, which
    /// costs O(connections); waits while none can be.
    pub(super) async fn take(self: &Arc<Places>) -> Place {
        loop {
            {
                let mut seats = lock(&self.seats);
                if seats.len() < self.limit + RESERVE || self.make_room(&mut seats) {
                    let id = self.tick();
                    let (at_work, used) = (AtomicUsize::new(0), AtomicU64::new(id));
                    let seat = Arc::new(Seat { at_work, used, leave: Notify::new() });
                    seats.insert(id, seat.clone());
                    return Place { id, seat, places: self.clone() };
                }
            }
            self.freed.notified().await;
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends the connection away that has been idle for longest; false if none is idle.
    fn make_room(&self, seats: &mut HashMap<u64, Arc<Seat>>) -> bool {
        let idle = seats.iter().filter(|(_, seat)| seat.at_work.load(Ordering::Relaxed) == 0);
        let oldest = idle.min_by_key(|(_, seat)| seat.used.load(Ordering::Relaxed));
        let Some(id) = oldest.map(|(id, _)| *id) else { return false };
        if let Some(seat) = seats.remove(&id) {
            seat.leave.notify_one();
        }
        let mut warned = lock(&self.warned);
        if warned.is_none_or(|at| at.elapsed() > LOG_PAUSE) {
            *warned = Some(Instant::now());
            let limit = self.limit;
            tracing::warn!("more than api.max_connections ({limit}): idle ones are closed");
        }
        true
    }
}

impl Place {
    /// Begins a request. The second is false if so many are under way that it cannot be served.
    pub(super) fn work(&self) -> (Work, bool) {
        self.seat.at_work.fetch_add(1, Ordering::Relaxed);
        let others = self.places.at_work.fetch_add(1, Ordering::Relaxed);
        let work = Work { seat: self.seat.clone(), places: self.places.clone() };
        (work, others < self.places.limit)
    }

    /// Until the connection has to end, as another one needs the place.
    pub(super) async fn taken(&self) {
        self.seat.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places.seats).remove(&self.id);
        self.places.freed.notify_one();
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.seat.used.store(self.places.tick(), Ordering::Relaxed);
        self.seat.at_work.fetch_sub(1, Ordering::Relaxed);
        self.places.at_work.fetch_sub(1, Ordering::Relaxed);
        self.places.freed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
