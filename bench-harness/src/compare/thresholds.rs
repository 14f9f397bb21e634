//! What counts as worse, and which metrics decide: the thresholds file and its defaults.
//!
//! ```toml
//! false-alarms = 0.01          # equal builds fail so often at most
//!
//! [metric.cpu-per-delivery]    # for all phases
//! threshold = 0.03             # worse by more than 3 %
//! gate = true                  # decides the exit status
//!
//! [phase.storm.p99]            # for the phase of that name; what is not said is as above
//! threshold = 0.2
//! gate = true
//! ```
//!
//! CPU time per operation is what a noisy machine disturbs least, so it has the tightest default
//! and gates; so does memory. Rates and latencies belong to the machine as much as to the server
//! and inform only, unless the file says otherwise.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// A figure that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Metric {
    CpuPerDelivery,
    /// Of opening it, or in an idle phase of keeping it for a second.
    CpuPerConnection,
    MemoryPerConnection,
    DeliveriesPerSecond,
    P50,
    P90,
    P99,
    P999,
    Max,
}

impl Metric {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::CpuPerDelivery => "CPU per delivery",
            Self::CpuPerConnection => "CPU per connection",
            Self::MemoryPerConnection => "memory per connection",
            Self::DeliveriesPerSecond => "deliveries per second",
            Self::P50 => "latency p50",
            Self::P90 => "latency p90",
            Self::P99 => "latency p99",
            Self::P999 => "latency p99.9",
            Self::Max => "latency max",
        }
    }

    /// Whether more is better; of all other figures less is.
    pub(crate) fn more_is_better(self) -> bool {
        self == Self::DeliveriesPerSecond
    }

    /// Of a latency: the share of receipts that take no longer.
    pub(crate) fn quantile(self) -> Option<f64> {
        match self {
            Self::P50 => Some(0.5),
            Self::P90 => Some(0.9),
            Self::P99 => Some(0.99),
            Self::P999 => Some(0.999),
            Self::Max => Some(1.0),
            _ => None,
        }
    }

    fn default_rule(self) -> Rule {
        let (threshold, gate) = match self {
            Self::CpuPerDelivery => (0.03, true),
            Self::CpuPerConnection | Self::MemoryPerConnection => (0.05, true),
            Self::DeliveriesPerSecond | Self::P50 => (0.1, false),
            Self::P90 => (0.15, false),
            Self::P99 => (0.3, false),
            Self::P999 => (0.5, false),
            Self::Max => (1.0, false),
        };
        Rule { threshold, gate }
    }
}

/// When a metric is worse, and whether that fails the comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rule {
    /// 0.03: worse if it costs over 1.03 times as much, beyond doubt.
    pub(crate) threshold: f64,
    pub(crate) gate: bool,
}

/// The thresholds file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Thresholds {
    /// Probability that two equal builds fail, all gates and looks together. Default 0.01.
    #[serde(default = "false_alarms")]
    pub(crate) false_alarms: f64,
    #[serde(default)]
    metric: BTreeMap<Metric, Change>,
    #[serde(default)]
    phase: BTreeMap<String, BTreeMap<Metric, Change>>,
}

/// What the file says about a metric; what it leaves out stays as it was.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    threshold: Option<f64>,
    gate: Option<bool>,
}

fn false_alarms() -> f64 {
    0.01
}

impl Default for Thresholds {
    fn default() -> Self {
        let (metric, phase) = (BTreeMap::new(), BTreeMap::new());
        Self { false_alarms: false_alarms(), metric, phase }
    }
}

impl Thresholds {
    /// The file at `path`, without one the defaults.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let what = || format!("thresholds in {}", path.display());
        let text = std::fs::read_to_string(path).with_context(what)?;
        Self::parse(&text).with_context(what)
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let found: Self = toml::from_str(text)?;
        ensure!(
            found.false_alarms >= 1e-6 && found.false_alarms <= 0.2,
            "false-alarms is {}; it is a probability from 0.000001 to 0.2",
            found.false_alarms
        );
        let changes = found.metric.values().chain(found.phase.values().flat_map(|m| m.values()));
        for threshold in changes.filter_map(|change| change.threshold) {
            ensure!(
                (0.0..=100.0).contains(&threshold),
                "threshold is {threshold}; 0.03 stands for 3 %"
            );
        }
        Ok(found)
    }

    /// The rule for `metric` in a phase: the phase's, else the metric's, else the default.
    pub(crate) fn rule(&self, phase: &str, metric: Metric) -> Rule {
        let changes = [
            self.metric.get(&metric),
            self.phase.get(phase).and_then(|metrics| metrics.get(&metric)),
        ];
        changes.into_iter().flatten().fold(metric.default_rule(), |rule, change| Rule {
            threshold: change.threshold.unwrap_or(rule.threshold),
            gate: change.gate.unwrap_or(rule.gate),
        })
    }

    /// Fails if the file has rules for a phase that is not one of `known`.
    pub(crate) fn check_phases(&self, known: &[&str]) -> Result<()> {
        for name in self.phase.keys() {
            ensure!(
                known.contains(&name.as_str()),
                "the thresholds have a phase {name}; the scenario has {}",
                known.join(", ")
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_goes_before_a_metric_before_the_default() -> Result<()> {
        let found = Thresholds::parse(
            "[metric.p99]\nthreshold = 0.4\n[phase.storm.p99]\ngate = true\n\
             [phase.storm.cpu-per-delivery]\nthreshold = 0.1",
        )?;
        let rule = |phase, metric| {
            let Rule { threshold, gate } = found.rule(phase, metric);
            (threshold, gate)
        };
        assert_eq!(rule("storm", Metric::P99), (0.4, true));
        assert_eq!(rule("echo", Metric::P99), (0.4, false));
        assert_eq!(rule("storm", Metric::CpuPerDelivery), (0.1, true));
        assert_eq!(rule("echo", Metric::CpuPerDelivery), (0.03, true));
        assert_eq!(found.false_alarms, 0.01);
        Ok(())
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("[metric.p98]\ngate = true", "p98"),
            ("[metric.p99]\ngates = true", "gates"),
            ("[metric.p99]\nthreshold = -1", "0.03 stands for 3 %"),
            ("[phase.a.max]\nthreshold = nan", "0.03 stands for 3 %"),
            ("false-alarms = 0", "a probability"),
            ("alarms = 0.1", "alarms"),
        ] {
            let error = Thresholds::parse(text).expect_err(text);
            assert!(format!("{error:#}").contains(part), "{text}: {error:#}");
        }
    }
}
