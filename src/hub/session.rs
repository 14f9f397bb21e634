//! Engine.IO: one session from its handshake to its end, over polling, websocket, or both while it
//! upgrades (spec B, D, E).
//!
//! A session never moves between shards. All ends of a session pass through `close_session`.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::fanout::{self, Run};
use super::handshake::Handshake;
use super::id::{Id, Secret};
use super::slab::Key;
use super::wheel::{Alarm, Due, Tick, Timer};
use super::{Event, Hub, Links};
use crate::error::Reason;
use crate::options::SlowReader;
use crate::proto::engine::{self, Packet};
use crate::proto::packet::Assembly;
use crate::proto::websocket::{self, Opcode};

/// How packets leave.
#[derive(Debug)]
enum Transport {
    WebSocket(u32),
    Polling(Box<Polling>),
}

/// The server's half of long-polling.
#[derive(Debug, Default)]
struct Polling {
    /// Payload of the next answer.
    outbox: Vec<u8>,
    /// The GET that waits for it.
    get: Option<u32>,
    /// The POST whose body is arriving.
    post: Option<u32>,
    /// Whether the session stands in `Links::polls`.
    is_listed: bool,
}

/// A websocket that is about to take over (D-1 … D-6).
#[derive(Debug)]
struct Upgrade {
    conn: u32,
    /// `2probe` was answered; only now may `5` follow (W-21).
    is_probed: bool,
    /// When the new transport has to be complete.
    deadline: Tick,
    /// When to release a parked GET, so that the client can go on.
    noop: Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Over for its sockets; a polling client still has to fetch the last packets (B-16).
    Closing,
    /// Only its sockets' records are left, until the application has let go of them.
    Closed,
}

/// The record of a session. Kept small: most of a million are idle websockets.
#[derive(Debug)]
pub(super) struct Session {
    secret: Secret,
    state: State,
    /// A ping was sent and not answered.
    awaits_pong: bool,
    /// The deadline of that answer was moved once already (E-3).
    is_extended: bool,
    is_overflowed: bool,
    transport: Transport,
    upgrade: Option<Box<Upgrade>>,
    pub(super) members: SmallVec<[u32; 2]>,
    /// A binary packet whose attachments are arriving.
    pub(super) assembly: Option<Box<Assembly>>,
    pub(super) handshake: Option<Handshake>,
    alarm: Alarm,
    /// When to ping, or when the pong is overdue, or when to give up closing.
    heartbeat: Tick,
    /// When a first namespace must have been joined; `None` once one was.
    pub(super) connect_by: Option<Tick>,
}

const _: () = assert!(size_of::<Session>() <= 112);

impl Session {
    /// Bytes that wait for a GET.
    pub(super) fn outbox_bytes(&self) -> usize {
        match &self.transport {
            Transport::WebSocket(_) => 0,
            Transport::Polling(polling) => polling.outbox.len(),
        }
    }
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

/// What to do with a GET.
pub(super) enum Poll {
    /// Wait.
    Parked,
    /// Answer this.
    Answer(Vec<u8>),
    /// There is one already (B-7).
    Overlap,
}

/// The first noop comes up to this long after the probe, then as often (D-2).
const NOOP_MS: u64 = 100;
/// Time that a closing polling session waits for its client (B-16).
const CLOSE_MS: u64 = 30_000;

/// A packet on its way to several sessions, encoded when the first one needs it.
pub(super) struct Frame<'a> {
    text: &'a [u8],
    attachments: &'a [bytes::Bytes],
    run: Option<Run>,
}

impl<'a> Frame<'a> {
    /// `text` is Engine.IO text, `4` included.
    pub(super) fn new(text: &'a [u8], attachments: &'a [bytes::Bytes]) -> Frame<'a> {
        Frame { text, attachments, run: None }
    }
}

/// How a packet is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Of the protocol itself, to one session: answers and heartbeats, which are not dropped.
    Control,
    /// To one socket.
    One,
    /// To many, behind what goes to one.
    Many,
    /// To many, and only to those that are ready (J-20).
    Volatile,
}

impl Urgency {
    /// What may be queued, given the bound for events: the protocol's own packets have as much
    /// room again, so that they are not lost with the events that are dropped.
    fn limit(self, bytes_max: usize) -> usize {
        if self == Urgency::Control { 2 * bytes_max } else { bytes_max }
    }
}

