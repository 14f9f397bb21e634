//! Who a client is: what its token says, what backends say of it, and what follows from both.
//!
//! The two are kept with the socket. What follows is made anew when either changes, and when the
//! configuration does.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::keys::KeyId;
use super::{Permissions, Verifier, claim, denied, permissions};
use crate::gateway::routes::template::{Context, Template};
use crate::gateway::routes::{Refusal, check_room};

/// Longest id of a user, in bytes.
const USER_BYTES_MAX: usize = 200;
/// Entries of a list in a token, or in what a backend says; a longer one is refused.
pub(crate) const LIST_MAX: usize = 1_000;

/// Who a socket belongs to; kept with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct User {
    /// `None` for an anonymous client.
    pub(crate) id: Option<Arc<str>>,
    /// The claims of its token, or those that a backend has given it; `null` without.
    pub(crate) claims: Arc<Value>,
    pub(crate) permissions: Arc<Permissions>,
    /// Rooms that it is in because of all this, but that of its id.
    pub(crate) rooms: Arc<[String]>,
    /// What it has shown; `None` without a token.
    pub(super) token: Option<Arc<Token>>,
    /// What backends have said.
    pub(super) said: Arc<Said>,
    /// Of the rules that this follows from.
    pub(super) version: u64,
}

impl User {
    /// When its token expires, in seconds since 1970.
    pub(crate) fn expires_at(&self) -> Option<u64> {
        self.token.as_ref().and_then(|token| token.expires_at)
    }
}

/// A good token.
#[derive(Debug)]
pub(crate) struct Token {
    /// The user that it names, if it has to name one.
    pub(super) id: Option<Arc<str>>,
    pub(super) claims: Arc<Value>,
    /// In seconds since 1970.
    pub(super) expires_at: Option<u64>,
    /// Who has signed it.
    pub(super) key: KeyId,
}

/// What backends have said of a client when it connected. It counts before what its token says, and
/// for as long as it is connected, whatever new tokens it shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    id: Option<Arc<str>>,
    claims: Option<Arc<Value>>,
    /// All that it may do.
    permissions: Option<Arc<Permissions>>,
    /// Rooms beside those of its token.
    rooms: Vec<String>,
}

/// What one backend says, all of it checked.
#[derive(Debug, Default)]
pub(crate) struct Saying {
    pub(crate) user: Option<Arc<str>>,
    pub(crate) claims: Option<Value>,
    /// Patterns that were read.
    pub(crate) permissions: Option<Vec<String>>,
    pub(crate) rooms: Vec<String>,
}

impl Said {
    /// The same and more; what is said later counts.
    fn and(&self, saying: Saying) -> Said {
        let Saying { user, claims, permissions, rooms } = saying;
        let permissions = permissions.map(|list| Arc::new(Permissions::new(list)));
        Said {
            id: user.or_else(|| self.id.clone()),
            claims: claims.map(Arc::new).or_else(|| self.claims.clone()),
            permissions: permissions.or_else(|| self.permissions.clone()),
            rooms: self.rooms.iter().cloned().chain(rooms).collect(),
        }
    }
}

impl Verifier {
    /// Who a client is after a backend has said something of it.
    ///
    /// # Errors
    /// As [`Verifier::user`].
    pub(crate) fn heard(&self, user: &User, saying: Saying) -> Result<User, Refusal> {
        self.user(user.token.clone(), Arc::new(user.said.and(saying)))
    }

    /// The same client under these rules; `None` where its claims are of no use, so that it stays
    /// what it was.
    pub(super) fn follow(&self, user: &User) -> Option<User> {
        self.user(user.token.clone(), user.said.clone()).ok()
    }

    /// What follows from a token, and from what backends say. O(rooms and permissions).
    ///
    /// # Errors
    /// `token_claims`.
    pub(super) fn user(&self, token: Option<Arc<Token>>, said: Arc<Said>) -> Result<User, Refusal> {
        let none = Arc::default();
        let shown = token.as_ref().map_or(&none, |token| &token.claims);
        let claims = said.claims.as_ref().unwrap_or(shown);
        let id = said.id.as_ref().or(token.as_ref().and_then(|token| token.id.as_ref()));
        let context = Context {
            namespace: "",
            socket: "",
            user: id.map(|id| &**id),
            claims,
            event: "",
            args: "",
        };
        let fill = |templates: &[Template]| -> Vec<String> {
            templates.iter().filter_map(|template| template.fill(&context).ok()).collect()
        };
        let mut rooms = list(shown, &self.rooms_claim, |text| vec![text.to_owned()])?;
        if let Some(at) = rooms.iter().position(|room| check_room(room).is_err()) {
            let claim = &self.rooms_claim;
            return Err(bad_claim(&format!("{claim}[{at}] is no name for a room")));
        }
        rooms.extend(fill(&self.rooms).into_iter().filter(|room| check_room(room).is_ok()));
        rooms.extend(said.rooms.iter().cloned());
        let mut seen = HashSet::new();
        rooms.retain(|room| seen.insert(room.clone()));
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let granted = list(shown, &self.permissions_claim, words)?;
        let permissions = said.permissions.clone().unwrap_or_else(|| {
            // Wildcards of the configuration were read before its places are filled (`templates`).
            let granted = granted.iter().filter_map(|pattern| permissions::read_pattern(pattern));
            Arc::new(Permissions::new(granted.chain(fill(&self.permissions))))
        });
        let (id, claims, version) = (id.cloned(), claims.clone(), self.version);
        Ok(User { id, claims, permissions, rooms: rooms.into(), token, said, version })
    }
}

/// The id of a user, as a text or as JSON has it.
pub(super) fn user_id(value: Option<&Value>) -> Result<Arc<str>, Refusal> {
    let id = match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if !number.is_f64() => number.to_string(),
        _ => return Err(bad_claim("it names no user")),
    };
    match is_user_id(&id) {
        true => Ok(id.into()),
        false => Err(bad_claim("the id of its user is no name for one")),
    }
}

/// Whether a text can be the id of a user.
pub(crate) fn is_user_id(id: &str) -> bool {
    let is_sound = !id.is_empty() && id.len() <= USER_BYTES_MAX;
    is_sound && !id.chars().any(char::is_control)
}

/// The texts of a claim that is a list of them, or one text that `split` makes a list of.
fn list(
    claims: &Value,
    path: &str,
    split: impl Fn(&str) -> Vec<String>,
) -> Result<Vec<String>, Refusal> {
    let wrong = || bad_claim("a claim that should be a list of texts is not");
    let found = if path.is_empty() { None } else { claim(claims, path) };
    let list = match found {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => split(text),
        Some(Value::Array(items)) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    if list.len() > LIST_MAX { Err(bad_claim("a list in it is too long")) } else { Ok(list) }
}

pub(super) fn bad_claim(what: &str) -> Refusal {
    denied("token_claims", &format!("the token cannot be used: {what}"))
}
