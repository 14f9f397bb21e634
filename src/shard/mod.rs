//! One core: a pinned executor with one pump task, its ring and its hub, and the tasks of handlers.
//!
//! The pump turns: it reads the clock once, takes what the kernel and other shards have brought
//! into the hub, calls the application for what the hub tells, and hands what was staged to the
//! kernel. With nothing to do it sleeps in the ring; while handlers wait for things of their own it
//! sleeps in the executor, on an eventfd that the ring rings. Mail completes an operation of the
//! ring, so it ends both kinds of sleep.

pub(crate) mod awake;
mod delays;
mod dispatch;
mod endpoint;
mod hooks;
mod intake;
pub(crate) mod mesh;
mod namespaces;
mod notify;
pub mod ring;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
pub(crate) mod watch;
mod wires;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TrySendError};
use glommio::io::BufferedFile;
use glommio::timer::Timer;
use rustc_hash::FxHashMap;

use crate::children::NamespaceSpec;
use crate::error::{Error, Reason};
use crate::event::Raw;
use crate::gather::Part;
use crate::hub::recovery::Data;
use crate::hub::rooms::NamespaceId;
use crate::hub::slab::Key;
use crate::hub::{AckLost, Answers, Arguments, Gauges, Hub, Message, Output, PeerEnd};
use crate::kept::Kept;
use crate::options::Options;
use crate::server::{Server, Spec, Stats, among, hub_config};
use crate::socket::{AckSlot, Own, Owns};
use dispatch::Owner;
use mesh::{Mail, Moved};
use ring::{Completion, Ring, RingConfig};
use watch::Pulse;
use wires::Wires;

thread_local! {
    /// The shard whose thread this is.
    static CURRENT: RefCell<Option<Rc<Shard>>> = const { RefCell::new(None) };
}

/// Longest sleep while handlers wait for something. It bounds what glommio's missed wake-ups cost.
const TASK_SLEEP: Duration = Duration::from_millis(10);
/// Wait before accepting again after the system ran out of descriptors or memory.
const ACCEPT_RETRY_MS: u64 = 100;
/// How often a busy shard leaves its counters where other threads can read them.
const STATS_MS: u64 = 100;
/// How often a shard logs a warning that clients can cause.
const WARN_MS: u64 = 1_000;

/// The reading of the ring's eventfd.
type Bell<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One core's part of a server. Lives on that core's thread.
pub(crate) struct Shard {
    index: u16,
    server: Server,
    /// As they are now.
    options: RefCell<Arc<Options>>,
    hub: RefCell<Hub>,
    /// TLS and the like; none if all ports are plain.
    wires: Option<RefCell<Wires>>,
    owns: Owns,
    /// Those that the hub knows.
    namespaces: RefCell<FxHashMap<NamespaceId, Rc<NamespaceSpec>>>,
    /// Unfinished handlers, by socket.
    running: RefCell<FxHashMap<Owner, usize>>,
    /// Hooks that wait, by the connection of their request.
    asked: RefCell<FxHashMap<Key, Rc<hooks::Cancel>>>,
    /// Tasks of this executor besides the pump.
    tasks: Cell<usize>,
    acks: RefCell<FxHashMap<u64, AckSlot>>,
    /// Broadcasts whose acknowledgements are awaited, by their numbers.
    asks: RefCell<FxHashMap<u64, (Key, Part<Answers>)>>,
    next_token: Cell<u64>,
    /// Broadcasts on their way out.
    leaving: RefCell<delays::Leaving>,
    scratch: RefCell<Vec<u8>>,
    /// An outgoing listener is running; what it sends is not reported.
    is_reporting: Cell<bool>,
    pulse: Arc<Pulse>,
    start: Instant,
    /// Mail for shards whose mailboxes were full.
    outbox: RefCell<VecDeque<(u16, Mail)>>,
    outbox_bytes: Cell<usize>,
    /// Something was staged while the pump slept or was about to.
    is_woken: Cell<bool>,
    pump: RefCell<Option<Waker>>,
    /// When accepting stopped for want of descriptors, when to try again.
    accept_at: Cell<Option<u64>>,
    /// When sessions began to be closed.
    stopping_ms: Cell<Option<u64>>,
    stats_at: Cell<u64>,
    /// When a warning that clients can cause may be logged again.
    warn_at: Cell<u64>,
    intake: intake::Intake,
}

