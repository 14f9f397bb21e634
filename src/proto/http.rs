//! HTTP/1.1 as a server reads and writes it: request heads, bodies, queries, response heads.
//!
//! Owns the rules of RFC 9112 (message syntax) and the parts of RFC 9110 that decide where a
//! message ends. Bytes come in as slices of the caller's buffer; a [`Head`] borrows from it, a
//! [`Body`] appends to the caller's vector. `httparse` reads the header fields, the policy on top
//! is ours and strict: whatever two parsers could read differently is refused, because the
//! connection behind a proxy would then carry requests that the proxy never saw.
//!
//! A prefix of a request is `Ok(None)` or already the error of the whole: the checks run in the
//! order of the bytes. Never here: clock, socket, allocation while a head is parsed, routing.

use std::borrow::Cow;

use crate::options::Limits;

/// Longest method that is read; the registry's longest has 17 bytes.
const METHOD_MAX: usize = 32;
/// `HTTP/1.1` and the line end.
const VERSION_LINE: usize = 10;
/// Chunk extensions of one body, in bytes. Nobody uses them, so nobody may send many.
const EXTENSIONS_MAX: u32 = 4_096;
/// Trailer section of one body, in bytes.
const TRAILERS_MAX: u32 = 8_192;
/// Hexadecimal digits of a chunk size: a `u64`.
const CHUNK_DIGITS_MAX: u8 = 16;

/// What a server answers to `Expect: 100-continue` before the body (RFC 9110 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The methods that Socket.IO tells apart (A.2, B-14). Names are case-sensitive (RFC 9110 9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `OPTIONS`
    Options,
    /// `HEAD`
    Head,
    /// Any other token.
    Other,
}

/// How the end of the body is found (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Which rule a request breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The method is no token, or something else stands before it.
    Method,
    /// The method is longer than any that exists.
    MethodTooLong,
    /// Not `method SP target SP version CRLF` (RFC 9112 3).
    RequestLine,
    /// The target is neither origin-form nor absolute-form, or has a byte that no URL has.
    Target,
    /// The target is longer than half of what a head may have.
    TargetTooLong,
    /// A version other than 1.0 and 1.1 (W-23).
    Version,
    /// A line ends with LF alone.
    BareLineFeed,
    /// A field name is no token, has space before or behind it, or is missing.
    HeaderName,
    /// A control byte, NUL or bare CR in a field value (W-8).
    HeaderValue,
    /// More fields than `max_headers`.
    TooManyHeaders,
    /// The head is longer than `max_head_bytes`.
    HeadTooLarge,
    /// No `Host`, two of them, or one that is no host (RFC 9112 3.2).
    Host,
    /// `Content-Length` is repeated or is not a number.
    ContentLength,
    /// `Content-Length` and `Transfer-Encoding` in one request.
    LengthAndCoding,
    /// `Transfer-Encoding` is malformed, repeated, or `chunked` is not last.
    TransferEncoding,
    /// A transfer coding other than `chunked`.
    UnknownCoding,
    /// A chunk size is missing, not hexadecimal, or too large for any computer.
    ChunkSize,
    /// A chunk extension is malformed, or there are too many.
    ChunkExtension,
    /// A chunk is not followed by CRLF.
    ChunkEnd,
    /// The trailer section is malformed or too long.
    Trailer,
    /// The body is longer than `max_http_buffer_size` (B-11).
    BodyTooLarge,
}

impl Error {
    /// The status that the peer is answered with; the connection closes behind it.
    pub fn status(self) -> u16 {
        match self {
            Error::BodyTooLarge => 413,
            Error::TargetTooLong => 414,
            Error::TooManyHeaders | Error::HeadTooLarge => 431,
            Error::UnknownCoding | Error::MethodTooLong => 501,
            Error::Version => 505,
            _ => 400,
        }
    }
}

/// A request head, borrowed from the receive buffer.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The method.
    pub method: Method,
    /// The target as it was sent, in origin-form or absolute-form.
    pub target: &'a str,
    /// The path of the target, `/` at least; not decoded, not normalised.
    pub path: &'a str,
    /// What follows the first `?` of the target, without it; not decoded.
    pub query: &'a str,
    /// HTTP/1.1; otherwise HTTP/1.0.
    pub http11: bool,
    /// The connection may serve another request. False for HTTP/1.0, always: such a client reads
    /// to the end of the connection unless it is told otherwise.
    pub keep_alive: bool,
    /// Where the body ends.
    pub framing: Framing,
    /// The client waits for [`CONTINUE`] before it sends the body.
    pub expect_continue: bool,
    /// `Upgrade: websocket` and `Connection: upgrade` (RFC 6455 4.2.1).
    pub upgrade_websocket: bool,
    /// Any `Upgrade` and `Connection: upgrade`.
    pub upgrade: bool,
    /// The field lines with their CRLF, checked; the empty line is not part of it.
    fields: &'a [u8],
}

