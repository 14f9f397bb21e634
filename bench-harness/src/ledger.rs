//! Who has received what: every message has a number, its receivers and its intended send time.
//!
//! Owns the proof that each client got each broadcast exactly once, and the latencies. A
//! broadcast has all connections as receivers, an echo only its sender. Pure: time comes in as
//! an argument, no sockets.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::record::{Distribution, Kind};

#[derive(Clone, Copy)]
struct Flight {
    intended: Instant,
    sender: u32,
    /// Receivers that have not got it yet; 0 is finished.
    missing: u32,
}

/// The broadcasts that one connection has received.
#[derive(Clone, Copy, Default)]
struct Received {
    /// All below this number.
    next: u64,
    /// And of those from `next` on, which is bit 0, these; bit 0 is never set.
    ahead: u64,
}

pub(crate) struct Ledger {
    kind: Kind,
    connections: usize,
    /// Messages `lowest..next`, each at its number modulo the length, which is the bound of
    /// that range; 64 for broadcasts, the width of `Received::ahead`.
    flights: Vec<Flight>,
    /// The oldest unfinished message; `next` if there is none.
    lowest: u64,
    next: u64,
    unfinished: usize,
    received: Vec<Received>,
    /// Connections with an echo on the way.
    busy: Vec<bool>,
    turn: usize,
    /// Deliveries and messages finished, since the start.
    pub(crate) deliveries: u64,
    pub(crate) finished: u64,
    /// Intended send to receipt, while `recording`.
    pub(crate) latency: Distribution,
    pub(crate) recording: bool,
}

