//! What can be configured of a webhook, and the same made ready.

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit};
use reqwest::{Certificate, Client, Url, redirect};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::breaker;
use crate::gateway::config::units::{Size, Time};
use crate::gateway::secret::Secret;

/// Shortest key of signatures, in bytes: whoever has a request can try shorter ones.
const SECRET_LEN_MIN: usize = 16;

/// One backend that is told over HTTP.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Its name, by which routes call it, and which metrics and logs say. Required.
    pub name: String,
    /// Where requests go, with `http` or `https`. Required.
    pub url: String,
    /// What it gets beside the events that routes bring it. Default: nothing.
    pub on: Vec<Happening>,
    /// Namespaces of which it gets that. Default: all.
    pub namespaces: Vec<String>,
    /// Key of the signatures: `whsec_` and base64, or any other text as it is; at least 16 bytes.
    /// Default: none, and requests are not signed.
    pub secret: Option<Secret>,
    /// File with that key.
    pub secret_file: Option<PathBuf>,
    /// A second key, old or new: while it is there each request has the signatures of both, so that
    /// a key can be changed without losing a request.
    pub other_secret: Option<Secret>,
    /// File with the second key.
    pub other_secret_file: Option<PathBuf>,
    /// PEM file with certificates of authorities that are trusted beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// What `ce-source` begins with; the namespace follows. Default: `corecast:`.
    pub source: String,
    /// What becomes of a client that wants to connect while the backend does not answer. Default:
    /// refuse.
    pub when_down: WhenDown,
    /// How long one request may take, its answer included. Default: 5s.
    pub timeout: Time,
    /// How long a client waits for the answer to `connect` or to an event with `wait`, all
    /// attempts included. Default: 10s.
    pub answer_within: Time,
    /// How often a request that nobody waits for is repeated. Default: 8.
    pub retries: u32,
    /// The longest pause before the first repetition; it doubles with each one, and the pause is
    /// chosen at random up to it. Default: 200ms.
    pub backoff: Time,
    /// The longest pause of all. Default: 30s.
    pub max_backoff: Time,
    /// How old what nobody waits for may become before it is given up. Default: 10m.
    pub max_age: Time,
    /// Requests at a time. Default: 32.
    pub concurrency: usize,
    /// Whether what concerns one socket is told in order, one request at a time. Default: socket.
    pub order: Order,
    /// Events and other happenings that may wait. Default: 10000; more are refused. What somebody
    /// waits for has an eighth of that beyond it, clients that come and go a quarter. One socket or
    /// room may have a sixteenth of it, but 64 in any case.
    pub queue: usize,
    /// Bytes of these, parted in the same way. Default: 32MiB.
    pub queue_bytes: Size,
    /// Bytes of an answer that are read. Default: 1MiB.
    pub max_answer: Size,
    /// When the backend is left alone as it is down, or fails too often.
    pub breaker: breaker::Config,
    /// Several events in one request. Default: each has its own.
    pub batch: Option<Batch>,
}

/// What a backend can be told beside events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Happening {
    /// A client wants to connect. The answer may refuse it, or say who it is.
    Connect,
    /// A client has gone.
    Disconnect,
    /// A room has got its first socket.
    RoomOccupied,
    /// A room has lost its last socket.
    RoomVacated,
}

/// What becomes of clients while the backend that decides about them does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenDown {
    /// They are refused.
    Refuse,
    /// They are let in as their token says.
    Admit,
}

/// In which order requests are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// What concerns one socket, or one room, in the order in which it has happened.
    Socket,
    /// In any.
    None,
}

/// How many events share a request. What a client waits for never does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// Events in a request at most. Default: 100.
    pub events: usize,
    /// How long the first one may wait for others. Default: 50ms.
    pub within: Time,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch { events: 100, within: Time::millis(50) }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            name: String::new(),
            url: String::new(),
            on: Vec::new(),
            namespaces: Vec::new(),
            secret: None,
            secret_file: None,
            other_secret: None,
            other_secret_file: None,
            ca_file: None,
            source: "corecast:".into(),
            when_down: WhenDown::Refuse,
            timeout: Time::secs(5),
            answer_within: Time::secs(10),
            retries: 8,
            backoff: Time::millis(200),
            max_backoff: Time::secs(30),
            max_age: Time::secs(600),
            concurrency: 32,
            order: Order::Socket,
            queue: 10_000,
            queue_bytes: Size(32 << 20),
            max_answer: Size(1 << 20),
            breaker: breaker::Config::default(),
            batch: None,
        }
    }
}

