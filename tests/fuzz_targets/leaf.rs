//! What a leaf answers to an access, and which attributes a table takes: the rules once more, in words of their own.

use s2pt::arch::{AccessKind, Attrs, El, FaultKind, MemType, Prot, Shareability};

use super::bytes::Bytes;

/// What the table was made for, as far as leaves are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub fwb: bool,
    pub xnx: bool,
    pub lpa2: bool,
    /// Hardware sets the access flag, and grants writes by DBM.
    pub sets_af: bool,
    pub sets_dirty: bool,
}

const DEVICES: [MemType; 4] = [
    MemType::DeviceNGnRnE,
    MemType::DeviceNGnRE,
    MemType::DeviceNGRE,
    MemType::DeviceGRE,
];

/// Attributes, most of them possible.
pub fn attrs(bytes: &mut Bytes<'_>) -> Attrs {
    let (look, flags) = (bytes.byte(), bytes.byte());
    let strange = look >= 0xe0;
    Attrs {
        prot: match look & 7 {
            0 | 1 => Prot::RW,
            2 => Prot::R,
            3 => Prot::RWX,
            4 => Prot::NONE,
            _ if strange => Prot::from_bits_retain(bytes.byte()),
            _ => Prot::from_bits_retain(bytes.byte() & 0xf),
        },
        memtype: match look >> 3 & 7 {
            0..=3 => MemType::Normal,
            4 => MemType::NormalNc,
            5 => bytes.of(&DEVICES),
            6 => bytes.of(&[MemType::NormalWt, MemType::AsStage1]),
            _ => MemType::Other(bytes.byte() & if strange { 0xff } else { 0xf }),
        },
        shareability: match flags >> 6 {
            0 | 1 => Shareability::Inner,
            2 => Shareability::Outer,
            _ if flags & 1 == 0 => Shareability::Non,
            _ => Shareability::Reserved,
        },
        af: flags & 2 == 0,
        dbm: flags & 4 != 0,
        contiguous: flags & 8 != 0,
        software: match flags & 0x30 {
            0x30 if strange => bytes.byte(),
            0x30 => bytes.byte() & 0xf,
            _ => 0,
        },
    }
}

impl Rules {
    /// Whether `prot` can be said at all.
    pub fn may_say(&self, prot: Prot) -> bool {
        let bits = prot.bits();
        bits <= 0xf && (self.xnx || bits & 3 == 0 || bits & 3 == 3)
    }

    /// Whether memory of this type may be executed.
    pub fn may_execute(memtype: MemType) -> bool {
        !DEVICES.contains(&memtype) && memtype != MemType::NormalNc
    }

    /// Whether leaves of these attributes exist.
    pub fn allow(&self, attrs: &Attrs) -> bool {
        let memtype = match attrs.memtype {
            MemType::NormalWt => !self.fwb,
            MemType::AsStage1 => self.fwb,
            // Outer and inner halves, both normal memory and unlike.
            MemType::Other(v) => !self.fwb && v < 16 && v >> 2 != 0 && v & 3 != 0 && v >> 2 != v & 3,
            _ => true,
        };
        let shareability = match attrs.shareability {
            Shareability::Inner => true,
            Shareability::Reserved => false,
            Shareability::Non | Shareability::Outer => !self.lpa2,
        };
        let execute = attrs.prot.bits() & 3 == 0 || Self::may_execute(attrs.memtype);
        self.may_say(attrs.prot) && memtype && shareability && execute && attrs.software <= 0xf
    }

    /// What an access gets.
    pub fn refuse(&self, attrs: &Attrs, access: AccessKind, el: El) -> Option<FaultKind> {
        if !attrs.af && !self.sets_af {
            return Some(FaultKind::AccessFlag);
        }
        let bits = attrs.prot.bits();
        let granted = match (access, el) {
            (AccessKind::Read, _) => bits & 8 != 0,
            (AccessKind::Write, _) => bits & 4 != 0 || attrs.dbm && self.sets_dirty,
            (AccessKind::Execute, El::El1) => bits & 1 != 0,
            (AccessKind::Execute, El::El0) => bits & 2 != 0,
        };
        (!granted).then_some(FaultKind::Permission)
    }
}
