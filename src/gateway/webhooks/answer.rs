//! What a backend answers: one attempt, and what becomes of it.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::config::Settings;
use super::message::{self, Message};
use crate::gateway::auth::{LIST_MAX, is_user_id, read_pattern};
use crate::gateway::fetched;
use crate::gateway::routes::{Refusal, check_room};
use crate::{Args, Binary, ConnectError, Raw};

/// How a happening has ended. Each ends in exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// The backend has it.
    Delivered,
    /// The backend has said no (4xx), and whoever waited was told so.
    Refused,
    /// Dead: the backend has said no (4xx) to what nobody waits for.
    NotTaken,
    /// Dead: too many others wait.
    QueueFull,
    /// Dead: no answer in the time that a client waits, or a worker has.
    TimedOut,
    /// Dead: all attempts have failed.
    Failed,
    /// Dead: it has waited for too long.
    Expired,
    /// Dead: the backend is down, and somebody would have to wait.
    BackendDown,
    /// Dead: the backend has it, but its answer cannot be used.
    BadAnswer,
    /// Dead: whoever waited for the answer has gone.
    Abandoned,
    /// Dead: the gateway ends.
    ShutDown,
}

impl Outcome {
    /// The word for metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Refused => "refused",
            Outcome::NotTaken => "not_taken",
            Outcome::QueueFull => "queue_full",
            Outcome::TimedOut => "timed_out",
            Outcome::Failed => "failed",
            Outcome::Expired => "expired",
            Outcome::BackendDown => "backend_down",
            Outcome::BadAnswer => "bad_answer",
            Outcome::Abandoned => "abandoned",
            Outcome::ShutDown => "shut_down",
        }
    }

    /// Whether the backend has not got it, or nobody has got its answer.
    pub(crate) fn is_dead(self) -> bool {
        !matches!(self, Outcome::Delivered | Outcome::Refused)
    }

    /// What a client is told.
    pub(crate) fn refusal(self) -> Refusal {
        let (code, message) = match self {
            Outcome::Refused => ("backend_refused", "the backend has refused the event"),
            Outcome::QueueFull => ("backend_busy", "too many events wait for the backend"),
            Outcome::TimedOut => ("backend_timeout", "the backend has not answered in time"),
            Outcome::BadAnswer => ("backend_error", "the backend's answer cannot be used"),
            _ => ("backend_unavailable", "the backend cannot be reached"),
        };
        Refusal { code, message: message.into() }
    }
}

/// Something that has ended without an answer of use.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) outcome: Outcome,
    /// For the log.
    pub(super) why: String,
}

/// What one attempt has come to.
#[derive(Debug)]
pub(super) enum Verdict {
    /// 2xx.
    Taken(Reply),
    /// 4xx: the same request would be refused again.
    Refused(Reply),
    /// It may work another time, not before that pause.
    Failed { why: String, fault: Fault, pause: Option<Duration> },
    /// The backend has it, and its answer is too long.
    Unusable(String),
}

/// Who has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody is there.
    Absent,
    /// Nobody has answered, or only who stands before the backend.
    Down,
    /// The backend, which asks for another time.
    Busy,
    /// The backend, with this request.
    Failing,
}

impl Verdict {
    /// Who has failed, if anybody has.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self {
            Verdict::Failed { fault, .. } => Some(*fault),
            _ => None,
        }
    }
}

/// An answer with all of its body.
#[derive(Debug)]
pub(super) struct Reply {
    status: u16,
    is_bytes: bool,
    body: Bytes,
}

