//! KVM's `memslot_perf_test`: slots and memory come and go under a running guest.

mod area;
mod turns;

use core::fmt;
use core::time::Duration;
use std::time::Instant;

use super::control::{Control, Ended, completed};
use super::crew::{self, Crew, Passed};
use super::error::{WorkloadError, within, within_bytes};
use super::load::Load;
use super::report::{Expected, Maintenance, RunReport};
use super::room::Filled;
use super::steps::Steps;
use crate::arch::Ipa;
use crate::memory::{Ram, TableMemory};
use crate::sync::Ordering;
use crate::table::Tlb;
use crate::vm::{Counters, Error, Vcpu, Vm};
use area::{Layout, Made};
use turns::{Shared, Turn};

/// What is done beside the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SlotTest {
    /// The guest writes every page of one half, while the host takes the other half back at once.
    #[default]
    Map,
    /// The guest writes one page of one half, while the host takes the other half back page by page.
    Unmap,
    /// The same, 2 MiB at a time.
    UnmapChunked,
    /// The host moves the last slot away and back, while the guest writes 192 KiB of which half is in it.
    MoveActive,
    /// The host moves the last slot away and back, while the guest writes 192 KiB before it.
    MoveInactive,
    /// Guest and host write and check each other's words by turns, on every page.
    ReadWrite,
}

impl SlotTest {
    /// All, with their names, in the order of KVM's test.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Map, "map"),
        (Self::Unmap, "unmap"),
        (Self::UnmapChunked, "unmap-chunked"),
        (Self::MoveActive, "move-active"),
        (Self::MoveInactive, "move-inactive"),
        (Self::ReadWrite, "rw"),
    ];

    const fn moves(self) -> bool {
        matches!(self, Self::MoveActive | Self::MoveInactive)
    }
}

/// Options of the run.
///
/// The guest's memory starts at 1 GiB, in slots from number 0 on, which the run makes and takes away again. Its bytes are real.
/// Several vCPUs divide the pages of each turn among them.
///
/// ```
/// use s2pt::vm::VmOptions;
/// use s2pt::vm::workload::{Control, Load, Memslots, SlotTest};
///
/// let vm = VmOptions::default().build(s2pt::table::Null)?;
/// let load = Load { bytes_per_vcpu: 16 << 20, slots: 4, ..Load::default() };
/// let run = Memslots { load, test: SlotTest::Map, iterations: Some(3), ..Memslots::default() };
/// let report = run.run(&vm, &Control::new())?;
/// assert_eq!((report.iterations, report.wrong_words), (3, 0));
/// assert!(vm.slots().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memslots {
    /// vCPUs, their memory, and how many slots it lies in.
    pub load: Load,
    /// What is done.
    pub test: SlotTest,
    /// How long, unless it is said how often; an iteration at least.
    pub time: Duration,
    /// How often. An iteration is both halves, there and back, or one turn of each.
    pub iterations: Option<u64>,
}

impl Default for Memslots {
    /// One vCPU, 32 MiB, one slot, the test "map", five seconds.
    fn default() -> Self {
        Self {
            load: Load {
                bytes_per_vcpu: 32 << 20,
                ..Load::default()
            },
            test: SlotTest::default(),
            time: Duration::from_secs(5),
            iterations: None,
        }
    }
}

/// A step of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotPhase {
    /// The slots are made.
    Setup,
    /// The turns of the guest, with what the host does beside them.
    Turns,
    /// The slots are taken away.
    Remove,
}

impl fmt::Display for SlotPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setup => "setup",
            Self::Turns => "turns",
            Self::Remove => "remove",
        })
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemslotsReport {
    /// The steps; all turns are one.
    pub run: RunReport<SlotPhase>,
    /// How often it was done.
    pub iterations: u64,
    /// Bytes that the host took back while they were mapped.
    pub taken_back: u64,
    /// Words that were not what guest or host had written.
    pub wrong_words: u64,
}

/// How much of the memory the tests that move a slot write.
const MOVED_AREA: u64 = 192 << 10;
/// What is taken back at a time, when in pieces.
const CHUNK: u64 = 2 << 20;
/// Slots are moved by whole gigabytes, so that their blocks stay possible.
const GIGABYTE: u64 = 1 << 30;

/// What the turns came to.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    iterations: u64,
    taken_back: u64,
    counters: Counters,
}

impl Done {
    /// Counts a turn in.
    fn count<E>(&mut self, passed: Passed<E>) -> Result<(), E> {
        self.counters += passed.counters;
        passed.ended
    }
}

