//! A range of pages as TLBI instructions.
//!
//! One range instruction covers `(NUM + 1) << (5 * SCALE + 1)` pages, so any even count is a sum of at most one for
//! each scale; an odd page is left for the single form. With LPA2 the base counts 64 KiB units, so pages before the
//! first such boundary are invalidated singly. The order is that of Linux: large scales first, the odd page last.

use crate::arch::{Granule, Ipa, Level};

/// log2 of the pages that one step of NUM means.
const fn unit_shift(scale: u8) -> u32 {
    5 * scale as u32 + 1
}

const MAX_SCALE: u8 = 3;
const NUM_STEPS: u64 = 32;
/// Alignment of a range's base with LPA2: 64 KiB.
const LPA2_BASE_SHIFT: u32 = 16;

/// One TLBI instruction of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RangeOp {
    /// One page, by the single form.
    Page {
        /// Its address.
        ipa: Ipa,
    },
    /// `(num + 1) << (5 * scale + 1)` pages, by the range form.
    Range {
        /// First address.
        ipa: Ipa,
        /// 0..=3.
        scale: u8,
        /// 0..=31.
        num: u8,
    },
}

impl RangeOp {
    /// Pages that it covers.
    pub const fn pages(self) -> u64 {
        match self {
            RangeOp::Page { .. } => 1,
            RangeOp::Range { scale, num, .. } => (num as u64 + 1) << unit_shift(scale),
        }
    }

    /// Value of the register operand; `level` is the hint (TTL), `None` for all levels.
    pub const fn operand(self, level: Option<Level>, granule: Granule, lpa2: bool) -> u64 {
        let translation_granule = match granule {
            Granule::K4 => 1,
            Granule::K16 => 2,
            Granule::K64 => 3,
        };
        match self {
            // TTL 47:44 = granule, level (level -1 cannot be hinted); IPA 51:12 in 39:0.
            RangeOp::Page { ipa } => {
                let ttl = match level {
                    Some(level) if level.get() >= 0 => translation_granule << 2 | level.get() as u64,
                    _ => 0,
                };
                ttl << 44 | (ipa.get() >> 12 & 0xff_ffff_ffff)
            }
            // TG 47:46, SCALE 45:44, NUM 43:39, TTL 38:37 = level 1..3, base 36:0 in pages (64 KiB units with LPA2).
            RangeOp::Range { ipa, scale, num } => {
                let ttl = match level {
                    Some(level) if level.get() >= 1 => level.get() as u64,
                    _ => 0,
                };
                let base = ipa.get() >> base_shift(granule, lpa2) & 0x1f_ffff_ffff;
                translation_granule << 46 | (scale as u64) << 44 | (num as u64) << 39 | ttl << 37 | base
            }
        }
    }
}

/// Unit of a range's base address.
const fn base_shift(granule: Granule, lpa2: bool) -> u32 {
    if lpa2 { LPA2_BASE_SHIFT } else { granule.shift() }
}

/// The instructions that invalidate `pages` pages from `ipa` (rounded down to a page), in order.
///
/// Counts above 2^21 pages, the most that one instruction covers, become several.
///
/// ```
/// use s2pt::arch::{Granule, Ipa, RangeOp, range_encoding};
/// let ipa = Ipa::new(0x8000_0000);
/// let ops: Vec<_> = range_encoding(ipa, 513, Granule::K4, false).collect();
/// assert_eq!(
///     ops,
///     [RangeOp::Range { ipa, scale: 1, num: 7 }, RangeOp::Page { ipa: Ipa::new(0x8020_0000) }]
/// );
/// ```
pub const fn range_encoding(ipa: Ipa, pages: u64, granule: Granule, lpa2: bool) -> RangeOps {
    RangeOps {
        ipa: ipa.align_down(granule.size()),
        pages,
        scale: MAX_SCALE,
        granule,
        lpa2,
    }
}

/// Iterator over the instructions of a range; made by [`range_encoding`].
#[derive(Clone, Debug)]
pub struct RangeOps {
    ipa: Ipa,
    pages: u64,
    scale: u8,
    granule: Granule,
    lpa2: bool,
}

impl RangeOps {
    /// The largest range instruction that the pages left fill.
    fn largest(&mut self) -> RangeOp {
        loop {
            let unit = unit_shift(self.scale);
            let steps = (self.pages >> unit).min(NUM_STEPS);
            if steps > 0 {
                return RangeOp::Range {
                    ipa: self.ipa,
                    scale: self.scale,
                    num: (steps - 1) as u8,
                };
            }
            // Two pages at least are left, so scale 0 always finds a step.
            self.scale -= 1;
        }
    }
}

impl Iterator for RangeOps {
    type Item = RangeOp;

    fn next(&mut self) -> Option<RangeOp> {
        if self.pages == 0 {
            return None;
        }
        let misaligned = self.lpa2 && !self.ipa.is_aligned(1 << LPA2_BASE_SHIFT);
        let op = if self.pages == 1 || misaligned {
            RangeOp::Page { ipa: self.ipa }
        } else {
            self.largest()
        };
        self.pages -= op.pages();
        // A range that ends at the top of 64 bits leaves no page, so the wrapped address is never used.
        self.ipa = Ipa::new(self.ipa.get().wrapping_add(op.pages() << self.granule.shift()));
        Some(op)
    }
}
