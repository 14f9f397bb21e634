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
    let mut serializer = serde_json::Serializer::with_formatter(&mut *args, collector);
    let result = value.serialize(&mut serializer);
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

impl Formatter for Collector<'_> {
    fn write_byte_array<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        value: &[u8],
    ) -> io::Result<()> {
        let num = self.attachments.len();
        // The same place and length: these are the bytes of the `Binary` that is being written.
        let shared = LEAVING.take().filter(|bytes| std::ptr::eq(bytes.as_ref(), value));
        self.attachments.push(shared.unwrap_or_else(|| Bytes::copy_from_slice(value)));
        write!(writer, "{{\"_placeholder\":true,\"num\":{num}}}")
    }
}

/// Reads all arguments, raw and without brackets, into a tuple or a `Vec`.
///
/// # Errors
/// The arguments are of another type or number; a placeholder names no attachment; or the text is
/// legal JSON that Rust cannot hold (an unpaired surrogate, `1e999`, nesting beyond 127).
pub fn from_args<T: DeserializeOwned>(
    args: &str,
    attachments: &[Bytes],
) -> Result<T, serde_json::Error> {
    let _scope = Scope::enter(attachments);
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
