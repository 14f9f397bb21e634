//! Bytes on their way out: fixed memory that the kernel may read while we go on writing behind it.
//!
//! A [`Chunk`] never moves and never grows, so a range that was written once can be handed to the
//! ring while later frames are appended after it. `Cell<u8>` makes that plain safe Rust: one
//! thread writes through a shared reference, and no byte that was handed out is written again
//! while anybody but the writer holds the chunk.
//!
//! What is counted in a [`Meter`] stays so until it is freed, wherever it is by then: in a queue,
//! in the ring, or on a path that nobody thought of.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

/// Bytes of memory that are held for sending, of all connections of a shard together.
#[derive(Debug, Clone, Default)]
pub struct Meter(Rc<Cell<usize>>);

impl Meter {
    /// How many there are now.
    pub fn bytes(&self) -> usize {
        self.0.get()
    }

    fn change(&self, from: usize, to: usize) {
        self.0.set(self.0.get() - from + to);
    }
}

/// A block of outgoing bytes with a fixed address, filled from the front.
#[derive(Debug)]
pub struct Chunk {
    /// Fixed for the life of the chunk; `[..filled]` holds frames.
    cells: Box<[Cell<u8>]>,
    /// 0 ≤ filled ≤ cells.len(); only grows, except in [`Chunk::clear`].
    filled: Cell<usize>,
    meter: Meter,
}

impl Chunk {
    /// An empty chunk for `capacity` bytes, counted in `meter`. Allocates once.
    pub fn new(capacity: usize, meter: &Meter) -> Rc<Chunk> {
        let cells = vec![Cell::new(0u8); capacity].into_boxed_slice();
        meter.change(0, capacity);
        Rc::new(Chunk { cells, filled: Cell::new(0), meter: meter.clone() })
    }

    /// Bytes that may still be appended.
    pub fn room(&self) -> usize {
        self.cells.len() - self.filled.get()
    }

    /// Bytes written so far, which is also where the next append will begin.
    pub fn filled(&self) -> usize {
        self.filled.get()
    }

    /// Appends `bytes`; the caller has checked [`Chunk::room`].
    pub fn append(&self, bytes: &[u8]) {
        let start = self.filled.get();
        let target = &self.cells[start..start + bytes.len()];
        for (cell, byte) in target.iter().zip(bytes) {
            cell.set(*byte);
        }
        self.filled.set(start + bytes.len());
    }

    /// Starts over. Only the sole owner may: `Rc::get_mut` proves it.
    pub fn clear(&mut self) {
        self.filled.set(0);
    }

    /// The bytes of `start..end`, for the ring (address) and for copying.
    pub fn cells(&self, start: u32, end: u32) -> &[Cell<u8>] {
        &self.cells[start as usize..end as usize]
    }

    /// Copies `start..end` to the end of `out`.
    pub fn copy_to(&self, start: u32, end: u32, out: &mut Vec<u8>) {
        out.extend(self.cells(start, end).iter().map(Cell::get));
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.meter.change(self.cells.len(), 0);
    }
}

/// Bytes of one connection alone.
#[derive(Debug, Default)]
pub struct Owned {
    bytes: Vec<u8>,
    /// Where their memory is counted, if anywhere.
    meter: Option<Meter>,
}

impl Owned {
    /// Counts these bytes in `meter`.
    pub fn new(bytes: Vec<u8>, meter: &Meter) -> Owned {
        meter.change(0, bytes.capacity());
        Owned { bytes, meter: Some(meter.clone()) }
    }

    /// Lets `write` append `more` bytes to them, or about as many.
    pub fn append(&mut self, more: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.capacity();
        if before - self.bytes.len() < more {
            // Not twice as much as there is: what is spare counts, and is no use to a peer that
            // does not read.
            self.bytes.reserve_exact(more.max(self.bytes.len() / 4));
        }
        write(&mut self.bytes);
        if let Some(meter) = &self.meter {
            meter.change(before, self.bytes.capacity());
        }
    }

    /// Takes them out, uncounted. What is left is empty, and counted as before.
    pub fn take(&mut self) -> Vec<u8> {
        let mut taken = Vec::new();
        self.append(0, |bytes| std::mem::swap(bytes, &mut taken));
        taken
    }
}

