//! What applications do: emit, publish, join, leave, disconnect.
//!
//! Commands are applied at once and staged; nothing leaves before the shard flushes.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::deliver::{Frame, Urgency};
use super::fanout::Encoded;
use super::few::Few;
use super::id::Id;
use super::known::{Namespace, Size};
use super::namespace::{Member, State};
use super::recovery::Offset;
use super::rooms::{NamespaceId, Rooms};
use super::session::Goodbye;
use super::slab::Key;
use super::{Hub, Links};
use crate::error::Reason;
use crate::histograms::QueueLengths;
use crate::proto::parser::{self, Outgoing};

/// Names of rooms or socket ids, nearly always one.
pub type Names = SmallVec<[Box<str>; 1]>;

/// Which sockets of a namespace: those in any of `rooms` (all, if empty), without those in any of
/// `except`. Each once (L-2). A socket's own id counts as a room.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// Rooms and ids.
    pub rooms: Names,
    /// Rooms and ids.
    pub except: Names,
    /// This socket and no other, whatever rooms there are.
    pub only: Option<Id>,
}

/// How an event is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags {
    /// Drop it where the socket is not ready (J-20).
    pub volatile: bool,
    /// Compress it where that was agreed on.
    pub compress: bool,
    /// With acknowledgements: say which sockets have answered, and which have not.
    pub named: bool,
    /// What the event is kept under for clients that may miss it; its last argument then.
    pub offset: Option<Offset>,
}

impl Default for Flags {
    fn default() -> Flags {
        Flags { volatile: false, compress: true, named: false, offset: None }
    }
}

/// A broadcast, encoded, for the sockets of one namespace.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The namespace.
    pub namespace: NamespaceId,
    /// Its sockets.
    pub target: Target,
    /// How it is delivered.
    pub flags: Flags,
    /// The packet.
    pub encoded: Encoded,
}

impl Hub {
    /// Sends a packet to one socket. `text` is Engine.IO text, `4` included. False if it has gone.
    pub fn emit(&mut self, key: Key, text: &[u8], attachments: &[Bytes], flags: Flags) -> bool {
        let logged = self.logged(flags.offset, || Encoded {
            text: Bytes::copy_from_slice(text),
            attachments: attachments.into(),
        });
        let Some(member) = self.members.get_mut(key) else { return false };
        // Before it is connected a socket may already be written to (J-8).
        if member.state == State::Leaving {
            return false;
        }
        if let Some(entry) = &logged {
            member.log(entry);
        }
        let urgency = if flags.volatile { Urgency::Volatile } else { Urgency::One };
        let mut frame = Frame::new(text, attachments);
        frame.compress = flags.compress;
        self.links.deliver(member.session, &mut frame, urgency);
        true
    }

    /// The session of a member, to answer its events with.
    pub fn session_of(&self, key: Key) -> Option<Key> {
        self.links.sessions.key_at(self.members.get(key)?.session)
    }

    /// Answers an event (J-12): also after the namespace was left, while the connection is open.
    /// False if it is not.
    ///
    /// # Errors
    /// The parser cannot write it.
    pub fn acknowledge(
        &mut self,
        session: Key,
        namespace: &str,
        id: u64,
        json: &[u8],
        attachments: &[Bytes],
    ) -> Result<bool, parser::Error> {
        if !self.is_open(session) {
            return Ok(false);
        }
        let mut text = Vec::with_capacity(json.len() + 32);
        let packet = Outgoing::Ack { id, args: json, attachments };
        let attachments = self.config.parser.encode(namespace, &packet, &mut text)?;
        self.links.deliver(session.index, &mut Frame::new(&text, &attachments), Urgency::Control);
        Ok(true)
    }

    /// Sends a packet to every socket of this shard that the target selects.
    pub fn publish(&mut self, publish: &Publish) {
        let Publish { namespace, target, flags, encoded } = publish;
        let mut frame = Frame::new(&encoded.text, &encoded.attachments);
        frame.compress = flags.compress;
        let urgency = if flags.volatile { Urgency::Volatile } else { Urgency::Many };
        let logged = self.logged(flags.offset, || encoded.clone());
        let mut queues = QueueLengths::default();
        self.select(*namespace, target, logged.is_some(), |links, _, member| {
            if let Some(entry) = &logged {
                member.log(entry);
            }
            let waiting = links.deliver(member.session, &mut frame, urgency);
            if let Some(bytes) = waiting {
                queues.observe(bytes);
            }
        });
        self.note_queues(*namespace, &queues);
        if let Some(entry) = &logged {
            self.log_publish(publish, entry);
        }
    }

