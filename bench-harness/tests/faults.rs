//! What goes wrong is told, with the fix: servers that lose, double or change a delivery, refuse,
//! end or stall; limits; interruptions. A proxy in front of the floor makes the mistakes.

mod floor;

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use floor::{Floor, HARNESS, file, phases, scenario, signal};
use serde_json::Value;

type Test = Result<(), Box<dyn Error>>;

/// What happens to the hundredth delivery that passes.
#[derive(Clone, Copy)]
enum Fault {
    None,
    Double,
    Lose,
    Change,
    /// All connections are closed.
    End,
}

/// Passes bytes between clients and a floor, with one mistake.
struct Proxy {
    address: String,
    /// Deliveries that have passed.
    passed: Arc<AtomicU64>,
}

impl Proxy {
    fn start(floor: &Floor, fault: Fault) -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let passed = Arc::new(AtomicU64::new(0));
        let (target, counter) = (floor.address.clone(), Arc::clone(&passed));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&target) else { return };
                let counter = Arc::clone(&counter);
                let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
                std::thread::spawn(move || pass(from, to));
                std::thread::spawn(move || answer(server, client, fault, &counter));
            }
        });
        Ok(Self { address, passed })
    }
}

/// What clients send, as it is.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
}

/// What the floor sends, frame by frame; the upgrade's response passes as it is.
fn answer(mut from: TcpStream, mut to: TcpStream, fault: Fault, passed: &AtomicU64) -> Option<()> {
    let (mut bytes, mut upgraded) = (Vec::new(), false);
    let mut chunk = [0; 4096];
    loop {
        let length = from.read(&mut chunk).ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&chunk[..length]);
        if !upgraded {
            let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
            let Some(head) = head else { continue };
            to.write_all(&bytes[..head]).ok()?;
            bytes.drain(..head);
            upgraded = true;
        }
        while bytes.len() >= 2 {
            let (header, size) = match bytes[1] {
                126 if bytes.len() < 4 => break,
                126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
                short => (2, usize::from(short)),
            };
            if bytes.len() < header + size {
                break;
            }
            let mut frame: Vec<u8> = bytes.drain(..header + size).collect();
            let is_event = frame[header..].starts_with(b"42");
            let is_due = is_event && passed.fetch_add(1, Ordering::Relaxed) == 100;
            match fault {
                Fault::Double if is_due => frame = frame.repeat(2),
                Fault::Lose if is_due => frame.clear(),
                Fault::Change if is_due => frame[header + size - 5] ^= 1,
                Fault::End if is_due => {
                    let _ = to.shutdown(std::net::Shutdown::Both);
                    return None;
                }
                _ => {}
            }
            to.write_all(&frame).ok()?;
        }
    }
}

/// A run of a second of broadcasts to ten clients, through a proxy with this fault.
fn run_with(fault: Fault, load: &str, name: &str) -> Result<Output, Box<dyn Error>> {
    let floor = Floor::start(&[])?;
    let proxy = Proxy::start(&floor, fault)?;
    let plan = scenario(
        name,
        &format!(
            "[clients]\ncount = 10\n[[phase]]\nname = \"load\"\nseconds = 1\nload = [{load}]\n"
        ),
    )?;
    Ok(floor.command(&proxy.address).arg(plan).output()?)
}

/// It has failed and says all of this.
fn says(output: &Output, texts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for text in texts {
        assert!(error.contains(text), "{text:?} is not in: {error}");
    }
    assert_eq!(error.trim().lines().count(), 1, "one line: {error}");
}

const FANOUT: &str = "{ kind = \"fanout\", in_flight = 8 }";
const ECHO: &str = "{ kind = \"echo\", in_flight = 5 }";

#[test]
fn a_delivery_that_comes_twice_is_told() -> Test {
    says(&run_with(Fault::Double, FANOUT, "double")?, &["phase load", "twice"]);
    says(&run_with(Fault::Double, ECHO, "double-echo")?, &["an echo that it did not wait for"]);
    Ok(())
}

#[test]
fn a_delivery_that_is_changed_is_told() -> Test {
    for (load, name) in [(FANOUT, "changed"), (ECHO, "changed-echo")] {
        says(&run_with(Fault::Change, load, name)?, &["something else than what was sent: 42["]);
    }
    Ok(())
}

#[test]
fn a_delivery_that_does_not_come_is_told() -> Test {
    let lost = run_with(Fault::Lose, FANOUT, "lost")?;
    says(&lost, &["nothing arrived for 10s: 1 deliveries of 1 broadcasts are missing"]);
    Ok(())
}

#[test]
fn an_echo_that_does_not_come_is_told() -> Test {
    let lost = run_with(Fault::Lose, ECHO, "lost-echo")?;
    says(&lost, &["nothing arrived for 10s: 1 echoes are missing"]);
    Ok(())
}

#[test]
fn a_connection_that_the_server_closes_is_told() -> Test {
    says(&run_with(Fault::End, FANOUT, "end")?, &["the server closed connection", "limit"]);
    Ok(())
}

