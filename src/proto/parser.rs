//! How Socket.IO packets are put into Engine.IO messages (I-15): Socket.IO's own way, msgpack, or
//! an application's own.
//!
//! Inside corecast arguments are raw JSON and attachments, whatever the parser: a parser of an
//! application gets a [`Packet`] and makes messages of it, and makes packets of the messages that
//! clients send. The clients must use the same one, as their option `parser`.
//!
//! ```
//! use corecast::parser::{Decoder, Encoder, Error, Message, Messages, Packet};
//!
//! /// Writes every packet as JSON text, backwards.
//! struct Backwards;
//!
//! fn turned(text: &str) -> String {
//!     text.chars().rev().collect()
//! }
//!
//! impl Encoder for Backwards {
//!     fn encode(&self, packet: &Packet<'_>) -> Result<Messages, Error> {
//!         if !packet.attachments.is_empty() {
//!             return Err(Error::new("only text goes backwards"));
//!         }
//!         let id = packet.id.map_or(String::new(), |id| id.to_string());
//!         let text = format!("{}|{}|{id}|{}", packet.kind as u8, packet.namespace, packet.data);
//!         Ok(Messages { text: Some(turned(&text)), binaries: Vec::new() })
//!     }
//!
//!     fn decoder(&self) -> Box<dyn Decoder> {
//!         Box::new(Backwards)
//!     }
//! }
//!
//! impl Decoder for Backwards {
//!     fn add(&mut self, message: Message<'_>) -> Result<Option<Packet<'static>>, Error> {
//!         let Message::Text(text) = message else { return Err(Error::new("not text")) };
//!         let text = turned(text);
//!         let parts: Vec<&str> = text.splitn(4, '|').collect();
//!         let [kind, namespace, id, data] = parts[..] else { return Err(Error::new("not ours")) };
//!         let kind = kind.parse().ok().and_then(corecast::parser::PacketKind::from_number);
//!         Ok(Some(Packet {
//!             kind: kind.ok_or(Error::new("unknown packet type"))?,
//!             namespace: namespace.to_owned().into(),
//!             id: id.parse().ok(),
//!             data: data.to_owned().into(),
//!             attachments: Vec::new().into(),
//!         }))
//!     }
//! }
//!
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let mut options = one_shard();
//! options.parser = corecast::Parser::Custom(std::sync::Arc::new(Backwards));
//! let io = corecast::Server::new(options)?;
//! io.on("hello", |socket: corecast::Socket, event: corecast::Event| async move {
//!     let _ = socket.emit("hello", event.raw());
//! });
//! # let running = io.listen("127.0.0.1:0")?;
//! # let mut client = Client::open(&running, "", &[]);
//! # assert!(client.join("||/|0").ends_with("\"dis\"{||/|0"));
//! # client.send(r#"]"adA","olleh"[||/|2"#);
//! # assert_eq!(client.read(), r#"]"adA","olleh"[||/|2"#);
//! # stop(running, [client])
//! # }
//! ```

use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::packet::{ID_MAX, Kind, Validator};
use super::{engine, json, msgpack, packet};
use crate::options::Limits;

/// How packets are written and read (`parser`).
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Parser {
    /// Socket.IO's own: JSON text, and binary messages behind it. Default.
    #[default]
    Json,
    /// Everything in one binary message: clients use `socket.io-msgpack-parser` (section T), or the
    /// bundle `socket.io.msgpack.min.js` that this server serves.
    ///
    /// Values arrive as JSON would have them, with bytes as attachments: what is undefined has no
    /// key (in an array it is `null`), a `Date` is ISO 8601 text, NaN and infinities are `null`,
    /// -0 is 0. They leave as a JavaScript program would send the same JSON. One packet may hold
    /// 1,024 binary values, which [`max_attachments`](crate::Options::max_attachments) does not
    /// count, as they come in one message. Binary values in `auth` are lost. An object that has
    /// `_placeholder: true` is refused in a packet that also has binary values.
    MsgPack,
    /// The application's own.
    Custom(Arc<dyn Encoder>),
}

impl fmt::Debug for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Parser::Json => "Json",
            Parser::MsgPack => "MsgPack",
            Parser::Custom(_) => "Custom",
        })
    }
}

