//! What is done when retired frames pile up, and when they run short.
//!
//! A retired frame waits until every walker has left who could stand in it (R8). Mostly that is a moment, and whoever
//! enters the table next frees it. But a walker may be kept: he lost his core, or stays in the table on purpose. Then what
//! others retire waits with him, and a thread that unmaps in a loop could fill the memory with it. So:
//!
//! - *Too many wait.* A call that retires frames and leaves more of them pending than [`Config::pending_limit`] frees what
//!   can be freed, and waits for the grace period, before it returns; a long one also in its midst.
//! - *Too few are left.* A call that gets no frames while some wait does the same, and then asks the memory again.
//!
//! Both happen with nothing LOCKED and outside of the table, so nobody can wait for the one who waits here (R10). Both end:
//! after so many looks without a single frame freed the call goes on, and leaves the limit overrun, or answers
//! [`Error::OutOfFrames`]. It must, since the walker may be waiting for this very thread. Where the limit is overrun, nobody
//! else waits for the same walker: until a frame is freed again, further calls look and do not wait. Nor does who is in the
//! table himself ([`stay`](View::stay)), or [waits for nobody](super::Handle::without_waiting). A call that only fills holes retires
//! nothing and never waits for what others retired.
//!
//! Pending frames count as in use, so the memory's own quota bounds them whatever walkers do.

use super::error::Error;
use super::frames::Reserve;
use super::reclaim::Access;
use super::tlb::Tlb;
use super::{Core, Stage2, View};
use crate::memory::TableMemory;
use crate::sync::{Backoff, Ordering, Statistic};

#[cfg(doc)]
use super::Config;

/// What became of the frames of unlinked tables, since the table was made.
///
/// Frames that exclusive access unlinks are free at once and are not counted. Beside writers each number is of some moment.
///
/// ```
/// use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
/// use s2pt::memory::{Arena, ArenaOptions};
/// use s2pt::table::{Config, MapOptions, Null, Stage2};
///
/// let mut config = Config::new(Geometry::new(GeometryOptions::default())?);
/// config.pending_limit = 0; // who retires a frame waits until it is free
/// let table = Stage2::new(config, Arena::new(ArenaOptions::default())?, Null)?;
/// let vcpu = table.handle();
/// vcpu.map(Ipa::new(0), 4096, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?;
/// vcpu.unmap(Ipa::new(0), 4096)?; // and the tables of levels 2 and 3 with it
/// let stats = table.reclaim_stats();
/// assert_eq!((stats.retired, stats.freed, stats.pending, stats.overruns), (2, 2, 0, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReclaimStats {
    /// Frames retired: unlinked beside others, to be freed when all walkers have left.
    pub retired: u64,
    /// Those of them that are back in the memory.
    pub freed: u64,
    /// Those that still wait.
    pub pending: u64,
    /// The most that ever waited at a time.
    pub peak: u64,
    /// How many calls left more pending than the limit allows: they must not wait, or a walker did not leave.
    pub overruns: u64,
}

/// What is counted of a table's retired frames, besides those that are pending.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    retired: Statistic,
    freed: Statistic,
    peak: Statistic,
    overruns: Statistic,
    /// One more than the frames freed when somebody's patience ended.
    stuck: Statistic,
}

impl Backlog {
    pub(crate) fn freed(&self, frames: usize) {
        self.freed.add(frames as u64);
    }
}

impl<M: TableMemory, T: Tlb> Core<M, T> {
    /// Counts frames that are about to be retired.
    pub(crate) fn retiring(&self, frames: usize) {
        // Relaxed: only this thread's later looks need to see it.
        let before = self.pending.fetch_add(frames, Ordering::Relaxed);
        self.backlog.retired.add(frames as u64);
        self.backlog.peak.raise((before + frames) as u64);
    }
}

impl<M: TableMemory, T: Tlb> Stage2<M, T> {
    /// What became of the frames of unlinked tables.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 0x1000, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // with two tables
    /// view.unmap(Ipa::new(0), 0x1000)?;
    /// view.drain();
    /// let stats = table.reclaim_stats();
    /// assert_eq!((stats.retired, stats.freed, stats.pending), (2, 2, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reclaim_stats(&self) -> ReclaimStats {
        let backlog = &self.core.backlog;
        ReclaimStats {
            retired: backlog.retired.get(),
            freed: backlog.freed.get(),
            pending: self.pending_frames() as u64,
            peak: backlog.peak.get(),
            overruns: backlog.overruns.get(),
        }
    }
}

