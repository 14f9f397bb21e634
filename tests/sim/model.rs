//! What everybody is owed. The application notes here what it asked the hubs for, in the order it
//! did; clients report here what they got; any difference is a failure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use corecast::error::Reason;
use corecast::hub::slab::Key;

/// Something that a socket is to get, in the order of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Connect,
    Message(u64),
    Ack(u64),
    Disconnect,
}

#[derive(Debug)]
struct Owed {
    what: What,
    /// Volatile, or for a slow reader that may lose packets.
    optional: bool,
}

/// A message of the application: who sent it as which, and what it looks like.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    pub sender: u64,
    pub pad: usize,
    pub attachments: usize,
}

/// The life of one accepted socket.
#[derive(Debug)]
pub struct Ledger {
    pub client: Option<usize>,
    pub shard: usize,
    pub key: Key,
    pub namespace: u64,
    pub rooms: BTreeSet<String>,
    pub closed: Option<Reason>,
    /// Number of the last event that came from the client.
    pub in_seq: u64,
    /// The application disconnected it.
    pub kicked: bool,
    owed: Vec<Owed>,
    got: usize,
    /// Latest message by each sender.
    latest: HashMap<u64, u64>,
}

/// What a client did that explains an end of its connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// Left by itself, in whatever way.
    pub left: bool,
    /// Left this namespace by itself.
    pub left_namespace: bool,
    /// Broke or half-closed a connection.
    pub broke: bool,
    /// Stopped reading for a while.
    pub stalled: bool,
    /// Does not answer pings.
    pub muted: bool,
    /// Joins no namespace in time.
    pub lazy: bool,
    /// Sends nonsense.
    pub garbage: bool,
    /// The application disconnects it, or the clock jumped: it may be gone any time.
    pub excused: bool,
}

#[derive(Debug, Default)]
pub struct Model {
    pub ledgers: BTreeMap<String, Ledger>,
    pub by_key: HashMap<(usize, Key), String>,
    pub messages: Vec<Message>,
    pub facts: Vec<Facts>,
    /// Slow readers lose packets instead of their connection.
    pub drops: bool,
    pub has_garbage: bool,
    /// The server is shutting down.
    pub is_over: bool,
    /// How much was checked, so that a run which tests nothing is noticed.
    pub received: u64,
}

impl Model {
    pub fn accept(
        &mut self,
        sid: String,
        shard: usize,
        key: Key,
        namespace: u64,
        client: Option<usize>,
    ) {
        assert!(client.is_some() || self.has_garbage, "an unknown client");
        let ledger = Ledger {
            client,
            shard,
            key,
            namespace,
            rooms: BTreeSet::new(),
            closed: None,
            in_seq: 0,
            kicked: false,
            owed: Vec::new(),
            got: 0,
            latest: HashMap::new(),
        };
        assert!(self.ledgers.insert(sid.clone(), ledger).is_none(), "an id twice");
        assert!(self.by_key.insert((shard, key), sid.clone()).is_none(), "a key twice");
        self.owe(&sid, What::Connect, false);
    }

    pub fn owe(&mut self, sid: &str, what: What, volatile: bool) {
        let ledger = self.ledgers.get_mut(sid).expect("a ledger");
        let stalled = ledger.client.is_some_and(|client| self.facts[client].stalled);
        let optional = volatile || (self.drops && stalled);
        ledger.owed.push(Owed { what, optional });
    }

    /// A client got something for a socket.
    pub fn receive(&mut self, sid: &str, what: &What) {
        let ledger = self.ledgers.get_mut(sid).expect("the socket of a client");
        if let What::Message(n) = what {
            let sender = self.messages[*n as usize].sender;
            let latest = ledger.latest.insert(sender, *n);
            assert!(latest.is_none_or(|latest| latest < *n), "{sid}: {latest:?} before {n}");
        }
        loop {
            let next = ledger.owed.get(ledger.got);
            let next = next.unwrap_or_else(|| panic!("{sid}: got {what:?}, was owed nothing"));
            ledger.got += 1;
            if next.what == *what {
                break;
            }
            assert!(next.optional, "{sid}: got {what:?}, was owed {:?}", next.what);
        }
        self.received += 1;
    }

    /// What a socket still has to get, if anything.
    pub fn missing(&self, sid: &str) -> Option<&What> {
        let ledger = &self.ledgers[sid];
        ledger.owed[ledger.got..].iter().find(|owed| !owed.optional).map(|owed| &owed.what)
    }

    /// The connected sockets of a shard that a target selects.
    pub fn select(
        &self,
        shard: usize,
        namespace: u64,
        rooms: &[String],
        except: &[String],
    ) -> Vec<String> {
        let is_in = |sid: &String, ledger: &Ledger, names: &[String]| {
            names.iter().any(|name| name == sid || ledger.rooms.contains(name))
        };
        let selected = self.ledgers.iter().filter(|(sid, ledger)| {
            ledger.shard == shard
                && ledger.namespace == namespace
                && ledger.closed.is_none()
                && !ledger.kicked
                && (rooms.is_empty() || is_in(sid, ledger, rooms))
                && !is_in(sid, ledger, except)
        });
        selected.map(|(sid, _)| sid.clone()).collect()
    }

    /// The end of a socket, and whether there is a reason for that reason.
    pub fn close(&mut self, shard: usize, key: Key, reason: Reason) {
        let sid = self.by_key.get(&(shard, key)).expect("a closing socket was accepted").clone();
        let ledger = self.ledgers.get_mut(&sid).expect("a ledger");
        assert!(ledger.closed.is_none(), "{sid}: closed twice");
        let is_over = self.is_over;
        ledger.closed = Some(reason);
        let Some(facts) = ledger.client.map(|client| self.facts[client]) else { return };
        let Facts { left, broke, stalled, muted, garbage, excused, .. } = facts;
        let fits = match reason {
            Reason::ServerNamespaceDisconnect => ledger.kicked,
            Reason::ClientNamespaceDisconnect => facts.left_namespace || left,
            Reason::PingTimeout => left || broke || stalled || muted || excused,
            Reason::TransportClose => left || broke,
            Reason::TransportError => left || broke || stalled || excused,
            Reason::ForcedClose => excused,
            Reason::ServerShuttingDown => is_over,
            // A parse error is garbage; who waits for a namespace too long has no socket.
            _ => false,
        };
        let client = ledger.client;
        assert!(fits || garbage, "{sid} of {client:?}: closed by {reason}, but {facts:?}");
    }
}
