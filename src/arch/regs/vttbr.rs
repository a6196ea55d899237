//! VTTBR_EL2: where the root is, and whose it is.

use super::{Vtcr, bit, field};
use crate::arch::{Geometry, Pa};

const VMID_SHIFT: u32 = 48;

/// A VTTBR_EL2 value.
///
/// ```
/// use s2pt::arch::{Geometry, GeometryOptions, Pa, Vttbr};
/// let geometry = Geometry::new(GeometryOptions::default())?; // two root frames: 8 KiB aligned
/// let vttbr = Vttbr::build(7, Pa::new(0x4000_2000), false, &geometry)?;
/// assert_eq!(vttbr.raw(), 0x0007_0000_4000_2000);
/// assert_eq!((vttbr.vmid(), vttbr.baddr(&geometry)), (7, Pa::new(0x4000_2000)));
/// assert_eq!(
///     Vttbr::build(7, Pa::new(0x4000_1000), false, &geometry).unwrap_err().to_string(),
///     "root 0x40001000 is not aligned to 0x2000"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Vttbr(u64);

register!(Vttbr);

/// The rule that a VTTBR_EL2 breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VttbrError {
    /// The root is not aligned to its size in use (at least 64 bytes with 52-bit addresses).
    #[error("root {root} is not aligned to {required:#x}")]
    Alignment {
        /// The root.
        root: Pa,
        /// Bytes.
        required: u64,
    },
    /// The root is beyond the physical address size.
    #[error("root {root} is beyond the physical address limit {limit:#x}")]
    Address {
        /// The root.
        root: Pa,
        /// First address beyond.
        limit: u64,
    },
    /// The VMID needs more bits than VTCR_EL2.VS enables.
    #[error("VMID {vmid:#x} needs 16 bits, VTCR_EL2.VS = 0 enables 8 (limit 0xff)")]
    Vmid {
        /// The VMID.
        vmid: u16,
    },
}

impl Vttbr {
    /// Alignment that the architecture wants of a root, in bytes: the bytes of its entries in use, at least 64 where
    /// addresses have 52 bits. Whole frames, as this crate and KVM allocate them, satisfy it.
    pub const fn root_alignment(geometry: &Geometry) -> u64 {
        let in_use = geometry.entries(geometry.start_level()) as u64 * 8;
        if wide(geometry) && in_use < 64 { 64 } else { in_use }
    }

    /// The register for a root at `root`; `cnp` promises that all CPUs with this VMID use the same table.
    ///
    /// # Errors
    /// [`VttbrError`]: alignment, or beyond the physical address size.
    pub fn build(vmid: u16, root: Pa, cnp: bool, geometry: &Geometry) -> Result<Self, VttbrError> {
        let required = Self::root_alignment(geometry);
        if !root.is_aligned(required) {
            return Err(VttbrError::Alignment { root, required });
        }
        if root.get() >= geometry.pa_limit() {
            return Err(VttbrError::Address {
                root,
                limit: geometry.pa_limit(),
            });
        }
        let address = if wide(geometry) {
            root.get() & LOW_ADDRESS | field(root.get(), 48, 4) << 2
        } else {
            root.get()
        };
        Ok(Self((vmid as u64) << VMID_SHIFT | address | cnp as u64))
    }

    /// Address of the root. Bits below its alignment are dropped, as the hardware does.
    pub const fn baddr(self, geometry: &Geometry) -> Pa {
        let low = Pa::new(self.0 & LOW_ADDRESS)
            .align_down(Self::root_alignment(geometry))
            .get();
        Pa::new(if wide(geometry) {
            low | field(self.0, 2, 4) << 48
        } else {
            low
        })
    }

    /// The VMID field, 16 bits; with VTCR_EL2.VS = 0 the hardware looks at the lower 8 only.
    #[inline]
    pub const fn vmid(self) -> u16 {
        (self.0 >> VMID_SHIFT) as u16
    }

    /// Common not private: the table is shared by all CPUs with this VMID.
    #[inline]
    pub const fn cnp(self) -> bool {
        bit(self.0, 0)
    }

    /// Checks that the register goes with this VTCR_EL2: VMID width, alignment and reach of the root.
    ///
    /// # Errors
    /// The rule that failed.
    pub fn validate(self, vtcr: Vtcr, geometry: &Geometry) -> Result<(), VttbrError> {
        if vtcr.vmid_bits() == 8 && self.vmid() > 0xff {
            return Err(VttbrError::Vmid { vmid: self.vmid() });
        }
        let required = Self::root_alignment(geometry);
        let (low, high) = if wide(geometry) {
            (self.0 & LOW_ADDRESS & !0x3f, field(self.0, 2, 4) << 48)
        } else {
            (self.0 & LOW_ADDRESS & !1, 0)
        };
        let root = Pa::new(low | high);
        if !root.is_aligned(required) {
            return Err(VttbrError::Alignment { root, required });
        }
        if root.get() >= geometry.pa_limit() {
            return Err(VttbrError::Address {
                root,
                limit: geometry.pa_limit(),
            });
        }
        Ok(())
    }
}

/// BADDR with the CnP bit: bits 47:0.
const LOW_ADDRESS: u64 = (1 << 48) - 1;

/// With 52-bit physical addresses BADDR[5:2] holds address bits 51:48.
const fn wide(geometry: &Geometry) -> bool {
    geometry.pa_bits() == 52
}

#[cfg(test)]
mod tests;
