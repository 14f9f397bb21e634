//! One client in one namespace, as its handlers see it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::tap::watching;
use crate::children::NamespaceSpec;
use crate::emit::{Args, Broadcast, check_name, encode_event};
use crate::error::{Error, Reason};
use crate::event::{Event, Handshake, Raw};
use crate::hub::id::SocketId;
use crate::hub::slab::Key;
use crate::hub::{AckLost, Arguments, Flags};
use crate::kept::Kept;
use crate::namespace::{LocalFuture, Named, Namespace};
use crate::rooms::Rooms;
use crate::server::Server;
use crate::shard::Shard;
use crate::shard::watch::Label;

pub(crate) type SocketEvent = dyn Fn(Socket, Event) -> LocalFuture<()>;
pub(crate) type SocketClose = dyn Fn(Socket, Reason) -> LocalFuture<()>;
pub(crate) type SocketError = dyn Fn(Socket, String) -> LocalFuture<()>;
pub(crate) type SocketUpgrade = dyn Fn(Socket) -> LocalFuture<()>;
pub(crate) type SocketUse = dyn Fn(Socket, Event) -> LocalFuture<Result<(), String>>;

/// What was registered for, or kept with, one socket. Exists only where something was.
#[derive(Default)]
pub(crate) struct Own {
    pub(crate) events: FxHashMap<Box<str>, Vec<Named<SocketEvent>>>,
    pub(crate) middleware: Vec<Named<SocketUse>>,
    pub(crate) disconnecting: Vec<Named<SocketClose>>,
    pub(crate) disconnect: Vec<Named<SocketClose>>,
    pub(crate) error: Vec<Named<SocketError>>,
    pub(crate) upgrade: Vec<Named<SocketUpgrade>>,
    pub(crate) any: Vec<Named<SocketEvent>>,
    pub(crate) outgoing: Vec<Named<SocketEvent>>,
    /// Number of the latest listener.
    pub(crate) listeners: u64,
    pub(crate) kept: Kept,
}

