//! Namespaces that are not known when a client asks for them (J-4, K.2).

use corecast::hub::{Arguments, Config, PeerEnd, Target, Traits, UNKNOWN_NAME_MAX};

use crate::wire::{Wire, config, text};

#[test]
fn j4_an_unknown_namespace_is_asked_about_and_joined() {
    let mut wire = Wire::new();
    let conn = wire.joined();
    wire.put(conn, text("40/child-7,{\"a\":1}"));
    assert!(wire.said(conn)[0].starts_with("40/child-7,{\"sid\":\""));
    assert_eq!(wire.heard(), ["unknown /child-7", "connect 7 {\"a\":1}"]);
    // The next one finds it known.
    let other = wire.joined();
    wire.put(other, text("40/child-7,"));
    assert_eq!(wire.heard(), ["connect 7 "]);
    assert_eq!(wire.hub.gauges().namespaces, 1);
    wire.put(other, text("42/child-7,[\"x\",1]"));
    assert_eq!(wire.heard(), ["x(1)"]);
}

#[test]
fn k2_a_namespace_that_nobody_is_left_in_is_reported_and_forgotten() {
    let mut wire = Wire::new();
    let (first, second) = (wire.joined(), wire.joined());
    for conn in [first, second] {
        wire.put(conn, text("40/child-7,"));
    }
    wire.heard();
    let member = *wire.members.last().unwrap();
    assert!(wire.hub.join(member, "room"));
    wire.put(first, text("41/child-7,"));
    assert!(!wire.hub.forget_namespace(7), "somebody is in it");
    wire.end(second, PeerEnd::Eof);
    let heard = wire.heard();
    assert_eq!(heard.last().unwrap(), "empty 7", "{heard:?}");
    assert!(wire.hub.forget_namespace(7) && wire.hub.namespace_id("/child-7").is_none());
    assert_eq!((wire.hub.gauges().namespaces, wire.hub.gauges().rooms), (0, 0));
    wire.put(first, text("40/child-7,"));
    assert_eq!(wire.heard(), ["unknown /child-7", "connect 7 "]);
}

/// W-22: what comes before the answer waits, as in a known namespace; W-16: asking twice does not.
#[test]
fn w16_w22_packets_before_the_answer() {
    let mut wire = Wire::new();
    wire.decides_later = true;
    let (conn, _) = wire.websocket(None);
    wire.put(conn, text("40/later,"));
    wire.put(conn, text("42/later,[\"early\"]"));
    assert_eq!(wire.heard(), ["unknown /later"]);
    let id = wire.hub.add_namespace("/later");
    assert!(!wire.hub.accept_member(wire.members[0]), "it is in no namespace yet");
    assert!(wire.hub.place_member(wire.members[0], id));
    assert!(!wire.hub.place_member(wire.members[0], id), "once");
    assert!(wire.said(conn)[0].starts_with("40/later,{"));
    assert_eq!(wire.heard(), [&*format!("connect {id} "), "early()"]);
    let (conn, _) = wire.websocket(None);
    wire.put(conn, text("40/never,"));
    wire.put(conn, text("40/never,"));
    assert_eq!(wire.said(conn), ["<close>"]);
    assert_eq!(wire.heard(), ["unknown /never", "aborted"]);
    assert!(!wire.hub.place_member(*wire.members.last().unwrap(), id), "it has gone");
    assert_eq!(wire.hub.gauges().sockets, 1);
}

