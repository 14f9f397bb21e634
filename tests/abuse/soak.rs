//! Random abuse from several threads while healthy clients chat: a few seconds in every run of the
//! tests, as long as `ABUSE_SECONDS` says in `scripts/soak.sh`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::frames::resident_bytes;
use crate::peer::{Peer, WEBSOCKET, frame, get, header, post, text, upgrade};
use crate::site::Site;

const ATTACKERS: u64 = 8;
const SEED: u64 = 0xbad_c0de;

/// What attackers say over websockets. Some of it is harmless.
const PACKETS: [&str; 24] = [
    "40",
    "41",
    "40/n1",
    "41/n1,",
    "40/nowhere",
    "40/never",
    "42/never,[\"echo\"]",
    "42[\"echo\",1]",
    "421[\"echo\",{\"a\":[1,2,3]}]",
    "42[\"join\",\"a\",\"b\",\"c\"]",
    "42[\"flood\",20,1000]",
    "42[\"flood\",1000,2000]",
    "42[\"wait\"]",
    "451-[\"copy\",[{\"_placeholder\":true,\"num\":0}]]",
    "4510-[\"copy\"]",
    "bAQID",
    "42[{\"toString\":1}]",
    "42[[[[[[[[",
    "43999[]",
    "2",
    "3",
    "6",
    "1",
    "x",
];

