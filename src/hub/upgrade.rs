//! The upgrade of a polling session to a websocket (spec D).

use super::deliver::Wire;
use super::fanout;
use super::polling::Payload;
use super::session::{Session, State, Transport};
use super::slab::Key;
use super::wheel::Tick;
use super::{Event, Hub};
use crate::proto::websocket::{self, Opcode};

/// A websocket that is about to take over (D-1 … D-6).
#[derive(Debug)]
pub(super) struct Upgrade {
    pub(super) conn: u32,
    /// Of its frames: its own request says whether it can do binary ones.
    wire: Wire,
    /// `2probe` was answered; only now may `5` follow (W-21).
    is_probed: bool,
    /// When the new transport has to be complete.
    pub(super) deadline: Tick,
    /// When to release a parked GET, so that the client can go on.
    pub(super) noop: Tick,
}

/// The first noop comes up to this long after the probe, then as often (D-2).
const NOOP_MS: u64 = 100;

impl Session {
    /// The upgrade that is under way.
    pub(super) fn upgrade(&self) -> Option<&Upgrade> {
        match &self.transport {
            Transport::Polling(polling) => polling.upgrade.as_deref(),
            Transport::WebSocket(_) => None,
        }
    }

    pub(super) fn upgrade_mut(&mut self) -> Option<&mut Upgrade> {
        match &mut self.transport {
            Transport::Polling(polling) => polling.upgrade.as_deref_mut(),
            Transport::WebSocket(_) => None,
        }
    }

    /// Ends it.
    pub(super) fn take_upgrade(&mut self) -> Option<Box<Upgrade>> {
        match &mut self.transport {
            Transport::Polling(polling) => polling.upgrade.take(),
            Transport::WebSocket(_) => None,
        }
    }
}

impl Hub {
    /// Notes the websocket of an upgrade; false if the session cannot upgrade now (C-12).
    pub(super) fn begin_probe(&mut self, conn: u32, key: Key, wire: Wire) -> bool {
        let Some(session) = self.links.sessions.get_mut(key) else { return false };
        let Transport::Polling(polling) = &mut session.transport else { return false };
        if session.state != State::Open || polling.upgrade.is_some() {
            return false;
        }
        let deadline = Tick::after(self.now_ms, self.config.upgrade_timeout_ms);
        let upgrade = Upgrade { conn, wire, is_probed: false, deadline, noop: deadline };
        polling.upgrade = Some(Box::new(upgrade));
        self.rearm_session(key.index);
        true
    }

    /// A text frame on a websocket that is being probed (D-2, D-3, D-4).
    pub(super) fn probe_packet(&mut self, conn: u32, index: u32, text: &str) {
        let now_ms = self.now_ms;
        let upgrade = self.links.sessions.at_mut(index).and_then(Session::upgrade_mut);
        let Some(upgrade) = upgrade.filter(|upgrade| upgrade.conn == conn) else { return };
        match text {
            "2probe" if !upgrade.is_probed => {
                upgrade.is_probed = true;
                upgrade.noop = Tick::after(now_ms, NOOP_MS);
                self.rearm_session(index);
                let mut frame = Vec::with_capacity(8);
                websocket::write_frame(Opcode::Text, b"3probe", &mut frame);
                self.links.send_owned(conn, frame);
            }
            "5" if upgrade.is_probed => self.complete_upgrade(conn, index),
            _ => self.refuse_probe(conn, index),
        }
    }

    /// Ends an upgrade; the session stays on polling (D-4).
    pub(super) fn refuse_probe(&mut self, conn: u32, index: u32) {
        self.forget_probe(index);
        self.close_websocket(conn);
    }

    /// The websocket of an upgrade has gone.
    pub(super) fn forget_probe(&mut self, index: u32) {
        if let Some(session) = self.links.sessions.at_mut(index) {
            session.take_upgrade();
            self.rearm_session(index);
        }
    }

    /// Moves the session to its websocket, with everything that is still queued (D-3, D-5).
    fn complete_upgrade(&mut self, conn: u32, index: u32) {
        self.promote_probe(conn);
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        let polling_wire = session.wire;
        if let Some(upgrade) = session.take_upgrade() {
            session.wire = upgrade.wire;
        }
        let old = std::mem::replace(&mut session.transport, Transport::WebSocket(conn));
        let Transport::Polling(polling) = old else { return };
        self.links.polling -= 1;
        if !polling.outbox.is_empty() {
            let mut frames = Vec::with_capacity(polling.outbox.len() + 64);
            fanout::payload_to_frames(&polling.outbox, polling_wire.is_revision_3, &mut frames);
            self.links.send_owned(conn, frames);
        }
        if let Some(get) = polling.get {
            // W-13: a GET that is still parked is told to go.
            self.answer_payload(get, &Payload::of(b"1", polling_wire));
        }
        if let Some(post) = polling.post {
            self.drop_conn(post);
        }
        self.adopt_deflate(conn, index);
        self.rearm_session(index);
        let members = self.links.sessions.at(index).map(|session| session.members.clone());
        for member in members.unwrap_or_default().as_slice() {
            if let Some(member) = self.members.key_at(*member) {
                self.events.push_back(Event::Upgraded(member));
            }
        }
    }

    pub(super) fn upgrade_due(&mut self, index: u32) {
        let (now, now_ms) = (self.now, self.now_ms);
        let Some(session) = self.links.sessions.at_mut(index) else { return };
        let wire = session.wire;
        let Some(upgrade) = session.upgrade_mut() else { return };
        if upgrade.deadline.reached(now) {
            let conn = upgrade.conn;
            return self.refuse_probe(conn, index);
        }
        if !upgrade.is_probed || !upgrade.noop.reached(now) {
            return;
        }
        upgrade.noop = Tick::after(now_ms, NOOP_MS);
        if let Transport::Polling(polling) = &mut session.transport
            && let Some(get) = polling.get.take()
        {
            self.answer_payload(get, &Payload::of(b"6", wire));
        }
    }
}
