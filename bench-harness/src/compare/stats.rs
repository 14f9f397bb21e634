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
//!
//! With several gates an edge may lie where one in ten thousand samples does, and no number of
//! samples that is quick to draw reaches it. So rounds on the side of an edge are drawn oftener,
//! until half of the samples lie beyond it, and a sample counts less the likelier that has made it:
//! importance sampling by exponential tilting (Davison and Hinkley, Bootstrap Methods, 9.4). The
//! edge then is where the tail asked for ends, however small.

/// How many times the rounds are drawn again for each edge of the interval.
const RESAMPLES: usize = 500;
/// Slips in an urn for each round, on average.
const SLIPS: f64 = 128.0;
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
    let out = expanded(tail, logs.len());
    // The upper edge is the lower one of the inverse ratios.
    let inverse: Vec<f64> = logs.iter().rev().map(|log| -log).collect();
    Some(Estimate {
        ratio: middle(&logs, &ones).exp(),
        low: low_edge(&logs, out).exp(),
        high: (-low_edge(&inverse, out)).exp(),
    })
}

/// The middle value, of an even number the mean of the two; `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(f64::midpoint(sorted[(sorted.len() - 1) / 2], upper))
}

/// What samples drawn from `sorted` with replacement have estimates below of, with the probability
/// that the normal distribution leaves beyond `out`.
fn low_edge(sorted: &[f64], out: f64) -> f64 {
    let (urn, weights) = urn(sorted, out);
    let mut random = Random(SEED);
    let mut times = vec![0; sorted.len()];
    let draw = |_| {
        times.fill(0);
        let (mut bits, mut weight) = (0, 1.0);
        for drawn in 0..sorted.len() {
            // One number is enough for four draws: 16 bits each, for some dozens of rounds.
            bits = if drawn % 4 == 0 { random.next() } else { bits >> 16 };
            let round = urn[((bits as usize & 0xFFFF) * urn.len()) >> 16];
            times[round] += 1;
            weight *= weights[round];
        }
        (middle(sorted, &times), weight)
    };
    let mut samples: Vec<(f64, f64)> = (0..RESAMPLES).map(draw).collect();
    samples.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    let (mut below, tail) = (0.0, normal_tail(out) * RESAMPLES as f64);
    let edge = samples.iter().position(|(_, weight)| {
        below += weight;
        below > tail
    });
    samples[edge.unwrap_or(0)].0
}

/// Slips with places in `sorted`, more with low ones, so that estimates of samples drawn from them
/// lie about `out` standard errors lower; and how much less than in an even draw each place counts.
fn urn(sorted: &[f64], out: f64) -> (Vec<usize>, Vec<f64>) {
    let (count, cut) = (sorted.len() as f64, sorted.len() / 4);
    // What the estimate feels of a value: outside the middle half, on which side it is.
    let (first, last) = (sorted[cut], sorted[sorted.len() - 1 - cut]);
    let felt: Vec<f64> = sorted.iter().map(|value| value.clamp(first, last)).collect();
    let mean = felt.iter().sum::<f64>() / count;
    let spread = felt.iter().map(|value| (value - mean).powi(2)).sum::<f64>().sqrt();
    // Of two or three rounds it may be further out than numbers go.
    let out = if spread > 0.0 { out.min(30.0) } else { 0.0 };
    let share = |value: &f64| (out * (mean - value) / spread.max(f64::MIN_POSITIVE)).exp();
    let shares: Vec<f64> = felt.iter().map(share).collect();
    let each = SLIPS * count / shares.iter().sum::<f64>();
    // Nobody is left out: what cannot be drawn cannot be weighed.
    let slips: Vec<usize> = shares.iter().map(|share| ((share * each) as usize).max(1)).collect();
    let places = slips.iter().enumerate();
    let urn: Vec<usize> =
        places.flat_map(|(place, slips)| std::iter::repeat_n(place, *slips)).collect();
    let even = urn.len() as f64 / count;
    let weights = slips.iter().map(|slips| even / *slips as f64).collect();
    (urn, weights)
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

/// How far out, on the scale of the normal distribution, the bootstrap's covers as much as
/// Student's `tail` does.
fn expanded(tail: f64, rounds: usize) -> f64 {
    let freedom = (rounds - 1) as f64;
    (rounds as f64 / freedom).sqrt() * student(tail, freedom)
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
