//! Who clients are: tokens of every kind, good and bad, and how long they hold.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::client::Stream;
use crate::peer::{Peer, Told, Way, reload};
use crate::rig::{Folder, Gateway};
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
    let more = r#"token_from = [
        "auth.session.jwt", "header.authorization", "header.x-token", "cookie.t", "query.token",
    ]"#;
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
    assert_eq!(ada.ask("who", "")["user"], "ada", "who is in stays");
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
    let routes = r#"
[[namespace.route]]
event = "say"
do = "room"
to = "args[0]"
[[namespace.route]]
event = "join"
do = "join"
to = "args[0]"
[[namespace.route]]
event = "auth:*"
do = "drop"
"#;
    let gateway = Gateway::start(&with_secret("refresh_event = \"renew\"", routes));
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
