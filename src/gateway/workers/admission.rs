//! Who may connect as a worker, and what for.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Action, Config, GROUPS_MAX, GroupName, Key};
use crate::gateway::auth::Credentials;
use crate::gateway::command::Problem;
use crate::gateway::keyhash::KeyHash;
use crate::gateway::state::{Rules, State};
use crate::gateway::webhooks::Happening;
use crate::{ConnectError, Socket};

/// The longest time for an acknowledgement.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// Bytes of a worker's name.
const NAME_BYTES_MAX: usize = 64;

/// A worker, as it is kept with its socket.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    grant: Arc<Grant>,
    name: Arc<str>,
    /// Where it comes from.
    address: Option<IpAddr>,
    pub(super) wanted: Arc<Wanted>,
}

/// What the holder of a key may do.
#[derive(PartialEq)]
pub(super) struct Grant {
    name: Arc<str>,
    hash: KeyHash,
    namespaces: Vec<String>,
    actions: Vec<Action>,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The keys made ready: hashes, so that memory holds no key.
#[derive(Debug)]
pub(crate) struct Keys(Vec<Arc<Grant>>);

/// What a worker says in its `auth`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    #[serde(rename = "key")]
    _key: String,
    /// Workers of one name share their work.
    name: String,
    #[serde(default)]
    namespaces: Option<Vec<String>>,
    #[serde(default)]
    events: Vec<String>,
    #[serde(default)]
    happenings: Vec<Happening>,
}

/// What a group wants to have.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Of all if none.
    namespaces: Vec<String>,
    events: Vec<String>,
    happenings: Vec<Happening>,
}

impl Wanted {
    pub(super) fn namespace(&self, name: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|it| it == name)
    }

    pub(super) fn event(&self, name: &str) -> bool {
        self.events.iter().any(|it| it == name || it == "*")
    }

    pub(super) fn happening(&self, happening: Happening, namespace: &str) -> bool {
        self.happenings.contains(&happening) && self.namespace(namespace)
    }
}

impl Keys {
    /// # Errors
    /// Something cannot work; the text names the key.
    pub(crate) fn new(config: &Config) -> Result<Keys, String> {
        if !config.namespace.starts_with('/') || config.namespace == "/" {
            return Err("workers.namespace: must begin with / and be longer".into());
        }
        if !(1..=1_000).contains(&config.in_flight) {
            return Err("workers.in_flight: must be 1 to 1000".into());
        }
        if config.queue == 0 || config.queue_bytes.0 == 0 || config.timeout.0.is_zero() {
            return Err("workers.queue: it, queue_bytes and timeout must not be 0".into());
        }
        if config.timeout.0 > TIMEOUT_MAX {
            return Err("workers.timeout: at most 1h".into());
        }
        let grant = |(at, key): (usize, &Key)| {
            let at = |error: String| format!("workers.key[{at}].{error}");
            let Key { name, key, key_file, sha256, namespaces, actions } = key.clone();
            let hash = KeyHash::configured(key.as_ref(), key_file.as_deref(), sha256.as_deref());
            let hash = hash.map_err(at)?;
            let is_like = |it: &Key| it.namespaces == namespaces && it.actions == actions;
            if name.is_empty() {
                return Err(at("name: has to be given".into()));
            }
            if config.keys.iter().any(|other| other.name == name && !is_like(other)) {
                return Err(at(format!("name: another key \"{name}\" permits something else")));
            }
            Ok(Arc::new(Grant { name: name.into(), hash, namespaces, actions }))
        };
        config.keys.iter().enumerate().map(grant).collect::<Result<_, String>>().map(Keys)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key still permits what it did.
    pub(super) fn has(&self, grant: &Grant) -> bool {
        self.0.iter().any(|known| **known == *grant)
    }

    pub(super) fn has_name(&self, name: &str) -> bool {
        self.0.iter().any(|known| *known.name == *name)
    }

    /// Whose key it is.
    fn find(&self, key: &str) -> Option<&Arc<Grant>> {
        KeyHash::of(key).find(self.0.iter().map(|grant| (grant.hash, grant)))
    }
}

impl Grant {
    /// Whether it may do this in a namespace. What its configuration leaves out is all.
    pub(super) fn may(&self, action: Action, namespace: &str) -> Result<(), Problem> {
        let is_here =
            self.namespaces.is_empty() || self.namespaces.iter().any(|it| it == namespace);
        if is_here && (self.actions.is_empty() || self.actions.contains(&action)) {
            return Ok(());
        }
        // As it stands in the configuration.
        let action = serde_json::to_string(&action).unwrap_or_default();
        let detail = format!("{} may not do {action} in namespace \"{namespace}\"", self.name);
        Err(Problem::new(403, "not allowed", detail))
    }
}

impl Worker {
    /// The group that it shares its work with.
    pub(super) fn group(&self) -> GroupName {
        (self.grant.name.clone(), self.name.clone())
    }

