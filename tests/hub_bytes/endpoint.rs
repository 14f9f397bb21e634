//! Raw websockets on paths of the application's own.

use corecast::hub::{Config, Endpoint, PeerEnd};
use corecast::options::SlowReader;

use crate::wire::{Wire, config, frame, text, unframe, upgrade};

const REQUEST: &str = "GET /echo?token=1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn wire(config: Config) -> Wire {
    let mut wire = Wire::with(config);
    let endpoint = |path: &str| Endpoint {
        path: path.into(),
        message_bytes_max: 2_000_000,
        fragments_max: 20_000,
        queue_bytes_max: 10_000,
    };
    assert_eq!(wire.hub.add_endpoint(endpoint("/other")), 0);
    assert_eq!(wire.hub.add_endpoint(endpoint("/echo")), 1);
    wire
}

fn open(wire: &mut Wire) -> u32 {
    let conn = wire.with_bytes(REQUEST);
    assert!(wire.got(conn).starts_with(b"HTTP/1.1 101 "));
    assert_eq!(wire.heard(), ["open 1 GET /echo?token=1 HTTP/1.1"]);
    conn
}

#[test]
fn messages_pass_and_the_close_is_answered() {
    let mut wire = wire(config());
    let conn = open(&mut wire);
    wire.put(conn, [text("4 is no type here"), frame(0x02, b"a"), frame(0x80, b"b")].concat());
    wire.put(conn, frame(0x89, b"?"));
    assert_eq!(wire.heard(), ["text 4 is no type here", "binary [97, 98]"]);
    let key = wire.sockets[0];
    assert!(wire.hub.is_open_on(key));
    assert!(wire.hub.send_message(key, true, b"said", true));
    assert!(wire.hub.send_message(key, false, b"bin", true));
    assert_eq!(wire.said(conn), ["<pong ?>", "said", "<[98, 105, 110]>"]);
    wire.put(conn, [frame(0x88, b"\x0f\xa1bye"), text("late")].concat());
    assert_eq!(wire.heard(), ["closed 4001 bye"]);
    assert_eq!(wire.said(conn), ["<close 4001>"]);
    assert!(wire.is_over(conn));
    assert!(!wire.hub.send_message(key, true, b"late", true) && !wire.hub.is_open_on(key));
}

#[test]
fn what_came_before_a_violation_is_answered_before_the_close() {
    let mut wire = wire(config());
    let conn = open(&mut wire);
    let key = wire.sockets[0];
    let bad = [text("first"), frame(0xa1, b"reserved bit"), text("never")].concat();
    wire.hub.handle_received(conn, &mut bad.clone());
    assert!(!wire.hub.is_open_on(key), "nothing more is read");
    assert!(wire.hub.send_message(key, true, b"answer", true));
    assert_eq!(wire.said(conn), ["answer", "<close 1002>"]);
    assert_eq!(wire.heard(), ["text first", "closed 1002 "]);
    assert_eq!(wire.hub.stats().bad_frames, 1);
}

#[test]
fn fragments_have_a_bound_of_their_own() {
    let mut wire = wire(config());
    for (pieces, said) in [(19_998, "binary [1, 1]"), (19_999, "closed 1008 ")] {
        let conn = open(&mut wire);
        let mut bytes = frame(0x02, b"\x01");
        (0..pieces).for_each(|_| bytes.extend(frame(0x00, b"")));
        bytes.extend(frame(0x80, b"\x01"));
        wire.put(conn, bytes);
        assert_eq!(wire.heard(), [said], "{pieces} pieces between the first and the last");
    }
}

#[test]
fn ends_are_told_once() {
    let mut wire = wire(config());
    let conn = open(&mut wire);
    wire.end(conn, PeerEnd::Eof);
    assert_eq!(wire.heard(), ["closed 1006 "]);
    let conn = open(&mut wire);
    let key = *wire.sockets.last().unwrap();
    wire.hub.close_message(key, 4000, "enough");
    wire.hub.close_message(key, 4001, "again");
    assert_eq!(wire.said(conn), ["<close 4000 enough>"]);
    assert_eq!(wire.heard(), ["closed 4000 enough"]);
    let conn = open(&mut wire);
    wire.hub.abort_endpoint(*wire.sockets.last().unwrap());
    assert!(wire.said(conn).is_empty());
    assert_eq!(wire.heard(), ["closed 1006 "]);
    let conn = open(&mut wire);
    wire.hub.shut_down(corecast::Reason::ServerShuttingDown);
    assert_eq!(wire.said(conn), ["<close 1001>"]);
    assert_eq!(wire.heard(), ["closed 1001 "]);
    assert!(wire.hub.handle_accepted(([127, 0, 0, 1], 9).into()).is_none());
}

#[test]
fn a_silent_peer_is_asked_and_then_given_up() {
    let mut wire = wire(config());
    let (silent, alive) = (open(&mut wire), open(&mut wire));
    wire.at(30_000);
    wire.put(alive, frame(0x8a, b""));
    wire.at(51_000);
    assert_eq!(wire.said(silent), ["<ping>"]);
    assert!(wire.said(alive).is_empty());
    wire.at(60_000);
    wire.put(alive, text("here"));
    wire.at(72_000);
    assert!(wire.is_over(silent) && !wire.is_over(alive));
    assert_eq!(wire.heard(), ["text here", "closed 1006 "]);
    assert_eq!(wire.hub.stats().ping_timeouts, 1);
    wire.at(112_000);
    assert_eq!(wire.said(alive), ["<ping>"], "it was silent for two intervals");
    wire.put(alive, frame(0x8a, b""));
    wire.at(135_000);
    assert!(!wire.is_over(alive));
}

#[test]
fn who_does_not_read_is_given_up_or_loses_messages() {
    for policy in [SlowReader::Disconnect, SlowReader::Drop] {
        let mut wire = wire(Config { slow_reader: policy, ..config() });
        let conn = open(&mut wire);
        let key = wire.sockets[0];
        wire.holds = true;
        assert!(wire.hub.send_message(key, false, &[0; 50_000], true), "one, however large");
        let goes_on = wire.hub.send_message(key, false, &[0; 100], true);
        assert_eq!(goes_on, policy == SlowReader::Drop);
        assert!(wire.hub.queued_on(key) < 60_000);
        wire.holds = false;
        wire.run();
        let (dropped, closed) = (wire.hub.stats().slow_dropped, wire.hub.stats().slow_closed);
        match policy {
            SlowReader::Drop => assert_eq!((dropped, closed, wire.is_over(conn)), (1, 0, false)),
            _ => {
                assert_eq!((dropped, closed, wire.is_over(conn)), (0, 1, true));
                assert_eq!(wire.heard(), ["closed 1006 "]);
            }
        }
    }
}

#[test]
fn requests_that_are_no_websocket() {
    let mut wire = wire(config());
    let plain = "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n";
    let conn = wire.with_bytes(plain);
    let reply = wire.reply(conn);
    assert_eq!((reply.status, reply.body.as_str()), (426, "Upgrade Required"));
    assert!(reply.head.contains("\r\nUpgrade: websocket\r\nConnection: Upgrade"), "RFC 9110");
    let near = REQUEST.replace("/echo?", "/echo/?");
    assert_eq!(wire.ask(&near).0, 404, "paths are exact");
    let keyless = REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", "short");
    assert_eq!(wire.ask(&keyless).0, 400);
    assert!(wire.heard().is_empty());
    let session = wire.with_bytes(upgrade("websocket", None));
    let bytes = wire.got(session);
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(unframe(&bytes[end..])[0].starts_with("0{"), "Socket.IO is still there");
}
