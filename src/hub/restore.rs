//! How a socket is kept when its client has gone, and taken over when it comes back (spec L-9).
//!
//! A CONNECT that names a former session makes a member that is *restoring* until the session is
//! found (`handover.rs`), then *claims* it: the session stays suspended, and hears broadcasts,
//! until the application has let the member in. Only then is it gone from the table.

use std::borrow::Cow;
use std::rc::Rc;

use serde::Deserialize;

use super::deliver::{Frame, Urgency};
use super::fanout::Encoded;
use super::handover::{Ask, Message};
use super::id::Id;
use super::namespace::Member;
use super::recovery::{Data, Leaving, Log, Logged, Offset, Phase, Place, Track};
use super::rooms::NamespaceId;
use super::session::Goodbye;
use super::slab::Key;
use super::wheel::{Tick, Timer};
use super::{Event, Hub};
use crate::error::Reason;
use crate::proto::parser::Outgoing;

/// The fields of `auth` that belong to the library (L-8).
#[derive(Deserialize)]
struct Former<'a> {
    #[serde(borrow)]
    pid: Cow<'a, str>,
    #[serde(borrow, default)]
    offset: Option<Cow<'a, str>>,
}

/// The session that a CONNECT asks for. Whatever is malformed asks for none.
pub(super) fn former(auth: &str) -> Option<(Id, Option<Offset>)> {
    if !auth.contains("\"pid\"") {
        return None;
    }
    let Former { pid, offset } = serde_json::from_str(auth).ok()?;
    let offset = match offset {
        Some(offset) => Some(Offset::parse(&offset)?),
        None => None,
    };
    Some((Id::parse(&pid)?, offset))
}

impl Hub {
    /// The offset of the next event of this shard; `None` without recovery. Events must be sent in
    /// the order of their offsets.
    pub fn next_offset(&mut self) -> Option<Offset> {
        let shard = self.config.shard;
        self.recovery.as_mut().map(|table| table.next_offset(shard))
    }

    /// What recovery keeps with a new member; `None` without recovery, of which clients of
    /// Socket.IO 2 know nothing.
    pub(super) fn new_track(&mut self, session: u32, index: u32) -> Option<Box<Track>> {
        self.recovery.as_ref().filter(|_| !self.is_revision_3(session))?;
        let pid = Id { shard: self.config.shard, slot: index, secret: self.secrets.draw() };
        let (log, phase) = (Log::default(), Phase::New);
        let (alias, is_recovered, data) = (None, false, None);
        let since_ms = self.now_ms;
        Some(Box::new(Track { pid, moves: 0, since_ms, alias, log, phase, is_recovered, data }))
    }

    /// Asks for the session that a CONNECT names; false if it names none.
    pub(super) fn begin_restore(
        &mut self,
        member: Key,
        namespace: NamespaceId,
        former: Option<(Id, Option<Offset>)>,
    ) -> bool {
        let Some(clock) = self.recovery.as_ref().map(|table| table.clock.clone()) else {
            return false;
        };
        let Some((pid, offset)) = former.filter(|it| it.0.shard < self.config.shards) else {
            return false;
        };
        let Some(track) = self.members.get_mut(member).and_then(Member::track_mut) else {
            return false;
        };
        track.phase = Phase::Restoring;
        let asker = self.config.shard;
        let since_ms = self.now_ms;
        let ask = Ask { pid, offset, namespace, asker, member, clock, since_ms };
        if self.place_of(&pid).is_none() && pid.shard != asker {
            self.relay(pid.shard, ask);
        } else {
            self.wait(ask);
        }
        true
    }

    /// Where a session is, as far as this shard knows.
    pub(super) fn place_of(&self, pid: &Id) -> Option<Place> {
        let table = self.recovery.as_ref()?;
        if let Some(place) = table.places.get(pid) {
            return Some(*place);
        }
        let is_home = pid.shard == self.config.shard;
        let member = self.members.at(pid.slot).filter(|_| is_home)?;
        (member.track()?.pid == *pid).then_some(Place::Member(pid.slot))
    }

    /// Forgets where a session is that is nowhere any more.
    pub(super) fn forget_session(&mut self, pid: Id, moves: u32) {
        let own = self.config.shard;
        if let Some(table) = &mut self.recovery {
            table.places.remove(&pid);
        }
        if pid.shard != own {
            self.tell(pid.shard, Message::Gone { pid, moves }, None);
        }
    }

