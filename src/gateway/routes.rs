//! What becomes of client events: one table for each namespace.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::{NamespaceRules, State};
use crate::{Event, Socket};

/// One route: which event, and what to do with it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the event; `*` stands for all that have no route of their own.
    pub event: String,
    /// What to do.
    pub r#do: Action,
}

/// What to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// To everyone in the namespace.
    Broadcast,
    /// Nothing.
    Drop,
}

/// Why nothing was done with an event.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Refusal {
    /// A word for programs.
    pub(crate) code: &'static str,
    /// A sentence for people.
    pub(crate) message: String,
}

/// The routes of one namespace.
#[derive(Debug)]
pub(crate) struct Table {
    routes: Vec<Config>,
}

impl Table {
    pub(crate) fn new(routes: &[Config]) -> Result<Table, String> {
        Ok(Table { routes: routes.to_vec() })
    }

    fn find(&self, event: &str) -> Option<&Config> {
        let named = self.routes.iter().find(|route| route.event == event);
        named.or_else(|| self.routes.iter().find(|route| route.event == "*"))
    }
}

/// Does with an event what its route says.
pub(crate) async fn run(
    _state: &Arc<State>,
    rules: &NamespaceRules,
    socket: &Socket,
    event: &Event,
) -> Result<(), Refusal> {
    match rules.routes.find(event.name()).map(|route| route.r#do) {
        Some(Action::Broadcast) => {
            let _ = socket.namespace().emit(event.name(), event.raw());
        }
        Some(Action::Drop) | None => {}
    }
    Ok(())
}
