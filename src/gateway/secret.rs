//! Secrets in the configuration: read from it or from a file, and never shown.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};

/// A text that is shown nowhere: not in logs, not in errors, not in a configuration that is
/// printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// The secret that a key or its `_file` variant names; of a file, without the end of its last
    /// line. `None` if neither is there.
    ///
    /// # Errors
    /// Both are there, the file cannot be read, or the secret is empty. The text names the key.
    pub(crate) fn resolve(
        key: &str,
        secret: Option<&Secret>,
        file: Option<&Path>,
    ) -> Result<Option<Secret>, String> {
        let secret = match (secret, file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err(format!("{key}: give it or {key}_file, not both")),
            (Some(secret), None) => secret.clone(),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| {
                    format!("{key}_file: cannot read {}: {error}", path.display())
                })?;
                Secret(text.trim_end_matches(['\r', '\n']).to_owned())
            }
        };
        if secret.0.is_empty() { Err(format!("{key}: is empty")) } else { Ok(Some(secret)) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[secret]")
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nowhere() {
        let secret = Secret("hunter2".into());
        let shown = format!("{secret:?} {}", serde_json::to_string(&secret).expect("a text"));
        assert_eq!(shown, r#"[secret] "[secret]""#);
    }

    #[test]
    fn one_place_names_a_secret() {
        let secret = Secret("a".into());
        let both = Secret::resolve("secret", Some(&secret), Some(Path::new("/x")));
        assert_eq!(both.expect_err("two"), "secret: give it or secret_file, not both");
        let missing = Secret::resolve("secret", None, Some(Path::new("/nowhere/at/all")));
        let missing = missing.expect_err("no file");
        assert!(missing.starts_with("secret_file: cannot read /nowhere/at/all: "), "{missing}");
        assert!(Secret::resolve("secret", Some(&Secret(String::new())), None).is_err());
        assert_eq!(Secret::resolve("secret", None, None), Ok(None));
    }
}
