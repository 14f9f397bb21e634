//! How a session gets to the connection that its client has come back with (spec L-9, L-10).
//!
//! The CONNECT names a private id, and the id the shard where the session was opened, its *home*.
//! The session may be with a member there, suspended, or moved on to another shard, of which the
//! home knows. The shard that has it gives it away, log and all; the shard of the new connection
//! suspends it anew and lets the new member claim it (`restore.rs`). Whatever goes wrong on the
//! way, the client gets a new session instead.
//!
//! Nothing is lost or repeated between two shards: each knows, per sender, the latest broadcast it
//! has applied (its clock), and broadcasts of one sender come to all shards in one order. The shard
//! that has the session gives it away when its clock has reached that of the shard which asks, and
//! with its own clock. The asking shard keeps the broadcasts it applies from its question on; when
//! its clock has reached the other's, those that the other had not applied are added to the log.

use std::rc::Rc;

use super::command::{Names, Publish, Target};
use super::fanout::Encoded;
use super::id::Id;
use super::namespace::{Member, State};
use super::recovery::{Data, Leaving, Log, Logged, Offset, Phase, Place};
use super::rooms::NamespaceId;
use super::session::Goodbye;
use super::slab::Key;
use super::wheel::Tick;
use super::{Event, Hub, Output};
use crate::error::Reason;

/// Time for a session to come from another shard, or from a connection that has to be closed.
const RESTORE_MS: u64 = 2_000;
/// Sessions that a shard awaits from others at a time: any client may ask for any number, and each
/// broadcast looks at all of them. Whoever asks for one more gets a new session.
const ARRIVALS_MAX: usize = 4_096;

/// A question for a session.
#[derive(Debug)]
pub struct Ask {
    pub(super) pid: Id,
    /// The latest event that the client has received.
    pub(super) offset: Option<Offset>,
    pub(super) namespace: NamespaceId,
    /// Shard of the new connection.
    pub(super) asker: u16,
    pub(super) member: Key,
    /// What that shard has applied.
    pub(super) clock: Vec<u64>,
    /// When its CONNECT came, by the clock that all shards share. Who asks later is the client.
    pub(super) since_ms: u64,
}

/// A session on its way to another shard.
#[derive(Debug)]
pub struct Given {
    id: Id,
    pid: Id,
    moves: u32,
    since_ms: u64,
    namespace: NamespaceId,
    rooms: Vec<Box<str>>,
    base: Option<Offset>,
    entries: Vec<(Offset, Encoded)>,
    /// What the shard that gives it has applied.
    clock: Vec<u64>,
}

/// What shards tell each other about sessions. Mail between two shards must keep its order, and
/// that among broadcasts.
#[derive(Debug)]
pub enum Message {
    /// To the home of a session, and on to where it is.
    Ask(Ask),
    /// To the shard that asked.
    Answer {
        /// The member that is to go on with it.
        member: Key,
        /// The session, unless it cannot be restored.
        given: Option<Box<Given>>,
    },
    /// To the home of a session: where it is now.
    Moved {
        /// Private id of the session.
        pid: Id,
        /// Where it is.
        shard: u16,
        /// How often it has changed shards by then.
        moves: u32,
    },
    /// To the home of a session: it is no longer there, nor anywhere.
    Gone {
        /// Private id of the session.
        pid: Id,
        /// How often it has changed shards by then.
        moves: u32,
    },
}

impl Message {
    /// Bytes that it keeps in memory, about.
    pub fn bytes(&self) -> usize {
        let Message::Answer { given: Some(given), .. } = self else { return 0 };
        let size = |(_, Encoded { text, attachments }): &(Offset, Encoded)| {
            text.len() + attachments.iter().map(bytes::Bytes::len).sum::<usize>()
        };
        given.entries.iter().map(size).sum()
    }
}

/// A question that cannot be answered yet.
#[derive(Debug)]
pub(super) struct Waiting {
    ask: Ask,
    pub(super) by: Tick,
}

/// A session that was asked for on another shard.
#[derive(Debug)]
pub(super) struct Arrival {
    member: Key,
    namespace: NamespaceId,
    given: Option<(Box<Given>, Option<Data>)>,
    /// Broadcasts in its namespace since the question.
    since: Vec<Rc<(Target, Rc<Logged>)>>,
    bytes: usize,
    pub(super) by: Tick,
}

