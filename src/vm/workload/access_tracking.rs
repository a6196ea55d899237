//! The phases of KVM's `access_tracking_perf_test`: what it costs to ask which memory a guest uses.

use core::fmt;

use super::control::{Control, Ended, completed};
use super::crew::{self, Crew};
use super::error::WorkloadError;
use super::load::{Load, Region, each};
use super::report::{Expected, Maintenance, RunReport};
use super::room::Filled;
use super::steps::{Steps, fresh};
use crate::arch::{AccessKind, Ipa};
use crate::memory::TableMemory;
use crate::sync::{Mutex, PoisonError};
use crate::table::Tlb;
use crate::vm::{Vcpu, Vm};

/// Every vCPU goes through its memory five times, and twice marks it idle page by page.
///
/// Marking takes the access flag from the leaf, with a TLBI, under the lock if the policy has one. The next access then takes
/// an access-flag fault on each leaf, or none where hardware sets the flag ([`Config::ha`](crate::table::Config::ha)).
///
/// ```
/// use s2pt::arch::{Ipa, Pa};
/// use s2pt::vm::workload::{AccessPhase, AccessTracking, Control, Load};
/// use s2pt::vm::{FaultClass, VmOptions, Slot};
///
/// let vm = VmOptions { ha: false, ..VmOptions::default() }.build(s2pt::table::Null)?;
/// vm.create_slot(Slot::linear(0, Ipa::new(0x4000_0000), 8 << 20, Pa::new(0x4000_0000)))?;
/// let load = Load { bytes_per_vcpu: 8 << 20, ..Load::default() };
/// let report = AccessTracking { load }.run(&vm, 0, &Control::new())?;
/// let idle = report.phases.iter().find(|phase| phase.phase == AccessPhase::WriteIdle).unwrap();
/// assert_eq!(idle.counters.faults(FaultClass::AccessFlag), 4); // one for each block of 2 MiB
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessTracking {
    /// vCPUs and their memory.
    pub load: Load,
}

/// A phase of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessPhase {
    /// Every page is written for the first time.
    Populate,
    /// Every page is written once more.
    Write,
    /// Every page is read.
    Read,
    /// Every page is marked idle; the first or the second time.
    MarkIdle(u8),
    /// Every page is written, after it was marked.
    WriteIdle,
    /// Every page is read, after it was marked.
    ReadIdle,
}

impl fmt::Display for AccessPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Populate => f.write_str("populate"),
            Self::Write => f.write_str("write"),
            Self::Read => f.write_str("read"),
            Self::MarkIdle(n) => write!(f, "mark idle {n}"),
            Self::WriteIdle => f.write_str("write idle"),
            Self::ReadIdle => f.write_str("read idle"),
        }
    }
}

/// The phases in their order, with what each vCPU does to each page.
const PHASES: [(AccessPhase, Pass); 7] = [
    (AccessPhase::Populate, Pass::Access(AccessKind::Write)),
    (AccessPhase::Write, Pass::Access(AccessKind::Write)),
    (AccessPhase::Read, Pass::Access(AccessKind::Read)),
    (AccessPhase::MarkIdle(1), Pass::MarkIdle),
    (AccessPhase::WriteIdle, Pass::Access(AccessKind::Write)),
    (AccessPhase::MarkIdle(2), Pass::MarkIdle),
    (AccessPhase::ReadIdle, Pass::Access(AccessKind::Read)),
];

#[derive(Clone, Copy, Debug)]
enum Pass {
    Access(AccessKind),
    MarkIdle,
}

impl AccessTracking {
    /// Runs it on the slots from `slot` on, one real thread a vCPU. A phase that marks says how many leaves were young.
    ///
    /// `control` shows the progress in pages. Through it the run can be ended early: the report has the phases up to there.
    ///
    /// # Errors
    /// [`WorkloadError`]; what was mapped stays mapped.
    ///
    /// # Panics
    /// If a vCPU thread panicked, with its message.
    pub fn run<M: TableMemory, T: Maintenance>(
        &self,
        vm: &Vm<M, T>,
        slot: u32,
        control: &Control,
    ) -> Result<RunReport<AccessPhase>, WorkloadError> {
        let region = self.check(vm, slot)?;
        let accesses = region.accesses();
        control.start(accesses * PHASES.len() as u64);
        let young = Mutex::new(0);
        let job = |vcpu: &mut Vcpu<'_, M, T>, index: usize, pass: &Pass| {
            go_through(vcpu, index, &region, *pass, control, &young)
        };
        let formula = Formula::new(vm, &region);
        let mut steps = Steps::new(vm, control);
        let host = |crew: &Crew<'_, Pass, Ended>| {
            for (phase, pass) in PHASES {
                steps.vcpus(phase, crew, pass, formula.and_then(|formula| formula.of(phase)))?;
                if matches!(pass, Pass::MarkIdle) {
                    let mut young = young.lock().unwrap_or_else(PoisonError::into_inner);
                    steps.found(core::mem::take(&mut *young));
                }
            }
            Ok(())
        };
        Ok(RunReport {
            complete: completed(crew::run(vm, self.load.vcpus, job, host))?,
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
        let region = self.load.check(vm, slot)?;
        Filled::tables(vm, &region, false).check()?;
        Ok(region)
    }
}

/// What vCPU `index` does in one phase.
fn go_through<M: TableMemory, T: Maintenance>(
    vcpu: &mut Vcpu<'_, M, T>,
    index: usize,
    region: &Region,
    pass: Pass,
    control: &Control,
    young: &Mutex<u64>,
) -> Result<(), Ended> {
    let (base, pages) = region.share(index);
    let mut found = 0;
    each(pages, control, |n| {
        let ipa = Ipa::new(base.get() + n * region.page);
        match pass {
            Pass::Access(access) => vcpu
                .access(ipa, access)
                .map(drop)
                .map_err(|reason| WorkloadError::Access { vcpu: index, reason }),
            Pass::MarkIdle => {
                found += u64::from(vcpu.vm().age_by(vcpu.handle(), ipa, region.page, true)?);
                Ok(())
            }
        }
    })?;
    *young.lock().unwrap_or_else(PoisonError::into_inner) += found;
    Ok(())
}

/// The faults of each phase.
#[derive(Clone, Copy, Debug)]
struct Formula {
    leaves: u64,
    /// Whether no two vCPUs go to the same leaf.
    apart: bool,
    hardware: bool,
}

impl Formula {
    fn new<M: TableMemory, T: Maintenance>(vm: &Vm<M, T>, region: &Region) -> Option<Self> {
        let leaves = fresh(vm, region)?;
        Some(Self {
            leaves: leaves.all(),
            apart: region.apart(leaves.largest),
            hardware: vm.stage2().config().ha,
        })
    }

    /// One fault a leaf, to map it and after it was marked; by two vCPUs perhaps, if both go to it.
    fn of(self, phase: AccessPhase) -> Option<Expected> {
        let none = Expected::default();
        match phase {
            AccessPhase::Populate => Some(Expected {
                translation: self.leaves,
                ..none
            }),
            AccessPhase::WriteIdle | AccessPhase::ReadIdle if !self.hardware => self.apart.then_some(Expected {
                access_flag: self.leaves,
                ..none
            }),
            _ => Some(none),
        }
    }
}
