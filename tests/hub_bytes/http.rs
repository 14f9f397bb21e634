//! Sections A and B, and the rows of W about requests.

use corecast::hub::{Flags, PeerEnd};

use crate::wire::{Wire, config, get, post, upgrade};

fn refusal(code: u8, message: &str) -> String {
    format!("{{\"code\":{code},\"message\":\"{message}\"}}")
}

const VOLATILE: Flags = Flags { volatile: true, compress: true, named: false, offset: None };

/// A.2 and A.3: which check, in which order, with which bytes. `S` is a polling session, `W` one
/// on a websocket.
#[test]
fn a2_a3_refusals() {
    let unknown = "AAAAAAAAAAAAAAAAAAAA";
    let table = [
        ("1", "GET", "EIO=4", 0, "Transport unknown"),
        ("1", "GET", "EIO=4&transport=webtransport", 0, "Transport unknown"),
        ("1", "GET", "EIO=4&transport=polling&transport=x", 0, "Transport unknown"),
        ("1 before 3a", "GET", "EIO=4&transport=x&sid=__proto__", 0, "Transport unknown"),
        ("3a", "GET", "EIO=4&transport=polling&sid=__proto__", 1, "Session ID unknown"),
        ("3a", "GET", "EIO=4&transport=polling&sid=", 1, "Session ID unknown"),
        ("3a", "POST", "EIO=4&transport=polling&sid=UNKNOWN", 1, "Session ID unknown"),
        ("3a before 4a", "PUT", "EIO=4&transport=polling&sid=UNKNOWN", 1, "Session ID unknown"),
        ("3b", "GET", "EIO=4&transport=websocket&sid=S", 3, "Bad request"),
        ("3b, B-23", "GET", "EIO=4&transport=polling&sid=W", 3, "Bad request"),
        ("3b, B-23", "POST", "EIO=4&transport=polling&sid=W", 3, "Bad request"),
        ("3c", "GET", "EIO=3&transport=polling&sid=S", 3, "Bad request"),
        ("4a", "POST", "EIO=4&transport=polling", 2, "Bad handshake method"),
        ("4a", "OPTIONS", "EIO=4&transport=polling", 2, "Bad handshake method"),
        ("4a before 5", "PUT", "transport=polling", 2, "Bad handshake method"),
        ("4b", "GET", "EIO=4&transport=websocket", 3, "Bad request"),
        ("4b before 5", "GET", "EIO=3&transport=websocket", 3, "Bad request"),
        ("5", "GET", "EIO=3&transport=polling", 5, "Unsupported protocol version"),
        ("5", "GET", "transport=polling", 5, "Unsupported protocol version"),
    ];
    for (row, method, query, code, message) in table {
        let mut wire = Wire::new();
        let polling = wire.polling();
        let (_, open) = wire.websocket(None);
        let query = query.replace("UNKNOWN", unknown);
        let query = query.replace("=S", &format!("={polling}"));
        let query = query.replace("=W", &format!("={}", &open[0][9..29]));
        let request = format!("{method} /socket.io/?{query} HTTP/1.1\r\nHost: h\r\n\r\n");
        let conn = wire.with_bytes(request);
        let reply = wire.reply(conn);
        let expected = (400, refusal(code, message));
        assert_eq!((reply.status, reply.body), expected, "row {row}: {method} {query}");
        assert!(reply.head.contains("Content-Type: application/json"), "{}", reply.head);
        // W-9.
        let length = format!("Content-Length: {}", refusal(code, message).len());
        assert!(reply.head.contains(&length), "{}", reply.head);
        assert!(!wire.is_over(conn), "the connection serves on");
        assert_eq!(wire.hub.gauges().sessions, 2, "row {row}: sessions are unharmed");
    }
}

