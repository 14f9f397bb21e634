//! Offers, the examples of the RFC, windows against a plain inflater, and what is no message.

use std::fmt::Write as _;

use super::*;

const SETTINGS: Settings = Settings {
    threshold: 0,
    server_bits: 15,
    client_bits: 15,
    level: 6,
    context_takeover: false,
    context_bytes_max: 0,
};

fn answer(offers: &[&str], settings: &Settings) -> Result<String, Malformed> {
    let agreed = negotiate(offers.iter().copied(), settings, true)?;
    Ok(agreed.map_or(String::from("none"), |(_, answer)| answer))
}

/// What is agreed on, behind the name and without the two that say that nothing is kept.
fn shape(offers: &[&str], settings: &Settings) -> String {
    let mut text = answer(offers, settings).expect("a sound header");
    for known in
        ["permessage-deflate", "; server_no_context_takeover", "; client_no_context_takeover"]
    {
        text = text.replace(known, "");
    }
    text
}

#[test]
fn c9_offers_are_answered_in_order() {
    let full = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert_eq!(answer(&["permessage-deflate"], &SETTINGS).as_deref(), Ok(full));
    let rows: &[(&[&str], &str)] = &[
        (&["permessage-deflate; client_max_window_bits"], ""),
        (&["permessage-deflate;client_max_window_bits=10"], "; client_max_window_bits=10"),
        (&["permessage-deflate; server_max_window_bits=15"], "; server_max_window_bits=15"),
        (&["permessage-deflate ; server_max_window_bits = \"9\""], "; server_max_window_bits=9"),
        (
            &["permessage-deflate; server_max_window_bits=8; client_max_window_bits=8"],
            "; server_max_window_bits=8; client_max_window_bits=8",
        ),
        (&["x-webkit-deflate-frame, permessage-deflate; server_no_context_takeover"], ""),
        (&["mux; max=3; a=\"b\"", "permessage-deflate"], ""),
        (
            &["permessage-deflate; server_max_window_bits=10, permessage-deflate"],
            "; server_max_window_bits=10",
        ),
        // A parameter of tomorrow declines its offer, not those after it (section 7).
        (
            &["permessage-deflate; x_new=1; x_new=1, permessage-deflate; client_max_window_bits=9"],
            "; client_max_window_bits=9",
        ),
    ];
    for (offers, expected) in rows {
        assert_eq!(shape(offers, &SETTINGS), *expected, "{offers:?}");
    }
    for nothing in ["permessage-bzip2", "constructor", "permessage-deflate; constructor", "a, b"] {
        assert_eq!(answer(&[nothing], &SETTINGS).as_deref(), Ok("none"), "{nothing}");
    }
    assert_eq!(answer(&[], &SETTINGS).as_deref(), Ok("none"));
}

#[test]
fn c9_settings_bound_what_is_agreed_on() {
    let small = Settings { server_bits: 10, client_bits: 9, ..SETTINGS };
    let rows = [
        ("permessage-deflate", "; server_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=12", "; server_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=8", "; server_max_window_bits=8"),
        (
            "permessage-deflate; client_max_window_bits",
            "; server_max_window_bits=10; client_max_window_bits=9",
        ),
        (
            "permessage-deflate; client_max_window_bits=8",
            "; server_max_window_bits=10; client_max_window_bits=8",
        ),
    ];
    for (offer, expected) in rows {
        assert_eq!(shape(&[offer], &small), expected, "{offer}");
    }
    let keeping = Settings { context_takeover: true, ..SETTINGS };
    let rows = [
        ("permessage-deflate", "permessage-deflate"),
        (
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover",
        ),
        (
            "permessage-deflate; client_no_context_takeover",
            "permessage-deflate; client_no_context_takeover",
        ),
    ];
    for (offer, expected) in rows {
        assert_eq!(answer(&[offer], &keeping).as_deref(), Ok(expected));
    }
    let none = negotiate(["permessage-deflate"].into_iter(), &keeping, false);
    let (agreed, _) = none.expect("sound").expect("agreed");
    assert!(!agreed.server_takeover && !agreed.client_takeover, "there is no memory for it");
    assert_eq!(agreed.context_bytes(), 0);
}

