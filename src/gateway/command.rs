//! What a backend may ask for, whichever way it comes: by the HTTP API, or as a worker.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::state::{State, user_room};
use crate::{Broadcast, Error, Raw};

/// Whom a command concerns: the union of rooms, sockets and users, without those in `except`; all
/// of the namespace if nobody is named.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Target {
    /// Namespace. Default: `/`.
    pub(crate) namespace: Option<String>,
    /// Rooms.
    pub(crate) rooms: Vec<String>,
    /// Ids of sockets.
    pub(crate) sockets: Vec<String>,
    /// Ids of users.
    pub(crate) users: Vec<String>,
    /// Rooms whose members are left out.
    pub(crate) except: Vec<String>,
}

impl Target {
    /// The selection as the library knows it.
    ///
    /// # Errors
    /// There is no such namespace.
    pub(crate) fn select(&self, state: &State) -> Result<Broadcast, Problem> {
        let name = self.namespace.as_deref().unwrap_or("/");
        let namespace = state.server.namespace(name);
        let namespace = namespace.ok_or_else(|| Problem::namespace(name))?;
        let users = self.users.iter().map(|user| user_room(user));
        let rooms = self.rooms.iter().chain(&self.sockets).cloned().chain(users);
        let broadcast = namespace.broadcast().to(rooms.collect::<Vec<_>>());
        Ok(broadcast.except(self.except.clone()))
    }
}

/// One command.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Command {
    /// Sends an event.
    Emit {
        /// Whom to send to.
        #[serde(flatten)]
        target: Target,
        /// Name of the event.
        event: String,
        /// Its arguments. Default: none.
        #[serde(default)]
        args: Vec<Value>,
    },
    /// Makes sockets join rooms.
    Join {
        /// Which sockets.
        #[serde(flatten)]
        target: Target,
        /// The rooms to join.
        join: Vec<String>,
    },
    /// Makes sockets leave rooms.
    Leave {
        /// Which sockets.
        #[serde(flatten)]
        target: Target,
        /// The rooms to leave.
        leave: Vec<String>,
    },
    /// Disconnects sockets.
    Disconnect {
        /// Which sockets.
        #[serde(flatten)]
        target: Target,
        /// Close their connections, all namespaces included. Default: false.
        #[serde(default)]
        close: bool,
    },
}

/// Why a command was not carried out; `application/problem+json` (RFC 9457) on the HTTP API.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Problem {
    /// HTTP status.
    pub(crate) status: u16,
    /// What kind of problem, in a few words that do not change.
    pub(crate) title: String,
    /// What was wrong with this one.
    pub(crate) detail: String,
}

impl Problem {
    pub(crate) fn new(status: u16, title: &str, detail: impl Into<String>) -> Problem {
        Problem { status, title: title.into(), detail: detail.into() }
    }

    fn namespace(name: &str) -> Problem {
        Problem::new(404, "no such namespace", format!("there is no namespace \"{name}\""))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let (status, title) = match &error {
            Error::Json(_) | Error::ReservedEvent(_) => (422, "cannot be sent"),
            Error::Limit(_) => (503, "too busy"),
            Error::NotRunning => (503, "shutting down"),
            Error::Timeout => (504, "no answer in time"),
            _ => (500, "failed"),
        };
        Problem::new(status, title, error.to_string())
    }
}

impl Command {
    /// Carries it out.
    ///
    /// # Errors
    /// It cannot be done; nothing was.
    pub(crate) async fn execute(self, state: &Arc<State>) -> Result<Value, Problem> {
        match self {
            Command::Emit { target, event, args } => {
                target.select(state)?.emit(&event, spread(&args)?)?
            }
            Command::Join { target, join } => target.select(state)?.sockets_join(join)?,
            Command::Leave { target, leave } => target.select(state)?.sockets_leave(leave)?,
            Command::Disconnect { target, close } => {
                target.select(state)?.disconnect_sockets(close)?;
            }
        }
        Ok(json!({}))
    }
}

/// Each value as an argument of its own.
fn spread(args: &[Value]) -> Result<Raw, Problem> {
    let json = serde_json::to_string(args).map_err(Error::from)?;
    Ok(Raw { json: json[1..json.len() - 1].to_owned().into(), ..Raw::default() })
}
