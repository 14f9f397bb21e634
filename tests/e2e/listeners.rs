//! Listeners that come and go, catch-all listeners in both directions, rooms, and what a socket
//! says of itself (K.3, J-10, L-1).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use corecast::{Args, Event, Listener, Server, Socket};

use super::client::{Polling, WebSocket};
use super::{eventually, on_cpus, options, serve};

/// What handlers have said, in order.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    fn add(&self, what: impl Into<String>) {
        self.0.lock().expect("no panic").push(what.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }

    /// A listener that says its name and the event's.
    fn listener(
        &self,
        name: &'static str,
    ) -> impl Fn(Socket, Event) -> Ready + Send + Sync + use<> {
        let said = self.clone();
        move |_, event| {
            said.add(format!("{name}:{}({})", event.name(), event.raw().json()));
            std::future::ready(())
        }
    }
}

type Ready = std::future::Ready<()>;

#[test]
fn k3_once_and_off() {
    let said = Said::default();
    let site = serve(options(), |io| {
        let said = said.clone();
        io.on("x", said.listener("namespace"));
        io.on_connect(move |socket: Socket| {
            let said = said.clone();
            async move {
                let stays = socket.on("x", said.listener("on"));
                socket.once("x", said.listener("once"));
                let never = socket.once("x", said.listener("never"));
                assert!(socket.off(never) && !socket.off(never));
                let kept: Rc<RefCell<Option<Listener>>> = Rc::default();
                kept.replace(Some(stays));
                socket.on("stop", move |socket: Socket, event: Event| {
                    let kept = kept.take();
                    async move {
                        let _ = event.ack(kept.is_some_and(|listener| socket.off(listener)));
                    }
                });
                socket.on("clear", |socket: Socket, event: Event| async move {
                    socket.off_event("x");
                    socket.off_event("nothing");
                    let _ = event.ack(());
                });
                socket.on("again", move |socket: Socket, event: Event| {
                    socket.on("x", said.listener("again"));
                    let _ = event.ack(());
                    async {}
                });
            }
        });
    });
    let mut client = WebSocket::connect(site.address);
    client.emit("x", "1");
    client.emit("x", "2");
    assert_eq!(client.ask("stop", ""), "[true]");
    assert_eq!(
        said.take(),
        ["namespace:x(1)", "on:x(1)", "once:x(1)", "namespace:x(2)", "on:x(2)"]
    );
    client.emit("x", "3");
    assert_eq!(client.ask("again", ""), "[]");
    client.emit("x", "4");
    assert_eq!(client.ask("clear", ""), "[]");
    client.emit("x", "5");
    assert_eq!(client.ask("stop", ""), "[false]");
    let expected = ["namespace:x(3)", "namespace:x(4)", "again:x(4)", "namespace:x(5)"];
    assert_eq!(said.take(), expected);
    site.stop();
}

#[test]
fn j10_catch_all_listeners_hear_before_middleware_refuses() {
    let said = Said::default();
    let site = serve(options(), |io| {
        let said = said.clone();
        io.of("/").on_any(said.listener("namespace"));
        io.on("x", said.listener("handler"));
        io.on_connect(move |socket: Socket| {
            let said = said.clone();
            async move {
                let second = socket.on_any(said.listener("second"));
                let first = socket.prepend_any(said.listener("first"));
                assert_eq!(socket.listeners_any(), [first, second]);
                let refuser = said.clone();
                socket.middleware(move |_: Socket, event: Event| {
                    refuser.add(format!("middleware:{}", event.name()));
                    std::future::ready(if event.name() == "bad" {
                        Err("no".into())
                    } else {
                        Ok(())
                    })
                });
                socket.on("fewer", move |socket: Socket, event: Event| {
                    assert!(socket.off(second));
                    let _ = event.ack(socket.listeners_any().len());
                    async {}
                });
                socket.on("none", |socket: Socket, event: Event| async move {
                    socket.off_any();
                    let _ = event.ack(socket.listeners_any().len());
                });
            }
        });
    });
    let mut client = WebSocket::connect(site.address);
    client.emit("x", "1");
    client.emit("bad", "");
    assert_eq!(client.ask("fewer", ""), "[1]");
    let any = |event: &str, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{name}:{event}")).collect()
    };
    let all = ["namespace", "first", "second"];
    let expected = [
        any("x(1)", &all),
        vec!["middleware:x".into(), "handler:x(1)".into()],
        any("bad()", &all),
        vec!["middleware:bad".into()],
        any("fewer()", &all),
        vec!["middleware:fewer".into()],
    ];
    assert_eq!(said.take(), expected.concat());
    assert_eq!(client.ask("none", ""), "[0]");
    client.emit("x", "2");
    assert_eq!(client.ask("echo", ""), "[]");
    let expected = [
        any("none()", &["namespace", "first"]),
        vec!["middleware:none".into()],
        any("x(2)", &["namespace"]),
        vec!["middleware:x".into(), "handler:x(2)".into()],
        any("echo()", &["namespace"]),
        vec!["middleware:echo".into()],
    ];
    assert_eq!(said.take(), expected.concat());
    site.stop();
}

