//! Backends that are Socket.IO clients themselves, in a namespace of their own.
//!
//! ```text
//!   event ──▶ Workers ──▶ Group: those of one name share ──▶ worker ──▶ ack ──▶ client
//!                           ▲ again, if it has gone before its ack │
//!                           └──────────────────────────────────────┘
//!   worker ── command, commands, emit, join, leave, … ──▶ Command ──▶ rooms, clients
//! ```

mod admission;
mod commands;
mod group;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::config::units::{Size, Time};
use super::routes::Refusal;
use super::secret::Secret;
use super::seldom::Seldom;
use super::state::{State, User};
use super::webhooks::{Gone, Happened, Happening, Kind, Outcome};
use super::webhooks::{about, append, append_event, new_id};
use crate::visit::spawn_here;
use crate::{Error, Event, Raw, Reason, Socket};

pub(crate) use admission::Keys;
use admission::{Wanted, Worker};
use group::{Group, Work};

/// Names under which workers of one key share their work, at a time. Each gets every event.
const GROUPS_MAX: usize = 64;
/// Between two looks at what is awaited.
const STEP: Duration = Duration::from_millis(20);

/// The namespace of workers: backends that connect with any Socket.IO client and a key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Its name. Default: `/workers`. Not reloaded.
    pub namespace: String,
    /// Networks that workers may come from. Default: all.
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<IpNet>,
    /// How long a worker has to acknowledge an event, the time in which the event waits for it
    /// included; for so long, events also wait for a group whose last worker has gone. One that
    /// acknowledges nothing of what it has for half of that is passed over while others are there,
    /// and they get what it has. At most 1h. Default: 10s.
    pub timeout: Time,
    /// Events that one worker has not acknowledged yet, at most, up to 1000. Default: 100.
    pub in_flight: usize,
    /// Events of one group that have not been acknowledged, at most, and a sixteenth of that, or
    /// 64, of one client. Default: 10000; more are refused.
    pub queue: usize,
    /// Bytes of these, and a sixteenth of that, or 256KiB, of one client. Default: 32MiB.
    pub queue_bytes: Size,
    /// Who may connect. Default: nobody, and the namespace does not exist.
    #[serde(rename = "key")]
    pub keys: Vec<Key>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            namespace: "/workers".into(),
            allow: Vec::new(),
            timeout: Time::secs(10),
            in_flight: 100,
            queue: 10_000,
            queue_bytes: Size(32 << 20),
            keys: Vec::new(),
        }
    }
}

/// Who may connect as a worker.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Key {
    /// What logs and metrics call it. Required. Two keys may have one name, such as the old one and
    /// the new one while they change, if they permit the same.
    pub name: String,
    /// The key, at least 16 characters.
    pub key: Option<Secret>,
    /// File with the key.
    pub key_file: Option<PathBuf>,
    /// SHA-256 of the key in hexadecimal digits, so that the file holds no secret.
    pub sha256: Option<String>,
    /// Namespaces whose events it may have, and in which it may act. Default: all.
    pub namespaces: Vec<String>,
    /// What it may do. Default: everything.
    pub actions: Vec<Action>,
}

/// What a worker may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Get events, and be told of other happenings.
    Events,
    /// Send events.
    Emit,
    /// Make sockets join rooms.
    Join,
    /// Make sockets leave rooms.
    Leave,
    /// Disconnect sockets.
    Disconnect,
    /// Replace what is kept with sockets.
    SetData,
}

/// Those that are connected, by the name of their key and their own.
#[derive(Default)]
pub(crate) struct Workers {
    groups: Mutex<HashMap<GroupName, Arc<Group>>>,
    /// Those that were not let in, and events that nobody wanted.
    refusals: Seldom,
    losses: Seldom,
}

type GroupName = (Arc<str>, Arc<str>);

/// A group, for metrics.
#[derive(Debug, Clone)]
pub(crate) struct Gauges {
    pub(crate) key: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) workers: usize,
    /// Events that were not acknowledged yet.
    pub(crate) waiting: usize,
}

