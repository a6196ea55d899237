extern crate std;
use std::{string::ToString, vec::Vec};

use super::*;
use crate::arch::GeometryOptions;

const MEMTYPES: [MemType; 8] = [
    MemType::DeviceNGnRnE,
    MemType::DeviceNGnRE,
    MemType::DeviceNGRE,
    MemType::DeviceGRE,
    MemType::NormalNc,
    MemType::NormalWt,
    MemType::Normal,
    MemType::AsStage1,
];

fn format(granule: Granule, ipa_bits: u8, pa_bits: u8, options: FormatOptions) -> (Geometry, Format) {
    let lpa2 = granule != Granule::K64 && pa_bits == 52;
    let g = Geometry::new(GeometryOptions {
        granule,
        ipa_bits,
        pa_bits,
        lpa2,
        ..Default::default()
    })
    .unwrap();
    (g, Format::new(&g, options))
}

/// All layouts of an address.
fn layouts(options: FormatOptions) -> [(Geometry, Format); 6] {
    [
        format(Granule::K4, 40, 48, options),
        format(Granule::K16, 40, 48, options),
        format(Granule::K64, 40, 48, options),
        format(Granule::K4, 52, 52, options),
        format(Granule::K16, 52, 52, options),
        format(Granule::K64, 52, 52, options),
    ]
}

const PLAIN: FormatOptions = FormatOptions { fwb: false, xnx: false };
const FWB: FormatOptions = FormatOptions { fwb: true, xnx: false };
const XNX: FormatOptions = FormatOptions { fwb: false, xnx: true };

/// Leaves that KVM wrote: format, level, PA, attributes, value.
#[test]
fn leaves_as_kvm_writes_them() {
    let rw = Attrs::new(Prot::RW);
    let device = Attrs {
        memtype: MemType::DeviceNGnRE,
        ..rw
    };
    let nc_ro = Attrs {
        memtype: MemType::NormalNc,
        ..Attrs::new(Prot::R)
    };
    let all_software = Attrs {
        software: 0xf,
        ..Attrs::new(Prot::RWX)
    };
    let sw03 = Attrs { software: 0b1001, ..rw };
    let plain = format(Granule::K4, 40, 48, PLAIN).1;
    let fwb = format(Granule::K4, 40, 48, FWB).1;
    let lpa2 = format(Granule::K4, 52, 52, PLAIN).1;
    let lpa2_fwb = format(Granule::K4, 52, 52, FWB).1;
    let lpa2_16k = format(Granule::K16, 52, 52, PLAIN).1;
    let wide_64k = format(Granule::K64, 52, 52, PLAIN).1;
    let (page, block) = (Level::L3, Level::L2);
    let table = [
        (plain, page, 0x4000_0000, rw, 0x0040_0000_4000_07ff),
        (plain, block, 0x4000_0000, rw, 0x0040_0000_4000_07fd),
        (plain, block, 0x4000_0000, Attrs::new(Prot::RWX), 0x0000_0000_4000_07fd),
        (plain, page, 0x4000_0000, Attrs::new(Prot::R), 0x0040_0000_4000_077f),
        (plain, page, 0x4000_0000, device, 0x0040_0000_4000_07c7),
        (plain, block, 0x4000_0000, device, 0x0040_0000_4000_07c5),
        (fwb, page, 0x4000_0000, nc_ro, 0x0040_0000_4000_0757),
        (fwb, page, 0x4000_0000, rw, 0x0040_0000_4000_07db),
        (fwb, block, 0x4000_0000, rw, 0x0040_0000_4000_07d9),
        (lpa2, page, 0x4_0000_1234_5000, rw, 0x0040_0000_1234_55ff),
        (lpa2, page, 0x8_0000_1234_5000, rw, 0x0040_0000_1234_56ff),
        (lpa2, page, 0xc_0000_1234_5000, rw, 0x0040_0000_1234_57ff),
        (lpa2, page, 0x1234_5000, rw, 0x0040_0000_1234_54ff),
        (lpa2, page, 0x3_0000_1234_5000, rw, 0x0043_0000_1234_54ff),
        (lpa2_fwb, page, 0x1234_5000, rw, 0x0040_0000_1234_54db),
        (lpa2_16k, page, 0x7_0000_1234_4000, rw, 0x0043_0000_1234_45ff),
        (wide_64k, page, 0xa_0000_1234_0000, rw, 0x0040_0000_1234_a7ff),
        (plain, page, 0x1000, all_software, 0x0780_0000_0000_17ff),
        (plain, page, 0x4000_0000, sw03, 0x04c0_0000_4000_07ff),
        (plain, page, 0x1000, Attrs::new(Prot::NONE), 0x0040_0000_0000_173f),
        (plain, page, 0x1000, Attrs::new(Prot::X), 0x0000_0000_0000_173f),
        (plain, page, 0x1000, Attrs::new(Prot::W), 0x0040_0000_0000_17bf),
    ];
    for (f, level, pa, attrs, raw) in table {
        let pa = Pa::new(pa);
        let leaf = f.leaf(level, pa, &attrs).unwrap();
        assert_eq!(leaf.raw(), raw, "{leaf} is not {raw:#x}");
        assert_eq!((f.output(leaf, level), f.attrs(leaf)), (pa, attrs), "{leaf}");
        assert!(leaf.is_leaf(level));
    }
}