    /// Keeps a socket until its client comes back or its time is up; the oldest make room.
    pub(super) fn suspend(&mut self, leaving: Leaving) -> Option<Key> {
        let table = self.recovery.as_mut()?;
        let duration = table.options.max_disconnection_duration.as_millis() as u64;
        let key = table.suspend(leaving, Tick::after(self.now_ms, duration));
        let heavy = table.heaviest();
        heavy.into_iter().for_each(|key| self.drop_suspended(key));
        while let Some(oldest) = self.recovery.as_mut().and_then(|table| table.surplus()) {
            self.drop_suspended(oldest);
        }
        self.rearm_recovery();
        let table = self.recovery.as_ref()?;
        table.suspended.get(key).map(|_| key)
    }

    fn drop_suspended(&mut self, key: Key) {
        let gone = self.recovery.as_mut().and_then(|table| table.take(key));
        if let Some(gone) = gone {
            self.forget_session(gone.pid, gone.moves);
            self.discard(gone.data);
        }
    }

    /// The application drops its values itself.
    pub(super) fn discard(&mut self, data: Option<Data>) {
        self.events.extend(data.map(Event::Unkept));
    }

    /// A member is to take over a suspended socket: from now on it has its id, rooms and data.
    pub(super) fn claim(&mut self, member: Key, session: Key, offset: Option<Offset>) {
        let record = self.members.get_mut(member);
        let track = record.and_then(Member::track_mut);
        let Some(track) = track.filter(|track| track.phase == Phase::Restoring) else { return };
        let Some(table) = &mut self.recovery else { return };
        let Some(suspended) = table.suspended.get_mut(session) else {
            return self.begin_anew(member);
        };
        if suspended.log.position(offset).is_none() {
            return self.begin_anew(member);
        }
        suspended.claimed = Some(member.index);
        track.phase = Phase::Claimed { session, offset };
        track.log = Log::after(offset);
        track.is_recovered = true;
        track.pid = suspended.pid;
        track.moves = suspended.moves;
        track.alias = Some(suspended.id);
        track.data = suspended.data.clone();
        let namespace = suspended.namespace;
        table.aliases.insert(suspended.id, member.index);
        for name in table.rooms_of(session) {
            self.join(member, &name);
        }
        self.events.push_back(Event::Connect { member, namespace });
    }

    /// The application has let a member in. If it has claimed a session, what it has missed goes
    /// first (L-9), its CONNECT follows. False if that is no longer complete: the client is cut off
    /// and gets a new session when it comes back.
    pub(super) fn replay(&mut self, key: Key) -> bool {
        let Some(member) = self.members.get_mut(key) else { return false };
        let to = member.session;
        let Some(track) = member.track_mut() else { return true };
        let Phase::Claimed { session, offset } = track.phase else { return true };
        let pid = track.pid;
        let Some(table) = &mut self.recovery else { return true };
        let log = table.suspended.get(session).map(|suspended| &suspended.log);
        let at = log.and_then(|log| log.position(offset));
        let Some((at, mut leaving)) = at.zip(table.take(session)) else {
            self.close_session(to, Reason::ForcedServerClose, Goodbye::Close);
            return false;
        };
        track.phase = Phase::Recovered;
        self.events.extend(track.data.take().map(Event::Unkept));
        table.places.insert(pid, Place::Member(key.index));
        leaving.log.cut(at);
        for entry in leaving.log.entries() {
            if let Some(track) = self.members.get_mut(key).and_then(Member::track_mut) {
                track.log.push(entry);
            }
            let Encoded { text, attachments } = &entry.encoded;
            // Not to be dropped, as events to slow readers may be: nothing is skipped silently.
            self.links.deliver(to, &mut Frame::new(text, attachments), Urgency::Control);
        }
        true
    }

    /// The answer to a CONNECT, with the private id where there is one (J-6).
    pub(super) fn send_connect(&mut self, key: Key, session: u32, name: &str) {
        let Some(id) = self.socket_id(key) else { return };
        let track = self.members.get(key).and_then(Member::track);
        let pid = track.map(|track| track.pid.text());
        let pid = pid.as_ref().map(|pid| pid.as_str());
        self.send_packet(session, name, &Outgoing::Connect { sid: id.as_str(), pid });
    }

