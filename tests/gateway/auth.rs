//! Who clients are: tokens of every kind, good and bad, and how long they hold.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::client::Stream;
use crate::peer::{Peer, Told, Way, reload};
use crate::rig::{Folder, Gateway, until};
use crate::tokens::{Signer, claims, forged, now};

const SECRET: &str = "a-secret-of-forty-bytes-for-these-tests!";

/// A route that says who one is.
const WHO: &str = r#"
[[namespace]]
name = "/"
[[namespace.route]]
event = "who"
do = "reply"
ack = { user = "{user}", team = "{claims.team}" }
"#;

/// Clients say something to a room, and join one.
const SAY_AND_JOIN: &str = r#"
[[namespace.route]]
event = "say"
do = "room"
to = "args[0]"
[[namespace.route]]
event = "join"
do = "join"
to = "args[0]"
"#;

/// A gateway that knows `SECRET`, with more about authentication.
fn with_secret(more: &str, rest: &str) -> String {
    format!("[auth]\n{more}\n[[auth.key]]\nsecret = \"{SECRET}\"\n{WHO}\n{rest}")
}

fn hs256() -> Signer {
    Signer::secret(Algorithm::HS256, SECRET)
}

/// The code that a token is refused with; empty if it is not.
fn code(gateway: &Gateway, token: &str) -> String {
    match Peer::join(gateway, json!({ "token": token })) {
        Ok(_) => String::new(),
        Err(error) => {
            let text = error.to_string();
            assert!(token.is_empty() || !text.contains(token), "the token is echoed: {text}");
            assert_eq!(error["message"], error["data"]["message"]);
            error["data"]["code"].as_str().expect("a code").to_owned()
        }
    }
}

#[test]
fn every_kind_of_key() {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256};
    let folder = Folder::new();
    let rsa = Signer::new(RS256);
    let [p256, p384, ed] = [ES256, ES384, EdDSA].map(Signer::new);
    let mut config = format!("[[auth.key]]\nsecret = \"{SECRET}\"\n");
    for (name, signer) in [("rsa", &rsa), ("p256", &p256), ("p384", &p384), ("ed", &ed)] {
        let path = folder.write(&format!("{name}.pem"), &signer.public);
        config.push_str(&format!("[[auth.key]]\npublic_key_file = {:?}\n", path));
    }
    let gateway = Gateway::start_with(folder, &format!("{config}{WHO}"), |_| {});
    let mut signers: Vec<Signer> =
        [HS256, HS384, HS512].map(|algorithm| Signer::secret(algorithm, SECRET)).into();
    let of_rsa = [RS256, Algorithm::RS384, Algorithm::RS512, PS256, PS384, PS512];
    signers.extend(of_rsa.map(|algorithm| rsa.with(algorithm)));
    signers.extend([p256, p384, ed]);
    assert_eq!(signers.len(), 12);
    for signer in &signers {
        let token = signer.sign(&claims("ada", &json!({ "team": "red" })));
        let mut ada = Peer::joined(&gateway, json!({ "token": token }));
        let who = json!({ "user": "ada", "team": "red" });
        assert_eq!(ada.ask("who", ""), who, "{:?}", signer.algorithm);
        // The same key pair again, but not the one that the gateway knows.
        let other = match signer.public.is_empty() {
            true => Signer::secret(signer.algorithm, "another-secret-of-forty-bytes-or-so-----"),
            false => Signer::new(signer.algorithm),
        };
        assert_eq!(code(&gateway, &other.token("ada")), "token_signature");
    }
}

