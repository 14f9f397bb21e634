//! Who a client is, and what it may do.
//!
//! Tokens are checked on the control thread; what comes of it, a [`User`], is kept with the socket.

mod expiry;
mod jwks;
mod keys;
mod origins;
mod permissions;
mod refresh;
mod token;
mod user;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use self::keys::Keys;
use self::token::{Checks, Source};
use self::user::{Token, user_id};
use super::config::units::{Size, Time};
use super::routes::template::Template;
use super::routes::{Refusal, check_template};
use crate::{ConnectError, Socket};

pub(crate) use self::expiry::{Expiries, watch};
pub(crate) use self::origins::{Origins, cors};
pub(crate) use self::permissions::{Permissions, read_pattern};
pub(crate) use self::refresh::{begin, follow_all, refresh};
pub(crate) use self::user::{LIST_MAX, Saying, User, is_user_id};

/// Longest `auth` of a client, in bytes of JSON.
const AUTH_BYTES_MAX: usize = 64 * 1_024;
/// Longest leeway: a day.
const LEEWAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How clients of a namespace show who they are, and what follows from it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Keys that tokens (JWT) are signed with. Default: none; then no token is looked at and every
    /// client is anonymous, unless a connect webhook says who it is.
    #[serde(rename = "key")]
    pub keys: Vec<keys::Config>,
    /// Where the token is, in the order of looking; the first that is there counts.
    /// `auth.NAME` is what the client sends as `auth` (a dotted path), `header.NAME` a header
    /// (of `authorization` what follows `Bearer`), `cookie.NAME` a cookie, `query.NAME` a value of
    /// the query, which proxies like to log. A cookie needs `origins`. Default: `auth.token`,
    /// `header.authorization`.
    pub token_from: Vec<String>,
    /// Let clients without a token in, as nobody in particular. A token that is there must be good
    /// all the same. Default: false where there are keys.
    pub anonymous: Option<bool>,
    /// Issuers (`iss`) of which a token must name one. Default: any or none.
    pub issuers: Vec<String>,
    /// Audiences (`aud`) of which a token must name one. Default: any or none.
    pub audiences: Vec<String>,
    /// Time that clocks may differ: a token holds so much longer (`exp`) and earlier (`nbf`).
    /// Default: 5s. At most a day.
    pub leeway: Time,
    /// Refuse tokens that never expire. Default: true.
    pub require_expiry: bool,
    /// Longest token. Default: 8KiB.
    pub max_token_size: Size,
    /// Claim with the id of the user, a text or a whole number of at most 200 bytes; a dotted path
    /// for a claim within others. Empty: tokens name no user. Default: `sub`.
    pub user_claim: String,
    /// Claim with rooms to join at once, a text or a list of them; a dotted path. Default: `rooms`.
    pub rooms_claim: String,
    /// Claim with permissions, a list of texts, or one text with spaces between them (such as
    /// `scope`); a dotted path. Default: `permissions`.
    pub permissions_claim: String,
    /// Rooms that every client joins at once, such as `team:{claims.team}`. One that cannot be
    /// filled is left out, also because of a value that is empty or has a `:` beside other text.
    /// Default: none; each client is in `user:` and its user's id anyway.
    pub rooms: Vec<String>,
    /// Permissions of every client, beside those of its token, such as `join:room:{user}`,
    /// `join:team:*` or `chat:write`. Default: none.
    pub permissions: Vec<String>,
    /// Event that tells a client so many seconds before its token expires; its argument is that
    /// number. Empty: none. Default: `auth:expiring`.
    pub expiring_event: String,
    /// Time before the expiry at which it is told. Default: 60s.
    pub warn_before: Time,
    /// Event by which a client shows a new token, its only argument, while it is connected. It must
    /// be of the same user. Empty: none. Default: `auth:refresh`.
    pub refresh_event: String,
    /// Event that tells a client that it is disconnected because its token has expired. Empty:
    /// none. Default: `auth:expired`.
    pub expired_event: String,
    /// Pages that may connect: `https://example.com`, `https://*.example.com` (any below it),
    /// `null`, `*`. Others are answered 403 at the handshake, or refused by the namespace if others
    /// allow them. Clients that are no pages name no origin and may connect. Default: all, but then
    /// browsers do not let pages of other sites use long-polling.
    pub origins: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            keys: Vec::new(),
            token_from: vec!["auth.token".into(), "header.authorization".into()],
            anonymous: None,
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway: Time::secs(5),
            require_expiry: true,
            max_token_size: Size(8 * 1024),
            user_claim: "sub".into(),
            rooms_claim: "rooms".into(),
            permissions_claim: "permissions".into(),
            rooms: Vec::new(),
            permissions: Vec::new(),
            expiring_event: "auth:expiring".into(),
            warn_before: Time::secs(60),
            refresh_event: "auth:refresh".into(),
            expired_event: "auth:expired".into(),
            origins: Vec::new(),
        }
    }
}

