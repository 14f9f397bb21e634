//! The system calls of the harness, each wrapped so that callers need no `unsafe`.
//!
//! Owns: epoll, the few socket calls that std hides or spells with extra system calls,
//! affinity, the resource limit, clocks, memory that processes share. It knows no protocol and
//! keeps no state. Every function returns the error of the call that failed, unchanged.
#![allow(unsafe_code)]

use std::io::{Error, Result};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Readable, as epoll says it.
pub(crate) const IN: u32 = libc::EPOLLIN as u32;
/// Writable.
pub(crate) const OUT: u32 = libc::EPOLLOUT as u32;
/// The peer has finished sending.
pub(crate) const HANGUP: u32 = libc::EPOLLRDHUP as u32;
/// Report a change once instead of a state as long as it lasts.
pub(crate) const EDGE: u32 = libc::EPOLLET as u32;

/// An epoll instance and the room for one round of its events.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub(crate) fn new(batch: usize) -> Result<Self> {
        // SAFETY: takes no pointer; a non-negative result is a descriptor that nobody else owns.
        let fd = unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; batch] })
    }

    pub(crate) fn add(&self, fd: RawFd, interest: u32, token: u64) -> Result<()> {
        let mut event = libc::epoll_event { events: interest, u64: token };
        // SAFETY: the kernel only reads `event`, during the call.
        check(unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event)
        })?;
        Ok(())
    }

    /// Waits for at most `timeout`, to the microsecond; says how many events came.
    pub(crate) fn wait_for(&mut self, timeout: Duration) -> Result<usize> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: as for `wait`; the kernel reads `timeout` during the call, and a null signal
        // mask leaves ours alone.
        let count = unsafe {
            libc::epoll_pwait2(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as i32,
                &timeout,
                std::ptr::null(),
            )
        };
        counted(count)
    }

    /// Waits for at most `timeout_ms` (0: only looks, -1: for ever); says how many events came.
    pub(crate) fn wait(&mut self, timeout_ms: i32) -> Result<usize> {
        // SAFETY: the kernel writes at most `len` events into the vector, whose elements are
        // initialised already.
        let count = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as i32,
                timeout_ms,
            )
        };
        counted(count)
    }

    /// Whether event number `index` of the last round says that nothing comes behind what can be
    /// read.
    pub(crate) fn is_last(&self, index: usize) -> bool {
        self.events[index].events & (HANGUP | (libc::EPOLLHUP | libc::EPOLLERR) as u32) != 0
    }

    /// The token of event number `index` of the last round.
    pub(crate) fn token(&self, index: usize) -> u64 {
        self.events[index].u64
    }
}

fn counted(events: i32) -> Result<usize> {
    match check(events) {
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(0),
        other => Ok(other? as usize),
    }
}

/// CLOCK_MONOTONIC in nanoseconds: one clock for all processes of a machine.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec during the call, which cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Zeroed memory that other processes can map too.
pub(crate) struct Shared {
    fd: OwnedFd,
    words: *mut AtomicU64,
    count: usize,
}

// SAFETY: the mapping is not bound to a thread, and what it holds is atomic.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// `count` words of new memory; only pages that are written to take up any.
    pub(crate) fn new(count: usize) -> Result<Self> {
        // SAFETY: the name is a C string; a non-negative result is a descriptor of our own.
        let fd = unsafe {
            let name = c"bench-harness";
            OwnedFd::from_raw_fd(check(libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC))?)
        };
        // SAFETY: takes no pointer.
        check(unsafe { libc::ftruncate(fd.as_raw_fd(), (count * 8) as libc::off_t) })?;
        Self::map(fd, count)
    }

    /// The memory of another process, `count` words, by the path from its `path`.
    pub(crate) fn open(path: &str, count: usize) -> Result<Self> {
        let file = std::fs::File::options().read(true).write(true).open(path)?;
        if file.metadata()?.len() != (count * 8) as u64 {
            return Err(Error::other("shared memory of another size"));
        }
        Self::map(file.into(), count)
    }

    /// Where processes of the same user find it, as long as this one lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    fn map(fd: OwnedFd, count: usize) -> Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Self { fd, words: address.cast(), count })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `count` words, is page-aligned, lives as long as `self`, and is
        // accessed by atomic operations only, in whichever process.
        unsafe { std::slice::from_raw_parts(self.words, self.count) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, and no reference outlives `self`.
        unsafe { libc::munmap(self.words.cast(), self.count * 8) };
    }
}

/// A listener's next connection, non-blocking from the start (std would need a second call).
pub(crate) fn accept(listener: RawFd) -> Result<OwnedFd> {
    // SAFETY: null pointers say that the peer's address is not wanted; a non-negative result
    // is a descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::accept4(
            listener,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// recv(2) without blocking.
pub(crate) fn recv(fd: RawFd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes into the borrowed buffer during the call.
    let count =
        unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    if count < 0 { Err(Error::last_os_error()) } else { Ok(count as usize) }
}

/// send(2) without blocking and without SIGPIPE.
pub(crate) fn send(fd: RawFd, bytes: &[u8]) -> Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads `len` bytes of the borrowed slice during the call.
    let count = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
    if count < 0 { Err(Error::last_os_error()) } else { Ok(count as usize) }
}

