//! One io_uring of a shard: listeners, connections as file descriptors, and the buffers that
//! the kernel reads and writes.
//!
//! It owns every descriptor given to it and every byte the kernel may touch. Bytes come in
//! through a ring of provided buffers that all connections share, so an idle connection holds
//! none; a received buffer is lent to the caller's callback and goes back to the kernel after
//! it. Bytes go out as [`SendBuf`]s, which stay in a table here until the kernel is done.
//!
//! ```text
//!  listen, adopt, receive_*, send, close          turn(callback)
//!        │ one entry each                              ▲ one Completion each
//!        ▼                                             │
//!  [submission queue] ── enter ──▶ kernel ──▶ [completion queue]
//!        │ full: enter, then backlog                   │ full: kept by the kernel (NODROP)
//! ```
//!
//! It never blocks, knows no protocol word, reads no clock, and never cancels an operation: a
//! ring has 256 buckets to search them in, so with many connections a cancellation is a long
//! walk. Shutting a socket down ends its operations instead, one by one and in order.
//!
//! This is the only file of the crate with `unsafe`. The rules it leans on are those of
//! io_uring(7): memory named in an entry stays where it is until the completion without the
//! MORE flag, and a provided buffer is ours from its completion until the tail of the buffer
//! ring has moved past it again.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use std::{mem, ptr, slice};

use glommio::io::BufferedFile;
use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::hub::buffer::{Owned, SendBuf};

/// Sizes of a [`Ring`].
#[derive(Debug, Clone, Copy)]
pub struct RingConfig {
    /// Entries of the submission queue. Default 4,096 (256 KiB). More queued entries cost an
    /// extra system call, nothing else.
    pub submissions: u32,
    /// Entries of the completion queue, at least `submissions`. Default 16,384 (256 KiB). More
    /// completions wait in the kernel's memory, at the cost of an allocation each.
    pub completions: u32,
    /// Provided receive buffers, a power of two up to 32,768. Default 1,024. When all are
    /// filled, receives wait until some were handled.
    pub buffers: u16,
    /// Size of a receive buffer, which is also the most one `Received` carries. Default 2,048.
    pub buffer_bytes: u32,
}

impl Default for RingConfig {
    fn default() -> Self {
        RingConfig { submissions: 4_096, completions: 16_384, buffers: 1_024, buffer_bytes: 2_048 }
    }
}

/// What a turn reports.
#[derive(Debug)]
pub enum Completion<'a> {
    /// A new connection.
    Accepted {
        /// Non-blocking; [`Ring::adopt`] it or drop it.
        fd: OwnedFd,
        /// Which listener it came by, counted from the first [`Ring::listen`].
        listener: u32,
    },
    /// A listener has stopped accepting (EMFILE, ENFILE, ENOMEM and the like). Nothing is
    /// retried before [`Ring::resume_accept`]; wait about 100 ms first.
    AcceptFailed(io::Error),
    /// Bytes have come in. They may be changed in place; they are gone after the callback.
    Received {
        /// The connection.
        conn: u32,
        /// 1 to [`RingConfig::buffer_bytes`] bytes.
        bytes: &'a mut [u8],
    },
    /// The peer will send no more: end of stream (`None`) or an error such as ECONNRESET. At most
    /// once per connection, and no receive is armed any more. Sending may still be possible.
    PeerClosed {
        /// The connection.
        conn: u32,
        /// `None` for an orderly end.
        error: Option<io::Error>,
    },
    /// The buffer of a [`Ring::send`] has left completely, or the connection is broken.
    Sent {
        /// The connection.
        conn: u32,
        /// The length of the whole buffer.
        result: io::Result<usize>,
    },
    /// A closed connection has left the kernel; its number may be used again. Always the last.
    Closed {
        /// The connection.
        conn: u32,
    },
}

/// Wakes the thread of a ring that waits, by an eventfd that the ring polls. Any thread may hold
/// one.
#[derive(Debug, Clone)]
pub struct Doorbell(Arc<File>);

impl Doorbell {
    /// Completes an operation of the ring. A system call: leave it out while the shard is awake.
    pub fn ring(&self) {
        // Nothing can fail here but EAGAIN on a counter that is full, and then it is readable.
        let _ = (&*self.0).write(&1u64.to_ne_bytes());
    }
}

/// A connection: 8 bytes, and no more while it is idle.
#[derive(Debug, Default)]
struct Conn {
    /// None in a free slot, and from the moment of closing until `Closed` is reported.
    fd: Option<OwnedFd>,
    /// Bits below; 0 in a free slot.
    flags: u16,
}

const _: () = assert!(mem::size_of::<Conn>() == 8);

