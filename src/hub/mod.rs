//! All that one core remembers: connections, sessions, sockets, rooms, timers, and what waits to be
//! sent.
//!
//! [`Hub`] is a state machine without IO. The shard (or the simulator) tells it what happened with
//! the `handle_*` methods and the application says what it wants with the commands in
//! `command.rs`; afterwards `poll_output`, `poll_event` and `flush` are drained. It never touches
//! the system, never reads a clock and never calls back.
//!
//! Order of reading: `conn.rs` (bytes in), `http.rs`, `request.rs` and `answer.rs` (HTTP),
//! `session.rs`, `polling.rs` and `upgrade.rs` (Engine.IO), `namespace.rs` (Socket.IO),
//! `command.rs` (what applications do), `deliver.rs` and `fanout.rs` (bytes out).
#![forbid(unsafe_code)]

mod answer;
mod ask;
pub mod buffer;
mod command;
mod compress;
mod conn;
mod deliver;
pub mod directory;
mod drain;
mod endpoint;
pub mod fanout;
mod few;
pub mod gate;
mod handover;
mod handshake;
mod held;
pub mod hooks;
mod http;
pub mod id;
mod incoming;
mod known;
mod message;
mod namespace;
mod polling;
pub mod recovery;
mod request;
mod restore;
pub mod rooms;
mod session;
pub mod slab;
mod stats;
mod upgrade;
mod v2;
mod watch;
pub mod wheel;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;

pub use answer::{Coded, StaticFile};
pub use ask::{Answers, FIRST_ASK};
pub use command::{Flags, Names, Publish, Target};
pub use conn::PeerEnd;
pub use endpoint::{Endpoint, Happening};
pub use gate::{Entrance, Peer};
pub use handover::Message;
pub use handshake::Handshake;
pub use held::{Held, Queues};
pub use known::{Delivery, RoomChange, Size, Traits, UNKNOWN_NAME_MAX};
pub use namespace::Arguments;
pub use stats::{Gauges, Stats};

use crate::error::Reason;
use crate::http::{ConnectionError, Request};
use crate::options::{HttpCompression, Limits, Recovery, SlowReader};
use crate::proto::deflate::Settings;
use crate::proto::packet::Validator;
use crate::proto::parser::Parser;
use answer::Served;
use ask::Ask;
use buffer::{Meter, SendBuf};
use compress::Codec;
use conn::Conn;
use fanout::{Bounds, Dirty, Line, Palette};
use handshake::Heads;
use id::Secrets;
use incoming::Incoming;
use known::Known;
use namespace::Member;
use rooms::{NamespaceId, Rooms};
use session::Session;
use slab::{Key, Slab};
use wheel::{Due, TICK_MS, Tick, Timer, Wheel};

/// Events that the queue keeps memory for while it is empty.
const EVENTS_KEPT: usize = 4_096;
/// Packets that a share of a turn stages, mail's or clients', before the next flush: a millisecond
/// or so, and enough that what goes to the same sockets still leaves in one send.
const STAGED_MAX: u64 = 16 * 1_024;

/// What the kernel side has to do for the hub.
#[derive(Debug)]
pub enum Output {
    /// Receive once; exactly one `handle_received` or `handle_peer_closed` must follow.
    ReceiveOnce(u32),
    /// Receive until the peer closes.
    ReceiveMany(u32),
    /// Tell the peer that nothing more will come.
    ShutdownWrite(u32),
    /// Let go of the connection; `handle_closed` must follow when the kernel has.
    Close(u32),
    /// Hand the connection to another shard, together with the bytes read so far. Nothing is in
    /// flight; the hub has already forgotten it.
    Migrate {
        /// The connection.
        conn: u32,
        /// Where its session lives.
        shard: u16,
        /// Who is at the other end.
        peer: Peer,
        /// What was read and not yet understood.
        bytes: Vec<u8>,
    },
    /// Hand a message to another shard, with what the application keeps with the session.
    Recover {
        /// The other shard.
        shard: u16,
        /// What it has to know.
        message: Message,
        /// To be given to `handle_recovery` there, as far as it can cross threads.
        data: Option<recovery::Data>,
    },
}

