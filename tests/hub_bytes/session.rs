//! Sections C, D and E, and the rows of W about websockets and upgrades.

use corecast::Reason;
use corecast::hub::{Config, Flags, PeerEnd};

use crate::wire::{Wire, config, frame, text, upgrade};

#[test]
fn c1_handshake() {
    let mut wire = Wire::new();
    let conn = wire.with_bytes(upgrade("websocket", None));
    let got = wire.got(conn);
    let end = got.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(got[..end].to_vec()).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert_eq!(got[end + 4], 0x81);
}

/// C-2, U-20: text, base64 in text, binary; whole, in fragments, byte by byte.
#[test]
fn c2_framing() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    let event = "451-[\"a\",{\"_placeholder\":true,\"num\":0}]";
    let mut bytes = text(event);
    bytes.extend(frame(0x82, &[1, 2]));
    bytes.extend(text(event));
    bytes.extend(text("bAQI="));
    bytes.extend(frame(0x01, &event.as_bytes()[..5]));
    bytes.extend(frame(0x89, b"hi"));
    bytes.extend(frame(0x80, &event.as_bytes()[5..]));
    bytes.extend(frame(0x02, &[1]));
    bytes.extend(frame(0x80, &[2]));
    for step in [1, 3, bytes.len()] {
        bytes.chunks(step).for_each(|part| wire.put(conn, part));
        let expected = "a({\"_placeholder\":true,\"num\":0}) [1, 2]";
        assert_eq!(wire.heard(), [expected; 3]);
        assert_eq!(wire.said(conn), ["<pong hi>"]);
    }
    let attachment = bytes::Bytes::from_static(&[7, 8]);
    assert!(wire.hub.emit(wire.members[0], event.as_bytes(), &[attachment], Flags::default()));
    assert_eq!(wire.said(conn), [event, "<[7, 8]>"]);
}

/// C-3, C-4: no code.
#[test]
fn c3_c4_bad_first_character() {
    for bad in ["7", "x", "", "é"] {
        let mut wire = Wire::new();
        let conn = wire.joined();
        wire.put(conn, [text(bad), text("42[\"late\"]")].concat());
        assert_eq!(wire.heard(), ["parse error"]);
        assert_eq!(wire.said(conn), ["<close>"]);
        assert!(wire.is_over(conn));
    }
}

/// C-4: a peer that does not end its side is let go of.
#[test]
fn c4_the_close_is_not_answered() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.hub.disconnect(wire.members[0], true);
    assert_eq!(wire.said(conn), ["41", "<close>"]);
    assert_eq!(wire.heard(), ["server namespace disconnect"]);
    assert_eq!(wire.hub.gauges().connections, 1);
    wire.put(conn, text("42[\"late\"]"));
    wire.at(30_000);
    assert_eq!(wire.hub.gauges(), Default::default());
    assert_eq!(wire.heard(), [""; 0]);
}

/// C-5, C-6, W-11: close codes of violations; the engine sees an error of the transport.
#[test]
fn c5_c6_w11_violations() {
    let too_big = [&[0x82, 0xff][..], &1_000_001u64.to_be_bytes(), &[0; 4]].concat();
    let top_bit = [&[0x82, 0xff][..], &(1u64 << 63).to_be_bytes(), &[0; 4]].concat();
    let table: [(&str, Vec<u8>, u16); 11] = [
        ("too big", too_big, 1009),
        ("text that is no UTF-8", frame(0x81, &[0x34, 0xff]), 1007),
        ("reserved bit", frame(0xc1, b"3"), 1002),
        ("reserved opcode", frame(0x83, b"3"), 1002),
        ("reserved control opcode", frame(0x8b, b""), 1002),
        ("not masked", vec![0x81, 1, b'3'], 1002),
        ("fragmented control", frame(0x09, b""), 1002),
        ("long control", frame(0x89, &[0; 126]), 1002),
        ("continuation of nothing", frame(0x80, b"3"), 1002),
        ("top bit", top_bit, 1002),
        ("close with half a code", frame(0x88, &[3]), 1002),
    ];
    for (name, bytes, code) in table {
        let mut wire = Wire::new();
        let conn = wire.joined();
        wire.put(conn, [bytes, text("42[\"late\"]")].concat());
        assert_eq!(wire.said(conn), [format!("<close {code}>")], "{name}");
        assert_eq!(wire.heard(), ["transport error"], "{name}");
        assert!(wire.is_over(conn));
    }
}

