//! What KVM lets pass and does wrong, or does not do, without saying so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use s2pt::arch::{Attrs, EntryKind, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::table::{Error, Event, Existing, MapOptions};

use crate::inject::{at, is_stage2_tlbi};
use crate::support::*;

#[test]
pub fn b27_an_output_beyond_the_limit_is_refused() {
    let table = table();
    let view = table.handle();
    let attrs = Attrs::new(Prot::RW);
    map(&view, BASE, BLOCK, Prot::RW, REPLACE).unwrap();
    log(&table);
    for (pa, size) in [
        (1 << 48, PAGE),
        (1 << 48, BLOCK),
        ((1 << 48) - PAGE, 2 * PAGE),
        (!0 << 21, BLOCK),
    ] {
        for options in [REPLACE, PAGES] {
            match view.map(Ipa::new(BASE), size, Pa::new(pa), &attrs, options) {
                Err(Error::Address { what, value, limit, .. }) => assert_eq!((what, value, limit), ("pa", pa, 1 << 48)),
                other => panic!("{pa:#x}: {other:?}"),
            }
        }
    }
    assert_eq!(log(&table), []);
    assert_eq!((view.stats().annotated, output(&view, BASE)), (0, Some(BASE + OFFSET)));
    view.map(Ipa::new(BASE), PAGE, Pa::new((1 << 48) - PAGE), &attrs, PAGES)
        .unwrap();
    assert_eq!(output(&view, BASE), Some((1 << 48) - PAGE), "the last page");
}

#[test]
pub fn b28_a_range_that_wraps_or_leaves_the_space_is_refused() {
    let table = table();
    let view = table.handle();
    let last = (1 << 40) - PAGE;
    map(&view, BASE, BLOCK, Prot::RW, REPLACE).unwrap();
    map(&view, last, PAGE, Prot::RW, PAGES).unwrap();
    log(&table);
    for (ipa, size) in [
        (last, 2 * PAGE),
        (BASE, !0 << 12),
        (!0 << 12, 2 * PAGE),
        (!0 << 12, PAGE),
        (1 << 40, PAGE),
    ] {
        let at = Ipa::new(ipa);
        let results = [
            view.map(at, size, Pa::new(0), &Attrs::new(Prot::R), REPLACE).map(drop),
            view.unmap(at, size).map(drop),
            view.protect(at, size, Prot::R).map(drop),
            view.write_protect(at, size).map(drop),
            view.write_protect_leaves([(at, size)]).map(drop),
            view.relax(at, size, Prot::X).map(drop),
            view.mark_young(at, size).map(drop),
            view.test_young(at, size).map(drop),
            view.test_and_clear_young(at, size, true).map(drop),
            view.split(at, size, Level::L3).map(drop),
            view.collapse(at, size).map(drop),
            view.leaves(at, size).map(drop),
        ];
        for (n, result) in results.into_iter().enumerate() {
            assert!(
                matches!(result, Err(Error::Address { .. })),
                "{ipa:#x} {size:#x} {n}: {result:?}"
            );
        }
    }
    assert_eq!(log(&table), []);
    assert!(writable(&view, BASE) && writable(&view, last));
}

/// A sink that panics in its TLBI leaves the entry LOCKED for ever. Who is alone in the table knows that nobody will come
/// to finish it: he is told, and does not wait, and does not take it for done.
#[test]
pub fn b30_a_locked_entry_that_nobody_holds_is_an_error_to_who_is_alone() {
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        let table = table();
        map(&table.handle(), BASE, 4 * PAGE, Prot::RW, PAGES).unwrap();
        at(is_stage2_tlbi, || panic!("the sink of this test panics once"));
        let view = table.handle();
        catch_unwind(AssertUnwindSafe(|| view.unmap(Ipa::new(BASE + PAGE), PAGE))).unwrap_err();
        assert_eq!(view.stats().locked, 1);
        let ipa = Ipa::new(BASE + PAGE);
        assert!(matches!(
            view.without_waiting().unmap(ipa, PAGE),
            Err(Error::Again { .. })
        ));
        drop(view);
        let mut table = Arc::into_inner(table).unwrap();
        let alone = table.exclusive();
        let found = alone.lookup(ipa).unwrap();
        let kind = found.pte.kind(found.level);
        let seen = alone.leaves(Ipa::new(BASE), 4 * PAGE).unwrap().count();
        let whole = alone.write_protect(Ipa::new(BASE), 4 * PAGE).map(drop);
        done.send((kind, seen, whole, alone.unmap(ipa, PAGE).map(drop)))
            .unwrap();
    });
    let (kind, seen, whole, one) = finished
        .recv_timeout(Duration::from_secs(20))
        .expect("it waits for nobody");
    assert_eq!((kind, seen), (EntryKind::Locked, 3));
    for result in [whole, one] {
        assert!(
            matches!(result, Err(Error::Again { ipa, .. }) if ipa.get() == BASE + PAGE),
            "{result:?}"
        );
    }
}

