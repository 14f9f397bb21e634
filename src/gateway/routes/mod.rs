//! What becomes of client events: one table for each namespace, looked up by the name of the event.

pub(crate) mod path;
mod schema;
pub(crate) mod template;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::schema::Schema;
use self::template::{Context, Json, Template, fill_all};
use super::config::units::Size;
use super::limits::{self, Rate};
use super::state::{NamespaceRules, State, User};
use super::webhooks::Happened;
use crate::attach::attach;
use crate::emit::check_name;
use crate::visit::may_be_socket;
use crate::{Error, Event, Raw, Reason, Socket};

/// Longest name of a room that a client event may name, in bytes.
const ROOM_BYTES_MAX: usize = 255;
/// What the room of a user begins with.
const USER_ROOMS: &str = "user:";
/// What happens when a client goes.
const DISCONNECTING: &str = "disconnecting";

/// One route: which event, and what to do with it. Several of the same event are followed in the
/// order of the file, until one refuses it. Texts may have places: `{user}`, `{socket}`,
/// `{namespace}`, `{event}`, `{time}` (milliseconds since 1970), `{args[0].key}`, `{claims.key}`;
/// `{{` and `}}` are braces.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the event. `prefix*` stands for all that begin so, `*` for all; the routes of the
    /// exact name come first, then those of the longest prefix. `disconnecting` is what happens
    /// when a client goes: its argument is the reason, its rooms are still set, and no client can
    /// send it.
    pub event: String,
    /// What to do.
    pub r#do: Action,
    /// The room of `room`, `join` and `leave`: a place such as `args[0].room` or `claims.team`, or
    /// a text with places such as `doc:{args[0].id}`. What the client has sent has no `:` beside
    /// other text. For `room` also `rooms`: all that the sender is in, but its own and its user's.
    pub to: Option<String>,
    /// Whether `broadcast` and `room` reach the sender too. Default: true.
    #[serde(default = "yes")]
    pub sender: bool,
    /// Whether only who is in the room may send to it, for `room`. Default: true. Without it, a
    /// client that names the room reaches any, also a socket by its id.
    #[serde(default = "yes")]
    pub member: bool,
    /// Name that the event has for its receivers. Default: as it came.
    pub rename: Option<String>,
    /// The arguments that its receivers get, any JSON with places; a text that is one place and
    /// nothing else becomes the value itself. Default: all, byte for byte as they came.
    pub args: Option<Vec<Value>>,
    /// What a client that asks for an answer gets, any JSON with places. Default: `{ok: true}`, or
    /// what the backend says.
    pub ack: Option<Value>,
    /// Name of the webhook, for `webhook`.
    pub webhook: Option<String>,
    /// Whether to wait for the backend, whose answer becomes that to the client. Default: true for
    /// `webhook` and `worker` if the client asks for an answer.
    pub wait: Option<bool>,
    /// How often one socket may cause it. Default: any number of times.
    pub rate: Option<Rate>,
    /// Whose events `rate` counts. Default: `socket`.
    #[serde(default)]
    pub per: Per,
    /// JSON Schema of the argument; exactly one is accepted then.
    pub schema: Option<Value>,
    /// A file with the schema in it.
    pub schema_file: Option<PathBuf>,
    /// Largest arguments that a schema is tried on, since that takes a shard's time.
    /// Default: 64KiB.
    pub schema_max_size: Option<Size>,
    /// Permission that the client needs, such as `chat:write`. Default: none. `join` needs
    /// `join:` and the room in any case.
    pub require: Option<String>,
}

fn yes() -> bool {
    true
}

/// What to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// To everyone in the namespace.
    Broadcast,
    /// To everyone in a room.
    Room,
    /// Back to the sender: as its answer, and as an event if `rename` names one.
    Reply,
    /// To a backend over HTTP.
    Webhook,
    /// To one of the workers.
    Worker,
    /// The sender joins a room, which needs the permission `join:` and its name.
    Join,
    /// The sender leaves a room.
    Leave,
    /// Nothing.
    Drop,
}

