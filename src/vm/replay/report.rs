//! What a replay did, and why it may not have been able to.

use core::time::Duration;

use super::event::EventError;
use crate::arch::{Ipa, Level, SyndromeError};
use crate::table::{Counts, Mapping, Stats};
use crate::vm::workload::NoThreads;
use crate::vm::{Counters, Error};

/// Our leaves at the moment of a recorded dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Row of the dump.
    pub row: usize,
    /// Which dump: column `ref` of the row.
    pub dump: i64,
    /// All leaves, ascending.
    pub leaves: Vec<Mapping>,
}

/// A fault whose syndrome names another level than ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelDifference {
    /// Row of the fault.
    pub row: usize,
    /// The faulting page.
    pub ipa: Ipa,
    /// Level in the syndrome.
    pub theirs: Level,
    /// Level at which our walk ends.
    pub ours: Level,
}

/// A fault that one of the two took for memory's business and the other did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitDifference {
    /// Row of the fault.
    pub row: usize,
    /// The faulting page.
    pub ipa: Ipa,
    /// Whether we exited to the device model (they did not), or the other way round.
    pub ours: bool,
}

/// What a replay did.
#[derive(Clone, Debug)]
pub struct ReplayReport {
    /// Whether all rows were done. If not, the replay was cancelled, and all else is what there was up to there.
    pub complete: bool,
    /// Wall time of the rows, without taking snapshots.
    pub elapsed: Duration,
    /// Threads that did the faults.
    pub threads: usize,
    /// Recorded faults done.
    pub faults: u64,
    /// Of them, those that exited to the device model.
    pub mmio: u64,
    /// Of them, those about which the recorded hypervisor had done nothing.
    pub skipped: u64,
    /// Rows without an output address, for which one was made up (only [`Sizes::Trace`](super::Sizes::Trace) uses it).
    pub no_pa: u64,
    /// All faults that were handled, by kind and by outcome: more than `faults` where an access needed several.
    pub counters: Counters,
    /// Maintenance issued, if the VM's sink counts it.
    pub maintenance: Option<Counts>,
    /// Faults whose level was compared ([`Order::Recorded`](super::Order::Recorded) only).
    pub levels_checked: u64,
    /// Faults whose syndrome names no level of stage 2: a stage-1 walk's.
    pub levels_skipped: u64,
    /// Where they differ.
    pub level_differences: Vec<LevelDifference>,
    /// Where we disagree about what is memory.
    pub exit_differences: Vec<ExitDifference>,
    /// Bytes that the host took back.
    pub taken_back: u64,
    /// Our leaves at each dump; none for [`Order::Free`](super::Order::Free).
    pub snapshots: Vec<Snapshot>,
    /// The table at the end.
    pub stats: Stats,
    /// Table frames in use at the end.
    pub frames: usize,
}

/// Why a replay ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A row does not say what it should.
    #[error("row {row}: {reason}")]
    Event {
        /// Which row.
        row: usize,
        /// What is wrong with it.
        reason: EventError,
    },
    /// A fault's syndrome is none.
    #[error("row {row}: {reason}")]
    Syndrome {
        /// Which row.
        row: usize,
        /// What is wrong with it.
        reason: SyndromeError,
    },
    /// The VM refused what a row asks.
    #[error("row {row}: {source}")]
    Vm {
        /// Which row.
        row: usize,
        /// Why.
        source: Error,
    },
    /// A fault did not come to an end.
    #[error("row {row}: the fault at {ipa} does not come to an end")]
    Stuck {
        /// Which row.
        row: usize,
        /// The faulting page.
        ipa: Ipa,
    },
    /// The VM has slots already; the recording brings its own.
    #[error("the VM has {slots} slots; a replay needs one without")]
    HasSlots {
        /// How many.
        slots: usize,
    },
    /// The recording does not say what the hypervisor did.
    #[error("row {row}: sizes are not recorded")]
    NoSizes {
        /// The first such row.
        row: usize,
    },
    /// There are not enough threads.
    #[error(transparent)]
    Threads(#[from] NoThreads),
}