impl<'a> Head<'a> {
    /// The first field of that name, in any case. A value that is not UTF-8 is passed over.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.values(name).next()
    }

    /// All fields of that name, in any case and in order, without values that are not UTF-8.
    pub fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.fields
            .split_inclusive(|byte| *byte == b'\n')
            .filter_map(move |line| {
                // The name first, as most lines are others.
                let (found, value) = line.split_at_checked(name.len())?;
                let value = value.strip_prefix(b":")?;
                found.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
            })
            .filter_map(|value| std::str::from_utf8(trim(value)).ok())
    }

    /// All fields in order, names as they were sent, without values that are not UTF-8.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.fields.split_inclusive(|byte| *byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = std::str::from_utf8(&line[..colon]).ok()?;
            let value = std::str::from_utf8(trim(&line[colon + 1..])).ok()?;
            Some((name, value))
        })
    }
}

/// Reads a request head from the front of `buf`; `Ok(None)` if it is not all there yet. The
/// number is the bytes of the head, empty lines before it included (RFC 9112 2.2).
///
/// May be called again whenever `buf` has grown. Until the last line is there, a call only looks
/// for line ends, 64 bytes at a time, so a head sent byte by byte costs about what its packets
/// cost the kernel.
///
/// # Errors
/// [`Error`] names the rule; [`Error::status`] is what to answer.
pub fn parse_head<'a>(buf: &'a [u8], limits: &Limits) -> Result<Option<(Head<'a>, usize)>, Error> {
    let window = &buf[..buf.len().min(limits.head_bytes_max)];
    match parse_window(window, limits)? {
        None if buf.len() >= limits.head_bytes_max => Err(Error::HeadTooLarge),
        found => Ok(found),
    }
}

fn parse_window<'a>(window: &'a [u8], limits: &Limits) -> Result<Option<(Head<'a>, usize)>, Error> {
    let empty = empty_lines(window);
    let Some(line) = RequestLine::parse(&window[empty..], limits.head_bytes_max / 2)? else {
        return Ok(None);
    };
    let block = &window[empty + line.size..];
    let Some(end) = block_end(block, limits.headers_max)? else {
        return Ok(None);
    };
    let facts = Facts::read(&block[..end], limits.headers_max)?;
    let framing = facts.framing(line.http11)?;
    let (path, query) = split_target(line.target)?;
    let upgrade = line.http11 && facts.upgrade && facts.connection_upgrade;
    let head = Head {
        method: line.method,
        target: line.target,
        path,
        query,
        http11: line.http11,
        keep_alive: line.http11 && !facts.close,
        framing,
        // HTTP/1.0 knows no interim responses (RFC 9110 10.1.1).
        expect_continue: line.http11 && facts.expect_continue,
        upgrade_websocket: upgrade && facts.upgrade_websocket,
        upgrade,
        fields: &block[..end - 2],
    };
    Ok(Some((head, empty + line.size + end)))
}

/// Bytes of empty lines at the front: some clients send one behind a POST body.
fn empty_lines(window: &[u8]) -> usize {
    window.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count() * 2
}

/// Length of the field lines and the empty line, `None` if that line has not come.
///
/// Counts the lines: a head of nothing but short lines, sent byte by byte, would have thousands of
/// them looked at for every byte.
fn block_end(block: &[u8], headers_max: usize) -> Result<Option<usize>, Error> {
    let mut line = 0;
    let mut fields = 0;
    while let Some(length) = find_lf(&block[line..]) {
        let lf = line + length;
        if length == 0 || block[lf - 1] != b'\r' {
            return Err(Error::BareLineFeed);
        }
        if length == 1 {
            return Ok(Some(lf + 1));
        }
        fields += 1;
        if fields > headers_max.min(Limits::HEADERS) {
            return Err(Error::TooManyHeaders);
        }
        line = lf + 1;
    }
    Ok(None)
}

