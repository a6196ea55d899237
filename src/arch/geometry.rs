//! The shape of one stage-2 table: granule, levels, root, and where blocks may stand.
//!
//! A table resolves `stride` bits of the IPA per level (9, 11 or 13 for 4K, 16K, 64K), except at the root: there up to
//! four bits more are resolved by concatenating 2..16 tables, or fewer bits when the IPA space ends below a full table.
//! Levels are counted as Arm counts them, -1 to 3; level 3 holds pages. Everything a walker asks is precomputed.

mod options;
mod rules;

use core::fmt;

use super::{Granule, Ipa, Level, Pa};
pub use options::{BlockRule, GeometryError, GeometryOptions};
use rules::{check_start, default_start, leaf_levels};

/// The shape of one table. Cheap to copy; all accessors are a load, a shift and a mask.
///
/// ```
/// use s2pt::arch::{Geometry, GeometryOptions, Ipa, Level, Pa};
/// let g = Geometry::new(GeometryOptions::default())?; // 4K, 40-bit IPA
/// assert_eq!((g.start_level(), g.root_frames(), g.levels()), (Level::L1, 2, 3));
/// assert_eq!(g.size(Level::L2), 2 << 20);
/// assert_eq!(g.index(Ipa::new(0x80_4020_1000), Level::L1), 513); // in the second root frame
/// assert_eq!(g.largest_leaf(Ipa::new(0x4020_0000), Pa::new(0x20_0000), 1 << 30), Level::L2);
/// # Ok::<(), s2pt::arch::GeometryError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    // By Level::slot(); eight long so that a masked index needs no bounds check.
    index_masks: [u32; 8],
    shifts: [u8; 8],
    // Bit slot() set: a leaf may stand at that level.
    leaf_levels: u8,
    /// IPA bits that a table below the root resolves.
    stride: u8,
    /// Shift and mask of an index into the root, once more, where every walk finds them.
    root_shift: u8,
    root_mask: u32,
    granule: Granule,
    start: Level,
    ipa_bits: u8,
    pa_bits: u8,
    root_frames: u8,
    lpa2: bool,
    blocks: BlockRule,
}

/// Smallest IPA size of a table that is built here, in bits.
pub(crate) const MIN_IPA_BITS: u8 = 32;
/// Largest IPA size, in bits.
pub(crate) const MAX_IPA_BITS: u8 = 52;

impl Geometry {
    /// Checks the options and computes the shape of a table that this crate builds: at least 32 IPA bits and two levels.
    ///
    /// # Errors
    /// [`GeometryError`] names the rule that the options break.
    pub fn new(options: GeometryOptions) -> Result<Self, GeometryError> {
        Self::within(options, MIN_IPA_BITS, Level::L2)
    }

    /// As [`Geometry::new`], for any table that hardware walks: also IPA sizes from 16 bits on (17 with 64K; below 25
    /// bits with FEAT_TTST only), and a root of pages, level 3 (with 4K by FEAT_TTST).
    ///
    /// # Errors
    /// [`GeometryError`] names the rule that the options break.
    ///
    /// ```
    /// use s2pt::arch::{Geometry, GeometryOptions, Level};
    /// let small = GeometryOptions { ipa_bits: 25, start_level: Some(Level::L3), ..Default::default() };
    /// assert!(Geometry::new(small).is_err());
    /// assert_eq!(Geometry::of_walk(small)?.root_frames(), 16);
    /// # Ok::<(), s2pt::arch::GeometryError>(())
    /// ```
    pub fn of_walk(options: GeometryOptions) -> Result<Self, GeometryError> {
        // T0SZ is at most 48, with the 64K granule 47.
        let min = if options.granule == Granule::K64 { 17 } else { 16 };
        Self::within(options, min, Level::L3)
    }

    fn within(options: GeometryOptions, min_ipa_bits: u8, last_start: Level) -> Result<Self, GeometryError> {
        let GeometryOptions {
            granule,
            ipa_bits,
            pa_bits,
            start_level,
            lpa2,
            blocks,
        } = options;
        if !(min_ipa_bits..=MAX_IPA_BITS).contains(&ipa_bits) {
            return Err(GeometryError::IpaBits {
                bits: ipa_bits,
                min: min_ipa_bits,
                max: MAX_IPA_BITS,
            });
        }
        if !matches!(pa_bits, 32 | 36 | 40 | 42 | 44 | 48 | 52) {
            return Err(GeometryError::PaBits { bits: pa_bits });
        }
        let wide = lpa2 || granule == Granule::K64;
        if lpa2 && granule == Granule::K64 {
            return Err(GeometryError::Lpa2Granule);
        }
        for (what, bits) in [("IPA", ipa_bits), ("PA", pa_bits)] {
            if bits > 48 && !wide {
                return Err(GeometryError::NeedsLpa2 { what, bits, granule });
            }
        }
        let start = start_level.unwrap_or_else(|| default_start(granule, ipa_bits));
        check_start(granule, ipa_bits, start, lpa2, last_start)?;
        let leaf_levels = leaf_levels(granule, start, lpa2, pa_bits, blocks);
        let shape = Shape {
            page_shift: granule.shift(),
            stride: granule.stride(),
            start,
            ipa_bits,
        };
        Ok(Self::assemble(shape, granule, pa_bits, lpa2, blocks, leaf_levels))
    }

