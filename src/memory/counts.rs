//! How many frames are in use and how many are spoken for: one word, so that both change together.

use super::OutOfFrames;
use crate::sync::{AtomicU64, Ordering};

/// `in use << 32 | reserved`.
///
/// Reservation is what makes `take` infallible: as long as `in use + reserved` stays within the capacity, there is
/// one physical frame for every reservation. The other half of that promise is the order in [`free`](Self::free) and
/// [`put_back`](Self::put_back): the frame goes onto the free list *before* the count says so.
#[derive(Debug, Default)]
pub(super) struct Counts(AtomicU64);

/// One frame in use.
const IN_USE: u64 = 1 << 32;

impl Counts {
    /// Reserves `frames`, within `limit`.
    pub(super) fn reserve(&self, frames: usize, limit: usize) -> Result<(), OutOfFrames> {
        self.add(frames, limit, 1)
    }

    /// Counts `frames` as in use straight away, within `limit`.
    pub(super) fn occupy(&self, frames: usize, limit: usize) -> Result<(), OutOfFrames> {
        self.add(frames, limit, IN_USE)
    }

    fn add(&self, frames: usize, limit: usize, unit: u64) -> Result<(), OutOfFrames> {
        // Relaxed: only a first guess, the exchange below compares it.
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            let spoken_for = split(now).0 + split(now).1;
            let available = limit.saturating_sub(spoken_for);
            if frames > available {
                return Err(OutOfFrames {
                    needed: frames,
                    available,
                });
            }
            // Acquire: pairs with the release in `release`, so that the frame whose return made room is on the free
            // list for us. Every change of the word is a read-modify-write, so the release sequences never break.
            let acquire = mutated!(ReserveRelaxed, Ordering::Relaxed, Ordering::Acquire);
            match self
                .0
                .compare_exchange_weak(now, now + frames as u64 * unit, acquire, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(seen) => now = seen,
            }
        }
    }

    /// Gives back `frames` reservations.
    pub(super) fn unreserve(&self, frames: usize) {
        // Relaxed: nothing was written under the reservation that the next owner must see.
        let before = self.0.fetch_sub(frames as u64, Ordering::Relaxed);
        debug_assert!(
            split(before).1 >= frames,
            "unreserve({frames}) of {} reserved",
            split(before).1
        );
    }

    /// One reserved frame becomes a frame in use.
    pub(super) fn take(&self) {
        // Relaxed: the reservation was acquired before, and the free list orders the frame itself.
        let before = self.0.fetch_add(IN_USE - 1, Ordering::Relaxed);
        assert!(split(before).1 > 0, "take() without a reservation");
    }

    /// A frame in use goes where `push` puts it, and counts as free then.
    #[inline]
    pub(super) fn free(&self, push: impl FnOnce()) {
        mutated!(CountedEarly, self.release(1));
        push();
        mutated!(CountedEarly, (), self.release(1));
    }

    /// `frames` frames are no longer in use. They must be where a `take` finds them already.
    pub(super) fn release(&self, frames: usize) {
        // Release: pairs with the acquire in `add`; see there.
        let release = mutated!(ReleaseRelaxed, Ordering::Relaxed, Ordering::Release);
        let before = self.0.fetch_sub(frames as u64 * IN_USE, release);
        debug_assert!(
            split(before).0 >= frames,
            "{frames} frames freed, {} in use",
            split(before).0
        );
    }

    /// A frame in use goes where `push` puts it, and is a reserved one then.
    #[inline]
    pub(super) fn put_back(&self, push: impl FnOnce()) {
        push();
        // Release: as in `release`. The reservation may be given back and be somebody else's next.
        let release = mutated!(ReleaseRelaxed, Ordering::Relaxed, Ordering::Release);
        let before = self.0.fetch_sub(IN_USE - 1, release);
        debug_assert!(split(before).0 > 0, "put_back() of a frame that is not in use");
    }

    /// (in use, reserved) at one moment.
    pub(super) fn get(&self) -> (usize, usize) {
        // Relaxed: a statistic; both halves come from the same moment because they are one word.
        split(self.0.load(Ordering::Relaxed))
    }
}

fn split(word: u64) -> (usize, usize) {
    ((word >> 32) as usize, (word & 0xffff_ffff) as usize)
}
