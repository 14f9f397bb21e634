//! The client against corecast's bench server, in everything it speaks: counts, never times.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

const HARNESS: &str = env!("CARGO_BIN_EXE_bench-harness");

/// The example, built as this test is; nothing to do where the whole workspace was built.
static BENCH_SERVER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(HARNESS).parent().expect("target folder");
    let mut cargo = Command::new(env!("CARGO"));
    // One package alone resolves other features, with which every dependency is built anew.
    cargo.args(["build", "--quiet", "--workspace", "--example", "bench_server"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo").success(), "bench_server does not build");
    folder.join("examples/bench_server")
});

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(&*BENCH_SERVER)
            .args(["--listen", "127.0.0.1:0", "--cpus", "0"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stderr.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.split_whitespace().last().ok_or("no address")?.to_owned();
        Ok(Self { child, address })
    }

    /// The record of connections and three loads by 50 `clients`, with so much data in events.
    fn load(&self, name: &str, clients: &str, payload: usize) -> Result<Value, Box<dyn Error>> {
        let load = |kind, count| {
            format!(
                "[[phase]]\nseconds = 0.2\n[[phase.load]]\nkind = \"{kind}\"\n\
                 payload = {payload}\nin_flight = {count}\n"
            )
        };
        let loads = [load("fanout", 1), load("fanout", 8), load("echo", 50)].concat();
        self.run(name, &format!("count = 50\n{clients}"), &loads)
    }

    /// The record of a run with these clients and loads.
    fn run(&self, name: &str, clients: &str, loads: &str) -> Result<Value, Box<dyn Error>> {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
        let scenario = path.with_extension("toml");
        std::fs::write(&scenario, format!("[clients]\nwait = \"block\"\n{clients}\n{loads}"))?;
        let output = Command::new(HARNESS)
            .args(["run", "--url", &self.address, "--pid", &self.child.id().to_string()])
            .arg("--json")
            .args([&path, &scenario])
            .output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&std::fs::read(&path)?)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each phase with a load has sent something, and received all that was due.
fn accounted(record: &Value) {
    let loads: Vec<&Value> = record["phases"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|phase| phase["loads"].as_array().into_iter().flatten())
        .collect();
    assert_eq!(loads.len(), 4, "connect, two of fan-out, echo");
    for load in loads {
        let count = |name: &str| load[name].as_u64().unwrap_or(0);
        assert!(count("finished") > 0, "{load}");
        assert_eq!(count("all_received"), count("all_due"), "{load}");
    }
}

#[test]
fn long_polling_carries_every_load() -> Result<(), Box<dyn Error>> {
    let server = Server::start(&[])?;
    accounted(&server.load("polling", "transport = \"polling\"", 128)?);
    let binary = "transport = \"polling\"\ndata = \"binary\"";
    accounted(&server.load("polling-binary", binary, 1000)?);
    Ok(())
}

#[test]
fn websocket_carries_attachments() -> Result<(), Box<dyn Error>> {
    accounted(&Server::start(&[])?.load("binary", "data = \"binary\"", 1000)?);
    Ok(())
}

#[test]
fn compressed_messages_are_read() -> Result<(), Box<dyn Error>> {
    let server = Server::start(&["--deflate", "100"])?;
    accounted(&server.load("deflate", "deflate = true", 1000)?);
    let binary = "deflate = true\ndata = \"binary\"";
    accounted(&server.load("deflate-binary", binary, 1000)?);
    Ok(())
}

#[test]
fn a_server_that_does_not_compress_is_named() -> Result<(), Box<dyn Error>> {
    let server = Server::start(&[])?;
    let output = Command::new(HARNESS)
        .args(["run", "--url", &server.address, "--pid", &server.child.id().to_string()])
        .args(["--count", "1", "deflate"])
        .output()?;
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("does not compress"), "{error}");
    Ok(())
}

/// 20 clients of which 4 do not read, two broadcasts of 60 kB under way for `seconds`; what became
/// of the four, and the number of broadcasts.
fn stalled(
    server: &Server,
    name: &str,
    clients: &str,
    seconds: u32,
) -> Result<(Value, u64), Box<dyn Error>> {
    let loads = format!(
        "[[phase]]\nseconds = {seconds}\n[[phase.load]]\nkind = \"fanout\"\n\
         payload = 60000\nin_flight = 2\n"
    );
    let record = server.run(name, &format!("count = 20\nstalled = 0.2\n{clients}"), &loads)?;
    let load = &record["phases"][1]["loads"][0];
    let sent = load["all_sent"].as_u64().ok_or("sent")?;
    assert_eq!(load["all_received"].as_u64(), Some(sent * 16), "those who read got everything");
    assert_eq!(record["stalled"]["clients"], 4);
    Ok((record["stalled"].clone(), sent))
}

