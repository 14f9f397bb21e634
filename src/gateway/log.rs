//! Log output, as text or JSON.
//!
//! What the library says through the `log` facade is among it. Nothing here formats configuration
//! or what clients and backends have sent.

use std::io::IsTerminal;
use std::sync::OnceLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
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
        _ => configured(&config.level).map_err(|error| format!("log.level: {error}")),
    }
}

/// The filter that a text means. A word alone is a level, and never the name of a part: a typing
/// error in it would silence everything.
fn configured(text: &str) -> Result<EnvFilter, String> {
    let words = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let mut words = words.filter(|part| !part.contains(['=', '[']));
    if let Some(word) = words.clone().find(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(format!(
            "\"{word}\" is none of off, error, warn, info, debug, trace; for a part write \
             NAME=LEVEL"
        ));
    }
    // What strangers send over TLS is no news, and they may send as much of it as they like. What
    // is configured for that part counts before this.
    let is_on = |word: &str| word.parse::<LevelFilter>().is_ok_and(|it| it != LevelFilter::OFF);
    let quiet = if words.any(is_on) { "rustls=error," } else { "" };
    EnvFilter::try_new(format!("{quiet}{text}")).map_err(|error| error.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_alone_is_a_level() {
        for text in ["verbose", "wran", "info,corecast", "warning"] {
            let error = configured(text).expect_err(text);
            assert!(error.contains("is none of off, error, warn"), "{error}");
        }
        for text in ["info", "WARN", "info,corecast::gateway=debug", "corecast=trace", "off", ""] {
            configured(text).expect(text);
        }
        assert!(configured("loud=very").is_err());
    }

    #[test]
    fn what_strangers_send_over_tls_is_no_news_unless_asked_for() {
        let shown = |text: &str| configured(text).expect(text).to_string();
        assert!(shown("info").contains("rustls=error"), "{}", shown("info"));
        assert!(!shown("off").contains("rustls"), "{}", shown("off"));
        let asked = shown("info,rustls=debug");
        assert!(asked.contains("rustls=debug") && !asked.contains("rustls=error"), "{asked}");
    }
}
