//! What pages of the admin UI hear of, while somebody is logged in (S-8, S-9).
//!
//! The places where things happen ask [`watching`] first, which is two loads.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::Admin;
use crate::emit::{Args, Broadcast};
use crate::error::Reason;
use crate::event::{Handshake, Raw};
use crate::hub::slab::Key;
use crate::hub::{Hub, RoomChange};
use crate::namespace::Namespace;
use crate::server::Server;
use crate::shard::Shard;
use crate::socket::Socket;

/// Sockets of one shard that a page's first list has.
const SOCKETS_MAX: usize = 2_000;
/// What pages hear of events in one second: their number, and the bytes of their arguments.
const EVENTS_MAX: usize = 1_000;
const EVENT_BYTES_MAX: usize = 1_000_000;
/// Characters of a session's id that name a client to the UI; the rest stays secret.
const CLIENT_ID: usize = 12;

/// What was told in one second.
#[derive(Debug, Default)]
pub(super) struct Budget {
    second: u64,
    events: usize,
    bytes: usize,
}

impl Budget {
    /// Whether an event of that size may still be told.
    fn takes(&mut self, second: u64, bytes: usize) -> bool {
        if self.second != second {
            *self = Budget { second, ..Budget::default() };
        }
        let fits = self.events < EVENTS_MAX && self.bytes + bytes <= EVENT_BYTES_MAX;
        if fits {
            self.events += 1;
            self.bytes += bytes;
        }
        fits
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A moment as JSON has it in JavaScript.
fn date(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

fn today() -> String {
    date(SystemTime::now())
}

/// The server's pages, if some watch it now.
pub(crate) fn watching(server: &Server) -> Option<&Arc<Admin>> {
    server.admin().filter(|admin| admin.is_watched())
}

impl Admin {
    fn tell(&self, server: &Server, event: &str, args: impl Args) {
        // With no shard to take it there is no page either.
        let (id, name) = self.namespace.clone();
        let _ = Broadcast::new(Namespace { server: server.clone(), id, name }).emit(event, args);
    }

    /// `socket_connected`
    pub(crate) fn connected(&self, shard: &Shard, socket: &Socket) {
        let described = describe(shard, &shard.hub(), socket.key, &socket.namespace.name);
        if let Some(described) = described {
            self.tell(&shard.server(), "socket_connected", (described, today()));
        }
    }

    /// `socket_updated`, with what has changed of a socket.
    fn updated(&self, socket: &Socket, what: &str, value: Value) {
        let mut update = json!({ "id": socket.id(), "nsp": &*socket.namespace.name });
        update[what] = value;
        self.tell(&socket.server(), "socket_updated", &update);
    }

    /// A socket's data have changed.
    pub(crate) fn data_changed(&self, socket: &Socket) {
        if let Ok(data) = socket.data::<Value>() {
            self.updated(socket, "data", data);
        }
    }

    /// A socket's session has gone on to websocket.
    pub(crate) fn upgraded(&self, socket: &Socket) {
        self.updated(socket, "transport", "websocket".into());
    }

    /// `socket_disconnected`
    pub(crate) fn disconnected(&self, socket: &Socket, reason: Reason) {
        let args = (&*socket.namespace.name, socket.id(), reason.as_str(), today());
        self.tell(&socket.server(), "socket_disconnected", args);
    }

    /// `room_joined` or `room_left`. The room of a socket's own id came with the socket.
    pub(crate) fn room(&self, server: &Server, nsp: &str, room: &str, change: &RoomChange) {
        let (what, id) = match change {
            RoomChange::Joined(id) if **id != *room => ("room_joined", id),
            RoomChange::Left(id) => ("room_left", id),
            _ => return,
        };
        self.tell(server, what, (nsp, room, &**id, today()));
    }

    /// `event_received` or `event_sent`
    pub(crate) fn event(&self, what: &str, socket: &Socket, event: &str, raw: &Raw) {
        if socket.namespace.id != self.namespace.0 && self.has_budget(raw) {
            let args = (&*socket.namespace.name, socket.id(), named(event, raw), today());
            self.tell(&socket.server(), what, args);
        }
    }

    fn has_budget(&self, raw: &Raw) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        budget.takes(now_ms() / 1_000, raw.json.len())
    }
}

/// An event as the UI wants it: one array of its name and arguments; attachments as placeholders.
fn named(event: &str, raw: &Raw) -> Value {
    let mut list = vec![Value::from(event)];
    list.extend(
        serde_json::from_str::<Vec<Value>>(&format!("[{}]", raw.json())).unwrap_or_default(),
    );
    Value::Array(list)
}

/// All sockets of all shards, up to a bound (S-9).
pub(super) async fn all_sockets(server: &Server) -> Vec<Value> {
    let Ok(asked) = server.ask_shards(None, |shard| {
        let hub = shard.hub();
        let members = hub.everyone().take(SOCKETS_MAX);
        members.filter_map(|(key, name)| describe(shard, &hub, key, name)).collect::<Vec<_>>()
    }) else {
        return Vec::new();
    };
    asked.await.0.into_iter().flatten().collect()
}

/// A socket as the UI wants it (S-9).
fn describe(shard: &Shard, hub: &Hub, key: Key, namespace: &str) -> Option<Value> {
    let id = hub.socket_id(key)?;
    let client = hub.client_id(key)?;
    let rooms: Vec<String> = std::iter::once(id.as_str().to_owned())
        .chain(hub.rooms_of(key).iter().map(|room| (**room).to_owned()))
        .collect();
    let data = shard.own(key, |own| serde_json::from_str(&own.kept.json).ok()).flatten();
    let is_websocket = hub.has_websocket(key)?;
    let transport = if is_websocket { "websocket" } else { "polling" };
    Some(json!({
        "id": id.as_str(),
        "clientId": client.get(..CLIENT_ID),
        "transport": transport,
        "nsp": namespace,
        "data": data.unwrap_or_else(|| json!({})),
        "handshake": hub.handshake(key).map_or(Value::Null, |it| handshake(&Handshake(it))),
        "rooms": rooms,
    }))
}

fn handshake(handshake: &Handshake) -> Value {
    let forwarded = || handshake.header("x-forwarded-for");
    let address = handshake.header("cf-connecting-ip").or_else(forwarded);
    let headers = handshake.headers().into_iter();
    let headers: Map<String, Value> =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.into())).collect();
    let query: Map<String, Value> =
        handshake.queries().into_iter().map(|(name, value)| (name, value.into())).collect();
    let issued = handshake.issued().duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "address": address.unwrap_or_else(|| handshake.address().ip().to_string()),
        "headers": headers,
        "query": query,
        "issued": issued.as_millis() as u64,
        "secure": handshake.is_secure(),
        "time": date(handshake.issued()),
        "url": handshake.url(),
        "xdomain": handshake.is_cross_domain(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_room_for_so_many_events_and_bytes() {
        let mut budget = Budget::default();
        assert!((0..EVENTS_MAX).all(|_| budget.takes(1, 10)));
        assert!(!budget.takes(1, 0));
        assert!(budget.takes(2, EVENT_BYTES_MAX));
        assert!(!budget.takes(2, 1));
        assert!(budget.takes(3, 1));
    }

    #[test]
    fn s8_an_event_is_one_array() {
        let raw = Raw { json: r#"1,{"a":"b"}"#.into(), attachments: Vec::new() };
        assert_eq!(named("x", &raw), json!(["x", 1, { "a": "b" }]));
        assert_eq!(named("x", &Raw::default()), json!(["x"]));
    }
}
