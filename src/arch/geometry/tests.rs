extern crate std;
use std::{string::ToString, vec::Vec};

use super::*;
use crate::arch::{Ipa, Pa};

/// Start level, levels, root frames.
type Expected = (i8, u32, u32);

/// IPA bits, then the shape with 4K, 16K, 64K, as KVM picks it.
const KVM_SHAPES: [(u8, [Expected; 3]); 14] = [
    (32, [(2, 2, 4), (2, 2, 1), (2, 2, 1)]),
    (34, [(2, 2, 16), (2, 2, 1), (2, 2, 1)]),
    (36, [(1, 3, 1), (2, 2, 1), (2, 2, 1)]),
    (39, [(1, 3, 1), (2, 2, 8), (2, 2, 1)]),
    (40, [(1, 3, 2), (2, 2, 16), (2, 2, 1)]),
    (42, [(1, 3, 8), (1, 3, 1), (2, 2, 1)]),
    (43, [(1, 3, 16), (1, 3, 1), (2, 2, 2)]),
    (44, [(0, 4, 1), (1, 3, 1), (2, 2, 4)]),
    (46, [(0, 4, 1), (1, 3, 1), (2, 2, 16)]),
    (47, [(0, 4, 1), (1, 3, 1), (1, 3, 1)]),
    (48, [(0, 4, 1), (1, 3, 2), (1, 3, 1)]),
    (49, [(0, 4, 2), (1, 3, 4), (1, 3, 1)]),
    (51, [(0, 4, 8), (1, 3, 16), (1, 3, 1)]),
    (52, [(0, 4, 16), (0, 4, 1), (1, 3, 1)]),
];

fn options(granule: Granule, ipa_bits: u8) -> GeometryOptions {
    let lpa2 = ipa_bits > 48 && granule != Granule::K64;
    GeometryOptions {
        granule,
        ipa_bits,
        lpa2,
        ..Default::default()
    }
}

/// Every shape that exists.
fn all() -> impl Iterator<Item = Geometry> {
    let choices = Granule::ALL.into_iter().flat_map(|granule| {
        (32..=52).flat_map(move |ipa_bits| {
            [
                None,
                Some(Level::LM1),
                Some(Level::L0),
                Some(Level::L1),
                Some(Level::L2),
            ]
            .into_iter()
            .flat_map(move |start_level| {
                [(false, 48), (false, 52), (true, 48), (true, 52)]
                    .into_iter()
                    .flat_map(move |(lpa2, pa_bits)| {
                        [BlockRule::Architecture, BlockRule::Kvm].map(|blocks| GeometryOptions {
                            granule,
                            ipa_bits,
                            pa_bits,
                            start_level,
                            lpa2,
                            blocks,
                        })
                    })
            })
        })
    });
    choices.filter_map(|options| Geometry::new(options).ok())
}

#[test]
fn start_level_and_root_as_kvm_picks_them() {
    for (ipa_bits, shapes) in KVM_SHAPES {
        for (granule, (start, levels, frames)) in Granule::ALL.into_iter().zip(shapes) {
            let g = Geometry::new(options(granule, ipa_bits)).unwrap();
            let got = (g.start_level().get(), g.levels(), g.root_frames());
            assert_eq!(got, (start, levels, frames), "{granule} {ipa_bits}");
            assert_eq!(g.root_size(), u64::from(frames) * granule.size());
        }
    }
}

/// KVM's rule: floor((n - 4) / stride) levels for n = IPA bits - 4, at least two.
#[test]
fn default_start_follows_the_rule_for_every_size() {
    for granule in Granule::ALL {
        for ipa_bits in 32..=52 {
            let g = Geometry::new(options(granule, ipa_bits)).unwrap();
            let levels = ((u32::from(ipa_bits) - 8) / granule.stride()).max(2);
            assert_eq!(g.levels(), levels, "{granule} {ipa_bits}");
            let chosen = GeometryOptions {
                start_level: Some(g.start_level()),
                ..options(granule, ipa_bits)
            };
            assert_eq!(Geometry::new(chosen), Ok(g));
        }
    }
}

#[test]
fn sizes_of_entries() {
    let size = |granule, level| Geometry::new(options(granule, 48)).unwrap().size(level);
    assert_eq!(
        Level::ALL.map(|l| size(Granule::K4, l)),
        [1 << 48, 512 << 30, 1 << 30, 2 << 20, 4 << 10]
    );
    assert_eq!(
        Level::ALL[1..]
            .iter()
            .map(|&l| size(Granule::K16, l))
            .collect::<Vec<_>>(),
        [128 << 40, 64 << 30, 32 << 20, 16 << 10]
    );
    assert_eq!(
        Level::ALL[2..]
            .iter()
            .map(|&l| size(Granule::K64, l))
            .collect::<Vec<_>>(),
        [4 << 40, 512 << 20, 64 << 10]
    );
}

