//! What each of s2pt's rows needs at least, in the steps of [`limits`](crate::limits): the recipes of the lower limits.
//!
//! A call for one page is a chain: the pin, a load for each level (the entry itself is the last; it is read once before it
//! is exchanged), the exchange. Its limit is the sum. A call for a range passes over its tables once; what it does once a
//! table or once a call hardly counts.

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
    let walk_far = [("load_l1", f64::from(levels - 1)), ("load_tables", 1.0)];
    let (pin, exchange) = (("epoch_pin", 1.0), ("compare_exchange", 1.0));
    // A batch lets go of retired frames once in as many operations as a table has entries.
    let repin = ("epoch_repin", 1.0 / table);
    let once_a_table = ("compare_exchange", 1.0 / table);
    match (op, way) {
        // Each entry is stored once, in private; one exchange links a table.
        (MapPages, Exclusive) => vec![("fill_tables", 1.0)],
        (MapPages, _) => vec![("fill_tables", 1.0), once_a_table],
        // The same a level above.
        (MapBlocks, Exclusive) => vec![("fill_tables", 1.0)],
        (MapBlocks, _) => vec![("fill_tables", 1.0), once_a_table],
        // Pages in order: entry after entry of a table that is in L1.
        (Fault | Relax, Shared) => vec![pin, walk, exchange],
        // The way down overlaps with the exchange before; the entry does not, because an exchange orders loads.
        (Fault | Relax, Batch) => vec![("load_l1", 1.0), exchange, repin],
        (Fault | Relax, Exclusive) => vec![walk],
        (FaultRandom, Shared) => [vec![pin, exchange], walk_far.to_vec()].concat(),
        (FaultRandom, Batch) => vec![("load_tables", 1.0), exchange, repin],
        (FaultRandom, Exclusive) => vec![("load_tables_independent", 1.0)],
        // A pin orders loads, so each lookup waits for its own; without one they overlap.
        (Translate, Shared) => [vec![pin], walk_far.to_vec()].concat(),
        (Translate, Batch) => vec![("load_tables_independent", 1.0), repin],
        (Translate, Exclusive) => vec![("load_tables_independent", 1.0)],
        // Hardware and peers may write an entry at any time: one exchange each.
        (WriteProtect, Exclusive) => vec![("update_tables", 1.0)],
        (WriteProtect, _) => vec![exchange],
        // Every entry of an unlinked table is frozen by an exchange, so that no peer writes there unseen (R6).
        (Unmap, Shared | Batch) => vec![exchange],
        // ... and its frame zeroed.
        (UnmapFree, Shared | Batch) => vec![exchange, ("zero_tables", 1.0)],
        // Alone, frames are zeroed at once.
        (Unmap | UnmapFree, Exclusive) => vec![("zero_tables", 1.0)],
        // Exchange to LOCKED, TLBI, store: the store is not waited for.
        (UnmapPage, Shared) => vec![pin, walk, exchange],
        (UnmapPage, Batch) => vec![("load_l1", 1.0), exchange, repin],
        (UnmapPage, Exclusive) => vec![walk],
        // A table is filled in private, then the block is broken and the table made in its place.
        (Split, Shared) => vec![
            pin,
            ("load_l1", f64::from(levels - 1)),
            ("fill_tables", table),
            exchange,
        ],
        (Split, Batch) => vec![("load_l1", 1.0), ("fill_tables", table), exchange],
        (Split, Exclusive) => vec![("fill_tables", table)],
        // Each entry is compared and frozen in one exchange; the frame is zeroed.
        (Collapse, Shared | Batch) => vec![("compare_exchange", table + 1.0), ("zero_tables", table)],
        // Each entry is read, and its frame zeroed.
        (Collapse, Exclusive) => vec![("update_tables", table)],
    }
}