/// The close frame of a client is answered in kind.
#[test]
fn close_frame_of_the_client() {
    for (payload, answer) in [(&[][..], "<close>"), (&[3, 233], "<close 1001>")] {
        let mut wire = Wire::new();
        let conn = wire.joined();
        wire.put(conn, frame(0x88, payload));
        assert_eq!(wire.said(conn), [answer]);
        assert_eq!(wire.heard(), ["transport close"]);
        wire.end(conn, PeerEnd::Eof);
        assert_eq!(wire.hub.gauges(), Default::default());
    }
}

/// C-12, W-12: 101 and the end, while the session goes on.
#[test]
fn c12_w12_upgrades_of_sessions_that_cannot() {
    let mut wire = Wire::new();
    let (first, open) = wire.websocket(None);
    let sid = open[0][9..29].to_owned();
    let (second, said) = wire.websocket(Some(&sid));
    assert_eq!(said, ["<close>"], "a session born on websocket");
    assert!(wire.is_over(second) && !wire.is_over(first));

    let sid = wire.polling();
    let (probing, said) = wire.websocket(Some(&sid));
    assert_eq!(said, [""; 0]);
    let (other, said) = wire.websocket(Some(&sid));
    assert_eq!(said, ["<close>"], "a session that is upgrading");
    assert!(wire.is_over(other));
    wire.put(probing, [text("2probe"), text("5")].concat());
    assert_eq!(wire.said(probing), ["3probe"]);
    let (other, said) = wire.websocket(Some(&sid));
    assert_eq!(said, ["<close>"], "a session that has upgraded");
    assert!(wire.is_over(other) && !wire.is_over(probing));
}

#[test]
fn c13_upgrade_of_a_polling_request() {
    let mut wire = Wire::new();
    let sid = wire.polling();
    for sid in [None, Some(sid.as_str())] {
        let conn = wire.with_bytes(upgrade("polling", sid));
        let got = wire.got(conn);
        assert!(got.starts_with(b"HTTP/1.1 101 ") && got.ends_with(&[0x88, 0]), "{got:?}");
        assert!(wire.is_over(conn));
    }
    assert_eq!(wire.hub.gauges().sessions, 1);
}

/// D-1: expiry closes the new transport only.
#[test]
fn d1_an_upgrade_takes_too_long() {
    for said in ["", "2probe"] {
        let mut wire = Wire::new();
        let sid = wire.joined_polling();
        let (conn, _) = wire.websocket(Some(&sid));
        if !said.is_empty() {
            wire.put(conn, text(said));
            assert_eq!(wire.said(conn), ["3probe"]);
        }
        wire.at(9_900);
        assert!(!wire.is_over(conn));
        wire.at(10_100);
        assert_eq!(wire.said(conn), ["<close>"]);
        assert!(wire.is_over(conn));
        assert_eq!(wire.post(&sid, "42[\"a\"]"), (200, "ok".into()));
        assert_eq!(wire.heard(), ["a()"]);
    }
}

/// D-2, U-6: a parked GET is released, not at once but within 100 ms, and every 100 ms again.
#[test]
fn d2_noops() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let parked = wire.poll(&sid);
    let (conn, _) = wire.websocket(Some(&sid));
    wire.put(conn, text("2probe"));
    assert_eq!(wire.said(conn), ["3probe"]);
    assert_eq!(wire.got(parked), b"", "not at once");
    wire.at(132);
    assert_eq!(wire.answer(parked), (200, "6".into()));
    let parked = wire.poll(&sid);
    wire.at(264);
    assert_eq!(wire.answer(parked), (200, "6".into()));
}

