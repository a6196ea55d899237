//! Leaves and tables in one table's format: where address bits lie, what MemAttr and XN mean.
//!
//! Three layouts of the output address exist. Plain: bits 47 down. LPA2 (4K and 16K): bits 49 down, and 51:50 in
//! descriptor bits 9:8, which otherwise hold the shareability. 64K with 52-bit addresses: bits 47 down, and 51:48 in
//! descriptor bits 15:12. All three are one mask, one shift out and one shift in, so no accessor branches.

use super::{Attrs, AttrsError, Geometry, Granule, Level, MemType, Pa, Prot, Pte, Shareability};

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const MEMATTR_SHIFT: u32 = 2;
const SH_SHIFT: u32 = 8;
const XN_SHIFT: u32 = 53;
const SOFTWARE_SHIFT: u32 = 55;

/// XN[1:0] (descriptor bits 54:53) by PX | UX, two bits each: none -> 10, PX -> 11, UX -> 01, both -> 00.
const XN_BY_PROT: u8 = 0b00_01_11_10;
/// The same without XNX, where bit 53 is not used: half a permission grants nothing.
const XN_BY_PROT_WITHOUT_XNX: u8 = 0b00_10_10_10;
/// PX | UX by XN[1:0], two bits each: 00 -> both, 01 -> UX, 10 -> none, 11 -> PX.
const PROT_BY_XN: u8 = 0b01_00_10_11;

/// Features that decide how a leaf is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FormatOptions {
    /// Forced write-back in use (HCR_EL2.FWB): MemAttr has the meanings of FEAT_S2FWB.
    pub fwb: bool,
    /// FEAT_XNX: two execute-never bits, EL1 and EL0 apart.
    pub xnx: bool,
}

/// The descriptor format of one table.
///
/// ```
/// use s2pt::arch::{Attrs, Format, FormatOptions, Geometry, GeometryOptions, Level, Pa, Prot};
/// let format = Format::new(&Geometry::new(GeometryOptions::default())?, FormatOptions::default());
/// let block = format.leaf(Level::L2, Pa::new(0x4000_0000), &Attrs::new(Prot::RW))?;
/// assert_eq!(block.raw(), 0x0040_0000_4000_07fd);
/// assert_eq!(format.output(block, Level::L2), Pa::new(0x4000_0000));
/// assert_eq!(format.attrs(block), Attrs::new(Prot::RW));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    // Address bits in their own place, by Level::slot(); eight long so that a masked index needs no bounds check.
    direct: [u64; 8],
    // The upper address bits that are moved down: `(pa >> high_pa) & high_mask` lies at `high_at`. Mask 0: none.
    high_mask: u64,
    high_at: u8,
    high_pa: u8,
    xn_mask: u8,
    xn_by_prot: u8,
    fwb: bool,
    lpa2: bool,
}

impl Format {
    /// Access flag.
    pub const AF_BIT: u64 = 1 << 10;
    /// Dirty bit modifier.
    pub const DBM_BIT: u64 = 1 << 51;
    /// Contiguous hint.
    pub const CONTIGUOUS_BIT: u64 = 1 << 52;
    /// S2AP: read allowed.
    pub const READ_BIT: u64 = 1 << 6;
    /// S2AP: write allowed.
    pub const WRITE_BIT: u64 = 1 << 7;
    /// SW3..SW0.
    pub const SOFTWARE_MASK: u64 = 0xf << SOFTWARE_SHIFT;
    /// MemAttr.
    pub const MEMATTR_MASK: u64 = 0xf << MEMATTR_SHIFT;

    /// The format of tables with this geometry.
    pub fn new(geometry: &Geometry, options: FormatOptions) -> Self {
        let lpa2 = geometry.lpa2();
        let wide64 = geometry.granule() == Granule::K64 && geometry.pa_bits() == 52;
        let top = if lpa2 { 50 } else { 48 };
        let mut direct = [0; 8];
        for level in Level::ALL {
            let low = seeded!(BlockStray, geometry.shift(Level::L3), geometry.shift(level)).min(top);
            direct[level.slot()] = bits(
                seeded!(AddressTop, top - 1, top),
                seeded!(AddressLow, low + u32::from(level.is_last()), low),
            );
        }
        let (high_mask, high_at, high_pa) = match (lpa2, wide64) {
            (true, _) => (0b11, seeded!(Lpa2HighAt, 9, 8), seeded!(Lpa2HighTo, 49, 50)),
            (_, true) => (seeded!(Wide64Mask, 0b0111, 0b1111), 12, 48),
            _ => (0, 0, 0),
        };
        let (xn_mask, xn_by_prot) = if seeded!(XnxIgnored, false, options.xnx) {
            (0b11, seeded!(EncodeExecute, 0b00_11_01_10, XN_BY_PROT))
        } else {
            (0b10, XN_BY_PROT_WITHOUT_XNX)
        };
        Self {
            direct,
            high_mask,
            high_at,
            high_pa,
            xn_mask,
            xn_by_prot,
            fwb: seeded!(FwbIgnored, false, options.fwb),
            lpa2,
        }
    }