/// A table whose addresses have 52 bits: what is beyond 48 is an address there, not a mark.
#[test]
pub fn b27_with_52_bits_the_same_output_is_an_address() {
    let options = GeometryOptions {
        ipa_bits: 52,
        pa_bits: 52,
        lpa2: true,
        ..GeometryOptions::default()
    };
    let table = table_with(options, |_| ());
    let view = table.handle();
    let pa = 0x4_0000_1234_5000;
    view.map(Ipa::new(BASE), PAGE, Pa::new(pa), &Attrs::new(Prot::RW), REPLACE)
        .unwrap();
    assert_eq!(output(&view, BASE), Some(pa));
    assert_eq!(view.lookup(Ipa::new(BASE)).unwrap().pte.raw(), 0x0040_0000_1234_55ff);
    assert!(log(&table).iter().any(|event| matches!(event, Event::Store { .. })));
}

/// Giving a page away is one exchange: it is marked, or it is mapped as before. Here the frames for it are missing.
#[test]
pub fn b26_a_mark_that_cannot_be_set_changes_nothing() {
    for size in [PAGE, 3 * PAGE] {
        let table = table();
        let view = table.handle();
        map(&view, BASE, BLOCK, Prot::RW, REPLACE).unwrap();
        table.memory().set_quota(Some(root_frames(&table) + 1));
        log(&table);
        for ipa in [BASE + PAGE, GIB] {
            let refused = view.annotate(Ipa::new(ipa), size, 1);
            assert!(matches!(refused, Err(Error::OutOfFrames { .. })), "{refused:?}");
        }
        let stored = |event: &Event| matches!(event, Event::Store { .. } | Event::Tlbi(_));
        assert!(!log(&table).iter().any(stored));
        assert_eq!(view.stats().annotated, 0);
        assert_eq!(view.lookup(Ipa::new(BASE)).unwrap().level, Level::L2);
        assert!(writable(&view, BASE + PAGE));
        audit(&table);
        table.memory().set_quota(None);
        view.annotate(Ipa::new(BASE + PAGE), size, 1).unwrap();
        assert_eq!(view.stats().annotated, size / PAGE);
        assert!(output(&view, BASE + PAGE).is_none() && writable(&view, BASE));
    }
}

/// A table with one mark and one page; then blocks, in every way that a block is mapped.
#[test]
pub fn b31_a_block_does_not_drop_the_marks_below_it() {
    for existing in [Existing::Replace, Existing::Keep, Existing::Error] {
        for marked in [BASE, BASE + 77 * PAGE, BASE + BLOCK - PAGE] {
            let table = table();
            let view = table.handle();
            map(&view, BASE + 5 * PAGE, PAGE, Prot::RW, PAGES).unwrap();
            view.annotate(Ipa::new(marked), PAGE, 1).unwrap();
            let options = MapOptions {
                existing,
                over_tables: true,
                ..MapOptions::FAULT
            };
            let done = map(&view, BASE, BLOCK, Prot::RW, options);
            assert!(
                matches!(done, Err(Error::Conflict { .. })),
                "{existing:?} {marked:#x}: {done:?}"
            );
            let found = view.lookup(Ipa::new(marked)).unwrap();
            assert_eq!(found.pte.kind(found.level), EntryKind::Annotated(1));
            assert_eq!(view.collapse(Ipa::new(BASE), BLOCK), Ok(0));
            assert_eq!(view.stats().annotated, 1);
            audit(&table);
        }
    }
}
