//! Long-polling: the GET that waits, the POST that arrives, the outbox between them (spec B).

use super::Hub;
use super::buffer::{Meter, Owned};
use super::deliver::Wire;
use super::session::{Goodbye, State, Transport};
use super::slab::Key;
use super::upgrade::Upgrade;
use crate::error::Reason;

/// The server's half of long-polling.
#[derive(Debug, Default)]
pub(super) struct Polling {
    /// Payload of the next answer.
    pub(super) outbox: Owned,
    /// Whether a packet in it is worth compressing (B-18).
    pub(super) compress: bool,
    /// The GET that waits for it.
    pub(super) get: Option<u32>,
    /// The POST whose body is arriving.
    pub(super) post: Option<u32>,
    /// Whether the session stands in `Links::polls`.
    pub(super) is_listed: bool,
    /// The websocket that is about to take over.
    pub(super) upgrade: Option<Box<Upgrade>>,
}

impl Polling {
    /// Nothing waits yet; what will is counted in `memory`.
    pub(super) fn new(memory: &Meter) -> Polling {
        Polling { outbox: Owned::new(Vec::new(), memory), ..Polling::default() }
    }

    /// What is to be answered now.
    pub(super) fn take_outbox(&mut self, wire: Wire) -> Payload {
        let compress = std::mem::take(&mut self.compress);
        Payload { bytes: self.outbox.take(), wire, compress }
    }
}

/// The packets of one answer.
#[derive(Debug)]
pub(super) struct Payload {
    /// In the form of revision 4, whatever the session's is.
    pub(super) bytes: Vec<u8>,
    /// The session's.
    pub(super) wire: Wire,
    /// Whether a packet is worth compressing.
    pub(super) compress: bool,
}

impl Payload {
    /// One of the protocol's own packets, or two.
    pub(super) fn of(packets: &[u8], wire: Wire) -> Payload {
        Payload { bytes: packets.to_vec(), wire, compress: false }
    }
}

/// What to do with a GET.
pub(super) enum Poll {
    /// Wait.
    Parked,
    /// Answer this.
    Answer(Payload),
    /// There is one already (B-7).
    Overlap,
}

impl Hub {
    /// A GET of a session (B-4, B-5, B-7, B-16).
    pub(super) fn poll(&mut self, conn: u32, key: Key) -> Poll {
        let Some(session) = self.links.sessions.get_mut(key) else { return Poll::Overlap };
        let wire = session.wire;
        let Transport::Polling(polling) = &mut session.transport else { return Poll::Overlap };
        if polling.get.is_some() {
            self.close_session(key.index, Reason::TransportError, Goodbye::Close);
            return Poll::Overlap;
        }
        if !polling.outbox.is_empty() {
            return Poll::Answer(polling.take_outbox(wire));
        }
        if session.state == State::Closing {
            self.end_session(key.index);
            return Poll::Answer(Payload::of(b"6\x1e1", wire));
        }
        polling.get = Some(conn);
        Poll::Parked
    }

    /// Notes the POST whose body is arriving; false if there is one already (B-10).
    pub(super) fn begin_post(&mut self, conn: u32, key: Key) -> bool {
        match self.links.sessions.get_mut(key).map(|session| &mut session.transport) {
            Some(Transport::Polling(polling)) if polling.post.is_none() => {
                polling.post = Some(conn);
                true
            }
            _ => false,
        }
    }

    /// The POST in hand is complete, or has failed.
    pub(super) fn post_over(&mut self, key: Key) {
        if let Some(Transport::Polling(polling)) =
            self.links.sessions.get_mut(key).map(|session| &mut session.transport)
        {
            polling.post = None;
        }
    }

    /// A connection with a request of this session has gone.
    pub(super) fn forget_request(&mut self, key: Key, conn: u32) {
        if let Some(Transport::Polling(polling)) =
            self.links.sessions.get_mut(key).map(|session| &mut session.transport)
        {
            polling.get = polling.get.filter(|get| *get != conn);
            polling.post = polling.post.filter(|post| *post != conn);
        }
    }
}
