//! What can be set, with unit, default and cost; and [`Limits`], the checked form the code reads.
//!
//! Options that Socket.IO users know keep their names, in snake case.

use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;

use crate::cookie::Cookie;
use crate::cors::Cors;
use crate::error::Error;
use crate::proto::deflate::Settings;
use crate::proto::engine::SEPARATOR;
use crate::proto::parser::Parser;

/// What happens to a socket whose peer does not read as fast as it is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowReader {
    /// The connection is closed with reason `transport error`. Default.
    Disconnect,
    /// New events for that socket are dropped and counted until the queue has room again. Answers
    /// and heartbeats are not: they have as much room once more, then the connection is closed.
    Drop,
}

/// In which header trusted proxies say whom a request comes from; see
/// [`Options::trusted_proxies`](crate::Options::trusted_proxies). It has to be the one that they
/// all write: a header that they let pass is the client's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forwarded {
    /// `X-Forwarded-For`, as most proxies write. Default.
    #[default]
    XForwardedFor,
    /// `Forwarded` of RFC 7239.
    Standard,
    /// In none: requests come from whoever is at the other end of their connection.
    Ignored,
}

/// A message that every client is sent first; see
/// [`Options::initial_packet`](crate::Options::initial_packet).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitialPacket {
    /// A text message, without the type that Engine.IO puts before it. It must not contain U+001E,
    /// which separates messages on long-polling.
    Text(String),
    /// A binary message.
    Binary(Bytes),
}

impl InitialPacket {
    /// Whether it reaches every client whole: as one message, and not cut off by the queue's bound.
    fn is_sound(&self, queue_bytes_max: usize) -> bool {
        match self {
            InitialPacket::Text(text) => {
                text.len() <= queue_bytes_max && !text.as_bytes().contains(&SEPARATOR)
            }
            InitialPacket::Binary(bytes) => bytes.len() <= queue_bytes_max,
        }
    }
}

/// Compression of polling responses (`httpCompression`), with gzip or deflate as the client asks
/// for in `Accept-Encoding`. Websockets have their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpCompression {
    /// Bytes from which on a response is compressed (`threshold`). Default 1,024: smaller ones
    /// become hardly smaller, and the answer to a handshake never is that large.
    pub threshold: usize,
    /// 1 (quick) to 9 (small), as in zlib (`level`). Default 1, since it takes the shard's own
    /// time.
    pub level: u32,
}

impl Default for HttpCompression {
    fn default() -> Self {
        HttpCompression { threshold: 1_024, level: 1 }
    }
}

/// How websocket messages are compressed (`perMessageDeflate`). Change fields after `default()`.
///
/// By default no context is taken over from message to message, on neither side: then a broadcast
/// is compressed once per size of window and shared by its receivers, and a connection costs no
/// memory; each shard holds one compressor for every size of window that clients ask for (200 to
/// 330 KiB each) and one inflater (48 KiB). A message that does not get smaller is sent as it is,
/// and [`Socket::compress`](crate::Socket::compress) turns it off for an event, which Node's
/// server does for polling only (C-9).
///
/// ```
/// let mut options = corecast::Options::default();
/// options.per_message_deflate = Some(corecast::PerMessageDeflate::default());
/// let io = corecast::Server::new(options)?;
/// # Ok::<(), corecast::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PerMessageDeflate {
    /// Messages shorter than this are sent as they are, in bytes (`threshold`). Default 1,024. With
    /// 0 all are compressed, also those that get larger by it.
    pub threshold: usize,
    /// Largest window of what the server sends, as its binary logarithm, 8 to 15
    /// (`serverMaxWindowBits`). Default 15, which is 32 KiB. A client may ask for less.
    pub server_max_window_bits: u8,
    /// Largest window of what clients send, 8 to 15 (`clientMaxWindowBits`). Default 15. Clients
    /// that cannot be told use 15; the server's memory does not depend on it.
    pub client_max_window_bits: u8,
    /// 1 (fast) to 9 (small) (`zlibDeflateOptions.level`). Default 6.
    pub level: u8,
    /// Let a connection keep its windows from message to message, if its client does not object
    /// (the opposite of `serverNoContextTakeover` and `clientNoContextTakeover`). Default false.
    /// Small messages get smaller so; a broadcast is compressed for each such connection anew, and
    /// each costs up to 380 KiB.
    pub context_takeover: bool,
    /// Bytes of such windows per shard. Default 64 MiB. Connections beyond it keep none.
    pub max_context_bytes: usize,
}

