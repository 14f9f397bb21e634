//! TLS and its files, proxies, and limits on connections, by the configuration file.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use super::certificates::{Authority, Issued};
use super::client::{Stream, WebSocket};
use super::rig::{Folder, Gateway, until};

const TLS: &str = r#"
[server.tls]
listen = ["127.0.0.1:0"]
"#;

/// Writes a certificate; returns its entry in the configuration.
fn entry(folder: &Folder, name: &str, issued: &Issued) -> String {
    let chain = folder.write(&format!("{name}.pem"), &issued.chain);
    let key = folder.write(&format!("{name}.key"), &issued.key);
    format!("[[server.tls.certificate]]\nchain = {chain:?}\nkey = {key:?}\n")
}

/// Waits until this was logged so many times.
fn logged(gateway: &Gateway, text: &str, count: usize) {
    until(&format!("{text:?} in the log"), || gateway.log().matches(text).count() >= count);
}

/// The first certificate of what a client is shown that asks for a name.
fn shown(gateway: &Gateway, authority: &Authority, name: &str) -> Vec<u8> {
    let stream = Stream::connect(gateway.addresses[1]).secured(&authority.clients(None), name);
    let stream = stream.shake_hands().expect("a handshake");
    let certificates = stream.tls.as_ref().expect("TLS").peer_certificates();
    certificates.expect("a certificate")[0].as_ref().to_vec()
}

#[test]
fn certificates_are_read_again_and_no_connection_is_lost() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let certificate = entry(&folder, "a", &authority.issue("a.test"));
    let config = format!("{TLS}{certificate}");
    let gateway = Gateway::start_with(folder, &config, |_| {});
    let clients = authority.clients(None);
    let connect = || {
        let stream = Stream::connect(gateway.addresses[1]).secured(&clients, "a.test");
        WebSocket::connect_on(stream.shake_hands().expect("a handshake"))
    };
    let mut open: Vec<WebSocket> = (0..50).map(|_| connect()).collect();
    let mut plain = WebSocket::connect(gateway.address);
    let first = shown(&gateway, &authority, "a.test");

    // Only half of what belongs together, then nonsense: nothing changes, and it is said.
    let second = authority.issue("a.test");
    gateway.folder.write("a.pem", &second.chain);
    logged(&gateway, "cannot be used", 1);
    gateway.folder.write("a.pem", "nonsense");
    logged(&gateway, "cannot be used", 2);
    assert_eq!(shown(&gateway, &authority, "a.test"), first);

    entry(&gateway.folder, "a", &second);
    logged(&gateway, "new connections get the new ones", 1);
    let after = shown(&gateway, &authority, "a.test");
    assert_ne!(after, first);

    // The configuration read again takes the same way, with one more certificate.
    let more = entry(&gateway.folder, "b", &authority.issue("b.test"));
    gateway.configure(&format!("{config}{more}"));
    gateway.signal("HUP");
    logged(&gateway, "reloaded", 1);
    assert_ne!(shown(&gateway, &authority, "b.test"), after);
    assert_eq!(shown(&gateway, &authority, "a.test"), after);

    // All have lived through it: each still joins and leaves a namespace of its own accord.
    for socket in open.iter_mut().chain([&mut plain]) {
        socket.send("41");
        socket.join("/");
    }
    assert!(!gateway.log().contains("PRIVATE KEY"));
}

#[test]
fn clients_show_certificates_where_they_have_to() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = folder.write("ca.pem", &authority.pem);
    let certificate = entry(&folder, "a", &authority.issue("a.test"));
    let keys = format!("client_certificates = \"required\"\nclient_authorities = {ca:?}\n");
    let gateway = Gateway::start_with(folder, &format!("{TLS}{keys}{certificate}"), |_| {});
    let connect = |own: Option<&Issued>| {
        let clients = authority.clients(own);
        let stream = Stream::connect(gateway.addresses[1]).secured(&clients, "a.test");
        let mut stream = stream.shake_hands().expect("the client's part");
        let request = b"GET /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let _ = stream.tls.as_mut().expect("TLS").writer().write(request);
        while stream.try_fill().map_err(|error| error.to_string())? {}
        Ok::<_, String>(String::from_utf8(stream.input).expect("UTF-8"))
    };
    let answer = connect(Some(&authority.issue("ada"))).expect("let in");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let error = connect(None).expect_err("not without a certificate");
    assert!(error.contains("CertificateRequired"), "{error}");
}

