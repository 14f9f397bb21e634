//! Real sockets on loopback. Small rings make the rare cases common. Nothing here depends on
//! time: a ring with nothing to do sleeps on its eventfd, and a test fails when nobody wakes it.

use super::*;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::hub::buffer::{Chunk, Meter};

/// Long enough for a loaded machine; only a failing test ever waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

const SMALL: RingConfig =
    RingConfig { submissions: 8, completions: 16, buffers: 4, buffer_bytes: 64 };

/// A completion that outlives its turn.
#[derive(Debug, Clone, PartialEq)]
enum Note {
    Accepted,
    AcceptFailed(i32),
    Received(u32, Vec<u8>),
    PeerClosed(u32, Option<ErrorKind>),
    Sent(u32, Result<usize, ErrorKind>),
    Closed(u32),
}

/// A ring and all that it has reported.
struct Rig {
    ring: Ring,
    notes: Vec<Note>,
    accepted: Vec<OwnedFd>,
    handled: usize,
}

impl Rig {
    fn new(config: &RingConfig) -> Rig {
        Rig::of(Ring::new(config).expect("ring"))
    }

    fn of(ring: Ring) -> Rig {
        Rig { ring, notes: Vec::new(), accepted: Vec::new(), handled: 0 }
    }

    /// A listener of this ring, and its address.
    fn listen(&mut self) -> SocketAddr {
        let listener = bind(loopback(), 4096).expect("bind");
        let address = listener.local_addr().expect("address");
        self.ring.listen(listener);
        address
    }

    fn turn(&mut self) -> usize {
        self.turn_reading(usize::MAX)
    }

    /// A turn that reads so many times at most.
    fn turn_reading(&mut self, mut max: usize) -> usize {
        let Rig { ring, notes, accepted, .. } = self;
        let mut on = |_: &mut Ring, completion: Completion<'_>| {
            let note = match completion {
                Completion::Accepted { fd, .. } => {
                    accepted.push(fd);
                    Note::Accepted
                }
                Completion::AcceptFailed(e) => Note::AcceptFailed(e.raw_os_error().unwrap_or(0)),
                Completion::Received { conn, bytes } => Note::Received(conn, bytes.to_vec()),
                Completion::PeerClosed { conn, error } => {
                    Note::PeerClosed(conn, error.map(|e| e.kind()))
                }
                Completion::Sent { conn, result } => Note::Sent(conn, result.map_err(|e| e.kind())),
                Completion::Closed { conn } => Note::Closed(conn),
            };
            notes.push(note);
        };
        let mut handled = ring.turn(&mut on).expect("turn");
        if max > 0 {
            handled += ring.read(|ring, completion| {
                on(ring, completion);
                max -= 1;
                max > 0
            });
        }
        self.handled += handled;
        handled
    }

    /// Turns, sleeping in between, until `done`.
    fn until(&mut self, done: impl Fn(&[Note]) -> bool) {
        self.until_rig(|rig| done(&rig.notes));
    }

    fn until_rig(&mut self, done: impl FnMut(&mut Rig) -> bool) {
        self.until_reading(usize::MAX, done);
    }

    fn until_reading(&mut self, max: usize, mut done: impl FnMut(&mut Rig) -> bool) {
        let start = Instant::now();
        while !done(self) {
            check(start);
            if self.turn_reading(max) == 0 {
                park(&mut self.ring);
            }
        }
    }

    /// Turns until the ring may sleep.
    fn settle(&mut self) {
        let start = Instant::now();
        while !self.ring.prepare_park() {
            check(start);
            self.turn();
        }
        self.ring.unpark();
    }

    fn until_note(&mut self, note: Note) {
        self.until(|notes| notes.contains(&note));
    }

    fn count(&self, wanted: impl Fn(&Note) -> bool) -> usize {
        self.notes.iter().filter(|n| wanted(n)).count()
    }

    /// Bytes that all have received.
    fn received(&self) -> usize {
        let bytes = |note: &Note| if let Note::Received(_, bytes) = note { bytes.len() } else { 0 };
        self.notes.iter().map(bytes).sum()
    }

    /// All bytes that `conn` has received.
    fn bytes(&self, conn: u32) -> Vec<u8> {
        let mut all = Vec::new();
        for note in &self.notes {
            match note {
                Note::Received(c, bytes) if *c == conn => all.extend_from_slice(bytes),
                _ => {}
            }
        }
        all
    }

    /// Closes every connection and expects the ring to be empty after that.
    fn close_all(&mut self) {
        for conn in 0..self.ring.conns.len() as u32 {
            self.ring.close(conn);
        }
        self.until_rig(|rig| rig.ring.open() == 0);
        let listening = self.ring.listeners.iter().filter(|l| l.armed).count();
        assert_eq!(self.ring.operations, listening);
        assert_eq!(self.ring.sends_free.len(), self.ring.sends.len());
    }
}

