//! Taking translations away.

use super::View;
use super::batch::Batch;
use super::build::{Part, Piece};
use super::error::Error;
use super::frames::Reserve;
use super::reclaim::Access;
use super::tlb::Tlb;
use super::unlink::{Farewell, Unlink};
use super::walk::{At, Step, Visitor};
use super::way::{ByAccess, Way};
use crate::arch::{Geometry, Ipa, Level, Pte};
use crate::memory::TableMemory;
use core::borrow::Borrow;

/// The removed part of a block that is cut.
struct Nothing;

impl Piece for Nothing {
    fn piece(&self, _: Level, _: u64, _: Pte) -> Option<Pte> {
        Some(Pte::EMPTY)
    }

    fn step(&self, _: u64, _: u64, _: u64, _: u64) -> Option<u64> {
        Some(0)
    }

    fn fits(&self, _: Level) -> bool {
        true
    }
}

/// Counts what goes with a subtree.
struct Removed<'a> {
    geometry: &'a Geometry,
    bytes: u64,
}

impl Farewell for Removed<'_> {
    const ASKS: bool = false;

    fn leaves(&mut self, level: Level, count: u64) {
        self.bytes += count << self.geometry.shift(level);
    }
}

/// Removes what `only` selects.
pub(crate) struct Unmap<'m, M: TableMemory, F> {
    reserve: Reserve<'m, M>,
    /// `None`: everything goes, whole subtrees at once.
    only: Option<F>,
    removed: u64,
}

/// Whether a subtree may have more leaves than one break should freeze beside others: 2^18 pages, 1 GiB of 4K. Whoever faults in a
/// subtree waits while it is frozen, a millisecond for so many; one entry of level 0 would be half a second. KVM unmaps in
/// steps of its largest block for the same reason.
fn too_large<M: TableMemory, T: Tlb, A: Access>(view: &View<'_, M, T, A>, at: &At<'_>) -> bool {
    A::SHARED && at.size > view.core.config.geometry.granule().size() << 18
}

