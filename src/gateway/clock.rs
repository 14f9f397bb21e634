//! The clock of the machine, which may be set at any time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(super) fn millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Seconds since 1970.
pub(super) fn seconds() -> u64 {
    millis() / 1_000
}
