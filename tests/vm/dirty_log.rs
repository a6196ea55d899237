//! The faults of a dirty-log run in each mode, counted against the formulas of docs/dirty-log.md, which are written down here
//! once more by hand.

use s2pt::arch::{Ipa, Pa};
use s2pt::memory::Arena;
use s2pt::table::{Counting, Semantics};
use s2pt::vm::workload::{Control, DirtyLog, DirtyLogReport, Expected, Load, LogKind, Phase, WorkloadError};
use s2pt::vm::{Backing, Error, OutcomeClass, Policy, Slot, Vm, VmOptions};

use crate::support::*;
use crate::workload::load;

const RING: u32 = 64;

#[derive(Clone, Copy, Debug)]
struct Mode {
    policy: Policy,
    semantics: Semantics,
    kind: LogKind,
    manual: bool,
    backing: Backing,
}

impl Mode {
    /// A VM with one slot of each of these sizes, one behind the other.
    fn vm(self, sizes: &[u64]) -> Vm<Arena, Counting> {
        let options = VmOptions {
            semantics: self.semantics,
            hd: self.kind == LogKind::Hardware,
            dirty_ring: if self.kind == LogKind::Ring { RING } else { 0 },
            ..vm_options(self.policy, self.backing)
        };
        let vm = options.build(Counting::new()).unwrap();
        let mut offset = 0;
        for (id, &size) in (0..).zip(sizes) {
            vm.create_slot(Slot::linear(id, ipa(offset), size, Pa::new(HOST + offset)))
                .unwrap();
            offset += size;
        }
        vm
    }

    fn run(self, load: Load, sizes: &[u64]) -> DirtyLogReport {
        let vm = self.vm(sizes);
        let job = DirtyLog {
            load,
            iterations: 3,
            log: self.kind.options(self.manual, BLOCK),
            ..DirtyLog::default()
        };
        let report = job.run(&vm, 0, &Control::new()).unwrap();
        for id in 0..load.slots {
            assert_eq!(vm.dirty_log_options(id), Ok(None), "the log is left off");
        }
        report
    }

    /// Populate and three passes, with `n` pages in all, of them `b` blocks which hold `in_blocks` of the pages.
    fn formula(self, n: u64, b: u64, in_blocks: u64) -> [Expected; 4] {
        let of = |translation, permission| Expected {
            translation,
            permission,
            access_flag: 0,
        };
        let single = n - in_blocks;
        let first = match (self.kind, self.semantics) {
            (LogKind::Hardware, _) => of(0, 0),
            // KVM maps the page that was written in place of its block; the others fault again.
            (LogKind::Lazy | LogKind::Ring, Semantics::Kvm) => of(in_blocks - b, b + single),
            _ => of(0, n),
        };
        let later = if self.kind == LogKind::Hardware {
            of(0, 0)
        } else {
            of(0, n)
        };
        let populate = of(b + single, 0);
        if self.manual && self.kind != LogKind::Ring {
            // Nothing was protected before the first clear.
            [populate, of(0, 0), first, later]
        } else {
            [populate, first, later, later]
        }
    }
}

fn modes() -> impl Iterator<Item = Mode> {
    let all = |backing| {
        Policy::ALL.into_iter().flat_map(move |policy| {
            [Semantics::Exact, Semantics::Kvm]
                .into_iter()
                .flat_map(move |semantics| {
                    LogKind::ALL.into_iter().flat_map(move |(kind, _)| {
                        [false, true].into_iter().map(move |manual| Mode {
                            policy,
                            semantics,
                            kind,
                            manual,
                            backing,
                        })
                    })
                })
        })
    };
    [Backing::Pages, Backing::Thp, Backing::Huge1G]
        .into_iter()
        .flat_map(all)
        // Hardware's notes need exact semantics.
        .filter(|mode| !(mode.kind == LogKind::Hardware && mode.semantics == Semantics::Kvm))
}

fn passes(report: &DirtyLogReport) -> [(Expected, Option<Expected>); 4] {
    [Phase::Populate, Phase::Dirty(1), Phase::Dirty(2), Phase::Dirty(3)].map(|phase| {
        let found = report.phases.iter().find(|p| p.phase == phase).unwrap();
        (Expected::of(&found.counters), found.expected)
    })
}

