//! Mapping a range: what a fault does for one page, and what a loader does for a terabyte.

use super::View;
use super::batch::Batch;
use super::build::Part;
use super::error::Error;
use super::frames::Reserve;
use super::maintenance::Stale;
use super::reclaim::Access;
use super::semantics::WalkFlags;
use super::tlb::Tlb;
use super::unlink::{Making, Unlink};
use super::walk::{At, Step, Visitor};
use super::wanted::{Leaves, Rights, Wanted};
use super::way::{ByAccess, Way};
use crate::arch::{Attrs, EntryKind, Format, Ipa, Level, Pa, Pte};
use crate::memory::TableMemory;
use core::borrow::Borrow;

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
    /// How KVM would walk. Only with [`Semantics::Kvm`](super::Semantics::Kvm).
    pub flags: WalkFlags,
}

impl MapOptions {
    /// A fault: fill the hole, leave alone what a peer mapped meanwhile.
    pub const FAULT: Self = Self {
        existing: Existing::Keep,
        largest: None,
        over_tables: false,
        flags: WalkFlags::empty(),
    };

    /// A fault as KVM handles it, for a table with its semantics: what translates to the same memory is left alone, and
    /// everything else makes way.
    pub const KVM_FAULT: Self = Self {
        existing: Existing::Replace,
        largest: None,
        over_tables: false,
        flags: WalkFlags::FAULT,
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

    /// KVM's way with a leaf that stands where the caller wants his own, or a table.
    fn replace_as_kvm<T: Tlb, A: Access>(
        &mut self,
        view: &View<'_, M, T, A>,
        at: At<'_>,
        pte: Pte,
        fits: bool,
    ) -> Result<Step, Error> {
        let level = at.level();
        let flags = self.options.flags;
        if !fits {
            return self.link_empty(view, at, pte);
        }
        let leaf = self.leaves.leaf(level, at.base);
        let differs = pte.raw() ^ leaf.raw();
        if differs & !view.core.format.perm_mask() == 0 {
            // Permissions are for `relax`; who asks for them here has lost a race.
            if flags.contains(WalkFlags::HANDLE_FAULT) {
                return Err(Error::Again { ipa: at.ipa(), level });
            }
            self.mapped.kept += at.bytes();
            return Ok(Step::Next);
        }
        if !flags.contains(WalkFlags::SHARED) && differs & !Format::SOFTWARE_MASK == 0 {
            let done = view.change(at.table, at.index, pte, leaf).is_ok();
            return Ok(self.wrote(done, &at));
        }
        if view.lock(at.table, at.index, pte).is_err() {
            return Ok(Step::Retry);
        }
        if !flags.contains(WalkFlags::SKIP_BBM_TLBI) {
            view.invalidate_leaf(&at);
        }
        self.prepare(view, level, Pte::EMPTY, leaf);
        view.make(at.table, at.index, leaf);
        Ok(self.wrote(true, &at))
    }

    /// KVM's way to the level below: an empty table takes the place of whatever is here. What else a block translated
    /// faults again.
    fn link_empty<T: Tlb, A: Access>(&mut self, view: &View<'_, M, T, A>, at: At<'_>, old: Pte) -> Result<Step, Error> {
        let Some(below) = at.level().deeper() else {
            return Ok(Step::Retry);
        };
        self.reserve.ensure(1)?;
        let table = view.empty_table(&mut self.reserve);
        let done = if old.is_valid() {
            let locked = view.lock(at.table, at.index, old).is_ok();
            if locked {
                if !self.options.flags.contains(WalkFlags::SKIP_BBM_TLBI) {
                    view.invalidate_leaf(&at);
                }
                view.make(at.table, at.index, table);
            }
            locked
        } else {
            view.publish(at.table, at.index, old, table).is_ok()
        };
        if !done {
            view.discard(&mut self.reserve, table, below);
        }
        Ok(Step::Retry) // and go down
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
        let done = view.publish(at.table, at.index, old, table).is_ok();
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

/// Counts the tables that a request needs as the table is now, and finds what is in its way.
struct Plan<L> {
    leaves: L,
    options: MapOptions,
    tables: usize,
}

impl<M: TableMemory, T: Tlb, A: Access, L: Wanted> Visitor<M, T, A> for Plan<L> {
    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        _: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        let level = at.level();
        let fits = at.whole() && self.leaves.fits(level);
        if pte.is_table(level) {
            let replace = self.options.existing == Existing::Replace
                || self.options.existing == Existing::Keep && self.options.over_tables;
            if fits && replace && !L::MARKS {
                refuse_marks_below(view, at, pte)?;
            }
            return Ok(if fits && replace { Step::Next } else { Step::Descend });
        }
        if !pte.is_empty() {
            match self.options.existing {
                Existing::Keep => return Ok(Step::Next),
                Existing::Replace if pte.is_valid() || L::MARKS => {}
                Existing::Replace | Existing::Error => {
                    return Err(Error::Conflict {
                        ipa: at.ipa(),
                        level,
                        raw: pte,
                    });
                }
            }
        }
        let stays = self.leaves.same(&at, pte) && level >= self.leaves.largest();
        if !fits
            && !stays
            && let Some(part) = Part::behind(&at)
        {
            self.tables += view.tables_needed(part, &self.leaves);
        }
        Ok(Step::Next)
    }
}

/// A table is to be replaced by a block: not if it holds an owner's mark. (One that a peer writes after this look is found
/// when the table is frozen.)
fn refuse_marks_below<M: TableMemory, T: Tlb, A: Access>(
    view: &View<'_, M, T, A>,
    at: At<'_>,
    pte: Pte,
) -> Result<(), Error> {
    let mut marked = None;
    let _ = view.all_may_go(view.child(at.table, pte), at.base, &mut |level, ipa, found: Pte| {
        if matches!(found.kind(level), EntryKind::Annotated(_)) {
            marked = Some((level, ipa, found));
        }
        marked.is_none()
    });
    match marked {
        Some((level, ipa, raw)) => Err(Error::Conflict {
            ipa: Ipa::new(ipa),
            level,
            raw,
        }),
        None => Ok(()),
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
    #[inline]
    pub fn map(&self, ipa: Ipa, size: u64, pa: Pa, attrs: &Attrs, options: MapOptions) -> Result<Mapped, Error> {
        if self.map_leaf(|| self.access.pin(), &ByAccess, (ipa, size, pa), attrs, &options) {
            return Ok(Mapped { bytes: size, kept: 0 });
        }
        self.map_range(ipa, size, pa, attrs, options)
    }

    /// Any request, and what is wrong with it.
    #[inline(never)]
    pub(crate) fn map_range(
        &self,
        ipa: Ipa,
        size: u64,
        pa: Pa,
        attrs: &Attrs,
        options: MapOptions,
    ) -> Result<Mapped, Error> {
        let end = match self.check_range(ipa, size) {
            Ok(end) => end,
            Err(refused) => return Err(self.first_refusal(ipa, attrs, refused)),
        };
        if !self.kvm() && !options.flags.is_empty() {
            return Err(Error::Flags { flags: options.flags });
        }
        let leaves = self.leaves_of(ipa, size, pa, attrs, &options)?;
        let start = ipa.get();
        if self.kvm() {
            return if options.flags.contains(WalkFlags::HANDLE_FAULT) {
                self.impatient().install(start, end, leaves, options)
            } else {
                self.install(start, end, leaves, options)
            };
        }
        self.install(start, end, leaves, options)
    }

    /// What is refused first: KVM looks at the attributes before the range.
    #[cold]
    fn first_refusal(&self, ipa: Ipa, attrs: &Attrs, otherwise: Error) -> Error {
        match self.core.format.attr_bits(Level::L3, attrs) {
            Err(reason) if self.kvm() => Error::Attrs { ipa, reason },
            _ => otherwise,
        }
    }

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
        let mut visitor = Map::new(leaves, options, reserve, start);
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

    /// The fault path's common case: one leaf, the table for it is there, and the entry is empty. True if this mapped it.
    /// Whatever else is asked or found, and whatever is wrong, [`map_range`](Self::map_range) deals with.
    #[inline(always)]
    pub(crate) fn map_leaf<G: Borrow<A::Guard>>(
        &self,
        enter: impl FnOnce() -> G,
        way: &impl Way,
        (ipa, size, pa): (Ipa, u64, Pa),
        attrs: &Attrs,
        options: &MapOptions,
    ) -> bool {
        let geometry = &self.core.config.geometry;
        let Some(level) = geometry.leaf_level(size) else {
            return false;
        };
        let stray = (ipa.get() | pa.get()) & (size - 1) != 0;
        if stray || ipa.get() >= geometry.ipa_limit() || pa.get() >= geometry.pa_limit() {
            return false;
        }
        let strange = !options.flags.is_empty() && !self.kvm();
        if strange || level < options.largest.unwrap_or(level) {
            return false;
        }
        let (known, mut page) = self.encoded.get();
        if page == 0 || known != *attrs {
            page = self.core.format.encode(Level::L3, attrs);
            if page == 0 {
                return false;
            }
            self.encoded.set((*attrs, page));
        }
        let bits = if level.is_last() { page } else { Format::block_of(page) };
        // The contiguous hint speaks for a group of entries; the table changes them one by one, so it never sets it.
        let leaf = Pte::from_raw(bits & !Format::CONTIGUOUS_BIT | self.core.format.output_bits(pa));
        let guard = enter();
        let (table, index, found) = way.find(self, guard.borrow(), ipa, level);
        if table.level != level || !found.is_empty() {
            return false;
        }
        if T::ACTIVE && !options.flags.contains(WalkFlags::SKIP_CMO) {
            self.prepare_output(level, found, leaf);
        }
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
