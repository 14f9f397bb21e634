//! The server: what is registered before it listens, and the handle that emits from any thread.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, TrySendError};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::admin::{Admin, tap::watching};
use crate::children::{Matcher, NamespaceSpec, OnNew, PARENTS, ParentSpec, Registry};
use crate::emit::{Args, Broadcast};
use crate::error::{Error, Reason};
use crate::event::Event;
use crate::files;
use crate::gather::{Deadlines, Gathering, Part};
use crate::histograms::Delays;
use crate::hooks::HttpHooks;
use crate::hub::directory::Directory;
use crate::hub::gate::{Bounds, Entrance, Gate};
use crate::hub::hooks::Requests;
use crate::hub::id::Secrets;
use crate::hub::recovery::Offset;
use crate::hub::rooms::NamespaceId;
use crate::hub::{self, Config, FIRST_ASK, Gauges, Hub, Publish, StaticFile};
use crate::namespace::{Handlers, Namespace};
use crate::options::{Limits, Options};
use crate::port::{Port, bind_all};
use crate::preflight;
use crate::proto::parser::Parser;
use crate::rooms::Rooms;
use crate::shard::awake;
use crate::shard::mesh::{Mail, Mesh};
use crate::shard::watch::{Pulse, Watch};
use crate::shard::{Shard, Start};
use crate::socket::Socket;
use crate::ws::{Endpoint, EndpointSpec, Message, WebSocket};

/// A Socket.IO server (`Server`, usually called `io`). Cheap to clone; every clone is the same
/// server, on any thread.
///
/// Register handlers, then [`Server::listen`]. Emitting works from then on, from handlers, other
/// threads and foreign runtimes alike. What a method does without naming a namespace happens in
/// `/`. See the [quick start](crate#quick-start).
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    options: Options,
    /// What is being registered; empty once the server listens.
    draft: Mutex<Draft>,
    /// What was registered.
    spec: OnceLock<Arc<Spec>>,
    /// Namespaces that came after the start.
    registry: Registry,
    /// Somebody listens to what is sent, or did.
    reports_sent: AtomicBool,
    /// On how many shards each room is, where somebody listens.
    room_counts: RoomCounts,
    mesh: OnceLock<Mesh>,
    deadlines: Deadlines,
    /// The admin UI, if there is one.
    admin: OnceLock<Arc<Admin>>,
    /// Broadcasts with acknowledgements so far.
    asks: AtomicU32,
    /// Per shard, as of its last look.
    stats: Mutex<Vec<Stats>>,
    is_stopping: AtomicBool,
    /// [`Options::requests_timeout`] as it is now, in milliseconds.
    requests_timeout_ms: AtomicU64,
    /// Events sent by threads that are no shard, with connection-state recovery.
    sent: Mutex<u64>,
}

/// The offset of an event about to be sent.
pub(crate) struct NextOffset<'a> {
    offset: Offset,
    /// Other threads that are no shard wait until this one has sent.
    _turn: Option<MutexGuard<'a, u64>>,
}

impl NextOffset<'_> {
    pub(crate) fn get(&self) -> Offset {
        self.offset
    }
}

/// Shards that a room is on, by namespace and name.
pub(crate) type RoomCounts = Mutex<HashMap<(NamespaceId, Box<str>), usize>>;

#[derive(Default)]
pub(crate) struct Draft {
    namespaces: Vec<(Arc<str>, Handlers)>,
    pub(crate) parents: Vec<(Matcher, Handlers)>,
    pub(crate) new_namespace: Vec<Arc<OnNew>>,
    endpoints: Vec<EndpointSpec>,
    files: Vec<(String, StaticFile)>,
    hooks: HttpHooks,
}

/// What all shards share and none changes.
pub(crate) struct Spec {
    pub(crate) options: Options,
    /// In the order of their ids.
    pub(crate) namespaces: Vec<NamespaceSpec>,
    pub(crate) endpoints: Vec<EndpointSpec>,
    pub(crate) parents: Vec<ParentSpec>,
    pub(crate) new_namespace: Vec<Arc<OnNew>>,
    pub(crate) shards: u16,
    files: Vec<(String, StaticFile)>,
    /// Where it listens; the listeners of each shard in this order.
    pub(crate) ports: Vec<Port>,
    pub(crate) entrance: Entrance,
    pub(crate) hooks: HttpHooks,
    /// Session ids of the application's own making.
    directory: Option<Arc<Directory>>,
}

