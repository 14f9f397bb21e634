//! The distributions by their tables, and intervals of a few rounds.

use super::*;

fn close(found: f64, expected: f64, relative: f64) {
    assert!((found / expected - 1.0).abs() < relative, "{found} is not {expected}");
}

#[test]
fn quantiles_are_those_of_the_tables() {
    close(normal(0.025), 1.959_964, 1e-5);
    close(normal_tail(3.0), 1.349_898e-3, 1e-4);
    close(student(0.025, 9.0), 2.262, 1e-3);
    close(student(0.001, 19.0), 3.579, 2e-3);
    assert!(normal_tail(expanded(0.025, 10)) < 0.025, "few rounds widen");
    close(normal_tail(expanded(0.025, 100_000)), 0.025, 1e-3);
}

#[test]
fn medians_of_odd_even_and_no_values() {
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    assert_eq!(median(&[]), None);
}

#[test]
fn a_spike_moves_the_estimate_little_and_widens_the_interval() {
    let steady: Vec<f64> = (0..12).map(|i| 1.1 + 0.002 * f64::from(i % 5)).collect();
    let found = estimate(&steady, 0.025).expect("many");
    assert!(found.low > 1.09 && found.low < found.ratio && found.ratio < found.high);
    let spiked: Vec<f64> = steady.iter().copied().chain([5.0]).collect();
    let other = estimate(&spiked, 0.025).expect("many");
    close(other.ratio, found.ratio, 0.002);
    assert!(other.high >= found.high);
    assert_eq!(estimate(&spiked, 0.025), Some(other), "the same every time");
    assert_eq!(estimate(&[1.0], 0.025), None);
}

#[test]
fn the_inverse_ratios_have_the_inverse_interval() {
    let ratios = [1.3, 0.9, 1.1, 1.2, 1.05, 0.95, 1.4, 1.0];
    let found = estimate(&ratios, 0.025).expect("many");
    let inverse = estimate(&ratios.map(f64::recip), 0.025).expect("many");
    close(inverse.ratio, found.ratio.recip(), 1e-9);
    close(inverse.low, found.high.recip(), 1e-9);
    close(inverse.high, found.low.recip(), 1e-9);
}

/// Which share of samples drawn evenly from `logs` has an estimate below `edge`.
fn share_below(logs: &[f64], edge: f64) -> f64 {
    const SAMPLES: usize = 400_000;
    let mut random = Random(1);
    let mut times = vec![0; logs.len()];
    let below = |_: &usize| {
        times.fill(0);
        for _ in logs {
            times[(random.next() % logs.len() as u64) as usize] += 1;
        }
        middle(logs, &times) < edge
    };
    (0..SAMPLES).filter(below).count() as f64 / SAMPLES as f64
}

#[test]
fn an_edge_lies_where_the_tail_that_was_asked_for_ends() {
    let mut random = Random(7);
    let mut even = || (random.next() >> 11) as f64 / (1u64 << 53) as f64;
    let steady: Vec<f64> = (0..20).map(|_| 0.1 * (even() + even() + even())).collect();
    let spike = |(at, log): (usize, &f64)| log + f64::from(at % 7 == 0);
    let spiked: Vec<f64> = steady.iter().enumerate().map(spike).collect();
    for mut logs in [spiked, steady[..12].to_vec(), steady] {
        logs.sort_by(f64::total_cmp);
        let ratios: Vec<f64> = logs.iter().map(|log| log.exp()).collect();
        // The last one lies where one of 30,000 samples does.
        for tail in [0.025, 0.003, 0.0005] {
            let stated = normal_tail(expanded(tail, logs.len()));
            let found = estimate(&ratios, tail).expect("many");
            let drawn = share_below(&logs, found.low.ln());
            let few = 12.0 / 400_000.0;
            assert!(
                drawn < 1.5 * stated + few && drawn > stated / 1.5 - few,
                "{drawn} lie below {} of {logs:?}, stated are {stated}",
                found.low
            );
        }
    }
}

#[test]
fn a_smaller_tail_widens_the_interval_however_small_it_is() {
    let ratios: Vec<f64> = (0..40).map(|at| 1.0 + 0.01 * f64::from(at * 7 % 40)).collect();
    let mut last = estimate(&ratios, 0.025).expect("many");
    for tail in [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7] {
        let found = estimate(&ratios, tail).expect("many");
        assert!(found.low < last.low && found.high > last.high, "{tail}: {found:?}, {last:?}");
        last = found;
    }
}

#[test]
fn rounds_of_one_ratio_and_the_fewest_rounds_have_an_interval() {
    let found = estimate(&[1.25; 20], 1e-6).expect("many");
    close(found.low, 1.25, 1e-9);
    close(found.high, 1.25, 1e-9);
    let found = estimate(&[1.0, 2.0], 1e-7).expect("two");
    close(found.low, 1.0, 1e-9);
    close(found.high, 2.0, 1e-9);
}

#[test]
fn rounds_that_all_lie_on_one_side_by_chance_are_rarer_than_the_tail() {
    for tail in [0.025, 0.01, 0.001] {
        let rounds = rounds_needed(tail) as i32;
        assert!(0.5f64.powi(rounds) <= tail && 0.5f64.powi(rounds - 1) > tail);
    }
}
