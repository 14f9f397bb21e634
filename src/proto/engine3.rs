//! Engine.IO revision 3, where it differs from revision 4 (spec H): payloads with lengths instead
//! of separators, and a type before the bytes of a binary message.
//!
//! ```text
//! text     10:b4AQIDBA==2:40           length in UTF-16 code units, packet, …
//! binary   01 05 FF 04 01 02 03 04     1 for bytes, 0 for text; digits of the length; 255; packet
//! ```
//!
//! Packets are those of `engine.rs`. It knows no session and keeps no state.

use std::borrow::Cow;

use super::engine::{self, Packet, SEPARATOR};

/// Digits of a length; that of the largest body has as many (H-18, W-19).
const DIGITS_MAX: usize = 10;
/// Ends the digits of a length in a binary payload.
const LENGTH_END: u8 = 255;

/// A length that is none or lies, or a packet of no known type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Decodes one text packet. Allocates for base64 only.
///
/// # Errors
/// [`Malformed`] if the type is none of `0` to `6`, behind a `b` or not.
pub fn decode(text: &str) -> Result<Packet<'_>, Malformed> {
    let Some(rest) = text.strip_prefix('b') else {
        return engine::decode(text).map_err(|_| Malformed);
    };
    match rest.as_bytes().first() {
        Some(b'4') => Ok(Packet::Binary(Cow::Owned(engine::decode_base64(&rest[1..])))),
        Some(b'0'..=b'6') => engine::decode(&rest[..1]).map_err(|_| Malformed),
        _ => Err(Malformed),
    }
}

/// Decodes one binary packet: its first byte is its type (H-6).
///
/// # Errors
/// [`Malformed`] if that is none of 0 to 6 (W-19: the reference drops the packet).
pub fn decode_binary(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    match bytes {
        [4, data @ ..] => Ok(Packet::Binary(Cow::Borrowed(data))),
        [0, ..] => Ok(Packet::Open),
        [1, ..] => Ok(Packet::Close),
        [2, ..] => Ok(Packet::Ping("")),
        [3, ..] => Ok(Packet::Pong),
        [5, ..] => Ok(Packet::Upgrade),
        [6, ..] => Ok(Packet::Noop),
        _ => Err(Malformed),
    }
}

/// The packets of a text payload (H-2, H-3), in order; nothing follows an error. An empty body is
/// one. Items of length 0, which stand for no packet, are passed over. O(body).
pub fn payload(body: &str) -> impl Iterator<Item = Result<Packet<'_>, Malformed>> {
    let mut rest = Some(body);
    items(move || {
        let text = rest.take()?;
        if text.is_empty() && text.as_ptr() != body.as_ptr() {
            return None;
        }
        let (item, behind) = match text_item(text) {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        rest = Some(behind);
        Some(if item.is_empty() { Ok(None) } else { decode(item).map(Some) })
    })
}

/// One item of a binary payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item<'a> {
    /// A text packet; what is no UTF-8, such as half of a surrogate pair, becomes U+FFFD (H-15).
    Text(Cow<'a, str>),
    /// A binary packet.
    Binary(&'a [u8]),
}

impl Item<'_> {
    /// What it says.
    ///
    /// # Errors
    /// [`Malformed`] as for [`decode`] and [`decode_binary`].
    pub fn packet(&self) -> Result<Packet<'_>, Malformed> {
        match self {
            Item::Text(text) => decode(text),
            Item::Binary(bytes) => decode_binary(bytes),
        }
    }
}

/// The items of a binary payload (H-4, H-5), as [`payload`] has them.
pub fn binary_payload(body: &[u8]) -> impl Iterator<Item = Result<Item<'_>, Malformed>> {
    let mut rest = Some(body);
    items(move || {
        let bytes = rest.take()?;
        if bytes.is_empty() && bytes.as_ptr() != body.as_ptr() {
            return None;
        }
        let (is_text, item, behind) = match binary_item(bytes) {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        rest = Some(behind);
        Some(Ok(match (item, is_text) {
            ([], _) => None,
            (text, true) => Some(Item::Text(String::from_utf8_lossy(text))),
            (bytes, false) => Some(Item::Binary(bytes)),
        }))
    })
}