impl<M: TableMemory, T: Tlb, A: Access, F: Fn(Level, u64, Pte) -> bool> Visitor<M, T, A> for Unmap<'_, M, F> {
    const AFTER: bool = true;
    const UNLINKS: bool = true;

    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        batch: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        let level = at.level();
        if pte.is_empty() {
            return Ok(Step::Next);
        }
        if pte.is_table(level) {
            if !at.whole() || self.only.is_some() || too_large(view, &at) {
                return Ok(Step::Descend);
            }
            batch.flush(view, |_| Pte::EMPTY);
            let mut removed = Removed {
                geometry: &view.core.config.geometry,
                bytes: 0,
            };
            let unlinked = view.unlink(guard, at, pte, Pte::EMPTY, &mut removed)?;
            if unlinked != Unlink::Done {
                return Ok(Step::Retry);
            }
            self.removed += removed.bytes;
            return Ok(Step::Next);
        }
        if let Some(only) = &self.only
            && !only(level, at.base, pte)
        {
            return Ok(Step::Next);
        }
        if !pte.is_valid() && at.whole() {
            let new = Pte::EMPTY;
            return Ok(match view.mark(at.table, at.index, pte, new) {
                Ok(()) => Step::Next,
                Err(_) => Step::Retry,
            });
        }
        if at.whole() {
            mutated!(BatchTlbiFirst, view.invalidate_leaf(&at));
            if view.lock(at.table, at.index, pte).is_err() {
                return Ok(Step::Retry);
            }
            batch.add(at.table, at.index, Ipa::new(at.base), at.size);
            self.removed += at.size;
            return Ok(Step::Next);
        }
        batch.flush(view, |_| Pte::EMPTY);
        let done = view.cut(&mut self.reserve, at, pte, &Nothing)?;
        if done && pte.is_valid() {
            self.removed += at.bytes();
        }
        Ok(if done { Step::Next } else { Step::Retry })
    }

    fn after<'g>(&mut self, view: &'g View<'_, M, T, A>, guard: &'g A::Guard, at: At<'g>) {
        let geometry = &view.core.config.geometry;
        let Some(below) = at.level().deeper() else { return };
        let first = geometry.index(Ipa::new(at.lo), below);
        let last = geometry.index(Ipa::new(at.hi - 1), below);
        view.unlink_if_empty(guard, at, first, last + 1);
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Removes every translation of `size` bytes from `ipa`; both multiples of the page size.
    ///
    /// Holes are fine. A block of which the range covers a part is cut: the rest keeps its translation. Tables that
    /// become empty are unlinked and their frames freed, at once or after a grace period. Owner annotations go too.
    /// Returns the number of bytes that were mapped.
    ///
    /// Maintenance: one broadcast TLBI a table, complete before any entry is empty, so when this returns no CPU uses
    /// what was removed.
    ///
    /// With KVM's semantics blocks go whole, a LOCKED entry is passed over by a view that does not wait, and without FWB the
    /// memory behind is cleaned (one cache operation a leaf). TLBIs are one a leaf and one a table, or with FWB and range
    /// TLBIs one for all leaves.
    ///
    /// # Errors
    /// [`Error::Alignment`], [`Error::ZeroSize`], [`Error::Address`]; [`Error::OutOfFrames`] if a block at an end of the
    /// range cannot be cut. Nothing was removed then, save in the corner that [`map`](Self::map) names.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// assert_eq!(view.unmap(Ipa::new(0x1000), 0x1000)?, 0x1000); // of the block the rest stays
    /// assert_eq!(view.unmap(Ipa::new(0), 4 << 20)?, (2 << 20) - 0x1000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn unmap(&self, ipa: Ipa, size: u64) -> Result<u64, Error> {
        self.unmap_by(|| self.access.pin(), &ByAccess, ipa, size)
    }

    /// [`unmap`](Self::unmap), inside the table already or not, and from where it is known.
    #[inline(always)]
    pub(crate) fn unmap_by<G: Borrow<A::Guard>>(
        &self,
        enter: impl FnOnce() -> G,
        way: &impl Way,
        ipa: Ipa,
        size: u64,
    ) -> Result<u64, Error> {
        let end = self.check_range(ipa, size)?;
        if self.unmap_leaf(enter, way, ipa, size) {
            return Ok(size);
        }
        self.unmap_range(ipa, end)
    }

    /// The common case of a guest that gives single pages back: the range is one leaf. True if this removed it.
    #[inline(always)]
    fn unmap_leaf<G: Borrow<A::Guard>>(&self, enter: impl FnOnce() -> G, way: &impl Way, ipa: Ipa, size: u64) -> bool {
        let Some(level) = self.core.config.geometry.leaf_level(size) else {
            return false;
        };
        if !ipa.is_aligned(size) || self.kvm() {
            return false;
        }
        let guard = enter();
        let (table, index, leaf) = way.find(self, guard.borrow(), ipa, level);
        mutated!(
            UnmapTlbiFirst,
            self.invalidate_leaf(&At::leaf(table, index, ipa.get(), size))
        );
        if table.level != level || !leaf.is_leaf(level) || self.lock(table, index, leaf).is_err() {
            return false;
        }
        mutated!(
            UnmapUntold | UnmapTlbiFirst | UnmapMadeFirst,
            (),
            self.invalidate_leaf(&At::leaf(table, index, ipa.get(), size))
        );
        self.make(table, index, Pte::EMPTY);
        mutated!(
            UnmapMadeFirst,
            self.invalidate_leaf(&At::leaf(table, index, ipa.get(), size))
        );
        let last = mutated!(EmptyLeft, false, !self.has_neighbour(table, index));
        drop(guard);
        if last {
            self.unlink_behind(ipa, size);
        }
        true
    }

    /// The page that went may have been the last one of its table. What a peer has mapped there since stays.
    #[cold]
    fn unlink_behind(&self, ipa: Ipa, size: u64) {
        let nothing_more = self.unmap_only(ipa.get(), ipa.get() + size, |_, _, _| false);
        debug_assert!(
            matches!(nothing_more, Ok(0) | Err(Error::Again { .. })),
            "{nothing_more:?} of a range that is done"
        );
    }

    #[inline(never)]
    fn unmap_range(&self, ipa: Ipa, end: u64) -> Result<u64, Error> {
        if self.kvm() {
            return self.unmap_as_kvm(ipa.get(), end);
        }
        let mut reserve = self.reserve();
        self.reserve_for_edges(&mut reserve, ipa.get(), end, &Nothing, |_| true)?;
        let only: Option<fn(Level, u64, Pte) -> bool> = None;
        let mut visitor = Unmap {
            reserve,
            only,
            removed: 0,
        };
        self.walk(ipa.get(), end, &mut visitor)?;
        self.relieve();
        Ok(visitor.removed)
    }

    /// Removes the leaves of `start..end` that `only(level, base, entry)` selects, whole; the rest stays.
    pub(crate) fn unmap_only(
        &self,
        start: u64,
        end: u64,
        only: impl Fn(Level, u64, Pte) -> bool,
    ) -> Result<u64, Error> {
        let reserve = self.reserve();
        let mut visitor = Unmap {
            reserve,
            only: Some(only),
            removed: 0,
        };
        self.walk(start, end, &mut visitor)?;
        self.relieve();
        Ok(visitor.removed)
    }
}

