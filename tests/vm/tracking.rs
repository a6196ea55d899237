//! Other ways to learn of writes than one bitmap and write protection: hardware's notes, rings, splitting ahead.

use core::time::Duration;
use std::time::Instant;

use s2pt::arch::{AccessKind, Ipa, Level, Pa, Prot};
use s2pt::table::{Counting, Null, StallKind};
use s2pt::vm::{
    AccessError, Backing, Cost, Counters, DirtyLogMode, DirtyLogOptions, DirtyPage, DirtyTracking, Error, ExitReason,
    FaultClass, OutcomeClass, Policy, Slot, VmOptions,
};

use crate::support::*;

const BY_HARDWARE: DirtyLogOptions = DirtyLogOptions {
    mode: DirtyLogMode::Auto,
    tracking: DirtyTracking::Hardware,
    eager_split: None,
};

fn hardware(policy: Policy) -> VmOptions {
    VmOptions {
        hd: true,
        ..vm_options(policy, Backing::Thp)
    }
}

#[test]
fn hardware_notes_writes_without_a_fault() {
    for policy in Policy::ALL {
        for mode in [DirtyLogMode::Auto, DirtyLogMode::Manual] {
            let vm = vm_with(hardware(policy), 2 * BLOCK, Null);
            let mut vcpu = vm.vcpu();
            write(&mut vcpu, 0);
            let options = DirtyLogOptions { mode, ..BY_HARDWARE };
            vm.enable_dirty_log_with(0, options).unwrap();
            assert_eq!(vm.dirty_log_options(0), Ok(Some(options)));
            assert_eq!(leaf(&vm, ipa(5 * PAGE)), Some((Level::L3, Prot::R)), "split, and clean");
            let before = vcpu.counters();
            for page in [3, 4, 70] {
                write(&mut vcpu, page * PAGE);
            }
            assert_eq!(vcpu.counters(), before, "no fault");
            // In the block that was never touched the first access faults, as ever; and is noted.
            write(&mut vcpu, BLOCK + 9 * PAGE);
            read(&mut vcpu, BLOCK + 10 * PAGE);
            let found = vm.dirty_log(0).unwrap();
            assert_eq!(pages(&found), [3, 4, 70, 512 + 9], "{mode:?}");
            if mode == DirtyLogMode::Manual {
                // A copy: it is told again, with what came since, until it is cleared.
                write(&mut vcpu, 3 * PAGE);
                write(&mut vcpu, 8 * PAGE);
                assert_eq!(pages(&vm.dirty_log(0).unwrap()), [3, 4, 8, 70, 521]);
                write(&mut vcpu, 5 * PAGE);
                vm.clear_dirty_log(0, 0, 1024, &found).unwrap();
                assert_eq!(
                    pages(&vm.dirty_log(0).unwrap()),
                    [5, 8],
                    "what nobody has asked for is kept"
                );
            } else {
                assert!(pages(&vm.dirty_log(0).unwrap()).is_empty());
                write(&mut vcpu, 3 * PAGE);
                assert_eq!(pages(&vm.dirty_log(0).unwrap()), [3]);
            }
            vm.disable_dirty_log(0).unwrap();
            assert_eq!(leaf(&vm, ipa(5 * PAGE)), Some((Level::L3, Prot::RW)));
            assert_eq!(vm.merge(0), Ok(1));
            assert_eq!(leaf(&vm, ipa(5 * PAGE)), Some((Level::L2, Prot::RW)));
        }
    }
}

#[test]
fn what_hardware_noted_outlives_the_mapping() {
    let vm = vm_with(hardware(Policy::Lockless), 2 * BLOCK, Null);
    let mut vcpu = vm.vcpu();
    vm.enable_dirty_log_with(0, BY_HARDWARE).unwrap();
    for page in [1, 2, 600] {
        write(&mut vcpu, page * PAGE);
    }
    assert_eq!(vm.take_back(ipa(PAGE), PAGE).unwrap().bytes, PAGE);
    vm.move_slot(0, ipa(16 * BLOCK)).unwrap();
    assert_eq!(pages(&vm.dirty_log(0).unwrap()), [1, 2, 600]);
    assert!(pages(&vm.dirty_log(0).unwrap()).is_empty());
}

