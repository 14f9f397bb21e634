//! How sessions and servers end.

use std::net::TcpListener;
use std::sync::mpsc;

use corecast::{Event, Reason, Socket};

use super::asks::block_on;
use super::client::{Frame, PATIENCE, Polling, Stream, WebSocket};
use super::{on_cpus, options, serve};

#[test]
fn shutdown_tells_the_sockets_and_flushes_what_was_queued() {
    let (told, reasons) = mpsc::channel();
    let mut options = on_cpus(2);
    options.max_queue_bytes = 8 << 20;
    let site = serve(options, |io| {
        io.on("more", |socket: Socket, _: Event| async move {
            for number in 0..40 {
                let _ = socket.emit("more", (number, "x".repeat(50_000)));
            }
        });
        io.on_disconnect(move |_: Socket, reason| {
            let _ = told.send(reason);
            async {}
        });
    });
    let mut sockets: Vec<WebSocket> = (0..4).map(|_| WebSocket::connect(site.address)).collect();
    let mut idle = Stream::connect(site.address);
    assert_eq!(idle.request("GET", "/nothing", "").0, 404);
    let polling = Polling::connect(site.address);
    let mut parked = Stream::connect(site.address);
    parked.write(super::client::request("GET", &polling.target, "").as_bytes());
    for socket in &mut sockets {
        assert_eq!(socket.ask("echo", "1"), "[1]");
        // Nobody reads these two million bytes before the server is shut down.
        socket.emit("more", "");
    }
    let enough = 4 * 40;
    site.until("the events to be queued", |stats| stats.totals.staged >= enough);
    let (io, address) = (site.io.clone(), site.address);
    io.shutdown();
    io.shutdown();
    for socket in &mut sockets {
        for number in 0..40 {
            assert_eq!(socket.event().1[0], number);
        }
        assert_eq!(socket.rest(), [Frame::Close]);
    }
    assert!(idle.rest().is_empty());
    // Its request may have come too late, even for an answer.
    let parked = String::from_utf8(parked.rest()).expect("UTF-8");
    let ends = ["\r\n\r\n1", "\r\n\r\n6\x1e1"];
    assert!(parked.is_empty() || ends.iter().any(|end| parked.ends_with(end)), "{parked}");
    site.running.join().expect("all shards end well");
    for _ in 0..5 {
        assert_eq!(reasons.recv_timeout(PATIENCE), Ok(Reason::ServerShuttingDown));
    }
    assert!(reasons.try_recv().is_err(), "each once");
    drop(TcpListener::bind(address).expect("the port is free again"));
}

/// The shards may be anywhere between their start and their first sleep.
#[test]
fn a_shutdown_right_after_the_start_is_heard() {
    for pause in 0..60 {
        let site = serve(on_cpus(2), |_| {});
        // From none to a few milliseconds, so that it comes at every point of that way.
        std::thread::sleep(std::time::Duration::from_micros(pause * 50));
        site.io.shutdown();
        site.running.join().expect("all shards end well");
    }
}

#[test]
fn a_handler_may_shut_the_server_down() {
    let site = serve(on_cpus(2), |io| {
        io.on("stop", |socket: Socket, _: Event| async move {
            let _ = socket.emit("bye", ());
            socket.server().shutdown();
        });
    });
    let mut client = WebSocket::connect(site.address);
    let mut other = WebSocket::connect(site.address);
    client.emit("stop", "");
    assert_eq!(client.event().0, "bye");
    assert_eq!(client.rest(), [Frame::Close]);
    assert_eq!(other.rest(), [Frame::Close]);
    site.running.join().expect("all shards end well");
}

#[test]
fn a_client_that_does_not_go_cannot_hold_the_server_up() {
    let mut options = options();
    options.shutdown_timeout = std::time::Duration::from_millis(50);
    let site = serve(options, |_| {});
    // Never reads its close frame, never closes; nor does the polling client fetch its last packet.
    let _silent = WebSocket::connect(site.address);
    let _polling = Polling::connect(site.address);
    site.stop();
}

