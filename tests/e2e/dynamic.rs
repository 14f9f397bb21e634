//! Dynamic namespaces, and those that are added while the server runs (J-4, K.1, K.2).

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use corecast::{ConnectError, Event, Socket};

use super::client::{PATIENCE, WebSocket};
use super::{Site, eventually, on_cpus, options, serve};

/// A websocket session in no namespace.
fn open(site: &Site) -> WebSocket {
    let mut client = WebSocket::shake(site.address, "").shaken();
    assert!(client.text().starts_with("0{"));
    client
}

fn answer(client: &mut WebSocket, packet: &str) -> String {
    client.send(packet);
    client.text()
}

#[test]
fn j4_patterns_and_predicates_are_tried_in_the_order_of_registration() {
    let site = serve(options(), |io| {
        io.of_pattern(r"^/room-\d+$").expect("a pattern").on(
            "who",
            |_: Socket, event: Event| async move {
                let _ = event.ack("pattern");
            },
        );
        let asked = io.of_dynamic(|name, auth| async move {
            corecast::sleep(std::time::Duration::from_millis(1)).await;
            name.starts_with("/room") && auth["key"] == 1
        });
        asked.middleware(|socket: Socket| async move {
            match socket.auth::<serde_json::Value>() {
                Ok(auth) if auth["key"] == 1 => Ok(()),
                _ => Err(ConnectError::new("not you")),
            }
        });
        asked.on("who", |_: Socket, event: Event| async move {
            let _ = event.ack("predicate");
        });
        io.of("/room-9").on("who", |_: Socket, event: Event| async move {
            let _ = event.ack("registered");
        });
    });
    let mut client = open(&site);
    for (name, auth, who) in [
        ("/room-1", "", "pattern"),
        ("/room-9", "", "registered"),
        ("/room-x", "{\"key\":1}", "predicate"),
    ] {
        client.send(&format!("40{name},{auth}"));
        // Waits for the answer, as any other event that is sent along.
        client.send(&format!("42{name},7[\"who\"]"));
        assert!(client.text().starts_with(&format!("40{name},{{\"sid\"")));
        assert_eq!(client.text(), format!("43{name},7[{who:?}]"));
    }
    let refused = |name: &str| format!("44{name},{{\"message\":\"Invalid namespace\"}}");
    assert_eq!(answer(&mut client, "40/room-y,{\"key\":2}"), refused("/room-y"));
    assert_eq!(answer(&mut client, "40/other,{\"key\":1}"), refused("/other"));
    // It exists, so nobody asks whether it may; who may join is another question.
    let mut other = open(&site);
    assert_eq!(answer(&mut other, "40/room-x,"), "44/room-x,{\"message\":\"not you\"}");
    assert!(io_error(&site.io).contains("unclosed"));
    site.stop();
}

fn io_error(io: &corecast::Server) -> String {
    let fresh = corecast::Server::new(io.options().clone()).expect("good options");
    fresh.of_pattern("(").err().expect("no pattern").to_string()
}

#[test]
fn k2_a_child_is_one_namespace_on_all_shards_and_its_parent_is_all_of_them() {
    let (told, new) = mpsc::channel();
    let told = Mutex::new(told);
    let (parent, parents) = mpsc::channel();
    let site = serve(on_cpus(2), |io| {
        io.on_new_namespace(move |namespace| {
            let _ = told.lock().expect("no panic").send(namespace.name().to_string());
        });
        let rooms = io.of_pattern("^/room-").expect("a pattern");
        rooms.on("all", |socket: Socket, event: Event| async move {
            let _ = socket.namespace().emit("all", event.raw());
        });
        rooms.on("join", |socket: Socket, event: Event| async move {
            socket.join("inner");
            let _ = event.ack(());
        });
        let _ = parent.send(rooms);
    });
    let rooms = parents.recv().expect("the parent");
    let mut clients: Vec<WebSocket> = (0..16).map(|_| open(&site)).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.join(&format!("/room-{}", at % 2));
    }
    let names: Vec<String> = (0..2).map(|_| new.recv_timeout(PATIENCE).expect("told")).collect();
    assert!(names.contains(&"/room-0".into()) && names.contains(&"/room-1".into()), "{names:?}");
    clients[0].send("42/room-0,[\"all\",1]");
    for client in clients.iter_mut().step_by(2) {
        assert_eq!(client.text(), "42/room-0,[\"all\",1]");
    }
    rooms.emit("to all", ()).expect("runs");
    site.io.of("room-1").to("nobody").emit("missed", ()).expect("runs");
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.text(), format!("42/room-{},[\"to all\"]", at % 2));
    }
    clients[3].send("42/room-1,5[\"join\"]");
    assert_eq!(clients[3].text(), "43/room-1,5[]");
    rooms.to("inner").emit("inside", ()).expect("runs");
    assert_eq!(clients[3].text(), "42/room-1,[\"inside\"]");
    assert_eq!(rooms.children().len(), 2);
    assert!(site.io.namespace("/room-0").is_some() && site.io.namespace("/room-2").is_none());
    // A name that matches becomes a child without a client.
    assert_eq!(&*site.io.of("room-2").name(), "/room-2");
    assert_eq!(new.recv_timeout(PATIENCE).expect("told"), "/room-2");
    assert_eq!(rooms.children().len(), 3);
    rooms.disconnect_sockets(false).expect("runs");
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.text(), format!("41/room-{},", at % 2));
    }
    assert!(new.try_recv().is_err(), "once each");
    site.stop();
}

