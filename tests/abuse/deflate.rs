//! permessage-deflate in the hands of peers that mean harm. Small payloads inflate to much, pieces
//! are endless, windows are asked for by the thousand.

use corecast::proto::deflate::{Deflater, Inflater};
use corecast::{Options, PerMessageDeflate};

use crate::peer::{Frame, Peer, WEBSOCKET, frame, text, upgrade};
use crate::site::{Site, attack, usual};

fn deflating(options: &mut Options) {
    let mut deflate = PerMessageDeflate::default();
    deflate.threshold = 64;
    options.per_message_deflate = Some(deflate);
}

fn keeping(options: &mut Options) {
    deflating(options);
    if let Some(deflate) = &mut options.per_message_deflate {
        deflate.context_takeover = true;
        deflate.max_context_bytes = 2 << 20;
    }
}

fn offering(offer: &str) -> String {
    let end = format!("\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n");
    upgrade(WEBSOCKET).replace("\r\n\r\n", &end)
}

/// A socket in `/` that has agreed on compression; and what was agreed on.
fn joined(site: &Site) -> (Peer, String) {
    let mut peer = site.peer();
    peer.send(offering("permessage-deflate; client_max_window_bits"));
    let response = peer.response();
    assert_eq!(response.status, 101);
    let agreed = response.head.lines().find(|line| line.starts_with("Sec-WebSocket-Ext"));
    let agreed = agreed.expect("it was agreed on").to_string();
    assert!(peer.text().starts_with("0{"));
    peer.send(text("40"));
    assert!(peer.text().starts_with("40{"));
    (peer, agreed)
}

fn deflated(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(Deflater::new(15, 9).deflate(message, &mut out));
    out
}

#[test]
fn ghsa_5v72_xg48_5rpm_extensions_by_the_names_of_properties() {
    for options in [usual, deflating] {
        attack(options, |site| {
            for name in ["constructor", "__proto__", "toString; valueOf=1", "hasOwnProperty;a"] {
                let mut peer = site.peer();
                peer.send(offering(name));
                let response = peer.response();
                assert_eq!(response.status, 101, "{name}");
                assert!(!response.head.contains("Extensions"), "{}", response.head);
            }
        });
    }
    attack(deflating, |site| {
        let broken = ["permessage-deflate; server_max_window_bits=99", ";", "a,", "a; b=\""];
        for value in broken {
            let mut peer = site.peer();
            peer.send(offering(value));
            assert_eq!(peer.response().status, 400, "{value}");
            peer.is_closed();
        }
        site.bad_requests(broken.len() as u64);
    });
}

#[test]
fn bombs_and_streams_that_are_none() {
    attack(deflating, |site| {
        let bomb = deflated(&vec![b' '; 50_000_000]);
        assert!(bomb.len() < 100_000, "a hundredth of what it inflates to, and less");
        let half = deflated(b"42[\"say\",\"a message that ends in the middle of a block\"]");
        let table: Vec<(&str, Vec<u8>, u16)> = vec![
            ("a bomb", frame(0xc1, &bomb), 1009),
            ("a binary bomb", frame(0xc2, &bomb), 1009),
            ("noise", frame(0xc1, &[0xff; 300]), 1007),
            ("half a stream", frame(0xc1, &half[..half.len() - 9]), 1007),
            ("ends without end", frame(0xc1, &[0x03, 0x00].repeat(100_000)), 1007),
            ("no UTF-8", frame(0xc1, &deflated(b"42[\"\xff\"]")), 1007),
            ("a compressed ping", frame(0xc9, b"p"), 1002),
            ("a compressed close", frame(0xc8, b""), 1002),
            ("a compressed piece", [frame(0x41, b"a"), frame(0xc0, b"b")].concat(), 1002),
            ("RSV2 as well", frame(0xe1, &half), 1002),
        ];
        for round in 0..5 {
            for (what, bytes, code) in &table {
                let (mut peer, _) = joined(site);
                let _ = peer.push(bytes);
                println!("{what}, round {round}");
                peer.is_closed_with(*code);
            }
        }
        site.bad_frames(5 * table.len() as u64);
        site.moved("events", 0, |stats| stats.totals.events);
    });
}

#[test]
fn compressed_pieces_without_end() {
    attack(deflating, |site| {
        let (mut peer, _) = joined(site);
        let mut bytes = frame(0x41, b"");
        (0..16_384).for_each(|_| bytes.extend(frame(0x00, b"")));
        let _ = peer.push(&bytes);
        peer.is_closed_with(1008);
        // More than a message may have, though it inflates to nothing.
        let (mut peer, _) = joined(site);
        let mut bytes = frame(0x41, b"");
        let empty_blocks = [0x00, 0x00, 0x00, 0xff, 0xff].repeat(20_000);
        (0..11).for_each(|_| bytes.extend(frame(0x00, &empty_blocks)));
        let _ = peer.push(&bytes);
        peer.is_closed_with(1009);
        site.bad_frames(2);
    });
}

#[test]
fn rsv1_that_was_not_agreed_on() {
    for options in [usual, deflating] {
        attack(options, |site| {
            let mut peer = site.joined();
            peer.send(frame(0xc1, &deflated(b"42[\"say\",1]")));
            peer.is_closed_with(1002);
            site.bad_frames(1);
        });
    }
}

#[test]
fn windows_asked_for_by_the_hundred() {
    attack(keeping, |site| {
        let mut peers: Vec<(Peer, String)> = (0..100).map(|_| joined(site)).collect();
        let has_window = |agreed: &str| !agreed.contains("server_no_context_takeover");
        let windows = peers.iter().filter(|(_, agreed)| has_window(agreed)).count();
        assert!((1..=6 * site.shards).contains(&windows), "{windows} have windows of their own");
        let words =
            "\"all are served, those with a window and those without one, again and again\"";
        for (peer, agreed) in &mut peers {
            let keep = has_window(agreed);
            let (mut deflater, mut inflater) = (Deflater::new(15, 6), Inflater::new());
            for id in 0..3 {
                let mut payload = Vec::new();
                if !keep {
                    deflater.reset();
                }
                let message = format!("42{id}[\"echo\",{words}]");
                assert!(deflater.deflate(message.as_bytes(), &mut payload));
                peer.send(frame(0xc1, &payload));
                let Frame::Deflated(payload) = peer.frame() else { panic!("not compressed") };
                let mut plain = Vec::new();
                inflater.inflate(&payload, 10_000, keep, &mut plain).unwrap();
                assert_eq!(String::from_utf8(plain).unwrap(), format!("43{id}[{words}]"));
            }
        }
        let echoes = 3 * peers.len() as u64;
        site.moved("events", echoes, |stats| stats.totals.events);
    });
}
