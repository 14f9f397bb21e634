//! The load client: thousands of Socket.IO clients on one thread and one epoll.
//!
//! Owns the sockets and their handshakes; answers heartbeats; hands every other packet to the
//! caller of [`Client::turn`] as borrowed bytes. It knows nothing of what is being measured.
//!
//! Why epoll, one thread, no ring: a delivery costs the client one recv(2), about 1 µs, and the
//! server one send(2), about 4 µs including the kernel's work on the receiving side, so one
//! core of client keeps up with one core of server wherever broadcasts are measured. For echo
//! the client pays what the server pays; then its speed bounds the rate but not the CPU time
//! per echo, and the report says how busy the server was. A ring saves neither of these calls'
//! cost, and the client should not share the server's data plane.
//!
//! Why it spins by default: a client that sleeps makes the server pay for waking it at each
//! send, more or less often depending on how fast the client is; an awake one costs every
//! server the same. The floor's fan-out took 6.7 µs per delivery with a spinning client where
//! it took 9.0 with a sleeping one. Longer gaps between looks (20 to 300 µs) changed nothing.

use std::io::ErrorKind::{AddrNotAvailable, ConnectionRefused, WouldBlock};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::codec::{self, CLOSE, PING, PONG, TEXT};
use crate::record::Distribution;
use crate::sys::{self, EDGE, Epoll, IN, OUT};

/// Connections of one source address; the usual ephemeral range has 28,232 ports.
const PER_SOURCE: usize = 20_000;
/// Handshakes in progress; below any server's backlog (Node listens with 511).
pub(crate) const HANDSHAKES: usize = 64;
/// Largest server frame, and what one recv(2) may take.
const BUFFER: usize = 256 * 1024;
/// Nothing at all for so long means that something is lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// TCP is not there yet; the request is sent when the socket becomes writable.
    Connecting,
    /// Waits for 101.
    Upgrading,
    /// Waits for the Engine.IO open packet.
    Opening,
    /// Waits for the answer to `40`.
    Joining,
    Ready,
}

struct Connection {
    stream: TcpStream,
    state: State,
    started: Instant,
    /// The beginning of a frame whose rest has not come.
    partial: Vec<u8>,
}

/// How the client waits for the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wait {
    /// Asks again and again.
    Spin,
    /// Sleeps in the kernel.
    Block,
}

pub(crate) struct Client {
    epoll: Epoll,
    connections: Vec<Connection>,
    /// Those in state `Ready`.
    ready: usize,
    target: SocketAddr,
    wait: Wait,
    request: Vec<u8>,
    join: Vec<u8>,
    pong: Vec<u8>,
    buffer: Vec<u8>,
    /// From connect(2) to the answer to `40`.
    pub(crate) handshakes: Distribution,
}

impl Client {
    pub(crate) fn new(target: SocketAddr, wait: Wait) -> Result<Self> {
        Ok(Self {
            epoll: Epoll::new(256)?,
            connections: Vec::new(),
            ready: 0,
            target,
            wait,
            request: codec::upgrade_request(&target.to_string()),
            join: codec::client_frame(TEXT, b"40"),
            pong: codec::client_frame(TEXT, b"3"),
            buffer: vec![0; BUFFER],
            handshakes: Distribution::default(),
        })
    }

    /// Connections that joined the namespace.
    pub(crate) fn len(&self) -> usize {
        self.ready
    }

    /// Opens connections until there are `count`, a limited number of handshakes at a time.
    pub(crate) fn connect(&mut self, count: usize) -> Result<()> {
        let mut progress = (self.ready, Instant::now());
        while self.ready < count {
            while self.connections.len() < count && self.connections.len() - self.ready < HANDSHAKES
            {
                self.start(count)?;
            }
            self.turn(Duration::from_millis(100), |_, _, _| Ok(()))?;
            if progress.0 != self.ready {
                progress = (self.ready, Instant::now());
            } else if progress.1.elapsed() > PATIENCE {
                bail!(
                    "{} of {count} connections joined the namespace, then nothing for \
                     {PATIENCE:?} on {}; the open handshakes: {:?}",
                    self.ready,
                    self.target,
                    self.handshakes_open()
                );
            }
        }
        Ok(())
    }

    /// How far each handshake in progress has come.
    fn handshakes_open(&self) -> Vec<(usize, State)> {
        let all = self.connections.iter().map(|connection| connection.state).enumerate();
        all.filter(|(_, state)| *state != State::Ready).collect()
    }

