//! The two registers that put a stage-2 table in use: VTCR_EL2 says its shape, VTTBR_EL2 where its root is.

/// What every register value can do: be wrapped, be given back, be printed in hex.
macro_rules! register {
    ($name:ident) => {
        impl $name {
            /// Wraps a register value; nothing is checked.
            #[inline]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The register value.
            #[inline]
            pub const fn raw(self) -> u64 {
                self.0
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

mod vtcr;
mod vttbr;

pub(crate) use register;

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