/// What to do about a question.
enum Verdict {
    Wait,
    Refuse,
    Relay(u16),
    Give(Key),
}

/// Whether a broadcast is for a socket.
fn selects(target: &Target, id: &str, rooms: &[Box<str>]) -> bool {
    let is_in = |names: &Names| names.iter().any(|name| **name == *id || rooms.contains(name));
    (target.rooms.is_empty() || is_in(&target.rooms)) && !is_in(&target.except)
}

impl Hub {
    /// A message from another shard, with what the application keeps with the session.
    pub fn handle_recovery(&mut self, message: Message, data: Option<Data>) {
        if self.recovery.is_none() {
            return;
        }
        match message {
            Message::Ask(ask) => self.wait(ask),
            Message::Answer { member, given } => self.arrived(member, given, data),
            // Only what is known to be elsewhere: such mail may be late.
            Message::Moved { pid, shard, moves } => {
                if let Some(place) = self.moved_place(&pid, moves) {
                    *place = Place::Moved { shard, moves };
                }
            }
            Message::Gone { pid, moves } => {
                if self.moved_place(&pid, moves).is_some()
                    && let Some(table) = &mut self.recovery
                {
                    table.places.remove(&pid);
                }
            }
        }
    }

    /// What is remembered of a session that has gone from here, unless there is later news.
    fn moved_place(&mut self, pid: &Id, moves: u32) -> Option<&mut Place> {
        let place = self.recovery.as_mut()?.places.get_mut(pid)?;
        let is_older = matches!(place, Place::Moved { moves: known, .. } if *known <= moves);
        is_older.then_some(place)
    }

    pub(super) fn tell(&mut self, shard: u16, message: Message, data: Option<Data>) {
        self.outputs.push_back(Output::Recover { shard, message, data });
    }

    /// Answers a question as soon as that is possible. Only the latest one for a session counts.
    pub(super) fn wait(&mut self, ask: Ask) {
        let by = Tick::after(self.now_ms, RESTORE_MS);
        let Some(table) = &mut self.recovery else { return };
        let older = table.asks.iter().position(|waiting| waiting.ask.pid == ask.pid);
        if older.is_some_and(|at| table.asks[at].ask.since_ms > ask.since_ms) {
            return self.refuse_ask(&ask);
        }
        let older = older.map(|at| table.asks.swap_remove(at));
        table.asks.push(Waiting { ask, by });
        if let Some(older) = older {
            self.refuse_ask(&older.ask);
        }
        self.settle_asks();
        self.rearm_recovery();
    }

    /// Sends a question on. One of this shard gets a place to arrive at.
    pub(super) fn relay(&mut self, shard: u16, mut ask: Ask) {
        let by = Tick::after(self.now_ms, RESTORE_MS);
        if ask.asker == self.config.shard
            && let Some(table) = &mut self.recovery
        {
            if table.arrivals.len() >= ARRIVALS_MAX {
                return self.begin_anew(ask.member);
            }
            ask.clock.clone_from(&table.clock);
            let (member, namespace) = (ask.member, ask.namespace);
            let (given, since, bytes) = (None, Vec::new(), 0);
            table.arrivals.push_back(Arrival { member, namespace, given, since, bytes, by });
        }
        self.tell(shard, Message::Ask(ask), None);
        self.rearm_recovery();
    }

    /// Looks at all questions that wait.
    pub(super) fn settle_asks(&mut self) {
        let Some(table) = self.recovery.as_mut().filter(|table| !table.asks.is_empty()) else {
            return;
        };
        for waiting in std::mem::take(&mut table.asks) {
            let Ask { asker, member, .. } = waiting.ask;
            if asker == self.config.shard && self.members.get(member).is_none() {
                // Its client has gone again.
                continue;
            }
            match self.consider(&waiting.ask) {
                Verdict::Wait if !waiting.by.reached(self.now) => {
                    if let Some(table) = &mut self.recovery {
                        table.asks.push(waiting);
                    }
                }
                Verdict::Wait | Verdict::Refuse => self.refuse_ask(&waiting.ask),
                Verdict::Relay(shard) => self.relay(shard, waiting.ask),
                Verdict::Give(key) => self.give(&waiting.ask, key),
            }
        }
    }

