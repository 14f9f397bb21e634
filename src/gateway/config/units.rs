//! Times and sizes as people write them.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time with its unit: `25s`, `250ms`, `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl Time {
    /// So many seconds.
    pub const fn secs(seconds: u64) -> Time {
        Time(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    pub const fn millis(milliseconds: u64) -> Time {
        Time(Duration::from_millis(milliseconds))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time with its unit, such as \"25s\" or \"500ms\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Time, E> {
                let wrong = |_| E::invalid_value(Unexpected::Str(text), &self);
                humantime::parse_duration(text).map(Time).map_err(wrong)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "time with unit", "examples": ["25s", "500ms"] })
    }
}

/// A number of bytes: `1000`, `"64KiB"`, `"1MB"`; kB, MB and GB are thousands, KiB, MiB and GiB
/// multiples of 1,024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

/// The largest first, so that a size is written with the largest that divides it.
const UNITS: [(&str, usize); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl Size {
    fn parse(text: &str) -> Option<Size> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim();
        let named = |(name, _): &&(&str, usize)| name.eq_ignore_ascii_case(unit);
        let factor = if unit.is_empty() { 1 } else { UNITS.iter().find(named)?.1 };
        number.replace('_', "").parse::<usize>().ok()?.checked_mul(factor).map(Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |(_, factor): &&(&str, usize)| self.0 > 0 && self.0.is_multiple_of(*factor);
        let (name, factor) = UNITS.iter().find(divides).unwrap_or(&UNITS[6]);
        write!(f, "{}{name}", self.0 / factor)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, such as 1000, \"64KiB\" or \"1MB\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                let wrong = || E::invalid_value(Unexpected::Str(text), &self);
                Size::parse(text).ok_or_else(wrong)
            }

            fn visit_u64<E: Error>(self, bytes: u64) -> Result<Size, E> {
                let wrong = |_| E::invalid_value(Unexpected::Unsigned(bytes), &self);
                usize::try_from(bytes).map(Size).map_err(wrong)
            }

            fn visit_i64<E: Error>(self, bytes: i64) -> Result<Size, E> {
                let wrong = |_| E::invalid_value(Unexpected::Signed(bytes), &self);
                usize::try_from(bytes).map(Size).map_err(wrong)
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "format": "bytes",
            "minimum": 0,
            "examples": ["64KiB", "1MB", 1000]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [
            ("0", 0),
            ("1_000", 1_000),
            ("1kB", 1_000),
            ("1 KB", 1_000),
            ("64KiB", 65_536),
            ("1MB", 1_000_000),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
            assert_eq!(Size::parse(&Size(bytes).to_string()), Some(Size(bytes)), "{text}");
        }
        for text in ["", "MB", "-1", "1.5MB", "1XB", "99999999999GiB"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
        assert_eq!(Size(1 << 20).to_string(), "1MiB");
        assert_eq!(Size(1_000_000).to_string(), "1MB");
        assert_eq!(Size(1_001).to_string(), "1001B");
    }

    #[test]
    fn times_keep_their_unit() {
        for text in ["25s", "500ms", "1h 30m"] {
            let time: Time = serde_json::from_value(text.into()).expect(text);
            assert_eq!(time.to_string(), text);
        }
        let error = serde_json::from_value::<Time>(25.into()).expect_err("no unit").to_string();
        assert!(error.contains("a time with its unit, such as \"25s\""), "{error}");
    }
}
