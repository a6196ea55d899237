//! Hosted table memory: one reserved mapping that stands for physical memory.

mod options;

pub use options::{ArenaError, ArenaOptions};

use super::counts::Counts;
use super::free_list::FreeList;
use super::region::{Region, Window};
use super::roots::{LARGEST, Roots};
use super::{Frame, OutOfFrames, TableMemory};
use crate::arch::Pa;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, unique_number};

/// What an [`Arena`] holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaStats {
    /// Frames there can be at most.
    pub capacity: usize,
    /// Frames that may be out or reserved.
    pub quota: usize,
    /// Frames taken and not freed, roots included.
    pub in_use: usize,
    /// Frames set aside and not yet taken.
    pub reserved: usize,
    /// Frames that were handed out at least once and thus occupy memory; without roots.
    pub touched: usize,
    /// Roots that are out.
    pub roots: usize,
}

/// Table frames in one anonymous mapping, at consecutive physical addresses from a base on.
///
/// Taking and freeing a frame is lock-free and takes one exchange on the free list and one on the counters.
/// Beside the frames themselves it keeps 8 bytes a frame. `Send + Sync`; share it by reference or in an `Arc`.
///
/// ```
/// use s2pt::memory::{Arena, ArenaOptions, TableMemory};
///
/// let arena = Arena::new(ArenaOptions { capacity_frames: 64, quota: Some(3), ..Default::default() })?;
/// arena.reserve(2)?;
/// let mut frame = arena.take();
/// arena.fill(&mut frame, |index| index as u64);
/// assert_eq!(arena.frames_in_use(), 1);
/// assert_eq!(arena.reserve(2).unwrap_err().available, 1); // one taken, one still reserved, of three
/// arena.free(frame);
/// arena.unreserve(1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    region: Region,
    free: FreeList,
    counts: Counts,
    capacity: usize,
    /// Lowest of capacity and quota.
    limit: AtomicUsize,
    /// Requests until the one to refuse, or [`NEVER`].
    fail: AtomicU64,
    /// First index of the part that roots come from.
    first_root: u32,
    roots: Mutex<Roots>,
    id: u32,
}

const NEVER: u64 = u64::MAX;
/// No table address has more bits.
const PA_LIMIT: u64 = 1 << 52;
/// Twice as many, and the alignment of roots, still are `u32` indices.
const MOST_FRAMES: usize = 0x3fff_ffff;

impl Arena {
    /// Reserves the address space; touches no frame.
    ///
    /// # Errors
    ///
    /// [`ArenaError`] naming the option that does not fit.
    pub fn new(options: ArenaOptions) -> Result<Self, ArenaError> {
        let ArenaOptions {
            base,
            granule,
            capacity_frames: capacity,
            quota,
        } = options;
        let size = granule.size();
        if !base.is_aligned(size) {
            return Err(ArenaError::Base { base, granule: size });
        }
        // Roots are aligned by address, and the base need not be.
        let refused = ArenaError::Capacity {
            frames: capacity,
            base,
            limit: PA_LIMIT,
        };
        if !(1..=MOST_FRAMES).contains(&capacity) || base.get() >= PA_LIMIT {
            return Err(refused);
        }
        let base_frame = base.get() / size;
        let first_root = (base_frame + capacity as u64).next_multiple_of(LARGEST.into()) - base_frame;
        let root_frames = (capacity as u32).next_multiple_of(LARGEST);
        let count = first_root + u64::from(root_frames);
        if count > (PA_LIMIT - base.get()) / size {
            return Err(refused);
        }
        let region = Region::new(base, granule.shift(), count as u32, capacity as u32).map_err(|source| {
            ArenaError::Reserve {
                bytes: count * size,
                source,
            }
        })?;
        Ok(Self {
            region,
            free: FreeList::new(capacity as u32),
            counts: Counts::default(),
            capacity,
            limit: AtomicUsize::new(quota.unwrap_or(capacity).min(capacity)),
            fail: AtomicU64::new(NEVER),
            first_root: first_root as u32,
            roots: Mutex::new(Roots::new(root_frames)),
            // Tells arenas apart. 0 means "not recorded" in a `Frame`.
            id: unique_number(),
        })
    }

    /// Address of the first frame.
    pub fn base(&self) -> Pa {
        self.region.pa(0)
    }

    /// First address beyond the last frame.
    pub fn end(&self) -> Pa {
        self.region.pa(self.region.count())
    }

