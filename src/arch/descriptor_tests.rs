use super::*;

#[test]
fn freeze_keeps_every_value_of_own_tables() {
    for raw in [
        0u64,
        0x4,
        0x40_0000_4000_07fd,
        0x4000_0003,
        (1 << 62) - 1,
        (1 << 62) - 2,
    ] {
        let frozen = Pte::from_raw(raw).freeze();
        assert!(
            frozen.is_frozen() && !frozen.is_valid() && !frozen.is_locked(),
            "{raw:#x}"
        );
        assert_eq!(frozen.thaw().raw(), raw);
    }
}
