//! One argument as JSON: a long string is written by our own scan, everything else by serde_json.
//!
//! serde_json looks at a string byte by byte, we at sixteen. Both write the same, but for the two
//! control characters that have a short form which we do not use. Strings inside of objects and
//! arrays are serde_json's.

use std::fmt;

use serde::{Serialize, Serializer};

use super::json;

/// Strings shorter than this are written by serde_json: there the detour costs more than it saves.
const LONG: usize = 64;

/// A serializer that hands all but long strings on to `json`.
pub struct Argument<'a, S> {
    /// Takes the rest.
    pub json: S,
    /// Where such a string goes, quotes included; it has to be empty, and is if there was none.
    pub string: &'a mut Vec<u8>,
}

/// Hands each of these calls on as it is.
macro_rules! forward {
    ($($method:ident($($name:ident: $type:ty),*) -> $ok:ident;)*) => {$(
        fn $method(self, $($name: $type),*) -> Result<S::$ok, S::Error> {
            self.json.$method($($name),*)
        }
    )*};
}

impl<S: Serializer<Ok = ()>> Serializer for Argument<'_, S> {
    type Ok = ();
    type Error = S::Error;
    type SerializeSeq = S::SerializeSeq;
    type SerializeTuple = S::SerializeTuple;
    type SerializeTupleStruct = S::SerializeTupleStruct;
    type SerializeTupleVariant = S::SerializeTupleVariant;
    type SerializeMap = S::SerializeMap;
    type SerializeStruct = S::SerializeStruct;
    type SerializeStructVariant = S::SerializeStructVariant;

    fn serialize_str(self, text: &str) -> Result<(), S::Error> {
        if text.len() < LONG {
            return self.json.serialize_str(text);
        }
        self.string.reserve(text.len() + 2);
        json::write_string(text, self.string);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), S::Error> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), S::Error> {
        self.json.serialize_newtype_struct(name, value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), S::Error> {
        self.json.serialize_newtype_variant(name, index, variant, value)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<(), S::Error> {
        self.json.collect_str(value)
    }

    forward! {
        serialize_bool(value: bool) -> Ok;
        serialize_i8(value: i8) -> Ok;
        serialize_i16(value: i16) -> Ok;
        serialize_i32(value: i32) -> Ok;
        serialize_i64(value: i64) -> Ok;
        serialize_i128(value: i128) -> Ok;
        serialize_u8(value: u8) -> Ok;
        serialize_u16(value: u16) -> Ok;
        serialize_u32(value: u32) -> Ok;
        serialize_u64(value: u64) -> Ok;
        serialize_u128(value: u128) -> Ok;
        serialize_f32(value: f32) -> Ok;
        serialize_f64(value: f64) -> Ok;
        serialize_char(value: char) -> Ok;
        serialize_bytes(value: &[u8]) -> Ok;
        serialize_none() -> Ok;
        serialize_unit() -> Ok;
        serialize_unit_struct(name: &'static str) -> Ok;
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str) -> Ok;
        serialize_seq(len: Option<usize>) -> SerializeSeq;
        serialize_tuple(len: usize) -> SerializeTuple;
        serialize_tuple_struct(name: &'static str, len: usize) -> SerializeTupleStruct;
        serialize_tuple_variant(
            name: &'static str, index: u32, variant: &'static str, len: usize
        ) -> SerializeTupleVariant;
        serialize_map(len: Option<usize>) -> SerializeMap;
        serialize_struct(name: &'static str, len: usize) -> SerializeStruct;
        serialize_struct_variant(
            name: &'static str, index: u32, variant: &'static str, len: usize
        ) -> SerializeStructVariant;
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::to_args;

    #[test]
    fn strings_of_every_length_are_what_serde_json_reads() {
        let alphabet: Vec<char> =
            (0..0x80u8).map(char::from).chain(['\u{80}', 'é', '\u{2028}', '\u{10ffff}']).collect();
        let mut rng = fastrand::Rng::with_seed(9);
        for length in 0..200 {
            let text: String = (0..length).map(|_| *rng.choice(&alphabet).expect("some")).collect();
            let (mut args, mut attachments) = (Vec::new(), Vec::new());
            to_args(&text, &mut args, &mut attachments).expect("JSON");
            to_args(&Some(text.as_str()), &mut args, &mut attachments).expect("JSON");
            to_args(&(&text, 5), &mut args, &mut attachments).expect("JSON");
            let args = format!("[{}]", String::from_utf8(args).expect("UTF-8"));
            let found: (String, String, (String, u8)) =
                serde_json::from_str(&args).expect("three arguments");
            assert_eq!(found, (text.clone(), text.clone(), (text, 5)));
        }
    }
}
