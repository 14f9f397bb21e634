//! Many commands in one request, streamed both ways.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::rig::{Gateway, Http, Reply, join_as, request, until};

const KIND: (&str, &str) = ("Content-Type", "application/x-ndjson");

fn lines(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    reply.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn batch(gateway: &Gateway, query: &str, body: &str) -> Reply {
    gateway.http().ask("POST", &format!("/v1/batch{query}"), &[KIND], body)
}

#[test]
fn each_command_has_its_line_of_result() {
    let gateway = Gateway::start("[api]\nmax_body_bytes = 300\n");
    let mut ada = gateway.session();
    let id = join_as(&mut ada, "/", "").expect("it is let in");
    let long = format!(r#"{{"do":"emit","event":"{}"}}"#, "e".repeat(300));
    let body = [
        r#"{"do":"emit","event":"one","args":[1]}"#,
        &format!(r#"{{"do":"join","sockets":["{id}"],"join":["a"]}}"#),
        "{",
        "",
        "{\"do\":\"emit\",\"rooms\":[\"a\"],\"event\":\"two\"}\r",
        r#"{"do":"sing"}"#,
        &long,
        r#"{"do":"emit","event":"e","namespace":"/none"}"#,
        r#"{"do":"emit","event":"three"}"#,
    ];
    for query in ["", "?results=errors"] {
        let results = lines(&batch(&gateway, query, &body.join("\n")));
        let expected =
            [(1, 202), (2, 200), (3, 400), (5, 202), (6, 422), (7, 413), (8, 404), (9, 202)];
        let is_short = !query.is_empty();
        let expected = expected.into_iter().filter(|(_, status)| !is_short || *status >= 400);
        let found = results.iter().filter(|it| it["line"].is_u64());
        let found = found.map(|it| (it["line"].as_u64().unwrap(), it["status"].as_u64().unwrap()));
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{results:?}");
        match is_short {
            true => assert_eq!(results.last(), Some(&json!({ "commands": 8, "failed": 4 }))),
            false => assert_eq!(results[1]["result"], json!({ "sockets": 1, "complete": true })),
        }
        for event in ["one", "two", "three"] {
            assert_eq!(ada.event().0, event);
        }
    }
}

/// Results come while commands are still being written, however they are cut.
#[test]
fn commands_and_results_stream() {
    let gateway = Gateway::start("");
    let mut ada = gateway.client();
    let mut http = gateway.http();
    http.write("POST /v1/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n");
    http.write("Content-Type: application/x-ndjson\r\n\r\n");
    let mut line = 0;
    for number in 0..3 {
        for part in [r#"{"do":"emit","ev"#, &format!("ent\":\"e\",\"args\":[{number}]}}"), "\n"] {
            http.write(format!("{:x}\r\n{part}\r\n", part.len()));
        }
        if line == 0 {
            assert_eq!(http.head().0, 200);
        }
        line += 1;
        let result = String::from_utf8(http.chunk().expect("a result")).expect("UTF-8");
        assert_eq!(result, format!("{{\"line\":{line},\"status\":202}}\n"));
        assert_eq!(ada.event(), ("e".into(), vec![json!(number)]));
    }
    // Without a newline at its end.
    let last = r#"{"do":"emit","event":"last"}"#;
    http.write(format!("{:x}\r\n{last}\r\n0\r\n\r\n", last.len()));
    assert!(http.chunk().is_some());
    assert_eq!(http.chunk(), None);
    assert_eq!(ada.event().0, "last");
    assert_eq!(http.ask("GET", "/healthz", &[], "").status, 200, "the connection goes on");
}

/// More commands than a mailbox holds, and every client gets all of them in order.
#[test]
fn a_large_batch_loses_nothing() {
    const COMMANDS: usize = 100_000;
    let gateway = Gateway::start("");
    let mut ada = gateway.client();
    let command = |number| format!("{{\"do\":\"emit\",\"event\":\"e\",\"args\":[{number}]}}\n");
    let body: String = (0..COMMANDS).map(command).collect();
    let mut http = gateway.http();
    let mut stream = http.stream.try_clone().expect("a second handle");
    let bytes = request("POST", "/v1/batch?results=errors", &[KIND], &body);
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut stream, &bytes));
    for number in 0..COMMANDS {
        assert_eq!(ada.text(), format!("42[\"e\",{number}]"));
    }
    writing.join().expect("no panic").expect("the server reads");
    let results = lines(&http.reply());
    assert_eq!(results, [json!({ "commands": COMMANDS, "failed": 0 })]);
}

#[test]
fn what_is_no_batch_is_refused() {
    let gateway = Gateway::start("");
    let json = [("Content-Type", "application/json")];
    gateway.http().ask("POST", "/v1/batch", &json, "").problem(415, "x-ndjson");
    let keyed = [KIND, ("Idempotency-Key", "k")];
    gateway.http().ask("POST", "/v1/batch", &keyed, "").problem(400, "not kept");
    batch(&gateway, "?results=some", "").problem(422, "results");
    assert_eq!(lines(&batch(&gateway, "", "")), [json!(null); 0]);
}

/// An open batch of whoever shows this.
fn open(gateway: &Gateway, shown: &str) -> Http {
    let mut http = gateway.http();
    http.write("POST /v1/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n");
    http.write("Content-Type: application/x-ndjson\r\n");
    http.write(format!("Authorization: Bearer {shown}\r\n\r\n"));
    http
}

/// Sends one command; its result.
fn command(http: &mut Http, line: &str) -> Value {
    http.write(format!("{:x}\r\n{line}\n\r\n", line.len() + 1));
    serde_json::from_slice(&http.chunk().expect("a result")).expect("JSON")
}

const EMIT: &str = r#"{"do":"emit","event":"e"}"#;

#[test]
fn a_reload_holds_for_batches_that_are_open() {
    let toml =
        |rest: &str| format!("[[api.key]]\nname = \"php\"\nkey = \"php-0123456789abcd\"\n{rest}");
    let gateway = Gateway::start(&toml(""));
    let mut http = open(&gateway, "php-0123456789abcd");
    let reload = |toml: &str| {
        let before = gateway.log().matches("reloaded").count();
        gateway.configure(toml);
        gateway.signal("HUP");
        until("the reload", || gateway.log().matches("reloaded").count() > before);
    };
    http.write(format!("{:x}\r\n{EMIT}\n\r\n", EMIT.len() + 1));
    assert_eq!(http.head().0, 200);
    assert!(http.chunk().is_some());
    reload(&toml("actions = [\"join\"]\n"));
    assert_eq!(command(&mut http, EMIT)["status"], 403);
    reload(&toml(""));
    assert_eq!(command(&mut http, EMIT)["status"], 202);
    reload("[[api.key]]\nname = \"php\"\nkey = \"another-0123456789\"\n");
    assert_eq!(command(&mut http, EMIT)["status"], 401);
    assert_eq!(http.chunk(), None, "that was the end");
}

#[test]
fn a_batch_ends_with_its_token() {
    let secret = "a secret of the tests, long enough";
    let gateway = Gateway::start(&format!("[api.jwt]\nsecret = \"{secret}\"\n"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    // Clocks may differ by 5 s.
    let claims = json!({ "sub": "go", "exp": now - 2, "actions": ["emit"], "namespaces": ["*"] });
    let key = EncodingKey::from_secret(secret.as_bytes());
    let token = encode(&Header::default(), &claims, &key).expect("a token");
    let mut http = open(&gateway, &token);
    http.write(format!("{:x}\r\n{EMIT}\n\r\n", EMIT.len() + 1));
    assert_eq!(http.head().0, 200);
    assert!(http.chunk().is_some());
    until("the end of the token", || command(&mut http, EMIT)["status"] == 401);
    assert_eq!(http.chunk(), None);
}