/// A receive is in the submission queue or in the kernel.
const RECEIVING: u16 = 1 << 0;
/// A send is.
const SENDING: u16 = 1 << 1;
/// The receive asked for is a multishot one.
const MANY: u16 = 1 << 2;
/// The receive asked for is not armed, and is in `starved` to be armed again.
const STARVED: u16 = 1 << 3;
/// The end of the stream was reported.
const ENDED: u16 = 1 << 4;
/// `close` was called: nothing but `Closed` is reported any more.
const CLOSING: u16 = 1 << 5;
/// The conn is in `closing`, to be shut down after the next submission.
const SHUTTING: u16 = 1 << 6;
/// FIN follows when the send in flight is done.
const FINISHING: u16 = 1 << 7;

/// A send in flight. The table of these is as long as there ever were sends in flight at a time.
#[derive(Debug)]
struct Sending {
    /// The kernel reads from it; neither moved in memory nor freed before the completion.
    buf: SendBuf,
    /// 0 ≤ sent ≤ buf.len().
    sent: usize,
    conn: u32,
}

#[derive(Debug)]
struct Listener {
    /// None after `stop_listening`, once no accept is in the kernel.
    socket: Option<TcpListener>,
    /// An accept is in the submission queue or in the kernel.
    armed: bool,
    /// Connections that still come in are closed.
    stopping: bool,
}

/// Top byte of an entry's user data; below it stands the index of a listener, connection or send.
const KIND: u64 = 0xff << 56;
const ACCEPT: u64 = 1 << 56;
const RECEIVE: u64 = 2 << 56;
const SEND: u64 = 3 << 56;
const BELL: u64 = 4 << 56;

/// The buffer group that receives choose from.
const GROUP: u16 = 0;
/// Enters per turn at most, while each makes room or brings in more.
const ROUNDS: usize = 16;
/// The most that one send operation is asked for; longer buffers take several. An operation that
/// has waited 128 times for room is handed to a thread of the kernel's, which blocks until the
/// peer has read it all. Up to this size an operation is done long before.
const SEND_BYTES_MAX: usize = 128 << 10;

/// The io_uring of one shard. Used by the thread that made it, and no other.
pub struct Ring {
    /// Declared first, so that it is closed before any memory it knows is freed.
    io: IoUring,
    /// What [`Doorbell`]s write to; only polled, never read, so that a bell is never missed.
    bell: Arc<File>,
    bell_armed: bool,
    /// Readable when something completes while notification is on.
    event: File,
    /// Shared with a running `turn` only, which lends the buffers to its callback.
    buffers: Rc<Buffers>,
    /// Indexed by the caller's number.
    conns: Vec<Conn>,
    /// Connections in `conns`, closing ones included.
    open: usize,
    sends: Vec<Sending>,
    /// Indices into `sends` that are free.
    sends_free: Vec<u32>,
    listeners: Vec<Listener>,
    /// Operations in the backlog, in the submission queue or in the kernel.
    operations: usize,
    /// Entries that found the submission queue full and the kernel not taking any.
    backlog: VecDeque<squeue::Entry>,
    /// Completions taken from the queue; those before `batch_next` have been handled.
    batch: Vec<cqueue::Entry>,
    batch_next: usize,
    /// Completions of receives for [`Ring::read`], with their buffers: so at most as many as there
    /// are buffers, and one more for each connection.
    unread: VecDeque<cqueue::Entry>,
    is_input_held: bool,
    /// Receives that ran out of buffers or that the kernel ended; first come, first served.
    starved: VecDeque<u32>,
    /// Closing connections with operations, to be shut down after the next submission.
    closing: Vec<u32>,
    /// Connections whose `Closed` is still to be reported.
    closed: Vec<u32>,
    /// Errors that the next enters return instead of being made.
    #[cfg(test)]
    faults: VecDeque<i32>,
}

