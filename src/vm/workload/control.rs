//! Watching a long run from another thread, and ending it.

use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// Progress of a run, and the wish that it end. Share it by reference with the thread that watches.
#[derive(Debug, Default)]
pub struct Control {
    cancelled: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
}

impl Control {
    /// Nothing done yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the run to end; it answers with an error soon after.
    pub fn cancel(&self) {
        // Relaxed, as all here: the flag and the figures order nothing else.
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Steps done and steps in all; the latter is zero before the run has counted them.
    pub fn progress(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    pub(crate) fn start(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// There is more to do than was thought.
    pub(crate) fn expect(&self, more: u64) {
        self.total.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, steps: u64) {
        self.done.fetch_add(steps, Ordering::Relaxed);
    }
}
