//! How Socket.IO packets are put into Engine.IO messages (I-15): the one place that knows which
//! parser a server uses.
//!
//! Inside corecast arguments are raw JSON and attachments, whatever the parser. It never delivers
//! anything and never looks at a connection's state.

use std::borrow::Cow;

use bytes::Bytes;

use super::packet;

/// How packets are written and read (`parser`).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Parser {
    /// Socket.IO's own: JSON text, and binary messages behind it. Default.
    #[default]
    Json,
}

/// Why a packet cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// A packet on its way out, apart from its namespace. `args` and `data` are raw JSON that was
/// checked or written by serde_json.
#[derive(Debug, Clone, Copy)]
pub enum Outgoing<'a> {
    /// A client was let in (J-6).
    Connect {
        /// Id of its socket.
        sid: &'a str,
    },
    /// A client of Socket.IO 2 was let in; it knows its id (H-10, H-12).
    ConnectV2,
    /// A socket has to leave (J-15).
    Disconnect,
    /// An event; that its name is not reserved is the caller's business.
    Event {
        /// Name of the event.
        name: &'a str,
        /// To be acknowledged under this number.
        id: Option<u64>,
        /// The arguments without brackets, possibly empty.
        args: &'a [u8],
        /// What the placeholders in `args` stand for.
        attachments: &'a [Bytes],
    },
    /// An event is acknowledged.
    Ack {
        /// Number that the client gave.
        id: u64,
        /// As for an event.
        args: &'a [u8],
        /// As for an event.
        attachments: &'a [Bytes],
    },
    /// A client was refused (J-7).
    ConnectError {
        /// Why.
        message: &'a str,
        /// More about it.
        data: Option<&'a str>,
    },
    /// A client of Socket.IO 2 was refused; it is told this alone (H-13).
    ErrorV2 {
        /// Why, or more about it.
        data: &'a str,
    },
}

impl Parser {
    /// Appends the packet to `text` as Engine.IO text, `4` included, and returns the binary
    /// messages that follow it. No text is appended if the packet is binary messages alone.
    ///
    /// # Errors
    /// [`Error`]; never for [`Parser::Json`]. `text` is then as before.
    pub fn encode<'a>(
        &self,
        namespace: &str,
        packet: &Outgoing<'a>,
        text: &mut Vec<u8>,
    ) -> Result<Cow<'a, [Bytes]>, Error> {
        match self {
            Parser::Json => Ok(Cow::Borrowed(encode_json(namespace, packet, text))),
        }
    }
}

fn encode_json<'a>(namespace: &str, packet: &Outgoing<'a>, text: &mut Vec<u8>) -> &'a [Bytes] {
    text.push(b'4');
    match *packet {
        Outgoing::Connect { sid } => packet::encode_connect(namespace, sid, text),
        Outgoing::ConnectV2 => packet::encode_connect_v2(namespace, text),
        Outgoing::ErrorV2 { data } => packet::encode_error_v2(namespace, data, text),
        Outgoing::Disconnect => packet::encode_disconnect(namespace, text),
        Outgoing::Event { name, id, args, attachments } => {
            packet::encode_event(namespace, id, attachments.len(), name, args, text);
            return attachments;
        }
        Outgoing::Ack { id, args, attachments } => {
            packet::encode_ack(namespace, id, attachments.len(), args, text);
            return attachments;
        }
        Outgoing::ConnectError { message, data } => {
            packet::encode_connect_error(namespace, message, data, text);
        }
    }
    &[]
}
