//! Sockets of all shards as seen from anywhere: who they are, how many, and one of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::answers::Asked;
use crate::emit::{Args, Broadcast};
use crate::error::Error;
use crate::event::{Handshake, Raw};
use crate::gather::{Gathered, Gathering};
use crate::histograms::{Delays, QueueLengths};
use crate::hub::slab::Key;
use crate::hub::{Held, Size};
use crate::namespace::Namespace;
use crate::rooms::Rooms;
use crate::server::Server;
use crate::shard::Shard;
use crate::shard::mesh::Mail;
use crate::socket::parse_or_empty;

/// A socket as it was when it was asked for (`RemoteSocket`, K.2), on whatever shard it lives. May
/// be kept and used on any thread; what it says does not change, what it does is done to the
/// socket, and to nobody once that has gone. Made by [`Broadcast::fetch_sockets`].
#[derive(Clone)]
pub struct RemoteSocket {
    id: Box<str>,
    /// This socket alone.
    only: Broadcast,
    handshake: Option<Handshake>,
    auth: Box<str>,
    rooms: Vec<Box<str>>,
    data: Box<str>,
}

impl std::fmt::Debug for RemoteSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RemoteSocket { id, rooms, data, .. } = self;
        let mut debug = f.debug_struct("RemoteSocket");
        debug.field("id", id).field("rooms", rooms).field("data", data).finish_non_exhaustive()
    }
}

impl RemoteSocket {
    /// Id of the socket; see [`Socket::id`](crate::Socket::id).
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its namespace.
    pub fn namespace(&self) -> Namespace {
        self.only.namespace.clone()
    }

    /// What the client said when it connected; `None` if that was not kept
    /// ([`Options::retain_handshake`](crate::Options::retain_handshake)).
    pub fn handshake(&self) -> Option<&Handshake> {
        self.handshake.as_ref()
    }

    /// What the client sent as `auth`; see [`Socket::auth`](crate::Socket::auth).
    ///
    /// # Errors
    /// [`Error::Json`]: it is of another type.
    pub fn auth<T: DeserializeOwned>(&self) -> Result<T, Error> {
        parse_or_empty(&self.auth)
    }

    /// The rooms it was in, its own id first.
    pub fn rooms(&self) -> &[Box<str>] {
        &self.rooms
    }

