//! Races of an upgrade (D, W-12 to W-14, W-21): what arrives between the probe and `5`, on either
//! transport, and a session that ends meanwhile. Then whole conversations (V).

use corecast::hub::PeerEnd;

use crate::wire::{Wire, frame, get, post, text};

/// A session over polling in `/`, and a websocket that has been probed.
fn probed(wire: &mut Wire) -> (String, u32) {
    let sid = wire.joined_polling();
    let (conn, said) = wire.websocket(Some(&sid));
    assert_eq!(said, [""; 0]);
    wire.put(conn, text("2probe"));
    assert_eq!(wire.said(conn), ["3probe"]);
    (sid, conn)
}

/// D-1: an upgrade is for an open session. One that is closing has no use for it.
#[test]
fn d1_a_probe_of_a_session_that_is_closing() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    wire.hub.disconnect(wire.members[0], true);
    wire.run();
    let (conn, said) = wire.websocket(Some(&sid));
    assert_eq!(said, ["<close>"]);
    assert!(wire.is_over(conn));
    let poll = wire.poll(&sid);
    assert_eq!(wire.answer(poll), (200, "41".into()), "the last packets are not lost");
    let poll = wire.poll(&sid);
    assert_eq!(wire.answer(poll), (200, "6\x1e1".into()));
    wire.at(3_000);
    wire.end(conn, PeerEnd::Eof);
    assert_eq!(wire.hub.gauges().sessions, 0);
}

/// D-2: a probe that comes late in the time for the upgrade is answered; one second later the
/// time is over, and the next attempt has all of it again.
#[test]
fn d1_each_attempt_has_its_own_time() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let (first, _) = wire.websocket(Some(&sid));
    wire.at(9_000);
    wire.put(first, text("2probe"));
    wire.at(10_100);
    assert_eq!(wire.said(first), ["3probe", "<close>"]);
    let (second, _) = wire.websocket(Some(&sid));
    wire.at(19_900);
    wire.put(second, [text("2probe"), text("5"), text("42[\"a\"]")].concat());
    assert_eq!(wire.said(second), ["3probe"]);
    assert_eq!(wire.heard(), ["a()"]);
}

/// D-5, D-7: POSTs and GETs during the probe are served by the old transport.
#[test]
fn d5_posts_and_gets_during_the_probe() {
    let mut wire = Wire::new();
    let (sid, conn) = probed(&mut wire);
    assert_eq!(wire.post(&sid, "42[\"a\"]"), (200, "ok".into()));
    let parked = wire.poll(&sid);
    wire.emit(0, "42[1]");
    assert_eq!(wire.answer(parked), (200, "42[1]".into()));
    assert_eq!(wire.said(conn), [""; 0]);
    wire.put(conn, text("5"));
    assert_eq!(wire.post(&sid, "42[\"b\"]").0, 400, "B-23");
    let poll = wire.poll(&sid);
    assert_eq!(wire.answer(poll).0, 400, "B-23");
    wire.put(conn, text("42[\"c\"]"));
    assert_eq!(wire.heard(), ["a()", "c()"]);
}

/// W-13: a POST that is half there at `5` is dropped, and the session lives.
#[test]
fn w13_a_post_in_hand_at_the_upgrade() {
    let mut wire = Wire::new();
    let (sid, conn) = probed(&mut wire);
    let request = post(&sid, "42[\"half\"]");
    let half = wire.with_bytes(&request[..request.len() - 3]);
    wire.put(conn, text("5"));
    assert!(wire.is_over(half));
    assert_eq!(wire.got(half), b"");
    wire.put(conn, text("42[\"a\"]"));
    assert_eq!(wire.heard(), ["a()"]);
    // What is still on its way on the dropped connection harms nobody.
    wire.end(half, PeerEnd::Reset);
    wire.emit(0, "42[1]");
    assert_eq!(wire.said(conn), ["42[1]"]);
}

