//! Asking for entries ahead changes nothing, whatever the addresses, the shape of the table and what is in it.
#![cfg(all(feature = "std", not(any(loom, shuttle))))]

use s2pt::arch::{AccessKind, Attrs, Geometry, GeometryOptions, Granule, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions, TableMemory};
use s2pt::table::{Config, MapOptions, Null, Stage2};

const SHAPES: [(Granule, u8, bool); 6] = [
    (Granule::K4, 40, false),
    (Granule::K4, 48, false),
    (Granule::K4, 52, true),
    (Granule::K16, 36, false),
    (Granule::K16, 47, false),
    (Granule::K64, 32, false),
];

#[test]
fn nothing_changes() {
    for (granule, ipa_bits, lpa2) in SHAPES {
        let options = GeometryOptions {
            granule,
            ipa_bits,
            lpa2,
            pa_bits: if lpa2 { 52 } else { 48 },
            ..GeometryOptions::default()
        };
        let geometry = Geometry::new(options).unwrap();
        let arena = ArenaOptions {
            granule,
            ..ArenaOptions::default()
        };
        let table = Stage2::new(Config::new(geometry), Arena::new(arena).unwrap(), Null).unwrap();
        let view = table.handle();
        let (page, block) = (geometry.size(Level::L3), geometry.size(Level::L2));
        let map = |ipa, size, largest| {
            let options = MapOptions {
                largest: Some(largest),
                ..MapOptions::default()
            };
            view.map(Ipa::new(ipa), size, Pa::new(ipa), &Attrs::new(Prot::RW), options)
                .unwrap();
        };
        map(0, 3 * page, Level::L3);
        map(block, block, Level::L2);
        map(geometry.ipa_limit() - page, page, Level::L3);
        let end = geometry.ipa_limit();
        let strange = [
            0,
            5,
            page,
            block + 3,
            2 * block,
            end - 1,
            end,
            end + 1,
            1 << 63,
            u64::MAX,
        ];
        let before: Vec<_> = view.leaves(Ipa::new(0), end).unwrap().collect();
        let mut stay = view.stay();
        for _ in 0..2 {
            stay.prefetch(strange.map(Ipa::new));
            stay.prefetch([]);
            stay.prefetch((0..1000).map(|number| Ipa::new(number * (end / 1000) + number)));
            for ipa in [0, page, 2 * page, block, end - 1] {
                let hit = stay.translate(Ipa::new(ipa), AccessKind::Write).unwrap();
                assert_eq!(hit.pa, Pa::new(ipa));
            }
            assert!(stay.translate(Ipa::new(3 * page), AccessKind::Read).is_err());
            stay.repin();
        }
        drop(stay);
        assert_eq!(view.leaves(Ipa::new(0), end).unwrap().collect::<Vec<_>>(), before);
    }
}

#[test]
fn tables_that_others_take_away_are_no_matter() {
    let geometry = Geometry::new(GeometryOptions::default()).unwrap();
    let table = Stage2::new(
        Config::new(geometry),
        Arena::new(ArenaOptions::default()).unwrap(),
        Null,
    )
    .unwrap();
    const BLOCK: u64 = 2 << 20;
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            let view = table.handle();
            for round in 0..2000 {
                let (ipa, pages) = (
                    Ipa::new(round % 8 * BLOCK),
                    MapOptions {
                        largest: Some(Level::L3),
                        ..MapOptions::default()
                    },
                );
                view.map(ipa, BLOCK, Pa::new(0), &Attrs::new(Prot::RW), pages).unwrap();
                assert_eq!(view.collapse(ipa, BLOCK).unwrap(), 1);
                assert_eq!(view.unmap(ipa, BLOCK).unwrap(), BLOCK);
            }
        });
        let view = table.handle();
        let mut stay = view.stay();
        while !changer.is_finished() {
            stay.prefetch((0..64).map(|number| Ipa::new(number % 8 * BLOCK + number * 4096)));
            stay.repin();
        }
    });
    table.handle().drain();
    assert_eq!(table.memory().frames_in_use(), 2);
}
