//! The typed side of packets: Rust values to raw arguments and attachments, and back.
//!
//! Out: [`to_args`] appends one argument as JSON; whatever serialises as bytes becomes an
//! attachment and leaves a placeholder (I-8). In: [`from_args`] and [`first_arg`] read raw
//! arguments; a [`Binary`] among them takes the attachment that its placeholder names.
//!
//! A thread-local hands attachments to and from [`Binary`], because serde has no other way past
//! the types in between. It holds something only while one of these functions runs.
//!
//! It never looks at packets, namespaces or ids.

use std::cell::{Cell, RefCell};
use std::io;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::ser::Formatter;

use super::argument::Argument;

thread_local! {
    /// Attachments of the arguments that are being read; `None` outside of [`from_args`].
    static ARRIVED: RefCell<Option<Vec<Bytes>>> = const { RefCell::new(None) };
    /// The [`Binary`] that is being written, so that it is shared and not copied.
    static LEAVING: Cell<Option<Bytes>> = const { Cell::new(None) };
}

/// Bytes that travel as an attachment, anywhere inside an argument.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Binary(pub Bytes);

impl Serialize for Binary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        LEAVING.set(Some(self.0.clone()));
        let result = serializer.serialize_bytes(&self.0);
        LEAVING.set(None);
        result
    }
}

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PlaceholderVisitor)
    }
}

/// The keys of a placeholder.
#[derive(Deserialize)]
#[serde(field_identifier)]
enum Key {
    #[serde(rename = "_placeholder")]
    Placeholder,
    #[serde(rename = "num")]
    Num,
    #[serde(other)]
    Other,
}

/// Reads `{"_placeholder":true,"num":n}`; other keys are ignored, as in the reference (I-9).
struct PlaceholderVisitor;

impl<'de> Visitor<'de> for PlaceholderVisitor {
    type Value = Binary;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an attachment")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Binary, A::Error> {
        let mut marked = false;
        let mut num = None;
        while let Some(key) = map.next_key()? {
            match key {
                Key::Placeholder => marked = map.next_value()?,
                Key::Num => num = Some(map.next_value::<usize>()?),
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let num = num.filter(|_| marked).ok_or_else(|| A::Error::custom("not an attachment"))?;
        ARRIVED.with_borrow(|arrived| {
            let arrived = arrived.as_ref().ok_or_else(|| {
                A::Error::custom("an attachment can only be read from a packet's arguments")
            })?;
            let bytes = arrived.get(num).ok_or_else(|| A::Error::custom("illegal attachments"))?;
            Ok(Binary(bytes.clone()))
        })
    }
}

/// Appends `value` as one more argument to the raw arguments in `args`, a comma before it if
/// there is one already. Bytes inside it are appended to `attachments`.
///
/// # Errors
/// What `value`'s serialisation answers; `args` and `attachments` are then as before.
pub fn to_args<T: Serialize + ?Sized>(
    value: &T,
    args: &mut Vec<u8>,
    attachments: &mut Vec<Bytes>,
) -> Result<(), serde_json::Error> {
    let (args_len, attachments_len) = (args.len(), attachments.len());
    if args_len > 0 {
        args.push(b',');
    }
    let collector = Collector { attachments: &mut *attachments };
    let mut json = serde_json::Serializer::with_formatter(&mut *args, collector);
    let mut string = Vec::new();
    let result = value.serialize(Argument { json: &mut json, string: &mut string });
    args.extend_from_slice(&string);
    if result.is_err() {
        args.truncate(args_len);
        attachments.truncate(attachments_len);
    }
    result
}

/// Compact JSON in which bytes are placeholders.
struct Collector<'a> {
    attachments: &'a mut Vec<Bytes>,
}

/// Attachments among which one that is written again is looked for.
const RECENT: usize = 64;

impl Collector<'_> {
    /// The number of an attachment that is these very bytes. A client may name one attachment a
    /// hundred thousand times (I-9); sent back, it must not become as many.
    fn find(&self, value: &[u8]) -> Option<usize> {
        let mut recent = self.attachments.iter().enumerate().rev().take(RECENT);
        recent.find(|(_, it)| std::ptr::eq(it.as_ref(), value)).map(|(num, _)| num)
    }
}

impl Formatter for Collector<'_> {
    fn write_byte_array<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        value: &[u8],
    ) -> io::Result<()> {
        // The same place and length: these are the bytes of the `Binary` that is being written.
        let shared = LEAVING.take().filter(|bytes| std::ptr::eq(bytes.as_ref(), value));
        let known = shared.as_ref().and_then(|_| self.find(value));
        let num = known.unwrap_or(self.attachments.len());
        if known.is_none() {
            self.attachments.push(shared.unwrap_or_else(|| Bytes::copy_from_slice(value)));
        }
        write!(writer, "{{\"_placeholder\":true,\"num\":{num}}}")
    }
}

