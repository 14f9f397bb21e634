//! Requests that are no requests, or lie about where they end, or never do.

use std::time::Duration;

use crate::peer::{POLLING, WEBSOCKET, get, post, text, upgrade};
use crate::site::{Site, attack, usual};

const UNKNOWN_TRANSPORT: &str = r#"{"code":0,"message":"Transport unknown"}"#;
const UNKNOWN_SESSION: &str = r#"{"code":1,"message":"Session ID unknown"}"#;
const UNSUPPORTED: &str = r#"{"code":5,"message":"Unsupported protocol version"}"#;

/// Each request is answered so and the connection closes behind it.
fn each_is_last(site: &Site, table: &[(&str, u16)]) {
    for (request, status) in table {
        let mut peer = site.peer();
        peer.send(request);
        let response = peer.last_response();
        assert_eq!(response.status, *status, "{request:?}");
    }
    site.bad_requests(table.len() as u64);
}

#[test]
fn cve_2023_31125_unknown_transport_on_an_upgrade() {
    attack(usual, |site| {
        for transport in ["x", "", "webtransport", "constructor", "__proto__", "polling%00"] {
            let mut peer = site.peer();
            peer.send(upgrade(&format!("EIO=4&transport={transport}")));
            peer.last_response().is(400, "Transport unknown");
        }
        let response = site.peer().ask(get("EIO=4&transport=x"));
        response.is(400, UNKNOWN_TRANSPORT);
        site.peer().ask(get("EIO=4")).is(400, UNKNOWN_TRANSPORT);
        site.bad_requests(8);
    });
}

#[test]
fn sid_proto_and_other_names_that_objects_have() {
    attack(usual, |site| {
        let sid = site.polling();
        let wrong = [
            "__proto__".to_string(),
            "constructor".into(),
            String::new(),
            "..%2f..%2fetc%2fpasswd".into(),
            "AAAAAAAAAAAAAAAAAAAA".into(),
            "____________________".into(),
            // The address of a session that exists, with another secret.
            format!("{}AAAAAAAAAAAA", &sid[..8]),
            sid.to_lowercase(),
            format!("{sid}A"),
            sid[..19].into(),
        ];
        for sid in &wrong {
            let query = format!("{POLLING}&sid={sid}");
            site.peer().ask(get(&query)).is(400, UNKNOWN_SESSION);
            // The body has no place to go, so nothing behind it is read.
            let mut peer = site.peer();
            peer.send(post(&query, "40"));
            peer.last_response().is(400, UNKNOWN_SESSION);
            let mut peer = site.peer();
            peer.send(upgrade(&format!("{WEBSOCKET}&sid={sid}")));
            peer.last_response().is(400, "Session ID unknown");
        }
        site.bad_requests(3 * wrong.len() as u64);
        // The session that was guessed at is well.
        let query = format!("{POLLING}&sid={sid}");
        site.peer().ask(post(&query, "1")).is(200, "ok");
    });
}

#[test]
fn cve_2017_16031_ids_cannot_be_guessed() {
    attack(usual, |site| {
        let ids: Vec<String> = (0..200).map(|_| site.polling()).collect();
        // Of 20 characters the last 12 are the secret; every one of them counts.
        for at in 8..20 {
            let seen: std::collections::HashSet<u8> =
                ids.iter().map(|id| id.as_bytes()[at]).collect();
            assert!(seen.len() > 32, "character {at} takes {} values", seen.len());
            let mut other = ids[0].clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            site.peer().ask(get(&format!("{POLLING}&sid={other}"))).is(400, UNKNOWN_SESSION);
        }
        for id in &ids {
            site.peer().ask(post(&format!("{POLLING}&sid={id}"), "1")).is(200, "ok");
        }
    });
}

#[test]
fn eio_as_an_array_twice_or_not_at_all() {
    attack(usual, |site| {
        for query in ["EIO[]=4", "EIO%5B%5D=4", "EIO=4&EIO=3", "EIO=3", "EIO=", "EIO=4,4", "x=1"] {
            let query = format!("{query}&transport=polling");
            site.peer().ask(get(&query)).is(400, UNSUPPORTED);
        }
        // The last one counts.
        let response = site.peer().ask(get("EIO=3&EIO=4&transport=polling"));
        assert_eq!(response.status, 200);
        let query = format!("{POLLING}&sid={}", &response.body[9..29]);
        site.peer().ask(post(&query, "1")).is(200, "ok");
        site.bad_requests(7);
    });
}

