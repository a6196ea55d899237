//! One scenario for each place at which the table breaks, invalidates, makes or publishes, judged by the simulated machine.
//!
//! All pass. What they are for is `tests/protocol_mutations.py`: with one step of the protocol weakened, the scenario that comes
//! by it fails, on one thread, in a few steps.

use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::machine::{Access, Bound, Cpu, Machine, MachineOptions, Port};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::sync::Arc;
use s2pt::table::{Config, Error, Existing, Handle, MapOptions, Semantics, Stage2};

const PAGE: u64 = 0x1000;
const BLOCK: u64 = 0x20_0000;
/// Where the guest's memory begins, for the guest and behind the table.
const BASE: u64 = 0x8000_0000;
const RAM: u64 = 0x4000_0000;

struct Bench {
    machine: Machine,
    port: Port,
    table: Arc<Stage2<Arena, Port>>,
}

fn bench(change: impl FnOnce(&mut Config)) -> Bench {
    let machine = Machine::new(MachineOptions {
        cpus: 2,
        ram: Some((Pa::new(RAM), 64 << 20)),
        log: 256,
        patience: 20,
    });
    let machine = machine.unwrap();
    let port = machine.port();
    let mut config = Config::new(Geometry::new(GeometryOptions::default()).unwrap());
    config.tlbi_range = true;
    change(&mut config);
    let arena = Arena::new(ArenaOptions::default()).unwrap();
    let table = Arc::new(Stage2::new(config, arena, port.clone()).unwrap());
    assert!(port.attach(&table));
    machine.load(&port);
    Bench { machine, port, table }
}

const AS_IT_IS: fn(&mut Config) = |_| {};
const SINGLE_TLBIS: fn(&mut Config) = |config| config.tlbi_range = false;
const HARDWARE_NOTES: fn(&mut Config) = |config| (config.ha, config.hd) = (true, true);
const KVM: fn(&mut Config) = |config| config.semantics = Semantics::Kvm;
const KVM_ONE_TLBI: fn(&mut Config) = |config| (config.semantics, config.fwb) = (Semantics::Kvm, true);

const WHOLE: MapOptions = MapOptions {
    existing: Existing::Replace,
    ..MapOptions::FAULT
};

impl Bench {
    fn view(&self) -> Handle<'_, Arena, Port> {
        self.table.handle()
    }

    /// Puts a range where it belongs, `shift` bytes further on.
    fn map(&self, offset: u64, size: u64, shift: u64, prot: Prot) {
        self.map_as(offset, size, shift, Attrs::new(prot), Level::L1);
    }

    fn map_as(&self, offset: u64, size: u64, shift: u64, attrs: Attrs, largest: Level) {
        let options = MapOptions {
            existing: Existing::Replace,
            largest: Some(largest),
            ..MapOptions::default()
        };
        let (ipa, pa) = (Ipa::new(BASE + offset), Pa::new(RAM + offset + shift));
        self.view().map(ipa, size, pa, &attrs, options).unwrap();
    }

    fn pages(&self, count: u64) {
        self.map_as(0, count * PAGE, 0, Attrs::new(Prot::RW), Level::L3);
    }

    /// Both CPUs read each page, so that they hold what translates it.
    fn touch(&self, pages: impl IntoIterator<Item = u64>) {
        for page in pages {
            for cpu in 0..2 {
                let read = Access::read(Ipa::new(BASE + page * PAGE), 8);
                self.machine.cpu(cpu).access(read).unwrap();
            }
        }
    }

    /// A change of the range has returned.
    fn check(&self, offset: u64, size: u64) {
        self.machine.check(&self.port, Ipa::new(BASE + offset), size);
        self.clean();
    }

    fn clean(&self) {
        if let Some(first) = self.machine.violations().first() {
            panic!("{first}");
        }
    }

    /// All is done.
    fn settle(&self) {
        self.view().drain();
        self.machine.audit();
        self.clean();
    }

    fn cpu(&self, number: usize) -> Cpu {
        self.machine.cpu(number)
    }

    /// A write by the guest of CPU 0, whose faults are handled on it.
    fn write(&self, page: u64, handle: impl Fn(&Handle<'_, Arena, Port>, Ipa) -> Result<(), Error>) {
        let write = Access::write(Ipa::new(BASE + page * PAGE), 8, 7);
        let done = self.cpu(0).run(write, |fault| {
            handle(&self.view(), fault.ipa.align_down(PAGE)).map(|()| true)
        });
        self.clean();
        done.unwrap().unwrap();
    }
}

