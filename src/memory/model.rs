//! A tiny table memory on the primitives of the model checkers.
//!
//! loom and shuttle explore interleavings of a few accesses; a mapping of real memory is of no use to them. Here every
//! entry is one of their atomics, a frame has as few entries as the model needs, and the allocator is a lock around a
//! list: what is checked is the table's protocol, not the allocator (the arena has stress tests of its own).

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{Frame, OutOfFrames, TableMemory};
use crate::arch::Pa;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};

/// Distance of frames in physical address space, whatever their number of entries.
const FRAME_BYTES: u64 = 4096;

/// A few frames of a few entries each, for `Geometry::tiny`. Under loom, build it inside the model.
#[derive(Debug)]
pub struct ModelMemory {
    base: Pa,
    entries: usize,
    cells: Box<[AtomicU64]>,
    generations: Box<[AtomicU32]>,
    contents: Box<[Contents]>,
    state: Mutex<State>,
}

/// Stands for all that is in a frame, under loom: who fills or zeroes the frame writes it, who finds the table reads it, and a
/// model fails if the two are not ordered. The entries alone would not show that: they are atomics here, plain words in a
/// real memory as long as the frame is private.
#[derive(Debug, Default)]
struct Contents(#[cfg(loom)] loom::cell::UnsafeCell<()>);

// SAFETY: nothing is in it; loom checks that accesses to it are ordered, which is what it is for.
#[cfg(loom)]
unsafe impl Send for Contents {}
// SAFETY: as above.
#[cfg(loom)]
unsafe impl Sync for Contents {}

impl Contents {
    fn read(&self) {
        #[cfg(loom)]
        self.0.with(|_| ());
    }

    fn write(&self) {
        #[cfg(loom)]
        self.0.with_mut(|_| ());
    }
}

#[derive(Debug)]
struct State {
    /// Free frames; the last is handed out first.
    free: Vec<u32>,
    reserved: usize,
    /// Requests until the one to refuse.
    fail: Option<usize>,
}

impl State {
    fn request(&mut self, needed: usize) -> Result<(), OutOfFrames> {
        if let Some(left) = self.fail {
            if left < needed {
                self.fail = None;
                return Err(OutOfFrames {
                    needed,
                    available: left,
                });
            }
            self.fail = Some(left - needed);
        }
        let available = self.free.len() - self.reserved;
        if needed > available {
            Err(OutOfFrames { needed, available })
        } else {
            Ok(())
        }
    }
}

impl ModelMemory {
    /// `frames` frames of `entries` entries, 4 KiB apart from `base` on.
    pub fn new(base: Pa, frames: u32, entries: usize) -> Self {
        assert!(
            base.is_aligned(FRAME_BYTES),
            "base {base} is not a multiple of {FRAME_BYTES:#x}"
        );
        Self {
            base,
            entries,
            cells: (0..frames as usize * entries).map(|_| AtomicU64::new(0)).collect(),
            generations: (0..frames).map(|_| AtomicU32::new(0)).collect(),
            contents: (0..frames).map(|_| Contents::default()).collect(),
            state: Mutex::new(State {
                free: (0..frames).rev().collect(),
                reserved: 0,
                fail: None,
            }),
        }
    }

    /// As [`Arena::fail_allocation`](super::Arena::fail_allocation).
    pub fn fail_allocation(&self, k: usize) {
        self.state().fail = Some(k);
    }

    fn state(&self) -> impl core::ops::DerefMut<Target = State> + '_ {
        self.state.lock().expect("no panic happens under this lock")
    }

    /// Zeroes a frame and puts it on the free list, which stays locked for the caller.
    fn recycle(&self, frame: Frame) -> impl core::ops::DerefMut<Target = State> + '_ {
        let index = self.index(frame.into_pa(), 1);
        let mut state = self.state();
        assert!(!state.free.contains(&index), "frame {} freed twice", self.pa(index));
        self.clear(index);
        state.free.push(index);
        state
    }

    fn index(&self, pa: Pa, frames: u32) -> u32 {
        let offset = pa.get().wrapping_sub(self.base.get());
        let count = self.generations.len() as u64;
        let inside = offset.is_multiple_of(FRAME_BYTES) && offset / FRAME_BYTES + u64::from(frames) <= count;
        assert!(
            offset < count * FRAME_BYTES && inside,
            "{frames} table frame(s) at {pa}: no frame of this memory"
        );
        (offset / FRAME_BYTES) as u32
    }

    fn entries(&self, first: u32, frames: u32) -> &[AtomicU64] {
        let from = first as usize * self.entries;
        &self.cells[from..from + frames as usize * self.entries]
    }

    fn pa(&self, index: u32) -> Pa {
        Pa::new(self.base.get() + u64::from(index) * FRAME_BYTES)
    }

    fn clear(&self, index: u32) {
        self.contents[index as usize].write();
        // Release: whoever sees the number sees that the frame went.
        self.generations[index as usize].fetch_add(1, Ordering::Release);
        mutated!(FreeUnzeroed, return);
        for entry in self.entries(index, 1) {
            // Relaxed: the lock publishes it.
            entry.store(0, Ordering::Relaxed);
        }
    }
}

