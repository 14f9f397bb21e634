//! What a client said when it came, kept with its session and put together when somebody asks.
//!
//! Thousands of clients of one kind send the same lines but for a few. The lines that are alike are
//! kept once for all of them, with a hole wherever a client has a line of its own:
//!
//! ```text
//!  common:  GET /socket.io/?EIO=4&transport=websocket HTTP/1.1 │ Host: … │ ○ │ User-Agent: …
//!  own:                                           Cookie: session=… ──────┘
//! ```

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use super::slab::Slab;

/// The request that opened a session. Cheap to clone; may cross threads.
///
/// Headers that only concern the websocket upgrade of the connection are not kept (`Connection`,
/// `Upgrade`, `Sec-WebSocket-*` but the protocol): they are half of a small request.
#[derive(Debug, Clone)]
pub struct Handshake {
    issued_ms: u64,
    address: SocketAddr,
    head: Arc<[u8]>,
    is_secure: bool,
    certificate: Option<Arc<[u8]>>,
}

/// Not kept, in lower case.
const DROPPED: [&str; 5] = [
    "connection",
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-extensions",
];

/// Sent alike by many clients, in lower case; a `-` at the end stands for any other end.
const COMMON: [&str; 8] =
    ["host", "origin", "user-agent", "accept", "accept-", "cache-control", "pragma", "sec-"];

/// In place of a line of a client's own; no head has this byte.
const HOLE: u8 = 0;

/// Sets of common lines that are kept at a time; clients with others keep all lines themselves.
const HEADS_MAX: usize = 1_024;

impl Handshake {
    /// That of a head that was accepted. `issued_ms` is the time since 1970.
    pub(super) fn new(head: &[u8], address: SocketAddr, issued_ms: u64) -> Handshake {
        let head: Vec<u8> = kept_lines(head).flatten().copied().collect();
        let (is_secure, certificate) = (false, None);
        Handshake { issued_ms, address, head: head.into(), is_secure, certificate }
    }

    /// The same over TLS, if it was, with a certificate or none.
    pub(super) fn secured(self, is_secure: bool, certificate: Option<Arc<[u8]>>) -> Handshake {
        Handshake { is_secure, certificate, ..self }
    }

    /// When the session was opened, in milliseconds since 1970.
    pub fn issued_ms(&self) -> u64 {
        self.issued_ms
    }

    /// Who has opened it: the peer of the connection, or the client of a trusted proxy.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it came over TLS.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// The verified certificate that the client has shown over TLS, as DER.
    pub fn certificate(&self) -> Option<&Arc<[u8]>> {
        self.certificate.as_ref()
    }

    /// Request line and headers; parses as a request head.
    pub fn head(&self) -> &[u8] {
        &self.head
    }
}

/// A handshake as its session keeps it, to be read and forgotten by the [`Heads`] that made it.
#[derive(Debug)]
pub(super) struct Kept {
    /// Milliseconds since 1970, for 8,900 years.
    issued: [u8; 6],
    ip: [u8; 4],
    port: [u8; 2],
    /// The address is in `own`, 16 bytes before the lines.
    is_ipv6: bool,
    /// It came over TLS.
    pub(super) is_secure: bool,
    /// Which common lines; 0: none.
    common: u16,
    /// The lines that fill the holes. Boxed again, as hardly any client of a large crowd has some.
    own: Option<Box<Box<[u8]>>>,
}

const _: () = assert!(size_of::<Option<Kept>>() == 24);

/// The common lines of all sessions.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// The number of one is its place and one.
    known: Slab<Common>,
    /// Clients choose the lines, so the hash is keyed.
    places: HashMap<Rc<[u8]>, u32>,
    /// Reused.
    scratch: (Vec<u8>, Vec<u8>),
}

#[derive(Debug)]
struct Common {
    lines: Rc<[u8]>,
    /// How many sessions have them.
    sessions: u32,
}