/// Serves the namespace; before the server listens.
pub(crate) fn register(state: &Arc<State>) {
    let name = state.rules().config.workers.namespace.clone();
    let (admitting, working, leaving, acting) =
        (state.clone(), state.clone(), state.clone(), state.clone());
    state
        .server
        .of(&name)
        .middleware(move |socket: Socket| {
            let admitted = admission::admit(&admitting, &socket);
            async move { admitted }
        })
        .on_connect(move |socket: Socket| {
            let state = working.clone();
            async move { work(&state, &socket).await }
        })
        .on_any(move |socket: Socket, event: Event| {
            let state = acting.clone();
            async move { commands::obey(&state, &socket, &event).await }
        })
        .on_disconnect(move |socket: Socket, _: Reason| {
            if let Some(worker) = socket.get::<Worker>() {
                let (state, group, id) = (leaving.clone(), worker.group(), socket.id().to_owned());
                leaving.spawn(async move { state.workers.leave(&state, &group, &id) });
            }
            async {}
        });
}

/// Brings a worker what its group has for it, until it goes.
async fn work(state: &Arc<State>, socket: &Socket) {
    let Some(worker) = socket.get::<Worker>() else { return };
    let (sender, mut works) = mpsc::unbounded_channel();
    let id: Arc<str> = socket.id().into();
    let (joining, who) = (state.clone(), Worker::clone(&worker));
    let own = id.clone();
    state.spawn(async move { joining.workers.join(&joining, own, who, sender) });
    drop(worker);
    while let Some(work) = works.recv().await {
        let Work { group, number, event, args, within } = work;
        let asked = socket.timeout(within).emit_with_ack(event, args);
        let (state, id) = (state.clone(), id.clone());
        // Others do not wait for its answer.
        spawn_here(async move {
            // One that has gone is dealt with where that is noticed.
            if let Ok(answer) = asked.await {
                let state_of_task = state.clone();
                state.spawn(async move { group.answered(&state_of_task, &id, number, answer) });
            }
        });
    }
}

impl Workers {
    fn lock(&self) -> MutexGuard<'_, HashMap<GroupName, Arc<Group>>> {
        self.groups.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn join(
        &self,
        state: &Arc<State>,
        id: Arc<str>,
        worker: Worker,
        sender: mpsc::UnboundedSender<Work>,
    ) {
        let (name, timeout) = (worker.group(), state.rules().config.workers.timeout.0);
        let mut groups = self.lock();
        groups.retain(|_, group| group.is_needed(timeout));
        let group = groups.entry(name.clone());
        let group = group.or_insert_with(|| Arc::new(Group::new(name.clone()))).clone();
        drop(groups);
        group.join(state, id.clone(), worker.clone(), sender);
        tracing::info!(key = &*name.0, name = &*name.1, id = &*id, "a worker has come");
        // A reload may have come between.
        if !worker.is_permitted(&state.rules()) {
            state.spawn(close(state.clone(), vec![id]));
        }
    }

    fn leave(&self, state: &Arc<State>, name: &GroupName, id: &str) {
        let group = self.lock().get(name).cloned();
        if let Some(group) = group {
            tracing::info!(key = &*name.0, name = &*name.1, id, "a worker has gone");
            group.leave(state, id);
        }
    }

    /// Whether a key has room for a group of that name.
    fn has_room(&self, (key, name): &GroupName, timeout: Duration) -> bool {
        let groups = self.lock();
        let others = groups.iter().filter(|((of, other), _)| of == key && other != name);
        others.filter(|(_, group)| group.is_needed(timeout)).count() < GROUPS_MAX
    }

    /// Closes the connections of workers that would not be let in any more as what they are, since
    /// a key was changed or taken away. They come back by themselves, if they may.
    pub(crate) fn check(&self, state: &Arc<State>) {
        let (rules, groups) = (state.rules(), self.all());
        let strangers = groups.iter().flat_map(|group| group.strangers(&rules));
        let strangers: Vec<_> = strangers.collect();
        if !strangers.is_empty() {
            tracing::info!(count = strangers.len(), "workers are closed, as keys have changed");
            state.spawn(close(state.clone(), strangers));
        }
    }

    fn all(&self) -> Vec<Arc<Group>> {
        self.lock().values().cloned().collect()
    }

    /// The groups that want something of a namespace.
    fn wanting(&self, state: &State, wants: impl Fn(&Wanted) -> bool) -> Vec<Arc<Group>> {
        let rules = state.rules();
        let timeout = rules.config.workers.timeout.0;
        let groups = self.lock();
        let known = groups.iter().filter(|((key, _), _)| rules.workers.has_name(key));
        let there = known.map(|(_, group)| group).filter(|group| group.is_there(timeout));
        there.filter(|group| group.wants(&wants)).cloned().collect()
    }

