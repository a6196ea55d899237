use super::*;

fn geometry(granule: Granule, ipa_bits: u8, pa_bits: u8) -> Geometry {
    let lpa2 = granule != Granule::K64 && (ipa_bits > 48 || pa_bits > 48);
    Geometry::new(GeometryOptions {
        granule,
        ipa_bits,
        pa_bits,
        lpa2,
        ..Default::default()
    })
    .unwrap()
}

/// What KVM writes on a CPU with 16-bit VMIDs and hardware access flag: granule, IPA bits, PA bits, value.
const KVM: [(Granule, u8, u8, u64); 21] = [
    (Granule::K4, 32, 48, 0x802d3520),
    (Granule::K4, 36, 48, 0x802d355c),
    (Granule::K4, 40, 48, 0x802d3558),
    (Granule::K4, 42, 48, 0x802d3556),
    (Granule::K4, 44, 48, 0x802d3594),
    (Granule::K4, 48, 48, 0x802d3590),
    (Granule::K4, 52, 52, 0x1802e358c),
    (Granule::K16, 32, 48, 0x802db560),
    (Granule::K16, 36, 48, 0x802db55c),
    (Granule::K16, 40, 48, 0x802db558),
    (Granule::K16, 42, 48, 0x802db596),
    (Granule::K16, 44, 48, 0x802db594),
    (Granule::K16, 48, 48, 0x802db590),
    (Granule::K16, 52, 52, 0x1802eb5cc),
    (Granule::K64, 32, 52, 0x802e7560),
    (Granule::K64, 36, 52, 0x802e755c),
    (Granule::K64, 40, 52, 0x802e7558),
    (Granule::K64, 42, 52, 0x802e7556),
    (Granule::K64, 44, 52, 0x802e7554),
    (Granule::K64, 48, 52, 0x802e7590),
    (Granule::K64, 52, 52, 0x802e758c),
];

#[test]
fn builds_what_kvm_writes_and_reads_it_back() {
    for (granule, ipa_bits, pa_bits, raw) in KVM {
        let g = geometry(granule, ipa_bits, pa_bits);
        let vtcr = Vtcr::build(&g, VtcrOptions::default());
        assert_eq!(vtcr.raw(), raw, "{granule} {ipa_bits}: {vtcr} is not {raw:#x}");
        assert_eq!(vtcr.geometry().unwrap(), g);
        vtcr.validate().unwrap();
    }
}

/// Registers of real guests: value, granule, IPA bits, start level, root entries, PA bits.
const GUESTS: [(u64, Granule, u8, i8, usize, u8); 8] = [
    (0x1802eb590, Granule::K16, 48, 1, 4096, 52),
    (0x1802eb558, Granule::K16, 40, 2, 32768, 52),
    (0x1802e3590, Granule::K4, 48, 0, 512, 52),
    (0x1802e358c, Granule::K4, 52, 0, 8192, 52),
    (0x802a3558, Granule::K4, 40, 1, 1024, 40),
    (0x1802e355c, Granule::K4, 36, 1, 64, 52),
    (0x1802e3558, Granule::K4, 40, 1, 1024, 52),
    (0x802d3590, Granule::K4, 48, 0, 512, 48),
];

#[test]
fn reads_registers_of_real_guests() {
    for (raw, granule, ipa_bits, start, entries, pa_bits) in GUESTS {
        let vtcr = Vtcr::new(raw);
        vtcr.validate().unwrap();
        let g = vtcr.geometry().unwrap();
        let got = (
            g.granule(),
            g.ipa_bits(),
            g.start_level().get(),
            g.entries(g.start_level()),
            g.pa_bits(),
        );
        assert_eq!(got, (granule, ipa_bits, start, entries, pa_bits), "{raw:#x}");
        assert_eq!(Vtcr::build(&g, VtcrOptions::default()), vtcr);
    }
}

/// Values that an independent MMU was seen to walk with: value, granule, IPA bits, start level, root frames.
const WALKED: [(u64, Granule, u8, i8, u32); 12] = [
    (0x80023559, Granule::K4, 39, 1, 1),
    (0x80023558, Granule::K4, 40, 1, 2),
    (0x80043594, Granule::K4, 44, 0, 1),
    (0x80053590, Granule::K4, 48, 0, 1),
    (0x38006350c, Granule::K4, 52, -1, 1),
    (0x18006358c, Granule::K4, 52, 0, 16),
    (0x8002b558, Granule::K16, 40, 2, 16),
    (0x8005b590, Granule::K16, 48, 1, 2),
    (0x18006b5cc, Granule::K16, 52, 0, 1),
    (0x80027558, Granule::K64, 40, 2, 1),
    (0x80057590, Granule::K64, 48, 1, 1),
    (0x8006758c, Granule::K64, 52, 1, 1),
];

