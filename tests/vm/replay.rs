//! A recording made by hand: two vCPUs, a host that logs, takes back, ages and dumps.

use s2pt::arch::{AccessKind, Fault, FaultKind, Ipa, Level, Prot};
use s2pt::table::Counting;
use s2pt::vm::replay::{
    COLUMNS, Event, ExitDifference, LevelDifference, Order, Replay, ReplayError, ReplayReport, Sizes,
};
use s2pt::vm::workload::Control;
use s2pt::vm::{Backing, OutcomeClass, Policy};

use crate::support::*;

const FAULT: u64 = 1;
const HANDLED: u64 = 2;
pub const UNMAP: u64 = 3;
const AGE: u64 = 4;
const SLOT: u64 = 5;
const WRITE_PROTECT: u64 = 6;
const DUMP: u64 = 9;
const DESTROY: u64 = 11;
const MAP: u64 = 1;
const RELAX: u64 = 2;
const MMIO: u64 = 3;
const RETRY: u64 = 4;

/// Rows are written in time order; each takes the next microsecond.
#[derive(Default)]
pub struct Tape(Vec<[u64; COLUMNS]>);

/// What the recorded hypervisor did about a fault.
#[derive(Clone, Copy)]
pub struct Did {
    call: u64,
    size: u64,
    prot: Prot,
    ret: i64,
}

const NOTHING: Did = Did {
    call: MMIO,
    size: 0,
    prot: Prot::empty(),
    ret: 0,
};

pub fn mapped(size: u64, prot: Prot) -> Did {
    Did {
        call: MAP,
        size,
        prot,
        ret: 0,
    }
}

impl Tape {
    fn row(&mut self, kind: u64, fields: &[(usize, u64)]) {
        let mut row = [0; COLUMNS];
        row[0] = self.0.len() as u64;
        row[1] = kind;
        row[2] = u64::MAX;
        row[16] = u64::MAX;
        for &(column, value) in fields {
            row[column] = value;
        }
        self.0.push(row);
    }

    pub fn slot(&mut self, change: u64, flags: u64) {
        self.row(
            SLOT,
            &[
                (4, BASE),
                (5, 4 * BLOCK),
                (16, 1),
                (17, HOST),
                (18, flags),
                (19, change),
            ],
        );
    }

    pub fn range(&mut self, kind: u64, offset: u64, size: u64, reference: u64) {
        self.row(kind, &[(4, BASE + offset), (5, size), (19, reference)]);
    }

    /// A fault and what came of it, as two rows.
    pub fn fault(&mut self, vcpu: u64, offset: u64, kind: FaultKind, access: AccessKind, level: Level, did: Did) {
        let fault = Fault {
            ipa: ipa(offset),
            access,
            kind,
            level,
            s1ptw: false,
        };
        let esr = fault.to_registers().unwrap().esr.raw();
        let page = (BASE + offset) & !(PAGE - 1);
        let size = did.size.max(PAGE);
        let base = page & !(size - 1);
        let fields = [
            (2, vcpu),
            (4, page),
            (6, esr),
            (8, did.call),
            (9, base),
            (10, if did.call == RELAX { 0 } else { did.size }),
            (11, base - BASE + HOST),
            (12, u64::from(did.prot.bits())),
            (13, did.ret as u64),
            (14, page - BASE + HOST),
            (15, BLOCK),
        ];
        self.row(FAULT, &fields);
        self.row(HANDLED, &fields);
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.iter().map(|row| Event::from_row(row).unwrap()).collect()
    }
}

/// Populate, log, protect, split by writing, take back, age, dump; then logging off and a block again.
fn tape() -> Tape {
    use AccessKind::{Execute, Read, Write};
    use FaultKind::{Permission, Translation};
    let mut tape = Tape::default();
    tape.slot(0, 0);
    tape.fault(0, 0, Translation, Write, Level::L1, mapped(BLOCK, Prot::RW));
    tape.fault(1, 64 * BLOCK, Translation, Read, Level::L2, NOTHING);
    tape.fault(1, BLOCK + 5, Translation, Read, Level::L2, mapped(BLOCK, Prot::RW));
    tape.fault(
        0,
        BLOCK,
        Permission,
        Execute,
        Level::L2,
        Did {
            call: RELAX,
            size: 0,
            prot: Prot::RWX,
            ret: 0,
        },
    );
    tape.slot(3, 1);
    tape.range(WRITE_PROTECT, 0, 64 * PAGE, 0);
    tape.fault(0, 3 * PAGE, Permission, Write, Level::L2, mapped(PAGE, Prot::RW));
    tape.fault(1, 2 * BLOCK + PAGE, Translation, Read, Level::L2, mapped(PAGE, Prot::R));
    tape.range(DUMP, 0, 0, 0);
    tape.range(UNMAP, 10 * PAGE, 2 * PAGE, 0);
    tape.fault(
        1,
        2 * BLOCK + PAGE,
        Permission,
        Write,
        Level::L3,
        Did {
            call: RELAX,
            size: 0,
            prot: Prot::RW,
            ret: 0,
        },
    );
    tape.fault(
        0,
        10 * PAGE,
        Translation,
        Write,
        Level::L3,
        Did {
            call: RETRY,
            ..mapped(PAGE, Prot::RW)
        },
    );
    tape.slot(3, 0);
    tape.fault(0, 10 * PAGE, Translation, Write, Level::L3, mapped(BLOCK, Prot::RW));
    tape.range(AGE, 0, PAGE, 1);
    tape.range(DUMP, 0, 0, 1);
    tape.row(DESTROY, &[]);
    tape.range(UNMAP, 0, 4 * BLOCK, 0); // after the end: not done
    tape
}

