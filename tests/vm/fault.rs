//! The fault handler's decisions, row by row, and KVM's rule for sizes.

use s2pt::arch::{AccessKind, FaultKind, GeometryOptions, Granule, Ipa, Level, MemType, Pa, Prot};
use s2pt::memory::TableMemory;
use s2pt::table::{Counting, Error as TableError};
use s2pt::vm::{
    AccessError, Backing, DirtyLogMode, Error, ExitReason, FaultClass, Handled, HostPage, Outcome, OutcomeClass,
    PaSource, Policy, Retry, Slot,
};

use crate::support::*;

const W: AccessKind = AccessKind::Write;
const R: AccessKind = AccessKind::Read;
const X: AccessKind = AccessKind::Execute;

#[test]
fn a_translation_fault_maps_the_backing_size() {
    for policy in Policy::ALL {
        for (backing, level) in [
            (Backing::Pages, Level::L3),
            (Backing::Thp, Level::L2),
            (Backing::Huge1G, Level::L1),
        ] {
            let vm = vm(policy, backing, 2 * GIB);
            let mut vcpu = vm.vcpu();
            let at = ipa(GIB + 5 * BLOCK + 0x1234);
            let fault = vcpu.translate(at, W).unwrap_err();
            assert_eq!(
                vcpu.handle_fault(&fault),
                Ok(Outcome::Handled(Handled::Mapped { level }))
            );
            let hit = vcpu.translate(at, W).unwrap();
            assert_eq!(
                (hit.level, hit.pa.get(), hit.prot),
                (level, HOST + GIB + 5 * BLOCK + 0x1234, Prot::RW)
            );
        }
    }
}

/// KVM-SEMANTICS 4.2 step 3: congruent modulo the size, and the window inside the slot.
#[test]
fn a_block_needs_congruence_and_room() {
    let level = |start: u64, size: u64, host: u64, at: u64| {
        let vm = vm_over(GeometryOptions::default(), Policy::Lockless, Backing::Huge1G, |_| {});
        let source = PaSource::Linear(Pa::new(host));
        vm.create_slot(Slot {
            id: 0,
            ipa: Ipa::new(start),
            size,
            host,
            source,
            readonly: false,
        })
        .unwrap();
        vm.vcpu().access(Ipa::new(at), W).unwrap().level.get()
    };
    assert_eq!(level(BASE, GIB, HOST, BASE), 1);
    assert_eq!(level(BASE, GIB - PAGE, HOST, BASE), 2, "1 GiB does not fit");
    assert_eq!(
        level(BASE, GIB - PAGE, HOST, BASE + GIB - BLOCK),
        3,
        "the last 2 MiB are not whole"
    );
    assert_eq!(level(BASE, GIB, HOST + BLOCK, BASE), 2, "congruent modulo 2 MiB only");
    assert_eq!(level(BASE, GIB, HOST + PAGE, BASE), 3, "not congruent");
    assert_eq!(
        level(BASE + BLOCK - PAGE, 4 * BLOCK, HOST + BLOCK - PAGE, BASE + BLOCK - PAGE),
        3,
        "before the window"
    );
    assert_eq!(
        level(BASE + BLOCK - PAGE, 4 * BLOCK, HOST + BLOCK - PAGE, BASE + BLOCK),
        2,
        "in the first whole window"
    );
}

#[test]
fn the_host_address_alone_can_forbid_a_block() {
    let vm = vm_over(GeometryOptions::default(), Policy::Lockless, Backing::Thp, |_| {});
    let slot = Slot::linear(0, Ipa::new(BASE), BLOCK, Pa::new(HOST));
    vm.create_slot(Slot {
        host: HOST + PAGE,
        ..slot
    })
    .unwrap();
    assert_eq!(vm.vcpu().access(Ipa::new(BASE), W).unwrap().level, Level::L3);
}

