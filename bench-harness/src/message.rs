//! What servers send, message by message: frames put together, inflated, attachments with the
//! event that announced them. Shared by all connections and as good as stateless, so that an idle
//! connection costs nothing here. No I/O, no clock.

use crate::codec::{self, BINARY, CLOSE, Error, Frame, PING, PONG, TEXT};
use crate::deflate::Inflater;

/// A message of a server on websocket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// An Engine.IO packet. The attachment of an event stands directly behind its text.
    Packet(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    Close,
}

/// Takes the bytes of any number of connections apart.
pub(crate) struct Decoder {
    /// `None`: compression was not offered.
    inflater: Option<Inflater>,
    /// An event with its attachment.
    joined: Vec<u8>,
    /// Compressed messages so far.
    pub(crate) inflated: u64,
}

impl Decoder {
    /// `deflate_bytes_max`: compression was offered, and a message has so many bytes at most.
    pub(crate) fn new(deflate_bytes_max: Option<usize>) -> Self {
        let inflater = deflate_bytes_max.map(Inflater::new);
        Self { inflater, joined: Vec::new(), inflated: 0 }
    }

    /// The message that starts at `bytes[0]`, and its length; `None` while it is incomplete. An
    /// event is complete with its attachment: until then its text stays where it is.
    pub(crate) fn next<'a>(
        &'a mut self,
        bytes: &'a [u8],
    ) -> Result<Option<(Message<'a>, usize)>, Error> {
        let Some(frame) = codec::server_frame(bytes)? else { return Ok(None) };
        let (payload, length) = (&bytes[frame.payload.clone()], frame.payload.end);
        let message = match frame.opcode {
            TEXT if !frame.is_compressed && !payload.starts_with(b"45") => Message::Packet(payload),
            TEXT => return self.event(&frame, bytes),
            PING if !frame.is_compressed => Message::Ping(payload),
            PONG if !frame.is_compressed => Message::Pong,
            CLOSE if !frame.is_compressed => Message::Close,
            BINARY => return Err(Error::Attachment),
            _ => return Err(Error::UnexpectedFrame),
        };
        Ok(Some((message, length)))
    }

    /// A text that is compressed, or has an attachment, or both.
    fn event<'a>(
        &'a mut self,
        frame: &Frame,
        bytes: &'a [u8],
    ) -> Result<Option<(Message<'a>, usize)>, Error> {
        let end = frame.payload.end;
        self.joined.clear();
        self.joined.extend_from_slice(inflate(&mut self.inflater, frame, bytes)?);
        if !self.joined.starts_with(b"45") {
            self.inflated += 1;
            return Ok(Some((Message::Packet(&self.joined), end)));
        }
        let Some(binary) = codec::server_frame(&bytes[end..])? else { return Ok(None) };
        // One attachment: that is all that loads send.
        if binary.opcode != BINARY || !self.joined.starts_with(b"451-") {
            return Err(Error::Attachment);
        }
        self.joined.extend_from_slice(inflate(&mut self.inflater, &binary, &bytes[end..])?);
        self.inflated += u64::from(frame.is_compressed) + u64::from(binary.is_compressed);
        Ok(Some((Message::Packet(&self.joined), end + binary.payload.end)))
    }
}

