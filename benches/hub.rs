//! What a hub costs without a kernel: staging a broadcast, flushing it, rooms that come and go.
//!
//! Nanoseconds are those of one element: a member staged, a send flushed, a room joined and left.
//! `cargo bench --bench hub -- publish` selects. Everything flat over the sizes is as it should
//! be; what grows beyond 10,000 members is the cache that their records no longer fit.
#![allow(missing_docs, reason = "criterion_group! makes public functions")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use corecast::Options;
use corecast::hub::fanout::Encoded;
use corecast::hub::id::Secrets;
use corecast::hub::slab::Key;
use corecast::hub::{Config, Event, Flags, Hub, Publish, Target};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const UPGRADE: &[u8] = b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\n\
    Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// A client's frame with the packet `40`, its mask 0.
const CONNECT: &[u8] = &[0x81, 0x82, 0, 0, 0, 0, b'4', b'0'];

/// A hub, its members, and a kernel that takes every send whole.
struct Site {
    hub: Hub,
    members: Vec<Key>,
    sent: Vec<u32>,
}

impl Site {
    fn with(members: usize) -> Site {
        let mut rng = fastrand::Rng::with_seed(1);
        let secrets = Secrets::new(Box::new(move |bytes| rng.fill(bytes)));
        let mut hub = Hub::new(config(), secrets);
        hub.add_namespace("/");
        let mut site = Site { hub, members: Vec::new(), sent: Vec::new() };
        for _ in 0..members {
            site.connect();
        }
        site
    }

    fn connect(&mut self) {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let conn = self.hub.handle_accepted(address).expect("room for a connection");
        for bytes in [UPGRADE, CONNECT] {
            self.hub.handle_received(conn, &mut bytes.to_vec());
            while self.hub.poll_output().is_some() {}
            while let Some(event) = self.hub.poll_event() {
                if let Event::Connect { member, .. } = event {
                    assert!(self.hub.accept_member(member));
                    self.members.push(member);
                }
            }
            self.flush();
        }
    }

    /// Sends everything; says how many sends that were.
    fn flush(&mut self) -> usize {
        let mut sends = 0;
        loop {
            let sent = &mut self.sent;
            self.hub.flush(256, |conn, buf| {
                black_box(buf);
                sent.push(conn);
            });
            if self.sent.is_empty() {
                return sends;
            }
            sends += self.sent.len();
            for conn in self.sent.drain(..) {
                self.hub.handle_sent(conn, true);
            }
            while self.hub.poll_output().is_some() {}
        }
    }
}

fn config() -> Config {
    let options = Options::default();
    Config {
        shard: 0,
        shards: 1,
        path: "/socket.io/".into(),
        polling: true,
        websocket: true,
        allow_eio3: false,
        jsonp: true,
        http_compression: options.http_compression,
        requests: Default::default(),
        parser: options.parser.clone(),
        limits: options.limits().expect("defaults hold"),
        deflate: None,
        ping_interval_ms: 25_000,
        ping_timeout_ms: 20_000,
        upgrade_timeout_ms: 10_000,
        connect_timeout_ms: 45_000,
        head_timeout_ms: 60_000,
        body_timeout_ms: 300_000,
        queue_bytes_max: options.max_queue_bytes,
        shard_queue_bytes_max: options.max_shard_queue_bytes,
        shard_incoming_bytes_max: options.max_shard_incoming_bytes,
        slow_reader: options.slow_reader,
        connections_max: 1 << 20,
        entrance: Default::default(),
        namespaces_max: 100,
        rooms_max: 1 << 20,
        acks_max: 100,
        gather_bytes_max: 1 << 20,
        recovery: None,
        retain_handshake: true,
        epoch_ms: 0,
    }
}

fn message(room: Option<&str>) -> Publish {
    let text = format!("42[\"msg\",\"{}\"]", "x".repeat(128));
    Publish {
        namespace: 0,
        target: Target { rooms: room.map(Into::into).into_iter().collect(), ..Target::default() },
        flags: Flags::default(),
        encoded: Encoded { text: Bytes::from(text), attachments: Vec::new() },
    }
}

