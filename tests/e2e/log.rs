//! Collects what the library logs.

use std::sync::{Mutex, Once};

use log::{LevelFilter, Log, Metadata, Record};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl Log for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        eprintln!("log: {line}");
        LINES.lock().expect("no panic").push(line);
    }

    fn flush(&self) {}
}

pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Collector).expect("the only logger");
        log::set_max_level(LevelFilter::Info);
    });
}

/// The first line that has all these words, if there is one yet.
pub fn line(words: &[&str]) -> Option<String> {
    let lines = LINES.lock().expect("no panic");
    lines.iter().find(|line| words.iter().all(|word| line.contains(word))).cloned()
}

/// Waits for a line with all these words.
pub fn wait(words: &[&str]) {
    super::eventually(&format!("the log line {words:?}"), || line(words).is_some());
}
