//! TLB invalidations: of everything that was cached, with the right hint, in the right order.

use std::sync::Arc;

use s2pt::arch::{Attrs, Dsb, GeometryOptions, Granule, Ipa, Level, Pa, Prot, RangeOp, Scope, Tlbi, range_encoding};
use s2pt::table::{Event, MapOptions};

use crate::inject::{at, fired};
use crate::support::*;

fn without_ranges() -> Arc<Table> {
    table_with(GeometryOptions::default(), |config| config.tlbi_range = false)
}

#[test]
pub fn b02_a_block_in_place_of_a_table_leaves_none_of_its_pages_cached() {
    for table in [table(), without_ranges()] {
        let view = table.handle();
        for way in 0..3 {
            map(&view, BASE, BLOCK, Prot::RW, PAGES).unwrap();
            log(&table);
            match way {
                0 => ok(view.collapse(Ipa::new(BASE), BLOCK)),
                1 => ok(map(&view, BASE, BLOCK, Prot::R, REPLACE)),
                _ => ok(view.unmap(Ipa::new(BASE), BLOCK)),
            }
            let tlbis = stage2_tlbis(&log(&table));
            for ipa in (BASE..BASE + BLOCK).step_by(PAGE as usize) {
                assert!(
                    tlbis.iter().any(|&tlbi| drops(tlbi, ipa, Level::L3)),
                    "way {way}: {ipa:#x} stays cached"
                );
            }
        }
    }
}

/// Two vCPUs fault on one page for the same right; who comes second still holds the refusal in its own TLB.
#[test]
pub fn b13_who_finds_the_right_granted_already_drops_its_own_refusal() {
    let local = |log: &[Event], ipa: u64| {
        stage2_tlbis(log).iter().any(|&tlbi| match tlbi {
            Tlbi::Ipa { ipa: at, scope, .. } => scope == Scope::Local && at.get() == ipa,
            Tlbi::Range {
                ipa: at, pages, scope, ..
            } => scope == Scope::Local && (at.get()..at.get() + pages * PAGE).contains(&ipa),
            _ => false,
        })
    };
    // In turn, and with the peer between the look and the exchange.
    for size in [PAGE, 2 * PAGE, BLOCK] {
        let table = table();
        let view = table.handle();
        map(&view, BASE, size, Prot::R, REPLACE).unwrap();
        view.relax(Ipa::new(BASE), size, Prot::W).unwrap();
        log(&table);
        assert_eq!(view.relax(Ipa::new(BASE), size, Prot::W).unwrap().leaves, 0);
        let second = log(&table);
        assert!(local(&second, BASE), "{size:#x}");
        check_order(&second);

        let peer = Arc::clone(&table);
        at(
            |event| matches!(event, Event::Cache(_)),
            move || ok(peer.handle().relax(Ipa::new(BASE), size, Prot::X)),
        );
        assert_eq!(view.relax(Ipa::new(BASE), size, Prot::X).unwrap().bytes, size);
        assert!(fired());
        let both = log(&table);
        let locals = stage2_tlbis(&both)
            .iter()
            .filter(|tlbi| tlbi.scope() == Scope::Local)
            .count();
        assert!(locals >= 2, "{size:#x}: {locals} of two vCPUs dropped their refusal");
    }
}

