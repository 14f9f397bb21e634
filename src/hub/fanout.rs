//! Stage, then flush: a frame is encoded once into the palette, staged as a reference on each
//! receiver, and leaves later, together with all else that the receiver was staged meanwhile.
//!
//! Frames lie one behind the other in the palette, so what most sockets have pending is a run of
//! neighbours: one slice, one send, no copy. Where frames are not neighbours, small ones are copied
//! together and large ones are sent one after the other. One send per socket is in flight.

use std::collections::VecDeque;
use std::rc::Rc;

use super::Stats;
use super::buffer::{Chunk, Meter, Owned, SendBuf};
use crate::proto::engine;
use crate::proto::websocket::{self, Opcode};

/// Bytes up to which copying is cheaper than a send of its own.
const COPY_MAX: usize = 4 * 1024;
/// A copied buffer grows up to this many bytes before the next one is begun.
const OWNED_MAX: usize = 64 * 1024;
/// Frames from this size on get a chunk of their own.
const LARGE: usize = 16 * 1024;

/// A packet in the forms that all its receivers share. Frozen; may cross threads.
#[derive(Debug, Clone, Default)]
pub struct Encoded {
    /// Engine.IO text: `4` and the Socket.IO packet; empty if the packet is binary alone.
    pub text: bytes::Bytes,
    /// Attachments that follow it.
    pub attachments: Vec<bytes::Bytes>,
}

/// Appends a packet and its attachments to a polling payload.
pub fn write_payload(text: &[u8], attachments: &[bytes::Bytes], payload: &mut Vec<u8>) {
    let separate = |payload: &mut Vec<u8>| {
        if !payload.is_empty() {
            payload.push(engine::SEPARATOR);
        }
    };
    if !text.is_empty() {
        separate(payload);
        payload.extend_from_slice(text);
    }
    for attachment in attachments {
        separate(payload);
        engine::encode_base64(attachment, payload);
    }
}

/// Appends the packets of a polling payload as websocket frames, for a session that upgrades.
/// Attachments stay base64 in text frames, which every client reads (U-20, H-3).
pub fn payload_to_frames(payload: &[u8], is_revision_3: bool, frames: &mut Vec<u8>) {
    for packet in payload.split(|byte| *byte == engine::SEPARATOR) {
        match packet.strip_prefix(b"b").filter(|_| is_revision_3) {
            None => websocket::write_frame(Opcode::Text, packet, frames),
            Some(base64) => {
                websocket::write_header(Opcode::Text, base64.len() + 2, frames);
                frames.extend_from_slice(b"b4");
                frames.extend_from_slice(base64);
            }
        }
    }
}

/// Bytes in the palette: `chunk[start..end]`.
#[derive(Debug, Clone)]
pub struct Run {
    chunk: Rc<Chunk>,
    start: u32,
    end: u32,
}

impl Run {
    /// Bytes of their own, to be sent to many over time.
    pub fn of(bytes: &[u8]) -> Run {
        let chunk = Chunk::new(bytes.len(), &Meter::default());
        chunk.append(bytes);
        Run { chunk, start: 0, end: bytes.len() as u32 }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// Where frames are written once for all their receivers.
#[derive(Debug)]
pub struct Palette {
    open: Rc<Chunk>,
    scratch: Vec<u8>,
    meter: Meter,
    /// The Engine.IO ping as a websocket frame, written once for the life of the shard.
    ping: Run,
}

impl Palette {
    /// Bytes of a chunk: a turn's frames in most loads, and small enough that a slow reader pins
    /// little.
    pub const CHUNK: usize = 64 * 1024;

    /// A palette with one empty chunk, whose chunks are counted in `meter`.
    pub fn new(meter: &Meter) -> Palette {
        let ping = Run::of(&[0x81, 1, b'2']);
        let open = Chunk::new(Self::CHUNK, meter);
        Palette { open, scratch: Vec::new(), meter: meter.clone(), ping }
    }

    /// The frame of a heartbeat.
    pub fn ping(&self) -> Run {
        self.ping.clone()
    }

    /// Writes bytes behind what is there; `write` appends them to an empty buffer.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Run {
        self.scratch.clear();
        write(&mut self.scratch);
        let len = self.scratch.len();
        let chunk = match len >= LARGE {
            true => Chunk::new(len, &self.meter),
            false => self.open_with_room(len),
        };
        let start = chunk.filled() as u32;
        chunk.append(&self.scratch);
        if self.scratch.capacity() > LARGE {
            self.scratch = Vec::new();
        }
        Run { chunk, start, end: start + len as u32 }
    }

    fn open_with_room(&mut self, len: usize) -> Rc<Chunk> {
        // Nobody else holds the chunk: all of it was sent, so begin again where the cache is warm.
        if let Some(chunk) = Rc::get_mut(&mut self.open) {
            chunk.clear();
        } else if self.open.room() < len {
            self.open = Chunk::new(Self::CHUNK, &self.meter);
        }
        self.open.clone()
    }
}

/// What queues may hold: each by itself, and all of a shard together.
#[derive(Debug)]
pub struct Bounds {
    /// Bytes of one queue.
    pub queue_max: usize,
    /// Bytes of memory for all.
    pub memory_max: usize,
    /// What there is of it.
    pub memory: Meter,
}

/// Whether more fits into a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It does.
    Free,
    /// It does, but so much waits for this shard alone that it should send before it reads on.
    Behind,
    /// It does not.
    Full,
}

