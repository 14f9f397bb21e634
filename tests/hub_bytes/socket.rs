//! Section J as far as it is bytes, and the rows of W about Socket.IO packets.

use corecast::hub::{Config, PeerEnd, Target, Traits};

use crate::wire::{Wire, config, frame, text};

const SID: std::ops::Range<usize> = 10..30;

/// J-2: no namespace in time. A refusal does not count, an acceptance does.
#[test]
fn j2_connect_timeout() {
    let mut wire = Wire::new();
    let (idle, _) = wire.websocket(None);
    wire.accepts = false;
    let (refused, _) = wire.websocket(None);
    wire.put(refused, text("40"));
    wire.hub.refuse_member(wire.members[0], "no", None);
    wire.accepts = true;
    let joined = wire.joined();
    let live = |wire: &mut Wire| [idle, refused, joined].map(|conn| wire.put(conn, text("3")));
    wire.at(20_000);
    live(&mut wire);
    wire.at(44_000);
    live(&mut wire);
    assert!(!wire.is_over(idle));
    wire.at(45_100);
    assert_eq!(wire.said(idle), ["<close>"]);
    assert_eq!(wire.said(refused), ["44{\"message\":\"no\"}", "<close>"]);
    assert!(!wire.is_over(joined));
}

#[test]
fn j4_unknown_namespaces() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, text("40/nope,{\"a\":1}"));
    wire.put(conn, text("40/admin?token=1"));
    assert_eq!(
        wire.said(conn),
        [
            "44/nope,{\"message\":\"Invalid namespace\"}",
            "44/admin?token=1,{\"message\":\"Invalid namespace\"}"
        ]
    );
    assert_eq!(wire.heard(), [""; 0]);
    assert!(!wire.is_over(conn));
}

/// J-5, J-6: the answer, a fresh id per namespace, before anything else.
#[test]
fn j5_j6_connect() {
    let mut wire = Wire::new();
    let (conn, open) = wire.websocket(None);
    wire.put(conn, text("40"));
    wire.put(conn, text("40/admin,{\"token\":\"1\"}"));
    let said = wire.said(conn);
    let (first, second) = (&said[0][SID], &said[1][SID.start + 7..SID.end + 7]);
    assert_eq!(said[0], format!("40{{\"sid\":\"{first}\"}}"));
    assert_eq!(said[1], format!("40/admin,{{\"sid\":\"{second}\"}}"));
    assert!(first != second && *first != open[0][9..29], "{said:?}");
    assert_eq!(wire.heard(), ["connect 0 ", "connect 1 {\"token\":\"1\"}"]);
}

/// J-7: refused, and again.
#[test]
fn j7_refusals() {
    let mut wire = Wire::new();
    let (conn, _) = wire.websocket(None);
    wire.accepts = false;
    wire.put(conn, text("40"));
    wire.hub.refuse_member(wire.members[0], "not \"you\"", None);
    wire.put(conn, text("40/admin,"));
    wire.hub.refuse_member(wire.members[1], "no", Some("{\"retry\":true}"));
    let expected = [
        "44{\"message\":\"not \\\"you\\\"\"}",
        "44/admin,{\"message\":\"no\",\"data\":{\"retry\":true}}",
    ];
    assert_eq!(wire.said(conn), expected);
    assert_eq!(wire.hub.gauges().sockets, 0);
    wire.accepts = true;
    wire.put(conn, text("40"));
    assert!(wire.said(conn)[0].starts_with("40{\"sid\""));
}

/// J-7: refused for good: what the same read brings behind it is not looked at.
#[test]
fn j7_a_refusal_that_closes() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.accepts = false;
    wire.put(conn, text("40/admin,"));
    wire.heard();
    wire.hub.expel_member(wire.members[1], "no", Some("1"));
    wire.put(conn, text("40/admin,"));
    assert_eq!(wire.heard(), ["forced close"]);
    assert_eq!(wire.said(conn), ["44/admin,{\"message\":\"no\",\"data\":1}", "<close>"]);
}

/// J-8, U-10: emits before the answer pass, broadcasts do not.
#[test]
fn j8_u10_before_the_answer() {
    let mut wire = Wire::new();
    let (conn, _) = wire.websocket(None);
    wire.accepts = false;
    wire.put(conn, text("40"));
    let member = wire.members[0];
    assert!(wire.hub.join(member, "room"));
    assert!(wire.emit(0, "42[\"early\"]"));
    let publish = |rooms: &[&str]| corecast::hub::Publish {
        namespace: 0,
        target: Target {
            rooms: rooms.iter().map(|room| (*room).into()).collect(),
            ..Target::default()
        },
        flags: Default::default(),
        encoded: corecast::hub::fanout::Encoded {
            text: bytes::Bytes::from_static(b"42[\"all\"]"),
            attachments: Vec::new(),
        },
    };
    wire.hub.publish(&publish(&["room"]));
    wire.hub.publish(&publish(&[]));
    assert!(wire.hub.accept_member(member));
    wire.hub.publish(&publish(&["room", "room"]));
    let said = wire.said(conn);
    assert_eq!((said.len(), said[0].as_str()), (3, "42[\"early\"]"), "{said:?}");
    assert!(said[1].starts_with("40{") && said[2] == "42[\"all\"]", "{said:?}");
    // U-11: its own id is a room.
    wire.hub.publish(&publish(&[&said[1][SID]]));
    assert_eq!(wire.said(conn), ["42[\"all\"]"]);
}

