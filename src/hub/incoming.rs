//! What clients have begun to send and not finished: requests, websocket messages, packets that
//! wait for attachments. Each has a bound of its own; here is the one for all of a shard, as many
//! bodies at a time are worse than a long one (CVE-2020-36048).

use rustc_hash::FxHashMap;

use super::buffer::Meter;
use super::conn::{Conn, Stage};
use super::http::Phase;
use super::session::Goodbye;
use super::{Hub, Links};
use crate::error::Reason;

/// How many times as much as is left one of them may hold.
const TIMES: usize = 8;

/// "Try again later", in the registry of RFC 6455 section 11.7.
const TRY_AGAIN: u16 = 1013;

/// Memory of all of it.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) max: usize,
    total: Meter,
    /// By the numbers of connections. Nearly none has anything unfinished.
    conns: FxHashMap<u32, Share>,
}

/// A part of it, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    total: Meter,
    bytes: usize,
}

impl Share {
    /// So much it is now.
    pub(super) fn set(&mut self, bytes: usize) {
        self.total.change(self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Incoming {
    pub(super) fn new(max: usize) -> Incoming {
        Incoming { max, total: Meter::default(), conns: FxHashMap::default() }
    }

    /// Bytes of all.
    pub(super) fn bytes(&self) -> usize {
        self.total.bytes()
    }

    /// A part of it, empty.
    pub(super) fn share(&self) -> Share {
        Share { total: self.total.clone(), bytes: 0 }
    }

    /// Whether one may hold so much, which is counted already: the more is held, the less each may
    /// hold; so those with most of it are found without a search, and whoever holds little is let
    /// through to the end. One alone may hold what its own bound says.
    fn admits(&self, bytes: usize) -> bool {
        let left = self.max.checked_sub(self.bytes());
        left.is_some_and(|left| bytes / TIMES <= left) || bytes == 0 || bytes == self.bytes()
    }

    /// Notes what a connection holds; false if that is too much. O(1).
    fn hold(&mut self, conn: u32, bytes: usize) -> bool {
        if bytes == 0 {
            self.let_go(conn);
            return true;
        }
        let total = &self.total;
        let share =
            self.conns.entry(conn).or_insert_with(|| Share { total: total.clone(), bytes: 0 });
        share.set(bytes);
        self.admits(bytes)
    }

    /// A connection holds nothing any more.
    pub(super) fn let_go(&mut self, conn: u32) {
        if !self.conns.is_empty() {
            self.conns.remove(&conn);
        }
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
    /// Counts what a connection has not finished; where that is too much, its request is answered
    /// 503, its websocket closed with 1013.
    pub(super) fn note_incoming(&mut self, index: u32) {
        let Links { conns, incoming, stats, .. } = &mut self.links;
        let Some(conn) = conns.at_mut(index) else { return };
        if incoming.hold(index, conn.incomplete()) {
            return;
        }
        let session = match conn.http().map(|http| &http.phase) {
            Some(Phase::Body { session, .. }) => Some(*session),
            Some(Phase::Head) | None => None,
            // Its answer is on its way, or awaited: it is the last one.
            Some(Phase::Parked { .. } | Phase::Busy) => return self.forget_rest(index, 0),
            Some(Phase::Asking { size }) => {
                let size = *size;
                return self.forget_rest(index, size);
            }
        };
        stats.incoming_refused += 1;
        if matches!(conn.stage, Stage::WebSocket { .. }) {
            return self.end_websocket(index, Some(TRY_AGAIN), "", Reason::TransportError);
        }
        if let Some(session) = session {
            // As where a body is too large (B-11).
            self.post_over(session);
        }
        self.answer_error(index, 503);
    }

    /// What was read behind the request in hand is not answered.
    fn forget_rest(&mut self, index: u32, size: usize) {
        let Links { conns, incoming, stats, .. } = &mut self.links;
        let Some(conn) = conns.at_mut(index) else { return };
        if let Some(http) = conn.http().filter(|http| http.input.len() > size) {
            stats.incoming_refused += 1;
            http.keep_alive = false;
            http.input.truncate(size);
            http.input.shrink_to_fit();
            incoming.hold(index, conn.incomplete());
        }
    }

    /// The same for a packet of a session.
    pub(super) fn note_arriving(&mut self, index: u32) {
        let Links { sessions, incoming, stats, .. } = &mut self.links;
        let session = sessions.at_mut(index);
        let Some(arriving) = session.and_then(|it| it.arriving.as_deref_mut()) else { return };
        let bytes = arriving.bytes();
        arriving.share.set(bytes);
        if !incoming.admits(bytes) {
            stats.incoming_refused += 1;
            self.close_session(index, Reason::TransportError, Goodbye::Close);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_held_the_less_each_may_hold() {
        let mut incoming = Incoming::new(1_000);
        assert!(incoming.hold(1, 5_000), "one alone");
        assert!(!incoming.hold(2, 1), "over the bound");
        incoming.let_go(1);
        incoming.let_go(2);
        // Whoever comes to 8 times what is left: 880 with nobody else.
        assert!(incoming.hold(1, 400));
        assert!(incoming.hold(2, 400));
        assert!(incoming.hold(3, 100));
        assert!(!incoming.hold(2, 500), "1,000 in all, so nothing is left");
        incoming.let_go(2);
        assert_eq!(incoming.bytes(), 500);
        assert!(incoming.hold(4, 440), "8 times 60");
        assert!(incoming.hold(5, 50), "whoever holds little");
        assert!(!incoming.hold(1, 401), "who holds more than 8 times 9");
        for conn in 1..=5 {
            incoming.let_go(conn);
        }
        let mut share = incoming.share();
        share.set(7);
        assert_eq!(incoming.bytes(), 7);
        drop(share);
        assert_eq!(incoming.bytes(), 0);
        assert!(incoming.conns.is_empty());
    }
}
