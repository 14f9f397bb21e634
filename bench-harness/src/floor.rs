//! The floor: the least work that satisfies the load client, as a number to divide by.
//!
//! One thread, one epoll, canned replies. It knows the client's frames: whole in one read,
//! never fragmented, events told apart by one byte. There are no ids, no limits, no checks; a
//! peer that is not our client is dropped or misunderstood. What remains per delivery is one
//! send(2), per echo one recv(2) and one send(2), per heartbeat one send(2) and one recv(2),
//! which a server on sockets cannot avoid.
//!
//! How broadcasts in flight coalesce: each is appended once to a ring of bytes, and every
//! member has a cursor into it. A sweep visits the members in a circle and gives each, in one
//! send, everything between its cursor and the head; after a few sends it looks whether more
//! has arrived. A broadcast that arrives in the middle of a sweep therefore rides along with
//! the rest of it, and N members cost N sends per revolution however many broadcasts are in
//! flight, whenever they came in. A broadcast to a room is sent at once, one send each.
//!
//! Heartbeats go round the members at a steady pace, each having its turn once in an interval;
//! what is due is sent every [`BEAT`]. That pongs come is not checked.
//!
//! ```text
//!   ring   ..|msg 41|msg 42|msg 43|            members  0 1 2 3 4 5 6 7
//!                   ^ cursor of 6  ^ head                     at ^  next: send 42, 43 to 6
//! ```

use std::collections::HashMap;
use std::io::ErrorKind::WouldBlock;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::codec::{ACCEPT, TEXT};
use crate::sys::{self, EDGE, Epoll, IN};

/// Sends between two looks at the input: a look costs a tenth of a send.
const SENDS_PER_LOOK: usize = 64;
/// More than any burst of broadcasts; a member this far behind is dropped.
const RING: usize = 1 << 20;
/// Time between two looks at which pings are due: few enough wake-ups to cost nothing.
const BEAT: Duration = Duration::from_millis(32);
const PING: &[u8] = &[0x80 | TEXT, 1, b'2'];
/// Token of the listener; a connection's token is its descriptor.
const LISTENER: u64 = u64::MAX;

struct Connection {
    /// Closed with the connection; everything else goes by its number.
    _fd: OwnedFd,
    /// Position in `members`, `u32::MAX` until the namespace was joined.
    place: u32,
    /// Bytes of the ring that were sent, counted from the first broadcast ever; ≤ `head`.
    cursor: u64,
    /// Names in `Floor::rooms`.
    rooms: Vec<Vec<u8>>,
}

struct Floor {
    epoll: Epoll,
    listener: TcpListener,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    members: Vec<RawFd>,
    rooms: HashMap<Vec<u8>, Vec<RawFd>>,
    pings: Pings,
    /// The member that the sweep visits next; < `members.len()` unless that is 0.
    at: usize,
    /// Visits until every member has had what is in the ring.
    left: usize,
    ring: Vec<u8>,
    /// Bytes ever appended; `ring[head % RING]` is written next.
    head: u64,
    /// The answer to the upgrade request: the 101 head and the Engine.IO open packet.
    hello: &'static [u8],
    /// The answer to `40`.
    welcome: &'static [u8],
    input: Vec<u8>,
}

/// Whose turn it is to be pinged.
struct Pings {
    interval: Duration,
    last: Instant,
    /// Pings that are due at `last` and were not sent.
    owed: f64,
    /// Place of the member that was pinged last.
    at: usize,
}