/// D-3, D-5, D-7, U-17, W-13: what waits comes on the new transport, in order.
#[test]
fn d3_d5_w13_the_upgrade() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let (conn, _) = wire.websocket(Some(&sid));
    wire.put(conn, text("2probe"));
    wire.emit(0, "42[1]");
    let polled = wire.poll(&sid);
    assert_eq!(wire.answer(polled), (200, "42[1]".into()), "polling still works");
    let attachment = bytes::Bytes::from_static(&[1]);
    wire.emit(0, "42[2]");
    assert!(wire.hub.emit(wire.members[0], b"451-[3]", &[attachment], Flags::default()));
    assert_eq!(wire.said(conn), ["3probe"]);
    wire.put(conn, [text("5"), text("42[\"a\"]")].concat());
    wire.emit(0, "42[4]");
    assert_eq!(wire.said(conn), ["42[2]", "451-[3]", "bAQ==", "42[4]"]);
    assert_eq!(wire.heard(), ["a()"]);

    let sid = wire.joined_polling();
    let parked = wire.poll(&sid);
    let (conn, _) = wire.websocket(Some(&sid));
    wire.put(conn, [text("2probe"), text("5")].concat());
    assert_eq!(wire.answer(parked), (200, "1".into()), "W-13");
    wire.put(conn, text("42[\"b\"]"));
    assert_eq!(wire.heard(), ["b()"]);
}

/// D-3 with W-13: a ping that was not answered before the upgrade still has to be.
#[test]
fn w13_liveness_is_not_lost() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    wire.at(25_100);
    let polled = wire.poll(&sid);
    assert_eq!(wire.answer(polled), (200, "2".into()));
    let (conn, _) = wire.websocket(Some(&sid));
    wire.put(conn, [text("2probe"), text("5")].concat());
    wire.at(46_000);
    assert_eq!(wire.heard(), ["ping timeout"]);
    assert_eq!(wire.said(conn), ["3probe", "<close>"]);
}

/// D-4, W-21: anything but the exchange ends the probe, not the session.
#[test]
fn d4_w21_other_packets_of_a_probe() {
    let table = [
        vec![text("5")],
        vec![text("2")],
        vec![text("42[\"a\"]")],
        vec![frame(0x82, &[1])],
        vec![text("2probe"), text("2probe")],
        vec![text("2probe"), text("3")],
        vec![text("2probe"), text("1")],
    ];
    for frames in table {
        let mut wire = Wire::new();
        let sid = wire.joined_polling();
        let (conn, _) = wire.websocket(Some(&sid));
        wire.put(conn, frames.concat());
        assert_eq!(wire.said(conn).last().map(String::as_str), Some("<close>"), "{frames:?}");
        assert!(wire.is_over(conn));
        assert_eq!(wire.post(&sid, "42[\"b\"]"), (200, "ok".into()));
        assert_eq!(wire.heard(), ["b()"]);
        let (again, _) = wire.websocket(Some(&sid));
        wire.put(again, [text("2probe"), text("5"), text("42[\"c\"]")].concat());
        assert_eq!(wire.heard(), ["c()"], "another attempt");
    }
}

/// D-6, W-14: the session ends during an upgrade, and the new transport with it, at once.
#[test]
fn d6_w14_the_session_closes_meanwhile() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let parked = wire.poll(&sid);
    let (conn, _) = wire.websocket(Some(&sid));
    wire.put(conn, text("2probe"));
    wire.hub.disconnect(wire.members[0], true);
    assert_eq!(wire.said(conn), ["3probe", "<close>"]);
    assert_eq!(wire.answer(parked), (200, "41".into()));
    assert!(wire.is_over(conn));
    assert_eq!(wire.heard(), ["server namespace disconnect"]);
}

/// A probe that goes away leaves the session as it was.
#[test]
fn d4_a_probe_is_dropped() {
    for end in [PeerEnd::Eof, PeerEnd::Reset] {
        let mut wire = Wire::new();
        let sid = wire.joined_polling();
        let (conn, _) = wire.websocket(Some(&sid));
        wire.put(conn, text("2probe"));
        wire.end(conn, end);
        assert_eq!(wire.post(&sid, "42[\"b\"]"), (200, "ok".into()));
        assert_eq!(wire.heard(), ["b()"]);
    }
}

