//! JSON text: is it well-formed, how deep does it nest, and which objects stand for attachments.
//!
//! It owns the answer to one question: will `JSON.parse` of every other client accept this text?
//! The text itself is never changed, and no tree is built: what a client sent is relayed byte for
//! byte, so numbers keep their digits and unpaired surrogates their escapes. Bytes are visited
//! once from the front, with one bit of memory per open bracket.
//!
//! It never recurses, never allocates for a packet without attachments, and knows no Socket.IO.

use std::borrow::Cow;
use std::ops::Range;

/// Deepest nesting that can be asked for: one bit per level lives on the stack.
pub const DEPTH_MAX: usize = 512;

/// The rule of RFC 8259, or of ours, that a text breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The text is not JSON, or is followed by something.
    Syntax,
    /// More arrays and objects are open at once than allowed.
    TooDeep,
}

/// Reused buffers for validation; one per shard.
#[derive(Debug, Default)]
pub struct Validator {
    /// One per open bracket of a packet with attachments; empty between packets.
    frames: Vec<Frame>,
}

impl Validator {
    /// Empty buffers. They grow with the first packets that need them.
    pub fn new() -> Self {
        Validator::default()
    }

    /// Whether `text` is one JSON value in which at most `depth_max` brackets are open at once.
    ///
    /// # Errors
    /// [`Error`] names the broken rule.
    pub fn check(&mut self, text: &str, depth_max: usize) -> Result<(), Error> {
        validate(text, depth_max)
    }

    /// Whether each object with `"_placeholder": true` has a `num` in `0..count` (I-9).
    ///
    /// `text` has passed [`Validator::check`]; of any other text only the absence of panics is
    /// promised. As in `JSON.parse`, the last one of equal keys counts. `num` is a plain integer:
    /// `1.0` and `-0`, which no encoder writes, are refused.
    pub fn placeholders(&mut self, text: &str, count: usize) -> bool {
        self.visit_placeholders(text, count, |_, _| {})
    }

    /// The same, and tells of each placeholder where in `text` its number is, and which. Not in the
    /// order of their places, as one may be inside of another.
    pub fn visit_placeholders(
        &mut self,
        text: &str,
        count: usize,
        visit: impl FnMut(Range<usize>, usize),
    ) -> bool {
        self.frames.clear();
        placeholders(text, count, &mut self.frames, visit).is_some()
    }
}

/// Whether `text` is one JSON value by RFC 8259, nested at most `depth_max` (and [`DEPTH_MAX`]).
///
/// # Errors
/// [`Error`] names the broken rule.
pub fn validate(text: &str, depth_max: usize) -> Result<(), Error> {
    let bytes = text.as_bytes();
    let depth_max = depth_max.min(DEPTH_MAX);
    let mut open = Open::default();
    let mut at = skip_space(bytes, 0);
    loop {
        // Here a value begins.
        at = match bytes.get(at) {
            Some(b'"') => string_end(bytes, at + 1),
            Some(b'-' | b'0'..=b'9') => number_end(bytes, at),
            Some(&bracket @ (b'[' | b'{')) => {
                if open.depth == depth_max {
                    return Err(Error::TooDeep);
                }
                open.push(bracket == b'{');
                at = skip_space(bytes, at + 1);
                // ']' and '}' are 2 after their opening brackets.
                if bytes.get(at) != Some(&(bracket + 2)) {
                    if bracket == b'{' {
                        at = key_end(bytes, at).ok_or(Error::Syntax)?;
                    }
                    continue;
                }
                open.pop();
                Some(at + 1)
            }
            Some(_) => literal_end(bytes, at),
            None => None,
        }
        .ok_or(Error::Syntax)?;
        // Here a value has ended.
        loop {
            at = skip_space(bytes, at);
            match bytes.get(at) {
                Some(b',') if open.depth > 0 => {
                    at = skip_space(bytes, at + 1);
                    if open.object {
                        at = key_end(bytes, at).ok_or(Error::Syntax)?;
                    }
                    break;
                }
                Some(b'}') if open.object => open.pop(),
                Some(b']') if open.depth > 0 && !open.object => open.pop(),
                None if open.depth == 0 => return Ok(()),
                _ => return Err(Error::Syntax),
            }
            at += 1;
        }
    }
}

/// The open brackets: their number, and for each whether it is an object.
#[derive(Default)]
struct Open {
    objects: [u64; DEPTH_MAX / 64],
    /// 0 ≤ depth ≤ DEPTH_MAX.
    depth: usize,
    /// The innermost bracket is an object; false if none is open.
    object: bool,
}

