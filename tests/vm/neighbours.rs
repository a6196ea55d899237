//! KVM's other tests as workloads: faults against their formulas in each mode, what they find, what they refuse.

use core::time::Duration;

use s2pt::memory::Arena;
use s2pt::table::{Counting, Semantics, StallKind};
use s2pt::vm::workload::{
    AccessPhase, AccessTracking, Control, DemandPaging, Expected, Load, PageTable, PagingPhase, PhaseReport, Stage,
    Supply, WorkloadError,
};
use s2pt::vm::{Backing, Cost, Error, OutcomeClass, Policy, Vm, VmOptions};

use crate::support::*;
use crate::workload::load;

/// Every policy, semantics, backing, with one vCPU and with several.
pub fn modes() -> impl Iterator<Item = (VmOptions, usize)> {
    let backings = [Backing::Pages, Backing::Thp, Backing::Huge1G].into_iter();
    backings.flat_map(|backing| {
        Policy::ALL.into_iter().flat_map(move |policy| {
            [Semantics::Exact, Semantics::Kvm]
                .into_iter()
                .flat_map(move |semantics| {
                    let kind = VmOptions {
                        semantics,
                        ..vm_options(policy, backing)
                    };
                    [1, 3].map(|vcpus| (kind, vcpus))
                })
        })
    })
}

pub fn of(translation: u64, permission: u64, access_flag: u64) -> Expected {
    Expected {
        translation,
        permission,
        access_flag,
    }
}

/// Leaves of a memory that has no room for a block of 1 GiB.
fn leaves(kind: VmOptions, bytes: u64) -> u64 {
    let leaf = if kind.backing == Backing::Pages { PAGE } else { BLOCK };
    bytes.div_ceil(leaf)
}

fn counted<P: Copy>(phases: &[PhaseReport<P>]) -> Vec<Expected> {
    phases.iter().map(|phase| Expected::of(&phase.counters)).collect()
}

/// Whether each phase was as foretold, where something was.
fn as_foretold<P: core::fmt::Debug>(phases: &[PhaseReport<P>]) {
    for phase in phases {
        assert_ne!(phase.as_expected(), Some(false), "{phase:?}");
    }
}

// ------------------------------------------------------------------------------------------------- access tracking

#[test]
fn an_idle_leaf_faults_once_unless_hardware_sees_to_it() {
    for (kind, vcpus) in modes() {
        for ha in [false, true] {
            let kind = VmOptions { ha, ..kind };
            let bytes = vcpus as u64 * 2 * BLOCK;
            let vm = vm_with(kind, bytes, Counting::new());
            let control = Control::new();
            let job = AccessTracking {
                load: load(vcpus, 2 * BLOCK),
            };
            let report = job.run(&vm, 0, &control).unwrap();
            let n = leaves(kind, bytes);
            let idle = if ha { 0 } else { n };
            let none = of(0, 0, 0);
            assert_eq!(
                counted(&report.phases),
                [of(n, 0, 0), none, none, none, of(0, 0, idle), none, of(0, 0, idle)],
                "{kind:?} {vcpus}"
            );
            assert!(report.phases.iter().all(|phase| phase.as_expected() == Some(true)));
            // Whoever was there in between is seen, by hardware or not.
            let young: Vec<_> = report.phases.iter().filter_map(|phase| phase.found).collect();
            assert_eq!(young, [n, n], "{kind:?} {vcpus}");
            let mark = report
                .phases
                .iter()
                .find(|p| p.phase == AccessPhase::MarkIdle(2))
                .unwrap();
            let tlbis = mark.maintenance.unwrap().tlbi();
            if vcpus == 1 || kind.policy != Policy::Lockless {
                assert_eq!(tlbis, n, "one TLBI a leaf");
            } else {
                // Who finds a leaf old while a peer's TLBI is under way does not rely on that.
                assert!(tlbis >= n, "{tlbis}");
            }
            let all = 7 * bytes / PAGE;
            assert_eq!((control.progress(), report.accesses), ((all, all), bytes / PAGE));
        }
    }
}

