//! RFC 6455 as a server speaks it: the handshake's conditions, frames in, frames out.
//!
//! Owns framing, masks, fragments, UTF-8 and close codes. Bytes come in as the receive buffer and
//! are unmasked there; a message that lies in it whole is handed out from it without a copy, one
//! that crosses its border is collected in a [`Decoder`], which allocates for as long as that
//! takes and no longer:
//!
//! ```text
//! input:  [.. frame ][ frame ][ fra        whole frames: borrowed from the input
//! kept:   fra ──────► Partial ◄──── me ]   the rest: header bytes, then unmasked payload
//! ```
//!
//! Text is checked as it arrives, also inside a frame (section 8.1). Never here: answering pings,
//! the closing handshake's state, inflating (`deflate.rs`; bits of other extensions are errors),
//! client frames.

use std::ops::Range;

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, OpCode};

use crate::options::Limits;
use crate::proto::http::{self, Framing, Head, Method};

/// Longest payload of a control frame (section 5.5).
const CONTROL_MAX: usize = 125;
/// Longest header of a masked frame.
const HEADER_MAX: usize = 14;
/// The bit of a frame's first byte that says that its message is compressed.
const RSV1: u8 = 0x40;
/// Subprotocols that are compared for duplicates; a client offers one or two.
const SUBPROTOCOLS_MAX: usize = 32;

/// A handshake that may be answered with 101.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// Value of `Sec-WebSocket-Accept`.
    pub accept_key: String,
    /// The first subprotocol that the client offers; it is echoed (C-7).
    pub subprotocol: Option<&'a str>,
}

/// Which condition of C-7 and section 4.2.1 a handshake fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeError {
    /// The method is not GET.
    Method,
    /// HTTP/1.0, or not an upgrade to websocket.
    Upgrade,
    /// The request has a body; its bytes would be read as frames.
    Body,
    /// `Sec-WebSocket-Key` is missing, repeated or malformed.
    Key,
    /// `Sec-WebSocket-Version` is neither 13 nor 8.
    Version,
    /// `Sec-WebSocket-Protocol` is malformed.
    Subprotocol,
    /// `Sec-WebSocket-Extensions` is malformed; read only where extensions are on.
    Extensions,
}

impl HandshakeError {
    /// The status to answer with (C-7; for a wrong version 400 too, as `ws` does).
    pub fn status(self) -> u16 {
        match self {
            HandshakeError::Method => 405,
            _ => 400,
        }
    }

    /// The answer has to say `Sec-WebSocket-Version: 13, 8`.
    pub fn names_versions(self) -> bool {
        self == HandshakeError::Version
    }
}

/// Checks that `head` asks for a websocket in a way that may be granted (C-7).
///
/// # Errors
/// [`HandshakeError`] names the first condition that fails.
pub fn check_handshake<'a>(head: &Head<'a>) -> Result<Handshake<'a>, HandshakeError> {
    if head.method != Method::Get {
        return Err(HandshakeError::Method);
    }
    if !head.http11 || !head.upgrade_websocket {
        return Err(HandshakeError::Upgrade);
    }
    if !matches!(head.framing, Framing::None | Framing::Length(0)) {
        return Err(HandshakeError::Body);
    }
    let key = only(head, "sec-websocket-key").filter(|key| is_key(key.as_bytes()));
    let key = key.ok_or(HandshakeError::Key)?;
    if !matches!(only(head, "sec-websocket-version"), Some("13" | "8")) {
        return Err(HandshakeError::Version);
    }
    let subprotocol = first_subprotocol(head)?;
    Ok(Handshake { accept_key: derive_accept_key(key.as_bytes()), subprotocol })
}

/// The value of a field that must not be repeated (section 11.3).
fn only<'a>(head: &Head<'a>, name: &str) -> Option<&'a str> {
    let mut found = head.values(name);
    let value = found.next()?;
    found.next().is_none().then_some(value)
}

/// `^[+/0-9A-Za-z]{22}==$`
fn is_key(key: &[u8]) -> bool {
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(base64)
}

/// A list of different tokens, over all fields of that name.
fn first_subprotocol<'a>(head: &Head<'a>) -> Result<Option<&'a str>, HandshakeError> {
    let lists = head.values("sec-websocket-protocol");
    let mut offered = smallvec::SmallVec::<[&str; 4]>::new();
    for item in lists.flat_map(|list| list.split(',')).map(|item| item.trim_matches([' ', '\t'])) {
        let sound = !item.is_empty() && item.bytes().all(http::is_token);
        if !sound || offered.contains(&item) || offered.len() == SUBPROTOCOLS_MAX {
            return Err(HandshakeError::Subprotocol);
        }
        offered.push(item);
    }
    Ok(offered.first().copied())
}