impl Open {
    fn push(&mut self, object: bool) {
        let bit = 1 << (self.depth % 64);
        let word = &mut self.objects[self.depth / 64 % (DEPTH_MAX / 64)];
        *word = if object { *word | bit } else { *word & !bit };
        self.depth += 1;
        self.object = object;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        let below = self.depth.wrapping_sub(1);
        self.object =
            self.depth > 0 && self.objects[below / 64 % (DEPTH_MAX / 64)] >> (below % 64) & 1 == 1;
    }
}

/// The first byte from `at` that is no JSON white space.
#[inline]
fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte @ 0..=b' ') = bytes.get(at) {
        if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            break;
        }
        at += 1;
    }
    at
}

/// Behind the colon, and the space behind it, of the key at `at`.
#[inline]
fn key_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let at = skip_space(bytes, string_end(bytes, at + 1)?);
    (bytes.get(at) == Some(&b':')).then(|| skip_space(bytes, at + 1))
}

/// Behind the closing quote of the string whose first character is at `at`.
#[inline]
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = plain_end(bytes, at);
        match *bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at = escape_end(bytes, at + 1)?,
            _ => return None,
        }
    }
}

/// The first byte from `at` that is a quote, a backslash or a control character.
#[inline]
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    let start = at;
    while let Some(chunk) = chunk_at::<8>(bytes, at) {
        if let Some(offset) = special_in(*chunk) {
            return at + offset;
        }
        at += 8;
        if at - start == 16 {
            // A long string: the compiler makes vector instructions of this.
            let special = |hit, byte: &u8| hit | is_special(*byte);
            while chunk_at::<16>(bytes, at).is_some_and(|chunk| !chunk.iter().fold(false, special))
            {
                at += 16;
            }
        }
    }
    while let Some(byte) = bytes.get(at) {
        if is_special(*byte) {
            break;
        }
        at += 1;
    }
    at
}

#[inline]
fn chunk_at<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

/// A quote, a backslash or a control character.
#[inline]
fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// The first special byte of eight.
///
/// `(x - n) & !x` has a byte's top bit set where that byte is below n. A borrow can only set wrong
/// bits above a right one, so the lowest is exact.
#[inline]
fn special_in(chunk: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(chunk);
    let quote = word ^ (ONES * b'"' as u64);
    let slash = word ^ (ONES * b'\\' as u64);
    let hit = (word.wrapping_sub(ONES * 0x20) & !word)
        | (quote.wrapping_sub(ONES) & !quote)
        | (slash.wrapping_sub(ONES) & !slash);
    let hit = hit & (ONES * 0x80);
    (hit != 0).then_some((hit.trailing_zeros() / 8) as usize)
}

/// Behind the escape whose backslash is before `at`.
fn escape_end(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
        b'u' => {
            let digits = bytes.get(at + 1..at + 5)?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(at + 5)
        }
        _ => None,
    }
}

/// Behind the number that begins at `at`. Its value does not matter: `1e999` is JSON.
#[inline]
fn number_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    if bytes.get(at) == Some(&b'-') {
        at += 1;
    }
    at = match bytes.get(at)? {
        b'0' => at + 1,
        _ => digits_end(bytes, at)?,
    };
    if bytes.get(at) == Some(&b'.') {
        at = digits_end(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = bytes.get(at) {
            at += 1;
        }
        at = digits_end(bytes, at)?;
    }
    Some(at)
}

/// Behind one or more digits.
#[inline]
fn digits_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    while let Some(b'0'..=b'9') = bytes.get(end) {
        end += 1;
    }
    (end > at).then_some(end)
}

/// Behind `true`, `false` or `null`.
#[inline]
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    if rest.starts_with(b"true") || rest.starts_with(b"null") {
        return Some(at + 4);
    }
    rest.starts_with(b"false").then_some(at + 5)
}

/// Behind the token at `at`, a single byte if it is none of those with more.
fn token_end(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => string_end(bytes, at + 1),
        b'-' | b'0'..=b'9' => number_end(bytes, at),
        b't' | b'f' | b'n' => literal_end(bytes, at),
        _ => Some(at + 1),
    }
}

/// The brackets, strings (quotes included), numbers and literals of valid JSON, in order. Of any
/// other text only the absence of panics is promised.
pub fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(b',' | b':' | b' ' | b'\t' | b'\n' | b'\r') = bytes.get(at) {
            at += 1;
        }
        let start = at;
        at = token_end(bytes, at)?;
        text.get(start..at)
    })
}