#[test]
fn bad_tokens_are_refused_with_a_code() {
    let folder = Folder::new();
    let rsa = Signer::new(Algorithm::RS256);
    let rsa_file = folder.write("rsa.pem", &rsa.public);
    let config = format!(
        "[auth]\nissuers = [\"https://id.example\"]\naudiences = [\"chat\", \"news\"]\n\
         leeway = \"2s\"\n[[auth.key]]\nsecret = \"{SECRET}\"\nkid = \"one\"\n\
         algorithms = [\"HS256\"]\n[[auth.key]]\npublic_key_file = {rsa_file:?}\n{WHO}"
    );
    let gateway = Gateway::start_with(folder, &config, |command| {
        command.env("RUST_LOG", "trace");
    });
    let signer = hs256().named("one");
    let good = claims("ada", &json!({ "iss": "https://id.example", "aud": ["x", "news"] }));
    let but = |key: &str, value: Value| {
        let mut claims = good.clone();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(key)),
            value => claims[key] = value,
        }
        signer.sign(&claims)
    };
    let token = signer.sign(&good);
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let payload = but("sub", "root".into());
    let tampered = format!("{header}.{}.{signature}", payload.split('.').nth(1).unwrap());
    let huge = but("more", "x".repeat(9_000).into());
    let none = forged(&json!({ "alg": "none", "typ": "JWT" }), &good, "");
    let empty = forged(&json!({ "alg": "HS256", "kid": "one" }), &good, "");
    let confused = |secret: &str| Signer::secret(Algorithm::HS256, secret).sign(&good);
    let der: String = rsa.public.lines().filter(|line| !line.starts_with('-')).collect();
    let critical = forged(&json!({ "alg": "HS256", "crit": ["b64"], "b64": false }), &good, "x");
    for (token, expected) in [
        (token.clone(), ""),
        (rsa.sign(&good), ""),
        (but("aud", "chat".into()), ""),
        // It expired within the leeway, and begins to hold within it.
        (but("exp", (now() - 1).into()), ""),
        (but("nbf", (now() + 1).into()), ""),
        (String::new(), "token_missing"),
        ("x".into(), "token_malformed"),
        ("a.b.c".into(), "token_malformed"),
        ("..".into(), "token_malformed"),
        (token[..token.len() / 2].into(), "token_malformed"),
        (format!("{head}."), "token_signature"),
        (token[..token.len() - 3].into(), "token_signature"),
        (tampered, "token_signature"),
        (empty, "token_signature"),
        (none, "token_malformed"),
        (critical, "token_malformed"),
        (huge, "token_too_large"),
        (signer.with(Algorithm::HS512).sign(&good), "token_algorithm"),
        (Signer::new(Algorithm::EdDSA).sign(&good), "token_algorithm"),
        (hs256().named("two").sign(&good), "token_key_unknown"),
        (Signer::new(Algorithm::RS256).sign(&good), "token_signature"),
        (confused(&rsa.public), "token_signature"),
        (confused(rsa.public.trim()), "token_signature"),
        (confused(&der), "token_signature"),
        (but("exp", (now() - 60).into()), "token_expired"),
        (but("exp", 0.into()), "token_expired"),
        (but("exp", Value::Null), "token_claims"),
        (but("exp", "never".into()), "token_claims"),
        (but("exp", (-1).into()), "token_claims"),
        (but("nbf", (now() + 60).into()), "token_not_yet_valid"),
        (but("iss", "https://evil.example".into()), "token_issuer"),
        (but("iss", Value::Null), "token_claims"),
        (but("aud", "other".into()), "token_audience"),
        (but("aud", json!([])), "token_audience"),
        (but("aud", Value::Null), "token_claims"),
        (but("sub", Value::Null), "token_claims"),
        (but("sub", "".into()), "token_claims"),
        (but("sub", "a\nb".into()), "token_claims"),
        (but("sub", "x".repeat(201).into()), "token_claims"),
        (but("sub", json!({})), "token_malformed"),
        (but("rooms", json!(["ok", 1])), "token_claims"),
        (but("rooms", json!(["user:bob"])), "token_claims"),
        (but("rooms", json!(["x".repeat(256)])), "token_claims"),
        (signer.sign(&json!([1, 2])), "token_malformed"),
        (
            signer.sign(&json!([now() + 60, 0, "ada", "https://id.example", "chat"])),
            "token_malformed",
        ),
    ] {
        assert_eq!(code(&gateway, &token), expected, "{token}");
        if !token.is_empty() && token.len() > 20 {
            assert!(!gateway.log().contains(&token), "a token is in the log");
        }
    }
    for token in [json!(5), json!({ "a": 1 }), json!(["x"]), json!(true)] {
        let error = Peer::join(&gateway, json!({ "token": token })).err().expect("no token");
        assert_eq!(error["data"]["code"], "token_malformed");
    }
    assert!(!gateway.log().contains(SECRET), "the secret is in the log");
    // They count as clients that were not let in, and not as events.
    let metrics = gateway.get("/metrics").body;
    let expired = "connects_refused_total{namespace=\"/\",code=\"token_expired\"} 2";
    assert!(metrics.contains(expired), "{metrics}");
    assert!(!metrics.contains("events_refused_total{"), "{metrics}");
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    let folder = Folder::new();
    let private = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let private = folder.write("private.pem", &private);
    let garbage = folder.write("garbage.pem", "nothing");
    let empty = folder.write("empty", "\n");
    for (key, text) in [
        (String::new(), "give one of"),
        (format!("secret = \"{SECRET}\"\njwks_url = \"http://localhost/\""), "give one of"),
        (format!("secret = \"{SECRET}\"\nalgorithms = [\"RS256\"]"), "algorithms: "),
        (format!("secret = \"{SECRET}\"\nalgorithms = [\"none\"]"), "algorithms: "),
        (format!("secret_file = {empty:?}"), "is empty"),
        ("secret_file = \"/nowhere/at/all\"".into(), "/nowhere/at/all"),
        (format!("public_key_file = {private:?}"), "no PEM public key"),
        (format!("public_key_file = {garbage:?}"), "no PEM public key"),
        ("secret = \"thirty-one bytes are not enough\"".into(), "secret: needs at least 32 bytes"),
        ("jwks_url = \"ftp://localhost/\"".into(), "neither http nor https"),
        ("jwks_url = \"http://ada:hush@localhost/\"".into(), "password"),
        ("jwks_url = \"http://localhost/\"\nalgorithms = [\"HS256\"]".into(), "public"),
    ] {
        let error = Gateway::refuses(&format!("[[auth.key]]\n{key}\n{WHO}"));
        assert!(error.contains("auth.key[0]") && error.contains(text), "{key}: {error}");
        assert!(!error.contains(SECRET) && !error.contains("hush"), "{error}");
    }
}

