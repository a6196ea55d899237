//! Walks a range entry by entry and carries out what a visitor decides.
//!
//! The walk reads each entry once a visit (R1) and deals with what is common to all operations: LOCKED entries are
//! waited for (or answered with `Again`), FROZEN ones mean that this table was unlinked, so the walk starts again at the
//! root, at the address that it had reached. Everything behind that address is done, so an operation never does a
//! part twice. Before the walk waits, descends or leaves, it finishes the entries that it holds LOCKED (R10).

use super::View;
use super::batch::Batch;
use super::entry::Table;
use super::error::Error;
use super::reclaim::Access;
use super::tlb::Tlb;
use crate::arch::{Ipa, Level, Pte};
use crate::memory::TableMemory;
use crate::sync::Backoff;

/// The entry being visited, and the part of the range that it covers.
#[derive(Clone, Copy)]
pub(crate) struct At<'g> {
    pub(crate) table: Table<'g>,
    pub(crate) index: usize,
    /// First IPA that the entry translates.
    pub(crate) base: u64,
    /// Bytes that the entry translates.
    pub(crate) size: u64,
    /// The visited part: `lo..hi`.
    pub(crate) lo: u64,
    pub(crate) hi: u64,
}

impl At<'_> {
    /// The range covers all that the entry translates.
    #[inline]
    pub(crate) fn whole(&self) -> bool {
        self.hi - self.lo == self.size
    }

    #[inline]
    pub(crate) fn level(&self) -> Level {
        self.table.level
    }

    #[inline]
    pub(crate) fn bytes(&self) -> u64 {
        self.hi - self.lo
    }

    #[inline]
    pub(crate) fn ipa(&self) -> Ipa {
        Ipa::new(self.lo)
    }
}

/// What to do after an entry.
pub(crate) enum Step {
    /// Done with it.
    Next,
    /// A peer changed it between the read and the exchange: read it again.
    Retry,
    /// It is a table: visit what is in it.
    Descend,
}

/// Decides what happens to each entry of a range.
pub(crate) trait Visitor<M: TableMemory, T: Tlb, A: Access> {
    /// An entry that is neither LOCKED nor FROZEN. Entries that the visitor locks go into `batch`.
    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        batch: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error>;

    /// The value with which a batched entry is made.
    fn value(&self, _level: Level, _base: u64) -> Pte {
        Pte::EMPTY
    }

    /// The walk has come back from the table behind an entry.
    fn after<'g>(&mut self, _view: &'g View<'_, M, T, A>, _guard: &'g A::Guard, _at: At<'g>) {}
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Visits `start..end`, in ascending order.
    #[inline]
    pub(crate) fn walk<V: Visitor<M, T, A>>(&self, start: u64, end: u64, visitor: &mut V) -> Result<(), Error> {
        let mut guard = self.access.pin();
        let mut cursor = start;
        let mut backoff = Backoff::new();
        loop {
            // A long walk lets go of the epoch now and then, where it holds no table.
            let stop = end.min((cursor | (self.core.step - 1)).saturating_add(1));
            let root = self.root_table(&guard);
            match self.visit_table(&guard, root, cursor, stop, visitor)? {
                None if stop == end => return Ok(()),
                None => cursor = stop,
                Some(unlinked_at) => {
                    cursor = unlinked_at;
                    backoff.wait();
                }
            }
            self.access.repin(&mut guard);
        }
    }

    /// Visits the part `ipa..end` of one table. `Some(ipa)`: the table was unlinked, everything before `ipa` is done.
    fn visit_table<'g, V: Visitor<M, T, A>>(
        &'g self,
        guard: &'g A::Guard,
        table: Table<'g>,
        mut ipa: u64,
        end: u64,
        visitor: &mut V,
    ) -> Result<Option<u64>, Error> {
        let geometry = &self.core.config.geometry;
        let level = table.level;
        let size = geometry.size(level);
        let first = geometry.index(Ipa::new(ipa), level);
        let first_base = ipa & !(size - 1);
        let mut batch = Batch::new();
        let mut backoff = Backoff::new();
        while ipa < end {
            let base = ipa & !(size - 1);
            let index = first + ((base - first_base) >> geometry.shift(level)) as usize;
            let pte = self.load(table, index);
            if !pte.is_valid() {
                if pte.is_locked() {
                    self.finish(&mut batch, visitor, first, first_base, level);
                    if !self.wait {
                        return Err(Error::Again {
                            ipa: Ipa::new(ipa),
                            level,
                        });
                    }
                    backoff.wait();
                    continue;
                }
                if pte.is_frozen() {
                    self.finish(&mut batch, visitor, first, first_base, level);
                    return Ok(Some(ipa));
                }
            }
            let at = At {
                table,
                index,
                base,
                size,
                lo: ipa,
                hi: end.min(base + size),
            };
            if !batch.has_room(index) {
                self.finish(&mut batch, visitor, first, first_base, level);
            }
            match visitor.entry(self, guard, &mut batch, at, pte) {
                Ok(Step::Next) => ipa = at.hi,
                Ok(Step::Retry) => {}
                Ok(Step::Descend) => {
                    self.finish(&mut batch, visitor, first, first_base, level);
                    let child = self.child(table, pte);
                    if let Some(unlinked_at) = self.visit_table(guard, child, ipa, at.hi, visitor)? {
                        return Ok(Some(unlinked_at));
                    }
                    visitor.after(self, guard, at);
                    ipa = at.hi;
                }
                Err(error) => {
                    self.finish(&mut batch, visitor, first, first_base, level);
                    return Err(error);
                }
            }
        }
        self.finish(&mut batch, visitor, first, first_base, level);
        Ok(None)
    }

    /// Invalidates and makes what the walk holds LOCKED.
    #[inline]
    fn finish<'g, V: Visitor<M, T, A>>(
        &self,
        batch: &mut Batch<'g>,
        visitor: &V,
        first: usize,
        first_base: u64,
        level: Level,
    ) {
        let shift = self.core.config.geometry.shift(level);
        batch.flush(self, |index| {
            visitor.value(level, first_base + (((index - first) as u64) << shift))
        });
    }
}
