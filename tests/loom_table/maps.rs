//! Maps, unmaps and marks on one page or one table.

use super::*;
use s2pt::sync::explore;

#[test]
fn two_maps_race_for_one_empty_slot_of_a_table() {
    explore("map/map on one slot", || {
        let table = table(2, 2);
        map_pages(&table, PAGE, 1, A + PAGE, Prot::RW);
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Keep));
        let mine = map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep);
        assert!(mine != other.join().unwrap(), "exactly one maps the page");
        assert_eq!(outputs(&table, 1)[0], Some(if mine { A } else { B }));
        settled(&table);
    });
}

#[test]
fn two_maps_race_for_one_empty_slot() {
    explore("map/map, the table missing", || {
        let table = table(2, 4);
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Keep));
        let mine = map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep);
        let theirs = other.join().unwrap();
        assert!(mine != theirs, "exactly one maps the page");
        assert_eq!(output(&table.handle(), 0), Some(if mine { A } else { B }));
        settled(&table);
    });
}

#[test]
fn two_maps_of_neighbours_share_the_new_table() {
    explore("map/map of neighbours, the table missing", || {
        let table = table(2, 4);
        let other = spawn(&table, |view| map(view, PAGE, PAGE, B, Prot::RW, Existing::Keep));
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        assert!(other.join().unwrap());
        let view = table.handle();
        assert_eq!((output(&view, 0), output(&view, PAGE)), (Some(A), Some(B)));
        drop(view);
        settled(&table);
    });
}

/// Who finds a page mapped, or maps it, has it mapped: also where a call that may replace nothing had a part in it and was
/// refused at the next page.
#[test]
fn a_map_that_may_replace_nothing_meets_maps_of_its_pages() {
    explore("map that may replace nothing/maps of its pages", || {
        let table = table(2, 3);
        map_pages(&table, 0, 1, A, Prot::RW);
        map_pages(&table, 3 * PAGE, 1, A + 3 * PAGE, Prot::RW);
        let other = spawn(&table, |view| {
            let won = map(view, 2 * PAGE, PAGE, B, Prot::RW, Existing::Keep);
            map(view, PAGE, PAGE, A + PAGE, Prot::RW, Existing::Keep);
            won
        });
        let options = MapOptions {
            existing: Existing::Error,
            ..MapOptions::default()
        };
        let pages = (Ipa::new(PAGE), 2 * PAGE, Pa::new(A + PAGE));
        let done = table
            .handle()
            .map(pages.0, pages.1, pages.2, &Attrs::new(Prot::RW), options);
        let won = other.join().unwrap();
        match done {
            Ok(mapped) => assert!(mapped.bytes == 2 * PAGE && !won, "{mapped:?}"),
            Err(Error::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let second = if won { B } else { A + 2 * PAGE };
        let all = [Some(A), Some(A + PAGE), Some(second), Some(A + 3 * PAGE)];
        assert_eq!(outputs(&table, 4), all);
        settled(&table);
    });
}

/// Of two such calls for one range one maps all of it, and the other nothing.
#[test]
fn two_maps_that_may_replace_nothing_race_for_one_range() {
    explore("two maps that may replace nothing, of one range", || {
        let table = table(2, 3);
        map_pages(&table, 0, 1, A, Prot::RW);
        map_pages(&table, 3 * PAGE, 1, A, Prot::RW);
        let whole = |view: &Handle<'_, Memory>, pa: u64| {
            let options = MapOptions {
                existing: Existing::Error,
                ..MapOptions::default()
            };
            view.map(Ipa::new(PAGE), 2 * PAGE, Pa::new(pa), &Attrs::new(Prot::RW), options)
                .is_ok()
        };
        let other = spawn(&table, move |view| whole(view, B));
        let mine = whole(&table.handle(), A);
        assert!(mine != other.join().unwrap(), "exactly one maps the range");
        let first = if mine { A } else { B };
        assert_eq!(outputs(&table, 3)[1..], [Some(first), Some(first + PAGE)]);
        settled(&table);
    });
}

#[test]
fn a_map_races_an_unmap() {
    explore("map/unmap of one page, the table stays", || {
        let table = table(2, 2);
        map_pages(&table, 0, 2, A, Prot::RW);
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Keep));
        assert_eq!(table.handle().unmap(Ipa::new(0), PAGE).unwrap(), PAGE);
        let mapped = other.join().unwrap();
        // The unmap took A; the B that came after is still there.
        assert_eq!(outputs(&table, 2), [mapped.then_some(B), Some(A + PAGE)]);
        settled(&table);
    });
}

