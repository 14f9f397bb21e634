//! What waits to be sent to one socket, and who waits for it to be gone (E-10, E-13).

use super::conn::{Role, Stage};
use super::session::Transport;
use super::slab::Key;
use super::{AckLost, Arguments, Event, Hub};

impl Hub {
    /// Bytes that wait for the client of a member, its other namespaces included: on a websocket
    /// those the kernel has not taken, on polling those no GET has taken. O(1).
    pub fn queued(&self, key: Key) -> usize {
        let member = self.members.get(key);
        let Some(session) = member.and_then(|member| self.links.sessions.at(member.session)) else {
            return 0;
        };
        match &session.transport {
            Transport::WebSocket(conn) => {
                self.links.conns.at(*conn).map_or(0, |conn| conn.out.bytes())
            }
            Transport::Polling(polling) => polling.outbox.len(),
        }
    }

    /// Tells by [`Event::Ack`] with `token` when nothing waits any more for the client of a member,
    /// at once if so now, or that its session has ended before. False if it has gone.
    pub fn await_drain(&mut self, key: Key, token: u64) -> bool {
        let Some(session) = self.members.get(key).map(|member| member.session) else {
            return false;
        };
        if self.queued(key) == 0 {
            let outcome = Ok(Arguments::default());
            self.events.push_back(Event::Ack { token, outcome });
        } else {
            self.drains.entry(session).or_default().push(token);
        }
        true
    }

    /// Nothing waits any more on a connection, or in the outbox of a poll.
    pub(super) fn conn_drained(&mut self, conn: u32) {
        if self.drains.is_empty() {
            return;
        }
        if let Some(Stage::WebSocket { owner, role: Role::Session, .. }) =
            self.links.conns.at(conn).map(|conn| &conn.stage)
        {
            self.drained(*owner, Ok(()));
        }
    }

    /// Tells those who wait for a session.
    pub(super) fn drained(&mut self, session: u32, outcome: Result<(), AckLost>) {
        if self.drains.is_empty() {
            return;
        }
        for token in self.drains.remove(&session).into_iter().flatten() {
            let outcome = outcome.map(|()| Arguments::default());
            self.events.push_back(Event::Ack { token, outcome });
        }
    }
}
