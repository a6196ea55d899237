//! Permissions, memory types, access flags, and the cache maintenance that they need.

use s2pt::arch::{Attrs, CacheOp, GeometryOptions, Ipa, Level, MemType, Pa, Prot};
use s2pt::table::{Error, Event, Stage2};

use crate::support::*;

/// Bytes whose instructions were invalidated.
fn instructions(log: &[Event]) -> Vec<u64> {
    let sizes = log.iter().filter_map(|event| match event {
        Event::Cache(CacheOp::InstructionInvalidate { size, .. }) => Some(*size),
        _ => None,
    });
    sizes.collect()
}

#[test]
pub fn b08_changing_nothing_is_an_error_on_a_hole_and_no_maintenance_elsewhere() {
    let table = table();
    let view = table.handle();
    map(&view, BASE, PAGE, Prot::RW, PAGES).unwrap();
    let hole = Ipa::new(BASE + PAGE);
    log(&table);
    assert!(matches!(view.relax(hole, PAGE, Prot::R), Err(Error::NotMapped { .. })));
    assert!(matches!(
        view.protect(hole, PAGE, Prot::R),
        Err(Error::NotMapped { .. })
    ));
    assert!(matches!(view.mark_young(hole, PAGE), Err(Error::NotMapped { .. })));
    assert_eq!(view.write_protect(hole, PAGE).map(|changed| changed.leaves), Ok(0));
    assert_eq!(view.test_and_clear_young(hole, PAGE, true), Ok(false));
    assert_eq!(
        view.mark_young(Ipa::new(BASE), PAGE).unwrap().leaves,
        0,
        "young already"
    );
    assert_eq!(view.protect(Ipa::new(BASE), PAGE, Prot::RW).unwrap().leaves, 0);
    assert_eq!(log(&table), [], "nothing was stored, and nothing waited for");
}

#[test]
pub fn b12_ageing_looks_at_every_page_of_an_odd_range() {
    let table = table();
    let view = table.handle();
    let ipa = Ipa::new(BASE + 509 * PAGE); // five pages in two tables
    map(&view, ipa.get(), 5 * PAGE, Prot::RW, PAGES).unwrap();
    for young in 0..5 {
        view.test_and_clear_young(ipa, 5 * PAGE, true).unwrap();
        assert_eq!(view.test_young(ipa, 5 * PAGE), Ok(false));
        view.mark_young(Ipa::new(ipa.get() + young * PAGE), PAGE).unwrap();
        assert_eq!(view.test_young(ipa, 5 * PAGE), Ok(true), "page {young} is young");
        assert_eq!(
            view.test_and_clear_young(ipa, 5 * PAGE, false),
            Ok(true),
            "page {young} is young"
        );
        assert_eq!(view.test_young(ipa, 5 * PAGE), Ok(false), "page {young} was aged");
    }
}

#[test]
pub fn b24_each_half_of_execute_invalidates_instructions() {
    for prot in [Prot::PX, Prot::UX, Prot::X] {
        let table = table_with(GeometryOptions::default(), |config| config.xnx = true);
        let view = table.handle();
        log(&table);
        map(&view, BASE, PAGE, Prot::R | prot, PAGES).unwrap();
        assert_eq!(instructions(&log(&table)), [PAGE], "mapped {prot}");
        map(&view, BASE + PAGE, 3 * PAGE, Prot::R, PAGES).unwrap();
        assert!(instructions(&log(&table)).is_empty(), "mapped without");
        view.relax(Ipa::new(BASE + PAGE), PAGE, prot).unwrap();
        assert_eq!(instructions(&log(&table)), [PAGE], "relaxed to {prot}");
        view.protect(Ipa::new(BASE + 2 * PAGE), PAGE, Prot::R | prot).unwrap();
        assert_eq!(instructions(&log(&table)), [PAGE], "protected to {prot}");
        map(&view, BASE + 3 * PAGE, PAGE, Prot::R | prot, REPLACE).unwrap();
        assert_eq!(instructions(&log(&table)), [PAGE], "mapped again with {prot}");
    }
}

