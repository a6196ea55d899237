//! Which invalidation a change needs, in which order: the sequences of barriers and TLBIs.
//!
//! A stage-2 invalidation is followed by one of stage 1: a core may hold combined entries (VA to PA), which an
//! invalidation by IPA does not find. The stage-2 one must be complete before (DSB), or a walk in between could refill a
//! combined entry from the old translation.

use super::View;
use super::error::Error;
use super::reclaim::Access;
use super::tlb::{Event, Tlb};
use super::walk::At;
use crate::arch::{Attrs, CacheOp, Dsb, Format, Ipa, Level, MemType, Pa, Prot, Pte, Scope, Tlbi};
use crate::memory::TableMemory;
use crate::sync::Ordering;

/// Above this many single invalidations, one of the whole VMID is cheaper for everybody.
const SINGLES_AT_MOST: u64 = 512;

/// Translations that were changed and not yet invalidated: a span of IPAs and the one level they share, if they do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stale {
    start: u64,
    end: u64,
    level: Option<Level>,
}

impl Stale {
    pub(crate) const NONE: Self = Self {
        start: u64::MAX,
        end: 0,
        level: None,
    };

    pub(crate) fn is_none(&self) -> bool {
        self.start >= self.end
    }

    /// Adds what another has gathered.
    pub(crate) fn add_all(&mut self, other: Self) {
        self.add(Ipa::new(other.start), other.end - other.start, other.level);
    }

