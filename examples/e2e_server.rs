//! The server of the end-to-end tests: `tests/npm/fixture.mjs` on corecast. The table at the top of
//! that file says what each event does; the official JavaScript client runs against both.
//!
//! `cargo run --example e2e_server -- --listen 127.0.0.1:4000 --cpus 0,1`

#[path = "support/counted.rs"]
mod counted;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use corecast::tls::{Identity, Tls, TlsOptions};
use corecast::{
    Binary, Broadcast, ConnectError, Event, Namespace, Options, PerMessageDeflate, Port, Reason,
    Recovery, RemoteSocket, Server, Socket,
};
use corecast::{Cookie, Cors, Headers, Origin, Request};
use counted::Counted;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The server of the end-to-end tests.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 is a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// CPUs that get a shard each, e.g. 0,1; default: all.
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Milliseconds between a pong and the next ping.
    #[arg(long, default_value_t = 25_000)]
    ping_interval: u64,
    /// Milliseconds a client has to answer a ping.
    #[arg(long, default_value_t = 20_000)]
    ping_timeout: u64,
    /// Accept Socket.IO 2 clients too.
    #[arg(long)]
    allow_eio3: bool,
    /// json, msgpack or counted; see tests/npm/parsers.mjs.
    #[arg(long, default_value = "json")]
    parser: String,
    /// CORS, cookie and hooks on requests; see tests/npm/fixture.mjs.
    #[arg(long)]
    hooks: bool,
    /// Compress websocket messages.
    #[arg(long)]
    deflate: bool,
    /// Connection-state recovery, for that many milliseconds.
    #[arg(long)]
    recovery: Option<u64>,
    /// Speak TLS, with a certificate for 127.0.0.1 that is made up and written to this file.
    #[arg(long)]
    tls: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the tests read the address from the first line")]
fn main() -> Result<(), corecast::Error> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let mut options = Options::default();
    options.cpus = arguments.cpus;
    options.ping_interval = Duration::from_millis(arguments.ping_interval);
    options.ping_timeout = Duration::from_millis(arguments.ping_timeout);
    options.allow_eio3 = arguments.allow_eio3;
    options.parser = match arguments.parser.as_str() {
        "json" => corecast::Parser::Json,
        "msgpack" => corecast::Parser::MsgPack,
        "counted" => corecast::Parser::Custom(Arc::new(Counted)),
        _ => return Err(corecast::Error::Options("parser: json, msgpack or counted")),
    };
    if arguments.hooks {
        let mut cors = Cors::default();
        let pattern = Origin::pattern(r"\.page\.test$")?;
        cors.origin = Origin::List(vec![pattern, "http://page.test".into()]);
        cors.credentials = true;
        options.cors = Some(cors);
        options.cookie = Some(Cookie::default());
    }
    options.per_message_deflate = arguments.deflate.then(PerMessageDeflate::default);
    options.connection_state_recovery = arguments.recovery.map(|ms| {
        let mut recovery = Recovery::default();
        recovery.max_disconnection_duration = Duration::from_millis(ms);
        recovery
    });
    let io = Server::new(options)?;
    if arguments.hooks {
        hook(&io);
    }
    register(&io)?;
    let mut port = Port::from(arguments.listen);
    port.tls = arguments.tls.as_deref().map(made_up).transpose()?;
    let scheme = if port.tls.is_some() { "https" } else { "http" };
    let running = io.listen_on([port])?;
    stop_on_sigterm(io)?;
    println!("listening on {scheme}://{}", running.addresses()[0]);
    running.join()
}

/// TLS with a certificate of its own, which clients have to be given.
fn made_up(file: &Path) -> Result<Tls, corecast::Error> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
    let made = made.map_err(|error| corecast::Error::Tls(error.to_string()))?;
    let (chain, key) = (made.cert.pem().into_bytes(), made.signing_key.serialize_pem());
    std::fs::write(file, &chain)?;
    let identities = vec![Identity { chain, key: key.into_bytes() }];
    Tls::new(&TlsOptions { identities, ..TlsOptions::default() })
}

