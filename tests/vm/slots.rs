//! Memory slots: what is refused, and what changing them does to faults.

use s2pt::arch::{AccessKind, Ipa, Pa};
use s2pt::table::Event;
use s2pt::vm::{
    AccessError, Backing, DirtyLogMode, Error, ExitReason, HostPage, Outcome, PaSource, Policy, Retry, Slot,
};

use crate::support::*;

#[test]
fn wrong_slots_are_refused_by_value_and_limit() {
    let vm = vm(Policy::Lockless, Backing::Thp, 2 * BLOCK);
    let good = Slot::linear(1, Ipa::new(0), BLOCK, Pa::new(0));
    let refused = |slot| vm.create_slot(slot).unwrap_err();
    let align = |what, value| Error::SlotAlignment {
        slot: 1,
        what,
        value,
        required: PAGE,
    };
    assert_eq!(
        refused(Slot {
            ipa: Ipa::new(0x800),
            ..good
        }),
        align("ipa", 0x800)
    );
    assert_eq!(refused(Slot { size: 0x1001, ..good }), align("size", 0x1001));
    assert_eq!(refused(Slot { host: 1, ..good }), align("host", 1));
    assert_eq!(
        refused(Slot {
            source: PaSource::Linear(Pa::new(0x10)),
            ..good
        }),
        align("pa", 0x10)
    );
    assert_eq!(
        refused(Slot { size: 0, ..good }),
        Error::SlotEmpty {
            slot: 1,
            required: PAGE
        }
    );
    let limit = 1 << 40;
    let beyond = refused(Slot {
        ipa: Ipa::new(limit - PAGE),
        ..good
    });
    assert_eq!(
        beyond,
        Error::SlotAddress {
            slot: 1,
            what: "ipa",
            value: limit - PAGE,
            size: BLOCK,
            limit
        }
    );
    assert_eq!(
        beyond.to_string(),
        "slot 1: ipa 0xfffffff000 of size 0x200000 ends beyond 0x10000000000"
    );
    let overflow = refused(Slot {
        ipa: Ipa::new(!0 << 12),
        ..good
    });
    assert!(matches!(overflow, Error::SlotAddress { what: "ipa", .. }));
    let pa = Slot {
        source: PaSource::Linear(Pa::new((1 << 48) - PAGE)),
        ..good
    };
    assert!(matches!(
        refused(pa),
        Error::SlotAddress {
            what: "pa",
            limit: 0x1_0000_0000_0000,
            ..
        }
    ));
    let host = Slot { host: !0 << 12, ..good };
    assert!(matches!(refused(host), Error::SlotAddress { what: "host", .. }));
    assert_eq!(refused(Slot { id: 0, ..good }), Error::SlotExists { slot: 0 });
    let overlap = refused(Slot {
        ipa: ipa(BLOCK),
        ..good
    });
    assert!(
        matches!(overlap, Error::SlotOverlap { slot: 1, other: 0, .. }),
        "{overlap}"
    );
    for id in [9, 17] {
        assert_eq!(vm.delete_slot(id), Err(Error::NoSlot { slot: id }));
        assert_eq!(vm.move_slot(id, Ipa::new(0)), Err(Error::NoSlot { slot: id }));
    }
    assert_eq!(vm.slots().len(), 1, "nothing was added on the way");
    // Neighbours do not overlap.
    vm.create_slot(Slot {
        ipa: ipa(2 * BLOCK),
        ..good
    })
    .unwrap();
    vm.create_slot(Slot {
        id: 2,
        ipa: Ipa::new(BASE - BLOCK),
        ..good
    })
    .unwrap();
    assert_eq!(vm.slots().iter().map(|s| s.id).collect::<Vec<_>>(), [2, 0, 1]);
}

#[test]
fn an_access_outside_every_slot_exits() {
    let vm = vm(Policy::Lockless, Backing::Thp, BLOCK);
    let mut vcpu = vm.vcpu();
    let mut exit = |at, access| match vcpu.access(Ipa::new(at), access) {
        Err(AccessError::Exit { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(exit(BASE - 1, AccessKind::Read), ExitReason::Mmio);
    assert_eq!(exit(BASE + BLOCK, AccessKind::Write), ExitReason::Mmio);
    assert_eq!(exit(BASE + BLOCK, AccessKind::Execute), ExitReason::Fetch);
    assert_eq!(exit(1 << 40, AccessKind::Read), ExitReason::AddressSize);
}

#[test]
fn deleting_unmaps_and_later_faults_exit() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Thp, 4 * BLOCK);
        let mut vcpu = vm.vcpu();
        write(&mut vcpu, 0);
        write(&mut vcpu, 3 * BLOCK);
        let frames = vm.stage2().handle().stats();
        assert_eq!(frames.mapped_bytes, 2 * BLOCK);
        assert_eq!(vm.delete_slot(0).unwrap().size, 4 * BLOCK);
        assert_eq!(vm.stage2().handle().stats().mapped_bytes, 0);
        let exit = vcpu.access(ipa(0), AccessKind::Write).unwrap_err();
        assert!(matches!(
            exit,
            AccessError::Exit {
                reason: ExitReason::Mmio,
                ..
            }
        ));
    }
}

