//! Drain: every client is told when to come back, nobody new is let in, and the process ends well.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::client::{Frame, Polling, Stream, WebSocket};
use super::reload::{crowd, many};
use super::rig::{Gateway, join_as, request, until};

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
    // With 10,000 it takes half a minute where the server is not optimised.
    let mut clients = many(gateway.address, crowd(5_000));
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

/// A backend that broadcasts numbered news until the gateway has gone; says how many.
fn newsroom(api: SocketAddr) -> JoinHandle<u64> {
    let publish = move |number: u64| {
        let body = format!(r#"{{"event":"news","args":[{number}]}}"#);
        let headers = [("Content-Type", "application/json"), ("Connection", "close")];
        let mut stream = TcpStream::connect(api).ok()?;
        stream.write_all(&request("POST", "/v1/emit", &headers, &body)).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 202").then_some(())
    };
    thread::spawn(move || {
        let mut number = 0;
        while publish(number).is_some() {
            number += 1;
            thread::sleep(Duration::from_millis(100));
        }
        number
    })
}

/// Reads all that a client got amid the traffic: its answer, the news without a gap, when to come
/// back, the end. Says how many news it got.
fn told_amid_traffic(client: &mut WebSocket) -> u64 {
    let (mut news, mut told) = (0, BTreeSet::new());
    for frame in client.rest() {
        let Frame::Text(text) = frame else {
            assert_eq!(frame, Frame::Close);
            continue;
        };
        if text == format!("42[\"news\",{news}]") {
            news += 1;
        } else if text == "437[{\"ok\":true}]" {
            assert!(told.insert("answer"), "one answer");
        } else {
            delay(&text);
            assert!(told.insert("drain"), "told once");
        }
    }
    assert_eq!(told, BTreeSet::from(["answer", "drain"]), "after {news} news");
    news
}

/// While backends broadcast and clients ask, nothing of what was accepted before is lost.
#[test]
fn every_client_is_told_amid_traffic() {
    let route = "[[namespace.route]]\nevent = \"ask\"\ndo = \"drop\"\n";
    let config = config("4s").replacen("name = \"/\"\n", &format!("name = \"/\"\n{route}"), 1);
    let mut gateway = Gateway::start(&config);
    let mut clients = many(gateway.address, crowd(2_000));
    let newsroom = newsroom(gateway.api);
    for client in &mut clients {
        client.send("427[\"ask\"]");
    }
    until("all of them to be heard", || {
        let stats = gateway.get("/v1/stats").expect(200);
        let shards = stats["shards"].as_array().expect("shards");
        let events = shards.iter().map(|shard| shard["events"].as_u64().expect("a number"));
        events.sum::<u64>() == clients.len() as u64
    });
    gateway.signal("TERM");
    // All of them read at the same time, as clients do.
    let share = clients.len().div_ceil(4);
    let seen: Vec<u64> = thread::scope(|scope| {
        let readers = clients.chunks_mut(share).map(|share| {
            scope.spawn(|| share.iter_mut().map(told_amid_traffic).collect::<Vec<_>>())
        });
        let readers: Vec<_> = readers.collect();
        readers.into_iter().flat_map(|reader| reader.join().expect("all were told")).collect()
    });
    assert!(gateway.wait().success());
    let published = newsroom.join().expect("it goes on until the end");
    // Those that went late have got what was published while others went.
    let (least, most) = (seen.iter().min().copied(), seen.iter().max().copied());
    assert!(most > Some(5) && most <= Some(published), "{most:?} of {published}");
    assert!(least < most, "{least:?} {most:?}");
}

#[test]
fn clients_are_told_one_after_the_other() {
    let mut gateway = Gateway::start(&config("1h"));
    let _clients = many(gateway.address, 100);
    gateway.signal("TERM");
    let mut seen = BTreeSet::new();
    until("a few to be gone at a time", || {
        let count = gateway.get("/v1/count").expect(200)["sockets"].as_u64().expect("a number");
        assert!(count > 0, "all have gone, by way of {seen:?}");
        seen.insert(count);
        seen.len() > 5
    });
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(128 + 15));
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
    gateway.wait_for_log("by=\"SIGTERM\"");
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

/// A gateway that drains over two seconds, with a worker that gets all events and is told who goes.
fn with_worker(backends: &str) -> (Gateway, WebSocket) {
    let route = "[[namespace.route]]\nevent = \"*\"\ndo = \"worker\"\n";
    let worker = "[workers]\ntimeout = \"1m\"\n\
        [[workers.key]]\nname = \"main\"\nkey = \"a key of a worker\"\n";
    let config = config("2s").replace("[drain]", &format!("[drain]\nbackends = \"{backends}\""));
    let config = config.replacen("name = \"/\"\n", &format!("name = \"/\"\n{route}"), 1);
    let gateway = Gateway::start(&format!("{config}{worker}"));
    let mut worker = gateway.session();
    let auth = r#"{"key":"a key of a worker","name":"app","events":["*"],"#;
    let auth = format!("{auth}\"happenings\":[\"disconnect\"]}}");
    let id = join_as(&mut worker, "/workers", &auth).expect("it may come");
    gateway.wait_for_log(&id);
    (gateway, worker)
}

/// Answers what a worker gets, by its packet.
fn answer(worker: &mut WebSocket, packet: &str) {
    let id = packet.strip_prefix("42/workers,").and_then(|rest| rest.split('[').next());
    worker.send(&format!("43/workers,{}[]", id.unwrap_or_else(|| panic!("{packet}"))));
}

#[test]
fn workers_go_last_and_finish_what_they_have() {
    let (mut gateway, mut worker) = with_worker("1m");
    let mut clients = many(gateway.address, 20);
    clients[0].send("42[\"work\",1]");
    let work = worker.text();
    assert!(work.contains("\"work\""), "{work}");
    gateway.post("/drain", "").expect(202);
    // It is told of each client that goes.
    for _ in 0..20 {
        let packet = worker.text();
        assert!(packet.contains("[\"happening\",{\"type\":\"disconnect\""), "{packet}");
        answer(&mut worker, &packet);
    }
    for client in &mut clients {
        delay(&client.text());
    }
    // And has time for what it has not done yet.
    answer(&mut worker, &work);
    let last = worker.text();
    assert!(last.starts_with("42/workers,[\"drain\",{\"retry_after_ms\":"), "{last}");
    assert!(matches!(worker.rest()[..], [] | [Frame::Close]));
    assert!(gateway.wait().success());
    assert!(!gateway.log().contains("as the gateway ends"), "{}", gateway.log());
}

#[test]
fn backends_are_not_waited_for_without_end() {
    let (mut gateway, mut worker) = with_worker("100ms");
    let mut client = WebSocket::connect(gateway.address);
    client.send("42[\"work\",1]");
    worker.text();
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    // The event, and that its client has gone.
    gateway.wait_for_log("not acknowledged, as the gateway ends");
    assert!(gateway.log().contains("lost=2"), "{}", gateway.log());
}
