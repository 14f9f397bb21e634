//! What backends do over HTTP, and what clients see of it.

use std::sync::mpsc;

use serde_json::{Value, json};

use crate::client::{Frame, WebSocket};
use crate::rig::{Gateway, Http, join_as, request, until};

const TWO: &str = "[[namespace]]\nname = \"/\"\n[[namespace]]\nname = \"/chat\"\n";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A websocket in `/`, and the id of its socket.
fn joined(gateway: &Gateway) -> (WebSocket, String) {
    let mut socket = gateway.session();
    let id = join_as(&mut socket, "/", "").expect("it is let in");
    (socket, id)
}

fn command(gateway: &Gateway, path: &str, body: Value) -> Value {
    let reply = gateway.post(path, &body.to_string());
    let status = if reply.status == 202 { 202 } else { 200 };
    reply.expect(status)
}

/// Each socket hears this next.
fn hear(sockets: &mut [&mut WebSocket], event: &str) {
    for socket in sockets {
        assert_eq!(socket.event().0, event);
    }
}

#[test]
fn events_go_to_whom_they_are_for() {
    let gateway = Gateway::start(TWO);
    let [(mut ada, ada_id), (mut bob, bob_id), (mut eve, eve_id)] =
        [(); 3].map(|()| joined(&gateway));
    let mut chat = gateway.session();
    join_as(&mut chat, "/chat", "").expect("it is let in");
    for (sockets, room) in [([&ada_id, &bob_id], "lobby"), ([&bob_id, &eve_id], "garden")] {
        let done = command(&gateway, "/v1/join", json!({ "sockets": sockets, "join": [room] }));
        assert_eq!(done, json!({ "sockets": 2, "complete": true }));
    }
    let emit = |event: &str, target: Value| {
        let mut body = json!({ "event": event });
        body.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
        assert_eq!(gateway.post("/v1/emit", &body.to_string()).expect(202), json!({}));
    };
    emit("all", json!({}));
    emit("lobby", json!({ "rooms": ["lobby"] }));
    emit("either", json!({ "rooms": ["lobby", "garden"] }));
    emit("not garden", json!({ "rooms": ["lobby", "garden"], "except": ["garden"] }));
    emit("but ada", json!({ "except": [ada_id] }));
    emit("one", json!({ "sockets": [eve_id] }));
    emit("two", json!({ "sockets": [eve_id, ada_id] }));
    emit("chat", json!({ "namespace": "/chat" }));
    emit("nobody", json!({ "users": [] }));
    emit("nobody", json!({ "rooms": [], "sockets": [], "except": ["garden"] }));
    let body = r#"{"event":"nobody","rooms":[],"ack":true}"#;
    assert_eq!(gateway.post("/v1/emit", body).expect(200)["asked"], 0);
    let none = json!({ "sockets": 0, "complete": true });
    assert_eq!(command(&gateway, "/v1/disconnect", json!({ "sockets": [] })), none);
    emit("last", json!({}));
    for (socket, events) in [
        (&mut ada, &["all", "lobby", "either", "not garden", "two", "last"][..]),
        (&mut bob, &["all", "lobby", "either", "but ada", "last"]),
        (&mut eve, &["all", "either", "but ada", "one", "two", "last"]),
    ] {
        let heard: Vec<String> = events.iter().map(|_| socket.event().0).collect();
        assert_eq!(heard, events);
    }
    assert_eq!(chat.text(), r#"42/chat,["chat"]"#);
}

#[test]
fn arguments_reach_clients_byte_for_byte() {
    let gateway = Gateway::start(TWO);
    let (mut ada, id) = joined(&gateway);
    let args = r#"1.500, 12345678901234567890 ,"\u00e9",{"b":1,"a":[ ]}"#;
    let body = format!(r#"{{"sockets":["{id}"],"event":"raw","args":[ {args} ]}}"#);
    gateway.post("/v1/emit", &body).expect(202);
    assert_eq!(ada.text(), format!(r#"42["raw",{args}]"#));
}

#[test]
fn acknowledgements_are_collected() {
    let gateway = Gateway::start(TWO);
    let [(mut ada, ada_id), (mut bob, bob_id), (eve, eve_id)] = [(); 3].map(|()| joined(&gateway));
    let api = gateway.api;
    let (sender, answers) = mpsc::channel();
    let asking = std::thread::spawn(move || {
        for (target, timeout) in [("", 60_000), (r#""rooms":["none"],"#, 60_000), ("", 300)] {
            let body = format!(
                r#"{{{target}"event":"who","args":["?"],"ack":true,"timeout_ms":{timeout}}}"#
            );
            sender.send(Http::connect(api).post("/v1/emit", &body).expect(200)).unwrap();
        }
    });
    let answer = |socket: &mut WebSocket, with: &str| {
        let text = socket.text();
        let id = text.strip_prefix("42").and_then(|text| text.split_once('[')).expect("an event").0;
        socket.send(&format!("43{id}[{with}]"));
    };
    // One says something, one nothing, one goes.
    answer(&mut ada, r#"{"name":"Ada","n":1.50},"second""#);
    answer(&mut bob, "");
    drop(eve);
    let told: Value = answers.recv().expect("an answer");
    assert_eq!((&told["asked"], &told["disconnected"]), (&json!(3), &json!(1)));
    assert_eq!((&told["unanswered"], &told["complete"]), (&json!([eve_id]), &json!(false)));
    let mut responses = told["responses"].as_array().expect("a list").clone();
    responses.sort_by_key(|response| response["socket"] != json!(ada_id));
    let expected = [
        json!({ "socket": ada_id, "response": { "name": "Ada", "n": 1.5 } }),
        json!({ "socket": bob_id, "response": null }),
    ];
    assert_eq!(responses, expected);
    let nobody = answers.recv().expect("an answer");
    assert_eq!((&nobody["asked"], &nobody["complete"]), (&json!(0), &json!(true)));
    answer(&mut ada, "2");
    assert!(bob.text().contains("who"));
    let late = answers.recv().expect("an answer");
    assert_eq!(late["unanswered"], json!([bob_id]), "{late}");
    assert_eq!((&late["timed_out"], &late["asked"]), (&json!(1), &json!(2)));
    asking.join().expect("no panic");
}

#[test]
fn rooms_are_joined_and_left_and_sockets_disconnected() {
    let gateway = Gateway::start(TWO);
    let [(mut ada, ada_id), (mut bob, bob_id)] = [(); 2].map(|()| joined(&gateway));
    command(&gateway, "/v1/join", json!({ "join": ["a", "b"] }));
    command(&gateway, "/v1/leave", json!({ "sockets": [bob_id], "leave": ["a"] }));
    let row = gateway.get(&format!("/v1/sockets/{bob_id}")).expect(200);
    assert_eq!(row["rooms"], json!(["b"]));
    let done = command(&gateway, "/v1/disconnect", json!({ "rooms": ["a"] }));
    assert_eq!(done, json!({ "sockets": 1, "complete": true }));
    assert_eq!(ada.text(), "41");
    gateway.get(&format!("/v1/sockets/{ada_id}")).problem(404, &ada_id);
    command(&gateway, "/v1/disconnect", json!({ "sockets": [bob_id], "close": true }));
    assert_eq!(bob.rest().last(), Some(&Frame::Close), "its connection as well");
    until("all to be gone", || gateway.get("/v1/count").expect(200)["sockets"] == 0);
}

#[test]
fn a_socket_in_too_many_rooms_is_told() {
    let gateway = Gateway::start(&format!("[server]\nmax_rooms = 3\n{TWO}"));
    let [(_ada, ada_id), (_bob, _)] = [(); 2].map(|()| joined(&gateway));
    let one = json!({ "sockets": [ada_id], "join": ["a"] });
    assert_eq!(command(&gateway, "/v1/join", one)["complete"], true);
    let all = |rooms: &[&str]| command(&gateway, "/v1/join", json!({ "join": rooms }));
    let done = all(&["b", "c", "d"]);
    assert_eq!(done, json!({ "sockets": 2, "complete": false, "refused": 1 }));
    // Those it is in, its own among them, are no more rooms.
    let again = json!({ "sockets": [ada_id], "join": ["a", "b", ada_id] });
    let done = command(&gateway, "/v1/join", again);
    assert_eq!(done, json!({ "sockets": 1, "complete": true }));
}

#[test]
fn sockets_are_told_page_by_page() {
    let gateway = Gateway::start(TWO);
    let mut sockets: Vec<(WebSocket, String)> = (0..25).map(|_| joined(&gateway)).collect();
    let ids: Vec<&String> = sockets.iter().take(20).map(|(_, id)| id).collect();
    command(&gateway, "/v1/join", json!({ "sockets": ids, "join": ["few"] }));
    for (query, expected) in [("", 25), ("&room=few", 20), ("&except=few", 5)] {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = gateway.get(&format!("/v1/sockets?limit=7{query}{cursor}")).expect(200);
            let rows = page["sockets"].as_array().expect("a list");
            assert!(rows.len() <= 7 && page["complete"] == true);
            found.extend(rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        let distinct: std::collections::BTreeSet<_> = found.iter().collect();
        assert_eq!((found.len(), distinct.len()), (expected, expected), "{query}");
        let count = gateway.get(&format!("/v1/count?{query}")).expect(200);
        assert_eq!(count["sockets"], expected, "{query}");
    }
    let row = gateway.get(&format!("/v1/sockets/{}", sockets[0].1)).expect(200);
    assert_eq!((&row["user"], &row["address"]), (&Value::Null, &json!("127.0.0.1")));
    assert_eq!((&row["rooms"], &row["data"]), (&json!(["few"]), &json!({})));
    assert!(row["connected_at"].as_str().is_some_and(|at| at.starts_with("20")), "{row}");
    sockets.truncate(0);
}

#[test]
fn rooms_and_namespaces_are_told() {
    let gateway = Gateway::start(TWO);
    let sockets: Vec<(WebSocket, String)> = (0..4).map(|_| joined(&gateway)).collect();
    for (number, (_, id)) in sockets.iter().enumerate() {
        let rooms: Vec<String> = (0..=number).map(|room| format!("room {room}")).collect();
        command(&gateway, "/v1/join", json!({ "sockets": [id], "join": rooms }));
    }
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = gateway.get(&format!("/v1/rooms?limit=3{cursor}")).expect(200);
        found.extend(page["rooms"].as_array().expect("a list").clone());
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={}", next.replace(' ', "%20"));
    }
    let expected: Vec<Value> =
        (0..4).map(|room| json!({ "name": format!("room {room}"), "sockets": 4 - room })).collect();
    assert_eq!(found, expected);
    let told = gateway.get("/v1/namespaces").expect(200);
    let names = told["namespaces"].as_array().expect("a list").iter();
    let names: Vec<_> = names.map(|it| (it["name"].clone(), it["sockets"].clone())).collect();
    assert_eq!(names, [(json!("/"), json!(4)), (json!("/chat"), json!(0))]);
}

#[test]
fn data_are_kept_with_sockets() {
    let gateway = Gateway::start(TWO);
    let [(_ada, ada_id), (_bob, bob_id)] = [(); 2].map(|()| joined(&gateway));
    let put = |path: &str, body: &str| gateway.http().ask("PUT", path, &[JSON], body);
    let done = put(&format!("/v1/sockets/{ada_id}/data"), r#"{"n": 1.50}"#).expect(200);
    assert_eq!(done, json!({ "sockets": 1, "complete": true }));
    let raw = gateway.get(&format!("/v1/sockets/{ada_id}")).body;
    assert!(raw.contains(r#""data":{"n": 1.50}"#), "{raw}");
    command(&gateway, "/v1/set-data", json!({ "sockets": [ada_id, bob_id], "data": [null] }));
    let page = gateway.get("/v1/sockets").expect(200);
    let data = page["sockets"].as_array().expect("a list").iter().map(|row| row["data"].clone());
    assert_eq!(data.collect::<Vec<_>>(), [json!([null]), json!([null])]);
    put("/v1/sockets/AAAAAAAAAAAAAAAAAAAA/data", "1").problem(404, "AAAA");
    put("/v1/users/nobody/data", "1").problem(404, "nobody");
    gateway.get("/v1/users/nobody").problem(404, "nobody");
}

#[test]
fn a_key_for_idempotency_stands_for_one_request() {
    let gateway = Gateway::start(TWO);
    let (mut ada, _) = joined(&gateway);
    let mut http = gateway.http();
    let mut ask = |key: &str, event: &str| {
        let body = format!(r#"{{"event":"{event}"}}"#);
        http.ask("POST", "/v1/emit", &[JSON, ("Idempotency-Key", key)], &body)
    };
    for is_replayed in [false, true, true] {
        let reply = ask("one", "once");
        assert_eq!(
            (reply.status, reply.header("idempotency-replayed").is_some()),
            (202, is_replayed)
        );
    }
    ask("one", "other").problem(422, "another request");
    // What was refused was not done.
    ask("two", "disconnect").problem(422, "reserved");
    ask("two", "last").expect(202);
    hear(&mut [&mut ada], "once");
    hear(&mut [&mut ada], "last");
    // While the first one waits for an acknowledgement.
    let body = r#"{"event":"slow","ack":true,"timeout_ms":60000}"#;
    let mut waiting = gateway.http();
    waiting.write(request("POST", "/v1/emit", &[JSON, ("Idempotency-Key", "four")], body));
    let text = ada.text();
    let mut other = gateway.http();
    let headers = [JSON, ("Idempotency-Key", "four")];
    other.ask("POST", "/v1/emit", &headers, body).problem(409, "still");
    // Its caller goes away, the request does not.
    drop(waiting);
    let id = text.strip_prefix("42").and_then(|it| it.split_once('[')).expect("an event").0;
    ada.send(&format!("43{id}[7]"));
    until("the answer to be kept", || {
        let reply = other.ask("POST", "/v1/emit", &headers, body);
        reply.status == 200 && reply.json()["responses"][0]["response"] == 7
    });
}

#[test]
fn what_is_wrong_is_told() {
    let gateway = Gateway::start(&format!("[api]\nmax_body_bytes = 200\n{TWO}"));
    let mut http = gateway.http();
    http.post("/v1/emit", "{").problem(400, "EOF");
    http.post("/v1/emit", "").problem(400, "EOF");
    http.post("/v1/emit", "\u{0}").problem(400, "expected value");
    http.post("/v1/emit", r#"{"event":"e","colour":1}"#).problem(422, "colour");
    http.post("/v1/emit", r#"{"event":"e","rooms":[1]}"#).problem(422, "rooms[0]");
    http.post("/v1/emit", r#"{"do":"join","event":"e"}"#).problem(422, "`emit`");
    http.post("/v1/emit", r#"{"event":"connect"}"#).problem(422, "reserved");
    http.post("/v1/emit", r#"{"event":"e","namespace":"/none"}"#).problem(404, "/none");
    http.post("/v1/sing", "{}").problem(404, "/v1/sing");
    http.ask("GET", "/v1/sockets?colour=1", &[], "").problem(422, "colour");
    http.ask("GET", "/v1/sockets?limit=0", &[], "").problem(422, "limit");
    http.ask("GET", "/v1/sockets?cursor=x", &[], "").problem(422, "cursor");
    http.ask("POST", "/v1/emit", &[], "{}").problem(415, "application/json");
    let text = [("Content-Type", "text/plain")];
    http.ask("POST", "/v1/emit", &text, "{}").problem(415, "text/plain");
    let with_charset = [("Content-Type", "Application/JSON; charset=utf-8")];
    http.ask("POST", "/v1/emit", &with_charset, r#"{"event":"e"}"#).expect(202);
    let reply = http.ask("GET", "/v1/emit", &[], "");
    assert_eq!(reply.header("allow"), Some("POST"), "{reply:?}");
    reply.problem(405, "GET");
    let long = format!(r#"{{"event":"{}"}}"#, "e".repeat(200));
    http.post("/v1/emit", &long).problem(413, "200");
    // The same without a length.
    let mut chunked = gateway.http();
    chunked
        .write("POST /v1/emit HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n");
    chunked.write("Transfer-Encoding: chunked\r\n\r\n");
    chunked.write(format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len()));
    chunked.reply().problem(413, "200");
    let key = "k".repeat(256);
    let headers = [JSON, ("Idempotency-Key", key.as_str())];
    gateway.http().ask("POST", "/v1/emit", &headers, "{}").problem(400, "255");
}

#[test]
fn requests_may_be_pipelined() {
    let gateway = Gateway::start(TWO);
    let (mut ada, _) = joined(&gateway);
    let mut http = gateway.http();
    let requests = (0..200).flat_map(|number| {
        let body = format!(r#"{{"event":"n","args":[{number}]}}"#);
        request("POST", "/v1/emit", &[JSON], &body)
    });
    http.write(requests.collect::<Vec<u8>>());
    (0..200).for_each(|_| assert_eq!(http.reply().status, 202));
    for number in 0..200 {
        assert_eq!(ada.event(), ("n".into(), vec![json!(number)]));
    }
}

#[test]
fn health_and_readiness() {
    let gateway = Gateway::start(TWO);
    assert_eq!(gateway.get("/healthz").expect(200), json!({ "status": "alive" }));
    let ready = gateway.get("/readyz").expect(200);
    assert_eq!(ready["status"], "ready");
    assert_eq!(ready["shards"], ready["answering"]);
    let page = gateway.get("/");
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-security-policy").is_some_and(|it| it.contains("default-src 'none'"))
    );
    assert!(page.body.contains("<title>corecast</title>"));
}

/// Whoever has a token with a `sub` is found by it, on all devices.
#[test]
fn users_are_found_by_their_ids() {
    let secret = "a secret of the tests, long enough for it";
    let gateway = Gateway::start(&format!(
        "[[auth.key]]\nsecret = \"{secret}\"\n[[namespace]]\nname = \"/\"\n"
    ));
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let mut join = |user: &str| {
        let claims = json!({ "sub": user, "exp": 4_000_000_000_u64 });
        let header = jsonwebtoken::Header::default();
        let token = jsonwebtoken::encode(&header, &claims, &key).expect("a token");
        let mut socket = gateway.session();
        let auth = json!({ "token": token }).to_string();
        (join_as(&mut socket, "/", &auth).expect("it is let in"), socket)
    };
    let [(first_id, mut first), (_, mut second), (_, mut bob)] =
        ["ada", "ada", "bob"].map(&mut join);
    let told = gateway.get("/v1/users/ada").expect(200);
    let rows = told["sockets"].as_array().expect("a list");
    assert_eq!((rows.len(), &told["complete"]), (2, &json!(true)));
    assert!(rows.iter().all(|row| row["user"] == "ada" && row["expires_at"] == 4_000_000_000_u64));
    let reply = gateway.http().ask("PUT", "/v1/users/ada/data", &[JSON], r#"{"plan":"pro"}"#);
    assert_eq!(reply.expect(200), json!({ "sockets": 2, "complete": true }));
    let row = gateway.get(&format!("/v1/sockets/{first_id}")).expect(200);
    assert_eq!((&row["user"], &row["data"]), (&json!("ada"), &json!({ "plan": "pro" })));
    for path in ["/v1/sockets?user=ada", "/v1/count?user=ada"] {
        let told = gateway.get(path).expect(200);
        let count =
            told["sockets"].as_array().map_or(told["sockets"].clone(), |it| json!(it.len()));
        assert_eq!(count, 2, "{path}");
    }
    command(&gateway, "/v1/emit", json!({ "users": ["ada"], "event": "for ada" }));
    command(&gateway, "/v1/join", json!({ "users": ["ada", "bob"], "join": ["all"] }));
    command(&gateway, "/v1/emit", json!({ "rooms": ["all"], "event": "for all" }));
    hear(&mut [&mut first, &mut second], "for ada");
    hear(&mut [&mut first, &mut second, &mut bob], "for all");
    command(&gateway, "/v1/disconnect", json!({ "users": ["ada"] }));
    until("Ada to be gone", || gateway.get("/v1/users/ada").status == 404);
}
