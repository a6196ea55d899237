//! The stages of KVM's `kvm_page_table_test`: blocks are made, broken up under logging, and made again, by all vCPUs on the
//! same memory.

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
use crate::table::Tlb;
use crate::vm::{DirtyLogMode, Vcpu, Vm};

/// Options of the run.
///
/// All vCPUs go through all of the memory: those with even numbers write, those with odd ones read, unless it says otherwise.
/// *Create*: the first bytes of each page of the host. Then the slot is logged. *Update*: every page is written; where the
/// host's pages are blocks, the first page of each is written, which breaks it, and its second half is read. Then logging
/// ends. *Adjust*: every page, and blocks take the place of the tables.
///
/// With KVM's semantics all vCPUs read in the last stage, as in the test: what the broken blocks forgot faults. Our split
/// forgets nothing, so reads fault nowhere; there it is the writes, by those with even numbers, that make blocks again.
///
/// ```
/// use s2pt::arch::{Ipa, Pa};
/// use s2pt::vm::workload::{Control, Load, PageTable};
/// use s2pt::vm::{VmOptions, Slot};
///
/// let vm = VmOptions::default().build(s2pt::table::Null)?;
/// vm.create_slot(Slot::linear(0, Ipa::new(0x4000_0000), 8 << 20, Pa::new(0x4000_0000)))?;
/// let load = Load { vcpus: 2, bytes_per_vcpu: 8 << 20, ..Load::default() };
/// let report = PageTable { load }.run(&vm, 0, &Control::new())?;
/// assert_eq!((report.blocks, report.pages), (4, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageTable {
    /// The vCPUs, and the memory of each, which is that of all.
    pub load: Load,
}

/// A stage of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Mappings are made.
    Create,
    /// Logging is switched on.
    Log,
    /// Mappings change under logging.
    Update,
    /// Logging is switched off.
    EndLog,
    /// Blocks are made again.
    Adjust,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Log => "log",
            Self::Update => "update",
            Self::EndLog => "end log",
            Self::Adjust => "adjust",
        })
    }
}

/// What was measured, and what the table is in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageTableReport {
    /// The stages.
    pub run: RunReport<Stage>,
    /// Leaves of the host's page size at the end.
    pub blocks: u64,
    /// Smaller ones: none unless somebody else was at work.
    pub pages: u64,
}

/// The memory in pages of the host and of the guest.
#[derive(Clone, Copy, Debug)]
struct Shape {
    base: Ipa,
    page: u64,
    /// Pages of the host, and in each so many of the guest.
    large: u64,
    each: u64,
    /// Whether the last stage reads alone.
    reads_adjust: bool,
}

impl PageTable {
    /// Runs it on the slots from `slot` on, one real thread a vCPU, and leaves their log off.
    ///
    /// `control` shows the progress in accesses. Through it the run can be ended early: the report has the stages up to there.
    ///
    /// # Errors
    /// [`WorkloadError`]: the memory is whole pages of the host, and mapped so; the machine has room for it. The log is off then
    /// too.
    ///
    /// # Panics
    /// If a vCPU thread panicked, with its message.
    pub fn run<M: TableMemory, T: Maintenance>(
        &self,
        vm: &Vm<M, T>,
        slot: u32,
        control: &Control,
    ) -> Result<PageTableReport, WorkloadError> {
        let (region, shape) = self.check(vm, slot)?;
        let formula = fresh(vm, &region).is_some();
        let vcpus = self.load.vcpus;
        let accesses = shape.accesses();
        control.start(accesses * vcpus as u64);
        let job =
            |vcpu: &mut Vcpu<'_, M, T>, index: usize, stage: &Stage| shape.go_through(vcpu, index, *stage, control);
        let expected = |stage| formula.then(|| shape.expected(stage, vcpus, vm.kvm())).flatten();
        let mut steps = Steps::new(vm, control);
        let mut logged = Logged {
            vm,
            region: &region,
            on: 0,
        };
        let host = |crew: &Crew<'_, Stage, Ended>| {
            steps.vcpus(Stage::Create, crew, Stage::Create, expected(Stage::Create))?;
            steps.host(Stage::Log, |_| logged.enable())?;
            steps.vcpus(Stage::Update, crew, Stage::Update, expected(Stage::Update))?;
            steps.host(Stage::EndLog, |_| logged.disable())?;
            steps.vcpus(Stage::Adjust, crew, Stage::Adjust, expected(Stage::Adjust))
        };
        let complete = completed(crew::run(vm, vcpus, job, host))?;
        logged.disable()?;
        let run = RunReport {
            complete,
            vcpus,
            accesses: accesses * vcpus as u64,
            phases: steps.into_phases(),
        };
        let (mut blocks, mut pages) = (0, 0);
        for leaf in vm
            .stage2()
            .handle()
            .leaves(region.base, region.bytes)
            .map_err(crate::vm::Error::from)?
        {
            let count = if leaf.size == vm.largest_size() {
                &mut blocks
            } else {
                &mut pages
            };
            *count += 1;
        }
        Ok(PageTableReport { run, blocks, pages })
    }

    /// Refuses what [`run`](Self::run) would refuse before it starts.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn validate<M: TableMemory, T: Tlb>(&self, vm: &Vm<M, T>, slot: u32) -> Result<(), WorkloadError> {
        self.check(vm, slot).map(drop)
    }

    fn check<M: TableMemory, T: Tlb>(&self, vm: &Vm<M, T>, slot: u32) -> Result<(Region, Shape), WorkloadError> {
        self.load.validate()?;
        let region = Load { vcpus: 1, ..self.load }.check(vm, slot)?;
        let size = vm.largest_size();
        if !region.bytes.is_multiple_of(size) {
            return Err(WorkloadError::Alignment {
                value: region.bytes,
                required: size,
            });
        }
        let (large, each) = (region.bytes / size, size / region.page);
        // Before the leaves are counted, one by one. A block that is broken takes a table at least; with KVM's semantics the
        // reads of its second half find nothing then, and map it page by page.
        let entries = match each {
            1 => 1,
            _ if vm.kvm() => (each / 2).max(region.page / 8),
            _ => region.page / 8,
        };
        let logged = region.slots.iter().map(|slot| slot.size / region.page).sum();
        Filled::pages(large.saturating_mul(entries))
            .and_bitmaps(logged, 1)
            .check()?;
        if region.leaves(vm).is_none_or(|leaves| leaves.all() != large) {
            return Err(WorkloadError::NoBlocks { slot, size });
        }
        let shape = Shape {
            base: region.base,
            page: region.page,
            large,
            each,
            reads_adjust: vm.kvm(),
        };
        Ok((region, shape))
    }
}

