//! Socket.IO: who has joined which namespace, and what their packets mean (spec I, J).
//!
//! A member is one session's membership of one namespace, what the public API calls a socket. It is
//! `Connecting` until the application has answered, `Connected` while packets pass, and `Leaving`
//! until the application has let go of it; its rooms stay set for that long.

use std::rc::Rc;

use bytes::Bytes;

use super::ask::FIRST_ASK;
use super::deliver::{Frame, Urgency};
use super::few::Few;
use super::handshake::Handshake;
use super::id::{Id, Secret, SocketId};
use super::known::{self, UNKNOWN_NAME_MAX};
use super::recovery::{Logged, Phase, Track};
use super::restore::{Gone, former};
use super::rooms::{Memberships, NamespaceId};
use super::session::Goodbye;
use super::slab::Key;
use super::wheel::{Alarm, Deadline, Tick, Timer};
use super::{AckLost, Event, Hub};
use crate::error::Reason;
use crate::proto::packet::{self, Kind, Packet};
use crate::proto::parser::Outgoing;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    Connected,
    Leaving,
}

/// The record of a socket. Kept small, like that of a session.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) session: u32,
    pub(super) namespace: NamespaceId,
    pub(super) state: State,
    /// What is sent to it is reported.
    pub(super) is_watched: bool,
    secret: Secret,
    /// Place in [`Namespace::members`].
    pub(super) place: u32,
    /// Number of the last selection that visited this member, so that it is visited once.
    pub(super) mark: u32,
    pub(super) rooms: Memberships,
    rare: Option<Box<Rare>>,
}

const _: () = assert!(size_of::<Member>() <= 64);

impl Member {
    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// What most members do not have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// What the client sent with CONNECT, raw JSON; empty if nothing.
    auth: Box<str>,
    /// Acknowledgements awaited from this client.
    pub(super) acks: Vec<PendingAck>,
    alarm: Alarm,
    /// Events that arrived while the application was still deciding (W-22).
    held: Vec<Arguments>,
    track: Option<Box<Track>>,
}

impl Member {
    /// What recovery keeps with it, where that is on.
    pub(super) fn track(&self) -> Option<&Track> {
        self.rare.as_ref()?.track.as_deref()
    }

    pub(super) fn track_mut(&mut self) -> Option<&mut Track> {
        self.rare.as_mut()?.track.as_deref_mut()
    }

    /// Keeps an event in case its client comes back without it.
    pub(super) fn log(&mut self, entry: &Rc<Logged>) {
        if let Some(track) = self.track_mut() {
            track.log.push(entry);
        }
    }

    /// Whether broadcasts are for it: it is connected, or `is_logged` and its client may come back.
    pub(super) fn hears(&self, is_logged: bool) -> bool {
        let is_suspending = || self.track().is_some_and(|it| it.phase == Phase::Suspending);
        self.state == State::Connected || (is_logged && is_suspending())
    }
}

impl Rare {
    fn held_bytes(&self) -> usize {
        self.auth.len() + self.held.iter().map(Arguments::bytes).sum::<usize>()
    }
}

/// Events held for one member that is still connecting.
const HELD_MAX: usize = 32;

/// An acknowledgement that is awaited.
#[derive(Debug)]
pub(super) struct PendingAck {
    pub(super) id: u64,
    pub(super) deadline: Option<Tick>,
    pub(super) waiter: Waiter,
}

/// What an acknowledgement is the answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiter {
    /// An event for one socket, with the application's token.
    One(u64),
    /// A broadcast, which keeps the deadline.
    Ask(Key),
}

/// The arguments of an event or an acknowledgement: raw JSON, validated, and attachments.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    /// Name of the event; empty in an acknowledgement.
    pub name: Box<str>,
    /// The arguments without brackets, possibly empty.
    pub json: Bytes,
    /// Attachments that the placeholders in `json` stand for.
    pub attachments: Vec<Bytes>,
    /// Id that the client wants the event acknowledged under.
    pub ack: Option<u64>,
}

impl Arguments {
    /// Bytes that the peer has made us hold.
    pub(super) fn bytes(&self) -> usize {
        let attachments = self.attachments.iter().map(Bytes::len).sum::<usize>();
        self.name.len() + self.json.len() + attachments
    }
}

