//! Broadcasts that are acknowledged (L-3, K.2), as far as they are bytes and time.

use bytes::Bytes;
use corecast::hub::fanout::Encoded;
use corecast::hub::{FIRST_ASK, Flags, PeerEnd, Publish, Target};

use crate::wire::{Wire, config, frame, text};

/// A question to the sockets of `/` in these rooms.
fn question(id: u64, rooms: &[&str]) -> Publish {
    let rooms = rooms.iter().map(|room| (*room).into()).collect();
    let text = Bytes::from(format!("42{id}[\"q\"]"));
    Publish {
        namespace: 0,
        target: Target { rooms, ..Target::default() },
        flags: Flags::default(),
        encoded: Encoded { text, attachments: Vec::new() },
    }
}

impl Wire {
    fn question(&mut self, id: u64, rooms: &[&str], timeout_ms: u64) {
        self.hub.ask(&question(id, rooms), id, timeout_ms);
        self.run();
    }
}

const ID: u64 = FIRST_ASK + 5;

/// All answer: the same packet for everyone, the first argument of each answer, no waiting for the
/// timeout. Others of the namespace are not asked, and what they say does not count.
#[test]
fn l3_all_answer() {
    let mut wire = Wire::new();
    let conns = [(); 4].map(|()| wire.joined());
    for member in 0..3 {
        assert!(wire.hub.join(wire.members[member], "room"));
    }
    wire.question(ID, &["room"], 1_000);
    for conn in &conns[..3] {
        assert_eq!(wire.said(*conn), [format!("42{ID}[\"q\"]")]);
    }
    assert_eq!(wire.said(conns[3]), [""; 0]);
    wire.put(conns[3], text(&format!("43{ID}[\"not asked\"]")));
    wire.put(conns[0], text(&format!("43{ID}[\"a\",\"second argument\"]")));
    wire.put(conns[0], text(&format!("43{ID}[\"twice\"]")));
    wire.put(conns[1], text(&format!("43{ID}[]")));
    assert_eq!(wire.heard(), [""; 0], "one has not answered");
    wire.put(conns[2], text(&format!("461-{ID}[{{\"_placeholder\":true,\"num\":0}}]")));
    assert_eq!(wire.heard(), [""; 0], "nor has it with half an answer");
    wire.put(conns[2], frame(0x82, &[1]));
    let answers = format!("answers {ID} 3: \"a\"||{{\"_placeholder\":true,\"num\":0}} [1]");
    assert_eq!(wire.heard(), [answers]);
    assert_eq!(wire.hub.ask_count(), 0);
    wire.put(conns[1], text(&format!("43{ID}[1]")));
    assert_eq!(wire.heard(), [""; 0]);
}

#[test]
fn l3_nobody_to_ask() {
    let mut wire = Wire::new();
    wire.joined();
    wire.question(ID, &["nobody is here"], 1_000);
    assert_eq!(wire.heard(), [format!("answers {ID} 0: ")]);
}

/// The timeout ends it with what has come, and what comes later is ignored; the others' own
/// acknowledgements are another matter.
#[test]
fn l3_timeout() {
    let mut wire = Wire::new();
    let conns = [(); 2].map(|()| wire.joined());
    wire.at(10_000);
    wire.question(ID, &[], 5_000);
    let own = wire.hub.await_ack(wire.members[1], None, 7).unwrap();
    wire.put(conns[0], text(&format!("43{ID}[1]")));
    wire.at(10_000 + 4_900);
    assert_eq!(wire.heard(), [""; 0]);
    wire.at(10_000 + 5_100);
    assert_eq!(wire.heard(), [format!("answers {ID} 2: 1 timed_out 1")]);
    wire.put(conns[1], text(&format!("43{ID}[2]")));
    wire.put(conns[1], text(&format!("43{own}[3]")));
    assert_eq!(wire.heard(), ["ack 7 3"]);
}

/// Who goes cannot answer: not waited for, where the reference waits for the timeout.
#[test]
fn l3_who_goes_is_not_waited_for() {
    let mut wire = Wire::new();
    let conns = [(); 3].map(|()| wire.joined());
    wire.question(ID, &[], 60_000);
    wire.put(conns[0], text(&format!("43{ID}[1]")));
    wire.put(conns[1], text("41"));
    assert_eq!(wire.heard(), ["client namespace disconnect"]);
    wire.end(conns[2], PeerEnd::Reset);
    let end = ["transport close".to_owned(), format!("answers {ID} 3: 1 disconnected 2")];
    assert_eq!(wire.heard(), end);
}

