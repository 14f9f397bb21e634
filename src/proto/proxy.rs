//! The header of the PROXY protocol, version 2, by which a proxy says whose connection it is.
//!
//! ```text
//!  signature 12 │ version, command │ family, transport │ length 2 │ addresses │ values …
//! ```
//!
//! Strict: a header that is not exactly one is an error, and then the connection is worth nothing.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most bytes that may follow the length. Addresses take 36; the rest is for values that proxies
/// add, of which the names and certificates of TLS are the longest.
pub const LENGTH_MAX: usize = 4_096;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses.
const FIXED: usize = 16;
/// Type of the value that is a CRC32C of the whole header.
const TYPE_CRC: u8 = 0x03;

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// They begin otherwise: another protocol, or version 1.
    Signature,
    /// Another version than 2.
    Version,
    /// Neither LOCAL nor PROXY.
    Command,
    /// An address family or transport that does not exist, or is no stream.
    Family,
    /// Shorter than the addresses, or longer than [`LENGTH_MAX`].
    Length,
    /// The values behind the addresses do not fill the header exactly.
    Value,
    /// The checksum is wrong.
    Checksum,
}

/// A header that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whose connection it is; `None` if it is the proxy's own (LOCAL), or the proxy does not say.
    pub source: Option<SocketAddr>,
    /// Bytes of the header; behind them begins what the client has sent.
    pub length: usize,
}

/// Reads the header that `bytes` begin with; `None` if they are too few, but right so far.
///
/// # Errors
/// They are no such header, whatever else comes.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Error> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(Error::Signature);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return match bytes.get(12) {
            Some(byte) if byte >> 4 != 2 => Err(Error::Version),
            _ => Ok(None),
        };
    };
    if fixed[12] >> 4 != 2 {
        return Err(Error::Version);
    }
    let is_local = match fixed[12] & 0x0f {
        0 => true,
        1 => false,
        _ => return Err(Error::Command),
    };
    // Unspecified, TCP over IPv4, TCP over IPv6, a stream of the Unix family.
    let addresses = match fixed[13] {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return Err(Error::Family),
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > LENGTH_MAX || length < addresses {
        return Err(Error::Length);
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let (addresses, values) = body.split_at(addresses);
    // Of an unspecified family nobody knows where the addresses end.
    if fixed[13] != 0x00 {
        check_values(&bytes[..FIXED + length], values)?;
    }
    let source = if is_local { None } else { source(addresses) };
    Ok(Some(Header { source, length: FIXED + length }))
}

fn source(addresses: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| Some(u16::from_be_bytes(*addresses.get(at..)?.first_chunk()?));
    match addresses.len() {
        12 => {
            let ip = Ipv4Addr::from(*addresses.first_chunk::<4>()?);
            Some(SocketAddr::from((ip, port(8)?)))
        }
        36 => {
            let ip = Ipv6Addr::from(*addresses.first_chunk::<16>()?);
            Some(SocketAddr::new(ip.to_canonical(), port(32)?))
        }
        _ => None,
    }
}

/// Checks that the values fill the header, and its checksum if it has one.
fn check_values(header: &[u8], mut values: &[u8]) -> Result<(), Error> {
    while let [kind, high, low, rest @ ..] = values {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, behind) = rest.split_at_checked(length).ok_or(Error::Value)?;
        if *kind == TYPE_CRC {
            let expected = value.try_into().map(u32::from_be_bytes).map_err(|_| Error::Value)?;
            // The sum is that of the header with zeros in its place.
            let at = header.len() - behind.len() - length;
            let found = crc32c([&header[..at], &[0; 4], behind]);
            if found != expected {
                return Err(Error::Checksum);
            }
        }
        values = behind;
    }
    if values.is_empty() { Ok(()) } else { Err(Error::Value) }
}

