//! Sockets of all shards: fetched, counted, moved between rooms, disconnected (K.2).

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use corecast::{Error, Event, RemoteSocket, Socket};
use serde_json::{Value, json};

use super::asks::block_on;
use super::client::{PATIENCE, Polling, WebSocket};
use super::{Site, eventually, on_cpus, options, serve};

/// Clients over both shards. Each asks for the rooms and the data it wants.
fn crowd(site: &Site, count: usize) -> Vec<WebSocket> {
    let join = |number: usize| {
        let mut socket = WebSocket::connect(site.address);
        let room = if number.is_multiple_of(2) { "even" } else { "odd" };
        assert_eq!(socket.ask("enter", &format!("{room:?},{number}")), "[true]");
        socket
    };
    (0..count).map(join).collect()
}

fn register(io: &corecast::Server) {
    io.on("enter", |socket: Socket, event: Event| async move {
        let (room, number): (String, u32) = event.args().expect("a room and a number");
        assert_eq!(socket.data::<Value>().expect("an object"), json!({}));
        socket.set_data(&json!({ "number": number })).expect("connected");
        let _ = event.ack(socket.join([room.as_str(), "all"]));
    });
    io.on("fetch", |socket: Socket, event: Event| async move {
        let room: String = event.data().expect("a room");
        let fetched = socket.server().in_(room).fetch_sockets().await.expect("runs");
        assert!(fetched.is_complete);
        let _ = event.ack(&numbers(&fetched));
    });
}

