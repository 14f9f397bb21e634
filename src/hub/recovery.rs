//! What connection-state recovery remembers (spec L-5 … L-15): the log of what each client may
//! have missed, and the sockets whose clients have gone and may come back. How a client gets one
//! of them back, on this shard or another, is in `handover.rs` and
//! `restore.rs`.

use std::any::Any;
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::command::Target;
use super::fanout::Encoded;
use super::handover::{Arrival, Waiting};
use super::id::Id;
use super::rooms::{Memberships, NamespaceId, Rooms};
use super::slab::{Key, Slab};
use super::wheel::{Alarm, Tick};
use crate::options;

/// What the application keeps with a socket; the hub only hands it back.
pub type Data = Rc<dyn Any>;

/// Names an event in this process (L-7): who sent it, and how many that sender had sent by then. A
/// broadcast has one offset for all who receive it, so it is encoded once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset(u64);

impl Offset {
    /// Characters of an offset on the wire.
    pub const LEN: usize = 11;
    /// Bits of the count. Nobody sends 2^48 events.
    const COUNT_BITS: u32 = 48;

    /// `sender` is a shard, or the number of shards for all other threads together; `count` grows
    /// from 1.
    pub fn new(sender: u16, count: u64) -> Offset {
        Offset(u64::from(sender) << Self::COUNT_BITS | count)
    }

    /// Reads an offset; `None` for anything that no server of this kind has issued.
    pub fn parse(text: &str) -> Option<Offset> {
        if text.len() != Self::LEN {
            return None;
        }
        let mut bytes = [0u8; 8];
        URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        Some(Offset(u64::from_be_bytes(bytes)))
    }

    /// Appends the offset as the last argument of an event; `args` is JSON without brackets.
    pub fn append_to(self, args: &mut Vec<u8>) {
        if !args.is_empty() {
            args.push(b',');
        }
        args.push(b'"');
        let mut text = [b'A'; Self::LEN];
        // 8 bytes are exactly 11 characters, so this cannot fail.
        let _ = URL_SAFE_NO_PAD.encode_slice(self.0.to_be_bytes(), &mut text);
        args.extend_from_slice(&text);
        args.push(b'"');
    }

    pub(super) fn sender(self) -> usize {
        (self.0 >> Self::COUNT_BITS) as usize
    }

    pub(super) fn count(self) -> u64 {
        self.0 & ((1 << Self::COUNT_BITS) - 1)
    }
}

/// An event that some clients may not have received; all their logs share it.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) offset: Offset,
    pub(super) encoded: Encoded,
    meter: Rc<Meter>,
}

/// What the logs of a shard hold together, and may hold.
#[derive(Debug)]
struct Meter {
    bytes: Cell<usize>,
    options: options::Recovery,
}

impl Logged {
    /// What an event costs beside its bytes.
    const OVERHEAD: usize = 96;

    fn new(offset: Offset, encoded: Encoded, meter: &Rc<Meter>) -> Rc<Logged> {
        let logged = Logged { offset, encoded, meter: meter.clone() };
        meter.bytes.set(meter.bytes.get() + logged.bytes());
        Rc::new(logged)
    }

    fn bytes(&self) -> usize {
        let Encoded { text, attachments } = &self.encoded;
        Self::OVERHEAD + text.len() + attachments.iter().map(bytes::Bytes::len).sum::<usize>()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.meter.bytes.set(self.meter.bytes.get() - self.bytes());
    }
}

/// The latest events sent to one socket, in order, from the last one on that its client is known
/// to have received.
#[derive(Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<Rc<Logged>>,
    bytes: usize,
    /// The event before the first entry; `None` as long as nothing was taken out.
    base: Option<Offset>,
    /// Entries that were sent before the latest ping.
    pinged: usize,
}

impl Log {
    /// A log that goes on behind `base`.
    pub(super) fn after(base: Option<Offset>) -> Log {
        Log { base, ..Log::default() }
    }

    /// Adds an event. What does not fit is forgotten from the oldest on: a client that had not
    /// received that much cannot recover, and gets a new session.
    pub(super) fn push(&mut self, entry: &Rc<Logged>) {
        let Meter { bytes, options } = &*entry.meter;
        if bytes.get() > options.max_shard_bytes {
            self.cut(self.entries.len());
        }
        self.bytes += entry.bytes();
        self.entries.push_back(entry.clone());
        while self.bytes > options.max_bytes && !self.entries.is_empty() {
            self.cut(1);
        }
    }

