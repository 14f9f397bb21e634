//! Events between servers (`serverSideEmit`, K.2): what one node says to the others of a cluster.
//!
//! A server knows no other nodes by itself. Whatever connects several of them hands what arrives to
//! [`Namespace::receive_server_event`].

use std::sync::{Arc, Mutex, PoisonError};

use crate::emit::Args;
use crate::error::Error;
use crate::event::Raw;
use crate::namespace::{Namespace, Shared};
use crate::server::Server;

pub(crate) type OnServerEvent = dyn Fn(ServerEvent) + Send + Sync;

type Reply = Box<dyn FnOnce(Raw) + Send>;

/// An event from another server of the cluster, as its handlers see it. Cheap to clone; the clones
/// share one answer.
#[derive(Clone)]
pub struct ServerEvent {
    namespace: Namespace,
    name: Arc<str>,
    raw: Raw,
    reply: Arc<Mutex<Option<Reply>>>,
}

impl ServerEvent {
    /// The namespace that it was emitted in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its arguments.
    pub fn raw(&self) -> &Raw {
        &self.raw
    }

    /// Answers the server that has sent it, if that has asked. Only the first answer counts.
    ///
    /// # Errors
    /// [`Error::Json`]: the answer cannot be written.
    pub fn ack(&self, args: impl Args) -> Result<(), Error> {
        let raw = args.to_raw()?;
        let reply = self.reply.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reply) = reply {
            reply(raw);
        }
        Ok(())
    }
}

/// Refuses the names that a namespace's own events have (K.2).
fn check_server_event(event: &str) -> Result<(), Error> {
    match event {
        "connect" | "connection" | "new_namespace" => Err(Error::ReservedEvent(event.into())),
        _ => Ok(()),
    }
}

impl Namespace {
    /// Sends an event to this namespace on all other servers of the cluster (`serverSideEmit`), not
    /// to clients and not to this server itself. Alone, it reaches nobody.
    ///
    /// # Errors
    /// [`Error::ReservedEvent`] for `connect`, `connection` and `new_namespace`; [`Error::Json`].
    pub fn server_side_emit(&self, event: &str, args: impl Args) -> Result<(), Error> {
        check_server_event(event)?;
        args.to_raw().map(drop)
    }

    /// As [`Namespace::server_side_emit`], with one answer of each other server
    /// (`serverSideEmitWithAck`). Alone, it has none and is done at once.
    ///
    /// # Errors
    /// As [`Namespace::server_side_emit`].
    pub async fn server_side_emit_with_ack(
        &self,
        event: &str,
        args: impl Args,
    ) -> Result<Vec<Raw>, Error> {
        self.server_side_emit(event, args)?;
        Ok(Vec::new())
    }

    /// Calls `handler` when another server of the cluster has emitted an event of that name in this
    /// namespace. It runs on the thread that has received it and must not block.
    ///
    /// # Panics
    /// After the server has begun to listen, or for the names that
    /// [`Namespace::server_side_emit`] refuses.
    pub fn on_server_event(
        &self,
        event: &str,
        handler: impl Fn(ServerEvent) + Send + Sync + 'static,
    ) -> &Self {
        assert!(check_server_event(event).is_ok(), "the event {event} belongs to the namespace");
        let what = format!("server event {event:?}");
        self.add::<OnServerEvent>(&what, Arc::new(handler), |handlers| {
            handlers.server_events.entry(event.into()).or_default()
        })
    }

    /// Hands an event of another server to the handlers of [`Namespace::on_server_event`], for code
    /// that connects several servers. `reply` gets the answer, if there is one. Returns how many
    /// handlers there were.
    ///
    /// ```
    /// # fn main() -> Result<(), corecast::Error> {
    /// use corecast::{Args, Options, Server};
    /// let io = Server::new(Options::default())?;
    /// io.of("/").on_server_event("ping", |event| {
    ///     let _ = event.ack("pong");
    /// });
    /// # let io = { let running = io.listen("127.0.0.1:0")?; io.shutdown(); running.join()?; io };
    /// let heard = io.of("/").receive_server_event("ping", ().to_raw()?, |answer| {
    ///     assert_eq!(answer.json(), r#""pong""#);
    /// })?;
    /// assert_eq!(heard, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Namespace::server_side_emit`]; [`Error::NotRunning`] before the server listens.
    pub fn receive_server_event(
        &self,
        event: &str,
        raw: Raw,
        reply: impl FnOnce(Raw) + Send + 'static,
    ) -> Result<usize, Error> {
        check_server_event(event)?;
        let handlers = self.server.handlers(self).ok_or(Error::NotRunning)?;
        let called: &[Shared<OnServerEvent>] =
            handlers.server_events.get(event).map_or(&[], Vec::as_slice);
        let event = ServerEvent {
            namespace: self.clone(),
            name: event.into(),
            raw,
            reply: Arc::new(Mutex::new(Some(Box::new(reply)))),
        };
        for handler in called {
            (handler.call)(event.clone());
        }
        Ok(called.len())
    }
}

impl Server {
    /// [`Namespace::server_side_emit`] of namespace `/`.
    ///
    /// # Errors
    /// As there.
    pub fn server_side_emit(&self, event: &str, args: impl Args) -> Result<(), Error> {
        self.of("/").server_side_emit(event, args)
    }
}