/// Fruitless waits before a call goes on and leaves the limit overrun: hosted some 0.1 s, most of it asleep.
const PATIENCE: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 1 << 10 };

/// The same before a call fails for want of frames: some 1 s. A walker that lost its core to many others is back by then.
const PATIENCE_FOR_FRAMES: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 1 << 13 };

/// More looks than the epoch needs to get on when nobody is in its way. A model has to explore each.
const LOOKS: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 4 };

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Frames freed so far, for [`relief`](Self::relief).
    #[inline(always)]
    pub(crate) fn freed(&self) -> u64 {
        if A::SHARED { self.core.backlog.freed.get() } else { 0 }
    }

    /// At the end of a call that may have retired frames, or in its midst: outside of the table and with nothing LOCKED.
    #[inline]
    pub(crate) fn relieve(&self) {
        if A::SHARED && self.owes.get() {
            self.reduce();
        }
    }

    #[inline(never)]
    fn reduce(&self) {
        self.owes.set(false);
        let limit = self.core.config.pending_limit;
        // Relaxed: one frame more or less does not matter.
        if limit == usize::MAX || self.core.pending.load(Ordering::Relaxed) <= limit {
            return;
        }
        // Whoever waited in vain a moment ago did so for all.
        let backlog = &self.core.backlog;
        let stuck = backlog.stuck.get() == self.freed() + 1;
        let patience = if stuck { 0 } else { PATIENCE };
        if !self.collect_until(patience, || self.core.pending.load(Ordering::Relaxed) <= limit) {
            backlog.stuck.set(self.freed() + 1);
            backlog.overruns.add(1);
        }
    }

    /// After the memory refused frames: whether asking again may help, since some came back. `freed` is how many had been
    /// freed before it was asked, and then before it is asked again.
    ///
    /// A view with a budget has what KVM's caller put into its cache, and collects nothing.
    #[cold]
    pub(crate) fn relief(&self, freed: &mut u64) -> bool {
        if !A::SHARED || self.frames != usize::MAX {
            return false;
        }
        let before = *freed;
        let came = || self.freed() != before;
        if !came() {
            // Acquire: nothing pending means that all are counted as freed, and are in the memory.
            self.collect_until(PATIENCE_FOR_FRAMES, || {
                came() || self.core.pending.load(Ordering::Acquire) == 0
            });
        }
        // Read once, and judged by what was read: a frame may come between any two looks.
        *freed = self.freed();
        *freed != before
    }

    /// Frees all that is pending, by who knows that nobody is in the table.
    #[cold]
    pub(crate) fn free_pending(&self) {
        // Acquire: as in `drain`. Only a stay that was never dropped can be left.
        self.collect_until(PATIENCE_FOR_FRAMES, || self.core.pending.load(Ordering::Acquire) == 0);
    }

    /// Sets frames aside for an operation that has changed nothing yet, outside of the table.
    pub(crate) fn set_aside(&self, reserve: &mut Reserve<'_, M>, frames: usize) -> Result<(), Error> {
        let mut freed = self.freed();
        loop {
            match reserve.ensure(frames) {
                Err(Error::OutOfFrames { .. }) if self.relief(&mut freed) => {}
                done => return done,
            }
        }
    }

    /// Frees what can be freed until it is `enough`, and as long as that frees something waits for walkers up to `patience`
    /// times. Says whether it was.
    fn collect_until(&self, patience: u32, enough: impl Fn() -> bool) -> bool {
        let may_wait = self.wait && !self.access.is_inside();
        let patience = if may_wait { patience } else { 0 };
        let mut seen = self.freed();
        let mut looks = 0;
        let mut backoff = Backoff::new();
        loop {
            self.access.collect();
            if enough() {
                return true;
            }
            let freed = self.freed();
            if freed != seen && may_wait {
                // It gets on: a collection frees a few portions only.
                (seen, looks, backoff) = (freed, 0, Backoff::new());
            } else if freed != seen || looks >= LOOKS + patience {
                return false;
            } else {
                looks += 1;
                if looks > LOOKS {
                    backoff.wait();
                }
            }
        }
    }
}