/// A connection from one of the addresses that loopback has.
fn connect_from(ip: &str, address: SocketAddr) -> Stream {
    let (domain, kind) = (socket2::Domain::IPV4, socket2::Type::STREAM);
    let socket = socket2::Socket::new(domain, kind, None).expect("a socket");
    let own: SocketAddr = format!("{ip}:0").parse().expect("an address");
    socket.bind(&own.into()).expect("loopback has many addresses");
    socket.connect(&address.into()).expect("the kernel accepts");
    Stream::of(TcpStream::from(socket))
}

fn handshake(mut stream: Stream, headers: &str) -> (Stream, u16) {
    let path = "/socket.io/?EIO=4&transport=polling";
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    stream.write(request.as_bytes());
    let (status, _) = stream.head();
    (stream, status)
}

#[test]
fn the_proxy_protocol_says_whose_connection_it_is() {
    let proxy = "[server.proxy]\ntrusted = [\"127.0.0.2\"]\nprotocol = [\"127.0.0.1:0\"]\n";
    let gateway = Gateway::start(&format!("{proxy}[[namespace]]\nname = \"/\"\n"));
    // Version 2, TCP over IPv4, from 203.0.113.7:5 to 10.0.0.1:443.
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x0a\0\0\x01\0\x05\x01\xbb";
    let begun = |ip: &str| {
        let mut stream = connect_from(ip, gateway.address);
        stream.write(header);
        stream
    };
    let _client = WebSocket::connect_on(begun("127.0.0.2"));
    let sockets = &gateway.get("/v1/sockets").expect(200)["sockets"];
    assert_eq!(sockets[0]["address"], "203.0.113.7");
    // Whom nobody trusts may not say so, and who is trusted has to.
    assert!(begun("127.0.0.3").rest().is_empty());
    let mut without = connect_from("127.0.0.2", gateway.address);
    without.write(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(without.rest().is_empty());
}

#[test]
fn limits_hold_for_addresses_also_behind_proxies() {
    let limits = "[limits]\nconnections = 20\nconnections_per_ip = 2\n";
    let proxy = "[server.proxy]\ntrusted = [\"127.0.0.2\"]\n";
    let gateway = Gateway::start(&format!("{proxy}{limits}"));
    let from = |ip: &str| handshake(connect_from(ip, gateway.address), "");
    let kept = [from("127.0.0.5"), from("127.0.0.5")];
    assert!(kept.iter().all(|(_, status)| *status == 200));
    assert_eq!(from("127.0.0.5").1, 429);
    assert_eq!(from("127.0.0.6").1, 200);
    let by_proxy = || {
        let stream = connect_from("127.0.0.2", gateway.address);
        handshake(stream, "X-Forwarded-For: 127.0.0.5\r\n").1
    };
    assert_eq!(by_proxy(), 429);
    drop(kept);
    until("room", || by_proxy() == 200);
    let many: Vec<Stream> = (0..10)
        .flat_map(|n| [format!("127.0.2.{n}"), format!("127.0.2.{n}")])
        .map(|ip| connect_from(&ip, gateway.address))
        .collect();
    until("a full house", || handshake_status(&gateway) == Some(503));
    drop(many);
    until("room", || handshake_status(&gateway) == Some(200));
}

/// What somebody new gets; nothing where the connection is closed at once.
fn handshake_status(gateway: &Gateway) -> Option<u16> {
    let mut stream = connect_from("127.0.0.9", gateway.address);
    let request = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: h\r\n\r\n";
    stream.socket.write_all(request).ok()?;
    while stream.input.len() < 12 {
        if !stream.try_fill().ok()? {
            return None;
        }
    }
    std::str::from_utf8(&stream.input[9..12]).ok()?.parse().ok()
}

#[test]
fn handshakes_have_a_rate_for_each_address() {
    let gateway = Gateway::start("[limits]\nhandshakes_per_second_per_ip = 1\n");
    let from = |ip: &str| handshake(connect_from(ip, gateway.address), "").1;
    let answers: Vec<u16> = (0..30).map(|_| from("127.0.0.5")).collect();
    assert!(answers.contains(&200) && answers.contains(&429), "{answers:?}");
    assert_eq!(from("127.0.0.6"), 200);
    // And again, when a second has passed.
    until("another one", || from("127.0.0.5") == 200);
}

/// The costliest thing that a stranger can ask for.
#[test]
fn tls_handshakes_have_a_rate_for_each_address_too() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let certificate = entry(&folder, "a", &authority.issue("a.test"));
    let limits = "[limits]\nhandshakes_per_second_per_ip = 1\n";
    let gateway = Gateway::start_with(folder, &format!("{TLS}{certificate}{limits}"), |_| {});
    let clients = authority.clients(None);
    let shake = |ip: &str| {
        let stream = connect_from(ip, gateway.addresses[1]).secured(&clients, "a.test");
        stream.shake_hands().is_ok()
    };
    // Whoever closes without an answer has computed nothing.
    let mut refused = 0;
    until("some are refused", || {
        refused += usize::from(!shake("127.0.0.5"));
        refused >= 10
    });
    assert!(shake("127.0.0.6"), "others have their own");
    until("another one", || shake("127.0.0.5"));
    let counted = |name: &str| {
        let reply = gateway.get("/metrics").body;
        let lines = reply.lines().filter(|line| line.starts_with(name));
        let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.sum::<f64>()
    };
    until("they are counted", || counted("corecast_handshakes_refused_total") >= 10.0);
    assert_eq!(counted("corecast_tls_failures_total"), 0.0);
}

