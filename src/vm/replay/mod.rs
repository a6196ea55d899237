//! What a real guest did, done again to our table.
//!
//! The rows of a recorded run (see [`Event`]) are faults of vCPUs and events of the host, in their order. A [`Replay`] drives a
//! [`Vm`] with them in one of three orders:
//!
//! * [`Order::Recorded`]: one row after the other. At each fault the level that the guest's syndrome names must be the level
//!   at which a walk of our table ends;
//! * [`Order::Threads`]: one thread a vCPU. Each keeps its own order, all race between two events of the host, which are
//!   barriers;
//! * [`Order::Free`]: no barriers, the host is one more thread. What comes out is no copy of anything; that the table is sound
//!   afterwards is what counts.
//!
//! At each recorded dump our leaves are kept, for whoever has the dump to compare.

mod event;
mod guest;
mod host;
mod report;
mod script;

pub use event::{COLUMNS, Call, Event, EventError, EventKind, SlotChange};
pub use report::{ExitDifference, LevelDifference, ReplayError, ReplayReport, Snapshot};

use std::time::Instant;

use core::time::Duration;

use self::guest::{Guest, Replayed};
use self::script::{Peers, Script, Step};
use super::workload::control::{Stop, completed};
use super::workload::crew::{self, Crew, NoThreads};
use super::workload::report::since;
use super::workload::{Control, Maintenance};
use super::{Counters, Vcpu, Vm};
use crate::arch::FaultKind;
use crate::memory::TableMemory;
use crate::sync::{AtomicU64, Mutex, Ordering, PoisonError};

/// In which order the rows are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// One after the other.
    #[default]
    Recorded,
    /// vCPUs race between two events of the host.
    Threads,
    /// Everybody races with everybody.
    Free,
}

/// Who decides how large a mapping is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sizes {
    /// Our fault handler, from what the host had there.
    #[default]
    Trace,
    /// The recorded calls.
    Recorded,
}

/// How to replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// In which order.
    pub order: Order,
    /// At which sizes.
    pub sizes: Sizes,
    /// How many threads race; `None`: one a recorded vCPU. Fewer do several vCPUs' rows each, more share one vCPU's.
    pub threads: Option<usize>,
}

/// Rows between two looks at the control.
const STRIDE: usize = 256;

/// Why rows are not done to their end.
type Early = Stop<ReplayError>;

impl From<NoThreads> for Early {
    fn from(reason: NoThreads) -> Self {
        Self::Failed(reason.into())
    }
}

/// What the rows added up to; threads add to it at the end of a window.
#[derive(Debug, Default)]
struct Tally {
    counters: Counters,
    faults: u64,
    mmio: u64,
    skipped: u64,
    no_pa: u64,
    exit_differences: Vec<ExitDifference>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.counters += other.counters;
        self.faults += other.faults;
        self.mmio += other.mmio;
        self.skipped += other.skipped;
        self.no_pa += other.no_pa;
        self.exit_differences.extend(other.exit_differences);
    }

    fn count(&mut self, row: usize, event: &Event, replayed: Replayed) {
        self.faults += 1;
        self.no_pa += u64::from(event.flags & Event::NO_PA != 0);
        let ours = replayed == Replayed::Exit;
        self.mmio += u64::from(ours);
        self.skipped += u64::from(replayed == Replayed::Skipped);
        if event.call != Call::Unknown && ours != (event.call == Call::Mmio) {
            self.exit_differences.push(ExitDifference {
                row,
                ipa: event.ipa,
                ours,
            });
        }
    }
}

/// What only the host's side and the recorded order know.
#[derive(Debug, Default)]
struct Log {
    levels_checked: u64,
    levels_skipped: u64,
    level_differences: Vec<LevelDifference>,
    snapshots: Vec<Snapshot>,
    /// Spent on snapshots.
    aside: Duration,
    taken_back: AtomicU64,
}

