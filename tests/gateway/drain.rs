//! Drain: every client is told when to come back, nobody new is let in, and the process ends well.

use std::collections::BTreeSet;

use super::client::{Frame, Polling, Stream, WebSocket};
use super::reload::{crowd, many};
use super::rig::Gateway;

fn config(over: &str) -> String {
    let server = "[server]\nping_interval = \"10m\"\nshutdown_timeout = \"1m\"\n";
    let drain = format!("[drain]\nover = \"{over}\"\nretry_after = \"4s\"\n");
    format!("{server}{drain}[[namespace]]\nname = \"/\"\n[[namespace]]\nname = \"/two\"\n")
}

/// The delay that an event `drain` names.
fn delay(text: &str) -> u64 {
    let data = text.strip_prefix("42[\"drain\",").unwrap_or_else(|| panic!("{text}"));
    let data: serde_json::Value = serde_json::from_str(data.trim_end_matches(']')).expect("JSON");
    data["retry_after_ms"].as_u64().expect("a number")
}

#[test]
fn every_client_is_told_to_come_back() {
    let mut gateway = Gateway::start(&config("2s"));
    let mut clients = many(gateway.address, crowd());
    let mut polling = Polling::connect(gateway.address);
    let mut two = WebSocket::connect(gateway.address);
    two.join("/two");
    assert_eq!(gateway.get("/readyz").status, 200);
    gateway.post("/drain", "").expect(202);
    assert_eq!(gateway.get("/readyz").status, 503);
    assert_eq!(gateway.post("/drain", "").expect(202)["begun"], false, "it goes on");
    // Nobody new is let in, over either transport.
    for query in ["transport=polling", "transport=websocket"] {
        let mut stream = Stream::connect(gateway.address);
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let upgrade = if query.ends_with("websocket") { upgrade } else { "" };
        let head = format!("GET /socket.io/?EIO=4&{query} HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n");
        stream.write(head.as_bytes());
        let (status, head) = stream.head();
        assert_eq!(status, 503, "{head}");
        assert!(head.contains("\r\nretry-after: 4\r\n"), "{head}");
    }
    let mut delays = BTreeSet::new();
    for client in &mut clients {
        delays.insert(delay(&client.text()));
        // No DISCONNECT: with it the official client would stay away.
        assert!(matches!(client.rest()[..], [] | [Frame::Close]));
    }
    assert!(delays.iter().all(|delay| (2_000..=4_000).contains(delay)), "{delays:?}");
    assert!(delays.len() > 4, "{delays:?}");
    assert!(polling.packet().starts_with("42[\"drain\","));
    let told = two.rest();
    assert!(told.iter().any(|frame| matches!(frame, Frame::Text(text) if text.contains("drain"))));
    assert!(gateway.wait().success());
}

#[test]
fn a_gateway_without_clients_does_not_wait() {
    let mut gateway = Gateway::start(&config("1h"));
    gateway.signal("TERM");
    assert!(gateway.wait().success());
}

#[test]
fn a_second_signal_leaves_at_once() {
    let mut gateway = Gateway::start(&config("1h"));
    let _clients = many(gateway.address, 300);
    gateway.signal("TERM");
    gateway.wait_for_log("draining for 1h");
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(128 + 15));
}

#[test]
fn a_signal_after_a_request_lets_the_drain_go_on() {
    let mut gateway = Gateway::start(&config("1s"));
    let mut clients = many(gateway.address, 20);
    gateway.post("/drain", "").expect(202);
    gateway.signal("TERM");
    for client in &mut clients {
        delay(&client.text());
    }
    assert!(gateway.wait().success());
}

#[test]
fn an_interrupt_ends_sessions_without_a_drain() {
    let mut gateway = Gateway::start(&config("1h"));
    let mut client = WebSocket::connect(gateway.address);
    gateway.signal("INT");
    assert_eq!(client.rest(), [Frame::Close]);
    assert!(gateway.wait().success());
}
