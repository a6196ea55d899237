//! One vCPU's way into the VM: what it keeps for itself so that its faults share nothing.

use super::Vm;
use super::counters::Counters;
use super::error::Error;
use super::fault::{ExitReason, Outcome};
use super::policy::Marker;
use super::slots::CachedSlots;
use crate::arch::{AccessKind, Fault, Ipa};
use crate::memory::TableMemory;
use crate::sync::{Arc, Backoff};
use crate::table::{Handle, Null, Tlb, Translation};

/// A vCPU: takes faults. Made by [`Vm::vcpu`] on the thread that uses it, and kept there.
#[derive(Debug)]
pub struct Vcpu<'v, M: TableMemory, T: Tlb = Null> {
    vm: &'v Vm<M, T>,
    /// For looking.
    pub(crate) handle: Handle<'v, M, T>,
    /// For changing: answers `Again` where the other one would wait.
    pub(crate) impatient: Handle<'v, M, T>,
    pub(crate) marker: Arc<Marker>,
    pub(crate) slots: CachedSlots,
    pub(crate) counters: Counters,
}

/// Why an access of the guest came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It is nothing that memory resolves.
    #[error("{ipa}: {reason:?}")]
    Exit {
        /// Where.
        ipa: Ipa,
        /// Who has to act.
        reason: ExitReason,
    },
    /// Its fault could not be handled.
    #[error(transparent)]
    Fault(#[from] Error),
}

impl<'v, M: TableMemory, T: Tlb> Vcpu<'v, M, T> {
    pub(crate) fn new(vm: &'v Vm<M, T>) -> Self {
        let handle = vm.stage2.handle();
        Self {
            vm,
            impatient: handle.without_waiting(),
            handle,
            marker: vm.gate.register(),
            slots: CachedSlots::new(&vm.slots),
            counters: Counters::default(),
        }
    }

    /// The VM that it belongs to.
    #[inline]
    pub fn vm(&self) -> &'v Vm<M, T> {
        self.vm
    }

    /// What its faults were and how they ended, so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What the MMU answers to an access: the translation, or the fault that the guest takes.
    ///
    /// # Errors
    /// The [`Fault`], to be given to [`handle_fault`](Self::handle_fault).
    #[inline]
    pub fn translate(&self, ipa: Ipa, access: AccessKind) -> Result<Translation, Fault> {
        self.handle.translate(ipa, access)
    }

    /// Executes an access: asks the MMU, handles its fault, and tries again until it succeeds, as a guest does.
    ///
    /// `ipa` need not be aligned. Where a peer is changing the entry it waits a little before it tries again.
    ///
    /// # Errors
    /// [`AccessError`] if the access exits (no memory there) or a fault cannot be handled.
    #[inline]
    pub fn access(&mut self, ipa: Ipa, access: AccessKind) -> Result<Translation, AccessError> {
        match self.handle.translate(ipa, access) {
            Ok(hit) => Ok(hit),
            Err(fault) => self.access_faulting(ipa, access, fault),
        }
    }

    fn access_faulting(&mut self, ipa: Ipa, access: AccessKind, mut fault: Fault) -> Result<Translation, AccessError> {
        let mut backoff = Backoff::new();
        loop {
            match self.handle_fault(&fault)? {
                Outcome::Exit(reason) => return Err(AccessError::Exit { ipa, reason }),
                Outcome::Again(_) => backoff.wait(),
                Outcome::Handled(_) => {}
            }
            match self.handle.translate(ipa, access) {
                Ok(hit) => return Ok(hit),
                Err(next) => fault = next,
            }
        }
    }
}

impl<M: TableMemory, T: Tlb> Drop for Vcpu<'_, M, T> {
    fn drop(&mut self) {
        self.vm.gate.unregister(&self.marker);
    }
}