    /// What was kept with [`Socket::set_data`](crate::Socket::set_data); an empty object if nothing
    /// was. Parsed by each call.
    ///
    /// # Errors
    /// [`Error::Json`]: it is of another type.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Error> {
        parse_or_empty(&self.data)
    }

    /// Sends an event to this socket. Costs one mail to its shard.
    ///
    /// # Errors
    /// As [`Broadcast::emit`]; that the socket has gone is none.
    pub fn emit(&self, event: &str, args: impl Args) -> Result<(), Error> {
        self.only.clone().emit(event, args)
    }

    /// Sends an event, now, and awaits the socket's acknowledgement: its first argument. Without
    /// [`RemoteSocket::timeout`] for
    /// [`Options::requests_timeout`](crate::Options::requests_timeout).
    pub fn emit_with_ack(&self, event: &str, args: impl Args) -> RemoteAck {
        RemoteAck(self.only.clone().ask(event, args).map_err(Some))
    }

    /// The same socket, with a time to wait for acknowledgements. Counted in steps of 32 ms.
    pub fn timeout(&self, timeout: Duration) -> RemoteSocket {
        RemoteSocket { only: self.only.clone().timeout(timeout), ..self.clone() }
    }

    /// Makes it join a room, or several.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Limit`], as for [`Broadcast::emit`].
    pub fn join(&self, rooms: impl Rooms) -> Result<(), Error> {
        self.only.clone().sockets_join(rooms)
    }

    /// Makes it leave a room, or several.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Limit`], as for [`Broadcast::emit`].
    pub fn leave(&self, rooms: impl Rooms) -> Result<(), Error> {
        self.only.clone().sockets_leave(rooms)
    }

    /// Disconnects it from its namespace, or with `close` its whole connection; see
    /// [`Socket::disconnect`](crate::Socket::disconnect).
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Limit`], as for [`Broadcast::emit`].
    pub fn disconnect(&self, close: bool) -> Result<(), Error> {
        self.only.clone().disconnect_sockets(close)
    }
}

/// The acknowledgement of a [`RemoteSocket`], when it comes.
///
/// Resolves to its first argument, or to [`Error::Timeout`], also if its shard is stalled;
/// [`Error::Disconnected`]; [`Error::Limit`] at
/// [`Options::max_pending_acks`](crate::Options::max_pending_acks), where the event is sent all the
/// same; or what kept it from being sent.
#[must_use = "without awaiting it, use emit"]
pub struct RemoteAck(Result<Asked, Option<Error>>);

impl Future for RemoteAck {
    type Output = Result<Raw, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let asked = match &mut self.0 {
            Err(error) => return Poll::Ready(Err(error.take().unwrap_or(Error::NotRunning))),
            Ok(asked) => asked,
        };
        Pin::new(asked).poll(cx).map(|mut outcome| match outcome.responses.pop() {
            Some(response) => Ok(response),
            None if outcome.unawaited > 0 => Err(Error::Limit("max_pending_acks")),
            None if outcome.oversized > 0 => Err(Error::Limit("max_gather_bytes")),
            None if outcome.timed_out + outcome.silent_shards > 0 => Err(Error::Timeout),
            None => Err(Error::Disconnected),
        })
    }
}

/// A namespace and what is in it. See [`Server::fetch_namespaces`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamespaceSize {
    /// Its name.
    pub name: Box<str>,
    /// Its sockets.
    pub sockets: usize,
    /// Its rooms, each shard's own: one with sockets on two shards counts twice.
    pub rooms: usize,
    /// How long broadcasts to it have taken to leave, on each shard; see
    /// [`Stats::fan_out`](crate::Stats::fan_out).
    pub fan_out: Delays,
    /// How far behind clients were; see [`Totals::fan_out_queues`](crate::Totals::fan_out_queues).
    pub fan_out_queues: QueueLengths,
}

impl NamespaceSize {
    /// Adds that of a shard.
    fn add(&mut self, other: &Size) {
        self.sockets += other.members;
        self.rooms += other.rooms;
        self.fan_out.add(&other.delivery.fan_out);
        self.fan_out_queues.add(&other.delivery.queues);
    }
}

/// A room and how many are in it. See [`Namespace::fetch_rooms`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomSize {
    /// Its name.
    pub name: Box<str>,
    /// Its sockets.
    pub sockets: usize,
}

/// What one shard says, and whether it had to leave something out.
type Share<T> = (Vec<T>, bool);

impl Broadcast {
    /// The selected sockets of all shards (`fetchSockets`). Asked for at once, awaited on any
    /// thread. Costs one mail per shard and O(selected sockets) on each, which serves nobody else
    /// meanwhile: about a microsecond for each. To count them use [`Broadcast::count_sockets`].
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Options`] for a parent of dynamic namespaces, as in
    /// Socket.IO. A stalled shard is no error: see [`Gathered::is_complete`].
    pub fn fetch_sockets(
        self,
    ) -> impl Future<Output = Result<Gathered<Vec<RemoteSocket>>, Error>> + Send + use<> {
        let only = self.home();
        let Broadcast { namespace, target, .. } = self;
        let bytes_max = namespace.server.options().max_gather_bytes;
        let asked = namespace.ask_shards(only, move |shard, namespace| {
            let members = shard.hub().selected(namespace.id, &target);
            describe(shard, namespace, members, bytes_max)
        });
        all(asked)
    }

    /// The ids of the selected sockets (`allSockets`), as [`Broadcast::fetch_sockets`] finds them.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn fetch_ids(
        self,
    ) -> impl Future<Output = Result<Gathered<Vec<Box<str>>>, Error>> + Send + use<> {
        let only = self.home();
        let Broadcast { namespace, target, .. } = self;
        let bytes_max = namespace.server.options().max_gather_bytes;
        let ids_max = bytes_max / size_of::<(Box<str>, [u8; 20])>();
        let asked = namespace.ask_shards(only, move |shard, namespace| {
            let mut hub = shard.hub();
            let mut members = hub.selected(namespace.id, &target);
            let is_cut = members.len() > ids_max;
            members.truncate(ids_max);
            let ids = members.into_iter().filter_map(|member| hub.socket_id(member));
            (ids.map(|id| id.as_str().into()).collect(), is_cut)
        });
        all(asked)
    }

    /// How many sockets are selected. O(1) per shard for a whole namespace and for one room,
    /// where such count as well as have joined it in middleware that has not let them in yet;
    /// otherwise O(members of the rooms named).
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn count_sockets(
        self,
    ) -> impl Future<Output = Result<Gathered<usize>, Error>> + Send + use<> {
        let only = self.home();
        let Broadcast { namespace, target, .. } = self;
        let asked = namespace.ask_shards(only, move |shard, namespace| {
            (vec![shard.hub().count(namespace.id, &target)], false)
        });
        async move {
            let Gathered { value, is_complete } = all(asked).await?;
            Ok(Gathered { value: value.iter().sum(), is_complete })
        }
    }
}