impl Default for PerMessageDeflate {
    fn default() -> Self {
        PerMessageDeflate {
            threshold: 1_024,
            server_max_window_bits: 15,
            client_max_window_bits: 15,
            level: 6,
            context_takeover: false,
            max_context_bytes: 64 << 20,
        }
    }
}

/// Connection-state recovery (`connectionStateRecovery`): a client that lost its connection comes
/// back with the same socket id, rooms and data, and gets the events that it has missed. See
/// [`Options::connection_state_recovery`].
///
/// The server keeps what it has sent to each client since the last heartbeat that the client has
/// answered, and while the client is away what it would have been sent. Events that ask for an
/// acknowledgement, and volatile ones, are not kept (L-14). A client whose gap is no longer kept
/// gets a new session: nothing is ever skipped silently. Nothing outlives the process.
///
/// ```
/// let mut recovery = corecast::Recovery::default();
/// recovery.max_disconnection_duration = std::time::Duration::from_secs(30);
/// let mut options = corecast::Options::default();
/// options.connection_state_recovery = Some(recovery);
/// let io = corecast::Server::new(options)?;
/// # Ok::<(), corecast::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Time for a client to come back (`maxDisconnectionDuration`). Default 120 s.
    pub max_disconnection_duration: Duration,
    /// Do not ask middleware again for a client that has recovered (`skipMiddlewares`). Default
    /// true.
    pub skip_middlewares: bool,
    /// Bytes of events kept for one socket, with about 100 for each event beside its own. Default
    /// 256 KiB; the oldest are forgotten then, and a client that had not received them cannot
    /// recover. At most [`Options::max_queue_bytes`].
    pub max_bytes: usize,
    /// Sockets per shard that are kept while their clients are away. Default 100,000; the oldest
    /// are forgotten then.
    pub max_sessions: usize,
    /// Bytes of events that a shard keeps for all its sockets together; an event sent to many
    /// counts once. Default 128 MiB; beyond it only the latest event to a socket is kept.
    pub max_shard_bytes: usize,
}

impl Default for Recovery {
    fn default() -> Self {
        Recovery {
            max_disconnection_duration: Duration::from_secs(120),
            skip_middlewares: true,
            max_bytes: 256 << 10,
            max_sessions: 100_000,
            max_shard_bytes: 128 << 20,
        }
    }
}

impl PerMessageDeflate {
    fn is_sound(&self) -> bool {
        let bits = [self.server_max_window_bits, self.client_max_window_bits];
        bits.iter().all(|bits| (8..=15).contains(bits)) && (1..=9).contains(&self.level)
    }
}

