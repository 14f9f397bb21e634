//! permessage-deflate (RFC 7692) as a load client needs it: one offer, one inflater for everybody.
//!
//! The offer asks the server to keep no window from message to message, so that no connection of
//! the client holds one: 1,000,000 windows would be 32 GB. A broadcast then reaches all receivers
//! as the same bytes, and is inflated once. What the client sends is not compressed, which the
//! extension leaves to each message. No I/O, no clock.

use flate2::{Decompress, FlushDecompress, Status};

use crate::codec::Error;

/// Field of the upgrade request.
pub(crate) const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; \
                                server_no_context_takeover; client_no_context_takeover\r\n";
/// What the compressor leaves out at the end of each message (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Whether the head of a 101 takes [`OFFER`]; an error if it takes more than was offered.
pub(crate) fn is_accepted(head: &str) -> Result<bool, Error> {
    let mut fields = head.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-extensions").then_some(value)
    });
    let Some(value) = fields.next() else { return Ok(false) };
    let mut parts = value.split(';').map(str::trim);
    let name = parts.next() == Some("permessage-deflate");
    let stateless = parts.any(|part| part == "server_no_context_takeover");
    if name && stateless && fields.next().is_none() { Ok(true) } else { Err(Error::Extension) }
}

/// Inflates messages of any number of connections.
pub(crate) struct Inflater {
    state: Decompress,
    /// The last message as it came, and inflated; empty before the first.
    compressed: Vec<u8>,
    inflated: Vec<u8>,
    /// Largest inflated message, in bytes.
    bytes_max: usize,
}

impl Inflater {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let (compressed, inflated) = (Vec::new(), Vec::new());
        Self { state: Decompress::new(false), compressed, inflated, bytes_max }
    }

    /// The message in `payload`, which is that of a whole message with RSV1 set.
    pub(crate) fn inflate(&mut self, payload: &[u8]) -> Result<&[u8], Error> {
        if self.compressed != payload || payload.is_empty() {
            // Not remembered unless it is sound.
            self.compressed.clear();
            self.run(payload)?;
            self.compressed.extend_from_slice(payload);
        }
        Ok(&self.inflated)
    }

    fn run(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.state.reset(false);
        self.inflated.clear();
        for mut input in [payload, &TAIL] {
            while !input.is_empty() {
                if self.inflated.len() > self.bytes_max {
                    return Err(Error::TooLong);
                }
                self.inflated.reserve(input.len().max(1024));
                let (taken, made) = (self.state.total_in(), self.inflated.len());
                let status = self
                    .state
                    .decompress_vec(input, &mut self.inflated, FlushDecompress::Sync)
                    .map_err(|_| Error::Deflate)?;
                let taken = (self.state.total_in() - taken) as usize;
                input = &input[taken..];
                if status == Status::StreamEnd {
                    // A final block; its message ends with it, whatever tail was put behind.
                    return if input.is_empty() || input == TAIL {
                        Ok(())
                    } else {
                        Err(Error::Deflate)
                    };
                }
                if taken == 0 && self.inflated.len() == made {
                    return Err(Error::Deflate);
                }
            }
        }
        self.finish()
    }

    /// Takes what the decompressor still holds when all input has been taken.
    fn finish(&mut self) -> Result<(), Error> {
        while self.inflated.len() == self.inflated.capacity() {
            self.inflated.reserve(1024);
            let made = self.inflated.len();
            self.state
                .decompress_vec(&[], &mut self.inflated, FlushDecompress::Sync)
                .map_err(|_| Error::Deflate)?;
            if self.inflated.len() == made {
                break;
            }
        }
        if self.inflated.len() > self.bytes_max { Err(Error::TooLong) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    fn deflate(message: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(message.len() + 1024);
        Compress::new(Compression::default(), false)
            .compress_vec(message, &mut bytes, FlushCompress::Sync)
            .expect("compress");
        bytes.truncate(bytes.len() - TAIL.len());
        bytes
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|index| b"what is said is heard "[index * index % 22]).collect()
    }

    #[test]
    fn messages_of_all_sizes_come_back() {
        let mut inflater = Inflater::new(200_000);
        for length in (1..200).chain([1_000, 1_023, 1_024, 4_096, 65_536, 200_000]) {
            let message = text(length);
            assert_eq!(inflater.inflate(&deflate(&message)), Ok(&message[..]), "{length}");
        }
    }

    #[test]
    fn one_message_does_not_know_the_last() {
        let mut inflater = Inflater::new(1_000);
        let (one, other) = (deflate(&text(300)), deflate(&text(500)));
        for _ in 0..3 {
            assert_eq!(inflater.inflate(&one).map(<[u8]>::len), Ok(300));
            assert_eq!(inflater.inflate(&one).map(<[u8]>::len), Ok(300));
            assert_eq!(inflater.inflate(&other).map(<[u8]>::len), Ok(500));
        }
    }

    #[test]
    fn a_server_that_kept_its_window_is_found_out() {
        let mut compress = Compress::new(Compression::default(), false);
        let mut next = || {
            let mut bytes = Vec::with_capacity(1024);
            compress.compress_vec(&text(400), &mut bytes, FlushCompress::Sync).expect("compress");
            bytes.truncate(bytes.len() - TAIL.len());
            bytes
        };
        let mut inflater = Inflater::new(1_000);
        assert_eq!(inflater.inflate(&next()).map(<[u8]>::len), Ok(400));
        // Refers back to what the inflater has no memory of.
        assert_eq!(inflater.inflate(&next()), Err(Error::Deflate));
    }

    #[test]
    fn cuts_and_changes_never_panic_and_never_stick() {
        let mut inflater = Inflater::new(1_000);
        let message = text(300);
        let good = deflate(&message);
        for index in 0..good.len() {
            let _ = inflater.inflate(&good[..index]);
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[index] ^= 1 << bit;
                if let Ok(inflated) = inflater.inflate(&bad) {
                    assert!(inflated.len() <= 1_000);
                }
            }
            assert_eq!(inflater.inflate(&good), Ok(&message[..]));
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = deflate(&vec![b'x'; 1_000_000]);
        assert!(bomb.len() < 2_000);
        assert_eq!(Inflater::new(10_000).inflate(&bomb), Err(Error::TooLong));
        assert_eq!(Inflater::new(999_999).inflate(&bomb), Err(Error::TooLong));
        assert_eq!(Inflater::new(1_000_000).inflate(&bomb).map(<[u8]>::len), Ok(1_000_000));
    }

    #[test]
    fn a_final_block_ends_the_message() {
        let mut bytes = Vec::with_capacity(1024);
        Compress::new(Compression::default(), false)
            .compress_vec(&text(300), &mut bytes, FlushCompress::Finish)
            .expect("compress");
        assert_eq!(Inflater::new(1_000).inflate(&bytes), Ok(&text(300)[..]));
        bytes.push(0);
        assert_eq!(Inflater::new(1_000).inflate(&bytes), Err(Error::Deflate));
    }

    #[test]
    fn only_what_was_offered_is_taken() {
        let head = |value: &str| format!("HTTP/1.1 101 X\r\nSec-Websocket-Extensions: {value}\r\n");
        let both = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        assert_eq!(is_accepted(&head(both)), Ok(true));
        assert_eq!(is_accepted("HTTP/1.1 101 X\r\nServer: a\r\n"), Ok(false));
        for bad in ["permessage-deflate", "permessage-bzip2; server_no_context_takeover", ""] {
            assert_eq!(is_accepted(&head(bad)), Err(Error::Extension), "{bad}");
        }
    }
}
