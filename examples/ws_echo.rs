//! A raw websocket echo on `/`, as conformance suites want one:
//! `cargo run --example ws_echo -- --listen 127.0.0.1:9001 --deflate`. It takes messages of up to
//! 64 MiB and says `listening on ADDRESS` once it does. `--level N` is that of the compression.

use std::io::Write;

use corecast::ws::{EndpointOptions, Message, WebSocket};
use corecast::{Options, PerMessageDeflate, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let mut options = Options::default();
    options.cpus = cpus(value("--cpus"))?;
    if args.iter().any(|arg| arg == "--deflate") {
        let mut deflate = PerMessageDeflate::default();
        deflate.threshold = 0;
        deflate.context_takeover = args.iter().any(|arg| arg == "--takeover");
        deflate.level = value("--level").map_or(Ok(deflate.level), |level| level.parse())?;
        options.per_message_deflate = Some(deflate);
    }
    let io = Server::new(options)?;
    let mut limits = EndpointOptions::default();
    limits.max_message_size = Some(64 << 20);
    limits.max_fragments = Some(1 << 20);
    limits.max_queue_bytes = Some(128 << 20);
    io.on_websocket("/", |socket: WebSocket, message: Message| async move {
        let _ = socket.send(&message);
    })
    .options(limits);
    let running = io.listen(value("--listen").as_deref().unwrap_or("127.0.0.1:9001"))?;
    let mut out = std::io::stdout();
    for address in running.addresses() {
        writeln!(out, "listening on {address}")?;
    }
    out.flush()?;
    Ok(running.join()?)
}

/// `0,1`; without the option all of them.
fn cpus(list: Option<String>) -> Result<Vec<usize>, std::num::ParseIntError> {
    let list = list.unwrap_or_default();
    list.split(',').filter(|cpu| !cpu.is_empty()).map(str::parse).collect()
}
