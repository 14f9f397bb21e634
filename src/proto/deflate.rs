//! RFC 7692, permessage-deflate, as a server speaks it: the offer is answered, messages are
//! compressed and inflated.
//!
//! ```text
//! Sec-WebSocket-Extensions ─► negotiate ─► Agreed, and the header of the answer
//! message ─► Deflater ─► payload without its last 00 00 ff ff, frame with RSV1
//! payload of RSV1 frames, + 00 00 ff ff ─► Inflater ─► message, up to a bound
//! ```
//!
//! Unless a server is told otherwise it agrees on no context takeover: then a message is compressed
//! alike for everybody with the same window, and nothing is remembered per connection. Never here:
//! framing, who shares what, when compressing is worth it.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::proto::http;

/// What a sync flush ends with; left out on the wire (section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// The same and an empty final block: what every sound payload can be followed by.
const TAIL_AND_END: [u8; 6] = [0x00, 0x00, 0xff, 0xff, 0x03, 0x00];
/// Bytes inflated at once, at first.
const CHUNK: usize = 4 * 1024;
/// Final blocks in one message. A compressor writes one at most (section 7.2.3.4); each costs us
/// a reset.
const ENDS_MAX: usize = 16;
/// Bytes that an [`Inflater`] holds: the largest window, whatever was agreed on, and its tables.
pub const INFLATER_BYTES: usize = 48 * 1024;

/// Bytes that a [`Deflater`] holds: window and chains by its bits, hashes and pending output.
pub const fn deflater_bytes(bits: u8) -> usize {
    (4 << window(bits)) + 200 * 1024
}

/// What a server is willing to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Messages shorter than this are sent as they are, bytes.
    pub threshold: usize,
    /// Largest window of what the server sends; 8 to 15.
    pub server_bits: u8,
    /// Largest window of what clients send, those that can be told; 8 to 15.
    pub client_bits: u8,
    /// 1 (fast) to 9 (small).
    pub level: u8,
    /// Whether a connection may keep its windows from message to message.
    pub context_takeover: bool,
    /// Bytes of windows that connections of one shard may keep.
    pub context_bytes_max: usize,
}

/// What both sides have agreed on, as far as it matters after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Window of what the server sends; 8 to 15.
    pub server_bits: u8,
    /// What the server sends may refer to messages before.
    pub server_takeover: bool,
    /// What the client sends may refer to messages before.
    pub client_takeover: bool,
}

impl Agreed {
    /// Bytes of windows that the connection keeps.
    pub fn context_bytes(self) -> usize {
        let server = if self.server_takeover { deflater_bytes(self.server_bits) } else { 0 };
        server + if self.client_takeover { INFLATER_BYTES } else { 0 }
    }
}

/// The header does not follow its grammar, or permessage-deflate has a parameter twice or with a
/// value that it cannot have; to be answered 400 (C-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Answers the offers in the values of `Sec-WebSocket-Extensions`, first come, first served: what
/// was agreed on and the value of the answer's header. `None`: nothing that we speak, or only with
/// parameters that we do not know (section 7). `may_keep`: there is memory for context takeover.
///
/// # Errors
/// [`Malformed`], also behind an offer that would do.
pub fn negotiate<'a>(
    values: impl Iterator<Item = &'a str>,
    settings: &Settings,
    may_keep: bool,
) -> Result<Option<(Agreed, String)>, Malformed> {
    let mut agreed = None;
    for value in values {
        let mut rest = value;
        loop {
            let offer;
            (offer, rest) = read_extension(rest)?;
            if agreed.is_none() {
                agreed = offer.map(|offer| offer.accept(settings, may_keep));
            }
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None if rest.is_empty() => break,
                None => return Err(Malformed),
            }
        }
    }
    Ok(agreed)
}

/// The parameters of an offer (section 7.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Offer {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// 15 where the client only says that it can be told.
    client_max_window_bits: Option<u8>,
}

