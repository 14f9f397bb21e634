//! `GET /v1/stats`: what the dashboard shows, in one answer.

use std::sync::Arc;

use axum::extract::State as Extracted;
use axum::http::HeaderMap;
use serde::Serialize;

use super::answer::Answer;
use super::health::readiness;
use super::query::{Size, seen};
use super::{Api, Permission};
use crate::gateway::command::Problem;
use crate::gateway::queues::{Queues, Slow};
use crate::{Delays, Reason, Stats};

/// The gateway at a moment. Counters begin at its start.
#[derive(Serialize)]
struct Overview {
    version: &'static str,
    uptime_seconds: f64,
    ready: bool,
    shards: Vec<OneShard>,
    namespaces: Vec<Size>,
    /// Those with the longest queues.
    slow: Vec<Slow>,
    /// Every shard has answered.
    complete: bool,
}

/// One shard.
#[derive(Serialize)]
struct OneShard {
    shard: usize,
    connections: usize,
    sessions: usize,
    polling_sessions: usize,
    sockets: usize,
    rooms: usize,
    suspended: usize,
    queued_bytes: usize,
    connections_accepted: u64,
    sessions_opened: u64,
    sessions_closed: u64,
    events: u64,
    packets_in: u64,
    packets_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    volatile_dropped: u64,
    slow_dropped: u64,
    slow_closed: u64,
    ping_timeouts: u64,
    fan_out: FanOut,
}

/// How long broadcasts took to leave.
#[derive(Serialize)]
struct FanOut {
    count: u64,
    sum_seconds: f64,
    /// Upper bounds of the buckets in seconds, and how many broadcasts were not above each.
    bounds: Vec<f64>,
    cumulative: Vec<u64>,
}

impl FanOut {
    fn of(delays: &Delays) -> FanOut {
        let cumulative: Vec<u64> = delays
            .counts
            .iter()
            .scan(0, |sum, count| {
                *sum += count;
                Some(*sum)
            })
            .collect();
        FanOut {
            count: cumulative.last().copied().unwrap_or_default(),
            sum_seconds: delays.sum_ns as f64 / 1e9,
            bounds: Delays::BOUNDS_US.iter().map(|us| *us as f64 / 1e6).collect(),
            cumulative,
        }
    }
}

impl OneShard {
    fn of(shard: usize, stats: &Stats, queued_bytes: usize) -> OneShard {
        let Stats { totals, gauges, fan_out, .. } = stats;
        OneShard {
            shard,
            connections: gauges.connections,
            sessions: gauges.sessions,
            polling_sessions: gauges.polling_sessions,
            sockets: gauges.sockets,
            rooms: gauges.rooms,
            suspended: gauges.suspended,
            queued_bytes,
            connections_accepted: totals.accepted,
            sessions_opened: totals.sessions,
            sessions_closed: Reason::ALL.iter().map(|reason| totals.closed(*reason)).sum(),
            events: totals.events,
            packets_in: totals.packets_in,
            packets_out: totals.packets_out,
            bytes_in: totals.bytes_in,
            bytes_out: totals.bytes_out,
            volatile_dropped: totals.volatile_dropped,
            slow_dropped: totals.slow_dropped,
            slow_closed: totals.slow_closed,
            ping_timeouts: totals.ping_timeouts,
            fan_out: FanOut::of(fan_out),
        }
    }
}

/// `GET /v1/stats`
pub(super) async fn stats(
    Extracted(api): Extracted<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Answer, Problem> {
    let grant = api.admit_to(&headers, Permission::Read)?;
    let server = &api.state.server;
    let (namespaces, complete) = seen(&api, &grant).await?;
    let look = Queues::look(&api.state).await;
    let may_see = |name: &str| grant.may_in(name).is_ok();
    let stats = server.shard_stats();
    let shards = stats.iter().enumerate().map(|(shard, stats)| {
        let queued = look.bytes.get(shard).copied().unwrap_or_default();
        OneShard::of(shard, stats, queued)
    });
    Ok(Answer::ok(&Overview {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: api.started.elapsed().as_secs_f64(),
        ready: readiness(&api.state).await.is_ready(),
        shards: shards.collect(),
        namespaces,
        slow: look.slow.iter().filter(|slow| may_see(&slow.namespace)).cloned().collect(),
        complete,
    }))
}