impl Namespace {
    /// Asks every shard, or one, about this namespace.
    pub(crate) fn ask_shards<T: Send + 'static>(
        &self,
        only: Option<u16>,
        answer: impl Fn(&Rc<Shard>, &Namespace) -> T + Clone + Send + 'static,
    ) -> Result<Gathering<T>, Error> {
        if self.is_parent() {
            let rule = "a parent namespace cannot be asked for its sockets; ask its children";
            return Err(Error::Options(rule));
        }
        let namespace = self.clone();
        self.server.ask_shards(only, move |shard| answer(shard, &namespace))
    }

    /// Up to `limit` rooms (at most 10,000) with the numbers of their sockets, by name, those
    /// behind `after`: the last name of one page asks for the next, and an empty page is the end.
    /// The room that every socket has for itself, its id, is not listed. O(rooms of the namespace)
    /// on each shard for each page.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn fetch_rooms(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<Gathered<Vec<RoomSize>>, Error>> + Send + use<> {
        let limit = limit.min(10_000);
        let after: Option<Box<str>> = after.map(Into::into);
        let bytes_max = self.server.options().max_gather_bytes;
        let asked = self.ask_shards(None, move |shard, namespace| {
            let page = shard.hub().rooms().page(namespace.id, after.as_deref(), limit);
            cut(page, bytes_max)
        });
        async move {
            let (parts, silent) = asked?.await;
            let value = merge(parts, limit);
            Ok(Gathered { value, is_complete: silent == 0 })
        }
    }
}

impl Server {
    /// All namespaces with the numbers of their sockets and rooms, and how their broadcasts have
    /// fared. O(namespaces) on each shard.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn fetch_namespaces(
        &self,
    ) -> impl Future<Output = Result<Gathered<Vec<NamespaceSize>>, Error>> + Send + use<> {
        let asked = self.ask_shards(None, |shard| (shard.hub().namespace_sizes(), false));
        async move {
            let Gathered { value, is_complete } = all(asked).await?;
            let mut sizes = BTreeMap::<Box<str>, NamespaceSize>::new();
            for size in value {
                sizes.entry(size.name.clone()).or_default().add(&size);
            }
            let named = |(name, size)| NamespaceSize { name, ..size };
            Ok(Gathered { value: sizes.into_iter().map(named).collect(), is_complete })
        }
    }

    /// What clients make the server hold, by kind; [`Server::stats`] is of the same moment
    /// afterwards. O(connections): for tests and operators.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn fetch_held(&self) -> Result<Gathered<Held>, Error> {
        let held = |shard: &Rc<Shard>| {
            shard.leave_stats();
            shard.hub().held()
        };
        let (parts, silent) = self.ask_shards(None, held)?.await;
        let mut value = Held::default();
        parts.iter().for_each(|part| value.add(part));
        Ok(Gathered { value, is_complete: silent == 0 })
    }

    /// Asks every shard, or one, within `requests_timeout`.
    pub(crate) fn ask_shards<T: Send + 'static>(
        &self,
        only: Option<u16>,
        answer: impl Fn(&Rc<Shard>) -> T + Clone + Send + 'static,
    ) -> Result<Gathering<T>, Error> {
        self.ask_shards_within(self.requests_timeout(), only, answer)
    }

    /// As [`Server::ask_shards`], within a time.
    pub(crate) fn ask_shards_within<T: Send + 'static>(
        &self,
        within: Duration,
        only: Option<u16>,
        answer: impl Fn(&Rc<Shard>) -> T + Clone + Send + 'static,
    ) -> Result<Gathering<T>, Error> {
        self.gather(only, within, |part| {
            let answer = answer.clone();
            Mail::Call(Box::new(move |shard| part.put(answer(shard))))
        })
    }
}

/// The shares of all shards as one.
async fn all<T: Send + 'static>(
    asked: Result<Gathering<Share<T>>, Error>,
) -> Result<Gathered<Vec<T>>, Error> {
    let (parts, silent) = asked?.await;
    let is_complete = silent == 0 && parts.iter().all(|(_, is_cut)| !is_cut);
    let value = parts.into_iter().flat_map(|(share, _)| share).collect();
    Ok(Gathered { value, is_complete })
}

