//! What clients have begun and not finished, of a whole shard: CVE-2020-36048 at many connections.

use corecast::hub::Config;

use crate::wire::{Wire, config, frame, get, post, text};

/// Bytes that a shard may hold of it.
const BOUND: usize = 200_000;
/// The beginning of a text that goes on.
const BEGUN: u8 = 0x01;

fn wire() -> Wire {
    Wire::with(Config { shard_incoming_bytes_max: BOUND, connections_max: 1_000, ..config() })
}

/// What is held, which is never above the bound, and is what there is.
fn held(wire: &Wire) -> usize {
    let (gauges, held) = (wire.hub.gauges(), wire.hub.held());
    assert_eq!(gauges.incoming_bytes, held.incoming());
    assert!(gauges.incoming_bytes <= BOUND, "{gauges:?}");
    gauges.incoming_bytes
}

#[test]
fn messages_that_have_begun_share_memory() {
    let mut wire = wire();
    let conns: Vec<u32> = (0..60).map(|_| wire.joined()).collect();
    let (crowd, small) = (&conns[1..], conns[0]);
    let event = "42[\"msg\"".to_owned();
    wire.put(small, frame(BEGUN, event.as_bytes()));
    for conn in crowd {
        wire.put(*conn, frame(BEGUN, &[b'x'; 10_000]));
        held(&wire);
    }
    let refused: Vec<u32> =
        crowd.iter().copied().filter(|conn| wire.said(*conn) == ["<close 1013>"]).collect();
    assert!((35..55).contains(&refused.len()), "{refused:?}");
    assert_eq!(wire.hub.stats().incoming_refused, refused.len() as u64);
    assert_eq!(wire.heard(), vec!["transport error"; refused.len()]);
    // Whoever holds little is let through.
    wire.put(small, frame(0x80, b"]"));
    assert_eq!(wire.heard(), ["msg()"]);
    for conn in crowd.iter().filter(|conn| !refused.contains(conn)) {
        wire.put(*conn, frame(0x88, &[]));
    }
    assert_eq!(held(&wire), 0, "all have gone or are done");
    let conn = wire.joined();
    wire.put(conn, frame(BEGUN, &[b'x'; 10_000]));
    assert!(wire.said(conn).is_empty(), "there is room again");
    assert!(held(&wire) >= 10_000);
}

#[test]
fn bodies_share_memory_too() {
    let mut wire = wire();
    let sids: Vec<String> = (0..60).map(|_| wire.joined_polling()).collect();
    let body = format!("42[\"msg\",\"{}\"]", "x".repeat(10_000));
    let conns: Vec<u32> = sids
        .iter()
        .map(|sid| {
            let request = post(sid, &body);
            let conn = wire.with_bytes(&request[..request.len() - 1]);
            held(&wire);
            conn
        })
        .collect();
    let mut refused = 0;
    for (sid, conn) in sids.iter().zip(conns) {
        if wire.is_over(conn) {
            assert_eq!(wire.answer(conn), (503, String::new()));
            refused += 1;
        } else {
            wire.put(conn, "]");
            assert_eq!(wire.answer(conn), (200, "ok".into()));
        }
        // It costs the request and not the session.
        assert_eq!(wire.post(sid, "42[\"small\"]"), (200, "ok".into()));
    }
    assert!((35..55).contains(&refused), "{refused}");
    assert_eq!(wire.hub.stats().incoming_refused, refused);
    let heard = wire.heard();
    let count = |event: &str| heard.iter().filter(|heard| heard.starts_with(event)).count();
    assert_eq!((count("msg"), count("small")), (60 - refused as usize, 60), "{heard:?}");
    assert_eq!(held(&wire), 0);
}

/// What is read behind a request in hand: that one is answered, and is the last where there is no
/// room for more.
#[test]
fn requests_that_follow_one_share_memory_too() {
    let mut wire = wire();
    let sids: Vec<String> = (0..60).map(|_| wire.joined_polling()).collect();
    let body = format!("42[\"msg\",\"{}\"]", "x".repeat(10_000));
    let begun = |sid: &String| {
        let requests = get(&format!("transport=polling&sid={sid}")) + &post(sid, &body);
        requests[..requests.len() - 1].to_owned()
    };
    let mut conns = Vec::new();
    for sid in &sids {
        conns.push(wire.with_bytes(begun(sid)));
        held(&wire);
    }
    let refused = wire.hub.stats().incoming_refused;
    assert!((35..55).contains(&refused), "{refused}");
    let mut over = 0;
    for (member, conn) in conns.into_iter().enumerate() {
        assert!(!wire.is_over(conn));
        assert!(wire.emit(member, "42[\"x\"]"));
        assert_eq!(wire.answer(conn), (200, "42[\"x\"]".into()));
        if wire.is_over(conn) {
            over += 1;
        } else {
            wire.put(conn, "]");
            assert_eq!(wire.answer(conn), (200, "ok".into()));
        }
    }
    assert_eq!(over, refused);
    assert_eq!(held(&wire), 0);
}

