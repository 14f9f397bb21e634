//! Errors of the public API, close reasons, and what the wire calls them.

use std::io;

/// What can go wrong in the hands of the application or of the system. What peers do wrong ends
/// their connections with a [`Reason`] and is counted in [`Server::stats`](crate::Server::stats).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value in [`Options`](crate::Options) breaks the named rule. Caller's fault.
    #[error("options: {0}")]
    Options(&'static str),
    /// The machine lacks something; the text says what to change. System's fault.
    #[error("{0}")]
    Preflight(String),
    /// An address could not be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// Certificates, keys or authorities cannot be used; the text says which and why.
    #[error("TLS: {0}")]
    Tls(String),
    /// The system refused something else.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The event name belongs to the protocol (I-6): `connect`, `connect_error`, `disconnect`,
    /// `disconnecting`, `newListener`, `removeListener`.
    #[error("\"{0}\" is a reserved event name")]
    ReservedEvent(String),
    /// A value could not be written as, or read from, JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The server's parser could not write a packet.
    #[error("parser: {0}")]
    Parser(#[from] crate::proto::parser::Error),
    /// The socket has gone.
    #[error("socket is disconnected")]
    Disconnected,
    /// Nobody answered in time.
    #[error("operation has timed out")]
    Timeout,
    /// Not all clients have acknowledged a broadcast; the answers that came are in it.
    #[error("{0}")]
    Unanswered(Box<crate::Unanswered>),
    /// A limit of [`Options`](crate::Options) was reached; it is named.
    #[error("limit reached: {0}")]
    Limit(&'static str),
    /// The pattern of a dynamic namespace cannot be read, or would need too much memory.
    #[error("{0}")]
    Pattern(#[from] regex::Error),
    /// The server is not running (not started yet, or shut down).
    #[error("server is not running")]
    NotRunning,
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Error {
        match never {}
    }
}

/// Why a socket was disconnected (J-18); `as_str` is what Socket.IO users compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The peer closed the connection.
    TransportClose,
    /// The connection broke, or the peer violated a protocol below Socket.IO.
    TransportError,
    /// The peer did not answer a ping in time.
    PingTimeout,
    /// The peer sent bytes that are no Engine.IO packet.
    ParseError,
    /// The server closed the connection, or the peer sent an invalid Socket.IO packet.
    ForcedClose,
    /// The peer joined no namespace in time.
    ForcedServerClose,
    /// The server is shutting down.
    ServerShuttingDown,
    /// The client left the namespace.
    ClientNamespaceDisconnect,
    /// The server removed the client from the namespace.
    ServerNamespaceDisconnect,
}

impl Reason {
    /// All there are, in the order of their numbers.
    pub const ALL: [Reason; Reason::COUNT] = [
        Reason::TransportClose,
        Reason::TransportError,
        Reason::PingTimeout,
        Reason::ParseError,
        Reason::ForcedClose,
        Reason::ForcedServerClose,
        Reason::ServerShuttingDown,
        Reason::ClientNamespaceDisconnect,
        Reason::ServerNamespaceDisconnect,
    ];
    pub(crate) const COUNT: usize = 9;

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Whether the client may come back to where it was (L-11), with recovery on.
    pub fn is_recoverable(self) -> bool {
        match self {
            Reason::TransportClose
            | Reason::TransportError
            | Reason::PingTimeout
            | Reason::ForcedClose
            | Reason::ForcedServerClose
            | Reason::ServerShuttingDown => true,
            Reason::ParseError
            | Reason::ClientNamespaceDisconnect
            | Reason::ServerNamespaceDisconnect => false,
        }
    }

    /// The text that Socket.IO uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::TransportClose => "transport close",
            Reason::TransportError => "transport error",
            Reason::PingTimeout => "ping timeout",
            Reason::ParseError => "parse error",
            Reason::ForcedClose => "forced close",
            Reason::ForcedServerClose => "forced server close",
            Reason::ServerShuttingDown => "server shutting down",
            Reason::ClientNamespaceDisconnect => "client namespace disconnect",
            Reason::ServerNamespaceDisconnect => "server namespace disconnect",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Engine.IO's refusals (A.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Code 0.
    TransportUnknown,
    /// Code 1.
    SessionUnknown,
    /// Code 2.
    BadHandshakeMethod,
    /// Code 3.
    BadRequest,
    /// Code 4.
    Forbidden,
    /// Code 5.
    UnsupportedProtocol,
}

impl Refusal {
    /// (code, message, HTTP status) of table A.3.
    pub fn parts(self) -> (u8, &'static str, u16) {
        match self {
            Refusal::TransportUnknown => (0, "Transport unknown", 400),
            Refusal::SessionUnknown => (1, "Session ID unknown", 400),
            Refusal::BadHandshakeMethod => (2, "Bad handshake method", 400),
            Refusal::BadRequest => (3, "Bad request", 400),
            Refusal::Forbidden => (4, "Forbidden", 403),
            Refusal::UnsupportedProtocol => (5, "Unsupported protocol version", 400),
        }
    }
}

/// What is known about a request that was refused (`err.context` of `connection_error`, A.2).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorContext {
    /// Code 0: the transport asked for; empty if none was.
    Transport(String),
    /// Code 1: the id that nobody has.
    SessionId(String),
    /// Code 2: the method.
    Method(String),
    /// Code 3: the session is on another transport.
    TransportMismatch {
        /// What the request names.
        transport: String,
        /// What the session uses.
        previous: &'static str,
    },
    /// Code 3: the session speaks another revision of the protocol.
    ProtocolMismatch {
        /// What the request names, 3 or 4.
        protocol: u8,
        /// What the session speaks.
        previous: u8,
    },
    /// Code 3: a websocket handshake without an upgrade.
    TransportHandshake,
    /// Code 3: `generate_id` has failed, or its id is taken or no id.
    IdGeneration(String),
    /// Code 3: middleware, or a function for CORS, has failed.
    Middleware(String),
    /// Code 4: `allow_request` has refused; the client is told this.
    Forbidden(String),
    /// Code 5: the revision that is not served.
    Protocol(u8),
}

impl ErrorContext {
    /// The name that Engine.IO gives it (`err.context.name`), where it gives one.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            ErrorContext::TransportMismatch { .. } => Some("TRANSPORT_MISMATCH"),
            ErrorContext::ProtocolMismatch { .. } => Some("PROTOCOL_MISMATCH"),
            ErrorContext::TransportHandshake => Some("TRANSPORT_HANDSHAKE_ERROR"),
            ErrorContext::IdGeneration(_) => Some("ID_GENERATION_ERROR"),
            ErrorContext::Middleware(_) => Some("MIDDLEWARE_FAILURE"),
            _ => None,
        }
    }

    /// What the client is told instead of the text of its code.
    pub(crate) fn message(&self) -> Option<&str> {
        match self {
            ErrorContext::Forbidden(message) => Some(message),
            _ => None,
        }
    }
}
