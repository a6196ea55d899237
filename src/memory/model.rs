//! A tiny table memory on the primitives of the model checkers.
//!
//! loom and shuttle explore interleavings of a few accesses; a mapping of real memory is of no use to them. Here every
//! entry is one of their atomics, a frame has as few entries as the model needs, and the allocator is a lock around a
//! list: what is checked is the table's protocol, not the allocator (the arena has tests of its own).
//!
//! Where a model is not about frames running out or coming back, the list is plenty and no frame is used twice. Then it
//! decides nothing, and its lock need not be a step of the search.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::life::Life;
use super::{Frame, OutOfFrames, TableMemory};
use crate::arch::Pa;
use crate::sync::{AtomicU64, Mutex, Ordering, unseen};

/// Distance of frames in physical address space, whatever their number of entries.
const FRAME_BYTES: u64 = 4096;

/// A few frames of a few entries each, for `Geometry::tiny`. Under loom, build it inside the model.
#[derive(Debug)]
pub struct ModelMemory {
    base: Pa,
    entries: usize,
    cells: Box<[AtomicU64]>,
    lives: Box<[Life]>,
    list: List,
}

#[derive(Debug)]
enum List {
    /// Frames come back, and can run out.
    Short(Mutex<State>),
    /// Enough for every frame to be used once, so nobody learns anything from anybody here.
    Plenty(unseen::Mutex<State>),
}

impl List {
    /// What is done inside must not be a step of the model, save for [`List::Short`].
    fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let poisoned = "no panic happens under this lock";
        match self {
            List::Short(state) => work(&mut state.lock().expect(poisoned)),
            List::Plenty(state) => work(&mut state.lock().expect(poisoned)),
        }
    }
}

#[derive(Debug)]
struct State {
    /// Free frames; the last is handed out first.
    free: Vec<u32>,
    reserved: usize,
    in_use: usize,
    /// Frames that may still be reserved without need.
    spare: usize,
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
    /// `frames` frames of `entries` entries, 4 KiB apart from `base` on, which come back when they are freed.
    pub fn new(base: Pa, frames: u32, entries: usize) -> Self {
        Self::made(base, frames, entries, |state| List::Short(Mutex::new(state)))
    }

    /// The same for a model that takes `frames` frames in all at most: each is used once. A request for more panics.
    pub fn plenty(base: Pa, frames: u32, entries: usize) -> Self {
        Self::made(base, frames, entries, |state| List::Plenty(unseen::Mutex::new(state)))
    }

    fn made(base: Pa, frames: u32, entries: usize, list: impl FnOnce(State) -> List) -> Self {
        assert!(
            base.is_aligned(FRAME_BYTES),
            "base {base} is not a multiple of {FRAME_BYTES:#x}"
        );
        Self {
            base,
            entries,
            cells: (0..frames as usize * entries).map(|_| AtomicU64::new(0)).collect(),
            lives: (0..frames).map(|_| Life::default()).collect(),
            list: list(State {
                free: (0..frames).rev().collect(),
                reserved: 0,
                in_use: 0,
                spare: 0,
                fail: None,
            }),
        }
    }

    /// The words of the frame at `pa` as hardware comes by them, which holds no frame and may look at one that is gone: it is
    /// waited for by barriers that loom does not know.
    pub fn bus(&self, pa: Pa) -> &[AtomicU64] {
        self.entries(self.index(pa, 1), 1)
    }

    /// From now on, up to `frames` frames are to spare: for caches of frames, and for what an operation sets aside in case.
    pub fn spare(&self, frames: usize) {
        self.list.with(|state| state.spare = frames);
    }

    /// As [`Arena::fail_allocation`](super::Arena::fail_allocation).
    pub fn fail_allocation(&self, k: usize) {
        self.list.with(|state| state.fail = Some(k));
    }

    fn request(&self, needed: usize, then: impl FnOnce(&mut State)) -> Result<(), OutOfFrames> {
        let granted = self.list.with(|state| state.request(needed).map(|()| then(state)));
        assert!(
            granted.is_ok() || matches!(self.list, List::Short(_)),
            "{granted:?} where there should be plenty"
        );
        granted
    }

