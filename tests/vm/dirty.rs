//! The dirty log: modes, the rules of its calls, and what is protected when.

use s2pt::arch::{AccessKind, GeometryOptions, Granule, Ipa, Level, Pa, Prot, Scope, Tlbi};
use s2pt::table::{Counting, Event};
use s2pt::vm::{Backing, DirtyLogMode, Error, Policy, Slot};

use crate::support::*;

const MODES: [DirtyLogMode; 3] = [
    DirtyLogMode::Auto,
    DirtyLogMode::Manual,
    DirtyLogMode::ManualInitiallySet,
];

#[test]
fn what_is_protected_and_set_when_logging_starts() {
    for policy in Policy::ALL {
        for mode in MODES {
            let vm = vm(policy, Backing::Thp, 2 * BLOCK + 3 * PAGE);
            let mut vcpu = vm.vcpu();
            for offset in [0, BLOCK, 2 * BLOCK] {
                write(&mut vcpu, offset);
            }
            assert_eq!(vm.dirty_log_mode(0), Ok(None));
            vm.enable_dirty_log(0, mode).unwrap();
            assert_eq!(vm.dirty_log_mode(0), Ok(Some(mode)));
            let set = mode == DirtyLogMode::ManualInitiallySet;
            let prot = if set { Prot::RW } else { Prot::R };
            assert_eq!(leaf(&vm, ipa(0)), Some((Level::L2, prot)));
            assert_eq!(leaf(&vm, ipa(2 * BLOCK)), Some((Level::L3, prot)));
            let found = vm.dirty_log(0).unwrap();
            // 1027 pages: 16 whole words and three bits; none beyond the last page.
            assert_eq!(found.len(), 17);
            assert_eq!(pages(&found).len(), if set { 1027 } else { 0 });
        }
    }
}

#[test]
fn calls_that_make_no_sense_are_refused() {
    let vm = vm(Policy::Lockless, Backing::Thp, BLOCK + PAGE);
    assert_eq!(vm.dirty_log(0), Err(Error::NotLogging { slot: 0 }));
    assert_eq!(vm.clear_dirty_log(0, 0, 64, &[0]), Err(Error::NotLogging { slot: 0 }));
    assert_eq!(vm.disable_dirty_log(0), Err(Error::NotLogging { slot: 0 }));
    for result in [
        vm.dirty_log(5).map(drop),
        vm.enable_dirty_log(5, DirtyLogMode::Auto),
        vm.disable_dirty_log(5),
    ] {
        assert_eq!(result, Err(Error::NoSlot { slot: 5 }));
    }
    vm.enable_dirty_log(0, DirtyLogMode::Manual).unwrap();
    assert_eq!(
        vm.enable_dirty_log(0, DirtyLogMode::Auto),
        Err(Error::AlreadyLogging { slot: 0 })
    );
    // 513 pages. Start and length in words of 64 pages, or up to the very end.
    let ones = [!0; 16];
    for (first_page, pages) in [
        (1, 64),
        (64, 63),
        (0, 1),
        (0, 577),
        (576, 64),
        (!0, 64),
        (512, 2),
        (0, !0),
    ] {
        let refused = vm.clear_dirty_log(0, first_page, pages, &ones);
        assert_eq!(
            refused,
            Err(Error::ClearRange {
                slot: 0,
                first_page,
                pages,
                slot_pages: 513
            })
        );
    }
    for (first_page, pages) in [(0, 64), (0, 513), (512, 1), (448, 65), (64, 128), (0, 0)] {
        vm.clear_dirty_log(0, first_page, pages, &ones).unwrap();
    }
    let short = vm.clear_dirty_log(0, 0, 513, &ones[..8]);
    assert_eq!(
        short,
        Err(Error::BitmapLength {
            slot: 0,
            words: 8,
            required: 9
        })
    );
}

/// Get is a harvest without manual protection, a copy with it.
#[test]
fn getting_protects_only_without_manual_protection() {
    for policy in Policy::ALL {
        for mode in [DirtyLogMode::Auto, DirtyLogMode::Manual] {
            let vm = vm(policy, Backing::Thp, BLOCK);
            vm.enable_dirty_log(0, mode).unwrap();
            let mut vcpu = vm.vcpu();
            for page in [3, 70, 71, 400] {
                write(&mut vcpu, page * PAGE);
            }
            assert_eq!(pages(&vm.dirty_log(0).unwrap()), [3, 70, 71, 400]);
            let prot = if mode == DirtyLogMode::Auto { Prot::R } else { Prot::RW };
            assert_eq!(leaf(&vm, ipa(70 * PAGE)), Some((Level::L3, prot)));
            write(&mut vcpu, 70 * PAGE);
            let again = if mode == DirtyLogMode::Auto {
                vec![70]
            } else {
                vec![3, 70, 71, 400]
            };
            assert_eq!(pages(&vm.dirty_log(0).unwrap()), again);
        }
    }
}

