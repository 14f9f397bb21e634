//! Long-polling: the GET that waits, the POST that arrives, the outbox between them (spec B).

use super::Hub;
use super::session::{Goodbye, State, Transport};
use super::slab::Key;
use crate::error::Reason;

/// The server's half of long-polling.
#[derive(Debug, Default)]
pub(super) struct Polling {
    /// Payload of the next answer.
    pub(super) outbox: Vec<u8>,
    /// The GET that waits for it.
    pub(super) get: Option<u32>,
    /// The POST whose body is arriving.
    pub(super) post: Option<u32>,
    /// Whether the session stands in `Links::polls`.
    pub(super) is_listed: bool,
}

/// What to do with a GET.
pub(super) enum Poll {
    /// Wait.
    Parked,
    /// Answer this.
    Answer(Vec<u8>),
    /// There is one already (B-7).
    Overlap,
}

impl Hub {
    /// A GET of a session (B-4, B-5, B-7, B-16).
    pub(super) fn poll(&mut self, conn: u32, key: Key) -> Poll {
        let Some(session) = self.links.sessions.get_mut(key) else { return Poll::Overlap };
        let Transport::Polling(polling) = &mut session.transport else { return Poll::Overlap };
        if polling.get.is_some() {
            self.close_session(key.index, Reason::TransportError, Goodbye::Close);
            return Poll::Overlap;
        }
        if !polling.outbox.is_empty() {
            return Poll::Answer(std::mem::take(&mut polling.outbox));
        }
        if session.state == State::Closing {
            self.end_session(key.index);
            return Poll::Answer(b"6\x1e1".to_vec());
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
