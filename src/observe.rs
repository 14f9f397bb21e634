//! What a namespace can be asked to tell beyond single events: all events in either direction,
//! upgrades, rooms (K.3, L-1).

use std::future::Future;
use std::sync::Arc;

use crate::event::Event;
use crate::namespace::{LocalFuture, Namespace, OnConnect, OnEvent, OnRoom, OnRoomMember};
use crate::socket::Socket;

impl Namespace {
    /// Calls `handler` for every event of any client of this namespace, whatever its name, before
    /// those of the socket itself; see [`Socket::on_any`].
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_any<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Socket, Event) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, event| -> LocalFuture<()> { Box::pin(handler(socket, event)) };
        self.add::<OnEvent>("catch-all listener", Arc::new(call), |handlers| &mut handlers.any)
    }

    /// Calls `handler` for every event that is sent to any client of this namespace; see
    /// [`Socket::on_any_outgoing`]. A broadcast costs a call for each of its receivers then.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_any_outgoing<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Socket, Event) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        self.server.report_sent();
        let call = move |socket, event| -> LocalFuture<()> { Box::pin(handler(socket, event)) };
        self.add::<OnEvent>("outgoing listener", Arc::new(call), |handlers| &mut handlers.outgoing)
    }

    /// Calls `handler` for every acknowledgement that nobody waits for: its event has no name, and
    /// the arguments are those of the answer. It comes too late, or nobody has asked for it; a
    /// client that sends many means harm. They are counted in
    /// [`Totals::unexpected_acks`](crate::Totals::unexpected_acks) in any case.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_unexpected_ack<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Socket, Event) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, event| -> LocalFuture<()> { Box::pin(handler(socket, event)) };
        let what = "unexpected acknowledgement handler";
        self.add::<OnEvent>(what, Arc::new(call), |handlers| &mut handlers.unexpected_ack)
    }

    /// Calls `handler` when the connection of a socket has moved from polling to websocket
    /// (`socket.conn.on("upgrade")`, D-3).
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_upgrade<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Socket) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket| -> LocalFuture<()> { Box::pin(handler(socket)) };
        self.add::<OnConnect>("upgrade handler", Arc::new(call), |handlers| &mut handlers.upgrade)
    }

    /// Calls `handler` with the name of every room that gets its first socket (`create-room` of the
    /// adapter, L-1). A socket's own id is such a room: it is created when the socket connects and
    /// deleted when it goes.
    ///
    /// A room on several shards is created once. Handlers of rooms are called soon after the
    /// change, one after the other over all shards, so they must be quick; they cost a lock for
    /// each change, and nothing where no handler of rooms is registered.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_create_room<F>(&self, handler: F) -> &Self
    where
        F: Fn(&Namespace, &str) + Send + Sync + 'static,
    {
        self.add::<OnRoom>("room handler", Arc::new(handler), |handlers| &mut handlers.create_room)
    }

    /// Calls `handler` with the name of every room that has lost its last socket (`delete-room`);
    /// see [`Namespace::on_create_room`].
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_delete_room<F>(&self, handler: F) -> &Self
    where
        F: Fn(&Namespace, &str) + Send + Sync + 'static,
    {
        self.add::<OnRoom>("room handler", Arc::new(handler), |handlers| &mut handlers.delete_room)
    }

    /// Calls `handler` with the room and the id of every socket that joins one (`join-room`), after
    /// the room was created; see [`Namespace::on_create_room`].
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_join_room<F>(&self, handler: F) -> &Self
    where
        F: Fn(&Namespace, &str, &str) + Send + Sync + 'static,
    {
        let call = Arc::new(handler);
        self.add::<OnRoomMember>("room handler", call, |handlers| &mut handlers.join_room)
    }

    /// Calls `handler` with the room and the id of every socket that leaves one (`leave-room`),
    /// before the room is deleted; see [`Namespace::on_create_room`].
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_leave_room<F>(&self, handler: F) -> &Self
    where
        F: Fn(&Namespace, &str, &str) + Send + Sync + 'static,
    {
        let call = Arc::new(handler);
        self.add::<OnRoomMember>("room handler", call, |handlers| &mut handlers.leave_room)
    }
}