    /// Zeroes a frame and puts it on the free list, if frames come back, and does `then` with the list at the same time.
    fn recycle(&self, index: u32, then: impl FnOnce(&mut State)) {
        self.lives[index as usize].end();
        let comes_back = matches!(self.list, List::Short(_));
        let zeroed = mutated!(FreeUnzeroed, false, comes_back);
        if zeroed {
            for entry in self.root(self.pa(index), 1) {
                // Relaxed: the lock publishes it.
                entry.store(0, Ordering::Relaxed);
            }
        }
        self.list.with(|state| {
            assert!(!state.free.contains(&index), "frame {} freed twice", self.pa(index));
            if comes_back {
                state.free.push(index);
            }
            state.in_use -= 1;
            then(state);
        });
    }

    fn index(&self, pa: Pa, frames: u32) -> u32 {
        let offset = pa.get().wrapping_sub(self.base.get());
        let count = self.lives.len() as u64;
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
}

impl TableMemory for ModelMemory {
    type Tables<'m> = &'m Self;

    fn tables(&self) -> &Self {
        self
    }

    fn reserve(&self, frames: usize) -> Result<(), OutOfFrames> {
        self.request(frames, |state| state.reserved += frames)
    }

    fn reserve_spare(&self, frames: usize) -> usize {
        // Models are kept small: no spare frames unless one asks for some, so that every shortage is explored.
        self.list.with(|state| {
            let granted = frames.min(state.spare).min(state.free.len() - state.reserved);
            state.spare -= granted;
            state.reserved += granted;
            granted
        })
    }

    fn unreserve(&self, frames: usize) {
        self.list.with(|state| {
            let reserved = state.reserved;
            assert!(reserved >= frames, "unreserve({frames}) of {reserved} reserved");
            state.reserved -= frames;
        });
    }

    fn take(&self) -> Frame {
        let index = self.list.with(|state| {
            assert!(state.reserved > 0, "take() without a reservation");
            state.reserved -= 1;
            state.in_use += 1;
            state.free.pop().expect("a reserved frame is there")
        });
        // SAFETY: it was on the free list, and is no more; frames are accessed through atomics only.
        unsafe { Frame::from_raw(self.pa(index)) }
    }

    fn take_root(&self, frames: u32) -> Result<Pa, OutOfFrames> {
        let needed = frames as usize;
        let align = u64::from(frames.next_power_of_two()) * FRAME_BYTES;
        let mut root = None;
        self.request(needed, |state| {
            let run = |first: &u32| {
                self.pa(*first).is_aligned(align) && (*first..first + frames).all(|index| state.free.contains(&index))
            };
            root = (0..self.lives.len() as u32).find(run);
            if let Some(first) = root {
                state.free.retain(|index| !(first..first + frames).contains(index));
                state.in_use += needed;
            }
        })?;
        root.map(|first| self.pa(first))
            .ok_or(OutOfFrames { needed, available: 0 })
    }

    fn free(&self, frame: Frame) {
        self.recycle(self.index(frame.into_pa(), 1), |_| ());
    }

    fn put_back(&self, frame: Frame) {
        self.recycle(self.index(frame.into_pa(), 1), |state| state.reserved += 1);
    }

    fn free_root(&self, root: Pa, frames: u32) {
        let first = self.index(root, frames);
        (first..first + frames).for_each(|index| self.recycle(index, |_| ()));
    }

    fn table(&self, pa: Pa) -> &[AtomicU64] {
        self.root(pa, 1)
    }

    fn root(&self, pa: Pa, frames: u32) -> &[AtomicU64] {
        let first = self.index(pa, frames);
        for index in first..first + frames {
            let _ = self.lives[index as usize].get();
        }
        self.entries(first, frames)
    }

    fn fill(&self, frame: &mut Frame, mut value: impl FnMut(usize) -> u64) {
        self.lives[self.index(frame.pa(), 1) as usize].alone();
        for (index, entry) in self.table(frame.pa()).iter().enumerate() {
            // Relaxed: stands for the plain stores of the arena.
            entry.store(value(index), Ordering::Relaxed);
        }
    }

    fn generation(&self, pa: Pa) -> u32 {
        self.lives[self.index(pa, 1) as usize].get()
    }

    fn frames_in_use(&self) -> usize {
        self.list.with(|state| state.in_use)
    }
}