/// A.3: a refused upgrade is text and the end of the connection.
#[test]
fn a3_refused_upgrades() {
    let table = [
        ("EIO=4&transport=x", "Transport unknown"),
        ("EIO=4&transport=websocket&sid=AAAAAAAAAAAAAAAAAAAA", "Session ID unknown"),
        ("EIO=3&transport=websocket", "Unsupported protocol version"),
    ];
    for (query, message) in table {
        let mut wire = Wire::new();
        let request = upgrade("websocket", None).replace("EIO=4&transport=websocket", query);
        let conn = wire.with_bytes(request);
        let expected = format!(
            "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-type: text/html\r\n\
             Content-Length: {}\r\n\r\n{message}",
            message.len()
        );
        assert_eq!(String::from_utf8(wire.got(conn)).unwrap(), expected);
        assert!(wire.is_over(conn));
        assert_eq!(wire.hub.gauges().sessions, 0);
    }
}

/// A.2 row 2 with W-8.
#[test]
fn a2_w8_control_bytes_in_a_header() {
    let mut wire = Wire::new();
    let request = get("transport=polling").replace("Host: h", "Host: h\r\nOrigin: a\x01b");
    let conn = wire.with_bytes(request);
    assert_eq!(wire.answer(conn), (400, String::new()));
    assert!(wire.is_over(conn));
}

#[test]
fn a4_open_packet() {
    let mut wire = Wire::new();
    let conn = wire.with_bytes(get("transport=polling"));
    let reply = wire.reply(conn);
    let sid = &reply.body[9..29];
    assert!(sid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{sid}");
    let rest = "\"pingInterval\":25000,\"pingTimeout\":20000,\"maxPayload\":1000000}";
    let expected = format!("0{{\"sid\":\"{sid}\",\"upgrades\":[\"websocket\"],{rest}");
    assert_eq!((reply.status, reply.body.as_str()), (200, expected.as_str()));
    let head = reply.head.to_ascii_lowercase();
    for field in [
        "content-type: text/plain; charset=utf-8",
        "cache-control: no-store",
        &format!("content-length: {}", expected.len()),
    ] {
        assert!(head.contains(field), "{field} in {head}");
    }
    let (_, open) = wire.websocket(None);
    let expected = format!("0{{\"sid\":\"{}\",\"upgrades\":[],{rest}", &open[0][9..29]);
    assert_eq!(open, [expected]);
    let mut wire = Wire::with(corecast::hub::Config { websocket: false, ..config() });
    let (_, body) = wire.ask(&get("transport=polling"));
    assert!(body.contains("\"upgrades\":[],"), "{body}");
}

/// B-1, B-2, B-9, W-4: every type in one POST, in order.
#[test]
fn b1_b2_b9_packets_of_a_post() {
    let mut wire = Wire::new();
    let sid = wire.polling();
    let body =
        "40\x1e3\x1e6\x1e42[\"a\",\"ö\"]\x1e451-[\"b\",{\"_placeholder\":true,\"num\":0}]\x1ebAQI=";
    let conn = wire.with_bytes(post(&sid, body));
    let reply = wire.reply(conn);
    assert_eq!((reply.status, reply.body.as_str()), (200, "ok"));
    let head = reply.head.to_ascii_lowercase();
    for field in ["content-type: text/html", "content-length: 2", "cache-control: no-store"] {
        assert!(head.contains(field), "{field} in {head}");
    }
    let expected = ["connect 0 ", "a(\"ö\")", "b({\"_placeholder\":true,\"num\":0}) [1, 2]"];
    assert_eq!(wire.heard(), expected);
}

/// B-2: attachments of the server.
#[test]
fn b2_binary_to_a_polling_client() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let text = b"451-[\"b\",{\"_placeholder\":true,\"num\":0}]";
    let attachment = bytes::Bytes::from_static(&[255]);
    assert!(wire.hub.emit(wire.members[0], text, &[attachment], Flags::default()));
    let conn = wire.poll(&sid);
    let expected = "451-[\"b\",{\"_placeholder\":true,\"num\":0}]\x1eb/w==";
    assert_eq!(wire.answer(conn), (200, expected.into()));
}