/// Only bits that are in both bitmaps are cleared and protected.
#[test]
fn clearing_takes_what_was_asked_and_found() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Pages, 256 * PAGE);
        vm.enable_dirty_log(0, DirtyLogMode::Manual).unwrap();
        let mut vcpu = vm.vcpu();
        for page in [0, 5, 64, 130, 200] {
            write(&mut vcpu, page * PAGE);
        }
        // Pages 64.. : the second word asks for page 64 and for 65, which is clean; the third for nothing.
        vm.clear_dirty_log(0, 64, 128, &[0b11, 0]).unwrap();
        assert_eq!(pages(&vm.dirty_log(0).unwrap()), [0, 5, 130, 200]);
        for (page, prot) in [
            (0, Prot::RW),
            (5, Prot::RW),
            (64, Prot::R),
            (130, Prot::RW),
            (200, Prot::RW),
        ] {
            assert_eq!(leaf(&vm, ipa(page * PAGE)), Some((Level::L3, prot)), "page {page}");
        }
        write(&mut vcpu, 64 * PAGE);
        assert_eq!(pages(&vm.dirty_log(0).unwrap()), [0, 5, 64, 130, 200]);
    }
}

/// However many runs of pages are protected, CPUs are interrupted once.
#[test]
fn one_harvest_is_one_invalidation() {
    let vm = vm_with(vm_options(Policy::Lockless, Backing::Pages), 4 * BLOCK, Counting::new());
    vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
    let mut vcpu = vm.vcpu();
    for page in [1, 300, 301, 700, 1500] {
        write(&mut vcpu, page * PAGE);
    }
    let before = vm.stage2().tlb().counts().tlbi();
    assert_eq!(pages(&vm.dirty_log(0).unwrap()), [1, 300, 301, 700, 1500]);
    assert_eq!(vm.stage2().tlb().counts().tlbi() - before, 1);
    assert!(pages(&vm.dirty_log(0).unwrap()).is_empty());
    assert_eq!(
        vm.stage2().tlb().counts().tlbi() - before,
        1,
        "nothing found, nothing to do"
    );
}

/// Clearing 64 pages of a block protects the block and splits nothing: that is left to the write that needs it.
#[test]
fn clearing_a_part_of_a_block_does_not_split_it() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Thp, 2 * BLOCK);
        let mut vcpu = vm.vcpu();
        write(&mut vcpu, 0);
        write(&mut vcpu, BLOCK);
        vm.enable_dirty_log(0, DirtyLogMode::ManualInitiallySet).unwrap();
        vm.clear_dirty_log(0, 64, 64, &[!0]).unwrap();
        assert_eq!(leaf(&vm, ipa(0)), Some((Level::L2, Prot::R)));
        assert_eq!(leaf(&vm, ipa(BLOCK)), Some((Level::L2, Prot::RW)));
        let still_set = pages(&vm.dirty_log(0).unwrap());
        assert_eq!(
            (still_set.len(), still_set.contains(&63), still_set.contains(&64)),
            (1024 - 64, true, false)
        );
        write(&mut vcpu, 64 * PAGE);
        assert_eq!(pages(&vm.dirty_log(0).unwrap()).len(), 1024 - 63);
        assert_eq!(leaf(&vm, ipa(65 * PAGE)), Some((Level::L3, Prot::R)));
    }
}

/// Eager splitting: writes then only relax pages.
#[test]
fn split_ahead_a_write_relaxes_one_page() {
    let vm = vm(Policy::Lockless, Backing::Thp, 2 * BLOCK);
    let mut vcpu = vm.vcpu();
    write(&mut vcpu, 0);
    vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
    assert_eq!(vm.split(ipa(0), 2 * BLOCK), Ok(1));
    assert_eq!(vm.split(ipa(0), 2 * BLOCK), Ok(0));
    let fault = vcpu.translate(ipa(PAGE), AccessKind::Write).unwrap_err();
    assert_eq!(fault.level, Level::L3);
    write(&mut vcpu, PAGE);
    assert_eq!(pages(&vm.dirty_log(0).unwrap()), [1]);
}

