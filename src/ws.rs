//! Raw websockets on paths of their own, beside Socket.IO: the same rings, queues and bounds, and
//! whatever an application says on them.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;
use crate::event::Handshake;
use crate::hub::slab::Key;
use crate::namespace::{LocalFuture, Shared};
use crate::server::Server;
use crate::shard::Shard;
use crate::shard::watch::Label;

/// A message of a [`WebSocket`], in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Text; the server has checked that it is UTF-8.
    Text(String),
    /// Bytes.
    Binary(Bytes),
}

/// How a [`WebSocket`] has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Close {
    /// The code of the close frame, whoever sent it first. 1005: it had none. 1006: there was no
    /// close frame, the connection broke or was given up.
    pub code: u16,
    /// The reason beside the code, possibly empty.
    pub reason: String,
}

/// Limits of an endpoint. Change fields after `default()`; see [`Endpoint::options`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointOptions {
    /// Largest message from a client, in bytes, after inflating; more is answered with close code
    /// 1009. Default `None`: that of [`Options::max_http_buffer_size`]. At most 1 GiB.
    ///
    /// [`Options::max_http_buffer_size`]: crate::Options::max_http_buffer_size
    pub max_message_size: Option<usize>,
    /// Fragments of one message; more is answered with close code 1008. Default `None`: 16,384, as
    /// for sessions. Small ones cost much to read, so this is a bound of the shard's time.
    pub max_fragments: Option<u32>,
    /// Bytes queued for one connection. One message larger than that is let through an empty
    /// queue; beyond it [`Options::slow_reader`] says what happens. Default `None`: that of
    /// [`Options::max_queue_bytes`].
    ///
    /// [`Options::slow_reader`]: crate::Options::slow_reader
    /// [`Options::max_queue_bytes`]: crate::Options::max_queue_bytes
    pub max_queue_bytes: Option<usize>,
}

pub(crate) type OnOpen = dyn Fn(WebSocket, Handshake) -> LocalFuture<()> + Send + Sync;
pub(crate) type OnMessage = dyn Fn(WebSocket, Message) -> LocalFuture<()> + Send + Sync;
pub(crate) type OnClose = dyn Fn(WebSocket, Close) -> LocalFuture<()> + Send + Sync;

/// What was registered for a path.
#[derive(Default)]
pub(crate) struct EndpointSpec {
    pub(crate) path: Arc<str>,
    pub(crate) options: EndpointOptions,
    pub(crate) open: Vec<Shared<OnOpen>>,
    pub(crate) message: Vec<Shared<OnMessage>>,
    pub(crate) close: Vec<Shared<OnClose>>,
}

/// A path whose websockets are the application's own; made by [`Server::websocket`]. Handlers run
/// as those of a [`Namespace`](crate::Namespace) do.
///
/// Any page may open a websocket to any server: where that matters, look at the `Origin` that the
/// [`Handshake`] has, and close.
///
/// ```
/// use corecast::ws::{Close, Message, WebSocket};
/// use corecast::{Handshake, Options, Server};
///
/// let io = Server::new(Options::default())?;
/// io.websocket("/feed")
///     .on_open(|socket: WebSocket, handshake: Handshake| async move {
///         if handshake.query("token").as_deref() != Some("secret") {
///             return socket.close(4001, "not authorized");
///         }
///         let _ = socket.send_text("welcome");
///     })
///     .on_message(|socket: WebSocket, message: Message| async move {
///         let _ = socket.send(&message);
///     })
///     .on_close(|_socket: WebSocket, close: Close| async move {
///         log::info!("closed with {}", close.code);
///     });
/// # Ok::<(), corecast::Error>(())
/// ```
#[derive(Clone)]
pub struct Endpoint {
    server: Server,
    id: u32,
}

impl Endpoint {
    pub(crate) fn new(server: Server, id: u32) -> Endpoint {
        Endpoint { server, id }
    }

    /// Sets the limits of this endpoint.
    ///
    /// # Panics
    /// After the server has begun to listen, like all registrations here.
    pub fn options(&self, options: EndpointOptions) -> &Self {
        self.server.register_endpoint(self.id, |endpoint| endpoint.options = options);
        self
    }

