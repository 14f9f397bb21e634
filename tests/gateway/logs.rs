//! What is logged, what never is, and traces as a collector gets them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use super::client::PATIENCE;
use super::reload::{hang_up, many};
use super::rig::{Folder, Gateway};
use serde_json::Value;

const NAMESPACE: &str = "[[namespace]]\nname = \"/\"\n";

/// A gateway whose log is what its file says, whatever the variables of the test are.
fn start(toml: &str) -> Gateway {
    Gateway::start_with(Folder::new(), toml, |command| {
        command.env_remove("RUST_LOG");
    })
}

#[test]
fn lines_are_json_if_wished_and_those_of_the_library_are_among_them() {
    // Credentials for every origin: the library warns of it through the log facade.
    let cors = "[server.cors]\norigins = [\"*\"]\ncredentials = true\n";
    let toml = format!("[log]\nformat = \"json\"\nlevel = \"debug\"\n{cors}{NAMESPACE}");
    let gateway = start(&toml);
    hang_up(&gateway, "\"reloaded\"");
    let lines: Vec<Value> = gateway
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let has = |level: &str, text: &str| {
        lines.iter().any(|line| {
            let message = line["fields"]["message"].as_str().unwrap_or_default();
            line["level"] == level && message.contains(text)
        })
    };
    assert!(has("WARN", "browsers refuse credentials"), "{lines:#?}");
    assert!(has("INFO", "reloaded"), "{lines:#?}");
}

#[test]
fn each_part_has_its_level_and_a_reload_changes_it() {
    let at = |level: &str| format!("[log]\nlevel = \"{level}\"\n{NAMESPACE}");
    let gateway = start(&at("error,corecast::gateway=info"));
    hang_up(&gateway, "reloaded");
    gateway.configure(&at("off"));
    gateway.post("/reload", "").expect(200);
    let before = gateway.log();
    gateway.post("/reload", "").expect(200);
    assert_eq!(gateway.log(), before, "nothing is logged any more");
}

#[test]
fn secrets_of_file_and_environment_are_in_no_line() {
    let toml = format!("[log]\nlevel = \"trace\"\n{NAMESPACE}");
    let gateway = Gateway::start_with(Folder::new(), &toml, |command| {
        command.env_remove("RUST_LOG").env("CORECAST_SECRET_OF_SOMEBODY", "hunter2");
    });
    hang_up(&gateway, "reloaded");
    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", "Bearer hunter2"),
        ("X-API-Key", "hunter2"),
        ("Cookie", "a=hunter2"),
    ];
    let body = r#"{"event":"a","args":[1]}"#;
    let _ = gateway.http().ask("POST", "/v1/emit?token=hunter2", &headers, body);
    gateway.configure("[server]\npath = 1\nsecret = \"hunter2\"\n hunter2\n");
    hang_up(&gateway, "not reloaded");
    assert!(!gateway.log().contains("hunter2"), "{}", gateway.log());
}

/// One span as the collector got it.
#[derive(Debug, Clone, Default)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    /// Names and values of attributes, as far as they are text or numbers.
    attributes: Vec<(String, String)>,
}

impl Span {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The fields of a protobuf message: number, and bytes or number.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().expect("a whole number");
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = match tag & 7 {
            0 => varint(&mut bytes).to_be_bytes().to_vec(),
            kind => {
                let length = match kind {
                    1 => 8,
                    5 => 4,
                    2 => varint(&mut bytes) as usize,
                    kind => panic!("kind {kind} of field"),
                };
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                value.to_vec()
            }
        };
        found.push((tag >> 3, value));
    }
    found
}

fn all(bytes: &[u8], number: u64) -> impl Iterator<Item = Vec<u8>> {
    fields(bytes).into_iter().filter(move |(at, _)| *at == number).map(|(_, value)| value)
}

fn text_of(bytes: &[u8], number: u64) -> String {
    all(bytes, number).next().map(|it| String::from_utf8(it).expect("UTF-8")).unwrap_or_default()
}

fn hex_of(bytes: &[u8], number: u64) -> String {
    let id = all(bytes, number).next().unwrap_or_default();
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(message: &[u8], number: u64) -> Vec<(String, String)> {
    let read = |pair: Vec<u8>| {
        let value = all(&pair, 2).next().unwrap_or_default();
        let shown = fields(&value).into_iter().next().map(|(kind, bytes)| match kind {
            1 => String::from_utf8(bytes).expect("UTF-8"),
            2 | 3 => u64::from_be_bytes(bytes.try_into().expect("8 bytes")).to_string(),
            kind => format!("kind {kind}"),
        });
        (text_of(&pair, 1), shown.unwrap_or_default())
    };
    all(message, number).map(read).collect()
}

/// The names of the services and the spans of an ExportTraceServiceRequest.
fn decode(request: &[u8]) -> (Vec<String>, Vec<Span>) {
    let (mut services, mut spans) = (Vec::new(), Vec::new());
    for of_resource in all(request, 1) {
        for resource in all(&of_resource, 1) {
            let names = attributes(&resource, 1).into_iter();
            services.extend(names.filter(|(key, _)| key == "service.name").map(|(_, name)| name));
        }
        for of_scope in all(&of_resource, 2) {
            spans.extend(all(&of_scope, 2).map(|span| Span {
                trace: hex_of(&span, 1),
                id: hex_of(&span, 2),
                parent: hex_of(&span, 4),
                name: text_of(&span, 5),
                attributes: attributes(&span, 9),
            }));
        }
    }
    (services, spans)
}

/// A collector for OTLP over HTTP: its URL, and the bodies that come.
fn collector() -> (String, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/v1/traces", listener.local_addr().expect("an address"));
    let (sender, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            std::thread::spawn(move || collect(stream, &sender));
        }
    });
    (url, bodies)
}

