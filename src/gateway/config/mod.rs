//! The configuration: a TOML file, environment variables over it, flags over both.
//!
//! ```text
//!   file ─▶ tree of values ◀─ environment ◀─ flags      source.rs
//!                 │ keys that do not exist              schema.rs
//!                 ▼
//!              Config, then Options and Rules, which check what types cannot
//! ```
//!
//! The schema of [`Config`] is the only list of keys: names of variables, the file that
//! `corecast config default` prints, and `docs/configuration.md` are made of it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::schema::{Path, Schema, Shape, Step, nearest};
use self::source::Source;
use self::units::Size;
use super::run::ServeArguments;
use super::{
    api, auth, data_port, drain, limits, log, occupancy, routes, trace, webhooks, workers,
};
use crate::Options;

mod page;
mod schema;
pub mod server;
mod source;
pub mod units;

pub use server::Server;

/// All that can be configured. Each key is documented in `docs/configuration.md`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients connect, and how the server treats them.
    pub server: Server,
    /// The HTTP API.
    pub api: api::Config,
    /// How clients show who they are, in namespaces without a rule of their own.
    pub auth: auth::Config,
    /// What clients, users and addresses may do at most.
    pub limits: limits::Config,
    /// Backends that connect as Socket.IO clients.
    pub workers: workers::Config,
    /// How the gateway goes.
    pub drain: drain::Config,
    /// What is written to standard error.
    pub log: log::Config,
    /// Traces for OpenTelemetry. Not reloaded.
    pub trace: trace::Config,
    /// The namespaces. Default: `/` alone, whose events go nowhere.
    #[serde(rename = "namespace")]
    pub namespaces: Vec<Namespace>,
    /// When backends are told that rooms are occupied or vacated.
    pub rooms: occupancy::Config,
    /// Backends that are told over HTTP.
    #[serde(rename = "webhook")]
    pub webhooks: Vec<webhooks::Config>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            server: Server::default(),
            api: api::Config::default(),
            auth: auth::Config::default(),
            limits: limits::Config::default(),
            workers: workers::Config::default(),
            drain: drain::Config::default(),
            log: log::Config::default(),
            trace: trace::Config::default(),
            rooms: occupancy::Config::default(),
            namespaces: vec![Namespace::new("/")],
            webhooks: Vec::new(),
        }
    }
}

/// One namespace.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Its name, which begins with `/`.
    pub name: String,
    /// How its clients show who they are. Default: the `auth` of all namespaces.
    pub auth: Option<auth::Config>,
    /// What to do with events. Default: nothing.
    #[serde(default, rename = "route")]
    pub routes: Vec<routes::Config>,
    /// What becomes of events that no route is for. Default: `drop`.
    #[serde(default)]
    pub unknown: routes::Unknown,
    /// Largest event, its name and attachments included; a larger one is refused as `too_large`.
    /// Default: what the server takes.
    pub max_payload: Option<Size>,
}

impl Namespace {
    /// One without routes.
    fn new(name: &str) -> Namespace {
        Namespace {
            name: name.into(),
            auth: None,
            routes: Vec::new(),
            unknown: routes::Unknown::default(),
            max_payload: None,
        }
    }
}

/// A configuration and where its keys stand.
pub(super) struct Loaded {
    pub(super) config: Config,
    /// What is probably not as it was meant.
    pub(super) warnings: Vec<String>,
    /// Nobody has configured anything but by flags.
    pub(super) is_bare: bool,
    source: Source,
}

impl Loaded {
    /// A message that begins with its key, with file and line before it.
    pub(super) fn locate(&self, message: &str) -> String {
        message.lines().map(|line| self.source.locate(line)).collect::<Vec<_>>().join("\n")
    }
}

/// The most problems that are told at a time.
const PROBLEMS_MAX: usize = 50;

