//! One hub, its kernel and its application in memory: bytes in, bytes out, events as text.

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;
use corecast::Options;
use corecast::hub::fanout::Encoded;
use corecast::hub::hooks::{Ask, Reply as Word};
use corecast::hub::id::Secrets;
use corecast::hub::recovery::Data;
use corecast::hub::slab::Key;
use corecast::hub::{
    Answers, Config, Event, Flags, Happening, Hub, Message, Output, PeerEnd, Publish, RoomChange,
    Target, Traits,
};

#[derive(Debug, Default)]
struct Line {
    out: Vec<u8>,
    is_shut: bool,
    is_closed: bool,
}

pub struct Wire {
    pub hub: Hub,
    pub now: u64,
    /// What the application heard.
    pub log: Vec<String>,
    /// Sockets that asked to connect, in order.
    pub members: Vec<Key>,
    /// Websockets of endpoints, once for each thing that happened.
    pub sockets: Vec<Key>,
    /// Requests that the application was asked about, in order.
    pub asked: Vec<(Key, Ask)>,
    /// Accept whoever asks.
    pub accepts: bool,
    /// Do not let go of sockets that have left.
    pub keeps: bool,
    /// Leave those that ask for an unknown namespace without an answer.
    pub decides_later: bool,
    /// What the application wants of children.
    pub traits: Traits,
    /// Send nothing: the kernels' buffers are full.
    pub holds: bool,
    lines: HashMap<u32, Line>,
    pub migrated: Vec<(u16, Vec<u8>)>,
    /// Messages of recovery for other shards.
    pub mail: Vec<(u16, Message, Option<Data>)>,
}

pub fn config() -> Config {
    let options = Options::default();
    Config {
        shard: 0,
        shards: 1,
        path: "/socket.io/".into(),
        polling: true,
        websocket: true,
        allow_eio3: false,
        jsonp: true,
        http_compression: options.http_compression,
        requests: Default::default(),
        parser: options.parser.clone(),
        limits: options.limits().unwrap(),
        deflate: None,
        ping_interval_ms: 25_000,
        ping_timeout_ms: 20_000,
        upgrade_timeout_ms: 10_000,
        connect_timeout_ms: 45_000,
        head_timeout_ms: 60_000,
        body_timeout_ms: 300_000,
        queue_bytes_max: 1 << 20,
        shard_queue_bytes_max: 512 << 20,
        shard_incoming_bytes_max: 512 << 20,
        slow_reader: options.slow_reader,
        connections_max: 100,
        entrance: Default::default(),
        namespaces_max: 100,
        rooms_max: 100,
        acks_max: 100,
        gather_bytes_max: 1 << 20,
        recovery: None,
        retain_handshake: true,
        epoch_ms: 0,
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn reply(bytes: &[u8]) -> Reply {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no reply: {text:?}"));
    Reply { status: head[9..12].parse().unwrap(), head: head.into(), body: body.into() }
}

/// A client's frame; the mask is 0, so the bytes can be read in a failure.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
    }
    out.extend([0, 0, 0, 0]);
    out.extend_from_slice(payload);
    out
}

pub fn text(payload: &str) -> Vec<u8> {
    frame(0x81, payload.as_bytes())
}

/// Frames of the server as text.
pub fn unframe(mut bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (len, rest) = match second {
            126 => (u16::from_be_bytes([rest[0], rest[1]]) as usize, &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..]),
            n => (*n as usize, rest),
        };
        let payload = &rest[..len];
        bytes = &rest[len..];
        found.push(match (first, payload) {
            (0x81, text) => String::from_utf8(text.to_vec()).unwrap(),
            (0x82, bytes) => format!("<{bytes:?}>"),
            (0x88, []) => "<close>".into(),
            (0x88, [high, low, reason @ ..]) if !reason.is_empty() => {
                let code = u16::from_be_bytes([*high, *low]);
                format!("<close {code} {}>", String::from_utf8_lossy(reason))
            }
            (0x88, code) => format!("<close {}>", u16::from_be_bytes([code[0], code[1]])),
            (0x89, []) => "<ping>".into(),
            (0x8a, data) => format!("<pong {}>", String::from_utf8_lossy(data)),
            other => panic!("{other:?}"),
        });
    }
    found
}

