//! Our websocket decoder against tungstenite's, over random frame sequences, valid and mutated.
//!
//! Both see the same bytes and must deliver the same messages and agree on whether the stream is
//! sound, closed or broken. Differences that are meant, and how the comparison allows for them:
//!
//! * We fail as soon as a header or a character is wrong, tungstenite when the frame is complete.
//!   Every stream is therefore padded until its last frame is complete.
//! * For a close code that must not be sent tungstenite delivers a close frame with code 1002 of
//!   its own; we return an error. That counts as refusing.
//! * The limit of fragments is ours alone; no stream here reaches it.
//!
//! A failure prints the seed and the round; the same seed gives the same streams.

use std::io::{self, Cursor, Read, Write};

use corecast::options::{Limits, Options};
use corecast::proto::websocket::{self, Decoder, Opcode};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

const MESSAGE_MAX: usize = 70_000;

/// What a decoder makes of a stream.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    Refused,
}

fn limits() -> Limits {
    let limits = Options::default().limits().expect("defaults hold");
    Limits { message_bytes_max: MESSAGE_MAX, ..limits }
}

/// `bytes` through our decoder, in pieces of random size.
fn ours(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<Event> {
    let (limits, mut decoder, mut events) = (limits(), Decoder::new(), Vec::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = *random.choice([1, 3, 20, 2_000, 100_000]).as_ref().expect("not empty");
        let (piece, behind) = rest.split_at(random.usize(1..=most).min(rest.len()));
        rest = behind;
        let (mut piece, mut at) = (piece.to_vec(), 0);
        loop {
            match decoder.next(&mut piece, &mut at, &limits) {
                Ok(None) => break,
                Ok(Some(message)) => events.push(event(message)),
                Err(_) => events.push(Event::Refused),
            }
            if matches!(events.last(), Some(Event::Close(_) | Event::Refused)) {
                return events;
            }
        }
        assert_eq!(at, piece.len());
    }
    events
}

fn event(message: websocket::Message<'_>) -> Event {
    match message {
        websocket::Message::Text(text) => Event::Text(text.into()),
        websocket::Message::Binary(bytes) => Event::Binary(bytes.into()),
        websocket::Message::Ping(bytes) => Event::Ping(bytes.into()),
        websocket::Message::Pong(bytes) => Event::Pong(bytes.into()),
        websocket::Message::Deflated { .. } => unreachable!("not agreed on"),
        websocket::Message::Close(code, _) => Event::Close(code),
    }
}

/// A stream in memory: reads give what there is, then `WouldBlock`; writes are dropped.
struct Memory(Cursor<Vec<u8>>);

impl Read for Memory {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            size => Ok(size),
        }
    }
}

