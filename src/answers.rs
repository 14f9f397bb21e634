//! Broadcasts with acknowledgements.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::emit::{Args, Broadcast};
use crate::error::Error;
use crate::event::Raw;
use crate::gather::Gathering;
use crate::hub::Answers;
use crate::hub::id::SocketId;
use crate::server::Server;
use crate::shard::mesh::{Ask, Mail};

/// What a broadcast with acknowledgements has come to when not all have answered (`err` and
/// `err.responses`).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Unanswered {
    /// The answers that came, the first argument of each, in no order.
    pub responses: Vec<Raw>,
    /// Sockets that the event was sent to, as far as the shards have said.
    pub asked: usize,
    /// Of these, who did not answer in time,
    pub timed_out: usize,
    /// who left before they had answered,
    pub disconnected: usize,
    /// whose answer was not awaited, as too many are already
    /// ([`Options::max_pending_acks`](crate::Options::max_pending_acks)),
    pub unawaited: usize,
    /// and whose answer was dropped for its size
    /// ([`Options::max_gather_bytes`](crate::Options::max_gather_bytes)).
    pub oversized: usize,
    /// The sockets that `responses` came from, in the same order, where names were asked for.
    pub(crate) answered: Vec<SocketId>,
    /// Those that gave no answer, as `answered`.
    pub(crate) unanswered: Vec<SocketId>,
    /// Shards that are stalled: whether they have sent the event, and to whom, is not known.
    pub silent_shards: usize,
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (answered, asked) = (self.responses.len(), self.asked);
        if self.timed_out > 0 || self.silent_shards > 0 {
            write!(f, "operation has timed out: ")?;
        }
        write!(f, "{answered} of {asked} clients have answered")
    }
}

impl Broadcast {
    /// Sends the event, now, and awaits an acknowledgement from every socket it was sent to
    /// (`emitWithAck`). Resolves to the first argument of each answer, in no order; none if there
    /// is nobody to ask. May be awaited on any thread and runtime.
    ///
    /// The wait ends with the last answer, at the [`Broadcast::timeout`], which begins for each
    /// shard when it sends, or as soon as those who have not answered are gone. Without a timeout
    /// it is [`Options::requests_timeout`](crate::Options::requests_timeout); Socket.IO's would be
    /// over at once. A shard that is stalled gets that much time on top to report. Whoever stops
    /// waiting forgets the answers.
    ///
    /// Costs what [`Broadcast::emit`] costs, and about 40 B per socket until it has answered.
    ///
    /// # Errors
    /// [`Error::Unanswered`] if not all have answered, with the answers that came; otherwise as
    /// [`Broadcast::emit`].
    pub fn emit_with_ack(self, event: &str, args: impl Args) -> BroadcastAck {
        let state = match self.ask(event, args) {
            Ok(asked) => AckState::Waiting(asked),
            Err(error) => AckState::Failed(Some(error)),
        };
        BroadcastAck { state }
    }

    pub(crate) fn ask(self, event: &str, args: impl Args) -> Result<Asked, Error> {
        if self.namespace.is_parent() {
            return Err(Error::Options("a parent namespace cannot be asked; ask its children"));
        }
        let only = self.home();
        let (server, timeout) = (self.namespace.server.clone(), self.timeout);
        let grace = server.requests_timeout();
        let timeout = timeout.unwrap_or(grace);
        let id = server.new_ask();
        let raw = args.to_raw()?;
        let reported = self.for_listeners();
        let publish = Arc::new(self.encode(event, raw.clone(), Some(id))?);
        let timeout_ms = timeout.as_millis().min(u128::from(u64::MAX)) as u64;
        let mail = |part| Mail::Ask(Ask { publish: publish.clone(), id, timeout_ms, part });
        let gathering = server.gather(only, timeout.saturating_add(grace), mail)?;
        // What nobody can be told of was sent all the same.
        let _ = reported.map(|it| it.report(event, &raw));
        Ok(Asked { server, only, id, gathering, is_over: false })
    }
}

/// The acknowledgements of a broadcast, when they have come. See [`Broadcast::emit_with_ack`]. The
/// event is sent whether or not this is awaited.
#[must_use = "without awaiting it, use emit"]
pub struct BroadcastAck {
    state: AckState,
}

enum AckState {
    Waiting(Asked),
    Failed(Option<Error>),
}

impl Future for BroadcastAck {
    type Output = Result<Vec<Raw>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            AckState::Failed(error) => Poll::Ready(Err(error.take().unwrap_or(Error::NotRunning))),
            AckState::Waiting(asked) => Pin::new(asked).poll(cx).map(|outcome| {
                let Unanswered { responses, asked, silent_shards, .. } = outcome;
                match responses.len() == asked && silent_shards == 0 {
                    true => Ok(responses),
                    false => Err(Error::Unanswered(Box::new(Unanswered { responses, ..outcome }))),
                }
            }),
        }
    }
}

/// A broadcast that was sent and whose answers are awaited.
pub(crate) struct Asked {
    server: Server,
    /// The shard that was asked, if not all.
    only: Option<u16>,
    id: u64,
    gathering: Gathering<Answers>,
    is_over: bool,
}

impl Future for Asked {
    type Output = Unanswered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Unanswered> {
        let this = &mut *self;
        Pin::new(&mut this.gathering).poll(cx).map(|(parts, silent_shards)| {
            this.is_over = silent_shards == 0;
            let sum = Unanswered { silent_shards, ..Unanswered::default() };
            parts.into_iter().fold(sum, add)
        })
    }
}

fn add(mut sum: Unanswered, part: Answers) -> Unanswered {
    let Answers { responses, asked, timed_out, disconnected, unawaited, oversized, .. } = part;
    sum.answered.extend(part.answered);
    sum.unanswered.extend(part.unanswered);
    sum.responses.extend(responses.into_iter().map(Raw::from));
    sum.asked += asked;
    sum.timed_out += timed_out;
    sum.disconnected += disconnected;
    sum.unawaited += unawaited;
    sum.oversized += oversized;
    sum
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.is_over {
            // What a shard does not hear of ends at the timeout.
            let id = self.id;
            let _ = self.server.on_shards(self.only, move |shard| shard.cancel_ask(id));
        }
    }
}
