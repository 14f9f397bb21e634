//! What the hub tells beyond packets, to those who asked for it: rooms that change, events that are
//! sent (L-1, K.3). Where nobody has asked, none of it runs.

use std::rc::Rc;

use super::id::SocketId;
use super::known::Namespace;
use super::known::RoomChange;
use super::namespace::Arguments;
use super::rooms::NamespaceId;
use super::slab::Key;
use super::{Event, Hub, Target, Traits};

/// Receivers of one broadcast that the admin UI hears of, on each shard.
const WATCHED_MAX: usize = 1_000;

impl Hub {
    /// Begins, or ends, to tell of every event that is sent to a socket.
    pub fn watch_sent(&mut self, key: Key, is_watched: bool) {
        let Some(member) = self.members.get_mut(key) else { return };
        match (member.is_watched, is_watched) {
            (false, true) => self.watched += 1,
            (true, false) => self.watched -= 1,
            _ => {}
        }
        member.is_watched = is_watched;
    }

    /// Begins, or ends, to tell of all namespaces' rooms and sent events, for the admin UI.
    pub fn watch_all(&mut self, is_watched: bool) {
        self.is_all_watched = is_watched;
    }

    /// What the application wants of a namespace from now on.
    pub fn set_traits(&mut self, id: NamespaceId, traits: Traits) {
        if let Some(namespace) = self.namespaces.get_mut(id) {
            namespace.traits = traits;
        }
    }

    /// Whether the packets of a socket travel over a websocket now.
    pub fn has_websocket(&self, key: Key) -> Option<bool> {
        self.session_of(key).map(|session| self.is_websocket(session))
    }

    /// Whether anybody of a namespace may want to know what is sent.
    fn is_watching(&self, namespace: NamespaceId) -> bool {
        let all = || self.namespaces.get(namespace).is_some_and(|n| n.traits.reports_sent);
        self.is_all_watched || self.watched > 0 || all()
    }

    /// Tells of an event that was sent to the sockets that a target selects, if anybody wants to
    /// know; O(1) otherwise.
    pub fn report_published(&mut self, namespace: NamespaceId, target: &Target, event: &Arguments) {
        if self.is_watching(namespace) {
            for (count, member) in self.selected(namespace, target).into_iter().enumerate() {
                self.report_if(member, event, count < WATCHED_MAX);
            }
        }
    }

    /// Tells of an event that was sent to a socket, if anybody wants to know.
    pub fn report_sent(&mut self, key: Key, event: &Arguments) {
        self.report_if(key, event, true);
    }

    fn report_if(&mut self, key: Key, event: &Arguments, to_admin: bool) {
        let Some(member) = self.members.get(key) else { return };
        let all = || self.namespaces.get(member.namespace).is_some_and(|n| n.traits.reports_sent);
        if (self.is_all_watched && to_admin) || member.is_watched || all() {
            self.events.push_back(Event::Sent { member: key, arguments: event.clone() });
        }
    }

    /// Whether anybody wants to know of a namespace's rooms.
    pub(super) fn reports_rooms(&self, namespace: NamespaceId) -> bool {
        let wants = |namespace: &Namespace| namespace.traits.reports_rooms;
        self.is_all_watched || self.namespaces.get(namespace).is_some_and(wants)
    }

    /// A socket has joined a room: the order of L-1.
    pub(super) fn report_join(
        &mut self,
        namespace: NamespaceId,
        room: Rc<str>,
        socket: Option<&SocketId>,
        is_new: bool,
    ) {
        let Some(socket) = socket.map(|id| Rc::from(id.as_str())) else { return };
        if is_new {
            self.report_room(namespace, room.clone(), RoomChange::Created);
        }
        self.report_room(namespace, room, RoomChange::Joined(socket));
    }

    /// A socket has left a room, which may be gone now.
    pub(super) fn report_leave(
        &mut self,
        namespace: NamespaceId,
        room: Rc<str>,
        socket: Option<&SocketId>,
    ) {
        let Some(socket) = socket.map(|id| Rc::from(id.as_str())) else { return };
        self.report_room(namespace, room.clone(), RoomChange::Left(socket));
        if self.rooms.members(namespace, &room).is_empty() {
            self.report_room(namespace, room, RoomChange::Deleted);
        }
    }

    /// A socket has joined, or left, the room of its own id.
    pub(super) fn report_own_room(
        &mut self,
        namespace: NamespaceId,
        socket: Option<&SocketId>,
        is_joined: bool,
    ) {
        let Some(room) = socket.map(|id| Rc::from(id.as_str())) else { return };
        match is_joined {
            true => self.report_join(namespace, room, socket, true),
            false => self.report_leave(namespace, room, socket),
        }
    }

    fn report_room(&mut self, namespace: NamespaceId, room: Rc<str>, change: RoomChange) {
        self.events.push_back(Event::Room { namespace, room, change });
    }
}