/// Whose events are counted together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// Those of one socket.
    #[default]
    Socket,
    /// Those of all sockets of a user; of an anonymous client those of the socket.
    User,
}

/// What becomes of events that no route is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// They are counted, and nobody is told.
    #[default]
    Drop,
    /// They are counted, and a client that asks for an answer is told `no_route`.
    Refuse,
}

/// Why nothing was done with an event.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Refusal {
    /// A word for programs.
    pub(crate) code: &'static str,
    /// A sentence for people.
    pub(crate) message: String,
}

impl Refusal {
    fn new(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }
}

/// The routes of one namespace.
#[derive(Debug)]
pub(crate) struct Table {
    exact: HashMap<Box<str>, Vec<Route>>,
    /// The longest first.
    prefixes: Vec<(Box<str>, Vec<Route>)>,
    /// Events that no prefix stands for.
    own: Vec<Box<str>>,
    unknown: Unknown,
}

#[derive(Debug)]
struct Route {
    /// Of the buckets of `rate`: not that of any other route, and the same after a reload.
    id: u64,
    act: Act,
    rename: Option<Box<str>>,
    args: Option<Vec<Json>>,
    ack: Option<Json>,
    rate: Option<Rate>,
    per: Per,
    schema: Option<Schema>,
    require: Option<Template>,
}

#[derive(Debug)]
enum Act {
    Broadcast {
        sender: bool,
    },
    Room {
        to: Template,
        sender: bool,
        member: bool,
    },
    /// All rooms that the sender is in.
    Rooms {
        sender: bool,
    },
    Reply,
    Webhook {
        name: Arc<str>,
        wait: Option<bool>,
    },
    Worker {
        wait: Option<bool>,
    },
    Join(Template),
    Leave(Template),
    Drop,
}

impl Table {
    /// # Errors
    /// Routes that say what cannot be, each on a line that begins with its key.
    pub(crate) fn new(
        namespace: &str,
        routes: &[Config],
        unknown: Unknown,
    ) -> Result<Table, String> {
        let (exact, prefixes, own) = Default::default();
        let mut table = Table { exact, prefixes, own, unknown };
        let mut wrong = Vec::new();
        for (at, config) in routes.iter().enumerate() {
            let alike = routes[..at].iter().filter(|other| other.event == config.event).count();
            match Route::new(config) {
                Ok(mut route) => {
                    let of = (namespace, &config.event, alike, config.per == Per::User);
                    route.id = route.rate.map_or(0, |rate| limits::bucket_id(of, &rate));
                    table.add(&config.event, route);
                }
                Err(error) => wrong.push(format!("route[{at}].{error}")),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        table.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(table)
    }

    /// The same where clients take `own` events for the gateway's, so that no prefix stands for
    /// one, and the event `taken` comes to no route at all.
    ///
    /// # Errors
    /// Routes that send clients such an event, or get none, each on a line that begins with its
    /// key.
    pub(crate) fn without(
        mut self,
        own: &[&str],
        taken: &str,
        routes: &[Config],
    ) -> Result<Table, String> {
        self.own = own.iter().map(|event| Box::from(*event)).collect();
        let wrong = routes.iter().enumerate().filter_map(|(at, config)| {
            if config.event == taken {
                return Some(format!("route[{at}].event: \"{taken}\" comes to no route"));
            }
            let is_sent = matches!(config.r#do, Action::Broadcast | Action::Room);
            let (key, event) = match &config.rename {
                Some(rename) => ("rename", rename),
                None if is_sent => ("event", &config.event),
                None => return None,
            };
            let is_own = own.contains(&event.as_str());
            is_own
                .then(|| format!("route[{at}].{key}: \"{event}\" is an event of the gateway's own"))
        });
        let wrong: Vec<String> = wrong.collect();
        if wrong.is_empty() { Ok(self) } else { Err(wrong.join("\n")) }
    }

    fn add(&mut self, event: &str, route: Route) {
        let Some(prefix) = event.strip_suffix('*') else {
            return self.exact.entry(event.into()).or_default().push(route);
        };
        match self.prefixes.iter_mut().find(|(other, _)| **other == *prefix) {
            Some((_, routes)) => routes.push(route),
            None => self.prefixes.push((prefix.into(), vec![route])),
        }
    }

    /// One look-up by hash, then O(prefixes).
    fn find(&self, event: &str) -> &[Route] {
        if let Some(routes) = self.exact.get(event) {
            return routes;
        }
        if self.own.iter().any(|own| **own == *event) {
            return &[];
        }
        let mut prefixes = self.prefixes.iter();
        prefixes.find(|(prefix, _)| event.starts_with(&**prefix)).map_or(&[], |(_, routes)| routes)
    }
}

/// What is wrong with the backends that routes bring events to, each led by its key.
pub(crate) fn unknown_backends<'a>(
    routes: &'a [Config],
    all: &'a super::config::Config,
) -> impl Iterator<Item = String> + 'a {
    routes.iter().enumerate().filter_map(|(at, route)| {
        let is_known = |name: &str| all.webhooks.iter().any(|webhook| webhook.name == name);
        match &route.webhook {
            Some(name) if !is_known(name) => {
                Some(format!("route[{at}].webhook: there is no \"{name}\""))
            }
            _ if route.r#do == Action::Worker && all.workers.keys.is_empty() => {
                Some(format!("route[{at}].do: no worker can come without a [[workers.key]]"))
            }
            _ => None,
        }
    })
}

