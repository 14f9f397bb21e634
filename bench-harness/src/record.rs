//! What a run found: what `run --json` writes, what reports are made of, what `compare` reads.
//!
//! Times are seconds, latencies nanoseconds, memory bytes. Everything that a reader may want to
//! divide is kept as it was counted; quotients are methods.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer as V2Reader, Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// The version of this shape; a reader refuses another one.
pub(crate) const FORMAT: u32 = 1;

/// All that one run of a scenario found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) format: u32,
    pub(crate) scenario: String,
    /// What the server under test is called in tables: "corecast", "base", a version.
    pub(crate) server: String,
    /// Seconds since the Unix epoch.
    pub(crate) began: f64,
    /// False after an interruption: the phases that are there are whole, the last may be short.
    pub(crate) complete: bool,
    /// Version of this program.
    pub(crate) harness: String,
    /// CPU, number of CPUs and kernel, in one line.
    pub(crate) host: String,
    pub(crate) connections: u64,
    pub(crate) processes: u64,
    pub(crate) phases: Vec<Phase>,
    /// `None` if no client stops reading, or the record is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stalled: Option<Stalled>,
}

/// What became of the clients that stopped reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stalled {
    pub(crate) clients: u64,
    /// Of these, those that the server had closed when they read again.
    pub(crate) closed: u64,
    /// Broadcasts that they got all the same, once and unaltered.
    pub(crate) received: u64,
    /// Broadcasts that were not sent to those that stayed connected.
    pub(crate) skipped: u64,
}

/// A stretch of the run in which the same loads run side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    /// Seconds from the beginning of the run to that of the measured part, and its length.
    pub(crate) start: f64,
    pub(crate) seconds: f64,
    /// Open connections at the end.
    pub(crate) connections: u64,
    /// The server's processes together, and ours; `None` if the server's pid is not known.
    pub(crate) server: Option<Usage>,
    pub(crate) client: Usage,
    pub(crate) samples: Vec<Sample>,
    pub(crate) loads: Vec<Load>,
}

/// CPU time and memory over a phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_before: u64,
    pub(crate) resident_after: u64,
}

/// What was read from outside during one interval of a phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds from the start of the phase to the end of this interval, and its length.
    pub(crate) at: f64,
    pub(crate) seconds: f64,
    pub(crate) server_cpu_seconds: f64,
    pub(crate) server_resident: u64,
    pub(crate) client_cpu_seconds: f64,
    pub(crate) connections: u64,
}

/// What a load's operations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// TCP, upgrade or polling session, namespace. Latency: until the namespace is joined.
    Connect,
    /// Nothing is sent; the server's pings are answered. Latency: how late a ping is.
    Idle,
    /// A broadcast to everybody or to a room. Latency: until each member has it.
    Fanout,
    /// An event that comes back to its sender.
    Echo,
    /// A room is joined and left, or the connection made anew.
    Churn,
}

/// One load of a phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Bytes of data in each event.
    pub(crate) payload: u64,
    /// Operations a second by schedule, or how many at any time; neither if it is idle.
    pub(crate) rate: Option<f64>,
    pub(crate) in_flight: Option<u64>,
    /// Within the measured part.
    pub(crate) finished: u64,
    pub(crate) deliveries: u64,
    /// Warm-up and drain included: operations begun, receipts due for them, receipts that came.
    /// Each came once and unaltered, or the run has failed.
    pub(crate) all_sent: u64,
    pub(crate) all_due: u64,
    pub(crate) all_received: u64,
    /// Latency from the intended time of sending, interval by interval.
    pub(crate) intervals: Vec<Interval>,
}

/// The receipts of one interval. The last one also has those that came after it, of what began
/// before, and what a schedule had that could not begin any more, as late as it was by then; so
/// latencies may be more than deliveries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// Seconds from the start of the phase, and the length.
    pub(crate) start: f64,
    pub(crate) seconds: f64,
    pub(crate) latency: Distribution,
}

