//! Limits on connections and handshakes, and addresses by the word of proxies, as bytes.

use std::sync::Arc;

use corecast::Forwarded;
use corecast::hub::gate::{Bounds, Gate};
use corecast::hub::{Config, Entrance, PeerEnd};

use crate::wire::{Wire, config, get, reply, upgrade};

fn entrance(bounds: Bounds) -> Entrance {
    Entrance {
        gate: Arc::default(),
        bounds,
        proxies: ["10.0.0.0/8".parse().unwrap()].into(),
        forwarded: Forwarded::XForwardedFor,
    }
}

fn wire(bounds: Bounds) -> Wire {
    Wire::with(Config { entrance: entrance(bounds), ..config() })
}

fn forwarded(client: &str, query: &str) -> String {
    get(query).replace("\r\n\r\n", &format!("\r\nX-Forwarded-For: {client}\r\n\r\n"))
}

fn counts(wire: &Wire) -> (u64, u64, u64) {
    let stats = wire.hub.stats();
    (stats.refused, stats.refused_per_ip, stats.refused_handshakes)
}

#[test]
fn who_is_too_many_is_answered_and_the_next_ones_are_closed() {
    let mut wire = wire(Bounds { per_ip: Some(1), ..Bounds::default() });
    let first = wire.open_from("192.0.2.1").unwrap();
    let second = wire.open_from("192.0.2.1").unwrap();
    wire.put(second, get("transport=polling"));
    let answer = reply(&wire.got(second));
    assert_eq!(answer.status, 429);
    assert!(answer.head.contains("Retry-After: 5"), "{}", answer.head);
    assert_eq!(answer.body, "{\"message\":\"too many connections from this address\"}");
    assert!(wire.is_over(second));
    // An eighth and 4 more than allowed: told, if they ask.
    let told = (0..8).filter(|_| wire.open_from("192.0.2.1").is_some()).count();
    assert_eq!(told, 3, "the one that was answered is still counted");
    assert_eq!(counts(&wire), (9, 9, 0));
    // Those who do not ask do not stay.
    wire.at(5_100);
    assert_eq!(wire.hub.gauges().connections, 1);
    wire.put(first, get("transport=polling"));
    assert_eq!(wire.answer(first).0, 200);
    assert!(wire.open_from("192.0.2.2").is_some());
}

#[test]
fn a_proxy_is_not_counted_but_its_clients_are() {
    let mut wire = wire(Bounds { per_ip: Some(1), ..Bounds::default() });
    let conns: Vec<u32> = (0..20).map(|_| wire.open_from("10.0.0.1").unwrap()).collect();
    let ask = |wire: &mut Wire, conn: u32, client: &str| {
        wire.put(conn, forwarded(client, "transport=polling"));
        wire.answer(conn).0
    };
    let lines = "\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    wire.put(conns[0], upgrade("websocket", None).replace("\r\n\r\n", lines));
    assert!(wire.got(conns[0]).starts_with(b"HTTP/1.1 101"));
    assert_eq!(ask(&mut wire, conns[1], "192.0.2.1"), 429);
    assert_eq!(ask(&mut wire, conns[2], "192.0.2.2"), 200);
    // A proxy keeps its connections and takes them for whoever comes.
    assert_eq!(ask(&mut wire, conns[2], "192.0.2.3"), 200);
    wire.end(conns[0], PeerEnd::Reset);
    assert_eq!(ask(&mut wire, conns[3], "192.0.2.1"), 200);
    assert_eq!(counts(&wire), (1, 1, 0));
}

/// A connection that a proxy keeps for whoever comes next counts for nobody.
#[test]
fn kept_connections_of_proxies_are_nobodys() {
    let mut wire = wire(Bounds { per_ip: Some(2), ..Bounds::default() });
    let ask = |wire: &mut Wire, query: &str| {
        let conn = wire.open_from("10.0.0.1").unwrap();
        wire.put(conn, forwarded("192.0.2.7", query));
        conn
    };
    let sids: Vec<String> = (0..5)
        .map(|_| {
            let conn = ask(&mut wire, "transport=polling");
            let (status, body) = wire.answer(conn);
            assert_eq!(status, 200);
            body[9..29].to_owned()
        })
        .collect();
    // A poll that waits is in hand.
    let held: Vec<u32> = sids[..2]
        .iter()
        .map(|sid| ask(&mut wire, &format!("transport=polling&sid={sid}")))
        .collect();
    let third = ask(&mut wire, "transport=polling");
    assert_eq!(wire.answer(third).0, 429);
    wire.end(held[0], PeerEnd::Reset);
    let fourth = ask(&mut wire, "transport=polling");
    assert_eq!(wire.answer(fourth).0, 200);
}

