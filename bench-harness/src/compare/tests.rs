//! The rule of `ab` on simulated machines, and what a comparison says.

use super::silence::Side;
use super::stats::Random;
use super::thresholds::Thresholds;
use super::*;
use crate::ab::looks;
use crate::record::{FORMAT, Load, Usage};

/// How a machine disturbs a measurement.
#[derive(Debug, Clone, Copy)]
enum Noise {
    /// 8 % either way, on each measurement for itself.
    Even,
    /// The machine's speed wanders by 14 %, over about ten measurements.
    Drift,
    /// One measurement in seven takes 1.2 to 3.2 times as long.
    Spikes,
    /// Others come and go and cost 20 to 60 % while they are there.
    Shared,
    /// Student's t with two degrees of freedom: its variance is infinite.
    HeavyTails,
    /// Whoever is second in a round pays 10 % more.
    SecondPays,
}

/// A machine with its noise.
struct Machine {
    noise: Noise,
    random: Random,
    speed: f64,
    busy: bool,
}

impl Machine {
    fn new(noise: Noise, seed: u64) -> Self {
        Self { noise, random: Random(seed << 20), speed: 0.0, busy: false }
    }

    fn uniform(&mut self) -> f64 {
        (self.random.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// The factor on the next measurement.
    fn next(&mut self, second: bool) -> f64 {
        let own = 0.04 * self.normal();
        self.speed = 0.9 * self.speed + 0.06 * self.normal();
        self.busy ^= self.uniform() < 0.15;
        let chance = self.uniform();
        let more = match self.noise {
            Noise::Even => own,
            Noise::Drift => self.speed,
            Noise::Spikes if chance < 1.0 / 7.0 => (1.2 + 2.0 * self.uniform()).ln(),
            Noise::Shared if self.busy => (1.2 + 0.4 * self.uniform()).ln(),
            Noise::HeavyTails => {
                let scale = (self.normal().powi(2) + self.normal().powi(2)) / 2.0;
                0.03 * self.normal() / scale.sqrt()
            }
            Noise::SecondPays if second => 0.1,
            _ => 0.0,
        };
        (own + more).exp()
    }

    /// A round of (base, new) with a phase for each gate; the new build takes `slower` times as
    /// long.
    fn round(&mut self, number: usize, gates: usize, slower: f64) -> (Record, Record) {
        let mut turn = |second, slower: f64| {
            let cpu = |_| Some(1e-6 * slower * self.next(second));
            record(&(0..gates).map(cpu).collect::<Vec<_>>())
        };
        if number % 2 == 1 {
            let base = turn(false, 1.0);
            (base, turn(true, slower))
        } else {
            let new = turn(false, slower);
            (turn(true, 1.0), new)
        }
    }

    /// What `ab` does with the default thresholds: true if it fails.
    fn ab(&mut self, gates: usize, slower: f64) -> bool {
        let (looks, mut rounds) = (looks(20, 40), Vec::new());
        for look in &looks {
            while rounds.len() < *look {
                rounds.push(self.round(rounds.len() + 1, gates, slower));
            }
            let found = Comparison::of(&rounds, &Thresholds::default(), looks.len());
            let found = found.expect("alike");
            if found.decided() {
                return found.regressed();
            }
        }
        false
    }
}

/// A record of phases "a", "b", … with a fan-out of 1,000 deliveries and that CPU time for each.
fn record(cpu: &[Option<f64>]) -> Record {
    let phase = |(at, cpu): (usize, &Option<f64>)| Phase {
        name: char::from(b'a' + at as u8).into(),
        start: 0.0,
        seconds: 1.0,
        connections: 10,
        server: cpu.map(|cpu| Usage { cpu_seconds: cpu * 1000.0, ..Usage::default() }),
        client: Usage::default(),
        samples: Vec::new(),
        loads: vec![load(Kind::Fanout)],
    };
    Record {
        format: FORMAT,
        scenario: "test".into(),
        server: "server".into(),
        began: 0.0,
        complete: true,
        harness: "0".into(),
        host: "host".into(),
        connections: 10,
        processes: 1,
        stalled: None,
        phases: cpu.iter().enumerate().map(phase).collect(),
    }
}

fn load(kind: Kind) -> Load {
    Load {
        name: "load".into(),
        kind,
        payload: 128,
        rate: Some(1.0),
        in_flight: None,
        finished: 1000,
        deliveries: 1000,
        all_sent: 1000,
        all_due: 1000,
        all_received: 1000,
        intervals: Vec::new(),
    }
}

/// How many of `seeds` machines with that noise fail a build with so many gates.
fn failures(noise: Noise, gates: usize, seeds: u64, slower: f64) -> u64 {
    (0..seeds).map(|seed| u64::from(Machine::new(noise, seed).ab(gates, slower))).sum()
}

/// At the default number of rounds, over 1,000 machines with that noise: a build that is slower by
/// the threshold of 3 % fails as often as stated at most (an equal one more seldom still), one that
/// is slower by 10 % fails `caught` times at least.
fn check(noise: Noise, caught: u64) {
    let failed = failures(noise, 1, 1000, 1.03);
    assert!(failed <= 10, "{noise:?}: {failed} of 1000 fail at the threshold, stated are 10");
    let failed = failures(noise, 1, 1000, 1.1);
    assert!(failed >= caught, "{noise:?}: {failed} of 1000 are caught, stated are {caught}");
}

#[test]
fn noise_even() {
    check(Noise::Even, 700);
}

#[test]
fn noise_drift() {
    check(Noise::Drift, 930);
}

#[test]
fn noise_spikes() {
    check(Noise::Spikes, 570);
}

#[test]
fn noise_shared() {
    check(Noise::Shared, 650);
}

#[test]
fn noise_heavy_tails() {
    check(Noise::HeavyTails, 900);
}

#[test]
fn noise_second_pays() {
    check(Noise::SecondPays, 230);
}

#[test]
fn three_gates_of_equal_builds_fail_no_oftener_than_stated() {
    let failed = failures(Noise::Shared, 3, 1000, 1.0);
    assert!(failed <= 10, "{failed} of 1000 fail, stated are 10");
}

fn compared(base: &[f64], new: &[f64], thresholds: &str) -> Result<Comparison> {
    let rounds: Vec<_> = base
        .iter()
        .zip(new)
        .map(|(base, new)| (record(&[Some(*base)]), record(&[Some(*new)])))
        .collect();
    Comparison::of(&rounds, &Thresholds::parse(thresholds)?, 1)
}

#[test]
fn verdicts_need_the_whole_interval() -> Result<()> {
    let steady = [1e-6; 12];
    let times =
        |factors: [f64; 3]| -> Vec<f64> { (0..12).map(|i| 1e-6 * factors[i % 3]).collect() };
    for (factors, verdict) in [
        ([1.09, 1.1, 1.11], Verdict::Worse),
        ([0.99, 1.0, 1.01], Verdict::Same),
        ([0.89, 0.9, 0.91], Verdict::Better),
        ([0.9, 1.05, 1.2], Verdict::Unsure),
        ([1.01, 1.03, 1.05], Verdict::Unsure),
    ] {
        let found = compared(&steady, &times(factors), "")?;
        assert_eq!(found.rows[0].verdict, Some(verdict), "{factors:?}: {found:?}");
        assert_eq!(found.regressed(), verdict == Verdict::Worse);
        assert_eq!(found.decided(), verdict != Verdict::Unsure);
        found.judged()?;
    }
    let lax =
        compared(&steady, &times([1.09, 1.1, 1.11]), "[phase.a.cpu-per-delivery]\nthreshold=0.2")?;
    assert_eq!(lax.rows[0].verdict, Some(Verdict::Same));
    let informs = compared(&steady, &times([2.0; 3]), "[metric.cpu-per-delivery]\ngate=false")?;
    assert_eq!((informs.rows[0].verdict, informs.regressed()), (Some(Verdict::Worse), false));
    assert_eq!(informs.headline(), "no verdict: nothing gates");
    assert!(informs.judged().is_err() && !informs.decided());
    Ok(())
}

#[test]
fn few_rounds_are_not_judged() -> Result<()> {
    let found = compared(&[1e-6; 3], &[2e-6; 3], "")?;
    let error = found.judged().expect_err("three rounds").to_string();
    // One gate, 1 %: seven coins fall alike in less than one of a hundred cases.
    assert!(error.contains("takes 7 rounds"), "{error}");
    assert!(!found.regressed() && !found.decided());
    assert_eq!(found.rows[0].verdict, None);
    assert!(markdown::markdown(&found).contains("no verdict: 3 rounds are too few"));
    Ok(())
}

#[test]
fn rounds_without_the_figure_leave_the_gate_to_the_others() -> Result<()> {
    let rounds = |without: usize| -> Vec<(Record, Record)> {
        let round = |at| (record(&[(at >= without).then_some(1e-6)]), record(&[Some(1.2e-6)]));
        (0..12).map(round).collect()
    };
    let found = Comparison::of(&rounds(2), &Thresholds::default(), 1)?;
    assert_eq!(found.rows[0].ratios.len(), 10);
    assert!(found.regressed());
    // Six of twelve are one fewer than a verdict takes: that is doubt, not health.
    let found = Comparison::of(&rounds(6), &Thresholds::default(), 1)?;
    assert_eq!((found.rows[0].verdict, found.regressed(), found.decided()), (None, false, false));
    assert_eq!(found.headline(), "no regression found, but 1 of 1 gates are unsure");
    Ok(())
}

/// Sixteen rounds of two phases; `base` and `new` say in which rounds they deliver in phase a.
fn silent(base: fn(usize) -> bool, new: fn(usize) -> bool) -> Vec<(Record, Record)> {
    let side = |delivers: bool| {
        let mut record = record(&[Some(1e-6); 2]);
        record.phases[0].loads[0].deliveries *= u64::from(delivers);
        record
    };
    (0..16).map(|round| (side(base(round)), side(new(round)))).collect()
}

#[test]
fn a_build_that_delivers_nothing_where_the_base_does_fails() -> Result<()> {
    // In all rounds, or in all but one: a gate with so few ratios is not judged.
    let seldom: [fn(usize) -> bool; 2] = [|_| false, |round| round == 5];
    for delivers in seldom {
        let found = Comparison::of(&silent(|_| true, delivers), &Thresholds::default(), 1)?;
        assert!(found.failed()? && found.decided(), "{found:?}");
        assert_eq!(found.headline(), "regression: nothing delivered in one load");
        let said = format!(
            "a load: the new build delivered nothing within the measured part, and the base did, \
             in {} of 16 rounds",
            if delivers(5) { 15 } else { 16 }
        );
        for text in [text::text(&found), markdown::markdown(&found), html::lead(&found)] {
            assert!(text.contains(&said), "{text}");
        }
        assert!(markdown::markdown(&found).starts_with("### ❌ "));
    }
    Ok(())
}

#[test]
fn a_base_that_delivers_nothing_leaves_nothing_to_judge_by() -> Result<()> {
    let found = Comparison::of(&silent(|_| false, |_| true), &Thresholds::default(), 1)?;
    assert_eq!((found.silences[0].side, found.regressed()), (Side::Base, false));
    let error = found.failed().expect_err("the base is silent").to_string();
    assert!(error.contains("no verdict: a load: the base delivered nothing"), "{error}");
    assert!(error.contains("16 of 16 rounds; there is nothing to compare with"), "{error}");
    assert_eq!(found.headline(), "no verdict: one side delivers nothing");
    assert!(markdown::markdown(&found).starts_with("### ⚠️ "));
    assert!(found.decided(), "phase b is as it was, and more rounds give the base no voice");
    // What is worse elsewhere is worse all the same.
    let mut rounds = silent(|_| false, |_| true);
    for (_, new) in &mut rounds {
        new.phases[1] = record(&[None, Some(2e-6)]).phases.remove(1);
    }
    let found = Comparison::of(&rounds, &Thresholds::default(), 1)?;
    assert!(found.failed()?, "{found:?}");
    Ok(())
}

#[test]
fn silence_by_chance_is_no_regression() -> Result<()> {
    // On a starved machine windows are empty on either side, or a few on one.
    let either = silent(|round| round != 2, |round| round > 1);
    for rounds in [either, silent(|_| true, |round| round > 1)] {
        let found = Comparison::of(&rounds, &Thresholds::default(), 1)?;
        assert!(found.silences.is_empty(), "{found:?}");
        assert!(!found.failed()?);
    }
    // Two rounds are too few to tell, but no reason to pass.
    let rounds = &silent(|_| true, |_| false)[..2];
    let found = Comparison::of(rounds, &Thresholds::default(), 1)?;
    let error = found.failed().expect_err("two rounds").to_string();
    assert!(error.contains("2 of 2 rounds; it takes 7 to be sure"), "{error}");
    assert!(!found.decided());
    // Nobody knows when pings come.
    let mut rounds = silent(|_| true, |_| false);
    for record in rounds.iter_mut().flat_map(|(base, new)| [base, new]) {
        record.phases[0].loads[0].kind = Kind::Idle;
    }
    assert!(Comparison::of(&rounds, &Thresholds::default(), 1)?.silences.is_empty());
    Ok(())
}

#[test]
fn an_interrupted_comparison_says_so() -> Result<()> {
    let mut found = compared(&[1e-6; 12], &[1e-6; 12], "")?;
    found.interrupted = true;
    assert_eq!(found.headline(), "interrupted after 12 rounds: no regression");
    let text = markdown::markdown(&found);
    assert!(text.starts_with("### ⚠️ test: interrupted after 12 rounds: no regression"), "{text}");
    Ok(())
}

#[test]
fn a_scenario_without_the_phase_or_without_a_gate_is_told_before_it_runs() -> Result<()> {
    let scenario = "[[phase]]\nname = \"chat\"\nload = [{ kind = \"echo\", rate = 9 }]";
    let scenario = Scenario::parse(scenario, "chat")?;
    let none = "[metric]\ncpu-per-delivery = { gate = false }\n\
                cpu-per-connection = { gate = false }\nmemory-per-connection = { gate = false }\n";
    let checked = |more: &str| {
        let thresholds = Thresholds::parse(&format!("{none}{more}"))?;
        super::check(&scenario, &thresholds)
    };
    checked("p50 = { gate = true }")?;
    checked("[phase.connect.deliveries-per-second]\ngate = true")?;
    for (more, part) in [
        ("", "nothing gates"),
        // That is what the schedule says.
        ("[phase.chat.deliveries-per-second]\ngate = true", "nothing gates"),
        ("[phase.chats.p50]\ngate = true", "a phase chats; the scenario has connect, chat"),
    ] {
        let error = checked(more).expect_err(more).to_string();
        assert!(error.contains(part), "{more}: {error}");
    }
    Ok(())
}

#[test]
fn more_is_better_turns_the_verdict() -> Result<()> {
    let with_rate = |deliveries: u64| {
        let mut record = record(&[None]);
        let load = &mut record.phases[0].loads[0];
        (load.rate, load.in_flight, load.deliveries) = (None, Some(1), deliveries);
        record
    };
    for (new, verdict) in [(500, Verdict::Worse), (2000, Verdict::Better), (1000, Verdict::Same)] {
        let rounds: Vec<_> = (0..8).map(|_| (with_rate(1000), with_rate(new))).collect();
        let found = Comparison::of(&rounds, &Thresholds::default(), 1)?;
        let row = &found.rows[0];
        assert_eq!((row.metric, row.verdict), (Metric::DeliveriesPerSecond, Some(verdict)));
    }
    Ok(())
}

#[test]
fn each_kind_of_phase_has_its_figures() {
    let found = |kind: Kind| -> Vec<Metric> {
        let mut record = record(&[Some(1e-6)]);
        let phase = &mut record.phases[0];
        if let Some(used) = &mut phase.server {
            used.resident_after = 4096;
        }
        phase.loads[0] = load(kind);
        let mut interval = crate::record::Interval {
            start: 0.0,
            seconds: 1.0,
            latency: crate::record::Distribution::default(),
        };
        interval.latency.record(1000);
        phase.loads[0].intervals.push(interval);
        let found = figures(phase).into_iter();
        found.filter(|(.., figure)| figure.is_some()).map(|(_, metric, _)| metric).collect()
    };
    use Metric::*;
    assert_eq!(found(Kind::Fanout), [CpuPerDelivery, P50, P90, P99, P999, Max]);
    let connect = [CpuPerConnection, MemoryPerConnection, P50, P90, P99, P999, Max];
    assert_eq!(found(Kind::Connect), connect);
    assert_eq!(found(Kind::Idle), [CpuPerConnection, P50, P90, P99, P999, Max]);
}

#[test]
fn rounds_are_paired_by_number_and_shapes_must_agree() {
    let side = |rounds: &[u32]| -> BTreeMap<u32, Record> {
        rounds.iter().map(|round| (*round, record(&[Some(f64::from(*round))]))).collect()
    };
    let mut cut = side(&[1, 2, 3]);
    cut.entry(2).and_modify(|record| record.complete = false);
    let rounds = pair(cut, side(&[2, 3, 4])).expect("round 3");
    assert_eq!(rounds.len(), 1);
    assert_eq!(rounds[0].0, rounds[0].1);
    assert!(pair(side(&[1]), side(&[2])).is_err());
    let other = [(record(&[None]), record(&[None, None]))];
    let error = Comparison::of(&other, &Thresholds::default(), 1).expect_err("other phases");
    assert!(error.to_string().contains("runs of one scenario"), "{error}");
    let error = compared(&[1.0], &[1.0], "[phase.b.p99]\ngate=true").expect_err("no phase b");
    assert!(error.to_string().contains("a phase b"), "{error}");
}

#[test]
fn the_summary_has_gates_in_sight_and_the_rest_folded() -> Result<()> {
    let worse: Vec<f64> = (0..12).map(|i| 1.1e-6 + 1e-9 * f64::from(i)).collect();
    let found = compared(&[1e-6; 12], &worse, "")?;
    let text = markdown::markdown(&found);
    assert!(text.starts_with("### ❌ test: regression: 1 of 1 gates worse\n"), "{text}");
    assert!(text.contains("| a: CPU per delivery | 1.00 µs | 1.11 µs | **+10.5 %**"), "{text}");
    assert!(!text.contains("<details>"), "nothing to fold: {text}");
    let informs = compared(&[1e-6; 12], &worse, "[metric.cpu-per-delivery]\ngate=false")?;
    let text = markdown::markdown(&informs);
    assert!(
        text.contains("<summary>1 figures that do not decide, 1 of them better or worse"),
        "{text}"
    );
    Ok(())
}
