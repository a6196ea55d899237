//! The two small choices that everything else is computed from: page size and level number.

use core::fmt;

/// Translation granule: the size of a page and of a table frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Granule {
    /// 4 KiB pages, 512 entries a table.
    K4,
    /// 16 KiB pages, 2048 entries a table.
    K16,
    /// 64 KiB pages, 8192 entries a table.
    K64,
}

impl Granule {
    /// All three.
    pub const ALL: [Granule; 3] = [Granule::K4, Granule::K16, Granule::K64];

    /// Bytes of a page.
    #[inline]
    pub const fn size(self) -> u64 {
        1 << self.shift()
    }

    /// log2 of the page size: 12, 14, 16.
    #[inline]
    pub const fn shift(self) -> u32 {
        match self {
            Granule::K4 => 12,
            Granule::K16 => 14,
            Granule::K64 => 16,
        }
    }

    /// IPA bits that one table resolves: 9, 11, 13.
    #[inline]
    pub const fn stride(self) -> u32 {
        self.shift() - 3
    }

    /// The granule with pages of `bytes`, if there is one.
    pub const fn from_size(bytes: u64) -> Option<Self> {
        match bytes {
            0x1000 => Some(Granule::K4),
            0x4000 => Some(Granule::K16),
            0x10000 => Some(Granule::K64),
            _ => None,
        }
    }
}

impl fmt::Display for Granule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}KiB", self.size() >> 10)
    }
}

/// A level of the table, -1 (root of a 52-bit 4K table) to 3 (pages). A deeper level is greater.
///
/// ```
/// use s2pt::arch::Level;
/// assert!(Level::LM1 < Level::L3);
/// assert_eq!(Level::L2.deeper(), Some(Level::L3));
/// assert_eq!(Level::new(4), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Level(i8);

impl Level {
    /// Level -1.
    pub const LM1: Level = Level(-1);
    /// Level 0.
    pub const L0: Level = Level(0);
    /// Level 1.
    pub const L1: Level = Level(1);
    /// Level 2.
    pub const L2: Level = Level(2);
    /// Level 3: pages.
    pub const L3: Level = Level(3);
    /// From the shallowest to the deepest.
    pub const ALL: [Level; 5] = [Self::LM1, Self::L0, Self::L1, Self::L2, Self::L3];

    /// The level with this number, `None` outside -1..=3.
    #[inline]
    pub const fn new(level: i8) -> Option<Self> {
        if -1 <= level && level <= 3 {
            Some(Level(level))
        } else {
            None
        }
    }

    /// The number, -1..=3.
    #[inline]
    pub const fn get(self) -> i8 {
        self.0
    }

    /// The next level down, `None` below pages.
    #[inline]
    pub const fn deeper(self) -> Option<Self> {
        if self.0 < 3 { Some(Level(self.0 + 1)) } else { None }
    }

    /// The next level down of a level that is not the last.
    #[inline(always)]
    pub(crate) const fn below(self) -> Self {
        debug_assert!(self.0 < 3);
        Level(self.0 + 1)
    }

    /// The next level up, `None` above level -1.
    #[inline]
    pub const fn shallower(self) -> Option<Self> {
        if self.0 > -1 { Some(Level(self.0 - 1)) } else { None }
    }

    /// Whether this is level 3.
    #[inline]
    pub const fn is_last(self) -> bool {
        self.0 == 3
    }

    /// Position in an array of five by level: 0 for level -1 up to 4 for level 3.
    #[inline]
    pub const fn slot(self) -> usize {
        // The mask changes nothing; it lets the compiler drop the bounds check on arrays of eight.
        (self.0 + 1) as usize & 7
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.0)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
