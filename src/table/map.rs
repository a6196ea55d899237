//! Mapping a range: what a fault does for one page, and what a loader does for a terabyte.

use super::View;
use super::batch::Batch;
use super::build::{Part, Piece, Reserve};
use super::error::Error;
use super::maintenance::Stale;
use super::reclaim::Access;
use super::tlb::Tlb;
use super::walk::{At, Step, Visitor};
use crate::arch::{Attrs, Format, Geometry, Ipa, Level, Pa, Pte};
use crate::memory::TableMemory;

/// What `map` does where something is mapped already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Existing {
    /// It makes way: changed in place where only permissions differ, by break-before-make otherwise.
    #[default]
    Replace,
    /// It stays; only holes are filled. This is the fault path: a peer was faster.
    Keep,
    /// It is an error, and nothing is mapped at all.
    Error,
}

/// How to map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapOptions {
    /// What to do where something is mapped.
    pub existing: Existing,
    /// The smallest level number that a leaf may have, which is the largest block: `Some(Level::L3)` forces pages.
    /// `None`: whatever the geometry allows.
    pub largest: Option<Level>,
    /// With [`Existing::Keep`]: where a block fits, it may take the place of a table and what is mapped in it.
    pub over_tables: bool,
}

impl MapOptions {
    /// A fault: fill the hole, leave alone what a peer mapped meanwhile.
    pub const FAULT: Self = Self {
        existing: Existing::Keep,
        largest: None,
        over_tables: false,
    };
}

/// What a `map` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Bytes whose translation was written.
    pub bytes: u64,
    /// Bytes that were mapped and stay as they were: the same translation already, or kept.
    pub kept: u64,
}

/// The leaves of one request: where each may stand and what it holds.
#[derive(Clone, Copy)]
struct Leaves<'t> {
    geometry: &'t Geometry,
    format: &'t Format,
    /// Leaf bits without output address, by kind.
    block: u64,
    page: u64,
    /// PA minus IPA, wrapping.
    offset: u64,
    largest: Level,
}

impl Leaves<'_> {
    #[inline(always)]
    fn leaf(&self, level: Level, ipa: u64) -> Pte {
        let bits = if level.is_last() { self.page } else { self.block };
        Pte::from_raw(bits | self.format.output_bits(Pa::new(ipa.wrapping_add(self.offset))))
    }

    /// The leaf `pte` at `at` translates as this request asks, wherever the two overlap.
    #[inline]
    fn same(&self, at: &At<'_>, pte: Pte) -> bool {
        let aligned = at.base.wrapping_add(self.offset) & (at.size - 1) == 0;
        aligned && pte == self.leaf(at.level(), at.base)
    }
}

impl Piece for Leaves<'_> {
    #[inline(always)]
    fn piece(&self, level: Level, ipa: u64, _: Pte) -> Option<Pte> {
        self.fits(level, ipa).then(|| self.leaf(level, ipa))
    }

    fn step(&self, lo: u64, hi: u64, _: u64) -> Option<u64> {
        // Below bit 48 every format has the address bits in one run; the bits above must not change on the way.
        let (first, last) = (lo.wrapping_add(self.offset), (hi - 1).wrapping_add(self.offset));
        ((first ^ last) >> 48 == 0).then(|| self.geometry.size(Level::L3))
    }

    #[inline(always)]
    fn fits(&self, level: Level, ipa: u64) -> bool {
        level.is_last()
            || level >= self.largest
                && self.geometry.block_allowed(level)
                && ipa.wrapping_add(self.offset) & (self.geometry.size(level) - 1) == 0
    }
}

struct Map<'m, M: TableMemory> {
    leaves: Leaves<'m>,
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

impl<M: TableMemory, T: Tlb, A: Access> Visitor<M, T, A> for Map<'_, M> {
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
        let fits = at.whole() && self.leaves.fits(level, at.base);
        if !pte.is_valid() {
            if !pte.is_empty() && self.options.existing != Existing::Replace {
                return self.occupied(at, pte);
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
            let leaf = self.leaves.leaf(level, at.base);
            view.prepare_output(level, pte, leaf);
            let done = view.unlink(guard, at, pte, leaf, &mut |_, _| {})?;
            return Ok(self.wrote(done, &at));
        }
        if self.options.existing != Existing::Replace {
            return self.occupied(at, pte);
        }
        self.replace(view, batch, at, pte, fits)
    }

    fn value(&self, level: Level, base: u64) -> Pte {
        self.leaves.leaf(level, base)
    }
}