/// A histogram of nanoseconds, three digits exact, in JSON as the base64 of the compressed V2 form
/// that HdrHistogram's own tools read.
#[derive(Clone, PartialEq)]
pub(crate) struct Distribution(pub(crate) Histogram<u64>);

impl Record {
    /// Reads a file that `write` made; fails on any other with its name.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let what = || format!("read {}", path.display());
        let text = std::fs::read(path).with_context(what)?;
        Self::parse(&text).with_context(what)
    }

    fn parse(text: &[u8]) -> Result<Self> {
        // The format first: what is different in another one is not this one's mistake.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(text).context(
            "not a record: it must be a file that `bench-harness run --json FILE` has written",
        )?;
        ensure!(
            head.format == FORMAT,
            "it has format {}, this bench-harness reads {FORMAT}: use the version that wrote it, \
             or run the scenario again",
            head.format
        );
        Ok(serde_json::from_slice(text)?)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }
}

impl Phase {
    /// Receipts of all loads within the measured part.
    pub(crate) fn deliveries(&self) -> u64 {
        self.loads.iter().map(|load| load.deliveries).sum()
    }

    /// CPU seconds of the server for each receipt of whatever load, a connection or a ping being
    /// one; `None` without a pid or a receipt.
    pub(crate) fn cpu_per_delivery(&self) -> Option<f64> {
        let deliveries = self.deliveries();
        self.server.filter(|_| deliveries > 0).map(|used| used.cpu_seconds / deliveries as f64)
    }

    /// CPU time of the server by wall time: 1 is one core.
    pub(crate) fn server_busy(&self) -> Option<f64> {
        self.server.map(|used| used.cpu_seconds / self.seconds)
    }

    /// Bytes by which the server has grown for each connection that was opened in this phase;
    /// `None` without a pid or if none was.
    pub(crate) fn memory_per_connection(&self) -> Option<f64> {
        let opened: u64 = self
            .loads
            .iter()
            .filter(|load| load.kind == Kind::Connect)
            .map(|load| load.all_received)
            .sum();
        let growth = |used: Usage| used.resident_after as f64 - used.resident_before as f64;
        self.server.filter(|_| opened > 0).map(|used| growth(used) / opened as f64)
    }
}

impl Load {
    /// All intervals together.
    pub(crate) fn latency(&self) -> Distribution {
        let mut all = Distribution::default();
        for interval in &self.intervals {
            all.add(&interval.latency);
        }
        all
    }
}

impl Distribution {
    /// Enters a latency; above an hour it counts as an hour.
    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.record_many(nanoseconds, 1);
    }

    pub(crate) fn record_many(&mut self, nanoseconds: u64, count: u64) {
        // Within the range that a histogram grows to, this cannot fail.
        let _ = self.0.record_n(nanoseconds.min(3_600_000_000_000), count);
    }

    /// Adds what another one holds.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.auto(true);
        let _ = self.0.add(&other.0);
    }

    /// Nanoseconds at or below which `quantile` (0 to 1) of the values lie; 0 if there are none.
    pub(crate) fn at(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }
}

impl Default for Distribution {
    fn default() -> Self {
        // It grows as values come.
        Self(Histogram::new(3).expect("three digits are allowed"))
    }
}

impl fmt::Debug for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Distribution({} values, p50 {} ns)", self.0.len(), self.at(0.5))
    }
}

