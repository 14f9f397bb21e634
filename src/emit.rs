//! What leaves: arguments of any serialisable type, and broadcasts to rooms.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::error::Error;
use crate::event::Raw;
use crate::hub::fanout::Encoded;
use crate::hub::{Arguments, Flags, Publish, Target};
use crate::namespace::Namespace;
use crate::proto::packet;
use crate::proto::parser::{Outgoing, Parser};
use crate::proto::value::{Binary, to_args};
use crate::rooms::{Rooms, names};
use crate::server::NextOffset;

/// Arguments of an event. A reference to anything that serde can write is one argument, a tuple is
/// several (up to eight), `()` is none, and [`Raw`] is what somebody else sent. Numbers, `bool`,
/// `char`, `String`, `serde_json::Value` and [`Binary`] may also be given by value.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
/// # fn main() -> Result<(), corecast::Error> {
/// # let io = corecast::Server::new(one_shard())?;
/// # let running = io.listen("127.0.0.1:0")?;
/// # let mut client = Client::new(&running);
/// io.emit("greeting", "hello")?;                                    // one string
/// io.emit("point", &serde_json::json!({ "x": 1, "y": 2 }))?;        // one object
/// io.emit("list", &["a", "b"])?;                                    // one array
/// io.emit("many", ("text", 5, vec![1.5, 2.5]))?;                    // three arguments
/// io.emit("pair", &("a", 1))?;                                      // one array of two
/// io.emit("none", ())?;                                             // none
/// io.emit("file", ("a.bin", corecast::Binary(vec![1, 2].into())))?; // text and an attachment
/// # for expected in [
/// #     r#"2["greeting","hello"]"#, r#"2["point",{"x":1,"y":2}]"#, r#"2["list",["a","b"]]"#,
/// #     r#"2["many","text",5,[1.5,2.5]]"#, r#"2["pair",["a",1]]"#, r#"2["none"]"#,
/// #     r#"51-["file","a.bin",{"_placeholder":true,"num":0}]"#, "0102",
/// # ] {
/// #     assert_eq!(client.read(), expected);
/// # }
/// # stop(running, [client])
/// # }
/// ```
pub trait Args {
    /// Writes the arguments as JSON without brackets, and takes attachments out.
    ///
    /// # Errors
    /// [`Error::Json`]: a value cannot be written as JSON.
    fn to_raw(&self) -> Result<Raw, Error>;
}

impl Args for Raw {
    fn to_raw(&self) -> Result<Raw, Error> {
        Ok(self.clone())
    }
}

impl Args for () {
    fn to_raw(&self) -> Result<Raw, Error> {
        Ok(Raw::default())
    }
}

impl<T: Serialize + ?Sized> Args for &T {
    fn to_raw(&self) -> Result<Raw, Error> {
        one(*self)
    }
}

fn one<T: Serialize + ?Sized>(value: &T) -> Result<Raw, Error> {
    let (mut json, mut attachments) = (Vec::with_capacity(64), Vec::new());
    to_args(value, &mut json, &mut attachments)?;
    Ok(Raw { json: json.into(), attachments })
}

macro_rules! single {
    ($($type:ty)*) => {$(
        impl Args for $type {
            fn to_raw(&self) -> Result<Raw, Error> {
                one(self)
            }
        }
    )*};
}
single!(bool i8 i16 i32 i64 isize u8 u16 u32 u64 usize f32 f64 char);
single!(String serde_json::Value Binary);

macro_rules! tuple {
    ($($name:ident)*) => {
        impl<$($name: Serialize),*> Args for ($($name,)*) {
            fn to_raw(&self) -> Result<Raw, Error> {
                let (mut json, mut attachments) = (Vec::with_capacity(64), Vec::new());
                #[allow(non_snake_case)]
                let ($($name,)*) = self;
                $(to_args($name, &mut json, &mut attachments)?;)*
                Ok(Raw { json: json.into(), attachments })
            }
        }
    };
}
tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
tuple!(A B C D E);
tuple!(A B C D E F);
tuple!(A B C D E F G);
tuple!(A B C D E F G H);

/// Refuses the names that belong to the protocol (I-6).
pub(crate) fn check_name(event: &str) -> Result<(), Error> {
    if packet::is_reserved(event) { Err(Error::ReservedEvent(event.into())) } else { Ok(()) }
}

/// Encodes an event for the server's parser, as [`Parser::encode`] does.
pub(crate) fn encode_event<'a>(
    parser: &Parser,
    namespace: &str,
    id: Option<u64>,
    event: &'a str,
    raw: &'a Raw,
    text: &mut Vec<u8>,
) -> Result<Cow<'a, [Bytes]>, Error> {
    let Raw { json: args, attachments } = raw;
    Ok(parser.encode(namespace, &Outgoing::Event { name: event, id, args, attachments }, text)?)
}

/// A choice of sockets of one namespace, on all shards, and what to do with them
/// (`BroadcastOperator`, K.2). May be made and used on any thread. Made by
/// [`Server::to`](crate::Server::to), [`Namespace::to`](crate::Namespace::to),
/// [`Socket::to`](crate::Socket::to) and their `except` and `broadcast`.
#[derive(Clone)]
#[must_use = "a broadcast does nothing until its emit is called"]
pub struct Broadcast {
    pub(crate) namespace: Namespace,
    pub(crate) target: Target,
    pub(crate) flags: Flags,
    pub(crate) timeout: Option<Duration>,
}

impl Broadcast {
    pub(crate) fn new(namespace: Namespace) -> Broadcast {
        let (target, flags) = (Target::default(), Flags::default());
        Broadcast { namespace, target, flags, timeout: None }
    }

