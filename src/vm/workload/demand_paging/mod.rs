//! KVM's `demand_paging_test`: the guest's memory comes page by page, from a supplier who takes his time.

mod supplier;

use core::fmt;

use super::control::{Control, Ended, completed};
use super::crew::{self, Crew};
use super::error::{WorkloadError, within};
use super::load::{Load, Region, each};
use super::report::{Expected, Maintenance, RunReport};
use super::room::Filled;
use super::steps::{Steps, fresh};
use crate::arch::{AccessKind, Ipa, Pa};
use crate::memory::{Ram, TableMemory};
use crate::sync::{AtomicU64, Ordering, thread};
use crate::table::Tlb;
use crate::vm::fault::described;
use crate::vm::{Cost, Vcpu, Vm};
use supplier::{Close, Suppliers};

/// Who has the pages that the guest misses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Supply {
    /// The host's kernel, at once.
    #[default]
    Kernel,
    /// A supplier copies a page to where none is (userfaultfd's `MISSING`).
    Missing,
    /// A supplier lets a page be mapped that was filled before (`MINOR`).
    Minor,
}

impl Supply {
    /// All, with their names.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Kernel, "kernel"),
        (Self::Missing, "missing"),
        (Self::Minor, "minor"),
    ];
}

/// Options of the run. Names in brackets are those of `demand_paging_test`.
///
/// Every vCPU writes the first word of each of its pages once. Where the host has no page yet, its fault asks a supplier and
/// waits: a page of the host's size at a time, real bytes, copied or only mapped. Suppliers are threads; two may be asked for
/// the same page, and who finds that it is there already has succeeded. In the end every byte is looked at.
///
/// ```
/// use s2pt::arch::{Ipa, Pa};
/// use s2pt::vm::workload::{Control, DemandPaging, Load, Supply};
/// use s2pt::vm::{VmOptions, Slot};
///
/// let vm = VmOptions::default().build(s2pt::table::Null)?;
/// vm.create_slot(Slot::linear(0, Ipa::new(0x4000_0000), 8 << 20, Pa::new(0x4000_0000)))?;
/// let load = Load { vcpus: 2, bytes_per_vcpu: 4 << 20, ..Load::default() };
/// let run = DemandPaging { load, supply: Supply::Missing, ..DemandPaging::default() };
/// let report = run.run(&vm, 0, &Control::new())?;
/// assert_eq!((report.supplied, report.wrong_pages), (4, Some(0))); // pages of 2 MiB
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemandPaging {
    /// vCPUs and their memory, which is as large in the host: the bytes are real.
    pub load: Load,
    /// Who has the pages (-u).
    pub supply: Supply,
    /// One queue of requests for all vCPUs, not one for each (-a).
    pub one_queue: bool,
    /// Suppliers at each queue (-r).
    pub readers: u32,
    /// What a supplier takes before he gives a page (-d).
    pub delay: Cost,
}

impl Default for DemandPaging {
    /// One vCPU with 1 GiB, whose pages the kernel has; one supplier at each queue, and no delay.
    fn default() -> Self {
        Self {
            load: Load::default(),
            supply: Supply::Kernel,
            one_queue: false,
            readers: 1,
            delay: Cost::None,
        }
    }
}

/// A step of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PagingPhase {
    /// The pages to be mapped later are filled ([`Supply::Minor`] only).
    Prefault,
    /// The guest runs.
    Guest,
}

impl fmt::Display for PagingPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefault => "prefault",
            Self::Guest => "guest",
        })
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemandPagingReport {
    /// The steps.
    pub run: RunReport<PagingPhase>,
    /// Pages of one vCPU.
    pub pages: u64,
    /// Pages that all vCPUs wrote, each counting its own: so many times [`pages`](Self::pages), unless the end was not reached.
    pub written: u64,
    /// Pages of the host's size that suppliers gave.
    pub supplied: u64,
    /// How often one found that the page he was asked for was there already, or on its way.
    pub existed: u64,
    /// Pages of the guest whose bytes at the end are not what supplier and guest wrote; `None` if the end was not reached.
    pub wrong_pages: Option<u64>,
}

/// What the guest writes, and what a supplier's page is full of.
const WRITTEN: u64 = 0x0123_4567_89ab_cdef;
const FILLED: u64 = 0xabab_abab_abab_abab;

