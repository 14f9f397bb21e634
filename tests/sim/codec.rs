//! The client's side of the wire, written apart from `proto` so that both do not share a mistake:
//! requests and masked frames out, responses and server frames in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fastrand::Rng;

/// An Engine.IO packet as a client sends or gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pkt {
    Text(String),
    Bin(Vec<u8>),
}

pub fn get(path: &str, query: &str, more: &str) -> Vec<u8> {
    format!("GET {path}?EIO=4&{query} HTTP/1.1\r\nHost: sim\r\n{more}\r\n").into_bytes()
}

/// A POST of packets, with a length or in chunks.
pub fn post(path: &str, sid: &str, packets: &[Pkt], more: &str, rng: &mut Rng) -> Vec<u8> {
    let body = packets.iter().map(payload_packet).collect::<Vec<_>>().join("\x1e");
    let body = body.as_bytes();
    let target = format!("POST {path}?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: sim\r\n");
    let mut out = format!("{target}{more}Content-Type: text/plain;charset=UTF-8\r\n").into_bytes();
    if rng.u8(..) > 40 {
        out.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
        out.extend_from_slice(body);
        return out;
    }
    out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
    let mut rest = body;
    while !rest.is_empty() {
        let n = rng.usize(1..=rest.len());
        out.extend(format!("{n:x}\r\n").bytes());
        out.extend_from_slice(&rest[..n]);
        out.extend(b"\r\n");
        rest = &rest[n..];
    }
    out.extend(b"0\r\n\r\n");
    out
}

fn payload_packet(packet: &Pkt) -> String {
    match packet {
        Pkt::Text(text) => text.clone(),
        Pkt::Bin(bytes) => format!("b{}", STANDARD.encode(bytes)),
    }
}

pub fn handshake(path: &str, sid: Option<&str>) -> Vec<u8> {
    let sid = sid.map_or(String::new(), |sid| format!("&sid={sid}"));
    get(
        path,
        &format!("transport=websocket{sid}"),
        "Upgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
    )
}

/// One message as masked frames, sometimes in fragments.
pub fn frames(packet: &Pkt, rng: &mut Rng) -> Vec<u8> {
    let (opcode, bytes) = match packet {
        Pkt::Text(text) => (1, text.as_bytes().to_vec()),
        Pkt::Bin(bytes) if rng.u8(..) < 30 => (1, format!("b{}", STANDARD.encode(bytes)).into()),
        Pkt::Bin(bytes) => (2, bytes.clone()),
    };
    let mut out = Vec::new();
    if rng.u8(..) > 30 {
        frame(0x80 | opcode, &bytes, rng, &mut out);
        return out;
    }
    let (mut rest, mut first) = (&bytes[..], opcode);
    while !rest.is_empty() && rng.u8(..) > 60 {
        let n = rng.usize(0..=rest.len());
        frame(first, &rest[..n], rng, &mut out);
        (rest, first) = (&rest[n..], 0);
        if rng.u8(..) < 40 {
            frame(0x8a, b"unasked", rng, &mut out);
        }
    }
    frame(0x80 | first, rest, rng, &mut out);
    out
}

pub fn frame(first: u8, payload: &[u8], rng: &mut Rng, out: &mut Vec<u8>) {
    out.push(first);
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=65_535 => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    let mask = rng.u32(..).to_be_bytes();
    out.extend(mask);
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
}

/// A frame of a server: opcode and payload.
pub fn read_frame(buf: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (first, second) = (*buf.first()?, *buf.get(1)?);
    assert_eq!((first & 0xf0, second & 0x80), (0x80, 0), "one unmasked frame, no extension");
    let (head, len) = match second {
        126 => (4, u16::from_be_bytes(buf.get(2..4)?.try_into().unwrap()) as usize),
        127 => (10, u64::from_be_bytes(buf.get(2..10)?.try_into().unwrap()) as usize),
        n => (2, n as usize),
    };
    let payload = buf.get(head..head + len)?.to_vec();
    buf.drain(..head + len);
    Some((first & 15, payload))
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub close: bool,
    pub body: Vec<u8>,
}

/// A response with `Content-Length`, or one without a body.
pub fn read_reply(buf: &mut Vec<u8>) -> Option<Reply> {
    let end = buf.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(buf[..end].to_vec()).expect("a head is text");
    let status: u16 = head.get(9..12).and_then(|s| s.parse().ok()).expect("a status");
    assert!(head.starts_with("HTTP/1.1 "), "{head}");
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned())
    };
    let len = field("content-length").map_or(0, |v| v.parse::<usize>().expect("a length"));
    if buf.len() < end + len {
        return None;
    }
    let body = buf[end..end + len].to_vec();
    buf.drain(..end + len);
    let close = field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    Some(Reply { status, close, body })
}

/// The packets of a polling answer.
pub fn read_payload(body: &[u8]) -> Vec<Pkt> {
    let text = std::str::from_utf8(body).expect("a payload is text");
    text.split('\x1e').map(|packet| read_text(packet.to_owned())).collect()
}

/// A text packet, which may be a binary message in base64.
pub fn read_text(text: String) -> Pkt {
    match text.strip_prefix('b') {
        Some(base64) => Pkt::Bin(STANDARD.decode(base64).expect("base64")),
        None => Pkt::Text(text),
    }
}

/// A Socket.IO packet of the server.
#[derive(Debug)]
pub struct Sio {
    pub kind: u8,
    pub attachments: usize,
    pub namespace: String,
    pub id: Option<u64>,
    pub json: serde_json::Value,
}

/// Reads what follows the `4`.
pub fn read_sio(text: &str) -> Sio {
    let kind = text.as_bytes()[0] - b'0';
    let mut rest = &text[1..];
    let mut attachments = 0;
    if kind >= 5 {
        let (count, behind) = rest.split_once('-').expect("an attachment count");
        attachments = count.parse().expect("an attachment count");
        rest = behind;
    }
    let mut namespace = "/";
    if rest.starts_with('/') {
        (namespace, rest) = rest.split_once(',').expect("a comma behind the namespace");
    }
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let id = (digits > 0).then(|| rest[..digits].parse().expect("an ack id"));
    let json = match &rest[digits..] {
        "" => serde_json::Value::Null,
        json => serde_json::from_str(json).expect("valid JSON"),
    };
    Sio { kind, attachments, namespace: namespace.into(), id, json }
}

/// `4` and a packet for a namespace.
pub fn sio(kind: &str, namespace: &str, id: Option<u64>, json: &str) -> String {
    let namespace = if namespace == "/" { String::new() } else { format!("{namespace},") };
    let id = id.map_or(String::new(), |id| id.to_string());
    format!("4{kind}{namespace}{id}{json}")
}