/// Reads all arguments, raw and without brackets, into a tuple, an array or a `Vec`.
///
/// As many as there are: a tuple of another length is an error. `()` stands for none.
///
/// # Errors
/// The arguments are of another type or number; a placeholder names no attachment; or the text is
/// legal JSON that Rust cannot hold (an unpaired surrogate, `1e999`, nesting beyond 127).
pub fn from_args<T: DeserializeOwned>(
    args: &str,
    attachments: &[Bytes],
) -> Result<T, serde_json::Error> {
    let _scope = Scope::enter(attachments);
    if args.is_empty() {
        // serde reads `()` from null only.
        let none = serde_json::from_str("[]");
        return none.or_else(|error| serde_json::from_str("null").map_err(|_| error));
    }
    let mut text = String::with_capacity(args.len() + 2);
    text.push('[');
    text.push_str(args);
    text.push(']');
    serde_json::from_str(&text)
}

/// Reads the first argument; a missing one is `null`.
///
/// # Errors
/// As for [`from_args`].
pub fn first_arg<T: DeserializeOwned>(
    args: &str,
    attachments: &[Bytes],
) -> Result<T, serde_json::Error> {
    let _scope = Scope::enter(attachments);
    let args = if args.is_empty() { "null" } else { args };
    // What follows the first value was validated with the packet and is not read.
    T::deserialize(&mut serde_json::Deserializer::from_str(args))
}

/// Splits raw arguments behind the first `count`; the comma between belongs to neither part.
pub fn split_args(args: &str, count: usize) -> (&str, &str) {
    let mut end = 0;
    let mut rest = args;
    for _ in 0..count {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        // Nothing more; or no JSON, which the gate does not let in.
        let Some(Ok(IgnoredAny)) = values.next() else { return (args, "") };
        end = args.len() - rest.len() + values.byte_offset();
        let behind = args[end..].trim_ascii_start();
        rest = behind.strip_prefix(',').unwrap_or_default();
    }
    (&args[..end], rest.trim_ascii_start())
}

/// Attachments are within reach of [`Binary`] while this lives. Scopes nest.
struct Scope {
    outer: Option<Vec<Bytes>>,
}

