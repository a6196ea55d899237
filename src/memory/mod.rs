//! Where table frames live.
//!
//! A stage-2 table is a tree of *frames*, each one granule of 64-bit entries. The tree itself does not care where
//! frames come from: it asks a [`TableMemory`]. The crate brings `Arena` for hosted programs: one contiguous
//! reserved mapping that stands for physical memory from a base address on. A hypervisor brings its own.
//!
//! Two things are asked of every implementation, because the table relies on them:
//!
//! * **Reserve, then take.** A change to a live table must not fail between break and make. So the table first
//!   [reserves](TableMemory::reserve) the frames that it can need, and only then breaks entries; each
//!   [`take`](TableMemory::take) out of a reservation succeeds. What was not used is [given
//!   back](TableMemory::unreserve).
//! * **Frames come zeroed.** They are best zeroed when they are freed, off the fault path.
//!
//! A frame that nobody else can reach yet is a [`Frame`]: it can be neither copied nor built out of thin air in safe
//! code, so whoever holds one may fill it with plain stores.

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
mod arena;
#[cfg(any(all(feature = "std", not(any(loom, shuttle))), all(test, loom)))]
mod counts;
mod frame;
#[cfg(any(all(feature = "std", not(any(loom, shuttle))), all(test, loom)))]
mod free_list;
#[cfg(any(loom, shuttle, all(test, feature = "std")))]
mod life;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(any(loom, shuttle, all(test, feature = "std")))]
pub mod model;
mod prefetch;
#[cfg(all(feature = "std", not(loom)))]
mod ram;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
mod region;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
mod roots;
#[cfg(all(test, feature = "std", not(any(loom, shuttle))))]
mod tests;

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use arena::{Arena, ArenaError, ArenaOptions, ArenaStats};
pub use frame::Frame;
pub(crate) use prefetch::prefetch;
#[cfg(all(feature = "std", not(loom)))]
pub use ram::Ram;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use region::Window;

use crate::arch::Pa;
use crate::sync::{Arc, AtomicU64};

/// The memory, or its quota, has fewer table frames left than an operation needs.
///
/// The operation that asked has changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("out of table frames: {needed} needed, {available} available")]
pub struct OutOfFrames {
    /// How many frames were asked for.
    pub needed: usize,
    /// How many could have been given.
    pub available: usize,
}

/// A source of table frames. Physical addresses name frames; [`table`](Self::table) gives access to their entries.
///
/// All methods may be called by any number of threads at once.
///
/// # For implementers
///
/// Frames are one granule long and aligned to it. A `Frame` is made with [`Frame::from_raw`], whose safety contract is
/// the heart of the matter: as long as the `Frame` lives, nobody else writes to that frame.
pub trait TableMemory: Send + Sync {
    /// What a walk takes along to find tables by their addresses. `&'m Self` will do; see [`Tables`].
    type Tables<'m>: Tables<'m>
    where
        Self: 'm;

    /// It, for as long as the memory lives.
    fn tables(&self) -> Self::Tables<'_>;

    /// Sets `frames` frames aside: as many calls of [`take`](Self::take) cannot fail.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`] if fewer are left; then nothing is set aside.
    fn reserve(&self, frames: usize) -> Result<(), OutOfFrames>;

    /// Sets up to `frames` more frames aside, as many as there are, and says how many.
    ///
    /// An operation asks for these beyond what it needs, for what peers may make necessary meanwhile; a memory that counts
    /// or refuses requests for a test leaves them out. By default all or none.
    fn reserve_spare(&self, frames: usize) -> usize {
        if self.reserve(frames).is_ok() { frames } else { 0 }
    }

    /// Gives back `frames` frames of a reservation that were not taken.
    fn unreserve(&self, frames: usize);

    /// One zeroed frame out of the caller's reservation.
    ///
    /// # Panics
    ///
    /// An implementation may panic if the caller holds no reservation.
    fn take(&self) -> Frame;

    /// `frames` (1 to 16) contiguous zeroed frames for the root of a table, aligned to their total size rounded up to
    /// a power of two. Needs no reservation.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`] if there is no such run.
    fn take_root(&self, frames: u32) -> Result<Pa, OutOfFrames>;

    /// Takes a frame back that nobody can reach any more, and zeroes it.
    fn free(&self, frame: Frame);

    /// Takes a frame back into the caller's reservation, and zeroes it: a later [`take`](Self::take) cannot fail for it.
    fn put_back(&self, frame: Frame);

