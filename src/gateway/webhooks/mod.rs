//! Tells a backend over HTTP what clients do, and asks it.
//!
//! ```text
//!   connect, event ──▶ Webhooks ──▶ Hook: lanes ──▶ requests of the control thread ──▶ backend
//!   disconnect, room                 bounded     at most `concurrency`, none while it is down
//! ```
//!
//! What is told ends in exactly one [`Outcome`], which is counted where it ends.

mod answer;
mod breaker;
mod config;
mod hook;
mod message;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::auth::{Credentials, Permissions};
use super::routes::Refusal;
use super::state::{State, User};
use crate::{ConnectError, Raw, Reason};

pub(crate) use answer::Outcome;
use answer::{Admission, Refuse};
pub use config::{Config, Happening};
use config::{Settings, WhenDown};
pub(crate) use hook::Gauges;
use hook::{Answered, Hook};
use message::Message;
pub(crate) use message::{Kind, about, append, append_event, new_id};

/// All backends, in the order of the file.
#[derive(Debug)]
pub(crate) struct Webhooks {
    hooks: Vec<Arc<Hook>>,
}

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
#[derive(Debug, Clone)]
pub(crate) struct Happened {
    pub(crate) namespace: String,
    /// Id of the socket.
    pub(crate) id: String,
    pub(crate) user: User,
    pub(crate) event: String,
    pub(crate) args: Raw,
    /// The client waits for the backend's answer.
    pub(crate) wants_ack: bool,
}

impl Webhooks {
    pub(crate) fn new(configs: &[Config]) -> Result<Webhooks, String> {
        let mut hooks: Vec<Arc<Hook>> = Vec::new();
        for (at, config) in configs.iter().enumerate() {
            let at = |error: String| format!("webhook[{at}].{error}");
            if hooks.iter().any(|hook| *hook.name == *config.name) {
                return Err(at(format!("name: \"{}\" is there twice", config.name)));
            }
            hooks.push(Arc::new(Hook::new(Settings::new(config).map_err(at)?)));
        }
        Ok(Webhooks { hooks })
    }

    /// Goes on with what waits for the same backends of another configuration.
    pub(crate) fn inherit(&mut self, old: &Webhooks) {
        for hook in &mut self.hooks {
            if let Some(known) = old.find(&hook.name) {
                known.configure(hook.settings());
                *hook = known.clone();
            }
        }
    }

    fn find(&self, name: &str) -> Option<&Arc<Hook>> {
        self.hooks.iter().find(|hook| *hook.name == *name)
    }

    /// Whether any is told of rooms.
    pub(crate) fn hears_rooms(&self) -> bool {
        let rooms = [Happening::RoomOccupied, Happening::RoomVacated];
        let hears =
            |hook: &Arc<Hook>| hook.settings().config.on.iter().any(|it| rooms.contains(it));
        self.hooks.iter().any(hears)
    }

    fn wanting(&self, happening: Happening, namespace: &str) -> impl Iterator<Item = &Arc<Hook>> {
        self.hooks.iter().filter(move |hook| hook.settings().wants(happening, namespace))
    }

