//! Puts what is wanted into every entry of a range: the walk behind `map` and `annotate`.
//!
//! Frames are counted and set aside before the first change (`plan.rs`); then holes are filled, blocks cut, leaves changed in
//! place or broken, tables replaced by blocks. Where KVM's semantics differ in a step, it is in `install/kvm.rs`.

mod kvm;

use super::View;
use super::batch::Batch;
use super::build::Part;
use super::error::Error;
use super::frames::Reserve;
use super::maintenance::Stale;
use super::map::{Existing, MapOptions, Mapped};
use super::plan::{Plan, refuse_marks_below};
use super::reclaim::Access;
use super::semantics::WalkFlags;
use super::tlb::Tlb;
use super::unlink::{Making, Unlink};
use super::walk::{At, Step, Visitor};
use super::wanted::{Rights, Wanted};
use crate::arch::{Ipa, Level, Pte};
use crate::memory::TableMemory;

pub(crate) struct Map<'m, M: TableMemory, L> {
    leaves: L,
    options: MapOptions,
    reserve: Reserve<'m, M>,
    mapped: Mapped,
    /// Leaves whose rights were narrowed, and widened, in place.
    narrowed: Stale,
    widened: Stale,
    /// Whether `narrowed` is announced to peers.
    narrowing: bool,
    /// Everything before this address is done.
    reached: u64,
}

impl<M: TableMemory, T: Tlb, A: Access, L: Wanted> Visitor<M, T, A> for Map<'_, M, L> {
    const UNLINKS: bool = true;

    #[inline]
    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        batch: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        let level = at.level();
        let fits = at.whole() && self.leaves.fits(level);
        if !pte.is_valid() {
            mutated!(
                LockedFilled,
                if pte.is_locked() {
                    return self.fill_hole(view, at, pte, fits);
                }
            );
            if !pte.is_empty() && (self.options.existing != Existing::Replace || self.overrides_mark(view, fits)) {
                return self.occupied(at, pte);
            }
            // A larger mark that says what is wanted stays whole: no table was reserved to cut it.
            if !pte.is_empty() && level >= self.leaves.largest() && self.leaves.same(&at, pte) {
                self.mapped.kept += at.bytes();
                return Ok(Step::Next);
            }
            return self.fill_hole(view, at, pte, fits);
        }
        if pte.is_table(level) {
            let replace = self.options.existing == Existing::Replace
                || self.options.existing == Existing::Keep && self.options.over_tables;
            if !(fits && replace) {
                return Ok(Step::Descend);
            }
            batch.flush(view, |index| self.batched(view, &at, index));
            if view.kvm() && !L::MARKS {
                refuse_marks_below(view, at, pte)?;
            }
            let leaf = self.leaves.leaf(level, at.base);
            self.prepare(view, level, pte, leaf);
            let making = Making {
                new: leaf,
                silent: self.options.flags.contains(WalkFlags::SKIP_BBM_TLBI),
            };
            let mut marked = None;
            let unlinked = view.unlink(guard, at, pte, making, &mut |level, ipa, found: Pte| {
                let goes = L::MARKS || found.is_valid();
                if !goes {
                    marked = Some((level, ipa, found));
                }
                goes
            })?;
            if let (Unlink::Refused, Some((level, ipa, raw))) = (unlinked, marked) {
                let ipa = Ipa::new(ipa);
                return Err(Error::Conflict { ipa, level, raw });
            }
            return Ok(self.wrote(unlinked == Unlink::Done, &at));
        }
        if self.options.existing != Existing::Replace {
            return self.occupied(at, pte);
        }
        if view.kvm() {
            return self.replace_as_kvm(view, at, pte, fits);
        }
        self.replace(view, batch, at, pte, fits)
    }

    fn faulting(&self, view: &View<'_, M, T, A>) -> bool {
        !view.kvm() || self.options.flags.contains(WalkFlags::HANDLE_FAULT)
    }

    fn value(&self, level: Level, base: u64) -> Pte {
        self.leaves.leaf(level, base)
    }
}

impl<'m, M: TableMemory, L: Wanted> Map<'m, M, L> {
    /// A request that begins at `start`.
    pub(crate) fn new(leaves: L, options: MapOptions, reserve: Reserve<'m, M>, start: u64) -> Self {
        Self {
            leaves,
            options,
            reserve,
            mapped: Mapped::default(),
            narrowed: Stale::NONE,
            widened: Stale::NONE,
            narrowing: false,
            reached: start,
        }
    }

