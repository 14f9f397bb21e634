//! Who may use the API, and for what: keys, of which only hashes are kept, and JSON web tokens.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, header};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gateway::clock;
use crate::gateway::command::{Problem, Verb};
use crate::gateway::keyhash::KeyHash;
use crate::gateway::limits::{Bucket, Rate};
use crate::gateway::secret::Secret;

/// Seconds that a token is good for after its end.
const LEEWAY_SECS: u64 = 5;
/// Of a secret: what can be guessed would be found from one token, without asking the gateway.
const SECRET_LEN_MIN: usize = 32;
/// Tokens whose signatures were verified and need not be again.
const TOKENS_KEPT: usize = 4_096;

/// One key of the API. A request shows it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What logs call whoever uses it.
    pub name: String,
    /// The key itself; at least 16 characters. Exactly one of `key`, `key_file` and `sha256` is
    /// to be given. Default: none.
    pub key: Option<Secret>,
    /// A file with the key; a newline at its end is not part of it. Default: none.
    pub key_file: Option<PathBuf>,
    /// The SHA-256 of the key, in 64 hexadecimal digits. Default: none.
    pub sha256: Option<String>,
    /// Namespaces that it is good for; `*` at the end of one stands for anything. Default: all.
    #[serde(default = "everything")]
    pub namespaces: Vec<String>,
    /// What it may do. Default: everything.
    #[serde(default = "Permission::all")]
    pub actions: Vec<Permission>,
    /// Requests per second, and as many commands of a batch; 429 beyond it, while a batch is read
    /// more slowly. Default: no limit.
    pub rate: Option<u32>,
}

/// JSON web tokens that the API takes, as `Authorization: Bearer TOKEN`. The claims `exp` and `sub`
/// have to be there, and `exp` holds 5 s longer, as clocks differ; `actions` and `namespaces` are
/// lists as those of keys, and a token without one of them may do nothing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// Algorithms, of one family: HS256 to HS512, RS256 to RS512, PS256 to PS512, ES256 and ES384,
    /// EdDSA. Default: HS256.
    #[serde(default = "hs256")]
    #[schemars(with = "Vec<String>")]
    pub algorithms: Vec<Algorithm>,
    /// The secret of the HS family; at least 32 bytes. Default: none.
    pub secret: Option<Secret>,
    /// A file with that secret. Default: none.
    pub secret_file: Option<PathBuf>,
    /// A file with the public key of the other families, as PEM. Default: none.
    pub public_key_file: Option<PathBuf>,
    /// What `iss` has to be. Default: anything.
    pub issuer: Option<String>,
    /// What `aud` has to be, or hold. Default: a token with `aud` is refused.
    pub audience: Option<String>,
}

fn everything() -> Vec<String> {
    vec!["*".into()]
}

fn hs256() -> Vec<Algorithm> {
    vec![Algorithm::HS256]
}

/// What somebody may do over the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// Send events.
    Emit,
    /// Make sockets join rooms.
    Join,
    /// Make sockets leave rooms.
    Leave,
    /// Disconnect sockets.
    Disconnect,
    /// Replace what is kept with sockets.
    SetData,
    /// See sockets, rooms, counts and metrics.
    Read,
    /// Reload the configuration, drain the gateway.
    Operate,
}

impl Permission {
    fn all() -> Vec<Permission> {
        use Permission::{Disconnect, Emit, Join, Leave, Operate, Read, SetData};
        vec![Emit, Join, Leave, Disconnect, SetData, Read, Operate]
    }
}

impl From<Verb> for Permission {
    fn from(verb: Verb) -> Permission {
        match verb {
            Verb::Emit => Permission::Emit,
            Verb::Join => Permission::Join,
            Verb::Leave => Permission::Leave,
            Verb::Disconnect => Permission::Disconnect,
            Verb::SetData => Permission::SetData,
        }
    }
}

/// What a caller may do.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) name: String,
    namespaces: Vec<String>,
    actions: Vec<Permission>,
    bucket: Option<(Rate, Mutex<Bucket>)>,
    /// Seconds since 1970, of a token.
    ends: Option<u64>,
}

impl Grant {
    fn new(name: String, namespaces: Vec<String>, actions: Vec<Permission>) -> Grant {
        Grant { name, namespaces, actions, bucket: None, ends: None }
    }

    /// Whose idempotency keys it uses: those of its name, among keys or among tokens.
    pub(crate) fn account(&self) -> String {
        let kind = if self.ends.is_some() { "token" } else { "key" };
        format!("{kind} {}", self.name)
    }

    /// Whether its token has expired since.
    pub(crate) fn has_ended(&self) -> bool {
        self.ends.is_some_and(|ends| ends < clock::seconds())
    }

