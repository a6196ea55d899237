//! The passes of KVM's `dirty_log_perf_test`, over our table.

use std::time::Instant;

use core::time::Duration;

use super::control::Control;
use super::crew::{self, Crew, NoThreads};
use super::random::Random;
use super::report::{DirtyLogReport, Maintenance, Phase, PhaseReport, since};
use crate::arch::{AccessKind, Ipa};
use crate::memory::TableMemory;
use crate::table::{Counts, Tlb};
use crate::vm::{AccessError, Counters, DirtyLogMode, Error, Vcpu, Vm};

/// Options of the run. Names in brackets are those of `dirty_log_perf_test`.
///
/// vCPU `i` owns bytes `i * bytes_per_vcpu` to `(i + 1) * bytes_per_vcpu` of the slot. The steps: every vCPU writes all of
/// its pages in order; logging is switched on; per iteration every vCPU accesses its memory once, page by page, the host
/// gets the bitmap and, with manual protection, clears it; logging is switched off.
///
/// ```
/// use s2pt::arch::{Ipa, Pa};
/// use s2pt::vm::workload::{Control, DirtyLog, Phase};
/// use s2pt::vm::{Machine, Slot};
///
/// let vm = Machine::default().build(s2pt::table::Null)?;
/// vm.create_slot(Slot::linear(1, Ipa::new(0x4000_0000), 8 << 20, Pa::new(0x4000_0000)))?;
/// let job = DirtyLog { vcpus: 2, bytes_per_vcpu: 4 << 20, ..DirtyLog::default() };
/// let report = job.run(&vm, 1, &Control::new())?;
/// // 2 MiB blocks: four faults populate. Logging starts with every page counted as dirty and nothing protected.
/// assert_eq!(report.phases[0].counters.total(), 4);
/// assert_eq!((report.phases[2].phase, report.phases[2].counters.total()), (Phase::Dirty(1), 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyLog {
    /// vCPU threads (-v).
    pub vcpus: usize,
    /// Guest memory of each, in bytes, a multiple of the granule (-b).
    pub bytes_per_vcpu: u64,
    /// How often the memory is dirtied and harvested (-i).
    pub iterations: u32,
    /// How many of 100 accesses write, the others read (-w). Populating always writes.
    pub write_percent: u8,
    /// Pages in random order, some more than once and some not at all, instead of each in turn (-a).
    pub random: bool,
    /// Seed; vCPU `i` uses `seed + i` (-r).
    pub seed: u64,
    /// Clear by a call of its own, with every page dirty at first (the opposite of -g).
    pub manual_protect: bool,
}

impl Default for DirtyLog {
    /// The defaults of `dirty_log_perf_test`: one vCPU, 1 GiB, two iterations, all writes, in order, seed 1, manual.
    fn default() -> Self {
        Self {
            vcpus: 1,
            bytes_per_vcpu: 1 << 30,
            iterations: 2,
            write_percent: 100,
            random: false,
            seed: 1,
            manual_protect: true,
        }
    }
}

