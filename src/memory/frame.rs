//! One private frame.

use crate::arch::Pa;

/// One table frame that nobody else can reach yet.
///
/// Linear: it must be linked into a table or given back with [`free`](super::TableMemory::free). It is not `Clone`, and
/// safe code outside the crate cannot build one, so holding it means to be alone with the memory behind it.
/// Dropping it leaks the frame until its memory goes.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is neither linked nor freed is lost to its memory"]
pub struct Frame {
    pa: Pa,
    /// Which memory made it; 0 where that is not recorded. A frame must not be filled or freed through another
    /// memory that happens to have a frame of the same address.
    owner: u32,
}

impl Frame {
    /// The frame at `pa`, for implementers of [`TableMemory`](super::TableMemory).
    ///
    /// # Safety
    ///
    /// `pa` is the address of a frame of the memory that hands out the `Frame`, and as long as the `Frame` lives
    /// nobody else holds one for that address, and nobody else writes to that frame.
    pub const unsafe fn from_raw(pa: Pa) -> Self {
        Self { pa, owner: 0 }
    }

    /// The frame at `pa` of the memory that calls itself `owner`.
    #[cfg(all(feature = "std", not(any(loom, shuttle))))]
    pub(super) const fn owned(pa: Pa, owner: u32) -> Self {
        Self { pa, owner }
    }

    /// Takes a frame back out of a table: it has been unlinked, the TLBI is complete, and every walker has left.
    pub(crate) const fn from_pa(pa: Pa) -> Self {
        Self { pa, owner: 0 }
    }

    /// Where the frame is.
    #[inline]
    pub const fn pa(&self) -> Pa {
        self.pa
    }

    /// Gives up the frame for its address, to link it into a table.
    #[inline]
    pub const fn into_pa(self) -> Pa {
        self.pa
    }

    /// Panics if another memory made the frame.
    #[cfg(all(feature = "std", not(any(loom, shuttle))))]
    #[inline]
    pub(super) fn check_owner(&self, owner: u32) {
        assert!(
            self.owner == 0 || self.owner == owner,
            "the frame at {} belongs to another memory",
            self.pa
        );
    }
}