impl Heads {
    /// Keeps what [`Handshake::new`] would.
    pub(super) fn keep(&mut self, head: &[u8], address: SocketAddr, issued_ms: u64) -> Kept {
        let (mut common, mut own) = std::mem::take(&mut self.scratch);
        common.clear();
        own.clear();
        let (ip, is_ipv6) = match address.ip() {
            IpAddr::V4(ip) => (ip.octets(), false),
            IpAddr::V6(ip) => {
                own.extend_from_slice(&ip.octets());
                ([0; 4], true)
            }
        };
        let lines_at = own.len();
        for (at, line) in kept_lines(head).enumerate() {
            let is_common = if at == 0 { is_common_request(line) } else { is_common_header(line) };
            if is_common {
                common.extend_from_slice(line);
            } else {
                own.extend_from_slice(line);
                common.push(HOLE);
            }
        }
        let common_at = self.place(&common);
        if common_at.is_none() {
            own.truncate(lines_at);
            own.extend(kept_lines(head).flatten());
        }
        let issued = issued_ms.to_le_bytes();
        let kept = Kept {
            issued: [issued[0], issued[1], issued[2], issued[3], issued[4], issued[5]],
            ip,
            port: address.port().to_be_bytes(),
            is_ipv6,
            is_secure: false,
            common: common_at.map_or(0, |place| place as u16 + 1),
            own: (!own.is_empty()).then(|| Box::new(own.as_slice().into())),
        };
        self.scratch = (common, own);
        kept
    }

    /// Where these lines are kept, for one session more; `None` if there are too many.
    fn place(&mut self, lines: &[u8]) -> Option<u32> {
        if let Some(place) = self.places.get(lines).copied() {
            self.known.at_mut(place)?.sessions += 1;
            return Some(place);
        }
        if self.known.len() >= HEADS_MAX {
            return None;
        }
        let lines: Rc<[u8]> = lines.into();
        let place = self.known.insert(Common { lines: lines.clone(), sessions: 1 }).index;
        self.places.insert(lines, place);
        Some(place)
    }

    /// What was kept. O(length).
    pub(super) fn read(&self, kept: &Kept) -> Handshake {
        let Kept { issued, ip, port, is_ipv6, is_secure, common, own } = kept;
        let mut own = own.as_deref().map_or(&[][..], |own| own);
        let mut ip = IpAddr::from(Ipv4Addr::from(*ip));
        if let Some((first, rest)) = own.split_first_chunk::<16>().filter(|_| *is_ipv6) {
            (ip, own) = (Ipv6Addr::from(*first).into(), rest);
        }
        let place = u32::from(*common).checked_sub(1);
        let head = match place.and_then(|place| self.known.at(place)) {
            Some(common) => fill(&common.lines, own),
            None => own.to_vec(),
        };
        let mut issued_ms = [0; 8];
        issued_ms[..6].copy_from_slice(issued);
        Handshake {
            issued_ms: u64::from_le_bytes(issued_ms),
            address: SocketAddr::new(ip, u16::from_be_bytes(*port)),
            head: head.into(),
            is_secure: *is_secure,
            certificate: None,
        }
    }

    /// A session keeps this no longer.
    pub(super) fn forget(&mut self, kept: Kept) {
        let Some(place) = u32::from(kept.common).checked_sub(1) else { return };
        let Some(common) = self.known.at_mut(place) else { return };
        common.sessions -= 1;
        if common.sessions == 0
            && let Some(common) = self.known.remove(place)
        {
            self.places.remove(&common.lines);
        }
    }

    /// Whether no session has any.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.places.is_empty()
    }
}

/// Puts a client's own lines into the holes, in order.
fn fill(common: &[u8], own: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(common.len() + own.len());
    let mut lines = own.split_inclusive(|byte| *byte == b'\n');
    for (at, part) in common.split(|byte| *byte == HOLE).enumerate() {
        if at > 0 {
            head.extend_from_slice(lines.next().unwrap_or_default());
        }
        head.extend_from_slice(part);
    }
    head
}

fn kept_lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split_inclusive(|byte| *byte == b'\n').filter(|line| is_kept(line))
}

