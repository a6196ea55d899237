//! Words read as entries, registers and syndromes: every reading is an answer or a refusal, and what can be written again
//! comes out the same.

use s2pt::arch::{
    Dialect, EntryKind, Esr, Fault, FaultStatus, Field, Format, FormatOptions, Geometry, Granule, Ipa, Level, MemType,
    Pa, Pte, RangeOp, Scope, Shareability, Tlbi, Vtcr, VtcrOptions, Vttbr, explain_entry, explain_esr, explain_hpfar,
    explain_vtcr, explain_vttbr, range_encoding,
};

use super::bytes::Bytes;
use super::leaf::{self, Rules};
use super::shape::{self, Shape};

/// Single instructions of one range that are looked at; a range may take millions.
const MOST_OPERATIONS: usize = 256;

pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    match bytes.below(6) {
        0 => registers(&mut bytes),
        1 => built(&mut bytes),
        2 => entry(&mut bytes),
        3 => attributes(&mut bytes),
        4 => syndrome(&mut bytes),
        _ => invalidation(&mut bytes),
    }
}

/// The rows of a value add up to it, from the highest bit down, none on another.
fn adds_up(raw: u64, rows: &[Field]) {
    let (mut sum, mut below) = (0, 64);
    for row in rows {
        assert!(row.high < below && row.low <= row.high, "{rows:?}");
        below = row.low;
        let width = u32::from(row.high - row.low) + 1;
        assert!(row.value.checked_shr(width).unwrap_or(0) == 0, "{row}");
        sum |= row.value << row.low;
    }
    assert_eq!(sum, raw, "{rows:?}");
}

/// Any two words as VTCR_EL2 and VTTBR_EL2.
fn registers(bytes: &mut Bytes<'_>) {
    let (vtcr, vttbr) = (Vtcr::new(bytes.word()), Vttbr::new(bytes.word()));
    adds_up(vtcr.raw(), &explain_vtcr(vtcr));
    let fields = vtcr.decode();
    let _ = (
        vtcr.validate_nested(),
        vtcr.granule(),
        vtcr.start_level(),
        vtcr.pa_bits(),
        vtcr.vmid_bits(),
    );
    let valid = vtcr.validate();
    let Ok(geometry) = vtcr.geometry() else {
        assert!(valid.is_err(), "{vtcr} is no geometry, and valid");
        adds_up(vttbr.raw(), &explain_vttbr(vttbr, None));
        return;
    };
    adds_up(vttbr.raw(), &explain_vttbr(vttbr, Some(&geometry)));
    let options = VtcrOptions {
        vmid16: fields.vs,
        ha: fields.ha,
        hd: fields.hd,
    };
    let again = Vtcr::build(&geometry, options);
    assert_eq!(again.geometry(), Ok(geometry));
    if valid.is_ok() {
        // What is not for the table to choose.
        let of_walks = 0b11_1111 << 8 | 0xf << 25 | 0b11 << 29 | 0x7fff_fffc << 33 | 1 << 34;
        let same = !of_walks & !(0b111 << 16);
        assert_eq!(again.raw() & same, vtcr.raw() & same, "{vtcr} {again}");
    }
    root(vtcr, vttbr, &geometry);
}

fn root(vtcr: Vtcr, vttbr: Vttbr, geometry: &Geometry) {
    let root = vttbr.baddr(geometry);
    assert!(root.is_aligned(8), "{root}");
    if vttbr.validate(vtcr, geometry).is_err() {
        return;
    }
    let again = Vttbr::build(vttbr.vmid(), root, vttbr.cnp(), geometry).expect("a root that was valid");
    // With 52-bit addresses bit 1 of BADDR has no meaning.
    let said = if geometry.pa_bits() == 52 { !2 } else { u64::MAX };
    assert_eq!(again.raw(), vttbr.raw() & said);
    assert!(root.get() < geometry.pa_limit());
}

/// Any options: the shape is as the architecture has it, and its registers say it.
fn built(bytes: &mut Bytes<'_>) {
    let options = shape::options(bytes);
    let walked = Geometry::of_walk(options);
    let Ok(geometry) = Geometry::new(options) else {
        if let Ok(geometry) = walked {
            assert_eq!(
                Vtcr::build(&geometry, VtcrOptions::default()).geometry_with(options.blocks),
                Ok(geometry)
            );
        }
        return;
    };
    assert_eq!(walked, Ok(geometry));
    let vtcr = Vtcr::build(
        &geometry,
        VtcrOptions {
            vmid16: bytes.bool(),
            ha: bytes.bool(),
            hd: bytes.bool(),
        },
    );
    assert_eq!(vtcr.validate(), Ok(()));
    assert_eq!(vtcr.geometry_with(options.blocks), Ok(geometry));
    let shape = Shape::of(&geometry);
    let ipa = bytes.word() & (shape.ipa_limit() - 1);
    for level in Level::ALL.into_iter().filter(|level| level.get() >= shape.start) {
        assert_eq!(geometry.size(level), shape.size(level.get()));
        assert_eq!(geometry.block_allowed(level), shape.has_leaf(level.get()));
        let first = if level.get() == shape.start {
            shape.root_entries()
        } else {
            shape.entries()
        };
        assert_eq!(geometry.entries(level) as u64, first);
        assert_eq!(
            geometry.index(Ipa::new(ipa), level) as u64,
            ipa / shape.size(level.get()) % first
        );
    }
    assert_eq!(u64::from(geometry.root_frames()), shape.root_frames());
    let root = Pa::new(bytes.word());
    match Vttbr::build(bytes.byte().into(), root, bytes.bool(), &geometry) {
        Ok(vttbr) => {
            assert_eq!(vttbr.baddr(&geometry), root);
            assert_eq!(vttbr.validate(vtcr, &geometry), Ok(()));
        }
        Err(_) => {
            let wrong = root.get() >= shape.pa_limit() || !root.is_aligned(Vttbr::root_alignment(&geometry));
            assert!(wrong, "{root}");
        }
    }
}

