//! HTTP on one connection: heads, bodies, keep-alive, deadlines. What a request asks for is in
//! `request.rs`, what it is answered in `answer.rs`.
//!
//! A request is answered before the next one is looked at; until its answer has left, input waits
//! unread, so a peer that pipelines and does not read is held by TCP and not in memory.

use std::net::SocketAddr;

use super::Hub;
use super::conn::PeerEnd;
use super::gate::{Peer, TooMany};
use super::hooks::Context;
use super::request::Step;
use super::session::Goodbye;
use super::slab::Key;
use crate::error::Reason;
use crate::proto::coding::{self, Coding};
use crate::proto::deflate::Agreed;
use crate::proto::http::{self, Body, Framing, Head, Method};
use crate::proto::jsonp;

/// What an HTTP connection is doing.
#[derive(Debug)]
pub(super) enum Phase {
    /// Waiting for a request, or for the rest of its head.
    Head,
    /// Receiving the body of a POST for `session`.
    Body { session: Key, body: Body, bytes: Vec<u8> },
    /// The application is asked about the request whose head, of `size` bytes, is in front of the
    /// input; it is read again with each answer.
    Asking { size: usize },
    /// A GET that waits for a packet of `session`.
    Parked { session: Key },
    /// The answer is on its way.
    Busy,
}

/// In which form the request in hand brings or wants a payload.
#[derive(Debug, Default)]
pub(super) struct Form {
    /// Number of the script's function that takes the answer; a POST is a form then (B-19).
    pub(super) jsonp: Option<Box<str>>,
    /// The coding that the client likes best (B-18).
    pub(super) coding: Coding,
    /// Whether it is a browser that takes payloads for attacks (B-6).
    pub(super) is_trident: bool,
    /// Whether the body of a POST is bytes (H-5).
    pub(super) is_octets: bool,
}

impl Form {
    fn of(head: &Head<'_>) -> Form {
        let accept = head.values("accept-encoding");
        let agent = head.header("user-agent").unwrap_or_default();
        let kind = head.header("content-type").unwrap_or_default().split(';').next();
        let is_octets = |kind: &str| kind.trim().eq_ignore_ascii_case("application/octet-stream");
        Form {
            jsonp: http::query_value(head.query, "j").map(|j| jsonp::callback(&j)),
            coding: Coding::choose(accept, &coding::QUICK),
            is_trident: agent.contains(";MSIE") || agent.contains("Trident/"),
            is_octets: kind.is_some_and(is_octets),
        }
    }
}

/// The record of an HTTP connection; boxed, as most connections leave HTTP soon.
#[derive(Debug)]
pub(super) struct Http {
    /// Read and not yet understood.
    pub(super) input: Vec<u8>,
    pub(super) phase: Phase,
    pub(super) peer: Peer,
    /// Who has sent the request in hand: the peer, or the client of a trusted proxy.
    pub(super) client: SocketAddr,
    /// Why the client is let in no further.
    pub(super) refusal: Option<TooMany>,
    /// Whether the request in hand was counted as a handshake of its client.
    pub(super) is_counted: bool,
    /// Whether the request in hand allows another one after it.
    pub(super) keep_alive: bool,
    /// Whether the request in hand is a HEAD, whose answer has no body.
    pub(super) is_head: bool,
    pub(super) form: Form,
    /// What was agreed on for the websocket that the connection becomes.
    pub(super) deflate: Option<Agreed>,
    /// Nothing of a next request was read; the deadline is that of keep-alive.
    is_idle: bool,
    /// What hooks and CORS have to do with the request in hand; nearly always nothing.
    pub(super) context: Option<Box<Context>>,
}

impl Http {
    pub(super) fn new(peer: Peer, input: Vec<u8>) -> Http {
        Http {
            input,
            phase: Phase::Head,
            client: peer.address,
            peer,
            refusal: None,
            is_counted: false,
            keep_alive: true,
            is_head: false,
            form: Form::default(),
            deflate: None,
            is_idle: false,
            context: None,
        }
    }

    /// A parked GET is read on, to notice that its peer has gone (B-8), unless a next request is
    /// already there; a request that is asked about likewise.
    pub(super) fn wants_input(&self) -> bool {
        match self.phase {
            Phase::Head | Phase::Body { .. } => true,
            Phase::Parked { .. } => self.input.is_empty(),
            Phase::Asking { size } => self.input.len() <= size,
            Phase::Busy => false,
        }
    }
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
                Phase::Asking { .. } | Phase::Parked { .. } | Phase::Busy => false,
            };
            if !went_on {
                return;
            }
        }
    }

    /// Tries to read the head of a new request. True when something changed.
    fn http_head(&mut self, index: u32) -> bool {
        if let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) {
            http.context = None;
            http.is_counted = false;
        }
        self.http_request(index)
    }

    /// Does what the head in front of the input asks for, or goes on with it after an answer of
    /// the application. True when something changed.
    pub(super) fn http_request(&mut self, index: u32) -> bool {
        let limits = self.config.limits;
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return false;
        };
        let mut input = std::mem::take(&mut http.input);
        let (step, consumed) = match http::parse_head(&input, &limits) {
            Ok(None) => {
                let has_begun = !input.is_empty() && std::mem::take(&mut http.is_idle);
                http.input = input;
                if has_begun {
                    self.set_conn_deadline(index, Some(self.config.head_timeout_ms));
                }
                return false;
            }
            Ok(Some((head, consumed))) => {
                // A body that nobody reads would be taken for the next request: unless it is read
                // (`post_request`), the answer is the last one.
                let has_body = !matches!(head.framing, Framing::None | Framing::Length(0));
                http.keep_alive = head.keep_alive && !has_body && !self.is_closing;
                http.is_head = head.method == Method::Head;
                http.form = Form::of(&head);
                http.is_idle = false;
                let step = match self.admit(index, &head, &input[..consumed]) {
                    Step::Ask(ask) => self.ask_or_migrate(index, ask, &head, &input[..consumed]),
                    step => step,
                };
                (step, consumed)
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
            Step::Ask(_) => {
                if let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) {
                    http.input = input;
                }
                return false;
            }
            Step::WebSocket { owner, role } => {
                self.become_websocket(index, owner, role, &mut input[consumed..]);
                return false;
            }
            _ => {}
        }
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return false;
        };
        // While the connection waits for its next request or for a packet it holds no buffer.
        http.input = input[consumed..].to_vec();
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

    /// The answer in hand has left.
    pub(super) fn http_answered(&mut self, index: u32) {
        let Some(conn) = self.links.conns.at_mut(index) else { return };
        let peer_closed = conn.peer_closed;
        let Some(http) = conn.http() else { return };
        if !http.keep_alive {
            return self.finish_conn(index);
        }
        http.phase = Phase::Head;
        http.is_idle = true;
        self.rise_from_request(index);
        self.set_conn_deadline(index, Some(self.config.requests.keep_alive_ms));
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
            Phase::Asking { .. } => self.forget_asked(index),
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
            Phase::Asking { .. } => {
                self.forget_asked(index);
                self.answer_error(index, 503);
            }
            _ => self.answer_error(index, 408),
        }
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
