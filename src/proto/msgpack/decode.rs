//! A message to a packet: tokens from the front, JSON behind it, one small record per open bracket.

use std::io::Write;

use bytes::Bytes;

use super::{BINARIES_MAX, Error};
use crate::options::Limits;
use crate::proto::json::{self, DEPTH_MAX};
use crate::proto::packet::{self, ID_MAX, Kind};

/// A decoded packet, valid by the rules that text packets have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// One of the first five.
    pub kind: Kind,
    /// As the client wrote it.
    pub namespace: String,
    /// Ack id, at most 2^53 - 1.
    pub id: Option<u64>,
    /// Raw JSON of the shape that the kind has; "" when absent. At most six times the message and
    /// 40 bytes for each attachment.
    pub data: String,
    /// The binary values in `data`, in order, each named by one placeholder.
    pub attachments: Vec<Bytes>,
}

/// Decodes one packet, which is the whole message.
///
/// # Errors
/// [`Error`] names the broken rule; the peer is at fault.
pub fn decode(message: &[u8], limits: &Limits) -> Result<Packet, Error> {
    let mut reader = Reader { rest: message };
    let Token::Map(len) = reader.token()? else { return Err(Error::InvalidType) };
    let (mut kind, mut namespace, mut id) = (None, None, None);
    let mut data = Data::default();
    for _ in 0..len {
        match reader.key()? {
            Some("type") => kind = Some(kind_of(&reader.token()?)?),
            Some("nsp") => namespace = Some(text_of(&reader.token()?)?),
            Some("id") => id = id_of(&reader.token()?)?,
            // The last one of equal keys counts, as in JavaScript.
            Some("data") => data = Data::read(&mut reader, limits)?,
            // Clients add `options` (T-1).
            _ => reader.skip()?,
        }
    }
    if !reader.rest.is_empty() {
        return Err(Error::TrailingBytes(reader.rest.len()));
    }
    let kind = kind.ok_or(Error::InvalidType)?;
    let namespace = namespace.ok_or(Error::InvalidNamespace)?.to_owned();
    let Data { json, attachments, .. } = data;
    let mut data = String::from_utf8(json).map_err(|_| Error::InvalidText)?;
    if kind == Kind::Disconnect && data == "null" {
        // Some clients send nil where there is nothing; leaving is not worth an argument.
        data.clear();
    }
    match (kind, data.is_empty()) {
        (Kind::Connect | Kind::Disconnect, true) => {}
        (_, true) => return Err(packet::Error::InvalidPayload.into()),
        (_, false) => packet::check_shape(kind, &data)?,
    }
    Ok(Packet { kind, namespace, id, data, attachments })
}

fn kind_of(token: &Token<'_>) -> Result<Kind, Error> {
    match token.integer() {
        Some(0) => Ok(Kind::Connect),
        Some(1) => Ok(Kind::Disconnect),
        Some(2) => Ok(Kind::Event),
        Some(3) => Ok(Kind::Ack),
        Some(4) => Ok(Kind::ConnectError),
        _ => Err(Error::InvalidType),
    }
}

fn text_of<'a>(token: &Token<'a>) -> Result<&'a str, Error> {
    match token {
        Token::Text(text) => Ok(text),
        _ => Err(Error::InvalidNamespace),
    }
}

fn id_of(token: &Token<'_>) -> Result<Option<u64>, Error> {
    if matches!(token, Token::Undefined) {
        return Ok(None);
    }
    let id = token.integer().and_then(|id| u64::try_from(id).ok()).filter(|id| *id <= ID_MAX);
    id.map(Some).ok_or(Error::Packet(packet::Error::InvalidId))
}

/// One value, or the head of one that holds others.
#[derive(Debug, Clone, Copy)]
enum Token<'a> {
    Nil,
    Undefined,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(&'a str),
    Binary(&'a [u8]),
    /// Milliseconds since 1970.
    Date(i64),
    /// Values that follow.
    Array(usize),
    /// Pairs that follow.
    Map(usize),
}

impl Token<'_> {
    /// What `Number.isInteger` calls one.
    fn integer(&self) -> Option<i128> {
        match *self {
            Token::Integer(value) => Some(value),
            Token::Float(value) => whole(value).map(i128::from),
            _ => None,
        }
    }
}

/// A number without a fraction that is exact in JavaScript.
fn whole(value: f64) -> Option<i64> {
    let is_whole = value.trunc() == value && value.abs() <= ID_MAX as f64;
    is_whole.then_some(value as i64)
}