    /// Takes the first `count` entries out.
    pub(super) fn cut(&mut self, count: usize) {
        for entry in self.entries.drain(..count) {
            self.bytes -= entry.bytes();
            self.base = Some(entry.offset);
        }
        self.pinged = self.pinged.saturating_sub(count);
        if self.entries.capacity() > 64 && self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// A ping was sent behind all that is here.
    pub(super) fn ping(&mut self) {
        self.pinged = self.entries.len();
    }

    /// The ping was answered: what was sent before it has arrived, since transports keep order.
    pub(super) fn pong(&mut self) {
        self.cut(self.pinged);
    }

    /// Where a client goes on whose latest event was `offset`; `None` if it has missed something
    /// that is no longer here. A client without an offset has received nothing (#5282).
    pub(super) fn position(&self, offset: Option<Offset>) -> Option<usize> {
        if offset == self.base {
            return Some(0);
        }
        let at = self.entries.iter().rposition(|entry| Some(entry.offset) == offset)?;
        Some(at + 1)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Rc<Logged>> {
        self.entries.iter()
    }

    pub(super) fn base(&self) -> Option<Offset> {
        self.base
    }
}

/// What recovery keeps with a socket that is here.
#[derive(Debug)]
pub(super) struct Track {
    /// Private id of the session (L-6), an address like all ids, where the session was opened.
    pub(super) pid: Id,
    /// How often the session has changed shards.
    pub(super) moves: u32,
    /// When the CONNECT came.
    pub(super) since_ms: u64,
    /// The public id, where it is not this record's address.
    pub(super) alias: Option<Id>,
    pub(super) log: Log,
    pub(super) phase: Phase,
    /// It goes on where its client was.
    pub(super) is_recovered: bool,
    /// What the application gets back, or leaves here on the way out.
    pub(super) data: Option<Data>,
}

/// How far a socket is with its recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A new session.
    New,
    /// Its client has asked for a former session; the application does not know of it yet.
    Restoring,
    /// The session was found, and stays where it is until the application has let it in.
    Claimed { session: Key, offset: Option<Offset> },
    /// The client goes on where it was.
    Recovered,
    /// Its client has gone, and may come back once the application has let go of it.
    Suspending,
}

/// A socket whose client has gone and may come back.
#[derive(Debug)]
pub(super) struct Suspended {
    pub(super) id: Id,
    pub(super) pid: Id,
    pub(super) moves: u32,
    /// When the CONNECT came that it was last restored by, or opened.
    pub(super) since_ms: u64,
    pub(super) namespace: NamespaceId,
    /// Its rooms and its id, in [`Table::rooms`].
    rooms: Memberships,
    pub(super) log: Log,
    pub(super) data: Option<Data>,
    /// The member that is about to take it over.
    pub(super) claimed: Option<u32>,
    pub(super) until: Tick,
    /// Whether it stands in [`Table::order`].
    is_listed: bool,
    /// Number of the last selection that visited it.
    mark: u32,
}

/// Where the session of a private id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Suspended(Key),
    /// With this member.
    Member(u32),
    /// On its way to this shard.
    Arriving,
    /// On another shard, after so many moves.
    Moved {
        shard: u16,
        moves: u32,
    },
}

/// All that recovery remembers on one shard. Exists only where the option is on.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) options: options::Recovery,
    /// Events sent from this shard.
    count: u64,
    /// Per sender, the count of its latest broadcast that was applied here.
    pub(super) clock: Vec<u64>,
    pub(super) suspended: Slab<Suspended>,
    /// The rooms of suspended sockets.
    rooms: Rooms,
    mark: u32,
    /// Suspended sockets, oldest first, some of which have gone or are being taken over.
    order: VecDeque<Key>,
    /// Sessions that are not at the address in their private id.
    pub(super) places: HashMap<Id, Place>,
    /// Members whose public id is not their address.
    pub(super) aliases: HashMap<Id, u32>,
    /// Questions that cannot be answered yet.
    pub(super) asks: Vec<Waiting>,
    /// Sessions that were asked for on other shards.
    pub(super) arrivals: VecDeque<Arrival>,
    meter: Rc<Meter>,
    pub(super) alarm: Alarm,
}