    /// Whether MemAttr has the forced write-back meanings.
    #[inline]
    pub const fn fwb(&self) -> bool {
        self.fwb
    }

    /// Whether EL1 and EL0 execution are told apart.
    #[inline]
    pub const fn xnx(&self) -> bool {
        self.xn_mask == 0b11
    }

    /// All bits of a leaf at `level` but its output address; valid and type bits included.
    ///
    /// # Errors
    /// [`AttrsError`] where the format cannot say it, or where it asks to execute device or non-cacheable memory.
    #[inline]
    pub fn attr_bits(&self, level: Level, attrs: &Attrs) -> Result<u64, AttrsError> {
        self.check_prot(attrs.prot, attrs.memtype)?;
        let no_type = AttrsError::MemType {
            memtype: attrs.memtype,
            fwb: self.fwb,
        };
        let memattr = attrs.memtype.encode(self.fwb).ok_or(no_type)?;
        if attrs.software > 0xf {
            return Err(AttrsError::Software { value: attrs.software });
        }
        let shareability = attrs.shareability;
        if shareability == Shareability::Reserved || (self.lpa2 && shareability != Shareability::Inner) {
            return Err(AttrsError::Shareability {
                shareability,
                lpa2: self.lpa2,
            });
        }
        let sh = if self.lpa2 {
            0
        } else {
            (shareability as u64) << SH_SHIFT
        };
        Ok(VALID
            | (seeded!(EncodePage, false, level.is_last()) as u64) << 1
            | u64::from(memattr) << seeded!(EncodeMemAttr, MEMATTR_SHIFT + 1, MEMATTR_SHIFT)
            | self.prot_bits(seeded!(EncodeAccess, exchanged(attrs.prot), attrs.prot))
            | sh
            | flag(attrs.af, seeded!(EncodeAf, Self::AF_BIT << 1, Self::AF_BIT))
            | flag(attrs.dbm, Self::DBM_BIT)
            | flag(attrs.contiguous, Self::CONTIGUOUS_BIT)
            | u64::from(attrs.software) << SOFTWARE_SHIFT)
    }

    /// Whether a leaf of this memory type may have these permissions in this format.
    ///
    /// # Errors
    /// Half an execute permission without XNX, execute on device or non-cacheable memory, unknown bits.
    #[inline]
    pub fn check_prot(&self, prot: Prot, memtype: MemType) -> Result<(), AttrsError> {
        if prot.bits() > Prot::all().bits() {
            return Err(AttrsError::Prot { bits: prot.bits() });
        }
        let execute = prot & Prot::X;
        if !execute.is_empty() && !memtype.may_execute() {
            return Err(AttrsError::Execute { prot, memtype });
        }
        if !self.xnx() && execute != Prot::X && !execute.is_empty() {
            return Err(AttrsError::HalfExecute { prot });
        }
        Ok(())
    }

    /// The descriptor bits of a page-aligned output or table address.
    #[inline]
    pub const fn output_bits(&self, pa: Pa) -> u64 {
        pa.get() & self.direct[Level::L3.slot()] | (pa.get() >> self.high_pa & self.high_mask) << self.high_at
    }

    /// The leaf at `level` that maps to `pa`, which must be aligned to the level's size (checked in debug builds).
    ///
    /// # Errors
    /// As [`Format::attr_bits`].
    pub fn leaf(&self, level: Level, pa: Pa, attrs: &Attrs) -> Result<Pte, AttrsError> {
        let leaf = Pte::from_raw(self.attr_bits(level, attrs)? | self.output_bits(pa));
        debug_assert_eq!(
            self.output(leaf, level),
            pa,
            "output address does not fit the level or the format"
        );
        Ok(leaf)
    }