/// Reads the file, then the environment, then the flags.
///
/// # Errors
/// All that is wrong, a line each: file, line and key, and what to write instead.
pub(super) fn load(arguments: &ServeArguments) -> Result<Loaded, String> {
    let path = arguments.config.clone();
    let path = path.or_else(|| std::env::var_os("CORECAST_CONFIG").map(PathBuf::from));
    let source = Source::read(path.as_deref())?;
    // A name or value that is no UTF-8 is none of ours.
    let variables = std::env::vars_os();
    let variables = variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let is_bare = path.is_none();
    assemble(source, is_bare, variables, arguments)
}

fn assemble(
    mut source: Source,
    is_bare: bool,
    variables: impl Iterator<Item = (String, String)>,
    arguments: &ServeArguments,
) -> Result<Loaded, String> {
    let mut problems = source.take_unknown();
    let before = source.tree.clone();
    let warnings = source.overlay_environment(variables, &mut problems);
    let is_bare = is_bare && source.tree == before;
    for (path, value, flag) in arguments.keys() {
        let path = Path::parse(path).unwrap_or_default();
        problems.extend(source.set(&path, value, flag.to_owned()).err());
    }
    match typed(&mut source, &mut problems) {
        Some(config) if problems.is_empty() => Ok(Loaded { config, warnings, is_bare, source }),
        _ => Err(problems.join("\n")),
    }
}

/// Gives the values their types. What cannot have its type is said and taken out, so that the next
/// problem is found as well.
fn typed(source: &mut Source, problems: &mut Vec<String>) -> Option<Config> {
    let mut taken = BTreeSet::new();
    while problems.len() < PROBLEMS_MAX {
        let error = match serde_path_to_error::deserialize::<_, Config>(&source.tree) {
            Ok(config) => return Some(config),
            Err(error) => error,
        };
        let mut path = Path(error.path().iter().filter_map(step).collect());
        let message = error.inner().to_string();
        let missing = message.strip_prefix("missing field `").and_then(|it| it.split('`').next());
        // What is missing because it was taken out has been said.
        if !missing.is_some_and(|key| taken.contains(&path.key(key))) {
            problems.push(source.at(&path, &explain(source, &path, &message)));
        }
        while !path.0.is_empty() && !source.take(&path) {
            path = path.parent();
        }
        if path.0.is_empty() {
            return None;
        }
        taken.insert(path);
    }
    None
}

fn step(segment: &serde_path_to_error::Segment) -> Option<Step> {
    match segment {
        serde_path_to_error::Segment::Map { key } => Some(Step::Key(key.clone())),
        serde_path_to_error::Segment::Seq { index } => Some(Step::Index(*index)),
        _ => None,
    }
}

/// What is wrong with a value, without the value where it may be a secret.
fn explain(source: &Source, path: &Path, message: &str) -> String {
    let shape = Schema::get().at(path).unwrap_or_default();
    let wanted = wanted(path, &shape, message);
    if may_be_secret(path) && !message.starts_with("missing field") {
        let wanted = wanted.map(|wanted| format!(": {wanted}")).unwrap_or_default();
        return format!("this is not the kind of value that belongs here{wanted}");
    }
    let text = source.get(path).and_then(Value::as_str);
    let near = text.and_then(|text| nearest(text, shape.texts.iter().copied()));
    match (near, wanted) {
        (Some(near), _) => format!("{message}; did you mean \"{near}\"?"),
        (None, Some(wanted)) => {
            let found = source.get(path).map(kind_of).unwrap_or_default();
            format!("{found} does not belong here: {wanted}")
        }
        (None, None) => message.to_owned(),
    }
}

/// Whether the value at a path is a secret, or was meant to be one: the entry of a list that has
/// taken the place of a key counts as that key.
fn may_be_secret(path: &Path) -> bool {
    let key = path.0.iter().rev().find_map(|step| match step {
        Step::Key(key) => Some(key),
        Step::Index(_) => None,
    });
    let words = ["secret", "token", "password", "key", "keys"];
    key.is_some_and(|key| {
        !key.ends_with("_file") && key.split('_').any(|part| words.contains(&part))
    })
}