fn hook(io: &Server) {
    io.allow_request(|request: Request| async move {
        match request.header("x-forbid") {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(()),
        }
    });
    io.on_initial_headers(|headers: &mut Headers, request: &Request| {
        headers.set("X-First", request.query("transport").unwrap_or_default());
    });
    io.on_headers(|headers: &mut Headers, request: &Request| {
        headers.set("X-Every", request.method());
    });
}

/// Ends the sessions properly, so that disconnection handlers run and clients hear of it.
fn stop_on_sigterm(io: Server) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            io.shutdown();
        }
    });
    Ok(())
}

fn register(io: &Server) -> Result<(), corecast::Error> {
    for name in ["/", "/chat", "/notifications", "/admin"] {
        let namespace = io.of(name);
        namespace
            .on_connect(welcome)
            .on_disconnecting(|socket: Socket, reason| async move {
                report("peer:disconnecting", &socket, reason);
            })
            .on_disconnect(|socket: Socket, reason| async move {
                report("peer:disconnect", &socket, reason);
            })
            .on_error(|socket: Socket, message| async move {
                let _ = socket.emit("refused", json!({ "message": message }));
            });
        emits(&namespace);
        acks(&namespace);
        state(&namespace);
        many(&namespace);
        ends(&namespace);
        returning(&namespace);
    }
    let quiet = io.of("/quiet");
    returning(&quiet);
    quiet.on("all", |socket: Socket, event: Event| async move {
        let _ = socket.namespace().emit("all", event.raw());
    });
    io.of("/admin").middleware(admit_admins);
    io.on("notify", notify);
    let pattern = io.of_pattern(r"^/room-\d+$")?;
    let asked =
        io.of_dynamic(
            |name, auth| async move { name.starts_with("/asked-") && auth["open"] == true },
        );
    [pattern, asked].iter().for_each(|parent| dynamic(parent));
    io.of("/chat").on("say", say);
    Ok(())
}

/// What catch-all listeners have heard: events that came, events that went.
#[derive(Default)]
struct Heard(RefCell<[Vec<String>; 2]>);

fn dynamic(parent: &Namespace) {
    parent
        .on_connect(|socket: Socket| async move {
            socket.set(Heard::default());
            socket.on_any(|socket: Socket, event: Event| async move { note(&socket, 0, &event) });
            socket.on_any_outgoing(|socket: Socket, event: Event| async move {
                note(&socket, 1, &event);
            });
            socket.middleware(|_socket, event: Event| async move {
                match event.name() {
                    "forbidden" => Err("event refused".into()),
                    _ => Ok(()),
                }
            });
            socket.once("once", |_: Socket, event: Event| async move {
                let _ = event.ack("once");
            });
        })
        .on_error(|socket: Socket, message| async move {
            let _ = socket.emit("refused", json!({ "message": message }));
        })
        .on("all", |socket: Socket, event: Event| async move {
            let _ = socket.namespace().emit("all", event.raw());
        })
        .on("heard", |socket: Socket, event: Event| async move {
            let Some(heard) = socket.get::<Heard>() else { return };
            let [came, went] = heard.0.borrow().clone();
            let _ = event.ack((came, went));
        });
}

fn note(socket: &Socket, list: usize, event: &Event) {
    if let Some(heard) = socket.get::<Heard>() {
        heard.0.borrow_mut()[list].push(event.name().into());
    }
}

async fn admit_admins(socket: Socket) -> Result<(), ConnectError> {
    match socket.auth::<Value>() {
        Ok(auth) if auth["token"] == "secret" => {
            set_data(&socket, "role", "admin".into());
            Ok(())
        }
        _ => Err(ConnectError::new("not authorized")
            .with_data(json!({ "code": 401, "content": "retry later" }))),
    }
}

async fn welcome(socket: Socket) {
    let user = user_of(&socket);
    if let Some(user) = &user {
        socket.join(format!("user:{user}"));
    }
    let name = socket.namespace().name();
    let _ = socket.emit("welcome", json!({ "nsp": *name, "id": socket.id(), "user": user }));
    socket.middleware(|_socket, event: Event| async move {
        match event.name() {
            "forbidden" => Err("event refused".into()),
            _ => Ok(()),
        }
    });
}

fn user_of(socket: &Socket) -> Option<String> {
    let auth = socket.auth::<Value>().ok()?;
    Some(auth.get("user")?.as_str()?.to_owned())
}

