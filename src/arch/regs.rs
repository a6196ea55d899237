//! The two registers that put a stage-2 table in use: VTCR_EL2 says its shape, VTTBR_EL2 where its root is.

mod vtcr;
mod vttbr;

pub use vtcr::{Vtcr, VtcrError, VtcrFields, VtcrOptions};
pub use vttbr::{Vttbr, VttbrError};

/// Bits `low + width - 1 .. low` of a register value.
pub(crate) const fn field(raw: u64, low: u32, width: u32) -> u64 {
    raw >> low & ((1 << width) - 1)
}

/// One bit of a register value.
pub(crate) const fn bit(raw: u64, at: u32) -> bool {
    raw >> at & 1 != 0
}