#[test]
fn tokens_come_in_many_ways() {
    let cookies = "token_from = [\"cookie.t\"]";
    let error = Gateway::refuses(&with_secret(cookies, ""));
    assert!(error.contains("auth.token_from: with a cookie"), "{error}");
    let more = r#"token_from = [
        "auth.session.jwt", "header.authorization", "header.x-token", "cookie.t", "query.token",
    ]
    origins = ["*"]"#;
    let gateway = Gateway::start(&with_secret(more, ""));
    let token = |user: &str| hs256().token(user);
    let who = |auth: Value, query: &str, headers: &str| -> String {
        let way = Way { auth, query, headers, ..Way::default() };
        match Peer::by(gateway.address, &way).expect("a session") {
            Ok(mut peer) => peer.ask("who", "")["user"].as_str().unwrap_or_default().to_owned(),
            Err(error) => error["data"]["code"].as_str().unwrap_or_default().to_owned(),
        }
    };
    let bearer = format!("Authorization: bearer {}\r\n", token("ben"));
    let header = format!("X-Token: {}\r\n", token("cy"));
    let cookie = format!("Cookie: a=b; t={}; u=v\r\n", token("dan"));
    let query = format!("&token={}", token("eve"));
    let auth = json!({ "session": { "jwt": token("ada") } });
    assert_eq!(who(Value::Null, &query, ""), "eve");
    assert_eq!(who(Value::Null, &query, &cookie), "dan");
    assert_eq!(who(Value::Null, &query, &format!("{cookie}{header}")), "cy");
    assert_eq!(who(Value::Null, &query, &format!("{cookie}{header}{bearer}")), "ben");
    assert_eq!(who(auth, &query, &format!("{cookie}{header}{bearer}")), "ada");
    assert_eq!(who(json!({ "token": token("ada") }), "", ""), "token_missing");
    assert_eq!(who(Value::Null, "", "Authorization: Basic YTpi\r\n"), "token_missing");
    assert_eq!(who(Value::Null, "", "Cookie: xt=1; t=\r\n"), "token_missing");
    // The first that is there counts, good or not.
    assert_eq!(who(json!({ "session": { "jwt": "x" } }), &query, ""), "token_malformed");
}

#[test]
fn claims_say_who_and_what() {
    let more = "user_claim = \"https://x.example/id.n\"\nrooms_claim = \"in\"\n\
                permissions_claim = \"scope\"\nrooms = [\"team:{claims.team}\", \"all\"]\n\
                permissions = [\"join:own:{user}\"]";
    let routes = r#"
[[namespace.route]]
event = "say"
do = "room"
to = "args[0].room"
[[namespace.route]]
event = "join"
do = "join"
to = "args[0]"
[[namespace.route]]
event = "write"
do = "drop"
require = "doc:{args[0]}:write"
"#;
    let gateway = Gateway::start(&with_secret(more, routes));
    let claims = json!({
        "https://x.example/id": { "n": 42 }, "exp": now() + 60, "team": "red",
        "in": ["lobby"], "scope": "join:team:* doc:7:write",
    });
    let mut ada = Peer::joined(&gateway, json!({ "token": hs256().sign(&claims) }));
    assert_eq!(ada.ask("who", ""), json!({ "user": "42", "team": "red" }));
    for room in ["lobby", "team:red", "all"] {
        assert_eq!(ada.refusal("say", &json!({ "room": room }).to_string()), "", "{room}");
    }
    for (room, refusal) in [
        ("team:blue", ""),
        ("own:42", ""),
        ("own:43", "not_allowed"),
        ("team:", "not_allowed"),
        ("team:a:b", "not_allowed"),
        ("user:42", "bad_room"),
    ] {
        assert_eq!(ada.refusal("join", &json!(room).to_string()), refusal, "{room}");
    }
    assert_eq!(ada.refusal("write", "7"), "");
    assert_eq!(ada.refusal("write", "8"), "not_allowed");
    assert_eq!(ada.refusal("write", "\"7:write:x\""), "bad_room");
}

