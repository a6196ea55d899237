//! What a leaf says besides its output address: permissions, memory type, shareability, access and dirty state.

use core::fmt;

bitflags::bitflags! {
    /// What an access may do. The numbers are those of KVM's newest `enum kvm_pgtable_prot`.
    ///
    /// Without FEAT_XNX execution is one permission: [`Prot::PX`] and [`Prot::UX`] only together.
    ///
    /// ```
    /// use s2pt::arch::Prot;
    /// assert_eq!(Prot::RWX, Prot::R | Prot::W | Prot::PX | Prot::UX);
    /// assert_eq!(Prot::RW.to_string(), "rw-");
    /// assert_eq!(Prot::NONE, Prot::empty());
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Prot: u8 {
        /// Execute at EL1.
        const PX = 1;
        /// Execute at EL0.
        const UX = 2;
        /// Execute at EL1 and EL0.
        const X = 3;
        /// Write.
        const W = 4;
        /// Read.
        const R = 8;
    }
}

impl Prot {
    /// No access at all.
    pub const NONE: Prot = Prot::empty();
    /// Read and write.
    pub const RW: Prot = Prot::R.union(Prot::W);
    /// Read and execute.
    pub const RX: Prot = Prot::R.union(Prot::X);
    /// Everything.
    pub const RWX: Prot = Prot::RW.union(Prot::X);
}

impl fmt::Display for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = if self.contains(Prot::R) { "r" } else { "-" };
        let write = if self.contains(Prot::W) { "w" } else { "-" };
        let execute = match *self & Prot::X {
            Prot::X => "x",
            Prot::PX => "px",
            Prot::UX => "ux",
            _ => "-",
        };
        write!(f, "{read}{write}{execute}")
    }
}

/// Memory type that stage 2 asks for (MemAttr, descriptor bits 5:2).
///
/// Without forced write-back (FWB) it is combined with the guest's own type, the weaker winning; with FWB it decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MemType {
    /// Device-nGnRnE.
    DeviceNGnRnE,
    /// Device-nGnRE: what KVM uses for devices.
    DeviceNGnRE,
    /// Device-nGRE.
    DeviceNGRE,
    /// Device-GRE.
    DeviceGRE,
    /// Normal, inner and outer non-cacheable.
    NormalNc,
    /// Normal, inner and outer write-through. Does not exist with FWB.
    NormalWt,
    /// Normal, inner and outer write-back.
    #[default]
    Normal,
    /// The guest's stage-1 type, whatever it is. Exists with FWB only.
    AsStage1,
    /// Another MemAttr value: outer and inner cacheability differ, or a reserved encoding.
    Other(u8),
}

impl MemType {
    /// The types that have a name.
    pub(crate) const LISTED: [Self; 8] = [
        Self::DeviceNGnRnE,
        Self::DeviceNGnRE,
        Self::DeviceNGRE,
        Self::DeviceGRE,
        Self::NormalNc,
        Self::NormalWt,
        Self::Normal,
        Self::AsStage1,
    ];

    /// A number below 16 for each type, one for all of [`MemType::Other`].
    #[inline(always)]
    pub(crate) const fn slot(self) -> usize {
        match self {
            Self::DeviceNGnRnE => 0,
            Self::DeviceNGnRE => 1,
            Self::DeviceNGRE => 2,
            Self::DeviceGRE => 3,
            Self::NormalNc => 4,
            Self::NormalWt => 5,
            Self::Normal => 6,
            Self::AsStage1 => 7,
            Self::Other(_) => 8,
        }
    }

    /// Whether this is one of the four device types.
    #[inline]
    pub const fn is_device(self) -> bool {
        matches!(
            self,
            Self::DeviceNGnRnE | Self::DeviceNGnRE | Self::DeviceNGRE | Self::DeviceGRE
        )
    }

    /// Whether execution may be granted: not from device or non-cacheable memory (KVM's rule, also taken here).
    #[inline]
    pub const fn may_execute(self) -> bool {
        !self.is_device() && !matches!(self, Self::NormalNc)
    }

    /// The type that a MemAttr value (4 bits) means, with or without FWB.
    #[inline]
    pub const fn decode(memattr: u8, fwb: bool) -> Self {
        match (memattr & 0xf, fwb) {
            (0, _) => Self::DeviceNGnRnE,
            (1, _) => Self::DeviceNGnRE,
            (2, _) => Self::DeviceNGRE,
            (3, _) => Self::DeviceGRE,
            (5, _) => Self::NormalNc,
            (6, true) | (0xf, false) => Self::Normal,
            (7, true) => Self::AsStage1,
            (0xa, false) => Self::NormalWt,
            (other, _) => Self::Other(other),
        }
    }

    /// The type as MAIR_ELx and PAR_EL1 write it, where the guest's own type is write-back memory: what AT reports with
    /// HCR_EL2.DC, with or without FWB. `None` for reserved encodings.
    ///
    /// ```
    /// use s2pt::arch::MemType;
    /// assert_eq!(MemType::Normal.mair(false), Some(0xff));
    /// assert_eq!(MemType::DeviceNGnRE.mair(true), Some(0x04));
    /// ```
    pub const fn mair(self, fwb: bool) -> Option<u8> {
        const fn half(bits: u8) -> u8 {
            match bits & 3 {
                1 => 0x4,
                2 => 0xb,
                _ => 0xf,
            }
        }
        match self {
            Self::DeviceNGnRnE => Some(0x00),
            Self::DeviceNGnRE => Some(0x04),
            Self::DeviceNGRE => Some(0x08),
            Self::DeviceGRE => Some(0x0c),
            Self::NormalNc => Some(0x44),
            Self::NormalWt => Some(0xbb),
            Self::Normal | Self::AsStage1 => Some(0xff),
            // The pairs of unlike halves that exist without FWB; see `encode`.
            Self::Other(v) => match self.encode(fwb) {
                Some(_) => Some(half(v >> 2) << 4 | half(v)),
                None => None,
            },
        }
    }

