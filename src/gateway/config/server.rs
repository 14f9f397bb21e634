//! The keys of `[server]`: the options of the library that matter to a gateway.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{Size, Time};
use crate::gateway::data_port;
use crate::{
    Cookie, HttpCompression, Options, Origin, Parser, PerMessageDeflate, Recovery, SameSite,
    SlowReader,
};

/// The data port. What is not set here has the same default as in Socket.IO, where it has one.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Addresses that clients connect to. With port 0 the system chooses one. Not reloaded.
    pub listen: Vec<SocketAddr>,
    /// CPUs that get one shard each. Default: all that the process may use. Not reloaded.
    pub cpus: Vec<usize>,
    /// A page, an HTML file, that is served at `/`; a reload reads it again. Default: none.
    pub page: Option<PathBuf>,
    /// TLS.
    pub tls: data_port::TlsConfig,
    /// Proxies between clients and the gateway.
    pub proxy: data_port::ProxyConfig,
    /// What the path of Socket.IO requests begins with. Not reloaded.
    pub path: String,
    /// Whether `path` has to end in `/`. Not reloaded.
    pub add_trailing_slash: bool,
    /// Serve the official browser client at `socket.io.js` below `path`. Not reloaded.
    pub serve_client: bool,
    /// How sessions may be carried. `polling` alone never upgrades; `websocket` alone needs
    /// clients that are told so. Not reloaded.
    pub transports: Vec<Transport>,
    /// Tell polling clients that they may upgrade to websocket.
    pub allow_upgrades: bool,
    /// Accept clients of Socket.IO 2 as well. Not reloaded.
    pub allow_eio3: bool,
    /// Answer polling clients that ask for it by scripts (JSONP), as browsers without CORS need it.
    /// Any page may load a script, whatever `auth.origins` says, and cookies go with it.
    pub jsonp: bool,
    /// How packets are written; clients have to use the same. Not reloaded.
    pub parser: ParserName,
    /// Time between a client's answer to a heartbeat and the next one. Not reloaded.
    pub ping_interval: Time,
    /// Time that a client has to answer a heartbeat; then it is disconnected. Not reloaded.
    pub ping_timeout: Time,
    /// Time that an upgrade to websocket may take.
    pub upgrade_timeout: Time,
    /// Time that a new session has to join its first namespace.
    pub connect_timeout: Time,
    /// Time to send a whole request head, and to take an answer.
    pub head_timeout: Time,
    /// Time to send a whole body, websocket message, or event with its attachments.
    pub body_timeout: Time,
    /// Time that an HTTP connection may be idle between two requests.
    pub keep_alive_timeout: Time,
    /// Time that shards, and clients asked for an acknowledgement, have to answer where a request
    /// names no other.
    pub requests_timeout: Time,
    /// Time that sessions get to flush when the gateway ends.
    pub shutdown_timeout: Time,
    /// What keeps a shard busy for longer is logged. Not reloaded.
    pub stall_warning: Time,
    /// Largest message or request body from a client. A larger websocket message closes its
    /// connection with 1009, a larger body is answered 413. Not reloaded.
    pub max_http_buffer_size: Size,
    /// Attachments of one event.
    pub max_attachments: usize,
    /// All attachments of one event together.
    pub max_attachments_bytes: Size,
    /// Nesting of arrays and objects in an event.
    pub max_json_depth: usize,
    /// Request line and headers; more is answered 431, or 414 for the URL.
    pub max_head_bytes: Size,
    /// Headers of a request.
    pub max_headers: usize,
    /// Namespaces that one connection may join.
    pub max_namespaces: usize,
    /// Rooms that one socket may be in, its own not counted.
    pub max_rooms: usize,
    /// Acknowledgements that may be awaited from one socket.
    pub max_pending_acks: usize,
    /// Events of one socket that may be under way, for instance in a webhook; a client that sends
    /// more is disconnected.
    pub max_pending_handlers: usize,
    /// What one shard may answer to a question for sockets or acknowledgements; more is left out
    /// and the answer says so.
    pub max_gather_bytes: Size,
    /// Commands that may wait for a shard; more are answered 503. Not reloaded.
    pub max_mailbox: usize,
    /// Bytes that wait for one client that does not read.
    pub max_queue_bytes: Size,
    /// Memory on one shard for what waits for all of its clients: the more of them do not read, the
    /// less may wait for each.
    pub max_shard_queue_bytes: Size,
    /// Memory on one shard for requests, messages and packets that clients have begun to send and
    /// not finished, and for `auth` and events before the answer to CONNECT, beyond 4KiB of each
    /// client; at least twice the largest packet. Beyond it those that hold most lose it: a request
    /// is answered 503, a websocket closed with code 1013.
    pub max_shard_incoming_bytes: Size,
    /// What happens to a client at `max_queue_bytes`, or when `max_shard_queue_bytes` gets short.
    pub slow_reader: SlowReaderName,
    /// Sends handed to the kernel per turn of a shard.
    pub sends_per_turn: usize,
    /// Length of the kernel's queue of connections not yet accepted; `net.core.somaxconn` caps it.
    /// Not reloaded.
    pub backlog: u32,
    /// Receive buffers of 2 KiB per shard, a power of two. Not reloaded.
    pub receive_buffers: u16,
    /// Keep the request head of each client for as long as it stays: for webhooks, `auth.origins`,
    /// and tokens outside of `auth`, which are not found for a second namespace otherwise.
    pub retain_handshake: bool,
    /// Answer pages of other origins. Without this table browsers keep them from long-polling.
    pub cors: Option<Cors>,
    /// Set a cookie with the session id at polling handshakes, for load balancers.
    pub cookie: Option<CookieKeys>,
    /// Compress answers to polling clients. `enabled = false` switches it off.
    pub http_compression: Compression,
    /// Compress websocket messages. Costs CPU time for each; broadcasts are compressed once. Not
    /// reloaded.
    pub per_message_deflate: Option<Deflate>,
    /// Let clients that lost their connection come back with the same id and rooms, and get what
    /// they have missed. Not reloaded.
    pub connection_state_recovery: Option<RecoveryKeys>,
}