impl<M: TableMemory> Map<'_, M> {
    /// Something is there that the caller does not want to replace.
    fn occupied(&mut self, at: At<'_>, pte: Pte) -> Result<Step, Error> {
        if self.options.existing == Existing::Error {
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
            view.prepare_output(level, old, leaf);
            let done = view.publish(at.table, at.index, old, leaf).is_ok();
            return Ok(self.wrote(done, &at));
        }
        // A level-3 entry always fits, so there is a level below.
        let Some(part) = Part::behind(&at) else {
            return Ok(Step::Retry);
        };
        self.reserve.ensure(view.tables_needed(part, &self.leaves))?;
        let table = view.build(&mut self.reserve, part, old, &self.leaves);
        self.prepare_span(view, &at);
        let done = view.publish(at.table, at.index, old, table).is_ok();
        if !done {
            view.discard(&mut self.reserve, table, part.level);
        }
        Ok(self.wrote(done, &at))
    }

    /// Cache maintenance for all pages of a part at once.
    #[inline(always)]
    fn prepare_span<T: Tlb, A: Access>(&self, view: &View<'_, M, T, A>, at: &At<'_>) {
        let pa = Pa::new(at.lo.wrapping_add(self.leaves.offset));
        view.prepare_bytes(pa, at.bytes(), Pte::from_raw(self.leaves.page));
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
            if level < self.leaves.largest && !view.cut(&mut self.reserve, at, pte, &self.leaves)? {
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
        view.prepare_output(level, pte, leaf);
        let rights = Rights::of(&view.core.format);
        if rights.only(pte, leaf) {
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

/// The part of a leaf that may change in place (R4).
struct Rights<'a>(&'a Format);

impl<'a> Rights<'a> {
    fn of(format: &'a Format) -> Self {
        Self(format)
    }

    /// The two leaves differ in permissions, access flag, dirty state or software bits at most.
    fn only(&self, old: Pte, new: Pte) -> bool {
        let mask = self.0.perm_mask() | Format::AF_BIT | Format::DBM_BIT | Format::SOFTWARE_MASK;
        (old.raw() ^ new.raw()) & !mask == 0
    }

    /// The new leaf lacks a right, the access flag or DBM that the old one gave.
    fn narrow(&self, old: Pte, new: Pte) -> bool {
        let lost = old.raw() & !new.raw() & (Format::AF_BIT | Format::DBM_BIT);
        lost != 0 || !self.0.prot(new).contains(self.0.prot(old))
    }
}

/// Counts the tables that a request needs as the table is now, and finds what is in its way.
struct Plan<'m> {
    leaves: Leaves<'m>,
    options: MapOptions,
    tables: usize,
}

impl<M: TableMemory, T: Tlb, A: Access> Visitor<M, T, A> for Plan<'_> {
    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        _: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        let level = at.level();
        let fits = at.whole() && self.leaves.fits(level, at.base);
        if pte.is_table(level) {
            let replace = self.options.existing == Existing::Replace
                || self.options.existing == Existing::Keep && self.options.over_tables;
            return Ok(if fits && replace { Step::Next } else { Step::Descend });
        }
        if !pte.is_empty() {
            match self.options.existing {
                Existing::Error => {
                    return Err(Error::Conflict {
                        ipa: at.ipa(),
                        level,
                        raw: pte,
                    });
                }
                Existing::Keep => return Ok(Step::Next),
                Existing::Replace => {}
            }
        }
        let stays = pte.is_valid() && self.leaves.same(&at, pte) && level >= self.leaves.largest;
        if !fits
            && !stays
            && let Some(part) = Part::behind(&at)
        {
            self.tables += view.tables_needed(part, &self.leaves);
        }
        Ok(Step::Next)
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Maps `size` bytes from `ipa` to as many from `pa` with `attrs`, in the largest leaves that fit.
    ///
    /// `ipa`, `pa` and `size` are multiples of the page size. A leaf may stand at a level if the geometry and
    /// [`MapOptions::largest`] allow it, the range covers it and both addresses are aligned to its size. Whole new
    /// tables are built in private and linked with one compare-exchange. A block that the range covers in part is cut:
    /// the rest keeps its translation. What replaces a table frees it after a grace period.
    ///
    /// [`Attrs::contiguous`] is ignored: the hint would outlive its group.
    ///
    /// Maintenance: cache operations on the new output (none with FWB, instructions only if executable); nothing else for
    /// a hole; a broadcast TLBI where a translation is replaced, complete before the new one is visible; in-place for a
    /// change of permissions; one barrier that publishes the result.
    ///
    /// # Errors
    /// [`Error::Alignment`], [`Error::ZeroSize`], [`Error::Address`] (IPA or PA space), [`Error::Attrs`];
    /// [`Error::Conflict`] under [`Existing::Error`]; [`Error::Again`] under [`Existing::Keep`] if the
    /// whole range was mapped already; [`Error::OutOfFrames`]. Nothing was changed then.
    ///
    /// One corner remains, and only with the memory used up to the last frame: frames are counted before the first
    /// change, and a peer who at that moment unmaps or collapses tables of the same range makes more of them necessary.
    /// Then [`Error::OutOfFrames`] may come part way (never under [`Existing::Error`]); doing the same again completes it.
    pub fn map(&self, ipa: Ipa, size: u64, pa: Pa, attrs: &Attrs, options: MapOptions) -> Result<Mapped, Error> {
        let end = self.check_range(ipa, size)?;
        let leaves = self.leaves_of(ipa, size, pa, attrs, &options)?;
        let start = ipa.get();
        if size == self.core.config.geometry.size(Level::L3) && self.fill_page(ipa, leaves.leaf(Level::L3, start)) {
            return Ok(Mapped { bytes: size, kept: 0 });
        }
        let mut reserve = Reserve::new(&self.core.memory);
        if !leaves.single(start, size, &options) {
            let mut plan = Plan {
                leaves,
                options,
                tables: 0,
            };
            self.walk(start, end, &mut plan)?;
            reserve.ensure(plan.tables)?;
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
        let mut visitor = Map {
            leaves,
            options,
            reserve,
            mapped: Mapped::default(),
            narrowed: Stale::NONE,
            widened: Stale::NONE,
            narrowing: false,
            reached: start,
        };
        let walked = self.walk(start, end, &mut visitor);
        self.publish_barrier();
        self.invalidate(visitor.narrowed);
        if visitor.narrowing {
            self.narrowed();
        }
        self.invalidate_local(visitor.widened);
        let (mapped, reached) = (visitor.mapped, visitor.reached);
        drop(visitor);
        match walked {
            Err(error) if mapped.bytes > 0 && options.existing == Existing::Error => {
                // A peer came between the plan and the walk. All that lies behind was a hole that this call filled, and
                // becomes a hole again; where a peer has changed it since, it is his.
                let waiting = View {
                    core: self.core,
                    access: self.access.clone(),
                    wait: true,
                };
                let _ = waiting.unmap_only(start, reached, |level, base, pte| pte == leaves.leaf(level, base));
                Err(error)
            }
            Err(error) => Err(error),
            Ok(()) if mapped.bytes == 0 && options.existing == Existing::Keep => Err(Error::Again {
                ipa,
                level: self.lookup(ipa)?.level,
            }),
            Ok(()) => Ok(mapped),
        }
    }

    /// The fault path's common case: the table is there and the entry is empty. True if this mapped the page; whatever
    /// else is there, the visitor deals with.
    #[inline]
    fn fill_page(&self, ipa: Ipa, leaf: Pte) -> bool {
        let guard = self.access.pin();
        let (table, index, found) = self.descend(&guard, ipa);
        if !table.level.is_last() || !found.is_empty() {
            return false;
        }
        self.prepare_output(table.level, found, leaf);
        let done = self.publish(table, index, found, leaf).is_ok();
        if done {
            self.publish_barrier();
        }
        done
    }

    /// Checks a request and works out its leaves.
    #[inline]
    fn leaves_of(&self, ipa: Ipa, size: u64, pa: Pa, attrs: &Attrs, options: &MapOptions) -> Result<Leaves<'_>, Error> {
        let geometry = &self.core.config.geometry;
        let format = &self.core.format;
        self.check_span("pa", pa.get(), size, geometry.pa_limit())?;
        let largest = options.largest.unwrap_or(Level::LM1);
        let bits = format
            .attr_bits(Level::L3, attrs)
            .map_err(|reason| Error::Attrs { ipa, reason })?;
        // The contiguous hint speaks for a group of entries; the table changes them one by one, so it never sets it.
        let page = bits & !Format::CONTIGUOUS_BIT;
        let block = format.relevel(Pte::from_raw(page), Level::L3, Level::L2).raw();
        Ok(Leaves {
            geometry,
            format,
            block,
            page,
            offset: pa.get().wrapping_sub(ipa.get()),
            largest,
        })
    }
}

impl Leaves<'_> {
    /// The request is one change of one entry, whatever is there: it need not be planned, since nothing comes before the
    /// only step that can run out of frames.
    #[inline]
    fn single(&self, start: u64, size: u64, options: &MapOptions) -> bool {
        if size == self.geometry.size(Level::L3) {
            return true;
        }
        let one_block = || {
            let level = self
                .geometry
                .largest_leaf(Ipa::new(start), Pa::new(start.wrapping_add(self.offset)), size);
            size == self.geometry.size(level) && self.fits(level, start)
        };
        match options.existing {
            Existing::Replace => one_block(),
            Existing::Keep => options.over_tables && one_block(),
            Existing::Error => false,
        }
    }
}
