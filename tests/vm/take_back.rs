//! The host takes memory back while faults are under way.

use std::sync::atomic::{AtomicU64, Ordering};

use s2pt::arch::{AccessKind, Ipa, Level, Pa};
use s2pt::table::{Error as TableError, Event};
use s2pt::vm::{Backing, Error, HostPage, Outcome, Policy, Retry, Slot, Taken};

use crate::support::*;

#[test]
fn exactly_the_range_goes() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Thp, 4 * BLOCK);
        let mut vcpu = vm.vcpu();
        for n in 0..3 {
            write(&mut vcpu, n * BLOCK);
        }
        let taken = vm.take_back(ipa(BLOCK - PAGE), BLOCK + 2 * PAGE).unwrap();
        assert_eq!(
            taken,
            Taken {
                bytes: BLOCK + 2 * PAGE,
                widened: false
            }
        );
        for (offset, mapped) in [
            (BLOCK - 2 * PAGE, true),
            (BLOCK - PAGE, false),
            (2 * BLOCK, false),
            (2 * BLOCK + PAGE, true),
        ] {
            assert_eq!(leaf(&vm, ipa(offset)).is_some(), mapped, "{offset:#x}");
        }
        assert_eq!(
            vm.take_back(ipa(BLOCK), BLOCK).unwrap().bytes,
            0,
            "a second time there is nothing"
        );
    }
}

#[test]
fn wrong_ranges_are_refused_before_anything_begins() {
    let vm = vm(Policy::Lockless, Backing::Thp, BLOCK);
    let mut vcpu = vm.vcpu();
    write(&mut vcpu, 0);
    let table = |result: Result<Taken, Error>| match result {
        Err(Error::Table(e)) => e,
        other => panic!("{other:?}"),
    };
    let misaligned = table(vm.take_back(Ipa::new(BASE + 1), PAGE));
    assert_eq!(
        misaligned,
        TableError::Alignment {
            what: "ipa",
            value: BASE + 1,
            required: PAGE
        }
    );
    assert!(matches!(table(vm.take_back(ipa(0), 0)), TableError::ZeroSize { .. }));
    assert!(matches!(
        table(vm.take_back(ipa(0), 1 << 40)),
        TableError::Address { .. }
    ));
    assert!(matches!(
        table(vm.take_back(ipa(0), !0 << 12)),
        TableError::Address { .. }
    ));
    assert!(
        vm.age(ipa(0), 0, true).is_err() && vm.write_protect(ipa(1), PAGE).is_err() && vm.split(ipa(0), 1).is_err()
    );
    // Nothing is left in progress: faults go on.
    vm.take_back(ipa(0), BLOCK).unwrap();
    assert_eq!(write(&mut vcpu, 0), Level::L2);
}

/// No frame to keep the rest of the block in: the whole block goes rather than the call failing.
#[test]
fn taking_back_never_fails_for_want_of_memory() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Thp, 4 * BLOCK);
        let mut vcpu = vm.vcpu();
        write(&mut vcpu, 0);
        write(&mut vcpu, BLOCK);
        vm.stage2().memory().set_quota(Some(0));
        let taken = vm.take_back(ipa(PAGE), PAGE).unwrap();
        assert_eq!(
            taken,
            Taken {
                bytes: BLOCK,
                widened: true
            }
        );
        assert_eq!((leaf(&vm, ipa(0)), leaf(&vm, ipa(BLOCK)).is_some()), (None, true));
        vm.stage2().memory().set_quota(None);
        assert_eq!(write(&mut vcpu, 0), Level::L2, "the rest comes back by a fault");
    }
}

/// The page goes between the look-up of the host's page and the install, on the same thread or on another one.
#[test]
fn a_page_taken_back_under_a_fault_is_not_installed() {
    for policy in Policy::ALL {
        for elsewhere in [false, true] {
            let vm = vm(policy, Backing::Thp, 2 * BLOCK);
            let mut vcpu = vm.vcpu();
            let fault = vcpu.translate(ipa(0), AccessKind::Write).unwrap_err();
            let take = || vm.take_back(ipa(PAGE), PAGE).unwrap();
            let outcome = vcpu.handle_fault_with(&fault, |_, _, _| {
                if elsewhere {
                    std::thread::scope(|scope| scope.spawn(take).join().unwrap());
                } else {
                    take();
                }
                Ok(HostPage::new(Pa::new(HOST), BLOCK))
            });
            assert_eq!(outcome, Ok(Outcome::Again(Retry::Invalidated)));
            assert_eq!(vm.stage2().handle().stats().mapped_bytes, 0);
            assert_eq!(write(&mut vcpu, 0), Level::L2, "the next try succeeds");
        }
    }
}

#[test]
fn faults_elsewhere_do_not_retry() {
    let vm = vm(Policy::Lockless, Backing::Thp, 4 * BLOCK);
    let mut vcpu = vm.vcpu();
    let fault = vcpu.translate(ipa(0), AccessKind::Write).unwrap_err();
    let outcome = vcpu.handle_fault_with(&fault, |_, _, _| {
        vm.take_back(ipa(BLOCK), BLOCK)?;
        Ok(HostPage::new(Pa::new(HOST), BLOCK))
    });
    assert!(matches!(outcome, Ok(Outcome::Handled(_))));
}

