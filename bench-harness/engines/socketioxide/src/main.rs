//! socketioxide under the contract of the bench harness (its README, "Contract"). One thread.

use std::time::Duration;

use axum::serve::ListenerExt;
use serde_json::Value;
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let (mut address, mut ping_interval) = ("127.0.0.1:4000".to_string(), 25_000);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        match (flag.as_str(), arguments.next()) {
            ("--listen", Some(value)) => address = value,
            ("--ping-interval", Some(value)) => {
                ping_interval = value.parse().unwrap_or_else(|_| usage());
            }
            _ => usage(),
        }
    }
    let ping_interval = Duration::from_millis(ping_interval);
    let (layer, io) = SocketIo::builder().ping_interval(ping_interval).build_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on("pub", async |io: SocketIo, Data::<Value>(data)| {
            // A member whose buffer is full is an error here; the client notices what is missing.
            let _ = io.emit("msg", &data).await;
        });
        socket.on("to", async |io: SocketIo, Data::<(String, Value)>((room, data))| {
            let _ = io.to(room).emit("msg", &data).await;
        });
        socket.on("echo", async |socket: SocketRef, Data::<Value>(data)| {
            let _ = socket.emit("echo", &data);
        });
        socket.on("join", async |socket: SocketRef, Data::<String>(room), ack: AckSender| {
            socket.join(room);
            let _ = ack.send(&());
        });
        socket.on("leave", async |socket: SocketRef, Data::<String>(room), ack: AckSender| {
            socket.leave(room);
            let _ = ack.send(&());
        });
    });
    let listener = tokio::net::TcpListener::bind(address).await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, axum::Router::new().layer(layer)).await
}

fn usage() -> ! {
    eprintln!("usage: socketioxide-bench [--listen ADDRESS:PORT] [--ping-interval MS]");
    std::process::exit(2)
}
