//! The passes of KVM's `dirty_log_perf_test`, over our table.

mod expected;
mod harvest;

use super::control::{Control, Ended, completed};
use super::crew::{self, Crew};
use super::error::{WorkloadError, within};
use super::load::{Load, Region, each};
use super::report::{DirtyLogReport, Maintenance, Phase};
use super::room::Filled;
use super::steps::{Steps, fresh};
use crate::arch::{AccessKind, Ipa};
use crate::memory::TableMemory;
use crate::sync::Mutex;
use crate::table::Tlb;
use crate::vm::{AccessError, DirtyLogMode, DirtyLogOptions, DirtyPage, DirtyTracking, ExitReason, Vcpu, Vm};
use expected::Formula;
use harvest::{Logs, stash};

/// Options of the run. Names in brackets are those of `dirty_log_perf_test`.
///
/// The steps: every vCPU writes all of its pages in order; logging is switched on; per iteration every vCPU accesses its
/// memory once, page by page, the host gets the bitmap and, with manual protection, clears it; logging is switched off. On a
/// VM with dirty rings the host harvests them instead, and a vCPU whose ring is full empties it and goes on.
///
/// ```
/// use s2pt::arch::{Ipa, Pa};
/// use s2pt::vm::workload::{Control, DirtyLog, Load, Phase};
/// use s2pt::vm::{VmOptions, Slot};
///
/// let vm = VmOptions::default().build(s2pt::table::Null)?;
/// vm.create_slot(Slot::linear(1, Ipa::new(0x4000_0000), 8 << 20, Pa::new(0x4000_0000)))?;
/// let load = Load { vcpus: 2, bytes_per_vcpu: 4 << 20, ..Load::default() };
/// let report = DirtyLog { load, ..DirtyLog::default() }.run(&vm, 1, &Control::new())?;
/// // 2 MiB blocks: four faults populate. Logging starts with every page counted as dirty and nothing protected.
/// assert_eq!(report.phases[0].counters.total(), 4);
/// assert_eq!((report.phases[2].phase, report.phases[2].counters.total()), (Phase::Dirty(1), 0));
/// assert!(report.phases.iter().all(|phase| phase.as_expected() != Some(false)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyLog {
    /// vCPUs, their memory, the seed.
    pub load: Load,
    /// How often the memory is dirtied and harvested (-i).
    pub iterations: u32,
    /// How many of 100 accesses write, the others read (-w). Populating always writes.
    pub write_percent: u8,
    /// Pages in random order, some more than once and some not at all, instead of each in turn (-a).
    pub random: bool,
    /// How writes are logged. With [`Auto`](DirtyLogMode::Auto) there is no clear (-g). With dirty rings the mode is that.
    pub log: DirtyLogOptions,
}

impl Default for DirtyLog {
    /// The defaults of `dirty_log_perf_test`: one vCPU, 1 GiB, two iterations, all writes, in order, seed 1, manual.
    fn default() -> Self {
        Self {
            load: Load::default(),
            iterations: 2,
            write_percent: 100,
            random: false,
            log: DirtyLogOptions::default(),
        }
    }
}

/// One pass over each vCPU's memory.
#[derive(Clone, Copy, Debug)]
struct Pass {
    write_percent: u8,
    random: bool,
    /// Tells the passes' random numbers apart.
    number: u64,
}

/// What vCPUs took out of their own rings in a pass.
type Harvested = Mutex<Vec<DirtyPage>>;

