//! A client with a minimal codec of its own, over plain blocking sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection};
use serde_json::Value;

/// Bound of every wait; reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Connections that this process has made.
pub static CONNECTS: AtomicU64 = AtomicU64::new(0);

/// Bytes of one connection, of the plaintext if it speaks TLS.
pub struct Stream {
    pub socket: TcpStream,
    pub tls: Option<Box<ClientConnection>>,
    pub input: Vec<u8>,
}

impl Stream {
    pub fn connect(address: SocketAddr) -> Stream {
        Stream::of(TcpStream::connect(address).expect("connects"))
    }

    /// One for which the kernels hold little that is not read: with small segments and a small
    /// window.
    pub fn connect_small(address: SocketAddr) -> Stream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.set_tcp_mss(536).expect("an option");
        socket.set_recv_buffer_size(4_096).expect("an option");
        socket.connect(&address.into()).expect("connects");
        Stream::of(socket.into())
    }

    /// A connection that exists.
    pub fn of(socket: TcpStream) -> Stream {
        CONNECTS.fetch_add(1, Ordering::Relaxed);
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_nodelay(true).expect("no delay");
        Stream { socket, tls: None, input: Vec::new() }
    }

    /// The same over TLS with a server of that name, before the handshake.
    pub fn secured(self, config: &Arc<ClientConfig>, name: &str) -> Stream {
        let name = name.to_owned().try_into().expect("a server name");
        let tls = ClientConnection::new(config.clone(), name).expect("a client");
        Stream { tls: Some(Box::new(tls)), ..self }
    }

    /// Completes the handshake of TLS.
    ///
    /// # Errors
    /// What the client has against it, or the server said.
    pub fn shake_hands(mut self) -> Result<Stream, String> {
        let Stream { socket, tls, .. } = &mut self;
        let tls = tls.as_mut().expect("TLS");
        while tls.is_handshaking() || tls.wants_write() {
            tls.complete_io(socket).map_err(|error| error.to_string())?;
        }
        Ok(self)
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let Stream { socket, tls: Some(tls), .. } = self else {
            return self.socket.write_all(bytes).expect("the server takes bytes");
        };
        tls.writer().write_all(bytes).expect("a connection");
        while tls.wants_write() {
            tls.write_tls(socket).expect("the server takes bytes");
        }
    }

    /// Reads more; false at the end, or after a reset.
    pub fn fill(&mut self) -> bool {
        let filled = self.try_fill();
        filled.unwrap_or_else(|error| panic!("waited in vain for bytes: {error}"))
    }

    /// The same, for what may end otherwise.
    pub fn try_fill(&mut self) -> std::io::Result<bool> {
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.read(&mut bytes) {
                Ok(count) => {
                    self.input.extend_from_slice(&bytes[..count]);
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(bytes) };
        loop {
            match tls.reader().read(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            tls.complete_io(&mut self.socket)?;
        }
    }

    /// Reads a response head; returns status and lower-case headers.
    pub fn head(&mut self) -> (u16, String) {
        let end = loop {
            if let Some(at) = self.input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.fill(), "the connection ended instead of an answer");
        };
        let head: Vec<u8> = self.input.drain(..end).collect();
        let head = String::from_utf8(head).expect("ASCII").to_ascii_lowercase();
        (head[9..12].parse().expect("a status"), head)
    }

    /// Reads the response to one request.
    pub fn response(&mut self) -> (u16, String) {
        let (status, head) = self.head();
        let length = head.split("content-length: ").nth(1).expect("a length");
        let length: usize = length.split("\r\n").next().expect("digits").parse().expect("digits");
        (status, self.body(length))
    }

    /// Reads the body of a response.
    pub fn body(&mut self, length: usize) -> String {
        while self.input.len() < length {
            assert!(self.fill(), "the connection ended within a body");
        }
        let body: Vec<u8> = self.input.drain(..length).collect();
        String::from_utf8(body).expect("UTF-8")
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let linger = Some(Duration::ZERO);
        socket2::SockRef::from(&self.socket).set_linger(linger).expect("an option");
    }

    pub fn request(&mut self, method: &str, target: &str, body: &str) -> (u16, String) {
        self.write(request(method, target, body).as_bytes());
        self.response()
    }

    /// Reads what still comes; returns it.
    pub fn rest(mut self) -> Vec<u8> {
        while self.fill() {}
        self.input
    }
}

