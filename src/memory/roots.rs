//! Roots: up to 16 contiguous frames, aligned to their size. Rare and not on any hot path, hence behind a lock.
//!
//! They have a part of the region to themselves. A frame that was ever part of a root is thus never handed out as a
//! private [`Frame`](super::Frame), and ordinary frames cannot fragment the space that roots need.

use std::collections::{BTreeMap, BTreeSet};

/// Largest root, in frames.
pub(super) const LARGEST: u32 = 16;
const ORDERS: usize = LARGEST.ilog2() as usize + 1;

/// A buddy allocator over indices `0..` in runs of a power of two.
#[derive(Debug)]
pub(super) struct Roots {
    /// Free runs of `1 << order` frames, by first index.
    free: [BTreeSet<u32>; ORDERS],
    /// First index that was never used; a multiple of [`LARGEST`].
    fresh: u32,
    limit: u32,
    /// Roots that are out: first index, frames asked for.
    live: BTreeMap<u32, u32>,
}

impl Roots {
    /// Runs within `0..limit`; `limit` is a multiple of [`LARGEST`].
    pub(super) fn new(limit: u32) -> Self {
        debug_assert!(limit.is_multiple_of(LARGEST));
        Self {
            free: Default::default(),
            fresh: 0,
            limit,
            live: BTreeMap::new(),
        }
    }

    /// The first index of a run of `frames`, aligned to `frames` rounded up to a power of two.
    pub(super) fn take(&mut self, frames: u32) -> Option<u32> {
        assert!(
            (1..=LARGEST).contains(&frames),
            "a root has 1 to {LARGEST} frames, not {frames}"
        );
        let order = frames.next_power_of_two().ilog2() as usize;
        let first = self.run(order)?;
        self.live.insert(first, frames);
        Some(first)
    }

    fn run(&mut self, order: usize) -> Option<u32> {
        if let Some(first) = self.free[order].pop_first() {
            return Some(first);
        }
        if order + 1 == ORDERS {
            let first = self.fresh;
            self.fresh += LARGEST;
            return (first < self.limit).then_some(first).or_else(|| {
                self.fresh = first;
                None
            });
        }
        let first = self.run(order + 1)?;
        self.free[order].insert(first + (1 << order));
        Some(first)
    }

    /// Takes a run back; false if no root of `frames` frames starts there.
    pub(super) fn free(&mut self, mut first: u32, frames: u32) -> bool {
        if self.live.get(&first) != Some(&frames) {
            return false;
        }
        self.live.remove(&first);
        let mut order = frames.next_power_of_two().ilog2() as usize;
        while order + 1 < ORDERS && self.free[order].remove(&(first ^ (1 << order))) {
            first &= !(1 << order);
            order += 1;
        }
        self.free[order].insert(first);
        true
    }

    pub(super) fn count(&self) -> usize {
        self.live.len()
    }
}