/// Tells the watchers, who are in a namespace of their own, that a socket goes.
fn report(event: &str, socket: &Socket, reason: Reason) {
    let told = json!({
        "id": socket.id(),
        "nsp": *socket.namespace().name(),
        "reason": reason.as_str(),
        "rooms": rooms_of(socket),
    });
    let _ = socket.server().of("/notifications").emit(event, told);
}

/// Sorted as JavaScript sorts: by UTF-16 code unit.
fn rooms_of(socket: &Socket) -> Vec<String> {
    let mut rooms: Vec<String> = socket.rooms().iter().map(|room| room.to_string()).collect();
    rooms.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
    rooms
}

/// Events that are sent on to somebody.
fn emits(namespace: &Namespace) {
    namespace
        .on("echo", |socket: Socket, event: Event| async move {
            let _ = socket.emit("echo", event.raw());
        })
        .on("all", |socket: Socket, event: Event| async move {
            let _ = socket.namespace().emit("all", event.raw());
        })
        .on("broadcast", |socket: Socket, event: Event| async move {
            let _ = socket.broadcast().emit("broadcast", event.raw());
        })
        .on("relay", |socket: Socket, event: Event| async move {
            let Ok(room) = event.data::<String>() else { return };
            let _ = socket.to(room).emit("relay", event.raw().skip(1));
        })
        .on("to", |socket: Socket, event: Event| async move {
            let Ok(how) = event.data::<How>() else { return };
            let _ = how.select(&socket).emit("to", event.raw().skip(1));
        })
        .on("stream", stream)
        .on("volatile", volatile)
        .on("binary:make", make_binary);
}

/// The first argument of `to`.
#[derive(Deserialize)]
struct How {
    from: String,
    #[serde(default)]
    to: Vec<String>,
    #[serde(default)]
    except: Vec<String>,
}

impl How {
    fn select(self, socket: &Socket) -> Broadcast {
        let everyone = match self.from.as_str() {
            "io" => socket.namespace().broadcast(),
            _ => socket.broadcast(),
        };
        let rooms = self.to.into_iter().fold(everyone, Broadcast::to);
        self.except.into_iter().fold(rooms, Broadcast::except)
    }
}

/// A handler may take its time: while it sleeps, everybody is served.
async fn stream(socket: Socket, event: Event) {
    let Ok((n, ms)) = event.args::<(u32, u64)>() else { return };
    for i in 0..n {
        if ms > 0 {
            corecast::sleep(Duration::from_millis(ms)).await;
        }
        if socket.emit("stream", i).is_err() {
            return;
        }
    }
}

async fn volatile(socket: Socket, event: Event) {
    let Ok(n) = event.data::<u32>() else { return };
    for i in 0..n {
        let _ = socket.volatile().emit("volatile", i);
    }
    let _ = socket.emit("volatile:end", n);
}

/// `Binary` may stand anywhere in a value; it travels as an attachment.
#[derive(Serialize)]
struct Made {
    n: usize,
    bytes: Binary,
    nested: [Again; 1],
}

#[derive(Serialize)]
struct Again {
    again: Binary,
}

async fn make_binary(socket: Socket, event: Event) {
    let Ok(n) = event.data::<usize>() else { return };
    let bytes = Binary((0..n).map(|i| i as u8).collect());
    let made = Made { n, bytes: bytes.clone(), nested: [Again { again: bytes }] };
    let _ = socket.emit("binary:made", &made);
}

/// Events that ask for an answer, or make the server ask.
fn acks(namespace: &Namespace) {
    namespace
        .on("echo:ack", |_: Socket, event: Event| async move {
            let _ = event.ack(event.raw());
        })
        .on("ack:delay", |_: Socket, event: Event| async move {
            let Ok((ms, value)) = event.args::<(u64, Value)>() else { return };
            corecast::sleep(Duration::from_millis(ms)).await;
            let _ = event.ack(value);
        })
        .on("never", |_: Socket, _: Event| async {})
        .on("ünïcode 🎉", |_: Socket, event: Event| async move {
            let _ = event.ack("gehört 👂");
        })
        .on("binary:sum", |_: Socket, event: Event| async move {
            let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            let raw = event.raw();
            let found = raw.attachments().iter();
            let _ = event.ack(Value::from_iter(
                found.map(|bytes| json!({ "length": bytes.len(), "sum": sum(bytes) })),
            ));
        })
        .on("ask:me", ask);
}

