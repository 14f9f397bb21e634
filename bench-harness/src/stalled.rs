//! Clients that stop reading, and what becomes of them without failing the run.
//!
//! They read until they have joined the namespace. From then on the buffers of their sockets fill,
//! the server's queues after them, and the server has to skip events for them or to close them,
//! whichever its policy is. They take no part in loads. When all phases are over they read again,
//! until nothing more comes. What they still get is held to the same: unaltered, each event once.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::client::{Client, Heard};
use crate::event::{Event, Read};
use crate::load::{self, Part};
use crate::scenario::Scenario;
use crate::sys;

/// Nothing for so long: all that the server had kept has come.
const QUIET: Duration = Duration::from_millis(500);

/// Broadcasts to everybody, and how many clients have stayed connected since before them: they are
/// the first ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) broadcasts: u64,
    pub(crate) connected: usize,
}

/// What the stalled clients of one process, or of all, turned out to have got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Woken {
    pub(crate) clients: u64,
    /// Of these, those that the server had closed.
    pub(crate) closed: u64,
    /// Broadcasts that were sent to the others.
    pub(crate) due: u64,
    /// Broadcasts that the closed ones got, and the others.
    pub(crate) to_closed: u64,
    pub(crate) to_open: u64,
}

impl Woken {
    pub(crate) fn add(&mut self, other: Self) {
        self.clients += other.clients;
        self.closed += other.closed;
        self.due += other.due;
        self.to_closed += other.to_closed;
        self.to_open += other.to_open;
    }
}

/// Lets the stalled clients read what there is for them, of what was `sent`.
pub(crate) fn wake(
    client: &mut Client,
    scenario: &Scenario,
    part: Part,
    sent: &[Sent],
) -> Result<Woken> {
    let mut receipts = Receipts::new(scenario);
    let mut heard = (0, sys::now());
    client.wake(|index, heard, _| receipts.hear(index, &heard))?;
    while sys::now() - heard.1 < QUIET.as_nanos() as u64 {
        client.turn(Duration::from_millis(50), |index, heard, _| receipts.hear(index, &heard))?;
        if heard.0 != receipts.got.len() {
            heard = (receipts.got.len(), sys::now());
        }
    }
    let mut found = Woken::default();
    for index in client.stalled() {
        found.clients += 1;
        if client.is_closed(index) {
            found.closed += 1;
            continue;
        }
        let due = sent.iter().filter(|sent| part.number(index) < sent.connected);
        found.due += due.map(|sent| sent.broadcasts).sum::<u64>();
    }
    for (index, ..) in &receipts.got {
        let closed = client.is_closed(*index);
        found.to_closed += u64::from(closed);
        found.to_open += u64::from(!closed);
    }
    Ok(found)
}

/// What was received late.
struct Receipts {
    /// The broadcasts to everybody, of all phases.
    events: Vec<Event>,
    /// Connection, event and number.
    got: HashSet<(usize, usize, u64)>,
}

impl Receipts {
    fn new(scenario: &Scenario) -> Self {
        let events = scenario.loads().filter(|(_, load)| load.reaches_all());
        let events = events.map(|((phase, at), load)| {
            let (tag, data) = (load::tag(phase, at), scenario.clients.data);
            Event::new(("pub", "msg"), None, tag, load.payload(), data)
        });
        Self { events: events.collect(), got: HashSet::new() }
    }

    fn hear(&mut self, index: usize, heard: &Heard<'_>) -> Result<()> {
        let Heard::Packet(packet) = heard else { return Ok(()) };
        for (at, event) in self.events.iter().enumerate() {
            match event.read(packet) {
                Read::Other => {}
                Read::Stamp(stamp) if self.got.insert((index, at, stamp.number)) => return Ok(()),
                Read::Stamp(stamp) => {
                    bail!("connection {index} received broadcast {} twice", stamp.number)
                }
                Read::Altered => break,
            }
        }
        bail!(
            "connection {index} received something else than what was sent: {}",
            load::text(packet)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Stamp;

    #[test]
    fn late_receipts_are_checked_like_any_other() -> Result<()> {
        let text = "[[phase]]\n[[phase.load]]\nkind = \"fanout\"\n\
                    [[phase.load]]\nkind = \"fanout\"\nroom_size = 10\n";
        let scenario = Scenario::parse(text, "test")?;
        let mut receipts = Receipts::new(&scenario);
        assert_eq!(receipts.events.len(), 1, "rooms have no stalled members");
        let event = Event::new(("msg", "msg"), None, load::tag(1, 0), 128, scenario.clients.data);
        let packet = |number| event.payload(0, Stamp { number, intended: 5 });
        let mut hear = |index, packet: &[u8]| receipts.hear(index, &Heard::Packet(packet));
        hear(3, &packet(7))?;
        hear(3, &packet(9))?;
        hear(4, &packet(7))?;
        assert!(hear(3, &packet(7)).is_err(), "again");
        let mut altered = packet(8);
        altered[100] ^= 1;
        assert!(hear(3, &altered).is_err() && hear(3, b"42[\"other\"]").is_err());
        Ok(())
    }
}
