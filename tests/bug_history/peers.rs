//! What other page-table libraries and tools got wrong.

use std::sync::Arc;

use s2pt::arch::{
    AccessKind, Attrs, EntryKind, Geometry, GeometryOptions, Granule, Ipa, Level, Pa, Prot, Pte, Scope, Tlbi,
};
use s2pt::table::{Error, Event, Existing};

use crate::inject::{at, fired, is_stage2_tlbi};
use crate::support::*;

#[test]
pub fn p03_nothing_panics_on_a_hole() {
    let table = table();
    let view = table.handle();
    map(&view, BASE + 5 * PAGE, PAGE, Prot::R, PAGES).unwrap();
    for (ipa, size) in [
        (0, PAGE),
        (BASE, PAGE),
        (BASE, 5 * PAGE),
        ((1 << 40) - PAGE, PAGE),
        (GIB, GIB),
    ] {
        let at = Ipa::new(ipa);
        assert!(view.translate(at, AccessKind::Read).is_err());
        assert!(!view.lookup(at).unwrap().pte.is_valid());
        assert_eq!(view.unmap(at, size), Ok(0));
        assert_eq!(view.write_protect(at, size).unwrap().bytes, 0);
        assert!(matches!(view.relax(at, size, Prot::W), Err(Error::NotMapped { .. })));
        assert_eq!(view.split(at, size, Level::L3), Ok(0));
        assert_eq!(view.collapse(at, size), Ok(0));
        assert_eq!(view.test_and_clear_young(at, size, true), Ok(false));
        assert_eq!(view.leaves(at, size).unwrap().count(), 0);
    }
    audit(&table);
}

#[test]
pub fn p04_an_address_above_the_space_is_no_alias_of_a_low_one() {
    let table = table();
    let view = table.handle();
    map(&view, BASE, PAGE, Prot::RW, PAGES).unwrap();
    for bit in 40..64 {
        let high = Ipa::new(1 << bit | BASE);
        assert!(view.lookup(high).is_err(), "{high}");
        assert!(view.translate(high, AccessKind::Read).is_err(), "{high}");
        assert!(view.unmap(high, PAGE).is_err(), "{high}");
        assert!(
            view.map(high, PAGE, Pa::new(0), &Attrs::new(Prot::R), REPLACE).is_err(),
            "{high}"
        );
    }
    assert_eq!(output(&view, BASE), Some(BASE + OFFSET));
}

#[test]
pub fn p05_a_stage_2_change_is_invalidated_in_stage_2() {
    let table = table();
    let view = table.handle();
    map(&view, BASE, PAGE, Prot::RW, PAGES).unwrap();
    for change in 0..3 {
        log(&table);
        match change {
            0 => ok(view.write_protect(Ipa::new(BASE), PAGE)),
            1 => ok(view.relax(Ipa::new(BASE), PAGE, Prot::W)),
            _ => ok(view.unmap(Ipa::new(BASE), PAGE)),
        }
        let log = log(&table);
        assert!(check_order(&log) > 0);
        for tlbi in stage2_tlbis(&log) {
            for op in tlbi.operations(Granule::K4, false) {
                assert!(op.mnemonic.contains("IPAS2E1"), "{op}");
            }
        }
    }
}

#[test]
pub fn p06_the_operand_of_a_tlbi_counts_pages() {
    let (ipa, scope) = (Ipa::new(0x8020_3000), Scope::Broadcast);
    let single = Tlbi::Ipa {
        ipa,
        level: None,
        scope,
    };
    assert_eq!(
        single.operations(Granule::K4, false).next().unwrap().operand,
        Some(0x8_0203)
    );
    let field = (1 << 37) - 1;
    for (granule, lpa2, base) in [
        (Granule::K4, false, 0x8020_3000u64 >> 12),
        (Granule::K16, false, 0x8020_0000 >> 14),
        (Granule::K64, false, 0x8020_0000 >> 16),
        (Granule::K4, true, 0x8020_0000 >> 16),
    ] {
        let ipa = Ipa::new(if granule == Granule::K4 && !lpa2 {
            0x8020_3000
        } else {
            0x8020_0000
        });
        let range = Tlbi::Range {
            ipa,
            pages: 64,
            level: None,
            scope,
        };
        let operand = range.operations(granule, lpa2).next().unwrap().operand.unwrap();
        assert_eq!(operand & field, base, "{granule:?} {lpa2}");
    }
}

#[test]
pub fn p07_an_entry_with_bit_1_alone_is_invalid() {
    for level in Level::ALL {
        for raw in [0b10, 0x4000_0002, 0x0040_0000_8000_07fe] {
            let pte = Pte::from_raw(raw);
            assert!(
                !pte.is_valid() && !pte.is_table(level) && !pte.is_leaf(level),
                "{raw:#x} at {level}"
            );
            assert!(!matches!(pte.kind(level), EntryKind::Table | EntryKind::Leaf));
        }
    }
    // And 0b01 is a block, but not at the last level.
    assert!(Pte::from_raw(0x7fd).is_leaf(Level::L2));
    assert!(!Pte::from_raw(0x7fd).is_leaf(Level::L3));
}

