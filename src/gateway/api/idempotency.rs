//! Requests that may be sent again: the answer to the first one is kept under the key that the
//! caller has given it, for a day, as far as there is room.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::answer::Answer;
use crate::gateway::command::Problem;

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// Bytes of all answers and keys together.
const BYTES_MAX: usize = 64 << 20;
/// Bytes of one answer; of a longer one it is kept that it was given.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Requests with a key that are being carried out.
const RUNNING_MAX: usize = 65_536;
/// What an entry takes beside its key and answer, about.
const ENTRY_BYTES: usize = 256;

/// The caller and its key.
pub(super) type Key = (String, String);

/// The SHA-256 of what was asked.
pub(super) type Fingerprint = [u8; 32];

/// The keys of the last day.
#[derive(Clone)]
pub(super) struct Keys(Arc<Mutex<Table>>);

struct Table {
    entries_max: usize,
    entries: HashMap<Key, Entry>,
    /// Those that are answered, by their numbers: the oldest first.
    order: BTreeMap<u64, (Instant, Key)>,
    next: u64,
    bytes: usize,
}

struct Entry {
    fingerprint: Fingerprint,
    /// With its number. `None` while the request is being carried out.
    answer: Option<(u64, Answer)>,
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
    /// Too many are being carried out.
    Full,
}

/// A request that is being carried out. Dropped, its key is forgotten.
pub(super) struct Ticket {
    keys: Keys,
    key: Key,
}

impl Keys {
    pub(super) fn new(entries_max: usize) -> Keys {
        Keys(Arc::new(Mutex::new(Table {
            entries_max,
            entries: HashMap::new(),
            order: BTreeMap::new(),
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
            Some(Entry { answer: Some((_, answer)), .. }) => {
                return Known::Answered(answer.clone());
            }
            Some(_) => return Known::Running,
            None if table.entries.len() - table.order.len() >= RUNNING_MAX => return Known::Full,
            None => {}
        }
        table.bytes += entry_bytes(&key, None);
        table.entries.insert(key.clone(), Entry { fingerprint, answer: None });
        table.make_room();
        Known::New(Ticket { keys: self.clone(), key })
    }
}

impl Ticket {
    /// Keeps the answer for whoever asks again.
    pub(super) fn keep(self, answer: &Answer) {
        let answer = match answer.body.len() {
            0..=ANSWER_BYTES_MAX => answer.clone(),
            length => {
                let detail = format!("it was carried out; {length} bytes of answer are not kept");
                Answer::from(Problem::new(409, "answer not kept", detail))
            }
        };
        let mut table = self.keys.lock();
        let (number, length) = (table.next, answer.body.len());
        let Some(entry) = table.entries.get_mut(&self.key) else { return };
        entry.answer = Some((number, answer));
        table.order.insert(number, (Instant::now(), self.key.clone()));
        table.next += 1;
        table.bytes += length;
        table.make_room();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut table = self.keys.lock();
        if table.entries.get(&self.key).is_some_and(|entry| entry.answer.is_none()) {
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
        let Some(entry) = self.entries.remove(key) else { return };
        if let Some((number, _)) = &entry.answer {
            self.order.remove(number);
        }
        self.bytes -= entry_bytes(key, entry.answer.as_ref().map(|(_, answer)| answer));
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, (at, key))) = self.order.first_key_value()
            && now.duration_since(*at) > KEPT
        {
            let key = key.clone();
            self.remove(&key);
        }
    }

    /// Forgets the oldest until the rest fits; none that is being carried out.
    fn make_room(&mut self) {
        while self.order.len() > self.entries_max || self.bytes > BYTES_MAX {
            let Some((_, (_, key))) = self.order.first_key_value() else { return };
            let key = key.clone();
            self.remove(&key);
        }
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

    fn kept(keys: &Keys, number: usize) -> Answer {
        match keys.begin(key(number), [0; 32]) {
            Known::Answered(answer) => answer,
            _ => panic!("{number} was forgotten"),
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
        let kept = kept(&keys, 1);
        assert_eq!((kept.status, kept.body), (202, "{}".into()));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let keys = Keys::new(100);
        let running = begun(&keys, 1_000);
        (0..200).for_each(|number| begun(&keys, number).keep(&answer()));
        // What was not carried out takes no room.
        (200..400).for_each(|number| drop(begun(&keys, number)));
        let table = keys.lock();
        assert_eq!((table.entries.len(), table.order.len()), (101, 100));
        drop(table);
        kept(&keys, 199);
        drop(begun(&keys, 99));
        assert!(matches!(keys.begin(key(1_000), [0; 32]), Known::Running));
        let large = Answer { status: 200, body: vec![b'x'; ANSWER_BYTES_MAX].into() };
        (400..500).for_each(|number| begun(&keys, number).keep(&large));
        let table = keys.lock();
        assert!(table.entries.len() <= 64 && table.bytes <= BYTES_MAX, "{}", table.bytes);
        let answer = |it: &Entry| it.answer.clone().map(|(_, answer)| answer);
        let sum: usize =
            table.entries.iter().map(|(key, it)| entry_bytes(key, answer(it).as_ref())).sum();
        assert_eq!(table.bytes, sum);
        drop(table);
        drop(running);
        keys.lock().expire(Instant::now() + KEPT + Duration::from_secs(1));
        let table = keys.lock();
        assert_eq!((table.entries.len(), table.order.len(), table.bytes), (0, 0, 0));
    }

    #[test]
    fn of_a_very_long_answer_it_is_kept_that_it_was_given() {
        let keys = Keys::new(10);
        let long = Answer { status: 200, body: vec![b'x'; ANSWER_BYTES_MAX + 1].into() };
        begun(&keys, 1).keep(&long);
        assert_eq!(kept(&keys, 1).status, 409);
    }
}
