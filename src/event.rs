//! What arrives: events with their arguments, raw arguments to pass on, and the handshake.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::children::NamespaceSpec;
use crate::emit::Args;
use crate::error::Error;
use crate::hub::recovery::Offset;
use crate::hub::slab::Key;
use crate::hub::{self, Arguments};
use crate::options::Limits;
use crate::proto::http;
use crate::proto::value;
use crate::shard::Shard;

/// Arguments as they came: validated JSON and attachments, not decoded. Passing it to an `emit`
/// relays them byte for byte, so numbers keep their digits. Cheap to clone; may cross threads. Its
/// default is no arguments; [`Args::to_raw`] makes one of values.
#[derive(Debug, Clone, Default)]
pub struct Raw {
    /// The arguments without the brackets around them; possibly empty.
    pub(crate) json: Bytes,
    /// What the placeholders in `json` stand for.
    pub(crate) attachments: Vec<Bytes>,
}

impl Raw {
    /// The arguments as JSON text, separated by commas, without brackets. Attachments show as
    /// `{"_placeholder":true,"num":0}`.
    pub fn json(&self) -> &str {
        // Arguments are cut out of text that was checked, or written by serde_json.
        std::str::from_utf8(&self.json).unwrap_or_default()
    }

    /// The attachments, in order.
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }

    /// The arguments but the first `count`, to relay what follows a room name or the like
    /// (`...args`); none if there are not more. O(length of what is skipped), no copy.
    ///
    /// All attachments stay, so that placeholders keep their numbers: whoever gets the rest also
    /// gets the bytes of the arguments that were skipped.
    pub fn skip(self, count: usize) -> Raw {
        let (_, rest) = value::split_args(self.json(), count);
        Raw { json: self.json.slice_ref(rest.as_bytes()), ..self }
    }

    /// The first `count` arguments, or all if there are fewer. Attachments as for [`Raw::skip`].
    pub fn take(self, count: usize) -> Raw {
        let (first, _) = value::split_args(self.json(), count);
        Raw { json: self.json.slice_ref(first.as_bytes()), ..self }
    }

    /// All arguments as a tuple or a `Vec`. A tuple must have as many fields as there are
    /// arguments.
    ///
    /// # Errors
    /// [`Error::Json`]: they are of another number or type.
    pub fn args<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(value::from_args(self.json(), &self.attachments)?)
    }

    /// The first argument; `null` if there is none.
    ///
    /// # Errors
    /// [`Error::Json`]: it is of another type.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(value::first_arg(self.json(), &self.attachments)?)
    }
}

impl Raw {
    /// The same with the offset as one more argument, if there is one (L-7).
    pub(crate) fn with_offset(self, offset: Option<Offset>) -> Raw {
        let Some(offset) = offset else { return self };
        let mut json = Vec::with_capacity(self.json.len() + Offset::LEN + 3);
        json.extend_from_slice(&self.json);
        offset.append_to(&mut json);
        Raw { json: json.into(), ..self }
    }
}

impl From<Arguments> for Raw {
    fn from(arguments: Arguments) -> Self {
        Raw { json: arguments.json, attachments: arguments.attachments }
    }
}

/// An event from a client: its name, its arguments, and the way to acknowledge it. Cheap to clone;
/// stays on its shard. Reading arguments parses them, each time.
#[derive(Clone)]
pub struct Event(Rc<Inner>);

struct Inner {
    name: Box<str>,
    raw: Raw,
    shard: Rc<Shard>,
    /// Outlives the socket, so that an event is answered after its namespace was left (J-12).
    session: Option<Key>,
    namespace: Rc<NamespaceSpec>,
    /// Taken by the first answer.
    ack: Cell<Option<u64>>,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event").field("name", &self.0.name).field("raw", &self.0.raw).finish()
    }
}

impl Event {
    pub(crate) fn new(
        shard: Rc<Shard>,
        member: Key,
        namespace: Rc<NamespaceSpec>,
        arguments: Arguments,
    ) -> Event {
        let Arguments { name, json, attachments, ack } = arguments;
        let session = shard.hub().session_of(member);
        let (raw, ack) = (Raw { json, attachments }, Cell::new(ack));
        Event(Rc::new(Inner { name, raw, shard, session, namespace, ack }))
    }

    /// An event that was sent; there is nothing to answer.
    pub(crate) fn sent(
        shard: Rc<Shard>,
        namespace: Rc<NamespaceSpec>,
        arguments: Arguments,
    ) -> Event {
        let Arguments { name, json, attachments, .. } = arguments;
        let (raw, ack) = (Raw { json, attachments }, Cell::new(None));
        Event(Rc::new(Inner { name, raw, shard, session: None, namespace, ack }))
    }

