//! What happened on a machine, in one order.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::judge::ViolationKind;
use crate::arch::{AccessKind, Fault, Ipa, Pa, Pte};
use crate::sync::{AtomicU64, Mutex, Ordering, PoisonError};
use crate::table::Event;

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the order of everything on this machine.
    pub sequence: u64,
    /// The CPU that did it; `None`: the software, on whatever thread.
    pub cpu: Option<usize>,
    /// What it was.
    pub what: What,
}

/// What a machine notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A step of the software.
    Step(Event),
    /// An access that got through, and the physical address it went to.
    Access {
        /// Which kind.
        kind: AccessKind,
        /// Where, for the guest.
        ipa: Ipa,
        /// Where, in memory.
        pa: Pa,
    },
    /// An access that did not.
    Fault(Fault),
    /// A walk ended at a leaf, which the CPU keeps.
    Fill {
        /// For which address.
        ipa: Ipa,
        /// Where the leaf was read.
        entry: Pa,
        /// The leaf.
        leaf: Pte,
    },
    /// Hardware wrote access flag or dirty state into a leaf.
    Update {
        /// Where.
        entry: Pa,
        /// What it was.
        old: Pte,
        /// What it is.
        new: Pte,
    },
    /// A rule was broken.
    Violation(ViolationKind),
}

/// The last of it.
#[derive(Debug)]
pub(super) struct Log {
    next: AtomicU64,
    capacity: usize,
    ring: Mutex<VecDeque<Entry>>,
}

impl Log {
    /// Keeps the last `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        Self {
            next: AtomicU64::new(0),
            capacity,
            ring: Mutex::new(VecDeque::new()),
        }
    }

    pub fn add(&self, cpu: Option<usize>, what: What) -> u64 {
        if self.capacity == 0 {
            // Relaxed: only the number matters.
            return self.next.fetch_add(1, Ordering::Relaxed);
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: drawn under the lock, so that the ring is in order.
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        if ring.len() == self.capacity {
            ring.pop_front();
        }
        ring.push_back(Entry { sequence, cpu, what });
        sequence
    }

    pub fn entries(&self) -> Vec<Entry> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().copied().collect()
    }
}
