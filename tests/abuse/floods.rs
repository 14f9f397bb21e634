//! Much of something, and peers that do not read what they asked for.

use std::time::Duration;

use corecast::SlowReader;

use crate::frames::resident_bytes;
use crate::peer::{Frame, POLLING, Peer, WEBSOCKET, get, post, upgrade};
use crate::site::{attack, echo, usual};

/// Sessions that were begun and left go soon.
fn short(options: &mut corecast::Options) {
    options.connect_timeout = Duration::from_millis(500);
}

#[test]
fn connections_that_are_opened_and_reset_at_once() {
    attack(short, |site| {
        let upgrade = upgrade(WEBSOCKET);
        for round in 0..1_500 {
            let mut peer = site.peer();
            let bytes = match round % 5 {
                0 => "",
                1 => "GET ",
                2 => &upgrade[..upgrade.len() / 2],
                3 => &upgrade,
                _ => "\0",
            };
            let _ = peer.push(bytes);
            peer.reset();
            if round % 100 == 0 {
                site.check_healthy();
            }
        }
        site.is_quiet();
    });
}

#[test]
fn a_thousand_connections_reset_together() {
    attack(short, |site| {
        for _ in 0..2 {
            let peers: Vec<Peer> = (0..1_000)
                .map(|number| {
                    let mut peer = site.peer();
                    peer.send(if number % 2 == 0 { upgrade(WEBSOCKET) } else { get(POLLING) });
                    peer
                })
                .collect();
            peers.into_iter().for_each(Peer::reset);
            site.check_healthy();
        }
        site.wait("the connections", |stats| stats.gauges.connections == 4);
    });
}

#[test]
fn connections_that_are_closed_on_one_side() {
    attack(short, |site| {
        for number in 0..300 {
            let mut peer = site.peer();
            if number % 3 == 0 {
                peer.send(get(POLLING));
            } else if number % 3 == 1 {
                peer.send("GET /socket.io/?EIO");
            }
            peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
            if number % 3 == 0 {
                assert_eq!(peer.last_response().status, 200);
            } else {
                peer.is_closed();
            }
        }
        site.wait("the connections", |stats| stats.gauges.connections == 4);
    });
}

#[test]
fn a_slow_reader_is_disconnected() {
    attack(usual, |site| {
        let before = resident_bytes();
        let mut slow: Vec<Peer> = (0..20).map(|_| site.joined()).collect();
        for peer in &mut slow {
            peer.say("42[\"flood\",5000,10000]");
        }
        site.moved("slow readers", 20, |stats| stats.totals.slow_closed);
        site.check_healthy();
        // A queue of 1 MiB each, and not the 50 MB that they asked for.
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 100 << 20, "{grown} bytes");
        for peer in &mut slow {
            while peer.try_frame().is_some() {}
        }
        assert_eq!(site.gone(), 20);
    });
}

#[test]
fn a_slow_reader_loses_what_it_does_not_read() {
    let drops = |options: &mut corecast::Options| options.slow_reader = SlowReader::Drop;
    attack(drops, |site| {
        let mut slow = site.joined();
        slow.say("42[\"flood\",5000,10000]");
        site.wait("lost packets", |stats| stats.totals.slow_dropped > 0);
        site.check_healthy();
        site.moved("slow readers", 0, |stats| stats.totals.slow_closed);
        // It reads again, and is served again; what it got are whole packets.
        let wanted = format!("42[\"flood\",\"{}\"]", "x".repeat(10_000));
        slow.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut got = 0;
        while has_more(&mut slow) {
            assert!(slow.text() == wanted);
            got += 1;
        }
        assert!((1..5_000).contains(&got), "{got} packets");
        slow.stream.set_read_timeout(Some(crate::peer::PATIENCE)).unwrap();
        echo(&mut slow, 1);
        assert_eq!(site.gone(), 0);
    });
}

