//! Many commands in one request: a line each, and a line of result for each, in order, while the
//! rest is still on its way. Neither side is ever held as a whole.

use std::io::Write;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::answer::{expect_type, next_data, too_large};
use super::callers::Grant;
use super::places::Work;
use super::{Api, carry_out};
use crate::gateway::command::{Command, Outcome, Problem};
use crate::gateway::state::Rules;

/// Bytes of results that leave together while there is more to do.
const CHUNK: usize = 16 * 1_024;
/// Commands between two looks at other requests.
const TURN: u64 = 128;

/// What the caller wants to hear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Results {
    /// A line for each command.
    #[default]
    All,
    /// A line for each that failed, and one with the numbers at the end: for callers that do not
    /// read before they have written everything.
    Errors,
}

/// Who sends a batch. It may stay open for long, so that is looked at again when it may be another
/// answer: after a reload, and when a token has expired.
pub(super) struct Caller {
    headers: HeaderMap,
    grant: Arc<Grant>,
    /// What the grant is from.
    rules: Weak<Rules>,
}

impl Caller {
    /// Whoever has sent these headers.
    ///
    /// # Errors
    /// As [`Api::admit`].
    pub(super) fn new(api: &Api, headers: &HeaderMap) -> Result<Caller, Problem> {
        let rules = Arc::downgrade(&api.state.rules());
        Ok(Caller { headers: headers.clone(), grant: api.admit(headers)?, rules })
    }

    /// What it may do now.
    ///
    /// # Errors
    /// 401, 403: nothing any more.
    fn grant(&mut self, api: &Api) -> Result<&Arc<Grant>, Problem> {
        let rules = api.state.rules();
        if self.rules.as_ptr() != Arc::as_ptr(&rules) || self.grant.has_ended() {
            self.grant = rules.callers.identify(&self.headers)?;
            self.rules = Arc::downgrade(&rules);
        }
        Ok(&self.grant)
    }

    /// The same, once its rate lets it do one thing more.
    ///
    /// # Errors
    /// As above.
    async fn admit(&mut self, api: &Api) -> Result<Arc<Grant>, Problem> {
        while let Err(wait) = self.grant(api)?.take() {
            tokio::time::sleep(wait).await;
        }
        Ok(self.grant.clone())
    }
}

