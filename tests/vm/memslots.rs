//! Memory slots that come and go under a guest: faults against their formulas, nothing lost, what is refused.

use core::time::Duration;

use s2pt::table::{Counting, Semantics};
use s2pt::vm::workload::{Control, Expected, Load, Memslots, SlotPhase, SlotTest, WorkloadError};
use s2pt::vm::{Backing, Error, OutcomeClass, Policy};

use crate::neighbours::{modes, of};
use crate::support::*;
use crate::workload::load;

#[test]
fn slots_and_memory_come_and_go_under_a_guest() {
    for (kind, vcpus) in modes().filter(|(kind, _)| kind.backing != Backing::Huge1G) {
        if kind.semantics == Semantics::Kvm && kind.policy != Policy::Parallel {
            continue;
        }
        for (test, name) in SlotTest::ALL {
            let vm = kind.build(Counting::new()).unwrap();
            let (half, iterations) = (vcpus as u64 * BLOCK, 2);
            let run = Memslots {
                load: Load {
                    slots: 2 * vcpus as u32,
                    ..load(vcpus, 2 * BLOCK)
                },
                test,
                iterations: Some(iterations),
                ..Memslots::default()
            };
            let control = Control::new();
            let report = run.run(&vm, &control).unwrap();
            let what = format!("{kind:?} {vcpus} {name}");
            assert_eq!((report.iterations, report.wrong_words), (iterations, 0), "{what}");
            assert!(report.run.complete && vm.slots().is_empty());
            assert_eq!(vm.stage2().handle().stats().mapped_bytes, 0);
            assert_eq!(control.progress(), (iterations, iterations));
            let leaf = if kind.backing == Backing::Pages { PAGE } else { BLOCK };
            let turns = &report.run.phases[1];
            let found = Expected::of(&turns.counters);
            let exits = turns.counters.outcomes(OutcomeClass::ExitMmio);
            match test {
                SlotTest::Map => {
                    assert_eq!(found, of(iterations * 2 * half / leaf, 0, 0), "{what}");
                    // All but the first half at first, when it was not there yet.
                    assert_eq!(report.taken_back, (2 * iterations - 1) * half, "{what}");
                }
                SlotTest::Unmap | SlotTest::UnmapChunked => {
                    assert_eq!(found, of(iterations * 2 * vcpus as u64, 0, 0), "{what}");
                    assert_eq!(report.taken_back, (2 * iterations - 1) * vcpus as u64 * leaf, "{what}");
                }
                SlotTest::ReadWrite => assert_eq!(found, of(2 * half / leaf, 0, 0), "{what}"),
                SlotTest::MoveActive => assert_eq!(turns.expected, None),
                SlotTest::MoveInactive => assert_eq!(exits, 0, "{what}: nothing of it was moved"),
            }
            assert_ne!(turns.as_expected(), Some(false), "{what}");
            assert_eq!(
                turns.expected.is_none(),
                matches!(test, SlotTest::MoveActive | SlotTest::MoveInactive)
            );
        }
    }
}

#[test]
fn a_slot_that_is_away_is_missed() {
    let vm = vm_options(Policy::Lockless, Backing::Pages)
        .build(Counting::new())
        .unwrap();
    let mut run = Memslots {
        load: Load {
            slots: 3,
            ..load(2, BLOCK)
        },
        test: SlotTest::MoveActive,
        iterations: Some(100),
        ..Memslots::default()
    };
    // As long as the guest happens not to look just then.
    let missed = |run: Memslots| {
        let report = run.run(&vm, &Control::new()).unwrap();
        assert_eq!(report.wrong_words, 0);
        report.run.counters().outcomes(OutcomeClass::ExitMmio) > 0
    };
    while !missed(run) {
        run.iterations = run.iterations.map(|iterations| 2 * iterations);
    }
    run.iterations = None;
    run.time = Duration::from_millis(30);
    let report = run.run(&vm, &Control::new()).unwrap();
    assert!(report.iterations > 0 && report.run.phases[1].elapsed >= run.time);
}

#[test]
fn a_wish_to_end_is_heard_in_every_test_of_slots() {
    for (test, _) in SlotTest::ALL {
        let vm = vm_options(Policy::Parallel, Backing::Thp)
            .build(Counting::new())
            .unwrap();
        let run = Memslots {
            load: Load {
                slots: 4,
                ..load(2, 2 * BLOCK)
            },
            test,
            time: Duration::from_secs(600),
            iterations: None,
        };
        let control = Control::new();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| run.run(&vm, &control));
            while control.progress().0 == 0 {
                std::thread::yield_now();
            }
            control.cancel();
            let report = running.join().unwrap().unwrap();
            assert!(!report.run.complete && report.wrong_words == 0, "{test:?}");
            let last = report.run.phases.last().unwrap();
            assert_eq!((last.phase, last.complete), (SlotPhase::Turns, false), "{test:?}");
        });
        assert!(vm.slots().is_empty());
    }
}

#[test]
fn a_test_is_done_once_at_least_and_not_for_no_time() {
    let vm = vm_options(Policy::Lockless, Backing::Thp)
        .build(Counting::new())
        .unwrap();
    let run = |time, iterations| {
        let run = Memslots {
            load: load(1, 2 * BLOCK),
            time,
            iterations,
            ..Memslots::default()
        };
        run.run(&vm, &Control::new())
    };
    let refused = |what, value| {
        Err(WorkloadError::Option {
            what,
            value,
            min: 1,
            max: u64::MAX,
        })
    };
    assert_eq!(run(Duration::ZERO, None), refused("nanoseconds of a test", 0));
    assert_eq!(run(Duration::from_secs(5), Some(0)), refused("iterations", 0));
    assert_eq!(run(Duration::from_nanos(1), None).unwrap().iterations, 1);
    for (test, _) in SlotTest::ALL {
        let run = Memslots {
            load: Load {
                slots: 2,
                ..load(1, 2 * BLOCK)
            },
            test,
            time: Duration::from_nanos(1),
            ..Memslots::default()
        };
        assert!(run.run(&vm, &Control::new()).unwrap().iterations >= 1, "{test:?}");
    }
}

#[test]
fn slots_that_cannot_be_are_refused_and_others_stay() {
    let vm = vm_with(vm_options(Policy::Lockless, Backing::Thp), BLOCK, Counting::new());
    let run = |load, test| {
        let run = Memslots {
            load,
            test,
            iterations: Some(1),
            ..Memslots::default()
        };
        run.run(&vm, &Control::new())
    };
    let one = load(1, BLOCK);
    assert!(matches!(
        run(one, SlotTest::MoveActive),
        Err(WorkloadError::Option { what: "slots", .. })
    ));
    assert!(matches!(
        run(load(1, PAGE), SlotTest::Map),
        Err(WorkloadError::Size { .. })
    ));
    assert!(matches!(
        run(load(1, 2 * PAGE + 1), SlotTest::Map),
        Err(WorkloadError::Alignment { .. })
    ));
    // Number 0 is somebody else's.
    assert_eq!(
        run(one, SlotTest::Map),
        Err(WorkloadError::Vm(Error::SlotExists { slot: 0 }))
    );
    assert_eq!(vm.slots().len(), 1);
}
