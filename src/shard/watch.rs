//! Notices handlers that keep their shard from turning, and says which one it is.
//!
//! A shard notes the handler it enters and leaves, two plain stores; a thread of its own looks at
//! the notes now and then. So it costs no clock reading per event, and a handler that never returns
//! is reported as well.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// All labels, so that an address can be turned into words without trusting it.
static KNOWN: LazyLock<Mutex<HashSet<&'static Label>>> = LazyLock::new(Mutex::default);

/// The label of all handlers beyond [`Label::MOST`].
static OTHER: Label = Label { namespace: String::new(), what: String::new() };

/// What a handler is called in reports. Lives for ever; there are as many as distinct handlers.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Label {
    /// The namespace; empty for hooks on HTTP requests.
    pub(crate) namespace: String,
    /// `event "chat"`, `connection handler` and the like.
    pub(crate) what: String,
}

impl Label {
    /// Handlers with names of their own.
    const MOST: usize = 10_000;
    /// The label of these words, the same one every time.
    pub(crate) fn of(namespace: &str, what: String) -> &'static Label {
        let wanted = Label { namespace: namespace.into(), what };
        let mut known = KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(label) = known.get(&wanted) {
            return label;
        }
        if known.len() >= Label::MOST {
            // Names made up as the program runs must not fill its memory.
            return &OTHER;
        }
        let label: &'static Label = Box::leak(Box::new(wanted));
        known.insert(label);
        label
    }

    /// The words of a label by its address, which is only compared.
    fn find(address: *const Label) -> String {
        let known = KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let label = known.iter().find(|label| std::ptr::eq(**label, address));
        label.map_or_else(|| "a handler".into(), |label| label.to_string())
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.what),
            namespace => write!(f, "{} in namespace {namespace}", self.what),
        }
    }
}

/// The note of one shard.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Handler calls so far.
    calls: AtomicU64,
    /// The handler that is running, or null.
    running: AtomicPtr<Label>,
}

impl Pulse {
    /// A handler begins.
    pub(crate) fn enter(&self, label: &'static Label) {
        // Only this shard writes, so a load and a store are enough.
        self.calls.store(self.calls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.running.store(std::ptr::from_ref(label).cast_mut(), Ordering::Release);
    }

    /// The handler has returned to the shard.
    pub(crate) fn leave(&self) {
        self.running.store(std::ptr::null_mut(), Ordering::Release);
    }
}

/// The watching thread; ends when dropped.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What was seen of one shard.
#[derive(Clone, Copy)]
struct Seen {
    calls: u64,
    since: Instant,
    is_reported: bool,
}

impl Watch {
    /// Watches `pulses`, one per shard; reports handlers that run longer than `limit`.
    pub(crate) fn start(pulses: Vec<Arc<Pulse>>, limit: Duration) -> std::io::Result<Watch> {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        let thread =
            std::thread::Builder::new().name("corecast-watch".into()).spawn(move || {
                let fresh = Seen { calls: 0, since: Instant::now(), is_reported: false };
                let mut seen = vec![fresh; pulses.len()];
                while !is_stopped.load(Ordering::Relaxed) {
                    for (shard, (pulse, seen)) in pulses.iter().zip(&mut seen).enumerate() {
                        look(shard, pulse, seen, limit);
                    }
                    std::thread::park_timeout(limit / 2);
                }
            })?;
        Ok(Watch { stop, thread: Some(thread) })
    }
}

fn look(shard: usize, pulse: &Pulse, seen: &mut Seen, limit: Duration) {
    let calls = pulse.calls.load(Ordering::Relaxed);
    let label = pulse.running.load(Ordering::Acquire);
    if calls != seen.calls || label.is_null() {
        *seen = Seen { calls, since: Instant::now(), is_reported: false };
    } else if !seen.is_reported && seen.since.elapsed() >= limit {
        seen.is_reported = true;
        let name = Label::find(label);
        log::warn!("shard {shard} is stalled: {name} has not returned for {limit:?}");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
