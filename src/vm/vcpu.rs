//! One vCPU's way into the VM: what it keeps for itself so that its faults share nothing.

use super::Vm;
use super::counters::Counters;
use super::error::Error;
use super::fault::{ExitReason, HostPage, Outcome};
use super::policy::Marker;
use super::ring::Ring;
use super::slots::{CachedSlots, Slot};
use crate::arch::{AccessKind, Fault, Format, Ipa, Prot};
use crate::memory::TableMemory;
use crate::sync::{Arc, Backoff};
use crate::table::{self, Handle, Local, Null, Tlb, Translation};

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
    /// Where its writes are logged, if the VM has rings.
    pub(crate) ring: Option<Arc<Ring>>,
    pub(crate) counters: Counters,
}

/// What a vCPU keeps while nobody uses it, for threads that cannot hold on to a [`Vcpu`], since that borrows the VM.
///
/// It belongs to the thread that made the vCPU, and should not outlive the VM by long: see [`Stage2::register`].
///
/// [`Stage2::register`]: crate::table::Stage2::register
pub struct Parked {
    local: Local,
    marker: Arc<Marker>,
    slots: CachedSlots,
    ring: Option<Arc<Ring>>,
}

impl core::fmt::Debug for Parked {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Parked")
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

impl<M: TableMemory, T: Tlb> Vm<M, T> {
    /// The vCPU that [`Vcpu::park`] put away, at next to no cost; its counters start at zero.
    ///
    /// # Errors
    /// Gives `parked` back if it is of another VM.
    ///
    /// ```
    /// use s2pt::arch::{AccessKind, Ipa, Pa};
    /// use s2pt::vm::{VmOptions, Slot};
    ///
    /// let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// let parked = vm.vcpu().park();
    /// let mut vcpu = vm.unpark(parked).unwrap();
    /// vcpu.access(Ipa::new(0x8000_1000), AccessKind::Write)?;
    /// assert!(VmOptions::default().build(s2pt::table::Null)?.unpark(vcpu.park()).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn unpark(&self, parked: Parked) -> Result<Vcpu<'_, M, T>, Parked> {
        let Some(handle) = self.stage2.handle_of(&parked.local) else {
            return Err(parked);
        };
        let Parked {
            marker, slots, ring, ..
        } = parked;
        Ok(Vcpu::with(self, handle, marker, slots, ring))
    }
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
        let ring = vm.rings.register();
        Self::with(
            vm,
            vm.stage2.handle(),
            vm.gate.register(),
            CachedSlots::new(&vm.slots),
            ring,
        )
    }

    #[inline(always)]
    fn with(
        vm: &'v Vm<M, T>,
        handle: Handle<'v, M, T>,
        marker: Arc<Marker>,
        slots: CachedSlots,
        ring: Option<Arc<Ring>>,
    ) -> Self {
        Self {
            vm,
            impatient: handle.without_waiting(),
            handle,
            marker,
            slots,
            ring,
            counters: Counters::default(),
        }
    }

    /// Puts the vCPU away until [`Vm::unpark`].
    #[inline(always)]
    pub fn park(self) -> Parked {
        Parked {
            local: self.handle.access.clone(),
            marker: self.marker,
            slots: self.slots,
            ring: self.ring,
        }
    }

    /// The VM that it belongs to.
    #[inline]
    pub fn vm(&self) -> &'v Vm<M, T> {
        self.vm
    }

    /// Its registration with the table, for looking and for changing.
    #[inline]
    pub fn handle(&self) -> &Handle<'v, M, T> {
        &self.handle
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
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, Ipa, Pa};
    /// # use s2pt::vm::{Slot, VmOptions};
    /// # let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// # vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// # let mut vcpu = vm.vcpu();
    /// assert_eq!(vcpu.access(Ipa::new(0x8000_1234), AccessKind::Write)?.pa, Pa::new(0x4000_1234));
    /// assert_eq!(vcpu.counters().total(), 1); // one fault, which mapped a block
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn access(&mut self, ipa: Ipa, access: AccessKind) -> Result<Translation, AccessError> {
        let hit = match self.handle.translate(ipa, access) {
            Ok(hit) => hit,
            Err(fault) => self.access_faulting(ipa, access, fault, Self::handle_fault)?,
        };
        if is_noted(&hit, access) {
            self.note(ipa, access)?;
        }
        Ok(hit)
    }

    /// [`access`](Self::access) with the host's page given by `host`, as for [`handle_fault_with`](Self::handle_fault_with).
    ///
    /// # Errors
    /// As [`access`](Self::access), and whatever `host` returns.
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, Ipa, MemType, Pa};
    /// # use s2pt::vm::{HostPage, PaSource, Slot, VmOptions};
    /// # let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// # vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// # let mut vcpu = vm.vcpu();
    /// let memory = Slot::linear(1, Ipa::new(0x1_0000_0000), 2 << 20, Pa::new(0));
    /// vm.create_slot(Slot { source: PaSource::Supplied, ..memory })?;
    /// let page = HostPage { pa: Pa::new(0x5000), size: 0x1000, writable: true, memtype: MemType::Normal };
    /// let host = |_: &Slot, _, _| Ok(page);
    /// assert_eq!(vcpu.access_with(Ipa::new(0x1_0000_0008), AccessKind::Write, host)?.pa, Pa::new(0x5008));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn access_with(
        &mut self,
        ipa: Ipa,
        access: AccessKind,
        host: impl Fn(&Slot, Ipa, bool) -> Result<HostPage, Error>,
    ) -> Result<Translation, AccessError> {
        let handle = |vcpu: &mut Self, fault: &Fault| vcpu.handle_fault_with(fault, &host);
        let hit = match self.handle.translate(ipa, access) {
            Ok(hit) => hit,
            Err(fault) => self.access_faulting(ipa, access, fault, handle)?,
        };
        if is_noted(&hit, access) {
            self.note(ipa, access)?;
        }
        Ok(hit)
    }

    /// No simulated hardware is between: what it would write into the leaf is written here.
    #[cold]
    fn note(&self, ipa: Ipa, access: AccessKind) -> Result<(), Error> {
        let (page, size) = (ipa.align_down(self.vm.page_size()), self.vm.page_size());
        if access == AccessKind::Write {
            self.handle.note_write(page)?;
        }
        match self.handle.mark_young(page, size) {
            // Somebody took it away since: hardware's access was before that.
            Ok(_) | Err(table::Error::NotMapped { .. } | table::Error::Again { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// [`access`](Self::access) that waits for nobody and handles one fault at most: `None` if that was not enough.
    ///
    /// # Errors
    /// As [`access`](Self::access).
    #[inline]
    pub fn try_access(&mut self, ipa: Ipa, access: AccessKind) -> Result<Option<Translation>, AccessError> {
        match self.handle.translate(ipa, access) {
            Ok(hit) if is_noted(&hit, access) => Ok(None),
            Ok(hit) => Ok(Some(hit)),
            Err(fault) => match self.handle_fault(&fault)? {
                Outcome::Exit(reason) => Err(AccessError::Exit { ipa, reason }),
                Outcome::Again(_) => Ok(None),
                Outcome::Handled(_) => Ok(self.handle.translate(ipa, access).ok()),
            },
        }
    }

    fn access_faulting(
        &mut self,
        ipa: Ipa,
        access: AccessKind,
        mut fault: Fault,
        handle: impl Fn(&mut Self, &Fault) -> Result<Outcome, Error>,
    ) -> Result<Translation, AccessError> {
        let mut backoff = Backoff::new();
        loop {
            match handle(self, &fault)? {
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

/// Whether hardware would write into the leaf at this access: that it was accessed, that it was written to.
#[inline]
const fn is_noted(hit: &Translation, access: AccessKind) -> bool {
    let old = hit.leaf.raw() & Format::AF_BIT == 0;
    old || matches!(access, AccessKind::Write) && !hit.prot.contains(Prot::W)
}