impl Hub {
    pub(super) fn handle_packet(
        &mut self,
        index: u32,
        packet: &Packet<'_>,
        attachments: Vec<Bytes>,
    ) {
        if self.is_revision_3(index) {
            return self.handle_packet_v2(index, packet, attachments);
        }
        self.handle_packet_in(index, packet, attachments);
    }

    /// A packet whose namespace is a name and nothing else.
    pub(super) fn handle_packet_in(
        &mut self,
        index: u32,
        packet: &Packet<'_>,
        attachments: Vec<Bytes>,
    ) {
        let member = self.member_of(index, packet.namespace);
        match (packet.kind, member) {
            (Kind::Connect, None) => self.ask_to_connect(index, packet),
            (Kind::Disconnect, Some(member)) => {
                self.close_member(member, Reason::ClientNamespaceDisconnect);
            }
            (Kind::Event | Kind::BinaryEvent, Some(member)) => {
                self.handle_event(member, packet, attachments);
            }
            (Kind::Ack | Kind::BinaryAck, Some(member)) => {
                self.handle_ack(member, packet, attachments);
            }
            // I-14: not a state in which that could be said.
            _ => {
                self.links.stats.bad_packets += 1;
                self.close_session(index, Reason::ForcedClose, Goodbye::Close);
            }
        }
    }

    /// The member of a session in a namespace, unless it is leaving.
    pub(super) fn member_of(&self, session: u32, namespace: &str) -> Option<u32> {
        let session = self.links.sessions.at(session)?;
        session.members.as_slice().iter().copied().find(|member| {
            self.members.at(*member).is_some_and(|member| {
                member.state != State::Leaving
                    && self.namespaces.get(member.namespace).is_some_and(|n| &*n.name == namespace)
            })
        })
    }