/// What the application has to know. Every event but `Error` expects an answer or a cleanup, as
/// each variant says.
#[derive(Debug)]
pub enum Event {
    /// A client asks to join a namespace. Answer with `accept_member` or `refuse_member`.
    Connect {
        /// The socket to be.
        member: Key,
        /// The namespace asked for.
        namespace: NamespaceId,
    },
    /// A client asks to join a namespace that is not known here (J-4). Answer with `place_member`
    /// or `refuse_member`.
    Unknown(Key),
    /// The client left while the answer to `Connect` or `Unknown` was still open. No answer is due
    /// any more.
    ConnectAborted(Key),
    /// What was kept with a socket that does not come back, to be dropped when nothing of the hub
    /// is in use: values may have destructors.
    Unkept(recovery::Data),
    /// A client has sent an event.
    Packet {
        /// Who.
        member: Key,
        /// In which namespace.
        namespace: NamespaceId,
        /// What.
        arguments: Arguments,
    },
    /// A client of a namespace whose [`Traits`] want to know has sent an acknowledgement that
    /// nobody awaits.
    UnexpectedAck {
        /// Who.
        member: Key,
        /// In which namespace.
        namespace: NamespaceId,
        /// What, without a name.
        arguments: Arguments,
    },
    /// The answer to an acknowledgement that was awaited.
    Ack {
        /// The token given to `await_ack`.
        token: u64,
        /// The answer, or why there is none.
        outcome: Result<Arguments, AckLost>,
    },
    /// What came of a broadcast that was to be acknowledged.
    Answers {
        /// The id given to `ask`.
        id: u64,
        /// Who has answered what.
        answers: Answers,
    },
    /// A client has sent something invalid; its sockets are told before they are closed (I-13).
    Error {
        /// Whose `error` listeners to call.
        member: Key,
        /// Text of the error.
        message: String,
    },
    /// Something on a websocket of an endpoint; no answer is due.
    Endpoint {
        /// Which websocket.
        conn: Key,
        /// Number of its endpoint.
        endpoint: u32,
        /// What.
        happening: Happening,
    },
    /// A request waits for the application's word. Answer with `answer_request`.
    Request {
        /// Its connection.
        conn: Key,
        /// The question.
        ask: hooks::Ask,
        /// The request.
        request: Request,
    },
    /// The peer has gone, or the time is over, while the answer to `Request` was still open. No
    /// answer is due any more.
    RequestGone(Key),
    /// A request was refused (A.3). Only with [`hooks::Hooks::refusals`].
    Refused(Box<ConnectionError>),
    /// A socket is about to go; its rooms are still set. Call `remove_member` afterwards.
    Closing {
        /// Who.
        member: Key,
        /// Why.
        reason: Reason,
    },
    /// Nobody is left in a namespace whose [`Traits`] want to know. `forget_namespace` may follow.
    Empty(NamespaceId),
    /// A room of a namespace whose [`Traits`] want to know has changed.
    Room {
        /// The namespace.
        namespace: NamespaceId,
        /// Name of the room.
        room: Rc<str>,
        /// What has happened.
        change: RoomChange,
    },
    /// An event was sent to a socket that is watched, or whose namespace is.
    Sent {
        /// To whom.
        member: Key,
        /// What; never with an acknowledgement.
        arguments: Arguments,
    },
    /// The session of a socket has moved to its websocket (D-3).
    Upgraded(Key),
}

/// Why an awaited acknowledgement will not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckLost {
    /// Nobody answered in time.
    TimedOut,
    /// The socket has gone.
    Disconnected,
}