/// How a session is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// HTTP long-polling.
    Polling,
    /// Websocket.
    Websocket,
}

/// How packets are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParserName {
    /// Socket.IO's own.
    Json,
    /// As npm's `socket.io-msgpack-parser` does.
    Msgpack,
}

/// What happens to a client that does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SlowReaderName {
    /// It is disconnected.
    Disconnect,
    /// Events for it are dropped, and counted, until it has read.
    Drop,
}

/// Cross-origin requests.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Origins whose pages may read answers, such as `https://example.com`; `*` stands for all.
    pub origins: Vec<String>,
    /// Whether cookies may be sent along; needs named origins.
    pub credentials: bool,
    /// Methods that preflights are told.
    pub methods: Vec<String>,
    /// Headers that preflights are told. Default: those that are asked for.
    pub allowed_headers: Option<Vec<String>>,
    /// Headers that pages may read.
    pub exposed_headers: Vec<String>,
    /// How long browsers may remember a preflight. Default: not said.
    pub max_age: Option<Time>,
}

/// The cookie for load balancers; the gateway never reads it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CookieKeys {
    /// Its name.
    pub name: String,
    /// `Max-Age`. Default: until the browser is closed.
    pub max_age: Option<Time>,
    /// `Domain`. Default: not said.
    pub domain: Option<String>,
    /// `Path`.
    pub path: Option<String>,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `Secure`.
    pub secure: bool,
    /// `Partitioned`.
    pub partitioned: bool,
    /// `SameSite`.
    pub same_site: Option<SameSiteName>,
}

/// `SameSite` of a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SameSiteName {
    /// `Strict`
    Strict,
    /// `Lax`
    Lax,
    /// `None`
    None,
}

