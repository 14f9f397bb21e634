//! Packets of Engine.IO and Socket.IO that are wrong, or right and meant to cost.

use crate::peer::{Frame, Peer, frame, get, post};
use crate::site::{Site, attack, echo, usual};

const PLACEHOLDER: &str = r#"{"_placeholder":true,"num":0}"#;

/// Each packet ends its session, over websocket and over polling.
fn each_closes(site: &Site, packets: &[&str]) {
    for packet in packets {
        let mut peer = site.joined();
        peer.say(packet);
        peer.is_closed_with(1005);
        let query = site.joined_polling();
        site.peer().ask(post(&query, packet)).is(400, "");
        site.peer().ask(get(&query)).is(400, r#"{"code":1,"message":"Session ID unknown"}"#);
    }
    site.bad_packets(2 * packets.len() as u64);
    site.moved("events", 0, |stats| stats.totals.events);
}

/// None of the packets is answered or does harm.
fn each_is_ignored(site: &Site, packets: &[&str]) {
    let mut peer = site.joined();
    for packet in packets {
        peer.say(packet);
        echo(&mut peer, 1);
    }
    let query = site.joined_polling();
    let all = packets.join("\u{1e}");
    site.peer().ask(post(&query, &all)).is(200, "ok");
    site.peer().ask(post(&query, "1")).is(200, "ok");
    site.bad_packets(0);
}

#[test]
fn cve_2024_38355_events_named_like_something_inside() {
    attack(usual, |site| {
        each_is_ignored(
            site,
            &[
                r#"42["error"]"#,
                r#"42["error",{"message":"x"}]"#,
                r#"42["__proto__",1]"#,
                r#"42["constructor"]"#,
                r#"42["close"]"#,
                r#"42["message"]"#,
                r#"42["\u0000"]"#,
                r#"42["\ud800"]"#,
                r#"42[""]"#,
                "42[1]",
                "42[-1e999]",
                "42",
            ],
        );
    });
}

#[test]
fn cve_2024_38355_reserved_events() {
    attack(usual, |site| {
        each_closes(
            site,
            &[
                r#"42["disconnect"]"#,
                r#"42["disconnecting"]"#,
                r#"42["connect"]"#,
                r#"42["connect_error"]"#,
                r#"42["newListener"]"#,
                r#"42["removeListener"]"#,
                r#"42["d\u0069sconnect"]"#,
                &format!(r#"451-["disconnect",{PLACEHOLDER}]"#),
            ],
        );
    });
}

#[test]
fn cve_2023_32695_names_that_are_no_names() {
    attack(usual, |site| {
        each_closes(
            site,
            &[
                r#"42[{"toString":1}]"#,
                r#"42[{"toString":"foo"}]"#,
                "42[null]",
                "42[true]",
                "42[[\"echo\"]]",
                "42[]",
                "42{}",
                "42\"echo\"",
                "42null",
                &format!("451-[{PLACEHOLDER},\"echo\"]"),
            ],
        );
    });
}

#[test]
fn cve_2022_2421_placeholders_that_are_no_index() {
    attack(usual, |site| {
        let nums = ["\"splice\"", "\"0\"", "-1", "1", "0.5", "1e0", "null", "[0]", "{}", "1e99"];
        let packets: Vec<String> = nums
            .iter()
            .map(|num| format!("451-[\"copy\",[{{\"_placeholder\":true,\"num\":{num}}}]]"))
            .collect();
        let mut packets: Vec<&str> = packets.iter().map(String::as_str).collect();
        packets.push(r#"451-["copy",[{"_placeholder":true}]]"#);
        // The last of two equal keys counts, here as in JSON.parse.
        packets.push(r#"451-["copy",[{"_placeholder":true,"num":0,"num":9}]]"#);
        packets.push(r#"451-["copy",[[[{"a":{"_placeholder":true,"num":7}}]]]]"#);
        each_closes(site, &packets);
    });
}

#[test]
fn cve_2026_69185_and_33151_counts_of_attachments() {
    attack(usual, |site| {
        each_closes(
            site,
            &[
                "450-",
                "450-[\"x\"]",
                "460-1[]",
                "4500000000-[\"x\"]",
                "45-[\"x\"]",
                "45[\"x\"]",
                "451[\"x\"]",
                "451e1-[\"x\"]",
                "450x5-[\"x\"]",
                "45 5-[\"x\"]",
                "45-1-[\"x\"]",
                "4511-[\"x\"]",
                "4599999999999999999999999-[\"x\"]",
                // Binary that belongs to nothing.
                "bAQID",
            ],
        );
    });
}

#[test]
fn attachments_that_never_come() {
    let short = |options: &mut corecast::Options| {
        options.max_attachments_bytes = 3_000_000;
    };
    attack(short, |site| {
        let announce = format!("451-[\"copy\",[{PLACEHOLDER}]]");
        // Text instead.
        let mut peer = site.joined();
        peer.say(&announce);
        peer.say("42[\"echo\"]");
        peer.is_closed_with(1005);
        // Another announcement instead.
        let mut peer = site.joined();
        peer.say(&announce);
        peer.say(&announce);
        peer.is_closed_with(1005);
        // More than all of a packet may have.
        let mut peer = site.joined();
        peer.say(&announce.replace("451-", "4510-"));
        for _ in 0..4 {
            peer.send(frame(0x82, &vec![7; 999_999]));
        }
        peer.is_closed_with(1005);
        site.bad_packets(3);
        // Nothing: it costs what was announced, and goes with the connection.
        let mut silent: Vec<Peer> = (0..100).map(|_| site.joined()).collect();
        silent.iter_mut().for_each(|peer| peer.say(&announce));
        site.check_healthy();
        site.bad_packets(3);
    });
}

#[test]
fn ten_attachments_of_full_size_are_served() {
    attack(usual, |site| {
        let mut peer = site.joined();
        let all: Vec<String> =
            (0..10).map(|num| PLACEHOLDER.replace("0}", &format!("{num}}}"))).collect();
        peer.say(&format!("4510-1[\"echo\",{}]", all.join(",")));
        let large = vec![3; 1_000_000];
        (0..10).for_each(|_| peer.send(frame(0x82, &large)));
        assert_eq!(peer.text(), format!("4610-1[{}]", all.join(",")));
        (0..10).for_each(|_| assert!(peer.frame() == Frame::Binary(large.clone())));
        peer.say("4511-[\"x\"]");
        peer.is_closed_with(1005);
        site.bad_packets(1);
    });
}

#[test]
fn one_attachment_named_thirty_thousand_times() {
    attack(usual, |site| {
        let before = crate::frames::resident_bytes();
        let mut peer = site.joined();
        let many = vec![PLACEHOLDER; 30_000].join(",");
        let large = vec![9; 1_000_000];
        // As it is, and read and written by the application.
        for (event, answer) in [("1[\"echo\",", "461-1["), ("[\"copy\",", "451-[\"copy\",")] {
            peer.say(&format!("451-{event}[{many}]]"));
            peer.send(frame(0x82, &large));
            assert!(peer.text() == format!("{answer}[{many}]]"));
            assert!(peer.frame() == Frame::Binary(large.clone()));
        }
        echo(&mut peer, 1);
        let grown = crate::frames::resident_bytes().saturating_sub(before);
        assert!(grown < 100 << 20, "{grown} bytes");
    });
}

#[test]
fn a_hundred_thousand_brackets() {
    attack(usual, |site| {
        let arrays = format!("42[\"echo\",{}", "[".repeat(100_000));
        let objects = format!("42[\"echo\",{}", "{\"a\":".repeat(100_000));
        let whole = format!("42[\"echo\",{}{}]", "[".repeat(5_000), "]".repeat(5_000));
        let connect = format!("40/n1,{{\"a\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
        let ack = format!("430[{}{}]", "[".repeat(5_000), "]".repeat(5_000));
        let binary = format!("451-[\"copy\",{}{PLACEHOLDER}", "[".repeat(100_000));
        each_closes(site, &[&arrays, &objects, &whole, &connect, &ack, &binary]);
        let mut peer = site.joined();
        let deep = format!("{}{}", "[".repeat(127), "]".repeat(127));
        peer.say(&format!("421[\"echo\",{deep}]"));
        assert_eq!(peer.text(), format!("431[{deep}]"));
    });
}

#[test]
fn huge_ack_ids_and_answers_to_questions_nobody_asked() {
    attack(usual, |site| {
        let digits = "9".repeat(100_000);
        let event = format!("42{digits}[\"echo\"]");
        let ack = format!("43{digits}[]");
        each_closes(
            site,
            &[
                &event,
                &ack,
                "429007199254740992[\"echo\"]",
                "4218446744073709551616[\"echo\"]",
                "421 2[\"echo\"]",
                "42-1[\"echo\"]",
                "430{}",
                "43x",
            ],
        );
        let mut peer = site.joined();
        peer.say("429007199254740991[\"echo\"]");
        assert_eq!(peer.text(), "439007199254740991[]");
        (0..1_000).for_each(|id| peer.say(&format!("43{id}[\"nobody asked\"]")));
        echo(&mut peer, 1);
    });
}

#[test]
fn packets_that_do_not_fit_the_state() {
    attack(usual, |site| {
        each_closes(
            site,
            &[
                "40",
                "42/n1,[\"echo\"]",
                "42/nowhere,[\"echo\"]",
                "41/n1,",
                "43/n1,1[]",
                "44{\"message\":\"x\"}",
                "44/n1,\"x\"",
                "40/n1,null",
                "40/n1,[]",
                "40/n1,\"x\"",
                "41/n1,{}",
                "47",
                "4x",
                "4",
                "42[\"echo\"",
                "42[\"echo\"]]",
                "42[\"echo\",]",
                "42[\"\u{1}\"]",
                "42[\"echo\",NaN]",
            ],
        );
    });
}

#[test]
fn cve_2020_36049_the_largest_packets() {
    attack(usual, |site| {
        let mut peer = site.joined();
        // One large string, escapes only, numbers only, empty arrays only.
        for argument in [
            format!("\"{}\"", "x".repeat(999_900)),
            format!("\"{}\"", "\\u0041".repeat(160_000)),
            vec!["1"; 490_000].join(","),
            vec!["[]"; 330_000].join(","),
            format!("{{{}}}", vec!["\"__proto__\":{}"; 60_000].join(",")),
        ] {
            peer.say(&format!("421[\"echo\",{argument}]"));
            assert!(peer.text() == format!("431[{argument}]"));
        }
        // And as many packets as fit into a body.
        let query = site.joined_polling();
        let body = "42[1]\u{1e}".repeat(166_000) + "6";
        site.peer().ask(post(&query, &body)).is(200, "ok");
        site.peer().ask(post(&query, "1")).is(200, "ok");
        site.bad_packets(0);
    });
}

#[test]
fn thousands_of_namespaces_on_one_connection() {
    let few = |options: &mut corecast::Options| options.max_namespaces = 5;
    attack(few, |site| {
        let mut peer = site.joined();
        for number in 0..3_000 {
            peer.say(&format!("40/x{number}"));
            let refused = format!("44/x{number},{{\"message\":\"Invalid namespace\"}}");
            assert_eq!(peer.text(), refused);
        }
        for number in 0..4 {
            peer.say(&format!("40/n{number}"));
            assert!(peer.text().starts_with(&format!("40/n{number},{{\"sid\":")));
        }
        peer.say("40/n4");
        assert_eq!(peer.text(), "44/n4,{\"message\":\"Too many namespaces\"}");
        for _ in 0..1_000 {
            peer.say("41/n0,");
            peer.say("40/n0");
            assert!(peer.text().starts_with("40/n0,"));
        }
        echo(&mut peer, 1);
        site.wait("the namespaces", |stats| stats.gauges.sockets == 4 + 5);
        site.bad_packets(0);
    });
}

#[test]
fn namespaces_by_a_peer_that_does_not_read() {
    attack(usual, |site| {
        let mut peer = site.joined();
        // Of different names: to ask for one twice before the answer ends the connection (I-14).
        let long = |n| crate::peer::text(&format!("40/{n}{}", "x".repeat(1_000)));
        let long: Vec<u8> = (0..100).flat_map(long).collect();
        let sent = (0..10_000).take_while(|_| peer.push(&long).is_ok()).count();
        assert!(sent < 10_000, "the server reads on");
        site.moved("slow readers", 1, |stats| stats.totals.slow_closed);
        // In one body: the answers are bounded as well.
        let query = site.joined_polling();
        let body: Vec<String> = (0..100_000).map(|n| format!("40/{n}")).collect();
        let body = body.join("\u{1e}");
        let _ = site.peer().ask(post(&query, &body));
        site.moved("slow readers", 2, |stats| stats.totals.slow_closed);
    });
}

#[test]
fn events_for_a_namespace_whose_middleware_never_answers() {
    attack(usual, |site| {
        let mut peer = site.joined();
        peer.say("40/never");
        (0..32).for_each(|_| peer.say("42/never,[\"echo\"]"));
        echo(&mut peer, 1);
        peer.say("42/never,[\"echo\"]");
        peer.is_closed_with(1005);
        site.bad_packets(1);
        // By bytes, too.
        let mut peer = site.joined();
        peer.say("40/never");
        let large = format!("42/never,[\"echo\",\"{}\"]", "x".repeat(999_900));
        (0..12).for_each(|_| drop(peer.push(crate::peer::text(&large))));
        peer.is_closed_with(1005);
        site.bad_packets(2);
    });
}

#[test]
fn handlers_that_never_finish() {
    let few = |options: &mut corecast::Options| options.max_pending_handlers = 10;
    attack(few, |site| {
        let mut peer = site.joined();
        (0..10).for_each(|_| peer.say("42[\"wait\"]"));
        echo(&mut peer, 1);
        peer.say("42[\"wait\"]");
        peer.is_closed_with(1005);
        assert_eq!(site.gone(), 1);
    });
}

#[test]
fn rooms_with_names_of_the_clients_choice() {
    let few = |options: &mut corecast::Options| options.max_rooms = 50;
    attack(few, |site| {
        let mut peer = site.joined();
        let names: Vec<String> = (0..2_000).map(|n| format!("\"room {n}\"")).collect();
        peer.say(&format!("421[\"join\",{}]", names.join(",")));
        assert_eq!(peer.text(), "431[51]");
        site.wait("the rooms", |stats| stats.gauges.rooms == 50);
        let strange =
            ["\"__proto__\"".into(), "\"\"".into(), format!("\"{}\"", "x".repeat(900_000))];
        let mut other = site.joined();
        other.say(&format!("421[\"join\",{}]", strange.join(",")));
        assert_eq!(other.text(), "431[4]");
        site.wait("the rooms", |stats| stats.gauges.rooms == 53);
    });
}
