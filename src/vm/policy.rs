//! Who waits for whom: the three lock policies, over one and the same table.
//!
//! Two kinds of sections exist. A *fault* installs or changes one mapping. A *change* by the host (take-back, slot
//! change, write protection, ageing) concerns a range.
//!
//! | policy | a fault | a change | stands for |
//! |---|---|---|---|
//! | `Serial` | takes the one lock exclusively | the same | KVM before the parallel faults |
//! | `Parallel` | shares the lock | takes it exclusively | KVM with them |
//! | `Lockless` | marks its own cache line | waits for nobody, except as below | this crate |
//!
//! A few changes need more than an atomic table: after a take-back or a slot change, no fault that still works with
//! the old state may install anything. All three policies solve that alike. The change first makes itself visible (the
//! invalidation sequence, the number of the slot set), then *settles*: it waits until every fault section that may
//! have begun before has ended. A fault, inside its section, looks whether something became visible since it looked up
//! what it is about to install; if so it installs nothing and retries. With a lock, settling is taking it. Without, each
//! vCPU has a marker, a word on a line of its own, that names the page while its section lasts; settling reads all of
//! them and waits for those near the range. Nothing that can wait runs inside a section (the host's page is looked up
//! before it, LOCKED entries answer `Again`), so the wait is as short as one entry operation. Faults never wait.
//!
//! Why one side always sees the other: the fault stores its marker and then loads the sequence, the change stores the
//! sequence and then loads the marker, all four sequentially consistent. In their one total order either the store of
//! the fault comes before the load of the change, which then waits, or the store of the change comes before the load of
//! the fault, which then retries.

use core::time::Duration;

use crate::arch::Ipa;
use crate::sync::{Arc, AtomicU64, Backoff, Mutex, Ordering, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How faults and changes by the host exclude one another. See the table in the layer's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// One exclusive lock for every fault and every change, as in KVM before its parallel faults (Linux 6.1).
    Serial,
    /// Faults share the lock, everything else excludes: KVM since Linux 6.2.
    Parallel,
    /// No lock: take-back, write protection, ageing and dirty logging run beside the faults.
    #[default]
    Lockless,
}

impl Policy {
    /// All policies, in the order of their age.
    pub const ALL: [Self; 3] = [Self::Serial, Self::Parallel, Self::Lockless];

    /// Its name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Parallel => "parallel",
            Self::Lockless => "lockless",
        }
    }
}

/// The page that a vCPU's fault section works on, if it is in one: page number (40 bits), a counter that tells one
/// section from the next (23 bits), one bit that says "inside". Written by its vCPU alone; on a line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Marker(AtomicU64);

impl Marker {
    const INSIDE: u64 = 1;
    const COUNT: u64 = ((1 << 23) - 1) << 1;
    const PAGE_SHIFT: u32 = 24;

    #[inline]
    fn enter(&self, ipa: Ipa) {
        let count = (self.0.load(Ordering::Relaxed) + 2) & Self::COUNT;
        // SeqCst: the store of the module's argument.
        self.0.store(
            (ipa.get() >> 12) << Self::PAGE_SHIFT | count | Self::INSIDE,
            mutated!(MarkerRelease, Ordering::Release, Ordering::SeqCst),
        );
    }

    #[inline]
    fn leave(&self) {
        // Release: what the section installed is visible to whoever saw it end.
        self.0
            .store(self.0.load(Ordering::Relaxed) & Self::COUNT, Ordering::Release);
    }

    /// What the marker says, if a section near `range` is under way.
    fn inside(&self, range: &Near) -> Option<u64> {
        // SeqCst: the load of the module's argument; it acquires what an ended section installed.
        let seen = self.0.load(Ordering::SeqCst);
        (seen & Self::INSIDE != 0 && range.covers((seen >> Self::PAGE_SHIFT) << 12)).then_some(seen)
    }
}

/// The faults that concern a range: those whose largest possible mapping overlaps it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Near {
    first: u64,
    last: u64,
}

impl Near {
    /// The range [`start`, `end`), not empty, grown to whole windows of `window` bytes (a power of two).
    pub(crate) const fn new(start: u64, end: u64, window: u64) -> Self {
        Self {
            first: start & !(window - 1),
            last: (end - 1) | (window - 1),
        }
    }

    const fn covers(&self, ipa: u64) -> bool {
        self.first <= ipa && ipa <= self.last
    }
}

