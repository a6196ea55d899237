//! The measured part of a run.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time of the calling thread: what others run meanwhile does not count.
fn worked() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime)
        .try_into()
        .expect("a time since the thread's start")
}

/// Runs `body` and says how long it worked.
pub fn measure(mut body: impl FnMut()) -> Duration {
    let start = worked();
    measured_region(&mut body);
    worked() - start
}

/// What callgrind is to count: `valgrind --tool=callgrind --toggle-collect='*measured_region*'`.
#[inline(never)]
fn measured_region(body: &mut dyn FnMut()) {
    body();
    // Keeps the call above from becoming a jump, which callgrind would take for the end of this function.
    black_box(());
}

/// Nanoseconds of each of `operations` that took `time` together.
pub fn per_operation(time: Duration, operations: u64) -> f64 {
    time.as_nanos() as f64 / operations as f64
}
