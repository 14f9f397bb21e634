//! Websocket frames that no client sends.

use crate::peer::{Frame, POLLING, Peer, WEBSOCKET, frame, get, header, post, text, upgrade};
use crate::site::{Site, attack, usual};

/// Violations and the code that each is closed with.
fn violations() -> Vec<(&'static str, Vec<u8>, u16)> {
    let masked = |first| frame(first, b"4");
    vec![
        ("RSV1", masked(0xc1), 1002),
        ("RSV2", masked(0xa1), 1002),
        ("RSV3", masked(0x91), 1002),
        ("all of them", masked(0xf1), 1002),
        ("opcode 3", masked(0x83), 1002),
        ("opcode 15", masked(0x8f), 1002),
        ("not masked", vec![0x81, 1, b'4'], 1002),
        ("control in fragments", masked(0x09), 1002),
        ("control of 126 bytes", header(0x89, 126), 1002),
        ("close of 1 byte", frame(0x88, &[3]), 1002),
        ("close code 1005", frame(0x88, &1005u16.to_be_bytes()), 1002),
        ("close code 65535", frame(0x88, &u16::MAX.to_be_bytes()), 1002),
        ("close reason", frame(0x88, &[0x03, 0xe8, 0xff]), 1007),
        ("continuation of nothing", masked(0x80), 1002),
        ("two beginnings", [masked(0x01), masked(0x01)].concat(), 1002),
        ("top bit of the length", header(0x82, 1 << 63), 1002),
        ("no UTF-8", frame(0x81, b"4\xff"), 1007),
        ("half a character", frame(0x81, b"4\xe2\x82"), 1007),
        ("too big by one", header(0x82, 1_000_001), 1009),
        ("too big by far", header(0x82, i64::MAX as u64), 1009),
        ("too big in two", [frame(0x02, &[0; 1_000]), header(0x80, 999_001)].concat(), 1009),
    ]
}

#[test]
fn violations_close_with_their_code() {
    attack(usual, |site| {
        let table = violations();
        for (what, bytes, code) in &table {
            let mut peer = site.joined();
            peer.send(bytes);
            // Nothing that follows counts.
            let _ = peer.push(text("42[\"say\",1]"));
            println!("{what}");
            peer.is_closed_with(*code);
        }
        site.bad_frames(table.len() as u64);
        site.moved("events", 0, |stats| stats.totals.events);
        assert_eq!(site.gone(), table.len());
    });
}

#[test]
fn cve_2022_21676_violations_on_a_websocket_that_is_refused_or_only_probes() {
    attack(usual, |site| {
        let table = violations();
        for (what, bytes, code) in &table {
            let query = site.joined_polling();
            let mut probe = site.peer();
            probe.upgrade(&query.replace("polling", "websocket"));
            probe.send(bytes);
            println!("{what}");
            probe.is_closed_with(*code);
            // The session stays where it is.
            site.peer().ask(post(&query, "421[\"echo\",7]")).is(200, "ok");
            site.peer().ask(get(&query)).is(200, "431[7]");
            site.peer().ask(post(&query, "1")).is(200, "ok");
            // Frames on a handshake that is refused.
            let mut peer = site.peer();
            let _ = peer.push([upgrade("EIO=4&transport=x").as_bytes(), bytes].concat());
            if let Some(response) = peer.try_response() {
                response.is(400, "Transport unknown");
            }
            peer.is_closed();
        }
        site.bad_frames(table.len() as u64);
    });
}

#[test]
fn cve_2026_48779_fragments_without_end() {
    attack(usual, |site| {
        let mut peer = site.joined();
        let mut bytes = frame(0x01, b"4");
        (0..16_384).for_each(|_| bytes.extend(frame(0x00, b"2")));
        let _ = peer.push(&bytes);
        peer.is_closed_with(1008);
        // Empty ones too.
        let mut peer = site.joined();
        let mut bytes = frame(0x01, b"");
        (0..16_384).for_each(|_| bytes.extend(frame(0x00, b"")));
        let _ = peer.push(&bytes);
        peer.is_closed_with(1008);
        site.bad_frames(2);
    });
}