/// 64 vCPUs fault on one block for execution. Who finds it executable already does no cache maintenance; those who look
/// in the same moment do it each, since nobody waits here.
#[test]
pub fn b25_a_block_that_is_executable_already_is_not_invalidated_again() {
    let table = table();
    let view = table.handle();
    map(&view, GIB, GIB, Prot::RW, REPLACE).unwrap();
    log(&table);
    for _ in 0..64 {
        view.relax(Ipa::new(GIB), GIB, Prot::X).unwrap();
    }
    assert_eq!(instructions(&log(&table)), [GIB]);
    view.protect(Ipa::new(GIB), GIB, Prot::RX).unwrap();
    view.relax(Ipa::new(GIB), GIB, Prot::W).unwrap();
    assert!(instructions(&log(&table)).is_empty(), "another right comes and goes");
}

#[test]
pub fn b29_a_block_that_is_cut_keeps_its_memory_type() {
    type Cut = fn(&s2pt::table::Handle<'_, s2pt::memory::Arena, Sink>);
    let cuts: [Cut; 5] = [
        |view| ok(view.split(Ipa::new(BASE), BLOCK, Level::L3)),
        |view| ok(view.unmap(Ipa::new(BASE + PAGE), PAGE)),
        |view| ok(view.write_protect(Ipa::new(BASE + PAGE), PAGE)),
        |view| ok(view.protect(Ipa::new(BASE + PAGE), PAGE, Prot::W)),
        |view| ok(view.map(Ipa::new(BASE + PAGE), PAGE, Pa::new(0), &Attrs::new(Prot::R), PAGES)),
    ];
    let types = [
        MemType::DeviceNGnRE,
        MemType::DeviceGRE,
        MemType::NormalNc,
        MemType::Normal,
    ];
    for fwb in [false, true] {
        for memtype in types {
            for cut in cuts {
                let table = table_with(GeometryOptions::default(), |config| config.fwb = fwb);
                let view = table.handle();
                let attrs = Attrs {
                    memtype,
                    software: 5,
                    ..Attrs::new(Prot::RW)
                };
                view.map(Ipa::new(BASE), BLOCK, Pa::new(BASE), &attrs, REPLACE).unwrap();
                cut(&view);
                let mut pages = 0;
                for leaf in view.leaves(Ipa::new(BASE), BLOCK).unwrap() {
                    assert_eq!(leaf.level, Level::L3);
                    if leaf.ipa.get() != BASE + PAGE {
                        assert_eq!((leaf.attrs.memtype, leaf.attrs.software), (memtype, 5), "{leaf:?}");
                        assert_eq!((leaf.attrs.prot, leaf.pa.get()), (Prot::RW, leaf.ipa.get()));
                        pages += 1;
                    }
                }
                assert_eq!(pages, 511);
            }
        }
    }
}

#[test]
pub fn b32_relaxing_makes_no_device_executable() {
    for memtype in [MemType::DeviceNGnRnE, MemType::DeviceNGnRE, MemType::NormalNc] {
        for size in [PAGE, BLOCK] {
            let table = table();
            let view = table.handle();
            let attrs = Attrs {
                memtype,
                ..Attrs::new(Prot::R)
            };
            let ipa = Ipa::new(BASE);
            map(&view, BASE - BLOCK, BLOCK, Prot::R, REPLACE).unwrap(); // normal memory before it
            view.map(ipa, size, Pa::new(0), &attrs, REPLACE).unwrap();
            log(&table);
            let refused = |result: Result<_, Error>| matches!(result, Err(Error::Attrs { .. }));
            assert!(refused(view.relax(ipa, size, Prot::X).map(drop)));
            assert!(refused(view.relax(ipa, size, Prot::RWX).map(drop)));
            assert!(refused(view.protect(ipa, size, Prot::RX).map(drop)));
            assert!(refused(
                view.relax(Ipa::new(BASE - BLOCK), BLOCK + size, Prot::X).map(drop)
            ));
            assert_eq!(log(&table), [], "and nothing was changed");
            assert!(executable_nowhere(&table));
            view.relax(ipa, size, Prot::W).unwrap();
        }
    }
}

fn executable_nowhere(table: &Stage2<s2pt::memory::Arena, Sink>) -> bool {
    let view = table.handle();
    let mut leaves = view.leaves(Ipa::new(0), 1 << 40).unwrap();
    leaves.all(|leaf| !leaf.attrs.prot.intersects(Prot::X))
}