/// Compression of polling answers, with gzip or deflate as clients ask for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Compression {
    /// Whether anything is compressed.
    pub enabled: bool,
    /// Answers from this size on.
    pub threshold: Size,
    /// 1 (quick) to 9 (small).
    pub level: u32,
}

/// permessage-deflate.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Deflate {
    /// Messages from this size on.
    pub threshold: Size,
    /// 1 (quick) to 9 (small).
    pub level: u8,
    /// Largest window of what is sent, as its binary logarithm, 8 to 15.
    pub server_max_window_bits: u8,
    /// Largest window of what clients send, 8 to 15.
    pub client_max_window_bits: u8,
    /// Let connections keep their windows from message to message: smaller small messages, up to
    /// 380 KiB per connection, and broadcasts are compressed for each anew.
    pub context_takeover: bool,
    /// Memory for such windows per shard.
    pub max_context_bytes: Size,
}

/// Connection-state recovery.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecoveryKeys {
    /// Time that a client has to come back.
    pub max_disconnection_duration: Time,
    /// Do not check a client again that has come back: connect webhooks, which were told that it
    /// has gone, do not hear of it, and its token is not looked at.
    pub skip_middlewares: bool,
    /// Events kept for one socket. At most `max_queue_bytes`.
    pub max_bytes: Size,
    /// Sockets per shard that are kept while their clients are away.
    pub max_sessions: usize,
    /// Events that a shard keeps for all its sockets together.
    pub max_shard_bytes: Size,
}

impl Default for Server {
    fn default() -> Self {
        let options = Options::default();
        Server {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 4000))],
            cpus: Vec::new(),
            page: None,
            tls: data_port::TlsConfig::default(),
            proxy: data_port::ProxyConfig::default(),
            path: options.path,
            add_trailing_slash: options.add_trailing_slash,
            serve_client: options.serve_client,
            transports: vec![Transport::Polling, Transport::Websocket],
            allow_upgrades: options.allow_upgrades,
            allow_eio3: options.allow_eio3,
            jsonp: false,
            parser: ParserName::Json,
            ping_interval: Time(options.ping_interval),
            ping_timeout: Time(options.ping_timeout),
            upgrade_timeout: Time(options.upgrade_timeout),
            connect_timeout: Time(options.connect_timeout),
            head_timeout: Time(options.head_timeout),
            body_timeout: Time(options.body_timeout),
            keep_alive_timeout: Time(options.keep_alive_timeout),
            requests_timeout: Time(options.requests_timeout),
            shutdown_timeout: Time(options.shutdown_timeout),
            stall_warning: Time(options.stall_warning),
            max_http_buffer_size: Size(options.max_http_buffer_size),
            max_attachments: options.max_attachments,
            max_attachments_bytes: Size(options.max_attachments_bytes),
            max_json_depth: options.max_json_depth,
            max_head_bytes: Size(options.max_head_bytes),
            max_headers: options.max_headers,
            max_namespaces: options.max_namespaces,
            max_rooms: options.max_rooms,
            max_pending_acks: options.max_pending_acks,
            max_pending_handlers: options.max_pending_handlers,
            max_gather_bytes: Size(options.max_gather_bytes),
            max_mailbox: options.max_mailbox,
            max_queue_bytes: Size(options.max_queue_bytes),
            max_shard_queue_bytes: Size(options.max_shard_queue_bytes),
            max_shard_incoming_bytes: Size(options.max_shard_incoming_bytes),
            slow_reader: SlowReaderName::Disconnect,
            sends_per_turn: options.sends_per_turn,
            backlog: options.backlog,
            receive_buffers: options.receive_buffers,
            retain_handshake: options.retain_handshake,
            cors: None,
            cookie: None,
            http_compression: Compression::default(),
            per_message_deflate: None,
            connection_state_recovery: None,
        }
    }
}

