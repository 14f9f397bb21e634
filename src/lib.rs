//! corecast: a Socket.IO server for Linux.
//!
//! Clients are those of Socket.IO: protocol 5, over long-polling and websocket, as the JavaScript
//! client speaks it from version 3.0 on; and those of 2.x, if [`Options::allow_eio3`] is on. The
//! server is this library: one *shard* per CPU core owns its sockets and their rooms on an io_uring
//! of its own; a broadcast is encoded once and leaves on every websocket as the same bytes.
//!
//! ```text
//!        clients          shard, one thread per core
//!      ┌─────────┐       ┌──────────────────────────────────────────────┐
//!      │ browser │◀─────▶│ HTTP, websocket ▶ Engine.IO ▶ Socket.IO      │
//!      └─────────┘       │                                   │ event    │
//!      ┌─────────┐       │ rooms ◀── emit, join ─── your handlers       │
//!      │ browser │◀─────▶│   └▶ the same bytes to every member          │
//!      └─────────┘       └──────────────────────────────────────────────┘
//!                                       ▲ broadcasts
//!                         other shards, your other threads, tokio
//! ```
//!
//! # Quick start
//!
//! ```
//! use corecast::{Event, Options, Server, Socket};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Message {
//!     from: String,
//!     text: String,
//! }
//!
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! fn main() -> Result<(), corecast::Error> {
//!     let io = Server::new(Options::default())?;
//!     io.on_connect(|socket: Socket| async move {
//!         socket.join("lobby");
//!         let _ = socket.to("lobby").emit("joined", socket.id());
//!     });
//!     io.on("message", |socket: Socket, event: Event| async move {
//!         let Ok(message) = event.data::<Message>() else { return };
//!         let _ = socket.server().to("lobby").emit("message", &message);
//!         let _ = event.ack("delivered");
//!     });
//!     let running = io.listen("127.0.0.1:0")?; // or "0.0.0.0:4000"; port 0 is a free one
//!     println!("listening on {}", running.addresses()[0]);
//! #     let mut client = Client::new(&running);
//! #     client.send(r#"21["message",{"from":"Ada","text":"hi"}]"#);
//! #     assert_eq!(client.read(), r#"2["message",{"from":"Ada","text":"hi"}]"#);
//! #     assert_eq!(client.read(), r#"31["delivered"]"#);
//! #     drop(client);
//! #     io.shutdown();
//!     running.join() // until somebody calls io.shutdown()
//! }
//! ```
//!
//! `examples/chat.rs` is a chat in one screen, with its page.
//!
//! The `corecast` command makes of it a gateway for backends in any language: `docs/gateway.md`.
//!
//! What does not work yet: WebTransport, several machines. The README keeps the list.
//!
//! # For those who know Socket.IO
//!
//! | Socket.IO | here |
//! |---|---|
//! | `new Server(options)`, `io.listen(port)` | [`Server::new`], [`Server::listen`] |
//! | `io.of("/chat")`, `nsp.use(fn)` | [`Server::of`], [`Namespace::middleware`] |
//! | `io.on("connection", fn)` | [`Namespace::on_connect`], also on [`Server`] for `/` |
//! | `socket.on("name", fn)` | [`Namespace::on`] for all sockets, [`Socket::on`] for one |
//! | `socket.on("disconnect", fn)` | [`Namespace::on_disconnect`], [`Socket::on_disconnect`] |
//! | `"disconnecting"`, `"error"` | [`Namespace::on_disconnecting`], [`Namespace::on_error`] |
//! | `socket.use(fn)` | [`Socket::middleware`] |
//! | `socket.emit("name", a, b)` | [`Socket::emit`]`("name", (a, b))` |
//! | `socket.timeout(ms).emitWithAck(…)` | [`Socket::timeout`], [`Emit::emit_with_ack`] |
//! | the callback of a listener | [`Event::ack`] |
//! | `io.emit`, `io.to(room)`, `except` | [`Server::emit`], [`Server::to`], [`Broadcast`] |
//! | `socket.volatile`, `io.volatile` | [`Socket::volatile`], [`Broadcast::volatile`] |
//! | `socket.broadcast`, `socket.to(room)` | [`Socket::broadcast`], [`Socket::to`] |
//! | `socket.join`, `leave`, `rooms` | [`Socket::join`], [`Socket::leave`], [`Socket::rooms`] |
//! | `io.in(room).socketsJoin`, `socketsLeave` | [`Broadcast::sockets_join`], `sockets_leave` |
//! | `io.timeout(ms).emitWithAck(…)` | [`Broadcast::timeout`], [`Broadcast::emit_with_ack`] |
//! | `io.in(room).disconnectSockets` | [`Broadcast::disconnect_sockets`] |
//! | `socket.data` | [`Socket::set`], [`Socket::get`]; [`Socket::set_data`] for others to see |
//! | `io.fetchSockets()`, `allSockets()` | [`Broadcast::fetch_sockets`], [`Broadcast::fetch_ids`] |
//! | `(await io.in(room).fetchSockets()).length` | [`Broadcast::count_sockets`] |
//! | `adapter.rooms`, `io._nsps` | [`Namespace::fetch_rooms`], [`Server::fetch_namespaces`] |
//! | `socket.conn` `"drain"` | [`Socket::drained`], [`Socket::queued_bytes`] |
//! | `socket.handshake`, its `auth` | [`Socket::handshake`], [`Socket::auth`] |
//! | `socket.disconnect(close)` | [`Socket::disconnect`] |
//! | `socket.conn.close()` | [`Socket::close_connection`] |
//! | `io.close()` | [`Server::shutdown`], [`Running::join`] |
//! | `io.of(/pattern/)`, `io.of(fn)` | [`Server::of_pattern`], [`Server::of_dynamic`] |
//! | `io.engine.use(fn)`, `allowRequest` | [`Server::use_http`], [`Server::allow_request`] |
//! | `io.engine.generateId` | [`Server::generate_id`] |
//! | `io.engine` `"headers"`, `"initial_headers"` | [`Server::on_headers`], `on_initial_headers` |
//! | `io.engine` `"connection_error"` | [`Server::on_connection_error`] |
//! | `socket.once`, `off`, `onAny` and kin | [`Socket::once`], `off`, [`Socket::on_any`] |
//! | `adapter.on("create-room", fn)` and the like | [`Namespace::on_create_room`] and kin |
//! | `socket.conn.on("upgrade", fn)` | [`Namespace::on_upgrade`] |
//! | `io.on("new_namespace", fn)` | [`Server::on_new_namespace`] |
//! | `socket.recovered` | [`Socket::recovered`], [`Options::connection_state_recovery`] |
//! | `instrument(io, options)` | [`Server::instrument`] |
//! | `cors`, `cookie`, `parser`, `allowEIO3`, … | fields of [`Options`] |
//!
//! Letters and numbers such as "J-7" in these pages name rows of the behaviour inventory that the
//! tests follow, one test per row (`tests/hub_bytes`).
//!
//! # Where code runs
//!
//! Handlers are async closures. They run on the shard of their socket, one at a time up to their
//! first `await`, so what one socket keeps needs no locks and futures need not be `Send`;
//! [`Socket`], [`Event`] and [`AckFuture`] stay on their shard. What sockets share may be touched
//! by several shards at a time and needs a lock of its own.
//!
//! What blocks must not run in a handler, not even `std::thread::sleep`: it would hold up every
//! socket of the shard, and is logged with the handler's name after [`Options::stall_warning`].
//! Wait with [`sleep`], or see [From any thread](#from-any-thread-also-of-another-runtime).
//!
//! Handlers of a namespace are registered before the server listens and cost no memory per
//! connection.
//!
//! # Guide
//!
//! Every example is run by the tests against a client. The comments show the client's JavaScript.
//!
//! ## To one, to all, to all others
//!
//! ```
//! use corecast::{Event, Socket};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! io.on("hello", |socket: Socket, _: Event| async move {
//!     let _ = socket.emit("to you", "one");                 // this client
//!     let _ = socket.broadcast().emit("to others", "two");  // all of its namespace but this one
//!     let _ = socket.server().emit("to all", "three");      // all of `/`
//! });
//! // socket.emit("hello")
//! # let running = io.listen("127.0.0.1:0")?;
//! # let (mut ada, mut bob) = (Client::new(&running), Client::new(&running));
//! # ada.send(r#"2["hello"]"#);
//! # assert_eq!(ada.read(), r#"2["to you","one"]"#);
//! # assert_eq!(ada.read(), r#"2["to all","three"]"#);
//! # assert_eq!(bob.read(), r#"2["to others","two"]"#);
//! # assert_eq!(bob.read(), r#"2["to all","three"]"#);
//! # stop(running, [ada, bob])
//! # }
//! ```
//!
//! `socket.volatile()` and `broadcast().volatile()` drop the event for clients that still have a
//! send under way, or on polling no request waiting.
//!
//! ## Namespaces
//!
//! Those of one client share its connection. A name that was not registered is refused ("Invalid
//! namespace").
//!
//! ```
//! use corecast::{Event, Socket};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! io.of("/chat").on("message", |socket: Socket, event: Event| async move {
//!     let _ = socket.namespace().emit("message", event.raw());  // all of /chat
//!     let _ = socket.server().of("/admin").emit("seen", event.raw());
//! });
//! io.of("/notifications").on_connect(|socket: Socket| async move {
//!     let _ = socket.emit("unread", 3);
//! });
//! io.of("/admin");
//! // const chat = io("/chat"), notifications = io("/notifications"), admin = io("/admin")
//! # let running = io.listen("127.0.0.1:0")?;
//! # let mut client = Client::open(&running, "", &[]);
//! # assert!(client.join("0/chat,").starts_with("0/chat,{\"sid\""));
//! # assert!(client.join("0/notifications,").starts_with("0/notifications,"));
//! # assert_eq!(client.read(), r#"2/notifications,["unread",3]"#);
//! # assert!(client.join("0/admin,").starts_with("0/admin,"));
//! # assert_eq!(client.join("0/other,"), r#"4/other,{"message":"Invalid namespace"}"#);
//! # client.send(r#"2/chat,["message","hi"]"#);
//! # assert_eq!(client.read(), r#"2/chat,["message","hi"]"#);
//! # assert_eq!(client.read(), r#"2/admin,["seen","hi"]"#);
//! # stop(running, [client])
//! # }
//! ```
//!
//! ## Rooms
//!
//! A room exists while somebody is in it. Every socket is in the room of its own id, so an id can
//! stand wherever a room can; a prefix keeps rooms that clients name apart from ids.
//!
//! ```
//! use corecast::{Event, Socket};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! io.on("enter", |socket: Socket, event: Event| async move {
//!     let Ok(room) = event.data::<String>() else { return };
//!     let _ = event.ack(socket.join(&room));  // true, unless it is there already
//! });
//! io.on("leave", |socket: Socket, event: Event| async move {
//!     let Ok(room) = event.data::<String>() else { return };
//!     let _ = event.ack(socket.leave(&room));
//! });
//! io.on("say", |socket: Socket, event: Event| async move {
//!     let Ok((room, text)) = event.args::<(String, String)>() else { return };
//!     let _ = socket.to(&room).emit("said", &text);  // all in the room but this socket
//! });
//! // socket.emit("enter", "room1", (isNew) => …);  socket.emit("say", "room1", "hello")
//!
//! let to_room = || io.to("room1").emit("notice", "all in room1");
//! let chained = || io.to("room1").to("room2").except("muted").emit("notice", "in either, once");
//! # let running = io.listen("127.0.0.1:0")?;
//! # let [mut ada, mut bob, mut eve] = [(); 3].map(|()| Client::new(&running));
//! # let enter = |client: &mut Client, room: &str| {
//! #     client.send(&format!(r#"21["enter","{room}"]"#));
//! #     assert_eq!(client.read(), "31[true]");
//! # };
//! # enter(&mut ada, "room1");
//! # ["room1", "room2"].map(|room| enter(&mut bob, room));
//! # ["room2", "muted"].map(|room| enter(&mut eve, room));
//! # ada.send(r#"2["say","room1","hello"]"#);
//! # assert_eq!(bob.read(), r#"2["said","hello"]"#);
//! # to_room()?;
//! # assert_eq!(ada.read(), r#"2["notice","all in room1"]"#);
//! # assert_eq!(bob.read(), r#"2["notice","all in room1"]"#);
//! # chained()?;
//! # assert_eq!(ada.read(), r#"2["notice","in either, once"]"#);
//! # assert_eq!(bob.read(), r#"2["notice","in either, once"]"#);
//! # bob.send(r#"21["leave","room1"]"#);
//! # assert_eq!(bob.read(), "31[true]");
//! # to_room()?;
//! # io.to("room2").emit("last", ())?;
//! # assert_eq!(ada.read(), r#"2["notice","all in room1"]"#);
//! # assert_eq!(bob.read(), r#"2["last"]"#);
//! # assert_eq!(eve.read(), r#"2["last"]"#);
//! # stop(running, [ada, bob, eve])
//! # }
//! ```
//!
//! ## Acknowledgements
//!
//! ```
//! use std::time::Duration;
//! use corecast::{Error, Event, Socket};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! // The client asks: socket.emit("add", 1, 2, (sum) => …)
//! io.on("add", |_: Socket, event: Event| async move {
//!     if let Ok((a, b)) = event.args::<(i64, i64)>() {
//!         let _ = event.ack(a + b);
//!     }
//! });
//! // The server asks: socket.on("why", (topic, answer) => answer("because"))
//! io.on("ask me", |socket: Socket, _: Event| async move {
//!     let asked = socket.timeout(Duration::from_millis(300)).emit_with_ack("why", "rust");
//!     let _ = match asked.await {
//!         Ok(answer) => socket.emit("thanks", answer),
//!         Err(Error::Timeout) => socket.emit("too late", ()),
//!         Err(error) => Err(error),  // the socket has gone
//!     };
//! });
//! # let running = io.listen("127.0.0.1:0")?;
//! # let mut client = Client::new(&running);
//! # client.send(r#"27["add",1,2]"#);
//! # assert_eq!(client.read(), "37[3]");
//! # client.send(r#"2["ask me"]"#);
//! # assert_eq!(client.read(), r#"20["why","rust"]"#);
//! # client.send(r#"30["because"]"#);
//! # assert_eq!(client.read(), r#"2["thanks","because"]"#);
//! # client.send(r#"2["ask me"]"#);
//! # assert_eq!(client.read(), r#"21["why","rust"]"#);
//! # assert_eq!(client.read(), r#"2["too late"]"#);
//! # stop(running, [client])
//! # }
//! ```
//!
//! ## Middleware: who may come in
//!
//! ```
//! use corecast::{ConnectError, Socket};
//! use serde_json::json;
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! io.of("/admin").middleware(|socket: Socket| async move {
//!     match socket.auth::<serde_json::Value>() {
//!         Ok(auth) if auth["token"] == "secret" => Ok(()),
//!         _ => Err(ConnectError::new("not authorized").with_data(json!({ "code": 401 }))),
//!     }
//! });
//! // const socket = io("/admin", { auth: { token: "secret" } });
//! // socket.on("connect_error", (error) => { error.message; error.data.code })
//! # let running = io.listen("127.0.0.1:0")?;
//! # let mut client = Client::open(&running, "", &[]);
//! # let refused = r#"4/admin,{"message":"not authorized","data":{"code":401}}"#;
//! # assert_eq!(client.join("0/admin,"), refused);
//! # assert_eq!(client.join(r#"0/admin,{"token":"guess"}"#), refused);
//! # assert!(client.join(r#"0/admin,{"token":"secret"}"#).starts_with("0/admin,{\"sid\""));
//! # stop(running, [client])
//! # }
//! ```
//!
//! ## Middleware: which events are handled
//!
//! ```
//! use corecast::{Event, Socket};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! io.on_connect(|socket: Socket| async move {
//!     socket.middleware(|_: Socket, event: Event| async move {
//!         if event.name() == "forbidden" { Err("not for you".into()) } else { Ok(()) }
//!     });
//! });
//! io.on("forbidden", |_: Socket, _: Event| async { unreachable!("it was refused") });
//! io.on("allowed", |socket: Socket, _: Event| async move {
//!     let _ = socket.emit("done", ());
//! });
//! // Called with the refusal; also before a connection that sent nonsense is closed.
//! io.of("/").on_error(|socket: Socket, message: String| async move {
//!     let _ = socket.emit("refused", &message);
//! });
//! # let running = io.listen("127.0.0.1:0")?;
//! # let mut client = Client::new(&running);
//! # client.send(r#"2["forbidden"]"#);
//! # assert_eq!(client.read(), r#"2["refused","not for you"]"#);
//! # client.send(r#"2["allowed"]"#);
//! # assert_eq!(client.read(), r#"2["done"]"#);
//! # stop(running, [client])
//! # }
//! ```
//!
//! ## Leaving
//!
//! ```
//! use corecast::{Event, Reason, Socket};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! io.on_connect(|socket: Socket| async move {
//!     socket.join("crew");
//! });
//! io.of("/").on_disconnecting(|socket: Socket, _: Reason| async move {
//!     for room in socket.rooms().iter().skip(1) {  // the first is its own id
//!         let _ = socket.to(room).emit("leaving", &**room);
//!     }
//! });
//! io.on_disconnect(|socket: Socket, reason: Reason| async move {
//!     assert!(socket.rooms().is_empty() && !socket.is_connected());
//!     let _ = socket.server().emit("left", reason.as_str());
//! });
//! io.on("bye", |socket: Socket, event: Event| async move {
//!     // The client sees `disconnect` with "io server disconnect". With true its whole connection
//!     // is closed, all namespaces included.
//!     socket.disconnect(event.data().unwrap_or(false));
//! });
//! # let running = io.listen("127.0.0.1:0")?;
//! # let [mut ada, mut bob, mut eve] = [(); 3].map(|()| Client::new(&running));
//! # bob.send(r#"2["bye"]"#);
//! # assert_eq!(bob.read(), "1");
//! # eve.send(r#"2["bye",true]"#);
//! # let mut heard: Vec<String> = (0..4).map(|_| ada.read()).collect();
//! # heard.sort();
//! # assert_eq!(heard[0], r#"2["leaving","crew"]"#);
//! # assert_eq!(heard[2], r#"2["left","server namespace disconnect"]"#);
//! # drop(bob);
//! # ada.send("1");
//! # stop(running, [ada, eve])
//! # }
//! ```
//!
//! ## Handshake
//!
//! ```
//! use corecast::Socket;
//! use serde::Deserialize;
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! #[derive(Deserialize)]
//! struct Auth {
//!     user: String,
//! }
//!
//! io.on_connect(|socket: Socket| async move {
//!     let Some(handshake) = socket.handshake() else { return };  // the socket has gone
//!     let Ok(Auth { user }) = socket.auth() else { return };
//!     let agent = handshake.header("user-agent").unwrap_or_default();
//!     let version = handshake.query("version").unwrap_or_default();
//!     let ip = handshake.address().ip().to_string();
//!     let _ = socket.emit("you are", (user, agent, version, ip));
//! });
//! // io({ auth: { user: "ada" }, query: { version: "7" } })
//! # let running = io.listen("127.0.0.1:0")?;
//! # let mut client = Client::open(&running, "&version=7", &[("User-Agent", "test")]);
//! # client.join(r#"0{"user":"ada"}"#);
//! # assert_eq!(client.read(), r#"2["you are","ada","test","7","127.0.0.1"]"#);
//! # stop(running, [client])
//! # }
//! ```
//!
//! ## Data of a socket
//!
//! ```
//! use std::cell::Cell;
//! use corecast::{Event, Socket};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! struct Clicks(Cell<u32>);  // one value of each type; no locks, it stays on its shard
//!
//! io.on_connect(|socket: Socket| async move {
//!     socket.set(Clicks(Cell::new(0)));
//! });
//! io.on("click", |socket: Socket, event: Event| async move {
//!     let Some(clicks) = socket.get::<Clicks>() else { return };
//!     clicks.0.set(clicks.0.get() + 1);
//!     let _ = event.ack(clicks.0.get());
//! });
//! # let running = io.listen("127.0.0.1:0")?;
//! # let (mut ada, mut bob) = (Client::new(&running), Client::new(&running));
//! # for answer in ["31[1]", "31[2]"] {
//! #     ada.send(r#"21["click"]"#);
//! #     assert_eq!(ada.read(), answer);
//! # }
//! # bob.send(r#"21["click"]"#);
//! # assert_eq!(bob.read(), "31[1]");
//! # stop(running, [ada, bob])
//! # }
//! ```
//!
//! ## Handlers of a namespace, and of one socket
//!
//! ```
//! use corecast::{Event, Socket};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! io.on("ping all", |socket: Socket, _: Event| async move {  // for every socket of `/`
//!     let _ = socket.emit("pong", "namespace");
//! });
//! io.on_connect(|socket: Socket| async move {
//!     let is_vip = socket.handshake().is_some_and(|handshake| handshake.query("vip").is_some());
//!     if is_vip {
//!         // For this socket, after those of the namespace. Costs memory per socket.
//!         socket.on("ping all", |socket: Socket, _: Event| async move {
//!             let _ = socket.emit("pong", "socket");
//!         });
//!         socket.on_disconnect(|socket: Socket, _| async move {
//!             let _ = socket.server().emit("vip left", ());
//!         });
//!     }
//! });
//! # let running = io.listen("127.0.0.1:0")?;
//! # let (mut ada, mut vip) = (Client::new(&running), Client::open(&running, "&vip=1", &[]));
//! # vip.join("0");
//! # for client in [&mut ada, &mut vip] {
//! #     client.send(r#"2["ping all"]"#);
//! #     assert_eq!(client.read(), r#"2["pong","namespace"]"#);
//! # }
//! # assert_eq!(vip.read(), r#"2["pong","socket"]"#);
//! # vip.send("1");
//! # assert_eq!(ada.read(), r#"2["vip left"]"#);
//! # stop(running, [ada, vip])
//! # }
//! ```
//!
//! ## From any thread, also of another runtime
//!
//! [`Server`], [`Namespace`], [`Broadcast`] and [`Raw`] may cross threads. A [`Socket`] may not:
//! send its id.
//!
//! ```
//! use corecast::{Event, Socket};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! io.on("lookup", |socket: Socket, event: Event| async move {
//!     let Ok(key) = event.data::<String>() else { return };
//!     let (io, id) = (socket.server(), socket.id().to_owned());
//!     std::thread::spawn(move || {
//!         // Something that blocks; then to that one socket, wherever it is.
//!         let _ = io.to(id).emit("found", key.len());
//!     });
//! });
//! let running = io.listen("127.0.0.1:0")?;
//! # let mut client = Client::new(&running);
//!
//! let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! let handle = running.server().clone();
//! let task = runtime.spawn(async move { handle.emit("news", "from tokio") });
//! runtime.block_on(task).expect("the task ends")?;
//! # assert_eq!(client.read(), r#"2["news","from tokio"]"#);
//! # client.send(r#"2["lookup","key"]"#);
//! # assert_eq!(client.read(), r#"2["found",3]"#);
//! # stop(running, [client])
//! # }
//! ```
//!
//! A handler can also await what another thread sends it, by any channel that does not belong to a
//! runtime:
//!
//! ```
//! use corecast::{Event, Socket};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! let handle = runtime.handle().clone();
//! io.on("count", move |_: Socket, event: Event| {
//!     let handle = handle.clone();
//!     async move {
//!         let Ok(text) = event.data::<String>() else { return };
//!         let (answer, answered) = tokio::sync::oneshot::channel();
//!         handle.spawn(async move { answer.send(text.len()) });  // a database, say
//!         if let Ok(length) = answered.await {
//!             let _ = event.ack(length);
//!         }
//!     }
//! });
//! # let (quit, quitting) = tokio::sync::oneshot::channel::<()>();
//! # let thread = std::thread::spawn(move || runtime.block_on(quitting));
//! # let running = io.listen("127.0.0.1:0")?;
//! # let mut client = Client::new(&running);
//! # for _ in 0..50 {
//! #     client.send(r#"21["count","four"]"#);
//! #     assert_eq!(client.read(), "31[4]");
//! # }
//! # drop(quit);
//! # let _ = thread.join();
//! # stop(running, [client])
//! # }
//! ```
//!
//! ## Typed, binary and untouched arguments
//!
//! ```
//! use corecast::{Binary, Event, Socket};
//! use serde::{Deserialize, Serialize};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! #[derive(Serialize, Deserialize)]
//! struct Upload {
//!     name: String,
//!     content: Binary,  // anywhere in a value; a Buffer or an ArrayBuffer in JavaScript
//! }
//!
//! io.on("upload", |_: Socket, event: Event| async move {
//!     // The first argument; `event.args::<(A, B)>()` gives all.
//!     let answer = match event.data::<Upload>() {
//!         Ok(upload) => format!("{}: {} bytes", upload.name, upload.content.0.len()),
//!         Err(error) => error.to_string(),
//!     };
//!     let _ = event.ack(answer);
//! });
//! io.on("download", |socket: Socket, _: Event| async move {
//!     let content = Binary(vec![1, 2, 3].into());
//!     // A reference is one argument, a tuple is several, () is none.
//!     let _ = socket.emit("file", &Upload { name: "a.bin".into(), content });
//!     let _ = socket.emit("progress", ("a.bin", 100));
//! });
//! io.on("relay", |socket: Socket, event: Event| async move {
//!     let Ok(room) = event.data::<String>() else { return };
//!     // All arguments behind the first, attachments included: checked, but not decoded.
//!     let _ = socket.to(room).emit("relayed", event.raw().skip(1));
//! });
//! # io.on_connect(|socket: Socket| async move { drop(socket.join("all")) });
//! # let running = io.listen("127.0.0.1:0")?;
//! # let (mut ada, mut bob) = (Client::new(&running), Client::new(&running));
//! # let placeholder = r#"{"_placeholder":true,"num":0}"#;
//! # ada.send(&format!(r#"51-1["upload",{{"name":"b","content":{placeholder}}}]"#));
//! # ada.send_bytes(b"abcd");
//! # assert_eq!(ada.read(), r#"31["b: 4 bytes"]"#);
//! # ada.send(r#"21["upload",1]"#);
//! # assert!(ada.read().contains("invalid type"));
//! # ada.send(r#"2["download"]"#);
//! # let file = format!(r#"51-["file",{{"name":"a.bin","content":{placeholder}}}]"#);
//! # assert_eq!([ada.read(), ada.read()], [file, "010203".into()]);
//! # assert_eq!(ada.read(), r#"2["progress","a.bin",100]"#);
//! # ada.send(&format!(r#"51-["relay","all", 1.50, {placeholder}]"#));
//! # ada.send_bytes(b"xy");
//! # assert_eq!(bob.read(), format!(r#"51-["relayed",1.50, {placeholder}]"#));
//! # assert_eq!(bob.read(), "7879");
//! # stop(running, [ada, bob])
//! # }
//! ```
//!
//! ## A handler that panics
//!
//! Its client's connection is closed (`forced close`), the panic is logged with the handler's name,
//! and everybody else is served. It needs `panic = "unwind"`, Rust's default.
//!
//! ```
//! use corecast::{Event, Socket};
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! io.on("divide", |_: Socket, event: Event| async move {
//!     let Ok((a, b)) = event.args::<(i64, i64)>() else { return };
//!     let _ = event.ack(a / b);  // panics when b is 0
//! });
//! # let running = io.listen("127.0.0.1:0")?;
//! # let (mut ada, mut bob) = (Client::new(&running), Client::new(&running));
//! # ada.send(r#"21["divide",1,0]"#);
//! # assert_eq!(ada.read(), "closed");
//! # bob.send(r#"21["divide",4,2]"#);
//! # assert_eq!(bob.read(), "31[2]");
//! # stop(running, [ada, bob])
//! # }
//! ```
//!
//! ## Overload
//!
//! What a client does not take waits for it, up to [`Options::max_queue_bytes`] each and
//! [`Options::max_shard_queue_bytes`] together; what happens there says [`Options::slow_reader`],
//! and volatile events ([`Broadcast::volatile`]) are not even queued. Others do not notice. If
//! clients publish more than the server can send, events that go to the same client leave together,
//! and beyond that the server reads from clients more slowly, so that they wait and not the
//! server's memory; heartbeats go on. Handlers and threads that emit by themselves can ask
//! [`Socket::queued_bytes`] or await [`Socket::drained`]; their `emit` fails with [`Error::Limit`]
//! where another shard has too much to do ([`Options::max_mailbox`]).
//!
//! [`Server::stats`] tells all of it. Totals: `volatile_dropped`, `slow_dropped`, `slow_closed` and
//! `mail_refused` count what was given up, `staged` by `sends` is how many packets leave together,
//! `pauses` is how often publishers had to wait. Gauges: `queue_bytes` is memory, `waiting` counts
//! connections that wait for the server, by the `sends` of a second that is how long; `sending`
//! those that the server waits for; `mail` is what shards have yet to read.
//!
//! ## Files, counters, the end
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
//! # fn main() -> Result<(), corecast::Error> {
//! # let io = corecast::Server::new(one_shard())?;
//! io.serve_file("/", "text/html; charset=utf-8", "<script src=/socket.io/socket.io.js></script>");
//! let running = io.listen("127.0.0.1:0")?;
//! # let get = |path: &str| {
//! #     use std::io::{Read, Write};
//! #     let mut stream = std::net::TcpStream::connect(running.addresses()[0])?;
//! #     write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
//! #     let mut answer = String::new();
//! #     stream.read_to_string(&mut answer)?;
//! #     Ok::<_, std::io::Error>(answer)
//! # };
//! # assert!(get("/")?.ends_with("<script src=/socket.io/socket.io.js></script>"));
//! # assert!(get("/socket.io/socket.io.js")?.contains("Socket.IO v4.8.4"));
//! # let mut client = Client::new(&running);
//! # std::thread::sleep(std::time::Duration::from_millis(300));
//!
//! let stats = io.stats();
//! println!("{} sockets, {} events", stats.gauges.sockets, stats.totals.events);
//! # assert_eq!((stats.gauges.sockets, stats.totals.sessions), (1, 1));
//!
//! io.shutdown();    // clients see a closed transport, handlers `server shutting down`
//! # assert_eq!(client.read(), "closed");
//! # drop(client);
//! running.join()    // after all sessions have ended, or `Options::shutdown_timeout`
//! #
//! # }
//! ```

mod admin;
mod answers;
#[cfg(feature = "gateway")]
mod attach;
mod broadcast;
mod children;
mod cluster;
mod cookie;
mod cors;
mod dynamic;
mod emit;
pub mod error;
mod event;
mod files;
#[cfg(feature = "gateway")]
pub mod gateway;
mod gather;
mod histograms;
mod hooks;
mod http;
#[doc(hidden)]
pub mod hub;
mod kept;
mod listeners;
mod namespace;
mod observe;
pub mod options;
mod port;
pub mod preflight;
#[doc(hidden)]
pub mod proto;
mod remote;
mod rooms;
mod server;
mod shard;
mod socket;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "gateway")]
mod visit;
pub mod ws;

pub use admin::{AdminMode, AdminOptions, BasicAuth};
pub use answers::{BroadcastAck, Unanswered};
pub use children::ParentNamespace;
pub use cluster::ServerEvent;
pub use cookie::{Cookie, SameSite};
pub use cors::{Cors, Origin, OriginFunction};
pub use emit::{Args, Broadcast};
pub use error::{Error, ErrorContext, Reason};
pub use event::{Event, Handshake, Raw};
pub use gather::Gathered;
pub use histograms::{Delays, QueueLengths};
pub use http::{ConnectionError, Headers, Request, Response};
pub use hub::{Gauges, Held, Stats as Totals};
pub use listeners::Listener;
pub use namespace::{ConnectError, Namespace};
pub use options::{
    Forwarded, HttpCompression, InitialPacket, Options, PerMessageDeflate, Recovery, SlowReader,
};
pub use port::Port;
pub use proto::parser::{self, Parser};
pub use proto::value::Binary;
pub use remote::{NamespaceSize, RemoteAck, RemoteSocket, RoomSize};
pub use rooms::Rooms;
pub use server::{Running, Server, Stats};
pub use socket::{AckFuture, Drained, Emit, Socket, TransportName, sleep};
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use ws::WebSocket;

/// The example of the README is compiled like those here.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles the snippets of that page.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-node.md")]
struct FromNode;