/// A turn, and all that has come in.
fn turn(ring: &mut Ring, mut on: impl FnMut(&mut Ring, Completion<'_>)) -> io::Result<usize> {
    let handled = ring.turn(&mut on)?;
    let read = ring.read(|ring, completion| {
        on(ring, completion);
        true
    });
    Ok(handled + read)
}

/// Fails a test that goes round and round.
fn check(start: Instant) {
    assert!(start.elapsed() < PATIENCE, "turning in vain");
}

/// Sleeps on the eventfd as the shard does, unless there is something to do.
fn park(ring: &mut Ring) {
    if ring.prepare_park() {
        assert!(readable(ring.event.as_raw_fd(), PATIENCE), "nobody has woken the ring");
        (&ring.event).read_exact(&mut [0; 8]).expect("eventfd");
        ring.unpark();
    }
}

fn readable(fd: std::os::fd::RawFd, patience: Duration) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one pollfd, alive during the call.
        match unsafe { libc::poll(&mut poll, 1, patience.as_millis() as libc::c_int) } {
            -1 if io::Error::last_os_error().kind() == ErrorKind::Interrupted => {}
            ready => return ready > 0,
        }
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("address")
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

/// A connected pair: the peer's end, and ours for `adopt`.
fn pair() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind(loopback()).expect("bind");
    let peer = connect(listener.local_addr().expect("address"));
    let (ours, _) = listener.accept().expect("accept");
    ours.set_nonblocking(true).expect("nonblocking");
    ours.set_nodelay(true).expect("nodelay");
    (peer, ours.into())
}

/// Resets the connection instead of ending it.
fn reset(peer: TcpStream) {
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("linger");
}

fn owned(bytes: &[u8]) -> SendBuf {
    SendBuf::Owned(bytes.to_vec().into())
}

/// Bytes that tell where they belong.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| ((i / 7 + i * 3 + seed * 31) % 251) as u8).collect()
}

/// Runs the test of that name in a process of its own, if it is not in one already: for tests
/// that count descriptors or change limits, whatever runs the tests.
fn in_own_process(name: &str) -> bool {
    if std::env::var_os("RING_TEST_ALONE").is_some() {
        return true;
    }
    let status = std::process::Command::new(std::env::current_exe().expect("exe"))
        .args(["--exact", &format!("shard::ring::tests::{name}"), "--nocapture"])
        .env("RING_TEST_ALONE", "1")
        .status()
        .expect("run");
    assert!(status.success(), "{name} failed in its own process");
    false
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("fds").count()
}

/// Whether the kernel has made threads to carry blocking operations out.
fn has_workers() -> bool {
    let tasks = std::fs::read_dir("/proc/self/task").expect("tasks");
    tasks.flatten().any(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        name.starts_with("iou-wrk")
    })
}

/// An echo server on `ring` until `clients` connections have come and gone.
fn echo(ring: &mut Ring, clients: usize) {
    let mut queues: Vec<VecDeque<Vec<u8>>> = Vec::new();
    let mut gone = 0;
    let start = Instant::now();
    while gone < clients {
        check(start);
        let handled = turn(ring, |ring, completion| match completion {
            Completion::Accepted { fd, .. } => {
                let conn = queues.len() as u32;
                queues.push(VecDeque::new());
                ring.adopt(conn, fd);
                ring.receive_many(conn);
            }
            Completion::Received { conn, bytes } => {
                let queue = &mut queues[conn as usize];
                if queue.is_empty() {
                    ring.send(conn, owned(bytes));
                }
                queue.push_back(bytes.to_vec());
            }
            Completion::Sent { conn, result } => {
                let queue = &mut queues[conn as usize];
                let sent = queue.pop_front().expect("a send in flight");
                assert_eq!(result.expect("sent"), sent.len());
                if let Some(next) = queue.front() {
                    ring.send(conn, owned(next));
                }
            }
            Completion::PeerClosed { conn, error } => {
                assert!(error.is_none(), "{error:?}");
                ring.close(conn);
            }
            Completion::Closed { .. } => gone += 1,
            Completion::AcceptFailed(error) => panic!("{error}"),
        });
        if handled.expect("turn") == 0 {
            park(ring);
        }
    }
    assert_eq!(ring.open(), 0);
}

/// `clients` connections that each send `rounds` messages of up to `bytes` and read them back.
fn chatter(address: SocketAddr, clients: usize, rounds: usize, bytes: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut streams: Vec<_> = (0..clients).map(|_| connect(address)).collect();
    for _ in 0..rounds {
        let sizes: Vec<_> = streams.iter().map(|_| random.usize(1..=bytes)).collect();
        for (i, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&pattern(sizes[i], i)).expect("write");
        }
        for (i, stream) in streams.iter_mut().enumerate() {
            let mut answer = vec![0; sizes[i]];
            stream.read_exact(&mut answer).expect("read");
            assert!(answer == pattern(sizes[i], i), "echo of connection {i} differs");
        }
    }
}

fn echo_test(mut ring: Ring, clients: usize, rounds: usize, bytes: usize) {
    let listener = bind(loopback(), 4096).expect("bind");
    let address = listener.local_addr().expect("address");
    ring.listen(listener);
    let chatter = thread::spawn(move || chatter(address, clients, rounds, bytes, 7));
    echo(&mut ring, clients);
    chatter.join().expect("clients");
}

#[test]
fn echoes_with_the_default_sizes() {
    echo_test(Ring::new(&RingConfig::default()).expect("ring"), 50, 100, 5_000);
}

#[test]
fn thousands_of_connections_share_eight_small_buffers() {
    let config = RingConfig { submissions: 64, completions: 128, buffers: 8, buffer_bytes: 100 };
    echo_test(Ring::new(&config).expect("ring"), 3_000, 4, 400);
}

