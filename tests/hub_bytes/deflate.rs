//! permessage-deflate (C-7, C-9, W-7): what is agreed on, who shares what, what is refused.

use bytes::Bytes;
use corecast::hub::{Config, Flags};
use corecast::proto::deflate::{Deflater, Inflater};
use corecast::{Options, PerMessageDeflate};

use crate::wire::{Wire, config, frame, get, text, unframe, upgrade};

/// A broadcast of more than the threshold.
const LONG: &str = "42[\"news\",\"abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz\"]";

fn deflating(change: impl FnOnce(&mut PerMessageDeflate)) -> Config {
    let mut deflate = PerMessageDeflate::default();
    deflate.threshold = 40;
    change(&mut deflate);
    let mut options = Options::default();
    options.per_message_deflate = Some(deflate);
    Config { deflate: options.deflate_settings(), ..config() }
}

fn offering(offer: &str) -> String {
    let end = format!("\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n");
    upgrade("websocket", None).replace("\r\n\r\n", &end)
}

/// What the server says to an offer: status, and the extensions agreed on.
fn answer(wire: &mut Wire, offer: &str) -> (u16, Option<String>) {
    let conn = wire.with_bytes(offering(offer));
    let bytes = wire.got(conn);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let named = |line: &&str| line.starts_with("Sec-WebSocket-Extensions: ");
    let agreed = head.lines().find(named).map(|line| line[26..].to_string());
    (head[9..12].parse().unwrap(), agreed)
}

/// A websocket session in `/` with an offer that is accepted.
fn joined(wire: &mut Wire, offer: &str) -> u32 {
    let conn = wire.with_bytes(offering(offer));
    let head = String::from_utf8_lossy(&wire.got(conn)).into_owned();
    assert!(head.contains("Sec-WebSocket-Extensions: permessage-deflate"), "{head}");
    wire.put(conn, text("40"));
    assert!(wire.said(conn)[0].starts_with("40{\"sid\":\""), "short packets stay as they are");
    wire.heard();
    conn
}

/// Payloads of server frames with their first byte; lengths below 126.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [first, length @ 0..126, rest @ ..] = bytes {
        let (payload, after) = rest.split_at(usize::from(*length));
        found.push((*first, payload.to_vec()));
        bytes = after;
    }
    assert!(bytes.is_empty(), "{bytes:?}");
    found
}