/// An application's own parser (I-15). One is shared by all shards.
///
/// Its code runs while the shard is in the middle of something: it must not use sockets or the
/// server. A panic counts as an error.
pub trait Encoder: Send + Sync {
    /// Writes a packet. What it returns reaches a client in this order and with nothing between:
    /// the text, if there is one, then the binary messages. A broadcast is encoded once.
    ///
    /// # Errors
    /// It cannot be written. The emit answers [`Error::Parser`](crate::Error::Parser); if it was
    /// one of the protocol's own packets, the connection is closed.
    fn encode(&self, packet: &Packet<'_>) -> Result<Messages, Error>;

    /// The other half, made for each client when it sends its first message, and dropped with its
    /// connection. It stays on the client's shard.
    fn decoder(&self) -> Box<dyn Decoder>;
}

/// Reads what one client sends.
pub trait Decoder {
    /// Takes the next message; returns the packet that is complete with it. `None` means that more
    /// messages belong to the packet, all of which have to come within
    /// [`Options::body_timeout`](crate::Options::body_timeout).
    ///
    /// A message is at most [`Options::max_http_buffer_size`](crate::Options::max_http_buffer_size)
    /// long; those of one packet together have
    /// [`Options::max_attachments_bytes`](crate::Options::max_attachments_bytes) more. The packet
    /// is checked like one of the other parsers: JSON, its depth and shape, reserved names,
    /// placeholders.
    ///
    /// # Errors
    /// The message is invalid: `error` handlers are called and the connection is closed (I-13).
    fn add(&mut self, message: Message<'_>) -> Result<Option<Packet<'static>>, Error>;
}

/// A message of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text, without the type that Engine.IO puts before it.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

impl Message<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Message::Text(text) => text.len(),
            Message::Binary(bytes) => bytes.len(),
        }
    }
}

/// The messages that one packet becomes, at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Messages {
    /// Must not contain U+001E, which separates messages on long-polling.
    pub text: Option<String>,
    /// Behind the text.
    pub binaries: Vec<Bytes>,
}

/// The type of a [`Packet`]; as a number it is the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// Join a namespace, or the answer to that.
    Connect = 0,
    /// Leave a namespace.
    Disconnect,
    /// An event.
    Event,
    /// The answer to an event with an id.
    Ack,
    /// A refused [`PacketKind::Connect`]; only servers send it.
    ConnectError,
}

impl PacketKind {
    /// The type with that number.
    pub fn from_number(number: u8) -> Option<PacketKind> {
        use PacketKind::*;
        [Connect, Disconnect, Event, Ack, ConnectError].into_iter().nth(number.into())
    }
}

/// A Socket.IO packet, with or without attachments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The type.
    pub kind: PacketKind,
    /// Begins with `/`, unless a client says something else.
    pub namespace: Cow<'a, str>,
    /// Under which an event is to be acknowledged, or is; at most 2^53 - 1.
    pub id: Option<u64>,
    /// JSON: `["name", args…]` for an event, `[args…]` for an acknowledgement, an object for the
    /// two connect types (`{"sid":…}` from the server, `auth` from a client, who may send none),
    /// nothing for a disconnect.
    pub data: Cow<'a, str>,
    /// The bytes that stand in `data` as `{"_placeholder":true,"num":0}`, and so on.
    pub attachments: Cow<'a, [Bytes]>,
}

/// Why a packet cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    message: Cow<'static, str>,
}

impl Error {
    /// An error with a message for the log and for `error` handlers.
    pub fn new(message: impl Into<Cow<'static, str>>) -> Error {
        Error { message: message.into() }
    }
}

/// A packet on its way out, apart from its namespace, in the parts that Socket.IO's own parser
/// joins without a copy. `args` and `data` are raw JSON that was
/// checked or written by serde_json.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub enum Outgoing<'a> {
    /// A client was let in (J-6).
    Connect {
        /// Id of its socket.
        sid: &'a str,
        /// Private id of its session, where connection-state recovery is on (L-6).
        pid: Option<&'a str>,
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
    #[doc(hidden)]
    /// Appends the packet to `text` as Engine.IO text, `4` included, and returns the binary
    /// messages that follow it. No text is appended if the packet is binary messages alone.
    ///
    /// # Errors
    /// [`Error`]; never for [`Parser::Json`], and for [`Parser::MsgPack`] only if one attachment is
    /// named so often that its copies exceed 16 MiB. `text` is then as before.
    pub fn encode<'a>(
        &self,
        namespace: &str,
        packet: &Outgoing<'a>,
        text: &mut Vec<u8>,
    ) -> Result<Cow<'a, [Bytes]>, Error> {
        match self {
            Parser::Json => Ok(Cow::Borrowed(encode_json(namespace, packet, text))),
            Parser::MsgPack => Ok(Cow::Owned(vec![msgpack::encode(namespace, packet)?])),
            Parser::Custom(encoder) => {
                let packet = to_packet(namespace, packet);
                Ok(Cow::Owned(encode_custom(encoder.as_ref(), &packet, text)?))
            }
        }
    }
}