/// A level hint makes a CPU look for leaves of that level only; behind a table stood leaves of others, and walk caches.
#[test]
pub fn b16_no_level_hint_where_a_table_goes() {
    for table in [table(), without_ranges()] {
        let view = table.handle();
        for way in 0..4 {
            map(&view, BASE, BLOCK, Prot::RW, PAGES).unwrap();
            if way == 3 {
                view.unmap(Ipa::new(BASE + PAGE), BLOCK - PAGE).unwrap();
            }
            log(&table);
            match way {
                0 => ok(view.collapse(Ipa::new(BASE), BLOCK)),
                1 => ok(map(&view, BASE, BLOCK, Prot::R, REPLACE)),
                2 => ok(view.unmap(Ipa::new(BASE), BLOCK)),
                _ => ok(view.unmap(Ipa::new(BASE), PAGE)), // the page with a hint, its table without
            }
            let log = log(&table);
            let broken = |event: &Event| {
                matches!(event, Event::Store { old, new, .. } if new.is_locked() && old.is_table(Level::L2)
                    && log.iter().any(|event| matches!(event, Event::Retire { frame, .. }
                        if frame.get() == old.raw() & 0xffff_ffff_f000)))
            };
            let first = log.iter().position(broken).expect("a table goes");
            let after = log[first..]
                .iter()
                .take_while(|event| !matches!(event, Event::Dsb(Dsb::Ish)));
            let hints: Vec<_> = stage2_tlbis(&after.copied().collect::<Vec<_>>())
                .into_iter()
                .map(hint)
                .collect();
            assert!(
                !hints.is_empty() && hints.iter().all(Option::is_none),
                "way {way}: {hints:?}"
            );
        }
    }
}

/// Level 0 is a level (of blocks, with LPA2), so "unknown" must be another number, and the field 0.
#[test]
pub fn b17_an_unknown_level_is_not_level_0() {
    let single = |level| {
        let tlbi = Tlbi::Ipa {
            ipa: Ipa::new(BASE),
            level,
            scope: Scope::Broadcast,
        };
        tlbi.operations(Granule::K4, true).next().unwrap().operand.unwrap() >> 44 & 0xf
    };
    let range = |level| {
        let tlbi = Tlbi::Range {
            ipa: Ipa::new(BASE),
            pages: 32,
            level,
            scope: Scope::Broadcast,
        };
        tlbi.operations(Granule::K4, true).next().unwrap().operand.unwrap() >> 37 & 3
    };
    assert_eq!((single(None), range(None)), (0, 0), "no hint");
    assert_eq!(single(Some(Level::L0)), 0b0100);
    assert_eq!(range(Some(Level::L0)), 0, "the range form has no code for level 0");
    assert_eq!(
        (single(Some(Level::LM1)), range(Some(Level::LM1))),
        (0, 0),
        "nor any form for level -1"
    );
    for level in [Level::L1, Level::L2, Level::L3] {
        let code = level.get() as u64;
        assert_eq!((single(Some(level)), range(Some(level))), (0b0100 | code, code));
    }
}

/// The range of a request may begin in the middle of an entry; what was cached from the entry begins at its base.
#[test]
pub fn b18_an_invalidation_begins_where_the_broken_entry_begins() {
    for table in [table(), without_ranges()] {
        let view = table.handle();
        // A page in the middle of a block: all of the block was cached.
        map(&view, BASE, BLOCK, Prot::RW, REPLACE).unwrap();
        log(&table);
        view.unmap(Ipa::new(BASE + 77 * PAGE), PAGE).unwrap();
        let tlbis = stage2_tlbis(&log(&table));
        assert!(tlbis.iter().any(|&tlbi| drops(tlbi, BASE, Level::L2)), "{tlbis:?}");
        // A range that ends up emptying a table from its middle: the table's walk cache covers all of it.
        view.unmap(Ipa::new(BASE), 77 * PAGE).unwrap();
        log(&table);
        view.unmap(Ipa::new(BASE + 78 * PAGE), BLOCK - 78 * PAGE).unwrap();
        let tlbis = stage2_tlbis(&log(&table));
        for ipa in [BASE, BASE + 77 * PAGE, BASE + BLOCK - PAGE] {
            let found = |&tlbi: &Tlbi| hint(tlbi).is_none() && drops(tlbi, ipa, Level::L3);
            assert!(tlbis.iter().any(found), "{ipa:#x}: {tlbis:?}");
        }
    }
}

