//! Rooms that become occupied and vacated, as backends are told of them.
//!
//! A change is told when it has lasted: a room is looked at once in each pause, so one that comes
//! and goes all the time is told of at most so often, and one that was there for a moment never.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::config::units::Time;
use super::state::State;
use crate::Namespace;

/// When backends are told that rooms are occupied or vacated.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long after a change a room is looked at. If it is then as it was, nothing is told.
    /// Default: 200ms.
    pub pause: Time,
    /// Beginnings of names of rooms that are never told. The room of a socket's own id is none of
    /// those that are. Default: `user:`, the rooms of users.
    pub except: Vec<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config { pause: Time::millis(200), except: vec!["user:".into()] }
    }
}

type Key = (Arc<str>, Box<str>);

#[derive(Default)]
struct Room {
    is_occupied: bool,
    /// What was told last.
    is_told: bool,
    /// It is going to be looked at.
    is_awaited: bool,
}

#[derive(Default)]
struct Inner {
    rooms: HashMap<Key, Room>,
    /// Rooms that have changed, and when to look at them.
    changed: VecDeque<(Instant, Key)>,
    is_watched: bool,
}

/// The rooms of all namespaces that backends may be told of.
#[derive(Default)]
pub(crate) struct Occupancy {
    inner: Mutex<Inner>,
}

/// Begins to listen to the rooms of a namespace; before the server listens.
pub(crate) fn register(state: &Arc<State>, namespace: &Namespace) {
    let (created, deleted, joined) = (state.clone(), state.clone(), state.clone());
    namespace
        .on_create_room(move |namespace: &Namespace, room: &str| {
            created.occupancy.changes(&created, namespace.name(), room, true);
        })
        .on_delete_room(move |namespace: &Namespace, room: &str| {
            deleted.occupancy.changes(&deleted, namespace.name(), room, false);
        })
        .on_join_room(move |namespace: &Namespace, room: &str, id: &str| {
            if room == id {
                joined.occupancy.forget(namespace.name(), room);
            }
        });
}

impl Occupancy {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A room that is that of a socket's own id.
    fn forget(&self, namespace: Arc<str>, room: &str) {
        self.lock().rooms.remove(&(namespace, room.into()));
    }

    fn changes(&self, state: &Arc<State>, namespace: Arc<str>, room: &str, is_occupied: bool) {
        let rules = state.rules();
        let Config { pause, except } = &rules.config.rooms;
        if except.iter().any(|start| room.starts_with(start.as_str())) {
            return;
        }
        let key: Key = (namespace, room.into());
        let mut inner = self.lock();
        let known = match is_occupied {
            true => Some(inner.rooms.entry(key.clone()).or_default()),
            // That of a socket's own id is not known.
            false => inner.rooms.get_mut(&key),
        };
        let Some(known) = known else { return };
        known.is_occupied = is_occupied;
        if std::mem::replace(&mut known.is_awaited, true) {
            return;
        }
        inner.changed.push_back((Instant::now() + pause.0, key));
        if !std::mem::replace(&mut inner.is_watched, true) {
            state.spawn(watch(state.clone()));
        }
    }

    /// Tells what has changed without waiting whether it lasts: the gateway ends.
    pub(super) fn tell_now(&self, state: &Arc<State>) {
        let all = self.lock().changed.back().map(|(at, _)| *at);
        let (due, _) = self.due(all.unwrap_or_else(Instant::now));
        tell(state, due);
    }

    /// What there is to tell now, and when to look again.
    fn due(&self, now: Instant) -> (Vec<(Key, bool)>, Option<Instant>) {
        let (mut due, mut inner) = (Vec::new(), self.lock());
        while inner.changed.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = inner.changed.pop_front() else { break };
            let Some(room) = inner.rooms.get_mut(&key) else { continue };
            room.is_awaited = false;
            let is_occupied = room.is_occupied;
            let is_news = std::mem::replace(&mut room.is_told, is_occupied) != is_occupied;
            if !is_occupied {
                inner.rooms.remove(&key);
            }
            if is_news {
                due.push((key, is_occupied));
            }
        }
        let next = inner.changed.front().map(|(at, _)| *at);
        inner.is_watched = next.is_some();
        (due, next)
    }
}

/// Looks at rooms that have changed, until none has.
async fn watch(state: Arc<State>) {
    let mut next = Some(Instant::now() + state.rules().config.rooms.pause.0);
    while let Some(at) = next {
        tokio::time::sleep_until(at).await;
        let (due, later) = state.occupancy.due(Instant::now());
        tell(&state, due);
        next = later;
    }
}

fn tell(state: &Arc<State>, due: Vec<(Key, bool)>) {
    for ((namespace, room), is_occupied) in due {
        state.rules().webhooks.room(state, &namespace, &room, is_occupied);
        state.workers.room(state, &namespace, &room, is_occupied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_last_is_not_told() {
        let occupancy = Occupancy::default();
        let (start, namespace): (_, Arc<str>) = (Instant::now(), "/".into());
        let change = |room: &str, is_occupied: bool| {
            let key: Key = (namespace.clone(), room.into());
            let mut inner = occupancy.lock();
            let known = inner.rooms.entry(key.clone()).or_default();
            known.is_occupied = is_occupied;
            if !std::mem::replace(&mut known.is_awaited, true) {
                inner.changed.push_back((start, key));
            }
        };
        let told = || -> Vec<(String, bool)> {
            let due = occupancy.due(start).0.into_iter();
            due.map(|((_, room), is_occupied)| (room.into(), is_occupied)).collect()
        };
        change("a", true);
        change("b", true);
        change("b", false);
        change("c", true);
        occupancy.forget(namespace.clone(), "c");
        assert_eq!(told(), [("a".to_owned(), true)]);
        for _ in 0..3 {
            change("a", false);
            change("a", true);
        }
        assert!(told().is_empty());
        change("a", false);
        assert_eq!(told(), [("a".to_owned(), false)]);
        assert!(occupancy.lock().rooms.is_empty());
    }
}
