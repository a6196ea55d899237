//! What a leaf answers to an access: allowed or which fault, and what hardware writes back into it.
//!
//! One statement of the rule for live tables and for tables in dumps. The order of the checks is the architecture's
//! (Arm ARM, `AArch64.S2Translate`): access flag before permissions; the address before both, by whoever walked.

use super::{AccessKind, FaultKind, Format, Level, MemType, Pa, Prot, Pte};

/// What an allowed access gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The output address of the byte asked for.
    pub pa: Pa,
    /// The leaf; [`Format::attrs`] says what else is in it.
    pub leaf: Pte,
    /// Its level.
    pub level: Level,
    /// What it permits.
    pub prot: Prot,
    /// The memory type it gives.
    pub memtype: MemType,
}

/// The exception level of the guest that accesses; it decides about fetches, where FEAT_XNX tells the two apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum El {
    /// The guest's user.
    El0,
    /// The guest's kernel.
    #[default]
    El1,
}

/// What hardware does to leaves by itself.
///
/// ```
/// use s2pt::arch::HardwareUpdate;
/// assert_eq!(HardwareUpdate::new(false, true), HardwareUpdate::new(true, true)); // HD needs HA
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HardwareUpdate {
    af: bool,
    dirty: bool,
}

impl HardwareUpdate {
    /// From VTCR_EL2.HA and HD as a table's maker chose them: dirty state implies the access flag, as in
    /// [`VtcrOptions`](super::VtcrOptions).
    #[inline]
    pub const fn new(ha: bool, hd: bool) -> Self {
        Self {
            af: ha || hd,
            dirty: hd,
        }
    }

    /// From the two bits as a register holds them: HD without HA does nothing.
    #[inline]
    pub fn of_register(ha: bool, hd: bool) -> Self {
        Self {
            af: ha,
            dirty: seeded!(HdAlone, hd, ha && hd),
        }
    }
}

impl Format {
    /// What an access `offset` bytes into the memory behind `leaf` gets if it is allowed.
    #[inline]
    pub const fn translation(&self, leaf: Pte, level: Level, offset: u64) -> Translation {
        Translation {
            pa: Pa::new(self.output(leaf, level).get() + offset),
            leaf,
            level,
            prot: self.prot(leaf),
            memtype: self.memtype(leaf),
        }
    }

    /// Whether `leaf` allows the access.
    ///
    /// # Errors
    /// [`FaultKind::AccessFlag`] or [`FaultKind::Permission`].
    #[inline]
    pub fn check_access(
        &self,
        leaf: Pte,
        access: AccessKind,
        el: El,
        hardware: HardwareUpdate,
    ) -> Result<(), FaultKind> {
        let old = !self.af(leaf) && !hardware.af;
        if seeded!(AfIgnored, false, seeded!(AfLast, false, old)) {
            return Err(FaultKind::AccessFlag);
        }
        let needed = match (access, el) {
            (AccessKind::Read, _) => Prot::R,
            (AccessKind::Write, _) => seeded!(WriteByRead, Prot::R, Prot::W),
            (AccessKind::Execute, El::El1) => Prot::PX,
            (AccessKind::Execute, El::El0) => seeded!(ElIgnored, Prot::PX, Prot::UX),
        };
        let granted = self.prot(leaf).contains(needed);
        if granted || matches!(access, AccessKind::Write) && makes_dirty(leaf, hardware) {
            seeded!(AfLast, if old { Err(FaultKind::AccessFlag) } else { Ok(()) }, Ok(()))
        } else {
            Err(FaultKind::Permission)
        }
    }

    /// The value that hardware leaves in `leaf` after an access that it allows: access flag, and dirty state on a write.
    ///
    /// After an access that it refuses a leaf is as it was, but for the access flag, which hardware may set where only a
    /// permission is missing.
    #[inline]
    pub fn after_access(&self, leaf: Pte, access: AccessKind, hardware: HardwareUpdate) -> Pte {
        let mut raw = leaf.raw();
        if seeded!(AfNotSet, false, hardware.af) {
            raw |= Self::AF_BIT;
        }
        if seeded!(DirtyOnRead, true, matches!(access, AccessKind::Write)) && makes_dirty(leaf, hardware) {
            raw |= Self::WRITE_BIT;
        }
        Pte::from_raw(raw)
    }
}

/// Whether a write to `leaf` makes it writable.
#[inline]
fn makes_dirty(leaf: Pte, hardware: HardwareUpdate) -> bool {
    seeded!(DbmIgnored, false, hardware.dirty) && leaf.raw() & Format::DBM_BIT != 0
}

#[cfg(test)]
mod tests;
