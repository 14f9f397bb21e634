//! Keys that tokens are signed with, and what each of them may have signed.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::jwks::{self, Jwks};
use crate::gateway::secret::Secret;

/// Longest key file, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Shortest secret, in bytes (RFC 7518, 3.2): whoever has a token can try shorter ones.
const SECRET_LEN_MIN: usize = 32;

/// A key, or where keys are: exactly one of `secret`, `secret_file`, `public_key_file` and
/// `jwks_url`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A secret that tokens are signed with (HS256, HS384, HS512), at least 32 bytes. Read again by
    /// a reload: give the new one and the old one until no token of the old one is left. Clients
    /// whose key is taken away have `warn_before` to show a token of another one.
    pub secret: Option<Secret>,
    /// A file with the secret in it; the end of its last line does not belong to it.
    pub secret_file: Option<PathBuf>,
    /// A PEM file with a public key: RSA (RS256 to RS512, PS256 to PS512), P-256 (ES256), P-384
    /// (ES384) or Ed25519 (EdDSA). Read again by a reload.
    pub public_key_file: Option<PathBuf>,
    /// Address of a JSON Web Key Set, http or https. It is fetched when the first client comes,
    /// again when `Cache-Control: max-age` has passed (10 s to a day; 5 minutes if it names none),
    /// and at once for a token that names a key which is not in it, every 10 s at most. While it
    /// cannot be had the keys that are known go on to hold.
    pub jwks_url: Option<String>,
    /// Id (`kid`) of the key. Tokens that name another one are not checked with it. Default: none,
    /// the key stands for all ids. Not with `jwks_url`, whose keys have ids.
    pub kid: Option<String>,
    /// Algorithms that a token may be signed with. Default: all those of the kind of key; never one
    /// of another kind.
    pub algorithms: Vec<String>,
}

/// The same for the same key, in this process. The keys of a set have that of the set, since they
/// come and go without anybody's doing.
pub(super) type KeyId = u64;

/// A hash that nobody can foresee, nor learn anything from.
pub(super) fn hash(of: &impl Hash) -> u64 {
    static STATE: OnceLock<RandomState> = OnceLock::new();
    STATE.get_or_init(RandomState::new).hash_one(of)
}

/// A key that is ready.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) id: KeyId,
    pub(super) kid: Option<Box<str>>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

/// A key set, and the algorithms that its keys are good for here.
#[derive(Debug)]
pub(super) struct KeySet {
    pub(super) set: Arc<Jwks>,
    /// `None`: all that its keys can.
    pub(super) algorithms: Option<Vec<Algorithm>>,
}

/// All keys of a namespace.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) own: Vec<Key>,
    pub(super) sets: Vec<KeySet>,
}

impl Key {
    /// Whether it may have signed a token that names `kid` and `algorithm`.
    pub(super) fn fits(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        let is_named = match (&self.kid, kid) {
            (Some(own), Some(kid)) => **own == *kid,
            _ => true,
        };
        is_named && self.algorithms.contains(&algorithm)
    }
}

impl Keys {
    /// # Errors
    /// A key cannot be used; the text names it by its place.
    pub(super) fn new(configs: &[Config]) -> Result<Keys, String> {
        let mut keys = Keys::default();
        for (at, config) in configs.iter().enumerate() {
            keys.add(config).map_err(|error| format!("auth.key[{at}].{error}"))?;
        }
        Ok(keys)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.sets.is_empty()
    }

    pub(super) fn ids(&self) -> Vec<KeyId> {
        let sets = self.sets.iter().map(|set| set.set.id);
        self.own.iter().map(|key| key.id).chain(sets).collect()
    }

    fn add(&mut self, config: &Config) -> Result<(), String> {
        let secret = config.secret.is_some() || config.secret_file.is_some();
        let sources = [secret, config.public_key_file.is_some(), config.jwks_url.is_some()];
        if sources.iter().filter(|is_there| **is_there).count() != 1 {
            return Err("secret: give one of secret, secret_file, public_key_file, jwks_url".into());
        }
        let asked = read_algorithms(&config.algorithms)?;
        if let Some(url) = &config.jwks_url {
            if config.kid.is_some() {
                return Err("kid: the keys of a set have their own".into());
            }
            if asked.iter().flatten().any(|it| it.family() == AlgorithmFamily::Hmac) {
                return Err(
                    "algorithms: a key set is public, so HS256 and the like are no use".into()
                );
            }
            self.sets.push(KeySet { set: jwks::shared(url)?, algorithms: asked });
            return Ok(());
        }
        let (key, able) = match &config.public_key_file {
            Some(path) => read_public_key(path).map_err(|it| format!("public_key_file: {it}"))?,
            None => {
                let file = config.secret_file.as_deref();
                let secret = Secret::resolve("secret", config.secret.as_ref(), file)?;
                let secret = secret.as_ref().map(Secret::reveal).unwrap_or_default();
                if secret.len() < SECRET_LEN_MIN {
                    return Err(format!("secret: needs at least {SECRET_LEN_MIN} bytes"));
                }
                let able = AlgorithmFamily::Hmac.algorithms().to_vec();
                (DecodingKey::from_secret(secret.as_bytes()), able)
            }
        };
        let algorithms = match asked {
            None => able,
            Some(asked) => match asked.iter().find(|it| !able.contains(it)) {
                Some(other) => return Err(format!("algorithms: {other:?} is for other keys")),
                None => asked,
            },
        };
        let kid = config.kid.as_deref().map(Box::from);
        let id = hash(&key.try_get_as_bytes().ok());
        self.own.push(Key { id, kid, algorithms, key });
        Ok(())
    }
}

/// `None` if none is named.
fn read_algorithms(names: &[String]) -> Result<Option<Vec<Algorithm>>, String> {
    let read = |name: &String| {
        name.parse::<Algorithm>().map_err(|_| {
            format!(
                "algorithms: \"{name}\" is none of HS256, HS384, HS512, RS256, RS384, RS512, \
                 PS256, PS384, PS512, ES256, ES384, EdDSA"
            )
        })
    };
    let algorithms: Vec<Algorithm> = names.iter().map(read).collect::<Result<_, _>>()?;
    Ok(if algorithms.is_empty() { None } else { Some(algorithms) })
}

fn read_public_key(path: &Path) -> Result<(DecodingKey, Vec<Algorithm>), String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map(|file| file.len());
    let size = size.map_err(|error| format!("cannot read {shown}: {error}"))?;
    if size > FILE_BYTES_MAX {
        return Err(format!("{shown} is too large for a key"));
    }
    let pem = std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    parse_public_key(&pem).ok_or_else(|| {
        format!("{shown} has no PEM public key of RSA, P-256, P-384 or Ed25519 in it")
    })
}

/// A private key is refused too: it does not belong here.
fn parse_public_key(pem: &[u8]) -> Option<(DecodingKey, Vec<Algorithm>)> {
    let is_private = pem.windows(11).any(|bytes| bytes == b"PRIVATE KEY");
    if is_private {
        return None;
    }
    let rsa = DecodingKey::from_rsa_pem(pem).ok();
    let key = rsa
        .or_else(|| DecodingKey::from_ec_pem(pem).ok())
        .or_else(|| DecodingKey::from_ed_pem(pem).ok())?;
    let algorithms = match key.family() {
        AlgorithmFamily::Ec => match key.try_get_as_bytes().ok()?.len() {
            65 => vec![Algorithm::ES256],
            97 => vec![Algorithm::ES384],
            _ => return None,
        },
        family => family.algorithms().to_vec(),
    };
    Some((key, algorithms))
}
