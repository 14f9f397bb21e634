//! Section T and I-15: other parsers than Socket.IO's own, on every transport.

use std::sync::Arc;

use corecast::Parser;
use corecast::hub::{Config, Flags, Publish, Target, fanout::Encoded};
use corecast::parser::{Decoder, Encoder, Error, Message, Messages, Packet, PacketKind};
use corecast::proto::parser::Outgoing;

use crate::wire::{Wire, config, frame, text};

fn msgpack() -> Wire {
    Wire::with(Config { parser: Parser::MsgPack, ..config() })
}

/// A packet of a client: keys and values, the values as bytes of msgpack.
fn map(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut message = vec![0x80 | pairs.len() as u8];
    for (key, value) in pairs {
        message.push(0xa0 | key.len() as u8);
        message.extend(key.bytes());
        message.extend_from_slice(value);
    }
    message
}

const NOTHING: &[u8] = &[0xd4, 0, 0];
const ROOT: (&str, &[u8]) = ("nsp", b"\xa1/");

fn connect() -> Vec<u8> {
    map(&[("type", &[0]), ("data", NOTHING), ROOT])
}

fn event(data: &[u8]) -> Vec<u8> {
    map(&[("type", &[2]), ("data", data), ROOT])
}

fn binary(message: &[u8]) -> Vec<u8> {
    frame(0x82, message)
}

fn base64(message: &[u8]) -> String {
    let mut out = Vec::new();
    corecast::proto::engine::encode_base64(message, &mut out);
    String::from_utf8(out).unwrap()
}

fn shown(message: &[u8]) -> String {
    format!("<{message:?}>")
}

/// A websocket in `/`, whose answer was taken.
fn joined(wire: &mut Wire) -> u32 {
    let (conn, _) = wire.websocket(None);
    wire.put(conn, binary(&connect()));
    assert_eq!(wire.said(conn).len(), 1);
    wire.heard();
    conn
}

fn encoded(parser: &Parser, packet: &Outgoing<'_>) -> Encoded {
    let mut text = Vec::new();
    let attachments = parser.encode("/", packet, &mut text).unwrap().into_owned();
    Encoded { text: text.into(), attachments }
}

#[test]
fn t1_a_conversation_on_a_websocket() {
    let mut wire = msgpack();
    let (conn, _) = wire.websocket(None);
    wire.put(conn, binary(&map(&[("type", &[0]), ("data", b"\x81\xa1t\x01"), ROOT])));
    let said = wire.said(conn);
    assert_eq!(wire.heard(), ["connect 0 {\"t\":1}"]);
    assert!(said.len() == 1 && said[0].starts_with("<[131, 164, 116, 121, 112, 101, 0, 164"));

    let options: (&str, &[u8]) = ("options", b"\x81\xa8compress\xc3");
    let data: &[u8] = b"\x94\xa1e\xc4\x01\x07\x81\xa1b\xc4\x00\xd4\x00\x00";
    wire.put(conn, binary(&map(&[("type", &[2]), ("data", data), options, ("id", &[9]), ROOT])));
    let place = |num| format!("{{\"_placeholder\":true,\"num\":{num}}}");
    let expected = format!("e({},{{\"b\":{}}},null) #9 [7] []", place(0), place(1));
    assert_eq!(wire.heard(), [expected]);

    let session = wire.hub.session_of(wire.members[0]).unwrap();
    assert!(wire.hub.acknowledge(session, "/", 9, b"1", &[]).unwrap());
    let ack = map(&[("id", &[9]), ("type", &[3]), ("data", b"\x91\x01"), ROOT]);
    assert_eq!(wire.said(conn), [shown(&ack)]);

    let id = wire.hub.await_ack(wire.members[0], None, 1).unwrap();
    wire.put(
        conn,
        binary(&map(&[("type", &[3]), ("data", b"\x91\x05"), ("id", &[id as u8]), ROOT])),
    );
    assert_eq!(wire.heard(), ["ack 1 5"]);

    wire.put(conn, binary(&map(&[("type", &[0]), ("nsp", b"\xa5/nope")])));
    let refusal: &[u8] = b"\x81\xa7message\xb1Invalid namespace";
    let refused = map(&[("type", &[4]), ("data", refusal), ("nsp", b"\xa5/nope")]);
    assert_eq!(wire.said(conn), [shown(&refused)]);

    wire.hub.disconnect(wire.members[0], false);
    wire.run();
    assert_eq!(wire.said(conn), [shown(&map(&[("type", &[1]), ROOT]))]);
    assert_eq!(wire.heard(), ["server namespace disconnect"]);
}

