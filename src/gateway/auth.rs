//! Who a client is, and what it may do.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::state::User;
use crate::{ConnectError, Socket};

/// How clients of a namespace show who they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// Which rooms a client may join by itself, and which events it may send.
#[derive(Debug, Clone, Default)]
pub(crate) struct Permissions {}

/// What a client has shown when it connected.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    /// `auth` of the client.
    pub(crate) auth: Value,
    pub(crate) queries: Vec<(String, String)>,
    pub(crate) headers: Vec<(String, String)>,
    /// Its address, behind trusted proxies that of the client.
    pub(crate) address: String,
}

impl Credentials {
    pub(crate) fn of(socket: &Socket) -> Credentials {
        let handshake = socket.handshake();
        let handshake = handshake.as_ref();
        Credentials {
            auth: socket.auth().unwrap_or_default(),
            queries: handshake.map(|shake| shake.queries()).unwrap_or_default(),
            headers: handshake.map(|shake| shake.headers()).unwrap_or_default(),
            address: handshake.map(|shake| shake.address().ip().to_string()).unwrap_or_default(),
        }
    }
}

/// Checks what clients of one namespace show.
#[derive(Debug)]
pub(crate) struct Verifier {}

impl Verifier {
    pub(crate) fn new(_config: &Config) -> Result<Verifier, String> {
        Ok(Verifier {})
    }

    /// The user behind the credentials, and the rooms it joins at once.
    pub(crate) async fn authenticate(
        &self,
        _credentials: &Credentials,
    ) -> Result<(User, Vec<String>), ConnectError> {
        Ok((User { permissions: Arc::default(), ..User::default() }, Vec::new()))
    }
}
