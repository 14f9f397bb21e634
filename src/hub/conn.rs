//! One TCP connection: what its bytes mean at the moment, and how it ends.
//!
//! A connection begins as HTTP, may become a websocket (or first a probe of one), and ends in
//! `Closing`, where what is still read no longer matters. All closing goes through
//! `finish_conn` (what is queued leaves first) or `drop_conn` (nothing more leaves).

use std::net::SocketAddr;

use super::endpoint::{self, Life};
use super::fanout::{Line, OutQueue, Run};
use super::gate::{Peer, Verdict};
use super::http::{Http, Phase};
use super::incoming::Holder;
use super::session::Goodbye;
use super::wheel::{Alarm, Tick, Timer};
use super::{Hub, Links, Output};
use crate::error::Reason;
use crate::proto::deflate::Agreed;
use crate::proto::websocket::{self, Decoder, Message, Opcode};

/// How the peer ended the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEnd {
    /// It will send nothing more; it may still read.
    Eof,
    /// The connection is broken.
    Reset,
}

/// What the bytes of a connection are.
#[derive(Debug)]
pub(super) enum Stage {
    /// Requests.
    Http(Box<Http>),
    /// Frames of what `role` says; `owner` is its number.
    WebSocket { owner: u32, role: Role, deflate: Option<Agreed>, decoder: Decoder },
    /// Of no interest.
    Closing,
}

/// Whose frames a websocket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Those of a session.
    Session,
    /// Of a session that has yet to upgrade to it.
    Probe,
    /// Of an endpoint, that is the application's own messages.
    Endpoint,
}

/// How a websocket has ended.
struct End<'a> {
    /// Of the close frame, or that there was none.
    code: u16,
    /// Beside the code.
    text: &'a str,
    /// What sockets hear.
    reason: Reason,
}

/// The record of a connection. Kept small: a million of them are idle websockets.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stage: Stage,
    pub(super) out: OutQueue,
    pub(super) line: Line,
    pub(super) alarm: Alarm,
    /// A receive is armed (one-shot), or armed for ever (multishot).
    is_receiving: bool,
    /// The receive that is armed stays so until the peer closes, whatever becomes of the stage.
    is_multishot: bool,
    ending: Ending,
    /// A websocket message has begun and is not complete.
    is_partial: bool,
    /// A ping is among what waits for this shard to send it.
    pub(super) has_ping: bool,
    /// For websockets of endpoints.
    pub(super) life: Life,
    /// The peer will send nothing more.
    pub(super) peer_closed: bool,
}

/// How far the end of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// It closes when everything queued was sent.
    Flushing,
    /// The kernel was asked to let go; only `handle_closed` is awaited.
    Asked,
}

/// A peer gets this long to take what is queued for it when its connection ends.
const FLUSH_MS: u64 = 10_000;
/// And this long to close its side after that, so that the last bytes are not lost to a reset.
const LINGER_MS: u64 = 2_000;

impl Conn {
    /// The session that this websocket carries.
    pub(super) fn session(&self) -> Option<u32> {
        match self.stage {
            Stage::WebSocket { owner, role: Role::Session, .. } => Some(owner),
            _ => None,
        }
    }

    fn new(http: Http) -> Conn {
        Conn {
            stage: Stage::Http(Box::new(http)),
            out: OutQueue::default(),
            line: Line::None,
            alarm: Alarm::default(),
            is_receiving: false,
            is_multishot: false,
            ending: Ending::No,
            is_partial: false,
            has_ping: false,
            life: Life::Heard,
            peer_closed: false,
        }
    }

    pub(super) fn http(&mut self) -> Option<&mut Http> {
        match &mut self.stage {
            Stage::Http(http) => Some(http),
            _ => None,
        }
    }
}

impl Links {
    /// Queues bytes that are for one connection alone.
    pub(super) fn send_owned(&mut self, index: u32, bytes: Vec<u8>) {
        if let Some(conn) = self.conns.at_mut(index).filter(|conn| conn.ending != Ending::Asked) {
            conn.out.push_owned(bytes, &self.bounds.memory);
            self.dirty.mark(index, &conn.out, &mut conn.line, true);
        }
    }

    /// Queues bytes that others are sent too.
    pub(super) fn send_shared(&mut self, index: u32, run: &Run) {
        if let Some(conn) = self.conns.at_mut(index).filter(|conn| conn.ending != Ending::Asked) {
            conn.out.stage(run, &self.bounds.memory);
            self.dirty.mark(index, &conn.out, &mut conn.line, true);
        }
    }
}

