//! What a backend may ask for, whichever way it comes: by the HTTP API, or as a worker.
//!
//! A command is one flat JSON object. Arguments stay the text that they are: what a backend sends
//! is checked to be JSON once and then goes to clients byte for byte.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tracing::Instrument;

use super::state::{State, user_room};
use super::trace;
use crate::visit::{Visited, check_json};
use crate::{Broadcast, Error, Namespace, Raw, Unanswered};

/// Rooms, ids and the like in one command.
const NAMES_MAX: usize = 10_000;
/// Deepest nesting of arguments and data, as that of many readers of JSON.
const DEPTH_MAX: usize = 128;
/// Longest wait for acknowledgements.
const TIMEOUT_MS_MAX: u64 = 300_000;

/// Whom a command concerns: the union of rooms, sockets and users, without those in `except`; all
/// of the namespace if none of the three is given. Lists that are given and empty are nobody.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Target {
    /// Namespace. Default: `/`.
    pub(crate) namespace: Option<String>,
    /// Rooms.
    pub(crate) rooms: Vec<String>,
    /// Ids of sockets.
    pub(crate) sockets: Vec<String>,
    /// Ids of users.
    pub(crate) users: Vec<String>,
    /// Rooms, or ids of sockets, that are left out.
    pub(crate) except: Vec<String>,
    /// All lists that were given are empty.
    #[serde(skip)]
    pub(crate) is_nobody: bool,
}

impl Target {
    /// The name of the namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("/")
    }

    /// The selection as the library knows it.
    ///
    /// # Errors
    /// There is no such namespace.
    pub(crate) fn select(&self, state: &State) -> Result<Broadcast, Problem> {
        let all = find(state, self.namespace())?.broadcast();
        if self.is_nobody {
            // Those in a room, without those in it.
            return Ok(all.among(["nobody"].into_iter(), ["nobody"].into_iter()));
        }
        let lists = (&*self.sockets, &*self.rooms, &*self.users, &*self.except);
        if let ([id], [], [], []) = lists
            && let Some(only) = all.clone().only(id)
        {
            return Ok(only);
        }
        let users: Vec<String> = self.users.iter().map(|user| user_room(user)).collect();
        let rooms = self.rooms.iter().chain(&self.sockets).chain(&users).map(String::as_str);
        Ok(all.among(rooms, self.except.iter().map(String::as_str)))
    }
}

/// The namespace of that name.
///
/// # Errors
/// There is none.
pub(crate) fn find(state: &State, name: &str) -> Result<Namespace, Problem> {
    // That of workers is theirs alone.
    let is_workers = *name == *state.rules().config.workers.namespace;
    let found = state.server.namespace(name).filter(|_| !is_workers);
    found.ok_or_else(|| {
        Problem::new(404, "no such namespace", format!("there is no namespace \"{name}\""))
    })
}

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verb {
    /// Sends an event.
    Emit,
    /// Makes sockets join rooms.
    Join,
    /// Makes sockets leave rooms.
    Leave,
    /// Disconnects sockets.
    Disconnect,
    /// Replaces what is kept with sockets.
    SetData,
}

impl Verb {
    /// All there are.
    pub(crate) const ALL: [Verb; 5] =
        [Verb::Emit, Verb::Join, Verb::Leave, Verb::Disconnect, Verb::SetData];

    /// As it stands in commands.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verb::Emit => "emit",
            Verb::Join => "join",
            Verb::Leave => "leave",
            Verb::Disconnect => "disconnect",
            Verb::SetData => "set-data",
        }
    }
}

/// One command. In JSON it is an object with `do`, what says whom it concerns, and the keys below.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// Sends an event: `event`, `args` (a list; default none), `volatile` (drop it for clients that
    /// are not ready), `ack` and `timeout_ms`.
    Emit {
        /// Whom to send to.
        target: Target,
        /// Name of the event.
        event: String,
        /// Its arguments.
        args: Raw,
        /// Drop it for clients that are not ready to take it.
        volatile: bool,
        /// Await acknowledgements for so long.
        ack: Option<Duration>,
    },
    /// Makes sockets join the rooms of `join`.
    Join {
        /// Which sockets.
        target: Target,
        /// The rooms to join.
        join: Vec<String>,
    },
    /// Makes sockets leave the rooms of `leave`.
    Leave {
        /// Which sockets.
        target: Target,
        /// The rooms to leave.
        leave: Vec<String>,
    },
    /// Disconnects sockets; with `close` their connections, all namespaces included.
    Disconnect {
        /// Which sockets.
        target: Target,
        /// Close their connections.
        close: bool,
    },
    /// Replaces what is kept with sockets by `data`.
    SetData {
        /// Which sockets.
        target: Target,
        /// Any JSON.
        data: Box<str>,
    },
}

