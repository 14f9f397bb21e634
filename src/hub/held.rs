//! What clients make a hub hold: the accounting behind the bounds, by kind.

use super::Hub;
use super::session::Transport;
use super::slab::Key;

/// Bytes that a shard holds for its clients, beside their records. All of it is bounded by
/// [`Options`](crate::Options), per connection; what is incomplete, what waits, and what is kept
/// for clients that may come back also per shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// Requests, bodies and websocket messages that are not complete.
    pub incomplete: usize,
    /// Packets whose attachments have not all come.
    pub attachments: usize,
    /// What clients said as `auth`, and events that wait for the answer to a CONNECT.
    pub kept: usize,
    /// What of `kept` counts for [`Options::max_shard_incoming_bytes`](crate::Options).
    pub kept_long: usize,
    /// Answers to broadcasts that not all have answered yet.
    pub answers: usize,
    /// What waits to be sent, the kernel's part included.
    pub queued: usize,
    /// Windows that compressed connections keep, or may come to keep.
    pub windows: usize,
    /// Connection-state recovery: events that clients may have missed, and sockets whose clients
    /// are away.
    pub recovery: usize,
}

impl Held {
    /// Adds those of another shard.
    pub fn add(&mut self, other: &Held) {
        let Held { incomplete, attachments, kept, kept_long, answers, queued, windows, recovery } =
            other;
        self.incomplete += incomplete;
        self.attachments += attachments;
        self.kept += kept;
        self.kept_long += kept_long;
        self.answers += answers;
        self.queued += queued;
        self.windows += windows;
        self.recovery += recovery;
    }

    /// What counts for [`Options::max_shard_incoming_bytes`](crate::Options).
    pub fn incoming(&self) -> usize {
        self.incomplete + self.attachments + self.kept_long
    }

    /// All of it.
    pub fn bytes(&self) -> usize {
        let kept = self.attachments + self.kept + self.answers;
        self.incomplete + kept + self.queued + self.windows + self.recovery
    }
}

/// What waits to be sent on a stretch of sessions. See [`Hub::queues`].
#[derive(Debug, Clone, Default)]
pub struct Queues {
    /// Bytes of all of them, the kernel's part included.
    pub bytes: usize,
    /// Those with most of it: bytes and one of the session's sockets.
    pub longest: Vec<(usize, Key)>,
    /// Where the next stretch begins; `None` at the end.
    pub next: Option<u32>,
}

impl Hub {
    /// What waits to be sent, on up to `count` sessions from a place on, and the `top` longest
    /// queues. O(count).
    pub fn queues(&self, from: u32, count: u32, top: usize) -> Queues {
        let sessions = &self.links.sessions;
        let end = from.saturating_add(count).min(sessions.places());
        let mut queues =
            Queues { next: (end < sessions.places()).then_some(end), ..Queues::default() };
        for session in (from..end).filter_map(|index| sessions.at(index)) {
            let bytes = match &session.transport {
                Transport::WebSocket(conn) => {
                    self.links.conns.at(*conn).map_or(0, |conn| conn.out.bytes())
                }
                Transport::Polling(polling) => polling.outbox.len(),
            };
            queues.bytes += bytes;
            let member = session.members.as_slice().first();
            if let Some(key) = member.and_then(|member| self.members.key_at(*member))
                && bytes > 0
            {
                queues.longest.push((bytes, key));
            }
        }
        queues.longest.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        queues.longest.truncate(top);
        queues
    }

    /// The sockets in up to `count` places from one on, and the next place. O(count).
    pub fn some_members(&self, from: u32, count: u32) -> (Vec<Key>, Option<u32>) {
        let places = self.members.places();
        let end = from.saturating_add(count).min(places);
        let members = (from..end).filter_map(|index| self.members.key_at(index));
        (members.collect(), (end < places).then_some(end))
    }

    /// Bytes held for clients. O(connections and sockets): for tests and for operators, not for
    /// every turn.
    pub fn held(&self) -> Held {
        let (answers, windows) = (self.answer_bytes(), self.links.codec.context_bytes());
        let table = self.recovery.as_ref();
        let recovery = table.map_or(0, |table| table.bytes() + table.records_bytes());
        let mut held = Held { answers, windows, recovery, ..Held::default() };
        let conns = &self.links.conns;
        for conn in conns.indices().filter_map(|index| conns.at(index)) {
            held.queued += conn.out.bytes();
            held.incomplete += conn.incomplete();
        }
        let sessions = &self.links.sessions;
        for index in sessions.indices() {
            let Some(session) = sessions.at(index) else { continue };
            held.queued += session.outbox_bytes();
            held.attachments += session.arriving.as_ref().map_or(0, |arriving| arriving.bytes());
            held.kept += self.kept_bytes(index);
            held.kept_long += self.kept_long(index);
        }
        held
    }
}
