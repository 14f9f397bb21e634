//! Connection-state recovery: L-5 … L-15, J-6, J-8 and V.3, on one shard and between two.

use std::time::Duration;

use corecast::hub::recovery::{Data, Offset};
use corecast::hub::slab::Key;
use corecast::hub::{Config, Flags, PeerEnd, Publish, Target};
use corecast::{Reason, Recovery, SlowReader};

use crate::wire::{Wire, config, text};

fn options() -> Recovery {
    let mut options = Recovery::default();
    options.max_bytes = 4_000;
    options
}

fn shard(shard: u16, shards: u16, options: Recovery) -> Wire {
    let mut wire = Wire::with(Config { shard, shards, recovery: Some(options), ..config() });
    // Answers no ping, so that only what a test says happens.
    wire.at(1);
    wire
}

fn one() -> Wire {
    shard(0, 1, options())
}

fn two() -> [Wire; 2] {
    [shard(0, 2, options()), shard(1, 2, options())]
}

/// Offset and text of an event: `42["name","offset"]`.
fn event(offset: Offset, name: &str) -> String {
    let mut args = format!("\"{name}\"").into_bytes();
    offset.append_to(&mut args);
    format!("42[{}]", String::from_utf8(args).unwrap())
}

/// Its last argument.
fn offset_of(event: &str) -> &str {
    event.rsplit('"').nth(1).unwrap()
}

fn flags(offset: Offset) -> Flags {
    Flags { offset: Some(offset), ..Flags::default() }
}

/// An event to one socket; what its client reads.
fn emit(wire: &mut Wire, member: Key, name: &str) -> String {
    let offset = wire.hub.next_offset().unwrap();
    let text = event(offset, name);
    assert!(wire.hub.emit(member, text.as_bytes(), &[], flags(offset)));
    wire.run();
    text
}

fn broadcast(wire: &mut Wire, rooms: &[&str], except: &[&str], name: &str) -> (Publish, String) {
    let offset = wire.hub.next_offset().unwrap();
    let text = event(offset, name);
    let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
    let target = Target { rooms: names(rooms), except: names(except), only: None };
    let encoded = corecast::hub::fanout::Encoded {
        text: text.clone().into_bytes().into(),
        attachments: Vec::new(),
    };
    (Publish { namespace: 0, target, flags: flags(offset), encoded }, text)
}

fn publish(wire: &mut Wire, rooms: &[&str], except: &[&str], name: &str) -> String {
    let (publish, text) = broadcast(wire, rooms, except, name);
    wire.hub.publish(&publish);
    wire.run();
    text
}

/// The `sid` and `pid` of a CONNECT.
fn ids(connect: &str) -> (String, String) {
    let json: serde_json::Value =
        serde_json::from_str(&connect[connect.find('{').unwrap()..]).unwrap();
    let text = |name: &str| json[name].as_str().unwrap().to_owned();
    (text("sid"), text("pid"))
}

/// A client in `/`: its connection, the socket, `sid` and `pid`.
fn join(wire: &mut Wire) -> (u32, Key, String, String) {
    let (conn, _) = wire.websocket(None);
    wire.put(conn, text("40"));
    let (sid, pid) = ids(&wire.said(conn)[0]);
    wire.heard();
    (conn, *wire.members.last().unwrap(), sid, pid)
}

fn claim(pid: &str, offset: Option<&str>) -> String {
    let offset = offset.map_or(String::new(), |offset| format!(",\"offset\":\"{offset}\""));
    format!("40{{\"pid\":\"{pid}\"{offset},\"token\":1}}")
}

/// A client that comes back: its connection and what it is told.
fn come_back(wire: &mut Wire, pid: &str, offset: Option<&str>) -> (u32, Vec<String>) {
    let (conn, _) = wire.websocket(None);
    wire.put(conn, text(&claim(pid, offset)));
    let said = wire.said(conn);
    (conn, said)
}

fn connect(sid: &str, pid: &str) -> String {
    format!("40{{\"sid\":\"{sid}\",\"pid\":\"{pid}\"}}")
}

