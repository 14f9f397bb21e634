//! Sessions that are begun and not led, ended and not let go.

use std::time::{Duration, Instant};

use crate::peer::{PATIENCE, POLLING, Peer, get, post};
use crate::site::{attack, echo, usual};

const UNKNOWN_SESSION: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

fn short(options: &mut corecast::Options) {
    options.connect_timeout = Duration::from_millis(300);
    options.upgrade_timeout = Duration::from_millis(300);
}

#[test]
fn sessions_that_never_connect() {
    attack(short, |site| {
        let mut sockets: Vec<Peer> = (0..50).map(|_| site.opened()).collect();
        // To be refused is no connection either.
        sockets[0].say("40/nowhere");
        assert!(sockets[0].text().starts_with("44/nowhere,"));
        let sids: Vec<String> = (0..50).map(|_| site.polling()).collect();
        let query = format!("{POLLING}&sid={}", sids[0]);
        let mut parked = site.peer();
        parked.send(get(&query));
        parked.response().is(200, "1");
        sockets.iter_mut().for_each(|peer| peer.is_closed_with(1005));
        site.wait("the sessions", |stats| stats.gauges.sessions == 4);
        site.peer().ask(get(&query)).is(400, UNKNOWN_SESSION);
        // Those who have connected stay.
        let mut peer = site.joined();
        std::thread::sleep(Duration::from_millis(500));
        echo(&mut peer, 1);
    });
}

#[test]
fn garbage_is_no_sign_of_life() {
    let pings = |options: &mut corecast::Options| {
        options.ping_interval = Duration::from_millis(200);
        options.ping_timeout = Duration::from_secs(2);
    };
    attack(pings, |site| {
        let mut peer = site.joined();
        let query = site.joined_polling();
        let start = Instant::now();
        let (mut open, mut polling) = (true, true);
        // Packets without meaning keep a session for a second timeout, and no longer.
        while open || polling {
            assert!(start.elapsed() < PATIENCE, "they live on");
            open = open && peer.push(crate::peer::text("6")).is_ok();
            open = open && peer.push(crate::peer::frame(0x89, b"")).is_ok();
            polling = polling && site.peer().ask(post(&query, "6")).status == 200;
            site.check_healthy();
            std::thread::sleep(Duration::from_millis(20));
        }
        site.moved("ping timeouts", 2, |stats| stats.totals.ping_timeouts);
    });
}

#[test]
fn gets_and_posts_that_are_given_up() {
    attack(usual, |site| {
        for round in 0..100 {
            let query = site.joined_polling();
            let mut peer = site.peer();
            match round % 4 {
                0 => peer.send(get(&query)),
                1 => peer.send(post(&query, "").replace("Content-Length: 0", "Content-Length: 9")),
                2 => peer.send(&get(&query)[..30]),
                _ => peer.send(get(&query) + "POST /"),
            }
            let is_seen = round % 4 < 2 && round % 8 >= 4;
            if round % 8 < 4 {
                peer.reset();
            } else {
                drop(peer);
            }
            // A reset may overtake the request, and behind bytes that wait the end is not seen.
            if !is_seen {
                let _ = site.peer().ask(post(&query, "1"));
            }
        }
        // What a shard says of itself may be a tenth of a second old.
        site.wait("100 to have gone", |_| site.gone() == 100);
        site.is_quiet();
    });
}

#[test]
fn two_at_a_time() {
    attack(usual, |site| {
        let query = site.joined_polling();
        let mut first = site.peer();
        first.send(get(&query));
        // Parked, or the second one would be.
        site.peer().ask(post(&query, "6")).is(200, "ok");
        let mut second = site.peer();
        second.send(get(&query));
        let statuses = [first.response(), second.response()].map(|it| (it.status, it.body));
        let wanted = [(200, "1".to_string()), (400, String::new())];
        assert!(statuses == wanted || statuses[1] == wanted[0] && statuses[0] == wanted[1]);
        let query = site.joined_polling();
        let half = post(&query, "").replace("Content-Length: 0", "Content-Length: 9");
        let (mut first, mut second) = (site.peer(), site.peer());
        first.send(&half);
        second.send(&half);
        // One of them is refused and the other one's connection ends with the session.
        let answers = [first.try_response(), second.try_response()];
        assert_eq!(answers.iter().flatten().map(|it| it.status).collect::<Vec<_>>(), [400]);
        site.bad_requests(2);
    });
}