#[test]
fn anonymous_clients_are_a_choice() {
    let closed = Gateway::start(&with_secret("", ""));
    assert_eq!(code(&closed, ""), "token_missing");
    let open = Gateway::start(&with_secret("anonymous = true", ""));
    let mut nobody = Peer::joined(&open, Value::Null);
    assert_eq!(nobody.ask("who", ""), json!({ "user": null, "team": null }));
    assert_eq!(nobody.refusal("auth:refresh", "\"x\""), "not_authenticated");
    assert_eq!(code(&open, "x"), "token_malformed");
    let without_keys = Gateway::start(WHO);
    let mut nobody = Peer::joined(&without_keys, json!({ "token": "x" }));
    assert_eq!(nobody.ask("who", "")["user"], Value::Null);
}

#[test]
fn claims_give_no_more_than_they_say() {
    let more = "permissions = [\"join:room:{claims.nick}\", \"join:{claims.team}:*\", \
                \"{claims.role}\"]\nrooms = [\"in:{claims.nick}\"]";
    let routes = r#"
[[namespace.route]]
event = "join"
do = "join"
to = "args[0]"
"#;
    let gateway = Gateway::start(&with_secret(more, routes));
    for (claims, room) in [
        (json!({ "nick": "\u{1}" }), "room:secret"),
        (json!({ "nick": "\u{2}" }), "room:secret:deep"),
        (json!({ "nick": "a\u{2}" }), "room:abc"),
        (json!({ "nick": "a:b" }), "room:a:b"),
        (json!({ "nick": "" }), "room:"),
        (json!({ "team": "a:b" }), "a:b:c"),
        (json!({ "team": "\u{1}" }), "a:b"),
        (json!({ "role": "\u{2}" }), "room:secret"),
        (json!({ "role": "**" }), "room:secret"),
    ] {
        let token = hs256().sign(&self::claims("eve", &claims));
        let mut eve = Peer::joined(&gateway, json!({ "token": token }));
        assert_eq!(eve.refusal("join", &json!(room).to_string()), "not_allowed", "{claims}");
    }
    let token = hs256().sign(&self::claims("ada", &json!({ "nick": "ada", "team": "red" })));
    let mut ada = Peer::joined(&gateway, json!({ "token": token }));
    for room in ["room:ada", "red:x"] {
        assert_eq!(ada.refusal("join", &json!(room).to_string()), "", "{room}");
    }
}

#[test]
fn what_is_closed_by_mistake_only_is_refused() {
    for (auth, key) in [
        ("issuers = [\"https://id.example\"]", "auth.issuers"),
        ("audiences = [\"chat\"]", "auth.audiences"),
        ("require_expiry = false", "auth.require_expiry"),
        ("token_from = [\"query.t\"]", "auth.token_from"),
        ("anonymous = false", "auth.anonymous"),
    ] {
        let error = Gateway::refuses(&format!("[auth]\n{auth}\n{WHO}"));
        assert!(error.contains(key) && error.contains("everybody is let in"), "{auth}: {error}");
        let own = format!("{WHO}[[namespace]]\nname = \"/b\"\n[namespace.auth]\n{auth}\n");
        let error = Gateway::refuses(&own);
        assert!(error.contains(&format!("namespace[1].{key}")), "{auth}: {error}");
    }
    // Where a backend decides, nobody is let in by mistake.
    let hook = "[[webhook]]\nname = \"a\"\nurl = \"http://127.0.0.1:1/\"\non = [\"connect\"]\n\
                answer_within = \"100ms\"\n";
    let gateway = Gateway::start(&format!("[auth]\nanonymous = false\n{WHO}{hook}"));
    assert!(Peer::join(&gateway, Value::Null).is_err());
}

#[test]
fn auth_is_not_decoded_beyond_a_bound() {
    let gateway = Gateway::start(&with_secret("", ""));
    let token = hs256().token("ada");
    let padded = |length: usize| json!({ "token": token, "more": "x".repeat(length) });
    assert!(Peer::join(&gateway, padded(60_000)).is_ok());
    let error = Peer::join(&gateway, padded(66_000)).err().expect("too long");
    assert_eq!(error["data"]["code"], "auth_too_large");
}

