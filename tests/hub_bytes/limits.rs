//! What one client can make the server hold or do, and where that ends.

use std::net::SocketAddr;
use std::rc::Rc;

use corecast::hub::buffer::SendBuf;
use corecast::hub::{Config, Flags, StaticFile};

use crate::wire::{Wire, config, frame, get, post, text, upgrade};

#[test]
fn a_head_of_short_lines_is_refused_at_the_first_line_too_many() {
    let mut wire = Wire::new();
    let conn = wire.with_bytes("GET / HTTP/1.1\r\nHost: h\r\n");
    for _ in 0..99 {
        wire.put(conn, "a:\r\n");
    }
    assert!(wire.got(conn).is_empty());
    // Not when the head is complete, or as large as heads may be.
    wire.put(conn, "a:\r\n");
    assert_eq!(wire.answer(conn).0, 431);
    assert!(wire.is_over(conn));
}

#[test]
fn sessions_are_bounded_though_they_need_no_connection() {
    let mut wire = Wire::with(Config { connections_max: 3, ..config() });
    let conn = wire.with_bytes(get("transport=polling").repeat(4));
    let got = String::from_utf8(wire.got(conn)).unwrap();
    assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 3);
    assert_eq!(got.matches("HTTP/1.1 503 Service Unavailable").count(), 1);
    assert_eq!((wire.hub.gauges().sessions, wire.hub.stats().bad_requests), (3, 1));
    let conn = wire.with_bytes(upgrade("websocket", None));
    assert_eq!(wire.answer(conn).0, 503);
    // Those that are never fetched go by themselves, and there is room again.
    wire.at(46_000);
    assert_eq!(wire.hub.gauges().sessions, 0);
    wire.polling();
}

#[test]
fn a_connection_from_another_shard_counts_like_one_that_was_accepted() {
    let mut wire = Wire::with(Config { connections_max: 2, ..config() });
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    wire.open();
    assert_eq!(wire.hub.handle_migrated(address.into(), Vec::new()), Some(1));
    assert_eq!(wire.hub.handle_migrated(address.into(), Vec::new()), None);
    let stats = wire.hub.stats();
    assert_eq!((stats.migrated, stats.refused, wire.hub.gauges().connections), (1, 1, 2));
}

#[test]
fn a_namespace_that_is_left_makes_room_at_once() {
    let mut wire = Wire::with(Config { namespaces_max: 1, ..config() });
    let conn = wire.joined();
    wire.put(conn, text("40/admin,"));
    assert_eq!(wire.said(conn), ["44/admin,{\"message\":\"Too many namespaces\"}"]);
    // In one segment, before the application has let go of the first.
    wire.put(conn, [text("41"), text("40/admin,")].concat());
    assert!(wire.said(conn)[0].starts_with("40/admin,{\"sid\":"));
    assert_eq!(wire.hub.gauges().sockets, 1);
}

#[test]
fn a_file_is_not_copied_for_everyone_who_asks() {
    let mut wire = Wire::new();
    let body = vec![b'x'; 100_000].into();
    let file = StaticFile { content_type: "text/plain", etag: "\"1\"".into(), body, coded: None };
    wire.hub.add_file("/file", Rc::new(file));
    wire.holds = true;
    let conns: Vec<u32> =
        (0..3).map(|_| wire.with_bytes("GET /file HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    let mut shared = Vec::new();
    for _ in 0..2 {
        let mut sent = Vec::new();
        wire.hub.flush(100, |conn, buf| {
            sent.push(conn);
            match buf {
                SendBuf::Shared { chunk, .. } => shared.push(chunk),
                SendBuf::Owned(head) => assert!(head.ends_with(b"\r\n\r\n")),
            }
        });
        sent.into_iter().for_each(|conn| wire.hub.handle_sent(conn, true));
    }
    assert_eq!(shared.len(), conns.len());
    assert!(shared.iter().all(|chunk| Rc::ptr_eq(chunk, &shared[0])));
    assert_eq!(shared[0].filled(), 100_000);
}

#[test]
fn pongs_that_nobody_reads_are_bounded_and_end_the_connection() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.holds = true;
    let pings = frame(0x89, b"").repeat(300);
    for _ in 0..2_000 {
        wire.put(conn, &pings);
        wire.hub.flush(0, |_, _| {});
        assert!(wire.hub.held().queued <= (1 << 20) + 600);
    }
    wire.holds = false;
    wire.run();
    assert_eq!((wire.hub.stats().slow_closed, wire.heard()), (1, vec!["transport error".into()]));
    assert!(wire.is_over(conn));
}

#[test]
fn a_body_of_a_hundred_thousand_events_leaves_no_memory_behind() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let body = "42[1]\x1e".repeat(100_000) + "6";
    assert_eq!(wire.post(&sid, &body), (200, "ok".into()));
    assert_eq!(wire.heard().len(), 100_000);
    assert_eq!(wire.ask(&post(&sid, "1")).0, 200);
}

/// A websocket message has as long as a request body; pieces of it do not prolong that.
#[test]
fn a_message_has_a_time_to_be_complete_in() {
    let quick = Config { body_timeout_ms: 10_000, ..config() };
    for piece in [&frame(0x01, b"42[\"a\"")[..], &text("42[\"abc\"]")[..9], &[0x81][..]] {
        let mut wire = Wire::with(quick.clone());
        let conn = wire.joined();
        wire.put(conn, piece);
        for second in 1..10 {
            wire.at(second * 1_000);
            if piece.len() > 9 {
                wire.put(conn, frame(0x00, b" "));
            }
        }
        assert!(!wire.is_over(conn));
        wire.at(10_100);
        assert_eq!((wire.said(conn), wire.hub.gauges().sockets), (vec!["<close 1008>".into()], 0));
        assert_eq!(wire.heard(), ["transport error"]);
    }
    // One that was completed leaves no deadline behind.
    let mut wire = Wire::with(quick);
    let conn = wire.joined();
    wire.put(conn, frame(0x01, b"42[\"a\""));
    wire.at(9_000);
    wire.put(conn, frame(0x80, b"]"));
    wire.at(24_000);
    assert!(!wire.is_over(conn));
    assert_eq!(wire.heard(), ["a()"]);
}