/// Counters and sizes of a server. See [`Server::stats`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// What has happened since the start.
    pub totals: crate::Totals,
    /// What is held now.
    pub gauges: Gauges,
    /// How long broadcasts have taken to leave.
    pub fan_out: Delays,
}

impl PartialEq for Server {
    fn eq(&self, other: &Server) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Server {
    /// A server with namespace `/` and nothing else. It does not listen yet, and starts no thread.
    ///
    /// # Errors
    /// [`Error::Options`] if a value in `options` breaks a rule.
    pub fn new(options: Options) -> Result<Server, Error> {
        options.limits()?;
        let requests_timeout_ms = AtomicU64::new(millis(options.requests_timeout));
        let server = Server(Arc::new(Shared {
            options,
            draft: Mutex::default(),
            spec: OnceLock::new(),
            registry: Registry::default(),
            reports_sent: AtomicBool::new(false),
            room_counts: RoomCounts::default(),
            mesh: OnceLock::new(),
            deadlines: Deadlines::default(),
            admin: OnceLock::new(),
            asks: AtomicU32::new(0),
            stats: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            requests_timeout_ms,
            sent: Mutex::new(0),
        }));
        server.of("/");
        Ok(server)
    }

    /// A namespace (`io.of`), made known if it was not. A missing leading `/` is added (K.1).
    ///
    /// While the server listens, an unknown name becomes a child of the first pattern that it
    /// matches ([`Server::of_pattern`]), or else a namespace without handlers, which clients may
    /// join from then on; see [`Server::add_namespace`] for one with handlers. O(namespaces): keep
    /// the [`Namespace`] where it is needed often, and do not give names here that clients choose.
    pub fn of(&self, name: &str) -> Namespace {
        let name = with_slash(name);
        if let Some(namespace) = self.find(&name) {
            return namespace;
        }
        if self.0.spec.get().is_some() {
            return self.make_namespace(&name);
        }
        let id = {
            let mut draft = self.draft();
            draft.namespaces.push((name.clone(), Handlers::default()));
            draft.namespaces.len() as NamespaceId - 1
        };
        let namespace = Namespace { server: self.clone(), id, name };
        let told = self.draft().new_namespace.clone();
        told.iter().for_each(|tell| tell(namespace.clone()));
        namespace
    }

    /// The namespace of that name, if it exists: registered before the server listens, added since,
    /// or the child of a pattern or predicate. O(namespaces).
    pub fn namespace(&self, name: &str) -> Option<Namespace> {
        self.find(&with_slash(name))
    }

    /// Serves `body` at exactly `path` to GET and HEAD, with an ETag of its content, for pages that
    /// belong to the application. All shards share the bytes; they are not compressed.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn serve_file(
        &self,
        path: &str,
        content_type: &'static str,
        body: impl Into<bytes::Bytes>,
    ) {
        let body = body.into();
        let etag = files::content_tag(&body);
        self.assert_draft();
        self.draft()
            .files
            .push((path.into(), StaticFile { content_type, etag, body, coded: None }));
    }

