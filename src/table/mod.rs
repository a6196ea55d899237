//! The concurrent tree: one live stage-2 table that many threads change at once.
//!
//! [`Stage2`] owns the table. Work is done through a [`View`] of it: a [`Handle`] (any number of threads, each with its
//! own) or an [`Exclusive`] one (`&mut`, plain stores, frames freed at once). Both offer the same operations, compiled
//! from the same code. The protocol that lets them run beside each other without a lock stands in `entry.rs`; when
//! frames are freed, in `reclaim.rs`; how a range is walked and restarted, in `walk.rs`.
//!
//! What a range operation promises: each *entry* changes atomically, and an operation that returns an error has changed
//! no mapping. Two operations on overlapping ranges interleave page by page; each page sees them in some order.
//! Once a call that takes something away (unmap, protect, a replacing map) has returned, no CPU uses the old translation.

mod annotate;
mod attrs;
mod batch;
mod build;
mod cache;
mod claim;
mod collapse;
mod config;
mod descend;
mod dirty;
mod entry;
mod error;
mod frames;
mod install;
#[cfg(all(test, loom))]
mod loom_tests;
mod maintenance;
mod map;
mod plan;
mod pressure;
mod query;
mod raw;
mod reclaim;
mod rewrite;
mod semantics;
mod shared;
mod sinks;
mod split;
mod stage2;
mod stats;
mod stay;
mod tlb;
mod unlink;
mod unmap;
mod unmap_kvm;
mod view;
mod walk;
mod wanted;
mod way;

pub use crate::arch::{Mapping, Translation};
pub use attrs::Changed;
pub use config::Config;
pub use dirty::Clean;
#[cfg(all(feature = "std", not(loom)))]
pub(crate) use entry::hardware_update;
pub use error::Error;
pub use frames::FrameCache;
pub use map::{Existing, MapOptions, Mapped};
pub use pressure::ReclaimStats;
pub use query::{Leaves, Lookup};
pub use raw::Raw;
#[doc(hidden)]
pub use reclaim::Unlinked;
pub use reclaim::{Access, Alone, Local};
pub use semantics::{Semantics, WalkFlags};
#[doc(hidden)]
pub use shared::Core;
#[cfg(all(test, feature = "std", not(any(loom, shuttle))))]
pub(crate) use sinks::paid;
#[cfg(feature = "std")]
pub use sinks::{Cost, Counting, Counts, Record, Recording, Stall, StallKind};
pub use stage2::Stage2;
pub use stats::Stats;
pub use stay::Stay;
pub use tlb::{Event, Null, Tlb};
pub use view::{Exclusive, Handle, View};
