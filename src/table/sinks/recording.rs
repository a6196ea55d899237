//! What happened, in order.

use super::counting::thread_number;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::table::tlb::{Event, Tlb};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// How many rings there are; threads share one only if there are more of them.
const RINGS: usize = 64;

/// One recorded step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Place in the total order of all recorded steps.
    pub sequence: u64,
    /// Which thread, numbered in order of first use.
    pub thread: usize,
    /// What it did.
    pub event: Event,
}

/// Records events: a ring for each thread, one sequence number for all.
///
/// The number is drawn when the event is offered. Two steps of different threads that race are numbered in some order;
/// steps ordered by the protocol (a store after its TLBI, a free after its grace period) are numbered in that order. A
/// compare-exchange is offered after it was done and before its thread does anything else, so of two that race on one entry
/// the values tell which came first.
#[derive(Debug)]
pub struct Recording {
    next: AtomicU64,
    dropped: AtomicU64,
    capacity: usize,
    contents: bool,
    rings: Vec<Mutex<VecDeque<Record>>>,
}

impl Recording {
    /// Keeps the last `capacity` events of each thread.
    pub fn new(capacity: usize) -> Self {
        let rings = (0..RINGS).map(|_| Mutex::new(VecDeque::new())).collect();
        Self {
            next: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            capacity: capacity.max(1),
            contents: false,
            rings,
        }
    }

    /// And what stands in each table before it is linked ([`Event::Fill`]): with it a recording says everything that the
    /// table ever held.
    pub fn with_contents(self) -> Self {
        Self { contents: true, ..self }
    }

    /// Notes that the calling thread has returned from a call ([`Event::Return`]), if it did anything in it.
    pub fn returned(&self) {
        let thread = thread_number();
        let last = lock(&self.rings[thread % RINGS]).back().copied();
        if last.is_some_and(|last| last.thread != thread || last.event != Event::Return) {
            self.event(Event::Return);
        }
    }

    /// How many events were overwritten by later ones.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes what was recorded, in order.
    pub fn take(&self) -> Vec<Record> {
        let mut all: Vec<Record> = Vec::new();
        for ring in &self.rings {
            all.extend(lock(ring).drain(..));
        }
        all.sort_unstable_by_key(|record| record.sequence);
        all
    }
}

fn lock(ring: &Mutex<VecDeque<Record>>) -> impl core::ops::DerefMut<Target = VecDeque<Record>> + '_ {
    // A thread that panicked while pushing leaves a ring that is still a ring.
    ring.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Tlb for Recording {
    fn contents(&self) -> bool {
        self.contents
    }

    fn event(&self, event: Event) {
        let thread = thread_number();
        // AcqRel: one read-modify-write order over all threads, which the protocol's own ordering runs through.
        let sequence = self.next.fetch_add(1, Ordering::AcqRel);
        let mut ring = lock(&self.rings[thread % RINGS]);
        if ring.len() == self.capacity {
            ring.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        ring.push_back(Record {
            sequence,
            thread,
            event,
        });
    }
}
