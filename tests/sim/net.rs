//! The simulated network: two byte queues per connection, and how each side ended.

use std::collections::VecDeque;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Open,
    Eof,
    Reset,
}

/// Where the server's end of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Not yet accepted; the shard that the kernel chose.
    Backlog(usize),
    At(usize, u32),
    /// On its way to another shard.
    Moving,
    Gone,
}

#[derive(Debug)]
pub struct Stream {
    pub up: VecDeque<u8>,
    pub up_end: End,
    pub down: VecDeque<u8>,
    pub down_end: End,
    pub place: Place,
    /// What the client has read and not yet understood.
    pub inbox: Vec<u8>,
    /// The client does not read: the server can send until the window is full.
    pub stalled: bool,
    /// The client has let go: nobody reads what comes.
    pub closed: bool,
}

#[derive(Debug, Default)]
pub struct Net {
    pub streams: Vec<Stream>,
}

/// Bytes that the kernels hold between a server and a client that does not read.
pub const WINDOW: usize = 3_000;

impl Net {
    pub fn open(&mut self, shard: usize) -> usize {
        self.streams.push(Stream {
            up: VecDeque::new(),
            up_end: End::Open,
            down: VecDeque::new(),
            down_end: End::Open,
            place: Place::Backlog(shard),
            inbox: Vec::new(),
            stalled: false,
            closed: false,
        });
        self.streams.len() - 1
    }

    pub fn write(&mut self, stream: usize, bytes: &[u8]) {
        let stream = &mut self.streams[stream];
        if stream.up_end == End::Open {
            stream.up.extend(bytes);
        }
    }

    /// The client will send nothing more.
    pub fn half_close(&mut self, stream: usize) {
        let stream = &mut self.streams[stream];
        if stream.up_end == End::Open {
            stream.up_end = End::Eof;
        }
    }

    /// The client closes its socket.
    pub fn close(&mut self, stream: usize) {
        self.half_close(stream);
        self.streams[stream].closed = true;
    }

    pub fn reset(&mut self, stream: usize, loses_bytes: bool) {
        let stream = &mut self.streams[stream];
        (stream.up_end, stream.closed) = (End::Reset, true);
        if loses_bytes {
            stream.up.clear();
        }
    }

    /// The client reads up to `max` bytes. False once nothing more will come.
    pub fn read(&mut self, stream: usize, max: usize) -> bool {
        let stream = &mut self.streams[stream];
        if stream.stalled {
            return true;
        }
        let n = stream.down.len().min(max);
        stream.inbox.extend(stream.down.drain(..n));
        !stream.down.is_empty() || stream.down_end == End::Open
    }

    /// Whether the kernels take more bytes for the client.
    pub fn takes(&self, stream: usize) -> bool {
        self.streams[stream].down.len() < WINDOW || self.streams[stream].closed
    }
}
