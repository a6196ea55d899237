//! Lost races: what an operation does when a peer was faster.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use s2pt::arch::{Attrs, Ipa, Level, Pa, Prot};
use s2pt::memory::TableMemory;
use s2pt::table::{Error, Event, Existing, MapOptions};

use crate::inject::{at, fired, is_stage2_tlbi};
use crate::support::*;

fn is_cache_op(event: Event) -> bool {
    matches!(event, Event::Cache(_))
}

fn is_allocation(event: Event) -> bool {
    matches!(event, Event::Allocate { .. })
}

/// One entry of the range is between break and make, others are holes, and a peer changes some on the way.
#[test]
pub fn b07_write_protection_does_not_stop_at_an_entry_that_a_peer_holds() {
    const PAGES_IN_ALL: u64 = 8;
    let table = table();
    let view = table.handle();
    map(&view, BASE, PAGES_IN_ALL * PAGE, Prot::RW, PAGES).unwrap();
    view.unmap(Ipa::new(BASE + 2 * PAGE), PAGE).unwrap(); // a hole in the middle
    let (locked, held) = mpsc::channel();
    let protector = std::thread::spawn({
        let table = Arc::clone(&table);
        move || {
            held.recv().unwrap();
            table.handle().write_protect(Ipa::new(BASE), PAGES_IN_ALL * PAGE)
        }
    });
    let peer = Arc::clone(&table);
    at(is_stage2_tlbi, move || {
        // Page 4 is LOCKED now. The protector has come up to it once page 3 is read-only.
        locked.send(()).unwrap();
        let begun = Instant::now();
        while writable(&peer.handle(), BASE + 3 * PAGE) {
            assert!(begun.elapsed() < Duration::from_secs(60), "nobody protects");
            std::thread::yield_now();
        }
    });
    let attrs = Attrs::new(Prot::RW);
    view.map(Ipa::new(BASE + 4 * PAGE), PAGE, Pa::new(0), &attrs, REPLACE)
        .unwrap();
    assert!(fired());
    let changed = protector.join().unwrap().unwrap();
    assert_eq!((changed.leaves, changed.bytes), (7, 7 * PAGE));
    for page in 0..PAGES_IN_ALL {
        assert!(!writable(&view, BASE + page * PAGE), "page {page} can be written");
    }
    assert_eq!(output(&view, BASE + 4 * PAGE), Some(0));
    audit(&table);
}

/// A peer puts a table where the block was about to stand; filling it begins again at the first page, with its own output.
#[test]
pub fn b09_after_a_lost_race_every_page_has_its_own_output() {
    for (existing, over_tables) in [
        (Existing::Keep, false),
        (Existing::Keep, true),
        (Existing::Replace, false),
    ] {
        let table = table();
        let peer = Arc::clone(&table);
        at(
            |event| matches!(event, Event::Cache(_)),
            move || {
                let peer = peer.handle();
                let elsewhere = Pa::new(0);
                peer.map(Ipa::new(BASE + 5 * PAGE), PAGE, elsewhere, &Attrs::new(Prot::R), PAGES)
                    .unwrap();
            },
        );
        let view = table.handle();
        let options = MapOptions {
            existing,
            over_tables,
            ..MapOptions::FAULT
        };
        map(&view, BASE, 3 * BLOCK, Prot::RW, options).unwrap();
        assert!(fired());
        for ipa in (BASE..BASE + 3 * BLOCK).step_by(PAGE as usize) {
            let kept = existing == Existing::Keep && !over_tables && ipa == BASE + 5 * PAGE;
            let expected = if kept { 0 } else { ipa + OFFSET };
            assert_eq!(output(&view, ipa), Some(expected), "{ipa:#x}, {existing:?}");
        }
        audit(&table);
    }
}

