//! New tokens for clients that stay connected.

use std::sync::Arc;

use serde_json::json;

use super::denied;
use crate::gateway::limits::{self, Rate};
use crate::gateway::routes::Refusal;
use crate::gateway::state::{NamespaceRules, State, User};
use crate::{Event, Socket};

/// How often one socket may show a token, since signatures take time.
const RATE: Rate = Rate { per_second: 1.0, burst: Some(5.0) };

/// Takes a new token: claims, permissions and expiry become those of it, the rooms that only the
/// old one named are left and those of the new one joined. Answers `{ok: true, expires_at}`.
///
/// # Errors
/// Nothing has changed then. `user_changed` if the token is of somebody else, `token_missing` if
/// the argument is none, `not_authenticated` if the client is nobody, `rate_limited` beyond five at
/// once or one a second; otherwise as for a client that connects.
pub(crate) async fn refresh(
    state: &Arc<State>,
    rules: &Arc<NamespaceRules>,
    socket: &Socket,
    event: &Event,
) -> Result<(), Refusal> {
    let old = socket.get::<User>().ok_or_else(not_authenticated)?;
    if old.id.is_none() {
        return Err(not_authenticated());
    }
    limits::admit_route(state, socket, None, limits::REFRESHES, &RATE)?;
    let token: String =
        event.data().map_err(|_| denied("token_missing", "the argument is no token"))?;
    let verifier = rules.clone();
    let job = async move { verifier.auth.identify(&token).await };
    let new = state.on_control(job).await;
    let new = new.unwrap_or_else(|| Err(denied("busy", "shutting down")))?;
    if new.id != old.id {
        return Err(denied("user_changed", "the token is of another user"));
    }
    let dropped = old.rooms.iter().filter(|room| !new.rooms.contains(room));
    socket.leave(dropped.cloned().collect::<Vec<_>>());
    socket.join(&*new.rooms);
    let answer = json!({ "ok": true, "expires_at": new.expires_at });
    expect_expiry(state, rules, socket, &new);
    socket.set(new);
    let _ = event.ack(&answer);
    Ok(())
}

/// Has the stay of a client ended when its token expires.
pub(crate) fn expect_expiry(state: &State, rules: &NamespaceRules, socket: &Socket, user: &User) {
    match user.expires_at {
        Some(at) => {
            let namespace = socket.namespace().name();
            state.expiries.set(socket.id(), namespace, at, rules.auth.warn_before());
        }
        None => state.expiries.forget(socket.id()),
    }
}

fn not_authenticated() -> Refusal {
    denied("not_authenticated", "only a client that came with a token can show another one")
}
