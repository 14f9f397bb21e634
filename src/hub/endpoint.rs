//! Websockets without Engine.IO: paths of an application's own, whose messages it gets as they
//! come. The same decoder, queue, heartbeat (as pings of the websocket) and bounds as for sessions.

use bytes::Bytes;

use super::answer::Answer;
use super::conn::{Conn, Role, Stage};
use super::deliver::Wire;
use super::handshake::Handshake;
use super::request::Step;
use super::slab::Key;
use super::{Event, Hub};
use crate::options::{Limits, SlowReader};
use crate::proto::http::Head;
use crate::proto::websocket::{self, Opcode};

/// A path whose websockets are the application's.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Exact path of the request, without its query.
    pub path: Box<str>,
    /// Bytes of a message.
    pub message_bytes_max: usize,
    /// Fragments of a message.
    pub fragments_max: u32,
    /// Bytes waiting and in flight per connection.
    pub queue_bytes_max: usize,
}

/// What happens on such a websocket.
#[derive(Debug)]
pub enum Happening {
    /// It has opened; with the request that opened it.
    Opened(Handshake),
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// It has closed, or is closing; nothing more follows. To be answered with
    /// `finish_endpoint`.
    Closed {
        /// Of the close frame, whoever sent it; 1005 for one without, 1006 without a frame.
        code: u16,
        /// Of the close frame.
        reason: String,
    },
}

/// No close frame came: the connection broke, or the peer did not read or answer.
pub(super) const ABNORMAL: u16 = 1006;
/// The close frame had no code.
pub(super) const NO_CODE: u16 = 1005;
/// The server goes.
const GOING_AWAY: u16 = 1001;

/// What was heard of the peer since the last look; sessions have their own heartbeat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Life {
    /// Something.
    #[default]
    Heard,
    /// Nothing.
    Quiet,
    /// Nothing, and it was asked.
    Asked,
    /// It has closed, or broken a rule: nothing more is read, what its messages are answered with
    /// is still sent.
    Over,
}

impl Hub {
    /// Makes a path known. Its number is the same on every shard when all are told in the same
    /// order.
    pub fn add_endpoint(&mut self, endpoint: Endpoint) -> u32 {
        self.endpoints.push(endpoint);
        self.endpoints.len() as u32 - 1
    }

    pub(super) fn endpoint_at(&self, path: &str) -> Option<u32> {
        let found = self.endpoints.iter().position(|endpoint| *endpoint.path == *path)?;
        Some(found as u32)
    }

    /// Limits of messages on a websocket.
    pub(super) fn message_limits(&self, role: Role, owner: u32) -> Limits {
        let mut limits = self.config.limits;
        if role == Role::Endpoint
            && let Some(endpoint) = self.endpoints.get(owner as usize)
        {
            limits.message_bytes_max = endpoint.message_bytes_max;
            limits.fragments_max = endpoint.fragments_max;
        }
        limits
    }

    /// A request to one of the paths.
    pub(super) fn endpoint_request(
        &mut self,
        index: u32,
        head: &Head<'_>,
        raw: &[u8],
        endpoint: u32,
    ) -> Step {
        if self.is_closing || self.refusing.is_some() {
            self.answer_busy(index);
            return Step::Answered;
        }
        if !head.upgrade {
            self.links.stats.bad_requests += 1;
            // What to upgrade to has to be said (RFC 9110 15.5.22).
            let headers = &[("Upgrade", "websocket"), ("Connection", "Upgrade")];
            let (content_type, body) = (Some("text/plain"), &b"Upgrade Required"[..]);
            self.respond(index, &Answer { content_type, headers, body, ..Answer::of(426) });
            return Step::Answered;
        }
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        let http = http.map(|http| (http.client, http.peer.clone()));
        let Some((address, peer)) = http else { return Step::Answered };
        if !self.may_shake(index) || !self.accept_websocket(index, head) {
            return Step::Answered;
        }
        let issued_ms = self.config.epoch_ms + self.now_ms;
        let handshake = Handshake::new(raw, address, issued_ms);
        let handshake = handshake.secured(peer.is_secure, peer.certificate);
        self.happened(index, endpoint, Happening::Opened(handshake));
        Step::WebSocket { owner: endpoint, role: Role::Endpoint }
    }

    pub(super) fn endpoint_text(&mut self, index: u32, endpoint: u32, text: &str) {
        self.happened(index, endpoint, Happening::Text(text.into()));
    }

    pub(super) fn endpoint_binary(&mut self, index: u32, endpoint: u32, bytes: &[u8]) {
        self.happened(index, endpoint, Happening::Binary(Bytes::copy_from_slice(bytes)));
    }

    /// The connection has ended without a close frame.
    pub(super) fn endpoint_gone(&mut self, index: u32, endpoint: u32) {
        self.endpoint_closed(index, endpoint, ABNORMAL, "");
    }

