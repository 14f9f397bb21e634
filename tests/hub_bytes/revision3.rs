//! Section H, W-18 and W-19: clients of Engine.IO 3 and Socket.IO 2.

use bytes::Bytes;
use corecast::Recovery;
use corecast::hub::{Flags, PeerEnd, Publish, Target};

use crate::wire::{Wire, config, frame, reply, text, unframe, upgrade};

const POLLING: &str = "transport=polling";

fn wire() -> Wire {
    let mut config = config();
    config.allow_eio3 = true;
    Wire::with(config)
}

fn get(query: &str) -> String {
    format!("GET /socket.io/?EIO=3&{query} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn post(sid: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /socket.io/?EIO=3&transport=polling&sid={sid} HTTP/1.1\r\nHost: h\r\n\
         Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn upgrade3(sid: Option<&str>, query: &str) -> String {
    upgrade("websocket", sid).replace("EIO=4", &format!("EIO=3{query}"))
}

/// A polling session and its id; `/` is joined, its `40` fetched.
fn polling(wire: &mut Wire, query: &str) -> String {
    let (status, body) = wire.ask(&get(&format!("{POLLING}{query}")));
    assert_eq!(status, 200);
    let (length, packet) = body.split_once(':').unwrap();
    assert_eq!(length.parse(), Ok(packet.len()));
    let sid = packet[9..29].to_owned();
    assert_eq!(poll(wire, &sid), (200, "2:40".into()));
    sid
}

fn poll(wire: &mut Wire, sid: &str) -> (u16, String) {
    wire.ask(&get(&format!("{POLLING}&sid={sid}")))
}

fn say(wire: &mut Wire, sid: &str, body: &str) -> (u16, String) {
    let conn = wire.with_bytes(post(sid, "text/plain;charset=UTF-8", body.as_bytes()));
    wire.answer(conn)
}

/// A websocket session and its id; `/` is joined.
fn websocket(wire: &mut Wire, query: &str) -> (u32, String) {
    let conn = wire.with_bytes(upgrade3(None, query));
    let bytes = wire.got(conn);
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let said = unframe(&bytes[end..]);
    assert!(said[0].starts_with("0{\"sid\":\""), "{said:?}");
    assert_eq!(said[1..], ["40"]);
    assert_eq!(wire.heard(), ["connect 0 "]);
    (conn, said[0][9..29].to_owned())
}

/// U-1: refused before there is a websocket, so that the client can read why.
#[test]
fn h1_u1_off_by_default() {
    let mut wire = Wire::new();
    let body = "{\"code\":5,\"message\":\"Unsupported protocol version\"}";
    for query in ["EIO=3&", "", "EIO=&", "EIO=abc&", "EIO=4&EIO=3&"] {
        let request =
            format!("GET /socket.io/?{query}transport=polling HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(wire.ask(&request), (400, body.into()), "{query}");
    }
    let conn = wire.with_bytes(upgrade3(None, ""));
    assert_eq!(wire.answer(conn), (400, "Unsupported protocol version".into()));
    assert!(wire.is_over(conn));
    assert_eq!(wire.heard(), [""; 0]);
}

/// H-1, H-8, H-10, V.4.
#[test]
fn h1_h8_h10_open_and_connect() {
    let mut wire = wire();
    for query in ["EIO=3&", "", "EIO=abc&"] {
        let request =
            format!("GET /socket.io/?{query}transport=polling HTTP/1.1\r\nHost: h\r\n\r\n");
        let conn = wire.with_bytes(request);
        let reply = wire.reply(conn);
        assert!(reply.head.contains("Content-Type: text/plain; charset=UTF-8"), "{}", reply.head);
        let (open, rest) = reply.body.split_once("0{\"sid\":\"").unwrap();
        assert_eq!(open, "118:");
        assert_eq!(
            rest[20..],
            *"\",\"upgrades\":[\"websocket\"],\"pingInterval\":25000,\"pingTimeout\":20000,\
              \"maxPayload\":1000000}"
        );
        assert_eq!(wire.heard(), ["connect 0 "]);
        assert_eq!(poll(&mut wire, &rest[..20]), (200, "2:40".into()));
    }
    websocket(&mut wire, "");
}

/// A.2-3c: a session is of one revision.
#[test]
fn h1_the_revision_stays() {
    let mut wire = wire();
    let (old, new) = (polling(&mut wire, ""), wire.polling());
    let body = "{\"code\":3,\"message\":\"Bad request\"}";
    assert_eq!(poll(&mut wire, &new), (400, body.into()));
    assert_eq!(say(&mut wire, &new, "2:40").0, 400);
    let conn = wire.poll(&old);
    assert_eq!(wire.answer(conn), (400, body.into()));
    let conn = wire.with_bytes(upgrade("websocket", Some(&old)));
    assert_eq!(wire.answer(conn), (400, "Bad request".into()));
    wire.heard();
    assert_eq!(say(&mut wire, &old, "8:42[\"on\"]"), (200, "ok".into()));
    assert_eq!(wire.post(&new, "40"), (200, "ok".into()));
    assert_eq!(wire.heard(), ["on()", "connect 0 "]);
}

/// H-2: lengths are UTF-16 code units, both ways.
#[test]
fn h2_text_payloads() {
    let mut wire = wire();
    let sid = polling(&mut wire, "");
    wire.heard();
    let body = "13:42[\"a\",\"é😀\"]8:420[\"b\"]0:1:6";
    assert_eq!(say(&mut wire, &sid, body), (200, "ok".into()));
    assert_eq!(wire.heard(), ["a(\"é😀\")", "b() #0"]);
    assert!(wire.emit(0, "42[\"é😀\"]"));
    assert!(wire.emit(0, "42[1]"));
    assert_eq!(poll(&mut wire, &sid), (200, "9:42[\"é😀\"]5:42[1]".into()));
}

const BINARY_EVENT: &str = "451-[\"a\",{\"_placeholder\":true,\"num\":0}]";

fn emit_binary(wire: &mut Wire) {
    let attachment = Bytes::from_static(&[1, 2, 3, 4]);
    let key = wire.members[0];
    assert!(wire.hub.emit(key, BINARY_EVENT.as_bytes(), &[attachment], Flags::default()));
    wire.run();
}

/// H-3, H-4, H-9: what goes out over polling.
#[test]
fn h3_h4_h9_binary_over_polling() {
    let mut wire = wire();
    let sid = polling(&mut wire, "&b64=1");
    emit_binary(&mut wire);
    let body = format!("{}:{BINARY_EVENT}10:b4AQIDBA==", BINARY_EVENT.len());
    assert_eq!(poll(&mut wire, &sid), (200, body));

    let mut wire = self::wire();
    let sid = polling(&mut wire, "");
    emit_binary(&mut wire);
    let conn = wire.with_bytes(get(&format!("{POLLING}&sid={sid}")));
    let got = wire.got(conn);
    let end = got.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&got[..end]).into_owned();
    assert!(head.contains("Content-Type: application/octet-stream\r\n"), "{head}");
    let length = BINARY_EVENT.len() as u8;
    let text = [&[0, length / 10, length % 10, 255], BINARY_EVENT.as_bytes()].concat();
    assert_eq!(got[end..], [text, vec![1, 5, 255, 4, 1, 2, 3, 4]].concat());
    // Without binary messages it is text, as before.
    assert!(wire.emit(0, "42[1]"));
    assert_eq!(poll(&mut wire, &sid), (200, "5:42[1]".into()));
}

/// H-3, H-5: what comes in over polling, in each of the forms.
#[test]
fn h3_h5_binary_posts() {
    let mut wire = wire();
    let sid = polling(&mut wire, "");
    wire.heard();
    let length = BINARY_EVENT.len();
    let body = format!("{length}:{BINARY_EVENT}10:b4AQIDBA==");
    assert_eq!(say(&mut wire, &sid, &body), (200, "ok".into()));
    let digits = [length as u8 / 10, length as u8 % 10];
    let text = [&[0, digits[0], digits[1], 255], BINARY_EVENT.as_bytes()].concat();
    let body = [text, vec![1, 5, 255, 4, 1, 2, 3, 4]].concat();
    for kind in ["application/octet-stream", "Application/Octet-Stream; x=y"] {
        let conn = wire.with_bytes(post(&sid, kind, &body));
        assert_eq!(wire.answer(conn), (200, "ok".into()));
    }
    let event = "a({\"_placeholder\":true,\"num\":0}) [1, 2, 3, 4]";
    assert_eq!(wire.heard(), [event; 3]);
}

/// H-15: half a surrogate pair, as old browsers write it, is no end of a session. As JSON has it,
/// it passes.
#[test]
fn h15_lenient_text() {
    let mut wire = wire();
    let sid = polling(&mut wire, "");
    wire.heard();
    let packet = b"42[\"a\",\"\xED\xA0\xBD\"]";
    let body = [&[0, 1, 3, 255], &packet[..]].concat();
    assert_eq!(usize::from(body[1]) * 10 + usize::from(body[2]), packet.len());
    let conn = wire.with_bytes(post(&sid, "application/octet-stream", &body));
    assert_eq!(wire.answer(conn), (200, "ok".into()));
    assert_eq!(say(&mut wire, &sid, "16:42[\"a\",\"\\ud83d\"]"), (200, "ok".into()));
    assert_eq!(wire.heard(), ["a(\"\u{fffd}\u{fffd}\u{fffd}\")", "a(\"\\ud83d\")"]);
    let (conn, _) = websocket(&mut wire, "");
    wire.put(conn, text("42[\"a\",\"\\ud83d\"]"));
    assert_eq!(wire.heard(), ["a(\"\\ud83d\")"]);
}

/// H-6, H-9: frames of a websocket.
#[test]
fn h6_h9_websocket_frames() {
    let mut wire = wire();
    let (conn, _) = websocket(&mut wire, "");
    emit_binary(&mut wire);
    assert_eq!(wire.said(conn), [BINARY_EVENT, "<[4, 1, 2, 3, 4]>"]);
    wire.put(conn, [text(BINARY_EVENT), frame(0x82, &[4, 9, 8])].concat());
    wire.put(conn, [text(BINARY_EVENT), text("b4CQg=")].concat());
    assert_eq!(wire.heard(), ["a({\"_placeholder\":true,\"num\":0}) [9, 8]"; 2]);
    // Any packet may come as bytes.
    wire.put(conn, frame(0x82, &[2]));
    assert_eq!(wire.said(conn), ["3"]);
    wire.put(conn, frame(0x82, &[1]));
    assert_eq!(wire.heard(), ["transport close"]);

    let mut wire = self::wire();
    let (conn, _) = websocket(&mut wire, "&b64=1");
    emit_binary(&mut wire);
    assert_eq!(wire.said(conn), [BINARY_EVENT, "b4AQIDBA=="]);
}

/// H-9 of a client of today that cannot do binary frames.
#[test]
fn h9_base64_in_revision_4() {
    let mut wire = Wire::new();
    let conn = wire.with_bytes(upgrade("websocket", None).replace("EIO=4", "EIO=4&b64=1"));
    wire.put(conn, text("40"));
    wire.got(conn);
    emit_binary(&mut wire);
    assert_eq!(wire.said(conn), [BINARY_EVENT, "bAQIDBA=="]);
}

/// A broadcast to all forms at once: each is encoded, each gets its own.
#[test]
fn h6_one_room_of_all_forms() {
    let mut wire = wire();
    let (plain, _) = websocket(&mut wire, "");
    let (base64, _) = websocket(&mut wire, "&b64=1");
    let sid = polling(&mut wire, "&b64=1");
    let new = wire.joined();
    let mut publish = Publish {
        namespace: 0,
        target: Target::default(),
        flags: Flags::default(),
        encoded: Default::default(),
    };
    publish.encoded.text = Bytes::from_static(BINARY_EVENT.as_bytes());
    publish.encoded.attachments = vec![Bytes::from_static(&[7])];
    wire.hub.publish(&publish);
    assert_eq!(wire.said(plain), [BINARY_EVENT, "<[4, 7]>"]);
    assert_eq!(wire.said(base64), [BINARY_EVENT, "b4Bw=="]);
    assert_eq!(wire.said(new), [BINARY_EVENT, "<[7]>"]);
    let body = format!("{}:{BINARY_EVENT}6:b4Bw==", BINARY_EVENT.len());
    assert_eq!(poll(&mut wire, &sid), (200, body));
}

/// H-7: the client pings; the server answers, and waits for pingInterval + pingTimeout.
#[test]
fn h7_the_client_pings() {
    let mut wire = wire();
    let (conn, _) = websocket(&mut wire, "");
    let sid = polling(&mut wire, "");
    wire.heard();
    wire.at(44_000);
    assert_eq!(wire.said(conn), [""; 0], "the server does not");
    wire.put(conn, text("2"));
    wire.put(conn, text("2hello"));
    assert_eq!(wire.said(conn), ["3", "3"]);
    assert_eq!(say(&mut wire, &sid, "1:2"), (200, "ok".into()));
    assert_eq!(poll(&mut wire, &sid), (200, "1:3".into()));
    wire.at(88_000);
    assert_eq!(wire.heard(), [""; 0]);
    // Other packets are no ping.
    wire.put(conn, text("42[\"a\"]"));
    assert_eq!(wire.heard(), ["a()"]);
    wire.at(90_000);
    assert_eq!(wire.heard(), ["ping timeout"; 2]);
    assert_eq!(wire.said(conn), ["<close>"]);
    assert_eq!(wire.hub.stats().ping_timeouts, 2);
}

#[test]
fn h7_a_pong_from_the_client_is_an_error() {
    let mut wire = wire();
    let (conn, _) = websocket(&mut wire, "");
    wire.put(conn, text("3"));
    assert_eq!(wire.heard(), ["transport error"]);
    let sid = polling(&mut wire, "");
    wire.heard();
    say(&mut wire, &sid, "1:3");
    assert_eq!(wire.heard(), ["transport error"]);
}

/// D-2, D-3: the upgrade, and what is queued meanwhile.
#[test]
fn d2_d3_upgrade_in_revision_3() {
    for (query, says) in [("", "<[4, 5]>"), ("&b64=1", "b4BQ==")] {
        let mut wire = wire();
        let sid = polling(&mut wire, "&b64=1");
        let parked = wire.with_bytes(get(&format!("{POLLING}&sid={sid}")));
        let conn = wire.with_bytes(upgrade3(Some(&sid), query));
        assert!(wire.got(conn).starts_with(b"HTTP/1.1 101"));
        wire.put(conn, text("2probe"));
        assert_eq!(wire.said(conn), ["3probe"]);
        wire.at(200);
        assert_eq!(wire.answer(parked), (200, "1:6".into()));
        emit_binary(&mut wire);
        wire.put(conn, text("5"));
        // Queued while it was polling, so as text.
        assert_eq!(wire.said(conn), [BINARY_EVENT, "b4AQIDBA=="]);
        let attachment = Bytes::from_static(&[5]);
        let key = wire.members[0];
        wire.hub.emit(key, BINARY_EVENT.as_bytes(), &[attachment], Flags::default());
        assert_eq!(wire.said(conn), [BINARY_EVENT, says]);
        assert_eq!(poll(&mut wire, &sid).0, 400);
    }
}

/// B-7, B-16, B-17: what ends a poll, in this form.
#[test]
fn b7_b16_b17_the_ends_of_polls() {
    let mut wire = wire();
    let sid = polling(&mut wire, "");
    let parked = wire.with_bytes(get(&format!("{POLLING}&sid={sid}")));
    assert_eq!(poll(&mut wire, &sid), (400, String::new()));
    assert_eq!(wire.answer(parked), (200, "1:1".into()));

    let sid = polling(&mut wire, "");
    let key = *wire.members.last().unwrap();
    wire.hub.disconnect(key, true);
    wire.run();
    assert_eq!(poll(&mut wire, &sid), (200, "2:41".into()));
    assert_eq!(poll(&mut wire, &sid), (200, "1:61:1".into()));

    let sid = polling(&mut wire, "");
    let parked = wire.with_bytes(get(&format!("{POLLING}&sid={sid}")));
    assert_eq!(say(&mut wire, &sid, "1:1"), (200, "ok".into()));
    assert_eq!(wire.answer(parked), (200, "1:6".into()));
}

/// H-10: `/` may refuse; H-13: what a refusal looks like.
#[test]
fn h10_h13_refusals() {
    for (data, says) in [
        (None, "44\"not \\\"you\\\"\""),
        (Some("{\"code\":1}"), "44{\"code\":1}"),
        (Some("null"), "44\"not \\\"you\\\"\""),
    ] {
        let mut wire = wire();
        wire.accepts = false;
        let conn = wire.with_bytes(upgrade3(None, ""));
        wire.got(conn);
        wire.hub.refuse_member(wire.members[0], "not \"you\"", data);
        assert_eq!(wire.said(conn), [says]);
        // Its connection stays, and it may ask for another one.
        wire.put(conn, text("40/admin"));
        wire.hub.refuse_member(wire.members[1], "no", data.map(|_| "[1]"));
        let says = data.map_or("44/admin,\"no\"", |_| "44/admin,[1]");
        assert_eq!(wire.said(conn), [says]);
        // J-2: as long as it has joined nothing, it has not for ever.
        wire.at(46_000);
        assert!(wire.is_over(conn));
    }
    let mut wire = wire();
    let (conn, _) = websocket(&mut wire, "");
    wire.put(conn, text("40/random?a=b,"));
    assert_eq!(wire.said(conn), ["44/random,{\"message\":\"Invalid namespace\"}"]);
}

/// H-12, W-18: the query is cut from the namespace of every packet, and is the auth of a CONNECT.
#[test]
fn h12_w18_namespaces_with_a_query() {
    let mut wire = wire();
    let (conn, _) = websocket(&mut wire, "");
    wire.put(conn, text("40/admin?token=a%20b&x=1,{\"ignored\":true}"));
    assert_eq!(wire.heard(), ["connect 1 {\"token\":\"a b\",\"x\":\"1\"}"]);
    assert_eq!(wire.said(conn), ["40/admin,"]);
    wire.put(conn, text("42/admin?any=thing,7[\"a\",1]"));
    wire.put(conn, text("42/admin,[\"b\"]"));
    wire.put(conn, text(&BINARY_EVENT.replace("[\"a", "/admin?q,[\"a")));
    wire.put(conn, frame(0x82, &[4, 1]));
    let binary = "a({\"_placeholder\":true,\"num\":0}) [1]";
    assert_eq!(wire.heard(), ["a(1) #7", "b()", binary]);
    wire.put(conn, text("41/admin?x"));
    assert_eq!(wire.heard(), ["client namespace disconnect"]);
    // Without a query there is no auth, whatever else it sent.
    wire.put(conn, text("40/admin,{\"ignored\":true}"));
    assert_eq!(wire.heard(), ["connect 1 "]);
    // U-9: a client of today has no such thing.
    let conn = wire.joined();
    wire.put(conn, text("40/admin?token=1"));
    assert_eq!(wire.said(conn), ["44/admin?token=1,{\"message\":\"Invalid namespace\"}"]);
}

/// H-11: ids are what the client thinks they are, and address it.
#[test]
fn h11_ids_are_rooms() {
    let mut wire = wire();
    let (conn, sid) = websocket(&mut wire, "");
    wire.put(conn, text("40/admin"));
    let other = wire.joined();
    wire.put(other, text("40/admin,"));
    wire.got(conn);
    wire.got(other);
    let ids: Vec<String> =
        wire.members.iter().map(|key| wire.hub.socket_id(*key).unwrap().to_string()).collect();
    assert_eq!(ids[0], sid);
    assert_eq!(ids[1], format!("/admin#{sid}"));
    assert!(!wire.hub.join(wire.members[0], &ids[0]), "it is there always");
    assert!(!wire.hub.join(wire.members[1], &ids[1]));
    // (namespace, room, except) → who hears of it: the old client, the new one.
    let table = [
        (0, Some(&ids[0]), None, [1, 0]),
        (1, Some(&ids[1]), None, [1, 0]),
        (0, Some(&ids[2]), None, [0, 1]),
        (0, None, Some(&ids[0]), [0, 1]),
        (1, None, Some(&ids[1]), [0, 1]),
        (0, None, Some(&ids[2]), [1, 0]),
        // The id of one namespace is nobody in the other.
        (1, Some(&ids[0]), None, [0, 0]),
        (0, Some(&ids[1]), None, [0, 0]),
        (0, None, Some(&ids[1]), [1, 1]),
    ];
    for (namespace, room, except, heard) in table {
        let names = |name: Option<&String>| name.into_iter().map(|n| n.as_str().into()).collect();
        let target = Target { rooms: names(room), except: names(except), only: None };
        let mut publish =
            Publish { namespace, target, flags: Flags::default(), encoded: Default::default() };
        publish.encoded.text = Bytes::from_static(b"42[1]");
        wire.hub.publish(&publish);
        assert_eq!([wire.said(conn).len(), wire.said(other).len()], heard, "{room:?} {except:?}");
    }
    // The session of a client of today is no room, nor is a sid that was guessed.
    let session = wire.hub.client_id(wire.members[2]).unwrap().to_string();
    let foreign = format!("{}AAAAAAAAAAAA", &sid[..8]);
    for name in [session, foreign, format!("/#{sid}"), format!("#{sid}")] {
        let target =
            Target { rooms: [name.as_str().into()].into_iter().collect(), ..Target::default() };
        assert!(wire.hub.selected(0, &target).is_empty(), "{name}");
    }
}

/// I-14: `/` was joined already.
#[test]
fn h10_a_second_connect_is_refused() {
    let mut wire = wire();
    let (conn, _) = websocket(&mut wire, "");
    wire.put(conn, text("40"));
    assert_eq!(wire.heard(), ["forced close"]);
}

/// W-19, H-18, B-15: what is malformed ends the session; what came before it is delivered.
#[test]
fn w19_h18_malformed_payloads() {
    for bad in ["", "40", "2.0:40", "3:40", "x", "99999999999:40", "2:90", "3:bx0"] {
        let mut wire = wire();
        let sid = polling(&mut wire, "");
        wire.heard();
        let (status, _) = say(&mut wire, &sid, &format!("8:42[\"on\"]{bad}"));
        if bad.is_empty() {
            assert_eq!(status, 200);
            assert_eq!(say(&mut wire, &sid, "").0, 400);
            assert_eq!(wire.heard(), ["on()", "parse error"]);
            continue;
        }
        assert_eq!(status, 400, "{bad}");
        assert_eq!(wire.heard(), ["on()", "parse error"], "{bad}");
    }
    for bad in [&[][..], &[9, 1], &[7]] {
        let mut wire = wire();
        let (conn, _) = websocket(&mut wire, "");
        wire.put(conn, frame(0x82, bad));
        assert_eq!(wire.heard(), ["parse error"], "{bad:?}");
    }
}

/// B-12 stays what it was for clients of today.
#[test]
fn b12_octets_are_of_revision_3_only() {
    let mut wire = wire();
    let sid = wire.joined_polling();
    let request = post(&sid, "application/octet-stream", &[0, 1, 255, b'6']);
    let request = String::from_utf8_lossy(&request).replace("EIO=3", "EIO=4");
    assert_eq!(wire.ask(&request).0, 400);
    assert_eq!(wire.heard(), ["transport error"]);
}

#[test]
fn h_a_long_open_packet_has_its_true_length() {
    let mut wire = wire();
    let conn = wire.with_bytes(get(POLLING));
    let reply = reply(&wire.got(conn));
    let (length, packet) = reply.body.split_once(':').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), packet.encode_utf16().count());
}

