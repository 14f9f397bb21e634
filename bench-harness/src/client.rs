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

use std::io::{
    self,
    ErrorKind::{AddrNotAvailable, ConnectionRefused, WouldBlock},
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::codec::{self, PONG, TEXT};
use crate::deflate;
use crate::event::{Event, Stamp};
use crate::load::Part;
use crate::message::{Decoder, Message};
use crate::poller::Polling;
use crate::polling;
use crate::scenario::Clients;
use crate::sys::{self, EDGE, Epoll, HANGUP, IN, OUT};

/// Connections of one source address. The usual ephemeral range has 28,232 ports, but connect(2)
/// looks at one half of them first, port by port: 19,000 connections of one address took 52 s,
/// 18 s of it CPU time of the client, and 7 s (1.5 s) of two.
const PER_SOURCE: usize = 12_000;
/// What one recv(2) may take, doubled when a frame or response turns out to be longer,
const BUFFER: usize = 256 * 1024;
/// up to this: servers answer a poll with all that they have queued, corecast with 1 MiB or more.
const BUFFER_MAX: usize = 16 << 20;
/// Token of the descriptor that `Client::watch` was given.
const CALL: u64 = u64::MAX;

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
    /// The server has closed it, which is no error: it had stopped reading.
    Closed,
}

/// What the clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    Websocket,
    /// HTTP long-polling: a connection for GETs, and one for POSTs while there are any.
    Polling,
}

/// One client, and nothing else on the heap while it is idle on websocket.
pub(crate) struct Connection {
    socket: OwnedFd,
    state: State,
    /// Until it is `Ready`, when connecting was intended to begin; then when the last heartbeat
    /// came, or the session was opened. Nanoseconds.
    mark: u64,
    /// The beginning of a frame or response whose rest has not come.
    partial: Vec<u8>,
    unsent: Unsent,
    /// `None` on websocket.
    pub(crate) polling: Option<Box<Polling>>,
}

/// What a socket would not take yet, in order. Grows while the server does not read: whoever sends
/// on schedule has sent, as an application has that calls `emit`.
#[derive(Default)]
pub(crate) struct Unsent(Vec<u8>);