/// Whether the server has sent more within a while.
fn has_more(peer: &mut Peer) -> bool {
    peer.has_input() || matches!(peer.stream.peek(&mut [0]), Ok(1))
}

#[test]
fn a_polling_client_that_does_not_poll() {
    attack(usual, |site| {
        let query = site.joined_polling();
        site.peer().ask(post(&query, "42[\"flood\",5000,10000]")).is(200, "ok");
        site.moved("slow readers", 1, |stats| stats.totals.slow_closed);
        let response = site.peer().ask(get(&query));
        response.is(400, r#"{"code":1,"message":"Session ID unknown"}"#);
        // And one that asks for its answer and does not read it.
        let query = site.joined_polling();
        let mut peer = site.peer();
        peer.send(post(&query, "42[\"flood\",100,10000]") + &get(&query));
        site.check_healthy();
        peer.reset();
        site.peer().ask(post(&query, "1")).is(200, "ok");
    });
}

#[test]
fn files_that_are_asked_for_and_not_read() {
    let soon = |options: &mut corecast::Options| {
        options.head_timeout = Duration::from_secs(3);
    };
    attack(soon, |site| {
        let request = "GET /socket.io/socket.io.js.map HTTP/1.1\r\nHost: h\r\n\r\n";
        // The first one makes the copy that all share.
        assert_eq!(site.peer().ask(request).status, 200);
        let before = resident_bytes();
        let mut peers: Vec<Peer> = Vec::new();
        for _ in 0..500 {
            let mut peer = site.peer();
            let socket = socket2::SockRef::from(&peer.stream);
            socket.set_recv_buffer_size(4_096).unwrap();
            peer.send(request);
            peers.push(peer);
        }
        site.check_healthy();
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 32 << 20, "{grown} bytes for 500 requests");
        // They are not waited for without end.
        site.is_quiet();
    });
}

#[test]
fn events_as_fast_as_they_go() {
    attack(usual, |site| {
        let burst = crate::peer::text("42[\"nobody listens\"]").repeat(1_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let mut peer = site.joined();
                let burst = &burst;
                scope.spawn(move || {
                    (0..50).for_each(|_| peer.send(burst));
                    echo(&mut peer, 1);
                });
            }
            (0..20).for_each(|_| site.check_healthy());
        });
        site.moved("events", 4 * (50_000 + 1) + 80, |stats| stats.totals.events);
    });
}

#[test]
fn broadcasts_that_a_client_asks_for() {
    attack(usual, |site| {
        let mut peers: Vec<Peer> = (0..20).map(|_| site.joined()).collect();
        for round in 0..200 {
            let asks = round % peers.len();
            peers[asks].say(&format!("42[\"say\",{round}]"));
            for peer in &mut peers {
                assert_eq!(peer.frame(), Frame::Text(format!("42[\"said\",{round}]")));
            }
            site.drain_healthy(&format!("42[\"said\",{round}]"));
        }
    });
}

#[test]
fn descriptors_run_out() {
    attack(usual, |site| {
        let (soft, hard) = rlimit::Resource::NOFILE.get().unwrap();
        // Made before: from here on this process gets no more of them.
        let waiting: Vec<socket2::Socket> = (0..50)
            .map(|_| {
                let kind = socket2::Type::STREAM;
                socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap()
            })
            .collect();
        rlimit::Resource::NOFILE.set(3, hard).unwrap();
        let address = site.address.into();
        let connected = waiting.iter().all(|socket| socket.connect(&address).is_ok());
        (0..50).for_each(|_| {
            site.check_healthy();
            std::thread::sleep(Duration::from_millis(5));
        });
        rlimit::Resource::NOFILE.set(soft, hard).unwrap();
        assert!(connected, "the kernel accepts");
        // Those who waited are served now.
        for socket in waiting {
            let mut peer = Peer::of(socket.into());
            peer.ask("GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n").is(404, "Not found");
        }
        site.moved("accepted", 50, |stats| stats.totals.accepted);
    });
}