impl Shape {
    const fn is_huge(self) -> bool {
        self.each > 1
    }

    /// Accesses of one vCPU in all stages.
    const fn accesses(self) -> u64 {
        let update = if self.is_huge() { 1 + self.each / 2 } else { self.each };
        self.large * (1 + update + self.each)
    }

    /// What a vCPU does in one stage.
    fn go_through<M: TableMemory, T: Maintenance>(
        self,
        vcpu: &mut Vcpu<'_, M, T>,
        index: usize,
        stage: Stage,
        control: &Control,
    ) -> Result<(), Ended> {
        let own = if index.is_multiple_of(2) {
            AccessKind::Write
        } else {
            AccessKind::Read
        };
        let mut access = |page: u64, access| {
            vcpu.access(Ipa::new(self.base.get() + page * self.page), access)
                .map(drop)
                .map_err(|reason| WorkloadError::Access { vcpu: index, reason })
        };
        let (each_page, half) = (self.each, self.each / 2);
        match stage {
            Stage::Create => each(self.large, control, |n| access(n * each_page, own)),
            Stage::Update if self.is_huge() => each(self.large * (1 + half), control, |n| {
                let (large, part) = (n / (1 + half), n % (1 + half));
                match part.checked_sub(1) {
                    None => access(large * each_page, AccessKind::Write),
                    Some(part) => access(large * each_page + half + part, AccessKind::Read),
                }
            }),
            Stage::Update => each(self.large, control, |n| access(n, AccessKind::Write)),
            Stage::Adjust => {
                let adjust = if self.reads_adjust { AccessKind::Read } else { own };
                each(self.large * each_page, control, |n| access(n, adjust))
            }
            Stage::Log | Stage::EndLog => Ok(()),
        }
    }

    /// The faults of a stage: of the first whoever takes part, of the others by one vCPU. Several may see a block whole that
    /// one of them breaks.
    fn expected(self, stage: Stage, vcpus: usize, kvm: bool) -> Option<Expected> {
        let large = self.large;
        let of = |translation, permission| Expected {
            translation,
            permission,
            access_flag: 0,
        };
        match stage {
            Stage::Create => Some(of(large, 0)),
            _ if vcpus > 1 => None,
            Stage::Update if kvm && self.is_huge() => Some(of(large * (self.each / 2), large)),
            Stage::Update => Some(of(0, large)),
            Stage::Adjust if !self.is_huge() => Some(of(0, 0)),
            Stage::Adjust if kvm => Some(of(large, 0)),
            Stage::Adjust => Some(of(0, large)),
            Stage::Log | Stage::EndLog => None,
        }
    }
}

/// The log of the slots, off again whatever ends the run.
struct Logged<'v, M: TableMemory, T: Tlb> {
    vm: &'v Vm<M, T>,
    region: &'v Region,
    on: usize,
}

impl<M: TableMemory, T: Tlb> Logged<'_, M, T> {
    fn enable(&mut self) -> Result<(), crate::vm::Error> {
        for slot in &self.region.slots {
            self.vm.enable_dirty_log(slot.id, DirtyLogMode::Auto)?;
            self.on += 1;
        }
        Ok(())
    }

    fn disable(&mut self) -> Result<(), crate::vm::Error> {
        while let Some(last) = self.on.checked_sub(1) {
            self.on = last;
            self.vm.disable_dirty_log(self.region.slots[last].id)?;
        }
        Ok(())
    }
}

impl<M: TableMemory, T: Tlb> Drop for Logged<'_, M, T> {
    fn drop(&mut self) {
        // Something is on only after an error, which is reported.
        while self.on > 0 {
            let _ = self.disable();
        }
    }
}
