//! What Prometheus reads. What shards count is read from them when somebody asks; the rest is
//! counted here. `docs/metrics.md` lists all names.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::command::Verb;
use super::queues::Queues;
use super::routes::Refusal;
use super::state::State;
use super::webhooks::{self, Outcome};
use super::workers;
use crate::{Delays, NamespaceSize, QueueLengths, Reason, Stats};

/// What all names begin with.
const PREFIX: &str = "corecast";
/// Bounds of request durations, in seconds.
const REQUEST_SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Bounds of what backends take, in seconds.
const WEBHOOK_SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// All metrics of the gateway.
pub(crate) struct Metrics {
    registry: std::sync::RwLock<Registry>,
    requests: Family<RequestLabels, Histogram>,
    /// By verb, and whether it was carried out.
    commands: [[Counter; 2]; Verb::ALL.len()],
    command_family: Family<CommandLabels, Counter>,
    events: Family<NamespaceLabels, Counter>,
    refused: Family<CodeLabels, Counter>,
    rejected: Family<CodeLabels, Counter>,
    struck_out: Family<NamespaceLabels, Counter>,
    webhooks: Family<WebhookLabels, Histogram>,
    attempts: Family<AttemptLabels, Histogram>,
    work: Family<WorkLabels, Counter>,
    workers_refused: Family<RefusedLabels, Counter>,
    pub(crate) queues: Queues,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    path: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabels {
    action: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NamespaceLabels {
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    namespace: String,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    webhook: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    webhook: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkLabels {
    /// The name of the key. Those of groups are without end.
    key: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    code: &'static str,
}

fn request_seconds() -> Histogram {
    Histogram::new(REQUEST_SECONDS)
}

fn webhook_seconds() -> Histogram {
    Histogram::new(WEBHOOK_SECONDS)
}

/// One attempt takes less than all of them may: the last bound is not for it.
fn attempt_seconds() -> Histogram {
    Histogram::new(WEBHOOK_SECONDS.into_iter().take(WEBHOOK_SECONDS.len() - 1))
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let command_family = Family::<CommandLabels, Counter>::default();
        let commands = Verb::ALL.map(|verb| {
            ["failed", "done"].map(|outcome| {
                let labels = CommandLabels { action: verb.as_str(), outcome };
                command_family.get_or_create_owned(&labels)
            })
        });
        let metrics = Metrics {
            registry: std::sync::RwLock::new(Registry::with_prefix(PREFIX)),
            requests: Family::new_with_constructor(request_seconds),
            commands,
            command_family,
            events: Family::default(),
            refused: Family::default(),
            rejected: Family::default(),
            struck_out: Family::default(),
            webhooks: Family::new_with_constructor(webhook_seconds),
            attempts: Family::new_with_constructor(attempt_seconds),
            work: Family::default(),
            workers_refused: Family::default(),
            queues: Queues::default(),
        };
        metrics.register_own();
        metrics
    }

    fn register_own(&self) {
        let help = "Commands of backends, those of batches and workers included";
        self.register("commands", help, self.command_family.clone());
        self.register("namespace_events", "Events of clients", self.events.clone());
        self.register("events_refused", "Events with which nothing was done", self.refused.clone());
        let help = "Clients that were not let into a namespace";
        self.register("connects_refused", help, self.rejected.clone());
        let help = "Connections closed after too many strikes";
        self.register("limits_disconnects", help, self.struck_out.clone());
        let help = "Time to the beginning of the answer of the HTTP API";
        self.register_in("api_request_duration", help, Unit::Seconds, self.requests.clone());
        let help = "Time that backends took to answer a webhook";
        self.register_in("webhook_duration", help, Unit::Seconds, self.webhooks.clone());
        let help = "Requests to webhooks, each attempt for itself";
        self.register_in("webhook_request_duration", help, Unit::Seconds, self.attempts.clone());
        let help = "Events and other happenings for workers, by how they have ended";
        self.register("worker_events", help, self.work.clone());
        let help = "Clients that were not let in as workers";
        self.register("workers_refused", help, self.workers_refused.clone());
    }

    /// Adds a metric; `name` without prefix and, for counters, without `_total`.
    pub(crate) fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.change(|registry| registry.register(name, help, metric));
    }

    /// Adds a metric with a base unit, which is appended to its name.
    pub(crate) fn register_in(&self, name: &str, help: &str, unit: Unit, metric: impl Metric) {
        self.change(|registry| registry.register_with_unit(name, help, unit, metric));
    }

    fn change(&self, change: impl FnOnce(&mut Registry)) {
        change(&mut self.registry.write().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    /// The counter of a namespace's events; to be kept where they are counted.
    pub(crate) fn events_of(&self, namespace: &str) -> Counter {
        let labels = NamespaceLabels { namespace: namespace.into() };
        self.events.get_or_create_owned(&labels)
    }

    /// Counts an event with which nothing was done.
    pub(crate) fn refused(&self, namespace: &str, refusal: &Refusal) {
        tracing::debug!(namespace, code = refusal.code, "event refused");
        let labels = CodeLabels { namespace: namespace.into(), code: refusal.code };
        self.refused.get_or_create(&labels).inc();
    }

    /// Counts a client that was not let into a namespace.
    pub(crate) fn rejected(&self, namespace: &str, code: &'static str) {
        let labels = CodeLabels { namespace: namespace.into(), code };
        self.rejected.get_or_create(&labels).inc();
    }

    /// Counts a client that is closed because it has exceeded too many limits.
    pub(crate) fn struck_out(&self, namespace: &str) {
        let labels = NamespaceLabels { namespace: namespace.into() };
        self.struck_out.get_or_create(&labels).inc();
    }

    /// Counts a command.
    pub(crate) fn command(&self, verb: Verb, is_done: bool) {
        self.commands[verb as usize][usize::from(is_done)].inc();
    }

    /// Counts a call of a webhook, and how long it took.
    pub(crate) fn webhook(&self, name: &str, outcome: &'static str, duration: Duration) {
        let labels = WebhookLabels { webhook: name.into(), outcome };
        self.webhooks.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// Counts one attempt to call a webhook, and how long it took.
    pub(crate) fn attempt(&self, webhook: &str, is_good: bool, took: Duration) {
        let result = if is_good { "good" } else { "failed" };
        let labels = AttemptLabels { webhook: webhook.into(), result };
        self.attempts.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts how something that workers were to be told has ended, by the name of their key; it is
    /// empty where nobody wanted it.
    pub(crate) fn work(&self, key: &str, outcome: Outcome) {
        let labels = WorkLabels { key: key.into(), outcome: outcome.as_str() };
        self.work.get_or_create(&labels).inc();
    }

    /// Counts somebody who was not let in as a worker.
    pub(crate) fn worker_refused(&self, code: &'static str) {
        self.workers_refused.get_or_create(&RefusedLabels { code }).inc();
    }

    /// Counts a request of the API.
    pub(crate) fn request(&self, method: &Method, path: &str, status: u16, duration: Duration) {
        // Others are made up by callers, without end.
        let known = [Method::GET, Method::POST, Method::PUT, Method::HEAD, Method::OPTIONS];
        let known = known.iter().position(|known| known == method);
        let method = known.map_or("other", |at| ["GET", "POST", "PUT", "HEAD", "OPTIONS"][at]);
        let labels = RequestLabels { method, path: path.into(), status };
        self.requests.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// All metrics as text. O(shards and namespaces).
    ///
    /// # Errors
    /// A metric cannot be written.
    pub(crate) async fn render(
        &self,
        state: &Arc<State>,
        format: Format,
    ) -> Result<String, fmt::Error> {
        self.write(Moment::take(state).await, format)
    }

    fn write(&self, moment: Moment, format: Format) -> Result<String, fmt::Error> {
        let mut shards = Registry::with_prefix(PREFIX);
        shards.register_collector(Box::new(moment));
        let own = self.registry.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut out = String::with_capacity(16 * 1_024);
        match format {
            Format::Prometheus => {
                prometheus_text::encode(&mut out, &shards)?;
                prometheus_text::encode(&mut out, &own)?;
            }
            Format::OpenMetrics => {
                text::encode_registry(&mut out, &shards)?;
                text::encode_registry(&mut out, &own)?;
                text::encode_eof(&mut out)?;
            }
        }
        Ok(out)
    }
}

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// What an `Accept` header asks for: OpenMetrics where it is named.
    pub(crate) fn accepted(accept: Option<&str>) -> Format {
        match accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => prometheus_text::CONTENT_TYPE,
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What the shards say at a moment.
#[derive(Debug)]
struct Moment {
    stats: Vec<Stats>,
    namespaces: Vec<NamespaceSize>,
    webhooks: Vec<webhooks::Gauges>,
    groups: Vec<workers::Gauges>,
}

impl Moment {
    async fn take(state: &Arc<State>) -> Moment {
        // Where a shard is silent there are none: with less than before, counters would begin anew.
        let sizes = state.server.fetch_namespaces().await.ok().filter(|sizes| sizes.is_complete);
        let sizes = sizes.unwrap_or_default();
        let known = state.rules();
        // Names that clients choose would be without end.
        let sizes = sizes.into_iter().filter(|size| known.namespaces.contains_key(&size.name));
        let namespaces = sizes.collect();
        let (webhooks, groups) = (known.webhooks.gauges(), state.workers.gauges());
        Moment { stats: state.server.shard_stats(), namespaces, webhooks, groups }
    }
}

type Encoder<'a> = DescriptorEncoder<'a>;

/// A counter or gauge of shards: name, help, and where it is read.
type OfShard<T> = (&'static str, &'static str, fn(&Stats) -> T);

/// Counters of each shard.
const COUNTERS: [OfShard<u64>; 26] = [
    ("connections_accepted", "Connections accepted", |it| it.totals.accepted),
    ("connections_refused", "Connections refused at the limit", |it| it.totals.refused),
    ("connections_refused_per_ip", "Of these, of one address", |it| it.totals.refused_per_ip),
    ("handshakes_refused", "Refused by the rate of an address", |it| it.totals.refused_handshakes),
    ("bad_proxies", "Connections without the header of a proxy", |it| it.totals.bad_proxies),
    ("tls_handshakes", "TLS handshakes completed", |it| it.totals.tls_handshakes),
    ("tls_failures", "TLS connections that ended badly", |it| it.totals.tls_failures),
    ("connections_migrated", "Connections taken over from another shard", |it| it.totals.migrated),
    ("sessions_opened", "Engine.IO sessions opened", |it| it.totals.sessions),
    ("bad_requests", "Requests answered with a status of 400 or more", |it| it.totals.bad_requests),
    ("bad_frames", "Connections closed for a websocket violation", |it| it.totals.bad_frames),
    ("bad_packets", "Sessions closed for an invalid packet", |it| it.totals.bad_packets),
    ("events_received", "Events received from clients", |it| it.totals.events),
    ("acks_unexpected", "Acknowledgements nobody awaited", |it| it.totals.unexpected_acks),
    ("packets_received", "Engine.IO packets received with data", |it| it.totals.packets_in),
    ("packets_sent", "Engine.IO packets staged for clients", |it| it.totals.packets_out),
    ("sends", "Sends given to the kernel", |it| it.totals.sends),
    ("reading_pauses", "Pauses of reading to catch up with sends", |it| it.totals.pauses),
    ("mail_refused", "Items that found a mailbox full", |it| it.totals.mail_refused),
    ("volatile_dropped", "Volatile packets dropped", |it| it.totals.volatile_dropped),
    ("slow_reader_dropped", "Packets dropped as a queue was full", |it| it.totals.slow_dropped),
    ("slow_reader_closed", "Connections closed as a queue was full", |it| it.totals.slow_closed),
    ("incoming_refused", "Refused as too much was unfinished", |it| it.totals.incoming_refused),
    ("pongs", "Heartbeats that clients have answered", |it| it.totals.pongs),
    ("ping_timeouts", "Sessions closed for a missing heartbeat", |it| it.totals.ping_timeouts),
    ("fan_outs", "Broadcasts that were timed", |it| it.fan_out.counts.iter().sum()),
];

/// Counters of bytes, of each shard.
const BYTES: [OfShard<u64>; 2] = [
    ("received", "Data received from clients, without framing", |it| it.totals.bytes_in),
    ("sent", "Data staged for clients, without framing", |it| it.totals.bytes_out),
];

/// Gauges of each shard.
const GAUGES: [OfShard<usize>; 9] = [
    ("connections", "Connections, being closed included", |it| it.gauges.connections),
    ("sessions", "Engine.IO sessions", |it| it.gauges.sessions),
    ("polling_sessions", "Engine.IO sessions on polling", |it| it.gauges.polling_sessions),
    ("sockets", "Socket.IO sockets", |it| it.gauges.sockets),
    ("rooms", "Rooms with members, of each shard", |it| it.gauges.rooms),
    ("suspended", "Sockets whose clients may come back", |it| it.gauges.suspended),
    ("connections_waiting", "Connections that wait for their shard", |it| it.gauges.waiting),
    ("connections_sending", "Connections whose peers are waited for", |it| it.gauges.sending),
    ("mail", "Items of mail that wait for a shard", |it| it.gauges.mail),
];

impl Collector for Moment {
    fn encode(&self, mut encoder: Encoder<'_>) -> fmt::Result {
        for (name, help, read) in COUNTERS {
            self.counter(&mut encoder, name, help, None, read)?;
        }
        for (name, help, read) in BYTES {
            self.counter(&mut encoder, name, help, Some(&Unit::Bytes), read)?;
        }
        for (name, help, read) in GAUGES {
            let values = self.stats.iter().map(read);
            gauge_of_shards(&mut encoder, name, help, None, values)?;
        }
        let queued = self.stats.iter().map(|it| it.gauges.queue_bytes);
        let help = "Memory that holds what waits to be sent";
        gauge_of_shards(&mut encoder, "queue", help, Some(&Unit::Bytes), queued)?;
        let incoming = self.stats.iter().map(|it| it.gauges.incoming_bytes);
        let help = "What clients have begun to send and not finished";
        gauge_of_shards(&mut encoder, "incoming", help, Some(&Unit::Bytes), incoming)?;
        self.closed(&mut encoder)?;
        self.fan_out(&mut encoder)?;
        self.of_namespaces(&mut encoder)?;
        self.of_backends(&mut encoder)
    }
}

fn gauge_of_shards(
    encoder: &mut Encoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl Iterator<Item = usize>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (shard, value) in values.enumerate() {
        metric.encode_family(&[("shard", shard)])?.encode_gauge(&(value as i64))?;
    }
    Ok(())
}

impl Moment {
    fn counter(
        &self,
        encoder: &mut Encoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        read: fn(&Stats) -> u64,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (shard, stats) in self.stats.iter().enumerate() {
            let labels = [("shard", shard)];
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, u64, f64>(&read(stats), None)?;
        }
        Ok(())
    }

    fn closed(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let help = "Engine.IO sessions closed, by reason";
        let kind = MetricType::Counter;
        let mut metric = encoder.encode_descriptor("sessions_closed", help, None, kind)?;
        for (shard, stats) in self.stats.iter().enumerate() {
            for reason in Reason::ALL {
                let shard = shard.to_string();
                let labels = [("shard", shard.as_str()), ("reason", reason.as_str())];
                let closed = stats.totals.closed(reason);
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, u64, f64>(&closed, None)?;
            }
        }
        Ok(())
    }

    fn fan_out(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let shards: Vec<String> = (0..self.stats.len()).map(|shard| shard.to_string()).collect();
        let of_shard = |at: usize| ("shard", shards[at].as_str());
        let stats = || self.stats.iter().enumerate();
        let help = "Time from a broadcast to its hand-over to the kernel";
        let delays = stats().map(|(at, it)| (of_shard(at), Buckets::from(&it.fan_out)));
        histogram_by(encoder, "fan_out_delay", help, &Unit::Seconds, delays)?;
        let help = "What waited for a client in front of each packet of a broadcast";
        let queues =
            stats().map(|(at, it)| (of_shard(at), Buckets::from(&it.totals.fan_out_queues)));
        histogram_by(encoder, "fan_out_queue", help, &Unit::Bytes, queues)
    }

    fn of_namespaces(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let sockets = self.namespaces.iter().map(|it| (&*it.name, it.sockets));
        let help = "Sockets of a namespace";
        gauge_by("namespace", encoder, "namespace_sockets", help, None, sockets)?;
        let rooms = self.namespaces.iter().map(|it| (&*it.name, it.rooms));
        let help = "Rooms of a namespace, each shard's own";
        gauge_by("namespace", encoder, "namespace_rooms", help, None, rooms)?;
        let namespaces = || self.namespaces.iter().map(|it| (("namespace", &*it.name), it));
        let delays = namespaces().map(|(label, it)| (label, Buckets::from(&it.fan_out)));
        let help = "Time from a broadcast to a namespace to its hand-over to the kernel";
        histogram_by(encoder, "namespace_fan_out_delay", help, &Unit::Seconds, delays)?;
        let help = "What waited for a client in front of a broadcast to its namespace";
        let queues = namespaces().map(|(label, it)| (label, Buckets::from(&it.fan_out_queues)));
        histogram_by(encoder, "namespace_fan_out_queue", help, &Unit::Bytes, queues)
    }

    fn of_backends(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        type Read = fn(&webhooks::Gauges) -> usize;
        let gauges: [(&str, &str, Option<&Unit>, Read); 4] = [
            ("webhook_waiting", "Happenings that have not ended", None, |it| it.queued),
            ("webhook_queue", "What waits for a backend", Some(&Unit::Bytes), |it| it.bytes),
            ("webhook_requests", "Requests under way", None, |it| it.in_flight),
            ("webhook_open", "1 while a backend is left alone", None, |it| it.is_open.into()),
        ];
        for (name, help, unit, read) in gauges {
            let values = self.webhooks.iter().map(|it| (&*it.name, read(it)));
            gauge_by("webhook", encoder, name, help, unit, values)?;
        }
        self.of_groups(encoder, "workers", "Workers of a group", |it| it.workers)?;
        self.of_groups(encoder, "worker_waiting", "Events not acknowledged", |it| it.waiting)
    }

    fn of_groups(
        &self,
        encoder: &mut Encoder<'_>,
        name: &str,
        help: &str,
        read: fn(&workers::Gauges) -> usize,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for group in &self.groups {
            let labels = [("key", &*group.key), ("group", &*group.name)];
            metric.encode_family(&labels)?.encode_gauge(&(read(group) as i64))?;
        }
        Ok(())
    }
}

fn gauge_by<'a>(
    label: &str,
    encoder: &mut Encoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl Iterator<Item = (&'a str, usize)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (of, value) in values {
        metric.encode_family(&[(label, of)])?.encode_gauge(&(value as i64))?;
    }
    Ok(())
}

/// A histogram as Prometheus wants it.
struct Buckets {
    /// Upper bounds, and how many were at or below each but above the one before.
    counts: Vec<(f64, u64)>,
    sum: f64,
}

impl Buckets {
    fn new(bounds: impl Iterator<Item = f64>, counts: &[u64], sum: f64) -> Buckets {
        let bounds = bounds.chain([f64::INFINITY]);
        Buckets { counts: bounds.zip(counts.iter().copied()).collect(), sum }
    }
}

impl From<&Delays> for Buckets {
    fn from(it: &Delays) -> Buckets {
        let bounds = Delays::BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
        Buckets::new(bounds, &it.counts, it.sum_ns as f64 / 1e9)
    }
}

impl From<&QueueLengths> for Buckets {
    fn from(it: &QueueLengths) -> Buckets {
        let bounds = QueueLengths::BOUNDS.iter().map(|bytes| *bytes as f64);
        Buckets::new(bounds, &it.counts, it.sum_bytes as f64)
    }
}

fn histogram_by<'a>(
    encoder: &mut Encoder<'_>,
    name: &str,
    help: &str,
    unit: &Unit,
    values: impl Iterator<Item = ((&'a str, &'a str), Buckets)>,
) -> fmt::Result {
    let kind = MetricType::Histogram;
    let mut metric = encoder.encode_descriptor(name, help, Some(unit), kind)?;
    for (label, Buckets { counts, sum }) in values {
        let labels = [label];
        let mut metric = metric.encode_family(&labels)?;
        let count = counts.iter().map(|(_, count)| count).sum();
        metric.encode_histogram::<NoLabelSet>(sum, count, &counts, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All that there is, each with a sample.
    fn rendered(format: Format) -> String {
        let metrics = Metrics::new();
        metrics.events_of("/").inc();
        metrics.refused("/", &Refusal { code: "rate", message: String::new() });
        metrics.rejected("/", "token");
        metrics.struck_out("/");
        metrics.webhook("php", "ok", Duration::from_millis(3));
        metrics.attempt("php", true, Duration::from_millis(3));
        metrics.work("mail", Outcome::Delivered);
        metrics.worker_refused("bad_auth");
        metrics.request(&Method::GET, "/v1/count", 200, Duration::from_micros(70));
        metrics.request(
            &Method::from_bytes(b"PURGE").expect("a method"),
            "none",
            405,
            Duration::ZERO,
        );
        let mut stats = vec![Stats::default(); 2];
        stats[0].gauges.queue_bytes = 5;
        let moment = Moment {
            stats,
            namespaces: vec![NamespaceSize { name: "/".into(), sockets: 2, ..Default::default() }],
            webhooks: vec![webhooks::Gauges {
                name: "backend".into(),
                queued: 2,
                bytes: 300,
                in_flight: 1,
                is_open: false,
            }],
            groups: ["one", "two"]
                .map(|key| workers::Gauges {
                    key: key.into(),
                    name: "mail".into(),
                    workers: 2,
                    waiting: 1,
                })
                .into(),
        };
        metrics.write(moment, format).expect("they can be written")
    }

    fn names(text: &str) -> BTreeSet<String> {
        let of_line =
            |line: &str| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned());
        text.lines().filter_map(of_line).collect()
    }

    #[test]
    fn names_follow_the_conventions() {
        let text = rendered(Format::Prometheus);
        let mut seen = BTreeSet::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').expect("name and type");
            assert!(seen.insert(name.to_owned()), "{name} is there twice");
            assert!(name.starts_with("corecast_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(text.contains(&format!("# HELP {name} ")), "{name}");
            let is_histogram = name.ends_with("_seconds") || name.contains("fan_out_queue");
            assert_eq!(is_histogram, kind == "histogram", "{line}: base units");
        }
        assert!(text.contains("corecast_queue_bytes{shard=\"0\"} 5\n"), "{text}");
        assert!(text.contains("method=\"other\",path=\"none\",status=\"405\""), "{text}");
        let mut series = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, _) = line.rsplit_once(' ').expect("a value");
            assert!(series.insert(name), "{name} is there twice");
        }
        let open = rendered(Format::OpenMetrics);
        assert!(open.ends_with("# EOF\n"));
        assert_eq!(open.matches("# EOF").count(), 1);
    }

    /// Each metric has its place on the Grafana dashboard, and nothing there is made up.
    #[test]
    fn the_grafana_dashboard_shows_what_there_is() {
        let dashboard = include_str!("../../packaging/grafana/corecast.json");
        serde_json::from_str::<serde_json::Value>(dashboard).expect("JSON");
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mentioned = dashboard.match_indices("corecast_").map(|(at, _)| {
            let rest = &dashboard[at..];
            let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            name.strip_suffix("_count").unwrap_or(name).to_owned()
        });
        let all = names(&rendered(Format::Prometheus));
        assert_eq!(mentioned.collect::<BTreeSet<_>>(), all);
        // As has the documentation.
        let listed = include_str!("../../docs/metrics.md").lines();
        let listed = listed.filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(listed.map(str::to_owned).collect::<BTreeSet<_>>(), all);
    }
}
