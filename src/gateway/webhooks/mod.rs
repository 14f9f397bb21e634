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
mod lanes;
mod message;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::auth::{Credentials, Saying, Verifier, connect_error};
use super::routes::Refusal;
use super::state::{State, User};
use crate::{ConnectError, Raw, Reason};

pub(crate) use answer::Outcome;
use answer::{Admission, Lost, Refuse};
pub use config::{Config, Happening};
use config::{Settings, WhenDown};
pub(crate) use hook::Gauges;
use hook::{Answered, Hook};
use message::Message;
pub(crate) use message::{Kind, about, append, append_event, new_id};

/// Whether any of them decides who may come to a namespace.
pub(crate) fn decide(configs: &[Config], namespace: &str) -> bool {
    configs.iter().any(|config| config.wants(Happening::Connect, namespace))
}

/// All backends, in the order of the file.
#[derive(Debug)]
pub(crate) struct Webhooks {
    hooks: Vec<Arc<Hook>>,
    /// Those that reloads have removed, while something waits for them.
    retired: Vec<Arc<Hook>>,
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
        let (mut hooks, mut wrong) = (Vec::<Arc<Hook>>::new(), Vec::new());
        for (at, config) in configs.iter().enumerate() {
            let at = |error: String| format!("webhook[{at}].{error}");
            if hooks.iter().any(|hook| *hook.name == *config.name) {
                wrong.push(at(format!("name: \"{}\" is there twice", config.name)));
            }
            match Settings::new(config) {
                Ok(settings) => hooks.push(Arc::new(Hook::new(settings))),
                Err(error) => wrong.push(at(error)),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong.join(
                "
",
            ));
        }
        Ok(Webhooks { hooks, retired: Vec::new() })
    }

    /// Goes on with what waits for the same backends of another configuration. What waits for one
    /// that this has not is brought to where it was to go.
    pub(crate) fn inherit(&mut self, old: &Webhooks) {
        for known in old.hooks.iter().chain(&old.retired) {
            if let Some(hook) = self.hooks.iter_mut().find(|hook| hook.name == known.name) {
                known.configure(hook.settings());
                *hook = known.clone();
            } else if known.gauges().queued > 0 || old.find(&known.name).is_some() {
                // An event that came under the old rules may still be on its way to it.
                self.retired.push(known.clone());
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

    /// Asks whether a client may come; the answers may change who it is and what follows from that.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) async fn connect(
        &self,
        state: &Arc<State>,
        verifier: &Verifier,
        asked: Connecting,
        user: &mut User,
    ) -> Result<Welcome, ConnectError> {
        let mut welcome = Welcome::new(state, &asked, user);
        for hook in self.wanting(Happening::Connect, &asked.namespace) {
            if let Some(answer) = welcome.ask(hook, &asked, user).await? {
                let Admission { user: id, claims, rooms, permissions, data, .. } = answer;
                let saying = Saying { user: id.map(Arc::from), claims, permissions, rooms };
                let heard = verifier.heard(user, saying);
                *user = heard.map_err(|refusal| connect_error(&refusal))?;
                welcome.data = data.or(welcome.data.take());
                welcome.gone.user = user.clone();
            }
        }
        Ok(welcome)
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
        let (outcome, why, args) = match ended {
            Ok(Answered::Taken(reply)) => match reply.args() {
                Ok(args) => (Outcome::Delivered, String::new(), Some(args)),
                Err(error) => (Outcome::BadAnswer, error, None),
            },
            Ok(Answered::Refused(reply)) => (Outcome::Refused, reply.why(), None),
            Err(Lost { outcome, why }) => (outcome, why, None),
        };
        counted.ends(outcome, why);
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

    /// How each is doing; of those that a reload has removed the ones that something waits for.
    pub(crate) fn gauges(&self) -> Vec<Gauges> {
        let retired = self.retired.iter().map(|hook| hook.gauges()).filter(|it| it.queued > 0);
        self.hooks.iter().map(|hook| hook.gauges()).chain(retired).collect()
    }

    /// Waits until nothing waits any more, for that time at most, and gives up what is left: the
    /// gateway ends. Backends that are down are not waited for.
    pub(crate) async fn finish(&self, state: &Arc<State>, within: Duration) {
        let end = tokio::time::Instant::now() + within;
        let is_busy = || self.gauges().iter().any(|hook| hook.queued > 0 && !hook.is_open);
        while is_busy() && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for hook in self.hooks.iter().chain(&self.retired) {
            hook.give_up(state);
        }
    }
}

/// Backends that have let a client in. Unless it [stays](Welcome::stays) they are told that it has
/// gone, so that none counts it as there: it was not there any more when they had decided, or
/// something else has kept it out.
pub(crate) struct Welcome {
    state: Arc<State>,
    told: Vec<Arc<Hook>>,
    gone: Gone,
    /// What is to be kept with the socket for others to see.
    data: Option<Value>,
}

impl Welcome {
    fn new(state: &Arc<State>, asked: &Connecting, user: &User) -> Welcome {
        let (namespace, id) = (asked.namespace.clone(), asked.id.clone());
        let reason = Reason::ServerNamespaceDisconnect;
        let gone = Gone { namespace, id, user: user.clone(), reason };
        Welcome { state: state.clone(), told: Vec::new(), gone, data: None }
    }

    /// The client comes in; it will be told of its end otherwise. Returns what is to be kept with
    /// its socket for others to see.
    pub(crate) fn stays(mut self) -> Option<Value> {
        self.told.clear();
        self.data.take()
    }

    /// The client has gone by itself.
    pub(crate) fn has_gone(mut self) {
        self.gone.reason = Reason::TransportClose;
    }

    /// Asks one backend about the client. `None`: it does not answer, and the client may come all
    /// the same.
    async fn ask(
        &mut self,
        hook: &Arc<Hook>,
        asked: &Connecting,
        user: &User,
    ) -> Result<Option<Admission>, ConnectError> {
        let (counted, ended) = hook.ask(&self.state, Message::connect(asked, user)).await;
        let (outcome, why, result) = match ended {
            Ok(Answered::Taken(reply)) => match reply.admission() {
                Ok(Admission { refuse: Some(refuse), .. }) => {
                    (Outcome::Delivered, String::new(), Err(refuse.into()))
                }
                Ok(answer) => (Outcome::Delivered, String::new(), Ok(Some(answer))),
                Err(error) => (Outcome::BadAnswer, error, Err(Refuse::unavailable())),
            },
            Ok(Answered::Refused(reply)) => (Outcome::Refused, reply.why(), Err(reply.refusal())),
            Err(Lost { outcome, why }) => match hook.settings().config.when_down {
                WhenDown::Admit => (outcome, why, Ok(None)),
                WhenDown::Refuse => (outcome, why, Err(Refuse::unavailable())),
            },
        };
        let has_let_in = match outcome {
            Outcome::Delivered => result.is_ok(),
            // It may have.
            Outcome::BadAnswer | Outcome::TimedOut => true,
            _ => false,
        };
        if has_let_in {
            self.told.push(hook.clone());
        }
        counted.ends(outcome, why);
        result
    }
}

impl Drop for Welcome {
    fn drop(&mut self) {
        for hook in self.told.drain(..) {
            if hook.settings().wants(Happening::Disconnect, &self.gone.namespace) {
                // That it is lost was counted.
                let _ = hook.tell(&self.state, Message::disconnect(&self.gone));
            }
        }
    }
}
