//! The bits of a logged slot: set by faults, taken by harvests, without a lock.

use super::word::Word;
use super::{DirtyLogMode, DirtyLogOptions, DirtyTracking};
use crate::arch::Ipa;
use crate::vm::error::Error;
use crate::vm::slots::Slot;

/// The bits of one logged slot.
#[derive(Debug)]
pub(crate) struct Bitmap {
    pub(super) words: Box<[Word]>,
    pub(super) pages: u64,
    pub(super) options: DirtyLogOptions,
}

/// Pages per word.
pub(super) const WORD: u64 = 64;

/// The bits that exist in word `index` of a bitmap of `pages` pages.
const fn valid(pages: u64, index: u64) -> u64 {
    let rest = pages - index * WORD;
    if rest >= WORD { u64::MAX } else { (1 << rest) - 1 }
}

/// An empty vector with room for so many words: a slot may be larger than its bitmap can be here.
pub(super) fn room<T>(words: u64) -> Result<Vec<T>, Error> {
    let mut room = Vec::new();
    let enough = usize::try_from(words).is_ok_and(|words| room.try_reserve_exact(words).is_ok());
    let bytes = words.saturating_mul(8);
    if enough {
        Ok(room)
    } else {
        Err(Error::NoMemory { bytes })
    }
}

impl Bitmap {
    pub(super) fn new(pages: u64, options: DirtyLogOptions) -> Result<Self, Error> {
        let set = options.mode == DirtyLogMode::ManualInitiallySet;
        let word = |index| Word::new(if set { valid(pages, index) } else { 0 });
        let mut words = room(pages.div_ceil(WORD))?;
        words.extend((0..pages.div_ceil(WORD)).map(word));
        Ok(Self {
            words: words.into_boxed_slice(),
            pages,
            options,
        })
    }

    /// Whether hardware notices the writes.
    #[inline]
    pub(crate) fn by_hardware(&self) -> bool {
        self.options.tracking == DirtyTracking::Hardware
    }

    /// Marks every page of [`ipa`, `ipa + size`) that is in `slot`.
    pub(super) fn mark_range(&self, slot: &Slot, page: u64, ipa: Ipa, size: u64) {
        let first = ipa.get().max(slot.ipa.get());
        let end = (ipa.get() + size).min(slot.end());
        for number in (first - slot.ipa.get()) / page..(end.max(first) - slot.ipa.get()).div_ceil(page) {
            self.mark(number);
        }
    }

    /// Sets a page's bit, after the page was made writable.
    #[inline]
    pub(crate) fn mark(&self, page: u64) {
        self.words[(page / WORD) as usize].mark(1 << (page % WORD));
    }

    /// Takes the bits of `mask` out of a word.
    pub(super) fn take(&self, index: usize, mask: u64) -> u64 {
        self.words[index].take(mask)
    }

    pub(super) fn copy(&self) -> Result<Vec<u64>, Error> {
        let mut copy = room(self.words.len() as u64)?;
        copy.extend(self.words.iter().map(Word::get));
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_beyond_the_last_page_do_not_exist() {
        let bitmap = Bitmap::new(70, DirtyLogMode::ManualInitiallySet.into()).unwrap();
        assert_eq!(bitmap.copy().unwrap(), [u64::MAX, 0b11_1111]);
        assert_eq!(
            Bitmap::new(70, DirtyLogMode::Auto.into()).unwrap().copy().unwrap(),
            [0, 0]
        );
    }

    #[test]
    fn only_asked_bits_are_taken() {
        let bitmap = Bitmap::new(64, DirtyLogMode::Auto.into()).unwrap();
        bitmap.mark(3);
        bitmap.mark(40);
        assert_eq!(bitmap.take(0, 0xff), 1 << 3);
        assert_eq!(bitmap.take(0, 0xff), 0);
        assert_eq!(bitmap.copy().unwrap(), [1 << 40]);
    }
}