#[test]
fn t1_polling_and_the_upgrade() {
    let mut wire = msgpack();
    let sid = wire.polling();
    assert_eq!(wire.post(&sid, &base64(&connect())), (200, "ok".into()));
    let polled = wire.poll(&sid);
    assert!(wire.answer(polled).1.starts_with("bg6R0eXBlA"), "{{type: 0, …");
    let both = format!("{}\u{1e}{}", base64(&event(b"\x91\xa1a")), base64(&event(b"\x91\xa1b")));
    assert_eq!(wire.post(&sid, &both), (200, "ok".into()));
    assert_eq!(wire.heard(), ["connect 0 ", "a()", "b()"]);

    let emit = |wire: &mut Wire, number: &[u8]| {
        let args = std::str::from_utf8(number).unwrap().as_bytes();
        let event = Outgoing::Event { name: "n", id: None, args, attachments: &[] };
        let Encoded { text, attachments } = encoded(&Parser::MsgPack, &event);
        assert!(text.is_empty());
        assert!(wire.hub.emit(wire.members[0], &text, &attachments, Flags::default()));
        wire.run();
    };
    let number = |number| event(&[0x92, 0xa1, b'n', number]);
    // Nothing stands before, between or behind the binary messages.
    emit(&mut wire, b"1");
    emit(&mut wire, b"2");
    let polled = wire.poll(&sid);
    let both = format!("{}\u{1e}{}", base64(&number(1)), base64(&number(2)));
    assert_eq!(wire.answer(polled), (200, both));

    let (conn, _) = wire.websocket(Some(&sid));
    wire.put(conn, text("2probe"));
    emit(&mut wire, b"3");
    assert_eq!(wire.said(conn), ["3probe"]);
    wire.put(conn, text("5"));
    emit(&mut wire, b"4");
    // U-20: what had waited stays base64, in a text frame.
    assert_eq!(wire.said(conn), [base64(&number(3)), shown(&number(4))]);
    wire.put(conn, text(&base64(&event(b"\x91\xa1c"))));
    assert_eq!(wire.heard(), ["c()"]);
}

#[test]
fn t1_a_broadcast_is_one_message_for_all() {
    let mut wire = msgpack();
    let conns = [joined(&mut wire), joined(&mut wire)];
    let attachments = [bytes::Bytes::from_static(b"x")];
    let args = br#"{"_placeholder":true,"num":0}"#;
    let event = Outgoing::Event { name: "e", id: None, args, attachments: &attachments };
    let encoded = encoded(&Parser::MsgPack, &event);
    wire.hub.publish(&Publish {
        namespace: 0,
        target: Target::default(),
        flags: Flags::default(),
        encoded,
    });
    let expected = map(&[("type", &[2]), ("data", b"\x92\xa1e\xc4\x01x"), ROOT]);
    for conn in conns {
        assert_eq!(wire.said(conn), [shown(&expected)]);
    }
}

