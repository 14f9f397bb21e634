//! Clients that do not answer what a broadcast asks, or answer what nobody asked them.

use std::time::Duration;

use corecast::{BroadcastAck, Error, Raw, Unanswered};

use crate::peer::{Peer, frame, text};
use crate::site::{Site, attack, echo};

/// Rounds of the long test; with more than `max_pending_acks` every leak shows.
const ROUNDS: usize = 60;
const CROWD: usize = 100;
const PENDING: usize = 4;

fn wait(answers: BroadcastAck) -> Result<Vec<Raw>, Error> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answers)
}

fn unanswered(answers: BroadcastAck) -> Unanswered {
    match wait(answers) {
        Err(Error::Unanswered(unanswered)) => *unanswered,
        other => panic!("{other:?}"),
    }
}

/// Clients in the room `asked`.
fn crowd(site: &Site, count: usize) -> Vec<Peer> {
    let join = |_| {
        let mut peer = site.joined();
        peer.say("421[\"join\",\"asked\"]");
        assert_eq!(peer.text(), "431[2]");
        peer
    };
    (0..count).map(join).collect()
}

/// The number under which a client is to answer.
fn number(peer: &mut Peer) -> String {
    let packet = peer.text();
    let id = packet.strip_prefix("42").and_then(|rest| rest.strip_suffix("[\"why\"]"));
    id.unwrap_or_else(|| panic!("{packet}")).into()
}

/// socketio/socket.io issue 4984: a room is asked again and again and nobody ever answers. Were
/// anything left of a round, its clients would soon have too many answers outstanding; and the
/// memory of the process stays what it was.
#[test]
fn issue_4984_nobody_ever_answers() {
    attack(
        |options| options.max_pending_acks = PENDING,
        |site| {
            let mut peers = crowd(site, CROWD);
            let ask = |ms| site.server.to("asked").timeout(Duration::from_millis(ms));
            let mut before = 0;
            for round in 0..ROUNDS {
                if round == ROUNDS / 3 {
                    before = rss();
                }
                let rounds: Vec<BroadcastAck> =
                    (0..PENDING).map(|_| ask(1).emit_with_ack("why", ())).collect();
                for answers in rounds {
                    let outcome = unanswered(answers);
                    let counts = (outcome.asked, outcome.timed_out, outcome.unawaited);
                    assert_eq!(counts, (CROWD, CROWD, 0), "round {round}");
                }
                for peer in &mut peers {
                    (0..PENDING).for_each(|_| drop(number(peer)));
                }
            }
            let grown = rss().saturating_sub(before);
            assert!(grown < 8 << 20, "{grown} bytes after {ROUNDS} rounds");
            // Beyond the bound the outcome says so at once, and the event comes all the same.
            let held: Vec<BroadcastAck> =
                (0..PENDING).map(|_| ask(3_600_000).emit_with_ack("why", ())).collect();
            let outcome = unanswered(ask(3_600_000).emit_with_ack("why", ()));
            assert_eq!((outcome.asked, outcome.unawaited), (CROWD, CROWD));
            peers.iter_mut().for_each(|peer| (0..=PENDING).for_each(|_| drop(number(peer))));
            drop(peers);
            for answers in held {
                assert_eq!(unanswered(answers).disconnected, CROWD);
            }
        },
    );
}

/// Wrong numbers, two answers for one, answers of those who were not asked, and half of a binary
/// one: none of them counts.
#[test]
fn answers_that_nobody_asked_for() {
    attack(
        |_| {},
        |site| {
            let mut peers = crowd(site, 3);
            let mut outsider = site.joined();
            let room = || site.server.to("asked").timeout(Duration::from_secs(3_600));
            let answers = room().emit_with_ack("why", ());
            let ids: Vec<String> = peers.iter_mut().map(number).collect();
            let id = &ids[0];
            let wrong: u64 = id.parse::<u64>().unwrap() + 1;
            for answer in [format!("43{id}[\"not asked\"]"), format!("43{wrong}[]")] {
                outsider.say(&answer);
            }
            echo(&mut outsider, 1);
            peers[0].say(&format!("43{wrong}[\"wrong\"]"));
            for _ in 0..1_000 {
                peers[0].send(text(&format!("43{id}[\"again\"]")));
            }
            echo(&mut peers[0], 2);
            // Three answers are due; one has come, a thousand times.
            let half = format!("461-{id}[{{\"_placeholder\":true,\"num\":0}}]");
            peers[1].say(&half);
            peers.remove(1);
            peers[1].say(&half);
            peers[1].send(frame(0x82, &[1, 2]));
            let outcome = unanswered(answers);
            assert_eq!((outcome.asked, outcome.disconnected, outcome.responses.len()), (3, 1, 2));
            let mut seen: Vec<&str> = outcome.responses.iter().map(Raw::json).collect();
            seen.sort_unstable();
            assert_eq!(seen, ["\"again\"", "{\"_placeholder\":true,\"num\":0}"]);
            site.bad_packets(0);
        },
    );
}

/// Resident bytes of this process.
fn rss() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}