/// Makes one request.
pub(super) async fn attempt(
    settings: &Settings,
    messages: &[&Message],
    is_batch: bool,
    is_awaited: bool,
) -> Verdict {
    let response = match message::request(settings, messages, is_batch).send().await {
        Ok(response) => response,
        Err(error) => return failed(error),
    };
    let status = response.status().as_u16();
    let pause = retry_after(&response);
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    let is_bytes = kind.is_some_and(|kind| kind.starts_with("application/octet-stream"));
    let body = fetched::body(response, settings.config.max_answer.0).await;
    match status {
        // Nobody waits for what it says.
        200..=299 if !is_awaited => Verdict::Taken(Reply { status, is_bytes, body: Bytes::new() }),
        200..=299 => match body {
            Ok(Some(body)) => Verdict::Taken(Reply { status, is_bytes, body }),
            Ok(None) => Verdict::Unusable("the answer is longer than max_answer".into()),
            Err(error) => failed(error),
        },
        400..=499 if !matches!(status, 408 | 425 | 429) => {
            let body = body.ok().flatten().unwrap_or_default();
            Verdict::Refused(Reply { status, is_bytes, body })
        }
        _ => {
            let fault = match status {
                502..=504 => Fault::Down,
                408 | 425 | 429 => Fault::Busy,
                _ => Fault::Failing,
            };
            Verdict::Failed { why: format!("status {status}"), fault, pause }
        }
    }
}

fn failed(error: reqwest::Error) -> Verdict {
    let fault = if error.is_connect() { Fault::Absent } else { Fault::Down };
    Verdict::Failed { why: fetched::cause(error), fault, pause: None }
}

/// `Retry-After` in seconds.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What a backend may say about a client that wants to connect. All of it may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admission {
    /// Refuses it.
    pub(super) refuse: Option<Refuse>,
    /// Who it is, in place of what its token says.
    pub(super) user: Option<String>,
    /// Its claims, in place of those of its token.
    pub(super) claims: Option<Value>,
    /// Rooms that it joins beside those of its token.
    pub(super) rooms: Vec<String>,
    /// What is kept with the socket for others to see.
    pub(super) data: Option<Value>,
    /// What it may do, in place of what its token says.
    pub(super) permissions: Option<Vec<String>>,
}

/// What a refused client sees.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refuse {
    #[serde(default = "not_allowed")]
    message: String,
    #[serde(default)]
    data: Option<Value>,
}

impl Refuse {
    /// What a client is told when nobody can decide about it.
    pub(super) fn unavailable() -> ConnectError {
        ConnectError::new("the backend cannot be reached")
            .with_data(serde_json::json!({ "code": "backend_unavailable" }))
    }
}

fn not_allowed() -> String {
    "not allowed".into()
}

impl From<Refuse> for ConnectError {
    fn from(refuse: Refuse) -> ConnectError {
        let error = ConnectError::new(refuse.message);
        match refuse.data {
            Some(data) => error.with_data(data),
            None => error,
        }
    }
}

impl Admission {
    /// Checks it as a token is checked.
    fn check(&self) -> Result<(), String> {
        if self.user.as_deref().is_some_and(|id| !is_user_id(id)) {
            return Err("the id of its user is no name for one".into());
        }
        let permissions = self.permissions.as_ref().map_or(0, Vec::len);
        if self.rooms.len().max(permissions) > LIST_MAX {
            return Err(format!("a list in it has more than {LIST_MAX} entries"));
        }
        let wrong = |refusal: Refusal| format!("a room in it is none: {}", refusal.message);
        self.rooms.iter().try_for_each(|room| check_room(room).map_err(wrong))
    }
}

impl Reply {
    /// Why it refuses, for the log.
    pub(super) fn why(&self) -> String {
        format!("status {}", self.status)
    }

    /// # Errors
    /// It is no such answer; the text says why.
    pub(super) fn admission(&self) -> Result<Admission, String> {
        let body = self.body.trim_ascii();
        if body.is_empty() {
            return Ok(Admission::default());
        }
        // serde takes a list for a struct as well.
        if !body.starts_with(b"{") {
            return Err("it is no object".into());
        }
        let answer: Result<Admission, _> = serde_json::from_slice(&self.body);
        let mut answer = answer.map_err(|error| error.to_string())?;
        answer.check()?;
        for pattern in answer.permissions.iter_mut().flatten() {
            *pattern = read_pattern(pattern).ok_or("a permission in it is none")?;
        }
        Ok(answer)
    }