#[test]
fn vcpus_on_the_same_leaves_age_each_once() {
    let kind = VmOptions {
        ha: false,
        ..vm_options(Policy::Lockless, Backing::Thp)
    };
    let vm = vm_with(kind, 3 * BLOCK, Counting::new());
    let load = Load {
        overlap: true,
        ..load(3, BLOCK)
    };
    let report = AccessTracking { load }.run(&vm, 0, &Control::new()).unwrap();
    let young: Vec<_> = report.phases.iter().filter_map(|phase| phase.found).collect();
    assert_eq!(young, [3, 3]);
    let flags = Expected::of(&report.phases[4].counters).access_flag;
    assert!((3..=9).contains(&flags), "{flags}");
    assert_eq!(report.phases[4].expected, None);
    as_foretold(&report.phases);
    // 1 GiB as one leaf, of which little is used.
    let huge = VmOptions {
        backing: Backing::Huge1G,
        ..kind
    };
    let vm = vm_with(huge, GIB, Counting::new());
    let one = AccessTracking {
        load: self::load(1, BLOCK),
    };
    let report = one.run(&vm, 0, &Control::new()).unwrap();
    assert_eq!(counted(&report.phases)[4], of(0, 0, 1));
    as_foretold(&report.phases);
}

// ------------------------------------------------------------------------------------------------- page table

#[test]
fn blocks_are_broken_and_made_again() {
    for (kind, vcpus) in modes() {
        let huge = kind.backing != Backing::Pages;
        let gigabyte = kind.backing == Backing::Huge1G;
        // With 1 GiB, every page of one is touched: once, by one policy of each kind.
        if gigabyte && (vcpus > 1 || kind.policy != Policy::Lockless) {
            continue;
        }
        let bytes = if gigabyte { GIB } else { 3 * BLOCK };
        let vm = vm_with(kind, bytes, Counting::new());
        let control = Control::new();
        let job = PageTable {
            load: load(vcpus, bytes),
        };
        let report = job.run(&vm, 0, &control).unwrap();
        assert_eq!(vm.dirty_log_options(0), Ok(None));
        let size = [PAGE, BLOCK, GIB][huge as usize + gigabyte as usize];
        let large = bytes / size;
        assert_eq!((report.blocks, report.pages), (large, 0), "{kind:?} {vcpus}");
        let kvm = kind.semantics == Semantics::Kvm;
        let update = if huge && kvm {
            of(bytes / PAGE / 2, large, 0)
        } else {
            of(0, large, 0)
        };
        let adjust = match (huge, kvm) {
            (false, _) => of(0, 0, 0),
            (true, true) => of(large, 0, 0),
            (true, false) => of(0, large, 0),
        };
        let found = counted(&report.run.phases);
        let none = of(0, 0, 0);
        assert_eq!(found[0], of(large, 0, 0), "{kind:?} {vcpus}");
        if vcpus == 1 {
            assert_eq!(found, [of(large, 0, 0), none, update, none, adjust], "{kind:?}");
            assert!([0, 2, 4].map(|at| report.run.phases[at].as_expected()) == [Some(true); 3]);
        } else {
            as_foretold(&report.run.phases);
            let all = |e: Expected| e.translation + e.permission;
            assert!(all(found[2]) >= all(update) && all(found[4]) >= all(adjust), "{kind:?}");
        }
        let adjusted = report.run.phases.last().unwrap();
        assert_eq!(adjusted.phase, Stage::Adjust);
        if huge {
            assert!(adjusted.counters.outcomes(OutcomeClass::Collapsed) >= large);
        }
        let (done, total) = control.progress();
        assert_eq!((done, report.run.accesses), (total, total));
    }
}