/// What a hub is told once.
#[derive(Debug, Clone)]
pub struct Config {
    /// This shard.
    pub shard: u16,
    /// Number of shards.
    pub shards: u16,
    /// What the paths of requests begin with.
    pub path: String,
    /// Whether polling sessions are accepted.
    pub polling: bool,
    /// Whether websocket sessions and upgrades are accepted.
    pub websocket: bool,
    /// CORS, cookie, hooks.
    pub requests: hooks::Requests,
    /// How packets are written and read.
    pub parser: Parser,
    /// Whether sessions of Engine.IO revision 3 are accepted.
    pub allow_eio3: bool,
    /// Whether polling requests may ask for scripts.
    pub jsonp: bool,
    /// Which polling responses are compressed, and how.
    pub http_compression: Option<HttpCompression>,
    /// Limits of the protocol code.
    pub limits: Limits,
    /// What is agreed on where clients offer permessage-deflate; `None`: nothing.
    pub deflate: Option<Settings>,
    /// Milliseconds.
    pub ping_interval_ms: u64,
    /// Milliseconds.
    pub ping_timeout_ms: u64,
    /// Milliseconds.
    pub upgrade_timeout_ms: u64,
    /// Milliseconds.
    pub connect_timeout_ms: u64,
    /// Milliseconds.
    pub head_timeout_ms: u64,
    /// Milliseconds.
    pub body_timeout_ms: u64,
    /// Bytes waiting and in flight per socket.
    pub queue_bytes_max: usize,
    /// Bytes of memory for what all of them have waiting and in flight.
    pub shard_queue_bytes_max: usize,
    /// Bytes of memory for what all of them have begun to send and not finished.
    pub shard_incoming_bytes_max: usize,
    /// What happens at either bound of what waits.
    pub slow_reader: SlowReader,
    /// Connections of this shard.
    pub connections_max: usize,
    /// What concerns where clients come from.
    pub entrance: Entrance,
    /// Namespaces per connection.
    pub namespaces_max: usize,
    /// Rooms per socket.
    pub rooms_max: usize,
    /// Awaited acknowledgements per socket.
    pub acks_max: usize,
    /// Bytes of the answers to one broadcast.
    pub gather_bytes_max: usize,
    /// Connection-state recovery, if it is on.
    pub recovery: Option<Recovery>,
    /// Keep request heads after the connection handler.
    pub retain_handshake: bool,
    /// Wall clock at time 0, milliseconds since 1970.
    pub epoch_ms: u64,
}

/// Connections, sessions and what leaves through them; apart from [`Hub`] so that a broadcast can
/// walk the members while it stages on these.
#[derive(Debug)]
struct Links {
    conns: Slab<Conn>,
    sessions: Slab<Session>,
    /// Sessions on polling that are not over.
    polling: usize,
    palette: Palette,
    /// For what goes to one session: between two broadcasts it would part their frames.
    single: Palette,
    dirty: Dirty,
    /// Connections with a send in the kernel's hands.
    sending: usize,
    /// Polling sessions with something new in their outbox.
    polls: Vec<u32>,
    /// Sessions whose queue has reached its bound, with the policy to disconnect.
    overflowed: Vec<u32>,
    bounds: Bounds,
    incoming: Incoming,
    slow_reader: SlowReader,
    codec: Codec,
    stats: Stats,
}

/// All that one core remembers. See the module documentation.
#[derive(Debug)]
pub struct Hub {
    config: Config,
    links: Links,
    members: Slab<Member>,
    asks: Slab<Ask>,
    /// Who waits for a session's queue to be empty, by its place; hardly ever anybody.
    drains: FxHashMap<u32, Vec<u64>>,
    namespaces: Known,
    rooms: Rooms,
    recovery: Option<Box<recovery::Table>>,
    heads: Heads,
    /// Whose connections they are, where that is limited.
    guests: FxHashMap<u32, IpAddr>,
    /// Certificates that clients have shown, by the places of their sessions.
    certificates: FxHashMap<u32, Arc<[u8]>>,
    files: HashMap<String, Rc<Served>>,
    endpoints: Vec<Endpoint>,
    wheel: Wheel,
    now_ms: u64,
    now: Tick,
    /// When all input that had come by then was read, if the shard says so.
    all_read: Option<Tick>,
    due: Vec<Due>,
    secrets: Secrets,
    validator: Validator,
    events: VecDeque<Event>,
    outputs: VecDeque<Output>,
    /// Number of the latest broadcast that had to visit members once; see `Member::mark`.
    mark: u32,
    /// How many packets had been staged when this share of the turn began.
    share_from: u64,
    is_closing: bool,
    /// No new session is let in, and the seconds after which to ask again.
    refusing: Option<u32>,
    /// Number of members that are watched; see [`Hub::watch_sent`].
    watched: usize,
    /// See [`Hub::watch_all`].
    is_all_watched: bool,
}