impl Ring {
    /// Sets the ring up for the calling thread, with notification off (as after `unpark`).
    ///
    /// # Errors
    /// The text says what to change when the system refuses io_uring or its memory.
    pub fn new(config: &RingConfig) -> io::Result<Ring> {
        if !config.buffers.is_power_of_two() || config.buffers > 1 << 15 || config.buffer_bytes == 0
        {
            let text = "receive buffers: their number must be a power of two up to 32,768";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ring::with(build(config).map_err(explain)?, config)
    }

    fn with(mut io: IoUring, config: &RingConfig) -> io::Result<Ring> {
        let (bell, event) = (Arc::new(eventfd()?), eventfd()?);
        io.completion().disable_eventfd();
        io.submitter().register_eventfd(event.as_raw_fd()).map_err(explain)?;
        let buffers = Rc::new(Buffers::new(&io, config).map_err(explain)?);
        Ok(Ring {
            io,
            bell,
            bell_armed: false,
            event,
            buffers,
            conns: Vec::new(),
            open: 0,
            sends: Vec::new(),
            sends_free: Vec::new(),
            listeners: Vec::new(),
            operations: 0,
            backlog: VecDeque::new(),
            batch: Vec::new(),
            batch_next: 0,
            unread: VecDeque::new(),
            is_input_held: false,
            starved: VecDeque::new(),
            closing: Vec::new(),
            closed: Vec::new(),
            #[cfg(test)]
            faults: VecDeque::new(),
        })
    }

    /// A handle that other threads wake this ring's thread with.
    pub fn doorbell(&self) -> Doorbell {
        Doorbell(self.bell.clone())
    }

    /// The eventfd as a file of this thread's executor: between [`Ring::prepare_park`] and
    /// [`Ring::unpark`], reading 8 bytes from it sleeps until something completes.
    pub fn sleeper(&self) -> io::Result<BufferedFile> {
        let fd = OwnedFd::from(self.event.try_clone()?).into_raw_fd();
        // SAFETY: the descriptor is a duplicate of ours and open; the file becomes its only owner.
        Ok(unsafe { BufferedFile::from_raw_fd(fd) })
    }

    /// Ends a read of [`Ring::sleeper`] that is still going on.
    pub fn wake_sleeper(&self) {
        let _ = (&self.event).write(&1u64.to_ne_bytes());
    }

    /// Accepts from `listener` until [`Ring::stop_listening`].
    pub fn listen(&mut self, listener: TcpListener) {
        self.listeners.push(Listener { socket: Some(listener), armed: false, stopping: false });
        self.accept(self.listeners.len() as u32 - 1);
    }

    /// Accepts again where it stopped with [`Completion::AcceptFailed`].
    pub fn resume_accept(&mut self) {
        for index in 0..self.listeners.len() as u32 {
            self.accept(index);
        }
    }

    /// Closes the listeners. What they still accept in the meantime is closed at once.
    pub fn stop_listening(&mut self) {
        for listener in &mut self.listeners {
            listener.stopping = true;
            if !listener.armed {
                listener.socket = None;
            } else if let Some(socket) = &listener.socket {
                // A listening socket leaves its state, and the accept ends with EINVAL.
                let _ = SockRef::from(socket).shutdown(Shutdown::Both);
            }
        }
    }

    /// Takes a connection under a number of the caller's, which must be free. Nothing is received
    /// before one of the `receive` calls.
    pub fn adopt(&mut self, conn: u32, fd: OwnedFd) {
        let index = conn as usize;
        if index >= self.conns.len() {
            self.conns.resize_with(index + 1, Conn::default);
        }
        let slot = &mut self.conns[index];
        assert!(slot.fd.is_none() && slot.flags == 0, "connection {conn} is not free");
        slot.fd = Some(fd);
        self.open += 1;
    }

    /// Receives once: exactly one `Received` or `PeerClosed` follows, unless `close` comes first.
    pub fn receive_once(&mut self, conn: u32) {
        self.receive(conn, 0);
    }

    /// Receives until the peer ends, in as many `Received` as it takes.
    pub fn receive_many(&mut self, conn: u32) {
        self.receive(conn, MANY);
    }

    /// Sends the whole of `buf`, then reports `Sent`. One at a time per connection. The buffer
    /// is dropped when the kernel is done with it; at once if the connection is closing.
    pub fn send(&mut self, conn: u32, buf: SendBuf) {
        let Some(slot) = self.usable(conn) else { return };
        debug_assert!(slot.flags & SENDING == 0, "one send at a time per connection");
        slot.flags |= SENDING;
        let sending = Sending { buf, sent: 0, conn };
        let index = match self.sends_free.pop() {
            Some(index) => {
                self.sends[index as usize] = sending;
                index
            }
            None => {
                self.sends.push(sending);
                self.sends.len() as u32 - 1
            }
        };
        self.push_send(index);
    }

    /// Ends our direction (FIN) after what was sent. Receiving goes on.
    pub fn shutdown_write(&mut self, conn: u32) {
        let Some(slot) = self.usable(conn) else { return };
        if slot.flags & SENDING != 0 {
            slot.flags |= FINISHING;
        } else if let Some(fd) = &slot.fd {
            // ENOTCONN means that the peer was faster; the receive tells.
            let _ = SockRef::from(fd).shutdown(Shutdown::Write);
        }
    }

    /// Ends both directions and lets the connection go; `Closed` follows, and nothing else.
    ///
    /// A send that is in flight still leaves if the socket has room for it; what it has no room
    /// for is lost. Bytes that come in unread make the kernel reset the connection, as with
    /// close(2), and a reset may overtake what was sent. For an orderly end: `shutdown_write`,
    /// wait for `PeerClosed` within bounds, `close`.
    pub fn close(&mut self, conn: u32) {
        let Some(slot) = self.usable(conn) else { return };
        slot.flags |= CLOSING;
        if slot.flags & (RECEIVING | SENDING) == 0 {
            slot.fd = None;
            self.closed.push(conn);
        } else {
            slot.flags |= SHUTTING;
            self.closing.push(conn);
        }
    }

    /// Gives the descriptor back, for another shard. `None` unless [`Ring::is_idle`]. The number
    /// is free at once, and no `Closed` follows.
    pub fn release(&mut self, conn: u32) -> Option<OwnedFd> {
        if !self.is_idle(conn) {
            return None;
        }
        let slot = &mut self.conns[conn as usize];
        slot.flags = 0;
        self.open -= 1;
        slot.fd.take()
    }

    /// Whether `conn` is a connection with no receive or send asked for, and not closing.
    pub fn is_idle(&self, conn: u32) -> bool {
        let busy = RECEIVING | SENDING | STARVED | CLOSING;
        self.conns.get(conn as usize).is_some_and(|c| c.fd.is_some() && c.flags & busy == 0)
    }

    /// Whether the latest receive that was asked for is one of many.
    pub fn receives_many(&self, conn: u32) -> bool {
        self.conns.get(conn as usize).is_some_and(|conn| conn.flags & MANY != 0)
    }

    /// Connections held, closing ones included.
    #[cfg(test)]
    pub fn open(&self) -> usize {
        self.open
    }

    /// Submits what is queued, then reports what has completed, one call of `on` each: all but what
    /// came in on connections, which is for [`Ring::read`]. Never waits. Returns how many
    /// completions were handled; some are of no interest to `on`.
    ///
    /// # Errors
    /// Only what makes the ring unusable. Passing shortages are retried in the next turn.
    pub fn turn(&mut self, mut on: impl FnMut(&mut Ring, Completion<'_>)) -> io::Result<usize> {
        // Held until the end, so that lent bytes outlive whatever `on` does to its `&mut Ring`.
        let buffers = Rc::clone(&self.buffers);
        self.rearm_starved();
        self.arm_bell();
        self.submit()?;
        if self.batch_next == self.batch.len() {
            self.batch.clear();
            self.batch_next = 0;
            for cqe in self.io.completion() {
                let is_input = cqe.user_data() & KIND == RECEIVE;
                if is_input { self.unread.push_back(cqe) } else { self.batch.push(cqe) }
            }
        }
        let mut handled = 0;
        while let Some(cqe) = self.batch.get(self.batch_next).cloned() {
            self.batch_next += 1;
            if cqe.user_data() & KIND == BELL {
                self.bell_armed = cqueue::more(cqe.flags());
                continue;
            }
            handled += 1;
            self.complete(&cqe, &buffers, &mut on);
        }
        buffers.publish();
        // Connections that `on` closes from here on are reported in the next turn.
        for conn in mem::take(&mut self.closed) {
            handled += 1;
            self.free(conn);
            on(self, Completion::Closed { conn });
        }
        Ok(handled)
    }

    /// Reports what has come in on connections, in order, as long as `on` wants more. The rest
    /// waits here; what finds no buffer then waits in the kernel, and peers for whose bytes it has
    /// no more room wait as well. Returns how many completions were handled.
    pub fn read(&mut self, mut on: impl FnMut(&mut Ring, Completion<'_>) -> bool) -> usize {
        let buffers = Rc::clone(&self.buffers);
        let (mut handled, mut wants_more) = (0, true);
        while wants_more && let Some(cqe) = self.unread.pop_front() {
            handled += 1;
            self.complete(&cqe, &buffers, &mut |ring: &mut Ring, completion: Completion<'_>| {
                wants_more = on(ring, completion);
            });
        }
        buffers.publish();
        handled
    }

    /// Whether everything was read that had come in when the last turn began.
    pub fn has_read_all(&self) -> bool {
        self.unread.is_empty() && self.starved.is_empty()
    }

    /// Says whether what has come in is left unread on purpose, so that it is no reason to stay
    /// awake.
    pub fn hold_input(&mut self, is_held: bool) {
        self.is_input_held = is_held;
    }

    /// Sleeps in the kernel until something completes, a [`Doorbell`] rings, or `timeout` has
    /// passed; not at all when there is something to do. For a thread that has nothing else to
    /// wait for: one system call, where sleeping on the eventfd through an executor takes many.
    ///
    /// # Errors
    /// Only what makes the ring unusable.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.rearm_starved();
        self.arm_bell();
        self.submit()?;
        if self.has_work() {
            return Ok(());
        }
        let limit = timeout.map(Timespec::from);
        let arguments =
            limit.as_ref().map_or(SubmitArgs::new(), |limit| SubmitArgs::new().timespec(limit));
        match self.io.submitter().submit_with_args(1, &arguments) {
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(()),
            Err(error) => tolerate(error),
            Ok(_) => Ok(()),
        }
    }

    /// Polls the doorbell, for as many rings as the kernel reports with one operation.
    fn arm_bell(&mut self) {
        if !self.bell_armed {
            let bell = Fd(self.bell.as_raw_fd());
            let entry = opcode::PollAdd::new(bell, libc::POLLIN as u32).multi(true).build();
            self.bell_armed = self.try_push(&entry.user_data(BELL));
        }
    }

    /// Call before sleeping on the eventfd. Submits everything and turns notification on. False
    /// when there is something to do already; then notification stays off: do a turn.
    pub fn prepare_park(&mut self) -> bool {
        self.rearm_starved();
        self.arm_bell();
        if self.submit().is_err() || self.has_work() {
            return false;
        }
        // From here on what completes rings; what completed before shows up by this enter, which
        // also is the barrier between our write of the flag and the kernel's reading it.
        self.io.completion().enable_eventfd();
        if self.enter(EnterFlags::GETEVENTS).is_err() || self.has_work() {
            self.unpark();
            return false;
        }
        true
    }

    /// Call after sleeping: turns notification off, which costs one write to shared memory.
    pub fn unpark(&mut self) {
        self.io.completion().disable_eventfd();
    }

    /// The connection, if it is one and not closing.
    fn usable(&mut self, conn: u32) -> Option<&mut Conn> {
        let slot = self.conns.get_mut(conn as usize)?;
        (slot.fd.is_some() && slot.flags & CLOSING == 0).then_some(slot)
    }

    fn receive(&mut self, conn: u32, many: u16) {
        let Some(slot) = self.usable(conn) else { return };
        debug_assert!(slot.flags & (RECEIVING | STARVED) == 0, "one receive at a time");
        if slot.flags & (RECEIVING | STARVED | ENDED) != 0 {
            return;
        }
        slot.flags = slot.flags & !MANY | many;
        self.push_receive(conn);
    }

    /// Arms the receive that the slot's flags ask for.
    fn push_receive(&mut self, conn: u32) {
        let slot = &mut self.conns[conn as usize];
        let Some(fd) = &slot.fd else { return };
        let fd = Fd(fd.as_raw_fd());
        slot.flags |= RECEIVING;
        let entry = if slot.flags & MANY != 0 {
            opcode::RecvMulti::new(fd, GROUP).build()
        } else {
            // Length 0 means: as much as the chosen buffer holds.
            let receive = opcode::Recv::new(fd, ptr::null_mut(), 0).buf_group(GROUP).build();
            receive.flags(squeue::Flags::BUFFER_SELECT)
        };
        self.push(entry.user_data(RECEIVE | u64::from(conn)));
    }

    /// Sends what is left of `sends[index]`.
    fn push_send(&mut self, index: u32) {
        let Sending { buf, sent, conn } = &self.sends[index as usize];
        let (address, left) = match buf {
            SendBuf::Shared { chunk, start, end } => {
                let cells = chunk.cells(start + *sent as u32, *end);
                (cells.as_ptr().cast::<u8>(), cells.len())
            }
            SendBuf::Owned(bytes) => (bytes[*sent..].as_ptr(), bytes.len() - sent),
        };
        let Some(fd) = &self.conns[*conn as usize].fd else { return };
        let length = left.min(SEND_BYTES_MAX) as u32;
        let entry = opcode::Send::new(Fd(fd.as_raw_fd()), address, length)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry.user_data(SEND | u64::from(index)));
    }