    pub(super) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Whether it would be let in as what it is.
    pub(super) fn is_permitted(&self, rules: &Rules) -> bool {
        rules.workers.has(&self.grant) && may_come(&rules.config.workers.allow, self.address)
    }
}

/// Decides about a socket that wants to be a worker.
pub(super) fn admit(state: &State, socket: &Socket) -> Result<(), ConnectError> {
    let rules = state.rules();
    // As for a namespace that is not there.
    let refused = || ConnectError::new("Invalid namespace");
    if rules.workers.is_empty() {
        return Err(refused());
    }
    let Ok(Credentials { address, auth, .. }) = Credentials::of(socket) else {
        return Err(refused());
    };
    let from = address.parse().ok().map(|address: IpAddr| address.to_canonical());
    if !may_come(&rules.config.workers.allow, from) {
        log_refusal(state, &address, "address_not_allowed");
        return Err(refused());
    }
    let timeout = rules.config.workers.timeout.0;
    let admitted = read(&rules.workers, auth, from).and_then(|worker| {
        match state.workers.has_room(&worker.group(), timeout) {
            true => Ok(worker),
            false => Err(Refused::TooManyNames),
        }
    });
    match admitted {
        Ok(worker) => {
            socket.set(worker);
            Ok(())
        }
        Err(refused) => {
            log_refusal(state, &address, refused.code());
            Err(refused.into())
        }
    }
}

fn may_come(allow: &[IpNet], from: Option<IpAddr>) -> bool {
    let is_in = |from: IpAddr| allow.iter().any(|network| network.contains(&from));
    allow.is_empty() || from.is_some_and(is_in)
}

/// Strangers come as often as they like, so what they cause is logged now and then.
fn log_refusal(state: &State, address: &str, code: &'static str) {
    state.metrics.worker_refused(code);
    if let Some(count) = state.workers.refusals.count() {
        tracing::warn!(address, code, count, "a worker was not let in");
    }
}

/// Why somebody is no worker.
#[derive(Debug)]
enum Refused {
    /// A wrong key, or none.
    NotAuthorized,
    /// A good one, and something that is wrong.
    BadAuth(String),
    TooManyNames,
}

impl Refused {
    fn code(&self) -> &'static str {
        match self {
            Refused::NotAuthorized => "not_authorized",
            Refused::BadAuth(_) => "bad_auth",
            Refused::TooManyNames => "too_many_names",
        }
    }
}

impl From<Refused> for ConnectError {
    fn from(refused: Refused) -> ConnectError {
        let data = json!({ "code": refused.code() });
        match refused {
            // Whoever guesses keys needs a connection for each.
            Refused::NotAuthorized => ConnectError::new("not authorized").and_close(),
            Refused::BadAuth(detail) => ConnectError::new(format!("auth: {detail}")),
            Refused::TooManyNames => {
                ConnectError::new(format!("a key has at most {GROUPS_MAX} names of workers"))
            }
        }
        .with_data(data)
    }
}

