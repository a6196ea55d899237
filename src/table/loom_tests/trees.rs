//! Unlinks and merges beside those who work, read or free below, without the operations around them.

use super::super::reclaim::{Access, Local};
use super::super::unlink::Unlink;
use super::super::walk::At;
use super::super::{MapOptions, entry::Table};
use super::{Tree, View, spawn, tree};
use crate::arch::{AccessKind, Attrs, Format, Ipa, Level, Pa, Prot, Pte};
use crate::memory::TableMemory;
use crate::sync::{Backoff, explore};

const PAGE: u64 = 0x1000;
const A: u64 = 0x4_0000;
const B: u64 = 0x8_0000;

type Guard = <Local as Access>::Guard;

fn map(tree: &Tree, ipa: u64, size: u64, pa: u64, largest: Level) {
    let options = MapOptions {
        largest: Some(largest),
        ..MapOptions::default()
    };
    let attrs = Attrs::new(Prot::R);
    tree.handle()
        .map(Ipa::new(ipa), size, Pa::new(pa), &attrs, options)
        .unwrap();
}

/// Pages 0 and 1, or 0 alone, in one table of two levels.
fn pages(count: u64) -> crate::sync::Arc<Tree> {
    let tree = tree(2, 2);
    map(&tree, 0, count * PAGE, A, Level::L3);
    tree
}

fn leaf(view: &View<'_>, pa: u64) -> Pte {
    let attrs = Attrs::new(Prot::R);
    view.format().leaf(Level::L3, Pa::new(pa), &attrs).unwrap()
}

/// The first entry of a table.
fn first<'g>(view: &View<'_>, table: Table<'g>) -> At<'g> {
    At::leaf(table, 0, 0, view.core.config.geometry.size(table.level))
}

/// What a peer does with the page at `ipa`: until the exchange succeeds, from the root where the table is gone. `to` says
/// what he makes of what he found; `None`: nothing.
fn work(view: &View<'_>, ipa: u64, broken: bool, to: impl Fn(Pte) -> Option<Pte>) -> bool {
    let guard = view.access.pin();
    let mut backoff = Backoff::new();
    loop {
        let (table, index, found) = view.descend(&guard, Ipa::new(ipa), Level::L3);
        if found.is_locked() || found.is_frozen() {
            backoff.wait();
            continue;
        }
        if table.level != Level::L3 {
            return false; // the table is gone, or a block
        }
        let Some(new) = to(found) else { return false };
        let done = match (broken, found.is_valid()) {
            (true, _) => view.lock(table, index, found).map(|()| view.make(table, index, new)),
            (false, true) => view.change(table, index, found, new),
            (false, false) => view.publish(table, index, found, new),
        };
        if done.is_ok() {
            return true;
        }
    }
}

/// Takes the table behind the first entry of the root out, with the leaves that are in it. How many went.
fn unlink(view: &View<'_>, guard: &Guard) -> Option<u64> {
    let at = first(view, view.root_table(guard));
    let old = view.load(at.table, at.index);
    let mut leaves = 0;
    let mut count = |level: Level, _: u64, entry: Pte| {
        leaves += u64::from(entry.is_leaf(level));
        true
    };
    let done = old.is_table(at.level()) && view.unlink(guard, at, old, Pte::EMPTY, &mut count).unwrap() == Unlink::Done;
    done.then_some(leaves)
}

/// Merges the table behind the first entry at `level`.
fn merge(view: &View<'_>, level: Level) -> bool {
    let guard = view.access.pin();
    let (table, _, _) = view.descend(&guard, Ipa::new(0), level);
    table.level == level && view.merge(&guard, first(view, table))
}

fn output(view: &View<'_>, ipa: u64) -> Option<u64> {
    let hit = view.translate(Ipa::new(ipa), AccessKind::Read).ok()?;
    Some(hit.pa.get())
}

/// Nothing is left behind; the outputs of both pages.
fn settled(tree: &Tree) -> [Option<u64>; 2] {
    let view = tree.handle();
    view.drain();
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen), (0, 0));
    assert_eq!(tree.memory().frames_in_use() as u64, stats.table_frames());
    [output(&view, 0), output(&view, PAGE)]
}

#[test]
fn a_freeze_waits_for_a_locked_child() {
    explore("tree: unlink/break and make below", || {
        let tree = pages(1);
        let other = spawn(&tree, |view| {
            let new = leaf(view, B);
            work(view, 0, true, |found| found.is_valid().then_some(new))
        });
        let view = tree.handle();
        let went = unlink(&view, &view.access.pin());
        drop(view);
        other.join().unwrap(); // before the unlink, and removed with the rest, or too late
        assert_eq!(went, Some(1));
        assert_eq!(settled(&tree), [None, None]);
    });
}

#[test]
fn an_unlink_meets_a_fault_below() {
    explore("tree: unlink/publish below", || {
        let tree = pages(1);
        let other = spawn(&tree, |view| {
            let new = leaf(view, B);
            work(view, PAGE, false, |found| found.is_empty().then_some(new))
        });
        let view = tree.handle();
        let went = unlink(&view, &view.access.pin());
        drop(view);
        let mapped = other.join().unwrap();
        assert_eq!(
            went,
            Some(1 + u64::from(mapped)),
            "a page that was acknowledged is counted"
        );
        assert_eq!(settled(&tree), [None, None]);
    });
}

