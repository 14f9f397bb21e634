//! Socket.IO protocol 5 (section I): `<type>[<attachments>-][<namespace>,][<ack id>][<JSON>]`.
//!
//! It owns the text of one packet and the attachments that follow it. In: [`decode`] reads the
//! header, checks the JSON behind it completely and leaves it as text; [`event_parts`] splits an
//! event into its name and raw arguments; [`Assembly`] collects attachments. Out: `encode_*`
//! append a packet's text. The `4` of the Engine.IO message is the caller's, both ways.
//!
//! It never builds a value from JSON (that is `value.rs`), never decides whether a packet fits
//! the state of a connection (I-14), and never closes anything.
//!
//! ```text
//! 451-/chat,12["up",{"_placeholder":true,"num":0}]      + 1 binary message
//! |||  |     | |
//! |||  |     | data, shape by kind: array, object, string or absent
//! |||  |     ack id, 0 to 2^53 - 1
//! |||  namespace, "/" if absent; runs to the comma or the end
//! ||attachments, kinds 5 and 6 only
//! |kind
//! Engine.IO message (not in the text given to decode)
//! ```

use std::borrow::Cow;

use bytes::Bytes;

use super::json;
pub use super::json::Validator;
use crate::options::Limits;

/// Largest ack id: beyond it JavaScript numbers skip integers (W-15).
pub(super) const ID_MAX: u64 = (1 << 53) - 1;

/// The rule that a packet breaks. `Display` is Socket.IO's own text where it has one; the
/// connection is closed for any of them (I-13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first character is none of `0` to `6` (I-4).
    #[error("unknown packet type")]
    UnknownType,
    /// The JSON is malformed, or of a shape that the kind does not have.
    #[error("invalid payload")]
    InvalidPayload,
    /// No attachment count before `-`, or one that is no integer of at least 1 (I-3).
    #[error("Illegal attachments")]
    InvalidAttachmentCount,
    /// More attachments than [`Limits::attachments_max`] (I-3, CVE-2026-33151).
    #[error("too many attachments")]
    TooManyAttachments,
    /// The attachments of one packet sum up to more than [`Limits::attachments_bytes_max`].
    #[error("attachments too large")]
    AttachmentsTooLarge,
    /// A placeholder whose `num` is no attachment (I-9, CVE-2022-2421).
    #[error("illegal attachments")]
    IllegalAttachments,
    /// An ack id above 2^53 - 1 (W-15).
    #[error("invalid packet id")]
    InvalidId,
    /// JSON nested deeper than [`Limits::json_depth_max`] (W-20).
    #[error("payload nested too deeply")]
    TooDeep,
    /// An event named like one of the library's own (I-6); Socket.IO says the same as for any
    /// other payload it refuses.
    #[error("invalid payload")]
    ReservedEvent,
    /// An event without data (`42`), which no listener may see (I-5).
    #[error("event without a name")]
    NoEventName,
    /// The attachments of a packet did not all come in time.
    #[error("attachments did not come in time")]
    AttachmentsLate,
    /// More than [`Limits::held_bytes_max`] would be held for one client.
    #[error("too much held for one client")]
    TooMuchHeld,
    /// Text while attachments are awaited (I-10).
    #[error("got plaintext data when reconstructing a packet")]
    UnexpectedText,
    /// A binary message while no attachment is awaited (I-10).
    #[error("got binary data when not reconstructing a packet")]
    UnexpectedBinary,
}

impl From<json::Error> for Error {
    fn from(error: json::Error) -> Self {
        match error {
            json::Error::Syntax => Error::InvalidPayload,
            json::Error::TooDeep => Error::TooDeep,
        }
    }
}

/// The type of a packet; the discriminant is its digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Join a namespace, or the answer to that.
    Connect = 0,
    /// Leave a namespace.
    Disconnect,
    /// An event.
    Event,
    /// The answer to an event with an id.
    Ack,
    /// A refused [`Kind::Connect`]; servers send it, clients never.
    ConnectError,
    /// An event with attachments.
    BinaryEvent,
    /// An answer with attachments.
    BinaryAck,
}

