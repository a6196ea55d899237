//! Where the walk for one address begins: at the root, or at the tables in which the last one ended.
//!
//! Neighbours are asked for one after the other: a guest touches its pages in order, a bitmap is harvested from front
//! to back. Who remembers the leaf table that he saw last, and the table above it, needs one load for a neighbour and
//! two for an address that is near, instead of one a level.
//!
//! It stays right under these rules. Beside others only who [stays](super::Stay) in the table may remember, until he
//! repins: so long the frames are not freed. A walk that begins there is in no other place than one that came down from
//! the root a moment earlier and was held up: if the table was unlinked meanwhile, its entries are FROZEN (R6), which
//! every load shows, and the walk begins again at the root. Exclusive access freezes nothing and frees at once; but
//! then all that is freed is freed by the same view or one made of it, which is counted.

use super::View;
use super::entry::{Seen, Table};
use super::reclaim::Access;
use super::tlb::Tlb;
use crate::arch::{Ipa, Level, Pte};
use crate::memory::TableMemory;
use crate::sync::Ordering;
use core::cell::Cell;

/// How the entry at which the walk for an address ends is found.
pub(crate) trait Way {
    /// The entry at which the walk for `ipa` ends, at `last` or above, as it is at this moment.
    fn find<'g, M: TableMemory, T: Tlb, A: Access>(
        &self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        ipa: Ipa,
        last: Level,
    ) -> (Table<'g>, usize, Pte);
}

/// For a single call: from the root beside others, by the view's own trail alone.
pub(crate) struct ByAccess;

impl Way for ByAccess {
    #[inline(always)]
    fn find<'g, M: TableMemory, T: Tlb, A: Access>(
        &self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        ipa: Ipa,
        last: Level,
    ) -> (Table<'g>, usize, Pte) {
        if A::SHARED {
            view.descend(guard, ipa, last)
        } else {
            view.trail.find(view, guard, ipa, last)
        }
    }
}

/// A table that was seen, and the addresses behind it: those with these upper bits, which none has at first.
struct Mark(Cell<(u64, Seen)>);

impl Default for Mark {
    fn default() -> Self {
        Self(Cell::new((u64::MAX, Seen::default())))
    }
}

impl Mark {
    /// The table, if these are the upper bits of what is behind it.
    #[inline(always)]
    fn of(&self, span: u64) -> Option<Seen> {
        let (of, seen) = self.0.get();
        (of == span).then_some(seen)
    }

    #[inline(always)]
    fn set(&self, span: u64, table: Table<'_>) {
        self.0.set((span, table.seen()));
    }

    fn forget(&self) {
        self.0.set((u64::MAX, Seen::default()));
    }
}

/// The last leaf table and the last table above one.
#[derive(Default)]
pub(crate) struct Trail {
    leaf: Mark,
    above: Mark,
    /// Subtrees freed by exclusive access when the marks were set.
    freed: Cell<usize>,
}

impl Trail {
    pub(crate) fn forget(&self) {
        self.leaf.forget();
        self.above.forget();
    }

    /// Forgets what may have been freed.
    #[inline(always)]
    fn refresh<M: TableMemory, T: Tlb, A: Access>(&self, view: &View<'_, M, T, A>) {
        if !A::SHARED {
            // Relaxed: written by this thread.
            let freed = view.core.freed.load(Ordering::Relaxed);
            if freed != self.freed.replace(freed) {
                self.forget();
            }
        }
    }

    /// Not behind the last leaf table.
    #[inline(always)]
    fn find_near<'g, M: TableMemory, T: Tlb, A: Access>(
        &self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        ipa: Ipa,
        last: Level,
    ) -> (Table<'g>, usize, Pte) {
        let geometry = &view.core.config.geometry;
        let span = ipa.get() >> (geometry.shift(Level::L1) & 63);
        let mut above = None;
        // The root may be at that level itself, and is at hand anyway.
        if let Some(seen) = self.above.of(span)
            && last >= Level::L2
        {
            let table = view.table_again(guard, seen, Level::L2);
            let index = geometry.index(ipa, Level::L2);
            let entry = view.load(table, index);
            let usable = mutated!(TrailAboveFrozen, true, !entry.is_frozen());
            above = usable.then_some((table, index, entry));
        }
        let (table, index, entry) = above.unwrap_or_else(|| {
            let end = view.descend(guard, ipa, last.min(Level::L2));
            if end.0.level == Level::L2 && geometry.start_level() != Level::L2 {
                self.above.set(span, end.0);
            }
            end
        });
        if last <= Level::L2 || table.level != Level::L2 || !entry.is_table_above_pages() {
            return (table, index, entry);
        }
        let table = view.child(table, entry);
        let index = geometry.index(ipa, Level::L3);
        self.leaf.set(ipa.get() >> (geometry.shift(Level::L2) & 63), table);
        (table, index, view.load(table, index))
    }
}

impl Way for Trail {
    #[inline(always)]
    fn find<'g, M: TableMemory, T: Tlb, A: Access>(
        &self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        ipa: Ipa,
        last: Level,
    ) -> (Table<'g>, usize, Pte) {
        self.refresh(view);
        let geometry = &view.core.config.geometry;
        if let Some(seen) = self.leaf.of(ipa.get() >> (geometry.shift(Level::L2) & 63))
            && last.is_last()
        {
            let table = view.table_again(guard, seen, Level::L3);
            let index = geometry.index(ipa, Level::L3);
            let pte = view.load(table, index);
            if mutated!(TrailFrozen, true, !pte.is_frozen()) {
                return (table, index, pte);
            }
        }
        self.find_near(view, guard, ipa, last)
    }
}
