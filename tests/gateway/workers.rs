//! Backends that are Socket.IO clients: who may be one, what they get, what they may do, and what
//! becomes of their work when they go.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::client::{Frame, WebSocket};
use crate::rig::{Gateway, join_as, until};

const KEY: &str = "a key of a worker";

/// Everything goes to workers but `here`.
fn config(workers: &str) -> String {
    format!(
        r#"
[[namespace]]
name = "/"
[[namespace.route]]
event = "*"
do = "worker"
[[namespace.route]]
event = "here"
do = "reply"
ack = "here"
[workers]
{workers}
[[workers.key]]
name = "main"
key = "{KEY}"
"#
    )
}

/// A worker over a bare websocket.
struct Worker {
    socket: WebSocket,
    asked: u64,
}

/// What a worker has got.
#[derive(Debug)]
struct Work {
    name: String,
    data: Value,
    ack: String,
    attachments: Vec<Vec<u8>>,
}

impl Work {
    fn arg(&self) -> &Value {
        &self.data["args"][0]
    }
}

impl Worker {
    fn connect(gateway: &Gateway, name: &str, more: Value) -> Worker {
        let mut auth = more;
        auth["key"] = KEY.into();
        auth["name"] = name.into();
        let mut socket = gateway.session();
        let id = join_as(&mut socket, "/workers", &auth.to_string()).expect("it may come");
        // It has joined its group then.
        gateway.wait_for_log(&id);
        Worker { socket, asked: 0 }
    }

    /// One that gets all events.
    fn all(gateway: &Gateway, name: &str) -> Worker {
        Worker::connect(gateway, name, json!({ "events": ["*"] }))
    }

    fn next(&mut self) -> Work {
        let text = self.socket.text();
        let (start, rest) = text.split_once("/workers,").unwrap_or_else(|| panic!("{text}"));
        let attachments = match start.strip_prefix("45") {
            Some(count) => count.trim_end_matches('-').parse().expect("a number"),
            None => 0,
        };
        let (ack, json) = rest.split_at(rest.find('[').expect("arguments"));
        let mut args: Vec<Value> = serde_json::from_str(json).expect("JSON");
        let attachments = (0..attachments).map(|_| match self.socket.frame() {
            Frame::Binary(bytes) => bytes,
            other => panic!("{other:?} instead of an attachment"),
        });
        let attachments = attachments.collect();
        let name = args[0].as_str().expect("a name").to_owned();
        Work { name, data: args.remove(1), ack: ack.to_owned(), attachments }
    }

    fn answer(&mut self, work: &Work, args: &str) {
        self.socket.send(&format!("43/workers,{}[{args}]", work.ack));
    }

    /// Emits and returns the first argument of the answer, which has to come next.
    fn ask(&mut self, event: &str, data: &Value) -> Value {
        self.asked += 1;
        let asked = self.asked;
        self.socket.send(&format!("42/workers,{asked}[{event:?},{data}]"));
        let text = self.socket.text();
        let answer = text.strip_prefix(&format!("43/workers,{asked}"));
        let answer = answer.unwrap_or_else(|| panic!("{text}"));
        serde_json::from_str::<Value>(answer).expect("JSON")[0].take()
    }

    /// Ends its connection with a reset.
    fn dies(self) {
        self.socket.stream.reset();
    }
}

/// Sends events with acks that are numbered from `from` on.
fn send(client: &mut WebSocket, events: &[u64]) {
    for n in events {
        client.send(&format!("42{n}[\"work\",{n}]"));
    }
}