    /// The MemAttr value, `None` where the type has none: write-through with FWB, as-stage-1 without, reserved values.
    pub const fn encode(self, fwb: bool) -> Option<u8> {
        match (self, fwb) {
            (Self::DeviceNGnRnE, _) => Some(0),
            (Self::DeviceNGnRE, _) => Some(1),
            (Self::DeviceNGRE, _) => Some(2),
            (Self::DeviceGRE, _) => Some(3),
            (Self::NormalNc, _) => Some(5),
            (Self::Normal, false) => Some(0xf),
            (Self::Normal, true) => Some(6),
            (Self::NormalWt, false) => Some(0xa),
            (Self::AsStage1, true) => Some(7),
            // Outer and inner both normal but different: 0b01, 0b10, 0b11 in each half. Zero in either half is
            // reserved or one of the device types, and with FWB no further value has a meaning.
            (Self::Other(v), false) if v < 16 && v >> 2 != 0 && v & 3 != 0 && v >> 2 != v & 3 => Some(v),
            _ => None,
        }
    }
}

impl fmt::Display for MemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeviceNGnRnE => "Device-nGnRnE",
            Self::DeviceNGnRE => "Device-nGnRE",
            Self::DeviceNGRE => "Device-nGRE",
            Self::DeviceGRE => "Device-GRE",
            Self::NormalNc => "Normal non-cacheable",
            Self::NormalWt => "Normal write-through",
            Self::Normal => "Normal write-back",
            Self::AsStage1 => "as stage 1",
            Self::Other(v) => return write!(f, "MemAttr {v:#x}"),
        })
    }
}

/// Which observers see the accesses coherently (SH, descriptor bits 9:8). With LPA2 those bits belong to the address
/// and VTCR_EL2.SH0 decides, always inner shareable here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Shareability {
    /// One CPU.
    Non = 0,
    /// The reserved encoding.
    Reserved = 1,
    /// Outer shareable.
    Outer = 2,
    /// Inner shareable: what KVM uses.
    #[default]
    Inner = 3,
}

impl Shareability {
    /// From the two bits.
    #[inline]
    pub const fn decode(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Non,
            1 => Self::Reserved,
            2 => Self::Outer,
            _ => Self::Inner,
        }
    }
}

impl fmt::Display for Shareability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Non => "non-shareable",
            Self::Reserved => "reserved",
            Self::Outer => "outer shareable",
            Self::Inner => "inner shareable",
        })
    }
}

/// All of a leaf but its address.
///
/// ```
/// use s2pt::arch::{Attrs, MemType, Prot};
/// let device = Attrs { memtype: MemType::DeviceNGnRE, ..Attrs::new(Prot::RW) };
/// assert!(device.af && device.software == 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attrs {
    /// Permissions.
    pub prot: Prot,
    /// Memory type.
    pub memtype: MemType,
    /// Shareability; inner is the only choice with LPA2.
    pub shareability: Shareability,
    /// Access flag; an access to a leaf without it faults unless the hardware sets it (VTCR_EL2.HA).
    pub af: bool,
    /// Dirty bit modifier: with VTCR_EL2.HD the hardware grants write on the first write.
    pub dbm: bool,
    /// Contiguous hint.
    pub contiguous: bool,
    /// Bits for software, SW3..SW0 (descriptor bits 58:55), 0..=15.
    pub software: u8,
}

impl Attrs {
    /// Normal write-back memory, inner shareable, access flag set, nothing else.
    #[inline]
    pub const fn new(prot: Prot) -> Self {
        Self {
            prot,
            memtype: MemType::Normal,
            shareability: Shareability::Inner,
            af: true,
            dbm: false,
            contiguous: false,
            software: 0,
        }
    }
}

/// Why no descriptor says what the attributes ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttrsError {
    /// Execution from device or non-cacheable memory.
    #[error("execute permission ({prot}) on {memtype} memory")]
    Execute {
        /// The permissions.
        prot: Prot,
        /// The memory type.
        memtype: MemType,
    },
    /// Execution at one exception level only, without FEAT_XNX.
    #[error("execute at EL1 or EL0 only ({prot}, {:#x}) needs XNX", .prot.bits())]
    HalfExecute {
        /// The permissions.
        prot: Prot,
    },
    /// Permission bits that mean nothing.
    #[error("permission bits {bits:#x} are beyond 0xf")]
    Prot {
        /// The bits.
        bits: u8,
    },
    /// The memory type has no encoding in this table.
    #[error("memory type {memtype} has no encoding {}", if_fwb(*.fwb))]
    MemType {
        /// The type.
        memtype: MemType,
        /// Whether the table has FWB.
        fwb: bool,
    },
    /// Software bits above SW3.
    #[error("software bits {value:#x} are beyond 0xf")]
    Software {
        /// The bits.
        value: u8,
    },
    /// Reserved, or anything but inner with LPA2.
    #[error("shareability {shareability} cannot be said in {}", descriptor_kind(*.lpa2))]
    Shareability {
        /// Asked for.
        shareability: Shareability,
        /// Whether the table has LPA2.
        lpa2: bool,
    },
}

fn if_fwb(fwb: bool) -> &'static str {
    if fwb {
        "with forced write-back"
    } else {
        "without forced write-back"
    }
}

fn descriptor_kind(lpa2: bool) -> &'static str {
    if lpa2 {
        "an LPA2 descriptor, which takes VTCR_EL2.SH0 (inner shareable)"
    } else {
        "a descriptor"
    }
}
