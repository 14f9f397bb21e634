//! What machines ask to know how the gateway is: health, metrics, and the files that describe it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Extracted;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;

use super::answer::Answer;
use super::{Api, Permission};
use crate::gateway::command::Problem;
use crate::gateway::metrics::Format;
use crate::gateway::state::State;

/// How long shards have to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The description of the API, as `docs/openapi.json` has it.
pub(super) const DESCRIPTION: &str = include_str!("../../../docs/openapi.json");
const PAGE: &str = include_str!("dashboard.html");

/// `GET /healthz`: the process runs.
pub(super) async fn alive() -> Answer {
    #[derive(Serialize)]
    struct Alive {
        status: &'static str,
    }
    Answer::ok(&Alive { status: "alive" })
}

/// Whether clients should be sent here, and why not.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    status: &'static str,
    /// The data port is open to new sessions.
    accepting: bool,
    shards: usize,
    /// Shards that have answered within a second.
    answering: usize,
}

impl Readiness {
    pub(super) fn is_ready(&self) -> bool {
        self.status == "ready"
    }
}

pub(super) async fn readiness(state: &State) -> Readiness {
    let accepting = state.is_accepting();
    let shards = state.server.shard_stats().len();
    let answering = match state.server.ask_shards_within(PATIENCE, None, |_| ()) {
        Ok(asked) => asked.await.0.len(),
        Err(_) => 0,
    };
    let is_ready = accepting && shards > 0 && answering == shards;
    let status = if is_ready { "ready" } else { "not ready" };
    Readiness { status, accepting, shards, answering }
}

/// `GET /readyz`
pub(super) async fn ready(Extracted(api): Extracted<Arc<Api>>) -> Response {
    let readiness = readiness(&api.state).await;
    let status = if readiness.is_ready() { 200 } else { 503 };
    let mut response = Answer::new(status, &readiness).into_response();
    // It is the same document, ready or not.
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// `GET /metrics`
pub(super) async fn metrics(
    Extracted(api): Extracted<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if !api.state.rules().config.api.open_metrics {
        api.admit_to(&headers, Permission::Read)?;
    }
    let format = Format::accepted(headers.get(header::ACCEPT).and_then(|it| it.to_str().ok()));
    let text = api.state.metrics.render(&api.state, format).await;
    let text = text.map_err(|error| Problem::new(500, "failed", error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, format.content_type())], text).into_response())
}

/// `GET /openapi.json`
pub(super) async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}

/// `GET /`: the dashboard. It holds no data; those it asks for with the key that is typed in.
pub(super) async fn page() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                  frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(PAGE)).into_response()
}