#[test]
fn old_and_dirty_leaves() {
    let f = format(Granule::K4, 40, 48, PLAIN).1;
    let old = Attrs {
        af: false,
        ..Attrs::new(Prot::RW)
    };
    assert_eq!(
        f.leaf(Level::L3, Pa::new(0), &old).unwrap().raw(),
        0x0040_0000_0000_03ff
    );
    let dbm = Attrs {
        dbm: true,
        ..Attrs::new(Prot::R)
    };
    assert_eq!(
        f.leaf(Level::L3, Pa::new(0), &dbm).unwrap().raw(),
        0x0048_0000_0000_077f
    );
    let run = Attrs {
        contiguous: true,
        ..Attrs::new(Prot::R)
    };
    assert_eq!(
        f.leaf(Level::L3, Pa::new(0), &run).unwrap().raw(),
        0x0050_0000_0000_077f
    );
}

/// Bits 54:53 for PX and UX, by the architecture's table of XN[1:0].
#[test]
fn execute_never_bits() {
    let xnx = format(Granule::K4, 40, 48, XNX).1;
    for (prot, bits) in [(Prot::X, 0b00), (Prot::UX, 0b01), (Prot::NONE, 0b10), (Prot::PX, 0b11)] {
        assert_eq!(xnx.prot_bits(prot), bits << 53, "{prot}");
        assert_eq!(xnx.prot(Pte::from_raw(bits << 53)), prot);
    }
    assert_eq!(xnx.perm_mask(), 0b11 << 53 | 0xc0);
    // Without XNX bit 53 does not count, and half a permission is none.
    let plain = format(Granule::K4, 40, 48, PLAIN).1;
    for (raw, prot) in [(0b00, Prot::X), (0b01, Prot::X), (0b10, Prot::NONE), (0b11, Prot::NONE)] {
        assert_eq!(plain.prot(Pte::from_raw(raw << 53)), prot);
    }
    for prot in [Prot::PX, Prot::UX, Prot::NONE] {
        assert_eq!(plain.prot_bits(prot), 1 << 54);
    }
    assert_eq!(plain.prot_bits(Prot::X), 0);
    assert_eq!(plain.perm_mask(), 1 << 54 | 0xc0);
    assert!(xnx.xnx() && !plain.xnx());
}