/// The keys of all commands.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    r#do: Option<Verb>,
    namespace: Option<String>,
    #[serde(deserialize_with = "given")]
    rooms: Option<Vec<String>>,
    #[serde(deserialize_with = "given")]
    sockets: Option<Vec<String>>,
    #[serde(deserialize_with = "given")]
    users: Option<Vec<String>>,
    except: Vec<String>,
    event: Option<String>,
    args: Option<Box<RawValue>>,
    volatile: Option<bool>,
    ack: Option<bool>,
    timeout_ms: Option<u64>,
    join: Option<Vec<String>>,
    leave: Option<Vec<String>>,
    close: Option<bool>,
    data: Option<Box<RawValue>>,
}

/// A list that is there; `null` is none.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Vec::deserialize(deserializer).map(Some)
}

impl Fields {
    /// The first key that such a command does not have.
    fn stranger(&self, verb: Verb) -> Option<&'static str> {
        let keys = [
            ("event", self.event.is_some(), Verb::Emit),
            ("args", self.args.is_some(), Verb::Emit),
            ("volatile", self.volatile.is_some(), Verb::Emit),
            ("ack", self.ack.is_some(), Verb::Emit),
            ("timeout_ms", self.timeout_ms.is_some(), Verb::Emit),
            ("join", self.join.is_some(), Verb::Join),
            ("leave", self.leave.is_some(), Verb::Leave),
            ("close", self.close.is_some(), Verb::Disconnect),
            ("data", self.data.is_some(), Verb::SetData),
        ];
        keys.iter().find(|(_, is_there, of)| *is_there && *of != verb).map(|(key, ..)| *key)
    }

    fn command(self, verb: Option<Verb>) -> Result<Command, String> {
        let verb = match (self.r#do, verb) {
            (Some(one), Some(other)) if one != other => {
                return Err(format!("do: this is for `{}`", other.as_str()));
            }
            (one, other) => one.or(other).ok_or("missing field `do`")?,
        };
        if let Some(key) = self.stranger(verb) {
            return Err(format!("unknown field `{key}` in `{}`", verb.as_str()));
        }
        let Fields { namespace, rooms, sockets, users, except, .. } = self;
        let lists: Vec<_> = [&rooms, &sockets, &users].into_iter().flatten().collect();
        let is_nobody = !lists.is_empty() && lists.iter().all(|list| list.is_empty());
        let [rooms, sockets, users] = [rooms, sockets, users].map(Option::unwrap_or_default);
        let target = Target { namespace, rooms, sockets, users, except, is_nobody };
        let lists = [&target.rooms, &target.sockets, &target.users, &target.except];
        let lists = lists.into_iter().chain(&self.join).chain(&self.leave);
        if lists.map(Vec::len).sum::<usize>() > NAMES_MAX {
            return Err(format!("more than {NAMES_MAX} names; use several commands"));
        }
        let missing = |key: &str| format!("missing field `{key}`");
        Ok(match verb {
            Verb::Emit => Command::Emit {
                target,
                event: self.event.ok_or_else(|| missing("event"))?,
                args: self.args.map_or_else(|| Ok(Raw::default()), arguments)?,
                volatile: self.volatile.unwrap_or(false),
                ack: wait(self.ack, self.timeout_ms)?,
            },
            Verb::Join => Command::Join { target, join: named(self.join, "join")? },
            Verb::Leave => Command::Leave { target, leave: named(self.leave, "leave")? },
            Verb::Disconnect => Command::Disconnect { target, close: self.close.unwrap_or(false) },
            Verb::SetData => {
                let data = shallow(self.data.ok_or_else(|| missing("data"))?);
                Command::SetData { target, data: data.map_err(|error| format!("data: {error}"))? }
            }
        })
    }
}

fn named(rooms: Option<Vec<String>>, key: &str) -> Result<Vec<String>, String> {
    rooms.filter(|rooms| !rooms.is_empty()).ok_or_else(|| format!("missing field `{key}`"))
}