    /// Brings an event to one worker of each group that wants it. The answer that comes first is
    /// for the client's ack.
    ///
    /// # Errors
    /// No worker is there, or none has answered.
    pub(crate) async fn event(
        &self,
        state: &Arc<State>,
        happened: Happened,
    ) -> Result<Option<Raw>, Refusal> {
        let wants = |wanted: &Wanted| {
            wanted.namespace(&happened.namespace) && wanted.event(&happened.event)
        };
        let groups = self.wanting(state, wants);
        if groups.is_empty() {
            state.metrics.work("", Outcome::BackendDown);
            if let Some(lost) = self.losses.count() {
                tracing::warn!(lost, "no worker is connected that wants an event");
            }
            let message = "no worker is connected that wants the event".into();
            return Err(Refusal { code: "backend_unavailable", message });
        }
        let Happened { namespace, id: socket, user, args, wants_ack, .. } = &happened;
        let mut json = about(Kind::Event, &new_id(), namespace, socket, user);
        append_event(&mut json, &happened);
        let raw = Raw { json: json.into(), attachments: args.attachments.clone() };
        let lane: Arc<str> = socket.as_str().into();
        let (sender, mut answers) = mpsc::unbounded_channel();
        let mut taken = Err(Outcome::BackendDown);
        for group in groups {
            let waiter = wants_ack.then(|| sender.clone());
            let given = group.give(state, "event", lane.clone(), raw.clone(), waiter);
            taken = taken.or(given);
        }
        drop(sender);
        taken.map_err(Outcome::refusal)?;
        if !wants_ack {
            return Ok(None);
        }
        let mut last = Outcome::ShutDown;
        while let Some(answer) = answers.recv().await {
            match answer {
                Ok(answer) => return Ok(Some(answer)),
                Err(outcome) => last = outcome,
            }
        }
        Err(last.refusal())
    }

    /// Tells those who want to know that a client has connected. Never waits.
    pub(crate) fn connected(&self, state: &Arc<State>, namespace: &str, id: &str, user: &User) {
        let json = about(Kind::Connect, &new_id(), namespace, id, user);
        self.tell(state, Happening::Connect, namespace, id, json);
    }

    /// Tells those who want to know that a client has gone. Never waits.
    pub(crate) fn disconnected(&self, state: &Arc<State>, gone: &Gone) {
        let mut json = about(Kind::Disconnect, &new_id(), &gone.namespace, &gone.id, &gone.user);
        append(&mut json, "reason", &gone.reason.as_str());
        self.tell(state, Happening::Disconnect, &gone.namespace, &gone.id, json);
    }

    /// Tells those who want to know that a room has got its first socket, or lost its last.
    pub(crate) fn room(&self, state: &Arc<State>, namespace: &str, room: &str, is_occupied: bool) {
        let (happening, kind) = match is_occupied {
            true => (Happening::RoomOccupied, Kind::RoomOccupied),
            false => (Happening::RoomVacated, Kind::RoomVacated),
        };
        let (what, id) = (kind.as_str(), new_id());
        let json = json!({ "type": what, "id": id, "namespace": namespace, "room": room });
        let mut json = json.to_string().into_bytes();
        json.pop();
        self.tell(state, happening, namespace, room, json);
    }

    fn tell(
        &self,
        state: &Arc<State>,
        happening: Happening,
        namespace: &str,
        subject: &str,
        json: Vec<u8>,
    ) {
        let wants = |wanted: &Wanted| wanted.happening(happening, namespace);
        let raw = Raw { json: json.into(), ..Raw::default() };
        for group in self.wanting(state, wants) {
            // That it is lost was counted.
            let _ = group.give(state, "happening", subject.into(), raw.clone(), None);
        }
    }

    /// How each group is doing.
    pub(crate) fn gauges(&self) -> Vec<Gauges> {
        self.all().iter().map(|group| group.gauges()).collect()
    }

    /// Waits until workers have nothing to do any more, or until then.
    pub(crate) async fn settle(&self, until: Instant) {
        while Instant::now() < until && self.all().iter().any(|group| group.is_busy()) {
            tokio::time::sleep(STEP).await;
        }
    }

    /// Gives up what workers have not acknowledged: the gateway ends.
    pub(crate) fn give_up(&self, state: &State) {
        self.all().iter().for_each(|group| group.give_up(state));
    }
}

/// Closes the connections of some workers.
async fn close(state: Arc<State>, ids: Vec<Arc<str>>) {
    let Some(namespace) = state.server.namespace(&state.rules().config.workers.namespace) else {
        return;
    };
    let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
    // A shard may have too much mail at the moment.
    while let Err(Error::Limit(_)) = namespace.to(ids.clone()).close_connections() {
        tokio::time::sleep(STEP).await;
    }
}
