//! How large a mapping may be: the host's page behind it, and KVM's rule for slots.
//!
//! A block of size S may be mapped at an address if three things hold. The host backs it with a page of at least S. The
//! slot's guest and host addresses are congruent modulo S, so that an S-aligned guest window is an S-aligned host window.
//! That window lies inside the slot. Dirty logging and device memory force pages.
//! Source of the rule: KVM-SEMANTICS 4.2, step 3.

use super::slots::Slot;
use crate::arch::{Geometry, Granule, Ipa, Level};

/// The page size with which the host backs guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backing {
    /// One granule: 4 KiB, 16 KiB or 64 KiB.
    Pages,
    /// Transparent huge pages, one level-2 block: 2 MiB, 32 MiB or 512 MiB.
    #[default]
    Thp,
    /// Pages of 1 GiB (hugetlbfs). Only the 4K granule has them; with 16K and 64K it means the same as [`Thp`](Self::Thp).
    Huge1G,
}

impl Backing {
    /// The level of the largest leaf that this backing allows under `geometry`.
    ///
    /// ```
    /// use s2pt::arch::{Geometry, GeometryOptions, Granule, Level};
    /// use s2pt::vm::Backing;
    ///
    /// let k4 = Geometry::new(GeometryOptions::default())?;
    /// let k16 = Geometry::new(GeometryOptions { granule: Granule::K16, ..GeometryOptions::default() })?;
    /// assert_eq!(Backing::Huge1G.largest(&k4), Level::L1);
    /// assert_eq!(Backing::Huge1G.largest(&k16), Level::L2); // 32 MiB
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn largest(self, geometry: &Geometry) -> Level {
        let level = match self {
            Self::Pages => Level::L3,
            Self::Thp => Level::L2,
            Self::Huge1G if geometry.granule() == Granule::K4 => Level::L1,
            Self::Huge1G => Level::L2,
        };
        // A table that starts at level 2 has no level-1 entry to put a gigabyte into.
        level.max(geometry.start_level())
    }
}

/// The level of the largest leaf that `slot` allows around `ipa`, no coarser than `largest`.
///
/// `ipa` lies in the slot. The answer is level 3 at worst.
pub(crate) fn largest_in_slot(geometry: &Geometry, slot: &Slot, ipa: Ipa, largest: Level) -> Level {
    let mut level = largest;
    let fits = |level| geometry.block_allowed(level) && slot.holds_window(ipa, geometry.size(level));
    while !level.is_last() && !fits(level) {
        level = level.deeper().unwrap_or(Level::L3);
    }
    level
}

/// The most bytes that one exclusive section works on before it lets others in: KVM's largest block.
pub(crate) fn chunk(geometry: &Geometry) -> u64 {
    match geometry.granule() {
        Granule::K4 => 1 << 30,
        Granule::K16 => 32 << 20,
        Granule::K64 => 512 << 20,
    }
}