/// Settings of a [`Server`](crate::Server). Change fields after `Options::default()`. Most may be
/// changed later ([`Server::reconfigure`](crate::Server::reconfigure)).
/// [`Server::new`](crate::Server::new) refuses values out of range and names the rule.
///
/// ```
/// let mut options = corecast::Options::default();
/// options.max_http_buffer_size = 100_000;
/// options.polling = false;
/// let io = corecast::Server::new(options)?;
/// # Ok::<(), corecast::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// CPUs that get one shard each. Default: empty, which means every CPU this process may use.
    pub cpus: Vec<usize>,
    /// Path that Socket.IO requests begin with (`path`). Default `/socket.io`.
    pub path: String,
    /// Whether `path` ends in `/` (`addTrailingSlash`, A.1). Default true: `/socket.io/?EIO=4…` is
    /// served and `/socket.io?EIO=4…` is not. False: every path that begins with `path` is served.
    pub add_trailing_slash: bool,
    /// Serve the official browser client below `path` (`serveClient`). Default true.
    pub serve_client: bool,
    /// How packets are written and read (`parser`); clients must use the same. Default
    /// [`Parser::Json`].
    pub parser: Parser,
    /// Accept long-polling sessions (`transports`). Default true.
    pub polling: bool,
    /// Accept websocket sessions and upgrades (`transports`, `allowUpgrades`). Default true.
    pub websocket: bool,
    /// Accept clients of Socket.IO 2 too, which speak Engine.IO 3 (`allowEIO3`). Default false.
    ///
    /// Such a client is let into `/` without asking (H-10), pings by itself (H-7), and is told the
    /// data of a refusal or its message, not both (H-13). Its socket's id is that of its session
    /// (H-11): who learns it may act as that client while it polls, so do not hand these ids to
    /// other clients.
    pub allow_eio3: bool,
    /// Answer polling requests with `j` by a script (JSONP, B-19), as browsers without CORS need
    /// it. Default true. Any page may load a script, and the browser then sends cookies and no
    /// `Origin`: where cookies say who somebody is, switch it off, or `cors` protects nobody.
    pub jsonp: bool,
    /// Compress polling responses (`httpCompression`). Default on; `None` switches it off. Events
    /// sent with `compress(false)` alone do not cause it.
    pub http_compression: Option<HttpCompression>,
    /// Tell polling clients that they may upgrade to websocket (`allowUpgrades`). Default true. A
    /// client that upgrades unasked is let (A.1).
    pub allow_upgrades: bool,
    /// Answer pages of other origins (`cors`, F-4). Default none: browsers keep such pages from
    /// long-polling. Costs its headers in every answer.
    pub cors: Option<Cors>,
    /// Set a cookie with the session id at polling handshakes (`cookie`, F-3). Default none.
    pub cookie: Option<Cookie>,
    /// A message to send to every client right behind the open packet, in the same payload or as
    /// the next frame (`initialPacket`, A.4). Default none. It is a message of Engine.IO, so a
    /// Socket.IO client takes it for a packet. At most `max_queue_bytes`.
    pub initial_packet: Option<InitialPacket>,
    /// Time between a pong and the next ping (`pingInterval`). Default 25 s.
    pub ping_interval: Duration,
    /// Time a client has to answer a ping (`pingTimeout`). Default 20 s.
    pub ping_timeout: Duration,
    /// Time an upgrade to websocket may take (`upgradeTimeout`). Default 10 s.
    pub upgrade_timeout: Duration,
    /// Time a new session has to join its first namespace (`connectTimeout`). Default 45 s.
    pub connect_timeout: Duration,
    /// Largest message or request body from a client, in bytes (`maxHttpBufferSize`).
    /// Default 1,000,000. A client can make the server hold this much per connection.
    pub max_http_buffer_size: usize,
    /// Attachments of one binary packet (`maxAttachments`). Default 10.
    pub max_attachments: usize,
    /// Sum of the attachments of one packet, in bytes. Default 10,000,000.
    pub max_attachments_bytes: usize,
    /// Nesting of arrays and objects in a packet. Default 128.
    pub max_json_depth: usize,
    /// Request line and headers, in bytes. Default 16 KiB; more is answered 431 (414 for the URL).
    pub max_head_bytes: usize,
    /// Number of headers of a request. Default 100.
    pub max_headers: usize,
    /// Time to send a complete request head (`headersTimeout` of Node's HTTP server), and to take
    /// an answer. Default 60 s.
    pub head_timeout: Duration,
    /// Time that a connection may be idle between two requests (`keepAliveTimeout` of Node's HTTP
    /// server, B-21). Default 5 s.
    pub keep_alive_timeout: Duration,
    /// Time to send a complete request body, websocket message, or binary packet with all its
    /// attachments. Default 300 s.
    pub body_timeout: Duration,
    /// Time that [`Server::use_http`](crate::Server::use_http),
    /// [`allow_request`](crate::Server::allow_request), an origin's function and
    /// [`generate_id`](crate::Server::generate_id) have for one request, together. Default 20 s,
    /// the time after which the JavaScript client gives up; then they are dropped where they wait,
    /// and the client is answered 503.
    pub hook_timeout: Duration,
    /// Connections per shard, and sessions, since a polling session lives without a connection.
    /// Default 4,000,000. More connections are closed at once, more sessions answered 503.
    pub max_connections: usize,
    /// Connections of all shards together. Default none. A few more (an eighth and 4) are let in to
    /// be answered 503 with `Retry-After`; the others are closed at once.
    pub max_total_connections: Option<usize>,
    /// Connections of one address, of an IPv6 address's /64, on all shards together. Default none.
    /// A few more (an eighth and 4) are let in to be answered 429 with `Retry-After`; the others
    /// are closed at once. Trusted proxies are not counted, but the clients that they name. Costs a
    /// lock when a connection comes and goes.
    pub max_connections_per_ip: Option<u32>,
    /// Sessions and raw websockets that one address may open in a second, all of them at once if it
    /// likes; addresses as above. Default none. More are answered 429 with `Retry-After`. Of TLS
    /// handshakes four times as many; connections with more are closed before the handshake. Costs
    /// a lock for each handshake.
    pub max_handshakes_per_ip: Option<u32>,
    /// Networks of the proxies whose word is taken for who their clients are: in the PROXY protocol
    /// (see [`Port`](crate::Port)), and in the header of `forwarded`. Default none, and then it
    /// costs nothing.
    pub trusted_proxies: Vec<IpNet>,
    /// The header of trusted proxies that names the client. Default
    /// [`Forwarded::XForwardedFor`].
    pub forwarded: Forwarded,
    /// Namespaces that one connection may join. Default 100; more are refused.
    pub max_namespaces: usize,
    /// Dynamic namespaces that clients may bring into being (J-4), those that the application has
    /// added included. Default 10,000, about 1 kB each on every shard that knows it; more are
    /// refused.
    pub max_child_namespaces: usize,
    /// Forget a dynamic namespace when its last socket has gone (`cleanupEmptyChildNamespaces`).
    /// Default false: it stays, up to `max_child_namespaces`. Turn it on where clients choose the
    /// names.
    pub cleanup_empty_child_namespaces: bool,
    /// Rooms that one socket may join, its own id not counted. Default 1,000; `join` is false then.
    pub max_rooms: usize,
    /// Acknowledgements that may be awaited from one socket. Default 1,000; then [`Error::Limit`].
    pub max_pending_acks: usize,
    /// Time that shards have to answer `fetch_sockets`, counts and the like (`requestsTimeout` of
    /// Socket.IO's adapters), and clients a broadcast with acknowledgements that names no other.
    /// Default 5 s. What has not come by then is left out, and the answer says so.
    pub requests_timeout: Duration,
    /// What one shard may answer `fetch_sockets` and the like, and what it keeps of the
    /// acknowledgements of one broadcast, in bytes. Default 64 MiB. More is left out, and the
    /// answer says so.
    pub max_gather_bytes: usize,
    /// Handlers of one socket that may be unfinished at a time. Default 1,000; a client that sends
    /// events faster than its handlers finish is disconnected there.
    pub max_pending_handlers: usize,
    /// Bytes queued for one connection, in flight included; on polling, bytes that wait for a
    /// request. Default 1 MiB. One packet larger than that is let through an empty queue.
    pub max_queue_bytes: usize,
    /// Bytes of memory on one shard for what all its connections have queued. Default 512 MiB. Each
    /// connection may hold no more than is left of it, and where more than 64 KiB (or a 64th of it)
    /// wait for a peer that does not read, of half of it: the more there are of them, the less each
    /// may hold. What is sent to many is there once for all who keep up.
    pub max_shard_queue_bytes: usize,
    /// Bytes of memory on one shard for what all its clients have begun to send and not finished:
    /// requests and their bodies, websocket messages, packets that wait for attachments, and what a
    /// client has in `auth` and sends before its CONNECT is answered, beyond 4 KiB. Default
    /// 512 MiB, and never less than twice the largest packet (`max_http_buffer_size` and
    /// `max_attachments_bytes` together). Beyond it those that hold most lose it, until an eighth
    /// is free: a request is answered 503, a websocket closed with code 1013. Raise it where many
    /// large messages arrive at a time.
    pub max_shard_incoming_bytes: usize,
    /// What happens at `max_queue_bytes`, or when `max_shard_queue_bytes` gets short. Default
    /// [`SlowReader::Disconnect`].
    pub slow_reader: SlowReader,
    /// Sends handed to the kernel per turn of a shard. Default 64, about a third of a
    /// millisecond. What one client waits for goes first in the next turn, so this is its wait
    /// behind a broadcast.
    pub sends_per_turn: usize,
    /// Commands that may wait in a shard's mailbox. Default 65,536; 64 MiB of them at most, as
    /// many again on the way from each other shard. Beyond it `emit` answers [`Error::Limit`], and
    /// that shard does not get the event.
    pub max_mailbox: usize,
    /// Compress websocket messages (`perMessageDeflate`, RFC 7692). Default `None`: offers are
    /// declined unread, as Socket.IO does since 2.4. Costs CPU time for every message of the
    /// threshold or more; see [`PerMessageDeflate`] for memory.
    pub per_message_deflate: Option<PerMessageDeflate>,
    /// Connection-state recovery (L-5). Default `None`: off, and then it costs nothing. With it
    /// every event that is recoverable has one more argument, a short text; the official clients
    /// know of it, other clients may see it.
    pub connection_state_recovery: Option<Recovery>,
    /// Keep each client's request head for `Socket::handshake` after the first namespace was
    /// joined and its connection handlers have reached their first `await`. Default true. Lines
    /// that many clients send alike are kept once for all; it costs what is left, mostly cookies
    /// and queries.
    pub retain_handshake: bool,
    /// Length of the kernel's queue of connections not yet accepted. Default 4,096; the kernel
    /// caps it at `net.core.somaxconn`.
    pub backlog: u32,
    /// Receive buffers per shard, a power of two. Default 1,024, of 2 KiB each. With all of them
    /// filled, receiving waits for the shard.
    pub receive_buffers: u16,
    /// A handler that keeps its shard busy longer than this is reported by name. Default 500 ms.
    pub stall_warning: Duration,
    /// Time that closing sessions get to flush at shutdown. Default 5 s.
    pub shutdown_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            cpus: Vec::new(),
            path: "/socket.io".into(),
            add_trailing_slash: true,
            serve_client: true,
            parser: Parser::Json,
            polling: true,
            websocket: true,
            allow_eio3: false,
            jsonp: true,
            http_compression: Some(HttpCompression::default()),
            allow_upgrades: true,
            cors: None,
            cookie: None,
            initial_packet: None,
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            upgrade_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(45),
            max_http_buffer_size: 1_000_000,
            max_attachments: 10,
            max_attachments_bytes: 10_000_000,
            max_json_depth: 128,
            max_head_bytes: 16 * 1024,
            max_headers: 100,
            head_timeout: Duration::from_secs(60),
            keep_alive_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(300),
            hook_timeout: Duration::from_secs(20),
            max_connections: 4_000_000,
            max_total_connections: None,
            max_connections_per_ip: None,
            max_handshakes_per_ip: None,
            trusted_proxies: Vec::new(),
            forwarded: Forwarded::XForwardedFor,
            max_namespaces: 100,
            max_child_namespaces: 10_000,
            cleanup_empty_child_namespaces: false,
            max_rooms: 1_000,
            max_pending_acks: 1_000,
            requests_timeout: Duration::from_secs(5),
            max_gather_bytes: 64 << 20,
            max_pending_handlers: 1_000,
            max_queue_bytes: 1 << 20,
            max_shard_queue_bytes: 512 << 20,
            max_shard_incoming_bytes: 512 << 20,
            slow_reader: SlowReader::Disconnect,
            sends_per_turn: 64,
            max_mailbox: 65_536,
            per_message_deflate: None,
            connection_state_recovery: None,
            retain_handshake: true,
            backlog: 4_096,
            receive_buffers: 1_024,
            stall_warning: Duration::from_millis(500),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

