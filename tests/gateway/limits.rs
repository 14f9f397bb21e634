//! What one client or user may send at most.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::client::Frame;
use crate::peer::{Peer, Told, reload};
use crate::rig::{Gateway, Http, join_as, until};
use crate::tokens::Signer;

const SECRET: &str = "a-secret-of-forty-bytes-for-these-tests!";

/// Limits whose buckets do not fill again while a test runs.
fn config(limits: &str, namespace: &str) -> String {
    format!(
        "[limits]\n{limits}\n[auth]\nanonymous = true\n[[auth.key]]\nsecret = \"{SECRET}\"\n\
         [[namespace]]\nname = \"/\"\n{namespace}\n\
         [[namespace.route]]\nevent = \"*\"\ndo = \"reply\"\n"
    )
}

const SLOW: &str = "per_second = 0.001";

fn user(name: &str) -> Value {
    json!({ "token": Signer::secret(Algorithm::HS256, SECRET).token(name) })
}

#[test]
fn events_of_one_socket() {
    let limits = format!("socket_events = {{ {SLOW}, burst = 3 }}\nevent = \"limit\"");
    let gateway = Gateway::start(&config(&limits, ""));
    let [mut ada, mut ben] = [(); 2].map(|()| Peer::joined(&gateway, Value::Null));
    for _ in 0..3 {
        assert_eq!(ada.refusal("x", ""), "");
    }
    let answer = ada.ask("x", "");
    assert_eq!(answer["error"]["code"], "rate_limited");
    assert!(answer["error"]["message"].as_str().is_some_and(|it| it.contains("try again in")));
    ada.emit("y", "");
    for event in ["x", "y"] {
        let told = ada.event();
        assert_eq!(told[0], "limit");
        assert_eq!((&told[1]["code"], &told[1]["event"]), (&json!("rate_limited"), &json!(event)));
    }
    assert_eq!(ben.refusal("x", ""), "", "others have their own");
    // A reload changes what holds for those who are connected.
    reload(&gateway, &config("", ""));
    assert_eq!(ada.refusal("x", ""), "");
}

