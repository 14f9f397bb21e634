//! The namespaces that a shard knows, and what it does when a client asks for another one.

use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use super::watch::Label;
use crate::children::{By, Matcher, NamespaceSpec};
use crate::hub::rooms::NamespaceId;
use crate::hub::slab::Key;
use crate::namespace::Namespace;
use crate::socket::Socket;

impl Shard {
    /// A namespace that this shard knows.
    pub(crate) fn namespace(&self, id: NamespaceId) -> Option<Rc<NamespaceSpec>> {
        self.namespaces.borrow().get(&id).cloned()
    }

    /// A client asks for a namespace that this shard does not know, or did not when it asked.
    pub(super) fn on_unknown(self: &Rc<Self>, member: Key) {
        let Some(name) = self.hub().namespace_name(member) else { return };
        if self.place(member, &name) {
            return;
        }
        let spec = self.spec().clone();
        if spec.parents.is_empty() {
            return self.refuse(member, "Invalid namespace");
        }
        let name: Arc<str> = (&*name).into();
        let (id, handlers) = (NamespaceId::MAX, Arc::default());
        let asked = Rc::new(NamespaceSpec { id, name: name.clone(), handlers, parent: Some(0) });
        let Some(socket) = Socket::new(self, member, &asked) else { return };
        let label = Label::of(&asked.label(), "dynamic namespace".into());
        let (shard, asking) = (self.clone(), socket.clone());
        let future = async move {
            for (index, parent) in spec.parents.iter().enumerate() {
                let allows = match &parent.matcher {
                    Matcher::Pattern(pattern) => pattern.is_match(&name),
                    Matcher::Ask(ask) => (ask.call)(name.to_string(), &asking).await,
                };
                if allows {
                    shard.make_child(member, &name, index);
                    return shard.wake();
                }
            }
            shard.refuse(member, "Invalid namespace");
            shard.wake();
        };
        self.run(&socket, label, Box::pin(future));
    }

    fn refuse(&self, member: Key, message: &str) {
        self.hub().refuse_member(member, message, None);
        self.forget(member);
    }

    /// Puts a client into the namespace it asked for, if that exists by now.
    fn place(&self, member: Key, name: &str) -> bool {
        let known = self.hub().namespace_id(name);
        let id = known.or_else(|| {
            let registry = self.server.registry();
            let spec = if registry.is_empty() { None } else { registry.lease(name) };
            spec.map(|spec| self.learn(spec))
        });
        id.is_some_and(|id| self.hub().place_member(member, id))
    }

    /// Makes the child that a parent has agreed to, unless somebody was faster.
    fn make_child(self: &Rc<Self>, member: Key, name: &Arc<str>, parent: usize) {
        // Who has gone needs none, and nobody would be left to end it.
        if self.hub().namespace_name(member).is_none() || self.place(member, name) {
            return;
        }
        let spec = self.spec();
        let made = self.server.registry().make(
            name,
            By::Client,
            (Some(parent), &spec.parents[parent].handlers),
            self.options.borrow().max_child_namespaces,
        );
        let Some((made, is_new)) = made else { return self.refuse(member, "Too many namespaces") };
        let namespace = Namespace { server: self.server(), id: made.id, name: name.clone() };
        let id = self.learn(made);
        self.hub().place_member(member, id);
        if is_new {
            self.server.tell_new(&namespace);
        }
    }

    /// Begins to know a namespace that this shard has a lease of.
    fn learn(&self, spec: NamespaceSpec) -> NamespaceId {
        let is_cleaned = self.options.borrow().cleanup_empty_child_namespaces;
        let (id, traits) = (spec.id, spec.traits(is_cleaned));
        self.hub().learn_namespace(id, &spec.name, traits);
        self.namespaces.borrow_mut().insert(id, Rc::new(spec));
        id
    }

    /// Nobody was left in a namespace a moment ago.
    pub(super) fn on_empty(&self, id: NamespaceId) {
        if !self.hub().forget_namespace(id) {
            return;
        }
        let gone = self.namespaces.borrow_mut().remove(&id);
        if let Some(gone) = gone {
            self.server.registry().release(&gone.name);
        }
    }
}