/// How long to wait for acknowledgements, if at all.
fn wait(ack: Option<bool>, timeout_ms: Option<u64>) -> Result<Option<Duration>, String> {
    match (ack.unwrap_or(false), timeout_ms) {
        (false, None) => Ok(None),
        (false, Some(_)) => Err("timeout_ms: only with `ack`".into()),
        (true, Some(ms)) if ms > TIMEOUT_MS_MAX => {
            Err(format!("timeout_ms: at most {TIMEOUT_MS_MAX}"))
        }
        (true, ms) => Ok(Some(Duration::from_millis(ms.unwrap_or(5_000)))),
    }
}

/// JSON that is not nested too deeply for those who read it.
///
/// # Errors
/// It is; what the bound is.
pub(crate) fn shallow(json: Box<RawValue>) -> Result<Box<str>, String> {
    match check_json(json.get(), DEPTH_MAX) {
        Ok(()) => Ok(json.into()),
        Err(_) => Err(format!("lists and objects are nested more than {DEPTH_MAX} deep")),
    }
}

/// The arguments of an event, from a list.
fn arguments(list: Box<RawValue>) -> Result<Raw, String> {
    let list = shallow(list).map_err(|error| format!("args: {error}"))?;
    let inner = list.strip_prefix('[').and_then(|list| list.strip_suffix(']'));
    let inner = inner.ok_or("args: has to be a list")?.trim_ascii();
    let from = inner.as_ptr() as usize - list.as_ptr() as usize;
    let range = from..from + inner.len();
    Ok(Raw { json: Bytes::from(list.into_boxed_bytes()).slice(range), ..Raw::default() })
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Command, D::Error> {
        Fields::deserialize(deserializer)?.command(None).map_err(D::Error::custom)
    }
}

/// Why a command was not carried out; `application/problem+json` (RFC 9457) on the HTTP API.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Problem {
    /// The title as a URI.
    pub(crate) r#type: String,
    /// What kind of problem, in a few words that do not change.
    pub(crate) title: String,
    /// HTTP status.
    pub(crate) status: u16,
    /// What was wrong with this one.
    pub(crate) detail: String,
}

impl Problem {
    pub(crate) fn new(status: u16, title: &str, detail: impl Into<String>) -> Problem {
        let r#type = format!("urn:corecast:problem:{}", title.replace(' ', "-"));
        Problem { r#type, title: title.into(), status, detail: detail.into() }
    }

    /// What was sent cannot be read.
    fn of_json(error: &serde_json::Error, detail: String) -> Problem {
        match error.is_data() {
            true => Problem::new(422, "not valid", detail),
            false => Problem::new(400, "not JSON", detail),
        }
    }
}

/// Reads JSON; what is wrong with it is told with its place.
///
/// # Errors
/// It is no JSON (400), or not what it has to be (422).
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(text).map_err(|error| {
        // Read again, for the place. Those who make no mistakes do not pay for it.
        let mut again = serde_json::Deserializer::from_slice(text);
        let detail = match serde_path_to_error::deserialize::<_, T>(&mut again) {
            Err(error) if error.path().iter().next().is_some() => {
                format!("{}: {}", error.path(), error.inner())
            }
            _ => error.to_string(),
        };
        Problem::of_json(&error, detail)
    })
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let (status, title) = match &error {
            Error::Json(_) | Error::ReservedEvent(_) | Error::Parser(_) => (422, "cannot be sent"),
            Error::Limit(_) => (503, "too busy"),
            Error::NotRunning => (503, "shutting down"),
            Error::Timeout => (504, "no answer in time"),
            _ => (500, "failed"),
        };
        Problem::new(status, title, error.to_string())
    }
}

/// What came of a command.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Outcome {
    /// The shards have got it.
    Sent {},
    /// It was done to so many sockets.
    Done {
        /// How many.
        sockets: usize,
        /// Every shard has answered, and nothing was refused.
        complete: bool,
        /// Sockets that did not join all rooms, as they would be in more than `server.max_rooms`.
        #[serde(skip_serializing_if = "Option::is_none")]
        refused: Option<NonZeroUsize>,
    },
    /// Who has acknowledged an event.
    Answers(Answers),
}

/// The acknowledgements of an event.
#[derive(Debug, Serialize)]
pub(crate) struct Answers {
    /// Sockets that it was sent to.
    asked: usize,
    responses: Vec<Response>,
    /// Ids of those that have not answered,
    unanswered: Vec<String>,
    /// of which so many were too slow, had gone, or were asked too much already.
    timed_out: usize,
    disconnected: usize,
    unawaited: usize,
    oversized: usize,
    /// All have answered, and every shard has said so.
    complete: bool,
}

