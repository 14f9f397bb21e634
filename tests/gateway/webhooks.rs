//! What a backend over HTTP is told and asked, and what becomes of it when the backend does not do
//! what it should.

use std::collections::{BTreeMap, HashSet};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::admission::connect_config;
use crate::backend::{Answer, Backend, Request, ok, status};
use crate::client::{Frame, WebSocket};
use crate::rig::{Gateway, join_as, until};

/// `ask` waits for the backend, `tell` does not, `here` never gets there.
pub const ROUTES: &str = r#"
[[namespace]]
name = "/"
[[namespace.route]]
event = "ask"
do = "webhook"
webhook = "app"
[[namespace.route]]
event = "tell"
do = "webhook"
webhook = "app"
wait = false
[[namespace.route]]
event = "here"
do = "reply"
ack = "here"
"#;

pub fn config(backend: &Backend, hook: &str) -> String {
    let url = backend.url();
    format!("{ROUTES}[[webhook]]\nname = \"app\"\nurl = \"{url}\"\nbackoff = \"10ms\"\n{hook}")
}

/// Keys of signatures.
const OLD: &str = "the old key of the tests";
const NEW: &str = "the new key of the tests";

/// Never opens.
const NO_BREAKER: &str = "breaker = { failures = 1000000, percent = 100 }\n";

/// How what the webhook was to be told has ended, by outcome.
fn outcomes(gateway: &Gateway) -> BTreeMap<String, u64> {
    let text = gateway.get("/metrics").body;
    let lines = text.lines().filter_map(|line| {
        let labels = line.strip_prefix("corecast_webhook_duration_seconds_count{")?;
        let (labels, count) = labels.split_once("} ")?;
        let outcome = labels.split("outcome=\"").nth(1)?.split('"').next()?;
        Some((outcome.to_owned(), count.parse().expect("a number")))
    });
    lines.collect()
}

pub fn total(gateway: &Gateway) -> u64 {
    outcomes(gateway).values().sum()
}

/// How many have ended so.
pub fn ended(gateway: &Gateway, outcome: &str) -> u64 {
    outcomes(gateway).get(outcome).copied().unwrap_or_default()
}

/// The sum of a metric.
pub fn metric(gateway: &Gateway, name: &str) -> u64 {
    let text = gateway.get("/metrics").body;
    let values = text.lines().filter_map(|line| {
        let labels = line.strip_prefix(name)?.strip_prefix('{')?;
        labels.split_once("} ")?.1.parse::<u64>().ok()
    });
    values.sum()
}

/// Whether an event in a request has this as its first argument.
fn has(request: &Request, argument: &str) -> bool {
    request.events().iter().any(|event| event["args"][0] == argument)
}

fn refusal(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    answer[0]["error"]["code"].as_str().unwrap_or_default().to_owned()
}