/// One client in one namespace (`Socket`). A handle that is cheap to clone and stays on its shard;
/// to reach a socket from another thread send to its id: `server.to(id)`. It may outlive the
/// client: then nothing is sent any more, and methods say so or do nothing.
///
/// ```
/// use std::time::Duration;
/// use corecast::{Event, Socket};
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
/// # fn main() -> Result<(), corecast::Error> {
/// # let io = corecast::Server::new(one_shard())?;
/// io.on_connect(|socket: Socket| async move {
///     socket.join("room1");
///     let _ = socket.emit("welcome", socket.id());            // to this client
///     let _ = socket.broadcast().emit("joined", socket.id()); // to everyone else
///     let _ = socket.to("room1").except("room2").emit("news", &["a", "b"]);
///
///     // A handler for this socket alone, which also answers.
///     socket.on("add", |_socket: Socket, event: Event| async move {
///         if let Ok((a, b)) = event.args::<(i64, i64)>() {
///             let _ = event.ack(a + b);
///         }
///     });
///
///     // Ask the client, and wait for its answer for two seconds.
///     let answer = socket.timeout(Duration::from_secs(2)).emit_with_ack("question", "why?");
///     let _ = match answer.await {
///         Ok(reply) => socket.emit("thanks", reply),
///         Err(error) => socket.emit("sorry", &error.to_string()),
///     };
/// });
/// # let running = io.listen("127.0.0.1:0")?;
/// # let mut ada = Client::new(&running);
/// # assert!(ada.read().starts_with(r#"2["welcome",""#));
/// # assert_eq!(ada.read(), r#"20["question","why?"]"#);
/// # ada.send(r#"21["add",1,2]"#);
/// # assert_eq!(ada.read(), "31[3]");
/// # ada.send(r#"30["because"]"#);
/// # assert_eq!(ada.read(), r#"2["thanks","because"]"#);
/// # let bob = Client::new(&running);
/// # assert!(ada.read().starts_with(r#"2["joined",""#));
/// # assert_eq!(ada.read(), r#"2["news",["a","b"]]"#);
/// # stop(running, [ada, bob])
/// # }
/// ```
#[derive(Clone)]
pub struct Socket {
    pub(crate) shard: Rc<Shard>,
    pub(crate) key: Key,
    pub(crate) namespace: Rc<NamespaceSpec>,
    id: SocketId,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Socket {
    pub(crate) fn new(
        shard: &Rc<Shard>,
        key: Key,
        namespace: &Rc<NamespaceSpec>,
    ) -> Option<Socket> {
        let id = shard.hub().socket_id(key)?;
        Some(Socket { shard: shard.clone(), key, namespace: namespace.clone(), id })
    }

    /// Id of the socket, 20 characters of base64url; others may know it. Also a room that only it
    /// is in. A client that reconnects gets another one, unless it has
    /// [recovered](Self::recovered). That of a Socket.IO 2 client is a secret,
    /// see [`Options::allow_eio3`](crate::Options::allow_eio3).
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// Its namespace.
    pub fn namespace(&self) -> Namespace {
        let NamespaceSpec { id, name, .. } = &*self.namespace;
        Namespace { server: self.server(), id: *id, name: name.clone() }
    }

    /// The server (`io`).
    pub fn server(&self) -> Server {
        self.shard.server()
    }

    /// Whether packets pass (`connected`). False before all middleware has agreed and after the
    /// socket has gone.
    pub fn is_connected(&self) -> bool {
        self.shard.hub().is_connected(self.key)
    }

    /// Whether it has gone, or has not come yet (`disconnected`): the opposite of
    /// [`Socket::is_connected`].
    pub fn is_disconnected(&self) -> bool {
        !self.is_connected()
    }

    /// Id of its Engine.IO session (`socket.client.id`), which all its namespaces share: a secret
    /// of this client, not to be shown to others (J-21). `None` once the socket has gone.
    pub fn client_id(&self) -> Option<String> {
        self.shard.hub().client_id(self.key)
    }

    /// How its packets travel now (`socket.conn.transport.name`); `None` once the socket has gone.
    pub fn transport(&self) -> Option<TransportName> {
        let is_websocket = self.shard.hub().has_websocket(self.key)?;
        Some(if is_websocket { TransportName::WebSocket } else { TransportName::Polling })
    }

    /// What the client said when it connected. `None` once the socket has gone, or after the
    /// connection handler if [`Options::retain_handshake`](crate::Options::retain_handshake) is
    /// off.
    pub fn handshake(&self) -> Option<Handshake> {
        self.shard.hub().handshake(self.key).map(Handshake)
    }

    /// What the client sent as `auth` (`handshake.auth`); an empty object if nothing. Parsed by
    /// each call.
    ///
    /// # Errors
    /// [`Error::Json`]: it is of another type. [`Error::Disconnected`]: the socket has gone.
    pub fn auth<T: DeserializeOwned>(&self) -> Result<T, Error> {
        // Copied, since reading it may run code of the application.
        let auth = self.shard.hub().auth(self.key).map(str::to_owned);
        parse_or_empty(&auth.ok_or(Error::Disconnected)?)
    }

    /// Sends an event to this client. It leaves at the end of the shard's turn, with whatever else
    /// was sent to it by then. `Ok` says that it was staged, not that it has arrived: where that
    /// matters, ask for an acknowledgement. A client whose queue is full is treated as
    /// [`Options::slow_reader`](crate::Options::slow_reader) says.
    ///
    /// # Errors
    /// [`Error::ReservedEvent`], [`Error::Json`]; [`Error::Disconnected`]: the socket has gone.
    pub fn emit(&self, event: &str, args: impl Args) -> Result<(), Error> {
        self.emit_now(event, args.to_raw()?, None, Flags::default())
    }

    /// Sends the event `message` (`socket.send`, `socket.write`).
    ///
    /// # Errors
    /// As [`Socket::emit`].
    pub fn send(&self, args: impl Args) -> Result<(), Error> {
        self.emit("message", args)
    }

    /// Sends an event and awaits the client's acknowledgement, without a limit in time: until the
    /// socket has gone. See [`Socket::timeout`].
    pub fn emit_with_ack(&self, event: &str, args: impl Args) -> AckFuture {
        self.options().emit_with_ack(event, args)
    }

    /// For the next event: how long to wait for its acknowledgement. Counted in steps of
    /// 32 ms.
    pub fn timeout(&self, timeout: Duration) -> Emit {
        Emit { timeout: Some(timeout), ..self.options() }
    }

    /// For the next event: drop it if the client is not ready to take it, that is, while a send to
    /// it is under way, or on polling no request is waiting (J-20).
    pub fn volatile(&self) -> Emit {
        self.options().volatile()
    }

    /// For the next event: whether it may be compressed where that was agreed on with the client
    /// (`compress(bool)`). Default true.
    pub fn compress(&self, compress: bool) -> Emit {
        self.options().compress(compress)
    }

    fn options(&self) -> Emit {
        Emit { socket: self.clone(), timeout: None, flags: Flags::default() }
    }

    fn emit_now(
        &self,
        event: &str,
        raw: Raw,
        ack: Option<u64>,
        mut flags: Flags,
    ) -> Result<(), Error> {
        check_name(event)?;
        // L-14: an event that asks for an answer, or that may be dropped, is not recovered.
        let is_kept = ack.is_none() && !flags.volatile;
        flags.offset = if is_kept { self.shard.hub().next_offset() } else { None };
        let whole = &raw.clone().with_offset(flags.offset);
        let sent = self.shard.with_scratch(|text| {
            let parser = &self.shard.spec().options.parser;
            let attachments = encode_event(parser, &self.namespace.name, ack, event, whole, text)?;
            Ok::<bool, Error>(self.shard.hub().emit(self.key, text, &attachments, flags))
        })?;
        if sent && self.server().reports_sent() && !self.shard.is_reporting() {
            let Raw { json, attachments } = raw;
            let event = Arguments { name: event.into(), json, attachments, ack: None };
            self.shard.hub().report_sent(self.key, &event);
        }
        self.shard.wake();
        if sent { Ok(()) } else { Err(Error::Disconnected) }
    }

    /// Bytes that wait for this client, those of its other namespaces included: on a websocket what
    /// the kernel has not taken yet, on polling what no request has fetched yet. 0 once the socket
    /// has gone. O(1). What is beyond [`Options::max_queue_bytes`](crate::Options::max_queue_bytes)
    /// is not queued at all.
    pub fn queued_bytes(&self) -> usize {
        self.shard.hub().queued(self.key)
    }

    /// Waits until nothing waits for this client any more (`socket.conn.once("drain")`): all that
    /// was sent was handed to the kernel, or on polling to a request (E-13). A sender that awaits
    /// this now and then goes as fast as its client reads, and no queue grows. At once if there is
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Disconnected`]: the connection has gone before.
    pub fn drained(&self) -> Drained {
        let token = self.shard.new_token();
        let state = match self.shard.hub().await_drain(self.key, token) {
            true => AckState::Waiting { socket: self.clone(), token },
            false => AckState::Failed(Some(Error::Disconnected)),
        };
        if matches!(state, AckState::Waiting { .. }) {
            self.shard.expect_ack(token);
            self.shard.wake();
        }
        Drained(AckFuture { state })
    }

    /// Everyone in the namespace but this socket (`socket.broadcast`).
    pub fn broadcast(&self) -> Broadcast {
        self.namespace().except(self.id())
    }

    /// Everyone in a room, or in any of several, but this socket, also where a room is named by its
    /// own id (U-11).
    pub fn to(&self, rooms: impl Rooms) -> Broadcast {
        self.broadcast().to(rooms)
    }

    /// The same as [`Socket::to`] (`socket.in`).
    pub fn in_(&self, rooms: impl Rooms) -> Broadcast {
        self.to(rooms)
    }

    /// Everyone but this socket and those in a room, or in any of several.
    pub fn except(&self, rooms: impl Rooms) -> Broadcast {
        self.broadcast().except(rooms)
    }

    /// Everyone of this node but this socket (`socket.local`); see [`Broadcast::local`].
    pub fn local(&self) -> Broadcast {
        self.broadcast().local()
    }

    /// Joins a room, or several, at once. False if for one of them it is there already, has gone,
    /// or is in [`Options::max_rooms`](crate::Options::max_rooms) rooms; the others are joined all
    /// the same. O(rooms of this socket) for each.
    pub fn join(&self, rooms: impl Rooms) -> bool {
        let (mut hub, mut all) = (self.shard.hub(), true);
        rooms.each(&mut |room| all &= hub.join(self.key, room));
        drop(hub);
        // Where somebody listens to rooms there is something to tell.
        self.shard.wake();
        all
    }

    /// Leaves a room, or several; false if it was not in one of them. O(rooms of this socket) for
    /// each.
    pub fn leave(&self, rooms: impl Rooms) -> bool {
        let (mut hub, mut all) = (self.shard.hub(), true);
        rooms.each(&mut |room| all &= hub.leave(self.key, room));
        drop(hub);
        // Where somebody listens to rooms there is something to tell.
        self.shard.wake();
        all
    }

    /// The rooms it is in, its own id first; none once it has gone (J-17).
    pub fn rooms(&self) -> Vec<Rc<str>> {
        let hub = self.shard.hub();
        let own = hub.socket_id(self.key).map(|id| Rc::from(id.as_str()));
        own.into_iter().chain(hub.rooms_of(self.key)).collect()
    }

    /// Whether it is in a room; false once it has gone. O(rooms of this socket).
    pub fn is_in(&self, room: &str) -> bool {
        self.shard.hub().is_in(self.key, room)
    }

    /// Leaves the namespace (J-15): the client sees `io server disconnect` and does not come back
    /// by itself. With `close`, its whole connection is closed, all its namespaces included (J-16).
    /// What was sent before still arrives.
    pub fn disconnect(&self, close: bool) {
        self.shard.hub().disconnect(self.key, close);
        self.shard.wake();
    }

    /// Closes the connection below Socket.IO (`socket.conn.close()`): no DISCONNECT is sent, so the
    /// client sees `transport close` and reconnects. All its sockets see `forced close`.
    pub fn close_connection(&self) {
        self.shard.hub().close_connection(self.key);
        self.shard.wake();
    }

    /// Keeps a value with the socket (`socket.data`), one per type; returns the one that was there.
    /// It is dropped after the `disconnect` handlers were called. Does nothing if the socket has
    /// gone.
    ///
    /// With connection-state recovery it is there again when the client has come back, also on
    /// another shard: so it is `Send`, and should be held by nobody else then, or it stays behind.
    pub fn set<T: Send + 'static>(&self, value: T) -> Option<Rc<T>> {
        self.own(|own| own.kept.set(value))?
    }

    /// As [`Socket::set`], for a value that cannot leave its shard: a client that comes back to
    /// another one does not find it again.
    pub fn set_local<T: 'static>(&self, value: T) -> Option<Rc<T>> {
        self.own(|own| own.kept.set_local(value))?
    }

    /// Whether the client goes on where it was before its connection was lost (`socket.recovered`):
    /// with the same id, rooms and data, and with the events that it had missed. Always false
    /// without [`Options::connection_state_recovery`](crate::Options::connection_state_recovery),
    /// and once the socket has gone. Handlers and middleware of the socket itself are to be
    /// registered anew, as for any other.
    pub fn recovered(&self) -> bool {
        self.shard.hub().is_recovered(self.key)
    }

    /// The value of that type kept with the socket. Use a `Cell` or `RefCell` inside it to change
    /// it in place.
    pub fn get<T: 'static>(&self) -> Option<Rc<T>> {
        self.shard.own(self.key, |own| own.kept.get())?
    }

    /// Keeps a value with the socket that others may see (`socket.data`): as JSON, with
    /// [`Broadcast::fetch_sockets`] from anywhere. It replaces the one that was there. What only
    /// this socket's handlers need is better kept with [`Socket::set`], which writes no JSON.
    ///
    /// # Errors
    /// [`Error::Json`]: it cannot be written. [`Error::Disconnected`]: the socket has gone.
    pub fn set_data<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Error> {
        let json: Box<str> = serde_json::to_string(value)?.into();
        self.own(|own| own.kept.json = json).ok_or(Error::Disconnected)?;
        if let Some(admin) = watching(&self.server()) {
            admin.data_changed(self);
        }
        Ok(())
    }

    /// What was kept with [`Socket::set_data`]; an empty object if nothing was. Parsed by each
    /// call. Still there for the `disconnect` handlers.
    ///
    /// # Errors
    /// [`Error::Json`]: it is of another type.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Error> {
        // Copied, since reading it may run code of the application.
        let json = self.shard.own(self.key, |own| own.kept.json.clone()).unwrap_or_default();
        parse_or_empty(&json)
    }

    /// Asks `handler` before an event of this client is handled (`socket.use`); the first error
    /// drops the event and goes to the `error` handlers (J-10, J-11). Several are asked in the
    /// order of registration. An event whose middleware awaits something is overtaken by the next.
    pub fn middleware<F, R>(&self, handler: F)
    where
        F: Fn(Socket, Event) -> R + 'static,
        R: Future<Output = Result<(), String>> + 'static,
    {
        let call = move |socket, event| -> LocalFuture<_> { Box::pin(handler(socket, event)) };
        let named: Named<SocketUse> = self.named("socket middleware".into(), Rc::new(call));
        self.own(|own| own.middleware.push(named));
    }

    /// Calls `handler` when this socket is about to go (`disconnecting`), after the handlers of the
    /// namespace; its rooms are still set until the handler's first `await`.
    pub fn on_disconnecting<F, R>(&self, handler: F)
    where
        F: Fn(Socket, Reason) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, reason| -> LocalFuture<()> { Box::pin(handler(socket, reason)) };
        let named: Named<SocketClose> = self.named("disconnecting handler".into(), Rc::new(call));
        self.own(|own| own.disconnecting.push(named));
    }

    /// Calls `handler` when this socket has gone (`disconnect`), after the handlers of the
    /// namespace.
    pub fn on_disconnect<F, R>(&self, handler: F)
    where
        F: Fn(Socket, Reason) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, reason| -> LocalFuture<()> { Box::pin(handler(socket, reason)) };
        let named: Named<SocketClose> = self.named("disconnect handler".into(), Rc::new(call));
        self.own(|own| own.disconnect.push(named));
    }

    /// Calls `handler` when this client has sent something invalid, or when its middleware refuses
    /// an event (`error`); see [`Namespace::on_error`].
    pub fn on_error<F, R>(&self, handler: F)
    where
        F: Fn(Socket, String) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, error| -> LocalFuture<()> { Box::pin(handler(socket, error)) };
        let named: Named<SocketError> = self.named("error handler".into(), Rc::new(call));
        self.own(|own| own.error.push(named));
    }

    /// Calls `handler` when the connection has moved from polling to websocket
    /// (`socket.conn.on("upgrade")`, D-3).
    pub fn on_upgrade<F, R>(&self, handler: F)
    where
        F: Fn(Socket) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket| -> LocalFuture<()> { Box::pin(handler(socket)) };
        let named: Named<SocketUpgrade> = self.named("upgrade handler".into(), Rc::new(call));
        self.own(|own| own.upgrade.push(named));
    }

    pub(crate) fn named<F: ?Sized>(&self, what: String, call: Rc<F>) -> Named<F> {
        Named { label: Label::of(&self.namespace.label(), what), call, id: 0, is_once: false }
    }

    /// Changes what is kept with this socket, unless it has gone.
    pub(crate) fn own<T>(&self, change: impl FnOnce(&mut Own) -> T) -> Option<T> {
        self.shard.own_or_new(self.key, change)
    }
}

/// How packets of a connection travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportName {
    /// HTTP long-polling.
    Polling,
    /// A websocket.
    WebSocket,
}

impl TransportName {
    /// The name that Socket.IO uses.
    pub fn as_str(self) -> &'static str {
        match self {
            TransportName::Polling => "polling",
            TransportName::WebSocket => "websocket",
        }
    }
}

/// Reads JSON; an empty object if there is none.
pub(crate) fn parse_or_empty<T: DeserializeOwned>(json: &str) -> Result<T, Error> {
    Ok(serde_json::from_str(if json.is_empty() { "{}" } else { json })?)
}

/// One event about to be sent to one client, with options. Made by [`Socket::timeout`],
/// [`Socket::volatile`] and [`Socket::compress`].
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until emit is called"]
pub struct Emit {
    socket: Socket,
    timeout: Option<Duration>,
    flags: Flags,
}

impl Emit {
    /// How long to wait for the acknowledgement.
    pub fn timeout(mut self, timeout: Duration) -> Emit {
        self.timeout = Some(timeout);
        self
    }

    /// Drop the event if the client is not ready to take it.
    pub fn volatile(mut self) -> Emit {
        self.flags.volatile = true;
        self
    }

    /// Whether the event may be compressed where that was agreed on with the client.
    pub fn compress(mut self, compress: bool) -> Emit {
        self.flags.compress = compress;
        self
    }

    /// Sends the event.
    ///
    /// # Errors
    /// As [`Socket::emit`].
    pub fn emit(self, event: &str, args: impl Args) -> Result<(), Error> {
        self.socket.emit_now(event, args.to_raw()?, None, self.flags)
    }

    /// Sends the event, now, and awaits its acknowledgement. What the timeout leaves unanswered is
    /// forgotten; an answer after that is ignored.
    pub fn emit_with_ack(self, event: &str, args: impl Args) -> AckFuture {
        let state = match self.start(event, args) {
            Ok(token) => AckState::Waiting { socket: self.socket, token },
            Err(error) => AckState::Failed(Some(error)),
        };
        AckFuture { state }
    }

    fn start(&self, event: &str, args: impl Args) -> Result<u64, Error> {
        check_name(event)?;
        let raw = args.to_raw()?;
        let Socket { shard, key, .. } = &self.socket;
        let timeout_ms =
            self.timeout.map(|timeout| timeout.as_millis().min(u128::from(u64::MAX)) as u64);
        if !shard.hub().is_connected(*key) {
            return Err(Error::Disconnected);
        }
        let token = shard.new_token();
        let id = shard.hub().await_ack(*key, timeout_ms, token);
        let id = id.ok_or(Error::Limit("max_pending_acks"))?;
        shard.expect_ack(token);
        self.socket.emit_now(event, raw, Some(id), self.flags)?;
        Ok(token)
    }
}

/// The acknowledgement of an event, when it comes.
///
/// Resolves to the client's arguments, or to [`Error::Timeout`], [`Error::Disconnected`],
/// [`Error::Limit`] at [`Options::max_pending_acks`](crate::Options::max_pending_acks), or what
/// else kept the event from being sent. The event is sent whether or not this is awaited.
#[must_use = "without awaiting it, use emit"]
pub struct AckFuture {
    state: AckState,
}

/// The moment at which nothing waits for a client any more. See [`Socket::drained`].
#[must_use = "it is a future"]
pub struct Drained(AckFuture);

impl Future for Drained {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|outcome| outcome.map(|_| ()))
    }
}

enum AckState {
    Waiting { socket: Socket, token: u64 },
    Failed(Option<Error>),
}

/// Where an awaited answer is put.
#[derive(Default)]
pub(crate) struct AckSlot {
    pub(crate) outcome: Option<Result<Raw, AckLost>>,
    pub(crate) waker: Option<Waker>,
}

impl Future for AckFuture {
    type Output = Result<Raw, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            AckState::Failed(error) => {
                Poll::Ready(Err(error.take().unwrap_or(Error::Disconnected)))
            }
            AckState::Waiting { socket, token } => {
                socket.shard.poll_ack(*token, cx).map(|outcome| {
                    outcome.map_err(|lost| match lost {
                        AckLost::TimedOut => Error::Timeout,
                        AckLost::Disconnected => Error::Disconnected,
                    })
                })
            }
        }
    }
}

impl Drop for AckFuture {
    fn drop(&mut self) {
        if let AckState::Waiting { socket, token } = &self.state
            && socket.shard.forget_ack(*token)
        {
            socket.shard.hub().cancel_ack(socket.key, *token);
        }
    }
}

/// Waits inside a handler. Other handlers, sockets and shards go on meanwhile; the timers of other
/// runtimes do not work on a shard, and `std::thread::sleep` would stop it.
///
/// # Panics
/// Outside of handlers.
pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}

/// Records of [`Own`], by socket.
pub(crate) type Owns = RefCell<FxHashMap<Key, Box<Own>>>;