impl Offer {
    fn accept(self, settings: &Settings, may_keep: bool) -> (Agreed, String) {
        let may_keep = may_keep && settings.context_takeover;
        let agreed = Agreed {
            server_bits: self.server_max_window_bits.unwrap_or(15).min(settings.server_bits),
            server_takeover: may_keep && !self.server_no_context_takeover,
            client_takeover: may_keep && !self.client_no_context_takeover,
        };
        let mut answer = String::from("permessage-deflate");
        if !agreed.server_takeover {
            answer.push_str("; server_no_context_takeover");
        }
        if !agreed.client_takeover {
            answer.push_str("; client_no_context_takeover");
        }
        if self.server_max_window_bits.is_some() || agreed.server_bits < 15 {
            answer.push_str(&format!("; server_max_window_bits={}", agreed.server_bits));
        }
        // A client that did not offer it would not understand it (section 7.1.2.2).
        let client_bits = self.client_max_window_bits.map(|bits| bits.min(settings.client_bits));
        if let Some(bits) = client_bits.filter(|bits| *bits < 15) {
            answer.push_str(&format!("; client_max_window_bits={bits}"));
        }
        (agreed, answer)
    }

    /// Notes a parameter; false if we do not know it.
    fn set(&mut self, name: &str, value: Option<&str>) -> Result<bool, Malformed> {
        let is_new = match (name, value) {
            ("server_no_context_takeover", None) => {
                !std::mem::replace(&mut self.server_no_context_takeover, true)
            }
            ("client_no_context_takeover", None) => {
                !std::mem::replace(&mut self.client_no_context_takeover, true)
            }
            ("server_max_window_bits", Some(bits)) => {
                self.server_max_window_bits.replace(read_bits(bits)?).is_none()
            }
            ("client_max_window_bits", bits) => {
                let bits = bits.map_or(Ok(15), read_bits)?;
                self.client_max_window_bits.replace(bits).is_none()
            }
            (
                "server_no_context_takeover"
                | "client_no_context_takeover"
                | "server_max_window_bits",
                _,
            ) => false,
            _ => return Ok(false),
        };
        if is_new { Ok(true) } else { Err(Malformed) }
    }
}

/// A number from 8 to 15 without leading zeros.
fn read_bits(text: &str) -> Result<u8, Malformed> {
    match text {
        "8" => Ok(8),
        "9" => Ok(9),
        _ => match text.as_bytes() {
            [b'1', digit @ b'0'..=b'5'] => Ok(10 + digit - b'0'),
            _ => Err(Malformed),
        },
    }
}

/// One extension with its parameters, and what follows it. The offer is `None` if it is of another
/// extension, or has a parameter that we do not know. Names are compared and never looked up, so
/// `constructor` is a name like any other (GHSA-5v72-xg48-5rpm).
fn read_extension(text: &str) -> Result<(Option<Offer>, &str), Malformed> {
    let (name, mut rest) = read_token(text)?;
    let mut is_ours = name == "permessage-deflate";
    let mut offer = Offer::default();
    while let Some(after) = rest.strip_prefix(';') {
        let (name, value);
        (name, rest) = read_token(after)?;
        (value, rest) = match rest.strip_prefix('=') {
            Some(after) => read_value(after).map(|(value, rest)| (Some(value), rest))?,
            None => (None, rest),
        };
        if is_ours {
            is_ours = offer.set(name, value)?;
        }
    }
    Ok((is_ours.then_some(offer), rest))
}

/// A token with the white space around it, and what follows.
fn read_token(text: &str) -> Result<(&str, &str), Malformed> {
    let text = text.trim_start_matches([' ', '\t']);
    let end = text.bytes().position(|byte| !http::is_token(byte)).unwrap_or(text.len());
    let (token, rest) = text.split_at(end);
    match token {
        "" => Err(Malformed),
        _ => Ok((token, rest.trim_start_matches([' ', '\t']))),
    }
}

/// A token, or a token in quotes (RFC 6455, section 9.1); one with escapes is none that we know.
fn read_value(text: &str) -> Result<(&str, &str), Malformed> {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else { return read_token(text) };
    let (value, rest) = quoted.split_once('"').ok_or(Malformed)?;
    if value.is_empty() || !value.bytes().all(http::is_token) {
        return Err(Malformed);
    }
    Ok((value, rest.trim_start_matches([' ', '\t'])))
}

/// Window bits as zlib has them. With 8 it compresses as with 9: it keeps 262 bytes of each window
/// to look ahead, so what it then refers to is 250 bytes back at most.
const fn window(bits: u8) -> u8 {
    if bits < 9 { 9 } else { bits }
}

/// Compresses messages.
#[derive(Debug)]
pub struct Deflater {
    inner: Compress,
}

