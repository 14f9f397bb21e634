//! What requests ask for: files, Engine.IO's handshake and long-polling, the way to a websocket
//! (spec A, B, C-7).

use super::Hub;
use super::answer::Answer;
use super::conn::Role;
use super::deliver::Wire;
use super::directory::Directory;
use super::hooks::Ask;
use super::http::Form;
use super::id::Id;
use super::polling::Poll;
use super::session::{Goodbye, Posted};
use super::slab::Key;
use crate::error::{ErrorContext, Reason, Refusal};
use crate::http::Request;
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
    /// The application has to say something first.
    Ask(Ask),
}

/// A refusal in the form that its transport understands (A.3).
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) context: ErrorContext,
    pub(super) is_upgrade: bool,
}

impl Hub {
    pub(super) fn route(&mut self, index: u32, head: &Head<'_>, raw: &[u8]) -> Step {
        let is_below = head.path.starts_with(self.config.path.as_str());
        if is_below && let Err(step) = self.cross_origin(index, head) {
            return step;
        }
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
        if !is_below {
            if head.upgrade {
                // F-12: nobody here will ever speak that protocol.
                self.end_keep_alive(index);
            }
            self.answer(index, 404, Some("text/plain"), b"Not found");
            return Step::Answered;
        }
        if self.must_ask(index, Ask::Middleware, false) {
            return Step::Ask(Ask::Middleware);
        }
        match self.engine_request(index, head, raw) {
            Ok(step) => step,
            Err(refused) => {
                self.refuse(index, raw, refused);
                Step::Answered
            }
        }
    }

    /// The order of checks is that of A.2.
    fn engine_request(&mut self, index: u32, head: &Head<'_>, raw: &[u8]) -> Result<Step, Refused> {
        let is_upgrade = head.upgrade;
        let refused = |refusal, context| Refused { refusal, context, is_upgrade };
        let query = |name| http::query_value(head.query, name);
        let transport = query("transport").unwrap_or_default();
        let is_polling = match &*transport {
            "polling" if self.config.polling => true,
            "websocket" if self.config.websocket => false,
            _ => {
                let context = ErrorContext::Transport(transport.into_owned());
                return Err(refused(Refusal::TransportUnknown, context));
            }
        };
        if is_polling && !self.config.jsonp && query("j").is_some() {
            let context = ErrorContext::Transport("jsonp".into());
            return Err(refused(Refusal::TransportUnknown, context));
        }
        let wire = Wire {
            is_revision_3: query("EIO").as_deref() != Some("4"),
            is_base64: query("b64").is_some_and(|b64| !b64.is_empty()),
            ..Wire::default()
        };
        let Some(sid) = query("sid") else {
            if head.method != Method::Get {
                let context = ErrorContext::Method(Request::method_of(raw).to_owned());
                return Err(refused(Refusal::BadHandshakeMethod, context));
            }
            if !is_polling && !is_upgrade {
                return Err(refused(Refusal::BadRequest, ErrorContext::TransportHandshake));
            }
            if !self.has_room(index) || !self.may_shake(index) {
                return Ok(Step::Answered);
            }
            if self.must_ask(index, Ask::Allow, true) {
                return Ok(Step::Ask(Ask::Allow));
            }
            // U-1: on an upgrade too before it is one, where the client can read it.
            if wire.is_revision_3 && !self.config.allow_eio3 {
                return Err(refused(Refusal::UnsupportedProtocol, ErrorContext::Protocol(3)));
            }
            return self.open_request(index, head, raw, is_polling, wire);
        };
        let unknown = || refused(Refusal::SessionUnknown, ErrorContext::SessionId(sid.to_string()));
        let id = self.session_address(&sid).ok_or_else(unknown)?;
        if self.is_elsewhere(id.shard) {
            // Of a session with an id of the application's own, opened since the first question.
            let is_new = self.was_asked(index);
            return if is_new { Err(unknown()) } else { Ok(Step::Migrate(id.shard)) };
        }
        let session = self.find_session(&id).ok_or_else(unknown)?;
        let on_websocket = self.is_websocket(session);
        if !is_upgrade && on_websocket == is_polling {
            let previous = if on_websocket { "websocket" } else { "polling" };
            let transport = transport.into_owned();
            let context = ErrorContext::TransportMismatch { transport, previous };
            return Err(refused(Refusal::BadRequest, context));
        }
        let is_revision_3 = self.is_revision_3(session.index);
        if is_revision_3 != wire.is_revision_3 {
            let [protocol, previous] =
                [wire.is_revision_3, is_revision_3].map(|is_3| if is_3 { 3 } else { 4 });
            let context = ErrorContext::ProtocolMismatch { protocol, previous };
            return Err(refused(Refusal::BadRequest, context));
        }
        if is_upgrade {
            return self.probe_request(index, head, session, is_polling, wire);
        }
        self.polling_request(index, head, session)
    }

