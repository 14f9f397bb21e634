//! The little of HTTP, WebSocket, Engine.IO and Socket.IO that a load client needs.
//!
//! Written apart from corecast's own codec on purpose: a mistake shared by both sides would
//! measure well and be wrong. It makes masked client frames from templates whose sequence
//! digits are the only thing that changes, finds frame borders in what servers send
//! (RFC 6455 section 5.2), and checks delivered events byte for byte. No I/O, no clock.

use std::ops::Range;

/// The nonce of RFC 6455 section 1.3 and its accept value: with a fixed pair nobody needs SHA-1.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What the server must answer to [`KEY`].
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Every frame is masked with this key. A server must unmask all the same: it cannot know
/// that the key does not change.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// Digits of the sequence number that opens every payload.
pub(crate) const DIGITS: usize = 16;

pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Why a server's bytes were not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Error {
    /// The handshake was not answered by 101 with the right accept value.
    NotUpgraded,
    /// A frame with reserved bits, a mask, or a part of a fragmented message.
    UnexpectedFrame,
    /// A length with the top bit set.
    FrameTooLong,
}

/// The request that opens a session on websocket.
pub(crate) fn upgrade_request(host: &str) -> Vec<u8> {
    format!(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {host}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n\r\n"
    )
    .into_bytes()
}

/// Length of the response head, once it is complete and says that we are upgraded.
pub(crate) fn upgrade_response(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let accepted = head.lines().any(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT
        })
    });
    if head.starts_with("HTTP/1.1 101") && accepted {
        Ok(Some(end + 4))
    } else {
        Err(Error::NotUpgraded)
    }
}

/// One frame found in received bytes; `payload` is a range of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Range<usize>,
}

/// The frame that starts at `bytes[0]`, `None` while it is incomplete.
pub(crate) fn server_frame(bytes: &[u8]) -> Result<Option<Frame>, Error> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    // FIN set, no reserved bit, no continuation, no mask.
    if first & 0xf0 != 0x80 || first & 0x0f == 0 || second & 0x80 != 0 {
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
        return Err(Error::FrameTooLong);
    }
    if (bytes.len() - start) as u64 >= length {
        let payload = start..start + length as usize;
        Ok(Some(Frame { opcode: first & 0x0f, payload }))
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

/// One kind of event, as sent and as expected back: `42["<name>","<digits><filler>"]`.
pub(crate) struct Event {
    /// A complete masked frame whose digits are overwritten for each message.
    sent: Vec<u8>,
    /// Where the digits stand in `sent`.
    digits: usize,
    /// Mask of the first digit; the others follow in its cycle.
    phase: usize,
    /// The payload that comes back, digits excluded: what stands before and behind them.
    before: Vec<u8>,
    behind: Vec<u8>,
}

impl Event {
    /// An event sent as `ask` and delivered as `answer`, both with `size` bytes of data.
    pub(crate) fn new(ask: &str, answer: &str, size: usize) -> Self {
        assert!(size >= DIGITS, "the payload must hold the sequence number");
        let head = format!("42[\"{ask}\",\"");
        let behind = format!("{}\"]", "x".repeat(size - DIGITS));
        let payload = format!("{head}{}{behind}", "0".repeat(DIGITS));
        let sent = client_frame(TEXT, payload.as_bytes());
        let digits = sent.len() - payload.len() + head.len();
        let before = format!("42[\"{answer}\",\"").into_bytes();
        Self { sent, digits, phase: head.len(), before, behind: behind.into_bytes() }
    }

    /// The frame that carries message number `sequence`.
    pub(crate) fn frame(&mut self, mut sequence: u64) -> &[u8] {
        for index in (0..DIGITS).rev() {
            let digit = b'0' + (sequence % 10) as u8;
            sequence /= 10;
            self.sent[self.digits + index] = digit ^ MASK[(self.phase + index) % 4];
        }
        &self.sent
    }

    /// The number of a delivered message; `None` if it differs from what was sent anywhere.
    pub(crate) fn sequence(&self, payload: &[u8]) -> Option<u64> {
        let rest = payload.strip_prefix(self.before.as_slice())?;
        let (digits, rest) = rest.split_at_checked(DIGITS)?;
        if rest != self.behind {
            return None;
        }
        digits.iter().try_fold(0u64, |number, digit| match digit {
            b'0'..=b'9' => Some(number * 10 + u64::from(digit - b'0')),
            _ => None,
        })
    }
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
            let frame = Frame { opcode: TEXT, payload: start..start + length };
            assert_eq!(server_frame(&bytes), Ok(Some(frame)));
        }
    }

    #[test]
    fn frames_a_server_may_not_send_are_refused() {
        for (bytes, error) in [
            (&[0x01u8, 0][..], Error::UnexpectedFrame),
            (&[0x80, 0], Error::UnexpectedFrame),
            (&[0xc1, 0], Error::UnexpectedFrame),
            (&[0x81, 0x80], Error::UnexpectedFrame),
            (&[0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Error::FrameTooLong),
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
    fn an_event_carries_its_number_there_and_back() {
        let mut event = Event::new("pub", "msg", 128);
        for sequence in [0, 7, 1_234_567_890_123_456] {
            let sent = unmask(event.frame(sequence));
            assert_eq!(sent.len(), 10 + 128 + 2);
            let text = String::from_utf8(sent).expect("ascii");
            assert_eq!(&text[..10], "42[\"pub\",\"");
            let back = text.replace("pub", "msg");
            assert_eq!(event.sequence(back.as_bytes()), Some(sequence));
            assert_eq!(event.sequence(text.as_bytes()), None, "wrong name");
            assert_eq!(event.sequence(back.replace('x', "y").as_bytes()), None, "wrong filler");
            assert_eq!(event.sequence(&back.as_bytes()[1..]), None, "cut");
        }
    }

    #[test]
    fn only_the_right_upgrade_is_taken() {
        let good = format!("HTTP/1.1 101 X\r\nsec-websocket-ACCEPT: {ACCEPT}\r\n\r\n");
        assert_eq!(upgrade_response(good.as_bytes()), Ok(Some(good.len())));
        assert_eq!(upgrade_response(&good.as_bytes()[..good.len() - 1]), Ok(None));
        let wrong = good.replace("s3p", "s4p");
        assert_eq!(upgrade_response(wrong.as_bytes()), Err(Error::NotUpgraded));
        let refused = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        assert_eq!(upgrade_response(refused), Err(Error::NotUpgraded));
    }
}