#[test]
fn switching_off_and_on_starts_afresh() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Pages, BLOCK);
        let mut vcpu = vm.vcpu();
        vm.enable_dirty_log(0, DirtyLogMode::Manual).unwrap();
        write(&mut vcpu, PAGE);
        vm.disable_dirty_log(0).unwrap();
        write(&mut vcpu, 2 * PAGE);
        vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
        assert!(pages(&vm.dirty_log(0).unwrap()).is_empty());
        write(&mut vcpu, PAGE);
        assert_eq!(pages(&vm.dirty_log(0).unwrap()), [1]);
    }
}

#[test]
fn pages_of_other_granules_are_counted_in_their_own_size() {
    for of in [Granule::K16, Granule::K64] {
        let vm = vm_over(granule(of), Policy::Lockless, Backing::Thp, |_| {});
        let page = of.size();
        vm.create_slot(Slot::linear(3, Ipa::new(0), 1 << 30, Pa::new(1 << 36)))
            .unwrap();
        let mut vcpu = vm.vcpu();
        vcpu.access(Ipa::new(0), AccessKind::Write).unwrap();
        vm.enable_dirty_log(3, DirtyLogMode::Auto).unwrap();
        vcpu.access(Ipa::new(77 * page), AccessKind::Write).unwrap();
        assert_eq!(pages(&vm.dirty_log(3).unwrap()), [77]);
    }
}

/// Two slots are logged apart; taking memory back leaves the bits, as KVM does.
#[test]
fn slots_are_logged_apart() {
    let vm = vm_over(GeometryOptions::default(), Policy::Lockless, Backing::Thp, |_| {});
    for id in [0, 1] {
        vm.create_slot(Slot::linear(id, ipa(u64::from(id) * BLOCK), BLOCK, Pa::new(HOST)))
            .unwrap();
    }
    vm.enable_dirty_log(1, DirtyLogMode::Auto).unwrap();
    let mut vcpu = vm.vcpu();
    assert_eq!(write(&mut vcpu, 0), Level::L2);
    assert_eq!(write(&mut vcpu, BLOCK + PAGE), Level::L3);
    vm.take_back(ipa(BLOCK), BLOCK).unwrap();
    assert_eq!(pages(&vm.dirty_log(1).unwrap()), [1]);
}

/// What must hold whenever nobody is at work: a writable page of a logged slot has its bit set.
fn writable_pages_are_marked<T: s2pt::table::Tlb>(vm: &s2pt::vm::Vm<s2pt::memory::Arena, T>, page: u64) {
    let (level, prot) = leaf(vm, ipa(page * PAGE)).unwrap();
    let marked = pages(&vm.dirty_log(0).unwrap()).contains(&page);
    assert!(level.is_last() && prot.contains(Prot::W), "the fault came last");
    assert!(
        marked,
        "page {page} is writable and not marked: later writes would be lost"
    );
}

/// A harvest is held after it has protected the pages; the guest writes one again. The bit belongs to the next harvest.
#[test]
fn a_write_during_a_harvest_is_in_the_next_one() {
    let vm = vm_with(
        vm_options(Policy::Lockless, Backing::Pages),
        BLOCK,
        Gate::new(|e| {
            matches!(
                e,
                Event::Tlbi(
                    Tlbi::Ipa {
                        scope: Scope::Broadcast,
                        ..
                    } | Tlbi::Range { .. }
                )
            )
        }),
    );
    vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
    let mut vcpu = vm.vcpu();
    write(&mut vcpu, 5 * PAGE);
    let gate = vm.stage2().tlb();
    gate.arm();
    std::thread::scope(|scope| {
        let harvest = scope.spawn(|| pages(&vm.dirty_log(0).unwrap()));
        gate.wait();
        write(&mut vcpu, 5 * PAGE);
        gate.release();
        assert_eq!(harvest.join().unwrap(), [5]);
    });
    writable_pages_are_marked(&vm, 5);
}

/// A fault is held before it makes its page writable; a harvest passes. The bit must be set afterwards.
#[test]
fn a_harvest_during_a_fault_leaves_the_page_for_the_next_one() {
    let gate = Gate::new(|e| matches!(e, Event::Allocate { .. }));
    let vm = vm_with(vm_options(Policy::Lockless, Backing::Thp), BLOCK, gate);
    let mut vcpu = vm.vcpu();
    write(&mut vcpu, 0);
    vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
    let gate = vm.stage2().tlb();
    gate.arm();
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| write(&mut vm.vcpu(), 9 * PAGE)); // splits the block
        gate.wait();
        assert!(pages(&vm.dirty_log(0).unwrap()).is_empty());
        gate.release();
        guest.join().unwrap();
    });
    writable_pages_are_marked(&vm, 9);
}
