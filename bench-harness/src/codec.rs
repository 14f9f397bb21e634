//! The little of HTTP, WebSocket, Engine.IO and Socket.IO that a load client needs.
//!
//! Written apart from corecast's own codec on purpose: a mistake shared by both sides would
//! measure well and be wrong. It makes masked client frames from templates whose sequence
//! digits are the only thing that changes, finds frame borders in what servers send
//! (RFC 6455 section 5.2), and checks delivered events byte for byte. No I/O, no clock.

use std::ops::Range;

use crate::polling;

/// The nonce of RFC 6455 section 1.3 and its accept value: with a fixed pair nobody needs SHA-1.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What the server must answer to [`KEY`].
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Every frame is masked with this key. A server must unmask all the same: it cannot know
/// that the key does not change.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// What data is made of behind its number: as skewed as prose, ASCII, nothing to escape in JSON.
const WORDS: [&str; 16] = [
    "the ", "of ", "price ", "moved ", "to ", "42.17 ", "room ", "is ", "open ", "user ", "said ",
    "hello ", "and ", "1093 ", "left ", "again, ",
];
/// Digits of the sequence number that opens every payload.
pub(crate) const DIGITS: usize = 16;

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

/// What an event carries its data as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Data {
    /// A string of JSON.
    Text,
    /// An attachment: a packet of its own behind that of the event.
    Binary,
}

/// One kind of event, as sent and as expected back: `42["<name>","<digits><filler>"]`, or
/// `451-["<name>",{"_placeholder":true,"num":0}]` and the same digits and filler as its attachment.
pub(crate) struct Event {
    data: Data,
    /// Complete masked frames whose digits are overwritten for each message.
    sent: Vec<u8>,
    /// Where the digits stand in `sent`.
    digits: usize,
    /// Mask of the first digit; the others follow in its cycle.
    phase: usize,
    /// What is sent in front of the digits, in packets.
    asked: Vec<u8>,
    /// The packet that comes back, digits excluded: what stands before and behind them.
    before: Vec<u8>,
    behind: Vec<u8>,
}

impl Event {
    /// An event sent as `ask` and delivered as `answer`, both with `size` bytes of data.
    pub(crate) fn new(ask: &str, answer: &str, size: usize, data: Data) -> Self {
        assert!(size >= DIGITS, "the payload must hold the sequence number");
        let (zeros, mut behind) = ("0".repeat(DIGITS), filler(size - DIGITS));
        let (asked, before, sent, phase);
        match data {
            Data::Text => {
                (asked, before) = (format!("42[\"{ask}\",\""), format!("42[\"{answer}\",\""));
                behind.push_str("\"]");
                phase = asked.len();
                sent = client_frame(TEXT, format!("{asked}{zeros}{behind}").as_bytes());
            }
            Data::Binary => {
                let head = |name| format!("451-[\"{name}\",{{\"_placeholder\":true,\"num\":0}}]");
                (asked, before) = (head(ask), head(answer));
                phase = 0;
                let attachment = client_frame(BINARY, format!("{zeros}{behind}").as_bytes());
                sent = [client_frame(TEXT, asked.as_bytes()), attachment].concat();
            }
        }
        let digits = sent.len() - behind.len() - DIGITS;
        let (asked, before, behind) = (asked.into(), before.into(), behind.into());
        Self { data, sent, digits, phase, asked, before, behind }
    }

    /// The frames that carry message number `sequence` on websocket.
    pub(crate) fn frame(&mut self, sequence: u64) -> &[u8] {
        for (index, digit) in digits(sequence).into_iter().enumerate() {
            self.sent[self.digits + index] = digit ^ MASK[(self.phase + index) % 4];
        }
        &self.sent
    }

    /// The payload that carries message number `sequence` on long-polling.
    pub(crate) fn payload(&self, sequence: u64) -> Vec<u8> {
        let mut payload = self.asked.clone();
        let data = [&digits(sequence), &self.behind[..]].concat();
        match self.data {
            Data::Text => payload.extend(data),
            Data::Binary => polling::push_attachment(&data, &mut payload),
        }
        payload
    }

    /// The number of a delivered message; `None` if it differs from what was sent anywhere. An
    /// attachment stands in `packet` directly behind the text that announced it.
    pub(crate) fn sequence(&self, packet: &[u8]) -> Option<u64> {
        let rest = packet.strip_prefix(self.before.as_slice())?;
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

/// `number` in decimal digits.
fn digits(mut number: u64) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    digits
}

/// Data that compresses about as well as text does, so that deflate has its usual work.
fn filler(size: usize) -> String {
    let mut state = 1u32;
    let mut text = String::with_capacity(size + 8);
    while text.len() < size {
        // A pseudo-random walk over a small vocabulary (constants of Numerical Recipes).
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(WORDS[(state >> 24) as usize % WORDS.len()]);
    }
    text.truncate(size);
    text
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
    fn an_event_carries_its_number_there_and_back() {
        let mut event = Event::new("pub", "msg", 128, Data::Text);
        for sequence in [0, 7, 1_234_567_890_123_456] {
            let sent = unmask(event.frame(sequence));
            assert_eq!(sent.len(), 10 + 128 + 2);
            assert_eq!(event.payload(sequence), sent);
            let text = String::from_utf8(sent).expect("ascii");
            assert_eq!(&text[..10], "42[\"pub\",\"");
            let back = text.replace("pub", "msg");
            assert_eq!(event.sequence(back.as_bytes()), Some(sequence));
            assert_eq!(event.sequence(text.as_bytes()), None, "wrong name");
            assert_eq!(event.sequence(back.replace('e', "y").as_bytes()), None, "wrong filler");
            assert_eq!(event.sequence(&back.as_bytes()[1..]), None, "cut");
        }
    }

    #[test]
    fn an_attachment_carries_its_number_there_and_back() {
        let mut event = Event::new("pub", "msg", 128, Data::Binary);
        let head = |name| format!("451-[\"{name}\",{{\"_placeholder\":true,\"num\":0}}]");
        for sequence in [0, 7, 1_234_567_890_123_456] {
            let frames = event.frame(sequence).to_vec();
            let border = 2 + 4 + head("pub").len();
            assert_eq!(frames[border], 0x80 | BINARY);
            assert_eq!(unmask(&frames[..border]), head("pub").as_bytes());
            let data = unmask(&frames[border..]);
            assert_eq!(data.len(), 128);
            let back = [head("msg").as_bytes(), &data].concat();
            assert_eq!(event.sequence(&back), Some(sequence));
            assert_eq!(event.sequence(&back[..back.len() - 1]), None, "cut");

            let payload = event.payload(sequence);
            let found: Vec<&[u8]> = polling::packets(&payload).collect();
            let mut bytes = Vec::new();
            polling::attachment(&found[1][1..], &mut bytes).expect("base64");
            assert_eq!((found[0], found[1][0], bytes), (head("pub").as_bytes(), b'b', data));
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
