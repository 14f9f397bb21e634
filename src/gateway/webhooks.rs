//! Tells a backend over HTTP what clients do, and asks it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::Credentials;
use super::routes::Refusal;
use super::state::{State, User};
use crate::{ConnectError, Raw, Reason};

/// One backend that is told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What routes call it.
    pub name: String,
    /// Where requests go.
    pub url: String,
}

/// All backends.
#[derive(Debug)]
pub(crate) struct Webhooks {}

/// A client that wants to come.
#[derive(Debug)]
pub(crate) struct Connecting {
    pub(crate) namespace: String,
    /// Id of the socket that it will have.
    pub(crate) id: String,
    pub(crate) credentials: Credentials,
}

/// A client that has gone.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) namespace: String,
    pub(crate) id: String,
    pub(crate) user: User,
    pub(crate) reason: Reason,
}

/// A client event that is for a backend.
#[derive(Debug)]
pub(crate) struct Happened {
    pub(crate) namespace: String,
    /// Id of the socket.
    pub(crate) id: String,
    pub(crate) user: User,
    pub(crate) event: String,
    pub(crate) args: Raw,
    /// The client waits for an answer.
    pub(crate) wants_ack: bool,
}

impl Webhooks {
    pub(crate) fn new(_configs: &[Config]) -> Result<Webhooks, String> {
        Ok(Webhooks {})
    }

    /// Asks whether a client may come; the answer may change who it is and its rooms.
    pub(crate) async fn connect(
        &self,
        _state: &Arc<State>,
        _asked: Connecting,
        _user: &mut User,
        _rooms: &mut Vec<String>,
    ) -> Result<(), ConnectError> {
        Ok(())
    }

    /// Brings an event to the backend called `name`. What it answers is for the client's ack.
    ///
    /// # Errors
    /// Why the backend has not got it, or has not taken it.
    pub(crate) async fn event(
        &self,
        _state: &Arc<State>,
        name: &str,
        _happened: Happened,
    ) -> Result<Option<Raw>, Refusal> {
        let message = format!("there is no webhook \"{name}\"");
        Err(Refusal { code: "backend_unavailable", message })
    }

    /// Tells that a client has gone. Never waits.
    pub(crate) fn disconnected(&self, _state: &Arc<State>, _gone: Gone) {}
}