/// E-1, E-2: ping, pong, ping; no pong, no session. An unasked pong moves the next ping.
#[test]
fn e1_e2_heartbeat() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.at(24_900);
    assert_eq!(wire.said(conn), [""; 0]);
    wire.at(25_100);
    assert_eq!(wire.said(conn), ["2"]);
    wire.at(30_000);
    wire.put(conn, text("3"));
    wire.at(54_900);
    assert_eq!(wire.said(conn), [""; 0]);
    wire.at(55_100);
    assert_eq!(wire.said(conn), ["2"]);
    wire.put(conn, text("3"));
    wire.at(70_000);
    wire.put(conn, text("3"));
    wire.at(94_900);
    assert_eq!(wire.said(conn), [""; 0], "the unasked pong began a new interval");
    wire.at(95_100);
    assert_eq!(wire.said(conn), ["2"]);
    wire.at(114_900);
    assert_eq!(wire.heard(), [""; 0]);
    wire.at(115_100);
    assert_eq!(wire.heard(), ["ping timeout"]);
    let stats = wire.hub.stats();
    assert_eq!((stats.pongs, stats.ping_timeouts), (2, 1), "the unasked pong answered nothing");
    assert_eq!(wire.said(conn), ["<close>"]);
}

/// E-3: the first other packet after a ping gives one more pingTimeout.
#[test]
fn e3_other_packets_are_a_sign_of_life_once() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.at(25_100);
    wire.at(40_000);
    wire.put(conn, text("42[\"a\"]"));
    wire.at(50_000);
    wire.put(conn, text("42[\"b\"]"));
    assert_eq!(wire.heard(), ["a()", "b()"]);
    wire.at(59_900);
    assert_eq!(wire.heard(), [""; 0]);
    wire.at(60_200);
    assert_eq!(wire.heard(), ["ping timeout"]);
}

/// E-1, E-6: a session is over when pingInterval and pingTimeout are, not a tick of the clock
/// later: a client that reads them from the open packet counts on it.
#[test]
fn e1_e6_silence_ends_in_the_announced_time() {
    for offset in 0..40 {
        let config = Config { ping_interval_ms: 300, ping_timeout_ms: 200, ..config() };
        let mut wire = Wire::with(config);
        wire.at(1_000 + offset);
        let sid = wire.joined_polling();
        let conn = wire.joined();
        wire.at(1_240 + offset);
        assert_eq!(wire.said(conn), [""; 0]);
        wire.at(1_300 + offset);
        assert_eq!(wire.said(conn), ["2"]);
        wire.at(1_420 + offset);
        assert_eq!(wire.heard(), [""; 0]);
        wire.at(1_500 + offset);
        assert_eq!(wire.heard(), ["ping timeout"; 2]);
        let poll = wire.poll(&sid);
        assert_eq!(wire.answer(poll).0, 400);
    }
}

#[test]
fn e4_a_ping_of_the_client() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, text("2"));
    assert_eq!(wire.heard(), ["transport error"]);
    assert_eq!(wire.said(conn), ["<close>"]);
}

#[test]
fn e5_data_of_a_pong() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.at(25_100);
    wire.put(conn, text("3whatever"));
    wire.at(50_000);
    assert_eq!(wire.heard(), [""; 0]);
}

/// E-6: without a GET the ping waits, and the timeout does not.
#[test]
fn e6_polling_without_get() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    wire.at(44_900);
    assert_eq!(wire.heard(), [""; 0]);
    wire.at(45_200);
    assert_eq!(wire.heard(), ["ping timeout"]);
    assert_eq!(wire.post(&sid, "3").0, 400);
    assert_eq!(wire.hub.gauges().sessions, 0);
}