/// Any word as an entry.
fn entry(bytes: &mut Bytes<'_>) {
    let pte = Pte::from_raw(bytes.word() & if bytes.bool() { u64::MAX } else { !1 });
    for level in Level::ALL {
        let own = pte.kind(level);
        for dialect in [Dialect::Own, Dialect::Kvm6, Dialect::Kvm7] {
            let kind = pte.kind_of(level, dialect);
            assert_eq!(matches!(kind, EntryKind::Leaf), pte.is_leaf(level));
            assert_eq!(matches!(kind, EntryKind::Table), pte.is_table(level));
            assert_eq!(matches!(kind, EntryKind::Empty), pte.is_empty());
            if pte.is_valid() || dialect == Dialect::Own {
                assert_eq!(kind, own);
            }
        }
        assert_eq!(own == EntryKind::Locked, pte.is_locked());
        assert_eq!(own == EntryKind::Frozen, pte.is_frozen());
        if let EntryKind::Annotated(payload) = own {
            assert_eq!(Pte::annotated(payload), Some(pte));
        }
    }
    let payload = bytes.word();
    if let Some(mark) = Pte::annotated(payload) {
        assert_eq!(mark.kind(Level::L3), EntryKind::Annotated(payload));
        assert_eq!(mark.freeze().thaw(), mark);
    } else {
        assert!(payload == 0 || payload > Pte::MAX_ANNOTATION);
    }
    if pte.raw() >> 62 == 0 {
        assert!(pte.freeze().is_frozen());
        assert_eq!(pte.freeze().thaw(), pte);
    }
    let Ok(geometry) = Geometry::new(shape::options(bytes)) else {
        return;
    };
    let options = FormatOptions {
        fwb: bytes.bool(),
        xnx: bytes.bool(),
    };
    let format = Format::new(&geometry, options);
    for level in Level::ALL.into_iter().filter(|level| *level >= geometry.start_level()) {
        for dialect in [Dialect::Own, Dialect::Kvm6, Dialect::Kvm7] {
            adds_up(pte.raw(), &explain_entry(pte, level, &geometry, &format, dialect));
        }
        if pte.is_leaf(level) {
            leaf_again(pte, level, &format, options, &geometry);
        }
    }
}

/// A leaf read and written again says the same.
fn leaf_again(pte: Pte, level: Level, format: &Format, options: FormatOptions, geometry: &Geometry) {
    let (attrs, output) = (format.attrs(pte), format.output(pte, level));
    assert!(
        output.is_aligned(geometry.size(level).min(1 << 48)),
        "{output} at level {level}"
    );
    let rules = rules(options, geometry);
    match format.attr_bits(level, &attrs) {
        Ok(bits) => {
            assert!(rules.allow(&attrs), "{attrs:?}");
            let again = Pte::from_raw(bits | format.output_bits(output));
            assert_eq!((format.attrs(again), format.output(again, level)), (attrs, output));
            assert!(again.is_leaf(level));
        }
        Err(_) => assert!(!rules.allow(&attrs), "{attrs:?}"),
    }
}

fn rules(options: FormatOptions, geometry: &Geometry) -> Rules {
    Rules {
        fwb: options.fwb,
        xnx: options.xnx,
        lpa2: geometry.lpa2(),
        sets_af: true,
        sets_dirty: false,
    }
}

