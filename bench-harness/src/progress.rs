//! Progress of a phase, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::scenario::Phase;
use crate::shared::Shared;
use crate::sys;

/// Between two lines where there is no terminal; a phase that is shorter says nothing.
const LINES: Duration = Duration::from_secs(30);

pub(crate) struct Progress {
    bar: ProgressBar,
    connects: bool,
    /// When the next line is due.
    next: Cell<Instant>,
}

impl Progress {
    /// Of `phase`, after which `connected` clients are there.
    pub(crate) fn new(phase: &Phase, connected: usize) -> Self {
        let connects = phase.connects();
        let whole = if connects { connected as f64 } else { whole_ms(phase) };
        let bar = ProgressBar::with_draw_target(Some(whole as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{prefix:14} {wide_bar} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(phase.name.clone());
        Self { bar, connects, next: Cell::new(Instant::now() + LINES) }
    }

    pub(crate) fn preparing(&self, shared: &Shared) {
        self.say(format!("{} have joined their rooms", shared.delivered()));
    }

    /// While it runs, since `begin`.
    pub(crate) fn show(&self, shared: &Shared, begin: u64) {
        let since = sys::now().saturating_sub(begin);
        if self.connects {
            self.bar.set_position(shared.joined());
            self.say(format!("{} connected", shared.joined()));
        } else {
            self.bar.set_position(since / 1_000_000);
            let rate = shared.delivered() as f64 / (since.max(1) as f64 / 1e9);
            self.say(format!("{rate:.0} deliveries/s"));
        }
    }

    fn say(&self, message: String) {
        let now = Instant::now();
        if self.bar.is_hidden() && now >= self.next.get() {
            self.next.set(now + LINES);
            eprintln!("{}: {message}", self.bar.prefix());
        }
        self.bar.set_message(message);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Milliseconds from the beginning to the end of what is measured.
fn whole_ms(phase: &Phase) -> f64 {
    (phase.warmup() + phase.seconds) * 1e3
}
