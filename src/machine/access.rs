//! What a guest asks of a CPU, and what the CPU counts of it.

use crate::arch::{AccessKind, Ipa};

/// An access of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its first byte, a multiple of `size`.
    pub ipa: Ipa,
    /// What it does.
    pub kind: AccessKind,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u32,
    /// What a write stores.
    pub value: u64,
}

impl Access {
    /// Reads `size` bytes.
    pub const fn read(ipa: Ipa, size: u32) -> Self {
        Self {
            ipa,
            kind: AccessKind::Read,
            size,
            value: 0,
        }
    }

    /// Writes the lowest `size` bytes of `value`.
    pub const fn write(ipa: Ipa, size: u32, value: u64) -> Self {
        Self {
            ipa,
            kind: AccessKind::Write,
            size,
            value,
        }
    }

    /// Fetches an instruction of four bytes.
    pub const fn fetch(ipa: Ipa) -> Self {
        Self {
            ipa,
            kind: AccessKind::Execute,
            size: 4,
            value: 0,
        }
    }
}

/// What a CPU has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCounts {
    /// Accesses that reached memory.
    pub accesses: u64,
    /// Those of them whose translation the CPU held already.
    pub hits: u64,
    /// Walks that ended at a leaf, for an access or ahead of one.
    pub fills: u64,
    /// Accesses that faulted.
    pub faults: u64,
    /// Access flags and dirty states that hardware wrote.
    pub updates: u64,
}

impl CpuCounts {
    /// Each number with its name, in the order of the fields.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("accesses", self.accesses),
            ("hits", self.hits),
            ("fills", self.fills),
            ("faults", self.faults),
            ("updates", self.updates),
        ]
        .into_iter()
    }
}

impl core::ops::AddAssign for CpuCounts {
    fn add_assign(&mut self, other: Self) {
        self.accesses += other.accesses;
        self.hits += other.hits;
        self.fills += other.fills;
        self.faults += other.faults;
        self.updates += other.updates;
    }
}
