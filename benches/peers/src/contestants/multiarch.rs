//! page_table_multiarch, in both versions. Their code for 64-bit tables is the same, so what differs is noise.
//!
//! The format is the one that the crate compiles for this machine, with its three- or four-level walk. TLB invalidation
//! and frames come through its own traits.

use crate::hook;
use crate::layout::BLOCK;
use crate::pool::{Pool, pool};
use crate::table::{About, Can, Leaf, Op, Peer, Table};

macro_rules! version {
    ($module:ident, $version:literal, $ids:expr, $titles:expr, $table:ident, $entry:ident, $memory:ident) => {
        pub mod $module {
            use std::ptr::NonNull;

            #[cfg(target_arch = "aarch64")]
            use $entry::aarch64::A64PTE as Entry;
            #[cfg(target_arch = "x86_64")]
            use $entry::x86_64::X64PTE as Entry;
            use $memory::{PhysAddr, VirtAddr};
            use $table::{MappingFlags, PageSize, PageTable64, PagingHandler, PagingMetaData};

            use super::*;

            pub struct MetaData<const LEVELS: u32>;

            impl<const LEVELS: u32> PagingMetaData for MetaData<LEVELS> {
                const LEVELS: usize = LEVELS as usize;
                const PA_MAX_BITS: usize = 48;
                const VA_MAX_BITS: usize = if LEVELS == 3 { 39 } else { 48 };
                type VirtAddr = VirtAddr;

                #[inline(always)]
                fn flush_tlb(address: Option<VirtAddr>) {
                    hook::invalidate(address.map_or(0, |address| address.as_usize() as u64));
                }
            }

            pub struct Frames;

            impl PagingHandler for Frames {
                #[inline]
                fn alloc_frames(frames: usize, _: usize) -> Option<PhysAddr> {
                    assert_eq!(frames, 1, "only 32-bit tables take more");
                    let frame = pool().take_frame()?;
                    Some(PhysAddr::from(frame.as_ptr() as usize))
                }

                #[inline]
                fn dealloc_frames(address: PhysAddr, _: usize) {
                    let frame = NonNull::new(address.as_usize() as *mut u8).expect("no table is at zero");
                    // SAFETY: the table came from `alloc_frames`, and the library uses it no more. It zeroes a frame
                    // itself when it takes it.
                    unsafe { pool().give_dirty(frame) };
                }

                #[inline(always)]
                fn phys_to_virt(address: PhysAddr) -> VirtAddr {
                    VirtAddr::from(address.as_usize())
                }
            }

            const RO: MappingFlags = MappingFlags::READ;
            const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

            pub struct Multiarch<const LEVELS: u32>(PageTable64<MetaData<LEVELS>, Entry, Frames>);

            #[inline(always)]
            fn va(address: u64) -> VirtAddr {
                VirtAddr::from(address as usize)
            }

            #[inline(always)]
            fn pa(address: u64) -> PhysAddr {
                PhysAddr::from(address as usize)
            }

            impl<const LEVELS: u32> Table for Multiarch<LEVELS> {
                fn map_pages(&mut self, ipa: u64, size: u64, to: u64) {
                    let output = |address: VirtAddr| pa(address.as_usize() as u64 - ipa + to);
                    self.0
                        .cursor()
                        .map_region(va(ipa), output, size as usize, RW, false)
                        .expect("an empty range");
                }

                fn map_blocks(&mut self, ipa: u64, size: u64, to: u64) {
                    let output = |address: VirtAddr| pa(address.as_usize() as u64 - ipa + to);
                    self.0
                        .cursor()
                        .map_region(va(ipa), output, size as usize, RW, true)
                        .expect("an empty range");
                }

                #[inline(always)]
                fn fault(&mut self, ipa: u64, to: u64) {
                    self.0
                        .cursor()
                        .map(va(ipa), pa(to), PageSize::Size4K, RW)
                        .expect("an empty page");
                }

                #[inline(always)]
                fn translate(&mut self, ipa: u64) -> Option<u64> {
                    self.read(&(), ipa)
                }

                fn leaf(&mut self, ipa: u64) -> Option<Leaf> {
                    let (pa, flags, size) = self.0.query(va(ipa)).ok()?;
                    Some(Leaf {
                        pa: pa.as_usize() as u64,
                        size: size as u64,
                        writable: flags.contains(MappingFlags::WRITE),
                    })
                }

                fn write_protect(&mut self, ipa: u64, size: u64) {
                    self.0
                        .cursor()
                        .protect_region(va(ipa), size as usize, RO)
                        .expect("a mapped range");
                }

                #[inline(always)]
                fn relax(&mut self, ipa: u64) {
                    self.0.cursor().protect(va(ipa), RW).expect("a mapped page");
                }

                fn unmap(&mut self, ipa: u64, size: u64) {
                    self.0
                        .cursor()
                        .unmap_region(va(ipa), size as usize)
                        .expect("a mapped range");
                }

                fn unmap_free(&mut self, _: u64, _: u64) {
                    unreachable!("the row is left out");
                }

                #[inline(always)]
                fn unmap_page(&mut self, ipa: u64) {
                    self.0.cursor().unmap(va(ipa)).expect("a mapped page");
                }

                fn split(&mut self, ipa: u64) {
                    let mut cursor = self.0.cursor();
                    let (to, flags, _) = cursor.unmap(va(ipa)).expect("a block");
                    let first = to.as_usize() as u64;
                    let output = |address: VirtAddr| pa(address.as_usize() as u64 - ipa + first);
                    cursor
                        .map_region(va(ipa), output, BLOCK as usize, flags, false)
                        .expect("the block is gone");
                }

                fn collapse(&mut self, _: u64) {
                    unreachable!("the row is left out");
                }
            }

            impl<const LEVELS: u32> Peer for Multiarch<LEVELS> {
                const ABOUT: About = About {
                    id: if LEVELS == 3 { $ids.0 } else { $ids.1 },
                    title: if LEVELS == 3 { $titles.0 } else { $titles.1 },
                    version: $version,
                    own: false,
                    levels: LEVELS,
                    format: if cfg!(target_arch = "aarch64") {
                        "Arm stage 1"
                    } else {
                        "x86-64"
                    },
                };

                fn new(_: &'static Pool) -> Self {
                    Self(PageTable64::try_new().expect("a root"))
                }

                fn can(op: Op) -> Can {
                    super::can(op)
                }

                type Reader = ();

                fn reader(&self) {}

                #[inline(always)]
                fn read(&self, (): &(), ipa: u64) -> Option<u64> {
                    let found = self.0.query(va(ipa));
                    found.ok().map(|(pa, ..)| pa.as_usize() as u64)
                }
            }
        }
    };
}

fn can(op: Op) -> Can {
    match op {
        Op::UnmapFree => Can::Not("frees no table before the whole tree goes"),
        Op::Split => Can::By("unmap, then map_region by pages"),
        Op::Collapse => Can::Not("a table stays in the tree, so no block can take its place"),
        _ => Can::Directly,
    }
}

version!(
    v06,
    "0.6.1",
    ("multiarch_06", "multiarch_06_4l"),
    ("page_table_multiarch 0.6", "page_table_multiarch 0.6, 4 levels"),
    page_table_multiarch_06,
    page_table_entry_06,
    memory_addr_06
);
version!(
    v08,
    "0.8.1",
    ("multiarch_08", "multiarch_08_4l"),
    ("page_table_multiarch 0.8", "page_table_multiarch 0.8, 4 levels"),
    page_table_multiarch_08,
    page_table_entry_08,
    memory_addr_08
);