/// Serves on `address` for ever, pinging each client once every `interval`. Prints the address
/// that was bound, for port 0.
pub(crate) fn run(address: SocketAddr, interval: Duration) -> Result<()> {
    sys::raise_open_files()?;
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    listener.set_nonblocking(true)?;
    let fd = listener.as_raw_fd();
    sys::set_backlog(fd, 4096)?;
    sys::no_delay(fd)?;
    // Accept only what can be answered at once: one wake-up and one epoll event less each,
    // 24 µs of CPU per connection instead of 36.
    sys::defer_accept(fd, 5)?;
    let epoll = Epoll::new(512)?;
    epoll.add(fd, IN, LISTENER)?;
    println!("floor listens on {}", listener.local_addr()?);
    std::io::stdout().flush()?;

    let mut floor = Floor {
        epoll,
        listener,
        connections: Vec::new(),
        members: Vec::new(),
        rooms: HashMap::new(),
        pings: Pings { interval, last: Instant::now(), owed: 0.0, at: 0 },
        at: 0,
        left: 0,
        ring: vec![0; RING],
        head: 0,
        hello: hello(interval).leak(),
        welcome: text_frame(br#"40{"sid":"AAAAAAAAAAAAAAAAAAAA"}"#).leak(),
        input: vec![0; 64 * 1024],
    };
    loop {
        let idle = floor.left == 0;
        floor.look(if idle { BEAT.as_millis() as i32 } else { 0 })?;
        floor.ping();
        for _ in 0..floor.left.min(SENDS_PER_LOOK) {
            floor.visit();
        }
    }
}

impl Floor {
    fn look(&mut self, timeout_ms: i32) -> Result<()> {
        for index in 0..self.epoll.wait(timeout_ms)? {
            match self.epoll.token(index) {
                LISTENER => self.accept()?,
                fd => self.read(fd as RawFd),
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let fd = match sys::accept(self.listener.as_raw_fd()) {
                Ok(fd) => fd,
                Err(error) if error.kind() == WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accept"),
            };
            let raw = fd.as_raw_fd();
            if self.connections.len() <= raw as usize {
                self.connections.resize_with(raw as usize + 1, || None);
            }
            let connection = Connection { _fd: fd, place: u32::MAX, cursor: 0, rooms: Vec::new() };
            self.connections[raw as usize] = Some(connection);
            // The request was there when the listener was woken; take it before the first
            // event, and let epoll report only what comes after.
            self.read(raw);
            if self.connections[raw as usize].is_some() {
                self.epoll.add(raw, IN | EDGE, raw as u64)?;
            }
        }
    }

    /// One recv(2): with an edge-triggered epoll a short read means that no more is there.
    fn read(&mut self, fd: RawFd) {
        match sys::recv(fd, &mut self.input) {
            Ok(0) => self.drop_connection(fd),
            Ok(length) => self.answer(fd, length),
            Err(error) if error.kind() == WouldBlock => {}
            Err(_) => self.drop_connection(fd),
        }
    }

    /// Takes the messages in `input[..length]` apart and answers them.
    fn answer(&mut self, fd: RawFd, length: usize) {
        if self.input[0] == b'G' {
            self.send_whole(fd, self.hello);
            return;
        }
        let mut start = 0;
        while start < length {
            // Two bytes of header for short payloads, four for those up to 64 KiB.
            let (mask_at, size) = match usize::from(self.input[start + 1] & 0x7f) {
                126 => {
                    let size = [self.input[start + 2], self.input[start + 3]];
                    (start + 4, usize::from(u16::from_be_bytes(size)))
                }
                size => (start + 2, size),
            };
            let (body, end) = (mask_at + 4, mask_at + 4 + size);
            if end > length {
                return self.drop_connection(fd);
            }
            unmask(&mut self.input[mask_at..end]);
            match (size, self.input[body + 2], self.input.get(body + 4)) {
                (1, ..) => {}
                (2, ..) => self.join(fd),
                (_, b'0'..=b'9', _) => self.change_room(fd, body + 2..end),
                (_, _, Some(b't')) => self.send_to_room(body..end),
                (_, _, Some(b'p')) => {
                    // `pub` becomes `msg`: as long, so that the frame is complete in place.
                    self.input[body + 4..body + 7].copy_from_slice(b"msg");
                    let frame = set_header(&mut self.input, body, size);
                    self.append(frame, end);
                }
                _ => {
                    let frame = set_header(&mut self.input, body, size);
                    let sent = sys::send(fd, &self.input[frame..end]);
                    if sent.ok() != Some(end - frame) {
                        return self.drop_connection(fd);
                    }
                }
            }
            start = end;
        }
    }

    fn join(&mut self, fd: RawFd) {
        if let Some(connection) = &mut self.connections[fd as usize] {
            connection.place = self.members.len() as u32;
            connection.cursor = self.head;
            self.members.push(fd);
            // It has nothing to get, but the sweep passes it on its way to those behind it.
            if self.left > 0 {
                self.left += 1;
            }
            self.send_whole(fd, self.welcome);
        }
    }

    /// `0["join","room"]` or `leave`, with the number of its acknowledgement.
    fn change_room(&mut self, fd: RawFd, event: Range<usize>) {
        let event = &self.input[event];
        let parts: Vec<&[u8]> = event.split(|byte| *byte == b'"').collect();
        let ([id, name, _, room, ..], Some(connection)) =
            (parts.as_slice(), &mut self.connections[fd as usize])
        else {
            return;
        };
        let answer = text_frame(&[b"43", &id[..id.len() - 1], b"[]"].concat());
        if *name == b"join" {
            connection.rooms.push(room.to_vec());
            self.rooms.entry(room.to_vec()).or_default().push(fd);
        } else {
            connection.rooms.retain(|own| own != room);
            leave(&mut self.rooms, room, fd);
        }
        self.send_whole(fd, &answer);
    }

    /// `42["to","room","data"]`: `msg` with the data to the room.
    fn send_to_room(&mut self, event: Range<usize>) {
        let event = &self.input[event];
        let mut quotes = event.iter().enumerate().filter(|(_, byte)| **byte == b'"');
        let (Some((from, _)), Some((to, _))) = (quotes.nth(2), quotes.next()) else { return };
        let frame = text_frame(&[b"42[\"msg\"", &event[to + 1..]].concat());
        for fd in self.rooms.get(&event[from + 1..to]).cloned().unwrap_or_default() {
            self.send_whole(fd, &frame);
        }
    }

    /// Pings the members whose turn it is.
    fn ping(&mut self) {
        let pings = &mut self.pings;
        let (now, members) = (Instant::now(), self.members.len());
        let spent = now - pings.last;
        if spent < BEAT {
            return;
        }
        pings.last = now;
        pings.owed += members as f64 * spent.as_secs_f64() / pings.interval.as_secs_f64();
        for _ in 0..(pings.owed as usize).min(members) {
            pings.owed -= 1.0;
            pings.at = if pings.at + 1 < members { pings.at + 1 } else { 0 };
            // One that takes nothing now will be noticed by the next broadcast.
            let _ = sys::send(self.members[pings.at], PING);
        }
    }

    fn append(&mut self, start: usize, end: usize) {
        let frame = &self.input[start..end];
        let at = (self.head % RING as u64) as usize;
        let (first, second) = frame.split_at(frame.len().min(RING - at));
        self.ring[at..at + first.len()].copy_from_slice(first);
        self.ring[..second.len()].copy_from_slice(second);
        self.head += frame.len() as u64;
        self.left = self.members.len();
    }

    /// Sends to one member what it has not had yet.
    fn visit(&mut self) {
        self.left = self.left.saturating_sub(1);
        let Some(&fd) = self.members.get(self.at) else { return };
        self.at = if self.at + 1 < self.members.len() { self.at + 1 } else { 0 };
        let Some(connection) = &mut self.connections[fd as usize] else { return };
        if self.head - connection.cursor > RING as u64 {
            return self.drop_connection(fd);
        }
        while connection.cursor < self.head {
            let from = (connection.cursor % RING as u64) as usize;
            let to = RING.min(from + (self.head - connection.cursor) as usize);
            match sys::send(fd, &self.ring[from..to]) {
                Ok(sent) => connection.cursor += sent as u64,
                // Its buffer is full: once more round.
                Err(error) if error.kind() == WouldBlock => {
                    self.left = self.members.len();
                    return;
                }
                Err(_) => return self.drop_connection(fd),
            }
        }
    }

    fn send_whole(&mut self, fd: RawFd, bytes: &[u8]) {
        if sys::send(fd, bytes).ok() != Some(bytes.len()) {
            self.drop_connection(fd);
        }
    }

    fn drop_connection(&mut self, fd: RawFd) {
        let Some(connection) = self.connections[fd as usize].take() else { return };
        for room in &connection.rooms {
            leave(&mut self.rooms, room, fd);
        }
        let place = connection.place as usize;
        if place < self.members.len() {
            self.members.swap_remove(place);
            // The one that takes its place may have been ahead of the sweep and be behind it now.
            if self.left > 0 {
                self.left = self.members.len();
            }
            if let Some(&moved) = self.members.get(place)
                && let Some(moved) = &mut self.connections[moved as usize]
            {
                moved.place = place as u32;
            }
            if self.at >= self.members.len() {
                self.at = 0;
            }
        }
    }
}

fn leave(rooms: &mut HashMap<Vec<u8>, Vec<RawFd>>, room: &[u8], fd: RawFd) {
    if let Some(members) = rooms.get_mut(room) {
        members.retain(|member| *member != fd);
        if members.is_empty() {
            rooms.remove(room);
        }
    }
}

/// Unmasks `bytes`, which begin with the four bytes of the mask; those become zero.
fn unmask(bytes: &mut [u8]) {
    let Some(mask) = bytes.first_chunk::<4>().copied() else { return };
    let wide = u64::from(u32::from_ne_bytes(mask)) * 0x1_0000_0001;
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Writes a server's header in front of the payload at `body`, over what is left of the
/// client's, which was longer by the mask; returns where the frame starts.
fn set_header(input: &mut [u8], body: usize, size: usize) -> usize {
    let start = if size < 126 {
        input[body - 1] = size as u8;
        body - 2
    } else {
        input[body - 3] = 126;
        input[body - 2..body].copy_from_slice(&(size as u16).to_be_bytes());
        body - 4
    };
    input[start] = 0x80 | TEXT;
    start
}

fn hello(interval: Duration) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
    .into_bytes();
    let open = format!(
        "0{{\"sid\":\"AAAAAAAAAAAAAAAAAAAA\",\"upgrades\":[],\"pingInterval\":{},\
         \"pingTimeout\":20000,\"maxPayload\":1000000}}",
        interval.as_millis()
    );
    bytes.extend(text_frame(open.as_bytes()));
    bytes
}

fn text_frame(payload: &[u8]) -> Vec<u8> {
    // Room for the longest header in front of the payload.
    let mut bytes = [&[0; 4], payload].concat();
    let start = set_header(&mut bytes, 4, payload.len());
    bytes.split_off(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{client_frame, server_frame};

    #[test]
    fn a_client_frame_becomes_a_server_frame_in_place() {
        for size in [12usize, 13, 14, 15, 17, 124, 125, 126, 127, 1000, 1003] {
            let payload: Vec<u8> = (0..size).map(|index| b'a' + (index % 26) as u8).collect();
            let mut bytes = client_frame(TEXT, &payload);
            let body = bytes.len() - size;
            unmask(&mut bytes[body - 4..]);
            let start = set_header(&mut bytes, body, size);
            let frame = server_frame(&bytes[start..]).expect("valid").expect("whole");
            assert_eq!(&bytes[start..][frame.payload], payload.as_slice());
        }
    }
}
