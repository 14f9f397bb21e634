//! Clients that bring dynamic namespaces into being, many and with names that hurt.

use corecast::Options;

use crate::frames::resident_bytes;
use crate::peer::{Peer, text};
use crate::site::{attack, usual};

/// Namespaces of one connection, and of the whole server.
const EACH: usize = 100;
const MOST: usize = 1_000;

fn bounded(options: &mut Options) {
    (options.max_namespaces, options.max_child_namespaces) = (EACH, MOST);
}

fn cleaned(options: &mut Options) {
    bounded(options);
    options.cleanup_empty_child_namespaces = true;
}

/// Asks for these namespaces at once; returns how many were granted. What is over the bound is
/// refused before the others are decided about, so answers come in any order.
fn ask(peer: &mut Peer, names: impl Iterator<Item = String> + Clone) -> usize {
    peer.send(names.clone().flat_map(|name| text(&format!("40{name},"))).collect::<Vec<_>>());
    let answers: Vec<String> = names.clone().map(|_| peer.text()).collect();
    let granted = answers.iter().filter(|answer| answer.starts_with("40/dyn-")).count();
    let refused = |answer: &&String| answer.ends_with("{\"message\":\"Too many namespaces\"}");
    assert_eq!(granted + answers.iter().filter(refused).count(), names.count());
    granted
}

#[test]
fn ten_thousand_namespaces_from_one_connection() {
    attack(bounded, |site| {
        let mut peer = site.opened();
        assert_eq!(ask(&mut peer, (0..10_000).map(|n| format!("/dyn-{n}"))), EACH);
        site.check_healthy();
        drop(peer);
        site.is_quiet();
        // Without the cleanup they stay, and the bound of the server holds.
        site.wait("the children", |stats| stats.gauges.namespaces == EACH);
    });
}

#[test]
fn ten_thousand_namespaces_from_a_hundred_connections() {
    attack(cleaned, |site| {
        for round in 0..3 {
            let name = |peer: usize, n: usize| format!("/dyn-{round}-{peer}-{n}");
            let mut peers: Vec<Peer> = (0..100).map(|_| site.opened()).collect();
            let mut granted = 0;
            for (number, peer) in peers.iter_mut().enumerate() {
                granted += ask(peer, (0..EACH).map(|n| name(number, n)));
            }
            assert_eq!(granted, MOST);
            site.check_healthy();
            drop(peers);
            site.is_quiet();
            site.wait("the children to go", |stats| stats.gauges.namespaces == 0);
        }
    });
}

#[test]
fn children_that_come_and_go_leave_no_memory_behind() {
    attack(cleaned, |site| {
        let mut peers: Vec<Peer> = (0..4).map(|_| site.joined()).collect();
        let mut resident = 0;
        for round in 0..40 {
            // Some are shared by all of them, some are not.
            let name = |peer: usize, n: usize| format!("/dyn-{round}-{}", n * (peer % 2 + 1));
            for (number, peer) in peers.iter_mut().enumerate() {
                assert_eq!(ask(peer, (0..90).map(|n| name(number, n))), 90);
            }
            for (number, peer) in peers.iter_mut().enumerate() {
                let leaving = (0..90).flat_map(|n| text(&format!("41{},", name(number, n))));
                peer.send(leaving.collect::<Vec<_>>());
                // In order: they are done when this is answered.
                peer.say("421[\"echo\",1]");
                assert_eq!(peer.text(), "431[1]");
            }
            site.check_healthy();
            if round == 10 {
                resident = resident_bytes();
            }
        }
        site.wait("the children to go", |stats| stats.gauges.namespaces == 0);
        let grown = resident_bytes().saturating_sub(resident);
        assert!(grown < 4 << 20, "{grown} bytes after 10,000 joins");
    });
}

#[test]
fn names_that_hurt() {
    attack(usual, |site| {
        let mut peer = site.opened();
        let long = format!("/dyn-{}", "x".repeat(900_000));
        let backtrack = format!("/{}!", "a".repeat(1_000));
        for name in [&*long, &*backtrack, "/__proto__", "/dyn", "/\u{1}dyn-", "/é"] {
            peer.say(&format!("40{name},"));
            assert_eq!(peer.text(), format!("44{name},{{\"message\":\"Invalid namespace\"}}"));
        }
        for name in [&*format!("/{}", "a".repeat(1_000)), "/dyn-__proto__", "/dyn-é \u{1}"] {
            peer.say(&format!("40{name},"));
            assert!(peer.text().starts_with(&format!("40{name},{{\"sid\":")));
            peer.say(&format!("42{name},1[\"echo\",2]"));
            assert_eq!(peer.text(), format!("43{name},1[2]"));
        }
        site.check_healthy();
    });
}
