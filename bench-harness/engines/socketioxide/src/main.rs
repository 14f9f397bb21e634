//! socketioxide under the contract of the bench harness: `pub` goes to everyone as `msg`,
//! `echo` goes back to its sender. Websocket only, one thread.

use axum::serve::ListenerExt;
use serde_json::Value;
use socketioxide::extract::{Data, SocketRef};
use socketioxide::{SocketIo, TransportType};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, flag, address] = arguments.as_slice() else { usage() };
    if flag != "--listen" {
        usage();
    }
    let (layer, io) = SocketIo::builder().transports([TransportType::Websocket]).build_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on("pub", async |io: SocketIo, Data::<Value>(data)| {
            // A member whose buffer is full is an error here; the client notices what is missing.
            let _ = io.emit("msg", &data).await;
        });
        socket.on("echo", async |socket: SocketRef, Data::<Value>(data)| {
            let _ = socket.emit("echo", &data);
        });
    });
    let listener = tokio::net::TcpListener::bind(address).await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, axum::Router::new().layer(layer)).await
}

fn usage() -> ! {
    eprintln!("usage: socketioxide-bench --listen ADDRESS:PORT");
    std::process::exit(2)
}