/// B-3, B-15, W-1: what came before the bad packet is delivered; the session ends.
#[test]
fn b3_b15_w1_bad_packets() {
    for bad in ["7", "abc", "", "é"] {
        let mut wire = Wire::new();
        let sid = wire.joined_polling();
        let parked = wire.poll(&sid);
        let (status, _) = wire.post(&sid, &format!("42[\"a\"]\x1e{bad}\x1e42[\"b\"]"));
        assert!(status == 400 || status == 200, "{bad:?}");
        assert_eq!(wire.heard(), ["a()", "parse error"], "{bad:?}");
        assert_eq!(wire.answer(parked), (200, "1".into()), "{bad:?}");
        assert_eq!(wire.post(&sid, "3").1, refusal(1, "Session ID unknown"));
        assert_eq!(wire.hub.gauges().sessions, 0);
    }
}

#[test]
fn b4_everything_that_waits_comes_at_once() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    wire.emit(0, "42[\"a\"]");
    wire.emit(0, "42[\"b\"]");
    let conn = wire.poll(&sid);
    assert_eq!(wire.answer(conn), (200, "42[\"a\"]\x1e42[\"b\"]".into()));
}

#[test]
fn b5_b6_a_get_waits() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let conn = wire.poll(&sid);
    wire.at(24_000);
    assert_eq!(wire.got(conn), b"");
    wire.at(25_100);
    let reply = wire.reply(conn);
    assert_eq!((reply.status, reply.body.as_str()), (200, "2"));
    let head = reply.head.to_ascii_lowercase();
    assert!(head.contains("content-type: text/plain; charset=utf-8"), "{head}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    assert!(head.contains("content-length: 1"), "{head}");
}

#[test]
fn b7_two_gets() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let first = wire.poll(&sid);
    let second = wire.poll(&sid);
    assert_eq!(wire.answer(first), (200, "1".into()));
    assert_eq!(wire.answer(second), (400, String::new()));
    assert_eq!(wire.heard(), ["transport error"]);
    let third = wire.poll(&sid);
    assert_eq!(wire.answer(third), (400, refusal(1, "Session ID unknown")));
}

#[test]
fn b8_a_parked_get_is_dropped() {
    for end in [PeerEnd::Eof, PeerEnd::Reset] {
        let mut wire = Wire::new();
        let sid = wire.joined_polling();
        let conn = wire.poll(&sid);
        wire.end(conn, end);
        assert_eq!(wire.heard(), ["transport error"]);
        assert!(wire.is_over(conn));
        assert_eq!(wire.hub.gauges().sessions, 0);
    }
}

#[test]
fn b10_two_posts() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let request = post(&sid, "42[\"a\"]");
    let first = wire.with_bytes(&request[..request.len() - 1]);
    assert_eq!(wire.post(&sid, "42[\"b\"]"), (400, String::new()));
    assert_eq!(wire.heard(), ["transport error"]);
    assert_eq!(wire.got(first), b"");
    assert!(wire.is_over(first));
}

/// B-11: by its length, and byte by byte in chunks; the session lives.
#[test]
fn b11_a_post_that_is_too_large() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let request = post(&sid, "").replace("Content-Length: 0", "Content-Length: 1000001");
    let conn = wire.with_bytes(request);
    assert_eq!(wire.answer(conn), (413, String::new()));
    assert!(wire.is_over(conn));
    let request = post(&sid, "").replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let conn = wire.with_bytes(request);
    wire.put(conn, "f4241\r\n");
    wire.put(conn, vec![b'4'; 500_000]);
    wire.put(conn, vec![b'4'; 500_001]);
    assert_eq!(wire.answer(conn), (413, String::new()));
    assert_eq!(wire.heard(), [""; 0]);
    assert_eq!(wire.post(&sid, "42[\"a\"]"), (200, "ok".into()));
    assert_eq!(wire.heard(), ["a()"]);
}

