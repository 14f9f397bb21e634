//! Listeners beside those of single events: all events in either direction, rooms, upgrades.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::Shard;
use super::watch::Label;
use crate::admin::tap::watching;
use crate::children::NamespaceSpec;
use crate::event::Event;
use crate::hub::rooms::NamespaceId;
use crate::hub::slab::Key;
use crate::hub::{Arguments, RoomChange};
use crate::namespace::Namespace;
use crate::socket::Socket;

impl Shard {
    /// Calls the catch-all listeners of an event, before anybody may refuse it (J-10).
    pub(super) fn call_any(self: &Rc<Self>, socket: &Socket, event: &Event) {
        for handler in &socket.namespace.handlers.any {
            self.call(socket, handler.label, || (handler.call)(socket.clone(), event.clone()));
        }
        for handler in self.own_calls(socket.key, |own| Some(&own.any)) {
            self.call(socket, handler.label, || (handler.call)(socket.clone(), event.clone()));
        }
    }

    /// Takes a listener from a socket; false if it is not there any more.
    pub(crate) fn remove_listener(&self, key: Key, id: u64) -> bool {
        let taken = self.own_mut(key, |own| (own.take_listener(id), own.outgoing.is_empty()));
        let Some((taken, is_unheard)) = taken else { return false };
        if is_unheard {
            self.hub().watch_sent(key, false);
        }
        taken.is_some()
    }

    /// An event was sent to a socket whose outgoing listeners want to know.
    pub(super) fn on_sent(self: &Rc<Self>, member: Key, arguments: Arguments) {
        let Some(namespace) = self.namespace_of(member) else { return };
        let Some(socket) = Socket::new(self, member, &namespace) else { return };
        let event = Event::sent(self.clone(), namespace.clone(), arguments);
        if let Some(admin) = watching(&socket.server()) {
            admin.event("event_sent", &socket, event.name(), &event.raw());
        }
        // What a listener sends is not reported, or it would be called for ever.
        self.is_reporting.set(true);
        for handler in &namespace.handlers.outgoing {
            self.call(&socket, handler.label, || (handler.call)(socket.clone(), event.clone()));
        }
        for handler in self.own_calls(member, |own| Some(&own.outgoing)) {
            self.call(&socket, handler.label, || (handler.call)(socket.clone(), event.clone()));
        }
        self.is_reporting.set(false);
    }

    /// A session has moved to its websocket.
    pub(super) fn on_upgraded(self: &Rc<Self>, member: Key) {
        let Some(namespace) = self.namespace_of(member) else { return };
        let server = self.server();
        if let Some(admin) = watching(&server)
            && let Some(socket) = Socket::new(self, member, &namespace)
        {
            admin.upgraded(&socket);
        }
        let own = self.own_calls(member, |own| Some(&own.upgrade));
        if namespace.handlers.upgrade.is_empty() && own.is_empty() {
            return;
        }
        let Some(socket) = Socket::new(self, member, &namespace) else { return };
        for handler in &namespace.handlers.upgrade {
            self.call(&socket, handler.label, || (handler.call)(socket.clone()));
        }
        for handler in own {
            self.call(&socket, handler.label, || (handler.call)(socket.clone()));
        }
    }

    /// A room has changed on this shard. A room that is on several shards is created and deleted
    /// once for all of them; the lock keeps the two in order for whoever listens.
    pub(super) fn on_room(&self, id: NamespaceId, room: &str, change: RoomChange) {
        let Some(namespace) = self.namespace(id) else { return };
        let server = self.server();
        if let Some(admin) = watching(&server) {
            admin.room(&server, &namespace.name, room, &change);
        }
        if !namespace.handlers.hears_rooms() {
            return;
        }
        let counts = self.server.room_counts();
        let mut counts = counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_news = match &change {
            RoomChange::Created => {
                let count = counts.entry((id, room.into())).or_default();
                *count += 1;
                *count == 1
            }
            RoomChange::Deleted => {
                let count = counts.get_mut(&(id, room.into()));
                let left = count.map_or(0, |count| {
                    *count -= 1;
                    *count
                });
                if left == 0 {
                    counts.remove(&(id, room.into()));
                }
                left == 0
            }
            RoomChange::Joined(_) | RoomChange::Left(_) => true,
        };
        if is_news {
            self.call_room(&namespace, room, &change);
        }
    }

    fn call_room(&self, namespace: &NamespaceSpec, room: &str, change: &RoomChange) {
        let handlers = &namespace.handlers;
        let NamespaceSpec { id, name, .. } = namespace;
        let namespace = Namespace { server: self.server(), id: *id, name: name.clone() };
        let (rooms, members) = match change {
            RoomChange::Created => (&handlers.create_room[..], &[][..]),
            RoomChange::Deleted => (&handlers.delete_room[..], &[][..]),
            RoomChange::Joined(_) => (&[][..], &handlers.join_room[..]),
            RoomChange::Left(_) => (&[][..], &handlers.leave_room[..]),
        };
        for handler in rooms {
            self.guard(handler.label, || (handler.call)(&namespace, room));
        }
        let (RoomChange::Joined(socket) | RoomChange::Left(socket)) = change else { return };
        for handler in members {
            self.guard(handler.label, || (handler.call)(&namespace, room, socket));
        }
    }

    /// Calls a handler that belongs to no connection. A panic of it ends nothing.
    fn guard(&self, label: &'static Label, call: impl FnOnce()) {
        self.pulse().enter(label);
        let called = catch_unwind(AssertUnwindSafe(call));
        self.pulse().leave();
        if called.is_err() && self.may_warn() {
            log::error!("{label} panicked");
        }
    }
}
