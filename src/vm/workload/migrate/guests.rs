//! The vCPUs of a guest that is being migrated: each a thread that accesses memory at random, until it is told otherwise.

use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use super::super::control::{Control, Ended};
use super::super::error::WorkloadError;
use super::super::latency::Latencies;
use super::super::random::Random;
use super::Migrate;
use super::report::{MigrateReport, Throughput};
use crate::arch::Ipa;
use crate::machine::{Access, Cpu};
use crate::memory::TableMemory;
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, PoisonError, thread};
use crate::table::Tlb;
use crate::vm::guest::Guest;
use crate::vm::{Cost, Counters, Slot, Vm};

/// What the vCPUs are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Run.
    Run,
    /// Stand outside the guest, with no access in flight.
    Stand,
    /// End.
    Home,
}

/// What all vCPUs have found.
#[derive(Default)]
struct Found {
    counters: Counters,
    faults: Latencies,
    held_up: Latencies,
    wrong_reads: u64,
    failure: Option<WorkloadError>,
    panic: Option<Box<dyn core::any::Any + Send>>,
}

/// What they are told, and how many have done it.
struct Board {
    state: State,
    standing: usize,
    home: usize,
}

/// The vCPUs.
pub(super) struct Crowd<'c> {
    vcpus: usize,
    state: Mutex<Board>,
    changed: Condvar,
    /// A look at the state that costs the vCPUs nothing: whether it is still `Run`.
    running: AtomicBool,
    accesses: AtomicU64,
    /// Since when, and from which count on, throughput is measured.
    mark: Mutex<(Option<Instant>, u64)>,
    /// Whether latencies count.
    measuring: AtomicBool,
    found: Mutex<Found>,
    control: &'c Control,
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accesses between two looks at the state, where the guest does nothing in between.
const STRIDE: u64 = 16;

impl<'c> Crowd<'c> {
    pub(super) fn new(vcpus: usize, control: &'c Control) -> Self {
        Self {
            vcpus,
            state: Mutex::new(Board {
                state: State::Stand,
                standing: 0,
                home: 0,
            }),
            changed: Condvar::new(),
            running: AtomicBool::new(false),
            accesses: AtomicU64::new(0),
            mark: Mutex::new((None, 0)),
            measuring: AtomicBool::new(false),
            found: Mutex::default(),
            control,
        }
    }

    pub(super) fn set(&self, state: State) {
        // Relaxed: the state itself is under the lock; this only says when to look there.
        self.running.store(state == State::Run, Ordering::Relaxed);
        lock(&self.state).state = state;
        self.changed.notify_all();
    }

    /// Lets them run as soon as all are there, and measures throughput from then on.
    pub(super) fn begin(&self) {
        self.wait_for(|board| board.standing + board.home);
        *lock(&self.mark) = (Some(Instant::now()), 0);
        self.set(State::Run);
    }

