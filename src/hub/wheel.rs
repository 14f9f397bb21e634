//! One timer wheel per shard instead of timers per connection.
//!
//! Time is counted in ticks of 32 ms since the shard's start and compared with wrap-around, so a
//! shard may run for ever. An entry is a hint: its owner keeps the true deadline and, when the
//! entry comes due too early, puts in another. Moving a deadline back therefore costs nothing.

/// Milliseconds per tick.
pub const TICK_MS: u64 = 32;
/// The longest time that can be waited for.
const YEAR_MS: u64 = 365 * 24 * 3_600_000;

/// A point in time, in ticks since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick(pub u32);

impl Tick {
    /// The tick that has begun at `now_ms`.
    pub fn at(now_ms: u64) -> Tick {
        Tick((now_ms / TICK_MS) as u32)
    }

    /// The first tick that begins `ms` milliseconds after `now_ms`, or later.
    ///
    /// More than a year counts as a year, so that comparing with wrap-around stays right.
    pub fn after(now_ms: u64, ms: u64) -> Tick {
        Tick((now_ms + ms.min(YEAR_MS)).div_ceil(TICK_MS) as u32)
    }

    /// The last tick that begins at most `ms` milliseconds after `now_ms`, but the next one at
    /// least: for what a peer was told to happen by then. A year counts as above.
    pub fn within(now_ms: u64, ms: u64) -> Tick {
        let last = (now_ms + ms.min(YEAR_MS)) / TICK_MS;
        Tick(last.max(now_ms / TICK_MS + 1) as u32)
    }

    /// The tick about `ms` milliseconds after this one.
    pub fn later(self, ms: u64) -> Tick {
        Tick(self.0.wrapping_add((ms.min(YEAR_MS) / TICK_MS) as u32))
    }

    /// Whether this point has been reached at `now`.
    pub fn reached(self, now: Tick) -> bool {
        now.0.wrapping_sub(self.0) as i32 >= 0
    }

    /// Ticks from `now` until this point; 0 when reached.
    pub fn until(self, now: Tick) -> u32 {
        if self.reached(now) { 0 } else { self.0.wrapping_sub(now.0) }
    }
}

/// A point in time, or none, in the memory of a point in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deadline(u32);

impl Deadline {
    /// Tick 0 counts as tick 1, since 0 stands for none.
    pub fn new(tick: Option<Tick>) -> Deadline {
        Deadline(tick.map_or(0, |tick| tick.0.max(1)))
    }

    /// The point in time, if there is one.
    pub fn tick(self) -> Option<Tick> {
        (self.0 != 0).then_some(Tick(self.0))
    }
}

/// The deadline of one owner and the wheel entry that watches it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alarm {
    /// What the owner waits for.
    deadline: Deadline,
    /// Where this owner's entry lies in the wheel, never after the deadline; 0 for none. An entry
    /// found anywhere else was left behind when the deadline moved forward, or by an owner that
    /// had this place before, and means nothing.
    armed: u32,
}

impl Alarm {
    /// Sets or clears the deadline. `Some(tick)`: the caller must insert an entry at `tick`.
    #[must_use]
    pub fn set(&mut self, deadline: Option<Tick>, now: Tick) -> Option<Tick> {
        self.deadline = Deadline::new(deadline);
        let entry = Wheel::slot_for(deadline?, now);
        if self.armed != 0 && Tick(self.armed).reached(entry) {
            return None;
        }
        self.armed = entry.0;
        Some(entry)
    }

    /// An entry of this owner has come due. `Ok(true)`: the deadline is reached. `Err(tick)`: not
    /// yet, the caller must insert an entry at `tick`. `Ok(false)`: nothing to do.
    pub fn due(&mut self, now: Tick) -> Result<bool, Tick> {
        if self.armed == 0 || !Tick(self.armed).reached(now) {
            return Ok(false);
        }
        self.armed = 0;
        match self.deadline.tick() {
            None => Ok(false),
            Some(deadline) if deadline.reached(now) => {
                self.deadline = Deadline::default();
                Ok(true)
            }
            Some(deadline) => {
                let entry = Wheel::slot_for(deadline, now);
                self.armed = entry.0;
                Err(entry)
            }
        }
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// A connection: head, body, idle and closing deadlines.
    Conn,
    /// A session: heartbeat, connect, upgrade and closing deadlines.
    Session,
    /// A member: acknowledgements.
    Member,
    /// A broadcast that is acknowledged.
    Ask,
    /// Recovery: suspended sockets, and sessions on their way.
    Recovery,
}

/// An entry of the wheel: whose deadline to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Which table.
    pub timer: Timer,
    /// Position in that table; see [`Alarm`] for what an owner does that has it from another.
    pub index: u32,
}

/// A [`Due`] in 5 bytes: there is one for every client.
#[derive(Debug, Clone, Copy)]
struct Entry {
    timer: Timer,
    index: [u8; 4],
}

const _: () = assert!(size_of::<Entry>() == 5);

/// The wheel. Insertion O(1); expiry O(entries due).
#[derive(Debug)]
pub struct Wheel {
    /// Entries due at tick `t` lie in `slots[t % SLOTS]`.
    slots: Vec<Vec<Entry>>,
    /// All ticks up to and including this one have been expired.
    done: Tick,
    /// Entries in all slots.
    len: usize,
}

impl Wheel {
    /// 1,024 slots: 32.7 s.
    const SLOTS: u32 = 1_024;

