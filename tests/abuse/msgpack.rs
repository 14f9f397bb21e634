//! Messages of msgpack (section T) that say more than they hold, or something else than they seem.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use corecast::preflight::allowed_cpus;
use corecast::{Event, Options, Parser, Running, Server, Socket};

use crate::peer::{Frame, PATIENCE, POLLING, Peer, WEBSOCKET, frame, get, post};
use crate::site::fresh;

/// A server with that parser, a client that was there before, and how many invalid packets it was
/// sent.
struct Site {
    server: Server,
    running: Option<Running>,
    address: SocketAddr,
    healthy: Peer,
    bad_packets: u64,
}

impl Site {
    fn new() -> Site {
        let mut options = Options::default();
        options.cpus = allowed_cpus()[..1].to_vec();
        options.parser = Parser::MsgPack;
        options.max_queue_bytes = 1 << 30;
        options.max_shard_queue_bytes = 1 << 30;
        let server = Server::new(options).unwrap();
        server
            .on("echo", |_: Socket, event: Event| async move {
                let _ = event.ack(event.raw());
            })
            // Typed: what the client names, many times beside bytes of ours.
            .on("with", |socket: Socket, event: Event| async move {
                let Ok(value) = event.data::<serde_json::Value>() else { return };
                let large = corecast::Binary(vec![7; 1 << 20].into());
                let sent = socket.emit("with", (large, value));
                let _ = event.ack(sent.is_ok());
            });
        let running = server.listen("127.0.0.1:0").expect("listens");
        let address = running.addresses()[0];
        let healthy = joined(address);
        Site { server, running: Some(running), address, healthy, bad_packets: 0 }
    }

    /// The message ends its session, on websocket and on polling, and is counted.
    fn closes(&mut self, message: &[u8]) {
        let mut peer = joined(self.address);
        peer.send(frame(0x82, message));
        peer.is_closed_with(1005);
        let session = Peer::connect(self.address).ask(get(POLLING)).body[9..29].to_string();
        let query = format!("{POLLING}&sid={session}");
        Peer::connect(self.address).ask(post(&query, &base64(&connect()))).is(200, "ok");
        Peer::connect(self.address).ask(post(&query, &base64(message))).is(400, "");
        self.bad_packets += 2;
        let start = Instant::now();
        while self.server.stats().totals.bad_packets < self.bad_packets {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.server.stats());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.is_well();
    }