/// H-14: `/` is joined at once, so there is no time in which it has to be.
#[test]
fn h14_no_connect_timeout() {
    let mut wire = wire();
    let (conn, _) = websocket(&mut wire, "");
    for second in [20, 40, 60] {
        wire.at(second * 1_000);
        wire.put(conn, text("2"));
    }
    assert_eq!(wire.said(conn), ["3"; 3]);
    assert!(!wire.is_over(conn));
}

/// H-15: text frames are UTF-8 here as in revision 4.
#[test]
fn h15_text_is_utf8() {
    let mut wire = wire();
    let (conn, _) = websocket(&mut wire, "");
    wire.put(conn, text("42[\"é 🎉\"]"));
    assert_eq!(wire.heard().last().map(String::as_str), Some("é 🎉()"));
    wire.put(conn, frame(0x81, b"42[\"\xed\xa0\x80\"]"));
    assert_eq!(wire.said(conn), ["<close 1007>"]);
    assert_eq!(wire.heard(), ["transport error"]);
}

/// H-16: beside clients that may come back, an old one gets a bare `40` and nothing is kept for
/// it. An event is the same bytes for all, so it gets the offset too, as one more argument.
#[test]
fn h16_no_recovery() {
    let mut config = config();
    config.allow_eio3 = true;
    config.recovery = Some(Recovery::default());
    let mut wire = Wire::with(config);
    let (old, _) = websocket(&mut wire, "");
    let (new, _) = wire.websocket(None);
    wire.put(new, text("40"));
    assert!(wire.said(new)[0].contains("\"pid\":\""));
    let offset = wire.hub.next_offset().unwrap();
    let mut event = b"42[\"a\"".to_vec();
    offset.append_to(&mut event);
    event.push(b']');
    let event = String::from_utf8(event).unwrap();
    let flags = Flags { offset: Some(offset), ..Flags::default() };
    wire.publish(event.clone(), flags, Vec::new());
    wire.run();
    assert_eq!(unframe(&wire.got(old)), [event.as_str()]);
    assert_eq!(wire.said(new), [event.as_str()]);
    for (conn, suspended) in [(old, 0), (new, 1)] {
        wire.end(conn, PeerEnd::Reset);
        assert_eq!(wire.hub.gauges().suspended, suspended);
    }
}