fn run(replay: Replay, policy: Policy, tape: &Tape) -> ReplayReport {
    let vm = vm_options(policy, Backing::Thp).build(Counting::new()).unwrap();
    let report = replay.run(&vm, &tape.events(), &Control::new()).unwrap();
    assert_eq!(report.frames as u64, report.stats.table_frames());
    assert_eq!((report.stats.locked, report.stats.frozen), (0, 0));
    report
}

/// Address, size, output address, permissions, access flag, relative to the start of the slot.
fn leaves(report: &ReplayReport, dump: usize) -> Vec<(u64, u64, u64, Prot, bool)> {
    let leaf = |m: &s2pt::table::Mapping| (m.ipa.get() - BASE, m.size, m.pa.get() - HOST, m.attrs.prot, m.attrs.af);
    report.snapshots[dump].leaves.iter().map(leaf).collect()
}

#[test]
fn every_way_gives_the_same_table() {
    let tape = tape();
    for policy in Policy::ALL {
        for sizes in [Sizes::Trace, Sizes::Recorded] {
            for (order, threads) in [
                (Order::Recorded, None),
                (Order::Threads, None),
                (Order::Threads, Some(1)),
                (Order::Threads, Some(4)),
            ] {
                let report = run(Replay { order, sizes, threads }, policy, &tape);
                let case = format!("{policy:?} {sizes:?} {order:?} {threads:?}");
                // The block was split by the write to page 3; the rest is still there, read-only.
                let mut first: Vec<_> = (0..512).map(|n| (n * PAGE, PAGE, n * PAGE, Prot::R, true)).collect();
                first[3].3 = Prot::RW;
                first.push((BLOCK, BLOCK, BLOCK, Prot::RWX, true));
                first.push((2 * BLOCK + PAGE, PAGE, 2 * BLOCK + PAGE, Prot::R, true));
                assert_eq!(leaves(&report, 0), first, "{case}");
                let second = [
                    (0, BLOCK, 0, Prot::RW, false),
                    (BLOCK, BLOCK, BLOCK, Prot::RWX, true),
                    (2 * BLOCK + PAGE, PAGE, 2 * BLOCK + PAGE, Prot::RW, true),
                ];
                assert_eq!(leaves(&report, 1), second, "{case}");
                assert_eq!(
                    (report.faults, report.mmio, report.skipped, report.taken_back),
                    (9, 1, 1, 2 * PAGE),
                    "{case}"
                );
                assert_eq!((report.exit_differences.len(), report.no_pa), (0, 0), "{case}");
                assert_eq!(report.counters.outcomes(OutcomeClass::Split), 1, "{case}");
                assert_eq!(report.counters.outcomes(OutcomeClass::Collapsed), 1, "{case}");
            }
        }
    }
}

#[test]
fn levels_are_compared_in_recorded_order() {
    let report = run(Replay::default(), Policy::Lockless, &tape());
    // Page 10 was taken back out of a split block: level 3. Everything else as the tape says.
    assert_eq!((report.levels_checked, report.levels_skipped), (9, 0));
    assert_eq!(report.level_differences, []);
    let mut wrong = tape();
    let row = wrong
        .0
        .iter()
        .position(|r| r[1] == FAULT && r[4] == BASE + BLOCK)
        .unwrap();
    wrong.0[row][6] = wrong.0[row][6] & !3 | 1;
    let report = run(Replay::default(), Policy::Lockless, &wrong);
    let difference = LevelDifference {
        row,
        ipa: ipa(BLOCK),
        theirs: Level::L1,
        ours: Level::L2,
    };
    assert_eq!(report.level_differences, [difference]);
    wrong.0[row][6] |= 1 << 7; // a stage-1 walk's fault names another level
    let report = run(Replay::default(), Policy::Lockless, &wrong);
    assert_eq!((report.level_differences.len(), report.levels_skipped), (0, 1));
}

