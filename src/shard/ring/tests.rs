use super::*;

use std::io::Read;
use std::net::TcpStream;

#[test]
fn echoes() {
    let mut ring = Ring::new(&RingConfig::default()).expect("ring");
    let listener = bind("127.0.0.1:0".parse().expect("address"), 128).expect("bind");
    let address = listener.local_addr().expect("address");
    ring.listen(listener);
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("connect");
        let mut answer = [0; 5];
        for _ in 0..1000 {
            stream.write_all(b"hello").expect("write");
            stream.read_exact(&mut answer).expect("read");
            assert_eq!(&answer, b"hello");
        }
    });
    let mut closed = false;
    while !closed {
        ring.turn(|ring, completion| match completion {
            Completion::Accepted(fd) => {
                ring.adopt(0, fd);
                ring.receive_many(0);
            }
            Completion::Received { conn, bytes } => ring.send(conn, SendBuf::Owned(bytes.to_vec())),
            Completion::PeerClosed { conn, .. } => ring.close(conn),
            Completion::Sent { result, .. } => assert_eq!(result.expect("sent"), 5),
            Completion::Closed { .. } => closed = true,
            Completion::AcceptFailed(error) => panic!("{error}"),
        })
        .expect("turn");
    }
    client.join().expect("client");
    assert_eq!(ring.open(), 0);
}
