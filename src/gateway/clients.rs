//! What clients meet: whether they may come, and what becomes of their events.

use std::sync::Arc;

use serde_json::json;

use super::auth::{self, Credentials};
use super::limits;
use super::routes::{self, Refusal};
use super::state::{NamespaceRules, Rules, State, User, user_room};
use super::{occupancy, webhooks, workers};
use crate::http::Request;
use crate::{ConnectError, Event, Namespace, Reason, Socket};

/// What clients of a namespace are told that a reload has removed.
pub(crate) const REMOVED: &str = "namespace:removed";

/// Registers everything on the server; before it listens.
pub(crate) fn register(state: &Arc<State>) {
    let asked = state.clone();
    state.server.allow_request(move |request: Request| {
        let allowed = asked.rules().origins.check(&request);
        async move { allowed }
    });
    let asked = state.clone();
    state.server.use_http(move |request: Request, _| {
        let allowed = asked.rules().origins.check_each(&request);
        async move { allowed }
    });
    state.spawn(auth::watch(state.clone()));
    let known = state.rules();
    workers::register(state);
    for name in known.namespaces.keys() {
        serve(state, &state.server.of(name));
    }
    // Namespaces that a reload adds later.
    let asked = state.clone();
    let parent = state.server.of_asked(move |name, _| {
        let is_known = asked.rules().namespaces.contains_key(name.as_str());
        Box::pin(async move { is_known })
    });
    serve(state, &parent);
}

fn serve(state: &Arc<State>, namespace: &Namespace) {
    let (admitting, handling, leaving) = (state.clone(), state.clone(), state.clone());
    let rules = state.rules();
    // Listening costs a lock for each change of a room.
    if rules.webhooks.hears_rooms() || !rules.workers.is_empty() {
        occupancy::register(state, namespace);
    }
    let (welcoming, parting, charging) = (state.clone(), state.clone(), state.clone());
    namespace
        .middleware(move |socket: Socket| {
            let state = admitting.clone();
            async move { admit(&state, &socket).await }
        })
        .on_connect(move |socket: Socket| {
            let state = welcoming.clone();
            async move { welcome(&state, &socket) }
        })
        .on_any(move |socket: Socket, event: Event| {
            let state = handling.clone();
            async move { handle(&state, &socket, &event).await }
        })
        .on_unexpected_ack(move |socket: Socket, answer: Event| {
            let state = charging.clone();
            async move { charge(&state, &socket, &answer) }
        })
        .on_disconnecting(move |socket: Socket, reason: Reason| {
            let state = parting.clone();
            async move {
                if let Some(rules) = rules_of(&state, &socket) {
                    routes::disconnecting(&state, &rules, &socket, reason).await;
                }
            }
        })
        .on_disconnect(move |socket: Socket, reason: Reason| {
            let state = leaving.clone();
            async move { left(&state, &socket, reason) }
        });
}

/// The rules of a socket's namespace; `None` if a reload has removed it.
pub(crate) fn rules_of(state: &State, socket: &Socket) -> Option<Arc<NamespaceRules>> {
    state.rules().namespaces.get(&*socket.namespace().name()).cloned()
}

/// Who a socket belongs to.
pub(crate) fn user_of(socket: &Socket) -> User {
    socket.get::<User>().map(|user| User::clone(&user)).unwrap_or_default()
}

/// Decides about a new socket: by its token, then by the webhook.
async fn admit(state: &Arc<State>, socket: &Socket) -> Result<(), ConnectError> {
    let rules = rules_of(state, socket).ok_or_else(|| ConnectError::new("Invalid namespace"))?;
    limits::admit_connect(state, socket).map_err(|refusal| refused(state, &rules, &refusal))?;
    let credentials = Credentials::of(socket);
    let credentials = credentials.map_err(|refusal| refused(state, &rules, &refusal))?;
    let (name, id) = (rules.name.to_string(), socket.id().to_owned());
    let job = {
        let state = state.clone();
        async move {
            let authenticated = rules.auth.authenticate(&credentials).await;
            let mut user = authenticated.map_err(|refusal| refused(&state, &rules, &refusal))?;
            let asked = webhooks::Connecting { namespace: name, id, credentials };
            let hooks = state.rules();
            let welcome = hooks.webhooks.connect(&state, &rules.auth, asked, &mut user).await;
            let welcome =
                welcome.inspect_err(|_| state.metrics.rejected(&rules.name, "refused"))?;
            // That of its id is one more.
            let count = user.rooms.len() + usize::from(user.id.is_some());
            if count > state.rules().config.server.max_rooms {
                return Err(refused(&state, &rules, &limits::room_limit()));
            }
            Ok((user, welcome))
        }
    };
    let decided = state.on_control(job).await;
    let (user, welcome) = decided.unwrap_or_else(|| Err(ConnectError::new("shutting down")))?;
    if socket.client_id().is_none() {
        welcome.has_gone();
        return Err(ConnectError::new("it has gone"));
    }
    if let Some(id) = &user.id {
        socket.join(user_room(id));
    }
    socket.join(&*user.rooms);
    if let Some(data) = welcome.stays() {
        // It has gone meanwhile if this fails.
        let _ = socket.set_data(&data);
    }
    socket.set(user);
    Ok(())
}

