//! Answers to requests: files, refusals, payloads.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use smallvec::SmallVec;

use super::fanout::Run;
use super::http::{Http, Phase};
use super::polling::Payload;
use super::request::Refused;
use super::{Event, Hub};
use crate::http::{ConnectionError, Headers, Request};
use crate::options::HttpCompression;
use crate::proto::coding::{Coding, THOROUGH};
use crate::proto::http::{self, Head, Method, Response};
use crate::proto::{engine3, jsonp};

/// A file that is served to GET and HEAD.
#[derive(Debug, Clone)]
pub struct StaticFile {
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Quoted `ETag`; a request that names it is answered 304.
    pub etag: String,
    /// The bytes.
    pub body: Bytes,
    /// Its bytes in other codings, written once for all shards when they are first asked for; none
    /// if it is not to be compressed.
    pub coded: Option<Arc<Coded>>,
}

/// A file in the codings of [`THOROUGH`].
#[derive(Debug, Default)]
pub struct Coded([OnceLock<Bytes>; THOROUGH.len()]);

impl StaticFile {
    /// Tens of milliseconds for the largest file of the client, once.
    const LEVEL: u32 = 5;

    /// The bytes in a coding.
    fn coded(&self, coding: Coding) -> &Bytes {
        let place = THOROUGH.iter().position(|known| *known == coding);
        let found = place.zip(self.coded.as_ref()).map(|(place, coded)| {
            coded.0[place].get_or_init(|| coding.encode(&self.body, StaticFile::LEVEL).into())
        });
        found.unwrap_or(&self.body)
    }
}

/// A file and, once somebody has asked for it, its bytes in the form that all who ask share: a
/// peer that asks and does not read costs no copy.
#[derive(Debug)]
pub(super) struct Served {
    file: Rc<StaticFile>,
    /// As it is, then in the codings of [`THOROUGH`].
    runs: [OnceCell<Run>; 1 + THOROUGH.len()],
}

impl Served {
    pub(super) fn new(file: Rc<StaticFile>) -> Served {
        Served { file, runs: Default::default() }
    }
}

/// What is answered, before the connection adds its part.
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) content_type: Option<&'a str>,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
    /// An answer of a transport, which takes the headers of hooks along (F-2).
    pub(super) is_good: bool,
}

impl Answer<'_> {
    /// A status and nothing else.
    pub(super) fn of(status: u16) -> Answer<'static> {
        Answer { status, content_type: None, headers: &[], body: b"", is_good: false }
    }
}

impl Http {
    /// What hooks and CORS add to an answer; the 101 of a websocket is a good one.
    pub(super) fn added(&self, is_good: bool) -> Fields<'_> {
        let Some(context) = self.context.as_deref() else { return Fields::new() };
        let good = is_good.then_some(&context.good).into_iter().flat_map(Headers::iter);
        // Of the same field, that of the headers' own hook counts.
        let always = context.always.iter();
        let always = always.filter(|(name, _)| !(is_good && context.good.replaces(name)));
        always.chain(good).collect()
    }
}

impl Http {
    /// Writes an answer, without its body if that comes from elsewhere.
    fn write(&mut self, answer: &Answer<'_>, head_only: bool, out: &mut Vec<u8>) {
        self.phase = Phase::Busy;
        let added = self.added(answer.is_good);
        let gives_way = |name: &str| {
            let context = self.context.as_ref();
            !added.is_empty() && context.is_some_and(|it| it.replaces(name, answer))
        };
        let own = answer.headers.iter().copied().filter(|(name, _)| !gives_way(name));
        let headers: Fields<'_> = own.chain(added.iter().copied()).collect();
        let response = Response {
            status: answer.status,
            content_type: answer.content_type.filter(|_| !gives_way("content-type")),
            headers: &headers,
            body: answer.body,
            keep_alive: self.keep_alive,
            head_only: self.is_head || head_only,
        };
        http::write_response(&response, out);
    }
}

/// Header fields of an answer.
type Fields<'a> = SmallVec<[(&'a str, &'a str); 4]>;

impl Hub {
    pub(super) fn answer_file(&mut self, index: u32, head: &Head<'_>, served: &Served) {
        let file = &served.file;
        let known = head.header("if-none-match").unwrap_or_default();
        let is_known = known.split(',').any(|tag| {
            let tag = tag.trim();
            tag.strip_prefix("W/").unwrap_or(tag) == file.etag
        });
        let accept = head.values("accept-encoding");
        let offered: &[Coding] = if file.coded.is_some() { &THOROUGH } else { &[] };
        let coding = Coding::choose(accept, offered);
        let mut headers = SmallVec::<[(&str, &str); 4]>::new();
        headers.push(("Cache-Control", "public, max-age=0"));
        headers.push(("ETag", &file.etag));
        if file.coded.is_some() {
            headers.push(("Vary", "Accept-Encoding"));
        }
        let mut body: &[u8] = b"";
        if !is_known {
            body = file.coded(coding);
            headers.extend(coding.name().map(|name| ("Content-Encoding", name)));
        }
        let response = Answer {
            content_type: Some(file.content_type),
            headers: &headers,
            body,
            ..Answer::of(if is_known { 304 } else { 200 })
        };
        let has_body = !body.is_empty() && head.method != Method::Head;
        let place = THOROUGH.iter().position(|known| *known == coding).map_or(0, |at| at + 1);
        let run = has_body.then(|| served.runs[place].get_or_init(|| Run::of(body)));
        self.respond_with(index, &response, run);
    }