#[test]
fn k1_namespaces_are_added_while_the_server_runs() {
    let site = serve(on_cpus(2), |_| {});
    let mut clients: Vec<WebSocket> = (0..8).map(|_| open(&site)).collect();
    let late = site.io.add_namespace("late", |late| {
        late.on("who", |_: Socket, event: Event| async move {
            let _ = event.ack("late");
        });
    });
    let late = late.expect("a free name");
    assert!(site.io.add_namespace("/late", |_| {}).is_err());
    assert!(site.io.add_namespace("/", |_| {}).is_err());
    let plain = site.io.of("/plain");
    for client in &mut clients {
        client.join("/late");
        client.join("/plain");
        assert_eq!(answer(client, "42/late,1[\"who\"]"), "43/late,1[\"late\"]");
    }
    late.emit("l", ()).expect("runs");
    plain.emit("p", ()).expect("runs");
    for client in &mut clients {
        assert_eq!(client.text(), "42/late,[\"l\"]");
        assert_eq!(client.text(), "42/plain,[\"p\"]");
    }
    site.stop();
}

#[test]
fn k2_empty_children_are_cleaned_up_and_come_again() {
    let mut options = on_cpus(2);
    options.cleanup_empty_child_namespaces = true;
    options.max_child_namespaces = 3;
    let made = Arc::new(Mutex::new(Vec::new()));
    let site = serve(options, |io| {
        let made = made.clone();
        io.on_new_namespace(move |namespace| {
            made.lock().expect("no panic").push(namespace.name().to_string());
        });
        let children = io.of_pattern("^/c").expect("a pattern");
        children.on("leave", |socket: Socket, event: Event| async move {
            socket.disconnect(false);
            // J-12: the namespace has gone by then, the connection has not.
            corecast::sleep(std::time::Duration::from_millis(5)).await;
            let _ = event.ack("late");
        });
    });
    let mut clients: Vec<WebSocket> = (0..8).map(|_| open(&site)).collect();
    for client in &mut clients {
        client.join("/c1");
    }
    let kept = site.io.namespace("/c1").expect("it exists");
    let (last, others) = clients.split_last_mut().expect("some");
    for client in others {
        client.send("41/c1,");
        client.join("/");
    }
    kept.emit("still", ()).expect("runs");
    assert_eq!(last.text(), "42/c1,[\"still\"]");
    last.send("42/c1,3[\"leave\"]");
    assert_eq!(last.text(), "41/c1,");
    assert_eq!(last.text(), "43/c1,3[\"late\"]");
    eventually("the child to go", || site.io.namespace("/c1").is_none());
    site.until("the shards", |stats| stats.gauges.namespaces == 0);
    // The old handle names what has gone: it reaches nobody, not the new one of that name.
    last.join("/c1");
    kept.emit("nobody", ()).expect("runs");
    site.io.namespace("/c1").expect("a new one").emit("you", ()).expect("runs");
    assert_eq!(last.text(), "42/c1,[\"you\"]");
    last.join("/c2");
    last.join("/c3");
    assert_eq!(answer(last, "40/c4,"), "44/c4,{\"message\":\"Too many namespaces\"}");
    last.send("41/c2,");
    last.join("/");
    eventually("room for another", || site.io.namespace("/c2").is_none());
    last.join("/c4");
    assert_eq!(*made.lock().expect("no panic"), ["/c1", "/c1", "/c2", "/c3", "/c4"]);
    site.stop();
}
