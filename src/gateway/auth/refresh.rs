//! What changes for clients that stay connected: by a new token, or by a new configuration.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::expiry::{Stay, Why};
use super::user::Token;
use super::{User, Verifier, denied};
use crate::gateway::clients::rules_of;
use crate::gateway::clock;
use crate::gateway::limits::{self, Rate};
use crate::gateway::routes::Refusal;
use crate::gateway::state::{NamespaceRules, State};
use crate::visit::Visited;
use crate::{Error, Event, Socket};

/// How often one socket may show a token, since signatures take time.
const RATE: Rate = Rate { per_second: 1.0, burst: Some(5.0) };
/// Sockets that a shard looks at in one go after a reload, and the pause between two.
const STEP: u32 = 2_048;
const PAUSE: Duration = Duration::from_millis(5);

/// Takes a new token: claims, permissions and expiry become those of it, the rooms that only the
/// old one named are left and those that only the new one names are joined. What backends have said
/// of the client stays. Answers `{ok: true, expires_at}`.
///
/// # Errors
/// Nothing has changed then. `user_changed` if the token is of somebody else, `token_missing` if
/// the argument is none, `not_authenticated` if the client came without a token, `token_expired` if
/// it has been told to go, `room_limit`, `rate_limited` beyond five at once or one a second;
/// otherwise as for a client that connects.
pub(crate) async fn refresh(
    state: &Arc<State>,
    rules: &Arc<NamespaceRules>,
    socket: &Socket,
    event: &Event,
) -> Result<(), Refusal> {
    let user = socket.get::<User>().filter(|user| user.token.is_some());
    let said = user.ok_or_else(not_authenticated)?.said.clone();
    limits::admit_route(state, socket, None, limits::REFRESHES, &RATE)?;
    let token: String =
        event.data().map_err(|_| denied("token_missing", "the argument is no token"))?;
    let verifier = rules.clone();
    let job = async move { verifier.auth.identify(&token).await };
    let token = state.on_control(job).await;
    let token = token.unwrap_or_else(|| Err(denied("busy", "shutting down")))?;
    if !socket.is_connected() {
        return Ok(());
    }
    // Both may have changed meanwhile.
    let old = socket.get::<User>().ok_or_else(not_authenticated)?;
    let rules = rules_of(state, socket).unwrap_or_else(|| rules.clone());
    if old.token.as_ref().map(|token| &token.id) != Some(&token.id) {
        return Err(denied("user_changed", "the token is of another user"));
    }
    if rules.auth.unwanted(Some(&token)).is_some() {
        return Err(denied("token_key_unknown", "the key of the token is good no more"));
    }
    let new = rules.auth.user(Some(token), said)?;
    let moves = Moves::between(&old, &new);
    if !moves.fit(state, socket) {
        return Err(limits::room_limit());
    }
    let stay = stay(socket, &new);
    if !state.expiries.renew(socket.id(), stay, rules.auth.warn_before()) {
        return Err(denied("token_expired", "the token has expired"));
    }
    socket.leave(moves.leave);
    socket.join(moves.join);
    let answer = json!({ "ok": true, "expires_at": new.expires_at() });
    socket.set(new);
    let _ = event.ack(&answer);
    Ok(())
}

fn not_authenticated() -> Refusal {
    denied("not_authenticated", "only a client that came with a token can show another one")
}

/// Rooms to leave and to join.
struct Moves {
    leave: Vec<String>,
    join: Vec<String>,
}

impl Moves {
    fn between(old: &User, new: &User) -> Moves {
        let only = |one: &User, other: &User| -> Vec<String> {
            let others: HashSet<&String> = other.rooms.iter().collect();
            one.rooms.iter().filter(|room| !others.contains(room)).cloned().collect()
        };
        Moves { leave: only(old, new), join: only(new, old) }
    }

    /// Whether the socket is not in too many rooms afterwards.
    fn fit(&self, state: &State, socket: &Socket) -> bool {
        let rooms = socket.rooms();
        let rooms: HashSet<&str> = rooms.iter().map(|room| &**room).collect();
        let left = self.leave.iter().filter(|room| rooms.contains(room.as_str())).count();
        let joined = self.join.iter().filter(|room| !rooms.contains(room.as_str())).count();
        // Its own is not counted.
        rooms.len() - left + joined <= state.rules().config.server.max_rooms + 1
    }
}

fn stay(socket: &Socket, user: &User) -> Option<Stay> {
    let namespace = socket.namespace().name();
    let ends_at = user.expires_at()?;
    Some(Stay { namespace, ends_at, why: Why::Expired })
}

/// A client has joined: its stay ends when its token expires. The configuration may have changed
/// since it was let in.
pub(crate) fn begin(state: &Arc<State>, rules: &NamespaceRules, socket: &Socket) {
    let Some(user) = socket.get::<User>().filter(|_| socket.is_connected()) else { return };
    if let Some(stay) = stay(socket, &user) {
        state.expiries.begin(socket.id(), stay, rules.auth.warn_before());
    }
    follow(state, &rules.auth, &socket.visited());
}

/// Makes one client what it is under other rules, and has its stay ended if it would not be let in
/// as it is.
fn follow(state: &State, auth: &Verifier, socket: &Visited<'_>) {
    let Some(old) = socket.get::<User>().filter(|old| old.version != auth.version) else { return };
    if let (Some(id), Some(namespace), Some(why)) =
        (socket.id(), socket.namespace(), auth.unwanted(old.token.as_deref()))
    {
        // It has the time to show another token that it has before an expiry.
        let ends_at = clock::seconds().saturating_add(auth.warn_before().as_secs());
        state.expiries.shorten(&id, Stay { namespace: namespace.into(), ends_at, why });
    }
    let Some(new) = auth.follow(&old) else { return };
    let Moves { leave, join } = Moves::between(&old, &new);
    leave.iter().for_each(|room| socket.leave(room));
    for room in &join {
        // Refused only beyond `max_rooms`, which a token is held to as a whole.
        let _ = socket.join(room);
    }
    socket.set(new);
}

impl Verifier {
    /// Why a client that was let in would not be let in with what it has shown, as far as keys are
    /// concerned.
    fn unwanted(&self, token: Option<&Token>) -> Option<Why> {
        match token {
            None => self.needs_token().then_some(Why::TokenMissing),
            Some(token) => (!self.keys.ids().contains(&token.key)).then_some(Why::KeyGone),
        }
    }
}

/// Makes everybody who is connected what he is under the rules of now, in steps that hold no shard
/// up: after a reload that has changed how clients show who they are.
pub(crate) async fn follow_all(state: Arc<State>) {
    for shard in 0..state.server.shard_stats().len() as u16 {
        let mut from = Some(0);
        while let Some(place) = from {
            if place > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let visiting = state.clone();
            let asked = state.server.visit_some(shard, place, STEP, move |socket| {
                let rules = visiting.rules();
                let name = socket.namespace().unwrap_or_default();
                if let Some(rules) = rules.namespaces.get(&*name) {
                    follow(&visiting, &rules.auth, socket);
                }
            });
            let (parts, silent) = match asked {
                Ok(asked) => asked.await,
                Err(Error::Limit(_)) => (Vec::new(), 1),
                // A server that has stopped has no clients.
                Err(_) => return,
            };
            // A shard that is too busy is asked again; it does no harm to follow twice.
            from = if silent > 0 { Some(place) } else { parts.into_iter().next().flatten() };
            if silent > 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
