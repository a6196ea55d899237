//! The fault handler: what a stage-2 fault means for the memory slot that it hits.
//!
//! 1. Is it memory? No slot, or a write to a read-only one: exit to whoever emulates devices.
//! 2. Sample the invalidation sequence, then ask what the host has there.
//! 3. Decide, from the fault, the slot's logging, the host's page and the leaf that is there now:
//!
//! | fault | logging | what is there | action |
//! |---|---|---|---|
//! | translation | no | hole | map at the largest size allowed; a block may take the place of a table |
//! | translation, write | yes | hole | map one writable page, mark it dirty |
//! | translation, other | yes | hole | map one read-only page |
//! | permission, write | yes | page | let it write, mark it dirty |
//! | permission, write | yes | block | let that page write, which splits the block in one break; mark it dirty |
//! | permission, write or fetch | no | leaf as large as allowed, or larger | relax the leaf |
//! | permission, write or fetch | no | page in a table, a block is allowed | map the block over the table |
//! | permission, fetch | yes | any leaf | let that page execute |
//! | permission, read | | | error: nothing is mapped unreadable here |
//! | access flag | | | mark the leaf young |
//!
//! 4. In a section that changes by the host wait for (`policy`): look again at sequence and slots, install, and only
//!    after success mark the page dirty. Marking on a retry would report pages that nobody wrote.
//!
//! Source of the rules: KVM-SEMANTICS 3.17 and 4.2. On a table with KVM's semantics three answers are KVM's: under logging
//! a permission fault on a block maps its page alone, and the rest of the block faults again; a relax grants all that the
//! host's page allows, not only what the access lacked; and a map replaces what is there unless it leads to the same memory.

mod decide;
mod install;
mod outcome;

pub(crate) use decide::Plan;
pub(crate) use decide::described;
pub use outcome::{ExitReason, Handled, HostPage, Outcome, Retry};

use super::Vm;
use super::counters::{FaultClass, OutcomeClass};
use super::error::Error;
use super::slots::{Entry, Slot};
use super::vcpu::Vcpu;
use crate::arch::{AccessKind, Fault, FaultKind, Ipa};
use crate::memory::TableMemory;
use crate::table::Tlb;

/// What the guest wants of the memory. A stage-1 walk reads its tables, and writes them (access flag, dirty state) only
/// if what it lacks is the permission to.
pub(crate) fn wanted(fault: &Fault) -> AccessKind {
    match (fault.s1ptw, fault.kind) {
        (false, _) => fault.access,
        (true, FaultKind::Permission) => AccessKind::Write,
        (true, _) => AccessKind::Read,
    }
}

