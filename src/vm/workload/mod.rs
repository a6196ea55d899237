//! Experiments on real threads: one thread a vCPU, against one VM.

pub(crate) mod control;
pub(crate) mod crew;
mod dirty_log;
mod error;
mod latency;
mod load;
mod log_kind;
mod migrate;
mod random;
pub(crate) mod report;
mod steps;

pub use control::Control;
pub use crew::NoThreads;
pub use dirty_log::DirtyLog;
pub use error::WorkloadError;
pub use latency::{Latencies, LatencyReport};
pub use load::Load;
pub use log_kind::LogKind;
pub use migrate::{Migrate, MigrateReport, Round, Throughput};
pub(crate) use random::Random;
pub use report::{DirtyLogReport, Expected, Maintenance, Phase, PhaseReport, RunReport};