#[test]
fn rings_tell_each_page_once_and_hold_their_vcpu_back() {
    for policy in Policy::ALL {
        let ringed = VmOptions {
            dirty_ring: 16,
            ..vm_options(policy, Backing::Thp)
        };
        let vm = vm_with(ringed, 4 * BLOCK, Null);
        let (mut one, mut two) = (vm.vcpu(), vm.vcpu());
        write(&mut one, 0);
        vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
        let dirty = |page| DirtyPage { slot: 0, page };
        write(&mut one, 7 * PAGE);
        write(&mut two, 3 * PAGE);
        write(&mut two, 7 * PAGE); // writable already
        assert_eq!(vm.ring_entries(), 2);
        assert_eq!(vm.harvest_rings().unwrap(), [dirty(3), dirty(7)]);
        assert_eq!(leaf(&vm, ipa(7 * PAGE)), Some((Level::L3, Prot::R)));
        write(&mut two, 7 * PAGE);
        assert_eq!(vm.harvest_rings().unwrap(), [dirty(7)]);
        // Nine entries are one more than a ring of sixteen lets stand while eight are kept free.
        for page in 0..9 {
            write(&mut one, (600 + page) * PAGE);
        }
        let full = one.access(ipa(700 * PAGE), AccessKind::Write);
        let at = ipa(700 * PAGE);
        assert_eq!(
            full,
            Err(AccessError::Exit {
                ipa: at,
                reason: ExitReason::RingFull
            })
        );
        assert_eq!(one.counters().outcomes(OutcomeClass::ExitRingFull), 1);
        write(&mut two, 700 * PAGE); // the other's ring is its own
        assert_eq!(vm.harvest_rings().unwrap().len(), 10);
        write(&mut one, 701 * PAGE);
        assert_eq!(vm.dirty_log(0), Err(Error::RingsOnly { slot: 0 }));
        vm.disable_dirty_log(0).unwrap();
    }
    assert_eq!(
        vm(Policy::Lockless, Backing::Thp, BLOCK).harvest_rings(),
        Err(Error::NoRings)
    );
}