fn find_lf(bytes: &[u8]) -> Option<usize> {
    let mut passed = 0;
    for block in bytes.chunks(64) {
        // No early exit, so that the compiler makes vector compares of it.
        if block.iter().fold(false, |found, byte| found | (*byte == b'\n')) {
            return block.iter().position(|byte| *byte == b'\n').map(|at| passed + at);
        }
        passed += block.len();
    }
    None
}

struct RequestLine<'a> {
    method: Method,
    target: &'a str,
    http11: bool,
    /// Bytes of the line, CRLF included.
    size: usize,
}

impl<'a> RequestLine<'a> {
    /// By hand: httparse takes LF for a line end, any byte above 0x7F in a target, and has one
    /// error for a malformed and for an unsupported version.
    fn parse(bytes: &'a [u8], target_max: usize) -> Result<Option<Self>, Error> {
        let method = run(bytes, METHOD_MAX, is_token).ok_or(Error::MethodTooLong)?;
        match bytes.get(method.len()) {
            // A lone CR may be the front of one more empty line.
            Some(b'\r') if bytes.len() == 1 => return Ok(None),
            None => return Ok(None),
            Some(b' ') if !method.is_empty() => {}
            Some(_) => return Err(Error::Method),
        }
        let rest = &bytes[method.len() + 1..];
        let target = run(rest, target_max, |byte| byte > b' ').ok_or(Error::TargetTooLong)?;
        match rest.get(target.len()) {
            None => return Ok(None),
            Some(b' ') if !target.is_empty() => {}
            Some(_) => return Err(Error::RequestLine),
        }
        let Some(http11) = parse_version(&rest[target.len() + 1..])? else {
            return Ok(None);
        };
        let graphic = |byte: &u8| byte.is_ascii_graphic() && *byte != b'#';
        let target = match std::str::from_utf8(target) {
            Ok(target) if target.as_bytes().iter().all(graphic) => target,
            _ => return Err(Error::Target),
        };
        let size = method.len() + 1 + target.len() + 1 + VERSION_LINE;
        let method = match method {
            b"GET" => Method::Get,
            b"POST" => Method::Post,
            b"OPTIONS" => Method::Options,
            b"HEAD" => Method::Head,
            _ => Method::Other,
        };
        Ok(Some(RequestLine { method, target, http11, size }))
    }
}

/// The bytes at the front that `matches`, `None` if they are more than `max`.
fn run(bytes: &[u8], max: usize, matches: impl Fn(u8) -> bool) -> Option<&[u8]> {
    let length = bytes.iter().take(max + 1).take_while(|byte| matches(**byte)).count();
    (length <= max).then(|| &bytes[..length])
}

/// `HTTP/1.1` CRLF: whether it is 1.1 rather than 1.0, `None` if it is incomplete.
fn parse_version(bytes: &[u8]) -> Result<Option<bool>, Error> {
    let line = &bytes[..bytes.len().min(VERSION_LINE)];
    match line.iter().position(|byte| *byte == b'\n') {
        None if line.len() < VERSION_LINE => return Ok(None),
        None => return Err(Error::RequestLine),
        Some(lf) if lf == 0 || line[lf - 1] != b'\r' => return Err(Error::BareLineFeed),
        Some(_) => {}
    }
    match line {
        b"HTTP/1.1\r\n" => Ok(Some(true)),
        b"HTTP/1.0\r\n" => Ok(Some(false)),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b'\r', b'\n']
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Error::Version)
        }
        _ => Err(Error::RequestLine),
    }
}

/// Path and query of an origin-form or absolute-form target (RFC 9112 3.2).
fn split_target(target: &str) -> Result<(&str, &str), Error> {
    let local = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://").ok_or(Error::Target)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(Error::Target);
        }
        let authority = rest.find(['/', '?']).unwrap_or(rest.len());
        if !is_host(&rest.as_bytes()[..authority]) {
            return Err(Error::Target);
        }
        &rest[authority..]
    };
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    Ok((if path.is_empty() { "/" } else { path }, query))
}

/// What the fields say about the message; everything else is looked up when it is wanted.
#[derive(Default)]
struct Facts {
    host: bool,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    connection_upgrade: bool,
    upgrade: bool,
    upgrade_websocket: bool,
    expect_continue: bool,
}