    /// Whether it may do this at all.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn may(&self, action: Permission) -> Result<(), Problem> {
        if self.actions.contains(&action) {
            return Ok(());
        }
        // As it stands in the configuration.
        let action = serde_json::to_string(&action).unwrap_or_default();
        Err(forbidden(format!("{} may not use {action}", self.name)))
    }

    /// Whether it may do something in a namespace.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn may_in(&self, namespace: &str) -> Result<(), Problem> {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => namespace.starts_with(start),
            None => pattern == namespace,
        };
        if self.namespaces.iter().any(fits) {
            return Ok(());
        }
        Err(forbidden(format!("{} may do nothing in namespace \"{namespace}\"", self.name)))
    }

    /// Takes one from what it may do this second; otherwise how long to wait.
    pub(crate) fn take(&self) -> Result<(), Duration> {
        let Some((rate, bucket)) = &self.bucket else { return Ok(()) };
        let mut bucket = bucket.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        bucket.take(rate, 1.0, Instant::now())
    }
}

fn forbidden(detail: String) -> Problem {
    Problem::new(403, "not allowed", detail)
}

/// All who may use the API.
#[derive(Debug)]
pub(crate) struct Callers {
    keys: Vec<(KeyHash, Arc<Grant>)>,
    jwt: Option<Tokens>,
    /// Whoever reaches the listener, where neither keys nor tokens are configured.
    anyone: Option<Arc<Grant>>,
}

impl Callers {
    /// Makes the configuration ready.
    ///
    /// # Errors
    /// It cannot work; the text names the key.
    pub(crate) fn new(listen: SocketAddr, keys: &[Key], jwt: Option<&Jwt>) -> Result<Self, String> {
        let mut known: Vec<(KeyHash, Arc<Grant>)> = Vec::with_capacity(keys.len());
        for (at, key) in keys.iter().enumerate() {
            let at = |error: String| format!("api.key[{at}].{error}");
            let Key { key: secret, key_file, sha256, .. } = key;
            let hash = KeyHash::configured(secret.as_ref(), key_file.as_deref(), sha256.as_deref());
            let hash = hash.map_err(at)?;
            if let Some((_, other)) = known.iter().find(|(other, _)| *other == hash) {
                return Err(at(format!("key: is the same as that of \"{}\"", other.name)));
            }
            let bucket = match key.rate {
                Some(0) => return Err(at("rate: has to be at least 1".into())),
                // As many at once as in a second.
                rate => rate.map(|rate| {
                    let rate = Rate { per_second: rate.into(), burst: None };
                    (rate, Mutex::new(Bucket::full(Instant::now())))
                }),
            };
            let grant = Grant::new(key.name.clone(), key.namespaces.clone(), key.actions.clone());
            known.push((hash, Arc::new(Grant { bucket, ..grant })));
        }
        let jwt = jwt.map(Tokens::new).transpose().map_err(|error| format!("api.jwt.{error}"))?;
        let is_open = known.is_empty() && jwt.is_none();
        if is_open && !listen.ip().is_loopback() {
            return Err(format!(
                "api.listen: {listen} can be reached from other machines, so an [[api.key]] or \
                 [api.jwt] is needed"
            ));
        }
        let anyone = Grant::new("anyone".into(), everything(), Permission::all());
        Ok(Callers { keys: known, jwt, anyone: is_open.then(|| Arc::new(anyone)) })
    }

    /// Whoever has sent these headers. O(keys).
    ///
    /// # Errors
    /// 401 without a key that is known; 403 where no key is needed, for what a browser sends on
    /// behalf of some other page.
    pub(crate) fn identify(&self, headers: &HeaderMap) -> Result<Arc<Grant>, Problem> {
        if let Some(anyone) = &self.anyone {
            check_page(headers)?;
            return Ok(anyone.clone());
        }
        let shown = shown(headers).ok_or_else(|| unauthorized("a key or a token is needed"))?;
        let hash = KeyHash::of(shown);
        let found = hash.find(self.keys.iter().map(|(known, grant)| (*known, grant)));
        if let Some(grant) = found {
            return Ok(grant.clone());
        }
        match &self.jwt {
            Some(tokens) if shown.split('.').count() == 3 => tokens.verify(shown, hash),
            _ => Err(unauthorized("the key is not known")),
        }
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(401, "not authorized", detail)
}

/// The key or token of a request.
fn shown(headers: &HeaderMap) -> Option<&str> {
    if let Some(authorization) = headers.get(header::AUTHORIZATION) {
        let (scheme, shown) = authorization.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| shown.trim());
    }
    headers.get("x-api-key")?.to_str().ok()
}

/// Without keys, what a browser sends for a page of another site is refused. Such a page cannot
/// read answers, but can send requests, which tell where they are from; or it makes the browser ask
/// for a name of its own and lets that name lead here, so `Host` has to be an address or
/// `localhost`.
fn check_page(headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        _ => None,
    };
    let is_local = |host: &Authority| {
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
    };
    let host = host
        .filter(is_local)
        .ok_or_else(|| forbidden("without a key, Host has to be an address or localhost".into()))?;
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
    let is_own = |origin: &[u8]| {
        origin.strip_prefix(b"http://").is_some_and(|it| it == host.as_str().as_bytes())
    };
    if site.is_none_or(|site| matches!(site, b"same-origin" | b"none")) && origin.is_none_or(is_own)
    {
        return Ok(());
    }
    Err(forbidden("without a key, pages of other origins may send nothing".into()))
}

