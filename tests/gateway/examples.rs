//! The programs of `examples/gateway`, run as their first lines say, and the beginning of the
//! guide.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::client::WebSocket;
use super::rig::{Folder, Gateway, Http, join_as, until};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateway").join(name)
}

/// The gateway of an example, on ports of its own.
fn start(name: &str) -> Gateway {
    let toml = std::fs::read_to_string(folder(name).join("corecast.toml")).expect("a file");
    Gateway::start_with(Folder::new(), &toml, |command| {
        command.current_dir(folder(name));
    })
}

/// The backend of an example; it ends with the test.
struct Backend(Child);

impl Backend {
    fn start(gateway: &Gateway, name: &str, program: &[&str], port: u16) -> Backend {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).current_dir(folder(name));
        command.env("API", format!("http://{}", gateway.api)).env("PORT", port.to_string());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Backend(command.stdin(Stdio::null()).spawn().expect("the backend starts"))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The next event, and what it came with.
fn event(client: &mut WebSocket) -> (String, Value) {
    let (name, mut args) = client.event();
    (name, args.remove(0))
}

#[test]
fn the_dashboard_gets_figures_from_a_shell() {
    let gateway = start("dashboard");
    let mut page = gateway.client();
    let _backend = Backend::start(&gateway, "dashboard", &["sh", "backend.sh"], 0);
    let (name, figures) = event(&mut page);
    assert_eq!(name, "figures");
    assert!(figures["load"].is_number() && figures["memory"].is_number(), "{figures}");
    let html = Http::connect(gateway.address).ask("GET", "/", &[], "");
    assert!(html.status == 200 && html.body.contains("<h1>Dashboard</h1>"), "{html:?}");
}

#[test]
fn a_notification_reaches_the_devices_of_its_user() {
    let gateway = start("notifications");
    notify(&gateway, |_| ["python3", "backend.py"].map(str::to_owned).into());
    // The same backend in PHP, where there is PHP.
    if Command::new("php").arg("--version").output().is_ok() {
        notify(&gateway, |port| {
            ["php", "-S", &format!("127.0.0.1:{port}"), "backend.php"].map(str::to_owned).into()
        });
    }
    let mut stranger = gateway.session();
    join_as(&mut stranger, "/", "").expect_err("no token");
}

fn notify(gateway: &Gateway, program: impl Fn(u16) -> Vec<String>) {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let program = program(address.port());
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    let _backend = Backend::start(gateway, "notifications", &program, address.port());
    until("the backend", || TcpStream::connect(address).is_ok());
    let connect = |user: &str| {
        let token = ask(address, "GET", &format!("/login?user={user}"), "");
        let mut socket = gateway.session();
        let auth = json!({ "token": token }).to_string();
        join_as(&mut socket, "/", &auth).expect("a good token");
        socket
    };
    let (mut ada, mut also_ada, mut bob) = (connect("ada"), connect("ada"), connect("bob"));
    ask(address, "POST", "/notify?user=ada", "Your parcel is on its way");
    ask(address, "POST", "/notify?user=bob", "for Bob");
    for device in [&mut ada, &mut also_ada] {
        let (name, what) = event(device);
        assert_eq!(name, "notification");
        assert_eq!(what["text"], "Your parcel is on its way");
    }
    assert_eq!(event(&mut bob).1["text"], "for Bob");
}

/// Asks a small server that closes each connection after its answer; the body.
fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.write_all(&super::rig::request(method, path, &[], body)).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(" 200 "), "{method} {path}: {answer}");
    body.to_owned()
}

#[test]
fn cursors_are_seen_by_the_others_and_counted_by_the_backend() {
    let gateway = start("cursor");
    let mut ada = gateway.session();
    let id = join_as(&mut ada, "/", "").expect("anybody may come");
    let mut bob = gateway.client();
    ada.emit("move", r#"{"x":0.25,"y":1}"#);
    // What is no position goes nowhere.
    ada.emit("move", r#"{"x":7,"y":1}"#);
    ada.emit("move", r#"{"x":0.5,"y":0}"#);
    assert_eq!(event(&mut bob), ("move".into(), json!({ "id": id, "x": 0.25, "y": 1 })));
    assert_eq!(event(&mut bob), ("move".into(), json!({ "id": id, "x": 0.5, "y": 0 })));
    let _backend = Backend::start(&gateway, "cursor", &["python3", "backend.py"], 0);
    // The first event of Ada: her own cursor does not come back to her.
    let (name, here) = event(&mut ada);
    assert_eq!((name.as_str(), here.as_array().map(Vec::len)), ("here", Some(2)));
}

#[test]
fn the_beginning_of_the_guide_does_what_it_says() {
    let guide = include_str!("../../docs/gateway.md");
    let (beginning, _) = guide.split_once("\n## Configuration").expect("a section");
    let blocks = |kind: &str| -> Vec<String> {
        let fence = format!("```{kind}\n");
        let parts = beginning.split(&fence).skip(1);
        parts.map(|part| part.split("```").next().expect("a block").to_owned()).collect()
    };
    let [toml, route] = &blocks("toml")[..] else { panic!("two pieces of the file") };
    let folder = Folder::new();
    folder.write("index.html", &blocks("html")[0]);
    let place = folder.path().to_owned();
    let gateway = Gateway::start_with(folder, toml, |command| {
        command.current_dir(&place);
    });
    let html = Http::connect(gateway.address).ask("GET", "/", &[], "");
    assert!(html.body.contains("<h1>News</h1>"), "{html:?}");
    let mut page = gateway.client();
    let here = |text: &str| {
        text.replace("127.0.0.1:4001", &gateway.api.to_string()).replace("curl -i", "curl -fsS")
    };
    let run = |program: &str, text: &str| {
        let script = gateway.folder.write("script", &here(text));
        let output = Command::new(program).arg(script).output().expect("it runs");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    };
    let shell = blocks("sh");
    let push = shell.iter().find(|block| block.contains("/v1/emit")).expect("the push");
    run("sh", push);
    assert_eq!(event(&mut page), ("news".into(), json!("hello from curl")));
    run("python3", &blocks("python")[0]);
    assert_eq!(event(&mut page), ("news".into(), json!("hello from Python")));
    if Command::new("php").arg("--version").output().is_ok() {
        run("php", &blocks("php")[0]);
        assert_eq!(event(&mut page), ("news".into(), json!("hello from PHP")));
    }
    gateway.configure(&format!("{toml}\n{route}"));
    run("sh", shell.iter().find(|block| block.contains("/reload")).expect("the reload"));
    page.emit("say", "\"hello from a browser\"");
    assert_eq!(event(&mut page), ("news".into(), json!("hello from a browser")));
}
