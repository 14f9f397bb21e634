//! Peers that do not read beside peers that do, and more to send than there is time for.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corecast::preflight::allowed_cpus;
use corecast::{Event, Options, Reason, SlowReader, Socket};
use serde_json::Value;

use super::asks::block_on;
use super::client::{Frame, PATIENCE, Stream, WebSocket};
use super::{Site, on_cpus, options, serve};

const CLIENTS: usize = 500;
const STALLED: usize = 50;
/// Events of a round, and bytes of one.
const ROUND: usize = 5;
const BYTES: usize = 4_000;
/// Bounds of one connection and of a shard; the stalled ones alone might have five times as much.
const QUEUE: usize = 256 << 10;
const SHARD: usize = 2 << 20;

/// The frame in which an event comes.
fn frame(number: usize) -> Vec<u8> {
    let text = format!("42[\"msg\",{number},\"{}\"]", "x".repeat(BYTES));
    let mut frame = vec![0x81, 126];
    frame.extend((text.len() as u16).to_be_bytes());
    frame.extend(text.as_bytes());
    frame
}

/// A server with a crowd on it: those that read, and those that do not.
struct Crowd {
    site: Site,
    good: Vec<WebSocket>,
    slow: Vec<WebSocket>,
    rounds: usize,
    /// The most memory that was seen in a gauge.
    memory: usize,
}

impl Crowd {
    fn new(policy: SlowReader) -> Crowd {
        let shards = allowed_cpus().len().min(2);
        let mut options = on_cpus(shards);
        options.slow_reader = policy;
        (options.max_queue_bytes, options.max_shard_queue_bytes) = (QUEUE, SHARD);
        let site = serve(options, |_| {});
        let small = || WebSocket::connect_on(Stream::connect_small(site.address));
        let slow = (0..STALLED).map(|_| small()).collect();
        let good = (STALLED..CLIENTS).map(|_| WebSocket::connect(site.address)).collect();
        site.until("all to have come", |stats| stats.totals.staged == 2 * CLIENTS as u64);
        Crowd { site, good, slow, rounds: 0, memory: 0 }
    }

    /// Events to all. Those that read get each of them, in order, before this returns.
    fn round(&mut self) {
        let first = self.rounds * ROUND;
        self.rounds += 1;
        let mut expected = Vec::new();
        for number in first..first + ROUND {
            self.site.io.emit("msg", (number, "x".repeat(BYTES))).expect("there is room for mail");
            expected.extend(frame(number));
        }
        for peer in &mut self.good {
            while peer.stream.input.len() < expected.len() {
                assert!(peer.stream.fill(), "one that reads was disconnected");
            }
            assert!(peer.stream.input == expected, "all, in order");
            peer.stream.input.clear();
        }
        let memory = self.site.io.stats().gauges.queue_bytes;
        self.memory = self.memory.max(memory);
    }

    fn emitted(&self) -> u64 {
        (self.rounds * ROUND) as u64
    }

    /// What waited in memory was bounded, and not because nothing did.
    fn check_memory(&self, least: usize) {
        let bound = self.site.io.options().cpus.len() * SHARD;
        assert!((least..=bound).contains(&self.memory), "{} bytes", self.memory);
    }
}

#[test]
fn a_tenth_that_does_not_read_is_disconnected_and_nobody_else_notices() {
    let mut crowd = Crowd::new(SlowReader::Disconnect);
    while crowd.site.io.stats().totals.slow_closed < STALLED as u64 {
        crowd.round();
    }
    crowd.site.until("the others alone", |stats| stats.gauges.sockets == CLIENTS - STALLED);
    crowd.round();
    crowd.check_memory(0);
    let stats = crowd.site.io.stats();
    assert_eq!(stats.totals.slow_closed, STALLED as u64);
    assert_eq!(stats.totals.closed(Reason::TransportError), STALLED as u64);
    assert_eq!((stats.totals.slow_dropped, stats.totals.mail_refused), (0, 0));
    crowd.site.until("nothing to be queued", |stats| {
        let gauges = &stats.gauges;
        (gauges.queue_bytes, gauges.waiting, gauges.sending, gauges.mail) == (0, 0, 0, 0)
    });
    // What the others got in time are whole frames from the first on, and then an end.
    for peer in crowd.slow {
        let got = peer.stream.rest();
        let expected = (0..crowd.rounds * ROUND).flat_map(frame);
        assert!(got.iter().copied().eq(expected.take(got.len())));
    }
    crowd.site.stop();
}

#[test]
fn a_tenth_that_does_not_read_misses_events_and_nobody_else_notices() {
    let mut crowd = Crowd::new(SlowReader::Drop);
    // All of them are stuck, and have lost something.
    while crowd.site.io.stats().gauges.sending < STALLED
        || crowd.site.io.stats().totals.slow_dropped < (STALLED * ROUND) as u64
    {
        crowd.round();
    }
    (0..3).for_each(|_| crowd.round());
    crowd.check_memory(SHARD / 4);
    // Each event was either queued or dropped, for each of them.
    let all = (2 + crowd.emitted()) * CLIENTS as u64;
    crowd.site.until("the counts to agree", |stats| {
        stats.totals.staged + stats.totals.slow_dropped == all && stats.gauges.sending == STALLED
    });
    let stats = crowd.site.io.stats();
    assert_eq!((stats.totals.slow_closed, stats.gauges.sockets), (0, CLIENTS));
    let held = block_on(crowd.site.io.fetch_held()).expect("the server runs");
    assert!(held.queued > SHARD / 4, "{held:?}");
    // They read again: whole events, in order, as many as were not dropped; and are served again.
    let end = crowd.emitted();
    let mut got = 0;
    for peer in &mut crowd.slow {
        // Acknowledgements are not dropped.
        peer.send("421[\"echo\",0]");
        let mut last = None;
        loop {
            let text = peer.text();
            if text == "431[0]" {
                break;
            }
            let number = text.split(',').nth(1).and_then(|number| number.parse().ok());
            assert!(number > last && number < Some(end), "{last:?}, then {number:?}");
            last = number;
            got += 1;
        }
    }
    assert_eq!(got + stats.totals.slow_dropped, end * STALLED as u64);
    crowd.site.stop();
}