    /// Why the backend refuses a client: its body if that is `{"message","data"}`.
    pub(super) fn refusal(&self) -> ConnectError {
        let refuse: Option<Refuse> = serde_json::from_slice(&self.body).ok();
        refuse.unwrap_or(Refuse { message: not_allowed(), data: None }).into()
    }

    /// The arguments of an acknowledgement: the elements of an array, or one value; bytes are an
    /// attachment, and an empty body is no argument. Numbers keep their digits.
    ///
    /// # Errors
    /// It is no JSON.
    pub(super) fn args(&self) -> Result<Raw, String> {
        if self.is_bytes {
            return Binary(self.body.clone()).to_raw().map_err(|error| error.to_string());
        }
        let text = std::str::from_utf8(&self.body).map_err(|error| error.to_string())?.trim_ascii();
        if text.is_empty() {
            return Ok(Raw::default());
        }
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| error.to_string())?;
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let args = inner.unwrap_or(text).trim_ascii();
        Ok(Raw { json: Bytes::copy_from_slice(args.as_bytes()), ..Raw::default() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reply(body: &'static str) -> Reply {
        Reply { status: 200, is_bytes: false, body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn an_answer_becomes_arguments() {
        for (body, args) in [
            ("", ""),
            (" [1.50, {\"a\":[]}]\n", "1.50, {\"a\":[]}"),
            ("[]", ""),
            ("{\"ok\":true}", "{\"ok\":true}"),
            ("12345678901234567890123", "12345678901234567890123"),
            ("\"[\"", "\"[\""),
        ] {
            assert_eq!(reply(body).args().expect(body).json(), args);
        }
        for body in ["[1", "1,2", "[1]]", "<html>", "{\"a\":}"] {
            assert!(reply(body).args().is_err(), "{body}");
        }
        let bytes = Reply { status: 200, is_bytes: true, body: Bytes::from_static(b"\x00\xff") };
        assert_eq!(bytes.args().expect("bytes").attachments(), [&b"\x00\xff"[..]]);
    }

    #[test]
    fn an_answer_about_a_client_is_checked() {
        assert!(reply("").admission().expect("nothing").refuse.is_none());
        let changed = reply(r#"{"user":"ada","rooms":["a"],"data":{"x":1}}"#).admission();
        assert_eq!(changed.expect("a change").user.as_deref(), Some("ada"));
        for body in ["[]", "ok", r#"{"usr":"ada"}"#, r#"{"rooms":"a"}"#, r#"{"user":1}"#] {
            assert!(reply(body).admission().is_err(), "{body}");
        }
        let (long, many) = ("x".repeat(201), vec!["a"; LIST_MAX + 1]);
        for answer in [
            json!({ "user": "" }),
            json!({ "user": "a\n" }),
            json!({ "user": long }),
            json!({ "rooms": ["a", "user:bob"] }),
            json!({ "rooms": ["AAAAAAAAAAAAAAAAAAAA"] }),
            json!({ "rooms": [""] }),
            json!({ "rooms": ["a\u{2}"] }),
            json!({ "rooms": ["x".repeat(300)] }),
            json!({ "rooms": many }),
            json!({ "permissions": many }),
        ] {
            let body = answer.to_string().into();
            let reply = Reply { status: 200, is_bytes: false, body };
            assert!(reply.admission().is_err(), "{answer}");
        }
        let refused = reply(r#"{"message":"banned","data":{"until":7}}"#).refusal();
        assert_eq!((refused.message.as_str(), refused.data.is_some()), ("banned", true));
        assert_eq!(reply("<html>").refusal().message, "not allowed");
    }
}
