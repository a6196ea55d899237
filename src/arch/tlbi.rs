//! Maintenance as data: TLB invalidation, barriers, cache operations.
//!
//! A table asks for maintenance by these values; what becomes of them is up to the sink. On hardware a [`Tlbi`] is one
//! or more instructions, which [`Tlbi::operations`] yields with their operands.

mod range;

use core::fmt;

pub use range::{RangeOp, RangeOps, range_encoding};

use super::{Granule, Ipa, Level, Pa};

/// Who takes part in an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every CPU of the inner shareable domain (`..IS`).
    Broadcast,
    /// This CPU only.
    Local,
}

/// One TLB invalidation request.
///
/// ```
/// use s2pt::arch::{Granule, Ipa, Level, Scope, Tlbi};
/// let leaf = Tlbi::Ipa { ipa: Ipa::new(0x8020_0000), level: Some(Level::L2), scope: Scope::Broadcast };
/// let op = leaf.operations(Granule::K4, false).next().unwrap();
/// assert_eq!((op.mnemonic, op.operand), ("IPAS2E1IS", Some(0x6000_0008_0200)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tlbi {
    /// The stage-2 translation of one IPA (`IPAS2E1[IS]`).
    Ipa {
        /// Any address that the entry maps.
        ipa: Ipa,
        /// Level of the leaf that was changed, as a hint; `None` where a table entry went or the level is unknown. A
        /// wrong level may invalidate nothing.
        level: Option<Level>,
        /// Who takes part.
        scope: Scope,
    },
    /// The stage-2 translations of a range (`RIPAS2E1[IS]`, single ones where the encoding needs them). Needs
    /// FEAT_TLBIRANGE.
    Range {
        /// First address; rounded down to a page.
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
    /// All stage-1 and combined entries of the VMID (`VMALLE1[IS]`): must follow a completed stage-2 invalidation,
    /// else a walk under way can refill a combined entry from the old stage-2 value.
    Stage1 {
        /// Who takes part.
        scope: Scope,
    },
}

/// One TLBI instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlbiOp {
    /// Name after `TLBI`.
    pub mnemonic: &'static str,
    /// Value of the register operand; `None` for instructions that take none.
    pub operand: Option<u64>,
}

impl fmt::Display for TlbiOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operand {
            Some(operand) => write!(f, "TLBI {}, {operand:#x}", self.mnemonic),
            None => write!(f, "TLBI {}", self.mnemonic),
        }
    }
}

impl Tlbi {
    /// The instructions that do it, in order, for a table with this granule (and LPA2), on a CPU with FEAT_TTL.
    pub fn operations(self, granule: Granule, lpa2: bool) -> TlbiOps {
        let ranges = match self {
            Tlbi::Range { ipa, pages, .. } => range_encoding(ipa, pages, granule, lpa2),
            // One page whose operand is the address itself: no range of its own, but the same path.
            Tlbi::Ipa { ipa, .. } => range_encoding(ipa, 1, granule, lpa2),
            Tlbi::Vmid | Tlbi::Stage1 { .. } => range_encoding(Ipa::new(0), 0, granule, lpa2),
        };
        let whole = match self {
            Tlbi::Vmid => Some("VMALLS12E1IS"),
            Tlbi::Stage1 {
                scope: Scope::Broadcast,
            } => Some("VMALLE1IS"),
            Tlbi::Stage1 { scope: Scope::Local } => Some("VMALLE1"),
            Tlbi::Ipa { .. } | Tlbi::Range { .. } => None,
        };
        let (level, scope) = match self {
            Tlbi::Ipa { level, scope, .. } | Tlbi::Range { level, scope, .. } => (level, scope),
            Tlbi::Stage1 { scope } => (None, scope),
            Tlbi::Vmid => (None, Scope::Broadcast),
        };
        TlbiOps {
            ranges,
            whole,
            level,
            scope,
            granule,
            lpa2,
        }
    }

    /// Who takes part.
    pub const fn scope(self) -> Scope {
        match self {
            Tlbi::Ipa { scope, .. } | Tlbi::Range { scope, .. } | Tlbi::Stage1 { scope } => scope,
            Tlbi::Vmid => Scope::Broadcast,
        }
    }

    /// Whether stage-2 translations are invalidated.
    pub const fn is_stage2(self) -> bool {
        !matches!(self, Tlbi::Stage1 { .. })
    }
}

/// The instructions of one request; made by [`Tlbi::operations`].
#[derive(Clone, Debug)]
pub struct TlbiOps {
    ranges: RangeOps,
    whole: Option<&'static str>,
    level: Option<Level>,
    scope: Scope,
    granule: Granule,
    lpa2: bool,
}

impl Iterator for TlbiOps {
    type Item = TlbiOp;

    fn next(&mut self) -> Option<TlbiOp> {
        if let Some(mnemonic) = self.whole.take() {
            return Some(TlbiOp {
                mnemonic,
                operand: None,
            });
        }
        let op = self.ranges.next()?;
        let mnemonic = match (op, self.scope) {
            (RangeOp::Page { .. }, Scope::Broadcast) => "IPAS2E1IS",
            (RangeOp::Page { .. }, Scope::Local) => "IPAS2E1",
            (RangeOp::Range { .. }, Scope::Broadcast) => "RIPAS2E1IS",
            (RangeOp::Range { .. }, Scope::Local) => "RIPAS2E1",
        };
        Some(TlbiOp {
            mnemonic,
            operand: Some(op.operand(self.level, self.granule, self.lpa2)),
        })
    }
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

impl fmt::Display for Dsb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dsb::Ishst => "DSB ISHST",
            Dsb::Ish => "DSB ISH",
            Dsb::Nshst => "DSB NSHST",
            Dsb::Nsh => "DSB NSH",
        })
    }
}

/// A barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Barrier {
    /// Data synchronisation.
    Dsb(Dsb),
    /// Instruction synchronisation.
    Isb,
}

impl fmt::Display for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Barrier::Dsb(dsb) => dsb.fmt(f),
            Barrier::Isb => f.write_str("ISB"),
        }
    }
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

impl CacheOp {
    /// How many bytes it is of.
    pub const fn size(self) -> u64 {
        match self {
            Self::DataCleanInvalidate { size, .. } | Self::InstructionInvalidate { size, .. } => size,
        }
    }
}

#[cfg(test)]
mod tests;
