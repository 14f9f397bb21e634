//! The life of a gateway after its start: reload, drain, and what systemd is told about it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use sd_notify::NotifyState;
use serde_json::json;
use tokio::time::Instant;

use super::command::Problem;
use super::config::{self, Config, Loaded};
use super::run::ServeArguments;
use super::state::{Rules, State};
use super::{auth, clients, drain, log, trace};
use crate::Options;

/// What a page is.
pub(super) const PAGE_TYPE: &str = "text/html; charset=utf-8";
/// The longest time that backends get at the end.
const BACKENDS_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How the gateway was started, and whether it is about to end.
#[derive(Default)]
pub(crate) struct Life {
    start: OnceLock<(ServeArguments, Config)>,
    /// One reload at a time.
    reloading: Mutex<()>,
    is_draining: AtomicBool,
    /// Until when backends have time for what they have not been told yet, once it ends.
    backends_until: OnceLock<Instant>,
}

impl Life {
    /// Remembers what to read again, and what the server was made of.
    pub(super) fn begin(&self, arguments: ServeArguments, config: Config) {
        let _ = self.start.set((arguments, config));
    }

    /// Until when backends are waited for: so long from the first call on.
    pub(super) fn backends_until(&self, within: Duration) -> Instant {
        *self.backends_until.get_or_init(|| Instant::now() + within.min(BACKENDS_MAX))
    }

    /// Whether new sessions are refused, because the gateway is about to end.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }
}

/// A configuration that can be run.
pub(super) struct Ready {
    pub(super) loaded: Loaded,
    pub(super) options: Options,
    pub(super) rules: Rules,
    /// What is served at `/`.
    pub(super) page: Option<Vec<u8>>,
}

/// Reads the configuration and checks all of it.
///
/// # Errors
/// All that is wrong, a line each, with file, line and key where they are known.
pub(super) fn ready(arguments: &ServeArguments) -> Result<Ready, String> {
    let loaded = config::load(arguments)?;
    let config = &loaded.config;
    let options = config::options(config);
    let rules = Rules::new(config.clone());
    let (filter, traces) = (log::filter(&config.log).map(drop), trace::check(&config.trace));
    let page = config.server.page.as_ref().map(|path| {
        let read = std::fs::read(path);
        read.map_err(|error| format!("server.page: cannot read {}: {error}", path.display()))
    });
    let page = page.transpose();
    let made = [options.as_ref().err(), rules.as_ref().err()].into_iter().flatten().cloned();
    let wrong = made.chain(page.as_ref().err().cloned()).chain(filter.err()).chain(traces.err());
    let wrong: Vec<String> = wrong.map(|error| loaded.locate(&error)).collect();
    match (options, rules, page) {
        (Ok(options), Ok(rules), Ok(page)) if wrong.is_empty() => {
            Ok(Ready { loaded, options, rules, page })
        }
        _ => Err(wrong.join("\n")),
    }
}

/// Reads the configuration again. Returns the keys that have changed and need a restart; they stay
/// what they were. `by` is who wants it, for the log. Blocks for the reading of files.
///
/// # Errors
/// What is wrong with it; nothing has changed then.
pub(super) fn reload(state: &Arc<State>, by: &str) -> Result<Vec<String>, String> {
    let _turn = state.life.reloading.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some((arguments, running)) = state.life.start.get() else {
        return Err("the gateway has not started yet".into());
    };
    notify(&[NotifyState::Reloading]);
    let outcome = ready(arguments).and_then(|mut ready| {
        let config = &ready.loaded.config;
        ready.rules.keep_fixed(running).map_err(|error| ready.loaded.locate(&error))?;
        ready.loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let fixed = config::fixed_changes(running, config);
        let filter = log::filter(&config.log)?;
        // The last that can fail: what must not change keeps some new values from holding.
        let changed = state.server.reconfigure(&with_cors(ready.options, state));
        changed.map_err(|error| ready.loaded.locate(&config::rule_broken(error)))?;
        log::replace(filter);
        let before = state.rules();
        if config.server.page.is_some() || before.config.server.page.is_some() {
            replace_page(state, ready.page);
        }
        state.replace_rules(ready.rules);
        clients::leave_removed(state, &before);
        Ok(fixed)
    });
    notify(&[NotifyState::Ready]);
    match &outcome {
        Ok(fixed) if fixed.is_empty() => tracing::info!(by, "reloaded"),
        Ok(fixed) => {
            tracing::warn!(by, "reloaded, but a restart is needed for {}", fixed.join(", "));
        }
        Err(error) => tracing::error!(by, "not reloaded, nothing has changed: {error}"),
    }
    outcome
}

/// As at the start: without `server.cors`, pages of `auth.origins` may long-poll.
fn with_cors(mut options: Options, state: &Arc<State>) -> Options {
    let asked = state.clone();
    let readers = move |origin: Option<&str>| Some(asked.rules().origins.readers(origin));
    options.cors.get_or_insert_with(|| auth::cors(readers));
    options
}

/// Serves another page at `/`, or none.
fn replace_page(state: &State, page: Option<Vec<u8>>) {
    if let Err(error) = state.server.replace_file("/", PAGE_TYPE, page.map(Into::into)) {
        tracing::error!("server.page: the old one is served on: {error}");
    }
}

/// Begins to drain; false if that has begun before. `by` is who wants it, for the log.
pub(super) fn drain(state: &Arc<State>, by: &str) -> bool {
    let is_first = !state.life.is_draining.swap(true, Ordering::Relaxed);
    if is_first {
        let over = state.rules().config.drain.over;
        tracing::info!(by, "draining for {over}; a second signal leaves at once");
        notify(&[NotifyState::Stopping]);
        state.spawn(drain::run(state.clone()));
    }
    is_first
}

/// Tells systemd, where it has started the process.
pub(super) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("systemd is not told: {error}");
    }
}

/// `POST /reload` and `POST /drain`, for the API to protect and to mount.
pub(super) fn routes() -> Router<Arc<State>> {
    Router::new().route("/reload", post(answer_reload)).route("/drain", post(answer_drain))
}

/// Who a request is from, for the log; set by the API.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) String);

/// Where the API has not said who.
fn name(caller: Option<Extension<Caller>>) -> String {
    caller.map_or_else(|| "the API".into(), |Extension(Caller(name))| name)
}

async fn answer_reload(
    Shared(state): Shared<Arc<State>>,
    caller: Option<Extension<Caller>>,
) -> Response {
    let reloaded = tokio::task::spawn_blocking(move || reload(&state, &name(caller))).await;
    match reloaded.unwrap_or_else(|_| Err("the reload has failed".into())) {
        Ok(fixed) => Json(json!({ "reloaded": true, "restart_needed_for": fixed })).into_response(),
        Err(error) => Problem::new(422, "configuration is wrong", error).into_response(),
    }
}

async fn answer_drain(
    Shared(state): Shared<Arc<State>>,
    caller: Option<Extension<Caller>>,
) -> Response {
    let over = state.rules().config.drain.over;
    let has_begun = drain(&state, &name(caller));
    (StatusCode::ACCEPTED, Json(json!({ "draining": true, "begun": has_begun, "over": over })))
        .into_response()
}
