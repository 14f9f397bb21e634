//! What is counted of backends: requests to webhooks, and what becomes of the work of workers.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::metrics::Metrics;
use super::webhooks::Outcome;

/// Bounds of the time that a request takes, in seconds.
const REQUEST_SECONDS: [f64; 11] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Counters of what backends were told.
pub(crate) struct Told {
    requests: Family<RequestLabels, Histogram>,
    work: Family<WorkLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    webhook: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkLabels {
    group: String,
    outcome: &'static str,
}

fn seconds() -> Histogram {
    Histogram::new(REQUEST_SECONDS)
}

impl Told {
    pub(crate) fn new(metrics: &Metrics) -> Told {
        let told =
            Told { requests: Family::new_with_constructor(seconds), work: Family::default() };
        let help = "Requests to webhooks, each attempt for itself";
        metrics.register_in("webhook_request_duration", help, Unit::Seconds, told.requests.clone());
        let help = "Events and other happenings for workers, by how they have ended";
        metrics.register("worker_events", help, told.work.clone());
        told
    }

    /// Counts a request to a webhook, and how long it took.
    pub(crate) fn request(&self, webhook: &str, is_good: bool, took: Duration) {
        let result = if is_good { "good" } else { "failed" };
        let labels = RequestLabels { webhook: webhook.into(), result };
        self.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts how something that a group of workers was to be told has ended; the group is empty
    /// where nobody wanted it.
    pub(crate) fn work(&self, group: &str, outcome: Outcome) {
        let labels = WorkLabels { group: group.into(), outcome: outcome.as_str() };
        self.work.get_or_create(&labels).inc();
    }
}
