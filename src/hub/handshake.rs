//! What a client said when it came, kept in one small block and read again when somebody asks.
//!
//! ```text
//! ┌───────────────┬─────────────┬──────────────┬────────────────────┐
//! │ issued, ms: 8 │ 4 or 16: 1  │ IP, port: +2 │ request line, …    │
//! └───────────────┴─────────────┴──────────────┴────────────────────┘
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The request that opened a session. Cheap to clone; may cross threads.
///
/// Headers that only concern the websocket upgrade of the connection are not kept (`Connection`,
/// `Upgrade`, `Sec-WebSocket-*` but the protocol): they are half of a small request.
#[derive(Debug, Clone)]
pub struct Handshake(Arc<[u8]>);

/// Not kept, in lower case.
const DROPPED: [&str; 5] = [
    "connection",
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-extensions",
];

impl Handshake {
    /// Keeps a head that was accepted. `issued_ms` is the time since 1970.
    pub(super) fn new(head: &[u8], address: SocketAddr, issued_ms: u64) -> Handshake {
        let mut bytes = Vec::with_capacity(head.len() + 27);
        bytes.extend_from_slice(&issued_ms.to_le_bytes());
        match address.ip() {
            IpAddr::V4(ip) => {
                bytes.push(4);
                bytes.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.push(16);
                bytes.extend_from_slice(&ip.octets());
            }
        }
        bytes.extend_from_slice(&address.port().to_le_bytes());
        for line in head.split_inclusive(|byte| *byte == b'\n').filter(|line| is_kept(line)) {
            bytes.extend_from_slice(line);
        }
        Handshake(bytes.into())
    }

    /// When the session was opened, in milliseconds since 1970.
    pub fn issued_ms(&self) -> u64 {
        let mut issued = [0; 8];
        issued.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(issued)
    }

    /// Peer of the connection that opened it.
    pub fn address(&self) -> SocketAddr {
        let end = self.head_at() - 2;
        let port = u16::from_le_bytes([self.0[end], self.0[end + 1]]);
        let ip = &self.0[9..end];
        let ip = match <[u8; 4]>::try_from(ip) {
            Ok(ip) => IpAddr::from(ip),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(ip).unwrap_or_default()),
        };
        SocketAddr::new(ip, port)
    }

    /// Request line and headers; parses as a request head.
    pub fn head(&self) -> &[u8] {
        &self.0[self.head_at()..]
    }

    fn head_at(&self) -> usize {
        8 + 1 + usize::from(self.0[8]) + 2
    }
}

fn is_kept(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    !DROPPED.iter().any(|dropped| name.eq_ignore_ascii_case(dropped.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reads_back() {
        let head = b"GET /socket.io/?a=1 HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
                     connection: Upgrade\r\nSec-WebSocket-Key: x\r\nUser-Agent: u:v\r\n\r\n";
        for address in ["127.0.0.1:65535", "[2001:db8::1]:80"] {
            let address: SocketAddr = address.parse().expect("address");
            let kept = Handshake::new(head, address, 1_700_000_000_123);
            assert_eq!(kept.address(), address);
            assert_eq!(kept.issued_ms(), 1_700_000_000_123);
            let expected = b"GET /socket.io/?a=1 HTTP/1.1\r\nHost: h\r\nUser-Agent: u:v\r\n\r\n";
            assert_eq!(kept.head(), expected);
        }
    }
}
