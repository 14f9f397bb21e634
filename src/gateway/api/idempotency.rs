//! Requests that may be sent again: the answer to the first one is kept under the key that the
//! caller has given it, for a day, as far as there is room.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::answer::Answer;

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// Bytes of all answers and keys together.
const BYTES_MAX: usize = 64 << 20;
/// What an entry takes beside its key and answer, about.
const ENTRY_BYTES: usize = 256;

/// The caller's name and its key.
pub(super) type Key = (String, String);

/// The SHA-256 of what was asked.
pub(super) type Fingerprint = [u8; 32];

/// The keys of the last day.
#[derive(Clone)]
pub(super) struct Keys(Arc<Mutex<Table>>);

struct Table {
    entries_max: usize,
    entries: HashMap<Key, Entry>,
    /// In the order of their coming, with the number of the entry that is meant.
    order: VecDeque<(Instant, u64, Key)>,
    next: u64,
    bytes: usize,
}

struct Entry {
    number: u64,
    fingerprint: Fingerprint,
    /// `None` while the request is being carried out.
    answer: Option<Answer>,
}

/// What is known about a key.
pub(super) enum Known {
    /// Nothing: carry the request out, then [`Ticket::keep`] its answer.
    New(Ticket),
    /// It was carried out.
    Answered(Answer),
    /// It is being carried out.
    Running,
    /// It was another request.
    Other,
}

/// A request that is being carried out. Dropped, its key is forgotten.
pub(super) struct Ticket {
    keys: Keys,
    key: Key,
    number: u64,
}

impl Keys {
    pub(super) fn new(entries_max: usize) -> Keys {
        Keys(Arc::new(Mutex::new(Table {
            entries_max,
            entries: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
            bytes: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Looks a key up, and takes it if it is free.
    pub(super) fn begin(&self, key: Key, fingerprint: Fingerprint) -> Known {
        let mut table = self.lock();
        table.expire(Instant::now());
        match table.entries.get(&key) {
            Some(entry) if entry.fingerprint != fingerprint => return Known::Other,
            Some(Entry { answer: Some(answer), .. }) => return Known::Answered(answer.clone()),
            Some(_) => return Known::Running,
            None => {}
        }
        let number = table.next;
        table.next += 1;
        table.bytes += entry_bytes(&key, None);
        table.entries.insert(key.clone(), Entry { number, fingerprint, answer: None });
        table.order.push_back((Instant::now(), number, key.clone()));
        table.make_room();
        Known::New(Ticket { keys: self.clone(), key, number })
    }
}

impl Ticket {
    /// Keeps the answer for whoever asks again.
    pub(super) fn keep(self, answer: &Answer) {
        let mut table = self.keys.lock();
        let number = self.number;
        if let Some(entry) = table.entries.get_mut(&self.key).filter(|it| it.number == number) {
            entry.answer = Some(answer.clone());
            table.bytes += answer.body.len();
            table.make_room();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut table = self.keys.lock();
        let entry = table.entries.get(&self.key);
        if entry.is_some_and(|entry| entry.number == self.number && entry.answer.is_none()) {
            table.remove(&self.key);
        }
    }
}

fn entry_bytes(key: &Key, answer: Option<&Answer>) -> usize {
    // Twice, since the order holds the key as well.
    ENTRY_BYTES + 2 * (key.0.len() + key.1.len()) + answer.map_or(0, |answer| answer.body.len())
}

impl Table {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry_bytes(key, entry.answer.as_ref());
        }
    }

    fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(at, ..)| now.duration_since(*at) > KEPT) {
            self.forget_oldest();
        }
    }

    /// Forgets the oldest until the rest fits.
    fn make_room(&mut self) {
        while self.order.len() > self.entries_max || self.bytes > BYTES_MAX {
            if !self.forget_oldest() {
                return;
            }
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some((_, number, key)) = self.order.pop_front() else { return false };
        if self.entries.get(&key).is_some_and(|entry| entry.number == number) {
            self.remove(&key);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        ("php".into(), number.to_string())
    }

    fn answer() -> Answer {
        Answer { status: 202, body: "{}".into() }
    }

    fn begun(keys: &Keys, number: usize) -> Ticket {
        match keys.begin(key(number), [0; 32]) {
            Known::New(ticket) => ticket,
            _ => panic!("{number} was known"),
        }
    }

    #[test]
    fn a_key_stands_for_one_request() {
        let keys = Keys::new(10);
        let ticket = begun(&keys, 1);
        assert!(matches!(keys.begin(key(1), [0; 32]), Known::Running));
        assert!(matches!(keys.begin(key(1), [1; 32]), Known::Other));
        drop(ticket);
        begun(&keys, 1).keep(&answer());
        assert!(matches!(keys.begin(key(1), [1; 32]), Known::Other));
        let Known::Answered(kept) = keys.begin(key(1), [0; 32]) else { panic!("it was forgotten") };
        assert_eq!((kept.status, kept.body), (202, "{}".into()));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let keys = Keys::new(10);
        (0..100).for_each(|number| begun(&keys, number).keep(&answer()));
        assert_eq!(keys.lock().entries.len(), 10);
        assert!(matches!(keys.begin(key(99), [0; 32]), Known::Answered(_)));
        begun(&keys, 89).keep(&answer());
        let large = Answer { status: 200, body: vec![b'x'; BYTES_MAX / 3].into() };
        (200..210).for_each(|number| begun(&keys, number).keep(&large));
        let table = keys.lock();
        assert!(table.entries.len() <= 3 && table.bytes <= BYTES_MAX, "{}", table.bytes);
        let sum: usize =
            table.entries.iter().map(|(key, it)| entry_bytes(key, it.answer.as_ref())).sum();
        assert_eq!(table.bytes, sum);
        drop(table);
        keys.lock().expire(Instant::now() + KEPT + Duration::from_secs(1));
        let table = keys.lock();
        assert_eq!((table.entries.len(), table.order.len(), table.bytes), (0, 0, 0));
    }
}