/// Carries messages between shards until there are none.
fn carry(wires: &mut [Wire]) {
    loop {
        let mut is_quiet = true;
        for from in 0..wires.len() {
            for (to, message, data) in std::mem::take(&mut wires[from].mail) {
                is_quiet = false;
                wires[usize::from(to)].hub.handle_recovery(message, data);
                wires[usize::from(to)].run();
            }
        }
        if is_quiet {
            return;
        }
    }
}

fn nothing_is_left(wire: &mut Wire) {
    assert_eq!((wire.hub.gauges().suspended, wire.hub.held().recovery), (0, 0));
}

/// L-5: without the option there is neither `pid` nor offset, and nothing to come back to.
#[test]
fn l5_off_by_default() {
    let mut wire = Wire::new();
    let (conn, _) = wire.websocket(None);
    wire.put(conn, text("40"));
    assert!(!wire.said(conn)[0].contains("pid"));
    assert_eq!(wire.hub.next_offset(), None);
    wire.end(conn, PeerEnd::Reset);
    nothing_is_left(&mut wire);
    let (_, said) = come_back(&mut wire, "AAAAAAAAAAAAAAAAAAAA", None);
    assert!(said.len() == 1 && !said[0].contains("pid"), "{said:?}");
}

/// J-6, L-6, L-8, L-9, V.3: what was missed, in order, then CONNECT with the ids of before.
#[test]
fn l6_l8_l9_v3_back_where_it_was() {
    let mut wire = one();
    let (conn, socket, sid, pid) = join(&mut wire);
    assert!(sid.len() == 20 && pid.len() == 20 && sid != pid);
    assert!(wire.hub.join(socket, "room") && !wire.hub.is_recovered(socket));
    let seen = emit(&mut wire, socket, "a");
    assert_eq!(wire.said(conn), [seen.as_str()]);
    wire.end(conn, PeerEnd::Eof);
    assert_eq!(wire.heard(), ["transport close"]);
    assert_eq!((wire.hub.gauges().sockets, wire.hub.gauges().suspended), (0, 1));
    assert_eq!(wire.hub.gauges().rooms, 0, "it is in no room for anybody else");
    let to =
        |wire: &mut Wire, rooms: &[&str], except: &[&str], name| publish(wire, rooms, except, name);
    let mut missed = vec![
        to(&mut wire, &[], &[], "all"),
        to(&mut wire, &["room", &sid], &[], "twice named, once received"),
        to(&mut wire, &[&sid], &["nobody"], "mine"),
    ];
    for (rooms, except) in [(&["other"][..], &[][..]), (&[][..], &["room"][..]), (&[], &[&sid])] {
        to(&mut wire, rooms, except, "not for it");
    }
    missed.push(to(&mut wire, &["room"], &[], "last"));
    let (again, said) = come_back(&mut wire, &pid, Some(offset_of(&seen)));
    missed.push(connect(&sid, &pid));
    assert_eq!(said, missed);
    assert_eq!(wire.heard(), [format!("connect 0 {}", &claim(&pid, Some(offset_of(&seen)))[2..])]);
    let socket = *wire.members.last().unwrap();
    assert!(wire.hub.is_recovered(socket));
    assert_eq!(wire.hub.socket_id(socket).unwrap().to_string(), sid);
    assert_eq!(wire.hub.rooms_of(socket).iter().map(|room| &**room).collect::<Vec<_>>(), ["room"]);
    // It is an ordinary socket again, by its old name.
    let live = [publish(&mut wire, &["room"], &[], "room"), publish(&mut wire, &[&sid], &[], "me")];
    publish(&mut wire, &[], &[&sid], "others");
    assert_eq!(wire.said(again), live);
    // And once more, from an event that it had missed the first time.
    wire.end(again, PeerEnd::Reset);
    let (last, said) = come_back(&mut wire, &pid, Some(offset_of(&missed[3])));
    assert_eq!(said, [&live[..], &[connect(&sid, &pid)]].concat());
    wire.put(last, text("41"));
    nothing_is_left(&mut wire);
}

