//! Taking a whole subtree out of the tree with one break (R6).
//!
//! The parent entry is LOCKED, so nobody new comes in. Then every entry below is frozen, in ascending order: peers who
//! are already inside find FROZEN and start again at the root, where they meet the parent. Freezing yields each last
//! value, so whatever a peer wrote before is seen: it is removed with the rest, or the unlink is called off.

use super::View;
use super::entry::Table;
use super::error::Error;
use super::maintenance::Stale;
use super::reclaim::{Access, Unlinked};
use super::tlb::{Event, Tlb};
use super::walk::At;
use crate::arch::{Ipa, Level, Pte};
use crate::memory::TableMemory;
use crate::sync::{Backoff, Ordering, fence};

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Replaces the TABLE entry `old` at `at` by `new` and retires everything below; `leaf` is told of every leaf that
    /// went. False if a peer changed the entry first, and then nothing was done.
    ///
    /// # Errors
    /// [`Error::Again`] if an entry below is LOCKED and this view does not wait: everything is as it was.
    pub(crate) fn unlink<'g>(
        &'g self,
        guard: &A::Guard,
        at: At<'g>,
        old: Pte,
        new: Pte,
        leaf: &mut impl FnMut(Level, Pte),
    ) -> Result<bool, Error> {
        if self.lock(at.table, at.index, old).is_err() {
            return Ok(false);
        }
        let child = self.child(at.table, old);
        match self.freeze_all(child, leaf) {
            Some(frames) => {
                self.finish_unlink(guard, at, child, frames, new);
                Ok(true)
            }
            None => {
                self.thaw_all(child);
                self.make(at.table, at.index, old);
                Err(Error::Again {
                    ipa: at.ipa(),
                    level: at.level(),
                })
            }
        }
    }

    /// The second half: everything below is frozen; invalidate, make, retire.
    pub(crate) fn finish_unlink(&self, guard: &A::Guard, at: At<'_>, child: Table<'_>, frames: usize, new: Pte) {
        let mut stale = Stale::NONE;
        // No level hint: leaves of any level, and walk caches, were filled from here.
        stale.add(Ipa::new(at.base), at.size, None);
        self.invalidate(stale);
        self.make(at.table, at.index, new);
        let unlinked = Unlinked {
            pa: child.pa,
            level: child.level,
            frames,
        };
        if T::ACTIVE {
            self.core.tlb.event(Event::Retire {
                frame: unlinked.pa,
                level: unlinked.level,
            });
        }
        self.access.retire(guard, self.core, unlinked);
    }

    /// Freezes a table and all below it. Returns the number of frames; `None` if it came to an entry that it must not
    /// wait for, and then all before that entry is frozen.
    fn freeze_all(&self, table: Table<'_>, leaf: &mut impl FnMut(Level, Pte)) -> Option<usize> {
        let mut frames = 1;
        for index in 0..table.len() {
            let last = self.freeze(table, index)?;
            if last.is_table(table.level) {
                frames += self.freeze_all(self.child(table, last), leaf)?;
            } else if last.is_valid() {
                leaf(table.level, last);
            }
        }
        Some(frames)
    }

    /// Undoes a [`freeze_all`](Self::freeze_all) that stopped half way, deepest first.
    fn thaw_all(&self, table: Table<'_>) {
        for index in 0..table.len() {
            let frozen = self.load(table, index);
            // Only the caller freezes below an entry that he holds, so the first other one is where he stopped.
            if !frozen.is_frozen() {
                return;
            }
            let value = frozen.thaw();
            if value.is_table(table.level) {
                self.thaw_all(self.child(table, value));
            }
            self.thaw(table, index);
        }
    }

    /// Freezes the entries of one table as long as `keep_on(index, value)` says so. True if all are frozen; otherwise
    /// they are as they were, and the parent entry `at` holds `parent` again.
    ///
    /// The caller holds `at` LOCKED.
    pub(crate) fn freeze_if(
        &self,
        at: At<'_>,
        parent: Pte,
        child: Table<'_>,
        mut keep_on: impl FnMut(usize, Pte) -> bool,
    ) -> bool {
        for index in 0..child.len() {
            let last = self.freeze(child, index);
            if !last.is_some_and(|last| keep_on(index, last)) {
                let frozen = index + usize::from(last.is_some());
                (0..frozen).for_each(|index| self.thaw(child, index));
                self.make(at.table, at.index, parent);
                return false;
            }
        }
        true
    }

    /// Unlinks the table behind `at` if nothing is left in it.
    ///
    /// The look before the freeze is a hint: the neighbours of the emptied entries `first..next` come first, since a range
    /// is taken away page by page, in either direction, as often as at once. The fence makes two peers who empty the
    /// last two entries at the same time not both miss it.
    pub(crate) fn unlink_if_empty<'g>(&'g self, guard: &A::Guard, at: At<'g>, first: usize, next: usize) {
        let mut backoff = Backoff::new();
        let mut old = self.load(at.table, at.index);
        // A peer who tries to merge or unlink this table will call that off if it has become empty meanwhile, and nobody
        // would look again. The caller holds nothing, so he may wait for a holder above (R10).
        while old.is_locked() && self.wait {
            backoff.wait();
            old = self.load(at.table, at.index);
        }
        if !old.is_table(at.level()) {
            return;
        }
        let child = self.child(at.table, old);
        if A::SHARED {
            fence(Ordering::SeqCst);
        }
        let len = child.len();
        let empty = |index: usize| self.load(child, index % len).is_empty();
        if !empty(first + len - 1) || !(next..next + len).all(empty) {
            return;
        }
        if self.lock(at.table, at.index, old).is_err() {
            return;
        }
        if self.freeze_if(at, old, child, |_, last| last.is_empty()) {
            self.finish_unlink(guard, at, child, 1, Pte::EMPTY);
        }
    }
}
