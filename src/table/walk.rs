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
use core::ops::Range;

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

impl<'g> At<'g> {
    /// A leaf that is visited whole.
    #[inline(always)]
    pub(crate) fn leaf(table: Table<'g>, index: usize, base: u64, size: u64) -> Self {
        Self {
            table,
            index,
            base,
            size,
            lo: base,
            hi: base + size,
        }
    }

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
    /// Whether [`after`](Self::after) does anything.
    const AFTER: bool = false;

    /// Whether `after` must see each table that the range covers as one visit, however long the walk.
    const WHOLE_TABLES: bool = false;

    /// Whether `after` makes blocks of tables, and must see each table that can become one as one visit.
    const MERGES: bool = false;

    /// Whether the visitor takes whole tables out of the tree.
    const UNLINKS: bool = false;

    /// The visitor changes nothing, so a LOCKED entry that is not waited for is shown to it like an empty one.
    const LOOKS_ONLY: bool = false;

    /// An entry that is neither LOCKED nor FROZEN, save for visitors that only look. A table entry of which the range
    /// covers a part may be descended into without being shown. Entries that the visitor locks go into `batch`.
    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        batch: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error>;

    /// Deals with entries of a table of pages at once: those with these indices, of which the first translates `base`, as
    /// far as it can. Returns how many are done; the rest is visited one by one.
    #[inline(always)]
    fn run<'g>(&mut self, _view: &'g View<'_, M, T, A>, _table: Table<'g>, _: Range<usize>, _base: u64) -> usize {
        0
    }

    /// What a LOCKED entry is to a walk that does not wait: true ends it with `Again`, as on a fault; false passes over the
    /// entry, as KVM's other walks do.
    fn faulting(&self, _view: &View<'_, M, T, A>) -> bool {
        true
    }

    /// Lets go of entries that the visitor itself holds LOCKED: the walk is about to wait, or to leave the table (R10).
    #[inline(always)]
    fn release(&mut self, _view: &View<'_, M, T, A>, _guard: &A::Guard) {}

    /// The value with which a batched entry is made.
    fn value(&self, _level: Level, _base: u64) -> Pte {
        Pte::EMPTY
    }

    /// The walk has come back from the table behind an entry.
    fn after<'g>(&mut self, _view: &'g View<'_, M, T, A>, _guard: &'g A::Guard, _at: At<'g>) {}
}

/// Tables visited before a long walk lets go of its epoch.
const TABLES_A_STAY: u32 = 256;

/// How a visit of one table ended.
enum End {
    /// All of the part is done.
    Done,
    /// The table was unlinked under the walk; everything before this address is done.
    Unlinked { at: u64, level: Level },
    /// The walk has stayed long enough; everything before this address is done.
    Tired { at: u64 },
    /// The memory had no frames for this address; everything before it is done.
    Starved { at: u64, error: Error },
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Visits `start..end`, in ascending order.
    #[inline]
    pub(crate) fn walk<V: Visitor<M, T, A>>(&self, start: u64, end: u64, visitor: &mut V) -> Result<(), Error> {
        let mut guard = self.access.pin();
        let mut cursor = start;
        let mut backoff = Backoff::new();
        let mut restarts = 0;
        let mut freed = self.freed();
        loop {
            let ended = self.visit(&guard, cursor, end, visitor);
            visitor.release(self, &guard);
            match ended? {
                End::Done => return Ok(()),
                End::Tired { at } => {
                    cursor = at;
                    if V::UNLINKS || V::MERGES {
                        self.access.outside(&mut guard, || self.relieve());
                    }
                }
                End::Starved { at, error } => {
                    cursor = at;
                    if !self.access.outside(&mut guard, || self.relief(&mut freed)) {
                        return Err(error);
                    }
                }
                End::Unlinked { at, level } => {
                    restarts = if cursor == at { restarts + 1 } else { 1 };
                    // Once may be a table that is gone; again means that a peer is at it, and that he is waited for.
                    if restarts > 1 && !self.wait {
                        return Err(Error::Again {
                            ipa: Ipa::new(at),
                            level,
                        });
                    }
                    cursor = at;
                    backoff.wait();
                }
            }
            self.access.repin(&mut guard);
        }
    }

