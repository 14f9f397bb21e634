//! Engine.IO: one session from its handshake to its end, over polling, websocket, or both while it
//! upgrades (spec B, D, E).
//!
//! A session never moves between shards. All ends of a session pass through `close_session`.

use std::borrow::Cow;
use std::net::SocketAddr;

use super::deliver::{Frame, Urgency, Wire};
use super::few::Few;
use super::handshake::Kept;
use super::id::{Id, Secret};
use super::incoming::Holder;
use super::message::Arriving;
use super::polling::{Payload, Polling};
use super::slab::Key;
use super::wheel::{Alarm, Deadline, TICK_MS, Tick, Timer};
use super::{AckLost, Event, Hub};
use crate::error::Reason;
use crate::options::InitialPacket;
use crate::proto::engine::{self, Packet};
use crate::proto::engine3;
use crate::proto::packet;

/// How packets leave.
#[derive(Debug)]
pub(super) enum Transport {
    WebSocket(u32),
    Polling(Box<Polling>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// Over for its sockets; a polling client still has to fetch the last packets (B-16).
    Closing,
    /// Only its sockets' records are left, until the application has let go of them.
    Closed,
}

/// What a session waits for, of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ping {
    /// Nothing.
    Idle,
    /// A ping was sent and not answered.
    Sent,
    /// And the deadline of the answer was moved once already (E-3).
    Extended,
}

/// The record of a session. Kept small: most of a million are idle websockets.
#[derive(Debug)]
pub(super) struct Session {
    secret: Secret,
    pub(super) state: State,
    ping: Ping,
    pub(super) is_overflowed: bool,
    pub(super) wire: Wire,
    pub(super) transport: Transport,
    pub(super) members: Few,
    /// A packet that is not complete yet, or the state of an application's parser.
    pub(super) arriving: Option<Box<Arriving>>,
    pub(super) handshake: Option<Kept>,
    alarm: Alarm,
    /// When to ping, or when the pong is overdue, or when to give up closing.
    heartbeat: Tick,
    /// When a first namespace must have been joined; none once one was.
    pub(super) connect_by: Deadline,
}

const _: () = assert!(size_of::<Session>() <= 96);

impl Session {
    /// Bytes that wait for a GET.
    pub(super) fn outbox_bytes(&self) -> usize {
        match &self.transport {
            Transport::WebSocket(_) => 0,
            Transport::Polling(polling) => polling.outbox.len(),
        }
    }
}

/// The body of a POST.
pub(super) enum Posted<'a> {
    Text(Cow<'a, str>),
    /// `application/octet-stream`, in revision 3 only (H-5).
    Octets(&'a [u8]),
}

/// What a client hears at the end of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// Nothing: its transport has gone, or is being ended by the caller.
    Gone,
    /// The end, at once: an error on its side, or a timeout.
    Close,
    /// A noop, since the client itself said that it goes (B-17).
    Noop,
    /// Everything queued, then the end: the server's own wish (B-16, E-10).
    Flush,
}

/// Time that a closing polling session waits for its client (B-16).
const CLOSE_MS: u64 = 30_000;

impl Hub {
    /// The session of an id, if it exists and is not over.
    pub(super) fn find_session(&self, id: &Id) -> Option<Key> {
        let session = self.links.sessions.at(id.slot)?;
        let is_it = session.secret == id.secret && session.state != State::Closed;
        is_it.then(|| self.links.sessions.key_at(id.slot))?
    }

    /// The Engine.IO id of a session. It is a secret between the server and that client (J-21).
    pub(super) fn session_id(&self, index: u32) -> Option<Id> {
        let secret = self.links.sessions.at(index)?.secret;
        Some(Id { shard: self.config.shard, slot: index, secret })
    }

    /// That id as its client knows it.
    pub(super) fn id_text(&self, index: u32) -> Option<String> {
        let id = self.session_id(index)?;
        let directory = self.config.requests.directory.as_ref();
        let custom = directory.and_then(|directory| directory.text(&id));
        Some(custom.map_or_else(|| id.to_string(), |custom| custom.to_string()))
    }

    /// Whether packets of a session pass.
    pub(super) fn is_open(&self, session: Key) -> bool {
        self.links.sessions.get(session).is_some_and(|session| session.state == State::Open)
    }