    fn consider(&mut self, ask: &Ask) -> Verdict {
        let is_local = ask.asker == self.config.shard;
        let Some(place) = self.place_of(&ask.pid) else { return Verdict::Refuse };
        let Some(table) = &self.recovery else { return Verdict::Refuse };
        match place {
            Place::Moved { shard, .. } => Verdict::Relay(shard),
            Place::Arriving => Verdict::Wait,
            Place::Member(index) => self.reclaim(ask, index),
            Place::Suspended(key) => {
                let Some(suspended) = table.suspended.get(key) else { return Verdict::Refuse };
                let is_it = suspended.namespace == ask.namespace
                    && suspended.since_ms <= ask.since_ms
                    && suspended.log.position(ask.offset).is_some();
                if !is_it {
                    return Verdict::Refuse;
                }
                if !is_local && !table.has_reached(&ask.clock) {
                    return Verdict::Wait;
                }
                if let Some(other) = suspended.claimed {
                    if self.came_after(other, ask) {
                        return Verdict::Refuse;
                    }
                    // Two connections with one private id: the later one is the client's.
                    self.close_former(other);
                }
                Verdict::Give(key)
            }
        }
    }

    /// The session is still with a member: its client has come back over another connection before
    /// the old one was known to be gone. That one ends now.
    fn reclaim(&mut self, ask: &Ask, index: u32) -> Verdict {
        let Some(member) = self.members.at(index) else { return Verdict::Refuse };
        let Some(track) = member.track().filter(|_| member.namespace == ask.namespace) else {
            return Verdict::Refuse;
        };
        // A question of an attempt that its client has given up may be late.
        let can = track.log.position(ask.offset).is_some() && track.since_ms <= ask.since_ms;
        match member.state {
            State::Connected if can => {
                self.close_former(index);
                Verdict::Wait
            }
            State::Leaving if can && track.phase == Phase::Suspending => Verdict::Wait,
            _ => Verdict::Refuse,
        }
    }

    /// Whether a member has come later than the one that asks.
    fn came_after(&self, index: u32, ask: &Ask) -> bool {
        let track = self.members.at(index).and_then(Member::track);
        track.is_some_and(|track| track.since_ms > ask.since_ms)
    }

    pub(super) fn close_former(&mut self, index: u32) {
        if let Some(session) = self.members.at(index).map(|member| member.session) {
            self.close_session(session, Reason::TransportClose, Goodbye::Close);
        }
    }

    /// The session cannot be restored: the client gets a new one (L-10).
    fn refuse_ask(&mut self, ask: &Ask) {
        if ask.asker == self.config.shard {
            self.begin_anew(ask.member);
        } else {
            self.tell(ask.asker, Message::Answer { member: ask.member, given: None }, None);
        }
    }

    pub(super) fn begin_anew(&mut self, member: Key) {
        let Some(record) = self.members.get_mut(member) else { return };
        let namespace = record.namespace;
        if let Some(track) = record.track_mut().filter(|track| track.phase == Phase::Restoring) {
            track.phase = Phase::New;
            self.events.push_back(Event::Connect { member, namespace });
        }
    }

    fn give(&mut self, ask: &Ask, key: Key) {
        if ask.asker == self.config.shard {
            return self.claim(ask.member, key, ask.offset);
        }
        let own = self.config.shard;
        let Some(table) = &mut self.recovery else { return };
        let clock = table.clock.clone();
        let Some(mut leaving) = table.take(key) else { return self.refuse_ask(ask) };
        let moves = leaving.moves + 1;
        if ask.pid.shard == own {
            let place = Place::Moved { shard: ask.asker, moves };
            table.places.insert(ask.pid, place);
        }
        let at = leaving.log.position(ask.offset).unwrap_or_default();
        leaving.log.cut(at);
        let Leaving { id, pid, since_ms, namespace, rooms, log, data, .. } = leaving;
        let entries = log.entries().map(|entry| (entry.offset, entry.encoded.clone())).collect();
        let rooms = rooms.iter().map(|name| (&**name).into()).collect();
        let base = log.base();
        let given = Given { id, pid, moves, since_ms, namespace, rooms, base, entries, clock };
        let given = Box::new(given);
        let answer = Message::Answer { member: ask.member, given: Some(given) };
        self.tell(ask.asker, answer, data);
    }