impl Links {
    /// Queues a packet for a session. The hot path of a broadcast.
    pub(super) fn deliver(&mut self, index: u32, frame: &mut Frame<'_>, urgency: Urgency) {
        let Some(session) = self.sessions.at_mut(index) else { return };
        if session.state != State::Open {
            return;
        }
        let Transport::WebSocket(conn) = session.transport else {
            return self.deliver_polling(index, frame, urgency);
        };
        let Some(conn_record) = self.conns.at_mut(conn) else { return };
        let out = &mut conn_record.out;
        if urgency == Urgency::Volatile && out.is_in_flight() {
            self.stats.volatile_dropped += 1;
            return;
        }
        let palette = &mut self.palette;
        let run = frame.run.get_or_insert_with(|| {
            palette.push(|bytes| {
                websocket::write_frame(Opcode::Text, frame.text, bytes);
                for attachment in frame.attachments {
                    websocket::write_frame(Opcode::Binary, attachment, bytes);
                }
            })
        });
        let bytes = out.bytes() + run.bytes();
        if bytes > urgency.limit(self.queue_bytes_max) && !out.is_empty() {
            return self.overflow(index, urgency);
        }
        out.stage(run);
        self.stats.staged += 1;
        self.dirty.mark(conn, out, matches!(urgency, Urgency::Control | Urgency::One));
    }

    fn deliver_polling(&mut self, index: u32, frame: &Frame<'_>, urgency: Urgency) {
        let Some(session) = self.sessions.at_mut(index) else { return };
        let Transport::Polling(polling) = &mut session.transport else { return };
        if urgency == Urgency::Volatile && polling.get.is_none() {
            self.stats.volatile_dropped += 1;
            return;
        }
        let size = frame.text.len() + frame.attachments.iter().map(|a| a.len()).sum::<usize>();
        let bytes = polling.outbox.len() + size;
        if bytes > urgency.limit(self.queue_bytes_max) && !polling.outbox.is_empty() {
            return self.overflow(index, urgency);
        }
        fanout::write_payload(frame.text, frame.attachments, &mut polling.outbox);
        self.stats.staged += 1;
        if !polling.is_listed {
            polling.is_listed = true;
            self.polls.push(index);
        }
    }

    fn overflow(&mut self, index: u32, urgency: Urgency) {
        match self.slow_reader {
            SlowReader::Drop if urgency != Urgency::Control => self.stats.slow_dropped += 1,
            // Whatever the policy: a peer that makes us answer must read the answers.
            SlowReader::Drop | SlowReader::Disconnect => self.close_slow(index),
        }
    }

    fn close_slow(&mut self, index: u32) {
        if let Some(session) = self.sessions.at_mut(index).filter(|s| !s.is_overflowed) {
            session.is_overflowed = true;
            self.stats.slow_closed += 1;
            self.overflowed.push(index);
        }
    }

