//! Namespaces and rooms of one core: who is a member of what, and nothing about how to reach them.
//!
//! A room is a dense list of members; each member remembers its place in every list it stands in,
//! so joining and leaving cost O(rooms of that member) and visiting costs O(members).

use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// Number of a namespace; the same on every shard, and never used twice.
pub type NamespaceId = u64;

/// A member's place in one room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// Position in the room table.
    room: u32,
    /// Position in that room's list.
    place: u32,
}

/// The rooms that one member is in.
pub type Memberships = SmallVec<[Membership; 2]>;

#[derive(Debug)]
struct Room {
    name: Rc<str>,
    namespace: NamespaceId,
    members: Vec<u32>,
}

/// All rooms of one core. Room names are per namespace.
#[derive(Debug, Default)]
pub struct Rooms {
    rooms: super::slab::Slab<Room>,
    /// Per namespace. Names come from applications and may come from clients, so the hash is keyed.
    by_name: FxHashMap<NamespaceId, HashMap<Rc<str>, u32>>,
}

impl Rooms {
    /// Forgets a namespace that nobody is in any more.
    pub fn forget_namespace(&mut self, namespace: NamespaceId) {
        self.by_name.remove(&namespace);
    }

    /// Puts `member` into a room; false if it was there. `memberships` belongs to that member.
    pub fn join(
        &mut self,
        namespace: NamespaceId,
        name: &str,
        member: u32,
        memberships: &mut Memberships,
    ) -> bool {
        let by_name = self.by_name.entry(namespace).or_default();
        let room = match by_name.get(name) {
            Some(room) => *room,
            None => {
                let name: Rc<str> = name.into();
                let room = Room { name: name.clone(), namespace, members: Vec::new() };
                let index = self.rooms.insert(room).index;
                by_name.insert(name, index);
                index
            }
        };
        if memberships.iter().any(|membership| membership.room == room) {
            return false;
        }
        let Some(entry) = self.rooms.at_mut(room) else { return false };
        memberships.push(Membership { room, place: entry.members.len() as u32 });
        entry.members.push(member);
        true
    }

    /// Takes a member out of a room by name; false if it was not there. `moved` is told which other
    /// member took its place in the list.
    pub fn leave(
        &mut self,
        namespace: NamespaceId,
        name: &str,
        memberships: &mut Memberships,
        moved: impl FnOnce(u32, Moved),
    ) -> bool {
        let names = self.by_name.get(&namespace);
        let Some(room) = names.and_then(|names| names.get(name)).copied() else { return false };
        let Some(at) = memberships.iter().position(|membership| membership.room == room) else {
            return false;
        };
        let membership = memberships.swap_remove(at);
        self.remove(membership, moved);
        true
    }

    /// Takes out the member that held `membership`; an empty room disappears.
    pub fn remove(&mut self, membership: Membership, moved: impl FnOnce(u32, Moved)) {
        let Membership { room, place } = membership;
        let Some(entry) = self.rooms.at_mut(room) else { return };
        let last = entry.members.len() - 1;
        entry.members.swap_remove(place as usize);
        if (place as usize) < last {
            moved(entry.members[place as usize], Moved { room, from: last as u32, to: place });
        }
        if entry.members.is_empty() {
            if let Some(room) = self.rooms.remove(room)
                && let Some(names) = self.by_name.get_mut(&room.namespace)
            {
                names.remove(&room.name);
            }
        } else if entry.members.capacity() > 64
            && entry.members.len() * 4 < entry.members.capacity()
        {
            entry.members.shrink_to(last * 2);
        }
    }

    /// The members of a room, by name.
    pub fn members(&self, namespace: NamespaceId, name: &str) -> &[u32] {
        let room = self.by_name.get(&namespace).and_then(|names| names.get(name));
        room.and_then(|room| self.rooms.at(*room)).map_or(&[], |room| &room.members)
    }

    /// Namespaces that have had rooms and are not forgotten. O(1).
    pub fn namespaces(&self) -> usize {
        self.by_name.len()
    }

    /// Rooms of a namespace that have members. O(1).
    pub fn count(&self, namespace: NamespaceId) -> usize {
        self.by_name.get(&namespace).map_or(0, HashMap::len)
    }