pub fn request(method: &str, target: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A polling session. Every request comes on a fresh connection, or all on the one of `kept`.
pub struct Polling {
    pub address: SocketAddr,
    pub target: String,
    kept: Option<Stream>,
    /// Packets that came with others.
    packets: Vec<String>,
}

impl Polling {
    /// A session that has joined `/`.
    pub fn connect(address: SocketAddr) -> Polling {
        Polling::joined(address, None)
    }

    /// The same, all on one connection.
    pub fn connect_kept(address: SocketAddr) -> Polling {
        Polling::connect_on(Stream::connect(address))
    }

    /// The same on a connection that exists.
    pub fn connect_on(stream: Stream) -> Polling {
        let address = stream.socket.peer_addr().expect("connected");
        Polling::joined(address, Some(stream))
    }

    fn joined(address: SocketAddr, kept: Option<Stream>) -> Polling {
        let target = "/socket.io/?EIO=4&transport=polling".to_owned();
        let mut session = Polling { address, target, kept, packets: Vec::new() };
        let (status, body) = session.request("GET", "");
        assert_eq!(status, 200, "{body}");
        session.target = format!("{}&sid={}", session.target, session_id(&body));
        session.post("40");
        let packet = session.packet();
        assert!(packet.starts_with("40{"), "{packet}");
        session
    }

    fn request(&mut self, method: &str, body: &str) -> (u16, String) {
        match &mut self.kept {
            Some(kept) => kept.request(method, &self.target, body),
            None => Stream::connect(self.address).request(method, &self.target, body),
        }
    }

    pub fn session_id(&self) -> &str {
        self.target.rsplit('=').next().expect("an id")
    }

    pub fn post(&mut self, body: &str) {
        let answer = self.request("POST", body);
        assert_eq!(answer, (200, "ok".into()), "{body}");
    }

    /// The next packet but heartbeats, which are answered.
    pub fn packet(&mut self) -> String {
        loop {
            if self.packets.is_empty() {
                let (status, body) = self.request("GET", "");
                assert_eq!(status, 200, "{body}");
                self.packets = body.split('\x1e').map(str::to_owned).collect();
            }
            match self.packets.remove(0) {
                packet if packet == "2" => self.post("3"),
                packet => return packet,
            }
        }
    }
}

pub fn session_id(open: &str) -> String {
    let open: Value = serde_json::from_str(&open[1..]).expect("an open packet");
    open["sid"].as_str().expect("an id").to_owned()
}

/// What a websocket brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Binary(Vec<u8>),
    Close,
    /// The connection is over.
    End,
}

/// A websocket session.
pub struct WebSocket {
    pub stream: Stream,
    /// Id of the last event that asked for an acknowledgement.
    asked: u64,
}

impl WebSocket {
    /// A websocket at `query`, before its first frame.
    pub fn shake(address: SocketAddr, query: &str) -> WebSocket {
        WebSocket::shake_on(Stream::connect(address), query)
    }

    /// The same on a connection that exists.
    pub fn shake_on(mut stream: Stream, query: &str) -> WebSocket {
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket{query} HTTP/1.1\r\nHost: test\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write(request.as_bytes());
        WebSocket { stream, asked: 0 }
    }

    /// A websocket on a path of its own, after the answer to its handshake.
    pub fn of(stream: Stream) -> WebSocket {
        WebSocket { stream, asked: 0 }
    }

    /// Reads the answer to the handshake.
    pub fn shaken(mut self) -> WebSocket {
        let (status, head) = self.stream.head();
        assert_eq!(status, 101, "{head}");
        self
    }

    /// A session that has joined `/`.
    pub fn connect(address: SocketAddr) -> WebSocket {
        WebSocket::connect_on(Stream::connect(address))
    }

