//! The geometry of a table, worked out from the architecture's rules alone.

use s2pt::arch::{BlockRule, Geometry, GeometryOptions, Granule, Level};

use super::bytes::Bytes;

/// What is asked for, and what is known about it without the library.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub options: GeometryOptions,
    pub page_shift: u32,
    pub start: i8,
    /// The first level that has blocks.
    pub first_block: i8,
}

/// Any options, valid or not.
pub fn options(bytes: &mut Bytes<'_>) -> GeometryOptions {
    let odd = bytes.one_in(16);
    GeometryOptions {
        granule: bytes.of(&Granule::ALL),
        ipa_bits: if odd { bytes.byte() } else { 32 + bytes.below(21) as u8 },
        pa_bits: if odd {
            bytes.byte()
        } else {
            bytes.of(&[48, 52, 40, 44, 42, 36, 32])
        },
        start_level: bytes.one_in(4).then(|| bytes.of(&Level::ALL)),
        lpa2: bytes.one_in(3),
        blocks: bytes.of(&[BlockRule::Architecture, BlockRule::Kvm]),
    }
}

impl Shape {
    /// The shape of a geometry that the library has accepted.
    pub fn of(geometry: &Geometry) -> Self {
        let (granule, lpa2, pa_bits) = (geometry.granule(), geometry.lpa2(), geometry.pa_bits());
        let rule = geometry.block_rule();
        let first_block = match (granule, rule) {
            (Granule::K4, BlockRule::Architecture) if lpa2 => 0,
            (Granule::K4, _) => 1,
            (Granule::K16, BlockRule::Architecture) if lpa2 => 1,
            (Granule::K64, BlockRule::Architecture) if pa_bits == 52 => 1,
            (Granule::K16 | Granule::K64, _) => 2,
        };
        let start = geometry.start_level();
        let options = GeometryOptions {
            granule,
            ipa_bits: geometry.ipa_bits(),
            pa_bits,
            start_level: Some(start),
            lpa2,
            blocks: rule,
        };
        Self {
            options,
            page_shift: match granule {
                Granule::K4 => 12,
                Granule::K16 => 14,
                Granule::K64 => 16,
            },
            start: start.get(),
            first_block: first_block.max(start.get()),
        }
    }

    pub fn page(&self) -> u64 {
        1 << self.page_shift
    }

    /// Bytes that an entry translates.
    pub fn size(&self, level: i8) -> u64 {
        1 << (self.page_shift + (self.page_shift - 3) * (3 - level) as u32).min(63)
    }

    /// Whether a leaf may stand at this level.
    pub fn has_leaf(&self, level: i8) -> bool {
        level >= self.first_block || level == 3
    }

    pub fn ipa_limit(&self) -> u64 {
        1 << self.options.ipa_bits
    }

    pub fn pa_limit(&self) -> u64 {
        1 << self.options.pa_bits
    }

    pub fn root_entries(&self) -> u64 {
        (self.ipa_limit() / self.size(self.start)).max(1)
    }

    pub fn entries(&self) -> u64 {
        self.page() / 8
    }

    pub fn root_frames(&self) -> u64 {
        self.root_entries().div_ceil(self.entries())
    }
}