/// D-4 of a GET: the loss of a parked GET is the end of the session (B-8), its probe included;
/// after `5` it is nothing.
#[test]
fn d6_a_parked_get_is_lost() {
    let mut wire = Wire::new();
    let (sid, conn) = probed(&mut wire);
    let parked = wire.poll(&sid);
    wire.end(parked, PeerEnd::Reset);
    assert_eq!(wire.heard(), ["transport error"]);
    assert_eq!(wire.said(conn), ["<close>"]);

    let (sid, conn) = probed(&mut wire);
    let parked = wire.poll(&sid);
    wire.put(conn, text("5"));
    assert_eq!(wire.answer(parked), (200, "1".into()), "W-13");
    wire.end(parked, PeerEnd::Reset);
    wire.put(conn, text("42[\"a\"]"));
    assert_eq!(wire.heard(), ["a()"]);
}

/// D-6: each way in which a session can end between the probe and `5`.
#[test]
fn d6_ends_during_the_probe() {
    type Deed = fn(&mut Wire, &str);
    let table: [(&str, Deed); 6] = [
        ("transport close", |wire, sid| assert_eq!(wire.post(sid, "1").0, 200)),
        ("parse error", |wire, sid| drop(wire.post(sid, "x"))),
        ("transport error", |wire, sid| drop(wire.post(sid, "2"))),
        ("forced close", |wire, sid| drop(wire.post(sid, "49"))),
        ("forced close", |wire, _| {
            let member = *wire.members.last().unwrap();
            wire.hub.abort(member);
        }),
        ("ping timeout", |wire, _| wire.at(45_200)),
    ];
    for (reason, deed) in table {
        let mut wire = Wire::new();
        let sid = wire.joined_polling();
        if reason == "ping timeout" {
            wire.at(40_000);
        }
        let (conn, _) = wire.websocket(Some(&sid));
        wire.put(conn, text("2probe"));
        deed(&mut wire, &sid);
        wire.run();
        assert_eq!(wire.heard().last().map(String::as_str), Some(reason));
        assert_eq!(wire.said(conn), ["3probe", "<close>"], "{reason}");
        wire.put(conn, [text("5"), text("42[\"late\"]")].concat());
        assert_eq!(wire.heard(), [""; 0], "{reason}");
        let poll = wire.poll(&sid);
        assert_eq!(wire.answer(poll).0, 400, "{reason}");
    }
}

/// E-6 with D-3: the ping that waited for a GET comes on the websocket.
#[test]
fn d5_a_ping_that_waited_comes_on_the_new_transport() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    wire.at(25_100);
    let (conn, _) = wire.websocket(Some(&sid));
    wire.put(conn, [text("2probe"), text("5")].concat());
    assert_eq!(wire.said(conn), ["3probe", "2"]);
    wire.put(conn, text("3"));
    wire.at(50_000);
    assert_eq!(wire.heard(), [""; 0]);
    wire.at(50_300);
    assert_eq!(wire.said(conn), ["2"], "the next one");
}

/// D-4: frames of the websocket itself are no packets of the probe; its close is the probe's end.
#[test]
fn d4_pings_and_closes_of_the_websocket() {
    let mut wire = Wire::new();
    let (sid, conn) = probed(&mut wire);
    wire.put(conn, frame(0x89, b"x"));
    assert_eq!(wire.said(conn), ["<pong x>"]);
    wire.put(conn, frame(0x88, &[]));
    assert_eq!(wire.said(conn), ["<close>"]);
    assert_eq!(wire.post(&sid, "42[\"a\"]"), (200, "ok".into()));
    assert_eq!(wire.heard(), ["a()"]);
}

/// E-10, D-3: the server closes right after the upgrade; what is queued leaves on the websocket.
#[test]
fn d3_closed_right_after_the_upgrade() {
    let mut wire = Wire::new();
    let (_, conn) = probed(&mut wire);
    wire.emit(0, "42[1]");
    wire.put(conn, text("5"));
    wire.hub.disconnect(wire.members[0], true);
    assert_eq!(wire.said(conn), ["42[1]", "41", "<close>"]);
    assert_eq!(wire.heard(), ["server namespace disconnect"]);
}