#[test]
fn memory_that_is_not_whole_pages_of_the_host_is_refused() {
    let vm = vm_with(vm_options(Policy::Lockless, Backing::Thp), 4 * BLOCK, Counting::new());
    let refused = |bytes| PageTable { load: load(2, bytes) }.validate(&vm, 0).unwrap_err();
    let (value, required) = (BLOCK + PAGE, BLOCK);
    assert_eq!(refused(value), WorkloadError::Alignment { value, required });
    assert!(matches!(refused(8 * BLOCK), WorkloadError::SlotTooSmall { .. }));
    vm.move_slot(0, ipa(64 * BLOCK + PAGE)).unwrap();
    assert_eq!(refused(BLOCK), WorkloadError::NoBlocks { slot: 0, size: BLOCK });
    let none = PageTable { load: load(0, BLOCK) }.validate(&vm, 0);
    assert!(matches!(none, Err(WorkloadError::Option { what: "vcpus", .. })));
}

// ------------------------------------------------------------------------------------------------- demand paging

#[test]
fn every_page_is_supplied_once_and_holds_what_was_written() {
    for (kind, vcpus) in modes() {
        // Whose habits the table has makes no difference to the suppliers.
        if kind.semantics == Semantics::Kvm && (kind.backing, kind.policy) != (Backing::Thp, Policy::Parallel)
            || kind.backing == Backing::Huge1G && kind.policy != Policy::Lockless
        {
            continue;
        }
        for (supply, name) in Supply::ALL {
            // A page at a time takes its time.
            let each = if kind.backing == Backing::Pages {
                64 * PAGE
            } else {
                BLOCK
            };
            let bytes = vcpus as u64 * each;
            let vm = vm_with(kind, bytes, Counting::new());
            let run = DemandPaging {
                load: load(vcpus, each),
                supply,
                one_queue: kind.policy == Policy::Serial,
                readers: 2,
                ..DemandPaging::default()
            };
            let control = Control::new();
            let report = run.run(&vm, 0, &control).unwrap();
            let what = format!("{kind:?} {vcpus} {name}");
            let guest = report.run.phases.last().unwrap();
            assert_eq!(
                (guest.phase, guest.as_expected()),
                (PagingPhase::Guest, Some(true)),
                "{what}"
            );
            assert_eq!(Expected::of(&guest.counters), of(leaves(kind, bytes), 0, 0), "{what}");
            assert_eq!(report.run.phases.len(), 1 + usize::from(supply == Supply::Minor));
            // The host's pages, however small the guest's mappings of them are.
            let size = [PAGE, BLOCK, GIB][kind.backing as usize];
            let supplied = if supply == Supply::Kernel {
                0
            } else {
                bytes.div_ceil(size)
            };
            assert_eq!((report.supplied, report.wrong_pages), (supplied, Some(0)), "{what}");
            assert_eq!((report.pages, report.written), (each / PAGE, bytes / PAGE));
            assert_eq!(control.progress(), (bytes / PAGE, bytes / PAGE));
        }
    }
}

/// Both vCPUs want each page, and each has a supplier of its own: who comes second finds it there, and writes over nothing.
#[test]
fn two_suppliers_of_one_page_are_no_error() {
    let mut existed = 0;
    for policy in Policy::ALL {
        let vm = vm_with(vm_options(policy, Backing::Pages), 4 * BLOCK, Counting::new());
        let run = DemandPaging {
            load: Load {
                overlap: true,
                ..load(4, BLOCK)
            },
            supply: Supply::Missing,
            // So that both have asked before the first has the page.
            delay: Cost::new(Duration::from_micros(20), StallKind::Sleep),
            ..DemandPaging::default()
        };
        let report = run.run(&vm, 0, &Control::new()).unwrap();
        assert_eq!((report.supplied, report.wrong_pages), (4 * BLOCK / PAGE, Some(0)));
        assert_eq!(Expected::of(&report.run.phases[0].counters), of(4 * BLOCK / PAGE, 0, 0));
        existed += report.existed;
    }
    assert!(existed > 0, "two were asked for the same page");
}

#[test]
fn a_supplier_takes_as_long_as_he_is_told_to() {
    let delay = Duration::from_millis(2);
    let vm = vm_with(vm_options(Policy::Lockless, Backing::Pages), BLOCK, Counting::new());
    let run = DemandPaging {
        load: load(1, 16 * PAGE),
        supply: Supply::Minor,
        delay: Cost::new(delay, StallKind::Sleep),
        ..DemandPaging::default()
    };
    let report = run.run(&vm, 0, &Control::new()).unwrap();
    assert!(report.run.phases[1].elapsed >= 16 * delay);
}

