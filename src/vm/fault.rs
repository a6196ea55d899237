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

use super::Vm;
use super::backing::largest_in_slot;
use super::counters::{FaultClass, OutcomeClass};
use super::error::Error;
use super::invalidate::Sample;
use super::ring::DirtyPage;
use super::slots::{Entry, PaSource, Slot};
use super::vcpu::Vcpu;
use crate::arch::{AccessKind, Attrs, Fault, FaultKind, Ipa, Level, MemType, Pa, Prot};
use crate::memory::TableMemory;
use crate::table::{self, Existing, MapOptions, Tlb};

/// What the host has behind one page of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPage {
    /// Physical address of the page that holds the faulting address, aligned to the granule.
    pub pa: Pa,
    /// Size in bytes (a power of two) of the host's own mapping around it, which is contiguous and aligned to it: a
    /// block larger than this is not made.
    pub size: u64,
    /// Whether the guest may write to it.
    pub writable: bool,
    /// Its memory type. Device memory is mapped page by page and never executable.
    pub memtype: MemType,
}

impl HostPage {
    /// Writable normal memory.
    pub const fn new(pa: Pa, size: u64) -> Self {
        Self {
            pa,
            size,
            writable: true,
            memtype: MemType::Normal,
        }
    }
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Resolved: the access will succeed.
    Handled(Handled),
    /// Not resolved, nothing changed and nothing marked: let the guest try the access again.
    Again(Retry),
    /// Not memory's business: somebody else has to act.
    Exit(ExitReason),
}

/// How a fault was resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// A leaf was mapped at this level.
    Mapped {
        /// Level of the leaf.
        level: Level,
    },
    /// A block at this level took the place of a table.
    Collapsed {
        /// Level of the block.
        level: Level,
    },
    /// The leaf gained the permission, or had it meanwhile.
    Relaxed,
    /// A block was split; the page gained the permission.
    Split,
    /// The leaf's access flag was set.
    MarkedYoung,
}

/// Why a fault has to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The host is taking this memory back, or did so in between.
    Invalidated,
    /// The memory slots changed in between.
    SlotsChanged,
    /// A peer was changing the entry, or had changed it first.
    Peer,
}

/// What has to be done about a fault that no memory resolves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// No memory slot there: emulate the device.
    Mmio,
    /// A write to a read-only slot: emulate it (flash, ROM).
    ReadOnly,
    /// An instruction fetch where no memory is, or from device memory: inject an abort.
    Fetch,
    /// The address is beyond the guest's address space: inject an address-size fault.
    AddressSize,
    /// The vCPU's dirty ring is nearly full: somebody has to harvest it.
    RingFull,
}

/// What a fault is about to install, decided before the section that installs it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    Map {
        ipa: Ipa,
        size: u64,
        pa: Pa,
        attrs: Attrs,
        options: MapOptions,
        done: Handled,
    },
    Relax {
        ipa: Ipa,
        size: u64,
        prot: Prot,
        done: Handled,
    },
    Young {
        ipa: Ipa,
    },
}

/// What the guest wants of the memory. A stage-1 walk reads its tables, and writes them (access flag, dirty state) only
/// if what it lacks is the permission to.
pub(crate) fn wanted(fault: &Fault) -> AccessKind {
    match (fault.s1ptw, fault.kind) {
        (false, _) => fault.access,
        (true, FaultKind::Permission) => AccessKind::Write,
        (true, _) => AccessKind::Read,
    }
}