fn encode_json<'a>(namespace: &str, packet: &Outgoing<'a>, text: &mut Vec<u8>) -> &'a [Bytes] {
    text.push(b'4');
    match *packet {
        Outgoing::Connect { sid, pid } => packet::encode_connect(namespace, sid, pid, text),
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

/// The packet as an application's own parser sees it.
fn to_packet<'a>(namespace: &'a str, packet: &Outgoing<'a>) -> Packet<'a> {
    let mut data = Vec::new();
    let mut attachments: &[Bytes] = &[];
    let mut number = None;
    let kind = match *packet {
        Outgoing::Connect { sid, pid } => {
            data.extend_from_slice(b"{\"sid\":");
            json::write_string(sid, &mut data);
            if let Some(pid) = pid {
                data.extend_from_slice(b",\"pid\":");
                json::write_string(pid, &mut data);
            }
            data.push(b'}');
            PacketKind::Connect
        }
        Outgoing::ConnectV2 => PacketKind::Connect,
        Outgoing::ErrorV2 { data: why } => {
            data.extend_from_slice(why.as_bytes());
            PacketKind::ConnectError
        }
        Outgoing::Disconnect => PacketKind::Disconnect,
        Outgoing::Event { name, id, args, attachments: bytes } => {
            (number, attachments) = (id, bytes);
            data.push(b'[');
            json::write_string(name, &mut data);
            if !args.is_empty() {
                data.push(b',');
                data.extend_from_slice(args);
            }
            data.push(b']');
            PacketKind::Event
        }
        Outgoing::Ack { id, args, attachments: bytes } => {
            (number, attachments) = (Some(id), bytes);
            data.push(b'[');
            data.extend_from_slice(args);
            data.push(b']');
            PacketKind::Ack
        }
        Outgoing::ConnectError { message, data: more } => {
            data.extend_from_slice(b"{\"message\":");
            json::write_string(message, &mut data);
            if let Some(more) = more {
                data.extend_from_slice(b",\"data\":");
                data.extend_from_slice(more.as_bytes());
            }
            data.push(b'}');
            PacketKind::ConnectError
        }
    };
    Packet {
        kind,
        namespace: namespace.into(),
        id: number,
        data: String::from_utf8(data).unwrap_or_default().into(),
        attachments: attachments.into(),
    }
}

fn encode_custom(
    encoder: &dyn Encoder,
    packet: &Packet<'_>,
    text: &mut Vec<u8>,
) -> Result<Vec<Bytes>, Error> {
    let messages = guarded(|| encoder.encode(packet))?;
    if messages.text.is_none() && messages.binaries.is_empty() {
        return Err(Error::new("a packet without messages"));
    }
    if let Some(message) = messages.text {
        if message.as_bytes().contains(&engine::SEPARATOR) {
            return Err(Error::new("text contains U+001E"));
        }
        text.push(b'4');
        text.extend_from_slice(message.as_bytes());
    }
    Ok(messages.binaries)
}

/// A decoder for a new client.
///
/// # Errors
/// The application's code panicked.
pub(crate) fn new_decoder(encoder: &dyn Encoder) -> Result<Box<dyn Decoder>, Error> {
    guarded(|| Ok(encoder.decoder()))
}

/// Hands a message to an application's decoder and checks the packet that it makes of it.
///
/// # Errors
/// The decoder's own, or the rule that the packet breaks.
pub(crate) fn decode_custom(
    decoder: &mut dyn Decoder,
    message: Message<'_>,
    limits: &Limits,
    validator: &mut Validator,
) -> Result<Option<Packet<'static>>, Error> {
    let Some(packet) = guarded(|| decoder.add(message))? else { return Ok(None) };
    match check(&packet, limits, validator) {
        Ok(()) => Ok(Some(packet)),
        Err(error) => Err(Error::new(error.to_string())),
    }
}

fn check(
    packet: &Packet<'_>,
    limits: &Limits,
    validator: &mut Validator,
) -> Result<(), packet::Error> {
    let Packet { kind, id, data, attachments, .. } = packet;
    if id.is_some_and(|id| id > ID_MAX) {
        return Err(packet::Error::InvalidId);
    }
    if data.is_empty() {
        return match kind {
            PacketKind::Connect | PacketKind::Disconnect => Ok(()),
            _ => Err(packet::Error::InvalidPayload),
        };
    }
    validator.check(data, limits.json_depth_max)?;
    packet::check_shape((*kind).into(), data.trim_ascii())?;
    if !attachments.is_empty() && !validator.placeholders(data, attachments.len()) {
        return Err(packet::Error::IllegalAttachments);
    }
    Ok(())
}

impl From<PacketKind> for Kind {
    fn from(kind: PacketKind) -> Kind {
        match kind {
            PacketKind::Connect => Kind::Connect,
            PacketKind::Disconnect => Kind::Disconnect,
            PacketKind::Event => Kind::Event,
            PacketKind::Ack => Kind::Ack,
            PacketKind::ConnectError => Kind::ConnectError,
        }
    }
}

/// Runs code of the application, which may panic: the fault of that packet, and no other client's.
fn guarded<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let ended = catch_unwind(AssertUnwindSafe(run));
    ended.unwrap_or_else(|_| Err(Error::new("the parser panicked")))
}
