//! A packet to a message: the JSON is read twice, since a header of msgpack says how many values
//! follow before the first of them.

use std::borrow::Cow;

use bytes::Bytes;

use super::{REPEATED_BYTES_MAX, lead};
use crate::proto::json;
use crate::proto::packet::Kind;
use crate::proto::parser::{Error, Outgoing};

/// Encodes one packet, keys in the order of the reference (T-1).
///
/// The JSON in it is valid, as for [`Outgoing`]; other text gives nonsense. O(length).
///
/// # Errors
/// Placeholders name attachments again for more than [`REPEATED_BYTES_MAX`] in sum.
pub fn encode(namespace: &str, packet: &Outgoing<'_>) -> Result<Bytes, Error> {
    let mut writer = Writer::default();
    match *packet {
        Outgoing::Connect { sid, pid } => {
            writer.head(3, Kind::Connect);
            writer.text("data");
            writer.map(1 + usize::from(pid.is_some()));
            writer.text("sid");
            writer.text(sid);
            if let Some(pid) = pid {
                writer.text("pid");
                writer.text(pid);
            }
        }
        Outgoing::ConnectV2 => writer.head(2, Kind::Connect),
        Outgoing::ErrorV2 { data } => {
            writer.head(3, Kind::ConnectError);
            writer.text("data");
            writer.values(data, &Plan::new(data, &[]), &[])?;
        }
        Outgoing::Disconnect => writer.head(2, Kind::Disconnect),
        Outgoing::Event { name, id, args, attachments } => {
            writer.head(3 + usize::from(id.is_some()), Kind::Event);
            writer.data(Some(name), args, attachments)?;
            if let Some(id) = id {
                writer.text("id");
                writer.unsigned(id);
            }
        }
        Outgoing::Ack { id, args, attachments } => {
            writer.map(4);
            writer.text("id");
            writer.unsigned(id);
            writer.kind(Kind::Ack);
            writer.data(None, args, attachments)?;
        }
        Outgoing::ConnectError { message, data } => {
            writer.head(3, Kind::ConnectError);
            writer.text("data");
            writer.map(1 + usize::from(data.is_some()));
            writer.text("message");
            writer.text(message);
            if let Some(data) = data {
                writer.text("data");
                writer.values(data, &Plan::new(data, &[]), &[])?;
            }
        }
    }
    writer.text("nsp");
    writer.text(namespace);
    Ok(writer.out.into())
}

/// A bracket of the JSON.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    is_map: bool,
    /// Values in it; keys count as well.
    items: u32,
    /// The attachment that it stands for.
    placeholder: Option<u32>,
}

/// What the first reading finds out.
#[derive(Debug)]
struct Plan {
    /// Values outside all brackets.
    values: u32,
    /// One for each bracket, in the order in which they are opened.
    shapes: Vec<Shape>,
}

/// What an open bracket has said so far, while the plan is made.
struct Open {
    /// In the plan's list; the outermost has none.
    shape: Option<usize>,
    shape_so_far: Shape,
    key: Key,
    is_marked: bool,
    num: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Other,
    Placeholder,
    Num,
}

impl Open {
    fn new(shape: Option<usize>, is_map: bool) -> Open {
        let shape_so_far = Shape { is_map, ..Shape::default() };
        Open { shape, shape_so_far, key: Key::Other, is_marked: false, num: None }
    }

    /// Takes a token that is a value in this bracket, or its key.
    fn take(&mut self, token: &str) {
        let is_key = self.shape_so_far.is_map && self.shape_so_far.items.is_multiple_of(2);
        self.shape_so_far.items += 1;
        if is_key {
            self.key = match text_of(token).as_ref() {
                "_placeholder" => Key::Placeholder,
                "num" => Key::Num,
                _ => Key::Other,
            };
            return;
        }
        match std::mem::replace(&mut self.key, Key::Other) {
            Key::Other => {}
            Key::Placeholder => self.is_marked = token == "true",
            Key::Num => self.num = token.parse().ok(),
        }
    }
}