impl<M: TableMemory, T: Tlb> Vcpu<'_, M, T> {
    /// Handles a stage-2 fault of this vCPU: maps what the slot has there, or says who else has to act.
    ///
    /// `fault` is what the syndrome registers say ([`Fault::from_registers`]); its address need not be aligned.
    /// After [`Outcome::Handled`] and [`Outcome::Again`] the guest executes the access again.
    ///
    /// It never waits for another vCPU or for the host, except, under `Serial` and `Parallel`, for the lock. Any number of
    /// vCPUs may do this beside every call on [`Vm`].
    ///
    /// # Errors
    /// [`Error::UnexpectedFault`], [`Error::UnsupportedFault`], [`Error::NoHostPage`] for a slot with
    /// [`PaSource::Supplied`](super::PaSource::Supplied); [`Error::Table`] if there are no frames for the tables. Nothing has
    /// changed then.
    ///
    /// ```
    /// use s2pt::arch::{AccessKind, Ipa, Level, Pa};
    /// use s2pt::vm::{Handled, VmOptions, Outcome, Slot};
    ///
    /// let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// let mut vcpu = vm.vcpu();
    /// let fault = vcpu.translate(Ipa::new(0x8000_1234), AccessKind::Write).unwrap_err();
    /// assert_eq!(vcpu.handle_fault(&fault)?, Outcome::Handled(Handled::Mapped { level: Level::L2 }));
    /// assert_eq!(vcpu.translate(Ipa::new(0x8000_1234), AccessKind::Write).unwrap().pa, Pa::new(0x4000_1234));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn handle_fault(&mut self, fault: &Fault) -> Result<Outcome, Error> {
        let largest = self.vm().largest_size();
        self.handle_fault_with(fault, |slot, ipa, write| described(slot, ipa, largest, write))
    }

    /// [`handle_fault`](Self::handle_fault) with the host's page given by `host(slot, ipa, write)`, `ipa` aligned to the
    /// granule.
    ///
    /// `host` is called after the invalidation sequence was sampled and outside every lock: it may block, and may itself
    /// take memory back (the fault then answers `Again`).
    ///
    /// # Errors
    /// As [`handle_fault`](Self::handle_fault), and whatever `host` returns; [`Error::NoHostPage`] if it gives a page that
    /// may not be written for a write.
    ///
    /// An example of such a function is at [`access_with`](Self::access_with).
    pub fn handle_fault_with(
        &mut self,
        fault: &Fault,
        host: impl FnOnce(&Slot, Ipa, bool) -> Result<HostPage, Error>,
    ) -> Result<Outcome, Error> {
        self.count(fault, |vcpu| {
            vcpu.resolve(fault, |vcpu, entry, ipa, access| {
                let write = access == AccessKind::Write;
                let page = host(&entry.slot, ipa, write)?;
                if write && !page.writable {
                    return Err(Error::NoHostPage {
                        slot: entry.slot.id,
                        ipa,
                        write,
                    });
                }
                vcpu.decide(fault, entry, ipa, access, page)
            })
        })
    }

    /// [`handle_fault`](Self::handle_fault) with step 3 left to the caller.
    pub(crate) fn handle_fault_as(
        &mut self,
        fault: &Fault,
        plan: impl FnOnce(&Self, &Entry, Ipa, AccessKind) -> Result<Result<Plan, Outcome>, Error>,
    ) -> Result<Outcome, Error> {
        self.count(fault, |vcpu| vcpu.resolve(fault, plan))
    }

    /// Counts what `handle` makes of the fault.
    #[inline]
    fn count(
        &mut self,
        fault: &Fault,
        handle: impl FnOnce(&mut Self) -> Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        self.vm().config().exit_cost.pay();
        let outcome = handle(self);
        self.counters
            .count(FaultClass::of(fault.kind, wanted(fault)), class(&outcome));
        outcome
    }

    /// Steps 1 to 4 of the module's header; `plan` is step 3.
    #[inline]
    fn resolve(
        &mut self,
        fault: &Fault,
        plan: impl FnOnce(&Self, &Entry, Ipa, AccessKind) -> Result<Result<Plan, Outcome>, Error>,
    ) -> Result<Outcome, Error> {
        let vm = self.vm();
        let ipa = fault.ipa.align_down(vm.page_size());
        let access = wanted(fault);
        self.slots.refresh(&vm.slots);
        let mut hint = self.slots.hint;
        let found = self.slots.table.find(ipa, &mut hint);
        let Some(entry) = found else {
            return Ok(Outcome::Exit(no_memory(vm, ipa, access)));
        };
        if entry.slot.readonly && access == AccessKind::Write {
            return Ok(Outcome::Exit(ExitReason::ReadOnly));
        }
        if entry.log.is_some() && self.ring.as_ref().is_some_and(|ring| ring.is_soft_full()) {
            return Ok(Outcome::Exit(ExitReason::RingFull));
        }
        let sample = vm.sequence.sample(ipa);
        if sample.in_progress() {
            return Ok(Outcome::Again(Retry::Invalidated));
        }
        let plan = match fault.kind {
            FaultKind::AccessFlag => Plan::Young { ipa },
            FaultKind::Translation | FaultKind::Permission => match plan(self, entry, ipa, access)? {
                Ok(plan) => plan,
                Err(outcome) => return Ok(outcome),
            },
            kind => return Err(Error::UnsupportedFault { ipa, kind }),
        };
        let outcome = self.install(entry, ipa, access, sample, &plan);
        self.slots.hint = hint;
        outcome
    }
}

#[cold]
fn no_memory<M: TableMemory, T: Tlb>(vm: &Vm<M, T>, ipa: Ipa, access: AccessKind) -> ExitReason {
    if ipa.get() >= vm.geometry().ipa_limit() {
        ExitReason::AddressSize
    } else if access == AccessKind::Execute {
        ExitReason::Fetch
    } else {
        ExitReason::Mmio
    }
}

fn class(outcome: &Result<Outcome, Error>) -> OutcomeClass {
    let Ok(outcome) = outcome else {
        return OutcomeClass::Error;
    };
    match outcome {
        Outcome::Handled(Handled::Mapped { level }) if level.is_last() => OutcomeClass::MappedPage,
        Outcome::Handled(Handled::Mapped { .. }) => OutcomeClass::MappedBlock,
        Outcome::Handled(Handled::Collapsed { .. }) => OutcomeClass::Collapsed,
        Outcome::Handled(Handled::Relaxed) => OutcomeClass::Relaxed,
        Outcome::Handled(Handled::Split) => OutcomeClass::Split,
        Outcome::Handled(Handled::MarkedYoung) => OutcomeClass::MarkedYoung,
        Outcome::Again(Retry::Invalidated) => OutcomeClass::AgainInvalidated,
        Outcome::Again(Retry::SlotsChanged) => OutcomeClass::AgainSlots,
        Outcome::Again(Retry::Peer) => OutcomeClass::AgainPeer,
        Outcome::Exit(ExitReason::Mmio) => OutcomeClass::ExitMmio,
        Outcome::Exit(ExitReason::ReadOnly) => OutcomeClass::ExitReadOnly,
        Outcome::Exit(ExitReason::Fetch | ExitReason::AddressSize) => OutcomeClass::ExitAbort,
        Outcome::Exit(ExitReason::RingFull) => OutcomeClass::ExitRingFull,
    }
}