/// A message or control frame, borrowed from the input or from the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message, valid UTF-8.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// The payload of a compressed message, to be inflated (RFC 7692); a text is not checked yet.
    Deflated {
        /// Whether it is text, binary otherwise.
        is_text: bool,
        /// As `deflate::Inflater` takes it.
        payload: &'a [u8],
    },
    /// To be answered with a pong of the same payload (section 5.5.2).
    Ping(&'a [u8]),
    /// Nothing to do.
    Pong(&'a [u8]),
    /// The peer closes, with a code it may send, or without one, and a reason. Nothing valid
    /// follows.
    Close(Option<u16>, &'a str),
}

/// Which rule the peer's frames break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// A client's frame must be masked (section 5.1).
    UnmaskedFrame,
    /// A reserved bit is set though no extension was agreed on, or where it has no meaning
    /// (section 5.2; RFC 7692, section 6).
    ReservedBits,
    /// Opcode 3–7 or 11–15 (section 5.2).
    ReservedOpcode,
    /// A control frame without FIN (section 5.4).
    FragmentedControl,
    /// A control frame with more than 125 bytes (section 5.5).
    ControlTooLong,
    /// The top bit of a 64-bit length is set (section 5.2).
    LengthTopBit,
    /// A continuation, but nothing to continue (section 5.4).
    UnexpectedContinuation,
    /// A new message before the last fragment of another (section 5.4).
    ExpectedContinuation,
    /// A close frame with half a code (section 5.5.1).
    CloseTooShort,
    /// A close code that must not be sent (section 7.4).
    InvalidCloseCode,
    /// Text or a close reason that is not UTF-8 (section 8.1, C-6).
    InvalidUtf8,
    /// A compressed message that does not inflate.
    InvalidDeflate,
    /// A message longer than `max_http_buffer_size` (C-5).
    TooBig,
    /// A message of more than [`Limits::fragments_max`] fragments (C-8).
    TooManyFragments,
}

impl Error {
    /// The code to close with (C-5, C-6, C-8, section 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Error::InvalidUtf8 | Error::InvalidDeflate => 1007,
            Error::TooManyFragments => 1008,
            Error::TooBig => 1009,
            _ => 1002,
        }
    }
}

/// What a server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A text message.
    Text = 1,
    /// A binary message.
    Binary = 2,
    /// The closing handshake.
    Close = 8,
    /// A ping of the websocket, not of Engine.IO.
    Ping = 9,
    /// The answer to a ping.
    Pong = 10,
}

/// Frames of one client to messages. One pointer while no message is incomplete.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
}

/// A million idle connections pay for what stands here.
const _: () = assert!(size_of::<Decoder>() == 8);

/// What arrived of something incomplete, or a message that was just handed out.
#[derive(Debug)]
struct Partial {
    /// Bytes of a header that is not complete; 0 ≤ header_bytes < HEADER_MAX.
    header: [u8; HEADER_MAX],
    header_bytes: u8,
    /// Payload of the control frame being received; 0 ≤ control_bytes ≤ CONTROL_MAX.
    control_bytes: u8,
    control: [u8; CONTROL_MAX],
    /// The frame whose payload is being received.
    frame: Option<Frame>,
    /// Kind of the message that `data` belongs to, while it is incomplete.
    message: Option<Kind>,
    /// Whether that message is compressed.
    is_deflated: bool,
    /// Unmasked payload of that message so far; at most twice as many bytes are allocated.
    data: Vec<u8>,
    /// `data[..checked]` is UTF-8, the rest is the front of one character. Text only.
    checked: usize,
    /// Frames of that message so far.
    fragments: u32,
    /// What was handed out last and is to be released.
    given: Given,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Nothing,
    Control,
    Message,
}

/// Opcodes of a client, as far as they are not reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Kind {
    fn is_control(self) -> bool {
        matches!(self, Kind::Close | Kind::Ping | Kind::Pong)
    }
}

/// A frame header; while the payload arrives, `left` and `mask` move along with it.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    is_final: bool,
    /// RSV1, which the first frame of a message may have.
    is_deflated: bool,
    /// Bytes of payload to come.
    left: u64,
    /// Rotated so that its first byte masks the next byte of payload.
    mask: [u8; 4],
}

/// Where the next message is.
enum Found {
    Input(Kind, bool, Range<usize>),
    Control(Kind),
    Message(Kind, bool),
}

impl Decoder {
    /// Between two messages.
    pub const fn new() -> Decoder {
        Decoder { partial: None }
    }

