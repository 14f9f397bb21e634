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
    assert!(expanded(0.025, 10) < 0.025, "few rounds widen");
    close(expanded(0.025, 100_000), 0.025, 1e-3);
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
    // The two draw other samples.
    close(inverse.low, found.high.recip(), 0.03);
    close(inverse.high, found.low.recip(), 0.03);
}

#[test]
fn rounds_that_all_lie_on_one_side_by_chance_are_rarer_than_the_tail() {
    for tail in [0.025, 0.01, 0.001] {
        let rounds = rounds_needed(tail) as i32;
        assert!(0.5f64.powi(rounds) <= tail && 0.5f64.powi(rounds - 1) > tail);
    }
}
