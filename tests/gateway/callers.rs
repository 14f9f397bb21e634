//! Who may use the API.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::{Value, json};

use crate::rig::{Folder, Gateway, Reply};

const JSON: (&str, &str) = ("Content-Type", "application/json");

const KEYS: &str = r#"
[[api.key]]
name = "all"
key = "all-0123456789abcdef"
[[api.key]]
name = "chat"
sha256 = "6e9d3ff0cd1bc7fc52a2b65b2a0a2e2a8c27f1ba20b1e2e4c9ac7e1f0b7d4e05"
[[namespace]]
name = "/"
[[namespace]]
name = "/chat"
"#;

fn ask(gateway: &Gateway, method: &str, path: &str, key: &str, body: &str) -> Reply {
    let bearer = format!("Bearer {key}");
    gateway.http().ask(method, path, &[JSON, ("Authorization", &bearer)], body)
}

/// The key of a file, good for `/chat*`, for emitting and reading.
fn with_file(folder: &Folder) -> String {
    let path = folder.write("chat.key", "chat-0123456789abcdef\n");
    let from = KEYS.find("sha256").expect("the key");
    let end = KEYS[from..].find('\n').expect("a line") + from;
    let key = format!(
        "key_file = {:?}\nnamespaces = [\"/chat*\"]\nactions = [\"emit\", \"read\"]",
        path.display().to_string()
    );
    format!("{}{key}{}", &KEYS[..from], &KEYS[end..])
}

#[test]
fn keys_are_good_for_what_they_say() {
    let folder = Folder::new();
    let toml = with_file(&folder);
    let gateway = Gateway::start_with(folder, &toml, |_| {});
    let (all, chat) = ("all-0123456789abcdef", "chat-0123456789abcdef");
    let emit = |namespace: &str| json!({ "event": "e", "namespace": namespace }).to_string();
    ask(&gateway, "POST", "/v1/emit", all, &emit("/")).expect(202);
    ask(&gateway, "POST", "/v1/emit", chat, &emit("/chat")).expect(202);
    ask(&gateway, "POST", "/v1/emit", chat, &emit("/")).problem(403, "chat");
    ask(&gateway, "POST", "/v1/join", chat, r#"{"join":["a"]}"#).problem(403, "join");
    ask(&gateway, "GET", "/v1/count?namespace=/chat", chat, "").expect(200);
    ask(&gateway, "GET", "/v1/count", chat, "").problem(403, "\"/\"");
    let seen = ask(&gateway, "GET", "/v1/namespaces", chat, "").expect(200);
    assert_eq!(seen["namespaces"].as_array().expect("a list").len(), 1, "{seen}");
    let bearer = [("Authorization", "bearer chat-0123456789abcdef")];
    assert_eq!(gateway.http().ask("GET", "/metrics", &bearer, "").status, 200);
    let named = [("X-API-Key", all), JSON];
    gateway.http().ask("POST", "/v1/emit", &named, &emit("/")).expect(202);
    for headers in [
        &[][..],
        &[("Authorization", "Bearer ")],
        &[("Authorization", "Bearer all-0123456789abcdeF")],
        &[("Authorization", "Basic YWxsOmFsbA==")],
        &[("X-API-Key", "a.b.c")],
    ] {
        for path in ["/v1/count", "/v1/stats", "/metrics"] {
            let reply = gateway.http().ask("GET", path, headers, "");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            reply.problem(401, "");
        }
    }
    for path in ["/healthz", "/readyz", "/", "/openapi.json"] {
        assert_eq!(gateway.get(path).status, 200, "{path}");
    }
    // In a batch, line by line.
    let bearer = format!("Bearer {chat}");
    let headers = [("Content-Type", "application/x-ndjson"), ("Authorization", bearer.as_str())];
    let lines = [
        r#"{"do":"emit","event":"e","namespace":"/chat"}"#,
        r#"{"do":"emit","event":"e"}"#,
        r#"{"do":"leave","leave":["a"],"namespace":"/chat"}"#,
    ];
    let reply = gateway.http().ask("POST", "/v1/batch", &headers, &lines.join("\n"));
    let status = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["status"].clone();
    assert_eq!(reply.body.lines().map(status).collect::<Vec<_>>(), [202, 403, 403]);
    // Nothing of a key is in the log.
    assert!(!gateway.log().contains("0123456789"), "{}", gateway.log());
}

#[test]
fn a_rate_is_kept() {
    let gateway =
        Gateway::start("[[api.key]]\nname = \"slow\"\nkey = \"slow-0123456789abc\"\nrate = 5\n");
    let mut http = gateway.http();
    let headers = [("Authorization", "Bearer slow-0123456789abc")];
    let replies: Vec<Reply> =
        (0..200).map(|_| http.ask("GET", "/v1/count", &headers, "")).collect();
    assert!(replies[..5].iter().all(|reply| reply.status == 200), "a second's worth at once");
    let refused = replies.into_iter().find(|reply| reply.status != 200).expect("a refusal");
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.problem(429, "slow");
}

#[test]
fn without_a_key_only_this_machine_is_served() {
    let gateway = Gateway::start("");
    for (host, status) in [("127.0.0.1:1", 200), ("localhost", 200), ("evil.example", 403)] {
        let reply = gateway.http().ask("GET", "/v1/count", &[("Host", host)], "");
        assert_eq!(reply.status, status, "{host}: {reply:?}");
    }
    // What a browser sends for a page of another origin, without asking first.
    let own = gateway.api.to_string();
    let other = format!("http://{}", gateway.address);
    for header in [
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Origin", other.as_str()),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        for path in ["/drain", "/reload"] {
            let headers = [("Host", own.as_str()), ("Content-Type", "text/plain"), header];
            gateway.http().ask("POST", path, &headers, "").problem(403, "other origins");
        }
    }
    let origin = format!("http://{own}");
    let from = [("Origin", origin.as_str()), ("Sec-Fetch-Site", "same-origin")];
    let headers = [("Host", own.as_str()), from[0], from[1]];
    gateway.http().ask("POST", "/reload", &headers, "").expect(200);
    let said = Gateway::refuses("[api]\nlisten = \"0.0.0.0:0\"\n");
    assert!(said.contains("api.listen") && said.contains("[[api.key]]"), "{said}");
}

