//! Changing what a translation permits, in place (R4): permissions, write protection, access flag.

use super::View;
use super::error::Error;
use super::maintenance::Stale;
use super::reclaim::Access;
use super::rewrite::{Clear, Flush, Set};
use super::tlb::Tlb;
use super::way::{ByAccess, Way};
use crate::arch::{AttrsError, Format, Ipa, Level, MemType, Prot, Pte};
use crate::memory::TableMemory;
use core::borrow::Borrow;
use core::cell::Cell;

/// What an attribute operation found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Leaves of the range whose attributes changed; of a block that had to be cut, the pieces inside the range.
    pub leaves: u64,
    /// Bytes of the range that are mapped, changed or not.
    pub bytes: u64,
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Gives every leaf of the range exactly the permissions `prot`. Holes are skipped.
    ///
    /// `ipa` and `size` (bytes) are multiples of the page size. A block that the range covers in part is cut, if its
    /// permissions change. Maintenance: one broadcast TLBI over what changed, complete when this returns.
    ///
    /// # Errors
    /// [`Error::NotMapped`] if nothing at all is mapped in the range; [`Error::Attrs`] if `prot` lets device or
    /// non-cacheable memory be executed, or the format cannot express it; [`Error::OutOfFrames`] if a block cannot be
    /// cut; errors of the range. Nothing was changed then.
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// let changed = view.protect(Ipa::new(0x1000), 0x1000, Prot::R)?; // is cut: the other 511 pages are as before
    /// assert_eq!((changed.leaves, changed.bytes), (1, 0x1000));
    /// assert!(view.translate(Ipa::new(0x1000), AccessKind::Write).is_err());
    /// assert!(view.translate(Ipa::new(0x2000), AccessKind::Write).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn protect(&self, ipa: Ipa, size: u64, prot: Prot) -> Result<Changed, Error> {
        let end = self.check_range(ipa, size)?;
        let bits = self.permission_bits(ipa, prot)?;
        self.refuse_executable_devices(ipa.get(), end, prot)?;
        let mask = self.core.format.perm_mask();
        let dirty_managed = if prot.contains(Prot::W) { 0 } else { Format::DBM_BIT };
        let device = Cell::new(None);
        let rewrite = |format: &Format, pte: Pte| {
            if prot.intersects(Prot::X) && !format.memtype(pte).may_execute() {
                device.set(Some(format.memtype(pte)));
                return pte;
            }
            Pte::from_raw(pte.raw() & !(mask | dirty_managed) | bits)
        };
        let changed = self.rewrite(ipa.get(), end, rewrite, Flush::Broadcast, false)?.changed;
        self.no_device(ipa, prot, device.get())?;
        self.mapped(ipa, changed)
    }

    /// Takes the right to write from every leaf of the range, and hardware's to grant it (DBM). Holes are skipped.
    ///
    /// `ipa` and `size` (bytes) are multiples of the page size. A writable block that the range covers in part is cut.
    /// Maintenance: one broadcast TLBI over what changed, complete when this returns: no CPU writes through an old
    /// translation after that.
    ///
    /// With KVM's semantics blocks change whole, and **no TLBI is issued**: the caller owes a
    /// [`flush_tlb`](Self::flush_tlb) when all is protected.
    ///
    /// # Errors
    /// [`Error::OutOfFrames`] if a block cannot be cut; errors of the range. Nothing was changed then.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// assert_eq!(view.write_protect(Ipa::new(0), 2 << 20)?.leaves, 1);
    /// assert_eq!(view.write_protect(Ipa::new(0), 2 << 20)?.leaves, 0); // nothing is left to take
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_protect(&self, ipa: Ipa, size: u64) -> Result<Changed, Error> {
        let end = self.check_range(ipa, size)?;
        let rewrite = Clear(Format::WRITE_BIT | Format::DBM_BIT);
        let flush = if self.kvm() { Flush::None } else { Flush::Broadcast };
        Ok(self.rewrite(ipa.get(), end, rewrite, flush, false)?.changed)
    }

    /// Takes the right to write from every leaf that the spans touch, whole leaves: a block that a span covers in part is
    /// not cut. With one TLBI for all. This is the harvest of a dirty log.
    ///
    /// Each span is an address and a size in bytes, both multiples of the page size. Maintenance: one broadcast TLBI from
    /// the first to the last byte, complete when this returns, also if no leaf was writable: a peer may have protected
    /// them a moment ago and not have finished his own.
    ///
    /// # Errors
    /// Errors of a range; the spans before it are protected then. Never out of frames.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// let spans = [(Ipa::new(0x1000), 0x1000), (Ipa::new(0x5000), 0x2000)];
    /// assert_eq!(view.write_protect_leaves(spans)?.leaves, 1); // whole
    /// assert_eq!(view.lookup(Ipa::new(0))?.level, Level::L2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_protect_leaves(&self, spans: impl IntoIterator<Item = (Ipa, u64)>) -> Result<Changed, Error> {
        let rewrite = || Clear(Format::WRITE_BIT | Format::DBM_BIT);
        let (mut all, mut touched) = (Changed::default(), Stale::NONE);
        let mut protect = |(ipa, size): (Ipa, u64)| {
            let end = self.check_range(ipa, size)?;
            touched.add(ipa, size, None);
            let Changed { leaves, bytes } = self.rewrite(ipa.get(), end, rewrite(), Flush::None, true)?.changed;
            all.leaves += leaves;
            all.bytes += bytes;
            Ok(())
        };
        self.narrowing();
        #[cfg(s2pt_mutations)]
        let spans = {
            let all: alloc::vec::Vec<_> = spans.into_iter().collect();
            mutated!(
                LogTlbiFirst,
                all.iter()
                    .for_each(|&(ipa, size)| self.invalidate_span(ipa.get(), ipa.get() + size))
            );
            all.into_iter()
        };
        let done = spans.into_iter().try_for_each(&mut protect);
        mutated!(NarrowedEarly, self.narrowed());
        mutated!(LogUntold | LogTlbiFirst, (), self.invalidate(touched));
        mutated!(NarrowedEarly, (), self.narrowed());
        done.map(|()| all)
    }

    /// Adds the permissions `prot` to every leaf of the range; takes none away. Holes are skipped.
    ///
    /// `ipa` and `size` (bytes) are multiples of the page size. A block that the range covers in part is cut, if it lacks
    /// any of them: this is how a write fault under dirty logging turns a block into pages, in one break.
    /// Maintenance: a TLBI on the calling core, also where nothing was left to add (another core that still holds the narrower entry faults once more); a
    /// broadcast one where a block was cut.
    ///
    /// With KVM's semantics blocks change whole, and the first hole or LOCKED entry ends the call with [`Error::Again`]
    /// after a TLBI on this core.
    ///
    /// # Errors
    /// As [`protect`](Self::protect).
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// view.write_protect(Ipa::new(0), 2 << 20)?;
    /// view.relax(Ipa::new(0x3000), 0x1000, Prot::W)?; // a write to one page of it
    /// assert_eq!(view.lookup(Ipa::new(0x3000))?.level, Level::L3);
    /// assert!(view.translate(Ipa::new(0x4000), AccessKind::Write).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn relax(&self, ipa: Ipa, size: u64, prot: Prot) -> Result<Changed, Error> {
        self.relax_by(|| self.access.pin(), &ByAccess, ipa, size, prot)
    }

    /// [`relax`](Self::relax), inside the table already or not, and from where it is known.
    #[inline(always)]
    pub(crate) fn relax_by<G: Borrow<A::Guard>>(
        &self,
        enter: impl FnOnce() -> G,
        way: &impl Way,
        ipa: Ipa,
        size: u64,
        prot: Prot,
    ) -> Result<Changed, Error> {
        let geometry = &self.core.config.geometry;
        let page = geometry.size(Level::L3);
        // The common case of a write fault: one page, which is mapped.
        let one = size == page && ipa.is_aligned(page) && ipa.get() < geometry.ipa_limit();
        if one && Prot::RW.contains(prot) {
            let rights = Set(Format::rights(prot));
            if let Some(changed) = self.rewrite_page(enter, way, ipa, &rights) {
                return Ok(changed);
            }
        }
        self.relax_range(ipa, size, prot)
    }

    #[inline(never)]
    fn relax_range(&self, ipa: Ipa, size: u64, prot: Prot) -> Result<Changed, Error> {
        let end = match self.check_range(ipa, size) {
            Ok(end) => end,
            // KVM looks at the permissions before the range.
            Err(_) if self.kvm() && self.permission_bits(ipa, prot).is_err() => 0,
            Err(refused) => return Err(refused),
        };
        self.permission_bits(ipa, prot)?;
        self.refuse_executable_devices(ipa.get(), end, prot)?;
        let mask = self.core.format.perm_mask();
        let device = Cell::new(None);
        let rewrite = |format: &Format, pte: Pte| {
            if prot.intersects(Prot::X) && !format.memtype(pte).may_execute() {
                device.set(Some(format.memtype(pte)));
                return pte;
            }
            let bits = format.prot_bits(format.prot(pte) | prot);
            Pte::from_raw(pte.raw() & !mask | bits)
        };
        let changed = self
            .rewrite_fault(ipa.get(), end, rewrite, Flush::Local, false)?
            .changed;
        self.no_device(ipa, prot, device.get())?;
        self.mapped(ipa, changed)
    }

    /// Sets the access flag of every leaf that the range touches, whole leaves. No TLBI is due: an entry without the
    /// flag is never cached.
    ///
    /// # Errors
    /// [`Error::NotMapped`] if nothing at all is mapped in the range; errors of the range. With KVM's semantics
    /// [`Error::Again`] at the first hole or LOCKED entry.
    ///
    /// An example is at [`test_and_clear_young`](Self::test_and_clear_young).
    pub fn mark_young(&self, ipa: Ipa, size: u64) -> Result<Changed, Error> {
        let end = self.check_range(ipa, size)?;
        let rewrite = |_: &Format, pte: Pte| Pte::from_raw(pte.raw() | Format::AF_BIT);
        let changed = self.rewrite_fault(ipa.get(), end, rewrite, Flush::None, true)?.changed;
        self.mapped(ipa, changed)
    }

    /// Whether any leaf that the range touches has its access flag set. Changes nothing.
    ///
    /// # Errors
    /// Errors of the range.
    ///
    /// An example is at [`test_and_clear_young`](Self::test_and_clear_young).
    pub fn test_young(&self, ipa: Ipa, size: u64) -> Result<bool, Error> {
        let end = self.check_range(ipa, size)?;
        Ok(self.rewrite(ipa.get(), end, Clear(0), Flush::None, true)?.young)
    }

    /// Clears the access flag of every leaf that the range touches, whole leaves, and says whether any had it.
    ///
    /// With `flush`, one broadcast TLBI over what changed, complete when this returns: the next access sets the flag (or
    /// faults). A leaf that is old already gets none, also where a peer who made it so has not finished his own. Without it a CPU may go on using a cached translation for a while and leave the flag clear, which
    /// makes the answer of the next test less exact, never wrong about memory.
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
    /// assert!(view.test_and_clear_young(Ipa::new(0), 2 << 20, false)?); // what is mapped is young
    /// assert!(!view.test_young(Ipa::new(0), 2 << 20)?);
    /// assert_eq!(view.mark_young(Ipa::new(0x1000), 0x1000)?.leaves, 1); // of the whole block
    /// assert!(view.test_young(Ipa::new(0), 0x1000)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn test_and_clear_young(&self, ipa: Ipa, size: u64, flush: bool) -> Result<bool, Error> {
        let end = self.check_range(ipa, size)?;
        let flush = if flush { Flush::Shown } else { Flush::None };
        let rewrite = Clear(Format::AF_BIT);
        Ok(self.rewrite(ipa.get(), end, rewrite, flush, true)?.young)
    }

    /// The descriptor bits of `prot`, if this format has them.
    fn permission_bits(&self, ipa: Ipa, prot: Prot) -> Result<u64, Error> {
        let format = &self.core.format;
        // Normal memory may have any permission that the format can express; what is there is looked at apart.
        format
            .check_prot(prot, MemType::Normal)
            .map_err(|reason| Error::Attrs { ipa, reason })?;
        Ok(format.prot_bits(prot))
    }

    /// Device and non-cacheable memory must not become executable, as when it is mapped.
    fn refuse_executable_devices(&self, start: u64, end: u64, prot: Prot) -> Result<(), Error> {
        if !prot.intersects(Prot::X) {
            return Ok(());
        }
        let mut refused = None;
        let impatient = self.kvm().then(|| self.impatient());
        impatient.as_ref().unwrap_or(self).for_each_leaf(start, end, |leaf| {
            let memtype = leaf.attrs.memtype;
            if refused.is_none() && !memtype.may_execute() {
                refused = Some((leaf.ipa, AttrsError::Execute { prot, memtype }));
            }
        })?;
        match refused {
            Some((ipa, reason)) => Err(Error::Attrs { ipa, reason }),
            None => Ok(()),
        }
    }

    /// A peer mapped device memory between the check and the walk: it was left alone, and the caller hears of it.
    fn no_device(&self, ipa: Ipa, prot: Prot, device: Option<MemType>) -> Result<(), Error> {
        match device {
            Some(memtype) => Err(Error::Attrs {
                ipa,
                reason: AttrsError::Execute { prot, memtype },
            }),
            None => Ok(()),
        }
    }

    /// An operation that gives something wants to find something.
    #[inline]
    fn mapped(&self, ipa: Ipa, changed: Changed) -> Result<Changed, Error> {
        if changed.bytes == 0 {
            let level = self.lookup(ipa)?.level;
            return Err(Error::NotMapped { ipa, level });
        }
        Ok(changed)
    }
}
