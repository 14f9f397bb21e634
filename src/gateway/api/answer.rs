//! What the API answers with, and how it reads what it is sent.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::gateway::command::Problem;

/// Time that a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// JSON with a status.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn new(status: u16, body: &impl Serialize) -> Answer {
        match serde_json::to_vec(body) {
            Ok(body) => Answer { status, body: body.into() },
            Err(error) => Answer::from(Problem::new(500, "failed", error.to_string())),
        }
    }

    pub(super) fn ok(body: &impl Serialize) -> Answer {
        Answer::new(200, body)
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Answer {
        Answer {
            status: problem.status,
            body: serde_json::to_vec(&problem).unwrap_or_default().into(),
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        let status = StatusCode::from_u16(self.status);
        *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let is_problem = self.status >= 400;
        let kind = if is_problem { "application/problem+json" } else { "application/json" };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        let challenge = match self.status {
            401 => Some((header::WWW_AUTHENTICATE, "Bearer")),
            429 | 503 => Some((header::RETRY_AFTER, "1")),
            _ => None,
        };
        if let Some((name, value)) = challenge {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        Answer::from(self).into_response()
    }
}

/// Checks the type of a body, without its parameters.
///
/// # Errors
/// 415.
pub(super) fn expect_type(headers: &HeaderMap, expected: &[&str]) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if expected.iter().any(|expected| essence.eq_ignore_ascii_case(expected)) {
        return Ok(());
    }
    let detail = format!("Content-Type has to be {}, not \"{kind}\"", expected[0]);
    Err(Problem::new(415, "wrong content type", detail))
}

/// More than the limit was sent.
pub(super) fn too_large(bytes_max: usize) -> Problem {
    Problem::new(413, "too large", format!("more than api.max_body_bytes ({bytes_max})"))
}

/// Reads a body of at most so many bytes.
///
/// # Errors
/// 413, 408 if it takes too long, 400 if it ends early.
pub(super) async fn read_body(mut body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large(bytes_max));
    }
    let read = async {
        let mut bytes = Bytes::new();
        let mut several = Vec::new();
        while let Some(data) = next_data(&mut body).await? {
            if bytes.len().max(several.len()) + data.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
            // Nearly always the whole body is one piece, which is not copied.
            if bytes.is_empty() && several.is_empty() {
                bytes = data;
            } else {
                if several.is_empty() {
                    several.extend_from_slice(&bytes);
                }
                several.extend_from_slice(&data);
            }
        }
        Ok(if several.is_empty() { bytes } else { several.into() })
    };
    tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or_else(|_| Err(too_slow()))
}

fn too_slow() -> Problem {
    let detail = format!("the body has not come within {} s", BODY_TIMEOUT.as_secs());
    Problem::new(408, "too slow", detail)
}

/// The next bytes of a body.
///
/// # Errors
/// 400 if it ends early.
pub(super) async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => {
                return Err(Problem::new(400, "incomplete body", error.to_string()));
            }
        }
    }
}