/// Levels that may hold leaves: granule, LPA2 or 52-bit addresses, rule, levels.
#[test]
fn block_levels() {
    let table: [(Granule, bool, BlockRule, &[i8]); 12] = [
        (Granule::K4, false, BlockRule::Architecture, &[1, 2, 3]),
        (Granule::K4, true, BlockRule::Architecture, &[0, 1, 2, 3]),
        (Granule::K4, false, BlockRule::Kvm, &[1, 2, 3]),
        (Granule::K4, true, BlockRule::Kvm, &[1, 2, 3]),
        (Granule::K16, false, BlockRule::Architecture, &[2, 3]),
        (Granule::K16, true, BlockRule::Architecture, &[1, 2, 3]),
        (Granule::K16, false, BlockRule::Kvm, &[2, 3]),
        (Granule::K16, true, BlockRule::Kvm, &[2, 3]),
        (Granule::K64, false, BlockRule::Architecture, &[2, 3]),
        (Granule::K64, true, BlockRule::Architecture, &[1, 2, 3]),
        (Granule::K64, false, BlockRule::Kvm, &[2, 3]),
        (Granule::K64, true, BlockRule::Kvm, &[2, 3]),
    ];
    for (granule, wide, blocks, expected) in table {
        let lpa2 = wide && granule != Granule::K64;
        let pa_bits = if wide { 52 } else { 48 };
        let g = Geometry::new(GeometryOptions {
            lpa2,
            pa_bits,
            blocks,
            ..options(granule, 48)
        })
        .unwrap();
        let got: Vec<_> = Level::ALL
            .into_iter()
            .filter(|&l| g.block_allowed(l))
            .map(Level::get)
            .collect();
        assert_eq!(got, expected, "{granule} {wide} {blocks:?}");
    }
    // Never above the root.
    let g = Geometry::new(options(Granule::K4, 32)).unwrap();
    assert!(!g.block_allowed(Level::L1) && g.block_allowed(Level::L2));
}

#[test]
fn indices_of_every_shape_fit_and_rebuild_the_address() {
    let mut shapes = 0;
    for g in all() {
        shapes += 1;
        assert!((1..=16).contains(&g.root_frames()));
        let in_frames = g.root_frames() as usize * (g.granule().size() / 8) as usize;
        assert!(g.entries(g.start_level()) <= in_frames);
        assert!(g.root_frames() == 1 || g.entries(g.start_level()) == in_frames);
        assert_eq!(
            g.entries(g.start_level()) as u64 * g.size(g.start_level()),
            g.ipa_limit()
        );
        let last = g.ipa_limit() - 1;
        for ipa in [0, last, last / 3, last / 5 * 2, 1 << 31].map(Ipa::new) {
            let mut rebuilt = 0;
            for level in Level::ALL.into_iter().filter(|&level| level >= g.start_level()) {
                let index = g.index(ipa, level);
                assert!(index < g.entries(level), "{g:?} {ipa}");
                rebuilt += index as u64 * g.size(level);
                assert_eq!(g.entry_base(ipa, level).get(), rebuilt);
            }
            assert_eq!(rebuilt, ipa.align_down(g.granule().size()).get());
        }
        // Bits above the IPA space never lead outside the root.
        assert_eq!(
            g.index(Ipa::new(u64::MAX), g.start_level()),
            g.entries(g.start_level()) - 1
        );
    }
    assert!(shapes > 500, "only {shapes} shapes");
}

/// The answer, against the definition tried level by level.
#[test]
fn largest_leaf_is_the_first_that_fits() {
    let addresses: Vec<u64> = [
        0,
        1 << 12,
        1 << 16,
        1 << 21,
        1 << 25,
        1 << 29,
        1 << 30,
        1 << 36,
        3 << 39,
        5 << 21,
    ]
    .into();
    for g in all().filter(|g| g.ipa_bits() % 4 == 0) {
        for &ipa in &addresses {
            for &pa in &addresses {
                for size in [
                    0,
                    1,
                    1 << 12,
                    (1 << 21) - 1,
                    1 << 21,
                    1 << 25,
                    1 << 30,
                    (1 << 40) + 1,
                    u64::MAX,
                ] {
                    let (ipa, pa) = (Ipa::new(ipa), Pa::new(pa));
                    let fits = |level: &Level| {
                        let bytes = g.size(*level);
                        g.block_allowed(*level) && bytes <= size && ipa.is_aligned(bytes) && pa.is_aligned(bytes)
                    };
                    let expected = Level::ALL.into_iter().find(fits).unwrap_or(Level::L3);
                    assert_eq!(g.largest_leaf(ipa, pa, size), expected, "{g:?} {ipa} {pa} {size:#x}");
                }
            }
        }
    }
}