impl Hub {
    /// A hub with no connections at time 0. `secrets` must be unpredictable outside of tests.
    pub fn new(config: Config, secrets: Secrets) -> Hub {
        let memory = Meter::default();
        let links = Links {
            conns: Slab::new(),
            sessions: Slab::new(),
            polling: 0,
            palette: Palette::new(&memory),
            single: Palette::new(&memory),
            dirty: Dirty::default(),
            sending: 0,
            polls: Vec::new(),
            overflowed: Vec::new(),
            bounds: Bounds {
                queue_max: config.queue_bytes_max,
                memory_max: config.shard_queue_bytes_max,
                memory,
            },
            incoming: Incoming::new(config.shard_incoming_bytes_max),
            slow_reader: config.slow_reader,
            codec: Codec::new(config.deflate),
            stats: Stats::default(),
        };
        let recovery = config.recovery;
        let recovery = recovery.map(|options| recovery::Table::new(options, config.shards));
        let recovery = recovery.map(Box::new);
        Hub {
            links,
            members: Slab::new(),
            asks: Slab::new(),
            drains: FxHashMap::default(),
            namespaces: Known::default(),
            rooms: Rooms::default(),
            recovery,
            heads: Heads::default(),
            guests: FxHashMap::default(),
            certificates: FxHashMap::default(),
            files: HashMap::new(),
            endpoints: Vec::new(),
            wheel: Wheel::new(),
            now_ms: 0,
            now: Tick(0),
            all_read: None,
            due: Vec::new(),
            secrets,
            validator: Validator::new(),
            events: VecDeque::new(),
            outputs: VecDeque::new(),
            mark: 0,
            share_from: 0,
            is_closing: false,
            refusing: None,
            watched: 0,
            is_all_watched: false,
            config,
        }
    }

    /// Makes a namespace known that is there from the start; `name` begins with `/`. Its number is
    /// the same on every shard when all are told in the same order.
    pub fn add_namespace(&mut self, name: &str) -> NamespaceId {
        self.namespaces.add_fixed(name)
    }

    /// Makes a namespace known under an id that all shards use for it and for no other, ever.
    pub fn learn_namespace(&mut self, id: NamespaceId, name: &str, traits: Traits) {
        self.namespaces.add(id, name, traits);
    }

    /// Forgets a namespace, unless somebody is in it; false then. To be called after
    /// [`Event::Empty`].
    pub fn forget_namespace(&mut self, id: NamespaceId) -> bool {
        if self.namespaces.get(id).is_some_and(|namespace| namespace.total > 0) {
            return false;
        }
        self.namespaces.remove(id);
        self.rooms.forget_namespace(id);
        true
    }

    /// The namespace of a name, if it is known here.
    pub fn namespace_id(&self, name: &str) -> Option<NamespaceId> {
        self.namespaces.id(name)
    }

    /// Serves a file at an exact path, for GET and HEAD.
    pub fn add_file(&mut self, path: &str, file: Rc<StaticFile>) {
        self.files.insert(path.into(), Rc::new(Served::new(file)));
    }

    /// Serves nothing at a path any more.
    pub fn remove_file(&mut self, path: &str) {
        self.files.remove(path);
    }

    /// Is told other values of what does not concern what it has: not of shards, the path, the
    /// parser, recovery, compression of websockets, or what clients were told when they came.
    pub fn reconfigure(&mut self, config: Config) {
        let Links { bounds, incoming, slow_reader, .. } = &mut self.links;
        incoming.set_max(config.shard_incoming_bytes_max);
        (bounds.queue_max, bounds.memory_max) =
            (config.queue_bytes_max, config.shard_queue_bytes_max);
        *slow_reader = config.slow_reader;
        let epoch_ms = self.config.epoch_ms;
        self.config = Config { epoch_ms, ..config };
        self.make_room();
    }

