//! What the application says about requests: CORS, cookie, headers, middleware, `allow_request`,
//! ids (F, A.2), and what a request that waits for it costs.

use std::sync::Arc;

use corecast::hub::hooks::{Ask, Hooks, Reply, Requests, Sent};
use corecast::hub::{Config, PeerEnd, directory::Directory};
use corecast::{Cookie, Cors, Headers, InitialPacket, Options, Origin};

use crate::wire::{Wire, config, get, post, reply, text, unframe, upgrade};

fn with(requests: Requests) -> Wire {
    Wire::with(Config { requests, ..config() })
}

fn hooked(hooks: Hooks) -> Wire {
    with(Requests { hooks, ..Requests::default() })
}

fn with_cors(cors: Cors) -> Wire {
    with(Requests { cors: Some(cors), ..Requests::default() })
}

fn cors(origin: impl Into<Origin>) -> Cors {
    let mut cors = Cors::default();
    cors.origin = origin.into();
    cors
}

fn from_a(request: &str) -> String {
    request.replacen("Host: h", "Host: h\r\nOrigin: http://a", 1)
}

fn fields(pairs: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::default();
    pairs.iter().for_each(|(name, value)| headers.append(name, *value));
    headers
}

fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

/// F-5: preflights below the path, whatever else is wrong with them.
#[test]
fn f5_preflights() {
    let mut options = cors("http://a");
    options.credentials = true;
    for target in ["/socket.io/?EIO=4&transport=polling", "/socket.io/?x=1", "/socket.io/x.js"] {
        let mut wire = with_cors(options.clone());
        let request = format!("OPTIONS {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let more = "Host: h\r\nAccess-Control-Request-Headers: x-a";
        let conn = wire.with_bytes(from_a(&request.replace("Host: h", more)));
        let reply = wire.reply(conn);
        assert_eq!((reply.status, reply.body.as_str()), (204, ""), "{target}");
        for (name, value) in [
            ("Access-Control-Allow-Origin", "http://a"),
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Allow-Methods", "GET,HEAD,PUT,PATCH,POST,DELETE"),
            ("Access-Control-Allow-Headers", "x-a"),
            ("Content-Length", "0"),
        ] {
            assert_eq!(values(&reply.head, name), [value], "{name}: {}", reply.head);
        }
        let vary = values(&reply.head, "Vary");
        assert_eq!(vary, ["Origin", "Access-Control-Request-Headers"]);
        assert!(!wire.is_over(conn), "the connection serves on");
    }
    let mut wire = with_cors(options.clone());
    assert_eq!(wire.ask("OPTIONS /other HTTP/1.1\r\nHost: h\r\n\r\n").0, 404);
    options.options_success_status = 200;
    let mut wire = with_cors(options.clone());
    let preflight = get("transport=polling").replacen("GET", "OPTIONS", 1);
    assert_eq!(wire.ask(&preflight), (200, String::new()));
    options.preflight_continue = true;
    let mut wire = with_cors(options);
    let conn = wire.with_bytes(preflight);
    let reply = wire.reply(conn);
    assert_eq!(reply.status, 400, "code 2");
    assert_eq!(values(&reply.head, "Access-Control-Allow-Origin"), ["http://a"]);
}

/// F-6: on GET, POST, errors, the 101 and the client's files, and nowhere else.
#[test]
fn f6_headers_of_other_answers() {
    let mut wire = with_cors(cors(true));
    let file = corecast::hub::StaticFile {
        content_type: "text/javascript",
        etag: "\"1\"".into(),
        body: bytes::Bytes::from_static(b"x"),
        coded: None,
    };
    wire.hub.add_file("/socket.io/socket.io.js", file.clone().into());
    wire.hub.add_file("/page", file.into());
    let sid = wire.polling();
    let file = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    let parked = wire.with_bytes(from_a(&get(&format!("transport=polling&sid={sid}"))));
    let table = [
        (get("transport=polling"), 200, true),
        (post(&sid, "40"), 200, true),
        (get("transport=x"), 400, true),
        (get("transport=polling&sid=x"), 400, true),
        (get(&format!("transport=polling&sid={sid}")).replacen("GET", "PUT", 1), 500, true),
        (upgrade("websocket", None), 101, true),
        (file("/socket.io/socket.io.js"), 200, true),
        (file("/page"), 200, false),
        (file("/nothing"), 404, false),
    ];
    for (request, status, has) in table {
        let conn = wire.with_bytes(from_a(&request));
        let bytes = wire.got(conn);
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let reply = reply(&bytes[..end]);
        assert_eq!(reply.status, status);
        let named = values(&reply.head, "Access-Control-Allow-Origin");
        assert_eq!(named, if has { &["http://a"][..] } else { &[] }, "{request}");
        assert_eq!(values(&reply.head, "Vary").len(), usize::from(has), "{request}");
    }
    let reply = wire.reply(parked);
    assert!(reply.body.starts_with("40{"), "answered by what the POST brought");
    assert_eq!(values(&reply.head, "Access-Control-Allow-Origin"), ["http://a"]);
}

/// F-7, CVE-2020-28481: nothing of it without the option, or where it says no.
#[test]
fn f7_no_cors() {
    for mut wire in [Wire::new(), with_cors(cors(false))] {
        let preflight = get("transport=polling").replacen("GET", "OPTIONS", 1);
        let (status, body) = wire.ask(&from_a(&preflight));
        assert_eq!((status, body.contains("\"code\":2")), (400, true), "{body}");
        let conn = wire.with_bytes(from_a(&get("transport=polling")));
        let reply = wire.reply(conn);
        assert_eq!(reply.status, 200);
        assert!(!reply.head.to_lowercase().contains("access-control"), "{}", reply.head);
        assert!(values(&reply.head, "Vary").is_empty());
    }
}

/// F-4: a function is asked once per request, before anything else, and may refuse.
#[test]
fn f4_origin_by_function() {
    let ask = || with_cors(cors(Origin::ask(|_| async { Ok(Origin::Any) })));
    let mut wire = ask();
    let conn = wire.with_bytes(from_a(&get("transport=polling")));
    assert_eq!(wire.heard(), ["Origin? GET /socket.io/?EIO=4&transport=polling"]);
    assert_eq!(wire.got(conn), b"", "the request waits");
    assert!(wire.reply_with(Reply::Origin(true.into())));
    let reply = wire.reply(conn);
    assert_eq!(reply.status, 200);
    assert_eq!(values(&reply.head, "Access-Control-Allow-Origin"), ["http://a"]);
    assert_eq!(wire.heard(), [""; 0], "asked once");

    let conn = wire.with_bytes(from_a(&get("transport=polling").replacen("GET", "OPTIONS", 1)));
    wire.reply_with(Reply::Origin("http://b".into()));
    let reply = wire.reply(conn);
    assert_eq!(reply.status, 204);
    assert_eq!(values(&reply.head, "Access-Control-Allow-Origin"), ["http://b"]);

    let conn = wire.with_bytes(from_a(&get("transport=polling").replacen("GET", "OPTIONS", 1)));
    wire.reply_with(Reply::Origin(false.into()));
    assert_eq!(wire.answer(conn).0, 400, "as without CORS");

    let conn = wire.with_bytes(from_a(&get("transport=x")));
    wire.reply_with(Reply::Refused(Headers::default(), "no".into()));
    let expected = "{\"code\":3,\"message\":\"Bad request\"}";
    assert_eq!(wire.answer(conn), (400, expected.into()), "before check 1");
}

/// F-3: polling handshakes only.
#[test]
fn f3_cookie() {
    let cookie = Some(Cookie::default());
    let mut wire = with(Requests { cookie, ..Requests::default() });
    let conn = wire.with_bytes(get("transport=polling"));
    let reply = wire.reply(conn);
    let sid = reply.body[9..29].to_string();
    let expected = format!("io={sid}; Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(values(&reply.head, "Set-Cookie"), [expected]);
    for request in [post(&sid, "40"), get(&format!("transport=polling&sid={sid}"))] {
        let conn = wire.with_bytes(request);
        assert!(values(&wire.reply(conn).head, "Set-Cookie").is_empty());
    }
    let conn = wire.with_bytes(upgrade("websocket", None));
    let head = String::from_utf8_lossy(&wire.got(conn)).to_lowercase();
    assert!(head.starts_with("http/1.1 101") && !head.contains("set-cookie"), "{head}");
}

/// F-1, F-2: headers of handshakes and of every good answer; several cookies; none on errors.
#[test]
fn f1_f2_headers() {
    let mut wire = hooked(Hooks { headers: true, ..Hooks::default() });
    let own = || {
        fields(&[
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("cache-control", "private"),
            ("Content-Length", "999"),
        ])
    };
    let conn = wire.with_bytes(get("transport=polling"));
    assert_eq!(wire.heard(), ["Headers? GET /socket.io/?EIO=4&transport=polling"]);
    wire.reply_with(Reply::Headers(own()));
    let first = wire.reply(conn);
    let sid = first.body[9..29].to_string();
    let posted = wire.with_bytes(post(&sid, "40"));
    assert_eq!(wire.got(posted), b"", "the body is there, and waits as well");
    wire.reply_with(Reply::Headers(own()));
    let posted = wire.reply(posted);
    assert_eq!(posted.body, "ok");
    let polled = wire.poll(&sid);
    wire.reply_with(Reply::Headers(own()));
    let polled = wire.reply(polled);
    assert!(polled.body.starts_with("40"));
    for reply in [&first, &posted, &polled] {
        assert_eq!(values(&reply.head, "Set-Cookie"), ["a=1", "b=2"]);
        assert_eq!(values(&reply.head, "Cache-Control"), ["private"], "replaced");
        let length = reply.body.len().to_string();
        assert_eq!(values(&reply.head, "Content-Length"), [length], "ours");
    }
    let conn = wire.with_bytes(upgrade("websocket", None));
    wire.reply_with(Reply::Headers(own()));
    let got = wire.got(conn);
    let end = got.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = std::str::from_utf8(&got[..end]).unwrap();
    assert_eq!(values(head, "Set-Cookie"), ["a=1", "b=2"]);
    assert!(unframe(&got[end..])[0].starts_with("0{"));
    wire.heard();
    for request in [get("transport=x"), get("transport=polling&sid=x")] {
        assert_eq!(wire.ask(&request).0, 400);
    }
    assert_eq!(wire.heard(), [""; 0], "not asked about errors");

    let mut wire = hooked(Hooks { initial_headers: true, ..Hooks::default() });
    let conn = wire.with_bytes(get("transport=polling"));
    wire.reply_with(Reply::Headers(own()));
    let sid = wire.reply(conn).body[9..29].to_string();
    assert_eq!(wire.post(&sid, "40"), (200, "ok".into()), "asked about handshakes only");
}

/// F-8: middleware comes first, with its headers on whatever is answered.
#[test]
fn f8_middleware() {
    let hooks = Hooks { middleware: true, refusals: true, ..Hooks::default() };
    let mut wire = hooked(hooks);
    let conn = wire.with_bytes(get("transport=x"));
    assert_eq!(wire.heard(), ["Middleware? GET /socket.io/?EIO=4&transport=x"]);
    wire.reply_with(Reply::Headers(fields(&[("X-A", "1")])));
    let reply = wire.reply(conn);
    assert_eq!(reply.body, "{\"code\":0,\"message\":\"Transport unknown\"}");
    assert_eq!(values(&reply.head, "X-A"), ["1"]);
    assert_eq!(wire.heard(), ["refused 0 Transport unknown: Transport(\"x\")"]);

    let conn = wire.with_bytes(get("transport=polling") + &get("transport=x"));
    wire.reply_with(Reply::Refused(fields(&[("X-A", "1")]), "why".into()));
    let refused = wire.reply(conn);
    assert_eq!(refused.body, "{\"code\":3,\"message\":\"Bad request\"}");
    assert_eq!(values(&refused.head, "X-A"), ["1"]);
    let heard = wire.heard();
    assert_eq!(heard[1], "refused 3 Bad request: Middleware(\"why\")");
    assert!(heard[2].starts_with("Middleware? GET"), "the next of the pipeline: {heard:?}");
    let sent = Sent { status: 418, body: b"tea".to_vec() };
    wire.reply_with(Reply::Sent(fields(&[("Content-Type", "text/tea")]), sent));
    let sent = wire.reply(conn);
    assert_eq!((sent.status, sent.body.as_str()), (418, "tea"));
    assert_eq!(values(&sent.head, "Content-Type"), ["text/tea"]);
    assert!(!wire.is_over(conn));
    assert_eq!(wire.hub.gauges().sessions, 0);

    let conn = wire.with_bytes(upgrade("websocket", None));
    wire.reply_with(Reply::Sent(Headers::default(), Sent { status: 401, body: b"no".to_vec() }));
    assert_eq!(wire.answer(conn), (401, "no".into()));
    assert!(wire.is_over(conn));

    let conn = wire.with_bytes(upgrade("websocket", None));
    wire.reply_with(Reply::Headers(fields(&[("X-B", "2")])));
    let got = wire.got(conn);
    let head = String::from_utf8_lossy(&got);
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("\r\nX-B: 2\r\n"), "{head}");
}

/// A.2-4c, F-10: handshakes are asked about, after 4b and before 5, and nothing else.
#[test]
fn a2_4c_f10_allow_request() {
    let hooks = Hooks { allow: true, refusals: true, ..Hooks::default() };
    let mut wire = hooked(hooks);
    for (request, code) in [
        (get("transport=x"), 0),
        (get("transport=polling&sid=x"), 1),
        (get("transport=polling").replacen("GET", "PUT", 1), 2),
        (get("transport=websocket"), 3),
    ] {
        let (status, body) = wire.ask(&request);
        assert_eq!((status, body.contains(&format!("\"code\":{code}"))), (400, true), "{body}");
    }
    assert!(wire.asked.is_empty());
    let conn = wire.with_bytes(get("transport=polling").replace("EIO=4", "EIO=3"));
    wire.reply_with(Reply::Refused(Headers::default(), "say \"please\"".into()));
    let expected = "{\"code\":4,\"message\":\"say \\\"please\\\"\"}";
    assert_eq!(wire.answer(conn), (403, expected.into()), "4c before 5");
    let conn = wire.with_bytes(upgrade("websocket", None));
    wire.reply_with(Reply::Refused(Headers::default(), "go".into()));
    let expected = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-type: text/html\r\n\
                    Content-Length: 2\r\n\r\ngo";
    assert_eq!(String::from_utf8(wire.got(conn)).unwrap(), expected);
    assert!(wire.is_over(conn));
    assert_eq!(wire.heard().last().unwrap(), "refused 4 go: Forbidden(\"go\")");

    let conn = wire.with_bytes(get("transport=polling"));
    wire.at(19_000);
    assert!(wire.reply_with(Reply::Headers(Headers::default())), "it may take its time");
    let (status, body) = wire.answer(conn);
    assert_eq!(status, 200);
    let sid = body[9..29].to_string();
    wire.heard();
    assert_eq!(wire.post(&sid, "40"), (200, "ok".into()));
    let (socket, _) = wire.websocket(Some(&sid));
    wire.put(socket, text("2probe"));
    assert_eq!(wire.said(socket), ["3probe"]);
    assert!(wire.asked.is_empty(), "not for requests with an id");
}

/// Frames that come together with a handshake that is asked about are not lost (W-22).
#[test]
fn w22_frames_behind_a_handshake_that_waits() {
    let mut wire = hooked(Hooks { allow: true, ..Hooks::default() });
    let mut bytes = upgrade("websocket", None).into_bytes();
    bytes.extend(text("40"));
    let conn = wire.with_bytes(bytes);
    wire.put(conn, text("42[\"a\"]"));
    assert!(wire.reply_with(Reply::Headers(Headers::default())));
    let heard = wire.heard();
    assert_eq!(heard[1..], ["connect 0 ", "a()"]);
    wire.put(conn, text("42[\"b\"]"));
    assert_eq!(wire.heard(), ["b()"]);
}

/// A peer that goes while it is asked about; an answer that comes too late; a second answer.
#[test]
fn a_request_that_goes_while_it_waits() {
    for end in [PeerEnd::Eof, PeerEnd::Reset] {
        let mut wire = hooked(Hooks { allow: true, ..Hooks::default() });
        let conn = wire.with_bytes(get("transport=polling"));
        wire.heard();
        wire.end(conn, end);
        assert_eq!(wire.heard(), ["gone"]);
        assert!(wire.is_over(conn));
        assert!(!wire.reply_with(Reply::Headers(Headers::default())));
        assert_eq!(wire.hub.gauges(), Default::default());
    }
    let mut wire = hooked(Hooks { allow: true, ..Hooks::default() });
    let conn = wire.with_bytes(get("transport=polling"));
    let asked = wire.asked[0];
    wire.reply_with(Reply::Headers(Headers::default()));
    assert_eq!(wire.answer(conn).0, 200);
    wire.asked.push(asked);
    assert!(!wire.reply_with(Reply::Headers(Headers::default())), "answered already");
    assert_eq!(wire.hub.gauges().sessions, 1);
}

/// The deadline of hooks, and a hook that panics.
#[test]
fn hooks_that_fail() {
    let mut wire = hooked(Hooks { middleware: true, ..Hooks::default() });
    let conn = wire.with_bytes(get("transport=polling"));
    wire.heard();
    wire.at(20_100);
    assert_eq!(wire.answer(conn), (503, String::new()));
    assert!(wire.is_over(conn));
    assert_eq!(wire.heard(), ["gone"]);
    assert!(!wire.reply_with(Reply::Headers(Headers::default())));
    let conn = wire.with_bytes(get("transport=polling"));
    wire.reply_with(Reply::Failed);
    assert_eq!(wire.answer(conn), (500, String::new()));
    assert!(wire.is_over(conn));
    assert_eq!(wire.hub.gauges().sessions, 0);
}

/// While a request waits, the rest of what its peer sends is left to TCP.
#[test]
fn input_behind_a_request_that_waits_is_bounded() {
    let mut wire = hooked(Hooks { allow: true, ..Hooks::default() });
    let conn = wire.open();
    wire.hub.handle_received(conn, &mut get("transport=polling").into_bytes());
    let outputs = |wire: &mut Wire| {
        let mut found = 0;
        while let Some(output) = wire.hub.poll_output() {
            found += usize::from(matches!(output, corecast::hub::Output::ReceiveOnce(_)));
        }
        found
    };
    assert_eq!(outputs(&mut wire), 1, "to notice that the peer goes");
    wire.hub.handle_received(conn, &mut get("transport=polling").into_bytes());
    assert_eq!(outputs(&mut wire), 0);
}

fn with_ids() -> (Wire, Arc<Directory>) {
    let directory = Arc::new(Directory::default());
    let requests = Requests {
        directory: Some(directory.clone()),
        cookie: Some(Cookie::default()),
        hooks: Hooks { refusals: true, ..Hooks::default() },
        ..Requests::default()
    };
    (with(requests), directory)
}

/// A.2-6: ids of the application's own.
#[test]
fn a2_6_generated_ids() {
    let (mut wire, directory) = with_ids();
    let conn = wire.with_bytes(get("transport=polling"));
    assert_eq!(wire.asked[0].1, Ask::Id);
    wire.reply_with(Reply::Id("user:1".into()));
    let reply = wire.reply(conn);
    assert!(reply.body.starts_with("0{\"sid\":\"user:1\",\"upgrades\""), "{}", reply.body);
    assert!(values(&reply.head, "Set-Cookie")[0].starts_with("io=user%3A1;"), "{}", reply.head);
    assert_eq!(wire.post("user%3A1", "40"), (200, "ok".into()));
    let conn = wire.poll("user:1");
    let (_, body) = wire.answer(conn);
    assert!(body.starts_with("40{\"sid\":\"") && !body.contains("user:1"), "{body}");

    // Taken; not an id; an error.
    for (reply, context) in [
        (Reply::Id("user:1".into()), "session id is taken: user:1"),
        (Reply::Id("a b".into()), "no session id: \\\"a b\\\""),
        (Reply::Refused(Headers::default(), "database".into()), "database"),
    ] {
        wire.heard();
        let conn = wire.with_bytes(get("transport=polling"));
        wire.reply_with(reply);
        let expected = "{\"code\":3,\"message\":\"Bad request\"}";
        assert_eq!(wire.answer(conn), (400, expected.into()));
        let expected = format!("refused 3 Bad request: IdGeneration(\"{context}\")");
        assert_eq!(wire.heard()[1], expected);
    }
    assert_eq!(directory.len(), 1);
    let address = directory.find("user:1").unwrap().to_string();
    assert_eq!(wire.post(&address, "1").0, 400, "its own id is no way in");
    assert_eq!(wire.post("user:1", "1"), (200, "ok".into()));
    assert!(directory.is_empty(), "gone with its session");
    assert_eq!(wire.post("user:1", "1").0, 400);

    let conn = wire.with_bytes(upgrade("websocket", None));
    wire.reply_with(Reply::Id("user:1".into()));
    let got = String::from_utf8_lossy(&wire.got(conn)).into_owned();
    assert!(got.contains("{\"sid\":\"user:1\",\"upgrades\":[]"), "{got}");
    wire.end(conn, PeerEnd::Reset);
    assert!(directory.is_empty());
}

/// A.2-6: ids of other shards, found by the directory alone.
#[test]
fn a2_6_generated_ids_of_other_shards() {
    let (wire, directory) = with_ids();
    drop(wire);
    let hooks = Hooks { middleware: true, ..Hooks::default() };
    let requests = Requests { directory: Some(directory.clone()), hooks, ..Requests::default() };
    let mut wire = Wire::with(Config { shards: 2, requests, ..config() });
    let id = corecast::hub::id::Id { shard: 1, slot: 0, secret: [7; 9] };
    assert!(directory.claim("far"));
    directory.bind("far", id);
    let request = post("far", "40");
    wire.with_bytes(&request);
    assert_eq!(wire.migrated, [(1, request.into_bytes())]);
    assert!(wire.asked.is_empty(), "asked where the session lives, and only there");
}

/// What hooks say cannot end a line of a head, nor the head, nor be longer than is announced.
#[test]
fn what_hooks_say_stays_in_its_place() {
    let evil = "a\r\nX-Evil: 1\r\n\r\nHTTP/1.1 200 OK\r\n";
    let evil_fields = || fields(&[("X-A", evil), ("Content-Type", evil), ("X\r\nX-Evil", "1")]);
    let hooks = Hooks { middleware: true, allow: true, headers: true, ..Hooks::default() };
    let requests = [get("transport=polling"), upgrade("websocket", None)];
    for (request, refuses) in requests.iter().flat_map(|it| [(it, false), (it, true)]) {
        let mut wire = hooked(hooks);
        let conn = wire.with_bytes(request);
        wire.reply_with(Reply::Headers(evil_fields()));
        if refuses {
            wire.reply_with(Reply::Refused(evil_fields(), evil.into()));
        } else {
            wire.reply_with(Reply::Headers(evil_fields()));
            wire.reply_with(Reply::Headers(evil_fields()));
        }
        let bytes = wire.got(conn);
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        assert!(!head.lines().any(|line| line.starts_with("X-Evil")), "{head}");
        let length = values(&head, "Content-Length");
        match length[..] {
            [length] => assert_eq!(length.parse(), Ok(bytes.len() - end), "{head}"),
            _ => assert!(head.starts_with("HTTP/1.1 101"), "{head}"),
        }
    }
    // Statuses without a body have none, whatever the application gives.
    for status in [204, 304] {
        let mut wire = hooked(hooks);
        let conn = wire.with_bytes(get("transport=polling"));
        let sent = Sent { status, body: evil.into() };
        wire.reply_with(Reply::Sent(evil_fields(), sent));
        let reply = wire.reply(conn);
        assert_eq!((reply.status, reply.body.as_str()), (status, ""));
        wire.put(conn, get("transport=polling"));
        assert_eq!(wire.asked.len(), 1, "the next request is read");
    }
}

/// A.2-6: a session that is opened elsewhere while a request that names it is asked about. Its
/// connection is being read, so it stays where it is.
#[test]
fn a2_6_an_id_of_another_shard_that_comes_too_late() {
    let (wire, directory) = with_ids();
    drop(wire);
    let mut options = cors(true);
    options.origin = Origin::predicate(|_| true);
    let hooks = Hooks { middleware: true, headers: true, ..Hooks::default() };
    let requests = Requests {
        directory: Some(directory.clone()),
        hooks,
        cors: Some(options),
        ..Requests::default()
    };
    let mut wire = Wire::with(Config { shards: 2, requests, ..config() });
    let id = corecast::hub::id::Id { shard: 1, slot: 0, secret: [7; 9] };
    let of_far = get("transport=polling&sid=far");
    let (early, late) = (wire.with_bytes(&of_far), wire.with_bytes(&of_far));
    // One is at its second question, the other at its first, when the session comes into being.
    wire.reply_with(Reply::Origin(Origin::Any));
    assert!(directory.claim("far"));
    directory.bind("far", id);
    for _ in 0..3 {
        let Some((_, ask)) = wire.asked.last() else { break };
        wire.reply_with(match ask {
            Ask::Origin => Reply::Origin(Origin::Any),
            _ => Reply::Headers(Headers::default()),
        });
    }
    for conn in [early, late] {
        let body = "{\"code\":1,\"message\":\"Session ID unknown\"}";
        assert_eq!(wire.answer(conn), (400, body.into()));
    }
    assert!(wire.migrated.is_empty());
}

/// E-12, A.2: what the application is told of refusals.
#[test]
fn e12_connection_errors() {
    let mut wire = hooked(Hooks { refusals: true, ..Hooks::default() });
    let sid = wire.polling();
    let refused = |wire: &mut Wire, request: String| {
        let conn = wire.with_bytes(request);
        wire.got(conn);
        wire.heard().join("|")
    };
    let of_sid = |query: &str| get(&format!("{query}&sid={sid}"));
    for (request, expected) in [
        (get("transport=x"), "0 Transport unknown: Transport(\"x\")"),
        (get("a=b"), "0 Transport unknown: Transport(\"\")"),
        (get("transport=polling&sid=y"), "1 Session ID unknown: SessionId(\"y\")"),
        (
            get("transport=polling").replacen("GET", "PATCH", 1),
            "2 Bad handshake method: Method(\"PATCH\")",
        ),
        (get("transport=websocket"), "3 Bad request: TransportHandshake"),
        (
            of_sid("transport=websocket"),
            "3 Bad request: TransportMismatch { transport: \"websocket\", previous: \"polling\" }",
        ),
        (
            of_sid("transport=polling").replace("EIO=4", "EIO=3"),
            "3 Bad request: ProtocolMismatch { protocol: 3, previous: 4 }",
        ),
        (
            get("transport=polling").replace("EIO=4", "EIO=3"),
            "5 Unsupported protocol version: Protocol(3)",
        ),
        (upgrade("x", None), "0 Transport unknown: Transport(\"x\")"),
    ] {
        assert_eq!(refused(&mut wire, request), format!("refused {expected}"));
    }
}

/// A.1: `allowUpgrades` off is not announced, and a client that upgrades all the same is let.
#[test]
fn a1_allow_upgrades() {
    let mut wire = with(Requests { allow_upgrades: false, ..Requests::default() });
    let (_, body) = wire.ask(&get("transport=polling"));
    assert!(body.contains("\"upgrades\":[],"), "{body}");
    let (conn, _) = wire.websocket(Some(&body[9..29]));
    wire.put(conn, text("2probe"));
    assert_eq!(wire.said(conn), ["3probe"]);
}

/// A.1, A.4: a message behind the open packet: in its payload, in the next frame, before the `40`
/// that an old client gets unasked.
#[test]
fn a1_initial_packet() {
    let with = |initial_packet| {
        let initial_packet = Some(initial_packet);
        let requests = Requests { initial_packet, ..Requests::default() };
        Wire::with(Config { allow_eio3: true, requests, ..config() })
    };
    let message = || InitialPacket::Text("2[\"hi\",\"é\"]".into());
    let (status, body) = with(message()).ask(&get("transport=polling"));
    let (open, rest) = body.split_once('\x1e').unwrap();
    assert!(status == 200 && open.starts_with("0{\"sid\":\"") && open.ends_with('}'), "{body}");
    assert_eq!(rest, "42[\"hi\",\"é\"]");
    let mut wire = with(message());
    let sid = wire.polling();
    assert_eq!(wire.post(&sid, "40").0, 200, "a session like any other");

    let old = get("transport=polling").replace("EIO=4", "EIO=3");
    let (_, body) = with(message()).ask(&old);
    assert!(body.starts_with("118:0{"), "{body}");
    assert_eq!(&body[4 + 118..], "12:42[\"hi\",\"é\"]");

    let frames = |initial_packet, eio: &str| {
        let mut wire = with(initial_packet);
        let conn = wire.with_bytes(upgrade("websocket", None).replace("EIO=4", eio));
        let got = wire.got(conn);
        let end = got.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        unframe(&got[end..])[1..].to_vec()
    };
    assert_eq!(frames(message(), "EIO=4"), ["42[\"hi\",\"é\"]"]);
    assert_eq!(frames(message(), "EIO=3"), ["42[\"hi\",\"é\"]", "40"]);
    assert_eq!(frames(InitialPacket::Text(String::new()), "EIO=4"), ["4"]);

    let bytes = || InitialPacket::Binary(bytes::Bytes::from_static(&[1, 2, 3]));
    let (_, body) = with(bytes()).ask(&get("transport=polling"));
    assert_eq!(body.split_once('\x1e').unwrap().1, "bAQID");
    assert_eq!(frames(bytes(), "EIO=4"), ["<[1, 2, 3]>"]);
    assert_eq!(frames(bytes(), "EIO=3"), ["<[4, 1, 2, 3]>", "40"]);

    let refused = |initial_packet| {
        let mut options = Options::default();
        options.initial_packet = Some(initial_packet);
        options.limits().is_err()
    };
    assert!(!refused(message()) && !refused(bytes()));
    assert!(refused(InitialPacket::Text("2[]\x1e1".into())), "two messages");
    assert!(refused(InitialPacket::Text("x".repeat((1 << 20) + 1))));
    assert!(refused(InitialPacket::Binary(vec![0; (1 << 20) + 1].into())));
}

/// A.1: the path is a prefix; without its slash it takes in more.
#[test]
fn a1_paths() {
    let paths = ["/socket.io/", "/socket.io/x/y", "/socket.io", "/socket.iox", "/socket.i"];
    for (path, expected) in
        [("/socket.io/", [200, 200, 404, 404, 404]), ("/socket.io", [200, 200, 200, 200, 404])]
    {
        let mut wire = Wire::with(Config { path: path.into(), ..config() });
        let found =
            paths.map(|path| wire.ask(&get("transport=polling").replace("/socket.io/", path)).0);
        assert_eq!(found, expected, "{path}");
    }
}

/// F-12: an upgrade that is not ours is answered and ended.
#[test]
fn f12_upgrades_on_other_paths() {
    let mut wire = Wire::new();
    let conn = wire.with_bytes(upgrade("websocket", None).replace("/socket.io/", "/other/"));
    assert_eq!(wire.answer(conn).0, 404);
    assert!(wire.is_over(conn));
    let conn = wire.with_bytes("GET /other HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(wire.answer(conn).0, 404);
    assert!(!wire.is_over(conn));
}

/// B-21: a connection may be idle for a while, and a begun request has its own time.
#[test]
fn b21_keep_alive() {
    let mut wire = Wire::new();
    let conn = wire.open();
    wire.put(conn, get("transport=polling"));
    assert_eq!(wire.answer(conn).0, 200);
    wire.at(4_900);
    assert!(!wire.is_over(conn));
    wire.put(conn, "GET /socket.io/");
    wire.at(20_000);
    assert!(!wire.is_over(conn), "it sends");
    wire.put(conn, "?EIO=4&transport=polling HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(wire.answer(conn).0, 200);
    wire.at(25_200);
    assert!(wire.is_over(conn));
    assert_eq!(wire.got(conn), b"", "ended without a word");
}
