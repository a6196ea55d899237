//! aarch64-paging: Arm stage-2 tables, made while no CPU walks them.
//!
//! The mapping stays inactive, which is its fastest way: active, it walks every range once more to check the rules of
//! break-before-make, and refuses to split a block. It issues no TLBI then, so the TLB is told here, once a call.

use std::ptr::NonNull;

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes, UpdatableDescriptor};
use aarch64_paging::paging::{Constraints, MemoryRegion, PageTable, Stage2, Translation};

use crate::hook;
use crate::layout::{BLOCK, PAGE};
use crate::pool::Pool;
use crate::table::{About, Can, Leaf, Op, Peer, Table};

type Attributes = Stage2Attributes;

/// Readable and writable normal memory.
const PAGE_RW: Attributes = Attributes::VALID
    .union(Attributes::MEMATTR_NORMAL_OUTER_WB)
    .union(Attributes::MEMATTR_NORMAL_INNER_WB)
    .union(Attributes::SH_INNER)
    .union(Attributes::S2AP_ACCESS_RW)
    .union(Attributes::ACCESS_FLAG)
    .union(Attributes::XN);
const PAGES_ONLY: Constraints = Constraints::NO_BLOCK_MAPPINGS.union(Constraints::NO_CONTIGUOUS_HINT);