    /// A mapping does not take an owner's mark away by the way. KVM lets a leaf do that, and so do we in its place; what it
    /// would lose besides (the rest of a larger mark) is refused.
    fn overrides_mark<T: Tlb, A: Access>(&self, view: &View<'_, M, T, A>, fits: bool) -> bool {
        !(L::MARKS || view.kvm() && fits)
    }

    /// Cache maintenance of a new leaf.
    #[inline(always)]
    fn prepare<T: Tlb, A: Access>(&self, view: &View<'_, M, T, A>, level: Level, old: Pte, leaf: Pte) {
        if !self.options.flags.contains(WalkFlags::SKIP_CMO) {
            view.prepare_output(level, old, leaf);
        }
    }

    /// Something is there that the caller does not want to replace.
    fn occupied(&mut self, at: At<'_>, pte: Pte) -> Result<Step, Error> {
        if self.options.existing != Existing::Keep {
            return Err(Error::Conflict {
                ipa: at.ipa(),
                level: at.level(),
                raw: pte,
            });
        }
        self.mapped.kept += at.bytes();
        Ok(Step::Next)
    }

    #[inline(always)]
    fn wrote(&mut self, done: bool, at: &At<'_>) -> Step {
        if done {
            self.mapped.bytes += at.bytes();
            self.reached = at.hi;
            Step::Next
        } else {
            Step::Retry
        }
    }

    /// R2: one exchange links a leaf, or a table that is complete down to its last page.
    #[inline]
    fn fill_hole<T: Tlb, A: Access>(
        &mut self,
        view: &View<'_, M, T, A>,
        at: At<'_>,
        old: Pte,
        fits: bool,
    ) -> Result<Step, Error> {
        let level = at.level();
        if fits {
            let leaf = self.leaves.leaf(level, at.base);
            self.prepare(view, level, old, leaf);
            let done = if L::MARKS {
                view.mark(at.table, at.index, old, leaf).is_ok()
            } else {
                view.publish(at.table, at.index, old, leaf).is_ok()
            };
            return Ok(self.wrote(done, &at));
        }
        if view.kvm() {
            return self.link_empty(view, at, old);
        }
        // A level-3 entry always fits, so there is a level below.
        let Some(part) = Part::behind(&at) else {
            return Ok(Step::Retry);
        };
        self.reserve.ensure(view.tables_needed(part, &self.leaves))?;
        let table = view.build(&mut self.reserve, part, old, &self.leaves);
        self.prepare_span(view, &at);
        let done = mutated!(
            LinkedHollow,
            view.link_hollow(&at, old, table),
            view.publish(at.table, at.index, old, table)
        )
        .is_ok();
        if !done {
            view.discard(&mut self.reserve, table, part.level);
        }
        Ok(self.wrote(done, &at))
    }

    /// Cache maintenance for all pages of a part at once.
    #[inline(always)]
    fn prepare_span<T: Tlb, A: Access>(&self, view: &View<'_, M, T, A>, at: &At<'_>) {
        if let Some((pa, page)) = self.leaves.output(at.lo) {
            view.prepare_bytes(pa, at.bytes(), page);
        }
    }