impl Deflater {
    /// A compressor for a window of 8 to 15 bits and a level of 1 to 9. Allocates
    /// [`deflater_bytes`].
    pub fn new(bits: u8, level: u8) -> Deflater {
        let level = Compression::new(u32::from(level.clamp(1, 9)));
        let inner = Compress::new_with_window_bits(level, false, window(bits.min(15)));
        Deflater { inner }
    }

    /// Forgets the messages before.
    pub fn reset(&mut self) {
        self.inner.reset();
    }

    /// Appends a message to `out` as the payload of a frame with RSV1. False, and nothing
    /// appended, if the compressor fails, after which it is of no use.
    pub fn deflate(&mut self, message: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let mut rest = message;
        loop {
            out.reserve(rest.len() / 2 + 64);
            let before = self.inner.total_in();
            let status = self.inner.compress_vec(rest, out, FlushCompress::Sync);
            rest = &rest[(self.inner.total_in() - before) as usize..];
            match status {
                Ok(_) if out.len() == out.capacity() => {}
                Ok(_) if rest.is_empty() && out[start..].ends_with(&TAIL) => break,
                _ => {
                    out.truncate(start);
                    return false;
                }
            }
        }
        out.truncate(out.len() - TAIL.len());
        if out.len() == start {
            // An empty message is an empty block, whose header must be there (section 7.2.3.6).
            out.push(0);
        }
        true
    }
}

/// Why a message could not be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// It is not DEFLATE, or ends inside a block.
    Corrupt,
    /// It is longer than the bound.
    TooBig,
}

/// Inflates messages, whatever window they were made with.
#[derive(Debug)]
pub struct Inflater {
    inner: Decompress,
}

impl Default for Inflater {
    fn default() -> Self {
        Inflater::new()
    }
}

impl Inflater {
    /// Allocates [`INFLATER_BYTES`].
    pub fn new() -> Inflater {
        Inflater { inner: Decompress::new_with_window_bits(false, 15) }
    }

    /// Forgets the messages before.
    pub fn reset(&mut self) {
        self.inner.reset(false);
    }

    /// Appends the message of a compressed payload to `out`. However small the payload, no more
    /// than `max` bytes and as many again are allocated. With `keep`, later messages may refer to
    /// this one; without, the inflater is as new afterwards.
    ///
    /// # Errors
    /// [`Error::TooBig`] once more than `max` bytes have come out, [`Error::Corrupt`]; the inflater
    /// is to be reset then, and `out` holds no message.
    pub fn inflate(
        &mut self,
        payload: &[u8],
        max: usize,
        keep: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if payload.is_empty() {
            // Some compressors leave even the header of an empty message out.
            return Ok(());
        }
        let max = out.len() + max;
        if self.feed(payload, max, out)? {
            return Ok(());
        }
        let (end, tail) = (out.len(), if keep { &TAIL[..] } else { &TAIL_AND_END });
        // A payload that ends inside a block would take the tail for data.
        let is_ended = self.feed(tail, max, out)?;
        if is_ended == keep || out.len() != end { Err(Error::Corrupt) } else { Ok(()) }
    }

    /// Feeds all of `input`; true if a final block was the last thing in it.
    fn feed(&mut self, input: &[u8], max: usize, out: &mut Vec<u8>) -> Result<bool, Error> {
        let (mut rest, mut ends) = (input, 0);
        loop {
            // One byte more than allowed, to see that there is more.
            let room = (max + 1 - out.len()).min(CHUNK.max(out.len()));
            out.reserve_exact(room);
            let (taken, given) = (self.inner.total_in(), out.len());
            let status = self.inner.decompress_vec(rest, out, FlushDecompress::Sync);
            let taken = (self.inner.total_in() - taken) as usize;
            rest = &rest[taken..];
            if out.len() > max {
                return Err(Error::TooBig);
            }
            match status {
                Ok(Status::StreamEnd) => {
                    ends += 1;
                    self.reset();
                    if rest.is_empty() {
                        return Ok(true);
                    }
                    if ends == ENDS_MAX {
                        return Err(Error::Corrupt);
                    }
                }
                // The output is full, so there may be more of it.
                Ok(_) if out.len() == out.capacity() => {}
                Ok(_) if rest.is_empty() => return Ok(false),
                Ok(_) if taken > 0 || out.len() > given => {}
                _ => return Err(Error::Corrupt),
            }
        }
    }
}

#[cfg(test)]
mod tests;
