//! What Engine.IO 3, JSONP and compression add for those who mean harm: lengths that lie, payloads
//! of nothing, names of functions, bombs.

use std::time::Instant;

use corecast::Options;

use crate::peer::{Frame, PATIENCE, frame, get, post, upgrade};
use crate::site::{Site, attack, usual};

const POLLING: &str = "EIO=3&transport=polling";
const WEBSOCKET: &str = "EIO=3&transport=websocket";

fn old(options: &mut Options) {
    options.allow_eio3 = true;
}

/// An old polling session in `/`: the query of its requests.
fn polling(site: &Site) -> String {
    let body = site.peer().ask(get(POLLING)).body;
    let at = body.find("\"sid\":\"").expect("an open packet") + 7;
    let query = format!("{POLLING}&sid={}", &body[at..at + 20]);
    site.peer().ask(get(&query)).is(200, "2:40");
    query
}

fn octets(query: &str, body: &[u8]) -> Vec<u8> {
    let head = post(query, "").replace("\r\nContent-Length: 0\r\n\r\n", "");
    let fields = format!(
        "\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), fields.as_bytes(), body].concat()
}

#[test]
fn h18_lengths_that_are_huge_or_lie() {
    let huge = format!("{}:4", "9".repeat(400));
    let endless = "9".repeat(900_000);
    let bodies = [
        huge.as_str(),
        &endless,
        "18446744073709551617:4",
        "4294967298:40",
        "9999999999:4",
        "3:4",
        "1000000:40",
        "1:😀",
        "-1:4",
        "1e9:4",
        "Infinity:4",
        "NaN:4",
        ":",
        ":::",
        "0:x",
    ];
    let payloads: [&[u8]; 8] = [
        &[0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 255, b'4'],
        &[1, 0, 255],
        &[1, 2, 255, 4],
        &[2, 1, 255, b'2'],
        &[0, 255],
        &[0, 48, 255, b'2'],
        &[0],
        &[255; 64],
    ];
    attack(old, |site| {
        for body in bodies {
            let query = polling(site);
            site.peer().ask(post(&query, body)).is(400, "");
        }
        // Digits of a length for as long as the body may be.
        let long = [&[1][..], &[9; 900_000]].concat();
        for body in payloads.iter().copied().chain([long.as_slice()]) {
            let query = polling(site);
            let status = site.peer().ask(octets(&query, body)).status;
            // An item of no bytes is none (W-19), and does no harm.
            let is_none = body == [1, 0, 255];
            assert_eq!(status, if is_none { 200 } else { 400 }, "{body:?}");
            if is_none {
                site.peer().ask(post(&query, "1:1")).is(200, "ok");
            }
        }
        site.bad_packets((bodies.len() + payloads.len()) as u64);
    });
}

/// Half a million packets of nothing, a third of a million that say nothing: linear, so that the
/// others are served between them.
#[test]
fn payloads_of_nothing() {
    attack(old, |site| {
        let query = polling(site);
        let start = Instant::now();
        for _ in 0..5 {
            site.peer().ask(post(&query, &"0:".repeat(500_000))).is(200, "ok");
            site.peer().ask(octets(&query, &[0, 0, 255].repeat(333_333))).is(200, "ok");
            site.peer().ask(post(&query, &"1:6".repeat(333_333))).is(200, "ok");
            site.check_healthy();
        }
        assert!(start.elapsed() < PATIENCE);
        site.peer().ask(post(&query, "1:1")).is(200, "ok");
        site.bad_packets(0);
    });
}

/// Each ping is answered, so a peer that pings and never polls is one that does not read.
#[test]
fn h7_pings_that_nobody_fetches_the_answers_of() {
    attack(old, |site| {
        let query = polling(site);
        let mut is_over = false;
        for _ in 0..8 {
            let status = site.peer().ask(post(&query, &"1:2".repeat(333_333))).status;
            is_over |= status == 400;
        }
        assert!(is_over);
        site.moved("slow", 1, |stats| stats.totals.slow_closed);
    });
}

#[test]
fn w19_binary_frames_of_no_type() {
    attack(old, |site| {
        for bad in [&[][..], &[7], &[255; 100], b"4text"] {
            let mut peer = site.peer();
            peer.upgrade(WEBSOCKET);
            assert!(matches!(peer.frame(), Frame::Text(open) if open.starts_with("0{")));
            assert_eq!(peer.frame(), Frame::Text("40".into()));
            peer.send(frame(0x82, bad));
            peer.is_closed_with(1005);
        }
        site.bad_packets(4);
    });
}

#[test]
fn a_session_of_one_revision_under_the_other() {
    attack(old, |site| {
        let query = polling(site);
        let other = query.replace("EIO=3", "EIO=4");
        let bad = r#"{"code":3,"message":"Bad request"}"#;
        site.peer().ask(get(&other)).is(400, bad);
        let mut peer = site.peer();
        peer.send(post(&other, "40"));
        peer.last_response().is(400, bad);
        let mut peer = site.peer();
        peer.send(upgrade(&other.replace("polling", "websocket")));
        peer.last_response().is(400, "Bad request");
        site.bad_requests(3);
        site.peer().ask(post(&query, "1:1")).is(200, "ok");
    });
}

#[test]
fn b19_functions_with_long_names() {
    attack(usual, |site| {
        for (j, name) in [
            ("9".repeat(7_000), "9999999999"),
            ("alert(document.domain)//".into(), ""),
            ("0%5D(1);alert(1);%5B%5B".into(), "011"),
            ("%F0%9F%98%80%00%0A".into(), ""),
        ] {
            let response = site.peer().ask(get(&format!("EIO=4&transport=polling&j={j}")));
            assert_eq!(response.status, 200);
            let start = format!("___eio[{name}](\"0{{\\\"sid\\\":\\\"");
            assert!(response.body.starts_with(&start), "{}", response.body);
            let at = start.len();
            let query = format!("EIO=4&transport=polling&sid={}", &response.body[at..at + 20]);
            site.peer().ask(post(&query, "1")).is(200, "ok");
        }
    });
}

#[test]
fn b19_forms_that_are_none() {
    let many = "d=4&".repeat(240_000);
    let escapes = format!("d={}", "%5C".repeat(330_000));
    let forms = ["", "x", "d", "d=", "=4", "%64%3D4", &many, &escapes];
    attack(usual, |site| {
        for form in forms {
            let query = format!("{}&j=0", site.joined_polling());
            site.peer().ask(post(&query, form)).is(400, "");
        }
        site.bad_packets(forms.len() as u64);
    });
}

/// A body that says it is compressed is as large as it is, and no packet.
#[test]
fn b18_bombs_stay_small() {
    attack(usual, |site| {
        let zeros = vec![b'0'; 10_000_000];
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut bomb, &zeros).unwrap();
        let bomb = bomb.finish().unwrap();
        assert!(bomb.len() < 20_000);
        let query = site.joined_polling();
        let head = post(&query, "").replace("Content-Length: 0\r\n\r\n", "");
        let fields = format!("Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", bomb.len());
        let request = [head.as_bytes(), fields.as_bytes(), &bomb].concat();
        site.peer().ask(request).is(400, "");
        site.bad_packets(1);
    });
}
