//! Runs that are asked to end at a chosen step: what they found up to there is told, and nothing stays behind.
//!
//! The wish comes out of the sink, from the thread whose maintenance it is, so that nobody has to be quick.

use core::time::Duration;
use std::thread::{self, ThreadId};

use s2pt::arch::{AccessKind, FaultKind, Ipa, Level, Pa, Prot};
use s2pt::machine::{Machine, MachineOptions};
use s2pt::sync::Arc;
use s2pt::table::{Counting, Counts, Event, Tlb};
use s2pt::vm::replay::{Order, Replay};
use s2pt::vm::workload::{
    Control, DirtyLog, DirtyLogReport, Load, LogKind, Maintenance, Migrate, MigrateReport, Phase,
};
use s2pt::vm::{self, Backing, DirtyLogMode, DirtyLogOptions, FaultClass, Policy, Slot};

use crate::replay::{Tape, UNMAP, mapped};
use crate::support::*;

/// Whose TLBIs.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    /// Those of the thread that runs the test, which is the host of its runs.
    Host,
    /// Those of the other threads.
    Vcpu,
}

/// Cancels at one stage-2 TLBI in one step of the run.
struct Ender {
    control: Arc<Control>,
    step: &'static str,
    who: Who,
    host: ThreadId,
    /// How many of them are let pass.
    pass: std::sync::atomic::AtomicU32,
    counting: Counting,
}

impl Ender {
    fn new(step: &'static str, pass: u32, who: Who) -> Self {
        Self {
            control: Arc::new(Control::new()),
            step,
            who,
            host: thread::current().id(),
            pass: pass.into(),
            counting: Counting::new(),
        }
    }
}

impl Tlb for Ender {
    fn event(&self, event: Event) {
        use std::sync::atomic::Ordering::Relaxed;
        self.counting.event(event);
        let by_host = thread::current().id() == self.host;
        let chosen = matches!(event, Event::Tlbi(tlbi) if tlbi.is_stage2()) && by_host == (self.who == Who::Host);
        if chosen && self.control.step() == self.step && self.pass.fetch_sub(1, Relaxed) == 0 {
            self.control.cancel();
        }
    }
}

impl Maintenance for Ender {
    fn maintenance(&self) -> Option<Counts> {
        self.counting.maintenance()
    }
}

// --- dirty log -------------------------------------------------------------------------------------------------------

const SIZE: u64 = 4 * BLOCK;

fn job() -> DirtyLog {
    DirtyLog {
        load: Load {
            bytes_per_vcpu: SIZE,
            ..Load::default()
        },
        ..DirtyLog::default()
    }
}

fn cancelled(ender: &Ender, policy: Policy, manual_protect: bool) -> DirtyLogReport {
    let job = DirtyLog {
        iterations: 4,
        log: DirtyLogOptions {
            mode: if manual_protect {
                DirtyLogMode::ManualInitiallySet
            } else {
                DirtyLogMode::Auto
            },
            ..DirtyLogOptions::default()
        },
        ..job()
    };
    let vm = vm_with(vm_options(policy, Backing::Thp), SIZE, ender);
    let report = job.run(&vm, 0, &ender.control).unwrap();
    assert!(!report.complete && ender.control.is_cancelled());
    assert_eq!(vm.dirty_log_mode(0), Ok(None), "the log is left off");
    // And the VM is as good as new.
    let again = DirtyLog { iterations: 1, ..job }.run(&vm, 0, &Control::new()).unwrap();
    assert!(again.complete && again.phases.iter().all(|phase| phase.complete));
    report
}

