//! What the simulated machine lets pass, and that every check of it can fail.
//!
//! The table's own operations pass. Then sinks that leave out or change one step of the maintenance stand between the table
//! and the machine, and each must be found, on one thread, in a few steps.

use std::cell::Cell;

use s2pt::arch::{
    AccessKind, Attrs, Dsb, Fault, FaultKind, Geometry, GeometryOptions, Ipa, Level, Pa, Prot, Scope, Tlbi,
};
use s2pt::machine::{Access, Machine, MachineOptions, Port, ViolationKind};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::sync::Arc;
use s2pt::table::{Config, Event, Existing, Handle, MapOptions, Stage2, Tlb};

const PAGE: u64 = 0x1000;
const BLOCK: u64 = 0x20_0000;
/// Where the guest's memory begins.
const RAM: u64 = 0x4000_0000;

/// Stands between a table and the machine.
#[derive(Clone)]
struct Between<F>(Port, F);

impl<F: Fn(Event, &dyn Fn(Event)) + Send + Sync> Tlb for Between<F> {
    fn event(&self, event: Event) {
        (self.1)(event, &|event| self.0.event(event));
    }
}

struct Bench<T: Tlb + 'static> {
    machine: Machine,
    port: Port,
    table: Arc<Stage2<Arena, T>>,
}

/// A machine of two CPUs over a table whose maintenance passes through `between`.
fn bench_with<F: Fn(Event, &dyn Fn(Event)) + Send + Sync + 'static>(
    change: impl FnOnce(&mut Config),
    between: F,
) -> Bench<Between<F>> {
    let ram = Some((Pa::new(RAM), 64 << 20));
    let machine = Machine::new(MachineOptions {
        cpus: 2,
        ram,
        log: 256,
        patience: 20,
    });
    let machine = machine.unwrap();
    let port = machine.port();
    let mut config = Config::new(Geometry::new(GeometryOptions::default()).unwrap());
    change(&mut config);
    let arena = Arena::new(ArenaOptions::default()).unwrap();
    let table = Arc::new(Stage2::new(config, arena, Between(port.clone(), between)).unwrap());
    assert!(port.attach(&table) && !port.attach(&table));
    machine.load(&port);
    Bench { machine, port, table }
}

fn as_it_is(event: Event, on: &dyn Fn(Event)) {
    on(event);
}

impl<T: Tlb> Bench<T> {
    fn view(&self) -> Handle<'_, Arena, T> {
        self.table.handle()
    }

    fn map(&self, ipa: u64, size: u64, pa: u64, prot: Prot) {
        let options = MapOptions {
            existing: Existing::Replace,
            ..MapOptions::default()
        };
        self.view()
            .map(Ipa::new(ipa), size, Pa::new(pa), &Attrs::new(prot), options)
            .unwrap();
    }

    /// Both CPUs read, so that they hold the translation. Over broken maintenance this may fault.
    fn touch(&self, ipa: u64) {
        for cpu in 0..2 {
            let _ = self.machine.cpu(cpu).access(Access::read(Ipa::new(ipa), 8));
        }
    }

    /// Nothing may be wrong.
    fn settle(&self) {
        self.view().drain();
        assert_eq!(self.machine.audit(), 0, "{:#?}", self.machine.violations());
        assert!(self.machine.violations().is_empty(), "{:#?}", self.machine.violations());
    }

    /// Something must be wrong, and of this kind first.
    fn found(&self) -> ViolationKind {
        self.view().drain();
        self.machine.audit();
        let violations = self.machine.violations();
        assert!(!violations.is_empty(), "nothing was found");
        println!("{}", violations[0]);
        violations[0].kind
    }
}

fn bench() -> Bench<impl Tlb> {
    bench_with(|_| {}, as_it_is)
}

fn fault(ipa: u64, access: AccessKind, kind: FaultKind, level: Level) -> Fault {
    Fault {
        ipa: Ipa::new(ipa),
        access,
        kind,
        level,
        s1ptw: false,
    }
}

