//! The measured part of a phase, as one process sees it: when it opens, where its intervals lie,
//! and what clocks say at their borders. The first process also reads the server's.

use anyhow::Result;

use crate::load::Load;
use crate::probe::Probe;
use crate::record::Sample;
use crate::sys;

/// What one process has measured, apart from its loads.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Reading {
    /// Nanoseconds at which the measured part opened, and its length in seconds.
    pub(crate) opened: u64,
    pub(crate) seconds: f64,
    /// CPU time during it: the server's (the first process only) and this process's.
    pub(crate) server_cpu: f64,
    pub(crate) client_cpu: f64,
    pub(crate) samples: Vec<Sample>,
}

pub(crate) struct Meter<'a> {
    server: Option<&'a Probe>,
    us: Probe,
    /// When the measured part opens.
    opening: u64,
    /// When it closes by itself; a phase that connects is closed by its loads.
    end: Option<u64>,
    interval: u64,
    /// The end of the interval that is open.
    border: u64,
    state: State,
    /// Clocks at the opening and at the last border.
    first: Clocks,
    last: Clocks,
    reading: Reading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Open,
    Closed,
}

#[derive(Debug, Clone, Copy, Default)]
struct Clocks {
    at: u64,
    server: f64,
    client: f64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(
        server: Option<&'a Probe>,
        opening: u64,
        end: Option<u64>,
        interval: u64,
    ) -> Result<Self> {
        Ok(Self {
            server,
            us: Probe::new(std::process::id())?,
            opening,
            end,
            interval,
            border: border(opening, interval, end),
            state: State::Waiting,
            first: Clocks::default(),
            last: Clocks::default(),
            reading: Reading::default(),
        })
    }

    /// When this wants to be called next.
    pub(crate) fn next(&self) -> Option<u64> {
        match self.state {
            State::Waiting => Some(self.opening),
            State::Open => Some(self.border),
            State::Closed => None,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Opens, ends an interval, or closes, as `now` demands.
    pub(crate) fn tick(&mut self, now: u64, loads: &mut [Load<'_>], joined: u64) -> Result<()> {
        if self.state == State::Waiting && now >= self.opening {
            self.first = self.clocks(now)?;
            self.last = self.first;
            self.state = State::Open;
            loads.iter_mut().for_each(|load| load.tally().open());
        }
        // More than one border may have passed if this process did not get the CPU.
        while self.state == State::Open && now >= self.border {
            if self.end.is_some_and(|end| self.border >= end) {
                return self.close(now, loads, joined);
            }
            self.end_interval(self.border, loads);
            self.sample(now, joined)?;
            self.border = border(self.border, self.interval, self.end);
        }
        Ok(())
    }

    /// Ends the measured part here, if it is open.
    pub(crate) fn close(&mut self, now: u64, loads: &mut [Load<'_>], joined: u64) -> Result<()> {
        if self.state == State::Open {
            self.end_interval(now.min(self.end.unwrap_or(now)), loads);
            self.sample(now, joined)?;
            loads.iter_mut().for_each(|load| load.tally().close(now));
            self.reading.opened = self.first.at;
            self.reading.seconds = seconds(self.first.at, now);
            self.reading.server_cpu = self.last.server - self.first.server;
            self.reading.client_cpu = self.last.client - self.first.client;
        }
        self.state = State::Closed;
        Ok(())
    }

    pub(crate) fn reading(self) -> Reading {
        self.reading
    }

    /// Borders of intervals are where the schedule has them, alike in all processes.
    fn end_interval(&self, at: u64, loads: &mut [Load<'_>]) {
        let since = seconds(self.opening, at);
        let start = (since / (self.interval as f64 / 1e9) - 1e-6).max(0.0).floor()
            * (self.interval as f64 / 1e9);
        for load in loads {
            load.tally().close_interval(start, since - start);
        }
    }

    fn sample(&mut self, now: u64, joined: u64) -> Result<()> {
        let clocks = self.clocks(now)?;
        let server_resident = self.server.map_or(Ok(0), Probe::resident_now)?;
        self.reading.samples.push(Sample {
            at: seconds(self.first.at, now),
            seconds: seconds(self.last.at, now),
            server_cpu_seconds: clocks.server - self.last.server,
            server_resident,
            client_cpu_seconds: clocks.client - self.last.client,
            connections: joined,
        });
        self.last = clocks;
        Ok(())
    }

    fn clocks(&self, at: u64) -> Result<Clocks> {
        let server =
            self.server.map_or(Ok(0.0), |probe| probe.cpu().map(|cpu| cpu.as_secs_f64()))?;
        Ok(Clocks { at, server, client: self.us.cpu()?.as_secs_f64() })
    }
}

/// The border behind `at`: a whole interval later, but none shorter than half an interval is left.
fn border(at: u64, interval: u64, end: Option<u64>) -> u64 {
    match end {
        Some(end) if end.saturating_sub(at + interval) <= interval / 2 => end,
        _ => at + interval,
    }
}

fn seconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}

/// Nanoseconds of `seconds`.
pub(crate) fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// So long from now.
pub(crate) fn in_seconds(seconds: f64) -> u64 {
    sys::now() + nanoseconds(seconds)
}
