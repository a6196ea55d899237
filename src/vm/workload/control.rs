//! Watching a long run from another thread, and ending it.

use core::fmt::Display;
use core::time::Duration;
use std::time::Instant;

use super::crew::NoThreads;
use super::error::WorkloadError;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, PoisonError, thread};
use crate::vm::Error;

/// Progress of a run, and the wish that it end. Share it by reference with the thread that watches.
#[derive(Debug, Default)]
pub struct Control {
    cancelled: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    step: Mutex<String>,
}

/// How long a wish to end may be unheard.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

impl Control {
    /// Nothing done yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the run to end; soon after it answers with what it has found so far.
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

    /// What the run is at, in a word or two; empty before it has begun.
    pub fn step(&self) -> String {
        self.step.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn enter(&self, step: impl Display) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step.to_string();
    }

    /// Whether to go on, for those who pass an error upwards.
    pub(crate) fn go_on<E>(&self) -> Result<(), Stop<E>> {
        if self.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        Ok(())
    }

    /// Waits; a wish to end is heard soon.
    pub(crate) fn sleep<E>(&self, time: Duration) -> Result<(), Stop<E>> {
        let end = Instant::now() + time;
        loop {
            self.go_on()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(BETWEEN_LOOKS));
        }
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

/// Why a step was not done to its end. Only the second is an error: who asks a run to end gets what it has found so far.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop<E> {
    /// Somebody asked the run to end.
    Cancelled,
    /// It cannot go on.
    Failed(E),
}

impl<E> From<E> for Stop<E> {
    fn from(reason: E) -> Self {
        Self::Failed(reason)
    }
}

/// Why a step of a workload was not done to its end.
pub(crate) type Ended = Stop<WorkloadError>;

impl From<Error> for Ended {
    fn from(reason: Error) -> Self {
        Self::Failed(reason.into())
    }
}

impl From<NoThreads> for Ended {
    fn from(reason: NoThreads) -> Self {
        Self::Failed(reason.into())
    }
}

/// Whether a run that ended so came to its end.
pub(crate) fn completed<E>(ended: Result<(), Stop<E>>) -> Result<bool, E> {
    match ended {
        Ok(()) => Ok(true),
        Err(Stop::Cancelled) => Ok(false),
        Err(Stop::Failed(reason)) => Err(reason),
    }
}