#[test]
fn limits_of_addresses_and_proxies_are_reloaded() {
    let gateway = Gateway::start("[[namespace]]\nname = \"/\"\n");
    let from = |ip: &str, headers: &str| handshake(connect_from(ip, gateway.address), headers);
    let change = |toml: &str| {
        gateway.configure(&format!("{toml}[[namespace]]\nname = \"/\"\n"));
        let answer = gateway.post("/reload", "").expect(200);
        assert_eq!(answer["restart_needed_for"], serde_json::json!([]));
    };
    let (early, status) = from("127.0.0.5", "");
    assert_eq!(status, 200);
    let proxy = "[server.proxy]\ntrusted = [\"127.0.0.2\"]\n";
    change(&format!("[limits]\nconnections_per_ip = 1\n{proxy}"));
    let (kept, status) = from("127.0.0.5", "");
    assert_eq!(status, 200, "who was there before is not counted");
    assert_eq!(from("127.0.0.5", "").1, 429);
    let forwarded = |name: &str| from("127.0.0.2", &format!("{name}: for=127.0.0.5\r\n")).1;
    assert_eq!(forwarded("Forwarded"), 200, "another header is named");
    change(&format!("[limits]\nconnections_per_ip = 1\n{proxy}header = \"forwarded\"\n"));
    assert_eq!(forwarded("Forwarded"), 429);
    change("[limits]\nhandshakes_per_second_per_ip = 1\n");
    let answers: Vec<u16> = (0..30).map(|_| from("127.0.0.6", "").1).collect();
    assert!(answers.contains(&429), "{answers:?}");
    change("[limits]\nconnections = 2\n");
    until("those that are there are counted", || handshake_status(&gateway) == Some(503));
    change("");
    assert_eq!(from("127.0.0.5", "").1, 200);
    // Those that were counted have gone when they go.
    drop((early, kept));
    change("[limits]\nconnections_per_ip = 1\n");
    until("room", || from("127.0.0.5", "").1 == 200);
}

#[test]
fn what_is_wrong_with_the_keys_is_said_before_the_start() {
    let folder = Folder::new();
    let (first, other) = (Authority::new().issue("a.test"), Authority::new().issue("a.test"));
    let good = entry(&folder, "good", &Authority::new().issue("b.test"));
    let mixed = entry(&folder, "a", &Issued { key: other.key, ..first });
    folder.write("empty.pem", "");
    let empty = good.replace("good.key", "empty.pem");
    let gone = good.replace("good.pem", "gone.pem");
    let wrong = "the key is not that of the certificate (KeyMismatch)";
    for (config, expected) in [
        (format!("{TLS}{good}{mixed}"), "corecast.toml:7: server.tls.certificate[1]: "),
        (format!("{TLS}{good}{mixed}"), wrong),
        (format!("{TLS}{good}{empty}"), "empty.pem: the private key: "),
        (format!("{TLS}{good}{gone}"), "corecast.toml:8: server.tls.certificate[1].chain: "),
        (TLS.to_owned(), "server.tls.certificate"),
        ("[server.proxy]\ntrusted = [\"10.0.0.0/99\"]".into(), "10.0.0.0/99"),
        ("[server.proxy]\nprotocol = [\"127.0.0.1:1\"]".into(), "server.proxy.protocol"),
        ("[limits]\nconnections_per_ip = 0".into(), "limits.connections_per_ip"),
    ] {
        let text = Gateway::refuses(&config);
        assert!(text.contains(expected), "{config}\n{text}");
        assert!(!text.contains("PRIVATE KEY"));
    }
}
