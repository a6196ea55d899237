//! The fault status code: ESR_EL2 bits 5:0, the same for instruction and data aborts.

use core::fmt;

use crate::arch::Level;

/// Why the access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An address in the table or the output is beyond the physical address size.
    AddressSize,
    /// Nothing valid at the level where the walk ended.
    Translation,
    /// The leaf's access flag is clear.
    AccessFlag,
    /// The leaf does not grant the access.
    Permission,
    /// The memory system refused the access, or the reading of a table entry (then with a level).
    ExternalAbort,
    /// Parity or ECC error on the access, or on a table entry (then with a level).
    Parity,
    /// Granule protection refused the access, or the reading of a table entry (then with a level).
    GranuleProtection,
    /// Misaligned access.
    Alignment,
    /// The TLB held more than one translation: break-before-make was not kept.
    TlbConflict,
    /// The hardware could not update the access flag or dirty state in this memory.
    UnsupportedAtomicUpdate,
    /// Lockdown (implementation defined).
    Lockdown,
    /// Exclusive or atomic access to memory that does not support it.
    UnsupportedExclusive,
    /// Any other status code.
    Other(u8),
}

/// A fault status code, read.
///
/// ```
/// use s2pt::arch::{FaultKind, FaultStatus, Level};
/// let status = FaultStatus::decode(0x0f);
/// assert_eq!(status, FaultStatus { kind: FaultKind::Permission, level: Some(Level::L3) });
/// assert_eq!(status.encode(), Some(0x0f));
/// assert_eq!(status.to_string(), "permission fault, level 3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FaultStatus {
    /// Why.
    pub kind: FaultKind,
    /// Level at which the walk ended, where the code tells one.
    pub level: Option<Level>,
}

/// Kinds that carry a level: code for level 0 (levels 1..3 follow it), and the one for level -1 where it exists.
const WITH_LEVEL: [(FaultKind, u8, Option<u8>); 7] = [
    (FaultKind::AddressSize, 0x00, Some(0x29)),
    (FaultKind::Translation, 0x04, Some(0x2b)),
    (FaultKind::AccessFlag, 0x08, None),
    (FaultKind::Permission, 0x0c, None),
    (FaultKind::ExternalAbort, 0x14, Some(0x13)),
    (FaultKind::Parity, 0x1c, Some(0x1b)),
    (FaultKind::GranuleProtection, 0x24, Some(0x23)),
];

const WITHOUT_LEVEL: [(FaultKind, u8); 8] = [
    (FaultKind::ExternalAbort, 0x10),
    (FaultKind::Parity, 0x18),
    (FaultKind::GranuleProtection, 0x28),
    (FaultKind::Alignment, 0x21),
    (FaultKind::TlbConflict, 0x30),
    (FaultKind::UnsupportedAtomicUpdate, 0x31),
    (FaultKind::Lockdown, 0x34),
    (FaultKind::UnsupportedExclusive, 0x35),
];

impl FaultStatus {
    /// Reads a code; bits above 5:0 are ignored.
    pub fn decode(fsc: u8) -> Self {
        let fsc = seeded!(
            SyndromeKinds,
            exchanged(fsc),
            seeded!(SyndromeBelow0, without_2b(fsc), fsc & 0x3f)
        );
        for (kind, level0, below0) in WITH_LEVEL {
            if below0 == Some(fsc) {
                return Self {
                    kind,
                    level: Some(Level::LM1),
                };
            }
            if fsc & !3 == level0 {
                return Self {
                    kind,
                    level: Level::new((fsc & 3) as i8),
                };
            }
        }
        let kind = WITHOUT_LEVEL
            .iter()
            .find(|(_, code)| *code == fsc)
            .map_or(FaultKind::Other(fsc), |(kind, _)| *kind);
        Self { kind, level: None }
    }

    /// The code, `None` where none says this kind at this level.
    pub fn encode(self) -> Option<u8> {
        let Some(level) = self.level else {
            if let FaultKind::Other(fsc) = self.kind {
                return (Self::decode(fsc) == self).then_some(fsc);
            }
            return WITHOUT_LEVEL
                .iter()
                .find(|(kind, _)| *kind == self.kind)
                .map(|(_, code)| *code);
        };
        let (_, level0, below0) = *WITH_LEVEL.iter().find(|(kind, ..)| *kind == self.kind)?;
        if level == Level::LM1 {
            below0
        } else {
            Some(level0 + level.get() as u8)
        }
    }
}

/// The code with access flag and permission exchanged.
#[cfg(s2pt_faults)]
fn exchanged(fsc: u8) -> u8 {
    match fsc & 0x3f {
        fsc @ 8..=15 => fsc ^ 4,
        fsc => fsc,
    }
}

/// The code, or an unknown one for a translation fault at level -1.
#[cfg(s2pt_faults)]
fn without_2b(fsc: u8) -> u8 {
    match fsc & 0x3f {
        0x2b => 0x3f,
        fsc => fsc,
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressSize => "address size fault",
            Self::Translation => "translation fault",
            Self::AccessFlag => "access flag fault",
            Self::Permission => "permission fault",
            Self::ExternalAbort => "external abort",
            Self::Parity => "parity or ECC error",
            Self::GranuleProtection => "granule protection fault",
            Self::Alignment => "alignment fault",
            Self::TlbConflict => "TLB conflict",
            Self::UnsupportedAtomicUpdate => "unsupported atomic hardware update",
            Self::Lockdown => "lockdown fault",
            Self::UnsupportedExclusive => "unsupported exclusive or atomic access",
            Self::Other(fsc) => return write!(f, "status {fsc:#x}"),
        })
    }
}

impl fmt::Display for FaultStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(f, "{}, level {level}", self.kind),
            None => write!(f, "{}", self.kind),
        }
    }
}