    /// It closes: a close frame came or went, or one is due for a broken rule.
    pub(super) fn endpoint_closed(&mut self, index: u32, endpoint: u32, code: u16, reason: &str) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        if std::mem::replace(&mut conn.life, Life::Over) != Life::Over {
            self.happened(index, endpoint, Happening::Closed { code, reason: reason.into() });
        }
    }

    /// Sends the close frame that a websocket still waits for; to be called after
    /// [`Happening::Closed`], and so after the application has answered the messages before.
    pub fn finish_endpoint(&mut self, conn: Key, code: u16) {
        if self.endpoint_of(conn).is_some() {
            let mut close = Vec::new();
            websocket::write_close((code != NO_CODE).then_some(code), &mut close);
            self.links.send_owned(conn.index, close);
            self.finish_conn(conn.index);
        }
    }

    fn happened(&mut self, index: u32, endpoint: u32, happening: Happening) {
        if let Some(conn) = self.links.conns.key_at(index) {
            self.events.push_back(Event::Endpoint { conn, endpoint, happening });
        }
    }

    /// Whether messages pass, and of which path.
    fn endpoint_of(&self, conn: Key) -> Option<u32> {
        match self.links.conns.get(conn)?.stage {
            Stage::WebSocket { owner, role: Role::Endpoint, .. } => Some(owner),
            _ => None,
        }
    }

    /// Sends a message. False if the connection has gone, or goes because its queue is full; true
    /// where the message is dropped for that reason ([`SlowReader::Drop`]).
    pub fn send_message(&mut self, conn: Key, is_text: bool, message: &[u8], pack: bool) -> bool {
        let Some(endpoint) = self.endpoint_of(conn) else { return false };
        let limit = self.endpoints[endpoint as usize].queue_bytes_max;
        let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
        let links = &mut self.links;
        let Some(record) = links.conns.get_mut(conn) else { return false };
        let Stage::WebSocket { deflate, .. } = record.stage else { return false };
        let room = links.bounds.of_queue(limit).room(&record.out, message.len(), false);
        if !room.admits(&mut links.dirty, &mut links.stats) {
            if links.slow_reader == SlowReader::Drop {
                links.stats.slow_dropped += 1;
                return true;
            }
            self.endpoint_overflow(conn.index, endpoint);
            return false;
        }
        let mut out = Vec::new();
        match deflate.filter(|_| pack) {
            Some(agreed) => {
                let wire = Wire::default().deflated(agreed);
                links.codec.write(conn.index, wire, opcode, message, &mut out);
            }
            None => websocket::write_frame(opcode, message, &mut out),
        }
        links.send_owned(conn.index, out);
        true
    }

    /// The peer does not read.
    fn endpoint_overflow(&mut self, index: u32, endpoint: u32) {
        self.links.stats.slow_closed += 1;
        self.drop_conn(index);
        self.endpoint_gone(index, endpoint);
    }

    /// Applies the bound to what was queued beside `send_message` (pongs).
    pub(super) fn check_endpoint(&mut self, index: u32, endpoint: u32) {
        let bounds = self.links.bounds.of_queue(self.endpoints[endpoint as usize].queue_bytes_max);
        if self.links.conns.at(index).is_some_and(|conn| bounds.is_over(&conn.out)) {
            self.endpoint_overflow(index, endpoint);
        }
    }

    /// Bytes that a connection has not taken yet.
    pub fn queued_on(&self, conn: Key) -> usize {
        self.links.conns.get(conn).map_or(0, |conn| conn.out.bytes())
    }

    /// Whether messages pass on a websocket of an endpoint.
    pub fn is_open_on(&self, conn: Key) -> bool {
        let is_over = self.links.conns.get(conn).is_none_or(|conn| conn.life == Life::Over);
        !is_over && self.endpoint_of(conn).is_some()
    }

    /// Closes a websocket after what is queued, with a code that a server may send.
    pub fn close_message(&mut self, conn: Key, code: u16, reason: &str) {
        let Some(endpoint) = self.endpoint_of(conn) else { return };
        let mut close = Vec::new();
        websocket::write_close_reason(code, reason, &mut close);
        self.links.send_owned(conn.index, close);
        self.finish_conn(conn.index);
        self.endpoint_closed(conn.index, endpoint, code, reason);
    }

    /// Closes a websocket at once, because its handler has failed or cannot keep up.
    pub fn abort_endpoint(&mut self, conn: Key) {
        if let Some(endpoint) = self.endpoint_of(conn) {
            self.drop_conn(conn.index);
            self.endpoint_gone(conn.index, endpoint);
        }
    }

    /// A websocket of an endpoint was silent for a while: ask, then give up.
    pub(super) fn endpoint_due(&mut self, index: u32, endpoint: u32) {
        let Some(Conn { life, .. }) = self.links.conns.at_mut(index) else { return };
        let wait = match *life {
            Life::Heard => {
                *life = Life::Quiet;
                self.config.ping_interval_ms
            }
            Life::Quiet => {
                *life = Life::Asked;
                let mut ping = Vec::new();
                websocket::write_frame(Opcode::Ping, &[], &mut ping);
                self.links.send_owned(index, ping);
                self.config.ping_timeout_ms
            }
            Life::Over => return,
            Life::Asked => {
                self.links.stats.ping_timeouts += 1;
                self.drop_conn(index);
                return self.endpoint_gone(index, endpoint);
            }
        };
        self.set_conn_deadline(index, Some(wait));
    }

    /// The server goes: every websocket of an endpoint is told so.
    pub(super) fn shut_endpoints(&mut self) {
        if self.endpoints.is_empty() {
            return;
        }
        let all: Vec<u32> = self.links.conns.indices().collect();
        for index in all {
            if let Some(key) = self.links.conns.key_at(index) {
                self.close_message(key, GOING_AWAY, "");
            }
        }
    }
}