    /// Refuses in the form of A.3, and tells the application if it wants to know.
    pub(super) fn refuse(&mut self, index: u32, raw: &[u8], refused: Refused) {
        let Refused { refusal, context, is_upgrade } = refused;
        let (code, message, status) = refusal.parts();
        let message = context.message().unwrap_or(message);
        if is_upgrade {
            self.links.stats.bad_requests += 1;
            let text = format!(
                "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-type: text/html\r\n\
                 Content-Length: {}\r\n\r\n{message}",
                message.len()
            );
            self.links.send_owned(index, text.into_bytes());
        } else {
            let message = serde_json::Value::from(message);
            let body = format!("{{\"code\":{code},\"message\":{message}}}");
            self.answer(index, status, Some("application/json"), body.as_bytes());
        }
        if self.config.requests.hooks.refusals
            && let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http())
        {
            let request = Request::new(raw, http.client);
            let error = ConnectionError::new(request, refusal, context);
            self.events.push_back(Event::Refused(Box::new(error)));
        }
        if is_upgrade {
            self.finish_conn(index);
        }
    }

    /// The packets of a session, as the answer to a GET (B-6), in the form that it asked for.
    pub(super) fn answer_payload(&mut self, index: u32, payload: &Payload) {
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return;
        };
        let (jsonp, coding) = (http.form.jsonp.take(), http.form.coding);
        let mut body = Cow::Borrowed(payload.bytes.as_slice());
        let mut kind = "text/plain; charset=UTF-8";
        if payload.wire.is_revision_3 {
            let is_base64 = payload.wire.is_base64 || jsonp.is_some();
            let mut out = Vec::new();
            if engine3::encode_payload(&body, is_base64, &mut out) {
                kind = "application/octet-stream";
            }
            body = out.into();
        }
        if let Some(callback) = jsonp {
            let mut out = Vec::new();
            jsonp::encode(&callback, &String::from_utf8_lossy(&body), &mut out);
            kind = "text/javascript; charset=UTF-8";
            body = out.into();
        }
        let compression = self.config.http_compression.filter(|http| {
            payload.compress && coding != Coding::Identity && body.len() >= http.threshold
        });
        if let Some(HttpCompression { level, .. }) = compression {
            let encoded = coding.encode(&body, level);
            return self.answer_polling(index, kind, coding.name(), &encoded);
        }
        self.answer_polling(index, kind, None, &body);
    }

    /// A good answer to a request of a session.
    pub(super) fn answer_polling(
        &mut self,
        index: u32,
        content_type: &str,
        coding: Option<&str>,
        body: &[u8],
    ) {
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        let mut headers = SmallVec::<[(&str, &str); 3]>::new();
        headers.push(("Cache-Control", "no-store"));
        if let Some(coding) = coding {
            headers.push(("Content-Encoding", coding));
        }
        if http.is_some_and(|http| http.form.is_trident) {
            headers.push(("X-XSS-Protection", "0"));
        }
        let content_type = Some(content_type);
        let answer = Answer { content_type, headers: &headers, body, ..Answer::of(200) };
        self.respond(index, &Answer { is_good: true, ..answer });
    }

    /// An answer after which the connection goes on if the request allows it.
    pub(super) fn answer(&mut self, index: u32, status: u16, kind: Option<&str>, body: &[u8]) {
        if status >= 400 {
            self.links.stats.bad_requests += 1;
        }
        let headers = &[("Cache-Control", "no-store")];
        let is_good = status == 200;
        self.respond(index, &Answer { status, content_type: kind, headers, body, is_good });
    }

    /// An empty answer after which the connection is closed.
    pub(super) fn answer_last(&mut self, index: u32, status: u16) {
        self.end_keep_alive(index);
        self.answer(index, status, None, b"");
    }

    /// The answer to the request in hand is the last one of its connection.
    pub(super) fn end_keep_alive(&mut self, index: u32) {
        if let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) {
            http.keep_alive = false;
        }
    }

    /// An answer to something that cannot be read on: what follows has no known meaning.
    pub(super) fn answer_error(&mut self, index: u32, status: u16) {
        self.answer_last(index, status);
        self.finish_conn(index);
    }

    /// No new session is let in.
    pub(super) fn answer_busy(&mut self, index: u32) {
        let seconds = self.refusing.map(|seconds| seconds.to_string());
        self.links.stats.bad_requests += 1;
        self.end_keep_alive(index);
        let headers = seconds.as_deref().map(|seconds| ("Retry-After", seconds));
        let headers = headers.as_slice();
        self.respond(index, &Answer { headers, ..Answer::of(503) });
        self.finish_conn(index);
    }

    pub(super) fn respond(&mut self, index: u32, answer: &Answer<'_>) {
        self.respond_with(index, answer, None);
    }

    /// `body` is that of the answer, where others share it.
    fn respond_with(&mut self, index: u32, answer: &Answer<'_>, body: Option<&Run>) {
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return;
        };
        let mut out = Vec::new();
        http.write(answer, body.is_some(), &mut out);
        self.links.send_owned(index, out);
        if let Some(body) = body {
            self.links.send_shared(index, body);
        }
        // Nothing is received meanwhile: without a deadline, a peer that does not read stays.
        self.set_conn_deadline(index, Some(self.config.head_timeout_ms));
    }
}
