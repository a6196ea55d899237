//! In what two tables differ at one place, and how that reads.

use core::fmt;

use crate::arch::{Attrs, Ipa, Level, Pa, Prot, Pte};

bitflags::bitflags! {
    /// In what two tables differ at one place.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Differs: u8 {
        /// Mapped in the first table only.
        const ONLY_A = 1;
        /// Mapped in the second table only.
        const ONLY_B = 2;
        /// Other output address.
        const OUTPUT = 4;
        /// Leaves of other sizes.
        const SIZE = 8;
        /// Other permissions.
        const PERMISSION = 16;
        /// Other access flag.
        const AF = 32;
        /// Other memory type, shareability, DBM, contiguous hint or software bits.
        const ATTRIBUTES = 64;
        /// Mapped in neither, but the invalid entries are not the same, for example of other owners.
        const INVALID = 128;
    }
}

/// What one table has in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Leaves that are alike.
    Leaf {
        /// Their level.
        level: Level,
        /// Bytes of each; `None`: not told.
        size: Option<u64>,
        /// Where the first byte of the range goes, and the others behind it; `None`: not told, or scattered.
        pa: Option<Pa>,
        /// Their permissions.
        prot: Prot,
        /// Their access flag.
        af: bool,
        /// All of their attributes; `None`: no more is told.
        attrs: Option<Attrs>,
    },
    /// Invalid entries that are not empty.
    Invalid {
        /// Their level.
        level: Level,
        /// Their value.
        raw: Pte,
    },
}

impl Side {
    /// The same, `bytes` further up.
    pub(super) fn advance(mut self, bytes: u64) -> Self {
        if let Self::Leaf { pa: Some(pa), .. } = &mut self {
            *pa = Pa::new(pa.get().wrapping_add(bytes));
        }
        self
    }
}

impl fmt::Display for Side {
    /// For example `2097152-byte leaves at level 2, output 0x40000000, rw-, Normal write-back`; without what is not told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { level, raw } => write!(f, "invalid entry {raw}, level {level}"),
            Self::Leaf { level, pa, prot, .. } => {
                if let Some(pa) = pa {
                    write!(f, "output {pa:#x}, ")?;
                }
                write!(f, "{prot}, level {level}")
            }
        }
    }
}

/// A range in which two tables differ in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// First IPA of the range.
    pub ipa: Ipa,
    /// Bytes in the range.
    pub size: u64,
    /// What the first table has in the range; its leaves may begin before it and end behind it.
    pub a: Option<Side>,
    /// What the second table has.
    pub b: Option<Side>,
    /// In what they differ.
    pub what: Differs,
}

impl fmt::Display for Difference {
    /// For example `0x80200000 +0x1000: permission rw- / r--`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} +{:#x}:", self.ipa, self.size)?;
        let (a, b) = match (&self.a, &self.b) {
            (Some(a), Some(b)) => (a, b),
            (Some(only), None) => return write!(f, " only in the first: {only}"),
            (None, Some(only)) => return write!(f, " only in the second: {only}"),
            (None, None) => return Ok(()),
        };
        let (
            Side::Leaf {
                size,
                pa,
                prot,
                af,
                attrs,
                level,
            },
            Side::Leaf { .. },
        ) = (a, b)
        else {
            return write!(f, " {a} / {b}");
        };
        let Side::Leaf {
            size: size_b,
            pa: pa_b,
            prot: prot_b,
            af: af_b,
            attrs: attrs_b,
            level: level_b,
        } = b
        else {
            return Ok(());
        };
        if self.what.contains(Differs::OUTPUT)
            && let (Some(a), Some(b)) = (pa, pa_b)
        {
            write!(f, " output {a:#x} / {b:#x}")?;
        }
        if self.what.contains(Differs::SIZE) {
            match (size, size_b) {
                (Some(a), Some(b)) => write!(f, " leaf size {a:#x} / {b:#x}")?,
                _ => write!(f, " leaf level {level} / {level_b}")?,
            }
        }
        if self.what.contains(Differs::PERMISSION) {
            write!(f, " permission {prot} / {prot_b}")?;
        }
        if self.what.contains(Differs::AF) {
            write!(f, " AF {} / {}", u8::from(*af), u8::from(*af_b))?;
        }
        if self.what.contains(Differs::ATTRIBUTES)
            && let (Some(a), Some(b)) = (attrs, attrs_b)
        {
            attributes(f, a, b)?;
        }
        Ok(())
    }
}

/// The attributes that are not the same, apart from permissions and access flag.
fn attributes(f: &mut fmt::Formatter<'_>, a: &Attrs, b: &Attrs) -> fmt::Result {
    if a.memtype != b.memtype {
        write!(f, " memory {} / {}", a.memtype, b.memtype)?;
    }
    if a.shareability != b.shareability {
        write!(f, " shareability {} / {}", a.shareability, b.shareability)?;
    }
    if a.dbm != b.dbm {
        write!(f, " DBM {} / {}", u8::from(a.dbm), u8::from(b.dbm))?;
    }
    if a.contiguous != b.contiguous {
        write!(f, " contiguous {} / {}", u8::from(a.contiguous), u8::from(b.contiguous))?;
    }
    if a.software != b.software {
        write!(f, " software {:#x} / {:#x}", a.software, b.software)?;
    }
    Ok(())
}