    /// A model geometry for the checkers: 4K pages, `stride` index bits a level, `levels` levels ending in level 3,
    /// blocks at every level.
    ///
    /// # Panics
    /// Unless `levels` is 1..=5 and `stride` 1..=9.
    #[cfg(any(loom, shuttle, test))]
    pub fn tiny(levels: u32, stride: u32) -> Self {
        assert!(
            (1..=5).contains(&levels) && (1..=9).contains(&stride),
            "no tiny geometry {levels} x {stride}"
        );
        let start = rules::start_of(levels);
        let leaf_levels = Level::ALL
            .iter()
            .filter(|&&l| l >= start)
            .fold(0, |m, l| m | 1 << l.slot());
        let ipa_bits = (12 + stride * levels) as u8;
        let shape = Shape {
            page_shift: 12,
            stride,
            start,
            ipa_bits,
        };
        Self::assemble(shape, Granule::K4, 48, false, BlockRule::Architecture, leaf_levels)
    }

    fn assemble(shape: Shape, granule: Granule, pa_bits: u8, lpa2: bool, blocks: BlockRule, leaf_levels: u8) -> Self {
        let Shape {
            start,
            ipa_bits,
            stride,
            ..
        } = shape;
        let mut shifts = [0; 8];
        let mut index_masks = [0; 8];
        for level in Level::ALL {
            shifts[level.slot()] = shape.shift(level).min(63) as u8;
            index_masks[level.slot()] = match level.cmp(&start) {
                core::cmp::Ordering::Less => 0,
                core::cmp::Ordering::Equal => {
                    (1 << seeded!(RootIndex, shape.root_bits().min(stride), shape.root_bits())) - 1
                }
                core::cmp::Ordering::Greater => (1 << stride) - 1,
            };
        }
        let root_frames = 1 << shape.root_bits().saturating_sub(stride);
        Self {
            index_masks,
            shifts,
            leaf_levels,
            stride: stride as u8,
            root_shift: shifts[start.slot()],
            root_mask: index_masks[start.slot()],
            granule,
            start,
            ipa_bits,
            pa_bits,
            root_frames,
            lpa2,
            blocks,
        }
    }

    /// The same shape with blocks only at the levels that KVM uses ([`BlockRule::Kvm`]).
    #[must_use]
    pub const fn with_kvm_blocks(self) -> Self {
        let first = match self.granule {
            Granule::K4 => Level::L1,
            Granule::K16 | Granule::K64 => Level::L2,
        };
        Self {
            leaf_levels: self.leaf_levels >> first.slot() << first.slot(),
            blocks: BlockRule::Kvm,
            ..self
        }
    }

    /// The translation granule.
    #[inline]
    pub const fn granule(&self) -> Granule {
        self.granule
    }

    /// Bits of the IPA space.
    #[inline]
    pub const fn ipa_bits(&self) -> u8 {
        self.ipa_bits
    }

    /// Bits of an output address.
    #[inline]
    pub const fn pa_bits(&self) -> u8 {
        self.pa_bits
    }

    /// Whether descriptors have the LPA2 layout (VTCR_EL2.DS).
    #[inline]
    pub const fn lpa2(&self) -> bool {
        self.lpa2
    }

    /// The rule by which blocks are allowed.
    #[inline]
    pub const fn block_rule(&self) -> BlockRule {
        self.blocks
    }

    /// Level of the root table.
    #[inline]
    pub const fn start_level(&self) -> Level {
        self.start
    }

    /// Frames of the root, side by side: 1..=16.
    #[inline]
    pub const fn root_frames(&self) -> u32 {
        self.root_frames as u32
    }

    /// Levels of the table: 2..=5 (1 in a model geometry or one that is only walked).
    #[inline]
    pub const fn levels(&self) -> u32 {
        (4 - self.start.get()) as u32
    }

    /// log2 of the bytes that one entry at `level` maps. Meaningful from the start level down.
    #[inline]
    pub const fn shift(&self, level: Level) -> u32 {
        self.shifts[level.slot()] as u32
    }

