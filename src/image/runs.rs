//! Runs of leaves: the short way to write a table down.

use crate::arch::{Format, Ipa, Level, Mapping, Pa};

/// Leaves of one level, contiguous in IPA and output address, equal in all other bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafRun {
    /// First IPA.
    pub ipa: Ipa,
    /// Bytes, of all leaves together.
    pub size: u64,
    /// First output address.
    pub pa: Pa,
    /// Level of the leaves.
    pub level: Level,
    /// The descriptor bits that hold no output address, the same in every leaf.
    pub attrs: u64,
}

/// Iterator that joins leaves into runs as long as possible. An `Err` ends a run and is passed on behind it.
pub struct Runs<I: Iterator> {
    format: Format,
    leaves: core::iter::Peekable<I>,
}

impl<E, I: Iterator<Item = Result<Mapping, E>>> Runs<I> {
    /// Runs of these leaves, which come in order of IPA and have this format.
    pub fn new(format: Format, leaves: I) -> Self {
        Self {
            format,
            leaves: leaves.peekable(),
        }
    }

    fn run(&self, leaf: &Mapping) -> LeafRun {
        LeafRun {
            ipa: leaf.ipa,
            size: leaf.size,
            pa: leaf.pa,
            level: leaf.level,
            attrs: leaf.raw.raw() & !self.format.output_bits(leaf.pa),
        }
    }
}

impl<E, I: Iterator<Item = Result<Mapping, E>>> Iterator for Runs<I> {
    type Item = Result<LeafRun, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut run = match self.leaves.next()? {
            Ok(leaf) => self.run(&leaf),
            Err(error) => return Some(Err(error)),
        };
        while let Some(Ok(leaf)) = self.leaves.peek() {
            let leaf = *leaf;
            let next = self.run(&leaf);
            if !run.continues(&next) {
                break;
            }
            run.size += next.size;
            self.leaves.next();
        }
        Some(Ok(run))
    }
}

impl LeafRun {
    fn continues(&self, next: &Self) -> bool {
        self.level == next.level
            && self.attrs == next.attrs
            && self.ipa.get() + self.size == next.ipa.get()
            && self.pa.get() + self.size == next.pa.get()
    }
}