#[test]
fn a_reload_changes_what_those_who_are_connected_may_do() {
    let config = |auth: &str| with_secret(auth, SAY_AND_JOIN);
    let first = "permissions = [\"join:a\", \"join:own:{user}\"]\nrooms = [\"x:{user}\", \"y\"]";
    let gateway = Gateway::start(&config(first));
    let claims = claims("ada", &json!({ "rooms": ["mine"], "scope": "join:c" }));
    let mut ada = Peer::joined(&gateway, json!({ "token": hs256().sign(&claims) }));
    let mut codes = |event: &str, rooms: &[&str]| -> Vec<String> {
        rooms.iter().map(|room| ada.refusal(event, &json!(room).to_string())).collect()
    };
    let joins = ["a", "own:ada", "b", "c"];
    assert_eq!(codes("join", &joins), ["", "", "not_allowed", "not_allowed"]);
    assert_eq!(codes("say", &["x:ada", "y", "z", "mine"]), ["", "", "not_in_room", ""]);
    let second =
        "permissions_claim = \"scope\"\npermissions = [\"join:b\"]\nrooms = [\"y\", \"z\"]";
    reload(&gateway, &config(second));
    // All that the reload has to do on the shards was done when its rooms have changed.
    until("the new rooms", || codes("say", &["z"]) == [""]);
    assert_eq!(codes("say", &["x:ada", "y", "z", "mine"]), ["not_in_room", "", "", ""]);
    // Who is in a room stays; nobody comes in by the old rules.
    assert_eq!(codes("join", &["d", "b", "c"]), ["not_allowed", "", ""]);
    assert_eq!(codes("say", &["a", "own:ada"]), ["", ""]);
    reload(&gateway, &config(first));
    until("the old rooms", || codes("say", &["x:ada"]) == [""]);
    assert_eq!(codes("join", &["own:ben"]), ["not_allowed"]);
}

#[test]
fn who_would_not_be_let_in_any_more_has_time_to_show_another_token() {
    let with = |secrets: &[&str], more: &str| {
        let keys = secrets.iter().map(|it| format!("[[auth.key]]\nsecret = \"{it}\"\n"));
        let keys = keys.collect::<String>();
        format!("[auth]\nleeway = \"0s\"\nwarn_before = \"3s\"\n{more}\n{keys}{WHO}")
    };
    let fresh = "the-next-secret-of-forty-bytes-or-more--";
    let new = || Signer::secret(Algorithm::HS256, fresh);
    let gateway = Gateway::start(&with(&[SECRET, fresh], "anonymous = true"));
    let show = |signer: Signer, user: &str| json!({ "token": signer.token(user) });
    let mut nobody = Peer::joined(&gateway, Value::Null);
    let mut ada = Peer::joined(&gateway, show(hs256(), "ada"));
    let mut ben = Peer::joined(&gateway, show(hs256(), "ben"));
    let mut cy = Peer::joined(&gateway, show(new(), "cy"));
    reload(&gateway, &with(&[fresh], ""));
    for peer in [&mut nobody, &mut ada, &mut ben] {
        let warning = peer.event();
        assert_eq!(warning[0], "auth:expiring");
        assert!(warning[1].as_u64().expect("seconds") <= 3, "{warning:?}");
    }
    let token = |signer: Signer| Value::from(signer.token("ada")).to_string();
    assert_eq!(ada.refusal("auth:refresh", &token(hs256())), "token_signature");
    assert_eq!(ada.ask("auth:refresh", &token(new()))["ok"], true);
    for (mut peer, code) in [(nobody, "token_missing"), (ben, "token_key_unknown")] {
        let told = peer.event();
        assert_eq!((&told[0], &told[1]["code"]), (&json!("auth:expired"), &json!(code)));
        assert_eq!(peer.told(), Told::Disconnect);
    }
    for (peer, user) in [(&mut ada, "ada"), (&mut cy, "cy")] {
        assert_eq!(peer.ask("who", "")["user"], user, "stays");
    }
}

#[test]
fn tokens_without_a_user_are_renewed_too() {
    let gateway = Gateway::start(&with_secret("user_claim = \"\"", ""));
    let token = |team: &str| hs256().sign(&json!({ "exp": now() + 600, "team": team }));
    let mut peer = Peer::joined(&gateway, json!({ "token": token("red") }));
    assert_eq!(peer.ask("who", ""), json!({ "user": null, "team": "red" }));
    assert_eq!(peer.ask("auth:refresh", &json!(token("blue")).to_string())["ok"], true);
    assert_eq!(peer.ask("who", "")["team"], "blue");
}