    /// Bytes that one entry at `level` maps. Meaningful from the start level down.
    #[inline]
    pub const fn size(&self, level: Level) -> u64 {
        1 << (self.shift(level) & 63)
    }

    /// Entries in use in a table at `level`; at the start level those of all root frames together.
    ///
    /// A root that resolves fewer bits than a table still occupies one whole frame; the entries beyond stay empty.
    #[inline]
    pub const fn entries(&self, level: Level) -> usize {
        self.index_masks[level.slot()] as usize + 1
    }

    /// Bytes that all entries of a table at `level` map together.
    #[inline]
    pub(crate) const fn span(&self, level: Level) -> u64 {
        (self.entries(level) as u64) << (self.shift(level) & 63)
    }

    /// Index of the entry for `ipa` in its table at `level`; at the start level it counts through all root frames.
    ///
    /// Bits of `ipa` above the IPA space are ignored.
    #[inline]
    pub const fn index(&self, ipa: Ipa, level: Level) -> usize {
        ((ipa.get() >> (self.shift(level) & 63)) as u32 & self.index_masks[level.slot()]) as usize
    }

    /// The level whose leaves have `bytes`, if there is one.
    #[inline]
    pub(crate) const fn leaf_level(&self, bytes: u64) -> Option<Level> {
        if bytes == self.size(Level::L3) {
            return Some(Level::L3);
        }
        let mut level = self.start;
        while let Some(deeper) = level.deeper() {
            if bytes == self.size(level) && self.block_allowed(level) {
                return Some(level);
            }
            level = deeper;
        }
        None
    }

    /// What [`index`](Self::index) is made of at the root: shift and mask.
    #[inline(always)]
    pub(crate) const fn root_index(&self) -> (u32, usize) {
        (self.root_shift as u32, self.root_mask as usize)
    }

    /// IPA bits that a table below the root resolves: what [`shift`](Self::shift) falls by from level to level.
    #[inline]
    pub(crate) const fn stride(&self) -> u32 {
        self.stride as u32
    }

    /// First IPA that the entry for `ipa` at `level` maps.
    #[inline]
    pub const fn entry_base(&self, ipa: Ipa, level: Level) -> Ipa {
        ipa.align_down(self.size(level))
    }

    /// Whether a leaf may stand at `level`; always true at level 3, never above the start level.
    #[inline]
    pub const fn block_allowed(&self, level: Level) -> bool {
        self.leaf_levels >> level.slot() & 1 != 0
    }

    /// First address beyond the IPA space.
    #[inline]
    pub const fn ipa_limit(&self) -> u64 {
        1 << (self.ipa_bits & 63)
    }

    /// First address beyond what an output address can be.
    #[inline]
    pub const fn pa_limit(&self) -> u64 {
        1 << (self.pa_bits & 63)
    }

    /// Bytes of the root as memory holds it: whole frames.
    #[inline]
    pub const fn root_size(&self) -> u64 {
        self.granule.size() * self.root_frames as u64
    }

    /// The shallowest level at which a leaf may map `ipa` to `pa` and be at most `size` bytes: both addresses aligned
    /// to it and a block allowed there. Level 3 when nothing larger fits.
    #[inline]
    pub const fn largest_leaf(&self, ipa: Ipa, pa: Pa, size: u64) -> Level {
        // A leaf of 2^n bytes fits when n is at most the alignment of both addresses and log2 of the size; 63 for zero.
        let aligned = (ipa.get() | pa.get() | 1 << 63).trailing_zeros();
        let room = 63 - (size | 1).leading_zeros();
        let most = if aligned < room { aligned } else { room };
        let mut level = self.start;
        while let Some(deeper) = level.deeper() {
            if self.block_allowed(level) && self.shift(level) <= most {
                return level;
            }
            level = deeper;
        }
        Level::L3
    }
}

impl fmt::Debug for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Geometry({}, ipa {}, pa {}, levels {}..3, root {}{})",
            self.granule,
            self.ipa_bits,
            self.pa_bits,
            self.start,
            self.root_frames,
            if self.lpa2 { ", lpa2" } else { "" }
        )
    }
}

/// The numbers that fix all shifts.
struct Shape {
    page_shift: u32,
    stride: u32,
    start: Level,
    ipa_bits: u8,
}

impl Shape {
    fn shift(&self, level: Level) -> u32 {
        self.page_shift + self.stride * (3 - level.get()) as u32
    }

    fn root_bits(&self) -> u32 {
        u32::from(self.ipa_bits) - self.shift(self.start)
    }
}

#[cfg(test)]
mod tests;