#[test]
fn packets_that_wait_for_attachments_share_memory() {
    let mut wire = wire();
    let conns: Vec<u32> = (0..60).map(|_| wire.joined()).collect();
    let begun = format!("452-[\"msg\",\"{}\"]", "x".repeat(5_000));
    for conn in &conns {
        wire.put(*conn, text(&begun));
        wire.put(*conn, frame(0x82, &[7; 5_000]));
        held(&wire);
    }
    let stats = wire.hub.stats();
    assert!((30..55).contains(&stats.incoming_refused), "{stats:?}");
    let open = conns.iter().filter(|conn| !wire.is_over(**conn)).count();
    assert_eq!(open as u64, 60 - stats.incoming_refused);
    for conn in &conns {
        wire.put(*conn, frame(0x82, &[7; 10]));
    }
    assert_eq!(held(&wire), 0);
}

/// Who holds most has to go, and not who comes next: those that fall silent shut nobody out.
#[test]
fn whoever_holds_most_goes_first() {
    let mut wire = wire();
    let large = wire.joined();
    let crowd: Vec<u32> = (0..25).map(|_| wire.joined()).collect();
    wire.put(large, frame(BEGUN, &[b'x'; 50_000]));
    for conn in &crowd {
        wire.put(*conn, frame(BEGUN, &[b'x'; 7_000]));
        held(&wire);
    }
    assert_eq!(wire.said(large), ["<close 1013>"]);
    assert!(crowd.iter().all(|conn| wire.said(*conn).is_empty()));
    assert_eq!(wire.heard(), ["transport error"]);
    // All are silent with as much as there may be, and others come and go.
    let more: Vec<u32> = (0..40).map(|_| wire.joined()).collect();
    more.iter().for_each(|conn| wire.put(*conn, frame(BEGUN, &[b'x'; 4_500])));
    wire.heard();
    for _ in 0..50 {
        let conn = wire.joined();
        wire.put(conn, frame(BEGUN, format!("42[\"msg\",\"{}", "x".repeat(3_000)).as_bytes()));
        wire.put(conn, frame(0x80, b"\"]"));
        assert!(wire.said(conn).is_empty());
        assert!(wire.heard().last().is_some_and(|heard| heard.starts_with("msg")));
        held(&wire);
    }
}

/// What clients say with CONNECT is kept as long as they stay, and what they send before its answer
/// until then: all of a shard's share the memory, but for 4 KiB of each.
#[test]
fn what_is_kept_with_sockets_shares_it_as_well() {
    let mut wire = wire();
    let small = format!("40{{\"token\":\"{}\"}}", "x".repeat(2_000));
    let long = format!("40{{\"token\":\"{}\"}}", "x".repeat(20_000));
    let crowd: Vec<u32> = (0..200).map(|_| wire.websocket(None).0).collect();
    for conn in &crowd {
        wire.put(*conn, text(&small));
    }
    assert_eq!(held(&wire), 0, "tokens are nothing of note");
    let (patient, _) = wire.websocket(None);
    wire.accepts = false;
    wire.put(patient, text("40"));
    let member = *wire.members.last().unwrap();
    wire.put(patient, text(&format!("42[\"early\",\"{}\"]", "x".repeat(10_000))));
    assert!((5_000..11_000).contains(&held(&wire)));
    wire.accepts = true;
    let greedy: Vec<u32> = (0..30).map(|_| wire.websocket(None).0).collect();
    wire.heard();
    for conn in &greedy {
        wire.put(*conn, text(&long));
        held(&wire);
    }
    let refused = greedy.iter().filter(|conn| wire.said(**conn).contains(&"<close 1013>".into()));
    let refused = refused.count();
    assert!((15..25).contains(&refused), "{refused}");
    assert_eq!(wire.hub.stats().incoming_refused, refused as u64);
    // Who holds little has lost nothing, and an answer frees what waited for it.
    let before = held(&wire);
    wire.heard();
    assert!(wire.hub.accept_member(member));
    wire.run();
    assert!(wire.heard()[0].starts_with("early("));
    assert!((5_000..11_000).contains(&(before - held(&wire))));
    for conn in greedy.iter().filter(|conn| !wire.is_over(**conn)).copied().collect::<Vec<_>>() {
        wire.put(conn, frame(0x88, &[]));
    }
    assert_eq!(held(&wire), 0);
    assert_eq!(wire.hub.gauges().sockets, 201);
}
