//! Live migration: a guest goes on writing while its memory is copied away.
//!
//! Pre-copy, as VMMs do it: all pages are copied, then those that were written to meanwhile, and so on, until what is left
//! can be copied in the downtime that is allowed, or the rounds are used up. Then the guest stops, the rest is copied, and
//! source and destination are compared byte by byte. A write that the dirty log missed shows as a byte that differs.
//!
//! The guest runs on the CPUs of a [`Machine`](crate::machine::Machine), each with a TLB that keeps what nobody invalidates,
//! and with accesses in flight. So a harvest that hands pages out before no CPU writes to them any more loses bytes here, as
//! it would on hardware: [`Migrate::too_early`] does that on purpose.

mod guests;
mod report;
mod transfer;

pub use report::{MigrateReport, Round, Throughput};

use core::time::Duration;
use std::time::Instant;

use super::control::{Control, Ended, Stop, completed};
use super::error::{WorkloadError, within, within_bytes};
use super::random::Random;
use super::room::Filled;
use crate::arch::Ipa;
use crate::machine::Machine;
use crate::memory::TableMemory;
use crate::sync::{AtomicBool, Ordering, thread};
use crate::table::Tlb;
use crate::vm::{Cost, DirtyLogMode, DirtyLogOptions, Error, PaSource, Slot, Vm};
use guests::{Crowd, State};
use transfer::Transfer;

/// Options of a migration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Migrate {
    /// vCPU threads; as many CPUs the machine must have.
    pub vcpus: usize,
    /// How many of 100 accesses write.
    pub write_percent: u8,
    /// How many of 100 accesses go to the first tenth of the memory: what is hot.
    pub hot_percent: u8,
    /// What the guest does between two accesses.
    pub think: Cost,
    /// What copying a page costs.
    pub copy: Cost,
    /// How writes are logged. A VM with dirty rings is harvested by its rings.
    pub log: DirtyLogOptions,
    /// Bytes a second that the other side takes; `None`: as fast as they can be copied.
    pub bandwidth: Option<u64>,
    /// Longest stop that is aimed at.
    pub downtime: Duration,
    /// Rounds before the guest is stopped whatever is left.
    pub rounds: u32,
    /// How long the guest runs before, for its throughput without migration.
    pub warm_up: Duration,
    /// How often in a second the host takes a random piece of the memory back meanwhile; the guest faults it in again.
    pub take_backs: u32,
    /// Break it on purpose: copy pages before their protection is complete on all CPUs.
    pub too_early: bool,
    /// Seed of all that is random.
    pub seed: u64,
}

impl Default for Migrate {
    /// Two vCPUs that write with half of their accesses, half of them to a hot tenth; 1 GB/s, 30 ms, 20 rounds, KVM's usual log.
    fn default() -> Self {
        Self {
            vcpus: 2,
            write_percent: 50,
            hot_percent: 50,
            think: Cost::None,
            copy: Cost::None,
            log: DirtyLogOptions::default(),
            bandwidth: Some(1_000_000_000),
            downtime: Duration::from_millis(30),
            rounds: 20,
            warm_up: Duration::from_millis(100),
            take_backs: 0,
            too_early: false,
            seed: 1,
        }
    }
}

/// What a harvest found, as page numbers of the slot.
type Pages = Vec<u64>;

/// What happens to pages before they are protected, if it is to be done wrongly.
type Early<'e> = &'e mut dyn FnMut(&[u64]) -> Result<(), Ended>;