/// W-3: the reason of a decode error does not depend on whether a GET is waiting.
#[test]
fn w3_a_decode_error_on_polling() {
    for is_parked in [false, true] {
        let mut wire = Wire::new();
        let sid = wire.joined_polling();
        let parked = is_parked.then(|| wire.poll(&sid));
        let (status, _) = wire.post(&sid, "42[\"a\"]\x1e49");
        assert!(status == 200 || status == 400);
        assert_eq!(wire.heard(), ["a()", "error unknown packet type", "forced close"]);
        if let Some(parked) = parked {
            assert_eq!(wire.answer(parked), (200, "1".into()));
        }
        let poll = wire.poll(&sid);
        assert_eq!(wire.answer(poll).0, 400);
    }
}

/// V.1: a client that polls, then upgrades; B-20: `t` makes no difference.
#[test]
fn v1_polling_then_the_upgrade() {
    let mut wire = Wire::new();
    let (status, open) = wire.ask(&get("transport=polling&t=abc"));
    assert_eq!((status, &open[..8]), (200, "0{\"sid\":"));
    let sid = &open[9..29];
    let polling = format!("transport=polling&t=abd&sid={sid}");
    assert_eq!(wire.post(sid, "40{\"token\":\"x\"}"), (200, "ok".into()));
    let (status, connected) = wire.ask(&get(&polling));
    assert!(status == 200 && connected.starts_with("40{\"sid\":\""), "{connected}");
    let parked = wire.with_bytes(get(&polling.replace("abd", "abe")));
    let (conn, _) = wire.websocket(Some(sid));
    wire.put(conn, text("2probe"));
    assert_eq!(wire.said(conn), ["3probe"]);
    wire.at(132);
    assert_eq!(wire.answer(parked), (200, "6".into()));
    wire.put(conn, [text("5"), text("42[\"hello\"]")].concat());
    assert_eq!(wire.heard(), ["connect 0 {\"token\":\"x\"}", "hello()"]);
    wire.at(25_100);
    assert_eq!(wire.said(conn), ["2"]);
    wire.put(conn, text("3"));
    wire.at(50_200);
    assert_eq!(wire.said(conn), ["2"]);
}

/// V.2: a client on websocket alone.
#[test]
fn v2_websocket_only() {
    let mut wire = Wire::new();
    let (conn, open) = wire.websocket(None);
    assert!(open[0].starts_with("0{\"sid\":\"") && open[0].contains("\"upgrades\":[]"));
    wire.put(conn, text("40"));
    assert!(wire.said(conn)[0].starts_with("40{\"sid\":\""));
    wire.put(conn, [text("42[\"hello\",{\"a\":1}]"), text("421[\"ask\",\"x\"]")].concat());
    assert_eq!(wire.heard()[1..], ["hello({\"a\":1})", "ask(\"x\") #1"]);
    let session = wire.hub.session_of(wire.members[0]).unwrap();
    assert_eq!(wire.hub.acknowledge(session, "/", 1, b"\"answer\"", &[]), Ok(true));
    assert_eq!(wire.said(conn), ["431[\"answer\"]"]);
    assert_eq!(wire.hub.await_ack(wire.members[0], None, 5), Some(0));
    wire.put(conn, text("430[\"a\"]"));
    assert_eq!(wire.heard(), ["ack 5 \"a\""]);
    wire.accepts = false;
    wire.put(conn, text("40/admin,{\"token\":\"1\"}"));
    let refused = *wire.members.last().unwrap();
    wire.hub.refuse_member(refused, "invalid credentials", None);
    assert_eq!(wire.said(conn), ["44/admin,{\"message\":\"invalid credentials\"}"]);
    let event = text("451-[\"up\",{\"_placeholder\":true,\"num\":0}]");
    wire.put(conn, [event, frame(0x82, &[1, 2])].concat());
    assert!(wire.heard().last().unwrap().ends_with("[1, 2]"));
    wire.put(conn, text("41"));
    assert_eq!(wire.said(conn), [""; 0]);
    assert!(!wire.is_over(conn), "the connection stays");

    let conn = {
        wire.accepts = true;
        wire.joined()
    };
    let member = *wire.members.last().unwrap();
    wire.hub.disconnect(member, true);
    assert_eq!(wire.said(conn), ["41", "<close>"]);
}
