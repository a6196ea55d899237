//! Staying in the table between calls, for many short operations in a row.

use super::View;
use super::reclaim::Access;
use super::tlb::Tlb;
use crate::memory::TableMemory;

/// Keeps the calling thread inside the table, see [`View::stay`].
#[must_use = "the stay ends when this is dropped"]
pub struct Stay<'v, A: Access> {
    access: &'v A,
    guard: A::Guard,
}

impl<A: Access> Stay<'_, A> {
    /// Leaves and enters again, so that frames retired meanwhile can be freed. Call it every few hundred operations.
    pub fn repin(&mut self) {
        self.access.repin(&mut self.guard);
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Enters the table once for all calls until the result is dropped, instead of once a call.
    ///
    /// Entering costs a fence, which is about half of what a fault or a lookup of one page takes. Meanwhile no frame
    /// that anybody retires is freed, so a long batch should [`repin`](Stay::repin) now and then, and
    /// [`drain`](View::drain) must not be called before the stay has ended: it would wait for ever.
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
    ///     vcpu.map(Ipa::new(page << 12), 4096, Pa::new(page << 12), &Attrs::new(Prot::RW), MapOptions::FAULT)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stay(&self) -> Stay<'_, A> {
        Stay {
            access: &self.access,
            guard: self.access.pin(),
        }
    }
}