impl Hub {
    /// A connection was accepted. Returns its number, or `None` when there are too many already;
    /// then close it at once.
    pub fn handle_accepted(&mut self, address: SocketAddr) -> Option<u32> {
        if self.is_closing || self.links.conns.len() >= self.config.connections_max {
            self.links.stats.refused += 1;
            return None;
        }
        let verdict = self.enter(address.ip());
        if let Verdict::Closed(_) = verdict {
            return None;
        }
        self.links.stats.accepted += 1;
        let index = self.add_conn(address.into(), Vec::new());
        self.seat(index, address.ip(), verdict);
        self.receive_more(index);
        Some(index)
    }

    /// A connection came from another shard with the bytes read there. Returns its number, or
    /// `None` as for an accepted one: a client chooses where it is sent to.
    pub fn handle_migrated(&mut self, peer: Peer, bytes: Vec<u8>) -> Option<u32> {
        if self.links.conns.len() >= self.config.connections_max {
            self.links.stats.refused += 1;
            return None;
        }
        self.links.stats.migrated += 1;
        let ip = peer.address.ip();
        let index = self.add_conn(peer, bytes);
        self.seat_again(index, ip);
        self.http_input(index);
        self.receive_more(index);
        Some(index)
    }

    fn add_conn(&mut self, peer: Peer, bytes: Vec<u8>) -> u32 {
        let index = self.links.conns.insert(Conn::new(Http::new(peer, bytes))).index;
        self.set_conn_deadline(index, Some(self.config.head_timeout_ms));
        index
    }

