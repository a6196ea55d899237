//! One 64-bit entry and what its bits say without knowing the table's format.
//!
//! Bit 0 makes an entry valid, bit 1 tells a table (or, at level 3, a page) from a block. An invalid entry is free for
//! software; a table of this crate uses four kinds:
//!
//! | kind | bits |
//! |---|---|
//! | EMPTY | 0 |
//! | LOCKED | exactly bit 10: somebody is between break and make |
//! | ANNOTATED | payload bits 7:0 in 9:2 and payload bits 58:8 in 61:11, not all zero |
//! | FROZEN | bit 63; bit 62 holds the last value's valid bit, the rest is the last value |
//!
//! LOCKED and eight-bit annotations look as in Linux KVM 6.x. FROZEN is this crate's own: an unlinked table's entries
//! keep their last value, so that whoever unlinked it can still read mappings, access and dirty state.

use core::fmt;

use super::Level;

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const LOCKED: u64 = 1 << 10;
const FROZEN: u64 = 1 << 63;
const FROZEN_VALID: u64 = 1 << 62;
/// Bits that no annotation of this crate uses: valid, type, LOCKED, and the two of FROZEN.
const NOT_ANNOTATION: u64 = VALID | TABLE_OR_PAGE | LOCKED | FROZEN | FROZEN_VALID;

/// A page-table entry as memory holds it.
///
/// ```
/// use s2pt::arch::{EntryKind, Level, Pte};
/// let block = Pte::from_raw(0x0040_0000_4000_07fd);
/// assert!(block.is_leaf(Level::L2) && !block.is_table(Level::L2));
/// assert_eq!(block.freeze().kind(Level::L2), EntryKind::Frozen);
/// assert_eq!(block.freeze().thaw(), block);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Pte(u64);

/// What an entry is, at its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Zero: nothing mapped.
    Empty,
    /// Invalid with a payload that software put there, for example an owner.
    Annotated(u64),
    /// Invalid: a change is under way.
    Locked,
    /// Invalid: the table that holds it has been unlinked.
    Frozen,
    /// Points to the next table.
    Table,
    /// Maps a block or a page.
    Leaf,
    /// No meaning: bit 1 clear at level 3 (hardware takes it as invalid), or an invalid value that the dialect lacks.
    Reserved,
}

/// How a table's maker uses invalid entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// This crate's tables.
    #[default]
    Own,
    /// Linux KVM up to 6.x: bit 10 locked, owner in bits 9:2.
    Kvm6,
    /// Linux KVM 7.x: a type in bits 63:60 (1 locked, 2 donated by the host, 3 poisoned), payload in 59:1.
    Kvm7,
}

impl Pte {
    /// Nothing mapped.
    pub const EMPTY: Pte = Pte(0);
    /// Somebody is between break and make.
    pub const LOCKED: Pte = Pte(LOCKED);
    /// Largest payload of [`Pte::annotated`]: 59 bits.
    pub const MAX_ANNOTATION: u64 = (1 << 59) - 1;

    /// The entry with these bits.
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The bits.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The invalid entry that carries `payload`; `None` for 0 (that is EMPTY) and above [`Pte::MAX_ANNOTATION`].
    ///
    /// ```
    /// use s2pt::arch::{EntryKind, Level, Pte};
    /// let owned = Pte::annotated(1).unwrap();
    /// assert_eq!(owned.raw(), 0x4); // as KVM 6.x writes owner 1
    /// assert_eq!(owned.kind(Level::L3), EntryKind::Annotated(1));
    /// ```
    pub const fn annotated(payload: u64) -> Option<Self> {
        if payload == 0 || payload > Self::MAX_ANNOTATION {
            return None;
        }
        Some(Self((payload & 0xff) << 2 | (payload >> 8) << 11))
    }

    /// Whether the hardware may use the entry (bit 0).
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Whether the entry is zero.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the entry is this crate's LOCKED, exactly.
    #[inline]
    pub const fn is_locked(self) -> bool {
        self.0 == LOCKED
    }