impl Serialize for Distribution {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.0, &mut bytes)
            .map_err(|error| ser::Error::custom(format!("histogram: {error:?}")))?;
        to.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Distribution {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let decode = || -> Result<Self> {
            let bytes = STANDARD.decode(&text)?;
            let mut rest = bytes.as_slice();
            let found = V2Reader::new()
                .deserialize(&mut rest)
                .map_err(|error| anyhow!("histogram: {error:?}"))?;
            Ok(Self(found))
        };
        decode().map_err(|error| de::Error::custom(format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(values: impl IntoIterator<Item = u64>) -> Distribution {
        let mut all = Distribution::default();
        values.into_iter().for_each(|value| all.record(value));
        all
    }

    fn load(kind: Kind, deliveries: u64, intervals: &[&[u64]]) -> Load {
        let interval = |(at, values): (usize, &&[u64])| Interval {
            start: at as f64,
            seconds: 1.0,
            latency: distribution(values.iter().copied()),
        };
        Load {
            name: "load".into(),
            kind,
            payload: 128,
            rate: None,
            in_flight: Some(1),
            finished: deliveries,
            deliveries,
            all_sent: deliveries,
            all_due: deliveries,
            all_received: deliveries,
            intervals: intervals.iter().enumerate().map(interval).collect(),
        }
    }

    fn phase(loads: Vec<Load>) -> Phase {
        let used = Usage { cpu_seconds: 3.0, resident_before: 1000, resident_after: 7000 };
        Phase {
            name: "phase".into(),
            start: 0.0,
            seconds: 4.0,
            connections: 5,
            server: Some(used),
            client: Usage::default(),
            samples: vec![Sample { at: 1.0, seconds: 1.0, ..Default::default() }],
            loads,
        }
    }

    fn record() -> Record {
        Record {
            format: FORMAT,
            scenario: "test".into(),
            server: "floor".into(),
            began: 1.5,
            complete: true,
            harness: "0".into(),
            host: "here".into(),
            connections: 5,
            processes: 1,
            phases: vec![phase(vec![load(Kind::Fanout, 2, &[&[1, 2000], &[3_000_000]])])],
            stalled: Some(Stalled { clients: 3, closed: 1, received: 9, skipped: 4 }),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() -> Result<()> {
        let text = serde_json::to_vec(&record())?;
        assert_eq!(Record::parse(&text)?, record());
        Ok(())
    }

    #[test]
    fn another_format_and_another_file_are_refused() -> Result<()> {
        let other = Record { format: FORMAT + 1, ..record() };
        let error = Record::parse(&serde_json::to_vec(&other)?).expect_err("format");
        assert!(format!("{error:#}").contains("use the version that wrote it"), "{error:#}");
        let error = Record::parse(b"{\"median\": 3}").expect_err("shape");
        assert!(format!("{error:#}").contains("not a record"), "{error:#}");
        let broken = serde_json::to_string(&record())?.replace("\"latency\":\"", "\"latency\":\"?");
        assert!(Record::parse(broken.as_bytes()).is_err(), "not base64");
        Ok(())
    }

    #[test]
    fn intervals_merge_also_after_they_were_read() -> Result<()> {
        let load = load(Kind::Echo, 3, &[&[10], &[1_000, 5_000_000_000], &[]]);
        let read: Load = serde_json::from_slice(&serde_json::to_vec(&load)?)?;
        for load in [load, read] {
            let mut all = load.latency();
            assert_eq!((all.0.len(), all.at(0.0), all.at(0.5)), (3, 10, 1_000));
            assert!((5_000_000_000..5_010_000_000).contains(&all.at(1.0)));
            all.add(&distribution([u64::MAX]));
            assert!(all.at(1.0) >= 3_600_000_000_000, "an hour is kept");
        }
        assert_eq!(Distribution::default().at(0.99), 0);
        Ok(())
    }

    #[test]
    fn quotients_count_all_loads_and_need_a_server() {
        let two = phase(vec![load(Kind::Connect, 4, &[]), load(Kind::Echo, 2, &[])]);
        assert_eq!(two.deliveries(), 6);
        assert_eq!((two.cpu_per_delivery(), two.server_busy()), (Some(0.5), Some(0.75)));
        assert_eq!(two.memory_per_connection(), Some(1500.0));
        let none = phase(vec![load(Kind::Echo, 0, &[])]);
        assert_eq!((none.cpu_per_delivery(), none.memory_per_connection()), (None, None));
        let unknown = Phase { server: None, ..two };
        assert_eq!((unknown.cpu_per_delivery(), unknown.server_busy()), (None, None));
        assert_eq!(unknown.memory_per_connection(), None);
    }
}
