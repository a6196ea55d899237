//! The dirty-log run: fault counts that follow from the recipe, options refused, and how stalls add up.

use std::time::Duration;

use s2pt::arch::{Ipa, Pa, Scope};
use s2pt::table::{Counting, Event, Tlb};
use s2pt::vm::workload::{Control, DirtyLog, DirtyLogReport, Load, Maintenance, Phase, WorkloadError};
use s2pt::vm::{Backing, DirtyLogMode, Error, FaultClass, OutcomeClass, Policy, Slot};

use crate::support::*;

const SIZE: u64 = 4 * BLOCK;

pub fn load(vcpus: usize, bytes_per_vcpu: u64) -> Load {
    Load {
        vcpus,
        bytes_per_vcpu,
        ..Load::default()
    }
}

fn job(vcpus: usize) -> DirtyLog {
    DirtyLog {
        load: load(vcpus, SIZE),
        ..DirtyLog::default()
    }
}

fn run(job: DirtyLog, policy: Policy, backing: Backing) -> DirtyLogReport {
    let vm = vm_with(
        vm_options(policy, backing),
        job.load.bytes_per_vcpu * job.load.vcpus as u64,
        Counting::new(),
    );
    let control = Control::new();
    let report = job.run(&vm, 0, &control).unwrap();
    assert_eq!(vm.dirty_log_mode(0), Ok(None), "the log is left off");
    let all = report.accesses * (1 + u64::from(job.iterations));
    assert_eq!(control.progress(), (all, all));
    report
}

fn faults(report: &DirtyLogReport, phase: Phase) -> u64 {
    report
        .phases
        .iter()
        .find(|p| p.phase == phase)
        .unwrap()
        .counters
        .total()
}

/// KVM-SEMANTICS 5, with an exact split: a block costs one fault to split and one for each other page.
#[test]
fn faults_by_phase_follow_from_the_recipe() {
    let pages = SIZE / PAGE;
    for policy in Policy::ALL {
        for vcpus in [1, 3] {
            let n = vcpus as u64;
            let report = run(
                DirtyLog {
                    iterations: 3,
                    ..job(vcpus)
                },
                policy,
                Backing::Thp,
            );
            let counts: Vec<u64> = [Phase::Populate, Phase::Dirty(1), Phase::Dirty(2), Phase::Dirty(3)]
                .map(|phase| faults(&report, phase))
                .to_vec();
            // All pages count as dirty at first and are writable; what the clear protects faults.
            assert_eq!(counts, [n * SIZE / BLOCK, 0, n * pages, n * pages]);
            let second = report
                .phases
                .iter()
                .find(|p| p.phase == Phase::Dirty(2))
                .unwrap()
                .counters;
            assert_eq!(second.outcomes(OutcomeClass::Split), n * SIZE / BLOCK);
            assert_eq!(second.outcomes(OutcomeClass::Relaxed), n * (pages - SIZE / BLOCK));
            assert_eq!(
                second.faults(FaultClass::PermissionWrite),
                n * pages,
                "no further translation faults"
            );
            for phase in report.phases.iter().filter(|p| matches!(p.phase, Phase::Get(_))) {
                assert_eq!(phase.found, Some(n * pages));
            }
            for phase in report.phases.iter().filter(|p| matches!(p.phase, Phase::Clear(_))) {
                assert_eq!(phase.maintenance.unwrap().tlbi(), 1, "one TLBI a clear");
            }
            let names: Vec<String> = report.phases.iter().map(|p| p.phase.to_string()).collect();
            let expected = "populate,enable,dirty 1,get 1,clear 1,dirty 2,get 2,clear 2,dirty 3,get 3,clear 3,disable";
            assert_eq!(names.join(","), expected);
        }
    }
}

#[test]
fn without_manual_protection_the_first_pass_faults_too() {
    let report = run(
        DirtyLog {
            log: DirtyLogMode::Auto.into(),
            ..job(2)
        },
        Policy::Lockless,
        Backing::Thp,
    );
    let pages = 2 * SIZE / PAGE;
    assert_eq!(
        (faults(&report, Phase::Dirty(1)), faults(&report, Phase::Dirty(2))),
        (pages, pages)
    );
    assert!(!report.phases.iter().any(|p| matches!(p.phase, Phase::Clear(_))));
}

#[test]
fn pages_as_backing_need_a_fault_each() {
    let report = run(job(2), Policy::Parallel, Backing::Pages);
    assert_eq!(faults(&report, Phase::Populate), 2 * SIZE / PAGE);
}

/// Reads mark nothing; the same seed gives the same pages, whatever the policy.
#[test]
fn a_seed_determines_what_is_written() {
    let random = DirtyLog {
        random: true,
        write_percent: 30,
        log: DirtyLogMode::Auto.into(),
        ..job(2)
    };
    let dirty = |job, policy| {
        let report = run(job, policy, Backing::Thp);
        report.phases.iter().filter_map(|p| p.found).collect::<Vec<_>>()
    };
    let first = dirty(random, Policy::Serial);
    let pages = 2 * SIZE / PAGE;
    // 30 of 100 accesses write, to pages drawn with replacement: 1 - exp(-0.3) of all, about 26 in 100.
    assert!(
        first.iter().all(|&n| (pages * 22 / 100..pages * 30 / 100).contains(&n)),
        "{first:?}"
    );
    assert_eq!(first, dirty(random, Policy::Lockless));
    assert_ne!(
        first,
        dirty(
            DirtyLog {
                load: Load { seed: 2, ..random.load },
                ..random
            },
            Policy::Lockless
        )
    );
    assert_ne!(first[0], first[1], "each pass draws anew");
    let reads = DirtyLog {
        write_percent: 0,
        log: DirtyLogMode::Auto.into(),
        ..job(1)
    };
    assert_eq!(dirty(reads, Policy::Lockless), [0, 0]);
}