    /// An empty wheel at time 0.
    pub fn new() -> Wheel {
        Wheel { slots: vec![Vec::new(); Self::SLOTS as usize], done: Tick(0), len: 0 }
    }

    /// Where an entry for `at` has to lie at `now`: the next tick at the earliest, the horizon at
    /// the latest. Never 0, which means "none" to an [`Alarm`].
    fn slot_for(at: Tick, now: Tick) -> Tick {
        let entry = now.0.wrapping_add(at.until(now).clamp(1, Self::SLOTS - 1));
        Tick(if entry == 0 { u32::MAX } else { entry })
    }

    /// Puts in an entry where an [`Alarm`] said.
    pub fn insert(&mut self, at: Tick, due: Due) {
        let Due { timer, index } = due;
        let entry = Entry { timer, index: index.to_ne_bytes() };
        self.slots[(at.0 % Self::SLOTS) as usize].push(entry);
        self.len += 1;
    }

    /// Moves everything due at `now` to `out`.
    pub fn expire(&mut self, now: Tick, out: &mut Vec<Due>) {
        let ahead = now.until(self.done);
        // After a long sleep every slot is due once.
        for step in 1..=ahead.min(Self::SLOTS) {
            let slot = self.done.0.wrapping_add(step) % Self::SLOTS;
            let slot = &mut self.slots[slot as usize];
            self.len -= slot.len();
            out.extend(slot.drain(..).map(|entry| {
                let Entry { timer, index } = entry;
                Due { timer, index: u32::from_ne_bytes(index) }
            }));
            if slot.capacity() > 64 {
                // Bursts (a connect storm) must not keep their memory in every slot.
                slot.shrink_to(0);
            }
        }
        if ahead > 0 {
            self.done = now;
        }
    }

    /// The next tick that has entries; `None` when the wheel is empty. O(slots).
    pub fn next(&self) -> Option<Tick> {
        if self.len == 0 {
            return None;
        }
        (1..=Self::SLOTS)
            .map(|step| Tick(self.done.0.wrapping_add(step)))
            .find(|tick| !self.slots[(tick.0 % Self::SLOTS) as usize].is_empty())
    }

    /// Entries waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Default for Wheel {
    fn default() -> Self {
        Wheel::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Owners with alarms, driven as the hub drives them.
    struct World {
        wheel: Wheel,
        alarms: Vec<Alarm>,
        now: Tick,
    }

    impl World {
        fn new(owners: usize) -> World {
            World { wheel: Wheel::new(), alarms: vec![Alarm::default(); owners], now: Tick(0) }
        }

        fn set(&mut self, owner: u32, deadline: Option<Tick>) {
            if let Some(at) = self.alarms[owner as usize].set(deadline, self.now) {
                self.insert(at, owner);
            }
        }

        fn insert(&mut self, at: Tick, index: u32) {
            self.wheel.insert(at, Due { timer: Timer::Session, index });
        }

        /// Owners whose deadline was reached by moving to `now`.
        fn advance(&mut self, now: Tick) -> Vec<u32> {
            let mut due = Vec::new();
            self.wheel.expire(now, &mut due);
            self.now = now;
            let mut fired = Vec::new();
            for entry in due {
                match self.alarms[entry.index as usize].due(now) {
                    Ok(true) => fired.push(entry.index),
                    Ok(false) => {}
                    Err(at) => self.insert(at, entry.index),
                }
            }
            fired
        }
    }

    #[test]
    fn deadlines_fire_once_at_their_tick_in_any_order_of_changes() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut world = World::new(20);
        let mut model = [None; 20];
        for step in 1..200_000u32 {
            let now = Tick(step / 4);
            let mut fired = world.advance(now);
            fired.sort_unstable();
            let mut wanted = Vec::new();
            for (owner, deadline) in model.iter_mut().enumerate() {
                if deadline.is_some_and(|tick: Tick| tick.reached(now)) {
                    wanted.push(owner as u32);
                    *deadline = None;
                }
            }
            assert_eq!(fired, wanted, "at {now:?}");
            let owner = random.u32(0..20);
            let ahead = if random.bool() { random.u32(1..50) } else { random.u32(1..5_000) };
            let deadline = (random.u8(..) > 20).then_some(Tick(now.0 + ahead));
            world.set(owner, deadline);
            model[owner as usize] = deadline;
            assert!(world.wheel.len() < 2_000, "stale entries pile up");
        }
    }

    #[test]
    fn a_long_sleep_loses_nothing() {
        let mut world = World::new(500);
        (0..500).for_each(|n| world.set(n, Some(Tick(n * 9))));
        assert_eq!(world.advance(Tick(1)), [0]);
        let mut fired = world.advance(Tick(50_000));
        fired.extend(world.advance(Tick(50_001)));
        fired.extend(world.advance(Tick(52_000)));
        assert_eq!((fired.len(), world.wheel.is_empty()), (499, true));
        world.set(1, Some(Tick(52_003)));
        assert_eq!(world.wheel.next(), Some(Tick(52_003)));
    }

    #[test]
    fn time_wraps() {
        let before = Tick(u32::MAX);
        assert!(!Tick(3).reached(before));
        assert_eq!(Tick(3).until(before), 4);
        assert!(before.reached(Tick(3)));
        assert_eq!(Tick::after(0, 1), Tick(1));
        assert_eq!(Tick::after(0, 33), Tick(2));
        assert_eq!(Tick::within(0, 33), Tick(1));
        assert_eq!(Tick::within(40, 60), Tick(3));
        assert_eq!(Tick::within(40, 1), Tick(2));
    }
}
