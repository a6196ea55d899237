//! What a table consists of, counted by a walk.

use super::View;
use super::entry::Table;
use super::reclaim::Access;
use super::tlb::Tlb;
use crate::memory::TableMemory;

/// Frames and leaves of a table by level. Beside writers each number is of some moment during the count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Table frames by level of their entries, -1 to 3; each frame of a concatenated root counts.
    pub tables: [u64; 5],
    /// Leaves by level, -1 to 3.
    pub leaves: [u64; 5],
    /// Bytes mapped.
    pub mapped_bytes: u64,
    /// Invalid entries that carry an owner's mark.
    pub annotated: u64,
    /// Entries between break and make.
    pub locked: u64,
    /// Entries of unlinked tables; only a count beside writers can meet one.
    pub frozen: u64,
}

impl Stats {
    /// Frames of all levels.
    pub fn table_frames(&self) -> u64 {
        self.tables.iter().sum()
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Counts tables, leaves and marks. Reads every entry of the table once.
    pub fn stats(&self) -> Stats {
        let guard = self.access.pin();
        let mut stats = Stats::default();
        let root = self.root_table(&guard);
        self.count(root, u64::from(self.core.config.geometry.root_frames()), &mut stats);
        stats
    }

    fn count(&self, table: Table<'_>, frames: u64, stats: &mut Stats) {
        let level = table.level;
        stats.tables[level.slot()] += frames;
        for index in 0..table.len() {
            let pte = self.load(table, index);
            if pte.is_table(level) {
                self.count(self.child(table, pte), 1, stats);
            } else if pte.is_valid() {
                stats.leaves[level.slot()] += 1;
                stats.mapped_bytes += self.core.config.geometry.size(level);
            } else if pte.is_locked() {
                stats.locked += 1;
            } else if pte.is_frozen() {
                stats.frozen += 1;
            } else if !pte.is_empty() {
                stats.annotated += 1;
            }
        }
    }
}