#[test]
fn b12_w17_octet_streams() {
    for kind in ["application/octet-stream", "Application/Octet-Stream; charset=x"] {
        let mut wire = Wire::new();
        let sid = wire.joined_polling();
        let request =
            post(&sid, "42[\"a\"]").replace("Host: h", &format!("Host: h\r\nContent-Type: {kind}"));
        assert_eq!(wire.ask(&request), (400, String::new()));
        assert_eq!(wire.heard(), ["transport error"]);
    }
}

#[test]
fn b13_a_post_is_dropped() {
    for end in [PeerEnd::Eof, PeerEnd::Reset] {
        let mut wire = Wire::new();
        let sid = wire.joined_polling();
        let request = post(&sid, "42[\"a\"]");
        let conn = wire.with_bytes(&request[..request.len() - 1]);
        wire.end(conn, end);
        assert_eq!(wire.heard(), ["transport error"]);
        assert!(wire.is_over(conn));
    }
}

/// B-14, U-3.
#[test]
fn b14_other_methods() {
    for method in ["PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"] {
        let mut wire = Wire::new();
        let sid = wire.joined_polling();
        let request = get(&format!("transport=polling&sid={sid}")).replacen("GET", method, 1);
        assert_eq!(wire.ask(&request), (500, String::new()), "{method}");
        assert_eq!(wire.post(&sid, "42[\"a\"]"), (200, "ok".into()));
        assert_eq!(wire.heard(), ["a()"]);
    }
}

/// B-16, W-2: data, then the end; and the end at once where a GET waits.
#[test]
fn b16_w2_close_by_the_server() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    wire.hub.disconnect(wire.members[0], true);
    wire.run();
    assert_eq!(wire.heard(), ["server namespace disconnect"]);
    let conn = wire.poll(&sid);
    assert_eq!(wire.answer(conn), (200, "41".into()));
    let conn = wire.poll(&sid);
    assert_eq!(wire.answer(conn), (200, "6\x1e1".into()));
    let conn = wire.poll(&sid);
    assert_eq!(wire.answer(conn).0, 400);
    assert_eq!(wire.hub.gauges().sessions, 0);

    let sid = wire.joined_polling();
    let conn = wire.poll(&sid);
    wire.hub.close_connection(wire.members[1]);
    assert_eq!(wire.answer(conn), (200, "1".into()));
    assert_eq!(wire.heard(), ["forced close"]);

    let sid = wire.joined_polling();
    wire.hub.close_connection(wire.members[2]);
    wire.run();
    wire.at(30_100);
    assert_eq!(wire.hub.gauges().sessions, 0, "nobody came for the end");
    let conn = wire.poll(&sid);
    assert_eq!(wire.answer(conn).0, 400);
}

#[test]
fn b17_close_by_the_client() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let parked = wire.poll(&sid);
    assert_eq!(wire.post(&sid, "42[\"a\"]\x1e1\x1e42[\"b\"]"), (200, "ok".into()));
    assert_eq!(wire.answer(parked), (200, "6".into()));
    assert_eq!(wire.heard(), ["a()", "transport close"]);
}

/// B-22, J-20: ready means a GET that waits, or no send in flight.
#[test]
fn b22_j20_volatile() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    assert!(wire.hub.emit(wire.members[0], b"42[\"lost\"]", &[], VOLATILE));
    let conn = wire.poll(&sid);
    assert_eq!(wire.got(conn), b"");
    assert!(wire.hub.emit(wire.members[0], b"42[\"kept\"]", &[], VOLATILE));
    assert_eq!(wire.answer(conn), (200, "42[\"kept\"]".into()));

    let conn = wire.joined();
    assert!(wire.hub.emit(wire.members[1], b"42[\"a\"]", &[], Flags::default()));
    let mut sends = Vec::new();
    wire.hub.flush(9, |conn, buf| sends.push((conn, buf)));
    assert!(wire.hub.emit(wire.members[1], b"42[\"lost\"]", &[], VOLATILE));
    wire.hub.handle_sent(conn, true);
    assert!(wire.hub.emit(wire.members[1], b"42[\"kept\"]", &[], VOLATILE));
    assert_eq!(wire.said(conn), ["42[\"kept\"]"]);
}