fn at(page: u64) -> Ipa {
    Ipa::new(BASE + page * PAGE)
}

/// The thread runs on CPU 0 while it changes the table.
fn on_cpu_0(cpu: &Cpu) -> Bound<'_> {
    cpu.bind()
}

#[test]
fn a_page_goes() {
    let bench = bench(AS_IT_IS);
    let cpu = bench.cpu(0);
    let _bound = on_cpu_0(&cpu);
    bench.pages(2);
    bench.touch(0..2);
    assert_eq!(bench.view().unmap(at(0), PAGE), Ok(PAGE));
    bench.check(0, 2 * PAGE);
    bench.settle();
}

#[test]
fn a_page_goes_while_it_is_written() {
    let bench = bench(AS_IT_IS);
    bench.pages(2);
    bench.cpu(1).begin(Access::write(at(0), 8, 5)).unwrap();
    bench.view().unmap(at(0), PAGE).unwrap();
    bench.check(0, PAGE);
    assert_eq!(bench.machine.ram().read(Pa::new(RAM), 8), Some(5));
    bench.settle();
}

#[test]
fn the_last_page_goes_with_its_table() {
    let bench = bench(AS_IT_IS);
    bench.pages(1);
    bench.touch([0]);
    assert_eq!(bench.view().unmap(at(0), PAGE), Ok(PAGE));
    bench.check(0, BLOCK);
    bench.settle();
    // The frame is used again, for another table.
    bench.map(BLOCK, PAGE, 0, Prot::RW);
    bench.touch([512]);
    bench.settle();
}

fn pages_go_together(change: fn(&mut Config)) {
    let bench = bench(change);
    bench.pages(8);
    bench.touch(0..8);
    assert_eq!(bench.view().unmap(at(1), 5 * PAGE), Ok(5 * PAGE));
    bench.check(0, 8 * PAGE);
    bench.settle();
}

#[test]
fn pages_go_together_by_one_range_tlbi() {
    pages_go_together(AS_IT_IS);
}

#[test]
fn pages_go_together_by_single_tlbis() {
    pages_go_together(SINGLE_TLBIS);
}

#[test]
fn pages_get_another_output() {
    for change in [AS_IT_IS, SINGLE_TLBIS] {
        let bench = bench(change);
        bench.pages(8);
        bench.touch(0..8);
        bench.map_as(2 * PAGE, 4 * PAGE, BLOCK, Attrs::new(Prot::RW), Level::L3);
        bench.check(0, 8 * PAGE);
        bench.touch(0..8);
        bench.settle();
    }
}

#[test]
fn a_table_goes() {
    for change in [AS_IT_IS, SINGLE_TLBIS] {
        let bench = bench(change);
        bench.pages(512);
        bench.touch([0, 1, 255, 511]);
        assert_eq!(bench.view().unmap(at(0), BLOCK), Ok(BLOCK));
        bench.check(0, BLOCK);
        bench.settle();
    }
}

#[test]
fn tables_of_two_levels_go() {
    let bench = bench(AS_IT_IS);
    let view = bench.view();
    let far = Ipa::new(1 << 30);
    view.map(far, PAGE, Pa::new(RAM), &Attrs::new(Prot::RW), MapOptions::default())
        .unwrap();
    for cpu in 0..2 {
        bench.cpu(cpu).access(Access::read(far, 8)).unwrap();
    }
    assert_eq!(view.unmap(far, 1 << 30), Ok(PAGE));
    bench.machine.check(&bench.port, far, 1 << 30);
    drop(view);
    bench.settle();
    let held = bench.table.memory().stats();
    assert_eq!((held.in_use, held.reserved), (2, 0), "only the root is left");
}

#[test]
fn a_block_takes_the_place_of_a_table() {
    let bench = bench(AS_IT_IS);
    bench.pages(512);
    bench.touch([0, 1, 255, 511]);
    bench.map(0, BLOCK, BLOCK, Prot::RW);
    bench.check(0, BLOCK);
    bench.touch([0, 1, 255, 511]);
    bench.settle();
}

#[test]
fn a_block_is_cut() {
    let bench = bench(AS_IT_IS);
    bench.map(0, BLOCK, 0, Prot::RW);
    bench.touch([0, 5, 511]);
    assert_eq!(bench.view().write_protect(at(5), PAGE).unwrap().leaves, 1);
    bench.check(0, BLOCK);
    bench.touch([0, 5, 511]);
    bench.settle();
    bench.view().unmap(at(7), PAGE).unwrap();
    bench.touch([0, 5, 6, 8, 511]);
    bench.settle();
}