impl Room {
    /// Whether more may be queued. Where that leaves the shard behind, it is noted and counted.
    pub fn admits(self, dirty: &mut Dirty, stats: &mut Stats) -> bool {
        if self == Room::Behind {
            stats.pauses += u64::from(dirty.fall_behind());
        }
        self != Room::Full
    }
}

/// Bytes that wait for our own next send to one connection, and not for its peer, from which on a
/// shard is behind. A send of that size is as cheap per byte as they get: to let more come together
/// gains nothing. It is not a bound for the sum, so that many small rooms still come together.
const WINDOW: usize = 64 * 1024;

impl Bounds {
    /// The same for a queue with a bound of its own.
    pub fn of_queue(&self, queue_max: usize) -> Bounds {
        Bounds { queue_max, memory_max: self.memory_max, memory: self.memory.clone() }
    }

    /// Whether `more` bytes fit behind what `queue` has. One packet passes an empty queue.
    ///
    /// A queue may hold what is left of the memory: so the more there is of them, the less each may
    /// hold, and those that hold most are found without a search. Where more waits for a peer than
    /// may for a moment ([`Bounds::moment`]) it is what is left of half of the memory; the rest is
    /// for peers that read. The protocol's own packets (`is_control`) have twice as much room in
    /// their queues: they are not lost with the events that are dropped.
    pub fn room(&self, queue: &OutQueue, more: usize, is_control: bool) -> Room {
        let bytes = queue.bytes() + more;
        let half = self.memory_max / 2;
        let window = WINDOW.min(self.queue_max / 2);
        // Hardly any delivery comes so far as to be looked at more closely.
        if bytes <= window.min(half.saturating_sub(self.memory.bytes())) {
            return Room::Free;
        }
        if self.is_full(bytes, more, queue.is_in_flight(), is_control) {
            return Room::Full;
        }
        let is_short = self.memory.bytes() > half + half / 2;
        let is_behind = !queue.is_in_flight() && (bytes > window || is_short);
        if is_behind { Room::Behind } else { Room::Free }
    }

    /// Bytes that may wait for a peer that reads, while its kernel has no room for a moment.
    fn moment(&self) -> usize {
        WINDOW.min(self.memory_max / 64)
    }

    /// Whether so much is held that sends should pin no more than they carry.
    pub fn is_scarce(&self) -> bool {
        self.memory.bytes() > self.memory_max / 4
    }

    /// Whether a queue holds too much, after something was queued that nobody asked about.
    pub fn is_over(&self, queue: &OutQueue) -> bool {
        self.is_full(queue.bytes(), 0, queue.is_in_flight(), false)
    }

