//! Content codings of responses (RFC 9110 8.4, 12.5.3): which one a peer wants, and writing it.
//!
//! Requests are never decoded: what a peer sends is as long as it says (B-18). It keeps no state.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

/// How the bytes of a body are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coding {
    /// As they are.
    #[default]
    Identity,
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, as every browser reads it.
    Deflate,
}

/// For payloads: quick to write, and known to every client (B-18).
pub const QUICK: [Coding; 2] = [Coding::Gzip, Coding::Deflate];
/// For files, which are written once (K.1).
pub const THOROUGH: [Coding; 3] = [Coding::Brotli, Coding::Gzip, Coding::Deflate];

impl Coding {
    /// Its name in `Content-Encoding`; none for identity.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Coding::Identity => None,
            Coding::Brotli => Some("br"),
            Coding::Gzip => Some("gzip"),
            Coding::Deflate => Some("deflate"),
        }
    }

    /// The coding among `offered` that the values of `Accept-Encoding` like best: by weight, then
    /// the one that is named before `*`, then by the order of the header (W-5), then by that of
    /// `offered`. Identity without a header (U-25), or if none of them is accepted.
    pub fn choose<'a>(accept: impl Iterator<Item = &'a str>, offered: &[Coding]) -> Coding {
        // Per offered coding: weight in thousandths, whether it was named, place.
        let mut found: [Option<(u16, bool, usize)>; 3] = [None; 3];
        let entries = accept.flat_map(|value| value.split(','));
        for (place, entry) in entries.enumerate() {
            let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
            let name = name.trim();
            let Some(weight) = weight(parameters) else { continue };
            for (slot, coding) in found.iter_mut().zip(offered) {
                let is_named = coding.name().is_some_and(|known| name.eq_ignore_ascii_case(known));
                if is_named && slot.is_none_or(|(_, was_named, _)| !was_named)
                    || name == "*" && slot.is_none()
                {
                    *slot = Some((weight, is_named, place));
                }
            }
        }
        let best = found.iter().zip(offered).filter_map(|(slot, coding)| Some(((*slot)?, *coding)));
        // `min_by_key` takes the first of equals, which is the order of `offered`.
        best.filter(|((weight, ..), _)| *weight > 0)
            .min_by_key(|((weight, is_named, place), _)| (1_000 - weight, !is_named, *place))
            .map_or(Coding::Identity, |(_, coding)| coding)
    }

    /// The bytes in this coding. `level` is 1 (quick) to 9 (small), as in zlib; brotli has its own
    /// scale and takes it for that.
    pub fn encode(self, bytes: &[u8], level: u32) -> Vec<u8> {
        let out = Vec::with_capacity(bytes.len() / 3 + 64);
        let deflate = Compression::new(level.clamp(1, 9));
        let written = match self {
            Coding::Identity => Ok(bytes.to_vec()),
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(out, deflate);
                encoder.write_all(bytes).and_then(|()| encoder.finish())
            }
            Coding::Deflate => {
                let mut encoder = ZlibEncoder::new(out, deflate);
                encoder.write_all(bytes).and_then(|()| encoder.finish())
            }
            Coding::Brotli => {
                let (mut out, level) = (out, level.clamp(1, 9) as i32);
                let parameters = brotli::enc::BrotliEncoderParams {
                    quality: level,
                    size_hint: bytes.len(),
                    ..Default::default()
                };
                let mut source = bytes;
                brotli::BrotliCompress(&mut source, &mut out, &parameters).map(|_| out)
            }
        };
        // Writing into memory does not fail.
        written.unwrap_or_default()
    }
}

/// The weight of one entry in thousandths, `None` for one that is malformed.
fn weight(parameters: &str) -> Option<u16> {
    let q = parameters.split(';').map(str::trim).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let Some(q) = q else { return Some(1_000) };
    let (whole, part) = q.split_once('.').unwrap_or((q, ""));
    if part.len() > 3 || !part.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits = part.bytes().zip([100, 10, 1]);
    let thousandths: u16 = digits.map(|(digit, unit)| u16::from(digit - b'0') * unit).sum();
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b18_w5_u25_what_a_peer_likes_best() {
        let table = [
            (vec![], "", ""),
            (vec![""], "", ""),
            (vec!["gzip, deflate, br"], "gzip", "gzip"),
            (vec!["deflate, gzip"], "deflate", "deflate"),
            (vec!["br"], "", "br"),
            (vec!["gzip;q=0.5, deflate;q=0.8, br;q=0.1"], "deflate", "deflate"),
            (vec!["gzip;q=0"], "", ""),
            (vec!["GZIP ; Q=1.000"], "gzip", "gzip"),
            (vec!["*"], "gzip", "br"),
            (vec!["*;q=0"], "", ""),
            (vec!["*, gzip;q=0"], "deflate", "br"),
            (vec!["*, deflate"], "deflate", "deflate"),
            (vec!["identity"], "", ""),
            (vec!["identity, gzip;q=0.001"], "gzip", "gzip"),
            (vec!["x, deflate;q=0.9", "gzip"], "gzip", "gzip"),
            (vec!["gzip;q=2", "deflate;q=0.1234", "br;q=x"], "", ""),
            (vec!["gzip;q=", "gzip;q=-1"], "", ""),
            (vec!["gzip;x=y;q=0.3"], "gzip", "gzip"),
            (vec!["gzip, gzip;q=0"], "gzip", "gzip"),
        ];
        for (accept, quick, thorough) in table {
            let name = |offered: &[Coding]| {
                Coding::choose(accept.iter().copied(), offered).name().unwrap_or_default()
            };
            assert_eq!(name(&QUICK), quick, "{accept:?}");
            assert_eq!(name(&THOROUGH), thorough, "{accept:?}");
        }
    }

    #[test]
    fn what_was_encoded_reads_back() {
        use std::io::Read;
        let text = "something that is said again and again, ".repeat(100);
        for level in [0, 1, 6, 100] {
            for coding in THOROUGH {
                let bytes = coding.encode(text.as_bytes(), level);
                assert!(bytes.len() < text.len() / 4, "{coding:?} {level}: {}", bytes.len());
                let mut back = String::new();
                let read = match coding {
                    Coding::Brotli => {
                        brotli::Decompressor::new(&bytes[..], 4_096).read_to_string(&mut back)
                    }
                    Coding::Gzip => {
                        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut back)
                    }
                    _ => flate2::read::ZlibDecoder::new(&bytes[..]).read_to_string(&mut back),
                };
                assert_eq!((read.expect("readable"), back), (text.len(), text.clone()));
            }
        }
        assert_eq!(Coding::Identity.encode(b"abc", 6), b"abc");
    }
}
