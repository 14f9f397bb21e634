//! Socket.IO 2 clients, which come over revision 3 of Engine.IO: where they are told, and say,
//! something else than those of today (H-10 to H-13, W-18).

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::Hub;
use super::id::SocketId;
use super::namespace::State;
use super::rooms::NamespaceId;
use crate::proto::http;
use crate::proto::packet::{Kind, Packet};
use crate::proto::parser::Outgoing;

impl Hub {
    /// Such a client is connected to `/` without asking (H-10).
    pub(super) fn connect_unasked(&mut self, session: u32) {
        let (kind, namespace) = (Kind::Connect, "/");
        self.ask_to_connect(
            session,
            &Packet { kind, attachments: 0, namespace, id: None, data: "" },
        );
    }

    /// Cuts the query from the namespace of any packet; in a CONNECT it is what clients of today
    /// send as `auth`, in the place of a payload (H-12, W-18).
    pub(super) fn handle_packet_v2(
        &mut self,
        session: u32,
        packet: &Packet<'_>,
        attachments: Vec<Bytes>,
    ) {
        let (namespace, query) = packet.namespace.split_once('?').unwrap_or((packet.namespace, ""));
        let data: Cow<'_, str> = match packet.kind {
            Kind::Connect if query.is_empty() => "".into(),
            Kind::Connect => query_to_json(query).into(),
            _ => packet.data.into(),
        };
        self.handle_packet_in(session, &Packet { namespace, data: &data, ..*packet }, attachments);
    }

    /// A refusal is its data if it has any, else its message (H-13).
    pub(super) fn refuse_v2(
        &mut self,
        session: u32,
        name: &str,
        message: &str,
        data: Option<&str>,
    ) {
        let is_something = |data: &&str| !matches!(*data, "null" | "false" | "0" | "\"\"");
        let message = || Cow::Owned(Value::from(message).to_string());
        let data = data.filter(is_something).map_or_else(message, Cow::Borrowed);
        self.send_packet(session, name, &Outgoing::ErrorV2 { data: &data });
    }

    /// The id that the client itself makes: that of its session, with the namespace before it
    /// unless that is `/` (H-11).
    pub(super) fn socket_id_v2(&self, session: u32, namespace: NamespaceId) -> Option<SocketId> {
        let sid = self.id_text(session)?;
        Some(SocketId::Session(match &*self.namespaces.get(namespace)?.name {
            "/" => sid.into(),
            name => format!("{name}#{sid}").into(),
        }))
    }

    /// The connected member that such an id names.
    pub(super) fn member_by_id_v2(&self, namespace: NamespaceId, text: &str) -> Option<u32> {
        let sid = match &*self.namespaces.get(namespace)?.name {
            "/" => text,
            name => text.strip_prefix(name)?.strip_prefix('#')?,
        };
        let id = self.session_address(sid).filter(|id| id.shard == self.config.shard)?;
        let session = self.find_session(&id)?;
        let session = self.links.sessions.get(session).filter(|s| s.wire.is_revision_3)?;
        session.members.as_slice().iter().copied().find(|member| {
            let member = self.members.at(*member);
            member.is_some_and(|m| m.namespace == namespace && m.state == State::Connected)
        })
    }
}

/// A query as a JSON object of strings; what is repeated is an array, as Node's parser has it.
fn query_to_json(query: &str) -> String {
    let mut found = Map::new();
    for (name, value) in http::query_pairs(query) {
        let value = Value::from(value);
        match found.get_mut(&*name) {
            None => {
                found.insert(name.into(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(found).to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn h12_a_query_is_an_object_of_strings() {
        let table = [
            ("token=1", r#"{"token":"1"}"#),
            ("a=x+y%26&b", r#"{"a":"x y&","b":""}"#),
            ("a=1&a=%22&a=3&c=4", r#"{"a":["1","\"","3"],"c":"4"}"#),
            ("__proto__=1", r#"{"__proto__":"1"}"#),
            ("&", "{}"),
        ];
        for (query, expected) in table {
            assert_eq!(super::query_to_json(query), expected, "{query}");
        }
    }
}
