//! Connection-state recovery on whole servers.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use corecast::{Event, Recovery, Socket};
use serde_json::{Value, json};

use super::client::WebSocket;
use super::{on_cpus, serve};

/// How often the client of a socket has come; kept with the socket.
#[derive(Default)]
struct Visits(Cell<u32>);

async fn welcome(socket: Socket) {
    if socket.get::<Visits>().is_none() {
        socket.set(Visits::default());
    }
    let Some(visits) = socket.get::<Visits>() else { return };
    visits.0.set(visits.0.get() + 1);
    let _ = socket.emit("visit", (visits.0.get(), socket.recovered(), socket.rooms().len()));
    socket.join("room");
}

fn open(address: std::net::SocketAddr, auth: &Value) -> WebSocket {
    let mut client = WebSocket::shake(address, "").shaken();
    assert!(client.text().starts_with("0{"));
    client.send(&format!("40{auth}"));
    client
}

/// L-9: id, rooms and data follow the client to whichever shard the kernel gives it, and events
/// that other threads send meanwhile come once each, whether the old connection was ended or not.
#[test]
fn l9_a_client_comes_back_to_any_shard() {
    let mut options = on_cpus(2);
    options.connection_state_recovery = Some(Recovery::default());
    let site = serve(options, |io| {
        io.on_connect(welcome);
    });
    let mut auth = json!({});
    let mut old = Vec::new();
    for round in 1..30 {
        if round > 1 {
            assert!(site.io.to("room").emit("news", round).is_ok());
        }
        let mut client = open(site.address, &auth);
        let (mut visit, mut news, mut is_connected) = (None, 0, false);
        while visit.is_none() || (round > 1 && news == 0) {
            let text = client.text();
            let packet: Value = serde_json::from_str(&text[2..]).expect("JSON");
            if text.starts_with("40") {
                is_connected = true;
                if round > 1 {
                    assert_eq!([&packet["sid"], &packet["pid"]], [&auth["sid"], &auth["pid"]]);
                }
                (auth["sid"], auth["pid"]) = (packet["sid"].clone(), packet["pid"].clone());
                continue;
            }
            match packet[0].as_str() {
                Some("news") => {
                    assert_eq!(packet[1], json!(round), "each once, in order");
                    news += 1;
                }
                _ => visit = Some(packet.clone()),
            }
            auth["offset"] = packet.as_array().and_then(|it| it.last()).expect("an offset").clone();
        }
        assert!(is_connected);
        let visit = visit.expect("a visit");
        let rooms = if round > 1 { 2 } else { 1 };
        assert_eq!(json!([visit[1], visit[2], visit[3]]), json!([round, round > 1, rooms]));
        if round % 3 == 0 {
            // Its network has gone, but nobody has told the server.
            old.push(client);
        }
    }
    site.stop();
}

/// Sessions of many clients that do not come back are bounded, and nothing of them is left.
#[test]
fn l12_l13_many_that_do_not_come_back() {
    let mut options = on_cpus(2);
    let mut recovery = Recovery::default();
    recovery.max_disconnection_duration = Duration::from_millis(1_500);
    recovery.max_sessions = 100;
    options.connection_state_recovery = Some(recovery);
    let site = serve(options, |io| {
        io.on_connect(welcome);
    });
    for _ in 0..4 {
        let clients: Vec<WebSocket> = (0..100)
            .map(|_| open(site.address, &json!({ "pid": "AAAAAAAAAAAAAAAAAAAA" })))
            .collect();
        for mut client in clients {
            assert!(client.text().starts_with("40{"));
        }
        assert!(site.io.emit("news", "x".repeat(1_000)).is_ok());
    }
    site.until("the last has gone", |stats| stats.gauges.sockets == 0);
    assert!(site.io.stats().gauges.suspended <= 200);
    site.until("the last session has gone", |stats| {
        stats.totals.sessions == 400 && stats.gauges.suspended == 0
    });
    let mut last = WebSocket::connect(site.address);
    assert!(last.text().contains("visit"));
    assert_eq!(last.ask("echo", "1"), "[1]");
    site.stop();
}

/// L-7, L-14: the last argument of an event is its offset, unless it asks for an answer.
#[test]
fn l7_l14_offsets() {
    let mut options = on_cpus(1);
    options.connection_state_recovery = Some(Recovery::default());
    let site = serve(options, |io| {
        io.on("go", |socket: Socket, _: Event| async move {
            let _ = socket.emit("kept", 1);
            let _ = socket.server().emit("kept", 2);
            drop(socket.timeout(Duration::from_secs(60)).emit_with_ack("asked", 3));
            let _ = socket.volatile().emit("volatile", 4);
        });
    });
    let mut client = WebSocket::connect(site.address);
    client.emit("go", "");
    for n in [1, 2] {
        let (name, args) = client.event();
        assert_eq!((name.as_str(), args.len(), &args[0]), ("kept", 2, &json!(n)));
        assert!(args[1].is_string());
    }
    assert_eq!(client.text(), r#"420["asked",3]"#);
    drop(client);
    site.stop();
}

/// A value whose destructor uses its socket, and panics.
struct Fragile(Socket, Arc<AtomicUsize>);

impl Drop for Fragile {
    fn drop(&mut self) {
        let is_connected = self.0.is_connected();
        self.1.fetch_add(1, Ordering::SeqCst);
        assert!(is_connected, "a test's panic");
    }
}

/// L-12: destructors of what was kept with a socket that does not come back may use the server, and
/// panic.
#[test]
fn l12_destructors_of_what_was_kept() {
    let mut options = on_cpus(1);
    let mut recovery = Recovery::default();
    recovery.max_disconnection_duration = Duration::from_millis(200);
    options.connection_state_recovery = Some(recovery);
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    let site = serve(options, move |io| {
        io.on_connect(move |socket: Socket| {
            let fragile = Fragile(socket.clone(), count.clone());
            async move {
                socket.set_local(fragile);
            }
        });
    });
    drop(open(site.address, &json!({})));
    site.until("the session has gone", |stats| {
        stats.totals.sessions == 1 && stats.gauges.sessions + stats.gauges.suspended == 0
    });
    let mut last = WebSocket::connect(site.address);
    assert_eq!(last.ask("echo", "1"), "[1]");
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    site.stop();
}