#[derive(Debug, Serialize)]
struct Response {
    socket: String,
    /// The first argument of the acknowledgement.
    response: Box<RawValue>,
    /// What the placeholders in it stand for, in base64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<String>,
}

impl From<Unanswered> for Answers {
    fn from(it: Unanswered) -> Answers {
        let complete = it.responses.len() == it.asked && it.silent_shards == 0;
        let response = |(socket, raw): (String, Raw)| Response {
            socket,
            response: RawValue::from_string(raw.json().to_owned()).unwrap_or_default(),
            attachments: raw.attachments().iter().map(|bytes| STANDARD.encode(bytes)).collect(),
        };
        let names = it.answered.iter().map(ToString::to_string);
        Answers {
            asked: it.asked,
            responses: names.zip(it.responses).map(response).collect(),
            unanswered: it.unanswered.iter().map(ToString::to_string).collect(),
            timed_out: it.timed_out,
            disconnected: it.disconnected,
            unawaited: it.unawaited,
            oversized: it.oversized,
            complete,
        }
    }
}

impl Command {
    /// Reads a command; `verb` is what it does if it does not say so itself.
    ///
    /// # Errors
    /// It is no JSON (400), or no command (422); the text names the key.
    pub(crate) fn read(text: &[u8], verb: Option<Verb>) -> Result<Command, Problem> {
        if text.trim_ascii_start().starts_with(b"[") {
            return Err(Problem::new(422, "not valid", "a command is an object"));
        }
        let command = read::<Fields>(text)?.command(verb);
        command.map_err(|detail| Problem::new(422, "not valid", detail))
    }

    /// What it does.
    pub(crate) fn verb(&self) -> Verb {
        match self {
            Command::Emit { .. } => Verb::Emit,
            Command::Join { .. } => Verb::Join,
            Command::Leave { .. } => Verb::Leave,
            Command::Disconnect { .. } => Verb::Disconnect,
            Command::SetData { .. } => Verb::SetData,
        }
    }

    /// Whom it concerns.
    pub(crate) fn target(&self) -> &Target {
        match self {
            Command::Emit { target, .. }
            | Command::Join { target, .. }
            | Command::Leave { target, .. }
            | Command::Disconnect { target, .. }
            | Command::SetData { target, .. } => target,
        }
    }

    /// Carries it out; the answer as a value.
    ///
    /// # Errors
    /// It cannot be done; nothing was.
    pub(crate) async fn execute(self, state: &Arc<State>) -> Result<Value, Problem> {
        let outcome = self.run(state).await?;
        serde_json::to_value(&outcome).map_err(|error| Error::from(error).into())
    }

    /// Carries it out. An event is on its way to the shards when this is done; everything else has
    /// happened. Counted in the metrics, whatever comes of it.
    ///
    /// # Errors
    /// It cannot be done; nothing was.
    pub(crate) async fn run(self, state: &Arc<State>) -> Result<Outcome, Problem> {
        let verb = self.verb();
        let span = trace::command(verb.as_str(), self.target().namespace());
        let outcome = self.carry_out(state).instrument(span).await;
        state.metrics.command(verb, outcome.is_ok());
        outcome
    }

    async fn carry_out(self, state: &Arc<State>) -> Result<Outcome, Problem> {
        let selected = self.target().select(state)?;
        match self {
            Command::Emit { event, args, volatile, ack, .. } => {
                let selected = if volatile { selected.volatile() } else { selected };
                let audience = trace::is_recorded().then(|| selected.clone());
                let asked = match ack {
                    None => {
                        selected.emit(&event, args)?;
                        None
                    }
                    Some(timeout) => Some(selected.timeout(timeout).named().ask(&event, args)?),
                };
                if let Some(audience) = audience {
                    trace::fan_out(audience, |job| state.spawn(job));
                }
                match asked {
                    None => Ok(Outcome::Sent {}),
                    Some(asked) => Ok(Outcome::Answers(asked.await.into())),
                }
            }
            Command::Join { join, .. } => join_rooms(selected, join).await,
            Command::Leave { leave, .. } => {
                each(selected, move |it| leave.iter().for_each(|room| it.leave(room))).await
            }
            Command::Disconnect { close, .. } => {
                each(selected, move |it| it.disconnect(close)).await
            }
            Command::SetData { data, .. } => each(selected, move |it| it.set_data(&data)).await,
        }
    }
}

