//! Deterministic simulation: hubs, a network and clients in one thread under one seed.
//!
//! `cargo test --test sim` runs some thousand seeds, an eighth of them in each of the eight tests
//! that stress one thing. A failure prints `SIM_SEED=<n>`; with that in the environment exactly
//! that seed runs again. `SIM_SEEDS=<from>..<to>` runs a range (see `scripts/sim.sh`).
#![allow(clippy::unwrap_used)] // In a test, a panic is a finding.

#[path = "sim/app.rs"]
mod app;
#[path = "sim/client.rs"]
mod client;
#[path = "sim/codec.rs"]
mod codec;
#[path = "sim/model.rs"]
mod model;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/profile.rs"]
mod profile;
#[path = "sim/script.rs"]
mod script;
#[path = "sim/world.rs"]
mod world;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use client::State;
use corecast::Reason;
use world::{Fault, World};

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
    /// Failures are expected: no output.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Says how to see a failure again.
struct Says(u64);

impl Drop for Says {
    fn drop(&mut self) {
        if std::thread::panicking() && !QUIET.get() {
            let name = profile::NAMES[(self.0 % 8) as usize];
            eprintln!("SIM_SEED={} ({name}) failed at step {}", self.0, STEP.get());
        }
    }
}

/// One life of a world. Returns how many packets were checked and how often the fault struck.
fn run(seed: u64, fault: Fault) -> (u64, u64) {
    let _says = Says(seed);
    let mut world = World::new(seed, fault);
    for _ in 0..world.profile.steps {
        let elapsed = world.rng.u64(0..25);
        world.step(elapsed);
        chances(&mut world);
    }
    settle(&mut world);
    match world.rng.u8(0..5) {
        0 => shut_down(&mut world),
        _ => everybody_leaves(&mut world),
    }
    nothing_is_left(&mut world);
    (world.model.received, world.faults)
}

/// What happens from outside now and then.
fn chances(world: &mut World) {
    if world.rng.u32(0..1000) < world.profile.jumps {
        world.now += world.rng.u64(100..60_000);
        world.model.facts.iter_mut().for_each(|facts| facts.excused = true);
    }
    if world.rng.u8(..) < 6 {
        world.publish_from_outside();
    }
    for at in 0..world.clients.len() {
        let is_open = matches!(world.clients[at].state, State::Open | State::Opening);
        if is_open && world.rng.u32(0..100) < world.profile.churn {
            world.with_client(at, |client, ctx| client.leave(ctx));
            let at = world.step + world.rng.u64(0..20);
            world.add_client(at);
        }
    }
}

/// Lets everything under way arrive, then compares what was owed with what came.
fn settle(world: &mut World) {
    world.settling = true;
    for _ in 0..1_500 {
        let elapsed = world.rng.u64(0..12);
        world.step(elapsed);
        if complaint(world).is_none() {
            return;
        }
    }
    panic!("not settled: {}", complaint(world).unwrap_or_default());
}

/// What is still missing.
fn complaint(world: &World) -> Option<String> {
    if !world.is_quiet() {
        return Some("something is under way".into());
    }
    for client in &world.clients {
        if client.state != State::Open || !client.is_healthy(&world.model) {
            continue;
        }
        if !client.is_quiet() || client.script.is_waiting() {
            return Some(format!("client {} waits: {client:?}", client.id));
        }
        for (sid, seq) in client.script.sockets() {
            let ledger = &world.model.ledgers[sid];
            if ledger.closed.is_some() || ledger.in_seq != seq {
                return Some(format!("{sid}: {seq} events were sent: {ledger:?}"));
            }
            if let Some(what) = world.model.missing(sid) {
                return Some(format!("{sid} of {client:?} misses {what:?}"));
            }
        }
    }
    None
}

fn everybody_leaves(world: &mut World) {
    for at in 0..world.clients.len() {
        if !matches!(world.clients[at].state, State::Done) {
            world.with_client(at, |client, ctx| client.leave(ctx));
        }
    }
}

/// The server goes; those clients that still poll are told, the others just closed.
fn shut_down(world: &mut World) {
    world.model.is_over = true;
    world.model.facts.iter_mut().for_each(|facts| facts.excused = true);
    for shard in 0..world.shards.len() {
        world.shards[shard].hub.shut_down(Reason::ServerShuttingDown);
        world.drain(shard);
    }
}

/// Whether the hubs hold nothing and have nothing to do.
fn is_empty(world: &World) -> bool {
    let gone = world.shards.iter().all(|shard| shard.hub.gauges() == Default::default());
    gone && world.is_quiet()
}