#[test]
fn bytes_are_where_the_table_says() {
    let bench = bench();
    bench.map(0x8000_0000, BLOCK, RAM, Prot::RW);
    let (one, two) = (bench.machine.cpu(0), bench.machine.cpu(1));
    one.access(Access::write(Ipa::new(0x8000_1230), 8, 0x0123_4567_89ab_cdef))
        .unwrap();
    one.access(Access::write(Ipa::new(0x8000_1236), 2, 0xffff)).unwrap();
    assert_eq!(
        two.access(Access::read(Ipa::new(0x8000_1230), 8)),
        Ok(0xffff_4567_89ab_cdef)
    );
    assert_eq!(two.access(Access::read(Ipa::new(0x8000_1231), 1)), Ok(0xcd));
    assert_eq!(bench.machine.ram().read(Pa::new(RAM + 0x1234), 4), Some(0xffff_4567));
    // The other half of the block is the same memory as before the split.
    bench.view().split(Ipa::new(0x8000_0000), BLOCK, Level::L3).unwrap();
    assert_eq!(one.access(Access::read(Ipa::new(0x8000_1231), 1)), Ok(0xcd));
    // Outside of the memory: nothing there, and nothing breaks.
    bench.map(0x9000_0000, PAGE, 0x1_0000_0000, Prot::RW);
    one.access(Access::write(Ipa::new(0x9000_0000), 8, 1)).unwrap();
    assert_eq!(two.access(Access::read(Ipa::new(0x9000_0000), 8)), Ok(0));
    bench.settle();
}

#[test]
fn faults_say_what_hardware_says() {
    let bench = bench();
    bench.map(0x8000_0000, PAGE, RAM, Prot::R);
    let cpu = bench.machine.cpu(0);
    let at = 0x8000_0010;
    let write = Access::write(Ipa::new(at), 8, 0);
    let refused = fault(at, AccessKind::Write, FaultKind::Permission, Level::L3);
    assert_eq!(cpu.access(write), Err(refused));
    assert_eq!(
        cpu.access(Access::fetch(Ipa::new(at))).unwrap_err().kind,
        FaultKind::Permission
    );
    let hole = cpu.access(Access::read(Ipa::new(0x8000_1000), 4));
    assert_eq!(
        hole,
        Err(fault(0x8000_1000, AccessKind::Read, FaultKind::Translation, Level::L3))
    );
    let beyond = cpu.access(Access::read(Ipa::new(1 << 40), 4));
    assert_eq!(beyond.unwrap_err().level, Level::L0);
    let crooked = cpu.access(Access::read(Ipa::new(0x8000_0001), 4));
    assert_eq!(crooked.unwrap_err().kind, FaultKind::Alignment);
    assert_eq!(refused.to_registers().unwrap().esr.fsc(), 0b001111);
    assert_eq!(bench.machine.counts().faults, 4); // the last is none of stage 2
    bench.settle();
}

#[test]
fn a_refusal_is_remembered_until_the_relaxing_core_invalidates_its_own() {
    let bench = bench();
    bench.map(0x8000_0000, PAGE, RAM, Prot::R);
    bench.touch(0x8000_0000);
    let write = Access::write(Ipa::new(0x8000_0000), 8, 7);
    let (one, two) = (bench.machine.cpu(0), bench.machine.cpu(1));
    let relax = |fault: &Fault| {
        bench
            .view()
            .relax(fault.ipa.align_down(PAGE), PAGE, Prot::W)
            .map(|_| true)
    };
    assert_eq!(one.run(write, relax).unwrap(), Ok(0));
    // The other core still has its refusal: it faults once more, and is helped.
    assert!(two.access(write).is_err());
    assert_eq!(two.run(write, relax).unwrap(), Ok(0));
    bench.settle();
}