impl Route {
    fn new(config: &Config) -> Result<Route, String> {
        check_names(config)?;
        let json = |key: &str, value: &Value| {
            Json::parse(value).map_err(|error| format!("{key}: {error}"))
        };
        let args = config.args.as_ref().map(|args| {
            args.iter().map(|value| json("args", value)).collect::<Result<Vec<_>, _>>()
        });
        let require = config.require.as_deref().map(Template::parse).transpose();
        let bytes_max = config.schema_max_size.map_or(64 * 1024, |size| size.0);
        let file = config.schema_file.as_deref();
        Ok(Route {
            id: 0,
            act: Act::new(config)?,
            rename: config.rename.as_deref().map(Box::from),
            args: args.transpose()?,
            ack: config.ack.as_ref().map(|ack| json("ack", ack)).transpose()?,
            rate: config.rate.map(|rate| rate.check("rate")).transpose()?,
            per: config.per,
            schema: Schema::new(config.schema.as_ref(), file, bytes_max)?,
            require: require.map_err(|error| format!("require: {error}"))?,
        })
    }
}

/// The names of events that a route has.
fn check_names(config: &Config) -> Result<(), String> {
    let name = config.event.strip_suffix('*').unwrap_or(&config.event);
    if name.contains('*') || config.event.is_empty() {
        return Err("event: \"*\" may stand at the end alone".into());
    }
    let is_sent = matches!(config.r#do, Action::Broadcast | Action::Room);
    match (&*config.event, &config.rename) {
        (DISCONNECTING, None) if is_sent => {
            return Err("rename: is needed, \"disconnecting\" cannot be sent".into());
        }
        (DISCONNECTING, _) => {}
        (event, _) => check_name(event).map_err(|error| format!("event: {error}"))?,
    }
    let rename = config.rename.as_deref().map_or(Ok(()), check_name);
    rename.map_err(|error| format!("rename: {error}"))
}

impl Act {
    fn new(config: &Config) -> Result<Act, String> {
        let is_backend = matches!(config.r#do, Action::Webhook | Action::Worker);
        let has_room = matches!(config.r#do, Action::Room | Action::Join | Action::Leave);
        let is_sent = matches!(config.r#do, Action::Broadcast | Action::Room);
        let (is_webhook, is_room) = (config.r#do == Action::Webhook, config.r#do == Action::Room);
        let misplaced = [
            (config.to.is_some() && !has_room, "to: is for room, join and leave"),
            (config.webhook.is_some() && !is_webhook, "webhook: is for webhook"),
            (config.wait.is_some() && !is_backend, "wait: is for webhook and worker"),
            (!config.sender && !is_sent, "sender: is for broadcast and room"),
            (!config.member && !is_room, "member: is for room"),
        ];
        if let Some((_, problem)) = misplaced.into_iter().find(|(is_there, _)| *is_there) {
            return Err(problem.into());
        }
        let to = || {
            let to = config.to.as_deref().ok_or("to: names the room, and is missing")?;
            Template::parse_room(to).map_err(|error| format!("to: {error}"))
        };
        let own = |to: Template| {
            check_template(&to).map_err(|error| format!("to: {error}"))?;
            Ok::<_, String>(to)
        };
        let (sender, wait) = (config.sender, config.wait);
        Ok(match config.r#do {
            Action::Broadcast => Act::Broadcast { sender },
            Action::Room if config.to.as_deref() == Some("rooms") => Act::Rooms { sender },
            Action::Room => Act::Room { to: to()?, sender, member: config.member },
            Action::Reply => Act::Reply,
            Action::Webhook => {
                let name = config.webhook.as_deref().ok_or("webhook: is missing")?;
                Act::Webhook { name: name.into(), wait }
            }
            Action::Worker => Act::Worker { wait },
            Action::Join => Act::Join(own(to()?)?),
            Action::Leave => Act::Leave(own(to()?)?),
            Action::Drop => Act::Drop,
        })
    }
}

/// Whether a client may name this room: by its events, or by its token.
///
/// # Errors
/// `bad_room`: it is empty, too long, has control characters in it, could be the id of a socket, or
/// is that of a user.
pub(crate) fn check_room(room: &str) -> Result<(), Refusal> {
    if may_be_socket(room) {
        let message = "20 letters and digits that begin with A may be the id of a socket";
        return Err(Refusal::new("bad_room", message));
    }
    if room.starts_with(USER_ROOMS) {
        return Err(Refusal::new("bad_room", "the room belongs to a user"));
    }
    check_room_name(room)
}

/// Whether a room of the configuration may be one that clients are in.
///
/// # Errors
/// It never can be.
pub(crate) fn check_template(room: &Template) -> Result<(), String> {
    if room.start().starts_with(USER_ROOMS) {
        return Err("the rooms of users are theirs alone".into());
    }
    room.fixed().map_or(Ok(()), |room| check_room(room).map_err(|refusal| refusal.message))
}

/// The same for a room that is only sent to.
fn check_room_name(room: &str) -> Result<(), Refusal> {
    if room.is_empty() || room.len() > ROOM_BYTES_MAX {
        let message = format!("the name of a room has 1 to {ROOM_BYTES_MAX} bytes");
        return Err(Refusal::new("bad_room", message));
    }
    if room.chars().any(char::is_control) {
        return Err(Refusal::new("bad_room", "the name of a room has no control characters"));
    }
    Ok(())
}

/// One event on its way along its routes.
struct Passage<'a> {
    state: &'a Arc<State>,
    rules: &'a NamespaceRules,
    socket: &'a Socket,
    event: &'a Event,
    raw: &'a Raw,
    user: &'a User,
}

/// Does with an event what its routes say, and answers it.
///
/// # Errors
/// The route that refused it, and those behind it, have done nothing. Codes: `no_route`,
/// `not_allowed`, `bad_arguments`, `too_large`, `rate_limited`, `missing_value`, `bad_room`,
/// `not_in_room`, `room_limit`, `busy`, and what backends say.
pub(crate) async fn run(
    state: &Arc<State>,
    rules: &NamespaceRules,
    socket: &Socket,
    event: &Event,
) -> Result<(), Refusal> {
    let routes = rules.routes.find(event.name());
    if routes.is_empty() {
        let refusal = Refusal::new("no_route", "nothing is done with events of this name");
        if rules.routes.unknown == Unknown::Refuse {
            return Err(refusal);
        }
        state.metrics.refused(&rules.name, &refusal);
        return Ok(());
    }
    let (raw, user) = (event.raw(), socket.get::<User>().unwrap_or_default());
    let passage = Passage { state, rules, socket, event, raw: &raw, user: &user };
    let mut answer = None;
    for route in routes {
        answer = passage.follow(route).await?.or(answer);
    }
    if event.wants_ack() {
        let answer = answer.unwrap_or_else(|| Raw { json: OK.into(), ..Raw::default() });
        let _ = event.ack(answer);
    }
    Ok(())
}

/// Does what the routes of `disconnecting` say.
pub(crate) async fn disconnecting(
    state: &Arc<State>,
    rules: &NamespaceRules,
    socket: &Socket,
    reason: Reason,
) {
    if rules.routes.exact.contains_key(DISCONNECTING) {
        let event = Event::own(socket, DISCONNECTING, reason.as_str());
        if let Err(refusal) = run(state, rules, socket, &event).await {
            state.metrics.refused(&rules.name, &refusal);
        }
    }
}

/// The answer where nobody has another one.
const OK: &str = r#"{"ok":true}"#;

impl Passage<'_> {
    fn context(&self) -> Context<'_> {
        Context {
            namespace: &self.rules.name,
            socket: self.socket.id(),
            user: self.user.id.as_deref(),
            claims: &self.user.claims,
            event: self.event.name(),
            args: self.raw.json(),
        }
    }

    /// Checks, acts, and says what to answer, if anything.
    async fn follow(&self, route: &Route) -> Result<Option<Raw>, Refusal> {
        self.check(route)?;
        let answer = match &route.act {
            Act::Webhook { name, wait } => {
                let name = name.clone();
                self.ask(route, *wait, move |state, happened| async move {
                    let rules = state.rules();
                    rules.webhooks.event(&state, &name, happened).await
                })
                .await?
            }
            Act::Worker { wait } => {
                self.ask(route, *wait, move |state, happened| async move {
                    state.workers.event(&state, happened).await
                })
                .await?
            }
            act => {
                self.act(route, act)?;
                None
            }
        };
        match (&route.ack, answer) {
            (Some(ack), None) if self.event.wants_ack() => Ok(Some(self.fill([ack])?)),
            (_, answer) => Ok(answer),
        }
    }

    fn check(&self, route: &Route) -> Result<(), Refusal> {
        if let Some(rate) = &route.rate {
            let user = self.user.id.as_ref().filter(|_| route.per == Per::User);
            limits::admit_route(self.state, self.socket, user, route.id, rate)?;
        }
        if let Some(permission) = &route.require {
            let permission = permission.fill(&self.context())?;
            if !self.user.permissions.allow(&permission) {
                return Err(Refusal::new("not_allowed", "a permission is missing"));
            }
        }
        route.schema.as_ref().map_or(Ok(()), |schema| schema.check(self.raw))
    }

    /// What can be done at once.
    fn act(&self, route: &Route, act: &Act) -> Result<(), Refusal> {
        let socket = self.socket;
        let namespace = || socket.namespace().broadcast();
        let name = route.rename.as_deref().unwrap_or_else(|| self.event.name());
        let sent = match act {
            Act::Broadcast { sender: true } => namespace().emit(name, self.args(route)?),
            Act::Broadcast { sender: false } => socket.broadcast().emit(name, self.args(route)?),
            Act::Room { to, sender, member } => {
                let room = to.fill(&self.context())?;
                check_room_name(&room)?;
                if *member && !socket.is_in(&room) {
                    return Err(Refusal::new("not_in_room", "only who is in the room may do this"));
                }
                let target = if *sender { namespace() } else { socket.broadcast() };
                target.to(room).emit(name, self.args(route)?)
            }
            Act::Rooms { sender } => {
                let mut rooms = socket.rooms();
                rooms.retain(|room| **room != *socket.id() && !room.starts_with(USER_ROOMS));
                // Without a room it would be for everyone.
                if rooms.is_empty() {
                    return Ok(());
                }
                let target = if *sender { namespace() } else { socket.broadcast() };
                target.to(rooms).emit(name, self.args(route)?)
            }
            Act::Reply if route.rename.is_some() => socket.emit(name, self.args(route)?),
            Act::Join(to) => return self.join(&to.fill(&self.context())?),
            Act::Leave(to) => {
                let room = to.fill(&self.context())?;
                check_room(&room)?;
                socket.leave(room);
                Ok(())
            }
            Act::Reply | Act::Drop | Act::Webhook { .. } | Act::Worker { .. } => Ok(()),
        };
        match sent {
            // Who has gone misses nothing.
            Ok(()) | Err(Error::Disconnected) => Ok(()),
            Err(Error::Json(_) | Error::Parser(_)) => {
                Err(Refusal::new("bad_arguments", "the arguments cannot be passed on"))
            }
            Err(_) => Err(Refusal::new("busy", "try again later")),
        }
    }

    fn join(&self, room: &str) -> Result<(), Refusal> {
        check_room(room)?;
        if !self.user.permissions.allow_join(room) {
            return Err(Refusal::new("not_allowed", "this room may not be joined"));
        }
        if self.socket.is_in(room) {
            return Ok(());
        }
        limits::admit_room(self.state, self.socket)?;
        match self.socket.join(room) || !self.socket.is_connected() {
            true => Ok(()),
            false => Err(limits::room_limit()),
        }
    }

    /// The arguments for the receivers.
    fn args(&self, route: &Route) -> Result<Raw, Refusal> {
        match &route.args {
            None => Ok(self.raw.clone()),
            Some(args) => self.fill(args),
        }
    }

    /// JSON with its places filled, and the attachments that it names.
    fn fill<'j>(&self, items: impl IntoIterator<Item = &'j Json>) -> Result<Raw, Refusal> {
        let mut json = Vec::with_capacity(self.raw.json().len() + 64);
        let refused = || Refusal::new("bad_arguments", "the arguments cannot be passed on");
        fill_all(items, &self.context(), &mut json).map_err(|_| refused())?;
        let mut args = Raw { json: json.into(), ..Raw::default() };
        match attach(&mut args, self.raw.attachments()) {
            true => Ok(args),
            false => Err(refused()),
        }
    }

    /// Brings the event to a backend, and waits for what it says if the client does.
    async fn ask<F>(
        &self,
        route: &Route,
        wait: Option<bool>,
        bring: impl FnOnce(Arc<State>, Happened) -> F + Send + 'static,
    ) -> Result<Option<Raw>, Refusal>
    where
        F: Future<Output = Result<Option<Raw>, Refusal>> + Send + 'static,
    {
        let wants_ack = self.event.wants_ack();
        let is_awaited = wait.unwrap_or(wants_ack);
        let happened = Happened {
            namespace: self.rules.name.to_string(),
            id: self.socket.id().to_owned(),
            user: self.user.clone(),
            event: route.rename.as_deref().unwrap_or_else(|| self.event.name()).to_owned(),
            args: self.args(route)?,
            wants_ack: wants_ack && is_awaited,
        };
        let state = self.state.clone();
        if is_awaited {
            let job = async move { bring(state, happened).await };
            let answer = self.state.on_control(job).await;
            return answer.unwrap_or_else(|| Err(Refusal::new("busy", "shutting down")));
        }
        let namespace = self.rules.name.clone();
        self.state.spawn(async move {
            if let Err(refusal) = bring(state.clone(), happened).await {
                state.metrics.refused(&namespace, &refusal);
            }
        });
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(routes: Value) -> Result<Table, String> {
        let routes: Vec<Config> = serde_json::from_value(routes).map_err(|it| it.to_string())?;
        Table::new("/", &routes, Unknown::Drop)
    }

    #[test]
    fn the_nearest_name_wins() {
        let table = table(json!([
            { "event": "*", "do": "reply", "rename": "0" },
            { "event": "chat:*", "do": "broadcast", "rename": "1" },
            { "event": "chat:typing*", "do": "broadcast", "rename": "2" },
            { "event": "chat:message", "do": "broadcast", "rename": "3" },
            { "event": "chat:message", "do": "broadcast", "rename": "4" },
        ]));
        let table = table.expect("routes");
        let found = |event: &str| -> Vec<&str> {
            table.find(event).iter().filter_map(|route| route.rename.as_deref()).collect()
        };
        assert_eq!(found("x"), ["0"]);
        assert_eq!(found("chat:"), ["1"]);
        assert_eq!(found("chat:typing:x"), ["2"]);
        assert_eq!(found("chat:message"), ["3", "4"]);
        assert_eq!(found("chat:messages"), ["1"]);
    }

    #[test]
    fn routes_that_cannot_work_are_refused_by_key() {
        for (route, start) in [
            (json!({ "event": "a*b", "do": "drop" }), "route[0].event: "),
            (json!({ "event": "", "do": "drop" }), "route[0].event: "),
            (json!({ "event": "disconnect", "do": "drop" }), "route[0].event: "),
            (json!({ "event": "disconnecting", "do": "broadcast" }), "route[0].rename: "),
            (json!({ "event": "a", "do": "room" }), "route[0].to: "),
            (json!({ "event": "a", "do": "room", "to": "{x}" }), "route[0].to: "),
            (json!({ "event": "a", "do": "drop", "to": "b" }), "route[0].to: "),
            (json!({ "event": "a", "do": "drop", "sender": false }), "route[0].sender: "),
            (json!({ "event": "a", "do": "broadcast", "wait": true }), "route[0].wait: "),
            (
                json!({ "event": "a", "do": "join", "to": "b", "member": false }),
                "route[0].member: ",
            ),
            (json!({ "event": "a", "do": "webhook" }), "route[0].webhook: "),
            (json!({ "event": "a", "do": "join", "to": "user:{args[0]}" }), "route[0].to: "),
            (json!({ "event": "a", "do": "leave", "to": "A123456789abcdefGH-_" }), "route[0].to: "),
            (json!({ "event": "a", "do": "broadcast", "rename": "connect" }), "route[0].rename: "),
            (json!({ "event": "a", "do": "drop", "ack": { "x": "{" } }), "route[0].ack: "),
            (json!({ "event": "a", "do": "drop", "schema": { "type": 1 } }), "route[0].schema: "),
            (json!({ "event": "a", "do": "drop", "rate": { "per_second": 0 } }), "route[0].rate: "),
        ] {
            let error = table(json!([route])).expect_err("a bad route");
            assert!(error.starts_with(start), "{route}: {error}");
        }
    }

    #[test]
    fn rooms_of_clients_belong_to_them() {
        for room in ["", "user:ada", "user:", "a\n", "A123456789abcdefGH-_", &"x".repeat(256)] {
            assert_eq!(check_room(room).expect_err(room).code, "bad_room");
        }
        for room in [
            "a",
            "users:ada",
            "A123456789abcdefGH:_",
            "A123456789abcdefGH-",
            "notifications-global",
            "ü🎉",
            &"x".repeat(255),
        ] {
            assert!(check_room(room).is_ok(), "{room}");
        }
    }

    #[test]
    fn events_of_the_gateway_are_its_own() {
        let own = |routes: Value| -> Result<Table, String> {
            let list: Vec<Config> = serde_json::from_value(routes.clone()).expect("routes");
            table(routes)?.without(&["drain", "auth:expired"], "renew", &list)
        };
        let table = own(json!([
            { "event": "*", "do": "broadcast" },
            { "event": "auth:*", "do": "broadcast" },
            { "event": "drain", "do": "drop" },
        ]));
        let table = table.expect("routes");
        let found = ["x", "auth:x", "auth:expired", "drain"].map(|event| table.find(event).len());
        assert_eq!(found, [1, 1, 0, 1]);
        for (route, start) in [
            (json!({ "event": "renew", "do": "drop" }), "route[0].event: "),
            (json!({ "event": "drain", "do": "broadcast" }), "route[0].event: "),
            (json!({ "event": "auth:expired", "do": "room", "to": "a" }), "route[0].event: "),
            (json!({ "event": "x", "do": "reply", "rename": "drain" }), "route[0].rename: "),
        ] {
            let error = own(json!([route])).expect_err("its own");
            assert!(error.starts_with(start), "{route}: {error}");
        }
    }
}
