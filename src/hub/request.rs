//! What requests ask for: files, Engine.IO's handshake and long-polling, the way to a websocket
//! (spec A, B, C-7).

use super::Hub;
use super::answer::Answer;
use super::conn::Role;
use super::deliver::Wire;
use super::http::Form;
use super::id::Id;
use super::polling::Poll;
use super::session::{Goodbye, Posted};
use super::slab::Key;
use crate::error::{Reason, Refusal};
use crate::proto::http::{self, Body, Framing, Head, Method};
use crate::proto::jsonp;
use crate::proto::websocket::{self, Handshake, HandshakeError};

/// What a request head leads to.
pub(super) enum Step {
    /// An answer is queued, or the connection is closing.
    Answered,
    /// The body comes next.
    Body { session: Key, body: Body },
    /// The answer comes when there is a packet.
    Parked { session: Key },
    /// The connection is a websocket now.
    WebSocket { owner: u32, role: Role },
    /// The session lives elsewhere.
    Migrate(u16),
}

/// A refusal in the form that its transport understands (A.3).
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) is_upgrade: bool,
}

impl Hub {
    pub(super) fn route(&mut self, index: u32, head: &Head<'_>, raw: &[u8]) -> Step {
        let is_read = matches!(head.method, Method::Get | Method::Head);
        if is_read
            && !head.upgrade
            && let Some(file) = self.files.get(head.path).cloned()
        {
            self.answer_file(index, head, &file);
            return Step::Answered;
        }
        if let Some(endpoint) = self.endpoint_at(head.path) {
            return self.endpoint_request(index, head, raw, endpoint);
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
        let wire = Wire {
            is_revision_3: query("EIO").as_deref() != Some("4"),
            is_base64: query("b64").is_some_and(|b64| !b64.is_empty()),
            ..Wire::default()
        };
        let Some(sid) = query("sid") else {
            if head.method != Method::Get {
                return Err(refused(Refusal::BadHandshakeMethod));
            }
            if !is_polling && !is_upgrade {
                return Err(refused(Refusal::BadRequest));
            }
            // U-1: on an upgrade too before it is one, where the client can read it.
            if wire.is_revision_3 && !self.config.allow_eio3 {
                return Err(refused(Refusal::UnsupportedProtocol));
            }
            return self.open_request(index, head, raw, is_polling, wire);
        };
        let id = Id::parse(&sid).ok_or(refused(Refusal::SessionUnknown))?;
        if id.shard != self.config.shard {
            return match id.shard < self.config.shards {
                true => Ok(Step::Migrate(id.shard)),
                false => Err(refused(Refusal::SessionUnknown)),
            };
        }
        let session = self.find_session(&id).ok_or(refused(Refusal::SessionUnknown))?;
        let is_other = self.is_revision_3(session.index) != wire.is_revision_3;
        if is_other || (!is_upgrade && (self.is_websocket(session) || !is_polling)) {
            return Err(refused(Refusal::BadRequest));
        }
        if is_upgrade {
            return self.probe_request(index, head, session, is_polling, wire);
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
        wire: Wire,
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
            let session = self.open_session(index, raw, false, wire);
            return Ok(Step::WebSocket { owner: session.index, role: Role::Session });
        }
        let session = self.open_session(index, raw, true, wire);
        Ok(self.poll_request(index, session))
    }

    /// A websocket that wants to take an open polling session over (D-1, C-12, C-13).
    fn probe_request(
        &mut self,
        index: u32,
        head: &Head<'_>,
        session: Key,
        is_polling: bool,
        wire: Wire,
    ) -> Result<Step, Refused> {
        if !self.accept_websocket(index, head) {
            return Ok(Step::Answered);
        }
        if is_polling || !self.begin_probe(index, session, wire) {
            self.close_websocket(index);
            return Ok(Step::Answered);
        }
        Ok(Step::WebSocket { owner: session.index, role: Role::Probe })
    }

    /// Queues the 101, or what is wrong with the request.
    pub(super) fn accept_websocket(&mut self, index: u32, head: &Head<'_>) -> bool {
        let checked = websocket::check_handshake(head).and_then(|handshake| {
            let agreed = self.links.codec.negotiate(index, head);
            Ok((handshake, agreed.map_err(|_| HandshakeError::Extensions)?))
        });
        match checked {
            Ok((Handshake { accept_key, subprotocol }, agreed)) => {
                let (deflate, extensions) = agreed.unzip();
                if let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) {
                    http.deflate = deflate;
                }
                let mut out = Vec::with_capacity(160);
                http::write_upgrade(&accept_key, subprotocol, extensions.as_deref(), &mut out);
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
            Poll::Parked => Step::Parked { session },
            Poll::Answer(payload) => {
                self.answer_payload(index, &payload);
                Step::Answered
            }
            Poll::Overlap => {
                self.answer(index, 400, None, b"");
                Step::Answered
            }
        }
    }

    fn post_request(&mut self, index: u32, head: &Head<'_>, session: Key) -> Step {
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        let is_octets = http.is_some_and(|http| http.form.is_octets);
        let is_wrong = is_octets && !self.is_revision_3(session.index);
        if is_wrong || !self.begin_post(index, session) {
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

    pub(super) fn post_complete(&mut self, index: u32, session: Key, bytes: &[u8]) {
        self.post_over(session);
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        let Some(Form { jsonp, is_octets, .. }) = http.map(|http| &http.form) else { return };
        let posted = match is_octets {
            true => Posted::Octets(bytes),
            false if jsonp.is_none() => Posted::Text(String::from_utf8_lossy(bytes)),
            // A form without a payload is a payload without a packet.
            false => {
                let payload = jsonp::decode(&String::from_utf8_lossy(bytes));
                Posted::Text(payload.unwrap_or_default().into())
            }
        };
        match self.session_payload(session, &posted) {
            true => self.answer_polling(index, "text/html", None, b"ok"),
            false => self.answer_last(index, 400),
        }
    }
}
