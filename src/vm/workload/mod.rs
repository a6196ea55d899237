//! Experiments on real threads: one thread a vCPU, against one VM.

mod access_tracking;
pub(crate) mod control;
pub(crate) mod crew;
mod demand_paging;
mod dirty_log;
mod error;
mod latency;
mod load;
mod log_kind;
mod memslots;
mod migrate;
mod page_table;
mod random;
pub(crate) mod report;
mod room;
mod steps;

pub use access_tracking::{AccessPhase, AccessTracking};
pub use control::Control;
pub use crew::NoThreads;
pub use demand_paging::{DemandPaging, DemandPagingReport, PagingPhase, Supply};
pub use dirty_log::DirtyLog;
pub use error::WorkloadError;
pub use latency::{Latencies, LatencyReport};
pub use load::Load;
pub use log_kind::LogKind;
pub use memslots::{Memslots, MemslotsReport, SlotPhase, SlotTest};
pub use migrate::{Migrate, MigrateReport, Round, Throughput};
pub use page_table::{PageTable, PageTableReport, Stage};
pub(crate) use random::Random;
pub use report::{DirtyLogReport, Expected, Maintenance, Phase, PhaseReport, RunReport};
