//! Answers to requests: files, refusals, payloads.

use std::cell::OnceCell;
use std::rc::Rc;

use bytes::Bytes;

use super::Hub;
use super::fanout::Run;
use super::http::Phase;
use crate::error::Refusal;
use crate::proto::http::{self, Head, Method, Response};

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

/// What is answered, before the connection adds its part.
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) content_type: Option<&'a str>,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

impl Hub {
    pub(super) fn answer_file(&mut self, index: u32, head: &Head<'_>, served: &Served) {
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
    pub(super) fn refuse(&mut self, index: u32, refusal: Refusal, is_upgrade: bool) {
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
    pub(super) fn answer_last(&mut self, index: u32, status: u16) {
        if let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) {
            http.keep_alive = false;
        }
        self.answer(index, status, None, b"");
    }

    /// An answer to something that cannot be read on: what follows has no known meaning.
    pub(super) fn answer_error(&mut self, index: u32, status: u16) {
        self.answer_last(index, status);
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
}
