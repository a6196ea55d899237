//! Where a table of some shape may start, and at which of its levels a leaf may stand.

use super::{BlockRule, GeometryError};
use crate::arch::{Granule, Level};

/// A root may be this many bits wider than a table: 16 tables side by side.
const CONCATENATION_BITS: u32 = 4;

/// Start level of a table of so many levels, 1..=5.
pub(super) fn start_of(levels: u32) -> Level {
    Level::ALL[5 - levels as usize]
}

/// The deepest start level that concatenation allows, at least two levels: what KVM picks.
pub(super) fn default_start(granule: Granule, ipa_bits: u8) -> Level {
    let bits = u32::from(ipa_bits).saturating_sub(granule.shift() + CONCATENATION_BITS);
    let levels = bits.div_ceil(granule.stride()).max(2);
    start_of(levels)
}

pub(super) fn check_start(
    granule: Granule,
    ipa_bits: u8,
    level: Level,
    lpa2: bool,
    last: Level,
) -> Result<(), GeometryError> {
    let shallowest = |lpa2| match (granule, lpa2) {
        (Granule::K4, false) => Level::L0,
        (Granule::K4, true) => Level::LM1,
        (Granule::K16, false) => Level::L1,
        (Granule::K16, true) => Level::L0,
        (Granule::K64, _) => Level::L1,
    };
    if level < shallowest(lpa2) || level > last {
        let lpa2_has_it = level <= last && level >= shallowest(true);
        return Err(GeometryError::NoSuchStart {
            level,
            granule,
            lpa2_has_it,
        });
    }
    let shift = granule.shift() + granule.stride() * (3 - level.get()) as u32;
    let min = shift + 1;
    let max = shift + granule.stride() + seeded!(Concatenation, 3, CONCATENATION_BITS);
    if !(min..=max).contains(&u32::from(ipa_bits)) {
        return Err(GeometryError::StartLevel {
            level,
            granule,
            bits: ipa_bits,
            min: min as u8,
            max: max as u8,
        });
    }
    Ok(())
}

/// Arm ARM, `AArch64.BlockDescSupported`; KVM's subset is `kvm_supported_block_sizes`.
pub(super) fn leaf_levels(granule: Granule, start: Level, lpa2: bool, pa_bits: u8, rule: BlockRule) -> u8 {
    let first_block = match (granule, rule) {
        (Granule::K4, BlockRule::Architecture) if lpa2 => seeded!(BlockAt0, Level::L1, Level::L0),
        (Granule::K4, _) => seeded!(BlockAt1, Level::L2, Level::L1),
        (Granule::K16, BlockRule::Architecture) if lpa2 => Level::L1,
        (Granule::K64, BlockRule::Architecture) if pa_bits == 52 => Level::L1,
        (Granule::K16 | Granule::K64, _) => Level::L2,
    };
    let first = first_block.max(start);
    Level::ALL
        .iter()
        .filter(|&&level| level >= first)
        .fold(0, |mask, level| mask | 1 << level.slot())
}
