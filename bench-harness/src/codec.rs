//! The little of HTTP, WebSocket, Engine.IO and Socket.IO that a load client needs.
//!
//! Written apart from corecast's own codec on purpose: a mistake shared by both sides would
//! measure well and be wrong. It makes masked client frames and finds frame borders in what servers
//! send (RFC 6455 section 5.2). No I/O, no clock.

use std::ops::Range;

/// The nonce of RFC 6455 section 1.3 and its accept value: with a fixed pair nobody needs SHA-1.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What the server must answer to [`KEY`].
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Every frame is masked with this key. A server must unmask all the same: it cannot know
/// that the key does not change.
pub(crate) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
/// First byte of a frame: the message is compressed (RFC 7692).
const RSV1: u8 = 0x40;

/// Why a server's bytes were not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Error {
    /// The handshake was not answered by 101 with the right accept value.
    NotUpgraded,
    /// The server uses an extension that was not offered, or one of its parameters is missing.
    Extension,
    /// A frame with reserved bits, a mask, or a part of a fragmented message.
    UnexpectedFrame,
    /// A frame or message longer than the client's buffer.
    TooLong,
    /// A compressed message that cannot be inflated by itself.
    Deflate,
    /// Something else than the attachment that was announced, or one that was not.
    Attachment,
    /// An attachment on polling that is not base64.
    Base64,
    /// No HTTP/1 response, or one whose body has no length.
    NotHttp,
    /// A request of long-polling was answered with this status, or with the wrong body.
    Refused(u16),
    /// The first packet of a session did not open it.
    NotOpened,
}

/// The request that opens a session on websocket; `fields` are more lines of its head.
pub(crate) fn upgrade_request(host: &str, fields: &str) -> Vec<u8> {
    format!(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {host}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n{fields}\r\n"
    )
    .into_bytes()
}

/// The response head, once it is complete and says that we are upgraded, without its last line.
pub(crate) fn upgrade_response(bytes: &[u8]) -> Result<Option<&str>, Error> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = str::from_utf8(&bytes[..end + 2]).map_err(|_| Error::NotUpgraded)?;
    let accepted = head.lines().any(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT
        })
    });
    if head.starts_with("HTTP/1.1 101") && accepted {
        Ok(Some(head))
    } else {
        Err(Error::NotUpgraded)
    }
}

/// One frame found in received bytes; `payload` is a range of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    /// RSV1: the message is compressed.
    pub(crate) is_compressed: bool,
    pub(crate) payload: Range<usize>,
}

/// The frame that starts at `bytes[0]`, `None` while it is incomplete.
pub(crate) fn server_frame(bytes: &[u8]) -> Result<Option<Frame>, Error> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    // FIN set, no reserved bit but the first, no continuation, no mask.
    if first & 0xb0 != 0x80 || first & 0x0f == 0 || second & 0x80 != 0 {
        return Err(Error::UnexpectedFrame);
    }
    let (start, length) = match second {
        126 => match bytes.get(2..4) {
            Some(&[a, b]) => (4, u64::from(u16::from_be_bytes([a, b]))),
            _ => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|slice| slice.try_into().ok()) {
            Some(length) => (10, u64::from_be_bytes(length)),
            None => return Ok(None),
        },
        short => (2, u64::from(short)),
    };
    if length >> 63 != 0 {
        return Err(Error::TooLong);
    }
    if (bytes.len() - start) as u64 >= length {
        let payload = start..start + length as usize;
        let is_compressed = first & RSV1 != 0;
        Ok(Some(Frame { opcode: first & 0x0f, is_compressed, payload }))
    } else {
        Ok(None)
    }
}

/// A masked client frame around `payload`.
pub(crate) fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmask(frame: &[u8]) -> Vec<u8> {
        let start = match frame[1] & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let (mask, payload) = frame[start..].split_at(4);
        payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
    }

    #[test]
    fn borders_are_found_at_every_split() {
        for length in [0usize, 1, 125, 126, 127, 0xffff, 0x1_0000] {
            let mut bytes = vec![0x81];
            match length {
                0..=125 => bytes.push(length as u8),
                126..=0xffff => {
                    bytes.push(126);
                    bytes.extend((length as u16).to_be_bytes());
                }
                _ => {
                    bytes.push(127);
                    bytes.extend((length as u64).to_be_bytes());
                }
            }
            let start = bytes.len();
            bytes.resize(start + length, b'a');
            for cut in (0..start + 2).chain([bytes.len() - 1]).filter(|cut| *cut < bytes.len()) {
                assert_eq!(server_frame(&bytes[..cut]), Ok(None), "{length} cut at {cut}");
            }
            bytes.push(0x81);
            let payload = start..start + length;
            let frame = Frame { opcode: TEXT, is_compressed: false, payload };
            assert_eq!(server_frame(&bytes), Ok(Some(frame)));
        }
    }

    #[test]
    fn frames_a_server_may_not_send_are_refused() {
        for (bytes, error) in [
            (&[0x01u8, 0][..], Error::UnexpectedFrame),
            (&[0x80, 0], Error::UnexpectedFrame),
            (&[0xa1, 0], Error::UnexpectedFrame),
            (&[0x81, 0x80], Error::UnexpectedFrame),
            (&[0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Error::TooLong),
        ] {
            assert_eq!(server_frame(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn client_frames_have_the_shortest_length_form() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (0xffff, 4), (0x1_0000, 10)] {
            let payload = vec![b'q'; length];
            let frame = client_frame(TEXT, &payload);
            assert_eq!(frame.len(), header + 4 + length);
            assert_eq!(unmask(&frame), payload);
        }
    }

    #[test]
    fn only_the_right_upgrade_is_taken() {
        let good = format!("HTTP/1.1 101 X\r\nsec-websocket-ACCEPT: {ACCEPT}\r\n\r\n");
        let head = &good[..good.len() - 2];
        assert_eq!(upgrade_response(good.as_bytes()), Ok(Some(head)));
        for cut in 0..good.len() {
            assert_eq!(upgrade_response(&good.as_bytes()[..cut]), Ok(None));
        }
        let wrong = good.replace("s3p", "s4p");
        assert_eq!(upgrade_response(wrong.as_bytes()), Err(Error::NotUpgraded));
        let refused = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        assert_eq!(upgrade_response(refused), Err(Error::NotUpgraded));
    }
}