/// Any value of the client's, attachments included.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Any {
    Bytes(Binary),
    Array(Vec<Any>),
    Object(BTreeMap<String, Any>),
    Plain(Value),
}

#[derive(Serialize)]
struct Answered {
    ok: bool,
    answers: Vec<Any>,
}

async fn ask(socket: Socket, event: Event) {
    let Ok((_, ms)) = event.args::<(IgnoredAny, u64)>() else { return };
    let question = event.raw().take(1);
    let answer = socket.timeout(Duration::from_millis(ms)).emit_with_ack("question", question);
    let _ = match answer.await.and_then(|raw| raw.args()) {
        Ok(answers) => socket.emit("ask:result", &Answered { ok: true, answers }),
        Err(_) => socket.emit("ask:result", json!({ "ok": false, "error": "timeout" })),
    };
}

/// What the server keeps for each socket.
fn state(namespace: &Namespace) {
    namespace
        .on("join", |socket: Socket, event: Event| async move {
            let Ok(rooms) = event.data::<Rooms>() else { return };
            socket.join(rooms.list());
            let _ = event.ack(&rooms_of(&socket));
        })
        .on("leave", |socket: Socket, event: Event| async move {
            let Ok(room) = event.data::<String>() else { return };
            socket.leave(room);
            let _ = event.ack(&rooms_of(&socket));
        })
        .on("rooms", |socket: Socket, event: Event| async move {
            let _ = event.ack(&rooms_of(&socket));
        })
        .on("data:set", |socket: Socket, event: Event| async move {
            let Ok((key, value)) = event.args::<(String, Value)>() else { return };
            set_data(&socket, &key, value);
            let _ = event.ack(());
        })
        .on("data:get", |socket: Socket, event: Event| async move {
            let Ok(key) = event.data::<String>() else { return };
            let data: Value = socket.data().unwrap_or_default();
            let _ = event.ack(data.get(&key).cloned().unwrap_or_default());
        })
        .on("handshake", |socket: Socket, event: Event| async move {
            let Some(handshake) = socket.handshake() else { return };
            let headers: HashMap<String, String> = handshake
                .headers()
                .into_iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
                .collect();
            let query: HashMap<String, String> = handshake.queries().into_iter().collect();
            let _ = event.ack(json!({
                "headers": headers,
                "query": query,
                "auth": socket.auth::<Value>().unwrap_or_default(),
                "address": handshake.address().ip().to_string(),
                "url": handshake.url(),
                "xdomain": handshake.is_cross_domain(),
                "secure": handshake.is_secure(),
            }));
        });
}

/// The argument of `join`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Rooms {
    One(String),
    Many(Vec<String>),
}

impl Rooms {
    fn list(self) -> Vec<String> {
        match self {
            Rooms::One(room) => vec![room],
            Rooms::Many(rooms) => rooms,
        }
    }
}

/// Changes one key of what is kept with the socket.
fn set_data(socket: &Socket, key: &str, value: Value) {
    let mut data: serde_json::Map<String, Value> = socket.data().unwrap_or_default();
    data.insert(key.into(), value);
    let _ = socket.set_data(&data);
}

/// What one does with many sockets, on whatever shard they are.
fn many(namespace: &Namespace) {
    namespace
        .on("ask:room", ask_room)
        .on("fetch", |socket: Socket, event: Event| async move {
            let Ok(room) = event.data::<Option<String>>() else { return };
            let Ok(found) = room_or_all(&socket, room).fetch_sockets().await else { return };
            let mut facts: Vec<Value> = found.iter().map(facts_of).collect();
            facts.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
            let _ = event.ack(&facts);
        })
        .on("sockets", |socket: Socket, event: Event| async move {
            let Ok((what, room, how)) = event.args::<(String, Option<String>, Change)>() else {
                return;
            };
            let sockets = room_or_all(&socket, room);
            let _ = match (what.as_str(), how) {
                ("join", Change::Rooms(rooms)) => sockets.sockets_join(rooms.list()),
                ("leave", Change::Rooms(rooms)) => sockets.sockets_leave(rooms.list()),
                (_, Change::Close(close)) => sockets.disconnect_sockets(close),
                _ => return,
            };
            let _ = event.ack(());
        })
        .on("remote", remote);
}