/// What a shard is started with.
pub(crate) struct Start {
    pub(crate) index: u16,
    pub(crate) server: Server,
    pub(crate) hub: Hub,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) mailbox: Receiver<Mail>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) start: Instant,
}

/// Drops what the application has kept with a socket.
fn drop_kept(kept: impl Sized) {
    if catch_unwind(AssertUnwindSafe(|| drop(kept))).is_err() {
        log::error!("a value kept with a socket panicked when it was dropped");
    }
}

impl Shard {
    /// Runs a shard on this executor until it is shut down. `ready` is told how its ring fared.
    ///
    /// # Errors
    /// Its ring could not be made, or has failed; then the whole server is shut down.
    pub(crate) async fn serve(start: Start, ready: impl FnOnce()) -> std::io::Result<()> {
        let Start { index, server, hub, listeners, mailbox, pulse, start } = start;
        let buffers = server.spec().map_or(1_024, |spec| spec.options.receive_buffers);
        let mut ring = Ring::new(&RingConfig { buffers, ..RingConfig::default() })?;
        server.mesh(|mesh| mesh.set_doorbell(index, ring.doorbell()));
        listeners.into_iter().for_each(|listener| ring.listen(listener));
        let fixed = server.running_spec().namespaces.iter();
        let namespaces = fixed.map(|spec| (spec.id, Rc::new(spec.clone()))).collect();
        let wires = Wires::new(server.running_spec()).map(RefCell::new);
        let options = RefCell::new(Arc::new(server.options().clone()));
        let shard = Rc::new(Shard {
            index,
            options,
            server,
            hub: RefCell::new(hub),
            wires,
            owns: Owns::default(),
            namespaces: RefCell::new(namespaces),
            running: RefCell::default(),
            asked: RefCell::default(),
            tasks: Cell::new(0),
            acks: RefCell::default(),
            asks: RefCell::default(),
            next_token: Cell::new(0),
            leaving: RefCell::default(),
            scratch: RefCell::default(),
            is_reporting: Cell::new(false),
            pulse,
            start,
            outbox: RefCell::default(),
            outbox_bytes: Cell::new(0),
            is_woken: Cell::new(false),
            pump: RefCell::default(),
            accept_at: Cell::new(None),
            stopping_ms: Cell::new(None),
            stats_at: Cell::new(0),
            warn_at: Cell::new(0),
            intake: intake::Intake::default(),
        });
        CURRENT.set(Some(shard.clone()));
        ready();
        let ended = shard.pump(&mut ring, &mailbox).await;
        CURRENT.set(None);
        // Nobody answers any more, whoever still holds the shard.
        drop(shard.asks.take());
        if let Err(error) = &ended {
            log::error!("shard {index}: its ring has failed, shutting down: {error}");
            shard.server.shutdown();
        }
        ended
    }

    /// The shard of this thread, if it belongs to `server`.
    pub(crate) fn current(server: &Server) -> Option<Rc<Shard>> {
        CURRENT.with_borrow(|shard| shard.clone()).filter(|shard| shard.server == *server)
    }

    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    pub(crate) fn server(&self) -> Server {
        self.server.clone()
    }

    /// What was registered before the server began to listen.
    pub(crate) fn spec(&self) -> &Arc<Spec> {
        self.server.running_spec()
    }

    /// The options as they are now.
    pub(crate) fn options(&self) -> Arc<Options> {
        self.options.borrow().clone()
    }

    /// Lets other options hold from now on.
    pub(crate) fn reconfigure(&self, options: &Arc<Options>) {
        let config = hub_config(self.spec(), options, self.index);
        if let Some(wires) = &self.wires {
            wires.borrow_mut().set_entrance(config.entrance.clone());
        }
        self.hub().reconfigure(config);
        self.options.replace(options.clone());
    }

