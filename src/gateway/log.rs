//! Log output, as text or JSON.

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error. `RUST_LOG` says how much; by default `info`.
pub(super) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