#[test]
fn a_block_is_split_under_a_cpu_that_held_nothing_of_it() {
    let bench = bench(AS_IT_IS);
    bench.map(0, BLOCK, 0, Prot::RW);
    bench.view().split(at(0), BLOCK, Level::L3).unwrap();
    bench.write(9, |_, _| Ok(())); // nothing to do: the walker must see the table
    bench.settle();
}

#[test]
fn a_table_is_merged() {
    let bench = bench(AS_IT_IS);
    bench.pages(512);
    bench.touch([0, 1, 255, 511]);
    assert_eq!(bench.view().collapse(at(0), BLOCK), Ok(1));
    bench.check(0, BLOCK);
    bench.write(9, |_, _| Ok(()));
    bench.touch([0, 1, 255, 511]);
    bench.settle();
}

#[test]
fn a_merge_is_visible_to_other_cpus() {
    let bench = bench(AS_IT_IS);
    bench.pages(512);
    assert_eq!(bench.view().collapse(at(0), BLOCK), Ok(1));
    bench.write(9, |_, _| Ok(()));
    bench.settle();
}

#[test]
fn what_is_mapped_is_visible_to_other_cpus() {
    let bench = bench(AS_IT_IS);
    let view = bench.view();
    view.map(
        at(0),
        2 * PAGE,
        Pa::new(RAM),
        &Attrs::new(Prot::RW),
        MapOptions::default(),
    )
    .unwrap();
    bench.write(1, |_, _| Ok(()));
    bench.settle();
}

#[test]
fn what_a_fault_maps_is_visible_to_other_cpus() {
    let bench = bench(AS_IT_IS);
    let view = bench.view();
    view.map(
        at(0),
        2 * PAGE,
        Pa::new(RAM),
        &Attrs::new(Prot::RW),
        MapOptions::default(),
    )
    .unwrap();
    let page = Pa::new(RAM + 2 * PAGE);
    view.map(at(2), PAGE, page, &Attrs::new(Prot::RW), MapOptions::FAULT)
        .unwrap();
    bench.write(2, |_, _| Ok(()));
    bench.settle();
}

#[test]
fn rights_are_taken() {
    for change in [AS_IT_IS, SINGLE_TLBIS] {
        let bench = bench(change);
        bench.pages(8);
        bench.touch(0..8);
        bench.view().write_protect(at(1), 3 * PAGE).unwrap();
        bench.check(0, 8 * PAGE);
        bench.view().protect(at(4), 2 * PAGE, Prot::R).unwrap();
        bench.check(0, 8 * PAGE);
        bench.settle();
    }
}

#[test]
fn rights_of_a_block_and_of_pages_are_taken_together() {
    let bench = bench(AS_IT_IS);
    bench.map(0, BLOCK, 0, Prot::RW);
    bench.map_as(BLOCK, 4 * PAGE, 0, Attrs::new(Prot::RW), Level::L3);
    bench.touch([0, 511, 512, 513]);
    bench.view().write_protect(at(0), BLOCK + 4 * PAGE).unwrap();
    bench.check(0, 2 * BLOCK);
    bench.settle();
}

#[test]
fn a_dirty_log_is_harvested() {
    let bench = bench(AS_IT_IS);
    bench.pages(8);
    bench.touch(0..8);
    let spans = [(at(1), 2 * PAGE), (at(5), PAGE)];
    bench.view().write_protect_leaves(spans).unwrap();
    bench.check(0, 8 * PAGE);
    bench.settle();
}

#[test]
fn a_map_narrows_in_place() {
    let bench = bench(AS_IT_IS);
    bench.pages(4);
    bench.touch(0..4);
    bench.map_as(PAGE, 2 * PAGE, 0, Attrs::new(Prot::R), Level::L3);
    bench.check(0, 4 * PAGE);
    bench.settle();
}

/// Pages that may be read, and are held by both CPUs.
fn read_only() -> Bench {
    let bench = bench(AS_IT_IS);
    bench.map_as(0, 4 * PAGE, 0, Attrs::new(Prot::R), Level::L3);
    bench.touch(0..4);
    bench
}

#[test]
fn a_fault_gets_its_right() {
    let bench = read_only();
    bench.write(0, |view, ipa| view.relax(ipa, PAGE, Prot::W).map(drop));
    bench.settle();
}

#[test]
fn a_fault_gets_its_right_with_its_neighbours() {
    let bench = read_only();
    bench.write(1, |view, ipa| view.relax(ipa, 2 * PAGE, Prot::W).map(drop));
    bench.settle();
}