#[test]
fn other_granules_use_their_own_blocks() {
    for (of, block) in [(Granule::K16, 32 << 20), (Granule::K64, 512 << 20)] {
        for backing in [Backing::Thp, Backing::Huge1G] {
            let vm = vm_over(granule(of), Policy::Lockless, backing, |_| {});
            vm.create_slot(Slot::linear(0, Ipa::new(0), 2 * block, Pa::new(1 << 35)))
                .unwrap();
            let hit = vm.vcpu().access(Ipa::new(block + of.size()), W).unwrap();
            assert_eq!((hit.level, hit.pa.get()), (Level::L2, (1 << 35) + block + of.size()));
            assert_eq!(vm.stage2().handle().stats().mapped_bytes, block);
        }
        let vm = vm_over(granule(of), Policy::Lockless, Backing::Pages, |_| {});
        vm.create_slot(Slot::linear(0, Ipa::new(0), 2 * block, Pa::new(1 << 35)))
            .unwrap();
        assert_eq!(vm.vcpu().access(Ipa::new(0), W).unwrap().level, Level::L3);
        assert_eq!(vm.stage2().handle().stats().mapped_bytes, of.size());
    }
}

#[test]
fn the_hosts_own_page_limits_the_block() {
    let vm = vm(Policy::Lockless, Backing::Huge1G, GIB);
    let mut vcpu = vm.vcpu();
    for (offset, size, level) in [(0, PAGE, Level::L3), (BLOCK, BLOCK, Level::L2)] {
        let fault = vcpu.translate(ipa(offset), W).unwrap_err();
        let host = |_: &Slot, at: Ipa, _| Ok(HostPage::new(Pa::new(HOST + at.get() - BASE), size));
        assert_eq!(
            vcpu.handle_fault_with(&fault, host),
            Ok(Outcome::Handled(Handled::Mapped { level }))
        );
    }
}

#[test]
fn logging_maps_pages_and_reads_read_only() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Thp, 2 * BLOCK);
        vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
        let mut vcpu = vm.vcpu();
        write(&mut vcpu, 0);
        read(&mut vcpu, PAGE);
        vcpu.access(ipa(2 * PAGE), X).unwrap();
        assert_eq!(leaf(&vm, ipa(0)), Some((Level::L3, Prot::RW)));
        assert_eq!(leaf(&vm, ipa(PAGE)), Some((Level::L3, Prot::R)));
        assert_eq!(leaf(&vm, ipa(2 * PAGE)), Some((Level::L3, Prot::R | Prot::X)));
        write(&mut vcpu, PAGE);
        assert_eq!(leaf(&vm, ipa(PAGE)), Some((Level::L3, Prot::RW)), "relaxed");
        let outcomes = vcpu.counters();
        assert_eq!(
            (
                outcomes.outcomes(OutcomeClass::MappedPage),
                outcomes.outcomes(OutcomeClass::Relaxed)
            ),
            (3, 1)
        );
        assert_eq!(
            pages(&vm.dirty_log(0).unwrap()),
            [0, 1],
            "a fetch and a read mark nothing"
        );
    }
}

/// One break splits the block; the 511 other pages stay mapped, read-only, and need no translation fault.
#[test]
fn a_logged_write_to_a_block_splits_it_in_one_break() {
    for policy in Policy::ALL {
        let vm = vm_with(vm_options(policy, Backing::Thp), 2 * BLOCK, Counting::new());
        let mut vcpu = vm.vcpu();
        write(&mut vcpu, 0);
        vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
        assert_eq!(leaf(&vm, ipa(0)), Some((Level::L2, Prot::R)));
        let fault = vcpu.translate(ipa(9 * PAGE), W).unwrap_err();
        assert_eq!((fault.kind, fault.level), (FaultKind::Permission, Level::L2));
        let before = vm.stage2().tlb().counts();
        assert_eq!(vcpu.handle_fault(&fault), Ok(Outcome::Handled(Handled::Split)));
        let after = vm.stage2().tlb().counts();
        assert_eq!(
            (after.tlbi() - before.tlbi(), after.allocated - before.allocated),
            (1, 1)
        );
        assert_eq!(leaf(&vm, ipa(9 * PAGE)), Some((Level::L3, Prot::RW)));
        let others = (0..512).filter(|&n| n != 9);
        assert!(
            others
                .clone()
                .all(|n| leaf(&vm, ipa(n * PAGE)) == Some((Level::L3, Prot::R)))
        );
        assert!(
            others
                .clone()
                .all(|n| vcpu.translate(ipa(n * PAGE), R).unwrap().pa.get() == HOST + n * PAGE)
        );
        assert_eq!(pages(&vm.dirty_log(0).unwrap()), [9]);
    }
}

