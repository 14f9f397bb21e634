//! What all parts of the gateway share.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::api::Callers;
use super::auth;
pub(crate) use super::auth::User;
use super::config::Config;
use super::life::Life;
use super::metrics::Metrics;
use super::occupancy::Occupancy;
use super::{clients, data_port, drain, limits, routes, webhooks, workers};
use crate::{Port, Server, Tls};

/// One gateway, for as long as it runs.
pub(crate) struct State {
    pub(crate) server: Server,
    /// What the configuration says now; see [`State::rules`].
    rules: ArcSwap<Rules>,
    pub(crate) metrics: Metrics,
    pub(crate) workers: workers::Workers,
    /// Reload and drain.
    pub(crate) life: Life,
    pub(crate) occupancy: Occupancy,
    /// When whose token expires.
    pub(crate) expiries: auth::Expiries,
    /// How much users may send.
    pub(crate) users: limits::Users,
    /// How much clients may send.
    pub(crate) sessions: limits::Sessions,
    /// What the ports speak that speak TLS.
    pub(crate) tls: Option<Tls>,
    /// The control thread.
    control: Handle,
}

/// The configuration made ready for use. Never changed, only swapped as a whole.
pub(crate) struct Rules {
    pub(crate) config: Config,
    pub(crate) namespaces: HashMap<Box<str>, Arc<NamespaceRules>>,
    pub(crate) webhooks: webhooks::Webhooks,
    /// Who may connect as a worker.
    pub(crate) workers: workers::Keys,
    pub(crate) limits: limits::Limits,
    /// Who may use the API.
    pub(crate) callers: Callers,
    /// Pages that may connect to any namespace.
    pub(crate) origins: auth::Origins,
    /// Where to listen; those of the start are listened on.
    pub(crate) ports: Vec<Port>,
}

/// What holds in one namespace.
pub(crate) struct NamespaceRules {
    pub(crate) name: Box<str>,
    pub(crate) auth: Arc<auth::Verifier>,
    pub(crate) routes: routes::Table,
    /// Largest event, in bytes.
    pub(crate) max_payload: Option<usize>,
    /// Counts its events.
    events: OnceLock<Counter>,
}

impl NamespaceRules {
    /// Counts an event of a client.
    pub(crate) fn count_event(&self, metrics: &Metrics) {
        self.events.get_or_init(|| metrics.events_of(&self.name)).inc();
    }
}

/// The room of all sockets of a user; no client event can join or leave it.
pub(crate) fn user_room(user: &str) -> String {
    format!("user:{user}")
}

/// Names of events that clients take for the gateway's, or it for itself.
fn own_events<'a>(config: &'a Config, auth: &'a auth::Verifier) -> Vec<&'a str> {
    let own = [drain::EVENT, clients::REMOVED, &config.limits.event];
    let own = auth.own_events().into_iter().chain(own);
    own.filter(|event| !event.is_empty()).collect()
}

impl Rules {
    /// Makes a configuration ready.
    ///
    /// # Errors
    /// All in it that cannot work, each on a line that begins with its key.
    pub(crate) fn new(config: Config) -> Result<Rules, String> {
        let mut wrong = Vec::new();
        let namespaces = namespaces(&config, &mut wrong);
        let origins = namespaces.values().map(|rules| &rules.auth.origins);
        let origins = origins.cloned().reduce(|one, other| one.or(&other)).unwrap_or_default();
        if namespaces.contains_key(&*config.workers.namespace) {
            wrong.push("workers.namespace: clients have a namespace of that name".into());
        }
        let is_bound = |rules: &Arc<NamespaceRules>| !rules.auth.origins.is_open();
        if !config.server.retain_handshake && namespaces.values().any(is_bound) {
            let why = "auth.origins is looked at whenever a client joins a namespace";
            wrong.push(format!("server.retain_handshake: has to be true, as {why}"));
        }
        let webhooks = keep(webhooks::Webhooks::new(&config.webhooks), &mut wrong);
        let workers = keep(workers::Keys::new(&config.workers), &mut wrong);
        let limits = keep(limits::Limits::new(&config.limits), &mut wrong);
        let callers = keep(config.api.callers(), &mut wrong);
        let ports = keep(data_port::ports(&config.server), &mut wrong);
        match (webhooks, workers, limits, callers, ports) {
            (Some(webhooks), Some(workers), Some(limits), Some(callers), Some(ports))
                if wrong.is_empty() =>
            {
                Ok(Rules { config, namespaces, webhooks, workers, limits, callers, origins, ports })
            }
            _ => Err(wrong.join("\n")),
        }
    }

    /// What a reload cannot change, and is asked for while it runs, stays what it was.
    ///
    /// # Errors
    /// The new configuration uses it otherwise.
    pub(crate) fn keep_fixed(&mut self, running: &Config) -> Result<(), String> {
        let name = &running.workers.namespace;
        if self.namespaces.contains_key(&**name) {
            let problem = format!("workers.namespace: it is \"{name}\" until a restart, and ");
            return Err(problem + "clients have a namespace of that name");
        }
        self.config.workers.namespace = name.clone();
        // Whether keys are needed depends on where it listens, not on where it is to.
        self.config.api.listen = running.api.listen;
        self.callers = self.config.api.callers()?;
        Ok(())
    }