/// A query of more than `EIO` and `transport` is a client's own.
fn is_common_request(line: &[u8]) -> bool {
    line.iter().filter(|byte| **byte == b'&').count() < 2
}

fn is_common_header(line: &[u8]) -> bool {
    let name = name(line);
    let is_alike = |common: &str| match common.strip_suffix('-') {
        Some(_) => {
            name.get(..common.len()).is_some_and(|n| n.eq_ignore_ascii_case(common.as_bytes()))
        }
        None => name.eq_ignore_ascii_case(common.as_bytes()),
    };
    // The empty line at the end has no name.
    name.trim_ascii_end().is_empty() || COMMON.iter().any(|common| is_alike(common))
}

fn name(line: &[u8]) -> &[u8] {
    line.split(|byte| *byte == b':').next().unwrap_or_default()
}

fn is_kept(line: &[u8]) -> bool {
    let name = name(line);
    !DROPPED.iter().any(|dropped| name.eq_ignore_ascii_case(dropped.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: h\r\n\
                         Upgrade: websocket\r\nconnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\
                         User-Agent: u:v\r\n\r\n";

    fn handshake(heads: &mut Heads, head: &str, address: &str) -> (Kept, Handshake) {
        let (address, at) = (address.parse().expect("address"), 1_700_000_000_123);
        let kept = heads.keep(head.as_bytes(), address, at);
        let (read, whole) = (heads.read(&kept), Handshake::new(head.as_bytes(), address, at));
        assert_eq!((read.address(), read.issued_ms()), (address, at));
        assert_eq!(read.head(), whole.head());
        (kept, read)
    }

    #[test]
    fn what_is_kept_reads_back_in_order() {
        let mut heads = Heads::default();
        let cookie = PLAIN.replace("User", "Cookie: a=b\r\nX-Forwarded-For: ::1\r\nUser");
        let query = PLAIN.replace("EIO=4", "EIO=4&token=secret");
        for address in ["127.0.0.1:65535", "[2001:db8::1]:80"] {
            for head in [PLAIN, &cookie, &query, "GET / HTTP/1.1\r\n\r\n", "", "\n"] {
                handshake(&mut heads, head, address);
            }
        }
        let expected = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: h\r\n\
                        User-Agent: u:v\r\n\r\n";
        let (_, read) = handshake(&mut heads, PLAIN, "127.0.0.1:80");
        assert_eq!(read.head(), expected.as_bytes());
    }

    #[test]
    fn what_is_alike_is_kept_once_and_until_the_last_has_gone() {
        let mut heads = Heads::default();
        let cookies = (0..100).map(|n| PLAIN.replace("User", &format!("Cookie: {n}\r\nUser")));
        let heads_of = cookies.chain([PLAIN.to_owned()]);
        let kept: Vec<Kept> =
            heads_of.map(|head| handshake(&mut heads, &head, "127.0.0.1:9").0).collect();
        assert_eq!(heads.known.len(), 2);
        assert!(kept.last().expect("the plain one").own.is_none());
        for (at, kept) in kept.into_iter().enumerate() {
            assert_eq!(heads.known.len(), if at < 100 { 2 } else { 1 });
            heads.forget(kept);
        }
        assert!(heads.is_empty());
    }

    #[test]
    fn the_common_lines_are_bounded_and_nothing_is_lost_beyond() {
        let mut heads = Heads::default();
        let agents = (0..HEADS_MAX + 50).map(|n| PLAIN.replace("u:v", &n.to_string()));
        let mut kept: Vec<Kept> =
            agents.map(|head| handshake(&mut heads, &head, "[::1]:1").0).collect();
        assert_eq!((heads.known.len(), heads.places.len()), (HEADS_MAX, HEADS_MAX));
        heads.forget(kept.swap_remove(0));
        kept.push(handshake(&mut heads, PLAIN, "[::1]:1").0);
        assert_eq!(heads.known.len(), HEADS_MAX);
        kept.into_iter().for_each(|kept| heads.forget(kept));
        assert!(heads.is_empty());
    }
}