/// Small pages have no windows of their own: a range of as many pages as there are sequence words leaves other faults alone.
#[test]
fn a_range_of_many_pages_stops_the_faults_near_it_only() {
    let vm = vm(Policy::Lockless, Backing::Pages, 4 * BLOCK);
    let mut vcpu = vm.vcpu();
    for (offset, stopped) in [
        (PAGE, true),
        (BLOCK - PAGE, true),
        (BLOCK, false),
        (3 * BLOCK + 7 * PAGE, false),
    ] {
        let fault = vcpu.translate(ipa(offset), AccessKind::Write).unwrap_err();
        let outcome = vcpu.handle_fault_with(&fault, |_, _, _| {
            vm.take_back(ipa(0), 64 * PAGE)?;
            Ok(HostPage::new(Pa::new(HOST), PAGE))
        });
        let again = outcome == Ok(Outcome::Again(Retry::Invalidated));
        assert_eq!(again, stopped, "fault at {offset:#x}: {outcome:?}");
    }
}

#[test]
fn a_range_over_many_windows_stops_faults_in_each() {
    let vm = vm(Policy::Lockless, Backing::Thp, GIB);
    let mut vcpu = vm.vcpu();
    // Windows that the range begins in, lies over, ends in; more windows than there are sequence words; then none.
    for (start, size, offset, stopped) in [
        (0, 2 * BLOCK + PAGE, 0, true),
        (0, 2 * BLOCK + PAGE, BLOCK, true),
        (0, 2 * BLOCK + PAGE, 2 * BLOCK, true),
        (0, 2 * BLOCK + PAGE, 3 * BLOCK, false),
        (BLOCK, 100 * BLOCK, 77 * BLOCK, true),
        (5 * BLOCK, 63 * BLOCK, 67 * BLOCK, true),
        (5 * BLOCK, 63 * BLOCK, 4 * BLOCK, false),
    ] {
        let fault = vcpu.translate(ipa(offset), AccessKind::Write).unwrap_err();
        let outcome = vcpu.handle_fault_with(&fault, |_, _, _| {
            vm.take_back(ipa(start), size)?;
            Ok(HostPage::new(Pa::new(HOST), BLOCK))
        });
        let again = outcome == Ok(Outcome::Again(Retry::Invalidated));
        assert_eq!(
            again, stopped,
            "{start:#x} + {size:#x}, fault at {offset:#x}: {outcome:?}"
        );
        vm.take_back(ipa(0), GIB).unwrap();
    }
}

/// As long as the host has its hands on the range, faults on it answer `Again` and do not ask the host.
#[test]
fn faults_wait_for_the_end_of_an_invalidation() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Thp, 2 * BLOCK);
        let mut vcpu = vm.vcpu();
        write(&mut vcpu, 0);
        let (one, two) = (
            vm.invalidate(ipa(0), PAGE).unwrap(),
            vm.invalidate(ipa(0), BLOCK).unwrap(),
        );
        assert_eq!((one.taken().bytes, two.taken().bytes), (PAGE, BLOCK - PAGE));
        let fault = vcpu.translate(ipa(0), AccessKind::Read).unwrap_err();
        let again = |vcpu: &mut s2pt::vm::Vcpu<'_, _, _>| {
            let outcome = vcpu.handle_fault_with(&fault, |_, _, _| panic!("the host's answer is about to change"));
            assert_eq!(outcome, Ok(Outcome::Again(Retry::Invalidated)));
        };
        again(&mut vcpu);
        one.end();
        again(&mut vcpu);
        drop(two);
        assert_eq!(read(&mut vcpu, 0), Level::L2);
    }
}

/// A fault is held between its last look and its install. The take-back must neither miss the install nor return before.
#[test]
fn a_take_back_waits_for_an_install_under_way() {
    for policy in Policy::ALL {
        let vm = vm_with(
            vm_options(policy, Backing::Thp),
            BLOCK,
            Gate::new(|e| matches!(e, Event::Allocate { .. })),
        );
        let gate = vm.stage2().tlb();
        gate.arm();
        std::thread::scope(|scope| {
            let guest = scope.spawn(|| {
                let mut vcpu = vm.vcpu();
                let fault = vcpu.translate(ipa(300 * PAGE), AccessKind::Write).unwrap_err();
                vcpu.handle_fault(&fault).unwrap()
            });
            gate.wait(); // frames are taken, the entry is not written yet
            let host = scope.spawn(|| {
                // Another page, of the block that the fault is about to install.
                vm.take_back(ipa(0), PAGE).unwrap();
                vm.vcpu().translate(ipa(0), AccessKind::Read).is_err()
            });
            if policy == Policy::Lockless {
                while vm.waits() == 0 && !host.is_finished() {
                    std::thread::yield_now();
                }
            }
            gate.release();
            assert!(matches!(guest.join().unwrap(), Outcome::Handled(_)));
            assert!(
                host.join().unwrap(),
                "{policy:?}: a stale translation after the take-back"
            );
        });
        assert_eq!(leaf(&vm, ipa(0)), None);
    }
}