/// What a client has shown when it connected.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// `auth` of the client.
    pub(crate) auth: Value,
    pub(crate) queries: Vec<(String, String)>,
    pub(crate) headers: Vec<(String, String)>,
    /// Its address, behind trusted proxies that of the client.
    pub(crate) address: String,
}

impl fmt::Debug for Credentials {
    /// Without what may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Credentials {
    /// # Errors
    /// `auth_too_large`, told before anything of it is decoded.
    pub(crate) fn of(socket: &Socket) -> Result<Credentials, Refusal> {
        let auth: Box<RawValue> = socket.auth().unwrap_or_default();
        if auth.get().len() > AUTH_BYTES_MAX {
            let message = format!("auth has more than {AUTH_BYTES_MAX} bytes");
            return Err(Refusal { code: "auth_too_large", message });
        }
        let handshake = socket.handshake();
        let handshake = handshake.as_ref();
        Ok(Credentials {
            auth: serde_json::from_str(auth.get()).unwrap_or_default(),
            queries: handshake.map(|shake| shake.queries()).unwrap_or_default(),
            headers: handshake.map(|shake| shake.headers()).unwrap_or_default(),
            address: handshake.map(|shake| shake.address().ip().to_string()).unwrap_or_default(),
        })
    }

    /// The first header of that name, which is in lower case.
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// The value at a dotted path of claims. Names of claims may have dots in them themselves.
pub(crate) fn claim<'a>(claims: &'a Value, path: &str) -> Option<&'a Value> {
    let claims = claims.as_object()?;
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let dots = path.match_indices('.');
    dots.filter_map(|(at, _)| claim(claims.get(&path[..at])?, &path[at + 1..])).next()
}

/// Checks what clients of one namespace show.
#[derive(Debug)]
pub(crate) struct Verifier {
    /// The same for the same configuration and keys.
    version: u64,
    keys: Keys,
    checks: Checks,
    sources: Vec<Source>,
    token_bytes_max: usize,
    is_anonymous_allowed: Option<bool>,
    user_claim: Box<str>,
    rooms_claim: Box<str>,
    permissions_claim: Box<str>,
    rooms: Vec<Template>,
    permissions: Vec<Template>,
    expiring_event: Box<str>,
    refresh_event: Box<str>,
    expired_event: Box<str>,
    warn_before: Duration,
    leeway: Duration,
    pub(crate) origins: Origins,
}

/// What clients are told about their token while they are connected; empty names are not told.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Events<'a> {
    pub(crate) expiring: &'a str,
    pub(crate) expired: &'a str,
    pub(crate) leeway_ms: u64,
}

impl Verifier {
    /// # Errors
    /// A key cannot be used, or a text says what cannot be; it is named.
    pub(crate) fn new(config: &Config) -> Result<Verifier, String> {
        if config.leeway.0 > LEEWAY_MAX {
            return Err("auth.leeway: more than a day".into());
        }
        check_events(config)?;
        check_keyless(config)?;
        let sources = config.token_from.iter().map(|source| Source::parse(source));
        let sources: Vec<Source> = sources.collect::<Result<_, _>>()?;
        let is_cookie = |source: &Source| matches!(source, Source::Cookie(_));
        if config.origins.is_empty() && sources.iter().any(is_cookie) {
            return Err(
                "auth.token_from: with a cookie any page may connect as its visitors: name \
                        the pages that may in auth.origins"
                    .into(),
            );
        }
        let origins = Origins::new(&config.origins).map_err(|error| format!("auth.{error}"))?;
        let keys = Keys::new(&config.keys)?;
        // Secrets are not in the text, but the ids of the keys are of them.
        let version = keys::hash(&(serde_json::to_string(config).ok(), keys.ids()));
        Ok(Verifier {
            version,
            keys,
            checks: Checks::new(config),
            sources,
            token_bytes_max: config.max_token_size.0,
            is_anonymous_allowed: config.anonymous,
            user_claim: config.user_claim.as_str().into(),
            rooms_claim: config.rooms_claim.as_str().into(),
            permissions_claim: config.permissions_claim.as_str().into(),
            rooms: templates("auth.rooms", &config.rooms)?,
            permissions: templates("auth.permissions", &config.permissions)?,
            expiring_event: config.expiring_event.as_str().into(),
            refresh_event: config.refresh_event.as_str().into(),
            expired_event: config.expired_event.as_str().into(),
            warn_before: config.warn_before.0,
            leeway: config.leeway.0,
            origins,
        })
    }

