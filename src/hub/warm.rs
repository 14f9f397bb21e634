//! Memory that is asked for before it is needed.

use std::hint::black_box;

use super::Hub;
use super::conn::Stage;

/// Connections that are looked at ahead: enough to keep the memory busy, and few enough that the
/// first is still in the cache when its turn comes.
pub const AHEAD: usize = 32;

impl Hub {
    /// Touches what the bytes of the next connections will need, [`AHEAD`] of them at most.
    ///
    /// Among thousands of clients the record of any one is far from the processor, and handling
    /// its bytes meets four of them, one after the other. Here each waits for nothing but its own
    /// client's record before, so that those of all clients come side by side.
    pub fn warm(&self, conns: impl Iterator<Item = u32>) {
        let (mut sessions, mut members) = ([0; AHEAD], [0; AHEAD]);
        let (mut sessions_len, mut members_len, mut sum) = (0, 0, 0);
        for index in conns.take(AHEAD) {
            let Some(conn) = self.links.conns.at(index) else { continue };
            sum += conn.out.bytes();
            if let Stage::WebSocket { owner, .. } = conn.stage {
                sessions[sessions_len] = owner;
                sessions_len += 1;
            }
        }
        for index in &sessions[..sessions_len] {
            let Some(session) = self.links.sessions.at(*index) else { continue };
            sum += session.state as usize;
            if let Some(member) = session.members.as_slice().first() {
                members[members_len] = *member;
                members_len += 1;
            }
        }
        for index in &members[..members_len] {
            sum += self.members.at(*index).map_or(0, |member| member.place as usize);
        }
        black_box(sum);
    }
}
