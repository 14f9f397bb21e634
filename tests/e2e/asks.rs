//! Broadcasts with acknowledgements (L-3), awaited inside and outside of shards.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use corecast::{Error, Event, Raw, Socket, Unanswered};

use super::client::{PATIENCE, Polling, WebSocket};
use super::{Site, on_cpus, options, serve};

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}

/// Reads the question; returns the head of its answer.
fn asked(packet: &str) -> String {
    let id = packet.strip_prefix("42").and_then(|rest| rest.strip_suffix("[\"question\",1]"));
    format!("43{}", id.unwrap_or_else(|| panic!("{packet}")))
}

fn answer(client: &mut WebSocket, with: &str) {
    let head = asked(&client.text());
    client.send(&format!("{head}[{with}]"));
}

fn sorted(responses: Vec<Raw>) -> Vec<String> {
    let mut texts: Vec<String> = responses.iter().map(|raw| raw.json().to_owned()).collect();
    texts.sort_unstable();
    texts
}

fn unanswered(outcome: Result<Vec<Raw>, Error>) -> Unanswered {
    match outcome {
        Err(Error::Unanswered(unanswered)) => *unanswered,
        other => panic!("{other:?}"),
    }
}

/// Clients on both shards, and one that polls.
fn clients(site: &Site) -> (Vec<WebSocket>, Polling) {
    let sockets = (0..8).map(|_| WebSocket::connect(site.address)).collect();
    (sockets, Polling::connect(site.address))
}

#[test]
fn l3_everyone_answers_a_thread_or_another_runtime() {
    let site = serve(on_cpus(2), |_| {});
    let (mut sockets, mut polling) = clients(&site);
    for _ in 0..2 {
        let waiting = site.io.timeout(PATIENCE).emit_with_ack("question", 1);
        sockets.iter_mut().enumerate().for_each(|(at, socket)| answer(socket, &at.to_string()));
        let head = asked(&polling.packet());
        polling.post(&format!("{head}[\"p\",2]"));
        let expected = ["\"p\"", "0", "1", "2", "3", "4", "5", "6", "7"];
        assert_eq!(sorted(block_on(waiting).expect("all answer")), expected);
    }
    let nobody = site.io.to("nobody").emit_with_ack("question", 1);
    assert_eq!(sorted(block_on(nobody).expect("nobody to wait for")), [""; 0]);
    site.stop();
}

/// From a handler: one stays silent, one leaves, others answer; one of them twice.
#[test]
fn l3_a_handler_gets_what_has_come() {
    let site = serve(on_cpus(2), |io| {
        io.on("ask", |socket: Socket, event: Event| async move {
            let ms = event.data().expect("milliseconds");
            let others = socket.broadcast().timeout(Duration::from_millis(ms));
            let unanswered = unanswered(others.emit_with_ack("question", 1).await);
            let Unanswered { responses, asked, timed_out, disconnected, .. } = unanswered;
            let _ = event.ack((asked, timed_out, disconnected, &sorted(responses)));
        });
    });
    let mut asking = WebSocket::connect(site.address);
    let mut sockets: Vec<WebSocket> = (0..6).map(|_| WebSocket::connect(site.address)).collect();
    asking.send("421[\"ask\",2000]");
    let heads: Vec<String> = sockets.iter_mut().map(|socket| asked(&socket.text())).collect();
    assert!(heads.windows(2).all(|pair| pair[0] == pair[1]), "one packet for all: {heads:?}");
    drop(sockets.pop());
    for (at, socket) in sockets.iter_mut().enumerate().skip(1) {
        // Twice is once.
        socket.send(&format!("{}[{at}]", heads[0]));
        socket.send(&format!("{}[{at}]", heads[0]));
    }
    // Nor does it count what somebody says who was not asked.
    asking.send(&format!("{}[9]", heads[0]));
    let expected = "431[6,1,1,[\"1\",\"2\",\"3\",\"4\"]]";
    assert_eq!(asking.text(), expected);
    site.stop();
}

/// Who stops waiting leaves nothing behind; without a timeout of its own it is the option's.
#[test]
fn l3_nothing_is_left_of_those_given_up() {
    let mut options = on_cpus(2);
    options.max_pending_acks = 1;
    options.requests_timeout = Duration::from_millis(50);
    let site = serve(options, |_| {});
    let mut socket = WebSocket::connect(site.address);
    let waiting = site.io.timeout(10 * PATIENCE).emit_with_ack("question", 1);
    asked(&socket.text());
    let full = unanswered(block_on(site.io.emit_with_ack("question", 1)));
    assert_eq!((full.asked, full.unawaited, full.timed_out), (1, 1, 0));
    asked(&socket.text());
    drop(waiting);
    let late = unanswered(block_on(site.io.emit_with_ack("question", 1)));
    assert_eq!((late.asked, late.unawaited, late.timed_out), (1, 0, 1));
    assert_eq!(late.to_string(), "operation has timed out: 0 of 1 clients have answered");
    asked(&socket.text());
    let waiting = site.io.timeout(PATIENCE).emit_with_ack("question", 1);
    answer(&mut socket, "1");
    assert_eq!(sorted(block_on(waiting).expect("an answer")), ["1"]);
    site.stop();
}

/// A shard that is blocked makes the outcome incomplete, not late.
#[test]
fn l3_a_stalled_shard_is_not_waited_for() {
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = std::sync::Mutex::new(blocked);
    let (tell, told) = mpsc::channel();
    let mut options = options();
    options.requests_timeout = Duration::from_millis(50);
    let site = serve(options, |io| {
        io.on("block", move |_: Socket, _: Event| {
            let _ = tell.send(());
            let _ = blocked.lock().map(|blocked| blocked.recv());
            async {}
        });
    });
    let mut socket = WebSocket::connect(site.address);
    socket.emit("block", "");
    told.recv_timeout(PATIENCE).expect("blocked");
    let late = unanswered(block_on(
        site.io.timeout(Duration::from_millis(20)).emit_with_ack("question", 1),
    ));
    assert_eq!((late.silent_shards, late.asked), (1, 0));
    release.send(()).expect("still there");
    // It had the mail and still sends the event.
    asked(&socket.text());
    assert_eq!(socket.ask("echo", "1"), "[1]");
    site.stop();
}

/// J-13, U-14: the end of a server is the end of all waiting, inside and outside.
#[test]
fn l3_a_shutdown_ends_the_waiting() {
    let (tell, told) = mpsc::channel();
    let site = serve(on_cpus(2), |io| {
        io.on("ask", move |socket: Socket, _: Event| {
            let tell = tell.clone();
            async move {
                let own = socket.emit_with_ack("own", ()).await.expect_err("nobody answers");
                let _ = tell.send(own.to_string());
            }
        });
    });
    let mut socket = WebSocket::connect(site.address);
    socket.emit("ask", "");
    assert_eq!(socket.text(), "420[\"own\"]");
    let waiting = site.io.timeout(10 * PATIENCE).emit_with_ack("question", 1);
    asked(&socket.text());
    let io = site.io.clone();
    site.stop();
    let gone = unanswered(block_on(waiting));
    assert_eq!((gone.asked, gone.disconnected), (1, 1));
    assert_eq!(told.recv_timeout(PATIENCE), Ok("socket is disconnected".into()));
    assert!(matches!(block_on(io.emit_with_ack("question", 1)), Err(Error::NotRunning)));
}
