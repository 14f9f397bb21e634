//! Questions about requests that only the application can answer: CORS by function, middleware,
//! `allow_request`, ids, headers (A.2, F-1, F-2, F-8, F-10).
//!
//! A request that is asked about keeps its place: its bytes go back to the connection's input and
//! are read again with each answer, by the same checks in the same order, so that whatever has
//! changed meanwhile is noticed. Nothing is kept about a request where there is no hook.

use std::sync::Arc;

use super::answer::Answer;
use super::directory::Directory;
use super::http::{Http, Phase};
use super::request::{Refused, Step};
use super::slab::Key;
use super::{Event, Hub};
use crate::cookie::Cookie;
use crate::cors::{Cors, Origin};
use crate::error::{ErrorContext, Refusal};
pub use crate::http::Sent;
use crate::http::{Headers, Request};
use crate::options::InitialPacket;
use crate::proto::http::{self, Head, Method};

/// What is asked about a request, in the order of the questions. The last one is answered
/// with [`Reply::Headers`], the others as they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// Which origins may read the answer: [`Reply::Origin`] (F-4).
    Origin,
    /// What middleware says: [`Reply::Headers`] or [`Reply::Sent`] (F-8).
    Middleware,
    /// Whether the handshake is allowed: [`Reply::Headers`] (A.2-4c).
    Allow,
    /// The id of the session to be: [`Reply::Id`] (A.2-6).
    Id,
    /// Headers of a good answer (F-1, F-2).
    Headers,
}

/// What the application answers.
#[derive(Debug)]
pub enum Reply {
    /// These origins.
    Origin(Origin),
    /// Go on, with these headers.
    Headers(Headers),
    /// The id.
    Id(String),
    /// This is the answer.
    Sent(Headers, Sent),
    /// The request is refused, for this reason, in the way that fits the question.
    Refused(Headers, String),
    /// The application has failed.
    Failed,
}

/// Which questions there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hooks {
    /// [`Ask::Middleware`].
    pub middleware: bool,
    /// [`Ask::Allow`].
    pub allow: bool,
    /// [`Ask::Headers`], for handshakes.
    pub initial_headers: bool,
    /// [`Ask::Headers`].
    pub headers: bool,
    /// [`Event::Refused`].
    pub refusals: bool,
}

/// What a hub is told about requests.
#[derive(Debug, Clone)]
pub struct Requests {
    /// Whether polling clients are told of websocket (`allowUpgrades`).
    pub allow_upgrades: bool,
    /// Milliseconds that a connection may be idle between requests.
    pub keep_alive_ms: u64,
    /// Milliseconds that the application has to answer all questions about a request.
    pub hook_timeout_ms: u64,
    /// Cross-origin requests.
    pub cors: Option<Cors>,
    /// Cookie of polling handshakes.
    pub cookie: Option<Cookie>,
    /// What follows the open packet.
    pub initial_packet: Option<InitialPacket>,
    /// What the application wants to be asked.
    pub hooks: Hooks,
    /// Where ids of the application's own are looked up; with it, [`Ask::Id`].
    pub directory: Option<Arc<Directory>>,
}

impl Default for Requests {
    fn default() -> Self {
        Requests {
            allow_upgrades: true,
            keep_alive_ms: 5_000,
            hook_timeout_ms: 20_000,
            cors: None,
            cookie: None,
            initial_packet: None,
            hooks: Hooks::default(),
            directory: None,
        }
    }
}

/// What was answered about the request in hand, and what its answer takes along.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// The last question that was answered.
    done: Option<Ask>,
    origin: Option<Origin>,
    pub(super) id: Option<String>,
    /// Whether the request asks for another protocol.
    is_upgrade: bool,
    /// Whether CORS has been dealt with.
    has_cors: bool,
    /// Headers of every answer.
    pub(super) always: Headers,
    /// Headers of good answers of the transports.
    pub(super) good: Headers,
}

impl Context {
    /// Whether a field of the server's own gives way to one of the application's.
    pub(super) fn replaces(&self, name: &str, answer: &Answer<'_>) -> bool {
        self.always.replaces(name) || answer.is_good && self.good.replaces(name)
    }
}

impl Http {
    pub(super) fn context(&mut self) -> &mut Context {
        self.context.get_or_insert_default()
    }
}

impl Hub {
    /// Whether the application has to be asked this now. Once answered, a question is not asked
    /// again about the same request.
    pub(super) fn must_ask(&mut self, index: u32, ask: Ask, is_handshake: bool) -> bool {
        let requests = &self.config.requests;
        let hooks = requests.hooks;
        let is_hooked = match ask {
            Ask::Origin => requests.cors.as_ref().is_some_and(|cors| cors.function().is_some()),
            Ask::Middleware => hooks.middleware,
            Ask::Allow => hooks.allow,
            Ask::Id => requests.directory.is_some(),
            Ask::Headers => hooks.headers || hooks.initial_headers && is_handshake,
        };
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        is_hooked && http.is_some_and(|http| http.context().done < Some(ask))
    }