#[test]
fn rooms_of_a_token_have_room() {
    let routes = "[[namespace.route]]\nevent = \"say\"\ndo = \"room\"\nto = \"args[0]\"\n\
                  [server]\nmax_rooms = 5\n";
    let gateway = Gateway::start(&with_secret("", routes));
    let token = |rooms: &[&str]| hs256().sign(&claims("ada", &json!({ "rooms": rooms })));
    assert_eq!(code(&gateway, &token(&["a", "b", "c", "d", "e"])), "room_limit");
    // That of the user is one, and what is there twice counts once.
    let mut ada = Peer::joined(&gateway, json!({ "token": token(&["a", "b", "c", "d", "a"]) }));
    let refresh = |ada: &mut Peer, rooms: &[&str]| {
        ada.refusal("auth:refresh", &json!(token(rooms)).to_string())
    };
    assert_eq!(refresh(&mut ada, &["b", "e", "f", "g", "h"]), "room_limit");
    let say =
        |ada: &mut Peer| ["a", "b", "e"].map(|room| ada.refusal("say", &json!(room).to_string()));
    assert_eq!(say(&mut ada), ["", "", "not_in_room"], "nothing has changed");
    assert_eq!(refresh(&mut ada, &["b", "e", "f", "g"]), "");
    assert_eq!(say(&mut ada), ["not_in_room", "", ""]);
}

#[test]
fn two_new_tokens_at_once_leave_no_room_behind() {
    let routes = "[[namespace.route]]\nevent = \"say\"\ndo = \"room\"\nto = \"args[0]\"\n";
    let gateway = Gateway::start(&with_secret("", routes));
    let token = |room: &str| json!(hs256().sign(&claims("ada", &json!({ "rooms": [room] }))));
    let mut ada = Peer::joined(&gateway, json!({ "token": token("r0") }));
    ada.emit("auth:refresh", &token("r1").to_string());
    ada.emit("auth:refresh", &token("r2").to_string());
    assert_eq!(ada.ask("auth:refresh", &token("r3").to_string())["ok"], true);
    let codes = ["r0", "r1", "r2", "r3"].map(|room| ada.refusal("say", &json!(room).to_string()));
    assert_eq!(codes, ["not_in_room", "not_in_room", "not_in_room", ""]);
}

#[test]
fn a_secret_rotates_without_a_restart() {
    let folder = Folder::new();
    let file = folder.write("secret", &format!("{SECRET}\n"));
    let keys = |kid: &str| format!("[[auth.key]]\nsecret_file = {file:?}\nkid = \"{kid}\"\n");
    let first = format!("{}{WHO}", keys("1"));
    let gateway = Gateway::start_with(folder, &first, |_| {});
    let old = hs256().named("1").token("ada");
    let mut ada = Peer::joined(&gateway, json!({ "token": old }));
    let fresh = "the-next-secret-of-forty-bytes-or-more--";
    let new = Signer::secret(Algorithm::HS256, fresh).named("2").token("ada");
    assert_eq!(code(&gateway, &new), "token_key_unknown");
    let both = format!("{}[[auth.key]]\nsecret = \"{fresh}\"\nkid = \"2\"\n{WHO}", keys("1"));
    reload(&gateway, &both);
    assert_eq!([code(&gateway, &old), code(&gateway, &new)], ["", ""]);
    // The file alone is written anew; the same configuration is read.
    gateway.folder.write("secret", fresh);
    let second = format!("{}{WHO}", keys("2"));
    reload(&gateway, &second);
    assert_eq!(
        [code(&gateway, &old), code(&gateway, &new)],
        ["token_key_unknown".into(), String::new()]
    );
    assert_eq!(ada.ask("who", "")["user"], "ada", "who is in has time for a new token");
    assert!(!gateway.log().contains(SECRET) && !gateway.log().contains(fresh));
}

#[test]
fn tokens_expire_while_clients_are_connected() {
    let more = "leeway = \"0s\"\nwarn_before = \"1h\"\nexpired_event = \"bye\"";
    let gateway = Gateway::start(&with_secret(more, ""));
    let short = |user: &str| {
        let claims = json!({ "sub": user, "exp": now() + 6, "rooms": ["old", "both"] });
        json!({ "token": hs256().sign(&claims) })
    };
    let mut leaving = Peer::joined(&gateway, short("ada"));
    let mut staying = Peer::joined(&gateway, short("ada"));
    for peer in [&mut leaving, &mut staying] {
        let warning = peer.event();
        assert_eq!(warning[0], "auth:expiring");
        assert!(warning[1].as_u64().expect("seconds") <= 6, "{warning:?}");
    }
    // Nothing but a good token of the same user will do.
    let other = hs256().token("ben");
    for (token, code) in [
        (json!(other), "user_changed"),
        (json!("x"), "token_malformed"),
        (json!(5), "token_missing"),
    ] {
        assert_eq!(staying.refusal("auth:refresh", &token.to_string()), code);
    }
    let claims = json!({ "sub": "ada", "exp": now() + 7_200, "team": "new", "rooms": ["both"] });
    let token = Value::from(hs256().sign(&claims)).to_string();
    let answer = staying.ask("auth:refresh", &token);
    assert_eq!(answer, json!({ "ok": true, "expires_at": claims["exp"] }));
    let bye = leaving.event();
    assert_eq!((&bye[0], &bye[1]["code"]), (&json!("bye"), &json!("token_expired")));
    assert_eq!(leaving.told(), Told::Disconnect);
    // The one that showed a new token outlives the other by at least this.
    assert_eq!(staying.ask("who", ""), json!({ "user": "ada", "team": "new" }));
    // Who comes back needs another token.
    let expired = Peer::join(
        &gateway,
        json!({ "token": hs256().sign(&json!({ "sub": "ada", "exp": now() - 1 })) }),
    );
    assert_eq!(expired.err().expect("refused")["data"]["code"], "token_expired");
}