fn names(report: &DirtyLogReport) -> String {
    report
        .phases
        .iter()
        .map(|phase| phase.phase.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

#[test]
fn a_pass_that_is_cut_short_tells_what_it_counted() {
    for policy in Policy::ALL {
        let ender = Ender::new("dirty 2", 300, Who::Vcpu);
        let report = cancelled(&ender, policy, true);
        assert_eq!(names(&report), "populate,enable,dirty 1,get 1,clear 1,dirty 2");
        let last = report.phases.last().unwrap();
        // A vCPU looks up at each 256th page, and each page faults once.
        assert_eq!((last.complete, last.counters.total()), (false, 512));
        assert_eq!(last.counters.faults(FaultClass::PermissionWrite), 512);
        assert_eq!(last.maintenance.unwrap().tlbi(), 512);
        assert!(report.phases[..5].iter().all(|phase| phase.complete));
        assert_eq!(report.phases[3].found, Some(SIZE / PAGE));
        assert_eq!(ender.control.progress().0, 2 * SIZE / PAGE + 512);
    }
}

#[test]
fn a_step_of_the_host_is_done_to_its_end() {
    for (step, manual, expected) in [
        ("clear 1", true, "populate,enable,dirty 1,get 1,clear 1,dirty 2"),
        ("get 2", false, "populate,enable,dirty 1,get 1,dirty 2,get 2,dirty 3"),
        ("enable", false, "populate,enable,dirty 1"),
    ] {
        let report = cancelled(&Ender::new(step, 0, Who::Host), Policy::Lockless, manual);
        assert_eq!(names(&report), expected);
        // What was cut short is the step after it, which had not begun.
        let (last, done) = report.phases.split_last().unwrap();
        assert!(done.iter().all(|phase| phase.complete));
        assert_eq!(
            (last.complete, last.elapsed, last.counters.total()),
            (false, Duration::ZERO, 0)
        );
    }
}

#[test]
fn before_the_beginning_the_first_step_is_cut_short() {
    let vm = vm_with(vm_options(Policy::Lockless, Backing::Thp), SIZE, Counting::new());
    let control = Control::new();
    control.cancel();
    let report = job().run(&vm, 0, &control).unwrap();
    let [first] = report.phases.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(
        (report.complete, first.complete, first.phase),
        (false, false, Phase::Populate)
    );
    assert_eq!(
        (
            first.counters.total(),
            first.maintenance.unwrap().tlbi(),
            first.expected
        ),
        (0, 0, None)
    );
    assert_eq!(vm.stage2().handle().stats().mapped_bytes, 0);
    let report = job().run(&vm, 0, &Control::new()).unwrap();
    assert_eq!(report.phases.last().map(|phase| phase.phase), Some(Phase::Disable));
}

// --- migration -------------------------------------------------------------------------------------------------------

/// Migrates, and asks for the end when the host invalidates in `step`; `None` if it had nothing to invalidate there, as nobody
/// had written meanwhile.
fn migrate_until(step: &'static str, kind: LogKind) -> Option<MigrateReport> {
    let size = 2 * BLOCK;
    let machine = Machine::new(MachineOptions {
        cpus: 2,
        ram: Some((Pa::new(HOST), size)),
        ..MachineOptions::default()
    })
    .unwrap();
    let port = machine.port();
    let ender = Arc::new(Ender::new(step, 0, Who::Host));
    let options = vm::VmOptions {
        hd: kind == LogKind::Hardware,
        dirty_ring: if kind == LogKind::Ring { 1024 } else { 0 },
        ..vm::VmOptions::default()
    };
    let vm = Arc::new(options.build((port.clone(), Arc::clone(&ender))).unwrap());
    port.attach(&vm);
    machine.load(&port);
    vm.create_slot(Slot::linear(0, Ipa::new(BASE), size, Pa::new(HOST)))
        .unwrap();
    let job = Migrate {
        write_percent: 100,
        log: kind.options(false, BLOCK),
        downtime: Duration::ZERO,
        rounds: 4,
        warm_up: Duration::from_millis(1),
        ..Migrate::default()
    };
    let report = job.run(&vm, 0, &machine, &ender.control).unwrap();
    if !ender.control.is_cancelled() {
        return None;
    }
    assert_eq!(vm.dirty_log_options(0), Ok(None), "the log is left off");
    if step == "round 3" {
        let again = job.run(&vm, 0, &machine, &Control::new()).unwrap();
        assert_eq!((again.complete, again.lost_bytes), (true, Some(0)));
    }
    Some(report)
}

#[test]
fn a_migration_tells_the_rounds_that_it_did() {
    for (kind, name) in LogKind::ALL {
        for (step, rounds, cut) in [
            ("enable", 0, "round 1"),
            ("round 1", 1, "round 2"),
            ("round 3", 3, "round 4"),
            ("stop", 4, "stop"),
        ] {
            let case = format!("{name}, {step}");
            let report = loop {
                if let Some(report) = migrate_until(step, kind) {
                    break report;
                }
            };
            assert_eq!((report.complete, report.rounds.len()), (false, rounds), "{case}");
            assert_eq!(report.cut.as_deref(), Some(cut), "{case}");
            assert_eq!(report.lost_bytes, None, "{case}: nothing was compared");
            let sent: u64 = report.rounds.iter().map(|round| round.pages).sum();
            assert_eq!((report.pages_sent, report.last_pages), (sent, 0), "{case}");
            assert!(report.before.accesses > 0 && report.counters.total() > 0, "{case}");
            assert_eq!(report.downtime.is_zero(), step != "stop", "{case}");
            assert_eq!((report.wrong_reads, report.violations), (0, 0), "{case}");
        }
    }
}

// --- replay ----------------------------------------------------------------------------------------------------------

#[test]
fn a_replay_tells_what_the_rows_up_to_there_did() {
    let faults = |tape: &mut Tape, pages: core::ops::Range<u64>| {
        for page in pages {
            let did = mapped(PAGE, Prot::RW);
            tape.fault(
                0,
                page * PAGE,
                FaultKind::Translation,
                AccessKind::Write,
                Level::L3,
                did,
            );
        }
    };
    let mut tape = Tape::default();
    tape.slot(0, 0);
    faults(&mut tape, 0..600);
    tape.range(UNMAP, 0, PAGE, 0);
    faults(&mut tape, 600..1200);
    for (order, done) in [
        // A look at each 256th row: row 1280 is not done, of which 1201 is the host's.
        (Order::Recorded, 600 + (1280 - 1202) / 2),
        // The host's row is a barrier, and behind it everybody looks first.
        (Order::Threads, 600),
    ] {
        let ender = Ender::new("", 0, Who::Host);
        let replay = Replay {
            order,
            sizes: s2pt::vm::replay::Sizes::Recorded,
            ..Replay::default()
        };
        let vm = vm_options(Policy::Lockless, Backing::Thp).build(&ender).unwrap();
        let report = replay.run(&vm, &tape.events(), &ender.control).unwrap();
        assert!(!report.complete, "{order:?}");
        assert_eq!((report.faults, report.counters.total()), (done, done), "{order:?}");
        assert_eq!(report.taken_back, PAGE, "{order:?}");
        assert_eq!(report.stats.mapped_bytes, (done - 1) * PAGE, "{order:?}");
    }
}