#[test]
fn what_is_left_unread_is_not_lost_and_holds_no_send_up() {
    let mut rig = Rig::new(&SMALL);
    let mut peers: Vec<TcpStream> = Vec::new();
    for conn in 0..12 {
        let (mut peer, ours) = pair();
        rig.ring.adopt(conn, ours);
        rig.ring.receive_many(conn);
        peer.write_all(&pattern(1_000, conn as usize)).expect("write");
        peers.push(peer);
    }
    rig.ring.hold_input(true);
    (0..12).for_each(|conn| rig.ring.send(conn, owned(&pattern(500, conn as usize))));
    rig.until_reading(0, |rig| rig.notes.len() == 12);
    assert_eq!(rig.count(|note| matches!(note, Note::Sent(_, Ok(500)))), 12);
    // Four buffers are filled, and nobody spins for a fifth.
    let start = Instant::now();
    while !rig.ring.prepare_park() {
        check(start);
        rig.turn_reading(0);
    }
    rig.ring.unpark();
    assert!(rig.ring.unread.len() >= 4 && !rig.ring.has_read_all());
    rig.ring.hold_input(false);
    assert!(!rig.ring.prepare_park(), "now it is a reason to stay awake");
    peers.truncate(6);
    rig.until_reading(1, |rig| {
        rig.received() == 12_000 && rig.count(|note| matches!(note, Note::PeerClosed(..))) == 6
    });
    rig.settle();
    assert!(rig.ring.has_read_all());
    for conn in 0..12 {
        assert_eq!(rig.bytes(conn), pattern(1_000, conn as usize));
    }
}

#[test]
fn a_doorbell_wakes_a_parked_ring_and_an_awake_ring_is_not_notified() {
    let mut rig = Rig::new(&SMALL);
    assert!(rig.ring.prepare_park(), "nothing to do");
    let bell = rig.ring.doorbell();
    thread::spawn(move || bell.ring()).join().expect("ring the bell");
    assert!(readable(rig.ring.event.as_raw_fd(), PATIENCE), "nobody has woken the ring");
    (&rig.ring.event).read_exact(&mut [0; 8]).expect("eventfd");
    rig.ring.unpark();
    assert_eq!(rig.turn(), 0, "a bell is nothing to report");

    let (mut peer, ours) = pair();
    rig.ring.adopt(0, ours);
    rig.ring.receive_many(0);
    assert_eq!(rig.turn(), 0);
    peer.write_all(b"awake").expect("write");
    // Without the sleep of `until`, in which notification is on.
    let start = Instant::now();
    while rig.turn() == 0 {
        check(start);
    }
    assert_eq!(rig.bytes(0), b"awake");
    assert!(!readable(rig.ring.event.as_raw_fd(), Duration::ZERO), "notified while awake");

    assert!(rig.ring.prepare_park());
    peer.write_all(b"asleep").expect("write");
    assert!(readable(rig.ring.event.as_raw_fd(), PATIENCE), "not notified while asleep");
    assert!(!rig.ring.prepare_park(), "parked over a completion");
    rig.until_note(Note::Received(0, b"asleep".to_vec()));
}

#[test]
fn a_waiting_ring_wakes_for_completions_bells_and_time() {
    let mut rig = Rig::new(&SMALL);
    rig.ring.wait(Some(Duration::from_millis(1))).expect("time passes");
    let bell = rig.ring.doorbell();
    for _ in 0..3 {
        let bell = bell.clone();
        let ringer = thread::spawn(move || bell.ring());
        // Without the bell this would never return.
        rig.ring.wait(None).expect("a bell");
        ringer.join().expect("ringer");
        assert_eq!(rig.turn(), 0, "a bell is nothing to report");
    }
    bell.ring();
    rig.ring.wait(None).expect("a bell that came first");
    let (mut peer, ours) = pair();
    rig.ring.adopt(0, ours);
    rig.ring.receive_many(0);
    let writer = thread::spawn(move || {
        peer.write_all(b"late").expect("write");
        peer
    });
    while rig.bytes(0).is_empty() {
        rig.ring.wait(None).expect("bytes");
        rig.turn();
    }
    writer.join().expect("writer");
}

#[test]
fn accepted_sockets_have_the_options_of_bind() {
    let mut rig = Rig::new(&SMALL);
    let address = rig.listen();
    let second = bind(address, 16).expect("two shards share a port");
    drop(second);
    let _peer = connect(address);
    rig.until_note(Note::Accepted);
    let fd = rig.accepted.pop().expect("accepted");
    let socket = SockRef::from(&fd);
    assert!(socket.tcp_nodelay().expect("nodelay"), "TCP_NODELAY is not inherited");
    // SAFETY: fcntl without memory arguments on an open descriptor.
    let (status, own) = unsafe {
        let raw = fd.as_fd().as_raw_fd();
        (libc::fcntl(raw, libc::F_GETFL), libc::fcntl(raw, libc::F_GETFD))
    };
    assert_ne!(status & libc::O_NONBLOCK, 0);
    assert_ne!(own & libc::FD_CLOEXEC, 0);
    rig.ring.adopt(3, fd);
    assert!(rig.ring.is_idle(3) && !rig.ring.is_idle(2));
    rig.close_all();
}

#[test]
fn ipv6_listeners_leave_ipv4_alone() {
    let Ok(six) = bind("[::]:0".parse().expect("address"), 16) else {
        return; // No IPv6 on this machine.
    };
    let port = six.local_addr().expect("address").port();
    assert!(SockRef::from(&six).only_v6().expect("option"));
    bind(SocketAddr::from(([0, 0, 0, 0], port)), 16).expect("the same port on IPv4");
}