/// What there is to say of these sockets, up to so many bytes.
fn describe(
    shard: &Rc<Shard>,
    namespace: &Namespace,
    members: Vec<Key>,
    bytes_max: usize,
) -> Share<RemoteSocket> {
    let (hub, mut bytes) = (shard.hub(), 0);
    let mut sockets = Vec::with_capacity(members.len().min(1_024));
    for member in members {
        let Some(id) = hub.socket_id(member) else { continue };
        let mut only = Broadcast::new(namespace.clone());
        only.target.only = hub.record_id(member);
        let id: Box<str> = id.as_str().into();
        let joined = hub.rooms_of(member).into_iter().map(|room| Box::from(&*room));
        let rooms: Vec<Box<str>> = std::iter::once(id.clone()).chain(joined).collect();
        let handshake = hub.handshake(member).map(Handshake);
        let auth: Box<str> = hub.auth(member).unwrap_or_default().into();
        let data = shard.own(member, |own| own.kept.json.clone()).unwrap_or_default();
        bytes += size_of::<RemoteSocket>() + auth.len() + data.len();
        bytes += handshake.as_ref().map_or(0, |handshake| handshake.0.head().len());
        bytes += rooms.iter().map(|room| size_of::<Box<str>>() + room.len()).sum::<usize>();
        if bytes > bytes_max {
            return (sockets, true);
        }
        sockets.push(RemoteSocket { id, only, handshake, auth, rooms, data });
    }
    (sockets, false)
}

/// A page of rooms, cut at so many bytes; at least one, so that paging comes to an end.
fn cut(page: Vec<(Rc<str>, usize)>, bytes_max: usize) -> (Vec<RoomSize>, bool) {
    let mut bytes = 0;
    let fits = |(name, _): &&(Rc<str>, usize)| {
        let is_first = bytes == 0;
        bytes += size_of::<RoomSize>() + name.len();
        is_first || bytes <= bytes_max
    };
    let size = |(name, sockets): &(Rc<str>, usize)| RoomSize {
        name: Box::from(&**name),
        sockets: *sockets,
    };
    let rooms: Vec<RoomSize> = page.iter().take_while(fits).map(size).collect();
    let is_cut = rooms.len() < page.len();
    (rooms, is_cut)
}

/// Pages of several shards as one. Each has the first rooms of its shard, so the first rooms of all
/// are in them, with all their sockets, up to the end of the shortest that was cut.
fn merge(pages: Vec<(Vec<RoomSize>, bool)>, limit: usize) -> Vec<RoomSize> {
    let ends = pages.iter().filter(|(_, is_cut)| *is_cut).filter_map(|(page, _)| page.last());
    let end = ends.map(|room| room.name.clone()).min();
    let mut sizes = BTreeMap::<Box<str>, usize>::new();
    for RoomSize { name, sockets } in pages.into_iter().flat_map(|(page, _)| page) {
        *sizes.entry(name).or_default() += sockets;
    }
    let sizes = sizes.into_iter().map(|(name, sockets)| RoomSize { name, sockets });
    sizes.take_while(|room| end.as_ref().is_none_or(|end| room.name <= *end)).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rooms: &[(&str, usize)]) -> Vec<(Rc<str>, usize)> {
        rooms.iter().map(|(name, sockets)| (Rc::from(*name), *sockets)).collect()
    }

    fn listed(rooms: &[RoomSize]) -> Vec<(&str, usize)> {
        rooms.iter().map(|room| (&*room.name, room.sockets)).collect()
    }

    #[test]
    fn pages_of_several_shards_are_one() {
        let pages = [page(&[("a", 1), ("c", 2)]), page(&[("a", 4), ("b", 1), ("d", 1)])];
        let pages = pages.map(|page| cut(page, 1_000)).to_vec();
        assert_eq!(listed(&merge(pages, 3)), [("a", 5), ("b", 1), ("c", 2)]);
    }

    #[test]
    fn a_page_that_was_cut_hides_what_it_might_have_had() {
        let long = "c".repeat(1_000);
        let first = cut(page(&[("a", 1), ("b", 1), (&long, 1), ("d", 1)]), 1_000);
        assert_eq!((first.0.len(), first.1), (2, true));
        let second = cut(page(&[("b", 1), ("d", 2)]), 1_000);
        assert_eq!(listed(&merge(vec![first, second], 9)), [("a", 1), ("b", 2)]);
        let alone = cut(page(&[(&long, 1), ("d", 1)]), 1_000);
        assert_eq!((alone.0.len(), alone.1), (1, true), "never nothing");
    }
}
