//! The server that the load generator of `bench-harness` is pointed at: on `/`, event `pub` goes to
//! everyone as `msg`, event `echo` comes back.
//!
//! `cargo run --release --example bench_server -- --listen 127.0.0.1:4000 --cpus 0`

use clap::Parser;
use corecast::{Event, Options, Server, Socket};

/// Broadcasts and echoes as fast as it can.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:4000")]
    listen: std::net::SocketAddr,
    /// CPUs that get a shard each, e.g. 0,1; default: all.
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
}

fn main() -> Result<(), corecast::Error> {
    let arguments = Arguments::parse();
    let mut options = Options::default();
    options.cpus = arguments.cpus;
    let io = Server::new(options)?;
    io.on("pub", |socket: Socket, event: Event| async move {
        let _ = socket.server().emit("msg", event.raw());
    });
    io.on("echo", |socket: Socket, event: Event| async move {
        let _ = socket.emit("echo", event.raw());
    });
    let running = io.listen(arguments.listen)?;
    eprintln!("listening on {}", running.addresses()[0]);
    running.join()
}
