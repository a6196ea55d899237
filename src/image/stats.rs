//! Counting what is in a table.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Image, ImageError, ReadMemory};
use crate::arch::{EntryKind, Level, Prot};

/// Leaves that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafCount {
    /// Their level.
    pub level: Level,
    /// Bytes that each maps.
    pub size: u64,
    /// Their permissions.
    pub prot: Prot,
    /// Their access flag.
    pub af: bool,
    /// How many there are.
    pub leaves: u64,
}

impl LeafCount {
    /// Bytes that they map together.
    pub fn bytes(&self) -> u64 {
        self.leaves * self.size
    }
}

/// What is in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageStats {
    /// Tables by [`Level::slot`]; the root counts once, however many pages it has.
    pub tables: [u64; 5],
    /// Leaves, by level (larger ones first), permissions and access flag.
    pub leaves: Vec<LeafCount>,
    /// Invalid entries with a payload, such as an owner.
    pub annotated: u64,
    /// Entries that somebody held when the table was read.
    pub locked: u64,
    /// Entries of tables that were unlinked; only tables of this crate have them.
    pub frozen: u64,
    /// Entries without a meaning.
    pub reserved: u64,
}

impl ImageStats {
    /// Bytes mapped.
    pub fn mapped_bytes(&self) -> u64 {
        self.leaves.iter().map(LeafCount::bytes).sum()
    }

    /// Number of leaves.
    pub fn leaf_count(&self) -> u64 {
        self.leaves.iter().map(|count| count.leaves).sum()
    }

    pub(super) fn of<R: ReadMemory>(image: &Image<R>) -> Result<Self, ImageError> {
        let mut stats = Self::default();
        let mut leaves = BTreeMap::<(Level, Prot, bool), u64>::new();
        stats.tables[image.geometry().start_level().slot()] = 1;
        for entry in image.entries() {
            let entry = entry?;
            match entry.kind {
                EntryKind::Empty => {}
                EntryKind::Table => {
                    if let Some(below) = entry.level.deeper() {
                        stats.tables[below.slot()] += 1;
                    }
                }
                EntryKind::Leaf => {
                    let (prot, af) = (image.format().prot(entry.pte), image.format().af(entry.pte));
                    *leaves.entry((entry.level, prot, af)).or_default() += 1;
                }
                EntryKind::Annotated(_) => stats.annotated += 1,
                EntryKind::Locked => stats.locked += 1,
                EntryKind::Frozen => stats.frozen += 1,
                EntryKind::Reserved => stats.reserved += 1,
            }
        }
        let count = |((level, prot, af), leaves)| LeafCount {
            level,
            size: image.geometry().size(level),
            prot,
            af,
            leaves,
        };
        stats.leaves = leaves.into_iter().map(count).collect();
        Ok(stats)
    }
}
