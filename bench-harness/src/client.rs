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

use crate::codec::{self, Event, PONG, TEXT};
use crate::deflate;
use crate::message::{Decoder, Message};
use crate::poller::Polling;
use crate::polling;
use crate::record::Distribution;
use crate::sys::{self, EDGE, Epoll, IN, OUT};

/// Connections of one source address. The usual ephemeral range has 28,232 ports, but connect(2)
/// looks at one half of them first, port by port: 19,000 connections of one address took 52 s,
/// 18 s of it CPU time of the client, and 7 s (1.5 s) of two.
const PER_SOURCE: usize = 12_000;
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

/// What all of a server's clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) transport: Transport,
    /// permessage-deflate is offered, and has to be accepted. Websocket only.
    pub(crate) deflate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Transport {
    Websocket,
    /// HTTP long-polling: a connection for GETs, and one for POSTs while there are any.
    Polling,
}

/// One client: 56 bytes, and nothing else on the heap while it is idle on websocket.
pub(crate) struct Connection {
    stream: TcpStream,
    state: State,
    started: Instant,
    /// The beginning of a frame or response whose rest has not come.
    partial: Vec<u8>,
    /// `None` on websocket.
    pub(crate) polling: Option<Box<Polling>>,
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
    pub(crate) epoll: Epoll,
    pub(crate) connections: Vec<Connection>,
    /// Those in state `Ready`.
    ready: usize,
    target: SocketAddr,
    wait: Wait,
    dialect: Dialect,
    /// The target as requests name it.
    pub(crate) host: String,
    /// The first request.
    request: Vec<u8>,
    pub(crate) buffer: Vec<u8>,
    /// Where later requests are written.
    pub(crate) scratch: Vec<u8>,
    decoder: Decoder,
    /// From connect(2) to the answer to `40`.
    pub(crate) handshakes: Distribution,
}