/// Runs a mode and compares what was counted with the formula here, and with the one in the report.
fn check(mode: Mode, load: Load, sizes: &[u64], b: u64, in_blocks: u64) {
    let n = load.vcpus as u64 * load.bytes_per_vcpu / PAGE;
    let report = mode.run(load, sizes);
    let formula = mode.formula(n, b, in_blocks);
    for (pass, (counted, said)) in passes(&report).into_iter().enumerate() {
        assert_eq!(counted, formula[pass], "pass {pass} of {mode:?} with {load:?}");
        assert_eq!(said, Some(counted), "pass {pass} of {mode:?} with {load:?}");
    }
    // All pages count as dirty at first, also those that nobody uses; later those that were written.
    let all = sizes.iter().take(load.slots as usize).sum::<u64>() / PAGE;
    let first = if mode.manual && mode.kind != LogKind::Ring {
        all
    } else {
        n
    };
    let found: Vec<_> = report.phases.iter().filter_map(|phase| phase.found).collect();
    assert_eq!(found, [first, n, n], "{mode:?} with {load:?}");
    // A ring of 64 takes 57 pages; who finds it full leaves the guest once and empties it.
    let dirty = report.elapsed_in(|phase| matches!(phase, Phase::Dirty(_)));
    assert!(!dirty.is_zero());
    let full = report.counters().outcomes(OutcomeClass::ExitRingFull);
    let per_vcpu = (load.bytes_per_vcpu / PAGE - 1) / 57;
    let passes = if mode.kind == LogKind::Ring { 3 } else { 0 };
    assert_eq!(full, passes * per_vcpu * load.vcpus as u64, "{mode:?}");
}

#[test]
fn every_mode_takes_the_faults_of_its_formula() {
    for mode in modes() {
        let blocks = |n: u64| if mode.backing == Backing::Pages { 0 } else { n };
        // The slots are too small for blocks of 1 GiB, and blocks of 2 MiB take their place.
        for (vcpus, each) in [(1, 2 * BLOCK), (3, BLOCK)] {
            let all = vcpus as u64 * each;
            let n = blocks(all / BLOCK);
            check(mode, load(vcpus, each), &[all], n, n * BLOCK / PAGE);
        }
    }
}

#[test]
fn blocks_that_are_used_in_part_and_pages_at_the_ends_of_slots_count_too() {
    for mode in modes().filter(|mode| mode.policy == Policy::Lockless) {
        let blocks = |n: u64| if mode.backing == Backing::Pages { 0 } else { n };
        // The last block is used by half; the slot goes on.
        let part = 3 * BLOCK / 2 + 5 * PAGE;
        check(mode, load(1, part), &[4 * BLOCK], blocks(2), blocks(part / PAGE));
        // A slot of one block and some pages; the next one begins out of step and has a block less than its size says.
        let sizes = [BLOCK + 7 * PAGE, 2 * BLOCK + 3 * PAGE, BLOCK - 10 * PAGE];
        let all: u64 = sizes.iter().sum();
        let three = Load {
            slots: 3,
            ..load(1, all)
        };
        check(mode, three, &sizes, blocks(2), blocks(2 * BLOCK / PAGE));
    }
}

#[test]
fn blocks_of_a_gigabyte_are_forgotten_whole_by_kvm() {
    for mode in modes().filter(|mode| mode.backing == Backing::Huge1G && mode.policy == Policy::Parallel) {
        let bytes = 6 * BLOCK + 3 * PAGE;
        check(mode, load(1, bytes), &[GIB], 1, bytes / PAGE);
    }
}