#[test]
fn soak() {
    let seconds = std::env::var("ABUSE_SECONDS").ok().and_then(|text| text.parse().ok());
    let length = Duration::from_secs(seconds.unwrap_or(4));
    let mut site = Site::new(short);
    let (is_over, attacks) = (AtomicBool::new(false), AtomicU64::new(0));
    let address = site.address;
    let (mut rounds, mut middle) = (0u64, 0);
    std::thread::scope(|scope| {
        for seed in 0..ATTACKERS {
            let (is_over, attacks) = (&is_over, &attacks);
            scope.spawn(move || {
                let mut rng = Rng::with_seed(SEED + seed);
                while !is_over.load(Ordering::Relaxed) {
                    attack(address, &mut rng);
                    attacks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _over = Over(&is_over);
        let start = Instant::now();
        while start.elapsed() < length {
            site.chat(rounds);
            rounds += 1;
            // The cores are for the attackers.
            std::thread::sleep(Duration::from_millis(2));
            if middle == 0 && start.elapsed() > length / 2 {
                middle = resident_bytes();
            }
        }
    });
    let end = resident_bytes();
    println!("{rounds} rounds, {attacks:?} attacks, {middle} B in the middle, {end} B at the end");
    println!("{:?}", site.server.stats().totals);
    assert!(rounds > 0 && attacks.load(Ordering::Relaxed) > 0);
    assert!(end < middle + middle / 4 + (32 << 20), "memory grew from {middle} to {end} bytes");
    site.check_descriptors();
    site.finish();
}

fn short(options: &mut corecast::Options) {
    options.ping_interval = Duration::from_millis(500);
    options.ping_timeout = Duration::from_secs(5);
    options.connect_timeout = Duration::from_secs(1);
    options.upgrade_timeout = Duration::from_millis(500);
    options.head_timeout = Duration::from_secs(1);
    options.body_timeout = Duration::from_secs(1);
    options.max_pending_handlers = 20;
}

/// Ends the attack also when the healthy clients have found something.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn attack(address: SocketAddr, rng: &mut Rng) {
    let mut peer = Peer::connect(address);
    peer.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let bytes = match rng.u8(..9) {
        0 => (0..rng.usize(..200)).map(|_| rng.u8(..)).collect(),
        1 => websocket(rng),
        2 => mutated(websocket(rng), rng),
        3 => requests(rng),
        4 => mutated(requests(rng), rng),
        5 => return polling(address, rng),
        6 => {
            let bytes = requests(rng);
            bytes[..rng.usize(..bytes.len())].to_vec()
        }
        7 => {
            let bytes = websocket(rng);
            bytes[..rng.usize(..bytes.len())].to_vec()
        }
        _ => {
            [b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec(), b"a:\r\n".repeat(rng.usize(..200))].concat()
        }
    };
    let most = *rng.choice(&[1, 7, 100, 100_000]).unwrap();
    let pieces = bytes.chunks(most).take(300);
    for piece in pieces {
        if peer.push(piece).is_err() {
            break;
        }
    }
    part(peer, rng);
}

/// Leaves in one of the ways there are.
fn part(mut peer: Peer, rng: &mut Rng) {
    match rng.u8(..4) {
        0 => peer.reset(),
        1 => {
            // Reads what there is, for a moment.
            peer.stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            peer.glance();
        }
        2 => {
            let _ = peer.stream.shutdown(std::net::Shutdown::Write);
        }
        _ => {}
    }
}

/// A handshake and frames, in order or not.
fn websocket(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = upgrade(WEBSOCKET).into_bytes();
    bytes.extend(text("40"));
    for _ in 0..rng.usize(..30) {
        let packet = rng.choice(PACKETS).unwrap();
        match rng.u8(..12) {
            0 => bytes.extend(frame(0x89, packet.as_bytes())),
            1 => bytes.extend(frame(rng.u8(..), packet.as_bytes())),
            2 => bytes.extend(header(rng.u8(..), rng.u64(..))),
            3 => bytes.extend(frame(0x82, packet.as_bytes())),
            4 => {
                let (front, back) = packet.split_at(packet.len() / 2);
                bytes.extend(frame(0x01, front.as_bytes()));
                bytes.extend(frame(0x80, back.as_bytes()));
            }
            _ => bytes.extend(text(packet)),
        }
    }
    bytes
}

/// Requests behind one another, for sessions that there are not.
fn requests(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(1..6) {
        let shard = rng.choice(["AAAA", "AAEA", "____"]).unwrap();
        let query = format!("EIO=4&transport=polling&sid={shard}AAAAAAAAAAAAAAAA");
        let request = match rng.u8(..6) {
            0 => get(&query),
            1 => post(&query, "40"),
            2 => get("EIO=4&transport=polling"),
            3 => post(&query, "").replace("Content-Length: 0", "Transfer-Encoding: chunked"),
            4 => "GET /socket.io/socket.io.js.map HTTP/1.1\r\nHost: h\r\n\r\n".into(),
            _ => upgrade(&query.replace("polling", "websocket")),
        };
        bytes.extend(request.into_bytes());
    }
    bytes
}

fn mutated(mut bytes: Vec<u8>, rng: &mut Rng) -> Vec<u8> {
    for _ in 0..rng.usize(1..5) {
        let at = rng.usize(..bytes.len());
        bytes[at] = rng.u8(..);
    }
    bytes
}

/// A session over polling that is used badly and left.
fn polling(address: SocketAddr, rng: &mut Rng) {
    let mut peer = Peer::connect(address);
    let Some(open) = peer
        .push(get("EIO=4&transport=polling"))
        .ok()
        .and_then(|()| peer.try_response().filter(|response| response.status == 200))
    else {
        return;
    };
    let query = format!("EIO=4&transport=polling&sid={}", &open.body[9..29]);
    for _ in 0..rng.usize(..6) {
        let mut peer = Peer::connect(address);
        let body = (0..rng.usize(1..5)).map(|_| rng.choice(PACKETS).unwrap());
        let body = body.collect::<Vec<_>>().join("\u{1e}");
        let request = match rng.u8(..5) {
            0 => get(&query),
            1 => post(&query, "").replace("Content-Length: 0", "Content-Length: 5"),
            2 => upgrade(&query.replace("polling", "websocket")),
            _ => post(&query, &format!("40\u{1e}{body}")),
        };
        let _ = peer.push(request);
        part(peer, rng);
    }
}