/// J-17: a socket that leaves stands in its rooms until the application lets go of it, and gets
/// nothing more; neither does another one of the same client twice.
#[test]
fn j17_broadcasts_pass_over_those_that_leave() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.hub.join(wire.members[0], "room");
    wire.keeps = true;
    wire.put(conn, [text("41"), text("40")].concat());
    assert_eq!(wire.heard(), ["client namespace disconnect", "connect 0 "]);
    assert!(wire.said(conn)[0].starts_with("40{"));
    for rooms in [&[][..], &["room".into()]] {
        let publish = corecast::hub::Publish {
            namespace: 0,
            target: Target { rooms: rooms.into(), ..Target::default() },
            flags: Default::default(),
            encoded: corecast::hub::fanout::Encoded {
                text: bytes::Bytes::from_static(b"42[1]"),
                attachments: Vec::new(),
            },
        };
        wire.hub.publish(&publish);
    }
    assert_eq!(wire.said(conn), ["42[1]"]);
    wire.hub.remove_member(wire.members[0]);
    assert_eq!(wire.hub.gauges().sockets, 1);
}

#[test]
fn j9_gone_before_the_answer() {
    let mut wire = Wire::new();
    wire.accepts = false;
    for bye in [text("41"), text("1"), frame(0x88, &[])] {
        let (conn, _) = wire.websocket(None);
        wire.put(conn, [text("40"), text("42[\"held\"]"), bye].concat());
        assert_eq!(wire.heard(), ["connect 0 ", "aborted"]);
        let member = wire.members.pop().unwrap();
        assert!(!wire.hub.accept_member(member));
        wire.hub.refuse_member(member, "late", None);
        assert_eq!(wire.heard(), [""; 0]);
        assert!(!wire.said(conn).iter().any(|packet| packet.starts_with("44")));
        assert_eq!(wire.hub.gauges().sockets, 0);
    }
}

/// J-10 with W-22: what came before the answer is kept, in order, with a bound.
#[test]
fn j10_events_before_the_answer() {
    let mut wire = Wire::new();
    wire.accepts = false;
    let (conn, _) = wire.websocket(None);
    wire.put(conn, [text("40"), text("42[\"a\"]"), text("421[\"b\",2]")].concat());
    assert_eq!(wire.heard(), ["connect 0 "]);
    assert!(wire.hub.accept_member(wire.members[0]));
    wire.run();
    assert_eq!(wire.heard(), ["a()", "b(2) #1"]);
}

/// Held events are bounded in number and in bytes, attachments included.
#[test]
fn j10_held_events_are_bounded() {
    let many = text("42[\"a\"]").repeat(40);
    let attachment = frame(0x82, &vec![0; 60_000]);
    let event = text("451-[\"a\",{\"_placeholder\":true,\"num\":0}]");
    let large = [event, attachment].concat().repeat(10);
    for flood in [many, large] {
        let mut limits = config().limits;
        (limits.message_bytes_max, limits.attachments_bytes_max) = (100_000, 200_000);
        let mut wire = Wire::with(Config { limits, ..config() });
        wire.accepts = false;
        let (conn, _) = wire.websocket(None);
        wire.put(conn, text("40"));
        wire.put(conn, flood);
        assert_eq!(wire.heard(), ["connect 0 ", "aborted"]);
        assert_eq!(wire.said(conn), ["<close>"]);
    }
}

#[test]
fn j12_acks_to_the_client() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, text("427[\"ask\",\"x\"]"));
    assert_eq!(wire.heard(), ["ask(\"x\") #7"]);
    let session = wire.hub.session_of(wire.members[0]).unwrap();
    assert!(wire.hub.acknowledge(session, "/", 7, b"\"answer\"", &[]).unwrap());
    let attachment = bytes::Bytes::from_static(&[1]);
    let placeholder = b"{\"_placeholder\":true,\"num\":0}";
    assert!(wire.hub.acknowledge(session, "/", 8, placeholder, &[attachment]).unwrap());
    let expected = ["437[\"answer\"]", "461-8[{\"_placeholder\":true,\"num\":0}]", "<[1]>"];
    assert_eq!(wire.said(conn), expected);
    wire.put(conn, text("41"));
    let is_open = wire.hub.acknowledge(session, "/", 9, b"", &[]).unwrap();
    assert!(is_open, "the namespace was left, no more");
    assert_eq!(wire.said(conn), ["439[]"]);
    wire.end(conn, PeerEnd::Eof);
    assert!(!wire.hub.acknowledge(session, "/", 9, b"", &[]).unwrap());
}

