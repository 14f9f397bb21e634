//! The server that the test suite of the Socket.IO protocol expects (`docs/socket.io-protocol` in
//! the repository socketio/socket.io): heartbeats of 300 and 200 ms, two namespaces that greet
//! with what the client authenticated with, events that come back.
//!
//! `cargo run --example protocol_suite`, then the suite, which connects to port 3000.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use corecast::{Event, Options, Server, Socket};
use serde_json::{Value, json};

/// The server of the official protocol suite.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 is a free one.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// CPUs that get a shard each, e.g. 0,1; default: all.
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Milliseconds between a pong and the next ping.
    #[arg(long, default_value_t = 300)]
    ping_interval: u64,
    /// Milliseconds a client has to answer a ping.
    #[arg(long, default_value_t = 200)]
    ping_timeout: u64,
    /// Accept clients of Engine.IO 3 too.
    #[arg(long)]
    allow_eio3: bool,
}

#[expect(clippy::print_stdout, reason = "whoever starts it wants the address")]
fn main() -> Result<(), corecast::Error> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let mut options = Options::default();
    options.cpus = arguments.cpus;
    options.ping_interval = Duration::from_millis(arguments.ping_interval);
    options.ping_timeout = Duration::from_millis(arguments.ping_timeout);
    options.allow_eio3 = arguments.allow_eio3;
    let io = Server::new(options)?;
    io.on_connect(greet);
    io.of("/custom").on_connect(greet);
    io.on("message", |socket: Socket, event: Event| async move {
        let _ = socket.emit("message-back", event.raw());
    });
    io.on("message-with-ack", |_: Socket, event: Event| async move {
        let _ = event.ack(event.raw());
    });
    let running = io.listen(arguments.listen)?;
    println!("listening on http://{}", running.addresses()[0]);
    running.join()
}

async fn greet(socket: Socket) {
    let auth = socket.auth::<Value>().ok().filter(|auth| !auth.is_null());
    let _ = socket.emit("auth", auth.unwrap_or(json!({})));
}