#[test]
fn cve_2020_28481_no_origin_is_let_in_by_default() {
    attack(usual, |site| {
        let request = get(POLLING).replace("Host: h", "Host: h\r\nOrigin: http://evil");
        let response = site.peer().ask(request);
        assert_eq!(response.status, 200);
        assert!(!response.head.to_lowercase().contains("access-control"), "{}", response.head);
        let query = format!("{POLLING}&sid={}", &response.body[9..29]);
        site.peer().ask(post(&query, "1")).is(200, "ok");
        let options = format!("OPTIONS /socket.io/?{POLLING} HTTP/1.1\r\nHost: h\r\n\r\n");
        site.peer().ask(options).is(400, r#"{"code":2,"message":"Bad handshake method"}"#);
    });
}

#[test]
fn cve_2026_59725_octet_stream_post_is_answered() {
    attack(usual, |site| {
        for kind in ["application/octet-stream", "Application/Octet-Stream; charset=x"] {
            let query = site.joined_polling();
            let kind = format!("Host: h\r\nContent-Type: {kind}");
            let mut peer = site.peer();
            peer.send(post(&query, "\u{1}\u{2}").replace("Host: h", &kind));
            peer.last_response().is(400, "");
            site.peer().ask(get(&query)).is(400, UNKNOWN_SESSION);
        }
        site.bad_requests(4);
    });
}

#[test]
fn cve_2020_36048_too_large_a_body_costs_nothing() {
    attack(usual, |site| {
        let query = site.joined_polling();
        // Said at once, before a byte of it.
        for length in [1_000_001, u64::MAX] {
            let mut peer = site.peer();
            let head = post(&query, "");
            peer.send(head.replace("Content-Length: 0", &format!("Content-Length: {length}")));
            peer.last_response().is(413, "");
        }
        // A large one that is not too large, and another, and the session is still there.
        let packet = format!("42[\"x\",\"{}\"]", "y".repeat(999_990));
        site.peer().ask(post(&query, &packet)).is(200, "ok");
        site.peer().ask(post(&query, "1")).is(200, "ok");
        site.bad_requests(2);
    });
}

#[test]
fn after_413_more_chunks_are_not_read() {
    attack(usual, |site| {
        let query = site.joined_polling();
        let mut peer = site.peer();
        let head = post(&query, "").replace("Content-Length: 0", "Transfer-Encoding: chunked");
        peer.send(head);
        let chunk = [b"fffa\r\n".as_slice(), &[b'4'; 0xfffa], b"\r\n"].concat();
        // Without end: what comes behind the answer is thrown away, for a while.
        let start = std::time::Instant::now();
        while peer.push(&chunk).is_ok() {
            assert!(start.elapsed() < crate::peer::PATIENCE, "the server reads on");
        }
        // The answer may have been lost to the reset that so much unread input causes.
        if let Some(response) = peer.try_response() {
            response.is(413, "");
        }
        peer.is_closed();
        site.bad_requests(1);
        site.peer().ask(post(&query, "1")).is(200, "ok");
    });
}

#[test]
fn slow_loris_in_the_head() {
    let short = |options: &mut corecast::Options| {
        options.head_timeout = Duration::from_millis(300);
    };
    attack(short, |site| {
        let mut peers: Vec<_> = (0..50).map(|_| site.peer()).collect();
        for peer in &mut peers {
            peer.send("GET / HTTP/1.1\r\nHost: h\r\nX-a: ");
        }
        // A byte now and then does not help.
        while peers[0].push("b").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
        for peer in &mut peers[1..] {
            assert_eq!(peer.last_response().status, 408);
        }
        site.bad_requests(50);
        // And who says nothing at all is not answered.
        site.peer().is_closed();
        site.bad_requests(50);
    });
}

#[test]
fn slow_loris_in_the_body_and_a_post_without_end() {
    let short = |options: &mut corecast::Options| {
        options.body_timeout = Duration::from_millis(300);
    };
    attack(short, |site| {
        for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
            let query = site.joined_polling();
            let mut peer = site.peer();
            peer.send(post(&query, "").replace("Content-Length: 0", framing));
            peer.send(if framing.ends_with("0") { "4" } else { "1\r\n4\r\n" });
            assert_eq!(peer.last_response().status, 408);
            site.peer().ask(get(&query)).is(400, UNKNOWN_SESSION);
        }
        site.bad_requests(4);
    });
}

