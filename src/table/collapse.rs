//! Merging a full table back into the block that it spells out.

use super::View;
use super::batch::Batch;
use super::error::Error;
use super::reclaim::Access;
use super::tlb::Tlb;
use super::walk::{At, Step, Visitor};
use crate::arch::{Format, Geometry, Ipa, Level, Pte};
use crate::memory::TableMemory;

struct Collapse {
    blocks: u64,
}

/// What every entry of a table must be for the table to be one block: the one before plus a step, access flag aside.
/// (An aligned block's address bits run on in every format, see `build.rs`.)
#[derive(Clone, Copy)]
struct Uniform {
    first: Pte,
    step: u64,
}

impl Uniform {
    /// The block that a table with this first entry would be, if it is a leaf whose output is aligned.
    fn of(format: &Format, geometry: &Geometry, level: Level, first: Pte) -> Option<Self> {
        let above = level.shallower()?;
        let aligned = first.is_leaf(level) && format.output(first, level).is_aligned(geometry.size(above));
        aligned.then(|| Self {
            first: old(first),
            step: geometry.size(level),
        })
    }

    #[inline(always)]
    fn matches(self, index: usize, pte: Pte) -> bool {
        old(pte).raw() == self.first.raw() + index as u64 * self.step
    }
}

/// A leaf with its access flag clear.
fn old(pte: Pte) -> Pte {
    let aside = mutated!(CollapseDropsDirty, Format::AF_BIT | Format::WRITE_BIT, Format::AF_BIT);
    Pte::from_raw(pte.raw() & !aside)
}

impl<M: TableMemory, T: Tlb, A: Access> Visitor<M, T, A> for Collapse {
    const AFTER: bool = true;
    const MERGES: bool = true;

    fn entry<'g>(
        &mut self,
        _: &'g View<'_, M, T, A>,
        _: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        Ok(if pte.is_table(at.level()) {
            Step::Descend
        } else {
            Step::Next
        })
    }

    /// Children first: four full tables of pages may make four blocks that make one.
    fn after<'g>(&mut self, view: &'g View<'_, M, T, A>, guard: &'g A::Guard, at: At<'g>) {
        if at.whole() && view.core.config.geometry.block_allowed(at.level()) && view.merge(guard, at) {
            self.blocks += 1;
        }
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Merges every table inside the range that maps one contiguous output with equal attributes into a block, and blocks
    /// that become mergeable in turn. Translations stay; a block is young if any of its parts was.
    ///
    /// `ipa` and `size` (bytes) are multiples of the page size; tables that reach beyond the range stay. Returns how many
    /// blocks were made. A table that a peer changes meanwhile stays too.
    /// Maintenance: one broadcast TLBI a block (walk caches included), complete before the block is visible; its table is
    /// freed after a grace period.
    ///
    /// # Errors
    /// Errors of the range.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// for page in (0..2 << 20).step_by(0x1000) {
    ///     view.map(Ipa::new(page), 0x1000, Pa::new(page), &Attrs::new(Prot::RW), MapOptions::FAULT)?;
    /// }
    /// assert_eq!(view.collapse(Ipa::new(0), 2 << 20)?, 1);
    /// assert_eq!(view.lookup(Ipa::new(0))?.level, Level::L2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn collapse(&self, ipa: Ipa, size: u64) -> Result<u64, Error> {
        let end = self.check_range(ipa, size)?;
        let mut visitor = Collapse { blocks: 0 };
        self.walk(ipa.get(), end, &mut visitor)?;
        self.relieve();
        Ok(visitor.blocks)
    }

    /// Turns the table behind `at` into a block if it is full and uniform.
    pub(super) fn merge<'g>(&'g self, guard: &A::Guard, at: At<'g>) -> bool {
        let parent = self.load(at.table, at.index);
        if !parent.is_table(at.level()) {
            return false;
        }
        let child = self.child(at.table, parent);
        let (format, geometry) = (&self.core.format, &self.core.config.geometry);
        let first = self.load(child, 0);
        let Some(uniform) = Uniform::of(format, geometry, child.level, first) else {
            return false;
        };
        // A look before the break: a table that is not uniform should not make its readers wait.
        if !(0..child.len()).all(|index| uniform.matches(index, self.load(child, index))) {
            return false;
        }
        mutated!(CollapseTlbiFirst, self.invalidate_table(&at));
        if self.lock(at.table, at.index, parent).is_err() {
            return false;
        }
        let mut flags = 0;
        let uniform_still = self.freeze_if(at, parent, child, |index, last| {
            flags |= mutated!(CollapseDropsAf, 0, last.raw() & Format::AF_BIT);
            mutated!(CollapseUnchecked, true, uniform.matches(index, last))
        });
        if uniform_still {
            let block = format.relevel(uniform.first, child.level, at.level());
            mutated!(
                FreedBeforeTlbi,
                super::reclaim::free_subtree(self.core, child.pa, child.level)
            );
            mutated!(
                CollapseUntold | CollapseTlbiFirst | CollapseMadeFirst,
                (),
                self.invalidate_table(&at)
            );
            self.make_and_retire(guard, at, child, 1, Pte::from_raw(block.raw() | flags));
            mutated!(CollapseMadeFirst, self.invalidate_table(&at));
            mutated!(PublishBarrierMerge, (), self.publish_barrier());
        }
        uniform_still
    }
}
