//! When a frame that went out of the tree may be used again (R8), and what a walker may meet until then.

use super::*;
use s2pt::sync::explore;
use s2pt::table::FrameCache;

#[test]
fn a_walker_that_finds_a_new_table_finds_it_filled() {
    explore("walker/map that brings its table", || {
        let table = table(2, 3);
        let walker = spawn(&table, |view| view.lookup(Ipa::new(0)).unwrap());
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let found = walker.join().unwrap();
        assert_eq!(
            found.level == Level::L3,
            found.pte.is_valid(),
            "the table was linked before it was filled"
        );
        settled(&table);
    });
}

#[test]
fn a_walker_meets_an_unmap() {
    explore("walker/unmap, deferred free", || {
        let table = table(2, 3);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let walker = spawn(&table, |view| output(view, 0));
        table.handle().unmap(Ipa::new(0), PAGE).unwrap();
        assert!(matches!(walker.join().unwrap(), None | Some(A)));
        assert_eq!(output(&table.handle(), 0), None);
        settled(&table);
    });
}

#[test]
fn a_freed_table_is_not_reused_under_a_walker() {
    explore("walker/unmap/reuse of the frame", || {
        // Two frames in all: the second map must take the very frame that the unmap gave back.
        let memory = ModelMemory::new(Pa::new(FRAMES), 2, 2);
        let table = table_of(Config::new(Geometry::tiny(2, 1)), memory, Null);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let walker = spawn(&table, |view| output(view, 0));
        let view = table.handle();
        view.unmap(Ipa::new(0), PAGE).unwrap();
        view.drain();
        assert!(map(&view, 2 * PAGE, PAGE, B, Prot::RW, Existing::Keep));
        assert!(
            matches!(walker.join().unwrap(), None | Some(A)),
            "the walker saw the other table's page"
        );
        drop(view);
        settled(&table);
    });
}

#[test]
fn a_table_is_freed_after_both_of_its_readers() {
    explore("deferred free/two readers", || {
        let table = table(2, 2);
        map_pages(&table, 0, 1, A, Prot::RW);
        let readers = [(); 2].map(|()| spawn(&table, |view| output(view, 0)));
        table.handle().unmap(Ipa::new(0), 2 * PAGE).unwrap();
        for reader in readers {
            assert!(matches!(reader.join().unwrap(), None | Some(A)));
        }
        settled(&table);
    });
}

#[test]
fn a_drain_waits_for_what_was_retired_before() {
    explore("drain/retire", || {
        let table = table(2, 2);
        map_pages(&table, 0, 1, A, Prot::RW);
        let retired = Arc::new(s2pt::sync::AtomicBool::new(false));
        let told = retired.clone();
        let other = spawn(&table, move |view| {
            view.unmap(Ipa::new(0), 2 * PAGE).unwrap();
            told.store(true, s2pt::sync::Ordering::Release);
        });
        let before = retired.load(s2pt::sync::Ordering::Acquire);
        table.handle().drain();
        if before {
            assert_eq!(table.memory().frames_in_use(), 1, "only the root");
            assert_eq!(table.pending_frames(), 0);
        }
        other.join().unwrap();
        settled(&table);
    });
}

#[test]
fn frames_of_a_cache_go_back_whoever_wins() {
    explore("map/map, each out of its own frame cache", || {
        let table = table(2, 5);
        table.memory().spare(4);
        let fault = |table: &Table, ipa, pa| {
            let cache = FrameCache::new(table.memory(), 2);
            let view = table.handle().with_frame_cache(&cache);
            map(&view, ipa, PAGE, pa, Prot::RW, Existing::Keep)
        };
        let peer = table.clone();
        let other = thread::spawn(move || fault(&peer, PAGE, B));
        assert!(fault(&table, 0, A));
        assert!(other.join().unwrap());
        assert_eq!(outputs(&table, 2), [Some(A), Some(B)]);
        settled(&table);
    });
}

#[test]
fn a_stay_that_has_seen_a_table_meets_its_unlink() {
    explore("stay/unlink of the table that it has seen", || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| {
            let removed = view.unmap(Ipa::new(0), 2 * PAGE).unwrap();
            assert!(map(view, 0, PAGE, B, Prot::RW, Existing::Keep));
            removed
        });
        let view = table.handle();
        let stay = view.stay();
        let seen = stay.lookup(Ipa::new(0)).unwrap();
        assert!(seen.pte.is_leaf(Level::L3) || seen.pte.is_locked() || seen.pte.is_empty());
        let options = MapOptions::FAULT;
        let mapped = stay.map(Ipa::new(PAGE), PAGE, Pa::new(A + PAGE), &Attrs::new(Prot::RW), options);
        assert_eq!(mapped.unwrap().bytes, PAGE);
        drop(stay);
        let removed = other.join().unwrap();
        assert_eq!(output(&view, 0), Some(B));
        // The page went with the others, and was counted, or it is there.
        match output(&view, PAGE) {
            Some(pa) => assert_eq!((pa, removed), (A + PAGE, PAGE)),
            None => assert_eq!(removed, 2 * PAGE),
        }
        settled(&table);
    });
}
