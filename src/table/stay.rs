//! Staying in the table between calls, for many short operations in a row.

use super::View;
use super::attrs::Changed;
use super::error::Error;
use super::map::{MapOptions, Mapped};
use super::query::Lookup;
use super::reclaim::Access;
use super::tlb::Tlb;
use super::way::Trail;
use crate::arch::{AccessKind, Attrs, Fault, Ipa, Level, Pa, Prot, Translation};
use crate::memory::TableMemory;
use core::ops::Deref;

/// Keeps the calling thread inside the table, see [`View::stay`].
///
/// It is the view itself, with all of its operations; those on single addresses begin where the last one ended.
#[must_use = "the stay ends when this is dropped"]
pub struct Stay<'v, 't, M: TableMemory, T: Tlb, A: Access> {
    view: &'v View<'t, M, T, A>,
    guard: A::Guard,
    trail: Trail,
}

impl<'t, M: TableMemory, T: Tlb, A: Access> Deref for Stay<'_, 't, M, T, A> {
    type Target = View<'t, M, T, A>;

    fn deref(&self) -> &Self::Target {
        self.view
    }
}

impl<M: TableMemory, T: Tlb, A: Access> Stay<'_, '_, M, T, A> {
    /// Leaves and enters again, so that frames retired meanwhile can be freed. Call it every few hundred operations.
    pub fn repin(&mut self) {
        mutated!(TrailKeptOnRepin, (), self.trail.forget());
        self.view.access.repin(&mut self.guard);
    }

    /// Asks the processor for the leaf entries of addresses that will be worked on next, a few hundred at most.
    ///
    /// Leaf tables of more than about 512 MiB of guest memory do not stay in a cache of 1 MiB; a call then spends most of
    /// its time waiting for one line. Asked for in one go, they arrive side by side. Addresses are any bytes. One in the
    /// leaf table of the address before it is passed over: its line is there, or comes by itself. Changes nothing, takes
    /// no lock, issues no maintenance, and promises nothing.
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, Geometry, GeometryOptions, Ipa};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// let dirty = [Ipa::new(0x8000_0000), Ipa::new(0xc123_4000), Ipa::new(0x4567_8000)];
    /// let vcpu = table.handle();
    /// let stay = vcpu.stay();
    /// stay.prefetch(dirty);
    /// let mapped = dirty.iter().filter(|&&ipa| stay.translate(ipa, AccessKind::Read).is_ok());
    /// assert_eq!(mapped.count(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn prefetch(&self, addresses: impl IntoIterator<Item = Ipa>) {
        let geometry = &self.view.core.config.geometry;
        let limit = geometry.ipa_limit();
        let behind_one_table = geometry.size(Level::L2);
        let mut last = None;
        for ipa in addresses {
            let span = ipa.align_down(behind_one_table);
            if last == Some(span) || ipa.get() >= limit {
                continue;
            }
            last = Some(span);
            let (above, _, pte) = self.view.descend(&self.guard, ipa, Level::L2);
            if above.level == Level::L2 && pte.is_table(above.level) {
                let leaves = self.view.child(above, pte);
                leaves.prefetch(geometry.index(ipa, Level::L3));
            }
        }
    }

    /// As [`View::map`].
    ///
    /// # Errors
    /// As [`View::map`].
    #[inline]
    pub fn map(&self, ipa: Ipa, size: u64, pa: Pa, attrs: &Attrs, options: MapOptions) -> Result<Mapped, Error> {
        if self
            .view
            .map_leaf(|| &self.guard, &self.trail, (ipa, size, pa), attrs, &options)
        {
            return Ok(Mapped { bytes: size, kept: 0 });
        }
        self.view.map_range(ipa, size, pa, attrs, options)
    }

    /// As [`View::unmap`].
    ///
    /// # Errors
    /// As [`View::unmap`].
    #[inline]
    pub fn unmap(&self, ipa: Ipa, size: u64) -> Result<u64, Error> {
        self.view.unmap_by(|| &self.guard, &self.trail, ipa, size)
    }

    /// As [`View::relax`].
    ///
    /// # Errors
    /// As [`View::relax`].
    #[inline]
    pub fn relax(&self, ipa: Ipa, size: u64, prot: Prot) -> Result<Changed, Error> {
        self.view.relax_by(|| &self.guard, &self.trail, ipa, size, prot)
    }

    /// As [`View::lookup`].
    ///
    /// # Errors
    /// As [`View::lookup`].
    #[inline]
    pub fn lookup(&self, ipa: Ipa) -> Result<Lookup, Error> {
        self.view.lookup_by(|| &self.guard, &self.trail, ipa)
    }

    /// As [`View::translate`].
    ///
    /// # Errors
    /// As [`View::translate`].
    #[inline]
    pub fn translate(&self, ipa: Ipa, access: AccessKind) -> Result<Translation, Fault> {
        self.view.translate_by(|| &self.guard, &self.trail, ipa, access)
    }
}

impl<'t, M: TableMemory, T: Tlb, A: Access> View<'t, M, T, A> {
    /// Enters the table once for all calls until the result is dropped, instead of once a call.
    ///
    /// Entering costs a fence, which is a good part of what a fault or a lookup of one page takes. The result can do all
    /// that the view can; its `map`, `unmap`, `relax`, `lookup` and `translate` also remember the leaf table that they saw last, and skip
    /// the levels above it for the neighbours. Meanwhile no frame that anybody retires is freed, so a long batch should
    /// [`repin`](Stay::repin) now and then, and [`drain`](View::drain) must not be called before the stay has ended: it
    /// would wait for ever.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// let vcpu = table.handle();
    /// let mut stay = vcpu.stay();
    /// for page in 0..2048 {
    ///     if page % 512 == 0 {
    ///         stay.repin();
    ///     }
    ///     stay.map(Ipa::new(page << 12), 4096, Pa::new(page << 12), &Attrs::new(Prot::RW), MapOptions::FAULT)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stay(&self) -> Stay<'_, 't, M, T, A> {
        Stay {
            view: self,
            guard: self.access.pin(),
            trail: Trail::default(),
        }
    }
}
