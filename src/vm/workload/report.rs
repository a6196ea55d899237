//! What a run measured.

use core::fmt;
use core::time::Duration;

use crate::sync::Arc;
use crate::table::{Counting, Counts, Null, Recording, Stall, Tlb};
use crate::vm::Counters;

/// A sink that can tell how much maintenance there was, or says that it cannot.
pub trait Maintenance: Tlb {
    /// The counts so far; `None` if this sink does not count.
    fn maintenance(&self) -> Option<Counts> {
        None
    }
}

impl Maintenance for Null {}
impl Maintenance for Stall {}
impl Maintenance for Recording {}

impl Maintenance for Counting {
    fn maintenance(&self) -> Option<Counts> {
        Some(self.counts())
    }
}

impl<T: Maintenance> Maintenance for &T {
    fn maintenance(&self) -> Option<Counts> {
        (**self).maintenance()
    }
}

impl<T: Maintenance> Maintenance for Arc<T> {
    fn maintenance(&self) -> Option<Counts> {
        (**self).maintenance()
    }
}

impl<A: Maintenance, B: Maintenance> Maintenance for (A, B) {
    fn maintenance(&self) -> Option<Counts> {
        self.0.maintenance().or_else(|| self.1.maintenance())
    }
}

/// A step of the dirty-log run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Every page is written for the first time.
    Populate,
    /// Logging is switched on.
    Enable,
    /// The vCPUs write; number of the iteration, from 1.
    Dirty(u32),
    /// The host gets the bitmap.
    Get(u32),
    /// The host clears it (manual protection only).
    Clear(u32),
    /// Logging is switched off.
    Disable,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Populate => f.write_str("populate"),
            Self::Enable => f.write_str("enable"),
            Self::Dirty(n) => write!(f, "dirty {n}"),
            Self::Get(n) => write!(f, "get {n}"),
            Self::Clear(n) => write!(f, "clear {n}"),
            Self::Disable => f.write_str("disable"),
        }
    }
}

/// What one step took and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseReport {
    /// Which step.
    pub phase: Phase,
    /// Wall time, until the last vCPU was done.
    pub elapsed: Duration,
    /// Faults of all vCPUs.
    pub counters: Counters,
    /// Maintenance issued, if the VM's sink counts it.
    pub maintenance: Option<Counts>,
    /// Table frames in use afterwards, root included, those that wait for walkers included.
    pub frames: usize,
    /// Bits set in the bitmap that was fetched ([`Phase::Get`] only).
    pub dirty_pages: Option<u64>,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyLogReport {
    /// vCPU threads.
    pub vcpus: usize,
    /// Accesses of one pass, all vCPUs together.
    pub accesses: u64,
    /// The steps in their order.
    pub phases: Vec<PhaseReport>,
}

impl DirtyLogReport {
    /// Wall time of all steps together.
    pub fn elapsed(&self) -> Duration {
        self.phases.iter().map(|p| p.elapsed).sum()
    }

    /// Wall time of the steps that `which` selects.
    pub fn elapsed_in(&self, which: impl Fn(Phase) -> bool) -> Duration {
        self.phases.iter().filter(|p| which(p.phase)).map(|p| p.elapsed).sum()
    }

    /// Faults of all steps together.
    pub fn counters(&self) -> Counters {
        self.phases.iter().map(|p| p.counters).sum()
    }
}

/// What was counted in between, field by field.
pub(crate) fn since(now: Option<Counts>, before: Option<Counts>) -> Option<Counts> {
    let (now, before) = (now?, before?);
    Some(Counts {
        stores: now.stores - before.stores,
        tlbi_ipa: now.tlbi_ipa - before.tlbi_ipa,
        tlbi_range: now.tlbi_range - before.tlbi_range,
        tlbi_local: now.tlbi_local - before.tlbi_local,
        tlbi_vmid: now.tlbi_vmid - before.tlbi_vmid,
        tlbi_stage1: now.tlbi_stage1 - before.tlbi_stage1,
        dsb: now.dsb - before.dsb,
        isb: now.isb - before.isb,
        cache_data: now.cache_data - before.cache_data,
        cache_instruction: now.cache_instruction - before.cache_instruction,
        allocated: now.allocated - before.allocated,
        retired: now.retired - before.retired,
        freed: now.freed - before.freed,
    })
}