#[test]
fn an_execute_fault_on_a_block_relaxes_it_whole_unless_logged() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Thp, 2 * BLOCK);
        let mut vcpu = vm.vcpu();
        write(&mut vcpu, 0);
        let fault = vcpu.translate(ipa(PAGE), X).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Permission);
        assert_eq!(vcpu.handle_fault(&fault), Ok(Outcome::Handled(Handled::Relaxed)));
        assert_eq!(leaf(&vm, ipa(0)), Some((Level::L2, Prot::RWX)));
        write(&mut vcpu, BLOCK);
        vm.enable_dirty_log(0, DirtyLogMode::ManualInitiallySet).unwrap();
        vcpu.access(ipa(BLOCK + PAGE), X).unwrap();
        assert_eq!(leaf(&vm, ipa(BLOCK)), Some((Level::L3, Prot::RW)));
        assert_eq!(leaf(&vm, ipa(BLOCK + PAGE)), Some((Level::L3, Prot::RWX)));
    }
}

#[test]
fn eager_execution_spares_the_second_fault() {
    let eager = s2pt::vm::VmOptions {
        execute_eagerly: true,
        ..vm_options(Policy::Lockless, Backing::Thp)
    };
    let vm = vm_with(eager, BLOCK, s2pt::table::Null);
    let mut vcpu = vm.vcpu();
    read(&mut vcpu, 0);
    vcpu.translate(ipa(0), X).unwrap();
    assert_eq!(vcpu.counters().total(), 1);
}

/// After logging: a translation fault, a write or a fetch that the page lacks, each brings the block back.
#[test]
fn faults_after_logging_collapse() {
    for policy in Policy::ALL {
        for access in [R, W, X] {
            let vm = vm(policy, Backing::Thp, 2 * BLOCK);
            let mut vcpu = vm.vcpu();
            vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
            read(&mut vcpu, 3 * PAGE);
            vm.disable_dirty_log(0).unwrap();
            let at = if access == R { ipa(PAGE) } else { ipa(3 * PAGE) };
            let fault = vcpu.translate(at, access).unwrap_err();
            let kind = if access == R {
                FaultKind::Translation
            } else {
                FaultKind::Permission
            };
            assert_eq!((fault.kind, fault.level), (kind, Level::L3));
            let collapsed = Outcome::Handled(Handled::Collapsed { level: Level::L2 });
            assert_eq!(vcpu.handle_fault(&fault), Ok(collapsed));
            let prot = if access == X { Prot::RWX } else { Prot::RW };
            assert_eq!(leaf(&vm, ipa(0)), Some((Level::L2, prot)));
            vm.stage2().handle().drain();
            let stats = vm.stage2().handle().stats();
            assert_eq!((stats.table_frames(), stats.mapped_bytes), (3, BLOCK));
            assert_eq!(vm.stage2().memory().frames_in_use(), 3);
        }
    }
}

#[test]
fn a_write_to_a_protected_leaf_of_full_size_relaxes() {
    let vm = vm(Policy::Lockless, Backing::Thp, BLOCK);
    let mut vcpu = vm.vcpu();
    write(&mut vcpu, 0);
    vm.write_protect(ipa(0), BLOCK).unwrap();
    let fault = vcpu.translate(ipa(0), W).unwrap_err();
    assert_eq!(vcpu.handle_fault(&fault), Ok(Outcome::Handled(Handled::Relaxed)));
    assert_eq!(leaf(&vm, ipa(0)), Some((Level::L2, Prot::RW)));
}

