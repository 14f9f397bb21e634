//! When a shard reads, and from whom.
//!
//! Reading makes work: what one client says may have to be sent to all. So mail and clients have a
//! share of a turn each ([`Hub::begin_share`](crate::hub::Hub::begin_share)), and what comes beyond
//! it waits for the next turn. A shard that is behind with its sends
//! ([`Hub::should_flush`](crate::hub::Hub::should_flush)) reads neither: queues would grow for no
//! fault of those they belong to. Publishers feel it in their own sends, which the kernel holds
//! back, or as other shards, which do not read from their clients while much of their mail is left.
//! Above capacity, to let what waits leave together is all that helps.

use std::cell::Cell;
use std::rc::Rc;

use crossbeam_channel::Receiver;

use super::Shard;
use super::mesh::Mail;
use super::ring::Ring;

/// Items of mail per turn, so that a full mailbox delays nothing for long.
const MAIL_PER_TURN: usize = 1_024;
/// Longest time that clients wait for another shard: one that does not turn is left alone.
const WAIT_MS: u64 = 1_000;

/// What a shard knows about its reading.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Clients were not read, as the shard was behind after its mail: they come first.
    owes_clients: Cell<bool>,
    /// Since when another shard has had much mail, without a break.
    waits_since: Cell<Option<u64>>,
    /// When the others were looked at.
    looked_at: Cell<Option<u64>>,
}

impl Intake {
    /// Whether another shard is waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.waits_since.get().is_some()
    }

    /// Whether to wait for others at this time, given whether they are behind. They are looked at
    /// once in a millisecond while they are not: it costs a cache line for each.
    fn waits(&self, are_behind: impl FnOnce() -> bool, now_ms: u64) -> bool {
        if self.looked_at.replace(Some(now_ms)) == Some(now_ms) && !self.is_waiting() {
            return false;
        }
        let are_behind = are_behind();
        let since = self.waits_since.get().unwrap_or(now_ms);
        self.waits_since.set(are_behind.then_some(since));
        are_behind && now_ms < since + WAIT_MS
    }
}

impl Shard {
    /// Reads mail and clients, each as far as their share of a turn allows; returns how much there
    /// was.
    pub(super) fn take_in(
        self: &Rc<Self>,
        ring: &mut Ring,
        mailbox: &Receiver<Mail>,
        now_ms: u64,
    ) -> usize {
        let are_behind = || self.server.mesh(|mesh| mesh.is_busy_beside(self.index));
        let others_wait = self.intake.waits(|| are_behind().unwrap_or_default(), now_ms);
        ring.hold_input(others_wait);
        // Mail first: what was posted before a client has said something is done before that is
        // heard. But once mail has put the shard behind, clients are not read, so they are first
        // the next time.
        let is_mail_first = !self.intake.owes_clients.get();
        let mut count = if is_mail_first { self.read_mail(ring, mailbox) } else { 0 };
        self.hub().begin_share();
        self.intake.owes_clients.set(is_mail_first && self.hub().should_flush());
        if !others_wait {
            count += self.read_clients(ring);
        }
        if !is_mail_first {
            count += self.read_mail(ring, mailbox);
        }
        count
    }

    /// Reads what clients have sent.
    fn read_clients(self: &Rc<Self>, ring: &mut Ring) -> usize {
        self.hub().begin_share();
        self.settle(ring);
        let mut count = 0;
        if !self.should_hold() {
            count = ring.read(|ring, completion| {
                self.complete(ring, completion);
                !self.should_hold()
            });
        }
        if ring.has_read_all() {
            self.hub().handle_all_read();
        }
        count
    }

    /// Whether clients have to wait from now on, until a flush or the next turn.
    fn should_hold(&self) -> bool {
        // Mail that found no room tells so before the next turn does.
        let is_full = || !self.outbox.borrow().is_empty() && !self.intake.is_waiting();
        self.hub().should_flush() || is_full()
    }

    /// Reads mail.
    fn read_mail(self: &Rc<Self>, ring: &mut Ring, mailbox: &Receiver<Mail>) -> usize {
        self.hub().begin_share();
        self.settle(ring);
        let mut count = 0;
        while count < MAIL_PER_TURN && !self.hub().should_flush() {
            let Ok(mail) = mailbox.try_recv() else { break };
            count += 1;
            self.server.mesh(|mesh| mesh.taken(self.index, &mail));
            match mail {
                Mail::Adopt(moved) => self.adopt(ring, *moved),
                mail => self.handle(mail),
            }
            self.settle(ring);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_waited_for_until_they_have_caught_up_or_for_a_second() {
        let intake = Intake::default();
        assert!(!intake.waits(|| false, 5) && !intake.is_waiting());
        assert!(!intake.waits(|| panic!("looked at twice"), 5));
        assert!(intake.waits(|| true, 10) && intake.waits(|| true, 1_009) && intake.is_waiting());
        assert!(!intake.waits(|| true, 1_010) && !intake.waits(|| true, 5_000), "it does not turn");
        assert!(!intake.waits(|| false, 5_001) && !intake.is_waiting());
        assert!(intake.waits(|| true, 5_002), "it does again");
    }
}
