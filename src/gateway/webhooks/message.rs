//! What is sent: one happening as a CloudEvent, alone or in a batch, with signatures.
//!
//! Alone it has the binary content mode of CloudEvents 1.0: attributes are headers, the body is the
//! data. The signature is that of the Standard Webhooks: HMAC-SHA256 over
//! `<webhook-id>.<webhook-timestamp>.<body>`.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::Mac;
use serde::Serialize;
use serde_json::{Value, json};

use super::config::Settings;
use super::{Connecting, Gone, Happened};
use crate::gateway::state::User;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Connect,
    Event,
    Disconnect,
    RoomOccupied,
    RoomVacated,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Connect => "connect",
            Kind::Event => "event",
            Kind::Disconnect => "disconnect",
            Kind::RoomOccupied => "room-occupied",
            Kind::RoomVacated => "room-vacated",
        }
    }

    /// `type` of the CloudEvent.
    fn cloud_type(self) -> &'static str {
        match self {
            Kind::Connect => "io.corecast.connect.v1",
            Kind::Event => "io.corecast.event.v1",
            Kind::Disconnect => "io.corecast.disconnect.v1",
            Kind::RoomOccupied => "io.corecast.room.occupied.v1",
            Kind::RoomVacated => "io.corecast.room.vacated.v1",
        }
    }
}

/// One happening, ready to be sent.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// The same in every attempt, and never that of another.
    pub(super) id: String,
    namespace: String,
    /// The socket, or the room.
    pub(super) subject: String,
    at: SystemTime,
    /// JSON.
    data: Vec<u8>,
}