    /// The first `limit` rooms of a namespace by name, behind `after`, with the numbers of their
    /// members. O(rooms of the namespace).
    pub fn page(
        &self,
        namespace: NamespaceId,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<(Rc<str>, usize)> {
        let mut first = BinaryHeap::with_capacity(limit.min(1_024) + 1);
        let all = self.by_name.get(&namespace).into_iter().flatten();
        for (name, room) in all.filter(|(name, _)| after.is_none_or(|after| &***name > after)) {
            if first.len() == limit {
                match first.peek() {
                    Some((last, _)) if name < last => drop(first.pop()),
                    _ => continue,
                }
            }
            let members = self.rooms.at(*room).map_or(0, |room| room.members.len());
            first.push((name.clone(), members));
        }
        first.into_sorted_vec()
    }

    /// The name behind a membership.
    pub fn name(&self, membership: Membership) -> Option<Rc<str>> {
        self.rooms.at(membership.room).map(|room| room.name.clone())
    }

    /// Rooms with members.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether nobody is in any room.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }
}

/// A member was moved within a room's list; its own record must follow.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    room: u32,
    from: u32,
    to: u32,
}

impl Moved {
    /// Corrects the record of the member that was moved.
    pub fn apply(self, memberships: &mut Memberships) {
        let stale = Membership { room: self.room, place: self.from };
        if let Some(entry) = memberships.iter_mut().find(|entry| **entry == stale) {
            entry.place = self.to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table together with its members' records, as the hub keeps them.
    struct World {
        rooms: Rooms,
        members: Vec<Memberships>,
    }

    impl World {
        fn join(&mut self, member: u32, name: &str) -> bool {
            self.rooms.join(0, name, member, &mut self.members[member as usize])
        }

        fn leave(&mut self, member: u32, name: &str) -> bool {
            let mut own = std::mem::take(&mut self.members[member as usize]);
            let members = &mut self.members;
            let left = self.rooms.leave(0, name, &mut own, |other, moved| {
                moved.apply(&mut members[other as usize]);
            });
            self.members[member as usize] = own;
            left
        }
    }

    #[test]
    fn pages_of_rooms_follow_one_another() {
        let mut world = World { rooms: Rooms::default(), members: vec![Memberships::new(); 40] };
        for member in 0..40 {
            (0..=member % 7).for_each(|room| assert!(world.join(member, &format!("r{room}"))));
        }
        let (mut all, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = world.rooms.page(0, after.as_deref(), 3);
            assert!(page.len() <= 3);
            let Some((last, _)) = page.last() else { break };
            after = Some(last.to_string());
            all.extend(page.into_iter().map(|(name, members)| (name.to_string(), members)));
        }
        let expected = [40, 34, 28, 22, 16, 10, 5];
        let expected = expected.iter().enumerate().map(|(at, n)| (format!("r{at}"), *n));
        assert_eq!(all, expected.collect::<Vec<_>>());
        assert_eq!((world.rooms.count(0), world.rooms.count(1)), (7, 0));
        assert_eq!(world.rooms.page(0, None, 0), []);
        assert_eq!(world.rooms.page(5, None, 9), []);
    }

    #[test]
    fn random_joins_and_leaves_agree_with_sets() {
        let mut world = World { rooms: Rooms::default(), members: vec![Memberships::new(); 40] };
        let mut model: HashMap<(u32, u32), bool> = HashMap::new();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let (member, room) = (random.u32(0..40), random.u32(0..6));
            let is_in = model.entry((member, room)).or_default();
            let name = format!("room{room}");
            if random.bool() {
                assert_eq!(world.join(member, &name), !*is_in);
                *is_in = true;
            } else {
                assert_eq!(world.leave(member, &name), *is_in);
                *is_in = false;
            }
        }
        for room in 0..6 {
            let mut listed = world.rooms.members(0, &format!("room{room}")).to_vec();
            listed.sort_unstable();
            let wanted: Vec<u32> =
                (0..40).filter(|m| model.get(&(*m, room)) == Some(&true)).collect();
            assert_eq!(listed, wanted);
        }
        for member in 0..40 {
            (0..6).for_each(|room| {
                world.leave(member, &format!("room{room}"));
            });
        }
        assert!(world.rooms.is_empty() && world.members.iter().all(|m| m.is_empty()));
    }
}