#[test]
fn a_read_only_slot_maps_reads_and_exits_on_writes() {
    for policy in Policy::ALL {
        let vm = vm_over(GeometryOptions::default(), policy, Backing::Thp, |_| {});
        let slot = Slot::linear(0, Ipa::new(BASE), BLOCK, Pa::new(HOST));
        vm.create_slot(Slot { readonly: true, ..slot }).unwrap();
        let mut vcpu = vm.vcpu();
        let exit = AccessError::Exit {
            ipa: ipa(0),
            reason: ExitReason::ReadOnly,
        };
        assert_eq!(vcpu.access(ipa(0), W), Err(exit));
        assert_eq!(vm.stage2().handle().stats().mapped_bytes, 0);
        read(&mut vcpu, 0);
        assert_eq!(leaf(&vm, ipa(0)), Some((Level::L2, Prot::R)));
        assert_eq!(vcpu.access(ipa(0), W), Err(exit), "also where it is mapped");
        vcpu.access(ipa(0), X).unwrap();
        assert_eq!(leaf(&vm, ipa(0)), Some((Level::L2, Prot::R | Prot::X)));
    }
}

#[test]
fn the_access_flag_is_set_by_a_fault_where_hardware_does_not() {
    for policy in Policy::ALL {
        let vm = vm_over(GeometryOptions::default(), policy, Backing::Thp, |c| c.ha = false);
        vm.create_slot(Slot::linear(0, Ipa::new(BASE), BLOCK, Pa::new(HOST)))
            .unwrap();
        let mut vcpu = vm.vcpu();
        write(&mut vcpu, 0);
        assert!(
            vm.age(ipa(0), PAGE, true).unwrap(),
            "any page of the block speaks for it"
        );
        let fault = vcpu.translate(ipa(0), R).unwrap_err();
        assert_eq!(fault.kind, FaultKind::AccessFlag);
        assert_eq!(vcpu.handle_fault(&fault), Ok(Outcome::Handled(Handled::MarkedYoung)));
        vcpu.translate(ipa(BLOCK - 1), R).unwrap();
        assert!(vm.age(ipa(PAGE), PAGE, false).unwrap());
        // The leaf went away between the fault and its handling.
        vm.take_back(ipa(0), BLOCK).unwrap();
        assert_eq!(vcpu.handle_fault(&fault), Ok(Outcome::Again(Retry::Peer)));
    }
}

#[test]
fn a_stage_1_walk_reads_unless_it_lacks_permission() {
    let vm = vm(Policy::Lockless, Backing::Pages, BLOCK);
    vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
    let mut vcpu = vm.vcpu();
    // The level is one of stage 1, and the write is that of the instruction, not of the walk.
    let walk = s2pt::arch::Fault {
        s1ptw: true,
        ..fault(ipa(0), FaultKind::Translation, W, Level::L0)
    };
    assert_eq!(
        vcpu.handle_fault(&walk),
        Ok(Outcome::Handled(Handled::Mapped { level: Level::L3 }))
    );
    assert_eq!(leaf(&vm, ipa(0)), Some((Level::L3, Prot::R)));
    let walk = s2pt::arch::Fault {
        kind: FaultKind::Permission,
        access: X,
        ..walk
    };
    assert_eq!(vcpu.handle_fault(&walk), Ok(Outcome::Handled(Handled::Relaxed)));
    assert_eq!(leaf(&vm, ipa(0)), Some((Level::L3, Prot::RW)));
    assert_eq!(pages(&vm.dirty_log(0).unwrap()), [0]);
    let counters = vcpu.counters();
    assert_eq!(counters.faults(FaultClass::TranslationRead), 1);
    assert_eq!(counters.faults(FaultClass::PermissionWrite), 1);
}

#[test]
fn device_memory_is_mapped_in_pages_and_never_executed() {
    let vm = vm(Policy::Lockless, Backing::Thp, BLOCK);
    let mut vcpu = vm.vcpu();
    let device = |_: &Slot, _: Ipa, _: bool| {
        Ok(HostPage {
            memtype: MemType::DeviceNGnRE,
            ..HostPage::new(Pa::new(HOST), BLOCK)
        })
    };
    let fetch = vcpu.translate(ipa(0), X).unwrap_err();
    assert_eq!(
        vcpu.handle_fault_with(&fetch, device),
        Ok(Outcome::Exit(ExitReason::Fetch))
    );
    let load = vcpu.translate(ipa(0), R).unwrap_err();
    let mapped = Outcome::Handled(Handled::Mapped { level: Level::L3 });
    assert_eq!(vcpu.handle_fault_with(&load, device), Ok(mapped));
    assert_eq!(vcpu.translate(ipa(0), R).unwrap().memtype, MemType::DeviceNGnRE);
}