    pub(super) fn is_websocket(&self, session: Key) -> bool {
        let session = self.links.sessions.get(session);
        session.is_some_and(|session| matches!(session.transport, Transport::WebSocket(_)))
    }

    /// Opens a session; its open packet is the first thing queued (A.4). `custom` is an id of the
    /// application's own that was claimed for it.
    pub(super) fn open_session(
        &mut self,
        conn: u32,
        head: &[u8],
        is_polling: bool,
        wire: Wire,
        custom: Option<&str>,
    ) -> Key {
        let http = self.links.conns.at_mut(conn).and_then(|conn| conn.http());
        let certificate = http.as_ref().and_then(|http| http.peer.certificate.clone());
        let is_secure = http.as_ref().is_some_and(|http| http.peer.is_secure);
        let address = http.map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |http| http.client);
        let issued_ms = self.config.epoch_ms + self.now_ms;
        let connect_by = Tick::after(self.now_ms, self.config.connect_timeout_ms);
        let transport = match is_polling {
            true => Transport::Polling(Box::new(Polling::new(&self.links.bounds.memory))),
            false => Transport::WebSocket(conn),
        };
        let mut kept = self.heads.keep(head, address, issued_ms);
        kept.is_secure = is_secure;
        let key = self.links.sessions.insert(Session {
            secret: self.secrets.draw(),
            state: State::Open,
            ping: Ping::Idle,
            is_overflowed: false,
            wire,
            transport,
            members: Few::None,
            arriving: None,
            handshake: Some(kept),
            alarm: Alarm::default(),
            heartbeat: Tick::within(self.now_ms, self.first_heartbeat_ms(wire)),
            connect_by: Deadline::new(Some(connect_by)),
        });
        if let Some(certificate) = certificate {
            self.certificates.insert(key.index, certificate);
        }
        self.links.stats.sessions += 1;
        self.links.polling += usize::from(is_polling);
        self.rearm_session(key.index);
        self.queue_open(conn, key, is_polling, custom);
        if wire.is_revision_3 {
            self.connect_unasked(key.index);
        }
        key
    }

    /// Queues the open packet and what is to follow it, and sets the cookie of a polling
    /// handshake (F-3).
    fn queue_open(&mut self, conn: u32, key: Key, is_polling: bool, custom: Option<&str>) {
        let Some(id) = self.session_id(key.index) else { return };
        let text = id.text();
        let sid = custom.unwrap_or(text.as_str());
        if let (Some(custom), Some(directory)) = (custom, &self.config.requests.directory) {
            directory.bind(custom, id);
        }
        if let Some(cookie) = self.config.requests.cookie.as_ref().filter(|_| is_polling)
            && let Some(http) = self.links.conns.at_mut(conn).and_then(|conn| conn.http())
        {
            http.context().always.append("Set-Cookie", cookie.text(sid));
        }
        let mut open = Vec::with_capacity(128);
        engine::encode_open(
            &engine::Open {
                sid,
                upgrade: is_polling && self.config.websocket && self.config.requests.allow_upgrades,
                ping_interval_ms: self.config.ping_interval_ms,
                ping_timeout_ms: self.config.ping_timeout_ms,
                max_payload: self.config.limits.message_bytes_max,
            },
            &mut open,
        );
        self.links.deliver(key.index, &mut Frame::new(&open, &[]), Urgency::Control);
        let (text, attachments) = match &self.config.requests.initial_packet {
            None => return,
            Some(InitialPacket::Text(text)) => ([b"4", text.as_bytes()].concat(), &[][..]),
            Some(InitialPacket::Binary(bytes)) => (Vec::new(), std::slice::from_ref(bytes)),
        };
        self.links.deliver(key.index, &mut Frame::new(&text, attachments), Urgency::Control);
    }

    /// The packets of a POST, in order; false if one of them ended the session as an error.
    pub(super) fn session_payload(&mut self, key: Key, body: &Posted<'_>) -> bool {
        let before = self.links.stats.bad_packets;
        let is_revision_3 = self.is_revision_3(key.index);
        match body {
            Posted::Octets(bytes) => {
                for item in engine3::binary_payload(bytes) {
                    if !self.is_open(key) {
                        break;
                    }
                    let packet = item.as_ref().ok().and_then(|item| item.packet().ok());
                    self.session_packet(key.index, packet);
                }
            }
            Posted::Text(text) if is_revision_3 => {
                self.payload_packets(key, engine3::payload(text));
            }
            Posted::Text(text) => self.payload_packets(key, engine::payload(text)),
        }
        self.links.stats.bad_packets == before
    }

    fn payload_packets<'a, E>(
        &mut self,
        key: Key,
        packets: impl Iterator<Item = Result<Packet<'a>, E>>,
    ) {
        for packet in packets {
            if !self.is_open(key) {
                break;
            }
            self.session_packet(key.index, packet.ok());
        }
    }

    /// Whether a session speaks revision 3 of Engine.IO (H); without a look at it where none may.
    pub(super) fn is_revision_3(&self, index: u32) -> bool {
        self.config.allow_eio3
            && self.links.sessions.at(index).is_some_and(|session| session.wire.is_revision_3)
    }

    /// A text frame.
    pub(super) fn session_text(&mut self, index: u32, text: &str) {
        let packet = match self.is_revision_3(index) {
            true => engine3::decode(text).ok(),
            false => engine::decode(text).ok(),
        };
        self.session_packet(index, packet);
    }

    /// A binary frame, which is a message (C-2), or in revision 3 any packet (H-6).
    pub(super) fn session_binary(&mut self, index: u32, bytes: &[u8]) {
        if self.is_revision_3(index) {
            return self.session_packet(index, engine3::decode_binary(bytes).ok());
        }
        self.extend_deadline(index);
        self.message_binary(index, bytes);
    }

    fn session_packet(&mut self, index: u32, packet: Option<Packet<'_>>) {
        if !matches!(packet, Some(Packet::Pong)) {
            self.extend_deadline(index);
        }
        match packet {
            Some(Packet::Message(text)) => self.message_text(index, text),
            Some(Packet::Binary(bytes)) => self.message_binary(index, &bytes),
            // H-7: in revision 3 it is the client that pings.
            Some(Packet::Ping(_)) if self.is_revision_3(index) => self.answer_ping(index),
            Some(Packet::Pong) if !self.is_revision_3(index) => self.handle_pong(index),
            Some(Packet::Close) => {
                self.close_session(index, Reason::TransportClose, Goodbye::Noop);
            }
            // E-4: in revision 4 it is the server.
            Some(Packet::Ping(_) | Packet::Pong) => {
                self.links.stats.bad_packets += 1;
                self.close_session(index, Reason::TransportError, Goodbye::Close);
            }
            Some(Packet::Open | Packet::Upgrade | Packet::Noop) => {}
            None => {
                self.links.stats.bad_packets += 1;
                self.close_session(index, Reason::ParseError, Goodbye::Close);
            }
        }
    }

    /// Time until a ping is due, from the server or, in revision 3, from the client (H-7).
    fn first_heartbeat_ms(&self, wire: Wire) -> u64 {
        let wait = if wire.is_revision_3 { self.config.ping_timeout_ms } else { 0 };
        self.config.ping_interval_ms + wait
    }

    fn answer_ping(&mut self, index: u32) {
        let Some(session) = self.links.sessions.at(index) else { return };
        let next = Tick::within(self.now_ms, self.first_heartbeat_ms(session.wire));
        if let Some(session) = self.links.sessions.at_mut(index) {
            session.heartbeat = next;
            self.rearm_session(index);
        }
        self.links.deliver(index, &mut Frame::new(b"3", &[]), Urgency::Control);
    }

    fn handle_pong(&mut self, index: u32) {
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        let is_answer = std::mem::replace(&mut session.ping, Ping::Idle) != Ping::Idle;
        session.heartbeat = Tick::within(self.now_ms, self.config.ping_interval_ms);
        self.rearm_session(index);
        if is_answer {
            self.links.stats.pongs += 1;
            self.mark_logs(index, true);
        }
    }

    /// Other packets are a sign of life too, once per ping (E-3).
    fn extend_deadline(&mut self, index: u32) {
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        if session.ping == Ping::Sent {
            session.ping = Ping::Extended;
            session.heartbeat = Tick::within(self.now_ms, self.config.ping_timeout_ms);
            self.rearm_session(index);
        }
    }

    /// Ends a session: its sockets are told, its transport gets its goodbye.
    pub(super) fn close_session(&mut self, index: u32, reason: Reason, goodbye: Goodbye) {
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        match session.state {
            State::Open => {}
            // The client has gone while it was to fetch the last packets.
            State::Closing if goodbye != Goodbye::Flush => return self.end_session(index),
            State::Closing | State::Closed => return,
        }
        self.links.stats.closed[reason.index()] += 1;
        session.state = State::Closing;
        session.arriving = None;
        session.ping = Ping::Idle;
        session.connect_by = Deadline::default();
        let upgrade = session.take_upgrade();
        for member in session.members.clone().as_slice() {
            self.close_member(*member, reason);
        }
        self.links.incoming.let_go(Holder::Session(index));
        self.note_kept(index);
        if let Some(upgrade) = upgrade {
            self.close_websocket(upgrade.conn);
        }
        if self.end_transport(index, goodbye) {
            self.end_session(index);
        } else if let Some(session) = self.links.sessions.at_mut(index) {
            session.heartbeat = Tick::after(self.now_ms, CLOSE_MS.min(self.config.ping_timeout_ms));
            self.rearm_session(index);
        }
    }

    /// Says goodbye; false if a polling client has yet to come for it.
    fn end_transport(&mut self, index: u32, goodbye: Goodbye) -> bool {
        let Some(session) = self.links.sessions.at_mut(index) else { return true };
        let wire = session.wire;
        let polling = match &mut session.transport {
            Transport::WebSocket(conn) => {
                let conn = *conn;
                match goodbye {
                    Goodbye::Gone => {}
                    _ => self.close_websocket(conn),
                }
                return true;
            }
            Transport::Polling(polling) => polling,
        };
        if goodbye == Goodbye::Flush {
            let Some(get) = polling.get.take() else { return false };
            let is_last = polling.outbox.is_empty();
            let payload = match is_last {
                true => Payload::of(b"1", wire),
                false => polling.take_outbox(wire),
            };
            self.answer_payload(get, &payload);
            return is_last;
        }
        let post = polling.post.take();
        let farewell: &[u8] = if goodbye == Goodbye::Noop { b"6" } else { b"1" };
        if let Some(get) = polling.get.take() {
            self.answer_payload(get, &Payload::of(farewell, wire));
        }
        if let Some(post) = post {
            self.drop_conn(post);
        }
        true
    }

    /// Nothing more will pass. The record goes when the application has let go of its sockets.
    pub(super) fn end_session(&mut self, index: u32) {
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        let was_over = session.state == State::Closed;
        session.state = State::Closed;
        session.alarm = Alarm::default();
        if let Transport::Polling(polling) = &mut session.transport {
            polling.outbox.take();
            if !was_over {
                self.links.polling -= 1;
            }
            if let Some(post) = polling.post.take() {
                self.drop_conn(post);
            }
        }
        self.drained(index, Err(AckLost::Disconnected));
        self.free_session(index);
    }

    /// Frees the record of a session that is over, once it has no sockets.
    pub(super) fn free_session(&mut self, index: u32) {
        let is_free = |session: &Session| {
            session.state == State::Closed && session.members.as_slice().is_empty()
        };
        if self.links.sessions.at(index).is_some_and(is_free) {
            if let Some(directory) = &self.config.requests.directory
                && let Some(id) = self.session_id(index)
            {
                directory.remove(&id);
            }
            let session = self.links.sessions.remove(index);
            self.certificates.remove(&index);
            if let Some(kept) = session.and_then(|session| session.handshake) {
                self.heads.forget(kept);
            }
            debug_assert!(!self.links.sessions.is_empty() || self.heads.is_empty());
        }
    }

    /// Watches the nearest deadline of a session.
    pub(super) fn rearm_session(&mut self, index: u32) {
        let now = self.now;
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        if session.state == State::Closed {
            return;
        }
        let upgrade = session.upgrade();
        let deadlines = [
            Some(session.heartbeat),
            session.connect_by.tick(),
            session.arriving.as_ref().and_then(|arriving| arriving.by),
            upgrade.map(|upgrade| upgrade.deadline),
            upgrade.map(|upgrade| upgrade.noop),
        ];
        let nearest = deadlines.into_iter().flatten().min_by_key(|tick| tick.until(now));
        let at = session.alarm.set(nearest, now);
        self.watch(at, Timer::Session, index);
    }

    pub(super) fn session_due(&mut self, index: u32) {
        let now = self.now;
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        match session.alarm.due(now) {
            Err(at) => return self.watch(Some(at), Timer::Session, index),
            Ok(false) => return,
            Ok(true) => {}
        }
        if session.heartbeat.reached(now) {
            self.heartbeat_due(index);
        }
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        if session.connect_by.tick().is_some_and(|tick| tick.reached(now)) {
            return self.close_session(index, Reason::ForcedServerClose, Goodbye::Close);
        }
        if session.arriving.as_ref().and_then(|it| it.by).is_some_and(|by| by.reached(now)) {
            return self.reject_packet(index, &packet::Error::AttachmentsLate.to_string());
        }
        if session.upgrade().is_some() {
            self.upgrade_due(index);
        }
        self.rearm_session(index);
    }

    fn heartbeat_due(&mut self, index: u32) {
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        if session.state == State::Closing {
            return self.end_session(index);
        }
        if session.ping != Ping::Idle || session.wire.is_revision_3 {
            // A shard that comes late may have an answer that it has not read yet. It gets as much
            // time again, and no more: one that never catches up must not keep those for ever who
            // have gone.
            let deadline = session.heartbeat;
            let is_late = deadline.later(2 * TICK_MS).reached(self.now);
            let is_too_late = deadline.later(self.config.ping_timeout_ms).reached(self.now);
            let is_unread = self.all_read.is_some_and(|read| !deadline.reached(read));
            if is_unread && is_late && !is_too_late {
                return;
            }
            // Nor can it answer a ping that has not left yet.
            if let Transport::WebSocket(conn) = session.transport
                && let Some(conn) = self.links.conns.at(conn)
                && conn.has_ping
                && !conn.out.is_in_flight()
            {
                session.heartbeat = Tick::within(self.now_ms, self.config.ping_timeout_ms);
                return;
            }
            self.links.stats.ping_timeouts += 1;
            return self.close_session(index, Reason::PingTimeout, Goodbye::Close);
        }
        session.ping = Ping::Sent;
        session.heartbeat = Tick::within(self.now_ms, self.config.ping_timeout_ms);
        let mut ping = Frame::new(b"2", &[]);
        if matches!(session.transport, Transport::WebSocket(_)) {
            ping = ping.with_run(session.wire, self.links.palette.ping());
        }
        self.links.deliver(index, &mut ping, Urgency::Ping);
        self.mark_logs(index, false);
    }

    /// A ping was handed to the kernel: the time for its answer begins, which is later than where
    /// it was queued if the shard has much to send.
    pub(super) fn ping_left(&mut self, index: u32) {
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        if session.state == State::Open && session.ping == Ping::Sent {
            session.heartbeat = Tick::within(self.now_ms, self.config.ping_timeout_ms);
        }
    }

    /// Lets no new session in from now on, and tells those that ask to come again in so many
    /// seconds. What is there stays.
    pub fn refuse_sessions(&mut self, retry_after: u32) {
        self.refusing = Some(retry_after);
    }

    /// Ends every session; used when the server goes. Sockets see `reason`.
    pub fn shut_down(&mut self, reason: Reason) {
        self.is_closing = true;
        let sessions: Vec<u32> = self.links.sessions.indices().collect();
        for index in sessions {
            self.close_session(index, reason, Goodbye::Flush);
        }
        self.shut_endpoints();
        let idle: Vec<u32> = self.links.conns.indices().collect();
        for index in idle {
            if self.links.conns.at_mut(index).is_some_and(|conn| conn.http().is_some()) {
                self.http_shut_down(index);
            }
        }
    }

    /// A malformed Socket.IO packet: its sockets are told, then the connection ends (I-13).
    pub(super) fn reject_packet(&mut self, index: u32, message: &str) {
        self.links.stats.bad_packets += 1;
        let Some(session) = self.links.sessions.at(index) else { return };
        for member in session.members.clone().as_slice() {
            let key = self.members.key_at(*member);
            if let Some(member) = key.filter(|key| self.is_connected(*key)) {
                self.events.push_back(Event::Error { member, message: message.into() });
            }
        }
        self.close_session(index, Reason::ForcedClose, Goodbye::Close);
    }
}