#[test]
fn a_ring_loses_nothing_beside_its_harvest() {
    let ringed = VmOptions {
        dirty_ring: 64,
        ..vm_options(Policy::Lockless, Backing::Thp)
    };
    let vm = vm_with(ringed, 4 * BLOCK, Null);
    vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
    let (vcpus, writes) = (4u64, 2000u64);
    let done = std::sync::atomic::AtomicU64::new(0);
    let told = std::thread::scope(|scope| {
        for index in 0..vcpus {
            let (vm, done) = (&vm, &done);
            scope.spawn(move || {
                let mut vcpu = vm.vcpu();
                for n in 0..writes {
                    // Each page of the vCPU's own once.
                    let page = (n * vcpus + index) % 2048;
                    while let Err(AccessError::Exit { .. }) = vcpu.access(ipa(page * PAGE), AccessKind::Write) {
                        std::thread::yield_now();
                    }
                }
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        let mut told = std::collections::BTreeSet::new();
        loop {
            let last = done.load(std::sync::atomic::Ordering::SeqCst) == vcpus;
            told.extend(vm.harvest_rings().unwrap());
            if last {
                return told;
            }
        }
    });
    assert_eq!(told.len(), 2048, "every page was written to");
    assert_eq!(vm.ring_entries(), 0);
}

/// Faults of one pass of writes over a block that was populated before logging, by kind.
fn second_pass(kind: VmOptions, options: DirtyLogOptions, clear: bool) -> Counters {
    let vm = vm_with(kind, 2 * BLOCK, Counting::new());
    let mut vcpu = vm.vcpu();
    let mut pass = || {
        let before = vcpu.counters();
        for page in 0..1024 {
            write(&mut vcpu, page * PAGE);
        }
        vcpu.counters() - before
    };
    pass();
    vm.enable_dirty_log_with(0, options).unwrap();
    if clear {
        vm.clear_dirty_log(0, 0, 1024, &[!0; 16]).unwrap();
    }
    pass()
}

#[test]
fn splitting_ahead_spares_the_writes_the_splits() {
    let count = |counters: &Counters| {
        (
            counters.faults(FaultClass::PermissionWrite),
            counters.faults(FaultClass::TranslationWrite),
            counters.outcomes(OutcomeClass::Split),
        )
    };
    let kvm = VmOptions {
        semantics: s2pt::table::Semantics::Kvm,
        ..vm_options(Policy::Parallel, Backing::Thp)
    };
    let exact = vm_options(Policy::Lockless, Backing::Thp);
    let options = |mode, eager_split| DirtyLogOptions {
        mode,
        eager_split,
        ..DirtyLogOptions::default()
    };
    use DirtyLogMode::{Auto, ManualInitiallySet};
    // KVM's lazy split: one permission fault a block, and the other 511 pages fault again.
    assert_eq!(count(&second_pass(kvm, options(Auto, None), false)), (2, 2 * 511, 2));
    // Ours: every page once, and nothing else.
    assert_eq!(count(&second_pass(exact, options(Auto, None), false)), (1024, 0, 2));
    for (kind, chunk) in [(kvm, BLOCK), (exact, BLOCK), (exact, GIB)] {
        assert_eq!(
            count(&second_pass(kind, options(Auto, Some(chunk)), false)),
            (1024, 0, 0)
        );
        let manual = options(ManualInitiallySet, Some(chunk));
        assert_eq!(count(&second_pass(kind, manual, true)), (1024, 0, 0));
        // Nothing was protected, so nothing faults.
        assert_eq!(second_pass(kind, manual, false).total(), 0);
    }
}

#[test]
fn splitting_ahead_goes_as_far_as_the_frames() {
    let small = VmOptions {
        memory: 0, // 256 frames
        ..vm_options(Policy::Lockless, Backing::Thp)
    };
    let vm = vm_with(small, GIB, Null);
    let mut vcpu = vm.vcpu();
    for block in 0..512 {
        write(&mut vcpu, block * BLOCK);
    }
    let options = DirtyLogOptions {
        mode: DirtyLogMode::Auto,
        eager_split: Some(BLOCK),
        ..DirtyLogOptions::default()
    };
    vm.enable_dirty_log_with(0, options).unwrap();
    assert_eq!(leaf(&vm, ipa(0)), Some((Level::L3, Prot::R)));
    assert_eq!(
        leaf(&vm, ipa(511 * BLOCK)),
        Some((Level::L2, Prot::R)),
        "no frame was left for this one"
    );
}

#[test]
fn options_that_do_not_go_together_are_refused_and_nothing_is_logged() {
    let refused = |kind: VmOptions, options: DirtyLogOptions| {
        let vm = vm_with(kind, BLOCK, Null);
        let answer = vm.enable_dirty_log_with(0, options);
        assert!(matches!(answer, Err(Error::LogOptions { slot: 0, .. })), "{answer:?}");
        assert_eq!(vm.dirty_log_options(0), Ok(None));
        answer.unwrap_err().to_string()
    };
    let plain = vm_options(Policy::Lockless, Backing::Thp);
    let ringed = VmOptions {
        dirty_ring: 16,
        ..plain
    };
    assert!(refused(plain, BY_HARDWARE).contains("hd"));
    assert!(refused(VmOptions { hd: true, ..ringed }, BY_HARDWARE).contains("bitmaps"));
    assert!(refused(ringed, DirtyLogMode::Manual.into()).contains("auto"));
    for chunk in [0, PAGE, BLOCK + PAGE] {
        let options = DirtyLogOptions {
            eager_split: Some(chunk),
            ..DirtyLogOptions::default()
        };
        assert!(refused(plain, options).contains("multiple"));
    }
    let vm = vm_with(plain, BLOCK, Null);
    assert_eq!(vm.merge(1), Err(Error::NoSlot { slot: 1 }));
    vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
    assert_eq!(vm.merge(0), Err(Error::AlreadyLogging { slot: 0 }));
    let far = Slot::linear(1 << 24, ipa(16 * BLOCK), BLOCK, Pa::new(HOST + GIB));
    let vm = vm_with(ringed, BLOCK, Null);
    vm.create_slot(far).unwrap();
    assert!(matches!(
        vm.enable_dirty_log(1 << 24, DirtyLogMode::Auto),
        Err(Error::LogOptions { .. })
    ));
}

#[test]
fn leaving_the_guest_costs_what_it_is_told_to() {
    let cost = Duration::from_micros(300);
    let slow = VmOptions {
        exit_cost: Cost::new(cost, StallKind::Spin),
        ..vm_options(Policy::Lockless, Backing::Pages)
    };
    let vm = vm_with(slow, BLOCK, Null);
    let mut vcpu = vm.vcpu();
    let since = Instant::now();
    for page in 0..10 {
        write(&mut vcpu, page * PAGE);
    }
    assert!(since.elapsed() >= 10 * cost);
    assert_eq!(Cost::new(Duration::ZERO, StallKind::Sleep), Cost::None);
    assert_eq!(leaf(&vm, Ipa::new(BASE)), Some((Level::L3, Prot::RW)));
}