    /// Arms the accept of a listener that has none and is not stopping.
    fn accept(&mut self, index: u32) {
        let listener = &mut self.listeners[index as usize];
        if listener.armed || listener.stopping {
            return;
        }
        let Some(socket) = &listener.socket else { return };
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let entry = opcode::AcceptMulti::new(Fd(socket.as_raw_fd())).flags(flags).build();
        listener.armed = true;
        self.push(entry.user_data(ACCEPT | u64::from(index)));
    }

    /// Queues an operation that was not counted yet.
    fn push(&mut self, entry: squeue::Entry) {
        self.operations += 1;
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        // Hand over what is queued, without running completions: there may be a callback above.
        if self.backlog.is_empty() {
            let _ = self.enter(EnterFlags::empty());
            if self.try_push(&entry) {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: what the entry names outlives the operation. Send memory: `sends` keeps the
        // SendBuf, whose bytes have a fixed address on the heap, until the completion is
        // handled, and `drop` leaks it if that never comes. Descriptors: a Conn or Listener
        // with an operation keeps its own. Receives name no memory but the group of `buffers`.
        unsafe { self.io.submission().push(entry) }.is_ok()
    }

    /// Hands queued entries to the kernel and lets it do its deferred work, as long as it has
    /// some, within bounds.
    fn submit(&mut self) -> io::Result<()> {
        for _ in 0..ROUNDS {
            while let Some(entry) = self.backlog.pop_front() {
                if !self.try_push(&entry) {
                    self.backlog.push_front(entry);
                    break;
                }
            }
            let sq = self.io.submission();
            if sq.is_empty() && !sq.taskrun() && !sq.cq_overflow() && self.closing.is_empty() {
                break;
            }
            drop(sq);
            self.enter(EnterFlags::GETEVENTS)?;
            self.shut_down_closing();
            let cq = self.io.completion();
            if cq.len() >= cq.capacity() / 2 {
                break;
            }
        }
        Ok(())
    }

    /// One io_uring_enter, which submits. With GETEVENTS it also runs deferred work and brings
    /// overflown completions in.
    fn enter(&mut self, flags: EnterFlags) -> io::Result<()> {
        let queued = self.io.submission().len() as u32;
        #[cfg(test)]
        if let Some(errno) = self.faults.pop_front() {
            return tolerate(io::Error::from_raw_os_error(errno));
        }
        let submitter = self.io.submitter();
        // SAFETY: no argument is passed that the kernel would read through (a null signal mask),
        // `queued` entries are in the queue, and waiting for 0 completions never blocks.
        match unsafe { submitter.enter::<libc::sigset_t>(queued, 0, flags.bits(), None) } {
            Ok(_) => Ok(()),
            Err(error) => tolerate(error),
        }
    }

    /// Whether a turn would find something to do.
    fn has_work(&mut self) -> bool {
        let sq = self.io.submission();
        let queued = !sq.is_empty() || sq.taskrun() || sq.cq_overflow();
        drop(sq);
        queued
            || !self.io.completion().is_empty()
            || self.batch_next < self.batch.len()
            || !self.backlog.is_empty()
            || (!self.is_input_held && !self.has_read_all())
            || !self.closing.is_empty()
            || !self.closed.is_empty()
    }

    /// Shuts closing connections down, so that their operations end. Done after a submission:
    /// a send queued just before the close has then been tried.
    fn shut_down_closing(&mut self) {
        for conn in self.closing.drain(..) {
            let slot = &mut self.conns[conn as usize];
            if let (Some(fd), true) = (&slot.fd, slot.flags & SHUTTING != 0) {
                slot.flags &= !SHUTTING;
                // ENOTCONN after a reset: then the operations have ended by themselves.
                let _ = SockRef::from(fd).shutdown(Shutdown::Both);
            }
        }
    }

    /// Arms receives again that ended for want of a buffer. Those that are not unread have been
    /// returned, so as many may find one; the others wait for a later turn.
    fn rearm_starved(&mut self) {
        let free = usize::from(self.buffers.count).saturating_sub(self.unread.len());
        for _ in 0..self.starved.len().min(free) {
            let Some(conn) = self.starved.pop_front() else { return };
            let slot = &mut self.conns[conn as usize];
            // The slot may have been closed or released, and taken again, since.
            if slot.flags & STARVED != 0 {
                slot.flags &= !STARVED;
                self.push_receive(conn);
            }
        }
    }

    /// Handles one completion.
    fn complete(
        &mut self,
        cqe: &cqueue::Entry,
        buffers: &Buffers,
        on: &mut impl FnMut(&mut Ring, Completion<'_>),
    ) {
        let (index, result, more) =
            (cqe.user_data() as u32, cqe.result(), cqueue::more(cqe.flags()));
        if !more {
            self.operations -= 1;
        }
        let completion = match cqe.user_data() & KIND {
            ACCEPT => self.accepted(index, result, more),
            SEND => self.sent(index, result),
            _ => {
                let buffer = cqueue::buffer_select(cqe.flags());
                let completion = self.received(index, result, more);
                if let (Some(buffer), None, true) = (buffer, &completion, result > 0)
                    && self.conns[index as usize].flags & CLOSING == 0
                {
                    // SAFETY: the completion made this buffer ours until `give_back` below,
                    // with `result` bytes written; the slice is gone when `on` returns.
                    let bytes = unsafe { buffers.bytes(buffer, result as usize) };
                    on(self, Completion::Received { conn: index, bytes });
                }
                if let Some(buffer) = buffer {
                    buffers.give_back(buffer);
                }
                completion
            }
        };
        if let Some(completion) = completion {
            on(self, completion);
        }
    }

    fn accepted(&mut self, index: u32, result: i32, more: bool) -> Option<Completion<'static>> {
        // SAFETY: a result of accept that is no error is a new descriptor, nobody else's.
        let fd = (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) });
        let listener = &mut self.listeners[index as usize];
        listener.armed &= more;
        if listener.stopping {
            if !listener.armed {
                listener.socket = None;
            }
            return None;
        }
        if let Some(fd) = fd {
            self.accept(index);
            return Some(Completion::Accepted { fd, listener: index });
        }
        match -result {
            // These concern one connection, which has gone; the listener is well.
            libc::ECONNABORTED | libc::ECONNRESET | libc::EINTR | libc::EAGAIN => {
                self.accept(index);
                None
            }
            errno => Some(Completion::AcceptFailed(io::Error::from_raw_os_error(errno))),
        }
    }

