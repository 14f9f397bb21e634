//! Handlers that fail, block, or never finish.

use std::sync::mpsc;

use corecast::{ConnectError, Event, Reason, Socket};

use super::client::{Frame, PATIENCE, WebSocket};
use super::{log, options, serve};

#[test]
fn a_panicking_handler_ends_its_own_connection_only() {
    let (told, reasons) = mpsc::channel();
    let site = serve(options(), |io| {
        io.on("panic", |_: Socket, _: Event| async { panic!("boom at once") });
        io.on("later", |_: Socket, _: Event| async {
            corecast::sleep(std::time::Duration::from_millis(1)).await;
            panic!("boom {}", "later")
        });
        io.on("early", |_: Socket, _: Event| -> std::future::Ready<()> { panic!("boom early") });
        io.on_disconnect(move |socket: Socket, reason| {
            let _ = told.send((socket.id().to_owned(), reason));
            async {}
        });
    });
    let mut good = WebSocket::connect(site.address);
    for (event, text) in [("panic", "boom at once"), ("later", "boom later"), ("early", "early")] {
        let mut bad = WebSocket::shake(site.address, "").shaken();
        assert!(bad.text().starts_with("0{"));
        let id = bad.join("/");
        bad.emit(event, "");
        assert_eq!(bad.rest(), [Frame::Close]);
        assert_eq!(
            reasons.recv_timeout(PATIENCE).expect("told"),
            (id.clone(), Reason::ForcedClose)
        );
        log::wait(&["ERROR", &format!("event {event:?} in namespace /"), "panicked", &id, text]);
        assert_eq!(good.ask("echo", "1"), "[1]");
    }
    assert!(reasons.try_recv().is_err());
    site.stop();
}

#[test]
fn panics_in_every_other_handler_end_there_too() {
    let site = serve(options(), |io| {
        io.of("/middleware").middleware(|_: Socket| async { panic!("in middleware") });
        io.of("/connect").on_connect(|_: Socket| async { panic!("in connect") });
        io.of("/use").on_connect(|socket: Socket| async move {
            socket.middleware(|_, _| async { panic!("in use") });
        });
        let leave = io.of("/leave");
        leave.on_disconnecting(|_: Socket, _| async { panic!("in disconnecting") });
        leave.on_disconnect(|_: Socket, _| async { panic!("in disconnect") });
    });
    let mut good = WebSocket::connect(site.address);
    for (namespace, packet, text) in [
        ("/middleware", None, "in middleware"),
        ("/connect", None, "in connect"),
        ("/use", Some("42/use,[\"x\"]"), "in use"),
        ("/leave", Some("41/leave,"), "in disconnecting"),
        ("/leave", Some("41/leave,"), "in disconnect"),
    ] {
        let mut bad = WebSocket::shake(site.address, "").shaken();
        assert!(bad.text().starts_with("0{"));
        match packet {
            None => bad.send(&format!("40{namespace},")),
            Some(packet) => {
                bad.join(namespace);
                bad.send(packet);
            }
        }
        assert_eq!(bad.rest().last(), Some(&Frame::Close), "{namespace}");
        log::wait(&["ERROR", "panicked", text]);
        assert_eq!(good.ask("echo", "1"), "[1]");
    }
    site.until("the sockets to be gone", |stats| stats.gauges.sockets == 1);
    site.stop();
}

#[test]
fn a_refusal_of_middleware_reaches_the_client() {
    let site = serve(options(), |io| {
        let asked = io.of("/asked");
        asked.middleware(|_: Socket| async { Ok(()) });
        asked.middleware(|socket: Socket| async move {
            // Asked again later, so that the client has to wait.
            corecast::sleep(std::time::Duration::from_millis(1)).await;
            match socket.auth::<serde_json::Value>() {
                Ok(auth) if auth["token"] == 1 => Ok(()),
                _ => Err(ConnectError::new("no").with_data(serde_json::json!([1]))),
            }
        });
    });
    let mut client = WebSocket::connect(site.address);
    client.send("40/asked,{\"token\":2}");
    assert_eq!(client.text(), "44/asked,{\"message\":\"no\",\"data\":[1]}");
    client.send("40/asked,{\"token\":1}");
    assert!(client.text().starts_with("40/asked,{\"sid\":"));
    site.stop();
}

#[test]
fn a_blocking_handler_is_reported_by_name() {
    let (release, released) = mpsc::sync_channel::<()>(0);
    let released = std::sync::Mutex::new(released);
    let mut options = options();
    options.stall_warning = std::time::Duration::from_millis(20);
    let site = serve(options, |io| {
        let released = std::sync::Arc::new(released);
        io.on("block", move |_: Socket, _: Event| {
            let released = released.clone();
            async move {
                let _ = released.lock().expect("no panic").recv_timeout(PATIENCE);
            }
        });
    });
    let mut client = WebSocket::connect(site.address);
    client.emit("block", "");
    log::wait(&["WARN", "shard 0 is stalled", "event \"block\" in namespace /"]);
    release.send(()).expect("the handler waits");
    assert_eq!(client.ask("echo", "1"), "[1]");
    site.stop();
}

#[test]
fn handlers_that_never_finish_are_counted_and_do_not_keep_the_server() {
    let mut options = options();
    options.max_pending_handlers = 5;
    let (told, reasons) = mpsc::channel();
    let site = serve(options, |io| {
        // Nothing but a timer could end it; what nothing could wake would be dropped.
        io.on("never", |_: Socket, _: Event| corecast::sleep(100 * PATIENCE));
        io.on_disconnect(move |_: Socket, reason| {
            let _ = told.send(reason);
            async {}
        });
    });
    let mut other = WebSocket::connect(site.address);
    other.emit("never", "");
    let mut client = WebSocket::connect(site.address);
    for _ in 0..5 {
        client.emit("never", "");
    }
    assert_eq!(client.ask("echo", "1"), "[1]");
    client.emit("never", "");
    assert_eq!(client.rest(), [Frame::Close]);
    assert_eq!(reasons.recv_timeout(PATIENCE).expect("told"), Reason::ForcedClose);
    log::wait(&["WARN", "6 unfinished handlers"]);
    assert_eq!(other.ask("echo", "1"), "[1]");
    site.stop();
}