#[test]
fn a_one_shot_receive_yields_once_and_the_connection_can_move() {
    let (mut first, mut second) = (Rig::new(&SMALL), Rig::new(&SMALL));
    let (mut peer, ours) = pair();
    first.ring.adopt(5, ours);
    first.ring.receive_once(5);
    assert!(first.ring.release(5).is_none(), "a receive is in flight");
    peer.write_all(b"GET").expect("write");
    first.until_note(Note::Received(5, b"GET".to_vec()));
    peer.write_all(b" more").expect("write");
    assert_eq!(first.turn(), 0, "received without being asked");
    let fd = first.ring.release(5).expect("idle");
    assert_eq!(first.ring.open(), 0);

    second.ring.adopt(0, fd);
    second.ring.receive_many(0);
    second.until_note(Note::Received(0, b" more".to_vec()));
    second.ring.send(0, owned(b"moved"));
    assert!(second.ring.release(0).is_none(), "a send is in flight");
    let mut answer = [0; 5];
    second.until_note(Note::Sent(0, Ok(5)));
    peer.read_exact(&mut answer).expect("read");
    assert_eq!(&answer, b"moved");
    assert_eq!(first.notes.len(), 1);

    // The number is free at once in the first ring.
    let (_peer, ours) = pair();
    first.ring.adopt(5, ours);
    first.close_all();
    second.close_all();
}

#[test]
fn receives_without_a_buffer_are_neither_lost_nor_spinning() {
    let config = RingConfig { buffers: 2, ..SMALL };
    for many in [false, true] {
        let mut rig = Rig::new(&config);
        let mut peers = Vec::new();
        for conn in 0..40 {
            let (mut peer, ours) = pair();
            peer.write_all(&pattern(1_000, conn as usize)).expect("write");
            rig.ring.adopt(conn, ours);
            if many {
                rig.ring.receive_many(conn)
            } else {
                rig.ring.receive_once(conn)
            }
            peers.push(peer);
        }
        let (mut starved, mut seen) = (0, 0);
        rig.until_rig(|rig| {
            starved += rig.ring.starved.len();
            let received: Vec<_> = rig.notes[seen..].to_vec();
            seen = rig.notes.len();
            for note in received {
                if let (Note::Received(conn, _), false) = (note, many) {
                    rig.ring.receive_once(conn);
                }
            }
            (0..40).all(|conn| rig.bytes(conn).len() == 1_000)
        });
        assert!(starved > 0, "the case was not met");
        // Not all of them try for the same two buffers in every turn.
        let received = rig.count(|n| matches!(n, Note::Received(..)));
        assert!(rig.handled < 4 * received, "{} completions for {received}", rig.handled);
        for conn in 0..40 {
            assert!(rig.bytes(conn) == pattern(1_000, conn as usize), "connection {conn}");
        }
        rig.settle();
        rig.close_all();
    }
}

#[test]
fn more_completions_than_the_queue_holds_come_in_order() {
    let config = RingConfig { submissions: 4, completions: 4, buffers: 256, buffer_bytes: 64 };
    let mut rig = Rig::new(&config);
    let mut peers = Vec::new();
    for conn in 0..200 {
        let (peer, ours) = pair();
        rig.ring.adopt(conn, ours);
        rig.ring.receive_many(conn);
        peers.push(peer);
    }
    rig.turn();
    let mut overflown = false;
    for round in 0..20u8 {
        for (conn, peer) in peers.iter_mut().enumerate() {
            peer.write_all(&[round, conn as u8]).expect("write");
        }
        rig.until_rig(|rig| {
            overflown |= rig.ring.io.submission().cq_overflow();
            (0..200).all(|conn| rig.bytes(conn).len() == 2 * (round as usize + 1))
        });
    }
    assert!(overflown, "the case was not met");
    for conn in 0..200u32 {
        let expected: Vec<u8> = (0..20).flat_map(|round| [round, conn as u8]).collect();
        assert_eq!(rig.bytes(conn), expected);
    }
    rig.close_all();
}

#[test]
fn a_full_submission_queue_delays_nothing_and_loses_nothing() {
    let mut rig = Rig::new(&RingConfig { submissions: 2, ..SMALL });
    let mut peers = Vec::new();
    for conn in 0..100 {
        let (peer, ours) = pair();
        rig.ring.adopt(conn, ours);
        peers.push(peer);
    }
    for conn in 0..50 {
        rig.ring.send(conn, owned(&[conn as u8; 10]));
    }
    assert!(rig.ring.backlog.is_empty(), "the kernel takes more when asked");
    // Now it does not.
    rig.ring.faults.extend([libc::EBUSY, libc::EAGAIN, libc::EINTR]);
    for conn in 50..100 {
        rig.ring.send(conn, owned(&[conn as u8; 10]));
    }
    assert!(rig.ring.backlog.len() >= 40, "the case was not met");
    assert!(!rig.ring.prepare_park() || rig.ring.backlog.is_empty());
    rig.until(|notes| notes.len() == 100);
    for (conn, peer) in peers.iter_mut().enumerate() {
        assert!(rig.notes.contains(&Note::Sent(conn as u32, Ok(10))));
        let mut bytes = [0; 10];
        peer.read_exact(&mut bytes).expect("read");
        assert_eq!(bytes, [conn as u8; 10]);
    }
    rig.close_all();
}

#[test]
fn passing_errors_of_enter_are_retried_and_others_reported() {
    let mut rig = Rig::new(&SMALL);
    let (mut peer, ours) = pair();
    rig.ring.adopt(0, ours);
    rig.ring.receive_many(0);
    for round in 1..=100 {
        rig.ring.faults.extend([libc::EINTR, libc::EBUSY, libc::EAGAIN].iter().cycle().take(round));
        rig.ring.send(0, owned(b"ping"));
        rig.until(|notes| notes.contains(&Note::Sent(0, Ok(4))));
        peer.write_all(b"pong").expect("write");
        rig.until(|notes| notes.contains(&Note::Received(0, b"pong".to_vec())));
        rig.notes.clear();
        rig.ring.faults.clear();
    }
    rig.ring.send(0, owned(b"ping"));
    rig.ring.faults.push_back(libc::EBADFD);
    let error = rig.ring.turn(|_, _| ()).expect_err("must be reported");
    assert_eq!(error.raw_os_error(), Some(libc::EBADFD));
    rig.until_note(Note::Sent(0, Ok(4)));
    rig.close_all();
}

