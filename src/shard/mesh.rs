//! The only door between cores: one mailbox per shard, rung awake when its shard sleeps.
//!
//! What crosses is frozen bytes, an owned descriptor, or a small command; order from one sender to
//! one shard is kept. Mailboxes are bounded in items and in bytes: a shard that finds another one's
//! full keeps the mail for a while, within the same bounds (`Shard::post`), any other thread gets
//! an error.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::Shard;
use super::ring::Doorbell;
use super::tls::Moving;
use crate::gather::Part;
use crate::hub::fanout::Encoded;
use crate::hub::{Answers, Message, Peer, Publish};
use crate::kept::Sent;

/// Something to do on another shard.
pub(crate) type Call = Box<dyn FnOnce(&Rc<Shard>) + Send>;

/// One item between shards, or from any thread to one.
pub(crate) enum Mail {
    /// A broadcast, for the members on that shard, and when it was made.
    Publish(Arc<Publish>, Instant),
    /// A broadcast that those members are to acknowledge.
    Ask(Ask),
    /// A connection whose session lives on that shard.
    Adopt(Box<Moved>),
    /// What shards tell each other about sessions to be recovered.
    Recover(Box<(Message, Option<Sent>)>),
    /// Anything rare.
    Call(Call),
}

/// A connection on its way, with nothing in flight.
pub(crate) struct Moved {
    pub(super) fd: OwnedFd,
    pub(super) peer: Peer,
    /// What was read and not yet understood.
    pub(super) bytes: Vec<u8>,
    /// Where it speaks TLS.
    pub(super) tls: Option<Moving>,
}

/// A broadcast and what its receivers are asked for.
pub(crate) struct Ask {
    pub(crate) publish: Arc<Publish>,
    /// The number it was encoded with.
    pub(crate) id: u64,
    pub(crate) timeout_ms: u64,
    /// Where the answers of one shard go.
    pub(crate) part: Part<Answers>,
}

impl Mail {
    /// Bytes that it keeps in memory until it is read, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Mail::Publish(publish, _) | Mail::Ask(Ask { publish, .. }) => {
                let Encoded { text, attachments } = &publish.encoded;
                text.len() + attachments.iter().map(|attachment| attachment.len()).sum::<usize>()
            }
            Mail::Adopt(moved) => moved.bytes.len(),
            Mail::Recover(parts) => parts.0.bytes(),
            Mail::Call(_) => 0,
        }
    }
}

/// Bytes of mail that may wait for one shard. Beyond it a mailbox is full, like one with too many
/// items.
pub(super) const BYTES_MAX: usize = 64 << 20;

/// The sending side of one shard's mailbox.
struct Mailbox {
    sender: Sender<Mail>,
    /// Sum of [`Mail::bytes`] over the items that wait.
    bytes: AtomicUsize,
    /// Set once the shard has its ring.
    doorbell: OnceLock<Doorbell>,
    /// Whether the shard sleeps, or is about to. Whoever clears it has to ring.
    is_parked: AtomicBool,
    /// Items that the shard did not get.
    refused: AtomicU64,
}

impl Mailbox {
    /// Whether more items wait than this, or half of what it takes.
    fn has_more_than(&self, items: usize) -> bool {
        let half = self.sender.capacity().map_or(usize::MAX, |capacity| capacity / 2);
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.sender.len() > items.min(half) || bytes > BYTES_MAX / 2
    }
}

/// Items that wait for a shard from which on others should not bring more.
const MANY: usize = 1_024;

/// All mailboxes of a server.
pub(crate) struct Mesh {
    boxes: Box<[Mailbox]>,
}

impl Mesh {
    /// A mesh of `shards` mailboxes for `capacity` items each, and their receiving sides.
    pub(crate) fn new(shards: usize, capacity: usize) -> (Mesh, Vec<Receiver<Mail>>) {
        let (boxes, receivers) = (0..shards)
            .map(|_| {
                let (sender, receiver) = crossbeam_channel::bounded(capacity);
                let is_parked = AtomicBool::new(false);
                let (bytes, refused) = (AtomicUsize::new(0), AtomicU64::new(0));
                let doorbell = OnceLock::new();
                (Mailbox { sender, bytes, doorbell, is_parked, refused }, receiver)
            })
            .unzip::<_, _, Vec<_>, _>();
        (Mesh { boxes: boxes.into() }, receivers)
    }

    /// Number of shards.
    pub(crate) fn len(&self) -> usize {
        self.boxes.len()
    }

    /// Connects a shard's doorbell; to be called once, before it reads mail.
    pub(crate) fn set_doorbell(&self, shard: u16, doorbell: Doorbell) {
        let _ = self.boxes[usize::from(shard)].doorbell.set(doorbell);
    }