/// Time of `count` calls of `part`, each followed by `rest`, whose time is not counted.
fn timed(
    count: u64,
    site: &mut Site,
    mut part: impl FnMut(&mut Site),
    mut rest: impl FnMut(&mut Site),
) -> Duration {
    (0..count)
        .map(|_| {
            let started = Instant::now();
            part(site);
            let spent = started.elapsed();
            rest(site);
            spent
        })
        .sum()
}

/// A broadcast to all: staged on each member; then flushed, a send for each, with its completion.
fn publish(c: &mut Criterion) {
    for members in [100, 1_000, 15_000, 100_000] {
        let mut site = Site::with(members);
        let all = message(None);
        site.hub.publish(&all);
        assert_eq!(site.flush(), members);
        let mut group = c.benchmark_group("hub");
        group.throughput(Throughput::Elements(members as u64));
        group.bench_function(BenchmarkId::new("publish", members), |b| {
            let flush = |site: &mut Site| {
                site.flush();
            };
            b.iter_custom(|count| timed(count, &mut site, |site| site.hub.publish(&all), flush));
        });
        group.bench_function(BenchmarkId::new("flush", members), |b| {
            b.iter_custom(|count| {
                site.hub.publish(&all);
                let flush = |site: &mut Site| {
                    site.flush();
                };
                let spent = timed(count, &mut site, flush, |site| site.hub.publish(&all));
                site.flush();
                spent
            });
        });
        group.finish();
    }
}

/// Eight broadcasts to all before they are flushed: what is staged shares a send.
fn coalesce(c: &mut Criterion) {
    let members = 5_000;
    let mut site = Site::with(members);
    let all = message(None);
    let mut group = c.benchmark_group("hub");
    group.throughput(Throughput::Elements(8 * members as u64));
    group.bench_function(BenchmarkId::new("publish-8-and-flush", members), |b| {
        b.iter(|| {
            (0..8).for_each(|_| site.hub.publish(&all));
            assert_eq!(site.flush(), members);
        });
    });
    group.finish();
}

/// A broadcast to a room of ten, among ever more rooms of ten.
fn rooms(c: &mut Criterion) {
    let mut group = c.benchmark_group("rooms");
    for rooms in [1, 1_000, 100_000] {
        let mut site = Site::with(1_000);
        for room in 0..rooms {
            for place in 0..10 {
                let member = site.members[(room * 10 + place) % site.members.len()];
                assert!(site.hub.join(member, &format!("room-{room}")));
            }
        }
        let messages: Vec<Publish> = (0..rooms)
            .step_by(rooms.div_ceil(997))
            .map(|r| message(Some(&format!("room-{r}"))))
            .collect();
        let mut turn = 0;
        group.throughput(Throughput::Elements(10));
        group.bench_function(BenchmarkId::new("publish-to-10-of", rooms), |b| {
            b.iter(|| {
                turn = (turn + 1) % messages.len();
                site.hub.publish(&messages[turn]);
                assert_eq!(site.flush(), 10);
            });
        });
    }
    group.finish();
}

/// One member joins and leaves: a room of that many others, then a new room among that many.
fn churn(c: &mut Criterion) {
    let mut group = c.benchmark_group("rooms");
    for size in [1, 1_000, 100_000] {
        let mut site = Site::with(size + 1);
        let (one, others) = (site.members[0], site.members[1..].to_vec());
        for other in others {
            assert!(site.hub.join(other, "large"));
        }
        group.bench_function(BenchmarkId::new("join-leave-room-of", size), |b| {
            b.iter(|| assert!(site.hub.join(one, "large") && site.hub.leave(one, "large")));
        });
    }
    for rooms in [1, 1_000, 100_000] {
        let mut site = Site::with(1_000);
        for room in 0..rooms {
            assert!(site.hub.join(site.members[room % 999], &format!("room-{room}")));
        }
        let one = site.members[999];
        group.bench_function(BenchmarkId::new("join-leave-beside", rooms), |b| {
            b.iter(|| assert!(site.hub.join(one, "new") && site.hub.leave(one, "new")));
        });
    }
    group.finish();
}

criterion_group! {
    name = hub;
    config = Criterion::default().warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = publish, coalesce, rooms, churn
}
criterion_main!(hub);
