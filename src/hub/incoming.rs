//! What clients have begun to send and not finished: requests, websocket messages, packets that
//! wait for attachments, long `auth` and events that wait for the answer to a CONNECT. Each has a
//! bound of its own; here is the one for all of a shard, as many bodies at a time are worse than a
//! long one (CVE-2020-36048).

use rustc_hash::FxHashMap;

use super::conn::{Conn, Stage};
use super::http::Phase;
use super::session::{Goodbye, State, Transport};
use super::{Hub, Links};
use crate::error::Reason;

/// "Try again later", in the registry of RFC 6455 section 11.7.
const TRY_AGAIN: u16 = 1013;

/// What a session keeps without being counted: the `auth` of most clients is a token.
const KEPT_FREE: usize = 4_096;

/// Entries for which an empty table keeps its memory.
const ENTRIES_KEPT: usize = 1_024;

/// Who holds something, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Holder {
    /// A connection: a request, a body or a message.
    Conn(u32),
    /// A session: a packet.
    Session(u32),
    /// A session: what is kept with its sockets.
    Kept(u32),
}

/// Memory of all of it.
#[derive(Debug)]
pub(super) struct Incoming {
    max: usize,
    total: usize,
    /// Bytes from which on room is made.
    full: usize,
    /// Nearly nobody has anything unfinished, or long `auth`; the others have no entry.
    held: FxHashMap<Holder, usize>,
}

impl Incoming {
    pub(super) fn new(max: usize) -> Incoming {
        Incoming { max, total: 0, full: max, held: FxHashMap::default() }
    }

    /// Changes the bound.
    pub(super) fn set_max(&mut self, max: usize) {
        (self.max, self.full) = (max, max);
    }

    /// Bytes of all.
    pub(super) fn bytes(&self) -> usize {
        self.total
    }

    /// Notes what somebody holds now. O(1).
    fn hold(&mut self, holder: Holder, bytes: usize) {
        if bytes == 0 {
            return self.let_go(holder);
        }
        let before = self.held.insert(holder, bytes).unwrap_or(0);
        self.total = self.total - before + bytes;
    }

    /// Somebody holds nothing any more. O(1).
    pub(super) fn let_go(&mut self, holder: Holder) {
        if self.held.is_empty() {
            return;
        }
        self.total -= self.held.remove(&holder).unwrap_or(0);
        if self.total <= self.max {
            self.full = self.max;
        }
        if self.held.is_empty() && self.held.capacity() > ENTRIES_KEPT {
            self.held = FxHashMap::default();
        }
    }

    /// Whether somebody has to go.
    fn is_full(&self) -> bool {
        self.total > self.full
    }

    /// Those that hold most, until an eighth of the bound would be free without them. O(holders),
    /// once for as many bytes as that.
    fn largest(&self) -> Vec<Holder> {
        let mut all: Vec<(usize, Holder)> = self.held.iter().map(|(who, it)| (*it, *who)).collect();
        all.sort_unstable_by(|one, other| other.cmp(one));
        let mut left = self.total;
        let is_due = |(bytes, _): &(usize, Holder)| {
            let is_due = left > self.max - self.max / 8;
            left -= bytes;
            is_due
        };
        all.into_iter().take_while(is_due).map(|(_, who)| who).collect()
    }
}

impl Conn {
    /// Bytes of a request, body or message that is not complete.
    pub(super) fn incomplete(&self) -> usize {
        match &self.stage {
            Stage::Http(http) => {
                let body = match &http.phase {
                    Phase::Body { bytes, .. } => bytes.capacity(),
                    _ => 0,
                };
                http.input.capacity() + body
            }
            Stage::WebSocket { decoder, .. } => decoder.buffered(),
            Stage::Closing => 0,
        }
    }
}

impl Hub {
    /// Counts what a connection has not finished.
    pub(super) fn note_incoming(&mut self, index: u32) {
        let Links { conns, incoming, .. } = &mut self.links;
        let Some(conn) = conns.at(index) else { return };
        incoming.hold(Holder::Conn(index), conn.incomplete());
        self.make_room();
    }