/// What is done to the table in each run of the checks below: everything that invalidates.
fn everything<T: Tlb>(bench: &Bench<T>) {
    let view = bench.view();
    let at = |ipa: u64| Ipa::new(ipa);
    let (page, block) = (0x8000_0000, 0x8020_0000);
    for base in [page, page + PAGE, page + 2 * PAGE] {
        bench.map(base, PAGE, RAM + base - page, Prot::RW);
        bench.touch(base);
    }
    bench.map(page, PAGE, RAM + 16 * PAGE, Prot::RW); // another output
    bench.touch(page);
    view.write_protect(at(page), 3 * PAGE).unwrap();
    bench.machine.check(&bench.port, at(page), 3 * PAGE);
    bench.touch(page);
    view.unmap(at(page), 2 * PAGE).unwrap();
    bench.machine.check(&bench.port, at(page), 2 * PAGE);
    view.unmap(at(page + 2 * PAGE), PAGE).unwrap(); // the last one: the table goes
    bench.machine.check(&bench.port, at(page), 3 * PAGE);

    bench.map(block, BLOCK, RAM + BLOCK, Prot::RW);
    bench.touch(block + 5 * PAGE);
    view.write_protect(at(block), PAGE).unwrap(); // cuts
    bench.machine.check(&bench.port, at(block), BLOCK);
    for page in 0..8 {
        bench.touch(block + page * PAGE);
    }
    view.protect(at(block), BLOCK, Prot::R).unwrap();
    bench.machine.check(&bench.port, at(block), BLOCK);
    assert_eq!(view.collapse(at(block), BLOCK).unwrap(), 1);
    bench.touch(block);
    view.split(at(block), BLOCK, Level::L3).unwrap();
    bench.touch(block + 9 * PAGE);
    bench.map(block, BLOCK, RAM + 2 * BLOCK, Prot::RW); // a block over a table
    bench.touch(block);
    view.unmap(at(block), BLOCK).unwrap();
    bench.machine.check(&bench.port, at(block), BLOCK);
    drop(view);
}

#[test]
fn every_operation_passes() {
    for tlbi_range in [true, false] {
        for kvm in [false, true] {
            let bench = bench_with(
                |config| {
                    config.tlbi_range = tlbi_range;
                    config.fwb = kvm;
                },
                as_it_is,
            );
            everything(&bench);
            bench.settle();
            assert_eq!(bench.machine.counts().faults, 0);
        }
    }
}

/// A step of maintenance is left out wherever it stands.
fn without(leave_out: impl Fn(Event) -> bool + Send + Sync + 'static) -> ViolationKind {
    let bench = bench_with(
        |_| {},
        move |event, on| {
            if !leave_out(event) {
                on(event);
            }
        },
    );
    everything(&bench);
    bench.found()
}

#[test]
fn a_tlbi_left_out_is_found() {
    let kind = without(|event| matches!(event, Event::Tlbi(tlbi) if tlbi.is_stage2()));
    assert_eq!(kind, ViolationKind::MadeTooEarly);
}

#[test]
fn the_stage_1_part_left_out_is_found() {
    let kind = without(|event| matches!(event, Event::Tlbi(Tlbi::Stage1 { .. })));
    assert_eq!(kind, ViolationKind::MadeTooEarly);
}

#[test]
fn each_kind_of_barrier_left_out_is_found() {
    for barrier in [Dsb::Ishst, Dsb::Ish] {
        let kind = without(move |event| event == Event::Dsb(barrier));
        assert_eq!(kind, ViolationKind::MadeTooEarly, "{barrier:?}");
    }
}

#[test]
fn the_barrier_between_the_stages_is_found_missing() {
    thread_local!(static ISH: Cell<u32> = const { Cell::new(0) });
    let bench = bench_with(
        |_| {},
        |event, on| {
            // Of each pair of DSB ISH the first.
            let first = event == Event::Dsb(Dsb::Ish) && {
                ISH.set(ISH.get() + 1);
                ISH.get() % 2 == 1
            };
            if !first {
                on(event);
            }
        },
    );
    everything(&bench);
    assert_eq!(bench.found(), ViolationKind::MadeTooEarly);
}

