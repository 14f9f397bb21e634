//! What the argument of an event has to be.

use std::path::Path;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use super::Refusal;
use crate::Raw;

/// Longest message about an argument, in bytes.
const MESSAGE_MAX: usize = 300;

/// A JSON Schema, compiled once.
#[derive(Debug)]
pub(super) struct Schema {
    validator: Validator,
    bytes_max: usize,
}

impl Schema {
    /// Patterns take time linear in the text; references lead nowhere outside of the schema.
    ///
    /// # Errors
    /// It is no schema, or the file cannot be read.
    pub(super) fn new(
        inline: Option<&Value>,
        file: Option<&Path>,
        bytes_max: usize,
    ) -> Result<Option<Schema>, String> {
        let schema = match (inline, file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err("schema: give it or schema_file, not both".into()),
            (Some(schema), None) => schema.clone(),
            (None, Some(path)) => read(path).map_err(|error| format!("schema_file: {error}"))?,
        };
        let options = jsonschema::options().offline();
        let options = options.with_pattern_options(PatternOptions::regex());
        let validator = options.build(&schema).map_err(|error| format!("schema: {error}"))?;
        Ok(Some(Schema { validator, bytes_max }))
    }

    /// # Errors
    /// `too_large`: it is more than may be validated on a shard. `bad_arguments`: there is not
    /// exactly one argument, or it is not what it has to be; the message says where.
    pub(super) fn check(&self, args: &Raw) -> Result<(), Refusal> {
        let bytes = args.json().len();
        if bytes > self.bytes_max {
            let message = format!("arguments of {bytes} bytes are too large here");
            return Err(Refusal { code: "too_large", message });
        }
        let bad = |message: String| Err(Refusal { code: "bad_arguments", message });
        let args = args.args::<Vec<Value>>();
        let Ok([argument]) = args.as_deref() else {
            return bad("exactly one argument is expected".into());
        };
        match self.validator.validate(argument) {
            Ok(()) => Ok(()),
            Err(error) => {
                let place = error.instance_path().as_str();
                let place = if place.is_empty() { "the argument" } else { place };
                // Without the value, which the client knows.
                let mut message = format!("{place}: {}", error.masked());
                let end = (0..=MESSAGE_MAX).rev().find(|at| message.is_char_boundary(*at));
                message.truncate(end.unwrap_or_default());
                bad(message)
            }
        }
    }
}

fn read(path: &Path) -> Result<Value, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| format!("cannot read {shown}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{shown}: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::emit::Args;

    fn check(schema: &Value, args: impl Args) -> Result<(), String> {
        let schema = Schema::new(Some(schema), None, 1_000).expect("a schema").expect("one");
        let checked = schema.check(&args.to_raw().expect("JSON"));
        checked.map_err(|refusal| format!("{}: {}", refusal.code, refusal.message))
    }

    #[test]
    fn the_message_says_where() {
        let schema = json!({
            "type": "object", "required": ["text"], "additionalProperties": false,
            "properties": { "text": { "type": "string", "maxLength": 5 } },
        });
        assert_eq!(check(&schema, json!({ "text": "hello" })), Ok(()));
        let error = check(&schema, json!({ "text": "hello you" })).expect_err("too long");
        assert!(error.starts_with("bad_arguments: /text: "), "{error}");
        assert!(!error.contains("hello"), "{error}");
        for args in [json!({}), json!([]), json!("x"), json!({ "text": 1, "x": 2 })] {
            assert!(check(&schema, &args).is_err(), "{args}");
        }
        assert!(check(&schema, ()).is_err() && check(&schema, (1, 2)).is_err());
        let large = json!({ "text": "x".repeat(2_000) });
        assert!(check(&schema, &large).expect_err("large").starts_with("too_large: "));
        let long = json!({ "enum": ["ü".repeat(500)] });
        let error = check(&long, json!("x")).expect_err("another");
        assert!(error.len() <= 320 && error.is_char_boundary(error.len()), "{error}");
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for schema in [
            json!({ "type": "text" }),
            json!({ "pattern": "(" }),
            json!({ "pattern": "(?=a)b" }),
            json!({ "$ref": "https://example.com/schema.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
        ] {
            let error = Schema::new(Some(&schema), None, 1).expect_err("no schema");
            assert!(error.starts_with("schema: "), "{error}");
        }
        assert!(Schema::new(Some(&json!({})), Some(Path::new("/x")), 1).is_err());
        assert!(Schema::new(None, Some(Path::new("/nowhere")), 1).is_err());
    }
}