/// W-10, C-7: conditions of a websocket.
#[test]
fn w10_c7_websocket_conditions() {
    let table = [
        ("GET ", "POST ", 400),
        ("Sec-WebSocket-Key: dGhl", "Sec-WebSocket-Key: ", 400),
        ("Version: 13", "Version: 12", 400),
        ("Upgrade: websocket", "Upgrade: h2c", 400),
    ];
    for (from, to, status) in table {
        let mut wire = Wire::new();
        let conn = wire.with_bytes(upgrade("websocket", None).replacen(from, to, 1));
        assert_eq!(wire.answer(conn).0, status, "{to}");
        assert!(wire.is_over(conn), "{to}");
        assert_eq!(wire.hub.gauges().sessions, 0);
    }
    let mut wire = Wire::new();
    let sid = wire.polling();
    let conn = wire.with_bytes(upgrade("websocket", Some(&sid)).replacen("GET", "POST", 1));
    assert_eq!(wire.answer(conn).0, 405);
}

/// W-23.
#[test]
fn w23_strict_requests() {
    let base = get("transport=polling");
    let table = [
        (base.replace("Host: h\r\n", ""), 400),
        (base.replace("Host: h", "Host: h\r\nHost: h"), 400),
        (base.replace("/socket.io", "http://h/socket.io"), 200),
        (base.replace("polling", &format!("polling&t={}", "x".repeat(20_000))), 414),
        (base.replace("Host: h", &format!("Host: h\r\nX: {}", "x".repeat(20_000))), 431),
        (base.replace("HTTP/1.1", "HTTP/2.0"), 505),
        (base.replace("Host: h", "Host: h\r\nTransfer-Encoding: gzip, chunked"), 501),
        (base.replace("Host: h", "Host: h\r\nTransfer-Encoding:\r\nContent-Length: 1"), 400),
        (base.replace("/socket.io/", "/other/"), 404),
        (base.replace("/socket.io/", "/socket.io"), 404),
        (base.replace("/socket.io/", "/socket.io/any/thing"), 200),
    ];
    for (request, status) in table {
        let mut wire = Wire::new();
        assert_eq!(wire.ask(&request).0, status, "{:?}", &request[..60]);
    }
}

/// Requests behind one another on a connection, one by one, also byte by byte.
#[test]
fn b21_w23_pipelining() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    wire.emit(0, "42[\"x\"]");
    let requests = [
        post(&sid, "42[\"a\"]"),
        get(&format!("transport=polling&sid={sid}")),
        post(&sid, "42[\"b\"]").replace("Host: h", "Host: h\r\nConnection: close"),
    ];
    let bytes = requests.concat();
    for step in [1, 7, bytes.len()] {
        let conn = wire.open();
        bytes.as_bytes().chunks(step).for_each(|part| wire.put(conn, part));
        let got = String::from_utf8(wire.got(conn)).unwrap();
        let bodies: Vec<&str> = got.split("HTTP/1.1 200 OK").skip(1).collect();
        assert_eq!(bodies.len(), 3, "{got}");
        assert!(bodies[0].ends_with("\r\n\r\nok") && bodies[1].ends_with("42[\"x\"]"), "{got}");
        assert_eq!(wire.heard(), ["a()", "b()"]);
        assert!(wire.is_over(conn));
        wire.emit(0, "42[\"x\"]");
    }
}

