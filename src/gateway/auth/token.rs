//! Where tokens are found, and what makes one good.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde_json::Value;

use super::jwks::Found;
use super::keys::{Key, KeyId, Keys};
use super::user::bad_claim;
use super::{Config, Credentials, claim, denied};
use crate::gateway::routes::Refusal;

/// Keys that one token is checked with; one that names no key may fit many.
const TRIES_MAX: usize = 8;

/// Where a token may be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    Auth(Box<str>),
    /// In lower case.
    Header(Box<str>),
    Cookie(Box<str>),
    Query(Box<str>),
}

impl Source {
    pub(super) fn parse(text: &str) -> Result<Source, String> {
        let wrong = || {
            format!(
                "auth.token_from: \"{text}\" is none of auth.NAME, header.NAME, cookie.NAME, \
                 query.NAME"
            )
        };
        let (place, name) = text.split_once('.').ok_or_else(wrong)?;
        if name.is_empty() {
            return Err(wrong());
        }
        match place {
            "auth" => Ok(Source::Auth(name.into())),
            "header" => Ok(Source::Header(name.to_ascii_lowercase().into())),
            "cookie" => Ok(Source::Cookie(name.into())),
            "query" => Ok(Source::Query(name.into())),
            _ => Err(wrong()),
        }
    }

    /// The token there. What is there and is no text is a token that cannot be good.
    pub(super) fn find(&self, shown: &Credentials) -> Option<String> {
        let token = match self {
            Source::Auth(path) => match claim(&shown.auth, path)? {
                Value::Null => return None,
                Value::String(text) => text.clone(),
                _ => "?".into(),
            },
            Source::Header(name) if **name == *"authorization" => {
                let value = shown.header(name)?;
                let (scheme, token) = value.split_once(' ')?;
                if !scheme.eq_ignore_ascii_case("bearer") {
                    return None;
                }
                token.trim().to_owned()
            }
            Source::Header(name) => shown.header(name)?.trim().to_owned(),
            Source::Cookie(name) => {
                let cookies = shown.headers.iter();
                let cookies = cookies.filter(|(name, _)| name.eq_ignore_ascii_case("cookie"));
                let mut pairs = cookies.flat_map(|(_, value)| value.split(';'));
                pairs.find_map(|pair| {
                    let (other, value) = pair.trim().split_once('=')?;
                    (*other == **name).then(|| value.trim_matches('"').to_owned())
                })?
            }
            Source::Query(name) => {
                let mut queries = shown.queries.iter();
                queries.find(|(other, _)| **other == **name)?.1.clone()
            }
        };
        if token.is_empty() { None } else { Some(token) }
    }
}

/// What a token has to say, whichever key has signed it.
#[derive(Debug)]
pub(super) struct Checks(Validation);

impl Checks {
    pub(super) fn new(config: &Config) -> Checks {
        let leeway = config.leeway.0.as_secs();
        let mut checks = Validation { leeway, validate_nbf: true, ..Validation::default() };
        checks.required_spec_claims.clear();
        let mut require = |claim: &str| checks.required_spec_claims.insert(claim.into());
        if config.require_expiry {
            require("exp");
        }
        if !config.issuers.is_empty() {
            require("iss");
            checks.set_issuer(&config.issuers);
        }
        checks.validate_aud = !config.audiences.is_empty();
        if checks.validate_aud {
            checks.required_spec_claims.insert("aud".into());
            checks.set_audience(&config.audiences);
        }
        Checks(checks)
    }
}

/// Seconds since 1970 in a claim.
pub(super) fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|it| *it >= 0.0).map(|it| it.round() as u64))
}

/// The claims of a token that some key has signed, and which one.
///
/// # Errors
/// See [`super::Verifier::identify`].
pub(super) async fn verify(
    keys: &Keys,
    checks: &Checks,
    token: &str,
) -> Result<(Value, KeyId), Refusal> {
    let malformed = || denied("token_malformed", "the token is no signed JWT");
    let header = jsonwebtoken::decode_header(token).map_err(|_| malformed())?;
    // Extensions that have to be understood, which this does not (RFC 7515 4.1.11).
    if header.crit.is_some() {
        return Err(malformed());
    }
    let (candidates, is_unavailable) = candidates(keys, &header).await;
    let mut refusal = match is_unavailable {
        true => denied("keys_unavailable", "the keys cannot be had at the moment"),
        false => denied("token_key_unknown", "no key here has signed the token"),
    };
    if candidates.is_empty() && !is_unavailable && !is_allowed(keys, header.alg) {
        return Err(denied("token_algorithm", "tokens of this algorithm are not accepted"));
    }
    for key in candidates.iter().take(TRIES_MAX) {
        // Exactly the one that the token names, which the key allows.
        let validation = Validation { algorithms: vec![header.alg], ..checks.0.clone() };
        match jsonwebtoken::decode::<Value>(token, &key.key, &validation) {
            Ok(token) if token.claims.is_object() => return Ok((token.claims, key.id)),
            Ok(_) => return Err(malformed()),
            Err(error) => match refusal_of(error.kind()) {
                // Another key may have signed it.
                Refusal { code: "token_signature", .. } if is_unavailable => {}
                wrong_key @ Refusal { code: "token_signature", .. } => refusal = wrong_key,
                last => return Err(last),
            },
        }
    }
    Err(refusal)
}

/// Keys that may have signed the token, and whether a set that may have had one is not there.
async fn candidates(keys: &Keys, header: &Header) -> (Vec<Key>, bool) {
    let kid = header.kid.as_deref();
    let own = keys.own.iter().filter(|key| key.fits(kid, header.alg)).cloned();
    let mut candidates: Vec<Key> = own.collect();
    let mut is_unavailable = false;
    for set in &keys.sets {
        let is_asked = set.algorithms.as_ref().is_none_or(|list| list.contains(&header.alg));
        let is_public = header.alg.family() != jsonwebtoken::AlgorithmFamily::Hmac;
        if !is_asked || !is_public {
            continue;
        }
        match set.set.find(kid, header.alg).await {
            Found::Keys(found) => candidates.extend(found),
            Found::Unavailable => is_unavailable = true,
        }
    }
    (candidates, is_unavailable)
}

/// Whether any key is good for the algorithm.
fn is_allowed(keys: &Keys, algorithm: Algorithm) -> bool {
    let is_public = algorithm.family() != jsonwebtoken::AlgorithmFamily::Hmac;
    let mut sets = keys.sets.iter();
    keys.own.iter().any(|key| key.algorithms.contains(&algorithm))
        || sets
            .any(|set| set.algorithms.as_ref().map_or(is_public, |list| list.contains(&algorithm)))
}

fn refusal_of(error: &ErrorKind) -> Refusal {
    match error {
        ErrorKind::InvalidSignature => denied("token_signature", "the signature is wrong"),
        ErrorKind::ExpiredSignature => denied("token_expired", "the token has expired"),
        ErrorKind::ImmatureSignature => {
            denied("token_not_yet_valid", "the token does not hold yet")
        }
        ErrorKind::InvalidIssuer => denied("token_issuer", "the token is of another issuer"),
        ErrorKind::InvalidAudience => denied("token_audience", "the token is for others"),
        ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => {
            bad_claim(&format!("its {name} is missing or wrong"))
        }
        _ => denied("token_malformed", "the token is no signed JWT"),
    }
}