#[test]
pub fn p08_the_upper_bits_of_a_52_bit_address_are_where_the_architecture_has_them() {
    let shape = |granule, lpa2| GeometryOptions {
        granule,
        ipa_bits: 52,
        pa_bits: 52,
        lpa2,
        ..GeometryOptions::default()
    };
    for (options, pa, raw) in [
        (shape(Granule::K4, true), 0x4_0000_1234_5000, 0x0040_0000_1234_55ff),
        (
            shape(Granule::K64, false),
            0xa_0000_1234_0000,
            0x0040_0000_1234_a7ff_u64,
        ),
    ] {
        let table = table_with(options, |_| ());
        let view = table.handle();
        let page = options.granule.size();
        view.map(Ipa::new(1 << 51), page, Pa::new(pa), &Attrs::new(Prot::RW), PAGES)
            .unwrap();
        let found = view.lookup(Ipa::new(1 << 51)).unwrap();
        assert_eq!(found.pte.raw(), raw, "{:#x}", found.pte.raw());
        assert_eq!(output(&view, 1 << 51), Some(pa));
    }
}

#[test]
pub fn p09_levels_are_numbered_from_the_root() {
    let table = table();
    let view = table.handle();
    assert_eq!(table.config().geometry.start_level(), Level::L1);
    map(&view, BASE, PAGE, Prot::R, PAGES).unwrap();
    map(&view, BASE + BLOCK, BLOCK, Prot::R, REPLACE).unwrap();
    map(&view, 8 * GIB, GIB, Prot::R, REPLACE).unwrap();
    for (ipa, level, number) in [
        (BASE, Level::L3, 3),
        (BASE + BLOCK, Level::L2, 2),
        (8 * GIB, Level::L1, 1),
    ] {
        assert_eq!(view.lookup(Ipa::new(ipa)).unwrap().level, level);
        assert_eq!(level.get(), number);
    }
}

#[test]
pub fn p10_no_address_and_no_size_is_rounded() {
    let table = table();
    let view = table.handle();
    let attrs = Attrs::new(Prot::RW);
    log(&table);
    for (ipa, size, pa) in [
        (BASE + 1, PAGE, 0),
        (BASE, PAGE + 1, 0),
        (BASE, 1, 0),
        (BASE, PAGE, 0x800),
    ] {
        let refused = view.map(Ipa::new(ipa), size, Pa::new(pa), &attrs, REPLACE);
        assert!(matches!(refused, Err(Error::Alignment { .. })), "{refused:?}");
    }
    assert!(matches!(
        view.map(Ipa::new(BASE), 0, Pa::new(0), &attrs, REPLACE),
        Err(Error::ZeroSize { .. })
    ));
    assert!(matches!(
        view.unmap(Ipa::new(BASE), 0x1800),
        Err(Error::Alignment { .. })
    ));
    assert!(matches!(
        view.relax(Ipa::new(BASE + 8), PAGE, Prot::X),
        Err(Error::Alignment { .. })
    ));
    assert_eq!(log(&table), []);
}

/// With VS clear, hardware looks at 8 bits of the VMID and two guests share their translations.
#[test]
pub fn p11_wide_vmids_are_switched_on() {
    let table = table_with(GeometryOptions::default(), |config| config.vmid = 0x1ff);
    assert_eq!(table.vttbr().vmid(), 0x1ff);
    assert_eq!(table.vtcr().vmid_bits(), 16);
    let geometry = Geometry::new(GeometryOptions::default()).unwrap();
    assert!(table.vttbr().validate(table.vtcr(), &geometry).is_ok());
    let narrow = s2pt::arch::Vtcr::new(table.vtcr().raw() & !(1 << 19));
    assert!(table.vttbr().validate(narrow, &geometry).is_err());
}

/// While one TLBI is under way, everything that is not under it goes on, in the same table and by handles that wait.
#[test]
pub fn p12_a_stalled_invalidation_holds_up_its_own_range_only() {
    let table = table();
    let view = table.handle();
    map(&view, BASE, 8 * PAGE, Prot::RW, PAGES).unwrap();
    let peer = Arc::clone(&table);
    at(is_stage2_tlbi, move || {
        let peer = peer.handle();
        let beside = BASE + 2 * PAGE;
        assert_eq!(peer.unmap(Ipa::new(beside), PAGE), Ok(PAGE));
        map(&peer, beside, PAGE, Prot::RW, PAGES).unwrap();
        peer.write_protect(Ipa::new(beside), 4 * PAGE).unwrap();
        let options = s2pt::table::MapOptions {
            existing: Existing::Error,
            ..PAGES
        };
        map(&peer, BASE + BLOCK, BLOCK, Prot::RW, options).unwrap();
        assert_eq!(peer.collapse(Ipa::new(BASE + BLOCK), BLOCK), Ok(1));
    });
    view.unmap(Ipa::new(BASE), PAGE).unwrap();
    assert!(fired());
    assert!(!writable(&view, BASE + 2 * PAGE) && writable(&view, BASE + 6 * PAGE));
    assert!(
        log(&table)
            .iter()
            .any(|event| matches!(event, Event::Free { .. } | Event::Retire { .. }))
    );
    audit(&table);
}