impl Replay {
    /// Does all rows up to the table's destruction, on a VM without slots.
    ///
    /// `events` are in the recording's order. `control` shows the progress in rows. Through it the replay can be ended early:
    /// the report has what there was up to there. The VM is left as the last row left it.
    ///
    /// # Errors
    /// [`ReplayError`]; the rows before are done then.
    ///
    /// # Panics
    /// If a thread panicked, with its message.
    pub fn run<M: TableMemory, T: Maintenance>(
        &self,
        vm: &Vm<M, T>,
        events: &[Event],
        control: &Control,
    ) -> Result<ReplayReport, ReplayError> {
        let slots = vm.slots().len();
        if slots != 0 {
            return Err(ReplayError::HasSlots { slots });
        }
        let end = events
            .iter()
            .position(|e| e.kind == EventKind::Destroy)
            .unwrap_or(events.len());
        let events = &events[..end];
        let unknown = |e: &Event| e.kind == EventKind::Handled && e.call == Call::Unknown;
        if self.sizes == Sizes::Recorded
            && let Some(row) = events.iter().position(unknown)
        {
            return Err(ReplayError::NoSizes { row });
        }
        control.start(end as u64);
        let before = vm.stage2().tlb().maintenance();
        let started = Instant::now();
        let (mut log, mut tally) = (Log::default(), Tally::default());
        let (threads, ended) = if self.order == Order::Recorded {
            (1, self.in_order(vm, events, control, &mut log, &mut tally))
        } else {
            self.with_threads(vm, events, control, &mut log, &mut tally)
        };
        let complete = completed(ended)?;
        let elapsed = started.elapsed() - log.aside;
        let maintenance = since(vm.stage2().tlb().maintenance(), before);
        let handle = vm.stage2().handle();
        handle.drain();
        Ok(ReplayReport {
            complete,
            elapsed,
            threads,
            faults: tally.faults,
            mmio: tally.mmio,
            skipped: tally.skipped,
            no_pa: tally.no_pa,
            counters: tally.counters,
            maintenance,
            levels_checked: log.levels_checked,
            levels_skipped: log.levels_skipped,
            level_differences: log.level_differences,
            exit_differences: tally.exit_differences,
            taken_back: log.taken_back.into_inner(),
            snapshots: log.snapshots,
            stats: handle.stats(),
            frames: vm.stage2().memory().frames_in_use(),
        })
    }

    const fn guest(&self, peers: Peers) -> Guest {
        Guest {
            sizes: self.sizes,
            peers,
        }
    }

    fn in_order<M: TableMemory, T: Maintenance>(
        &self,
        vm: &Vm<M, T>,
        events: &[Event],
        control: &Control,
        log: &mut Log,
        tally: &mut Tally,
    ) -> Result<(), Early> {
        let mut vcpu = vm.vcpu();
        let ended = self.rows_in_order(&mut vcpu, events, control, log, tally);
        tally.counters = vcpu.counters();
        ended
    }

    fn rows_in_order<M: TableMemory, T: Maintenance>(
        &self,
        vcpu: &mut Vcpu<'_, M, T>,
        events: &[Event],
        control: &Control,
        log: &mut Log,
        tally: &mut Tally,
    ) -> Result<(), Early> {
        for (row, event) in events.iter().enumerate() {
            look(control, row, 1)?;
            match event.kind {
                EventKind::Fault => compare_level(vcpu, row, event, log),
                EventKind::Handled => {
                    let replayed = self.guest(Peers::Absent).handle(vcpu, row, event)?;
                    tally.count(row, event, replayed);
                }
                _ => apply(vcpu.vm(), row, event, log)?,
            }
        }
        Ok(())
    }