#[test]
fn smuggled_requests_get_one_answer_and_the_end() {
    let hidden = "GET /socket.io/socket.io.js HTTP/1.1\r\nHost: h\r\n\r\n";
    let fields = [
        ("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 6", "0\r\n\r\n"),
        ("Content-Length: 0\r\nContent-Length: 44", ""),
        ("Content-Length: 0, 44", ""),
        ("Content-Length: +0", ""),
        ("Content-Length: 0x0", ""),
        ("Content-Length: -1", ""),
        ("Content-Length : 0", ""),
        ("Content-Length: 99999999999999999999999", ""),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
        ("Transfer-Encoding: \u{b}chunked", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked", "0\r\n\r\n"),
        ("Transfer-Encoding:\r\n chunked", "0\r\n\r\n"),
        ("X: y\rTransfer-Encoding: chunked", ""),
        ("X: y\nTransfer-Encoding: chunked", ""),
        ("Host: g", ""),
    ];
    attack(usual, |site| {
        let mut requests = Vec::new();
        for (field, body) in fields {
            let head = format!("POST /socket.io/?{POLLING} HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n");
            requests.push(format!("{head}{body}{hidden}"));
        }
        // Bodies that nobody reads: what follows them must not be read either.
        let body = "Content-Length: 3\r\n\r\nabc";
        requests.push(format!("GET /nothing HTTP/1.1\r\nHost: h\r\n{body}{hidden}"));
        requests.push(format!("PUT /socket.io/?{POLLING} HTTP/1.1\r\nHost: h\r\n{body}{hidden}"));
        for request in &requests {
            let mut peer = site.peer();
            peer.send(request);
            let status = peer.last_response().status;
            assert!((400..500).contains(&status), "{status} to {request:?}");
        }
        let mut peer = site.peer();
        peer.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n{hidden}"
        ));
        assert_eq!(peer.last_response().status, 501);
        site.bad_requests(requests.len() as u64 + 1);
    });
}

#[test]
fn other_protocols_on_this_port() {
    let hello = "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}client random";
    let table = [
        (hello, 400),
        ("GET /\r\n", 400),
        ("GET / HTTP/0.9\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("SSH-2.0-OpenSSH_9.9\r\n", 400),
        ("\0\0\0\0\0\0\0\0", 400),
        ("EHLO mail\r\n", 400),
        ("*1\r\n$4\r\nPING\r\n", 400),
    ];
    attack(usual, |site| each_is_last(site, &table));
}

#[test]
fn huge_heads_and_thousands_of_headers() {
    let line = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: h\r\n";
    let many = format!("{line}{}\r\n", "a: b\r\n".repeat(101));
    let unfinished = format!("{line}{}", "a:\r\n".repeat(3_000));
    let long = format!("{line}X: {}\r\n\r\n", "y".repeat(20_000));
    let url = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "z".repeat(20_000));
    let method = format!("{} / HTTP/1.1\r\nHost: h\r\n\r\n", "M".repeat(20_000));
    let empty = "\r\n".repeat(10_000);
    attack(usual, |site| {
        for (request, status) in [
            (&many, 431),
            (&unfinished, 431),
            (&long, 431),
            (&empty, 431),
            (&url, 414),
            (&method, 501),
        ] {
            let mut peer = site.peer();
            // The answer comes before all of it was read, and may be lost to a reset.
            let _ = peer.push(request);
            if let Some(response) = peer.try_response() {
                assert_eq!(response.status, status, "{}", &request[..40]);
            }
            peer.is_closed();
        }
        site.bad_requests(6);
    });
}

#[test]
fn cve_2024_37890_a_handshake_with_too_many_headers() {
    attack(usual, |site| {
        let many = format!("Host: h\r\n{}", "a: b\r\n".repeat(2_000));
        let mut peer = site.peer();
        let _ = peer.push(upgrade(WEBSOCKET).replace("Host: h\r\n", &many));
        if let Some(response) = peer.try_response() {
            assert_eq!(response.status, 431);
        }
        peer.rest();
        site.bad_requests(1);
    });
}

