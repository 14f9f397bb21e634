//! A table with small stable keys. A key carries a generation, so one that outlived its value
//! finds nothing instead of a stranger.

/// Names one value of a [`Slab`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Position in the table; reused after removal.
    pub index: u32,
    /// How often the position was reused.
    pub generation: u32,
}

/// Values by [`Key`], dense enough to iterate.
///
/// Generations stand apart, because beside a value each would take the room of two. The vectors
/// grow by doubling: large ones are moved by the kernel page by page, not copied, and what is not
/// written yet is not resident, so a million values take no more memory than they need.
#[derive(Debug)]
pub struct Slab<T> {
    values: Vec<Option<T>>,
    /// As long as `values`.
    generations: Vec<u32>,
    /// Positions without a value, last freed first, which keeps memory warm.
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// An empty table; allocates nothing.
    pub const fn new() -> Slab<T> {
        Slab { values: Vec::new(), generations: Vec::new(), free: Vec::new() }
    }

    /// Stores `value`. Amortised O(1).
    pub fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop() {
            self.values[index as usize] = Some(value);
            return Key { index, generation: self.generations[index as usize] };
        }
        let index = self.values.len() as u32;
        self.values.push(Some(value));
        self.generations.push(0);
        Key { index, generation: 0 }
    }

    /// The position that the next [`Slab::insert`] will use.
    pub fn next_index(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.values.len() as u32)
    }

    /// The value of `key`, unless it was removed.
    pub fn get(&self, key: Key) -> Option<&T> {
        self.at(key.index).filter(|_| self.generations[key.index as usize] == key.generation)
    }

    /// The value of `key`, unless it was removed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let value = self.values.get_mut(key.index as usize)?.as_mut()?;
        (self.generations[key.index as usize] == key.generation).then_some(value)
    }

    /// The value at a position, whatever its generation.
    pub fn at(&self, index: u32) -> Option<&T> {
        self.values.get(index as usize)?.as_ref()
    }

    /// The value at a position, whatever its generation.
    pub fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.values.get_mut(index as usize)?.as_mut()
    }

    /// The full key of a position.
    pub fn key_at(&self, index: u32) -> Option<Key> {
        let generation = self.generations.get(index as usize).copied()?;
        self.at(index).map(|_| Key { index, generation })
    }

    /// Takes the value at a position out.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.values.get_mut(index as usize)?.take()?;
        let generation = &mut self.generations[index as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions that there are, with a value or without.
    pub fn places(&self) -> u32 {
        self.values.len() as u32
    }

    /// Positions that hold a value.
    pub fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        let held = |(index, value): (usize, &Option<T>)| value.as_ref().map(|_| index as u32);
        self.values.iter().enumerate().filter_map(held)
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first.index), Some('a'));
        assert_eq!(slab.next_index(), first.index);
        let second = slab.insert('b');
        assert_eq!(second.index, first.index);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get(second), Some(&'b'));
        assert_eq!(slab.key_at(second.index), Some(second));
        assert_eq!((slab.len(), slab.remove(7)), (1, None));
    }
}
