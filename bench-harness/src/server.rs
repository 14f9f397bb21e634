//! A server that was started for a measurement; it ends with its value.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::sys;

/// A server has so long until it listens.
const START: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts `command`, in which `{address}` stands for where to listen, on one CPU if `cpu` says
    /// so, and waits until it does.
    pub(crate) fn start(command: &[String], cpu: Option<usize>) -> Result<Self> {
        // A port that is free now; whoever takes it in between makes the start fail loudly.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let words: Vec<String> =
            command.iter().map(|word| word.replace("{address}", &address.to_string())).collect();
        let [program, arguments @ ..] = words.as_slice() else {
            bail!("server: the command is empty");
        };
        ensure!(
            command.iter().any(|word| word.contains("{address}")),
            "server: the command has to say {{address}} where it wants to know where to listen"
        );
        // It inherits the limit.
        sys::raise_open_files()?;
        let mut start = Command::new(program);
        start.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        sys::confine(&mut start, cpu);
        // Out of reach of the terminal's Ctrl-C, which ends the phase: the server stays until then.
        std::os::unix::process::CommandExt::process_group(&mut start, 0);
        let child = start.spawn().with_context(|| format!("start {program}: is it built?"))?;
        let mut server = Self { child, address };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(ended) = server.ended() {
                bail!("{program} {ended} before it listened; its error is above");
            }
            if started.elapsed() > START {
                bail!("{program} does not listen on {address} after {START:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| format!("ended ({status})"))
    }
}

impl Drop for Server {
    /// Asks it to end, then makes it.
    fn drop(&mut self) {
        let _ = sys::terminate(self.child.id());
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(2) {
            if self.ended().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