    /// Whether the entry is FROZEN: the table holding it was unlinked.
    #[inline]
    pub const fn is_frozen(self) -> bool {
        self.0 & (FROZEN | VALID) == FROZEN
    }

    /// Whether the entry points to a next table; never at level 3.
    #[inline]
    pub const fn is_table(self, level: Level) -> bool {
        self.0 & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE && !level.is_last()
    }

    /// [`is_table`](Self::is_table) for an entry that is known to stand above level 3.
    #[inline(always)]
    pub(crate) const fn is_table_above_pages(self) -> bool {
        // One addition and one test instead of a mask and a comparison.
        self.0.wrapping_add(1) & (VALID | TABLE_OR_PAGE) == 0
    }

    /// Whether the entry maps memory: a page at level 3, a block above.
    ///
    /// Whether the architecture has blocks at that level says
    /// [`Geometry::block_allowed`](super::Geometry::block_allowed).
    #[inline]
    pub const fn is_leaf(self, level: Level) -> bool {
        self.0 & (VALID | TABLE_OR_PAGE) == VALID | (level.is_last() as u64) << 1
    }

    /// The last value, marked as belonging to an unlinked table. Bits 63:62 must be clear (they are, in own tables).
    #[inline]
    pub const fn freeze(self) -> Self {
        debug_assert!(self.0 & (FROZEN | FROZEN_VALID) == 0);
        Self(self.0 & !VALID | FROZEN | (self.0 & VALID) << 62)
    }

    /// The value that [`Pte::freeze`] was given.
    #[inline]
    pub const fn thaw(self) -> Self {
        Self(self.0 & !(FROZEN | FROZEN_VALID) | self.0 >> 62 & VALID)
    }

    /// What the entry is in a table of this crate.
    #[inline]
    pub const fn kind(self, level: Level) -> EntryKind {
        if self.is_valid() {
            return self.valid_kind(level);
        }
        match self.0 {
            0 => EntryKind::Empty,
            LOCKED => EntryKind::Locked,
            raw if raw & FROZEN != 0 => EntryKind::Frozen,
            raw if raw & NOT_ANNOTATION != 0 => EntryKind::Reserved,
            raw => EntryKind::Annotated(raw >> 2 & 0xff | raw >> 11 << 8),
        }
    }

    /// What the entry is in a table made by somebody else.
    ///
    /// ```
    /// use s2pt::arch::{Dialect, EntryKind, Level, Pte};
    /// let entry = Pte::from_raw(1 << 60);
    /// assert_eq!(entry.kind_of(Level::L3, Dialect::Kvm7), EntryKind::Locked);
    /// ```
    pub const fn kind_of(self, level: Level, dialect: Dialect) -> EntryKind {
        if self.is_valid() {
            return self.valid_kind(level);
        }
        if self.is_empty() {
            return EntryKind::Empty;
        }
        match dialect {
            Dialect::Own => self.kind(level),
            Dialect::Kvm6 if self.0 & LOCKED != 0 => EntryKind::Locked,
            Dialect::Kvm6 => match self.0 >> 2 & 0xff {
                0 => EntryKind::Reserved,
                owner => EntryKind::Annotated(owner),
            },
            Dialect::Kvm7 => match self.0 >> 60 {
                1 => EntryKind::Locked,
                2 | 3 => EntryKind::Annotated(self.0 << 4 >> 5),
                _ => EntryKind::Reserved,
            },
        }
    }

    const fn valid_kind(self, level: Level) -> EntryKind {
        match (self.0 & TABLE_OR_PAGE != 0, level.is_last()) {
            (true, true) | (false, false) => EntryKind::Leaf,
            (true, false) => EntryKind::Table,
            (false, true) => EntryKind::Reserved,
        }
    }
}

impl fmt::Debug for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pte({:#x})", self.0)
    }
}

impl fmt::Display for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::LowerHex for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests;
