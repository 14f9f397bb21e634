//! A backend as the gateway finds it: a real HTTP server that does what a test wants, lies
//! included.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::Value;

use crate::client::PATIENCE;

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Id of the one event in it.
    pub fn id(&self) -> &str {
        self.header("ce-id")
    }

    /// The events in it, alone or as a batch.
    pub fn events(&self) -> Vec<Value> {
        match self.json() {
            Value::Array(events) => events.into_iter().map(|event| event["data"].clone()).collect(),
            event => vec![event],
        }
    }
}

/// What the backend answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A status, more headers, a body.
    Says(u16, &'static str, String),
    /// Nothing, until the other side gives up.
    Hangs,
    /// It waits until the test lets it go, and then answers 200 without a body.
    Waits,
    /// These bytes, and the end of the connection.
    Bytes(&'static str),
    /// A body without end.
    Endless,
}

/// 200 with JSON.
pub fn ok(body: Value) -> Answer {
    Answer::Says(200, "Content-Type: application/json\r\n", body.to_string())
}

/// A status and nothing else.
pub fn status(status: u16) -> Answer {
    Answer::Says(status, "", String::new())
}

type Behaviour = dyn Fn(&Request) -> Answer + Send + Sync;

struct Inner {
    behaviour: Arc<Behaviour>,
    seen: Vec<Request>,
    connections: usize,
    /// Requests that have no answer yet, now and at most.
    busy: usize,
    busiest: usize,
    /// Requests that wait may go.
    released: usize,
}

type Shared = Arc<(Mutex<Inner>, Condvar)>;

pub struct Backend {
    pub address: SocketAddr,
    shared: Shared,
}

impl Backend {
    /// One that answers so.
    pub fn start(behaviour: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Backend {
        Backend::on(TcpListener::bind("127.0.0.1:0").expect("a port"), behaviour)
    }

    /// The same on a port that was chosen before.
    pub fn on(
        listener: TcpListener,
        behaviour: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Backend {
        let address = listener.local_addr().expect("an address");
        let inner = Inner {
            behaviour: Arc::new(behaviour),
            seen: Vec::new(),
            connections: 0,
            busy: 0,
            busiest: 0,
            released: 0,
        };
        let shared: Shared = Arc::new((Mutex::new(inner), Condvar::new()));
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let shared = accepting.clone();
                shared.0.lock().unwrap().connections += 1;
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Backend { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// From now on it answers so.
    pub fn now(&self, behaviour: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        self.shared.0.lock().unwrap().behaviour = Arc::new(behaviour);
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.0.lock().unwrap().seen.clone()
    }

    /// Connections that were made, and the most requests at a time.
    pub fn load(&self) -> (usize, usize) {
        let inner = self.shared.0.lock().unwrap();
        (inner.connections, inner.busiest)
    }

    /// Waits for that many requests in all; returns them.
    pub fn wait(&self, count: usize) -> Vec<Request> {
        self.until(|seen| seen.len() >= count)
    }

    /// Waits until something holds for what was seen.
    pub fn until(&self, holds: impl Fn(&[Request]) -> bool) -> Vec<Request> {
        let (lock, changed) = &*self.shared;
        let (inner, waited) = changed
            .wait_timeout_while(lock.lock().unwrap(), PATIENCE, |it| !holds(&it.seen))
            .unwrap();
        assert!(!waited.timed_out(), "waited in vain; seen: {:#?}", inner.seen);
        inner.seen.clone()
    }

    /// Lets so many requests go that wait.
    pub fn release(&self, count: usize) {
        let (lock, changed) = &*self.shared;
        lock.lock().unwrap().released += count;
        changed.notify_all();
    }

    /// All data of events that were seen, of each id once, in the order of their first arrival.
    pub fn events(&self) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        for event in self.seen().iter().flat_map(Request::events) {
            if !events.iter().any(|known| known["id"] == event["id"]) {
                events.push(event);
            }
        }
        events
    }
}

fn serve(stream: TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut stream = stream;
    while let Some(request) = read(&mut reader) {
        let (lock, changed) = &**shared;
        let behaviour = {
            let mut inner = lock.lock().unwrap();
            inner.busy += 1;
            inner.busiest = inner.busiest.max(inner.busy);
            inner.behaviour.clone()
        };
        let answer = behaviour(&request);
        lock.lock().unwrap().seen.push(request);
        changed.notify_all();
        let goes_on = give(&mut stream, &mut reader, answer, shared);
        lock.lock().unwrap().busy -= 1;
        if !goes_on {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    assert!(line.starts_with("POST /hook"), "{line}");
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').expect("a header");
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, length)| length.parse().expect("digits"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).expect("UTF-8");
    Some(Request { headers, body })
}

/// Answers; false if that is the end of the connection.
fn give(
    stream: &mut TcpStream,
    reader: &mut BufReader<TcpStream>,
    answer: Answer,
    shared: &Shared,
) -> bool {
    match answer {
        Answer::Says(status, headers, body) => say(stream, status, headers, &body),
        Answer::Hangs => {
            // Until the other side has had enough.
            let _ = reader.read(&mut [0]);
            false
        }
        Answer::Waits => {
            let (lock, changed) = &**shared;
            let mut inner =
                changed.wait_while(lock.lock().unwrap(), |inner| inner.released == 0).unwrap();
            inner.released -= 1;
            drop(inner);
            say(stream, 200, "", "")
        }
        Answer::Bytes(bytes) => {
            let _ = stream.write_all(bytes.as_bytes());
            false
        }
        Answer::Endless => {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let mut goes_on = stream.write_all(head.as_bytes()).is_ok();
            let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
            while goes_on {
                goes_on = stream.write_all(chunk.as_bytes()).is_ok();
            }
            false
        }
    }
}

fn say(stream: &mut TcpStream, status: u16, headers: &str, body: &str) -> bool {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Status\r\n{headers}Content-Length: {length}\r\n\r\n");
    stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).is_ok()
}