/// The bytes of a message that were not read yet.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A big-endian integer of 1, 2, 4 or 8 bytes.
    fn unsigned(&mut self, bytes: usize) -> Result<u64, Error> {
        let taken = self.take(bytes)?;
        Ok(taken.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn signed(&mut self, bytes: usize) -> Result<i64, Error> {
        let unused = 64 - 8 * bytes as u32;
        Ok((self.unsigned(bytes)? << unused) as i64 >> unused)
    }

    /// A length before what it counts: 1, 2 or 4 bytes, by the distance from the shortest format.
    fn length(&mut self, wider: u8) -> Result<usize, Error> {
        Ok(self.unsigned(1 << wider)? as usize)
    }

    fn text(&mut self, len: usize) -> Result<Token<'a>, Error> {
        let text = simdutf8::basic::from_utf8(self.take(len)?).map_err(|_| Error::InvalidText)?;
        Ok(Token::Text(text))
    }

    /// Each value takes a byte at least, so more of them than bytes cannot come.
    fn array(&self, len: usize) -> Result<Token<'a>, Error> {
        if len > self.rest.len() { Err(Error::Truncated) } else { Ok(Token::Array(len)) }
    }

    fn map(&self, len: usize) -> Result<Token<'a>, Error> {
        if len > self.rest.len() / 2 { Err(Error::Truncated) } else { Ok(Token::Map(len)) }
    }

    fn token(&mut self) -> Result<Token<'a>, Error> {
        let lead = self.unsigned(1)? as u8;
        match lead {
            0x00..=0x7f => Ok(Token::Integer(lead.into())),
            0x80..=0x8f => self.map(usize::from(lead & 15)),
            0x90..=0x9f => self.array(usize::from(lead & 15)),
            0xa0..=0xbf => self.text(usize::from(lead & 31)),
            0xc0 => Ok(Token::Nil),
            0xc2 | 0xc3 => Ok(Token::Bool(lead == 0xc3)),
            0xc4..=0xc6 => {
                let len = self.length(lead - 0xc4)?;
                Ok(Token::Binary(self.take(len)?))
            }
            0xc7..=0xc9 => {
                let len = self.length(lead - 0xc7)?;
                self.extension_type()?;
                Ok(Token::Binary(self.take(len)?))
            }
            0xca => Ok(Token::Float(f32::from_bits(self.unsigned(4)? as u32).into())),
            0xcb => Ok(Token::Float(f64::from_bits(self.unsigned(8)?))),
            0xcc..=0xcf => Ok(Token::Integer(self.unsigned(1 << (lead - 0xcc))?.into())),
            0xd0..=0xd3 => Ok(Token::Integer(self.signed(1 << (lead - 0xd0))?.into())),
            0xd4 => {
                self.extension_type()?;
                self.take(1)?;
                Ok(Token::Undefined)
            }
            0xd7 => {
                self.extension_type()?;
                Ok(Token::Date(self.signed(8)?))
            }
            0xd9..=0xdb => {
                let len = self.length(lead - 0xd9)?;
                self.text(len)
            }
            0xdc | 0xdd => {
                let len = self.length(lead - 0xdc + 1)?;
                self.array(len)
            }
            0xde | 0xdf => {
                let len = self.length(lead - 0xde + 1)?;
                self.map(len)
            }
            0xc1 | 0xd5 | 0xd6 | 0xd8 => Err(Error::UnknownFormat),
            0xe0..=0xff => Ok(Token::Integer((lead as i8).into())),
        }
    }

    /// All extensions of notepack have type 0 and differ by their format.
    fn extension_type(&mut self) -> Result<(), Error> {
        if self.unsigned(1)? == 0 { Ok(()) } else { Err(Error::UnknownFormat) }
    }

    /// A key of the packet; `None` for one that is no text, which means nothing.
    fn key(&mut self) -> Result<Option<&'a str>, Error> {
        match self.token()? {
            Token::Text(text) => Ok(Some(text)),
            Token::Integer(_) => Ok(None),
            _ => Err(Error::InvalidKey),
        }
    }

    /// Passes over one value, whatever it holds.
    fn skip(&mut self) -> Result<(), Error> {
        let mut left = 1_usize;
        while left > 0 {
            left -= 1;
            // At most one for each byte of the message.
            left += match self.token()? {
                Token::Array(len) => len,
                Token::Map(len) => 2 * len,
                _ => 0,
            };
        }
        Ok(())
    }
}

/// The `data` of a packet.
#[derive(Default)]
struct Data {
    json: Vec<u8>,
    attachments: Vec<Bytes>,
    /// Sum of their lengths.
    bytes: usize,
}

/// An open bracket.
struct Level {
    is_map: bool,
    /// Values, or pairs, yet to be read.
    left: usize,
    is_empty: bool,
}

