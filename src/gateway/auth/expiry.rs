//! Ends the stay of clients whose token expires: one ordered table for all of them.
//!
//! ```text
//!             warn_before            exp and leeway
//!   Quiet ───────────────▶ Warned ───────────────▶ Over, until the socket has gone
//!     ▲ a new token ◀────────┘                       no new token any more
//! ```
//!
//! Each step is made under the lock, so that a client stays which is told that its new token is
//! good.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;

use crate::gateway::clock;
use crate::gateway::state::State;
use crate::{Broadcast, Error};

/// Sockets that are looked after before the control thread does something else.
const AT_A_TIME: usize = 256;
/// The clock may be set, so it is looked at again after this time, in milliseconds.
const LOOK_AGAIN_MS: u64 = 10_000;
/// Time after which a client is told again whose shard was too busy, in milliseconds.
const TELL_AGAIN_MS: u64 = 100;

/// Whose stay ends when. About 200 bytes each.
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

/// Why a stay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The token expires.
    Expired,
    /// The configuration has lost the key that has signed the token.
    KeyGone,
    /// There is no token, and the configuration has come to ask for one.
    TokenMissing,
}

impl Why {
    /// Code and message for the client.
    fn said(self) -> (&'static str, &'static str) {
        match self {
            Why::Expired => ("token_expired", "the token has expired"),
            Why::KeyGone => ("token_key_unknown", "the key of the token is no longer good"),
            Why::TokenMissing => ("token_missing", "a token is needed now"),
        }
    }
}

/// A stay that ends.
#[derive(Debug, Clone)]
pub(super) struct Stay {
    pub(super) namespace: Arc<str>,
    /// In seconds since 1970.
    pub(super) ends_at: u64,
    pub(super) why: Why,
}

#[derive(Debug, Clone)]
struct Entry {
    stay: Stay,
    due_ms: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Quiet,
    Warned,
    /// It has been told to go.
    Over,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Warn,
    End,
}

impl Table {
    fn insert(&mut self, id: Arc<str>, entry: Entry) {
        self.remove(&id);
        // Who has been told to go is there until it has gone.
        if entry.due_ms < u64::MAX {
            self.order.insert((entry.due_ms, id.clone()));
        }
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: &str) {
        if let Some((id, entry)) = self.entries.remove_entry(id) {
            self.order.remove(&(entry.due_ms, id));
        }
    }

    /// The next step that is due, already made; the stay of the namespace that `leeway_ms` is asked
    /// about holds longer by that.
    fn step(
        &mut self,
        now_ms: u64,
        leeway_ms: impl Fn(&str) -> u64,
    ) -> Option<(Arc<str>, Stay, Step)> {
        loop {
            self.order.first().filter(|(due_ms, _)| *due_ms <= now_ms)?;
            let (_, id) = self.order.pop_first()?;
            let (id, mut entry) = self.entries.remove_entry(&id)?;
            let leeway_ms = leeway_ms(&entry.stay.namespace);
            let ends_ms = entry.stay.ends_at.saturating_mul(1_000).saturating_add(leeway_ms);
            let step = match entry.stage {
                Stage::Quiet if now_ms < ends_ms => Some(Step::Warn),
                Stage::Warned if now_ms < ends_ms => None,
                _ => Some(Step::End),
            };
            (entry.due_ms, entry.stage) = match step {
                Some(Step::End) => (u64::MAX, Stage::Over),
                _ => (ends_ms, Stage::Warned),
            };
            let stay = entry.stay.clone();
            self.insert(id.clone(), entry);
            if let Some(step) = step {
                return Some((id, stay, step));
            }
        }
    }

    /// A step that could not be told is made again later, unless a new token has come meanwhile.
    fn again(&mut self, id: &Arc<str>, stay: &Stay, step: Step, due_ms: u64) {
        let Some(mut entry) = self.entries.get(id).cloned() else { return };
        let is_same = entry.stay.ends_at == stay.ends_at && entry.stay.why == stay.why;
        let made = if step == Step::Warn { Stage::Warned } else { Stage::Over };
        if is_same && entry.stage == made {
            entry.due_ms = due_ms;
            if step == Step::Warn {
                entry.stage = Stage::Quiet;
            }
            self.insert(id.clone(), entry);
        }
    }
}