#[test]
fn a_server_that_refuses_sessions_keeps_those_it_has() {
    let site = serve(on_cpus(2), |io| {
        io.websocket("/raw").on_message(|_, _| async {});
    });
    let mut socket = WebSocket::connect(site.address);
    let mut polling = Polling::connect(site.address);
    site.io.refuse_sessions(std::time::Duration::from_millis(1_500)).expect("it runs");
    // One question to each shard, behind the order to refuse.
    assert_eq!(socket.ask("echo", "1"), "[1]");
    let count = site.io.broadcast().count_sockets();
    assert_eq!(block_on(count).expect("both answer").value, 2);
    for query in ["transport=polling", "transport=websocket"] {
        let mut stream = Stream::connect(site.address);
        let upgrade = match query.ends_with("websocket") {
            true => {
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            }
            false => "",
        };
        let head = format!("GET /socket.io/?EIO=4&{query} HTTP/1.1\r\nHost: test\r\n{upgrade}\r\n");
        stream.write(head.as_bytes());
        let (status, head) = stream.head();
        assert_eq!(status, 503, "{query}: {head}");
        assert!(head.contains("\r\nretry-after: 2\r\n"), "{query}: {head}");
        assert!(stream.rest().is_empty(), "{query}");
    }
    assert_eq!(Stream::connect(site.address).request("GET", "/raw", "").0, 503);
    // A session on polling needs new connections to go on.
    polling.post(r#"42["echo",2]"#);
    assert_eq!(polling.packet(), r#"42["echo",2]"#);
    let _upgraded = WebSocket::upgrade(&polling);
    socket.emit("echo", "3");
    assert_eq!(socket.event().1[0], 3);
    site.io.broadcast().close_connections().expect("it runs");
    // No packet that would keep the client from coming back.
    assert_eq!(socket.rest(), [Frame::Close]);
    site.stop();
}

#[test]
fn the_ways_of_disconnecting_one_socket() {
    let (told, reasons) = mpsc::channel();
    let site = serve(options(), |io| {
        for namespace in [io.of("/"), io.of("/two")] {
            let told = told.clone();
            namespace.on_disconnect(move |socket: Socket, reason| {
                assert!(socket.rooms().is_empty() && !socket.is_connected());
                let _ = told.send((socket.namespace().name().to_string(), reason));
                async {}
            });
        }
        io.on("end", |socket: Socket, event: Event| async move {
            match event.data::<String>().expect("how").as_str() {
                "namespace" => socket.disconnect(false),
                "connection" => socket.disconnect(true),
                _ => socket.close_connection(),
            }
            assert!(socket.emit("too late", ()).is_err());
        });
    });
    let cases: [(&str, &[&str], &[Reason]); 3] = [
        ("namespace", &["41"], &[Reason::ServerNamespaceDisconnect]),
        ("connection", &["41", "41/two,"], &[Reason::ServerNamespaceDisconnect; 2]),
        ("below", &[], &[Reason::ForcedClose; 2]),
    ];
    for (how, packets, expected) in cases {
        let mut client = WebSocket::connect(site.address);
        client.join("/two");
        client.emit("end", &format!("{how:?}"));
        packets.iter().for_each(|packet| assert_eq!(client.text(), *packet, "{how}"));
        for (namespace, reason) in ["/", "/two"].into_iter().zip(expected) {
            let told = reasons.recv_timeout(PATIENCE).expect("told");
            assert_eq!(told, (namespace.to_owned(), *reason), "{how}");
        }
        if how == "namespace" {
            // The connection goes on, and so does the other namespace.
            client.send("42/two,1[\"nobody\"]");
            client.join("/");
            client.send("1");
            assert_eq!(client.rest(), [Frame::Close]);
            for _ in 0..2 {
                let told = reasons.recv_timeout(PATIENCE).expect("told");
                assert_eq!(told.1, Reason::TransportClose);
            }
        } else {
            assert_eq!(client.rest(), [Frame::Close], "{how}");
        }
    }
    site.stop();
}