    /// Whether `bytes`, the last `more` of which are new, are too many for a queue.
    pub fn is_full(&self, bytes: usize, more: usize, waits_for_peer: bool, control: bool) -> bool {
        let is_stuck = waits_for_peer && bytes > self.moment();
        let (queue_max, memory_max) = match (control, is_stuck) {
            (true, _) => (2 * self.queue_max, self.memory_max),
            (false, true) => (self.queue_max, self.memory_max / 2),
            (false, false) => (self.queue_max, self.memory_max),
        };
        let left = memory_max.saturating_sub(self.memory.bytes());
        let is_one = bytes == more && self.memory.bytes() < self.memory_max;
        bytes > queue_max.min(left) && !is_one
    }
}

/// What waits to be sent to one connection, in order: `run` first, then `rest`.
#[derive(Debug, Default)]
pub struct OutQueue {
    run: Option<Run>,
    // Boxed, as hardly any connection has one and all have the field.
    #[allow(clippy::box_collection)]
    rest: Option<Box<VecDeque<SendBuf>>>,
    /// Bytes of `run` and `rest`.
    waiting: u32,
    /// Bytes handed to the kernel and not yet reported as sent.
    in_flight: u32,
}

impl OutQueue {
    /// Bytes not yet accepted by the kernel.
    pub fn bytes(&self) -> usize {
        self.waiting as usize + self.in_flight as usize
    }

    /// Whether the kernel holds a send of this connection.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether something is left for a later send.
    pub fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Whether nothing is waiting or in flight.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Adds a reference to shared frames. O(1), no copy in the common case; one is counted in
    /// `meter`.
    pub fn stage(&mut self, run: &Run, meter: &Meter) {
        self.waiting += run.bytes() as u32;
        // A send in flight may take long. Copy then, so that a slow reader pins no shared chunk.
        let copy = self.in_flight > 0 && run.bytes() <= COPY_MAX;
        if self.rest.is_none() && !copy {
            match &mut self.run {
                None => {
                    self.run = Some(run.clone());
                    return;
                }
                Some(last) if Rc::ptr_eq(&last.chunk, &run.chunk) && last.end == run.start => {
                    last.end = run.end;
                    return;
                }
                Some(_) => {}
            }
        }
        self.stage_apart(run, meter);
    }

    /// Adds bytes that belong to this connection alone. Small ones are copied together: a peer
    /// that lets half a million pongs wait must not make as many buffers of them.
    pub fn push_owned(&mut self, bytes: Vec<u8>, meter: &Meter) {
        if bytes.is_empty() {
            return;
        }
        self.waiting += bytes.len() as u32;
        let rest = self.rest.get_or_insert_default();
        match rest.back_mut() {
            Some(SendBuf::Owned(last)) if last.len() < OWNED_MAX && bytes.len() <= COPY_MAX => {
                last.append(bytes.len(), |last| last.extend_from_slice(&bytes));
            }
            _ => rest.push_back(SendBuf::Owned(Owned::new(bytes, meter))),
        }
    }

    /// Frames that are no neighbours: copy small ones together, keep large ones as they are.
    fn stage_apart(&mut self, run: &Run, meter: &Meter) {
        let rest = self.rest.get_or_insert_default();
        let last = match rest.back() {
            Some(SendBuf::Shared { chunk, .. }) => Some(chunk),
            Some(SendBuf::Owned(_)) => None,
            None => self.run.as_ref().map(|run| &run.chunk),
        };
        // The first frame of a chunk goes on where a full one has ended, and its neighbours follow
        // it: copies would be as many as there are receivers.
        let goes_on = self.in_flight == 0
            && run.start == 0
            && last.is_some_and(|chunk| chunk.room() < run.bytes());
        if !goes_on
            && rest.is_empty()
            && self.run.as_ref().is_some_and(|first| first.bytes() <= COPY_MAX)
            && let Some(first) = self.run.take()
        {
            append(rest, &first, false, meter);
        }
        append(rest, run, goes_on, meter);
    }

    /// The next send, unless one is in flight.
    pub fn take(&mut self) -> Option<SendBuf> {
        if self.in_flight > 0 {
            return None;
        }
        let buf = match self.run.take() {
            Some(Run { chunk, start, end }) => SendBuf::Shared { chunk, start, end },
            None => self.rest.as_mut()?.pop_front()?,
        };
        if self.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
            self.rest = None;
        }
        self.in_flight = buf.len() as u32;
        self.waiting -= self.in_flight;
        Some(buf)
    }

    /// The kernel has taken all of the send in flight.
    pub fn sent(&mut self) {
        self.in_flight = 0;
    }

    /// Forgets what was not handed to the kernel.
    pub fn clear(&mut self) {
        self.run = None;
        self.rest = None;
        self.waiting = 0;
    }
}

