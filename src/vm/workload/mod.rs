//! Experiments on real threads: one thread a vCPU, against one VM.

mod control;
pub(crate) mod crew;
mod dirty_log;
mod latency;
mod migrate;
mod random;
pub(crate) mod report;

pub use control::Control;
pub use crew::NoThreads;
pub use dirty_log::{DirtyLog, WorkloadError};
pub use latency::{Latencies, LatencyReport};
pub use migrate::{LogKind, Migrate, MigrateReport, Round, Throughput};
pub(crate) use random::Random;
pub use report::{DirtyLogReport, Maintenance, Phase, PhaseReport};