    /// Visits each selected member that is connected once: not those that are still asking (U-10),
    /// nor those that are leaving and stand in their rooms until the application lets go of them
    /// (unless `is_logged` and their clients may come back). O(members of the rooms named).
    fn select(
        &mut self,
        namespace: NamespaceId,
        target: &Target,
        is_logged: bool,
        mut visit: impl FnMut(&mut Links, u32, &mut Member),
    ) {
        let Some(everyone) = self.namespaces.get(namespace) else { return };
        if let Some(id) = target.only {
            if let Some(index) = self.member_at(namespace, &id)
                && let Some(member) = self.members.at_mut(index)
                && member.hears(is_logged)
            {
                visit(&mut self.links, index, member);
            }
            return;
        }
        let plain = target.except.is_empty();
        let by_id = target.rooms.iter().map(|name| self.member_by_id(namespace, name));
        let by_id: SmallVec<[Option<u32>; 1]> = by_id.collect();
        let lists = target.rooms.iter().map(|name| self.rooms.members(namespace, name));
        let lists: SmallVec<[&[u32]; 2]> = match target.rooms.is_empty() {
            true => SmallVec::from_slice(&[everyone.members.as_slice()]),
            false => lists.collect(),
        };
        if plain && lists.len() == 1 && by_id.iter().all(Option::is_none) {
            // The common case: one list, which holds nobody twice.
            for index in lists[0] {
                let member = self.members.at_mut(*index);
                if let Some(member) = member.filter(|m| m.hears(is_logged)) {
                    visit(&mut self.links, *index, member);
                }
            }
            return;
        }
        self.mark = self.mark.wrapping_add(1).max(1);
        let mark = self.mark;
        for name in &target.except {
            if let Some(index) = self.member_by_id(namespace, name)
                && let Some(member) = self.members.at_mut(index)
            {
                member.mark = mark;
            }
            for index in self.rooms.members(namespace, name) {
                if let Some(member) = self.members.at_mut(*index) {
                    member.mark = mark;
                }
            }
        }
        let lists = lists.into_iter().flatten().chain(by_id.iter().flatten());
        for index in lists {
            let member = self.members.at_mut(*index);
            let is_new = |m: &&mut Member| m.mark != mark && m.hears(is_logged);
            if let Some(member) = member.filter(is_new) {
                member.mark = mark;
                visit(&mut self.links, *index, member);
            }
        }
    }

    /// The connected members of all namespaces, with the names of those.
    pub fn everyone(&self) -> impl Iterator<Item = (Key, &str)> {
        self.namespaces.named().flat_map(|(_, namespace)| {
            let keys = namespace.members.iter().filter_map(|index| self.members.key_at(*index));
            let keys = keys.filter(|key| self.is_connected(*key));
            keys.map(|key| (key, &*namespace.name))
        })
    }

    /// The connected members that a target selects.
    pub fn selected(&mut self, namespace: NamespaceId, target: &Target) -> Vec<Key> {
        let mut indices = Vec::new();
        self.select(namespace, target, false, |_, index, _| indices.push(index));
        indices.into_iter().filter_map(|index| self.members.key_at(index)).collect()
    }

    /// How many connected members a target selects. O(1) for all of a namespace or of one room,
    /// where those count as well who have joined it before they were let in; otherwise O(members
    /// of the rooms named).
    pub fn count(&mut self, namespace: NamespaceId, target: &Target) -> usize {
        if target.except.is_empty() && target.only.is_none() {
            match target.rooms.as_slice() {
                [] => return self.members_of(namespace),
                [room] if self.member_by_id(namespace, room).is_none() => {
                    return self.rooms.members(namespace, room).len();
                }
                _ => {}
            }
        }
        let mut count = 0;
        self.select(namespace, target, false, |_, _, _| count += 1);
        count
    }

    /// Connected members of a namespace. O(1).
    pub fn members_of(&self, namespace: NamespaceId) -> usize {
        self.namespaces.get(namespace).map_or(0, |it| it.members.len())
    }

    /// What each namespace holds that there is.
    pub fn namespace_sizes(&self) -> Vec<Size> {
        let size = |(id, namespace): (NamespaceId, &Namespace)| Size {
            name: Box::from(&*namespace.name),
            members: namespace.members.len(),
            rooms: self.rooms.count(id),
            delivery: namespace.delivery.as_deref().copied().unwrap_or_default(),
        };
        self.namespaces.named().map(size).collect()
    }