    fn with_threads<M: TableMemory, T: Maintenance>(
        &self,
        vm: &Vm<M, T>,
        events: &[Event],
        control: &Control,
        log: &mut Log,
        tally: &mut Tally,
    ) -> (usize, Result<(), Early>) {
        let Script { threads, steps, peers } = script::write(self, events);
        let all = Mutex::new(Tally::default());
        let taken = AtomicU64::new(0);
        let job = |vcpu: &mut Vcpu<'_, M, T>, index: usize, step: &usize| {
            let Step::Together(window) = &steps[*step] else {
                return Ok(());
            };
            let mut mine = Tally::default();
            let mut one = |n: usize, row: usize| {
                look(control, n, 2)?;
                let event = &events[row];
                if event.kind == EventKind::Handled {
                    let replayed = self.guest(peers[row]).handle(vcpu, row, event)?;
                    mine.count(row, event, replayed);
                } else {
                    let done = host::apply(vm, event, false).map_err(|e| failed(row, e))?;
                    taken.fetch_add(done.taken.bytes, Ordering::Relaxed);
                }
                Ok(())
            };
            let mut rows = window[index].iter().enumerate();
            let ended = rows.try_for_each(|(n, &row)| one(n, row));
            all.lock().unwrap_or_else(PoisonError::into_inner).add(mine);
            ended
        };
        let ended = crew::run(vm, threads, job, |crew: &Crew<'_, _, Early>| {
            for (number, step) in steps.iter().enumerate() {
                match step {
                    Step::Host(row) => {
                        look(control, *row, 1)?;
                        apply(vm, *row, &events[*row], log)?;
                    }
                    Step::Together(_) => {
                        let done = crew.pass(number);
                        tally.counters += done.counters;
                        done.ended?;
                    }
                }
            }
            Ok(())
        });
        log.taken_back.fetch_add(taken.into_inner(), Ordering::Relaxed);
        tally.add(all.into_inner().unwrap_or_else(PoisonError::into_inner));
        (threads, ended)
    }
}

/// Now and then: tells the progress, and whether to go on. A fault is two rows, of which threads do one.
fn look(control: &Control, n: usize, rows: usize) -> Result<(), Early> {
    if n % STRIDE == STRIDE - 1 {
        control.add((STRIDE * rows) as u64);
    }
    if n.is_multiple_of(STRIDE) {
        control.go_on()?;
    }
    Ok(())
}

/// A fault as the MMU reports it, against a walk of our table.
fn compare_level<M: TableMemory, T: Maintenance>(vcpu: &Vcpu<'_, M, T>, row: usize, event: &Event, log: &mut Log) {
    let Ok(fault) = event.fault() else { return };
    if !matches!(
        fault.kind,
        FaultKind::Translation | FaultKind::AccessFlag | FaultKind::Permission
    ) {
        return;
    }
    if fault.s1ptw {
        log.levels_skipped += 1;
        return;
    }
    // Beyond the address space there is nothing to walk.
    let Ok(found) = vcpu.handle.lookup(event.ipa) else {
        return;
    };
    log.levels_checked += 1;
    if found.level != fault.level {
        let (theirs, ours) = (fault.level, found.level);
        log.level_differences.push(LevelDifference {
            row,
            ipa: event.ipa,
            theirs,
            ours,
        });
    }
}

/// Does a row of the host and keeps what it gave.
fn apply<M: TableMemory, T: Maintenance>(
    vm: &Vm<M, T>,
    row: usize,
    event: &Event,
    log: &mut Log,
) -> Result<(), ReplayError> {
    let started = Instant::now();
    let done = host::apply(vm, event, true).map_err(|e| failed(row, e))?;
    log.taken_back.fetch_add(done.taken.bytes, Ordering::Relaxed);
    if let Some(leaves) = done.leaves {
        log.snapshots.push(Snapshot {
            row,
            dump: event.reference,
            leaves,
        });
        log.aside += started.elapsed();
    }
    Ok(())
}

fn failed(row: usize, reason: host::Failed) -> ReplayError {
    match reason {
        host::Failed::Vm(source) => ReplayError::Vm { row, source },
        host::Failed::Event(reason) => ReplayError::Event { row, reason },
    }
}
