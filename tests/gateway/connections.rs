//! Connections to the API: what is answered when, and who keeps nobody out.

use std::io::Read;

use serde_json::json;

use crate::rig::{Gateway, Http, request, until};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const LINES: (&str, &str) = ("Content-Type", "application/x-ndjson");

/// A request that waits for its acknowledgement, and the number of that.
fn waiting(gateway: &Gateway, client: &mut crate::client::WebSocket) -> (Http, String) {
    let mut http = gateway.http();
    let body = json!({ "event": "there?", "ack": true, "timeout_ms": 300_000 }).to_string();
    http.write(request("POST", "/v1/emit", &[JSON], &body));
    let text = client.text();
    let id = text.strip_prefix("42").and_then(|it| it.split_once('[')).expect("an event").0;
    (http, id.to_owned())
}

#[test]
fn an_answer_does_not_wait_for_the_next_request() {
    let gateway = Gateway::start("");
    let mut http = gateway.http();
    let batch = r#"{"do":"emit","event":"e"}"#;
    for first in [
        request("GET", "/healthz", &[], ""),
        request("POST", "/v1/batch", &[LINES], batch),
        request("GET", "/openapi.json", &[], ""),
    ] {
        http.write([&first[..], b"GET /hea"].concat());
        assert_eq!(http.reply().status, 200);
        http.write("lthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        assert_eq!(http.reply().status, 200);
    }
}

#[test]
fn what_is_too_large_or_no_http_is_told() {
    let gateway = Gateway::start("");
    let block = "x".repeat(64 * 1_024);
    let mut http = gateway.http();
    http.write("POST /v1/emit HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n");
    http.write("Transfer-Encoding: chunked\r\n\r\n");
    for _ in 0..100 {
        http.write(format!("{:x}\r\n{block}\r\n", block.len()));
    }
    http.write("0\r\n\r\n");
    http.reply().problem(413, "1048576");
    let mut http = gateway.http();
    http.write(request("POST", "/v1/emit", &[JSON], &block.repeat(100)));
    http.reply().problem(413, "1048576");
    let many: String = (0..5_000).map(|at| format!("x-{at}: 1\r\n")).collect();
    for (head, status) in [
        (
            format!("GET /healthz HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", block.repeat(30)),
            &[431][..],
        ),
        (format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{many}\r\n"), &[431]),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", block.repeat(2)), &[414, 431]),
        ("GET /healthz\r\nHost: a\r\n\r\n".to_owned(), &[400]),
        ("\0\u{1}\u{2}\r\n\r\n".to_owned(), &[400]),
    ] {
        let mut http = gateway.http();
        // Behind an answer that is not lost.
        http.write([&request("GET", "/healthz", &[], "")[..], head.as_bytes()].concat());
        assert_eq!(http.reply().status, 200);
        let refused = http.reply();
        assert!(status.contains(&refused.status), "{head:.40}: {refused:?}");
    }
}

/// Answers that nobody reads are not made.
#[test]
fn who_does_not_read_is_not_served_on() {
    const ASKED: usize = 1_000;
    let gateway = Gateway::start("");
    let mut http = gateway.http();
    let asked = request("GET", "/openapi.json", &[], "");
    http.write(asked.repeat(ASKED));
    let answered = || {
        let metrics = gateway.get("/metrics").body;
        let name = "corecast_api_request_duration_seconds_count{";
        let line = metrics.lines().find(|it| it.starts_with(name) && it.contains("/openapi.json"));
        let count = line.and_then(|line| line.rsplit_once(' ')).map(|(_, count)| count.to_owned());
        count.map_or(0, |count| count.parse::<usize>().expect("a number"))
    };
    let (mut last, mut same) = (0, 0);
    until("the answers to stop", || {
        let now = answered();
        same = if now > 0 && now == last { same + 1 } else { 0 };
        last = now;
        same == 20
    });
    assert!(last < ASKED * 9 / 10, "{last} of {ASKED} were made for nobody");
    (0..ASKED).for_each(|_| assert_eq!(http.reply().status, 200));
}

#[test]
fn idle_connections_keep_nobody_out() {
    let gateway = Gateway::start("[api]\nmax_connections = 4\n");
    let mut ada = gateway.client();
    let (mut asking, id) = waiting(&gateway, &mut ada);
    let mut batch = gateway.http();
    batch.write("POST /v1/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n");
    batch.write("Content-Type: application/x-ndjson\r\n\r\n");
    assert_eq!(batch.head().0, 200);
    let mut idle: Vec<Http> = (0..60).map(|_| gateway.http()).collect();
    // Half of a request is none.
    idle.iter_mut().take(30).for_each(|http| http.write("GET /hea"));
    assert_eq!(gateway.get("/healthz").status, 200);
    assert_eq!(gateway.post("/v1/emit", r#"{"event":"e"}"#).status, 202);
    assert!(ada.text().contains("\"e\""));
    // The oldest has gone, the latest is served,
    let ended = idle[0].stream.read(&mut [0; 16]);
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert_eq!(idle[59].ask("GET", "/healthz", &[], "").status, 200);
    // and those with something under way are as they were.
    let line = r#"{"do":"emit","event":"late"}"#;
    batch.write(format!("{:x}\r\n{line}\r\n0\r\n\r\n", line.len()));
    assert!(batch.chunk().is_some());
    assert!(ada.text().contains("late"));
    ada.send(&format!("43{id}[1]"));
    assert_eq!(asking.reply().expect(200)["complete"], true);
    gateway.wait_for_log("api.max_connections (4)");
}

#[test]
fn probes_are_answered_while_all_are_at_work() {
    let gateway = Gateway::start("[api]\nmax_connections = 2\n");
    let mut ada = gateway.client();
    let [(mut first, id), _second] = [(); 2].map(|()| waiting(&gateway, &mut ada));
    let mut http = gateway.http();
    let refused = http.post("/v1/emit", r#"{"event":"e"}"#);
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.problem(503, "max_connections");
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(gateway.get(path).status, 200, "{path}");
    }
    ada.send(&format!("43{id}[1]"));
    first.reply().expect(200);
    assert_eq!(http.post("/v1/emit", r#"{"event":"e"}"#).status, 202);
}