/// Passes over what is no packet, and ends with the first error.
fn items<T>(
    mut next: impl FnMut() -> Option<Result<Option<T>, Malformed>>,
) -> impl Iterator<Item = Result<T, Malformed>> {
    let mut is_over = false;
    std::iter::from_fn(move || {
        while !is_over {
            match next() {
                Some(Ok(Some(item))) => return Some(Ok(item)),
                Some(Ok(None)) => {}
                Some(Err(error)) => {
                    is_over = true;
                    return Some(Err(error));
                }
                None => is_over = true,
            }
        }
        None
    })
}

/// The packet at the front of a text payload and what follows it.
fn text_item(text: &str) -> Result<(&str, &str), Malformed> {
    let digits = text.bytes().take(DIGITS_MAX + 1).take_while(u8::is_ascii_digit).count();
    if digits > DIGITS_MAX || text.as_bytes().get(digits) != Some(&b':') {
        return Err(Malformed);
    }
    let length: u64 = text[..digits].parse().map_err(|_| Malformed)?;
    let rest = &text[digits + 1..];
    let mut left = length;
    let end = rest.char_indices().find_map(|(at, c)| {
        if left == 0 {
            return Some(Ok(at));
        }
        // A length that ends inside of a surrogate pair is none.
        match left.checked_sub(c.len_utf16() as u64) {
            Some(next) => left = next,
            None => return Some(Err(Malformed)),
        }
        None
    });
    match end {
        Some(end) => end.map(|end| rest.split_at(end)),
        None if left == 0 => Ok((rest, "")),
        None => Err(Malformed),
    }
}

/// Whether the item at the front of a binary payload is text, its bytes, and what follows.
fn binary_item(bytes: &[u8]) -> Result<(bool, &[u8], &[u8]), Malformed> {
    let (kind, rest) = bytes.split_first().ok_or(Malformed)?;
    let is_text = match kind {
        0 => true,
        1 => false,
        _ => return Err(Malformed),
    };
    let digits = rest.iter().take(DIGITS_MAX + 1).take_while(|digit| **digit < 10).count();
    if digits == 0 || digits > DIGITS_MAX || rest.get(digits) != Some(&LENGTH_END) {
        return Err(Malformed);
    }
    let length = rest[..digits].iter().fold(0u64, |sum, digit| sum * 10 + u64::from(*digit));
    let rest = &rest[digits + 1..];
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    let (item, behind) = rest.split_at_checked(length).ok_or(Malformed)?;
    Ok((is_text, item, behind))
}

/// Appends a payload of revision 4, written by this server, in the form of revision 3. True if it
/// is the binary form, which a payload with binary messages gets unless the client wants base64
/// (H-4, H-9).
pub fn encode_payload(payload: &[u8], is_base64: bool, out: &mut Vec<u8>) -> bool {
    let packets = || payload.split(|byte| *byte == SEPARATOR);
    let is_binary = !is_base64 && packets().any(|packet| packet.first() == Some(&b'b'));
    out.reserve(payload.len() + 8);
    for packet in packets() {
        match (is_binary, packet.strip_prefix(b"b")) {
            (false, None) => {
                write_length(utf16_len(packet), out);
                out.extend_from_slice(packet);
            }
            (false, Some(base64)) => {
                write_length(base64.len() + 2, out);
                out.extend_from_slice(b"b4");
                out.extend_from_slice(base64);
            }
            (true, None) => {
                write_binary_length(0, packet.len(), out);
                out.extend_from_slice(packet);
            }
            (true, Some(base64)) => {
                let text = std::str::from_utf8(base64).unwrap_or_default();
                let bytes = engine::decode_base64(text);
                write_binary_length(1, bytes.len() + 1, out);
                out.push(4);
                out.extend_from_slice(&bytes);
            }
        }
    }
    is_binary
}

/// Code units, as JavaScript counts them; four bytes of UTF-8 are two of them.
fn utf16_len(text: &[u8]) -> usize {
    text.iter().map(|byte| usize::from(byte & 0xC0 != 0x80) + usize::from(*byte >= 0xF0)).sum()
}

fn write_length(length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b':');
}

fn write_binary_length(kind: u8, length: usize, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(length.to_string().bytes().map(|digit| digit - b'0'));
    out.push(LENGTH_END);
}

/// Appends a binary message as the bytes of one websocket frame (H-6).
pub fn encode_binary(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 1);
    out.push(4);
    out.extend_from_slice(bytes);
}

/// Appends a binary message as text: `b4` and padded base64 (H-9).
pub fn encode_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    engine::encode_base64(bytes, out);
    out.insert(start + 1, b'4');
}

#[cfg(test)]
mod tests;