/// The last argument of `sockets`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Change {
    Close(bool),
    Rooms(Rooms),
}

fn room_or_all(socket: &Socket, room: Option<String>) -> Broadcast {
    let everyone = socket.namespace().broadcast();
    match room {
        Some(room) => everyone.to(room),
        None => everyone,
    }
}

async fn ask_room(socket: Socket, event: Event) {
    let Ok((room, _, ms)) = event.args::<(Option<String>, IgnoredAny, u64)>() else { return };
    let sockets = room_or_all(&socket, room).timeout(Duration::from_millis(ms));
    let question = event.raw().skip(1).take(1);
    let (ok, responses) = match sockets.emit_with_ack("question", question).await {
        Ok(responses) => (true, responses),
        Err(corecast::Error::Unanswered(unanswered)) => (false, unanswered.responses),
        Err(_) => return,
    };
    let responses: Vec<Any> = responses.iter().filter_map(|raw| raw.data().ok()).collect();
    let _ = socket.emit("ask:room:result", &Asked { ok, responses });
}

#[derive(Serialize)]
struct Asked {
    ok: bool,
    responses: Vec<Any>,
}

fn facts_of(socket: &RemoteSocket) -> Value {
    let mut rooms: Vec<String> = socket.rooms().iter().map(|room| room.to_string()).collect();
    rooms.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
    let auth: Value = socket.auth().unwrap_or_default();
    json!({
        "id": socket.id(),
        "rooms": rooms,
        "data": socket.data::<Value>().unwrap_or_default(),
        "user": auth.get("user").and_then(Value::as_str),
    })
}

async fn remote(socket: Socket, event: Event) {
    let Ok((id, what, how)) = event.args::<(String, String, Value)>() else { return };
    let Ok(found) = socket.namespace().to(id).fetch_sockets().await else { return };
    let Some(remote) = found.first() else { return drop(event.ack(false)) };
    let room = how.as_str().unwrap_or_default();
    let _ = match what.as_str() {
        "emit" => remote.emit("remote", &how),
        "join" => remote.join(room),
        "leave" => remote.leave(room),
        "disconnect" => remote.disconnect(how == true),
        _ => {
            let asked = remote.timeout(Duration::from_secs(30)).emit_with_ack("question", how);
            let Ok(answer) = asked.await else { return };
            return drop(event.ack(answer));
        }
    };
    let _ = event.ack(true);
}

/// The ways in which a server ends a connection.
fn ends(namespace: &Namespace) {
    namespace
        .on("disconnect:me", |socket: Socket, event: Event| async move {
            socket.disconnect(event.data().unwrap_or(false));
        })
        .on("drop", |socket: Socket, _: Event| async move {
            socket.close_connection();
        })
        .on("panic", |_: Socket, _: Event| async {
            panic!("a client has asked for it");
        });
}

/// For clients that come back.
fn returning(namespace: &Namespace) {
    namespace
        .on("recovered", |socket: Socket, event: Event| async move {
            let _ = event.ack(socket.recovered());
        })
        .on("all:volatile", |socket: Socket, event: Event| async move {
            let _ = socket.namespace().broadcast().volatile().emit("all:volatile", event.raw());
        });
}

#[derive(Deserialize)]
struct Notice {
    topic: Option<String>,
    text: Value,
}

async fn notify(socket: Socket, event: Event) {
    let Ok(Notice { topic, text }) = event.data() else { return };
    let watchers = socket.server().of("/notifications").broadcast();
    let selected = match topic {
        Some(topic) => watchers.to(topic),
        None => watchers,
    };
    let _ = selected.emit("notification", text);
    let _ = event.ack(());
}

async fn say(socket: Socket, event: Event) {
    let Ok((room, text)) = event.args::<(String, Value)>() else { return };
    let said = json!({ "id": socket.id(), "user": user_of(&socket), "text": text });
    let _ = socket.namespace().to(room).emit("said", said);
}
