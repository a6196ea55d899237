//! Experiments on real threads: one thread a vCPU, against one VM.

mod control;
pub(crate) mod crew;
mod dirty_log;
mod random;
pub(crate) mod report;

pub use control::Control;
pub use dirty_log::{DirtyLog, WorkloadError};
pub(crate) use random::Random;
pub use report::{DirtyLogReport, Maintenance, Phase, PhaseReport};