    /// Adds a room, or several, or a socket by its id. With several, a socket in any of them is
    /// reached, once (L-2). No room at all selects everyone.
    pub fn to(mut self, rooms: impl Rooms) -> Broadcast {
        self.target.rooms.extend(names(rooms));
        self
    }

    /// The same as [`Broadcast::to`] (`in`, which is a keyword in Rust).
    pub fn in_(self, rooms: impl Rooms) -> Broadcast {
        self.to(rooms)
    }

    /// Leaves out the sockets of a room, or of several, or one socket by its id.
    pub fn except(mut self, rooms: impl Rooms) -> Broadcast {
        self.target.except.extend(names(rooms));
        self
    }

    /// Drops the event for sockets that are not ready to take it at that moment (J-20); see
    /// [`Socket::volatile`](crate::Socket::volatile).
    pub fn volatile(mut self) -> Broadcast {
        self.flags.volatile = true;
        self
    }

    /// Whether the event may be compressed where that was agreed on with the client
    /// (`compress(bool)`). Default true.
    pub fn compress(mut self, compress: bool) -> Broadcast {
        self.flags.compress = compress;
        self
    }

    /// Only the sockets of this node (`local`). A server is one node, all of its shards, so for
    /// now that is everyone.
    pub fn local(self) -> Broadcast {
        self
    }

    /// How long to wait for the acknowledgements of [`Broadcast::emit_with_ack`]
    /// (`timeout(ms)`). Counted in steps of 32 ms. Default
    /// [`Options::requests_timeout`](crate::Options::requests_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Broadcast {
        self.timeout = Some(timeout);
        self
    }

    /// With acknowledgements: keeps which sockets have answered, and which have not.
    #[cfg(feature = "gateway")]
    pub(crate) fn named(mut self) -> Broadcast {
        self.flags.named = true;
        self
    }

    /// Sends the event: encoded once, staged on every socket by the shard that owns it. Events
    /// from one thread arrive in order. Costs one mail per other shard, and O(members of the rooms
    /// named) on each.
    ///
    /// # Errors
    /// [`Error::ReservedEvent`], [`Error::Json`]; [`Error::NotRunning`] before the server listens
    /// and after it was shut down; [`Error::Limit`] when the mailbox of a shard is full
    /// ([`Options::max_mailbox`](crate::Options::max_mailbox)), which only threads see that are no
    /// shards: shards before it have the event then, those after it have not.
    pub fn emit(self, event: &str, args: impl Args) -> Result<(), Error> {
        check_name(event)?;
        let raw = args.to_raw()?;
        self.in_each(|it| {
            let server = it.namespace.server.clone();
            let reported = it.for_listeners();
            // Held until the event is on its way, so that events have the order of their offsets.
            let offset = if it.flags.volatile { None } else { server.next_offset() };
            let flags = Flags { offset: offset.as_ref().map(NextOffset::get), ..it.flags };
            server.publish(Broadcast { flags, ..it }.encode_raw(event, &raw, None)?)?;
            drop(offset);
            reported.map_or(Ok(()), |it| it.report(event, &raw))
        })
    }

    /// Sends the event `message` (`send`, `write`).
    ///
    /// # Errors
    /// As [`Broadcast::emit`].
    pub fn send(self, args: impl Args) -> Result<(), Error> {
        self.emit("message", args)
    }

    /// The broadcast as shards take it, to be acknowledged under `id`.
    pub(crate) fn encode(
        self,
        event: &str,
        args: impl Args,
        id: Option<u64>,
    ) -> Result<Publish, Error> {
        check_name(event)?;
        let raw = args.to_raw()?;
        self.encode_raw(event, &raw, id)
    }

    /// A copy for those who listen to what is sent, if there may be any.
    pub(crate) fn for_listeners(&self) -> Option<Broadcast> {
        let server = &self.namespace.server;
        (server.reports_sent() && !server.is_reporting()).then(|| self.clone())
    }

    /// Tells of an event that was sent just before.
    pub(crate) fn report(self, event: &str, raw: &Raw) -> Result<(), Error> {
        let only = self.home();
        let Broadcast { namespace, target, .. } = self;
        let Raw { json, attachments } = raw.clone();
        let event = Arguments { name: event.into(), json, attachments, ack: None };
        let (id, event) = (namespace.id, Arc::new(event));
        namespace.server.on_shards(only, move |shard| {
            shard.hub().report_published(id, &target, &event);
        })
    }

    fn encode_raw(self, event: &str, raw: &Raw, id: Option<u64>) -> Result<Publish, Error> {
        let Broadcast { namespace, target, flags, .. } = self;
        let Namespace { server, id: namespace, name } = namespace;
        let raw = &raw.clone().with_offset(flags.offset);
        let mut text = Vec::with_capacity(raw.json.len() + event.len() + 32);
        let attachments = encode_event(server.parser(), &name, id, event, raw, &mut text)?;
        let attachments = attachments.into_owned();
        let encoded = Encoded { text: Bytes::from(text), attachments };
        Ok(Publish { namespace, target, flags, encoded })
    }

    /// Does something in the namespace or, if it is a parent, in each of its children. All are
    /// tried, whatever one of them answers.
    pub(crate) fn in_each(self, act: impl Fn(Broadcast) -> Result<(), Error>) -> Result<(), Error> {
        if !self.namespace.is_parent() {
            return act(self);
        }
        let children = self.namespace.server.children(self.namespace.id).into_iter();
        let one = |namespace| Broadcast { namespace, ..self.clone() };
        children.map(|child| act(one(child))).fold(Ok(()), Result::and)
    }
}
