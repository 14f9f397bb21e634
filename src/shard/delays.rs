//! How long broadcasts take, from their publication to the hand-over to the ring.
//!
//! It costs one reading of the clock where a broadcast is made and one in each turn in which one
//! has left, and a place in a queue: O(1) for each broadcast, nothing for each receiver.

use std::collections::VecDeque;
use std::time::Instant;

use super::Shard;
use crate::histograms::Delays;
use crate::hub::Publish;
use crate::hub::rooms::NamespaceId;

/// Broadcasts on their way out at a time that are timed; those beyond are not counted.
const TIMED_MAX: usize = 4_096;

/// Broadcasts that were staged and have not left, and how long the others took.
#[derive(Default)]
pub(super) struct Leaving {
    /// When each was made, the place in the line behind which all of it has left, and the
    /// namespace.
    made: VecDeque<(Instant, u64, NamespaceId)>,
    pub(super) delays: Delays,
}

impl Shard {
    /// Stages a broadcast for the members of this shard.
    pub(super) fn publish_here(&self, publish: &Publish, made: Instant) {
        let mut hub = self.hub();
        hub.publish(publish);
        let (last, _) = hub.bulk_places();
        let mut leaving = self.leaving.borrow_mut();
        if leaving.made.len() < TIMED_MAX {
            leaving.made.push_back((made, last, publish.namespace));
        }
    }

    /// Something was handed to the ring: counts the broadcasts of which all has left, but for those
    /// sockets that still have an earlier send in flight.
    pub(super) fn note_left(&self) {
        let mut leaving = self.leaving.borrow_mut();
        if leaving.made.is_empty() {
            return;
        }
        let mut hub = self.hub();
        let (_, left) = hub.bulk_places();
        let Leaving { made, delays } = &mut *leaving;
        let mut now = None;
        while let Some((at, place, namespace)) = made.front()
            && *place <= left
        {
            let now = *now.get_or_insert_with(Instant::now);
            let delay = now.saturating_duration_since(*at);
            delays.observe(delay);
            hub.note_left(*namespace, delay);
            made.pop_front();
        }
    }
}
