//! The configuration: a TOML file, environment variables over it, flags over both.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::units::Size;
use super::run::ServeArguments;
use super::{api, auth, limits, occupancy, routes, webhooks, workers};
use crate::Options;

pub mod units;

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
            rooms: occupancy::Config::default(),
            namespaces: vec![Namespace::new("/")],
            webhooks: Vec::new(),
        }
    }
}

/// The data port.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Addresses that clients connect to. Default: 0.0.0.0:4000. Not reloaded.
    pub listen: Vec<SocketAddr>,
    /// CPUs that get one shard each. Default: all that the process may use. Not reloaded.
    pub cpus: Vec<usize>,
    /// A page that is served at `/`. Default: none.
    pub page: Option<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 4000))],
            cpus: Vec::new(),
            page: None,
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

/// Reads the file, then the environment, then the flags.
///
/// # Errors
/// A text with file, line and key, and what to write instead.
pub(super) fn load(arguments: &ServeArguments) -> Result<Config, String> {
    let mut config = match &arguments.config {
        None => Config::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
            toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?
        }
    };
    if !arguments.listen.is_empty() {
        config.server.listen.clone_from(&arguments.listen);
    }
    if !arguments.cpus.is_empty() {
        config.server.cpus.clone_from(&arguments.cpus);
    }
    config.api.listen = arguments.api.unwrap_or(config.api.listen);
    Ok(config)
}

/// The options of the server that the configuration means.
pub(super) fn options(config: &Config) -> Result<Options, String> {
    Ok(Options { cpus: config.server.cpus.clone(), ..Options::default() })
}

/// Every key with its default, as TOML.
pub(super) fn defaults() -> String {
    toml::to_string(&Config::default()).unwrap_or_default()
}

/// The JSON Schema of the configuration.
pub(super) fn schema() -> String {
    format!("{:#}", schemars::schema_for!(Config).as_value())
}