#[test]
fn a_fault_gets_its_right_by_a_map() {
    let bench = read_only();
    bench.write(1, |view, ipa| {
        let pa = Pa::new(RAM + (ipa.get() - BASE));
        view.map(ipa, PAGE, pa, &Attrs::new(Prot::RW), WHOLE).map(drop)
    });
    bench.settle();
}

#[test]
fn a_fault_finds_its_right_granted_by_another_cpu() {
    let bench = read_only();
    let other = bench.cpu(1);
    {
        let _bound = other.bind();
        bench.view().relax(at(0), 4 * PAGE, Prot::W).unwrap();
    }
    bench.write(0, |view, ipa| view.relax(ipa, PAGE, Prot::W).map(drop));
    bench.write(1, |view, ipa| view.relax(ipa, 2 * PAGE, Prot::W).map(drop));
    bench.settle();
}

/// Leaves as the kernel maps them where hardware notes accesses and writes: old and clean.
fn clean() -> Attrs {
    Attrs {
        af: false,
        dbm: true,
        ..Attrs::new(Prot::R)
    }
}

#[test]
fn a_cut_keeps_what_hardware_noted() {
    let bench = bench(HARDWARE_NOTES);
    bench.map_as(0, BLOCK, 0, clean(), Level::L2);
    bench.cpu(0).access(Access::write(at(3), 8, 1)).unwrap();
    bench.view().split(at(0), BLOCK, Level::L3).unwrap();
    bench.settle();
}

#[test]
fn a_merge_keeps_what_hardware_noted() {
    let bench = bench(HARDWARE_NOTES);
    bench.map_as(0, BLOCK, 0, clean(), Level::L3);
    bench.cpu(0).access(Access::read(at(3), 8)).unwrap();
    assert_eq!(bench.view().collapse(at(0), BLOCK), Ok(1));
    bench.settle();
    bench.view().split(at(0), BLOCK, Level::L3).unwrap();
    bench.cpu(0).access(Access::write(at(3), 8, 1)).unwrap();
    assert_eq!(bench.view().collapse(at(0), BLOCK), Ok(0), "one page is dirty");
    bench.settle();
}

#[test]
fn an_unlink_that_is_called_off_keeps_what_hardware_noted() {
    let bench = bench(HARDWARE_NOTES);
    bench.map_as(0, 4 * PAGE, 0, clean(), Level::L3);
    bench.view().annotate(at(7), PAGE, 1).unwrap();
    bench.cpu(0).access(Access::write(at(3), 8, 1)).unwrap();
    let block = bench.view().map(at(0), BLOCK, Pa::new(RAM), &clean(), WHOLE);
    assert!(matches!(block, Err(Error::Conflict { .. })), "{block:?}");
    bench.settle();
    let stats = bench.view().stats();
    assert_eq!((stats.locked, stats.frozen), (0, 0));
}

#[test]
fn kvm_replaces_a_leaf() {
    let bench = bench(KVM);
    bench.pages(4);
    bench.touch(0..4);
    bench.map_as(PAGE, PAGE, BLOCK, Attrs::new(Prot::RW), Level::L3);
    bench.check(0, 4 * PAGE);
    bench.touch(0..4);
    bench.settle();
}

#[test]
fn kvm_puts_an_empty_table_in_place_of_a_block() {
    let bench = bench(KVM);
    bench.map(0, BLOCK, 0, Prot::RW);
    bench.touch([0, 5, 511]);
    bench.map_as(5 * PAGE, PAGE, 0, Attrs::new(Prot::R), Level::L3);
    bench.check(0, BLOCK);
    bench.settle();
}

#[test]
fn kvm_unmaps_leaf_by_leaf() {
    let bench = bench(KVM);
    bench.pages(4);
    bench.touch(0..4);
    bench.view().unmap(at(1), 2 * PAGE).unwrap();
    bench.check(0, 4 * PAGE);
    bench.settle();
}

#[test]
fn kvm_unmaps_with_one_tlbi() {
    let bench = bench(KVM_ONE_TLBI);
    bench.pages(4);
    bench.touch(0..4);
    bench.view().unmap(at(1), 2 * PAGE).unwrap();
    bench.check(0, 4 * PAGE);
    bench.settle();
}

#[test]
fn kvm_takes_rights_and_invalidates_then() {
    let bench = bench(KVM);
    bench.pages(4);
    bench.touch(0..4);
    bench.view().write_protect(at(1), 2 * PAGE).unwrap();
    bench.view().flush_tlb(at(1), 2 * PAGE).unwrap();
    bench.check(0, 4 * PAGE);
    bench.settle();
}
