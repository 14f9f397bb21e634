//! The client's address by the word of proxies: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Every proxy appends whom it was connected by, so the list is read from its end, and no further
//! than to the first address that is no trusted proxy's: what stands before it is only what that
//! client says.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::http::Head;
use crate::options::Forwarded;

/// Who has sent a request that came from `peer`, which is a trusted proxy. Where a proxy says
/// nothing, or nothing that is an address, the last proxy that is known is taken for the client;
/// one that hides a port has port 0. O(length of the headers).
pub fn client(
    head: &Head<'_>,
    header: Forwarded,
    peer: SocketAddr,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> SocketAddr {
    let name = match header {
        Forwarded::XForwardedFor => "x-forwarded-for",
        Forwarded::Standard => "forwarded",
        Forwarded::Ignored => return peer,
    };
    // A comma within quotes is none of a proxy's for this; and to believe a client's quotes would
    // let it hide what the proxies have appended.
    let values = head.values(name).flat_map(|value| value.split(','));
    let elements: SmallVec<[&str; 4]> = values.collect();
    let mut client = peer;
    for element in elements.into_iter().rev() {
        if !is_trusted(client.ip()) {
            break;
        }
        let node = match header {
            Forwarded::Standard => node_of(element),
            _ => Some(element.trim()),
        };
        match node.and_then(address) {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

/// What `for` names in one element.
fn node_of(element: &str) -> Option<&str> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut nodes = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    let (_, value) = nodes.next()?;
    let value = value.trim();
    Some(value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value))
}

/// `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]`, `[::1]:5`.
fn address(node: &str) -> Option<SocketAddr> {
    let inner = node.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ip = inner.unwrap_or(node).parse::<IpAddr>();
    let address = ip.map(|ip| SocketAddr::new(ip, 0)).or_else(|_| node.parse());
    let address: SocketAddr = address.ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::proto::http::parse_head;

    /// 10.0.0.0/8 is trusted.
    fn client_of(fields: &str, header: Forwarded) -> String {
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let limits = Options::default().limits().expect("defaults");
        let (head, _) = parse_head(text.as_bytes(), &limits).expect("good").expect("whole");
        let is_trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
        client(&head, header, "10.0.0.1:1".parse().expect("address"), is_trusted).to_string()
    }

    #[test]
    fn the_nearest_address_that_is_no_proxy_is_the_client() {
        for (fields, expected) in [
            ("", "10.0.0.1:1"),
            ("X-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7:0"),
            ("X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\n", "192.0.2.7:0"),
            ("X-Forwarded-For: 6.6.6.6,192.0.2.7 , 10.1.1.1\r\n", "192.0.2.7:0"),
            ("X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 192.0.2.7\r\n", "192.0.2.7:0"),
            ("X-Forwarded-For: 10.2.2.2, 10.1.1.1\r\n", "10.2.2.2:0"),
            ("X-Forwarded-For: 192.0.2.7:8080\r\n", "192.0.2.7:8080"),
            ("X-Forwarded-For: 2001:db8::1\r\n", "[2001:db8::1]:0"),
            ("X-Forwarded-For: [2001:db8::1]:9\r\n", "[2001:db8::1]:9"),
            ("X-Forwarded-For: ::ffff:192.0.2.7\r\n", "192.0.2.7:0"),
            ("X-Forwarded-For: unknown\r\n", "10.0.0.1:1"),
            ("X-Forwarded-For: 6.6.6.6, unknown, 10.1.1.1\r\n", "10.1.1.1:0"),
            ("X-Forwarded-For: 6.6.6.6,\r\n", "10.0.0.1:1"),
            ("Forwarded: for=6.6.6.6\r\n", "10.0.0.1:1"),
        ] {
            assert_eq!(client_of(fields, Forwarded::XForwardedFor), expected, "{fields}");
        }
    }

    #[test]
    fn the_standard_header_is_read_alike() {
        for (fields, expected) in [
            ("Forwarded: for=192.0.2.7;proto=https\r\n", "192.0.2.7:0"),
            ("Forwarded: proto=http; FOR=\"192.0.2.7:80\" ;by=x\r\n", "192.0.2.7:80"),
            ("Forwarded: for=\"[2001:db8::1]:9\", for=10.1.1.1\r\n", "[2001:db8::1]:9"),
            ("Forwarded: for=6.6.6.6\r\nForwarded: for=192.0.2.7\r\n", "192.0.2.7:0"),
            // Not a client's quote that is never closed.
            ("Forwarded: for=\"6.6.6.6, for=192.0.2.7\r\n", "192.0.2.7:0"),
            ("Forwarded: for=_hidden\r\n", "10.0.0.1:1"),
            ("Forwarded: proto=https\r\n", "10.0.0.1:1"),
            ("Forwarded: \r\n", "10.0.0.1:1"),
            ("X-Forwarded-For: 6.6.6.6\r\n", "10.0.0.1:1"),
        ] {
            assert_eq!(client_of(fields, Forwarded::Standard), expected, "{fields}");
        }
    }

    #[test]
    fn nobody_is_believed_where_it_is_off() {
        let fields = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n";
        assert_eq!(client_of(fields, Forwarded::Ignored), "10.0.0.1:1");
    }
}
