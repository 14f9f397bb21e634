//! The namespaces that one core knows, by id and by name, and those that clients ask for and the
//! application has yet to decide about (J-4).
//!
//! An id is never used twice, so that mail for a namespace that has gone reaches nobody.

use std::collections::HashMap;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::rooms::NamespaceId;
use crate::histograms::{Delays, QueueLengths};

/// Names of namespaces that are not known are looked at up to this many bytes; longer ones are
/// refused at once.
pub const UNKNOWN_NAME_MAX: usize = 1_024;

/// Ids from here on are of this core alone: each stands for one CONNECT to an unknown name.
const GUESSES: NamespaceId = 1 << 63;

/// A namespace on one core.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) name: Rc<str>,
    /// Its connected members, in no order.
    pub(super) members: Vec<u32>,
    /// Members of every state, those that are still asking and those that are leaving included.
    pub(super) total: u32,
    /// Id of the next acknowledgement that is asked for (K.3).
    pub(super) next_ack: u64,
    /// What the application wants of it.
    pub(super) traits: Traits,
    /// Of those that are broadcast to; names that clients make up have none.
    pub(super) delivery: Option<Box<Delivery>>,
}

/// How broadcasts to a namespace fare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// How long they took to leave.
    pub fan_out: Delays,
    /// See [`Stats::fan_out_queues`](super::Stats::fan_out_queues).
    pub queues: QueueLengths,
}

/// What a namespace holds on one core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// Its name.
    pub name: Box<str>,
    /// Its connected members.
    pub members: usize,
    /// Its rooms.
    pub rooms: usize,
    /// How its broadcasts have fared.
    pub delivery: Delivery,
}

/// What an application wants of a namespace beyond packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traits {
    /// Tell when nobody is left in it ([`Event::Empty`](super::Event::Empty)).
    pub reports_empty: bool,
    /// Tell of rooms ([`Event::Room`](super::Event::Room)), those of sockets' own ids included.
    pub reports_rooms: bool,
    /// Tell of every event that is sent ([`Event::Sent`](super::Event::Sent)).
    pub reports_sent: bool,
    /// Tell of acknowledgements that nobody awaits
    /// ([`Event::UnexpectedAck`](super::Event::UnexpectedAck)).
    pub reports_acks: bool,
}

/// What happens to rooms, in the order in which it happens (L-1). A socket's own id is a room that
/// it joins when it connects and leaves when it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomChange {
    /// It has got its first socket on this shard.
    Created,
    /// It has lost its last socket on this shard.
    Deleted,
    /// A socket has joined.
    Joined(Rc<str>),
    /// A socket has left.
    Left(Rc<str>),
}

/// All namespaces of one core.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Ids are the server's own choice, so the hash need not be keyed.
    by_id: FxHashMap<NamespaceId, Namespace>,
    by_name: HashMap<Rc<str>, NamespaceId>,
    guesses: NamespaceId,
    /// Number of those that were there from the start.
    fixed: usize,
}

impl Known {
    /// Makes a namespace known.
    pub(super) fn add(&mut self, id: NamespaceId, name: &str, traits: Traits) {
        let name: Rc<str> = name.into();
        self.by_name.insert(name.clone(), id);
        self.insert(id, name, traits);
    }

    /// An id for a name that is not known; nobody finds it by that name.
    pub(super) fn guess(&mut self, name: &str) -> NamespaceId {
        let id = GUESSES + self.guesses;
        self.guesses += 1;
        self.insert(id, name.into(), Traits::default());
        id
    }

    fn insert(&mut self, id: NamespaceId, name: Rc<str>, traits: Traits) {
        let (members, delivery) = (Vec::new(), None);
        let namespace = Namespace { name, members, total: 0, next_ack: 0, traits, delivery };
        self.by_id.insert(id, namespace);
    }

    /// Forgets a namespace.
    pub(super) fn remove(&mut self, id: NamespaceId) {
        if let Some(namespace) = self.by_id.remove(&id)
            && !is_guess(id)
        {
            self.by_name.remove(&namespace.name);
        }
    }

    pub(super) fn get(&self, id: NamespaceId) -> Option<&Namespace> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: NamespaceId) -> Option<&mut Namespace> {
        self.by_id.get_mut(&id)
    }

    /// The name of a namespace.
    pub(super) fn name(&self, id: NamespaceId) -> Option<Rc<str>> {
        self.by_id.get(&id).map(|namespace| namespace.name.clone())
    }

    /// The namespace of a name.
    pub(super) fn id(&self, name: &str) -> Option<NamespaceId> {
        self.by_name.get(name).copied()
    }

    /// Makes a namespace known that is there from the start; they are counted.
    pub(super) fn add_fixed(&mut self, name: &str) -> NamespaceId {
        let id = self.fixed as NamespaceId;
        self.fixed += 1;
        self.add(id, name, Traits::default());
        id
    }

    /// All that clients find by their names.
    pub(super) fn named(&self) -> impl Iterator<Item = (NamespaceId, &Namespace)> {
        self.by_name.values().filter_map(|id| Some((*id, self.by_id.get(id)?)))
    }

    /// Number of those that have come later.
    pub(super) fn dynamic(&self) -> usize {
        self.by_name.len() - self.fixed
    }
}

/// Whether an id stands for a name that is not decided about.
pub(super) fn is_guess(id: NamespaceId) -> bool {
    id >= GUESSES
}