fn inflated(payload: &[u8]) -> String {
    let mut out = Vec::new();
    Inflater::new().inflate(payload, 100_000, false, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn deflated(message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(Deflater::new(15, 6).deflate(message.as_bytes(), &mut out));
    out
}

#[test]
fn c7_offers_and_what_is_no_offer() {
    let mut off = Wire::new();
    for offer in ["permessage-deflate", "constructor", "permessage-deflate; a=\"", ";;"] {
        assert_eq!(answer(&mut off, offer), (101, None), "not read while it is off: {offer}");
    }
    let mut on = Wire::with(deflating(|_| {}));
    let full = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert_eq!(answer(&mut on, "permessage-deflate"), (101, Some(full.into())));
    let bits = format!("{full}; server_max_window_bits=9; client_max_window_bits=10");
    let offer = "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10";
    assert_eq!(answer(&mut on, offer), (101, Some(bits)));
    for other in ["constructor", "__proto__", "toString; valueOf=1", "x-webkit-deflate-frame"] {
        assert_eq!(answer(&mut on, other), (101, None), "{other}");
    }
    for broken in ["permessage-deflate; server_max_window_bits=foo", ";;", "a,,b", "a; b=\""] {
        assert_eq!(answer(&mut on, broken), (400, None), "{broken}");
    }
    assert_eq!(on.ask(&get("transport=polling")).0, 200);
}

#[test]
fn c9_a_broadcast_is_compressed_once_for_each_window() {
    let mut wire = Wire::with(deflating(|_| {}));
    let wide = ["permessage-deflate", "permessage-deflate; server_no_context_takeover"]
        .map(|offer| joined(&mut wire, offer));
    let narrow = joined(&mut wire, "permessage-deflate; server_max_window_bits=9");
    let plain = wire.joined();
    wire.holds = true;
    wire.publish(LONG, Flags::default(), Vec::new());
    let mut sends = Vec::new();
    wire.hub.flush(100, |conn, buf| sends.push((conn, buf)));
    let address = |conn: u32| {
        let (_, buf) = sends.iter().find(|(other, _)| *other == conn).unwrap();
        match buf {
            corecast::hub::buffer::SendBuf::Shared { chunk, start, end } => {
                chunk.cells(*start, *end).as_ptr()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(address(wide[0]), address(wide[1]), "the same bytes, not equal ones");
    assert_ne!(address(wide[0]), address(narrow));
    assert_ne!(address(wide[0]), address(plain));
    for (conn, buf) in &sends {
        let bytes = buf.to_vec();
        if *conn == plain {
            assert_eq!(unframe(&bytes), [LONG]);
        } else {
            let [(0xc1, payload)] = &frames(&bytes)[..] else { panic!("{bytes:?}") };
            assert!(payload.len() < LONG.len());
            assert_eq!(inflated(payload), LONG);
        }
    }
}

#[test]
fn c9_the_threshold_and_the_flag() {
    let mut wire = Wire::with(deflating(|_| {}));
    let conn = joined(&mut wire, "permessage-deflate");
    let short = "42[\"news\",\"aaaaaaaaaaaaaaaaaaaaaaaaa\"]";
    assert!(short.len() < 40);
    wire.publish(short, Flags::default(), Vec::new());
    assert_eq!(wire.said(conn), [short], "below the threshold");
    let flags = Flags { compress: false, ..Flags::default() };
    wire.publish(LONG, flags, Vec::new());
    assert_eq!(wire.said(conn), [LONG], "not wanted");
    let dense = "42[\"q8Zx1Kd0PmYv7LrT3sWnBhG5uJcFeA6Ro2iUt9\"]";
    assert!(dense.len() >= 40);
    wire.publish(dense, Flags::default(), Vec::new());
    assert_eq!(wire.said(conn), [dense], "it would not get smaller");
    let attachments = vec![Bytes::from(vec![7; 100]), Bytes::from_static(b"short")];
    wire.publish(LONG, Flags::default(), attachments);
    let got = frames(&wire.got(conn));
    assert_eq!(got.iter().map(|(first, _)| *first).collect::<Vec<_>>(), [0xc1, 0xc2, 0x82]);
    assert_eq!(inflated(&got[1].1), "\u{7}".repeat(100));
    assert!(wire.emit(0, LONG));
    assert_eq!(inflated(&frames(&wire.got(conn))[0].1), LONG, "to one socket too");
}

#[test]
fn c9_what_a_client_sends_compressed() {
    let mut wire = Wire::with(deflating(|_| {}));
    let conn = joined(&mut wire, "permessage-deflate; client_max_window_bits");
    wire.put(conn, frame(0xc1, &deflated("42[\"a\",1]")));
    let payload = deflated("421[\"b\",\"é\"]");
    let (first, last) = payload.split_at(5);
    let pieces = [frame(0x41, first), frame(0x89, b"x"), frame(0x00, b""), frame(0x80, last)];
    wire.put(conn, pieces.concat());
    wire.put(conn, text("42[\"c\"]"));
    wire.put(conn, frame(0xc1, &deflated("451-[\"d\",{\"_placeholder\":true,\"num\":0}]")));
    wire.put(conn, frame(0xc2, &deflated("bytes")));
    let attachment = format!("d({{\"_placeholder\":true,\"num\":0}}) {:?}", b"bytes");
    let expected = ["a(1)", "b(\"é\") #1", "c()", attachment.as_str()];
    assert_eq!(wire.heard(), expected);
    assert_eq!(wire.said(conn), ["<pong x>"]);
}

#[test]
fn c9_what_does_not_inflate_or_too_much() {
    let bomb = {
        let mut out = Vec::new();
        assert!(Deflater::new(15, 9).deflate(&vec![b' '; 2_000_000], &mut out));
        out
    };
    assert!(bomb.len() < 4_000);
    let bad_text = {
        let mut out = Vec::new();
        assert!(Deflater::new(15, 9).deflate(b"42[\"\xc3\x28\"]", &mut out));
        out
    };
    let whole = deflated(LONG);
    let rows: [(&str, Vec<u8>, u16); 6] = [
        ("a bomb", frame(0xc1, &bomb), 1009),
        ("noise", frame(0xc1, b"\xff\xff\xff\xff"), 1007),
        ("half a message", frame(0xc1, &whole[..whole.len() / 2]), 1007),
        ("text that is not UTF-8", frame(0xc1, &bad_text), 1007),
        ("a compressed ping", frame(0xc9, b""), 1002),
        ("a compressed continuation", [frame(0x41, b"a"), frame(0xc0, b"b")].concat(), 1002),
    ];
    for (what, bytes, code) in rows {
        let mut wire = Wire::with(deflating(|_| {}));
        let conn = joined(&mut wire, "permessage-deflate");
        let other = joined(&mut wire, "permessage-deflate");
        wire.put(conn, bytes);
        assert_eq!(wire.said(conn), [format!("<close {code}>")], "{what}");
        assert_eq!(wire.heard(), ["transport error"], "{what}");
        assert_eq!(wire.hub.stats().bad_frames, 1, "{what}");
        wire.put(other, frame(0xc1, &deflated("42[\"fine\"]")));
        assert_eq!(wire.heard(), ["fine()"], "after {what} the inflater serves others");
        assert!(wire.hub.held().incomplete < 100_000, "{what}");
    }
    let mut wire = Wire::with(deflating(|_| {}));
    let conn = wire.joined();
    wire.put(conn, frame(0xc1, &deflated("42[\"a\"]")));
    assert_eq!(wire.said(conn), ["<close 1002>"], "it was not agreed on");
}

#[test]
fn c9_windows_that_are_kept_are_bounded_and_released() {
    let mut wire = Wire::with(deflating(|deflate| {
        deflate.context_takeover = true;
        deflate.max_context_bytes = 1_000_000;
    }));
    let keeping: Vec<u32> = (0..2).map(|_| joined(&mut wire, "permessage-deflate")).collect();
    let held = wire.hub.held().windows;
    assert!((400_000..=1_000_000).contains(&held), "{held}");
    let full = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert_eq!(answer(&mut wire, "permessage-deflate").1.as_deref(), Some(full), "the bound");
    assert_eq!(wire.hub.held().windows, held);
    let conn = keeping[0];
    let mut inflater = Inflater::new();
    let mut sizes = Vec::new();
    for round in 0..3 {
        let flags = Flags { compress: round != 1, ..Flags::default() };
        wire.publish(LONG, flags, Vec::new());
        let [(first, payload)] = &frames(&wire.got(conn))[..] else { panic!("one frame") };
        if round == 1 {
            assert_eq!((*first, payload.as_slice()), (0x81, LONG.as_bytes()));
            continue;
        }
        let mut out = Vec::new();
        inflater.inflate(payload, 1_000, true, &mut out).unwrap();
        assert_eq!(out, LONG.as_bytes());
        sizes.push(payload.len());
    }
    assert!(sizes[1] < sizes[0] / 2, "{sizes:?}");
    let mut deflater = Deflater::new(15, 6);
    for _ in 0..3 {
        let mut payload = Vec::new();
        assert!(deflater.deflate(b"42[\"said\",\"again\"]", &mut payload));
        wire.put(conn, frame(0xc1, &payload));
    }
    assert_eq!(wire.heard(), ["said(\"again\")"; 3]);
    for conn in keeping {
        wire.end(conn, corecast::hub::PeerEnd::Eof);
    }
    assert_eq!(wire.hub.held().windows, 0);
    joined(&mut wire, "permessage-deflate");
    assert_eq!(wire.hub.held().windows, held / 2, "there is room again");
}

#[test]
fn c9_after_an_upgrade_it_is_compressed_too() {
    let mut wire = Wire::with(deflating(|_| {}));
    let sid = wire.joined_polling();
    let request = upgrade("websocket", Some(&sid)).replace(
        "\r\n\r\n",
        "\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
    );
    let conn = wire.with_bytes(request);
    assert!(String::from_utf8_lossy(&wire.got(conn)).contains("permessage-deflate"));
    wire.put(conn, text("2probe"));
    wire.put(conn, frame(0xc1, &deflated("5")));
    wire.got(conn);
    wire.publish(LONG, Flags::default(), Vec::new());
    let [(0xc1, payload)] = &frames(&wire.got(conn))[..] else { panic!("one frame") };
    assert_eq!(inflated(payload), LONG);
}