    /// [`Namespace::on_connect`] of namespace `/`.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_connect<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Socket) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        self.of("/").on_connect(handler);
        self
    }

    /// [`Namespace::on`] of namespace `/`.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on<F, R>(&self, event: &str, handler: F) -> &Self
    where
        F: Fn(Socket, Event) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        self.of("/").on(event, handler);
        self
    }

    /// Raw websockets on an exact path, beside Socket.IO; see [`Endpoint`]. A path that is known
    /// already is found again.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn websocket(&self, path: &str) -> Endpoint {
        self.assert_draft();
        let endpoints = &mut self.draft().endpoints;
        let found = endpoints.iter().position(|endpoint| *endpoint.path == *path);
        let id = found.unwrap_or_else(|| {
            endpoints.push(EndpointSpec { path: path.into(), ..EndpointSpec::default() });
            endpoints.len() - 1
        });
        Endpoint::new(self.clone(), id as u32)
    }

    /// [`Endpoint::on_message`] of [`Server::websocket`].
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_websocket<F, R>(&self, path: &str, handler: F) -> Endpoint
    where
        F: Fn(WebSocket, Message) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        let endpoint = self.websocket(path);
        endpoint.on_message(handler);
        endpoint
    }

    /// [`Namespace::on_disconnect`] of namespace `/`.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_disconnect<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Socket, Reason) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + 'static,
    {
        self.of("/").on_disconnect(handler);
        self
    }

    /// Sends an event to every socket of `/` (`io.emit`); see [`Broadcast::emit`].
    ///
    /// # Errors
    /// As [`Broadcast::emit`].
    pub fn emit(&self, event: &str, args: impl Args) -> Result<(), Error> {
        self.broadcast().emit(event, args)
    }

    /// Sends the event `message` to every socket of `/` (`send`, `write`).
    ///
    /// # Errors
    /// As [`Broadcast::emit`].
    pub fn send(&self, args: impl Args) -> Result<(), Error> {
        self.emit("message", args)
    }

    /// The sockets of `/` in a room, or in any of several, or one socket by its id (`io.to`,
    /// `io.in`). A room that nobody is in is no error.
    pub fn to(&self, rooms: impl Rooms) -> Broadcast {
        self.broadcast().to(rooms)
    }

    /// All sockets of `/` but those in a room, or in any of several, or but one by its id.
    pub fn except(&self, rooms: impl Rooms) -> Broadcast {
        self.broadcast().except(rooms)
    }

    /// All sockets of `/`, on all shards.
    pub fn broadcast(&self) -> Broadcast {
        self.of("/").broadcast()
    }

    /// Checks the machine, then starts a shard on every CPU of the options, each listening on
    /// every address that `addresses` resolves to. With port 0 the system chooses one; see
    /// [`Running::addresses`]. Returns when all shards accept connections; they are threads of
    /// their own, so the caller's thread stays free. Registration ends here.
    ///
    /// Raises the process's soft limit of open files to the hard one. A server listens once.
    ///
    /// # Errors
    /// [`Error::Preflight`] with what to change on this machine, [`Error::Listen`], [`Error::Io`];
    /// [`Error::Options`] if the server listens already.
    pub fn listen(&self, addresses: impl ToSocketAddrs) -> Result<Running, Error> {
        self.listen_on(addresses.to_socket_addrs()?.map(Port::from))
    }

    /// As [`Server::listen`], on ports that say how their connections begin: with TLS, behind a
    /// proxy, or plainly. They may be of different kinds.
    ///
    /// # Errors
    /// As [`Server::listen`].
    pub fn listen_on(&self, ports: impl IntoIterator<Item = Port>) -> Result<Running, Error> {
        let ports: Vec<Port> = ports.into_iter().collect();
        let addresses = ports.iter().map(|port| port.address).collect();
        let options = &self.0.options;
        preflight::raise_nofile();
        preflight::require(&preflight::Request::new(options, addresses))?;
        let cpus = match options.cpus.is_empty() {
            true => preflight::allowed_cpus(),
            false => options.cpus.clone(),
        };
        if cpus.is_empty() {
            return Err(Error::Preflight("no CPU found; name them in Options::cpus".into()));
        }
        if options.cors.as_ref().is_some_and(|cors| cors.is_contradictory()) {
            log::warn!("cors: browsers refuse credentials where the origin is *; name origins");
        }
        let spec = self.freeze(cpus.len(), ports)?;
        let (mesh, mailboxes) = Mesh::new(cpus.len(), options.max_mailbox);
        // Frozen just now, so nobody has set it.
        let _ = self.0.mesh.set(mesh);
        *self.lock_stats() = vec![Stats::default(); cpus.len()];
        let (listeners, addresses) = bind_all(&spec.ports, cpus.len(), options.backlog)?;
        let pulses: Vec<Arc<Pulse>> = cpus.iter().map(|_| Arc::default()).collect();
        let watch = Watch::start(pulses.clone(), options.stall_warning)?;
        let executors = self.start(&spec, &cpus, listeners, mailboxes, &pulses)?;
        Ok(Running { server: self.clone(), addresses, executors, _watch: watch })
    }

    /// Ends the registration.
    fn freeze(&self, shards: usize, ports: Vec<Port>) -> Result<Arc<Spec>, Error> {
        let mut draft = std::mem::take(&mut *self.draft());
        if self.0.options.serve_client {
            draft.files.extend(files::client(&self.0.options.path));
        }
        let spec = Arc::new(Spec {
            options: self.0.options.clone(),
            namespaces: number(draft.namespaces),
            parents: freeze_parents(draft.parents),
            new_namespace: draft.new_namespace,
            endpoints: draft.endpoints,
            shards: shards as u16,
            files: draft.files,
            ports,
            entrance: entrance(&self.0.options, Arc::default()),
            directory: draft.hooks.id.as_ref().map(|_| Arc::default()),
            hooks: draft.hooks,
        });
        let next = spec.namespaces.len() as NamespaceId;
        match self.0.spec.set(spec.clone()) {
            Ok(()) => {
                self.0.registry.begin(next);
                Ok(spec)
            }
            Err(_) => Err(Error::Options("a server listens once; make another one")),
        }
    }

    /// Starts the shards; when one cannot be started, the others are ended again.
    fn start(
        &self,
        spec: &Arc<Spec>,
        cpus: &[usize],
        listeners: Vec<Vec<TcpListener>>,
        mailboxes: Vec<Receiver<Mail>>,
        pulses: &[Arc<Pulse>],
    ) -> Result<Vec<Executor>, Error> {
        let start = Instant::now();
        let (ready, results) = crossbeam_channel::bounded(cpus.len());
        let mut executors = Vec::with_capacity(cpus.len());
        let mut failure = None;
        let parts = cpus.iter().zip(listeners).zip(mailboxes).zip(pulses).enumerate();
        for (index, (((cpu, listeners), mailbox), pulse)) in parts {
            let (server, spec, pulse) = (self.clone(), spec.clone(), pulse.clone());
            let (ready, index) = (ready.clone(), index as u16);
            let executor = LocalExecutorBuilder::new(Placement::Fixed(*cpu))
                .name(&format!("corecast-{index}"))
                // Registered buffers are for glommio's own files and sockets; there are none.
                .io_memory(0)
                .preempt_timer(awake::START_PREEMPTION)
                .spawn(move || async move {
                    let hub = new_hub(&spec, index);
                    let start = Start { index, server, hub, listeners, mailbox, pulse, start };
                    let ready = move || {
                        let _ = ready.send(());
                    };
                    awake::run(Shard::serve(start, ready)).await
                });
            match executor {
                Ok(executor) => executors.push(executor),
                Err(error) => failure = Some(format!("cannot start a shard: {error}")),
            }
        }
        // Now a shard that ends without a word ends the waiting as well.
        drop(ready);
        let is_complete = cpus.iter().all(|_| results.recv().is_ok());
        if is_complete && failure.is_none() {
            return Ok(executors);
        }
        self.shutdown();
        let joined = executors.into_iter().map(join).fold(Ok(()), Result::and);
        let failure = failure.map_or(Error::NotRunning, Error::Preflight);
        Err(joined.err().unwrap_or(failure))
    }

    /// Stops accepting, ends all sessions as `server shutting down` with time to flush
    /// ([`Options::shutdown_timeout`]), then ends the shards (`io.close`). Clients see a closed
    /// transport and try to reconnect. To be called once the server listens, from any thread or
    /// from a handler. Returns at once; [`Running::join`] waits.
    pub fn shutdown(&self) {
        // Without shards there is nothing to end, and a later start must not find it ended.
        let Some(mesh) = self.0.mesh.get() else { return };
        self.0.is_stopping.store(true, Ordering::Release);
        mesh.wake_all();
        if let Some(shard) = Shard::current(self) {
            shard.wake();
        }
    }

    /// Lets no new session in from now on, while those that are there live on: a handshake, over
    /// polling or websocket, is answered 503 with `Retry-After`, in whole seconds rounded up, and
    /// so is a raw websocket. For a server that is about to go, and to be called once it listens;
    /// there is no way back. [`Broadcast::close_connections`] then ends sessions one by one, and
    /// [`Server::shutdown`] the rest.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Limit`] if the mailbox of a shard is full.
    pub fn refuse_sessions(&self, retry_after: Duration) -> Result<(), Error> {
        let seconds = retry_after.as_secs_f64().ceil() as u32;
        self.on_shards(None, move |shard| shard.hub().refuse_sessions(seconds))
    }

    /// Whether the shards have to end; they look in every turn.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.is_stopping.load(Ordering::Acquire)
    }

    /// Counters since the start and sizes, of all shards together, as each has left them: up to
    /// 100 ms ago while it is busy, and before it last went to sleep; [`Server::fetch_held`] makes
    /// them of now. O(shards).
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for shard in self.shard_stats() {
            sum.totals.add(&shard.totals);
            sum.gauges.add(&shard.gauges);
            sum.fan_out.add(&shard.fan_out);
        }
        sum
    }

    /// What [`Server::stats`] adds up: one entry for each shard, in the order of the CPUs. Empty
    /// before the server listens. Shows how evenly the kernel spreads connections over the shards.
    pub fn shard_stats(&self) -> Vec<Stats> {
        let mut all = self.lock_stats().clone();
        self.mesh(|mesh| {
            for (shard, stats) in (0..).zip(&mut all) {
                let (waiting, refused) = mesh.mail(shard);
                stats.gauges.mail += waiting;
                stats.totals.mail_refused += refused;
            }
        });
        all
    }

    pub(crate) fn leave_stats(&self, shard: u16, stats: Stats) {
        if let Some(place) = self.lock_stats().get_mut(usize::from(shard)) {
            *place = stats;
        }
    }

    fn lock_stats(&self) -> MutexGuard<'_, Vec<Stats>> {
        self.0.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes what is being registered.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub(crate) fn change_draft(&self, change: impl FnOnce(&mut Draft)) {
        self.assert_draft();
        change(&mut self.draft());
    }

    /// A namespace that is registered, before the server listens.
    pub(crate) fn find_draft(&self, name: &Arc<str>) -> Option<Namespace> {
        let id = self.draft().namespaces.iter().position(|(other, _)| other == name)?;
        let id = id as NamespaceId;
        Some(Namespace { server: self.clone(), id, name: name.clone() })
    }

    /// Broadcasts keep their arguments from now on, for those who listen to what is sent.
    pub(crate) fn report_sent(&self) {
        self.0.reports_sent.store(true, Ordering::Relaxed);
    }

    pub(crate) fn reports_sent(&self) -> bool {
        self.0.reports_sent.load(Ordering::Relaxed) || watching(self).is_some()
    }

    pub(crate) fn admin(&self) -> Option<&Arc<Admin>> {
        self.0.admin.get()
    }

    pub(crate) fn set_admin(&self, admin: Admin) -> Result<Arc<Admin>, Error> {
        let admin = Arc::new(admin);
        let set = self.0.admin.set(admin.clone());
        set.map(|()| admin).map_err(|_| Error::Options("a server has one admin UI"))
    }

    /// Whether this thread is calling a listener of what is sent.
    pub(crate) fn is_reporting(&self) -> bool {
        Shard::current(self).is_some_and(|shard| shard.is_reporting())
    }

    pub(crate) fn room_counts(&self) -> &RoomCounts {
        &self.0.room_counts
    }

    /// What was registered for a namespace, once the server listens.
    pub(crate) fn handlers(&self, namespace: &Namespace) -> Option<Arc<Handlers>> {
        let fixed = self.spec()?.namespaces.get(namespace.id as usize);
        let found = fixed.cloned().or_else(|| self.0.registry.get(&namespace.name))?;
        Some(found.handlers)
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    fn draft(&self) -> MutexGuard<'_, Draft> {
        self.0.draft.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn assert_draft(&self) {
        assert!(
            self.0.spec.get().is_none(),
            "handlers and files are registered before the server begins to listen"
        );
    }

    pub(crate) fn register(&self, id: NamespaceId, change: impl FnOnce(&mut Handlers)) {
        if self.0.spec.get().is_some() {
            let is_draft = self.0.registry.register(id, change);
            assert!(is_draft, "handlers are registered before the server begins to listen");
            return;
        }
        let mut draft = self.draft();
        let handlers = match id.checked_sub(PARENTS) {
            Some(parent) => draft.parents.get_mut(parent as usize).map(|(_, handlers)| handlers),
            None => draft.namespaces.get_mut(id as usize).map(|(_, handlers)| handlers),
        };
        if let Some(handlers) = handlers {
            change(handlers);
        }
    }

    /// What the server was made with; [`Server::reconfigure`] does not change it.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Lets options be as in `new` from now on, without dropping anybody: limits, timeouts,
    /// proxies, CORS, cookies, compression of polling answers, what happens to slow readers. What
    /// sockets, threads and memory were made for stays as it is, and so does what clients were
    /// told when they connected: `cpus`, `backlog`, `receive_buffers`, `max_mailbox`,
    /// `stall_warning`; `path`, `add_trailing_slash`, `serve_client`, `parser`, `polling`,
    /// `websocket`, `allow_eio3`, `ping_interval`, `ping_timeout`, `max_http_buffer_size`,
    /// `per_message_deflate`, `connection_state_recovery`. To be called once the server listens,
    /// from any thread. Limits that were not there before count who comes from now on.
    ///
    /// # Errors
    /// [`Error::Options`] if a value, together with those that stay, breaks a rule; nothing has
    /// changed then. [`Error::NotRunning`]; [`Error::Limit`] if the mailbox of a shard is full.
    pub fn reconfigure(&self, new: &Options) -> Result<(), Error> {
        let options = self.0.options.changed(new);
        options.limits()?;
        let requests_timeout_ms = millis(options.requests_timeout);
        let options = Arc::new(options);
        self.on_shards(None, move |shard| shard.reconfigure(&options))?;
        self.0.requests_timeout_ms.store(requests_timeout_ms, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn requests_timeout(&self) -> Duration {
        Duration::from_millis(self.0.requests_timeout_ms.load(Ordering::Relaxed))
    }

    /// Serves another file at a path from now on, or none; see [`Server::serve_file`]. To be called
    /// once the server listens.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Limit`] if the mailbox of a shard is full.
    pub fn replace_file(
        &self,
        path: &str,
        content_type: &'static str,
        body: Option<bytes::Bytes>,
    ) -> Result<(), Error> {
        let path: Arc<str> = path.into();
        let file = body.map(|body| {
            let etag = files::content_tag(&body);
            StaticFile { content_type, etag, body, coded: None }
        });
        self.on_shards(None, move |shard| match file.clone() {
            Some(file) => shard.hub().add_file(&path, file.into()),
            None => shard.hub().remove_file(&path),
        })
    }

    pub(crate) fn parser(&self) -> &Parser {
        &self.0.options.parser
    }

    pub(crate) fn register_endpoint(&self, id: u32, change: impl FnOnce(&mut EndpointSpec)) {
        self.assert_draft();
        if let Some(endpoint) = self.draft().endpoints.get_mut(id as usize) {
            change(endpoint);
        }
    }

    pub(crate) fn register_hook(&self, change: impl FnOnce(&mut HttpHooks)) -> &Self {
        self.assert_draft();
        change(&mut self.draft().hooks);
        self
    }

    pub(crate) fn spec(&self) -> Option<&Arc<Spec>> {
        self.0.spec.get()
    }

    /// For shards, which exist only once there is one.
    pub(crate) fn running_spec(&self) -> &Arc<Spec> {
        match self.0.spec.get() {
            Some(spec) => spec,
            None => unreachable!("a shard was started before the registration ended"),
        }
    }

    pub(crate) fn mesh<T>(&self, act: impl FnOnce(&Mesh) -> T) -> Option<T> {
        self.0.mesh.get().map(act)
    }

    /// The offset of the next event from this thread, with connection-state recovery.
    pub(crate) fn next_offset(&self) -> Option<NextOffset<'_>> {
        self.0.options.connection_state_recovery?;
        if let Some(shard) = Shard::current(self) {
            let offset = shard.hub().next_offset()?;
            return Some(NextOffset { offset, _turn: None });
        }
        let shards = self.spec()?.shards;
        let mut sent = self.0.sent.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *sent += 1;
        Some(NextOffset { offset: Offset::new(shards, *sent), _turn: Some(sent) })
    }

    /// Hands a broadcast to all shards: directly to that of this thread, by mail to the others.
    pub(crate) fn publish(&self, publish: Publish) -> Result<(), Error> {
        if let Some(shard) = Shard::current(self) {
            return shard.publish(publish);
        }
        let only = publish.target.only.map(|id| id.shard);
        let (publish, now) = (Arc::new(publish), Instant::now());
        self.post_to(only, || Mail::Publish(publish.clone(), now))
    }

    /// Runs something on every shard, or on one of them.
    pub(crate) fn on_shards(
        &self,
        only: Option<u16>,
        act: impl Fn(&Shard) + Clone + Send + 'static,
    ) -> Result<(), Error> {
        let Some(current) = Shard::current(self) else {
            return self.post_to(only, || {
                let act = act.clone();
                Mail::Call(Box::new(move |shard| act(shard)))
            });
        };
        let (shards, own) = (current.spec().shards, current.index());
        if only.is_none_or(|only| only == own) {
            act(&current);
            current.wake();
        }
        for shard in among(only, shards).filter(|shard| *shard != own) {
            let act = act.clone();
            current.post(shard, Mail::Call(Box::new(move |shard| act(shard))))?;
        }
        Ok(())
    }

    /// Asks every shard, or one of them. `mail` makes the question for one shard; `within` bounds
    /// the wait for the answers. A shard that cannot be asked is silent.
    pub(crate) fn gather<T: Send + 'static>(
        &self,
        only: Option<u16>,
        within: Duration,
        mail: impl Fn(Part<T>) -> Mail,
    ) -> Result<Gathering<T>, Error> {
        let mesh = self.0.mesh.get().ok_or(Error::NotRunning)?;
        let shards = among(only, mesh.len() as u16);
        let (gathering, parts) = Gathering::new(shards.len());
        let current = Shard::current(self);
        for (shard, part) in shards.zip(parts) {
            let mail = mail(part);
            match &current {
                Some(current) if current.index() == shard => {
                    current.handle(mail);
                    current.wake();
                }
                // Refused, it drops its part.
                Some(current) => drop(current.post(shard, mail)),
                None => {
                    if let Err(TrySendError::Disconnected(_)) = mesh.post(shard, mail) {
                        return Err(Error::NotRunning);
                    }
                }
            }
        }
        // Later than this is never.
        let far = Duration::from_secs(365 * 24 * 3_600);
        Ok(gathering.until(Instant::now() + within.min(far), &self.0.deadlines))
    }

    /// A number for a broadcast that is acknowledged; none of the last billion had it.
    pub(crate) fn new_ask(&self) -> u64 {
        let count = self.0.asks.fetch_add(1, Ordering::Relaxed);
        FIRST_ASK + u64::from(count) % FIRST_ASK
    }

    fn post_to(&self, only: Option<u16>, mail: impl Fn() -> Mail) -> Result<(), Error> {
        let mesh = self.0.mesh.get().ok_or(Error::NotRunning)?;
        for shard in among(only, mesh.len() as u16) {
            match mesh.post(shard, mail()) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    mesh.refuse(shard);
                    return Err(Error::Limit("max_mailbox"));
                }
                Err(TrySendError::Disconnected(_)) => {
                    return Err(Error::NotRunning);
                }
            }
        }
        Ok(())
    }
}