    /// One walk from the root. Straight down while one table entry holds all of the range: a single page costs a load
    /// a level and nothing else.
    #[inline]
    fn visit<'g, V: Visitor<M, T, A>>(
        &'g self,
        guard: &'g A::Guard,
        start: u64,
        end: u64,
        visitor: &mut V,
    ) -> Result<End, Error> {
        let geometry = &self.core.config.geometry;
        let mut table = self.root_table(guard);
        let mut path = [None; 5];
        let mut depth = 0;
        loop {
            let size = geometry.size(table.level);
            let base = start & !(size - 1);
            let (lo, hi) = (start, end);
            if hi - base > size || hi - lo == size {
                break;
            }
            let index = geometry.index(Ipa::new(start), table.level);
            let pte = self.load(table, index);
            if !pte.is_table(table.level) {
                break;
            }
            if V::AFTER {
                path[depth] = Some(At {
                    table,
                    index,
                    base,
                    size,
                    lo,
                    hi,
                });
                depth += 1;
            }
            table = self.child(table, pte);
        }
        let ended = self.visit_table(guard, table, start, end, visitor, &mut 0)?;
        if V::AFTER && matches!(ended, End::Done) {
            for at in path[..depth].iter().rev().flatten() {
                visitor.after(self, guard, *at);
            }
        }
        Ok(ended)
    }

    /// Visits the part `ipa..end` of one table and of those below.
    fn visit_table<'g, V: Visitor<M, T, A>>(
        &'g self,
        guard: &'g A::Guard,
        table: Table<'g>,
        mut ipa: u64,
        end: u64,
        visitor: &mut V,
        visited: &mut u32,
    ) -> Result<End, Error> {
        let geometry = &self.core.config.geometry;
        let level = table.level;
        let size = geometry.size(level);
        let mut index = geometry.index(Ipa::new(ipa), level);
        let mut base = ipa & !(size - 1);
        // Where entry 0 would translate; wraps harmlessly when it lies below address 0 of nothing.
        let origin = base.wrapping_sub((index as u64) << geometry.shift(level));
        let mut batch = Batch::new();
        let mut backoff = Backoff::new();
        if level.is_last() {
            let last = index + ((end - ipa) >> geometry.shift(level)) as usize;
            let done = visitor.run(self, table, index..last, base);
            index += done;
            base += (done as u64) << geometry.shift(level);
            ipa = base;
        }
        while ipa < end {
            let pte = self.load(table, index);
            let at = At {
                table,
                index,
                base,
                size,
                lo: ipa,
                hi: end.min(base + size),
            };
            if !pte.is_valid() {
                if mutated!(LockedShown, false, pte.is_locked()) {
                    mutated!(HeldAtLocked, (), self.finish(&mut batch, visitor, origin, level));
                    mutated!(LockedSkipped, {
                        ipa = at.hi;
                        base = ipa;
                        index += 1;
                        continue;
                    });
                    // Who is alone in the table and meets one waits for nobody: its holder died between break and make.
                    if mutated!(LockedNotAwaited, false, self.wait && A::SHARED) {
                        mutated!(KvmHeldAtLocked, (), visitor.release(self, guard));
                        backoff.wait();
                        continue;
                    }
                    if !V::LOOKS_ONLY {
                        if visitor.faulting(self) {
                            return Err(Error::Again { ipa: at.ipa(), level });
                        }
                        ipa = at.hi;
                        base = ipa;
                        index += 1;
                        continue;
                    }
                }
                if mutated!(FrozenShown, false, pte.is_frozen()) {
                    mutated!(
                        HeldAtFrozen,
                        batch = Batch::new(),
                        self.finish(&mut batch, visitor, origin, level)
                    );
                    mutated!(FrozenSkipped, {
                        ipa = at.hi;
                        base = ipa;
                        index += 1;
                        continue;
                    });
                    return Ok(End::Unlinked { at: ipa, level });
                }
            }
            if !batch.has_room(index) {
                self.finish(&mut batch, visitor, origin, level);
            }
            match visitor.entry(self, guard, &mut batch, at, pte) {
                Ok(Step::Next) if V::UNLINKS && pte.is_table(level) => {
                    // What went should not have to wait for the end of the walk to be freed.
                    let gone = if size > geometry.size(Level::L2) {
                        TABLES_A_STAY
                    } else {
                        1
                    };
                    *visited = visited.saturating_add(gone);
                    if *visited >= TABLES_A_STAY && at.hi < end {
                        self.finish(&mut batch, visitor, origin, level);
                        return Ok(End::Tired { at: at.hi });
                    }
                }
                Ok(Step::Next) => {}
                Ok(Step::Retry) => mutated!(RetryForgotten, {}, continue),
                Ok(Step::Descend) => {
                    self.finish(&mut batch, visitor, origin, level);
                    let child = self.child(table, pte);
                    let ended = self.visit_table(guard, child, ipa, at.hi, visitor, visited)?;
                    if !matches!(ended, End::Done) {
                        return Ok(ended);
                    }
                    if V::AFTER {
                        visitor.after(self, guard, at);
                    }
                    *visited += 1;
                    let whole = V::WHOLE_TABLES || V::MERGES && self.block_above(level);
                    if *visited >= TABLES_A_STAY && at.hi < end && !whole {
                        return Ok(End::Tired { at: at.hi });
                    }
                }
                Err(error) => {
                    self.finish(&mut batch, visitor, origin, level);
                    return match error {
                        Error::OutOfFrames { .. } if A::SHARED => Ok(End::Starved { at: ipa, error }),
                        _ => Err(error),
                    };
                }
            }
            ipa = at.hi;
            base = ipa;
            index += 1;
        }
        self.finish(&mut batch, visitor, origin, level);
        Ok(End::Done)
    }

    /// Whether a block can stand above this level, so that its tables may become one.
    fn block_above(&self, level: Level) -> bool {
        let geometry = &self.core.config.geometry;
        Level::ALL
            .into_iter()
            .any(|above| above < level && geometry.block_allowed(above))
    }

    /// Invalidates and makes what the walk holds LOCKED.
    #[inline(always)]
    fn finish<'g, V: Visitor<M, T, A>>(&self, batch: &mut Batch<'g>, visitor: &V, origin: u64, level: Level) {
        if batch.is_empty() {
            return;
        }
        let shift = self.core.config.geometry.shift(level);
        batch.flush(self, |index| {
            visitor.value(level, origin.wrapping_add((index as u64) << shift))
        });
    }
}