    /// The same on a connection that exists.
    pub fn connect_on(stream: Stream) -> WebSocket {
        let mut socket = WebSocket::shake_on(stream, "").shaken();
        assert!(socket.text().starts_with("0{"));
        socket.join("/");
        socket
    }

    /// Joins a namespace; returns the socket's id.
    pub fn join(&mut self, namespace: &str) -> String {
        let prefix = if namespace == "/" { "40".into() } else { format!("40{namespace},") };
        self.send(&prefix);
        let answer = self.text();
        let sid = answer.strip_prefix(&prefix).unwrap_or_else(|| panic!("{answer}"));
        let sid: Value = serde_json::from_str(sid).expect("an id");
        sid["sid"].as_str().expect("an id").to_owned()
    }

    /// Takes a polling session over.
    pub fn upgrade(session: &Polling) -> WebSocket {
        let query = format!("&sid={}", session.session_id());
        let mut socket = WebSocket::shake(session.address, &query).shaken();
        socket.send("2probe");
        assert_eq!(socket.text(), "3probe");
        socket.send("5");
        socket
    }

    /// Sends a text frame, masked with zeros, which is legal and saves the masking.
    pub fn send(&mut self, text: &str) {
        let mut frame = vec![0x81];
        match text.len() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(length).expect("a short text").to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.stream.write(&frame);
    }

    pub fn frame(&mut self) -> Frame {
        loop {
            if let Some((opcode, payload)) = self.parse() {
                return match opcode {
                    1 => Frame::Text(String::from_utf8(payload).expect("UTF-8")),
                    2 => Frame::Binary(payload),
                    8 => Frame::Close,
                    other => panic!("opcode {other}"),
                };
            }
            if !self.stream.fill() {
                assert!(self.stream.input.is_empty(), "the connection ended within a frame");
                return Frame::End;
            }
        }
    }

    fn parse(&mut self) -> Option<(u8, Vec<u8>)> {
        let input = &mut self.stream.input;
        let (first, short) = (*input.first()?, usize::from(*input.get(1)?));
        assert!(first & 0x80 != 0 && short < 128, "whole frames without a mask");
        let (at, length) = match short {
            126 => (4, u16::from_be_bytes(input.get(2..4)?.try_into().ok()?).into()),
            127 => (10, u64::from_be_bytes(input.get(2..10)?.try_into().ok()?) as usize),
            length => (2, length),
        };
        let payload = input.get(at..at + length)?.to_vec();
        input.drain(..at + length);
        Some((first & 15, payload))
    }

    /// The next packet but heartbeats, which are answered.
    pub fn text(&mut self) -> String {
        loop {
            match self.frame() {
                Frame::Text(text) if text == "2" => self.send("3"),
                Frame::Text(text) => return text,
                other => panic!("{other:?} instead of a packet"),
            }
        }
    }

    /// Emits in `/`; `args` are JSON without brackets.
    pub fn emit(&mut self, event: &str, args: &str) {
        let comma = if args.is_empty() { "" } else { "," };
        self.send(&format!("42[{event:?}{comma}{args}]"));
    }

    /// The next event in `/`: its name and arguments.
    pub fn event(&mut self) -> (String, Vec<Value>) {
        let text = self.text();
        let data = text.strip_prefix("42").unwrap_or_else(|| panic!("{text}"));
        let mut data: Vec<Value> = serde_json::from_str(data).expect("an event");
        let name = data.remove(0);
        (name.as_str().expect("a name").to_owned(), data)
    }

    /// Emits in `/` and returns the acknowledgement, which has to be what comes next.
    pub fn ask(&mut self, event: &str, args: &str) -> String {
        self.asked += 1;
        let comma = if args.is_empty() { "" } else { "," };
        self.send(&format!("42{}[{event:?}{comma}{args}]", self.asked));
        let text = self.text();
        let answer = text.strip_prefix(&format!("43{}", self.asked));
        answer.unwrap_or_else(|| panic!("{text}")).to_owned()
    }

    /// Reads to the end of the connection; returns what came before.
    pub fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            match self.frame() {
                Frame::End => return frames,
                frame => frames.push(frame),
            }
        }
    }
}
