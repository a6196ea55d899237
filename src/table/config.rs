//! What a table is made for.

use super::semantics::Semantics;
use crate::arch::Geometry;

/// What a table is made for; fixed for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Granule, IPA and PA sizes, start level, root, block levels.
    pub geometry: Geometry,
    /// FEAT_S2FWB: memory types are forced, no cache maintenance by software.
    pub fwb: bool,
    /// FEAT_XNX: execution is granted to EL1 and EL0 separately.
    pub xnx: bool,
    /// The VMID that VTTBR_EL2 carries.
    pub vmid: u16,
    /// FEAT_TLBIRANGE: one TLBI can name a range.
    pub tlbi_range: bool,
    /// Hardware sets the access flag (VTCR_EL2.HA): an access to a leaf without it does not fault.
    pub ha: bool,
    /// Hardware manages dirty state (VTCR_EL2.HD): a write to a leaf with DBM does not fault.
    pub hd: bool,
    /// How many retired frames may wait for walkers to leave before calls that retire frames wait too: see
    /// [`ReclaimStats`](super::ReclaimStats). `usize::MAX`: no limit.
    pub pending_limit: usize,
    /// Whose habits it has. KVM's come with KVM's block levels: [`Config::kvm`] sets both.
    pub semantics: Semantics,
}

/// More than short walks and a thread that lost its core leave pending, and less than hurts.
const PENDING_BYTES: u64 = 64 << 20;

impl Config {
    /// A table of this geometry on a CPU with range TLBIs and hardware access flag, without FWB and XNX, VMID 1, and no more than 64 MiB
    /// of retired frames.
    pub const fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            fwb: false,
            xnx: false,
            vmid: 1,
            tlbi_range: true,
            ha: true,
            hd: false,
            pending_limit: (PENDING_BYTES / geometry.granule().size()) as usize,
            semantics: Semantics::Exact,
        }
    }

    /// The same with KVM's semantics, and blocks only at the levels that KVM uses.
    ///
    /// ```
    /// use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
    /// use s2pt::memory::{Arena, ArenaOptions};
    /// use s2pt::table::{Config, MapOptions, Null, Stage2};
    ///
    /// let geometry = Geometry::new(GeometryOptions::default())?;
    /// let table = Stage2::new(Config::kvm(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?;
    /// assert_eq!(view.unmap(Ipa::new(0x1000), 0x1000)?, 2 << 20); // the whole block
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn kvm(geometry: Geometry) -> Self {
        Self {
            geometry: geometry.with_kvm_blocks(),
            semantics: Semantics::Kvm,
            ..Self::new(geometry)
        }
    }
}
