//! Table memory as a small hypervisor might have it: a static pool, addresses used as they are.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use s2pt::arch::Pa;
use s2pt::memory::{Frame, OutOfFrames, TableMemory};

pub const FRAMES: usize = 64;
const ENTRIES: usize = 512;
const FRAME_BYTES: u64 = 4096;

/// Aligned for the largest concatenated root, 16 frames.
#[repr(align(65536))]
pub struct Pool {
    entries: [[AtomicU64; ENTRIES]; FRAMES],
    taken: [AtomicBool; FRAMES],
    in_use: AtomicUsize,
    /// In use or set aside.
    claimed: AtomicUsize,
}

impl Pool {
    pub const fn new() -> Self {
        Self {
            entries: [const { [const { AtomicU64::new(0) }; ENTRIES] }; FRAMES],
            taken: [const { AtomicBool::new(false) }; FRAMES],
            in_use: AtomicUsize::new(0),
            claimed: AtomicUsize::new(0),
        }
    }

    fn pa(&self, index: usize) -> Pa {
        Pa::new(self.entries[index].as_ptr() as u64)
    }

    fn index(&self, pa: Pa) -> usize {
        let offset = pa
            .get()
            .checked_sub(self.pa(0).get())
            .expect("an address below the pool");
        (offset / FRAME_BYTES) as usize
    }

    /// Marks `frames` neighbours as taken, the first at a multiple of `align`.
    fn occupy(&self, frames: usize, align: usize) -> Option<usize> {
        let start = (0..=FRAMES - frames).step_by(align).find(|&start| {
            self.taken[start..start + frames]
                .iter()
                .all(|taken| !taken.load(Ordering::Acquire))
        })?;
        for taken in &self.taken[start..start + frames] {
            // One CPU runs this program, so nobody came between.
            taken.store(true, Ordering::Relaxed);
        }
        self.in_use.fetch_add(frames, Ordering::Relaxed);
        Some(start)
    }

    fn vacate(&self, start: usize, frames: usize) {
        for index in start..start + frames {
            self.entries[index]
                .iter()
                .for_each(|entry| entry.store(0, Ordering::Relaxed));
            self.taken[index].store(false, Ordering::Release);
        }
        self.in_use.fetch_sub(frames, Ordering::Relaxed);
        self.claimed.fetch_sub(frames, Ordering::Relaxed);
    }
}

impl TableMemory for Pool {
    type Tables<'m> = &'m Self;

    fn tables(&self) -> &Self {
        self
    }

    fn reserve(&self, frames: usize) -> Result<(), OutOfFrames> {
        self.claimed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |claimed| {
                (claimed + frames <= FRAMES).then_some(claimed + frames)
            })
            .map(|_| ())
            .map_err(|claimed| OutOfFrames {
                needed: frames,
                available: FRAMES - claimed,
            })
    }

    fn unreserve(&self, frames: usize) {
        self.claimed.fetch_sub(frames, Ordering::Relaxed);
    }

    fn take(&self) -> Frame {
        let index = self.occupy(1, 1).expect("a take without a reservation");
        // SAFETY: the frame was free a moment ago and is marked as taken now, so no other `Frame` names it.
        unsafe { Frame::from_raw(self.pa(index)) }
    }

    fn put_back(&self, frame: Frame) {
        self.vacate(self.index(frame.into_pa()), 1);
        self.claimed.fetch_add(1, Ordering::Relaxed);
    }

    fn take_root(&self, frames: u32) -> Result<Pa, OutOfFrames> {
        self.reserve(frames as usize)?;
        let start = self.occupy(frames as usize, frames.next_power_of_two() as usize);
        start.map(|start| self.pa(start)).ok_or_else(|| {
            self.unreserve(frames as usize);
            OutOfFrames {
                needed: frames as usize,
                available: 0,
            }
        })
    }

    fn free(&self, frame: Frame) {
        self.vacate(self.index(frame.into_pa()), 1);
    }

    fn free_root(&self, root: Pa, frames: u32) {
        self.vacate(self.index(root), frames as usize);
    }

    fn table(&self, pa: Pa) -> &[AtomicU64] {
        &self.entries[self.index(pa)]
    }

    fn root(&self, pa: Pa, frames: u32) -> &[AtomicU64] {
        let start = self.index(pa);
        self.entries[start..start + frames as usize].as_flattened()
    }

    fn fill(&self, frame: &mut Frame, mut value: impl FnMut(usize) -> u64) {
        for (index, entry) in self.table(frame.pa()).iter().enumerate() {
            entry.store(value(index), Ordering::Relaxed);
        }
    }

    fn frames_in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }
}