impl Data {
    fn read(reader: &mut Reader<'_>, limits: &Limits) -> Result<Data, Error> {
        let mut data = Data::default();
        let mut levels: Vec<Level> = Vec::new();
        let mut has_mark = false;
        loop {
            // Here a value begins, after its key if it is in a map.
            let start = data.json.len();
            let mut is_mark = false;
            if let Some(level) = levels.last_mut() {
                level.left -= 1;
                if !level.is_empty {
                    data.json.push(b',');
                }
                is_mark = level.is_map && data.write_key(reader)?;
            }
            let token = reader.token()?;
            has_mark |= is_mark && matches!(token, Token::Bool(true));
            match token {
                // As in JSON: no such key.
                Token::Undefined if levels.last().is_none_or(|level| level.is_map) => {
                    data.json.truncate(start);
                }
                _ => {
                    if let Some(level) = levels.last_mut() {
                        level.is_empty = false;
                    }
                    data.write(&token, &mut levels, limits)?;
                }
            }
            // Here a value has ended, or a bracket was opened.
            while let Some(level) = levels.pop_if(|level| level.left == 0) {
                data.json.push(if level.is_map { b'}' } else { b']' });
            }
            if levels.is_empty() {
                break;
            }
        }
        if has_mark && !data.attachments.is_empty() {
            // It would pass for one of the placeholders that stand for the attachments.
            return Err(packet::Error::IllegalAttachments.into());
        }
        Ok(data)
    }

    /// Writes a key and its colon; whether it is that of a placeholder.
    fn write_key(&mut self, reader: &mut Reader<'_>) -> Result<bool, Error> {
        let key = reader.token()?;
        match key {
            Token::Text(text) => json::write_string(text, &mut self.json),
            Token::Integer(value) => {
                let _ = write!(self.json, "\"{value}\"");
            }
            _ => return Err(Error::InvalidKey),
        }
        self.json.push(b':');
        Ok(matches!(key, Token::Text("_placeholder")))
    }

    fn write(
        &mut self,
        token: &Token<'_>,
        levels: &mut Vec<Level>,
        limits: &Limits,
    ) -> Result<(), Error> {
        let out = &mut self.json;
        // Writing into memory does not fail.
        let _ = match *token {
            Token::Nil | Token::Undefined => out.write_all(b"null"),
            Token::Bool(value) => write!(out, "{value}"),
            Token::Integer(value) => write!(out, "{value}"),
            Token::Float(value) => match whole(value) {
                Some(value) => write!(out, "{value}"),
                None if value.is_finite() => write!(out, "{value:?}"),
                None => out.write_all(b"null"),
            },
            Token::Text(text) => {
                json::write_string(text, out);
                Ok(())
            }
            Token::Date(ms) => {
                write_date(ms, out);
                Ok(())
            }
            Token::Binary(bytes) => return self.write_binary(bytes, limits),
            Token::Array(left) | Token::Map(left) => {
                let is_map = matches!(token, Token::Map(_));
                if levels.len() >= limits.json_depth_max.min(DEPTH_MAX) {
                    return Err(packet::Error::TooDeep.into());
                }
                levels.push(Level { is_map, left, is_empty: true });
                out.write_all(if is_map { b"{" } else { b"[" })
            }
        };
        Ok(())
    }

    fn write_binary(&mut self, bytes: &[u8], limits: &Limits) -> Result<(), Error> {
        let num = self.attachments.len();
        if num >= BINARIES_MAX {
            return Err(packet::Error::TooManyAttachments.into());
        }
        self.bytes += bytes.len();
        if self.bytes > limits.attachments_bytes_max {
            return Err(packet::Error::AttachmentsTooLarge.into());
        }
        self.attachments.push(Bytes::copy_from_slice(bytes));
        let _ = write!(self.json, "{{\"_placeholder\":true,\"num\":{num}}}");
        Ok(())
    }
}

/// Appends what `Date.toJSON` gives for a time in milliseconds since 1970.
fn write_date(ms: i64, out: &mut Vec<u8>) {
    /// JavaScript's dates reach this far both ways.
    const MS_MAX: i64 = 8_640_000_000_000_000;
    const DAY_MS: i64 = 86_400_000;
    if !(-MS_MAX..=MS_MAX).contains(&ms) {
        return out.extend_from_slice(b"null");
    }
    let (days, ms) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    let _ = match year {
        0..=9_999 => write!(out, "\"{year:04}"),
        _ => write!(out, "\"{year:+07}"),
    };
    let ms = ms % 1_000;
    let _ = write!(out, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z\"");
}

/// Year, month and day of a day since 1970 in the Gregorian calendar, which repeats every 400
/// years. Years are taken to begin in March, so that the day that may be missing is the last.
fn civil(days: i64) -> (i64, i64, i64) {
    const ERA_DAYS: i64 = 146_097;
    let since_0000_march = days + 719_468;
    let (era, day) = (since_0000_march.div_euclid(ERA_DAYS), since_0000_march.rem_euclid(ERA_DAYS));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + 400 * era + i64::from(month <= 2);
    (year, month, day)
}