#[test]
fn a_refresh_changes_rooms_and_permissions() {
    let drop = "[[namespace.route]]\nevent = \"auth:*\"\ndo = \"drop\"\n";
    let routes = [SAY_AND_JOIN, drop].concat();
    let gateway = Gateway::start(&with_secret("refresh_event = \"renew\"", &routes));
    let token = |rooms: &[&str], permissions: &[&str]| {
        let more = json!({ "rooms": rooms, "permissions": permissions });
        hs256().sign(&claims("ada", &more))
    };
    let first = token(&["a", "b"], &["join:x"]);
    let mut ada = Peer::joined(&gateway, json!({ "token": first }));
    assert_eq!(
        ["a", "b", "c"].map(|room| ada.refusal("say", &json!(room).to_string())),
        ["", "", "not_in_room"]
    );
    assert_eq!(
        ["x", "y"].map(|room| ada.refusal("join", &json!(room).to_string())),
        ["", "not_allowed"]
    );
    let renewed = ada.ask("renew", &json!(token(&["b", "c"], &["join:y"])).to_string());
    assert_eq!(renewed["ok"], true);
    assert_eq!(
        ["a", "b", "c", "x"].map(|room| ada.refusal("say", &json!(room).to_string())),
        ["not_in_room", "", "", ""]
    );
    assert_eq!(
        ["y", "z"].map(|room| ada.refusal("join", &json!(room).to_string())),
        ["", "not_allowed"]
    );
    assert_eq!(ada.refusal("auth:refresh", "\"x\""), "", "is an event like others here");
}

/// Asks for a session over polling; status and head.
fn handshake(gateway: &Gateway, origin: &str) -> (u16, String) {
    let mut stream = Stream::connect(gateway.address);
    let request = format!(
        "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: test\r\nOrigin: {origin}\r\n\r\n"
    );
    stream.write(request.as_bytes());
    stream.head()
}

#[test]
fn origins_are_checked_at_the_handshake() {
    let config = |origins: &str| format!("[auth]\norigins = [{origins}]\n{WHO}");
    let gateway = Gateway::start(&config("\"https://a.example\", \"https://*.b.example\""));
    for (origin, is_allowed) in [
        ("https://a.example", true),
        ("https://x.b.example", true),
        ("https://b.example", false),
        ("https://evil.example", false),
        ("null", false),
    ] {
        let (status, head) = handshake(&gateway, origin);
        assert_eq!(status, if is_allowed { 200 } else { 403 }, "{origin}");
        let allows = format!("access-control-allow-origin: {origin}\r\n");
        assert_eq!(head.contains(&allows), is_allowed, "{origin}: {head}");
        let headers = format!("Origin: {origin}\r\n");
        let way = Way { headers: &headers, ..Way::default() };
        assert_eq!(Peer::by(gateway.address, &way).is_ok(), is_allowed, "{origin}");
    }
    assert!(Peer::join(&gateway, Value::Null).is_ok(), "no page");
    reload(&gateway, &config("\"https://evil.example\""));
    assert_eq!(handshake(&gateway, "https://a.example").0, 403);
    let (status, head) = handshake(&gateway, "https://evil.example");
    assert_eq!(status, 200);
    assert!(head.contains("access-control-allow-origin: https://evil.example\r\n"), "{head}");
}