impl From<Vec<u8>> for Owned {
    /// Bytes that are counted nowhere.
    fn from(bytes: Vec<u8>) -> Owned {
        Owned { bytes, meter: None }
    }
}

impl Deref for Owned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.take();
    }
}

/// What one send carries: a run of shared frames, or bytes that belong to this socket alone.
#[derive(Debug)]
pub enum SendBuf {
    /// `chunk[start..end]`, shared with every other receiver of the same frames.
    Shared {
        /// Kept alive by this reference until the kernel is done.
        chunk: Rc<Chunk>,
        /// First byte.
        start: u32,
        /// One past the last byte; `start < end`.
        end: u32,
    },
    /// Bytes of this socket only; never touched again once handed over.
    Owned(Owned),
}

impl SendBuf {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            SendBuf::Shared { start, end, .. } => (end - start) as usize,
            SendBuf::Owned(bytes) => bytes.len(),
        }
    }

    /// The same, but what is a small part of its chunk as a copy: a peer that does not read pins
    /// what it was sent, and not the rest.
    pub fn apart(self, meter: &Meter) -> SendBuf {
        match &self {
            SendBuf::Shared { chunk, .. } if 8 * self.len() <= chunk.cells.len() => {
                SendBuf::Owned(Owned::new(self.to_vec(), meter))
            }
            _ => self,
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the bytes from `start` to before `end` to `out`.
    pub fn copy_range(&self, start: usize, end: usize, out: &mut Vec<u8>) {
        match self {
            SendBuf::Shared { chunk, start: first, .. } => {
                chunk.copy_to(first + start as u32, first + end as u32, out);
            }
            SendBuf::Owned(bytes) => out.extend_from_slice(&bytes[start..end]),
        }
    }

    /// A copy of the bytes, for tests and for queues that outlive a chunk.
    pub fn to_vec(&self) -> Vec<u8> {
        match self {
            SendBuf::Shared { chunk, start, end } => {
                let mut out = Vec::with_capacity(self.len());
                chunk.copy_to(*start, *end, &mut out);
                out
            }
            SendBuf::Owned(bytes) => bytes.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_handed_out_stays_while_more_is_appended() {
        let chunk = Chunk::new(16, &Meter::default());
        chunk.append(b"abc");
        let first = SendBuf::Shared { chunk: chunk.clone(), start: 0, end: 3 };
        let address = chunk.cells(0, 3).as_ptr();
        chunk.append(b"defgh");
        assert_eq!(first.to_vec(), b"abc");
        assert_eq!(chunk.cells(0, 8).as_ptr(), address);
        assert_eq!(chunk.room(), 8);
    }

    #[test]
    fn only_a_sole_owner_starts_over() {
        let mut chunk = Chunk::new(4, &Meter::default());
        chunk.append(b"abcd");
        let held = chunk.clone();
        assert!(Rc::get_mut(&mut chunk).is_none());
        drop(held);
        Rc::get_mut(&mut chunk).expect("sole owner").clear();
        assert_eq!(chunk.room(), 4);
    }

    #[test]
    fn what_is_held_is_counted_until_it_is_freed() {
        let meter = Meter::default();
        let chunk = Chunk::new(100, &meter);
        let held = SendBuf::Shared { chunk: chunk.clone(), start: 0, end: 1 };
        let mut own = Owned::new(Vec::with_capacity(10), &meter);
        assert_eq!(meter.bytes(), 110);
        own.append(500, |bytes| bytes.extend_from_slice(&[7; 500]));
        assert!(meter.bytes() >= 600 && own.len() == 500);
        drop(chunk);
        assert!(meter.bytes() >= 600, "a send holds it");
        drop(held);
        assert_eq!(own.take(), [7; 500]);
        assert_eq!(meter.bytes(), 0);
        own.append(1, |bytes| bytes.push(1));
        drop(own);
        assert_eq!(meter.bytes(), 0);
        let mut small = Owned::new(Vec::new(), &meter);
        for count in 1..=1_000 {
            small.append(64, |bytes| bytes.extend_from_slice(&[7; 64]));
            assert!((count * 64..=count * 80 + 64).contains(&meter.bytes()), "{count}");
        }
    }
}
