//! What comes back to the client that asked, one operation per client at a time: echoes, and rooms
//! that are joined and left.

use std::ops::Range;

use anyhow::{Result, bail, ensure};

use super::fanout::text;
use super::{Pace, Part, Setting, Tally, tag};
use crate::client::Client;
use crate::event::{self, Event, Read, Stamp};
use crate::record::Kind;
use crate::scenario;
use crate::shared::LOADS_MAX;

pub(crate) struct Own {
    what: What,
    part: Part,
    /// Number of the load in its phase.
    at: u64,
    /// By connection: the operation under way.
    open: Vec<Option<Stamp>>,
    /// Number of the next operation.
    next: u64,
    unfinished: u64,
    /// The connection that is asked next.
    turn: usize,
    pub(crate) pace: Pace,
    pub(crate) tally: Tally,
}

enum What {
    Echo(Box<Event>),
    /// Each connection joins the room of its number divided by `size`, then leaves it.
    Churn {
        room: String,
        size: usize,
        inside: Vec<bool>,
    },
    /// Each connection joins the room of its number divided by `size`, once.
    Join {
        room: String,
        size: usize,
    },
}

impl Own {
    pub(crate) fn new(at: usize, load: &scenario::Load, setting: &Setting<'_>) -> Self {
        let tag = tag(setting.phase, at);
        let clients = setting.part.of(setting.steady);
        let what = if load.kind == Kind::Echo {
            let data = setting.scenario.clients.data;
            What::Echo(Box::new(Event::new(("echo", "echo"), None, tag, load.payload(), data)))
        } else {
            let room = format!("churn-{}{}-", tag[0] as char, tag[1] as char);
            let size = load.room_size.unwrap_or(1);
            What::Churn { room, size, inside: vec![false; clients] }
        };
        let pace = Pace::new(load, setting.steady, setting);
        Self { at: at as u64, ..Self::with(what, pace, clients, setting.part) }
    }

    /// Puts `clients` of this process into their rooms, with operations numbered as they are.
    pub(crate) fn join(room: String, size: usize, clients: Range<usize>, part: Part) -> Self {
        // Nothing of this is measured: as many at a time as make it quick.
        let pace = Pace::Window(vec![0_u64; 2_048.min(clients.len())].into());
        let own = Self::with(What::Join { room, size }, pace, clients.end, part);
        Self { next: clients.start as u64, turn: clients.start, ..own }
    }

    fn with(what: What, pace: Pace, clients: usize, part: Part) -> Self {
        let (open, tally) = (vec![None; clients], Tally::default());
        Self { what, part, at: 0, open, next: 0, unfinished: 0, turn: 0, pace, tally }
    }

    pub(crate) fn send(&mut self, client: &mut Client, now: u64) -> Result<()> {
        while let Some(intended) = self.pace.due(now) {
            let count = self.open.len();
            if self.unfinished == count as u64 || self.is_joined() {
                return Ok(());
            }
            // One is free.
            while self.open[self.turn % count].is_some() {
                self.turn += 1;
            }
            let index = self.turn % count;
            self.turn += 1;
            let stamp = Stamp { number: self.next, intended };
            self.pace.begun();
            self.open[index] = Some(stamp);
            self.next += 1;
            self.unfinished += 1;
            self.tally.all_sent += 1;
            self.tally.all_due += 1;
            self.ask(client, index, stamp)?;
        }
        Ok(())
    }

    fn ask(&mut self, client: &mut Client, index: usize, stamp: Stamp) -> Result<()> {
        let number = self.part.number(index) as u64;
        let (verb, room) = match &mut self.what {
            What::Echo(event) => return client.emit(index, event, 0, stamp),
            What::Churn { room, size, inside } => {
                inside[index] = !inside[index];
                (
                    if inside[index] { "join" } else { "leave" },
                    event::quoted(room, number / *size as u64),
                )
            }
            What::Join { room, size } => ("join", event::quoted(room, number / *size as u64)),
        };
        let id = stamp.number * LOADS_MAX as u64 + self.at;
        client.say(index, format!("42{id}[\"{verb}\",{room}]").as_bytes())
    }

    /// Whether all have been asked to join, where that is all there is to do.
    pub(crate) fn is_joined(&self) -> bool {
        matches!(self.what, What::Join { .. }) && self.next == self.open.len() as u64
    }

    pub(crate) fn receive(&mut self, index: usize, packet: &[u8], now: u64) -> Result<bool> {
        let number = match &self.what {
            What::Echo(event) => match event.read(packet) {
                Read::Other => return Ok(false),
                Read::Altered => {
                    bail!("received something else than what was sent: {}", text(packet))
                }
                Read::Stamp(stamp) => {
                    let open = self.open.get(index).copied().flatten();
                    ensure!(
                        open == Some(stamp),
                        "received an echo that it did not wait for (again, or another's): {}",
                        text(packet)
                    );
                    stamp.number
                }
            },
            What::Churn { .. } | What::Join { .. } => {
                // Loads that wait for acknowledgements share the packet type: its number says whose
                // it is.
                let Some(id) = acknowledged(packet) else { return Ok(false) };
                if id % LOADS_MAX as u64 != self.at {
                    return Ok(false);
                }
                id / LOADS_MAX as u64
            }
        };
        let Some(open) = self.open.get_mut(index) else { return Ok(false) };
        let Some(stamp) = open.take_if(|open| open.number == number) else { return Ok(false) };
        self.unfinished -= 1;
        self.tally.receive(stamp.intended, now, 1);
        self.pace.ended(now);
        Ok(true)
    }

    pub(crate) fn unfinished(&self) -> u64 {
        self.unfinished
    }

    pub(crate) fn missing(&self) -> Option<String> {
        let what = match self.what {
            What::Echo(_) => "echoes",
            What::Churn { .. } | What::Join { .. } => "acknowledgements of `join` or `leave`",
        };
        (self.unfinished > 0).then(|| format!("{} {what} are missing", self.unfinished))
    }
}

/// The number that an acknowledgement answers.
fn acknowledged(packet: &[u8]) -> Option<u64> {
    let rest = packet.strip_prefix(b"43")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_say_whose_they_are() {
        assert_eq!(acknowledged(b"4317[]"), Some(17));
        assert_eq!(acknowledged(b"43[]"), None);
        assert_eq!(acknowledged(b"42[\"msg\"]"), None);
    }
}
