//! VTCR_EL2 as the register holds it, and the rules between its fields.

use crate::arch::{GeometryError, Granule, Level};

/// The fields of a VTCR_EL2, as they stand in the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VtcrFields {
    /// 64 minus the IPA size in bits.
    pub t0sz: u8,
    /// Start level, encoded; see [`Vtcr::start_level`](crate::arch::Vtcr::start_level).
    pub sl0: u8,
    /// Inner cacheability of walks.
    pub irgn0: u8,
    /// Outer cacheability of walks.
    pub orgn0: u8,
    /// Shareability of walks, and of leaves with DS.
    pub sh0: u8,
    /// Granule, encoded: 0 4K, 1 64K, 2 16K.
    pub tg0: u8,
    /// Physical address size, encoded.
    pub ps: u8,
    /// 16-bit VMIDs.
    pub vs: bool,
    /// Hardware access flag.
    pub ha: bool,
    /// Hardware dirty state.
    pub hd: bool,
    /// Descriptor bits 62:59 left to hardware (HWU62..HWU59).
    pub hwu: u8,
    /// Non-secure walk.
    pub nsw: bool,
    /// Non-secure output.
    pub nsa: bool,
    /// Bit 31, to be written as 1.
    pub res1: bool,
    /// LPA2 descriptors.
    pub ds: bool,
    /// Extends SL0 for 4K with DS.
    pub sl2: bool,
    /// AssuredOnly attribute in use.
    pub assured_only: bool,
    /// TopLevel1.
    pub tl1: bool,
    /// Permission indirection.
    pub s2pie: bool,
    /// Permission overlays.
    pub s2poe: bool,
    /// 128-bit descriptors.
    pub d128: bool,
    /// Guarded control stack checks.
    pub gcsh: bool,
    /// TopLevel0.
    pub tl0: bool,
    /// Hardware access flag in table entries.
    pub haft: bool,
    /// Hardware dirty state tracking structure.
    pub hdbss: bool,
    /// Bits that the architecture reserves as zero, in place.
    pub res0: u64,
}

/// The rule that a VTCR_EL2 breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VtcrError {
    /// TG0 = 3.
    #[error("TG0 = {tg0} is no granule")]
    Granule {
        /// The field.
        tg0: u8,
    },
    /// PS = 7.
    #[error("PS = {ps} is no physical address size (limit 6)")]
    PaSize {
        /// The field.
        ps: u8,
    },
    /// The IPA size is more than any table can have.
    #[error("T0SZ = {t0sz} is an IPA size of {bits} bits (limit 52)")]
    IpaSize {
        /// The field.
        t0sz: u8,
        /// 64 - T0SZ.
        bits: u8,
    },
    /// SL2:SL0 is reserved for this granule.
    #[error("SL0 = {sl0} with SL2 = {} is reserved for the {granule} granule{}", *.sl2 as u8, without_ds(*.ds))]
    StartLevel {
        /// The field.
        sl0: u8,
        /// The field.
        sl2: bool,
        /// From TG0.
        granule: Granule,
        /// The field.
        ds: bool,
    },
    /// DS = 1 with 64K, where it is RES0.
    #[error("DS = 1 with the 64KiB granule, which has no LPA2 format")]
    DsGranule,
    /// A feature that changes the meaning of descriptors beyond what this crate reads.
    #[error("{name} = 1: descriptors of that format are not supported")]
    Unsupported {
        /// Name of the field.
        name: &'static str,
    },
    /// The fields are right by themselves, but no table has this shape: T0SZ, SL0, PS and DS together.
    #[error("T0SZ = {t0sz}, SL0 = {sl0}: {rule}")]
    Shape {
        /// The field.
        t0sz: u8,
        /// The field.
        sl0: u8,
        /// What is wrong.
        rule: GeometryError,
    },
    /// HD without HA.
    #[error("HD = 1 needs HA = 1")]
    DirtyWithoutAccess,
    /// Bit 31 is 0.
    #[error("bit 31 (RES1) is 0")]
    Res1,
    /// A reserved bit is 1.
    #[error("reserved bits {bits:#x} are set")]
    Res0 {
        /// The bits, in place.
        bits: u64,
    },
    /// KVM's own walker refuses it for a nested guest, though the architecture may allow it.
    #[error("KVM's nested walk wants an IPA size of {min}..={max} bits for start level {level}, {granule}, not {bits}")]
    Nested {
        /// Start level.
        level: Level,
        /// From TG0.
        granule: Granule,
        /// IPA size.
        bits: u8,
        /// Smallest that it takes.
        min: u8,
        /// Largest that it takes.
        max: u8,
    },
}

fn without_ds(ds: bool) -> &'static str {
    if ds { "" } else { " without DS" }
}