    /// Nothing is held, nothing is allocated.
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Bytes of memory held for an incomplete message.
    pub fn buffered(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| size_of::<Partial>() + partial.data.capacity())
    }

    /// The next message or control frame in `input[*at..]`, unmasked in place; moves `at` behind
    /// it. `Ok(None)`: all input is consumed and what was incomplete is kept. To be called until
    /// then, which also releases the memory of a message that was collected.
    ///
    /// # Errors
    /// The rule that was broken; the connection is to be closed with [`Error::close_code`]. The
    /// input counts as consumed, and what later calls return has no meaning.
    pub fn next<'b>(
        &'b mut self,
        input: &'b mut [u8],
        at: &mut usize,
        limits: &Limits,
    ) -> Result<Option<Message<'b>>, Error> {
        self.next_extended(input, at, limits, false)
    }

    /// The same where permessage-deflate was agreed on, if `may_deflate`.
    ///
    /// # Errors
    /// As [`Decoder::next`].
    pub fn next_extended<'b>(
        &'b mut self,
        input: &'b mut [u8],
        at: &mut usize,
        limits: &Limits,
        may_deflate: bool,
    ) -> Result<Option<Message<'b>>, Error> {
        let found = match self.advance(input, at, limits, may_deflate) {
            Ok(found) => found,
            Err(error) => {
                self.partial = None;
                *at = input.len();
                return Err(error);
            }
        };
        let (kind, is_deflated, bytes) = match (found, &self.partial) {
            (Some(Found::Input(kind, deflated, range)), _) => (kind, deflated, &input[range]),
            (Some(Found::Message(kind, deflated)), Some(it)) => (kind, deflated, &it.data[..]),
            (Some(Found::Control(kind)), Some(partial)) => (kind, false, partial.control()),
            _ => return Ok(None),
        };
        if is_deflated {
            let is_text = kind == Kind::Text;
            return Ok(Some(Message::Deflated { is_text, payload: bytes }));
        }
        read_message(kind, bytes).map(Some)
    }

    fn advance(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        limits: &Limits,
        may_deflate: bool,
    ) -> Result<Option<Found>, Error> {
        self.release();
        while *at < input.len() {
            if self.partial.as_ref().is_none_or(|partial| partial.frame.is_none()) {
                let Some(frame) = self.header(input, at, may_deflate)? else {
                    return Ok(None);
                };
                self.check(&frame, limits)?;
                if let Some(range) = self.whole(&frame, input, *at) {
                    unmask(&mut input[range.clone()], frame.mask);
                    *at = range.end;
                    return Ok(Some(Found::Input(frame.kind, frame.is_deflated, range)));
                }
                self.partial().begin(frame);
            }
            if let Some(found) = self.partial().receive(input, at)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Gives back what the last call handed out, and everything once nothing is incomplete.
    fn release(&mut self) {
        let Some(partial) = &mut self.partial else {
            return;
        };
        match partial.given {
            Given::Nothing => {}
            Given::Control => partial.control_bytes = 0,
            Given::Message => partial.message = None,
        }
        partial.given = Given::Nothing;
        if partial.message.is_none() && partial.frame.is_none() && partial.header_bytes == 0 {
            self.partial = None;
        }
    }

    fn partial(&mut self) -> &mut Partial {
        self.partial.get_or_insert_with(Partial::new)
    }

    /// The next frame header, out of the input or out of what was kept and the input.
    fn header(
        &mut self,
        input: &[u8],
        at: &mut usize,
        may_deflate: bool,
    ) -> Result<Option<Frame>, Error> {
        if self.partial.as_ref().is_none_or(|partial| partial.header_bytes == 0)
            && let Some((frame, size)) = parse_header(&input[*at..], may_deflate)?
        {
            *at += size;
            return Ok(Some(frame));
        }
        let partial = self.partial();
        while let Some(byte) = input.get(*at) {
            *at += 1;
            partial.header[usize::from(partial.header_bytes)] = *byte;
            partial.header_bytes += 1;
            let kept = &partial.header[..usize::from(partial.header_bytes)];
            if let Some((frame, _)) = parse_header(kept, may_deflate)? {
                partial.header_bytes = 0;
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Rules between a header and what came before it, and the limits, before a byte is stored.
    fn check(&self, frame: &Frame, limits: &Limits) -> Result<(), Error> {
        if frame.kind.is_control() {
            return Ok(());
        }
        let open = self.partial.as_ref().filter(|partial| partial.message.is_some());
        match (open, frame.kind) {
            (None, Kind::Continuation) => return Err(Error::UnexpectedContinuation),
            (Some(_), Kind::Text | Kind::Binary) => return Err(Error::ExpectedContinuation),
            _ => {}
        }
        let (held, fragments) = open.map_or((0, 0), |it| (it.data.len() as u64, it.fragments));
        let is_deflated = open.map_or(frame.is_deflated, |it| it.is_deflated);
        // What does not compress grows a little (RFC 1951, section 3.2.4).
        let max = limits.message_bytes_max;
        let max = if is_deflated { max + max / 64 + 64 } else { max };
        if frame.left > (max as u64).saturating_sub(held) {
            return Err(Error::TooBig);
        }
        if fragments >= limits.fragments_max {
            return Err(Error::TooManyFragments);
        }
        Ok(())
    }

    /// Where the payload is, if it is all there and a message by itself.
    fn whole(&self, frame: &Frame, input: &[u8], at: usize) -> Option<Range<usize>> {
        let length = usize::try_from(frame.left).ok()?;
        let alone = frame.is_final && frame.kind != Kind::Continuation;
        (alone && length <= input.len() - at).then(|| at..at + length)
    }
}

impl Partial {
    fn new() -> Box<Partial> {
        Box::new(Partial {
            header: [0; HEADER_MAX],
            header_bytes: 0,
            control_bytes: 0,
            control: [0; CONTROL_MAX],
            frame: None,
            message: None,
            is_deflated: false,
            data: Vec::new(),
            checked: 0,
            fragments: 0,
            given: Given::Nothing,
        })
    }

    fn control(&self) -> &[u8] {
        &self.control[..usize::from(self.control_bytes)]
    }

    fn begin(&mut self, frame: Frame) {
        self.frame = Some(frame);
        if frame.kind.is_control() {
            return;
        }
        self.fragments += 1;
        if frame.kind != Kind::Continuation {
            self.is_deflated = frame.is_deflated;
            self.message = Some(frame.kind);
        }
    }

    /// Takes what the input has of the current frame's payload.
    fn receive(&mut self, input: &mut [u8], at: &mut usize) -> Result<Option<Found>, Error> {
        let Some(mut frame) = self.frame else {
            return Ok(None);
        };
        let room = input.len() - *at;
        let taken = usize::try_from(frame.left).map_or(room, |left| left.min(room));
        let bytes = &mut input[*at..*at + taken];
        unmask(bytes, frame.mask);
        *at += taken;
        frame.left -= taken as u64;
        frame.mask.rotate_left(taken % 4);
        if frame.kind.is_control() {
            let start = usize::from(self.control_bytes);
            self.control[start..start + taken].copy_from_slice(bytes);
            self.control_bytes += taken as u8;
        } else {
            self.append(bytes, frame.left)?;
        }
        self.frame = (frame.left > 0).then_some(frame);
        if frame.left > 0 {
            return Ok(None);
        }
        match self.message {
            _ if frame.kind.is_control() => {
                self.given = Given::Control;
                Ok(Some(Found::Control(frame.kind)))
            }
            Some(kind) if frame.is_final => {
                self.given = Given::Message;
                Ok(Some(Found::Message(kind, self.is_deflated)))
            }
            _ => Ok(None),
        }
    }

    /// Appends to the message. Memory follows what arrived, not what was announced: it doubles,
    /// but no further than this frame needs.
    fn append(&mut self, bytes: &[u8], left: u64) -> Result<(), Error> {
        let needed = self.data.len() + bytes.len();
        if needed > self.data.capacity() {
            let to_come = usize::try_from(left).unwrap_or(usize::MAX).min(needed);
            self.data.reserve_exact(bytes.len() + to_come);
        }
        self.data.extend_from_slice(bytes);
        if self.message != Some(Kind::Text) || self.is_deflated {
            return Ok(());
        }
        match simdutf8::compat::from_utf8(&self.data[self.checked..]) {
            Ok(_) => self.checked = self.data.len(),
            // The front of a character, which the next bytes may complete.
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(Error::InvalidUtf8),
        }
        Ok(())
    }
}

/// A masked frame's header and its size; `None` if it is incomplete.
///
/// By hand and not with tungstenite's `FrameHeader::parse`: that reports a wrong first byte only
/// when the whole header is there, accepts a 64-bit length with the top bit set, and returns an
/// error that is neither small nor `Copy`. A length in a longer form than needed is accepted, as
/// `ws` and tungstenite do: it is unambiguous, and the rule of section 5.2 binds the sender.
fn parse_header(bytes: &[u8], may_deflate: bool) -> Result<Option<(Frame, usize)>, Error> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let is_final = first & 0x80 != 0;
    let is_deflated = first & RSV1 != 0;
    if first & 0x30 != 0 || (is_deflated && !may_deflate) {
        return Err(Error::ReservedBits);
    }
    let kind = match first & 0x0F {
        0 => Kind::Continuation,
        1 => Kind::Text,
        2 => Kind::Binary,
        8 => Kind::Close,
        9 => Kind::Ping,
        10 => Kind::Pong,
        _ => return Err(Error::ReservedOpcode),
    };
    if is_deflated && !matches!(kind, Kind::Text | Kind::Binary) {
        return Err(Error::ReservedBits);
    }
    if kind.is_control() && !is_final {
        return Err(Error::FragmentedControl);
    }
    let Some((&second, rest)) = rest.split_first() else {
        return Ok(None);
    };
    if second & 0x80 == 0 {
        return Err(Error::UnmaskedFrame);
    }
    let short = second & 0x7F;
    if kind.is_control() && usize::from(short) > CONTROL_MAX {
        return Err(Error::ControlTooLong);
    }
    let (left, rest, size) = match short {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest, 8),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest, HEADER_MAX),
            None => return Ok(None),
        },
        short => (u64::from(short), rest, 6),
    };
    if left >> 63 != 0 {
        return Err(Error::LengthTopBit);
    }
    match rest.first_chunk() {
        Some(mask) => Ok(Some((Frame { kind, is_final, is_deflated, left, mask: *mask }, size))),
        None => Ok(None),
    }
}

