//! Live migration: nothing is lost, whoever notices the writes and whoever waits for whom; and what is done too early is found.

use core::time::Duration;

use s2pt::arch::{Ipa, Pa};
use s2pt::machine::{Machine, MachineOptions, Port};
use s2pt::memory::Arena;
use s2pt::sync::Arc;
use s2pt::table::{Semantics, StallKind};
use s2pt::vm::workload::{Control, LogKind, Migrate, MigrateReport, WorkloadError};
use s2pt::vm::{self, Backing, Cost, DirtyLogMode, Error, Policy, Slot, Vm};

use crate::support::{BASE, BLOCK, HOST, PAGE};

struct World {
    machine: Machine,
    vm: Arc<Vm<Arena, Port>>,
    block: u64,
}

fn world(policy: Policy, backing: Backing, kind: LogKind, semantics: Semantics, cpus: usize, size: u64) -> World {
    let machine = Machine::new(MachineOptions {
        cpus,
        ram: Some((Pa::new(HOST), size)),
        ..MachineOptions::default()
    })
    .unwrap();
    let port = machine.port();
    let options = vm::VmOptions {
        policy,
        backing,
        semantics,
        hd: kind == LogKind::Hardware,
        dirty_ring: if kind == LogKind::Ring { 1024 } else { 0 },
        ..vm::VmOptions::default()
    };
    let vm = Arc::new(options.build(port.clone()).unwrap());
    port.attach(&vm);
    machine.load(&port);
    vm.create_slot(Slot::linear(0, Ipa::new(BASE), size, Pa::new(HOST)))
        .unwrap();
    World {
        machine,
        vm,
        block: BLOCK,
    }
}

const QUICK: Migrate = Migrate {
    vcpus: 3,
    write_percent: 60,
    hot_percent: 50,
    think: Cost::None,
    copy: Cost::None,
    log: s2pt::vm::DirtyLogOptions {
        mode: DirtyLogMode::Auto,
        tracking: s2pt::vm::DirtyTracking::WriteProtect,
        eager_split: None,
    },
    bandwidth: Some(200 << 20),
    downtime: Duration::from_micros(500),
    rounds: 3,
    warm_up: Duration::from_millis(5),
    take_backs: 0,
    too_early: false,
    seed: 1,
};

impl World {
    fn migrate(&self, options: Migrate) -> MigrateReport {
        let report = options.run(&self.vm, 0, &self.machine, &Control::new()).unwrap();
        assert_eq!(report.wrong_reads, 0, "{report:?}");
        assert_eq!(report.violations, 0, "{:?}", self.machine.violations());
        assert!(report.pages_sent >= 2 * BLOCK / PAGE && !report.rounds.is_empty());
        assert!(report.before.accesses > 0 && report.during.accesses > 0, "{report:?}");
        assert_eq!(self.vm.dirty_log_options(0), Ok(None));
        report
    }
}

#[test]
fn source_and_destination_are_the_same_whoever_notices_the_writes() {
    for policy in Policy::ALL {
        for (kind, name) in LogKind::ALL {
            for manual in [false, true] {
                for backing in [Backing::Pages, Backing::Thp] {
                    let world = world(policy, backing, kind, Semantics::Exact, 3, 2 * BLOCK);
                    let options = Migrate {
                        log: kind.options(manual, world.block),
                        take_backs: 500,
                        ..QUICK
                    };
                    let report = world.migrate(options);
                    assert_eq!(
                        report.lost_bytes,
                        Some(0),
                        "{policy:?} {name} manual={manual} {backing:?}"
                    );
                    assert!(report.faults.report().count > 0);
                }
            }
        }
    }
}

#[test]
fn kvms_habits_lose_nothing_either() {
    for policy in Policy::ALL {
        for kind in [LogKind::Lazy, LogKind::Eager, LogKind::Ring] {
            let world = world(policy, Backing::Thp, kind, Semantics::Kvm, 3, 2 * BLOCK);
            let options = Migrate {
                log: kind.options(false, world.block),
                ..QUICK
            };
            assert_eq!(world.migrate(options).lost_bytes, Some(0), "{policy:?} {kind:?}");
        }
    }
}

#[test]
fn pages_copied_before_their_protection_is_complete_are_lost() {
    for kind in [LogKind::Lazy, LogKind::Hardware] {
        let world = world(Policy::Lockless, Backing::Pages, kind, Semantics::Exact, 3, 2 * BLOCK);
        let options = Migrate {
            log: kind.options(true, world.block),
            too_early: true,
            write_percent: 100,
            hot_percent: 0,
            ..QUICK
        };
        assert!(world.migrate(options).lost_bytes > Some(0), "{kind:?}");
    }
}

#[test]
fn an_idle_guest_is_copied_once() {
    let world = world(
        Policy::Lockless,
        Backing::Thp,
        LogKind::Lazy,
        Semantics::Exact,
        2,
        2 * BLOCK,
    );
    let report = world.migrate(Migrate {
        vcpus: 2,
        write_percent: 0,
        ..QUICK
    });
    assert_eq!(
        (report.lost_bytes, report.pages_sent, report.last_pages),
        (Some(0), 2 * BLOCK / PAGE, 0)
    );
    assert_eq!(report.rounds.len(), 1);
}

#[test]
fn what_makes_no_sense_is_refused_and_a_wish_to_end_is_heard() {
    let world = world(
        Policy::Lockless,
        Backing::Thp,
        LogKind::Lazy,
        Semantics::Exact,
        2,
        2 * BLOCK,
    );
    let refused = |options: Migrate| options.run(&world.vm, 0, &world.machine, &Control::new()).unwrap_err();
    let option = |what, value, min, max| WorkloadError::Option { what, value, min, max };
    let fits = Migrate { vcpus: 2, ..QUICK };
    assert_eq!(refused(Migrate { vcpus: 3, ..QUICK }), option("vcpus", 3, 1, 2));
    assert_eq!(refused(Migrate { vcpus: 513, ..QUICK }), option("vcpus", 513, 1, 512));
    assert_eq!(
        refused(Migrate {
            write_percent: 101,
            ..fits
        }),
        option("write percent", 101, 0, 100)
    );
    assert_eq!(refused(Migrate { rounds: 0, ..fits }), option("rounds", 0, 1, 1 << 20));
    assert!(matches!(
        refused(Migrate {
            too_early: true,
            ..fits
        }),
        WorkloadError::Vm(Error::LogOptions { .. })
    ));
    let missing = fits.run(&world.vm, 7, &world.machine, &Control::new());
    assert_eq!(missing.unwrap_err(), WorkloadError::Vm(Error::NoSlot { slot: 7 }));
    let control = Control::new();
    control.cancel();
    let slow = Migrate {
        think: Cost::new(Duration::from_micros(10), StallKind::Sleep),
        ..fits
    };
    let ended = slow.run(&world.vm, 0, &world.machine, &control);
    assert!(!ended.unwrap().complete);
    assert_eq!(world.vm.dirty_log_options(0), Ok(None));
    assert_eq!(world.migrate(fits).lost_bytes, Some(0), "and after that it works");
}