    /// CONNECT: the namespace must exist (J-4), the application decides the rest.
    pub(super) fn ask_to_connect(&mut self, index: u32, packet: &Packet<'_>) {
        let Some(session) = self.links.sessions.at(index) else { return };
        // Those that are leaving make room for others; they go before more input is handled.
        let is_staying = |index: &&u32| {
            self.members.at(**index).is_some_and(|member| member.state != State::Leaving)
        };
        let staying = session.members.as_slice().iter().filter(is_staying).count();
        let is_full = staying >= self.config.namespaces_max;
        let namespace = self.namespaces.id(packet.namespace);
        if is_full || (namespace.is_none() && packet.namespace.len() > UNKNOWN_NAME_MAX) {
            let message = if is_full { "Too many namespaces" } else { "Invalid namespace" };
            let refusal = Outgoing::ConnectError { message, data: None };
            return self.send_packet(index, packet.namespace, &refusal);
        }
        // What is kept of all namespaces together is one message's size, not one for each.
        let held = self.kept_bytes(index) + packet.data.len();
        if held > self.config.limits.held_bytes_max() {
            return self.reject_packet(index, &packet::Error::TooMuchHeld.to_string());
        }
        let rare = (!packet.data.is_empty())
            .then(|| Box::new(Rare { auth: packet.data.into(), ..Rare::default() }));
        let is_known = namespace.is_some();
        let namespace = namespace.unwrap_or_else(|| self.namespaces.guess(packet.namespace));
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.total += 1;
        }
        let member = self.members.insert(Member {
            session: index,
            namespace,
            state: State::Connecting,
            is_watched: false,
            secret: self.secrets.draw(),
            place: 0,
            mark: 0,
            rooms: Memberships::new(),
            rare,
        });
        if let Some(session) = self.links.sessions.at_mut(index) {
            session.members.push(member.index);
        }
        if let Some(track) = self.new_track(index, member.index)
            && let Some(record) = self.members.get_mut(member)
        {
            record.rare.get_or_insert_default().track = Some(track);
        }
        match is_known {
            true => self.begin(member, namespace),
            false => self.events.push_back(Event::Unknown(member)),
        }
        if !packet.data.is_empty() {
            self.note_kept(index);
        }
    }

    /// Looks for a former session, or asks the application.
    fn begin(&mut self, member: Key, namespace: NamespaceId) {
        let auth = self.auth(member).unwrap_or_default();
        let former = if self.recovery.is_some() { former(auth) } else { None };
        if !self.begin_restore(member, namespace, former) {
            self.events.push_back(Event::Connect { member, namespace });
        }
    }

    /// The name of the namespace that a member is in or asks for.
    pub fn namespace_name(&self, key: Key) -> Option<Rc<str>> {
        self.namespaces.name(self.members.get(key)?.namespace)
    }

    /// The answer to [`Event::Unknown`]: the member's namespace is this one, which is known now.
    /// [`Event::Connect`] follows. False if the client has gone meanwhile.
    pub fn place_member(&mut self, key: Key, namespace: NamespaceId) -> bool {
        let Some(member) = self.members.get_mut(key) else { return false };
        let Some(known) = self.namespaces.get_mut(namespace) else { return false };
        if !known::is_guess(member.namespace) {
            return false;
        }
        known.total += 1;
        let guess = std::mem::replace(&mut member.namespace, namespace);
        self.namespaces.remove(guess);
        self.begin(key, namespace);
        true
    }

    /// Sends one of the protocol's own packets to a session.
    pub(super) fn send_packet(&mut self, session: u32, namespace: &str, packet: &Outgoing<'_>) {
        let mut text = Vec::with_capacity(64);
        match self.config.parser.encode(namespace, packet, &mut text) {
            Ok(attachments) => {
                self.links.deliver(session, &mut Frame::new(&text, &attachments), Urgency::Control);
            }
            // Only an application's own parser fails here. Its client would wait in vain.
            Err(_) => self.close_session(session, Reason::ForcedClose, Goodbye::Close),
        }
    }

    fn handle_event(&mut self, index: u32, packet: &Packet<'_>, attachments: Vec<Bytes>) {
        // `42` without data is an event without a name, which nobody can listen to (I-5).
        let Ok((name, json)) = packet::event_parts(packet.data) else { return };
        let json = Bytes::copy_from_slice(json.as_bytes());
        let arguments = Arguments { name: name.into(), json, attachments, ack: packet.id };
        let Some(key) = self.members.key_at(index) else { return };
        let Some(member) = self.members.at_mut(index) else { return };
        self.links.stats.events += 1;
        if member.state == State::Connected {
            let namespace = member.namespace;
            self.events.push_back(Event::Packet { member: key, namespace, arguments });
            return;
        }
        let session = member.session;
        let bytes = self.kept_bytes(session) + arguments.bytes();
        let Some(member) = self.members.at_mut(index) else { return };
        let held = &mut member.rare.get_or_insert_default().held;
        if held.len() < HELD_MAX && bytes <= self.config.limits.held_bytes_max() {
            held.push(arguments);
            self.note_kept(session);
        } else {
            self.reject_packet(session, "too many packets before the connection");
        }
    }

    /// Bytes that a client has made us keep beyond its message in hand: what it said as `auth`, and
    /// events that wait for an answer to its CONNECT. O(its namespaces).
    pub(super) fn kept_bytes(&self, session: u32) -> usize {
        let members = self.links.sessions.at(session).map(|session| session.members.as_slice());
        let rare = members.into_iter().flatten().filter_map(|member| {
            self.members.at(*member).and_then(|member| member.rare.as_deref())
        });
        rare.map(Rare::held_bytes).sum()
    }

    fn handle_ack(&mut self, index: u32, packet: &Packet<'_>, attachments: Vec<Bytes>) {
        let Some(member) = self.members.at_mut(index) else { return };
        let namespace = member.namespace;
        let waiter = member.rare.as_mut().and_then(|rare| {
            let at = rare.acks.iter().position(|ack| Some(ack.id) == packet.id)?;
            Some(rare.acks.swap_remove(at).waiter)
        });
        if waiter.is_none() {
            self.links.stats.unexpected_acks += 1;
            let is_heard = |it: &known::Namespace| it.traits.reports_acks;
            if !self.namespaces.get(namespace).is_some_and(is_heard) {
                return;
            }
        }
        // An array, by the rules of `packet::decode`.
        let json = packet.data.trim_ascii().strip_prefix('[').and_then(|s| s.strip_suffix(']'));
        let json = Bytes::copy_from_slice(json.unwrap_or_default().trim_ascii().as_bytes());
        let arguments = Arguments { json, attachments, ..Arguments::default() };
        match (waiter, self.members.key_at(index)) {
            (Some(Waiter::One(token)), _) => {
                self.events.push_back(Event::Ack { token, outcome: Ok(arguments) });
            }
            (Some(Waiter::Ask(ask)), _) => self.ask_answered(ask, index, arguments),
            (None, Some(member)) => {
                self.events.push_back(Event::UnexpectedAck { member, namespace, arguments });
            }
            (None, None) => {}
        }
    }

    /// The application lets a client in; false if the client has gone meanwhile. Order of J-5.
    pub fn accept_member(&mut self, key: Key) -> bool {
        let is_asking = |member: &Member| {
            member.state == State::Connecting && !known::is_guess(member.namespace)
        };
        if !self.members.get(key).is_some_and(is_asking) || !self.replay(key) {
            return false;
        }
        let Some(member) = self.members.get_mut(key) else { return false };
        let (session, namespace) = (member.session, member.namespace);
        let Some(entry) = self.namespaces.get_mut(namespace) else { return false };
        member.state = State::Connected;
        member.place = entry.members.len() as u32;
        entry.members.push(key.index);
        let held = member.rare.as_mut().map(|rare| std::mem::take(&mut rare.held));
        let name = entry.name.clone();
        match self.is_revision_3(session) {
            true => self.send_packet(session, &name, &Outgoing::ConnectV2),
            false => self.send_connect(key, session, &name),
        }
        if self.reports_rooms(namespace) {
            let id = self.socket_id(key);
            self.report_own_room(namespace, id.as_ref(), true);
        }
        if let Some(session) = self.links.sessions.at_mut(session) {
            session.connect_by = Deadline::default();
        }
        let held = held.unwrap_or_default();
        if !held.is_empty() {
            self.note_kept(session);
        }
        for arguments in held {
            self.events.push_back(Event::Packet { member: key, namespace, arguments });
        }
        true
    }

    /// The application refuses a client (J-7). `data` is raw JSON.
    pub fn refuse_member(&mut self, key: Key, message: &str, data: Option<&str>) {
        let Some(member) = self.members.get(key) else { return };
        if member.state != State::Connecting {
            return;
        }
        let session = member.session;
        let is_known = !known::is_guess(member.namespace);
        let Some(name) = self.namespaces.name(member.namespace) else { return };
        // First, so that a packet that cannot be written ends nothing that was answered.
        self.remove_member(key);
        // That there is no such namespace has the same form in every revision.
        if is_known && self.is_revision_3(session) {
            self.refuse_v2(session, &name, message, data);
        } else {
            self.send_packet(session, &name, &Outgoing::ConnectError { message, data });
        }
    }

    /// The application refuses a client and wants no more of it: after the refusal, its connection
    /// is closed.
    pub fn expel_member(&mut self, key: Key, message: &str, data: Option<&str>) {
        let asking = self.members.get(key).filter(|member| member.state == State::Connecting);
        let Some(session) = asking.map(|member| member.session) else { return };
        self.refuse_member(key, message, data);
        self.close_session(session, Reason::ForcedClose, Goodbye::Flush);
    }

    /// The end of a member begins: the application is told while its rooms are still set (J-17).
    pub(super) fn close_member(&mut self, index: u32, reason: Reason) {
        let Some(key) = self.members.key_at(index) else { return };
        let Some(member) = self.members.at_mut(index) else { return };
        match member.state {
            State::Connected => {
                member.state = State::Leaving;
                self.may_suspend(index, reason);
                self.events.push_back(Event::Closing { member: key, reason });
            }
            State::Connecting => {
                let is_known = member.track().is_none_or(|it| it.phase != Phase::Restoring);
                if is_known {
                    self.events.push_back(Event::ConnectAborted(key));
                }
                self.remove_member(key);
            }
            State::Leaving => {}
        }
    }

    /// Forgets a member; to be called after `Event::Closing`. Its rooms are left, its
    /// acknowledgements are lost.
    pub fn remove_member(&mut self, key: Key) {
        let Some(public) = self.public_id(key) else { return };
        let rooms = self.rooms_to_keep(key);
        let reports_rooms =
            self.members.get(key).is_some_and(|member| self.reports_rooms(member.namespace));
        let id = if reports_rooms { self.socket_id(key) } else { None };
        let Some(member) = self.members.remove(key.index) else { return };
        self.watched -= usize::from(member.is_watched);
        if reports_rooms && member.state != State::Connecting {
            self.report_own_room(member.namespace, id.as_ref(), false);
        }
        for membership in member.rooms {
            let name = if reports_rooms { self.rooms.name(membership) } else { None };
            let members = &mut self.members;
            self.rooms.remove(membership, |other, moved| {
                if let Some(other) = members.at_mut(other) {
                    moved.apply(&mut other.rooms);
                }
            });
            if let Some(name) = name {
                self.report_leave(member.namespace, name, id.as_ref());
            }
        }
        let place = (member.state != State::Connecting).then_some(member.place);
        self.leave_namespace(member.namespace, place);
        let rare = member.rare.map(|rare| *rare).unwrap_or_default();
        let is_kept = rare.held_bytes() > 0;
        let Rare { acks, track, .. } = rare;
        for ack in acks {
            match ack.waiter {
                Waiter::One(token) => {
                    let outcome = Err(AckLost::Disconnected);
                    self.events.push_back(Event::Ack { token, outcome });
                }
                Waiter::Ask(ask) => self.ask_lost(ask),
            }
        }
        if let Some(session) = self.links.sessions.at_mut(member.session) {
            session.members.remove(key.index);
        }
        if is_kept {
            self.note_kept(member.session);
        }
        self.free_session(member.session);
        if let Some(track) = track {
            self.let_go(key.index, member.namespace, public, Gone { track: *track, rooms });
        }
    }

    /// Counts a member out; `place` is where it stood among the connected ones, if it did.
    fn leave_namespace(&mut self, id: NamespaceId, place: Option<u32>) {
        let Some(namespace) = self.namespaces.get_mut(id) else { return };
        if let Some(place) = place {
            namespace.members.swap_remove(place as usize);
            if let Some(moved) = namespace.members.get(place as usize)
                && let Some(moved) = self.members.at_mut(*moved)
            {
                moved.place = place;
            }
        }
        namespace.total -= 1;
        if namespace.total > 0 {
            return;
        }
        if known::is_guess(id) {
            self.namespaces.remove(id);
        } else if namespace.traits.reports_empty {
            self.events.push_back(Event::Empty(id));
        }
    }

    /// Awaits an acknowledgement; returns the id to send. `None` if the socket has gone or too many
    /// are awaited. The answer comes as [`Event::Ack`] with `token`, always.
    pub fn await_ack(&mut self, key: Key, timeout_ms: Option<u64>, token: u64) -> Option<u64> {
        let (now, now_ms) = (self.now, self.now_ms);
        let member = self.members.get_mut(key).filter(|m| m.state == State::Connected)?;
        let rare = member.rare.get_or_insert_default();
        if rare.acks.len() >= self.config.acks_max {
            return None;
        }
        let next = &mut self.namespaces.get_mut(member.namespace)?.next_ack;
        // Over the years the numbers come round to those that are still awaited.
        while rare.acks.iter().any(|ack| ack.id == *next) {
            *next = (*next + 1) % FIRST_ASK;
        }
        let id = *next;
        *next = (id + 1) % FIRST_ASK;
        let deadline = timeout_ms.map(|ms| Tick::after(now_ms, ms));
        rare.acks.push(PendingAck { id, deadline, waiter: Waiter::One(token) });
        let at = rare.alarm.set(nearest(&rare.acks, now), now);
        self.watch(at, Timer::Member, key.index);
        Some(id)
    }

    /// Forgets an acknowledgement that nobody waits for any more.
    pub fn cancel_ack(&mut self, key: Key, token: u64) {
        if let Some(rare) = self.members.get_mut(key).and_then(|member| member.rare.as_mut()) {
            rare.acks.retain(|ack| ack.waiter != Waiter::One(token));
        }
    }

    pub(super) fn member_due(&mut self, index: u32) {
        let now = self.now;
        let Some(rare) = self.members.at_mut(index).and_then(|m| m.rare.as_mut()) else { return };
        match rare.alarm.due(now) {
            Err(at) => return self.watch(Some(at), Timer::Member, index),
            Ok(false) => return,
            Ok(true) => {}
        }
        let is_over = |ack: &mut PendingAck| ack.deadline.is_some_and(|tick| tick.reached(now));
        for ack in rare.acks.extract_if(.., is_over) {
            if let Waiter::One(token) = ack.waiter {
                let outcome = Err(AckLost::TimedOut);
                self.events.push_back(Event::Ack { token, outcome });
            }
        }
        let at = rare.alarm.set(nearest(&rare.acks, now), now);
        self.watch(at, Timer::Member, index);
    }

    /// The Socket.IO id of a member.
    pub fn socket_id(&self, key: Key) -> Option<SocketId> {
        let member = self.members.get(key)?;
        if self.is_revision_3(member.session) {
            return self.socket_id_v2(member.session, member.namespace);
        }
        Some(SocketId::Own(self.public_id(key)?.text()))
    }

    /// The id that is an address, mostly that of the member.
    pub(super) fn public_id(&self, key: Key) -> Option<Id> {
        let member = self.members.get(key)?;
        let own = Id { shard: self.config.shard, slot: key.index, secret: member.secret };
        Some(member.track().and_then(|track| track.alias).unwrap_or(own))
    }

    /// The member that a socket id of this namespace names, if it is here.
    pub(super) fn member_by_id(&self, namespace: NamespaceId, text: &str) -> Option<u32> {
        if self.config.allow_eio3
            && let Some(found) = self.member_by_id_v2(namespace, text)
        {
            return Some(found);
        }
        let id = Id::parse(text)?;
        if let Some(alias) = self.recovery.as_ref().and_then(|table| table.aliases.get(&id)) {
            let is_it = |member: &&Member| member.namespace == namespace;
            return self.members.at(*alias).filter(is_it).map(|_| *alias);
        }
        self.member_at(namespace, &id)
    }

    /// The address of a member's record, whatever its client calls it.
    pub fn record_id(&self, key: Key) -> Option<Id> {
        let secret = self.members.get(key)?.secret;
        Some(Id { shard: self.config.shard, slot: key.index, secret })
    }

    /// The member with that record, if it is here.
    pub(super) fn member_at(&self, namespace: NamespaceId, id: &Id) -> Option<u32> {
        let member = self.members.at(id.slot).filter(|_| id.shard == self.config.shard)?;
        let is_it = member.secret == id.secret && member.namespace == namespace;
        is_it.then_some(id.slot)
    }

    /// What the client of a member said when it came, while that is kept.
    pub fn handshake(&self, key: Key) -> Option<Handshake> {
        let member = self.members.get(key)?;
        let kept = self.links.sessions.at(member.session)?.handshake.as_ref()?;
        let certificate = self.certificates.get(&member.session).cloned();
        Some(self.heads.read(kept).secured(kept.is_secure, certificate))
    }

    /// Lets go of the handshake of a member's session, where options say so and the session's
    /// other namespaces are past it.
    pub fn release_handshake(&mut self, key: Key) {
        if self.config.retain_handshake {
            return;
        }
        let Some(member) = self.members.get(key) else { return };
        let session = self.links.sessions.at_mut(member.session);
        if let Some(kept) = session.and_then(|session| session.handshake.take()) {
            self.certificates.remove(&member.session);
            self.heads.forget(kept);
        }
    }

    /// What the client sent with its CONNECT, raw JSON; empty if nothing.
    pub fn auth(&self, key: Key) -> Option<&str> {
        let member = self.members.get(key)?;
        Some(member.rare.as_ref().map_or("", |rare| &rare.auth))
    }

    /// The Engine.IO session id of a member's connection, a secret of that client (J-21).
    pub fn client_id(&self, key: Key) -> Option<String> {
        self.id_text(self.members.get(key)?.session)
    }

    /// Whether packets pass.
    pub fn is_connected(&self, key: Key) -> bool {
        self.members.get(key).is_some_and(|member| member.state == State::Connected)
    }

    /// The namespace of a member.
    pub fn namespace_of(&self, key: Key) -> Option<NamespaceId> {
        self.members.get(key).map(|member| member.namespace)
    }

    /// Members of the same connection, this one included.
    pub(super) fn siblings(&self, key: Key) -> Few {
        let session = self.members.get(key).and_then(|m| self.links.sessions.at(m.session));
        session.map(|session| session.members.clone()).unwrap_or_default()
    }
}

fn nearest(acks: &[PendingAck], now: Tick) -> Option<Tick> {
    acks.iter().filter_map(|ack| ack.deadline).min_by_key(|tick| tick.until(now))
}
