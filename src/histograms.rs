//! How long something has taken and how much has waited, counted in buckets that Prometheus
//! understands.

use std::time::Duration;

/// A histogram of delays. See [`Stats::fan_out`](crate::Stats::fan_out).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delays {
    /// How many fell into each bucket of [`Delays::BOUNDS_US`], and beyond the last.
    pub counts: [u64; Delays::BOUNDS_US.len() + 1],
    /// The sum of all, in nanoseconds.
    pub sum_ns: u64,
}

impl Delays {
    /// Upper bounds of the buckets, in microseconds.
    pub const BOUNDS_US: [u64; 16] = [
        25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
        500_000, 1_000_000, 2_500_000,
    ];

    pub(crate) fn observe(&mut self, delay: Duration) {
        let us = delay.as_micros() as u64;
        let bucket = Self::BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[bucket] += 1;
        self.sum_ns += delay.as_nanos() as u64;
    }

    /// Adds those of another shard.
    pub fn add(&mut self, other: &Delays) {
        self.counts.iter_mut().zip(other.counts).for_each(|(own, other)| *own += other);
        self.sum_ns += other.sum_ns;
    }
}

/// A histogram of what waited in front of packets of broadcasts. See
/// [`Totals::fan_out_queues`](crate::Totals::fan_out_queues).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueLengths {
    /// How many fell into each bucket of [`QueueLengths::BOUNDS`], and beyond the last.
    pub counts: [u64; QueueLengths::BOUNDS.len() + 1],
    /// The sum of all, in bytes.
    pub sum_bytes: u64,
}

impl QueueLengths {
    /// Upper bounds of the buckets, in bytes.
    pub const BOUNDS: [u64; 8] = [0, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576];

    pub(crate) fn observe(&mut self, bytes: usize) {
        // Nearly everybody keeps up.
        let bucket = match bytes {
            0 => 0,
            _ => Self::BOUNDS.partition_point(|bound| *bound < bytes as u64),
        };
        self.counts[bucket] += 1;
        self.sum_bytes += bytes as u64;
    }

    /// Adds those of another shard.
    pub fn add(&mut self, other: &QueueLengths) {
        self.counts.iter_mut().zip(other.counts).for_each(|(own, other)| *own += other);
        self.sum_bytes += other.sum_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_falls_into_the_bucket_that_is_not_below_it() {
        let mut delays = Delays::default();
        for us in [0, 25, 26, 2_500_000, 2_500_001] {
            delays.observe(Duration::from_micros(us));
        }
        let mut both = delays;
        both.add(&delays);
        let expected = [(0, 4), (1, 2), (15, 2), (16, 2)];
        for (bucket, count) in both.counts.into_iter().enumerate() {
            let expected = expected.iter().find(|(at, _)| *at == bucket);
            assert_eq!(count, expected.map_or(0, |(_, count)| *count), "bucket {bucket}");
        }
        assert_eq!(both.sum_ns, 2 * 5_000_052_000);
    }

    #[test]
    fn a_queue_falls_into_the_bucket_that_is_not_below_it() {
        let mut queues = QueueLengths::default();
        for bytes in [0, 0, 1, 256, 257, 1_048_576, 1_048_577] {
            queues.observe(bytes);
        }
        let mut both = queues;
        both.add(&queues);
        assert_eq!(both.counts, [4, 4, 2, 0, 0, 0, 0, 2, 2]);
        assert_eq!(both.sum_bytes, 2 * (1 + 256 + 257 + 1_048_576 + 1_048_577));
    }
}