impl Migrate {
    /// Migrates the guest memory of `slot` of `vm`, whose table the CPUs of `machine` walk. Afterwards the log is off, and
    /// what was mapped stays so.
    ///
    /// `control` shows the progress in pages. Through it the run can be ended early: the guest stops, the log is switched
    /// off, and the report has what there was up to there.
    ///
    /// # Errors
    /// [`WorkloadError`]; the log is off then too.
    ///
    /// # Panics
    /// If a vCPU thread panicked, with its message.
    ///
    /// ```
    /// use core::time::Duration;
    /// use s2pt::arch::{Ipa, Pa};
    /// use s2pt::machine::{Machine, MachineOptions};
    /// use s2pt::sync::Arc;
    /// use s2pt::vm::workload::{Control, Migrate};
    /// use s2pt::vm::{self, Slot};
    ///
    /// let (at, size) = (0x4000_0000, 4 << 20);
    /// let machine = Machine::new(MachineOptions { cpus: 2, ram: Some((Pa::new(at), size)), ..Default::default() })?;
    /// let port = machine.port();
    /// let vm = Arc::new(vm::VmOptions::default().build(port.clone())?);
    /// port.attach(&vm);
    /// machine.load(&port);
    /// vm.create_slot(Slot::linear(0, Ipa::new(at), size, Pa::new(at)))?;
    /// let report = Migrate { warm_up: Duration::from_millis(1), ..Migrate::default() }.run(&vm, 0, &machine, &Control::new())?;
    /// assert_eq!(report.lost_bytes, Some(0));
    /// assert!(report.pages_sent >= 1024);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run<M: TableMemory, T: Tlb>(
        &self,
        vm: &Vm<M, T>,
        slot: u32,
        machine: &Machine,
        control: &Control,
    ) -> Result<MigrateReport, WorkloadError> {
        let slot = self.check(vm, slot, machine)?;
        let page = vm.page_size();
        let pages = slot.size / page;
        control.start(0);
        let crowd = Crowd::new(self.vcpus, control);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for index in 0..self.vcpus {
                let (crowd, cpu) = (&crowd, machine.cpu(index));
                scope.spawn(move || crowd.guest(self, vm, &slot, &cpu, index));
            }
            if self.take_backs > 0 {
                let over = &over;
                scope.spawn(move || take_backs(self, vm, &slot, over));
            }
            // Whichever way this ends, the threads go home.
            let _home = Home(&crowd, &over);
            let migration = Migration {
                options: self,
                vm,
                slot,
                pages,
                crowd: &crowd,
                control,
            };
            migration.run(machine)
        })
    }

    /// Refuses what [`run`](Self::run) would refuse before it starts, and gives the slot.
    ///
    /// # Errors
    /// [`WorkloadError`].
    pub fn check<M: TableMemory, T: Tlb>(
        &self,
        vm: &Vm<M, T>,
        slot: u32,
        machine: &Machine,
    ) -> Result<Slot, WorkloadError> {
        let slot = vm.slot(slot)?;
        // Each has a word of its own in every page.
        within("vcpus", self.vcpus as u64, 1, vm.page_size() / 8)?;
        within("vcpus", self.vcpus as u64, 1, machine.cpus() as u64)?;
        within("write percent", u64::from(self.write_percent), 0, 100)?;
        within("hot percent", u64::from(self.hot_percent), 0, 100)?;
        within("rounds", u64::from(self.rounds), 1, 1 << 20)?;
        within("take-backs a second", u64::from(self.take_backs), 0, 100_000)?;
        if let Some(bandwidth) = self.bandwidth {
            within_bytes("bandwidth", bandwidth, 1 << 16, 1 << 50)?;
        }
        let wrong = |what| WorkloadError::Vm(Error::LogOptions { slot: slot.id, what });
        if slot.readonly {
            return Err(wrong("a guest that writes needs a slot that may be written to"));
        }
        if !matches!(slot.source, PaSource::Linear(_)) {
            return Err(wrong("a guest on simulated hardware needs a slot of linear memory"));
        }
        if self.too_early && (vm.ring_mode() || self.log.mode == DirtyLogMode::Auto) {
            return Err(wrong("to copy too early the log must be cleared by hand, in a bitmap"));
        }
        let (source, page) = (slot.size, vm.page_size());
        Filled::pages(source / page)
            .and_guest(source.saturating_mul(2))
            .and_bitmaps(source / page, if vm.ring_mode() { 1 } else { 2 })
            .and_rings(vm, self.vcpus, 0)
            .check()?;
        Ok(slot)
    }
}

/// Sends the threads home.
struct Home<'c>(&'c Crowd<'c>, &'c AtomicBool);

impl Drop for Home<'_> {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
        self.0.set(State::Home);
    }
}

/// The host takes memory back, here and there.
fn take_backs<M: TableMemory, T: Tlb>(options: &Migrate, vm: &Vm<M, T>, slot: &Slot, over: &AtomicBool) {
    let mut random = Random::new(options.seed ^ 0x7a6e_b0c5);
    let page = vm.page_size();
    let pages = slot.size / page;
    let pause = Duration::from_secs(1) / options.take_backs;
    while !over.load(Ordering::Relaxed) {
        let first = random.below(pages);
        let count = (1 + random.below(64)).min(pages - first);
        // In a slot that is there it is refused for nothing.
        let _ = vm.take_back(Ipa::new(slot.ipa.get() + first * page), count * page);
        thread::sleep(pause);
    }
}

/// A migration under way.
struct Migration<'a, M: TableMemory, T: Tlb> {
    options: &'a Migrate,
    vm: &'a Vm<M, T>,
    slot: Slot,
    pages: u64,
    crowd: &'a Crowd<'a>,
    control: &'a Control,
}

