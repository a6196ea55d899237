use super::*;

/// Values whose bits 63:62 are clear, as those of own tables are: all kinds, and every single bit.
fn own_values() -> impl Iterator<Item = u64> {
    let some = [
        0,
        0x4,
        0x400,
        0x40_0000_4000_07fd,
        0x40_0000_4000_07ff,
        0x4000_0003,
        (1 << 62) - 1,
        (1 << 62) - 2,
    ];
    some.into_iter()
        .chain((0..62).flat_map(|at| [1u64 << at, 1 << at | 1, ((1 << 62) - 1) ^ 1 << at]))
}

#[test]
fn freeze_keeps_every_value_of_own_tables() {
    for raw in own_values() {
        let frozen = Pte::from_raw(raw).freeze();
        assert!(
            frozen.is_frozen() && !frozen.is_valid() && !frozen.is_locked() && !frozen.is_empty(),
            "{raw:#x}"
        );
        assert_eq!(frozen.thaw().raw(), raw);
        for level in Level::ALL {
            assert!(!frozen.is_table(level) && !frozen.is_leaf(level));
            assert_eq!(frozen.kind(level), EntryKind::Frozen);
        }
        assert!(!Pte::from_raw(raw).is_frozen());
    }
}

#[test]
fn type_bits_at_every_level() {
    for level in Level::ALL {
        let kind = |bits: u64| Pte::from_raw(0x4000_0000 | bits).kind(level);
        let (one, three) = if level.is_last() {
            (EntryKind::Reserved, EntryKind::Leaf)
        } else {
            (EntryKind::Leaf, EntryKind::Table)
        };
        assert_eq!((kind(1), kind(3)), (one, three));
        // 0b10 is invalid whatever else the entry holds.
        let pte = Pte::from_raw(0x4000_0002);
        assert!(!pte.is_valid() && !pte.is_table(level) && !pte.is_leaf(level));
    }
}

#[test]
fn predicates_agree_with_kind() {
    for raw in own_values() {
        let pte = Pte::from_raw(raw);
        for level in Level::ALL {
            let kind = pte.kind(level);
            assert_eq!(pte.is_empty(), kind == EntryKind::Empty);
            assert_eq!(pte.is_locked(), kind == EntryKind::Locked);
            assert_eq!(pte.is_table(level), kind == EntryKind::Table);
            assert_eq!(pte.is_leaf(level), kind == EntryKind::Leaf);
            assert_eq!(pte.kind_of(level, Dialect::Own), kind);
        }
    }
}

#[test]
fn annotations_never_look_like_anything_else() {
    let payloads = (1..0x1_0000)
        .chain((0..59).map(|at| 1 << at))
        .chain([Pte::MAX_ANNOTATION]);
    for payload in payloads {
        let pte = Pte::annotated(payload).unwrap();
        assert!(
            !pte.is_valid() && !pte.is_locked() && !pte.is_frozen() && !pte.is_empty(),
            "{payload:#x}"
        );
        assert_eq!(pte.kind(Level::L3), EntryKind::Annotated(payload));
        assert_eq!(pte.freeze().thaw(), pte);
        if payload < 0x100 {
            assert_eq!(pte.raw(), payload << 2, "as KVM 6.x writes an owner");
            assert_eq!(pte.kind_of(Level::L3, Dialect::Kvm6), EntryKind::Annotated(payload));
        }
    }
    assert_eq!(Pte::annotated(0), None);
    assert_eq!(Pte::annotated(Pte::MAX_ANNOTATION + 1), None);
}

#[test]
fn invalid_entries_by_dialect() {
    let kind = |raw, dialect| Pte::from_raw(raw).kind_of(Level::L3, dialect);
    for dialect in [Dialect::Own, Dialect::Kvm6, Dialect::Kvm7] {
        assert_eq!(kind(0, dialect), EntryKind::Empty);
        assert_eq!(kind(0x40_0000_4000_07ff, dialect), EntryKind::Leaf);
    }
    // 6.x: bit 10 alone decides, also beside software bits.
    assert_eq!(kind(0x400, Dialect::Kvm6), EntryKind::Locked);
    assert_eq!(kind(0x0780_0000_0000_0400, Dialect::Kvm6), EntryKind::Locked);
    assert_eq!(kind(0x404, Dialect::Kvm6), EntryKind::Locked);
    assert_eq!(kind(0x4, Dialect::Kvm6), EntryKind::Annotated(1));
    assert_eq!(kind(0x3fc, Dialect::Kvm6), EntryKind::Annotated(0xff));
    assert_eq!(kind(1 << 60, Dialect::Kvm6), EntryKind::Reserved);
    // 7.x: the type in 63:60.
    assert_eq!(kind(0x1000_0000_0000_0000, Dialect::Kvm7), EntryKind::Locked);
    assert_eq!(kind(2 << 60 | 0x1234 << 1, Dialect::Kvm7), EntryKind::Annotated(0x1234));
    assert_eq!(kind(3 << 60, Dialect::Kvm7), EntryKind::Annotated(0));
    assert_eq!(
        kind(2 << 60 | 0x0fff_ffff_ffff_fffe, Dialect::Kvm7),
        EntryKind::Annotated((1 << 59) - 1)
    );
    assert_eq!(kind(0x400, Dialect::Kvm7), EntryKind::Reserved);
    assert_eq!(kind(4 << 60, Dialect::Kvm7), EntryKind::Reserved);
    // Own: LOCKED exactly; bit 10 beside anything else is nobody's.
    assert_eq!(kind(0x404, Dialect::Own), EntryKind::Reserved);
    assert_eq!(kind(0x2, Dialect::Own), EntryKind::Reserved);
    assert_eq!(kind(1 << 62, Dialect::Own), EntryKind::Reserved);
}

#[test]
fn text() {
    let pte = Pte::from_raw(0x40_0000_4000_07ff);
    let text = alloc::format!("{pte} {pte:?} {pte:x} {pte:#x}");
    assert_eq!(
        text,
        "0x400000400007ff Pte(0x400000400007ff) 400000400007ff 0x400000400007ff"
    );
}
