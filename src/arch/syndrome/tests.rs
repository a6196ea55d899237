use super::*;

/// ESR_EL2 values that a real guest's faults had, and what KVM did about them.
const SEEN: [(u64, AccessKind, FaultKind, i8, bool); 20] = [
    (0x92000047, AccessKind::Write, FaultKind::Translation, 3, false),
    (0x939f0045, AccessKind::Write, FaultKind::Translation, 1, false),
    (0x93800005, AccessKind::Read, FaultKind::Translation, 1, false),
    (0x9200004f, AccessKind::Write, FaultKind::Permission, 3, false),
    (0x92000007, AccessKind::Read, FaultKind::Translation, 3, false),
    (0x93d38007, AccessKind::Read, FaultKind::Translation, 3, false),
    (0x82000007, AccessKind::Execute, FaultKind::Translation, 3, false),
    (0x8200000f, AccessKind::Execute, FaultKind::Permission, 3, false),
    (0x9381004f, AccessKind::Write, FaultKind::Permission, 3, false),
    (0x92000046, AccessKind::Write, FaultKind::Translation, 2, false),
    (0x9200004e, AccessKind::Write, FaultKind::Permission, 2, false),
    (0x8200000e, AccessKind::Execute, FaultKind::Permission, 2, false),
    (0x82000005, AccessKind::Execute, FaultKind::Translation, 1, false),
    (0x82000087, AccessKind::Read, FaultKind::Translation, 3, true),
    (0x92000087, AccessKind::Read, FaultKind::Translation, 3, true),
    (0x920000c6, AccessKind::Read, FaultKind::Translation, 2, true),
    (0x920000c4, AccessKind::Read, FaultKind::Translation, 0, true),
    (0x820000ab, AccessKind::Read, FaultKind::Translation, -1, true),
    (0x920000eb, AccessKind::Read, FaultKind::Translation, -1, true),
    (0x8200008f, AccessKind::Write, FaultKind::Permission, 3, true),
];

#[test]
fn reads_syndromes_of_a_real_guest() {
    for (raw, access, kind, level, s1ptw) in SEEN {
        let fault = Fault::from_esr(raw, Ipa::new(0x4000_0000)).unwrap();
        let level = Level::new(level).unwrap();
        assert_eq!(
            fault,
            Fault {
                ipa: Ipa::new(0x4000_0000),
                access,
                kind,
                level,
                s1ptw
            },
            "{raw:#x}"
        );
    }
}

/// The architecture's codes (ESR_ELx, encoding of DFSC); hardware models were seen to report those of the table faults.
#[test]
fn known_status_codes() {
    let known = [
        (0x00, FaultKind::AddressSize, Some(0)),
        (0x01, FaultKind::AddressSize, Some(1)),
        (0x03, FaultKind::AddressSize, Some(3)),
        (0x29, FaultKind::AddressSize, Some(-1)),
        (0x04, FaultKind::Translation, Some(0)),
        (0x07, FaultKind::Translation, Some(3)),
        (0x2b, FaultKind::Translation, Some(-1)),
        (0x08, FaultKind::AccessFlag, Some(0)),
        (0x0b, FaultKind::AccessFlag, Some(3)),
        (0x0c, FaultKind::Permission, Some(0)),
        (0x0f, FaultKind::Permission, Some(3)),
        (0x10, FaultKind::ExternalAbort, None),
        (0x13, FaultKind::ExternalAbort, Some(-1)),
        (0x14, FaultKind::ExternalAbort, Some(0)),
        (0x17, FaultKind::ExternalAbort, Some(3)),
        (0x18, FaultKind::Parity, None),
        (0x1b, FaultKind::Parity, Some(-1)),
        (0x1c, FaultKind::Parity, Some(0)),
        (0x1f, FaultKind::Parity, Some(3)),
        (0x21, FaultKind::Alignment, None),
        (0x23, FaultKind::GranuleProtection, Some(-1)),
        (0x24, FaultKind::GranuleProtection, Some(0)),
        (0x27, FaultKind::GranuleProtection, Some(3)),
        (0x28, FaultKind::GranuleProtection, None),
        (0x30, FaultKind::TlbConflict, None),
        (0x31, FaultKind::UnsupportedAtomicUpdate, None),
        (0x34, FaultKind::Lockdown, None),
        (0x35, FaultKind::UnsupportedExclusive, None),
        (0x11, FaultKind::Other(0x11), None),
        (0x3f, FaultKind::Other(0x3f), None),
    ];
    for (fsc, kind, level) in known {
        let status = FaultStatus {
            kind,
            level: level.and_then(Level::new),
        };
        assert_eq!(FaultStatus::decode(fsc), status, "{fsc:#x}");
        assert_eq!(status.encode(), Some(fsc));
    }
}

#[test]
fn every_status_code_survives() {
    for fsc in 0..64 {
        assert_eq!(FaultStatus::decode(fsc).encode(), Some(fsc), "{fsc:#x}");
    }
    for kind in [FaultKind::AccessFlag, FaultKind::Permission] {
        assert_eq!(
            FaultStatus {
                kind,
                level: Some(Level::LM1)
            }
            .encode(),
            None
        );
    }
    assert_eq!(
        FaultStatus {
            kind: FaultKind::Translation,
            level: None
        }
        .encode(),
        None
    );
    assert_eq!(
        FaultStatus {
            kind: FaultKind::TlbConflict,
            level: Some(Level::L1)
        }
        .encode(),
        None
    );
    assert_eq!(
        FaultStatus {
            kind: FaultKind::Other(0x0f),
            level: None
        }
        .encode(),
        None
    );
}