#[test]
fn a_run_without_a_mistake_passes_the_proxy() -> Test {
    let output = run_with(Fault::None, FANOUT, "none")?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn what_cannot_begin_says_why() -> Test {
    let floor = Floor::start(&[])?;
    let far = "[clients]\ncount = 3\nsources = [\"192.0.2.1\"]\n";
    let mixed = "[clients]\ncount = 3\nsources = [\"::1\"]\n";
    for (name, text, fix) in [
        ("far", far, "has to be an address of this machine"),
        ("mixed", mixed, "one is IPv4, the other IPv6"),
        ("processes", "[clients]\nprocesses = 1\ncount = 9000000\n", "use more processes"),
        ("cpu", "[clients]\ncpus = [1000]\n", "pin a client process to CPU 1000"),
        ("key", "[clients]\ncounts = 3\n", "key.toml: line 2: unknown field `counts`"),
        ("broken", "[clients\n", "broken.toml: line 1"),
    ] {
        says(&floor.run(&[&scenario(name, text)?])?, &[fix]);
    }
    says(&floor.run(&["no-such-file"])?, &["give a file, or one of ", " rooms"]);
    Ok(())
}

#[test]
fn a_server_that_is_not_there_is_told() -> Test {
    let mut floor = Floor::start(&[])?;
    let run =
        |url: &str| std::process::Command::new(HARNESS).args(["run", "all", "--url", url]).output();
    floor.child.kill()?;
    floor.child.wait()?;
    says(&run(&floor.address)?, &["nothing listens on", "check --url"]);
    says(&floor.run(&["all"])?, &["no process"]);
    let none = std::process::Command::new(HARNESS).args(["run", "all"]).output()?;
    says(&none, &["no server: give --url"]);
    Ok(())
}

#[test]
fn a_server_that_refuses_is_quoted() -> Test {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = [0; 1000];
            let _ = client.read(&mut request);
            let _ = client.write_all(b"HTTP/1.1 503 Full\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let output = std::process::Command::new(HARNESS)
        .args(["run", "all", "--count", "1", "--wait", "block", "--url", &address])
        .output()?;
    says(&output, &["websocket upgrade", "503 Full"]);
    Ok(())
}

#[test]
fn too_few_files_are_told_with_how_many_it_takes() -> Test {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    // Opens sessions, and leaves their POSTs without an answer.
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut client in listener.incoming().flatten() {
            let mut request = [0; 1000];
            let _ = client.read(&mut request);
            if request.starts_with(b"GET") {
                let open = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n0{\"sid\":\"a\"}";
                let _ = client.write_all(open);
            }
            kept.push(client);
        }
    });
    let plan = scenario(
        "files",
        "[clients]\ncount = 80\ntransport = \"polling\"\n\
         [[phase]]\nload = [{ kind = \"connect\", in_flight = 80 }]\n",
    )?;
    // So many, and 64 to spare, are what it does not begin without.
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 144; exec \"$0\" run --wait block --url \"$1\" \"$2\""])
        .args([HARNESS, &address, &plan])
        .output()?;
    says(&output, &["no file left after 80 connections: use more processes", "`ulimit -n 260`"]);
    Ok(())
}

#[test]
fn a_server_that_does_not_start_is_told() -> Test {
    for (name, command, fix) in [
        ("ends", "\"false\", \"{address}\"", "before it listened"),
        ("missing", "\"/no/such/program\", \"{address}\"", "is it built?"),
        ("deaf", "\"true\"", "say {address}"),
        ("empty", "", "the command is empty"),
    ] {
        let plan = scenario(name, &format!("[server]\ncommand = [{command}]\n"))?;
        says(&std::process::Command::new(HARNESS).args(["run", &plan]).output()?, &[fix]);
    }
    Ok(())
}

/// A run of an hour in two processes that has loaded for a while, and where its record goes.
fn long_run(
    floor: &Floor,
    name: &str,
) -> Result<(std::process::Child, std::path::PathBuf), Box<dyn Error>> {
    let proxy = Proxy::start(floor, Fault::None)?;
    let plan = scenario(
        name,
        "[clients]\ncount = 10\nprocesses = 2\n[[phase]]\nname = \"long\"\nseconds = 3600\n\
         warmup = 0\nload = [{ kind = \"fanout\" }]\n[[phase]]\nload = [{ kind = \"echo\" }]\n",
    )?;
    let path = file(&format!("{name}.json"));
    let _ = std::fs::remove_file(&path);
    let run = floor
        .command(&proxy.address)
        .args([&plan, "--json"])
        .arg(&path)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    while proxy.passed.load(Ordering::Relaxed) < 500 {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok((run, path))
}

#[test]
fn an_interruption_gives_what_was_found() -> Test {
    let floor = Floor::start(&[])?;
    let (run, path) = long_run(&floor, "interrupted")?;
    signal(run.id(), "INT")?;
    let output = run.wait_with_output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("interrupted"), "{error}");
    let record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    assert_eq!(record["complete"], false);
    let [_, long] = phases(&record) else { return Err("connect and long".into()) };
    let load = &long["loads"][0];
    assert!(load["deliveries"].as_u64() > Some(0), "{load}");
    assert_eq!(load["all_due"], load["all_received"], "it was drained");
    assert!(long["seconds"].as_f64() < Some(3600.0));
    Ok(())
}

#[test]
fn an_interruption_waits_for_nobody_that_stalls() -> Test {
    let floor = Floor::start(&[])?;
    let (run, path) = long_run(&floor, "stalled")?;
    floor.signal("STOP")?;
    signal(run.id(), "INT")?;
    let output = run.wait_with_output()?;
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    assert_eq!(record["complete"], false);
    Ok(())
}

#[test]
fn a_second_interruption_ends_at_once() -> Test {
    let floor = Floor::start(&[])?;
    let (run, path) = long_run(&floor, "twice")?;
    // A server that stands still, so that the first one cannot be done with before the second.
    floor.signal("STOP")?;
    signal(run.id(), "INT")?;
    signal(run.id(), "TERM")?;
    let output = run.wait_with_output()?;
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!path.exists(), "no record");
    Ok(())
}
