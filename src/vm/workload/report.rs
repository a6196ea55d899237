//! What a run measured.

use core::fmt;
use core::time::Duration;

use crate::sync::Arc;
use crate::table::{Counting, Counts, Null, Recording, Stall, Tlb};
use crate::vm::{Counters, FaultClass};

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

/// Faults that a step should take, by what the guest lacked: those that change the table, tries in vain not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Nothing mapped.
    pub translation: u64,
    /// Mapped, but not writable.
    pub permission: u64,
    /// The access flag was clear.
    pub access_flag: u64,
}

impl Expected {
    /// What `counters` say there was.
    pub fn of(counters: &Counters) -> Self {
        use FaultClass::*;
        let handled = |classes: &[FaultClass]| classes.iter().map(|&class| counters.handled_faults(class)).sum();
        Self {
            translation: handled(&[TranslationRead, TranslationWrite, TranslationExecute]),
            permission: handled(&[PermissionRead, PermissionWrite, PermissionExecute]),
            access_flag: handled(&[AccessFlag]),
        }
    }
}

/// What one step took and did. `P` names a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseReport<P = Phase> {
    /// Which step.
    pub phase: P,
    /// Whether it came to its end. The last step of a run that was cancelled did not, even if it had not begun yet: what it
    /// counted is there.
    pub complete: bool,
    /// Wall time, until the last vCPU was done.
    pub elapsed: Duration,
    /// Faults of all vCPUs.
    pub counters: Counters,
    /// Maintenance issued, if the VM's sink counts it.
    pub maintenance: Option<Counts>,
    /// Table frames in use afterwards, root included, those that wait for walkers included.
    pub frames: usize,
    /// What a step that looks for something found: dirty pages ([`Phase::Get`]), young leaves.
    pub found: Option<u64>,
    /// The faults that it should take by the workload's formula, if there is one for these options: see `docs/dirty-log.md`.
    /// Nobody else may have used the VM meanwhile.
    pub expected: Option<Expected>,
}

impl<P> PhaseReport<P> {
    /// Whether the faults were those of the formula; `None` without one.
    pub fn as_expected(&self) -> Option<bool> {
        self.expected.map(|expected| expected == Expected::of(&self.counters))
    }
}

/// A whole run, step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReport<P> {
    /// Whether the run came to its end. If not, it was cancelled: the steps are those up to there, the one that was cut short
    /// being the last.
    pub complete: bool,
    /// vCPU threads.
    pub vcpus: usize,
    /// Accesses of one pass, all vCPUs together.
    pub accesses: u64,
    /// The steps in their order.
    pub phases: Vec<PhaseReport<P>>,
}

/// A dirty-log run.
pub type DirtyLogReport = RunReport<Phase>;

impl<P: Copy> RunReport<P> {
    /// Wall time of all steps together.
    pub fn elapsed(&self) -> Duration {
        self.phases.iter().map(|p| p.elapsed).sum()
    }

    /// Wall time of the steps that `which` selects.
    pub fn elapsed_in(&self, which: impl Fn(P) -> bool) -> Duration {
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