#[test]
fn reads_values_that_hardware_models_walk_with() {
    for (raw, granule, ipa_bits, start, frames) in WALKED {
        let g = Vtcr::new(raw).geometry().unwrap();
        let got = (g.granule(), g.ipa_bits(), g.start_level().get(), g.root_frames());
        assert_eq!(got, (granule, ipa_bits, start, frames), "{raw:#x}");
        let again = Vtcr::build(
            &g,
            VtcrOptions {
                vmid16: false,
                ha: false,
                hd: false,
            },
        );
        assert_eq!(again.raw(), raw);
    }
}

#[test]
fn every_geometry_survives_the_register() {
    let mut seen = 0;
    for granule in Granule::ALL {
        for ipa_bits in 32..=52 {
            for pa_bits in PA_BITS {
                for start_level in Level::ALL {
                    for lpa2 in [false, true] {
                        let start_level = Some(start_level);
                        let blocks = BlockRule::Architecture;
                        let options = GeometryOptions {
                            granule,
                            ipa_bits,
                            pa_bits,
                            start_level,
                            lpa2,
                            blocks,
                        };
                        let Ok(g) = Geometry::new(options) else { continue };
                        seen += 1;
                        for hd in [false, true] {
                            let vtcr = Vtcr::build(
                                &g,
                                VtcrOptions {
                                    vmid16: hd,
                                    ha: false,
                                    hd,
                                },
                            );
                            assert_eq!(vtcr.geometry(), Ok(g), "{options:?}");
                            vtcr.validate().unwrap();
                            assert_eq!((vtcr.ipa_bits(), vtcr.pa_bits()), (ipa_bits, Ok(pa_bits)));
                            assert_eq!(vtcr.vmid_bits(), if hd { 16 } else { 8 });
                        }
                    }
                }
            }
        }
    }
    assert!(seen > 800, "only {seen} geometries exist");
}

/// Every value of the fields that shape a table is either refused or rebuilt bit for bit.
#[test]
fn every_shape_field_value_is_refused_or_understood() {
    let fixed = 0x8000_3500;
    let mut understood = 0;
    for bits in 0..1u64 << 15 {
        let (t0sz, sl0, tg0, ps) = (bits & 0x3f, bits >> 6 & 3, bits >> 8 & 3, bits >> 10 & 7);
        let raw = fixed | t0sz | sl0 << 6 | tg0 << 14 | ps << 16 | (bits >> 13 & 3) << DS;
        let vtcr = Vtcr::new(raw);
        let Ok(g) = vtcr.geometry() else {
            assert!(vtcr.validate().is_err(), "{vtcr} is refused and valid");
            continue;
        };
        if vtcr.validate().is_err() {
            // A field is reserved beside the others: a walk ignores it.
            let ds = bit(raw, DS) && tg0 != 1;
            let ignored = bit(raw, DS) != ds || bit(raw, SL2) && !(ds && tg0 == 0);
            assert!(ignored, "{vtcr}: {:?}", vtcr.validate());
            assert_eq!(vtcr.in_effect().geometry(), Ok(g));
            continue;
        }
        understood += 1;
        let again = Vtcr::build(
            &g,
            VtcrOptions {
                vmid16: false,
                ha: false,
                hd: false,
            },
        )
        .raw();
        // PS = 6 without 52-bit descriptors reads as 5.
        let clamped = ps == 6 && tg0 != 1 && !bit(raw, DS);
        assert_eq!(again, if clamped { raw - (1 << 16) } else { raw });
    }
    assert!(understood > 900, "only {understood} shapes understood");
}

/// Tables that are only walked: below 32 bits, and a root of pages.
#[test]
fn small_tables_are_understood() {
    for (raw, granule, start, ipa_bits, frames) in [
        (0x802d_3561, Granule::K4, Level::L1, 31, 1),
        (0x802d_35e7, Granule::K4, Level::L3, 25, 16),
        (0x802d_35f0, Granule::K4, Level::L3, 16, 1),
        (0x802d_b523, Granule::K16, Level::L3, 29, 16),
        (0x802d_7520, Granule::K64, Level::L3, 32, 8),
    ] {
        let vtcr = Vtcr::new(raw);
        let shape = vtcr.geometry().unwrap();
        assert_eq!(
            (
                shape.granule(),
                shape.start_level(),
                shape.ipa_bits(),
                shape.root_frames()
            ),
            (granule, start, ipa_bits, frames)
        );
        assert_eq!(Vtcr::build(&shape, VtcrOptions::default()), vtcr);
        assert!(
            Geometry::new(GeometryOptions {
                granule,
                ipa_bits,
                start_level: Some(start),
                ..Default::default()
            })
            .is_err()
        );
    }
}

