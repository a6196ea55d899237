//! The one place that names atomics, `Arc`, locks and threads.
//!
//! Everything else in the crate imports them from here, so that a build with `--cfg loom` or
//! `--cfg shuttle` runs the very same code on the model checker's primitives.

// Under loom too: counting owners is std's business, and loom's own would make each clone a step of the search.
#[cfg(not(shuttle))]
pub use alloc::sync::Arc;
#[cfg(not(any(loom, shuttle)))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

// Of std under the model checkers too: what it holds is read from the environment, or set once before a model's threads
// run, and is no step of a model.
#[cfg(shuttle)]
pub(crate) use shuttle::thread_local;
#[cfg(any(s2pt_faults, s2pt_mutations, all(feature = "std", not(loom))))]
pub(crate) use std::sync::OnceLock;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub(crate) use std::thread_local;

#[cfg(loom)]
mod explore;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(loom)]
mod search;
#[cfg(loom)]
pub mod threads;
#[cfg(loom)]
mod watched;
#[cfg(loom)]
pub use explore::{explore, explore_each};
#[cfg(loom)]
pub use loom::sync::atomic::Ordering;
#[cfg(loom)]
pub(crate) use search::{expected_threads, is_unseen, running};
#[cfg(loom)]
pub use threads as thread;
#[cfg(loom)]
pub use watched::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, fence};

#[cfg(shuttle)]
pub use shuttle::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use std::{
    sync::{Barrier, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError},
    thread,
};

// Of std: under loom nobody takes them, but they stand in what the models use.
#[cfg(all(test, loom))]
pub(crate) use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(shuttle)]
pub use shuttle::{
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    thread,
};

/// What a model checker does not see: no step of its search, no order between threads. Only for what orders nothing.
#[cfg(any(loom, shuttle, all(test, feature = "std")))]
pub(crate) mod unseen {
    pub(crate) use std::sync::Mutex;
    #[cfg(not(loom))]
    pub(crate) use std::sync::atomic::AtomicU32;
    #[cfg(not(loom))]
    pub(crate) use std::sync::atomic::Ordering;
    #[cfg(any(loom, shuttle))]
    pub(crate) use std::sync::{Arc, atomic::AtomicUsize};
}

/// How many threads an execution of a model will have: no fewer than `most`.
#[cfg(shuttle)]
pub(crate) const fn expected_threads(most: usize) -> usize {
    most
}

/// Waits for a peer, longer each time: spins, then yields, then (hosted) sleeps for microseconds.
///
/// A peer holds an entry LOCKED for one TLBI. On hardware that is a microsecond; under a sink that stalls, or with
/// more threads than cores, it is a time slice, and burning the core would keep the peer from running.
#[derive(Debug, Default)]
pub struct Backoff {
    step: u32,
}

impl Backoff {
    #[cfg(not(any(loom, shuttle)))]
    const SPIN_STEPS: u32 = 6;
    #[cfg(all(feature = "std", not(any(loom, shuttle))))]
    const YIELD_STEPS: u32 = 16;

    /// A fresh sequence of waits.
    pub const fn new() -> Self {
        Self { step: 0 }
    }

    /// Waits once.
    pub fn wait(&mut self) {
        self.step = self.step.saturating_add(1);
        #[cfg(loom)]
        search::wait();
        #[cfg(shuttle)]
        shuttle::thread::yield_now();
        #[cfg(not(any(loom, shuttle)))]
        self.wait_hosted();
    }

    #[cfg(not(any(loom, shuttle)))]
    fn wait_hosted(&self) {
        if self.step <= Self::SPIN_STEPS {
            for _ in 0..1u32 << self.step {
                core::hint::spin_loop();
            }
            return;
        }
        #[cfg(feature = "std")]
        if self.step <= Self::YIELD_STEPS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(core::time::Duration::from_micros(50));
        }
        #[cfg(not(feature = "std"))]
        for _ in 0..1u32 << Self::SPIN_STEPS {
            core::hint::spin_loop();
        }
    }
}

/// A number for reports. The protocol does not rest on it: it decides at most how long somebody waits and whether he asks
/// once more. So no model has to explore it: a real atomic under the model checkers too.
#[derive(Debug, Default)]
pub(crate) struct Statistic(core::sync::atomic::AtomicU64);

impl Statistic {
    /// Acquire: who sees what was added sees what was done before.
    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(core::sync::atomic::Ordering::Acquire)
    }

    pub(crate) fn set(&self, value: u64) {
        // Relaxed: the number is all there is.
        self.0.store(value, core::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn add(&self, more: u64) {
        // Release: see `get`.
        self.0.fetch_add(more, core::sync::atomic::Ordering::Release);
    }

    /// The largest value that was ever raised to.
    pub(crate) fn raise(&self, to: u64) {
        // Relaxed: the number is all there is.
        self.0.fetch_max(to, core::sync::atomic::Ordering::Relaxed);
    }
}

/// A number that nobody in this process was given before, from 1 on; it starts again after 2^32.
///
/// It names things and orders nothing, so it is a real atomic under the model checkers too.
pub fn unique_number() -> u32 {
    use core::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    // Relaxed: the number is all there is.
    NEXT.fetch_add(1, Ordering::Relaxed).max(1)
}
