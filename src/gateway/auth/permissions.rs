//! What a client may do: names, with wildcards.

/// `*` in a pattern that was read; no name that is put into a template has it.
const SEGMENT: char = '\u{1}';
/// `**` in a pattern that was read.
const REST: &str = "\u{2}";
/// What the permission to join a room begins with.
const JOIN: &str = "join:";

/// The permissions of one client: names such as `chat:write`, and `join:` with a room. A segment
/// (what is between two `:`) may be `*` or end in it, which stands for one or more characters but
/// `:`; a last segment `**` stands for all that may follow, `:` included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Permissions(Vec<Box<str>>);

impl Permissions {
    /// Those of a list.
    pub(crate) fn new(patterns: impl IntoIterator<Item = String>) -> Permissions {
        Permissions(patterns.into_iter().map(String::into_boxed_str).collect())
    }

    /// Whether `name` is permitted. O(permissions).
    pub(crate) fn allow(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, name))
    }

    /// Whether the room may be joined. O(permissions).
    pub(crate) fn allow_join(&self, room: &str) -> bool {
        let mut patterns = self.0.iter();
        patterns.any(|pattern| match pattern.strip_prefix(JOIN) {
            Some(rooms) => matches(rooms, room),
            None => &**pattern == REST,
        })
    }
}

/// Makes the wildcards of a pattern what [`Permissions`] takes them for. `None` if one stands where
/// it cannot, or the pattern is no text that people can read.
pub(crate) fn read_pattern(pattern: &str) -> Option<String> {
    if pattern.is_empty() || pattern.chars().any(char::is_control) {
        return None;
    }
    let mut segments: Vec<String> = Vec::new();
    let mut rest = pattern.split(':').peekable();
    while let Some(segment) = rest.next() {
        let is_last = rest.peek().is_none();
        let stem = segment.strip_suffix('*').unwrap_or(segment);
        let read = match segment {
            "**" if is_last => REST.to_owned(),
            _ if stem.contains('*') => return None,
            _ if stem.len() < segment.len() => format!("{stem}{SEGMENT}"),
            _ => segment.to_owned(),
        };
        segments.push(read);
    }
    Some(segments.join(":"))
}

/// One segment after the other, so that the time is linear in the name whatever the pattern.
fn matches(pattern: &str, name: &str) -> bool {
    let mut left = Some(name);
    for wanted in pattern.split(':') {
        let Some(name) = left else { return false };
        if wanted == REST {
            return !name.is_empty();
        }
        let (segment, behind) = match name.split_once(':') {
            Some((segment, behind)) => (segment, Some(behind)),
            None => (name, None),
        };
        let fits = match wanted.strip_suffix(SEGMENT) {
            Some(stem) => segment.len() > stem.len() && segment.starts_with(stem),
            None => wanted == segment,
        };
        if !fits {
            return false;
        }
        left = behind;
    }
    left.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(patterns: &[&str]) -> Permissions {
        Permissions::new(patterns.iter().filter_map(|pattern| read_pattern(pattern)))
    }

    #[test]
    fn names_and_wildcards() {
        for (pattern, yes, no) in [
            ("chat", vec!["chat"], vec!["", "cha", "chat:", "chat:x", "Chat"]),
            ("a:*", vec!["a:b", "a:*", "a:ü"], vec!["a", "a:", "a:b:c", "b:b", ":a:b"]),
            ("a:b*:c", vec!["a:bx:c"], vec!["a:b:c", "a:bx", "a:bx:d", "a:b:x:c"]),
            ("a:**", vec!["a:b", "a:b:c", "a::"], vec!["a", "a:", "b:b"]),
            ("**", vec!["a", "a:b"], vec![""]),
            ("*", vec!["a"], vec!["", "a:b"]),
        ] {
            let permissions = of(&[pattern]);
            assert!(yes.iter().all(|name| permissions.allow(name)), "{pattern}");
            assert!(!no.iter().any(|name| permissions.allow(name)), "{pattern}");
        }
    }

    #[test]
    fn rooms_have_their_own_permission() {
        let permissions = of(&["join:team:*", "room:x"]);
        assert!(permissions.allow_join("team:red"));
        assert!(!permissions.allow_join("room:x") && !permissions.allow_join("join:team:red"));
        assert!(of(&["**"]).allow_join("anything"));
        assert!(!of(&["*:**"]).allow_join("anything"));
    }

    #[test]
    fn what_is_no_pattern_permits_nothing() {
        for pattern in ["", "a**", "**:a", "a*b", "*a", "a\u{1}", "\u{2}", "a\nb", "***"] {
            assert_eq!(read_pattern(pattern), None, "{pattern:?}");
        }
    }
}
