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
const AF_SHIFT: u32 = 10;
const DBM_SHIFT: u32 = 51;
const CONTIGUOUS_SHIFT: u32 = 52;
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
    // S2AP, XN and the valid bit by Prot; 0: refused.
    granted: [u64; 16],
    // MemAttr by MemType::slot(), or NO_CODE, with NO_EXECUTE.
    memattrs: [u8; 16],
    // What MemAttr means.
    memtypes: [MemType; 16],
    // SH by Shareability, or NO_CODE.
    sh_codes: [u8; 4],
    fwb: bool,
    lpa2: bool,
}

/// It cannot be said in this format.
const NO_CODE: u8 = 1 << 7;
/// A memory type that must not be executed.
const NO_EXECUTE: u8 = 1 << 6;
/// Non, Reserved, Outer, Inner.
const SH_CODES: [u8; 4] = [0, NO_CODE, 2, 3];
/// SH's bits are address bits: inner shareable goes without saying, nothing else can be said.
const SH_CODES_LPA2: [u8; 4] = [NO_CODE, NO_CODE, NO_CODE, 0];

impl Format {
    /// Access flag.
    pub const AF_BIT: u64 = 1 << AF_SHIFT;
    /// Dirty bit modifier.
    pub const DBM_BIT: u64 = 1 << DBM_SHIFT;
    /// Contiguous hint.
    pub const CONTIGUOUS_BIT: u64 = 1 << CONTIGUOUS_SHIFT;
    /// S2AP: read allowed.
    pub const READ_BIT: u64 = 1 << 6;
    /// S2AP: write allowed.
    pub const WRITE_BIT: u64 = 1 << 7;
    /// SW3..SW0.
    pub const SOFTWARE_MASK: u64 = 0xf << SOFTWARE_SHIFT;
    /// MemAttr.
    pub const MEMATTR_MASK: u64 = 0xf << MEMATTR_SHIFT;
    /// What hardware and software note in a leaf in place: access flag, dirty management, software bits.
    pub(crate) const STATE_MASK: u64 = Self::AF_BIT | Self::DBM_BIT | Self::SOFTWARE_MASK;
    /// The address bits of a page or table of 4 KiB without LPA2, each in its own place.
    pub(crate) const PLAIN_4K: u64 = 0x0000_ffff_ffff_f000;

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
        let fwb = seeded!(FwbIgnored, false, options.fwb);
        let mut format = Self {
            direct,
            high_mask,
            high_at,
            high_pa,
            xn_mask,
            xn_by_prot,
            granted: [0; 16],
            memattrs: memattrs(fwb),
            memtypes: core::array::from_fn(|memattr| MemType::decode(memattr as u8, fwb)),
            sh_codes: if lpa2 { SH_CODES_LPA2 } else { SH_CODES },
            fwb,
            lpa2,
        };
        for bits in 0..=Prot::all().bits() {
            let prot = Prot::from_bits_truncate(bits);
            if format.check_prot(prot, MemType::Normal).is_ok() {
                format.granted[usize::from(bits)] = VALID | format.prot_bits(prot);
            }
        }
        format
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
        match self.encode(level, attrs) {
            0 => Err(self.refusal(attrs)),
            bits => Ok(bits),
        }
    }

    /// [`attr_bits`](Self::attr_bits) for the fault path: 0, which no leaf is, where that says what is wrong.
    ///
    /// Every fault encodes its attributes, so all that depends on the format, refusals too, is worked out beforehand.
    /// A call of its own leaves the caller's registers to the walk.
    #[inline(never)]
    pub(crate) fn encode(&self, level: Level, attrs: &Attrs) -> u64 {
        let memattr = match attrs.memtype {
            MemType::Other(_) => other_memattr(attrs.memtype, self.fwb),
            listed => self.memattrs[listed.slot()],
        };
        let prot = seeded!(EncodeAccess, exchanged(attrs.prot), attrs.prot).bits();
        let sh = self.sh_codes[attrs.shareability as usize & 3];
        if prot | attrs.software > 0xf {
            return 0;
        }
        let granted = self.granted[usize::from(prot & 0xf)];
        let never = prot & Prot::X.bits() != 0 && memattr & NO_EXECUTE != 0;
        if (memattr | sh) & NO_CODE != 0 || granted == 0 || never {
            return 0;
        }
        granted
            | (seeded!(EncodePage, false, level.is_last()) as u64) << 1
            | u64::from(memattr & 0xf) << seeded!(EncodeMemAttr, MEMATTR_SHIFT + 1, MEMATTR_SHIFT)
            | u64::from(sh) << SH_SHIFT
            | (attrs.af as u64) << seeded!(EncodeAf, AF_SHIFT + 1, AF_SHIFT)
            | (attrs.dbm as u64) << DBM_SHIFT
            | (attrs.contiguous as u64) << CONTIGUOUS_SHIFT
            | u64::from(attrs.software) << SOFTWARE_SHIFT
    }

    /// What is wrong with attributes that [`encode`](Self::encode) has refused.
    #[cold]
    fn refusal(&self, attrs: &Attrs) -> AttrsError {
        let &Attrs {
            prot,
            memtype,
            shareability,
            software,
            ..
        } = attrs;
        if let Err(refused) = self.check_prot(prot, memtype) {
            return refused;
        }
        if memtype.encode(self.fwb).is_none() {
            return AttrsError::MemType { memtype, fwb: self.fwb };
        }
        if software > 0xf {
            return AttrsError::Software { value: software };
        }
        AttrsError::Shareability {
            shareability,
            lpa2: self.lpa2,
        }
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
    #[inline(always)]
    pub const fn next_table(&self, table: Pte) -> Pa {
        let pa = table.raw() & self.direct[Level::L3.slot()];
        // A branch that always goes the same way costs a walk less than three operations that the next load waits for.
        if self.high_mask == 0 {
            return Pa::new(pa);
        }
        Pa::new(pa | self.high_bits(table))
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

    /// The bits that grant reading and writing, of those in `prot`; the same in every format.
    #[inline(always)]
    pub(crate) const fn rights(prot: Prot) -> u64 {
        let p = prot.bits() as u64;
        (p & 8) << 3 | (p & 4) << 5
    }

    /// Whether a leaf lets anybody execute.
    #[inline(always)]
    pub(crate) const fn may_execute(&self, leaf: Pte) -> bool {
        // Of XN[1:0], 10 alone forbids it to both exception levels.
        (leaf.raw() >> XN_SHIFT) as u8 & self.xn_mask != 0b10
    }

    /// Memory type of a leaf.
    #[inline]
    pub const fn memtype(&self, leaf: Pte) -> MemType {
        self.memtypes[(leaf.raw() >> MEMATTR_SHIFT) as usize & 0xf]
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
        Self::rights(prot) | (xn as u64) << XN_SHIFT
    }

    /// All descriptor bits that hold a page-aligned address.
    #[inline]
    pub const fn output_mask(&self) -> u64 {
        self.direct[Level::L3.slot()] | self.high_mask << self.high_at
    }

    /// The bits of a page as a block has them.
    #[inline(always)]
    pub(crate) const fn block_of(page: u64) -> u64 {
        page & !TABLE_OR_PAGE
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

/// MemAttr of a type without a name, which may be executed like any but those with one.
#[cold]
fn other_memattr(memtype: MemType, fwb: bool) -> u8 {
    memtype.encode(fwb).unwrap_or(NO_CODE)
}

/// MemAttr of each type by its slot.
fn memattrs(fwb: bool) -> [u8; 16] {
    let mut memattrs = [NO_CODE; 16];
    for memtype in MemType::LISTED {
        let no_execute = if memtype.may_execute() { 0 } else { NO_EXECUTE };
        if let Some(memattr) = memtype.encode(fwb) {
            memattrs[memtype.slot()] = memattr | no_execute;
        }
    }
    memattrs
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

#[cfg(test)]
mod tests;
