//! Lines of the log that strangers, or losses, would cause without end.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Time between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// What may happen at any rate, and is logged now and then.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    logged: Option<Instant>,
    untold: u64,
}

impl Seldom {
    /// Counts one. Gives how many there were since the last line, if it is time for another one.
    pub(super) fn count(&self) -> Option<u64> {
        let mut inner = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        inner.untold += 1;
        if inner.logged.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        inner.logged = Some(Instant::now());
        Some(std::mem::take(&mut inner.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_told_seldom_with_its_number() {
        let seldom = Seldom::default();
        assert_eq!((seldom.count(), seldom.count(), seldom.count()), (Some(1), None, None));
        seldom.0.lock().expect("a lock").logged = Instant::now().checked_sub(PAUSE);
        assert_eq!(seldom.count(), Some(3));
    }
}
