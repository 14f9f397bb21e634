//! Connections that arrive at another shard than the one that owns their session.

use corecast::{Event, Socket};

use super::client::{Polling, Stream, WebSocket, request};
use super::{on_cpus, serve};

#[test]
fn every_request_of_a_polling_session_may_come_on_a_fresh_connection() {
    let site = serve(on_cpus(2), |_| {});
    for _ in 0..4 {
        let mut session = Polling::connect(site.address);
        for number in 0..50 {
            session.post(&format!("421[\"echo\",{number}]\x1e42[\"echo\",\"ü\"]"));
            assert_eq!(session.packet(), format!("431[{number}]"));
            assert_eq!(session.packet(), "42[\"echo\",\"ü\"]");
        }
        session.post("1");
    }
    site.until("migrations", |stats| stats.totals.migrated > 0);
    site.stop();
}

#[test]
fn one_connection_may_serve_sessions_of_several_shards() {
    let site = serve(on_cpus(2), |_| {});
    let mut sessions: Vec<Polling> = (0..16).map(|_| Polling::connect(site.address)).collect();
    // As a proxy does that keeps connections to its upstream.
    let mut shared = Stream::connect(site.address);
    for number in 0..20 {
        for session in &mut sessions {
            let body = format!("42[\"echo\",{number}]");
            assert_eq!(shared.request("POST", &session.target, &body), (200, "ok".into()));
        }
        // All at once: what the first shard has not read moves along.
        let gets = sessions.iter().map(|session| request("GET", &session.target, ""));
        shared.write(gets.collect::<String>().as_bytes());
        for _ in &sessions {
            assert_eq!(shared.response(), (200, format!("42[\"echo\",{number}]")));
        }
    }
    site.until("migrations", |stats| stats.totals.migrated > 0);
    site.stop();
}

#[test]
fn a_parked_get_is_answered_wherever_it_arrived() {
    let site = serve(on_cpus(2), |io| {
        io.on("all", |socket: Socket, event: Event| async move {
            let _ = socket.server().emit("all", event.raw());
        });
    });
    let mut sender = WebSocket::connect(site.address);
    let mut sessions: Vec<Polling> = (0..12).map(|_| Polling::connect(site.address)).collect();
    for number in 0..20 {
        let mut parked: Vec<Stream> =
            sessions.iter().map(|_| Stream::connect(site.address)).collect();
        for (stream, session) in parked.iter_mut().zip(&mut sessions) {
            stream.write(request("GET", &session.target, "").as_bytes());
        }
        sender.emit("all", &number.to_string());
        assert_eq!(sender.event(), ("all".into(), vec![number.into()]));
        for stream in &mut parked {
            assert_eq!(stream.response(), (200, format!("42[\"all\",{number}]")));
        }
    }
    site.stop();
}

#[test]
fn an_upgrade_may_arrive_at_any_shard() {
    let site = serve(on_cpus(2), |_| {});
    let mut sockets = Vec::new();
    for number in 0..40 {
        // All requests on one connection: only the websocket can be elsewhere.
        let mut session = Polling::connect_kept(site.address);
        session.post("42[\"echo\",\"queued\"]");
        let mut socket = WebSocket::upgrade(&session);
        assert_eq!(socket.event(), ("echo".into(), vec!["queued".into()]));
        assert_eq!(socket.ask("echo", &number.to_string()), format!("[{number}]"));
        sockets.push((session, socket));
    }
    let sessions = |stats: &corecast::Stats| stats.gauges.sessions;
    site.until("migrations", |stats| stats.totals.migrated > 0 && sessions(stats) == 40);
    let shards = site.io.shard_stats();
    assert_eq!(shards.iter().map(sessions).sum::<usize>(), 40);
    assert!(shards.len() == 2 && shards.iter().all(|shard| sessions(shard) > 0), "{shards:?}");
    site.io.emit("to everyone", 1).expect("runs");
    for (_, socket) in &mut sockets {
        assert_eq!(socket.event(), ("to everyone".into(), vec![1.into()]));
    }
    site.stop();
}

#[test]
fn ids_that_name_no_shard_or_session_are_unknown() {
    let site = serve(on_cpus(2), |_| {});
    let unknown = (400, "{\"code\":1,\"message\":\"Session ID unknown\"}".to_owned());
    let session = Polling::connect(site.address);
    let known = session.session_id();
    // The first two of fifteen bytes are the shard.
    let elsewhere = |shard: &str| format!("{shard}{}", &known[3..]);
    for id in [&elsewhere("__9"), &elsewhere("ABA"), &known[..19], "", "__proto__", &"A".repeat(20)]
    {
        let target = format!("/socket.io/?EIO=4&transport=polling&sid={id}");
        assert_eq!(Stream::connect(site.address).request("GET", &target, ""), unknown, "{id}");
    }
    site.stop();
}