/// JSON web tokens.
struct Tokens {
    key: DecodingKey,
    validation: Validation,
    /// Verified before, by their hashes.
    verified: Mutex<HashMap<KeyHash, Arc<Grant>>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("algorithms", &self.validation.algorithms).finish()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    #[serde(default)]
    actions: Vec<Permission>,
    #[serde(default)]
    namespaces: Vec<String>,
}

impl Tokens {
    fn new(config: &Jwt) -> Result<Tokens, String> {
        let first = *config.algorithms.first().ok_or("algorithms: at least one is needed")?;
        let family = first.family();
        if config.algorithms.iter().any(|algorithm| algorithm.family() != family) {
            return Err("algorithms: have to be of one family".into());
        }
        let mut validation = Validation::new(first);
        validation.algorithms.clone_from(&config.algorithms);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECS;
        validation.set_required_spec_claims(&["exp", "sub"]);
        if let Some(issuer) = &config.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        if let Some(audience) = &config.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".into());
        }
        let key = decoding_key(config, family)?;
        Ok(Tokens { key, validation, verified: Mutex::default() })
    }

    fn verify(&self, token: &str, hash: KeyHash) -> Result<Arc<Grant>, Problem> {
        let lock = || self.verified.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(grant) = lock().get(&hash)
            && !grant.has_ended()
        {
            return Ok(grant.clone());
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation);
        // Kinds of errors hold nothing of the token.
        let claims = decoded.map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::Json(_) => {
                unauthorized("the token's claims are wrong")
            }
            kind => unauthorized(&format!("the token is not good: {kind:?}")),
        })?;
        if claims.header.crit.is_some() {
            return Err(unauthorized("the token has critical headers, of which none is known"));
        }
        let Claims { sub, exp, actions, namespaces } = claims.claims;
        // As long as it is good for `decode`.
        let ends = Some(exp.saturating_add(LEEWAY_SECS));
        let grant = Arc::new(Grant { ends, ..Grant::new(sub, namespaces, actions) });
        let mut verified = lock();
        if verified.len() >= TOKENS_KEPT {
            verified.clear();
        }
        verified.insert(hash, grant.clone());
        Ok(grant)
    }
}

fn decoding_key(config: &Jwt, family: AlgorithmFamily) -> Result<DecodingKey, String> {
    let secret = Secret::resolve("secret", config.secret.as_ref(), config.secret_file.as_deref())?;
    match (family, secret, &config.public_key_file) {
        (AlgorithmFamily::Hmac, Some(secret), None) => match secret.reveal().as_bytes() {
            short if short.len() < SECRET_LEN_MIN => {
                Err(format!("secret: has to have at least {SECRET_LEN_MIN} bytes"))
            }
            secret => Ok(DecodingKey::from_secret(secret)),
        },
        (AlgorithmFamily::Hmac, ..) => Err("secret: is what the HS family needs, alone".into()),
        (family, None, Some(path)) => {
            let at = |error: &dyn std::fmt::Display| {
                format!("public_key_file: {}: {error}", path.display())
            };
            let pem = std::fs::read(path).map_err(|error| at(&error))?;
            let key = match family {
                AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(&pem),
                AlgorithmFamily::Ec => DecodingKey::from_ec_pem(&pem),
                _ => DecodingKey::from_ed_pem(&pem),
            };
            key.map_err(|error| at(&error))
        }
        _ => Err("public_key_file: is what this family needs, alone".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_sites_are_refused() {
        let is_good = |sent: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.append(*name, value.parse().expect("a value"));
            }
            check_page(&headers).is_ok()
        };
        for host in ["127.0.0.1:4001", "localhost", "LocalHost:1", "[::1]:4001"] {
            assert!(is_good(&[("host", host)]), "{host}");
            assert!(!is_good(&[("host", host), ("host", host)]), "{host} twice");
        }
        for host in ["evil.example:4001", "", "[127.0.0.1", "localhost.evil.example", "a@"] {
            assert!(!is_good(&[("host", host)]), "{host}");
        }
        let own = "localhost:4001";
        for (name, value, expected) in [
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "none", true),
            ("sec-fetch-site", "same-site", false),
            ("sec-fetch-site", "cross-site", false),
            ("origin", "http://localhost:4001", true),
            ("origin", "http://localhost:3000", false),
            ("origin", "http://127.0.0.1:4001", false),
            ("origin", "https://localhost:4001", false),
            ("origin", "https://evil.example", false),
            ("origin", "null", false),
        ] {
            assert_eq!(is_good(&[("host", own), (name, value)]), expected, "{name}: {value}");
        }
    }
}