    /// Whether `pa` is the address of a frame, thus fit for [`table`](TableMemory::table).
    pub fn contains(&self, pa: Pa) -> bool {
        (self.base()..self.end()).contains(&pa) && pa.is_aligned(self.region.frame_bytes() as u64)
    }

    /// The entry at `pa`, any multiple of 8; `None` outside. What an [`Image`](crate::image::Image) of a table in this
    /// arena reads it with: `Image::new(|pa| arena.read(pa), ..)`. Beside writers hold a [`Stay`](crate::table::Stay)
    /// meanwhile, so that no frame on the way is freed and used for something else.
    pub fn read(&self, pa: Pa) -> Option<u64> {
        let frame = pa.align_down(self.region.frame_bytes() as u64);
        if !self.contains(frame) || !pa.is_aligned(8) {
            return None;
        }
        let entry = &self.table(frame)[(pa.offset_from(frame) / 8) as usize];
        // Acquire: as a table walk does; what a table entry points to was filled before.
        Some(entry.load(Ordering::Acquire))
    }

    /// Limits how many frames may be out or reserved at a time, from now on; `None` lifts the limit.
    ///
    /// Frames that are out stay out: below the number in use, every reservation fails until enough are freed.
    pub fn set_quota(&self, quota: Option<usize>) {
        // Relaxed: a reservation that runs at the same time may see either limit.
        self.limit
            .store(quota.unwrap_or(self.capacity).min(self.capacity), Ordering::Relaxed);
    }

    /// Refuses the `k`-th frame requested from now on, counting from 0, once.
    ///
    /// Frames are requested by [`reserve`](TableMemory::reserve) and [`take_root`](TableMemory::take_root); a request
    /// for several that includes the `k`-th fails as a whole. `usize::MAX` calls the refusal off. For tests of what an
    /// operation leaves behind when memory runs out in its middle. (While frames of the table are
    /// [pending](crate::table::ReclaimStats::pending), the operation collects them and asks again, and gets them then.)
    pub fn fail_allocation(&self, k: usize) {
        // Relaxed: armed by the thread that then runs the operation.
        let k = if k == usize::MAX { NEVER } else { k as u64 };
        self.fail.store(k, Ordering::Relaxed);
    }

    /// How many more frames must be requested until the refusal that [`fail_allocation`](Self::fail_allocation) asked for;
    /// `None`: it came, or none was asked for.
    pub fn failing(&self) -> Option<usize> {
        // Relaxed: as there.
        let left = self.fail.load(Ordering::Relaxed);
        (left != NEVER).then_some(left as usize)
    }

    /// What the arena holds now.
    pub fn stats(&self) -> ArenaStats {
        let (in_use, reserved) = self.counts.get();
        ArenaStats {
            capacity: self.capacity,
            // Relaxed: a statistic.
            quota: self.limit.load(Ordering::Relaxed),
            in_use,
            reserved,
            touched: self.free.touched() as usize,
            roots: self.lock_roots().count(),
        }
    }

    /// Makes the operating system back the first `frames` frames now, so that taking them later costs no page fault.
    pub fn prefault(&self, frames: usize) {
        self.region.prefault(frames.min(self.capacity) as u32);
    }

    /// The limit for a request of `frames`, or the refusal that a test asked for.
    fn admit(&self, frames: usize) -> Result<usize, OutOfFrames> {
        // Relaxed: normally never written, so that this line stays shared among all cores.
        if self.fail.load(Ordering::Relaxed) != NEVER {
            self.count_down(frames)?;
        }
        // Relaxed: see `set_quota`.
        Ok(self.limit.load(Ordering::Relaxed))
    }

