//! Owner's marks: memory of the guest that somebody else holds for now, written into entries that map nothing.

use super::View;
use super::error::Error;
use super::map::{Existing, MapOptions};
use super::reclaim::Access;
use super::tlb::Tlb;
use super::wanted::Marks;
use crate::arch::{Ipa, Level, Pte};
use crate::memory::TableMemory;

/// The largest owner that KVM 6.12 knows, the hypervisor.
const KVM_MOST: u64 = 1;

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Marks `size` bytes from `ipa`, both multiples of the page size, as belonging to `owner` (at most
    /// [`Pte::MAX_ANNOTATION`]); 0 takes the mark away. What was mapped there is mapped no more.
    ///
    /// A mark is invalid to hardware: an access faults, and [`lookup`](Self::lookup) says whose the memory is. Marks are not
    /// lost by the way: [`map`](Self::map) does not write over one, nor a block over a table that holds one
    /// ([`Error::Conflict`]); it takes this call with 0, or [`unmap`](Self::unmap), which removes marks with the rest.
    ///
    /// Maintenance: a broadcast TLBI where a translation goes, complete when this returns.
    ///
    /// With KVM's semantics marks are written page by page, into tables made on the way (also for 0, which leaves them
    /// behind), a page that is mapped takes the place of a mark, and the only owner is 1.
    ///
    /// # Errors
    /// [`Error::Owner`]; [`Error::OutOfFrames`]; errors of the range. Nothing was changed then (KVM's semantics: what comes
    /// before the missing frame was).
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, EntryKind, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, Error, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// let view = table.handle();
    /// let page = Ipa::new(0x1000);
    /// view.annotate(page, 0x1000, 7)?;
    /// let found = view.lookup(page)?;
    /// assert_eq!(found.pte.kind(found.level), EntryKind::Annotated(7));
    /// let refused = view.map(page, 0x1000, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default());
    /// assert!(matches!(refused, Err(Error::Conflict { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn annotate(&self, ipa: Ipa, size: u64, owner: u64) -> Result<(), Error> {
        let most = if self.kvm() { KVM_MOST } else { Pte::MAX_ANNOTATION };
        if owner > most {
            return Err(Error::Owner { ipa, owner, most });
        }
        let end = self.check_range(ipa, size)?;
        let mark = Pte::annotated(owner).unwrap_or(Pte::EMPTY);
        let largest = match (self.kvm(), mark.is_empty()) {
            (true, _) => Level::L3,
            (false, true) => return self.unmap(ipa, size).map(drop),
            (false, false) => Level::LM1,
        };
        let options = MapOptions {
            existing: Existing::Replace,
            ..MapOptions::default()
        };
        self.install(ipa.get(), end, Marks { mark, largest }, options).map(drop)
    }
}
