//! The mapping behind an arena: frames as bytes, and two numbers beside each frame.

use core::marker::PhantomData;
use core::slice;

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{MmapOptions, MmapRaw};

use super::Tables;
use super::free_list::Links;
use crate::arch::Pa;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Frames at consecutive physical addresses, in one anonymous mapping that costs memory only where it is touched.
///
/// Invariant of the whole file: both mappings live exactly as long as the `Region`, are never moved, and nobody but
/// `Region` makes references into them. References into the frames are to atomics, except in [`Region::fill`] and
/// [`Region::clear`], whose callers promise to be alone with the frame.
#[derive(Debug)]
pub(super) struct Region {
    frames: MmapRaw,
    /// `u32` link, then `u32` generation, for each frame. In a mapping too, so that it is committed as it is used.
    side: MmapRaw,
    base: u64,
    shift: u32,
    count: u32,
    /// In one frame.
    entries: usize,
}

impl Region {
    /// Reserves `count` frames of `1 << shift` bytes, from `base` on; the first `hot` will be walked a lot.
    pub(super) fn new(base: Pa, shift: u32, count: u32, hot: u32) -> std::io::Result<Self> {
        let frames = MmapOptions::new()
            .len((count as usize) << shift)
            .no_reserve_swap()
            .map_anon()?;
        let side = MmapOptions::new()
            .len(count as usize * 2 * size_of::<u32>())
            .no_reserve_swap()
            .map_anon()?;
        #[cfg(target_os = "linux")]
        {
            // A table walk jumps from frame to frame: with huge pages it misses the host's TLB less. A kernel
            // without them says no, and nothing else changes.
            let _ = frames.advise_range(Advice::HugePage, 0, (hot as usize) << shift);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = hot;
        Ok(Self {
            frames: frames.into(),
            side: side.into(),
            base: base.get(),
            shift,
            count,
            entries: 1 << (shift - 3),
        })
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn frame_bytes(&self) -> usize {
        1 << self.shift
    }

    /// The address of frame `index`.
    pub(super) fn pa(&self, index: u32) -> Pa {
        Pa::new(self.base + (u64::from(index) << self.shift))
    }

    /// The index of the frame at `pa`; panics if there is none.
    #[inline(always)]
    pub(super) fn index(&self, pa: Pa) -> u32 {
        // Rotating instead of shifting brings misplaced low bits to the top: one comparison finds an address that is
        // below the base, beyond the end, or inside a frame.
        let index = pa.get().wrapping_sub(self.base).rotate_right(self.shift);
        if index >= u64::from(self.count) {
            self.refuse(pa, 1);
        }
        index as u32
    }

    /// What a walk takes along.
    #[inline]
    pub(super) fn window(&self) -> Window<'_> {
        Window {
            first: self.at(0),
            base: self.base,
            last: u64::from(self.count - 1) << self.shift,
            inside: self.frame_bytes() as u64 - 1,
            entries: self.entries,
            region: PhantomData,
        }
    }

    /// The entries of `frames` frames from the one at `pa` on; panics if they are not all inside.
    #[inline]
    pub(super) fn tables(&self, pa: Pa, frames: u32) -> &[AtomicU64] {
        let index = self.index(pa);
        if frames > self.count - index {
            self.refuse(pa, frames);
        }
        // SAFETY: [index, index + frames) lies inside the mapping (checked above), which is page-aligned, initialised
        // (zero pages) and lives as long as `self`. AtomicU64 has the layout of u64, and shared access is through
        // atomics only: plain stores happen solely to frames that their writer is alone with (see the type).
        unsafe { slice::from_raw_parts(self.at(index).cast::<AtomicU64>(), frames as usize * self.entries) }
    }

    /// Plain stores to every entry of frame `index`.
    ///
    /// # Safety
    ///
    /// Nobody else can reach the frame.
    #[inline]
    pub(super) unsafe fn fill(&self, index: u32, mut value: impl FnMut(usize) -> u64) {
        assert!(index < self.count);
        // SAFETY: inside the mapping (checked above), aligned, initialised; the caller is alone with the frame.
        let entries = unsafe { slice::from_raw_parts_mut(self.at(index).cast::<u64>(), self.entries) };
        for (i, entry) in entries.iter_mut().enumerate() {
            *entry = value(i);
        }
    }

    /// Ends a generation of frame `index`: whoever still reads it can tell, and it is zero.
    ///
    /// # Safety
    ///
    /// Nobody else can reach the frame, but for one who breaks the rules and wants to learn of it by the generation.
    pub(super) unsafe fn clear(&self, index: u32) {
        // Relaxed, then a release fence: who reads one of the zeros below, passes an acquire fence and reads the
        // generation again, sees the new one.
        self.generation(index).fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        mutated!(FreeUnzeroed, return);
        // SAFETY: `generation` has checked the index; the caller is alone with the frame.
        unsafe { self.at(index).write_bytes(0, self.frame_bytes()) };
    }

    /// As [`clear`](Self::clear), for a frame that somebody might still read: atomic stores.
    pub(super) fn clear_shared(&self, index: u32) {
        self.generation(index).fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        for entry in self.tables(self.pa(index), 1) {
            // Relaxed: the lock around the roots orders it before the next use.
            entry.store(0, Ordering::Relaxed);
        }
    }

    /// Makes the operating system back the first `frames` frames now.
    pub(super) fn prefault(&self, frames: u32) {
        for index in 0..frames.min(self.count) {
            for word in self
                .tables(self.pa(index), 1)
                .iter()
                .step_by(HOST_PAGE / size_of::<u64>())
            {
                // Relaxed: writes what is there already, for the page fault's sake. The compiler must not see that it is
                // nothing, or it leaves it out.
                word.fetch_or(core::hint::black_box(0), Ordering::Relaxed);
            }
        }
    }

    /// Generation of frame `index`.
    #[inline]
    pub(super) fn generation(&self, index: u32) -> &AtomicU32 {
        self.side(index, 1)
    }

    #[inline]
    fn side(&self, index: u32, which: usize) -> &AtomicU32 {
        assert!(index < self.count);
        // SAFETY: word 2 * index + which lies inside the side mapping (checked above; `which` is 0 or 1), is aligned,
        // initialised and only ever accessed as an atomic.
        unsafe {
            &*self
                .side
                .as_mut_ptr()
                .cast::<AtomicU32>()
                .add(2 * index as usize + which)
        }
    }

    /// Where frame `index` is in this process; `index` is in range.
    #[inline(always)]
    fn at(&self, index: u32) -> *mut u8 {
        debug_assert!(index < self.count);
        // SAFETY: callers pass an index below `count`, so the result is inside the mapping.
        unsafe { self.frames.as_mut_ptr().add((index as usize) << self.shift) }
    }

    #[cold]
    #[inline(never)]
    fn refuse(&self, pa: Pa, frames: u32) -> ! {
        let end = self.base + (u64::from(self.count) << self.shift);
        panic!(
            "{frames} table frame(s) at {pa}: the memory has frames of {:#x} bytes from {:#x} to {end:#x}",
            self.frame_bytes(),
            self.base,
        );
    }
}

/// All frames of an [`Arena`](super::Arena), as a walk takes them along.
#[derive(Clone, Copy, Debug)]
pub struct Window<'m> {
    /// Where the first frame is in this process.
    first: *mut u8,
    /// Its physical address.
    base: u64,
    /// How far behind it the last frame begins, in bytes.
    last: u64,
    /// The address bits inside a frame.
    inside: u64,
    /// Entries of one frame.
    entries: usize,
    region: PhantomData<&'m Region>,
}

