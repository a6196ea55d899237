//! When an unlinked table's frames may be used again (R8).
//!
//! A subtree is retired after its parent entry is gone and the TLBI is complete. Walkers may still stand in it: they
//! reached it before. So shared access pins an epoch for each walk, and the frames are freed once every walker that was
//! pinned at the time has left. Each table has its own `Collector`: a thread that dawdles in one table does not
//! hold up the frames of another. Exclusive access has no other walkers and frees at once.
//!
//! Whoever enters a table may be the one who frees what others retired. So that no fault pays for a subtree of thousands
//! of frames, a subtree is retired in portions, which are freed a few at a time.
//!
//! Under loom and shuttle the collector is a small model with the same promise (`reclaim/model.rs`; crossbeam's explodes
//! the search).

use super::Core;
use super::frames::FrameCache;
use super::tlb::{Event, Tlb};
use crate::arch::{Level, Pa, Pte};
use crate::memory::{Frame, TableMemory};
use crate::sync::{Arc, Backoff, Ordering};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::marker::PhantomData;

pub(crate) use imp::Collector;
pub use imp::Local;

/// How a walk may touch the table: beside others ([`Local`]) or alone ([`Alone`]).
///
/// Sealed: the two kinds are all there are.
pub trait Access: Clone + sealed::Sealed {
    /// Whether others may change the table at the same time.
    const SHARED: bool;
    /// Held for the length of one walk.
    type Guard;
    /// The frames at hand, where there can be some.
    #[doc(hidden)]
    type Cache<'t, M: TableMemory + 't>: Copy + Default;

    #[doc(hidden)]
    fn cache<'t, M: TableMemory>(cache: Self::Cache<'t, M>) -> Option<&'t FrameCache<'t, M>>;

    /// Enters the table.
    #[doc(hidden)]
    fn pin(&self) -> Self::Guard;
    /// Lets frames retired by others go, between two steps of a long walk that hold no table.
    #[doc(hidden)]
    fn repin(&self, guard: &mut Self::Guard);
    /// Frees the subtree under the unlinked table at `pa` as soon as nobody can stand in it.
    #[doc(hidden)]
    fn retire<M: TableMemory, T: Tlb>(&self, guard: &Self::Guard, core: &Arc<Core<M, T>>, unlinked: Unlinked);
    /// Does what can be done now to free what is retired.
    #[doc(hidden)]
    fn collect(&self);
    /// Leaves the table for as long as `work` takes.
    #[doc(hidden)]
    fn outside<R>(&self, guard: &mut Self::Guard, work: impl FnOnce() -> R) -> R;
    /// Whether the calling thread is in the table by this registration: then what is retired now cannot be freed.
    #[doc(hidden)]
    fn is_inside(&self) -> bool;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Alone {}
    impl Sealed for super::Local {}
}

/// A subtree that no entry points to any more.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Unlinked {
    pub(crate) pa: Pa,
    /// The level of the entries in the table at the top.
    pub(crate) level: Level,
    /// Frames in the subtree, the top included.
    pub(crate) frames: usize,
}

/// Exclusive access: plain stores, frames freed at once. `Send`, and not `Sync`: the one who is alone is one thread.
#[derive(Clone)]
pub struct Alone(PhantomData<Cell<()>>);

impl Alone {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl Access for Alone {
    const SHARED: bool = false;
    type Guard = ();
    type Cache<'t, M: TableMemory + 't> = ();

    #[inline(always)]
    fn cache<'t, M: TableMemory>((): ()) -> Option<&'t FrameCache<'t, M>> {
        None
    }

    #[inline(always)]
    fn pin(&self) {}

    #[inline(always)]
    fn repin(&self, (): &mut ()) {}

    fn retire<M: TableMemory, T: Tlb>(&self, (): &(), core: &Arc<Core<M, T>>, unlinked: Unlinked) {
        // Relaxed, and no exchange: for views of this thread, which is alone.
        let freed = core.freed.load(Ordering::Relaxed);
        core.freed.store(freed.wrapping_add(1), Ordering::Relaxed);
        free_subtree(core, unlinked.pa, unlinked.level);
    }

    fn collect(&self) {}

    #[inline(always)]
    fn outside<R>(&self, (): &mut (), work: impl FnOnce() -> R) -> R {
        work()
    }

    fn is_inside(&self) -> bool {
        false
    }
}

/// Frees the frames of an unlinked subtree, deepest first. Its entries may be frozen or plain.
pub(crate) fn free_subtree<M: TableMemory, T: Tlb>(core: &Core<M, T>, pa: Pa, level: Level) {
    each_frame(core, pa, level, &mut |frame| free(core, frame));
}

/// Names each frame of an unlinked subtree, deepest first, and does not read it after that.
fn each_frame<M: TableMemory, T: Tlb>(core: &Core<M, T>, pa: Pa, level: Level, name: &mut impl FnMut(Pa)) {
    if let Some(deeper) = level.deeper() {
        for entry in core.memory.table(pa) {
            // Relaxed: nobody writes here any more. Who unlinked the table froze its entries himself; who has exclusive
            // access came by it in an ordered way.
            let value = Pte::from_raw(entry.load(Ordering::Relaxed));
            let value = if value.is_frozen() { value.thaw() } else { value };
            if value.is_table(level) {
                each_frame(core, core.format.next_table(value), deeper, name);
            }
        }
    }
    name(pa);
}