#[test]
fn a_different_idea_of_what_is_memory_is_reported() {
    let mut tape = tape();
    for row in &mut tape.0 {
        if row[4] == BASE + 64 * BLOCK {
            row[8] = MAP;
            row[10] = PAGE;
        }
    }
    let row = tape
        .0
        .iter()
        .position(|r| r[1] == HANDLED && r[4] == BASE + 64 * BLOCK)
        .unwrap();
    let report = run(Replay::default(), Policy::Lockless, &tape);
    assert_eq!(
        report.exit_differences,
        [ExitDifference {
            row,
            ipa: ipa(64 * BLOCK),
            ours: true
        }]
    );
}

/// Without barriers the outcome is open; that the table is sound is not.
#[test]
fn a_free_run_leaves_a_sound_table() {
    for policy in Policy::ALL {
        for sizes in [Sizes::Trace, Sizes::Recorded] {
            for _ in 0..20 {
                let report = run(
                    Replay {
                        order: Order::Free,
                        sizes,
                        threads: Some(3),
                    },
                    policy,
                    &tape(),
                );
                assert_eq!((report.faults, report.threads), (9, 4));
                assert!(report.snapshots.is_empty());
            }
        }
    }
}

/// A fault that lost its race in the recording is not repeated in order, and races among threads.
#[test]
fn lost_races_change_nothing_in_order() {
    let mut tape = Tape::default();
    tape.slot(0, 0);
    let lost = Did {
        ret: -11,
        ..mapped(BLOCK, Prot::RW)
    };
    tape.fault(0, 0, FaultKind::Translation, AccessKind::Write, Level::L1, lost);
    tape.range(DUMP, 0, 0, 0);
    let report = run(
        Replay {
            sizes: Sizes::Recorded,
            ..Replay::default()
        },
        Policy::Lockless,
        &tape,
    );
    assert_eq!(report.snapshots[0].leaves, []);
    let racing = Replay {
        order: Order::Threads,
        sizes: Sizes::Recorded,
        threads: None,
    };
    assert_eq!(run(racing, Policy::Lockless, &tape).snapshots[0].leaves.len(), 1);
}

#[test]
fn what_cannot_be_replayed_is_refused() {
    let vm = vm_with(vm_options(Policy::Lockless, Backing::Thp), BLOCK, Counting::new());
    let events = tape().events();
    let refused = Replay::default().run(&vm, &events, &Control::new()).map(drop);
    assert_eq!(refused, Err(ReplayError::HasSlots { slots: 1 }));
    let fresh = || {
        vm_options(Policy::Lockless, Backing::Thp)
            .build(Counting::new())
            .unwrap()
    };
    let refuse = |tape: &Tape, sizes| {
        Replay {
            sizes,
            ..Replay::default()
        }
        .run(&fresh(), &tape.events(), &Control::new())
        .map(drop)
        .unwrap_err()
    };
    let mut unknown = tape();
    unknown.0[2][8] = 0;
    assert_eq!(refuse(&unknown, Sizes::Recorded), ReplayError::NoSizes { row: 2 });
    let mut syndrome = tape();
    syndrome.0[2][6] = 0;
    assert!(matches!(
        refuse(&syndrome, Sizes::Trace),
        ReplayError::Syndrome { row: 2, .. }
    ));
    let mut change = tape();
    change.0[0][19] = 9;
    assert!(matches!(
        refuse(&change, Sizes::Trace),
        ReplayError::Event { row: 0, .. }
    ));
    let mut size = tape();
    size.0[2][10] = 12345;
    assert!(matches!(refuse(&size, Sizes::Recorded), ReplayError::Vm { row: 2, .. }));
    let mut range = tape();
    let unmap = range.0.iter().position(|r| r[1] == UNMAP).unwrap();
    range.0[unmap][4] = 1;
    assert!(matches!(refuse(&range, Sizes::Trace), ReplayError::Vm { row, .. } if row == unmap));
    let cancelled = Control::new();
    cancelled.cancel();
    for order in [Order::Recorded, Order::Threads, Order::Free] {
        let ended = Replay {
            order,
            ..Replay::default()
        }
        .run(&fresh(), &events, &cancelled)
        .unwrap();
        assert_eq!((ended.complete, ended.faults), (false, 0), "{order:?}");
    }
}

/// A page that the recording does not know the place of is put somewhere, and counted.
#[test]
fn unknown_output_addresses_are_counted() {
    let mut tape = tape();
    for row in tape.0.iter_mut().filter(|r| r[4] == BASE + 2 * BLOCK + PAGE) {
        row[18] = Event::NO_PA;
        row[15] = PAGE;
    }
    let report = run(Replay::default(), Policy::Lockless, &tape);
    assert_eq!(report.no_pa, 2);
    let last = report.snapshots[1].leaves.last().unwrap();
    assert_eq!(
        (last.ipa.get(), last.pa.get()),
        (BASE + 2 * BLOCK + PAGE, BASE + 2 * BLOCK + PAGE)
    );
    assert_eq!(Ipa::new(last.pa.get()), last.ipa);
}
