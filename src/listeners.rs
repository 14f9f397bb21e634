//! Listeners of one socket that come and go: for one event, for one time, for all events in either
//! direction (K.3).

use std::future::Future;
use std::rc::Rc;

use crate::event::Event;
use crate::namespace::{LocalFuture, Named};
use crate::socket::{Own, Socket, SocketEvent};

/// Names a listener of one socket, to remove it with [`Socket::off`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listener(u64);

type List = Vec<Named<SocketEvent>>;

/// Where a listener is put among the others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    Last,
}

impl Socket {
    /// Calls `handler` for events of that name from this client, after the handlers of the
    /// namespace. It stays until it is removed or the socket goes, and costs memory for each.
    pub fn on<F, R>(&self, event: &str, handler: F) -> Listener
    where
        F: Fn(Socket, Event) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        let named = self.listener(format!("event {event:?}"), handler);
        self.listen(named, Place::Last, |own| own.events.entry(event.into()).or_default())
    }

    /// As [`Socket::on`], for the next event of that name only. It is removed before it is called.
    pub fn once<F, R>(&self, event: &str, handler: F) -> Listener
    where
        F: Fn(Socket, Event) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        let named = self.listener(format!("event {event:?}"), handler);
        let named = Named { is_once: true, ..named };
        self.listen(named, Place::Last, |own| own.events.entry(event.into()).or_default())
    }

    /// Removes one listener of whatever kind; false if it is not there. O(listeners).
    pub fn off(&self, listener: Listener) -> bool {
        self.shard.remove_listener(self.key, listener.0)
    }

    /// Removes all listeners that this socket itself has for an event (`removeAllListeners`); those
    /// of the namespace stay.
    pub fn off_event(&self, event: &str) {
        self.remove(|own| own.events.remove(event).unwrap_or_default());
    }

    /// Calls `handler` for every event of this client, whatever its name, before its middleware is
    /// asked: also for events that are refused then (J-10). After those of the namespace.
    pub fn on_any<F, R>(&self, handler: F) -> Listener
    where
        F: Fn(Socket, Event) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        let named = self.listener("catch-all listener".into(), handler);
        self.listen(named, Place::Last, |own| &mut own.any)
    }

    /// As [`Socket::on_any`], before the others of this socket.
    pub fn prepend_any<F, R>(&self, handler: F) -> Listener
    where
        F: Fn(Socket, Event) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        let named = self.listener("catch-all listener".into(), handler);
        self.listen(named, Place::First, |own| &mut own.any)
    }

    /// Removes all listeners of [`Socket::on_any`] and [`Socket::prepend_any`].
    pub fn off_any(&self) {
        self.remove(|own| std::mem::take(&mut own.any));
    }

    /// The listeners of [`Socket::on_any`] and [`Socket::prepend_any`], in the order in which they
    /// are called.
    pub fn listeners_any(&self) -> Vec<Listener> {
        self.list(|own| &own.any)
    }

    /// Calls `handler` for every event that is sent to this client, by [`Socket::emit`] or by a
    /// broadcast that reaches it (K.3); not for acknowledgements, nor for what `handler` itself
    /// sends before its first `await`. It is called soon after the event was queued; answering the
    /// [`Event`] has no effect.
    ///
    /// From the first such listener on, broadcasts of the whole server keep their arguments for it.
    pub fn on_any_outgoing<F, R>(&self, handler: F) -> Listener
    where
        F: Fn(Socket, Event) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        self.listen_outgoing(Place::Last, handler)
    }

    /// As [`Socket::on_any_outgoing`], before the others of this socket.
    pub fn prepend_any_outgoing<F, R>(&self, handler: F) -> Listener
    where
        F: Fn(Socket, Event) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        self.listen_outgoing(Place::First, handler)
    }

    /// Removes all listeners of [`Socket::on_any_outgoing`] and [`Socket::prepend_any_outgoing`].
    pub fn off_any_outgoing(&self) {
        self.remove(|own| std::mem::take(&mut own.outgoing));
        self.shard.hub().watch_sent(self.key, false);
    }

    /// The listeners of [`Socket::on_any_outgoing`] and [`Socket::prepend_any_outgoing`], in the
    /// order in which they are called.
    pub fn listeners_any_outgoing(&self) -> Vec<Listener> {
        self.list(|own| &own.outgoing)
    }

    fn listen_outgoing<F, R>(&self, place: Place, handler: F) -> Listener
    where
        F: Fn(Socket, Event) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        self.server().report_sent();
        self.shard.hub().watch_sent(self.key, true);
        let named = self.listener("outgoing listener".into(), handler);
        self.listen(named, place, |own| &mut own.outgoing)
    }

    fn listener<F, R>(&self, what: String, handler: F) -> Named<SocketEvent>
    where
        F: Fn(Socket, Event) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        let call = move |socket, event| -> LocalFuture<()> { Box::pin(handler(socket, event)) };
        self.named(what, Rc::new(call))
    }

    fn listen(
        &self,
        named: Named<SocketEvent>,
        place: Place,
        list: impl FnOnce(&mut Own) -> &mut List,
    ) -> Listener {
        let id = self.own(|own| {
            own.listeners += 1;
            let id = own.listeners;
            let (list, named) = (list(own), Named { id, ..named });
            let at = if place == Place::First { 0 } else { list.len() };
            list.insert(at, named);
            id
        });
        // A socket that has gone has no listeners, and none has this number.
        Listener(id.unwrap_or_default())
    }

    fn remove(&self, take: impl FnOnce(&mut Own) -> List) {
        // Dropped after the borrow has ended: what a listener holds may use the socket.
        drop(self.shard.own_mut(self.key, take));
    }

    fn list(&self, list: impl FnOnce(&Own) -> &List) -> Vec<Listener> {
        let ids = |own: &Own| list(own).iter().map(|named| Listener(named.id)).collect();
        self.shard.own(self.key, ids).unwrap_or_default()
    }
}

impl Own {
    /// Takes out the listener of that number.
    pub(crate) fn take_listener(&mut self, id: u64) -> Option<Named<SocketEvent>> {
        for list in [&mut self.any, &mut self.outgoing] {
            if let Some(at) = list.iter().position(|named| named.id == id) {
                return Some(list.remove(at));
            }
        }
        let name = self.events.iter().find(|(_, list)| list.iter().any(|named| named.id == id));
        let name = name.map(|(name, _)| name.clone())?;
        let list = self.events.get_mut(&name)?;
        let at = list.iter().position(|named| named.id == id)?;
        let taken = list.remove(at);
        if list.is_empty() {
            self.events.remove(&name);
        }
        Some(taken)
    }
}