    /// Notes the reason for which a socket goes.
    pub(super) fn may_suspend(&mut self, index: u32, reason: Reason) {
        let is_closing = self.is_closing;
        let track = self.members.at_mut(index).and_then(Member::track_mut);
        if let Some(track) = track.filter(|_| reason.is_recoverable() && !is_closing) {
            track.phase = Phase::Suspending;
        }
    }

    /// The rooms of a member that is to be suspended; to be called before it leaves them.
    pub(super) fn rooms_to_keep(&self, key: Key) -> Option<Vec<Rc<str>>> {
        let track = self.members.get(key)?.track()?;
        (track.phase == Phase::Suspending).then(|| self.rooms_of(key))
    }

    /// A member has gone. Its session is suspended, left to others, or over.
    pub(super) fn let_go(&mut self, index: u32, namespace: NamespaceId, id: Id, gone: Gone) {
        let Gone { track, rooms } = gone;
        let Some(table) = &mut self.recovery else { return };
        if table.aliases.get(&id) == Some(&index) {
            table.aliases.remove(&id);
        }
        let Track { pid, moves, since_ms, log, phase, data, .. } = track;
        match phase {
            // A session that comes for it is suspended here.
            Phase::Restoring => return,
            Phase::Claimed { session, .. } => {
                table.release(session);
            }
            Phase::Suspending => {
                let rooms = rooms.unwrap_or_default();
                let leaving = Leaving { id, pid, moves, since_ms, namespace, rooms, log, data };
                self.suspend(leaving);
                self.settle_asks();
            }
            Phase::New if pid.slot == index && pid.shard == self.config.shard => return,
            Phase::New | Phase::Recovered => self.forget_session(pid, moves),
        }
        self.rearm_recovery();
    }

    /// Leaves with a socket what is to be there when its client comes back. To be called before
    /// `remove_member`; does nothing for a socket that will not come back.
    pub fn keep_data(&mut self, key: Key, data: impl FnOnce() -> Option<Data>) {
        let track = self.members.get_mut(key).and_then(Member::track_mut);
        if let Some(track) = track.filter(|track| track.phase == Phase::Suspending) {
            track.data = data();
        }
    }

    /// What was kept with a socket whose client has come back; until it is let in.
    pub fn kept_data(&self, key: Key) -> Option<Data> {
        self.members.get(key)?.track()?.data.clone()
    }

    /// Whether a client goes on where it was (`socket.recovered`).
    pub fn is_recovered(&self, key: Key) -> bool {
        self.members.get(key).and_then(Member::track).is_some_and(|track| track.is_recovered)
    }

    /// A ping was sent, or answered.
    pub(super) fn mark_logs(&mut self, session: u32, is_answered: bool) {
        if self.recovery.is_none() {
            return;
        }
        let Some(session) = self.links.sessions.at(session) else { return };
        for index in session.members.as_slice() {
            match self.members.at_mut(*index).and_then(Member::track_mut) {
                Some(track) if is_answered => track.log.pong(),
                Some(track) => track.log.ping(),
                None => {}
            }
        }
    }

    /// Watches the nearest deadline of recovery.
    pub(super) fn rearm_recovery(&mut self) {
        let now = self.now;
        let Some(table) = &mut self.recovery else { return };
        let nearest = table.deadline(now);
        let at = table.alarm.set(nearest, now);
        self.watch(at, Timer::Recovery, 0);
    }

    pub(super) fn recovery_due(&mut self) {
        let now = self.now;
        let Some(table) = &mut self.recovery else { return };
        match table.alarm.due(now) {
            Err(at) => return self.watch(Some(at), Timer::Recovery, 0),
            Ok(false) => return,
            Ok(true) => {}
        }
        while let Some(key) = self.recovery.as_mut().and_then(|table| table.expired(now)) {
            self.drop_suspended(key);
        }
        self.settle_arrivals();
        self.settle_asks();
        self.rearm_recovery();
    }

    /// An event as logs keep it; `None` without recovery.
    pub(super) fn logged(
        &self,
        offset: Option<Offset>,
        encoded: impl FnOnce() -> Encoded,
    ) -> Option<Rc<Logged>> {
        let table = self.recovery.as_ref()?;
        Some(table.logged(offset?, encoded()))
    }
}

/// What is left of a member.
pub(super) struct Gone {
    pub(super) track: Track,
    /// Its rooms, if it is to be suspended.
    pub(super) rooms: Option<Vec<Rc<str>>>,
}
