//! A namespace as an application sees it: what to do when clients come, and whom to send to.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::children::PARENTS;
use crate::cluster::OnServerEvent;
use crate::emit::{Args, Broadcast};
use crate::error::{Error, Reason};
use crate::event::Event;
use crate::hub::rooms::NamespaceId;
use crate::rooms::Rooms;
use crate::server::Server;
use crate::shard::watch::Label;
use crate::socket::Socket;

/// A handler's future. It stays on the shard of its socket, so it need not be `Send`.
pub(crate) type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// A handler with the name it is reported by.
pub(crate) struct Named<F: ?Sized> {
    pub(crate) label: &'static Label,
    pub(crate) call: Rc<F>,
    /// Its number among the listeners of its socket; 0 if it stays.
    pub(crate) id: u64,
    /// It is removed when it is called.
    pub(crate) is_once: bool,
}

/// The same for handlers that all shards share.
pub(crate) struct Shared<F: ?Sized> {
    pub(crate) label: &'static Label,
    pub(crate) call: Arc<F>,
}

pub(crate) type OnConnect = dyn Fn(Socket) -> LocalFuture<()> + Send + Sync;
pub(crate) type OnMiddleware =
    dyn Fn(Socket) -> LocalFuture<Result<(), ConnectError>> + Send + Sync;
pub(crate) type OnEvent = dyn Fn(Socket, Event) -> LocalFuture<()> + Send + Sync;
pub(crate) type OnClose = dyn Fn(Socket, Reason) -> LocalFuture<()> + Send + Sync;
pub(crate) type OnError = dyn Fn(Socket, String) -> LocalFuture<()> + Send + Sync;

pub(crate) type OnRoom = dyn Fn(&Namespace, &str) + Send + Sync;
pub(crate) type OnRoomMember = dyn Fn(&Namespace, &str, &str) + Send + Sync;

/// What was registered for a namespace.
#[derive(Default)]
pub(crate) struct Handlers {
    pub(crate) middleware: Vec<Shared<OnMiddleware>>,
    pub(crate) connect: Vec<Shared<OnConnect>>,
    pub(crate) events: FxHashMap<String, Vec<Shared<OnEvent>>>,
    pub(crate) disconnecting: Vec<Shared<OnClose>>,
    pub(crate) disconnect: Vec<Shared<OnClose>>,
    pub(crate) error: Vec<Shared<OnError>>,
    /// For all events, whatever their name.
    pub(crate) any: Vec<Shared<OnEvent>>,
    pub(crate) outgoing: Vec<Shared<OnEvent>>,
    pub(crate) unexpected_ack: Vec<Shared<OnEvent>>,
    pub(crate) upgrade: Vec<Shared<OnConnect>>,
    pub(crate) create_room: Vec<Shared<OnRoom>>,
    pub(crate) delete_room: Vec<Shared<OnRoom>>,
    pub(crate) join_room: Vec<Shared<OnRoomMember>>,
    pub(crate) leave_room: Vec<Shared<OnRoomMember>>,
    pub(crate) server_events: FxHashMap<String, Vec<Shared<OnServerEvent>>>,
}

impl Handlers {
    /// Whether anybody wants to know of rooms.
    pub(crate) fn hears_rooms(&self) -> bool {
        let members = self.join_room.iter().chain(&self.leave_room).count();
        self.create_room.iter().chain(&self.delete_room).count() + members > 0
    }
}

/// Why a client may not join a namespace. It sees the message, and the data if there is any, in
/// its `connect_error` event (J-7): `error.message`, `error.data`. Its connection stays, and it may
/// ask again, unless it is to be closed ([`ConnectError::and_close`]).
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectError {
    pub(crate) message: String,
    pub(crate) data: Option<serde_json::Value>,
    /// Its connection is closed after it.
    pub(crate) closes: bool,
}

impl ConnectError {
    /// An error with a message, for the client to read.
    pub fn new(message: impl Into<String>) -> ConnectError {
        ConnectError { message: message.into(), data: None, closes: false }
    }

    /// The same with data for the client, such as `json!({ "code": 401 })`.
    pub fn with_data(mut self, data: serde_json::Value) -> ConnectError {
        self.data = Some(data);
        self
    }

    /// The same, and then the end of the connection: whoever only guesses has to come anew.
    pub fn and_close(mut self) -> ConnectError {
        self.closes = true;
        self
    }
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConnectError {}

/// A namespace of a [`Server`]; cheap to clone, may be used on any thread.
///
/// Handlers are plain async closures. They run on the shard of the socket, one after the other up
/// to their first `await`, so they must not block; what blocks belongs on another thread. They are
/// registered before the server listens, once for all sockets of the namespace, and cost no memory
/// per connection. Several of one kind are called in the order of registration; what one of them
/// awaits does not hold up the next.
///
/// ```
/// use corecast::{ConnectError, Event, Reason, Socket};
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
/// # fn main() -> Result<(), corecast::Error> {
/// # let io = corecast::Server::new(one_shard())?;
/// io.of("/chat")
///     .middleware(|socket: Socket| async move {
///         match socket.auth::<serde_json::Value>() {
///             Ok(auth) if auth["token"] == "secret" => Ok(()),
///             _ => Err(ConnectError::new("not authorized")),
///         }
///     })
///     .on_connect(|socket: Socket| async move {
///         socket.join("lobby");
///     })
///     .on("message", |socket: Socket, event: Event| async move {
///         // Relayed as it came, to everyone else in the room.
///         let _ = socket.to("lobby").emit("message", event.raw());
///     })
///     .on_disconnect(|socket: Socket, reason: Reason| async move {
///         let _ = socket.to("lobby").emit("left", reason.as_str());
///     });
/// # let running = io.listen("127.0.0.1:0")?;
/// # let [mut ada, mut bob] = [(); 2].map(|()| Client::open(&running, "", &[]));
/// # assert_eq!(ada.join("0/chat,"), r#"4/chat,{"message":"not authorized"}"#);
/// # for client in [&mut ada, &mut bob] {
/// #     assert!(client.join(r#"0/chat,{"token":"secret"}"#).starts_with("0/chat,"));
/// # }
/// # ada.send(r#"2/chat,["message","hi"]"#);
/// # assert_eq!(bob.read(), r#"2/chat,["message","hi"]"#);
/// # ada.send("1/chat,");
/// # assert_eq!(bob.read(), r#"2/chat,["left","client namespace disconnect"]"#);
/// # stop(running, [ada, bob])
/// # }
/// ```
#[derive(Clone)]
pub struct Namespace {
    pub(crate) server: Server,
    pub(crate) id: NamespaceId,
    pub(crate) name: Arc<str>,
}

impl Namespace {
    /// Whether it stands for all children of a pattern or predicate.
    pub(crate) fn is_parent(&self) -> bool {
        self.id >= PARENTS
    }

