//! A recorded fault, handled on our table.
//!
//! With [`Sizes::Trace`] the fault goes through the fault handler, with what the host had there as the recording says, and the
//! guest then executes its access again until it succeeds: where our table is not what the recorded one was (a split that
//! kept the rest of a block), it may need another fault than the recorded guest.
//!
//! With [`Sizes::Recorded`] what the recorded hypervisor did is done, literally: the same map, in place of what is there, the
//! same permissions added. Where threads race for a page between two events of the host (see `script`), there is no
//! order, and a call may find that a peer was faster or slower. Then
//!
//! * a page's only map among calls that add permissions takes these along, so that it takes none away that a peer gave;
//! * a call that adds permissions where nothing is yet has the page mapped first, as its guest would;
//! * where several map, holes are filled and permissions added, and nothing is taken away;
//! * a call that lost its race in the recording races here too: it maps if it is first.
//!
//! On a table with KVM's semantics a call is KVM's: a map leaves the same output alone and drops the rest of a block.

use super::event::{Call, Event};
use super::script::Peers;
use super::{ReplayError, Sizes};
use crate::arch::{AccessKind, Attrs, Fault, FaultKind, Geometry, Ipa, Level, MemType, Pa, Prot};
use crate::memory::TableMemory;
use crate::sync::Backoff;
use crate::table::{Existing, Lookup, MapOptions, Tlb};
use crate::vm::fault::{Plan, wanted};
use crate::vm::slots::Entry;
use crate::vm::{Error, Handled, HostPage, Outcome, Retry, Slot, Vcpu, Vm};

/// A fault that does not come to an end after so many tries is a mistake in the recording or in us.
const MOST_TRIES: u32 = 10_000;

/// How faults are replayed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub(super) sizes: Sizes,
    pub(super) peers: Peers,
}

/// What became of a recorded fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replayed {
    /// It was memory's business and is settled.
    Memory,
    /// It exited to the device model.
    Exit,
    /// The recorded hypervisor had not done anything, nor do we.
    Skipped,
}

impl Guest {
    /// Replays one row of kind [`Handled`](super::EventKind::Handled).
    pub(super) fn handle<M: TableMemory, T: Tlb>(
        self,
        vcpu: &mut Vcpu<'_, M, T>,
        row: usize,
        event: &Event,
    ) -> Result<Replayed, ReplayError> {
        let fault = event.fault().map_err(|reason| ReplayError::Syndrome { row, reason })?;
        match (event.call, self.sizes, self.peers) {
            (Call::Retry, ..) => Ok(Replayed::Skipped),
            (_, Sizes::Trace, _) => execute(vcpu, row, &fault, event),
            (Call::Map | Call::Relax, _, Peers::Racing) if event.ret == 0 => race(vcpu, row, &fault, event),
            // Who lost in the recording may be first here, and KVM's map leaves what he mapped alone.
            (Call::Map, _, peers) if event.ret == 0 && peers != Peers::Absent && vcpu.vm().kvm() => {
                race(vcpu, row, &fault, event)
            }
            (Call::Relax, _, Peers::AtPage(_)) if event.ret == 0 => race(vcpu, row, &fault, event),
            (.., peers) => repeat(vcpu, row, &fault, event, peers),
        }
    }
}

/// The recorded call, again until no peer is in its way.
fn repeat<M: TableMemory, T: Tlb>(
    vcpu: &mut Vcpu<'_, M, T>,
    row: usize,
    fault: &Fault,
    event: &Event,
    peers: Peers,
) -> Result<Replayed, ReplayError> {
    let mut backoff = Backoff::new();
    for _ in 0..MOST_TRIES {
        let mut tried = false;
        let plan = |vcpu: &Vcpu<'_, M, T>, entry: &Entry, _, _| {
            let plan = literal(vcpu, entry, event, peers)?;
            tried = plan.is_ok() && event.ret == 0;
            Ok(plan)
        };
        match vcpu
            .handle_fault_as(fault, plan)
            .map_err(|source| ReplayError::Vm { row, source })?
        {
            Outcome::Exit(_) => return Ok(Replayed::Exit),
            Outcome::Again(_) if tried => backoff.wait(),
            _ => return Ok(Replayed::Memory),
        }
    }
    Err(ReplayError::Stuck { row, ipa: event.ipa })
}

/// What the host had at the faulting page, as the recording says.
fn host_page(event: &Event, slot: &Slot, write: bool) -> HostPage {
    let pa = if event.flags & Event::NO_PA == 0 {
        event.pa
    } else {
        Pa::new(event.ipa.get())
    };
    // A write made the host's page writable before the hypervisor mapped it.
    let writable = !slot.readonly && (write || event.flags & Event::HOST_READ_ONLY == 0);
    HostPage {
        pa,
        size: event.host_size,
        writable,
        memtype: MemType::Normal,
    }
}