/// The limits that the protocol code reads, derived once from [`Options`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Message, frame and body, bytes.
    pub message_bytes_max: usize,
    /// Request head, bytes.
    pub head_bytes_max: usize,
    /// Headers per request; at most [`Limits::HEADERS`].
    pub headers_max: usize,
    /// Attachments per packet.
    pub attachments_max: usize,
    /// Sum of a packet's attachments, bytes.
    pub attachments_bytes_max: usize,
    /// Nesting of JSON.
    pub json_depth_max: usize,
    /// Fragments of one websocket message.
    pub fragments_max: u32,
}

impl Limits {
    /// Bytes held for one client beside the message in hand: `auth` of its namespaces, and events
    /// that wait for the answer to its CONNECT. One binary packet of full size fits.
    pub fn held_bytes_max(&self) -> usize {
        self.message_bytes_max + self.attachments_bytes_max
    }

    /// For reading a head of this many bytes again that was accepted once.
    pub(crate) fn of_head(bytes: usize) -> Limits {
        Limits {
            message_bytes_max: 0,
            // Half of it is for the target.
            head_bytes_max: 2 * bytes,
            headers_max: Limits::HEADERS,
            attachments_max: 0,
            attachments_bytes_max: 0,
            json_depth_max: 0,
            fragments_max: 0,
        }
    }

