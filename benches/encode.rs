//! What it costs to write an event's argument as JSON, and to read it into its type again: ours,
//! which is serde_json with attachments taken out and put in, against serde_json and simd-json.
//!
//! `cargo bench --bench encode -- write/string` selects. docs/performance.md says what follows
//! from it.
#![allow(missing_docs, reason = "criterion_group! makes public functions")]

use std::fmt::Debug;
use std::hint::black_box;
use std::time::Duration;

use corecast::proto::value::{first_arg, to_args};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use simd_json::Buffers;

const SIZES: [usize; 5] = [50, 128, 500, 2_000, 10_000];

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    id: u32,
    price: f64,
    symbol: String,
    on: bool,
}

fn write<T: Serialize>(c: &mut Criterion, shape: &str, size: usize, value: &T) {
    let (mut out, mut attachments) = (Vec::new(), Vec::new());
    to_args(value, &mut out, &mut attachments).expect("JSON");
    let mut group = c.benchmark_group(format!("write/{shape}"));
    group.throughput(Throughput::Bytes(out.len() as u64));
    group.bench_function(BenchmarkId::new("ours", size), |b| {
        b.iter(|| {
            out.clear();
            to_args(black_box(value), &mut out, &mut attachments).expect("JSON");
        });
    });
    group.bench_function(BenchmarkId::new("serde_json", size), |b| {
        b.iter(|| {
            out.clear();
            serde_json::to_writer(&mut out, black_box(value)).expect("JSON");
        });
    });
    group.bench_function(BenchmarkId::new("simd-json", size), |b| {
        b.iter(|| {
            out.clear();
            simd_json::to_writer(&mut out, black_box(value)).expect("JSON");
        });
    });
    group.finish();
}

fn read<T>(c: &mut Criterion, shape: &str, size: usize, value: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let text = serde_json::to_string(value).expect("JSON");
    assert_eq!(first_arg::<T>(&text, &[]).ok().as_ref(), Some(value));
    let mut group = c.benchmark_group(format!("read/{shape}"));
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function(BenchmarkId::new("ours", size), |b| {
        b.iter(|| first_arg::<T>(black_box(&text), &[]).expect("what was written"));
    });
    group.bench_function(BenchmarkId::new("serde_json", size), |b| {
        b.iter(|| serde_json::from_str::<T>(black_box(&text)).expect("what was written"));
    });
    // It rewrites its input, which the server's is not to be: hence the copy.
    let (mut input, mut buffers) = (Vec::new(), Buffers::default());
    group.bench_function(BenchmarkId::new("simd-json", size), |b| {
        b.iter(|| {
            input.clear();
            input.extend_from_slice(black_box(&text).as_bytes());
            simd_json::serde::from_slice_with_buffers::<T>(&mut input, &mut buffers)
                .expect("what was written")
        });
    });
    group.finish();
}

fn both<T>(c: &mut Criterion, shape: &str, size: usize, value: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    write(c, shape, size, value);
    read(c, shape, size, value);
}

/// What applications send: a string without escapes, one with some, rows of a table, numbers.
fn documents(c: &mut Criterion) {
    let mut rng = fastrand::Rng::with_seed(7);
    for size in SIZES {
        both(c, "string", size, &"QUJD".repeat(size / 4));
        both(c, "text", size, &"she said: \"here we are\"\n".repeat(size.div_ceil(26)));
        let number = |_| f64::from(rng.u32(..100_000_000)) / 100.0;
        both(c, "numbers", size, &(0..size / 9).map(number).collect::<Vec<f64>>());
        let row = |_| Row {
            id: rng.u32(..),
            price: f64::from(rng.u16(..)) / 100.0,
            symbol: "ABCD".into(),
            on: rng.bool(),
        };
        both(c, "rows", size, &(0..size.div_ceil(60)).map(row).collect::<Vec<Row>>());
    }
}

criterion_group! {
    name = encode;
    config = Criterion::default().warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200)).sample_size(20);
    targets = documents
}
criterion_main!(encode);
