//! Keys and tokens, made for each test.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::{Value, json};

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Claims of a user that hold for an hour, with more in them.
pub fn claims(user: &str, more: &Value) -> Value {
    let mut claims = json!({ "sub": user, "exp": now() + 3_600 });
    let object = claims.as_object_mut().expect("an object");
    object.extend(more.as_object().expect("an object").clone());
    claims
}

/// Who makes tokens.
pub struct Signer {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    /// PEM of the public key; empty for a secret.
    pub public: String,
    key: EncodingKey,
}

impl Signer {
    pub fn secret(algorithm: Algorithm, secret: &str) -> Signer {
        let key = EncodingKey::from_secret(secret.as_bytes());
        Signer { algorithm, kid: None, public: String::new(), key }
    }

    /// Of a new key that suits the algorithm.
    pub fn new(algorithm: Algorithm) -> Signer {
        let kind = match algorithm {
            Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Algorithm::ES384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Algorithm::EdDSA => &rcgen::PKCS_ED25519,
            _ => &rcgen::PKCS_RSA_SHA256,
        };
        let pair = KeyPair::generate_for(kind).expect("a key");
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        let public = pair.public_key_pem();
        Signer { algorithm, kid: None, public, key: key.expect("a key") }
    }

    pub fn named(self, kid: &str) -> Signer {
        Signer { kid: Some(kid.into()), ..self }
    }

    /// The same, without an id of the key.
    pub fn nameless(&self) -> Signer {
        Signer { kid: None, ..self.with(self.algorithm) }
    }

    /// The same key for another algorithm.
    pub fn with(&self, algorithm: Algorithm) -> Signer {
        let Signer { kid, public, key, .. } = self;
        Signer { algorithm, kid: kid.clone(), public: public.clone(), key: key.clone() }
    }

    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: self.kid.clone(), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).expect("a token")
    }

    /// A token of a user that holds for an hour.
    pub fn token(&self, user: &str) -> String {
        self.sign(&claims(user, &json!({})))
    }

    /// The public key as a key set shows it.
    pub fn jwk(&self) -> Value {
        let jwk = match self.algorithm {
            // Private keys of this kind have their public one in them, which that cannot read.
            Algorithm::EdDSA => {
                let key = DecodingKey::from_ed_pem(self.public.as_bytes()).expect("a key");
                Jwk::from_decoding_key(&key, Some(self.algorithm))
            }
            algorithm => Jwk::from_encoding_key(&self.key, algorithm),
        };
        let mut jwk = serde_json::to_value(jwk.expect("a public key")).expect("JSON");
        if let Some(kid) = &self.kid {
            jwk["kid"] = kid.as_str().into();
        }
        jwk
    }
}

/// A token with any header, and the signature that is given.
pub fn forged(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}
