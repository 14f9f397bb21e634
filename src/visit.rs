//! Selected sockets, looked at or changed where they live: for the gateway, which knows no shard.

use std::rc::Rc;

use crate::emit::Broadcast;
use crate::error::Error;
use crate::event::Handshake;
use crate::gather::{Gathered, Gathering};
use crate::hub::id::Id;
use crate::hub::slab::Key;
pub(crate) use crate::proto::json::validate as check_json;
pub(crate) use crate::proto::value::split_args;
use crate::server::Server;
use crate::shard::Shard;
use crate::socket::Socket;

/// Where a page of sockets begins: a shard, and a place in its table.
pub(crate) type Place = (u16, u32);

/// What sockets of one page say, where the next one begins, and whether every shard has answered.
pub(crate) type Page<T> = (Vec<T>, Option<Place>, bool);

/// Bytes that wait on a stretch of sessions, what the longest queues say, and the next stretch.
pub(crate) type Queued<T> = (usize, Vec<T>, Option<u32>);

/// A socket on its shard, for as long as it is looked at. Cheaper than a `Socket`: nothing is
/// cloned.
pub(crate) struct Visited<'a> {
    shard: &'a Rc<Shard>,
    key: Key,
}

impl Visited<'_> {
    /// `None` if it is no socket of an application.
    pub(crate) fn id(&self) -> Option<String> {
        self.shard.hub().socket_id(self.key).map(|id| id.to_string())
    }

    pub(crate) fn namespace(&self) -> Option<String> {
        self.shard.hub().namespace_name(self.key).map(|name| name.to_string())
    }

    pub(crate) fn handshake(&self) -> Option<Handshake> {
        self.shard.hub().handshake(self.key).map(Handshake)
    }

    /// Without its own.
    pub(crate) fn rooms(&self) -> Vec<String> {
        self.shard.hub().rooms_of(self.key).iter().map(|room| room.to_string()).collect()
    }

    /// What was kept with it.
    pub(crate) fn get<T: 'static>(&self) -> Option<Rc<T>> {
        self.shard.own(self.key, |own| own.kept.get::<T>()).flatten()
    }

    /// Its data as JSON text; empty if nobody has set any.
    pub(crate) fn data(&self) -> Box<str> {
        self.shard.own(self.key, |own| own.kept.json.clone()).unwrap_or_default()
    }

    /// Keeps a value with it.
    pub(crate) fn set<T: Send + 'static>(&self, value: T) {
        self.shard.own_or_new(self.key, |own| own.kept.set(value));
    }

    pub(crate) fn set_data(&self, json: &str) {
        self.shard.own_or_new(self.key, |own| own.kept.json = json.into());
    }

    /// False if it is in as many rooms as it may be, and not in this one.
    pub(crate) fn join(&self, room: &str) -> bool {
        let mut hub = self.shard.hub();
        hub.join(self.key, room) || hub.is_in(self.key, room)
    }

    pub(crate) fn leave(&self, room: &str) {
        self.shard.hub().leave(self.key, room);
    }

    pub(crate) fn disconnect(&self, close: bool) {
        self.shard.hub().disconnect(self.key, close);
    }

    pub(crate) fn shard(&self) -> u16 {
        self.shard.index()
    }
}

impl Socket {
    /// The same socket as those see it that look at many.
    pub(crate) fn visited(&self) -> Visited<'_> {
        Visited { shard: &self.shard, key: self.key }
    }
}

/// Whether a text may be the id of a socket, now, before or later: 20 characters of base64url, of
/// which the first is `A`, since no machine has more than 1,024 shards.
pub(crate) fn may_be_socket(text: &str) -> bool {
    text.starts_with('A') && Id::parse(text).is_some()
}

/// Runs something on this shard, beside the handler that calls it.
pub(crate) fn spawn_here(job: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(job).detach();
}

impl Broadcast {
    /// Selects the one socket with this id, so that its shard alone is asked. `None` if that
    /// cannot be known: it is no id, or with connection-state recovery its client may have come
    /// back to another shard.
    pub(crate) fn only(mut self, id: &str) -> Option<Broadcast> {
        if self.namespace.server.options().connection_state_recovery.is_some() {
            return None;
        }
        self.target.only = Some(Id::parse(id)?);
        Some(self)
    }