impl Kind {
    fn from_digit(digit: u8) -> Option<Kind> {
        Some(match digit {
            b'0' => Kind::Connect,
            b'1' => Kind::Disconnect,
            b'2' => Kind::Event,
            b'3' => Kind::Ack,
            b'4' => Kind::ConnectError,
            b'5' => Kind::BinaryEvent,
            b'6' => Kind::BinaryAck,
            _ => return None,
        })
    }

    /// Whether attachments follow.
    pub fn is_binary(self) -> bool {
        matches!(self, Kind::BinaryEvent | Kind::BinaryAck)
    }
}

/// A decoded header; `data` is raw JSON text, already validated (syntax, depth, shape for the
/// kind) and without white space around it, or "" when absent (I-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The type.
    pub kind: Kind,
    /// Binary messages that follow: 0 for kinds that have none, else 1 to
    /// [`Limits::attachments_max`].
    pub attachments: usize,
    /// Begins with `/`.
    pub namespace: &'a str,
    /// Ack id, at most 2^53 - 1.
    pub id: Option<u64>,
    /// Raw JSON.
    pub data: &'a str,
}

/// Decodes one packet: `text` is an Engine.IO message without its `4`.
///
/// # Errors
/// [`Error`] names the broken rule; the peer is at fault.
pub fn decode<'a>(
    text: &'a str,
    limits: &Limits,
    validator: &mut Validator,
) -> Result<Packet<'a>, Error> {
    let kind = text.bytes().next().and_then(Kind::from_digit).ok_or(Error::UnknownType)?;
    let mut rest = &text[1..];
    let mut attachments = 0;
    if kind.is_binary() {
        (attachments, rest) = attachment_count(rest, limits)?;
    }
    let mut namespace = "/";
    if rest.starts_with('/') {
        (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
    }
    let (id, rest) = ack_id(rest)?;
    let data = rest.trim_matches([' ', '\t', '\n', '\r']);
    // A payload of nothing but white space is no JSON, unlike no payload.
    if !rest.is_empty() {
        validator.check(data, limits.json_depth_max)?;
        check_shape(kind, data)?;
        if kind.is_binary() && !validator.placeholders(data, attachments) {
            return Err(Error::IllegalAttachments);
        }
    }
    Ok(Packet { kind, attachments, namespace, id, data })
}

/// `<count>-` and what follows (I-3): digits only, unlike `Number()` of the reference.
fn attachment_count<'a>(text: &'a str, limits: &Limits) -> Result<(usize, &'a str), Error> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - rest.len()];
    let behind = rest.strip_prefix('-').ok_or(Error::InvalidAttachmentCount)?;
    let count = match digits.parse::<usize>() {
        // 0 would wait for ever (CVE-2026-69185).
        Ok(0) => return Err(Error::InvalidAttachmentCount),
        Ok(count) => count,
        Err(_) if digits.is_empty() => return Err(Error::InvalidAttachmentCount),
        Err(_) => usize::MAX,
    };
    if count > limits.attachments_max {
        return Err(Error::TooManyAttachments);
    }
    Ok((count, behind))
}

/// The ack id, if there is one, and what follows (I-2, W-15).
fn ack_id(text: &str) -> Result<(Option<u64>, &str), Error> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok((None, text));
    }
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let id = text[..text.len() - rest.len()].parse().ok().filter(|id| *id <= ID_MAX);
    id.map(|id| (Some(id), rest)).ok_or(Error::InvalidId)
}

