//! Two simulated CPUs walk the table while two threads change it: what a CPU still holds when it must not, the machine finds.

use super::*;
use s2pt::machine::{Access, Cpu, Machine, MachineOptions, Port};

type Table = Stage2<Memory, Port>;

const CPUS: u64 = 2;
/// Pages in use: the first block has pages of both owners side by side, the others belong to one each.
const PAGES: u64 = ENTRIES * (1 + CPUS);

fn refused<R>(result: Result<R, Error>) {
    match result {
        Ok(_) | Err(Error::Again { .. } | Error::Conflict { .. } | Error::NotMapped { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The guest of one CPU, anywhere.
fn guest(cpu: &Cpu) {
    let ipa = Ipa::new(pick(PAGES) * PAGE + 8 * cpu.number() as u64);
    let access = one_of(&[Access::read(ipa, 8), Access::write(ipa, 8, 7), Access::fetch(ipa)]);
    match pick(3) {
        0 => drop(cpu.begin(access)),
        1 => cpu.speculate(ipa),
        _ => drop(cpu.access(access)),
    }
}

/// A change of a range by its only owner, and a look at what the CPUs hold of it.
fn own(machine: &Machine, table: &Table, view: &Handle<'_, Memory, Port>, ipa: u64, size: u64) {
    let at = Ipa::new(ipa);
    let attrs = Attrs {
        dbm: pick(2) == 0,
        af: pick(2) == 0,
        ..Attrs::new(one_of(&[Prot::R, Prot::RW]))
    };
    match pick(7) {
        0..=2 => refused(view.map(at, size, Pa::new(output(ipa)), &attrs, MapOptions::default())),
        3 => refused(view.unmap(at, size)),
        4 => refused(view.write_protect(at, size)),
        5 => refused(view.relax(at, size, Prot::W)),
        _ => refused(view.test_and_clear_young(at, size, true)),
    }
    machine.forget(table.tlb(), at, size);
    machine.check(table.tlb(), at, size);
}

fn work(machine: &Machine, table: &Table, number: u64) {
    let cpu = machine.cpu(number as usize);
    let _bound = cpu.bind();
    let view = table.handle();
    for _ in 0..4 {
        guest(&cpu);
        match pick(4) {
            0 => own(machine, table, &view, number * PAGE, PAGE),
            1 => own(machine, table, &view, (1 + number) * BLOCK, BLOCK),
            2 => refused(view.collapse(Ipa::new(0), 4 * BLOCK)),
            _ => refused(view.split(Ipa::new(0), 4 * BLOCK, Level::L3)),
        }
        guest(&cpu);
    }
}

fn scenario() {
    let options = MachineOptions {
        cpus: CPUS as usize,
        ..MachineOptions::default()
    };
    let machine = Machine::new(options).unwrap();
    let port = machine.port();
    let memory = Arc::new(ModelMemory::new(Pa::new(0x100_0000), 64, ENTRIES as usize));
    let config = Config {
        hd: true,
        tlbi_range: pick(2) == 0,
        ..Config::new(Geometry::tiny(3, 2))
    };
    let table = Arc::new(Stage2::new(config, memory, port.clone()).unwrap());
    port.attach(&table);
    machine.load(&port);
    let threads: Vec<_> = (0..CPUS)
        .map(|number| {
            let (machine, table) = (machine.clone(), table.clone());
            thread::spawn(move || work(&machine, &table, number))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    settled(&table);
    machine.audit();
    assert_eq!(machine.violations(), []);
}

#[test]
fn machine_in_random_schedules() {
    check("two CPUs that walk the table", false, scenario);
}

#[test]
fn machine_in_adversarial_schedules() {
    check("two CPUs that walk the table", true, scenario);
}