/// CRC-32C (Castagnoli), bit by bit: a header has some hundred bytes, once per connection.
fn crc32c(parts: [&[u8]; 3]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    };
    !parts.into_iter().flatten().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 0x01, 0xbb];

    fn v6() -> Vec<u8> {
        let mut body = [0x20, 0x01, 0x0d, 0xb8].to_vec();
        body.extend([0; 11]);
        body.push(1);
        body.extend([0; 16]);
        body.extend([0x1f, 0x90, 0x01, 0xbb]);
        body
    }

    fn source_of(bytes: &[u8]) -> Option<String> {
        let header = parse(bytes).expect("a header").expect("a whole one");
        assert_eq!(header.length, bytes.len());
        header.source.map(|source| source.to_string())
    }

    /// A value with the right checksum, after others.
    fn with_crc(body: &[u8]) -> Vec<u8> {
        let mut body = body.to_vec();
        body.extend([TYPE_CRC, 0, 4, 0, 0, 0, 0]);
        let bytes = header(1, 0x11, &body);
        let sum = crc32c([&bytes, &[], &[]]).to_be_bytes();
        let at = body.len() - 4;
        body[at..].copy_from_slice(&sum);
        header(1, 0x11, &body)
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(source_of(&header(1, 0x11, &V4)).as_deref(), Some("192.0.2.7:8080"));
        assert_eq!(source_of(&header(1, 0x21, &v6())).as_deref(), Some("[2001:db8::1]:8080"));
        // A health check of the proxy's own, a proxy that does not know, a Unix socket.
        assert_eq!(source_of(&header(0, 0x11, &V4)), None);
        assert_eq!(source_of(&header(1, 0x00, &[])), None);
        assert_eq!(source_of(&header(0, 0x00, b"whatever")), None);
        assert_eq!(source_of(&header(1, 0x31, &[0; 216])), None);
    }

    #[test]
    fn values_are_passed_over_and_have_to_fit() {
        let with = |values: &[u8]| header(1, 0x11, &[V4.as_slice(), values].concat());
        assert!(source_of(&with(&[0x02, 0, 3, b'a', b'b', b'c', 0x20, 0, 0])).is_some());
        for values in [&[0x02][..], &[0x02, 0], &[0x02, 0, 2, b'a'], &[0x02, 0xff, 0xff, b'a']] {
            assert_eq!(parse(&with(values)), Err(Error::Value), "{values:?}");
        }
    }

    #[test]
    fn a_checksum_is_checked() {
        assert_eq!(crc32c([b"1234", b"56", b"789"]), 0xe306_9283);
        let good = with_crc(&[V4.as_slice(), &[0x02, 0, 1, b'a']].concat());
        assert!(source_of(&good).is_some());
        for at in 16..good.len() - 8 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(parse(&bad).is_err(), "byte {at} was changed");
        }
        let short = header(1, 0x11, &[V4.as_slice(), &[TYPE_CRC, 0, 2, 0, 0]].concat());
        assert_eq!(parse(&short), Err(Error::Value));
    }

    #[test]
    fn what_is_no_header_is_an_error_as_soon_as_it_can_be_known() {
        for (bytes, error) in [
            (b"G".to_vec(), Error::Signature),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(), Error::Signature),
            (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), Error::Signature),
            ([SIGNATURE.as_slice(), &[0x11]].concat(), Error::Version),
            ([SIGNATURE.as_slice(), &[0x31, 0x11, 0, 0]].concat(), Error::Version),
            (header(2, 0x11, &V4), Error::Command),
            (header(1, 0x12, &V4), Error::Family),
            (header(1, 0x41, &V4), Error::Family),
            (header(1, 0x11, &V4[..11]), Error::Length),
            (header(1, 0x21, &V4), Error::Length),
            (header(1, 0x11, &[0; LENGTH_MAX + 1])[..16].to_vec(), Error::Length),
        ] {
            assert_eq!(parse(&bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn a_header_may_come_in_any_pieces_and_ends_where_it_says() {
        for whole in [header(1, 0x11, &V4), header(1, 0x21, &v6()), with_crc(&V4)] {
            (0..whole.len()).for_each(|end| assert_eq!(parse(&whole[..end]), Ok(None)));
            let longer = [whole.as_slice(), b"GET / HTTP/1.1"].concat();
            let header = parse(&longer).expect("good").expect("whole");
            assert_eq!(header.length, whole.len());
        }
    }
}