/// The fault handler's own decision, then the access again until it succeeds.
fn execute<M: TableMemory, T: Tlb>(
    vcpu: &mut Vcpu<'_, M, T>,
    row: usize,
    fault: &Fault,
    event: &Event,
) -> Result<Replayed, ReplayError> {
    let (mut fault, access) = (*fault, wanted(fault));
    let mut backoff = Backoff::new();
    for _ in 0..MOST_TRIES {
        let host = |slot: &Slot, _: Ipa, write: bool| Ok(host_page(event, slot, write));
        match vcpu
            .handle_fault_with(&fault, host)
            .map_err(|source| ReplayError::Vm { row, source })?
        {
            Outcome::Exit(_) => return Ok(Replayed::Exit),
            Outcome::Handled(_) => {}
            // For a peer too: he may hold the entry and have lost his core.
            Outcome::Again(_) => backoff.wait(),
        }
        match vcpu.translate(fault.ipa, access) {
            Ok(_) => return Ok(Replayed::Memory),
            Err(next) => fault = next,
        }
    }
    Err(ReplayError::Stuck { row, ipa: event.ipa })
}

/// The level whose leaves have this size.
fn level_of(geometry: &Geometry, size: u64) -> Option<Level> {
    Level::ALL
        .into_iter()
        .find(|&level| level >= geometry.start_level() && geometry.size(level) == size)
}

/// Level of the recorded map call, if it is one that a leaf can have.
fn map_level(geometry: &Geometry, event: &Event) -> Result<Level, Error> {
    level_of(geometry, event.map_size).ok_or(Error::Table(crate::table::Error::Alignment {
        what: "recorded map size",
        value: event.map_size,
        required: geometry.granule().size(),
    }))
}

/// How mapping at `level` where `leaf` is will have to be called.
fn done(leaf: &Lookup, level: Level) -> Handled {
    if leaf.level > level {
        Handled::Collapsed { level }
    } else if leaf.level < level && leaf.pte.is_leaf(leaf.level) {
        Handled::Split
    } else {
        Handled::Mapped { level }
    }
}

/// The same call as recorded.
fn literal<M: TableMemory, T: Tlb>(
    vcpu: &Vcpu<'_, M, T>,
    entry: &Entry,
    event: &Event,
    peers: Peers,
) -> Result<Result<Plan, Outcome>, Error> {
    let geometry = vcpu.vm().geometry();
    if event.ret != 0 {
        if peers == Peers::Absent || event.call != Call::Map {
            return Ok(Err(Outcome::Again(Retry::Peer)));
        }
        let level = map_level(geometry, event)?;
        return Ok(Ok(map(
            event,
            event.prot,
            level,
            vcpu.vm().fault_options(MapOptions::FAULT),
            Handled::Mapped { level },
        )));
    }
    match event.call {
        Call::Map => {
            let level = map_level(geometry, event)?;
            let leaf = vcpu.handle.lookup(event.map_ipa)?;
            let prot = if let Peers::AtPage(prot) = peers {
                prot | event.prot
            } else {
                event.prot
            };
            let options = vcpu.vm().fault_options(MapOptions::default());
            Ok(Ok(map(event, prot, level, options, done(&leaf, level))))
        }
        Call::Relax => {
            let leaf = vcpu.handle.lookup(event.map_ipa)?;
            if !leaf.pte.is_leaf(leaf.level) {
                return Ok(Err(Outcome::Again(Retry::Peer)));
            }
            Ok(Ok(relax(vcpu.vm(), entry, event, &leaf, event.prot)))
        }
        Call::Young => Ok(Ok(Plan::Young { ipa: event.ipa })),
        Call::Unknown | Call::Mmio | Call::Retry => Ok(Err(Outcome::Again(Retry::Peer))),
    }
}

fn map(event: &Event, prot: Prot, level: Level, options: MapOptions, done: Handled) -> Plan {
    Plan::Map {
        ipa: event.map_ipa,
        size: event.map_size,
        pa: event.map_pa,
        attrs: Attrs::new(prot),
        options: MapOptions {
            largest: Some(level),
            ..options
        },
        done,
    }
}