impl Write for Memory {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(role: Role, bytes: &[u8]) -> Vec<Event> {
    let config = WebSocketConfig::default()
        .read_buffer_size(4_096)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let mut context = WebSocketContext::new(role, Some(config));
    let mut stream = Memory(Cursor::new(bytes.to_vec()));
    let mut events = Vec::new();
    loop {
        events.push(match context.read(&mut stream) {
            Ok(Message::Text(text)) => Event::Text(text.as_str().into()),
            Ok(Message::Binary(bytes)) => Event::Binary(bytes.to_vec()),
            Ok(Message::Ping(bytes)) => Event::Ping(bytes.to_vec()),
            Ok(Message::Pong(bytes)) => Event::Pong(bytes.to_vec()),
            Ok(Message::Close(Some(frame))) if frame.reason.as_str() == "Protocol violation" => {
                Event::Refused
            }
            Ok(Message::Close(frame)) => Event::Close(frame.map(|frame| frame.code.into())),
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return events,
            Err(_) => Event::Refused,
        });
        if matches!(events.last(), Some(Event::Close(_) | Event::Refused)) {
            return events;
        }
    }
}

/// A client's frame, masked with a random key.
fn write_client_frame(first: u8, payload: &[u8], random: &mut fastrand::Rng, out: &mut Vec<u8>) {
    out.push(first);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=65_535 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask: [u8; 4] = random.u32(..).to_ne_bytes();
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Up to 66,000 characters, which is sometimes more than either side takes.
fn random_text(random: &mut fastrand::Rng) -> Vec<u8> {
    let longest = [5, 130, 700, 66_000][random.usize(0..100) / 33];
    let pool = ['a', '"', '\0', 'é', 'ß', '€', '\u{fffd}', '😀', '\u{10ffff}'];
    let mut text = String::new();
    for _ in 0..random.usize(0..=longest) {
        text.push(pool[random.usize(0..pool.len())]);
    }
    text.into_bytes()
}

fn write_control(random: &mut fastrand::Rng, out: &mut Vec<u8>) {
    let payload: Vec<u8> = (0..random.usize(0..=125)).map(|_| random.u8(..)).collect();
    write_client_frame([0x89, 0x8A][random.usize(0..2)], &payload, random, out);
}

/// A message in one to five frames, cut anywhere, with control frames in between.
fn write_message(random: &mut fastrand::Rng, out: &mut Vec<u8>) {
    let (opcode, mut payload) = (random.u8(1..=2), random_text(random));
    if opcode == 2 {
        payload.iter_mut().for_each(|byte| *byte ^= random.u8(..));
    } else if random.u8(..) == 0 && !payload.is_empty() {
        let at = random.usize(0..payload.len());
        payload[at] = random.u8(..);
    }
    let mut rest = &payload[..];
    let mut opcode = opcode;
    for _ in 0..random.usize(0..5) {
        let (front, behind) = rest.split_at(random.usize(0..=rest.len()));
        write_client_frame(opcode, front, random, out);
        (opcode, rest) = (0, behind);
        if random.bool() {
            write_control(random, out);
        }
    }
    write_client_frame(0x80 | opcode, rest, random, out);
}

fn write_close(random: &mut fastrand::Rng, out: &mut Vec<u8>) {
    let code = [1000, 1001, 1004, 1005, 1012, 1016, 2999, 3000, 4999, random.u16(..)];
    let mut payload = code[random.usize(0..code.len())].to_be_bytes().to_vec();
    payload.extend_from_slice([&b""[..], b"bye", "é".as_bytes(), b"\xff"][random.usize(0..4)]);
    payload.truncate([0, 1, 2, 9][random.usize(0..4)]);
    write_client_frame(0x88, &payload, random, out);
}

/// Fills the last frame up, unless it announces more than either side takes.
fn pad(wire: &mut Vec<u8>) {
    let mut at = 0;
    while at < wire.len() {
        let length_bytes = match wire.get(at + 1).map_or(0, |second| second & 0x7F) {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_bytes =
            if wire.get(at + 1).is_none_or(|second| second & 0x80 != 0) { 4 } else { 0 };
        let payload = at + 2 + length_bytes + mask_bytes;
        if wire.len() < payload {
            wire.resize(payload, 0x80);
        }
        let length = match length_bytes {
            0 => u64::from(wire[at + 1] & 0x7F),
            _ => wire[at + 2..at + 2 + length_bytes]
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        if length > MESSAGE_MAX as u64 {
            return;
        }
        at = payload + length as usize;
        if wire.len() < at {
            wire.resize(at, 0x80);
        }
    }
}

fn mutate(wire: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..4) {
        if wire.is_empty() {
            return;
        }
        // Near the front, where headers are, or anywhere.
        let most = if random.bool() { wire.len().min(16) } else { wire.len() };
        let at = random.usize(0..most);
        match random.u8(0..5) {
            0 => wire[at] ^= 1 << random.u8(0..8),
            1 => wire[at] = random.u8(..),
            2 => wire.insert(at, random.u8(..)),
            3 => drop(wire.remove(at)),
            _ => wire.truncate(at),
        }
    }
}

/// Counts of streams that both took whole, closed, refused: a comparison of nothing but refusals
/// would prove little.
fn compare(seed: u64, rounds: u32, mutated: bool) -> [u32; 3] {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut outcomes = [0; 3];
    for round in 0..rounds {
        let mut wire = Vec::new();
        for _ in 0..random.usize(1..6) {
            match random.u8(0..20) {
                0 => write_close(&mut random, &mut wire),
                1..=4 => write_control(&mut random, &mut wire),
                _ => write_message(&mut random, &mut wire),
            }
        }
        if mutated {
            mutate(&mut wire, &mut random);
            pad(&mut wire);
        }
        let expected = theirs(Role::Server, &wire);
        let got = ours(&wire, &mut random);
        assert!(got == expected, "seed {seed:#x}, round {round}: {} events", got.len());
        match got.last() {
            Some(Event::Refused) => outcomes[2] += 1,
            Some(Event::Close(_)) => outcomes[1] += 1,
            _ => outcomes[0] += 1,
        }
    }
    outcomes
}

#[test]
fn valid_streams_agree() {
    let [whole, closed, refused] = compare(0x5eed_1001, 2_000, false);
    assert!(whole > 1_000 && closed > 20 && refused > 20, "{whole} {closed} {refused}");
}

#[test]
fn mutated_streams_agree() {
    let [whole, closed, refused] = compare(0x5eed_1002, 6_000, true);
    assert!(whole > 500 && closed > 20 && refused > 1_000, "{whole} {closed} {refused}");
}

/// tungstenite as a client reads what we write.
#[test]
fn server_frames_are_read() {
    let mut random = fastrand::Rng::with_seed(0x5eed_1003);
    let (mut wire, mut expected) = (Vec::new(), Vec::new());
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, MESSAGE_MAX] {
        let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        let text = "x".repeat(length);
        websocket::write_frame(Opcode::Text, text.as_bytes(), &mut wire);
        websocket::write_header(Opcode::Binary, length, &mut wire);
        wire.extend_from_slice(&bytes);
        expected.extend([Event::Text(text), Event::Binary(bytes.clone())]);
        if length <= 125 {
            websocket::write_frame(Opcode::Ping, &bytes, &mut wire);
            websocket::write_frame(Opcode::Pong, &bytes, &mut wire);
            expected.extend([Event::Ping(bytes.clone()), Event::Pong(bytes)]);
        }
    }
    for code in [None, Some(1000), Some(1009)] {
        let mut wire = wire.clone();
        websocket::write_close(code, &mut wire);
        let events = theirs(Role::Client, &wire);
        assert!(events[..expected.len()] == expected[..]);
        assert_eq!(events[expected.len()..], [Event::Close(code)]);
    }
}