    /// Whether so much mail waits for one of the shards that a sender who can should wait: half of
    /// what its mailbox takes.
    #[cfg_attr(not(any(test, feature = "gateway")), expect(dead_code))]
    pub(crate) fn is_congested(&self) -> bool {
        self.boxes.iter().any(|mailbox| mailbox.has_more_than(usize::MAX))
    }

    /// Puts an item into a mailbox; gives it back when that is full, or its shard has ended.
    pub(crate) fn post(&self, shard: u16, mail: Mail) -> Result<(), TrySendError<Mail>> {
        let mailbox = &self.boxes[usize::from(shard)];
        let bytes = mail.bytes();
        if mailbox.bytes.fetch_add(bytes, Ordering::Relaxed) > BYTES_MAX {
            mailbox.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(TrySendError::Full(mail));
        }
        if let Err(error) = mailbox.sender.try_send(mail) {
            mailbox.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(error);
        }
        // Pairs with `park`: either we see the flag, or the shard sees the item.
        std::sync::atomic::fence(Ordering::SeqCst);
        if mailbox.is_parked.load(Ordering::Relaxed)
            && mailbox.is_parked.swap(false, Ordering::AcqRel)
            && let Some(doorbell) = mailbox.doorbell.get()
        {
            doorbell.ring();
        }
        Ok(())
    }

    /// An item was taken out of a shard's mailbox.
    pub(crate) fn taken(&self, shard: u16, mail: &Mail) {
        self.boxes[usize::from(shard)].bytes.fetch_sub(mail.bytes(), Ordering::Relaxed);
    }

    /// Whether much mail waits for a shard other than this one. O(shards).
    pub(crate) fn is_busy_beside(&self, shard: u16) -> bool {
        let others = self.boxes.iter().enumerate().filter(|(at, _)| *at != usize::from(shard));
        others.map(|(_, mailbox)| mailbox).any(|mailbox| mailbox.has_more_than(MANY))
    }

    /// Counts an item that a shard does not get.
    pub(crate) fn refuse(&self, shard: u16) {
        self.boxes[usize::from(shard)].refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Items that wait for a shard, and how many it did not get since the start.
    pub(crate) fn mail(&self, shard: u16) -> (usize, u64) {
        let mailbox = &self.boxes[usize::from(shard)];
        (mailbox.sender.len(), mailbox.refused.load(Ordering::Relaxed))
    }

    /// Wakes every shard that sleeps or is about to.
    pub(crate) fn wake_all(&self) {
        for doorbell in self.boxes.iter().filter_map(|mailbox| mailbox.doorbell.get()) {
            doorbell.ring();
        }
    }

    /// Announces that a shard is about to sleep. It must look into its mailbox once more after.
    pub(crate) fn park(&self, shard: u16) {
        self.boxes[usize::from(shard)].is_parked.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// The shard is awake and looks into its mailbox every turn.
    pub(crate) fn unpark(&self, shard: u16) {
        self.boxes[usize::from(shard)].is_parked.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_a_full_mailbox_gives_the_item_back() {
        let (mesh, receivers) = Mesh::new(2, 2);
        assert_eq!(mesh.len(), 2);
        let call = || Mail::Call(Box::new(|_| {}));
        let publish = |bytes: usize| {
            let encoded = Encoded { text: vec![b'4'; bytes].into(), attachments: Vec::new() };
            let (target, flags) = Default::default();
            let publish = Publish { namespace: 0, target, flags, encoded };
            Mail::Publish(Arc::new(publish), Instant::now())
        };
        assert!(mesh.post(1, publish(5)).is_ok());
        assert!(!mesh.is_congested(), "half of it is room");
        assert!(mesh.post(1, call()).is_ok());
        assert!(matches!(mesh.post(1, call()), Err(TrySendError::Full(Mail::Call(_)))));
        assert!(mesh.is_congested());
        assert!(mesh.is_busy_beside(0) && !mesh.is_busy_beside(1));
        mesh.refuse(1);
        assert_eq!((mesh.mail(0), mesh.mail(1)), ((0, 0), (2, 1)));
        let first = receivers[1].try_recv().expect("the first item");
        assert!(matches!(first, Mail::Publish(..)));
        mesh.taken(1, &first);
        assert!(matches!(receivers[1].try_recv(), Ok(Mail::Call(_))));
        assert!(!mesh.is_busy_beside(0));
        assert!(mesh.post(1, publish(BYTES_MAX + 1)).is_ok(), "one is taken, however large");
        assert!(matches!(mesh.post(1, publish(1)), Err(TrySendError::Full(_))));
        drop(receivers);
        assert!(matches!(mesh.post(0, call()), Err(TrySendError::Disconnected(_))));
    }
}
