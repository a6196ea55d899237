//! What a leaf becomes: bits set, bits cleared, or whatever a function says.

use crate::arch::{Format, Level, Pte};
use crate::table::build::Piece;

/// The new value of a leaf.
pub(crate) trait Rewrite {
    /// Whether it may give the right to execute, which takes cache operations before.
    const GIVES: bool;

    fn rewrite(&self, format: &Format, pte: Pte) -> Pte;

    /// The bits that it clears, if it does nothing else.
    fn clears(&self) -> Option<u64> {
        None
    }
}

/// Descriptor bits that are set: rights to read and write.
pub(crate) struct Set(pub(crate) u64);

impl Rewrite for Set {
    const GIVES: bool = false;

    #[inline(always)]
    fn rewrite(&self, _: &Format, pte: Pte) -> Pte {
        Pte::from_raw(pte.raw() | self.0)
    }
}

/// Descriptor bits that are cleared.
pub(crate) struct Clear(pub(crate) u64);

impl Rewrite for Clear {
    const GIVES: bool = false;

    #[inline(always)]
    fn rewrite(&self, _: &Format, pte: Pte) -> Pte {
        Pte::from_raw(pte.raw() & !self.0)
    }

    #[inline(always)]
    fn clears(&self) -> Option<u64> {
        Some(self.0)
    }
}

impl<F: Fn(&Format, Pte) -> Pte> Rewrite for F {
    const GIVES: bool = true;

    #[inline(always)]
    fn rewrite(&self, format: &Format, pte: Pte) -> Pte {
        self(format, pte)
    }
}

/// The changed part of a block that is cut.
pub(super) struct Rewritten<'a, W> {
    pub(super) format: &'a Format,
    pub(super) rewrite: &'a W,
}

impl<W: Rewrite> Piece for Rewritten<'_, W> {
    #[inline(always)]
    fn piece(&self, _: Level, _: u64, old: Pte) -> Option<Pte> {
        Some(self.rewrite.rewrite(self.format, old))
    }

    fn fits(&self, _: Level) -> bool {
        true
    }
}