    /// Adds `bytes` at `base`, translated by a leaf at `level` (`None`: by a whole table, walk caches included).
    #[inline]
    pub(crate) fn add(&mut self, base: Ipa, bytes: u64, level: Option<Level>) {
        self.level = if self.is_none() || self.level == level {
            level
        } else {
            mutated!(MixedHint, level, None)
        };
        self.start = mutated!(SpanShrinks, base.get(), self.start.min(base.get()));
        self.end = self.end.max(base.get() + bytes);
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Begins to take rights away in place; ends with [`narrowed`](Self::narrowed).
    ///
    /// A peer who finds that a right is gone already must not return before the TLBI for it is complete: somebody may
    /// have been promised that no CPU uses the right. He does not wait for it (it may be his own caller's), he issues one.
    pub(crate) fn narrowing(&self) {
        if mutated!(NarrowingUntold, false, A::SHARED) {
            // Relaxed: the exchange that takes the right away releases it.
            self.core.narrowing.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The TLBI for what was taken away is complete.
    pub(crate) fn narrowed(&self) {
        if mutated!(NarrowingUntold, false, A::SHARED) {
            // Release: who sees the count without this operation sees the state after its TLBI.
            let release = mutated!(NarrowedRelaxed, Ordering::Relaxed, Ordering::Release);
            self.core.narrowing.fetch_sub(1, release);
        }
    }

    /// Whether a right that was gone when this thread looked may still be in use, besides by `own` operations of its own.
    #[inline]
    pub(crate) fn narrowed_by_peer(&self, own: usize) -> bool {
        // Acquire: pairs with `narrowed`.
        let acquire = mutated!(NarrowedSeenRelaxed, Ordering::Relaxed, Ordering::Acquire);
        mutated!(NarrowingUnasked, false, A::SHARED) && self.core.narrowing.load(acquire) > own
    }

    /// Whether anybody wants to know what is due.
    #[inline(always)]
    fn listened_to(&self) -> bool {
        T::ACTIVE && self.core.tlb.listens()
    }

    /// Invalidates on every core and waits until no core uses the old translations.
    pub(crate) fn invalidate(&self, stale: Stale) {
        self.invalidate_in(stale, Scope::Broadcast);
    }

    /// Invalidates on the calling core only: enough where rights were added (another core at worst faults once more).
    pub(crate) fn invalidate_local(&self, stale: Stale) {
        // One of the whole VMID in place of very many goes to every core, so its barriers have to wait for every core.
        let scope = if self.listened_to() && self.takes_whole_vmid(stale) {
            Scope::Broadcast
        } else {
            Scope::Local
        };
        self.invalidate_in(stale, scope);
    }

    /// There is no TLBI for the range, and there would have to be too many single ones.
    fn takes_whole_vmid(&self, stale: Stale) -> bool {
        let geometry = &self.core.config.geometry;
        let step = geometry.size(stale.level.unwrap_or(Level::L3));
        !self.core.config.tlbi_range && stale.end.saturating_sub(stale.start) / step > SINGLES_AT_MOST
    }

    /// Invalidates what was cached from the leaf at `at` that the caller has just broken.
    ///
    /// By any address in it; KVM's habit is the one at which the walk came to it.
    #[inline]
    pub(crate) fn invalidate_leaf(&self, at: &At<'_>) {
        let (from, bytes) = if self.kvm() {
            (at.lo, at.bytes())
        } else {
            (at.base, at.size)
        };
        let mut stale = Stale::NONE;
        let level = mutated!(
            LeafHint,
            at.level().deeper().or(at.level().shallower()),
            Some(at.level())
        );
        stale.add(Ipa::new(from), bytes, level);
        self.invalidate(stale);
    }

    /// Invalidates what was cached through the table entry at `at` that the caller has just broken: leaves of any level,
    /// and walk caches.
    pub(crate) fn invalidate_table(&self, at: &At<'_>) {
        if self.kvm() && !self.core.config.tlbi_range {
            return self.issue(Scope::Broadcast, Tlbi::Vmid);
        }
        let mut stale = Stale::NONE;
        stale.add(Ipa::new(at.base), at.size, mutated!(TableHint, Some(at.level()), None));
        self.invalidate(stale);
    }

    /// The same for a table in which nothing was valid any more: only walk caches hold it. KVM's habit is one invalidation
    /// by address, without a hint.
    pub(crate) fn invalidate_empty_table(&self, at: &At<'_>) {
        if !self.kvm() {
            return self.invalidate_table(at);
        }
        let (ipa, level, scope) = (at.ipa(), None, Scope::Broadcast);
        self.issue(scope, Tlbi::Ipa { ipa, level, scope });
    }

    /// Invalidates what this core holds for one address of which the walk found nothing to change.
    pub(crate) fn invalidate_refusal(&self, ipa: Ipa) {
        mutated!(KvmRefusalUntold, return);
        let (level, scope) = (None, Scope::Local);
        self.issue(scope, Tlbi::Ipa { ipa, level, scope });
    }

    /// Invalidates a span as a whole: by range where the CPU can, by VMID otherwise.
    pub(crate) fn invalidate_span(&self, start: u64, end: u64) {
        mutated!(FlushUntold, return);
        let scope = Scope::Broadcast;
        let tlbi = if self.core.config.tlbi_range {
            Tlbi::Range {
                ipa: Ipa::new(start),
                pages: (end - start).div_ceil(self.core.config.geometry.granule().size()),
                level: None,
                scope,
            }
        } else {
            Tlbi::Vmid
        };
        self.issue(scope, tlbi);
    }

    /// Makes every CPU forget what it has cached of the range, and waits for it.
    ///
    /// Operations invalidate what they must by themselves, with one exception: under
    /// [`Semantics::Kvm`](super::Semantics::Kvm) `write_protect` leaves it to its caller, who may have more to protect.
    /// `ipa` and `size` (bytes) are multiples of the page size. Maintenance: one range TLBI; where the CPU has none, one of
    /// the whole VMID.
    ///
    /// # Errors
    /// Errors of the range.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, Counting, Error, MapOptions, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// let table = Stage2::new(Config::kvm(geometry), Arena::new(ArenaOptions::default())?, Counting::new())?;
    /// let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?;
    /// view.write_protect(Ipa::new(0), 2 << 20)?;
    /// assert_eq!(table.tlb().counts().tlbi(), 0); // a CPU may still write
    /// view.flush_tlb(Ipa::new(0), 2 << 20)?;
    /// assert_eq!(table.tlb().counts().tlbi_range, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush_tlb(&self, ipa: Ipa, size: u64) -> Result<(), Error> {
        let end = self.check_range(ipa, size)?;
        self.invalidate_span(ipa.get(), end);
        Ok(())
    }

    #[inline]
    fn invalidate_in(&self, stale: Stale, scope: Scope) {
        if !self.listened_to() || stale.is_none() {
            return;
        }
        mutated!(
            LocalForBroadcast,
            return self.sequence(Scope::Local, |view| view.tlbi_span(stale, Scope::Local))
        );
        self.sequence(scope, |view| view.tlbi_span(stale, scope));
    }

    /// One TLBI with its barriers.
    fn issue(&self, scope: Scope, tlbi: Tlbi) {
        if self.listened_to() {
            self.sequence(scope, |view| {
                view.core.tlb.event(Event::Tlbi(tlbi));
                tlbi == Tlbi::Vmid
            });
        }
    }

    /// The barriers around an invalidation of stage 2, and that of stage 1 behind it unless `tlbi` says that it was of both.
    fn sequence(&self, scope: Scope, tlbi: impl FnOnce(&Self) -> bool) {
        let (before, after) = match scope {
            Scope::Broadcast => (Dsb::Ishst, mutated!(DsbLocal, Dsb::Nsh, Dsb::Ish)),
            Scope::Local => (Dsb::Nshst, Dsb::Nsh),
        };
        let tlb = &self.core.tlb;
        mutated!(DsbBeforeDropped, (), tlb.event(Event::Dsb(before)));
        let whole_vmid = tlbi(self);
        mutated!(DsbStage2Dropped, (), tlb.event(Event::Dsb(after)));
        if mutated!(Stage1Dropped, false, !whole_vmid) {
            tlb.event(Event::Tlbi(Tlbi::Stage1 { scope }));
            mutated!(DsbStage1Dropped, (), tlb.event(Event::Dsb(after)));
        }
        mutated!(IsbDropped, (), tlb.event(Event::Isb));
    }

    /// The stage-2 part. True if it was the whole VMID, stage 1 included.
    fn tlbi_span(&self, stale: Stale, scope: Scope) -> bool {
        let geometry = &self.core.config.geometry;
        let page = geometry.granule().size();
        let bytes = stale.end - stale.start;
        let step = stale.level.map_or(page, |level| geometry.size(level));
        let tlb = &self.core.tlb;
        // One leaf, or one table: an invalidation by IPA covers what was cached from its entry and below.
        if bytes <= step {
            tlb.event(Event::Tlbi(Tlbi::Ipa {
                ipa: Ipa::new(stale.start),
                level: stale.level,
                scope,
            }));
            return false;
        }
        if self.core.config.tlbi_range {
            let ipa = Ipa::new(stale.start);
            tlb.event(Event::Tlbi(Tlbi::Range {
                ipa,
                pages: mutated!(RangeShort, bytes.div_ceil(page) - 1, bytes.div_ceil(page)),
                level: stale.level,
                scope,
            }));
            return false;
        }
        if self.takes_whole_vmid(stale) {
            tlb.event(Event::Tlbi(Tlbi::Vmid));
            return true;
        }
        let mut ipa = stale.start;
        while ipa < stale.end {
            tlb.event(Event::Tlbi(Tlbi::Ipa {
                ipa: Ipa::new(ipa),
                level: stale.level,
                scope,
            }));
            ipa += step;
            mutated!(OneForMany, break);
        }
        false
    }

    /// R11: walkers must see what was made; once for a batch.
    #[inline(always)]
    pub(crate) fn publish_barrier(&self) {
        if T::ACTIVE {
            self.core.tlb.event(Event::Publish);
        }
    }

    /// Prepares the memory behind a leaf that is about to become visible: `old` is what it replaces.
    ///
    /// Cacheable memory is cleaned and invalidated to the point of coherency, so that a guest with its caches off sees
    /// it; with FWB the hardware cares for that. Memory that becomes executable has its instructions invalidated.
    #[inline(always)]
    pub(crate) fn prepare_output(&self, level: Level, old: Pte, new: Pte) {
        if self.listened_to() && new.is_valid() {
            // In place, with no more right to execute than before: nothing can be due.
            let format = &self.core.format;
            let in_place = old.is_valid() && (old.raw() ^ new.raw()) & !format.perm_mask() & !Format::STATE_MASK == 0;
            let executable = format.may_execute(new);
            let hardware_cleans = self.core.config.fwb && !self.kvm();
            if !executable && (in_place || hardware_cleans) {
                return;
            }
            self.cache_ops(level, old, new);
        }
    }

    #[inline(never)]
    fn cache_ops(&self, level: Level, old: Pte, new: Pte) {
        let format = &self.core.format;
        let geometry = &self.core.config.geometry;
        let attrs = format.attrs(new);
        let pa = format.output(new, level);
        let size = geometry.size(level);
        let was_mapped = old.is_leaf(level) && format.output(old, level) == pa;
        let was_executable = was_mapped && format.prot(old).intersects(Prot::X);
        self.cache_range(pa, size, attrs, was_mapped, was_executable);
    }

    /// The same for `bytes` of output from `pa` on, which hole after hole begins to map with the attributes of `leaf`.
    #[inline(always)]
    pub(crate) fn prepare_bytes(&self, pa: Pa, bytes: u64, leaf: Pte) {
        if self.listened_to() {
            self.cache_range(pa, bytes, self.core.format.attrs(leaf), false, false);
        }
    }

    /// What is due for output that begins to be mapped, unless the old leaf mapped it already, or let it be executed.
    fn cache_range(&self, pa: Pa, size: u64, attrs: Attrs, was_mapped: bool, was_executable: bool) {
        // KVM asks for it under FWB too, and its architecture code then has nothing to do.
        let due = self.kvm() || !self.core.config.fwb;
        if matches!(attrs.memtype, MemType::Normal) && due && !was_mapped {
            self.cache(CacheOp::DataCleanInvalidate { pa, size });
        }
        if attrs.prot.intersects(Prot::X) && !was_executable {
            self.cache(CacheOp::InstructionInvalidate { pa, size });
        }
    }

    /// Cleans and invalidates the output of a leaf in the data caches, if it is cacheable and this is left to software.
    /// Says whether it is.
    pub(crate) fn clean_output(&self, leaf: Pte, pa: Pa, size: u64) -> bool {
        let due = !self.core.config.fwb && self.core.format.memtype(leaf) == MemType::Normal;
        if T::ACTIVE && due {
            self.cache(CacheOp::DataCleanInvalidate { pa, size });
        }
        due
    }

    fn cache(&self, op: CacheOp) {
        mutated!(OutputUncleaned, return);
        self.core.tlb.event(Event::Cache(op));
    }

    #[inline(always)]
    pub(crate) fn allocated(&self, frame: Pa) {
        if T::ACTIVE {
            self.core.tlb.event(Event::Allocate { frame });
        }
    }
}