#[test]
fn a_map_races_an_unmap_of_the_last_page() {
    explore("map/unmap of the last page", || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Keep));
        let removed = table.handle().unmap(Ipa::new(0), PAGE).unwrap();
        let mapped = other.join().unwrap();
        // The unmap took A, or the B that came after A was gone is still there.
        assert_eq!(removed, PAGE);
        let left = output(&table.handle(), 0);
        assert_eq!(
            left,
            mapped.then_some(B),
            "a map that was acknowledged after the unmap stays"
        );
        settled(&table);
    });
}

#[test]
fn two_replacing_maps_race_for_one_page() {
    explore("replace/replace of one page", || {
        let table = table(2, 2);
        map_pages(&table, 0, 1, A + PAGE, Prot::RW);
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Replace));
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Replace));
        assert!(other.join().unwrap());
        assert!(matches!(outputs(&table, 1)[0], Some(A | B)));
        settled(&table);
    });
}

#[test]
fn a_replacing_map_races_an_unmap() {
    explore("replace/unmap of one page, the table stays", || {
        let table = table(2, 2);
        map_pages(&table, 0, 2, A, Prot::RW);
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Replace));
        assert_eq!(table.handle().unmap(Ipa::new(0), PAGE).unwrap(), PAGE);
        assert!(other.join().unwrap());
        let left = outputs(&table, 2);
        assert!(
            matches!(left[0], None | Some(B)) && left[1] == Some(A + PAGE),
            "{left:?}"
        );
        settled(&table);
    });
}

#[test]
fn a_replacing_map_races_an_unmap_of_the_last_page() {
    explore("replace/unmap of the last page", || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Replace));
        assert_eq!(table.handle().unmap(Ipa::new(0), PAGE).unwrap(), PAGE);
        assert!(other.join().unwrap());
        assert!(matches!(output(&table.handle(), 0), None | Some(B)));
        settled(&table);
    });
}

#[test]
fn a_block_replaces_a_table_beside_a_fault_in_it() {
    explore("map of a block over a table/map below", || {
        let table = table(2, 3);
        map_pages(&table, 0, 1, A, Prot::RW);
        let other = spawn(&table, |view| map(view, PAGE, PAGE, A + PAGE, Prot::RW, Existing::Keep));
        assert!(map(&table.handle(), 0, 2 * PAGE, B, Prot::RW, Existing::Replace));
        other.join().unwrap(); // before the block, or too late
        assert_eq!(outputs(&table, 2), [Some(B), Some(B + PAGE)]);
        settled(&table);
    });
}

#[test]
fn a_map_meets_an_owners_mark() {
    explore("map/annotate of one page", || {
        let table = table(2, 2);
        map_pages(&table, PAGE, 1, A, Prot::RW);
        let other = spawn(&table, |view| view.annotate(Ipa::new(0), PAGE, 7).unwrap());
        let options = MapOptions::FAULT;
        let mapped = table
            .handle()
            .map(Ipa::new(0), PAGE, Pa::new(B), &Attrs::new(Prot::RW), options);
        other.join().unwrap();
        // The mark came last, or was there before.
        assert!(
            mapped.is_ok() || matches!(mapped, Err(Error::Again { .. })),
            "{mapped:?}"
        );
        let found = table.handle().lookup(Ipa::new(0)).unwrap();
        assert_eq!(found.pte, Pte::annotated(7).unwrap());
        settled(&table);
    });
}

#[test]
fn a_map_meets_the_end_of_an_owners_mark() {
    explore("map/end of a mark on one page", || {
        let table = table(2, 2);
        map_pages(&table, PAGE, 1, A, Prot::RW);
        table.handle().annotate(Ipa::new(0), PAGE, 7).unwrap();
        let other = spawn(&table, |view| view.unmap(Ipa::new(0), PAGE).unwrap());
        let mapped = map(&table.handle(), 0, PAGE, B, Prot::RW, Existing::Keep);
        let removed = other.join().unwrap();
        // The mark went; what was mapped after that stays, or went with it.
        let left = outputs(&table, 1)[0];
        let gone = mapped && removed == PAGE;
        assert_eq!(left, (mapped && !gone).then_some(B));
        settled(&table);
    });
}
