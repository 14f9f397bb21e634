//! Packets on their way to sessions: staged on a websocket, or put into the outbox of a poll.
//!
//! A packet is encoded when the first receiver needs it, once for each [`Wire`] among its
//! receivers; the rest share the bytes.

use bytes::Bytes;
use smallvec::SmallVec;

use super::compress::Codec;
use super::conn::Conn;
use super::fanout::{self, Run};
use super::session::{Goodbye, State, Transport};
use super::{Hub, Links};
use crate::error::Reason;
use crate::options::SlowReader;
use crate::proto::deflate::Agreed;
use crate::proto::websocket::{self, Opcode};
use crate::proto::{engine, engine3};

/// The form in which a websocket session wants its frames. Sessions of one form share bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wire {
    /// Engine.IO revision 3: a binary message carries its type (H-6).
    pub(super) is_revision_3: bool,
    /// Binary messages travel as base64 text (H-9).
    pub(super) is_base64: bool,
    /// Window bits of permessage-deflate; 0 without it.
    pub(super) deflate_bits: u8,
    /// The window is kept from message to message, so nobody else reads the same frames.
    pub(super) keeps_window: bool,
}

impl Wire {
    /// The same with what was agreed on for a connection.
    pub(super) fn deflated(self, agreed: Agreed) -> Wire {
        Wire { deflate_bits: agreed.server_bits, keeps_window: agreed.server_takeover, ..self }
    }
}

/// A packet on its way to several sessions, encoded when the first one needs it.
pub(super) struct Frame<'a> {
    /// Engine.IO text, `4` included; empty if the packet is binary messages alone.
    text: &'a [u8],
    attachments: &'a [Bytes],
    /// Engine.IO packets with data, and the bytes of their data (S-7).
    packets: u64,
    bytes: u64,
    /// Whether compressing it is worth trying.
    pub(super) compress: bool,
    runs: SmallVec<[(Wire, Run); 1]>,
}

impl<'a> Frame<'a> {
    /// `text` is Engine.IO text, `4` included; empty if there is none.
    pub(super) fn new(text: &'a [u8], attachments: &'a [Bytes]) -> Frame<'a> {
        // The digit in front of a text is no data.
        let data = text.len().saturating_sub(1);
        let bytes = data + attachments.iter().map(Bytes::len).sum::<usize>();
        Frame {
            text,
            attachments,
            packets: (usize::from(data > 0) + attachments.len()) as u64,
            bytes: bytes as u64,
            compress: true,
            runs: SmallVec::new(),
        }
    }

    /// Websocket frames that were written before, for sessions of that form.
    pub(super) fn with_run(mut self, wire: Wire, run: Run) -> Frame<'a> {
        self.runs.push((wire, run));
        self
    }

    /// Appends the frames of one form.
    fn write(&self, conn: u32, wire: Wire, codec: &mut Codec, out: &mut Vec<u8>) {
        let is_deflated = self.compress && wire.deflate_bits > 0;
        let mut write = |opcode, message: &[u8]| match is_deflated {
            true => codec.write(conn, wire, opcode, message, out),
            false => websocket::write_frame(opcode, message, out),
        };
        if !self.text.is_empty() {
            write(Opcode::Text, self.text);
        }
        let mut message = Vec::new();
        for attachment in self.attachments {
            message.clear();
            let (opcode, payload) = match (wire.is_revision_3, wire.is_base64) {
                (false, false) => (Opcode::Binary, attachment.as_ref()),
                (true, false) => {
                    engine3::encode_binary(attachment, &mut message);
                    (Opcode::Binary, message.as_slice())
                }
                (false, true) => {
                    engine::encode_base64(attachment, &mut message);
                    (Opcode::Text, message.as_slice())
                }
                (true, true) => {
                    engine3::encode_base64(attachment, &mut message);
                    (Opcode::Text, message.as_slice())
                }
            };
            write(opcode, payload);
        }
    }
}

/// How a packet is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Of the protocol itself, to one session: answers, which are not dropped.
    Control,
    /// A ping, which is not dropped either. Nobody waits for it, and where clients have connected
    /// together there are thousands at a time: behind what goes to one.
    Ping,
    /// To one socket.
    One,
    /// To many, behind what goes to one.
    Many,
    /// To many, and only to those that are ready (J-20).
    Volatile,
}

impl Urgency {
    /// Whether bounds and policies make an exception.
    fn is_control(self) -> bool {
        matches!(self, Urgency::Control | Urgency::Ping)
    }

    /// Whether it goes ahead of what goes to many.
    fn is_ahead(self) -> bool {
        matches!(self, Urgency::Control | Urgency::One)
    }
}