    /// From here on latencies count, and throughput is measured anew.
    pub(super) fn measure(&self) {
        *lock(&self.mark) = (Some(Instant::now()), self.accesses.load(Ordering::Relaxed));
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// What they did since the measuring began.
    pub(super) fn throughput(&self) -> Throughput {
        let (since, before) = *lock(&self.mark);
        Throughput {
            accesses: self.accesses.load(Ordering::Relaxed) - before,
            time: since.map_or(Duration::ZERO, |since| since.elapsed()),
        }
    }

    /// Waits until the vCPUs, if they run, have done so many more accesses each.
    pub(super) fn let_work(&self, accesses: u64) -> Result<(), Ended> {
        let goal = self.accesses.load(Ordering::Relaxed) + accesses * self.vcpus as u64;
        while self.running.load(Ordering::Relaxed) && self.accesses.load(Ordering::Relaxed) < goal {
            self.control.go_on()?;
            thread::yield_now();
        }
        Ok(())
    }

    /// Waits until all stand outside the guest.
    pub(super) fn pause(&self) -> Result<(), WorkloadError> {
        self.measuring.store(false, Ordering::Relaxed);
        self.set(State::Stand);
        self.wait_for(|board| board.standing + board.home);
        self.failure().map_or(Ok(()), Err)
    }

    /// Waits until all vCPUs are among those that `count` counts.
    fn wait_for(&self, count: impl Fn(&Board) -> usize) {
        let mut board = lock(&self.state);
        while count(&board) < self.vcpus {
            board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Why a vCPU has ended early, if one has.
    pub(super) fn failure(&self) -> Option<WorkloadError> {
        let mut found = lock(&self.found);
        if let Some(panic) = found.panic.take() {
            drop(found);
            resume_unwind(panic);
        }
        found.failure
    }

    /// Puts what they found into a report. They have ended what they did.
    pub(super) fn fill(&self, report: &mut MigrateReport) {
        self.set(State::Home);
        self.wait_for(|board| board.home);
        let found = lock(&self.found);
        report.counters = found.counters;
        report.faults = found.faults.clone();
        report.held_up = found.held_up.report();
        report.wrong_reads = found.wrong_reads;
    }

    /// The life of one vCPU.
    pub(super) fn guest<M: TableMemory, T: Tlb>(
        &self,
        options: &Migrate,
        vm: &Vm<M, T>,
        slot: &Slot,
        cpu: &Cpu,
        index: usize,
    ) {
        let life = || {
            let mut life = Life::new(options, vm, slot, cpu, index);
            let ended = life.run(self);
            life.end(self);
            ended
        };
        // A thread that vanished would be waited for, for ever.
        let found = match catch_unwind(AssertUnwindSafe(life)) {
            Ok(ended) => {
                let mut found = lock(&self.found);
                found.failure = found.failure.or(ended.err());
                found
            }
            Err(panic) => {
                let mut found = lock(&self.found);
                found.panic = Some(panic);
                found
            }
        };
        let failed = found.failure.is_some() || found.panic.is_some();
        drop(found);
        if failed {
            self.running.store(false, Ordering::Relaxed);
        }
        lock(&self.state).home += 1;
        self.changed.notify_all();
    }

    /// Stands, if it is told to, until it is told otherwise. False: home.
    fn stand(&self) -> bool {
        let mut board = lock(&self.state);
        if board.state == State::Stand {
            board.standing += 1;
            self.changed.notify_all();
            while board.state == State::Stand {
                board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
            }
            board.standing -= 1;
        }
        board.state == State::Run
    }
}

/// One vCPU at work.
struct Life<'v, M: TableMemory, T: Tlb> {
    options: &'v Migrate,
    guest: Guest<'v, M, T>,
    slot: Slot,
    page: u64,
    index: usize,
    random: Random,
    /// What it wrote last into its word of each page.
    written: Vec<u64>,
    faults: Latencies,
    held_up: Latencies,
    wrong_reads: u64,
}

impl<'v, M: TableMemory, T: Tlb> Life<'v, M, T> {
    fn new(options: &'v Migrate, vm: &'v Vm<M, T>, slot: &Slot, cpu: &'v Cpu, index: usize) -> Self {
        let page = vm.page_size();
        Self {
            options,
            guest: Guest::new(vm, cpu),
            slot: *slot,
            page,
            index,
            random: Random::new(options.seed.wrapping_mul(0x9e37_79b9).wrapping_add(index as u64)),
            written: vec![0; (slot.size / page) as usize],
            faults: Latencies::new(),
            held_up: Latencies::new(),
            wrong_reads: 0,
        }
    }

    fn run(&mut self, crowd: &Crowd<'_>) -> Result<(), WorkloadError> {
        // Who thinks has time to count, and is seen to work before he has thought sixteen times.
        let stride = if self.options.think == Cost::None { STRIDE } else { 1 };
        while crowd.stand() {
            while crowd.running.load(Ordering::Relaxed) {
                if crowd.control.is_cancelled() {
                    return Ok(());
                }
                let measuring = crowd.measuring.load(Ordering::Relaxed);
                let mut done = 0;
                for _ in 0..stride {
                    done += u64::from(self.access(measuring)?);
                    self.options.think.pay();
                    if !crowd.running.load(Ordering::Relaxed) {
                        break;
                    }
                }
                crowd.accesses.fetch_add(done, Ordering::Relaxed);
            }
            // Out of the guest: nothing is in flight.
            self.guest.cpu().finish();
        }
        Ok(())
    }

    /// One access. False: the ring was full.
    fn access(&mut self, measuring: bool) -> Result<bool, WorkloadError> {
        let pages = self.written.len() as u64;
        let hot = self.random.below(100) < u64::from(self.options.hot_percent);
        let among = if hot { (pages / 10).max(1) } else { pages };
        let number = self.random.below(among);
        // A word of its own in each page: what is read back must be what it wrote.
        let ipa = Ipa::new(self.slot.ipa.get() + number * self.page + 8 * self.index as u64);
        let write = self.random.below(100) < u64::from(self.options.write_percent);
        let value = self.random.next();
        let access = if write {
            Access::write(ipa, 8, value)
        } else {
            Access::read(ipa, 8)
        };
        // Now and then an access takes its time, and a DSB of somebody's has to wait for it.
        let done = if write && self.random.below(4) == 0 {
            self.guest.begin(access)
        } else {
            self.guest.access(access)
        };
        let done = done.map_err(|reason| WorkloadError::Access {
            vcpu: self.index,
            reason,
        })?;
        let Some(read) = done.value else {
            thread::yield_now();
            return Ok(false);
        };
        if let (true, Some(time)) = (measuring, done.faulted) {
            self.faults.record(time);
            if !done.held_up.is_zero() {
                self.held_up.record(done.held_up);
            }
        }
        let last = &mut self.written[number as usize];
        if write {
            *last = value;
        } else if read != *last {
            self.wrong_reads += 1;
        }
        Ok(true)
    }

    fn end(self, crowd: &Crowd<'_>) {
        let mut found = lock(&crowd.found);
        found.counters += self.guest.counters();
        found.faults.add(&self.faults);
        found.held_up.add(&self.held_up);
        found.wrong_reads += self.wrong_reads;
    }
}