/// J-13, U-14: answers, answers to nothing, timeouts, the end.
#[test]
fn j13_acks_from_the_client() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    let member = wire.members[0];
    let ids: Vec<u64> =
        (0..4).map(|token| wire.hub.await_ack(member, Some(5_000), token).unwrap()).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
    wire.put(conn, [text("430[\"a\"]"), text("430[\"again\"]"), text("4399[]")].concat());
    wire.put(conn, text("461-1[{\"_placeholder\":true,\"num\":0}]"));
    wire.put(conn, frame(0x82, &[1]));
    assert_eq!(wire.heard(), ["ack 0 \"a\"", "ack 1 {\"_placeholder\":true,\"num\":0}"]);
    wire.at(4_900);
    assert_eq!(wire.heard(), [""; 0]);
    wire.at(5_100);
    let mut heard = wire.heard();
    heard.sort_unstable();
    assert_eq!(heard, ["ack 2 TimedOut", "ack 3 TimedOut"]);
    wire.put(conn, text("432[]"));
    assert!(wire.hub.await_ack(member, None, 9).is_some());
    wire.put(conn, text("41"));
    assert_eq!(wire.heard(), ["client namespace disconnect", "ack 9 Disconnected"]);
}

/// Answers to nothing are counted, and told where somebody wants to know.
#[test]
fn j13_answers_to_nothing_are_counted() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, [text("430[1]"), text("43[]")].concat());
    assert_eq!(wire.hub.stats().unexpected_acks, 2);
    assert_eq!(wire.heard(), [""; 0]);
    wire.hub.set_traits(0, Traits { reports_acks: true, ..Traits::default() });
    let id = wire.hub.await_ack(wire.members[0], None, 7).unwrap();
    wire.put(conn, [text(&format!("43{id}[]")), text(&format!("43{id}[2]"))].concat());
    wire.put(conn, text("461-99[{\"_placeholder\":true,\"num\":0}]"));
    wire.put(conn, frame(0x82, &[1]));
    let placeholder = "{\"_placeholder\":true,\"num\":0}";
    let last = format!("unexpected ({placeholder}) 1");
    assert_eq!(wire.heard(), ["ack 7 ", "unexpected (2) 0", last.as_str()]);
    assert_eq!(wire.hub.stats().unexpected_acks, 4);
}

#[test]
fn j14_the_client_leaves_a_namespace() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, [text("40/admin,"), text("41"), text("42/admin,[\"a\"]")].concat());
    assert_eq!(wire.heard(), ["connect 1 ", "client namespace disconnect", "a()"]);
    assert!(!wire.is_over(conn));
    wire.put(conn, text("41/admin,"));
    wire.at(44_900);
    wire.put(conn, text("3"));
    wire.at(60_000);
    assert!(!wire.is_over(conn), "the connect timeout is not armed again");
}

#[test]
fn j15_disconnect() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, text("40/admin,"));
    wire.said(conn);
    wire.heard();
    wire.hub.disconnect(wire.members[1], false);
    wire.hub.disconnect(wire.members[1], false);
    assert_eq!(wire.said(conn), ["41/admin,"]);
    assert_eq!(wire.heard(), ["server namespace disconnect"]);
    wire.put(conn, text("42[\"a\"]"));
    assert_eq!(wire.heard(), ["a()"]);
}

/// J-16, U-13.
#[test]
fn j16_disconnect_the_connection() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, text("40/admin,"));
    wire.said(conn);
    wire.heard();
    wire.hub.disconnect(wire.members[0], true);
    assert_eq!(wire.said(conn), ["41", "41/admin,", "<close>"]);
    assert_eq!(wire.heard(), ["server namespace disconnect"; 2]);
}

/// J-17, J-19: nothing passes to or from a socket that is over.
#[test]
fn j17_j19_after_the_end() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    let member = wire.members[0];
    wire.put(conn, text("41"));
    assert_eq!(wire.hub.session_of(member), None);
    assert!(!wire.emit(0, "42[1]"));
    assert!(!wire.hub.join(member, "room"));
    assert!(wire.hub.await_ack(member, None, 1).is_none());
    assert_eq!(wire.said(conn), [""; 0]);
}

