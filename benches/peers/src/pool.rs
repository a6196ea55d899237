//! The frames that every table is made of: one mapping, touched before, and a stack of free frames.
//!
//! A frame's physical address is its address in this process, which is the cheapest translation a table can have.
//! Frames are handed out zeroed and zeroed when they come back, as s2pt and aarch64-paging ask. Libraries that zero a
//! frame themselves when they take it give theirs back dirty, and it is zeroed between two runs; nobody pays twice.

use std::ptr::NonNull;
use std::slice;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};
use parking_lot::Mutex;
use s2pt::arch::Pa;
use s2pt::memory::{Frame, OutOfFrames, TableMemory, Tables};

const FRAME: usize = 4096;
/// Frames for tables: two GiB of pages take 1030.
const FRAMES: usize = 4096;
/// Frames for s2pt's roots, which may have to be several side by side. A root of 2^n frames is aligned to its size.
const ROOTS: usize = 64;
const LARGEST_ROOT: usize = 16;

pub struct Pool {
    #[expect(dead_code, reason = "keeps the mapping alive, which is reached by address")]
    mapping: MmapRaw,
    /// First frame for tables; roots lie before it.
    base: usize,
    clean: Mutex<Vec<u32>>,
    dirty: Mutex<Vec<u32>>,
    roots: Mutex<[bool; ROOTS]>,
    /// Clean frames that no operation of s2pt has set aside.
    available: AtomicUsize,
}

/// The one pool: page_table_multiarch has no place for a reference to one.
pub fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(Pool::new)
}

impl Pool {
    fn new() -> Self {
        let frames = MmapOptions::new()
            .len((FRAMES + ROOTS + LARGEST_ROOT) * FRAME)
            .map_anon()
            .expect("memory for the table frames");
        // As s2pt's own arena does; a kernel without huge pages says no and nothing else changes.
        let _ = frames.advise(Advice::HugePage);
        let frames = MmapRaw::from(frames);
        let base = (frames.as_mut_ptr() as usize).next_multiple_of(LARGEST_ROOT * FRAME) + ROOTS * FRAME;
        for offset in (0..frames.len()).step_by(FRAME) {
            // SAFETY: inside the mapping, which nobody else knows yet.
            unsafe { frames.as_mut_ptr().add(offset).write_volatile(0) };
        }
        Self {
            mapping: frames,
            base,
            // Handed out from the top: neighbours in time are neighbours in memory.
            clean: Mutex::new((0..FRAMES as u32).rev().collect()),
            dirty: Mutex::new(Vec::with_capacity(FRAMES)),
            roots: Mutex::new([false; ROOTS]),
            available: AtomicUsize::new(FRAMES),
        }
    }

    /// A zeroed frame.
    #[inline]
    pub fn take_frame(&self) -> Option<NonNull<u8>> {
        let index = self.clean.lock().pop()?;
        NonNull::new((self.base + index as usize * FRAME) as *mut u8)
    }

    /// Takes a frame back and zeroes it.
    ///
    /// # Safety
    ///
    /// It is a frame of the pool that is out, and nobody uses it any more.
    #[inline]
    pub unsafe fn give_frame(&self, frame: NonNull<u8>) {
        // SAFETY: all of the frame is inside the mapping, and the caller gives it up.
        unsafe { frame.write_bytes(0, FRAME) };
        self.clean.lock().push(self.index(frame.as_ptr() as usize) as u32);
    }

    /// Takes a frame back as it is; [`tidy`](Self::tidy) makes it fit to be handed out.
    ///
    /// # Safety
    ///
    /// As for [`give_frame`](Self::give_frame).
    #[inline]
    pub unsafe fn give_dirty(&self, frame: NonNull<u8>) {
        self.dirty.lock().push(self.index(frame.as_ptr() as usize) as u32);
    }

    /// Zeroes what came back dirty and puts the frames into the same order as in the run before: for between two runs.
    ///
    /// # Panics
    ///
    /// If a table of the run before has kept a frame.
    pub fn tidy(&self) {
        let mut clean = self.clean.lock();
        for index in self.dirty.lock().drain(..) {
            let frame = (self.base + index as usize * FRAME) as *mut u8;
            // SAFETY: a frame of the pool that is in no list but the drained one, so nobody uses it.
            unsafe { frame.write_bytes(0, FRAME) };
            clean.push(index);
        }
        assert_eq!(clean.len(), FRAMES, "a table has kept frames");
        clean.sort_unstable_by(|a, b| b.cmp(a));
        self.available.store(FRAMES, Ordering::Relaxed);
    }

    /// Frames that are out, roots of s2pt not counted.
    pub fn frames_out(&self) -> usize {
        FRAMES - self.clean.lock().len() - self.dirty.lock().len()
    }