#[test]
fn two_who_empty_the_last_two_entries_free_the_table() {
    explore("tree: emptying/emptying of the last two entries", || {
        let tree = pages(2);
        let empty = |view: &View<'_>, index: usize| {
            let guard = view.access.pin();
            let at = first(view, view.root_table(&guard));
            let table = view.child(at.table, view.load(at.table, at.index));
            let found = view.load(table, index);
            view.lock(table, index, found).unwrap();
            view.make(table, index, Pte::EMPTY);
            view.unlink_if_empty(&guard, at, index, index + 1);
        };
        let other = spawn(&tree, move |view| empty(view, 1));
        empty(&tree.handle(), 0);
        other.join().unwrap();
        assert_eq!(settled(&tree), [None, None]);
        assert_eq!(tree.memory().frames_in_use(), 1, "only the root is left");
    });
}

#[test]
fn a_merge_meets_a_fault_below() {
    explore("tree: merge/publish below", || {
        let tree = pages(1);
        let other = spawn(&tree, |view| {
            let new = leaf(view, A + PAGE);
            work(view, PAGE, false, |found| found.is_empty().then_some(new))
        });
        merge(&tree.handle(), Level::L2);
        assert!(other.join().unwrap());
        assert_eq!(settled(&tree), [Some(A), Some(A + PAGE)]);
    });
}

#[test]
fn a_merge_loses_no_right() {
    explore("tree: merge/change below", || {
        let tree = pages(2);
        let other = spawn(&tree, |view| {
            let writable = |found: Pte| Some(Pte::from_raw(found.raw() | Format::WRITE_BIT));
            work(view, 0, false, writable)
        });
        let merged = merge(&tree.handle(), Level::L2);
        let changed = other.join().unwrap();
        assert!(merged != changed, "a change before the merge calls it off");
        assert_eq!(settled(&tree), [Some(A), Some(A + PAGE)]);
        let view = tree.handle();
        let writes = |ipa| view.translate(Ipa::new(ipa), AccessKind::Write).is_ok();
        assert_eq!((writes(0), writes(PAGE)), (changed, false));
    });
}

#[test]
fn two_merges_of_one_table() {
    explore("tree: merge/merge of one table", || {
        let tree = pages(2);
        let other = spawn(&tree, |view| merge(view, Level::L2));
        let mine = merge(&tree.handle(), Level::L2);
        assert!(mine != other.join().unwrap(), "one of them merges it");
        assert_eq!(settled(&tree), [Some(A), Some(A + PAGE)]);
    });
}

#[test]
fn two_merges_of_nested_levels() {
    explore("tree: merge/merge of nested levels", || {
        let tree = tree(3, 3);
        map(&tree, 0, 2 * PAGE, A, Level::L3);
        map(&tree, 2 * PAGE, 2 * PAGE, A + 2 * PAGE, Level::L2);
        let other = spawn(&tree, |view| merge(view, Level::L2));
        // Called off, unless the lower one is a block by now.
        merge(&tree.handle(), Level::L1);
        assert!(other.join().unwrap(), "the upper one left the lower one as it was");
        assert_eq!(settled(&tree), [Some(A), Some(A + PAGE)]);
    });
}

#[test]
fn an_unlink_of_two_levels_meets_a_merge_of_the_lower() {
    explore("tree: unlink/merge of nested levels", || {
        let tree = tree(3, 3);
        map(&tree, 0, 2 * PAGE, A, Level::L3);
        let other = spawn(&tree, |view| merge(view, Level::L2));
        let view = tree.handle();
        let went = unlink(&view, &view.access.pin());
        drop(view);
        let merged = other.join().unwrap();
        assert_eq!(went, Some(if merged { 1 } else { 2 }), "a block, or two pages");
        assert_eq!(settled(&tree), [None, None]);
    });
}

#[test]
fn a_table_is_freed_after_both_of_its_readers() {
    explore("tree: unlink/two readers", || {
        let tree = pages(1);
        let read = |view: &View<'_>| {
            let guard = view.access.pin();
            let (_, _, found) = view.descend(&guard, Ipa::new(0), Level::L3);
            found
        };
        let readers = [(); 2].map(|()| spawn(&tree, read));
        let view = tree.handle();
        assert_eq!(unlink(&view, &view.access.pin()), Some(1));
        drop(view);
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(settled(&tree), [None, None]);
    });
}

/// A page with its table, and a block behind the next entry of the table above.
#[test]
fn who_empties_a_table_last_unlinks_it() {
    explore("tree: emptying of a page with its table/of a block beside it", || {
        let tree = tree(3, 4);
        map(&tree, 0, PAGE, A, Level::L3);
        map(&tree, 2 * PAGE, 2 * PAGE, B, Level::L2);
        let other = spawn(&tree, |view| view.unmap_only(0, PAGE, |_, _, _| true).unwrap());
        let view = tree.handle();
        assert_eq!(view.unmap_only(2 * PAGE, 4 * PAGE, |_, _, _| true), Ok(2 * PAGE));
        assert_eq!(other.join().unwrap(), PAGE);
        view.drain();
        assert_eq!(view.stats().table_frames(), 1, "an empty table stays linked");
        assert_eq!(tree.memory().frames_in_use(), 1);
    });
}
