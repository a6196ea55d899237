//! Blocks that are cut and tables that are merged, beside those who work below.

use super::*;
use s2pt::sync::explore;

#[test]
fn a_cut_meets_a_fault_in_the_block() {
    explore("cut/cut of one block", || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, 2 * PAGE, A, Prot::R, Existing::Keep));
        let other = spawn(&table, |view| view.relax(Ipa::new(PAGE), PAGE, Prot::W).unwrap().leaves);
        assert_eq!(table.handle().relax(Ipa::new(0), PAGE, Prot::W).unwrap().leaves, 1);
        assert_eq!(other.join().unwrap(), 1);
        let view = table.handle();
        for ipa in [0, PAGE] {
            let hit = view.translate(Ipa::new(ipa), AccessKind::Write).unwrap();
            assert_eq!((hit.pa.get(), hit.prot), (A + ipa, Prot::RW));
        }
        drop(view);
        settled(&table);
    });
}

#[test]
fn a_split_meets_a_fault_in_the_block() {
    explore("split/fault in the block", || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, 2 * PAGE, A, Prot::R, Existing::Keep));
        let other = spawn(&table, |view| view.relax(Ipa::new(PAGE), PAGE, Prot::W).unwrap().leaves);
        table.handle().split(Ipa::new(0), 2 * PAGE, Level::L3).unwrap();
        assert_eq!(other.join().unwrap(), 1);
        assert_eq!(outputs(&table, 2), [Some(A), Some(A + PAGE)]);
        assert_eq!((prot(&table, 0), prot(&table, PAGE)), (Some(Prot::R), Some(Prot::RW)));
        settled(&table);
    });
}

#[test]
fn a_split_meets_an_unmap_of_half_the_block() {
    explore("split/unmap of half the block", || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, 2 * PAGE, A, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| view.unmap(Ipa::new(0), PAGE).unwrap());
        table.handle().split(Ipa::new(0), 2 * PAGE, Level::L3).unwrap();
        assert_eq!(other.join().unwrap(), PAGE);
        assert_eq!(outputs(&table, 2), [None, Some(A + PAGE)]);
        settled(&table);
    });
}

#[test]
fn a_collapse_meets_a_fault_below() {
    explore("collapse/map below", || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| map(view, PAGE, PAGE, A + PAGE, Prot::RW, Existing::Keep));
        table.handle().collapse(Ipa::new(0), 2 * PAGE).unwrap();
        assert!(other.join().unwrap());
        let view = table.handle();
        assert_eq!((output(&view, 0), output(&view, PAGE)), (Some(A), Some(A + PAGE)));
        drop(view);
        settled(&table);
    });
}

#[test]
fn a_collapse_loses_no_permission() {
    explore("collapse/relax below", || {
        let table = table(2, 4);
        let pages = MapOptions {
            largest: Some(Level::L3),
            ..MapOptions::default()
        };
        table
            .handle()
            .map(Ipa::new(0), 2 * PAGE, Pa::new(A), &Attrs::new(Prot::R), pages)
            .unwrap();
        let other = spawn(&table, |view| view.relax(Ipa::new(0), PAGE, Prot::W).unwrap().leaves);
        table.handle().collapse(Ipa::new(0), 2 * PAGE).unwrap();
        assert_eq!(other.join().unwrap(), 1);
        let view = table.handle();
        let prot = |ipa| view.translate(Ipa::new(ipa), AccessKind::Read).unwrap().prot;
        assert_eq!(
            (prot(0), prot(PAGE)),
            (Prot::RW, Prot::R),
            "an acknowledged permission stays, and spreads nowhere"
        );
        drop(view);
        settled(&table);
    });
}

#[test]
fn two_collapses_of_one_table() {
    explore("collapse/collapse of one table", || {
        let table = table(2, 2);
        map_pages(&table, 0, 2, A, Prot::RW);
        let other = spawn(&table, |view| view.collapse(Ipa::new(0), 2 * PAGE).unwrap());
        let mine = table.handle().collapse(Ipa::new(0), 2 * PAGE).unwrap();
        assert_eq!(mine + other.join().unwrap(), 1, "one of them merges it");
        assert_eq!(outputs(&table, 2), [Some(A), Some(A + PAGE)]);
        settled(&table);
    });
}

#[test]
fn two_collapses_of_nested_levels() {
    explore("collapse/collapse of nested levels", || {
        let table = table(3, 3);
        map_pages(&table, 0, 2, A, Prot::RW);
        let beside = (2 * PAGE, A + 2 * PAGE); // a block already
        assert!(map(
            &table.handle(),
            beside.0,
            2 * PAGE,
            beside.1,
            Prot::RW,
            Existing::Keep
        ));
        let other = spawn(&table, |view| view.collapse(Ipa::new(0), 2 * PAGE).unwrap());
        let mine = table.handle().collapse(Ipa::new(0), 4 * PAGE).unwrap();
        let all = mine + other.join().unwrap();
        // The lower one once, by either; the upper one if the lower one was done when the first came to it.
        assert!((1..=2).contains(&all), "{all} merges");
        assert_eq!(outputs(&table, 4), [0, 1, 2, 3].map(|page| Some(A + page * PAGE)));
        settled(&table);
    });
}

#[test]
fn a_collapse_meets_a_protect_below() {
    explore("collapse/protect below", || {
        let table = table(2, 4);
        map_pages(&table, 0, 2, A, Prot::RW);
        let other = spawn(&table, |view| view.protect(Ipa::new(0), PAGE, Prot::R).unwrap().leaves);
        table.handle().collapse(Ipa::new(0), 2 * PAGE).unwrap();
        assert_eq!(other.join().unwrap(), 1);
        assert_eq!(outputs(&table, 2), [Some(A), Some(A + PAGE)]);
        assert_eq!((prot(&table, 0), prot(&table, PAGE)), (Some(Prot::R), Some(Prot::RW)));
        settled(&table);
    });
}

#[test]
fn a_collapse_meets_an_unmap_below() {
    explore("collapse/unmap below", || {
        let table = table(2, 4);
        map_pages(&table, 0, 2, A, Prot::RW);
        let other = spawn(&table, |view| view.unmap(Ipa::new(0), PAGE).unwrap());
        table.handle().collapse(Ipa::new(0), 2 * PAGE).unwrap();
        assert_eq!(other.join().unwrap(), PAGE);
        assert_eq!(outputs(&table, 2), [None, Some(A + PAGE)]);
        settled(&table);
    });
}