/// L-7, L-14: an event without an offset is not kept: one with an ack id, or a volatile one.
#[test]
fn l7_l14_what_is_not_kept() {
    let mut wire = one();
    let (conn, socket, sid, pid) = join(&mut wire);
    let seen = emit(&mut wire, socket, "a");
    wire.end(conn, PeerEnd::Reset);
    let (mut lost, _) = broadcast(&mut wire, &[], &[], "volatile");
    lost.flags = Flags { volatile: true, ..Flags::default() };
    wire.hub.publish(&lost);
    let kept = publish(&mut wire, &[], &[], "kept");
    let (_, said) = come_back(&mut wire, &pid, Some(offset_of(&seen)));
    assert_eq!(said, [kept, connect(&sid, &pid)]);
}

/// #5282: a client that has received nothing yet sends no offset, and recovers.
#[test]
fn l10_nothing_received_yet() {
    let mut wire = one();
    let (conn, socket, sid, pid) = join(&mut wire);
    wire.holds = true;
    let lost = emit(&mut wire, socket, "on its way");
    wire.end(conn, PeerEnd::Reset);
    wire.holds = false;
    let missed = publish(&mut wire, &[], &[], "b");
    let (conn, said) = come_back(&mut wire, &pid, None);
    assert_eq!(said, [lost, missed.clone(), connect(&sid, &pid)]);
    // Once it has shown that something has arrived, "nothing" is no answer any more.
    wire.end(conn, PeerEnd::Reset);
    let (conn, _) = come_back(&mut wire, &pid, Some(offset_of(&missed)));
    wire.end(conn, PeerEnd::Reset);
    let (_, said) = come_back(&mut wire, &pid, None);
    assert_ne!(ids(&said[0]).0, sid);
}