/// E-7: a session gets a ping within pingInterval of each pong, also while data flows.
#[test]
fn e7_pings_come_whatever_else_does() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    for second in 1..=25 {
        wire.at(second * 1_000);
        wire.put(conn, text("42[\"a\"]"));
        wire.emit(0, "42[\"b\"]");
    }
    wire.at(25_100);
    let pings = wire.said(conn).iter().filter(|packet| *packet == "2").count();
    assert_eq!(pings, 1);
}

/// E-8, J-18: reasons.
#[test]
fn e8_j18_reasons() {
    type Deed = fn(&mut Wire, u32);
    let table: [(&str, Deed); 8] = [
        ("transport close", |wire, conn| wire.end(conn, PeerEnd::Eof)),
        ("transport close", |wire, conn| wire.put(conn, text("1"))),
        ("transport close", |wire, conn| wire.put(conn, frame(0x88, &[]))),
        ("transport error", |wire, conn| wire.put(conn, text("2"))),
        ("parse error", |wire, conn| wire.put(conn, text("x"))),
        ("forced close", |wire, _| wire.hub.abort(wire.members[0])),
        ("client namespace disconnect", |wire, conn| wire.put(conn, text("41"))),
        ("server shutting down", |wire, _| wire.hub.shut_down(Reason::ServerShuttingDown)),
    ];
    for (reason, deed) in table {
        let mut wire = Wire::new();
        let conn = wire.joined();
        deed(&mut wire, conn);
        wire.run();
        assert_eq!(wire.heard(), [reason]);
    }
}

/// E-9: nothing is received or sent once closing.
#[test]
fn e9_a_closing_session_is_deaf() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    wire.hub.close_connection(wire.members[0]);
    wire.run();
    assert_eq!(wire.heard(), ["forced close"]);
    assert!(!wire.emit(0, "42[1]"));
    assert_eq!(wire.post(&sid, "42[\"a\"]"), (200, "ok".into()));
    assert_eq!(wire.post(&sid, "40"), (200, "ok".into()));
    assert_eq!(wire.heard(), [""; 0]);
    let conn = wire.poll(&sid);
    assert_eq!(wire.answer(conn), (200, "6\x1e1".into()));
}

/// E-10: what is queued leaves before the close, unless the session is aborted.
#[test]
fn e10_close_after_what_is_queued() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    let member = wire.members[0];
    assert!(wire.hub.emit(member, b"42[1]", &[], Flags::default()));
    wire.hub.close_connection(member);
    assert_eq!(wire.said(conn), ["42[1]", "<close>"]);
    assert!(wire.is_over(conn));
}

/// W-6: a close packet on a websocket closes it.
#[test]
fn w6_close_packet_on_a_websocket() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, [text("1"), text("42[\"late\"]")].concat());
    assert_eq!(wire.heard(), ["transport close"]);
    assert_eq!(wire.said(conn), ["<close>"]);
}

/// W-22: frames together with the handshake, and several packets in one segment.
#[test]
fn w22_packets_in_one_segment() {
    let mut wire = Wire::new();
    let bytes = [upgrade("websocket", None).into_bytes(), text("40"), text("42[\"a\"]")].concat();
    let conn = wire.with_bytes(bytes);
    assert_eq!(wire.heard(), ["connect 0 ", "a()"]);
    wire.put(conn, [text("41"), text("40"), text("42[\"b\"]")].concat());
    assert_eq!(wire.heard(), ["client namespace disconnect", "connect 0 ", "b()"]);
    wire.put(conn, [text("42[\"c\"]"), text("41"), text("40/admin,")].concat());
    assert_eq!(wire.heard(), ["c()", "client namespace disconnect", "connect 1 "]);
    assert!(!wire.is_over(conn));
}

