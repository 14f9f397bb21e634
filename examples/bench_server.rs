//! The server that the load generator of `bench-harness` is pointed at: on `/`, event `pub` goes to
//! everyone as `msg`, `to` (room, data) to that room; `echo` comes back; `join` and `leave` (room)
//! are acknowledged.
//!
//! `cargo run --release --example bench_server -- --listen 127.0.0.1:4000 --cpus 0`

use std::cell::Cell;
use std::time::Duration;

use clap::Parser;
use corecast::{Event, Options, PerMessageDeflate, Server, SlowReader, Socket};
use rustix::time::{ClockId, clock_gettime};

/// Broadcasts and echoes as fast as it can.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:4000")]
    listen: std::net::SocketAddr,
    /// CPUs that get a shard each, e.g. 0,1; default: all.
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Milliseconds between two heartbeats.
    #[arg(long, default_value_t = 25_000)]
    ping_interval: u64,
    /// Milliseconds that a client has to answer one.
    #[arg(long, default_value_t = 20_000)]
    ping_timeout: u64,
    /// Let every client join this room as it connects, and send what `pub` brings to the room.
    #[arg(long)]
    room: Option<String>,
    /// Compress websocket messages of so many bytes or more.
    #[arg(long, value_name = "THRESHOLD")]
    deflate: Option<usize>,
    /// Bytes queued for one connection.
    #[arg(long)]
    max_queue_bytes: Option<usize>,
    /// Bytes of memory for what all connections of a shard have queued.
    #[arg(long)]
    max_shard_queue_bytes: Option<usize>,
    /// Drop events for connections whose queue is full instead of closing them.
    #[arg(long)]
    drop_slow: bool,
    /// Print counters and sizes to standard error every so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    stats: Option<u64>,
    /// Waste so many percent of the CPU time, to see whether a comparison notices.
    #[arg(long, default_value_t = 0)]
    handicap: u32,
}

/// CPU time of this thread so far.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Burns `percent` of the CPU time that this shard has used since the last event. With eight
/// broadcasts in flight it was seen to cost 21 to 95 % of a delivery.
fn waste(percent: u32) {
    thread_local!(static PAID: Cell<Duration> = const { Cell::new(Duration::ZERO) });
    if percent == 0 {
        return;
    }
    let now = thread_cpu();
    let until = now + (now - PAID.get()) * percent / 100;
    let mut now = now;
    while now < until {
        now = thread_cpu();
    }
    PAID.set(now);
}

fn main() -> Result<(), corecast::Error> {
    let arguments = Arguments::parse();
    let mut options = Options::default();
    options.cpus = arguments.cpus;
    options.ping_interval = Duration::from_millis(arguments.ping_interval);
    options.ping_timeout = Duration::from_millis(arguments.ping_timeout);
    options.per_message_deflate = arguments.deflate.map(|threshold| {
        let mut deflate = PerMessageDeflate::default();
        deflate.threshold = threshold;
        deflate
    });
    if let Some(bytes) = arguments.max_queue_bytes {
        options.max_queue_bytes = bytes;
    }
    if let Some(bytes) = arguments.max_shard_queue_bytes {
        options.max_shard_queue_bytes = bytes;
    }
    if arguments.drop_slow {
        options.slow_reader = SlowReader::Drop;
    }
    let handicap = arguments.handicap;
    let io = Server::new(options)?;
    if let Some(room) = arguments.room {
        all_in_one_room(&io, &room);
    } else {
        io.on("pub", move |socket: Socket, event: Event| async move {
            waste(handicap);
            let _ = socket.server().emit("msg", event.raw());
        });
    }
    io.on("echo", move |socket: Socket, event: Event| async move {
        waste(handicap);
        let _ = socket.emit("echo", event.raw());
    });
    io.on("to", move |socket: Socket, event: Event| async move {
        waste(handicap);
        let Ok(room) = event.data::<String>() else { return };
        let _ = socket.server().to(room).emit("msg", event.raw().skip(1));
    });
    io.on("join", |socket: Socket, event: Event| async move {
        let Ok(room) = event.data::<String>() else { return };
        if socket.join(room) {
            let _ = event.ack(());
        }
    });
    io.on("leave", |socket: Socket, event: Event| async move {
        let Ok(room) = event.data::<String>() else { return };
        socket.leave(room);
        let _ = event.ack(());
    });
    let running = io.listen(arguments.listen)?;
    eprintln!("listening on {}", running.addresses()[0]);
    if let Some(seconds) = arguments.stats {
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(seconds));
                let (stats, figures) = (io.stats(), figures(&io));
                // In one piece, for who reads the last line only.
                let lines = format!("{:?} {:?}\n{figures}", stats.totals, stats.gauges);
                eprintln!("{lines}");
            }
        });
    }
    running.join()
}

fn all_in_one_room(io: &Server, room: &str) {
    let (own, whole) = (room.to_owned(), room.to_owned());
    io.on_connect(move |socket: Socket| {
        socket.join(own.clone());
        async {}
    });
    io.on("pub", move |socket: Socket, event: Event| {
        let _ = socket.server().to(whole.clone()).emit("msg", event.raw());
        async {}
    });
}

/// What the server holds, and how evenly its shards share it.
fn figures(io: &Server) -> serde_json::Value {
    let (all, shards) = (io.stats(), io.shard_stats());
    let connections: Vec<usize> = shards.iter().map(|shard| shard.gauges.connections).collect();
    serde_json::json!({
        "shards": connections,
        "connections": all.gauges.connections,
        "sockets": all.gauges.sockets,
        "rooms": all.gauges.rooms,
        "pongs": all.totals.pongs,
        "ping_timeouts": all.totals.ping_timeouts,
        "slow_closed": all.totals.slow_closed,
    })
}