    /// The state after a receive's completion; `None` with `result > 0` means: report the bytes.
    fn received(&mut self, conn: u32, result: i32, more: bool) -> Option<Completion<'static>> {
        let slot = &mut self.conns[conn as usize];
        if more {
            return None;
        }
        slot.flags &= !RECEIVING;
        if slot.flags & CLOSING != 0 {
            return self.finish(conn);
        }
        let again = match -result {
            libc::ENOBUFS | libc::EINTR | libc::EAGAIN => true,
            _ => result > 0 && slot.flags & MANY != 0,
        };
        if again {
            slot.flags |= STARVED;
            self.starved.push_back(conn);
            return None;
        }
        if result > 0 {
            return None;
        }
        slot.flags |= ENDED;
        let error = (result < 0).then(|| io::Error::from_raw_os_error(-result));
        Some(Completion::PeerClosed { conn, error })
    }

    fn sent(&mut self, index: u32, result: i32) -> Option<Completion<'static>> {
        let sending = &mut self.sends[index as usize];
        let conn = sending.conn;
        let slot = &mut self.conns[conn as usize];
        let passing = result == -libc::EINTR || result == -libc::EAGAIN;
        sending.sent += result.max(0) as usize;
        let left = sending.buf.len() - sending.sent;
        if slot.flags & CLOSING == 0 && left > 0 && (result > 0 || passing) {
            self.push_send(index);
            return None;
        }
        let sending = Sending { buf: SendBuf::Owned(Owned::default()), sent: 0, conn };
        let done = mem::replace(&mut self.sends[index as usize], sending);
        self.sends_free.push(index);
        slot.flags &= !SENDING;
        if slot.flags & CLOSING != 0 {
            return self.finish(conn);
        }
        if slot.flags & FINISHING != 0 {
            slot.flags &= !FINISHING;
            self.shutdown_write(conn);
        }
        let result = match result {
            errno if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
            _ if left > 0 => Err(io::ErrorKind::WriteZero.into()),
            _ => Ok(done.sent),
        };
        Some(Completion::Sent { conn, result })
    }

    /// Closes the descriptor of a closing connection after its last operation.
    fn finish(&mut self, conn: u32) -> Option<Completion<'static>> {
        if self.conns[conn as usize].flags & (RECEIVING | SENDING) != 0 {
            return None;
        }
        self.free(conn);
        Some(Completion::Closed { conn })
    }

    /// Makes a slot free for `adopt`.
    fn free(&mut self, conn: u32) {
        self.conns[conn as usize] = Conn::default();
        self.open -= 1;
    }
}

