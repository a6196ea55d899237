extern crate std;
use std::vec::Vec;

use super::*;

/// (scale, num) of each instruction; `None` is a single page.
fn shape(ipa: u64, pages: u64, granule: Granule, lpa2: bool) -> Vec<Option<(u8, u8)>> {
    range_encoding(Ipa::new(ipa), pages, granule, lpa2)
        .map(|op| match op {
            RangeOp::Page { .. } => None,
            RangeOp::Range { scale, num, .. } => Some((scale, num)),
        })
        .collect()
}

#[test]
fn sequences_as_linux_issues_them() {
    let shape = |pages| shape(0x8000_0000, pages, Granule::K4, false);
    assert_eq!(shape(0), []);
    assert_eq!(shape(1), [None]);
    assert_eq!(shape(3), [Some((0, 0)), None]);
    assert_eq!(shape(512), [Some((1, 7))]);
    assert_eq!(shape(513), [Some((1, 7)), None]);
    assert_eq!(shape(1 << 18), [Some((3, 3))]);
    assert_eq!(shape(1 << 21), [Some((3, 31))]);
    assert_eq!(
        shape((1 << 21) - 1),
        [Some((3, 30)), Some((2, 30)), Some((1, 30)), Some((0, 30)), None]
    );
    assert_eq!(shape((1 << 22) + 1), [Some((3, 31)), Some((3, 31)), None]);
}

#[test]
fn lpa2_ranges_start_at_64k() {
    let shape = shape(0x1000, 40, Granule::K4, true);
    assert_eq!(shape.len(), 17);
    assert!(shape[..15].iter().all(Option::is_none));
    assert_eq!(shape[15..], [Some((0, 11)), None]);
}

/// Every page exactly once, in order, whatever the count and the start.
#[test]
fn every_range_is_covered_exactly() {
    for granule in Granule::ALL {
        for lpa2 in [false, true] {
            for start_page in [0, 1, 5, 15, 16, 1 << 20] {
                for pages in (0..300).chain([511, 512, 513, 2047, 2048, 0x1_f7ff, (1 << 21) - 1, 1 << 21, 0x54_3210]) {
                    let mut at = start_page << granule.shift();
                    let end = at + (pages << granule.shift());
                    for op in range_encoding(Ipa::new(at), pages, granule, lpa2) {
                        let (RangeOp::Page { ipa } | RangeOp::Range { ipa, .. }) = op;
                        assert_eq!(ipa.get(), at);
                        at += op.pages() << granule.shift();
                        if let RangeOp::Range { ipa, scale, num } = op {
                            assert!(scale <= 3 && num <= 31);
                            let unit = if lpa2 { 1 << 16 } else { granule.size() };
                            assert!(ipa.is_aligned(unit));
                            let operand = op.operand(None, granule, lpa2);
                            assert_eq!((operand & 0x1f_ffff_ffff) * unit, ipa.get());
                        }
                    }
                    assert_eq!(at, end, "{granule} {pages} pages, lpa2 {lpa2}");
                }
            }
        }
    }
}

#[test]
fn start_is_rounded_down_to_a_page() {
    let mut ops = range_encoding(Ipa::new(0x8000_0fff), 1, Granule::K4, false);
    assert_eq!(
        ops.next(),
        Some(RangeOp::Page {
            ipa: Ipa::new(0x8000_0000)
        })
    );
    assert_eq!(ops.next(), None);
}

#[test]
fn operands() {
    let ipa = Ipa::new(0xf_1234_5678_9000);
    let page = RangeOp::Page { ipa };
    assert_eq!(page.operand(None, Granule::K4, true), 0xf1_2345_6789);
    // TTL: granule 1 = 4K, 2 = 16K, 3 = 64K above the level; level -1 has no hint.
    for (granule, code) in [(Granule::K4, 1), (Granule::K16, 2), (Granule::K64, 3)] {
        for level in 0..=3 {
            let hint = (code << 2 | level as u64) << 44;
            assert_eq!(page.operand(Level::new(level), granule, true), 0xf1_2345_6789 | hint);
        }
        assert_eq!(page.operand(Some(Level::LM1), granule, true), 0xf1_2345_6789);
    }
    let range = RangeOp::Range {
        ipa: Ipa::new(0x8000_0000),
        scale: 1,
        num: 7,
    };
    assert_eq!(
        range.operand(None, Granule::K4, false),
        1 << 46 | 1 << 44 | 7 << 39 | 0x8_0000
    );
    assert_eq!(
        range.operand(Some(Level::L2), Granule::K4, false),
        1 << 46 | 1 << 44 | 7 << 39 | 2 << 37 | 0x8_0000
    );
    assert_eq!(
        range.operand(Some(Level::L0), Granule::K4, false),
        1 << 46 | 1 << 44 | 7 << 39 | 0x8_0000
    );
    assert_eq!(
        range.operand(None, Granule::K4, true),
        1 << 46 | 1 << 44 | 7 << 39 | 0x8000
    );
    assert_eq!(
        range.operand(None, Granule::K64, false),
        3 << 46 | 1 << 44 | 7 << 39 | 0x8000
    );
}

#[test]
fn requests_become_instructions() {
    let ipa = Ipa::new(0x8000_0000);
    let text = |tlbi: Tlbi| {
        tlbi.operations(Granule::K4, false)
            .map(|op| std::format!("{op}"))
            .collect::<Vec<_>>()
    };
    let level = Some(Level::L3);
    assert_eq!(
        text(Tlbi::Ipa {
            ipa,
            level,
            scope: Scope::Broadcast
        }),
        ["TLBI IPAS2E1IS, 0x700000080000"]
    );
    assert_eq!(
        text(Tlbi::Ipa {
            ipa,
            level: None,
            scope: Scope::Local
        }),
        ["TLBI IPAS2E1, 0x80000"]
    );
    assert_eq!(
        text(Tlbi::Range {
            ipa,
            pages: 513,
            level: None,
            scope: Scope::Broadcast
        }),
        ["TLBI RIPAS2E1IS, 0x538000080000", "TLBI IPAS2E1IS, 0x80200"]
    );
    assert_eq!(
        text(Tlbi::Range {
            ipa,
            pages: 2,
            level,
            scope: Scope::Local
        }),
        ["TLBI RIPAS2E1, 0x406000080000"]
    );
    assert_eq!(text(Tlbi::Vmid), ["TLBI VMALLS12E1IS"]);
    assert_eq!(
        text(Tlbi::Stage1 {
            scope: Scope::Broadcast
        }),
        ["TLBI VMALLE1IS"]
    );
    assert_eq!(text(Tlbi::Stage1 { scope: Scope::Local }), ["TLBI VMALLE1"]);
    assert!(Tlbi::Vmid.is_stage2() && !Tlbi::Stage1 { scope: Scope::Local }.is_stage2());
    assert_eq!(Tlbi::Vmid.scope(), Scope::Broadcast);
}
