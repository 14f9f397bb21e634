//! A list of numbers that nearly always holds one.

/// Numbers in the order they came, in 16 bytes while there is at most one.
#[derive(Debug, Clone, Default)]
pub(super) enum Few {
    /// None.
    #[default]
    None,
    /// One.
    One(u32),
    /// Any number of them; boxed again, as a vector would make all lists larger.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<u32>>),
}

const _: () = assert!(size_of::<Few>() == 16);

impl Few {
    /// All of them.
    pub(super) fn as_slice(&self) -> &[u32] {
        match self {
            Few::None => &[],
            Few::One(number) => std::slice::from_ref(number),
            Few::Many(numbers) => numbers,
        }
    }

    /// Adds one behind the others.
    pub(super) fn push(&mut self, number: u32) {
        match self {
            Few::None => *self = Few::One(number),
            Few::One(first) => *self = Few::Many(Box::new(vec![*first, number])),
            Few::Many(numbers) => numbers.push(number),
        }
    }

    /// Takes one out. O(numbers).
    pub(super) fn remove(&mut self, number: u32) {
        match self {
            Few::One(only) if *only == number => *self = Few::None,
            Few::Many(numbers) => {
                numbers.retain(|other| *other != number);
                if let [only] = numbers[..] {
                    *self = Few::One(only);
                }
            }
            Few::None | Few::One(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_what_a_vector_would_be() {
        let (mut few, mut model) = (Few::default(), Vec::new());
        let mut random = fastrand::Rng::with_seed(5);
        for number in 0..10_000 {
            if random.bool() && model.len() < 4 {
                few.push(number);
                model.push(number);
            } else {
                let gone = model.get(random.usize(0..4)).copied().unwrap_or(u32::MAX);
                few.remove(gone);
                model.retain(|other| *other != gone);
            }
            assert_eq!(few.as_slice(), model);
            assert_eq!(matches!(few, Few::Many(_)), model.len() > 1);
        }
    }
}