#[test]
fn what_is_wrong_with_a_key_is_told() {
    let key = |lines: &str| format!("[[api.key]]\nname = \"php\"\n{lines}\n");
    for (lines, named) in [
        ("", "api.key[0].key: give it, key_file or sha256"),
        ("key = \"short\"", "16 characters"),
        ("sha256 = \"12\"", "64"),
        ("key_file = \"/nowhere/at/all\"", "/nowhere/at/all"),
        ("key = \"0123456789abcdef\"\nrate = 0", "rate"),
        ("key = \"0123456789abcdef\"\nactions = [\"sing\"]", "sing"),
    ] {
        let said = Gateway::refuses(&key(lines));
        assert!(said.contains(named), "{lines}: {said}");
        assert!(!said.contains("0123456789abcdef"), "{said}");
    }
    let said = Gateway::refuses("[api.jwt]\nsecret = \"one that can be guessed\"\n");
    assert!(said.contains("api.jwt.secret: has to have at least 32 bytes"), "{said}");
    assert!(!said.contains("guessed"), "{said}");
    let twice = format!("{0}{0}", key("key = \"0123456789abcdef\""));
    let said = Gateway::refuses(&twice);
    assert!(said.contains("api.key[1].key: is the same as that of \"php\""), "{said}");
}

fn token(key: &EncodingKey, algorithm: Algorithm, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).expect("a token")
}