    /// Adds rooms to the selection, or to those that are left out.
    pub(crate) fn among<'a>(
        mut self,
        rooms: impl Iterator<Item = &'a str>,
        except: impl Iterator<Item = &'a str>,
    ) -> Broadcast {
        self.target.rooms.extend(rooms.map(Into::into));
        self.target.except.extend(except.map(Into::into));
        self
    }

    /// Calls `act` with each selected socket; how many there were.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub(crate) async fn visit(
        self,
        act: impl Fn(&Visited<'_>) + Clone + Send + 'static,
    ) -> Result<Gathered<usize>, Error> {
        let only = self.home();
        let Broadcast { namespace, target, .. } = self;
        let asked = namespace.ask_shards(only, move |shard, namespace| {
            let members = shard.hub().selected(namespace.id, &target);
            members.iter().for_each(|key| act(&Visited { shard, key: *key }));
            members.len()
        });
        let (parts, silent) = asked?.await;
        Ok(Gathered { value: parts.iter().sum(), is_complete: silent == 0 })
    }

    /// Up to `limit` of the selected sockets from a place on: shard after shard, so that no more is
    /// asked for than is told. Who comes meanwhile may be missed.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub(crate) async fn page<T: Send + 'static>(
        self,
        from: Place,
        limit: usize,
        tell: impl Fn(&Visited<'_>) -> Option<T> + Clone + Send + 'static,
    ) -> Result<Page<T>, Error> {
        let only = self.home();
        let Broadcast { namespace, target, .. } = self;
        let shards = namespace.server.shard_stats().len() as u16;
        let (mut shard, mut place) = from;
        let (mut rows, mut is_complete) = (Vec::new(), true);
        while shard < shards && rows.len() < limit {
            if only.is_none_or(|only| only == shard) {
                let (target, tell, wanted) = (target.clone(), tell.clone(), limit - rows.len());
                let asked = namespace.ask_shards(Some(shard), move |shard, namespace| {
                    let members = shard.hub().selected(namespace.id, &target);
                    stretch(shard, members, place, wanted, &tell)
                });
                let (parts, silent) = asked?.await;
                is_complete &= silent == 0;
                for (part, next) in parts {
                    rows.extend(part);
                    if let Some(next) = next {
                        return Ok((rows, Some((shard, next)), is_complete));
                    }
                }
            }
            (shard, place) = (shard + 1, 0);
        }
        let next = (shard < shards && only.is_none()).then_some((shard, 0));
        Ok((rows, next, is_complete))
    }
}

/// What up to `wanted` members of one shard say, from a place on, and the place behind them.
/// O(members).
fn stretch<T>(
    shard: &Rc<Shard>,
    mut members: Vec<Key>,
    place: u32,
    wanted: usize,
    tell: &impl Fn(&Visited<'_>) -> Option<T>,
) -> (Vec<T>, Option<u32>) {
    members.retain(|member| member.index >= place);
    let mut next = None;
    if wanted < members.len() {
        let (_, behind, _) = members.select_nth_unstable_by_key(wanted, |member| member.index);
        next = Some(behind.index);
        members.truncate(wanted);
    }
    members.sort_unstable_by_key(|member| member.index);
    let rows = members.into_iter().filter_map(|key| tell(&Visited { shard, key }));
    (rows.collect(), next)
}

impl Server {
    /// Calls `act` with the sockets of one shard, of all namespaces, in up to `count` places from
    /// one on; the next place. O(count).
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Limit`]: the shard has too much to do.
    pub(crate) fn visit_some(
        &self,
        shard: u16,
        from: u32,
        count: u32,
        act: impl Fn(&Visited<'_>) + Clone + Send + 'static,
    ) -> Result<Gathering<Option<u32>>, Error> {
        self.ask_shards(Some(shard), move |shard| {
            let (members, next) = shard.hub().some_members(from, count);
            members.into_iter().for_each(|key| act(&Visited { shard, key }));
            next
        })
    }

    /// Asks one shard for what waits on up to `count` sessions from a place on, and for the `top`
    /// longest queues. O(count).
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub(crate) fn ask_queues<T: Send + 'static>(
        &self,
        shard: u16,
        from: u32,
        (count, top): (u32, usize),
        tell: impl Fn(usize, &Visited<'_>) -> Option<T> + Clone + Send + 'static,
    ) -> Result<Gathering<Queued<T>>, Error> {
        self.ask_shards(Some(shard), move |shard| {
            let queues = shard.hub().queues(from, count, top);
            let longest = queues.longest.into_iter();
            let told = longest.filter_map(|(bytes, key)| tell(bytes, &Visited { shard, key }));
            (queues.bytes, told.collect(), queues.next)
        })
    }
}