/// T-2, T-8, I-13, I-14, I-17: the connection ends, the application hears why.
#[test]
fn t2_t8_messages_that_close() {
    let invalid = "error invalid payload";
    let table: [(Vec<u8>, &str); 17] = [
        (text("42[\"a\"]"), "error got text from a msgpack client"),
        (text("4"), "error got text from a msgpack client"),
        (binary(b""), "error message ends inside a value"),
        (binary(&[0xc1]), "error Could not parse"),
        (binary(&[0xdd, 255, 255, 255, 255]), "error message ends inside a value"),
        (binary(&[event(b"\x91\xa1a"), vec![0xc0]].concat()), "error 1 trailing bytes"),
        (binary(&map(&[("type", &[7]), ROOT])), "error invalid packet type"),
        (binary(&map(&[("type", &[1]), ("nsp", &[1])])), "error invalid namespace"),
        (binary(&event(b"\x91\xaadisconnect")), invalid),
        (binary(&event(b"\x91\xa7connect")), invalid),
        (binary(&event(b"\x91\x80")), invalid),
        (binary(&map(&[("type", &[0]), ("data", &[0xc0]), ROOT])), invalid),
        (binary(&connect()), "forced close"),
        (binary(&map(&[("type", &[4]), ("data", &[0x80]), ROOT])), "forced close"),
        (binary(&map(&[("type", &[1]), ("nsp", b"\xa6/admin")])), "forced close"),
        (binary(&map(&[("type", &[1]), ("nsp", b"\xa1x")])), "forced close"),
        (text("b!"), "error message ends inside a value"),
    ];
    for (message, heard) in table {
        let mut wire = msgpack();
        let conn = joined(&mut wire);
        wire.put(conn, [message.clone(), binary(&event(b"\x91\xa4late"))].concat());
        let log = wire.heard();
        assert_eq!(log[0], heard, "{message:02x?}");
        assert_eq!(log.last().map(String::as_str), Some("forced close"), "{message:02x?}");
        assert_eq!(wire.said(conn), ["<close>"], "{message:02x?}");
    }
    // The name of a listener of Node, and of none of ours.
    let mut wire = msgpack();
    let conn = joined(&mut wire);
    wire.put(conn, binary(&event(b"\x91\xa5error")));
    assert_eq!(wire.heard(), ["error()"]);
    assert_eq!(wire.said(conn), [""; 0]);
}

/// I-16: `__proto__` is a key like any other; I-9: other keys of a placeholder do not matter, and
/// one attachment may be named twice.
#[test]
fn i9_i16_keys_that_are_special_elsewhere() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    let object = "{\"__proto__\":{\"polluted\":1},\"constructor\":2}";
    wire.put(conn, text(&format!("42[\"a\",{object}]")));
    assert_eq!(wire.heard(), [format!("a({object})")]);
    let twice = "{\"__proto__\":{\"_placeholder\":true,\"num\":0},\"b\":{\"_placeholder\":true,\
                 \"num\":0,\"more\":[]}}";
    wire.put(conn, [text(&format!("451-[\"a\",{twice}]")), binary(b"x")].concat());
    assert_eq!(wire.heard(), [format!("a({twice}) [120]")]);

    let mut wire = msgpack();
    let conn = joined(&mut wire);
    wire.put(conn, binary(&event(b"\x92\xa1a\x81\xa9__proto__\x81\xa8polluted\x01")));
    assert_eq!(wire.heard(), ["a({\"__proto__\":{\"polluted\":1}})"]);
}

/// A parser of an application that reads a packet from two messages: a text of kind, namespace, id
/// and data, then bytes, each an attachment.
struct Pairs;

#[derive(Default)]
struct Pairing {
    text: Option<String>,
}

impl Encoder for Pairs {
    fn encode(&self, packet: &Packet<'_>) -> Result<Messages, Error> {
        match &*packet.namespace {
            "/fails" => return Err(Error::new("fails")),
            "/panics" => panic!("as asked"),
            "/says nothing" => return Ok(Messages::default()),
            "/separates" => {
                return Ok(Messages { text: Some("a\u{1e}b".into()), binaries: vec![] });
            }
            _ => {}
        }
        let Packet { kind, namespace, id, data, attachments } = packet;
        let text = format!("{kind:?} {namespace} {id:?} {data}");
        Ok(Messages { text: Some(text), binaries: attachments.to_vec() })
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::<Pairing>::default()
    }
}