    /// Applies the bound to what was queued beside [`Links::deliver`] (pongs).
    pub(super) fn check_queue(&mut self, index: u32) {
        let Some(session) = self.sessions.at(index) else { return };
        let Transport::WebSocket(conn) = session.transport else { return };
        let queued = self.conns.at(conn).map_or(0, |conn| conn.out.bytes());
        if queued > self.queue_bytes_max {
            self.close_slow(index);
        }
    }
}

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

    /// Whether packets of a session pass.
    pub(super) fn is_open(&self, session: Key) -> bool {
        self.links.sessions.get(session).is_some_and(|session| session.state == State::Open)
    }

    pub(super) fn is_websocket(&self, session: Key) -> bool {
        let session = self.links.sessions.get(session);
        session.is_some_and(|session| matches!(session.transport, Transport::WebSocket(_)))
    }

    /// Opens a session; its open packet is the first thing queued (A.4).
    pub(super) fn open_session(&mut self, conn: u32, head: &[u8], is_polling: bool) -> Key {
        let address = self.links.conns.at_mut(conn).and_then(|conn| conn.http());
        let address = address.map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |http| http.address);
        let issued_ms = self.config.epoch_ms + self.now_ms;
        let transport = match is_polling {
            true => Transport::Polling(Box::default()),
            false => Transport::WebSocket(conn),
        };
        let key = self.links.sessions.insert(Session {
            secret: self.secrets.draw(),
            state: State::Open,
            awaits_pong: false,
            is_extended: false,
            is_overflowed: false,
            transport,
            upgrade: None,
            members: SmallVec::new(),
            assembly: None,
            handshake: Some(Handshake::new(head, address, issued_ms)),
            alarm: Alarm::default(),
            heartbeat: Tick::after(self.now_ms, self.config.ping_interval_ms),
            connect_by: Some(Tick::after(self.now_ms, self.config.connect_timeout_ms)),
        });
        self.links.stats.sessions += 1;
        self.rearm_session(key.index);
        let mut open = Vec::with_capacity(128);
        let sid = self.session_id(key.index).map(|id| id.text());
        engine::encode_open(
            &engine::Open {
                sid: sid.as_ref().map_or("", |sid| sid.as_str()),
                upgrade: is_polling && self.config.websocket,
                ping_interval_ms: self.config.ping_interval_ms,
                ping_timeout_ms: self.config.ping_timeout_ms,
                max_payload: self.config.limits.message_bytes_max,
            },
            &mut open,
        );
        self.links.deliver(key.index, &mut Frame::new(&open, &[]), Urgency::Control);
        key
    }

    /// A GET of a session (B-4, B-5, B-7, B-16).
    pub(super) fn poll(&mut self, conn: u32, key: Key) -> Poll {
        let Some(session) = self.links.sessions.get_mut(key) else { return Poll::Overlap };
        let Transport::Polling(polling) = &mut session.transport else { return Poll::Overlap };
        if polling.get.is_some() {
            self.close_session(key.index, Reason::TransportError, Goodbye::Close);
            return Poll::Overlap;
        }
        if !polling.outbox.is_empty() {
            return Poll::Answer(std::mem::take(&mut polling.outbox));
        }
        if session.state == State::Closing {
            self.end_session(key.index);
            return Poll::Answer(b"6\x1e1".to_vec());
        }
        polling.get = Some(conn);
        Poll::Parked
    }

    /// Notes the POST whose body is arriving; false if there is one already (B-10).
    pub(super) fn begin_post(&mut self, conn: u32, key: Key) -> bool {
        match self.links.sessions.get_mut(key).map(|session| &mut session.transport) {
            Some(Transport::Polling(polling)) if polling.post.is_none() => {
                polling.post = Some(conn);
                true
            }
            _ => false,
        }
    }

    /// The POST in hand is complete, or has failed.
    pub(super) fn post_over(&mut self, key: Key) {
        if let Some(Transport::Polling(polling)) =
            self.links.sessions.get_mut(key).map(|session| &mut session.transport)
        {
            polling.post = None;
        }
    }

    /// A connection with a request of this session has gone.
    pub(super) fn forget_request(&mut self, key: Key, conn: u32) {
        if let Some(Transport::Polling(polling)) =
            self.links.sessions.get_mut(key).map(|session| &mut session.transport)
        {
            polling.get = polling.get.filter(|get| *get != conn);
            polling.post = polling.post.filter(|post| *post != conn);
        }
    }

    /// The packets of a POST, in order; false if one of them ended the session as an error.
    pub(super) fn session_payload(&mut self, key: Key, body: &str) -> bool {
        let before = self.links.stats.bad_packets;
        for packet in engine::payload(body) {
            let is_open =
                self.links.sessions.get(key).is_some_and(|session| session.state == State::Open);
            if !is_open {
                break;
            }
            self.session_packet(key.index, packet.ok());
        }
        self.links.stats.bad_packets == before
    }

    /// A text frame.
    pub(super) fn session_text(&mut self, index: u32, text: &str) {
        self.session_packet(index, engine::decode(text).ok());
    }

    /// A binary frame, which is a message (C-2).
    pub(super) fn session_binary(&mut self, index: u32, bytes: &[u8]) {
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
            Some(Packet::Pong) => self.handle_pong(index),
            Some(Packet::Close) => {
                self.close_session(index, Reason::TransportClose, Goodbye::Noop);
            }
            Some(Packet::Ping(_)) => {
                // E-4: in revision 4 it is the server that pings.
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

    fn handle_pong(&mut self, index: u32) {
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        session.awaits_pong = false;
        session.heartbeat = Tick::after(self.now_ms, self.config.ping_interval_ms);
        self.rearm_session(index);
    }

    /// Other packets are a sign of life too, once per ping (E-3).
    fn extend_deadline(&mut self, index: u32) {
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        if session.awaits_pong && !session.is_extended {
            session.is_extended = true;
            session.heartbeat = Tick::after(self.now_ms, self.config.ping_timeout_ms);
            self.rearm_session(index);
        }
    }

    /// Notes the websocket of an upgrade; false if the session cannot upgrade now (C-12).
    pub(super) fn begin_probe(&mut self, conn: u32, key: Key) -> bool {
        let Some(session) = self.links.sessions.get_mut(key) else { return false };
        let can = session.state == State::Open
            && session.upgrade.is_none()
            && matches!(session.transport, Transport::Polling(_));
        if can {
            let deadline = Tick::after(self.now_ms, self.config.upgrade_timeout_ms);
            let upgrade = Upgrade { conn, is_probed: false, deadline, noop: deadline };
            session.upgrade = Some(Box::new(upgrade));
            self.rearm_session(key.index);
        }
        can
    }

    /// A text frame on a websocket that is being probed (D-2, D-3, D-4).
    pub(super) fn probe_packet(&mut self, conn: u32, index: u32, text: &str) {
        let now_ms = self.now_ms;
        let upgrade = self.links.sessions.at_mut(index).and_then(|s| s.upgrade.as_mut());
        let Some(upgrade) = upgrade.filter(|upgrade| upgrade.conn == conn) else { return };
        match text {
            "2probe" if !upgrade.is_probed => {
                upgrade.is_probed = true;
                upgrade.noop = Tick::after(now_ms, NOOP_MS);
                self.rearm_session(index);
                let mut frame = Vec::with_capacity(8);
                websocket::write_frame(Opcode::Text, b"3probe", &mut frame);
                self.links.send_owned(conn, frame);
            }
            "5" if upgrade.is_probed => self.complete_upgrade(conn, index),
            _ => self.refuse_probe(conn, index),
        }
    }

    /// Ends an upgrade; the session stays on polling (D-4).
    pub(super) fn refuse_probe(&mut self, conn: u32, index: u32) {
        self.forget_probe(index);
        self.close_websocket(conn);
    }

    /// The websocket of an upgrade has gone.
    pub(super) fn forget_probe(&mut self, index: u32) {
        if let Some(session) = self.links.sessions.at_mut(index) {
            session.upgrade = None;
            self.rearm_session(index);
        }
    }

    /// Moves the session to its websocket, with everything that is still queued (D-3, D-5).
    fn complete_upgrade(&mut self, conn: u32, index: u32) {
        self.promote_probe(conn);
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        session.upgrade = None;
        let old = std::mem::replace(&mut session.transport, Transport::WebSocket(conn));
        let Transport::Polling(polling) = old else { return };
        if !polling.outbox.is_empty() {
            let mut frames = Vec::with_capacity(polling.outbox.len() + 64);
            fanout::payload_to_frames(&polling.outbox, &mut frames);
            self.links.send_owned(conn, frames);
        }
        if let Some(get) = polling.get {
            // W-13: a GET that is still parked is told to go.
            self.answer_payload(get, b"1");
        }
        if let Some(post) = polling.post {
            self.drop_conn(post);
        }
        self.rearm_session(index);
    }

    /// Answers parked GETs of polling sessions with what was queued since.
    pub(super) fn flush_polls(&mut self) {
        let mut polls = std::mem::take(&mut self.links.polls);
        for index in polls.drain(..) {
            let session = self.links.sessions.at_mut(index);
            let Some(Transport::Polling(polling)) = session.map(|s| &mut s.transport) else {
                continue;
            };
            polling.is_listed = false;
            if polling.outbox.is_empty() {
                continue;
            }
            if let Some(get) = polling.get.take() {
                let payload = std::mem::take(&mut polling.outbox);
                self.answer_payload(get, &payload);
            }
        }
        self.links.polls = polls;
    }

    /// Disconnects the sessions whose peers do not read.
    pub(super) fn close_overflowed(&mut self) {
        while let Some(index) = self.links.overflowed.pop() {
            let Some(session) = self.links.sessions.at(index) else { continue };
            if !session.is_overflowed {
                continue;
            }
            if let Transport::WebSocket(conn) = session.transport {
                // Its queue is full, so a polite end could not leave either.
                self.drop_conn(conn);
                self.close_session(index, Reason::TransportError, Goodbye::Gone);
            } else {
                self.close_session(index, Reason::TransportError, Goodbye::Close);
            }
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
        session.state = State::Closing;
        session.assembly = None;
        session.awaits_pong = false;
        session.connect_by = None;
        let upgrade = session.upgrade.take();
        for member in session.members.clone() {
            self.close_member(member, reason);
        }
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
            let payload = std::mem::take(&mut polling.outbox);
            self.answer_payload(get, if is_last { b"1" } else { &payload });
            return is_last;
        }
        let post = polling.post.take();
        let farewell: &[u8] = if goodbye == Goodbye::Noop { b"6" } else { b"1" };
        if let Some(get) = polling.get.take() {
            self.answer_payload(get, farewell);
        }
        if let Some(post) = post {
            self.drop_conn(post);
        }
        true
    }

    /// Nothing more will pass. The record goes when the application has let go of its sockets.
    fn end_session(&mut self, index: u32) {
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        session.state = State::Closed;
        session.alarm = Alarm::default();
        if let Transport::Polling(polling) = &mut session.transport {
            polling.outbox = Vec::new();
            if let Some(post) = polling.post.take() {
                self.drop_conn(post);
            }
        }
        self.free_session(index);
    }

    /// Frees the record of a session that is over, once it has no sockets.
    pub(super) fn free_session(&mut self, index: u32) {
        let is_free =
            |session: &Session| session.state == State::Closed && session.members.is_empty();
        if self.links.sessions.at(index).is_some_and(is_free) {
            self.links.sessions.remove(index);
        }
    }

    /// Watches the nearest deadline of a session.
    pub(super) fn rearm_session(&mut self, index: u32) {
        let Some(key) = self.links.sessions.key_at(index) else { return };
        let now = self.now;
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        if session.state == State::Closed {
            return;
        }
        let upgrade = session.upgrade.as_deref();
        let deadlines = [
            Some(session.heartbeat),
            session.connect_by,
            upgrade.map(|upgrade| upgrade.deadline),
            upgrade.map(|upgrade| upgrade.noop),
        ];
        let nearest = deadlines.into_iter().flatten().min_by_key(|tick| tick.until(now));
        let at = session.alarm.set(nearest, now);
        self.watch(at, Timer::Session, key);
    }

    pub(super) fn session_due(&mut self, due: Due) {
        let key = Key { index: due.index, generation: due.generation };
        let now = self.now;
        let Some(session) = self.links.sessions.get_mut(key) else { return };
        match session.alarm.due(now) {
            Err(at) => return self.watch(Some(at), Timer::Session, key),
            Ok(false) => return,
            Ok(true) => {}
        }
        if session.heartbeat.reached(now) {
            self.heartbeat_due(key.index);
        }
        let Some(session) = self.links.sessions.get_mut(key) else { return };
        if session.connect_by.is_some_and(|tick| tick.reached(now)) {
            return self.close_session(key.index, Reason::ForcedServerClose, Goodbye::Close);
        }
        if session.upgrade.is_some() {
            self.upgrade_due(key.index);
        }
        self.rearm_session(key.index);
    }

    fn heartbeat_due(&mut self, index: u32) {
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        if session.state == State::Closing {
            return self.end_session(index);
        }
        if session.awaits_pong {
            self.links.stats.ping_timeouts += 1;
            return self.close_session(index, Reason::PingTimeout, Goodbye::Close);
        }
        session.awaits_pong = true;
        session.is_extended = false;
        session.heartbeat = Tick::after(self.now_ms, self.config.ping_timeout_ms);
        let run =
            matches!(session.transport, Transport::WebSocket(_)).then(|| self.links.palette.ping());
        let mut ping = Frame { text: b"2", attachments: &[], run };
        self.links.deliver(index, &mut ping, Urgency::Control);
    }

    fn upgrade_due(&mut self, index: u32) {
        let (now, now_ms) = (self.now, self.now_ms);
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        let Some(upgrade) = &mut session.upgrade else { return };
        if upgrade.deadline.reached(now) {
            let conn = upgrade.conn;
            return self.refuse_probe(conn, index);
        }
        if !upgrade.is_probed || !upgrade.noop.reached(now) {
            return;
        }
        upgrade.noop = Tick::after(now_ms, NOOP_MS);
        if let Transport::Polling(polling) = &mut session.transport
            && let Some(get) = polling.get.take()
        {
            self.answer_payload(get, b"6");
        }
    }

    /// Ends every session; used when the server goes. Sockets see `reason`.
    pub fn shut_down(&mut self, reason: Reason) {
        self.is_closing = true;
        let sessions: Vec<u32> = self.links.sessions.indices().collect();
        for index in sessions {
            self.close_session(index, reason, Goodbye::Flush);
        }
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
        for member in session.members.clone() {
            let key = self.members.key_at(member);
            if let Some(member) = key.filter(|key| self.is_connected(*key)) {
                self.events.push_back(Event::Error { member, message: message.into() });
            }
        }
        self.close_session(index, Reason::ForcedClose, Goodbye::Close);
    }
}
