//! What the architecture says: addresses, geometry, descriptors, control registers, syndromes, maintenance.
//!
//! Pure functions over `Copy` values: no memory, no atomics, nothing of the rest of the crate. Everything is
//! re-exported here, so users write `s2pt::arch::Geometry`.
//!
//! Rules come from the Arm Architecture Reference Manual, chapter D8 (the AArch64 Virtual Memory System
//! Architecture) and the register descriptions of D24; where the behaviour is KVM's own choice, the text says so.

mod addr;
mod answer;
mod attrs;
mod descriptor;
mod explain;
mod format;
mod geometry;
mod level;
mod mapping;
mod regs;
mod syndrome;
mod tlbi;

pub use addr::{Ipa, Pa};
pub use answer::{El, HardwareUpdate, Translation};
pub use attrs::{Attrs, AttrsError, MemType, Prot, Shareability};
pub use descriptor::{Dialect, EntryKind, Pte};
pub use explain::{Field, explain_entry, explain_esr, explain_hpfar, explain_vtcr, explain_vttbr};
pub use format::{Format, FormatOptions};
pub use geometry::{BlockRule, Geometry, GeometryError, GeometryOptions};
pub use level::{Granule, Level};
pub use mapping::Mapping;
pub use regs::{Vtcr, VtcrError, VtcrFields, VtcrOptions, Vttbr, VttbrError};
pub use syndrome::{AccessKind, Esr, Fault, FaultKind, FaultStatus, Syndrome, SyndromeError};
pub use tlbi::{Barrier, CacheOp, Dsb, RangeOp, RangeOps, Scope, Tlbi, TlbiOp, TlbiOps, range_encoding};
