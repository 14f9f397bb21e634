//! permessage-deflate of one shard (RFC 7692, C-9): what connections agree on, and the compressors
//! they share.
//!
//! Without context takeover, which is the default, a compressor is needed for the length of a call
//! only: one for each size of window serves all connections, and one inflater. A connection that
//! keeps its windows has a record of its own, made when it is first needed; the bytes of all of
//! them are reserved at the handshake and bounded.

use rustc_hash::FxHashMap;

use super::Hub;
use super::conn::Stage;
use super::deliver::Wire;
use crate::proto::deflate::{Agreed, Deflater, Error, Inflater, Malformed, Settings, negotiate};
use crate::proto::http::Head;
use crate::proto::websocket::{self, Message, Opcode};

/// Bytes of working memory that are kept for the next message.
const KEPT: usize = 64 * 1024;

/// The compressors of a shard.
#[derive(Debug, Default)]
pub(super) struct Codec {
    settings: Option<Settings>,
    /// By window bits, from 8 on.
    deflaters: [Option<Box<Deflater>>; 8],
    inflater: Option<Box<Inflater>>,
    /// Payload of the message that was compressed last.
    payload: Vec<u8>,
    /// Connections that keep their windows.
    contexts: FxHashMap<u32, Box<Context>>,
    /// What those may hold.
    context_bytes: usize,
}

/// The windows of one connection.
#[derive(Debug)]
struct Context {
    agreed: Agreed,
    deflater: Option<Deflater>,
    inflater: Option<Inflater>,
}

impl Codec {
    pub(super) fn new(settings: Option<Settings>) -> Codec {
        Codec { settings, ..Codec::default() }
    }

    /// Bytes of windows that connections keep, or may keep when they come to use them.
    pub(super) fn context_bytes(&self) -> usize {
        self.context_bytes
    }

    /// Answers the offers of a handshake: what was agreed on, and the header of the answer.
    pub(super) fn negotiate(
        &mut self,
        conn: u32,
        head: &Head<'_>,
    ) -> Result<Option<(Agreed, String)>, Malformed> {
        let Some(settings) = &self.settings else { return Ok(None) };
        let offers = head.values("sec-websocket-extensions");
        let most = Agreed { server_bits: 15, server_takeover: true, client_takeover: true };
        let may_keep = self.context_bytes + most.context_bytes() <= settings.context_bytes_max;
        let agreed = negotiate(offers, settings, may_keep)?;
        if let Some((agreed, _)) = agreed
            && agreed.context_bytes() > 0
        {
            self.context_bytes += agreed.context_bytes();
            let context = Context { agreed, deflater: None, inflater: None };
            self.contexts.insert(conn, Box::new(context));
        }
        Ok(agreed)
    }

    /// Whether a handshake offers what cannot be read; it is read where it matters only (C-7).
    pub(super) fn is_malformed(&self, head: &Head<'_>) -> bool {
        let Some(settings) = &self.settings else { return false };
        let offers = head.values("sec-websocket-extensions");
        negotiate(offers, settings, false).is_err()
    }

    /// A connection has gone.
    pub(super) fn forget(&mut self, conn: u32) {
        if !self.contexts.is_empty()
            && let Some(context) = self.contexts.remove(&conn)
        {
            self.context_bytes -= context.agreed.context_bytes();
        }
    }

    /// Appends a frame of one wire, compressed if that was agreed on and is worth it. `conn` is the
    /// receiver, where the wire is one that keeps its window; others share the frame.
    pub(super) fn write(
        &mut self,
        conn: u32,
        wire: Wire,
        opcode: Opcode,
        message: &[u8],
        out: &mut Vec<u8>,
    ) {
        if wire.keeps_window {
            return self.write_alone(conn, opcode, message, out);
        }
        let worth = self.settings.filter(|settings| message.len() >= settings.threshold);
        let place = usize::from(wire.deflate_bits).checked_sub(8);
        if let Some(settings) = worth
            && let Some(place) = place.and_then(|place| self.deflaters.get_mut(place))
        {
            let new = || Box::new(Deflater::new(wire.deflate_bits, settings.level));
            let deflater = place.get_or_insert_with(new);
            deflater.reset();
            self.payload.clear();
            let is_deflated = deflater.deflate(message, &mut self.payload);
            // What does not get smaller is sent as it is.
            let is_smaller = self.payload.len() < message.len() || settings.threshold == 0;
            if is_deflated && is_smaller {
                websocket::write_deflated_frame(opcode, &self.payload, out);
            } else {
                websocket::write_frame(opcode, message, out);
            }
            return shrink(&mut self.payload);
        }
        websocket::write_frame(opcode, message, out);
    }

    /// Appends a frame for a connection that keeps its window, compressed unless it is short.
    fn write_alone(&mut self, conn: u32, opcode: Opcode, message: &[u8], out: &mut Vec<u8>) {
        let worth = self.settings.filter(|settings| message.len() >= settings.threshold);
        if let Some(settings) = worth
            && let Some(context) = self.contexts.get_mut(&conn)
        {
            let bits = context.agreed.server_bits;
            let new = || Deflater::new(bits, settings.level);
            let deflater = context.deflater.get_or_insert_with(new);
            self.payload.clear();
            if deflater.deflate(message, &mut self.payload) {
                // Later messages may refer to it, so it is sent even if it did not get smaller.
                websocket::write_deflated_frame(opcode, &self.payload, out);
                return shrink(&mut self.payload);
            }
            // A window that is not the client's any more must not be used again.
            context.deflater = None;
        }
        websocket::write_frame(opcode, message, out);
    }

    /// Inflates a message of at most `max` bytes into `plain`.
    fn inflate(
        &mut self,
        conn: u32,
        payload: &[u8],
        max: usize,
        plain: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let context = self.contexts.get_mut(&conn).filter(|it| it.agreed.client_takeover);
        if let Some(context) = context {
            let inflater = context.inflater.get_or_insert_with(Inflater::new);
            return inflater.inflate(payload, max, true, plain);
        }
        let inflater = self.inflater.get_or_insert_with(Box::default);
        let inflated = inflater.inflate(payload, max, false, plain);
        if inflated.is_err() {
            inflater.reset();
        }
        inflated
    }

    /// Reads a compressed message.
    pub(super) fn read<'a>(
        &mut self,
        conn: u32,
        message: Message<'a>,
        max: usize,
        plain: &'a mut Vec<u8>,
    ) -> Result<Message<'a>, websocket::Error> {
        let Message::Deflated { is_text, payload } = message else { return Ok(message) };
        plain.clear();
        self.inflate(conn, payload, max, plain).map_err(|error| match error {
            Error::TooBig => websocket::Error::TooBig,
            Error::Corrupt => websocket::Error::InvalidDeflate,
        })?;
        if !is_text {
            return Ok(Message::Binary(plain));
        }
        let text = simdutf8::basic::from_utf8(plain);
        text.map(Message::Text).map_err(|_| websocket::Error::InvalidUtf8)
    }
}

/// Keeps memory for the next message, but not that of a large one.
fn shrink(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT {
        *buffer = Vec::new();
    }
}

impl Hub {
    /// From now on, what the session sends takes the form that its websocket agreed on.
    pub(super) fn adopt_deflate(&mut self, conn: u32, session: u32) {
        let stage = self.links.conns.at(conn).map(|conn| &conn.stage);
        let Some(Stage::WebSocket { deflate: Some(agreed), .. }) = stage else { return };
        let agreed = *agreed;
        if let Some(session) = self.links.sessions.at_mut(session) {
            session.wire = session.wire.deflated(agreed);
        }
    }
}