#[test]
fn clients_that_do_not_read_are_closed_and_counted() -> Result<(), Box<dyn Error>> {
    let server = Server::start(&["--max-queue-bytes", "200000"])?;
    // The kernel keeps 4 MiB for each of them first.
    let (found, _) = stalled(&server, "stalled", "", 4)?;
    assert_eq!((&found["closed"], &found["skipped"]), (&4.into(), &0.into()), "{found}");
    let (found, _) = stalled(&server, "stalled-polling", "transport = \"polling\"", 1)?;
    assert_eq!((&found["closed"], &found["received"]), (&4.into(), &0.into()), "{found}");
    Ok(())
}

#[test]
fn clients_that_do_not_read_are_skipped_and_counted() -> Result<(), Box<dyn Error>> {
    let server = Server::start(&["--max-queue-bytes", "200000", "--drop-slow"])?;
    for (name, clients, seconds) in
        [("skipped", "", 4), ("skipped-polling", "transport = \"polling\"", 1)]
    {
        let (found, sent) = stalled(&server, name, clients, seconds)?;
        let count = |name: &str| found[name].as_u64().unwrap_or(0);
        assert_eq!(count("closed"), 0, "{found}");
        assert_eq!(count("received") + count("skipped"), 4 * sent, "{found}");
        assert!(count("received") > 0 && count("skipped") > 0, "{found}");
    }
    Ok(())
}

#[test]
fn what_was_sent_before_they_came_has_not_been_skipped() -> Result<(), Box<dyn Error>> {
    let connect = |count| {
        format!("[[phase]]\nsettle = 0\nload = [{{ kind = \"connect\", count = {count} }}]\n")
    };
    let fanout = "[[phase]]\nseconds = 0.2\nload = [{ kind = \"fanout\" }]\n".to_owned();
    // Of the four that do not read one stays; the others come late, or leave and come back.
    let loads = [18, 20, 17, 20].map(|count| connect(count) + &fanout).concat();
    let clients = "count = 20\nprocesses = 2\nstalled = 0.2";
    let record = Server::start(&[])?.run("late", clients, &loads)?;
    let sent = |phase: usize| record["phases"][phase]["loads"][0]["all_sent"].as_u64();
    let all: u64 = [1, 3, 5, 7].into_iter().filter_map(sent).sum();
    let due = all + 3 * sent(7).ok_or("sent")?;
    let found = &record["stalled"];
    assert_eq!((&found["received"], &found["skipped"]), (&due.into(), &0.into()), "{found}");
    Ok(())
}

#[test]
fn a_poll_may_be_answered_with_all_that_was_queued() -> Result<(), Box<dyn Error>> {
    let server = Server::start(&["--drop-slow"])?;
    let clients = "count = 20\nstalled = 0.2\ntransport = \"polling\"";
    let loads = "[[phase]]\nseconds = 1\n[[phase.load]]\nkind = \"fanout\"\npayload = 60000\n\
                 in_flight = 8\n";
    let record = server.run("polling-queued", clients, loads)?;
    let load = &record["phases"][1]["loads"][0];
    assert_eq!(load["all_received"].as_u64(), load["all_sent"].as_u64().map(|sent| sent * 16));
    // Nearly 1 MiB of events for each of the four that read again.
    let late = record["stalled"]["received"].as_u64();
    assert!(late >= Some(4 * 15), "{late:?}");
    Ok(())
}

#[test]
fn an_idle_client_takes_at_most_300_bytes() -> Result<(), Box<dyn Error>> {
    let record = Server::start(&[])?.run("memory", "count = 8000", "")?;
    let client = &record["phases"][0]["client"];
    let size = |name: &str| client[name].as_f64().ok_or("no size");
    let each = (size("resident_after")? - size("resident_before")?) / 8000.0;
    assert!(each <= 300.0, "{each} bytes");
    Ok(())
}