impl Client {
    pub(crate) fn new(target: SocketAddr, wait: Wait, dialect: Dialect) -> Result<Self> {
        let host = target.to_string();
        let request = match dialect.transport {
            Transport::Polling => polling::open_request(&host),
            Transport::Websocket if dialect.deflate => {
                codec::upgrade_request(&host, deflate::OFFER)
            }
            Transport::Websocket => codec::upgrade_request(&host, ""),
        };
        Ok(Self {
            epoll: Epoll::new(256)?,
            connections: Vec::new(),
            ready: 0,
            target,
            wait,
            dialect,
            host,
            request,
            buffer: vec![0; BUFFER],
            scratch: Vec::new(),
            decoder: Decoder::new(dialect.deflate.then_some(BUFFER)),
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
                self.start()?;
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

    fn start(&mut self) -> Result<()> {
        let index = self.connections.len();
        let started = Instant::now();
        let stream = self.open(index, 0)?;
        let polling = (self.dialect.transport == Transport::Polling).then(Box::default);
        let (state, partial) = (State::Connecting, Vec::new());
        self.connections.push(Connection { stream, state, started, partial, polling });
        Ok(())
    }

    /// Opens a socket of client `index`: 0 is its own, 1 that of its POSTs.
    pub(crate) fn open(&self, index: usize, socket: u64) -> Result<TcpStream> {
        let per_source = match self.dialect.transport {
            Transport::Websocket => PER_SOURCE,
            Transport::Polling => PER_SOURCE / 2,
        };
        let (number, ours) = (index / per_source, self.target.ip().is_loopback());
        let source = (number > 0 && ours && self.target.is_ipv4()).then(|| {
            let [high, low] = (number as u16 + 1).to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(127, 0, high, low))
        });
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
        self.epoll.add(stream.as_raw_fd(), IN | OUT | EDGE, (index as u64) << 1 | socket)?;
        Ok(stream)
    }

    /// Sends message number `number` of `event` as connection `index`.
    pub(crate) fn emit(&mut self, index: usize, event: &mut Event, number: u64) -> Result<()> {
        match &mut self.connections[index].polling {
            None => self.send(index, event.frame(number)),
            Some(polling) => {
                polling.session.queue(&event.payload(number));
                self.post(index)
            }
        }
    }

    /// Sends an Engine.IO packet of text as connection `index`.
    pub(crate) fn say(&mut self, index: usize, packet: &[u8]) -> Result<()> {
        match &mut self.connections[index].polling {
            None => self.send(index, &codec::client_frame(TEXT, packet)),
            Some(polling) => {
                polling.session.queue(packet);
                self.post(index)
            }
        }
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
            let token = self.epoll.token(event);
            let index = (token >> 1) as usize;
            if token & 1 == 1 {
                self.turn_post(index)?;
            } else if self.connections[index].state == State::Connecting {
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
            Ok(_) if connection.polling.is_some() => connection.state = State::Opening,
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
            keep(&mut connection.partial, &self.buffer[used..kept + length]);
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
        if self.connections[index].polling.is_some() {
            return self.take_response(index, length, now, deliver);
        }
        if self.connections[index].state == State::Upgrading {
            let Some(head) = self.upgraded(length)? else { return Ok(0) };
            self.connections[index].state = State::Opening;
            used = head;
        }
        loop {
            let next = self
                .decoder
                .next(&self.buffer[used..length])
                .map_err(|error| anyhow!("connection {index}: {error:?}"))?;
            let Some((message, bytes)) = next else { return Ok(used) };
            used += bytes;
            match message {
                Message::Packet(packet) if is_event(packet) => deliver(index, packet, now)?,
                Message::Packet(packet) => {
                    let packet = packet.to_vec();
                    self.control(index, &packet, now)?;
                }
                Message::Ping(body) => {
                    let pong = codec::client_frame(PONG, body);
                    self.send(index, &pong)?;
                }
                Message::Pong => {}
                Message::Close => return Err(self.lost(index, anyhow!("close frame"))),
            }
        }
    }

    /// Length of the response head in `buffer[..length]`, once it is there and as it has to be.
    fn upgraded(&self, length: usize) -> Result<Option<usize>> {
        let head = codec::upgrade_response(&self.buffer[..length]).map_err(|error| {
            let text = String::from_utf8_lossy(&self.buffer[..length.min(200)]);
            anyhow!("websocket upgrade: {error:?}; the server said: {text}")
        })?;
        let Some(head) = head else { return Ok(None) };
        let accepted = deflate::is_accepted(head)
            .map_err(|error| anyhow!("websocket upgrade: {error:?}; the server said: {head}"))?;
        if accepted != self.dialect.deflate {
            bail!(
                "the server does not compress: turn permessage-deflate on there (bench_server \
                 --deflate), or off in the scenario"
            );
        }
        Ok(Some(head.len() + 2))
    }

    /// Everything but events: the handshake's packets, heartbeats, the end.
    pub(crate) fn control(&mut self, index: usize, packet: &[u8], now: Instant) -> Result<()> {
        let state = self.connections[index].state;
        match (packet, state) {
            ([b'2'], _) => self.say(index, b"3"),
            // Frees a parked GET.
            ([b'6'], State::Joining | State::Ready) => Ok(()),
            ([b'0', b'{', ..], State::Opening) => {
                let connection = &mut self.connections[index];
                connection.state = State::Joining;
                if let Some(polling) = &mut connection.polling {
                    polling.session = polling::Session::new(packet)
                        .map_err(|error| anyhow!("connection {index}: {error:?}"))?;
                }
                self.say(index, b"40")
            }
            ([b'4', b'0', ..], State::Joining) => {
                let connection = &mut self.connections[index];
                connection.state = State::Ready;
                self.ready += 1;
                let spent = now - connection.started;
                self.handshakes.record(spent.as_nanos() as u64);
                Ok(())
            }
            ([b'1'], _) => Err(self.lost(index, anyhow!("close packet"))),
            _ => bail!(
                "connection {index} ({state:?}) received an unexpected packet: {}",
                String::from_utf8_lossy(&packet[..packet.len().min(200)])
            ),
        }
    }

    pub(crate) fn lost(&self, index: usize, error: anyhow::Error) -> anyhow::Error {
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

/// Whether `packet` is an event; one with attachments is handed on with them.
pub(crate) fn is_event(packet: &[u8]) -> bool {
    packet.starts_with(b"42") || packet.starts_with(b"45")
}

/// Keeps `rest` for the next read; nothing on the heap if it is empty, as it nearly always is.
pub(crate) fn keep(partial: &mut Vec<u8>, rest: &[u8]) {
    if rest.is_empty() {
        *partial = Vec::new();
    } else {
        partial.clear();
        partial.extend_from_slice(rest);
    }
}