#[test]
fn names_the_rule_that_failed() {
    let cases = [
        (0x802d_f558, "TG0 = 3 is no granule"),
        (0x802f_3558, "PS = 7 is no physical address size (limit 6)"),
        (0x802d_350b, "T0SZ = 11 is an IPA size of 53 bits (limit 52)"),
        (0x802d_3588, "T0SZ = 8 is an IPA size of 56 bits (limit 52)"),
        (
            0x802d_b5d0,
            "SL0 = 3 with SL2 = 0 is reserved for the 16KiB granule without DS",
        ),
        (
            0x2_802d_3510,
            "SL0 = 0 with SL2 = 1 is reserved for the 4KiB granule without DS",
        ),
        (0x3_802d_3550, "SL0 = 1 with SL2 = 1 is reserved for the 4KiB granule"),
        (
            0x802d_75d0,
            "SL0 = 3 with SL2 = 0 is reserved for the 64KiB granule without DS",
        ),
        (0x1_802d_7590, "DS = 1 with the 64KiB granule, which has no LPA2 format"),
        (0x40_802d_3558, "D128 = 1: descriptors of that format are not supported"),
        (
            0x10_802d_3558,
            "S2PIE = 1: descriptors of that format are not supported",
        ),
        (
            0x20_802d_3558,
            "S2POE = 1: descriptors of that format are not supported",
        ),
        (
            0x802d_358c,
            "T0SZ = 12, SL0 = 2: IPA size of 52 bits needs LPA2 with the 4KiB granule (limit 48)",
        ),
        (
            0x802d_359d,
            "T0SZ = 29, SL0 = 2: start level 0 with the 4KiB granule spans 40..=52 IPA bits, not 35: the root \
             resolves 1 bit to a table plus 4 bits of concatenation",
        ),
        (
            0x802d_35f1,
            "T0SZ = 49, SL0 = 3: IPA size of 15 bits is outside 16..=52",
        ),
        (
            0x802d_7530,
            "T0SZ = 48, SL0 = 0: IPA size of 16 bits is outside 17..=52",
        ),
        (0x804d_3558, "HD = 1 needs HA = 1"),
        (0x2d_3558, "bit 31 (RES1) is 0"),
        (0x803d_3558, "reserved bits 0x100000 are set"),
        (0x8000_0000_802d_3558, "reserved bits 0x8000000000000000 are set"),
    ];
    for (raw, message) in cases {
        assert_eq!(Vtcr::new(raw).validate().unwrap_err().to_string(), message, "{raw:#x}");
    }
}

#[test]
fn nested_rules_are_narrower() {
    let vtcr = |granule: Granule, start: i8, ipa_bits: u64| {
        let (tg0, base) = match granule {
            Granule::K4 => (0, 2),
            Granule::K64 => (1, 3),
            Granule::K16 => (2, 3),
        };
        Vtcr::new((64 - ipa_bits) | ((base - start) as u64) << 6 | tg0 << 14 | 5 << 16 | 1 << RES1)
    };
    // Granule, start level, first and last IPA size that KVM's nested walk takes.
    let table = [
        (Granule::K4, 0, 43, 48),
        (Granule::K4, 1, 31, 43),
        (Granule::K4, 2, 25, 34),
        (Granule::K16, 1, 41, 48),
        (Granule::K16, 2, 26, 40),
        (Granule::K64, 1, 43, 48),
        (Granule::K64, 2, 30, 46),
    ];
    for (granule, start, first, last) in table {
        for bits in 20..=52 {
            let ok = vtcr(granule, start, bits).validate_nested().is_ok();
            assert_eq!(ok, (first..=last).contains(&bits), "{granule} start {start} IPA {bits}");
        }
    }
    assert!(vtcr(Granule::K64, 0, 48).validate_nested().is_err());
    assert!(Vtcr::new(0x1_8006_b5d0).validate_nested().is_err(), "16K level 0");
}

#[test]
fn all_bits_are_told_apart() {
    for at in 0..64 {
        let zero = Vtcr::new(0).decode();
        assert_ne!(Vtcr::new(1 << at).decode(), zero, "bit {at} is in no field");
    }
    let f = Vtcr::new(0x802d_3558).decode();
    assert_eq!(
        (f.t0sz, f.sl0, f.irgn0, f.orgn0, f.sh0, f.tg0, f.ps),
        (24, 1, 1, 1, 3, 0, 5)
    );
    assert!(f.vs && f.ha && !f.hd && f.res1 && !f.ds && !f.sl2 && f.res0 == 0);
}
