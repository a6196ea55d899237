//! Looking without changing anything.

use super::View;
use super::batch::Batch;
use super::error::Error;
use super::reclaim::Access;
use super::tlb::Tlb;
use super::walk::{At, Step, Visitor};
use super::way::{ByAccess, Way};
use crate::arch::{
    AccessKind, El, Fault, FaultKind, Format, HardwareUpdate, Ipa, Level, Mapping, Pa, Pte, Translation,
};
use crate::memory::TableMemory;
use crate::sync::Backoff;
use alloc::vec::Vec;
use core::borrow::Borrow;

/// The entry at which a walk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Its value: a leaf, or an invalid entry.
    pub pte: Pte,
    /// Its level.
    pub level: Level,
    /// The first IPA that it translates.
    pub base: Ipa,
}

fn mapping(format: &Format, at: &At<'_>, pte: Pte) -> Mapping {
    Mapping::new(format, Ipa::new(at.base), at.size, at.level(), pte)
}

/// Calls a function for every entry; for each table once only if it stays in the epoch all the time.
struct EachEntry<F, const ONCE: bool>(F);

impl<M: TableMemory, T: Tlb, A: Access, F: FnMut(&Format, &At<'_>, Pte), const ONCE: bool> Visitor<M, T, A>
    for EachEntry<F, ONCE>
{
    const WHOLE_TABLES: bool = ONCE;
    const LOOKS_ONLY: bool = true;

    #[inline]
    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        _: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        (self.0)(&view.core.format, &at, pte);
        Ok(if pte.is_table(at.level()) {
            Step::Descend
        } else {
            Step::Next
        })
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Follows the tables to the entry where the walk for `ipa` ends, whatever that entry is, LOCKED included.
    #[inline(always)]
    fn end_of_walk<G: Borrow<A::Guard>>(&self, guard: G, way: &impl Way, ipa: Ipa) -> (Pte, Level) {
        let (table, _, pte) = way.find(self, guard.borrow(), ipa, Level::L3);
        if mutated!(FrozenRead, false, pte.is_frozen()) {
            return self.end_of_new_walk(ipa);
        }
        (pte, table.level)
    }

    /// The table in which a walk ended was unlinked under it; the truth is at the root.
    #[cold]
    #[inline(never)]
    fn end_of_new_walk(&self, ipa: Ipa) -> (Pte, Level) {
        let mut guard = self.access.pin();
        let mut backoff = Backoff::new();
        loop {
            backoff.wait();
            self.access.repin(&mut guard);
            let (table, _, pte) = self.descend(&guard, ipa, Level::L3);
            if !pte.is_frozen() {
                return (pte, table.level);
            }
        }
    }

    /// Finds the entry where the walk for `ipa` (any byte address) ends: a leaf, or what stands in place of one.
    ///
    /// # Errors
    /// [`Error::Address`] beyond the IPA space.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// let block = view.lookup(Ipa::new(0x1234))?;
    /// assert_eq!((block.level, block.base), (Level::L2, Ipa::new(0)));
    /// assert!(view.lookup(Ipa::new(2 << 20))?.pte.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn lookup(&self, ipa: Ipa) -> Result<Lookup, Error> {
        self.lookup_by(|| self.access.pin(), &ByAccess, ipa)
    }

    /// [`lookup`](Self::lookup), inside the table already or not, and from where it is known.
    #[inline(always)]
    pub(crate) fn lookup_by<G: Borrow<A::Guard>>(
        &self,
        enter: impl FnOnce() -> G,
        way: &impl Way,
        ipa: Ipa,
    ) -> Result<Lookup, Error> {
        let geometry = &self.core.config.geometry;
        let limit = geometry.ipa_limit();
        if ipa.get() >= limit {
            return Err(Error::Address {
                what: "ipa",
                value: ipa.get(),
                size: 1,
                limit,
            });
        }
        let (pte, level) = self.end_of_walk(enter(), way, ipa);
        Ok(Lookup {
            pte,
            level,
            base: geometry.entry_base(ipa, level),
        })
    }

    /// What the MMU answers to an access to `ipa` (any byte address) at this moment. Writes nothing.
    ///
    /// An entry that a peer holds LOCKED is invalid to the MMU, hence a translation fault. A clear access flag is a fault
    /// unless hardware sets it ([`Config::ha`](super::Config)); a write to a leaf with DBM is allowed where hardware
    /// manages dirty state. A fetch is one at EL1. (Arm ARM, "Stage 2 data accesses and instruction execution permissions".)
    ///
    /// # Errors
    /// The [`Fault`] that the guest's access takes. An IPA beyond the IPA space is a translation fault at level 0.
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// assert_eq!(view.translate(Ipa::new(0x1234), AccessKind::Write).unwrap().pa, Pa::new(0x1234));
    /// assert_eq!(view.translate(Ipa::new(2 << 20), AccessKind::Read).unwrap_err().level, Level::L2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn translate(&self, ipa: Ipa, access: AccessKind) -> Result<Translation, Fault> {
        self.translate_by(|| self.access.pin(), &ByAccess, ipa, access)
    }

    /// [`translate`](Self::translate), inside the table already or not, and from where it is known.
    #[inline(always)]
    pub(crate) fn translate_by<G: Borrow<A::Guard>>(
        &self,
        enter: impl FnOnce() -> G,
        way: &impl Way,
        ipa: Ipa,
        access: AccessKind,
    ) -> Result<Translation, Fault> {
        let config = &self.core.config;
        let format = &self.core.format;
        let fault = |kind, level| Fault {
            ipa,
            access,
            kind,
            level,
            s1ptw: false,
        };
        if seeded!(LiveLimit, false, ipa.get() >= config.geometry.ipa_limit()) {
            return Err(fault(FaultKind::Translation, Level::L0));
        }
        let (pte, level) = self.end_of_walk(enter(), way, ipa);
        if !pte.is_leaf(level) {
            return Err(fault(FaultKind::Translation, level));
        }
        let hardware = HardwareUpdate::new(config.ha, config.hd);
        format
            .check_access(pte, access, El::El1, hardware)
            .map_err(|kind| fault(kind, level))?;
        let offset = ipa.get() & (config.geometry.size(seeded!(LiveOffset, Level::L3, level)) - 1);
        Ok(format.translation(pte, level, offset))
    }

    /// Calls `leaf` for every leaf that `start..end` touches, in ascending order; the bounds are checked already.
    pub(crate) fn for_each_leaf(&self, start: u64, end: u64, mut leaf: impl FnMut(Mapping)) -> Result<(), Error> {
        self.for_each_entry(start, end, |format, at, pte| {
            if pte.is_valid() && !pte.is_table(at.level()) {
                leaf(mapping(format, at, pte));
            }
        })
    }

    /// Calls `each` for every entry that `start..end` touches, tables before what is in them; tables that the range covers
    /// in part may be left out, and a long walk shows one again. A view that does not wait sees LOCKED entries too.
    pub(crate) fn for_each_entry(
        &self,
        start: u64,
        end: u64,
        each: impl FnMut(&Format, &At<'_>, Pte),
    ) -> Result<(), Error> {
        self.walk(start, end, &mut EachEntry::<_, false>(each))
    }

    /// The same for all of the table, each table once.
    pub(crate) fn for_each_entry_once(&self, each: impl FnMut(&Format, &At<'_>, Pte)) -> Result<(), Error> {
        let end = self.core.config.geometry.ipa_limit();
        self.walk(0, end, &mut EachEntry::<_, true>(each))
    }
}

impl<'t, M: TableMemory, T: Tlb, A: Access> View<'t, M, T, A> {
    /// The leaves that the range touches, whole, in ascending order.
    ///
    /// `ipa` and `size` (bytes) are multiples of the page size. Beside writers the iterator is weakly consistent: every
    /// leaf that it yields was there at some moment during the iteration, one that stayed all the time is yielded exactly
    /// once, one that peers merged while the iterator stood inside it from there on, and between two steps no walk is under way (a held iterator does not delay the freeing of frames).
    ///
    /// # Errors
    /// Errors of the range.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// view.protect(Ipa::new(0), 0x1000, Prot::R)?;
    /// assert_eq!(view.leaves(Ipa::new(0x1f_f000), 0x2000)?.next().unwrap().ipa, Ipa::new(0x1f_f000));
    /// assert_eq!(view.leaves(Ipa::new(0), 2 << 20)?.count(), 512);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn leaves(&self, ipa: Ipa, size: u64) -> Result<Leaves<'_, 't, M, T, A>, Error>
    where
        A: Sized,
    {
        let end = self.check_range(ipa, size)?;
        Ok(Leaves {
            view: self,
            cursor: ipa.get(),
            end,
            first: true,
            ready: Vec::new().into_iter(),
        })
    }
}

/// Iterator over leaves, see [`View::leaves`].
pub struct Leaves<'v, 't, M: TableMemory, T: Tlb, A: Access> {
    view: &'v View<'t, M, T, A>,
    cursor: u64,
    end: u64,
    /// Nothing was handed out yet.
    first: bool,
    /// What the last step found, not yet handed out.
    ready: alloc::vec::IntoIter<Mapping>,
}

impl<M: TableMemory, T: Tlb, A: Access> Iterator for Leaves<'_, '_, M, T, A> {
    type Item = Mapping;

    fn next(&mut self) -> Option<Mapping> {
        loop {
            if let Some(mapping) = self.ready.next() {
                return Some(mapping);
            }
            if self.cursor >= self.end {
                return None;
            }
            self.refill();
        }
    }
}

impl<M: TableMemory, T: Tlb, A: Access> Leaves<'_, '_, M, T, A> {
    /// Collects the leaves up to the end of the entry, a level above the pages, in which the cursor stands; a hole or a
    /// block is passed in one step however large it is.
    fn refill(&mut self) {
        let geometry = &self.view.core.config.geometry;
        let (pte, level) = self
            .view
            .end_of_walk(self.view.access.pin(), &ByAccess, Ipa::new(self.cursor));
        let span = if level.is_last() { Level::L2 } else { level };
        let size = if geometry.start_level().is_last() {
            geometry.size(Level::L3)
        } else {
            geometry.size(span)
        };
        let stop = self.end.min((self.cursor & !(size - 1)).saturating_add(size));
        let mut found: Vec<Mapping> = Vec::new();
        if level.is_last() || pte.is_valid() || pte.is_locked() {
            let (start, first) = (self.cursor, self.first);
            let collected = self.view.for_each_leaf(start, stop, |mut leaf| {
                // A peer may merge pages into a block while they are collected: the walk meets them again, as one.
                while found.last().is_some_and(|last| last.ipa >= leaf.ipa) {
                    found.pop();
                }
                let handed_out = start.saturating_sub(leaf.ipa.get());
                if handed_out > 0 && !first {
                    leaf.ipa = Ipa::new(start);
                    leaf.pa = Pa::new(leaf.pa.get() + handed_out);
                    leaf.size -= handed_out;
                }
                found.push(leaf);
            });
            debug_assert!(collected.is_ok(), "looking cannot fail: {collected:?}");
        }
        self.first = false;
        self.cursor = found.last().map_or(stop, |leaf| stop.max(leaf.ipa.get() + leaf.size));
        self.ready = found.into_iter();
    }
}