impl Decoder for Pairing {
    fn add(&mut self, message: Message<'_>) -> Result<Option<Packet<'static>>, Error> {
        match (message, self.text.take()) {
            (Message::Text("panic"), _) => panic!("as asked"),
            (Message::Text("error"), _) => Err(Error::new("a custom error")),
            (Message::Text(text), _) => {
                self.text = Some(text.into());
                Ok(None)
            }
            (Message::Binary(_), None) => Err(Error::new("bytes without text")),
            (Message::Binary(bytes), Some(text)) => {
                let parts: Vec<&str> = text.splitn(4, ' ').collect();
                let attachment = bytes::Bytes::copy_from_slice(bytes);
                let kind = PacketKind::from_number(parts[0].parse().unwrap());
                Ok(Some(Packet {
                    kind: kind.ok_or(Error::new("no such kind"))?,
                    namespace: parts[1].to_owned().into(),
                    id: parts[2].parse().ok(),
                    data: parts[3].to_owned().into(),
                    attachments: if bytes.is_empty() { vec![] } else { vec![attachment] }.into(),
                }))
            }
        }
    }
}

fn custom() -> Wire {
    let parser = Parser::Custom(Arc::new(Pairs));
    Wire::with(Config { parser, body_timeout_ms: 10_000, ..config() })
}

/// A packet as [`Pairing`] reads it.
fn pair(packet: &str, bytes: &[u8]) -> Vec<u8> {
    [text(&format!("4{packet}")), binary(bytes)].concat()
}

fn custom_joined(wire: &mut Wire) -> u32 {
    let (conn, _) = wire.websocket(None);
    wire.put(conn, pair("0 / - ", b""));
    assert!(wire.said(conn)[0].starts_with("4Connect / None {\"sid\":\""));
    assert_eq!(wire.heard(), ["connect 0 "]);
    conn
}

#[test]
fn i15_a_conversation_with_a_custom_parser() {
    let mut wire = custom();
    let conn = custom_joined(&mut wire);
    let placeholder = "{\"_placeholder\":true,\"num\":0}";
    wire.put(conn, text("42 / 5 [\"e\", 1]"));
    assert_eq!(wire.heard(), [""; 0]);
    // The decoder's state lives on from message to message, and a pong is none.
    wire.put(conn, [text("3"), binary(b"")].concat());
    wire.put(conn, pair(&format!("2 / - [\"f\",{placeholder}]"), b"x"));
    assert_eq!(wire.heard(), ["e(1) #5".to_string(), format!("f({placeholder}) [120]")]);

    let session = wire.hub.session_of(wire.members[0]).unwrap();
    let attachments = [bytes::Bytes::from_static(b"y")];
    assert!(wire.hub.acknowledge(session, "/", 5, placeholder.as_bytes(), &attachments).unwrap());
    assert_eq!(wire.said(conn), [format!("4Ack / Some(5) [{placeholder}]"), "<[121]>".into()]);

    wire.put(conn, pair("0 /nope - {}", b""));
    let refused = "4ConnectError /nope None {\"message\":\"Invalid namespace\"}";
    assert_eq!(wire.said(conn), [refused]);
    wire.hub.disconnect(wire.members[0], false);
    wire.run();
    assert_eq!(wire.said(conn), ["4Disconnect / None "]);
}

#[test]
fn i15_custom_parsers_on_polling() {
    let mut wire = custom();
    let sid = wire.polling();
    assert_eq!(wire.post(&sid, "40 / - {\"a\":1}\u{1e}b"), (200, "ok".into()));
    assert_eq!(wire.heard(), ["connect 0 {\"a\":1}"]);
    let polled = wire.poll(&sid);
    assert!(wire.answer(polled).1.starts_with("4Connect / None {\"sid\":\""));
}

/// I-13: the decoder's errors and panics, and packets that are none, end that connection alone.
#[test]
fn i13_i15_what_a_custom_parser_may_do_wrong() {
    let deep = format!("2 / - [\"a\",{}{}]", "[".repeat(200), "]".repeat(200));
    let table = [
        (text("4error"), "error a custom error"),
        (text("4panic"), "error the parser panicked"),
        (pair("x", b""), "error the parser panicked"),
        (binary(b"x"), "error bytes without text"),
        (pair("7 / - {}", b""), "error no such kind"),
        (pair("2 / - ", b""), "error invalid payload"),
        (pair("2 / - nonsense", b""), "error invalid payload"),
        (pair("2 / - {}", b""), "error invalid payload"),
        (pair("2 / - [{}]", b""), "error invalid payload"),
        (pair("2 / - [\"disconnect\"]", b""), "error invalid payload"),
        (pair("1 / - {}", b""), "error invalid payload"),
        (pair("2 / 9007199254740992 [\"a\"]", b""), "error invalid packet id"),
        (pair(&deep, b""), "error payload nested too deeply"),
        (
            pair("2 / - [\"a\",{\"_placeholder\":true,\"num\":1}]", b"x"),
            "error illegal attachments",
        ),
        (pair("2 /admin - [\"a\"]", b""), "forced close"),
        (pair("0 / - ", b""), "forced close"),
        // What the encoder does wrong with one of the protocol's own packets.
        (pair("0 /fails - ", b""), "forced close"),
        (pair("0 /panics - ", b""), "forced close"),
        (pair("0 /separates - ", b""), "forced close"),
    ];
    for (message, heard) in table {
        let mut wire = custom();
        let other = custom_joined(&mut wire);
        let conn = custom_joined(&mut wire);
        wire.put(conn, [message.clone(), text("4late")].concat());
        let log = wire.heard();
        assert_eq!(log[0], heard, "{}", String::from_utf8_lossy(&message));
        assert_eq!(log.last().map(String::as_str), Some("forced close"), "{log:?}");
        assert_eq!(wire.said(conn), ["<close>"], "{log:?}");
        wire.put(other, pair("2 / - [\"alive\"]", b""));
        assert_eq!(wire.heard(), ["alive()"]);
    }
    let mut text = Vec::new();
    let parser = Parser::Custom(Arc::new(Pairs));
    for namespace in ["/fails", "/panics", "/says nothing", "/separates"] {
        assert!(parser.encode(namespace, &Outgoing::Disconnect, &mut text).is_err(), "{namespace}");
        assert!(text.is_empty());
    }
}

#[test]
fn i15_half_a_packet_is_bounded() {
    let mut wire = custom();
    let conn = custom_joined(&mut wire);
    let message = text(&format!("4{}", "x".repeat(60_000)));
    for _ in 0..183 {
        wire.put(conn, &message);
    }
    assert_eq!(wire.heard(), [""; 0]);
    wire.put(conn, &message);
    assert_eq!(wire.heard(), ["error too much held for one client", "forced close"]);
}

/// A packet that is never complete: time runs from its first message, and only while there is one.
#[test]
fn i15_half_a_packet_has_a_time() {
    let mut wire = custom();
    let conn = custom_joined(&mut wire);
    wire.at(14_000);
    wire.put(conn, text("42 / - [\"a\"]"));
    wire.at(21_000);
    wire.put(conn, text("42 / - [\"b\"]"));
    wire.at(23_900);
    assert!(!wire.is_over(conn));
    wire.at(24_100);
    assert_eq!(wire.heard(), ["error attachments did not come in time", "forced close"]);
    assert_eq!(wire.said(conn), ["<close>"]);
}