    /// The answer of another shard.
    fn arrived(&mut self, member: Key, given: Option<Box<Given>>, data: Option<Data>) {
        let own = self.config.shard;
        let Some(table) = &mut self.recovery else { return };
        let at = table.arrivals.iter().position(|arrival| arrival.member == member);
        match (at, given) {
            (Some(at), Some(given)) => {
                table.places.insert(given.pid, Place::Arriving);
                let Given { pid, moves, .. } = *given;
                table.arrivals[at].given = Some((given, data));
                if pid.shard != own {
                    self.tell(pid.shard, Message::Moved { pid, shard: own, moves }, None);
                }
                self.settle_arrivals();
            }
            (Some(at), None) => {
                table.arrivals.remove(at);
                self.begin_anew(member);
            }
            // Too late: its client has a new session.
            (None, Some(given)) => {
                self.forget_session(given.pid, given.moves);
                self.discard(data);
            }
            (None, None) => {}
        }
    }

    /// Keeps a broadcast for those that may be about to hear it: suspended sockets, and sessions
    /// on their way here. Afterwards the clock has moved on.
    pub(super) fn log_publish(&mut self, publish: &Publish, entry: &Rc<Logged>) {
        // What is for one record goes to its shard alone, so no clock counts it.
        let is_for_all = publish.target.only.is_none();
        let Some(table) = self.recovery.as_mut().filter(|_| is_for_all) else { return };
        table.log(publish.namespace, &publish.target, entry);
        table.advance(entry.offset);
        if table.asks.is_empty() && table.arrivals.is_empty() {
            return;
        }
        let shared = Rc::new((publish.target.clone(), entry.clone()));
        let bytes = publish.encoded.text.len() + 200;
        for arrival in &mut table.arrivals {
            if arrival.namespace == publish.namespace {
                arrival.since.push(shared.clone());
                arrival.bytes += bytes;
            }
        }
        self.settle_arrivals();
        self.settle_asks();
    }

    /// Looks at all sessions that have come and wait for broadcasts.
    pub(super) fn settle_arrivals(&mut self) {
        let now = self.now;
        loop {
            let Some(table) = &mut self.recovery else { return };
            let bytes_max = table.options.max_bytes;
            let is_done = |arrival: &Arrival| {
                let is_whole = arrival.given.as_ref().map(|(it, _)| table.has_reached(&it.clock));
                is_whole == Some(true) || arrival.by.reached(now) || arrival.bytes > bytes_max
            };
            let Some(at) = table.arrivals.iter().position(is_done) else { return };
            let Some(arrival) = table.arrivals.remove(at) else { return };
            let Arrival { member, given, since, bytes, .. } = arrival;
            let Some((given, data)) = given else {
                self.begin_anew(member);
                continue;
            };
            if bytes > bytes_max || !table.has_reached(&given.clock) {
                self.forget_session(given.pid, given.moves);
                self.discard(data);
                self.begin_anew(member);
                continue;
            }
            self.settle_in(member, *given, data, &since);
        }
    }

    /// A session has come: it is suspended here, and claimed if the client is still there.
    fn settle_in(
        &mut self,
        member: Key,
        given: Given,
        data: Option<Data>,
        since: &[Rc<(Target, Rc<Logged>)>],
    ) {
        let Some(table) = &mut self.recovery else { return };
        let Given { id, pid, moves, since_ms, namespace, rooms, base, entries, clock } = given;
        let mut log = Log::after(base);
        for (offset, encoded) in entries {
            log.push(&table.logged(offset, encoded));
        }
        let own = id.text();
        for item in since {
            let (target, entry) = &**item;
            let was_applied = clock
                .get(entry.offset.sender())
                .is_some_and(|count| entry.offset.count() <= *count);
            if !was_applied && selects(target, own.as_str(), &rooms) {
                log.push(entry);
            }
        }
        let rooms = rooms.iter().map(|name| (&**name).into()).collect();
        let leaving = Leaving { id, pid, moves, since_ms, namespace, rooms, log, data };
        let key = self.suspend(leaving);
        if let Some(key) = key {
            self.claim(member, key, base);
        }
        self.settle_asks();
    }
}