#[test]
fn c7_malformed_extensions() {
    let rows = [
        "",
        ",",
        "permessage-deflate,",
        ",permessage-deflate",
        "permessage-deflate;",
        "permessage-deflate; ;",
        "permessage-deflate=1",
        "permessage-deflate; a=",
        "permessage-deflate; a=\"",
        "permessage-deflate; a=\"\"",
        "permessage-deflate; a=\"b c\"",
        "permessage-deflate; a=\"\\b\"",
        "permessage-deflate a",
        "perm(essage",
        "é",
        "other; a b",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits=foo",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-deflate; client_max_window_bits=0",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover=true",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate, permessage-deflate; client_max_window_bits=99",
    ];
    for value in rows {
        assert_eq!(answer(&[value], &SETTINGS), Err(Malformed), "{value}");
    }
}

fn inflate(payload: &[u8], keep: bool, inflater: &mut Inflater) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    inflater.inflate(payload, 1 << 20, keep, &mut out).map(|()| out)
}

/// The examples of RFC 7692, section 7.2.3.
#[test]
fn the_examples_of_the_rfc() {
    let mut inflater = Inflater::new();
    let alone: [(&[u8], &[u8]); 6] = [
        (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
        (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], b"Hello"),
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], b"Hello"),
        (&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
        (&[0x00], b""),
        (&[], b""),
    ];
    for keep in [false, true] {
        for (payload, message) in alone {
            let mut inflater = Inflater::new();
            assert_eq!(inflate(payload, keep, &mut inflater).as_deref(), Ok(message));
            assert_eq!(inflate(payload, keep, &mut inflater).as_deref(), Ok(message));
        }
    }
    let (first, second) = (alone[0].0, [0xf2, 0x00, 0x11, 0x00, 0x00]);
    assert_eq!(inflate(first, true, &mut inflater).as_deref(), Ok(&b"Hello"[..]));
    assert_eq!(inflate(&second, true, &mut inflater).as_deref(), Ok(&b"Hello"[..]));
    inflater.reset();
    assert_eq!(inflate(first, false, &mut inflater).as_deref(), Ok(&b"Hello"[..]));
    assert_eq!(inflate(&second, false, &mut inflater), Err(Error::Corrupt), "nothing was kept");
    let (mut deflater, mut out) = (Deflater::new(15, 6), Vec::new());
    assert!(deflater.deflate(b"Hello", &mut out) && deflater.deflate(b"Hello", &mut out));
    assert_eq!(out, [first, &second].concat());
    out.clear();
    deflater.reset();
    assert!(deflater.deflate(b"", &mut out));
    assert_eq!(out, [0]);
}