/// Cutting blocks: what unmap, the attribute operations, map and split have in common.
impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Replaces the block `old` at `at` by a table in which the covered part is as `piece` says and the rest as before.
    /// False if a peer changed the entry first, and then nothing was done.
    pub(crate) fn cut(
        &self,
        reserve: &mut Reserve<'_, M>,
        at: At<'_>,
        old: Pte,
        piece: &impl Piece,
    ) -> Result<bool, Error> {
        match Part::behind(&at) {
            Some(part) => self.cut_part(reserve, at, part, old, piece),
            None => Ok(false),
        }
    }

    /// The same for a part that need not be the visited one.
    pub(crate) fn cut_part(
        &self,
        reserve: &mut Reserve<'_, M>,
        at: At<'_>,
        part: Part,
        old: Pte,
        piece: &impl Piece,
    ) -> Result<bool, Error> {
        mutated!(ReservedAfterBreak, {
            if self.lock(at.table, at.index, old).is_err() {
                return Ok(false);
            }
            reserve.ensure(self.tables_needed(part, piece))?;
            self.invalidate_leaf(&at);
            self.make(at.table, at.index, self.build(reserve, part, old, piece));
            self.publish_barrier();
            return Ok(true);
        });
        reserve.ensure(self.tables_needed(part, piece))?;
        let table = self.build(reserve, part, old, piece);
        mutated!(CutTlbiFirst, self.invalidate_leaf(&at));
        if self.lock(at.table, at.index, old).is_err() {
            self.discard(reserve, table, part.level);
            return Ok(false);
        }
        mutated!(CutUntold | CutTlbiFirst | CutMadeFirst, (), self.invalidate_leaf(&at));
        self.make(at.table, at.index, table);
        mutated!(CutMadeFirst, self.invalidate_leaf(&at));
        mutated!(PublishBarrierCut, (), self.publish_barrier());
        Ok(true)
    }

    /// Reserves what cutting the blocks at both ends of a range takes as the table is now, and where memory allows what it
    /// could take if peers merged something there.
    pub(crate) fn reserve_for_edges(
        &self,
        reserve: &mut Reserve<'_, M>,
        start: u64,
        end: u64,
        piece: &impl Piece,
        changes: impl Fn(Pte) -> bool,
    ) -> Result<(), Error> {
        let geometry = &self.core.config.geometry;
        // One page is one entry: if it must be cut, nothing was changed before.
        if end - start == geometry.granule().size() {
            return Ok(());
        }
        self.set_aside(reserve, self.frames_to_cut_edges(start, end, piece, changes)?)?;
        if A::SHARED {
            let blocks = Level::ALL
                .into_iter()
                .filter(|&level| !level.is_last() && geometry.block_allowed(level));
            let cut = |level| {
                [start, end]
                    .into_iter()
                    .filter(|edge| edge & (geometry.size(level) - 1) != 0)
                    .count()
            };
            reserve.spare(blocks.map(cut).sum());
        }
        Ok(())
    }

    /// Frames for cutting the blocks into which a range reaches with its first and its last page, as the table is now.
    /// Blocks that lie wholly inside are not cut; `changes(entry)` says whether a block is touched at all.
    fn frames_to_cut_edges(
        &self,
        start: u64,
        end: u64,
        piece: &impl Piece,
        changes: impl Fn(Pte) -> bool,
    ) -> Result<usize, Error> {
        let geometry = &self.core.config.geometry;
        let page = geometry.granule().size();
        let mut frames = 0;
        let mut counted_to = start;
        // The first page's block, then the last page's, unless it is the same block.
        for ipa in [start, end - page] {
            if ipa < counted_to {
                break;
            }
            let found = self.lookup(Ipa::new(ipa))?;
            let base = found.base.get();
            let hi = end.min(base + geometry.size(found.level));
            counted_to = hi;
            let (lo, size) = (start.max(base), geometry.size(found.level));
            // An owner's mark is cut as a block is. What a peer holds is his to count.
            let held = found.pte.is_locked() || found.pte.is_frozen();
            if found.pte.is_empty() || held || hi - lo == size || !changes(found.pte) {
                continue;
            }
            if let Some(level) = found.level.deeper() {
                frames += self.tables_needed(Part { level, base, lo, hi }, piece);
            }
        }
        Ok(frames)
    }
}