#[test]
fn impossible_faults_are_errors() {
    let vm = vm(Policy::Lockless, Backing::Thp, BLOCK);
    let mut vcpu = vm.vcpu();
    write(&mut vcpu, 0);
    let refused = vcpu.handle_fault(&fault(ipa(0), FaultKind::Permission, R, Level::L2));
    assert_eq!(refused, Err(Error::UnexpectedFault { ipa: ipa(0), access: R }));
    let refused = vcpu.handle_fault(&fault(ipa(0), FaultKind::AddressSize, R, Level::L2));
    assert_eq!(
        refused,
        Err(Error::UnsupportedFault {
            ipa: ipa(0),
            kind: FaultKind::AddressSize
        })
    );
    let supplied = Slot {
        source: PaSource::Supplied,
        ..Slot::linear(1, ipa(GIB), BLOCK, Pa::new(0))
    };
    vm.create_slot(supplied).unwrap();
    let nobody = vcpu.access(ipa(GIB), R).unwrap_err();
    assert_eq!(
        nobody,
        AccessError::Fault(Error::NoHostPage {
            slot: 1,
            ipa: ipa(GIB),
            write: false
        })
    );
    let read_only = |_: &Slot, _: Ipa, _: bool| {
        Ok(HostPage {
            writable: false,
            ..HostPage::new(Pa::new(0), PAGE)
        })
    };
    let fault = vcpu.translate(ipa(GIB), W).unwrap_err();
    let refused = vcpu.handle_fault_with(&fault, read_only);
    assert_eq!(
        refused,
        Err(Error::NoHostPage {
            slot: 1,
            ipa: ipa(GIB),
            write: true
        })
    );
    assert_eq!(vcpu.counters().outcomes(OutcomeClass::Error), 4);
}

/// Out of frames: an error, nothing mapped, nothing marked; with frames again it works.
#[test]
fn out_of_frames_changes_nothing() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Pages, BLOCK);
        vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
        let mut vcpu = vm.vcpu();
        let frames = vm.stage2().memory().frames_in_use();
        vm.stage2().memory().set_quota(Some(frames));
        let refused = vcpu.access(ipa(0), W).unwrap_err();
        assert!(
            matches!(
                refused,
                AccessError::Fault(Error::Table(TableError::OutOfFrames { .. }))
            ),
            "{refused:?}"
        );
        assert_eq!(vm.stage2().memory().frames_in_use(), frames);
        assert!(pages(&vm.dirty_log(0).unwrap()).is_empty());
        vm.stage2().memory().set_quota(None);
        write(&mut vcpu, 0);
    }
}

/// A peer maps between the fault and its handling: nothing is changed, nothing marked, the guest tries again.
#[test]
fn a_lost_race_is_again_and_marks_nothing() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Pages, BLOCK);
        vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
        let (mut one, mut two) = (vm.vcpu(), vm.vcpu());
        let late = two.translate(ipa(0), W).unwrap_err();
        read(&mut one, 0);
        assert_eq!(two.handle_fault(&late), Ok(Outcome::Again(Retry::Peer)));
        assert!(pages(&vm.dirty_log(0).unwrap()).is_empty());
        assert_eq!(leaf(&vm, ipa(0)), Some((Level::L3, Prot::R)));
        write(&mut two, 0);
        assert_eq!(pages(&vm.dirty_log(0).unwrap()), [0]);
        // The same for a permission fault whose page is gone.
        vm.write_protect(ipa(0), PAGE).unwrap();
        let late = two.translate(ipa(0), W).unwrap_err();
        vm.take_back(ipa(0), PAGE).unwrap();
        assert_eq!(two.handle_fault(&late), Ok(Outcome::Again(Retry::Peer)));
    }
}