/// For an atomic; more than it can hold is for ever, too.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A name as clients say it.
pub(crate) fn with_slash(name: &str) -> Arc<str> {
    if name.starts_with('/') { name.into() } else { format!("/{name}").into() }
}

/// Gives the namespaces their ids.
fn number(namespaces: Vec<(Arc<str>, Handlers)>) -> Vec<NamespaceSpec> {
    let spec = |(id, (name, handlers)): (usize, (Arc<str>, Handlers))| NamespaceSpec {
        id: id as NamespaceId,
        name,
        handlers: Arc::new(handlers),
        parent: None,
    };
    namespaces.into_iter().enumerate().map(spec).collect()
}

fn freeze_parents(parents: Vec<(Matcher, Handlers)>) -> Vec<ParentSpec> {
    let spec = |(matcher, handlers)| ParentSpec { matcher, handlers: Arc::new(handlers) };
    parents.into_iter().map(spec).collect()
}

/// A server that listens. Dropping it does not stop the server, only the reports of handlers that
/// block.
pub struct Running {
    server: Server,
    addresses: Vec<SocketAddr>,
    executors: Vec<Executor>,
    _watch: Watch,
}

impl Running {
    /// Where it listens, with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Shuts the server down and waits until all shards have ended (`io.close()`); see
    /// [`Server::shutdown`].
    ///
    /// # Errors
    /// As [`Running::join`].
    pub fn close(self) -> Result<(), Error> {
        self.server.shutdown();
        self.join()
    }

