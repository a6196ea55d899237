//! What a sink is told, by what it says that it wants.
#![cfg(all(feature = "std", not(any(loom, shuttle))))]

use std::sync::atomic::{AtomicUsize, Ordering};

use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::table::{Config, Event, MapOptions, Stage2, Tlb};

const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;

/// Counts what belongs to hardware; wants it, or does not.
struct Half {
    listens: bool,
    told: AtomicUsize,
}

impl Tlb for Half {
    fn event(&self, event: Event) {
        if matches!(event, Event::Tlbi(_) | Event::Dsb(_) | Event::Isb | Event::Cache(_)) {
            self.told.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn listens(&self) -> bool {
        self.listens
    }
}

/// Every kind of change, and the entries that come of it.
fn changed(sink: &Half) -> Vec<(Ipa, u64, Pa, Prot)> {
    let geometry = Geometry::new(GeometryOptions::default()).unwrap();
    let table = Stage2::new(
        Config::new(geometry),
        Arena::new(ArenaOptions::default()).unwrap(),
        sink,
    )
    .unwrap();
    let view = table.handle();
    let at = Ipa::new;
    let map = |ipa, size, prot| {
        let done = view.map(
            at(ipa),
            size,
            Pa::new(ipa + BLOCK),
            &Attrs::new(prot),
            MapOptions::default(),
        );
        done.unwrap();
    };
    map(0, 4 * BLOCK, Prot::RW);
    map(9 * BLOCK, PAGE, Prot::RWX);
    map(PAGE, PAGE, Prot::R);
    view.write_protect(at(BLOCK), 3 * PAGE).unwrap();
    view.relax(at(9 * BLOCK), PAGE, Prot::X).unwrap();
    view.split(at(2 * BLOCK), BLOCK, Level::L3).unwrap();
    view.unmap(at(3 * BLOCK), PAGE).unwrap();
    view.test_and_clear_young(at(0), 4 * BLOCK, true).unwrap();
    view.collapse(at(2 * BLOCK), BLOCK).unwrap();
    view.flush_tlb(at(0), BLOCK).unwrap();
    let leaves = view.leaves(at(0), 1 << 40).unwrap();
    leaves
        .map(|leaf| (leaf.ipa, leaf.size, leaf.pa, leaf.attrs.prot))
        .collect()
}

#[test]
fn who_does_not_listen_changes_nothing_by_that() {
    let half = |listens| Half {
        listens,
        told: AtomicUsize::new(0),
    };
    let (deaf, listening) = (half(false), half(true));
    assert_eq!(changed(&deaf), changed(&listening));
    assert_eq!(deaf.told.into_inner(), 0);
    assert!(listening.told.into_inner() > 20);
    // A sink beside one that listens is told all the same.
    let pair = (half(false), half(true));
    assert!(pair.listens() && !(half(false), half(false)).listens());
}
