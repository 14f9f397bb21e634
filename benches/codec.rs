//! What a packet costs: decode, encode, and the JSON validators that could stand behind decode.
//!
//! `cargo bench --bench codec` runs criterion. `cargo bench --bench codec -- table` prints the
//! tables of docs/performance.md: candidates take turns within each round, and a ratio compares
//! two neighbours in one round, so that a noisy machine disturbs both alike.
#![allow(clippy::print_stdout, reason = "the table is the product")]
#![allow(missing_docs, reason = "criterion_group! makes public functions")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use corecast::Options;
use corecast::proto::{json, packet};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use serde::de::IgnoredAny;
use simd_json::{Buffers, Tape};

const SIZES: [usize; 7] = [20, 50, 128, 500, 1_000, 10_000, 100_000];
const ROUNDS: usize = 41;
const ROUND_TIME: Duration = Duration::from_micros(500);

/// Event data of about `size` bytes, of the sort that `shape` names.
fn document(shape: &str, size: usize) -> String {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut items = Vec::new();
    let mut len = 2;
    while len < size || items.is_empty() {
        let item = match shape {
            "text" => {
                let words = (size / 16).clamp(1, 40);
                let text: Vec<&str> = (0..words)
                    .map(|_| *rng.choice(&["hello", "to", "the", "world"]).expect("4"))
                    .collect();
                format!("\"{}\"", text.join(" "))
            }
            "string" => format!("\"{}\"", "QUJD".repeat(size / 4)),
            "numbers" => format!("{:.3}", rng.f64() * 1e4),
            _ => format!("{{\"id\":{},\"on\":true}}", rng.u16(..)),
        };
        len += item.len() + 1;
        items.push(item);
    }
    format!("[\"m\",{}]", items.join(","))
}

/// simd-json with all its buffers reused; it rewrites its input, hence the copy.
#[derive(Default)]
struct Simd {
    input: Vec<u8>,
    buffers: Buffers,
    tape: Vec<simd_json::Node<'static>>,
}

impl Simd {
    fn check(&mut self, text: &str) -> bool {
        self.input.clear();
        self.input.extend_from_slice(text.as_bytes());
        let mut tape = Tape(std::mem::take(&mut self.tape)).reset();
        let valid = simd_json::fill_tape(&mut self.input, &mut self.buffers, &mut tape).is_ok();
        self.tape = tape.reset().0;
        valid
    }

    /// The same without simd-json's own copy into its aligned buffer.
    fn check_padded(&mut self, text: &str) -> bool {
        let len = text.len();
        self.input.clear();
        self.input.extend_from_slice(text.as_bytes());
        self.input.resize(len + simd_json::INPUT_PADDING, b' ');
        let mut tape = Tape(std::mem::take(&mut self.tape)).reset();
        let (input, buffers) = (&mut self.input, &mut self.buffers);
        let valid = simd_json::fill_tape_padded(input, len, buffers, &mut tape).is_ok();
        self.tape = tape.reset().0;
        valid
    }
}

fn exact(text: &str) -> bool {
    json::validate(text, 128).is_ok()
}

