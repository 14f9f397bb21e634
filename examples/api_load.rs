//! Loads the HTTP API of a gateway with emits, and says how many it takes.
//!
//! ```text
//! cargo build --release --bin corecast --example api_load
//! target/release/corecast serve --config FILE --cpus 0 &
//! target/release/examples/api_load --api 127.0.0.1:4001 --pid $! --seconds 5          # one by one
//! target/release/examples/api_load --api 127.0.0.1:4001 --pid $! --seconds 5 --batch  # in batches
//! ```
//!
//! Each connection has one request under way, or `--pipeline` of them. With `--pid` it also tells
//! the CPU time of the gateway's control thread, which is what an emit costs on it.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::Parser;

#[derive(Parser, Clone)]
struct Arguments {
    /// Address of the API
    #[arg(long, default_value = "127.0.0.1:4001")]
    api: SocketAddr,
    /// A key of the API, if it needs one
    #[arg(long)]
    key: Option<String>,
    /// Process id of the gateway
    #[arg(long)]
    pid: Option<u32>,
    /// How long
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests under way on each connection
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// Send lines of one batch on each connection instead
    #[arg(long)]
    batch: bool,
    /// Room that is sent to; nobody has to be in it
    #[arg(long, default_value = "nobody")]
    room: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let before = arguments.pid.map(control_seconds).transpose()?;
    let start = Instant::now();
    let end = start + Duration::from_secs(arguments.seconds);
    let threads: Vec<_> = (0..arguments.connections)
        .map(|_| {
            let arguments = arguments.clone();
            std::thread::spawn(move || match arguments.batch {
                true => batch(&arguments, end),
                false => singles(&arguments, end),
            })
        })
        .collect();
    let mut emits = 0;
    for thread in threads {
        emits += thread.join().map_err(|_| Error::other("a connection panicked"))??;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let mut out = std::io::stdout();
    writeln!(out, "emits             {emits}")?;
    writeln!(out, "emits per second  {:.0}", emits as f64 / elapsed)?;
    if let (Some(pid), Some(before)) = (arguments.pid, before) {
        let used = control_seconds(pid)? - before;
        writeln!(out, "CPU of control    {used:.2} s of {elapsed:.2} s")?;
        writeln!(out, "CPU per emit      {:.2} us", used / emits as f64 * 1e6)?;
        writeln!(out, "emits per core    {:.0} per second", emits as f64 / used)?;
    }
    Ok(())
}

/// Seconds of CPU that the thread `control` of a process has used.
fn control_seconds(pid: u32) -> Result<f64> {
    // Ticks of a hundredth of a second, on every Linux that this runs on.
    const TICKS: f64 = 100.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        let Some((head, rest)) = stat.rsplit_once(')') else { continue };
        if head.ends_with("(control") {
            let fields: Vec<f64> =
                rest.split_whitespace().filter_map(|field| field.parse().ok()).collect();
            // The state is no number, so user and system time are the 11th and 12th that are.
            return Ok((fields[10] + fields[11]) / TICKS);
        }
    }
    Err(Error::new(ErrorKind::NotFound, "no thread called control"))
}

fn command(arguments: &Arguments) -> String {
    let room = &arguments.room;
    format!(r#"{{"do":"emit","rooms":["{room}"],"event":"tick","args":[{{"price":101.5}}]}}"#)
}

fn authorization(arguments: &Arguments) -> String {
    let key = arguments.key.as_ref();
    key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default()
}

/// One request for each emit.
fn singles(arguments: &Arguments, end: Instant) -> Result<u64> {
    let mut stream = TcpStream::connect(arguments.api)?;
    stream.set_nodelay(true)?;
    let (body, authorization) = (command(arguments), authorization(arguments));
    let request = format!(
        "POST /v1/emit HTTP/1.1\r\nHost: {}\r\n{authorization}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        arguments.api,
        body.len(),
    );
    let requests = request.repeat(arguments.pipeline);
    let (mut emits, mut input) = (0, Vec::new());
    while Instant::now() < end {
        stream.write_all(requests.as_bytes())?;
        let mut missing = arguments.pipeline;
        while missing > 0 {
            let mut bytes = [0; 64 * 1_024];
            let count = stream.read(&mut bytes)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            input.extend_from_slice(&bytes[..count]);
            while let Some(length) = answered(&input)? {
                input.drain(..length);
                missing -= 1;
            }
        }
        emits += arguments.pipeline as u64;
    }
    Ok(emits)
}

/// Bytes of the first answer, if all of it is there.
fn answered(input: &[u8]) -> Result<Option<usize>> {
    let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&input[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 202") {
        return Err(Error::other(format!("the gateway says {head}")));
    }
    let length = head.split("content-length: ").nth(1).and_then(|it| it.split("\r\n").next());
    let length: usize = length.and_then(|it| it.parse().ok()).unwrap_or(0);
    Ok((input.len() >= end + 4 + length).then_some(end + 4 + length))
}

/// One line for each emit, all in one request.
fn batch(arguments: &Arguments, end: Instant) -> Result<u64> {
    let mut stream = TcpStream::connect(arguments.api)?;
    let authorization = authorization(arguments);
    stream.write_all(
        format!(
            "POST /v1/batch?results=errors HTTP/1.1\r\nHost: {}\r\n{authorization}\
             Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n",
            arguments.api,
        )
        .as_bytes(),
    )?;
    let lines = format!("{}\n", command(arguments)).repeat(200);
    let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
    let mut emits: u64 = 0;
    while Instant::now() < end {
        stream.write_all(chunk.as_bytes())?;
        emits += 200;
    }
    stream.write_all(b"0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.contains(&format!("{{\"commands\":{emits},\"failed\":0}}")) {
        true => Ok(emits),
        false => Err(Error::other(format!("the gateway says {answer}"))),
    }
}
