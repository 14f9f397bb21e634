//! The end of a gateway whose clients go on elsewhere.
//!
//! New sessions are refused at once. Those that are there are told, one after the other over the
//! chosen time, when to come back, and their connections are closed without a DISCONNECT, so that
//! clients reconnect by themselves, and not all at the same moment. Workers stay until the last
//! client has gone and they have done what is left, or their time is over.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::config::units::Time;
use super::state::State;
use crate::Error;

/// How the gateway goes after SIGTERM or `POST /drain`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Time over which clients are disconnected, evenly; ten a second or more, so that few do not
    /// take long.
    pub over: Time,
    /// The longest time that clients are told to wait before they come back; each is told between
    /// half of it and all of it, in the event `drain` with `{"retry_after_ms": …}`. New sessions
    /// are refused with it as `Retry-After`.
    pub retry_after: Time,
    /// The longest time that webhooks and workers have, after the last client has gone, for what
    /// they have not been told or not acknowledged by then. What is left after it is lost, counted
    /// and logged. A webhook's backend that is down is not waited for.
    pub backends: Time,
}

impl Default for Config {
    fn default() -> Self {
        Config { over: Time::secs(10), retry_after: Time::secs(5), backends: Time::secs(30) }
    }
}

/// Tells a client to come back, and when.
pub(super) const EVENT: &str = "drain";
/// Time between two groups of clients.
const STEP: Duration = Duration::from_millis(20);
/// The longest time between two clients.
const GAP: Duration = Duration::from_millis(100);
/// How long a shard is waited for that takes no mail.
const PATIENCE: Duration = Duration::from_secs(10);
/// Different delays within one group.
const DELAYS: u64 = 16;

/// One socket: its place in the order, its namespace and id.
type Leaving = (u64, Arc<str>, Box<str>);

/// Ends all sessions, then the server. To be called once.
pub(super) async fn run(state: Arc<State>) {
    let rules = state.rules();
    let config = &rules.config.drain;
    if let Err(error) = state.server.refuse_sessions(config.retry_after.0) {
        tracing::warn!("new sessions are not refused: {error}");
    }
    let told = disconnect(&state, config).await.and(disconnect_late(&state, config).await);
    if let Err(error) = told {
        tracing::warn!("not all clients were told to come back: {error}");
    }
    wait_for_clients(&state).await;
    state.occupancy.tell_now(&state);
    state.workers.settle(state.life.backends_until(config.backends.0)).await;
    if let Err(error) = disconnect_workers(&state, config).await {
        tracing::warn!("not all workers were told to come back: {error}");
    }
    wait_for_polls(&state).await;
    state.server.shutdown();
}

/// Backends are told that clients have gone when they have.
async fn wait_for_clients(state: &State) {
    let begin = Instant::now();
    let within = state.rules().config.server.shutdown_timeout.0;
    let is_over = || begin.elapsed() >= within;
    while !is_over() && clients(state).await.is_ok_and(|count| count > 0) {
        tokio::time::sleep(STEP).await;
    }
    // For what the last ones have caused.
    tokio::time::sleep(STEP).await;
}

/// What a polling client is told it fetches with its next request, for which the server has to be
/// there still.
async fn wait_for_polls(state: &State) {
    let begin = Instant::now();
    let within = state.rules().config.server.shutdown_timeout.0;
    while state.server.stats().gauges.polling_sessions > 0 && begin.elapsed() < within {
        tokio::time::sleep(STEP).await;
    }
}

/// Disconnects everybody who is there, over the time of the configuration.
async fn disconnect(state: &State, config: &Config) -> Result<(), Error> {
    let mut leaving = everybody(state).await?;
    leaving.sort_unstable();
    let (begin, count) = (Instant::now(), leaving.len());
    let over = config.over.0.min(GAP.saturating_mul(count as u32)).as_secs_f64();
    let mut rest = &leaving[..];
    while !rest.is_empty() {
        let share = begin.elapsed().as_secs_f64() / over.max(1e-3);
        let gone = count - rest.len();
        let due = ((count as f64 * share).ceil() as usize).clamp(gone, count) - gone;
        let (group, later) = rest.split_at(due);
        tell(state, config, group).await?;
        rest = later;
        if !rest.is_empty() {
            tokio::time::sleep(STEP).await;
        }
    }
    Ok(())
}

/// Those whose sessions were open when new ones were refused, and who joined only since.
async fn disconnect_late(state: &State, config: &Config) -> Result<(), Error> {
    let late = everybody(state).await?;
    tell(state, config, &late).await
}

async fn disconnect_workers(state: &State, config: &Config) -> Result<(), Error> {
    let workers = of(state, &state.rules().config.workers.namespace).await?;
    tell(state, config, &workers).await?;
    // Shards answer this after they have told them: a shutdown does not wait for their mail.
    state.server.fetch_namespaces().await.map(|_| ())
}

/// How many sockets there are but those of workers.
async fn clients(state: &State) -> Result<usize, Error> {
    let workers = state.rules().config.workers.namespace.clone();
    let sizes = state.server.fetch_namespaces().await?.value;
    Ok(sizes.iter().filter(|size| *size.name != *workers).map(|size| size.sockets).sum())
}

/// Every socket but those of workers, in an order that nobody can know.
async fn everybody(state: &State) -> Result<Vec<Leaving>, Error> {
    let workers = state.rules().config.workers.namespace.clone();
    let mut found = Vec::new();
    for size in state.server.fetch_namespaces().await?.value {
        if *size.name != *workers {
            found.extend(of(state, &size.name).await?);
        }
    }
    Ok(found)
}

/// Every socket of a namespace.
async fn of(state: &State, name: &str) -> Result<Vec<Leaving>, Error> {
    let random = RandomState::new();
    let Some(namespace) = state.server.namespace(name) else { return Ok(Vec::new()) };
    let ids = namespace.broadcast().fetch_ids().await?;
    if !ids.is_complete {
        tracing::warn!(namespace = name, "some clients are disconnected late, or with the server");
    }
    let (name, ids): (Arc<str>, _) = (name.into(), ids.value);
    Ok(ids.into_iter().map(|id| (random.hash_one(&id), name.clone(), id)).collect())
}

/// Tells a group when to come back, and closes its connections.
async fn tell(state: &State, config: &Config, group: &[Leaving]) -> Result<(), Error> {
    let mut delays: BTreeMap<(&str, u64), Vec<&str>> = BTreeMap::new();
    for (order, namespace, id) in group {
        delays.entry((namespace, order % DELAYS)).or_default().push(id);
    }
    for ((namespace, part), ids) in &delays {
        let Some(namespace) = state.server.namespace(namespace) else { continue };
        let longest = config.retry_after.0.as_millis() as u64;
        let retry_after_ms = longest / 2 + longest * part / (2 * (DELAYS - 1));
        let sockets = || namespace.broadcast().to(ids.clone());
        let told = json!({ "retry_after_ms": retry_after_ms });
        when_taken(|| sockets().emit(EVENT, &told)).await?;
        when_taken(|| sockets().close_connections()).await?;
    }
    Ok(())
}

/// Asks shards for something until their mailboxes have room for it. Those that have taken it
/// already get it again, which comes to the same here.
///
/// # Errors
/// What `ask` says, at the end of the time.
async fn when_taken(ask: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Err(Error::Limit(_)) if Instant::now() < end => tokio::time::sleep(STEP).await,
            asked => return asked,
        }
    }
}