/// Rounds of 50 ms without any completion after which a dropped ring gives up.
const DRAIN_ROUNDS: usize = 20;

/// Ends every operation before any memory is freed.
///
/// Closing the ring's descriptor would not do: the kernel cancels what is left in its own time,
/// and until then a receive may write into a provided buffer and a send may read its bytes. So
/// all sockets with operations are shut down, which makes each operation end, and the completions
/// are awaited. When the count of operations is 0, the kernel knows none of our memory but the
/// buffer ring, which ends with the ring (field `io` is dropped first). If they do not end in
/// time, the memory is leaked: a leak is the lesser evil, and nothing is known to cause it.
impl Drop for Ring {
    fn drop(&mut self) {
        self.operations -= self.backlog.len();
        self.stop_listening();
        for conn in &self.conns {
            if let (Some(fd), true) = (&conn.fd, conn.flags & (RECEIVING | SENDING) != 0) {
                let _ = SockRef::from(fd).shutdown(Shutdown::Both);
            }
        }
        let mut quiet = 0;
        let mut batch = self.batch.split_off(self.batch_next);
        batch.extend(self.unread.drain(..));
        while self.operations > 0 && quiet < DRAIN_ROUNDS {
            batch.extend(self.io.completion());
            quiet = if batch.is_empty() { quiet + 1 } else { 0 };
            for cqe in batch.drain(..) {
                self.operations -= usize::from(!cqueue::more(cqe.flags()));
                if cqe.user_data() & KIND == ACCEPT && cqe.result() >= 0 {
                    // SAFETY: an accepted descriptor, nobody else's; closed right here.
                    drop(unsafe { OwnedFd::from_raw_fd(cqe.result()) });
                }
            }
            if self.operations > 0 {
                let wait = Timespec::new().nsec(50_000_000);
                // Its errors (ETIME, EINTR, EAGAIN) all mean: look again.
                let _ = self.io.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&wait));
            }
        }
        if self.operations > 0 {
            log::error!("ring: {} operations did not end, memory is leaked", self.operations);
            mem::forget(Rc::clone(&self.buffers));
            mem::forget(mem::take(&mut self.sends));
        }
    }
}

