//! TLS on ports: clients of rustls, of all kinds of behaviour.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use corecast::tls::{ClientAuth, Identity, Tls, TlsOptions};
use corecast::{Options, Port, Server, Socket};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

use super::certificates::{Authority, Issued};
use super::client::{Frame, Polling, Stream, WebSocket, session_id};
use super::{Site, on_cpus, options, serve_on};

/// A server that speaks TLS on one port and none on another.
struct Secure {
    site: Site,
    tls: Tls,
    address: SocketAddr,
    authority: Authority,
    clients: Arc<ClientConfig>,
}

fn identity(issued: &Issued) -> Identity {
    Identity { chain: issued.chain.clone().into_bytes(), key: issued.key.clone().into_bytes() }
}

fn tls(issued: &[&Issued], clients: ClientAuth) -> Tls {
    let identities = issued.iter().map(|issued| identity(issued)).collect();
    Tls::new(&TlsOptions { identities, clients }).expect("good certificates")
}

impl Secure {
    /// With certificates for these names.
    fn new(options: Options, names: &[&str], register: impl FnOnce(&Server)) -> Secure {
        let authority = Authority::new();
        let issued: Vec<Issued> = names.iter().map(|name| authority.issue(name)).collect();
        let tls = tls(&issued.iter().collect::<Vec<_>>(), ClientAuth::None);
        Secure::with(options, authority, tls, register)
    }

    fn with(
        options: Options,
        authority: Authority,
        tls: Tls,
        register: impl FnOnce(&Server),
    ) -> Secure {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut secure = Port::from(loopback);
        secure.tls = Some(tls.clone());
        let site = serve_on(options, vec![Port::from(loopback), secure], register);
        let address = site.running.addresses()[1];
        let clients = authority.clients(None);
        Secure { site, tls, address, authority, clients }
    }

    /// A connection after the handshake.
    fn connect(&self) -> Stream {
        self.try_connect(&self.clients, "a.test").expect("a handshake")
    }

    fn try_connect(&self, clients: &Arc<ClientConfig>, name: &str) -> Result<Stream, String> {
        Stream::connect(self.address).secured(clients, name).shake_hands()
    }

    fn socket(&self) -> WebSocket {
        WebSocket::connect_on(self.connect())
    }
}

/// The certificate that a server has shown.
fn shown(stream: &Stream) -> CertificateDer<'static> {
    let tls = stream.tls.as_ref().expect("TLS");
    tls.peer_certificates().expect("a certificate")[0].clone().into_owned()
}