/// Where faults and changes meet.
#[derive(Debug)]
pub(crate) struct Gate {
    policy: Policy,
    lock: RwLock<()>,
    markers: Mutex<Vec<Arc<Marker>>>,
    /// How often a change found a section to wait for.
    waits: AtomicU64,
    /// Nanoseconds for which a change held the lock, at most.
    longest_hold: AtomicU64,
}

/// A fault section, as long as it lives.
pub(crate) enum FaultSection<'g> {
    #[expect(dead_code, reason = "held for its drop")]
    Exclusive(RwLockWriteGuard<'g, ()>),
    #[expect(dead_code, reason = "held for its drop")]
    Shared(RwLockReadGuard<'g, ()>),
    Marked(&'g Marker),
}

impl Drop for FaultSection<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Self::Marked(marker) = self {
            marker.leave();
        }
    }
}

/// A change under way, as long as it lives: with the lock, or free.
pub(crate) struct ChangeSection<'g>(Option<Held<'g>>);

struct Held<'g> {
    gate: &'g Gate,
    since: std::time::Instant,
    _lock: RwLockWriteGuard<'g, ()>,
}

impl Drop for ChangeSection<'_> {
    fn drop(&mut self) {
        if let Some(held) = &self.0 {
            let nanos = u64::try_from(held.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            held.gate.longest_hold.fetch_max(nanos, Ordering::Relaxed); // a figure for reports, orders nothing
        }
    }
}

impl Gate {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            lock: RwLock::new(()),
            markers: Mutex::default(),
            waits: AtomicU64::new(0),
            longest_hold: AtomicU64::new(0),
        }
    }

    /// A marker for a new vCPU. It is forgotten some time after the vCPU has let go of it.
    pub(crate) fn register(&self) -> Arc<Marker> {
        let marker = Arc::new(Marker::default());
        let mut markers = self.markers.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody is in a section of a marker that only this list has, or ever will be. What its vCPU installed is visible to
        // whoever takes this lock next: letting go of the marker came after it, and dropping the last reference acquires that.
        markers.retain(|marker| Arc::strong_count(marker) > 1);
        markers.push(Arc::clone(&marker));
        marker
    }

    /// Begins a fault section for `ipa`.
    #[inline]
    pub(crate) fn fault<'g>(&'g self, marker: &'g Marker, ipa: Ipa) -> FaultSection<'g> {
        // The lock guards no data, so a poisoned one is as good as new.
        match self.policy {
            Policy::Serial => FaultSection::Exclusive(self.lock.write().unwrap_or_else(PoisonError::into_inner)),
            Policy::Parallel => FaultSection::Shared(self.lock.read().unwrap_or_else(PoisonError::into_inner)),
            Policy::Lockless => {
                marker.enter(ipa);
                FaultSection::Marked(marker)
            }
        }
    }

    /// Begins a change that need not settle: whatever order it and a fault take, both orders are right.
    pub(crate) fn change(&self) -> ChangeSection<'_> {
        if self.policy == Policy::Lockless {
            return ChangeSection(None);
        }
        let lock = self.lock.write().unwrap_or_else(PoisonError::into_inner);
        ChangeSection(Some(Held {
            gate: self,
            since: std::time::Instant::now(),
            _lock: lock,
        }))
    }

    /// Begins a change after everything that it made visible: no fault section near the range that could have missed
    /// it is under way when this returns.
    pub(crate) fn change_settled(&self, near: Near) -> ChangeSection<'_> {
        if mutated!(SettleSkipped, false, self.policy == Policy::Lockless) {
            self.wait_for_sections(near);
        }
        self.change()
    }

    #[cold]
    fn wait_for_sections(&self, near: Near) {
        let markers = self.markers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for marker in markers {
            let Some(seen) = marker.inside(&near) else { continue };
            self.waits.fetch_add(1, Ordering::Relaxed);
            let mut backoff = Backoff::new();
            // The next section of the same vCPU has another count: it began after the change was visible.
            while marker.inside(&near) == Some(seen) {
                backoff.wait();
            }
        }
    }

    /// How often a change had to wait for a fault section (`Lockless` only).
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// The longest time for which a change excluded all faults.
    pub(crate) fn longest_hold(&self) -> Duration {
        Duration::from_nanos(self.longest_hold.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn markers_of_vcpus_that_are_gone_are_forgotten() {
        let gate = Gate::new(Policy::Lockless);
        let kept = gate.register();
        for _ in 0..100 {
            drop(gate.register());
        }
        let last = gate.register();
        let markers = gate.markers.lock().unwrap();
        assert_eq!(markers.len(), 2);
        assert!(Arc::ptr_eq(&markers[0], &kept) && Arc::ptr_eq(&markers[1], &last));
    }
}
