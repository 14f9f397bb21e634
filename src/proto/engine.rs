//! Engine.IO packets, and polling payloads of revision 4 (spec B-1 … B-3, C-2, A.4).
//!
//! A packet is one ASCII digit and its data; a polling payload is packets joined by `\x1e`; binary
//! messages are websocket binary frames, or `b` and base64 where only text can travel. This file
//! turns one into the other. It knows no session and keeps no state.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Separates the packets of a polling payload.
pub const SEPARATOR: u8 = 0x1e;

/// One decoded packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0`: only ever sent by a server; a client that sends it is ignored like a noop.
    Open,
    /// `1`
    Close,
    /// `2` with its data, `probe` on a transport that is being probed.
    Ping(&'a str),
    /// `3`
    Pong,
    /// `4` with its text.
    Message(&'a str),
    /// `b` with base64, decoded.
    Binary(Cow<'a, [u8]>),
    /// `5`
    Upgrade,
    /// `6`
    Noop,
}

/// The first character is none of `0`–`6` and `b` (B-3, C-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownPacket;

/// Decodes one packet. Allocates for base64 only.
pub fn decode(text: &str) -> Result<Packet<'_>, UnknownPacket> {
    let rest = text.get(1..).unwrap_or_default();
    match text.as_bytes().first() {
        Some(b'0') => Ok(Packet::Open),
        Some(b'1') => Ok(Packet::Close),
        Some(b'2') => Ok(Packet::Ping(rest)),
        Some(b'3') => Ok(Packet::Pong),
        Some(b'4') => Ok(Packet::Message(rest)),
        Some(b'5') => Ok(Packet::Upgrade),
        Some(b'6') => Ok(Packet::Noop),
        Some(b'b') => Ok(Packet::Binary(decode_base64(rest).into())),
        _ => Err(UnknownPacket),
    }
}

/// The packets of a polling payload, in order.
pub fn payload(body: &str) -> impl Iterator<Item = Result<Packet<'_>, UnknownPacket>> {
    body.split(char::from(SEPARATOR)).map(decode)
}

/// Base64 as leniently as the reference reads it (B-3): both alphabets, padding optional, anything
/// else skipped.
pub(super) fn decode_base64(text: &str) -> Vec<u8> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    if let Ok(bytes) = LENIENT.decode(text) {
        return bytes;
    }
    let mut clean: Vec<u8> = text
        .bytes()
        .take_while(|byte| *byte != b'=')
        .filter_map(|byte| match byte {
            b'-' => Some(b'+'),
            b'_' => Some(b'/'),
            b'+' | b'/' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => Some(byte),
            _ => None,
        })
        .collect();
    if clean.len() % 4 == 1 {
        clean.pop();
    }
    LENIENT.decode(&clean).unwrap_or_default()
}

/// Appends a binary message as text: `b` and padded base64 (B-2).
pub fn encode_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'b');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = base64::engine::general_purpose::STANDARD.encode_slice(bytes, &mut out[start..]);
    out.truncate(start + written.unwrap_or(0));
}

/// What a client is told when its session opens.
#[derive(Debug, Clone, Copy)]
pub struct Open<'a> {
    /// Session id, 20 characters.
    pub sid: &'a str,
    /// Whether the client may go on to websocket.
    pub upgrade: bool,
    /// Milliseconds.
    pub ping_interval_ms: u64,
    /// Milliseconds.
    pub ping_timeout_ms: u64,
    /// Bytes.
    pub max_payload: usize,
}

/// Appends the open packet, keys in the order of A.4.
pub fn encode_open(open: &Open<'_>, out: &mut Vec<u8>) {
    let upgrades = if open.upgrade { "\"websocket\"" } else { "" };
    let text = format!(
        "0{{\"sid\":\"{}\",\"upgrades\":[{upgrades}],\"pingInterval\":{},\"pingTimeout\":{},\
         \"maxPayload\":{}}}",
        open.sid, open.ping_interval_ms, open.ping_timeout_ms, open.max_payload
    );
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_type() {
        let table: &[(&str, Result<Packet<'_>, UnknownPacket>)] = &[
            ("0{}", Ok(Packet::Open)),
            ("1", Ok(Packet::Close)),
            ("2", Ok(Packet::Ping(""))),
            ("2probe", Ok(Packet::Ping("probe"))),
            ("3", Ok(Packet::Pong)),
            ("4", Ok(Packet::Message(""))),
            ("4hällo", Ok(Packet::Message("hällo"))),
            ("5", Ok(Packet::Upgrade)),
            ("6", Ok(Packet::Noop)),
            ("bAQID", Ok(Packet::Binary(vec![1, 2, 3].into()))),
            ("bAQIDBA==", Ok(Packet::Binary(vec![1, 2, 3, 4].into()))),
            ("bAQIDBA", Ok(Packet::Binary(vec![1, 2, 3, 4].into()))),
            ("b_-8", Ok(Packet::Binary(vec![255, 239].into()))),
            ("bA Q\nI!D", Ok(Packet::Binary(vec![1, 2, 3].into()))),
            ("b", Ok(Packet::Binary(vec![].into()))),
            ("bA", Ok(Packet::Binary(vec![].into()))),
            ("", Err(UnknownPacket)),
            ("7", Err(UnknownPacket)),
            ("é", Err(UnknownPacket)),
        ];
        for (text, expected) in table {
            assert_eq!(&decode(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_payload_is_delivered_up_to_its_bad_packet() {
        let packets: Vec<_> = payload("4a\u{1e}4b\u{1e}abc").collect();
        assert_eq!(
            packets,
            [Ok(Packet::Message("a")), Ok(Packet::Message("b")), Err(UnknownPacket)]
        );
        assert_eq!(payload("").collect::<Vec<_>>(), [Err(UnknownPacket)]);
    }

    #[test]
    fn base64_round_trip() {
        for len in 0..70u8 {
            let bytes: Vec<u8> = (0..len).collect();
            let mut out = Vec::new();
            encode_base64(&bytes, &mut out);
            let text = String::from_utf8(out).expect("ascii");
            assert_eq!(decode(&text), Ok(Packet::Binary(bytes.into())));
        }
    }

    #[test]
    fn open_packet_has_its_keys_in_order() {
        let mut out = Vec::new();
        let open = Open {
            sid: "lv_VI97HAXpY6yYWAAAB",
            upgrade: true,
            ping_interval_ms: 25_000,
            ping_timeout_ms: 20_000,
            max_payload: 1_000_000,
        };
        encode_open(&open, &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "0{\"sid\":\"lv_VI97HAXpY6yYWAAAB\",\"upgrades\":[\"websocket\"],\
             \"pingInterval\":25000,\"pingTimeout\":20000,\"maxPayload\":1000000}"
        );
    }
}
