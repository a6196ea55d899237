//! What a migration measured.

use core::time::Duration;

use super::super::latency::{Latencies, LatencyReport};
use crate::vm::Counters;

/// One round of copying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Pages that were copied.
    pub pages: u64,
    /// How long that took, the bandwidth's limit counted in.
    pub sent: Duration,
    /// How long the harvest after it took.
    pub harvested: Duration,
    /// Pages that it found.
    pub found: u64,
}

/// What the guest got done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throughput {
    /// Accesses of all vCPUs.
    pub accesses: u64,
    /// In which time.
    pub time: Duration,
}

impl Throughput {
    /// Accesses a second; 0 if no time went by.
    pub fn per_second(&self) -> f64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 {
            self.accesses as f64 / seconds
        } else {
            0.0
        }
    }
}

/// A whole migration.
#[derive(Clone, Debug, Default)]
pub struct MigrateReport {
    /// Whether the migration came to its end. If not, it was cancelled, and all else is what there was up to there.
    pub complete: bool,
    /// The step in which it was cut short, as [`Control::step`](super::super::Control::step) names it; `None` if it was not.
    pub cut: Option<String>,
    /// The rounds that were done while the guest ran.
    pub rounds: Vec<Round>,
    /// Pages copied in all; beyond those of the slot they were copied again.
    pub pages_sent: u64,
    /// Of them while the guest stood.
    pub last_pages: u64,
    /// How long the guest stood.
    pub downtime: Duration,
    /// From the beginning of logging to the end of the copying.
    pub elapsed: Duration,
    /// How long switching the log on took.
    pub enabled: Duration,
    /// What the guest did before.
    pub before: Throughput,
    /// What it did while its memory was copied.
    pub during: Throughput,
    /// Bytes that differ at the end: writes that were lost. `None` if the migration did not come to its end: there is
    /// nothing to compare then.
    pub lost_bytes: Option<u64>,
    /// Reads of a vCPU that did not give what it wrote last.
    pub wrong_reads: u64,
    /// Faults, by kind and by outcome.
    pub counters: Counters,
    /// How long the faults took while the memory was copied.
    pub faults: Latencies,
    /// How long faults were held up by entries that peers held.
    pub held_up: LatencyReport,
    /// The longest time for which a change by the host held the lock.
    pub longest_hold: Duration,
    /// Rules of the architecture that the machine saw broken.
    pub violations: u64,
}
