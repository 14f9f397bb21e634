//! Events as they are sent and as they have to come back, made from templates whose digits are the
//! only thing that changes.
//!
//! ```text
//!   42["msg","aaNNNNNNNNNNNNTTTTTTTTTTTTTTTTTTfiller…"]
//!             │ │           └ intended time of sending, ns of the clock all processes share
//!             │ └ number of the message in its load
//!             └ phase and load
//! ```
//!
//! So whoever receives an event knows which one it is and how long it took. With binary data the
//! same bytes are an attachment. A delivered event is compared byte for byte.

use serde::{Deserialize, Serialize};

use crate::codec::{BINARY, MASK, TEXT, client_frame};
use crate::polling;

/// What data is made of behind its digits: as skewed as prose, ASCII, nothing to escape in JSON.
const WORDS: [&str; 16] = [
    "the ", "of ", "price ", "moved ", "to ", "42.17 ", "room ", "is ", "open ", "user ", "said ",
    "hello ", "and ", "1093 ", "left ", "again, ",
];
const TAG: usize = 2;
const NUMBER: usize = 12;
const TIME: usize = 18;
/// Digits at the end of a room's name.
const ROOM: usize = 7;
/// The least data that an event has.
pub(crate) const DATA_MIN: usize = TAG + NUMBER + TIME;

/// What an event carries its data as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Data {
    /// A string of JSON.
    Text,
    /// An attachment: a packet of its own behind that of the event.
    Binary,
}

/// What tells a message from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) number: u64,
    /// Nanoseconds.
    pub(crate) intended: u64,
}

/// What a delivered packet is to an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Stamp(Stamp),
    /// It belongs to another load.
    Other,
    /// It belongs to this one, but it is not what was sent.
    Altered,
}

/// One kind of event. See the head of this file.
pub(crate) struct Event {
    data: Data,
    /// Complete masked frames whose digits are overwritten for each message.
    sent: Vec<u8>,
    /// Where the stamp stands in `sent`, and its place in the cycle of the mask.
    stamp: (usize, usize),
    /// Where the digits of the room stand in `asked`, if it goes to rooms.
    room: Option<usize>,
    /// Bytes of `sent` in front of `asked`.
    header: usize,
    /// What is sent in front of the stamp, in packets, and the tag.
    asked: Vec<u8>,
    tag: [u8; TAG],
    /// The packet that comes back, stamp excluded: what stands before and behind it.
    before: Vec<u8>,
    behind: Vec<u8>,
}

impl Event {
    /// An event sent as `ask`, to one of the rooms called `room` and a number if it has any, and
    /// delivered as `answer`, with `size` bytes of data, at least `DATA_MIN`.
    pub(crate) fn new(
        (ask, answer): (&str, &str),
        room: Option<&str>,
        tag: [u8; TAG],
        size: usize,
        data: Data,
    ) -> Self {
        assert!(size >= DATA_MIN, "the payload must hold the stamp");
        let zeros = [b'0'; NUMBER + TIME];
        let mut behind = filler(size - DATA_MIN).into_bytes();
        let text = data == Data::Text;
        let kind = if text { "42" } else { "451-" };
        let place = if text { "\"" } else { "{\"_placeholder\":true,\"num\":0}]" };
        let head = format!("{kind}[\"{ask}\",");
        let opening = room.map_or(String::new(), |room| quoted(room, 0) + ",");
        let asked = format!("{head}{opening}{place}").into_bytes();
        let mut before = format!("{kind}[\"{answer}\",{place}").into_bytes();
        let (sent, phase, header);
        if text {
            behind.extend_from_slice(b"\"]");
            phase = asked.len() + TAG;
            let payload = [&asked[..], &tag, &zeros, &behind].concat();
            sent = client_frame(TEXT, &payload);
            header = sent.len() - payload.len();
        } else {
            phase = TAG;
            let event = client_frame(TEXT, &asked);
            header = event.len() - asked.len();
            let attachment = client_frame(BINARY, &[&tag[..], &zeros, &behind].concat());
            sent = [event, attachment].concat();
        }
        let stamp = (sent.len() - behind.len() - zeros.len(), phase);
        // Behind the opening quote and the name.
        let room = room.map(|room| head.len() + 1 + room.len());
        before.extend_from_slice(&tag);
        Self { data, sent, stamp, room, header, asked, tag, before, behind }
    }

    /// The frames that carry `stamp` on websocket, to room number `room` if it has any.
    pub(crate) fn frame(&mut self, room: u64, stamp: Stamp) -> &[u8] {
        if let Some(at) = self.room {
            for (index, digit) in digits::<ROOM>(room).into_iter().enumerate() {
                self.sent[self.header + at + index] = digit ^ MASK[(at + index) % 4];
            }
        }
        let (at, phase) = self.stamp;
        for (index, digit) in stamp.digits().into_iter().enumerate() {
            self.sent[at + index] = digit ^ MASK[(phase + index) % 4];
        }
        &self.sent
    }

    /// The same as a payload of long-polling.
    pub(crate) fn payload(&self, room: u64, stamp: Stamp) -> Vec<u8> {
        let mut payload = self.asked.clone();
        if let Some(at) = self.room {
            payload[at..at + ROOM].copy_from_slice(&digits::<ROOM>(room));
        }
        let data = [&self.tag[..], &stamp.digits(), &self.behind].concat();
        match self.data {
            Data::Text => payload.extend(data),
            Data::Binary => polling::push_attachment(&data, &mut payload),
        }
        payload
    }

