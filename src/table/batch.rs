//! Entries of one table that this operation holds LOCKED, to be invalidated by one TLBI and made together (R5).

use super::View;
use super::entry::Table;
use super::maintenance::Stale;
use super::reclaim::Access;
use super::tlb::Tlb;
use crate::arch::Ipa;
use crate::memory::TableMemory;

/// The most entries locked at once: a whole table of the 4K granule. Small enough to be cleared for every single page.
const MOST: usize = 512;

/// A set of locked entries of one table, taken in ascending order (R10).
pub(crate) struct Batch<'g> {
    table: Option<Table<'g>>,
    first: usize,
    last: usize,
    /// One bit an entry between `first` and `last`; only ours are made again, peers may hold others.
    ours: [u64; MOST / 64],
    stale: Stale,
}

impl<'g> Batch<'g> {
    pub(crate) fn new() -> Self {
        Self {
            table: None,
            first: 0,
            last: 0,
            ours: [0; MOST / 64],
            stale: Stale::NONE,
        }
    }

    /// Adds an entry that the caller has just locked; it translated `bytes` at `base`.
    #[inline]
    pub(crate) fn add(&mut self, table: Table<'g>, index: usize, base: Ipa, bytes: u64) {
        if self.table.is_none() {
            self.table = Some(table);
            self.first = index;
        }
        self.last = index;
        let bit = index - self.first;
        self.ours[bit / 64] |= 1 << (bit % 64);
        self.stale.add(base, bytes, Some(table.level));
    }

    /// Nothing is locked.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_none()
    }

    /// Whether `index` still fits the set; tables of larger granules and concatenated roots are taken in parts.
    #[inline]
    pub(crate) fn has_room(&self, index: usize) -> bool {
        self.table.is_none() || index - self.first < MOST
    }

    /// Invalidates what the entries translated, then makes each of them by `value(index)`.
    #[inline(never)]
    pub(crate) fn flush<M: TableMemory, T: Tlb, A: Access>(
        &mut self,
        view: &View<'_, M, T, A>,
        mut value: impl FnMut(usize) -> crate::arch::Pte,
    ) {
        let Some(table) = self.table.take() else { return };
        mutated!(
            RemovedUntold | ReplacedUntold | BatchTlbiFirst | BatchMadeFirst,
            return self.flush_wrongly(view, table, value)
        );
        view.invalidate(self.stale);
        self.stale = Stale::NONE;
        let words = (self.last - self.first) / 64 + 1;
        for word in 0..words {
            let mut bits = core::mem::take(&mut self.ours[word]);
            mutated!(
                BatchMakesPeers,
                bits = (0..64)
                    .filter(|bit| self.first + 64 * word + bit <= self.last)
                    .filter(|bit| view.load(table, self.first + 64 * word + bit).is_locked())
                    .fold(0, |bits, bit| bits | 1 << bit)
            );
            while bits != 0 {
                let index = self.first + 64 * word + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                view.make(table, index, value(index));
            }
        }
    }

    /// What mutations do in place of a flush.
    #[cfg(s2pt_mutations)]
    fn flush_wrongly<M: TableMemory, T: Tlb, A: Access>(
        &mut self,
        view: &View<'_, M, T, A>,
        table: Table<'g>,
        mut value: impl FnMut(usize) -> crate::arch::Pte,
    ) {
        let stale = core::mem::replace(&mut self.stale, Stale::NONE);
        let replaced = value(self.first).is_valid();
        let silent = mutated!(RemovedUntold, !replaced, mutated!(ReplacedUntold, replaced, true));
        if !silent {
            view.invalidate(stale);
        }
        for index in self.first..=self.last {
            let bit = index - self.first;
            if self.ours[bit / 64] >> (bit % 64) & 1 != 0 {
                view.make(table, index, value(index));
            }
        }
        self.ours = [0; MOST / 64];
        mutated!(BatchMadeFirst, view.invalidate(stale));
    }
}