#[test]
fn every_fault_survives_the_registers() {
    let kinds = [
        FaultKind::AddressSize,
        FaultKind::Translation,
        FaultKind::AccessFlag,
        FaultKind::Permission,
    ];
    let mut count = 0;
    for kind in kinds {
        for level in Level::ALL {
            for access in [AccessKind::Read, AccessKind::Write, AccessKind::Execute] {
                for ipa in [0, 0x4068_e088, 0xf_ffff_ffff_ffff].map(Ipa::new) {
                    let fault = Fault {
                        ipa,
                        access,
                        kind,
                        level,
                        s1ptw: false,
                    };
                    let Ok(registers) = fault.to_registers() else {
                        assert!(
                            level == Level::LM1
                                && FaultStatus {
                                    kind,
                                    level: Some(level)
                                }
                                .encode()
                                .is_none()
                        );
                        continue;
                    };
                    assert_eq!(registers.fault(), Ok(fault));
                    assert!(registers.esr.is_guest_abort() && registers.esr.il() && !registers.esr.isv());
                    count += 1;
                }
            }
        }
    }
    assert_eq!(count, (4 * 4 + 2) * 3 * 3);
}

/// A stage-1 walk's fault tells no page offset, and reads unless permission was refused.
#[test]
fn stage_one_walk_faults() {
    for (kind, access) in [
        (FaultKind::Translation, AccessKind::Read),
        (FaultKind::Permission, AccessKind::Write),
    ] {
        let fault = Fault {
            ipa: Ipa::new(0x4000_1000),
            access,
            kind,
            level: Level::L3,
            s1ptw: true,
        };
        let Syndrome { esr, hpfar, .. } = fault.to_registers().unwrap();
        assert!(esr.hpfar_valid());
        assert_eq!(Fault::from_registers(esr, 0xffff_8000_1234_5678, hpfar), Ok(fault));
    }
}

#[test]
fn hpfar_holds_the_page_in_4k_units() {
    let fault = Fault::from_registers(0x9200_0047, 0xffff_8000_0000_0123, 0xfff_ffff_fff0).unwrap();
    assert_eq!(fault.ipa, Ipa::new(0xf_ffff_ffff_f123));
    // NS (bit 63) and the reserved low bits are no address.
    let fault = Fault::from_registers(0x9200_0047, 0, 1 << 63 | 0x1f).unwrap();
    assert_eq!(fault.ipa, Ipa::new(0x1000));
    // FnV: FAR is not valid.
    let fault = Fault::from_registers(0x9200_0447, 0x123, 0x10).unwrap();
    assert_eq!(fault.ipa, Ipa::new(0x1000));
}

#[test]
fn hpfar_is_missing_for_permission_faults_of_the_guest() {
    assert!(!Esr::new(0x9200_004f).hpfar_valid());
    assert!(Esr::new(0x9200_00cf).hpfar_valid());
    assert!(Esr::new(0x9200_0047).hpfar_valid());
    assert!(Esr::new(0x9200_004b).hpfar_valid());
    assert!(!Esr::new(0x9200_0050).hpfar_valid());
}

#[test]
fn instruction_syndrome() {
    let esr = Esr::new(0x93d3_8007); // 64-bit load of x19
    assert_eq!(
        (esr.access_size(), esr.register(), esr.sixty_four()),
        (Some(8), Some(19), Some(true))
    );
    assert_eq!((esr.sign_extend(), esr.acquire_release()), (Some(false), Some(false)));
    let esr = Esr::new(0x9200_0007);
    assert_eq!(
        (esr.access_size(), esr.register(), esr.sixty_four()),
        (None, None, None)
    );
    let fetch = Esr::new(0x8200_0047 | 1 << 24 | 1 << 8);
    assert!(
        !fetch.write() && !fetch.isv() && !fetch.cm(),
        "data abort fields of an instruction abort"
    );
}

#[test]
fn refuses_what_is_no_table_fault() {
    let error = |esr: u64| Fault::from_esr(esr, Ipa::new(0)).unwrap_err().to_string();
    assert_eq!(
        error(0x5a00_0000),
        "ESR 0x5a000000: exception class 0x16 is no abort from a lower exception level (0x20 or 0x24)"
    );
    assert_eq!(
        error(0x9200_0070),
        "ESR 0x92000070: fault status 0x30 (TLB conflict) has no table level"
    );
    assert_eq!(
        error(0x9200_0010),
        "ESR 0x92000010: fault status 0x10 (external abort) has no table level"
    );
    let fault = Fault {
        ipa: Ipa::new(1 << 52),
        access: AccessKind::Read,
        kind: FaultKind::Permission,
        level: Level::LM1,
        s1ptw: false,
    };
    assert_eq!(
        fault.to_registers().unwrap_err().to_string(),
        "no fault status code says permission fault at level -1"
    );
    let fault = Fault {
        level: Level::L1,
        ..fault
    };
    assert_eq!(
        fault.to_registers().unwrap_err().to_string(),
        "IPA 0x10000000000000 is beyond what HPFAR_EL2 holds (limit 0x10000000000000)"
    );
}
