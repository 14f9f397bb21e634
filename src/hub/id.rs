//! Session and socket ids: 20 characters that are an address and a secret at once.
//!
//! 15 bytes as base64url: shard (2), slot (4), secret (9, that is 72 bits from a CSPRNG). The
//! address finds the record without a map; the whole value is compared, so it cannot be guessed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The random part of an id.
pub type Secret = [u8; 9];

/// An Engine.IO session id or a Socket.IO socket id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id {
    /// Shard that owns the record.
    pub shard: u16,
    /// Position in that shard's table.
    pub slot: u32,
    /// What makes it unguessable.
    pub secret: Secret,
}

impl Id {
    /// Characters of an id on the wire.
    pub const LEN: usize = 20;

    /// Reads an id; `None` for anything that this server cannot have issued.
    pub fn parse(text: &str) -> Option<Id> {
        if text.len() != Self::LEN {
            return None;
        }
        let mut bytes = [0u8; 15];
        URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let mut secret = [0u8; 9];
        secret.copy_from_slice(&bytes[6..]);
        Some(Id {
            shard: u16::from_be_bytes([bytes[0], bytes[1]]),
            slot: u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]),
            secret,
        })
    }

    /// The characters, without allocating.
    pub fn text(&self) -> IdText {
        let mut bytes = [0u8; 15];
        bytes[..2].copy_from_slice(&self.shard.to_be_bytes());
        bytes[2..6].copy_from_slice(&self.slot.to_be_bytes());
        bytes[6..].copy_from_slice(&self.secret);
        let mut text = [b'A'; Self::LEN];
        // 15 bytes are exactly 20 characters, so this cannot fail.
        let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text);
        IdText(text)
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text().as_str())
    }
}

/// The text of an [`Id`] on the stack.
#[derive(Debug, Clone, Copy)]
pub struct IdText([u8; Id::LEN]);

impl IdText {
    /// The 20 characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The id of a socket as its client and the application see it.
#[derive(Debug, Clone)]
pub enum SocketId {
    /// That of its record.
    Own(IdText),
    /// Of a Socket.IO 2 client: the id of its session, behind the namespace if that is not `/`
    /// (H-11).
    Session(Box<str>),
}

impl SocketId {
    /// The characters: 20, or more for a Socket.IO 2 client.
    pub fn as_str(&self) -> &str {
        match self {
            SocketId::Own(id) => id.as_str(),
            SocketId::Session(id) => id,
        }
    }
}

impl std::fmt::Display for SocketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A source of random bytes.
pub type Fill = Box<dyn FnMut(&mut [u8])>;

/// Hands out secrets from a source of randomness, which it asks for many at a time.
pub struct Secrets {
    fill: Fill,
    pool: [u8; Secrets::POOL],
    /// Bytes of the pool already used.
    used: usize,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// 64 ids per call of the source, which costs a system call.
    const POOL: usize = 64 * 9;

    /// `fill` must write bytes that nobody can predict, outside of tests.
    pub fn new(fill: Fill) -> Secrets {
        Secrets { fill, pool: [0; Self::POOL], used: Self::POOL }
    }

    /// A fresh secret.
    pub fn draw(&mut self) -> Secret {
        if self.used == Self::POOL {
            (self.fill)(&mut self.pool);
            self.used = 0;
        }
        let mut secret = [0u8; 9];
        secret.copy_from_slice(&self.pool[self.used..self.used + 9]);
        // A secret stays in memory once, not twice.
        self.pool[self.used..self.used + 9].fill(0);
        self.used += 9;
        secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id = Id { shard: 258, slot: 70_000, secret: [1, 2, 3, 4, 5, 6, 7, 8, 255] };
        let text = id.to_string();
        assert_eq!(text.len(), 20);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_eq!(Id::parse(&text), Some(id));
    }

    #[test]
    fn foreign_texts_are_no_ids() {
        for text in
            ["", "__proto__", "AAAAAAAAAAAAAAAAAAA=", "AAAAAAAAAAAAAAAAAAA", "é€AAAAAAAAAAAAAAA"]
        {
            assert_eq!(Id::parse(text), None, "{text}");
        }
    }

    #[test]
    fn secrets_are_drawn_once() {
        let mut next = 0u8;
        let mut secrets = Secrets::new(Box::new(move |bytes| {
            bytes.iter_mut().for_each(|byte| {
                next = next.wrapping_add(1);
                *byte = next;
            });
        }));
        let drawn: std::collections::HashSet<_> = (0..200).map(|_| secrets.draw()).collect();
        assert!(drawn.len() > 60, "the pool is refilled, not repeated");
    }
}