/// Starts a connection without waiting for it. With `source` the socket is bound to that
/// address first, its port left to connect(2): ports are then unique per source address
/// instead of per machine, which is what lifts the limit of about 28,000 connections.
pub(crate) fn connect(target: SocketAddr, source: Option<IpAddr>) -> Result<OwnedFd> {
    let (address, length) = raw_address(target);
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointer; a non-negative result is a descriptor that nobody else owns.
    let socket = unsafe {
        let fd = check(libc::socket(address.ss_family.into(), kind, 0))?;
        OwnedFd::from_raw_fd(fd)
    };
    let fd = socket.as_raw_fd();
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    if let Some(source) = source {
        set_option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        let (address, length) = raw_address(SocketAddr::new(source, 0));
        // SAFETY: `address` is large enough for every family and lives through the call.
        check(unsafe { libc::bind(fd, (&raw const address).cast(), length) })?;
    }
    // SAFETY: as for bind above.
    match check(unsafe { libc::connect(fd, (&raw const address).cast(), length) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Makes close(2) reset the connection, so that it leaves no TIME_WAIT behind to use up the
/// ports of the next run.
pub(crate) fn reset_on_close(fd: RawFd) -> Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 })
}

/// Small writes leave at once; accepted sockets inherit it from their listener.
pub(crate) fn no_delay(fd: RawFd) -> Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Lets `listener` wait for a connection's first bytes, up to `seconds`, before it accepts.
pub(crate) fn defer_accept(listener: RawFd, seconds: i32) -> Result<()> {
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// A second listen(2) on a socket changes its backlog; std asks for 128 only.
pub(crate) fn set_backlog(listener: RawFd, backlog: i32) -> Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::listen(listener, backlog) }).map(drop)
}

/// Pins the calling thread, and what it starts from then on, to one CPU.
pub(crate) fn pin_to(cpu: usize) -> Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set; CPU_SET is bounded by the check before.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        if cpu >= libc::CPU_SETSIZE as usize {
            return Err(Error::from_raw_os_error(libc::EINVAL));
        }
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: the kernel reads `set` during the call.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }).map(drop)
}

/// Makes the child run on `cpu` only and end with its parent, whatever way that ends.
pub(crate) fn confine(command: &mut Command, cpu: Option<usize>) {
    let child = move || {
        // SAFETY: prctl with these arguments takes no pointer.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        cpu.map_or(Ok(()), pin_to)
    };
    // SAFETY: runs between fork and exec; it makes two system calls and allocates nothing.
    unsafe { command.pre_exec(child) };
}

/// Goes before other processes; whether that is allowed.
pub(crate) fn hurry() -> bool {
    // SAFETY: setpriority takes no pointer.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) == 0 }
}

/// Raises the soft limit of open files to the hard one; returns the limit now in force.
pub(crate) fn raise_open_files() -> Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes, then reads, this one struct during the calls.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
    }
    Ok(limit.rlim_cur)
}

/// Bytes of a page of memory.
pub(crate) fn page_bytes() -> u64 {
    // SAFETY: takes no pointer.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

/// CPU time a process has used so far: all its threads, ended ones included.
pub(crate) fn process_cpu(pid: u32) -> Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write the one value they are given, during the call.
    unsafe {
        match libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) {
            0 => check(libc::clock_gettime(clock, &mut time))?,
            code => return Err(Error::from_raw_os_error(code)),
        };
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Asks a group of processes to end.
pub(crate) fn terminate(group: u32) -> Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::kill(-(group as libc::pid_t), libc::SIGTERM) }).map(drop)
}

fn set_option<T>(fd: RawFd, level: i32, name: i32, value: T) -> Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `value` during the call.
    check(unsafe {
        libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<T>() as u32)
    })
    .map(drop)
}

fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, u32) {
    // SAFETY: all-zero is a valid sockaddr_storage, which is by definition large and aligned
    // enough for the two families written into it.
    unsafe {
        let mut storage: libc::sockaddr_storage = mem::zeroed();
        match address {
            SocketAddr::V4(v4) => {
                let raw = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                raw.sin_family = libc::AF_INET as u16;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                (storage, size_of::<libc::sockaddr_in>() as u32)
            }
            SocketAddr::V6(v6) => {
                let raw = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                raw.sin6_family = libc::AF_INET6 as u16;
                raw.sin6_port = v6.port().to_be();
                raw.sin6_addr.s6_addr = v6.ip().octets();
                (storage, size_of::<libc::sockaddr_in6>() as u32)
            }
        }
    }
}

fn check(result: i32) -> Result<i32> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn a_source_address_is_used() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
        let stream = TcpStream::from(connect(listener.local_addr()?, Some(source))?);
        let (mut peer, address) = listener.accept()?;
        assert_eq!(address.ip(), source);
        assert_eq!(send(peer.as_raw_fd(), b"a")?, 1);
        stream.set_nonblocking(false)?;
        let mut byte = [0];
        (&stream).read_exact(&mut byte)?;
        assert_eq!(
            recv(stream.as_raw_fd(), &mut byte).map_err(|e| e.kind()),
            Err(std::io::ErrorKind::WouldBlock)
        );
        reset_on_close(stream.as_raw_fd())?;
        drop(stream);
        assert!(peer.read(&mut byte).is_err(), "reset, not closed");
        Ok(())
    }

    #[test]
    fn what_one_mapping_writes_the_other_reads() -> Result<()> {
        let ours = Shared::new(1000)?;
        let other = Shared::open(&ours.path(), 1000)?;
        ours.words()[999].store(7, Relaxed);
        assert_eq!(other.words()[999].load(Relaxed), 7);
        assert_eq!(other.words()[998].load(Relaxed), 0);
        assert!(Shared::open(&ours.path(), 1001).is_err(), "beyond its end");
        Ok(())
    }

    #[test]
    fn a_short_wait_ends_and_the_clock_goes_on() -> Result<()> {
        let (mut epoll, before) = (Epoll::new(1)?, now());
        assert_eq!(epoll.wait_for(Duration::from_micros(300))?, 0);
        assert!(now() - before >= 300_000);
        Ok(())
    }
}
