// Included by the examples of the documentation, in lines that rustdoc hides: a blocking client on
// tungstenite that speaks just enough Socket.IO to check what an example does. Packets are given
// and returned as text without the `4` of Engine.IO: `2["name",1]` is an event, `20["name",1]` one
// that asks for an answer, `30[1]` that answer, `0` and `1` are CONNECT and DISCONNECT.

/// Options for one shard, on any CPU: many examples run at a time.
fn one_shard() -> corecast::Options {
    let cpus = corecast::preflight::allowed_cpus();
    let mut options = corecast::Options::default();
    options.cpus = vec![cpus[std::process::id() as usize % cpus.len()]];
    options
}

/// Ends a server after its clients have left.
fn stop<const N: usize>(
    running: corecast::Running,
    clients: [Client; N],
) -> Result<(), corecast::Error> {
    drop(clients);
    running.server().shutdown();
    running.join()
}

/// A stream whose reads go on after an interruption: while the kernel takes apart the ring that
/// `listen` has tried, it interrupts the thread that had made it.
struct Stream(std::net::TcpStream);

impl std::io::Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.0.read(into) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl std::io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

struct Client(tungstenite::WebSocket<Stream>);

impl Client {
    /// A client in namespace `/`.
    fn new(running: &corecast::Running) -> Client {
        let mut client = Client::open(running, "", &[]);
        assert!(client.join("0").starts_with("0{\"sid\":"));
        client
    }

    /// A client in no namespace.
    fn open(running: &corecast::Running, query: &str, headers: &[(&str, &str)]) -> Client {
        use tungstenite::client::IntoClientRequest;
        let address = running.addresses()[0];
        let stream = std::net::TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
        let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket{query}");
        let mut request = url.into_client_request().expect("a request");
        for (name, value) in headers {
            let name: tungstenite::http::HeaderName = name.parse().expect("a name");
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
        let (socket, _) = tungstenite::client(request, Stream(stream)).expect("a websocket");
        let mut client = Client(socket);
        assert!(client.text().starts_with("0{"), "the open packet");
        client
    }

    /// Sends a CONNECT and returns the answer.
    fn join(&mut self, connect: &str) -> String {
        self.send(connect);
        self.read()
    }

    fn send(&mut self, packet: &str) {
        self.0.send(format!("4{packet}").into()).expect("sends");
    }

    fn send_bytes(&mut self, bytes: &'static [u8]) {
        self.0.send(tungstenite::Bytes::from_static(bytes).into()).expect("sends");
    }

    /// The next packet, an attachment as hexadecimal digits, or `closed`.
    fn read(&mut self) -> String {
        let text = self.text();
        text.strip_prefix('4').map(str::to_owned).unwrap_or(text)
    }

    fn text(&mut self) -> String {
        loop {
            match self.0.read() {
                Ok(tungstenite::Message::Text(text)) if text.as_str() == "2" => {
                    self.0.send("3".into()).expect("answers a ping");
                }
                Ok(tungstenite::Message::Text(text)) => return text.to_string(),
                Ok(tungstenite::Message::Binary(bytes)) => {
                    return bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                }
                Ok(_) | Err(tungstenite::Error::ConnectionClosed) => return "closed".into(),
                Err(error) => panic!("no packet: {error}"),
            }
        }
    }
}