/// Bounds that come later count who comes from then on, and give back what they have counted.
#[test]
fn bounds_change_while_clients_are_there() {
    let gate = Arc::<Gate>::default();
    let with = |bounds| {
        let entrance = Entrance { gate: gate.clone(), ..entrance(bounds) };
        Config { entrance, ..config() }
    };
    let mut wire = Wire::with(with(Bounds::default()));
    let ask = |wire: &mut Wire, conn: u32| {
        wire.put(conn, get("transport=polling"));
        wire.answer(conn).0
    };
    let early: Vec<u32> = (0..5).map(|_| wire.open_from("192.0.2.1").unwrap()).collect();
    wire.hub.reconfigure(with(Bounds { per_ip: Some(1), ..Bounds::default() }));
    let [first, second] = [(); 2].map(|()| wire.open_from("192.0.2.1").unwrap());
    assert_eq!([second, first, early[0]].map(|conn| ask(&mut wire, conn)), [429, 200, 200]);
    wire.hub.reconfigure(with(Bounds { connections: Some(4), ..Bounds::default() }));
    let late = wire.open_from("192.0.2.9").unwrap();
    assert_eq!(ask(&mut wire, late), 503, "of all, those that were there are counted");
    wire.hub.reconfigure(with(Bounds::default()));
    let later = wire.open_from("192.0.2.9").unwrap();
    assert_eq!(ask(&mut wire, later), 200);
    wire.at(200_000);
    assert_eq!(gate.counts(), (0, 0));
}

#[test]
fn handshakes_are_counted_once_whatever_their_transport() {
    let mut wire = wire(Bounds { handshakes: Some(2), ..Bounds::default() });
    assert_eq!(wire.ask(&get("transport=polling")).0, 200);
    let conn = wire.with_bytes(upgrade("websocket", None));
    assert!(wire.got(conn).starts_with(b"HTTP/1.1 101"));
    let refused = wire.with_bytes(upgrade("websocket", None));
    let answer = reply(&wire.got(refused));
    assert_eq!(answer.status, 429);
    assert!(answer.head.contains("Retry-After: 1"), "{}", answer.head);
    assert_eq!(answer.body, "{\"message\":\"too many handshakes from this address\"}");
    assert_eq!(counts(&wire), (0, 0, 1));
    // Requests of a session that is open are none; a second later there is room.
    wire.at(1_000);
    let sid = wire.polling();
    assert_eq!(wire.post(&sid, "40").0, 200);
    (0..5).for_each(|_| assert_eq!(wire.post(&sid, "42[\"x\"]").0, 200));
    wire.polling();
}

#[test]
fn everything_is_given_back_when_all_have_gone() {
    let bounds = Bounds { connections: Some(4), per_ip: Some(3), handshakes: Some(9) };
    let gate = Arc::<Gate>::default();
    let entrance = Entrance { gate: gate.clone(), ..entrance(bounds) };
    let mut wire = Wire::with(Config { entrance, shards: 2, ..config() });
    for ip in ["192.0.2.1", "192.0.2.1", "10.0.0.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"] {
        let conn = wire.open_from(ip).unwrap();
        wire.put(conn, forwarded("198.51.100.1", "transport=polling"));
    }
    assert_eq!(gate.counts().1, 6);
    wire.at(100_000);
    assert_eq!(wire.hub.gauges().connections, 0);
    assert_eq!(gate.counts().1, 0);
    // One that comes from another shard is let in, and gone as well.
    let address = std::net::SocketAddr::from(([192, 0, 2, 1], 9));
    wire.hub.handle_migrated(address.into(), Vec::new()).unwrap();
    assert_eq!(gate.counts().1, 1);
}
