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
    /// When the interval began that is open.
    began: u64,
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
            began: opening,
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
            State::Open => Some(self.border()),
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
        while self.state == State::Open && now >= self.border() {
            let border = self.border();
            if self.end == Some(border) {
                return self.close(now, loads, joined);
            }
            self.end_interval(border, loads);
            self.sample(border, now, joined)?;
        }
        Ok(())
    }

    /// Ends the measured part here, if it is open.
    pub(crate) fn close(&mut self, now: u64, loads: &mut [Load<'_>], joined: u64) -> Result<()> {
        if self.state == State::Open {
            // Not if one has just ended: none is empty.
            if now > self.began {
                self.end_interval(now.min(self.end.unwrap_or(now)), loads);
                self.sample(now, now, joined)?;
            }
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

    /// The end of the open interval: a whole one later, but none shorter than half of one is left.
    fn border(&self) -> u64 {
        let border = self.began + self.interval;
        let is_last = |end: &u64| end.saturating_sub(border) <= self.interval / 2;
        self.end.filter(is_last).unwrap_or(border)
    }

    /// Borders of intervals and samples are where the schedule has them, alike in all processes.
    fn end_interval(&self, at: u64, loads: &mut [Load<'_>]) {
        let (start, length) = (seconds(self.opening, self.began), seconds(self.began, at));
        for load in loads {
            load.tally().close_interval(start, length);
        }
    }

    /// Writes down what the clocks have counted until `at`, as they say `now`.
    fn sample(&mut self, at: u64, now: u64, joined: u64) -> Result<()> {
        let clocks = self.clocks_at(at, now)?;
        let server_resident = self.server.map_or(Ok(0), Probe::resident_now)?;
        self.reading.samples.push(Sample {
            at: seconds(self.opening, at),
            seconds: seconds(self.began, at),
            server_cpu_seconds: clocks.server - self.last.server,
            server_resident,
            client_cpu_seconds: clocks.client - self.last.client,
            connections: joined,
        });
        (self.last, self.began) = (clocks, at);
        Ok(())
    }

    /// What the clocks said at `at`, if they went evenly from the last border until `now`.
    fn clocks_at(&self, at: u64, now: u64) -> Result<Clocks> {
        let (last, clocks) = (self.last, self.clocks(now)?);
        let share = seconds(last.at, at) / seconds(last.at, now).max(1e-9);
        let between = |from: f64, to: f64| from + (to - from) * share;
        let server = between(last.server, clocks.server);
        Ok(Clocks { at, server, client: between(last.client, clocks.client) })
    }

    fn clocks(&self, at: u64) -> Result<Clocks> {
        let server =
            self.server.map_or(Ok(0.0), |probe| probe.cpu().map(|cpu| cpu.as_secs_f64()))?;
        Ok(Clocks { at, server, client: self.us.cpu()?.as_secs_f64() })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Tally;

    /// Where a phase with an interval of a second has intervals and samples, as start and length,
    /// if it is looked at at these times and closes at the last of them. Milliseconds.
    fn measured(end: Option<u64>, times: &[u64]) -> Result<[Vec<(u64, u64)>; 2]> {
        let at = |ms: u64| 7_000_000_000 + ms * 1_000_000;
        let mut meter = Meter::new(None, at(0), end.map(at), 1_000_000_000)?;
        let mut loads = [Load::Idle(Tally::default())];
        for time in times {
            meter.tick(at(*time), &mut loads, 0)?;
        }
        meter.close(at(times[times.len() - 1]), &mut loads, 0)?;
        let ms = |seconds: f64| (seconds * 1e3).round() as u64;
        let intervals = loads[0].tally().intervals.iter();
        let intervals = intervals.map(|one| (ms(one.start), ms(one.seconds))).collect();
        let samples = meter.reading.samples.iter();
        let samples = samples.map(|one| (ms(one.at - one.seconds), ms(one.seconds))).collect();
        Ok([intervals, samples])
    }

    #[test]
    fn the_last_interval_is_as_long_as_it_says() -> Result<()> {
        for (end, last) in [(12_300, (11_000, 1_300)), (12_700, (12_000, 700))] {
            let times: Vec<u64> = (0..=end).step_by(100).collect();
            let [intervals, samples] = measured(Some(end), &times)?;
            assert_eq!((intervals.first(), intervals.last()), (Some(&(0, 1_000)), Some(&last)));
            assert_eq!(samples, intervals);
        }
        Ok(())
    }

    #[test]
    fn no_sample_is_empty_however_late_a_process_is() -> Result<()> {
        let seconds: Vec<(u64, u64)> = (0..6).map(|second| (second * 1_000, 1_000)).collect();
        for times in [&[0, 3_400, 6_000][..], &[2_500, 6_000], &[6_000]] {
            let [intervals, samples] = measured(Some(6_000), times)?;
            assert_eq!((&intervals, &samples), (&seconds, &seconds), "{times:?}");
        }
        let [intervals, samples] = measured(None, &[0, 1_000])?;
        assert_eq!((intervals.len(), samples.len()), (1, 1), "complete when an interval ended");
        Ok(())
    }
}