    /// The hub. Handlers and the pump take turns on one thread, so it is never borrowed twice.
    pub(crate) fn hub(&self) -> RefMut<'_, Hub> {
        self.hub.borrow_mut()
    }

    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Whether a warning that clients can cause may be logged now: no peer fills the disk.
    fn may_warn(&self) -> bool {
        let now = self.now_ms();
        let may = now >= self.warn_at.get();
        if may {
            self.warn_at.set(now + WARN_MS);
        }
        may
    }

    /// Makes sure that the pump soon looks at what was staged.
    pub(crate) fn wake(&self) {
        self.is_woken.set(true);
        if let Some(pump) = self.pump.take() {
            pump.wake();
        }
    }

    /// Lends a buffer that is reused.
    pub(crate) fn with_scratch<T>(&self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut scratch = self.scratch.take();
        scratch.clear();
        let result = write(&mut scratch);
        if scratch.capacity() <= 64 * 1024 {
            self.scratch.replace(scratch);
        }
        result
    }

    /// Posts mail to another shard. When its mailbox is full the mail waits here, and when too much
    /// waits it is refused: that shard is stalled, and this one goes on without it.
    pub(crate) fn post(&self, shard: u16, mail: Mail) -> Result<(), Error> {
        let mut outbox = self.outbox.borrow_mut();
        let full = if outbox.is_empty() {
            match self.server.mesh(|mesh| mesh.post(shard, mail)) {
                Some(Err(TrySendError::Full(mail))) => mail,
                Some(Ok(()) | Err(TrySendError::Disconnected(_))) | None => return Ok(()),
            }
        } else {
            mail
        };
        let waiting: usize = self.outbox_bytes.get() + full.bytes();
        if outbox.len() >= self.spec().options.max_mailbox || waiting > mesh::BYTES_MAX {
            self.server.mesh(|mesh| mesh.refuse(shard));
            return Err(Error::Limit("max_mailbox"));
        }
        self.outbox_bytes.set(waiting);
        outbox.push_back((shard, full));
        Ok(())
    }

    /// Posts what waits, as far as there is room.
    fn post_waiting(&self) {
        let mut outbox = self.outbox.borrow_mut();
        while let Some((shard, mail)) = outbox.pop_front() {
            let bytes = mail.bytes();
            if let Some(Err(TrySendError::Full(mail))) =
                self.server.mesh(|mesh| mesh.post(shard, mail))
            {
                return outbox.push_front((shard, mail));
            }
            self.outbox_bytes.set(self.outbox_bytes.get() - bytes);
        }
    }

    async fn pump(
        self: &Rc<Self>,
        ring: &mut Ring,
        mailbox: &Receiver<Mail>,
    ) -> std::io::Result<()> {
        let sleeper = ring.sleeper()?;
        let ended = self.turns(ring, mailbox, &sleeper).await;
        // An executor that ends closes no file of its own accord.
        awake::await_end(Box::pin(sleeper.close())).await;
        ended
    }

    /// Turns and sleeps until the shard has ended.
    async fn turns(
        self: &Rc<Self>,
        ring: &mut Ring,
        mailbox: &Receiver<Mail>,
        sleeper: &BufferedFile,
    ) -> std::io::Result<()> {
        let mut bell = None;
        let ended = loop {
            self.is_woken.set(false);
            let is_busy = match self.turn(ring, mailbox) {
                Ok(is_busy) => is_busy || self.is_woken.get(),
                Err(error) => break Err(error),
            };
            if self.is_stopped() {
                self.leave_stats();
                break Ok(());
            }
            if !is_busy && self.tasks.get() > 0 {
                self.sleep(ring, mailbox, sleeper, &mut bell).await;
            } else if !is_busy && let Err(error) = self.wait(ring, mailbox) {
                break Err(error);
            }
            if self.tasks.get() > 0 {
                self.yield_to_handlers().await;
            }
        };
        // A read that goes on would keep the file open.
        if let Some(bell) = bell {
            ring.wake_sleeper();
            awake::await_end(bell).await;
        }
        ended
    }

    /// Whether another thread has said something that the last turn did not see: no bell has rung
    /// as this shard was not parked, or the turn has taken the bell after it had looked.
    fn has_news(&self, mailbox: &Receiver<Mail>) -> bool {
        let is_stopping = self.stopping_ms.get().is_none() && self.server.is_stopping();
        is_stopping || !mailbox.is_empty()
    }

    /// Sleeps in the ring itself: no handler waits for anything, so the executor has nothing to do.
    fn wait(&self, ring: &mut Ring, mailbox: &Receiver<Mail>) -> std::io::Result<()> {
        self.leave_stats();
        self.server.mesh(|mesh| mesh.park(self.index));
        let timeout = if self.has_news(mailbox) { Some(Duration::ZERO) } else { self.next_wake() };
        let waited = ring.wait(timeout);
        self.server.mesh(|mesh| mesh.unpark(self.index));
        waited
    }

    /// Sleeps in the executor, where handlers wait for things of their own: until the ring has
    /// something, a handler has staged something, or the next deadline. Reading the eventfd goes on
    /// across sleeps that ended otherwise.
    async fn sleep<'a>(
        &self,
        ring: &mut Ring,
        mailbox: &Receiver<Mail>,
        sleeper: &'a BufferedFile,
        bell: &mut Option<Bell<'a>>,
    ) {
        if !ring.prepare_park() {
            return;
        }
        self.server.mesh(|mesh| mesh.park(self.index));
        if !self.has_news(mailbox) {
            let wake = self.next_wake().map_or(TASK_SLEEP, |wake| wake.min(TASK_SLEEP));
            let mut timer = Timer::new(wake);
            poll_fn(|cx| {
                if self.is_woken.get() {
                    return Poll::Ready(());
                }
                self.pump.replace(Some(cx.waker().clone()));
                let read = bell.get_or_insert_with(|| {
                    Box::pin(async {
                        let _ = sleeper.read_at(0, 8).await;
                    })
                });
                if read.as_mut().poll(cx).is_ready() {
                    *bell = None;
                    return Poll::Ready(());
                }
                Pin::new(&mut timer).poll(cx).map(|_| ())
            })
            .await;
            self.pump.take();
        }
        self.server.mesh(|mesh| mesh.unpark(self.index));
        ring.unpark();
    }

    /// Lets handlers' tasks run. The timer is for glommio 0.9, which goes to sleep over tasks that
    /// are ready when its preemption timer fires at the wrong moment (docs/decisions.md).
    async fn yield_to_handlers(&self) {
        let mut timer = Timer::new(Duration::from_micros(200));
        let mut has_yielded = false;
        poll_fn(|cx| {
            if has_yielded {
                return Poll::Ready(());
            }
            has_yielded = true;
            cx.waker().wake_by_ref();
            let _ = Pin::new(&mut timer).poll(cx);
            Poll::Pending
        })
        .await;
    }

    fn next_wake(&self) -> Option<Duration> {
        let mut wake = self.hub().next_timeout_ms();
        let now = self.now_ms();
        if !self.outbox.borrow().is_empty() || self.intake.is_waiting() {
            return Some(Duration::from_millis(1));
        }
        for at in [self.accept_at.get(), self.stopping_ms.get().map(|ms| ms + self.grace_ms())] {
            let ms = at.map(|at| at.saturating_sub(now).max(1));
            wake = [wake, ms].into_iter().flatten().min();
        }
        wake.map(Duration::from_millis)
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// One turn; true when there was something to do, or still is.
    fn turn(self: &Rc<Self>, ring: &mut Ring, mailbox: &Receiver<Mail>) -> std::io::Result<bool> {
        let now_ms = self.now_ms();
        self.hub().handle_time(now_ms);
        self.settle(ring);
        if self.stopping_ms.get().is_none() && self.server.is_stopping() {
            ring.stop_listening();
            self.stopping_ms.set(Some(now_ms));
            self.hub().shut_down(Reason::ServerShuttingDown);
            self.settle(ring);
        }
        if self.accept_at.get().is_some_and(|at| at <= now_ms) {
            self.accept_at.set(None);
            ring.resume_accept();
        }
        let completions = ring.turn(|ring, completion| self.complete(ring, completion))?;
        self.settle(ring);
        let reads = self.take_in(ring, mailbox, now_ms);
        self.post_waiting();
        let budget = self.options.borrow().sends_per_turn;
        let sends = match &self.wires {
            None => self.hub().flush(budget, |conn, buf| ring.send(conn, buf)),
            Some(wires) => {
                let mut wires = wires.borrow_mut();
                self.hub().flush(budget, |conn, buf| wires.send(ring, conn, buf))
            }
        };
        self.note_left();
        self.settle(ring);
        if now_ms >= self.stats_at.get() {
            self.leave_stats();
        }
        Ok(completions + reads + sends > 0 || self.hub().has_work())
    }

    fn complete(self: &Rc<Self>, ring: &mut Ring, completion: Completion<'_>) {
        let completion = match &self.wires {
            None => Some(completion),
            Some(wires) => wires.borrow_mut().complete(ring, &mut self.hub(), completion),
        };
        if let Some(completion) = completion {
            self.complete_plain(ring, completion);
        }
        self.settle(ring);
    }

    /// Handles what has nothing between the ring and the hub.
    fn complete_plain(&self, ring: &mut Ring, completion: Completion<'_>) {
        match completion {
            Completion::Accepted { fd, listener } => self.accepted(ring, fd, listener),
            Completion::AcceptFailed(error) => {
                if self.may_warn() {
                    log::warn!("shard {}: cannot accept: {error}", self.index);
                }
                self.accept_at.set(Some(self.now_ms() + ACCEPT_RETRY_MS));
            }
            Completion::Received { conn, bytes } => self.hub().handle_received(conn, bytes),
            Completion::PeerClosed { conn, error } => {
                let end = if error.is_some() { PeerEnd::Reset } else { PeerEnd::Eof };
                self.hub().handle_peer_closed(conn, end);
            }
            Completion::Sent { conn, result } => self.hub().handle_sent(conn, result.is_ok()),
            Completion::Closed { conn } => self.hub().handle_closed(conn),
        }
    }

    fn accepted(&self, ring: &mut Ring, fd: OwnedFd, listener: u32) {
        let address = socket2::SockRef::from(&fd).peer_addr().ok();
        // No address means that the peer has gone already; dropping the descriptor closes.
        let Some(address) = address.and_then(|address| address.as_socket()) else { return };
        if let Some(wires) = &self.wires
            && !wires.borrow().may_enter(listener, address)
        {
            return self.hub().tally(|stats| stats.bad_proxies += 1);
        }
        let Some(conn) = self.hub().handle_accepted(address) else { return };
        ring.adopt(conn, fd);
        if let Some(wires) = &self.wires
            && !wires.borrow_mut().begin(conn, listener)
        {
            self.hub().handle_peer_closed(conn, PeerEnd::Reset);
        }
    }

    /// Does what the hub asks for and tells the application what it has to know, until both are
    /// quiet or what was staged should leave first.
    fn settle(self: &Rc<Self>, ring: &mut Ring) {
        loop {
            self.dispatch();
            let Some(output) = self.hub().poll_output() else { return };
            match output {
                Output::ReceiveOnce(conn) => ring.receive_once(conn),
                Output::ReceiveMany(conn) => ring.receive_many(conn),
                Output::ShutdownWrite(conn) => match &self.wires {
                    None => ring.shutdown_write(conn),
                    Some(wires) => wires.borrow_mut().shutdown_write(ring, conn),
                },
                Output::Close(conn) => match &self.wires {
                    None => ring.close(conn),
                    Some(wires) => wires.borrow_mut().close(ring, conn),
                },
                Output::Migrate { conn, shard, peer, bytes } => {
                    let tls = self.wires.as_ref().and_then(|it| it.borrow_mut().take(conn));
                    if let Some(fd) = ring.release(conn) {
                        let moved = Box::new(Moved { fd, peer, bytes, tls });
                        // Refused only when that shard is stalled; then the connection ends here.
                        let _ = self.post(shard, Mail::Adopt(moved));
                    }
                }
                Output::Recover { shard, message, data } => self.hand_over(shard, message, data),
            }
        }
    }

    /// Takes over a connection of another shard.
    fn adopt(&self, ring: &mut Ring, moved: Moved) {
        let Moved { fd, peer, bytes, tls } = moved;
        let conn = self.hub().handle_migrated(peer, bytes);
        let Some(conn) = conn else { return };
        ring.adopt(conn, fd);
        if let (Some(wires), Some(tls)) = (&self.wires, tls) {
            wires.borrow_mut().adopt(&mut self.hub(), conn, tls);
        }
    }

    /// Sends a message of recovery to another shard, with the values that can go there. Refused
    /// only when that shard is stalled; then the client gets a new session.
    fn hand_over(&self, shard: u16, message: Message, data: Option<Data>) {
        let kept = data.and_then(|data| Rc::try_unwrap(data.downcast::<Kept>().ok()?).ok());
        let kept = kept.map(Kept::send);
        let _ = self.post(shard, Mail::Recover(Box::new((message, kept))));
    }

    /// Gives the values of a socket to the hub, for when its client comes back.
    fn keep_data(&self, key: Key) {
        let kept = || self.own(key, |own| own.kept.clone()).filter(|kept| !kept.is_empty());
        self.hub().keep_data(key, || Some(Rc::new(kept()?)));
    }

    /// Gives the values back to a socket whose client has come back.
    fn restore_data(&self, key: Key) {
        let data = self.hub().kept_data(key).and_then(|data| data.downcast::<Kept>().ok());
        if let Some(kept) = data {
            self.own_or_new(key, |own| own.kept.clone_from(&kept));
        }
    }

    fn grace_ms(&self) -> u64 {
        self.options.borrow().shutdown_timeout.as_millis() as u64
    }

    /// Whether the shard was shut down and has nothing left, or has waited for long enough.
    fn is_stopped(&self) -> bool {
        self.stopping_ms.get().is_some_and(|since| {
            let is_over = self.now_ms() >= since + self.grace_ms();
            is_over || self.hub().connection_count() == 0
        })
    }

    /// Leaves the counters where other threads can read them.
    pub(crate) fn leave_stats(&self) {
        self.stats_at.set(self.now_ms() + STATS_MS);
        let hub = self.hub();
        let gauges = Gauges { mail: self.outbox.borrow().len(), ..hub.gauges() };
        let fan_out = self.leaving.borrow().delays;
        self.server.leave_stats(self.index, Stats { totals: hub.stats(), gauges, fan_out });
    }

    /// Reads what is kept with a socket, if anything is.
    pub(crate) fn own<T>(&self, key: Key, read: impl FnOnce(&Own) -> T) -> Option<T> {
        self.owns.borrow().get(&key).map(|own| read(own))
    }

    /// Changes what is kept with a socket, if anything is.
    pub(crate) fn own_mut<T>(&self, key: Key, change: impl FnOnce(&mut Own) -> T) -> Option<T> {
        self.owns.borrow_mut().get_mut(&key).map(|own| change(own))
    }

    /// Whether what is sent now is sent by a listener of what is sent.
    pub(crate) fn is_reporting(&self) -> bool {
        self.is_reporting.get()
    }

    /// Changes what is kept with a socket, unless it has gone.
    pub(crate) fn own_or_new<T>(&self, key: Key, change: impl FnOnce(&mut Own) -> T) -> Option<T> {
        self.hub().socket_id(key)?;
        Some(change(self.owns.borrow_mut().entry(key).or_default()))
    }

    /// Drops what was kept with a socket.
    fn forget(&self, key: Key) {
        // Dropped after the borrow ends: values may have destructors that use the socket, or panic.
        let own = self.owns.borrow_mut().remove(&key);
        drop_kept(own);
    }

    /// Counts a socket's unfinished handlers up or down; returns how many there are.
    fn count_handler(&self, owner: Owner, change: isize) -> usize {
        let mut running = self.running.borrow_mut();
        let count = running.entry(owner).or_default();
        *count = count.saturating_add_signed(change);
        let count = *count;
        self.tasks.set(self.tasks.get().saturating_add_signed(change));
        if count == 0 {
            running.remove(&owner);
        }
        count
    }

    pub(crate) fn new_token(&self) -> u64 {
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        token
    }

    /// Keeps a place for the answer with that token.
    pub(crate) fn expect_ack(&self, token: u64) {
        self.acks.borrow_mut().insert(token, AckSlot::default());
    }

    /// Nobody waits for this answer any more; true if it had not come yet.
    pub(crate) fn forget_ack(&self, token: u64) -> bool {
        let slot = self.acks.borrow_mut().remove(&token);
        slot.is_some_and(|slot| slot.outcome.is_none())
    }

    fn answer_ack(&self, token: u64, outcome: Result<Arguments, AckLost>) {
        let waker = match self.acks.borrow_mut().get_mut(&token) {
            Some(slot) => {
                slot.outcome = Some(outcome.map(Raw::from));
                slot.waker.take()
            }
            // Nobody waits any more.
            None => None,
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn poll_ack(&self, token: u64, cx: &mut Context<'_>) -> Poll<Result<Raw, AckLost>> {
        let mut acks = self.acks.borrow_mut();
        let Some(slot) = acks.get_mut(&token) else {
            return Poll::Ready(Err(AckLost::Disconnected));
        };
        match slot.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Does what mail asks for that needs no ring.
    pub(crate) fn handle(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Publish(publish, made) => self.publish_here(&publish, made),
            Mail::Ask(ask) => self.ask(ask),
            Mail::Recover(parts) => {
                let (message, kept) = *parts;
                let data = kept.map(|sent| Rc::new(Kept::from(sent)) as Data);
                self.hub().handle_recovery(message, data);
            }
            Mail::Call(call) => call(self),
            // Dropping the descriptor closes it; its session lives elsewhere.
            Mail::Adopt(_) => {}
        }
    }

    /// Sends a broadcast and keeps the place for what its receivers answer.
    fn ask(&self, ask: mesh::Ask) {
        let mesh::Ask { publish, id, timeout_ms, part } = ask;
        let key = self.hub().ask(&publish, id, timeout_ms);
        self.asks.borrow_mut().insert(id, (key, part));
    }

    fn answer_ask(&self, id: u64, answers: Answers) {
        let asked = self.asks.borrow_mut().remove(&id);
        if let Some((_, part)) = asked {
            part.put(answers);
        }
    }

    /// Nobody waits for the answers to this broadcast any more.
    pub(crate) fn cancel_ask(&self, id: u64) {
        let asked = self.asks.borrow_mut().remove(&id);
        if let Some((key, _)) = asked {
            self.hub().cancel_ask(key);
        }
    }

    /// Applies a broadcast here and posts it to the other shards.
    pub(crate) fn publish(&self, publish: crate::hub::Publish) -> Result<(), Error> {
        let only = publish.target.only.map(|id| id.shard);
        let (publish, now) = (Arc::new(publish), Instant::now());
        if only.is_none_or(|only| only == self.index) {
            self.publish_here(&publish, now);
            self.wake();
        }
        let shards = among(only, self.spec().shards);
        let others = shards.filter(|shard| *shard != self.index);
        // All are tried, whatever one of them answers.
        others
            .map(|shard| self.post(shard, Mail::Publish(publish.clone(), now)))
            .fold(Ok(()), Result::and)
    }
}