/// Time passes, and every trace of the clients has to go.
fn nothing_is_left(world: &mut World) {
    let only_timers = world.rng.bool();
    for _ in 0..1_000 {
        if is_empty(world) {
            break;
        }
        let timer = world.until_next_timer().filter(|_| only_timers);
        let elapsed = timer.unwrap_or_else(|| world.rng.u64(0..200));
        world.step(elapsed);
    }
    for shard in &world.shards {
        let gauges = shard.hub.gauges();
        assert_eq!(gauges, Default::default(), "something is left: {:?}", world.net.open_streams());
        assert_eq!(shard.hub.held().bytes(), 0, "bytes are held for nobody");
    }
    assert!(is_empty(world), "work for nobody: {:?}", world.app);
    assert_eq!(world.app.pending(), 0, "decisions are open");
    assert_eq!(world.app.open_questions(), 0, "questions are open");
    for (sid, ledger) in &world.model.ledgers {
        assert!(ledger.closed.is_some(), "{sid} was never closed");
    }
    // Only entries that were left behind remain in the wheel; the last one is 33 s away.
    for shard in &mut world.shards {
        let (mut now, end) = (world.now, world.now + 34_000);
        while let Some(wait) = shard.hub.next_timeout_ms() {
            now += wait;
            assert!(now < end, "entries stay in the wheel");
            shard.hub.handle_time(now);
            assert!(!shard.hub.has_work(), "a timer of nobody has fired");
        }
    }
}

/// The seeds of one test: `SIM_SEED`, a range, or the usual number.
fn seeds(profile: u64) -> Vec<u64> {
    let number = |text: &str| text.trim().parse::<u64>().expect("a seed");
    if let Ok(seed) = std::env::var("SIM_SEED") {
        return vec![number(&seed)].into_iter().filter(|seed| seed % 8 == profile).collect();
    }
    let range = match std::env::var("SIM_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("SIM_SEEDS=from..to");
            number(from)..number(to)
        }
        Err(_) => 0..8 * SEEDS,
    };
    range.filter(|seed| seed % 8 == profile).collect()
}

/// Seeds per test.
const SEEDS: u64 = 500;

fn run_all(profile: u64) {
    let seeds = seeds(profile);
    let checked: u64 = seeds.iter().map(|seed| run(*seed, Fault::None).0).sum();
    assert!(checked >= 20 * seeds.len() as u64, "only {checked} packets in {}", seeds.len());
}

#[test]
fn polling() {
    run_all(0);
}

#[test]
fn upgrade() {
    run_all(1);
}

#[test]
fn slow_readers() {
    run_all(2);
}

#[test]
fn churn() {
    run_all(3);
}

#[test]
fn garbage() {
    run_all(4);
}

#[test]
fn shards() {
    run_all(5);
}

#[test]
fn acks() {
    run_all(6);
}

#[test]
fn everything() {
    run_all(7);
}

/// Seeds that find a bug of the past when its fix is taken out, by what was wrong. A change of the
/// scripts changes what seeds do: then look for new ones the same way.
#[test]
fn fixed_seeds() {
    if std::env::var("SIM_SEED").is_ok() || std::env::var("SIM_SEEDS").is_ok() {
        return;
    }
    let table: [(&str, &[u64]); 4] = [
        ("broadcasts to sockets that were leaving", &[1, 6, 8, 10, 11, 12, 13, 23]),
        ("a second receive while a websocket closes", &[3, 6, 7, 20, 106, 153, 157]),
        ("errors for sockets that nobody knows", &[132, 351]),
        ("no deadline for the answer to a parked GET", &[1, 8, 11, 29, 55, 74, 102, 108]),
    ];
    for seed in table.iter().flat_map(|(_, seeds)| *seeds) {
        run(*seed, Fault::None);
    }
}

/// The checks notice a fault: most runs in which it struck fail.
fn canary(fault: Fault, profile: u64) {
    QUIET.set(true);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            hook(info);
        }
    }));
    let outcome = |seed| catch_unwind(AssertUnwindSafe(|| run(seed, fault)));
    let failed = (0..10).filter(|n| outcome(n * 8 + profile).is_err()).count();
    QUIET.set(false);
    assert!(failed >= 6, "{fault:?}: only {failed} of 10 runs noticed");
}

#[test]
fn canary_publish_twice() {
    canary(Fault::PublishTwice, 5);
}

#[test]
fn canary_skip_publish() {
    canary(Fault::SkipPublish, 5);
}

#[test]
fn canary_lose_sent() {
    canary(Fault::LoseSent, 0);
}

#[test]
fn canary_swap_mails() {
    canary(Fault::SwapMails, 5);
}

#[test]
fn canary_lose_received() {
    canary(Fault::LoseReceived, 6);
}

#[test]
fn canary_forget_member() {
    canary(Fault::ForgetMember, 3);
}

#[test]
fn canary_forget_closed() {
    canary(Fault::ForgetClosed, 3);
}

#[test]
fn canary_flip_byte() {
    canary(Fault::FlipByte, 6);
}

#[test]
fn canary_wrong_receiver() {
    canary(Fault::WrongReceiver, 5);
}
