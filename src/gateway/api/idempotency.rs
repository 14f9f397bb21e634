//! Requests that may be sent again: the answer to the first one is kept under the key that the
//! caller has given it, for a day, as far as there is room. Where there is none, the oldest go, and
//! of those of the last hour the oldest of a caller that holds more than its fair share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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
/// And a caller beside its name.
const CALLER_BYTES: usize = 256;
/// Answers that are older make room first, whoever holds them: requests are sent again soon.
const SOON: Duration = Duration::from_secs(3_600);
/// Callers that are looked at for one that can spare something.
const LOOKED_AT: usize = 16;

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
    callers: HashMap<String, Share>,
    /// Callers by what they hold.
    largest: BTreeSet<(usize, String)>,
    /// What all of them hold, as their shares count it.
    held: usize,
}

/// What one caller has been answered.
#[derive(Default)]
struct Share {
    /// Numbers of its entries.
    order: BTreeSet<u64>,
    /// Bytes of these, and for each its part of `BYTES_MAX`: both may run out.
    size: usize,
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
            callers: HashMap::new(),
            largest: BTreeSet::new(),
            held: 0,
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
        let size = table.size(&self.key, &answer);
        let Some(entry) = table.entries.get_mut(&self.key) else { return };
        entry.answer = Some((number, answer));
        table.order.insert(number, (Instant::now(), self.key.clone()));
        table.next += 1;
        table.bytes += length;
        table.change(&self.key.0, |share| {
            share.order.insert(number);
            share.size += size;
        });
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
        if let Some((number, answer)) = &entry.answer {
            let size = self.size(key, answer);
            self.order.remove(number);
            self.change(&key.0, |share| {
                share.order.remove(number);
                share.size -= size;
            });
        }
        self.bytes -= entry_bytes(key, entry.answer.as_ref().map(|(_, answer)| answer));
    }

    /// What an answered entry counts in a [`Share`].
    fn size(&self, key: &Key, answer: &Answer) -> usize {
        entry_bytes(key, Some(answer)) + BYTES_MAX / self.entries_max.max(1)
    }

    /// Changes what a caller holds. O(log callers + log of its entries).
    fn change(&mut self, caller: &str, change: impl FnOnce(&mut Share)) {
        let bytes = CALLER_BYTES + 2 * caller.len();
        let mut share = self.callers.remove(caller).unwrap_or_default();
        if self.largest.remove(&(share.size, caller.to_owned())) {
            (self.bytes, self.held) = (self.bytes - bytes, self.held - share.size);
        }
        change(&mut share);
        if !share.order.is_empty() {
            (self.bytes, self.held) = (self.bytes + bytes, self.held + share.size);
            self.largest.insert((share.size, caller.to_owned()));
            self.callers.insert(caller.to_owned(), share);
        }
    }

    /// The entry that is to make room for others: the oldest of all if it is old, or else that of a
    /// caller that holds more than its fair share and more than one. O(log entries).
    fn victim(&self, now: Instant) -> Option<Key> {
        let (_, (at, oldest)) = self.order.first_key_value()?;
        let fair = self.held / self.callers.len().max(1);
        let greedy = self.largest.iter().rev().take_while(|(size, _)| *size > fair);
        let greedy = greedy.take(LOOKED_AT).find_map(|(_, caller)| {
            let share = self.callers.get(caller).filter(|share| share.order.len() > 1)?;
            self.order.get(share.order.first()?)
        });
        match greedy {
            Some((_, key)) if now.duration_since(*at) <= SOON => Some(key.clone()),
            _ => Some(oldest.clone()),
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, (at, key))) = self.order.first_key_value()
            && now.duration_since(*at) > KEPT
        {
            let key = key.clone();
            self.remove(&key);
        }
    }

    /// Forgets some until the rest fits; none that is being carried out.
    fn make_room(&mut self) {
        while self.order.len() > self.entries_max || self.bytes > BYTES_MAX {
            let Some(key) = self.victim(Instant::now()) else { return };
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
        assert_eq!(table.bytes, sum + CALLER_BYTES + 2 * "php".len());
        drop(table);
        drop(running);
        keys.lock().expire(Instant::now() + KEPT + Duration::from_secs(1));
        let table = keys.lock();
        assert_eq!((table.entries.len(), table.order.len(), table.bytes), (0, 0, 0));
    }

    fn begin_as(keys: &Keys, caller: &str, number: usize) -> Known {
        keys.begin((caller.into(), number.to_string()), [0; 32])
    }

    fn answered(keys: &Keys, caller: &str, number: usize, answer: &Answer) {
        match begin_as(keys, caller, number) {
            Known::New(ticket) => ticket.keep(answer),
            _ => panic!("{number} of {caller} was known"),
        }
    }

    /// Of two callers one sends more than there is room for, by their number or by their bytes.
    #[test]
    fn a_caller_cannot_push_out_those_of_others() {
        let large = Answer { status: 200, body: vec![b'x'; ANSWER_BYTES_MAX].into() };
        for (entries_max, kept) in [(100, 60), (1_000, 63)] {
            let keys = Keys::new(entries_max);
            (0..40).for_each(|number| answered(&keys, "quiet", number, &answer()));
            (0..2_000).for_each(|number| answered(&keys, "loud", number, &answer()));
            (2_000..2_100).for_each(|number| answered(&keys, "loud", number, &large));
            let known = |caller: &str, numbers: std::ops::Range<usize>| {
                let is_known =
                    |number: &usize| matches!(begin_as(&keys, caller, *number), Known::Answered(_));
                numbers.filter(is_known).count()
            };
            assert_eq!(known("quiet", 0..40), 40);
            assert_eq!(known("loud", 2_000..2_100), kept, "its own newest");
            let mut table = keys.lock();
            let victim = |after| table.victim(Instant::now() + after).map(|(caller, _)| caller);
            assert_eq!(victim(Duration::ZERO).as_deref(), Some("loud"));
            assert_eq!(victim(2 * SOON).as_deref(), Some("quiet"), "old, and no loss");
            assert_eq!((table.callers.len(), table.largest.len()), (2, 2));
            table.expire(Instant::now() + KEPT + Duration::from_secs(1));
            assert_eq!((table.callers.len(), table.largest.len()), (0, 0));
            assert_eq!((table.held, table.bytes), (0, 0));
        }
    }

    /// Where nobody holds more than others, the oldest goes, whatever its caller is called.
    #[test]
    fn among_equals_the_oldest_is_forgotten() {
        let keys = Keys::new(100);
        (0..150).for_each(|number| answered(&keys, &format!("user {number}"), 0, &answer()));
        for number in 50..150 {
            let known = begin_as(&keys, &format!("user {number}"), 0);
            assert!(matches!(known, Known::Answered(_)), "{number}");
        }
        assert!(matches!(begin_as(&keys, "user 49", 0), Known::New(_)));
    }

    #[test]
    fn of_a_very_long_answer_it_is_kept_that_it_was_given() {
        let keys = Keys::new(10);
        let long = Answer { status: 200, body: vec![b'x'; ANSWER_BYTES_MAX + 1].into() };
        begun(&keys, 1).keep(&long);
        assert_eq!(kept(&keys, 1).status, 409);
    }
}
