//! Whole servers on loopback, through the public API, with clients that share no code with them.
//!
//! No test pins a time: each waits for what has to come, with a bound that is reached only when
//! something is broken.

#[path = "e2e/admin.rs"]
mod admin;
#[path = "e2e/asks.rs"]
mod asks;
#[path = "e2e/certificates.rs"]
mod certificates;
#[path = "e2e/client.rs"]
mod client;
#[path = "e2e/dynamic.rs"]
mod dynamic;
#[path = "e2e/emits.rs"]
mod emits;
#[path = "e2e/endpoints.rs"]
mod endpoints;
#[path = "e2e/ends.rs"]
mod ends;
#[path = "e2e/handlers.rs"]
mod handlers;
#[path = "e2e/limits.rs"]
mod limits;
#[path = "e2e/listeners.rs"]
mod listeners;
#[path = "e2e/log.rs"]
mod log;
#[path = "e2e/many.rs"]
mod many;
#[path = "e2e/overload.rs"]
mod overload;
#[path = "e2e/proxies.rs"]
mod proxies;
#[path = "e2e/recovery.rs"]
mod recovery;
#[path = "e2e/requests.rs"]
mod requests;
#[path = "e2e/shards.rs"]
mod shards;
#[cfg(feature = "tls")]
#[path = "e2e/tls.rs"]
mod tls;

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use client::PATIENCE;
use corecast::{Event, Options, Port, Running, Server, Socket, Stats};

/// A server that listens on a free port.
struct Site {
    io: Server,
    running: Running,
    address: SocketAddr,
}

/// Options of most tests: one shard.
fn options() -> Options {
    on_cpus(1)
}

/// Options with `shards` shards.
fn on_cpus(shards: usize) -> Options {
    let mut options = Options::default();
    options.cpus = (0..shards).collect();
    // No heartbeat among what the tests compare, however slow the machine is.
    options.ping_interval = 10 * PATIENCE;
    options
}

/// Starts a server. Beside what `register` registers it answers the event `echo` and its ack.
fn serve(options: Options, register: impl FnOnce(&Server)) -> Site {
    serve_on(options, vec![Port::from(SocketAddr::from(([127, 0, 0, 1], 0)))], register)
}

/// The same on these ports.
fn serve_on(options: Options, ports: Vec<Port>, register: impl FnOnce(&Server)) -> Site {
    log::install();
    let io = Server::new(options).expect("good options");
    io.on("echo", |socket: Socket, event: Event| async move {
        match event.wants_ack() {
            true => drop(event.ack(event.raw())),
            false => drop(socket.emit("echo", event.raw())),
        }
    });
    register(&io);
    let running = io.listen_on(ports).expect("listens");
    let address = running.addresses()[0];
    Site { io, running, address }
}

impl Site {
    /// Shuts the server down and waits for its end.
    fn stop(self) {
        self.io.shutdown();
        self.running.join().expect("all shards end well");
    }

    /// Waits until the counters are as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Stats) -> bool) {
        eventually(what, || wanted(&self.io.stats()));
    }
}

/// Waits for a state that nothing reports.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Name of the environment variable that tells a child process which test it is.
const CHILD: &str = "CORECAST_E2E_CHILD";

/// The command that runs the test `name` in a process of its own.
fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, name);
    command
}

/// For tests that look at the whole process. True in a child of its own; in the parent, runs the
/// child to its end and returns false.
fn is_alone(name: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let output = child(name).output().expect("a child process");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    false
}
