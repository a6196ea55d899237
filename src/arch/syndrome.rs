//! A stage-2 fault: what was tried, where, and why the walk refused it; and the three registers that report it.
//!
//! ESR_EL2 says what happened, HPFAR_EL2 the page of the IPA, FAR_EL2 the guest's virtual address, whose low twelve
//! bits are also those of the IPA. [`Fault`] is the digest that a fault handler works on.

mod esr;
mod status;

use super::{Ipa, Level};
pub use esr::Esr;
pub use status::{FaultKind, FaultStatus};

/// HPFAR_EL2.FIPA: bits 43:4 hold IPA bits 51:12, whatever the granule.
const FIPA_SHIFT: u32 = 8;
const FIPA_MASK: u64 = 0xfff_ffff_fff0;
const PAGE_OFFSET: u64 = 0xfff;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Execute,
}

/// A stage-2 fault.
///
/// ```
/// use s2pt::arch::{AccessKind, Fault, FaultKind, Ipa, Level};
/// // A guest wrote to 0x4068e088; the walk found nothing at level 2.
/// let fault = Fault::from_registers(0x9200_0046, 0x4068_e088, 0x40_68e0)?;
/// assert_eq!((fault.ipa, fault.access), (Ipa::new(0x4068_e088), AccessKind::Write));
/// assert_eq!((fault.kind, fault.level, fault.s1ptw), (FaultKind::Translation, Level::L2, false));
/// assert_eq!(fault.to_registers()?.esr.raw(), 0x9200_0046);
/// # Ok::<(), s2pt::arch::SyndromeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Address that stage 2 was asked to translate.
    pub ipa: Ipa,
    /// What was tried.
    pub access: AccessKind,
    /// Why it was refused.
    pub kind: FaultKind,
    /// Level at which the walk ended.
    pub level: Level,
    /// The access was a stage-1 walk's own, not the guest instruction's.
    pub s1ptw: bool,
}

/// The registers that report a stage-2 fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Syndrome {
    /// ESR_EL2.
    pub esr: Esr,
    /// FAR_EL2: the guest's virtual address.
    pub far: u64,
    /// HPFAR_EL2: the IPA's page.
    pub hpfar: u64,
}

/// Why registers and fault do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyndromeError {
    /// The exception is no abort from the guest.
    #[error("ESR {esr:#x}: exception class {ec:#x} is no abort from a lower exception level (0x20 or 0x24)")]
    NotAnAbort {
        /// The register.
        esr: u64,
        /// Its exception class.
        ec: u8,
    },
    /// The abort did not come from a table walk.
    #[error("ESR {esr:#x}: fault status {fsc:#x} ({kind}) has no table level")]
    NoLevel {
        /// The register.
        esr: u64,
        /// Its fault status code.
        fsc: u8,
        /// What the code means.
        kind: FaultKind,
    },
    /// No fault status code says this kind at this level.
    #[error("no fault status code says {kind} at level {level}")]
    NoStatus {
        /// The kind.
        kind: FaultKind,
        /// The level.
        level: Level,
    },
    /// The address does not fit HPFAR_EL2.
    #[error("IPA {ipa} is beyond what HPFAR_EL2 holds (limit 0x10000000000000)")]
    Address {
        /// The address.
        ipa: Ipa,
    },
}

impl Fault {
    /// The fault that the three registers report.
    ///
    /// `hpfar` must be the IPA's page also where the hardware leaves HPFAR_EL2 unset, see [`Esr::hpfar_valid`]. The
    /// low bits of the IPA come from `far`, except for a stage-1 walk's own fault (and an unset FAR), where they are
    /// not those of the access: then the IPA is that of the page.
    ///
    /// # Errors
    /// [`SyndromeError`]: not an abort from the guest, or one that no table level goes with.
    pub fn from_registers(esr: impl Into<Esr>, far: u64, hpfar: u64) -> Result<Self, SyndromeError> {
        let esr = esr.into();
        let offset = if esr.s1ptw() || esr.far_invalid() {
            0
        } else {
            seeded!(SyndromeOffset, 0, far & PAGE_OFFSET)
        };
        let page = (hpfar & FIPA_MASK) << seeded!(SyndromePage, FIPA_SHIFT - 1, FIPA_SHIFT);
        Self::from_esr(esr, Ipa::new(page | offset))
    }

    /// The fault that ESR_EL2 reports, at an IPA that is known already.
    ///
    /// What a stage-1 walk did counts as KVM counts it: a write if stage 2 refused permission (the hardware wanted to
    /// update the guest's own table), else a read.
    ///
    /// # Errors
    /// As [`Fault::from_registers`].
    pub fn from_esr(esr: impl Into<Esr>, ipa: Ipa) -> Result<Self, SyndromeError> {
        let esr = esr.into();
        if !esr.is_guest_abort() {
            return Err(SyndromeError::NotAnAbort {
                esr: esr.raw(),
                ec: esr.ec(),
            });
        }
        let FaultStatus { kind, level } = esr.status();
        let no_level = SyndromeError::NoLevel {
            esr: esr.raw(),
            fsc: esr.fsc(),
            kind,
        };
        let level = level.ok_or(no_level)?;
        let access = match (esr.s1ptw(), esr.is_instruction(), esr.write()) {
            (true, _, _) if kind == FaultKind::Permission => AccessKind::Write,
            (true, _, _) => AccessKind::Read,
            (_, true, _) => seeded!(SyndromeFetch, AccessKind::Read, AccessKind::Execute),
            (_, _, true) => seeded!(SyndromeWrite, AccessKind::Read, AccessKind::Write),
            (_, _, false) => AccessKind::Read,
        };
        Ok(Self {
            ipa,
            access,
            kind,
            level,
            s1ptw: esr.s1ptw(),
        })
    }

    /// The registers as hardware sets them for a guest with stage 1 off, whose virtual address is the IPA: no
    /// instruction syndrome (ISV 0), a data abort where the access was a stage-1 walk's.
    ///
    /// # Errors
    /// [`SyndromeError`]: no status code for this kind and level (access flag or permission at level -1), or an IPA
    /// of more than 52 bits.
    pub fn to_registers(self) -> Result<Syndrome, SyndromeError> {
        let Self {
            ipa,
            access,
            kind,
            level,
            s1ptw,
        } = self;
        let status = FaultStatus {
            kind,
            level: Some(level),
        };
        let fsc = status.encode().ok_or(SyndromeError::NoStatus { kind, level })?;
        if ipa.get() >= 1 << 52 {
            return Err(SyndromeError::Address { ipa });
        }
        let esr = Esr::abort(access, fsc, s1ptw);
        Ok(Syndrome {
            esr,
            far: ipa.get(),
            hpfar: ipa.get() >> FIPA_SHIFT & FIPA_MASK,
        })
    }
}

impl Syndrome {
    /// The fault that the registers report.
    ///
    /// # Errors
    /// As [`Fault::from_registers`].
    pub fn fault(self) -> Result<Fault, SyndromeError> {
        Fault::from_registers(self.esr, self.far, self.hpfar)
    }
}

#[cfg(test)]
mod tests;