/// Sends a request to the data port; its status and body.
fn request(gateway: &Gateway, line: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = Stream::connect(gateway.address);
    let length = body.len();
    stream.write(
        format!("{line} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
            .as_bytes(),
    );
    stream.response()
}

#[test]
fn what_browsers_send_without_an_origin_gives_pages_nothing() {
    let restricted = format!("[auth]\norigins = [\"https://good.example\"]\n{WHO}");
    let polling = "/socket.io/?EIO=4&transport=polling";
    for (config, is_open) in [(restricted.as_str(), false), (WHO, true)] {
        let gateway = Gateway::start(config);
        let get = |more: &str, headers: &str| {
            request(&gateway, &format!("GET {polling}{more}"), headers, "").0
        };
        // A script, which the page could read, and what it could not.
        assert_eq!(get("&j=0", ""), 400);
        assert_eq!(get("&j=0", "Sec-Fetch-Site: cross-site\r\n"), 400);
        for site in ["cross-site", "same-site"] {
            let status = if is_open { 200 } else { 403 };
            assert_eq!(get("", &format!("Sec-Fetch-Site: {site}\r\n")), status, "{site}");
        }
        for headers in ["", "Sec-Fetch-Site: same-origin\r\n", "Sec-Fetch-Site: none\r\n"] {
            assert_eq!(get("", headers), 200, "{headers}");
        }
        // A form, to a session that is there.
        let (status, open) = request(&gateway, &format!("GET {polling}"), "", "");
        assert_eq!(status, 200);
        let open: Value = serde_json::from_str(&open[1..]).expect("JSON");
        let post = format!("POST {polling}&sid={}", open["sid"].as_str().expect("an id"));
        let evil = request(&gateway, &post, "Origin: https://evil.example\r\n", "40");
        assert_eq!(evil.0, if is_open { 200 } else { 400 });
        if !is_open {
            assert_eq!(request(&gateway, &post, "Origin: https://good.example\r\n", "40").0, 200);
        }
        assert_eq!(request(&gateway, &format!("{post}&j=0"), "", "d=40").0, 400);
    }
}

/// The status, and whether pages of that origin may read the answer: `named`, `any` without
/// cookies, or not.
fn reading(gateway: &Gateway, origin: &str) -> (u16, &'static str) {
    let (status, head) = handshake(gateway, origin);
    let named = format!("access-control-allow-origin: {origin}\r\n");
    let reading = match head.contains("access-control-allow-origin: ") {
        true if head.contains(&named) => "named",
        true if head.contains("access-control-allow-origin: *\r\n") => "any",
        true => panic!("{head}"),
        false => "",
    };
    assert!(!reading.is_empty() || !head.contains("access-control-allow-credentials"), "{head}");
    (status, reading)
}

#[test]
fn pages_read_answers_only_where_the_rules_of_the_moment_name_them() {
    let [good, evil] = ["https://good.example", "https://evil.example"];
    let named = format!("[auth]\norigins = [\"{good}\"]\n{WHO}");
    let open = format!("{named}[[namespace]]\nname = \"/open\"\n[namespace.auth]\n");
    let any = named.replace(good, "*");
    let any_and_good = named.replace("[\"", "[\"*\", \"");
    let expected = [
        (WHO, (200, ""), (200, "")),
        (named.as_str(), (200, "named"), (403, "")),
        // A second namespace that lets everybody in, and the end of all origins.
        (open.as_str(), (200, "named"), (200, "")),
        (WHO, (200, ""), (200, "")),
        (any.as_str(), (200, "any"), (200, "any")),
        (any_and_good.as_str(), (200, "named"), (200, "any")),
    ];
    let gateway = Gateway::start(WHO);
    for (config, of_good, of_evil) in expected {
        // By reload as by a start.
        reload(&gateway, config);
        let started = Gateway::start(config);
        for gateway in [&gateway, &started] {
            assert_eq!(reading(gateway, good), of_good, "{config}");
            assert_eq!(reading(gateway, evil), of_evil, "{config}");
        }
    }
}

#[test]
fn namespaces_have_their_own_rules() {
    let config = format!(
        "[auth]\norigins = [\"https://a.example\"]\n[[auth.key]]\nsecret = \"{SECRET}\"\n{WHO}\n\
         [[namespace]]\nname = \"/open\"\n[namespace.auth]\norigins = [\"https://b.example\"]\n"
    );
    let gateway = Gateway::start(&config);
    let by = |namespace: &str, origin: &str, auth: Value| {
        let headers = format!("Origin: {origin}\r\n");
        let way = Way { namespace, auth, headers: &headers, ..Way::default() };
        match Peer::by(gateway.address, &way) {
            Err(status) => status.to_string(),
            Ok(Err(error)) => error["data"]["code"].as_str().unwrap_or_default().to_owned(),
            Ok(Ok(_)) => String::new(),
        }
    };
    let auth = || json!({ "token": hs256().token("ada") });
    assert_eq!(by("/", "https://a.example", auth()), "");
    assert_eq!(by("/", "https://a.example", Value::Null), "token_missing");
    assert_eq!(by("/", "https://b.example", auth()), "origin_not_allowed");
    assert_eq!(by("/open", "https://b.example", Value::Null), "");
    assert_eq!(by("/open", "https://a.example", Value::Null), "origin_not_allowed");
    assert_eq!(by("/", "https://c.example", auth()), "400");
}