impl Table {
    pub(super) fn new(options: options::Recovery, shards: u16) -> Table {
        Table {
            options,
            count: 0,
            // And one for all threads that are no shard.
            clock: vec![0; usize::from(shards) + 1],
            suspended: Slab::new(),
            rooms: Rooms::default(),
            mark: 0,
            order: VecDeque::new(),
            places: HashMap::new(),
            aliases: HashMap::new(),
            asks: Vec::new(),
            arrivals: VecDeque::new(),
            meter: Rc::new(Meter { bytes: Cell::new(0), options }),
            alarm: Alarm::default(),
        }
    }

    pub(super) fn next_offset(&mut self, shard: u16) -> Offset {
        self.count += 1;
        Offset::new(shard, self.count)
    }

    pub(super) fn logged(&self, offset: Offset, encoded: Encoded) -> Rc<Logged> {
        Logged::new(offset, encoded, &self.meter)
    }

    /// What is held beside the logs, about: nothing, when there is nothing.
    pub(super) fn records_bytes(&self) -> usize {
        let records = self.places.len() + self.aliases.len() + self.asks.len();
        64 * (records + self.arrivals.len() + self.rooms.namespaces())
            + size_of::<Suspended>() * self.suspended.len()
    }

    /// Bytes that all logs hold together.
    pub(super) fn bytes(&self) -> usize {
        self.meter.bytes.get()
    }

    /// A broadcast was applied here.
    pub(super) fn advance(&mut self, offset: Offset) {
        if let Some(count) = self.clock.get_mut(offset.sender()) {
            *count = offset.count().max(*count);
        }
    }

    /// Whether all broadcasts of that clock were applied here too.
    pub(super) fn has_reached(&self, clock: &[u64]) -> bool {
        self.clock.iter().zip(clock).all(|(own, other)| own >= other)
    }

    /// Keeps a socket; the caller makes room afterwards.
    pub(super) fn suspend(&mut self, leaving: Leaving, until: Tick) -> Key {
        let Leaving { id, pid, moves, since_ms, namespace, rooms, log, data } = leaving;
        let index = self.suspended.next_index();
        let mut places = Memberships::new();
        let own = id.text();
        for name in rooms.iter().map(|name| &**name).chain([own.as_str()]) {
            self.rooms.join(namespace, name, index, &mut places);
        }
        let key = self.suspended.insert(Suspended {
            id,
            pid,
            moves,
            since_ms,
            namespace,
            rooms: places,
            log,
            data,
            claimed: None,
            until,
            is_listed: true,
            mark: 0,
        });
        if self.order.len() > 2 * self.suspended.len() + 64 {
            let suspended = &self.suspended;
            self.order.retain(|key| suspended.get(*key).is_some());
        }
        self.order.push_back(key);
        self.places.insert(pid, Place::Suspended(key));
        key
    }

    /// Takes a socket out.
    pub(super) fn take(&mut self, key: Key) -> Option<Leaving> {
        let rooms = self.rooms_of(key);
        self.suspended.get(key)?;
        let Suspended { id, pid, moves, since_ms, namespace, rooms: places, log, data, .. } =
            self.suspended.remove(key.index)?;
        let suspended = &mut self.suspended;
        for membership in places {
            self.rooms.remove(membership, |other, moved| {
                if let Some(other) = suspended.at_mut(other) {
                    moved.apply(&mut other.rooms);
                }
            });
        }
        if self.suspended.is_empty() {
            self.rooms = Rooms::default();
        } else if self.rooms.count(namespace) == 0 {
            // It may be one that has gone and does not come back.
            self.rooms.forget_namespace(namespace);
        }
        self.places.remove(&pid);
        Some(Leaving { id, pid, moves, since_ms, namespace, rooms, log, data })
    }

    /// The rooms of a suspended socket, without its own id.
    pub(super) fn rooms_of(&self, key: Key) -> Vec<Rc<str>> {
        let Some(suspended) = self.suspended.get(key) else { return Vec::new() };
        let own = suspended.id.text();
        let names = suspended.rooms.iter().filter_map(|room| self.rooms.name(*room));
        names.filter(|name| **name != *own.as_str()).collect()
    }