    /// A leaf stands where the caller wants his own.
    fn replace<'g, T: Tlb, A: Access>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        batch: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
        fits: bool,
    ) -> Result<Step, Error> {
        let level = at.level();
        let leaf = self.leaves.leaf(level, at.base);
        if self.leaves.same(&at, pte) {
            // The same translation, perhaps in a larger piece than this request would have made.
            if level < self.leaves.largest() && !view.cut(&mut self.reserve, at, pte, &self.leaves)? {
                return Ok(Step::Retry);
            }
            if view.narrowed_by_peer(usize::from(self.narrowing)) {
                self.narrowed.add(Ipa::new(at.base), at.size, Some(level));
            }
            self.mapped.kept += at.bytes();
            return Ok(Step::Next);
        }
        if !fits {
            batch.flush(view, |index| self.batched(view, &at, index));
            self.prepare_span(view, &at);
            let done = view.cut(&mut self.reserve, at, pte, &self.leaves)?;
            return Ok(self.wrote(done, &at));
        }
        self.prepare(view, level, pte, leaf);
        let rights = Rights::of(&view.core.format);
        if mutated!(BreakSkipped, true, rights.only(pte, leaf)) {
            let narrows = rights.narrow(pte, leaf);
            if narrows && !self.narrowing {
                view.narrowing();
                self.narrowing = true;
            }
            let done = view.change(at.table, at.index, pte, leaf).is_ok();
            if done {
                let stale = if narrows { &mut self.narrowed } else { &mut self.widened };
                stale.add(Ipa::new(at.base), at.size, Some(level));
            }
            return Ok(self.wrote(done, &at));
        }
        mutated!(BatchTlbiFirst, view.invalidate_leaf(&at));
        let done = view.lock(at.table, at.index, pte).is_ok();
        if done {
            batch.add(at.table, at.index, Ipa::new(at.base), at.size);
        }
        Ok(self.wrote(done, &at))
    }

    /// The value of a batched entry of the table of `at`.
    fn batched<T: Tlb, A: Access>(&self, view: &View<'_, M, T, A>, at: &At<'_>, index: usize) -> Pte {
        let shift = view.core.config.geometry.shift(at.level());
        let base = at.base.wrapping_sub(((at.index - index) as u64) << shift);
        self.leaves.leaf(at.level(), base)
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Puts what is wanted into every entry of `start..end`.
    pub(crate) fn install<L: Wanted>(
        &self,
        start: u64,
        end: u64,
        leaves: L,
        options: MapOptions,
    ) -> Result<Mapped, Error> {
        let mut reserve = self.reserve();
        // KVM takes its frames on the way.
        if !self.kvm() && !self.single(start, end, &leaves, &options) {
            let mut plan = Plan {
                leaves,
                options,
                tables: 0,
            };
            self.walk(start, end, &mut plan)?;
            mutated!(PlanUnreserved, (), self.set_aside(&mut reserve, plan.tables)?);
            if A::SHARED {
                // And where memory allows, what it would take if peers emptied the whole range meanwhile.
                let level = self.core.config.geometry.start_level();
                let root = Part {
                    level,
                    base: 0,
                    lo: start,
                    hi: end,
                };
                reserve.spare(self.tables_needed(root, &leaves) - 1);
            }
        }
        if mutated!(ClaimShown, false, A::SHARED && !self.kvm()) && options.existing == Existing::Error {
            return self.claim(start, end, leaves, reserve);
        }
        let mut visitor = Map::new(leaves, options, reserve, start);
        let walked = self.walk(start, end, &mut visitor);
        mutated!(PublishBarrierMap, (), self.publish_barrier());
        mutated!(
            NarrowedEarly,
            if visitor.narrowing {
                self.narrowed()
            }
        );
        mutated!(NarrowUntold, (), self.invalidate(visitor.narrowed));
        if mutated!(NarrowedEarly, false, visitor.narrowing) {
            self.narrowed();
        }
        mutated!(WidenUntold, (), self.invalidate_local(visitor.widened));
        let (mapped, reached) = (visitor.mapped, visitor.reached);
        drop(visitor);
        self.relieve();
        match walked {
            Err(error) if mapped.bytes > 0 && options.existing == Existing::Error => {
                // KVM's semantics, which look at nothing before they begin. All that lies behind was a hole that this call
                // filled, and becomes a hole again; where a peer has changed it since, it is his.
                let waiting = View {
                    wait: true,
                    ..self.again()
                };
                let _ = waiting.unmap_only(start, reached, |level, base, pte| pte == leaves.leaf(level, base));
                Err(error)
            }
            Err(error) => Err(error),
            Ok(()) if mapped.bytes == 0 && options.existing == Existing::Keep => {
                let ipa = Ipa::new(start);
                Err(Error::Again {
                    ipa,
                    level: self.lookup(ipa)?.level,
                })
            }
            Ok(()) => Ok(mapped),
        }
    }

    /// The request is one change of one entry, whatever is there: it need not be planned, since nothing comes before the
    /// only step that can run out of frames.
    #[inline]
    fn single(&self, start: u64, end: u64, leaves: &impl Wanted, options: &MapOptions) -> bool {
        let geometry = &self.core.config.geometry;
        let size = end - start;
        if size == geometry.size(Level::L3) {
            return true;
        }
        let one_entry = || {
            let entry = |level: Level| size == geometry.size(level) && start & (size - 1) == 0 && leaves.fits(level);
            Level::ALL
                .into_iter()
                .any(|level| level >= geometry.start_level() && entry(level))
        };
        match options.existing {
            Existing::Replace => one_entry(),
            Existing::Keep => options.over_tables && one_entry(),
            Existing::Error => false,
        }
    }
}