fn collect(mut stream: std::net::TcpStream, sender: &mpsc::Sender<Vec<u8>>) {
    let mut input = Vec::new();
    let mut bytes = [0; 16 * 1024];
    loop {
        let end = input.windows(4).position(|it: &[u8]| it == b"\r\n\r\n").map(|at| at + 4);
        let head = end.map(|end| String::from_utf8_lossy(&input[..end]).to_ascii_lowercase());
        let length = head.as_ref().map(|head| {
            assert!(head.starts_with("post /v1/traces "), "{head}");
            assert!(head.contains("content-type: application/x-protobuf"), "{head}");
            let length = head.split("content-length: ").nth(1).expect("a length");
            length.split("\r\n").next().expect("digits").parse::<usize>().expect("digits")
        });
        if let (Some(end), Some(length)) = (end, length)
            && input.len() >= end + length
        {
            let rest = input.split_off(end + length);
            let _ = sender.send(input[end..].to_vec());
            input = rest;
            let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n\
                Content-Length: 0\r\n\r\n";
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
            continue;
        }
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(count) => input.extend_from_slice(&bytes[..count]),
        }
    }
}

#[test]
fn a_request_is_followed_to_the_shards() {
    let (url, bodies) = collector();
    let trace =
        format!("[trace]\nendpoint = \"{url}\"\nservice_name = \"my-gateway\"\nsample = 0.0\n");
    let mut gateway = start(&format!("{trace}{NAMESPACE}"));
    let _clients = many(gateway.address, 3);
    let body = r#"{"event":"news","args":["x"]}"#;
    // The caller has decided to trace this one, and not to trace the other; nobody has decided
    // about the third, of which the share of 0 is traced.
    for (flags, id) in [("01", "00f067aa0ba902b7"), ("00", "1111111111111111")] {
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{id}-{flags}");
        let headers = [("Content-Type", "application/json"), ("traceparent", &parent)];
        gateway.http().ask("POST", "/v1/emit", &headers, body).expect(202);
    }
    gateway.post("/v1/emit", body).expect(202);
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    // What was not sent yet is sent before the process ends.
    let (mut services, mut spans) = (Vec::new(), Vec::new());
    while spans.len() < 3 {
        let body = bodies.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("only {spans:#?}"));
        let (names, more) = decode(&body);
        services.extend(names);
        spans.extend(more);
    }
    assert!(services.iter().all(|name| name == "my-gateway"), "{services:?}");
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let named = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| panic!("{name} in {spans:#?}"))
    };
    let [request, command, fan_out] = ["POST /v1/emit", "emit", "fan-out"].map(named);
    assert!(
        spans.iter().all(|span| span.trace == "4bf92f3577b34da6a3ce929d0e0e4736"),
        "{spans:#?}"
    );
    assert_eq!(request.parent, "00f067aa0ba902b7");
    assert_eq!((&command.parent, &fan_out.parent), (&request.id, &command.id));
    assert_eq!(command.attribute("corecast.namespace"), Some("/"));
    assert_eq!(fan_out.attribute("corecast.receivers"), Some("3"));
    assert!(!format!("{spans:?}").contains("news"), "what is sent stays out of traces");
}

/// Also where a command is carried out beside its request: in a batch, or with a key.
#[test]
fn commands_belong_to_their_requests() {
    let (url, bodies) = collector();
    let mut gateway = start(&format!("[trace]\nendpoint = \"{url}\"\nsample = 0.0\n{NAMESPACE}"));
    let parent = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let json = ("Content-Type", "application/json");
    let keyed = [json, parent, ("Idempotency-Key", "k")];
    let body = r#"{"event":"news"}"#;
    gateway.http().ask("POST", "/v1/emit", &keyed, body).expect(202);
    let lines = [("Content-Type", "application/x-ndjson"), parent];
    let body = r#"{"do":"leave","leave":["a"]}"#;
    assert_eq!(gateway.http().ask("POST", "/v1/batch", &lines, body).status, 200);
    assert_eq!(gateway.http().ask("GET", "/v1/sockets/abc", &[parent], "").status, 404);
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    let mut spans = Vec::new();
    while spans.len() < 6 {
        let body = bodies.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("only {spans:#?}"));
        spans.extend(decode(&body).1);
    }
    let named = |name: &str| spans.iter().find(|span| span.name == name).expect(name);
    for (command, request) in [("emit", "POST /v1/emit"), ("leave", "POST /v1/batch")] {
        assert_eq!(named(command).parent, named(request).id, "{spans:#?}");
    }
    named("GET /v1/sockets/{id}");
}

#[test]
fn a_collector_that_is_not_there_stands_in_nobodys_way() {
    let toml = format!("[trace]\nendpoint = \"http://127.0.0.1:9/v1/traces\"\n{NAMESPACE}");
    let mut gateway = start(&toml);
    for _ in 0..20 {
        gateway.post("/v1/emit", r#"{"event":"news"}"#).expect(202);
    }
    gateway.signal("TERM");
    assert!(gateway.wait().success());
}
