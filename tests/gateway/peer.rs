//! A client of one namespace, over a websocket of its own.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::Value;

use crate::client::{Frame, Stream, WebSocket};
use crate::rig::{Gateway, until};

/// What a peer is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// Name and arguments, as JSON text between brackets.
    Event(String),
    /// The bytes of an attachment.
    Attachment(Vec<u8>),
    /// It has to leave the namespace.
    Disconnect,
    /// The connection has ended.
    End,
}

pub struct Peer {
    socket: WebSocket,
    /// As packets name it.
    namespace: String,
    pub id: String,
    asked: u64,
    told: VecDeque<Told>,
}

/// Where and how a peer connects.
#[derive(Default)]
pub struct Way<'a> {
    /// Default: `/`.
    pub namespace: &'a str,
    pub auth: Value,
    /// More for the query, with `&` before it.
    pub query: &'a str,
    /// More headers, each with its end of line.
    pub headers: &'a str,
}

impl Peer {
    /// Joins `/` with `auth`.
    ///
    /// # Errors
    /// What the namespace refuses it with.
    pub fn join(gateway: &Gateway, auth: Value) -> Result<Peer, Value> {
        Peer::by(gateway.address, &Way { auth, ..Way::default() }).expect("a session")
    }

    /// Joins `/` with `auth`, which is good enough.
    pub fn joined(gateway: &Gateway, auth: Value) -> Peer {
        Peer::join(gateway, auth).unwrap_or_else(|error| panic!("refused: {error}"))
    }

    /// # Errors
    /// Outside, the status of a refused handshake; inside, what the namespace refuses it with.
    pub fn by(address: SocketAddr, way: &Way<'_>) -> Result<Result<Peer, Value>, u16> {
        let mut stream = Stream::connect(address);
        let Way { query, headers, .. } = way;
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket{query} HTTP/1.1\r\nHost: test\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write(request.as_bytes());
        match stream.head().0 {
            101 => {}
            status => return Err(status),
        }
        let mut socket = WebSocket::of(stream);
        assert!(socket.text().starts_with("0{"));
        let namespace = match way.namespace {
            "" | "/" => String::new(),
            other => format!("{other},"),
        };
        let auth = if way.auth.is_null() { String::new() } else { way.auth.to_string() };
        send(&mut socket, 1, format!("40{namespace}{auth}").as_bytes());
        let answer = socket.text();
        let said = |start: &str| -> Option<Value> {
            let json = answer.strip_prefix(start)?.strip_prefix(namespace.as_str())?;
            Some(serde_json::from_str(json).expect("JSON"))
        };
        if let Some(refusal) = said("44") {
            return Ok(Err(refusal));
        }
        let id = said("40").unwrap_or_else(|| panic!("{answer}"));
        let id = id["sid"].as_str().expect("an id").to_owned();
        Ok(Ok(Peer { socket, namespace, id, asked: 0, told: VecDeque::new() }))
    }

    /// Leaves the namespace and joins it again on the same connection; what comes in between is
    /// forgotten.
    ///
    /// # Errors
    /// What the namespace refuses it with.
    pub fn rejoin(&mut self) -> Result<(), Value> {
        let namespace = self.namespace.clone();
        self.packet(&format!("41{namespace}"));
        self.join_again()
    }

    /// Joins the namespace that it is not in any more.
    ///
    /// # Errors
    /// What the namespace refuses it with.
    pub fn join_again(&mut self) -> Result<(), Value> {
        let namespace = self.namespace.clone();
        self.packet(&format!("40{namespace}"));
        loop {
            let Frame::Text(text) = self.frame() else { panic!("the connection ended") };
            if text.starts_with(&format!("40{namespace}")) {
                return Ok(());
            }
            if let Some(refusal) = text.strip_prefix(&format!("44{namespace}")) {
                return Err(serde_json::from_str(refusal).expect("JSON"));
            }
        }
    }

