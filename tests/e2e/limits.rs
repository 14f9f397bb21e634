//! Limits of the server and of the system.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use corecast::{Event, Reason, SlowReader, Socket};

use super::client::{CONNECTS, PATIENCE, Polling, Stream, WebSocket};
use super::{CHILD, Site, child, eventually, is_alone, on_cpus, options, serve};

/// More than the kernel's buffers of a connection hold comes of this; it goes on until told.
async fn flood(socket: Socket, stop: Arc<AtomicBool>) {
    let text = "x".repeat(30_000);
    for number in 0.. {
        let sent = match stop.load(Ordering::Relaxed) {
            false => socket.emit("flood", (number, &text)),
            true => socket.emit("done", ()),
        };
        if sent.is_err() {
            return;
        }
        // The queue is to fill because nobody reads, not because there was no time to send.
        corecast::sleep(Duration::from_millis(1)).await;
    }
}

/// A server whose event `flood` begins a flood, and the flag that ends it.
fn flooding(policy: SlowReader) -> (Site, Arc<AtomicBool>, mpsc::Receiver<Reason>) {
    let mut options = options();
    options.max_queue_bytes = 200_000;
    options.slow_reader = policy;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let (told, reasons) = mpsc::channel();
    let site = serve(options, |io| {
        io.on("flood", move |socket: Socket, _: Event| flood(socket, flag.clone()));
        io.on_disconnect(move |_: Socket, reason| {
            let _ = told.send(reason);
            async {}
        });
    });
    (site, stop, reasons)
}

#[test]
fn a_slow_reader_is_disconnected() {
    let (site, _stop, reasons) = flooding(SlowReader::Disconnect);
    let mut good = WebSocket::connect(site.address);
    let mut slow = WebSocket::connect(site.address);
    slow.emit("flood", "");
    assert_eq!(reasons.recv_timeout(PATIENCE), Ok(Reason::TransportError));
    assert!(!slow.stream.rest().is_empty());
    assert_eq!(good.ask("echo", "1"), "[1]");
    site.until("the count", |stats| stats.totals.slow_closed == 1);
    assert_eq!(site.io.stats().totals.slow_dropped, 0);
    site.stop();
}

#[test]
fn a_slow_reader_misses_events_and_goes_on() {
    let (site, stop, reasons) = flooding(SlowReader::Drop);
    let mut slow = WebSocket::connect(site.address);
    slow.emit("flood", "");
    site.until("dropped packets", |stats| stats.totals.slow_dropped >= 10);
    let mut numbers = Vec::new();
    let has_gap = |numbers: &[u64]| numbers.last().is_some_and(|n| *n >= numbers.len() as u64);
    loop {
        let (name, args) = slow.event();
        if name == "done" {
            break;
        }
        numbers.push(args[0].as_u64().expect("a number"));
        if has_gap(&numbers) {
            stop.store(true, Ordering::Relaxed);
        }
    }
    assert!(has_gap(&numbers) && numbers[0] == 0);
    assert!(numbers.is_sorted_by(|a, b| a < b), "each once and in order: {numbers:?}");
    assert_eq!(site.io.stats().totals.slow_closed, 0);
    assert!(reasons.try_recv().is_err());
    site.stop();
}

/// Descriptors of this process.
fn open_files() -> usize {
    // One of them is that of the listing itself.
    std::fs::read_dir("/proc/self/fd").expect("procfs").count() - 1
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages = pages.split(' ').nth(1).expect("a number").parse::<usize>().expect("a number");
    pages * 4_096
}

/// `count` clients of all kinds, one after the other, and their ends of all kinds.
fn visit(address: SocketAddr, count: usize) {
    for number in 0..count {
        match number % 8 {
            0 => drop(Stream::connect(address)),
            1 => Stream::connect(address).write(b"GET /socket.io/?EIO"),
            2 => WebSocket::connect(address).stream.reset(),
            3 => WebSocket::connect(address).send("1"),
            4 => {
                let mut socket = WebSocket::connect(address);
                socket.emit("join", "\"room\"");
                socket.emit("echo", "1");
            }
            5 => Polling::connect(address).post("1"),
            6 => {
                let socket = WebSocket::upgrade(&Polling::connect_kept(address));
                drop(socket);
            }
            _ => assert_eq!(Stream::connect(address).request("GET", "/", "").0, 404),
        }
    }
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    if !is_alone("limits::a_thousand_connections_leave_nothing_behind") {
        return;
    }
    let site = serve(on_cpus(2), |io| {
        io.on("join", |socket: Socket, event: Event| async move {
            socket.join(event.data::<String>().expect("a room"));
        });
    });
    let quiet = || {
        site.until("everybody to be gone", |stats| {
            let came = CONNECTS.load(Ordering::Relaxed);
            stats.totals.accepted == came && stats.gauges == Default::default()
        });
    };
    // The first ones see to it that all shards run and have what they keep.
    visit(site.address, 200);
    quiet();
    let before = open_files();
    let memory = resident();
    for _ in 0..3 {
        visit(site.address, 1_000);
        quiet();
        eventually("descriptors to be closed", || open_files() == before);
    }
    // Less than a kilobyte for each of 3,000 that came and went: reused memory, not a leak.
    let grown = resident().saturating_sub(memory);
    assert!(grown < 3 << 20, "{grown} bytes more than before");
    site.stop();
    assert!(open_files() < before, "listeners and rings are closed, too");
}