/// With too many answers outstanding the event still comes, and the outcome says that the answer
/// is not awaited. A broadcast counts like the socket's own.
#[test]
fn l3_bounded_by_pending_acks() {
    let mut wire = Wire::with(corecast::hub::Config { acks_max: 2, ..config() });
    let conn = wire.joined();
    wire.hub.await_ack(wire.members[0], None, 1).unwrap();
    wire.question(ID, &[], 60_000);
    wire.question(ID + 1, &[], 60_000);
    assert_eq!(wire.heard(), [format!("answers {} 1:  unawaited 1", ID + 1)]);
    assert_eq!(wire.said(conn), [format!("42{ID}[\"q\"]"), format!("42{}[\"q\"]", ID + 1)]);
    assert!(wire.hub.await_ack(wire.members[0], None, 2).is_none());
    wire.put(conn, text(&format!("43{ID}[1]")));
    assert_eq!(wire.heard(), [format!("answers {ID} 1: 1")]);
    assert!(wire.hub.await_ack(wire.members[0], None, 2).is_some());
}

/// Answers have a bound in bytes, all together.
#[test]
fn l3_bounded_in_bytes() {
    let mut wire = Wire::with(corecast::hub::Config { gather_bytes_max: 1_000, ..config() });
    let conns = [(); 3].map(|()| wire.joined());
    wire.question(ID, &[], 60_000);
    let long = "x".repeat(500);
    for conn in conns {
        wire.put(conn, text(&format!("43{ID}[\"{long}\"]")));
    }
    assert_eq!(wire.heard(), [format!("answers {ID} 3: \"{long}\" oversized 2")]);
}

#[test]
fn l3_cancelled() {
    let mut wire = Wire::with(corecast::hub::Config { acks_max: 1, ..config() });
    let conn = wire.joined();
    let ask = wire.hub.ask(&question(ID, &[]), ID, 60_000);
    wire.hub.cancel_ask(ask);
    assert_eq!(wire.hub.ask_count(), 0);
    assert!(wire.hub.await_ack(wire.members[0], None, 2).is_some(), "there is room again");
    wire.put(conn, text(&format!("43{ID}[1]")));
    wire.hub.cancel_ask(ask);
    wire.at(61_000);
    assert!(wire.heard().iter().all(|line| !line.starts_with("answers")));
}

/// The ids of single sockets stay below those of broadcasts.
#[test]
fn l3_ids_do_not_meet() {
    let mut wire = Wire::new();
    wire.joined();
    let id = wire.hub.await_ack(wire.members[0], None, 1).unwrap();
    assert!(id < FIRST_ASK && 2 * FIRST_ASK <= 1 << 31, "31 bits are enough for all clients");
}

/// E-10, E-13: what waits, and when it is gone: handed to the kernel, or to a GET.
#[test]
fn e13_drained() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    let member = wire.members[0];
    assert!(wire.hub.await_drain(member, 1));
    wire.run();
    assert_eq!(wire.heard(), ["ack 1 "], "nothing waits");
    wire.holds = true;
    wire.emit(0, "42[\"x\"]");
    assert_eq!(wire.hub.queued(member), 2 + 7);
    assert!(wire.hub.await_drain(member, 2));
    wire.run();
    assert_eq!(wire.heard(), [""; 0]);
    wire.holds = false;
    wire.run();
    assert_eq!((wire.heard(), wire.hub.queued(member)), (vec!["ack 2 ".into()], 0));
    wire.holds = true;
    wire.emit(0, "42[\"x\"]");
    assert!(wire.hub.await_drain(member, 3));
    wire.end(conn, PeerEnd::Reset);
    assert_eq!(wire.heard(), ["transport close", "ack 3 Disconnected"]);
    assert!(!wire.hub.await_drain(member, 4));
    assert_eq!(wire.hub.queued(member), 0);
}

#[test]
fn e13_drained_on_polling() {
    let mut wire = Wire::new();
    let sid = wire.joined_polling();
    let member = wire.members[0];
    wire.emit(0, "42[\"x\"]");
    assert_eq!(wire.hub.queued(member), 7);
    assert!(wire.hub.await_drain(member, 1));
    wire.run();
    assert_eq!(wire.heard(), [""; 0]);
    let get = wire.poll(&sid);
    assert_eq!(wire.answer(get), (200, "42[\"x\"]".into()));
    assert_eq!((wire.heard(), wire.hub.queued(member)), (vec!["ack 1 ".into()], 0));
    let _parked = wire.poll(&sid);
    wire.emit(0, "42[\"y\"]");
    assert_eq!(wire.hub.queued(member), 0, "a GET was waiting");
    // An upgrade takes along what waits, and those who wait for it.
    wire.emit(0, "42[\"z\"]");
    assert!(wire.hub.await_drain(member, 2));
    let (conn, _) = wire.websocket(Some(&sid));
    wire.put(conn, text("2probe"));
    assert_eq!(wire.heard(), [""; 0]);
    wire.put(conn, text("5"));
    assert_eq!(wire.said(conn), ["3probe", "42[\"z\"]"]);
    assert_eq!(wire.heard(), ["ack 2 "]);
}