impl Memslots {
    /// Runs it on `vm`, whose memory from 1 GiB on is free. `control` shows the progress in iterations, or in milliseconds
    /// if those are not limited. Through it the run can be ended early: the report has what there was up to there.
    ///
    /// # Errors
    /// [`WorkloadError`]. Slots that were made are taken away then, too.
    ///
    /// # Panics
    /// If a vCPU thread panicked, with its message.
    pub fn run<M: TableMemory, T: Maintenance>(
        &self,
        vm: &Vm<M, T>,
        control: &Control,
    ) -> Result<MemslotsReport, WorkloadError> {
        let layout = self.check(vm)?;
        let milliseconds = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX);
        control.start(self.iterations.unwrap_or(milliseconds));
        let bytes = layout.bytes();
        let ram = Ram::new(layout.pa(0), bytes).map_err(|_| WorkloadError::Memory { bytes })?;
        let shared = Shared::new(layout, &ram, control);
        let vcpus = self.load.vcpus;
        let job = |vcpu: &mut Vcpu<'_, M, T>, index: usize, turn: &Turn| shared.turn(vcpu, index, vcpus, *turn);
        let mut made = Made { vm, count: 0 };
        let mut steps = Steps::new(vm, control);
        let mut done = Done::default();
        let host = |crew: &Crew<'_, Turn, Ended>| {
            steps.host(SlotPhase::Setup, |_| made.make(&layout))?;
            steps.both(SlotPhase::Turns, || {
                let ended = self.turns(vm, crew, &shared, &mut done);
                (done.counters, self.expected(vm, &layout, done.iterations), ended)
            })?;
            steps.host(SlotPhase::Remove, |_| made.remove())
        };
        let complete = completed(crew::run(vm, vcpus, job, host))?;
        made.remove()?;
        Ok(MemslotsReport {
            run: RunReport {
                complete,
                vcpus,
                accesses: layout.all.pages,
                phases: steps.into_phases(),
            },
            iterations: done.iterations,
            taken_back: done.taken_back,
            wrong_words: shared.wrong(),
        })
    }

    /// Refuses what [`run`](Self::run) would refuse before it starts.
    ///
    /// # Errors
    /// [`WorkloadError`]: an option outside its range, more than the machine has room for.
    pub fn validate<M: TableMemory, T: Tlb>(&self, vm: &Vm<M, T>) -> Result<(), WorkloadError> {
        self.check(vm).map(drop)
    }

    fn check<M: TableMemory, T: Tlb>(&self, vm: &Vm<M, T>) -> Result<Layout, WorkloadError> {
        self.load.validate()?;
        match self.iterations {
            Some(iterations) => within("iterations", iterations, 1, u64::MAX)?,
            None => within("nanoseconds of a test", nanoseconds(self.time), 1, u64::MAX)?,
        }
        let (page, each) = (vm.page_size(), self.load.bytes_per_vcpu);
        within_bytes("bytes per vCPU", each, 2 * page, MOST_BYTES)?;
        if !each.is_multiple_of(page) {
            return Err(WorkloadError::Alignment {
                value: each,
                required: page,
            });
        }
        let bytes = each.saturating_mul(self.load.vcpus as u64);
        // A slot has a page at least; what is moved has memory before it.
        let least = if self.test.moves() { 2 } else { 1 };
        within("slots", u64::from(self.load.slots), least, bytes / page)?;
        // What moves a slot writes next to nothing; what takes memory back writes to all of it.
        if !self.test.moves() {
            Filled::default().and_guest(bytes).check()?;
        }
        Ok(Layout::new(vm, bytes, self.load.slots))
    }

    /// The turns, until there were enough of them.
    fn turns<M: TableMemory, T: Maintenance>(
        &self,
        vm: &Vm<M, T>,
        crew: &Crew<'_, Turn, Ended>,
        shared: &Shared<'_>,
        done: &mut Done,
    ) -> Result<(), Ended> {
        let mut clock = Clock::new(self, shared.control);
        if self.test.moves() {
            return self.moves(vm, crew, shared, done, &mut clock);
        }
        let (layout, control) = (&shared.layout, shared.control);
        let halves = layout.all.halves();
        while clock.goes_on(done.iterations) {
            control.go_on()?;
            // Words never written are zero.
            let (last, now) = (done.iterations, done.iterations + 1);
            if self.test == SlotTest::ReadWrite {
                let turn = Turn::Exchange {
                    area: layout.all,
                    check: last,
                    value: now,
                };
                done.count(crew.pass(turn))?;
                shared.answer(now, now);
            } else {
                for (area, other) in [(halves[0], halves[1]), (halves[1], halves[0])] {
                    let (turn, pages) = match self.test {
                        SlotTest::Unmap => (Turn::Touch { area, value: now }, 1),
                        SlotTest::UnmapChunked => (Turn::Touch { area, value: now }, (CHUNK / layout.page).max(1)),
                        _ => (Turn::Write { area, value: now }, other.pages),
                    };
                    let (passed, taken) = crew.pass_beside(turn, || shared.take_back(vm, other, pages));
                    done.count(passed)?;
                    done.taken_back += taken?;
                    let last = if self.test == SlotTest::Map { area.pages } else { 1 };
                    shared.check([area.first, area.first + last - 1].into_iter(), |_| now);
                }
            }
            done.iterations += 1;
        }
        Ok(())
    }

    /// The turns of the tests that move a slot: one of the guest, as long as the host moves.
    fn moves<M: TableMemory, T: Maintenance>(
        &self,
        vm: &Vm<M, T>,
        crew: &Crew<'_, Turn, Ended>,
        shared: &Shared<'_>,
        done: &mut Done,
        clock: &mut Clock<'_>,
    ) -> Result<(), Ended> {
        let layout = &shared.layout;
        let area = layout.around_last(MOVED_AREA, self.test == SlotTest::MoveActive);
        let last = layout.slot(layout.slots - 1);
        let away = Ipa::new(last.ipa.get() + layout.bytes().next_multiple_of(GIGABYTE));
        let mut iterations = 0;
        let (passed, moved) = crew.pass_beside(Turn::Roam { area }, || {
            let _over = Over(shared);
            while clock.goes_on(iterations) && !shared.control.is_cancelled() {
                vm.move_slot(last.id, away)?;
                vm.move_slot(last.id, last.ipa)?;
                iterations += 1;
            }
            Ok::<_, Error>(())
        });
        done.iterations = iterations;
        done.count(passed)?;
        moved?;
        shared.control.go_on()?;
        // The slot is where it was: nothing exits, and what is written arrives.
        let value = u64::MAX;
        done.count(crew.pass(Turn::Write { area, value }))?;
        shared.check(area.first..area.first + area.pages, |_| value);
        Ok(())
    }

    /// The faults of all turns, where leaves do not lie across what one vCPU does in a turn.
    fn expected<M: TableMemory, T: Tlb>(&self, vm: &Vm<M, T>, layout: &Layout, iterations: u64) -> Option<Expected> {
        let (leaf, vcpus) = (vm.largest_size() / layout.page, self.load.vcpus as u64);
        let even =
            (layout.all.pages / 2).is_multiple_of(leaf * vcpus) && (layout.each / layout.page).is_multiple_of(leaf);
        if self.test.moves() || !even {
            return None;
        }
        let translation = match self.test {
            SlotTest::Map => iterations * layout.all.pages / leaf,
            SlotTest::ReadWrite => layout.all.pages / leaf * iterations.min(1),
            // One page of each half and vCPU.
            _ => iterations * 2 * vcpus,
        };
        Some(Expected {
            translation,
            ..Expected::default()
        })
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// As much as a `Ram` can be.
const MOST_BYTES: u64 = 1 << 42;

/// Says when there were enough iterations, and shows how far it is.
struct Clock<'c> {
    iterations: Option<u64>,
    time: Duration,
    since: Instant,
    told: u64,
    control: &'c Control,
}

impl<'c> Clock<'c> {
    fn new(options: &Memslots, control: &'c Control) -> Self {
        Self {
            iterations: options.iterations,
            time: options.time,
            since: Instant::now(),
            told: 0,
            control,
        }
    }

    fn goes_on(&mut self, done: u64) -> bool {
        let elapsed = self.since.elapsed();
        let time = u64::try_from(elapsed.min(self.time).as_millis()).unwrap_or(u64::MAX);
        let progress = if self.iterations.is_some() { done } else { time };
        self.control.add(progress - self.told);
        self.told = progress;
        self.iterations
            .map_or(elapsed < self.time || done == 0, |iterations| done < iterations)
    }
}

/// Tells the guest that the host is done, whatever ended it.
struct Over<'s, 'r>(&'s Shared<'r>);

impl Drop for Over<'_, '_> {
    fn drop(&mut self) {
        // Relaxed, as where it is read.
        self.0.over.store(true, Ordering::Relaxed);
    }
}