/// What a new valid entry points to was written before: its store must release. That each such store does, and that an
/// entry is read with acquire, is what the loom models of `loom_table` rest on.
#[test]
pub fn b35_every_store_of_a_valid_entry_releases_what_it_points_to() {
    let table = table();
    let view = table.handle();
    map(&view, BASE, 2 * BLOCK, Prot::RW, REPLACE).unwrap();
    map(&view, BASE + 4 * BLOCK, 3 * PAGE, Prot::RW, PAGES).unwrap();
    view.write_protect(Ipa::new(BASE + PAGE), PAGE).unwrap();
    view.split(Ipa::new(BASE + BLOCK), BLOCK, Level::L3).unwrap();
    view.relax(Ipa::new(BASE), 2 * BLOCK, Prot::RW).unwrap();
    view.collapse(Ipa::new(BASE), 2 * BLOCK).unwrap();
    map(&view, BASE, BLOCK, Prot::R, PAGES).unwrap();
    view.unmap(Ipa::new(BASE), BLOCK).unwrap();
    let stores = log(&table).into_iter().filter_map(|event| match event {
        Event::Store { new, release, .. } if new.is_valid() => Some((new, release)),
        _ => None,
    });
    let stores: Vec<_> = stores.collect();
    assert!(stores.iter().any(|(new, _)| new.is_table(Level::L2)));
    for (new, release) in stores {
        assert!(release, "{:#x} was stored without release", new.raw());
    }
}

/// A peer does each thing to the entry that an operation has read and not yet exchanged; also where the operation then
/// answers `Again`.
#[test]
pub fn b33_frames_in_use_are_frames_reached_after_every_lost_race() {
    for existing in [Existing::Keep, Existing::Replace, Existing::Error] {
        for wait in [true, false] {
            for act in 0..4 {
                let table = table();
                let peer = Arc::clone(&table);
                at(is_cache_op, move || {
                    let peer = peer.handle();
                    match act {
                        0 => ok(map(&peer, BASE, BLOCK, Prot::R, REPLACE)),
                        1 => ok(map(&peer, BASE + 5 * PAGE, PAGE, Prot::R, PAGES)),
                        2 => ok(map(&peer, BASE, BLOCK, Prot::R, PAGES)),
                        _ => {
                            map(&peer, BASE, PAGE, Prot::R, PAGES).unwrap();
                            peer.unmap(Ipa::new(BASE), PAGE).unwrap();
                        }
                    }
                });
                let view = table.handle();
                let view = if wait { view } else { view.without_waiting() };
                let options = MapOptions {
                    existing,
                    largest: (act % 2 == 1).then_some(Level::L3),
                    ..MapOptions::FAULT
                };
                let done = map(&view, BASE, BLOCK, Prot::RW, options);
                assert!(fired());
                assert!(
                    matches!(done, Ok(_) | Err(Error::Again { .. } | Error::Conflict { .. })),
                    "{done:?}"
                );
                audit(&table);
            }
        }
    }
}

/// The new table is built, then a peer changes the entry before it can be broken.
#[test]
pub fn b34_a_table_that_could_not_be_linked_goes_back() {
    for (piece, prepared) in [
        (PAGE, is_allocation as fn(Event) -> bool),
        (BLOCK - PAGE, is_allocation),
    ] {
        for act in 0..3 {
            let table = table();
            let view = table.handle();
            map(&view, GIB, GIB, Prot::RW, REPLACE).unwrap();
            log(&table);
            let peer = Arc::clone(&table);
            at(prepared, move || {
                let peer = peer.handle();
                match act {
                    0 => ok(peer.unmap(Ipa::new(GIB), GIB)),
                    1 => ok(peer.test_and_clear_young(Ipa::new(GIB), PAGE, true)),
                    _ => ok(peer.split(Ipa::new(GIB), GIB, Level::L2)),
                }
            });
            view.write_protect(Ipa::new(GIB + PAGE), piece).unwrap();
            assert!(fired());
            audit(&table);
            let log = log(&table);
            let taken = log.iter().filter(|&&event| is_allocation(event)).count();
            assert_eq!(
                taken - freed(&log).len() + root_frames(&table),
                table.memory().frames_in_use(),
                "act {act}"
            );
            assert!(!writable(&view, GIB + PAGE));
        }
    }
}