#[test]
fn k3_outgoing_listeners_hear_emits_and_broadcasts_but_no_acks() {
    let said = Said::default();
    let site = serve(on_cpus(2), |io| {
        let heard = said.clone();
        io.of("/all").on_any_outgoing(heard.listener("all"));
        io.on("watch", move |socket: Socket, event: Event| {
            socket.on_any_outgoing(heard.listener("second"));
            socket.prepend_any_outgoing(heard.listener("first"));
            socket.on_any_outgoing(|socket: Socket, _: Event| async move {
                let _ = socket.emit("more", ());
            });
            let _ = event.ack(());
            async {}
        });
        io.on("unwatch", |socket: Socket, event: Event| async move {
            socket.off_any_outgoing();
            let _ = event.ack(());
        });
    });
    let mut watched = WebSocket::connect(site.address);
    let mut other = WebSocket::connect(site.address);
    assert_eq!(watched.ask("watch", ""), "[]");
    site.io.emit("news", ("to all", 1)).expect("runs");
    assert_eq!(watched.event().0, "news");
    assert_eq!(watched.event().0, "more");
    assert_eq!(other.event().0, "news");
    watched.emit("echo", "2");
    assert_eq!(watched.event().0, "echo");
    assert_eq!(watched.event().0, "more");
    let expected = ["first:news(\"to all\",1)", "second:news(\"to all\",1)", "first:echo(2)"];
    assert_eq!(said.take(), [&expected[..], &["second:echo(2)"]].concat());
    assert_eq!(watched.ask("unwatch", ""), "[]");
    site.io.emit("unheard", ()).expect("runs");
    assert_eq!(watched.event().0, "unheard");
    assert_eq!(other.event().0, "unheard");
    other.join("/all");
    site.io.of("/all").send(7).expect("runs");
    assert_eq!(other.text(), "42/all,[\"message\",7]");
    eventually("the listener", || said.take() == ["all:message(7)"]);
    site.stop();
}

#[test]
fn l1_room_events_are_those_of_the_whole_server() {
    let said = Said::default();
    let site = serve(on_cpus(2), |io| {
        let rooms = io.of("/rooms");
        let [a, b, c, d] = [(); 4].map(|()| said.clone());
        rooms.on_create_room(move |nsp, room| a.add(format!("create {} {room}", nsp.name())));
        rooms.on_delete_room(move |_, room| b.add(format!("delete {room}")));
        rooms.on_join_room(move |_, room, id| c.add(format!("join {room} {id}")));
        rooms.on_leave_room(move |_, room, id| d.add(format!("leave {room} {id}")));
        rooms.on("join", |socket: Socket, event: Event| async move {
            socket.join("shared");
            // The second time from a task of its own.
            corecast::sleep(std::time::Duration::from_millis(1)).await;
            socket.join("own");
            socket.leave("own");
            let _ = event.ack(());
        });
    });
    let mut clients: Vec<WebSocket> = (0..8).map(|_| WebSocket::connect(site.address)).collect();
    let mut all = Vec::new();
    for client in &mut clients {
        let id = client.join("/rooms");
        client.send("42/rooms,1[\"join\"]");
        assert_eq!(client.text(), "43/rooms,1[]");
        all.push(id);
    }
    let mut events = Vec::new();
    eventually("all joins", || {
        let count = said.0.lock().expect("no panic").len();
        count == 8 * 7 + 1
    });
    events.extend(said.take());
    let count = |events: &[String], what: &str| events.iter().filter(|e| *e == what).count();
    assert_eq!(count(&events, "create /rooms shared"), 1);
    assert_eq!((count(&events, "create /rooms own"), count(&events, "delete own")), (8, 8));
    for id in &all {
        let at = |what: String| {
            let found = events.iter().position(|event| *event == what);
            found.unwrap_or_else(|| panic!("no {what:?} in {events:?}"))
        };
        assert!(at(format!("create /rooms {id}")) < at(format!("join {id} {id}")));
        assert!(at(format!("join {id} {id}")) < at(format!("join shared {id}")));
        assert!(at(format!("join own {id}")) < at(format!("leave own {id}")));
    }
    drop(clients);
    eventually("all leaves", || said.0.lock().expect("no panic").len() == 8 * 3 + 1);
    let events = said.take();
    assert_eq!(count(&events, "delete shared"), 1);
    assert!(all.iter().all(|id| count(&events, &format!("delete {id}")) == 1));
    site.stop();
}