#[test]
fn tokens_are_good_for_what_they_claim() {
    let secret = "a secret of the tests, long enough";
    let gateway = Gateway::start(&format!(
        "[api.jwt]\nsecret = \"{secret}\"\naudience = \"corecast\"\n[[namespace]]\nname = \"/\"\n"
    ));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let far = 4_000_000_000_u64;
    let good = json!({
        "sub": "rails", "aud": "corecast", "exp": far, "actions": ["emit"], "namespaces": ["/"],
    });
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = good.clone();
        change(&mut claims);
        token(&key, Algorithm::HS256, &claims)
    };
    let emit = |token: &str| ask(&gateway, "POST", "/v1/emit", token, r#"{"event":"e"}"#);
    for _ in 0..2 {
        emit(&with(&|_| {})).expect(202);
    }
    ask(&gateway, "GET", "/v1/count", &with(&|_| {}), "").problem(403, "rails");
    emit(&with(&|claims| claims["namespaces"] = json!(["/other"]))).problem(403, "rails");
    emit(&with(&|claims| claims["namespaces"] = json!([]))).problem(403, "rails");
    emit(&with(&|claims| claims["exp"] = json!(1_000_000))).problem(401, "ExpiredSignature");
    emit(&with(&|claims| claims["aud"] = json!("other"))).problem(401, "InvalidAudience");
    emit(&with(&|claims| claims["actions"] = json!(["sing"]))).problem(401, "claims");
    emit(&with(&|claims| {
        claims.as_object_mut().unwrap().remove("sub");
    }))
    .problem(401, "");
    let forged = EncodingKey::from_secret(b"another secret");
    emit(&token(&forged, Algorithm::HS256, &good)).problem(401, "InvalidSignature");
    emit(&token(&key, Algorithm::HS384, &good)).problem(401, "InvalidAlgorithm");
    let header = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::HS256) };
    emit(&encode(&header, &good, &key).expect("a token")).problem(401, "critical");
    // `none`, as attackers write it.
    let [_, claims, _] =
        with(&|_| {}).split('.').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
    emit(&format!("eyJhbGciOiJub25lIn0.{claims}.")).problem(401, "");
    assert!(!gateway.log().contains(secret));
}

#[test]
fn tokens_of_public_keys() {
    for (algorithm, name, kind) in [
        (Algorithm::ES256, "ES256", &PKCS_ECDSA_P256_SHA256),
        (Algorithm::EdDSA, "EdDSA", &PKCS_ED25519),
    ] {
        let pair = KeyPair::generate_for(kind).expect("a key pair");
        let folder = Folder::new();
        let path = folder.write("public.pem", &pair.public_key_pem());
        let toml = format!("[api.jwt]\nalgorithms = [\"{name}\"]\npublic_key_file = {path:?}\n");
        let gateway = Gateway::start_with(folder, &toml, |_| {});
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_ed_pem(pem.as_bytes()),
        };
        let claims = json!({
            "sub": "go", "exp": 4_000_000_000_u64, "actions": ["emit"], "namespaces": ["*"],
        });
        let good = token(&key.expect("a key"), algorithm, &claims);
        ask(&gateway, "POST", "/v1/emit", &good, r#"{"event":"e"}"#).expect(202);
        // The public key is no secret: it must not be taken for one.
        let public = EncodingKey::from_secret(pair.public_key_pem().as_bytes());
        let forged = token(&public, Algorithm::HS256, &claims);
        ask(&gateway, "POST", "/v1/emit", &forged, "{}").problem(401, "InvalidAlgorithm");
    }
}

#[test]
fn keys_change_with_a_reload() {
    let toml = |key: &str| format!("[[api.key]]\nname = \"php\"\nkey = \"{key}\"\n");
    let gateway = Gateway::start(&toml("first-0123456789"));
    ask(&gateway, "GET", "/v1/count", "first-0123456789", "").expect(200);
    gateway.configure(&toml("second-0123456789"));
    gateway.signal("HUP");
    gateway.wait_for_log("reloaded");
    ask(&gateway, "GET", "/v1/count", "first-0123456789", "").problem(401, "not known");
    ask(&gateway, "GET", "/v1/count", "second-0123456789", "").expect(200);
}

/// Where it listens changes with a restart only, so until then the keys are needed.
#[test]
fn a_reload_does_not_open_what_others_reach() {
    let toml = "[api]\nlisten = \"0.0.0.0:0\"\n\
                [[api.key]]\nname = \"php\"\nkey = \"first-0123456789\"\n";
    let gateway = Gateway::start(toml);
    gateway.configure("[api]\nlisten = \"127.0.0.1:0\"\n");
    let refused = ask(&gateway, "POST", "/reload", "first-0123456789", "");
    refused.problem(422, "can be reached from other machines");
    ask(&gateway, "GET", "/v1/count", "", "").problem(401, "needed");
    ask(&gateway, "GET", "/v1/count", "first-0123456789", "").expect(200);
}

/// Who has told the gateway to reload is in the log.
#[test]
fn operators_are_named_in_the_log() {
    let gateway = Gateway::start("[[api.key]]\nname = \"ops\"\nkey = \"ops-0123456789abcd\"\n");
    ask(&gateway, "POST", "/reload", "ops-0123456789abcd", "").expect(200);
    gateway.wait_for_log("reloaded by=\"ops\"");
}
