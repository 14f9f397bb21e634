//! Session ids of the application's own making, and the addresses that they stand for. Exists only
//! where there is a generator: without one an id is an address and nobody looks anything up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::id::Id;

/// Longest id of the application, in bytes.
const TEXT_MAX: usize = 128;

/// What all shards of a server know of each other's session ids. Every method takes a lock for as
/// long as a look-up takes.
#[derive(Debug, Default)]
pub struct Directory(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// `None` between the claim and the session.
    ids: HashMap<Arc<str>, Option<Id>>,
    texts: HashMap<Id, Arc<str>>,
}

impl Directory {
    /// Whether a text may be an id: 1 to 128 visible ASCII characters without `"` and `\`, which
    /// would end the text of the open packet.
    pub fn is_id(text: &str) -> bool {
        let is_sound = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        (1..=TEXT_MAX).contains(&text.len()) && text.bytes().all(is_sound)
    }

    /// Takes a text for a session that is about to be opened; false if it is taken.
    pub fn claim(&self, text: &str) -> bool {
        let mut entries = self.entries();
        let is_free = !entries.ids.contains_key(text);
        if is_free {
            entries.ids.insert(text.into(), None);
        }
        is_free
    }

    /// Says which session has claimed a text.
    pub fn bind(&self, text: &str, id: Id) {
        let text: Arc<str> = text.into();
        let mut entries = self.entries();
        entries.texts.insert(id, text.clone());
        entries.ids.insert(text, Some(id));
    }

    /// The session of a text.
    pub fn find(&self, text: &str) -> Option<Id> {
        self.entries().ids.get(text).copied().flatten()
    }

    /// The text of a session.
    pub fn text(&self, id: &Id) -> Option<Arc<str>> {
        self.entries().texts.get(id).cloned()
    }

    /// The session has gone; its text is free.
    pub fn remove(&self, id: &Id) {
        let mut entries = self.entries();
        if let Some(text) = entries.texts.remove(id) {
            entries.ids.remove(&text);
        }
    }

    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.entries().ids.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_belongs_to_one_session_until_it_goes() {
        let directory = Directory::default();
        let id = Id { shard: 1, slot: 2, secret: [3; 9] };
        assert!(directory.claim("a"));
        assert!(!directory.claim("a"), "claimed");
        assert_eq!(directory.find("a"), None, "no session yet");
        directory.bind("a", id);
        assert!(!directory.claim("a"), "bound");
        assert_eq!(directory.find("a"), Some(id));
        assert_eq!(directory.text(&id).as_deref(), Some("a"));
        directory.remove(&id);
        directory.remove(&id);
        assert!(directory.is_empty());
        assert!(directory.claim("a"));
    }

    #[test]
    fn what_may_be_an_id() {
        let long = "x".repeat(128);
        for text in ["a", "node-1:42", "~!@#", &long] {
            assert!(Directory::is_id(text), "{text}");
        }
        let longer = "x".repeat(129);
        for text in ["", "a b", "a\"b", "a\\b", "é", "a\n", &longer] {
            assert!(!Directory::is_id(text), "{text}");
        }
    }
}