#[test]
fn j21_j23_a_socket_knows_its_client_and_its_transport() {
    let said = Said::default();
    let site = serve(options(), |io| {
        let (shared, own) = (said.clone(), said.clone());
        io.of("/").on_upgrade(move |socket: Socket| {
            shared.add(format!("namespace {}", name_of(&socket)));
            async {}
        });
        io.on_connect(move |socket: Socket| {
            let own = own.clone();
            own.add(format!("connected {}", name_of(&socket)));
            socket.on_upgrade(move |socket: Socket| {
                own.add(format!("socket {}", name_of(&socket)));
                async {}
            });
            async {}
        });
        io.on("who", |socket: Socket, event: Event| async move {
            assert!(socket.is_connected() && !socket.is_disconnected());
            let _ = event.ack((socket.client_id(), name_of(&socket)));
            socket.disconnect(true);
            corecast::sleep(std::time::Duration::from_millis(1)).await;
            assert!(socket.is_disconnected());
            assert!(socket.client_id().is_none() && socket.transport().is_none());
        });
    });
    let session = Polling::connect_kept(site.address);
    let id = session.session_id().to_string();
    let mut client = WebSocket::upgrade(&session);
    assert_eq!(client.ask("who", ""), format!("[{id:?},\"websocket\"]"));
    let expected = ["connected polling", "namespace websocket", "socket websocket"];
    assert_eq!(said.take(), expected);
    site.stop();
}

fn name_of(socket: &Socket) -> &'static str {
    socket.transport().map_or("none", |transport| transport.as_str())
}

#[test]
fn k3_send_is_the_event_message() {
    let site = serve(options(), |io| {
        io.on("message", |socket: Socket, event: Event| async move {
            let _ = socket.send(event.raw());
            let _ = socket.server().to(socket.id()).send((1, 2));
        });
    });
    let mut client = WebSocket::connect(site.address);
    client.emit("message", "\"hi\"");
    assert_eq!(client.text(), "42[\"message\",\"hi\"]");
    assert_eq!(client.text(), "42[\"message\",1,2]");
    site.running.close().expect("a good end");
}

#[test]
fn k2_server_side_events_of_a_single_server() {
    let said = Said::default();
    let site = serve(options(), |io| {
        let said = said.clone();
        io.of("/chat").on_server_event("hello", move |event| {
            said.add(format!(
                "{} {} {}",
                event.namespace().name(),
                event.name(),
                event.raw().json()
            ));
            event.ack("first").expect("writes");
            event.ack("second").expect("is ignored");
        });
    });
    let chat = site.io.of("/chat");
    chat.server_side_emit("hello", 1).expect("nobody is there");
    site.io.server_side_emit("hello", 1).expect("nobody is there");
    for name in ["connect", "connection", "new_namespace"] {
        let error = chat.server_side_emit(name, ()).expect_err("reserved");
        assert!(error.to_string().contains(name));
    }
    let (told, answers) = std::sync::mpsc::channel();
    let raw = |n: i32| n.to_raw().expect("writes");
    let answered = told.clone();
    let heard = chat.receive_server_event("hello", raw(2), move |answer| {
        let _ = answered.send(answer.json().to_owned());
    });
    assert_eq!(heard.expect("runs"), 1);
    assert_eq!(chat.receive_server_event("other", raw(3), |_| {}).expect("runs"), 0);
    assert_eq!(site.io.of("/").receive_server_event("hello", raw(4), |_| {}).expect("runs"), 0);
    drop(told);
    assert_eq!(answers.iter().collect::<Vec<_>>(), ["\"first\""]);
    assert_eq!(said.take(), ["/chat hello 2"]);
    let early = Server::new(options()).expect("good options");
    assert!(early.of("/").receive_server_event("hello", raw(5), |_| {}).is_err());
    site.stop();
}
