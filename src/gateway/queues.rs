//! What waits to be sent to clients, and to whom most of it: looked at when somebody asks, in steps
//! that hold no shard up.

use std::sync::{Arc, Mutex as Lock};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Mutex;

use super::state::{State, User};
use crate::visit::Visited;

/// Sessions that a shard looks at in one go: some tens of microseconds.
const STEP: u32 = 8_192;
/// Pause between two steps.
const PAUSE: Duration = Duration::from_millis(5);
/// How old a look may be that is shown again.
const FRESH: Duration = Duration::from_millis(200);
/// How long somebody waits for a look before the one before is shown.
const PATIENCE: Duration = Duration::from_millis(200);
/// Slow clients that are told.
const SLOW_MAX: usize = 20;

/// A client that has not taken all that was sent to it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Slow {
    pub(crate) queued_bytes: usize,
    socket: String,
    pub(crate) namespace: String,
    user: Option<String>,
    address: Option<String>,
    shard: u16,
}

/// One look at all queues.
#[derive(Debug, Clone, Default)]
pub(crate) struct Look {
    /// Bytes that wait, by shard.
    pub(crate) bytes: Vec<usize>,
    /// Those with the longest queues, longest first.
    pub(crate) slow: Vec<Slow>,
    /// When it ended; `None` for none.
    at: Option<Instant>,
}

/// The last look.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    last: Lock<Arc<Look>>,
    looking: Arc<Mutex<()>>,
}

impl Queues {
    fn last(&self) -> Arc<Look> {
        self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// A look that is not old, unless there are so many sessions that it takes longer; on the
    /// control thread. O(sessions), in the background.
    pub(crate) async fn look(state: &Arc<State>) -> Arc<Look> {
        let queues = &state.metrics.queues;
        let last = queues.last();
        if last.at.is_some_and(|at| at.elapsed() < FRESH) {
            return last;
        }
        if let Ok(alone) = queues.looking.clone().try_lock_owned() {
            let job = state.clone();
            let look = tokio::spawn(async move {
                let look = take(&job).await;
                let place = &job.metrics.queues.last;
                *place.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(look);
                drop(alone);
            });
            let _ = tokio::time::timeout(PATIENCE, look).await;
        }
        queues.last()
    }
}

async fn take(state: &Arc<State>) -> Look {
    let mut look = Look::default();
    for shard in 0..state.server.shard_stats().len() as u16 {
        let (mut bytes, mut from) = (0, Some(0));
        while let Some(place) = from {
            if place > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let asked = state.server.ask_queues(shard, place, (STEP, SLOW_MAX), slow);
            // A server that has stopped has nothing queued.
            let Ok(asked) = asked else { break };
            let (parts, _) = asked.await;
            from = None;
            for (step_bytes, slow, next) in parts {
                (bytes, from) = (bytes + step_bytes, next);
                look.slow.extend(slow);
            }
            look.slow.sort_by_key(|slow| std::cmp::Reverse(slow.queued_bytes));
            look.slow.truncate(SLOW_MAX);
        }
        look.bytes.push(bytes);
    }
    look.at = Some(Instant::now());
    look
}

/// What is told of a client with a long queue.
fn slow(queued_bytes: usize, it: &Visited<'_>) -> Option<Slow> {
    let user = it.get::<User>();
    Some(Slow {
        queued_bytes,
        socket: it.id()?,
        namespace: it.namespace()?,
        user: user.and_then(|user| Some(user.id.as_deref()?.to_owned())),
        address: it.handshake().map(|it| it.address().ip().to_string()),
        shard: it.shard(),
    })
}