fn read(keys: &Keys, auth: Value, address: Option<IpAddr>) -> Result<Worker, Refused> {
    // Before anything else is said about it.
    let key = auth.get("key").and_then(Value::as_str).unwrap_or_default();
    let grant = keys.find(key).cloned().ok_or(Refused::NotAuthorized)?;
    let wrong = Refused::BadAuth;
    let shown: Shown = serde_json::from_value(auth).map_err(|error| wrong(error.to_string()))?;
    let Shown { name, namespaces, events, happenings, .. } = shown;
    // It goes to logs and metrics.
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || name.chars().any(char::is_control) {
        let detail = format!("name: 1 to {NAME_BYTES_MAX} bytes, without control characters");
        return Err(wrong(detail));
    }
    let namespaces = namespaces.unwrap_or_else(|| grant.namespaces.clone());
    if !events.is_empty() || !happenings.is_empty() {
        let mut may = namespaces.iter().map(|namespace| grant.may(Action::Events, namespace));
        let all = if namespaces.is_empty() { grant.may_in_all() } else { Ok(()) };
        may.try_fold((), |(), may| may).and(all).map_err(|problem| wrong(problem.detail))?;
    }
    let wanted = Arc::new(Wanted { namespaces, events, happenings });
    Ok(Worker { grant, name: name.into(), address, wanted })
}

impl Grant {
    /// Whether it may have events of all namespaces.
    fn may_in_all(&self) -> Result<(), Problem> {
        match self.namespaces.first() {
            None => self.may(Action::Events, "/"),
            // An empty list asks for more than it may have.
            Some(_) => Err(Problem::new(403, "not allowed", "namespaces is empty")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(toml: &str) -> Result<Keys, String> {
        let config: Config = toml::from_str(toml).expect("a configuration");
        Keys::new(&config)
    }

    const KEYS: &str = r#"
        key = [
            { name = "all", key = "0123456789abcdef" },
            { name = "chat", key = "fedcba9876543210", namespaces = ["/chat"], actions = ["emit"] },
        ]"#;

    #[test]
    fn a_key_opens_what_it_is_for() {
        let keys = keys(KEYS).expect("keys");
        let read = |auth| match read(&keys, auth, None) {
            Ok(worker) => Ok(worker.wanted.clone()),
            Err(refused) => Err(ConnectError::from(refused)),
        };
        for auth in [json!({}), json!([]), json!({ "key": 1 }), json!({ "key": "0123456789abcde" })]
        {
            let error = read(auth).expect_err("a wrong key");
            assert!(error.message == "not authorized" && error.closes, "{error:?}");
        }
        let all = "0123456789abcdef";
        let error = read(json!({ "key": all })).expect_err("no name");
        assert_eq!(error.message, "auth: missing field `name`");
        assert!(!error.closes);
        for name in ["", "a\n", &"x".repeat(65)] {
            assert!(read(json!({ "key": all, "name": name })).is_err(), "{name:?}");
        }
        assert!(read(json!({ "key": all, "name": "x", "evnets": [] })).is_err());
        let wanted = read(json!({ "key": all, "name": "x", "events": ["*"] })).expect("a worker");
        assert!(wanted.namespace("/any") && wanted.event("any"));
        let chat = "fedcba9876543210";
        assert!(read(json!({ "key": chat, "name": "x" })).is_ok());
        assert!(read(json!({ "key": chat, "name": "x", "events": ["*"] })).is_err());
        let grant = keys.find(chat).expect("a key");
        assert!(grant.may(Action::Emit, "/chat").is_ok());
        assert!(grant.may(Action::Emit, "/").is_err() && grant.may(Action::Join, "/chat").is_err());
    }

    #[test]
    fn keys_are_checked() {
        for (toml, error) in [
            ("key = [{ name = \"a\" }]", "workers.key[0].key: give it, key_file or sha256"),
            ("key = [{ name = \"a\", key = \"short\" }]", "needs at least 16 characters"),
            ("key = [{ name = \"a\", sha256 = \"00\" }]", "64 hexadecimal digits"),
            ("key = [{ key = \"0123456789abcdef\" }]", "workers.key[0].name: has to be given"),
            (
                "key = [{ name = \"a\", key = \"0123456789abcdef\" },\n\
                 { name = \"a\", key = \"fedcba9876543210\", actions = [\"emit\"] }]",
                "workers.key[0].name: another key \"a\" permits something else",
            ),
            ("timeout = \"2h\"", "workers.timeout: at most 1h"),
            ("in_flight = 0", "in_flight"),
            ("namespace = \"/\"", "namespace"),
        ] {
            let found = keys(toml).map(|_| ()).expect_err(toml);
            assert!(found.contains(error), "{found}");
        }
        let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let keys = keys(&format!("key = [{{ name = \"a\", sha256 = \"{hash}\" }}]")).expect("keys");
        assert!(keys.find("").is_some() && keys.find("x").is_none());
    }
}