impl Facts {
    /// `block` is complete and has no bare LF.
    fn read(block: &[u8], headers_max: usize) -> Result<Facts, Error> {
        let mut storage = [httparse::EMPTY_HEADER; Limits::HEADERS];
        let room = &mut storage[..headers_max.min(Limits::HEADERS)];
        let headers = match httparse::parse_headers(block, room) {
            Ok(httparse::Status::Complete((size, headers))) if size == block.len() => headers,
            Ok(_) => return Err(Error::HeaderName),
            Err(httparse::Error::TooManyHeaders) => return Err(Error::TooManyHeaders),
            Err(httparse::Error::HeaderName) => return Err(Error::HeaderName),
            Err(_) => return Err(Error::HeaderValue),
        };
        let mut facts = Facts::default();
        for header in headers {
            facts.take(header.name, trim(header.value))?;
        }
        Ok(facts)
    }

    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), Error> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("host") {
            if self.host || !is_host(value) {
                return Err(Error::Host);
            }
            self.host = true;
        } else if is("content-length") {
            if self.length.is_some() {
                return Err(Error::ContentLength);
            }
            self.length = Some(parse_length(value)?);
        } else if is("transfer-encoding") {
            if self.chunked {
                return Err(Error::TransferEncoding);
            }
            check_coding(value)?;
            self.chunked = true;
        } else if is("connection") {
            self.close |= has_token(value, b"close");
            self.connection_upgrade |= has_token(value, b"upgrade");
        } else if is("upgrade") {
            self.upgrade |= !value.is_empty();
            self.upgrade_websocket |= has_token(value, b"websocket");
        } else if is("expect") {
            self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
        }
        Ok(())
    }

    fn framing(&self, http11: bool) -> Result<Framing, Error> {
        if http11 && !self.host {
            return Err(Error::Host);
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Error::LengthAndCoding),
            // A server that only knows 1.0 would not see where the body ends (RFC 9112 6.1).
            (true, None) if !http11 => Err(Error::TransferEncoding),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(Framing::None),
        }
    }
}

fn parse_length(value: &[u8]) -> Result<u64, Error> {
    if value.is_empty() {
        return Err(Error::ContentLength);
    }
    value.iter().try_fold(0u64, |length, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
        digit
            .and_then(|digit| length.checked_mul(10)?.checked_add(digit))
            .ok_or(Error::ContentLength)
    })
}

/// Only `chunked` and nothing else. An unknown coding is refused as such (501) if the list is
/// otherwise sound; a list that another parser could cut differently is malformed (400).
fn check_coding(value: &[u8]) -> Result<(), Error> {
    let mut unknown = false;
    let mut chunked = false;
    for coding in value.split(|byte| *byte == b',').map(trim) {
        if chunked || coding.is_empty() || !coding.iter().all(|byte| is_token(*byte)) {
            return Err(Error::TransferEncoding);
        }
        chunked = coding.eq_ignore_ascii_case(b"chunked");
        unknown |= !chunked;
    }
    if unknown { Err(Error::UnknownCoding) } else { Ok(()) }
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| trim(item).eq_ignore_ascii_case(token))
}

/// `uri-host [ ":" port ]` (RFC 9110 7.2, RFC 3986 3.2.2), not empty, without user information.
/// A comma is refused although RFC 3986 has it: it is what two joined `Host` fields look like.
fn is_host(value: &[u8]) -> bool {
    let (name, port) = match value {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else {
                return false;
            };
            let address = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            if end == 0 || !rest[..end].iter().all(address) {
                return false;
            }
            (None, &rest[end + 1..])
        }
        _ => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            (Some(&value[..end]), &value[end..])
        }
    };
    let port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit) && digits.len() <= 5,
        _ => false,
    };
    port && name.is_none_or(is_registered_name)
}

fn is_registered_name(name: &[u8]) -> bool {
    let sound = |(at, byte): (usize, &u8)| match byte {
        b'%' => name.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
        b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' => true,
        b'*' | b'+' | b';' | b'=' => true,
        byte => byte.is_ascii_alphanumeric(),
    };
    !name.is_empty() && name.iter().enumerate().all(sound)
}

/// Token characters (RFC 9110 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Without optional white space and line end at both ends.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\r' | b'\n'] = value {
        value = rest;
    }
    value
}

/// Reads the body of one request, in pieces of any size.
#[derive(Debug, Clone, Copy)]
pub struct Body {
    state: State,
    /// Bytes that may still be appended.
    room: u64,
    /// Bytes of chunk extensions and trailers so far.
    extensions: u32,
    trailers: u32,
}

