//! One word of a dirty log: what a fault and a harvest do to it at the same time.

use crate::sync::{AtomicU64, Ordering};

/// Bits of 64 pages.
#[derive(Debug)]
pub(crate) struct Word(AtomicU64);

impl Word {
    pub(crate) fn new(bits: u64) -> Self {
        Self(AtomicU64::new(bits))
    }

    /// Sets bits, after their pages were made writable.
    #[inline]
    pub(crate) fn mark(&self, bits: u64) {
        // AcqRel: releases the entry that was made writable to the harvest that takes the bit. Always a
        // read-modify-write; see the header of `dirty`.
        mutated!(
            MarkLooksFirst,
            if self.0.load(Ordering::Relaxed) & bits == bits {
                return;
            }
        );
        self.0.fetch_or(bits, Ordering::AcqRel);
    }

    /// Takes the bits of `mask` out.
    pub(crate) fn take(&self, mask: u64) -> u64 {
        // A word that looks clean needs no write: what is set a moment later belongs to the next harvest anyway.
        if self.0.load(Ordering::Relaxed) & mask == 0 {
            return 0;
        }
        // AcqRel: whoever's bit is taken, his entry is seen by the write protection that follows.
        self.0.fetch_and(!mask, Ordering::AcqRel) & mask
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}
