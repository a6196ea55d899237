//! The invalidation sequence: how a fault notices that the host has begun to take memory back. The argument is in
//! `invalidate`.

use crate::arch::Ipa;
use crate::sync::{AtomicU64, Ordering};

const WORDS: u64 = 64;
/// Bytes of the smallest window.
const LEAST_WINDOW: u64 = 2 << 20;
/// Low half of a word: invalidations in progress. High half: how many have ended.
const IN_PROGRESS: u64 = (1 << 32) - 1;
const ENDED: u64 = 1 << 32;

/// The sequence words of a VM.
#[derive(Debug)]
pub(crate) struct Sequence {
    words: [AtomicU64; WORDS as usize],
    window: u64,
}

/// What a fault's word said before it looked at the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample(u64);

impl Sample {
    /// Whether an invalidation is under way: whatever the host answers now may be about to change.
    #[inline]
    pub(crate) const fn in_progress(self) -> bool {
        self.0 & IN_PROGRESS != 0
    }
}

impl Sequence {
    /// `largest`: the largest block that a fault may install, in bytes.
    pub(crate) fn new(largest: u64) -> Self {
        Self {
            words: [(); WORDS as usize].map(|()| AtomicU64::new(0)),
            window: largest.max(LEAST_WINDOW),
        }
    }

    /// Bytes that one word stands for.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    fn word(&self, ipa: Ipa) -> &AtomicU64 {
        &self.words[(ipa.get() / self.window % WORDS) as usize]
    }

    #[inline]
    pub(crate) fn sample(&self, ipa: Ipa) -> Sample {
        // Acquire pairs with `end`: who sees an invalidation ended sees what the host did before.
        Sample(self.word(ipa).load(Ordering::Acquire))
    }

    /// Whether an invalidation began since. Called inside a fault section.
    #[inline]
    pub(crate) fn moved(&self, ipa: Ipa, since: Sample) -> bool {
        // SeqCst: the load of the argument in `policy`.
        self.word(ipa).load(Ordering::SeqCst) != since.0
    }

    /// One bit for each word that [`start`, `end`) touches.
    fn mask(&self, start: u64, end: u64) -> u64 {
        let (first, last) = (start / self.window, (end - 1) / self.window);
        if last - first >= WORDS - 1 {
            return u64::MAX;
        }
        (first..=last).fold(0, |mask, window| mask | 1 << (window % WORDS))
    }

    fn for_each(&self, mask: u64, add: impl Fn(&AtomicU64) -> u64) {
        for (i, word) in self.words.iter().enumerate() {
            if mask >> i & 1 != 0 {
                add(word);
            }
        }
    }

    /// Begins an invalidation of [`start`, `end`), not empty. The words that [`end`](Self::end) must be given.
    pub(crate) fn begin(&self, start: u64, end: u64) -> u64 {
        let mask = self.mask(start, end);
        // SeqCst: the store of the argument in `policy`.
        self.for_each(mask, |word| word.fetch_add(1, Ordering::SeqCst));
        mask
    }

    /// Ends it.
    pub(crate) fn end(&self, mask: u64) {
        // Release: what the host did is visible to faults that sample the word from now on.
        self.for_each(mask, |word| word.fetch_add(ENDED - 1, Ordering::Release));
    }
}
