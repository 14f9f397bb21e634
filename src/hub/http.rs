//! HTTP requests of one connection: files, Engine.IO's handshake and long-polling, the way to a
//! websocket (spec A, B, C-7).
//!
//! A request is answered before the next one is looked at; until its answer has left, input waits
//! unread, so a peer that pipelines and does not read is held by TCP and not in memory.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;

use super::Hub;
use super::conn::PeerEnd;
use super::fanout::Run;
use super::id::Id;
use super::session::Goodbye;
use super::slab::Key;
use crate::error::{Reason, Refusal};
use crate::proto::http::{self, Body, Framing, Head, Method, Response};
use crate::proto::websocket::{self, HandshakeError};

/// A file that is served as it is, to GET and HEAD.
#[derive(Debug, Clone)]
pub struct StaticFile {
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Quoted `ETag`; a request that names it is answered 304.
    pub etag: String,
    /// The bytes.
    pub body: Bytes,
}

/// A file and, once somebody has asked for it, its bytes in the form that all who ask share: a
/// peer that asks and does not read costs no copy.
#[derive(Debug)]
pub(super) struct Served {
    file: Rc<StaticFile>,
    run: OnceCell<Run>,
}

impl Served {
    pub(super) fn new(file: Rc<StaticFile>) -> Served {
        Served { file, run: OnceCell::new() }
    }
}

/// What an HTTP connection is doing.
#[derive(Debug)]
pub(super) enum Phase {
    /// Waiting for a request, or for the rest of its head.
    Head,
    /// Receiving the body of a POST for `session`.
    Body { session: Key, body: Body, bytes: Vec<u8> },
    /// A GET that waits for a packet of `session`.
    Parked { session: Key },
    /// The answer is on its way.
    Busy,
}

/// The record of an HTTP connection; boxed, as most connections leave HTTP soon.
#[derive(Debug)]
pub(super) struct Http {
    /// Read and not yet understood.
    pub(super) input: Vec<u8>,
    pub(super) phase: Phase,
    pub(super) address: SocketAddr,
    /// Whether the request in hand allows another one after it.
    keep_alive: bool,
    /// Whether the request in hand is a HEAD, whose answer has no body.
    is_head: bool,
}

impl Http {
    pub(super) fn new(address: SocketAddr, input: Vec<u8>) -> Http {
        Http { input, phase: Phase::Head, address, keep_alive: true, is_head: false }
    }

    /// A parked GET is read on, to notice that its peer has gone (B-8), unless a next request is
    /// already there.
    pub(super) fn wants_input(&self) -> bool {
        match self.phase {
            Phase::Head | Phase::Body { .. } => true,
            Phase::Parked { .. } => self.input.is_empty(),
            Phase::Busy => false,
        }
    }
}

/// What a request head leads to.
enum Step {
    /// An answer is queued, or the connection is closing.
    Answered,
    /// The body comes next.
    Body { session: Key, body: Body },
    /// The answer comes when there is a packet.
    Parked { session: Key },
    /// The connection is a websocket now.
    WebSocket { session: u32, probe: bool },
    /// The session lives elsewhere.
    Migrate(u16),
}

/// What is answered, before the connection adds its part.
struct Answer<'a> {
    status: u16,
    content_type: Option<&'a str>,
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
}

/// A refusal in the form that its transport understands (A.3).
struct Refused {
    refusal: Refusal,
    is_upgrade: bool,
}

