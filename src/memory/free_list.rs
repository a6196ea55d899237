//! A lock-free stack of frame indices, and the frames that were never used.
//!
//! The links live in a side array, never in the frames: a free frame must stay zero. The head carries a tag that
//! changes with every exchange, so that a thread which read the head, slept while the same frame was popped and pushed
//! again, and now compares, fails instead of installing a stale link.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The side array: one link for each frame.
pub(super) trait Links {
    /// The link of frame `index`.
    fn next(&self, index: u32) -> &AtomicU32;
}

/// No frame.
const NONE: u32 = u32::MAX;

/// The free frames among `0..frames`. Frames from `fresh` on were never handed out, and are zero because the
/// operating system gave them so.
#[derive(Debug)]
pub(super) struct FreeList {
    /// `tag << 32 | index of the top frame`.
    head: AtomicU64,
    fresh: AtomicU32,
    frames: u32,
}

impl FreeList {
    pub(super) fn new(frames: u32) -> Self {
        Self {
            head: AtomicU64::new(u64::from(NONE)),
            fresh: AtomicU32::new(0),
            frames,
        }
    }

    /// Puts a zeroed frame on top.
    pub(super) fn push(&self, links: &impl Links, index: u32) {
        // Relaxed: a first guess, compared below.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // Relaxed: published by the exchange below.
            mutated!(
                PushLinkLate,
                (),
                links.next(index).store(head as u32, Ordering::Relaxed)
            );
            // Release: the zeros in the frame and its link become visible to whoever pops it.
            let release = mutated!(PushRelaxed, Ordering::Relaxed, Ordering::Release);
            match self
                .head
                .compare_exchange_weak(head, retag(head, index), release, Ordering::Relaxed)
            {
                Ok(_) => {
                    mutated!(PushLinkLate, links.next(index).store(head as u32, Ordering::Relaxed));
                    return;
                }
                Err(seen) => head = seen,
            }
        }
    }

    /// The top frame, else a fresh one, else `None`. `None` may be out of date when a peer pushes at this moment.
    pub(super) fn pop(&self, links: &impl Links) -> Option<u32> {
        // Acquire: pairs with the release in `push`. All changes of the head are read-modify-writes, so the head that
        // a peer's pop left behind still carries the push of the frame it names.
        let mut head = self
            .head
            .load(mutated!(PopRelaxed, Ordering::Relaxed, Ordering::Acquire));
        while head as u32 != NONE {
            // Relaxed: made visible by the acquire of `head`. A peer may have popped and pushed this frame meanwhile
            // and changed the link; then the tag differs and the exchange fails.
            let next = links.next(head as u32).load(Ordering::Relaxed);
            // Relaxed where it succeeds: no two writes leave the same head (its tag), so the one that it replaces is the
            // one that `head` was read from, and that read acquired. Acquire where it fails: the loop goes on with the
            // head it saw.
            let found = mutated!(PopFoundRelaxed, Ordering::Relaxed, Ordering::Acquire);
            match self
                .head
                .compare_exchange_weak(head, retag(head, next), Ordering::Relaxed, found)
            {
                Ok(_) => return Some(head as u32),
                Err(seen) => head = seen,
            }
        }
        // Relaxed: the index is all there is; the operating system has zeroed the frame before any of this.
        self.fresh
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fresh| {
                (fresh < self.frames).then_some(fresh + 1)
            })
            .ok()
    }

    /// How many frames were handed out at least once.
    pub(super) fn touched(&self) -> u32 {
        // Relaxed: a statistic.
        self.fresh.load(Ordering::Relaxed)
    }
}

/// `index` under the next tag. A tag comes round after 2^32 exchanges of one head: nobody sleeps that long in the
/// four instructions between load and exchange.
fn retag(head: u64, index: u32) -> u64 {
    let next = mutated!(TagKept, 0, 1);
    ((head >> 32).wrapping_add(next) << 32) | u64::from(index)
}