    /// The user behind the credentials. Waits for a key set at most.
    ///
    /// # Errors
    /// It may not come; the code is one of `origin_not_allowed` and those of
    /// [`Verifier::identify`].
    pub(crate) async fn authenticate(&self, credentials: &Credentials) -> Result<User, Refusal> {
        if !self.origins.allow(credentials.header("origin")) {
            let message = "pages of this origin may not connect".into();
            return Err(Refusal { code: "origin_not_allowed", message });
        }
        let token = match self.keys.is_empty() {
            true => None,
            false => self.sources.iter().find_map(|source| source.find(credentials)),
        };
        match token {
            Some(token) => self.user(Some(self.identify(&token).await?), Arc::default()),
            None if !self.needs_token() => self.user(None, Arc::default()),
            None => Err(denied("token_missing", "a token is needed")),
        }
    }

    /// Whether nobody may come without a token.
    fn needs_token(&self) -> bool {
        !self.keys.is_empty() && self.is_anonymous_allowed != Some(true)
    }

    /// What a token says.
    ///
    /// # Errors
    /// `token_too_large`, `token_malformed`, `token_algorithm`, `token_key_unknown`,
    /// `token_signature`, `token_expired`, `token_not_yet_valid`, `token_issuer`,
    /// `token_audience`, `token_claims`; `keys_unavailable` if the key set could not be fetched.
    async fn identify(&self, token: &str) -> Result<Arc<Token>, Refusal> {
        if token.len() > self.token_bytes_max {
            return Err(denied("token_too_large", "the token is too long"));
        }
        let (claims, key) = token::verify(&self.keys, &self.checks, token).await?;
        let expires_at = claims.get("exp").and_then(token::seconds);
        let id = match &*self.user_claim {
            "" => None,
            path => Some(user_id(claim(&claims, path))?),
        };
        Ok(Arc::new(Token { id, claims: Arc::new(claims), expires_at, key }))
    }

    /// Whether it does with clients what the other one does.
    pub(crate) fn is_same(&self, other: &Verifier) -> bool {
        self.version == other.version
    }

    /// Whether it says that nobody may come without a token, and can check none.
    pub(crate) fn is_closed_without_key(&self) -> bool {
        self.keys.is_empty() && self.is_anonymous_allowed == Some(false)
    }

    /// The event that shows a new token; empty if none does.
    pub(crate) fn refresh_event(&self) -> &str {
        &self.refresh_event
    }

    /// Events that clients take for the gateway's, and the one that it takes for itself; some may
    /// be empty.
    pub(crate) fn own_events(&self) -> [&str; 3] {
        [&self.expiring_event, &self.expired_event, &self.refresh_event]
    }

    /// Whether this event shows a new token.
    pub(crate) fn is_refresh(&self, event: &str) -> bool {
        !self.refresh_event.is_empty() && *self.refresh_event == *event
    }

    /// When a client whose token expires is told.
    pub(crate) fn warn_before(&self) -> Duration {
        self.warn_before
    }

    /// What clients are told.
    pub(crate) fn events(&self) -> Events<'_> {
        let (expiring, expired) = (&*self.expiring_event, &*self.expired_event);
        Events { expiring, expired, leeway_ms: self.leeway.as_millis() as u64 }
    }
}

/// The names of events are names, and each has its own.
fn check_events(config: &Config) -> Result<(), String> {
    let Config { expiring_event, refresh_event, expired_event, .. } = config;
    let events = [
        ("expiring_event", expiring_event),
        ("refresh_event", refresh_event),
        ("expired_event", expired_event),
    ];
    for (at, (key, event)) in events.iter().enumerate() {
        crate::emit::check_name(event).map_err(|error| format!("auth.{key}: {error}"))?;
        let mut before = events[..at].iter();
        if !event.is_empty() && before.any(|(_, other)| other == event) {
            return Err(format!("auth.{key}: another event has that name"));
        }
    }
    Ok(())
}

/// What tokens have to be is no use where none is looked at: whoever says it thinks that one is.
fn check_keyless(config: &Config) -> Result<(), String> {
    let default = Config::default();
    let asked = [
        ("issuers", !config.issuers.is_empty()),
        ("audiences", !config.audiences.is_empty()),
        ("require_expiry", config.require_expiry != default.require_expiry),
        ("token_from", config.token_from != default.token_from),
    ];
    match asked.iter().find(|(_, is_asked)| *is_asked && config.keys.is_empty()) {
        Some((key, _)) => Err(format!(
            "auth.{key}: there is no auth.key, so no token is looked at and everybody is let in"
        )),
        None => Ok(()),
    }
}