    /// Room for headers on the stack while a head is parsed.
    pub const HEADERS: usize = 100;
    /// Fragments of one websocket message of a session (`ws` has the same; C-8).
    pub const FRAGMENTS: u32 = 16_384;
}

impl Options {
    /// These options with what of `new` can change while a server listens.
    pub(crate) fn changed(&self, new: &Options) -> Options {
        let old = self.clone();
        Options {
            // What sockets, threads and memory were made for.
            cpus: old.cpus,
            backlog: old.backlog,
            receive_buffers: old.receive_buffers,
            max_mailbox: old.max_mailbox,
            stall_warning: old.stall_warning,
            // What clients know, and their sessions are made of.
            path: old.path,
            add_trailing_slash: old.add_trailing_slash,
            serve_client: old.serve_client,
            parser: old.parser,
            polling: old.polling,
            websocket: old.websocket,
            allow_eio3: old.allow_eio3,
            ping_interval: old.ping_interval,
            ping_timeout: old.ping_timeout,
            max_http_buffer_size: old.max_http_buffer_size,
            per_message_deflate: old.per_message_deflate,
            connection_state_recovery: old.connection_state_recovery,
            ..new.clone()
        }
    }

    /// What the protocol code agrees on where clients offer compression.
    pub fn deflate_settings(&self) -> Option<Settings> {
        self.per_message_deflate.as_ref().map(|deflate| Settings {
            threshold: deflate.threshold,
            server_bits: deflate.server_max_window_bits,
            client_bits: deflate.client_max_window_bits,
            level: deflate.level,
            context_takeover: deflate.context_takeover,
            context_bytes_max: deflate.max_context_bytes,
        })
    }

