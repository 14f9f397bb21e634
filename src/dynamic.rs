//! What a server offers for namespaces that come while it runs (J-4, K.1 `of`, K.2).

use std::future::Future;
use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

use crate::children::{By, Matcher, NamespaceSpec, OnAsk, PARENTS, ParentNamespace, parent_name};
use crate::error::Error;
use crate::hub::rooms::NamespaceId;
use crate::namespace::{Handlers, LocalFuture, Namespace, Shared};
use crate::server::{Server, with_slash};
use crate::shard::watch::Label;
use crate::socket::Socket;

impl Server {
    /// Namespaces that a pattern names (`io.of(/^\/room-\d+$/)`). A client that asks for a name
    /// which is not registered and which the pattern matches, anywhere unless it is anchored,
    /// brings that namespace into being, with the handlers of what this returns. Patterns and
    /// predicates are tried in the order in which they were registered.
    ///
    /// `pattern` is text or a [`regex::Regex`]; matching takes time linear in the name, and names
    /// of more than 1,024 bytes are refused unseen. How many there may be is
    /// [`Options::max_child_namespaces`](crate::Options::max_child_namespaces), how long they stay
    /// is [`Options::cleanup_empty_child_namespaces`](crate::Options).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
    /// # fn main() -> Result<(), corecast::Error> {
    /// # let io = corecast::Server::new(one_shard())?;
    /// let tables = io.of_pattern(r"^/table-\d+$")?;
    /// tables.on("bid", |socket: corecast::Socket, event: corecast::Event| async move {
    ///     // To everyone in the same child.
    ///     let _ = socket.namespace().emit("bid", event.raw());
    /// });
    /// # let running = io.listen("127.0.0.1:0")?;
    /// # let mut client = Client::open(&running, "", &[]);
    /// # assert!(client.join("0/table-7,").starts_with("0/table-7,{"));
    /// # assert_eq!(client.join("0/table-x,"), r#"4/table-x,{"message":"Invalid namespace"}"#);
    /// # client.send(r#"2/table-7,["bid",5]"#);
    /// # assert_eq!(client.read(), r#"2/table-7,["bid",5]"#);
    /// tables.emit("closing", ())?; // to the sockets of all children
    /// # assert_eq!(client.read(), r#"2/table-7,["closing"]"#);
    /// # assert_eq!(tables.children().len(), 1);
    /// # stop(running, [client])
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Pattern`].
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn of_pattern<P>(&self, pattern: P) -> Result<ParentNamespace, Error>
    where
        P: TryInto<Regex>,
        P::Error: Into<Error>,
    {
        let pattern = pattern.try_into().map_err(Into::into)?;
        Ok(self.add_parent(|_| Matcher::Pattern(pattern)))
    }

    /// Namespaces that `handler` agrees to (`io.of((name, auth, next) => ...)`): it is given the
    /// name and what the client sent as `auth`, an empty object if nothing. Otherwise as
    /// [`Server::of_pattern`]. It decides whether the namespace comes into being, not who may
    /// join it: while it exists nobody asks. That is for [`Namespace::middleware`].
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn of_dynamic<F, R>(&self, handler: F) -> ParentNamespace
    where
        F: Fn(String, Value) -> R + Send + Sync + 'static,
        R: Future<Output = bool> + 'static,
    {
        self.of_asked(move |name, socket| {
            Box::pin(handler(name, socket.auth().unwrap_or_default()))
        })
    }

    /// The same for a function that decodes what the client sent only if it needs it.
    pub(crate) fn of_asked(
        &self,
        handler: impl Fn(String, &Socket) -> LocalFuture<bool> + Send + Sync + 'static,
    ) -> ParentNamespace {
        self.add_parent(|name| {
            let label = Label::of(name, "namespace predicate".into());
            Matcher::Ask(Shared::<OnAsk> { label, call: Arc::new(handler) })
        })
    }

    /// Adds a namespace while the server runs, with the handlers that `register` registers. Clients
    /// may join when this has returned. It stays for the life of the server.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
    /// # fn main() -> Result<(), corecast::Error> {
    /// # let io = corecast::Server::new(one_shard())?;
    /// # let running = io.listen("127.0.0.1:0")?;
    /// # let mut client = Client::open(&running, "", &[]);
    /// io.add_namespace("/late", |late| {
    ///     late.on_connect(|socket: corecast::Socket| async move {
    ///         let _ = socket.emit("hello", ());
    ///     });
    /// })?;
    /// # assert!(client.join("0/late,").starts_with("0/late,{"));
    /// # assert_eq!(client.read(), r#"2/late,["hello"]"#);
    /// # stop(running, [client])
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Options`]: the name is taken.
    pub fn add_namespace(
        &self,
        name: &str,
        register: impl FnOnce(&Namespace),
    ) -> Result<Namespace, Error> {
        const TAKEN: Error = Error::Options("a namespace of that name exists already");
        let name = with_slash(name);
        if self.namespace(&name).is_some() {
            return Err(TAKEN);
        }
        if self.spec().is_none() {
            let namespace = self.of(&name);
            register(&namespace);
            return Ok(namespace);
        }
        let id = self.registry().draft(&name).ok_or(TAKEN)?;
        let namespace = Namespace { server: self.clone(), id, name: name.clone() };
        register(&namespace);
        self.registry().publish(id, &name).ok_or(TAKEN)?;
        self.tell_new(&namespace);
        Ok(namespace)
    }

    /// Calls `handler` with every namespace that comes into being from now on (`new_namespace`):
    /// at once for those that the application makes, and on the client's shard for those that a
    /// client asks for. It must not block.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_new_namespace(&self, handler: impl Fn(Namespace) + Send + Sync + 'static) -> &Self {
        self.change_draft(|draft| draft.new_namespace.push(Arc::new(handler)));
        self
    }

    fn add_parent(&self, matcher: impl FnOnce(&str) -> Matcher) -> ParentNamespace {
        let mut id = PARENTS;
        self.change_draft(|draft| {
            let index = draft.parents.len();
            draft.parents.push((matcher(&parent_name(index)), Handlers::default()));
            id += index as NamespaceId;
        });
        let name = parent_name((id - PARENTS) as usize);
        ParentNamespace(Namespace { server: self.clone(), id, name })
    }

    /// A namespace that exists, by its whole name.
    pub(crate) fn find(&self, name: &Arc<str>) -> Option<Namespace> {
        let Some(spec) = self.spec() else { return self.find_draft(name) };
        let fixed = spec.namespaces.iter().find(|namespace| namespace.name == *name);
        let found = fixed.cloned().or_else(|| self.registry().get(name))?;
        Some(self.handle(&found))
    }

    fn handle(&self, spec: &NamespaceSpec) -> Namespace {
        Namespace { server: self.clone(), id: spec.id, name: spec.name.clone() }
    }

    /// Makes a namespace on behalf of the application, as `of` does.
    pub(crate) fn make_namespace(&self, name: &Arc<str>) -> Namespace {
        let spec = self.running_spec();
        let is_match = |matcher: &Matcher| match matcher {
            Matcher::Pattern(pattern) => pattern.is_match(name),
            Matcher::Ask(_) => false,
        };
        let parent = spec.parents.iter().position(|parent| is_match(&parent.matcher));
        let handlers = parent.map(|parent| spec.parents[parent].handlers.clone());
        let handlers = handlers.unwrap_or_default();
        // What the application itself makes has no bound, so there is an answer.
        let made = self.registry().make(name, By::Application, (parent, &handlers), usize::MAX);
        let Some((made, is_new)) = made else { unreachable!("there is no bound") };
        let namespace = self.handle(&made);
        if is_new {
            self.tell_new(&namespace);
        }
        namespace
    }

    /// Tells the application of a namespace that has come into being.
    pub(crate) fn tell_new(&self, namespace: &Namespace) {
        for tell in &self.running_spec().new_namespace {
            tell(namespace.clone());
        }
    }

    /// The children of a parent's id.
    pub(crate) fn children(&self, parent: NamespaceId) -> Vec<Namespace> {
        let parent = parent.saturating_sub(PARENTS) as usize;
        self.registry().children(parent).iter().map(|spec| self.handle(spec)).collect()
    }
}
