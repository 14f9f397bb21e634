//! What a backend says of clients that want to connect.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::backend::{Answer, Backend, Request, ok, status};
use crate::peer::Peer;
use crate::rig::{Gateway, join_as, until};
use crate::tokens::{Signer, claims};
use crate::webhooks::{ROUTES, config, ended, metric, total};

pub fn connect_config(backend: &Backend, hook: &str) -> String {
    config(backend, &format!("on = [\"connect\", \"disconnect\"]\n{hook}"))
}

#[test]
fn a_backend_decides_who_may_connect_and_as_whom() {
    let backend = Backend::start(|request| {
        let body = request.json();
        if body["type"] == "disconnect" {
            return status(200);
        }
        match body["auth"]["name"].as_str() {
            Some("ada") => ok(json!({ "user": "ada", "rooms": ["vip"], "data": { "level": 7 },
                "claims": { "team": "red" }, "permissions": ["join:team:*"] })),
            Some("eve") => ok(json!({ "refuse": { "message": "banned", "data": { "days": 3 } } })),
            Some("bob") => Answer::Says(403, "", json!({ "message": "no bobs" }).to_string()),
            Some("odd") => ok(json!({ "usr": "typo" })),
            _ => status(204),
        }
    });
    let gateway = Gateway::start(&connect_config(&backend, ""));
    let refused = |name: &str| {
        join_as(&mut gateway.session(), "/", &json!({ "name": name }).to_string()).expect_err(name)
    };
    assert_eq!(refused("eve"), json!({ "message": "banned", "data": { "days": 3 } }));
    assert_eq!(refused("bob"), json!({ "message": "no bobs" }));
    assert_eq!(refused("odd")["message"], "the backend cannot be reached");
    let mut ada = gateway.session();
    let id = join_as(&mut ada, "/", r#"{"name":"ada"}"#).expect("she may come");
    let asked = backend.seen().into_iter().rfind(|it| it.json()["auth"]["name"] == "ada");
    let asked = asked.expect("it was asked");
    assert_eq!(asked.header("ce-type"), "io.corecast.connect.v1");
    let body = asked.json();
    assert_eq!((&body["socket"], &body["address"]), (&json!(id), &json!("127.0.0.1")));
    for target in [json!({ "rooms": ["vip"] }), json!({ "users": ["ada"] })] {
        let mut command = target;
        command["event"] = "hello".into();
        assert!(gateway.post("/v1/emit", &command.to_string()).status < 300);
        assert_eq!(ada.event(), ("hello".into(), vec![]));
    }
    backend.now(|_| ok(json!("seen")));
    assert_eq!(ada.ask("ask", ""), r#"["seen"]"#);
    let event = backend.seen().pop().expect("it was asked").json();
    assert_eq!((&event["user"], &event["claims"]["team"]), (&json!("ada"), &json!("red")));
    ada.send("41");
    // Who was let in with an answer that cannot be used is told of as well.
    let gone = |it: &Request| {
        it.header("ce-type") == "io.corecast.disconnect.v1" && it.header("ce-subject") == id
    };
    let seen = backend.until(|seen| seen.iter().any(gone));
    let gone = seen.iter().find(|it| gone(it)).expect("it was told").json();
    let told = json!({ "type": "disconnect", "id": gone["id"], "namespace": "/", "socket": id,
        "user": "ada", "claims": { "team": "red" }, "reason": "client namespace disconnect" });
    assert_eq!(gone, told);
}

#[test]
fn what_a_backend_says_of_a_client_is_checked_as_a_token_is() {
    let many: Vec<_> = (0..50_000).map(|n| format!("r{n}")).collect();
    let many = json!({ "rooms": many });
    let backend = Backend::start(move |request| match request.json()["auth"].clone() {
        auth if auth["many"] == true => ok(many.clone()),
        auth => ok(auth),
    });
    let gateway = Gateway::start(&connect_config(&backend, ""));
    let mut ada = gateway.session();
    let id = join_as(&mut ada, "/", r#"{"user":"ada","rooms":["vip"]}"#).expect("it is good");
    let wrong = [
        json!({ "user": "" }),
        json!({ "user": "a\n" }),
        json!({ "user": "x".repeat(201) }),
        json!({ "rooms": ["vip", "user:ada"] }),
        json!({ "rooms": [id] }),
        json!({ "rooms": [""] }),
        json!({ "rooms": ["a\n"] }),
        json!({ "many": true }),
    ];
    for answer in &wrong {
        let auth = answer.to_string();
        let error = join_as(&mut gateway.session(), "/", &auth).expect_err(&auth);
        assert_eq!(error["message"], "the backend cannot be reached");
    }
    assert_eq!(ended(&gateway, "bad_answer"), wrong.len() as u64);
    gateway.wait_for_log("the id of its user is no name for one");
}

/// Backends were told that it has gone, so they are asked when it is back.
#[test]
fn a_client_that_comes_back_to_its_session_is_asked_about_again() {
    let backend = Backend::start(|request| match request.json()["type"] == "connect" {
        true => ok(json!({ "user": "ada" })),
        false => status(200),
    });
    let recovery = "[server.connection_state_recovery]\n";
    let gateway = Gateway::start(&(connect_config(&backend, "") + recovery));
    let kinds = |seen: &[Request]| -> Vec<String> {
        seen.iter().map(|it| it.json()["type"].as_str().expect("a kind").to_owned()).collect()
    };
    let join = |auth: &Value| {
        let mut socket = gateway.session();
        socket.send(&format!("40{auth}"));
        let mut missed = Vec::new();
        // What was missed comes first.
        let joined = loop {
            match socket.text() {
                text if text.starts_with("40") => break text,
                text => missed.push(text),
            }
        };
        (socket, serde_json::from_str::<Value>(&joined[2..]).expect("JSON"), missed)
    };
    let (mut ada, first, _) = join(&json!({}));
    gateway.post("/v1/emit", r#"{"event":"news","users":["ada"]}"#).expect(202);
    let (name, args) = ada.event();
    assert_eq!(name, "news");
    drop(ada);
    backend.until(|seen| kinds(seen) == ["connect", "disconnect"]);
    gateway.post("/v1/emit", r#"{"event":"missed","users":["ada"]}"#).expect(202);
    let (mut ada, second, missed) = join(&json!({ "pid": first["pid"], "offset": args[0] }));
    assert_eq!(second["sid"], first["sid"], "it is the same one");
    assert!(missed.len() == 1 && missed[0].starts_with("42[\"missed\","), "{missed:?}");
    backend.until(|seen| kinds(seen) == ["connect", "disconnect", "connect"]);
    gateway.post("/v1/emit", r#"{"event":"more","users":["ada"]}"#).expect(202);
    assert_eq!(ada.event().0, "more");
}

#[test]
fn a_client_that_goes_while_it_is_decided_about_is_told_of() {
    let backend = Backend::start(|request| match request.json()["type"] == "connect" {
        true => Answer::Waits,
        false => status(200),
    });
    let other = Backend::start(|request| match request.json()["auth"]["bad"] == true {
        true => status(403),
        false => status(200),
    });
    let second =
        format!("[[webhook]]\nname = \"other\"\nurl = \"{}\"\non = [\"connect\"]\n", other.url());
    let gateway = Gateway::start(&connect_config(&backend, &second));
    let gone = |seen: &[Request]| -> Vec<Value> {
        let gone = seen.iter().map(Request::json).filter(|body| body["type"] == "disconnect");
        gone.collect()
    };
    let mut ada = gateway.session();
    ada.send("40");
    let asked = backend.wait(1)[0].json();
    drop(ada);
    until("her to be gone", || metric(&gateway, "corecast_sessions") == 0);
    backend.release(1);
    let told = gone(&backend.until(|seen| gone(seen).len() == 1)).remove(0);
    assert_eq!((&told["socket"], &told["reason"]), (&asked["socket"], &json!("transport close")));
    // What another backend refuses is not there either.
    let mut eve = gateway.session();
    eve.send(r#"40{"bad":true}"#);
    backend.release(1);
    assert!(eve.text().starts_with("44"));
    backend.until(|seen| gone(seen).len() == 2);
    // Who comes in is told of once.
    let mut bob = gateway.session();
    bob.send("40");
    backend.release(1);
    assert!(bob.text().starts_with("40"));
    bob.send("41");
    let told = gone(&backend.until(|seen| gone(seen).len() == 3)).remove(2);
    assert_eq!(told["reason"], "client namespace disconnect");
}

#[test]
fn what_a_backend_says_of_a_client_outlasts_its_tokens() {
    let backend = Backend::start(|request| match request.json()["auth"]["name"].as_str() {
        Some("permitted") => ok(json!({ "permissions": ["join:y"], "claims": { "team": "red" } })),
        Some(_) => ok(json!({ "user": "ada", "rooms": ["said"] })),
        None => status(204),
    });
    let secret = "a-secret-of-forty-bytes-for-these-tests!";
    let auth = format!(
        "[[namespace.route]]\nevent = \"join\"\ndo = \"join\"\nto = \"args[0]\"\n\
         [[namespace.route]]\nevent = \"say\"\ndo = \"room\"\nto = \"args[0]\"\n\
         [auth]\npermissions = [\"join:room:{{user}}\"]\nrooms = [\"team:{{claims.team}}\"]\n\
         [[auth.key]]\nsecret = \"{secret}\"\n"
    );
    let url = backend.url();
    let hook = format!("[[webhook]]\nname = \"app\"\nurl = \"{url}\"\non = [\"connect\"]\n");
    let gateway = Gateway::start(&format!("{ROUTES}{auth}{hook}"));
    let signer = Signer::secret(Algorithm::HS256, secret);
    let token = |rooms: &[&str]| signer.sign(&claims("u", &json!({ "rooms": rooms })));
    let join = |name: &str| {
        Peer::joined(&gateway, json!({ "token": token(&["said", "x"]), "name": name }))
    };
    let codes = |peer: &mut Peer, event: &str, rooms: [&str; 3]| {
        rooms.map(|room| peer.refusal(event, &json!(room).to_string()))
    };
    // Templates are of who the backend says it is; a new token is of who the old one was of.
    let mut ada = join("ada");
    let rooms = ["room:ada", "room:u", "y"];
    assert_eq!(codes(&mut ada, "join", rooms), ["", "not_allowed", "not_allowed"]);
    assert_eq!(ada.ask("auth:refresh", &json!(token(&[])).to_string())["ok"], true);
    assert_eq!(codes(&mut ada, "say", ["said", "x", "room:ada"]), ["", "not_in_room", ""]);
    assert_eq!(codes(&mut ada, "join", rooms), ["", "not_allowed", "not_allowed"]);
    let other = json!(signer.token("ada")).to_string();
    assert_eq!(ada.refusal("auth:refresh", &other), "user_changed");
    // Permissions of the backend are all there are, before and after.
    let mut ben = join("permitted");
    for _ in 0..2 {
        assert_eq!(
            codes(&mut ben, "join", ["y", "room:u", "z"]),
            ["", "not_allowed", "not_allowed"]
        );
        assert_eq!(ben.refusal("say", "\"team:red\""), "");
        assert_eq!(ben.ask("auth:refresh", &json!(token(&[])).to_string())["ok"], true);
    }
}

#[test]
fn who_may_connect_while_the_backend_is_down_is_configured() {
    let backend = Backend::start(|_| status(500));
    let within = "answer_within = \"200ms\"\n";
    let refusing = Gateway::start(&connect_config(&backend, within));
    let error = join_as(&mut refusing.session(), "/", "").expect_err("nobody decides");
    let data = json!({ "code": "backend_unavailable" });
    assert_eq!(error, json!({ "message": "the backend cannot be reached", "data": data }));
    let admitting =
        Gateway::start(&connect_config(&backend, &format!("{within}when_down = \"admit\"\n")));
    join_as(&mut admitting.session(), "/", "").expect("it may come all the same");
    assert_eq!(total(&admitting), 1);
}