/// Adds frames behind others; small ones as a copy, unless they are to be `shared`.
fn append(rest: &mut VecDeque<SendBuf>, run: &Run, shared: bool, meter: &Meter) {
    match rest.back_mut() {
        Some(SendBuf::Shared { chunk, end, .. })
            if Rc::ptr_eq(chunk, &run.chunk) && *end == run.start =>
        {
            *end = run.end;
        }
        _ if run.bytes() > COPY_MAX || shared => {
            let Run { chunk, start, end } = run.clone();
            rest.push_back(SendBuf::Shared { chunk, start, end });
        }
        Some(SendBuf::Owned(bytes)) if bytes.len() < OWNED_MAX => {
            bytes.append(run.bytes(), |bytes| run.chunk.copy_to(run.start, run.end, bytes));
        }
        _ => {
            let mut bytes = Vec::with_capacity(run.bytes());
            run.chunk.copy_to(run.start, run.end, &mut bytes);
            rest.push_back(SendBuf::Owned(Owned::new(bytes, meter)));
        }
    }
}

/// Where a connection stands in [`Dirty`], or will stand after what is in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// Nowhere.
    #[default]
    None,
    /// Among those that get what many get.
    Bulk,
    /// Ahead of them.
    Urgent,
}

/// Connections with something to send, in two lines: what one client waits for (answers, replies)
/// goes ahead of what goes to many, and of pings, so a large broadcast delays nobody for long.
#[derive(Debug, Default)]
pub struct Dirty {
    urgent: VecDeque<u32>,
    bulk: VecDeque<u32>,
    /// Places taken in the bulk line since the start, and given up again.
    entered: u64,
    left: u64,
    /// Turns in these lines until the shard has caught up; 0 if it is not behind.
    owed: usize,
    /// Turns that there were, over all flushes: however few one has, each line gets its own.
    turns: u8,
}

impl Dirty {
    /// Notes that `conn` has something to send. One that becomes urgent moves ahead with all it
    /// has; its place in the other line is passed over when its turn comes. While a send is in
    /// flight its place is only noted, for [`Dirty::enter`].
    pub fn mark(&mut self, conn: u32, queue: &OutQueue, place: &mut Line, urgent: bool) {
        let line = if urgent { Line::Urgent } else { Line::Bulk };
        if *place >= line {
            return;
        }
        *place = line;
        if queue.in_flight == 0 {
            self.enter(conn, line);
        }
    }

    /// Puts `conn`, of which nothing is in flight any more, into the line that was noted.
    pub fn enter(&mut self, conn: u32, place: Line) {
        match place {
            Line::None => {}
            Line::Bulk => {
                self.bulk.push_back(conn);
                self.entered += 1;
            }
            Line::Urgent => self.urgent.push_back(conn),
        }
    }

    /// The next connection to flush. A quarter of the turns is for what goes to many, whatever else
    /// there is.
    pub fn pop_in_turn(&mut self) -> Option<u32> {
        self.pop(self.turns % 4 == 3)
    }

    /// The one that was next had something to send.
    pub fn had_turn(&mut self) {
        self.turns = self.turns.wrapping_add(1);
    }

    /// The next connection to flush, from either line first. The caller clears its place, unless
    /// something of it is left for after the send that is in flight.
    fn pop(&mut self, bulk_first: bool) -> Option<u32> {
        let bulk_is_next = match bulk_first {
            true => !self.bulk.is_empty(),
            false => self.urgent.is_empty(),
        };
        let next = match bulk_is_next {
            true => self.bulk.pop_front().inspect(|_| self.left += 1),
            false => self.urgent.pop_front(),
        };
        self.owed = if next.is_some() { self.owed.saturating_sub(1) } else { 0 };
        next
    }

    /// Places taken in the line of what goes to many since the start, and given up again. Since it
    /// is a line, what was staged when so many had been taken has left when as many were given up.
    pub fn places(&self) -> (u64, u64) {
        (self.entered, self.left)
    }