    /// Waits until the server was shut down and all shards have ended.
    ///
    /// # Errors
    /// [`Error::Io`] if a shard's thread has ended in another way.
    pub fn join(self) -> Result<(), Error> {
        // All are waited for, whatever one of them answers.
        self.executors.into_iter().map(join).fold(Ok(()), Result::and)
    }
}

/// All of `shards`, or the one that is meant.
pub(crate) fn among(only: Option<u16>, shards: u16) -> std::ops::Range<u16> {
    only.filter(|only| *only < shards).map_or(0..shards, |only| only..only + 1)
}

/// A shard's thread and what it ends with.
type Executor = ExecutorJoinHandle<std::io::Result<()>>;

fn join(executor: Executor) -> Result<(), Error> {
    match executor.join() {
        Ok(result) => Ok(result?),
        Err(error) => Err(Error::Io(std::io::Error::other(format!("a shard: {error}")))),
    }
}

/// What all hubs know about where clients come from.
fn entrance(options: &Options, gate: Arc<Gate>) -> Entrance {
    Entrance {
        gate,
        bounds: Bounds {
            connections: options.max_total_connections,
            per_ip: options.max_connections_per_ip,
            handshakes: options.max_handshakes_per_ip,
        },
        proxies: options.trusted_proxies.as_slice().into(),
        forwarded: options.forwarded,
    }
}