    /// A request of a session on polling.
    fn polling_request(
        &mut self,
        index: u32,
        head: &Head<'_>,
        session: Key,
    ) -> Result<Step, Refused> {
        let is_known = matches!(head.method, Method::Get | Method::Post);
        if is_known && self.must_ask(index, Ask::Headers, false) {
            return Ok(Step::Ask(Ask::Headers));
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

    /// Where the session of an id is; `None` for an id that was never given out.
    pub(super) fn session_address(&self, sid: &str) -> Option<Id> {
        let id = match &self.config.requests.directory {
            Some(directory) => directory.find(sid),
            None => Id::parse(sid),
        };
        id.filter(|id| id.shard < self.config.shards)
    }

    pub(super) fn is_elsewhere(&self, shard: u16) -> bool {
        shard != self.config.shard && shard < self.config.shards
    }

    /// Whether a new session is let in; if not, that is answered. A polling session needs no
    /// connection to stay, so one connection could open them without end.
    fn has_room(&mut self, index: u32) -> bool {
        let is_full = self.links.sessions.len() >= self.config.connections_max;
        if self.is_closing || is_full || self.refusing.is_some() {
            self.answer_busy(index);
            return false;
        }
        true
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
        if head.upgrade && !self.check_websocket(index, head) {
            return Ok(Step::Answered);
        }
        // A websocket that names the wrong transport gets its 101, and then nothing (C-13).
        let is_mistaken = head.upgrade && is_polling;
        if !is_mistaken && self.must_ask(index, Ask::Id, true) {
            return Ok(Step::Ask(Ask::Id));
        }
        if self.must_ask(index, Ask::Headers, true) {
            return Ok(Step::Ask(Ask::Headers));
        }
        if is_mistaken {
            self.accept_websocket(index, head);
            self.close_websocket(index);
            return Ok(Step::Answered);
        }
        let id = self.claim_id(index).map_err(|context| Refused {
            refusal: Refusal::BadRequest,
            context,
            is_upgrade: head.upgrade,
        })?;
        if head.upgrade {
            if !self.accept_websocket(index, head) {
                return Ok(Step::Answered);
            }
            let session = self.open_session(index, raw, false, wire, id.as_deref());
            return Ok(Step::WebSocket { owner: session.index, role: Role::Session });
        }
        let session = self.open_session(index, raw, true, wire, id.as_deref());
        Ok(self.poll_request(index, session))
    }

    /// The id that the application has made up for the session to be, taken for it (A.2-6).
    fn claim_id(&mut self, index: u32) -> Result<Option<String>, ErrorContext> {
        let Some(directory) = &self.config.requests.directory else { return Ok(None) };
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        let id = http.and_then(|http| http.context().id.take()).unwrap_or_default();
        if !Directory::is_id(&id) {
            return Err(ErrorContext::IdGeneration(format!("no session id: {id:?}")));
        }
        if !directory.claim(&id) {
            return Err(ErrorContext::IdGeneration(format!("session id is taken: {id}")));
        }
        Ok(Some(id))
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
        if !self.check_websocket(index, head) {
            return Ok(Step::Answered);
        }
        if self.must_ask(index, Ask::Headers, false) {
            return Ok(Step::Ask(Ask::Headers));
        }
        self.accept_websocket(index, head);
        if is_polling || !self.begin_probe(index, session, wire) {
            self.close_websocket(index);
            return Ok(Step::Answered);
        }
        Ok(Step::WebSocket { owner: session.index, role: Role::Probe })
    }

    /// Whether a websocket may be granted; if not, that is answered (C-7).
    fn check_websocket(&mut self, index: u32, head: &Head<'_>) -> bool {
        let checked = websocket::check_handshake(head).and_then(|_| {
            let is_malformed = self.links.codec.is_malformed(head);
            if is_malformed { Err(HandshakeError::Extensions) } else { Ok(()) }
        });
        if let Err(error) = checked {
            self.refuse_handshake(index, error);
        }
        checked.is_ok()
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
                let mut out = Vec::with_capacity(160);
                if let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) {
                    http.deflate = deflate;
                    let mut headers = http.added(true);
                    let extensions = extensions.as_deref();
                    headers.extend(extensions.map(|it| ("Sec-WebSocket-Extensions", it)));
                    http::write_upgrade(&accept_key, subprotocol, &headers, &mut out);
                }
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
        self.end_keep_alive(index);
        let response = Answer {
            content_type: Some("text/html"),
            headers: &[("Sec-WebSocket-Version", "13, 8")],
            body: http::reason_phrase(error.status()).as_bytes(),
            ..Answer::of(error.status())
        };
        self.respond(index, &response);
    }

    fn poll_request(&mut self, index: u32, session: Key) -> Step {
        match self.poll(index, session) {
            Poll::Parked => Step::Parked { session },
            Poll::Answer(payload) => {
                self.answer_payload(index, &payload);
                self.drained(session.index, Ok(()));
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
