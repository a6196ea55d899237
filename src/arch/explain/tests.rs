extern crate std;
use std::{string::ToString, vec};

use super::*;
use crate::arch::{Dialect, Esr, Format, FormatOptions, Geometry, GeometryOptions, Granule, Level, Pte, Vtcr, Vttbr};

fn check(rows: &[Field], raw: u64) {
    let sum = rows.iter().fold(0, |sum, row| {
        assert!(row.value <= mask(row.high, row.low) >> row.low);
        assert!(!row.meaning.is_empty(), "{row:?}");
        sum | row.value << row.low
    });
    assert_eq!(sum, raw, "{rows:#?}");
    for pair in rows.windows(2) {
        assert!(pair[0].low > pair[1].high, "{pair:?} overlap or are out of order");
    }
}

/// A cheap generator: the multiplicative one of Knuth, whose upper bits are well mixed.
fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(0x5851_f42d_4c95_7f2d)
        .wrapping_add(0x1405_7b7e_f767_814f);
    *state ^ *state >> 29
}

#[test]
fn rows_add_up_to_any_value() {
    let mut state = 1;
    let mut values = vec![0, u64::MAX, 0x400, 0x4, 1 << 60, 2 << 60 | 0x42, 0x8000_0000_0000_0000];
    values.extend((0..64).map(|at| 1u64 << at));
    values.extend((0..2000).map(|_| random(&mut state)));
    let shapes = [
        (Granule::K4, 40, 48),
        (Granule::K4, 52, 52),
        (Granule::K16, 48, 52),
        (Granule::K64, 48, 52),
    ];
    for &raw in &values {
        check(&explain_vtcr(Vtcr::new(raw)), raw);
        check(&explain_esr(Esr::new(raw)), raw);
        check(
            &explain_esr(Esr::new(raw & !(0x3f << 26) | 0x24 << 26)),
            raw & !(0x3f << 26) | 0x24 << 26,
        );
        check(
            &explain_esr(Esr::new(raw & !(0x3f << 26) | 0x20 << 26)),
            raw & !(0x3f << 26) | 0x20 << 26,
        );
        check(&explain_hpfar(raw), raw);
        check(&explain_vttbr(Vttbr::new(raw), None), raw);
        for (granule, ipa_bits, pa_bits) in shapes {
            let lpa2 = granule != Granule::K64 && pa_bits == 52;
            let options = GeometryOptions {
                granule,
                ipa_bits,
                pa_bits,
                lpa2,
                ..Default::default()
            };
            let g = Geometry::new(options).unwrap();
            check(&explain_vttbr(Vttbr::new(raw), Some(&g)), raw);
            for xnx in [false, true] {
                let format = Format::new(&g, FormatOptions { fwb: xnx, xnx });
                for level in Level::ALL.into_iter().filter(|&level| level >= g.start_level()) {
                    for dialect in [Dialect::Own, Dialect::Kvm6, Dialect::Kvm7] {
                        check(&explain_entry(Pte::from_raw(raw), level, &g, &format, dialect), raw);
                    }
                }
            }
        }
    }
}

fn meanings(rows: &[Field]) -> Vec<String> {
    rows.iter().map(ToString::to_string).collect()
}

#[test]
fn a_block_reads_well() {
    let g = Geometry::new(GeometryOptions::default()).unwrap();
    let format = Format::new(&g, FormatOptions::default());
    let rows = explain_entry(
        Pte::from_raw(0x0440_0000_4020_077d),
        Level::L2,
        &g,
        &format,
        Dialect::Own,
    );
    assert_eq!(
        meanings(&rows),
        [
            "58:55  SW           0x8  software bits SW3..SW0",
            "   54  XN           0x1  not executable",
            "   52  Contiguous   0x0  no contiguous hint",
            "   51  DBM          0x0  write permission is as S2AP says",
            "47:21  OA           0x201  output address 0x40200000",
            "   10  AF           0x1  accessed",
            " 9:8   SH           0x3  inner shareable",
            " 7:6   S2AP         0x1  read only",
            " 5:2   MemAttr      0xf  Normal write-back",
            "    1  type         0x0  block",
            "    0  V            0x1  valid",
        ]
    );
}