    /// What a socket has done without sending an event, with a text as its argument.
    #[cfg(feature = "gateway")]
    pub(crate) fn own(socket: &crate::Socket, name: &str, text: &str) -> Event {
        let json = serde_json::Value::from(text).to_string().into();
        let arguments = Arguments { name: name.into(), json, attachments: Vec::new(), ack: None };
        Event::sent(socket.shard.clone(), socket.namespace.clone(), arguments)
    }

    /// Name of the event.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The arguments as they came, to relay or to keep.
    pub fn raw(&self) -> Raw {
        self.0.raw.clone()
    }

    /// All arguments as a tuple or a `Vec`, e.g. `event.args::<(String, u32)>()`. A tuple must have
    /// as many fields as there are arguments; see [`Raw::take`] for clients that send more.
    ///
    /// # Errors
    /// [`Error::Json`]: they are of another number or type.
    pub fn args<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.0.raw.args()
    }

    /// The first argument; `null` if there is none; others are ignored. Binary values in it are
    /// [`Binary`](crate::Binary).
    ///
    /// # Errors
    /// [`Error::Json`]: it is of another type.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.0.raw.data()
    }

    /// Whether the client waits for an acknowledgement that was not given yet.
    pub fn wants_ack(&self) -> bool {
        self.0.ack.get().is_some()
    }

    /// Acknowledges the event (the callback of a listener). Only the first call has an effect, and
    /// only where the client asked for it (J-12); others are `Ok` as well.
    ///
    /// # Errors
    /// [`Error::Json`]: the arguments cannot be written. [`Error::Disconnected`]: the connection
    /// has gone; leaving the namespace alone does not matter.
    pub fn ack(&self, args: impl Args) -> Result<(), Error> {
        let raw = args.to_raw()?;
        let Some(id) = self.0.ack.take() else { return Ok(()) };
        let Inner { shard, session, namespace, .. } = &*self.0;
        let session = session.ok_or(Error::Disconnected)?;
        let mut hub = shard.hub();
        let sent = hub.acknowledge(session, &namespace.name, id, &raw.json, &raw.attachments);
        drop(hub);
        shard.wake();
        if sent? { Ok(()) } else { Err(Error::Disconnected) }
    }
}

/// What a client said when it connected (J-22): the request that opened its session, the first one
/// of polling. It is parsed again by each call.
#[derive(Debug, Clone)]
pub struct Handshake(pub(crate) hub::Handshake);

impl Handshake {
    /// Who has connected: the peer of the TCP connection, or behind proxies of
    /// [`Options::trusted_proxies`](crate::Options::trusted_proxies) the client that they name.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Whether it came over TLS (`handshake.secure`). What a proxy in front spoke does not count.
    pub fn is_secure(&self) -> bool {
        self.0.is_secure()
    }

    /// The certificate that the client has shown over TLS, which was verified; none if it was not
    /// asked or had none. Only with [`retain_handshake`](crate::Options::retain_handshake) for as
    /// long as the socket is there.
    #[cfg(feature = "tls")]
    pub fn certificate(&self) -> Option<crate::tls::ClientCertificate> {
        self.0.certificate().cloned().map(crate::tls::ClientCertificate::new)
    }

    /// When the session was opened.
    pub fn issued(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.0.issued_ms())
    }

    /// Request target as it was sent: path and query.
    pub fn url(&self) -> String {
        self.head(|head| head.target.to_owned()).unwrap_or_default()
    }

    /// The first header of that name, in any case. Headers of the websocket upgrade are not kept;
    /// see [`Handshake::headers`].
    pub fn header(&self, name: &str) -> Option<String> {
        self.head(|head| head.header(name).map(str::to_owned)).flatten()
    }

    /// All headers in the order they were sent, without those of the websocket upgrade
    /// (`Connection`, `Upgrade`, `Sec-WebSocket-Key`, `-Version`, `-Extensions`).
    pub fn headers(&self) -> Vec<(String, String)> {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        self.head(|head| head.headers().map(owned).collect()).unwrap_or_default()
    }

    /// A value of the query string, decoded; the last one if it is there more than once.
    pub fn query(&self, name: &str) -> Option<String> {
        let value = |head: &http::Head<'_>| {
            http::query_value(head.query, name).map(|value| value.into_owned())
        };
        self.head(value).flatten()
    }

    /// All values of the query string, decoded.
    pub fn queries(&self) -> Vec<(String, String)> {
        let owned = |head: &http::Head<'_>| {
            let pairs = http::query_pairs(head.query);
            pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
        };
        self.head(owned).unwrap_or_default()
    }

    /// Whether the request named an origin (`handshake.xdomain`), as browsers do across sites.
    pub fn is_cross_domain(&self) -> bool {
        self.header("origin").is_some()
    }

    /// The head was accepted once, so it parses again.
    fn head<T>(&self, read: impl FnOnce(&http::Head<'_>) -> T) -> Option<T> {
        let limits = Limits::of_head(self.0.head().len());
        let (head, _) = http::parse_head(self.0.head(), &limits).ok()??;
        Some(read(&head))
    }
}