#[test]
fn cve_2026_48779_one_byte_at_a_time() {
    attack(usual, |site| {
        let mut peer = site.joined();
        let mut message = frame(0x01, b"421[\"echo\",\"");
        for _ in 0..200 {
            message.extend(frame(0x00, "€".as_bytes()));
            message.extend(frame(0x89, b"p"));
        }
        message.extend(frame(0x80, b"\"]"));
        message.chunks(1).for_each(|byte| peer.send(byte));
        let mut pongs = 0;
        let answer = loop {
            match peer.frame() {
                Frame::Pong(data) => {
                    assert_eq!(data, b"p");
                    pongs += 1;
                }
                Frame::Text(text) => break text,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((pongs, answer), (200, format!("431[\"{}\"]", "€".repeat(200))));
        site.bad_frames(0);
    });
}

#[test]
fn cve_2016_10542_what_is_announced_is_not_reserved() {
    attack(usual, |site| {
        let before = resident_bytes();
        // The largest message that may come, announced 500 times and never sent.
        let mut peers: Vec<Peer> = (0..500).map(|_| site.joined()).collect();
        peers.iter_mut().for_each(|peer| peer.send(header(0x82, 1_000_000)));
        peers.iter_mut().for_each(|peer| peer.send([0; 10]));
        site.check_healthy();
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 100 << 20, "{grown} bytes for nothing");
        site.bad_frames(0);
    });
}

#[test]
fn cve_2016_10518_a_pong_has_the_bytes_of_its_ping_and_no_others() {
    attack(usual, |site| {
        let mut peer = site.joined();
        for length in [0, 1, 2, 3, 124, 125] {
            let data: Vec<u8> = (0..length).collect();
            peer.send(frame(0x89, &data));
            assert_eq!(peer.frame(), Frame::Pong(data));
        }
        // Nobody asked for pongs, and they are no sign of anything.
        peer.send(frame(0x8a, b"unasked"));
        crate::site::echo(&mut peer, 1);
    });
}

#[test]
fn cve_2026_45736_a_close_has_the_code_that_came_and_nothing_else() {
    attack(usual, |site| {
        // `Peer` panics at a close frame with a reason.
        let table: [(&[u8], u16); 3] =
            [(b"", 1005), (&[0x03, 0xe8], 1000), (b"\x0f\xa0because", 4000)];
        for (payload, code) in table {
            let mut peer = site.joined();
            peer.send(frame(0x88, payload));
            peer.is_closed_with(code);
        }
        site.bad_frames(0);
        assert_eq!(site.gone(), 3);
    });
}

#[test]
fn a_flood_of_pings_by_a_peer_that_does_not_read() {
    attack(usual, |site| {
        let before = resident_bytes();
        let query = site.joined_polling();
        let mut probe = site.peer();
        probe.upgrade(&query.replace("polling", "websocket"));
        for mut peer in [site.joined(), probe] {
            let pings = frame(0x89, b"").repeat(10_000);
            // Empty pongs fill the queue slowest, and would fill memory with buffers.
            let sent = (0..10_000).take_while(|_| peer.push(&pings).is_ok()).count();
            assert!(sent < 10_000, "the server reads on");
        }
        site.moved("slow readers", 2, |stats| stats.totals.slow_closed);
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 32 << 20, "{grown} bytes for a megabyte of pongs");
        site.peer().ask(post(&query, "1")).is(200, "ok");
    });
}

#[test]
fn engine_packets_that_only_a_server_sends_and_some_that_nobody_does() {
    attack(usual, |site| {
        // A ping from the client, unknown types, nothing at all.
        for packet in ["2", "2probe", "7", "x", "", "\0", "€"] {
            let mut peer = site.joined();
            peer.say(packet);
            peer.is_closed_with(1005);
        }
        site.bad_packets(7);
        let mut peer = site.joined();
        for packet in ["0", "0{\"sid\":\"x\"}", "5", "6", "3", "3probe"] {
            peer.say(packet);
        }
        crate::site::echo(&mut peer, 1);
        // The end, as the client says it.
        peer.say("1");
        peer.is_closed_with(1005);
        site.bad_packets(7);
    });
}

#[test]
fn a_websocket_for_a_polling_request_or_a_second_one_for_a_session() {
    attack(usual, |site| {
        let refused = |site: &Site, query: &str| {
            let mut peer = site.peer();
            peer.upgrade(query);
            peer.is_closed_with(1005);
        };
        refused(site, POLLING);
        let query = site.joined_polling();
        refused(site, &query);
        let websocket = query.replace("polling", "websocket");
        let mut probe = site.peer();
        probe.upgrade(&websocket);
        for _ in 0..50 {
            refused(site, &websocket);
        }
        probe.say("2probe");
        assert_eq!(probe.text(), "3probe");
        probe.say("5");
        refused(site, &websocket);
        // Once upgraded, polling is refused and the websocket goes on.
        site.peer().ask(get(&query)).is(400, r#"{"code":3,"message":"Bad request"}"#);
        crate::site::echo(&mut probe, 1);
        assert!(query.starts_with(POLLING) && websocket.starts_with(WEBSOCKET));
    });
}

/// Memory of this process, the server's and the test's.
pub fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4_096
}
