//! Where the guest's memory lies and how much of it there is: the same for every contestant.

/// Bytes of a page.
pub const PAGE: u64 = 4 << 10;
/// Bytes of a block one level above the pages.
pub const BLOCK: u64 = 2 << 20;
/// Pages of a block, and entries of a table.
pub const ENTRIES: u64 = BLOCK / PAGE;

/// First address that is mapped: not zero, and inside 39 bits, so that tables of three levels reach it.
pub const IPA: u64 = 0x7f_0000_0000;
/// First address that is mapped by blocks alone, a GiB after the other.
pub const BLOCKS_IPA: u64 = 0x60_0000_0000;
/// How many of them: one table of blocks is too quickly made to be timed.
pub const BLOCKS_GIB: u64 = 64;
pub const GIB: u64 = 1 << 30;

/// Where it is mapped to: a multiple of 2 MiB but not of 1 GiB, so that "by blocks" is blocks of 2 MiB for everybody.
pub const PA: u64 = 0x40_0020_0000;

/// How much is mapped in one run of a row.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Bytes that a row maps; threads map as much each.
    pub bytes: u64,
}

impl Size {
    /// What figures are taken with.
    pub const FULL: Self = Self { bytes: 1 << 30 };
    /// Enough for every branch to be passed, for the smoke test.
    pub const QUICK: Self = Self { bytes: 4 * BLOCK };

    pub const fn pages(self) -> u64 {
        self.bytes / PAGE
    }

    pub const fn blocks(self) -> u64 {
        self.bytes / BLOCK
    }
}

/// Where the table of blocks `number` begins, and what it is mapped to.
pub const fn blocks_of(number: u64) -> (u64, u64) {
    (BLOCKS_IPA + number * GIB, PA + number * GIB)
}

/// Address of page `number`.
#[inline(always)]
pub const fn page(number: u64) -> u64 {
    IPA + number * PAGE
}

/// What page `number` is mapped to.
#[inline(always)]
pub const fn output(number: u64) -> u64 {
    PA + number * PAGE
}

/// Every number below `count` once, in an order that is the same in every run (Fisher-Yates over an LCG).
pub fn shuffled(count: u64, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count as u32).collect();
    let mut state = seed;
    for last in (1..order.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, ((state >> 33) as usize) % (last + 1));
    }
    order
}