#[test]
fn signals_interrupt_nothing() {
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: a handler that does nothing, without SA_RESTART, for a signal nobody else uses.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = ignore as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut()), 0);
    }
    // SAFETY: no arguments.
    let target = unsafe { libc::pthread_self() };
    let (stop, stopped) = mpsc::channel::<()>();
    let pest = thread::spawn(move || {
        while stopped.try_recv().is_err() {
            // SAFETY: the target joins this thread before it ends.
            unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
            thread::yield_now();
        }
    });
    echo_test(Ring::new(&SMALL).expect("ring"), 20, 50, 500);
    stop.send(()).expect("stop");
    pest.join().expect("pest");
}

#[test]
fn without_descriptors_accepting_stops_until_it_is_resumed() {
    if !in_own_process("without_descriptors_accepting_stops_until_it_is_resumed") {
        return;
    }
    let limit = |soft: libc::rlim_t| {
        let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both point to rlimits that live during the calls.
        unsafe {
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut old);
            let new = libc::rlimit { rlim_cur: soft, ..old };
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &new), 0);
        }
        old.rlim_cur
    };
    let mut rig = Rig::new(&SMALL);
    let address = rig.listen();
    let _peers: Vec<_> = (0..20).map(|_| connect(address)).collect();
    let before = limit(descriptors() as libc::rlim_t + 4);
    rig.until_note(Note::AcceptFailed(libc::EMFILE));
    let early = rig.accepted.len();
    assert!(early < 20, "the case was not met");
    // It stays stopped, reports no more, and lets the ring sleep.
    rig.settle();
    assert_eq!(rig.count(|n| matches!(n, Note::AcceptFailed(_))), 1);
    assert_eq!(rig.ring.operations, 0);
    // Resuming too early fails once more.
    rig.ring.resume_accept();
    rig.until(|notes| notes.iter().filter(|n| matches!(n, Note::AcceptFailed(_))).count() == 2);
    limit(before);
    rig.ring.resume_accept();
    rig.until(|notes| notes.iter().filter(|n| matches!(n, Note::Accepted)).count() == 20);
    rig.ring.resume_accept();
    assert_eq!(rig.ring.operations, 1, "one accept per listener");
}

#[test]
fn long_sends_to_a_slow_reader_arrive_whole() {
    let mut rig = Rig::new(&SMALL);
    let (mut peer, ours) = pair();
    SockRef::from(&ours).set_send_buffer_size(100_000).expect("option");
    rig.ring.adopt(0, ours);
    let bytes = pattern(30_000_000, 1);
    let chunk = Chunk::new(bytes.len(), &Meter::default());
    chunk.append(&bytes);
    let expected = bytes.clone();
    let reader = thread::spawn(move || {
        let mut all = vec![0; 2 * expected.len() - 10];
        // Pieces, so that sends really come to wait.
        for piece in all.chunks_mut(50_000) {
            peer.read_exact(piece).expect("read");
        }
        assert!(all[..expected.len()] == expected);
        assert!(all[expected.len()..] == expected[10..]);
    });
    rig.ring.send(0, SendBuf::Owned(bytes.clone().into()));
    rig.until_rig(|rig| {
        assert!(!has_workers(), "a send has become a thread");
        rig.notes.contains(&Note::Sent(0, Ok(30_000_000)))
    });
    let end = bytes.len() as u32;
    rig.ring.send(0, SendBuf::Shared { chunk: chunk.clone(), start: 10, end });
    rig.until_note(Note::Sent(0, Ok(29_999_990)));
    assert_eq!(rig.notes.len(), 2, "one completion per send");
    assert_eq!(Rc::strong_count(&chunk), 1);
    reader.join().expect("reader");
    rig.close_all();
    assert_eq!(rig.ring.sends.len(), 1, "the table holds what was in flight at a time");
}

#[test]
fn a_peer_that_does_not_read_blocks_nobody_and_can_be_closed() {
    let mut rig = Rig::new(&SMALL);
    let (stuck, ours) = pair();
    rig.ring.adopt(0, ours);
    let chunk = Chunk::new(64 << 20, &Meter::default());
    chunk.append(&vec![1; 64 << 20]);
    rig.ring.receive_many(0);
    rig.ring.send(0, SendBuf::Shared { chunk: chunk.clone(), start: 0, end: 64 << 20 });
    let (mut peer, ours) = pair();
    rig.ring.adopt(1, ours);
    rig.ring.receive_many(1);
    for _ in 0..100 {
        peer.write_all(b"ping").expect("write");
        rig.until_note(Note::Received(1, b"ping".to_vec()));
        rig.ring.send(1, owned(b"pong"));
        rig.until_note(Note::Sent(1, Ok(4)));
        rig.notes.clear();
        peer.read_exact(&mut [0; 4]).expect("read");
    }
    assert_eq!(Rc::strong_count(&chunk), 2, "the kernel still reads it");
    rig.ring.close(0);
    assert_eq!(Rc::strong_count(&chunk), 2, "no completion yet");
    rig.until_note(Note::Closed(0));
    assert_eq!(Rc::strong_count(&chunk), 1);
    assert_eq!(rig.notes, [Note::Closed(0)], "nothing else is reported");
    drop(stuck);
    rig.close_all();
}