#[test]
fn moving_takes_the_memory_and_the_log_along() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Thp, BLOCK);
        vm.create_slot(Slot::linear(1, ipa(8 * BLOCK), BLOCK, Pa::new(0)))
            .unwrap();
        vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
        let mut vcpu = vm.vcpu();
        write(&mut vcpu, 5 * PAGE);
        assert!(matches!(
            vm.move_slot(0, ipa(8 * BLOCK)),
            Err(Error::SlotOverlap { .. })
        ));
        assert!(matches!(vm.move_slot(0, Ipa::new(1)), Err(Error::SlotAlignment { .. })));
        assert_eq!(
            leaf(&vm, ipa(5 * PAGE)).unwrap().0.get(),
            3,
            "a refused move changes nothing"
        );
        vm.move_slot(0, ipa(4 * BLOCK)).unwrap();
        assert_eq!(leaf(&vm, ipa(5 * PAGE)), None);
        assert!(vcpu.access(ipa(5 * PAGE), AccessKind::Read).is_err());
        let hit = vcpu.access(ipa(4 * BLOCK + 7 * PAGE), AccessKind::Write).unwrap();
        assert_eq!(hit.pa.get(), HOST + 7 * PAGE);
        assert_eq!(pages(&vm.dirty_log(0).unwrap()), [5, 7]);
    }
}

#[test]
fn host_ranges_are_translated_slot_by_slot_in_whole_pages() {
    let vm = vm(Policy::Lockless, Backing::Thp, 4 * PAGE);
    // The same host memory once more, shifted by a page.
    let alias = Slot {
        host: HOST + PAGE,
        ..Slot::linear(1, ipa(GIB), 4 * PAGE, Pa::new(0))
    };
    vm.create_slot(alias).unwrap();
    assert_eq!(
        vm.guest_ranges(HOST + PAGE + 1, PAGE),
        [(ipa(PAGE), 2 * PAGE), (ipa(GIB), 2 * PAGE)]
    );
    assert_eq!(
        vm.guest_ranges(HOST - BLOCK, u64::MAX),
        [(ipa(0), 4 * PAGE), (ipa(GIB), 4 * PAGE)]
    );
    assert_eq!(vm.guest_ranges(HOST, PAGE), [(ipa(0), PAGE)]);
    assert_eq!(vm.guest_ranges(HOST + 5 * PAGE, PAGE), []);
}

/// The slot goes away after the fault looked it up: the fault must not install.
#[test]
fn a_slot_deleted_under_a_fault_is_not_mapped() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Thp, BLOCK);
        let mut vcpu = vm.vcpu();
        let fault = vcpu.translate(ipa(0), AccessKind::Write).unwrap_err();
        let outcome = vcpu.handle_fault_with(&fault, |slot, _, _| {
            vm.delete_slot(slot.id)?;
            Ok(HostPage::new(Pa::new(HOST), BLOCK))
        });
        // Deleting takes the memory back too, which the fault may see first.
        assert!(
            matches!(outcome, Ok(Outcome::Again(Retry::SlotsChanged | Retry::Invalidated))),
            "{outcome:?}"
        );
        assert_eq!(vm.stage2().handle().stats().mapped_bytes, 0, "{policy:?}");
    }
}

/// Logging starts after the fault looked the slot up: mapping a writable block now would lose writes.
#[test]
fn logging_switched_on_under_a_fault_makes_it_retry() {
    for policy in Policy::ALL {
        for mode in [DirtyLogMode::Auto, DirtyLogMode::ManualInitiallySet] {
            let vm = vm(policy, Backing::Thp, BLOCK);
            let mut vcpu = vm.vcpu();
            let fault = vcpu.translate(ipa(0), AccessKind::Write).unwrap_err();
            let outcome = vcpu.handle_fault_with(&fault, |slot, _, _| {
                vm.enable_dirty_log(slot.id, mode)?;
                Ok(HostPage::new(Pa::new(HOST), BLOCK))
            });
            assert_eq!(outcome, Ok(Outcome::Again(Retry::SlotsChanged)));
            assert_eq!(leaf(&vm, ipa(0)), None);
            assert_eq!(write(&mut vcpu, 0).get(), 3, "once more, now as a page");
        }
    }
}

/// A fault is held between its last look and its install. Switching the log on must wait for it, and then protect what it
/// installed.
#[test]
fn switching_the_log_on_waits_for_an_install_under_way() {
    for policy in Policy::ALL {
        let vm = vm_with(
            vm_options(policy, Backing::Thp),
            BLOCK,
            Gate::new(|e| matches!(e, Event::Allocate { .. })),
        );
        vm.stage2().tlb().arm();
        std::thread::scope(|scope| {
            scope.spawn(|| write(&mut vm.vcpu(), 0));
            vm.stage2().tlb().wait();
            let host = scope.spawn(|| vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap());
            if policy == Policy::Lockless {
                while vm.waits() == 0 && !host.is_finished() {
                    std::thread::yield_now();
                }
            }
            vm.stage2().tlb().release();
        });
        let (level, prot) = leaf(&vm, ipa(0)).unwrap();
        let writable = prot.contains(s2pt::arch::Prot::W);
        // Either the block came first and was protected, or the fault came second and logged its page.
        let logged = pages(&vm.dirty_log(0).unwrap()) == [0];
        assert!(!writable || logged && level.get() == 3, "{policy:?}: {level} {prot:?}");
    }
}