impl Server {
    /// The options of the server that these keys mean.
    ///
    /// # Errors
    /// A value is out of range; the text names the key.
    pub(super) fn options(&self) -> Result<Options, String> {
        let has = |transport| self.transports.contains(&transport);
        let recovery = self.connection_state_recovery.as_ref();
        let options = Options {
            cpus: self.cpus.clone(),
            path: self.path.clone(),
            add_trailing_slash: self.add_trailing_slash,
            serve_client: self.serve_client,
            parser: match self.parser {
                ParserName::Json => Parser::Json,
                ParserName::Msgpack => Parser::MsgPack,
            },
            polling: has(Transport::Polling),
            websocket: has(Transport::Websocket),
            allow_upgrades: self.allow_upgrades,
            allow_eio3: self.allow_eio3,
            jsonp: self.jsonp,
            http_compression: self.http_compression.enabled.then_some(HttpCompression {
                threshold: self.http_compression.threshold.0,
                level: self.http_compression.level,
            }),
            cors: self.cors.as_ref().map(Cors::build),
            cookie: self.cookie.as_ref().map(CookieKeys::build),
            per_message_deflate: self.per_message_deflate.as_ref().map(Deflate::build),
            connection_state_recovery: recovery.map(RecoveryKeys::build),
            ping_interval: self.ping_interval.0,
            ping_timeout: self.ping_timeout.0,
            upgrade_timeout: self.upgrade_timeout.0,
            connect_timeout: self.connect_timeout.0,
            slow_reader: match self.slow_reader {
                SlowReaderName::Disconnect => SlowReader::Disconnect,
                SlowReaderName::Drop => SlowReader::Drop,
            },
            ..self.limits()
        };
        options.limits().map_err(super::rule_broken)?;
        Ok(options)
    }

    /// The part of the options that bounds.
    fn limits(&self) -> Options {
        Options {
            head_timeout: self.head_timeout.0,
            body_timeout: self.body_timeout.0,
            keep_alive_timeout: self.keep_alive_timeout.0,
            requests_timeout: self.requests_timeout.0,
            shutdown_timeout: self.shutdown_timeout.0,
            stall_warning: self.stall_warning.0,
            max_http_buffer_size: self.max_http_buffer_size.0,
            max_attachments: self.max_attachments,
            max_attachments_bytes: self.max_attachments_bytes.0,
            max_json_depth: self.max_json_depth,
            max_head_bytes: self.max_head_bytes.0,
            max_headers: self.max_headers,
            max_namespaces: self.max_namespaces,
            max_rooms: self.max_rooms,
            max_pending_acks: self.max_pending_acks,
            max_pending_handlers: self.max_pending_handlers,
            max_gather_bytes: self.max_gather_bytes.0,
            max_mailbox: self.max_mailbox,
            max_queue_bytes: self.max_queue_bytes.0,
            max_shard_queue_bytes: self.max_shard_queue_bytes.0,
            max_shard_incoming_bytes: self.max_shard_incoming_bytes.0,
            sends_per_turn: self.sends_per_turn,
            backlog: self.backlog,
            receive_buffers: self.receive_buffers,
            retain_handshake: self.retain_handshake,
            ..Options::default()
        }
    }
}

/// A rule of the options, led by the key that breaks it.
pub(super) fn named(rule: &str) -> String {
    let (field, rest) = rule.split_once([' ', ':']).unwrap_or((rule, ""));
    let rest = rest.trim();
    match field {
        "polling" => "server.transports: name one at least".into(),
        field => format!("server.{field}: {rest}"),
    }
}

impl Default for Cors {
    fn default() -> Self {
        let cors = crate::Cors::default();
        Cors {
            origins: vec!["*".into()],
            credentials: cors.credentials,
            methods: cors.methods,
            allowed_headers: cors.allowed_headers,
            exposed_headers: cors.exposed_headers,
            max_age: cors.max_age.map(Time),
        }
    }
}