/// Why a run did not happen or ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// An option is outside its range.
    #[error("{what} is {value:#x}; it must be {min:#x} to {max:#x}")]
    Option {
        /// Which option.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The least it may be.
        min: u64,
        /// The most it may be.
        max: u64,
    },
    /// The memory of a vCPU is not whole pages.
    #[error("bytes per vCPU {value:#x} is not a multiple of {required:#x}")]
    Alignment {
        /// Bytes per vCPU.
        value: u64,
        /// The granule.
        required: u64,
    },
    /// The slot is too small for all vCPUs.
    #[error("slot {slot} has {size:#x} bytes; the run needs {required:#x}")]
    SlotTooSmall {
        /// Id of the slot.
        slot: u32,
        /// Its size in bytes.
        size: u64,
        /// What the vCPUs need together.
        required: u64,
    },
    /// A call on the VM was refused.
    #[error(transparent)]
    Vm(#[from] Error),
    /// An access of a vCPU failed.
    #[error("vCPU {vcpu}: {reason}")]
    Access {
        /// Which one.
        vcpu: usize,
        /// Why.
        reason: AccessError,
    },
    /// There is no address space for the guest's memory once more.
    #[error("no address space for {bytes:#x} bytes of guest memory")]
    Memory {
        /// How many bytes.
        bytes: u64,
    },
    /// There are not enough threads.
    #[error(transparent)]
    Threads(#[from] NoThreads),
    /// Somebody asked the run to end.
    #[error("cancelled")]
    Cancelled,
}

/// More threads than this are a mistake.
const MOST_VCPUS: u64 = 4096;
/// Accesses between two looks at the control.
const STRIDE: u64 = 256;

/// One pass over each vCPU's memory.
#[derive(Clone, Copy, Debug)]
struct Pass {
    write_percent: u8,
    random: bool,
    /// Tells the passes' random numbers apart.
    number: u64,
}

/// Where a vCPU works.
#[derive(Clone, Copy, Debug)]
struct Region {
    base: Ipa,
    bytes: u64,
    page: u64,
}

impl DirtyLog {
    /// Runs it on `slot` of `vm`, one real thread a vCPU, and leaves the slot's log off.
    ///
    /// Other threads may use the VM meanwhile. `control` shows the progress in accesses and ends the run early.
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
        let accesses = self.vcpus as u64 * (region.bytes / region.page);
        control.start(accesses * (1 + u64::from(self.iterations)));
        let job = |vcpu: &mut Vcpu<'_, M, T>, index: usize, pass: &Pass| self.pass(vcpu, index, region, pass, control);
        crew::run(vm, self.vcpus, job, |crew| {
            let mut host = Host {
                vm,
                slot,
                phases: Vec::new(),
                logging: false,
            };
            self.host(&mut host, crew)?;
            Ok(DirtyLogReport {
                vcpus: self.vcpus,
                accesses,
                phases: core::mem::take(&mut host.phases),
            })
        })
    }

    /// Refuses what [`run`](Self::run) would refuse before it starts.
    ///
    /// # Errors
    /// [`WorkloadError`]: an option outside its range, a slot that is not there or too small.
    pub fn validate<M: TableMemory, T: Tlb>(&self, vm: &Vm<M, T>, slot: u32) -> Result<(), WorkloadError> {
        self.check(vm, slot).map(drop)
    }

    fn check<M: TableMemory, T: Tlb>(&self, vm: &Vm<M, T>, id: u32) -> Result<Region, WorkloadError> {
        let slot = vm.slot(id)?;
        let page = vm.page_size();
        let within = |what, value, min, max| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(WorkloadError::Option { what, value, min, max })
            }
        };
        within("vcpus", self.vcpus as u64, 1, MOST_VCPUS)?;
        within("write percent", u64::from(self.write_percent), 0, 100)?;
        within("bytes per vCPU", self.bytes_per_vcpu, page, slot.size)?;
        if !self.bytes_per_vcpu.is_multiple_of(page) {
            return Err(WorkloadError::Alignment {
                value: self.bytes_per_vcpu,
                required: page,
            });
        }
        let required = self.bytes_per_vcpu.saturating_mul(self.vcpus as u64);
        if required > slot.size {
            return Err(WorkloadError::SlotTooSmall {
                slot: id,
                size: slot.size,
                required,
            });
        }
        Ok(Region {
            base: slot.ipa,
            bytes: self.bytes_per_vcpu,
            page,
        })
    }

    /// What the host does: the order of the steps.
    fn host<M: TableMemory, T: Maintenance>(
        &self,
        host: &mut Host<'_, M, T>,
        crew: &Crew<'_, Pass, WorkloadError>,
    ) -> Result<(), WorkloadError> {
        let populate = Pass {
            write_percent: 100,
            random: false,
            number: 0,
        };
        host.vcpus(Phase::Populate, crew, populate)?;
        let mode = if self.manual_protect {
            DirtyLogMode::ManualInitiallySet
        } else {
            DirtyLogMode::Auto
        };
        host.step(Phase::Enable, |host| host.enable(mode))?;
        for n in 1..=self.iterations {
            let pass = Pass {
                write_percent: self.write_percent,
                random: self.random,
                number: u64::from(n),
            };
            host.vcpus(Phase::Dirty(n), crew, pass)?;
            let bitmap = host.step(Phase::Get(n), |host| host.vm.dirty_log(host.slot))?;
            host.found(&bitmap);
            if self.manual_protect {
                let pages = host.vm.slot(host.slot)?.size / host.vm.page_size();
                host.step(Phase::Clear(n), |host| {
                    host.vm.clear_dirty_log(host.slot, 0, pages, &bitmap)
                })?;
            }
        }
        host.step(Phase::Disable, Host::disable)
    }

    /// What vCPU `index` does in one pass.
    fn pass<M: TableMemory, T: Maintenance>(
        &self,
        vcpu: &mut Vcpu<'_, M, T>,
        index: usize,
        region: Region,
        pass: &Pass,
        control: &Control,
    ) -> Result<(), WorkloadError> {
        let pages = region.bytes / region.page;
        let base = region.base.get() + index as u64 * region.bytes;
        let mut random = Random::new((self.seed.wrapping_add(index as u64)) ^ pass.number << 48);
        for n in 0..pages {
            if n % STRIDE == 0 && n != 0 {
                control.add(STRIDE);
            }
            if n % STRIDE == 0 && control.is_cancelled() {
                return Err(WorkloadError::Cancelled);
            }
            let page = if pass.random { random.below(pages) } else { n };
            let write = pass.write_percent == 100 || random.below(100) < u64::from(pass.write_percent);
            let access = if write { AccessKind::Write } else { AccessKind::Read };
            vcpu.access(Ipa::new(base + page * region.page), access)
                .map_err(|reason| WorkloadError::Access { vcpu: index, reason })?;
        }
        control.add((pages - 1) % STRIDE + 1);
        Ok(())
    }
}

