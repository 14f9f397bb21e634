//! Key sets that an identity provider publishes, fetched on the control thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use reqwest::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

use super::keys::{Key, KeyId, hash};
use crate::gateway::fetched::{self, cause};

/// Largest key set, in bytes.
const BYTES_MAX: usize = 256 * 1024;
/// Keys of one set; more are not read.
const KEYS_MAX: usize = 100;
/// Time that one fetch may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two attempts, whatever the reason.
const ATTEMPTS: Duration = Duration::from_secs(10);
/// Time that a set holds if its server does not say.
const HOLDS: Duration = Duration::from_secs(300);
/// Longest time that a set holds, whatever its server says.
const HOLDS_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One key set. All namespaces that name its URL share it, also across reloads.
#[derive(Debug)]
pub(super) struct Jwks {
    /// The id of all of its keys.
    pub(super) id: KeyId,
    url: Url,
    client: Client,
    /// Empty until the first fetch has succeeded.
    keys: ArcSwap<Vec<Key>>,
    /// Whoever fetches holds it.
    fetching: tokio::sync::Mutex<Fetched>,
}

#[derive(Debug, Default)]
struct Fetched {
    tried_at: Option<Instant>,
    /// When the server has said what is known now.
    fetched_at: Option<Instant>,
    fresh_until: Option<Instant>,
    etag: Option<String>,
}

impl Fetched {
    fn may_try(&self) -> bool {
        self.tried_at.is_none_or(|at| at.elapsed() >= ATTEMPTS)
    }

    fn is_fresh(&self) -> bool {
        self.fresh_until.is_some_and(|until| Instant::now() < until)
    }
}

/// The set at `url`, with the keys that are known of it if somebody else has it.
///
/// # Errors
/// It is no URL of http or https.
pub(super) fn shared(url: &str) -> Result<Arc<Jwks>, String> {
    static SETS: OnceLock<Mutex<HashMap<String, Weak<Jwks>>>> = OnceLock::new();
    let sets = SETS.get_or_init(Mutex::default);
    let mut sets = sets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(set) = sets.get(url).and_then(Weak::upgrade) {
        return Ok(set);
    }
    sets.retain(|_, set| set.strong_count() > 0);
    let set = Arc::new(Jwks::new(url)?);
    sets.insert(url.to_owned(), Arc::downgrade(&set));
    Ok(set)
}