/// The provided buffers: one mapping with the ring of entries in front, the bytes behind.
///
/// ```text
///  entry 0 │ entry 1 │ … │ pad to a page │ buffer 0 │ buffer 1 │ …
///  └ its last two bytes are the tail: entries below it belong to the kernel
/// ```
#[derive(Debug)]
struct Buffers {
    map: *mut u8,
    map_bytes: usize,
    /// Start of buffer 0, relative to `map`.
    offset: usize,
    /// A power of two. Each buffer is in one place at a time: an entry, the kernel, or a
    /// completion; so entries never overrun.
    count: u16,
    /// Of each buffer.
    bytes: u32,
    /// Where the next entry goes, before masking. The kernel sees it in `publish`.
    tail: Cell<u16>,
}

impl Buffers {
    /// Maps the memory, gives all buffers to the kernel and registers the group.
    fn new(io: &IoUring, config: &RingConfig) -> io::Result<Buffers> {
        let count = config.buffers;
        let entries = usize::from(count) * mem::size_of::<BufRingEntry>();
        let offset = entries.next_multiple_of(4096);
        let map_bytes = offset + usize::from(count) * config.buffer_bytes as usize;
        // SAFETY: a new anonymous mapping, at an address of the kernel's choice, overlaps nothing.
        // MAP_POPULATE touches every page once, so that memory use is steady from the start.
        let map = unsafe {
            libc::mmap(
                ptr::null_mut(),
                map_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = map.cast::<u8>();
        let bytes = config.buffer_bytes;
        let buffers = Buffers { map, map_bytes, offset, count, bytes, tail: Cell::new(0) };
        for buffer in 0..count {
            buffers.give_back(buffer);
        }
        // SAFETY: `map` is page-aligned, holds `count` entries, and lives until after the ring
        // (order of fields, and the reference that `drop` leaks otherwise).
        unsafe { io.submitter().register_buf_ring_with_flags(map as u64, count, GROUP, 0)? };
        buffers.publish();
        Ok(buffers)
    }

    /// Writes the next entry; the kernel does not look at it before `publish`.
    fn give_back(&self, buffer: u16) {
        debug_assert!(buffer < self.count);
        let tail = self.tail.get();
        let address = self.map as usize + self.offset + self.bytes as usize * usize::from(buffer);
        // SAFETY: in bounds by the mask. Entries from the published tail on are not read by the
        // kernel, and nothing else refers to them. The setters leave the tail in entry 0 alone.
        let entry = unsafe {
            &mut *self.map.cast::<BufRingEntry>().add(usize::from(tail & (self.count - 1)))
        };
        entry.set_addr(address as u64);
        entry.set_len(self.bytes);
        entry.set_bid(buffer);
        self.tail.set(tail.wrapping_add(1));
    }

    /// Hands all entries written so far to the kernel, with one store.
    fn publish(&self) {
        // SAFETY: the tail lies in entry 0, aligned, inside the mapping, and is shared with the
        // kernel, which only reads it; Release makes the entries visible before it.
        unsafe {
            let tail = BufRingEntry::tail(self.map.cast::<BufRingEntry>());
            (*tail.cast::<AtomicU16>()).store(self.tail.get(), Ordering::Release);
        }
    }

    /// The first `len` bytes of a buffer.
    ///
    /// # Safety
    /// The buffer came with a completion and was not given back; the slice is the only one of it
    /// and ends before `give_back`.
    #[allow(clippy::mut_from_ref)]
    unsafe fn bytes(&self, buffer: u16, len: usize) -> &mut [u8] {
        let start = self.offset + self.bytes as usize * usize::from(buffer);
        assert!(buffer < self.count && len <= self.bytes as usize);
        // SAFETY: in bounds by the assertion; initialized, since mappings begin zeroed; exclusive
        // by the caller's promise.
        unsafe { slice::from_raw_parts_mut(self.map.add(start), len) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`. The ring was closed with no operation left, or a
        // reference was leaked and this is never reached; lent slices hold a reference too.
        unsafe { libc::munmap(self.map.cast(), self.map_bytes) };
    }
}

/// A blocking eventfd: a read of a non-blocking one through io_uring would return EAGAIN instead
/// of waiting.
fn eventfd() -> io::Result<File> {
    // SAFETY: eventfd(2) has no memory arguments.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(explain(io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Completions are made in any system call of this thread, without interrupting it. Making them
/// only when the thread fetches them (DEFER_TASKRUN) measured alike, but loses wake-ups: one enter
/// runs about 20 deferred items, and what is left over then rings no eventfd and sets no flag.
fn build(config: &RingConfig) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_submit_all().setup_single_issuer();
    builder.setup_coop_taskrun().setup_taskrun_flag().setup_cqsize(config.completions);
    builder.build(config.submissions)
}

/// Adds to an error of the set-up what to do about it.
fn explain(error: io::Error) -> io::Error {
    let advice = match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring; Linux 6.1 or newer is needed",
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is not permitted; look at the sysctl kernel.io_uring_disabled and at the \
             seccomp profile of the container"
        }
        Some(libc::ENOMEM) => "no memory for the ring; raise RLIMIT_MEMLOCK (LimitMEMLOCK=)",
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptors left; raise RLIMIT_NOFILE",
        Some(libc::EINVAL) => {
            "the kernel is older than 6.1, or sizes are wrong: submissions 1 to 32,768, \
             completions from there to 65,536"
        }
        _ => "setting up io_uring failed",
    };
    io::Error::new(error.kind(), format!("{advice}: {error}"))
}

/// Lets pass what a later enter puts right: a signal came first (EINTR), no memory for requests
/// right now (EAGAIN), or completions must be taken before more is submitted (EBUSY). Entries not
/// taken stay in the queue.
fn tolerate(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
        _ => Err(error),
    }
}

/// Listens on `address`, beside the other shards of this process and of others that do the same.
/// Accepted connections inherit TCP_NODELAY.
///
/// # Errors
/// What the system answers.
pub fn bind(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that lives during the call, given with its size.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_REUSEPORT,
            ptr::from_ref(&on).cast(),
            mem::size_of_val(&on) as libc::socklen_t,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests;
