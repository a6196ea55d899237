//! ESR_EL2 for aborts that a guest took.

use super::{AccessKind, FaultKind, FaultStatus};
use crate::arch::regs::{bit, field, register};

const EC_SHIFT: u32 = 26;
const INSTRUCTION_ABORT: u8 = 0x20;
const DATA_ABORT: u8 = 0x24;
const IL: u64 = 1 << 25;
const ISV: u32 = 24;
const S1PTW: u32 = 7;
const WNR: u32 = 6;

/// An ESR_EL2 value. Accessors of abort fields mean something for exception classes 0x20 and 0x24 only.
///
/// ```
/// use s2pt::arch::Esr;
/// let esr = Esr::new(0x9381_004f); // strb w1: permission fault at level 3
/// assert!(esr.is_guest_abort() && esr.write() && esr.isv());
/// assert_eq!((esr.access_size(), esr.register()), (Some(4), Some(1)));
/// assert_eq!(esr.status().to_string(), "permission fault, level 3");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Esr(u64);

register!(Esr);

impl From<u64> for Esr {
    fn from(raw: u64) -> Self {
        Self(raw)
    }
}

impl Esr {
    /// An abort from the guest with this status, without instruction syndrome; what a stage-1 walk did is a data abort.
    pub const fn abort(access: AccessKind, fsc: u8, s1ptw: bool) -> Self {
        let ec = match access {
            AccessKind::Execute => INSTRUCTION_ABORT,
            AccessKind::Read | AccessKind::Write => DATA_ABORT,
        };
        let write = matches!(access, AccessKind::Write) as u64;
        Self((ec as u64) << EC_SHIFT | IL | (s1ptw as u64) << S1PTW | write << WNR | fsc as u64 & 0x3f)
    }

    /// Exception class, bits 31:26.
    #[inline]
    pub const fn ec(self) -> u8 {
        field(self.0, EC_SHIFT, 6) as u8
    }

    /// 32-bit instruction, bit 25; set for every instruction abort and every abort without instruction syndrome.
    #[inline]
    pub const fn il(self) -> bool {
        self.0 & IL != 0
    }

    /// Whether the guest took an instruction or data abort (classes 0x20, 0x24).
    #[inline]
    pub const fn is_guest_abort(self) -> bool {
        matches!(self.ec(), INSTRUCTION_ABORT | DATA_ABORT)
    }

    /// Whether the access was an instruction fetch (class 0x20).
    #[inline]
    pub const fn is_instruction(self) -> bool {
        self.ec() == INSTRUCTION_ABORT
    }

    /// Data abort: whether bits 23:14 describe the instruction (ISV).
    #[inline]
    pub const fn isv(self) -> bool {
        !self.is_instruction() && bit(self.0, ISV)
    }

    /// Bytes of the access, where the instruction is described.
    pub const fn access_size(self) -> Option<u8> {
        if self.isv() {
            Some(1 << field(self.0, 22, 2))
        } else {
            None
        }
    }

    /// Whether the loaded value is sign extended, where the instruction is described.
    pub const fn sign_extend(self) -> Option<bool> {
        if self.isv() { Some(bit(self.0, 21)) } else { None }
    }

    /// Number of the register loaded or stored, 31 meaning zero, where the instruction is described.
    pub const fn register(self) -> Option<u8> {
        if self.isv() {
            Some(field(self.0, 16, 5) as u8)
        } else {
            None
        }
    }

    /// Whether the register is 64 bits wide, where the instruction is described.
    pub const fn sixty_four(self) -> Option<bool> {
        if self.isv() { Some(bit(self.0, 15)) } else { None }
    }

    /// Whether the access has acquire or release semantics, where the instruction is described.
    pub const fn acquire_release(self) -> Option<bool> {
        if self.isv() { Some(bit(self.0, 14)) } else { None }
    }

    /// Data abort: taken through the nested virtualisation control register (VNCR).
    #[inline]
    pub const fn vncr(self) -> bool {
        !self.is_instruction() && bit(self.0, 13)
    }

    /// Synchronous error type, bits 12:11.
    #[inline]
    pub const fn set(self) -> u8 {
        field(self.0, 11, 2) as u8
    }

    /// FAR_EL2 is not valid (FnV).
    #[inline]
    pub const fn far_invalid(self) -> bool {
        bit(self.0, 10)
    }

    /// External abort type, bit 9.
    #[inline]
    pub const fn ea(self) -> bool {
        bit(self.0, 9)
    }

    /// Data abort: the access was cache maintenance or address translation (CM).
    #[inline]
    pub const fn cm(self) -> bool {
        !self.is_instruction() && bit(self.0, 8)
    }

    /// The access was a stage-1 walk's own.
    #[inline]
    pub const fn s1ptw(self) -> bool {
        bit(self.0, S1PTW)
    }

    /// Data abort: the access was a write (WnR). Cache maintenance reports itself as a write.
    #[inline]
    pub const fn write(self) -> bool {
        !self.is_instruction() && bit(self.0, WNR)
    }

    /// Fault status code, bits 5:0.
    #[inline]
    pub const fn fsc(self) -> u8 {
        field(self.0, 0, 6) as u8
    }

    /// The fault status code, read.
    pub fn status(self) -> FaultStatus {
        FaultStatus::decode(self.fsc())
    }

    /// Whether the hardware set HPFAR_EL2. It does not for a permission fault of the guest's own access: a hypervisor
    /// then translates FAR_EL2 by an AT instruction.
    pub fn hpfar_valid(self) -> bool {
        match self.status().kind {
            FaultKind::Translation | FaultKind::AccessFlag | FaultKind::AddressSize => true,
            FaultKind::Permission => self.s1ptw(),
            _ => false,
        }
    }
}