impl Ledger {
    pub(crate) fn new(kind: Kind, connections: usize, now: Instant) -> Self {
        let span = if kind == Kind::Echo { 1 << 16 } else { 64 };
        Self {
            kind,
            connections,
            flights: vec![Flight { intended: now, sender: 0, missing: 0 }; span],
            lowest: 0,
            next: 0,
            unfinished: 0,
            received: vec![Received::default(); connections],
            busy: vec![false; connections],
            turn: 0,
            deliveries: 0,
            finished: 0,
            latency: Distribution::default(),
            recording: false,
        }
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Whether one more message can be in flight, with at most `limit` of them.
    pub(crate) fn has_room(&self, limit: usize) -> bool {
        self.unfinished < limit && self.next - self.lowest < self.flights.len() as u64
    }

    /// Enters the next message: its sender, which goes round the connections, and its number.
    pub(crate) fn send(&mut self, intended: Instant) -> (usize, u64) {
        let mut sender = self.turn;
        // Echoes in flight are fewer than connections, so one is free.
        while self.kind == Kind::Echo && self.busy[sender] {
            sender = (sender + 1) % self.connections;
        }
        self.turn = (sender + 1) % self.connections;
        let missing = match self.kind {
            Kind::Echo => {
                self.busy[sender] = true;
                1
            }
            _ => self.connections as u32,
        };
        let number = self.next;
        let slot = self.slot(number);
        self.flights[slot] = Flight { intended, sender: sender as u32, missing };
        self.next += 1;
        self.unfinished += 1;
        (sender, number)
    }

    /// Enters a receipt; fails if it should not have come.
    pub(crate) fn deliver(&mut self, receiver: usize, number: u64, now: Instant) -> Result<()> {
        if number >= self.next {
            bail!("connection {receiver} received message {number}, which was never sent");
        }
        let slot = self.slot(number);
        if number < self.lowest || self.flights[slot].missing == 0 {
            bail!("connection {receiver} received message {number} again");
        }
        match self.kind {
            Kind::Echo if self.flights[slot].sender as usize != receiver => {
                bail!("connection {receiver} received the echo of another one");
            }
            Kind::Echo => self.busy[receiver] = false,
            _ => self.mark(receiver, number)?,
        }
        let flight = &mut self.flights[slot];
        flight.missing -= 1;
        self.deliveries += 1;
        if self.recording {
            let spent = now.saturating_duration_since(flight.intended);
            self.latency.record(spent.as_nanos() as u64);
        }
        if flight.missing == 0 {
            self.finished += 1;
            self.unfinished -= 1;
            while self.lowest < self.next && self.flights[self.slot(self.lowest)].missing == 0 {
                self.lowest += 1;
            }
        }
        Ok(())
    }

    /// What is missing, for an error text.
    pub(crate) fn missing(&self) -> String {
        let open = self.lowest..self.next;
        let receipts: u64 =
            open.map(|number| u64::from(self.flights[self.slot(number)].missing)).sum();
        format!(
            "{receipts} deliveries of {} messages are missing ({} arrived)",
            self.unfinished, self.deliveries
        )
    }

    fn mark(&mut self, receiver: usize, number: u64) -> Result<()> {
        let received = &mut self.received[receiver];
        // `next` is never below `lowest`, so the distance fits the bits.
        let bit = match number.checked_sub(received.next) {
            Some(distance) if received.ahead >> distance & 1 == 0 => 1 << distance,
            _ => bail!("connection {receiver} received broadcast {number} twice"),
        };
        received.ahead |= bit;
        let run = received.ahead.trailing_ones();
        received.ahead = received.ahead.checked_shr(run).unwrap_or(0);
        received.next += u64::from(run);
        Ok(())
    }

    fn slot(&self, number: u64) -> usize {
        (number % self.flights.len() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ledger(kind: Kind, connections: usize) -> (Ledger, Instant) {
        let now = Instant::now();
        (Ledger::new(kind, connections, now), now)
    }

    #[test]
    fn a_broadcast_is_finished_when_all_have_it_once() -> Result<()> {
        let (mut ledger, now) = ledger(Kind::Fanout, 3);
        ledger.recording = true;
        assert_eq!(ledger.send(now), (0, 0));
        assert_eq!(ledger.send(now), (1, 1));
        assert!(!ledger.has_room(2) && ledger.has_room(3));
        let later = now + Duration::from_millis(5);
        for (receiver, number) in [(0, 1), (1, 0), (2, 0), (1, 1), (2, 1)] {
            ledger.deliver(receiver, number, later)?;
        }
        assert!(ledger.deliver(0, 1, later).is_err(), "twice, out of order");
        assert!(ledger.deliver(1, 0, later).is_err(), "twice");
        assert!(ledger.deliver(1, 2, later).is_err(), "never sent");
        assert_eq!((ledger.finished, ledger.unfinished()), (1, 1));
        assert!(ledger.missing().starts_with("1 deliveries of 1 messages"));
        ledger.deliver(0, 0, later)?;
        assert_eq!((ledger.finished, ledger.unfinished(), ledger.deliveries), (2, 0, 6));
        assert!((4_990_000..5_010_000).contains(&ledger.latency.at(1.0)));
        Ok(())
    }

    #[test]
    fn the_oldest_broadcast_holds_back_the_sixty_fifth() -> Result<()> {
        let (mut ledger, now) = ledger(Kind::Fanout, 2);
        for _ in 0..64 {
            assert!(ledger.has_room(100));
            ledger.send(now);
        }
        assert!(!ledger.has_room(100));
        for number in 0..64 {
            ledger.deliver(0, number, now)?;
        }
        for number in 1..64 {
            ledger.deliver(1, number, now)?;
        }
        assert!(!ledger.has_room(100), "63 are finished, but not the first");
        ledger.deliver(1, 0, now)?;
        assert!(ledger.has_room(100));
        assert_eq!(ledger.send(now).1, 64);
        ledger.deliver(0, 64, now)?;
        ledger.deliver(1, 64, now)
    }

    #[test]
    fn an_echo_belongs_to_its_sender() -> Result<()> {
        let (mut ledger, now) = ledger(Kind::Echo, 3);
        assert_eq!(ledger.send(now), (0, 0));
        assert_eq!(ledger.send(now), (1, 1));
        assert!(ledger.deliver(1, 0, now).is_err());
        ledger.deliver(1, 1, now)?;
        assert_eq!(ledger.send(now), (2, 2));
        assert_eq!(ledger.send(now), (1, 3), "0 is still waiting for its echo");
        assert!(ledger.deliver(1, 1, now).is_err());
        assert_eq!(ledger.finished, 1);
        Ok(())
    }
}
