//! Everybody at once, under every policy; what must hold is checked against what the guest really did.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use s2pt::arch::AccessKind;
use s2pt::memory::TableMemory;
use s2pt::vm::{Backing, DirtyLogMode, Policy, Vm};

use crate::support::*;

const PAGES: u64 = 4 * 512;
const VCPUS: u64 = 3;

struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Sound at rest: nothing half done, no frame lost.
fn check_at_rest<M: TableMemory>(vm: &Vm<M>) {
    let handle = vm.stage2().handle();
    handle.drain();
    let stats = handle.stats();
    assert_eq!((stats.locked, stats.frozen), (0, 0));
    assert_eq!(stats.table_frames(), vm.stage2().memory().frames_in_use() as u64);
}

/// The guest's memory: one version number a page, and the page's translation as the write used it.
struct Memory {
    pages: Vec<AtomicU64>,
}

/// A destination that copies what harvests report has every write at the end: migration in small. Meanwhile memory is taken
/// back, aged and split. What a harvest misses is a page whose copy stays old.
///
/// On hardware a store translates and writes in one step, and a TLBI waits for stores in flight. Here the guest says that a
/// store is in flight, looks at the translation, and writes if it allows it; a harvest waits for stores in flight before
/// its pages are copied.
#[test]
fn no_write_is_lost() {
    for policy in Policy::ALL {
        for mode in [DirtyLogMode::Auto, DirtyLogMode::ManualInitiallySet] {
            migrate(policy, mode);
        }
    }
}