/// What the host has at `ipa` by the slot's own description.
fn described(slot: &Slot, ipa: Ipa, largest: u64, write: bool) -> Result<HostPage, Error> {
    match slot.source {
        PaSource::Linear(base) => {
            let offset = ipa.offset_from(slot.ipa);
            let pa = base.get() + offset;
            // As large as the addresses are congruent: the host's page must be an aligned window of both.
            let congruent = 1u64
                .checked_shl((base.get() ^ slot.ipa.get()).trailing_zeros())
                .unwrap_or(u64::MAX);
            Ok(HostPage {
                writable: !slot.readonly,
                ..HostPage::new(Pa::new(pa), largest.min(congruent))
            })
        }
        PaSource::Supplied => Err(Error::NoHostPage {
            slot: slot.id,
            ipa,
            write,
        }),
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
    /// [`PaSource::Supplied`]; [`Error::Table`] if there are no frames for the tables. Nothing has changed then.
    ///
    /// ```
    /// use s2pt::arch::{AccessKind, Ipa, Level, Pa};
    /// use s2pt::vm::{Handled, Machine, Outcome, Slot};
    ///
    /// let vm = Machine::default().build(s2pt::table::Null)?;
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

    /// Step 3: what to install.
    pub(crate) fn decide(
        &self,
        fault: &Fault,
        entry: &Entry,
        ipa: Ipa,
        access: AccessKind,
        page: HostPage,
    ) -> Result<Result<Plan, Outcome>, Error> {
        let vm = self.vm();
        let geometry = vm.geometry();
        let (write, execute) = (access == AccessKind::Write, access == AccessKind::Execute);
        let device = page.memtype.is_device();
        if execute && !page.memtype.may_execute() {
            return Ok(Err(Outcome::Exit(ExitReason::Fetch)));
        }
        let logging = entry.log.is_some();
        // A page that hardware watches is mapped clean: a write that comes back makes it dirty.
        let watched = page.writable && entry.log.as_ref().is_some_and(|log| log.by_hardware());
        let mut largest = Level::L3;
        if !logging && !device {
            largest = largest_in_slot(geometry, &entry.slot, ipa, vm.largest());
            while !largest.is_last() && geometry.size(largest) > page.size {
                largest = largest.deeper().unwrap_or(Level::L3);
            }
        }
        let writable = page.writable && (write || !logging) && !watched;
        let mut prot = Prot::R;
        prot.set(Prot::W, writable);
        prot.set(
            Prot::X,
            execute || vm.config().execute_eagerly && page.memtype.may_execute(),
        );
        let size = geometry.size(largest);
        let kvm = vm.kvm();
        let map = |options, done| Plan::Map {
            ipa: ipa.align_down(size),
            size,
            pa: page.pa.align_down(size),
            attrs: Attrs {
                memtype: page.memtype,
                dbm: watched,
                ..Attrs::new(prot)
            },
            options: MapOptions {
                largest: Some(largest),
                ..vm.fault_options(options)
            },
            done,
        };
        if fault.kind == FaultKind::Translation {
            // The syndrome of a stage-1 walk's fault names a level of stage 1.
            let level = if fault.s1ptw {
                self.handle.lookup(ipa)?.level
            } else {
                fault.level
            };
            let done = if level > largest {
                Handled::Collapsed { level: largest }
            } else {
                Handled::Mapped { level: largest }
            };
            return Ok(Ok(map(
                MapOptions {
                    over_tables: !largest.is_last(),
                    ..MapOptions::FAULT
                },
                done,
            )));
        }
        let added = match access {
            AccessKind::Read => return Err(Error::UnexpectedFault { ipa, access }),
            AccessKind::Write => Prot::W,
            AccessKind::Execute => Prot::X,
        };
        let leaf = self.handle.lookup(ipa)?;
        if !leaf.pte.is_leaf(leaf.level) {
            return Ok(Err(Outcome::Again(Retry::Peer))); // it was taken away since
        }
        if leaf.level > largest {
            return Ok(Ok(map(
                MapOptions {
                    existing: Existing::Replace,
                    ..MapOptions::default()
                },
                Handled::Collapsed { level: largest },
            )));
        }
        let block = leaf.level < Level::L3;
        Ok(Ok(if logging && block && kvm {
            map(MapOptions::KVM_FAULT, Handled::Split)
        } else if logging && block {
            Plan::Relax {
                ipa,
                size,
                prot: added,
                done: Handled::Split,
            }
        } else {
            Plan::Relax {
                ipa: leaf.base,
                size: geometry.size(leaf.level),
                prot: if kvm { prot } else { added },
                done: Handled::Relaxed,
            }
        }))
    }

    /// Step 4: installs what was decided, unless it is out of date.
    #[inline]
    fn install(
        &self,
        entry: &Entry,
        ipa: Ipa,
        access: AccessKind,
        sample: Sample,
        plan: &Plan,
    ) -> Result<Outcome, Error> {
        let vm = self.vm();
        let _section = vm.gate.fault(&self.marker, ipa);
        if mutated!(MovedUnasked, false, vm.sequence.moved(ipa, sample)) {
            return Ok(Outcome::Again(Retry::Invalidated));
        }
        if mutated!(SlotsUnasked, false, self.slots.stale(&vm.slots)) {
            return Ok(Outcome::Again(Retry::SlotsChanged));
        }
        let mark = || {
            if let Some(log) = &entry.log {
                let page = ipa.offset_from(entry.slot.ipa) / vm.page_size();
                match &self.ring {
                    Some(ring) => ring.put(DirtyPage {
                        slot: entry.slot.id,
                        page,
                    }),
                    None if log.by_hardware() => {} // the leaf says it
                    None => log.mark(page),
                }
            }
        };
        mutated!(
            MarkedFirst,
            if access == AccessKind::Write {
                mark()
            }
        );
        let result = match *plan {
            Plan::Map {
                ipa,
                size,
                pa,
                attrs,
                options,
                done,
            } => self.impatient.map(ipa, size, pa, &attrs, options).map(|_| done),
            Plan::Relax { ipa, size, prot, done } => self.impatient.relax(ipa, size, prot).map(|_| done),
            Plan::Young { ipa } => self
                .impatient
                .mark_young(ipa, vm.page_size())
                .map(|_| Handled::MarkedYoung),
        };
        match result {
            Ok(done) => {
                // Only now, and still inside the section: a page that somebody may write is marked, or the fault that
                // allowed it is one that the next change of the log waits for.
                if mutated!(MarkedFirst, false, access == AccessKind::Write) && done != Handled::MarkedYoung {
                    mark();
                }
                Ok(Outcome::Handled(done))
            }
            // A peer was first, holds the entry, or took it away: the guest will see.
            Err(table::Error::Again { .. } | table::Error::NotMapped { .. }) => Ok(Outcome::Again(Retry::Peer)),
            Err(e) => Err(e.into()),
        }
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
