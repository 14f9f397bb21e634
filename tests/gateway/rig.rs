//! Starts the binary with a configuration of its own, and speaks HTTP with it.
//!
//! ```text
//! let gateway = Gateway::start("[[namespace]]\nname = \"/\"\n");    // both ports are free ones
//! let mut ada = gateway.client();                                   // a websocket in `/`
//! let reply = gateway.post("/v1/emit", r#"{"event":"hello"}"#);     // to the API
//! assert_eq!(reply.status, 202);
//! assert_eq!(ada.event(), ("hello".into(), vec![]));
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{PATIENCE, WebSocket};

/// A folder of its own for each gateway, removed with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("corecast-gateway-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        Folder(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file; its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The binary, running.
pub struct Gateway {
    child: Child,
    /// Where clients connect: the first address.
    pub address: SocketAddr,
    /// All addresses that clients connect to.
    pub addresses: Vec<SocketAddr>,
    /// Where the API is.
    pub api: SocketAddr,
    pub folder: Folder,
    log: Arc<Mutex<String>>,
}

impl Gateway {
    /// Starts it with this configuration, on free ports of loopback; its API where the first lines
    /// say, if they do.
    pub fn start(toml: &str) -> Gateway {
        Gateway::start_with(Folder::new(), toml, |_| {})
    }

    /// The same, with a folder that has files already, and with more arguments or variables.
    pub fn start_with(folder: Folder, toml: &str, change: impl FnOnce(&mut Command)) -> Gateway {
        let mut command = command(&folder, toml);
        command.args(["--listen", "127.0.0.1:0"]);
        if !toml.starts_with("[api]\nlisten = ") {
            command.args(["--api", "127.0.0.1:0"]);
        }
        change(&mut command);
        let mut child = command.spawn().expect("the binary starts");
        let log = collect(child.stderr.take().expect("it is piped"));
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut addresses = Vec::new();
        let api = loop {
            let Some(Ok(line)) = lines.next() else {
                let _ = child.wait();
                panic!("the gateway has not started: {}", log.lock().unwrap());
            };
            let (_, address) = line.rsplit_once("://").expect("an address");
            let address = address.parse().expect("an address");
            if line.starts_with("api on ") {
                break address;
            }
            addresses.push(address);
        };
        Gateway { child, address: addresses[0], addresses, api, folder, log }
    }

