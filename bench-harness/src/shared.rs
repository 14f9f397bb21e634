//! What client processes share while they load a server: memory with a few counters, and the
//! broadcasts that are under way.
//!
//! A broadcast is received by clients of all processes, and whoever receives it last knows that it
//! is finished, so its flight is kept where all of them count it down. Everything else a process
//! keeps to itself.
//!
//! ```text
//!   stop  silent  joined  delivered | load 0: next finished, flights 0..4096 | load 1: …
//!   flight n % span:  laps (broadcasts that this place has seen finish), intended, missing
//! ```

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use anyhow::{Context, Result, bail, ensure};

use crate::sys;

/// Loads of one phase.
pub(crate) const LOADS_MAX: usize = 8;
/// Broadcasts in flight in a closed loop, and how far ahead of a missing one a client may be.
pub(crate) const IN_FLIGHT_MAX: usize = 64;
/// The same of a load on schedule, which goes on sending when the server is behind.
pub(crate) const SCHEDULED_MAX: usize = 1024;
/// Flights of a load that goes to rooms.
const SPAN_MAX: usize = 4096;
const STOP: usize = 0;
const SILENT: usize = 1;
const JOINED: usize = 2;
const DELIVERED: usize = 3;
const HEAD: usize = 8;
/// `next` and `finished`, then the flights.
const LOAD_WORDS: usize = 2 + 3 * SPAN_MAX;
const WORDS: usize = HEAD + LOADS_MAX * LOAD_WORDS;

pub(crate) struct Shared {
    memory: sys::Shared,
}

impl Shared {
    pub(crate) fn new() -> Result<Self> {
        let memory = sys::Shared::new(WORDS).context("memory that client processes share")?;
        Ok(Self { memory })
    }

    pub(crate) fn open(path: &str) -> Result<Self> {
        let memory = sys::Shared::open(path, WORDS)
            .with_context(|| format!("memory of the parent process, {path}"))?;
        Ok(Self { memory })
    }

    pub(crate) fn path(&self) -> String {
        self.memory.path()
    }

    /// Before a phase, while nobody loads.
    pub(crate) fn reset(&self) {
        for (at, word) in self.memory.words().iter().enumerate() {
            if at != JOINED {
                word.store(0, Relaxed);
            }
        }
    }

    /// Asks all processes to end the phase early.
    pub(crate) fn stop(&self) {
        self.memory.words()[STOP].store(1, Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.memory.words()[STOP].load(Acquire) != 0
    }

    /// One more process begins nothing any more.
    pub(crate) fn fall_silent(&self) {
        self.memory.words()[SILENT].fetch_add(1, AcqRel);
    }

    /// Processes that begin nothing any more.
    pub(crate) fn silent(&self) -> usize {
        self.memory.words()[SILENT].load(Acquire) as usize
    }

    /// Clients connected, of all processes; changes by `by`.
    pub(crate) fn join(&self, by: i64) {
        self.memory.words()[JOINED].fetch_add(by as u64, Relaxed);
    }

    pub(crate) fn joined(&self) -> u64 {
        self.memory.words()[JOINED].load(Relaxed)
    }

    /// Receipts in this phase, of all processes and loads; grows by `by`.
    pub(crate) fn deliver(&self, by: u64) {
        self.memory.words()[DELIVERED].fetch_add(by, Relaxed);
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.memory.words()[DELIVERED].load(Relaxed)
    }

    /// The broadcasts of load number `load`, which take turns among `rooms`; up to `ahead` of each.
    pub(crate) fn flights(&self, load: usize, rooms: usize, ahead: usize) -> Flights<'_> {
        let start = HEAD + load * LOAD_WORDS;
        let span = ahead * rooms.min(SPAN_MAX / ahead);
        Flights { words: &self.memory.words()[start..start + LOAD_WORDS], span: span as u64 }
    }
}

/// The broadcasts of one load.
#[derive(Clone, Copy)]
pub(crate) struct Flights<'a> {
    words: &'a [AtomicU64],
    /// A number and the number `span` later share a place; so the later one waits for it.
    span: u64,
}

