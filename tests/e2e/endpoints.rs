//! Raw websockets on paths of the application's own.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use corecast::ws::{Close, EndpointOptions, Message};
use corecast::{Error, Handshake, PerMessageDeflate};

use super::client::{Frame, PATIENCE, Stream, WebSocket};
use super::{Site, on_cpus, options, serve};

/// A client on `/echo`.
fn open(address: SocketAddr, extensions: &str) -> WebSocket {
    let mut stream = Stream::connect(address);
    let request = format!(
        "GET /echo?name=ada HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{extensions}\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write(request.as_bytes());
    let (status, head) = stream.head();
    assert_eq!(status, 101, "{head}");
    assert_eq!(head.contains("permessage-deflate"), !extensions.is_empty(), "{head}");
    WebSocket::of(stream)
}

fn send(socket: &mut WebSocket, first: u8, payload: &[u8]) {
    let length = u8::try_from(payload.len()).expect("a short payload");
    socket.stream.write(&[&[first, 0x80 | length, 0, 0, 0, 0], payload].concat());
}

/// A server whose `/echo` greets, echoes, and does as it is told.
fn echo(options: corecast::Options) -> (Site, mpsc::Receiver<Close>) {
    let (told, closes) = mpsc::channel();
    let site = serve(options, |io| {
        let mut limits = EndpointOptions::default();
        limits.max_message_size = Some(2_000);
        io.on_websocket("/echo", |socket: corecast::WebSocket, message: Message| async move {
            match &message {
                Message::Text(text) if text == "panic" => panic!("as it was told"),
                Message::Text(text) if text == "bye" => socket.close(4_321, "as you like"),
                Message::Text(text) if text == "later" => {
                    corecast::sleep(Duration::from_millis(1)).await;
                    assert!(socket.is_open() && socket.queued() == 0);
                    socket.send_text("now").expect("sent");
                }
                Message::Text(text) if text == "plain" => {
                    socket.compress(false).send_text(&"p".repeat(100)).expect("sent");
                }
                message => socket.send(message).expect("sent"),
            }
        })
        .options(limits)
        .on_open(|socket: corecast::WebSocket, handshake: Handshake| async move {
            let name = handshake.query("name").unwrap_or_default();
            socket.send_text(&format!("hello {name}")).expect("sent");
        })
        .on_close(move |socket: corecast::WebSocket, close: Close| {
            assert!(!socket.is_open());
            assert!(matches!(socket.send_binary(b"late"), Err(Error::Disconnected)));
            let _ = told.send(close);
            async {}
        });
    });
    (site, closes)
}

#[test]
fn messages_come_and_go_beside_socket_io() {
    let (site, closes) = echo(on_cpus(2));
    let mut sockets: Vec<WebSocket> = (0..8).map(|_| open(site.address, "")).collect();
    let mut member = WebSocket::connect(site.address);
    for socket in &mut sockets {
        assert_eq!(socket.text(), "hello ada");
        send(socket, 0x81, "é".as_bytes());
        send(socket, 0x82, &[0, 255]);
        send(socket, 0x81, b"later");
        assert_eq!(socket.text(), "é");
        assert_eq!(socket.frame(), Frame::Binary(vec![0, 255]));
        assert_eq!(socket.text(), "now");
    }
    assert_eq!(member.ask("echo", "1"), "[1]");
    let ends: [(u8, &[u8], u16, &str); 4] = [
        (0x88, b"\x0b\xb8enough", 3_000, "enough"),
        (0x88, b"", 1_005, ""),
        (0x81, b"bye", 4_321, "as you like"),
        (0x81, &[0xff], 1_007, ""),
    ];
    for (socket, (first, payload, code, reason)) in sockets.iter_mut().zip(ends) {
        send(socket, first, payload);
        assert_eq!(socket.rest(), [Frame::Close]);
        let close = closes.recv_timeout(PATIENCE).expect("told");
        assert_eq!((close.code, close.reason.as_str()), (code, reason));
    }
    send(&mut sockets[4], 0x02, &[0; 100]);
    sockets[4].stream.write(&[0x80, 0xfe, 0x07, 0xd0, 0, 0, 0, 0]);
    assert_eq!(sockets[4].rest(), [Frame::Close]);
    assert_eq!(closes.recv_timeout(PATIENCE).expect("told").code, 1_009);
    // A handler that panics ends its own connection only.
    send(&mut sockets[5], 0x81, b"panic");
    assert!(sockets[5].rest().is_empty());
    assert_eq!(closes.recv_timeout(PATIENCE).expect("told").code, 1_006);
    send(&mut sockets[6], 0x81, b"still here");
    assert_eq!(sockets[6].text(), "still here");
    site.io.shutdown();
    assert_eq!(sockets[6].rest(), [Frame::Close]);
    site.running.join().expect("all shards end well");
    for _ in 0..2 {
        assert_eq!(closes.recv_timeout(PATIENCE).expect("told").code, 1_001);
    }
    assert!(closes.try_recv().is_err(), "each once");
}

#[test]
fn messages_are_compressed_where_that_is_agreed_on() {
    let mut options = options();
    let mut deflate = PerMessageDeflate::default();
    deflate.threshold = 50;
    options.per_message_deflate = Some(deflate);
    let (site, _closes) = echo(options);
    let mut socket = open(site.address, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
    assert_eq!(socket.text(), "hello ada");
    let mut payload = Vec::new();
    let message = "again and again ".repeat(20);
    assert!(
        corecast::proto::deflate::Deflater::new(15, 6).deflate(message.as_bytes(), &mut payload)
    );
    send(&mut socket, 0xc1, &payload);
    // The bytes are the same, since both begin with nothing.
    let expected = [&[0xc1, payload.len() as u8], &payload[..]].concat();
    while socket.stream.input.len() < expected.len() {
        assert!(socket.stream.fill());
    }
    assert_eq!(socket.stream.input.drain(..).collect::<Vec<_>>(), expected);
    send(&mut socket, 0x81, b"plain");
    assert_eq!(socket.text(), "p".repeat(100));
    site.stop();
}