    fn start(&mut self, count: usize) -> Result<()> {
        let index = self.connections.len();
        let source =
            (count > PER_SOURCE && self.target.is_ipv4() && self.target.ip().is_loopback())
                .then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + (index / PER_SOURCE) as u8)));
        let started = Instant::now();
        let stream = sys::connect(self.target, source).map_err(|error| match error.kind() {
            AddrNotAvailable => anyhow!(
                "no source port left after {index} connections: widen \
                 net.ipv4.ip_local_port_range, or wait a minute for TIME_WAIT to pass"
            ),
            ConnectionRefused => self.refused(),
            _ => anyhow!(error).context(format!("connection {index} to {}", self.target)),
        })?;
        sys::reset_on_close(stream.as_raw_fd())?;
        // Edge-triggered, so that an idle socket's writability costs one event, once.
        self.epoll.add(stream.as_raw_fd(), IN | OUT | EDGE, index as u64)?;
        let partial = Vec::new();
        self.connections.push(Connection { stream, state: State::Connecting, started, partial });
        Ok(())
    }

    /// Sends `bytes`, a whole number of frames, on connection `index`.
    pub(crate) fn send(&self, index: usize, bytes: &[u8]) -> Result<()> {
        match sys::send(self.connections[index].stream.as_raw_fd(), bytes) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) => bail!("the server does not read: the send buffer of {index} is full"),
            Err(error) if error.kind() == WouldBlock => {
                bail!("the server does not read: the send buffer of {index} is full")
            }
            Err(error) => Err(self.lost(index, error.into())),
        }
    }

    /// Waits up to `timeout` for events and handles one round of them. `deliver` gets the
    /// connection, the Socket.IO event packet (`42…`) and the time at which it was read.
    pub(crate) fn turn(
        &mut self,
        timeout: Duration,
        mut deliver: impl FnMut(usize, &[u8], Instant) -> Result<()>,
    ) -> Result<()> {
        for event in 0..self.events(timeout)? {
            let index = self.epoll.token(event) as usize;
            if self.connections[index].state == State::Connecting {
                self.request(index)?;
            } else {
                self.read(index, &mut deliver)?;
            }
        }
        Ok(())
    }

    fn events(&mut self, timeout: Duration) -> Result<usize> {
        if self.wait == Wait::Block {
            return Ok(self.epoll.wait(timeout.as_millis().max(1) as i32)?);
        }
        let started = Instant::now();
        loop {
            let count = self.epoll.wait(0)?;
            if count > 0 || started.elapsed() >= timeout {
                return Ok(count);
            }
        }
    }

    fn request(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        match sys::send(connection.stream.as_raw_fd(), &self.request) {
            Ok(_) => connection.state = State::Upgrading,
            Err(error) if error.kind() == WouldBlock => {}
            Err(error) if error.kind() == ConnectionRefused => return Err(self.refused()),
            Err(error) => return Err(self.lost(index, error.into())),
        }
        Ok(())
    }

    fn read(
        &mut self,
        index: usize,
        deliver: &mut impl FnMut(usize, &[u8], Instant) -> Result<()>,
    ) -> Result<()> {
        loop {
            let connection = &mut self.connections[index];
            let kept = connection.partial.len();
            self.buffer[..kept].copy_from_slice(&connection.partial);
            let room = &mut self.buffer[kept..];
            let length = match sys::recv(connection.stream.as_raw_fd(), room) {
                Ok(0) => return Err(self.lost(index, anyhow!("end of stream"))),
                Ok(length) => length,
                Err(error) if error.kind() == WouldBlock => return Ok(()),
                Err(error) => return Err(self.lost(index, error.into())),
            };
            let drained = length < room.len();
            let used = self.take(index, kept + length, deliver)?;
            let connection = &mut self.connections[index];
            connection.partial.clear();
            connection.partial.extend_from_slice(&self.buffer[used..kept + length]);
            if connection.partial.len() == BUFFER {
                bail!("connection {index} received a frame of more than {BUFFER} bytes");
            }
            // With an edge-triggered epoll a short read means that no more is there.
            if drained {
                return Ok(());
            }
        }
    }

    /// Handles the complete messages of `buffer[..length]`; returns how many bytes they were.
    fn take(
        &mut self,
        index: usize,
        length: usize,
        deliver: &mut impl FnMut(usize, &[u8], Instant) -> Result<()>,
    ) -> Result<usize> {
        let now = Instant::now();
        let mut used = 0;
        if self.connections[index].state == State::Upgrading {
            let head = codec::upgrade_response(&self.buffer[..length]).map_err(|error| {
                let text = String::from_utf8_lossy(&self.buffer[..length.min(200)]);
                anyhow!("websocket upgrade: {error:?}; the server said: {text}")
            })?;
            let Some(head) = head else { return Ok(0) };
            self.connections[index].state = State::Opening;
            used = head;
        }
        loop {
            let frame = codec::server_frame(&self.buffer[used..length])
                .map_err(|error| anyhow!("connection {index}: {error:?}"))?;
            let Some(frame) = frame else { return Ok(used) };
            let payload = used + frame.payload.start..used + frame.payload.end;
            used = payload.end;
            if frame.opcode == TEXT && self.buffer[payload.clone()].starts_with(b"42") {
                deliver(index, &self.buffer[payload], now)?;
            } else {
                let body = self.buffer[payload].to_vec();
                self.control(index, frame.opcode, &body, now)?;
            }
        }
    }

    /// Everything but events: the handshake's packets, heartbeats, the end.
    fn control(&mut self, index: usize, opcode: u8, payload: &[u8], now: Instant) -> Result<()> {
        let state = self.connections[index].state;
        match (opcode, payload, state) {
            (TEXT, [b'2'], _) => self.send(index, &self.pong),
            (TEXT, [b'0', b'{', ..], State::Opening) => {
                self.connections[index].state = State::Joining;
                self.send(index, &self.join)
            }
            (TEXT, [b'4', b'0', ..], State::Joining) => {
                let connection = &mut self.connections[index];
                connection.state = State::Ready;
                self.ready += 1;
                let spent = now - connection.started;
                self.handshakes.record(spent.as_nanos() as u64);
                Ok(())
            }
            (PING, body, _) => self.send(index, &codec::client_frame(PONG, body)),
            (PONG, ..) => Ok(()),
            (CLOSE, ..) => Err(self.lost(index, anyhow!("close frame"))),
            _ => bail!(
                "connection {index} ({state:?}) received an unexpected packet: {}",
                String::from_utf8_lossy(&payload[..payload.len().min(200)])
            ),
        }
    }

    fn lost(&self, index: usize, error: anyhow::Error) -> anyhow::Error {
        error.context(format!(
            "the server closed connection {index} of {}: it ended, refused it or hit a limit; \
             see the server's output and its limit of open files",
            self.connections.len()
        ))
    }

    fn refused(&self) -> anyhow::Error {
        anyhow!("nothing listens on {}: start the server, check --url", self.target)
    }
}