#[test]
fn wide_addresses_show_both_parts() {
    let options = GeometryOptions {
        ipa_bits: 52,
        pa_bits: 52,
        lpa2: true,
        ..Default::default()
    };
    let g = Geometry::new(options).unwrap();
    let format = Format::new(&g, FormatOptions::default());
    let rows = explain_entry(
        Pte::from_raw(0x0043_0000_1234_54ff),
        Level::L3,
        &g,
        &format,
        Dialect::Own,
    );
    let address: Vec<_> = rows
        .iter()
        .filter(|row| row.name == "OA")
        .map(|row| (row.high, row.low))
        .collect();
    assert_eq!(address, [(49, 12), (9, 8)]);
    assert!(rows.iter().any(|row| row.meaning == "output address 0x3000012345000"));
    assert!(rows.iter().all(|row| row.name != "SH"));
}

#[test]
fn blocks_where_none_may_be_are_called_invalid() {
    let g = Geometry::new(GeometryOptions {
        ipa_bits: 48,
        ..Default::default()
    })
    .unwrap();
    let format = Format::new(&g, FormatOptions::default());
    let rows = explain_entry(Pte::from_raw(0x7fd), Level::L0, &g, &format, Dialect::Own);
    let row = rows.iter().find(|row| row.name == "type").unwrap();
    assert_eq!(row.meaning, "block, which no 4KiB table has at level 0: invalid");
    let rows = explain_entry(Pte::from_raw(0x7fd), Level::L3, &g, &format, Dialect::Own);
    assert!(rows.iter().any(|row| row.meaning.starts_with("reserved at level 3")));
}

#[test]
fn invalid_entries_by_maker() {
    let g = Geometry::new(GeometryOptions::default()).unwrap();
    let format = Format::new(&g, FormatOptions::default());
    let first = |raw, dialect| explain_entry(Pte::from_raw(raw), Level::L3, &g, &format, dialect)[0].to_string();
    assert_eq!(first(0, Dialect::Own), "63:0   empty        0x0  nothing mapped");
    assert_eq!(
        first(0x400, Dialect::Own),
        "   10  locked       0x1  locked: between break and make"
    );
    assert_eq!(first(0x400, Dialect::Kvm6), first(0x400, Dialect::Own));
    assert_eq!(
        first(1 << 60, Dialect::Kvm7),
        "63:60  type         0x1  locked: between break and make"
    );
    assert_eq!(
        first(2 << 60, Dialect::Kvm7),
        "63:60  type         0x2  donated by the host"
    );
    assert_eq!(first(0x4, Dialect::Kvm6), " 9:2   owner        0x1  owned by 1");
    let frozen = Pte::from_raw(0x0040_0000_4000_07ff).freeze().raw();
    let rows = explain_entry(Pte::from_raw(frozen), Level::L3, &g, &format, Dialect::Own);
    assert!(
        rows.iter().any(|row| row.meaning == "last value 0x400000400007ff"),
        "{rows:?}"
    );
}

#[test]
fn a_syndrome_reads_well() {
    assert_eq!(
        meanings(&explain_esr(Esr::new(0x9381_004f))),
        [
            "31:26  EC           0x24  data abort from a lower exception level",
            "   25  IL           0x1  32-bit instruction, or none described",
            "   24  ISV          0x1  the instruction is described below",
            "23:22  SAS          0x2  access of 4 bytes",
            "   21  SSE          0x0  not sign extended",
            "20:16  SRT          0x1  register w1",
            "   15  SF           0x0  32-bit register",
            "   14  AR           0x0  no acquire or release",
            "    8  CM           0x0  load or store",
            "    7  S1PTW        0x0  the guest's own access",
            "    6  WnR          0x1  write",
            " 5:0   FSC          0xf  permission fault, level 3",
        ]
    );
}

#[test]
fn reserved_register_values_are_named() {
    let rows = explain_vtcr(Vtcr::new(0x803f_f558));
    let row = |name| rows.iter().find(|row| row.name == name).unwrap().meaning.as_str();
    assert_eq!(row("TG0"), "TG0 = 3 is no granule");
    assert_eq!(row("SL0"), "TG0 = 3 is no granule");
    assert_eq!(row("RES0"), "must be 0");
    let rows = explain_vtcr(Vtcr::new(0x3_8006_350c));
    assert_eq!(
        rows.iter().find(|row| row.name == "SL2").unwrap().meaning,
        "walks start at level -1"
    );
}