/// The payload of `frame`, which starts at `bytes[0]`.
fn inflate<'a>(
    inflater: &'a mut Option<Inflater>,
    frame: &Frame,
    bytes: &'a [u8],
) -> Result<&'a [u8], Error> {
    let payload = &bytes[frame.payload.clone()];
    if !frame.is_compressed {
        return Ok(payload);
    }
    inflater.as_mut().ok_or(Error::Extension)?.inflate(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Data, Event, Read, Stamp};
    use flate2::{Compress, Compression, FlushCompress};

    /// The event of message number `number`, and how it is read again.
    fn event(size: usize, data: Data) -> Event {
        Event::new(("pub", "msg"), None, *b"ab", size, data)
    }

    fn stamp(number: u64) -> Stamp {
        Stamp { number, intended: 3 * number }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x80 | first];
        match payload.len() {
            short @ 0..=125 => bytes.push(short as u8),
            long => {
                bytes.push(126);
                bytes.extend((long as u16).to_be_bytes());
            }
        }
        bytes.extend(payload);
        bytes
    }

    fn compressed(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(payload.len() + 1024);
        Compress::new(Compression::default(), false)
            .compress_vec(payload, &mut bytes, FlushCompress::Sync)
            .expect("compress");
        frame(0x40 | first, &bytes[..bytes.len() - 4])
    }

    /// What the server would send back for `payload`, a payload of polling: text and attachment.
    fn answer(payload: &[u8]) -> (String, Vec<u8>) {
        let mut packets = crate::polling::packets(payload);
        let text = String::from_utf8(packets.next().expect("text").to_vec()).expect("utf-8");
        let mut data = Vec::new();
        packets.for_each(|packet| {
            crate::polling::attachment(&packet[1..], &mut data).expect("base64");
        });
        (text.replace("pub", "msg"), data)
    }

    /// A stream of everything, and the numbers of the events in it.
    fn stream(text: &Event, binary: &Event) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in 0..4u64 {
            let (event, _) = answer(&text.payload(0, stamp(number)));
            let (head, data) = answer(&binary.payload(0, stamp(number)));
            let whole = |first, payload: &[u8]| match number % 2 {
                0 => frame(first, payload),
                _ => compressed(first, payload),
            };
            bytes.extend(frame(TEXT, b"2"));
            bytes.extend(whole(TEXT, event.as_bytes()));
            bytes.extend(frame(PING, b"are you there"));
            bytes.extend(frame(TEXT, head.as_bytes()));
            bytes.extend(whole(BINARY, &data));
            bytes.extend(frame(PONG, b""));
        }
        bytes.extend(frame(CLOSE, &[3, 0xe8]));
        bytes
    }

    /// Gives `chunks` to a decoder one by one, as a connection does, and writes down what comes.
    fn heard(chunks: &[&[u8]], text: &Event, binary: &Event) -> Vec<String> {
        let (mut decoder, mut buffer) = (Decoder::new(Some(10_000)), Vec::new());
        let mut heard = Vec::new();
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            let mut used = 0;
            while let Some((message, length)) = decoder.next(&buffer[used..]).expect("valid") {
                used += length;
                heard.push(match message {
                    Message::Packet(b"2") => "heartbeat".into(),
                    Message::Packet(packet) => match (text.read(packet), binary.read(packet)) {
                        (Read::Stamp(found), Read::Other) => format!("text {}", found.number),
                        (Read::Other, Read::Stamp(found)) => format!("binary {}", found.number),
                        other => panic!("{other:?}"),
                    },
                    Message::Ping(body) => String::from_utf8_lossy(body).into_owned(),
                    Message::Pong => "pong".into(),
                    Message::Close => "close".into(),
                });
            }
            buffer.drain(..used);
        }
        assert!(buffer.is_empty(), "all was taken");
        assert_eq!(decoder.inflated, 4);
        heard
    }

    #[test]
    fn a_stream_says_the_same_however_it_is_cut() {
        let (text, binary) = (Data::Text, Data::Binary);
        let [text, binary] = [text, binary].map(|data| event(200, data));
        let bytes = stream(&text, &binary);
        let mut expected = Vec::new();
        for number in 0..4 {
            let event = [format!("text {number}"), format!("binary {number}")];
            let [first, second] = event;
            let more = ["heartbeat".into(), first, "are you there".into(), second, "pong".into()];
            expected.extend::<[String; 5]>(more);
        }
        expected.push("close".into());
        assert_eq!(heard(&[&bytes], &text, &binary), expected);
        for cut in 1..bytes.len() {
            let (one, two) = bytes.split_at(cut);
            assert_eq!(heard(&[one, two], &text, &binary), expected, "cut at {cut}");
        }
        for size in 1..20 {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(heard(&chunks, &text, &binary), expected, "{size} at a time");
        }
    }

    #[test]
    fn changed_bytes_never_pass_for_what_was_sent_nor_panic() {
        let [text, binary] = [Data::Text, Data::Binary].map(|data| event(40, data));
        let (event, _) = answer(&text.payload(0, stamp(7)));
        let (head, data) = answer(&binary.payload(0, stamp(7)));
        let joined = [frame(TEXT, head.as_bytes()), frame(BINARY, &data)].concat();
        for (bytes, event) in [
            (frame(TEXT, event.as_bytes()), &text),
            (compressed(TEXT, event.as_bytes()), &text),
            (joined, &binary),
        ] {
            let mut decoder = Decoder::new(Some(1_000));
            for index in 0..bytes.len() {
                for bit in 0..8 {
                    let mut bad = bytes.clone();
                    bad[index] ^= 1 << bit;
                    // Another number may be read from changed digits: the ledger notices that.
                    // Padding bits of the compressed form carry no meaning.
                    if let Ok(Some((Message::Packet(packet), _))) = decoder.next(&bad)
                        && event.read(packet) == Read::Stamp(stamp(7))
                    {
                        assert!(bytes[0] & 0x40 != 0, "byte {index}, bit {bit}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_not_agreed_on_is_refused() {
        let refused = |deflate: Option<usize>, bytes: Vec<u8>| {
            Decoder::new(deflate).next(&bytes).map(|found| found.is_some())
        };
        let packed = || compressed(TEXT, b"42[\"msg\",\"a\"]");
        assert_eq!(refused(None, packed()), Err(Error::Extension));
        assert_eq!(refused(Some(100), packed()), Ok(true));
        assert_eq!(refused(Some(100), frame(0x40 | PING, b"")), Err(Error::UnexpectedFrame));
        assert_eq!(refused(None, frame(BINARY, b"a")), Err(Error::Attachment));
        let head = frame(TEXT, b"451-[\"msg\",{\"_placeholder\":true,\"num\":0}]");
        assert_eq!(refused(None, head.clone()), Ok(false));
        let other = [head, frame(TEXT, b"2")].concat();
        assert_eq!(refused(None, other), Err(Error::Attachment));
    }
}