/// Section 5.3, eight bytes at a time; the compiler makes vectors of it.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// The payload of a finished message or control frame.
fn read_message(kind: Kind, bytes: &[u8]) -> Result<Message<'_>, Error> {
    match kind {
        // What was collected has been checked already, but not whether it ends inside a
        // character; without unsafe code the second look is also what makes it a `str`.
        Kind::Text => match simdutf8::basic::from_utf8(bytes) {
            Ok(text) => Ok(Message::Text(text)),
            Err(_) => Err(Error::InvalidUtf8),
        },
        Kind::Binary | Kind::Continuation => Ok(Message::Binary(bytes)),
        Kind::Ping => Ok(Message::Ping(bytes)),
        Kind::Pong => Ok(Message::Pong(bytes)),
        Kind::Close => read_close(bytes).map(|(code, reason)| Message::Close(code, reason)),
    }
}

fn read_close(bytes: &[u8]) -> Result<(Option<u16>, &str), Error> {
    let (code, reason) = match bytes {
        [] => return Ok((None, "")),
        [_] => return Err(Error::CloseTooShort),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !CloseCode::from(code).is_allowed() {
        return Err(Error::InvalidCloseCode);
    }
    match simdutf8::basic::from_utf8(reason) {
        Ok(reason) => Ok((Some(code), reason)),
        Err(_) => Err(Error::InvalidUtf8),
    }
}

/// Appends a whole server frame: FIN, no mask.
pub fn write_frame(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(10 + payload.len());
    write_header(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a whole server frame of a compressed message: FIN, RSV1, no mask.
pub fn write_deflated_frame(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(10 + payload.len());
    let first = out.len();
    write_header(opcode, payload.len(), out);
    out[first] |= RSV1;
    out.extend_from_slice(payload);
}

/// Appends the header of a server frame whose payload of `len` bytes follows.
pub fn write_header(opcode: Opcode, len: usize, out: &mut Vec<u8>) {
    let header = FrameHeader { opcode: OpCode::from(opcode as u8), ..FrameHeader::default() };
    let written = header.format(len as u64, out);
    debug_assert!(written.is_ok(), "writing to a vector cannot fail");
}

/// Appends a close frame, without a reason; without a code the peer sees 1005 (C-3, C-4).
pub fn write_close(code: Option<u16>, out: &mut Vec<u8>) {
    match code {
        Some(code) => write_frame(Opcode::Close, &code.to_be_bytes(), out),
        None => write_frame(Opcode::Close, &[], out),
    }
}

/// Appends a close frame with a reason, of which as many characters are sent as fit.
pub fn write_close_reason(code: u16, reason: &str, out: &mut Vec<u8>) {
    let mut payload = code.to_be_bytes().to_vec();
    let mut utf8 = [0; 4];
    for char in reason.chars() {
        let char = char.encode_utf8(&mut utf8);
        if payload.len() + char.len() > CONTROL_MAX {
            break;
        }
        payload.extend_from_slice(char.as_bytes());
    }
    write_frame(Opcode::Close, &payload, out);
}

#[cfg(test)]
mod tests;
