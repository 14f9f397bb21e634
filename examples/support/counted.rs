//! A parser of an application: one text, `[binaries, type, id, namespace]` and the data on a line
//! of its own, then so many binary messages. `tests/npm/parsers.mjs` has the client's side.

use bytes::Bytes;
use corecast::parser::{Decoder, Encoder, Error, Message, Messages, Packet, PacketKind};

pub struct Counted;

impl Encoder for Counted {
    fn encode(&self, packet: &Packet<'_>) -> Result<Messages, Error> {
        let Packet { kind, namespace, id, data, attachments } = packet;
        let head = serde_json::json!([attachments.len(), *kind as u8, id, namespace]);
        Ok(Messages { text: Some(format!("{head}\n{data}")), binaries: attachments.to_vec() })
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::<Awaited>::default()
    }
}

/// A packet whose binary messages are arriving.
#[derive(Default)]
struct Awaited {
    packet: Option<Packet<'static>>,
    missing: usize,
    attachments: Vec<Bytes>,
}

impl Decoder for Awaited {
    fn add(&mut self, message: Message<'_>) -> Result<Option<Packet<'static>>, Error> {
        match message {
            Message::Text(_) if self.packet.is_some() => {
                return Err(Error::new("text while binary messages are awaited"));
            }
            Message::Text(text) => self.begin(text)?,
            Message::Binary(_) if self.packet.is_none() => {
                return Err(Error::new("a binary message without a packet"));
            }
            Message::Binary(bytes) => {
                self.missing -= 1;
                self.attachments.push(Bytes::copy_from_slice(bytes));
            }
        }
        if self.missing > 0 {
            return Ok(None);
        }
        let attachments = std::mem::take(&mut self.attachments);
        let packet = self.packet.take();
        Ok(packet.map(|packet| Packet { attachments: attachments.into(), ..packet }))
    }
}

impl Awaited {
    fn begin(&mut self, text: &str) -> Result<(), Error> {
        let invalid = || Error::new("not a packet");
        let (head, data) = text.split_once('\n').ok_or_else(invalid)?;
        let head: (usize, u8, Option<u64>, String) =
            serde_json::from_str(head).map_err(|error| Error::new(error.to_string()))?;
        let (missing, kind, id, namespace) = head;
        self.missing = missing;
        self.packet = Some(Packet {
            kind: PacketKind::from_number(kind).ok_or_else(invalid)?,
            namespace: namespace.into(),
            id,
            data: data.to_owned().into(),
            attachments: Vec::new().into(),
        });
        Ok(())
    }
}
