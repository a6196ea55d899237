//! What a vCPU's faults were and how they ended, counted by the vCPU that took them.

use core::ops::{Add, AddAssign, Sub};

use crate::arch::{AccessKind, FaultKind};

/// Faults by what the syndrome says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultClass {
    /// Nothing mapped, the guest reads.
    TranslationRead,
    /// Nothing mapped, the guest writes.
    TranslationWrite,
    /// Nothing mapped, the guest fetches an instruction.
    TranslationExecute,
    /// Mapped, but not readable.
    PermissionRead,
    /// Mapped, but not writable.
    PermissionWrite,
    /// Mapped, but not executable.
    PermissionExecute,
    /// The access flag is clear and hardware does not set it.
    AccessFlag,
    /// Anything else (address size, external abort, ...).
    Other,
}

impl FaultClass {
    /// All classes with their names.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::TranslationRead, "translation_read"),
        (Self::TranslationWrite, "translation_write"),
        (Self::TranslationExecute, "translation_execute"),
        (Self::PermissionRead, "permission_read"),
        (Self::PermissionWrite, "permission_write"),
        (Self::PermissionExecute, "permission_execute"),
        (Self::AccessFlag, "access_flag"),
        (Self::Other, "other"),
    ];

    pub(crate) const fn of(kind: FaultKind, access: AccessKind) -> Self {
        match (kind, access) {
            (FaultKind::Translation, AccessKind::Read) => Self::TranslationRead,
            (FaultKind::Translation, AccessKind::Write) => Self::TranslationWrite,
            (FaultKind::Translation, AccessKind::Execute) => Self::TranslationExecute,
            (FaultKind::Permission, AccessKind::Read) => Self::PermissionRead,
            (FaultKind::Permission, AccessKind::Write) => Self::PermissionWrite,
            (FaultKind::Permission, AccessKind::Execute) => Self::PermissionExecute,
            (FaultKind::AccessFlag, _) => Self::AccessFlag,
            _ => Self::Other,
        }
    }
}

/// How a fault ended, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutcomeClass {
    /// A page was mapped.
    MappedPage,
    /// A block was mapped where nothing was.
    MappedBlock,
    /// A block took the place of a table.
    Collapsed,
    /// A leaf gained a permission.
    Relaxed,
    /// A block was split, and one page of it gained a permission.
    Split,
    /// A leaf's access flag was set.
    MarkedYoung,
    /// An invalidation of the range was under way or came in between.
    AgainInvalidated,
    /// The memory slots changed in between.
    AgainSlots,
    /// A peer was changing the entry, or had changed it first.
    AgainPeer,
    /// No memory there: left to the device model.
    ExitMmio,
    /// A write to a read-only slot: left to the device model.
    ExitReadOnly,
    /// The guest's own mistake: an abort to be injected.
    ExitAbort,
    /// The vCPU's dirty ring was nearly full: left to who harvests it.
    ExitRingFull,
    /// An error, no frames left for instance.
    Error,
}

impl OutcomeClass {
    /// All classes with their names.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::MappedPage, "mapped_page"),
        (Self::MappedBlock, "mapped_block"),
        (Self::Collapsed, "collapsed"),
        (Self::Relaxed, "relaxed"),
        (Self::Split, "split"),
        (Self::MarkedYoung, "marked_young"),
        (Self::AgainInvalidated, "again_invalidated"),
        (Self::AgainSlots, "again_slots"),
        (Self::AgainPeer, "again_peer"),
        (Self::ExitMmio, "exit_mmio"),
        (Self::ExitReadOnly, "exit_read_only"),
        (Self::ExitAbort, "exit_abort"),
        (Self::ExitRingFull, "exit_ring_full"),
        (Self::Error, "error"),
    ];
}

/// Faults by kind and by outcome. Plain numbers: each vCPU counts its own, reports add them up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    faults: [u64; FaultClass::ALL.len()],
    outcomes: [u64; OutcomeClass::ALL.len()],
    /// Those of `faults` that changed nothing.
    vain: [u64; FaultClass::ALL.len()],
}

impl Counters {
    #[inline]
    pub(crate) fn count(&mut self, fault: FaultClass, outcome: OutcomeClass) {
        self.faults[fault as usize] += 1;
        self.outcomes[outcome as usize] += 1;
        if outcome as usize > OutcomeClass::MarkedYoung as usize {
            self.vain[fault as usize] += 1;
        }
    }

    /// How many faults of one kind changed the table: without those after which the guest had to try again, and exits.
    pub const fn handled_faults(&self, class: FaultClass) -> u64 {
        self.faults[class as usize] - self.vain[class as usize]
    }

    /// How many faults there were of one kind.
    pub const fn faults(&self, class: FaultClass) -> u64 {
        self.faults[class as usize]
    }

    /// How many faults ended in one way.
    pub const fn outcomes(&self, class: OutcomeClass) -> u64 {
        self.outcomes[class as usize]
    }

    /// All faults.
    pub fn total(&self) -> u64 {
        self.faults.iter().sum()
    }

    /// Faults that changed the table.
    pub fn handled(&self) -> u64 {
        self.outcomes[..=OutcomeClass::MarkedYoung as usize].iter().sum()
    }

    /// Faults after which the guest has to try again.
    pub fn again(&self) -> u64 {
        self.outcomes[OutcomeClass::AgainInvalidated as usize..=OutcomeClass::AgainPeer as usize]
            .iter()
            .sum()
    }

    /// Names and numbers of faults by kind, zeros included.
    pub fn faults_by_name(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FaultClass::ALL.iter().map(|&(class, name)| (name, self.faults(class)))
    }

    /// Names and numbers of the faults by kind that changed the table, zeros included.
    pub fn handled_by_name(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FaultClass::ALL
            .iter()
            .map(|&(class, name)| (name, self.handled_faults(class)))
    }

    /// Names and numbers of faults by outcome, zeros included.
    pub fn outcomes_by_name(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OutcomeClass::ALL
            .iter()
            .map(|&(class, name)| (name, self.outcomes(class)))
    }

    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            faults: core::array::from_fn(|i| f(self.faults[i], other.faults[i])),
            outcomes: core::array::from_fn(|i| f(self.outcomes[i], other.outcomes[i])),
            vain: core::array::from_fn(|i| f(self.vain[i], other.vain[i])),
        }
    }
}

impl Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Counters {
    type Output = Self;

    /// What was counted since `other`, an earlier state of the same counters.
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
}

impl core::iter::Sum for Counters {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Self::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_stands_at_its_own_index() {
        assert!(
            FaultClass::ALL
                .iter()
                .enumerate()
                .all(|(i, &(class, _))| class as usize == i)
        );
        assert!(
            OutcomeClass::ALL
                .iter()
                .enumerate()
                .all(|(i, &(class, _))| class as usize == i)
        );
    }

    #[test]
    fn sums_group_outcomes() {
        let mut counters = Counters::default();
        counters.count(FaultClass::TranslationWrite, OutcomeClass::MappedPage);
        counters.count(FaultClass::AccessFlag, OutcomeClass::MarkedYoung);
        counters.count(FaultClass::TranslationRead, OutcomeClass::AgainPeer);
        counters.count(FaultClass::TranslationRead, OutcomeClass::ExitMmio);
        assert_eq!((counters.total(), counters.handled(), counters.again()), (4, 2, 1));
        let handled: Vec<u64> = counters.handled_by_name().map(|(_, count)| count).collect();
        assert_eq!(handled, [0, 1, 0, 0, 0, 0, 1, 0]);
        assert_eq!((counters + counters - counters), counters);
    }
}