/// Starts a batch; the results are the body of the response.
///
/// # Errors
/// 415; 400 with a key for idempotency, as what has been done is not kept.
pub(super) fn start(
    api: &Arc<Api>,
    caller: Caller,
    results: Results,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let kinds = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
    expect_type(&parts.headers, &kinds)?;
    if parts.headers.contains_key("idempotency-key") {
        let detail = "a batch is not kept; send its commands one by one, or without the key";
        return Err(Problem::new(400, "no idempotency for batches", detail));
    }
    let (sender, receiver) = mpsc::channel(2);
    let batch = Batch {
        api: api.clone(),
        caller,
        is_over: false,
        results,
        line_bytes_max: api.body_bytes_max(),
        partial: Vec::new(),
        is_skipping: false,
        lines: 0,
        commands: 0,
        failed: 0,
        out: Vec::new(),
        sender,
    };
    let under_way = parts.extensions.get::<Arc<Work>>().cloned();
    let run = async move {
        // Nobody is told of a caller that has gone.
        let _ = batch.run(body).await;
        drop(under_way);
    };
    tokio::spawn(run.in_current_span());
    let mut response = Response::new(Body::new(Channel(receiver)));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// A body that comes out of a channel.
struct Channel(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Channel {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A batch that is being carried out.
struct Batch {
    api: Arc<Api>,
    caller: Caller,
    /// The caller may do nothing any more.
    is_over: bool,
    results: Results,
    line_bytes_max: usize,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// The line is too long, and its rest is passed over.
    is_skipping: bool,
    lines: u64,
    commands: u64,
    failed: u64,
    /// Results that have not left.
    out: Vec<u8>,
    sender: mpsc::Sender<Bytes>,
}

/// The caller does not read any more.
struct Gone;

#[derive(Serialize)]
struct Failed<'a> {
    line: u64,
    #[serde(flatten)]
    problem: &'a Problem,
}

impl Batch {
    async fn run(mut self, mut body: Body) -> Result<(), Gone> {
        while !self.is_over {
            match next_data(&mut body).await {
                Ok(Some(data)) => self.take(&data).await?,
                Ok(None) => break,
                // What was in the middle of its way was no whole command.
                Err(problem) => {
                    self.partial.clear();
                    self.lines += 1;
                    self.report(Err(problem));
                    break;
                }
            }
        }
        if !self.is_over && (self.is_skipping || !self.partial.is_empty()) {
            let last = std::mem::take(&mut self.partial);
            self.line(&last).await?;
        }
        if self.results == Results::Errors {
            let (commands, failed) = (self.commands, self.failed);
            let _ = writeln!(self.out, "{{\"commands\":{commands},\"failed\":{failed}}}");
        }
        self.flush().await
    }

    /// Carries out the lines that are complete now.
    async fn take(&mut self, mut data: &[u8]) -> Result<(), Gone> {
        while !self.is_over
            && let Some(at) = data.iter().position(|byte| *byte == b'\n')
        {
            let line = &data[..at];
            data = &data[at + 1..];
            if self.partial.is_empty() {
                self.line(line).await?;
            } else {
                self.keep(line);
                let mut whole = std::mem::take(&mut self.partial);
                self.line(&whole).await?;
                whole.clear();
                self.partial = whole;
            }
        }
        self.keep(data);
        self.flush().await
    }

    /// Keeps the beginning of a line, up to the bound.
    fn keep(&mut self, data: &[u8]) {
        if self.is_skipping || self.partial.len() + data.len() > self.line_bytes_max {
            self.is_skipping = true;
            self.partial.clear();
        } else {
            self.partial.extend_from_slice(data);
        }
    }

    async fn line(&mut self, text: &[u8]) -> Result<(), Gone> {
        self.lines += 1;
        let text = text.trim_ascii();
        let is_long = std::mem::take(&mut self.is_skipping) || text.len() > self.line_bytes_max;
        if text.is_empty() && !is_long {
            return Ok(());
        }
        let outcome = match is_long {
            true => Err(too_large(self.line_bytes_max)),
            false => self.carry_out(text).await,
        };
        self.report(outcome);
        if self.commands.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
        if self.out.len() >= CHUNK { self.flush().await } else { Ok(()) }
    }

    async fn carry_out(&mut self, text: &[u8]) -> Result<Outcome, Problem> {
        let command = Command::read(text, None)?;
        let admitted = self.caller.admit(&self.api).await;
        let grant = admitted.inspect_err(|_| self.is_over = true)?;
        carry_out(&self.api, &grant, command).await
    }

    /// Writes the result of the line.
    fn report(&mut self, outcome: Result<Outcome, Problem>) {
        self.commands += 1;
        let (line, out) = (self.lines, &mut self.out);
        // Writing to memory cannot fail.
        let _ = match outcome {
            Ok(_) if self.results == Results::Errors => Ok(()),
            Ok(Outcome::Sent {}) => writeln!(out, "{{\"line\":{line},\"status\":202}}"),
            Ok(outcome) => {
                let result = serde_json::to_string(&outcome).unwrap_or_default();
                writeln!(out, "{{\"line\":{line},\"status\":200,\"result\":{result}}}")
            }
            Err(problem) => {
                self.failed += 1;
                let failed = Failed { line, problem: &problem };
                writeln!(out, "{}", serde_json::to_string(&failed).unwrap_or_default())
            }
        };
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.out.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.out, Vec::with_capacity(CHUNK + 1_024));
        self.sender.send(bytes.into()).await.map_err(|_| Gone)
    }
}
