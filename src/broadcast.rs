//! What one does with many sockets besides sending to them: rooms, the end.

use std::future::Future;
use std::time::Duration;

use crate::answers::BroadcastAck;
use crate::emit::{Args, Broadcast};
use crate::error::Error;
use crate::gather::Gathered;
use crate::hub::Hub;
use crate::hub::slab::Key;
use crate::namespace::Namespace;
use crate::remote::RemoteSocket;
use crate::rooms::{Rooms, names};
use crate::server::Server;

impl Broadcast {
    /// Makes the selected sockets join a room, or several (`socketsJoin`). Other shards do so when
    /// they read their mail, which is before anything that this thread sends later.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Limit`], as for [`Broadcast::emit`].
    pub fn sockets_join(self, rooms: impl Rooms) -> Result<(), Error> {
        let rooms = names(rooms);
        self.for_each(move |hub, member| {
            rooms.iter().for_each(|room| {
                hub.join(member, room);
            });
        })
    }

    /// Makes the selected sockets leave a room, or several (`socketsLeave`), as
    /// [`Broadcast::sockets_join`] does.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Limit`], as for [`Broadcast::emit`].
    pub fn sockets_leave(self, rooms: impl Rooms) -> Result<(), Error> {
        let rooms = names(rooms);
        self.for_each(move |hub, member| {
            rooms.iter().for_each(|room| {
                hub.leave(member, room);
            });
        })
    }

    /// Disconnects the selected sockets from the namespace, or with `close` their whole connections
    /// (`disconnectSockets`); see [`Socket::disconnect`](crate::Socket::disconnect).
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Limit`], as for [`Broadcast::emit`].
    pub fn disconnect_sockets(self, close: bool) -> Result<(), Error> {
        self.for_each(move |hub, member| hub.disconnect(member, close))
    }

    /// Closes the connections of the selected sockets after what is queued, without a DISCONNECT
    /// packet: their clients see a closed transport and reconnect, other than after
    /// [`Broadcast::disconnect_sockets`]. See
    /// [`Socket::close_connection`](crate::Socket::close_connection).
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Limit`], as for [`Broadcast::emit`].
    pub fn close_connections(self) -> Result<(), Error> {
        self.for_each(|hub, member| hub.close_connection(member))
    }

    /// The only shard that it concerns, if it does not concern all.
    pub(crate) fn home(&self) -> Option<u16> {
        self.target.only.map(|id| id.shard)
    }

    fn for_each(self, act: impl Fn(&mut Hub, Key) + Send + Clone + 'static) -> Result<(), Error> {
        let only = self.home();
        self.in_each(|Broadcast { namespace, target, .. }| {
            let (id, act) = (namespace.id, act.clone());
            namespace.server.on_shards(only, move |shard| {
                let mut hub = shard.hub();
                for member in hub.selected(id, &target) {
                    act(&mut hub, member);
                }
            })
        })
    }
}

/// What [`Broadcast`] does, of all sockets of a namespace.
macro_rules! of_everyone {
    ($type:ty, $which:literal) => {
        impl $type {
            #[doc = concat!("The same as `to` (`in`), for ", $which, ".")]
            pub fn in_(&self, rooms: impl Rooms) -> Broadcast {
                self.to(rooms)
            }

            #[doc = concat!("All sockets of ", $which, ", with [`Broadcast::volatile`].")]
            pub fn volatile(&self) -> Broadcast {
                self.broadcast().volatile()
            }

            #[doc = concat!("All sockets of ", $which, ", with [`Broadcast::compress`].")]
            pub fn compress(&self, compress: bool) -> Broadcast {
                self.broadcast().compress(compress)
            }

            #[doc = concat!("All sockets of ", $which, ", with [`Broadcast::local`].")]
            pub fn local(&self) -> Broadcast {
                self.broadcast().local()
            }

            #[doc = concat!("All sockets of ", $which, ", with [`Broadcast::timeout`].")]
            pub fn timeout(&self, timeout: Duration) -> Broadcast {
                self.broadcast().timeout(timeout)
            }

            #[doc = concat!("[`Broadcast::emit_with_ack`] to all sockets of ", $which, ".")]
            pub fn emit_with_ack(&self, event: &str, args: impl Args) -> BroadcastAck {
                self.broadcast().emit_with_ack(event, args)
            }

            #[doc = concat!("[`Broadcast::fetch_sockets`] of all sockets of ", $which, ".")]
            ///
            /// # Errors
            /// [`Error::NotRunning`].
            pub fn fetch_sockets(
                &self,
            ) -> impl Future<Output = Result<Gathered<Vec<RemoteSocket>>, Error>> + Send + use<>
            {
                self.broadcast().fetch_sockets()
            }

            #[doc = concat!("[`Broadcast::count_sockets`] of all sockets of ", $which, ".")]
            ///
            /// # Errors
            /// [`Error::NotRunning`].
            pub fn count_sockets(
                &self,
            ) -> impl Future<Output = Result<Gathered<usize>, Error>> + Send + use<> {
                self.broadcast().count_sockets()
            }

            #[doc = concat!("[`Broadcast::sockets_join`] for all sockets of ", $which, ".")]
            ///
            /// # Errors
            /// [`Error::NotRunning`], [`Error::Limit`], as for [`Broadcast::emit`].
            pub fn sockets_join(&self, rooms: impl Rooms) -> Result<(), Error> {
                self.broadcast().sockets_join(rooms)
            }

            #[doc = concat!("[`Broadcast::sockets_leave`] for all sockets of ", $which, ".")]
            ///
            /// # Errors
            /// [`Error::NotRunning`], [`Error::Limit`], as for [`Broadcast::emit`].
            pub fn sockets_leave(&self, rooms: impl Rooms) -> Result<(), Error> {
                self.broadcast().sockets_leave(rooms)
            }

            #[doc = concat!("[`Broadcast::disconnect_sockets`] for all sockets of ", $which, ".")]
            ///
            /// # Errors
            /// [`Error::NotRunning`], [`Error::Limit`], as for [`Broadcast::emit`].
            pub fn disconnect_sockets(&self, close: bool) -> Result<(), Error> {
                self.broadcast().disconnect_sockets(close)
            }
        }
    };
}
of_everyone!(Server, "`/`");
of_everyone!(Namespace, "the namespace");