    /// Bytes have arrived; they may be changed in place.
    pub fn handle_received(&mut self, index: u32, bytes: &mut [u8]) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        match &mut conn.stage {
            Stage::Http(http) => {
                conn.is_receiving = false;
                http.input.extend_from_slice(bytes);
                self.http_input(index);
                self.receive_more(index);
            }
            Stage::WebSocket { decoder, .. } => {
                let decoder = std::mem::take(decoder);
                // A receive that was armed while a hook was asked about the handshake is one-shot.
                conn.is_receiving = conn.is_multishot;
                let is_over = !conn.is_multishot;
                self.websocket_input(index, decoder, bytes);
                if is_over {
                    self.receive_more(index);
                }
            }
            Stage::Closing => {
                conn.is_receiving = conn.is_multishot;
                self.receive_more(index);
            }
        }
    }

    /// A send handed out by `flush` is complete (`ok`), or has failed.
    pub fn handle_sent(&mut self, index: u32, ok: bool) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        self.links.sending -= usize::from(conn.out.is_in_flight());
        conn.out.sent();
        if !ok {
            conn.out.clear();
            return self.handle_peer_closed(index, PeerEnd::Reset);
        }
        if conn.out.is_waiting() {
            return self.links.dirty.enter(index, conn.line);
        }
        if conn.ending == Ending::Flushing {
            return self.shut_write(index);
        }
        if conn.http().is_some_and(|http| matches!(http.phase, Phase::Busy)) {
            self.http_answered(index);
            return self.receive_more(index);
        }
        self.conn_drained(index);
    }

    /// The peer has closed its side, or the connection is broken.
    pub fn handle_peer_closed(&mut self, index: u32, end: PeerEnd) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        conn.peer_closed = true;
        conn.is_receiving = false;
        match &conn.stage {
            Stage::Http(_) => self.http_peer_closed(index, end),
            Stage::WebSocket { owner, role, .. } => {
                let (owner, role) = (*owner, *role);
                self.drop_conn(index);
                let (code, reason) = (endpoint::ABNORMAL, Reason::TransportClose);
                self.websocket_gone(index, owner, role, &End { code, text: "", reason });
            }
            Stage::Closing if end == PeerEnd::Eof && !conn.out.is_empty() => {}
            Stage::Closing => self.drop_conn(index),
        }
    }

    /// The kernel has let go of the connection; its number may be used again.
    pub fn handle_closed(&mut self, index: u32) {
        self.links.codec.forget(index);
        self.links.incoming.let_go(Holder::Conn(index));
        let conn = self.links.conns.remove(index);
        self.links.sending -= usize::from(conn.as_ref().is_some_and(|it| it.out.is_in_flight()));
        if conn.is_some() {
            self.unseat(index);
        }
    }

    /// Reads on where more input is of use; see [`Phase`].
    pub(super) fn receive_more(&mut self, index: u32) {
        self.note_incoming(index);
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        if conn.is_receiving || conn.ending == Ending::Asked || conn.peer_closed {
            return;
        }
        let (wanted, many) = match &conn.stage {
            Stage::Http(http) => (http.wants_input(), false),
            Stage::WebSocket { .. } => (true, true),
            Stage::Closing => (true, false),
        };
        if wanted {
            conn.is_receiving = true;
            conn.is_multishot = many;
            self.outputs.push_back(match many {
                true => Output::ReceiveMany(index),
                false => Output::ReceiveOnce(index),
            });
        }
    }

    /// Hands the connection to the shard that owns its session.
    pub(super) fn migrate(&mut self, index: u32, shard: u16, bytes: Vec<u8>) {
        let Some(mut conn) = self.links.conns.remove(index) else { return };
        let Some(peer) = conn.http().map(|http| http.peer.clone()) else { return };
        self.unseat(index);
        self.links.incoming.let_go(Holder::Conn(index));
        self.outputs.push_back(Output::Migrate { conn: index, shard, peer, bytes });
    }

    fn websocket_input(&mut self, index: u32, mut decoder: Decoder, bytes: &mut [u8]) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        let Stage::WebSocket { owner, role, deflate, .. } = conn.stage else { return };
        if conn.life == Life::Over {
            return;
        }
        conn.life = Life::Heard;
        let limits = self.message_limits(role, owner);
        let (mut at, mut plain, mut has_ended) = (0, Vec::new(), false);
        loop {
            let next = decoder.next_extended(bytes, &mut at, &limits, deflate.is_some());
            let max = limits.message_bytes_max;
            let next = next.and_then(|message| match message {
                None => Ok(None),
                Some(message) => self.links.codec.read(index, message, max, &mut plain).map(Some),
            });
            match next {
                Ok(Some(message)) => {
                    has_ended |= matches!(message, Message::Text(_) | Message::Binary(_));
                    self.websocket_message(index, owner, message);
                }
                Ok(None) => break,
                Err(error) => {
                    self.links.stats.bad_frames += 1;
                    return self.end_websocket(
                        index,
                        Some(error.close_code()),
                        "",
                        Reason::TransportError,
                    );
                }
            }
            // Closing ends the conversation, whatever else was in the buffer.
            let conn = self.links.conns.at(index).filter(|conn| conn.life != Life::Over);
            if !conn.is_some_and(|conn| matches!(conn.stage, Stage::WebSocket { .. })) {
                return;
            }
        }
        if let Some(Conn { stage: Stage::WebSocket { decoder: place, .. }, is_partial, .. }) =
            self.links.conns.at_mut(index)
        {
            let was_partial = std::mem::replace(is_partial, !decoder.is_idle());
            let is_partial = *is_partial;
            *place = decoder;
            // A message has a time to be complete in, like a body; pieces do not prolong it.
            if is_partial && (has_ended || !was_partial) {
                self.set_conn_deadline(index, Some(self.config.body_timeout_ms));
            } else if was_partial && !is_partial {
                self.set_conn_deadline(index, self.silence_ms(role));
            }
            if is_partial || was_partial {
                self.note_incoming(index);
            }
        }
    }

    fn websocket_message(&mut self, index: u32, owner: u32, message: Message<'_>) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        let Stage::WebSocket { role, .. } = conn.stage else { return };
        match message {
            Message::Text(text) => match role {
                Role::Session => self.session_text(owner, text),
                Role::Probe => self.probe_packet(index, owner, text),
                Role::Endpoint => self.endpoint_text(index, owner, text),
            },
            Message::Binary(bytes) => match role {
                Role::Session => self.session_binary(owner, bytes),
                Role::Probe => self.refuse_probe(index, owner),
                Role::Endpoint => self.endpoint_binary(index, owner, bytes),
            },
            Message::Deflated { .. } => {}
            Message::Ping(data) => {
                let mut pong = Vec::with_capacity(data.len() + 2);
                websocket::write_frame(Opcode::Pong, data, &mut pong);
                self.links.send_owned(index, pong);
                self.check_pongs(index, owner, role);
            }
            Message::Pong(_) => {}
            Message::Close(code, text) => {
                self.end_websocket(index, code, text, Reason::TransportClose);
            }
        }
    }

    /// A peer that makes us answer must read the answers, on a probe too.
    fn check_pongs(&mut self, index: u32, owner: u32, role: Role) {
        match role {
            Role::Session => return self.links.check_queue(owner),
            Role::Endpoint => return self.check_endpoint(index, owner),
            Role::Probe => {}
        }
        let Links { conns, bounds, .. } = &self.links;
        if conns.at(index).is_some_and(|conn| bounds.is_over(&conn.out)) {
            self.links.stats.slow_closed += 1;
            self.drop_conn(index);
            self.forget_probe(owner);
        }
    }

    /// A websocket has ended, or is ending.
    fn websocket_gone(&mut self, index: u32, owner: u32, role: Role, end: &End<'_>) {
        match role {
            Role::Session => self.close_session(owner, end.reason, Goodbye::Gone),
            Role::Probe => self.forget_probe(owner),
            Role::Endpoint => self.endpoint_closed(index, owner, end.code, end.text),
        }
    }

    /// Answers or sends a close frame and ends the session that used this websocket.
    pub(super) fn end_websocket(
        &mut self,
        index: u32,
        code: Option<u16>,
        text: &str,
        reason: Reason,
    ) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        let Stage::WebSocket { owner, role, decoder, .. } = &mut conn.stage else { return };
        let (owner, role) = (*owner, *role);
        let end = End { code: code.unwrap_or(endpoint::NO_CODE), text, reason };
        if role == Role::Endpoint {
            // The close frame follows what the application answers to the messages before.
            (*decoder, conn.is_partial) = (Decoder::new(), false);
            self.links.incoming.let_go(Holder::Conn(index));
            return self.websocket_gone(index, owner, role, &end);
        }
        let mut close = Vec::with_capacity(4);
        websocket::write_close(code, &mut close);
        self.links.send_owned(index, close);
        self.finish_conn(index);
        self.websocket_gone(index, owner, role, &end);
    }

    /// A connection cannot go on, by no word of its peer's: what is queued leaves, then it closes.
    pub fn handle_broken(&mut self, index: u32) {
        self.finish_conn(index);
    }

    /// Stops listening to the peer, sends what is queued, then closes.
    pub(super) fn finish_conn(&mut self, index: u32) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        if conn.ending != Ending::No {
            return;
        }
        conn.stage = Stage::Closing;
        conn.ending = Ending::Flushing;
        self.links.incoming.let_go(Holder::Conn(index));
        let is_flushed = conn.out.is_empty();
        self.set_conn_deadline(index, Some(FLUSH_MS));
        if is_flushed {
            self.shut_write(index);
        } else {
            self.receive_more(index);
        }
    }

    /// Everything was sent: say so, and wait for the peer to have read it.
    fn shut_write(&mut self, index: u32) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        if conn.peer_closed {
            return self.drop_conn(index);
        }
        self.outputs.push_back(Output::ShutdownWrite(index));
        self.set_conn_deadline(index, Some(LINGER_MS));
        self.receive_more(index);
    }

    /// Closes without sending anything more.
    pub(super) fn drop_conn(&mut self, index: u32) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        if conn.ending != Ending::Asked {
            conn.ending = Ending::Asked;
            conn.stage = Stage::Closing;
            conn.out.clear();
            self.links.incoming.let_go(Holder::Conn(index));
            self.set_conn_deadline(index, None);
            self.outputs.push_back(Output::Close(index));
        }
    }

    pub(super) fn set_conn_deadline(&mut self, index: u32, after_ms: Option<u64>) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        let deadline = after_ms.map(|ms| Tick::after(self.now_ms, ms));
        let at = conn.alarm.set(deadline, self.now);
        self.watch(at, Timer::Conn, index);
    }

    pub(super) fn conn_due(&mut self, index: u32) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        match conn.alarm.due(self.now) {
            Err(at) => self.watch(Some(at), Timer::Conn, index),
            Ok(false) => {}
            Ok(true) => match conn.stage {
                Stage::Http(_) => self.http_due(index),
                Stage::WebSocket { owner, role: Role::Endpoint, .. } if !conn.is_partial => {
                    self.endpoint_due(index, owner);
                }
                // Its message is not complete in time.
                Stage::WebSocket { .. } => {
                    self.links.stats.bad_frames += 1;
                    self.end_websocket(index, Some(1008), "", Reason::TransportError);
                }
                Stage::Closing => self.drop_conn(index),
            },
        }
    }

    /// Turns an HTTP connection into a websocket; the answer is already queued.
    pub(super) fn become_websocket(&mut self, index: u32, owner: u32, role: Role, rest: &mut [u8]) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        let deflate = conn.http().and_then(|http| http.deflate);
        conn.stage = Stage::WebSocket { owner, role, deflate, decoder: Decoder::new() };
        if role == Role::Session {
            self.adopt_deflate(index, owner);
        }
        self.set_conn_deadline(index, self.silence_ms(role));
        self.receive_more(index);
        if !rest.is_empty() {
            // Frames may come together with the request (W-22); none of them is lost.
            self.websocket_input(index, Decoder::new(), rest);
        }
    }

    /// How long a websocket may be silent; sessions see to that themselves.
    fn silence_ms(&self, role: Role) -> Option<u64> {
        (role == Role::Endpoint).then_some(self.config.ping_interval_ms)
    }

    /// Marks a probe's connection as the transport of its session.
    pub(super) fn promote_probe(&mut self, index: u32) {
        if let Some(Conn { stage: Stage::WebSocket { role, .. }, .. }) =
            self.links.conns.at_mut(index)
        {
            *role = Role::Session;
        }
    }

    /// Queues for a websocket and closes it: the polite end from this side, without a code (C-4).
    pub(super) fn close_websocket(&mut self, index: u32) {
        let mut close = Vec::with_capacity(2);
        websocket::write_close(None, &mut close);
        self.links.send_owned(index, close);
        self.finish_conn(index);
    }
}

// A million of these are idle: growth is a decision.
const _: () = assert!(size_of::<Conn>() <= 64);
