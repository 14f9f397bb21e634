//! The client against the floor, through the command line: counts, never times.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const HARNESS: &str = env!("CARGO_BIN_EXE_bench-harness");

struct Floor {
    child: Child,
    address: String,
}

impl Floor {
    fn start() -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(HARNESS)
            .args(["floor", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.split_whitespace().last().ok_or("no address")?.to_owned();
        Ok(Self { child, address })
    }

    fn run(&self, arguments: &[&str]) -> std::io::Result<Output> {
        Command::new(HARNESS)
            .args(["run", "--url", &self.address, "--pid", &self.child.id().to_string()])
            .args(arguments)
            .output()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn record(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn every_mode_accounts_for_every_message() -> Result<(), Box<dyn Error>> {
    let floor = Floor::start()?;
    let path = record("all.json");
    let json = path.to_str().ok_or("path")?;
    let small = ["--connections", "50", "--seconds", "0.3", "--wait", "block", "--json", json];
    let output = floor.run(&[&["--mode", "all"], &small[..]].concat())?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let found: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let phases = found["phases"].as_array().ok_or("phases")?;
    assert_eq!(phases[0]["connections"], 50);
    assert_eq!(phases.len(), 5, "connect, idle and three loads");
    for (phase, receivers) in [&phases[..1], &phases[2..]].concat().iter().zip([1, 50, 50, 1]) {
        let load = &phase["loads"][0];
        let count = |name: &str| load[name].as_u64().unwrap_or(0);
        assert!(count("finished") > 0, "{load}");
        assert_eq!(count("all_received"), count("all_sent") * receivers, "{load}");
        assert!(count("all_sent") >= count("finished"), "{load}");
    }
    let report = Command::new(HARNESS).args(["report", json]).output()?;
    assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    assert_eq!(report.stdout, output.stdout, "what was read is what was found");
    Ok(())
}

#[test]
fn a_rate_sets_the_number_of_messages() -> Result<(), Box<dyn Error>> {
    let floor = Floor::start()?;
    let path = record("rate.json");
    let json = path.to_str().ok_or("path")?;
    let plan = ["--mode", "echo", "--rate", "1000", "--in-flight", "10", "--payload", "16"];
    let small = ["--connections", "20", "--seconds", "0.3", "--json", json];
    let output = floor.run(&[&plan[..], &small].concat())?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let sent = found["phases"][1]["loads"][0]["all_sent"].as_f64().ok_or("messages")?;
    // The schedule has 1,000 a second; the run lasts 0.36 s or, on a busy machine, longer.
    assert!(sent >= 300.0, "{sent}");
    Ok(())
}

#[test]
fn errors_name_the_fix() -> Result<(), Box<dyn Error>> {
    let mut floor = Floor::start()?;
    let small = ["--mode", "fanout", "--connections", "10", "--seconds", "0.1"];
    for (extra, text) in [
        (&["--connections", "99000000"][..], "ulimit -n"),
        (&["--in-flight", "65"], "at most 64 broadcasts"),
    ] {
        let arguments = if extra[0] == "--connections" { extra } else { &[&small, extra].concat() };
        let output = floor.run(arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(text), "{error}");
    }
    floor.child.kill()?;
    floor.child.wait()?;
    let output = floor.run(&small)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no process"));
    Ok(())
}

#[test]
fn the_table_takes_the_floor_alone() -> Result<(), Box<dyn Error>> {
    let output = Command::new(HARNESS)
        .args(["table", "--rounds", "2", "--engines", "floor", "--seconds", "0.2"])
        .args(["--connections", "50", "--idle-connections", "60", "--wait", "block"])
        .output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(text.lines().filter(|line| line.starts_with('|')).count(), 7, "{text}");
    Ok(())
}