impl Hub {
    /// Goes on with what has been read.
    pub(super) fn http_input(&mut self, index: u32) {
        loop {
            let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
                return;
            };
            let went_on = match http.phase {
                Phase::Head => self.http_head(index),
                Phase::Body { .. } => self.http_body(index),
                Phase::Parked { .. } | Phase::Busy => false,
            };
            if !went_on {
                return;
            }
        }
    }

    /// Tries to read a request head. True when something changed.
    fn http_head(&mut self, index: u32) -> bool {
        let limits = self.config.limits;
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return false;
        };
        let mut input = std::mem::take(&mut http.input);
        let (step, consumed) = match http::parse_head(&input, &limits) {
            Ok(None) => {
                http.input = input;
                return false;
            }
            Ok(Some((head, consumed))) => {
                // A body that nobody reads would be taken for the next request: unless it is read
                // (`post_request`), the answer is the last one.
                let has_body = !matches!(head.framing, Framing::None | Framing::Length(0));
                http.keep_alive = head.keep_alive && !has_body && !self.is_closing;
                http.is_head = head.method == Method::Head;
                (self.route(index, &head, &input[..consumed]), consumed)
            }
            Err(error) => {
                self.answer_error(index, error.status());
                return false;
            }
        };
        match step {
            Step::Migrate(shard) => {
                self.migrate(index, shard, input);
                return false;
            }
            Step::WebSocket { session, probe } => {
                self.become_websocket(index, session, probe, &mut input[consumed..]);
                return false;
            }
            _ => {}
        }
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return false;
        };
        input.drain(..consumed);
        // While the connection waits for its next request or for a packet it holds no buffer.
        http.input = if input.is_empty() { Vec::new() } else { input };
        match step {
            Step::Body { session, body } => {
                http.phase = Phase::Body { session, body, bytes: Vec::new() };
                self.set_conn_deadline(index, Some(self.config.body_timeout_ms));
            }
            Step::Parked { session } => {
                http.phase = Phase::Parked { session };
                self.set_conn_deadline(index, None);
            }
            _ => http.phase = Phase::Busy,
        }
        true
    }

    /// Goes on with the body of a POST. True when it is complete.
    fn http_body(&mut self, index: u32) -> bool {
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return false;
        };
        let Phase::Body { session, body, bytes } = &mut http.phase else { return false };
        let session = *session;
        match body.decode(&http.input, bytes) {
            Ok(consumed) => {
                http.input.drain(..consumed);
                if http.input.is_empty() {
                    http.input = Vec::new();
                }
                if !body.is_done() {
                    return false;
                }
                let bytes = std::mem::take(bytes);
                http.phase = Phase::Busy;
                self.post_complete(index, session, &bytes);
                true
            }
            Err(error) => {
                // Too large a body costs the request and not the session (B-11); the rest of it
                // is not read.
                self.post_over(session);
                if error.status() != 413 {
                    self.close_session(session.index, Reason::TransportError, Goodbye::Close);
                }
                self.answer_error(index, error.status());
                false
            }
        }
    }

    fn route(&mut self, index: u32, head: &Head<'_>, raw: &[u8]) -> Step {
        let is_read = matches!(head.method, Method::Get | Method::Head);
        if is_read
            && !head.upgrade
            && let Some(file) = self.files.get(head.path).cloned()
        {
            self.answer_file(index, head, &file);
            return Step::Answered;
        }
        if !head.path.starts_with(self.config.path.as_str()) {
            self.answer(index, 404, Some("text/plain"), b"Not found");
            return Step::Answered;
        }
        match self.engine_request(index, head, raw) {
            Ok(step) => step,
            Err(Refused { refusal, is_upgrade }) => {
                self.refuse(index, refusal, is_upgrade);
                Step::Answered
            }
        }
    }

    /// The order of checks is that of A.2.
    fn engine_request(&mut self, index: u32, head: &Head<'_>, raw: &[u8]) -> Result<Step, Refused> {
        let is_upgrade = head.upgrade;
        let refused = |refusal| Refused { refusal, is_upgrade };
        let query = |name| http::query_value(head.query, name);
        let transport = query("transport").unwrap_or_default();
        let is_polling = match &*transport {
            "polling" if self.config.polling => true,
            "websocket" if self.config.websocket => false,
            _ => return Err(refused(Refusal::TransportUnknown)),
        };
        let revision_4 = query("EIO").as_deref() == Some("4");
        let Some(sid) = query("sid") else {
            if head.method != Method::Get {
                return Err(refused(Refusal::BadHandshakeMethod));
            }
            if !is_polling && !is_upgrade {
                return Err(refused(Refusal::BadRequest));
            }
            if !revision_4 {
                return Err(refused(Refusal::UnsupportedProtocol));
            }
            return self.open_request(index, head, raw, is_polling);
        };
        let id = Id::parse(&sid).ok_or(refused(Refusal::SessionUnknown))?;
        if id.shard != self.config.shard {
            return match id.shard < self.config.shards {
                true => Ok(Step::Migrate(id.shard)),
                false => Err(refused(Refusal::SessionUnknown)),
            };
        }
        let session = self.find_session(&id).ok_or(refused(Refusal::SessionUnknown))?;
        if !revision_4 || (!is_upgrade && (self.is_websocket(session) || !is_polling)) {
            return Err(refused(Refusal::BadRequest));
        }
        if is_upgrade {
            return self.probe_request(index, head, session, is_polling);
        }
        match head.method {
            Method::Get => Ok(self.poll_request(index, session)),
            Method::Post => Ok(self.post_request(index, head, session)),
            _ => {
                self.answer(index, 500, None, b"");
                Ok(Step::Answered)
            }
        }
    }

    /// A handshake: a new session over polling or websocket.
    fn open_request(
        &mut self,
        index: u32,
        head: &Head<'_>,
        raw: &[u8],
        is_polling: bool,
    ) -> Result<Step, Refused> {
        // A polling session needs no connection to stay, so one connection could open them
        // without end.
        if self.is_closing || self.links.sessions.len() >= self.config.connections_max {
            self.answer_error(index, 503);
            return Ok(Step::Answered);
        }
        if head.upgrade {
            if !self.accept_websocket(index, head) {
                return Ok(Step::Answered);
            }
            if is_polling {
                self.close_websocket(index);
                return Ok(Step::Answered);
            }
            let session = self.open_session(index, raw, false);
            return Ok(Step::WebSocket { session: session.index, probe: false });
        }
        let session = self.open_session(index, raw, true);
        Ok(self.poll_request(index, session))
    }

    /// A websocket that wants to take an open polling session over (D-1, C-12, C-13).
    fn probe_request(
        &mut self,
        index: u32,
        head: &Head<'_>,
        session: Key,
        is_polling: bool,
    ) -> Result<Step, Refused> {
        if !self.accept_websocket(index, head) {
            return Ok(Step::Answered);
        }
        if is_polling || !self.begin_probe(index, session) {
            self.close_websocket(index);
            return Ok(Step::Answered);
        }
        Ok(Step::WebSocket { session: session.index, probe: true })
    }

    /// Queues the 101, or what is wrong with the request.
    fn accept_websocket(&mut self, index: u32, head: &Head<'_>) -> bool {
        match websocket::check_handshake(head) {
            Ok(handshake) => {
                let mut out = Vec::with_capacity(160);
                http::write_upgrade(&handshake.accept_key, handshake.subprotocol, &mut out);
                self.links.send_owned(index, out);
                true
            }
            Err(error) => {
                self.refuse_handshake(index, error);
                false
            }
        }
    }

    fn refuse_handshake(&mut self, index: u32, error: HandshakeError) {
        self.links.stats.bad_requests += 1;
        if let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) {
            http.keep_alive = false;
        }
        let response = Answer {
            status: error.status(),
            content_type: Some("text/html"),
            headers: &[("Sec-WebSocket-Version", "13, 8")],
            body: http::reason_phrase(error.status()).as_bytes(),
        };
        self.respond(index, &response);
    }

    fn poll_request(&mut self, index: u32, session: Key) -> Step {
        match self.poll(index, session) {
            super::session::Poll::Parked => Step::Parked { session },
            super::session::Poll::Answer(payload) => {
                self.answer_payload(index, &payload);
                Step::Answered
            }
            super::session::Poll::Overlap => {
                self.answer(index, 400, None, b"");
                Step::Answered
            }
        }
    }

    fn post_request(&mut self, index: u32, head: &Head<'_>, session: Key) -> Step {
        let content_type = head.header("content-type").unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let is_binary = media_type.eq_ignore_ascii_case("application/octet-stream");
        if is_binary || !self.begin_post(index, session) {
            // B-12 and B-10: either way the transport is not what it was announced to be.
            self.close_session(session.index, Reason::TransportError, Goodbye::Close);
            self.answer_last(index, 400);
            return Step::Answered;
        }
        let limit = self.config.limits.message_bytes_max;
        if matches!(head.framing, Framing::Length(length) if length > limit as u64) {
            self.post_over(session);
            self.answer_error(index, 413);
            return Step::Answered;
        }
        if let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) {
            http.keep_alive = head.keep_alive && !self.is_closing;
        }
        if head.expect_continue {
            self.links.send_owned(index, http::CONTINUE.to_vec());
        }
        Step::Body { session, body: Body::new(head.framing, limit) }
    }

    fn post_complete(&mut self, index: u32, session: Key, bytes: &[u8]) {
        self.post_over(session);
        let body = String::from_utf8_lossy(bytes);
        match self.session_payload(session, &body) {
            true => self.answer(index, 200, Some("text/html"), b"ok"),
            false => self.answer_last(index, 400),
        }
    }

    /// The answer in hand has left.
    pub(super) fn http_answered(&mut self, index: u32) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        let peer_closed = conn.peer_closed;
        let Some(http) = conn.http() else { return };
        if !http.keep_alive {
            return self.finish_conn(index);
        }
        http.phase = Phase::Head;
        self.set_conn_deadline(index, Some(self.config.head_timeout_ms));
        self.http_input(index);
        // A peer that half-closed after several requests gets all their answers.
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        if peer_closed && http.is_some_and(|http| matches!(http.phase, Phase::Head)) {
            self.finish_conn(index);
        }
    }

    pub(super) fn http_peer_closed(&mut self, index: u32, end: PeerEnd) {
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return;
        };
        match http.phase {
            // A peer that half-closes after its request still gets the answer.
            Phase::Busy if end == PeerEnd::Eof => return,
            Phase::Parked { session } | Phase::Body { session, .. } => {
                self.forget_request(session, index);
                self.close_session(session.index, Reason::TransportError, Goodbye::Close);
            }
            Phase::Head | Phase::Busy => {}
        }
        self.drop_conn(index);
    }

    /// A deadline of an HTTP connection has passed.
    pub(super) fn http_due(&mut self, index: u32) {
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return;
        };
        match http.phase {
            Phase::Head if http.input.is_empty() => self.drop_conn(index),
            Phase::Busy => self.drop_conn(index),
            Phase::Body { session, .. } => {
                self.forget_request(session, index);
                self.close_session(session.index, Reason::TransportError, Goodbye::Close);
                self.answer_error(index, 408);
            }
            _ => self.answer_error(index, 408),
        }
    }

    fn answer_file(&mut self, index: u32, head: &Head<'_>, served: &Served) {
        let file = &served.file;
        let known = head.header("if-none-match").unwrap_or_default();
        let is_known = known.split(',').any(|tag| {
            let tag = tag.trim();
            tag.strip_prefix("W/").unwrap_or(tag) == file.etag
        });
        let response = Answer {
            status: if is_known { 304 } else { 200 },
            content_type: Some(file.content_type),
            headers: &[("Cache-Control", "public, max-age=0"), ("ETag", &file.etag)],
            body: if is_known { b"" } else { &file.body },
        };
        let has_body = !response.body.is_empty() && head.method != Method::Head;
        let run = has_body.then(|| served.run.get_or_init(|| Run::of(&file.body)));
        self.respond_with(index, &response, run);
    }

    /// Refuses in the form of A.3.
    fn refuse(&mut self, index: u32, refusal: Refusal, is_upgrade: bool) {
        let (code, message, status) = refusal.parts();
        if is_upgrade {
            self.links.stats.bad_requests += 1;
            let text = format!(
                "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-type: text/html\r\n\
                 Content-Length: {}\r\n\r\n{message}",
                message.len()
            );
            self.links.send_owned(index, text.into_bytes());
            return self.finish_conn(index);
        }
        let body = format!("{{\"code\":{code},\"message\":\"{message}\"}}");
        self.answer(index, status, Some("application/json"), body.as_bytes());
    }

    /// The packets of a session, as the answer to a GET (B-6).
    pub(super) fn answer_payload(&mut self, index: u32, payload: &[u8]) {
        self.answer(index, 200, Some("text/plain; charset=UTF-8"), payload);
    }

    /// An answer after which the connection goes on if the request allows it.
    pub(super) fn answer(&mut self, index: u32, status: u16, kind: Option<&str>, body: &[u8]) {
        if status >= 400 {
            self.links.stats.bad_requests += 1;
        }
        let headers = &[("Cache-Control", "no-store")];
        self.respond(index, &Answer { status, content_type: kind, headers, body });
    }

    /// An empty answer after which the connection is closed.
    fn answer_last(&mut self, index: u32, status: u16) {
        if let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) {
            http.keep_alive = false;
        }
        self.answer(index, status, None, b"");
    }

    /// An answer to something that cannot be read on: what follows has no known meaning.
    fn answer_error(&mut self, index: u32, status: u16) {
        self.answer_last(index, status);
        self.finish_conn(index);
    }

    fn respond(&mut self, index: u32, answer: &Answer<'_>) {
        self.respond_with(index, answer, None);
    }

    /// `body` is that of the answer, where others share it.
    fn respond_with(&mut self, index: u32, answer: &Answer<'_>, body: Option<&Run>) {
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return;
        };
        http.phase = Phase::Busy;
        let response = Response {
            status: answer.status,
            content_type: answer.content_type,
            headers: answer.headers,
            body: answer.body,
            keep_alive: http.keep_alive,
            head_only: http.is_head || body.is_some(),
        };
        let mut out = Vec::new();
        http::write_response(&response, &mut out);
        self.links.send_owned(index, out);
        if let Some(body) = body {
            self.links.send_shared(index, body);
        }
        // Nothing is received meanwhile: without a deadline, a peer that does not read stays.
        self.set_conn_deadline(index, Some(self.config.head_timeout_ms));
    }

    /// The server goes: idle connections end now, the others after their answer.
    pub(super) fn http_shut_down(&mut self, index: u32) {
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return;
        };
        http.keep_alive = false;
        if matches!(http.phase, Phase::Head) && http.input.is_empty() {
            self.finish_conn(index);
        }
    }
}