impl<M: TableMemory, T: Tlb> Migration<'_, M, T> {
    fn run(&self, machine: &Machine) -> Result<MigrateReport, WorkloadError> {
        let mut report = MigrateReport::default();
        report.complete = completed(self.steps(machine, &mut report))?;
        report.cut = (!report.complete).then(|| self.control.step());
        self.crowd.fill(&mut report);
        report.longest_hold = self.vm.longest_hold();
        report.violations = machine.violated();
        Ok(report)
    }

    fn steps(&self, machine: &Machine, report: &mut MigrateReport) -> Result<(), Ended> {
        self.control.enter("warm-up");
        self.crowd.begin();
        let warmed = self.warm_up();
        report.before = self.crowd.throughput();
        warmed?;
        self.control.enter("enable");
        let started = Instant::now();
        self.vm.enable_dirty_log_with(self.slot.id, self.options.log)?;
        report.enabled = started.elapsed();
        let copied = self.copy(machine, started, report);
        // Whichever way that ended. An error ends the log as well; there is nothing more to say about it then.
        let disabled = self.vm.disable_dirty_log(self.slot.id);
        if !matches!(copied, Err(Stop::Failed(_))) {
            disabled?;
        }
        copied
    }

    fn warm_up(&self) -> Result<(), Ended> {
        self.control.sleep(self.options.warm_up)?;
        // On a busy machine the vCPUs may not have had their turn.
        while self.crowd.throughput().accesses == 0 {
            self.end_early()?;
            self.control.sleep(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// All that is copied, with what can be said of it however it ends.
    fn copy(&self, machine: &Machine, started: Instant, report: &mut MigrateReport) -> Result<(), Ended> {
        let page = self.vm.page_size();
        let mut transfer = Transfer::new(machine.ram(), &self.slot, page, self.options, self.control)?;
        self.crowd.measure();
        let copied = self.rounds(&mut transfer, report);
        report.during = self.crowd.throughput();
        let copied = copied.and_then(|left| {
            let stopped = Instant::now();
            let copied = self.stop_and_copy(left, &mut transfer, report);
            report.downtime = stopped.elapsed();
            copied
        });
        report.elapsed = started.elapsed();
        report.pages_sent = transfer.sent();
        copied?;
        self.control.enter("compare");
        report.lost_bytes = Some(transfer.differing_bytes());
        Ok(())
    }

    /// Copies while the guest runs; what is left then.
    fn rounds(&self, transfer: &mut Transfer<'_>, report: &mut MigrateReport) -> Result<Pages, Ended> {
        let options = self.options;
        let mut dirty: Pages = (0..self.pages).collect();
        // In the modes in which everything counts as dirty this takes that back, before the first copy.
        self.harvest(None)?;
        loop {
            self.control.enter(format_args!("round {}", report.rounds.len() + 1));
            self.end_early()?;
            let since = Instant::now();
            transfer.send(&dirty)?;
            let sent = since.elapsed();
            let pages = dirty.len() as u64;
            let since = Instant::now();
            let mut early = |pages: &[u64]| transfer.send(pages);
            let (next, too_early) = self.harvest(Some(&mut early))?;
            let found = next.len() as u64;
            report.rounds.push(Round {
                pages,
                sent,
                harvested: since.elapsed(),
                found,
            });
            dirty = if too_early { Pages::new() } else { next };
            let left = found * self.vm.page_size();
            let time = options
                .bandwidth
                .map_or(0.0, |bandwidth| left as f64 / bandwidth as f64);
            if time <= options.downtime.as_secs_f64() || report.rounds.len() as u32 >= options.rounds {
                return Ok(dirty);
            }
        }
    }

    /// Copies the rest while the guest stands.
    fn stop_and_copy(
        &self,
        mut dirty: Pages,
        transfer: &mut Transfer<'_>,
        report: &mut MigrateReport,
    ) -> Result<(), Ended> {
        self.control.enter("stop");
        self.crowd.pause()?;
        let mut early = |pages: &[u64]| transfer.send(pages);
        let (last, too_early) = self.harvest(Some(&mut early))?;
        self.control.go_on()?;
        if !too_early {
            dirty.extend(last);
            dirty.sort_unstable();
            dirty.dedup();
        }
        let before = transfer.sent();
        let sent = transfer.send(&dirty);
        report.last_pages = transfer.sent() - before;
        sent
    }

    /// Which pages were written to since the last harvest; and whether `early` was done with them.
    fn harvest(&self, early: Option<Early<'_>>) -> Result<(Pages, bool), Ended> {
        let (vm, id) = (self.vm, self.slot.id);
        if vm.ring_mode() {
            let found = vm.harvest_rings()?;
            let ours = found.iter().filter(|page| page.slot == id).map(|page| page.page);
            return Ok((ours.collect(), false));
        }
        let bitmap = vm.dirty_log(id)?;
        let pages = numbers(&bitmap);
        if self.options.log.mode == DirtyLogMode::Auto {
            return Ok((pages, false));
        }
        let early = early.filter(|_| self.options.too_early);
        let too_early = early.is_some();
        if let Some(early) = early {
            early(&pages)?;
            // The guest has its turn in between, and none later: what is done wrongly shows, and is not made good by chance.
            self.crowd.let_work(64)?;
            self.crowd.pause()?;
        }
        vm.clear_dirty_log(id, 0, self.pages, &bitmap)?;
        Ok((pages, too_early))
    }

    fn end_early(&self) -> Result<(), Ended> {
        match self.crowd.failure() {
            Some(reason) => Err(reason.into()),
            None => self.control.go_on(),
        }
    }
}

/// The numbers of the bits that are set.
fn numbers(bitmap: &[u64]) -> Pages {
    let bits = |(word, &bits): (usize, &u64)| {
        let set = move |bit: &u64| bits >> bit & 1 != 0;
        (0..64).filter(set).map(move |bit| word as u64 * 64 + bit)
    };
    bitmap
        .iter()
        .enumerate()
        .filter(|(_, bits)| **bits != 0)
        .flat_map(bits)
        .collect()
}
