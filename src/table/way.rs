//! Where the walk for one address begins: at the root, or at the table in which the last one ended.
//!
//! Neighbours are asked for one after the other: a guest touches its pages in order, a bitmap is harvested from front
//! to back. As long as a thread [stays](super::Stay) in the table, the leaf table that it saw last cannot be freed, so
//! the next address behind the same table costs one load instead of one a level.
//!
//! It stays right, too. A walk that begins there is in no other place than one that came down from the root a moment
//! earlier and was held up: if the table was unlinked meanwhile, its entries are FROZEN (R6), which is seen by every
//! load, and the walk begins again at the root. Exclusive access freezes nothing and frees at once, so it remembers
//! nothing.

use super::View;
use super::entry::{Seen, Table};
use super::reclaim::Access;
use super::tlb::Tlb;
use crate::arch::{Ipa, Level, Pte};
use crate::memory::TableMemory;
use core::cell::Cell;

/// How the entry at which the walk for an address ends is found.
pub(crate) trait Way {
    /// The entry at `last` for `ipa`, or above if the walk ends there, as it is at this moment.
    fn find<'g, M: TableMemory, T: Tlb, A: Access>(
        &self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        ipa: Ipa,
        last: Level,
    ) -> (Table<'g>, usize, Pte);
}

/// From the root, always.
pub(crate) struct FromRoot;

impl Way for FromRoot {
    #[inline(always)]
    fn find<'g, M: TableMemory, T: Tlb, A: Access>(
        &self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        ipa: Ipa,
        last: Level,
    ) -> (Table<'g>, usize, Pte) {
        view.descend_to(guard, ipa, last)
    }
}

/// From the leaf table that was seen last, if the address lies behind it. To be forgotten when the guard is repinned.
#[derive(Default)]
pub(crate) struct FromLast(Cell<Option<(u64, Seen)>>);

impl FromLast {
    pub(crate) fn forget(&self) {
        self.0.set(None);
    }
}

impl Way for FromLast {
    #[inline(always)]
    fn find<'g, M: TableMemory, T: Tlb, A: Access>(
        &self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        ipa: Ipa,
        last: Level,
    ) -> (Table<'g>, usize, Pte) {
        let geometry = &view.core.config.geometry;
        let span = ipa.get() >> (geometry.shift(Level::L2) & 63);
        if let Some((of, seen)) = self.0.get()
            && of == span
            && last.is_last()
        {
            let table = view.table_again(guard, seen);
            let index = geometry.index(ipa, Level::L3);
            let pte = view.load(table, index);
            if !pte.is_frozen() {
                return (table, index, pte);
            }
        }
        let end = view.descend_to(guard, ipa, last);
        if A::SHARED && end.0.level.is_last() {
            self.0.set(Some((span, end.0.seen())));
        }
        end
    }
}
