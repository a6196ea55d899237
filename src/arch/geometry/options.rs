//! What a table's shape is chosen from, and why a choice has no shape.

use crate::arch::{Granule, Level};

/// Which levels may hold a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BlockRule {
    /// What the architecture allows: 4K 1G and 2M, and 512G with LPA2; 16K 32M, and 64G with LPA2; 64K 512M, and 4T
    /// with 52-bit physical addresses.
    #[default]
    Architecture,
    /// What KVM uses: 4K 1G and 2M; 16K 32M; 64K 512M.
    Kvm,
}

/// What to build a [`Geometry`](crate::arch::Geometry) from. `Default` is 4K, 40-bit IPA, 48-bit PA, start level as
/// KVM picks it, no LPA2, the architecture's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GeometryOptions {
    /// Page and table size.
    pub granule: Granule,
    /// Size of the IPA space in bits, 32..=52 (from 16 on for [`Geometry::of_walk`](crate::arch::Geometry::of_walk));
    /// above 48 needs `lpa2` or the 64K granule.
    pub ipa_bits: u8,
    /// Size of output addresses in bits, one of 32, 36, 40, 42, 44, 48, 52 (the values VTCR_EL2.PS can say).
    pub pa_bits: u8,
    /// Level of the root; `None` takes the deepest that 16 concatenated tables allow, as KVM does.
    pub start_level: Option<Level>,
    /// FEAT_LPA2 in use (VTCR_EL2.DS): 52-bit addresses with 4K and 16K, shareability not in the descriptor.
    pub lpa2: bool,
    /// Levels that may hold blocks.
    pub blocks: BlockRule,
}

impl Default for GeometryOptions {
    fn default() -> Self {
        Self {
            granule: Granule::K4,
            ipa_bits: 40,
            pa_bits: 48,
            start_level: None,
            lpa2: false,
            blocks: BlockRule::Architecture,
        }
    }
}

/// Why no table has the wanted shape. Numbers are bits or levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// The IPA size is outside the range.
    #[error("IPA size of {bits} bits is outside {min}..={max}")]
    IpaBits {
        /// Asked for.
        bits: u8,
        /// Smallest allowed.
        min: u8,
        /// Largest allowed.
        max: u8,
    },
    /// More than 48 bits, IPA or PA, with a 4K or 16K granule but without LPA2.
    #[error("{what} size of {bits} bits needs LPA2 with the {granule} granule (limit 48)")]
    NeedsLpa2 {
        /// `"IPA"` or `"PA"`.
        what: &'static str,
        /// Asked for.
        bits: u8,
        /// The granule.
        granule: Granule,
    },
    /// The PA size is none that VTCR_EL2.PS can express.
    #[error("PA size of {bits} bits is none of 32, 36, 40, 42, 44, 48, 52")]
    PaBits {
        /// Asked for.
        bits: u8,
    },
    /// LPA2 together with the 64K granule, which has 52-bit addresses of its own.
    #[error("LPA2 does not exist for the 64KiB granule (its 52-bit addresses need pa_bits = 52 only)")]
    Lpa2Granule,
    /// No root of 1..=16 tables at this level spans the IPA space.
    #[error(
        "start level {level} with the {granule} granule spans {min}..={max} IPA bits, not {bits}: \
         the root resolves 1 bit to a table plus 4 bits of concatenation"
    )]
    StartLevel {
        /// Level asked for.
        level: Level,
        /// The granule.
        granule: Granule,
        /// IPA size asked for.
        bits: u8,
        /// Smallest IPA size with this start level.
        min: u8,
        /// Largest IPA size with this start level.
        max: u8,
    },
    /// The start level is none that the granule and format have.
    #[error("start level {level} does not exist with the {granule} granule{hint}", hint = without_lpa2(*.lpa2_has_it))]
    NoSuchStart {
        /// Level asked for.
        level: Level,
        /// The granule.
        granule: Granule,
        /// Whether it exists with LPA2.
        lpa2_has_it: bool,
    },
}

fn without_lpa2(lpa2_has_it: bool) -> &'static str {
    if lpa2_has_it { " without LPA2" } else { "" }
}