fn free<M: TableMemory, T: Tlb>(core: &Core<M, T>, frame: Pa) {
    if T::ACTIVE {
        core.tlb.event(Event::Free { frame });
    }
    core.memory.free(Frame::from_pa(frame));
}

/// Frames that are freed together. The collector lets eight portions go in one call, in the midst of somebody's fault:
/// some 10 us, since a frame is zeroed when it is freed.
const PORTION: usize = 16;

/// Hands the frames of a retired subtree to `hand`, by portions. It stands still meanwhile: it is frozen, and the caller
/// is pinned.
fn each_portion<M: TableMemory, T: Tlb>(core: &Core<M, T>, unlinked: Unlinked, hand: &mut impl FnMut(Box<[Pa]>)) {
    if unlinked.frames == 1 {
        return hand(Box::new([unlinked.pa])); // nothing below: no need to look
    }
    let mut portion = Vec::with_capacity(PORTION.min(unlinked.frames));
    each_frame(core, unlinked.pa, unlinked.level, &mut |frame| {
        portion.push(frame);
        if portion.len() == PORTION {
            let full = core::mem::replace(&mut portion, Vec::with_capacity(PORTION));
            hand(full.into_boxed_slice());
        }
    });
    if !portion.is_empty() {
        hand(portion.into_boxed_slice());
    }
}

/// The end of a portion's grace period.
fn free_portion<M: TableMemory, T: Tlb>(core: &Core<M, T>, portion: &[Pa]) {
    portion.iter().for_each(|&frame| free(core, frame));
    core.backlog.freed(portion.len());
    // Release: whoever sees that nothing is pending finds the frames in the memory, and counted.
    let release = mutated!(PendingRelaxed, Ordering::Relaxed, Ordering::Release);
    core.pending.fetch_sub(portion.len(), release);
}

#[cfg(not(any(loom, shuttle)))]
mod imp {
    use super::*;
    use alloc::rc::Rc;
    use crossbeam_epoch as epoch;

    /// A table's own epoch collector.
    pub(crate) struct Collector(epoch::Collector);

    impl Collector {
        pub(crate) fn new() -> Self {
            Self(epoch::Collector::new())
        }

        /// Registers the calling thread.
        pub(crate) fn register(&self) -> Local {
            Local {
                handle: Rc::new(self.0.register()),
            }
        }
    }

    /// Shared access by one registered thread. Not `Send`: each thread registers for itself.
    #[derive(Clone)]
    pub struct Local {
        handle: Rc<epoch::LocalHandle>,
    }

    impl Local {
        /// Whether this is a registration with `collector`.
        pub(crate) fn is_of(&self, collector: &Collector) -> bool {
            *self.handle.collector() == collector.0
        }
    }

    /// Keeps the walk's tables from being freed.
    pub type Guard = epoch::Guard;

    impl Access for Local {
        const SHARED: bool = true;
        type Guard = Guard;
        type Cache<'t, M: TableMemory + 't> = Option<&'t FrameCache<'t, M>>;

        #[inline(always)]
        fn cache<'t, M: TableMemory>(cache: Self::Cache<'t, M>) -> Option<&'t FrameCache<'t, M>> {
            cache
        }

        #[inline]
        fn pin(&self) -> Guard {
            // In a collector of its own, for which nobody waits.
            mutated!(WalkUnpinned, return epoch::Collector::new().register().pin());
            self.handle.pin()
        }

        #[inline]
        fn repin(&self, guard: &mut Guard) {
            guard.repin();
        }

        fn retire<M: TableMemory, T: Tlb>(&self, guard: &Guard, core: &Arc<Core<M, T>>, unlinked: Unlinked) {
            mutated!(FreedAtOnce, return free_subtree(core, unlinked.pa, unlinked.level));
            core.retiring(unlinked.frames);
            each_portion(core, unlinked, &mut |portion| {
                let core = Arc::clone(core);
                let free = move || free_portion(&core, &portion);
                // SAFETY: the closure runs at most once, on any thread: `Core` is Send and Sync because its memory and
                // its sink are, and it owns what it touches through the Arc, so it may outlive every handle. The frames
                // are reached by nobody who pins from now on, since their parent entry was overwritten before (R8).
                unsafe { guard.defer_unchecked(free) };
                // Without this the closure waits in this thread's own bag, out of reach of a `drain` by another, and
                // with others: a bag is freed as a whole.
                guard.flush();
            });
        }

        fn collect(&self) {
            self.handle.pin().flush();
        }

        fn outside<R>(&self, guard: &mut Guard, work: impl FnOnce() -> R) -> R {
            guard.repin_after(work)
        }

        fn is_inside(&self) -> bool {
            self.handle.is_pinned()
        }
    }
}

#[cfg(any(loom, shuttle))]
mod model;
#[cfg(any(loom, shuttle))]
use model as imp;

/// Waits until everything retired is free.
pub(crate) fn drain<M: TableMemory, T: Tlb, A: Access>(core: &Core<M, T>, access: &A) {
    let mut backoff = Backoff::new();
    let mut before = usize::MAX;
    loop {
        access.collect();
        // Acquire pairs with the release of the frees, so that the frames are back in the memory when this returns.
        mutated!(DrainAtOnce, return);
        let acquire = mutated!(DrainRelaxed, Ordering::Relaxed, Ordering::Acquire);
        let pending = core.pending.load(acquire);
        if pending == 0 {
            return;
        }
        if pending < before {
            backoff = Backoff::new(); // it gets on: a collection frees a few portions only
        } else {
            backoff.wait();
        }
        before = pending;
    }
}
