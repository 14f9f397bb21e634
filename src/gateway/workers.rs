//! Backends that are Socket.IO clients themselves, in a namespace of their own.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::routes::Refusal;
use super::state::State;
use super::webhooks::Happened;
use crate::Raw;

/// The namespace of workers.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// Those that are connected.
#[derive(Debug, Default)]
pub(crate) struct Workers {}

impl Workers {
    /// Brings an event to one worker. What it answers is for the client's ack.
    ///
    /// # Errors
    /// No worker is there, or none has answered.
    pub(crate) async fn event(
        &self,
        _state: &Arc<State>,
        _happened: Happened,
    ) -> Result<Option<Raw>, Refusal> {
        Err(Refusal { code: "backend_unavailable", message: "no worker is connected".into() })
    }
}