impl DemandPaging {
    /// Runs it on the slots from `slot` on, one real thread a vCPU and one a supplier.
    ///
    /// `control` shows the progress in pages. Through it the run can be ended early: the report has what there was up to there.
    ///
    /// # Errors
    /// [`WorkloadError`]; [`WorkloadError::Memory`] if the host has no room for the guest's bytes.
    ///
    /// # Panics
    /// If a vCPU thread panicked, with its message.
    pub fn run<M: TableMemory, T: Maintenance>(
        &self,
        vm: &Vm<M, T>,
        slot: u32,
        control: &Control,
    ) -> Result<DemandPagingReport, WorkloadError> {
        let region = self.check(vm, slot)?;
        let accesses = region.accesses();
        control.start(accesses);
        let ram = Ram::new(Pa::new(region.base.get()), region.bytes)
            .map_err(|_| WorkloadError::Memory { bytes: region.bytes })?;
        let queues = match self.supply {
            Supply::Kernel => 0,
            _ if self.one_queue => 1,
            _ => self.load.vcpus,
        };
        let suppliers = Suppliers::new(*self, &region, vm.largest_size(), queues, &ram);
        let expected = fresh(vm, &region).map(|leaves| Expected {
            translation: leaves.all(),
            ..Expected::default()
        });
        let written = AtomicU64::new(0);
        let job = |vcpu: &mut Vcpu<'_, M, T>, index: usize, (): &()| {
            let mut done = 0;
            let ended = write_all(vcpu, index, &region, &suppliers, &ram, control, &mut done);
            // Relaxed: read when the vCPUs have gone home.
            written.fetch_add(done, Ordering::Relaxed);
            ended
        };
        let mut steps = Steps::new(vm, control);
        let host = |crew: &Crew<'_, (), Ended>| {
            if self.supply == Supply::Minor {
                steps.host(PagingPhase::Prefault, |_| {
                    fill(&ram, &region);
                    Ok(())
                })?;
            }
            steps.vcpus(PagingPhase::Guest, crew, (), expected)
        };
        let ended = thread::scope(|scope| {
            // Whichever way this ends, the suppliers go home.
            let _close = Close(&suppliers);
            suppliers.start(scope, self.readers)?;
            crew::run(vm, self.load.vcpus, job, host)
        });
        let complete = completed(ended)?;
        let run = RunReport {
            complete,
            vcpus: self.load.vcpus,
            accesses,
            phases: steps.into_phases(),
        };
        let (supplied, existed) = suppliers.counts();
        let rest = if self.supply == Supply::Kernel { 0 } else { FILLED };
        Ok(DemandPagingReport {
            run,
            pages: region.share(0).1,
            written: written.into_inner(),
            supplied,
            existed,
            wrong_pages: complete.then(|| wrong_pages(&ram, &region, rest)),
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
        within("readers", u64::from(self.readers), 1, 64)?;
        let region = self.load.check(vm, slot)?;
        Filled::tables(vm, &region, false).and_guest(region.bytes).check()?;
        Ok(region)
    }
}

/// The guest's part.
fn write_all<M: TableMemory, T: Maintenance>(
    vcpu: &mut Vcpu<'_, M, T>,
    index: usize,
    region: &Region,
    suppliers: &Suppliers<'_>,
    ram: &Ram,
    control: &Control,
    written: &mut u64,
) -> Result<(), Ended> {
    let (base, pages) = region.share(index);
    let largest = vcpu.vm().largest_size();
    each(pages, control, |n| {
        let ipa = Ipa::new(base.get() + n * region.page);
        vcpu.access_with(ipa, AccessKind::Write, |slot, ipa, write| {
            suppliers.want(index, ipa);
            described(slot, ipa, largest, write)
        })
        .map_err(|reason| WorkloadError::Access { vcpu: index, reason })?;
        ram.write(Pa::new(ipa.get()), 8, WRITTEN);
        *written += 1;
        Ok(())
    })
}

/// The memory's 4 KiB pages, where the guest has them.
fn pages_of(region: &Region) -> impl Iterator<Item = Pa> + use<> {
    let (base, bytes) = (region.base.get(), region.bytes);
    (0..bytes / Ram::PAGE).map(move |n| Pa::new(base + n * Ram::PAGE))
}

fn fill(ram: &Ram, region: &Region) {
    pages_of(region).for_each(|page| ram.fill_page(page, FILLED));
}

/// How many pages of 4 KiB are not as they should be, with `rest` where the guest did not write.
fn wrong_pages(ram: &Ram, region: &Region, rest: u64) -> u64 {
    let wrong = |page: &Pa| {
        let first = page.get().is_multiple_of(region.page);
        (0..Ram::PAGE / 8).any(|n| {
            let wanted = if n == 0 && first { WRITTEN } else { rest };
            ram.read(Pa::new(page.get() + 8 * n), 8) != Some(wanted)
        })
    };
    pages_of(region).filter(wrong).count() as u64
}