#[test]
fn a_tlbi_of_this_core_alone_is_found_where_all_were_meant() {
    let bench = bench_with(
        |_| {},
        |event, on| {
            on(match event {
                Event::Tlbi(Tlbi::Ipa { ipa, level, .. }) => Event::Tlbi(Tlbi::Ipa {
                    ipa,
                    level,
                    scope: Scope::Local,
                }),
                other => other,
            });
        },
    );
    let cpu = bench.machine.cpu(0);
    let _bound = cpu.bind();
    everything(&bench);
    assert_eq!(bench.found(), ViolationKind::MadeTooEarly);
}

#[test]
fn a_wrong_level_hint_is_found() {
    let bench = bench_with(
        |_| {},
        |event, on| {
            on(match event {
                Event::Tlbi(Tlbi::Ipa { ipa, scope, .. }) => Event::Tlbi(Tlbi::Ipa {
                    ipa,
                    level: Some(Level::L1),
                    scope,
                }),
                other => other,
            });
        },
    );
    everything(&bench);
    assert_eq!(bench.found(), ViolationKind::MadeTooEarly);
}

#[test]
fn one_tlbi_for_many_leaves_is_found() {
    let bench = bench_with(
        |_| {},
        |event, on| {
            on(match event {
                Event::Tlbi(Tlbi::Range { ipa, level, scope, .. }) => Event::Tlbi(Tlbi::Ipa { ipa, level, scope }),
                other => other,
            });
        },
    );
    everything(&bench);
    // Three pages protected by one operation: nobody makes anything, the owner's look finds it.
    assert_eq!(bench.found(), ViolationKind::Stale);
}

#[test]
fn a_barrier_that_does_not_wait_for_an_access_in_flight_is_found() {
    let run = |leave_out: bool| {
        let bench = bench_with(
            |_| {},
            move |event, on| {
                if !(leave_out && event == Event::Dsb(Dsb::Ish)) {
                    on(event);
                }
            },
        );
        bench.map(0x8000_0000, PAGE, RAM, Prot::RW);
        let cpu = bench.machine.cpu(1);
        cpu.begin(Access::write(Ipa::new(0x8000_0008), 8, 5)).unwrap();
        bench.view().unmap(Ipa::new(0x8000_0000), PAGE).unwrap();
        bench.machine.check(&bench.port, Ipa::new(0x8000_0000), PAGE);
        // The DSB has let it reach memory; or it is still on its way.
        assert_eq!(
            bench.machine.ram().read(Pa::new(RAM + 8), 8),
            Some(if leave_out { 0 } else { 5 })
        );
        assert_eq!(cpu.finish().is_some(), leave_out);
        bench.machine.violations()
    };
    assert!(run(false).is_empty());
    let found = run(true);
    assert!(found.iter().any(|found| found.what.contains("in flight")), "{found:#?}");
}

#[test]
fn a_barrier_that_does_not_publish_leaves_a_guest_stuck() {
    let run = |leave_out: bool| {
        let bench = bench_with(
            |_| {},
            move |event, on| {
                if !(leave_out && event == Event::Publish) {
                    on(event);
                }
            },
        );
        let cpu = bench.machine.cpu(0);
        let mapped = || {
            bench.view().map(
                Ipa::new(0x8000_0000),
                PAGE,
                Pa::new(RAM),
                &Attrs::new(Prot::RW),
                MapOptions::FAULT,
            )
        };
        let _ = mapped(); // by the host, on none of the CPUs
        let done = cpu
            .run(Access::read(Ipa::new(0x8000_0000), 8), |_| Ok::<_, ()>(true))
            .unwrap();
        (done.is_ok(), bench.machine.violations())
    };
    assert_eq!(run(false), (true, Vec::new()));
    let (done, found) = run(true);
    assert!(!done);
    assert_eq!(found[0].kind, ViolationKind::Stuck);
}