#[test]
fn tiny_geometries() {
    for levels in 1..=5 {
        for stride in 1..=3 {
            let g = Geometry::tiny(levels, stride);
            assert_eq!((g.levels(), g.root_frames(), g.granule()), (levels, 1, Granule::K4));
            assert_eq!(g.size(Level::L3), 4096);
            for level in Level::ALL {
                assert_eq!(g.block_allowed(level), level >= g.start_level());
                if level >= g.start_level() {
                    assert_eq!(g.entries(level), 1 << stride);
                }
            }
            assert_eq!(g.ipa_limit(), 4096 << (levels * stride));
            let last = Ipa::new(g.ipa_limit() - 1);
            assert_eq!(g.index(last, g.start_level()), (1 << stride) - 1);
        }
    }
}

#[test]
fn refusals_name_the_value_and_the_limit() {
    let error = |options: GeometryOptions| Geometry::new(options).unwrap_err().to_string();
    let k4 = GeometryOptions::default();
    assert_eq!(
        error(GeometryOptions { ipa_bits: 31, ..k4 }),
        "IPA size of 31 bits is outside 32..=52"
    );
    assert_eq!(
        error(GeometryOptions { ipa_bits: 53, ..k4 }),
        "IPA size of 53 bits is outside 32..=52"
    );
    assert_eq!(
        error(GeometryOptions { ipa_bits: 49, ..k4 }),
        "IPA size of 49 bits needs LPA2 with the 4KiB granule (limit 48)"
    );
    assert_eq!(
        error(GeometryOptions {
            pa_bits: 52,
            granule: Granule::K16,
            ..k4
        }),
        "PA size of 52 bits needs LPA2 with the 16KiB granule (limit 48)"
    );
    assert_eq!(
        error(GeometryOptions { pa_bits: 46, ..k4 }),
        "PA size of 46 bits is none of 32, 36, 40, 42, 44, 48, 52"
    );
    assert_eq!(
        error(GeometryOptions {
            lpa2: true,
            granule: Granule::K64,
            ..k4
        }),
        "LPA2 does not exist for the 64KiB granule (its 52-bit addresses need pa_bits = 52 only)"
    );
    let start = |level, options| {
        error(GeometryOptions {
            start_level: Some(level),
            ..options
        })
    };
    assert_eq!(
        start(Level::L2, k4),
        "start level 2 with the 4KiB granule spans 22..=34 IPA bits, not 40: the root resolves 1 bit to a table plus 4 \
         bits of concatenation"
    );
    assert_eq!(
        start(Level::L3, k4),
        "start level 3 does not exist with the 4KiB granule"
    );
    assert_eq!(
        start(Level::LM1, k4),
        "start level -1 does not exist with the 4KiB granule without LPA2"
    );
    let k16 = options(Granule::K16, 48);
    assert_eq!(
        start(Level::L0, k16),
        "start level 0 does not exist with the 16KiB granule without LPA2"
    );
    assert_eq!(
        start(Level::LM1, k16),
        "start level -1 does not exist with the 16KiB granule"
    );
    assert_eq!(
        start(Level::L0, options(Granule::K64, 48)),
        "start level 0 does not exist with the 64KiB granule"
    );
}

#[test]
fn level_minus_one_roots() {
    for (ipa_bits, entries) in [(49, 2), (50, 4), (51, 8), (52, 16)] {
        let lm1 = GeometryOptions {
            start_level: Some(Level::LM1),
            ..options(Granule::K4, ipa_bits)
        };
        let g = Geometry::new(lm1).unwrap();
        assert_eq!((g.levels(), g.root_frames(), g.entries(Level::LM1)), (5, 1, entries));
        assert!(!g.block_allowed(Level::LM1));
    }
}

/// Copied with every walk: a surprise growth would show in the fault path.
#[test]
fn geometry_stays_small() {
    assert!(size_of::<Geometry>() <= 56, "{}", size_of::<Geometry>());
}
