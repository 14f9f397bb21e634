//! The only door between cores: one mailbox per shard, rung awake when its shard sleeps.
//!
//! What crosses is frozen bytes, an owned descriptor, or a small command; order from one sender to
//! one shard is kept. Mailboxes are bounded in items and in bytes: a shard that finds another one's
//! full keeps the mail for a while, within the same bounds (`Shard::post`), any other thread gets
//! an error.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
}

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
                let bytes = AtomicUsize::new(0);
                (Mailbox { sender, bytes, doorbell: OnceLock::new(), is_parked }, receiver)
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
        self.boxes.iter().any(|mailbox| {
            let is_half = mailbox.sender.capacity().is_some_and(|it| mailbox.sender.len() > it / 2);
            is_half || mailbox.bytes.load(Ordering::Relaxed) > BYTES_MAX / 2
        })
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
        let first = receivers[1].try_recv().expect("the first item");
        assert!(matches!(first, Mail::Publish(..)));
        mesh.taken(1, &first);
        assert!(matches!(receivers[1].try_recv(), Ok(Mail::Call(_))));
        assert!(mesh.post(1, publish(BYTES_MAX + 1)).is_ok(), "one is taken, however large");
        assert!(matches!(mesh.post(1, publish(1)), Err(TrySendError::Full(_))));
        drop(receivers);
        assert!(matches!(mesh.post(0, call()), Err(TrySendError::Disconnected(_))));
    }
}