/// What belongs at a path where something of another kind stands, in words that need no Rust.
/// `None` if the message says it well.
fn wanted(path: &Path, shape: &Shape<'_>, message: &str) -> Option<String> {
    if message.contains("invalid socket address") {
        return Some("an address with a port is wanted, such as \"127.0.0.1:4000\"".into());
    }
    let (found, expected) = message.split_once(", expected ")?;
    if !found.starts_with("invalid type") && !found.starts_with("invalid value") {
        return None;
    }
    let items = Schema::get().shape(&shape.items);
    let table = path.to_string().replace("[0]", "");
    Some(match expected {
        "a sequence" if items.is_table() => {
            format!("a list of tables is wanted, each begun with [[{table}]]")
        }
        "a sequence" => "a list is wanted, such as [\"…\"]".into(),
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number is wanted".into(),
        "f64" => "a number is wanted".into(),
        "a boolean" => "true or false is wanted".into(),
        "a string" | "path string" => "a text is wanted, in quotes".into(),
        "a map" => "a table is wanted".into(),
        other if other.starts_with("struct ") => {
            let first = shape.required.iter().chain(shape.properties.keys()).next();
            let first = first.map(|key| format!(", such as {{ {key} = … }}")).unwrap_or_default();
            format!("a table is wanted{first}")
        }
        _ => return None,
    })
}

/// A value as one would call it.
fn kind_of(value: &Value) -> String {
    match value {
        Value::Object(_) => "a table".into(),
        Value::Array(_) => "a list".into(),
        plain => plain.to_string(),
    }
}

/// The options of the server that the configuration means.
///
/// # Errors
/// A value is out of range; the text begins with its key.
pub(super) fn options(config: &Config) -> Result<Options, String> {
    data_port::options(config, config.server.options()?)
}

/// What is wrong where options break a rule; led by the key, if there is one.
pub(super) fn rule_broken(error: crate::Error) -> String {
    match error {
        crate::Error::Options(rule) => server::named(rule),
        error => error.to_string(),
    }
}

/// The keys in which two configurations differ, and which a running gateway cannot change.
pub(super) fn fixed_changes(running: &Config, new: &Config) -> Vec<String> {
    let values = |config| serde_json::to_value(config).unwrap_or_default();
    let (running, new) = (values(running), values(new));
    let mut found = Vec::new();
    let root = Schema::get().root();
    compare(&Path::default(), &root, false, (&running, &new), &mut found);
    found
}

fn compare(
    path: &Path,
    shape: &Shape<'_>,
    is_fixed: bool,
    (running, new): (&Value, &Value),
    found: &mut Vec<String>,
) {
    if !shape.is_table() || !running.is_object() || !new.is_object() {
        if is_fixed && running != new {
            found.push(path.to_string());
        }
        return;
    }
    for (key, nodes) in &shape.properties {
        let said = nodes.iter().find_map(|node| node["description"].as_str()).unwrap_or_default();
        // A comment may be wrapped anywhere.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_fixed = match (said.contains("Not reloaded."), said.contains("Reloaded.")) {
            (true, _) => true,
            (_, true) => false,
            _ => is_fixed,
        };
        let values = (&running[*key], &new[*key]);
        compare(&path.key(key), &Schema::get().shape(nodes), is_fixed, values, found);
    }
}

/// Every key with its default, as TOML.
pub(super) fn defaults() -> String {
    page::defaults(Schema::get())
}

/// Every key with default and effect, as Markdown.
pub(super) fn reference() -> String {
    page::reference(Schema::get())
}

/// The JSON Schema of the configuration.
pub(super) fn schema() -> String {
    format!("{:#}", Schema::get().value())
}

#[cfg(test)]
mod tests;
