use super::*;
use crate::arch::{GeometryOptions, Granule, Level};

fn geometry(granule: Granule, ipa_bits: u8, pa_bits: u8, start_level: Option<Level>) -> Geometry {
    let lpa2 = granule != Granule::K64 && (ipa_bits > 48 || pa_bits > 48);
    Geometry::new(GeometryOptions {
        granule,
        ipa_bits,
        pa_bits,
        lpa2,
        start_level,
        ..Default::default()
    })
    .unwrap()
}

/// Alignment exponent: IPA bits minus levels times stride, at least 6 with 52-bit addresses.
#[test]
fn alignment_is_that_of_the_root_in_use() {
    let cases = [
        (geometry(Granule::K4, 40, 48, None), 13),
        (geometry(Granule::K4, 44, 48, None), 8),
        (geometry(Granule::K4, 48, 48, None), 12),
        (geometry(Granule::K4, 32, 48, None), 14),
        (geometry(Granule::K4, 40, 48, Some(Level::L0)), 4),
        (geometry(Granule::K4, 40, 52, Some(Level::L0)), 6),
        (geometry(Granule::K4, 52, 52, None), 16),
        (geometry(Granule::K4, 49, 52, Some(Level::LM1)), 6),
        (geometry(Granule::K16, 40, 48, None), 18),
        (geometry(Granule::K64, 52, 52, None), 13),
    ];
    for (g, exponent) in cases {
        assert_eq!(Vttbr::root_alignment(&g), 1 << exponent, "{g:?}");
    }
}

#[test]
fn wide_roots_put_their_top_bits_low() {
    let g = geometry(Granule::K64, 48, 52, None);
    let root = Pa::new(0xa_1234_5678_0000);
    let vttbr = Vttbr::build(0xffff, root, true, &g).unwrap();
    assert_eq!(vttbr.raw(), 0xffff_1234_5678_0000 | 0xa << 2 | 1);
    assert_eq!((vttbr.baddr(&g), vttbr.vmid(), vttbr.cnp()), (root, 0xffff, true));
}

#[test]
fn every_aligned_root_survives() {
    for (g, top) in [
        (geometry(Granule::K4, 40, 48, None), 48),
        (geometry(Granule::K4, 52, 52, None), 52),
    ] {
        let align = Vttbr::root_alignment(&g);
        for at in align.trailing_zeros()..top {
            let root = Pa::new(1 << at);
            for cnp in [false, true] {
                let vttbr = Vttbr::build(1, root, cnp, &g).unwrap();
                assert_eq!((vttbr.baddr(&g), vttbr.cnp(), vttbr.vmid()), (root, cnp, 1));
            }
        }
        for at in 0..align.trailing_zeros() {
            let root = Pa::new(1 << at);
            let refused = VttbrError::Alignment { root, required: align };
            assert_eq!(Vttbr::build(1, root, false, &g), Err(refused));
        }
        let beyond = Pa::new(1 << top);
        assert_eq!(
            Vttbr::build(1, beyond, false, &g),
            Err(VttbrError::Address {
                root: beyond,
                limit: 1 << top
            })
        );
    }
}

/// Pairs of VTCR and VTTBR of real guests, and the root that was found by walking.
#[test]
fn reads_registers_of_real_guests() {
    let guests = [
        (0x1802eb590, 0x0001_0000_48fd_8001, 0x48fd_8000, 1, true),
        (0x1802eb558, 0x0001_0000_6e50_0001, 0x6e50_0000, 1, true),
        (0x1802e3590, 0x0001_0000_4686_f001, 0x4686_f000, 1, true),
        (0x1802e358c, 0x0000_0000_7f71_0001, 0x7f71_0000, 0, true),
        (0x802a3558, 0x0001_0000_414d_a000, 0x414d_a000, 1, false),
        (0x1802e355c, 0x0001_0000_4161_b000, 0x4161_b000, 1, false),
    ];
    for (vtcr, raw, root, vmid, cnp) in guests {
        let (vtcr, vttbr) = (Vtcr::new(vtcr), Vttbr::new(raw));
        let g = vtcr.geometry().unwrap();
        vttbr.validate(vtcr, &g).unwrap();
        assert_eq!((vttbr.baddr(&g), vttbr.vmid(), vttbr.cnp()), (Pa::new(root), vmid, cnp));
        assert_eq!(Vttbr::build(vmid, Pa::new(root), cnp, &g), Ok(vttbr));
    }
}

#[test]
fn the_pair_of_registers_is_checked() {
    let vtcr = Vtcr::new(0x8025_3558); // 8-bit VMIDs
    let g = vtcr.geometry().unwrap();
    let error = |raw| Vttbr::new(raw).validate(vtcr, &g).unwrap_err().to_string();
    assert_eq!(
        error(0x0100_0000_4000_0000),
        "VMID 0x100 needs 16 bits, VTCR_EL2.VS = 0 enables 8 (limit 0xff)"
    );
    assert_eq!(error(0x0001_0000_4000_1000), "root 0x40001000 is not aligned to 0x2000");
    let small = Vtcr::new(0x8022_3558); // 40-bit PA
    let error = Vttbr::new(0x0001_0100_0000_0000)
        .validate(small, &small.geometry().unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "root 0x10000000000 is beyond the physical address limit 0x10000000000"
    );
}