/// What an open bracket has said so far about being a placeholder.
#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    /// The key whose value comes next.
    key: Key,
    /// The last `_placeholder` was `true`.
    marked: bool,
    /// The last `num`, if that was an integer in range, and where it ended.
    number: Option<usize>,
    end: usize,
}

/// Keys that matter to placeholders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Key {
    #[default]
    Other,
    Placeholder,
    Num,
}

impl Frame {
    /// Takes the value of the current key, given as its text (a bracket for arrays and objects).
    fn take(&mut self, value: &str, count: usize, end: usize) {
        match std::mem::take(&mut self.key) {
            Key::Other => {}
            Key::Placeholder => self.marked = value == "true",
            Key::Num => {
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let number = value.parse().ok().filter(|num: &usize| digits && *num < count);
                (self.number, self.end) = (number, end);
            }
        }
    }
}

/// `None` if a placeholder has no `num` in `0..count`. `text` is valid JSON.
fn placeholders(
    text: &str,
    count: usize,
    frames: &mut Vec<Frame>,
    mut visit: impl FnMut(Range<usize>, usize),
) -> Option<()> {
    let bytes = text.as_bytes();
    // The frame of the innermost bracket; a value outside all brackets has one too, unused.
    let mut top = Frame::default();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let end = token_end(bytes, at)?;
        let token = text.get(at..end)?;
        at = end;
        match byte {
            b'{' | b'[' => {
                top.take(token, count, end);
                frames.push(top);
                top = Frame::default();
            }
            b'}' | b']' => {
                if top.marked {
                    let number = top.number?;
                    let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
                    visit(top.end - digits..top.end, number);
                }
                top = frames.pop()?;
            }
            b'"' if bytes.get(skip_space(bytes, at)) == Some(&b':') => {
                top.key = match unescape(token.get(1..token.len() - 1)?).as_ref() {
                    "_placeholder" => Key::Placeholder,
                    "num" => Key::Num,
                    _ => Key::Other,
                };
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => {}
            _ => top.take(token, count, end),
        }
    }
    Some(())
}

/// The string literal that `text` begins with: its inside, and what follows the closing quote.
pub fn split_string(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('"')?;
    let end = string_end(inside.as_bytes(), 0)?;
    Some((inside.get(..end - 1)?, inside.get(end..)?))
}

/// The number that `text` begins with, and what follows.
pub fn split_number(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    matches!(bytes.first()?, b'-' | b'0'..=b'9').then_some(())?;
    text.split_at_checked(number_end(bytes, 0)?)
}

/// Decodes the escapes of a string's inside. Borrows if there are none.
///
/// An unpaired surrogate, which JSON can say and Rust cannot hold, becomes U+FFFD.
pub fn unescape(inside: &str) -> Cow<'_, str> {
    if !inside.as_bytes().contains(&b'\\') {
        return Cow::Borrowed(inside);
    }
    let mut out = String::with_capacity(inside.len());
    let mut rest = inside;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = escaped.chars();
        match chars.next() {
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                rest = unescape_unicode(chars.as_str(), &mut out);
                continue;
            }
            Some(other) => out.push(other),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Decodes what follows `\u`, with the second half of a surrogate pair; returns what is behind it.
fn unescape_unicode<'a>(text: &'a str, out: &mut String) -> &'a str {
    let (first, rest) = hex_unit(text);
    if (0xD800..0xDC00).contains(&first)
        && let Some((second, behind)) = rest.strip_prefix("\\u").map(hex_unit)
        && (0xDC00..0xE000).contains(&second)
    {
        let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        return behind;
    }
    out.push(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
    rest
}

/// Four hexadecimal digits and what follows; for anything else a lone surrogate, hence U+FFFD.
/// Validated text has nothing else. 0xDFFF pairs only with a first half; then the code is legal.
fn hex_unit(text: &str) -> (u32, &str) {
    let unit = text.split_at_checked(4).and_then(|(digits, rest)| {
        let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some((u32::from_str_radix(digits, 16).ok().filter(|_| plain)?, rest))
    });
    unit.unwrap_or((0xDFFF, text))
}

/// Bytes that [`write_string`] will append.
pub fn string_len(text: &str) -> usize {
    let more = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 1,
        0..0x20 => 5,
        _ => 0,
    };
    2 + text.len() + text.bytes().map(more).sum::<usize>()
}

/// Appends `text` as a JSON string, quotes included.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(plain_end(rest, 0));
        out.extend_from_slice(plain);
        let Some((byte, behind)) = special.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&digits);
            }
        }
        rest = behind;
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests;
