//! x86_64's `OffsetPageTable`: a stage-1 yardstick, whose four levels and format are fixed when it is compiled.
//!
//! It has no calls for ranges; a range is a loop over its pages, and the TLB is told by each call's flush token.

use std::ptr::NonNull;

use x86_64::structures::paging::mapper::{CleanUp, MappedFrame, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame,
    Size2MiB, Size4KiB, Translate,
};
use x86_64::{PhysAddr, VirtAddr};

use crate::hook;
use crate::layout::{BLOCK, PAGE};
use crate::pool::Pool;
use crate::table::{About, Can, Leaf, Op, Peer, Table};

const RO: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::NO_EXECUTE);
const RW: PageTableFlags = RO.union(PageTableFlags::WRITABLE);

/// Frames of the pool, whose physical address is their address.
struct Frames(&'static Pool);

// SAFETY: the pool hands out each frame once until it is given back.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    #[inline]
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = self.0.take_frame()?;
        Some(PhysFrame::containing_address(PhysAddr::new(frame.as_ptr() as u64)))
    }
}

impl FrameDeallocator<Size4KiB> for Frames {
    #[inline]
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        let frame = NonNull::new(frame.start_address().as_u64() as *mut u8).expect("no table is at zero");
        // SAFETY: the caller says that it is out of use. The mapper zeroes a frame itself when it takes it.
        unsafe { self.0.give_dirty(frame) };
    }
}

pub struct Offset {
    mapper: OffsetPageTable<'static>,
    frames: Frames,
}

#[inline(always)]
fn at<S: PageSize>(ipa: u64) -> Page<S> {
    Page::containing_address(VirtAddr::new(ipa))
}

#[inline(always)]
fn frame<S: PageSize>(pa: u64) -> PhysFrame<S> {
    PhysFrame::containing_address(PhysAddr::new(pa))
}

fn steps(ipa: u64, size: u64, step: u64) -> impl Iterator<Item = u64> {
    (ipa..ipa + size).step_by(step as usize)
}

impl Offset {
    #[inline(always)]
    fn map<S: PageSize>(&mut self, ipa: u64, pa: u64)
    where
        OffsetPageTable<'static>: Mapper<S>,
    {
        // SAFETY: nothing lives in the memory that is mapped: no CPU walks this table.
        let flush = unsafe { self.mapper.map_to(at::<S>(ipa), frame::<S>(pa), RW, &mut self.frames) };
        match flush {
            Ok(flush) => hook::invalidate(flush.page().start_address().as_u64()),
            Err(_) => panic!("{ipa:#x} is not empty"),
        }
    }

    #[inline(always)]
    fn set_flags(&mut self, ipa: u64, flags: PageTableFlags) {
        // SAFETY: as in `map`.
        let flush = unsafe { self.mapper.update_flags(at::<Size4KiB>(ipa), flags) };
        hook::invalidate(flush.expect("a mapped page").page().start_address().as_u64());
    }

    #[inline(always)]
    fn take<S: PageSize>(&mut self, ipa: u64) -> PhysFrame<S>
    where
        OffsetPageTable<'static>: Mapper<S>,
    {
        let (frame, flush) = self.mapper.unmap(at::<S>(ipa)).expect("a mapped leaf");
        hook::invalidate(flush.page().start_address().as_u64());
        frame
    }

    fn free_tables(&mut self, ipa: u64, size: u64) {
        let range = Page::range_inclusive(at(ipa), at(ipa + size - PAGE));
        // SAFETY: all tables come from `frames`, and no CPU walks them.
        unsafe { self.mapper.clean_up_addr_range(range, &mut self.frames) };
    }
}

impl Table for Offset {
    fn map_pages(&mut self, ipa: u64, size: u64, pa: u64) {
        for address in steps(ipa, size, PAGE) {
            self.map::<Size4KiB>(address, address - ipa + pa);
        }
    }

    fn map_blocks(&mut self, ipa: u64, size: u64, pa: u64) {
        for address in steps(ipa, size, BLOCK) {
            self.map::<Size2MiB>(address, address - ipa + pa);
        }
    }

    #[inline(always)]
    fn fault(&mut self, ipa: u64, pa: u64) {
        self.map::<Size4KiB>(ipa, pa);
    }

    #[inline(always)]
    fn translate(&mut self, ipa: u64) -> Option<u64> {
        self.read(&(), ipa)
    }