/// The same, held far from the range: nobody waits.
#[test]
fn a_take_back_does_not_wait_for_faults_elsewhere() {
    let vm = vm_with(
        vm_options(Policy::Lockless, Backing::Thp),
        4 * BLOCK,
        Gate::new(|e| matches!(e, Event::Allocate { .. })),
    );
    let gate = vm.stage2().tlb();
    gate.arm();
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| write(&mut vm.vcpu(), 0));
        gate.wait();
        vm.take_back(ipa(BLOCK), BLOCK).unwrap();
        assert_eq!(vm.waits(), 0);
        gate.release();
        guest.join().unwrap();
    });
}

/// Serial faults exclude one another, parallel and lockless ones do not.
#[test]
fn policies_differ_in_who_waits_for_a_fault() {
    for policy in Policy::ALL {
        let vm = vm_with(
            vm_options(policy, Backing::Thp),
            4 * GIB,
            Gate::new(|e| matches!(e, Event::Allocate { .. })),
        );
        let gate = vm.stage2().tlb();
        gate.arm();
        let done = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let one = scope.spawn(|| write(&mut vm.vcpu(), 0));
            gate.wait();
            let two = scope.spawn(|| {
                write(&mut vm.vcpu(), 3 * GIB);
                done.store(1, Ordering::SeqCst);
            });
            if policy == Policy::Serial {
                // It cannot be shown that somebody waits; that he has not passed after a while is what can be seen.
                for _ in 0..1000 {
                    std::thread::yield_now();
                }
                assert_eq!(done.load(Ordering::SeqCst), 0, "the one lock is held");
                gate.release();
                two.join().unwrap();
            } else {
                two.join().unwrap(); // or the test hangs
                gate.release();
            }
            one.join().unwrap();
        });
    }
}

/// A host whose pages move: each take-back puts another page behind the range. No vCPU may see an old one afterwards.
#[test]
fn no_stale_translation_after_a_take_back_returned() {
    const ROUNDS: u64 = 3000;
    const WINDOWS: u64 = 2;
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Thp, WINDOWS * BLOCK);
        // What the host has behind each window: the number of the round.
        let host: [AtomicU64; WINDOWS as usize] = [const { AtomicU64::new(0) }; WINDOWS as usize];
        let settled: [AtomicU64; WINDOWS as usize] = [const { AtomicU64::new(0) }; WINDOWS as usize];
        let stop = AtomicU64::new(0);
        let pa = |round: u64| Pa::new(HOST + round * BLOCK);
        std::thread::scope(|scope| {
            for thread in 0..2u64 {
                let (vm, host, settled, stop) = (&vm, &host, &settled, &stop);
                scope.spawn(move || {
                    let mut vcpu = vm.vcpu();
                    let mut n = thread;
                    while stop.load(Ordering::Relaxed) == 0 {
                        n += 1;
                        let window = n % WINDOWS;
                        let at = ipa(window * BLOCK + n * 37 % 512 * PAGE);
                        // What was settled before the access is the oldest that it may see.
                        let oldest = settled[window as usize].load(Ordering::SeqCst);
                        match vcpu.translate(at, AccessKind::Write) {
                            Ok(hit) => {
                                let round = (hit.pa.get() - HOST) / BLOCK;
                                assert!(round >= oldest, "{policy:?}: round {round} after {oldest} was settled");
                            }
                            Err(fault) => {
                                let look = |slot: &Slot, at: Ipa, _: bool| {
                                    let offset = at.get() - slot.ipa.get();
                                    let round = host[(offset / BLOCK) as usize].load(Ordering::SeqCst);
                                    Ok(HostPage::new(Pa::new(pa(round).get() + offset % BLOCK), BLOCK))
                                };
                                vcpu.handle_fault_with(&fault, look).unwrap();
                            }
                        }
                    }
                });
            }
            for round in 1..=ROUNDS {
                let window = round % WINDOWS;
                // Pages inside the window, so that blocks are cut too.
                let (first, size) = if round % 3 == 0 {
                    (0, BLOCK)
                } else {
                    (round % 500 * PAGE, 3 * PAGE)
                };
                let invalidation = vm.invalidate(ipa(window * BLOCK), BLOCK).unwrap();
                host[window as usize].store(round, Ordering::SeqCst);
                // From here on nobody may see an older round: the range is unmapped and cannot come back from old look-ups.
                settled[window as usize].store(round, Ordering::SeqCst);
                drop(invalidation);
                vm.take_back(ipa(window * BLOCK + first), size).unwrap();
            }
            stop.store(1, Ordering::Relaxed);
        });
        let stats = vm.stage2().handle().stats();
        assert_eq!((stats.locked, stats.frozen), (0, 0));
    }
}