// SAFETY: it stands for a `&Region`, which may be sent and shared; through the pointer only atomics are reached.
unsafe impl Send for Window<'_> {}
// SAFETY: as above.
unsafe impl Sync for Window<'_> {}

/// Takes numbers, so that a window need not be in memory for it.
#[cold]
#[inline(never)]
fn refuse_table(pa: Pa, base: u64, last: u64, inside: u64) -> ! {
    let (frame, end) = (inside + 1, base + last + inside + 1);
    panic!("table frame at {pa}: the memory has frames of {frame:#x} bytes from {base:#x} to {end:#x}");
}

impl<'m> Tables<'m> for Window<'m> {
    #[inline(always)]
    fn find(self, pa: Pa) -> &'m [AtomicU64] {
        let offset = (pa.get() & !self.inside).wrapping_sub(self.base);
        if offset > self.last {
            refuse_table(pa, self.base, self.last, self.inside);
        }
        // SAFETY: a frame begins at `offset` and is inside the mapping (checked above), which lives for 'm; otherwise as
        // in `Region::tables`.
        unsafe { slice::from_raw_parts(self.first.add(offset as usize).cast::<AtomicU64>(), self.entries) }
    }
}

impl Links for Region {
    #[inline]
    fn next(&self, index: u32) -> &AtomicU32 {
        self.side(index, 0)
    }
}

/// The smallest page of any host: touching each makes it resident.
const HOST_PAGE: usize = 4096;
