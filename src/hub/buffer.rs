//! Bytes on their way out: fixed memory that the kernel may read while we go on writing behind it.
//!
//! A [`Chunk`] never moves and never grows, so a range that was written once can be handed to the
//! ring while later frames are appended after it. `Cell<u8>` makes that plain safe Rust: one
//! thread writes through a shared reference, and no byte that was handed out is written again
//! while anybody but the writer holds the chunk.

use std::cell::Cell;
use std::rc::Rc;

/// A block of outgoing bytes with a fixed address, filled from the front.
#[derive(Debug)]
pub struct Chunk {
    /// Fixed for the life of the chunk; `[..filled]` holds frames.
    cells: Box<[Cell<u8>]>,
    /// 0 ≤ filled ≤ cells.len(); only grows, except in [`Chunk::clear`].
    filled: Cell<usize>,
}

impl Chunk {
    /// An empty chunk for `capacity` bytes. Allocates once.
    pub fn new(capacity: usize) -> Rc<Chunk> {
        let cells = vec![Cell::new(0u8); capacity].into_boxed_slice();
        Rc::new(Chunk { cells, filled: Cell::new(0) })
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
    Owned(Vec<u8>),
}

impl SendBuf {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            SendBuf::Shared { start, end, .. } => (end - start) as usize,
            SendBuf::Owned(bytes) => bytes.len(),
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
            SendBuf::Owned(bytes) => bytes.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_handed_out_stays_while_more_is_appended() {
        let chunk = Chunk::new(16);
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
        let mut chunk = Chunk::new(4);
        chunk.append(b"abcd");
        let held = chunk.clone();
        assert!(Rc::get_mut(&mut chunk).is_none());
        drop(held);
        Rc::get_mut(&mut chunk).expect("sole owner").clear();
        assert_eq!(chunk.room(), 4);
    }
}
