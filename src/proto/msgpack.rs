//! Socket.IO packets as msgpack (section T): what npm's `socket.io-msgpack-parser` writes and
//! reads, and the MessagePack dialect of its encoder, notepack 2.2.
//!
//! A packet is one binary message: a map of `type`, `data`, `id` and `nsp`. Inside corecast the
//! data is raw JSON and attachments, as for the other parser; `decode` turns a message into that
//! and `encode` turns it back. So a value arrives as `JSON.stringify` would have written it, with
//! bytes as attachments:
//!
//! | msgpack | here |
//! |---|---|
//! | undefined (`d4 00 00`) | no key in a map, `null` in an array |
//! | Date (`d7 00`, milliseconds) | ISO 8601 text; `null` if it is no date |
//! | NaN, infinities | `null` |
//! | -0 | `0` |
//! | integers of 64 bits | all their digits |
//! | bin, ArrayBuffer (`c7`–`c9` with type 0) | an attachment and its placeholder |
//! | a map key that is an integer | text |
//!
//! It trusts no length before the bytes are there, never recurses, and keeps no state.

mod decode;
mod encode;

pub use decode::{Packet, decode};
pub use encode::encode;

use super::packet;

/// Binary values in one packet. They lie in one message, whose size is limited, so this bounds
/// records and not waiting, unlike [`Limits::attachments_max`](crate::options::Limits).
pub const BINARIES_MAX: usize = 1_024;
/// Bytes that one packet may have beyond those of its attachments, because a placeholder names an
/// attachment again and each place gets a copy.
pub const REPEATED_BYTES_MAX: usize = 16 << 20;

/// Lead bytes of the formats, as the specification of MessagePack names them.
mod lead {
    pub const FIXMAP: u8 = 0x80;
    pub const FIXARRAY: u8 = 0x90;
    pub const FIXSTR: u8 = 0xa0;
    pub const NIL: u8 = 0xc0;
    pub const FALSE: u8 = 0xc2;
    pub const TRUE: u8 = 0xc3;
    /// And the two behind it, for lengths of 16 and 32 bits; so for the others below.
    pub const BIN_8: u8 = 0xc4;
    pub const FLOAT_64: u8 = 0xcb;
    pub const UINT_8: u8 = 0xcc;
    pub const INT_8: u8 = 0xd0;
    pub const STR_8: u8 = 0xd9;
    pub const ARRAY_16: u8 = 0xdc;
    pub const MAP_16: u8 = 0xde;
}

/// The rule that a message breaks. `Display` is the reference's own text where it has one; the
/// connection is closed for any of them (I-13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The message ends inside a value, or a length goes beyond its end.
    #[error("message ends inside a value")]
    Truncated,
    /// A byte that begins no value, or an extension that is none of notepack's (T-8).
    #[error("Could not parse")]
    UnknownFormat,
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    InvalidText,
    /// A map key that is neither text nor an integer.
    #[error("invalid map key")]
    InvalidKey,
    /// Bytes behind the packet (T-8).
    #[error("{0} trailing bytes")]
    TrailingBytes(usize),
    /// `type` is no integer of 0 to 4, or the message is no map (T-2).
    #[error("invalid packet type")]
    InvalidType,
    /// `nsp` is no text (T-2).
    #[error("invalid namespace")]
    InvalidNamespace,
    /// What is wrong with the packet itself.
    #[error(transparent)]
    Packet(#[from] packet::Error),
}

#[cfg(test)]
mod tests;
