//! The floor as a process, runs against it, and files for them. Each suite uses a part of it.
#![allow(dead_code)]

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub(crate) const HARNESS: &str = env!("CARGO_BIN_EXE_bench-harness");

pub(crate) struct Floor {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Floor {
    pub(crate) fn start(arguments: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(HARNESS)
            .args(["floor", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.split_whitespace().last().ok_or("no address")?.to_owned();
        Ok(Self { child, address })
    }

    /// `run` with these arguments against the floor.
    pub(crate) fn run(&self, arguments: &[&str]) -> std::io::Result<Output> {
        self.command(&self.address).args(arguments).output()
    }

    /// `run` against `url`, behind which is this floor.
    pub(crate) fn command(&self, url: &str) -> Command {
        let mut command = Command::new(HARNESS);
        command.args(["run", "--url", url, "--pid", &self.child.id().to_string()]);
        command.args(["--wait", "block"]);
        command
    }

    /// Sends the floor a signal, by its name.
    pub(crate) fn signal(&self, name: &str) -> Result<(), Box<dyn Error>> {
        signal(self.child.id(), name)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(pid: u32, name: &str) -> Result<(), Box<dyn Error>> {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { Err(format!("kill -s {name} {pid}: {status}").into()) }
}

/// A file of this suite.
pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The path of a scenario with this text.
pub(crate) fn scenario(name: &str, text: &str) -> std::io::Result<String> {
    let path = file(&format!("{name}.toml"));
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// The phases of a record.
pub(crate) fn phases(record: &Value) -> &[Value] {
    record["phases"].as_array().map_or(&[], Vec::as_slice)
}

/// What a run against `floor` writes with `--json`; it must succeed.
pub(crate) fn found(
    floor: &Floor,
    name: &str,
    arguments: &[&str],
) -> Result<Value, Box<dyn Error>> {
    let path = file(&format!("{name}.json"));
    let json = ["--json", path.to_str().ok_or("path")?];
    let output = floor.run(&[arguments, &json].concat())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(serde_json::from_slice(&std::fs::read(&path)?)?)
}