impl Wire {
    pub fn new() -> Wire {
        Wire::with(config())
    }

    pub fn with(config: Config) -> Wire {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut hub = Hub::new(config, Secrets::new(Box::new(move |bytes| rng.fill(bytes))));
        hub.add_namespace("/");
        hub.add_namespace("/admin");
        Wire {
            hub,
            now: 0,
            log: Vec::new(),
            members: Vec::new(),
            sockets: Vec::new(),
            asked: Vec::new(),
            accepts: true,
            keeps: false,
            decides_later: false,
            traits: Traits::default(),
            holds: false,
            lines: HashMap::new(),
            migrated: Vec::new(),
            mail: Vec::new(),
        }
    }

    pub fn open(&mut self) -> u32 {
        self.open_from("127.0.0.1").unwrap()
    }

    /// A connection from that address, if it is let in.
    pub fn open_from(&mut self, ip: &str) -> Option<u32> {
        let address = SocketAddr::new(ip.parse().unwrap(), 9);
        let conn = self.hub.handle_accepted(address)?;
        self.lines.insert(conn, Line::default());
        self.run();
        Some(conn)
    }

    pub fn put(&mut self, conn: u32, bytes: impl AsRef<[u8]>) {
        self.hub.handle_received(conn, &mut bytes.as_ref().to_vec());
        self.run();
    }

    /// A new connection that sends this.
    pub fn with_bytes(&mut self, bytes: impl AsRef<[u8]>) -> u32 {
        let conn = self.open();
        self.put(conn, bytes);
        conn
    }

    pub fn end(&mut self, conn: u32, end: PeerEnd) {
        self.hub.handle_peer_closed(conn, end);
        self.run();
    }

    /// Moves the clock to `ms`.
    pub fn at(&mut self, ms: u64) {
        while let Some(wait) = self.hub.next_timeout_ms().filter(|wait| self.now + wait < ms) {
            self.now += wait;
            self.hub.handle_time(self.now);
            self.run();
        }
        self.stalled_until(ms);
    }

    /// The same after a time in which the shard did nothing at all.
    pub fn stalled_until(&mut self, ms: u64) {
        self.now = ms;
        self.hub.handle_time(self.now);
        self.run();
    }

    /// Handles everything that is to be done, sends included.
    pub fn run(&mut self) {
        loop {
            self.drain();
            if self.holds {
                return;
            }
            let mut sends = Vec::new();
            self.hub.flush(100, |conn, buf| sends.push((conn, buf)));
            if sends.is_empty() && !self.hub.has_work() {
                return;
            }
            for (conn, buf) in sends {
                let line = self.lines.get_mut(&conn).unwrap();
                assert!(!line.is_shut && !line.is_closed);
                line.out.extend(buf.to_vec());
                self.hub.handle_sent(conn, true);
                self.drain();
            }
        }
    }

    fn drain(&mut self) {
        loop {
            if let Some(output) = self.hub.poll_output() {
                match output {
                    Output::ReceiveOnce(_) | Output::ReceiveMany(_) => {}
                    Output::ShutdownWrite(conn) => {
                        self.lines.get_mut(&conn).unwrap().is_shut = true;
                    }
                    Output::Close(conn) => {
                        self.lines.get_mut(&conn).unwrap().is_closed = true;
                        self.hub.handle_closed(conn);
                    }
                    Output::Migrate { shard, bytes, .. } => self.migrated.push((shard, bytes)),
                    Output::Recover { shard, message, data } => {
                        self.mail.push((shard, message, data));
                    }
                }
            } else if let Some(event) = self.hub.poll_event() {
                self.event(event);
            } else {
                return;
            }
        }
    }

