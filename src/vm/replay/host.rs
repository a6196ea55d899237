//! A recorded event of the host, done to our VM.

use super::event::{Event, EventError, EventKind, SlotChange};
use crate::arch::Attrs;
use crate::memory::TableMemory;
use crate::table::{MapOptions, Mapping, Tlb};
use crate::vm::{DirtyLogMode, Error, PaSource, Slot, Taken, Vm};

/// What doing it gave.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) taken: Taken,
    /// The leaves, for a dump.
    pub(super) leaves: Option<Vec<Mapping>>,
}

/// Why it could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    Vm(Error),
    Event(EventError),
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        Self::Vm(e)
    }
}

impl From<EventError> for Failed {
    fn from(e: EventError) -> Self {
        Self::Event(e)
    }
}

/// Does what the row says. A dump is a snapshot of our leaves, if `dumps`.
pub(super) fn apply<M: TableMemory, T: Tlb>(vm: &Vm<M, T>, event: &Event, dumps: bool) -> Result<Done, Failed> {
    let mut done = Done::default();
    match event.kind {
        EventKind::Unmap => done.taken = vm.take_back(event.ipa, event.size)?,
        EventKind::Age => drop(vm.age(event.ipa, event.size, event.reference != 0)?),
        EventKind::Slot => slot(vm, event)?,
        EventKind::WriteProtect => drop(vm.write_protect(event.ipa, event.size)?),
        EventKind::Split => drop(vm.split(event.ipa, event.size)?),
        EventKind::Map if event.ret == 0 => {
            let attrs = Attrs::new(event.prot);
            vm.map(
                event.map_ipa,
                event.map_size,
                event.map_pa,
                &attrs,
                MapOptions::default(),
            )?;
        }
        EventKind::Dump if dumps => done.leaves = Some(leaves(vm)?),
        // Bits of the log are not compared: the recording has none of ours to compare with.
        EventKind::Map | EventKind::Dump | EventKind::Mark | EventKind::ClearLog => {}
        EventKind::Fault | EventKind::Handled | EventKind::Destroy => {}
    }
    Ok(done)
}

fn leaves<M: TableMemory, T: Tlb>(vm: &Vm<M, T>) -> Result<Vec<Mapping>, Error> {
    let handle = vm.stage2().handle();
    Ok(handle
        .leaves(crate::arch::Ipa::new(0), vm.geometry().ipa_limit())?
        .collect())
}

fn slot<M: TableMemory, T: Tlb>(vm: &Vm<M, T>, event: &Event) -> Result<(), Failed> {
    let id = event.slot.ok_or(EventError {
        column: "slot",
        value: u64::MAX,
    })?;
    match event.slot_change()? {
        SlotChange::Create => vm.create_slot(Slot {
            id,
            ipa: event.ipa,
            size: event.size,
            host: event.hva,
            source: PaSource::Supplied,
            readonly: event.flags & Event::SLOT_READ_ONLY != 0,
        })?,
        SlotChange::Delete => {
            vm.delete_slot(id)?;
            return Ok(());
        }
        SlotChange::Move => vm.move_slot(id, event.ipa)?,
        SlotChange::Flags => {}
    }
    let logged = event.flags & Event::SLOT_LOGGED != 0;
    match (vm.dirty_log_mode(id)?.is_some(), logged) {
        // As virtual machine monitors do it: nothing is protected at first, the recording has rows for what is later.
        (false, true) => vm.enable_dirty_log(id, DirtyLogMode::ManualInitiallySet)?,
        (true, false) => vm.disable_dirty_log(id)?,
        _ => {}
    }
    Ok(())
}