/// A refusal of the gateway's own, counted.
fn refused(state: &State, rules: &NamespaceRules, refusal: &Refusal) -> ConnectError {
    state.metrics.rejected(&rules.name, refusal.code);
    auth::connect_error(refusal)
}

/// Tells workers that a client has connected.
fn came(state: &Arc<State>, socket: &Socket) {
    if state.rules().workers.is_empty() {
        return;
    }
    let (namespace, id, user) =
        (socket.namespace().name(), socket.id().to_owned(), user_of(socket));
    let telling = state.clone();
    state.spawn(async move { telling.workers.connected(&telling, &namespace, &id, &user) });
}

/// A client has joined: from now on it is told of its end, and workers are told of it.
fn welcome(state: &Arc<State>, socket: &Socket) {
    let Some(rules) = rules_of(state, socket) else { return socket.disconnect(false) };
    auth::begin(state, &rules, socket);
    came(state, socket);
}

async fn handle(state: &Arc<State>, socket: &Socket, event: &Event) {
    let Some(rules) = rules_of(state, socket) else { return removed(state, socket, event) };
    rules.count_event(&state.metrics);
    if let Err(refusal) = take(state, &rules, socket, event).await {
        refuse(state, socket, event, &refusal);
    }
}

/// A client has sent an acknowledgement that nobody has asked for: it counts as an event does.
fn charge(state: &State, socket: &Socket, answer: &Event) {
    let Some(rules) = rules_of(state, socket) else { return };
    if let Err(refusal) = limits::admit(state, &rules, socket, answer) {
        refuse(state, socket, answer, &refusal);
    }
}

fn refuse(state: &State, socket: &Socket, event: &Event, refusal: &Refusal) {
    state.metrics.refused(&socket.namespace().name(), refusal);
    answer_refusal(event, refusal);
    limits::exceeded(state, socket, event, refusal);
}

/// An event in a namespace that a reload has removed, on the way of its clients out of it.
fn removed(state: &State, socket: &Socket, event: &Event) {
    state.metrics.events_of(&socket.namespace().name()).inc();
    let message = "the namespace is there no more".into();
    refuse(state, socket, event, &Refusal { code: "no_namespace", message });
    socket.disconnect(false);
}

/// Disconnects the clients of namespaces that the rules have had and have no more. They are told by
/// the event `namespace:removed`, and see that the server has disconnected them: they do not come
/// back by themselves.
pub(crate) fn leave_removed(state: &State, before: &Rules) {
    let rules = state.rules();
    let removed = before.namespaces.keys().filter(|name| !rules.namespaces.contains_key(*name));
    for name in removed {
        let Some(namespace) = state.server.namespace(name) else { continue };
        tracing::warn!(namespace = %name, "was removed; its clients are disconnected");
        let told = namespace.emit(REMOVED, json!({ "namespace": name }));
        if let Err(error) = told.and_then(|()| namespace.disconnect_sockets(false)) {
            // Whoever is still there is disconnected with the next event.
            tracing::error!(namespace = %name, "its clients are still there: {error}");
        }
    }
}

async fn take(
    state: &Arc<State>,
    rules: &Arc<NamespaceRules>,
    socket: &Socket,
    event: &Event,
) -> Result<(), Refusal> {
    limits::admit(state, rules, socket, event)?;
    if rules.auth.is_refresh(event.name()) {
        return auth::refresh(state, rules, socket, event).await;
    }
    routes::run(state, rules, socket, event).await
}

/// Tells the client why nothing was done, where it asks for an answer.
fn answer_refusal(event: &Event, refusal: &Refusal) {
    if event.wants_ack() {
        let _ = event.ack(json!({ "error": refusal }));
    }
}

fn left(state: &Arc<State>, socket: &Socket, reason: Reason) {
    state.expiries.forget(socket.id());
    limits::left(state, socket, reason);
    let user = user_of(socket);
    let namespace = socket.namespace().name().to_string();
    let gone = webhooks::Gone { namespace, id: socket.id().to_owned(), user, reason };
    let rules = state.rules();
    rules.webhooks.disconnected(state, &gone);
    if !rules.workers.is_empty() {
        let telling = state.clone();
        state.spawn(async move { telling.workers.disconnected(&telling, &gone) });
    }
}