/// vCPUs that meet in a block may both have seen it whole: what each of them lacked is not known, but all the rest is.
#[test]
fn vcpus_that_meet_in_a_block_take_as_many_faults_in_all() {
    for mode in modes().filter(|mode| mode.backing == Backing::Thp) {
        let shared = load(4, BLOCK / 4);
        let report = mode.run(shared, &[BLOCK]);
        let formula = mode.formula(512, 1, 512);
        for (pass, (counted, said)) in passes(&report).into_iter().enumerate() {
            let sum = |e: Expected| e.translation + e.permission;
            assert_eq!(sum(counted), sum(formula[pass]), "pass {pass} of {mode:?}");
            match said {
                Some(said) => assert_eq!(said, counted, "pass {pass} of {mode:?}"),
                None => assert!(counted.translation > 0, "pass {pass} of {mode:?}"),
            }
        }
    }
}

#[test]
fn vcpus_that_overlap_populate_once() {
    for policy in Policy::ALL {
        let mode = Mode {
            policy,
            semantics: Semantics::Exact,
            kind: LogKind::Lazy,
            manual: true,
            backing: Backing::Thp,
        };
        let all = Load {
            overlap: true,
            ..load(3, BLOCK)
        };
        let report = mode.run(all, &[3 * BLOCK]);
        assert_eq!(report.accesses, 3 * 3 * 512);
        let passes = passes(&report);
        assert_eq!(passes[0].1, Some(passes[0].0));
        assert_eq!(passes[0].0.translation, 3);
        assert_eq!(passes[1], (Expected::default(), Some(Expected::default())));
        // Two may be on their way to the same page.
        let dirty = passes[2].0.permission;
        assert!((1536..=3 * 1536).contains(&dirty), "{dirty}");
        assert_eq!(passes[2].1, None);
        let found: Vec<_> = report.phases.iter().filter_map(|phase| phase.found).collect();
        assert_eq!(found, [1536; 3]);
    }
}

#[test]
fn on_memory_that_was_used_before_nothing_is_foretold() {
    let mode = modes().next().unwrap();
    let vm = mode.vm(&[BLOCK]);
    let job = DirtyLog {
        load: load(1, BLOCK),
        ..DirtyLog::default()
    };
    let first = job.run(&vm, 0, &Control::new()).unwrap();
    assert!(first.phases[0].as_expected() == Some(true));
    let second = job.run(&vm, 0, &Control::new()).unwrap();
    assert!(second.phases.iter().all(|phase| phase.as_expected().is_none()));
}

#[test]
fn slots_and_logs_that_do_not_fit_are_refused_before_anything_runs() {
    let mode = Mode {
        policy: Policy::Lockless,
        semantics: Semantics::Exact,
        kind: LogKind::Lazy,
        manual: true,
        backing: Backing::Thp,
    };
    let vm = mode.vm(&[BLOCK, BLOCK]);
    vm.create_slot(Slot::linear(
        2,
        Ipa::new(BASE + 8 * BLOCK),
        BLOCK,
        Pa::new(HOST + 8 * BLOCK),
    ))
    .unwrap();
    let refused = |slots, bytes, log| {
        let load = Load {
            slots,
            ..load(1, bytes)
        };
        let job = DirtyLog {
            load,
            log,
            ..DirtyLog::default()
        };
        job.validate(&vm, 0).unwrap_err()
    };
    let plain = mode.kind.options(true, BLOCK);
    assert_eq!(
        refused(3, BLOCK, plain),
        WorkloadError::SlotsApart { slot: 2, before: 1 }
    );
    assert_eq!(
        refused(4, BLOCK, plain),
        WorkloadError::SlotsApart { slot: 2, before: 1 }
    );
    assert!(matches!(
        refused(0, BLOCK, plain),
        WorkloadError::Option { what: "slots", .. }
    ));
    for bytes in [2 * BLOCK + PAGE, 3 * BLOCK] {
        assert!(matches!(refused(2, bytes, plain), WorkloadError::SlotTooSmall { size, .. } if size == 2 * BLOCK));
    }
    for log in [
        LogKind::Hardware.options(true, BLOCK),
        LogKind::Eager.options(true, PAGE),
    ] {
        let refused = refused(1, BLOCK, log);
        assert!(
            matches!(refused, WorkloadError::Vm(Error::LogOptions { slot: 0, .. })),
            "{refused}"
        );
    }
    assert_eq!(vm.dirty_log_options(0), Ok(None));
}