fn serde(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Nanoseconds per call, over as many calls as fit into [`ROUND_TIME`].
fn time(calls: u32, run: &mut dyn FnMut() -> bool) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        assert!(black_box(run()));
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

/// Nanoseconds per call of each run in each round, the runs taking turns.
fn rounds(calls: u32, runs: &mut [Box<dyn FnMut() -> bool + '_>]) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::new(); runs.len()];
    for round in 0..ROUNDS + 3 {
        for (run, times) in runs.iter_mut().zip(&mut times) {
            let ns = time(calls, run);
            // The first rounds warm caches and grow buffers.
            if round >= 3 {
                times.push(ns);
            }
        }
    }
    times
}

/// The fastest round: what is left when nobody disturbs.
fn fastest(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The median over the rounds of `times` by `base`.
fn ratio(times: &[f64], base: &[f64]) -> f64 {
    let mut ratios: Vec<f64> = times.iter().zip(base).map(|(a, b)| a / b).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

fn calls(text: &str) -> u32 {
    (ROUND_TIME.as_nanos() / (1 + text.len() as u128)).max(10) as u32
}

fn validator_table() {
    println!(
        "| document | bytes | ours ns | serde_json ns | simd-json ns | padded ns \
         | serde_json / ours | simd-json / ours | padded / ours |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for shape in ["string", "text", "numbers", "objects"] {
        for size in SIZES {
            let text = document(shape, size);
            let (mut simd, mut padded) = (Simd::default(), Simd::default());
            let times = rounds(
                calls(&text),
                &mut [
                    Box::new(|| exact(black_box(&text))),
                    Box::new(|| serde(black_box(&text))),
                    Box::new(|| simd.check(black_box(&text))),
                    Box::new(|| padded.check_padded(black_box(&text))),
                ],
            );
            print!("| {shape} | {} |", text.len());
            times.iter().for_each(|times| print!(" {:.0} |", fastest(times)));
            times[1..].iter().for_each(|other| print!(" {:.2} |", ratio(other, &times[0])));
            println!();
        }
    }
}

fn packet_table() {
    let limits = Options::default().limits().expect("defaults hold");
    println!("| packet | bytes | decode and split ns | encode ns |\n|---|---|---|---|");
    for size in [20, 50, 128, 200, 500, 2_000] {
        let data = document("objects", size);
        let text = format!("2{data}");
        let (mut validator, mut out) = (packet::Validator::new(), Vec::new());
        let args = packet::event_parts(&data).expect("an event").1;
        let times = rounds(
            calls(&text),
            &mut [
                Box::new(|| {
                    let packet = packet::decode(black_box(&text), &limits, &mut validator);
                    packet.is_ok_and(|packet| packet::event_parts(packet.data).is_ok())
                }),
                Box::new(|| {
                    out.clear();
                    let args = black_box(args).as_bytes();
                    packet::encode_event("/", None, 0, black_box("m"), args, &mut out);
                    !black_box(&out).is_empty()
                }),
            ],
        );
        let (decode, encode) = (fastest(&times[0]), fastest(&times[1]));
        println!("| objects | {} | {decode:.0} | {encode:.0} |", text.len());
    }
}

fn packets(c: &mut Criterion) {
    let limits = Options::default().limits().expect("defaults hold");
    let mut validator = packet::Validator::new();
    let mut group = c.benchmark_group("packet");
    for size in [20, 50, 200, 2_000] {
        let text = format!("2{}", document("objects", size));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_with_input(BenchmarkId::new("decode", text.len()), &text, |b, text| {
            b.iter(|| {
                let packet = packet::decode(black_box(text), &limits, &mut validator);
                packet::event_parts(packet.expect("valid").data).expect("an event").1.len()
            });
        });
        let mut out = Vec::new();
        group.bench_with_input(BenchmarkId::new("encode", text.len()), &text, |b, text| {
            b.iter(|| {
                out.clear();
                packet::encode_event("/", None, 0, "msg", black_box(text.as_bytes()), &mut out);
                out.len()
            });
        });
    }
    group.finish();
}

fn validators(c: &mut Criterion) {
    let mut group = c.benchmark_group("json");
    let mut simd = Simd::default();
    for size in SIZES {
        let text = document("objects", size);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group
            .bench_function(BenchmarkId::new("ours", size), |b| b.iter(|| exact(black_box(&text))));
        group.bench_function(BenchmarkId::new("serde_json", size), |b| {
            b.iter(|| serde(black_box(&text)));
        });
        group.bench_function(BenchmarkId::new("simd-json", size), |b| {
            b.iter(|| simd.check(black_box(&text)));
        });
    }
    group.finish();
}

criterion_group! {
    name = codec;
    config = Criterion::default().warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1)).sample_size(30);
    targets = packets, validators
}

fn main() {
    if std::env::args().any(|arg| arg == "table") {
        validator_table();
        packet_table();
    } else {
        codec();
        Criterion::default().configure_from_args().final_summary();
    }
}