fn migrate(policy: Policy, mode: DirtyLogMode) {
    let vm = vm(policy, Backing::Thp, PAGES * PAGE);
    let source = Memory {
        pages: (0..PAGES).map(|_| AtomicU64::new(0)).collect(),
    };
    let mut destination = vec![0; PAGES as usize];
    let in_flight: [AtomicU64; VCPUS as usize] = [const { AtomicU64::new(0) }; VCPUS as usize];
    let stop = AtomicBool::new(false);
    let mut vcpu = vm.vcpu();
    for page in 0..PAGES / 2 {
        write(&mut vcpu, page * PAGE);
    }
    drop(vcpu);
    let copy = |destination: &mut [u64], bits: &[u64]| {
        for page in pages(bits) {
            destination[page as usize] = source.pages[page as usize].load(Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        for id in 0..VCPUS {
            let (vm, source, stop, in_flight) = (&vm, &source, &stop, &in_flight[id as usize]);
            scope.spawn(move || {
                let mut random = Xorshift(0x9e37 + id);
                let mut vcpu = vm.vcpu();
                while !stop.load(Ordering::Relaxed) {
                    let page = random.next() % PAGES;
                    if random.next().is_multiple_of(4) {
                        vcpu.access(ipa(page * PAGE), AccessKind::Read).unwrap();
                        continue;
                    }
                    loop {
                        vcpu.access(ipa(page * PAGE), AccessKind::Write).unwrap();
                        // The store of the guest: translation and write as one step, which a TLBI waits for.
                        in_flight.store(1, Ordering::SeqCst);
                        let done = vcpu.translate(ipa(page * PAGE), AccessKind::Write).is_ok();
                        if done {
                            source.pages[page as usize].fetch_add(1, Ordering::SeqCst);
                        }
                        in_flight.store(0, Ordering::SeqCst);
                        if done {
                            break;
                        }
                    }
                }
            });
        }
        let (vm, stop) = (&vm, &stop);
        scope.spawn(move || {
            let mut random = Xorshift(77);
            while !stop.load(Ordering::Relaxed) {
                let page = random.next() % (PAGES - 40);
                match random.next() % 4 {
                    0 | 1 => drop(vm.take_back(ipa(page * PAGE), (1 + random.next() % 40) * PAGE).unwrap()),
                    2 => drop(vm.age(ipa(page * PAGE), 8 * PAGE, true).unwrap()),
                    _ => drop(vm.split(ipa(0), PAGES * PAGE).unwrap()),
                }
            }
        });
        vm.enable_dirty_log(0, mode).unwrap();
        complete(&in_flight);
        copy_all(&mut destination, &source);
        let written = || source.pages.iter().map(|p| p.load(Ordering::Relaxed)).sum::<u64>();
        let mut harvests = 0;
        while harvests < 150 || written() < 8 * PAGES {
            harvest(vm, mode, &in_flight, |bits| copy(&mut destination, bits));
            harvests += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    harvest(&vm, mode, &in_flight, |bits| copy(&mut destination, bits));
    let last: Vec<u64> = source.pages.iter().map(|p| p.load(Ordering::SeqCst)).collect();
    let lost: Vec<usize> = (0..PAGES as usize).filter(|&n| destination[n] != last[n]).collect();
    assert!(lost.is_empty(), "{policy:?} {mode:?}: writes lost on pages {lost:?}");
    check_at_rest(&vm);
}

/// The first copy, after logging is on: everything.
fn copy_all(destination: &mut [u64], source: &Memory) {
    for (to, from) in destination.iter_mut().zip(&source.pages) {
        *to = from.load(Ordering::SeqCst);
    }
}

/// What the DSB after a TLBI waits for: stores that may have used an old translation.
fn complete(in_flight: &[AtomicU64]) {
    for store in in_flight {
        while store.load(Ordering::SeqCst) != 0 {
            std::hint::spin_loop();
        }
    }
}

/// One harvest, and the wait for stores in flight that its TLBI would bring.
fn harvest(vm: &Vm<impl TableMemory>, mode: DirtyLogMode, in_flight: &[AtomicU64], copy: impl FnOnce(&[u64])) {
    let bits = vm.dirty_log(0).unwrap();
    if mode != DirtyLogMode::Auto {
        vm.clear_dirty_log(0, 0, PAGES, &bits).unwrap();
    }
    complete(in_flight);
    copy(&bits);
}

/// Slots come, go and move, logging goes on and off, while vCPUs fault and memory is taken back.
#[test]
fn everything_changes_at_once() {
    for policy in Policy::ALL {
        let vm = vm(policy, Backing::Thp, PAGES * PAGE);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for id in 0..VCPUS {
                let (vm, stop) = (&vm, &stop);
                scope.spawn(move || {
                    let mut random = Xorshift(id + 1);
                    let mut vcpu = vm.vcpu();
                    while !stop.load(Ordering::Relaxed) {
                        let at = ipa(random.next() % (2 * PAGES) * PAGE);
                        let access = [AccessKind::Read, AccessKind::Write, AccessKind::Execute][id as usize % 3];
                        // Between two slots it exits; anything else is a mistake.
                        match vcpu.access(at, access) {
                            Ok(_) | Err(s2pt::vm::AccessError::Exit { .. }) => {}
                            Err(e) => panic!("{e}"),
                        }
                    }
                });
            }
            let mut random = Xorshift(5);
            for round in 0..300 {
                match random.next() % 6 {
                    0 => vm.move_slot(0, ipa(round % 2 * PAGES * PAGE)).unwrap(),
                    1 => {
                        let slot = vm.delete_slot(0).unwrap();
                        assert_eq!(
                            vm.stage2().handle().stats().mapped_bytes,
                            0,
                            "{policy:?}: nothing of it is left"
                        );
                        vm.create_slot(slot).unwrap();
                    }
                    2 => drop(vm.enable_dirty_log(0, DirtyLogMode::Auto)),
                    3 => drop(vm.disable_dirty_log(0)),
                    4 => drop(vm.dirty_log(0)),
                    _ => drop(vm.take_back(ipa(random.next() % PAGES * PAGE), 64 * PAGE).unwrap()),
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        check_at_rest(&vm);
    }
}