/// Every combination of attributes is refused or comes back as it was, and touches no address bit.
#[test]
fn every_attribute_survives() {
    for options in [PLAIN, FWB, XNX] {
        for (_, f) in layouts(options) {
            let mut refused = 0;
            let mut kept = 0;
            for bits in 0..1u32 << 12 {
                let memtype = MEMTYPES[bits as usize >> 4 & 7];
                let shareability = Shareability::decode((bits >> 7) as u8);
                let attrs = Attrs {
                    prot: Prot::from_bits_truncate(bits as u8),
                    memtype,
                    shareability,
                    af: bits >> 9 & 1 != 0,
                    dbm: bits >> 10 & 1 != 0,
                    contiguous: bits >> 11 & 1 != 0,
                    software: (bits >> 3) as u8 & 0xf,
                };
                for level in [Level::L1, Level::L2, Level::L3] {
                    match f.attr_bits(level, &attrs) {
                        Ok(raw) => {
                            kept += 1;
                            assert_eq!(raw & f.output_mask(), 0, "{attrs:?}");
                            assert_eq!(f.attrs(Pte::from_raw(raw)), attrs);
                            assert_eq!(raw & f.perm_mask(), f.prot_bits(attrs.prot));
                            assert!(Pte::from_raw(raw).is_leaf(level));
                            assert_eq!(f.af(Pte::from_raw(raw)), attrs.af);
                            assert_eq!(f.memtype(Pte::from_raw(raw)), memtype);
                        }
                        Err(_) => refused += 1,
                    }
                }
            }
            assert!(kept > 300 && refused > 300, "{kept} kept, {refused} refused");
        }
    }
}

/// Every MemAttr value is decoded; what names a type encodes to the same value, the rest is refused.
#[test]
fn every_memory_attribute_value() {
    for fwb in [false, true] {
        let meant: Vec<_> = (0..16)
            .filter(|&v| MemType::decode(v, fwb).encode(fwb) == Some(v))
            .collect();
        let expected: &[u8] = if fwb {
            &[0, 1, 2, 3, 5, 6, 7]
        } else {
            &[0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15]
        };
        assert_eq!(meant, expected);
        for v in 0..16 {
            if !expected.contains(&v) {
                assert_eq!(MemType::decode(v, fwb), MemType::Other(v));
                assert_eq!(MemType::Other(v).encode(fwb), None);
            }
        }
    }
    assert_eq!(MemType::Other(16 + 6).encode(false), None);
    assert_eq!(MemType::Other(0xf).encode(false), None, "another name of a named type");
}

/// Every address bit, by itself and with all others, through leaves of every level and through table entries.
#[test]
fn every_address_survives() {
    for (g, f) in layouts(PLAIN) {
        let attrs = f.attr_bits(Level::L3, &Attrs::new(Prot::RWX)).unwrap();
        let page = g.granule().shift();
        let top = u32::from(g.pa_bits());
        for level in Level::ALL.into_iter().filter(|&level| level >= g.start_level()) {
            let shift = g.shift(level);
            for at in shift..top {
                for pa in [1 << at, ((1 << top) - (1 << shift)) ^ 1 << at] {
                    let entry = Pte::from_raw(attrs | f.output_bits(Pa::new(pa)));
                    assert_eq!(f.output(entry, level), Pa::new(pa), "{g:?} level {level}");
                    assert_eq!(f.attrs(entry), Attrs::new(Prot::RWX));
                    assert_eq!(f.output_bits(Pa::new(pa)) & !f.output_mask(), 0);
                }
            }
        }
        for at in page..top {
            let table = f.table(Pa::new(1 << at));
            assert!(table.is_table(Level::L2));
            assert_eq!(f.next_table(table), Pa::new(1 << at));
        }
        let everything = f.output_bits(Pa::new((1 << top) - (1 << page)));
        assert_eq!(everything & !f.output_mask(), 0);
        assert_eq!(
            f.output_mask().count_ones(),
            f.output_bits(Pa::new(u64::MAX)).count_ones()
        );
    }
}

#[test]
fn where_address_bits_lie() {
    let mask = |granule, pa_bits| format(granule, 40, pa_bits, PLAIN).1.output_mask();
    assert_eq!(mask(Granule::K4, 48), 0x0000_ffff_ffff_f000);
    assert_eq!(mask(Granule::K16, 48), 0x0000_ffff_ffff_c000);
    assert_eq!(mask(Granule::K64, 48), 0x0000_ffff_ffff_0000);
    assert_eq!(mask(Granule::K4, 52), 0x0003_ffff_ffff_f300);
    assert_eq!(mask(Granule::K16, 52), 0x0003_ffff_ffff_c300);
    assert_eq!(mask(Granule::K64, 52), 0x0000_ffff_ffff_f000);
    assert_eq!(
        format(Granule::K4, 40, 48, PLAIN).1.table(Pa::new(0x4000_1000)).raw(),
        0x4000_1003
    );
}

