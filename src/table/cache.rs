//! Cleaning the memory behind a range, for a guest that turns its caches off.

use super::View;
use super::error::Error;
use super::reclaim::Access;
use super::tlb::Tlb;
use crate::arch::{Format, Ipa, Pa};
use crate::memory::TableMemory;

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Cleans and invalidates the data caches for everything cacheable that the range maps, so that memory holds what the
    /// guest has written. Returns the number of bytes.
    ///
    /// `ipa` and `size` (bytes) are multiples of the page size. With KVM's semantics a block that the range covers in part
    /// is cleaned whole. Maintenance: one cache operation a leaf; with FWB none, and the result is 0: hardware keeps memory
    /// and caches alike.
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
    /// assert_eq!(view.flush_cache(Ipa::new(0), 4 << 20)?, 2 << 20); // what is mapped of it
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush_cache(&self, ipa: Ipa, size: u64) -> Result<u64, Error> {
        let end = self.check_range(ipa, size)?;
        if self.core.config.fwb {
            return Ok(0);
        }
        let mut cleaned = 0;
        let (format, whole) = (&self.core.format, self.kvm());
        self.for_each_entry(ipa.get(), end, |_: &Format, at, pte| {
            if !pte.is_leaf(at.level()) {
                return;
            }
            let (lo, bytes) = if whole { (at.base, at.size) } else { (at.lo, at.bytes()) };
            let pa = Pa::new(format.output(pte, at.level()).get() + (lo - at.base));
            if self.clean_output(pte, pa, bytes) {
                cleaned += bytes;
            }
        })?;
        Ok(cleaned)
    }
}