/// What a peer makes the server hold has a bound: pongs that it does not read.
#[test]
fn pongs_that_nobody_reads() {
    for is_probe in [false, true] {
        let mut wire = Wire::with(Config { queue_bytes_max: 10_000, ..config() });
        let conn = if is_probe {
            let sid = wire.joined_polling();
            wire.websocket(Some(&sid)).0
        } else {
            wire.joined()
        };
        wire.holds = true;
        let ping = frame(0x89, &[b'x'; 125]);
        for _ in 0..200 {
            wire.put(conn, ping.repeat(10));
            assert!(wire.hub.held().queued <= 10_000 + 1_300, "{}", wire.hub.held().queued);
            wire.hub.flush(0, |_, _| {});
        }
        wire.holds = false;
        wire.run();
        assert!(wire.is_over(conn), "probe: {is_probe}");
        assert_eq!(wire.hub.gauges().sessions, usize::from(is_probe));
    }
}

/// The bound of a socket's queue, and what happens there, on both transports.
#[test]
fn slow_readers() {
    use corecast::SlowReader::{Disconnect, Drop};
    let packet = format!("42[\"{}\"]", "x".repeat(900));
    for (policy, is_polling) in
        [(Disconnect, false), (Disconnect, true), (Drop, false), (Drop, true)]
    {
        let mut wire =
            Wire::with(Config { queue_bytes_max: 10_000, slow_reader: policy, ..config() });
        let sid = if is_polling { wire.joined_polling() } else { String::new() };
        let conn = if is_polling { None } else { Some(wire.joined()) };
        let member = wire.members[0];
        // One send is in flight and does not end.
        wire.hub.emit(member, packet.as_bytes(), &[], Flags::default());
        let mut sends = 0;
        wire.hub.flush(9, |_, _| sends += 1);
        assert_eq!(sends, usize::from(!is_polling));
        for _ in 0..40 {
            wire.hub.emit(member, packet.as_bytes(), &[], Flags::default());
            assert!(wire.hub.held().queued <= 10_000 + packet.len());
        }
        wire.run();
        let stats = wire.hub.stats();
        if policy == Disconnect {
            assert_eq!(wire.heard(), ["transport error"]);
            assert_eq!((stats.slow_closed, stats.slow_dropped), (1, 0));
            assert!(conn.is_none_or(|conn| wire.is_over(conn)));
            assert_eq!(wire.hub.held().queued, 0);
            continue;
        }
        assert_eq!(wire.heard(), [""; 0]);
        let kept = if is_polling { 11 } else { 10 };
        assert_eq!((stats.slow_closed, stats.slow_dropped), (0, 41 - kept), "{stats:?}");
        // The queue has room again: what was queued arrives, and later packets do.
        if let Some(conn) = conn {
            wire.hub.handle_sent(conn, true);
            assert_eq!(wire.said(conn).len(), 9);
            wire.emit(0, "42[1]");
            assert_eq!(wire.said(conn), ["42[1]"]);
        } else {
            let got = wire.poll(&sid);
            assert_eq!(wire.answer(got).1.split('\x1e').count(), 11);
        }
    }
}

/// S-7: packets with data and the bytes of their data, in and out; closed sessions by reason.
#[test]
fn s7_traffic_is_counted() {
    let mut wire = Wire::new();
    let (conn, _) = wire.websocket(None);
    wire.put(conn, text("40"));
    let before = wire.hub.stats();
    let event = r#"51-["a",{"_placeholder":true,"num":0}]"#;
    wire.put(conn, [text(&format!("4{event}")), frame(0x82, b"xyz"), text("3")].concat());
    let attachment = bytes::Bytes::from_static(b"12345");
    assert!(wire.hub.emit(wire.members[0], b"42[1]", &[attachment], Flags::default()));
    wire.at(25_000);
    let stats = wire.hub.stats();
    assert_eq!(stats.packets_in - before.packets_in, 2);
    assert_eq!(stats.bytes_in - before.bytes_in, event.len() as u64 + 3);
    // The ping that is due has no data.
    assert_eq!(
        (stats.packets_out - before.packets_out, stats.bytes_out - before.bytes_out),
        (2, 9)
    );
    wire.put(conn, text("4x"));
    let closed = Reason::ALL.map(|reason| wire.hub.stats().closed(reason));
    assert_eq!(closed, [0, 0, 0, 0, 1, 0, 0, 0, 0]);
}