/// Frames of the pool, whose physical address is their address.
struct Frames(&'static Pool);

impl Translation<Attributes> for Frames {
    #[inline]
    fn allocate_table(&mut self) -> (NonNull<PageTable<Attributes>>, PhysicalAddress) {
        let frame = self.0.take_frame().expect("a free frame");
        (frame.cast(), PhysicalAddress(frame.as_ptr() as usize))
    }

    #[inline]
    unsafe fn deallocate_table(&mut self, page_table: NonNull<PageTable<Attributes>>) {
        // SAFETY: the caller promises that it came from `allocate_table` and is used no more.
        unsafe { self.0.give_frame(page_table.cast()) };
    }

    #[inline]
    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<Attributes>> {
        NonNull::new(pa.0 as *mut PageTable<Attributes>).expect("a table is not at zero")
    }
}

pub struct Paging<const LEVELS: u32>(Mapping<Frames, Stage2>);

fn region(ipa: u64, size: u64) -> MemoryRegion {
    MemoryRegion::new(ipa as usize, (ipa + size) as usize)
}

impl<const LEVELS: u32> Paging<LEVELS> {
    #[inline(always)]
    fn map(&mut self, ipa: u64, size: u64, pa: u64, attributes: Attributes, constraints: Constraints) {
        let pa = PhysicalAddress(pa as usize);
        self.0
            .map_range(&region(ipa, size), pa, attributes, constraints)
            .expect("a range of the table");
    }

    #[inline(always)]
    fn modify(&mut self, ipa: u64, size: u64, set: Attributes, clear: Attributes) {
        let change = |_: &MemoryRegion, entry: &mut UpdatableDescriptor<Attributes>| entry.modify_flags(set, clear);
        self.0
            .modify_range(&region(ipa, size), &change)
            .expect("a mapped range");
    }

    #[inline(always)]
    fn find(&self, ipa: u64) -> Option<Leaf> {
        let mut found = None;
        self.0
            .walk_range(&region(ipa, 1), &mut |_, entry, level| {
                if entry.is_valid() {
                    let size = PAGE << (9 * (3 - level));
                    found = Some(Leaf {
                        pa: entry.output_address().0 as u64 + (ipa & (size - 1)),
                        size,
                        writable: entry.flags().contains(Attributes::S2AP_ACCESS_WO),
                    });
                }
                Ok(())
            })
            .expect("a range of the table");
        found
    }
}

impl<const LEVELS: u32> Table for Paging<LEVELS> {
    fn map_pages(&mut self, ipa: u64, size: u64, pa: u64) {
        self.map(ipa, size, pa, PAGE_RW, PAGES_ONLY);
    }

    fn map_blocks(&mut self, ipa: u64, size: u64, pa: u64) {
        self.map(ipa, size, pa, PAGE_RW, Constraints::NO_CONTIGUOUS_HINT);
    }

    #[inline(always)]
    fn fault(&mut self, ipa: u64, pa: u64) {
        self.map(ipa, PAGE, pa, PAGE_RW, PAGES_ONLY);
    }

    #[inline(always)]
    fn translate(&mut self, ipa: u64) -> Option<u64> {
        self.find(ipa).map(|leaf| leaf.pa)
    }

    fn leaf(&mut self, ipa: u64) -> Option<Leaf> {
        self.find(ipa)
    }

    fn write_protect(&mut self, ipa: u64, size: u64) {
        self.modify(ipa, size, Attributes::empty(), Attributes::S2AP_ACCESS_WO);
        hook::invalidate(ipa);
    }

    #[inline(always)]
    fn relax(&mut self, ipa: u64) {
        self.modify(ipa, PAGE, Attributes::S2AP_ACCESS_WO, Attributes::empty());
        hook::invalidate(ipa);
    }

    /// Frees the tables that the range covers whole, as it comes.
    fn unmap(&mut self, ipa: u64, size: u64) {
        self.map(ipa, size, 0, Attributes::empty(), Constraints::empty());
        hook::invalidate(ipa);
    }

    fn unmap_free(&mut self, ipa: u64, size: u64) {
        self.unmap(ipa, size);
    }

    #[inline(always)]
    fn unmap_page(&mut self, ipa: u64) {
        self.map(ipa, PAGE, 0, Attributes::empty(), PAGES_ONLY);
        hook::invalidate(ipa);
    }

    fn split(&mut self, ipa: u64) {
        self.modify(ipa, PAGE, Attributes::empty(), Attributes::empty());
        hook::invalidate(ipa);
    }

    fn collapse(&mut self, ipa: u64) {
        let (mut first, mut next, mut uniform) = (None, 0, true);
        self.0
            .walk_range(&region(ipa, BLOCK), &mut |_, entry, level| {
                let (pa, flags) = (entry.output_address().0, entry.flags());
                match first {
                    None => {
                        uniform = level == 3 && entry.is_valid() && (pa as u64).is_multiple_of(BLOCK);
                        first = Some((pa, flags));
                    }
                    Some((_, expected)) => uniform &= pa == next && flags == expected,
                }
                next = pa + PAGE as usize;
                if uniform { Ok(()) } else { Err(()) }
            })
            .ok();
        if let (Some((pa, flags)), true) = (first, uniform) {
            self.unmap(ipa, BLOCK);
            let attributes = flags - Attributes::TABLE_OR_PAGE;
            self.map(ipa, BLOCK, pa as u64, attributes, Constraints::NO_CONTIGUOUS_HINT);
        }
    }
}

impl<const LEVELS: u32> Peer for Paging<LEVELS> {
    const ABOUT: About = About {
        id: if LEVELS == 3 {
            "aarch64_paging"
        } else {
            "aarch64_paging_4l"
        },
        title: if LEVELS == 3 {
            "aarch64-paging"
        } else {
            "aarch64-paging, 4 levels"
        },
        version: "0.12.1",
        own: false,
        levels: LEVELS,
        format: "Arm stage 2",
    };

    fn new(pool: &'static Pool) -> Self {
        Self(Mapping::new(Frames(pool), 4 - LEVELS as usize, Stage2))
    }

    fn can(op: Op) -> Can {
        match op {
            Op::Translate => Can::By("walk_range over one byte"),
            Op::Split => Can::By("modify_range of one page that changes nothing"),
            Op::Collapse => Can::By("walk_range to compare, map_range to unmap, map_range of the block"),
            Op::Unmap | Op::UnmapFree | Op::UnmapPage => Can::By("map_range with invalid flags"),
            _ => Can::Directly,
        }
    }

    type Reader = ();

    fn reader(&self) {}

    #[inline(always)]
    fn read(&self, (): &(), ipa: u64) -> Option<u64> {
        self.find(ipa).map(|leaf| leaf.pa)
    }
}