#[test]
fn cve_2021_32640_handshakes_with_lists_of_spaces() {
    let spaces = " ".repeat(12_000);
    let fields = [
        format!("Sec-WebSocket-Protocol: a{spaces}b"),
        format!("Sec-WebSocket-Protocol: {}", "a,".repeat(5_000)),
        "Sec-WebSocket-Protocol: a, a".into(),
        "Sec-WebSocket-Protocol:".into(),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".into(),
        "Sec-WebSocket-Version: 13".into(),
        "Content-Length: 5".into(),
    ];
    attack(usual, |site| {
        for field in &fields {
            let mut peer = site.peer();
            peer.send(upgrade(WEBSOCKET).replace("Host: h", &format!("Host: h\r\n{field}")));
            let response = peer.last_response();
            assert_eq!(response.status, 400, "{field:.40}");
        }
        site.bad_requests(fields.len() as u64);
    });
}

#[test]
fn ghsa_5v72_extensions_named_like_properties_of_objects() {
    attack(usual, |site| {
        for name in ["constructor", "__proto__", "permessage-deflate; x=y; __proto__=z", ";;;,,,"] {
            let field = format!("Host: h\r\nSec-WebSocket-Extensions: {name}");
            let mut peer = site.peer();
            let response = peer.ask(upgrade(WEBSOCKET).replace("Host: h", &field));
            // No extension is agreed on, whatever was offered.
            assert_eq!(response.status, 101);
            assert!(!response.head.to_lowercase().contains("extensions"), "{}", response.head);
            assert!(peer.text().starts_with("0{"));
        }
        site.bad_requests(0);
    });
}

#[test]
fn cve_2022_41940_an_upgrade_to_something_else_and_a_reset() {
    attack(usual, |site| {
        for path in ["/", "/other", "/socket.io/?EIO=4&transport=websocket"] {
            for protocol in ["h2c", "websocket", "TLS/1.0"] {
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                     Upgrade: {protocol}\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
                );
                let mut peer = site.peer();
                let status = peer.ask(&request).status;
                assert!(status == 404 || status == 400, "{status}");
                peer.reset();
                let mut peer = site.peer();
                peer.send(&request);
                peer.reset();
            }
        }
        site.wait("18 bad requests or resets", |stats| stats.totals.bad_requests >= 9);
    });
}

#[test]
fn requests_in_a_pipeline_are_answered_in_order_and_one_at_a_time() {
    attack(usual, |site| {
        let query = site.joined_polling();
        let mut peer = site.peer();
        let count = 300;
        let all: String = (0..count)
            .map(|n| post(&query, &format!("42{n}[\"echo\",{n}]")) + &get(&query))
            .collect();
        peer.send(all);
        for number in 0..count {
            peer.response().is(200, "ok");
            peer.response().is(200, &format!("43{number}[{number}]"));
        }
        site.peer().ask(post(&query, "1")).is(200, "ok");
    });
}

#[test]
fn a_pipeline_whose_answers_are_not_read_is_held_by_tcp() {
    let short = |options: &mut corecast::Options| {
        options.head_timeout = Duration::from_millis(500);
    };
    attack(short, |site| {
        let mut peer = site.peer();
        peer.stream.set_nonblocking(true).unwrap();
        let request = "GET /socket.io/socket.io.js.map HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1_000);
        // Nothing is read here, so the server stops reading there.
        let start = std::time::Instant::now();
        while start.elapsed() < crate::peer::PATIENCE {
            match peer.push(&request) {
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
            site.check_healthy();
        }
        site.bad_requests(0);
    });
}

#[test]
fn invalid_frames_in_the_same_segment_as_the_upgrade() {
    attack(usual, |site| {
        let mut peer = site.peer();
        let mut bytes = upgrade(WEBSOCKET).into_bytes();
        bytes.extend(text("40"));
        bytes.extend([0xf1, 0x80, 0, 0, 0, 0]);
        peer.send(bytes);
        assert_eq!(peer.response().status, 101);
        peer.is_closed_with(1002);
        site.bad_frames(1);
    });
}
