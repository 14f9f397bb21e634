//! What clients make a hub hold: the accounting behind the bounds, by kind.

use super::Hub;
use super::conn::Stage;
use super::http::Phase;

/// Bytes that a shard holds for its clients, beside their records. All of it is bounded by
/// [`Options`](crate::Options), per connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// Requests, bodies and websocket messages that are not complete.
    pub incomplete: usize,
    /// Attachments of binary packets that are not complete.
    pub attachments: usize,
    /// What clients said as `auth`, and events that wait for the answer to a CONNECT.
    pub kept: usize,
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
        let Held { incomplete, attachments, kept, answers, queued, windows, recovery } = other;
        self.incomplete += incomplete;
        self.attachments += attachments;
        self.kept += kept;
        self.answers += answers;
        self.queued += queued;
        self.windows += windows;
        self.recovery += recovery;
    }

    /// All of it.
    pub fn bytes(&self) -> usize {
        let kept = self.attachments + self.kept + self.answers;
        self.incomplete + kept + self.queued + self.windows + self.recovery
    }
}

impl Hub {
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
            held.incomplete += match &conn.stage {
                Stage::Http(http) => {
                    let body = match &http.phase {
                        Phase::Body { bytes, .. } => bytes.capacity(),
                        _ => 0,
                    };
                    http.input.capacity() + body
                }
                Stage::WebSocket { decoder, .. } => decoder.buffered(),
                Stage::Closing => 0,
            };
        }
        let sessions = &self.links.sessions;
        for index in sessions.indices() {
            let Some(session) = sessions.at(index) else { continue };
            held.queued += session.outbox_bytes();
            held.attachments += session.arriving.as_ref().map_or(0, |arriving| arriving.bytes());
            held.kept += self.kept_bytes(index);
        }
        held
    }
}