/// A webhook made ready. A reload replaces it; what waits stays.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) url: Url,
    /// One or two, or none.
    pub(super) keys: Vec<Hmac<Sha256>>,
    pub(super) client: Client,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Settings {
    /// # Errors
    /// Something cannot work; the text names the key.
    pub(super) fn new(config: &Config) -> Result<Settings, String> {
        let url = check(config)?;
        let secrets = [
            ("secret", &config.secret, &config.secret_file),
            ("other_secret", &config.other_secret, &config.other_secret_file),
        ];
        let keys = secrets.iter().filter_map(|(name, secret, file)| {
            let secret = Secret::resolve(name, secret.as_ref(), file.as_deref()).transpose()?;
            Some(secret.and_then(|secret| key(name, &secret)))
        });
        let keys = keys.collect::<Result<_, _>>()?;
        let client = client(config, &url)?;
        Ok(Settings { config: config.clone(), url, keys, client })
    }

    /// Whether it is to be told of that.
    pub(super) fn wants(&self, happening: Happening, namespace: &str) -> bool {
        self.config.wants(happening, namespace)
    }
}

impl Config {
    pub(super) fn wants(&self, happening: Happening, namespace: &str) -> bool {
        let Config { on, namespaces, .. } = self;
        let is_here = namespaces.is_empty() || namespaces.iter().any(|name| name == namespace);
        is_here && on.contains(&happening)
    }
}

fn check(config: &Config) -> Result<Url, String> {
    if config.name.is_empty() {
        return Err("name: is missing".into());
    }
    // Not shown, as there may be a secret in its query.
    if config.url.is_empty() {
        return Err("url: is missing".into());
    }
    let url = Url::parse(&config.url).map_err(|error| format!("url: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("url: must begin with http:// or https://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("url: must not have a user or password; use secret to sign requests".into());
    }
    for (key, value) in [
        ("concurrency", config.concurrency),
        ("queue", config.queue),
        ("queue_bytes", config.queue_bytes.0),
        ("batch.events", config.batch.map_or(1, |batch| batch.events)),
    ] {
        if value == 0 {
            return Err(format!("{key}: must be 1 or more"));
        }
    }
    if config.timeout.0.is_zero() || config.answer_within.0.is_zero() {
        return Err("timeout: it and answer_within must not be 0s".into());
    }
    config.breaker.check()?;
    Ok(url)
}

/// A secret as the standard for webhooks writes it, or any text.
fn key(name: &str, secret: &Secret) -> Result<Hmac<Sha256>, String> {
    let text = secret.reveal();
    let bytes = match text.strip_prefix("whsec_") {
        None => text.as_bytes().to_vec(),
        Some(base64) => STANDARD
            .decode(base64)
            .map_err(|_| format!("{name}: what begins with whsec_ must go on in base64"))?,
    };
    if bytes.len() < SECRET_LEN_MIN {
        return Err(format!("{name}: needs at least {SECRET_LEN_MIN} bytes"));
    }
    Hmac::new_from_slice(&bytes).map_err(|_| format!("{name}: cannot be used as a key"))
}

/// Connections are kept and used again. No redirect is followed, and no proxy of the environment
/// used, so that requests go where the file says and nowhere else.
fn client(config: &Config, url: &Url) -> Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(concat!("corecast/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(config.timeout.0)
        .pool_max_idle_per_host(config.concurrency)
        .tcp_nodelay(true);
    let mut roots = Vec::new();
    if let Some(path) = &config.ca_file {
        let failed = |error: String| format!("ca_file: {}: {error}", path.display());
        let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        roots = Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.to_string()))?;
        if roots.is_empty() {
            return Err(failed("no certificate in it".into()));
        }
    }
    // Without TLS nothing is asked of the system's certificates, which may not be there.
    builder = match url.scheme() {
        "https" => builder.tls_certs_merge(roots),
        _ => builder.tls_certs_only(roots),
    };
    builder.build().map_err(|error| format!("url: cannot make requests: {error}"))
}