#[test]
fn websocket_and_polling_work_over_tls_beside_a_plain_port() {
    let secure = Secure::new(options(), &["a.test"], |_| {});
    let (mut plain, mut socket) = (WebSocket::connect(secure.site.address), secure.socket());
    assert_eq!(socket.ask("echo", "\"over TLS\""), "[\"over TLS\"]");
    assert_eq!(plain.ask("echo", "1"), "[1]");
    secure.site.io.emit("all", 7).expect("a number");
    assert_eq!(socket.event().0, "all");
    assert_eq!(plain.event().0, "all");
    let stream = secure.connect();
    assert_eq!(stream.tls.as_ref().expect("TLS").alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut polling = Polling::connect_on(stream);
    polling.post("42[\"echo\",2]");
    assert_eq!(polling.packet(), "42[\"echo\",2]");
    secure.site.until("handshakes", |stats| stats.totals.tls_handshakes == 2);
    assert_eq!(secure.site.io.stats().totals.tls_failures, 0);
    secure.site.stop();
}

#[test]
fn requests_of_a_session_find_its_shard_over_tls() {
    let secure = Secure::new(on_cpus(2), &["a.test"], |_| {});
    let target = "/socket.io/?EIO=4&transport=polling";
    let (status, open) = secure.connect().request("GET", target, "");
    assert_eq!(status, 200, "{open}");
    let target = format!("{target}&sid={}", session_id(&open));
    let post = |body: &str| {
        let answer = secure.connect().request("POST", &target, body);
        assert_eq!(answer, (200, "ok".into()));
    };
    post("40");
    assert!(secure.connect().request("GET", &target, "").1.starts_with("40{"));
    for round in 0..16 {
        post(&format!("42[\"echo\",{round}]"));
        let (_, packet) = secure.connect().request("GET", &target, "");
        assert_eq!(packet, format!("42[\"echo\",{round}]"));
    }
    // The upgrade takes one more connection along, wherever it comes in.
    let query = format!("&sid={}", session_id(&open));
    let mut socket = WebSocket::shake_on(secure.connect(), &query).shaken();
    socket.send("2probe");
    assert_eq!(socket.text(), "3probe");
    socket.send("5");
    assert_eq!(socket.ask("echo", "\"upgraded\""), "[\"upgraded\"]");
    secure.site.until("connections that moved", |stats| stats.totals.migrated > 0);
    assert_eq!(secure.site.io.stats().totals.tls_failures, 0);
    secure.site.stop();
}

#[test]
fn large_messages_pass_in_both_directions_and_in_order() {
    let secure = Secure::new(options(), &["a.test"], |_| {});
    let mut socket = secure.socket();
    let text = "x".repeat(60_000);
    for round in 0..5 {
        let args = format!("{round},\"{text}\"");
        assert_eq!(socket.ask("echo", &args), format!("[{args}]"));
    }
    secure.site.stop();
}

#[test]
fn a_slow_reader_is_held_by_its_queue_and_not_by_buffers_of_tls() {
    let mut options = options();
    options.max_queue_bytes = 200_000;
    let secure = Secure::new(options, &["a.test"], |_| {});
    let (mut good, mut slow) = (secure.socket(), secure.socket());
    let text = "x".repeat(50_000);
    let mut rounds = 0;
    while secure.site.io.stats().totals.slow_closed == 0 {
        secure.site.io.emit("flood", &text).expect("running");
        assert_eq!(good.event().0, "flood");
        rounds += 1;
        assert!(rounds < 2_000, "nobody is slow");
    }
    // What had been sent arrives whole, then the connection ends.
    while slow.stream.try_fill().unwrap_or(false) {}
    assert!(slow.stream.input.len() > 50_000, "{}", slow.stream.input.len());
    assert_eq!(good.ask("echo", "1"), "[1]");
    secure.site.stop();
}

#[test]
fn clients_get_the_certificate_of_the_name_they_ask_for() {
    let secure = Secure::new(options(), &["a.test", "b.test", "*.c.test"], |_| {});
    let by_name = |name: &str| secure.try_connect(&secure.clients, name).map(|it| shown(&it));
    let (a, b) = (by_name("a.test").expect("known"), by_name("b.test").expect("known"));
    assert_ne!(a, b);
    assert_eq!(by_name("x.c.test"), by_name("y.c.test"));
    // Others get the first one, and find out that it is not for them.
    let error = by_name("z.test").expect_err("nobody has that name");
    assert!(error.contains("not valid for name"), "{error}");
    secure.site.stop();
}

#[test]
fn new_certificates_are_for_new_connections() {
    let secure = Secure::new(options(), &["a.test"], |_| {});
    let mut old = secure.socket();
    let before = shown(&old.stream);
    secure.tls.replace(&tls(&[&secure.authority.issue("a.test")], ClientAuth::None));
    let mut new = secure.socket();
    assert_ne!(shown(&new.stream), before);
    assert_eq!(old.ask("echo", "1"), "[1]");
    assert_eq!(new.ask("echo", "2"), "[2]");
    secure.site.stop();
}

/// A server that wants certificates and tells each client the name in its own.
fn with_clients(clients: impl FnOnce(Vec<u8>) -> ClientAuth) -> Secure {
    let authority = Authority::new();
    let clients = clients(authority.pem.clone().into_bytes());
    let tls = tls(&[&authority.issue("a.test")], clients);
    Secure::with(on_cpus(2), authority, tls, |io| {
        io.on("who", |socket: Socket, event: corecast::Event| async move {
            let certificate = socket.handshake().and_then(|it| it.certificate());
            let _ = event.ack(&certificate.and_then(|it| it.common_name()));
        });
    })
}

#[test]
fn a_certificate_is_required_verified_and_known_to_handlers() {
    let secure = with_clients(|authorities| ClientAuth::Required { authorities });
    let clients = |own: &Issued| secure.authority.clients(Some(own));
    for name in ["ada", "bob"] {
        let clients = clients(&secure.authority.issue(name));
        let stream = secure.try_connect(&clients, "a.test").expect("a handshake");
        assert_eq!(WebSocket::connect_on(stream).ask("who", ""), format!("[{name:?}]"));
    }
    let stranger = clients(&Authority::new().issue("ada"));
    for clients in [&secure.clients, &stranger] {
        // In TLS 1.3 a client is done before the server has looked at its certificate.
        let refused = secure.try_connect(clients, "a.test").and_then(|mut stream| {
            let read = stream.tls.as_mut().expect("TLS").complete_io(&mut stream.socket);
            read.map_err(|error| error.to_string())
        });
        let error = refused.expect_err("not without a good certificate");
        assert!(error.contains("alert"), "{error}");
    }
    secure.site.until("failures", |stats| stats.totals.tls_failures == 2);
    secure.site.stop();
}

#[test]
fn a_certificate_may_be_optional_and_stays_with_a_session_on_polling() {
    let secure = with_clients(|authorities| ClientAuth::Optional { authorities });
    assert_eq!(secure.socket().ask("who", ""), "[null]");
    let ada = secure.authority.clients(Some(&secure.authority.issue("ada")));
    let target = "/socket.io/?EIO=4&transport=polling";
    let connect = || secure.try_connect(&ada, "a.test").expect("a handshake");
    let (_, open) = connect().request("GET", target, "");
    let target = format!("{target}&sid={}", session_id(&open));
    connect().request("POST", &target, "40");
    connect().request("GET", &target, "");
    connect().request("POST", &target, "421[\"who\"]");
    assert_eq!(connect().request("GET", &target, "").1, "431[\"ada\"]");
    secure.site.stop();
}

#[test]
fn what_is_no_tls_is_told_so_and_closed() {
    let secure = Secure::new(options(), &["a.test"], |_| {});
    let garbage: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", &[0; 3_000], &[0x16, 3, 1, 0xff, 0xff, 1], b"\x15"];
    for bytes in garbage {
        let mut stream = Stream::connect(secure.address);
        stream.write(bytes);
        stream.socket.shutdown(Shutdown::Write).expect("open");
        let rest = stream.rest();
        // A record of type alert, or nothing where the peer has not said enough.
        assert!(rest.is_empty() || rest[0] == 0x15, "{rest:?}");
    }
    secure.site.until("their end", |stats| {
        stats.totals.tls_failures == 4 && stats.gauges.connections == 0
    });
    assert_eq!(secure.socket().ask("echo", "1"), "[1]");
    secure.site.stop();
}

#[test]
fn a_handshake_has_as_long_as_a_request_head() {
    let mut options = options();
    options.head_timeout = Duration::from_millis(300);
    let secure = Secure::new(options, &["a.test"], |_| {});
    // Nothing at all, and the first bytes of a ClientHello, one after the other.
    let silent = Stream::connect(secure.address);
    let mut slow = Stream::connect(secure.address).secured(&secure.clients, "a.test");
    let mut hello = Vec::new();
    let tls = slow.tls.as_mut().expect("TLS");
    while tls.wants_write() {
        tls.write_tls(&mut hello).expect("memory");
    }
    for byte in &hello[..20] {
        if slow.socket.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for mut socket in [silent.socket, slow.socket] {
        let mut rest = Vec::new();
        // An end or a reset, but an end.
        let _ = socket.read_to_end(&mut rest);
    }
    secure.site.until("their end", |stats| {
        stats.totals.tls_failures == 2 && stats.gauges.connections == 0
    });
    secure.site.stop();
}

#[test]
fn both_sides_say_that_they_close() {
    let secure = Secure::new(options(), &["a.test"], |_| {});
    // The server, after the last answer: `rest` would panic at an end without it.
    let mut stream = secure.connect();
    stream.write(b"GET /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(stream.response().0, 404);
    assert!(stream.rest().is_empty());
    // The client, right behind its request: it still gets its answer.
    let mut stream = secure.connect();
    let request = b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n";
    let tls = stream.tls.as_mut().expect("TLS");
    tls.writer().write_all(request).expect("a connection");
    tls.send_close_notify();
    while tls.wants_write() {
        tls.write_tls(&mut stream.socket).expect("the server reads");
    }
    assert_eq!(stream.response().0, 404);
    assert!(stream.rest().is_empty());
    secure.site.until("their end", |stats| stats.gauges.connections == 0);
    secure.site.stop();
}

#[test]
fn a_client_that_goes_without_a_word_is_gone() {
    let secure = Secure::new(options(), &["a.test"], |_| {});
    let socket = secure.socket();
    secure.site.until("a session", |stats| stats.gauges.sessions == 1);
    // TCP ends, TLS does not.
    socket.stream.socket.shutdown(Shutdown::Both).expect("open");
    secure
        .site
        .until("its end", |stats| stats.gauges.sessions == 0 && stats.gauges.connections == 0);
    let socket = secure.socket();
    socket.stream.reset();
    secure
        .site
        .until("its end", |stats| stats.gauges.sessions == 0 && stats.gauges.connections == 0);
    secure.site.stop();
}

#[test]
fn a_broken_record_ends_its_session_only() {
    let secure = Secure::new(options(), &["a.test"], |_| {});
    let (mut good, mut bad) = (secure.socket(), secure.socket());
    secure.site.until("both", |stats| stats.gauges.sessions == 2);
    // An application record that nobody has encrypted.
    bad.stream.socket.write_all(&[0x17, 3, 3, 0, 32]).expect("open");
    bad.stream.socket.write_all(&[7; 32]).expect("open");
    secure
        .site
        .until("its end", |stats| stats.gauges.sessions == 1 && stats.totals.tls_failures == 1);
    assert_eq!(good.ask("echo", "1"), "[1]");
    secure.site.stop();
}

#[test]
fn sessions_of_tls_are_resumed_on_any_shard() {
    let secure = Secure::new(on_cpus(2), &["a.test"], |_| {});
    let kinds: Vec<_> = (0..12)
        .map(|_| {
            let mut stream = secure.connect();
            // The tickets come with the first answer.
            assert_eq!(stream.request("GET", "/nothing", "").0, 404);
            stream.tls.as_ref().expect("TLS").handshake_kind()
        })
        .collect();
    let resumed = Some(rustls::HandshakeKind::Resumed);
    assert!(kinds[1..].iter().all(|kind| *kind == resumed), "{kinds:?}");
    secure.site.stop();
}

#[test]
fn a_shutdown_closes_over_tls_as_well() {
    let secure = Secure::new(options(), &["a.test"], |_| {});
    let mut socket = secure.socket();
    let io = secure.site.io.clone();
    assert_eq!(socket.ask("echo", "1"), "[1]");
    io.shutdown();
    // `rest` would panic at an end without a word of TLS.
    assert_eq!(socket.rest(), [Frame::Close]);
    secure.site.running.join().expect("all shards end well");
}
