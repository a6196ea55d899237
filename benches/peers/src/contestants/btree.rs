//! An ordered map of leaves: what one would write who needs no hardware format.

use std::collections::BTreeMap;

use crate::hook;
use crate::layout::{BLOCK, ENTRIES, PAGE};
use crate::pool::Pool;
use crate::table::{About, Can, Leaf, Op, Peer, Table};

/// A leaf by its first address.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    pa: u64,
    block: bool,
    writable: bool,
}

impl Entry {
    const fn size(self) -> u64 {
        if self.block { BLOCK } else { PAGE }
    }
}

pub struct Map(BTreeMap<u64, Entry>);

/// Leaves of `step` bytes for a range.
fn leaves(ipa: u64, size: u64, pa: u64, step: u64, writable: bool) -> impl Iterator<Item = (u64, Entry)> {
    (0..size).step_by(step as usize).map(move |offset| {
        let entry = Entry {
            pa: pa + offset,
            block: step == BLOCK,
            writable,
        };
        (ipa + offset, entry)
    })
}

impl Map {
    /// Adds `count` leaves in ascending order: by building the map anew in one pass, unless there are few of them.
    fn add(&mut self, count: u64, leaves: impl Iterator<Item = (u64, Entry)>) {
        if self.0.is_empty() {
            self.0 = leaves.collect();
        } else if count > self.0.len() as u64 {
            self.0.append(&mut leaves.collect());
        } else {
            self.0.extend(leaves);
        }
    }

    /// A page by its own address, else the block around it: cheaper than a search for the last leaf before.
    #[inline(always)]
    fn find(&self, ipa: u64) -> Option<(u64, Entry)> {
        let (page, block) = (ipa & !(PAGE - 1), ipa & !(BLOCK - 1));
        match self.0.get(&page) {
            Some(&entry) => Some((page, entry)),
            None => self
                .0
                .get(&block)
                .filter(|entry| entry.block)
                .map(|&entry| (block, entry)),
        }
    }
}

impl Table for Map {
    fn map_pages(&mut self, ipa: u64, size: u64, pa: u64) {
        self.add(size / PAGE, leaves(ipa, size, pa, PAGE, true));
    }

    fn map_blocks(&mut self, ipa: u64, size: u64, pa: u64) {
        self.add(size / BLOCK, leaves(ipa, size, pa, BLOCK, true));
    }

    #[inline(always)]
    fn fault(&mut self, ipa: u64, pa: u64) {
        let (block, writable) = (false, true);
        self.0.entry(ipa).or_insert(Entry { pa, block, writable });
    }

    #[inline(always)]
    fn translate(&mut self, ipa: u64) -> Option<u64> {
        self.read(&(), ipa)
    }

    fn leaf(&mut self, ipa: u64) -> Option<Leaf> {
        self.find(ipa).map(|(base, entry)| Leaf {
            pa: entry.pa + (ipa - base),
            size: entry.size(),
            writable: entry.writable,
        })
    }

    fn write_protect(&mut self, ipa: u64, size: u64) {
        for (_, entry) in self.0.range_mut(ipa..ipa + size) {
            entry.writable = false;
        }
        hook::invalidate(ipa);
    }

    #[inline(always)]
    fn relax(&mut self, ipa: u64) {
        self.0.get_mut(&ipa).expect("a mapped page").writable = true;
        hook::invalidate(ipa);
    }

    /// Cuts the range out: no leaf of it is looked at one by one.
    fn unmap(&mut self, ipa: u64, size: u64) {
        let mut range = self.0.split_off(&ipa);
        let mut behind = range.split_off(&(ipa + size));
        self.0.append(&mut behind);
        hook::invalidate(ipa);
    }

    fn unmap_free(&mut self, ipa: u64, size: u64) {
        self.unmap(ipa, size);
    }

    #[inline(always)]
    fn unmap_page(&mut self, ipa: u64) {
        self.0.remove(&ipa).expect("a mapped page");
        hook::invalidate(ipa);
    }

    fn split(&mut self, ipa: u64) {
        let block = self.0.remove(&ipa).expect("a block");
        self.0.extend(leaves(ipa, BLOCK, block.pa, PAGE, block.writable));
        hook::invalidate(ipa);
    }

    fn collapse(&mut self, ipa: u64) {
        let Some(&first) = self.0.get(&ipa) else { return };
        let mut pages = 0;
        let same = self.0.range(ipa..ipa + BLOCK).all(|(&address, &entry)| {
            let pa = first.pa + (address - ipa);
            pages += 1;
            entry == Entry { pa, ..first }
        });
        if same && pages == ENTRIES && !first.block && first.pa.is_multiple_of(BLOCK) {
            self.0.extract_if(ipa..ipa + BLOCK, |_, _| true).for_each(drop);
            let block = true;
            self.0.insert(ipa, Entry { block, ..first });
            hook::invalidate(ipa);
        }
    }
}

impl Peer for Map {
    const ABOUT: About = About {
        id: "btree",
        title: "BTreeMap",
        version: env!("RUSTC_VERSION"),
        own: false,
        levels: 0,
        format: "none",
    };

    fn new(_: &'static Pool) -> Self {
        Self(BTreeMap::new())
    }

    fn can(op: Op) -> Can {
        match op {
            Op::MapPages | Op::MapBlocks => Can::By("collect into an empty map, extend otherwise"),
            Op::Fault | Op::FaultRandom => Can::By("entry, or_insert"),
            Op::Translate => Can::By("get of the page, else of the block"),
            Op::WriteProtect => Can::By("range_mut"),
            Op::Relax => Can::By("get_mut"),
            Op::Unmap | Op::UnmapFree => Can::By("split_off before and behind"),
            Op::UnmapPage => Can::By("remove"),
            Op::Split => Can::By("remove, then extend"),
            Op::Collapse => Can::By("range to compare, extract_if, insert"),
        }
    }

    type Reader = ();

    fn reader(&self) {}

    #[inline(always)]
    fn read(&self, (): &(), ipa: u64) -> Option<u64> {
        self.find(ipa).map(|(base, entry)| entry.pa + (ipa - base))
    }
}