impl Unsent {
    /// Sends `bytes` behind what waits, as far as the socket takes it.
    pub(crate) fn send(&mut self, socket: RawFd, bytes: &[u8]) -> io::Result<()> {
        if !self.0.is_empty() {
            self.0.extend_from_slice(bytes);
            return self.flush(socket);
        }
        match sys::send(socket, bytes) {
            Ok(sent) => self.0.extend_from_slice(&bytes[sent..]),
            Err(error) if error.kind() == WouldBlock => self.0.extend_from_slice(bytes),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Sends on what waits; due when the socket has become writable.
    pub(crate) fn flush(&mut self, socket: RawFd) -> io::Result<()> {
        let mut done = 0;
        while done < self.0.len() {
            match sys::send(socket, &self.0[done..]) {
                Ok(sent) => done += sent,
                Err(error) if error.kind() == WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.0.drain(..done);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        Ok(())
    }
}

/// What a turn tells about a connection.
#[derive(Debug)]
pub(crate) enum Heard<'a> {
    /// A Socket.IO event or acknowledgement, its Engine.IO type digit included.
    Packet(&'a [u8]),
    /// It joined the namespace; connecting was intended to begin then.
    Joined { intended: u64 },
    /// The server's ping, answered already, which was due then.
    Ping { due: u64 },
}

/// How clients wait for the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
    pub(crate) wait: Wait,
    transport: Transport,
    deflate: bool,
    sources: Vec<IpAddr>,
    /// Client `index` of this process is number `index * stride + first` of all.
    first: usize,
    stride: usize,
    /// Files that this process needs at most: a client that polls has a second one for its POSTs.
    files: usize,
    /// Connections that stop reading when they have joined, until `is_awake`.
    stalled: Range<usize>,
    is_awake: bool,
    /// The server's, from the first open packet.
    ping_interval: u64,
    /// Something can be read from the descriptor that `watch` was given.
    pub(crate) is_called: bool,
    /// The target as requests name it.
    pub(crate) host: String,
    /// The first request.
    request: Vec<u8>,
    pub(crate) buffer: Vec<u8>,
    /// Where later requests are written.
    pub(crate) scratch: Vec<u8>,
    decoder: Decoder,
}

impl Client {
    /// The clients of process number `first` of `clients.processes`; none is connected yet.
    pub(crate) fn new(target: SocketAddr, clients: &Clients, first: usize) -> Result<Self> {
        let Clients { wait, transport, deflate, .. } = *clients;
        let part = Part { process: first, processes: clients.processes };
        let (steady, host) = (clients.steady(), target.to_string());
        let count = clients.count.div_ceil(clients.processes);
        let files_each = if transport == Transport::Polling { 2 } else { 1 };
        let request = match transport {
            Transport::Polling => polling::open_request(&host),
            Transport::Websocket if deflate => codec::upgrade_request(&host, deflate::OFFER),
            Transport::Websocket => codec::upgrade_request(&host, ""),
        };
        Ok(Self {
            epoll: Epoll::new(256)?,
            connections: Vec::with_capacity(count),
            ready: 0,
            target,
            wait,
            transport,
            deflate,
            sources: sources(target, clients),
            first,
            stride: clients.processes,
            files: files_each * count + 100,
            stalled: part.of(steady)..part.of(steady + clients.stalled()),
            is_awake: false,
            ping_interval: 0,
            is_called: false,
            host,
            request,
            buffer: vec![0; BUFFER],
            scratch: Vec::new(),
            decoder: Decoder::new(deflate.then_some(BUFFER_MAX)),
        })
    }

    /// Sets `is_called` when something can be read from `fd`.
    pub(crate) fn watch(&self, fd: RawFd) -> Result<()> {
        Ok(self.epoll.add(fd, IN, CALL)?)
    }

    /// Connections, those that have not joined the namespace yet included.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Connections that joined the namespace.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// Opens one more connection. Ends with `Heard::Joined`.
    pub(crate) fn start(&mut self, intended: u64) -> Result<()> {
        let connection = self.connection(self.connections.len(), intended)?;
        self.connections.push(connection);
        Ok(())
    }

    /// Closes connection `index` and opens it anew. Ends with `Heard::Joined`.
    pub(crate) fn restart(&mut self, index: usize, intended: u64) -> Result<()> {
        self.ready -= usize::from(self.connections[index].state == State::Ready);
        self.connections[index] = self.connection(index, intended)?;
        Ok(())
    }

    /// Closes all connections but the first `count`; says how many of them had joined.
    pub(crate) fn truncate(&mut self, count: usize) -> usize {
        let surplus = self.connections.drain(count.min(self.connections.len())..);
        let gone = surplus.filter(|connection| connection.state == State::Ready).count();
        self.ready -= gone;
        gone
    }

    fn connection(&self, index: usize, intended: u64) -> Result<Connection> {
        let socket = self.open(index, 0)?;
        let polling = (self.transport == Transport::Polling).then(Box::default);
        let (state, partial, unsent) = (State::Connecting, Vec::new(), Unsent::default());
        Ok(Connection { socket, state, mark: intended, partial, unsent, polling })
    }

    /// How far the handshakes in progress have come: how many are in which state.
    pub(crate) fn handshakes(&self) -> String {
        let open = |state| {
            let count = self.connections.iter().filter(|one| one.state == state).count();
            (count > 0).then(|| format!("{count} {}", format!("{state:?}").to_lowercase()))
        };
        let states = [State::Connecting, State::Upgrading, State::Opening, State::Joining];
        states.into_iter().filter_map(open).collect::<Vec<_>>().join(", ")
    }

    /// The heartbeats that are overdue at `now`, among the first `count` connections.
    pub(crate) fn overdue(&self, now: u64, count: usize) -> impl Iterator<Item = u64> {
        let interval = if self.ping_interval > 0 { self.ping_interval } else { u64::MAX };
        self.connections[..count.min(self.connections.len())]
            .iter()
            .filter(|connection| connection.state == State::Ready)
            .filter_map(move |connection| now.checked_sub(connection.mark.saturating_add(interval)))
    }

    /// Opens a socket of client `index`: 0 is its own, 1 that of its POSTs.
    pub(crate) fn open(&self, index: usize, socket: u64) -> Result<OwnedFd> {
        let number = index * self.stride + self.first;
        let source = self.sources.get(number % self.sources.len().max(1)).copied();
        let count = self.connections.len();
        let stream = sys::connect(self.target, source).map_err(|error| match error.kind() {
            AddrNotAvailable => anyhow!(
                "no source port or address left after {count} connections: widen \
                 net.ipv4.ip_local_port_range, give more `sources` (each has to be an address of \
                 this machine), or wait a minute for TIME_WAIT to pass"
            ),
            ConnectionRefused => self.refused(),
            // What is in force is the hard limit: each process raises the soft one when it starts.
            _ if error.raw_os_error() == Some(24) => anyhow!(
                "no file left after {count} connections: use more processes (`processes` in \
                 [clients]), or run it as root after `ulimit -n {}`",
                self.files
            ),
            _ => anyhow!(error).context(format!("connection {index} to {}", self.target)),
        })?;
        sys::reset_on_close(stream.as_raw_fd())?;
        // Edge-triggered, so that an idle socket's writability costs one event, once.
        self.epoll.add(
            stream.as_raw_fd(),
            IN | OUT | HANGUP | EDGE,
            (index as u64) << 1 | socket,
        )?;
        Ok(stream)
    }

    /// Sends a message of `event`, to room number `room` if it goes to rooms, as `index`.
    pub(crate) fn emit(
        &mut self,
        index: usize,
        event: &mut Event,
        room: u64,
        stamp: Stamp,
    ) -> Result<()> {
        match &mut self.connections[index].polling {
            None => self.send(index, event.frame(room, stamp)),
            Some(polling) => {
                polling.session.queue(&event.payload(room, stamp));
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

    /// Sends `bytes`, whole frames or a request, as connection `index`.
    pub(crate) fn send(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let connection = &mut self.connections[index];
        let sent = connection.unsent.send(connection.socket.as_raw_fd(), bytes);
        sent.or_else(|error| self.lose(index, error.into()))
    }

    /// Sends on what the socket of `index` would not take before.
    fn flush(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let sent = connection.unsent.flush(connection.socket.as_raw_fd());
        sent.or_else(|error| self.lose(index, error.into()))
    }

    /// Waits up to `timeout` for events and handles one round of them. `tell` gets the
    /// connection, what was heard and the time at which it was read.
    pub(crate) fn turn(
        &mut self,
        timeout: Duration,
        mut tell: impl FnMut(usize, Heard<'_>, u64) -> Result<()>,
    ) -> Result<()> {
        for event in 0..self.events(timeout)? {
            let token = self.epoll.token(event);
            if token == CALL {
                self.is_called = true;
                continue;
            }
            let index = (token >> 1) as usize;
            if token & 1 == 1 {
                self.turn_post(index)?;
            } else if self.connections[index].state == State::Connecting {
                self.request(index)?;
            } else if !self.is_deaf(index) {
                self.flush(index)?;
                let is_last = self.epoll.is_last(event);
                self.read(index, is_last, &mut tell)?;
            }
        }
        Ok(())
    }

    /// Whether `index` has stopped reading.
    pub(crate) fn is_deaf(&self, index: usize) -> bool {
        let is_stalled = self.stalled.contains(&index) && !self.is_awake;
        is_stalled && self.connections[index].state == State::Ready
    }

    /// Those who stop reading, as far as they are connected.
    pub(crate) fn stalled(&self) -> Range<usize> {
        self.stalled.start..self.stalled.end.min(self.connections.len())
    }

    pub(crate) fn is_closed(&self, index: usize) -> bool {
        self.connections[index].state == State::Closed
    }

    /// Lets those who had stopped reading read again. From then on the server may have closed them.
    pub(crate) fn wake(
        &mut self,
        mut tell: impl FnMut(usize, Heard<'_>, u64) -> Result<()>,
    ) -> Result<()> {
        self.is_awake = true;
        for index in self.stalled() {
            if self.connections[index].polling.is_some() {
                self.get(index)?;
            }
            self.read(index, true, &mut tell)?;
        }
        Ok(())
    }

    fn events(&mut self, timeout: Duration) -> Result<usize> {
        if self.wait == Wait::Block {
            return Ok(self.epoll.wait_for(timeout)?);
        }
        let deadline = sys::now() + timeout.as_nanos() as u64;
        loop {
            let count = self.epoll.wait(0)?;
            if count > 0 || sys::now() >= deadline {
                return Ok(count);
            }
        }
    }

    fn request(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        match sys::send(connection.socket.as_raw_fd(), &self.request) {
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
        is_last: bool,
        tell: &mut impl FnMut(usize, Heard<'_>, u64) -> Result<()>,
    ) -> Result<()> {
        loop {
            let connection = &mut self.connections[index];
            let kept = connection.partial.len();
            self.buffer[..kept].copy_from_slice(&connection.partial);
            let room = &mut self.buffer[kept..];
            let length = match sys::recv(connection.socket.as_raw_fd(), room) {
                Ok(0) => return self.lose(index, anyhow!("end of stream")),
                Ok(length) => length,
                Err(error) if error.kind() == WouldBlock => return Ok(()),
                Err(error) => return self.lose(index, error.into()),
            };
            let drained = length < room.len();
            let used = self.take(index, kept + length, tell)?;
            let connection = &mut self.connections[index];
            connection.partial = self.buffer[used..kept + length].to_vec();
            if connection.partial.len() == BUFFER_MAX {
                bail!("connection {index} received a message of more than {BUFFER_MAX} bytes");
            } else if connection.partial.len() == self.buffer.len() {
                self.buffer.resize(2 * self.buffer.len(), 0);
            }
            // With an edge-triggered epoll a short read means that no more is there, unless the
            // end is: it is reported once, perhaps with the bytes in front of it.
            if drained && !is_last || self.is_deaf(index) {
                return Ok(());
            }
        }
    }

    /// Handles the complete messages of `buffer[..length]`; returns how many bytes they were.
    fn take(
        &mut self,
        index: usize,
        length: usize,
        tell: &mut impl FnMut(usize, Heard<'_>, u64) -> Result<()>,
    ) -> Result<usize> {
        let now = sys::now();
        let mut used = 0;
        if self.connections[index].polling.is_some() {
            return self.take_response(index, length, now, tell);
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
                Message::Packet(packet) if is_event(packet) => {
                    tell(index, Heard::Packet(packet), now)?;
                }
                Message::Packet(packet) => {
                    let packet = packet.to_vec();
                    self.control(index, &packet, now, tell)?;
                    if self.is_deaf(index) {
                        return Ok(used);
                    }
                }
                Message::Ping(body) => {
                    let pong = codec::client_frame(PONG, body);
                    self.send(index, &pong)?;
                }
                Message::Pong => {}
                Message::Close => self.lose(index, anyhow!("close frame"))?,
            }
        }
    }

    /// Length of the response head in `buffer[..length]`, once it is there and as it has to be.
    fn upgraded(&self, length: usize) -> Result<Option<usize>> {
        let head = codec::upgrade_response(&self.buffer[..length]).map_err(|error| {
            let text = String::from_utf8_lossy(&self.buffer[..length.min(200)]);
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            anyhow!("websocket upgrade: {error:?}; the server said: {line}")
        })?;
        let Some(head) = head else { return Ok(None) };
        let accepted = deflate::is_accepted(head)
            .map_err(|error| anyhow!("websocket upgrade: {error:?}; the server said: {head}"))?;
        if accepted != self.deflate {
            bail!(
                "the server does not compress: turn permessage-deflate on there (bench_server \
                 --deflate), or off in the scenario"
            );
        }
        Ok(Some(head.len() + 2))
    }

    /// Everything but events: the handshake's packets, heartbeats, the end.
    pub(crate) fn control(
        &mut self,
        index: usize,
        packet: &[u8],
        now: u64,
        tell: &mut impl FnMut(usize, Heard<'_>, u64) -> Result<()>,
    ) -> Result<()> {
        let connection = &mut self.connections[index];
        match (packet, connection.state) {
            ([b'2'], state) => {
                let due = connection.mark + self.ping_interval;
                if state == State::Ready {
                    connection.mark = now;
                }
                self.say(index, b"3")?;
                if state == State::Ready { tell(index, Heard::Ping { due }, now) } else { Ok(()) }
            }
            // Frees a parked GET.
            ([b'6'], State::Joining | State::Ready) => Ok(()),
            ([b'0', b'{', ..], State::Opening) => {
                connection.state = State::Joining;
                if self.ping_interval == 0 {
                    self.ping_interval = ping_interval(packet);
                }
                if let Some(polling) = &mut connection.polling {
                    polling.session = polling::Session::new(packet)
                        .map_err(|error| anyhow!("connection {index}: {error:?}"))?;
                }
                self.say(index, b"40")
            }
            ([b'4', b'0', ..], State::Joining) => {
                connection.state = State::Ready;
                let intended = std::mem::replace(&mut connection.mark, now);
                self.ready += 1;
                tell(index, Heard::Joined { intended }, now)
            }
            ([b'1'], _) => self.lose(index, anyhow!("close packet")),
            _ => bail!(
                "connection {index} ({:?}) received an unexpected packet: {}",
                connection.state,
                String::from_utf8_lossy(&packet[..packet.len().min(200)])
            ),
        }
    }

    /// The server has closed connection `index`; an error, unless it may.
    pub(crate) fn lose(&mut self, index: usize, error: anyhow::Error) -> Result<()> {
        if !(self.is_awake && self.stalled.contains(&index)) {
            return Err(self.lost(index, error));
        }
        self.connections[index].state = State::Closed;
        Ok(())
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

/// Where connections come from: as the scenario says, or, if it says nothing, as many addresses
/// of loopback as are needed.
fn sources(target: SocketAddr, clients: &Clients) -> Vec<IpAddr> {
    let per_source = match clients.transport {
        Transport::Websocket => PER_SOURCE,
        Transport::Polling => PER_SOURCE / 2,
    };
    let ours = target.is_ipv4() && target.ip().is_loopback();
    if !clients.sources.is_empty() || !ours || clients.count <= per_source {
        return clients.sources.clone();
    }
    let address = |number: usize| {
        let [high, low] = (number as u16 + 2).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(127, 0, high, low))
    };
    (0..clients.count.div_ceil(per_source)).map(address).collect()
}

/// Nanoseconds between heartbeats, from an open packet; 0 if it does not say.
fn ping_interval(open: &[u8]) -> u64 {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Open {
        ping_interval: u64,
    }
    let open: Option<Open> = open.get(1..).and_then(|json| serde_json::from_slice(json).ok());
    open.map_or(0, |open| open.ping_interval.saturating_mul(1_000_000))
}

/// Whether `packet` is an event or an acknowledgement; attachments are handed on with theirs.
pub(crate) fn is_event(packet: &[u8]) -> bool {
    packet.starts_with(b"42") || packet.starts_with(b"43") || packet.starts_with(b"45")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_a_socket_does_not_take_follows_in_order() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let (mut peer, _) = listener.accept()?;
        let (mut unsent, socket) = (Unsent::default(), stream.as_raw_fd());
        let portion: Vec<u8> = (0..100_003u32).map(|index| (index % 251) as u8).collect();
        // Until the buffers of both ends are full, and then some.
        let mut portions = 0;
        while unsent.0.len() < 1_000_000 {
            unsent.send(socket, &portion)?;
            portions += 1;
        }
        let mut room = vec![0; portion.len()];
        for _ in 0..portions {
            let mut filled = 0;
            while filled < room.len() {
                unsent.flush(socket)?;
                filled += peer.read(&mut room[filled..])?;
            }
            assert!(room == portion);
        }
        assert_eq!((unsent.0.len(), unsent.0.capacity()), (0, 0), "and nothing is kept");
        Ok(())
    }
}
