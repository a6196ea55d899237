//! What each of s2pt's rows needs at least, in the steps of [`limits`](crate::limits): the recipes of the lower limits.
//!
//! A call for one page is a chain: the pin, a load for each level (the entry itself is the last; it is read once before it
//! is exchanged), the exchange. A batch, and the only user, may begin at the leaf table that they saw last. A call for a range
//! passes over its tables once; what it does once a table or once a call hardly counts.

use crate::layout::ENTRIES;
use crate::table::Op;

/// How s2pt is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Shared,
    Batch,
    Exclusive,
}

/// A step of a limit, and how often.
pub type Part = (&'static str, f64);

/// The least that `op` takes, per operation of the row, in a tree of `levels` levels.
pub fn recipe(op: Op, way: Way, levels: u32) -> Vec<Part> {
    use Op::*;
    use Way::*;
    let table = ENTRIES as f64;
    let walk = ("load_l1", f64::from(levels));
    // Tables above the leaves are few: they stay in L1. The leaf's table is one of many.
    let (above, leaf) = (("load_l1", f64::from(levels - 1)), ("load_tables", 1.0));
    let (pin, exchange) = (("epoch_pin", 1.0), ("compare_exchange", 1.0));
    // A batch lets go of retired frames once in as many operations as a table has entries.
    let repin = ("epoch_repin", 1.0 / table);
    let once_a_table = ("compare_exchange", 1.0 / table);
    match (op, way) {
        // Each entry is stored once, in private; one exchange links a table. Blocks are the same a level above.
        (MapPages | MapBlocks, Exclusive) => vec![("fill_tables", 1.0)],
        (MapPages | MapBlocks, _) => vec![("fill_tables", 1.0), once_a_table],
        // Pages in order: entry after entry of a table that is in L1. For a page that is unmapped: exchange to LOCKED, TLBI,
        // and a store that nobody waits for.
        (Fault | Relax | UnmapPage, Shared) => vec![pin, walk, exchange],
        (Fault | Relax | UnmapPage, Batch) => vec![("load_l1", 1.0), exchange, repin],
        (Fault | Relax | UnmapPage, Exclusive) => vec![("update_tables", 1.0)],
        (FaultRandom, Shared) => vec![pin, above, leaf, exchange],
        (FaultRandom, Batch) => vec![leaf, exchange, repin],
        (Translate, Shared) => vec![pin, above, leaf],
        (Translate, Batch) => vec![leaf, repin],
        (FaultRandom | Translate, Exclusive) => vec![leaf],
        // Hardware and peers may write an entry at any time: one exchange each.
        (WriteProtect, Exclusive) => vec![("update_tables", 1.0)],
        (WriteProtect, _) => vec![exchange],
        // Every entry of an unlinked table is frozen by an exchange, so that no peer writes there unseen (R6).
        (Unmap, Shared | Batch) => vec![exchange],
        // ... and its frame zeroed.
        (UnmapFree, Shared | Batch) => vec![exchange, ("zero_tables", 1.0)],
        // Alone, frames are zeroed at once.
        (Unmap | UnmapFree, Exclusive) => vec![("zero_tables", 1.0)],
        // A table is filled in private, then the block is broken and the table made in its place.
        (Split, Shared) => vec![pin, above, ("fill_tables", table), exchange],
        (Split, Batch) => vec![("load_l1", 1.0), ("fill_tables", table), exchange],
        (Split, Exclusive) => vec![("fill_tables", table)],
        // Each entry is compared and frozen in one exchange; the frame is zeroed.
        (Collapse, Shared | Batch) => vec![("compare_exchange", table + 1.0), ("zero_tables", table)],
        // Each entry is read, and its frame zeroed.
        (Collapse, Exclusive) => vec![("update_tables", table)],
    }
}

/// The same step where none waits for another: how often a machine can do it at best.
pub fn overlapped(limit: &'static str) -> &'static str {
    match limit {
        "load_l1" => "load_l1_independent",
        "load_tables" => "load_tables_independent",
        other => other,
    }
}