#[test]
fn a_half_closed_pipeline_gets_all_its_answers() {
    let mut wire = Wire::new();
    let conn = wire.open();
    wire.holds = true;
    wire.put(conn, "GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3));
    wire.end(conn, PeerEnd::Eof);
    wire.holds = false;
    wire.run();
    let got = String::from_utf8(wire.got(conn)).unwrap();
    assert_eq!(got.matches("HTTP/1.1 404").count(), 3, "{got}");
    assert!(wire.is_over(conn));
}

/// A body that is not read is not the next request.
#[test]
fn w23_bodies_that_nobody_reads() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    wire.emit(0, "42[\"x\"]");
    let inner = post(&sid, "42[\"smuggled\"]");
    let length = format!("Host: h\r\nContent-Length: {}", inner.len());
    let unknown = post("AAAAAAAAAAAAAAAAAAAA", "").replace("\r\nContent-Length: 0", "");
    let outer = [
        unknown,
        get("transport=polling").replacen("GET", "PUT", 1),
        get(&format!("transport=polling&sid={sid}")).replacen("GET", "PUT", 1),
        get(&format!("transport=polling&sid={sid}")),
        get("transport=x"),
        "POST /other HTTP/1.1\r\nHost: h\r\n\r\n".into(),
    ];
    for request in outer {
        let conn = wire.with_bytes(request.replace("Host: h", &length) + &inner);
        let got = String::from_utf8(wire.got(conn)).unwrap();
        assert_eq!(got.matches("HTTP/1.1").count(), 1, "{request}{got}");
        assert!(got.contains("onnection: close"), "{got}");
        assert!(wire.is_over(conn));
        assert_eq!(wire.heard(), [""; 0]);
    }
}

#[test]
fn expect_continue() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let request = post(&sid, "42[\"a\"]").replace("Host: h", "Host: h\r\nExpect: 100-continue");
    let (head, body) = request.split_at(request.len() - 7);
    let conn = wire.with_bytes(head);
    assert_eq!(wire.got(conn), b"HTTP/1.1 100 Continue\r\n\r\n");
    wire.put(conn, body);
    assert_eq!(wire.answer(conn), (200, "ok".into()));
    assert!(!wire.is_over(conn));
}

/// A slow request, and a slow body.
#[test]
fn deadlines_of_requests() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let idle = wire.open();
    let head = wire.with_bytes("GET /socket.io/");
    let busy = wire.open();
    wire.at(59_000);
    assert!(!wire.is_over(idle) && !wire.is_over(head) && !wire.is_over(busy));
    wire.at(60_100);
    assert!(wire.is_over(idle) && wire.is_over(busy));
    assert_eq!(wire.got(idle), b"");
    assert_eq!(wire.answer(head), (408, String::new()));
    assert_eq!(wire.post(&sid, "3").0, 400, "the session went without a poll meanwhile");
}

/// A connection moves with all its bytes to the shard of the session.
#[test]
fn sessions_of_other_shards() {
    let mut wire = Wire::with(corecast::hub::Config { shards: 2, ..config() });
    let sid = "AAEAAAAAAAAAAAAAAAAA";
    let requests = post(sid, "42[\"a\"]") + &upgrade("websocket", Some(sid));
    wire.with_bytes(&requests);
    assert_eq!(wire.migrated, [(1, requests.into_bytes())]);
    let nowhere = get("transport=polling&sid=AAIAAAAAAAAAAAAAAAAA");
    assert_eq!(wire.ask(&nowhere), (400, refusal(1, "Session ID unknown")));
}

/// The answer to a GET that was parked is not read: the connection goes all the same.
#[test]
fn deadline_of_an_answer() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let conn = wire.poll(&sid);
    wire.hub.emit(wire.members[0], b"42[1]", &[], Flags::default());
    let mut sends = 0;
    wire.hub.flush(9, |_, _| sends += 1);
    assert_eq!(sends, 1);
    wire.at(61_000);
    assert!(wire.is_over(conn));
    assert_eq!(wire.heard(), ["ping timeout"]);
    assert_eq!(wire.hub.gauges(), Default::default());
}