/// Whether the kind may carry `data`, which is valid JSON (table of section I).
pub(super) fn check_shape(kind: Kind, data: &str) -> Result<(), Error> {
    let fits = match (kind, data.as_bytes().first()) {
        (Kind::Connect | Kind::ConnectError, Some(b'{')) => true,
        (Kind::ConnectError, Some(b'"')) => true,
        (Kind::Ack | Kind::BinaryAck, Some(b'[')) => true,
        (Kind::Event | Kind::BinaryEvent, Some(b'[')) => {
            let (name, _) = event_parts(data)?;
            if is_reserved(&name) {
                return Err(Error::ReservedEvent);
            }
            true
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(Error::InvalidPayload) }
}

/// Splits the data of an event, `["name",args...]`, into the name and the raw text of the
/// arguments: no brackets, no leading comma, possibly "".
///
/// The name is a string with its escapes decoded (an unpaired surrogate becomes U+FFFD) or the
/// text of a number (I-7). `data` comes from [`decode`]; other text gives an error or nonsense.
///
/// # Errors
/// [`Error::NoEventName`] for "", the event without data that no listener may see (I-5);
/// [`Error::InvalidPayload`] for a name that is neither string nor number (CVE-2023-32695).
pub fn event_parts(data: &str) -> Result<(Cow<'_, str>, &str), Error> {
    const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];
    if data.is_empty() {
        return Err(Error::NoEventName);
    }
    let inside = data.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let inside = inside.ok_or(Error::InvalidPayload)?.trim_matches(SPACE);
    let (name, rest) = match json::split_string(inside) {
        Some((name, rest)) => (json::unescape(name), rest),
        None => {
            let (name, rest) = json::split_number(inside).ok_or(Error::InvalidPayload)?;
            (Cow::Borrowed(name), rest)
        }
    };
    let rest = rest.trim_start_matches(SPACE);
    Ok((name, rest.strip_prefix(',').unwrap_or("").trim_start_matches(SPACE)))
}

/// Whether the event name belongs to the library (I-6), in both directions.
pub fn is_reserved(event: &str) -> bool {
    matches!(
        event,
        "connect"
            | "connect_error"
            | "disconnect"
            | "disconnecting"
            | "newListener"
            | "removeListener"
    )
}

/// A binary packet whose attachments are still arriving.
#[derive(Debug)]
pub struct Assembly {
    kind: Kind,
    namespace: String,
    id: Option<u64>,
    data: String,
    /// attachments.len() < awaited until complete, then equal.
    awaited: usize,
    attachments: Vec<Bytes>,
    /// Sum of the attachments' lengths, at most [`Limits::attachments_bytes_max`].
    bytes: usize,
}

