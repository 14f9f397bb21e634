//! What rounds say together: a ratio, and the interval in which it lies.
//!
//! Each round gives one ratio. Their logarithms are symmetric about the true one, since within a
//! round both builds met the same machine and took turns at going first. The estimate is the mean
//! of the middle half of the logarithms: a spike of a busy machine moves it little, unlike the
//! geometric mean, and it uses more of what the rounds say than the median does. The simulations
//! are in docs/performance.md.
//!
//! The interval is the percentile bootstrap's, seeded, so that the same records always get the
//! same verdict. With few rounds a bootstrap is too sure of itself; its tails are taken as far out
//! as Student's distribution would have them (Hesterberg's expanded percentiles).

/// How many times the rounds are drawn again.
const RESAMPLES: usize = 1000;
/// Any constant does; a constant makes verdicts repeatable.
const SEED: u64 = 0x0063_6f72_6563_6173;

/// A ratio with its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) ratio: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Rounds from which on an interval can miss the truth to one side with probability `tail` or
/// less, whatever the noise: with fewer, all of them may lie on one side of it by chance.
pub(crate) fn rounds_needed(tail: f64) -> usize {
    (-tail.log2()).ceil().max(2.0) as usize
}

/// The ratio that `ratios` (positive) speak for, and the interval that the truth is below of, and
/// above of, with probability `tail` each. `None` for fewer than two.
pub(crate) fn estimate(ratios: &[f64], tail: f64) -> Option<Estimate> {
    if ratios.len() < 2 {
        return None;
    }
    let mut logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    logs.sort_by(f64::total_cmp);
    let ones = vec![1; logs.len()];
    let mut again = resampled(&logs);
    let edge = (expanded(tail, logs.len()) * RESAMPLES as f64) as usize;
    let (_, low, _) = again.select_nth_unstable_by(edge, f64::total_cmp);
    let low = low.exp();
    let (_, high, _) = again.select_nth_unstable_by(RESAMPLES - 1 - edge, f64::total_cmp);
    Some(Estimate { ratio: middle(&logs, &ones).exp(), low, high: high.exp() })
}

/// The middle value, of an even number the mean of the two; `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(f64::midpoint(sorted[(sorted.len() - 1) / 2], upper))
}

/// The estimates of `RESAMPLES` samples drawn from `sorted` with replacement.
fn resampled(sorted: &[f64]) -> Vec<f64> {
    let mut random = Random(SEED);
    let mut times = vec![0; sorted.len()];
    let draw = |_| {
        times.fill(0);
        let mut bits = 0;
        for drawn in 0..sorted.len() {
            // One number is enough for four draws: 16 bits each, for some dozens of rounds.
            bits = if drawn % 4 == 0 { random.next() } else { bits >> 16 };
            times[((bits as usize & 0xFFFF) * sorted.len()) >> 16] += 1;
        }
        middle(sorted, &times)
    };
    (0..RESAMPLES).map(draw).collect()
}

/// Mean of the middle half of the sample that has `sorted[i]` `times[i]` times.
fn middle(sorted: &[f64], times: &[usize]) -> f64 {
    let cut = sorted.len() / 4;
    let (begin, end) = (cut, sorted.len() - cut);
    let (mut at, mut sum) = (0, 0.0);
    for (value, times) in sorted.iter().zip(times) {
        let inside = (at + times).min(end).saturating_sub(at.max(begin));
        sum += value * inside as f64;
        at += times;
    }
    sum / (end - begin) as f64
}

/// The tail of the bootstrap's distribution that covers as much as Student's `tail` does.
fn expanded(tail: f64, rounds: usize) -> f64 {
    let freedom = (rounds - 1) as f64;
    normal_tail((rounds as f64 / freedom).sqrt() * student(tail, freedom))
}

/// How far out Student's distribution leaves `tail` above (Cornish and Fisher's expansion).
fn student(tail: f64, freedom: f64) -> f64 {
    let z = normal(tail);
    let z2 = z * z;
    z + z * (z2 + 1.0) / (4.0 * freedom)
        + z * ((5.0 * z2 + 16.0) * z2 + 3.0) / (96.0 * freedom.powi(2))
        + z * (((3.0 * z2 + 19.0) * z2 + 17.0) * z2 - 15.0) / (384.0 * freedom.powi(3))
}

/// How far out the normal distribution leaves `tail` above: the root of `normal_tail`.
fn normal(tail: f64) -> f64 {
    let (mut low, mut high) = (0.0, 40.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if normal_tail(middle) > tail { low = middle } else { high = middle }
    }
    low
}

/// What the normal distribution leaves above `z` >= 0 (Abramowitz and Stegun 26.2.17, error below
/// 1e-7).
fn normal_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let terms = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = terms.iter().rev().fold(0.0, |sum, term| (sum + term) * t);
    sum * (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

/// SplitMix64: enough for drawing with replacement.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests;