/// A server whose event `block` keeps its shard busy for as long as the sender lives; the receiver
/// is told when that begins.
fn blocking(options: Options) -> (Site, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (free, freed) = mpsc::channel::<()>();
    let (tell, is_blocked) = mpsc::channel();
    let (freed, tell) = (Arc::new(Mutex::new(freed)), Arc::new(Mutex::new(tell)));
    let site = serve(options, |io| {
        io.on("block", move |_: Socket, _: Event| {
            tell.lock().expect("nobody panics").send(()).expect("the test waits");
            let _ = freed.lock().expect("nobody panics").recv();
            async {}
        });
        io.on("say", |socket: Socket, event: Event| async move {
            socket.server().emit("said", event.raw()).expect("there is room");
        });
    });
    (site, free, is_blocked)
}

/// Publishers say all they have to say, and everybody hears all of it, in their order.
fn all_is_heard(peers: &mut [WebSocket], publishers: usize, each: usize, text: &str) {
    let mut heard = vec![vec![0; publishers]; peers.len()];
    for (peer, heard) in peers.iter_mut().zip(&mut heard) {
        for _ in 0..publishers * each {
            let (_, args) = peer.event();
            let number = |at: usize| args[at].as_u64().map(|number| number as usize);
            let (Some(who), Some(count)) = (number(0), number(1)) else { panic!("{args:?}") };
            assert_eq!((heard[who], &args[2]), (count, &Value::from(text)));
            heard[who] += 1;
        }
    }
}

fn say(peers: &mut [WebSocket], each: usize, text: &str) {
    for (number, peer) in peers.iter_mut().enumerate() {
        (0..each).for_each(|count| peer.emit("say", &format!("{number},{count},\"{text}\"")));
    }
}

/// All that publishers have to say is there when the shard begins to read.
#[test]
fn publishers_above_capacity_wait_and_what_they_said_leaves_together() {
    const PEERS: usize = 300;
    const PUBLISHERS: usize = 10;
    const EACH: usize = 40;
    let (site, free, is_blocked) = blocking(options());
    let mut peers: Vec<WebSocket> = (0..PEERS).map(|_| WebSocket::connect(site.address)).collect();
    let before = site.io.stats().totals;
    peers[PEERS - 1].emit("block", "");
    is_blocked.recv_timeout(PATIENCE).expect("it is blocked");
    let text = "x".repeat(2_000);
    say(&mut peers[..PUBLISHERS], EACH, &text);
    drop(free);
    all_is_heard(&mut peers, PUBLISHERS, EACH, &text);
    let sent = (PUBLISHERS * EACH * PEERS) as u64;
    site.until("the counts", |stats| stats.totals.staged >= before.staged + sent);
    let stats = site.io.stats();
    assert_eq!((stats.totals.slow_closed, stats.totals.slow_dropped), (0, 0));
    assert!(stats.totals.pauses > 0, "they were read ahead of the sends");
    let sends = stats.totals.sends - before.sends;
    assert!(sends * 5 < sent, "{sends} sends of {sent} events");
    site.stop();
}

/// What another shard has no room for is not read.
#[test]
fn publishers_wait_for_a_shard_with_much_mail_and_nothing_is_lost() {
    const PUBLISHERS: usize = 10;
    const EACH: usize = 200;
    let mut options = on_cpus(allowed_cpus().len().min(2));
    options.max_mailbox = 64;
    let (site, _free, _) = blocking(options);
    let mut peers: Vec<WebSocket> = (0..60).map(|_| WebSocket::connect(site.address)).collect();
    let text = "x".repeat(100);
    say(&mut peers[..PUBLISHERS], EACH, &text);
    all_is_heard(&mut peers, PUBLISHERS, EACH, &text);
    let stats = site.io.stats();
    assert_eq!((stats.totals.mail_refused, stats.totals.slow_closed), (0, 0));
    site.stop();
}

#[test]
fn a_stalled_shard_takes_nobody_for_gone_whose_answer_it_has_not_read() {
    let mut timing = options();
    timing.ping_interval = Duration::from_millis(100);
    timing.ping_timeout = Duration::from_secs(3);
    let (site, free, is_blocked) = blocking(timing.clone());
    let mut peers: Vec<WebSocket> = (0..4).map(|_| WebSocket::connect(site.address)).collect();
    for peer in &mut peers {
        assert_eq!(peer.frame(), Frame::Text("2".into()));
    }
    peers[0].emit("block", "");
    is_blocked.recv_timeout(PATIENCE).expect("it is blocked");
    peers.iter_mut().for_each(|peer| peer.send("3"));
    std::thread::sleep(timing.ping_timeout + timing.ping_timeout / 4);
    drop(free);
    for peer in &mut peers {
        assert_eq!(peer.ask("echo", "1"), "[1]");
    }
    assert_eq!(site.io.stats().totals.ping_timeouts, 0);
    site.stop();
}
