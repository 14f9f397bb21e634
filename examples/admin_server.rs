//! The server that the official admin UI is tested against: the same program as
//! `tests/npm/admin-reference.mjs`, which says what it does.
//!
//! `cargo run --example admin_server -- --listen 127.0.0.1:4000`, then open the UI
//! (<https://admin.socket.io>, or the npm package) and log in as `admin` with `open sesame`.

use clap::{Parser, ValueEnum};
use corecast::{AdminMode, AdminOptions, BasicAuth, Cors, Event, Options, Origin, Server, Socket};

/// A small server with an admin UI.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:4000")]
    listen: std::net::SocketAddr,
    /// CPUs that get a shard each, e.g. 0,1; default: all.
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// What the UI may see.
    #[arg(long, value_enum, default_value = "development")]
    mode: Mode,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Development,
    Production,
}

fn main() -> Result<(), corecast::Error> {
    let arguments = Arguments::parse();
    let mut options = Options::default();
    options.cpus = arguments.cpus;
    // The UI comes from another origin, and asks with credentials.
    let mut cors = Cors::default();
    cors.origin = Origin::Reflect(true);
    cors.credentials = true;
    options.cors = Some(cors);
    let io = Server::new(options)?;
    let mut admin = AdminOptions::default();
    admin.auth = Some(BasicAuth {
        username: "admin".into(),
        password: "$2a$05$/ECbvrXqKxKZN7TWiCShLeKkE/pyh8lqvDtm9qNxNboupOOePwCMa".into(),
    });
    admin.server_id = "the server".into();
    admin.mode = match arguments.mode {
        Mode::Development => AdminMode::Development,
        Mode::Production => AdminMode::Production,
    };
    io.instrument(admin)?;
    for name in ["/", "/chat"] {
        io.of(name)
            .on_connect(|socket: Socket| async move {
                socket.join("lobby");
                let _ = socket.emit("welcome", socket.id());
            })
            .on("echo", |socket: Socket, event: Event| async move {
                let _ = socket.emit("echo", event.raw());
            })
            .on("say", |socket: Socket, event: Event| async move {
                let _ = socket.namespace().to("lobby").emit("said", event.raw());
            })
            .on("rooms", |socket: Socket, event: Event| async move {
                let mut rooms = socket.rooms();
                rooms.sort();
                let rooms: Vec<&str> = rooms.iter().map(|room| &**room).collect();
                let _ = event.ack(&rooms);
            })
            .on("name", |socket: Socket, event: Event| async move {
                if let Ok(name) = event.data::<String>() {
                    let _ = socket.set_data(&serde_json::json!({ "name": name }));
                }
            });
    }
    let running = io.listen(arguments.listen)?;
    // The line that tests wait for.
    #[allow(clippy::print_stdout)]
    {
        println!("listening on http://{}", running.addresses()[0]);
    }
    running.join()
}