    /// Begins a turn: time does not move until the next call. Milliseconds since the hub's start.
    pub fn handle_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms.max(self.now_ms);
        self.now = Tick::at(self.now_ms);
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.now, &mut due);
        for entry in due.drain(..) {
            match entry.timer {
                Timer::Conn => self.conn_due(entry.index),
                Timer::Session => self.session_due(entry.index),
                Timer::Member => self.member_due(entry.index),
                Timer::Ask => self.ask_due(entry.index),
                Timer::Recovery => self.recovery_due(),
            }
        }
        self.due = due;
    }

    /// Everything was read that had come in by now. Once said, the hub believes that a client is
    /// silent only where that was so after the deadline.
    pub fn handle_all_read(&mut self) {
        self.all_read = Some(self.now);
    }

    /// Milliseconds until `handle_time` has something to do; `None` when nothing is waited for.
    pub fn next_timeout_ms(&self) -> Option<u64> {
        let next = self.wheel.next()?;
        let next_ms = u64::from(next.until(self.now)) * TICK_MS;
        Some(next_ms.saturating_sub(self.now_ms % TICK_MS).max(1))
    }

    /// The next thing for the kernel side to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next thing for the application to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() && self.events.capacity() > EVENTS_KEPT {
            // One body may bring a hundred thousand; their memory is not kept for the next time.
            self.events = VecDeque::new();
        }
        event
    }

    /// Hands up to `budget` sends to `send`, each for another connection. Returns how many.
    pub fn flush(&mut self, budget: usize, mut send: impl FnMut(u32, SendBuf)) -> usize {
        self.begin_share();
        self.close_overflowed();
        self.flush_polls();
        let mut sends = 0;
        while sends < budget {
            let Some(index) = self.links.dirty.pop_in_turn() else { break };
            let Some(conn) = self.links.conns.at_mut(index) else { continue };
            if conn.out.is_in_flight() {
                continue;
            }
            let buf = conn.out.take();
            let mut pinged = None;
            if !conn.out.is_waiting() {
                conn.line = Line::None;
                pinged = std::mem::take(&mut conn.has_ping).then(|| conn.session()).flatten();
            }
            if let Some(buf) = buf {
                let Bounds { memory, .. } = &self.links.bounds;
                let is_scarce = self.links.bounds.is_scarce();
                send(index, if is_scarce { buf.apart(memory) } else { buf });
                self.links.dirty.had_turn();
                sends += 1;
            }
            if let Some(session) = pinged {
                self.ping_left(session);
            }
        }
        self.links.sending += sends;
        self.links.stats.sends += sends as u64;
        sends
    }

    /// From here on as much may be staged again before [`Hub::should_flush`]; a flush does this as
    /// well.
    pub fn begin_share(&mut self) {
        self.share_from = self.links.stats.staged;
    }

    /// Whether what waits should be sent before anything is done that may lead to more of it: so
    /// much was staged in this share of a turn that what came for one client before should not wait
    /// for more, or somebody's queue is so long that the shard has to catch up.
    pub fn should_flush(&self) -> bool {
        let Links { stats, dirty, .. } = &self.links;
        stats.staged - self.share_from >= STAGED_MAX || dirty.is_behind()
    }

    /// See [`Dirty::places`]. What is behind a send that is in flight has no place yet.
    pub fn bulk_places(&self) -> (u64, u64) {
        self.links.dirty.places()
    }

    /// Whether there is something to flush or to poll.
    pub fn has_work(&self) -> bool {
        !(self.links.dirty.is_empty()
            && self.links.polls.is_empty()
            && self.links.overflowed.is_empty()
            && self.events.is_empty()
            && self.outputs.is_empty())
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        self.links.stats
    }

    /// Changes the counters: for what is counted below the hub.
    pub fn tally(&mut self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.links.stats);
    }

    /// How much is held right now.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            connections: self.links.conns.len(),
            sessions: self.links.sessions.len(),
            polling_sessions: self.links.polling,
            sockets: self.members.len(),
            rooms: self.rooms.len(),
            namespaces: self.namespaces.dynamic(),
            suspended: self.recovery.as_ref().map_or(0, |table| table.suspended.len()),
            queue_bytes: self.links.bounds.memory.bytes() - 2 * Palette::CHUNK,
            incoming_bytes: self.links.incoming.bytes(),
            waiting: self.links.dirty.len(),
            sending: self.links.sending,
            mail: 0,
        }
    }

    /// Connections, being closed included.
    pub fn connection_count(&self) -> usize {
        self.links.conns.len()
    }

    /// Broadcasts whose acknowledgements are awaited.
    pub fn ask_count(&self) -> usize {
        self.asks.len()
    }

    /// Puts an entry into the wheel for an owner whose alarm asked for it.
    fn watch(&mut self, at: Option<Tick>, timer: Timer, index: u32) {
        if let Some(at) = at {
            self.wheel.insert(at, Due { timer, index });
        }
    }
}
