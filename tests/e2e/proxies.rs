//! Who a client is behind proxies, and how many of one address may come.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use corecast::{Event, Options, Port, Server, Socket};

use super::client::{Stream, WebSocket};
use super::{Site, on_cpus, options, serve_on};

/// A connection from one of the addresses that loopback has.
fn connect_from(ip: &str, address: SocketAddr) -> Stream {
    Stream::of(try_connect_from(ip, address))
}

fn try_connect_from(ip: &str, address: SocketAddr) -> TcpStream {
    let (domain, kind) = (socket2::Domain::IPV4, socket2::Type::STREAM);
    let socket = socket2::Socket::new(domain, kind, None).expect("a socket");
    let own: SocketAddr = format!("{ip}:0").parse().expect("an address");
    socket.bind(&own.into()).expect("loopback has many addresses");
    socket.connect(&address.into()).expect("the kernel accepts");
    socket.into()
}

/// Answers `who` with the client's address.
fn tells_addresses(io: &Server) {
    io.on("who", |socket: Socket, event: Event| async move {
        let address = socket.handshake().map(|it| it.address().to_string());
        let _ = event.ack(&address);
    });
}

/// A server with this option of trusted proxies and a port for the PROXY protocol.
fn behind(options: Options, trusted: &[&str]) -> Site {
    let trusted = trusted.iter().map(|network| network.parse().expect("a network"));
    let options = {
        let mut options = options;
        options.trusted_proxies = trusted.collect();
        options
    };
    let plain = Port::from(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut proxied = plain.clone();
    proxied.proxy_protocol = true;
    serve_on(options, vec![plain, proxied], tells_addresses)
}

/// A header of the PROXY protocol for a client.
fn header(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address");
    let SocketAddr::V4(client) = client else { panic!("IPv4 is enough here") };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(client.ip().octets());
    header.extend([10, 0, 0, 1]);
    header.extend(client.port().to_be_bytes());
    header.extend(443u16.to_be_bytes());
    header
}

/// Who the server takes the client for that comes on `stream`, whose requests have these headers.
fn who(mut stream: Stream, headers: &str) -> String {
    let request = format!(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: test\r\n{headers}\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write(request.as_bytes());
    let mut socket = WebSocket::of(stream).shaken();
    assert!(socket.text().starts_with("0{"));
    socket.join("/");
    socket.ask("who", "")
}

#[test]
fn the_proxy_protocol_says_whose_connection_it_is() {
    let site = behind(on_cpus(2), &["127.0.0.2/32"]);
    let proxied = site.running.addresses()[1];
    let mut stream = connect_from("127.0.0.2", proxied);
    stream.write(&header("192.0.2.7:1234"));
    assert_eq!(who(stream, ""), "[\"192.0.2.7:1234\"]");
    // Byte by byte, and with the request right behind it.
    let mut stream = connect_from("127.0.0.2", proxied);
    for byte in header("192.0.2.8:1") {
        stream.write(&[byte]);
    }
    assert_eq!(who(stream, ""), "[\"192.0.2.8:1\"]");
    let mut stream = connect_from("127.0.0.2", proxied);
    let request = b"GET /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write(&[header("192.0.2.9:1").as_slice(), request].concat());
    assert_eq!(stream.response().0, 404);
    // A check of the proxy's own.
    let mut stream = connect_from("127.0.0.2", proxied);
    stream.write(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0");
    assert!(who(stream, "").starts_with("[\"127.0.0.2:"));
    assert_eq!(site.io.stats().totals.bad_proxies, 0);
    site.stop();
}

#[test]
fn nobody_else_may_speak_it_and_proxies_nothing_else() {
    let site = behind(options(), &["127.0.0.2/32"]);
    let proxied = site.running.addresses()[1];
    let mut stranger = try_connect_from("127.0.0.3", proxied);
    // The server may have closed already.
    let _ = stranger.write_all(&header("192.0.2.7:1"));
    assert!(Stream::of(stranger).rest().is_empty());
    let plain = b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
    let first_version = b"PROXY TCP4 192.0.2.7 10.0.0.1 1 443\r\n".to_vec();
    let mut datagrams = header("192.0.2.7:1");
    datagrams[13] = 0x12;
    for bytes in [plain, first_version, datagrams] {
        let mut stream = connect_from("127.0.0.2", proxied);
        stream.write(&bytes);
        assert!(stream.rest().is_empty());
    }
    site.until("what was closed", |stats| {
        stats.totals.bad_proxies == 4 && stats.gauges.connections == 0
    });
    // On the other port the header is what it looks like: no request.
    let mut stream = connect_from("127.0.0.2", site.address);
    stream.write(&header("192.0.2.7:1"));
    assert_eq!(stream.response().0, 400);
    site.stop();
}

#[test]
fn a_header_that_never_ends_has_as_long_as_a_request_head() {
    let mut options = options();
    options.head_timeout = std::time::Duration::from_millis(200);
    let site = behind(options, &["127.0.0.2/32"]);
    let mut stream = connect_from("127.0.0.2", site.running.addresses()[1]);
    stream.write(&header("192.0.2.7:1")[..20]);
    assert!(stream.rest().is_empty());
    site.until("its end", |stats| stats.gauges.connections == 0);
    site.stop();
}

#[test]
fn the_forwarded_address_is_taken_from_trusted_proxies_only() {
    let site = behind(on_cpus(2), &["127.0.0.2/32"]);
    let header = "X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\n";
    assert_eq!(who(connect_from("127.0.0.2", site.address), header), "[\"192.0.2.7:0\"]");
    assert!(who(connect_from("127.0.0.3", site.address), header).starts_with("[\"127.0.0.3:"));
    assert!(who(connect_from("127.0.0.2", site.address), "").starts_with("[\"127.0.0.2:"));
    site.stop();
}

/// What a client gets for a handshake over polling.
fn handshake(mut stream: Stream) -> (u16, String) {
    stream.write(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: h\r\n\r\n");
    stream.head()
}

#[test]
fn connections_of_one_address_are_limited_on_all_shards_together() {
    let mut options = on_cpus(2);
    options.max_connections_per_ip = Some(3);
    let site = behind(options, &[]);
    let from = |ip: &str| connect_from(ip, site.address);
    let mut kept: Vec<WebSocket> =
        (0..3).map(|_| WebSocket::connect_on(from("127.0.0.5"))).collect();
    let (status, head) = handshake(from("127.0.0.5"));
    assert_eq!(status, 429);
    assert!(head.contains("retry-after: "), "{head}");
    // A websocket learns it before it is one.
    let mut socket = WebSocket::shake_on(from("127.0.0.5"), "");
    assert_eq!(socket.stream.head().0, 429);
    // Far too many are closed without a word.
    let many: Vec<Stream> = (0..40).map(|_| from("127.0.0.5")).collect();
    site.until("refusals", |stats| stats.totals.refused >= 36);
    assert!(site.io.stats().totals.refused_per_ip >= 2);
    // Others are not concerned, and who goes makes room.
    assert_eq!(handshake(from("127.0.0.6")).0, 200);
    drop((many, socket));
    assert_eq!(kept[0].ask("echo", "1"), "[1]");
    kept.truncate(2);
    site.until("room", |stats| stats.gauges.connections <= 2);
    assert_eq!(handshake(from("127.0.0.5")).0, 200);
    site.stop();
}

#[test]
fn all_connections_are_limited() {
    let mut options = on_cpus(2);
    options.max_total_connections = Some(4);
    let site = behind(options, &[]);
    let kept: Vec<WebSocket> = (1..=4)
        .map(|n| WebSocket::connect_on(connect_from(&format!("127.0.1.{n}"), site.address)))
        .collect();
    let (status, head) = handshake(connect_from("127.0.1.9", site.address));
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: "), "{head}");
    drop(kept);
    site.until("room", |stats| stats.gauges.connections == 0);
    assert_eq!(handshake(connect_from("127.0.1.9", site.address)).0, 200);
    site.stop();
}

#[test]
fn handshakes_of_one_address_have_a_rate() {
    let mut options = on_cpus(2);
    options.max_handshakes_per_ip = Some(2);
    let site = behind(options, &[]);
    let mut answers = [0; 2];
    for _ in 0..50 {
        match handshake(connect_from("127.0.0.7", site.address)) {
            (200, _) => answers[0] += 1,
            (429, head) => {
                assert!(head.contains("retry-after: 1"), "{head}");
                answers[1] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    // Two at once, and however many more as there were seconds.
    assert!(answers[0] >= 2 && answers[1] > 0, "{answers:?}");
    site.until("counts", |stats| stats.totals.refused_handshakes == answers[1]);
    assert_eq!(handshake(connect_from("127.0.0.8", site.address)).0, 200);
    site.stop();
}

#[test]
fn limits_are_for_the_clients_that_proxies_name() {
    let mut options = on_cpus(2);
    options.max_connections_per_ip = Some(1);
    let site = behind(options, &["127.0.0.2/32"]);
    let [plain, proxied] = site.running.addresses() else { panic!("two ports") };
    let forwarded = |client: &str, transport: &str, fields: &str| {
        let mut stream = connect_from("127.0.0.2", *plain);
        let text = format!(
            "GET /socket.io/?EIO=4&transport={transport} HTTP/1.1\r\nHost: h\r\n\
             X-Forwarded-For: {client}\r\n{fields}\r\n"
        );
        stream.write(text.as_bytes());
        let status = stream.head().0;
        (stream, status)
    };
    // A connection that a proxy keeps between requests is nobody's; a websocket is its client's.
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let (first, status) = forwarded("192.0.2.1", "websocket", upgrade);
    assert_eq!(status, 101);
    assert_eq!(forwarded("192.0.2.1", "polling", "").1, 429);
    assert_eq!(forwarded("192.0.2.2", "polling", "").1, 200);
    let mut same = connect_from("127.0.0.2", *proxied);
    same.write(&header("192.0.2.1:5"));
    assert_eq!(handshake(same).0, 429);
    drop(first);
    site.until("room", |stats| stats.gauges.connections == 0);
    let mut same = connect_from("127.0.0.2", *proxied);
    same.write(&header("192.0.2.1:5"));
    assert_eq!(handshake(same).0, 200);
    site.stop();
}

#[cfg(feature = "tls")]
#[test]
fn tls_begins_behind_the_header_of_the_proxy() {
    use super::certificates::Authority;
    use corecast::tls::{Identity, Tls, TlsOptions};

    let authority = Authority::new();
    let issued = authority.issue("a.test");
    let (chain, key) = (issued.chain.into_bytes(), issued.key.into_bytes());
    let options = TlsOptions { identities: vec![Identity { chain, key }], ..TlsOptions::default() };
    let mut port = Port::from(SocketAddr::from(([127, 0, 0, 1], 0)));
    port.tls = Some(Tls::new(&options).expect("a good certificate"));
    port.proxy_protocol = true;
    let mut options = on_cpus(2);
    options.trusted_proxies = vec!["127.0.0.2/32".parse().expect("a network")];
    let site = serve_on(options, vec![port], tells_addresses);
    for port in 1..8 {
        let mut stream = connect_from("127.0.0.2", site.address);
        stream.write(&header(&format!("192.0.2.7:{port}")));
        let stream = stream.secured(&authority.clients(None), "a.test");
        let stream = stream.shake_hands().expect("a handshake");
        assert_eq!(who(stream, ""), format!("[\"192.0.2.7:{port}\"]"));
    }
    site.stop();
}
