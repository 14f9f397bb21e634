//! Ends the stay of clients whose token expires: one ordered table for all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::sync::Notify;

use crate::gateway::state::State;
use crate::{Broadcast, Error};

/// Sockets that are looked after before the control thread does something else.
const AT_A_TIME: usize = 256;
/// The clock may be set, so it is looked at again after this time, in milliseconds.
const LOOK_AGAIN_MS: u64 = 10_000;

/// When which token expires, by the socket that showed it. About 200 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    table: Mutex<Table>,
    /// Something is due earlier than before.
    is_earlier: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// Milliseconds since 1970, and the socket.
    order: BTreeSet<(u64, Arc<str>)>,
    entries: HashMap<Arc<str>, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    due_ms: u64,
    /// `exp` of the token, in seconds since 1970.
    expires_at: u64,
    namespace: Arc<str>,
    is_warned: bool,
}

impl Table {
    fn insert(&mut self, id: Arc<str>, entry: Entry) {
        self.remove(&id);
        self.order.insert((entry.due_ms, id.clone()));
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: &str) {
        if let Some((id, entry)) = self.entries.remove_entry(id) {
            self.order.remove(&(entry.due_ms, id));
        }
    }

    fn pop_due(&mut self, now_ms: u64) -> Option<(Arc<str>, Entry)> {
        self.order.first().filter(|(due_ms, _)| *due_ms <= now_ms)?;
        let (_, id) = self.order.pop_first()?;
        self.entries.remove_entry(&id)
    }
}

impl Expiries {
    /// A socket's token expires at `expires_at`, in seconds since 1970, and its client is told
    /// `warn_before` that. Replaces what was said before. O(log of all).
    pub(crate) fn set(
        &self,
        id: &str,
        namespace: Arc<str>,
        expires_at: u64,
        warn_before: Duration,
    ) {
        let warn_ms = u64::try_from(warn_before.as_millis()).unwrap_or(u64::MAX);
        let due_ms = expires_at.saturating_mul(1_000).saturating_sub(warn_ms);
        let entry = Entry { due_ms, expires_at, namespace, is_warned: false };
        let mut table = self.lock();
        let was = table.order.first().map(|(due_ms, _)| *due_ms);
        table.insert(id.into(), entry);
        if was.is_none_or(|was| due_ms < was) {
            self.is_earlier.notify_one();
        }
    }

    /// A socket has gone.
    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Warns and disconnects, for ever.
pub(crate) async fn watch(state: Arc<State>) {
    loop {
        for _ in 0..AT_A_TIME {
            let due = state.expiries.lock().pop_due(now_ms());
            let Some((id, entry)) = due else { break };
            look_after(&state, id, entry);
        }
        let next = state.expiries.lock().order.first().map(|(due_ms, _)| *due_ms);
        let wait = next.map_or(LOOK_AGAIN_MS, |due_ms| due_ms.saturating_sub(now_ms()));
        let wait = Duration::from_millis(wait.min(LOOK_AGAIN_MS));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = state.expiries.is_earlier.notified() => {}
        }
    }
}

/// Warns a client, or ends its stay.
fn look_after(state: &State, id: Arc<str>, entry: Entry) {
    let rules = state.rules();
    let rules = rules.namespaces.get(&*entry.namespace);
    let Some(socket) = state.server.namespace(&entry.namespace).map(|it| it.to(&*id)) else {
        return;
    };
    let events = rules.map(|rules| rules.auth.events()).unwrap_or_default();
    let ends_ms = entry.expires_at.saturating_mul(1_000).saturating_add(events.leeway_ms);
    let now_ms = now_ms();
    if now_ms < ends_ms && !entry.is_warned {
        let seconds = entry.expires_at.saturating_sub(now_ms / 1_000);
        if !events.expiring.is_empty() {
            let _ = socket.emit(events.expiring, seconds);
        }
        let entry = Entry { due_ms: ends_ms, is_warned: true, ..entry };
        return state.expiries.lock().insert(id, entry);
    }
    if let Err(Error::Limit(_)) = end(socket, events.expired) {
        // Its shard is too busy to take it; nobody stays because of that.
        let entry = Entry { due_ms: now_ms + 100, is_warned: true, ..entry };
        state.expiries.lock().insert(id, entry);
    }
}

fn end(socket: Broadcast, event: &str) -> Result<(), Error> {
    if !event.is_empty() {
        let reason = json!({ "code": "token_expired", "message": "the token has expired" });
        socket.clone().emit(event, &reason)?;
    }
    socket.disconnect_sockets(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_the_last_word_counts() {
        let expiries = Expiries::default();
        let set = |id: &str, at, warn| expiries.set(id, "/".into(), at, Duration::from_secs(warn));
        set("a", 100, 10);
        set("b", 95, 0);
        set("c", 94, 0);
        set("a", 200, 10);
        set("never", u64::MAX, 10);
        expiries.forget("c");
        expiries.forget("c");
        let pop =
            |now| expiries.lock().pop_due(now).map(|(id, entry)| (id.to_string(), entry.due_ms));
        assert_eq!(pop(94_999), None);
        assert_eq!(pop(95_000), Some(("b".into(), 95_000)));
        assert_eq!(pop(189_999), None);
        assert_eq!(pop(190_000), Some(("a".into(), 190_000)));
        assert_eq!(pop(1 << 50), None);
        expiries.forget("never");
        let table = expiries.lock();
        assert!(table.order.is_empty() && table.entries.is_empty());
    }
}