impl DirtyLog {
    /// Runs it on the slots from `slot` on, one real thread a vCPU, and leaves their logs off.
    ///
    /// Other threads may use the VM meanwhile. `control` shows the progress in accesses. Through it the run can be ended
    /// early: then the logs are switched off, and the report has the steps up to there.
    ///
    /// # Errors
    /// [`WorkloadError`]. The log is off then too, if the run had switched it on; what was mapped stays mapped.
    ///
    /// # Panics
    /// If a vCPU thread panicked, with its message.
    pub fn run<M: TableMemory, T: Maintenance>(
        &self,
        vm: &Vm<M, T>,
        slot: u32,
        control: &Control,
    ) -> Result<DirtyLogReport, WorkloadError> {
        let region = self.check(vm, slot)?;
        let accesses = region.accesses();
        control.start(accesses * (1 + u64::from(self.iterations)));
        let formula = fresh(vm, &region).map(|leaves| Formula::new(self, vm, &region, leaves));
        let harvested = Harvested::default();
        let job = |vcpu: &mut Vcpu<'_, M, T>, index: usize, pass: &Pass| {
            self.pass(vcpu, index, &region, pass, control, &harvested)
        };
        let mut steps = Steps::new(vm, control);
        let mut logs = Logs::new(vm, &region.slots, self.log, &harvested);
        let host = |crew: &Crew<'_, _, _>| self.host(&mut steps, &mut logs, crew, formula);
        let complete = completed(crew::run(vm, self.load.vcpus, job, host))?;
        logs.disable()?;
        Ok(DirtyLogReport {
            complete,
            vcpus: self.load.vcpus,
            accesses,
            phases: steps.into_phases(),
        })
    }

    /// Refuses what [`run`](Self::run) would refuse before it starts.
    ///
    /// # Errors
    /// [`WorkloadError`]: an option outside its range, slots that are not there or too small, more than the machine has room
    /// for.
    pub fn validate<M: TableMemory, T: Tlb>(&self, vm: &Vm<M, T>, slot: u32) -> Result<(), WorkloadError> {
        self.check(vm, slot).map(drop)
    }

    fn check<M: TableMemory, T: Tlb>(&self, vm: &Vm<M, T>, slot: u32) -> Result<Region, WorkloadError> {
        within("write percent", u64::from(self.write_percent), 0, 100)?;
        let region = self.load.check(vm, slot)?;
        for slot in &region.slots {
            vm.check_log(slot, self.log)?;
        }
        within("iterations", u64::from(self.iterations), 1, u64::MAX)?;
        let tables = Filled::tables(vm, &region, self.ends_in_pages());
        // Whole slots are logged.
        let logged = region.slots.iter().map(|slot| slot.size / region.page).sum();
        let filled = if vm.ring_mode() {
            let written = self.least_written(region.bytes / region.page);
            tables.and_bitmaps(logged, 1).and_rings(vm, self.load.vcpus, written)
        } else {
            // What is set, and the copy that a get gives.
            tables.and_bitmaps(logged, 2)
        };
        filled.check()?;
        Ok(region)
    }

    /// How many of so many pages a pass writes to at the least, nearly: at random, some are met more than once.
    const fn least_written(&self, pages: u64) -> u64 {
        let writes = pages / 100 * self.write_percent as u64;
        if self.random { writes / 8 * 5 } else { writes }
    }

    /// Whether every page has an entry of its own in the end: the first write to a block splits it, if nothing did before.
    const fn ends_in_pages(&self) -> bool {
        let ahead = self.log.eager_split.is_some() || matches!(self.log.tracking, DirtyTracking::Hardware);
        ahead || self.write_percent > 0
    }

    /// What the host does: the order of the steps.
    fn host<M: TableMemory, T: Maintenance>(
        &self,
        steps: &mut Steps<'_, M, T, Phase>,
        logs: &mut Logs<'_, M, T>,
        crew: &Crew<'_, Pass, Ended>,
        formula: Option<Formula>,
    ) -> Result<(), Ended> {
        let populate = Pass {
            write_percent: 100,
            random: false,
            number: 0,
        };
        let expected = formula.map(|formula| formula.populate());
        steps.vcpus(Phase::Populate, crew, populate, expected)?;
        steps.host(Phase::Enable, |_| logs.enable())?;
        for n in 1..=self.iterations {
            let pass = Pass {
                write_percent: self.write_percent,
                random: self.random,
                number: u64::from(n),
            };
            let expected = formula.and_then(|formula| formula.dirty(n));
            steps.vcpus(Phase::Dirty(n), crew, pass, expected)?;
            let dirty = steps.host(Phase::Get(n), |_| logs.get())?;
            steps.found(dirty);
            if !steps.vm.ring_mode() && self.log.mode != DirtyLogMode::Auto {
                steps.host(Phase::Clear(n), |_| logs.clear())?;
            }
        }
        steps.host(Phase::Disable, |_| logs.disable())
    }

    /// What vCPU `index` does in one pass.
    fn pass<M: TableMemory, T: Maintenance>(
        &self,
        vcpu: &mut Vcpu<'_, M, T>,
        index: usize,
        region: &Region,
        pass: &Pass,
        control: &Control,
        harvested: &Harvested,
    ) -> Result<(), Ended> {
        let (base, pages) = region.share(index);
        let mut random = region.random(index, pass.number);
        each(pages, control, |n| {
            let page = if pass.random { random.below(pages) } else { n };
            let write = pass.write_percent == 100 || random.below(100) < u64::from(pass.write_percent);
            let access = if write { AccessKind::Write } else { AccessKind::Read };
            let ipa = Ipa::new(base.get() + page * region.page);
            loop {
                match vcpu.access(ipa, access) {
                    Ok(_) => return Ok(()),
                    Err(AccessError::Exit {
                        reason: ExitReason::RingFull,
                        ..
                    }) => stash(harvested, vcpu.harvest_ring()?),
                    Err(reason) => return Err(WorkloadError::Access { vcpu: index, reason }),
                }
            }
        })
    }
}