    /// Calls `handler` for every websocket that opens, before its messages are handled, with the
    /// request that opened it.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_open<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(WebSocket, Handshake) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, with| -> LocalFuture<()> { Box::pin(handler(socket, with)) };
        self.add::<OnOpen>("open handler", Arc::new(call), |endpoint| &mut endpoint.open)
    }

    /// Calls `handler` for every message. Messages of one websocket begin to be handled in the
    /// order in which they were sent.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_message<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(WebSocket, Message) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, with| -> LocalFuture<()> { Box::pin(handler(socket, with)) };
        self.add::<OnMessage>("message handler", Arc::new(call), |endpoint| &mut endpoint.message)
    }

    /// Calls `handler` when a websocket has closed: exactly once for each that had opened.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_close<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(WebSocket, Close) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, with| -> LocalFuture<()> { Box::pin(handler(socket, with)) };
        self.add::<OnClose>("close handler", Arc::new(call), |endpoint| &mut endpoint.close)
    }

    fn add<F: ?Sized>(
        &self,
        what: &str,
        call: Arc<F>,
        list: impl FnOnce(&mut EndpointSpec) -> &mut Vec<Shared<F>>,
    ) -> &Self {
        self.server.register_endpoint(self.id, |endpoint| {
            let label = Label::of(&endpoint.path, what.into());
            list(endpoint).push(Shared { label, call });
        });
        self
    }
}

/// One client on an [`Endpoint`]. A handle that is cheap to clone and stays on its shard; it may
/// outlive the connection, then nothing is sent any more.
#[derive(Clone)]
pub struct WebSocket {
    pub(crate) shard: Rc<Shard>,
    pub(crate) conn: Key,
    compress: bool,
}

impl std::fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSocket").field("conn", &self.conn.index).finish_non_exhaustive()
    }
}

impl WebSocket {
    pub(crate) fn new(shard: &Rc<Shard>, conn: Key) -> WebSocket {
        WebSocket { shard: shard.clone(), conn, compress: true }
    }

    /// Whether messages pass.
    pub fn is_open(&self) -> bool {
        self.shard.hub().is_open_on(self.conn)
    }

    /// Bytes that were sent and that the kernel has not taken yet (`bufferedAmount`). Producers of
    /// much should wait while it is large; see [`EndpointOptions::max_queue_bytes`].
    pub fn queued(&self) -> usize {
        self.shard.hub().queued_on(self.conn)
    }

    /// The same client, whose messages are compressed or not where that was agreed on
    /// ([`Options::per_message_deflate`](crate::Options::per_message_deflate)); without a call of
    /// this they are.
    pub fn compress(&self, compress: bool) -> WebSocket {
        WebSocket { compress, ..self.clone() }
    }

    /// Sends a message. It leaves at the end of the shard's turn; `Ok` says that it was queued.
    ///
    /// # Errors
    /// [`Error::Disconnected`]: the connection has gone, or was given up for not reading.
    pub fn send(&self, message: &Message) -> Result<(), Error> {
        match message {
            Message::Text(text) => self.send_text(text),
            Message::Binary(bytes) => self.send_binary(bytes),
        }
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// As [`WebSocket::send`].
    pub fn send_text(&self, text: &str) -> Result<(), Error> {
        self.queue(true, text.as_bytes())
    }

    /// Sends a binary message.
    ///
    /// # Errors
    /// As [`WebSocket::send`].
    pub fn send_binary(&self, bytes: &[u8]) -> Result<(), Error> {
        self.queue(false, bytes)
    }

    fn queue(&self, is_text: bool, bytes: &[u8]) -> Result<(), Error> {
        let sent = self.shard.hub().send_message(self.conn, is_text, bytes, self.compress);
        self.shard.wake();
        if sent { Ok(()) } else { Err(Error::Disconnected) }
    }

    /// Closes the connection after what was sent before: 1000, or a code of the application's own
    /// from 3000 to 4999, other codes are sent as 1000. Of the reason as much is sent as fits 123
    /// bytes. Messages that arrive later are not handled.
    pub fn close(&self, code: u16, reason: &str) {
        let code = if (3_000..5_000).contains(&code) { code } else { 1_000 };
        self.shard.hub().close_message(self.conn, code, reason);
        self.shard.wake();
    }
}