    fn leaf(&mut self, ipa: u64) -> Option<Leaf> {
        let TranslateResult::Mapped { frame, offset, flags } = self.mapper.translate(VirtAddr::new(ipa)) else {
            return None;
        };
        let size = match frame {
            MappedFrame::Size4KiB(_) => PAGE,
            MappedFrame::Size2MiB(_) => BLOCK,
            MappedFrame::Size1GiB(_) => 1 << 30,
        };
        Some(Leaf {
            pa: frame.start_address().as_u64() + offset,
            size,
            writable: flags.contains(PageTableFlags::WRITABLE),
        })
    }

    fn write_protect(&mut self, ipa: u64, size: u64) {
        for address in steps(ipa, size, PAGE) {
            self.set_flags(address, RO);
        }
    }

    #[inline(always)]
    fn relax(&mut self, ipa: u64) {
        self.set_flags(ipa, RW);
    }

    fn unmap(&mut self, ipa: u64, size: u64) {
        for address in steps(ipa, size, PAGE) {
            self.take::<Size4KiB>(address);
        }
    }

    fn unmap_free(&mut self, ipa: u64, size: u64) {
        self.unmap(ipa, size);
        self.free_tables(ipa, size);
    }

    #[inline(always)]
    fn unmap_page(&mut self, ipa: u64) {
        self.take::<Size4KiB>(ipa);
    }

    fn split(&mut self, ipa: u64) {
        let block = self.take::<Size2MiB>(ipa).start_address().as_u64();
        self.map_pages(ipa, BLOCK, block);
    }

    fn collapse(&mut self, ipa: u64) {
        let page = |address| match self.mapper.translate(VirtAddr::new(address)) {
            TranslateResult::Mapped {
                frame: MappedFrame::Size4KiB(frame),
                flags,
                ..
            } => Some((frame.start_address().as_u64(), flags)),
            _ => None,
        };
        let Some((first, flags)) = page(ipa) else { return };
        let whole = first.is_multiple_of(BLOCK)
            && steps(ipa, BLOCK, PAGE).all(|address| page(address) == Some((address - ipa + first, flags)));
        if whole {
            self.unmap_free(ipa, BLOCK);
            self.map::<Size2MiB>(ipa, first);
        }
    }
}

impl Peer for Offset {
    const ABOUT: About = About {
        id: "x86_64",
        title: "x86_64",
        version: "0.15.5",
        own: false,
        levels: 4,
        format: "x86-64",
    };

    fn new(pool: &'static Pool) -> Self {
        let root = pool.take_frame().expect("a free frame").cast::<PageTable>();
        // SAFETY: a zeroed frame that nobody else has, aligned and large enough; it stays until the table is dropped.
        let root: &'static mut PageTable = unsafe { &mut *root.as_ptr() };
        Self {
            // SAFETY: physical addresses of the pool are addresses of this process, so the offset is zero.
            mapper: unsafe { OffsetPageTable::new(root, VirtAddr::new(0)) },
            frames: Frames(pool),
        }
    }

    fn can(op: Op) -> Can {
        match op {
            Op::MapPages | Op::MapBlocks => Can::By("map_to of each leaf"),
            Op::WriteProtect => Can::By("update_flags of each page"),
            Op::Unmap => Can::By("unmap of each page"),
            Op::UnmapFree => Can::By("unmap of each page, then clean_up_addr_range"),
            Op::Split => Can::By("unmap, then map_to of each page"),
            Op::Collapse => {
                Can::By("translate to compare, unmap of each page, clean_up_addr_range, map_to of the block")
            }
            _ => Can::Directly,
        }
    }

    type Reader = ();

    fn reader(&self) {}

    #[inline(always)]
    fn read(&self, (): &(), ipa: u64) -> Option<u64> {
        self.mapper.translate_addr(VirtAddr::new(ipa)).map(PhysAddr::as_u64)
    }
}

impl Drop for Offset {
    /// The mapper itself frees nothing.
    fn drop(&mut self) {
        fn free(frames: &mut Frames, table: PhysFrame, level: u32) {
            // SAFETY: a table of this tree, which nobody else uses.
            let entries = unsafe { &*(table.start_address().as_u64() as *const PageTable) };
            if level > 1 {
                entries
                    .iter()
                    .filter_map(|entry| entry.frame().ok())
                    .for_each(|below| free(frames, below, level - 1));
            }
            // SAFETY: the tree goes from the leaves up, so nothing points to it any more that is read again.
            unsafe { frames.deallocate_frame(table) };
        }
        let root = self.mapper.level_4_table() as *const PageTable as u64;
        free(&mut self.frames, frame(root), 4);
    }
}