    /// Takes back a root that [`take_root`](Self::take_root) gave for as many `frames`, and that nobody uses any more.
    ///
    /// # Panics
    ///
    /// An implementation may panic if `root` is no live root of that many frames.
    fn free_root(&self, root: Pa, frames: u32);

    /// The entries of the frame at `pa`.
    ///
    /// The slice stays valid as long as the memory, even when the frame is freed meanwhile: it is then a frame of
    /// zeros, or of another table. What keeps a walker from seeing that is the grace period before `free`.
    ///
    /// A frame that is still private (a live [`Frame`]) must not be looked at while [`fill`](Self::fill) runs on it.
    ///
    /// # Panics
    ///
    /// If `pa` is not the address of a frame of this memory. The check is one comparison.
    fn table(&self, pa: Pa) -> &[AtomicU64];

    /// The entries of the `frames` frames from `pa` on: the concatenated root.
    ///
    /// # Panics
    ///
    /// If they are not all frames of this memory.
    fn root(&self, pa: Pa, frames: u32) -> &[AtomicU64];

    /// Writes `value(index)` to each entry of a private frame, with plain stores that the compiler may vectorise.
    /// They become visible with the release store that links the frame into a table.
    fn fill(&self, frame: &mut Frame, value: impl FnMut(usize) -> u64);

    /// A number that changes whenever the frame at `pa` is freed; 0 for ever where nobody counts.
    ///
    /// Debug builds compare it before and after a visit, to catch a frame that went too early.
    fn generation(&self, pa: Pa) -> u32 {
        let _ = pa;
        0
    }

    /// How many frames are out: taken or in a root, and not freed. Reserved frames do not count.
    fn frames_in_use(&self) -> usize;

    /// Whether [`table`](Self::table) may be asked for `pa`. The table itself never asks: it holds addresses that it was
    /// given. A memory that cannot tell says yes.
    fn has_frame(&self, pa: Pa) -> bool {
        let _ = pa;
        true
    }
}

/// Finds tables by their addresses.
///
/// A walk holds one by value. Behind each load of an entry, which orders memory, everything else has to be loaded again;
/// what is held by value stays in registers. So a memory that is one mapping gives its base and its end, and one that
/// has to look further gives a reference to itself.
pub trait Tables<'m>: Copy {
    /// As [`TableMemory::table`], but address bits inside a frame do not count.
    fn find(self, pa: Pa) -> &'m [AtomicU64];
}

impl<'m, M: TableMemory> Tables<'m> for &'m M {
    #[inline(always)]
    fn find(self, pa: Pa) -> &'m [AtomicU64] {
        M::table(self, pa)
    }
}

/// Forwards the whole trait through a pointer-like type.
macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<M: TableMemory> TableMemory for $pointer {
            type Tables<'m> = M::Tables<'m> where Self: 'm;

            #[inline]
            fn tables(&self) -> Self::Tables<'_> {
                (**self).tables()
            }
            #[inline]
            fn reserve(&self, frames: usize) -> Result<(), OutOfFrames> {
                (**self).reserve(frames)
            }
            #[inline]
            fn reserve_spare(&self, frames: usize) -> usize {
                (**self).reserve_spare(frames)
            }

            fn unreserve(&self, frames: usize) {
                (**self).unreserve(frames);
            }
            #[inline]
            fn take(&self) -> Frame {
                (**self).take()
            }
            #[inline]
            fn take_root(&self, frames: u32) -> Result<Pa, OutOfFrames> {
                (**self).take_root(frames)
            }
            #[inline]
            fn free(&self, frame: Frame) {
                (**self).free(frame);
            }
            #[inline]
            fn put_back(&self, frame: Frame) {
                (**self).put_back(frame);
            }

            fn free_root(&self, root: Pa, frames: u32) {
                (**self).free_root(root, frames);
            }
            #[inline]
            fn table(&self, pa: Pa) -> &[AtomicU64] {
                (**self).table(pa)
            }
            #[inline]
            fn root(&self, pa: Pa, frames: u32) -> &[AtomicU64] {
                (**self).root(pa, frames)
            }
            #[inline]
            fn fill(&self, frame: &mut Frame, value: impl FnMut(usize) -> u64) {
                (**self).fill(frame, value);
            }
            #[inline]
            fn generation(&self, pa: Pa) -> u32 {
                (**self).generation(pa)
            }
            #[inline]
            fn frames_in_use(&self) -> usize {
                (**self).frames_in_use()
            }

            fn has_frame(&self, pa: Pa) -> bool {
                (**self).has_frame(pa)
            }
        }
    )*};
}

forward!(&M, Arc<M>);