#[test]
fn resets_are_reported_once_whenever_they_come() {
    let mut rig = Rig::new(&SMALL);
    let closed_once = |rig: &mut Rig, conn| {
        rig.ring.close(conn);
        rig.until_note(Note::Closed(conn));
        assert!(rig.count(|n| matches!(n, Note::PeerClosed(..))) <= 1);
        assert_eq!(rig.notes.last(), Some(&Note::Closed(conn)));
        rig.notes.clear();
    };
    for many in [false, true] {
        let receive = if many { Ring::receive_many } else { Ring::receive_once };
        // Before it was adopted.
        let (peer, ours) = pair();
        reset(peer);
        rig.ring.adopt(0, ours);
        receive(&mut rig.ring, 0);
        rig.until_note(Note::PeerClosed(0, Some(ErrorKind::ConnectionReset)));
        receive(&mut rig.ring, 0);
        assert!(rig.ring.is_idle(0), "receiving after the end");
        closed_once(&mut rig, 0);
        // While a receive is armed.
        let (peer, ours) = pair();
        rig.ring.adopt(0, ours);
        receive(&mut rig.ring, 0);
        rig.turn();
        reset(peer);
        rig.until_note(Note::PeerClosed(0, Some(ErrorKind::ConnectionReset)));
        assert!(rig.ring.is_idle(0));
        closed_once(&mut rig, 0);
        // While a send waits for room, with and without a receive.
        let (peer, ours) = pair();
        rig.ring.adopt(0, ours);
        if many {
            rig.ring.receive_many(0);
        }
        rig.ring.send(0, SendBuf::Owned(vec![0; 64 << 20].into()));
        rig.turn();
        reset(peer);
        rig.until(|notes| notes.iter().any(|n| matches!(n, Note::Sent(0, Err(_)))));
        assert_eq!(rig.count(|n| matches!(n, Note::Sent(..))), 1);
        closed_once(&mut rig, 0);
        // While closing, with all kinds of operations.
        let (peer, ours) = pair();
        rig.ring.adopt(0, ours);
        receive(&mut rig.ring, 0);
        rig.ring.send(0, SendBuf::Owned(vec![0; 64 << 20].into()));
        rig.turn();
        rig.ring.close(0);
        reset(peer);
        rig.until_note(Note::Closed(0));
        assert_eq!(rig.notes, [Note::Closed(0)]);
        rig.notes.clear();
    }
    // A send after the reset: an error, no signal.
    let (peer, ours) = pair();
    reset(peer);
    rig.ring.adopt(0, ours);
    rig.ring.send(0, owned(b"late"));
    rig.until(|notes| matches!(notes, [Note::Sent(0, Err(_))]));
    rig.close_all();
}

#[test]
fn the_end_of_the_stream_is_reported_and_we_can_still_send() {
    let mut rig = Rig::new(&SMALL);
    let (mut peer, ours) = pair();
    SockRef::from(&ours).set_send_buffer_size(8_192).expect("option");
    rig.ring.adopt(0, ours);
    rig.ring.receive_many(0);
    peer.write_all(b"last words").expect("write");
    peer.shutdown(Shutdown::Write).expect("shutdown");
    rig.until_note(Note::PeerClosed(0, None));
    assert_eq!(rig.bytes(0), b"last words");
    let answer = pattern(1_000_000, 3);
    rig.ring.send(0, SendBuf::Owned(answer.clone().into()));
    rig.ring.shutdown_write(0);
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).expect("read to the end");
        all
    });
    rig.until_note(Note::Sent(0, Ok(1_000_000)));
    assert!(reader.join().expect("reader") == answer, "FIN came before the bytes");
    // Nothing in flight: at once.
    let (mut peer, ours) = pair();
    rig.ring.adopt(1, ours);
    rig.ring.shutdown_write(1);
    assert_eq!(peer.read(&mut [0; 1]).expect("read"), 0);
    rig.close_all();
}

#[test]
fn closing_right_after_a_send_lets_it_leave() {
    let mut rig = Rig::new(&SMALL);
    let (mut peer, ours) = pair();
    rig.ring.adopt(0, ours);
    rig.ring.receive_many(0);
    rig.turn();
    rig.ring.send(0, owned(b"goodbye"));
    rig.ring.close(0);
    // All of these are ignored now.
    rig.ring.close(0);
    rig.ring.receive_once(0);
    rig.ring.send(0, owned(b"too late"));
    rig.ring.shutdown_write(0);
    assert!(rig.ring.release(0).is_none() && !rig.ring.is_idle(0));
    assert_eq!(rig.ring.open(), 1);
    rig.until_note(Note::Closed(0));
    assert_eq!(rig.notes, [Note::Closed(0)]);
    let mut all = Vec::new();
    peer.read_to_end(&mut all).expect("read");
    assert_eq!(all, b"goodbye");
    // A connection with nothing in flight is let go in the next turn, and its number is free.
    let (_peer, ours) = pair();
    rig.ring.adopt(0, ours);
    rig.ring.close(0);
    rig.until(|notes| notes.len() == 2);
    assert_eq!(rig.ring.open(), 0);
}

#[test]
fn nothing_is_received_after_close() {
    let mut rig = Rig::new(&SMALL);
    let mut peers = Vec::new();
    for conn in 0..2 {
        let (mut peer, ours) = pair();
        peer.write_all(b"both are there").expect("write");
        assert!(readable(ours.as_raw_fd(), PATIENCE));
        rig.ring.adopt(conn, ours);
        rig.ring.receive_many(conn);
        peers.push(peer);
    }
    let mut received = 0;
    let turned = turn(&mut rig.ring, |ring, completion| {
        received += usize::from(matches!(completion, Completion::Received { .. }));
        ring.close(0);
        ring.close(1);
    });
    assert_eq!((turned.expect("turn"), received), (2, 1));
    rig.until(|notes| notes.len() == 2);
    assert!(rig.notes.contains(&Note::Closed(0)) && rig.notes.contains(&Note::Closed(1)));
}