    /// Adds a broadcast to the logs of the suspended sockets that it selects.
    pub(super) fn log(&mut self, namespace: NamespaceId, target: &Target, entry: &Rc<Logged>) {
        if self.suspended.is_empty() {
            return;
        }
        self.mark = self.mark.wrapping_add(1).max(1);
        let mark = self.mark;
        for name in &target.except {
            for index in self.rooms.members(namespace, name) {
                if let Some(suspended) = self.suspended.at_mut(*index) {
                    suspended.mark = mark;
                }
            }
        }
        let indices: Vec<u32> = match target.rooms.is_empty() {
            true => self.suspended.indices().collect(),
            false => {
                let lists = target.rooms.iter().map(|name| self.rooms.members(namespace, name));
                lists.flatten().copied().collect()
            }
        };
        for index in indices {
            let Some(suspended) = self.suspended.at_mut(index) else { continue };
            if suspended.mark != mark && suspended.namespace == namespace {
                suspended.mark = mark;
                suspended.log.push(entry);
            }
        }
    }

    /// The oldest suspended socket whose time is up. One that is being taken over stays for that
    /// long.
    pub(super) fn expired(&mut self, now: Tick) -> Option<Key> {
        let oldest = self.oldest()?;
        self.suspended.get(oldest).filter(|it| it.until.reached(now)).map(|_| oldest)
    }

    /// The oldest suspended socket, if there are too many.
    pub(super) fn surplus(&mut self) -> Option<Key> {
        let is_full = self.suspended.len() > self.options.max_sessions;
        if is_full { self.oldest() } else { None }
    }

    /// The oldest suspended socket, if the logs hold too much.
    pub(super) fn heaviest(&mut self) -> Option<Key> {
        let is_full = self.bytes() > self.options.max_shard_bytes && self.suspended.len() > 1;
        if is_full { self.oldest() } else { None }
    }

    /// The oldest suspended socket that nobody is taking over. Those before it leave the order, so
    /// that nobody passes them twice: when all clients come back at once there are many.
    fn oldest(&mut self) -> Option<Key> {
        while let Some(key) = self.order.front() {
            match self.suspended.get_mut(*key) {
                Some(suspended) if suspended.claimed.is_none() => return Some(*key),
                Some(suspended) => suspended.is_listed = false,
                None => {}
            }
            self.order.pop_front();
        }
        None
    }

    /// Whoever was to take a socket over has gone.
    pub(super) fn release(&mut self, key: Key) {
        let Some(suspended) = self.suspended.get_mut(key) else { return };
        suspended.claimed = None;
        if !std::mem::replace(&mut suspended.is_listed, true) {
            // It left the order as one of the oldest.
            self.order.push_front(key);
        }
    }

    /// When something has to be looked at.
    pub(super) fn deadline(&mut self, now: Tick) -> Option<Tick> {
        let oldest = self.oldest().and_then(|key| self.suspended.get(key));
        let oldest = oldest.map(|suspended| suspended.until);
        let asks = self.asks.iter().map(|waiting| waiting.by);
        // The first to come is the first to be late.
        let arrival = self.arrivals.front().map(|arrival| arrival.by);
        asks.chain(arrival).chain(oldest).min_by_key(|tick| tick.until(now))
    }
}