/// What a vCPU wrote until then: it looks up at each 256th page.
#[test]
fn a_guest_that_is_stopped_wrote_what_it_wrote() {
    let vm = vm_with(vm_options(Policy::Lockless, Backing::Pages), 4 * BLOCK, Counting::new());
    let run = DemandPaging {
        load: load(1, 4 * BLOCK),
        supply: Supply::Missing,
        delay: Cost::new(Duration::from_millis(1), StallKind::Sleep),
        ..DemandPaging::default()
    };
    let control = Control::new();
    let report = std::thread::scope(|scope| {
        let running = scope.spawn(|| run.run(&vm, 0, &control));
        while control.progress().0 == 0 {
            std::thread::yield_now();
        }
        control.cancel();
        running.join().unwrap().unwrap()
    });
    assert!(report.written >= 256 && report.written < 4 * BLOCK / PAGE && report.written.is_multiple_of(256));
    assert_eq!(report.run.phases[0].counters.total(), report.written);
    assert_eq!((report.wrong_pages, report.run.phases[0].complete), (None, false));
}

// ------------------------------------------------------------------------------------------------- all of them

/// Runs it; whether it came to its end.
type Run = fn(Load, &Vm<Arena, Counting>, &Control) -> Result<bool, WorkloadError>;

const ALL: [Run; 3] = [
    |load, vm, control| {
        AccessTracking { load }
            .run(vm, 0, control)
            .map(|report| report.complete)
    },
    |load, vm, control| PageTable { load }.run(vm, 0, control).map(|report| report.run.complete),
    |load, vm, control| {
        let run = DemandPaging {
            load,
            supply: Supply::Missing,
            ..DemandPaging::default()
        };
        run.run(vm, 0, control)
            .map(|report| report.run.complete && report.wrong_pages.is_some())
    },
];

#[test]
fn a_wish_to_end_is_heard_and_nothing_stays_behind() {
    for run in ALL {
        let vm = vm_with(
            vm_options(Policy::Parallel, Backing::Pages),
            64 * BLOCK,
            Counting::new(),
        );
        let control = Control::new();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| run(load(2, 32 * BLOCK), &vm, &control));
            while control.progress().0 == 0 {
                std::thread::yield_now();
            }
            control.cancel();
            assert_eq!(running.join().unwrap(), Ok(false));
        });
        assert_eq!(vm.dirty_log_options(0), Ok(None));
        // And after that it works.
        assert_eq!(run(load(1, BLOCK), &vm, &Control::new()), Ok(true));
    }
}

#[test]
fn wrong_options_are_refused() {
    for run in ALL {
        let vm = vm_with(vm_options(Policy::Lockless, Backing::Pages), BLOCK, Counting::new());
        let refused = |load| run(load, &vm, &Control::new()).unwrap_err();
        assert!(matches!(
            refused(load(0, BLOCK)),
            WorkloadError::Option { what: "vcpus", .. }
        ));
        assert!(matches!(refused(load(1, 0)), WorkloadError::Size { value: 0, .. }));
        assert!(matches!(
            refused(load(1, 2 * BLOCK)),
            WorkloadError::SlotTooSmall { .. }
        ));
        assert!(matches!(
            refused(load(1, 5000)),
            WorkloadError::Alignment { value: 5000, .. }
        ));
        let slots = Load {
            slots: 2,
            ..load(1, BLOCK)
        };
        assert_eq!(refused(slots), WorkloadError::Vm(Error::NoSlot { slot: 1 }));
    }
    let vm = vm_with(vm_options(Policy::Lockless, Backing::Pages), BLOCK, Counting::new());
    let run = DemandPaging {
        load: load(1, BLOCK),
        readers: 0,
        ..DemandPaging::default()
    };
    assert!(matches!(
        run.validate(&vm, 0),
        Err(WorkloadError::Option { what: "readers", .. })
    ));
}