#[test]
fn probes_that_never_upgrade() {
    attack(short, |site| {
        let queries: Vec<String> = (0..50).map(|_| site.joined_polling()).collect();
        let mut probes = Vec::new();
        for (number, query) in queries.iter().enumerate() {
            let mut probe = site.peer();
            probe.upgrade(&query.replace("polling", "websocket"));
            if number % 2 == 0 {
                probe.say("2probe");
                assert_eq!(probe.text(), "3probe");
            }
            probes.push(probe);
        }
        probes.iter_mut().for_each(|probe| probe.is_closed_with(1005));
        for query in &queries {
            site.peer().ask(post(query, "421[\"echo\",7]")).is(200, "ok");
            site.peer().ask(get(query)).is(200, "431[7]");
            site.peer().ask(post(query, "1")).is(200, "ok");
        }
    });
}

#[test]
fn one_session_upgrades_over_and_over() {
    attack(usual, |site| {
        let query = site.joined_polling();
        let websocket = query.replace("polling", "websocket");
        for round in 0..200 {
            let mut probe = site.peer();
            probe.upgrade(&websocket);
            let packet = ["2probe", "5", "4", "2", "40", "1"][round % 6];
            probe.say(packet);
            match packet {
                "2probe" => {
                    assert_eq!(probe.text(), "3probe");
                    probe.say("6");
                    probe.is_closed_with(1005);
                }
                _ => probe.is_closed_with(1005),
            }
        }
        let mut probe = site.peer();
        probe.upgrade(&websocket);
        probe.say("2probe");
        assert_eq!(probe.text(), "3probe");
        probe.say("5");
        echo(&mut probe, 1);
    });
}

#[test]
fn one_connection_opens_all_sessions_there_may_be() {
    let few = |options: &mut corecast::Options| {
        options.max_connections = 50;
        options.connect_timeout = Duration::from_millis(500);
    };
    attack(few, |site| {
        let mut peer = site.peer();
        let mut opened = 0;
        while peer.ask(get(POLLING)).status == 200 {
            opened += 1;
            assert!(opened <= 50, "sessions without end");
        }
        peer.is_closed();
        site.check_healthy();
        site.bad_requests(1);
        site.wait("the sessions to go", |stats| stats.gauges.sessions == 4);
    });
}

#[test]
fn more_connections_than_there_may_be() {
    let few = |options: &mut corecast::Options| options.max_connections = 20;
    attack(few, |site| {
        let mut peers: Vec<Peer> = (0..100).map(|_| site.peer()).collect();
        let stats =
            site.wait("refusals", |stats| stats.totals.refused + stats.totals.accepted == 4 + 100);
        assert!(stats.totals.refused >= 100 - 20 * site.shards as u64, "{stats:?}");
        site.check_healthy();
        peers.clear();
        site.is_quiet();
    });
}

#[test]
fn requests_that_always_arrive_at_the_wrong_shard() {
    attack(usual, |site| {
        let shards = site.shards as u16;
        let mut peer = site.peer();
        let count = 500;
        for round in 0..count {
            // The first characters of an id are its shard: "AAAA" and "AAEA".
            let sid = if round % 2 == 0 { "AAAAAAAAAAAAAAAAAAAA" } else { "AAEAAAAAAAAAAAAAAAAA" };
            peer.ask(get(&format!("{POLLING}&sid={sid}"))).is(400, UNKNOWN_SESSION);
        }
        site.bad_requests(count);
        let migrated = site.stats().totals.migrated;
        assert!(if shards == 1 { migrated == 0 } else { migrated >= count - 1 }, "{migrated}");
        // Many at a time, some of which go away on the way.
        let mut peers: Vec<Peer> = (0..300).map(|_| site.peer()).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            let sid = if number % 2 == 0 { "AAAAAAAAAAAAAAAAAAAA" } else { "AAEAAAAAAAAAAAAAAAAA" };
            peer.send(get(&format!("{POLLING}&sid={sid}")).repeat(3));
        }
        for (number, mut peer) in peers.into_iter().enumerate() {
            match number % 3 {
                0 => peer.reset(),
                1 => drop(peer),
                _ => (0..3).for_each(|_| peer.response().is(400, UNKNOWN_SESSION)),
            }
        }
        // A shard that there is not.
        site.peer()
            .ask(get(&format!("{POLLING}&sid=____AAAAAAAAAAAAAAAA")))
            .is(400, UNKNOWN_SESSION);
        drop(peer);
        site.is_quiet();
    });
}

#[test]
fn a_websocket_whose_peer_goes_without_a_word() {
    attack(usual, |site| {
        for round in 0..100 {
            let mut peer = site.joined();
            match round % 4 {
                0 => peer.stream.shutdown(std::net::Shutdown::Write).unwrap(),
                1 => {
                    peer.reset();
                    continue;
                }
                2 => peer.send(crate::peer::header(0x81, 100)),
                _ => peer.say("42[\"flood\",10,10000]"),
            }
            drop(peer);
        }
        site.is_quiet();
        assert_eq!(site.gone(), 100);
    });
}