/// Does something to each of the selected sockets, where it lives.
async fn each(
    selected: Broadcast,
    act: impl Fn(&Visited<'_>) + Clone + Send + 'static,
) -> Result<Outcome, Problem> {
    let done = selected.visit(act).await?;
    Ok(Outcome::Done { sockets: done.value, complete: done.is_complete, refused: None })
}

/// Makes each of the selected sockets join rooms.
async fn join_rooms(selected: Broadcast, join: Vec<String>) -> Result<Outcome, Problem> {
    let full = Arc::new(AtomicUsize::new(0));
    let counted = full.clone();
    let done = selected.visit(move |it| {
        if join.iter().filter(|room| !it.join(room)).count() > 0 {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let done = done.await?;
    let refused = NonZeroUsize::new(full.load(Ordering::Relaxed));
    let complete = done.is_complete && refused.is_none();
    Ok(Outcome::Done { sockets: done.value, complete, refused })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str, verb: Option<Verb>) -> (u16, String) {
        let problem = Command::read(text.as_bytes(), verb).expect_err(text);
        (problem.status, problem.detail)
    }

    #[test]
    fn arguments_are_kept_as_they_are() {
        for (list, expected) in [
            ("[]", ""),
            (" [ ] ", ""),
            ("[1.50,\"a\\u00e9\"]", "1.50,\"a\\u00e9\""),
            ("[ [1] ]", "[1]"),
        ] {
            let text = format!("{{\"do\":\"emit\",\"event\":\"e\",\"args\":{list}}}");
            for command in [
                Command::read(text.as_bytes(), None).expect("a command"),
                serde_json::from_str(&text).expect("a command"),
            ] {
                let Command::Emit { args, .. } = command else { panic!("{command:?}") };
                assert_eq!(args.json(), expected, "{list}");
            }
        }
    }

    #[test]
    fn what_is_nested_too_deeply_is_refused() {
        for (depth, is_good) in [(127, true), (128, false), (100_000, false)] {
            let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            for (text, depth) in [
                (format!(r#"{{"do":"emit","event":"e","args":[{nested}]}}"#), "args"),
                (format!(r#"{{"do":"set-data","data":[{nested}]}}"#), "data"),
            ] {
                let read = Command::read(text.as_bytes(), None);
                assert_eq!(read.is_ok(), is_good, "{depth}");
                if let Err(problem) = read {
                    assert_eq!(problem.status, 422);
                    assert!(problem.detail.contains("deep"), "{}", problem.detail);
                }
            }
        }
    }

    #[test]
    fn lists_that_are_empty_are_nobody() {
        for (lists, is_nobody) in [
            ("", false),
            (r#","except":[]"#, false),
            (r#","rooms":[]"#, true),
            (r#","users":[],"sockets":[],"except":["a"]"#, true),
            (r#","users":[],"rooms":["a"]"#, false),
        ] {
            let text = format!("{{\"do\":\"disconnect\"{lists}}}");
            let command = Command::read(text.as_bytes(), None).expect("a command");
            assert_eq!(command.target().is_nobody, is_nobody, "{lists}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, status, named) in [
            ("{", 400, "EOF"),
            ("{}", 422, "`do`"),
            (r#"{"do":"sing"}"#, 422, "`sing`"),
            (r#"{"do":"emit"}"#, 422, "`event`"),
            (r#"{"do":"emit","event":"e","colour":1}"#, 422, "`colour`"),
            (r#"{"do":"join","join":["a"],"event":"e"}"#, 422, "`event` in `join`"),
            (r#"{"do":"join","join":[]}"#, 422, "`join`"),
            (r#"{"do":"emit","event":"e","args":{}}"#, 422, "args"),
            (r#"{"do":"emit","event":"e","rooms":["a",5]}"#, 422, "rooms[1]"),
            (r#"{"do":"emit","event":"e","timeout_ms":5}"#, 422, "timeout_ms"),
            (r#"{"do":"emit","event":"e","ack":true,"timeout_ms":300001}"#, 422, "timeout_ms"),
            (r#"{"do":"set-data"}"#, 422, "`data`"),
            (r#"{"do":"emit","event":"e","users":null}"#, 422, "users"),
            (" []", 422, "object"),
        ] {
            let (found, detail) = problem(text, None);
            assert_eq!(found, status, "{text}: {detail}");
            assert!(detail.contains(named), "{text}: {detail}");
        }
        let (status, detail) = problem(r#"{"do":"emit","event":"e"}"#, Some(Verb::Join));
        assert_eq!((status, detail.as_str()), (422, "do: this is for `join`"));
    }
}