    /// The same for a packet of a session.
    pub(super) fn note_arriving(&mut self, index: u32) {
        let Links { sessions, incoming, .. } = &mut self.links;
        let arriving = sessions.at(index).and_then(|session| session.arriving.as_deref());
        incoming.hold(Holder::Session(index), arriving.map_or(0, |arriving| arriving.bytes()));
        self.make_room();
    }

    /// The same for what is kept with a session's sockets. O(its namespaces and events).
    pub(super) fn note_kept(&mut self, index: u32) {
        let bytes = self.kept_long(index);
        self.links.incoming.hold(Holder::Kept(index), bytes);
        self.make_room();
    }

    /// What of it counts.
    pub(super) fn kept_long(&self, index: u32) -> usize {
        self.kept_bytes(index).saturating_sub(KEPT_FREE)
    }

    /// Where more is held than the shard may hold, those with most of it lose it.
    pub(super) fn make_room(&mut self) {
        if !self.links.incoming.is_full() {
            return;
        }
        let largest = self.links.incoming.largest();
        // Each of them is noted once more as it goes.
        self.links.incoming.full = usize::MAX;
        for holder in largest {
            match holder {
                Holder::Conn(index) => self.refuse_incoming(index),
                Holder::Session(index) | Holder::Kept(index) => self.refuse_session(index),
            }
        }
        // What cannot be let go of is not looked at again for every byte.
        let incoming = &mut self.links.incoming;
        incoming.full = incoming.max.max(incoming.total + incoming.max / 8);
    }

    /// A request is answered 503, a websocket closed with 1013, and what was read behind a request
    /// in hand is not answered.
    fn refuse_incoming(&mut self, index: u32) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        self.links.stats.incoming_refused += 1;
        if matches!(conn.stage, Stage::WebSocket { .. }) {
            return self.end_websocket(index, Some(TRY_AGAIN), "", Reason::TransportError);
        }
        let Some(http) = conn.http() else { return };
        match http.phase {
            // As where a body is too large: it costs the request and not the session (B-11).
            Phase::Body { session, .. } => self.post_over(session),
            Phase::Asking { .. } => self.forget_asked(index),
            Phase::Head => {}
            Phase::Parked { .. } | Phase::Busy => {
                http.keep_alive = false;
                http.input = Vec::new();
                return self.links.incoming.let_go(Holder::Conn(index));
            }
        }
        self.answer_error(index, 503);
    }

    fn refuse_session(&mut self, index: u32) {
        let session = self.links.sessions.at(index).filter(|session| session.state == State::Open);
        let Some(session) = session else { return };
        self.links.stats.incoming_refused += 1;
        match session.transport {
            Transport::WebSocket(conn) => {
                self.end_websocket(conn, Some(TRY_AGAIN), "", Reason::TransportError);
            }
            Transport::Polling(_) => {
                self.close_session(index, Reason::TransportError, Goodbye::Close);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Holder::{Conn, Session};
    use super::*;

    #[test]
    fn those_that_hold_most_have_to_go() {
        let mut incoming = Incoming::new(800);
        for (holder, bytes) in [(Conn(1), 200), (Conn(2), 300), (Session(2), 100), (Conn(3), 200)] {
            incoming.hold(holder, bytes);
            assert!(!incoming.is_full());
        }
        incoming.hold(Conn(1), 210);
        assert!(incoming.is_full());
        assert_eq!(incoming.largest(), [Conn(2)]);
        incoming.let_go(Conn(2));
        assert_eq!((incoming.bytes(), incoming.is_full()), (510, false));
        incoming.hold(Session(2), 500);
        assert_eq!(incoming.largest(), [Session(2)]);
        incoming.set_max(400);
        assert_eq!(incoming.largest(), [Session(2), Conn(1)]);
        incoming.set_max(8);
        assert_eq!(incoming.largest().len(), 3);
        incoming.hold(Conn(1), 0);
        incoming.let_go(Session(2));
        incoming.let_go(Conn(3));
        incoming.let_go(Conn(3));
        assert_eq!((incoming.bytes(), incoming.held.len()), (0, 0));
    }
}