#[test]
fn hardware_notes_reads_and_writes_and_nothing_of_it_is_lost() {
    let bench = bench_with(|config| (config.ha, config.hd) = (true, true), as_it_is);
    let (base, view) = (Ipa::new(0x8000_0000), bench.view());
    let attrs = Attrs {
        af: false,
        dbm: true,
        ..Attrs::new(Prot::R)
    };
    let options = MapOptions::default();
    view.map(base, BLOCK, Pa::new(RAM), &attrs, options).unwrap();
    let cpu = bench.machine.cpu(0);
    cpu.access(Access::read(base, 8)).unwrap();
    let leaf = view.lookup(base).unwrap().pte;
    assert!(bench.table.format().af(leaf) && !bench.table.format().prot(leaf).contains(Prot::W));
    cpu.access(Access::write(base, 8, 1)).unwrap();
    assert!(
        bench
            .table
            .format()
            .prot(view.lookup(base).unwrap().pte)
            .contains(Prot::W)
    );
    assert_eq!(bench.machine.counts().updates, 2);
    // Split and merged again: still dirty.
    view.split(base, BLOCK, Level::L3).unwrap();
    bench.settle();
    view.collapse(base, BLOCK).unwrap();
    bench.settle();
    // Who takes the record says so; who does not is found out.
    view.write_protect(base, BLOCK).unwrap();
    let before = bench.machine.violated();
    assert_eq!(bench.machine.check(&bench.port, base, BLOCK), 1);
    assert_eq!(bench.machine.violations()[0].kind, ViolationKind::LostDirty);
    bench.machine.forget(&bench.port, base, BLOCK);
    assert_eq!(bench.machine.check(&bench.port, base, BLOCK), 0);
    assert_eq!(bench.machine.violated(), before + 1);
}

#[test]
fn a_frame_that_is_freed_too_early_is_found() {
    let bench = bench_with(
        |_| {},
        |event, on| match event {
            // The subtree's top is free as soon as it is unlinked, before anything is invalidated.
            Event::Store { old, new, .. } if new.is_locked() && old.is_table(Level::L2) => {
                on(event);
                on(Event::Free {
                    frame: Pa::new(old.raw() & 0xffff_ffff_f000),
                });
            }
            other => on(other),
        },
    );
    bench.map(0x8000_0000, PAGE, RAM, Prot::RW);
    bench.touch(0x8000_0000);
    bench.view().unmap(Ipa::new(0x8000_0000), PAGE).unwrap();
    assert_eq!(bench.found(), ViolationKind::FreedFrame);
}

#[test]
fn two_tables_with_two_vmids_do_not_mix_and_with_one_they_do() {
    let run = |vmid: u16| {
        let machine = Machine::new(MachineOptions::default()).unwrap();
        let make = |vmid: u16, pa: u64| {
            let port = machine.port();
            let config = Config {
                vmid,
                ..Config::new(Geometry::new(GeometryOptions::default()).unwrap())
            };
            let table = Stage2::new(config, Arena::new(ArenaOptions::default()).unwrap(), port.clone());
            let table = Arc::new(table.unwrap());
            port.attach(&table);
            let attrs = Attrs::new(Prot::RW);
            table
                .handle()
                .map(Ipa::new(0), PAGE, Pa::new(pa), &attrs, MapOptions::default())
                .unwrap();
            (port, table)
        };
        let tables = [make(1, 0x10_0000), make(vmid, 0x20_0000)];
        let cpu = machine.cpu(0);
        for (port, _) in &tables {
            cpu.load(port);
            cpu.access(Access::read(Ipa::new(0), 8)).unwrap();
        }
        machine.audit()
    };
    assert_eq!(run(2), 0);
    assert_ne!(run(1), 0);
}
