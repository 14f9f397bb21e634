//! Emits from anywhere, and acknowledgements in both directions.

use std::sync::mpsc;
use std::time::Duration;

use corecast::{Error, Event, Options, Server, Socket};

use super::client::{PATIENCE, Polling, WebSocket};
use super::{on_cpus, options, serve};

/// Events per thread.
const COUNT: u64 = 300;

fn emit_numbers(io: &Server, thread: u64) {
    for number in 0..COUNT {
        io.emit("number", (thread, number)).expect("runs");
    }
}

#[test]
fn emits_of_foreign_threads_and_runtimes_arrive_in_order() {
    let site = serve(on_cpus(2), |_| {});
    let mut clients: Vec<WebSocket> = (0..6).map(|_| WebSocket::connect(site.address)).collect();
    let mut polling = Polling::connect(site.address);
    let mut threads: Vec<_> = (0..3)
        .map(|thread| {
            let io = site.io.clone();
            std::thread::spawn(move || emit_numbers(&io, thread))
        })
        .collect();
    let io = site.io.clone();
    threads.push(std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async { emit_numbers(&io, 3) });
    }));
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let check = |next: &mut [u64; 4], thread: u64, number: u64| {
        assert_eq!(number, next[thread as usize], "thread {thread}");
        next[thread as usize] += 1;
    };
    for client in &mut clients {
        let mut next = [0; 4];
        while next != [COUNT; 4] {
            let (name, args) = client.event();
            assert_eq!(name, "number");
            check(&mut next, args[0].as_u64().expect("a thread"), args[1].as_u64().expect("n"));
        }
        assert_eq!(client.ask("echo", "1"), "[1]");
    }
    let mut next = [0; 4];
    while next != [COUNT; 4] {
        let packet = polling.packet();
        let (_, thread, number): (String, u64, u64) =
            serde_json::from_str(&packet[2..]).unwrap_or_else(|error| panic!("{packet}: {error}"));
        check(&mut next, thread, number);
    }
    site.stop();
}

#[test]
fn a_server_that_does_not_run_refuses_to_emit() {
    let io = Server::new(Options::default()).expect("good options");
    assert!(matches!(io.emit("x", ()), Err(Error::NotRunning)));
    assert!(matches!(io.emit("disconnect", ()), Err(Error::ReservedEvent(_))));
    let site = serve(options(), |_| {});
    let io = site.io.clone();
    io.to("nobody").emit("x", ()).expect("runs");
    assert!(io.listen("127.0.0.1:0").is_err(), "a server listens once");
    site.stop();
    assert!(matches!(io.emit("x", ()), Err(Error::NotRunning)));
    assert!(matches!(io.disconnect_sockets(true), Err(Error::NotRunning)));
}

#[test]
fn the_client_is_acknowledged_once() {
    let site = serve(options(), |io| {
        io.on("twice", |_: Socket, event: Event| async move {
            assert!(event.wants_ack());
            event.ack("first").expect("connected");
            assert!(!event.wants_ack());
            event.ack("second").expect("ignored");
        });
        io.on("unasked", |_: Socket, event: Event| async move {
            assert!(!event.wants_ack());
            event.ack("nobody asked").expect("ignored");
        });
    });
    let mut client = WebSocket::connect(site.address);
    assert_eq!(client.ask("twice", ""), "[\"first\"]");
    client.emit("unasked", "");
    assert_eq!(client.ask("echo", "1,{\"a\":[]}"), "[1,{\"a\":[]}]");
    site.stop();
}

/// Asks the client and tells it how that ended.
async fn ask(socket: Socket, event: Event) {
    let ms: u64 = event.data().expect("milliseconds");
    let asked = socket.timeout(Duration::from_millis(ms)).emit_with_ack("question", ("why", 1));
    let result = match asked.await {
        Ok(reply) => reply.json().to_owned(),
        Err(error) => error.to_string(),
    };
    let _ = socket.emit("result", result);
}

#[test]
fn the_client_acknowledges_in_time_or_too_late() {
    let site = serve(options(), |io| {
        io.on("ask", ask);
    });
    let mut client = WebSocket::connect(site.address);
    client.emit("ask", "60000");
    let question = client.text();
    let id =
        question.strip_prefix("42").and_then(|rest| rest.strip_suffix("[\"question\",\"why\",1]"));
    let id = id.unwrap_or_else(|| panic!("{question}")).to_owned();
    client.send(&format!("43{id}[\"because\", {{\"a\":1}}]"));
    assert_eq!(client.text(), r#"42["result","\"because\", {\"a\":1}"]"#);
    // Once is enough.
    client.send(&format!("43{id}[\"again\"]"));
    client.emit("ask", "1");
    let question = client.text();
    assert!(question.ends_with("[\"question\",\"why\",1]"), "{question}");
    assert_eq!(client.text(), r#"42["result","operation has timed out"]"#);
    let late = question.replace("42", "43").replace("\"question\",", "");
    client.send(&late);
    assert_eq!(client.ask("echo", "1"), "[1]");
    site.stop();
}

#[test]
fn an_acknowledgement_is_lost_with_its_socket_and_there_is_a_limit() {
    let mut options = options();
    options.max_pending_acks = 2;
    let (tell, told) = mpsc::channel();
    let site = serve(options, |io| {
        io.on("ask", move |socket: Socket, _: Event| {
            let tell = tell.clone();
            async move {
                let error = socket.emit_with_ack("question", ()).await.expect_err("nobody answers");
                let _ = tell.send((error.to_string(), socket.is_connected()));
            }
        });
    });
    let mut client = WebSocket::connect(site.address);
    for _ in 0..3 {
        client.emit("ask", "");
    }
    let limit = ("limit reached: max_pending_acks".to_owned(), true);
    assert_eq!(told.recv_timeout(PATIENCE), Ok(limit));
    assert_eq!(client.text(), "420[\"question\"]");
    assert_eq!(client.text(), "421[\"question\"]");
    drop(client);
    for _ in 0..2 {
        let gone = ("socket is disconnected".to_owned(), false);
        assert_eq!(told.recv_timeout(PATIENCE), Ok(gone));
    }
    site.stop();
}

#[test]
fn part_of_the_arguments_is_relayed_as_it_came() {
    let site = serve(options(), |io| {
        io.on("rest", |socket: Socket, event: Event| async move {
            let _ = socket.emit("rest", event.raw().skip(1));
            let _ = socket.emit("first", event.raw().take(1));
        });
    });
    let mut client = WebSocket::connect(site.address);
    client.emit("rest", r#""a,]", [1 ,{"x":"\ud800"}],  2.50"#);
    assert_eq!(client.text(), r#"42["rest",[1 ,{"x":"\ud800"}],  2.50]"#);
    assert_eq!(client.text(), r#"42["first","a,]"]"#);
    client.emit("rest", "1");
    assert_eq!(client.text(), r#"42["rest"]"#);
    assert_eq!(client.text(), r#"42["first",1]"#);
    site.stop();
}
