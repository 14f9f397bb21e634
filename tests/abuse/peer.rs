//! One TCP connection to the server, without any library between the test and the bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

/// Nothing on loopback takes as long; whoever waits this long has found something.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Not zero, so that a server that forgets to unmask is seen.
const MASK: [u8; 4] = [0x9a, 0x3c, 0x71, 0x05];

/// An answer over HTTP.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn is(&self, status: u16, body: &str) {
        assert_eq!((self.status, self.body.as_str()), (status, body), "{}", self.head);
    }
}

/// A frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Binary(Vec<u8>),
    /// Compressed text, as it came.
    Deflated(Vec<u8>),
    Pong(Vec<u8>),
    /// With its code; 1005 stands for none.
    Close(u16),
}

pub struct Peer {
    pub stream: TcpStream,
    /// Received and not yet looked at.
    input: Vec<u8>,
}

impl Peer {
    pub fn connect(address: SocketAddr) -> Peer {
        Peer::of(TcpStream::connect(address).expect("the server accepts"))
    }

    pub fn of(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream, input: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Sends to a server that may have closed already.
    pub fn push(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Ends the connection with a reset instead of a FIN.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads more; false at the end of the connection, however it ended.
    fn more(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(size) => {
                self.input.extend_from_slice(&bytes[..size]);
                true
            }
            // Signals of the executor's timers reach this thread too.
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if is_timeout(&error) => panic!("the server says nothing: {:?}", self.input),
            Err(_) => false,
        }
    }

    /// Reads for as long as the timeout allows and keeps nothing.
    pub fn glance(&mut self) {
        let mut bytes = [0; 16 * 1024];
        while matches!(self.stream.read(&mut bytes), Ok(1..)) {}
    }

    /// Whether something was received and not looked at.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// All that comes until the server closes.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.input)
    }

    /// The server closes and says nothing before.
    pub fn is_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "said before closing: {:?}", String::from_utf8_lossy(&rest));
    }

    pub fn response(&mut self) -> Response {
        self.try_response().expect("a response before the end of the connection")
    }

    /// The next answer, or `None` if the connection ends without one.
    pub fn try_response(&mut self) -> Option<Response> {
        let end = loop {
            match self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if self.more() => {}
                None => return None,
            }
        };
        let head = String::from_utf8(self.input[..end].to_vec()).expect("a head is text");
        let status: u16 = head[9..12].parse().expect("a status");
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let end_of_body = end + length.unwrap_or(0usize);
        while self.input.len() < end_of_body {
            assert!(self.more(), "the connection ended inside a body");
        }
        let body = String::from_utf8(self.input[end..end_of_body].to_vec()).expect("text");
        self.input.drain(..end_of_body);
        Some(Response { status, head, body })
    }

    /// The only answer on this connection: it comes, and the server closes.
    pub fn last_response(&mut self) -> Response {
        let response = self.response();
        let rest = self.rest();
        assert!(rest.is_empty(), "behind the answer: {:?}", String::from_utf8_lossy(&rest));
        response
    }

    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.send(request);
        self.response()
    }

    /// Goes over to websocket, which must be granted.
    pub fn upgrade(&mut self, query: &str) {
        let response = self.ask(upgrade(query));
        assert_eq!(response.status, 101, "{}", response.head);
    }

    /// Sends a text frame.
    pub fn say(&mut self, text: &str) {
        self.send(frame(0x81, text.as_bytes()));
    }

    pub fn frame(&mut self) -> Frame {
        self.try_frame().expect("a frame before the end of the connection")
    }

    /// The next frame, or `None` at the end of the connection.
    pub fn try_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, size)) = read_frame(&self.input) {
                self.input.drain(..size);
                return Some(frame);
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// The next text that is no ping of Engine.IO; those are answered.
    pub fn text(&mut self) -> String {
        loop {
            match self.frame() {
                Frame::Text(ping) if ping == "2" => self.say("3"),
                Frame::Text(text) => return text,
                other => panic!("no text: {other:?}"),
            }
        }
    }

    /// The server closes the websocket with this code, and then the connection.
    pub fn is_closed_with(&mut self, code: u16) {
        loop {
            match self.try_frame() {
                Some(Frame::Close(found)) => {
                    assert_eq!(found, code);
                    return self.is_closed();
                }
                Some(_) => {}
                None => panic!("closed without a close frame"),
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The first frame of `bytes` and its size.
fn read_frame(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, at) = match second {
        126 => (usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize, 10),
        length => (usize::from(length), 2),
    };
    let payload = bytes.get(at..at + length)?;
    let frame = match first {
        0x81 => Frame::Text(String::from_utf8(payload.to_vec()).expect("text is UTF-8")),
        0x82 => Frame::Binary(payload.to_vec()),
        0xc1 => Frame::Deflated(payload.to_vec()),
        0x8a => Frame::Pong(payload.to_vec()),
        0x88 => match payload {
            [] => Frame::Close(1005),
            [high, low] => Frame::Close(u16::from_be_bytes([*high, *low])),
            more => panic!("a close frame says {more:?}"),
        },
        other => panic!("first byte of a frame: {other:#x}"),
    };
    Some((frame, at + length))
}

/// A masked frame with this first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = header(first, payload.len() as u64);
    let masked = payload.iter().zip(MASK.iter().cycle());
    out.extend(masked.map(|(byte, mask)| byte ^ mask));
    out
}

/// The header of a masked frame, whatever follows.
pub fn header(first: u8, length: u64) -> Vec<u8> {
    let mut out = vec![first];
    match length {
        0..=125 => out.push(0x80 | length as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend(length.to_be_bytes());
        }
    }
    out.extend(MASK);
    out
}

pub fn text(payload: &str) -> Vec<u8> {
    frame(0x81, payload.as_bytes())
}

pub fn get(query: &str) -> String {
    format!("GET /socket.io/?{query} HTTP/1.1\r\nHost: h\r\n\r\n")
}

pub fn post(query: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /socket.io/?{query} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

pub fn upgrade(query: &str) -> String {
    format!(
        "GET /socket.io/?{query} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

pub const POLLING: &str = "EIO=4&transport=polling";
pub const WEBSOCKET: &str = "EIO=4&transport=websocket";