#[test]
pub fn b19_lpa2_ranges_are_aligned_where_they_are_not_where_they_began() {
    let ops: Vec<_> = range_encoding(Ipa::new(0x1000), 40, Granule::K4, true).collect();
    let page = |ipa: u64| RangeOp::Page { ipa: Ipa::new(ipa) };
    let mut expected: Vec<_> = (1..16).map(|n| page(n * PAGE)).collect();
    let ipa = Ipa::new(0x1_0000);
    expected.push(RangeOp::Range { ipa, scale: 0, num: 11 });
    expected.push(page(0x2_8000));
    assert_eq!(ops, expected);
    assert!(ops[16].pages() == 1 && ops.iter().map(|op| op.pages()).sum::<u64>() == 40);
}

/// A hint is given only where every leaf that changed has that level; where nothing was found there is nothing to hint.
#[test]
pub fn b20_the_hint_is_the_level_of_what_changed_or_none() {
    let table = table();
    let view = table.handle();
    map(&view, BASE, BLOCK, Prot::R, REPLACE).unwrap();
    map(&view, BASE + BLOCK, BLOCK, Prot::R, PAGES).unwrap();
    let hints = |ipa: u64, size: u64, prot| {
        log(&table);
        view.relax(Ipa::new(ipa), size, prot).unwrap();
        stage2_tlbis(&log(&table)).into_iter().map(hint).collect::<Vec<_>>()
    };
    assert_eq!(hints(BASE, BLOCK, Prot::W), [Some(Level::L2)]);
    assert_eq!(hints(BASE + BLOCK, BLOCK, Prot::W), [Some(Level::L3)]);
    assert_eq!(hints(BASE, 2 * BLOCK, Prot::W), [None], "block and pages");
    log(&table);
    view.relax(Ipa::new(BASE + 2 * BLOCK), PAGE, Prot::W).unwrap_err();
    assert_eq!(stage2_tlbis(&log(&table)), [], "a hole: nothing changed");
}

/// The whole order, for every operation that invalidates: store, DSB, stage 2, DSB, stage 1, DSB, and then the make.
#[test]
pub fn b36_a_dsb_stands_before_between_and_behind_the_tlbis() {
    type Operation = fn(&s2pt::table::Handle<'_, s2pt::memory::Arena, Sink>);
    let operations: [(&str, Operation); 9] = [
        ("unmap", |view| ok(view.unmap(Ipa::new(BASE), BLOCK))),
        ("unmap a page", |view| ok(view.unmap(Ipa::new(BASE + 3 * PAGE), PAGE))),
        (
            "write_protect",
            |view| ok(view.write_protect(Ipa::new(BASE), 2 * BLOCK)),
        ),
        ("protect", |view| ok(view.protect(Ipa::new(BASE), PAGE, Prot::R))),
        ("relax", |view| ok(view.relax(Ipa::new(BASE), 2 * BLOCK, Prot::X))),
        ("age", |view| {
            ok(view.test_and_clear_young(Ipa::new(BASE), 2 * BLOCK, true))
        }),
        ("split", |view| ok(view.split(Ipa::new(BASE + BLOCK), BLOCK, Level::L3))),
        ("collapse", |view| ok(view.collapse(Ipa::new(BASE), BLOCK))),
        ("map", |view| {
            let options = MapOptions {
                largest: None,
                ..REPLACE
            };
            ok(view.map(Ipa::new(BASE), 2 * BLOCK, Pa::new(0), &Attrs::new(Prot::R), options));
        }),
    ];
    for table in [table(), without_ranges()] {
        let view = table.handle();
        for (name, operation) in operations {
            map(&view, BASE, BLOCK, Prot::RW, PAGES).unwrap();
            map(&view, BASE + BLOCK, BLOCK, Prot::RW, REPLACE).unwrap();
            log(&table);
            operation(&view);
            let log = log(&table);
            assert!(check_order(&log) > 0, "{name} invalidates");
            // What was broken is made only after the last DSB of its invalidation.
            let mut complete = true;
            for event in &log {
                match event {
                    Event::Store { new, .. } if new.is_locked() => complete = false,
                    Event::Isb => complete = true,
                    Event::Store { old, .. } if old.is_locked() => assert!(complete, "{name}: made too early"),
                    _ => {}
                }
            }
            view.unmap(Ipa::new(BASE), 2 * BLOCK).unwrap();
        }
    }
}