#[test]
fn stopped_listeners_refuse_and_close_what_still_came_in() {
    let mut rig = Rig::new(&SMALL);
    let (one, two) = (rig.listen(), rig.listen());
    drop(connect(one));
    drop(connect(two));
    rig.until(|notes| notes.len() == 2);
    let waiting: Vec<_> = (0..10).map(|_| connect(one)).collect();
    rig.ring.stop_listening();
    rig.ring.resume_accept();
    rig.until_rig(|rig| rig.ring.operations == 0);
    assert_eq!(rig.notes.len(), 2, "nothing is accepted any more");
    assert!(rig.ring.listeners.iter().all(|l| l.socket.is_none()));
    for mut peer in waiting {
        let ended = peer.read(&mut [0; 1]);
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    for address in [one, two] {
        let refused = TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn dropping_a_ring_ends_everything_that_is_in_flight() {
    if !in_own_process("dropping_a_ring_ends_everything_that_is_in_flight") {
        return;
    }
    let before = descriptors();
    let chunk = Chunk::new(32 << 20, &Meter::default());
    chunk.append(&vec![1; 32 << 20]);
    let shared = || SendBuf::Shared { chunk: chunk.clone(), start: 0, end: 32 << 20 };
    for submitted in [true, false] {
        let mut rig = Rig::new(&SMALL);
        let address = rig.listen();
        let mut peers = vec![connect(address)];
        for conn in 0..20 {
            let (mut peer, ours) = pair();
            peer.write_all(&pattern(500, 0)).expect("write");
            rig.ring.adopt(conn, ours);
            rig.ring.receive_many(conn);
            rig.ring.send(conn, shared());
            peers.push(peer);
        }
        if submitted {
            rig.turn();
            rig.ring.close(3);
        } else {
            rig.ring.faults.extend([libc::EBUSY; 8]);
        }
        for conn in 20..30 {
            let (peer, ours) = pair();
            rig.ring.adopt(conn, ours);
            rig.ring.receive_once(conn);
            peers.push(peer);
        }
        if !submitted {
            assert!(!rig.ring.backlog.is_empty(), "the case was not met");
        }
        assert!(rig.ring.operations > 40);
        rig.accepted.clear();
        drop(rig);
        assert_eq!(Rc::strong_count(&chunk), 1, "the sends were not drained");
        for mut peer in peers {
            // The rest of what was sent, and then the end.
            while !matches!(peer.read(&mut [0; 1 << 16]), Ok(0) | Err(_)) {}
        }
    }
    assert_eq!(descriptors(), before);
}

#[test]
fn a_callback_that_panics_loses_no_memory_safety() {
    let mut rig = Rig::new(&SMALL);
    let mut peers = Vec::new();
    for conn in 0..4 {
        let (mut peer, ours) = pair();
        peer.write_all(b"boom").expect("write");
        rig.ring.adopt(conn, ours);
        rig.ring.receive_many(conn);
        peers.push(peer);
    }
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let start = Instant::now();
        while turn(&mut rig.ring, |_, _| panic!("in a callback")).is_ok() {
            check(start);
        }
    }));
    assert!(panics.is_err());
    // The completions behind the one that panicked are still there.
    rig.until(|notes| notes.len() == 3);
    drop(rig);
}

#[test]
fn lent_bytes_outlive_a_ring_that_the_callback_replaces() {
    let mut rig = Rig::new(&SMALL);
    let (mut peer, ours) = pair();
    rig.ring.adopt(0, ours);
    rig.ring.receive_many(0);
    peer.write_all(b"still here").expect("write");
    let mut seen = Vec::new();
    let start = Instant::now();
    while seen.is_empty() {
        check(start);
        let handled = turn(&mut rig.ring, |ring, completion| {
            if let Completion::Received { bytes, .. } = completion {
                *ring = Ring::new(&SMALL).expect("ring");
                seen = bytes.to_vec();
            }
        });
        if handled.expect("turn") == 0 {
            park(&mut rig.ring);
        }
    }
    assert_eq!(seen, b"still here");
    assert_eq!(rig.ring.open(), 0);
}

#[test]
fn set_up_says_what_is_wrong() {
    let odd = Ring::new(&RingConfig { buffers: 3, ..SMALL }).err().expect("3 buffers");
    assert!(odd.to_string().contains("power of two"), "{odd}");
    let big = Ring::new(&RingConfig { submissions: 1 << 20, ..SMALL }).err().expect("too big");
    assert!(big.to_string().contains("32,768"), "{big}");
    for (errno, word) in [
        (libc::EPERM, "kernel.io_uring_disabled"),
        (libc::ENOMEM, "RLIMIT_MEMLOCK"),
        (libc::EMFILE, "RLIMIT_NOFILE"),
        (libc::ENOSYS, "6.1"),
    ] {
        let text = explain(io::Error::from_raw_os_error(errno)).to_string();
        assert!(text.contains(word), "{text}");
    }
}

/// What the churn does to the peers' ends.
struct Churn {
    rig: Rig,
    address: SocketAddr,
    random: fastrand::Rng,
    peers: Vec<TcpStream>,
    free: Vec<u32>,
    used: Vec<u32>,
    connected: usize,
}