    /// Sends a packet as it is.
    pub fn packet(&mut self, text: &str) {
        send(&mut self.socket, 1, text.as_bytes());
    }

    /// Emits; `args` are JSON without brackets.
    pub fn emit(&mut self, event: &str, args: &str) {
        self.send("42", "", event, args);
    }

    /// Emits with an attachment, which `args` has a placeholder for.
    pub fn emit_binary(&mut self, event: &str, args: &str, attachment: &[u8]) {
        self.send("451-", "", event, args);
        send(&mut self.socket, 2, attachment);
    }

    fn send(&mut self, start: &str, id: &str, event: &str, args: &str) {
        let (comma, name) = (if args.is_empty() { "" } else { "," }, Value::from(event));
        let packet = format!("{start}{}{id}[{name}{comma}{args}]", self.namespace);
        send(&mut self.socket, 1, packet.as_bytes());
    }

    /// Emits and returns the answer, as JSON text between brackets. Events that come before it are
    /// kept.
    pub fn ask_raw(&mut self, event: &str, args: &str) -> String {
        self.asked += 1;
        let id = self.asked.to_string();
        self.send("42", &id, event, args);
        let start = format!("43{}{id}", self.namespace);
        loop {
            let frame = self.frame();
            if let Frame::Text(text) = &frame
                && let Some(answer) = text.strip_prefix(&start)
            {
                return answer.to_owned();
            }
            let told = self.read(frame);
            assert!(told != Told::End, "the connection ended instead of an answer to {event}");
            self.told.push_back(told);
        }
    }

    /// Emits and returns the first argument of the answer.
    pub fn ask(&mut self, event: &str, args: &str) -> Value {
        let answer = self.ask_raw(event, args);
        let answer: Vec<Value> = serde_json::from_str(&answer).expect("JSON");
        answer.into_iter().next().unwrap_or_default()
    }

    /// The code that an event is refused with; empty if it is not.
    pub fn refusal(&mut self, event: &str, args: &str) -> String {
        let answer = self.ask(event, args);
        answer["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The next frame but heartbeats, which are answered.
    fn frame(&mut self) -> Frame {
        loop {
            match self.socket.frame() {
                Frame::Text(text) if text == "2" => self.socket.send("3"),
                frame => return frame,
            }
        }
    }

    fn read(&self, frame: Frame) -> Told {
        match frame {
            Frame::End | Frame::Close => Told::End,
            Frame::Binary(bytes) => Told::Attachment(bytes),
            Frame::Text(text) if text == format!("41{}", self.namespace) => Told::Disconnect,
            Frame::Text(text) => {
                let is_event = text.starts_with("42") || text.starts_with("45");
                let at = text.find('[').filter(|_| is_event);
                Told::Event(text[at.unwrap_or_else(|| panic!("{text}"))..].to_owned())
            }
        }
    }

    /// What comes next.
    pub fn told(&mut self) -> Told {
        match self.told.pop_front() {
            Some(told) => told,
            None => {
                let frame = self.frame();
                self.read(frame)
            }
        }
    }

    /// The next event, as JSON text between brackets.
    pub fn event_raw(&mut self) -> String {
        match self.told() {
            Told::Event(event) => event,
            other => panic!("{other:?} instead of an event"),
        }
    }

    /// The next event: name and arguments.
    pub fn event(&mut self) -> Vec<Value> {
        serde_json::from_str(&self.event_raw()).expect("JSON")
    }
}

/// Sends a frame of any length, masked with zeros.
fn send(socket: &mut WebSocket, opcode: u8, payload: &[u8]) {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    socket.stream.write(&frame);
}

/// Has the gateway read another configuration, and waits until it holds.
pub fn reload(gateway: &Gateway, toml: &str) {
    let count = || gateway.log().matches("reloaded").count();
    let before = count();
    gateway.configure(toml);
    gateway.signal("HUP");
    until("the reload", || count() > before);
}