impl Flights<'_> {
    /// The next number, if its place is free; its `missing` receipts are due from now on.
    pub(crate) fn enter(&self, intended: u64, missing: impl Fn(u64) -> u64) -> Option<u64> {
        loop {
            let number = self.words[0].load(Acquire);
            let [laps, intended_word, missing_word] = self.flight(number);
            if laps.load(Acquire) != number / self.span {
                return None;
            }
            // Whoever gets the number owns the place: all numbers below it own another one.
            if self.words[0].compare_exchange(number, number + 1, AcqRel, Relaxed).is_ok() {
                missing_word.store(missing(number), Relaxed);
                intended_word.store(intended, Release);
                return Some(number);
            }
        }
    }

    /// Enters a receipt of `number`, sent at `intended` as it says; whether it was the last one.
    pub(crate) fn deliver(&self, number: u64, intended: u64) -> Result<bool> {
        ensure!(
            number < self.words[0].load(Acquire),
            "received message {number}, which was never sent"
        );
        let [laps, intended_word, missing] = self.flight(number);
        if laps.load(Acquire) != number / self.span {
            bail!("received message {number} again: all had it already");
        }
        ensure!(
            intended_word.load(Acquire) == intended,
            "received message {number} with altered digits"
        );
        let last = missing.fetch_sub(1, AcqRel) == 1;
        if last {
            self.words[1].fetch_add(1, AcqRel);
            laps.fetch_add(1, Release);
        }
        Ok(last)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.words[0].load(Acquire)
    }

    pub(crate) fn unfinished(&self) -> u64 {
        // Before `sent`: others go on, and would have finished more than had been sent.
        let finished = self.words[1].load(Acquire);
        self.sent() - finished
    }

    /// Receipts that are still due.
    pub(crate) fn missing(&self) -> u64 {
        let next = self.sent();
        let open = next.saturating_sub(self.span)..next;
        let missing = open.map(|number| {
            let [laps, _, missing] = self.flight(number);
            let is_open = laps.load(Acquire) == number / self.span;
            if is_open { missing.load(Acquire) } else { 0 }
        });
        missing.sum()
    }

    fn flight(&self, number: u64) -> [&AtomicU64; 3] {
        let at = 2 + 3 * (number % self.span) as usize;
        [&self.words[at], &self.words[at + 1], &self.words[at + 2]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_receipt_finishes_a_broadcast_in_whichever_process() -> Result<()> {
        let parent = Shared::new()?;
        let child = Shared::open(&parent.path())?;
        let (here, there) = (parent.flights(1, 1, 64), child.flights(1, 1, 64));
        assert_eq!(here.enter(500, |_| 2), Some(0));
        assert_eq!(there.enter(600, |_| 2), Some(1));
        assert_eq!((here.unfinished(), here.missing()), (2, 4));
        assert!(!here.deliver(0, 500)?);
        assert!(there.deliver(0, 500)?);
        assert!(here.deliver(0, 500).is_err(), "all had it");
        assert!(here.deliver(2, 0).is_err(), "never sent");
        assert!(here.deliver(1, 601).is_err(), "other digits");
        assert_eq!((there.unfinished(), there.missing(), there.sent()), (1, 2, 2));
        assert_eq!(parent.flights(0, 1, 64).sent(), 0, "another load");
        parent.join(3);
        parent.reset();
        assert_eq!((child.flights(1, 1, 64).sent(), child.joined()), (0, 3));
        Ok(())
    }

    #[test]
    fn the_oldest_broadcast_holds_back_the_sixty_fifth() -> Result<()> {
        let shared = Shared::new()?;
        let flights = shared.flights(0, 1, 64);
        for number in 0..64 {
            assert_eq!(flights.enter(9, |_| 1), Some(number));
        }
        for number in 1..64 {
            assert!(flights.deliver(number, 9)?);
        }
        assert_eq!(flights.enter(9, |_| 1), None, "63 are finished, but not the first");
        assert!(flights.deliver(0, 9)?);
        assert_eq!(flights.enter(9, |_| 1), Some(64));
        assert_eq!(flights.missing(), 1);
        Ok(())
    }

    #[test]
    fn what_is_unfinished_can_be_asked_while_others_go_on() -> Result<()> {
        const ALL: u64 = 5_000_000;
        // So that whoever asks is interrupted right between two words now and then.
        let _ = sys::pin_to(0);
        let shared = Shared::new()?;
        let flights = shared.flights(0, 1, 64);
        std::thread::scope(|scope| {
            let others = scope.spawn(|| -> Result<()> {
                for number in 0..ALL {
                    ensure!(flights.enter(1, |_| 1) == Some(number));
                    flights.deliver(number, 1)?;
                }
                Ok(())
            });
            while !others.is_finished() {
                assert!(flights.unfinished() <= ALL);
            }
            others.join().expect("no panic")
        })
    }

    #[test]
    fn processes_never_enter_the_same_number() -> Result<()> {
        let shared = Shared::new()?;
        let flights = shared.flights(0, 64, 64);
        let numbers: Vec<u64> = std::thread::scope(|scope| {
            let enter = || (0..1000).filter_map(|_| flights.enter(1, |_| 1)).collect::<Vec<_>>();
            let threads = [scope.spawn(enter), scope.spawn(enter)];
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        let unique: std::collections::BTreeSet<u64> = numbers.iter().copied().collect();
        assert_eq!((numbers.len(), unique.len()), (2000, 2000));
        assert_eq!(unique.last(), Some(&1999));
        Ok(())
    }
}
