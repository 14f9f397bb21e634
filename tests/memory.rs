//! What an idle client costs in memory: the growth of this process while a hub takes clients in,
//! with the allocator's rounding, the slack of tables and what handshakes have left behind. Only
//! the ring's 8 bytes are not in it (an assertion beside `ring::Conn`).
#![allow(clippy::unwrap_used)] // In a test, a panic is a finding.

#[path = "hub_bytes/wire.rs"]
#[allow(dead_code)]
mod wire;

use std::net::SocketAddr;

use corecast::hub::id::Secrets;
use corecast::hub::{Config, Event, Hub, Output};

/// Clients of each measurement.
const CLIENTS: usize = 20_000;

/// A hub whose application lets everybody into `/` and one of 50 rooms, and nothing else: what is
/// sent is taken at once and forgotten.
struct Host {
    hub: Hub,
    joined: usize,
}

impl Host {
    fn new() -> Host {
        let mut rng = fastrand::Rng::with_seed(1);
        let config = Config { connections_max: 1 << 24, ..wire::config() };
        let mut hub = Hub::new(config, Secrets::new(Box::new(move |bytes| rng.fill(bytes))));
        hub.add_namespace("/");
        Host { hub, joined: 0 }
    }

    fn open(&mut self) -> u32 {
        let port = self.joined as u16;
        self.hub.handle_accepted(SocketAddr::from(([127, 0, 0, 1], port))).unwrap()
    }

    /// Bytes arrive; returns what was sent in answer.
    fn put(&mut self, conn: u32, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        self.hub.handle_received(conn, &mut bytes.as_ref().to_vec());
        let mut sent = Vec::new();
        loop {
            let (mut conns, joined) = (Vec::new(), self.joined);
            self.hub.flush(100, |conn, buf| {
                conns.push(conn);
                sent.extend(buf.to_vec());
            });
            while let Some(event) = self.hub.poll_event() {
                let Event::Connect { member, .. } = event else { panic!("{event:?}") };
                assert!(self.hub.accept_member(member));
                assert!(self.hub.join(member, &format!("room {}", self.joined % 50)));
                self.joined += 1;
            }
            while let Some(output) = self.hub.poll_output() {
                assert!(matches!(output, Output::ReceiveOnce(_) | Output::ReceiveMany(_)));
            }
            conns.iter().for_each(|conn| self.hub.handle_sent(*conn, true));
            if conns.is_empty() && self.joined == joined {
                return sent;
            }
        }
    }

    /// A client that sends these headers too, and the connection upgrade last.
    fn websocket(&mut self, headers: &str) {
        let conn = self.open();
        let head = wire::upgrade("websocket", None)
            .replace("Connection:", &format!("{headers}Connection:"));
        assert!(self.put(conn, head).starts_with(b"HTTP/1.1 101 "));
        assert!(self.put(conn, wire::text("40")).starts_with(b"\x81\x2040{\"sid\":"));
    }

    /// A client whose GET waits; it sends its POST on the same connection.
    fn polling(&mut self) {
        let conn = self.open();
        let open = self.put(conn, wire::get("transport=polling"));
        let open = String::from_utf8(open).unwrap();
        let (_, sid) = open.split_once("{\"sid\":\"").unwrap();
        let poll = wire::get(&format!("transport=polling&sid={}", &sid[..20]));
        assert!(self.put(conn, wire::post(&sid[..20], "40")).ends_with(b"ok"));
        assert!(self.put(conn, &poll).ends_with(b"\"}"));
        assert_eq!(self.put(conn, &poll), b"");
    }
}

/// Resident memory of this process in bytes: now, and at most so far.
fn resident() -> [usize; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    ["VmRSS:", "VmHWM:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
    })
}

/// Bytes that each client adds: when all are there, and at most on the way.
fn growth(mut join: impl FnMut(&mut Host, usize)) -> [usize; 2] {
    let mut host = Host::new();
    (0..100).for_each(|n| join(&mut host, n));
    let [before, _] = resident();
    (0..CLIENTS).for_each(|n| join(&mut host, n));
    assert_eq!(host.hub.gauges().sockets, CLIENTS + 100);
    let found = resident().map(|after| after.saturating_sub(before) / CLIENTS);
    // Kept, so that the next measurement does not begin with this memory in its hands.
    std::mem::forget(host);
    found
}

/// All in one test, since they would count each other's memory.
#[test]
fn idle_clients_stay_small() {
    let browser = "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like \
                   Gecko) Chrome/140.0.0.0 Safari/537.36\r\nAccept-Language: en-US,en;q=0.9\r\n\
                   Accept-Encoding: gzip, deflate, br, zstd\r\nOrigin: http://example.com\r\n\
                   Cache-Control: no-cache\r\nPragma: no-cache\r\n";
    let cookie = |n| format!("{browser}Cookie: session={n:032}\r\n");
    let rows = [
        ("websocket", 300, growth(|host, _| host.websocket(""))),
        ("websocket, browser", 300, growth(|host, _| host.websocket(browser))),
        ("websocket, browser with a cookie", 400, growth(|host, n| host.websocket(&cookie(n)))),
        ("polling", 600, growth(|host, _| host.polling())),
    ];
    for (client, bytes_max, [now, peak]) in rows {
        eprintln!("{client}: {now} B, at most {peak} B on the way");
        assert!(now <= bytes_max && peak <= bytes_max, "{client}: more than {bytes_max} B");
    }
}