    fn event(&mut self, event: Event) {
        let line = match event {
            Event::Connect { member, namespace } => {
                self.members.push(member);
                let auth = self.hub.auth(member).unwrap_or_default().to_owned();
                if self.accepts {
                    let is_in = self.hub.accept_member(member);
                    assert!(is_in || self.hub.auth(member).is_none(), "it has not gone");
                }
                format!("connect {namespace} {auth}")
            }
            Event::Unknown(member) => {
                let name = self.hub.namespace_name(member).unwrap();
                let child = name.strip_prefix("/child-").and_then(|id| id.parse().ok());
                match child {
                    Some(id) => {
                        if self.hub.namespace_id(&name).is_none() {
                            let traits = Traits { reports_empty: true, ..self.traits };
                            self.hub.learn_namespace(id, &name, traits);
                        }
                        assert!(self.hub.place_member(member, id));
                        format!("unknown {name}")
                    }
                    None if self.decides_later => {
                        self.members.push(member);
                        format!("unknown {name}")
                    }
                    None => {
                        self.hub.refuse_member(member, "Invalid namespace", None);
                        return;
                    }
                }
            }
            Event::Empty(id) => format!("empty {id}"),
            Event::Room { room, change, .. } => match change {
                RoomChange::Created => format!("create {room}"),
                RoomChange::Deleted => format!("delete {room}"),
                RoomChange::Joined(id) => format!("join {room} {id}"),
                RoomChange::Left(id) => format!("leave {room} {id}"),
            },
            Event::Sent { member, arguments } => {
                let json = String::from_utf8_lossy(&arguments.json).into_owned();
                format!("sent {} {}({json})", member.index, arguments.name)
            }
            Event::UnexpectedAck { arguments, .. } => {
                let json = String::from_utf8_lossy(&arguments.json).into_owned();
                format!("unexpected ({json}) {}", arguments.attachments.len())
            }
            // Known from the packets.
            Event::Upgraded(_) => return,
            Event::ConnectAborted(_) => "aborted".into(),
            Event::Unkept(_) => "unkept".into(),
            Event::Packet { arguments, .. } => {
                let json = String::from_utf8_lossy(&arguments.json).into_owned();
                let ack = arguments.ack.map_or(String::new(), |ack| format!(" #{ack}"));
                let attachments: String =
                    arguments.attachments.iter().map(|a| format!(" {:?}", &a[..])).collect();
                format!("{}({json}){ack}{attachments}", arguments.name)
            }
            Event::Ack { token, outcome } => match outcome {
                Ok(arguments) => {
                    format!("ack {token} {}", String::from_utf8_lossy(&arguments.json))
                }
                Err(lost) => format!("ack {token} {lost:?}"),
            },
            Event::Answers { id, answers } => format!("answers {id} {}", outcome(&answers)),
            Event::Error { message, .. } => format!("error {message}"),
            Event::Endpoint { conn, endpoint, happening } => {
                self.sockets.push(conn);
                match happening {
                    Happening::Opened(handshake) => {
                        let head = String::from_utf8_lossy(handshake.head()).into_owned();
                        format!("open {endpoint} {}", head.lines().next().unwrap())
                    }
                    Happening::Text(text) => format!("text {text}"),
                    Happening::Binary(bytes) => format!("binary {:?}", &bytes[..]),
                    Happening::Closed { code, reason } => {
                        self.hub.finish_endpoint(conn, code);
                        format!("closed {code} {reason}")
                    }
                }
            }
            Event::Request { conn, ask, request } => {
                let line = format!("{ask:?}? {} {}", request.method(), request.target());
                self.asked.push((conn, ask));
                line
            }
            Event::RequestGone(_) => "gone".into(),
            Event::Refused(error) => {
                format!("refused {} {}: {:?}", error.code, error.message, error.context)
            }
            Event::Closing { member, reason } => {
                if !self.keeps {
                    self.hub.remove_member(member);
                }
                reason.to_string()
            }
        };
        self.log.push(line);
    }

    /// The application's word on the request that it was asked about last.
    pub fn reply_with(&mut self, reply: Word) -> bool {
        let (conn, ask) = self.asked.pop().expect("asked");
        let waits = self.hub.answer_request(conn, ask, reply);
        self.run();
        waits
    }