    /// A gateway that does not start; what it says.
    pub fn refuses(toml: &str) -> String {
        let folder = Folder::new();
        let mut command = command(&folder, toml);
        command.args(["--listen", "127.0.0.1:0"]);
        let output = command.output().expect("the binary starts");
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{error}");
        error
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `HUP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Replaces the configuration file; it is read at the next reload.
    pub fn configure(&self, toml: &str) {
        self.folder.write("corecast.toml", toml);
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has logged this.
    pub fn wait_for_log(&self, text: &str) {
        until(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    /// A websocket client in `/`.
    pub fn client(&self) -> WebSocket {
        WebSocket::connect(self.address)
    }

    /// A websocket session that has joined nothing yet.
    pub fn session(&self) -> WebSocket {
        let mut socket = WebSocket::shake(self.address, "").shaken();
        assert!(socket.text().starts_with("0{"));
        socket
    }

    /// A connection to the API.
    pub fn http(&self) -> Http {
        Http::connect(self.api)
    }

    /// Sends JSON to the API, on a connection of its own.
    pub fn post(&self, path: &str, json: &str) -> Reply {
        self.http().post(path, json)
    }

    /// Asks the API, on a connection of its own.
    pub fn get(&self, path: &str) -> Reply {
        self.http().ask("GET", path, &[], "")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the gateway's log:\n{}", self.log());
        }
    }
}

/// The binary with its configuration in a file of the folder.
fn command(folder: &Folder, toml: &str) -> Command {
    let path = folder.write("corecast.toml", toml);
    let mut command = Command::new(env!("CARGO_BIN_EXE_corecast"));
    command.arg("serve").arg("--config").arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Collects what is written, in the background.
fn collect(mut from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let all = Arc::new(Mutex::new(String::new()));
    let place = all.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 4_096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            place.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    all
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Joins a namespace with `auth`; the socket's id, or why not.
pub fn join_as(socket: &mut WebSocket, namespace: &str, auth: &str) -> Result<String, Value> {
    let place = if namespace == "/" { String::new() } else { format!("{namespace},") };
    socket.send(&format!("40{place}{auth}"));
    let answer = socket.text();
    let json = |prefix: &str| -> Option<Value> {
        let json = answer.strip_prefix(prefix)?.strip_prefix(place.as_str())?;
        Some(serde_json::from_str(json).expect("JSON"))
    };
    match json("40") {
        Some(joined) => Ok(joined["sid"].as_str().expect("an id").to_owned()),
        None => Err(json("44").unwrap_or_else(|| panic!("{answer}"))),
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// As it came, names of headers in lower case.
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let of = |line: &'_ str| line.split_once(": ").is_some_and(|(found, _)| found == name);
        let line = self.head.split("\r\n").find(|line| of(line))?;
        line.split_once(": ").map(|(_, value)| value)
    }

    /// Checks the status; gives the JSON.
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// Checks that it is a problem of this status whose text says something.
    pub fn problem(self, status: u16, named: &str) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let text = format!("{self:?}");
        let problem = self.expect(status);
        assert_eq!(problem["status"], status);
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(named), "{named}: {text}");
        assert!(problem["type"].as_str().is_some_and(|it| it.starts_with("urn:corecast:problem:")));
        problem
    }
}

/// A connection that stays open.
pub struct Http {
    pub stream: TcpStream,
    input: Vec<u8>,
}

impl Http {
    pub fn connect(address: SocketAddr) -> Http {
        let stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Http { stream, input: Vec::new() }
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.write(request(method, path, headers, body));
        self.reply()
    }

    pub fn post(&mut self, path: &str, json: &str) -> Reply {
        self.ask("POST", path, &[("Content-Type", "application/json")], json)
    }

    /// Reads the next answer whole.
    pub fn reply(&mut self) -> Reply {
        let (status, head) = self.head();
        let mut reply = Reply { status, head, body: String::new() };
        let body = match reply.header("content-length") {
            Some(length) => {
                let length = length.parse().expect("digits");
                self.bytes(length)
            }
            None if reply.header("transfer-encoding") == Some("chunked") => {
                let mut body = Vec::new();
                while let Some(chunk) = self.chunk() {
                    body.extend(chunk);
                }
                body
            }
            None => Vec::new(),
        };
        reply.body = String::from_utf8(body).expect("UTF-8");
        reply
    }

    /// Reads a head; its status and text.
    pub fn head(&mut self) -> (u16, String) {
        let end = loop {
            if let Some(at) = self.input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill();
        };
        let head: Vec<u8> = self.input.drain(..end).collect();
        let head = String::from_utf8(head).expect("ASCII");
        let status = head[9..12].parse().expect("a status");
        let lower = |line: &str| match line.split_once(':') {
            Some((name, value)) => format!("{}:{value}", name.to_ascii_lowercase()),
            None => line.to_owned(),
        };
        (status, head.split("\r\n").map(lower).collect::<Vec<_>>().join("\r\n"))
    }

    /// Reads a chunk of a body; `None` at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line();
        let length = usize::from_str_radix(line.trim(), 16).expect("a length");
        let bytes = self.bytes(length);
        assert_eq!(self.line().trim(), "");
        (length > 0).then_some(bytes)
    }

    fn line(&mut self) -> String {
        let end = loop {
            if let Some(at) = self.input.iter().position(|byte| *byte == b'\n') {
                break at + 1;
            }
            self.fill();
        };
        let line: Vec<u8> = self.input.drain(..end).collect();
        String::from_utf8(line).expect("ASCII")
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.input.len() < length {
            self.fill();
        }
        self.input.drain(..length).collect()
    }

    fn fill(&mut self) {
        let mut bytes = [0; 16 * 1_024];
        let count = self.stream.read(&mut bytes).expect("an answer");
        assert!(count > 0, "the connection has ended: {:?}", String::from_utf8_lossy(&self.input));
        self.input.extend_from_slice(&bytes[..count]);
    }
}

/// A request as bytes; `Host` and `Content-Length` are added.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str("Host: 127.0.0.1\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}