impl Jwks {
    fn new(url: &str) -> Result<Jwks, String> {
        let parsed = Url::parse(url).map_err(|error| format!("jwks_url: no URL: {error}"))?;
        if !["http", "https"].contains(&parsed.scheme()) {
            return Err("jwks_url: neither http nor https".into());
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err("jwks_url: has a password in it, which key sets do not need".into());
        }
        let client = Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::limited(3))
            // Who is asked over TLS is not asked without it because somebody says so.
            .https_only(parsed.scheme() == "https")
            .user_agent(concat!("corecast/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("jwks_url: {error}"))?;
        let (keys, fetching) = Default::default();
        Ok(Jwks { id: hash(&url), url: parsed, client, keys, fetching })
    }

    /// The keys that may have signed a token which names `kid` and `algorithm`. Fetches the set if
    /// it is not known, and anew if it has no such key; an old one is used while it is fetched.
    /// That it has no such key is certain only of a set that was fetched since.
    pub(super) async fn find(self: &Arc<Self>, kid: Option<&str>, algorithm: Algorithm) -> Found {
        let found = self.known(kid, algorithm);
        if !found.is_empty() {
            if let Ok(fetched) = self.fetching.try_lock()
                && !fetched.is_fresh()
                && fetched.may_try()
            {
                drop(fetched);
                let set = self.clone();
                tokio::spawn(async move { set.refresh(Fetched::is_fresh).await });
            }
            return Found::Keys(found);
        }
        if kid.is_some_and(|kid| self.names(kid)) {
            return Found::Keys(found);
        }
        let asked_at = Instant::now();
        // Somebody else may have fetched it while this one waited for its turn.
        let is_since = |fetched: &Fetched| fetched.fetched_at.is_some_and(|at| at >= asked_at);
        let is_certain = self.refresh(is_since).await;
        let found = self.known(kid, algorithm);
        match found.is_empty() && !is_certain {
            true => Found::Unavailable,
            false => Found::Keys(found),
        }
    }

    /// Whether it has a key of that id, for whatever algorithm.
    fn names(&self, kid: &str) -> bool {
        self.keys.load().iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    fn known(&self, kid: Option<&str>, algorithm: Algorithm) -> Vec<Key> {
        let keys = self.keys.load();
        let found = keys.iter().filter(|key| key.fits(kid, algorithm));
        found.map(|key| Key { id: self.id, ..key.clone() }).collect()
    }

    /// Fetches the set, unless that was tried just now or is no longer needed; whether it is done
    /// then. A failure leaves the keys that are known.
    async fn refresh(&self, is_done: impl Fn(&Fetched) -> bool) -> bool {
        let mut fetched = self.fetching.lock().await;
        if !fetched.may_try() || is_done(&fetched) {
            return is_done(&fetched);
        }
        let result = self.fetch(&mut fetched).await;
        // Counted from the end, so that a slow server is not asked without a pause.
        fetched.tried_at = Some(Instant::now());
        let host = self.url.host_str().unwrap_or_default();
        match result {
            Ok(()) => tracing::debug!(host, "key set fetched"),
            Err(error) => tracing::warn!(host, "key set not fetched, the known keys stay: {error}"),
        }
        is_done(&fetched)
    }

    async fn fetch(&self, fetched: &mut Fetched) -> Result<(), String> {
        let mut request = self.client.get(self.url.clone());
        if let Some(etag) = &fetched.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = request.send().await.map_err(cause)?;
        let until = Instant::now() + holds(&response);
        match response.status() {
            StatusCode::NOT_MODIFIED => {}
            StatusCode::OK => {
                let etag = response.headers().get(ETAG).and_then(|it| it.to_str().ok());
                let etag = etag.map(str::to_owned);
                let body = fetched::body(response, BYTES_MAX).await.map_err(cause)?;
                let body = body.ok_or_else(|| format!("more than {BYTES_MAX} bytes"))?;
                let keys = parse(&body)?;
                self.keys.store(Arc::new(keys));
                fetched.etag = etag;
            }
            other => return Err(format!("status {}", other.as_u16())),
        }
        (fetched.fetched_at, fetched.fresh_until) = (Some(Instant::now()), Some(until));
        Ok(())
    }
}

/// What a set has for a token.
pub(super) enum Found {
    /// These; none if it has no such key.
    Keys(Vec<Key>),
    /// None, and it could not be fetched now.
    Unavailable,
}

/// How long an answer may be used.
fn holds(response: &Response) -> Duration {
    let control = response.headers().get(CACHE_CONTROL).and_then(|it| it.to_str().ok());
    let mut holds = HOLDS;
    for directive in control.unwrap_or_default().split(',').map(str::trim) {
        if directive.eq_ignore_ascii_case("no-cache") || directive.eq_ignore_ascii_case("no-store")
        {
            return ATTEMPTS;
        }
        let age =
            directive.split_once('=').filter(|(name, _)| name.eq_ignore_ascii_case("max-age"));
        if let Some(age) = age.and_then(|(_, age)| age.trim_matches('"').parse().ok()) {
            holds = Duration::from_secs(age);
        }
    }
    holds.clamp(ATTEMPTS, HOLDS_MAX)
}

/// The usable keys of a set. Others are passed over: a set may serve other purposes too.
fn parse(body: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let Set { keys } = serde_json::from_slice(body).map_err(|_| "no key set".to_owned())?;
    let keys: Vec<Key> = keys.into_iter().take(KEYS_MAX).filter_map(key).collect();
    if keys.is_empty() { Err("no usable key in the set".into()) } else { Ok(keys) }
}

/// A public key that signatures are checked with, or nothing.
fn key(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|it| *it != PublicKeyUse::Signature) {
        return None;
    }
    let able = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms(),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            AlgorithmFamily::Ed.algorithms()
        }
        // A secret that everybody can fetch is none.
        _ => return None,
    };
    let algorithms = match jwk.common.key_algorithm {
        None => able.to_vec(),
        Some(named) => vec![Algorithm::try_from(named).ok().filter(|it| able.contains(it))?],
    };
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let kid = jwk.common.key_id.map(String::into_boxed_str);
    // The set gives it its own.
    Some(Key { id: 0, kid, algorithms, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_signature_keys_are_read() {
        let okp = r#"{"kty":"OKP","crv":"Ed25519","kid":"e",
            "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let rsa = r#"{"kty":"RSA","n":"AQAB","e":"AQAB""#;
        let set = format!(
            r#"{{"keys":[{okp},{rsa},"kid":"r"}},{rsa},"alg":"RS512"}},{rsa},"alg":"HS256"}},
            {rsa},"use":"enc"}},{{"kty":"oct","k":"AQAB","alg":"HS256"}},{{"kty":"odd"}},7]}}"#
        );
        let keys = parse(set.as_bytes()).expect("a set");
        let algorithms: Vec<usize> = keys.iter().map(|key| key.algorithms.len()).collect();
        assert_eq!(algorithms, [1, 6, 1]);
        assert!(keys[0].fits(Some("e"), Algorithm::EdDSA) && keys[0].fits(None, Algorithm::EdDSA));
        assert!(!keys[0].fits(Some("r"), Algorithm::EdDSA));
        assert!(!keys[2].fits(None, Algorithm::RS256) && keys[2].fits(Some("x"), Algorithm::RS512));
        for garbage in ["", "[]", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AQAB"}]}"#]
        {
            assert!(parse(garbage.as_bytes()).is_err(), "{garbage}");
        }
    }
}
