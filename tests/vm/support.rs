//! Small VMs, and a sink in which a thread can be held at a chosen step.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex};

use s2pt::arch::{AccessKind, Fault, FaultKind, Geometry, GeometryOptions, Granule, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions, TableMemory};
use s2pt::table::{Config, Event, Null, Stage2, Tlb};
use s2pt::vm::{Backing, Policy, Slot, Vcpu, Vm, VmConfig, VmOptions};

pub const PAGE: u64 = 4 << 10;
pub const BLOCK: u64 = 2 << 20;
pub const GIB: u64 = 1 << 30;
/// Where slots start in the tests.
pub const BASE: u64 = 4 * GIB;
/// What stands behind them.
pub const HOST: u64 = 16 * GIB;

pub fn ipa(offset: u64) -> Ipa {
    Ipa::new(BASE + offset)
}

pub fn vm_options(policy: Policy, backing: Backing) -> VmOptions {
    VmOptions {
        policy,
        backing,
        ..VmOptions::default()
    }
}

/// A VM with one slot of `size` bytes, id 0.
pub fn vm_with<T: Tlb>(options: VmOptions, size: u64, tlb: T) -> Vm<Arena, T> {
    let vm = options.build(tlb).unwrap();
    vm.create_slot(Slot::linear(0, Ipa::new(BASE), size, Pa::new(HOST)))
        .unwrap();
    vm
}

pub fn vm(policy: Policy, backing: Backing, size: u64) -> Vm<Arena> {
    vm_with(vm_options(policy, backing), size, Null)
}

/// A VM over a table of its own making, without slots.
pub fn vm_over(
    options: GeometryOptions,
    policy: Policy,
    backing: Backing,
    change: impl FnOnce(&mut Config),
) -> Vm<Arena> {
    let geometry = Geometry::new(options).unwrap();
    let arena = Arena::new(ArenaOptions {
        granule: geometry.granule(),
        ..ArenaOptions::default()
    })
    .unwrap();
    let mut config = Config::new(geometry);
    change(&mut config);
    let stage2 = Stage2::new(config, arena, Null).unwrap();
    Vm::new(
        stage2,
        VmConfig {
            policy,
            backing,
            ..VmConfig::default()
        },
    )
}

pub fn granule(granule: Granule) -> GeometryOptions {
    GeometryOptions {
        granule,
        ..GeometryOptions::default()
    }
}

pub fn fault(ipa: Ipa, kind: FaultKind, access: AccessKind, level: Level) -> Fault {
    Fault {
        ipa,
        access,
        kind,
        level,
        s1ptw: false,
    }
}

/// Level and permissions of the leaf at `ipa`, if there is one.
pub fn leaf<M: TableMemory, T: Tlb>(vm: &Vm<M, T>, ipa: Ipa) -> Option<(Level, Prot)> {
    let found = vm.stage2().handle().lookup(ipa).unwrap();
    found
        .pte
        .is_leaf(found.level)
        .then(|| (found.level, vm.stage2().format().prot(found.pte)))
}

pub fn write<M: TableMemory, T: Tlb>(vcpu: &mut Vcpu<'_, M, T>, offset: u64) -> Level {
    vcpu.access(ipa(offset), AccessKind::Write).unwrap().level
}

pub fn read<M: TableMemory, T: Tlb>(vcpu: &mut Vcpu<'_, M, T>, offset: u64) -> Level {
    vcpu.access(ipa(offset), AccessKind::Read).unwrap().level
}

/// Pages of the first slot whose bit is set.
pub fn pages(bitmap: &[u64]) -> Vec<u64> {
    let bits = |(i, &word): (usize, &u64)| {
        (0..64)
            .filter(move |b| word >> b & 1 != 0)
            .map(move |b| i as u64 * 64 + b)
    };
    bitmap.iter().enumerate().flat_map(bits).collect()
}

/// A sink that holds the thread which brings the first chosen event, until it is let go. Everybody else passes.
pub struct Gate {
    chosen: fn(&Event) -> bool,
    armed: AtomicBool,
    held: Mutex<State>,
    changed: Condvar,
    pub seen: AtomicU32,
}

#[derive(Default)]
struct State {
    arrived: bool,
    released: bool,
}

impl Gate {
    pub fn new(chosen: fn(&Event) -> bool) -> Self {
        Self {
            chosen,
            armed: AtomicBool::new(false),
            held: Mutex::default(),
            changed: Condvar::new(),
            seen: AtomicU32::new(0),
        }
    }

    /// From now on the next chosen event is held.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Waits until a thread is held.
    pub fn wait(&self) {
        let state = self.held.lock().unwrap();
        drop(self.changed.wait_while(state, |s| !s.arrived).unwrap());
    }

    pub fn release(&self) {
        self.held.lock().unwrap().released = true;
        self.changed.notify_all();
    }
}

impl Tlb for Gate {
    fn event(&self, event: Event) {
        if !(self.chosen)(&event) {
            return;
        }
        self.seen.fetch_add(1, Ordering::Relaxed);
        if self.armed.swap(false, Ordering::SeqCst) {
            let mut state = self.held.lock().unwrap();
            state.arrived = true;
            self.changed.notify_all();
            drop(self.changed.wait_while(state, |s| !s.released).unwrap());
        }
    }
}