#[test]
fn bytes_of_one_socket() {
    let limits = format!("socket_bytes = {{ {SLOW}, burst = 1000 }}");
    let gateway = Gateway::start(&config(&limits, ""));
    let text = |length: usize| Value::from("x".repeat(length)).to_string();
    let mut ada = Peer::joined(&gateway, Value::Null);
    assert_eq!(ada.refusal("x", &text(400)), "");
    assert_eq!(ada.refusal("x", &text(400)), "");
    assert_eq!(ada.refusal("x", &text(400)), "rate_limited");
    assert_eq!(ada.refusal("x", &text(100)), "", "what is left");
    // One event larger than the burst passes once, when nothing was sent before.
    let mut ben = Peer::joined(&gateway, Value::Null);
    assert_eq!(ben.refusal("x", &text(5_000)), "");
    assert_eq!(ben.refusal("x", ""), "rate_limited");
    // Attachments count.
    let mut cy = Peer::joined(&gateway, Value::Null);
    cy.emit_binary("x", r#"{"_placeholder":true,"num":0}"#, &[7; 990]);
    assert_eq!(cy.refusal("x", ""), "rate_limited");
}

#[test]
fn users_share_what_they_may_send() {
    let limits =
        format!("user_events = {{ {SLOW}, burst = 5 }}\nsocket_events = {{ {SLOW}, burst = 100 }}");
    let gateway = Gateway::start(&config(&limits, ""));
    let mut sockets: Vec<Peer> = (0..10).map(|_| Peer::joined(&gateway, user("ada"))).collect();
    let passed =
        sockets.iter_mut().filter_map(|peer| Some(peer.refusal("x", "")).filter(String::is_empty));
    assert_eq!(passed.count(), 5);
    // Coming again does not help.
    drop(sockets);
    assert_eq!(Peer::joined(&gateway, user("ada")).refusal("x", ""), "rate_limited");
    assert_eq!(Peer::joined(&gateway, user("ben")).refusal("x", ""), "");
    for _ in 0..10 {
        assert_eq!(Peer::joined(&gateway, Value::Null).refusal("x", ""), "", "nobody is no user");
    }
}

#[test]
fn bytes_of_users() {
    let limits = format!("user_bytes = {{ {SLOW}, burst = 1000 }}");
    let gateway = Gateway::start(&config(&limits, ""));
    let text = Value::from("x".repeat(600)).to_string();
    assert_eq!(Peer::joined(&gateway, user("ada")).refusal("x", &text), "");
    assert_eq!(Peer::joined(&gateway, user("ada")).refusal("x", &text), "rate_limited");
}

#[test]
fn payloads_have_a_size_per_namespace() {
    let more = "max_payload = \"1KiB\"\n";
    let all = config("event = \"limit\"", more);
    let gateway = Gateway::start(&format!(
        "{all}[[namespace]]\nname = \"/large\"\n[[namespace.route]]\nevent = \"*\"\n\
         do = \"reply\"\n"
    ));
    let text = |length: usize| Value::from("x".repeat(length)).to_string();
    let mut ada = Peer::joined(&gateway, Value::Null);
    // The name is one byte, the quotes are two.
    assert_eq!(ada.refusal("x", &text(1_021)), "");
    assert_eq!(ada.refusal("x", &text(1_022)), "too_large");
    assert_eq!(ada.event()[1]["code"], "too_large");
    let way = crate::peer::Way { namespace: "/large", ..Default::default() };
    let mut ben = Peer::by(gateway.address, &way).expect("a session").expect("let in");
    assert_eq!(ben.refusal("x", &text(100_000)), "");
}

#[test]
fn rooms_of_one_socket() {
    let routes = "[[namespace.route]]\nevent = \"join\"\ndo = \"join\"\nto = \"args[0]\"\n\
                  [[namespace.route]]\nevent = \"leave\"\ndo = \"leave\"\nto = \"args[0]\"\n";
    let config = config("max_rooms = 3", routes)
        .replace("anonymous = true", "anonymous = true\npermissions = [\"join:**\"]");
    let gateway = Gateway::start(&config);
    let mut ada = Peer::joined(&gateway, Value::Null);
    let join = |ada: &mut Peer, room: &str| ada.refusal("join", &json!(room).to_string());
    assert_eq!(["a", "b", "c", "d"].map(|room| join(&mut ada, room)), ["", "", "", "room_limit"]);
    assert_eq!(join(&mut ada, "a"), "", "it is there already");
    assert_eq!(ada.refusal("leave", "\"a\""), "");
    assert_eq!(join(&mut ada, "d"), "");
}

#[test]
fn too_many_strikes_end_the_connection() {
    let limits = format!("socket_events = {{ {SLOW}, burst = 1 }}\nstrikes = 3\nevent = \"limit\"");
    let gateway = Gateway::start(&config(&limits, ""));
    let mut ada = Peer::joined(&gateway, Value::Null);
    let mut ben = Peer::joined(&gateway, Value::Null);
    assert_eq!(ada.refusal("x", ""), "");
    for _ in 0..4 {
        ada.emit("x", "");
    }
    for last in [false, false, false, true] {
        let told = ada.event();
        assert_eq!(told[0], "limit");
        assert_eq!(told[1]["closed"] == true, last, "{told:?}");
    }
    assert_eq!(ada.told(), Told::Disconnect);
    assert_eq!(ada.told(), Told::End);
    assert_eq!(ben.refusal("x", ""), "");
    assert_eq!(metric(&gateway, "corecast_limits_disconnects_total"), 1.0);
    gateway.wait_for_log("closed: too many strikes");
}

/// The sum of a metric over its labels.
fn metric(gateway: &Gateway, name: &str) -> f64 {
    let reply = gateway.get("/metrics");
    let of_name = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    let values = reply.body.lines().filter(of_name).filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<f64>().expect("a number")).sum()
}

#[test]
fn leaving_and_joining_again_gives_nothing() {
    let limits = format!("socket_events = {{ {SLOW}, burst = 5 }}\nstrikes = 4");
    let gateway = Gateway::start(&config(&limits, ""));
    let mut ada = Peer::joined(&gateway, Value::Null);
    let mut passed = 0;
    for _ in 0..3 {
        passed += [(); 2].iter().filter(|()| ada.refusal("x", "").is_empty()).count();
        ada.rejoin().expect("let in");
    }
    assert_eq!(passed, 5, "what was used up stays used up");
    // And so do strikes, of which that was the first.
    for _ in 0..3 {
        ada.emit("x", "");
        ada.rejoin().expect("let in");
    }
    ada.emit("x", "");
    assert_eq!([ada.told(), ada.told()], [Told::Disconnect, Told::End]);
    let mut ben = Peer::joined(&gateway, Value::Null);
    assert_eq!(ben.refusal("x", ""), "", "another connection is another client");
}

#[test]
fn namespaces_of_one_connection_share_what_it_may_send() {
    let limits = format!("socket_events = {{ {SLOW}, burst = 3 }}");
    let more: String = (0..5)
        .map(|n| {
            let name = format!("[[namespace]]\nname = \"/n{n}\"\n");
            name + "[[namespace.route]]\nevent = \"*\"\ndo = \"reply\"\n"
        })
        .collect();
    let gateway = Gateway::start(&(config(&limits, "") + &more));
    let mut session = gateway.session();
    let mut passed = 0;
    for n in 0..5 {
        let namespace = format!("/n{n}");
        join_as(&mut session, &namespace, "").expect("let in");
        session.send(&format!("42{namespace},7[\"x\"]"));
        passed += usize::from(!session.text().contains("rate_limited"));
    }
    assert_eq!(passed, 3);
}