impl Assembly {
    /// Copies what `packet`, of a binary kind, borrows. The announced count sizes nothing.
    pub fn new(packet: &Packet<'_>) -> Self {
        Assembly {
            kind: packet.kind,
            namespace: packet.namespace.into(),
            id: packet.id,
            data: packet.data.into(),
            awaited: packet.attachments,
            attachments: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes the next attachment; true if it was the last.
    ///
    /// # Errors
    /// [`Error::AttachmentsTooLarge`] if the sum exceeds its limit (I-11: the reference has
    /// none); [`Error::UnexpectedBinary`] if all are here.
    pub fn add(&mut self, attachment: &[u8], limits: &Limits) -> Result<bool, Error> {
        if self.attachments.len() >= self.awaited {
            return Err(Error::UnexpectedBinary);
        }
        let bytes = self.bytes.saturating_add(attachment.len());
        if bytes > limits.attachments_bytes_max {
            return Err(Error::AttachmentsTooLarge);
        }
        self.bytes = bytes;
        self.attachments.push(Bytes::copy_from_slice(attachment));
        Ok(self.attachments.len() == self.awaited)
    }

    /// Bytes of the packet so far.
    pub fn bytes(&self) -> usize {
        self.namespace.len() + self.data.len() + self.bytes
    }

    /// Kind, namespace, ack id, data and attachments.
    pub fn finish(self) -> (Kind, String, Option<u64>, String, Vec<Bytes>) {
        (self.kind, self.namespace, self.id, self.data, self.attachments)
    }
}

/// Appends an event: `2["event",args]`, or `5<attachments>-…` if there are attachments.
///
/// `args` is raw JSON without brackets and may be empty. `namespace` begins with `/` and has no
/// comma; that a name is not reserved is the caller's business ([`is_reserved`]).
pub fn encode_event(
    namespace: &str,
    id: Option<u64>,
    attachments: usize,
    event: &str,
    args: &[u8],
    out: &mut Vec<u8>,
) {
    let kind = if attachments > 0 { Kind::BinaryEvent } else { Kind::Event };
    let comma = usize::from(!args.is_empty());
    let body = 2 + json::string_len(event) + comma + args.len();
    write_header(kind, attachments, namespace, id, body, out);
    out.push(b'[');
    json::write_string(event, out);
    if !args.is_empty() {
        out.push(b',');
        out.extend_from_slice(args);
    }
    out.push(b']');
}

/// Appends an ack: `3<id>[args]`, or `6<attachments>-…`. `args` as in [`encode_event`].
pub fn encode_ack(namespace: &str, id: u64, attachments: usize, args: &[u8], out: &mut Vec<u8>) {
    let kind = if attachments > 0 { Kind::BinaryAck } else { Kind::Ack };
    write_header(kind, attachments, namespace, Some(id), 2 + args.len(), out);
    out.push(b'[');
    out.extend_from_slice(args);
    out.push(b']');
}

/// Appends the answer to a CONNECT (J-6): `0{"sid":"…"}`, with `"pid"` if given.
pub fn encode_connect(namespace: &str, sid: &str, pid: Option<&str>, out: &mut Vec<u8>) {
    let body = 8 + json::string_len(sid) + pid.map_or(0, |pid| 7 + json::string_len(pid));
    write_header(Kind::Connect, 0, namespace, None, body, out);
    out.extend_from_slice(b"{\"sid\":");
    json::write_string(sid, out);
    if let Some(pid) = pid {
        out.extend_from_slice(b",\"pid\":");
        json::write_string(pid, out);
    }
    out.push(b'}');
}

/// Appends a refused CONNECT (J-7): `4{"message":"…"}`, with `"data"` (raw JSON) if given.
pub fn encode_connect_error(namespace: &str, message: &str, data: Option<&str>, out: &mut Vec<u8>) {
    let body = 12 + json::string_len(message) + data.map_or(0, |data| 8 + data.len());
    write_header(Kind::ConnectError, 0, namespace, None, body, out);
    out.extend_from_slice(b"{\"message\":");
    json::write_string(message, out);
    if let Some(data) = data {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(data.as_bytes());
    }
    out.push(b'}');
}

/// Appends the answer to a CONNECT of a Socket.IO 2 client (H-10, H-12): `0`, or `0/chat,`.
pub fn encode_connect_v2(namespace: &str, out: &mut Vec<u8>) {
    write_header(Kind::Connect, 0, namespace, None, 0, out);
}

/// Appends a refused CONNECT for a Socket.IO 2 client (H-13): `4/chat,"why"`. `data` is raw JSON.
pub fn encode_error_v2(namespace: &str, data: &str, out: &mut Vec<u8>) {
    write_header(Kind::ConnectError, 0, namespace, None, data.len(), out);
    out.extend_from_slice(data.as_bytes());
}

/// Appends the end of a namespace (J-15): `1`, or `1/chat,`.
pub fn encode_disconnect(namespace: &str, out: &mut Vec<u8>) {
    write_header(Kind::Disconnect, 0, namespace, None, 0, out);
}

/// Appends all that precedes the JSON, having reserved for that and for `body` bytes more.
fn write_header(
    kind: Kind,
    attachments: usize,
    namespace: &str,
    id: Option<u64>,
    body: usize,
    out: &mut Vec<u8>,
) {
    let count = if kind.is_binary() { decimal_len(attachments as u64) + 1 } else { 0 };
    let path = if namespace == "/" { 0 } else { namespace.len() + 1 };
    out.reserve(1 + count + path + id.map_or(0, decimal_len) + body);
    out.push(b'0' + kind as u8);
    if kind.is_binary() {
        write_decimal(attachments as u64, out);
        out.push(b'-');
    }
    if namespace != "/" {
        out.extend_from_slice(namespace.as_bytes());
        out.push(b',');
    }
    if let Some(id) = id {
        write_decimal(id, out);
    }
}

/// Digits of `number`.
fn decimal_len(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Appends the digits of `number`.
fn write_decimal(mut number: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + decimal_len(number), b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests;