    fn ask_about(&mut self, index: u32, ask: Ask, raw: &[u8], is_upgrade: bool) {
        let Some(conn) = self.links.conns.key_at(index) else { return };
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return;
        };
        let context = http.context();
        context.is_upgrade = is_upgrade;
        let is_first = context.done.is_none();
        http.phase = Phase::Asking { size: raw.len() };
        let request = Request::new(raw, http.client);
        if is_first {
            self.set_conn_deadline(index, Some(self.config.requests.hook_timeout_ms));
        }
        self.events.push_back(Event::Request { conn, ask, request });
    }

    /// Whether the application has answered something about the request in hand. Then the
    /// connection cannot move any more: it is being read, to notice that its peer has gone.
    pub(super) fn was_asked(&mut self, index: u32) -> bool {
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        let context = http.and_then(|http| http.context.as_deref());
        context.is_some_and(|context| context.done.is_some())
    }

    /// Asks about a request, on the shard that it belongs to: nothing is asked twice.
    pub(super) fn ask_or_migrate(
        &mut self,
        index: u32,
        ask: Ask,
        head: &Head<'_>,
        raw: &[u8],
    ) -> Step {
        let sid = http::query_value(head.query, "sid");
        let shard = sid.and_then(|sid| self.session_address(&sid)).map(|id| id.shard);
        if let Some(shard) = shard.filter(|shard| self.is_elsewhere(*shard))
            && !self.was_asked(index)
        {
            return Step::Migrate(shard);
        }
        self.ask_about(index, ask, raw, head.upgrade);
        Step::Ask(ask)
    }

    /// No answer about this request is due any more.
    pub(super) fn forget_asked(&mut self, index: u32) {
        if let Some(conn) = self.links.conns.key_at(index) {
            self.events.push_back(Event::RequestGone(conn));
        }
    }

    /// The application has answered about a request. False if nobody waits for the answer any
    /// more.
    pub fn answer_request(&mut self, conn: Key, ask: Ask, reply: Reply) -> bool {
        let Some(http) = self.links.conns.get_mut(conn).and_then(|conn| conn.http()) else {
            return false;
        };
        let Phase::Asking { size } = http.phase else { return false };
        let context = http.context();
        if context.done >= Some(ask) {
            return false;
        }
        context.done = Some(ask);
        match reply {
            Reply::Origin(origin) => context.origin = Some(origin),
            Reply::Headers(headers) if ask == Ask::Headers => context.good = headers,
            Reply::Headers(headers) => context.always.merge(headers),
            Reply::Id(id) => context.id = Some(id),
            Reply::Sent(headers, sent) => {
                context.always.merge(headers);
                self.send_instead(conn.index, size, &sent);
                return true;
            }
            Reply::Refused(headers, reason) => {
                context.always.merge(headers);
                let is_upgrade = context.is_upgrade;
                let (refusal, context) = match ask {
                    Ask::Allow => (Refusal::Forbidden, ErrorContext::Forbidden(reason)),
                    Ask::Id => (Refusal::BadRequest, ErrorContext::IdGeneration(reason)),
                    _ => (Refusal::BadRequest, ErrorContext::Middleware(reason)),
                };
                let raw = self.take_asked(conn.index, size);
                self.refuse(conn.index, &raw, Refused { refusal, context, is_upgrade });
                return true;
            }
            Reply::Failed => {
                self.answer_error(conn.index, 500);
                return true;
            }
        }
        self.http_request(conn.index);
        self.http_input(conn.index);
        self.receive_more(conn.index);
        true
    }

    /// Takes the head that was asked about out of the input.
    fn take_asked(&mut self, index: u32, size: usize) -> Vec<u8> {
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        let Some(http) = http else { return Vec::new() };
        let rest = http.input.split_off(size.min(http.input.len()));
        let asked = std::mem::replace(&mut http.input, rest);
        self.note_incoming(index);
        asked
    }

    /// The application's own answer, in place of ours.
    fn send_instead(&mut self, index: u32, size: usize, sent: &Sent) {
        self.take_asked(index, size);
        if sent.status >= 400 {
            self.links.stats.bad_requests += 1;
        }
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        if let Some(http) = http.filter(|http| http.context.as_ref().is_some_and(|c| c.is_upgrade))
        {
            http.keep_alive = false;
        }
        self.respond(index, &Answer { body: &sent.body, ..Answer::of(sent.status) });
    }

    /// CORS, for whatever lies below the path (F-4 … F-6), and the preflight's answer.
    pub(super) fn cross_origin(&mut self, index: u32, head: &Head<'_>) -> Result<(), Step> {
        if self.config.requests.cors.is_none() {
            return Ok(());
        }
        if self.must_ask(index, Ask::Origin, false) {
            return Err(Step::Ask(Ask::Origin));
        }
        let Some(cors) = &self.config.requests.cors else { return Ok(()) };
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return Ok(());
        };
        let context = http.context();
        if std::mem::replace(&mut context.has_cors, true) {
            return Ok(());
        }
        let origin = context.origin.take();
        let Some(headers) = cors.headers(origin.as_ref().unwrap_or(&cors.origin), head) else {
            return Ok(());
        };
        context.always.merge(headers);
        if head.method != Method::Options || cors.preflight_continue {
            return Ok(());
        }
        let status = cors.options_success_status;
        // `Content-Length: 0` also with 204: some browsers wait for a body otherwise.
        let headers = [("Content-Length", "0")];
        let headers = if status == 204 { headers.as_slice() } else { &[] };
        self.respond(index, &Answer { headers, ..Answer::of(status) });
        Err(Step::Answered)
    }
}