fn numbers(sockets: &[RemoteSocket]) -> Vec<u64> {
    let number = |socket: &RemoteSocket| socket.data::<Value>().ok()?["number"].as_u64();
    let mut numbers: Vec<u64> = sockets.iter().map(|it| number(it).expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn k2_fetch_sockets_from_a_thread_and_from_a_handler() {
    let site = serve(on_cpus(2), register);
    let mut sockets = crowd(&site, 10);
    let fetched = block_on(site.io.to("even").fetch_sockets()).expect("runs");
    assert!(fetched.is_complete);
    assert_eq!(numbers(&fetched), [0, 2, 4, 6, 8]);
    for socket in fetched {
        assert_eq!(*socket.rooms()[0], *socket.id());
        assert_eq!(socket.rooms().iter().skip(1).collect::<BTreeSet<_>>().len(), 2);
        assert_eq!(*socket.namespace().name(), *"/");
        assert_eq!(socket.handshake().expect("kept").header("host").as_deref(), Some("test"));
        assert_eq!(socket.auth::<Value>().expect("an object"), json!({}));
    }
    assert_eq!(sockets[3].ask("fetch", "\"odd\""), "[[1,3,5,7,9]]");
    let but = site.io.in_(["even", "odd"]).except("even").fetch_sockets();
    assert_eq!(numbers(&block_on(but).expect("runs")), [1, 3, 5, 7, 9]);
    let ids = block_on(site.io.broadcast().fetch_ids()).expect("runs");
    let ids: BTreeSet<_> = ids.into_iter().collect();
    assert_eq!(ids.len(), 10);
    let one = ids.first().expect("ten");
    let fetched = block_on(site.io.to(one).fetch_sockets()).expect("runs");
    assert_eq!(fetched.iter().map(RemoteSocket::id).collect::<Vec<_>>(), [&**one]);
    site.stop();
}

/// One remote socket: emits, acknowledgements, rooms, the end.
#[test]
fn k2_remote_sockets() {
    let site = serve(on_cpus(2), register);
    let mut sockets = crowd(&site, 6);
    let count = |room: &str| *block_on(site.io.to(room).count_sockets()).expect("runs");
    let mut remotes = block_on(site.io.fetch_sockets()).expect("runs").value;
    remotes.sort_by_key(|remote| numbers(std::slice::from_ref(remote)));
    for (number, (remote, socket)) in remotes.iter().zip(&mut sockets).enumerate() {
        remote.emit("hello", number).expect("runs");
        assert_eq!(socket.event(), ("hello".into(), vec![number.into()]));
        let asked = remote.timeout(PATIENCE).emit_with_ack("why", ());
        let question = socket.text();
        let id = question.strip_prefix("42").and_then(|rest| rest.strip_suffix("[\"why\"]"));
        socket.send(&format!("43{}[{number},\"more\"]", id.expect("a question")));
        assert_eq!(block_on(asked).expect("an answer").json(), number.to_string());
        remote.join(["x", "y"]).expect("runs");
        remote.leave("all").expect("runs");
    }
    assert_eq!(["x", "y", "all", "nobody"].map(count), [6, 6, 0, 0]);
    assert_eq!(sockets[0].ask("echo", "1"), "[1]");
    let silent = remotes[0].timeout(Duration::from_millis(1)).emit_with_ack("why", ());
    assert!(matches!(block_on(silent), Err(Error::Timeout)));
    let gone = remotes[5].timeout(10 * PATIENCE).emit_with_ack("why", ());
    remotes[5].disconnect(false).expect("runs");
    assert!(matches!(block_on(gone), Err(Error::Disconnected)));
    assert!(sockets[5].text().ends_with("[\"why\"]"));
    assert_eq!(sockets[5].text(), "41");
    assert!(matches!(block_on(remotes[5].emit_with_ack("why", ())), Err(Error::Disconnected)));
    remotes[5].emit("nobody", 1).expect("it is no error that it has gone");
    site.stop();
}

/// `socketsJoin`, `socketsLeave`, `disconnectSockets`, several rooms at a time; a socket's own
/// `join` and `leave` take several too.
#[test]
fn k2_many_at_once() {
    let site = serve(on_cpus(2), |io| {
        register(io);
        io.on("rooms", |socket: Socket, event: Event| async move {
            assert!(socket.join(vec![String::from("a"), String::from("b")]));
            assert!(!socket.join(["b", "c"]), "in one of them already");
            assert!(!socket.leave(["a", "z"]));
            let mut rooms: Vec<_> = socket.rooms().iter().skip(1).map(|r| r.to_string()).collect();
            rooms.sort_unstable();
            let _ = event.ack(&rooms);
        });
    });
    let mut sockets = crowd(&site, 8);
    let count = |room: &str| *block_on(site.io.to(room).count_sockets()).expect("runs");
    site.io.to("even").sockets_join(["x", "y"]).expect("runs");
    site.io.except("x").sockets_join("rest").expect("runs");
    assert_eq!(["x", "y", "rest"].map(count), [4, 4, 4]);
    site.io.to(["x", "rest"]).sockets_leave(["x", "all"]).expect("runs");
    assert_eq!(["x", "y", "all"].map(count), [0, 4, 0]);
    assert_eq!(*block_on(site.io.count_sockets()).expect("runs"), 8);
    site.io.to("odd").disconnect_sockets(false).expect("runs");
    for (number, socket) in sockets.iter_mut().enumerate() {
        match number % 2 {
            0 => assert_eq!(socket.ask("rooms", ""), "[[\"b\",\"c\",\"even\",\"y\"]]"),
            _ => assert_eq!(socket.text(), "41"),
        }
    }
    assert_eq!(*block_on(site.io.count_sockets()).expect("runs"), 4);
    site.stop();
}

#[test]
fn k2_rooms_and_namespaces_are_listed() {
    let site = serve(on_cpus(2), |io| {
        register(io);
        io.of("/other");
    });
    let mut sockets = crowd(&site, 7);
    sockets[0].join("/other");
    let namespace = site.io.of("/");
    let (mut rooms, mut after) = (Vec::new(), None::<Box<str>>);
    loop {
        let page = block_on(namespace.fetch_rooms(after.as_deref(), 2)).expect("runs");
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        rooms.extend(page.into_iter().map(|room| (room.name.to_string(), room.sockets)));
    }
    assert_eq!(rooms, [("all".into(), 7), ("even".into(), 4), ("odd".into(), 3)]);
    let namespaces = block_on(site.io.fetch_namespaces()).expect("runs");
    let sizes: Vec<_> = namespaces.iter().map(|it| (&*it.name, it.sockets)).collect();
    assert_eq!(sizes, [("/", 7), ("/other", 1)]);
    assert!((3..=6).contains(&namespaces[0].rooms) && namespaces[1].rooms == 0);
    site.stop();
}

/// A shard that is blocked makes the answer incomplete, and a bound in bytes cuts it.
#[test]
fn k2_what_is_fetched_has_bounds() {
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = std::sync::Mutex::new(blocked);
    let (tell, told) = mpsc::channel();
    let mut options = options();
    options.requests_timeout = Duration::from_millis(200);
    options.max_gather_bytes = 1_000;
    let site = serve(options, |io| {
        register(io);
        io.on("block", move |_: Socket, _: Event| {
            let _ = tell.send(());
            let _ = blocked.lock().map(|blocked| blocked.recv());
            async {}
        });
    });
    let mut sockets = crowd(&site, 10);
    // On a slow machine the shard may be late even so.
    eventually("an answer", || {
        let fetched = block_on(site.io.fetch_sockets()).expect("runs");
        assert!(!fetched.is_complete && fetched.len() < 10);
        !fetched.is_empty()
    });
    sockets[0].emit("block", "");
    told.recv_timeout(PATIENCE).expect("blocked");
    let fetched = block_on(site.io.fetch_sockets()).expect("runs");
    assert!(!fetched.is_complete && fetched.is_empty());
    let counted = block_on(site.io.count_sockets()).expect("runs");
    assert!(!counted.is_complete && *counted == 0);
    release.send(()).expect("still there");
    assert_eq!(sockets[0].ask("echo", "1"), "[1]");
    let io = site.io.clone();
    site.stop();
    assert!(matches!(block_on(io.fetch_sockets()), Err(Error::NotRunning)));
}

/// The gauge of polling sessions follows upgrades and ends.
#[test]
fn k2_polling_sessions_are_counted() {
    let site = serve(on_cpus(2), |_| {});
    let _socket = WebSocket::connect(site.address);
    let mut sessions = [(); 3].map(|()| Polling::connect(site.address));
    let polling = |count| site.until("the gauge", move |s| s.gauges.polling_sessions == count);
    polling(3);
    let mut upgraded = WebSocket::upgrade(&sessions[0]);
    assert_eq!(upgraded.ask("echo", "1"), "[1]");
    polling(2);
    sessions[1].post("1");
    polling(1);
    drop(upgraded);
    sessions[2].post("1");
    polling(0);
    site.stop();
}
