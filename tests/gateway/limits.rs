//! What one client or user may send at most.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::peer::{Peer, Told, reload};
use crate::rig::Gateway;
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
    for _ in 0..4 {
        assert_eq!(ada.event()[0], "limit");
    }
    assert_eq!(ada.told(), Told::Disconnect);
    assert_eq!(ada.told(), Told::End);
    assert_eq!(ben.refusal("x", ""), "");
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
