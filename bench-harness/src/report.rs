//! A record as text for a terminal.

use std::fmt::Write as _;

use crate::record::Record;

/// A record as text: for each phase what it cost, for each of its loads counts and latencies.
pub(crate) fn text(record: &Record) -> String {
    let mut text = format!(
        "{}, {} connections to {}, {}\n",
        record.scenario, record.connections, record.server, record.host
    );
    for phase in &record.phases {
        let _ = write!(text, "{:<9} ", phase.name);
        let _ = write!(text, "{:.0} deliveries/s", phase.deliveries_per_second());
        let optional = [
            (phase.cpu_per_delivery(), 1e6, " µs of CPU each"),
            (phase.server_busy(), 100.0, " % of a core"),
            (phase.memory_per_connection(), 1.0, " B per connection"),
        ];
        for (value, scale, unit) in optional {
            if let Some(value) = value {
                let _ = write!(text, ", {:.3}{unit}", value * scale);
            }
        }
        text.push('\n');
        for load in &phase.loads {
            let latency = load.latency();
            let [p50, p90, p99, p999, max] = [0.5, 0.9, 0.99, 0.999, 1.0]
                .map(|quantile| (latency.at(quantile) as f64 / 1e3).round());
            let _ = writeln!(
                text,
                "          {}: {} finished in {:.1} s, latency µs: p50 {p50}, p90 {p90}, \
                 p99 {p99}, p99.9 {p999}, max {max}\n          {} sent, {} deliveries in all, \
                 each exactly once",
                load.name, load.finished, phase.seconds, load.all_sent, load.all_received
            );
        }
    }
    text
}
