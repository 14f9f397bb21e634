//! `docs/openapi.json` against the server: each example is sent, each answer is held against its
//! schema, each error that is described is provoked.

use serde_json::{Map, Value, json};

use crate::rig::{Gateway, Reply, until};

const TOML: &str = r#"
[api]
max_body_bytes = 2000
[[api.key]]
name = "all"
key = "all-0123456789abcdef"
[[api.key]]
name = "none"
key = "none-0123456789abcdef"
actions = []
[[api.key]]
name = "slow"
key = "slow-0123456789abcdef"
rate = 1
[[namespace]]
name = "/"
[[namespace]]
name = "/chat"
"#;

/// One operation of the description.
struct Operation<'a> {
    path: &'a str,
    method: String,
    is: &'a Value,
    whole: &'a Value,
}

fn description() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the file")).expect("JSON")
}

fn operations(whole: &Value) -> Vec<Operation<'_>> {
    let paths = whole["paths"].as_object().expect("paths").iter();
    paths
        .flat_map(|(path, item)| {
            item.as_object().expect("methods").iter().map(move |(method, is)| Operation {
                path,
                method: method.to_uppercase(),
                is,
                whole,
            })
        })
        .collect()
}

impl Operation<'_> {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The path with its parameters filled in.
    fn target(&self) -> String {
        self.path.replace("{id}", "AAAAAAAAAAAAAAAAAAAA").replace("{user}", "ada")
    }

    /// What stands at a status, references followed.
    fn response(&self, status: &str) -> Option<&Value> {
        let response = self.is["responses"].get(status)?;
        match response["$ref"].as_str() {
            Some(to) => self.whole.pointer(to.strip_prefix('#').expect("of this file")),
            None => Some(response),
        }
    }

    /// Fails unless the value is as the schema says.
    fn check(&self, schema: &Value, value: &Value, what: &str) {
        let schema = json!({ "allOf": [schema], "components": self.whole["components"] });
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let errors: Vec<String> =
            validator.iter_errors(value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {what}: {errors:?} in {value}", self.name());
    }

    /// Fails unless an answer is one that is described.
    fn check_reply(&self, reply: &Reply) {
        let status = reply.status.to_string();
        let response = self.response(&status).or_else(|| self.response("default"));
        let response = response.unwrap_or_else(|| panic!("{}: {reply:?}", self.name()));
        let kind = reply.header("content-type").expect("a type");
        let kind = kind.split(';').next().expect("a type");
        let content = response["content"].get(kind);
        let content = content.unwrap_or_else(|| panic!("{}: no {kind} at {status}", self.name()));
        match kind {
            "application/x-ndjson" => {
                for line in reply.body.lines() {
                    self.check(&content["schema"], &serde_json::from_str(line).unwrap(), line);
                }
            }
            _ if kind.ends_with("json") => {
                self.check(&content["schema"], &reply.json(), &status);
            }
            _ => self.check(&content["schema"], &json!(reply.body), &status),
        }
    }

    /// Bodies that stand in the description, with their type; an empty one if none is taken.
    fn examples(&self) -> Vec<(String, String)> {
        let none = Map::new();
        let contents = self.is["requestBody"]["content"].as_object().unwrap_or(&none);
        if contents.is_empty() {
            return vec![(String::new(), String::new())];
        }
        let mut found = Vec::new();
        for (kind, content) in contents {
            let several = content["examples"].as_object().unwrap_or(&none);
            let values = several.values().map(|it| &it["value"]).chain(content.get("example"));
            for value in values {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                match kind.as_str() {
                    // A batch shows what goes wrong as well.
                    "application/x-ndjson" => {
                        let first = text.lines().next().expect("a line");
                        let first = serde_json::from_str(first).expect("JSON");
                        self.check(&content["schema"], &first, "an example");
                    }
                    _ => self.check(&content["schema"], value, "an example"),
                }
                found.push((kind.clone(), text));
            }
        }
        assert!(!found.is_empty(), "{} has no example", self.name());
        found
    }

    fn ask(&self, gateway: &Gateway, key: &str, query: &str, with: (&str, &str)) -> Reply {
        let target = format!("{}{query}", self.target());
        let bearer = format!("Bearer {key}-0123456789abcdef");
        let mut headers = vec![("Content-Type", with.0)];
        if !key.is_empty() {
            headers.push(("Authorization", bearer.as_str()));
        }
        gateway.http().ask(&self.method, &target, &headers, with.1)
    }

    /// Makes the server answer this operation with a status.
    fn provoke(&self, gateway: &Gateway, status: &str) -> Reply {
        let (kind, body) = self.examples().swap_remove(0);
        let example = (kind.as_str(), body.as_str());
        let (is_batch, is_command) = (self.path == "/v1/batch", self.method == "POST");
        match status {
            "400" if is_batch => {
                let key = "Bearer all-0123456789abcdef";
                let headers =
                    [("Content-Type", example.0), ("Authorization", key), ("Idempotency-Key", "k")];
                gateway.http().ask(&self.method, &self.target(), &headers, example.1)
            }
            "400" => self.ask(gateway, "all", "", (example.0, "{")),
            "401" => self.ask(gateway, "", "", example),
            "403" => self.ask(gateway, "none", "", example),
            "404" if is_command => {
                let mut body: Value = serde_json::from_str(example.1).expect("JSON");
                body["namespace"] = json!("/none");
                self.ask(gateway, "all", "", (example.0, &body.to_string()))
            }
            "404" => self.ask(gateway, "all", "?namespace=/none", example),
            "409" if self.path == "/v1/emit" => self.twice(gateway),
            "409" => self.at_once(gateway, example),
            "413" => self.ask(gateway, "all", "", (example.0, &" ".repeat(2_001))),
            "415" => self.ask(gateway, "all", "", ("text/plain", example.1)),
            "422" if self.path == "/reload" => {
                gateway.configure("colour = 1\n");
                let reply = self.ask(gateway, "all", "", example);
                gateway.configure(TOML);
                reply
            }
            "422" if is_command && !is_batch => {
                self.ask(gateway, "all", "", (example.0, r#"{"colour":1}"#))
            }
            "422" => self.ask(gateway, "all", "?colour=1", example),
            "429" => loop {
                let reply = self.ask(gateway, "slow", "", example);
                if reply.status == 429 {
                    break reply;
                }
            },
            other => panic!("{}: nobody knows how to provoke {other}", self.name()),
        }
    }

    /// Two requests with one key, until one of them finds the other under way.
    fn at_once(&self, gateway: &Gateway, (kind, body): (&str, &str)) -> Reply {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let key = format!("at once {attempts}");
            let headers = [
                ("Content-Type", kind),
                ("Authorization", "Bearer all-0123456789abcdef"),
                ("Idempotency-Key", key.as_str()),
            ];
            let asked = crate::rig::request(&self.method, &self.target(), &headers, body);
            let mut both = [(); 2].map(|()| gateway.http());
            both.iter_mut().for_each(|http| http.write(&asked));
            let refused = both.into_iter().map(|mut http| http.reply()).find(|it| it.status == 409);
            if let Some(reply) = refused {
                return reply;
            }
        }
    }

    /// The same request while the first one with its key waits.
    fn twice(&self, gateway: &Gateway) -> Reply {
        let mut client = gateway.client();
        let headers = [
            ("Content-Type", "application/json"),
            ("Authorization", "Bearer all-0123456789abcdef"),
            ("Idempotency-Key", "twice"),
        ];
        let body = r#"{"event":"who","ack":true,"timeout_ms":60000}"#;
        let mut first = gateway.http();
        first.write(crate::rig::request(&self.method, &self.target(), &headers, body));
        assert!(client.text().contains("who"));
        gateway.http().ask(&self.method, &self.target(), &headers, body)
    }
}

#[test]
fn examples_get_the_answers_that_are_described() {
    let whole = description();
    let gateway = Gateway::start(TOML);
    let _clients = [gateway.client(), gateway.client()];
    // The end of it all has its own test.
    for operation in operations(&whole).iter().filter(|it| it.path != "/drain") {
        for (kind, body) in operation.examples() {
            let reply = operation.ask(&gateway, "all", "", (&kind, &body));
            operation.check_reply(&reply);
            // Where something has to be there before, that it is not is an answer as well.
            let needs = operation.path.contains('{');
            assert!(reply.status < 300 || needs && reply.status == 404, "{reply:?}");
        }
    }
}

/// The same for a socket that is there, with rooms and data, and acknowledgements that come.
#[test]
fn full_answers_are_as_described() {
    let whole = description();
    let gateway = Gateway::start(TOML);
    let mut socket = gateway.session();
    let id = crate::rig::join_as(&mut socket, "/", "").expect("it is let in");
    let ask = |method: &str, path: &str, target: &str, body: Value| {
        let headers = [("Content-Type", "application/json"), ("X-API-Key", "all-0123456789abcdef")];
        let reply = gateway.http().ask(method, target, &headers, &body.to_string());
        let operations = operations(&whole);
        let found = operations.iter().find(|it| it.path == path && it.method == method);
        found.expect("an operation").check_reply(&reply);
        reply.expect(200)
    };
    ask("POST", "/v1/join", "/v1/join", json!({ "join": ["a room"] }));
    let data = format!("/v1/sockets/{id}/data");
    ask("PUT", "/v1/sockets/{id}/data", &data, json!({ "seats": 3 }));
    let row = ask("GET", "/v1/sockets/{id}", &format!("/v1/sockets/{id}"), Value::Null);
    assert_eq!((&row["rooms"], &row["data"]), (&json!(["a room"]), &json!({ "seats": 3 })));
    let page = ask("GET", "/v1/sockets", "/v1/sockets?room=a%20room", Value::Null);
    assert_eq!(page["sockets"].as_array().map(Vec::len), Some(1));
    let rooms = ask("GET", "/v1/rooms", "/v1/rooms", Value::Null);
    assert_eq!(rooms["rooms"], json!([{ "name": "a room", "sockets": 1 }]));
    let answering = std::thread::spawn(move || {
        let text = socket.text();
        let id = text.strip_prefix("42").and_then(|it| it.split_once('[')).expect("an event").0;
        // An attachment in the acknowledgement.
        socket.send(&format!("461-{id}[{{\"_placeholder\":true,\"num\":0}}]"));
        socket.stream.write(&[0x82, 0x83, 0, 0, 0, 0, 1, 2, 3]);
        socket
    });
    let answers = ask("POST", "/v1/emit", "/v1/emit", json!({ "event": "file", "ack": true }));
    assert_eq!(answers["responses"][0]["attachments"], json!(["AQID"]), "{answers}");
    answering.join().expect("no panic");
}

#[test]
fn every_error_that_is_described_can_be_had() {
    let whole = description();
    let gateway = Gateway::start(TOML);
    let mut provoked = 0;
    for operation in operations(&whole) {
        let statuses = operation.is["responses"].as_object().expect("responses").keys();
        let errors = statuses.filter(|status| status.starts_with('4'));
        for status in errors {
            if operation.path == "/drain" && status == "429" {
                // The first one of many would end the gateway.
                continue;
            }
            let reply = operation.provoke(&gateway, status);
            assert_eq!(reply.status.to_string(), *status, "{}: {reply:?}", operation.name());
            operation.check_reply(&reply);
            provoked += 1;
        }
        if operation.response("default").is_some() {
            let target = operation.target();
            let reply = gateway.http().ask("PATCH", &target, &[], "");
            assert!(reply.header("allow").is_some_and(|it| it.contains(&operation.method)));
            operation.check_reply(&reply);
            reply.problem(405, "PATCH");
        }
    }
    assert!(provoked > 80, "{provoked}");
}

/// The one that needs a server which goes.
#[test]
fn a_gateway_that_goes_is_not_ready() {
    let whole = description();
    let gateway = Gateway::start(TOML);
    // It keeps the server waiting, as it does not close.
    let _client = gateway.client();
    let operations = operations(&whole);
    let find = |path: &str| operations.iter().find(|it| it.path == path).expect("it is there");
    let (ready, drain) = (find("/readyz"), find("/drain"));
    ready.check_reply(&gateway.get("/readyz"));
    let reply = drain.ask(&gateway, "all", "", ("", ""));
    drain.check_reply(&reply);
    reply.expect(202);
    until("it to say so", || {
        let reply = gateway.get("/readyz");
        ready.check_reply(&reply);
        reply.status == 503
    });
}

#[test]
fn the_description_is_served() {
    let gateway = Gateway::start(TOML);
    let served = gateway.get("/openapi.json").expect(200);
    assert_eq!(served, description());
    assert_eq!(served["info"]["version"], env!("CARGO_PKG_VERSION"));
}
