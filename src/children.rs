//! Namespaces that come and go while the server runs: children of patterns and predicates, and
//! those that the application adds (J-4, K.2).
//!
//! The registry is the one place that all shards share. It is asked when a client names a
//! namespace that its shard does not know, when a shard has learnt of one, and when nobody is left
//! in it there; never for a packet.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use regex::Regex;

use crate::hub::Traits;
use crate::hub::rooms::NamespaceId;
use crate::namespace::{Handlers, LocalFuture, Namespace, Shared};
use crate::socket::Socket;

/// Ids from here on name parents, which no client joins.
pub(crate) const PARENTS: NamespaceId = 1 << 62;

pub(crate) type OnAsk = dyn Fn(String, &Socket) -> LocalFuture<bool> + Send + Sync;
pub(crate) type OnNew = dyn Fn(Namespace) + Send + Sync;

/// A namespace as shards use it. Each has a copy, so that counting its users is cheap.
#[derive(Clone)]
pub(crate) struct NamespaceSpec {
    pub(crate) id: NamespaceId,
    pub(crate) name: Arc<str>,
    pub(crate) handlers: Arc<Handlers>,
    /// Position in the parents, for a child.
    pub(crate) parent: Option<usize>,
}

impl NamespaceSpec {
    /// What its handlers are called in reports: for a child that is its parent's name, since
    /// there may be any number of children.
    pub(crate) fn label(&self) -> Arc<str> {
        self.parent.map_or_else(|| self.name.clone(), parent_name)
    }

    /// What the hub has to tell of it. `is_cleaned`: empty children are to go.
    pub(crate) fn traits(&self, is_cleaned: bool) -> Traits {
        Traits {
            reports_empty: is_cleaned && self.parent.is_some(),
            reports_rooms: self.handlers.hears_rooms(),
            reports_sent: !self.handlers.outgoing.is_empty(),
            reports_acks: !self.handlers.unexpected_ack.is_empty(),
        }
    }
}

/// Who decides whether a namespace may come into being.
pub(crate) enum Matcher {
    Pattern(Regex),
    Ask(Shared<OnAsk>),
}

/// A parent after the registration.
pub(crate) struct ParentSpec {
    pub(crate) matcher: Matcher,
    pub(crate) handlers: Arc<Handlers>,
}

/// What the reference calls its parents internally (K.2).
pub(crate) fn parent_name(index: usize) -> Arc<str> {
    format!("/_{index}").into()
}

/// What all dynamic namespaces of one pattern or predicate have in common (`ParentNamespace`).
/// Made by [`Server::of_pattern`](crate::Server::of_pattern) and
/// [`Server::of_dynamic`](crate::Server::of_dynamic).
///
/// Handlers that are registered here are those of every child. What is emitted here goes to the
/// sockets of all children, encoded for each of them: O(children) and their members.
#[derive(Clone)]
pub struct ParentNamespace(pub(crate) Namespace);

impl ParentNamespace {
    /// The children that exist now, on whichever shard, in no order. O(dynamic namespaces).
    pub fn children(&self) -> Vec<Namespace> {
        self.0.server.children(self.0.id)
    }
}

impl Deref for ParentNamespace {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.0
    }
}

/// All namespaces that came after the start.
#[derive(Default)]
pub(crate) struct Registry {
    entries: Mutex<Entries>,
    /// Number of entries, so that a server without any asks nobody.
    count: AtomicUsize,
}

#[derive(Default)]
struct Entries {
    /// Ids are never used twice.
    next: NamespaceId,
    by_name: HashMap<Arc<str>, Entry>,
    /// Namespaces that the application is adding right now.
    drafts: HashMap<NamespaceId, Handlers>,
}

struct Entry {
    spec: NamespaceSpec,
    /// Shards that know it.
    leases: usize,
    /// It stays when no shard knows it any more.
    is_kept: bool,
}

/// Who asks for a namespace to be made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// A client on a shard, which knows the namespace from now on.
    Client,
    /// The application.
    Application,
}

impl Registry {
    /// Ids of namespaces begin here; to be called once.
    pub(crate) fn begin(&self, next: NamespaceId) {
        self.lock().next = next;
    }

