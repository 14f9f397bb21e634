//! Things that are begun and never finished: each is bounded in number, in bytes and in time, by
//! the shards' own accounting and by the memory of the process.

use std::time::Duration;

use corecast::Held;

use crate::frames::resident_bytes;
use crate::peer::{POLLING, Peer, frame, header, post, text};
use crate::site::{Site, attack};

/// Peers of each kind, and how often they come.
const PEERS: usize = 20;
const ROUNDS: usize = 4;
/// Bytes that each of them sends and does not finish.
const PART: usize = 50_000;
const ACKS_MAX: usize = 20;
const QUEUE_MAX: usize = 100_000;
/// Sessions that `begin` opens.
const SESSIONS: u64 = 7 * PEERS as u64;

fn small(options: &mut corecast::Options) {
    // Sessions without a connection go by this alone.
    options.connect_timeout = Duration::from_secs(2);
    options.max_pending_acks = ACKS_MAX;
    options.max_queue_bytes = QUEUE_MAX;
    options.max_http_buffer_size = 100_000;
    options.max_attachments_bytes = 200_000;
}

fn short(options: &mut corecast::Options) {
    small(options);
    options.head_timeout = Duration::from_millis(500);
    options.body_timeout = Duration::from_millis(500);
}

fn held(site: &Site) -> Held {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let held = runtime.block_on(site.server.fetch_held()).expect("the server runs");
    assert!(held.is_complete);
    held.value
}

/// Waits until of so many sessions since the start so many are left, and sees that nothing is held
/// for the others. Gauges may be of the time before the attack; the counter says that they are not.
fn ended(site: &Site, begun: u64, left: usize) {
    let begun = begun + 4;
    site.wait("the end", |stats| {
        let (totals, gauges) = (&stats.totals, &stats.gauges);
        totals.sessions >= begun && gauges.sessions == 4 + left && gauges.connections == 4 + left
    });
    assert_eq!(held(site).bytes(), 0);
}

#[test]
fn what_is_never_finished_is_bounded_in_number_and_bytes() {
    attack(small, |site| {
        let mut first = 0;
        for round in 0..ROUNDS {
            let mut peers = begin(site);
            site.wait("the parts", |_| {
                let now = held(site);
                now.attachments >= PEERS * PART && now.incomplete >= 2 * PEERS * PART
            });
            let now = held(site);
            // Vectors grow by doubling; nobody holds more than twice what it sent, or its queue.
            assert!(now.bytes() <= 8 * PEERS * (2 * PART + QUEUE_MAX), "{now:?}");
            site.check_healthy();
            unanswered(&mut peers);
            drop(peers);
            ended(site, SESSIONS * (round as u64 + 1), 0);
            // What the first round has grown is used by the others.
            if round == 0 {
                first = resident_bytes();
            }
        }
        let last = resident_bytes();
        assert!(last < first + (8 << 20), "memory grew from {first} to {last} bytes");
    });
}

#[test]
fn what_is_never_finished_is_bounded_in_time() {
    attack(short, |site| {
        let peers = begin(site);
        // Those whose questions nobody answers stay; all others wait for something in vain.
        ended(site, SESSIONS, PEERS);
        drop(peers);
    });
}

/// One of each kind, many times: questions that nobody answers; binary packets, frames and bodies
/// of which half is sent; sessions that join nothing; polls that nobody makes. The first ones are
/// those with the questions.
fn begin(site: &Site) -> Vec<Peer> {
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = site.joined();
        peer.send(text("42[\"ask\"]").repeat(5 * ACKS_MAX));
        peers.push(peer);
    }
    for _ in 0..PEERS {
        let mut peer = site.joined();
        let placeholders = r#"{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}"#;
        peer.say(&format!("452-[\"copy\",[{placeholders}]]"));
        peer.send(frame(0x82, &vec![7; PART]));
        peers.push(peer);

        let mut peer = site.joined();
        peer.send([header(0x82, 2 * PART as u64 - 1), vec![b'x'; PART]].concat());
        peers.push(peer);

        let mut peer = site.peer();
        let query = site.joined_polling();
        let request = post(&query, "").replace("Content-Length: 0", "Content-Length: 99999");
        peer.send([request.into_bytes(), vec![b'x'; PART]].concat());
        peers.push(peer);

        peers.push(site.opened());
        site.polling();

        let query = format!("{POLLING}&sid={}", site.polling());
        let flood = format!("40\u{1e}42[\"flood\",{},1000]", 2 * QUEUE_MAX / 1_000);
        site.peer().ask(post(&query, &flood));
    }
    peers
}

/// As many questions have come as may be open, and no more.
fn unanswered(peers: &mut [Peer]) {
    for peer in &mut peers[..PEERS] {
        for _ in 0..ACKS_MAX {
            assert!(peer.text().ends_with("[\"question\",1]"));
        }
        peer.say("420[\"echo\",1]");
        assert_eq!(peer.text(), "430[1]");
    }
}
