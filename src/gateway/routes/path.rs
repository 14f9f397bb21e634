//! Where in the arguments of an event a value is, found without decoding the rest.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::visit::split_args;

/// A place such as `args[0].room.id` or `args[1][2]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    argument: usize,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(Box<str>),
    Index(usize),
}

impl Path {
    /// Reads what follows `args`.
    ///
    /// # Errors
    /// It is no path.
    pub(crate) fn parse(text: &str) -> Result<Path, String> {
        let wrong = || format!("\"args{text}\" is no path such as args[0].room");
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let step;
            if let Some(behind) = rest.strip_prefix('[') {
                let (index, behind) = behind.split_once(']').ok_or_else(wrong)?;
                step = Step::Index(index.parse().map_err(|_| wrong())?);
                rest = behind;
            } else {
                let behind = rest.strip_prefix('.').ok_or_else(wrong)?;
                let end = behind.find(['.', '[']).unwrap_or(behind.len());
                let (key, behind) = behind.split_at(end);
                if key.is_empty() {
                    return Err(wrong());
                }
                step = Step::Key(key.into());
                rest = behind;
            }
            steps.push(step);
        }
        match steps.first() {
            Some(Step::Index(argument)) => {
                Ok(Path { argument: *argument, steps: steps.split_off(1) })
            }
            _ => Err(wrong()),
        }
    }

    /// The value there, as JSON text; `None` if there is none. Of a key that an object has twice
    /// the last one counts, as for every reader of JSON behind this one. O(length of `args`), no
    /// copy.
    pub(crate) fn find<'a>(&self, args: &'a str) -> Option<&'a str> {
        let (_, rest) = split_args(args, self.argument);
        let mut json = serde_json::Deserializer::from_str(rest);
        Walk(&self.steps).deserialize(&mut json).ok().flatten()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "args[{}]", self.argument)?;
        self.steps.iter().try_for_each(|step| match step {
            Step::Key(key) => write!(f, ".{key}"),
            Step::Index(index) => write!(f, "[{index}]"),
        })
    }
}

struct Walk<'p>(&'p [Step]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        match self.0.split_first() {
            None => Ok(Some(<&RawValue>::deserialize(json)?.get())),
            Some((step, rest)) => json.deserialize_any(Visit { step, rest }),
        }
    }
}

struct Visit<'p> {
    step: &'p Step,
    rest: &'p [Step],
}

impl<'de> Visitor<'de> for Visit<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Step::Key(key) = self.step else { return Err(A::Error::custom("an object")) };
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Is(key))? {
            if is_it {
                found = map.next_value_seed(Walk(self.rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let Step::Index(index) = *self.step else { return Err(A::Error::custom("an array")) };
        for _ in 0..index {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = list.next_element_seed(Walk(self.rest))?.flatten();
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// Whether a key is this one.
struct Is<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(path: &str, args: &'a str) -> Option<&'a str> {
        Path::parse(path).expect(path).find(args)
    }

    #[test]
    fn values_are_found_byte_for_byte() {
        let args =
            r#"{"a":{"b c":1.0,"d":[1, {"e":"f\u0041"}]},"a2":null} , "x",12345678901234567890"#;
        assert_eq!(find("[0].a.b c", args), Some("1.0"));
        assert_eq!(find("[0].a.d[1].e", args), Some(r#""f\u0041""#));
        assert_eq!(find("[0].a.d", args), Some(r#"[1, {"e":"f\u0041"}]"#));
        assert_eq!(find("[0].a2", args), Some("null"));
        assert_eq!(find("[1]", args), Some(r#""x""#));
        assert_eq!(find("[2]", args), Some("12345678901234567890"));
        for path in ["[3]", "[0].b", "[0][0]", "[1].x", "[0].a.d[2]", "[0].a.d.e", "[0].a2.x"] {
            assert_eq!(find(path, args), None, "{path}");
        }
        assert_eq!(find("[0]", ""), None);
    }

    #[test]
    fn of_two_equal_keys_the_last_counts() {
        assert_eq!(find("[0].a", r#"{"a":1,"b":0,"a":2}"#), Some("2"));
        assert_eq!(find("[0].a", r#"{"\u0061":1}"#), Some("1"), "however it is written");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in ["", ".a", "[x]", "[0", "[0]a", "[0].", "[0]..a", "[-1]"] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
        let path = Path::parse("[0].a[1].b").expect("a path");
        assert_eq!(path.to_string(), "args[0].a[1].b");
    }
}