    /// Nobody has noticed anything, and whoever comes is served.
    fn is_well(&mut self) {
        echo(&mut self.healthy);
        echo(&mut joined(self.address));
        assert_eq!(fresh(&self.server).totals.bad_packets, self.bad_packets);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.shutdown();
        if let Some(running) = self.running.take() {
            let ended = running.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

fn joined(address: SocketAddr) -> Peer {
    let mut peer = Peer::connect(address);
    peer.upgrade(WEBSOCKET);
    assert!(matches!(peer.frame(), Frame::Text(open) if open.starts_with("0{\"sid\":")));
    peer.send(frame(0x82, &connect()));
    assert!(matches!(peer.frame(), Frame::Binary(answer) if answer.starts_with(b"\x83\xa4type\0")));
    peer
}

/// The next packet, which is not a ping.
fn packet(peer: &mut Peer) -> Vec<u8> {
    loop {
        match peer.frame() {
            Frame::Binary(packet) => return packet,
            Frame::Text(ping) if ping == "2" => peer.say("3"),
            other => panic!("{other:?}"),
        }
    }
}

fn echo(peer: &mut Peer) {
    peer.send(frame(0x82, &event(b"\x92\xa4echo\x07", 5)));
    assert_eq!(packet(peer), b"\x84\xa2id\x05\xa4type\x03\xa4data\x91\x07\xa3nsp\xa1/");
}

fn connect() -> Vec<u8> {
    b"\x82\xa4type\0\xa3nsp\xa1/".to_vec()
}

fn event(data: &[u8], id: u8) -> Vec<u8> {
    [&b"\x84\xa4type\x02\xa4data"[..], data, b"\xa2id", &[id], b"\xa3nsp\xa1/"].concat()
}

fn base64(message: &[u8]) -> String {
    let mut out = Vec::new();
    corecast::proto::engine::encode_base64(message, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn t8_lengths_that_lie() {
    let mut site = Site::new();
    for bomb in [
        &b"\xdd\xff\xff\xff\xff"[..],
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\0",
        b"\x92\xdd\xff\xff\xff\xff\xdd\xff\xff\xff\xff",
    ] {
        site.closes(bomb);
        site.closes(&event(bomb, 1));
        site.closes(&[b"\x81\xa7options", bomb].concat());
    }
}

#[test]
fn t8_extensions_that_nobody_knows() {
    let mut site = Site::new();
    for extension in [
        &b"\xd4\x01\0"[..],
        b"\xd6\xff\0\0\0\0",
        b"\xd8\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\xc7\x01\x05x",
        b"\xc1",
    ] {
        site.closes(&event(&[b"\x92\xa4echo", extension].concat(), 1));
    }
}

/// W-20: nesting is refused before it is built.
#[test]
fn w20_t8_nesting() {
    let mut site = Site::new();
    for (open, count) in [(&b"\x91"[..], 900_000), (b"\x81\xa1a", 300_000), (b"\x91", 200)] {
        let nested = [b"\x92\xa4echo", &open.repeat(count)[..], b"\xc0"].concat();
        // base64 of the largest would not fit into a body.
        if nested.len() < 700_000 {
            site.closes(&event(&nested, 1));
        } else {
            let mut peer = joined(site.address);
            peer.send(frame(0x82, &event(&nested, 1)));
            peer.is_closed_with(1005);
            site.bad_packets += 1;
            site.is_well();
        }
    }
}

/// T-2: names of events that the library has of its own reach nothing inside.
#[test]
fn t2_cve_2024_38355_names_of_events() {
    let mut site = Site::new();
    for name in ["disconnect", "disconnecting", "connect", "connect_error", "newListener"] {
        let mut data = vec![0x91, 0xa0 | name.len() as u8];
        data.extend(name.bytes());
        site.closes(&event(&data, 1));
    }
    for name in [&b"\x91\x80"[..], b"\x91\x90", b"\x91\xc0", b"\x91\xc4\x01a", b"\x90"] {
        site.closes(&event(name, 1));
    }
    let mut peer = joined(site.address);
    peer.send(frame(0x82, &event(b"\x92\xa5error\xa1x", 1)));
    peer.send(frame(0x82, &event(b"\x91\xa9__proto__", 1)));
    echo(&mut peer);
    site.is_well();
}

/// An object that would pass for bytes is refused beside bytes, and is an object without.
#[test]
fn i9_cve_2022_2421_objects_like_placeholders() {
    let mut site = Site::new();
    let fake = b"\x82\xac_placeholder\xc3\xa3num\0";
    site.closes(&event(&[b"\x93\xa4echo\xc4\x01a", &fake[..]].concat(), 1));
    let mut peer = joined(site.address);
    peer.send(frame(0x82, &event(&[b"\x92\xa4echo", &fake[..]].concat(), 1)));
    let expected = [b"\x84\xa2id\x01\xa4type\x03\xa4data\x91", &fake[..], b"\xa3nsp\xa1/"].concat();
    assert_eq!(packet(&mut peer), expected);
}

/// One that is sent on beside bytes of ours names them; a hundred thousand do not become as many
/// copies of a megabyte.
#[test]
fn i9_placeholders_do_not_multiply() {
    let mut site = Site::new();
    let fakes = |count: usize| {
        let mut data = b"\x92\xa4with\xdd".to_vec();
        data.extend((count as u32).to_be_bytes());
        data.extend(b"\x82\xac_placeholder\xc3\xa3num\0".repeat(count));
        event(&data, 1)
    };
    let mut peer = joined(site.address);
    peer.send(frame(0x82, &fakes(30_000)));
    assert_eq!(packet(&mut peer), b"\x84\xa2id\x01\xa4type\x03\xa4data\x91\xc2\xa3nsp\xa1/");
    peer.send(frame(0x82, &fakes(3)));
    assert!(packet(&mut peer).len() > 4 << 20);
    assert_eq!(packet(&mut peer), b"\x84\xa2id\x01\xa4type\x03\xa4data\x91\xc3\xa3nsp\xa1/");
    site.is_well();
}

/// A hundred thousand equal keys, and as many empty bytes.
#[test]
fn t8_many_of_one() {
    let mut site = Site::new();
    let mut keys = b"\x92\xa4echo\xdf\0\x01\x86\xa0".to_vec();
    keys.extend(b"\xa1a\x01".repeat(100_000));
    let mut peer = joined(site.address);
    peer.send(frame(0x82, &event(&keys, 1)));
    assert!(
        packet(&mut peer).starts_with(b"\x84\xa2id\x01\xa4type\x03\xa4data\x91\xdf\0\x01\x86\xa0")
    );
    let mut empty = b"\x92\xa4echo\xdd\0\x01\x86\xa0".to_vec();
    empty.extend(b"\xc4\0".repeat(100_000));
    site.closes(&event(&empty, 1));
}