    #[cold]
    fn count_down(&self, frames: usize) -> Result<(), OutOfFrames> {
        let wanted = frames as u64;
        let step = |left: u64| match left {
            NEVER => None,
            left if left < wanted => Some(NEVER),
            left => Some(left - wanted),
        };
        // Relaxed: the count itself is all that is shared.
        match self.fail.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step) {
            Ok(left) if left < wanted => Err(OutOfFrames {
                needed: frames,
                available: left as usize,
            }),
            _ => Ok(()),
        }
    }

    /// Zeroes a frame and puts it where `take` finds it. What it counts as is said afterwards (`Counts`): whoever is told
    /// that there is room must find the frame.
    fn recycle(&self, frame: Frame) {
        frame.check_owner(self.id);
        let index = self.region.index(frame.into_pa());
        assert!(
            index < self.first_root,
            "{} is part of the roots",
            self.region.pa(index)
        );
        // SAFETY: a `Frame` is private, and `check_owner` has seen that it is one of this arena's.
        mutated!(ZeroedLate, (), unsafe { self.region.clear(index) });
        self.free.push(&self.region, index);
        mutated!(ZeroedLate, {
            // Late enough for somebody else to have it.
            crate::sync::thread::sleep(std::time::Duration::from_micros(20));
            self.region.clear_shared(index);
        });
    }

    fn lock_roots(&self) -> std::sync::MutexGuard<'_, Roots> {
        // Poisoned only by the refusal of a wrong argument, before anything changed.
        self.roots.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl TableMemory for Arena {
    type Tables<'m> = Window<'m>;

    #[inline]
    fn tables(&self) -> Window<'_> {
        self.region.window()
    }

    fn reserve(&self, frames: usize) -> Result<(), OutOfFrames> {
        let limit = self.admit(frames)?;
        self.counts.reserve(frames, limit)
    }

    fn reserve_spare(&self, frames: usize) -> usize {
        // Relaxed: see `set_quota`.
        let limit = self.limit.load(Ordering::Relaxed);
        if self.counts.reserve(frames, limit).is_ok() {
            frames
        } else {
            0
        }
    }

    fn unreserve(&self, frames: usize) {
        self.counts.unreserve(frames);
    }

    fn take(&self) -> Frame {
        self.counts.take();
        loop {
            // Counted above, so a frame is there: as many are physically free as takes are between their count and
            // here, since frames are pushed before they stop counting as in use. `None` only means that a peer took
            // the one this thread looked at while another pushed one; each round some peer got on.
            if let Some(index) = self.free.pop(&self.region) {
                return Frame::owned(self.region.pa(index), self.id);
            }
            core::hint::spin_loop();
        }
    }

    fn take_root(&self, frames: u32) -> Result<Pa, OutOfFrames> {
        let needed = frames as usize;
        let limit = self.admit(needed)?;
        let mut roots = self.lock_roots();
        self.counts.occupy(needed, limit)?;
        match roots.take(frames) {
            Some(first) => Ok(self.region.pa(self.first_root + first)),
            None => {
                self.counts.release(needed);
                Err(OutOfFrames { needed, available: 0 })
            }
        }
    }

    fn free(&self, frame: Frame) {
        self.counts.free(|| self.recycle(frame));
    }

    fn put_back(&self, frame: Frame) {
        self.counts.put_back(|| self.recycle(frame));
    }

    fn free_root(&self, root: Pa, frames: u32) {
        let mut roots = self.lock_roots();
        let first = self.region.index(root).wrapping_sub(self.first_root);
        let freed = roots.free(first, frames);
        if freed {
            // Nobody is handed this run before the lock goes. Atomic stores, because a root's address is no proof
            // that its table is gone.
            (first..first + frames).for_each(|index| self.region.clear_shared(self.first_root + index));
            self.counts.release(frames as usize);
        }
        drop(roots);
        assert!(freed, "no root of {frames} frame(s) starts at {root}");
    }

    #[inline]
    fn table(&self, pa: Pa) -> &[AtomicU64] {
        self.region.tables(pa, 1)
    }

    #[inline]
    fn root(&self, pa: Pa, frames: u32) -> &[AtomicU64] {
        self.region.tables(pa, frames)
    }

    #[inline]
    fn fill(&self, frame: &mut Frame, value: impl FnMut(usize) -> u64) {
        frame.check_owner(self.id);
        let index = self.region.index(frame.pa());
        // SAFETY: a `Frame` is private, `check_owner` has seen that it is one of this arena's, and `&mut` says that
        // nobody else fills it through the same `Frame`.
        unsafe { self.region.fill(index, value) };
    }

    #[inline]
    fn generation(&self, pa: Pa) -> u32 {
        // Relaxed: the reader's acquire fence pairs with the release fence in `Region::clear`.
        self.region.generation(self.region.index(pa)).load(Ordering::Relaxed)
    }

    fn frames_in_use(&self) -> usize {
        self.counts.get().0
    }

    fn has_frame(&self, pa: Pa) -> bool {
        self.contains(pa)
    }
}