    #[inline]
    fn index(&self, address: usize) -> usize {
        let index = address.wrapping_sub(self.base) / FRAME;
        assert!(index < FRAMES, "{address:#x} is no frame of the pool");
        index
    }

    fn window(&self) -> Window {
        Window {
            first: (self.base - ROOTS * FRAME) as u64,
        }
    }
}

/// Where the pool's frames are, roots included: what a walk of s2pt takes along.
#[derive(Clone, Copy)]
pub struct Window {
    first: u64,
}

impl Window {
    /// The entries of `frames` frames from the one at `address` on.
    #[inline(always)]
    fn entries<'m>(self, address: u64, frames: usize) -> &'m [AtomicU64] {
        let offset = (address & !(FRAME as u64 - 1)).wrapping_sub(self.first);
        assert!(
            offset <= ((FRAMES + ROOTS - frames) * FRAME) as u64,
            "{address:#x} is no frame of the pool"
        );
        // SAFETY: inside the mapping (checked above), which lives as long as the program, page-aligned and initialised.
        // s2pt reaches frames in shared use through these atomics only, and the other libraries' tables live in frames
        // that are out at another time.
        unsafe { slice::from_raw_parts((self.first + offset) as *const AtomicU64, frames * FRAME / 8) }
    }
}

impl<'m> Tables<'m> for Window {
    #[inline(always)]
    fn find(self, pa: Pa) -> &'m [AtomicU64] {
        self.entries(pa.get(), 1)
    }
}

impl TableMemory for Pool {
    type Tables<'m> = Window;

    #[inline]
    fn tables(&self) -> Window {
        self.window()
    }

    #[inline]
    fn reserve(&self, frames: usize) -> Result<(), OutOfFrames> {
        let less = |available: usize| available.checked_sub(frames);
        match self.available.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(()),
            Err(available) => Err(OutOfFrames {
                needed: frames,
                available,
            }),
        }
    }

    #[inline]
    fn unreserve(&self, frames: usize) {
        self.available.fetch_add(frames, Ordering::Relaxed);
    }

    #[inline]
    fn take(&self) -> Frame {
        let frame = self.take_frame().expect("a reservation");
        // SAFETY: a frame of this pool that was in the list of free ones a moment ago.
        unsafe { Frame::from_raw(Pa::new(frame.as_ptr() as u64)) }
    }

    fn take_root(&self, frames: u32) -> Result<Pa, OutOfFrames> {
        let frames = frames as usize;
        let mut roots = self.roots.lock();
        let start = (0..ROOTS)
            .step_by(frames.next_power_of_two())
            .find(|&start| roots[start..start + frames].iter().all(|taken| !taken))
            .ok_or(OutOfFrames {
                needed: frames,
                available: 0,
            })?;
        roots[start..start + frames].fill(true);
        Ok(Pa::new((self.base - (ROOTS - start) * FRAME) as u64))
    }

    #[inline]
    fn free(&self, frame: Frame) {
        self.put_back(frame);
        self.unreserve(1);
    }

    #[inline]
    fn put_back(&self, frame: Frame) {
        let frame = NonNull::new(frame.into_pa().get() as *mut u8).expect("an address of the pool");
        // SAFETY: `index` in there checks that the frame is the pool's; a `Frame` is nobody else's.
        unsafe { self.give_frame(frame) };
    }

    fn free_root(&self, root: Pa, frames: u32) {
        for entry in self.window().entries(root.get(), frames as usize) {
            entry.store(0, Ordering::Relaxed);
        }
        let start = ROOTS - (self.base - root.get() as usize) / FRAME;
        self.roots.lock()[start..start + frames as usize].fill(false);
    }

    #[inline]
    fn table(&self, pa: Pa) -> &[AtomicU64] {
        self.window().entries(pa.get(), 1)
    }

    #[inline]
    fn root(&self, pa: Pa, frames: u32) -> &[AtomicU64] {
        self.window().entries(pa.get(), frames as usize)
    }

    #[inline]
    fn fill(&self, frame: &mut Frame, mut value: impl FnMut(usize) -> u64) {
        let address = self.base + self.index(frame.pa().get() as usize) * FRAME;
        // SAFETY: inside the mapping, aligned, initialised; `&mut Frame` says that nobody else touches it.
        let entries = unsafe { slice::from_raw_parts_mut(address as *mut u64, FRAME / 8) };
        for (index, entry) in entries.iter_mut().enumerate() {
            *entry = value(index);
        }
    }

    fn frames_in_use(&self) -> usize {
        self.frames_out() + self.roots.lock().iter().filter(|taken| **taken).count()
    }
}
