//! Broadcasts to all clients or to rooms, and the proof that each member got each of them once.
//!
//! All processes take numbers from one sequence (`shared.rs`); number n of R rooms goes to room
//! n % R as its message n / R. A connection remembers up to which of its room's messages it has
//! all, and which of the next 64, or 1024 with a rate.

use anyhow::{Result, bail};

use super::{Pace, Part, Setting, Tally, tag};
use crate::client::Client;
use crate::event::{Event, Read, Stamp};
use crate::scenario;
use crate::shared::{Flights, IN_FLIGHT_MAX, SCHEDULED_MAX};

pub(crate) struct Fanout<'a> {
    event: Event,
    flights: Flights<'a>,
    part: Part,
    /// Of all processes.
    members: usize,
    room_size: usize,
    rooms: usize,
    /// Of the connections that are members.
    received: Received,
    /// The connection that sends next.
    turn: usize,
    pub(crate) pace: Pace,
    pub(crate) tally: Tally,
}

/// The broadcasts that each connection has received, by their number in its room.
#[derive(Debug)]
struct Received {
    /// By connection: all below this number,
    next: Vec<u64>,
    /// and of the `ahead` numbers from there on these: the bit of number n is n % ahead. Bit `next`
    /// is never set. Words of `ahead` bits for each connection.
    bits: Vec<u64>,
    /// A multiple of 64.
    ahead: usize,
}

/// What the rooms of this size are called, in front of their number.
pub(crate) fn room_name(size: usize) -> String {
    format!("r{size}-")
}

impl<'a> Fanout<'a> {
    pub(crate) fn new(at: usize, load: &scenario::Load, setting: &Setting<'a>) -> Self {
        let members = setting.steady;
        let room_size = load.room_size.unwrap_or(members).clamp(1, members.max(1));
        let rooms = members.div_ceil(room_size).max(1);
        let name = load.room_size.map(room_name);
        let ahead = if load.rate.is_some() { SCHEDULED_MAX } else { IN_FLIGHT_MAX };
        let names = if name.is_some() { ("to", "msg") } else { ("pub", "msg") };
        let (tag, data) = (tag(setting.phase, at), setting.scenario.clients.data);
        Self {
            event: Event::new(names, name.as_deref(), tag, load.payload(), data),
            flights: setting.shared.flights(at, rooms, ahead),
            part: setting.part,
            members,
            room_size,
            rooms,
            received: Received::new(setting.part.of(members), ahead),
            turn: 0,
            pace: Pace::new(load, members, setting),
            tally: Tally::default(),
        }
    }

    pub(crate) fn send(&mut self, client: &mut Client, now: u64) -> Result<()> {
        while let Some(intended) = self.pace.due(now) {
            if self.received.next.is_empty() {
                return Ok(());
            }
            let due = |number| self.due(number);
            let Some(number) = self.flights.enter(intended, due) else { return Ok(()) };
            self.pace.begun();
            self.tally.all_sent += 1;
            self.tally.all_due += self.due(number);
            let sender = self.turn;
            self.turn = (self.turn + 1) % self.received.next.len();
            let room = number % self.rooms as u64;
            client.emit(sender, &mut self.event, room, Stamp { number, intended })?;
        }
        Ok(())
    }

    /// Members of the room that broadcast `number` goes to.
    fn due(&self, number: u64) -> u64 {
        let first = (number as usize % self.rooms) * self.room_size;
        self.room_size.min(self.members - first) as u64
    }

    pub(crate) fn receive(&mut self, index: usize, packet: &[u8], now: u64) -> Result<bool> {
        let Stamp { number, intended } = match self.event.read(packet) {
            Read::Other => return Ok(false),
            Read::Altered => bail!("received something else than what was sent: {}", text(packet)),
            Read::Stamp(stamp) => stamp,
        };
        if index >= self.received.next.len() {
            // One of those that come and go: nobody knows what it has to have.
            return Ok(true);
        }
        let rooms = self.rooms as u64;
        let room = (self.part.number(index) / self.room_size) as u64;
        if number % rooms != room {
            bail!("in room {room} received broadcast {number}, of room {}", number % rooms);
        }
        if !self.received.mark(index, number / rooms) {
            bail!("received broadcast {number} twice");
        }
        let last = self.flights.deliver(number, intended)?;
        self.tally.receive(intended, now, u64::from(last));
        if last {
            self.pace.ended(now);
        }
        Ok(true)
    }

    /// Receipts that are due for a broadcast to a whole room.
    pub(crate) fn receipts(&self) -> u64 {
        self.room_size.min(self.members) as u64
    }

    pub(crate) fn unfinished(&self) -> u64 {
        self.flights.unfinished()
    }

    pub(crate) fn missing(&self) -> Option<String> {
        let (missing, unfinished) = (self.flights.missing(), self.flights.unfinished());
        (unfinished > 0).then(|| {
            format!(
                "{missing} deliveries of {unfinished} broadcasts are missing, of {} that were sent",
                self.flights.sent()
            )
        })
    }
}

impl Received {
    fn new(connections: usize, ahead: usize) -> Self {
        let bits = vec![0; connections * ahead / 64];
        Self { next: vec![0; connections], bits, ahead }
    }

    /// False if it was marked already, or is so far ahead that nothing can have sent it.
    fn mark(&mut self, index: usize, number: u64) -> bool {
        let (next, ahead) = (&mut self.next[index], self.ahead as u64);
        let words = self.ahead / 64;
        let bits = &mut self.bits[index * words..][..words];
        let place = |number: u64| ((number % ahead / 64) as usize, 1 << (number % 64));
        let (word, bit) = place(number);
        if !(*next..*next + ahead).contains(&number) || bits[word] & bit != 0 {
            return false;
        }
        bits[word] |= bit;
        loop {
            let (word, bit) = place(*next);
            if bits[word] & bit == 0 {
                return true;
            }
            bits[word] &= !bit;
            *next += 1;
        }
    }
}

/// The beginning of a packet, for an error text.
pub(crate) fn text(packet: &[u8]) -> String {
    String::from_utf8_lossy(&packet[..packet.len().min(200)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_marked_once_in_whatever_order() {
        for ahead in [64, 1024] {
            let mut received = Received::new(2, ahead);
            let mut mark = |number| received.mark(1, number);
            for number in [1, 0, 2, ahead as u64, 3, 4] {
                assert!(mark(number), "{number}");
            }
            for number in [0, 1, 2, ahead as u64, 4] {
                assert!(!mark(number), "{number} again");
            }
            assert!(!mark(5 + ahead as u64), "further ahead than anything can be");
            for number in 5..ahead as u64 {
                assert!(mark(number), "{number}");
            }
            assert_eq!(received.next, [0, ahead as u64 + 1]);
            assert!(received.bits.iter().all(|bits| *bits == 0));
        }
    }
}