    /// What the application heard since the last call.
    pub fn heard(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// What was sent to a connection since the last call.
    pub fn got(&mut self, conn: u32) -> Vec<u8> {
        self.run();
        std::mem::take(&mut self.lines.get_mut(&conn).unwrap().out)
    }

    pub fn reply(&mut self, conn: u32) -> Reply {
        reply(&self.got(conn))
    }

    /// Status and body of the answer on a connection.
    pub fn answer(&mut self, conn: u32) -> (u16, String) {
        let reply = self.reply(conn);
        (reply.status, reply.body)
    }

    pub fn said(&mut self, conn: u32) -> Vec<String> {
        unframe(&self.got(conn))
    }

    /// Whether the server has ended a connection.
    pub fn is_over(&self, conn: u32) -> bool {
        let line = &self.lines[&conn];
        line.is_shut || line.is_closed
    }

    /// A request on a connection of its own: status and body.
    pub fn ask(&mut self, request: &str) -> (u16, String) {
        let conn = self.with_bytes(request);
        self.answer(conn)
    }

    /// A session over polling: its id.
    pub fn polling(&mut self) -> String {
        let (status, body) = self.ask(&get("transport=polling"));
        assert_eq!(status, 200);
        body[9..29].into()
    }

    /// A GET of a session: the connection it is parked or answered on.
    pub fn poll(&mut self, sid: &str) -> u32 {
        self.with_bytes(get(&format!("transport=polling&sid={sid}")))
    }

    pub fn post(&mut self, sid: &str, body: &str) -> (u16, String) {
        self.ask(&post(sid, body))
    }

    /// A websocket after its 101, with what came behind it.
    pub fn websocket(&mut self, sid: Option<&str>) -> (u32, Vec<String>) {
        let conn = self.with_bytes(upgrade("websocket", sid));
        let bytes = self.got(conn);
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert!(bytes.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"), "{bytes:?}");
        (conn, unframe(&bytes[end..]))
    }

    /// A websocket session in namespace `/`.
    pub fn joined(&mut self) -> u32 {
        let (conn, open) = self.websocket(None);
        assert_eq!(open.len(), 1);
        self.put(conn, text("40"));
        assert!(self.said(conn)[0].starts_with("40{\"sid\":\""));
        self.heard();
        conn
    }

    /// A polling session in namespace `/`.
    pub fn joined_polling(&mut self) -> String {
        let sid = self.polling();
        assert_eq!(self.post(&sid, "40"), (200, "ok".into()));
        let conn = self.poll(&sid);
        assert!(self.answer(conn).1.starts_with("40{\"sid\":\""));
        self.heard();
        sid
    }

    pub fn emit(&mut self, member: usize, text: &str) -> bool {
        let sent = self.hub.emit(self.members[member], text.as_bytes(), &[], Flags::default());
        self.run();
        sent
    }

    /// A broadcast to all in `/`, staged and not sent.
    pub fn publish(&mut self, text: impl Into<Bytes>, flags: Flags, attachments: Vec<Bytes>) {
        let encoded = Encoded { text: text.into(), attachments };
        self.hub.publish(&Publish { namespace: 0, target: Target::default(), flags, encoded });
    }

    /// Up to `budget` sends, of which the kernel has not said yet that they are done.
    pub fn flush(&mut self, budget: usize) -> Vec<(u32, Vec<String>)> {
        let mut sends = Vec::new();
        self.hub.flush(budget, |conn, buf| sends.push((conn, unframe(&buf.to_vec()))));
        sends
    }
}

/// What came of an ask: how many were asked, the answers, and who has not given one.
fn outcome(answers: &Answers) -> String {
    let responses = answers.responses.iter().map(|arguments| {
        let json = String::from_utf8_lossy(&arguments.json).into_owned();
        arguments.attachments.iter().fold(json, |text, bytes| format!("{text} {:?}", &bytes[..]))
    });
    let mut text = format!("{}: {}", answers.asked, responses.collect::<Vec<_>>().join("|"));
    for (what, count) in [
        ("timed_out", answers.timed_out),
        ("disconnected", answers.disconnected),
        ("unawaited", answers.unawaited),
        ("oversized", answers.oversized),
    ] {
        if count > 0 {
            text += &format!(" {what} {count}");
        }
    }
    text
}

pub fn get(query: &str) -> String {
    format!("GET /socket.io/?EIO=4&{query} HTTP/1.1\r\nHost: h\r\n\r\n")
}

pub fn post(sid: &str, body: &str) -> String {
    format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: h\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub fn upgrade(transport: &str, sid: Option<&str>) -> String {
    let sid = sid.map_or(String::new(), |sid| format!("&sid={sid}"));
    format!(
        "GET /socket.io/?EIO=4&transport={transport}{sid} HTTP/1.1\r\nHost: h\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}