/// Adds permissions to the leaf; to the page alone while the slot is logged, where whoever splits the block in the recording
/// may come later here.
fn relax<M: TableMemory, T: Tlb>(vm: &Vm<M, T>, entry: &Entry, event: &Event, leaf: &Lookup, prot: Prot) -> Plan {
    let (geometry, format) = (vm.geometry(), vm.stage2().format());
    if entry.log.is_some() && !leaf.level.is_last() {
        let (ipa, size) = (event.map_ipa.align_down(vm.page_size()), vm.page_size());
        if vm.kvm() {
            return Plan::Map {
                ipa,
                size,
                pa: Pa::new(format.output(leaf.pte, leaf.level).get() + ipa.offset_from(leaf.base)),
                attrs: Attrs::new(prot | format.prot(leaf.pte)),
                options: MapOptions::KVM_FAULT,
                done: Handled::Split,
            };
        }
        return Plan::Relax {
            ipa,
            size,
            prot,
            done: Handled::Split,
        };
    }
    Plan::Relax {
        ipa: leaf.base,
        size: geometry.size(leaf.level),
        prot,
        done: Handled::Relaxed,
    }
}

/// The recorded call among racing peers: until what it gave is there.
fn race<M: TableMemory, T: Tlb>(
    vcpu: &mut Vcpu<'_, M, T>,
    row: usize,
    fault: &Fault,
    event: &Event,
) -> Result<Replayed, ReplayError> {
    let mut backoff = Backoff::new();
    for _ in 0..MOST_TRIES {
        let mut settled = false;
        let plan = |vcpu: &Vcpu<'_, M, T>, entry: &Entry, _, _| {
            let next = missing(vcpu, entry, fault, event)?;
            settled = next.is_none();
            Ok(next.ok_or(Outcome::Again(Retry::Peer)))
        };
        let outcome = vcpu
            .handle_fault_as(fault, plan)
            .map_err(|source| ReplayError::Vm { row, source })?;
        match outcome {
            Outcome::Exit(_) => return Ok(Replayed::Exit),
            _ if settled => return Ok(Replayed::Memory),
            // Once more: a map that filled a hole may have left a permission of the row to add.
            Outcome::Handled(Handled::MarkedYoung) => return Ok(Replayed::Memory),
            Outcome::Handled(_) => {}
            Outcome::Again(_) => backoff.wait(),
        }
    }
    Err(ReplayError::Stuck { row, ipa: event.ipa })
}

/// What the row gave and is not there yet.
fn missing<M: TableMemory, T: Tlb>(
    vcpu: &Vcpu<'_, M, T>,
    entry: &Entry,
    fault: &Fault,
    event: &Event,
) -> Result<Option<Plan>, Error> {
    let vm = vcpu.vm();
    let (geometry, format) = (vm.geometry(), vm.stage2().format());
    let found = vcpu.handle.lookup(event.map_ipa)?;
    let is_leaf = found.pte.is_leaf(found.level);
    let lacks = |prot: Prot| prot.difference(format.prot(found.pte));
    match event.call {
        Call::Map => {
            let level = map_level(geometry, event)?;
            if !is_leaf || found.level > level {
                let options = MapOptions {
                    over_tables: !level.is_last(),
                    ..MapOptions::FAULT
                };
                return Ok(Some(map(
                    event,
                    event.prot,
                    level,
                    vm.fault_options(options),
                    done(&found, level),
                )));
            }
            let offset = event.map_ipa.offset_from(found.base);
            if format.output(found.pte, found.level).get() + offset != event.map_pa.get() {
                let options = MapOptions {
                    existing: Existing::Replace,
                    ..MapOptions::default()
                };
                return Ok(Some(map(
                    event,
                    event.prot,
                    level,
                    vm.fault_options(options),
                    done(&found, level),
                )));
            }
            let prot = lacks(event.prot);
            if vm.kvm() && found.level < level && !prot.is_empty() {
                return Ok(Some(map(
                    event,
                    event.prot,
                    level,
                    MapOptions::KVM_FAULT,
                    Handled::Split,
                )));
            }
            Ok((!prot.is_empty()).then(|| Plan::Relax {
                ipa: event.map_ipa,
                size: event.map_size,
                prot,
                done: if found.level < level {
                    Handled::Split
                } else {
                    Handled::Relaxed
                },
            }))
        }
        Call::Relax if is_leaf => {
            let prot = lacks(event.prot);
            Ok((!prot.is_empty()).then(|| relax(vm, entry, event, &found, prot)))
        }
        // The peer that maps it in the recording comes later here: the guest would find nothing and have it mapped.
        Call::Relax => {
            let absent = Fault {
                kind: FaultKind::Translation,
                level: found.level,
                s1ptw: false,
                ..*fault
            };
            let access = wanted(fault);
            let page = host_page(event, &entry.slot, access == AccessKind::Write);
            vcpu.decide(&absent, entry, event.ipa, access, page).map(Result::ok)
        }
        Call::Young => Ok(Some(Plan::Young { ipa: event.ipa })),
        Call::Unknown | Call::Mmio | Call::Retry => Ok(None),
    }
}