impl TableMemory for ModelMemory {
    type Tables<'m> = &'m Self;

    fn tables(&self) -> &Self {
        self
    }

    fn reserve(&self, frames: usize) -> Result<(), OutOfFrames> {
        let mut state = self.state();
        state.request(frames)?;
        state.reserved += frames;
        Ok(())
    }

    fn reserve_spare(&self, _: usize) -> usize {
        // Models are kept small: no spare frames, so that every shortage is explored.
        0
    }

    fn unreserve(&self, frames: usize) {
        let mut state = self.state();
        assert!(
            state.reserved >= frames,
            "unreserve({frames}) of {} reserved",
            state.reserved
        );
        state.reserved -= frames;
    }

    fn take(&self) -> Frame {
        let mut state = self.state();
        assert!(state.reserved > 0, "take() without a reservation");
        state.reserved -= 1;
        let index = state.free.pop().expect("a reserved frame is there");
        // SAFETY: it was on the free list, and is no more; frames are accessed through atomics only.
        unsafe { Frame::from_raw(self.pa(index)) }
    }

    fn take_root(&self, frames: u32) -> Result<Pa, OutOfFrames> {
        let needed = frames as usize;
        let mut state = self.state();
        state.request(needed)?;
        let align = u64::from(frames.next_power_of_two()) * FRAME_BYTES;
        let run = |first: &u32| {
            self.pa(*first).is_aligned(align) && (*first..first + frames).all(|index| state.free.contains(&index))
        };
        let first = (0..self.generations.len() as u32)
            .find(run)
            .ok_or(OutOfFrames { needed, available: 0 })?;
        state.free.retain(|index| !(first..first + frames).contains(index));
        Ok(self.pa(first))
    }

    fn free(&self, frame: Frame) {
        self.recycle(frame);
    }

    fn put_back(&self, frame: Frame) {
        self.recycle(frame).reserved += 1;
    }

    fn free_root(&self, root: Pa, frames: u32) {
        let first = self.index(root, frames);
        let mut state = self.state();
        for index in first..first + frames {
            assert!(!state.free.contains(&index), "frame {} freed twice", self.pa(index));
            self.clear(index);
            state.free.push(index);
        }
    }

    fn table(&self, pa: Pa) -> &[AtomicU64] {
        self.root(pa, 1)
    }

    fn root(&self, pa: Pa, frames: u32) -> &[AtomicU64] {
        let first = self.index(pa, frames);
        for index in first..first + frames {
            self.contents[index as usize].read();
        }
        self.entries(first, frames)
    }

    fn fill(&self, frame: &mut Frame, mut value: impl FnMut(usize) -> u64) {
        let number = self.index(frame.pa(), 1);
        self.contents[number as usize].write();
        for (index, entry) in self.entries(number, 1).iter().enumerate() {
            // Relaxed: stands for the plain stores of the arena.
            entry.store(value(index), Ordering::Relaxed);
        }
    }

    fn generation(&self, pa: Pa) -> u32 {
        // Acquire: pairs with `clear`.
        self.generations[self.index(pa, 1) as usize].load(Ordering::Acquire)
    }

    fn frames_in_use(&self) -> usize {
        self.generations.len() - self.state().free.len()
    }
}
