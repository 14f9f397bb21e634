//! Messages to packets: what the server's parser makes of a client's Engine.IO messages, and what
//! it keeps until a packet is complete.

use super::Hub;
use super::incoming::Holder;
use super::wheel::Tick;
use crate::proto::msgpack;
use crate::proto::packet::{self, Assembly, Packet};
use crate::proto::parser::{self, Decoder, Message, Parser};

/// What the messages of a session have left for the next ones.
#[derive(Debug)]
pub(super) struct Arriving {
    part: Part,
    /// When the packet that has begun must be complete.
    pub(super) by: Option<Tick>,
}

enum Part {
    /// A packet whose attachments are arriving.
    Assembly(Assembly),
    /// The state of an application's own parser, which stays for the life of the session, and the
    /// bytes of the messages of a packet that has begun.
    Decoder(Box<dyn Decoder>, usize),
}

impl Arriving {
    /// Bytes that have come of a packet that is not complete.
    pub(super) fn bytes(&self) -> usize {
        match &self.part {
            Part::Assembly(assembly) => assembly.bytes(),
            Part::Decoder(_, bytes) => *bytes,
        }
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Assembly(assembly) => assembly.fmt(f),
            Part::Decoder(..) => f.write_str("Decoder"),
        }
    }
}

impl Hub {
    /// A text message of an open session.
    pub(super) fn message_text(&mut self, index: u32, text: &str) {
        self.links.stats.received(text.len());
        match self.config.parser {
            Parser::Json => self.json_text(index, text),
            Parser::MsgPack => self.reject_packet(index, "got text from a msgpack client"),
            Parser::Custom(_) => self.custom_message(index, Message::Text(text)),
        }
    }

    /// A binary message of an open session.
    pub(super) fn message_binary(&mut self, index: u32, bytes: &[u8]) {
        self.links.stats.received(bytes.len());
        match self.config.parser {
            Parser::Json => self.json_attachment(index, bytes),
            Parser::MsgPack => self.msgpack_message(index, bytes),
            Parser::Custom(_) => self.custom_message(index, Message::Binary(bytes)),
        }
    }

    fn json_text(&mut self, index: u32, text: &str) {
        let Some(session) = self.links.sessions.at(index) else { return };
        if session.arriving.is_some() {
            return self.reject_packet(index, &packet::Error::UnexpectedText.to_string());
        }
        let limits = self.config.limits;
        match packet::decode(text, &limits, &mut self.validator) {
            Ok(packet) if packet.attachments > 0 => {
                // I-14 before anything is held: nobody would get it.
                if !session.wire.is_revision_3 && self.member_of(index, packet.namespace).is_none()
                {
                    return self.handle_packet(index, &packet, Vec::new());
                }
                let by = Tick::after(self.now_ms, self.config.body_timeout_ms);
                let part = Part::Assembly(Assembly::new(&packet));
                if let Some(session) = self.links.sessions.at_mut(index) {
                    session.arriving = Some(Box::new(Arriving { part, by: Some(by) }));
                    self.rearm_session(index);
                    self.note_arriving(index);
                }
            }
            Ok(packet) => self.handle_packet(index, &packet, Vec::new()),
            Err(error) => self.reject_packet(index, &error.to_string()),
        }
    }

    fn json_attachment(&mut self, index: u32, bytes: &[u8]) {
        let limits = self.config.limits;
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        let arriving = session.arriving.as_deref_mut().map(|arriving| &mut arriving.part);
        let Some(Part::Assembly(assembly)) = arriving else {
            return self.reject_packet(index, &packet::Error::UnexpectedBinary.to_string());
        };
        match assembly.add(bytes, &limits) {
            Ok(false) => self.note_arriving(index),
            Ok(true) => {
                let arriving = session.arriving.take().map(|arriving| arriving.part);
                let Some(Part::Assembly(assembly)) = arriving else { return };
                self.links.incoming.let_go(Holder::Session(index));
                let (kind, namespace, id, data, attachments) = assembly.finish();
                let packet =
                    Packet { kind, attachments: 0, namespace: &namespace, id, data: &data };
                self.handle_packet(index, &packet, attachments);
            }
            Err(error) => self.reject_packet(index, &error.to_string()),
        }
    }

    fn msgpack_message(&mut self, index: u32, bytes: &[u8]) {
        match msgpack::decode(bytes, &self.config.limits) {
            Ok(packet) => {
                let msgpack::Packet { kind, namespace, id, data, attachments } = packet;
                self.handle_packet(index, &headed(kind, &namespace, id, &data), attachments);
            }
            Err(error) => self.reject_packet(index, &error.to_string()),
        }
    }

    fn custom_message(&mut self, index: u32, message: Message<'_>) {
        let Parser::Custom(encoder) = &self.config.parser else { return };
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        let arriving = session.arriving.take().map(|arriving| *arriving);
        let (decoder, bytes, by) = match arriving {
            Some(Arriving { part: Part::Decoder(decoder, bytes), by }) => (Ok(decoder), bytes, by),
            _ => (parser::new_decoder(encoder.as_ref()), 0, None),
        };
        let (limits, validator) = (self.config.limits, &mut self.validator);
        let bytes = bytes + message.len();
        if bytes > limits.held_bytes_max() {
            return self.reject_packet(index, &packet::Error::TooMuchHeld.to_string());
        }
        let decoded = decoder.and_then(|mut decoder| {
            let packet = parser::decode_custom(decoder.as_mut(), message, &limits, validator)?;
            Ok((packet, decoder))
        });
        let (packet, decoder) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => return self.reject_packet(index, &error.to_string()),
        };
        // Counted from the first message of a packet.
        let late = Tick::after(self.now_ms, self.config.body_timeout_ms);
        let by = packet.is_none().then(|| by.unwrap_or(late));
        let part = Part::Decoder(decoder, if packet.is_none() { bytes } else { 0 });
        session.arriving = Some(Box::new(Arriving { part, by }));
        let Some(packet) = packet else {
            self.note_arriving(index);
            return self.rearm_session(index);
        };
        self.links.incoming.let_go(Holder::Session(index));
        let parser::Packet { kind, namespace, id, data, attachments } = packet;
        let packet = headed(kind.into(), &namespace, id, data.trim_ascii());
        self.handle_packet(index, &packet, attachments.into_owned());
    }
}

/// A packet that is complete.
fn headed<'a>(
    kind: packet::Kind,
    namespace: &'a str,
    id: Option<u64>,
    data: &'a str,
) -> Packet<'a> {
    Packet { kind, attachments: 0, namespace, id, data }
}