/// L-10: whatever does not fit gets a new session, and does no harm to the old one.
#[test]
fn l10_garbage_gets_a_new_session() {
    let mut wire = one();
    let (conn, socket, sid, pid) = join(&mut wire);
    let seen = emit(&mut wire, socket, "a");
    let offset = offset_of(&seen).to_owned();
    wire.end(conn, PeerEnd::Reset);
    let long = "x".repeat(500_000);
    let guess = format!("{}AAAA", &pid[..16]);
    let of = |pid: &str, offset: &str| format!("40{{\"pid\":{pid},\"offset\":{offset}}}");
    let text_of = |text: &str| format!("\"{text}\"");
    let cases = [
        of("1", &text_of(&offset)),
        of("null", "null"),
        of(&text_of(&pid), "7"),
        of(&text_of(&pid), "{\"a\":[]}"),
        of(&text_of(&pid), &text_of("")),
        of(&text_of(&pid), &text_of(&long)),
        of(&text_of(&pid), &text_of("AAAAAAAAAAA")),
        of(&text_of(&long), &text_of(&offset)),
        of(&text_of(&guess), &text_of(&offset)),
        of(&text_of("__proto__"), &text_of(&offset)),
        of(&text_of("____________________"), &text_of(&offset)),
        of(&text_of(&sid), &text_of(&offset)),
        format!("40/admin,{{\"pid\":\"{pid}\",\"offset\":\"{offset}\"}}"),
    ];
    for case in cases {
        let (conn, _) = wire.websocket(None);
        let mut frame = vec![0x81, 0xff];
        frame.extend((case.len() as u64).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(case.as_bytes());
        wire.put(conn, frame);
        let said = wire.said(conn);
        assert_eq!(said.len(), 1, "{said:?}");
        let (new_sid, new_pid) = ids(&said[0]);
        assert!(new_sid != sid && new_pid != pid, "{}", &case[..case.len().min(80)]);
        wire.put(conn, text(if case.starts_with("40/") { "41/admin," } else { "41" }));
        wire.end(conn, PeerEnd::Eof);
        assert_eq!(wire.hub.gauges().suspended, 1);
    }
    let (_, said) = come_back(&mut wire, &pid, Some(&offset));
    assert_eq!(said, [connect(&sid, &pid)]);
}

/// L-11: which ends may be recovered from.
#[test]
fn l11_reasons() {
    type End = fn(&mut Wire, u32, Key);
    let ends: [(End, Reason, bool); 7] = [
        (|w, conn, _| w.end(conn, PeerEnd::Eof), Reason::TransportClose, true),
        (|w, conn, _| w.put(conn, [0xff, 0xff]), Reason::TransportError, true),
        (|w, _, key| w.hub.close_connection(key), Reason::ForcedClose, true),
        (|w, _, _| w.at(50_000), Reason::PingTimeout, true),
        (|w, conn, _| w.put(conn, text("9")), Reason::ParseError, false),
        (|w, conn, _| w.put(conn, text("41")), Reason::ClientNamespaceDisconnect, false),
        (|w, _, key| w.hub.disconnect(key, true), Reason::ServerNamespaceDisconnect, false),
    ];
    for (end, reason, recovers) in ends {
        let mut wire = one();
        let (conn, socket, sid, pid) = join(&mut wire);
        end(&mut wire, conn, socket);
        wire.run();
        assert_eq!(wire.heard(), [reason.to_string()]);
        assert_eq!(wire.hub.gauges().suspended, usize::from(recovers), "{reason}");
        let (_, said) = come_back(&mut wire, &pid, None);
        assert_eq!(ids(&said[0]).0 == sid, recovers, "{reason}");
    }
    let mut wire = one();
    join(&mut wire);
    wire.hub.shut_down(Reason::ServerShuttingDown);
    wire.run();
    nothing_is_left(&mut wire);
}

/// L-9, L-12: after its time nothing is left; and a session comes back as often as it goes.
#[test]
fn l12_expiry() {
    let mut wire = one();
    let (conn, socket, sid, pid) = join(&mut wire);
    wire.hub.join(socket, "room");
    wire.end(conn, PeerEnd::Reset);
    publish(&mut wire, &[], &[], "b");
    wire.at(119_000);
    let (conn, said) = come_back(&mut wire, &pid, None);
    assert_eq!((said.len(), ids(&said[1]).0), (2, sid.clone()));
    wire.end(conn, PeerEnd::Reset);
    wire.at(238_000);
    assert_eq!(wire.hub.gauges().suspended, 1);
    wire.at(240_000);
    nothing_is_left(&mut wire);
    let (conn, said) = come_back(&mut wire, &pid, None);
    assert!(said.len() == 1 && ids(&said[0]).0 != sid);
    wire.put(conn, text("41"));
    nothing_is_left(&mut wire);
}

/// L-13: a log ends where the client's last pong says, and is bounded; a gap that is too large
/// gets a new session, never a part of what was missed.
#[test]
fn l13_logs_are_bounded() {
    let mut wire = one();
    let (conn, socket, sid, pid) = join(&mut wire);
    let empty = wire.hub.held().recovery;
    let sent: Vec<String> = (0..4).map(|n| emit(&mut wire, socket, &n.to_string())).collect();
    let full = wire.hub.held().recovery;
    assert!(full >= empty + 4 * sent[0].len());
    wire.at(25_100);
    let late = emit(&mut wire, socket, "after the ping");
    wire.put(conn, text("3"));
    assert!(wire.hub.held().recovery < full - 200, "the pong has released what was before");
    wire.end(conn, PeerEnd::Reset);
    let (conn, said) = come_back(&mut wire, &pid, Some(offset_of(&sent[3])));
    assert_eq!(said, [late.clone(), connect(&sid, &pid)]);
    wire.end(conn, PeerEnd::Reset);
    for _ in 0..5 {
        publish(&mut wire, &[], &[], &"x".repeat(1_000));
    }
    assert!(wire.hub.held().recovery < 6_000);
    let (_, said) = come_back(&mut wire, &pid, Some(offset_of(&late)));
    assert!(said.len() == 1 && ids(&said[0]).0 != sid, "{said:?}");
}

/// The oldest sessions go when there are too many.
#[test]
fn l13_sessions_are_bounded() {
    let mut options = options();
    options.max_sessions = 3;
    let mut wire = shard(0, 1, options);
    let clients: Vec<_> = (0..5).map(|_| join(&mut wire)).collect();
    for (conn, ..) in &clients {
        wire.end(*conn, PeerEnd::Reset);
    }
    assert_eq!(wire.hub.gauges().suspended, 3);
    for (at, (_, _, sid, pid)) in clients.iter().enumerate() {
        let (conn, said) = come_back(&mut wire, pid, None);
        assert_eq!(ids(&said[0]).0 == *sid, at >= 2);
        wire.put(conn, text("41"));
    }
    nothing_is_left(&mut wire);
}

/// L-15: a session is one client's at a time. A connection that was cut without a word is ended
/// when its client comes back before anybody has noticed.
#[test]
fn l15_the_latest_connection_has_it() {
    let mut wire = one();
    let (old, socket, sid, pid) = join(&mut wire);
    let seen = emit(&mut wire, socket, "a");
    wire.holds = true;
    let lost = emit(&mut wire, socket, "into the void");
    wire.holds = false;
    let mut before = old;
    for _ in 0..3 {
        let (conn, said) = come_back(&mut wire, &pid, Some(offset_of(&seen)));
        assert_eq!(said, [lost.clone(), connect(&sid, &pid)]);
        assert!(wire.is_over(before) && !wire.is_over(conn));
        assert_eq!(wire.heard()[0], "transport close");
        before = conn;
    }
    assert_eq!((wire.hub.gauges().sockets, wire.hub.gauges().suspended), (1, 0));
    // A wrong offset does not even close it.
    let (_, said) = come_back(&mut wire, &pid, Some("AAAAAAAAAAA"));
    assert_ne!(ids(&said[0]).0, sid);
    assert!(!wire.is_over(before));
}

/// L-9: middleware that is asked again may refuse, or the client may go meanwhile: the session
/// stays, hears what is sent, and comes back whole.
#[test]
fn l9_while_the_application_decides() {
    let mut wire = one();
    let (conn, socket, sid, pid) = join(&mut wire);
    wire.hub.join(socket, "room");
    wire.end(conn, PeerEnd::Reset);
    let mut missed = vec![publish(&mut wire, &["room"], &[], "1")];
    wire.accepts = false;
    for round in 0..2 {
        let (conn, said) = come_back(&mut wire, &pid, None);
        assert_eq!(said, [""; 0]);
        let asking = *wire.members.last().unwrap();
        assert_eq!(wire.hub.socket_id(asking).unwrap().to_string(), sid);
        assert!(wire.hub.is_recovered(asking));
        missed.push(publish(&mut wire, &["room"], &[], "meanwhile"));
        match round {
            0 => wire.hub.refuse_member(asking, "no", None),
            _ => wire.end(conn, PeerEnd::Reset),
        }
        wire.run();
        assert_eq!(wire.hub.gauges().suspended, 1);
    }
    // J-8: what middleware emits is sent at once, before what was missed.
    let (conn, _) = wire.websocket(None);
    wire.put(conn, text(&claim(&pid, None)));
    let asking = *wire.members.last().unwrap();
    let greeting = emit(&mut wire, asking, "hello");
    assert_eq!(wire.said(conn), [greeting.as_str()]);
    assert!(wire.hub.accept_member(asking));
    missed.push(connect(&sid, &pid));
    assert_eq!(wire.said(conn), missed);
    wire.end(conn, PeerEnd::Reset);
    missed.pop();
    wire.accepts = true;
    let (_, said) = come_back(&mut wire, &pid, Some(offset_of(&greeting)));
    assert_eq!(said[..missed.len()], missed);
}

/// Events between the end of a connection and the moment the application lets go of its socket.
#[test]
fn l9_while_the_application_lets_go() {
    let mut wire = one();
    let (conn, socket, sid, pid) = join(&mut wire);
    wire.hub.join(socket, "room");
    wire.keeps = true;
    wire.end(conn, PeerEnd::Reset);
    let missed = [publish(&mut wire, &["room"], &[], "a"), publish(&mut wire, &[&sid], &[], "b")];
    assert_eq!(wire.hub.selected(0, &Target::default()), [], "nobody is there for others");
    let (conn, said) = come_back(&mut wire, &pid, None);
    assert_eq!(said, [""; 0], "not yet");
    wire.hub.keep_data(socket, || Some(std::rc::Rc::new(5u8) as Data));
    wire.hub.remove_member(socket);
    assert_eq!(wire.said(conn), [&missed[..], &[connect(&sid, &pid)]].concat());
}

/// What the application keeps with a socket is there again until it has let the client in.
#[test]
fn l9_data() {
    let mut wire = one();
    wire.keeps = true;
    let (conn, socket, _, pid) = join(&mut wire);
    wire.end(conn, PeerEnd::Reset);
    wire.hub.keep_data(socket, || Some(std::rc::Rc::new(5u8) as Data));
    wire.hub.remove_member(socket);
    wire.accepts = false;
    come_back(&mut wire, &pid, None);
    let again = *wire.members.last().unwrap();
    let data = wire.hub.kept_data(again).and_then(|data| data.downcast::<u8>().ok());
    assert_eq!(data.as_deref(), Some(&5));
    assert!(wire.hub.accept_member(again));
    assert!(wire.hub.kept_data(again).is_none());
    wire.run();
    assert_eq!(wire.heard().last().map(String::as_str), Some("unkept"));
}

/// Long-polling: what is missed waits with the CONNECT, in one payload.
#[test]
fn l9_polling() {
    let mut wire = one();
    let (conn, _, sid, pid) = join(&mut wire);
    wire.end(conn, PeerEnd::Reset);
    let missed = publish(&mut wire, &[], &[], "b");
    let session = wire.polling();
    assert_eq!(wire.post(&session, &claim(&pid, None)), (200, "ok".into()));
    let poll = wire.poll(&session);
    assert_eq!(wire.answer(poll).1, format!("{missed}\u{1e}{}", connect(&sid, &pid)));
}

/// A client that reads too slowly loses no event on its way back, whatever the policy.
#[test]
fn l9_replays_are_not_dropped() {
    let limits = Config { queue_bytes_max: 2_000, slow_reader: SlowReader::Drop, ..config() };
    let mut wire = Wire::with(Config { recovery: Some(options()), ..limits });
    let (conn, _, sid, pid) = join(&mut wire);
    wire.end(conn, PeerEnd::Reset);
    let missed = [0; 3].map(|_| publish(&mut wire, &[], &[], &"x".repeat(900)));
    let (conn, _) = wire.websocket(None);
    wire.put(conn, text(&claim(&pid, None)));
    let said = wire.said(conn);
    assert_eq!(said, [&missed[..], &[connect(&sid, &pid)]].concat());
}

/// L-9 between shards: the session follows its client, log, rooms and ids, and is found again
/// wherever the client goes next.
#[test]
fn l9_on_another_shard() {
    let mut wires = two();
    let (conn, socket, sid, pid) = join(&mut wires[0]);
    wires[0].hub.join(socket, "room");
    let seen = emit(&mut wires[0], socket, "a");
    wires[0].end(conn, PeerEnd::Reset);
    let mut at = 0;
    let mut seen = offset_of(&seen).to_owned();
    for to in [1, 0, 0, 1, 1] {
        let everywhere = |wires: &mut [Wire; 2], rooms: &[&str], name| {
            let (publish, text) = broadcast(&mut wires[at], rooms, &[], name);
            wires.iter_mut().for_each(|wire| wire.hub.publish(&publish));
            text
        };
        let mut missed = vec![everywhere(&mut wires, &["room"], "r")];
        missed.push(everywhere(&mut wires, &[&sid], "id"));
        everywhere(&mut wires, &["elsewhere"], "no");
        let (conn, _) = wires[to].websocket(None);
        wires[to].put(conn, text(&claim(&pid, Some(&seen))));
        carry(&mut wires);
        missed.push(connect(&sid, &pid));
        assert_eq!(wires[to].said(conn), missed, "{at} to {to}");
        assert_eq!(wires.each_ref().map(|wire| wire.hub.gauges().suspended), [0, 0]);
        let live = everywhere(&mut wires, &["room", &sid], "live");
        wires.iter_mut().for_each(Wire::run);
        assert_eq!(wires[to].said(conn), [live.as_str()]);
        seen = offset_of(&live).to_owned();
        wires[to].end(conn, PeerEnd::Eof);
        at = to;
    }
    // It expires where it is, and its home forgets it too.
    wires[1].at(200_000);
    carry(&mut wires);
    wires.iter_mut().for_each(nothing_is_left);
}

/// Every order in which two shards can apply broadcasts and pass a session on: each broadcast comes
/// exactly once, those of one sender in order.
#[test]
fn l9_exactly_once_between_shards() {
    // Each of 3 broadcasts is applied by shard 0 and shard 1 at one of 4 moments: before the
    // question, before the answer, before it has come, and after.
    for (sender, times) in (0..2u16).flat_map(|s| (0..256u32).map(move |n| (s, n))) {
        let moments = |shard: u32| [0, 1].map(|b| times >> (shard * 4 + b * 2) & 3);
        let (first, second) = (moments(0), moments(1));
        if first[0] > first[1] || second[0] > second[1] {
            continue;
        }
        let mut wires = two();
        let (conn, _, sid, pid) = join(&mut wires[0]);
        wires[0].end(conn, PeerEnd::Reset);
        // A third sender, so that order between senders and shards is free.
        let publishes: Vec<(Publish, String)> = (1..3)
            .map(|n| {
                let (mut publish, _) = broadcast(&mut wires[0], &[], &[], "x");
                let offset = Offset::new(2, n + u64::from(sender));
                let text = event(offset, &n.to_string());
                publish.flags = flags(offset);
                publish.encoded.text = text.clone().into_bytes().into();
                (publish, text)
            })
            .collect();
        let apply = |wires: &mut [Wire; 2], moment: u32| {
            for (at, (publish, _)) in publishes.iter().enumerate() {
                for (wire, when) in wires.iter_mut().zip([first[at], second[at]]) {
                    if when == moment {
                        wire.hub.publish(publish);
                        wire.run();
                    }
                }
            }
        };
        let pass = |wires: &mut [Wire; 2], from: usize| {
            for (to, message, data) in std::mem::take(&mut wires[from].mail) {
                wires[usize::from(to)].hub.handle_recovery(message, data);
                wires[usize::from(to)].run();
            }
        };
        apply(&mut wires, 0);
        let (conn, _) = wires[1].websocket(None);
        wires[1].put(conn, text(&claim(&pid, None)));
        apply(&mut wires, 1);
        pass(&mut wires, 1);
        apply(&mut wires, 2);
        pass(&mut wires, 0);
        apply(&mut wires, 3);
        carry(&mut wires);
        let said = wires[1].said(conn);
        let place = said.iter().position(|it| *it == connect(&sid, &pid));
        assert!(place.is_some(), "{times}: {said:?}");
        let got: Vec<&String> = said.iter().filter(|it| it.starts_with("42")).collect();
        assert!(got.iter().copied().eq(publishes.iter().map(|it| &it.1)), "{times}: {said:?}");
    }
}

/// A shard that does not answer, or cannot, costs the client its session and no more.
#[test]
fn l10_another_shard_is_silent() {
    let mut wires = two();
    let (conn, _, sid, pid) = join(&mut wires[0]);
    wires[0].end(conn, PeerEnd::Reset);
    let (conn, _) = wires[1].websocket(None);
    wires[1].put(conn, text(&claim(&pid, None)));
    wires[1].put(conn, text("42[\"held\"]"));
    let lost = std::mem::take(&mut wires[1].mail);
    assert_eq!((lost.len(), wires[1].heard().len()), (1, 0));
    wires[1].at(3_000);
    let said = wires[1].said(conn);
    assert_ne!(ids(&said[0]).0, sid);
    assert_eq!(
        wires[1].heard(),
        [format!("connect 0 {}", &claim(&pid, None)[2..]), "held()".into()]
    );
    // The answer comes late: it is of no use, and nothing of it stays.
    for (to, message, data) in lost {
        wires[usize::from(to)].hub.handle_recovery(message, data);
    }
    wires[0].run();
    carry(&mut wires);
    wires[1].put(conn, text("41"));
    wires.iter_mut().for_each(nothing_is_left);
    // Nor does a question for a session that is nowhere.
    let (conn, _) = wires[1].websocket(None);
    wires[1].put(conn, text(&claim(&pid, None)));
    carry(&mut wires);
    assert_ne!(ids(&wires[1].said(conn)[0]).0, sid);
    wires[1].put(conn, text("41"));
    wires.iter_mut().for_each(nothing_is_left);
}

/// A client that asks for sessions of another shard without end makes this one wait for so many,
/// and whoever asks beyond that is served without.
#[test]
fn l10_questions_to_other_shards_are_bounded() {
    let mut wires = two();
    let (_, _, sid, pid) = join(&mut wires[0]);
    let (flood, _) = wires[1].websocket(None);
    for _ in 0..5_000 {
        wires[1].put(flood, text(&claim(&pid, Some("AAAAAAAAAAE"))));
        wires[1].put(flood, text("41"));
    }
    assert_eq!(wires[1].mail.len(), 4_096);
    let (_, said) = come_back(&mut wires[1], &pid, None);
    assert_ne!(ids(&said[0]).0, sid);
    carry(&mut wires);
    assert_eq!(wires[1].hub.held().recovery, 0);
}

/// The client goes again while its session is on its way: it is kept where it arrives.
#[test]
fn l9_gone_again_before_it_came() {
    let mut wires = two();
    let (conn, _, sid, pid) = join(&mut wires[0]);
    wires[0].end(conn, PeerEnd::Reset);
    let (everywhere, missed) = broadcast(&mut wires[0], &[], &[], "a");
    wires.iter_mut().for_each(|wire| wire.hub.publish(&everywhere));
    let (conn, _) = wires[1].websocket(None);
    wires[1].put(conn, text(&claim(&pid, None)));
    wires[1].end(conn, PeerEnd::Reset);
    carry(&mut wires);
    assert_eq!(wires.each_ref().map(|wire| wire.hub.gauges().suspended), [0, 1]);
    assert_eq!(wires[1].heard(), [""; 0]);
    for to in [0, 1] {
        let (conn, _) = wires[to].websocket(None);
        wires[to].put(conn, text(&claim(&pid, None)));
        carry(&mut wires);
        assert_eq!(wires[to].said(conn), [missed.clone(), connect(&sid, &pid)], "{to}");
    }
}

/// Storms: many connections with one private id, on both shards at once. One has it in the end.
#[test]
fn l15_storm_with_one_id() {
    let mut options = options();
    options.max_disconnection_duration = Duration::from_secs(5);
    let mut wires = [0, 1].map(|n| shard(n, 2, options));
    let (conn, _, sid, pid) = join(&mut wires[0]);
    wires[0].end(conn, PeerEnd::Reset);
    let conns: Vec<(usize, u32)> = (0..60)
        .map(|n| {
            let at = n * 7 % 2;
            let (conn, _) = wires[at].websocket(None);
            wires[at].put(conn, text(&claim(&pid, None)));
            if n % 3 == 0 {
                carry(&mut wires);
            }
            (at, conn)
        })
        .collect();
    carry(&mut wires);
    let mut heirs = 0;
    for (at, conn) in conns {
        let said = wires[at].said(conn);
        let is_open = !wires[at].is_over(conn);
        let mut connects = said.iter().filter(|it| it.starts_with("40{")).map(|it| ids(it).0);
        heirs += usize::from(is_open && connects.next_back() == Some(sid.clone()));
        wires[at].put(conn, text("41"));
        wires[at].end(conn, PeerEnd::Reset);
    }
    assert!(heirs <= 1, "{heirs} have it");
    wires.iter_mut().for_each(|wire| wire.at(10_000));
    carry(&mut wires);
    wires.iter_mut().for_each(nothing_is_left);
}