/// I-13, I-14 and W-15, W-16, W-20: what closes the connection, and the error before it.
#[test]
fn i13_i14_w15_w16_w20_packets_that_close() {
    let deep = format!("42[\"a\",{}{}]", "[".repeat(200), "]".repeat(200));
    let table = [
        ("49", "error unknown packet type"),
        ("4", "error unknown packet type"),
        ("42[\"a\"", "error invalid payload"),
        ("42[\"connect\"]", "error invalid payload"),
        ("42[{}]", "error invalid payload"),
        ("42{}", "error invalid payload"),
        ("41{}", "error invalid payload"),
        ("40[]", "error invalid payload"),
        ("450-[\"a\"]", "error Illegal attachments"),
        ("4511-[\"a\"]", "error too many attachments"),
        ("451-[\"a\",{\"_placeholder\":true,\"num\":1}]", "error illegal attachments"),
        ("429007199254740992[\"a\"]", "error invalid packet id"),
        ("421 2[\"a\"]", "error invalid payload"),
        (deep.as_str(), "error payload nested too deeply"),
        ("40", "forced close"),
        ("44{}", "forced close"),
        ("42/admin,[\"a\"]", "forced close"),
        ("41/admin,", "forced close"),
        ("43/admin,1[]", "forced close"),
        // Before its attachment, which would be held for nothing.
        ("451-/admin,[\"a\",{\"_placeholder\":true,\"num\":0}]", "forced close"),
    ];
    for (packet, heard) in table {
        let mut wire = Wire::new();
        let conn = wire.joined();
        wire.put(conn, [text(packet), text("42[\"late\"]")].concat());
        let log = wire.heard();
        assert_eq!(log[0], heard, "{packet}");
        assert_eq!(log.last().map(String::as_str), Some("forced close"), "{packet}");
        assert_eq!(wire.said(conn), ["<close>"], "{packet}");
    }
}

/// W-16: a second CONNECT while the first is undecided is refused as for a joined namespace.
#[test]
fn w16_two_connects() {
    let mut wire = Wire::new();
    wire.accepts = false;
    let (conn, _) = wire.websocket(None);
    wire.put(conn, [text("40"), text("40")].concat());
    assert_eq!(wire.heard(), ["connect 0 ", "aborted"]);
    assert_eq!(wire.said(conn), ["<close>"]);
}

/// I-10: text among attachments, attachments without a packet.
#[test]
fn i10_attachments_out_of_place() {
    let event = text("451-[\"a\",{\"_placeholder\":true,\"num\":0}]");
    let table = [
        (text("42[\"b\"]"), "error got plaintext data when reconstructing a packet"),
        (text("41"), "error got plaintext data when reconstructing a packet"),
    ];
    for (packet, error) in table {
        let mut wire = Wire::new();
        let conn = wire.joined();
        wire.put(conn, [event.clone(), packet].concat());
        assert_eq!(wire.heard(), [error, "forced close"]);
        assert_eq!(wire.said(conn), ["<close>"]);
    }
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, frame(0x82, &[1]));
    let error = "error got binary data when not reconstructing a packet";
    assert_eq!(wire.heard(), [error, "forced close"]);
    // A pong may come between: it is no message.
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, [event, text("3"), frame(0x82, &[1])].concat());
    assert_eq!(wire.heard().len(), 1);
}

/// I-5: an event without data reaches nobody, and harms nobody.
#[test]
fn i5_an_event_without_data() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, [text("42"), text("42[\"a\"]")].concat());
    assert_eq!(wire.heard(), ["a()"]);
    assert_eq!(wire.said(conn), [""; 0]);
}

/// W-20: the same depth limit for what is relayed in answers.
#[test]
fn w20_an_answer_that_nests_too_deep() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.hub.await_ack(wire.members[0], None, 1);
    wire.put(conn, text(&format!("430[{}{}]", "[".repeat(200), "]".repeat(200))));
    let expected = ["error payload nested too deeply", "forced close", "ack 1 Disconnected"];
    assert_eq!(wire.heard(), expected);
}

/// I-16: `__proto__` is a key like another, and is passed on as it came.
#[test]
fn i16_keys_with_a_meaning_elsewhere() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    let data = "{\"__proto__\":{\"a\":1},\"constructor\":null}";
    wire.put(conn, text(&format!("42[\"a\",{data}]")));
    wire.put(conn, text(&format!("451-[\"b\",{data},{{\"_placeholder\":true,\"num\":0}}]")));
    wire.put(conn, frame(0x82, &[1]));
    let rest = "{\"_placeholder\":true,\"num\":0}";
    assert_eq!(wire.heard(), [format!("a({data})"), format!("b({data},{rest}) [1]")]);
    assert!(!wire.is_over(conn));
}

/// J-25: a client that tries again sends the same event under another id; both are delivered.
#[test]
fn j25_a_client_that_tries_again() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, [text("420[\"a\",1]"), text("421[\"a\",1]")].concat());
    assert_eq!(wire.heard(), ["a(1) #0", "a(1) #1"]);
}