impl Cors {
    fn build(&self) -> crate::Cors {
        let origin = match &self.origins[..] {
            // One that is named would be told to whoever asks.
            [any] if any == "*" => Origin::Any,
            origins => Origin::List(origins.iter().map(|origin| origin.as_str().into()).collect()),
        };
        crate::Cors {
            origin,
            methods: self.methods.clone(),
            allowed_headers: self.allowed_headers.clone(),
            exposed_headers: self.exposed_headers.clone(),
            credentials: self.credentials,
            max_age: self.max_age.map(|time| time.0),
            ..crate::Cors::default()
        }
    }
}

impl Default for CookieKeys {
    fn default() -> Self {
        let cookie = Cookie::default();
        CookieKeys {
            name: cookie.name,
            max_age: cookie.max_age.map(Time),
            domain: cookie.domain,
            path: cookie.path,
            http_only: cookie.http_only,
            secure: cookie.secure,
            partitioned: cookie.partitioned,
            same_site: Some(SameSiteName::Lax),
        }
    }
}

impl CookieKeys {
    fn build(&self) -> Cookie {
        Cookie {
            name: self.name.clone(),
            max_age: self.max_age.map(|time| time.0),
            domain: self.domain.clone(),
            path: self.path.clone(),
            expires: None,
            http_only: self.http_only,
            secure: self.secure,
            partitioned: self.partitioned,
            same_site: self.same_site.map(|same_site| match same_site {
                SameSiteName::Strict => SameSite::Strict,
                SameSiteName::Lax => SameSite::Lax,
                SameSiteName::None => SameSite::None,
            }),
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        let HttpCompression { threshold, level } = HttpCompression::default();
        Compression { enabled: true, threshold: Size(threshold), level }
    }
}

impl Default for Deflate {
    fn default() -> Self {
        let deflate = PerMessageDeflate::default();
        Deflate {
            threshold: Size(deflate.threshold),
            level: deflate.level,
            server_max_window_bits: deflate.server_max_window_bits,
            client_max_window_bits: deflate.client_max_window_bits,
            context_takeover: deflate.context_takeover,
            max_context_bytes: Size(deflate.max_context_bytes),
        }
    }
}

impl Deflate {
    fn build(&self) -> PerMessageDeflate {
        PerMessageDeflate {
            threshold: self.threshold.0,
            server_max_window_bits: self.server_max_window_bits,
            client_max_window_bits: self.client_max_window_bits,
            level: self.level,
            context_takeover: self.context_takeover,
            max_context_bytes: self.max_context_bytes.0,
        }
    }
}

impl Default for RecoveryKeys {
    fn default() -> Self {
        let recovery = Recovery::default();
        RecoveryKeys {
            max_disconnection_duration: Time(recovery.max_disconnection_duration),
            // Backends hear that a client has gone, so they hear that it is back.
            skip_middlewares: false,
            max_bytes: Size(recovery.max_bytes),
            max_sessions: recovery.max_sessions,
            max_shard_bytes: Size(recovery.max_shard_bytes),
        }
    }
}

impl RecoveryKeys {
    fn build(&self) -> Recovery {
        Recovery {
            max_disconnection_duration: self.max_disconnection_duration.0,
            skip_middlewares: self.skip_middlewares,
            max_bytes: self.max_bytes.0,
            max_sessions: self.max_sessions,
            max_shard_bytes: self.max_shard_bytes.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let built = Server::default().options().expect("defaults hold");
        // A gateway has `auth.origins`, which scripts would walk around.
        let library = Options { jsonp: false, ..Options::default() };
        assert_eq!(format!("{built:?}"), format!("{library:?}"));
    }

    #[test]
    fn a_rule_names_its_key() {
        let broken = |change: fn(&mut Server)| {
            let mut keys = Server::default();
            change(&mut keys);
            keys.options().expect_err("it breaks a rule")
        };
        let error = broken(|keys| keys.transports.clear());
        assert!(error.starts_with("server.transports: "), "{error}");
        let error = broken(|keys| keys.receive_buffers = 3);
        assert_eq!(error, "server.receive_buffers: must be a power of two");
        let error = broken(|keys| keys.max_head_bytes = Size(1));
        assert!(error.starts_with("server.max_head_bytes: 256 B"), "{error}");
    }
}
