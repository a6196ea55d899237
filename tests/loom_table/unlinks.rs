//! Tables that are taken out of the tree, and tables that become empty.

use super::*;
use s2pt::sync::explore;

#[test]
fn a_nested_freeze_waits_for_a_locked_child() {
    explore("unlink of two levels/replace below", || {
        let table = table(3, 6);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        // The replacing map holds the page LOCKED between break and make; the unmap freezes two levels around it.
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Replace));
        let removed = table.handle().unmap(Ipa::new(0), 4 * PAGE).unwrap();
        assert!(other.join().unwrap());
        assert_eq!(removed, PAGE);
        assert!(matches!(output(&table.handle(), 0), None | Some(B)));
        settled(&table);
    });
}

#[test]
fn an_unlink_meets_a_collapse_of_the_level_below() {
    explore("unlink/collapse of nested levels", || {
        let table = table(3, 6);
        let pages = MapOptions {
            largest: Some(Level::L3),
            ..MapOptions::default()
        };
        table
            .handle()
            .map(Ipa::new(0), 2 * PAGE, Pa::new(A), &Attrs::new(Prot::RW), pages)
            .unwrap();
        let other = spawn(&table, |view| view.collapse(Ipa::new(0), 2 * PAGE).unwrap());
        assert_eq!(table.handle().unmap(Ipa::new(0), 4 * PAGE).unwrap(), 2 * PAGE);
        assert!(other.join().unwrap() <= 1);
        assert_eq!(output(&table.handle(), 0), None);
        settled(&table);
    });
}

#[test]
fn two_unmaps_of_the_last_two_pages_free_the_table() {
    explore("unmap/unmap of the last two pages", || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        assert!(map(&table.handle(), PAGE, PAGE, B, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| view.unmap(Ipa::new(PAGE), PAGE).unwrap());
        assert_eq!(table.handle().unmap(Ipa::new(0), PAGE).unwrap(), PAGE);
        assert_eq!(other.join().unwrap(), PAGE);
        settled(&table);
        assert_eq!(table.memory().frames_in_use(), 1, "only the root is left");
    });
}

#[test]
fn an_unlink_that_is_called_off_loses_nothing() {
    explore("unlink of an empty table/map into it", || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| map(view, PAGE, PAGE, B, Prot::RW, Existing::Keep));
        assert_eq!(table.handle().unmap(Ipa::new(0), PAGE).unwrap(), PAGE);
        assert!(other.join().unwrap());
        let view = table.handle();
        assert_eq!((output(&view, 0), output(&view, PAGE)), (None, Some(B)));
        drop(view);
        settled(&table);
    });
}

#[test]
fn what_two_unmaps_leave_empty_is_freed_though_neither_emptied_it_alone() {
    explore("unmap/unmap of a range, a table above them", || {
        let table = table(3, 8);
        let view = table.handle();
        assert!(map(&view, 0, PAGE, A, Prot::RW, Existing::Keep));
        assert!(map(&view, 2 * PAGE, 2 * PAGE, A + 2 * PAGE, Prot::RW, Existing::Keep)); // a block
        drop(view);
        let other = spawn(&table, |view| view.unmap(Ipa::new(0), PAGE).unwrap());
        // The hole beside the page, and the block behind the next entry of the table above.
        table.handle().unmap(Ipa::new(PAGE), 3 * PAGE).unwrap();
        other.join().unwrap();
        settled(&table);
        assert_eq!(table.handle().stats().table_frames(), 1, "an empty table stays linked");
    });
}

#[test]
fn a_table_emptied_beside_a_merge_that_is_called_off_is_freed() {
    explore("unmap of both pages/collapse", || {
        let table = table(2, 4);
        let view = table.handle();
        assert!(map(&view, 0, PAGE, A, Prot::RW, Existing::Keep));
        assert!(map(&view, PAGE, PAGE, A + PAGE, Prot::RW, Existing::Keep));
        drop(view);
        let other = spawn(&table, |view| view.collapse(Ipa::new(0), 2 * PAGE).unwrap());
        let view = table.handle();
        view.unmap(Ipa::new(0), PAGE).unwrap();
        view.unmap(Ipa::new(PAGE), PAGE).unwrap();
        drop(view);
        other.join().unwrap();
        settled(&table);
        assert_eq!(table.handle().stats().table_frames(), 1, "an empty table stays linked");
    });
}

#[test]
fn a_freeze_waits_for_a_locked_child() {
    explore("unlink/replace below", || {
        let table = table(2, 3);
        map_pages(&table, 0, 1, A, Prot::RW);
        // The replacing map holds the page LOCKED between break and make; the unmap freezes the table around it.
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Replace));
        assert_eq!(table.handle().unmap(Ipa::new(0), 2 * PAGE).unwrap(), PAGE);
        assert!(other.join().unwrap());
        assert!(matches!(outputs(&table, 1)[0], None | Some(B)));
        settled(&table);
    });
}