/// Where in the body the next byte stands. The chunked states follow RFC 9112 7.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This many bytes of a body with a length.
    Length(u64),
    /// The digits of a chunk size; `digits` were read.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind `;`.
    Extension {
        size: u64,
        part: Extension,
    },
    /// The LF of the chunk size's line.
    SizeLf {
        size: u64,
    },
    /// This many bytes of a chunk, at least 1.
    Data(u64),
    /// The CRLF behind a chunk.
    DataCr,
    DataLf,
    /// The first byte of a line of the trailer section.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    /// The LF of the empty line that ends the body.
    EndLf,
    Done,
    Failed(Error),
}

/// Where in `;name=value` or `;name="value"` (RFC 9112 7.1.1). Read by its grammar, because what
/// one parser takes for an extension another may take for data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extension {
    Start,
    Name,
    ValueStart,
    Value,
    Quoted,
    Escaped,
    Closed,
}

impl Body {
    /// For a request framed so; more than `limit` bytes are an error.
    pub fn new(framing: Framing, limit: usize) -> Body {
        let room = limit as u64;
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) if length > room => State::Failed(Error::BodyTooLarge),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
        };
        Body { state, room, extensions: 0, trailers: 0 }
    }

    /// The whole body has been decoded; what follows is the next request.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Appends decoded bytes to `out` and returns how many of `input` belong to the body.
    ///
    /// # Errors
    /// A body that is too large fails as soon as its length, or that of the chunk, is known, and
    /// any error stays: every later call returns it again.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Error> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            match self.state {
                State::Failed(error) => return Err(error),
                State::Length(left) => {
                    let taken = take(&input[at..], left, out);
                    at += taken;
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                }
                State::Data(left) => {
                    let taken = take(&input[at..], left, out);
                    at += taken;
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                }
                _ => {
                    self.state = self.step(input[at]).unwrap_or_else(State::Failed);
                    at += 1;
                }
            }
        }
        match self.state {
            State::Failed(error) => Err(error),
            _ => Ok(at),
        }
    }

    /// The state behind one byte of chunked framing.
    fn step(&mut self, byte: u8) -> Result<State, Error> {
        let next = match (self.state, byte) {
            (State::Size { size, digits }, byte) => self.size(size, digits, byte)?,
            (State::Extension { size, part }, byte) => self.extension(size, part, byte)?,
            (State::SizeLf { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeLf { size }, b'\n') => self.chunk(size)?,
            (State::SizeLf { .. }, _) => return Err(Error::ChunkSize),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::DataCr | State::DataLf, _) => return Err(Error::ChunkEnd),
            (State::EndLf, b'\n') => State::Done,
            (state, byte) => self.trailer(state, byte)?,
        };
        Ok(next)
    }

    /// Space behind the digits is refused although RFC 9112 7.1.1 has some before `;`: parsers
    /// disagree about it, and no client sends it.
    fn size(&self, size: u64, digits: u8, byte: u8) -> Result<State, Error> {
        match byte {
            b'\r' if digits > 0 => Ok(State::SizeLf { size }),
            b';' if digits > 0 => Ok(State::Extension { size, part: Extension::Start }),
            _ if digits == CHUNK_DIGITS_MAX => Err(Error::ChunkSize),
            _ => {
                let digit = (byte as char).to_digit(16).ok_or(Error::ChunkSize)?;
                Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
            }
        }
    }

    fn extension(&mut self, size: u64, part: Extension, byte: u8) -> Result<State, Error> {
        self.extensions += 1;
        if self.extensions > EXTENSIONS_MAX {
            return Err(Error::ChunkExtension);
        }
        let part = match (part, byte) {
            (Extension::Name | Extension::Value | Extension::Closed, b'\r') => {
                return Ok(State::SizeLf { size });
            }
            (Extension::Name | Extension::Value | Extension::Closed, b';') => Extension::Start,
            (Extension::Start, b' ' | b'\t') => Extension::Start,
            (Extension::Start | Extension::Name, byte) if is_token(byte) => Extension::Name,
            (Extension::Name, b'=') => Extension::ValueStart,
            (Extension::ValueStart, b'"') => Extension::Quoted,
            (Extension::ValueStart | Extension::Value, byte) if is_token(byte) => Extension::Value,
            (Extension::Quoted, b'"') => Extension::Closed,
            (Extension::Quoted, b'\\') => Extension::Escaped,
            (Extension::Quoted | Extension::Escaped, byte) if is_text(byte) => Extension::Quoted,
            _ => return Err(Error::ChunkExtension),
        };
        Ok(State::Extension { size, part })
    }

    /// A chunk is counted before a byte of it is stored.
    fn chunk(&mut self, size: u64) -> Result<State, Error> {
        self.room = self.room.checked_sub(size).ok_or(Error::BodyTooLarge)?;
        Ok(State::Data(size))
    }

    /// Trailer fields are checked for their form and dropped: merging them would let a client
    /// add fields that were already acted upon (RFC 9110 6.5.1).
    fn trailer(&mut self, state: State, byte: u8) -> Result<State, Error> {
        self.trailers += 1;
        if self.trailers > TRAILERS_MAX {
            return Err(Error::Trailer);
        }
        match (state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerStart | State::TrailerName, byte) if is_token(byte) => {
                Ok(State::TrailerName)
            }
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, byte) if is_text(byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            _ => Err(Error::Trailer),
        }
    }
}