/// DEFLATE (RFC 1951) as plainly as can be: the message of a payload, and how far back it refers.
/// `None` if it is no DEFLATE, or does not end between two blocks.
fn reference(payload: &[u8]) -> Option<(Vec<u8>, usize)> {
    let bytes = [payload, &TAIL].concat();
    let mut bits = Bits { bytes: &bytes, at: 0 };
    let (mut out, mut farthest) = (Vec::new(), 0);
    while bits.at < 8 * bytes.len() {
        let _is_final = bits.take(1)?;
        match bits.take(2)? {
            0 => {
                bits.at = bits.at.next_multiple_of(8);
                let (length, inverse) = (bits.take(16)?, bits.take(16)?);
                if length != !inverse & 0xffff {
                    return None;
                }
                for _ in 0..length {
                    out.push(bits.take(8)? as u8);
                }
            }
            1 => {
                let mut lengths = [8u8; 288];
                lengths[144..256].fill(9);
                lengths[256..280].fill(7);
                let (literals, distances) = (Code::new(&lengths)?, Code::new(&[5; 30])?);
                bits.block(&literals, &distances, &mut out, &mut farthest)?;
            }
            2 => {
                let (literals, distances) = bits.codes()?;
                bits.block(&literals, &distances, &mut out, &mut farthest)?;
            }
            _ => return None,
        }
    }
    Some((out, farthest))
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A canonical Huffman code: (length, code) to symbol.
struct Code(std::collections::HashMap<(u32, u32), usize>);

impl Code {
    fn new(lengths: &[u8]) -> Option<Code> {
        let (mut code, mut symbols) = (0u32, std::collections::HashMap::new());
        for length in 1..=15u8 {
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, other)| **other == length) {
                if code >= 1 << length {
                    return None;
                }
                symbols.insert((u32::from(length), code), symbol);
                code += 1;
            }
            code <<= 1;
        }
        Some(Code(symbols))
    }
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for bit in 0..count {
            let byte = *self.bytes.get(self.at / 8)?;
            value |= u32::from(byte >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Some(value)
    }

    fn symbol(&mut self, code: &Code) -> Option<usize> {
        let mut value = 0;
        for length in 1..=15 {
            value = value << 1 | self.take(1)?;
            if let Some(symbol) = code.0.get(&(length, value)) {
                return Some(*symbol);
            }
        }
        None
    }

    fn codes(&mut self) -> Option<(Code, Code)> {
        const ORDER: [usize; 19] =
            [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
        let literals = self.take(5)? as usize + 257;
        let distances = self.take(5)? as usize + 1;
        let mut lengths = [0u8; 19];
        for place in &ORDER[..self.take(4)? as usize + 4] {
            lengths[*place] = self.take(3)? as u8;
        }
        let (code, mut lengths) = (Code::new(&lengths)?, Vec::new());
        while lengths.len() < literals + distances {
            let (value, times) = match self.symbol(&code)? {
                16 => (*lengths.last()?, 3 + self.take(2)?),
                17 => (0, 3 + self.take(3)?),
                18 => (0, 11 + self.take(7)?),
                length => (length as u8, 1),
            };
            (0..times).for_each(|_| lengths.push(value));
        }
        let fits = lengths.len() == literals + distances && lengths[256] > 0;
        fits.then_some(())?;
        Some((Code::new(&lengths[..literals])?, Code::new(&lengths[literals..])?))
    }

    fn block(
        &mut self,
        literals: &Code,
        distances: &Code,
        out: &mut Vec<u8>,
        farthest: &mut usize,
    ) -> Option<()> {
        loop {
            let length = match self.symbol(literals)? {
                256 => return Some(()),
                literal @ 0..256 => {
                    out.push(literal as u8);
                    continue;
                }
                285 => 258,
                symbol @ 257..265 => symbol - 254,
                symbol @ 265..285 => {
                    let extra = (symbol - 261) / 4;
                    let base = (((symbol - 261) % 4 + 4) << extra) + 3;
                    base + self.take(extra as u32)? as usize
                }
                _ => return None,
            };
            let distance = match self.symbol(distances)? {
                symbol @ 0..4 => symbol + 1,
                symbol @ 4..30 => {
                    let extra = symbol / 2 - 1;
                    ((symbol % 2 + 2) << extra) + 1 + self.take(extra as u32)? as usize
                }
                _ => return None,
            };
            *farthest = distance.max(*farthest);
            let from = out.len().checked_sub(distance)?;
            (0..length).for_each(|at| out.push(out[from + at]));
        }
    }
}

/// Text with repetitions near and far.
fn message(random: &mut fastrand::Rng) -> Vec<u8> {
    let (mut text, bytes) = (String::new(), random.usize(0..60_000));
    while text.len() < bytes {
        match random.u8(..8) {
            0 => text.push_str(&"ab".repeat(random.usize(0..300))),
            1 => (0..200).for_each(|_| text.push(random.alphanumeric())),
            _ => write!(text, "{{\"id\":{},\"name\":\"x\"}}", random.u16(..)).expect("a string"),
        }
    }
    text.into_bytes()
}

#[test]
fn every_window_and_level_keeps_its_promise() {
    let mut random = fastrand::Rng::with_seed(7692);
    let mut inflater = Inflater::new();
    for bits in 8..=15 {
        for level in 1..=9 {
            let mut deflater = Deflater::new(bits, level);
            for _ in 0..2 {
                let (message, mut payload) = (message(&mut random), Vec::new());
                deflater.reset();
                assert!(deflater.deflate(&message, &mut payload));
                assert!(payload.len() < message.len() + 64);
                let (read, farthest) = reference(&payload).expect("sound");
                assert!(read == message, "window of {bits} bits, level {level}");
                assert!(farthest <= 1 << bits, "{farthest} with {bits} bits, level {level}");
                assert_eq!(inflate(&payload, false, &mut inflater).as_ref(), Ok(&message));
            }
        }
    }
}

#[test]
fn windows_that_are_kept() {
    let mut random = fastrand::Rng::with_seed(1);
    for bits in [8, 9, 12, 15] {
        let (mut deflater, mut inflater) = (Deflater::new(bits, 6), Inflater::new());
        for round in 0..20 {
            let (message, mut payload) = (message(&mut random), Vec::new());
            assert!(deflater.deflate(&message, &mut payload));
            assert_eq!(inflate(&payload, true, &mut inflater).as_ref(), Ok(&message), "{round}");
        }
    }
}

#[test]
fn a_mutated_payload_is_read_as_the_reference_reads_it() {
    let mut random = fastrand::Rng::with_seed(2);
    let (mut inflater, mut deflater) = (Inflater::new(), Deflater::new(15, 6));
    let (mut sound, mut broken) = (0, 0);
    for _ in 0..3_000 {
        let (mut message, mut payload) = (message(&mut random), Vec::new());
        message.truncate(random.usize(0..400));
        deflater.reset();
        assert!(deflater.deflate(&message, &mut payload));
        for _ in 0..random.usize(0..3) {
            let at = random.usize(0..payload.len());
            match random.u8(..3) {
                0 => payload[at] = random.u8(..),
                1 => payload.insert(at, random.u8(..)),
                _ => payload.truncate(at.max(1)),
            }
        }
        let ours = inflate(&payload, false, &mut inflater);
        if ours.is_err() {
            inflater.reset();
        }
        // zlib refuses codes that are not complete, the reference does not look; and behind a
        // final block zlib begins anew, without what the block could refer to.
        match (&ours, reference(&payload)) {
            (Ok(ours), Some((theirs, _))) => {
                sound += 1;
                assert!(*ours == theirs, "{payload:?}");
            }
            (Ok(_), None) => panic!("accepted: {payload:?}"),
            (Err(_), _) => broken += 1,
        }
    }
    assert!(sound > 500 && broken > 500, "{sound} sound, {broken} broken");
}

#[test]
fn a_truncated_payload_is_no_message() {
    let mut random = fastrand::Rng::with_seed(3);
    let (mut payload, message) = (Vec::new(), message(&mut random));
    assert!(Deflater::new(15, 6).deflate(&message[..3_000], &mut payload));
    for cut in 1..payload.len() {
        let read = inflate(&payload[..cut], false, &mut Inflater::new());
        assert_eq!(read, Err(Error::Corrupt), "cut at {cut} of {}", payload.len());
    }
}

#[test]
fn a_bomb_costs_no_more_than_the_bound() {
    let mut payload = Vec::new();
    assert!(Deflater::new(15, 9).deflate(&vec![0; 64 << 20], &mut payload));
    assert!(payload.len() < 100_000);
    for max in [1, 1_000, 1_000_000] {
        let (mut inflater, mut out) = (Inflater::new(), Vec::new());
        assert_eq!(inflater.inflate(&payload, max, false, &mut out), Err(Error::TooBig));
        assert!(out.capacity() <= 2 * max + CHUNK, "{} for {max}", out.capacity());
        let read = inflater.inner.total_in();
        assert!(read <= 1_000 + max as u64 / 500, "read {read} of {}", payload.len());
    }
    let exact = vec![7; 1_000_000];
    payload.clear();
    assert!(Deflater::new(15, 9).deflate(&exact, &mut payload));
    let mut out = Vec::new();
    assert_eq!(Inflater::new().inflate(&payload, 1_000_000, false, &mut out), Ok(()));
    assert!(out == exact);
    out.clear();
    let error = Inflater::new().inflate(&payload, 999_999, false, &mut out);
    assert_eq!(error, Err(Error::TooBig));
}

#[test]
fn final_blocks_without_end_are_refused() {
    let ends = |count: usize| inflate(&[0x03, 0x00].repeat(count), false, &mut Inflater::new());
    assert_eq!(ends(1), Ok(Vec::new()));
    assert_eq!(ends(ENDS_MAX), Ok(Vec::new()));
    assert_eq!(ends(ENDS_MAX + 1), Err(Error::Corrupt));
    assert_eq!(ends(100_000), Err(Error::Corrupt));
}