    /// What the paths of requests begin with (A.1): one `/` at the end is as good as none.
    pub(crate) fn request_path(&self) -> String {
        let path = self.path.strip_suffix('/').unwrap_or(&self.path);
        format!("{path}{}", if self.add_trailing_slash { "/" } else { "" })
    }

    /// `max_shard_incoming_bytes`, with room for two of the largest packets.
    pub(crate) fn shard_incoming_bytes(&self) -> usize {
        let packet = self.max_http_buffer_size.saturating_add(self.max_attachments_bytes);
        self.max_shard_incoming_bytes.max(packet.saturating_mul(2))
    }

    fn has_room(&self) -> bool {
        self.max_shard_queue_bytes >= self.max_queue_bytes.max(1 << 20)
    }

    fn lets_somebody_in(&self) -> bool {
        let per_ip = [self.max_connections_per_ip, self.max_handshakes_per_ip];
        let mut bounds = per_ip.map(|it| it.map(|it| it as usize)).into_iter().flatten();
        let is_sound = |bound: usize| (1..=1_000_000_000).contains(&bound);
        self.max_total_connections.is_none_or(is_sound) && bounds.all(is_sound)
    }

    /// Checks the values once and derives what the protocol code reads.
    ///
    /// # Errors
    /// [`Error::Options`] names the field and the rule it breaks.
    pub fn limits(&self) -> Result<Limits, Error> {
        let recovery = self.connection_state_recovery.unwrap_or_default();
        let rules = [
            (
                recovery.max_bytes <= self.max_queue_bytes
                    || self.connection_state_recovery.is_none(),
                "connection_state_recovery: max_bytes must be max_queue_bytes or less",
            ),
            (
                !recovery.max_disconnection_duration.is_zero() && recovery.max_sessions >= 1,
                "connection_state_recovery: duration and max_sessions must not be 0",
            ),
            (self.polling || self.websocket, "polling or websocket must be on"),
            (
                self.path.starts_with('/') && self.path.len() > 1,
                "path must begin with / and a name",
            ),
            (
                self.http_compression.is_none_or(|http| (1..=9).contains(&http.level)),
                "http_compression: level must be 1 to 9",
            ),
            (self.cookie.as_ref().is_none_or(Cookie::is_sound), "cookie: name, domain or path"),
            (
                self.cors.as_ref().is_none_or(|cors| cors.options_success_status / 100 == 2),
                "cors.options_success_status must be 200 to 299",
            ),
            (
                self.initial_packet.as_ref().is_none_or(|it| it.is_sound(self.max_queue_bytes)),
                "initial_packet: no U+001E, and max_queue_bytes or less",
            ),
            (!self.hook_timeout.is_zero(), "hook_timeout must not be 0"),
            (!self.keep_alive_timeout.is_zero(), "keep_alive_timeout must not be 0"),
            (!self.ping_interval.is_zero(), "ping_interval must not be 0"),
            (!self.ping_timeout.is_zero(), "ping_timeout must not be 0"),
            (self.max_http_buffer_size >= 1_000, "max_http_buffer_size must be 1,000 or more"),
            (self.max_http_buffer_size <= 1 << 30, "max_http_buffer_size must be 1 GiB or less"),
            ((256..=1 << 20).contains(&self.max_head_bytes), "max_head_bytes: 256 B to 1 MiB"),
            ((1..=Limits::HEADERS).contains(&self.max_headers), "max_headers must be 1 to 100"),
            ((1..=512).contains(&self.max_json_depth), "max_json_depth must be 1 to 512"),
            (self.lets_somebody_in(), "limits of connections and handshakes: 1 to 1,000,000,000"),
            (self.max_namespaces >= 1, "max_namespaces must be 1 or more"),
            (self.max_attachments_bytes <= 1 << 30, "max_attachments_bytes must be 1 GiB or less"),
            ((1_024..=1 << 30).contains(&self.max_queue_bytes), "max_queue_bytes: 1 KiB to 1 GiB"),
            (self.has_room(), "max_shard_queue_bytes must be max_queue_bytes or more, and 1 MiB"),
            ((1..=4_096).contains(&self.sends_per_turn), "sends_per_turn must be 1 to 4,096"),
            (!self.requests_timeout.is_zero(), "requests_timeout must not be 0"),
            (
                self.per_message_deflate.as_ref().is_none_or(PerMessageDeflate::is_sound),
                "per_message_deflate: window bits must be 8 to 15, level 1 to 9",
            ),
            (!self.stall_warning.is_zero(), "stall_warning must not be 0"),
            (self.max_mailbox >= 16, "max_mailbox must be 16 or more"),
            (self.receive_buffers.is_power_of_two(), "receive_buffers must be a power of two"),
            (self.receive_buffers <= 32_768, "receive_buffers must be 32,768 or less"),
        ];
        if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(Error::Options(rule));
        }
        Ok(Limits {
            message_bytes_max: self.max_http_buffer_size,
            head_bytes_max: self.max_head_bytes,
            headers_max: self.max_headers,
            attachments_max: self.max_attachments,
            attachments_bytes_max: self.max_attachments_bytes,
            json_depth_max: self.max_json_depth,
            fragments_max: Limits::FRAGMENTS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_and_a_broken_rule_is_named() {
        assert_eq!(Options::default().limits().expect("defaults").message_bytes_max, 1_000_000);
        let bad = Options { receive_buffers: 3, ..Options::default() };
        assert!(bad.limits().expect_err("3 is no power of two").to_string().contains("receive"));
    }
}