/// Any attributes, any output.
fn attributes(bytes: &mut Bytes<'_>) {
    let Ok(geometry) = Geometry::new(shape::options(bytes)) else {
        return;
    };
    let options = FormatOptions {
        fwb: bytes.bool(),
        xnx: bytes.bool(),
    };
    let (format, shape) = (Format::new(&geometry, options), Shape::of(&geometry));
    let attrs = leaf::attrs(bytes);
    let allowed = rules(options, &geometry).allow(&attrs);
    for level in Level::ALL.into_iter().filter(|level| geometry.block_allowed(*level)) {
        let pa = Pa::new(bytes.word() & (shape.pa_limit() - 1)).align_down(shape.size(level.get()));
        match format.leaf(level, pa, &attrs) {
            Ok(leaf) => {
                assert!(allowed && leaf.is_leaf(level), "{attrs:?}");
                assert_eq!((format.attrs(leaf), format.output(leaf, level)), (attrs, pa));
                assert_eq!(
                    (format.prot(leaf), format.memtype(leaf), format.af(leaf)),
                    (attrs.prot, attrs.memtype, attrs.af)
                );
            }
            Err(reason) => assert!(!allowed, "{attrs:?}: {reason}"),
        }
        assert_eq!(
            format.check_prot(attrs.prot, MemType::Normal).is_ok(),
            rules(options, &geometry).may_say(attrs.prot)
        );
    }
    let table = format.table(Pa::new(bytes.word() & (shape.pa_limit() - 1)).align_down(shape.page()));
    assert!(table.is_table(Level::L2) && format.table(format.next_table(table)) == table);
    let (byte, fwb) = (bytes.byte(), bytes.bool());
    let memtype = MemType::decode(byte, fwb);
    assert!(memtype.encode(fwb).is_none_or(|code| code == byte & 0xf), "{memtype}");
    assert_eq!(memtype.encode(fwb).is_some(), memtype.mair(fwb).is_some());
    let _ = (
        memtype.to_string(),
        Shareability::decode(byte).to_string(),
        attrs.prot.to_string(),
    );
}

/// Any three words as ESR_EL2, FAR_EL2 and HPFAR_EL2.
fn syndrome(bytes: &mut Bytes<'_>) {
    let esr = match bytes.below(3) {
        0 => bytes.word(),
        // An abort of the guest, more often than chance would have it.
        1 => 0x24 << 26 | bytes.word() & 0x3ff_ffff,
        _ => 0x20 << 26 | bytes.word() & 0x3ff_ffff,
    };
    let (far, hpfar) = (bytes.word(), bytes.word());
    adds_up(esr, &explain_esr(Esr::new(esr)));
    adds_up(hpfar, &explain_hpfar(hpfar));
    let register = Esr::new(esr);
    let status = register.status();
    assert_eq!(status.encode(), Some(register.fsc()));
    assert_eq!(FaultStatus::decode(register.fsc()), status);
    let _ = (
        register.access_size(),
        register.register(),
        register.hpfar_valid(),
        status.to_string(),
    );
    match Fault::from_registers(esr, far, hpfar) {
        Err(reason) => {
            assert!(
                !register.is_guest_abort() || status.level.is_none(),
                "{esr:#x}: {reason}"
            );
        }
        Ok(fault) => {
            assert!(fault.ipa.get() < 1 << 52);
            let again = fault.to_registers().expect("a fault that registers have said");
            // A stage-1 walk's own has no offset in the page, and comes back as the read or write that it was taken for.
            assert_eq!(again.fault(), Ok(fault), "{esr:#x}");
        }
    }
}

/// Any range as TLBI instructions.
fn invalidation(bytes: &mut Bytes<'_>) {
    let granule = bytes.of(&Granule::ALL);
    let lpa2 = bytes.bool() && granule != Granule::K64;
    let ipa = Ipa::new(bytes.word() & ((1 << 52) - 1));
    let pages = bytes.word() >> bytes.below(64) & ((1 << 36) - 1);
    let mut at = ipa.align_down(granule.size()).get();
    let (mut left, mut seen) = (pages, 0);
    for op in range_encoding(ipa, pages, granule, lpa2).take(MOST_OPERATIONS) {
        let (here, count) = match op {
            RangeOp::Page { ipa } => (ipa, 1),
            RangeOp::Range { ipa, scale, num } => {
                assert!(scale < 4 && num < 32 && (!lpa2 || ipa.is_aligned(0x1_0000)), "{op:?}");
                (ipa, (u64::from(num) + 1) << (5 * scale + 1))
            }
        };
        assert_eq!((here.get(), op.pages()), (at, count));
        assert!(count <= left, "{op:?} beyond {left}");
        at = at.wrapping_add(count << granule.shift());
        left -= count;
        seen += 1;
        let operand = op.operand(Level::new(bytes.below(5) as i8 - 1), granule, lpa2);
        if let RangeOp::Range { ipa, scale, num } = op {
            let unit = if lpa2 { 16 } else { granule.shift() };
            assert_eq!(operand & 0x1f_ffff_ffff, ipa.get() >> unit & 0x1f_ffff_ffff);
            assert_eq!(operand >> 39 & 0x7f, u64::from(scale) << 5 | u64::from(num));
        }
    }
    assert!(left == 0 || seen == MOST_OPERATIONS, "{left} of {pages} left");
    let scope = bytes.of(&[Scope::Broadcast, Scope::Local]);
    let request = match bytes.below(4) {
        0 => Tlbi::Range {
            ipa,
            pages,
            level: None,
            scope,
        },
        1 => Tlbi::Ipa {
            ipa,
            level: Some(Level::L2),
            scope,
        },
        2 => Tlbi::Vmid,
        _ => Tlbi::Stage1 { scope },
    };
    let operations: Vec<_> = request.operations(granule, lpa2).take(MOST_OPERATIONS).collect();
    assert_eq!(operations.is_empty(), matches!(request, Tlbi::Range { pages: 0, .. }));
    assert!(operations.iter().all(|op| op.to_string().starts_with("TLBI ")));
}