impl Links {
    /// Queues a packet for a session. The hot path of a broadcast. Returns how many bytes wait in
    /// front of it, unless nobody could get it.
    pub(super) fn deliver(
        &mut self,
        index: u32,
        frame: &mut Frame<'_>,
        urgency: Urgency,
    ) -> Option<usize> {
        let session = self.sessions.at_mut(index).filter(|it| it.state == State::Open)?;
        let Transport::WebSocket(conn) = session.transport else {
            return self.deliver_polling(index, frame, urgency);
        };
        let wire = session.wire;
        let Conn { out, line, has_ping, .. } = self.conns.at_mut(conn)?;
        let waiting = out.bytes();
        if urgency == Urgency::Volatile && out.is_in_flight() {
            self.stats.volatile_dropped += 1;
            return Some(waiting);
        }
        if wire.keeps_window {
            self.deliver_alone(index, conn, frame, urgency);
            return Some(waiting);
        }
        let at = frame.runs.iter().position(|(other, _)| *other == wire).unwrap_or_else(|| {
            let codec = &mut self.codec;
            let palette = if urgency.is_ahead() { &mut self.single } else { &mut self.palette };
            let run = palette.push(|bytes| frame.write(conn, wire, codec, bytes));
            frame.runs.push((wire, run));
            frame.runs.len() - 1
        });
        let run = &frame.runs[at].1;
        let room = self.bounds.room(out, run.bytes(), urgency.is_control());
        if room.admits(&mut self.dirty, &mut self.stats) {
            out.stage(run, &self.bounds.memory);
            self.stats.delivered(frame.packets, frame.bytes);
            self.dirty.mark(conn, out, line, urgency.is_ahead());
            *has_ping |= urgency == Urgency::Ping;
        } else {
            self.overflow(index, urgency);
        }
        Some(waiting)
    }

    /// Queues frames that nobody else can read. What was compressed has to be sent, so the bound
    /// is applied before, to the bytes that there are then.
    fn deliver_alone(&mut self, index: u32, conn: u32, frame: &Frame<'_>, urgency: Urgency) {
        let Some(wire) = self.sessions.at(index).map(|session| session.wire) else { return };
        let Some(Conn { out, line, has_ping, .. }) = self.conns.at_mut(conn) else { return };
        let room = self.bounds.room(out, frame.bytes as usize, urgency.is_control());
        if !room.admits(&mut self.dirty, &mut self.stats) {
            return self.overflow(index, urgency);
        }
        let mut written = Vec::new();
        frame.write(conn, wire, &mut self.codec, &mut written);
        out.push_owned(written, &self.bounds.memory);
        self.stats.delivered(frame.packets, frame.bytes);
        self.dirty.mark(conn, out, line, urgency.is_ahead());
        *has_ping |= urgency == Urgency::Ping;
    }

    fn deliver_polling(
        &mut self,
        index: u32,
        frame: &Frame<'_>,
        urgency: Urgency,
    ) -> Option<usize> {
        let session = self.sessions.at_mut(index)?;
        let Transport::Polling(polling) = &mut session.transport else { return None };
        let waiting = polling.outbox.len();
        if urgency == Urgency::Volatile && polling.get.is_none() {
            self.stats.volatile_dropped += 1;
            return Some(waiting);
        }
        let size = frame.text.len() + frame.attachments.iter().map(|a| a.len()).sum::<usize>();
        let is_away = polling.get.is_none();
        if self.bounds.is_full(waiting + size, size, is_away, urgency.is_control()) {
            self.overflow(index, urgency);
            return Some(waiting);
        }
        let Frame { text, attachments, .. } = frame;
        polling.outbox.append(size, |outbox| fanout::write_payload(text, attachments, outbox));
        polling.compress |= frame.compress;
        self.stats.delivered(frame.packets, frame.bytes);
        if !polling.is_listed {
            polling.is_listed = true;
            self.polls.push(index);
        }
        Some(waiting)
    }

    fn overflow(&mut self, index: u32, urgency: Urgency) {
        match self.slow_reader {
            SlowReader::Drop if !urgency.is_control() => self.stats.slow_dropped += 1,
            // Whatever the policy: a peer that makes us answer must read the answers.
            SlowReader::Drop | SlowReader::Disconnect => self.close_slow(index),
        }
    }

    fn close_slow(&mut self, index: u32) {
        if let Some(session) = self.sessions.at_mut(index).filter(|s| !s.is_overflowed) {
            session.is_overflowed = true;
            self.stats.slow_closed += 1;
            self.overflowed.push(index);
        }
    }

    /// Applies the bound to what was queued beside [`Links::deliver`] (pongs).
    pub(super) fn check_queue(&mut self, index: u32) {
        let Some(session) = self.sessions.at(index) else { return };
        let Transport::WebSocket(conn) = session.transport else { return };
        if self.conns.at(conn).is_some_and(|conn| self.bounds.is_over(&conn.out)) {
            self.close_slow(index);
        }
    }
}

impl Hub {
    /// Answers parked GETs of polling sessions with what was queued since.
    pub(super) fn flush_polls(&mut self) {
        let mut polls = std::mem::take(&mut self.links.polls);
        for index in polls.drain(..) {
            let Some(session) = self.links.sessions.at_mut(index) else { continue };
            let wire = session.wire;
            let Transport::Polling(polling) = &mut session.transport else { continue };
            polling.is_listed = false;
            if polling.outbox.is_empty() {
                continue;
            }
            if let Some(get) = polling.get.take() {
                let payload = polling.take_outbox(wire);
                self.answer_payload(get, &payload);
                self.drained(index, Ok(()));
            }
        }
        self.links.polls = polls;
    }

    /// Disconnects the sessions whose peers do not read.
    pub(super) fn close_overflowed(&mut self) {
        while let Some(index) = self.links.overflowed.pop() {
            let Some(session) = self.links.sessions.at(index) else { continue };
            if !session.is_overflowed {
                continue;
            }
            if let Transport::WebSocket(conn) = session.transport {
                // Its queue is full, so a polite end could not leave either.
                self.drop_conn(conn);
                self.close_session(index, Reason::TransportError, Goodbye::Gone);
            } else {
                self.close_session(index, Reason::TransportError, Goodbye::Close);
            }
        }
    }
}