/// Connections that the process may open once it listens; `preflight` wants to see some room.
const DESCRIPTORS: usize = 100;

/// Descriptors of this process with one idle server: once it has served somebody, it has all.
fn descriptors_in_use(site: &Site) -> usize {
    assert_eq!(Stream::connect(site.address).request("GET", "/", "").0, 404);
    site.until("the client to be gone", |stats| {
        stats.totals.bad_requests == 1 && stats.gauges.connections == 0
    });
    open_files()
}

#[test]
fn servers_come_and_go() {
    if !is_alone("limits::servers_come_and_go") {
        return;
    }
    let threads = || std::fs::read_dir("/proc/self/task").expect("procfs").count();
    let (files_before, threads_before) = (open_files(), threads());
    for round in 1..=20 {
        let site = serve(on_cpus(2), |_| {});
        let mut client = WebSocket::connect(site.address);
        assert_eq!(client.ask("echo", "1"), "[1]");
        drop(client);
        site.stop();
        // One eventfd of each executor is kept by glommio 0.9 itself.
        let kept = files_before + round * 2;
        eventually("descriptors to be closed", || open_files() <= kept);
        eventually("threads to end", || threads() == threads_before);
    }
}

/// A server in a process with few descriptors, until its standard input ends.
fn serve_with_few_descriptors() {
    let before = open_files();
    let trial = serve(options(), |_| {});
    let in_use = descriptors_in_use(&trial);
    trial.stop();
    let limit = (in_use + open_files() - before + DESCRIPTORS) as u64;
    // Before the server listens: the ring notes the limit when it begins to accept.
    rlimit::setrlimit(rlimit::Resource::NOFILE, limit, limit).expect("less is allowed");
    let site = serve(options(), |_| {});
    assert_eq!(descriptors_in_use(&site) + DESCRIPTORS, limit as usize);
    // For the parent process that started this test as its child.
    #[allow(clippy::print_stdout)]
    {
        println!("listening on {}", site.address);
    }
    std::io::stdin().read_to_end(&mut Vec::new()).expect("a pipe");
    site.stop();
}

#[test]
fn accepting_goes_on_when_descriptors_are_free_again() {
    if std::env::var_os(CHILD).is_some() {
        return serve_with_few_descriptors();
    }
    let mut command = child("limits::accepting_goes_on_when_descriptors_are_free_again");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("a child process");
    let out = BufReader::new(process.stdout.take().expect("a pipe"));
    let mut out = out.lines().map(|line| line.expect("UTF-8"));
    let listens = |line: String| line.split("listening on ").nth(1)?.parse().ok();
    let address: SocketAddr = out.find_map(listens).expect("the child listens");
    let mut err = BufReader::new(process.stderr.take().expect("a pipe")).lines();
    let welcome = |socket: WebSocket| {
        let mut socket = socket.shaken();
        assert!(socket.text().starts_with("0{"));
        socket.join("/");
        socket
    };
    let shake = |_| WebSocket::shake(address, "");
    let mut served: Vec<WebSocket> = (0..DESCRIPTORS).map(shake).map(welcome).collect();
    // The kernel completes these connections; the process cannot take them.
    let waiting: Vec<WebSocket> = (0..DESCRIPTORS / 2).map(shake).collect();
    err.find(|line| line.as_ref().is_ok_and(|line| line.contains("WARN shard 0: cannot accept")));
    for socket in &mut served {
        assert_eq!(socket.ask("echo", "1"), "[1]");
    }
    served.truncate(DESCRIPTORS / 2);
    served.extend(waiting.into_iter().map(welcome));
    for socket in &mut served {
        assert_eq!(socket.ask("echo", "2"), "[2]");
    }
    drop((process.stdin.take(), served));
    err.for_each(drop);
    assert!(out.any(|line| line.contains("1 passed")));
    assert!(process.wait().expect("the child's end").success());
}