/// What a hub is told.
pub(crate) fn hub_config(spec: &Spec, options: &Options, shard: u16) -> Config {
    let ms = |duration: Duration| duration.as_millis() as u64;
    let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Config {
        shard,
        shards: spec.shards,
        path: options.request_path(),
        polling: options.polling,
        websocket: options.websocket,
        allow_eio3: options.allow_eio3,
        jsonp: options.jsonp,
        http_compression: options.http_compression,
        requests: Requests {
            allow_upgrades: options.allow_upgrades,
            keep_alive_ms: ms(options.keep_alive_timeout),
            hook_timeout_ms: ms(options.hook_timeout),
            cors: options.cors.clone(),
            cookie: options.cookie.clone(),
            initial_packet: options.initial_packet.clone(),
            hooks: spec.hooks.asked(),
            directory: spec.directory.clone(),
        },
        parser: options.parser.clone(),
        // Checked when the server was made.
        limits: options.limits().unwrap_or_else(|_| unreachable!("checked options")),
        deflate: options.deflate_settings(),
        ping_interval_ms: ms(options.ping_interval),
        ping_timeout_ms: ms(options.ping_timeout),
        upgrade_timeout_ms: ms(options.upgrade_timeout),
        connect_timeout_ms: ms(options.connect_timeout),
        head_timeout_ms: ms(options.head_timeout),
        body_timeout_ms: ms(options.body_timeout),
        queue_bytes_max: options.max_queue_bytes,
        shard_queue_bytes_max: options.max_shard_queue_bytes,
        shard_incoming_bytes_max: options.shard_incoming_bytes(),
        slow_reader: options.slow_reader,
        connections_max: options.max_connections,
        entrance: entrance(options, spec.entrance.gate.clone()),
        namespaces_max: options.max_namespaces,
        rooms_max: options.max_rooms,
        acks_max: options.max_pending_acks,
        gather_bytes_max: options.max_gather_bytes,
        recovery: options.connection_state_recovery,
        retain_handshake: options.retain_handshake,
        epoch_ms: ms(epoch),
    }
}