    /// What a delivered packet says. An attachment stands directly behind the text that announced
    /// it.
    pub(crate) fn read(&self, packet: &[u8]) -> Read {
        let Some(rest) = packet.strip_prefix(self.before.as_slice()) else { return Read::Other };
        match rest.split_at_checked(NUMBER + TIME) {
            Some((digits, rest)) if rest == self.behind => {
                let (number, time) = digits.split_at(NUMBER);
                match (value(number), value(time)) {
                    (Some(number), Some(intended)) => Read::Stamp(Stamp { number, intended }),
                    _ => Read::Altered,
                }
            }
            _ => Read::Altered,
        }
    }
}

impl Stamp {
    fn digits(self) -> [u8; NUMBER + TIME] {
        let mut all = [0; NUMBER + TIME];
        all[..NUMBER].copy_from_slice(&digits::<NUMBER>(self.number));
        all[NUMBER..].copy_from_slice(&digits::<TIME>(self.intended));
        all
    }
}

/// The name of room number `number` among those called `name`, as JSON.
pub(crate) fn quoted(name: &str, number: u64) -> String {
    format!("\"{name}{number:0ROOM$}\"")
}

fn digits<const N: usize>(mut number: u64) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    digits
}

fn value(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, digit| match digit {
        b'0'..=b'9' => Some(number * 10 + u64::from(digit - b'0')),
        _ => None,
    })
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
        let start = if frame[1] & 0x7f == 126 { 4 } else { 2 };
        let (mask, payload) = frame[start..].split_at(4);
        payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
    }

    fn stamps() -> [Stamp; 3] {
        [(0, 0), (7, 1), (123_456_789_012, 123_456_789_012_345_678)]
            .map(|(number, intended)| Stamp { number, intended })
    }

    #[test]
    fn an_event_carries_its_stamp_there_and_back() {
        let mut event = Event::new(("pub", "msg"), None, *b"ab", 128, Data::Text);
        let other = Event::new(("pub", "msg"), None, *b"ac", 128, Data::Text);
        for stamp in stamps() {
            let sent = unmask(event.frame(0, stamp));
            assert_eq!(sent.len(), 10 + 128 + 2);
            assert_eq!(event.payload(0, stamp), sent);
            let text = String::from_utf8(sent).expect("ascii");
            assert_eq!(&text[..12], "42[\"pub\",\"ab");
            let back = text.replace("pub", "msg");
            assert_eq!(event.read(back.as_bytes()), Read::Stamp(stamp));
            assert_eq!(other.read(back.as_bytes()), Read::Other, "another load's");
            assert_eq!(event.read(text.as_bytes()), Read::Other, "another name");
            assert_eq!(event.read(back.replace('e', "y").as_bytes()), Read::Altered);
            assert_eq!(event.read(back.replace("ab", "abx").as_bytes()), Read::Altered);
            assert_eq!(event.read(&back.as_bytes()[..back.len() - 1]), Read::Altered, "cut");
        }
    }

    #[test]
    fn an_attachment_carries_its_stamp_there_and_back() {
        let mut event = Event::new(("pub", "msg"), None, *b"ab", 128, Data::Binary);
        let head = |name| format!("451-[\"{name}\",{{\"_placeholder\":true,\"num\":0}}]");
        for stamp in stamps() {
            let frames = event.frame(0, stamp).to_vec();
            let border = 2 + 4 + head("pub").len();
            assert_eq!(frames[border], 0x80 | BINARY);
            assert_eq!(unmask(&frames[..border]), head("pub").as_bytes());
            let data = unmask(&frames[border..]);
            assert_eq!(data.len(), 128);
            let back = [head("msg").as_bytes(), &data].concat();
            assert_eq!(event.read(&back), Read::Stamp(stamp));
            assert_eq!(event.read(&back[..back.len() - 1]), Read::Altered, "cut");

            let payload = event.payload(0, stamp);
            let found: Vec<&[u8]> = polling::packets(&payload).collect();
            let mut bytes = Vec::new();
            polling::attachment(&found[1][1..], &mut bytes).expect("base64");
            assert_eq!((found[0], found[1][0], bytes), (head("pub").as_bytes(), b'b', data));
        }
    }

    #[test]
    fn the_room_is_named_in_the_event() {
        let stamp = stamps()[2];
        for data in [Data::Text, Data::Binary] {
            for size in [40, 200] {
                let mut event = Event::new(("to", "msg"), Some("ten-"), *b"ab", size, data);
                let payload = event.payload(1_234_567, stamp);
                let text = String::from_utf8_lossy(&payload).into_owned();
                let room = quoted("ten-", 1_234_567);
                let digit = if data == Data::Text { "42" } else { "451-" };
                assert!(text.starts_with(&format!("{digit}[\"to\",{room},")), "{text}");
                let frame = event.frame(1_234_567, stamp).to_vec();
                let length = polling::packets(&payload).next().map_or(0, <[u8]>::len);
                assert_eq!(unmask(&frame)[..length], payload[..length]);
            }
        }
    }
}