/// A suspended socket apart from the table.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) id: Id,
    pub(super) pid: Id,
    pub(super) moves: u32,
    pub(super) since_ms: u64,
    pub(super) namespace: NamespaceId,
    pub(super) rooms: Vec<Rc<str>>,
    pub(super) log: Log,
    pub(super) data: Option<Data>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(max_bytes: usize, max_shard_bytes: usize) -> Table {
        let options = options::Recovery { max_bytes, max_shard_bytes, ..Default::default() };
        Table::new(options, 1)
    }

    fn entry(table: &mut Table, len: usize) -> Rc<Logged> {
        let offset = table.next_offset(0);
        table.logged(offset, Encoded { text: vec![b'x'; len].into(), attachments: Vec::new() })
    }

    fn offsets(log: &Log) -> Vec<u64> {
        log.entries().map(|entry| entry.offset.count()).collect()
    }

    #[test]
    fn l7_an_offset_is_text_and_the_last_argument() {
        for offset in [Offset::new(0, 1), Offset::new(513, 1 << 40)] {
            let mut args = Vec::new();
            offset.append_to(&mut args);
            let text = String::from_utf8(args.clone()).expect("UTF-8");
            let bare = text.trim_matches('"');
            assert_eq!((bare.len(), Offset::parse(bare)), (Offset::LEN, Some(offset)));
            assert!(bare.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            offset.append_to(&mut args);
            assert_eq!(args, format!("{text},{text}").into_bytes());
        }
        for foreign in ["", "msg", "AAAAAAAAAAA=", "ÄÄÄÄÄA", "AAAAAAAAAA.", "AAAAAAAAAAAA"] {
            assert_eq!(Offset::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_log_ends_with_what_is_known_to_have_arrived() {
        let mut table = table(10_000, 100_000);
        let mut log = Log::default();
        assert_eq!(log.position(None), Some(0));
        let sent: Vec<Rc<Logged>> = (0..4).map(|_| entry(&mut table, 10)).collect();
        sent[..2].iter().for_each(|entry| log.push(entry));
        log.ping();
        sent[2..].iter().for_each(|entry| log.push(entry));
        log.pong();
        log.pong();
        assert_eq!(offsets(&log), [3, 4]);
        let found = |count| log.position(Some(Offset::new(0, count)));
        assert_eq!([1, 2, 3, 4, 5].map(found), [None, Some(0), Some(1), Some(2), None]);
        assert_eq!(log.position(None), None, "something has arrived, so there is an offset");
        drop((sent, log));
        assert_eq!(table.bytes(), 0);
    }

    #[test]
    fn a_log_is_bounded_and_never_skips() {
        let mut table = table(1_000, 3_000);
        let mut log = Log::default();
        for _ in 0..10 {
            log.push(&entry(&mut table, 400));
        }
        assert_eq!(offsets(&log), [9, 10]);
        assert_eq!([7, 8].map(|n| log.position(Some(Offset::new(0, n)))), [None, Some(0)]);
        log.push(&entry(&mut table, 2_000));
        assert_eq!(offsets(&log), [0; 0], "one that is too large is forgotten as well");
        assert_eq!(log.position(Some(Offset::new(0, 10))), None);
        assert_eq!(log.position(Some(Offset::new(0, 11))), Some(0));
        let all: Vec<Rc<Logged>> = (0..7).map(|_| entry(&mut table, 400)).collect();
        log.push(&all[0]);
        assert_eq!(offsets(&log), [12], "over the bound of the shard only the latest is kept");
    }

    #[test]
    fn l12_those_that_have_come_back_are_passed_once() {
        let mut table = table(1_000, 1_000);
        let keys: Vec<Key> = (0..60).map(|slot| suspended(&mut table, slot)).collect();
        let now = Tick::after(0, 0);
        for key in &keys[..40] {
            assert!(table.take(*key).is_some() && table.deadline(now).is_some());
        }
        assert_eq!(table.order.len(), 20);
        // Being taken over, the oldest are passed too, until that comes to nothing.
        for key in &keys[40..50] {
            table.suspended.get_mut(*key).expect("a session").claimed = Some(7);
        }
        assert_eq!(table.expired(Tick::after(9_000, 0)), Some(keys[50]));
        assert_eq!(table.order.len(), 10);
        for key in keys[40..50].iter().rev().chain(&keys[40..50]) {
            table.release(*key);
        }
        assert_eq!(table.order.iter().copied().collect::<Vec<_>>(), keys[40..]);
    }

    /// Namespaces come and go; somebody is always away.
    #[test]
    fn l13_nothing_is_kept_of_a_namespace_that_nobody_is_away_from() {
        let mut table = table(1_000, 1_000);
        suspended(&mut table, 0);
        let before = table.records_bytes();
        for namespace in 1..100 {
            let key = suspended_in(&mut table, namespace, 1);
            assert!(table.take(key).is_some());
        }
        assert_eq!(table.records_bytes(), before);
    }

    fn suspended(table: &mut Table, slot: u32) -> Key {
        suspended_in(table, 0, slot)
    }

    fn suspended_in(table: &mut Table, namespace: NamespaceId, slot: u32) -> Key {
        let id = Id { shard: 0, slot, secret: Default::default() };
        let (rooms, log) = (vec!["a".into()], Log::default());
        let (moves, since_ms, data) = (0, 0, None);
        let leaving = Leaving { id, pid: id, moves, since_ms, namespace, rooms, log, data };
        table.suspend(leaving, Tick::after(0, 5_000))
    }
}