/// The sum of a metric's samples that have this label.
fn counted(gateway: &Gateway, metric: &str, label: &str) -> u64 {
    let text = gateway.get("/metrics").body;
    let lines = text.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
    let lines = lines.filter(|line| line.contains(label));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

fn ended(gateway: &Gateway, outcome: &str) -> u64 {
    counted(gateway, "corecast_worker_events_total", &format!("outcome=\"{outcome}\""))
}

#[test]
fn without_keys_there_are_no_workers() {
    let gateway = Gateway::start("");
    let auth = json!({ "key": KEY, "name": "x" }).to_string();
    let refused = join_as(&mut gateway.session(), "/workers", &auth).expect_err("no keys");
    assert_eq!(refused, json!({ "message": "Invalid namespace" }));
}

#[test]
fn a_worker_shows_its_key_and_comes_from_where_it_may() {
    let gateway = Gateway::start(&config(""));
    let join = |auth: Value| join_as(&mut gateway.session(), "/workers", &auth.to_string());
    for auth in [json!({}), json!({ "key": "a key of a worke", "name": "x" }), json!({ "key": [] })]
    {
        assert_eq!(join(auth).expect_err("a wrong key")["message"], "not authorized");
    }
    let error = join(json!({ "key": KEY, "name": "x", "evnets": ["*"] })).expect_err("a typo");
    assert!(error["message"].as_str().is_some_and(|it| it.contains("evnets")), "{error}");
    for name in [String::new(), "a\nb".into(), "x".repeat(65)] {
        let error = join(json!({ "key": KEY, "name": name })).expect_err("no name");
        assert_eq!(error["data"]["code"], "bad_auth", "{error}");
    }
    assert!(join(json!({ "key": KEY, "name": "x" })).is_ok());
    assert!(!gateway.log().contains(KEY));
    let far = Gateway::start(&config("allow = [\"10.0.0.0/8\"]"));
    let auth = json!({ "key": KEY, "name": "x" }).to_string();
    let refused = join_as(&mut far.session(), "/workers", &auth).expect_err("from elsewhere");
    assert_eq!(refused, json!({ "message": "Invalid namespace" }));
    let near = Gateway::start(&config("allow = [\"127.0.0.0/8\"]"));
    join_as(&mut near.session(), "/workers", &auth).expect("from here");
}

#[test]
fn an_event_goes_to_a_worker_and_its_ack_to_the_client() {
    let gateway = Gateway::start(&config(""));
    let mut ada = gateway.session();
    let id = ada.join("/");
    let mut worker =
        Worker::connect(&gateway, "app", json!({ "events": ["work"], "namespaces": ["/"] }));
    ada.send(r#"421["work",1.50,{"a":[]}]"#);
    let work = worker.next();
    assert_eq!(work.name, "event");
    let told = json!({ "type": "event", "id": work.data["id"], "namespace": "/", "socket": id,
        "user": null, "claims": null, "event": "work", "args": [1.50, { "a": [] }],
        "redelivered": false });
    assert_eq!(work.data, told);
    worker.answer(&work, r#"2.50,{"b":1}"#);
    assert_eq!(ada.text(), r#"431[2.50,{"b":1}]"#);
    ada.send(r#"421["other"]"#);
    let refused = ada.text();
    assert!(refused.contains("backend_unavailable"), "{refused}");
    until("one to be counted", || ended(&gateway, "delivered") == 1);
}

#[test]
fn attachments_pass_both_ways() {
    let gateway = Gateway::start(&config(""));
    let (mut ada, mut worker) = (gateway.client(), Worker::all(&gateway, "app"));
    ada.send(r#"451-7["work",{"_placeholder":true,"num":0}]"#);
    ada.stream.write(&[0x82, 0x82, 0, 0, 0, 0, 0xff, 7]);
    let work = worker.next();
    assert_eq!(work.data["args"], json!([{ "_placeholder": true, "num": 0 }]));
    assert_eq!(work.attachments, [[0xff, 7]]);
    worker.socket.send(&format!("461-/workers,{}[{{\"_placeholder\":true,\"num\":0}}]", work.ack));
    worker.socket.stream.write(&[0x82, 0x81, 0, 0, 0, 0, 3]);
    assert_eq!(ada.text(), r#"461-7[{"_placeholder":true,"num":0}]"#);
    assert_eq!(ada.frame(), Frame::Binary(vec![3]));
    // Of two attachments each command gets the one that it names.
    let emit = |num: u8| {
        format!(
            "{{\"do\":\"emit\",\"event\":\"e\",\"args\":[{{\"_placeholder\":true,\"num\":{num}}}]}}"
        )
    };
    worker.socket.send(&format!("452-/workers,9[\"commands\",[{},{}]]", emit(1), emit(0)));
    for byte in [8, 9] {
        worker.socket.stream.write(&[0x82, 0x81, 0, 0, 0, 0, byte]);
    }
    assert!(worker.socket.text().starts_with(r#"43/workers,9[[{"result":"#));
    for byte in [9, 8] {
        assert_eq!(ada.text(), r#"451-["e",{"_placeholder":true,"num":0}]"#);
        assert_eq!(ada.frame(), Frame::Binary(vec![byte]));
    }
}

#[test]
fn instances_of_one_name_share_the_work_and_each_client_stays_in_order() {
    let gateway = Gateway::start(&config(""));
    let mut workers = [Worker::all(&gateway, "app"), Worker::all(&gateway, "app")];
    let mut clients: Vec<_> = (0..4).map(|_| gateway.client()).collect();
    for client in &mut clients {
        send(client, &[1, 2, 3]);
    }
    let mut told: BTreeMap<String, Vec<(usize, u64)>> = BTreeMap::new();
    for (number, worker) in workers.iter_mut().enumerate() {
        // Two clients each, as none has acknowledged anything.
        for _ in 0..6 {
            let work = worker.next();
            let socket = work.data["socket"].as_str().expect("an id").to_owned();
            told.entry(socket).or_default().push((number, work.arg().as_u64().expect("a number")));
            worker.answer(&work, "1");
        }
    }
    assert_eq!(told.len(), 4);
    for works in told.values() {
        let of = works[0].0;
        assert_eq!(*works, [(of, 1), (of, 2), (of, 3)], "{told:?}");
    }
    for client in &mut clients {
        assert_eq!([client.text(), client.text(), client.text()], ["431[1]", "432[1]", "433[1]"]);
    }
}

#[test]
fn what_a_worker_leaves_is_given_to_another_one_in_order() {
    let gateway = Gateway::start(&config(""));
    let mut ada = gateway.client();
    let mut first = Worker::all(&gateway, "app");
    send(&mut ada, &[1, 2, 3]);
    let done = first.next();
    first.answer(&done, "\"first\"");
    assert_eq!(ada.text(), r#"431["first"]"#);
    assert_eq!((first.next().arg(), first.next().arg()), (&json!(2), &json!(3)));
    let mut second = Worker::all(&gateway, "app");
    send(&mut ada, &[4]);
    assert_eq!(first.next().arg(), 4);
    first.dies();
    for n in [2, 3, 4] {
        let work = second.next();
        assert_eq!((work.arg(), &work.data["redelivered"]), (&json!(n), &json!(true)));
        second.answer(&work, "\"second\"");
        assert_eq!(ada.text(), format!(r#"43{n}["second"]"#));
    }
    until("four to be counted", || ended(&gateway, "delivered") == 4);
}

/// Of Ada's the first was acknowledged, and the second waits behind Ben's, which nobody can take:
/// nothing of hers is with the worker when it dies.
#[test]
fn what_waits_behind_others_is_not_for_a_worker_that_has_gone() {
    let gateway = Gateway::start(&config("in_flight = 2\ntimeout = \"1m\""));
    let [mut ada, mut ben, mut cleo] = [(); 3].map(|()| gateway.client());
    let mut first = Worker::all(&gateway, "app");
    let waiting = |count| {
        until("that many to wait", || counted(&gateway, "corecast_worker_waiting", "app") == count);
    };
    send(&mut ada, &[1]);
    let done = first.next();
    send(&mut cleo, &[2]);
    assert_eq!(first.next().arg(), 2);
    for (client, n) in [(&mut cleo, 3), (&mut ben, 4), (&mut ada, 5)] {
        send(client, &[n]);
        waiting(n);
    }
    first.answer(&done, "");
    assert_eq!(ada.text(), "431[]");
    assert_eq!(first.next().arg(), 3);
    first.dies();
    gateway.wait_for_log("a worker has gone");
    let mut second = Worker::all(&gateway, "app");
    let mut seen: Vec<_> = (0..4)
        .map(|_| {
            let work = second.next();
            second.answer(&work, "");
            work.arg().as_u64()
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [2, 3, 4, 5].map(Some));
}

#[test]
fn events_wait_for_a_group_whose_last_worker_has_gone() {
    let gateway = Gateway::start(&config("timeout = \"1m\""));
    let mut ada = gateway.client();
    let mut first = Worker::all(&gateway, "app");
    send(&mut ada, &[1]);
    assert_eq!(first.next().arg(), 1);
    first.dies();
    gateway.wait_for_log("a worker has gone");
    send(&mut ada, &[2]);
    let mut second = Worker::all(&gateway, "app");
    for (n, is_again) in [(1, true), (2, false)] {
        let work = second.next();
        assert_eq!((work.arg(), &work.data["redelivered"]), (&json!(n), &json!(is_again)));
        second.answer(&work, "");
        assert_eq!(ada.text(), format!("43{n}[]"));
    }
}

#[test]
fn a_worker_has_only_so_many_at_a_time() {
    let gateway = Gateway::start(&config("in_flight = 2\nqueue = 4"));
    let mut ada = gateway.client();
    let mut worker = Worker::all(&gateway, "app");
    send(&mut ada, &[1, 2, 3, 4, 5]);
    // The fifth finds the queue full.
    assert!(ada.text().contains("backend_busy"));
    let (one, two) = (worker.next(), worker.next());
    assert_eq!((one.arg(), two.arg()), (&json!(1), &json!(2)));
    // Its own command is answered before anything else comes.
    worker.ask("emit", &json!({ "event": "x", "rooms": ["none"] }));
    worker.answer(&two, "");
    assert_eq!(worker.next().arg(), 3);
    worker.answer(&one, "");
    assert_eq!(worker.next().arg(), 4);
    assert_eq!([ada.text(), ada.text()], ["432[]", "431[]"]);
    until("one to be counted", || ended(&gateway, "queue_full") == 1);
}

#[test]
fn who_does_not_acknowledge_in_time_has_failed() {
    let gateway = Gateway::start(&config("timeout = \"100ms\""));
    let mut ada = gateway.client();
    let mut worker = Worker::all(&gateway, "app");
    send(&mut ada, &[1]);
    let work = worker.next();
    let refused = ada.text();
    assert!(refused.contains("backend_timeout"), "{refused}");
    // What comes too late changes nothing.
    worker.answer(&work, "1");
    assert_eq!(ada.ask("here", ""), r#"["here"]"#);
    until("it to be counted", || ended(&gateway, "timed_out") == 1);
}

#[test]
fn each_name_gets_the_event_and_the_first_answer_counts() {
    let gateway = Gateway::start(&config(""));
    let mut ada = gateway.client();
    let mut workers = [Worker::all(&gateway, "one"), Worker::all(&gateway, "two")];
    send(&mut ada, &[1]);
    let works = workers.each_mut().map(Worker::next);
    workers[1].answer(&works[1], "\"two\"");
    assert_eq!(ada.text(), r#"431["two"]"#);
    workers[0].answer(&works[0], "\"one\"");
    until("both to be counted", || ended(&gateway, "delivered") == 2);
    assert_eq!(ada.ask("here", ""), r#"["here"]"#);
}

#[test]
fn workers_act_as_the_http_api_does() {
    let gateway = Gateway::start(&config(""));
    let mut ada = gateway.session();
    let id = ada.join("/");
    let mut worker = Worker::connect(&gateway, "app", json!({}));
    let joined = worker.ask("join", &json!({ "sockets": [id], "join": ["room"] }));
    assert_eq!(joined["result"]["sockets"], 1, "{joined}");
    let sent = worker
        .ask("command", &json!({ "do": "emit", "rooms": ["room"], "event": "hi", "args": [1] }));
    assert!(sent["result"].is_object(), "{sent}");
    assert_eq!(ada.event(), ("hi".into(), vec![json!(1)]));
    let list = json!([
        { "do": "leave", "sockets": [id], "leave": ["room"] },
        { "do": "fly" },
        { "do": "emit", "event": "all" },
    ]);
    let answers = worker.ask("commands", &list);
    assert_eq!(answers[0]["result"]["sockets"], 1, "{answers}");
    assert_eq!(answers[1]["error"]["status"], 422, "{answers}");
    assert!(answers[2]["result"].is_object(), "{answers}");
    assert_eq!(ada.event(), ("all".into(), vec![]));
    for (event, data, status) in [
        ("fly", json!({}), 404),
        ("emit", json!({}), 422),
        ("emit", json!({ "event": "x", "namespace": "/none" }), 404),
        ("command", json!("x"), 422),
        ("commands", json!({}), 422),
    ] {
        assert_eq!(worker.ask(event, &data)["error"]["status"], status, "{event} {data}");
    }
    let kicked = worker.ask("kick", &json!({ "sockets": [id] }));
    assert_eq!(kicked["result"]["sockets"], 1, "{kicked}");
    assert_eq!(ada.text(), "41");
}

#[test]
fn a_key_permits_what_its_configuration_says() {
    let limited = "[[workers.key]]\nname = \"chat\"\nkey = \"another key of one\"\n\
         namespaces = [\"/chat\"]\nactions = [\"emit\"]\n[[namespace]]\nname = \"/chat\"\n";
    let gateway = Gateway::start(&format!("{}{limited}", config("")));
    let mut socket = gateway.session();
    let auth = |more: &str| format!(r#"{{"key":"another key of one","name":"x"{more}}}"#);
    let error = join_as(&mut socket, "/workers", &auth(r#","events":["*"]"#)).expect_err("events");
    assert!(error["message"].as_str().is_some_and(|it| it.contains("may not")), "{error}");
    join_as(&mut socket, "/workers", &auth("")).expect("it may come");
    let mut worker = Worker { socket, asked: 0 };
    let may = worker.ask("emit", &json!({ "namespace": "/chat", "event": "x" }));
    assert!(may["result"].is_object(), "{may}");
    for (event, data) in [
        ("emit", json!({ "event": "x" })),
        ("join", json!({ "namespace": "/chat", "join": ["x"] })),
    ] {
        assert_eq!(worker.ask(event, &data)["error"]["status"], 403, "{event} {data}");
    }
}

#[test]
fn workers_are_told_of_what_else_happens() {
    let gateway = Gateway::start(&format!("{}[rooms]\npause = \"20ms\"\n", config("")));
    let happenings =
        json!({ "happenings": ["connect", "disconnect", "room-occupied", "room-vacated"] });
    let mut worker = Worker::connect(&gateway, "app", happenings);
    let next = |worker: &mut Worker, kind: &str| {
        let work = worker.next();
        worker.answer(&work, "");
        assert_eq!((work.name.as_str(), &work.data["type"]), ("happening", &json!(kind)));
        work.data
    };
    let mut ada = gateway.session();
    let id = ada.join("/");
    assert_eq!(next(&mut worker, "connect")["socket"], json!(id));
    assert_eq!(
        worker.ask("join", &json!({ "sockets": [id], "join": ["room"] }))["result"]["sockets"],
        1
    );
    assert_eq!(next(&mut worker, "room-occupied")["room"], "room");
    ada.send("41");
    let gone = next(&mut worker, "disconnect");
    assert_eq!(
        (&gone["socket"], &gone["reason"]),
        (&json!(id), &json!("client namespace disconnect"))
    );
    assert_eq!(next(&mut worker, "room-vacated")["room"], "room");
}

#[test]
fn whoever_guesses_keys_is_disconnected_and_does_not_fill_the_log() {
    let gateway = Gateway::start(&config(""));
    for _ in 0..40 {
        let mut socket = gateway.session();
        let guess = r#"40/workers,{"key":"a key of a worke1","name":"x"}"#;
        socket.send(guess);
        let refused = "44/workers,{\"message\":\"not authorized\",\
            \"data\":{\"code\":\"not_authorized\"}}";
        assert_eq!(socket.text(), refused);
        assert_eq!(socket.rest(), [Frame::Close]);
    }
    let refused = "corecast_workers_refused_total";
    until("all to be counted", || counted(&gateway, refused, "not_authorized") == 40);
    let lines = gateway.log().matches("a worker was not let in").count();
    assert!((1..40).contains(&lines), "{lines}");
}

#[test]
fn a_key_has_so_many_names_of_workers() {
    let gateway = Gateway::start(&config(""));
    let join = |name: &str| {
        let mut socket = gateway.session();
        let auth = json!({ "key": KEY, "name": name }).to_string();
        join_as(&mut socket, "/workers", &auth).map(|_| socket)
    };
    let names: Vec<String> = (0..64).map(|n| format!("app-{n}")).collect();
    let _workers: Vec<_> = names.iter().map(|name| join(name).expect("it may come")).collect();
    until("all to have come", || gateway.log().matches("a worker has come").count() == 64);
    assert!(join("app-7").is_ok());
    let Err(error) = join("app-64") else { panic!("one name too many") };
    assert_eq!(error["data"]["code"], "too_many_names", "{error}");
}

#[test]
fn instances_take_turns_where_they_have_as_much() {
    let gateway = Gateway::start(&config(""));
    let workers = [Worker::all(&gateway, "app"), Worker::all(&gateway, "app")];
    let workers = workers.map(|mut worker| {
        std::thread::spawn(move || {
            for _ in 0..3 {
                let work = worker.next();
                worker.answer(&work, "");
            }
            worker
        })
    });
    for _ in 0..6 {
        let mut client = gateway.client();
        send(&mut client, &[1]);
        assert_eq!(client.text(), "431[]");
    }
    for worker in workers {
        worker.join().expect("three each");
    }
}

#[test]
fn others_get_what_a_worker_has_that_hangs() {
    let gateway = Gateway::start(&config("timeout = \"3s\""));
    let mut hung = Worker::all(&gateway, "app");
    let mut good = Worker::all(&gateway, "app");
    let good = std::thread::spawn(move || {
        let mut redelivered = 0;
        for _ in 0..6 {
            let work = good.next();
            redelivered += u64::from(work.data["redelivered"] == true);
            good.answer(&work, "\"good\"");
        }
        (good, redelivered)
    });
    for _ in 0..6 {
        let mut client = gateway.client();
        send(&mut client, &[1]);
        assert_eq!(client.text(), r#"431["good"]"#);
    }
    let (good, redelivered) = good.join().expect("all of them");
    // Both were equal at first, and the one that hangs was given something at least once.
    assert!(redelivered > 0);
    gateway.wait_for_log("a worker does not acknowledge anything");
    // Once the others are gone it is better than nobody, and works again.
    good.dies();
    gateway.wait_for_log("a worker has gone");
    for _ in 0..redelivered {
        hung.next();
    }
    let mut client = gateway.client();
    send(&mut client, &[2]);
    let work = hung.next();
    assert_eq!(work.arg(), 2);
    hung.answer(&work, "\"again\"");
    assert_eq!(client.text(), r#"432["again"]"#);
    assert_eq!(ended(&gateway, "timed_out"), 0);
}

#[test]
fn one_client_takes_turns_with_others_and_has_a_share_of_the_queue() {
    let gateway = Gateway::start(&config("queue = 1024\nin_flight = 2\ntimeout = \"1m\""));
    let mut worker = Worker::all(&gateway, "app");
    let (mut ada, mut bob) = (gateway.client(), gateway.client());
    for n in 0..65 {
        ada.send(&format!("42[\"work\",{n}]"));
    }
    until("one to be refused", || ended(&gateway, "queue_full") == 1);
    send(&mut bob, &[1_000]);
    // Of what waits behind, none is before it.
    let mut before = 0;
    let work = loop {
        let work = worker.next();
        if *work.arg() == 1_000 {
            break work;
        }
        assert_eq!(*work.arg(), before, "in order");
        before += 1;
        worker.answer(&work, "");
    };
    assert!(before < 16, "{before} of another client came before it");
    worker.answer(&work, "");
    assert_eq!(bob.text(), "431000[]");
}

#[test]
fn a_key_that_is_changed_or_taken_away_ends_its_workers() {
    let key = |name: &str, more: &str| {
        format!("[[workers.key]]\nname = {name:?}\nkey = \"the own key of {name}\"\n{more}\n")
    };
    let all = [config(""), key("gone", ""), key("less", ""), key("stays", "")].concat();
    let gateway = Gateway::start(&all);
    let join = |name: &str| {
        let key = format!("the own key of {name}");
        let auth = json!({ "key": key, "name": name, "events": ["*"] }).to_string();
        let mut socket = gateway.session();
        join_as(&mut socket, "/workers", &auth).map(|id| {
            gateway.wait_for_log(&id);
            socket
        })
    };
    let [gone, less, stays] = ["gone", "less", "stays"].map(|name| join(name).expect("a worker"));
    let fewer = [config(""), key("less", "actions = [\"emit\"]"), key("stays", "")].concat();
    gateway.configure(&fewer);
    gateway.post("/reload", "").expect(200);
    for mut socket in [gone, less] {
        assert!(matches!(socket.rest()[..], [] | [Frame::Close]));
    }
    assert_eq!(join("gone").err().expect("no key")["message"], "not authorized");
    assert!(join("less").err().expect("no events")["message"].to_string().contains("may not"));
    let mut stays = Worker { socket: stays, asked: 0 };
    let mut ada = gateway.client();
    send(&mut ada, &[1]);
    let work = stays.next();
    stays.answer(&work, "");
    assert_eq!(ada.text(), "431[]");
    assert!(stays.ask("emit", &json!({ "event": "x" }))["result"].is_object());
    // Nobody may come from here any more.
    gateway.configure(&fewer.replace("[workers]", "[workers]\nallow = [\"10.0.0.0/8\"]"));
    gateway.post("/reload", "").expect(200);
    assert!(matches!(stays.socket.rest()[..], [.., Frame::Close] | []));
}

#[test]
fn the_namespace_of_workers_stays_what_it_was() {
    let gateway = Gateway::start(&config(""));
    let mut worker = Worker::all(&gateway, "app");
    gateway.configure(&config("namespace = \"/other\""));
    let reloaded = gateway.post("/reload", "").expect(200);
    assert_eq!(reloaded["restart_needed_for"], json!(["workers.namespace"]));
    let forged = gateway.post("/v1/emit", r#"{"namespace":"/workers","event":"event"}"#);
    forged.problem(404, "/workers");
    assert!(worker.ask("emit", &json!({ "event": "x" }))["result"].is_object());
    let clients = "[[namespace]]\nname = \"/workers\"\n";
    gateway.configure(&format!("{}{clients}", config("namespace = \"/other\"")));
    let refused = gateway.post("/reload", "");
    assert!(refused.status == 422 && refused.body.contains("until a restart"), "{refused:?}");
}

#[test]
fn groups_of_one_name_have_series_of_their_own() {
    let other = "[[workers.key]]\nname = \"other\"\nkey = \"another key of one\"\n";
    let gateway = Gateway::start(&format!("{}{other}", config("")));
    let _worker = Worker::all(&gateway, "app");
    let mut socket = gateway.session();
    let auth = r#"{"key":"another key of one","name":"app"}"#;
    let id = join_as(&mut socket, "/workers", auth).expect("it may come");
    gateway.wait_for_log(&id);
    let text = gateway.get("/metrics").body;
    for key in ["main", "other"] {
        let line = format!("corecast_workers{{key=\"{key}\",group=\"app\"}} 1\n");
        assert!(text.contains(&line), "{text}");
    }
}

#[test]
fn events_are_not_kept_for_a_name_that_has_gone_for_good() {
    let gateway = Gateway::start(&config("timeout = \"200ms\""));
    let (mut ada, worker) = (gateway.client(), Worker::all(&gateway, "old"));
    worker.dies();
    gateway.wait_for_log("a worker has gone");
    // There is always one that still waits for it.
    let mut n = 0;
    until("events to be refused at once", || {
        n += 1;
        send(&mut ada, &[n]);
        counted(&gateway, "corecast_worker_events_total", "key=\"\"") > 0
    });
}

#[test]
fn what_workers_have_not_done_at_the_end_is_told() {
    let mut gateway = Gateway::start(&config(""));
    let (mut ada, mut worker) = (gateway.client(), Worker::all(&gateway, "app"));
    for n in 0..5 {
        ada.send(&format!("42[\"work\",{n}]"));
        worker.next();
    }
    gateway.signal("INT");
    assert!(gateway.wait().success());
    gateway.wait_for_log("not acknowledged, as the gateway ends");
    assert!(gateway.log().contains("lost=5"), "{}", gateway.log());
}
