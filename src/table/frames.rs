//! Frames set aside for an operation, and the few that a vCPU keeps at hand.
//!
//! What an operation needs in frames it sets aside before it changes anything (R9). That, and taking them, writes words
//! of the memory that all vCPUs share: three exchanges a table. A vCPU that faults all the time may keep a few frames
//! of its own: then one new table in so many goes to the shared words, and gets them all in one go.

use super::error::Error;
use crate::memory::{Frame, TableMemory};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// A few table frames for the handle of one vCPU: see [`Handle::with_frame_cache`](super::View::with_frame_cache).
///
/// They count as in use, and nobody else can have them, until it is dropped.
pub struct FrameCache<'m, M: TableMemory> {
    memory: &'m M,
    frames: RefCell<Vec<Frame>>,
    /// How many of them are set aside for operations under way.
    claimed: Cell<usize>,
    room: usize,
}

/// Nobody should keep more from others.
const MOST: usize = 1024;

impl<M: TableMemory> core::fmt::Debug for FrameCache<'_, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let held = self.frames.borrow().len();
        write!(f, "FrameCache({held} of {})", self.room)
    }
}

impl<'m, M: TableMemory> FrameCache<'m, M> {
    /// Of at most `room` frames of `memory`, or 1024; they are fetched together when the first is needed.
    pub fn new(memory: &'m M, room: usize) -> Self {
        Self {
            memory,
            frames: RefCell::new(Vec::with_capacity(room.min(MOST))),
            claimed: Cell::new(0),
            room: room.min(MOST),
        }
    }

    /// How many frames are in it now.
    pub fn held(&self) -> usize {
        self.frames.borrow().len()
    }

    /// Whether it was made for `memory`.
    pub(crate) fn is_of(&self, memory: &M) -> bool {
        core::ptr::eq(self.memory, memory)
    }

    /// Sets up to `wanted` frames aside, fetching more first if there are too few. Says how many.
    #[inline]
    fn claim(&self, wanted: usize) -> usize {
        if self.frames.borrow().len() - self.claimed.get() < wanted {
            self.fetch();
        }
        let claimed = wanted.min(self.frames.borrow().len() - self.claimed.get());
        self.claimed.set(self.claimed.get() + claimed);
        claimed
    }

    /// Fills the room, as far as the memory can spare frames.
    #[cold]
    fn fetch(&self) {
        let mut frames = self.frames.borrow_mut();
        let more = self.memory.reserve_spare(self.room - frames.len());
        frames.extend((0..more).map(|_| self.memory.take()));
    }

    fn release(&self, claimed: usize) {
        self.claimed.set(self.claimed.get() - claimed);
    }

    fn take(&self) -> Frame {
        self.release(1);
        let frame = self.frames.borrow_mut().pop();
        frame.unwrap_or_else(|| unreachable!("what is claimed is there"))
    }
}

impl<M: TableMemory> Drop for FrameCache<'_, M> {
    fn drop(&mut self) {
        for frame in self.frames.get_mut().drain(..) {
            self.memory.free(frame);
        }
    }
}

/// Frames set aside for one operation; what it does not use goes back when it ends.
pub(crate) struct Reserve<'m, M: TableMemory> {
    memory: &'m M,
    cache: Option<&'m FrameCache<'m, M>>,
    /// Set aside in the cache, and in the memory.
    cached: usize,
    left: usize,
    /// How many more the call may set aside, whatever there is.
    allowed: usize,
}

impl<'m, M: TableMemory> Reserve<'m, M> {
    /// For a call that may take `allowed` frames.
    pub(crate) fn new(memory: &'m M, cache: Option<&'m FrameCache<'m, M>>, allowed: usize) -> Self {
        Self {
            memory,
            cache,
            cached: 0,
            left: 0,
            allowed,
        }
    }

    /// Makes sure that the next `frames` takes cannot fail.
    #[inline]
    pub(crate) fn ensure(&mut self, frames: usize) -> Result<(), Error> {
        let have = self.cached + self.left;
        if frames > have {
            let more = frames - have;
            if more > self.allowed {
                return Err(Error::OutOfFrames {
                    needed: frames,
                    available: have + self.allowed,
                });
            }
            let cached = self.cache.map_or(0, |cache| cache.claim(more));
            self.cached += cached;
            self.allowed -= cached;
            if more > cached {
                self.memory.reserve(more - cached)?;
                self.allowed -= more - cached;
                self.left += more - cached;
            }
        }
        Ok(())
    }

    /// Takes up to `frames` more, for what peers may make necessary between the count and the change.
    pub(crate) fn spare(&mut self, frames: usize) {
        let have = self.cached + self.left;
        if frames > have {
            let more = self.memory.reserve_spare((frames - have).min(self.allowed));
            self.allowed -= more;
            self.left += more;
        }
    }

    pub(crate) fn take(&mut self) -> Frame {
        if let (Some(cache), 1..) = (self.cache, self.cached) {
            self.cached -= 1;
            return cache.take();
        }
        debug_assert!(self.left > 0, "more tables built than counted");
        self.left -= 1;
        self.memory.take()
    }

    pub(crate) fn put_back(&mut self, frame: Frame) {
        self.memory.put_back(frame);
        self.left += 1;
    }
}

impl<M: TableMemory> Drop for Reserve<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if let Some(cache) = self.cache {
            mutated!(CacheClaimKept, (), cache.release(self.cached));
        }
        if mutated!(ReserveKept, false, self.left > 0) {
            self.memory.unreserve(self.left);
        }
    }
}
