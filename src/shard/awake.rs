//! Against what glommio 0.9 sleeps through (docs/decisions.md): when its preemption timer fires
//! between being armed and the first look at the tasks, the executor parks over tasks that are
//! ready. Only what its reactor waits for wakes it then, so here there is always a timer.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use glommio::timer::Timer;
use glommio::{Latency, Shares};

/// For an executor that is to call [`run`]: no thread is kept from its CPU for so long between two
/// instructions, so its first task is never slept over.
pub(crate) const START_PREEMPTION: Duration = Duration::from_secs(3_600);
/// Longest time for which ready tasks run before glommio looks at timers and files.
const PREEMPTION: Duration = Duration::from_millis(2);
/// Alarms until the task has begun: each doubles the time, so they cover four seconds.
const ALARMS: u32 = 11;

/// Runs `future` as a task that is preempted in time, as are those that it spawns. The task of the
/// caller only waits.
pub(crate) async fn run<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    let latency = Latency::Matters(PREEMPTION);
    let queue = glommio::executor().create_task_queue(Shares::default(), latency, "shard");
    let has_begun = Rc::new(Cell::new(false));
    let begun = has_begun.clone();
    let task = glommio::spawn_local_into(
        async move {
            begun.set(true);
            future.await
        },
        queue,
    );
    // The queue was created just now; without it nothing of this executor runs at all.
    let mut task = pin!(task.expect("a queue of this executor"));
    let mut alarms: Vec<Timer> =
        (0..ALARMS).map(|count| Timer::new(Duration::from_millis(2 << count))).collect();
    poll_fn(|cx| {
        if has_begun.get() {
            alarms.clear();
        }
        for alarm in &mut alarms {
            let _ = Pin::new(alarm).poll(cx);
        }
        task.as_mut().poll(cx)
    })
    .await
}

/// Awaits something of glommio's at the end of a shard, looking again every few milliseconds. After
/// a second it lets go; what is left then is one descriptor, not a shard that never ends.
pub(crate) async fn await_end<T>(mut future: Pin<Box<dyn Future<Output = T> + '_>>) {
    for _ in 0..200 {
        let mut timer = Timer::new(Duration::from_millis(5));
        let is_done = poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending => Pin::new(&mut timer).poll(cx).map(|_| false),
        });
        if is_done.await {
            return;
        }
    }
}