impl Expiries {
    /// The stay of a socket that has come ends, and its client is told `warn_before` that. O(log of
    /// all), as everything here.
    pub(super) fn begin(&self, id: &str, stay: Stay, warn_before: Duration) {
        self.put(&mut self.lock(), id, stay, warn_before);
    }

    /// A new token has been shown, which expires then, or never. False if it comes too late.
    pub(super) fn renew(&self, id: &str, stay: Option<Stay>, warn_before: Duration) -> bool {
        let mut table = self.lock();
        if table.entries.get(id).is_some_and(|entry| entry.stage == Stage::Over) {
            return false;
        }
        match stay {
            Some(stay) => self.put(&mut table, id, stay, warn_before),
            None => table.remove(id),
        }
        true
    }

    /// The stay of a socket ends then, for another reason than before, unless it ends earlier.
    pub(super) fn shorten(&self, id: &str, stay: Stay) {
        let mut table = self.lock();
        let before = table.entries.get(id);
        if before.is_none_or(|it| it.stage != Stage::Over && it.stay.ends_at > stay.ends_at) {
            // It is warned at once.
            self.put(&mut table, id, stay, Duration::MAX);
        }
    }

    fn put(&self, table: &mut Table, id: &str, stay: Stay, warn_before: Duration) {
        let warn_ms = u64::try_from(warn_before.as_millis()).unwrap_or(u64::MAX);
        let due_ms = stay.ends_at.saturating_mul(1_000).saturating_sub(warn_ms).min(u64::MAX - 1);
        let was = table.order.first().map(|(due_ms, _)| *due_ms);
        table.insert(id.into(), Entry { stay, due_ms, stage: Stage::Quiet });
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

/// Warns and disconnects, for ever.
pub(crate) async fn watch(state: Arc<State>) {
    loop {
        for _ in 0..AT_A_TIME {
            let rules = state.rules();
            let leeway_ms = |namespace: &str| {
                rules.namespaces.get(namespace).map_or(0, |rules| rules.auth.events().leeway_ms)
            };
            let step = state.expiries.lock().step(clock::millis(), leeway_ms);
            let Some((id, stay, step)) = step else { break };
            if let Err(Error::Limit(_)) = tell(&state, &id, &stay, step) {
                // Its shard is too busy to take it; nobody stays because of that.
                let due_ms = clock::millis() + TELL_AGAIN_MS;
                state.expiries.lock().again(&id, &stay, step, due_ms);
            }
        }
        let next = state.expiries.lock().order.first().map(|(due_ms, _)| *due_ms);
        let wait = next.map_or(LOOK_AGAIN_MS, |due_ms| due_ms.saturating_sub(clock::millis()));
        let wait = Duration::from_millis(wait.min(LOOK_AGAIN_MS));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = state.expiries.is_earlier.notified() => {}
        }
    }
}

/// Warns a client, or ends its stay.
fn tell(state: &State, id: &Arc<str>, stay: &Stay, step: Step) -> Result<(), Error> {
    let namespace = state.server.namespace(&stay.namespace);
    let Some(socket) = namespace.map(|namespace| namespace.to(&**id)) else { return Ok(()) };
    let rules = state.rules();
    let rules = rules.namespaces.get(&*stay.namespace);
    let events = rules.map(|rules| rules.auth.events()).unwrap_or_default();
    match step {
        Step::Warn if events.expiring.is_empty() => Ok(()),
        Step::Warn => socket.emit(events.expiring, stay.ends_at.saturating_sub(clock::seconds())),
        Step::End => end(socket, events.expired, stay.why),
    }
}

fn end(socket: Broadcast, event: &str, why: Why) -> Result<(), Error> {
    if !event.is_empty() {
        let (code, message) = why.said();
        let reason = json!({ "code": code, "message": message });
        socket.clone().emit(event, &reason)?;
    }
    socket.disconnect_sockets(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(ends_at: u64) -> Stay {
        Stay { namespace: "/".into(), ends_at, why: Why::Expired }
    }

    fn begin(expiries: &Expiries, id: &str, at: u64, warn: u64) {
        expiries.begin(id, stay(at), Duration::from_secs(warn));
    }

    fn step(expiries: &Expiries, now_ms: u64) -> Option<(String, Step)> {
        let step = expiries.lock().step(now_ms, |_| 500);
        step.map(|(id, _, step)| (id.to_string(), step))
    }

    #[test]
    fn the_earliest_comes_first_and_the_last_word_counts() {
        let expiries = Expiries::default();
        begin(&expiries, "a", 100, 10);
        begin(&expiries, "b", 95, 0);
        begin(&expiries, "c", 94, 0);
        begin(&expiries, "a", 200, 10);
        begin(&expiries, "never", u64::MAX, 10);
        expiries.forget("c");
        expiries.forget("c");
        assert_eq!(step(&expiries, 94_999), None);
        assert_eq!(step(&expiries, 95_000), Some(("b".into(), Step::Warn)));
        assert_eq!(step(&expiries, 95_499), None);
        assert_eq!(step(&expiries, 95_500), Some(("b".into(), Step::End)));
        assert_eq!(step(&expiries, 189_999), None);
        assert_eq!(step(&expiries, 190_000), Some(("a".into(), Step::Warn)));
        // Late by far, it is not warned first.
        begin(&expiries, "late", 300, 10);
        assert_eq!(step(&expiries, 400_000), Some(("a".into(), Step::End)));
        assert_eq!(step(&expiries, 400_000), Some(("late".into(), Step::End)));
        assert_eq!(step(&expiries, 1 << 50), None);
        for id in ["a", "b", "late", "never"] {
            expiries.forget(id);
        }
        let table = expiries.lock();
        assert!(table.order.is_empty() && table.entries.is_empty());
    }

    #[test]
    fn a_new_token_counts_until_it_is_too_late() {
        let expiries = Expiries::default();
        let renew = |at| expiries.renew("a", Some(stay(at)), Duration::from_secs(10));
        begin(&expiries, "a", 100, 10);
        // It comes between the step and its telling: the old end is forgotten.
        assert_eq!(step(&expiries, 90_000), Some(("a".into(), Step::Warn)));
        assert!(renew(200));
        expiries.lock().again(&"a".into(), &stay(100), Step::Warn, 91_000);
        assert_eq!(step(&expiries, 189_999), None);
        assert_eq!(step(&expiries, 190_000), Some(("a".into(), Step::Warn)));
        // What could not be told is told again.
        expiries.lock().again(&"a".into(), &stay(200), Step::Warn, 191_000);
        assert_eq!(step(&expiries, 191_000), Some(("a".into(), Step::Warn)));
        assert_eq!(step(&expiries, 200_500), Some(("a".into(), Step::End)));
        assert!(
            !renew(300) && !expiries.renew("a", None, Duration::ZERO),
            "it has been told to go"
        );
        expiries.lock().again(&"a".into(), &stay(200), Step::End, 201_000);
        assert!(!renew(300));
        assert_eq!(step(&expiries, 201_000), Some(("a".into(), Step::End)));
        assert_eq!(step(&expiries, 1 << 50), None);
        expiries.forget("a");
        assert!(renew(300) && expiries.renew("a", None, Duration::ZERO));
        assert!(expiries.lock().entries.is_empty());
    }

    #[test]
    fn a_stay_is_shortened_and_never_lengthened() {
        let expiries = Expiries::default();
        let gone = |ends_at| Stay { why: Why::KeyGone, ..stay(ends_at) };
        begin(&expiries, "short", 50, 0);
        begin(&expiries, "long", 1_000, 0);
        for id in ["short", "long", "endless"] {
            expiries.shorten(id, gone(100));
        }
        let mut warned = [0; 2].map(|_| step(&expiries, 40_000).expect("it is told at once").0);
        warned.sort();
        assert_eq!(warned, ["endless", "long"]);
        assert_eq!(step(&expiries, 40_000), None);
        assert_eq!(step(&expiries, 50_500), Some(("short".into(), Step::End)));
        expiries.shorten("short", gone(0));
        assert_eq!(step(&expiries, 100_499), None);
        assert_eq!(expiries.lock().step(100_500, |_| 500).expect("due").1.why, Why::KeyGone);
    }
}