    /// Counts what waited in front of the packets of a broadcast, if this shard had any.
    pub(super) fn note_queues(&mut self, namespace: NamespaceId, queues: &QueueLengths) {
        if *queues == QueueLengths::default() {
            return;
        }
        self.links.stats.fan_out_queues.add(queues);
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.delivery.get_or_insert_default().queues.add(queues);
        }
    }

    /// Counts how long a broadcast took to leave.
    pub fn note_left(&mut self, namespace: NamespaceId, delay: Duration) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.delivery.get_or_insert_default().fan_out.observe(delay);
        }
    }

    /// All rooms.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// Puts a socket into a room; false if it has gone, is there already, or is in too many.
    pub fn join(&mut self, key: Key, room: &str) -> bool {
        let limit = self.config.rooms_max;
        let own = self.socket_id(key);
        let Some(member) = self.members.get_mut(key) else { return false };
        // A socket is always in the room of its own id, which is not stored.
        let is_own = own.as_ref().is_some_and(|id| id.as_str() == room);
        if member.state == State::Leaving || member.rooms.len() >= limit || is_own {
            return false;
        }
        let namespace = member.namespace;
        let is_new = self.rooms.members(namespace, room).is_empty();
        let has_joined = self.rooms.join(namespace, room, key.index, &mut member.rooms);
        if has_joined && self.reports_rooms(namespace) {
            self.report_join(namespace, room.into(), own.as_ref(), is_new);
        }
        has_joined
    }

    /// Takes a socket out of a room; false if it was not there.
    pub fn leave(&mut self, key: Key, room: &str) -> bool {
        let Some(member) = self.members.get_mut(key) else { return false };
        let mut own = std::mem::take(&mut member.rooms);
        let namespace = member.namespace;
        let members = &mut self.members;
        let left = self.rooms.leave(namespace, room, &mut own, |other, moved| {
            if let Some(other) = members.at_mut(other) {
                moved.apply(&mut other.rooms);
            }
        });
        if let Some(member) = self.members.get_mut(key) {
            member.rooms = own;
        }
        if left && self.reports_rooms(namespace) {
            let id = self.socket_id(key);
            self.report_leave(namespace, room.into(), id.as_ref());
        }
        left
    }

    /// The rooms of a socket, its own id not among them.
    pub fn rooms_of(&self, key: Key) -> Vec<Rc<str>> {
        let Some(member) = self.members.get(key) else { return Vec::new() };
        member.rooms.iter().filter_map(|membership| self.rooms.name(*membership)).collect()
    }

    /// Whether a socket is in a room, its own included. O(rooms of the socket).
    pub fn is_in(&self, key: Key, room: &str) -> bool {
        let Some(member) = self.members.get(key) else { return false };
        let is_own = self.socket_id(key).is_some_and(|id| id.as_str() == room);
        let mut rooms = member.rooms.iter();
        is_own || rooms.any(|place| self.rooms.name(*place).is_some_and(|name| *name == *room))
    }

    /// Disconnects a socket from its namespace (J-15), or its whole connection (J-16).
    pub fn disconnect(&mut self, key: Key, whole_connection: bool) {
        let Some(session) = self.members.get(key).map(|member| member.session) else { return };
        let leaving = if whole_connection { self.siblings(key) } else { Few::One(key.index) };
        for index in leaving.as_slice().iter().copied() {
            let Some(member) = self.members.at(index) else { continue };
            if member.state == State::Connected {
                if let Some(name) = self.namespaces.name(member.namespace) {
                    self.send_packet(session, &name, &Outgoing::Disconnect);
                }
                self.close_member(index, Reason::ServerNamespaceDisconnect);
            }
        }
        if whole_connection {
            self.close_session(session, Reason::ForcedClose, Goodbye::Flush);
        }
    }

    /// Closes the connection of a socket after what is queued, without a DISCONNECT packet: the
    /// client sees a closed transport and reconnects.
    pub fn close_connection(&mut self, key: Key) {
        if let Some(session) = self.members.get(key).map(|member| member.session) {
            self.close_session(session, Reason::ForcedClose, Goodbye::Flush);
        }
    }

    /// Closes the connection of a socket because its handler has failed or cannot keep up. Its
    /// sockets see `forced close`, its client a closed transport.
    pub fn abort(&mut self, key: Key) {
        if let Some(session) = self.members.get(key).map(|member| member.session) {
            self.close_session(session, Reason::ForcedClose, Goodbye::Close);
        }
    }
}
