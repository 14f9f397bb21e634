//! What Prometheus reads.

use super::routes::Refusal;
use crate::Server;

/// All metrics of the gateway; those of shards are read from them when somebody asks.
pub(crate) struct Metrics {
    server: Server,
}

impl Metrics {
    pub(crate) fn new(server: Server) -> Metrics {
        Metrics { server }
    }

    /// Counts an event with which nothing was done.
    pub(crate) fn refused(&self, namespace: &str, refusal: &Refusal) {
        tracing::debug!(namespace, code = refusal.code, "event refused");
    }
}
