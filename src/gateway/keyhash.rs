//! Keys that callers and workers show, of which only hashes are kept, so that memory holds no key.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::secret::Secret;

/// Characters that a key has at least.
const KEY_LEN_MIN: usize = 16;

/// The SHA-256 of a key, or of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyHash([u8; 32]);

impl KeyHash {
    pub(super) fn of(text: &str) -> KeyHash {
        KeyHash(Sha256::digest(text.as_bytes()).into())
    }

    /// Of the key that a configuration has as `key`, `key_file` or `sha256`.
    ///
    /// # Errors
    /// Not exactly one of them is there, or it is of no use; the text names it.
    pub(super) fn configured(
        key: Option<&Secret>,
        key_file: Option<&Path>,
        sha256: Option<&str>,
    ) -> Result<KeyHash, String> {
        match (Secret::resolve("key", key, key_file)?, sha256) {
            (Some(key), None) if key.reveal().len() < KEY_LEN_MIN => {
                Err(format!("key: needs at least {KEY_LEN_MIN} characters"))
            }
            (Some(key), None) => Ok(KeyHash::of(key.reveal())),
            (None, Some(digits)) => KeyHash::from_hex(digits)
                .ok_or_else(|| "sha256: needs 64 hexadecimal digits".into()),
            (Some(_), Some(_)) => Err("key: give it, key_file or sha256, not two of them".into()),
            (None, None) => Err("key: give it, key_file or sha256".into()),
        }
    }

    fn from_hex(digits: &str) -> Option<KeyHash> {
        let (digits, mut hash) = (digits.as_bytes(), [0; 32]);
        if digits.len() != 2 * hash.len() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = (digit(0)? * 16 + digit(1)?) as u8;
        }
        Some(KeyHash(hash))
    }

    /// What is known under this hash. All are compared, whichever it is, and each comparison takes
    /// as long for any two hashes.
    pub(super) fn find<T>(self, known: impl Iterator<Item = (KeyHash, T)>) -> Option<T> {
        known.fold(None, |found, (hash, one)| if self.is_same(hash) { Some(one) } else { found })
    }

    fn is_same(self, other: KeyHash) -> bool {
        let different = self.0.iter().zip(other.0).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(different) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_in_digits() {
        let digits = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(KeyHash::from_hex(digits), Some(KeyHash::of("")));
        let wrong = [&digits[1..], &"x".repeat(64)].map(KeyHash::from_hex);
        assert_eq!(wrong, [None, None]);
        let [a, b] = ["a", "b"].map(KeyHash::of);
        assert!(a.is_same(KeyHash::of("a")) && !a.is_same(b));
        let known = || [(a, 1), (b, 2)].into_iter();
        assert_eq!([a, b, KeyHash::of("c")].map(|it| it.find(known())), [Some(1), Some(2), None]);
    }

    #[test]
    fn a_key_is_given_once_and_is_long_enough() {
        let read = |text: &str| serde_json::from_value::<Secret>(text.into()).expect("a text");
        let (long, short) = (read("a key of 16 chars"), read("short"));
        let digits = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let found = |key, sha256| KeyHash::configured(key, None, sha256);
        assert_eq!(found(Some(&long), None), Ok(KeyHash::of("a key of 16 chars")));
        assert_eq!(found(None, Some(digits)), Ok(KeyHash::of("")));
        for (key, sha256) in [(None, None), (Some(&short), None), (Some(&long), Some(digits))] {
            assert!(found(key, sha256).is_err());
        }
    }
}