    /// The entry that points to the table at `pa`.
    #[inline]
    pub const fn table(&self, pa: Pa) -> Pte {
        Pte::from_raw(self.output_bits(pa) | VALID | TABLE_OR_PAGE)
    }

    /// Output address of a leaf at `level`. Address bits below the level's size are ignored, as most hardware does.
    #[inline]
    pub const fn output(&self, leaf: Pte, level: Level) -> Pa {
        Pa::new(leaf.raw() & self.direct[level.slot()] | self.high_bits(leaf))
    }

    /// Address of the table that a table entry points to.
    #[inline]
    pub const fn next_table(&self, table: Pte) -> Pa {
        self.output(table, Level::L3)
    }

    /// Everything but the address of a leaf. Decoding never fails; what a foreign leaf says is reported as it is.
    pub const fn attrs(&self, leaf: Pte) -> Attrs {
        let raw = leaf.raw();
        let shareability = if self.lpa2 {
            Shareability::Inner
        } else {
            Shareability::decode((raw >> SH_SHIFT) as u8)
        };
        Attrs {
            prot: self.prot(leaf),
            memtype: self.memtype(leaf),
            shareability,
            af: raw & Self::AF_BIT != 0,
            dbm: raw & Self::DBM_BIT != 0,
            contiguous: raw & Self::CONTIGUOUS_BIT != 0,
            software: (raw >> SOFTWARE_SHIFT) as u8 & 0xf,
        }
    }

    /// Permissions of a leaf.
    #[inline]
    pub const fn prot(&self, leaf: Pte) -> Prot {
        let raw = leaf.raw();
        let xn = (raw >> XN_SHIFT) as u8 & self.xn_mask;
        let execute = PROT_BY_XN >> (2 * xn) & 0b11;
        // S2AP[0] (bit 6) is R, S2AP[1] (bit 7) is W.
        Prot::from_bits_truncate((raw >> 3) as u8 & 8 | (raw >> 5) as u8 & 4 | execute)
    }

    /// Memory type of a leaf.
    #[inline]
    pub const fn memtype(&self, leaf: Pte) -> MemType {
        MemType::decode((leaf.raw() >> MEMATTR_SHIFT) as u8, self.fwb)
    }

    /// Access flag of a leaf.
    #[inline]
    pub const fn af(&self, leaf: Pte) -> bool {
        leaf.raw() & Self::AF_BIT != 0
    }

    /// The descriptor bits that hold permissions: S2AP, and one or two XN bits.
    #[inline]
    pub const fn perm_mask(&self) -> u64 {
        Self::READ_BIT | Self::WRITE_BIT | (self.xn_mask as u64) << XN_SHIFT
    }

    /// The [`perm_mask`](Self::perm_mask) bits that grant exactly `prot`.
    ///
    /// Half an execute permission without XNX grants no execution; [`Format::check_prot`] refuses it.
    #[inline]
    pub const fn prot_bits(&self, prot: Prot) -> u64 {
        let p = prot.bits();
        let xn = self.xn_by_prot >> (2 * (p & 3)) & 0b11;
        ((p & 8) as u64) << 3 | ((p & 4) as u64) << 5 | (xn as u64) << XN_SHIFT
    }

    /// All descriptor bits that hold a page-aligned address.
    #[inline]
    pub const fn output_mask(&self) -> u64 {
        self.direct[Level::L3.slot()] | self.high_mask << self.high_at
    }

    /// A leaf of level `from` as one of level `to`: only the block / page bit changes, the address must fit already.
    #[inline]
    pub const fn relevel(&self, leaf: Pte, from: Level, to: Level) -> Pte {
        debug_assert!(leaf.is_leaf(from));
        Pte::from_raw(leaf.raw() & !TABLE_OR_PAGE | (to.is_last() as u64) << 1)
    }

    #[inline]
    const fn high_bits(&self, entry: Pte) -> u64 {
        (entry.raw() >> self.high_at & self.high_mask) << self.high_pa
    }
}

/// Read and write exchanged.
#[cfg(s2pt_faults)]
fn exchanged(prot: Prot) -> Prot {
    let p = prot.bits();
    Prot::from_bits_truncate(p & 3 | (p & 8) >> 1 | (p & 4) << 1)
}

/// Bits `top - 1` down to `low`.
const fn bits(top: u32, low: u32) -> u64 {
    (1 << top) - (1 << low)
}

const fn flag(set: bool, bit: u64) -> u64 {
    if set { bit } else { 0 }
}

#[cfg(test)]
mod tests;