impl Churn {
    fn step(&mut self) {
        let pick = (!self.peers.is_empty()).then(|| self.random.usize(..self.peers.len()));
        match (self.random.u32(..10), pick) {
            (0..=2, _) | (_, None) => {
                let peer = connect(self.address);
                peer.set_nonblocking(true).expect("nonblocking");
                self.peers.push(peer);
                self.connected += 1;
            }
            (3, Some(i)) => drop(self.peers.swap_remove(i)),
            (4, Some(i)) => reset(self.peers.swap_remove(i)),
            (5, Some(i)) => drop(self.peers[i].shutdown(Shutdown::Write)),
            (6 | 7, Some(i)) => {
                let bytes = pattern(self.random.usize(1..2_000), i);
                drop(self.peers[i].write(&bytes));
            }
            (8, Some(i)) => drop(self.peers[i].read(&mut [0; 4096])),
            _ => self.act(),
        }
        if self.random.u32(..3) == 0 {
            self.turn();
        }
    }

    /// Something that the server does of its own accord.
    fn act(&mut self) {
        let Some(&conn) = self.random.choice(&self.used) else { return };
        let ring = &mut self.rig.ring;
        match self.random.u32(..4) {
            0 => ring.close(conn),
            1 => ring.shutdown_write(conn),
            2 if ring.conns[conn as usize].flags & SENDING == 0 => {
                ring.send(conn, SendBuf::Owned(vec![1; self.random.usize(1..300_000)].into()));
            }
            _ => {
                if let Some(fd) = ring.release(conn) {
                    ring.adopt(conn, fd);
                }
            }
        }
    }

    fn turn(&mut self) {
        let many = self.random.bool();
        self.rig.turn();
        for fd in self.rig.accepted.drain(..) {
            let conn = self.free.pop().unwrap_or(self.used.len() as u32);
            assert!(!self.used.contains(&conn));
            self.used.push(conn);
            self.rig.ring.adopt(conn, fd);
            if many { self.rig.ring.receive_many(conn) } else { self.rig.ring.receive_once(conn) }
        }
        for note in mem::take(&mut self.rig.notes) {
            match note {
                Note::Received(conn, bytes) => {
                    assert!(!bytes.is_empty());
                    let flags = self.rig.ring.conns[conn as usize].flags;
                    if flags & (RECEIVING | STARVED) == 0 {
                        self.rig.ring.receive_once(conn);
                    }
                }
                Note::PeerClosed(conn, _) | Note::Sent(conn, Err(_)) => self.rig.ring.close(conn),
                Note::Closed(conn) => {
                    let at = self.used.iter().position(|c| *c == conn).expect("closed twice");
                    self.used.swap_remove(at);
                    self.free.push(conn);
                }
                Note::Sent(_, Ok(_)) | Note::Accepted => {}
                Note::AcceptFailed(errno) => panic!("accept: {errno}"),
            }
        }
    }
}

#[test]
fn nothing_is_left_after_thousands_of_connections_of_every_fate() {
    if !in_own_process("nothing_is_left_after_thousands_of_connections_of_every_fate") {
        return;
    }
    let before = descriptors();
    for seed in 1..=4 {
        let mut rig = Rig::new(&SMALL);
        let address = rig.listen();
        let random = fastrand::Rng::with_seed(seed);
        let (peers, free, used) = (Vec::new(), Vec::new(), Vec::new());
        let mut churn = Churn { rig, address, random, peers, free, used, connected: 0 };
        for _ in 0..5_000 {
            churn.step();
        }
        assert!(churn.connected > 1_000);
        churn.peers.clear();
        let start = Instant::now();
        while churn.rig.ring.operations > 1 || churn.rig.ring.open() > 0 {
            check(start);
            churn.turn();
            if churn.rig.ring.prepare_park() {
                // What has no receive armed does not see its peer go.
                for conn in churn.used.clone() {
                    churn.rig.ring.close(conn);
                }
            }
            churn.rig.ring.unpark();
        }
        assert!(churn.used.is_empty());
        assert_eq!(churn.rig.ring.sends_free.len(), churn.rig.ring.sends.len());
        drop(churn);
        assert_eq!(descriptors(), before, "seed {seed}");
    }
}

/// What a shard that has much to send relies on: input waits, in order, and nothing else does.
#[test]
fn unread_input_comes_in_later_turns_and_sends_in_this_one() {
    let mut rig = Rig::new(&RingConfig::default());
    let mut peers: Vec<TcpStream> = Vec::new();
    for conn in 0..3 {
        let (peer, ours) = pair();
        rig.ring.adopt(conn, ours);
        rig.ring.receive_many(conn);
        peers.push(peer);
    }
    rig.turn();
    peers.iter_mut().for_each(|peer| peer.write_all(b"x").expect("write"));
    drop(peers.pop());
    (0..3).for_each(|conn| rig.ring.send(conn, owned(b"y")));
    // Three sends, three receives and an end have all completed before the first turn.
    let start = Instant::now();
    while rig.ring.io.completion().len() < 7 {
        check(start);
        rig.ring.submit().expect("submit");
        rig.ring.enter(EnterFlags::GETEVENTS).expect("enter");
    }
    let mut turns = Vec::new();
    while rig.ring.has_work() {
        check(start);
        rig.turn_reading(1);
        let name = |note: Note| match note {
            Note::Received(..) => "received",
            Note::PeerClosed(2, _) => "ended",
            Note::Sent(..) => "sent",
            _ => "something else",
        };
        turns.push(rig.notes.drain(..).map(name).collect::<Vec<_>>());
    }
    assert_eq!(turns[0], ["sent", "sent", "sent", "received"]);
    assert_eq!(turns[1..], [["received"], ["received"], ["ended"]]);
    rig.close_all();
}