/// The host's side of a run: measures steps, and leaves the log off.
struct Host<'v, M: TableMemory, T: Maintenance> {
    vm: &'v Vm<M, T>,
    slot: u32,
    phases: Vec<PhaseReport>,
    logging: bool,
}

impl<M: TableMemory, T: Maintenance> Host<'_, M, T> {
    /// Measures a step of the host.
    fn step<R>(&mut self, phase: Phase, work: impl FnOnce(&mut Self) -> Result<R, Error>) -> Result<R, WorkloadError> {
        let (before, since) = (self.vm.stage2().tlb().maintenance(), Instant::now());
        let result = work(self)?;
        self.note(phase, since.elapsed(), Counters::default(), before);
        Ok(result)
    }

    /// Measures a pass of the vCPUs.
    fn vcpus(&mut self, phase: Phase, crew: &Crew<'_, Pass, WorkloadError>, pass: Pass) -> Result<(), WorkloadError> {
        let before = self.vm.stage2().tlb().maintenance();
        let (elapsed, counters) = crew.pass(pass)?;
        self.note(phase, elapsed, counters, before);
        Ok(())
    }

    fn note(&mut self, phase: Phase, elapsed: Duration, counters: Counters, before: Option<Counts>) {
        let stage2 = self.vm.stage2();
        self.phases.push(PhaseReport {
            phase,
            elapsed,
            counters,
            maintenance: since(stage2.tlb().maintenance(), before),
            frames: stage2.memory().frames_in_use(),
            dirty_pages: None,
        });
    }

    fn found(&mut self, bitmap: &[u64]) {
        if let Some(last) = self.phases.last_mut() {
            last.dirty_pages = Some(bitmap.iter().map(|w| u64::from(w.count_ones())).sum());
        }
    }

    fn enable(&mut self, mode: DirtyLogMode) -> Result<(), Error> {
        self.vm.enable_dirty_log(self.slot, mode)?;
        self.logging = true;
        Ok(())
    }

    fn disable(&mut self) -> Result<(), Error> {
        self.logging = false;
        self.vm.disable_dirty_log(self.slot)
    }
}

impl<M: TableMemory, T: Maintenance> Drop for Host<'_, M, T> {
    fn drop(&mut self) {
        if self.logging {
            // Only after an error, which is reported; that the log is gone meanwhile is as good.
            let _ = self.disable();
        }
    }
}
