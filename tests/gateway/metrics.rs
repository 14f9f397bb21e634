//! What Prometheus finds, and what the dashboard asks for.

use std::collections::BTreeMap;

use crate::client::WebSocket;
use crate::rig::{Gateway, until};

const CHAT: &str =
    "[[namespace]]\nname = \"/\"\nroute = [{ event = \"say\", do = \"broadcast\" }]\n";

/// Samples by name and labels.
fn samples(gateway: &Gateway) -> BTreeMap<String, f64> {
    let reply = gateway.get("/metrics");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let lines = reply.body.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("name and value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(sample).collect()
}

/// The sum over all labels.
fn sum(samples: &BTreeMap<String, f64>, name: &str) -> f64 {
    let of = |key: &str| key.split('{').next() == Some(name);
    let found: Vec<f64> = samples.iter().filter(|(key, _)| of(key)).map(|(_, it)| *it).collect();
    assert!(!found.is_empty(), "{name} is not there");
    found.iter().sum()
}

#[test]
fn what_happens_is_counted() {
    let gateway = Gateway::start(CHAT);
    let mut sockets: Vec<WebSocket> = (0..3).map(|_| gateway.client()).collect();
    sockets[0].emit("say", "\"hello\"");
    sockets[0].emit("unknown", "");
    for socket in &mut sockets {
        assert_eq!(socket.event().0, "say");
    }
    gateway.post("/v1/emit", r#"{"event":"news"}"#).expect(202);
    gateway.post("/v1/join", r#"{"join":["lobby"]}"#).expect(200);
    gateway.post("/v1/emit", r#"{"event":"connect"}"#).problem(422, "reserved");
    for socket in &mut sockets {
        assert_eq!(socket.event().0, "news");
    }
    let expected = [
        ("corecast_connections", 3.0),
        ("corecast_sockets", 3.0),
        ("corecast_namespace_sockets", 3.0),
        ("corecast_events_received_total", 2.0),
        ("corecast_namespace_events_total", 2.0),
        ("corecast_queue_bytes", 0.0),
    ];
    until("the shards to say so", || {
        let samples = samples(&gateway);
        expected.iter().all(|(name, value)| sum(&samples, name) == *value)
            && sum(&samples, "corecast_packets_sent_total") >= 6.0
    });
    let samples = samples(&gateway);
    let of = |key: &str| samples.get(key).copied();
    assert_eq!(of(r#"corecast_commands_total{action="emit",outcome="done"}"#), Some(1.0));
    assert_eq!(of(r#"corecast_commands_total{action="emit",outcome="failed"}"#), Some(1.0));
    assert_eq!(of(r#"corecast_commands_total{action="join",outcome="done"}"#), Some(1.0));
    let labels = r#"method="POST",path="/v1/emit",status="202""#;
    let requests = format!("corecast_api_request_duration_seconds_count{{{labels}}}");
    assert_eq!(of(&requests), Some(1.0));
    // Every broadcast is timed, on every shard: the client's and the API's.
    let shards = samples.keys().filter(|key| key.starts_with("corecast_connections{")).count();
    assert_eq!(sum(&samples, "corecast_fan_out_delay_seconds_count"), 2.0 * shards as f64);
    assert!(sum(&samples, "corecast_fan_out_delay_seconds_sum") > 0.0);
    let ends = r#"corecast_fan_out_delay_seconds_bucket{shard="0",le="+Inf"}"#;
    assert_eq!(of(ends), Some(2.0), "{samples:?}");
    let delays = r#"corecast_namespace_fan_out_delay_seconds_count{namespace="/"}"#;
    assert_eq!(of(delays), Some(2.0 * shards as f64), "{samples:?}");
    // Three receivers of each, all of whom had read what came before.
    for queues in ["fan_out_queue_bytes", "namespace_fan_out_queue_bytes"] {
        assert_eq!(sum(&samples, &format!("corecast_{queues}_count")), 6.0, "{samples:?}");
        assert_eq!(sum(&samples, &format!("corecast_{queues}_sum")), 0.0, "{samples:?}");
    }
}

#[test]
fn the_format_is_negotiated() {
    let gateway = Gateway::start(CHAT);
    let accept = [("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    let reply = gateway.http().ask("GET", "/metrics", &accept, "");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(reply.header("content-type"), Some(kind));
    assert!(reply.body.ends_with("# EOF\n"), "{reply:?}");
    assert!(reply.body.contains("# UNIT corecast_fan_out_delay_seconds seconds\n"));
}

/// A client that does not read is found, and everything else goes on.
#[test]
fn a_slow_client_is_told() {
    let gateway = Gateway::start(CHAT);
    let mut lazy = gateway.session();
    let id = crate::rig::join_as(&mut lazy, "/", "").expect("it is let in");
    let text = "x".repeat(400_000);
    let body = format!(r#"{{"event":"much","args":["{text}"],"sockets":["{id}"]}}"#);
    let mut http = gateway.http();
    let slow = std::cell::RefCell::new(serde_json::Value::Null);
    until("the client to be behind", || {
        http.post("/v1/emit", &body).expect(202);
        // Looks at the queues are shown for a while.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let stats = gateway.get("/v1/stats").expect(200);
        slow.replace(stats["slow"][0].clone());
        let queued: u64 = stats["shards"]
            .as_array()
            .expect("shards")
            .iter()
            .map(|shard| shard["queued_bytes"].as_u64().expect("bytes"))
            .sum();
        slow.borrow()["queued_bytes"].as_u64().is_some_and(|it| it > 60_000 && it <= queued)
    });
    assert_eq!(slow.borrow()["socket"], id.as_str());
    assert_eq!(slow.borrow()["namespace"], "/");
    assert_eq!(slow.borrow()["address"], "127.0.0.1");
    assert!(sum(&samples(&gateway), "corecast_queue_bytes") > 60_000.0);
}

/// A gateway with a client that reads and one that does not, after broadcasts that were too much
/// for that one: `count` says so. The number of broadcasts, and both clients, the lazy one first.
fn overwhelmed(policy: &str, count: &str) -> (Gateway, u64, [WebSocket; 2]) {
    let server = "[server]\nmax_queue_bytes = \"256KiB\"\n";
    let gateway = Gateway::start(&format!("{server}slow_reader = \"{policy}\"\n{CHAT}"));
    let (lazy, mut reader) = (gateway.client(), gateway.client());
    let (mut http, text) = (gateway.http(), "x".repeat(100_000));
    let mut published = 0;
    until("the queue to be full", || {
        let body = format!(r#"{{"event":"much","args":[{published},"{text}"]}}"#);
        http.post("/v1/emit", &body).expect(202);
        let (_, args) = reader.event();
        assert_eq!(args[0], published, "whoever reads gets everything");
        published += 1;
        sum(&samples(&gateway), count) > 0.0
    });
    // Prometheus sees it coming: one was behind, one was not.
    let samples = samples(&gateway);
    let queues = |le: &str| {
        let name = "corecast_namespace_fan_out_queue_bytes_bucket";
        samples[&format!("{name}{{namespace=\"/\",le=\"{le}\"}}")]
    };
    assert!(queues("0") >= published as f64, "{samples:?}");
    assert!(queues("65536") < queues("+Inf"), "{samples:?}");
    (gateway, published, [lazy, reader])
}

#[test]
fn a_slow_reader_is_disconnected() {
    let (gateway, published, [lazy, _reader]) =
        overwhelmed("disconnect", "corecast_slow_reader_closed_total");
    until("it to be gone", || gateway.get("/v1/count").expect(200)["sockets"] == 1);
    assert!(lazy.stream.rest().len() < published as usize * 100_000);
    let samples = samples(&gateway);
    let closed = |name: &str| sum(&samples, name);
    assert_eq!(closed("corecast_slow_reader_closed_total"), 1.0);
    assert_eq!(closed("corecast_slow_reader_dropped_total"), 0.0);
}

#[test]
fn a_slow_reader_misses_what_it_has_no_room_for() {
    let (gateway, published, [mut lazy, _reader]) =
        overwhelmed("drop", "corecast_slow_reader_dropped_total");
    // Shards leave what they have counted before they go to sleep.
    let dropped = || sum(&samples(&gateway), "corecast_slow_reader_dropped_total") as u64;
    let mut before = 0;
    until("the count to stay", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        std::mem::replace(&mut before, dropped()) == before
    });
    let dropped = dropped();
    let kept: Vec<u64> =
        (dropped..published).map(|_| lazy.event().1[0].as_u64().expect("a number")).collect();
    assert!(kept.is_sorted() && kept[0] == 0, "in order, from the first: {kept:?}");
    assert!(kept.len() > 2 && dropped > 0, "{kept:?} of {published}");
    // It has caught up, and misses nothing any more.
    gateway.post("/v1/emit", r#"{"event":"much","args":["last"]}"#).expect(202);
    assert_eq!(lazy.event().1[0], "last");
    let samples = samples(&gateway);
    assert_eq!(sum(&samples, "corecast_slow_reader_dropped_total"), dropped as f64);
    assert_eq!(sum(&samples, "corecast_sockets"), 2.0, "it stays");
}