#[test]
fn joining_has_a_rate_of_its_own() {
    let gateway = Gateway::start(&config(&format!("connects = {{ {SLOW}, burst = 3 }}"), ""));
    let mut ada = Peer::joined(&gateway, Value::Null);
    assert!([(); 2].iter().all(|()| ada.rejoin().is_ok()));
    let refusal = ada.rejoin().expect_err("the fourth");
    assert_eq!(refusal["data"]["code"], "rate_limited", "{refusal}");
    assert!(ada.join_again().is_err(), "it stays so");
    let counted = "corecast_connects_refused_total{namespace=\"/\",code=\"rate_limited\"}";
    assert!(gateway.get("/metrics").body.contains(counted));
    Peer::joined(&gateway, Value::Null);
    // What is configured of it holds from the next reload on, for who is there, too.
    reload(&gateway, &config("", ""));
    ada.join_again().expect("let in");
    // Whoever does not stop is closed.
    reload(&gateway, &config(&format!("connects = {{ {SLOW}, burst = 1 }}\nstrikes = 2"), ""));
    let mut ben = gateway.client();
    ben.send("41");
    for _ in 0..2 {
        join_as(&mut ben, "/", "").expect_err("too often");
    }
    ben.send("40");
    let is_join = |frame: &Frame| matches!(frame, Frame::Text(text) if text.starts_with("40"));
    assert!(!ben.rest().iter().any(is_join), "and the connection is over");
}

/// Routes each with a rate that is used up by one event.
fn rated(count: usize) -> String {
    (0..count)
        .map(|n| {
            format!(
                "[[namespace.route]]\nevent = \"e{n}\"\ndo = \"reply\"\n\
                 rate = {{ {SLOW}, burst = 1 }}\n"
            )
        })
        .collect()
}

#[test]
fn many_rated_routes_are_all_limited() {
    let routes = rated(200);
    let gateway = Gateway::start(&config("", &routes));
    let mut ada = Peer::joined(&gateway, Value::Null);
    for round in 0..3 {
        let passed = (0..200).filter(|n| ada.refusal(&format!("e{n}"), "").is_empty()).count();
        assert_eq!(passed, if round == 0 { 200 } else { 0 });
    }
}

#[test]
fn a_reload_refills_nothing_that_has_not_changed() {
    let limits = format!("user_events = {{ {SLOW}, burst = 9 }}");
    let gateway = Gateway::start(&config(&limits, &rated(2)));
    let mut ada = Peer::joined(&gateway, user("ada"));
    assert_eq!(ada.refusal("e0", ""), "");
    reload(&gateway, &config(&limits, &rated(3)));
    assert_eq!(ada.refusal("e0", ""), "rate_limited");
    assert_eq!(["e1", "e2"].map(|event| ada.refusal(event, "")), [""; 2]);
    let left = (0..20).filter(|_| ada.refusal("x", "").is_empty()).count();
    assert_eq!(left, 5, "of nine, four are gone");
    // A rate that has changed begins anew.
    reload(&gateway, &config("", &rated(1).replace("burst = 1", "burst = 2")));
    assert_eq!(["e0"; 3].map(|event| ada.refusal(event, "")), ["", "", "rate_limited"]);
}

#[test]
fn acknowledgements_that_nobody_has_asked_for_count_as_events() {
    let limits = format!("socket_events = {{ {SLOW}, burst = 20 }}\nstrikes = 5");
    let gateway = Gateway::start(&config(&limits, ""));
    let mut ada = gateway.client();
    // One that was asked for is none of them.
    let api = gateway.api;
    let asking = std::thread::spawn(move || {
        let ask = r#"{"event":"there?","ack":true,"timeout_ms":20000}"#;
        Http::connect(api).post("/v1/emit", ask).expect(200)
    });
    let asked = ada.text();
    let id = asked.strip_prefix("42").and_then(|it| it.strip_suffix("[\"there?\"]"));
    ada.send(&format!("43{}[\"yes\"]", id.expect("an id")));
    assert_eq!(asking.join().expect("an answer")["responses"][0]["response"], "yes");
    for _ in 0..18 {
        ada.send("43999[\"nobody has asked\"]");
    }
    assert_eq!([ada.ask("x", ""), ada.ask("x", "")], ["[{\"ok\":true}]"; 2]);
    assert!(ada.ask("x", "").contains("rate_limited"));
    for _ in 0..5 {
        ada.send("43999[]");
    }
    assert_eq!(ada.rest().first(), Some(&Frame::Text("41".into())));
    until("the metric", || metric(&gateway, "corecast_acks_unexpected_total") == 23.0);
}

#[test]
fn rates_that_allow_nothing_are_refused() {
    for (limits, text) in [
        ("socket_events = { per_second = 0 }", "limits.socket_events"),
        ("user_bytes = { per_second = 1, burst = -1 }", "limits.user_bytes"),
        ("event = \"disconnect\"", "limits.event"),
    ] {
        let error = Gateway::refuses(&config(limits, ""));
        assert!(error.contains(text), "{limits}: {error}");
    }
}