    /// Whether there are none; may be out of date by a moment.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(crate) fn get(&self, name: &str) -> Option<NamespaceSpec> {
        self.lock().by_name.get(name).map(|entry| entry.spec.clone())
    }

    /// A shard begins to know a namespace that exists.
    pub(crate) fn lease(&self, name: &str) -> Option<NamespaceSpec> {
        let mut entries = self.lock();
        let entry = entries.by_name.get_mut(name)?;
        entry.leases += 1;
        Some(entry.spec.clone())
    }

    /// Nobody is left in a namespace on one shard. When no shard has anybody it is gone: whoever
    /// asks for the name from now on makes a new one, with another id.
    pub(crate) fn release(&self, name: &str) {
        let mut entries = self.lock();
        let Some(entry) = entries.by_name.get_mut(name) else { return };
        entry.leases -= 1;
        if entry.leases == 0 && !entry.is_kept {
            entries.by_name.remove(name);
            if entries.by_name.capacity() > 4 * entries.by_name.len().max(64) {
                entries.by_name.shrink_to_fit();
            }
        }
        self.count.store(entries.by_name.len(), Ordering::Release);
    }

    /// Makes a namespace, unless it exists; the flag says whether it is new. `None` if there are
    /// `max` already.
    pub(crate) fn make(
        &self,
        name: &Arc<str>,
        by: By,
        (parent, handlers): (Option<usize>, &Arc<Handlers>),
        max: usize,
    ) -> Option<(NamespaceSpec, bool)> {
        let mut entries = self.lock();
        let is_new = !entries.by_name.contains_key(name);
        if is_new {
            if entries.by_name.len() >= max {
                return None;
            }
            let id = entries.next;
            entries.next += 1;
            let (name, handlers) = (name.clone(), handlers.clone());
            let spec = NamespaceSpec { id, name: name.clone(), handlers, parent };
            entries.by_name.insert(name, Entry { spec, leases: 0, is_kept: parent.is_none() });
            self.count.store(entries.by_name.len(), Ordering::Release);
        }
        let entry = entries.by_name.get_mut(name)?;
        entry.leases += usize::from(by == By::Client);
        Some((entry.spec.clone(), is_new))
    }

    /// Begins to add a namespace whose handlers are registered one after the other; `None` if the
    /// name is taken.
    pub(crate) fn draft(&self, name: &str) -> Option<NamespaceId> {
        let mut entries = self.lock();
        if entries.by_name.contains_key(name) {
            return None;
        }
        let id = entries.next;
        entries.next += 1;
        entries.drafts.insert(id, Handlers::default());
        Some(id)
    }

    /// Registers something for a namespace that is being added; false if it is not.
    pub(crate) fn register(&self, id: NamespaceId, change: impl FnOnce(&mut Handlers)) -> bool {
        self.lock().drafts.get_mut(&id).map(change).is_some()
    }

    /// Ends what [`Registry::draft`] began. `None` if somebody else was faster.
    pub(crate) fn publish(&self, id: NamespaceId, name: &Arc<str>) -> Option<NamespaceSpec> {
        let mut entries = self.lock();
        let handlers = Arc::new(entries.drafts.remove(&id)?);
        if entries.by_name.contains_key(name) {
            return None;
        }
        let spec = NamespaceSpec { id, name: name.clone(), handlers, parent: None };
        let entry = Entry { spec: spec.clone(), leases: 0, is_kept: true };
        entries.by_name.insert(name.clone(), entry);
        self.count.store(entries.by_name.len(), Ordering::Release);
        Some(spec)
    }

    /// The children of a parent.
    pub(crate) fn children(&self, parent: usize) -> Vec<NamespaceSpec> {
        let entries = self.lock();
        let specs = entries.by_name.values().map(|entry| &entry.spec);
        specs.filter(|spec| spec.parent == Some(parent)).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(registry: &Registry, name: &str, by: By) -> Option<(NamespaceId, bool)> {
        let made = registry.make(&name.into(), by, (Some(0), &Arc::default()), 2);
        made.map(|(spec, is_new)| (spec.id, is_new))
    }

    #[test]
    fn a_namespace_lives_while_a_shard_knows_it_and_its_id_is_not_used_again() {
        let registry = Registry::default();
        registry.begin(5);
        assert!(registry.is_empty() && registry.lease("/a").is_none());
        assert_eq!(make(&registry, "/a", By::Client), Some((5, true)));
        assert_eq!(make(&registry, "/a", By::Client), Some((5, false)));
        assert_eq!(registry.lease("/a").map(|spec| spec.id), Some(5));
        registry.release("/a");
        registry.release("/a");
        assert_eq!(registry.children(0).len(), 1);
        registry.release("/a");
        assert!(registry.is_empty() && registry.children(0).is_empty());
        assert_eq!(make(&registry, "/a", By::Application), Some((6, true)));
        assert_eq!(make(&registry, "/b", By::Client), Some((7, true)));
        assert_eq!(make(&registry, "/c", By::Client), None, "two at most");
        assert_eq!(make(&registry, "/b", By::Client), Some((7, false)));
    }

    #[test]
    fn what_the_application_adds_stays() {
        let registry = Registry::default();
        let id = registry.draft("/x").expect("a free name");
        assert!(registry.register(id, |_| {}) && !registry.register(id + 1, |_| {}));
        assert!(registry.get("/x").is_none());
        assert_eq!(registry.publish(id, &"/x".into()).map(|spec| spec.id), Some(id));
        assert!(registry.draft("/x").is_none() && !registry.register(id, |_| {}));
        assert!(registry.lease("/x").is_some());
        registry.release("/x");
        assert!(registry.get("/x").is_some());
    }
}