/// The bits of a misaligned block below its size are no part of its address (nT, bit 16, least of all).
#[test]
fn a_block_address_is_truncated_to_its_size() {
    let f = format(Granule::K4, 40, 48, PLAIN).1;
    let block = Pte::from_raw(0x0040_0000_401f_f7fd);
    assert_eq!(f.output(block, Level::L2), Pa::new(0x4000_0000));
    assert_eq!(f.output(block, Level::L1), Pa::new(0x4000_0000));
    assert_eq!(
        f.output(Pte::from_raw(0x0040_0000_401f_f7ff), Level::L3),
        Pa::new(0x401f_f000)
    );
}

#[test]
fn relevel_changes_the_type_bit_only() {
    for (_, f) in layouts(PLAIN) {
        let block = f.leaf(Level::L2, Pa::new(1 << 36), &Attrs::new(Prot::RW)).unwrap();
        let page = f.leaf(Level::L3, Pa::new(1 << 36), &Attrs::new(Prot::RW)).unwrap();
        assert_eq!(f.relevel(block, Level::L2, Level::L3), page);
        assert_eq!(f.relevel(page, Level::L3, Level::L2), block);
        assert_eq!(f.relevel(block, Level::L2, Level::L1), block);
    }
}

#[test]
fn refusals_name_the_value() {
    let f = format(Granule::K4, 40, 48, PLAIN).1;
    let lpa2 = format(Granule::K4, 52, 52, FWB).1;
    let error = |f: &Format, attrs: Attrs| f.attr_bits(Level::L3, &attrs).unwrap_err().to_string();
    let rwx = Attrs::new(Prot::RWX);
    let rw = Attrs::new(Prot::RW);
    for memtype in [
        MemType::DeviceNGnRnE,
        MemType::DeviceNGnRE,
        MemType::DeviceNGRE,
        MemType::DeviceGRE,
    ] {
        assert_eq!(
            f.attr_bits(Level::L3, &Attrs { memtype, ..rwx }),
            Err(AttrsError::Execute {
                prot: Prot::RWX,
                memtype
            })
        );
    }
    let device = Attrs {
        memtype: MemType::DeviceNGnRE,
        ..rwx
    };
    assert_eq!(error(&f, device), "execute permission (rwx) on Device-nGnRE memory");
    let nc = Attrs {
        memtype: MemType::NormalNc,
        ..rwx
    };
    assert_eq!(error(&f, nc), "execute permission (rwx) on Normal non-cacheable memory");
    assert_eq!(
        error(&f, Attrs::new(Prot::R | Prot::PX)),
        "execute at EL1 or EL0 only (r-px, 0x9) needs XNX"
    );
    assert_eq!(
        error(&f, Attrs { software: 0x10, ..rw }),
        "software bits 0x10 are beyond 0xf"
    );
    assert_eq!(
        error(
            &f,
            Attrs {
                memtype: MemType::AsStage1,
                ..rw
            }
        ),
        "memory type as stage 1 has no encoding without forced write-back"
    );
    assert_eq!(
        error(
            &lpa2,
            Attrs {
                memtype: MemType::NormalWt,
                ..rw
            }
        ),
        "memory type Normal write-through has no encoding with forced write-back"
    );
    assert_eq!(
        error(
            &f,
            Attrs {
                memtype: MemType::Other(0x14),
                ..rw
            }
        ),
        "memory type MemAttr 0x14 has no encoding without forced write-back"
    );
    assert_eq!(
        error(
            &lpa2,
            Attrs {
                shareability: Shareability::Outer,
                ..rw
            }
        ),
        "shareability outer shareable cannot be said in an LPA2 descriptor, which takes VTCR_EL2.SH0 (inner shareable)"
    );
    assert_eq!(
        error(
            &f,
            Attrs {
                shareability: Shareability::Reserved,
                ..rw
            }
        ),
        "shareability reserved cannot be said in a descriptor"
    );
    let unknown = Prot::from_bits_retain(0x10);
    assert_eq!(error(&f, Attrs::new(unknown)), "permission bits 0x10 are beyond 0xf");
}