/// An id that no other happening has, of whatever gateway.
pub(crate) fn new_id() -> String {
    static PREFIX: LazyLock<u64> = LazyLock::new(|| {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        getrandom::u64().unwrap_or(started.as_nanos() as u64)
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{:016x}-{:x}", *PREFIX, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Who it is about, as every body has it.
#[derive(Serialize)]
struct About<'a> {
    r#type: &'static str,
    id: &'a str,
    namespace: &'a str,
    socket: &'a str,
    user: Option<&'a str>,
    claims: &'a Value,
}

/// The beginning of a body about a socket, without the brace at its end.
pub(crate) fn about(kind: Kind, id: &str, namespace: &str, socket: &str, user: &User) -> Vec<u8> {
    let (r#type, claims, user) = (kind.as_str(), &*user.claims, user.id.as_deref());
    let about = About { r#type, id, namespace, socket, user, claims };
    // Values of JSON can always be written.
    let mut body = serde_json::to_vec(&about).unwrap_or_default();
    body.pop();
    body
}

/// Appends a member to an object that is being written.
pub(crate) fn append(body: &mut Vec<u8>, name: &str, value: &impl Serialize) {
    body.push(b',');
    body.extend(serde_json::to_vec(name).unwrap_or_default());
    body.push(b':');
    body.extend(serde_json::to_vec(value).unwrap_or_default());
}

/// Appends the event and its arguments, byte for byte as the client sent them.
pub(crate) fn append_event(body: &mut Vec<u8>, happened: &Happened) {
    append(body, "event", &happened.event);
    body.extend(b",\"args\":[");
    body.extend(happened.args.json().as_bytes());
    body.push(b']');
}

impl Message {
    fn new(kind: Kind, id: String, namespace: String, subject: String, data: Vec<u8>) -> Message {
        Message { kind, id, namespace, subject, at: SystemTime::now(), data }
    }

    /// A client wants to connect, as the user that its token says.
    pub(super) fn connect(asked: &Connecting, user: &User) -> Message {
        let id = new_id();
        let mut data = about(Kind::Connect, &id, &asked.namespace, &asked.id, user);
        let shown = &asked.credentials;
        append(&mut data, "rooms", &&*user.rooms);
        append(&mut data, "address", &shown.address);
        append(&mut data, "auth", &shown.auth);
        append(&mut data, "query", &shown.queries);
        append(&mut data, "headers", &shown.headers);
        data.push(b'}');
        Message::new(Kind::Connect, id, asked.namespace.clone(), asked.id.clone(), data)
    }

    pub(super) fn event(happened: &Happened) -> Message {
        let id = new_id();
        let Happened { namespace, id: socket, user, args, .. } = happened;
        let mut data = about(Kind::Event, &id, namespace, socket, user);
        append_event(&mut data, happened);
        if !args.attachments().is_empty() {
            let texts: Vec<_> = args.attachments().iter().map(|it| STANDARD.encode(it)).collect();
            append(&mut data, "attachments", &texts);
        }
        data.push(b'}');
        Message::new(Kind::Event, id, namespace.clone(), socket.clone(), data)
    }

    pub(super) fn disconnect(gone: &Gone) -> Message {
        let id = new_id();
        let mut data = about(Kind::Disconnect, &id, &gone.namespace, &gone.id, &gone.user);
        append(&mut data, "reason", &gone.reason.as_str());
        data.push(b'}');
        Message::new(Kind::Disconnect, id, gone.namespace.clone(), gone.id.clone(), data)
    }

    pub(super) fn room(namespace: &str, room: &str, is_occupied: bool) -> Message {
        let kind = if is_occupied { Kind::RoomOccupied } else { Kind::RoomVacated };
        let id = new_id();
        let (what, data) = (kind.as_str(), &id);
        let data = json!({ "type": what, "id": data, "namespace": namespace, "room": room });
        Message::new(kind, id, namespace.into(), room.into(), data.to_string().into_bytes())
    }

    /// Bytes that it holds while it waits.
    pub(super) fn size(&self) -> usize {
        self.data.len() + self.subject.len() + self.namespace.len() + 256
    }

    fn time(&self) -> String {
        humantime::format_rfc3339_millis(self.at).to_string()
    }

    /// Its attributes and data in one object, as batches have it.
    fn write_structured(&self, source: &str, body: &mut Vec<u8>) {
        let attributes = json!({
            "specversion": "1.0",
            "id": self.id,
            "source": format!("{source}{}", self.namespace),
            "type": self.kind.cloud_type(),
            "subject": self.subject,
            "time": self.time(),
            "datacontenttype": "application/json",
        });
        body.extend(attributes.to_string().as_bytes());
        body.pop();
        body.extend(b",\"data\":");
        body.extend(&self.data);
        body.push(b'}');
    }
}

/// The request that brings these: as a batch, or the only one.
pub(super) fn request(
    settings: &Settings,
    messages: &[&Message],
    is_batch: bool,
) -> reqwest::RequestBuilder {
    let post = settings.client.post(settings.url.clone()).timeout(settings.config.timeout.0);
    let source = &settings.config.source;
    match messages {
        [message] if !is_batch => {
            let data = Bytes::copy_from_slice(&message.data);
            let post = post
                .header("content-type", "application/json")
                .header("ce-specversion", "1.0")
                .header("ce-id", &message.id)
                .header("ce-type", message.kind.cloud_type())
                .header("ce-source", percent(&format!("{source}{}", message.namespace)))
                .header("ce-subject", percent(&message.subject))
                .header("ce-time", message.time());
            signed(settings, post, &message.id, data)
        }
        _ => {
            let mut body = vec![b'['];
            for message in messages {
                if body.len() > 1 {
                    body.push(b',');
                }
                message.write_structured(source, &mut body);
            }
            body.push(b']');
            let post = post.header("content-type", "application/cloudevents-batch+json");
            signed(settings, post, &new_id(), body.into())
        }
    }
}

fn signed(
    settings: &Settings,
    post: reqwest::RequestBuilder,
    id: &str,
    body: Bytes,
) -> reqwest::RequestBuilder {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let post = post.header("webhook-id", id).header("webhook-timestamp", now);
    if settings.keys.is_empty() {
        return post.body(body);
    }
    let mut signatures = String::new();
    for key in &settings.keys {
        let mut mac = key.clone();
        mac.update(format!("{id}.{now}.").as_bytes());
        mac.update(&body);
        let gap = if signatures.is_empty() { "" } else { " " };
        let _ = write!(signatures, "{gap}v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    }
    post.header("webhook-signature", signatures).body(body)
}

/// Text as headers of CloudEvents have it: what is not visible ASCII, and `"` and `%`, in percent
/// encoding.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
