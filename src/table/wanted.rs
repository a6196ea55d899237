//! What a request wants in each entry of its range: leaves that map memory, or an owner's mark.
//!
//! Mapping and marking are one operation on the tree: holes are filled, tables linked, blocks cut, leaves replaced. They
//! differ in what an entry gets, and that is told here.

use super::build::Piece;
use super::walk::At;
use crate::arch::{Format, Geometry, Level, Pa, Pte};

/// The wanted content of a range.
pub(crate) trait Wanted: Piece + Copy {
    /// Whether entries become an owner's marks: invalid to hardware, and above what somebody else has marked.
    const MARKS: bool = false;

    /// The entry at `level` for `ipa`, which [fits](Piece::fits).
    fn leaf(&self, level: Level, ipa: u64) -> Pte;

    /// The leaf `pte` at `at` says what this request asks, wherever the two overlap.
    fn same(&self, at: &At<'_>, pte: Pte) -> bool;

    /// The smallest level number that an entry may have.
    fn largest(&self) -> Level;

    /// The physical address behind `ipa`, and the bits of a page there; `None` if there is no memory behind.
    fn output(&self, ipa: u64) -> Option<(Pa, Pte)>;
}

/// The leaves of one request: where each may stand and what it holds.
#[derive(Clone, Copy)]
pub(crate) struct Leaves<'t> {
    pub(crate) geometry: &'t Geometry,
    pub(crate) format: &'t Format,
    /// Leaf bits without output address, by kind.
    pub(crate) block: u64,
    pub(crate) page: u64,
    /// PA minus IPA, wrapping.
    pub(crate) offset: u64,
    pub(crate) largest: Level,
}

impl Wanted for Leaves<'_> {
    #[inline(always)]
    fn leaf(&self, level: Level, ipa: u64) -> Pte {
        let bits = if level.is_last() { self.page } else { self.block };
        Pte::from_raw(bits | self.format.output_bits(Pa::new(ipa.wrapping_add(self.offset))))
    }

    #[inline]
    fn same(&self, at: &At<'_>, pte: Pte) -> bool {
        let aligned = at.base.wrapping_add(self.offset) & (at.size - 1) == 0;
        aligned && pte == self.leaf(at.level(), at.base)
    }

    #[inline(always)]
    fn largest(&self) -> Level {
        self.largest
    }

    #[inline(always)]
    fn output(&self, ipa: u64) -> Option<(Pa, Pte)> {
        Some((Pa::new(ipa.wrapping_add(self.offset)), Pte::from_raw(self.page)))
    }
}

impl Piece for Leaves<'_> {
    #[inline(always)]
    fn piece(&self, level: Level, ipa: u64, _: Pte) -> Option<Pte> {
        self.fits(level).then(|| self.leaf(level, ipa))
    }

    fn step(&self, size: u64, lo: u64, hi: u64, _: u64) -> Option<u64> {
        // Below bit 48 every format has the address bits in one run; the bits above must not change on the way.
        let (first, last) = (lo.wrapping_add(self.offset), (hi - 1).wrapping_add(self.offset));
        ((first ^ last) >> 48 == 0).then_some(size)
    }

    #[inline(always)]
    fn fits(&self, level: Level) -> bool {
        // An entry's own address is aligned to its size, so the distance decides for all of them alike.
        level.is_last()
            || level >= self.largest
                && self.geometry.block_allowed(level)
                && self.offset & (self.geometry.size(level) - 1) == 0
    }
}

/// An owner's mark, or nothing, on all of a range.
#[derive(Clone, Copy)]
pub(crate) struct Marks {
    pub(crate) mark: Pte,
    pub(crate) largest: Level,
}

impl Wanted for Marks {
    const MARKS: bool = true;

    fn leaf(&self, _: Level, _: u64) -> Pte {
        self.mark
    }

    fn same(&self, _: &At<'_>, pte: Pte) -> bool {
        pte == self.mark
    }

    fn largest(&self) -> Level {
        self.largest
    }

    fn output(&self, _: u64) -> Option<(Pa, Pte)> {
        None
    }
}

impl Piece for Marks {
    fn piece(&self, level: Level, _: u64, _: Pte) -> Option<Pte> {
        (level >= self.largest).then_some(self.mark)
    }

    fn step(&self, _: u64, _: u64, _: u64, _: u64) -> Option<u64> {
        Some(0)
    }

    fn fits(&self, level: Level) -> bool {
        level >= self.largest
    }
}

/// The part of a leaf that may change in place (R4).
pub(crate) struct Rights<'a>(&'a Format);

impl<'a> Rights<'a> {
    pub(crate) fn of(format: &'a Format) -> Self {
        Self(format)
    }

    /// The two leaves differ in permissions, access flag, dirty state or software bits at most.
    pub(crate) fn only(&self, old: Pte, new: Pte) -> bool {
        let mask = self.0.perm_mask() | Format::AF_BIT | Format::DBM_BIT | Format::SOFTWARE_MASK;
        (old.raw() ^ new.raw()) & !mask == 0
    }

    /// The new leaf lacks a right, the access flag or DBM that the old one gave.
    pub(crate) fn narrow(&self, old: Pte, new: Pte) -> bool {
        let lost = old.raw() & !new.raw() & (Format::AF_BIT | Format::DBM_BIT);
        lost != 0 || !self.0.prot(new).contains(self.0.prot(old))
    }
}
