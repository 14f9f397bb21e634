//! What the system says about a server from outside: CPU time, memory, limits, host.
//!
//! CPU time comes from the process CPU clock, which counts the run time of every thread in
//! nanoseconds, ended threads and the running time slice included; the 10 ms ticks of
//! `/proc/PID/stat` would be a fifth of a short window, and `/proc/PID/task/*/schedstat`, which
//! holds the same sum, lags behind by up to a tick for a thread that is running and forgets
//! threads that ended. Kernel work done in the context of the server, loopback receive
//! processing included, is part of it unless the kernel has IRQ time accounting.
//! Children are counted too, so that a peer that forks is not measured at its parent only.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::sys;

/// A server under test, with the processes it started.
pub(crate) struct Probe {
    pid: u32,
}

impl Probe {
    pub(crate) fn new(pid: u32) -> Result<Self> {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            bail!("no process {pid}: give the server's own pid with --pid, and start it first");
        }
        Ok(Self { pid })
    }

    /// CPU time used so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.family()
            .into_iter()
            .map(|pid| sys::process_cpu(pid).with_context(|| self.died("CPU clock")))
            .sum()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let mut sum = 0;
        for pid in self.family() {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| self.died("memory"))?;
            sum += field(&text, "Rss:").with_context(|| format!("no Rss in {path}"))? * 1024;
        }
        Ok(sum)
    }

    /// Resident memory in bytes, cheap enough to be read during a measurement; the kernel may be
    /// behind by some pages for each CPU.
    pub(crate) fn resident_now(&self) -> Result<u64> {
        let mut pages = 0;
        for pid in self.family() {
            let text = fs::read_to_string(format!("/proc/{pid}/statm"))
                .with_context(|| self.died("memory"))?;
            let field = text.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
            pages += field.with_context(|| self.died("memory"))?;
        }
        Ok(pages * sys::page_bytes())
    }

    /// How many files the server may open.
    pub(crate) fn open_files(&self) -> Result<u64> {
        let path = format!("/proc/{}/limits", self.pid);
        let text = fs::read_to_string(&path).with_context(|| self.died("limits"))?;
        Ok(field(&text, "Max open files").unwrap_or(u64::MAX))
    }

    fn died(&self, what: &str) -> String {
        format!("cannot read the {what} of server process {}: did it end? see its output", self.pid)
    }

    /// The process and all below it. Without children lists in /proc, only the process.
    fn family(&self) -> Vec<u32> {
        let mut pids = vec![self.pid];
        let mut done = 0;
        while let Some(&pid) = pids.get(done) {
            done += 1;
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
            for task in tasks.flatten() {
                let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                pids.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        pids
    }
}

/// The machine, in one line.
pub(crate) fn host() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown CPU", |(_, name)| name.trim());
    // Not available_parallelism: that counts what our own pinning left.
    let count = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {count} CPUs, Linux {}", kernel.trim())
}

/// The first number behind `name` in a file of named lines.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_numbers_are_plausible() -> Result<()> {
        let probe = Probe::new(std::process::id())?;
        let before = probe.cpu()?;
        // However little of the processor we get, working shows in the end.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while probe.cpu()? - before < Duration::from_millis(5) {
            assert!(std::time::Instant::now() < deadline, "no CPU time was counted");
        }
        assert!(probe.resident()? > 100_000);
        assert!(probe.open_files()? > 3);
        Ok(())
    }

    #[test]
    fn fields_are_found_by_name() {
        let text = "Rss:     12 kB\nMax open files            1024   4096   files\n";
        assert_eq!(field(text, "Rss:"), Some(12));
        assert_eq!(field(text, "Max open files"), Some(1024));
        assert_eq!(field(text, "Pss:"), None);
    }
}
