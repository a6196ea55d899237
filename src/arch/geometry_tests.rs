use super::*;
use crate::arch::{Ipa, Pa};

/// IPA bits, then start level / levels / root frames for 4K, 16K, 64K, as KVM picks them.
/// Start level, levels, root frames.
type Expected = (i8, u32, u32);
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

#[test]
fn start_level_and_root_as_kvm_picks_them() {
    for (ipa_bits, shapes) in KVM_SHAPES {
        for (granule, (start, levels, frames)) in Granule::ALL.into_iter().zip(shapes) {
            let g = Geometry::new(options(granule, ipa_bits)).unwrap();
            let got = (g.start_level().get(), g.levels(), g.root_frames());
            assert_eq!(got, (start, levels, frames), "{granule} {ipa_bits}");
        }
    }
}

#[test]
fn largest_leaf_needs_alignment_of_both_and_room() {
    let g = Geometry::new(GeometryOptions::default()).unwrap();
    let leaf = |ipa, pa, size| g.largest_leaf(Ipa::new(ipa), Pa::new(pa), size).get();
    assert_eq!(leaf(0x4000_0000, 0x8000_0000, 1 << 30), 1);
    assert_eq!(leaf(0x4000_0000, 0x8000_0000, (1 << 30) - 0x1000), 2);
    assert_eq!(leaf(0x4000_0000, 0x8020_0000, 1 << 30), 2);
    assert_eq!(leaf(0x4020_0000, 0x8000_0000, 1 << 30), 2);
    assert_eq!(leaf(0x4020_0000, 0x8000_1000, 1 << 30), 3);
    assert_eq!(leaf(0, 0, u64::MAX), 1);
    assert_eq!(leaf(0, 0, 0), 3);
}