impl Plan {
    fn new(text: &str, attachments: &[Bytes]) -> Plan {
        let mut shapes = Vec::new();
        let mut open = Vec::new();
        let mut top = Open::new(None, false);
        for token in json::tokens(text) {
            match token {
                "[" | "{" => {
                    top.take(token);
                    open.push(top);
                    top = Open::new(Some(shapes.len()), token == "{");
                    shapes.push(Shape::default());
                }
                "]" | "}" => {
                    let Some(outer) = open.pop() else { break };
                    let closed = std::mem::replace(&mut top, outer);
                    if let Some(shape) = closed.shape.and_then(|at| shapes.get_mut(at)) {
                        let exists = |num: &u32| (*num as usize) < attachments.len();
                        let num = closed.num.filter(|num| closed.is_marked && exists(num));
                        *shape = Shape { placeholder: num, ..closed.shape_so_far };
                    }
                }
                _ => top.take(token),
            }
        }
        Plan { values: top.shape_so_far.items, shapes }
    }
}

fn too_often() -> Error {
    Error::new("attachments are named too often in one packet")
}

/// Passes over what is left of a bracket; returns how many others are opened inside.
fn skip_bracket<'a>(tokens: &mut impl Iterator<Item = &'a str>) -> usize {
    let (mut depth, mut opened) = (1, 0);
    for token in tokens {
        match token {
            "[" | "{" => {
                depth += 1;
                opened += 1;
            }
            "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    opened
}

/// The text of a string token.
fn text_of(token: &str) -> Cow<'_, str> {
    let inside = token.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    json::unescape(inside.unwrap_or_default())
}

#[derive(Default)]
struct Writer {
    out: Vec<u8>,
}

impl Writer {
    fn head(&mut self, keys: usize, kind: Kind) {
        self.map(keys);
        self.kind(kind);
    }

    fn kind(&mut self, kind: Kind) {
        self.text("type");
        self.unsigned(kind as u64);
    }

    /// The `data` of an event or an answer.
    fn data(
        &mut self,
        name: Option<&str>,
        args: &[u8],
        attachments: &[Bytes],
    ) -> Result<(), Error> {
        let args = std::str::from_utf8(args).unwrap_or_default();
        let plan = Plan::new(args, attachments);
        let binaries: usize = attachments.iter().map(Bytes::len).sum();
        self.out.reserve(args.len() + binaries + 64);
        self.text("data");
        self.array(plan.values as usize + usize::from(name.is_some()));
        if let Some(name) = name {
            self.text(name);
        }
        self.values(args, &plan, attachments)
    }

    /// All values of a text whose plan was made.
    fn values(&mut self, text: &str, plan: &Plan, attachments: &[Bytes]) -> Result<(), Error> {
        let mut shapes = plan.shapes.iter();
        let mut tokens = json::tokens(text);
        let binaries: usize = attachments.iter().map(Bytes::len).sum();
        let mut room = binaries + REPEATED_BYTES_MAX;
        while let Some(token) = tokens.next() {
            match token.as_bytes() {
                [b'[' | b'{'] => {
                    let shape = shapes.next().copied().unwrap_or_default();
                    let num = shape.placeholder.map(|num| num as usize);
                    if let Some(bytes) = num.and_then(|num| attachments.get(num)) {
                        room = room.checked_sub(bytes.len()).ok_or_else(too_often)?;
                        self.binary(bytes);
                        for _ in 0..skip_bracket(&mut tokens) {
                            shapes.next();
                        }
                    } else if shape.is_map {
                        self.map(shape.items as usize / 2);
                    } else {
                        self.array(shape.items as usize);
                    }
                }
                [b']' | b'}'] => {}
                [b'"', ..] => self.text(&text_of(token)),
                b"true" => self.out.push(lead::TRUE),
                b"false" => self.out.push(lead::FALSE),
                b"null" => self.out.push(lead::NIL),
                _ => self.number(token),
            }
        }
        Ok(())
    }

    /// As JavaScript takes it: a number without a fraction is an integer, however it is written
    /// (T-4).
    fn number(&mut self, token: &str) {
        if let Ok(value) = token.parse::<u64>() {
            return self.unsigned(value);
        }
        if let Ok(value) = token.parse::<i64>() {
            return self.signed(value);
        }
        const TWO_63: f64 = (1_u64 << 63) as f64;
        let value: f64 = token.parse().unwrap_or_default();
        if value.trunc() == value && (0.0..2.0 * TWO_63).contains(&value) {
            self.unsigned(value as u64);
        } else if value.trunc() == value && (-TWO_63..0.0).contains(&value) {
            self.signed(value as i64);
        } else {
            self.out.push(lead::FLOAT_64);
            self.out.extend_from_slice(&value.to_be_bytes());
        }
    }

    fn unsigned(&mut self, value: u64) {
        let bytes = value.to_be_bytes();
        let (lead, len) = match value {
            0..=0x7f => return self.out.push(value as u8),
            0x80..=0xff => (lead::UINT_8, 1),
            0x100..=0xffff => (lead::UINT_8 + 1, 2),
            0x1_0000..=0xffff_ffff => (lead::UINT_8 + 2, 4),
            _ => (lead::UINT_8 + 3, 8),
        };
        self.out.push(lead);
        self.out.extend_from_slice(&bytes[8 - len..]);
    }

    fn signed(&mut self, value: i64) {
        let bytes = value.to_be_bytes();
        let (lead, len) = match value {
            0.. => return self.unsigned(value as u64),
            -0x20..0 => return self.out.push(value as u8),
            -0x80..-0x20 => (lead::INT_8, 1),
            -0x8000..-0x80 => (lead::INT_8 + 1, 2),
            -0x8000_0000..-0x8000 => (lead::INT_8 + 2, 4),
            _ => (lead::INT_8 + 3, 8),
        };
        self.out.push(lead);
        self.out.extend_from_slice(&bytes[8 - len..]);
    }

    fn text(&mut self, text: &str) {
        match text.len() {
            len @ 0..=31 => self.out.push(lead::FIXSTR | len as u8),
            len => self.length(lead::STR_8, len),
        }
        self.out.extend_from_slice(text.as_bytes());
    }

    fn binary(&mut self, bytes: &[u8]) {
        self.length(lead::BIN_8, bytes.len());
        self.out.extend_from_slice(bytes);
    }

    fn array(&mut self, len: usize) {
        self.count(lead::FIXARRAY, lead::ARRAY_16, len);
    }

    fn map(&mut self, len: usize) {
        self.count(lead::FIXMAP, lead::MAP_16, len);
    }

    /// How many values follow: inside the lead byte, or in 16 or 32 bits behind it.
    fn count(&mut self, fix: u8, lead_16: u8, len: usize) {
        let bytes = (len as u32).to_be_bytes();
        match len {
            0..=15 => self.out.push(fix | len as u8),
            16..=0xffff => {
                self.out.push(lead_16);
                self.out.extend_from_slice(&bytes[2..]);
            }
            _ => {
                self.out.push(lead_16 + 1);
                self.out.extend_from_slice(&bytes);
            }
        }
    }

    /// A length in the shortest of the formats of 8, 16 and 32 bits, the first being `lead`.
    fn length(&mut self, lead: u8, len: usize) {
        let bytes = (len as u32).to_be_bytes();
        let (wider, from) = match len {
            0..=0xff => (0, 3),
            0x100..=0xffff => (1, 2),
            _ => (2, 0),
        };
        self.out.push(lead + wider);
        self.out.extend_from_slice(&bytes[from..]);
    }
}