    fn tls(&self) -> Option<Tls> {
        self.ports.iter().find_map(|port| port.tls.clone())
    }
}

/// What was made, or one more thing that is wrong.
fn keep<T>(made: Result<T, String>, wrong: &mut Vec<String>) -> Option<T> {
    made.map_err(|error| wrong.push(error)).ok()
}

fn namespaces(config: &Config, wrong: &mut Vec<String>) -> HashMap<Box<str>, Arc<NamespaceRules>> {
    let shared = keep(auth::Verifier::new(&config.auth).map(Arc::new), wrong);
    let mut made: HashMap<Box<str>, Arc<NamespaceRules>> = HashMap::new();
    for (at, namespace) in config.namespaces.iter().enumerate() {
        let name: Box<str> = namespace.name.as_str().into();
        // Each of several lines names its own key.
        let inside = |errors: &str| -> Vec<String> {
            errors.lines().map(|error| format!("namespace[{at}].{error}")).collect()
        };
        if !name.starts_with('/') {
            wrong.extend(inside("name: it has to begin with /"));
        }
        if made.contains_key(&name) {
            wrong.extend(inside(&format!("name: \"{name}\" is there twice")));
        }
        for problem in routes::unknown_backends(&namespace.routes, config) {
            wrong.extend(inside(&problem));
        }
        let own = namespace.auth.as_ref().map(|own| auth::Verifier::new(own).map(Arc::new));
        let own = own.transpose().map_err(|error| wrong.extend(inside(&error)));
        let table = routes::Table::new(&name, &namespace.routes, namespace.unknown);
        let table = table.map_err(|error| wrong.extend(inside(&error)));
        let (Ok(own), Ok(table)) = (own, table) else { continue };
        let is_own = own.is_some();
        let Some(auth) = own.or_else(|| shared.clone()) else { continue };
        if auth.is_closed_without_key() && !webhooks::decide(&config.webhooks, &name) {
            let problem = "auth.anonymous: there is no auth.key and no connect webhook, so \
                           everybody is let in";
            let problem = if is_own { inside(problem) } else { vec![problem.into()] };
            wrong.extend(problem);
        }
        let events = own_events(config, &auth);
        let table = table.without(&events, auth.refresh_event(), &namespace.routes);
        let table = table.map_err(|error| wrong.extend(inside(&error)));
        let Ok(routes) = table else { continue };
        let rules = NamespaceRules {
            name: name.clone(),
            auth,
            routes,
            max_payload: namespace.max_payload.map(|size| size.0),
            events: OnceLock::new(),
        };
        made.insert(name, Arc::new(rules));
    }
    made
}

impl State {
    pub(crate) fn new(server: Server, rules: Rules, control: Handle) -> Arc<State> {
        let workers = workers::Workers::default();
        let metrics = Metrics::new();
        let (life, occupancy, expiries, users, sessions) = Default::default();
        let tls = rules.tls();
        let rules = ArcSwap::from_pointee(rules);
        Arc::new(State {
            server,
            rules,
            metrics,
            workers,
            life,
            occupancy,
            expiries,
            users,
            sessions,
            tls,
            control,
        })
    }

    /// Whether new clients are let in.
    pub(crate) fn is_accepting(&self) -> bool {
        !self.life.is_draining() && !self.server.is_stopping()
    }

    /// What holds now. Costs two atomic operations; keep it no longer than one event.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Lets other rules hold from now on. What waits for a webhook goes on waiting.
    pub(crate) fn replace_rules(self: &Arc<State>, mut rules: Rules) {
        if let (Some(tls), Some(new)) = (&self.tls, rules.tls()) {
            tls.replace(&new);
        }
        rules.webhooks.inherit(&self.rules().webhooks);
        let old = self.rules.swap(Arc::new(rules));
        let now = self.rules();
        let is_same = |old: &NamespaceRules| {
            let new = now.namespaces.get(&old.name);
            new.is_none_or(|new| new.auth.is_same(&old.auth))
        };
        if !old.namespaces.values().all(|rules| is_same(rules)) {
            self.spawn(auth::follow_all(self.clone()));
        }
        self.workers.check(self);
    }

    /// Runs a job on the control thread and awaits its result, on a shard or anywhere else. `None`:
    /// the gateway is being shut down.
    pub(crate) async fn on_control<T: Send + 'static>(
        &self,
        job: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.control.spawn(async move {
            let _ = sender.send(job.await);
        });
        receiver.await.ok()
    }

    /// Waits until webhooks have been told what is still to be told, or for the time that is left
    /// for it, and gives up the rest: the gateway ends. Blocks.
    pub(crate) fn finish(self: &Arc<State>) {
        let (sender, receiver) = std::sync::mpsc::channel();
        let state = self.clone();
        self.spawn(async move {
            state.occupancy.tell_now(&state);
            let rules = state.rules();
            let until = state.life.backends_until(rules.config.drain.backends.0);
            let within = until.saturating_duration_since(Instant::now());
            rules.webhooks.finish(&state, within).await;
            state.workers.give_up(&state);
            let _ = sender.send(());
        });
        let _ = receiver.recv();
    }

    /// Runs a job on the control thread, whatever comes of it.
    pub(crate) fn spawn(&self, job: impl Future<Output = ()> + Send + 'static) {
        self.control.spawn(job);
    }
}