#[test]
fn attachments_have_a_time_to_come_in() {
    let mut wire = Wire::with(Config { body_timeout_ms: 10_000, ..config() });
    let conn = wire.joined();
    let event = r#"452-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    wire.put(conn, text(event));
    wire.at(9_000);
    wire.put(conn, frame(0x82, b"x"));
    wire.at(10_100);
    assert_eq!(wire.said(conn), ["<close>"]);
    assert_eq!(wire.heard(), ["error attachments did not come in time", "forced close"]);
}

/// What a client says as `auth` is kept while it stays: all its namespaces share one bound.
#[test]
fn auth_of_many_namespaces_is_bounded_together() {
    let mut limits = config().limits;
    (limits.message_bytes_max, limits.attachments_bytes_max) = (1_000, 1_500);
    let mut wire = Wire::with(Config { limits, ..config() });
    let auth = format!("{{\"a\":\"{}\"}}", "x".repeat(900));
    let namespaces: Vec<String> = (0..4).map(|n| format!("/n{n}")).collect();
    for name in &namespaces {
        wire.hub.add_namespace(name);
    }
    let (conn, _) = wire.websocket(None);
    for name in &namespaces[..2] {
        wire.put(conn, text(&format!("40{name},{auth}")));
    }
    assert_eq!(wire.hub.gauges().sockets, 2);
    wire.put(conn, text(&format!("40{},{auth}", namespaces[2])));
    assert_eq!(wire.hub.gauges().sockets, 0);
    assert!(wire.is_over(conn));
}

/// An answer that is staged while a send of its connection is in flight does not wait for the end
/// of a broadcast.
#[test]
fn what_one_waits_for_goes_ahead_after_a_send_in_flight_too() {
    let mut wire = Wire::new();
    let conns: Vec<u32> = (0..20).map(|_| wire.joined()).collect();
    wire.holds = true;
    wire.publish("42[1]", Flags::default(), Vec::new());
    let (conn, broadcast) = wire.flush(1).remove(0);
    assert_eq!(broadcast, ["42[1]"]);
    let member = conns.iter().position(|other| *other == conn).unwrap();
    assert!(wire.emit(member, "42[2]"));
    wire.hub.handle_sent(conn, true);
    assert_eq!(wire.flush(1), [(conn, vec!["42[2]".into()])]);
}

/// Clients that have connected together get their pings together: nobody who is answered waits for
/// them.
#[test]
fn what_one_waits_for_goes_ahead_of_pings() {
    let mut wire = Wire::new();
    let conns: Vec<u32> = (0..20).map(|_| wire.joined()).collect();
    wire.holds = true;
    wire.at(25_000);
    assert_eq!(wire.hub.gauges().waiting, 20, "all have a ping");
    assert!(wire.emit(7, "42[1]"));
    assert_eq!(wire.flush(1), [(conns[7], vec!["2".into()])], "its own comes first");
    wire.hub.handle_sent(conns[7], true);
    assert_eq!(wire.flush(1), [(conns[7], vec!["42[1]".into()])]);
    let rest = wire.flush(100);
    assert_eq!(rest.len(), 19);
    assert!(rest.iter().all(|(_, said)| *said == ["2"]));
}

/// However few sends a turn has, what goes to many has a quarter of them.
#[test]
fn what_goes_to_many_has_its_turns_among_answers() {
    let mut wire = Wire::new();
    let conns: Vec<u32> = (0..20).map(|_| wire.joined()).collect();
    wire.holds = true;
    wire.publish("42[1]", Flags::default(), Vec::new());
    // Two clients ask and are answered without end.
    let mut sends = Vec::new();
    for _ in 0..100 {
        for member in 0..2 {
            wire.emit(member, "42[2]");
        }
        sends.extend(wire.flush(1));
        wire.hub.handle_sent(sends.last().unwrap().0, true);
    }
    let others = conns[2..].iter().filter(|conn| sends.iter().any(|(other, _)| other == *conn));
    assert_eq!(others.count(), 18);
}

/// A shard that has so much to send that a ping has not left before its answer is due does not
/// blame the client.
#[test]
fn a_ping_that_has_not_left_is_not_overdue() {
    let mut wire = Wire::new();
    let conns = [wire.joined(), wire.joined()];
    wire.holds = true;
    wire.at(25_000);
    for ms in [30_000, 40_000, 45_100, 50_000, 65_200, 70_000] {
        wire.at(ms);
        assert!(conns.iter().all(|conn| !wire.is_over(*conn)), "{ms}");
    }
    // It leaves at last, shortly before the time would have been over once more.
    wire.at(84_000);
    wire.holds = false;
    wire.run();
    assert!(conns.iter().all(|conn| wire.said(*conn) == ["2"]));
    wire.at(100_000);
    wire.put(conns[0], text("3"));
    assert!(!wire.is_over(conns[1]), "it has all of its time from then on");
    wire.at(105_000);
    assert_eq!((wire.is_over(conns[0]), wire.is_over(conns[1])), (false, true));
}
