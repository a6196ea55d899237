//! Maintenance as data: TLB invalidation, barriers, cache operations.

use super::{Ipa, Level, Pa};

/// Who takes part in an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every CPU of the inner shareable domain (`..IS`).
    Broadcast,
    /// This CPU only.
    Local,
}

/// One TLB invalidation request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tlbi {
    /// The stage-2 translation of one IPA (`IPAS2E1[IS]`).
    Ipa {
        /// Any address that the entry maps.
        ipa: Ipa,
        /// Level of the leaf that was changed, as a hint; `None` where a table entry went or the level is unknown.
        level: Option<Level>,
        /// Who takes part.
        scope: Scope,
    },
    /// The stage-2 translations of a range (`RIPAS2E1[IS]`, single ones where the encoding needs them).
    Range {
        /// First address, page aligned.
        ipa: Ipa,
        /// Pages of the table's granule.
        pages: u64,
        /// Level of all leaves that were changed, or `None`.
        level: Option<Level>,
        /// Who takes part.
        scope: Scope,
    },
    /// Everything of the VMID, both stages, every CPU (`VMALLS12E1IS`).
    Vmid,
    /// All stage-1 and combined entries of the VMID (`VMALLE1[IS]`): must follow a completed stage-2 invalidation.
    Stage1 {
        /// Who takes part.
        scope: Scope,
    },
}

/// A data synchronisation barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dsb {
    /// Stores, inner shareable.
    Ishst,
    /// Everything, inner shareable.
    Ish,
    /// Stores, this CPU.
    Nshst,
    /// Everything, this CPU.
    Nsh,
}

/// A barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Barrier {
    /// Data synchronisation.
    Dsb(Dsb),
    /// Instruction synchronisation.
    Isb,
}

/// Cache maintenance on memory that is being mapped or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheOp {
    /// Clean and invalidate data to the point of coherency.
    DataCleanInvalidate {
        /// First byte.
        pa: Pa,
        /// Bytes.
        size: u64,
    },
    /// Invalidate instructions to the point of unification.
    InstructionInvalidate {
        /// First byte.
        pa: Pa,
        /// Bytes.
        size: u64,
    },
}