    /// Too much waits for this shard: it is behind until as many have had their turn as wait now.
    /// True if it was not behind before.
    pub fn fall_behind(&mut self) -> bool {
        let was_behind = self.is_behind();
        if !was_behind {
            self.owed = self.len();
        }
        !was_behind && self.is_behind()
    }

    /// Whether more to send would only make queues longer.
    pub fn is_behind(&self) -> bool {
        self.owed > 0
    }

    /// Connections that wait for their turn.
    pub fn len(&self) -> usize {
        self.urgent.len() + self.bulk.len()
    }

    /// Whether nobody has anything to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rig() -> (Palette, OutQueue, Meter) {
        let meter = Meter::default();
        (Palette::new(&meter), OutQueue::default(), meter)
    }

    fn drain(queue: &mut OutQueue) -> (Vec<u8>, usize) {
        let (mut bytes, mut sends) = (Vec::new(), 0);
        while let Some(buf) = queue.take() {
            bytes.extend(buf.to_vec());
            sends += 1;
            queue.sent();
        }
        assert!(queue.is_empty());
        (bytes, sends)
    }

    fn frame(palette: &mut Palette, bytes: &[u8]) -> Run {
        palette.push(|out| out.extend_from_slice(bytes))
    }

    #[test]
    fn neighbours_leave_in_one_send() {
        let (mut palette, mut queue, meter) = rig();
        let runs: Vec<Run> = [b"one", b"two"].map(|text| frame(&mut palette, text)).into();
        runs.iter().for_each(|run| queue.stage(run, &meter));
        assert_eq!(queue.bytes(), 6);
        assert_eq!(drain(&mut queue), (b"onetwo".to_vec(), 1));
    }

    #[test]
    fn strangers_are_copied_together_and_order_is_kept() {
        let (mut palette, mut queue, meter) = rig();
        let a = frame(&mut palette, b"a");
        let _between = frame(&mut palette, b"-");
        let c = frame(&mut palette, b"c");
        queue.stage(&a, &meter);
        queue.stage(&c, &meter);
        queue.push_owned(b"own".to_vec(), &meter);
        queue.stage(&a, &meter);
        assert_eq!(drain(&mut queue), (b"acowna".to_vec(), 1));
    }

    #[test]
    fn small_answers_wait_in_few_buffers() {
        let (_, mut queue, meter) = rig();
        let pongs = 100_000;
        (0..pongs).for_each(|_| queue.push_owned(vec![0x8a, 0], &meter));
        assert_eq!(queue.bytes(), 2 * pongs);
        assert!(queue.rest.as_ref().is_some_and(|rest| rest.len() <= 2 * pongs / OWNED_MAX + 1));
        assert_eq!(drain(&mut queue).0.len(), 2 * pongs);
    }

    #[test]
    fn large_frames_are_shared_as_they_are() {
        let (mut palette, mut queue, meter) = rig();
        let large = vec![7u8; 100_000];
        let (a, b) = (frame(&mut palette, b"a"), frame(&mut palette, &large));
        let c = frame(&mut palette, b"c");
        [&a, &b, &c].into_iter().for_each(|run| queue.stage(run, &meter));
        let expected = [b"a".as_slice(), &large, b"c"].concat();
        assert_eq!(drain(&mut queue), (expected, 3));
    }

    #[test]
    fn one_send_is_in_flight_and_later_frames_are_copied() {
        let (mut palette, mut queue, meter) = rig();
        let first = frame(&mut palette, b"first");
        queue.stage(&first, &meter);
        let sent = queue.take().expect("a send");
        assert_eq!(sent.to_vec(), b"first");
        let second = frame(&mut palette, b"second");
        queue.stage(&second, &meter);
        assert!(queue.take().is_none());
        assert_eq!(queue.bytes(), 11);
        queue.sent();
        assert_eq!(drain(&mut queue), (b"second".to_vec(), 1));
    }

    #[test]
    fn a_chunk_is_begun_again_only_when_everything_in_it_was_sent() {
        let (mut palette, mut queue, meter) = rig();
        let run = frame(&mut palette, b"abc");
        queue.stage(&run, &meter);
        drop(run);
        assert_eq!(frame(&mut palette, b"x").start, 3);
        assert_eq!(drain(&mut queue).0, b"abc");
        assert_eq!(frame(&mut palette, b"x").start, 0);
    }

    #[test]
    fn places_in_the_line_are_counted() {
        let (mut dirty, queue, mut places) =
            (Dirty::default(), OutQueue::default(), [Line::None; 3]);
        for _ in 0..2 {
            for (conn, place) in places.iter_mut().enumerate() {
                dirty.mark(conn as u32, &queue, place, false);
            }
        }
        assert_eq!(dirty.places(), (3, 0));
        // Who moves ahead leaves a place behind that is given up in its turn.
        dirty.mark(1, &queue, &mut places[1], true);
        let left: Vec<u32> = (0..3).filter_map(|_| dirty.pop(false)).collect();
        assert_eq!((left, dirty.places()), (vec![1, 0, 1], (3, 2)));
        assert_eq!((dirty.pop(true), dirty.places()), (Some(2), (3, 3)));
    }

    #[test]
    fn a_payload_and_its_frames() {
        let mut payload = b"4x".to_vec();
        write_payload(b"451-[\"a\"]", &[bytes::Bytes::from_static(&[1, 2])], &mut payload);
        assert_eq!(payload, b"4x\x1e451-[\"a\"]\x1ebAQI=");
        let mut frames = Vec::new();
        payload_to_frames(&payload, false, &mut frames);
        assert_eq!(frames, b"\x81\x024x\x81\x09451-[\"a\"]\x81\x05bAQI=");
        frames.clear();
        payload_to_frames(&payload[3..], true, &mut frames);
        assert_eq!(frames, b"\x81\x09451-[\"a\"]\x81\x06b4AQI=");
    }

    #[test]
    fn what_one_waits_for_goes_ahead_of_what_goes_to_many() {
        let (mut dirty, queue) = (Dirty::default(), OutQueue::default());
        let mut places = [Line::default(); 2];
        dirty.mark(0, &queue, &mut places[0], false);
        dirty.mark(1, &queue, &mut places[1], true);
        assert_eq!([false; 3].map(|bulk| dirty.pop(bulk)), [Some(1), Some(0), None]);
        places = Default::default();
        dirty.mark(0, &queue, &mut places[0], false);
        dirty.mark(1, &queue, &mut places[1], false);
        dirty.mark(1, &queue, &mut places[1], true);
        dirty.mark(1, &queue, &mut places[1], true);
        assert_eq!([true, false, true].map(|bulk| dirty.pop(bulk)), [Some(0), Some(1), Some(1)]);
    }

    #[test]
    fn neighbours_go_on_in_the_next_chunk_without_a_copy() {
        let (mut palette, mut queue, meter) = rig();
        let mut expected = Vec::new();
        for number in 0..300 {
            let bytes = [number as u8; 500];
            expected.extend(bytes);
            queue.stage(&frame(&mut palette, &bytes), &meter);
        }
        assert_eq!(meter.bytes(), 3 * Palette::CHUNK);
        assert_eq!(drain(&mut queue), (expected, 3));
        assert_eq!(meter.bytes(), Palette::CHUNK);
    }

    /// Whose queue begins with the last frame of a chunk.
    #[test]
    fn the_last_frame_of_a_chunk_is_not_copied_for_each_receiver() {
        let (mut palette, _, meter) = rig();
        let mut queues: Vec<OutQueue> = (0..100).map(|_| OutQueue::default()).collect();
        let before = frame(&mut palette, &[b'x'; Palette::CHUNK / 8]);
        (0..6).for_each(|_| drop(frame(&mut palette, &[b'x'; Palette::CHUNK / 8])));
        drop(frame(&mut palette, &[b'x'; Palette::CHUNK / 8 - 4_000]));
        let mut expected = Vec::new();
        for number in 1..=4u8 {
            let run = frame(&mut palette, &[number; 3_000]);
            expected.extend([number; 3_000]);
            queues.iter_mut().for_each(|queue| queue.stage(&run, &meter));
        }
        assert_eq!(meter.bytes(), 2 * Palette::CHUNK);
        queues.iter_mut().for_each(|queue| assert_eq!(drain(queue), (expected.clone(), 2)));
        drop(before);
    }

    #[test]
    fn a_shard_has_caught_up_when_those_had_their_turn_who_waited() {
        let (mut dirty, queue) = (Dirty::default(), OutQueue::default());
        let mut places = [Line::default(); 4];
        assert!(!dirty.fall_behind() && !dirty.is_behind(), "nobody waits");
        dirty.mark(0, &queue, &mut places[0], false);
        dirty.mark(1, &queue, &mut places[1], false);
        assert!(dirty.fall_behind() && dirty.is_behind());
        // Who comes later does not put the end off.
        dirty.mark(2, &queue, &mut places[2], false);
        assert!(!dirty.fall_behind());
        assert_eq!(dirty.pop(false), Some(0));
        assert!(dirty.is_behind());
        assert_eq!(dirty.pop(false), Some(1));
        assert!(!dirty.is_behind() && dirty.len() == 1);
        dirty.mark(3, &queue, &mut places[3], true);
        assert!(dirty.fall_behind());
        assert_eq!([false; 3].map(|bulk| dirty.pop(bulk)), [Some(3), Some(2), None]);
        assert!(!dirty.is_behind());
    }

    #[test]
    fn who_does_not_read_may_hold_what_is_left_of_half_of_the_memory() {
        let (mut palette, mut queue, memory) = rig();
        let bounds =
            |queue_max, memory_max| Bounds { queue_max, memory_max, memory: memory.clone() };
        let run = frame(&mut palette, &[b'x'; 300]);
        let used = Palette::CHUNK;
        let tight = bounds(10_000, used + 400);
        assert_eq!(tight.room(&queue, 5_000, false), Room::Behind, "one passes an empty queue");
        assert_eq!(
            bounds(10_000, used).room(&queue, 300, false),
            Room::Full,
            "but not a full shard"
        );
        queue.stage(&run, &memory);
        // It waits for this shard: all of the memory is for it, but the shard is to send first.
        assert_eq!(tight.room(&queue, 100, false), Room::Behind);
        assert_eq!(tight.room(&queue, 101, false), Room::Full);
        queue.take().expect("a send");
        assert_eq!(tight.room(&queue, 100, false), Room::Free, "now it waits for its peer");
        assert_eq!(tight.room(&queue, 101, true), Room::Full);
        let mut stuck = OutQueue::default();
        let large = frame(&mut palette, &vec![b'x'; WINDOW]);
        stuck.stage(&large, &memory);
        stuck.take().expect("a send");
        let half = bounds(1 << 20, 2 * (used + WINDOW + 70_000));
        assert_eq!(half.room(&stuck, 70_000 - WINDOW, false), Room::Free);
        assert_eq!(half.room(&stuck, 70_001 - WINDOW, false), Room::Full);
        assert_eq!(half.room(&stuck, 70_001 - WINDOW, true), Room::Free, "the protocol's own");
        // Much is in use, and still a peer that reads may keep a little waiting for a moment.
        let spent = Chunk::new(3 << 20, &memory);
        let moment = bounds(1 << 20, 4 << 20);
        assert_eq!(moment.room(&queue, WINDOW - 300, false), Room::Free);
        assert_eq!(moment.room(&queue, WINDOW - 299, false), Room::Full);
        drop(spent);
        let wide = bounds(1_000, 1 << 30);
        assert_eq!([700, 701].map(|more| wide.room(&queue, more, false)), [Room::Free, Room::Full]);
        assert_eq!(
            [1_700, 1_701].map(|more| wide.room(&queue, more, true)),
            [Room::Free, Room::Full]
        );
    }

    #[test]
    fn much_that_waits_for_this_shard_is_more_than_it_should_read_on_for() {
        let (mut palette, mut queue, memory) = rig();
        let bounds = Bounds { queue_max: 1 << 20, memory_max: 1 << 30, memory: memory.clone() };
        queue.stage(&frame(&mut palette, &vec![b'x'; WINDOW]), &memory);
        assert_eq!(bounds.room(&queue, 1, false), Room::Behind);
        queue.take().expect("a send");
        assert_eq!(bounds.room(&queue, 1, false), Room::Free, "now it waits for its peer");
    }
}
