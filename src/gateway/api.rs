//! The HTTP API, on a listener of its own.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::State;

/// Where backends and operators talk to the gateway.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the API. Default: 127.0.0.1:4001. Not reloaded.
    pub listen: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Config { listen: SocketAddr::from(([127, 0, 0, 1], 4001)) }
    }
}

/// Binds the listener.
///
/// # Errors
/// The address cannot be had.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| format!("api.listen: cannot listen on {address}: {error}"))
}

/// Serves the API for ever.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    let app = Router::new().route("/healthz", get(|| async { "ok" })).with_state(state);
    let served = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => axum::serve(listener, app).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!("the API has ended: {error}");
    }
}