#[test]
fn j4_questions_are_bounded_in_count_and_bytes() {
    let mut wire = Wire::with(Config { namespaces_max: 3, ..config() });
    wire.decides_later = true;
    let (conn, _) = wire.websocket(None);
    let long = format!("/{}", "x".repeat(UNKNOWN_NAME_MAX));
    wire.put(conn, text(&format!("40{long},")));
    let refusal = format!("44{long},{{\"message\":\"Invalid namespace\"}}");
    assert_eq!((wire.said(conn), wire.heard()), (vec![refusal], vec![]));
    for n in 0..4 {
        wire.put(conn, text(&format!("40/n{n},")));
    }
    assert_eq!(wire.said(conn), ["44/n3,{\"message\":\"Too many namespaces\"}"]);
    assert_eq!(wire.heard(), ["unknown /n0", "unknown /n1", "unknown /n2"]);
    // Nobody finds a name that was not decided about.
    assert!(wire.hub.namespace_id("/n0").is_none());
    wire.end(conn, PeerEnd::Reset);
    assert_eq!(wire.heard(), ["aborted"; 3]);
    assert_eq!(wire.hub.gauges().sockets, 0);
}

/// Create, join, leave, delete, with the rooms of the sockets' own ids.
#[test]
fn l1_rooms_are_reported_where_somebody_asks() {
    let mut wire = Wire::new();
    wire.traits = Traits { reports_rooms: true, ..Traits::default() };
    let (first, second) = (wire.joined(), wire.joined());
    let silent = wire.members[0];
    assert!(wire.hub.join(silent, "room") && wire.hub.leave(silent, "room"));
    assert_eq!(wire.heard(), [""; 0], "nobody has asked in this namespace");
    wire.put(first, text("40/child-7,"));
    wire.put(second, text("40/child-7,"));
    let ids: Vec<String> = wire.members[2..]
        .iter()
        .map(|member| wire.hub.socket_id(*member).unwrap().to_string())
        .collect();
    let [a, b] = &ids[..] else { panic!("{ids:?}") };
    let own = |id: &str| [format!("create {id}"), format!("join {id} {id}")];
    let [create_a, join_a] = own(a);
    let [create_b, join_b] = own(b);
    let asked = ["unknown /child-7".into(), "connect 7 ".to_string()];
    let expected = [asked[0].clone(), asked[1].clone(), create_a, join_a, asked[1].clone()];
    assert_eq!(wire.heard(), [&expected[..], &[create_b, join_b]].concat());
    let (one, two) = (wire.members[2], wire.members[3]);
    assert!(wire.hub.join(one, "room") && !wire.hub.join(one, "room"));
    assert!(!wire.hub.join(one, a), "it is there already");
    assert!(wire.hub.join(two, "room"));
    assert!(wire.hub.leave(one, "room") && !wire.hub.leave(one, "room"));
    wire.run();
    let expected = [
        "create room".into(),
        format!("join room {a}"),
        format!("join room {b}"),
        format!("leave room {a}"),
    ];
    assert_eq!(wire.heard(), expected);
    wire.end(second, PeerEnd::Eof);
    let expected = [
        "transport close".to_string(),
        "transport close".into(),
        format!("leave {b} {b}"),
        format!("delete {b}"),
        format!("leave room {b}"),
        "delete room".into(),
    ];
    assert_eq!(wire.heard(), expected);
}

#[test]
fn k3_what_is_sent_is_reported_for_those_who_are_watched() {
    let mut wire = Wire::new();
    let conns = [wire.joined(), wire.joined()];
    let event = Arguments { name: "x".into(), json: "1".into(), ..Arguments::default() };
    let all = Target::default();
    wire.hub.report_published(0, &all, &event);
    assert_eq!(wire.heard(), [""; 0]);
    let watched = wire.members[1];
    wire.hub.watch_sent(watched, true);
    wire.hub.watch_sent(watched, true);
    wire.hub.report_published(0, &all, &event);
    wire.hub.report_published(0, &Target { rooms: ["r".into()].into(), ..all.clone() }, &event);
    wire.hub.report_sent(wire.members[0], &event);
    wire.run();
    assert_eq!(wire.heard(), [format!("sent {} x(1)", watched.index)]);
    wire.end(conns[1], PeerEnd::Eof);
    wire.heard();
    wire.hub.report_published(0, &all, &event);
    wire.run();
    assert_eq!(wire.heard(), [""; 0]);
}
