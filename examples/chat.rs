//! The smallest useful chat: people give a name, join a room, and talk.
//!
//! `cargo run --example chat`, then open http://localhost:4000/?room=tea&name=Ada in one window
//! and http://localhost:4000/?room=tea&name=Bob in another.

use corecast::{ConnectError, Event, Options, Reason, Server, Socket};
use serde::{Deserialize, Serialize};

/// What a client sends as `auth` when it connects.
#[derive(Clone, Deserialize)]
struct Hello {
    name: String,
    room: String,
}

/// What the others see. Anything that serde can write can be emitted.
#[derive(Serialize)]
struct Said<'a> {
    name: &'a str,
    text: &'a str,
}

/// Its script is the official client, which the server has on board.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>chat</title>
<ul id="log"></ul><form><input id="text" autofocus> <button>say</button></form>
<script src="/socket.io/socket.io.js"></script>
<script>
  const asked = new URLSearchParams(location.search);
  const auth = { name: asked.get("name") ?? "", room: asked.get("room") ?? "lobby" };
  const socket = io({ auth });
  const show = (line) => (log.appendChild(document.createElement("li")).textContent = line);
  socket.on("said", ({ name, text }) => show(`${name}: ${text}`));
  socket.on("connect_error", (error) => show(`not connected: ${error.message}`));
  document.forms[0].onsubmit = (event) => {
    event.preventDefault();
    socket.timeout(2000).emit("say", text.value, (error) => show(error ? "lost" : "sent"));
    text.value = "";
  };
</script>"#;

fn main() -> Result<(), corecast::Error> {
    let io = Server::new(Options::default())?;
    io.serve_file("/", "text/html; charset=utf-8", PAGE);

    // Asked before a client is let in. The client sees a refusal as `connect_error`.
    io.of("/").middleware(|socket: Socket| async move {
        match socket.auth::<Hello>() {
            Ok(hello) if !hello.name.is_empty() => {
                // Kept with the socket, to be read by the handlers below.
                socket.set(hello);
                Ok(())
            }
            _ => Err(ConnectError::new("say who you are: ?name=...")),
        }
    });

    // A handler runs on the CPU that owns the socket, so it needs no locks, and must not block.
    io.on_connect(|socket: Socket| async move {
        let Some(hello) = socket.get::<Hello>() else { return };
        // Rooms that clients choose get a prefix: a bare name may be the id of a socket.
        socket.join(format!("room:{}", hello.room));
        tell(&socket, "came");
    });
    io.on("say", |socket: Socket, event: Event| async move {
        let Ok(text) = event.data::<String>() else { return };
        tell(&socket, &text);
        let _ = event.ack(()); // calls the function that the client gave to its emit
    });
    io.on_disconnect(|socket: Socket, _: Reason| async move { tell(&socket, "left") });

    io.listen("0.0.0.0:4000")?.join()
}

/// Sends to everyone in the room but the socket itself.
fn tell(socket: &Socket, text: &str) {
    let Some(hello) = socket.get::<Hello>() else { return };
    let said = Said { name: &hello.name, text };
    let _ = socket.to(format!("room:{}", hello.room)).emit("said", &said);
}
