//! Log output, as text or JSON.
//!
//! What the library says through the `log` facade is among it. Nothing here formats configuration
//! or what clients and backends have sent.

use std::io::IsTerminal;
use std::sync::OnceLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use super::trace;

/// What is written to standard error.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is logged: `off`, `error`, `warn`, `info`, `debug` or `trace`, and after commas the
    /// same for parts, such as `info,corecast::gateway=debug`. `RUST_LOG` counts before it.
    pub level: String,
    /// How a line looks. Not reloaded.
    pub format: Format,
}

impl Default for Config {
    fn default() -> Self {
        Config { level: "info".into(), format: Format::Text }
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// One object a line, for programs.
    Json,
}

/// The filter in force.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// What the configuration lets through.
///
/// # Errors
/// It says nothing that is known.
pub(super) fn filter(config: &Config) -> Result<EnvFilter, String> {
    match std::env::var("RUST_LOG") {
        Ok(said) if !said.is_empty() => {
            EnvFilter::try_new(said).map_err(|error| format!("RUST_LOG: {error}"))
        }
        _ => EnvFilter::try_new(&config.level).map_err(|error| format!("log.level: {error}")),
    }
}

/// Starts logging, and tracing where it is configured.
///
/// # Errors
/// The filter is wrong, or the exporter of traces.
pub(super) fn start(config: &Config, traces: &trace::Config) -> Result<trace::Guard, String> {
    let (filter, handle) = reload::Layer::new(filter(config)?);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.json().boxed(),
    };
    let (layer, guard) = trace::start(traces)?;
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter)).with(layer);
    registry.try_init().map_err(|error| format!("logging: {error}"))?;
    let _ = FILTER.set(handle);
    Ok(guard)
}

/// Lets another filter hold from now on.
pub(super) fn replace(filter: EnvFilter) {
    let replaced = FILTER.get().map(|handle| handle.reload(filter));
    if let Some(Err(error)) = replaced {
        tracing::error!("the level of the log stays what it was: {error}");
    }
}