fn new_hub(spec: &Spec, shard: u16) -> Hub {
    let options = &spec.options;
    let config = hub_config(spec, options, shard);
    let mut hub = Hub::new(config, Secrets::new(Box::new(fill_random)));
    for namespace in &spec.namespaces {
        let id = hub.add_namespace(&namespace.name);
        hub.set_traits(id, namespace.traits(false));
    }
    for endpoint in &spec.endpoints {
        let EndpointSpec { path, options: own, .. } = endpoint;
        let message = own.max_message_size.unwrap_or(options.max_http_buffer_size);
        hub.add_endpoint(hub::Endpoint {
            path: (**path).into(),
            // A queue counts its bytes in 32 bits.
            message_bytes_max: message.min(1 << 30),
            fragments_max: own.max_fragments.unwrap_or(Limits::FRAGMENTS),
            queue_bytes_max: own.max_queue_bytes.unwrap_or(options.max_queue_bytes).min(1 << 30),
        });
    }
    let shared: HashMap<&str, &StaticFile> =
        spec.files.iter().map(|(path, file)| (path.as_str(), file)).collect();
    for (path, file) in shared {
        hub.add_file(path, file.clone().into());
    }
    hub
}

/// The system's CSPRNG. Ids that could be guessed would be worse than none, so its failure, which
/// no supported kernel knows after boot, ends the process.
fn fill_random(bytes: &mut [u8]) {
    if let Err(error) = getrandom::fill(bytes) {
        panic!("the system has no random numbers: {error}");
    }
}