/// Appends at most `left` bytes of `input`.
fn take(input: &[u8], left: u64, out: &mut Vec<u8>) -> usize {
    let taken = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    out.extend_from_slice(&input[..taken]);
    taken
}

/// What may stand in a field value (RFC 9110 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7F)
}

/// The value of `name` in a query; the last one if there are several (A.2).
pub fn query_value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query_pairs(query).filter(|(found, _)| found == name).last().map(|(_, value)| value)
}

/// The pairs of a query as `URLSearchParams` reads them: `+` is a space, what is no valid escape
/// stays, what is no UTF-8 becomes U+FFFD, empty parts are passed over.
pub fn query_pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decode_component(name), decode_component(value))
    })
}

fn decode_component(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let hex = |at: usize| tail.get(at).and_then(|digit| (*digit as char).to_digit(16));
        rest = tail;
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            (b'+', ..) => decoded.push(b' '),
            _ => decoded.push(*byte),
        }
    }
    match String::from_utf8(decoded) {
        Ok(text) => Cow::Owned(text),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

/// A response, written by [`write_response`].
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// Status; the reason phrase follows from it.
    pub status: u16,
    /// `Content-Type`, if there is a body.
    pub content_type: Option<&'a str>,
    /// More fields, in this order.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body; `Content-Length` follows from it.
    pub body: &'a [u8],
    /// False adds `Connection: close`.
    pub keep_alive: bool,
    /// The answer to HEAD: all fields, no body.
    pub head_only: bool,
}

/// Appends a whole response. 1xx, 204 and 304 have neither `Content-Length` nor body
/// (RFC 9110 8.6). A control byte in a value is written as a space: no value ends a line.
pub fn write_response(response: &Response<'_>, out: &mut Vec<u8>) {
    let fields: usize = response.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let body = if response.head_only { 0 } else { response.body.len() };
    out.reserve(160 + fields + response.headers.len() * 4 + body);
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(usize::from(response.status), out);
    out.push(b' ');
    out.extend_from_slice(reason_phrase(response.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if let Some(content_type) = response.content_type {
        write_field("Content-Type", content_type, out);
    }
    for (name, value) in response.headers {
        write_field(name, value, out);
    }
    let has_body = !matches!(response.status, 100..=199 | 204 | 304);
    if has_body {
        out.extend_from_slice(b"Content-Length: ");
        write_number(response.body.len(), out);
        out.extend_from_slice(b"\r\n");
    }
    if !response.keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if has_body && !response.head_only {
        out.extend_from_slice(response.body);
    }
}

/// Appends the 101 that ends HTTP on this connection (RFC 6455 4.2.2), with more fields.
pub fn write_upgrade(
    accept_key: &str,
    subprotocol: Option<&str>,
    headers: &[(&str, &str)],
    out: &mut Vec<u8>,
) {
    out.reserve(192);
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    out.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\n");
    write_field("Sec-WebSocket-Accept", accept_key, out);
    if let Some(subprotocol) = subprotocol {
        write_field("Sec-WebSocket-Protocol", subprotocol, out);
    }
    for (name, value) in headers {
        write_field(name, value, out);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|byte| if is_text(byte) { byte } else { b' ' }));
    out.extend_from_slice(b"\r\n");
}

fn write_number(number: usize, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut left = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The phrase of RFC 9110 15 for the statuses that a server like this sends; otherwise empty,
/// which the grammar allows.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
