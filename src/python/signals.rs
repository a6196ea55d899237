//! Long calls on arrays, part by part: between two parts Python looks for Ctrl-C.

use core::ops::Range;
use core::time::Duration;
use std::time::Instant;

use pyo3::prelude::*;

/// How long a call works, or waits, between two looks for Ctrl-C.
pub const BETWEEN_SIGNALS: Duration = Duration::from_millis(50);

/// When a part has taken long enough.
#[derive(Clone, Copy)]
pub struct Until(Instant);

impl Until {
    /// Whether it has.
    pub fn is_over(self) -> bool {
        self.0.elapsed() > BETWEEN_SIGNALS
    }
}

/// Has `work` do the elements from the start of the range on, until all are done or the time is over; it returns the first
/// one that it left, and stands behind those before it. What a signal handler raises ends the call in between.
pub fn in_parts(
    py: Python<'_>,
    count: usize,
    mut work: impl FnMut(Range<usize>, Until) -> PyResult<usize>,
) -> PyResult<()> {
    let mut start = 0;
    while start < count {
        start = work(start..count, Until(Instant::now()))?;
        py.check_signals()?;
    }
    Ok(())
}