    /// Name, beginning with `/`. O(1), shared.
    pub fn name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// Asks `handler` before a client is let in (`nsp.use`). Several are asked in the order of
    /// registration, each when the one before has agreed; the first error refuses the client (J-3,
    /// J-7). Events that the client sends meanwhile wait for the answer, up to a bound (J-10).
    ///
    /// # Panics
    /// After the server has begun to listen, like all registrations here.
    pub fn middleware<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Socket) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), ConnectError>> + 'static,
    {
        let call = move |socket| -> LocalFuture<_> { Box::pin(handler(socket)) };
        self.add::<OnMiddleware>("middleware", Arc::new(call), |handlers| &mut handlers.middleware)
    }

    /// Calls `handler` for every client that has joined (`connection`). Its events are handled
    /// after the handler's first `await`, or its end; before that, register what it may need.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_connect<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Socket) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket| -> LocalFuture<()> { Box::pin(handler(socket)) };
        self.add::<OnConnect>("connection handler", Arc::new(call), |handlers| {
            &mut handlers.connect
        })
    }

    /// Calls `handler` for every event of that name from any client of this namespace. An event
    /// that nobody has a handler for is ignored. Events of one client begin to be handled in the
    /// order in which they were sent.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on<F, R>(&self, event: &str, handler: F) -> &Self
    where
        F: Fn(Socket, Event) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, event| -> LocalFuture<()> { Box::pin(handler(socket, event)) };
        self.add::<OnEvent>(&format!("event {event:?}"), Arc::new(call), |handlers| {
            handlers.events.entry(event.into()).or_default()
        })
    }

    /// Calls `handler` when a socket is about to go (`disconnecting`); its rooms are still set
    /// until the handler's first `await` (J-17).
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_disconnecting<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Socket, Reason) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, reason| -> LocalFuture<()> { Box::pin(handler(socket, reason)) };
        self.add::<OnClose>("disconnecting handler", Arc::new(call), |handlers| {
            &mut handlers.disconnecting
        })
    }

    /// Calls `handler` when a socket has gone (`disconnect`): exactly once for each that had
    /// connected, whatever the reason. Its data are still there, its rooms are not.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_disconnect<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Socket, Reason) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, reason| -> LocalFuture<()> { Box::pin(handler(socket, reason)) };
        self.add::<OnClose>("disconnect handler", Arc::new(call), |handlers| {
            &mut handlers.disconnect
        })
    }

    /// Calls `handler` when a client has sent something invalid, just before its connection is
    /// closed (I-13), or when a socket's middleware refuses an event (J-11). The text says which.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_error<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Socket, String) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, error| -> LocalFuture<()> { Box::pin(handler(socket, error)) };
        self.add::<OnError>("error handler", Arc::new(call), |handlers| &mut handlers.error)
    }

    /// Sends an event to every socket of the namespace; see [`Broadcast::emit`].
    ///
    /// # Errors
    /// As [`Broadcast::emit`].
    pub fn emit(&self, event: &str, args: impl Args) -> Result<(), Error> {
        self.broadcast().emit(event, args)
    }

    /// Sends the event `message` to every socket of the namespace (`send`, `write`).
    ///
    /// # Errors
    /// As [`Broadcast::emit`].
    pub fn send(&self, args: impl Args) -> Result<(), Error> {
        self.emit("message", args)
    }

    /// The sockets in a room, or in any of several, or one socket by its id (`nsp.to`, `nsp.in`).
    pub fn to(&self, rooms: impl Rooms) -> Broadcast {
        self.broadcast().to(rooms)
    }

    /// All sockets but those in a room, or in any of several, or but one by its id.
    pub fn except(&self, rooms: impl Rooms) -> Broadcast {
        self.broadcast().except(rooms)
    }

    /// All sockets of the namespace, on all shards.
    pub fn broadcast(&self) -> Broadcast {
        Broadcast::new(self.clone())
    }

    pub(crate) fn add<F: ?Sized>(
        &self,
        what: &str,
        call: Arc<F>,
        list: impl FnOnce(&mut Handlers) -> &mut Vec<Shared<F>>,
    ) -> &Self {
        let shared = Shared { label: Label::of(&self.name, what.into()), call };
        self.server.register(self.id, |handlers| list(handlers).push(shared));
        self
    }
}