    /// Asks whether a client may come; the answers may change who it is and its rooms. Returns what
    /// is to be kept with its socket for others to see.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) async fn connect(
        &self,
        state: &Arc<State>,
        asked: Connecting,
        user: &mut User,
        rooms: &mut Vec<String>,
    ) -> Result<Option<Value>, ConnectError> {
        let mut data = None;
        for hook in self.wanting(Happening::Connect, &asked.namespace) {
            if let Some(answer) = ask_about(hook, state, &asked, user, rooms).await? {
                data = apply(answer, user, rooms).or(data);
            }
        }
        Ok(data)
    }

    /// Brings an event to the backend called `name`. What it answers is for the client's ack.
    /// Without somebody who waits it is queued, and the answer is none.
    ///
    /// # Errors
    /// Why the backend has not got it, or has not taken it.
    pub(crate) async fn event(
        &self,
        state: &Arc<State>,
        name: &str,
        happened: Happened,
    ) -> Result<Option<Raw>, Refusal> {
        let Some(hook) = self.find(name) else {
            let message = format!("there is no webhook \"{name}\"");
            return Err(Refusal { code: "backend_unavailable", message });
        };
        let message = Message::event(&happened);
        if !happened.wants_ack {
            return hook.tell(state, message).map(|()| None).map_err(Outcome::refusal);
        }
        let (counted, ended) = hook.ask(state, message).await;
        let (outcome, args) = match ended {
            Ok(Answered::Taken(reply)) => match reply.args() {
                Ok(args) => (Outcome::Delivered, Some(args)),
                Err(error) => {
                    tracing::warn!(webhook = name, error, "an answer cannot be used");
                    (Outcome::BadAnswer, None)
                }
            },
            Ok(Answered::Refused(_)) => (Outcome::Refused, None),
            Err(outcome) => (outcome, None),
        };
        counted.ends(outcome);
        args.map(Some).ok_or_else(|| outcome.refusal())
    }

    /// Tells that a client has gone. Never waits.
    pub(crate) fn disconnected(&self, state: &Arc<State>, gone: &Gone) {
        for hook in self.wanting(Happening::Disconnect, &gone.namespace) {
            // That it is lost was counted.
            let _ = hook.tell(state, Message::disconnect(gone));
        }
    }

    /// Tells that a room has got its first socket, or lost its last. Never waits.
    pub(crate) fn room(&self, state: &Arc<State>, namespace: &str, room: &str, is_occupied: bool) {
        let happening = if is_occupied { Happening::RoomOccupied } else { Happening::RoomVacated };
        for hook in self.wanting(happening, namespace) {
            let _ = hook.tell(state, Message::room(namespace, room, is_occupied));
        }
    }

    /// How each is doing.
    pub(crate) fn gauges(&self) -> Vec<Gauges> {
        self.hooks.iter().map(|hook| hook.gauges()).collect()
    }

    /// Waits until nothing waits any more, for that time at most, and gives up what is left: the
    /// gateway ends. Backends that are down are not waited for.
    pub(crate) async fn finish(&self, state: &Arc<State>, within: Duration) {
        let end = tokio::time::Instant::now() + within;
        let is_busy = || self.gauges().iter().any(|hook| hook.queued > 0 && !hook.is_open);
        while is_busy() && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for hook in &self.hooks {
            hook.give_up(state);
        }
    }
}

/// Asks one backend about a client. `None`: it does not answer, and the client may come all the
/// same.
async fn ask_about(
    hook: &Arc<Hook>,
    state: &Arc<State>,
    asked: &Connecting,
    user: &User,
    rooms: &[String],
) -> Result<Option<Admission>, ConnectError> {
    let (counted, ended) = hook.ask(state, Message::connect(asked, user, rooms)).await;
    let (outcome, result) = match ended {
        Ok(Answered::Taken(reply)) => match reply.admission() {
            Ok(Admission { refuse: Some(refuse), .. }) => (Outcome::Delivered, Err(refuse.into())),
            Ok(answer) => (Outcome::Delivered, Ok(Some(answer))),
            Err(error) => {
                tracing::warn!(webhook = &*hook.name, error, "an answer cannot be used");
                (Outcome::BadAnswer, Err(Refuse::unavailable()))
            }
        },
        Ok(Answered::Refused(reply)) => (Outcome::Refused, Err(reply.refusal())),
        Err(outcome) => match hook.settings().config.when_down {
            WhenDown::Admit => (outcome, Ok(None)),
            WhenDown::Refuse => (outcome, Err(Refuse::unavailable())),
        },
    };
    counted.ends(outcome);
    result
}

/// Changes who a client is as the backend says; returns what is to be kept with its socket.
fn apply(answer: Admission, user: &mut User, rooms: &mut Vec<String>) -> Option<Value> {
    if let Some(id) = answer.user {
        user.id = Some(id.into());
    }
    if let Some(claims) = answer.claims {
        user.claims = Arc::new(claims);
    }
    if let Some(permissions) = answer.permissions {
        user.permissions = Arc::new(Permissions::new(permissions));
    }
    for room in answer.rooms {
        if !rooms.contains(&room) {
            rooms.push(room);
        }
    }
    answer.data
}