fn signature(key: &[u8], request: &Request) -> String {
    let (id, at) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    mac.update(format!("{id}.{at}.{}", request.body).as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[test]
fn an_event_is_a_signed_cloud_event_and_its_answer_the_ack() {
    let backend = Backend::start(|_| ok(json!([1, { "a": true }])));
    let raw = STANDARD.encode(b"a raw key of the tests");
    let secrets = format!("secret = \"a plain key of tests\"\nother_secret = \"whsec_{raw}\"\n");
    let gateway = Gateway::start(&config(&backend, &secrets));
    let mut ada = gateway.session();
    let id = ada.join("/");
    assert_eq!(ada.ask("ask", r#"1.50,{"ü":12345678901234567890123}"#), r#"[1,{"a":true}]"#);
    let request = backend.wait(1).remove(0);
    for (name, value) in [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-type", "io.corecast.event.v1"),
        ("ce-source", "corecast:/"),
        ("ce-subject", id.as_str()),
        ("webhook-id", request.id()),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    assert!(humantime::parse_rfc3339(request.header("ce-time")).is_ok(), "{request:?}");
    assert!(request.body.contains(r#""args":[1.50,{"ü":12345678901234567890123}]"#), "{request:?}");
    let body = request.json();
    let told = json!({ "type": "event", "id": request.id(), "namespace": "/", "socket": id,
        "user": null, "claims": null, "event": "ask" });
    for (name, value) in told.as_object().expect("an object") {
        assert_eq!(&body[name], value, "{name}");
    }
    let signatures: Vec<_> = request.header("webhook-signature").split(' ').collect();
    let keys = [&b"a plain key of tests"[..], b"a raw key of the tests"];
    assert_eq!(signatures, keys.map(|key| signature(key, &request)));
}

#[test]
fn attachments_pass_both_ways() {
    let bytes = "Content-Type: application/octet-stream\r\n";
    let backend = Backend::start(move |_| Answer::Says(200, bytes, "\u{1}\u{2}".into()));
    let gateway = Gateway::start(&config(&backend, ""));
    let mut ada = gateway.client();
    ada.send(r#"451-7["ask","x",{"_placeholder":true,"num":0}]"#);
    ada.stream.write(&[0x82, 0x83, 0, 0, 0, 0, 0, 0xff, 7]);
    assert_eq!(ada.text(), r#"461-7[{"_placeholder":true,"num":0}]"#);
    assert_eq!(ada.frame(), Frame::Binary(vec![1, 2]));
    let body = backend.wait(1)[0].json();
    assert_eq!(body["attachments"], json!([STANDARD.encode([0, 0xff, 7])]));
    assert_eq!(body["args"], json!(["x", { "_placeholder": true, "num": 0 }]));
}

#[test]
fn a_backend_that_lies_is_no_answer_and_nothing_goes_uncounted() {
    let other = Backend::start(|_| status(200));
    let backend = Backend::start(|_| ok(json!("well")));
    let limits = "timeout = \"250ms\"\nanswer_within = \"500ms\"\nmax_answer = \"8KiB\"\n";
    let gateway = Gateway::start(&config(&backend, &format!("{limits}{NO_BREAKER}")));
    let mut ada = gateway.client();
    let location: &'static str = format!("Location: {}\r\n", other.url()).leak();
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1]";
    let huge = Answer::Says(200, "", format!("\"{}\"", "x".repeat(10_000)));
    let lies: [(&str, Answer, &[&str]); 11] = [
        ("an error", status(500), &["backend_unavailable"]),
        ("another error", status(503), &["backend_unavailable"]),
        ("silence", Answer::Hangs, &["backend_unavailable", "backend_timeout"]),
        ("no HTTP", Answer::Bytes("what?\r\n\r\n"), &["backend_unavailable"]),
        ("half an answer", Answer::Bytes("HTTP/1.1 200 O"), &["backend_unavailable"]),
        ("a length that is none", Answer::Bytes(short), &["backend_unavailable"]),
        ("a redirect", Answer::Says(307, location, String::new()), &["backend_unavailable"]),
        ("no JSON", Answer::Says(200, "", "<html>".into()), &["backend_error"]),
        ("too much", huge, &["backend_error"]),
        ("no end", Answer::Endless, &["backend_error"]),
        ("no", status(404), &["backend_refused"]),
    ];
    for (count, (what, answer, codes)) in lies.into_iter().enumerate() {
        let before = backend.seen().len();
        backend.now(move |_| answer.clone());
        let code = refusal(&ada.ask("ask", "1"));
        assert!(codes.contains(&code.as_str()), "{what}: {code}");
        // All attempts were for one event.
        let ids: HashSet<_> =
            backend.seen()[before..].iter().map(|it| it.id().to_owned()).collect();
        assert_eq!(ids.len(), 1, "{what}");
        backend.now(|_| ok(json!("well")));
        assert_eq!(ada.ask("ask", ""), r#"["well"]"#, "after {what}");
        assert_eq!(total(&gateway), 2 * (count as u64 + 1), "{what}: {:?}", outcomes(&gateway));
    }
    let ended = outcomes(&gateway);
    assert_eq!(
        (ended["delivered"], ended["bad_answer"], ended["refused"]),
        (11, 3, 1),
        "{ended:?}"
    );
    assert!(other.seen().is_empty(), "a redirect was followed");
}

#[test]
fn what_fails_is_repeated_under_the_same_id() {
    let count = AtomicUsize::new(0);
    let backend = Backend::start(move |_| match count.fetch_add(1, Ordering::Relaxed) % 4 {
        0 => status(500),
        1 => Answer::Bytes(""),
        2 => Answer::Says(429, "Retry-After: 0\r\n", String::new()),
        _ => status(204),
    });
    let gateway = Gateway::start(&config(&backend, NO_BREAKER));
    let mut ada = gateway.client();
    assert_eq!(ada.ask("tell", "1"), r#"[{"ok":true}]"#);
    assert_eq!(ada.ask("ask", "2"), "[]");
    let seen = backend.wait(8);
    let told = |n: u64| seen.iter().filter(move |it| it.json()["args"][0] == n);
    for n in [1, 2] {
        let ids: HashSet<_> = told(n).map(|it| (it.id(), it.header("webhook-id"))).collect();
        assert_eq!((told(n).count(), ids.len()), (4, 1));
    }
    until("both to be counted", || outcomes(&gateway).get("delivered") == Some(&2));
}

#[test]
fn what_always_fails_is_given_up_and_counted() {
    let backend = Backend::start(|_| status(500));
    let gateway = Gateway::start(&config(&backend, &format!("retries = 2\n{NO_BREAKER}")));
    let mut ada = gateway.client();
    ada.emit("tell", "1");
    until("it to be given up", || outcomes(&gateway).get("failed") == Some(&1));
    assert_eq!(backend.seen().len(), 3);
    gateway.wait_for_log("not delivered");
    assert_eq!(ada.ask("here", ""), r#"["here"]"#);
}

#[test]
fn a_backend_that_is_down_is_left_alone_until_it_is_back() {
    let backend = Backend::start(|_| status(503));
    let breaker = "max_backoff = \"20ms\"\nbreaker = { failures = 3, open = \"300ms\" }\n";
    let gateway = Gateway::start(&config(&backend, breaker));
    let mut clients: Vec<_> = (0..6).map(|_| gateway.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask("tell", &n.to_string()), r#"[{"ok":true}]"#);
    }
    gateway.wait_for_log("the backend is down");
    // Nobody waits for it.
    let refused = (0..20).filter(|_| refusal(&clients[0].ask("ask", "")) == "backend_unavailable");
    assert_eq!(refused.count(), 20);
    assert_eq!(clients[0].ask("here", ""), r#"["here"]"#);
    backend.now(|_| status(200));
    gateway.wait_for_log("the backend is back");
    until("all to be delivered", || outcomes(&gateway).get("delivered") == Some(&6));
    let told: HashSet<_> = backend.events().iter().map(|it| it["args"].to_string()).collect();
    assert!((0..6).all(|n| told.contains(&format!("[{n}]"))), "{told:?}");
    assert_eq!(clients[0].ask("ask", ""), "[]");
}

#[test]
fn events_that_the_backend_cannot_bear_shut_out_nobody_else() {
    let unordered = "order = \"none\"\n";
    for (code, hook) in [(500, ""), (503, unordered), (200, unordered)] {
        let backend = Backend::start(move |request| match has(request, "poison") {
            true if code == 200 => Answer::Bytes(""),
            true => status(code),
            false => ok(json!("well")),
        });
        let gateway = Gateway::start(&config(&backend, hook));
        // What only breaks connections, or looks as if nobody was there, is one client's.
        let count = if code == 500 { 12 } else { 1 };
        let mut eves: Vec<_> = (0..count).map(|_| gateway.client()).collect();
        for n in 0..12 {
            eves[n % count].emit("tell", "\"poison\"");
        }
        backend.until(|seen| seen.iter().filter(|it| has(it, "poison")).count() >= 12);
        let mut bob = gateway.client();
        for _ in 0..10 {
            assert_eq!(bob.ask("ask", "\"please\""), r#"["well"]"#, "{code}");
        }
        bob.emit("tell", "\"by the way\"");
        backend.until(|seen| seen.iter().any(|it| has(it, "by the way")));
    }
}

#[test]
fn what_waits_is_held_back_while_a_backend_fails() {
    let backend = Backend::start(|request| match request.json()["event"] == "ask" {
        true => ok(json!("well")),
        false => status(500),
    });
    let tries = "retries = 1000\nmax_backoff = \"10ms\"\n";
    let breaker = "breaker = { failures = 3, open = \"1h\" }\n";
    let gateway = Gateway::start(&config(&backend, &format!("{tries}{breaker}")));
    let mut clients: Vec<_> = (0..6).map(|_| gateway.client()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("tell", ""), r#"[{"ok":true}]"#);
    }
    gateway.wait_for_log("the backend fails");
    assert_eq!(metric(&gateway, "corecast_webhook_open"), 1);
    until("all to be held back", || metric(&gateway, "corecast_webhook_requests") == 0);
    backend.now(|_| ok(json!("well")));
    // Nobody waits behind what is held back.
    assert_eq!(refusal(&clients[0].ask("ask", "")), "backend_unavailable");
    // Others who wait are served, and that shows that it works.
    assert_eq!(gateway.client().ask("ask", ""), r#"["well"]"#);
    until("all to be delivered", || ended(&gateway, "delivered") == 7);
    assert_eq!(metric(&gateway, "corecast_webhook_open"), 0);
}

#[test]
fn the_log_says_why_something_is_lost() {
    let backend = Backend::start(|request| match request.json()["event"] == "ask" {
        true => status(500),
        false => status(404),
    });
    let gateway = Gateway::start(&config(&backend, "answer_within = \"100ms\"\n"));
    let mut ada = gateway.client();
    let code = refusal(&ada.ask("ask", ""));
    assert!(["backend_unavailable", "backend_timeout"].contains(&code.as_str()), "{code}");
    gateway.wait_for_log("status 500");
    let other = Gateway::start(&config(&backend, ""));
    other.client().ask("tell", "");
    other.wait_for_log("status 404");
    assert_eq!(outcomes(&other), BTreeMap::from([("not_taken".to_owned(), 1)]));
}

#[test]
fn a_backend_that_was_not_there_gets_what_has_waited() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let hook = "[[webhook]]\nname = \"app\"\nbackoff = \"10ms\"\nmax_backoff = \"50ms\"\n\
         breaker = { failures = 2, open = \"100ms\" }\n";
    let gateway = Gateway::start(&format!("{ROUTES}{hook}url = \"http://{address}/hook\"\n"));
    let mut ada = gateway.client();
    for n in 0..5 {
        assert_eq!(ada.ask("tell", &n.to_string()), r#"[{"ok":true}]"#);
    }
    gateway.wait_for_log("the backend is down");
    let backend = Backend::on(TcpListener::bind(address).expect("the port"), |_| status(200));
    backend.wait(5);
    let told: Vec<_> = backend.events().iter().map(|it| it["args"][0].clone()).collect();
    assert_eq!(told, [0, 1, 2, 3, 4]);
}

#[test]
fn a_key_is_changed_without_a_restart_and_what_waits_is_signed_with_the_new_one() {
    let backend = Backend::start(|_| status(503));
    let gateway = Gateway::start(&config(&backend, &format!("secret = \"{OLD}\"\n{NO_BREAKER}")));
    let mut ada = gateway.client();
    ada.emit("tell", "1");
    let first = backend.wait(1).remove(0);
    assert_eq!(first.header("webhook-signature"), signature(OLD.as_bytes(), &first));
    let both = format!("secret = \"{NEW}\"\nother_secret = \"{OLD}\"\nmax_backoff = \"10ms\"\n");
    gateway.configure(&config(&backend, &format!("{both}{NO_BREAKER}")));
    gateway.signal("HUP");
    gateway.wait_for_log("reloaded");
    let two = |it: &Request| it.header("webhook-signature").contains(' ');
    let seen = backend.until(|seen| seen.iter().any(two));
    let later = seen.iter().find(|it| two(it)).expect("it was seen");
    let signatures = [NEW, OLD].map(|key| signature(key.as_bytes(), later)).join(" ");
    assert_eq!((later.header("webhook-signature"), later.id()), (signatures.as_str(), first.id()));
    backend.now(|_| status(200));
    until("it to be delivered", || outcomes(&gateway).get("delivered") == Some(&1));
}

#[test]
fn events_share_a_request() {
    let backend = Backend::start(|_| ok(json!("alone")));
    let batch = "secret = \"the key of the tests\"\nbatch = { events = 4, within = \"1s\" }\n";
    let gateway = Gateway::start(&config(&backend, batch));
    let mut clients: Vec<_> = (0..3).map(|_| gateway.client()).collect();
    for n in 0..6 {
        clients[n % 3].ask("tell", &n.to_string());
    }
    // Who waits for an answer does not wait for others.
    assert_eq!(clients[0].ask("ask", "\"a\""), r#"["alone"]"#);
    let seen = backend.until(|seen| seen.iter().flat_map(Request::events).count() == 7);
    let kind = "application/cloudevents-batch+json";
    let batches: Vec<_> = seen.iter().filter(|it| it.header("content-type") == kind).collect();
    let sizes: Vec<_> = batches.iter().map(|it| it.events().len()).collect();
    assert_eq!(sizes, [4, 2]);
    for batch in &batches {
        assert_eq!(batch.header("webhook-signature"), signature(b"the key of the tests", batch));
        for event in batch.json().as_array().expect("a list") {
            assert_eq!(
                (&event["specversion"], &event["source"]),
                (&json!("1.0"), &json!("corecast:/"))
            );
            assert_eq!(event["type"], "io.corecast.event.v1");
            assert_eq!(
                (&event["id"], &event["subject"]),
                (&event["data"]["id"], &event["data"]["socket"])
            );
        }
    }
    let mut told: Vec<_> = batches.iter().flat_map(|it| it.events()).collect();
    told.sort_by_key(|event| event["args"][0].as_u64());
    assert_eq!(
        told.iter().map(|it| it["args"][0].as_u64()).collect::<Vec<_>>(),
        (0..6).map(Some).collect::<Vec<_>>()
    );
    until("all to be counted", || outcomes(&gateway).get("delivered") == Some(&7));
}

#[test]
fn one_event_that_a_backend_does_not_take_spoils_no_batch() {
    for (code, outcome) in [(400, "not_taken"), (500, "failed"), (503, "failed")] {
        let backend = Backend::start(move |request| match has(request, "poison") {
            true => status(code),
            false => status(200),
        });
        let batch = "batch = { events = 8, within = \"1h\" }\n";
        let tries = format!("retries = 1\nmax_backoff = \"5ms\"\n{NO_BREAKER}");
        let gateway = Gateway::start(&config(&backend, &format!("{batch}{tries}")));
        let mut clients: Vec<_> = (0..8).map(|_| gateway.client()).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.emit("tell", if n == 5 { "\"poison\"" } else { "\"good\"" });
        }
        until("all to be counted", || total(&gateway) == 8);
        let all = BTreeMap::from([("delivered".to_owned(), 7), (outcome.to_owned(), 1)]);
        assert_eq!(outcomes(&gateway), all, "{code}");
        gateway.wait_for_log(&format!("status {code}"));
    }
}

#[test]
fn no_more_requests_at_a_time_than_configured_and_connections_are_kept() {
    let backend = Backend::start(|_| Answer::Waits);
    let gateway = Gateway::start(&config(&backend, "concurrency = 2\n"));
    let mut clients: Vec<_> = (0..6).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.ask("tell", "");
    }
    for done in 0..6 {
        // Two wait, and a third comes only when one was let go.
        let waiting = backend.wait((done + 2).min(6)).len();
        assert_eq!(waiting, (done + 2).min(6));
        backend.release(1);
    }
    until("all to be delivered", || outcomes(&gateway).get("delivered") == Some(&6));
    assert_eq!(backend.load().1, 2);
    let before = backend.load().0;
    backend.now(|_| status(200));
    for _ in 0..20 {
        clients[0].ask("ask", "");
    }
    assert!(backend.load().0 < before + 10, "connections are not kept: {:?}", backend.load());
}

#[test]
fn what_one_client_sends_stays_in_order_whatever_fails() {
    let count = AtomicUsize::new(0);
    let backend = Backend::start(move |_| match count.fetch_add(1, Ordering::Relaxed) % 3 {
        0 => status(500),
        _ => status(200),
    });
    let tries = format!("max_backoff = \"10ms\"\nretries = 100\n{NO_BREAKER}");
    let gateway = Gateway::start(&config(&backend, &tries));
    let mut clients: Vec<_> = (0..3).map(|_| gateway.client()).collect();
    for n in 0..20 {
        for client in &mut clients {
            client.emit("tell", &n.to_string());
        }
    }
    until("all to be delivered", || outcomes(&gateway).get("delivered") == Some(&60));
    let mut told: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in backend.events() {
        let socket = event["socket"].as_str().expect("an id").to_owned();
        told.entry(socket).or_default().push(event["args"][0].as_u64().expect("a number"));
    }
    assert_eq!(told.len(), 3);
    assert!(told.values().all(|it| it.iter().copied().eq(0..20)), "{told:?}");
}

#[test]
fn every_event_ends_in_one_way_and_is_counted() {
    // By the last digit of what it is told.
    let backend = Backend::start(|request| match request.json()["args"][0].as_u64() {
        Some(n) if n % 5 == 0 => status(500),
        Some(n) if n % 5 == 1 => status(403),
        Some(n) if n % 5 == 2 => Answer::Bytes(""),
        _ => status(200),
    });
    let bounds = "queue = 40\nretries = 1\nmax_backoff = \"5ms\"\nanswer_within = \"1m\"\n";
    let gateway = Gateway::start(&config(&backend, &format!("{bounds}{NO_BREAKER}")));
    let mut clients: Vec<_> = (0..4).map(|_| gateway.client()).collect();
    for n in 0..100 {
        for client in &mut clients {
            match n % 10 {
                8 => client.send(&format!("42{n}[\"ask\",{n}]")),
                _ => client.emit("tell", &n.to_string()),
            }
        }
    }
    // 400 events, of which some found the queue full.
    until("all to be counted", || total(&gateway) == 400);
    let ended = outcomes(&gateway);
    let good = |it: &Request| it.json()["args"][0].as_u64().is_some_and(|n| n % 5 > 2);
    let good: HashSet<_> =
        backend.seen().iter().filter(|it| good(it)).map(|it| it.id().to_owned()).collect();
    assert_eq!(ended.get("delivered").copied().unwrap_or_default(), good.len() as u64, "{ended:?}");
    let dead =
        ["failed", "queue_full"].map(|outcome| ended.get(outcome).copied().unwrap_or_default());
    let refused = ended.get("not_taken").copied().unwrap_or_default();
    assert_eq!(good.len() as u64 + refused + dead[0] + dead[1], 400, "{ended:?}");
    assert!(dead[0] > 0 && refused > 0, "{ended:?}");
    assert_eq!(gateway.log().matches("panicked").count(), 0);
}

#[test]
fn a_full_queue_refuses_what_comes() {
    let backend = Backend::start(|_| Answer::Waits);
    let gateway = Gateway::start(&config(&backend, "concurrency = 1\nqueue = 2\n"));
    let mut ada = gateway.client();
    let answers: Vec<_> = (0..4).map(|n| ada.ask("tell", &n.to_string())).collect();
    let busy = answers.iter().filter(|answer| refusal(answer) == "backend_busy").count();
    // Not awaited events are acknowledged when they are queued, or that fails unseen.
    until("two to be refused", || outcomes(&gateway).get("queue_full") == Some(&2));
    assert!(busy <= 2, "{answers:?}");
    backend.release(2);
    until("the others to be delivered", || outcomes(&gateway).get("delivered") == Some(&2));
}

#[test]
fn one_client_does_not_take_the_places_of_all() {
    let backend = Backend::start(|_| Answer::Waits);
    let hook = "concurrency = 1\nqueue = 128\ntimeout = \"1m\"\n";
    for order in ["socket", "none"] {
        let gateway = Gateway::start(&config(&backend, &format!("{hook}order = \"{order}\"\n")));
        let mut eve = gateway.client();
        for _ in 0..200 {
            eve.emit("tell", "\"more\"");
        }
        until("she to have had her share", || total(&gateway) == 200 - 64);
        let mut bob = gateway.client();
        for _ in 0..10 {
            bob.emit("tell", "\"me\"");
        }
        assert_eq!(bob.ask("here", ""), r#"["here"]"#);
        until("all to wait", || metric(&gateway, "corecast_webhook_waiting") == 64 + 10);
        assert_eq!(ended(&gateway, "queue_full"), 200 - 64, "{order}");
        backend.release(64 + 10);
        until("all to be delivered", || ended(&gateway, "delivered") == 64 + 10);
    }
}

#[test]
fn a_queue_that_events_fill_has_places_for_those_who_wait_and_those_who_come() {
    let backend = Backend::start(|request| match request.json()["type"] == "event" {
        true => Answer::Waits,
        false => status(200),
    });
    let hook = "concurrency = 1\nqueue = 8\ntimeout = \"1m\"\nanswer_within = \"1m\"\n";
    let gateway = Gateway::start(&connect_config(&backend, hook));
    let mut ada = gateway.client();
    for _ in 0..10 {
        ada.emit("tell", "");
    }
    until("the queue to be full", || ended(&gateway, "queue_full") == 2);
    let waiting = || metric(&gateway, "corecast_webhook_waiting");
    ada.send("427[\"ask\"]");
    until("her question to wait", || waiting() == 9);
    let mut bob = gateway.session();
    bob.send("40");
    until("him to wait", || waiting() == 10);
    // With one request he is the next.
    backend.release(1);
    assert!(bob.text().starts_with("40"));
    backend.release(8);
    assert_eq!(ada.text(), "437[]");
    assert_eq!(ended(&gateway, "queue_full"), 2);
}

#[test]
fn a_backend_that_hangs_holds_up_nobody() {
    let backend = Backend::start(|_| Answer::Hangs);
    let slow = "timeout = \"30s\"\nanswer_within = \"30s\"\n";
    let gateway = Gateway::start(&config(&backend, slow));
    let mut ada = gateway.client();
    for _ in 0..50 {
        ada.send("4299[\"ask\",1]");
    }
    backend.wait(1);
    assert_eq!(ada.ask("here", ""), r#"["here"]"#);
    assert_eq!(gateway.client().ask("here", ""), r#"["here"]"#);
    assert_eq!(gateway.get("/healthz").status, 200);
}

#[test]
fn rooms_are_told_when_they_are_occupied_and_vacated() {
    let backend = Backend::start(|request| match request.json()["auth"]["room"].as_str() {
        Some(room) => ok(json!({ "rooms": [room], "user": "ada" })),
        None => status(204),
    });
    let on = "on = [\"connect\", \"room-occupied\", \"room-vacated\"]\n";
    let rooms = "[rooms]\npause = \"30ms\"\n";
    let gateway = Gateway::start(&format!("{}{rooms}", config(&backend, on)));
    let join = |room: &str| {
        let mut client = gateway.session();
        join_as(&mut client, "/", &json!({ "room": room }).to_string()).expect("it may come");
        client
    };
    let told = |seen: &[Request]| -> Vec<(String, String)> {
        let rooms = seen.iter().filter(|it| it.header("ce-type").starts_with("io.corecast.room."));
        let rooms = rooms.map(|it| (it.json(), it.header("ce-subject").to_owned()));
        rooms
            .map(|(body, subject)| (body["type"].as_str().expect("a type").into(), subject))
            .collect()
    };
    let mut first = join("lob by");
    backend.until(|seen| told(seen).len() == 1);
    let mut second = join("lob by");
    for client in [&mut first, &mut second] {
        client.send("41");
        assert_eq!(gateway.client().ask("here", ""), r#"["here"]"#);
    }
    let seen = backend.until(|seen| told(seen).len() == 2);
    let room = |what: &str| (what.to_owned(), "lob%20by".to_owned());
    assert_eq!(told(&seen), [room("room-occupied"), room("room-vacated")]);
    let room = seen.iter().find(|it| it.header("ce-type") == "io.corecast.room.vacated.v1");
    assert_eq!(room.expect("it was told").json()["room"], "lob by");
}

#[test]
fn what_waits_is_told_before_the_gateway_ends() {
    let backend = Backend::start(|_| status(200));
    let mut gateway = Gateway::start(&config(&backend, "on = [\"disconnect\"]\n"));
    let mut ada = gateway.client();
    ada.ask("tell", "1");
    gateway.signal("INT");
    assert!(gateway.wait().success());
    let seen = backend.wait(2);
    assert_eq!(seen[1].json()["reason"], "server shutting down");
}

#[test]
fn what_waits_for_a_webhook_that_a_reload_removes_is_told_all_the_same() {
    let backend = Backend::start(|_| Answer::Waits);
    let slow = "concurrency = 1\ntimeout = \"1m\"\n";
    let mut gateway = Gateway::start(&config(&backend, slow));
    let mut ada = gateway.client();
    for n in 0..3 {
        assert_eq!(ada.ask("tell", &n.to_string()), r#"[{"ok":true}]"#);
    }
    gateway.configure("[[namespace]]\nname = \"/\"\n");
    for reloads in 1..=2 {
        gateway.signal("HUP");
        until("a reload", || gateway.log().matches("reloaded").count() == reloads);
        assert_eq!(metric(&gateway, "corecast_webhook_waiting"), 3);
    }
    gateway.signal("INT");
    backend.release(3);
    assert!(gateway.wait().success());
    let told: Vec<_> = backend.events().iter().map(|event| event["args"][0].clone()).collect();
    assert_eq!(told, [0, 1, 2]);
}

#[test]
fn secrets_are_in_no_log() {
    let backend = Backend::start(|_| status(500));
    let hook = format!(
        "secret = \"hush-hush-hush-hush\"\nother_secret_file = \"/nowhere\"\nurl2 = \"{}\"\n",
        backend.url()
    );
    let error = Gateway::refuses(&config(&backend, &hook));
    assert!(!error.contains("hush-hush"), "{error}");
    let url = format!("{}?token=whisper", backend.url());
    let file = format!(
        "{ROUTES}[[webhook]]\nname = \"app\"\nurl = \"{url}\"\nsecret = \"hush-hush-hush-hush\"\n\
         retries = 0\n"
    );
    let folder = crate::rig::Folder::new();
    let gateway = Gateway::start_with(folder, &file, |command| {
        command.env("RUST_LOG", "trace").env("CORECAST_LOG_LEVEL", "trace");
    });
    let mut ada: WebSocket = gateway.client();
    ada.emit("tell", "1");
    gateway.wait_for_log("not delivered");
    let log = gateway.log();
    assert!(!log.contains("hush-hush") && !log.contains("whisper"), "{log}");
}

#[test]
fn what_cannot_work_is_refused_with_the_name_of_the_webhook() {
    for (hook, error) in [
        ("name = \"a\"\nurl = \"ftp://x/\"\n", "url: must begin with http"),
        ("name = \"a\"\nurl = \"http://u:p@x/\"\n", "url: must not have a user or password"),
        ("name = \"a\"\nurl = \"nonsense\"\n", "url: relative URL"),
        ("url = \"http://x/\"\n", "name: is missing"),
        ("name = \"a\"\nurl = \"http://x/\"\nconcurrency = 0\n", "concurrency: must be 1 or more"),
        ("name = \"a\"\nurl = \"http://x/\"\nsecret_file = \"/nowhere\"\n", "/nowhere"),
        (
            "name = \"a\"\nurl = \"http://x/\"\nother_secret = \"fifteen bytes!!\"\n",
            "other_secret: needs at least 16 bytes",
        ),
        (
            "name = \"a\"\nurl = \"http://x/\"\nsecret = \"whsec_YWJjZGVmZ2hpamtsbW5v\"\n",
            "].secret: needs at least 16 bytes",
        ),
        (
            "name = \"a\"\nurl = \"http://x/\"\nbreaker = { of = 1 }\n",
            "breaker.of: must be 2 to 128",
        ),
        ("name = \"a\"\nurl = \"https://x/\"\nca_file = \"/nowhere\"\n", "ca_file: /nowhere"),
    ] {
        let said = Gateway::refuses(&format!("[[webhook]]\n{hook}"));
        assert!(said.contains(error), "{error}: {said}");
    }
    let twice = "[[webhook]]\nname = \"a\"\nurl = \"http://x/\"\n".repeat(2);
    assert!(Gateway::refuses(&twice).contains("name: \"a\" is there twice"));
}