impl Scope {
    fn enter(attachments: &[Bytes]) -> Scope {
        Scope { outer: ARRIVED.replace(Some(attachments.to_vec())) }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        ARRIVED.set(self.outer.take());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn binary(bytes: &'static [u8]) -> Binary {
        Binary(Bytes::from_static(bytes))
    }

    fn written<T: Serialize + ?Sized>(value: &T) -> (String, Vec<Bytes>) {
        let (mut args, mut attachments) = (Vec::new(), Vec::new());
        to_args(value, &mut args, &mut attachments).expect("serialises");
        (String::from_utf8(args).expect("UTF-8"), attachments)
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct File {
        name: String,
        body: Binary,
        thumbnail: Option<Binary>,
        pages: Vec<Binary>,
        part: Part,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Part {
        Whole,
        One(Binary),
        Range { from: u32, bytes: Binary },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Bytes(Binary),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "type")]
    enum Tagged {
        Blob {
            bytes: Binary,
            #[serde(flatten)]
            rest: std::collections::BTreeMap<String, Binary>,
        },
    }

    #[test]
    fn nested_binaries_travel_as_attachments() {
        let file = |thumbnail, part| File {
            name: "a".into(),
            body: binary(b"body"),
            thumbnail,
            pages: vec![binary(b"p0"), binary(b"")],
            part,
        };
        let parts = [
            Part::Whole,
            Part::One(binary(b"one")),
            Part::Range { from: 1, bytes: binary(b"range") },
        ];
        for (part, thumbnail) in parts.into_iter().zip([None, Some(binary(b"t")), None]) {
            let value = file(thumbnail, part);
            let (args, attachments) = written(&value);
            assert!(args.contains(r#""body":{"_placeholder":true,"num":0}"#), "{args}");
            assert_eq!(first_arg::<File>(&args, &attachments).expect("reads"), value);
        }
        for value in [Either::Text("x".into()), Either::Bytes(binary(b"y"))] {
            let (args, attachments) = written(&value);
            assert_eq!(first_arg::<Either>(&args, &attachments).expect("reads"), value);
        }
        let rest = [("more".to_string(), binary(b"2"))].into();
        let value = Tagged::Blob { bytes: binary(b"1"), rest };
        let (args, attachments) = written(&value);
        assert_eq!(attachments.len(), 2);
        assert_eq!(first_arg::<Tagged>(&args, &attachments).expect("reads"), value);
    }

    #[test]
    fn arguments_are_appended_and_attachments_shared() {
        let (mut args, mut attachments) = (Vec::new(), Vec::new());
        let large = Binary(Bytes::from(vec![7; 1_000]));
        to_args("text", &mut args, &mut attachments).expect("a string");
        to_args(&large, &mut args, &mut attachments).expect("bytes");
        to_args(&json!({"a": [1, null, f64::NAN]}), &mut args, &mut attachments).expect("a value");
        to_args(&BytesLike(b"copied"), &mut args, &mut attachments).expect("bytes");
        let placeholder = |num| format!("{{\"_placeholder\":true,\"num\":{num}}}");
        let expected =
            format!("\"text\",{},{{\"a\":[1,null,null]}},{}", placeholder(0), placeholder(1));
        assert_eq!(String::from_utf8(args.clone()).expect("UTF-8"), expected);
        // Shared, not copied: the same address.
        assert_eq!(attachments[0].as_ptr(), large.0.as_ptr());
        assert_eq!(attachments[1], b"copied"[..]);
        assert!(LEAVING.take().is_none());

        // What a client names often is sent back once.
        let many = format!("[{}]", vec![placeholder(0); 1_000].join(","));
        let many: Vec<Either> = first_arg(&many, &attachments).expect("reads");
        assert_eq!((many.len(), written(&many).1.len()), (1_000, 1));

        // A failure leaves no trace.
        let bad = (Binary::default(), std::collections::BTreeMap::from([(vec![1], 1)]));
        assert!(to_args(&bad, &mut args, &mut attachments).is_err());
        assert_eq!((args.len(), attachments.len()), (expected.len(), 2));
    }

    /// What `serde_bytes` and the serde feature of `bytes` do.
    struct BytesLike(&'static [u8]);

    impl Serialize for BytesLike {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }

    #[test]
    fn arguments_are_read_into_tuples_and_vectors() {
        let args = r#"1,"two" , {"_placeholder":true,"num":1}"#;
        let attachments = [Bytes::from_static(b"x"), Bytes::from_static(b"y")];
        let (one, two, three): (u8, String, Binary) = from_args(args, &attachments).expect("reads");
        assert_eq!((one, two.as_str(), three), (1, "two", binary(b"y")));
        assert_eq!(from_args::<Vec<Value>>(args, &[]).expect("reads").len(), 3);
        assert!(from_args::<(u8, String)>(args, &attachments).is_err());
        assert!(from_args::<Vec<u8>>("", &[]).expect("reads").is_empty());
        from_args::<[u8; 0]>("", &[]).expect("reads");
        from_args::<()>("", &[]).expect("no arguments");
        assert!(from_args::<(u8,)>("", &[]).is_err());

        assert_eq!(first_arg::<u8>(args, &attachments).expect("reads"), 1);
        assert_eq!(first_arg::<Option<u8>>("", &[]).expect("reads"), None);
        first_arg::<()>("", &[]).expect("reads");
        assert!(first_arg::<u8>("", &[]).is_err());
        // Legal JSON that Rust types cannot hold is an error here, not at the gate.
        assert!(first_arg::<f64>("1e999", &[]).is_err());
        assert!(first_arg::<String>("\"\\ud800\"", &[]).is_err());
        let deep = "[".repeat(500) + &"]".repeat(500);
        assert!(from_args::<Vec<Value>>(&deep, &[]).is_err());
    }

    #[test]
    fn arguments_are_split_where_they_end() {
        let args = r#"1 , "a,\"]\ud800" ,{"b":[1,{"c":2}]},1e999,null"#;
        let rests = [
            args,
            r#""a,\"]\ud800" ,{"b":[1,{"c":2}]},1e999,null"#,
            r#"{"b":[1,{"c":2}]},1e999,null"#,
            "1e999,null",
            "null",
            "",
            "",
        ];
        for (count, rest) in rests.into_iter().enumerate() {
            assert_eq!(split_args(args, count).1, rest, "{count}");
        }
        assert_eq!(split_args(args, 0).0, "");
        assert_eq!(split_args(args, 1).0, "1");
        assert_eq!(split_args(args, 2).0, r#"1 , "a,\"]\ud800""#);
        assert_eq!((split_args(args, 5), split_args(args, 6)), ((args, ""), (args, "")));
        assert_eq!(split_args("", 1), ("", ""));
        // Deeper than serde_json's own limit.
        let deep = format!("{}{},7", "[".repeat(500), "]".repeat(500));
        assert_eq!(split_args(&deep, 1).1, "7");
    }

    #[test]
    fn placeholders_that_name_nothing_are_errors() {
        let attachments = [Bytes::from_static(b"x")];
        for arg in [
            r#"{"_placeholder":true,"num":1}"#,
            r#"{"_placeholder":true,"num":"splice"}"#,
            r#"{"_placeholder":true,"num":-1}"#,
            r#"{"_placeholder":true}"#,
            r#"{"_placeholder":false,"num":0}"#,
            r#"{"num":0}"#,
            "{}",
            "[120]",
            "\"x\"",
            "null",
        ] {
            assert!(first_arg::<Binary>(arg, &attachments).is_err(), "{arg}");
        }
        let legal = r#"{"extra":[1],"num":0,"_pl\u0061ceholder":true}"#;
        assert_eq!(first_arg::<Binary>(legal, &attachments).expect("reads"), binary(b"x"));
        // Outside of a packet's arguments there is nothing to take, and nothing is left over.
        assert!(serde_json::from_str::<Binary>(legal).is_err());
        assert_eq!(serde_json::to_string(&binary(b"x")).expect("plain JSON"), "[120]");
        assert!(ARRIVED.with_borrow(Option::is_none) && LEAVING.take().is_none());
    }
}
