//! Chance that is the same every time: the scripts of tests must never change with a dependency.
#![allow(dead_code)] // no test needs all of it

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
    /// Where an operation begins in a window of so many blocks, and its bytes: one page or some, a block or more, half of
    /// them from the start of a block on. It may end up to two blocks behind the window.
    pub fn range(&mut self, window: u64, page: u64, block: u64, blocks: u64) -> (u64, u64) {
        let sizes = [
            page,
            page,
            2 * page,
            5 * page,
            block / 2,
            block,
            block,
            block + page,
            2 * block,
        ];
        let size = self.pick(&sizes);
        let mut start = window + self.below(blocks * block / page) * page;
        if self.below(2) == 0 {
            start &= !(block - 1);
        }
        (start, size)
    }
}