#[test]
fn wrong_options_are_refused_with_their_limits() {
    let vm = vm_with(vm_options(Policy::Lockless, Backing::Thp), SIZE, Counting::new());
    let refused = |job: DirtyLog| job.run(&vm, 0, &Control::new()).unwrap_err();
    let option = |what, value, min, max| WorkloadError::Option { what, value, min, max };
    assert_eq!(refused(job(0)), option("vcpus", 0, 1, 4096));
    assert_eq!(
        refused(job(100_000)).to_string(),
        "vcpus is 100000 (0x186a0); it must be 1 to 4096"
    );
    let never = DirtyLog {
        iterations: 0,
        ..job(1)
    };
    assert_eq!(refused(never), option("iterations", 0, 1, u64::MAX));
    assert_eq!(
        refused(DirtyLog {
            write_percent: 101,
            ..job(1)
        }),
        option("write percent", 101, 0, 100)
    );
    assert_eq!(
        refused(DirtyLog {
            load: load(1, 0),
            ..job(1)
        }),
        WorkloadError::Size {
            what: "bytes per vCPU",
            value: 0,
            min: PAGE,
            max: u64::MAX
        }
    );
    let none = refused(DirtyLog {
        load: load(1, 0),
        ..job(1)
    });
    assert_eq!(none.to_string(), "bytes per vCPU is 0x0; it must be 0x1000 or more");
    assert_eq!(
        refused(DirtyLog {
            load: load(1, 5000),
            ..job(1)
        }),
        WorkloadError::Alignment {
            value: 5000,
            required: PAGE
        }
    );
    assert_eq!(
        refused(job(2)),
        WorkloadError::SlotTooSmall {
            slot: 0,
            size: SIZE,
            required: 2 * SIZE
        }
    );
    assert_eq!(
        job(1).run(&vm, 7, &Control::new()),
        Err(WorkloadError::Vm(Error::NoSlot { slot: 7 }))
    );
    vm.enable_dirty_log(0, DirtyLogMode::Auto).unwrap();
    assert_eq!(refused(job(1)), WorkloadError::Vm(Error::AlreadyLogging { slot: 0 }));
    assert!(vm.dirty_log_mode(0).unwrap().is_some(), "somebody else's log stays on");
}

#[test]
fn a_vcpu_that_fails_ends_the_run_with_its_error() {
    // The slot says nothing about what is behind it.
    let vm = vm_options(Policy::Lockless, Backing::Thp)
        .build(Counting::new())
        .unwrap();
    let slot = Slot::linear(0, Ipa::new(BASE), SIZE, Pa::new(HOST));
    vm.create_slot(Slot {
        source: s2pt::vm::PaSource::Supplied,
        ..slot
    })
    .unwrap();
    let failed = DirtyLog {
        load: load(4, SIZE / 4),
        ..job(4)
    }
    .run(&vm, 0, &Control::new());
    assert!(matches!(failed, Err(WorkloadError::Access { .. })), "{failed:?}");
}

/// Holds the first vCPU that issues a TLBI of a fault (the host's are broadcast) until a second one does, or for so long.
struct Meeting {
    patience: Duration,
    /// How many are inside, whether two were, and whether one has waited.
    state: std::sync::Mutex<(usize, bool, bool)>,
    came: std::sync::Condvar,
}

impl Tlb for Meeting {
    fn event(&self, event: Event) {
        if !matches!(event, Event::Tlbi(tlbi) if tlbi.is_stage2() && tlbi.scope() == Scope::Local) {
            return;
        }
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        if state.0 == 2 {
            state.1 = true;
            self.came.notify_all();
        }
        if !state.2 {
            state.2 = true;
            let waited = self.came.wait_timeout_while(state, self.patience, |state| !state.1);
            state = waited.unwrap().0;
        }
        state.0 -= 1;
    }
}

impl Maintenance for Meeting {}

/// A stalled TLBI keeps other vCPUs waiting under one exclusive lock alone; otherwise their stalls overlap.
#[test]
fn stalls_add_up_only_under_the_exclusive_lock() {
    let overlap = |policy, patience| {
        let meeting = Meeting {
            patience,
            state: std::sync::Mutex::default(),
            came: std::sync::Condvar::new(),
        };
        let job = DirtyLog {
            load: load(8, BLOCK / 2),
            ..job(8)
        };
        let vm = vm_with(vm_options(policy, Backing::Thp), SIZE, &meeting);
        job.run(&vm, 0, &Control::new()).unwrap();
        let state = meeting.state.lock().unwrap();
        assert!(state.2, "there was a TLBI");
        state.1
    };
    for policy in Policy::ALL {
        // Nobody comes in vain: where two can meet they do, sooner or later.
        let serial = policy == Policy::Serial;
        let patience = Duration::from_millis(if serial { 200 } else { 60_000 });
        assert_eq!(overlap(policy, patience), !serial, "{policy:?}");
    }
}