/// Texts that are filled with who a client is, their wildcards already made those of
/// [`Permissions`], so that one in a claim is none.
fn templates(key: &str, texts: &[String]) -> Result<Vec<Template>, String> {
    let is_pattern = key == "auth.permissions";
    let read = |text: &String| {
        let template = match is_pattern {
            true => permissions::read_pattern(text),
            false => Some(text.clone()),
        };
        let template = template.ok_or_else(|| format!("{key}: \"{text}\" is no pattern"))?;
        let template = Template::parse(&template).map_err(|error| format!("{key}: {error}"))?;
        if !template.needs_user_alone() {
            return Err(format!("{key}: \"{text}\" takes {{user}} and {{claims.key}} alone"));
        }
        let room = if is_pattern { Ok(()) } else { check_template(&template) };
        room.map_err(|error| format!("{key}: \"{text}\": {error}"))?;
        Ok(template)
    };
    texts.iter().map(read).collect()
}

fn denied(code: &'static str, message: &str) -> Refusal {
    Refusal { code, message: message.into() }
}

/// A refusal as a client that wants to connect is told: the message, and as data the code, the
/// message, and for what may be otherwise later the milliseconds after which to try again.
pub(crate) fn connect_error(refusal: &Refusal) -> ConnectError {
    let Refusal { code, message } = refusal;
    let mut data = json!({ "code": code, "message": message });
    if *code == "keys_unavailable" {
        data["retry_after_ms"] = retry_after_ms().into();
    }
    ConnectError::new(message).with_data(data)
}

/// 10 to 20 seconds, so that those who were refused together do not come back together.
fn retry_after_ms() -> u64 {
    let mut random = [0; 2];
    // Without random numbers all come after the same time.
    let _ = getrandom::fill(&mut random);
    10_000 + u64::from(u16::from_le_bytes(random)) * 10_000 / 65_536
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_found_by_paths() {
        let claims = json!({
            "sub": "a", "a.b": 1, "a": { "b": 2, "c": { "d": 3 } }, "https://x.y/z": { "k": 4 },
        });
        for (path, value) in [("sub", json!("a")), ("a.b", json!(1)), ("a.c.d", json!(3))] {
            assert_eq!(claim(&claims, path), Some(&value), "{path}");
        }
        assert_eq!(claim(&claims, "https://x.y/z.k"), Some(&json!(4)));
        for path in ["", "a.x", "sub.x", ".", "a..c", "a."] {
            assert_eq!(claim(&claims, path), None, "{path}");
        }
    }

    #[test]
    fn wildcards_in_claims_are_none() {
        let permissions = [
            "join:room:{user}",
            "join:{claims.team}:*",
            "join:room:{claims.nick}",
            "{claims.nick}",
            "join:own:{claims.org}",
        ];
        let permissions = permissions.map(String::from).into();
        let config = Config { permissions, ..Config::default() };
        let verifier = Verifier::new(&config).expect("a good configuration");
        let claims = json!({
            "team": "**", "nick": "\u{2}", "org": "a:b",
            "permissions": ["a:*", "b\u{1}", "\u{2}"],
        });
        let id = Some("*".into());
        let token = Token { id, claims: Arc::new(claims), expires_at: None, key: 0 };
        let user = verifier.user(Some(Arc::new(token)), Arc::default()).expect("a user");
        let permissions = user.permissions;
        assert!(permissions.allow_join("room:*") && !permissions.allow_join("room:x"));
        assert!(permissions.allow_join("**:x") && !permissions.allow_join("red:x"));
        assert!(!permissions.allow_join("own:a:b"));
        assert!(permissions.allow("a:x") && !permissions.allow("bx") && !permissions.allow("z"));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let credentials = Credentials {
            auth: json!({ "token": "s3cret" }),
            queries: vec![("token".into(), "s3cret".into())],
            headers: vec![("authorization".into(), "Bearer s3cret".into())],
            address: "127.0.0.1".into(),
        };
        assert!(!format!("{credentials:?}").contains("s3cret"));
        let keys = json!({ "key": [{ "secret": "s3cret".repeat(6) }] });
        let config: Config = serde_json::from_value(keys).expect("a configuration");
        let verifier = Verifier::new(&config).expect("a good configuration");
        assert!(!format!("{config:?} {verifier:?}").contains("s3cret"));
    }
}
