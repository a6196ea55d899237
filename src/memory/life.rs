//! Which life of its frame a walker is in: how the models notice that a frame was freed under somebody.
//!
//! Under loom it is a cell without synchronisation of its own. Whoever finds a table or looks into it reads the cell, whoever
//! frees or fills the frame writes it, so loom fails the model where no order stands between the two, whichever came first,
//! and the search grows by nothing. The entries alone would not show that: they are atomics in a model, plain words in a real
//! memory as long as the frame is private. Elsewhere it is a number, looked at before and after.

#[cfg(loom)]
use crate::sync::is_unseen;
#[cfg(not(loom))]
use crate::sync::unseen::{AtomicU32, Ordering};
#[cfg(loom)]
use loom::cell::UnsafeCell;

#[cfg(loom)]
#[derive(Debug, Default)]
pub(super) struct Life(UnsafeCell<u32>);

// SAFETY: loom checks that accesses to the cell are ordered, which is what it is for.
#[cfg(loom)]
unsafe impl Send for Life {}
// SAFETY: as above.
#[cfg(loom)]
unsafe impl Sync for Life {}

#[cfg(loom)]
impl Life {
    /// By who reads an entry.
    pub(super) fn get(&self) -> u32 {
        if is_unseen() {
            return 0;
        }
        // SAFETY: loom fails the model before this is a data race.
        self.0.with(|life| unsafe { *life })
    }

    /// By who writes an entry of a frame that is his alone.
    pub(super) fn alone(&self) {
        if !is_unseen() {
            self.0.with_mut(|_| ());
        }
    }

    /// The frame is free.
    pub(super) fn end(&self) {
        if !is_unseen() {
            // SAFETY: as in `get`.
            self.0.with_mut(|life| unsafe { *life += 1 });
        }
    }
}

#[cfg(not(loom))]
#[derive(Debug, Default)]
pub(super) struct Life(AtomicU32);

#[cfg(not(loom))]
impl Life {
    /// By who reads an entry.
    pub(super) fn get(&self) -> u32 {
        // Relaxed: shuttle's threads run one at a time.
        self.0.load(Ordering::Relaxed)
    }

    /// By who writes an entry of a frame that is his alone.
    pub(super) fn alone(&self) {}

    /// The frame is free.
    pub(super) fn end(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
