//! One row of a recorded run.

use crate::arch::{Fault, Ipa, Pa, Prot, SyndromeError};

/// Columns of a row.
pub const COLUMNS: usize = 21;

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The MMU refused an access. Nothing changes; the walk is compared.
    Fault,
    /// The hypervisor acts on a fault: maps, relaxes, exits, or gives up for now.
    Handled,
    /// The host takes memory back.
    Unmap,
    /// The host asks whether memory was used.
    Age,
    /// A memory slot is created, deleted, moved, or changes its flags.
    Slot,
    /// The dirty log protects memory.
    WriteProtect,
    /// Blocks are split ahead of writes.
    Split,
    /// The host maps memory outside any fault.
    Map,
    /// The table was dumped: take a snapshot of ours.
    Dump,
    /// A marker.
    Mark,
    /// The table is destroyed: the end.
    Destroy,
    /// Bits of a slot's dirty log were taken; what that protects follows in rows of its own.
    ClearLog,
}

const KINDS: [EventKind; 12] = [
    EventKind::Fault,
    EventKind::Handled,
    EventKind::Unmap,
    EventKind::Age,
    EventKind::Slot,
    EventKind::WriteProtect,
    EventKind::Split,
    EventKind::Map,
    EventKind::Dump,
    EventKind::Mark,
    EventKind::Destroy,
    EventKind::ClearLog,
];

/// What the recorded hypervisor did about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// The recording does not say.
    Unknown,
    /// It mapped.
    Map,
    /// It added permissions to a leaf.
    Relax,
    /// It left the access to the device model.
    Mmio,
    /// Nothing: an invalidation had come in between.
    Retry,
    /// It set the access flag.
    Young,
}

const CALLS: [Call; 6] = [
    Call::Unknown,
    Call::Map,
    Call::Relax,
    Call::Mmio,
    Call::Retry,
    Call::Young,
];

/// How a slot changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotChange {
    /// It is new.
    Create,
    /// It is gone.
    Delete,
    /// It has another guest address.
    Move,
    /// It has other flags.
    Flags,
}

/// A recorded event. Which fields mean something depends on the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in microseconds of the recording.
    pub time_us: u64,
    /// What it is.
    pub kind: EventKind,
    /// Whose fault; `None` for an event of the host.
    pub vcpu: Option<u32>,
    /// The faulting page, or the start of a range.
    pub ipa: Ipa,
    /// Bytes of a range.
    pub size: u64,
    /// ESR_EL2 of a fault.
    pub esr: u64,
    /// What the recorded hypervisor did about a fault.
    pub call: Call,
    /// The call's own address, bytes (zero for a relaxed leaf) and output address.
    pub map_ipa: Ipa,
    /// Bytes that the call mapped.
    pub map_size: u64,
    /// Where the call mapped them to.
    pub map_pa: Pa,
    /// The permissions that it gave.
    pub prot: Prot,
    /// What it returned: 0, or a negative error number.
    pub ret: i64,
    /// What the host had at the faulting page.
    pub pa: Pa,
    /// Size of the host's mapping around it.
    pub host_size: u64,
    /// Id of the slot.
    pub slot: Option<u32>,
    /// Host address.
    pub hva: u64,
    /// Flags of the row, or the slot's.
    pub flags: u64,
    /// Column `ref`: the dump's index, the kind of slot change, whether ageing clears.
    pub reference: i64,
}

/// A row does not say what its column should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column} holds {value:#x}, which means nothing there")]
pub struct EventError {
    /// Which column.
    pub column: &'static str,
    /// What it holds.
    pub value: u64,
}

impl Event {
    /// Flag of a fault's row: `pa` is not known.
    pub const NO_PA: u64 = 2;
    /// Flag of a fault's row: the host had mapped the page read-only.
    pub const HOST_READ_ONLY: u64 = 4;
    /// Flag of a slot: its dirty log is on.
    pub const SLOT_LOGGED: u64 = 1;
    /// Flag of a slot: the guest may not write to it.
    pub const SLOT_READ_ONLY: u64 = 2;

    /// Reads a row: time_us, kind, vcpu, tid, ipa, size, esr, far, outcome, map_ipa, map_size, map_pa, prot, ret, pa,
    /// host_size, slot, hva, flags, ref, end_us; signed columns in two's complement.
    ///
    /// # Errors
    /// [`EventError`] names the first column whose number means nothing.
    pub fn from_row(row: &[u64; COLUMNS]) -> Result<Self, EventError> {
        let [
            time_us,
            kind,
            vcpu,
            _tid,
            ipa,
            size,
            esr,
            _far,
            call,
            map_ipa,
            map_size,
            ..,
        ] = *row;
        let [.., map_pa, prot, ret, pa, host_size, slot, hva, flags, reference, _end] = *row;
        let error = |column, value| EventError { column, value };
        let index = |value: u64, first: u64| usize::try_from(value.wrapping_sub(first)).unwrap_or(usize::MAX);
        let number = |column, value: u64| match value as i64 {
            -1 => Ok(None),
            _ => u32::try_from(value).map(Some).map_err(|_| error(column, value)),
        };
        Ok(Self {
            time_us,
            kind: *KINDS.get(index(kind, 1)).ok_or(error("kind", kind))?,
            vcpu: number("vcpu", vcpu)?,
            ipa: Ipa::new(ipa),
            size,
            esr,
            call: *CALLS.get(index(call, 0)).ok_or(error("outcome", call))?,
            map_ipa: Ipa::new(map_ipa),
            map_size,
            map_pa: Pa::new(map_pa),
            prot: u8::try_from(prot)
                .ok()
                .and_then(Prot::from_bits)
                .ok_or(error("prot", prot))?,
            ret: ret as i64,
            pa: Pa::new(pa),
            host_size,
            slot: number("slot", slot)?,
            hva,
            flags,
            reference: reference as i64,
        })
    }

    /// The fault that the row's syndrome reports.
    ///
    /// # Errors
    /// If ESR_EL2 is that of no stage-2 fault.
    pub fn fault(&self) -> Result<Fault, SyndromeError> {
        Fault::from_esr(self.esr, self.ipa)
    }

    /// Whether the row belongs to a vCPU; the others are the host's.
    pub fn is_guest(&self) -> bool {
        matches!(self.kind, EventKind::Fault | EventKind::Handled)
    }

    pub(crate) fn slot_change(&self) -> Result<SlotChange, EventError> {
        match self.reference {
            0 => Ok(SlotChange::Create),
            1 => Ok(SlotChange::Delete),
            2 => Ok(SlotChange::Move),
            3 => Ok(SlotChange::Flags),
            other => Err(EventError {
                column: "ref",
                value: other as u64,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{AccessKind, FaultKind, Level};

    fn row() -> [u64; COLUMNS] {
        let mut row = [0; COLUMNS];
        row[..9].copy_from_slice(&[5, 2, 1, 215, 0x4068_e000, 0, 0x9200_0046, 0x4068_e088, 1]);
        row[9..].copy_from_slice(&[
            0x4060_0000,
            1 << 21,
            0x5300_0000,
            12,
            0,
            0x5308_e000,
            1 << 21,
            u64::MAX,
            0,
            0,
            7,
            9,
        ]);
        row
    }

    #[test]
    fn columns_land_in_their_fields() {
        let event = Event::from_row(&row()).unwrap();
        assert_eq!(
            (event.kind, event.vcpu, event.call, event.slot),
            (EventKind::Handled, Some(1), Call::Map, None)
        );
        assert_eq!(
            (event.map_ipa.get(), event.map_size, event.map_pa.get()),
            (0x4060_0000, 1 << 21, 0x5300_0000)
        );
        assert_eq!((event.prot, event.ret, event.reference), (Prot::RW, 0, 7));
        let fault = event.fault().unwrap();
        assert_eq!(
            (fault.access, fault.kind, fault.level),
            (AccessKind::Write, FaultKind::Translation, Level::L2)
        );
    }

    #[test]
    fn a_number_that_means_nothing_is_named() {
        for (at, value, column) in [
            (1, 0, "kind"),
            (1, 13, "kind"),
            (8, 6, "outcome"),
            (2, 1 << 40, "vcpu"),
            (12, 64, "prot"),
        ] {
            let mut row = row();
            row[at] = value;
            assert_eq!(Event::from_row(&row), Err(EventError { column, value }));
        }
    }

    #[test]
    fn negative_numbers_are_read() {
        let mut row = row();
        row[13] = -11i64 as u64;
        row[2] = u64::MAX;
        let event = Event::from_row(&row).unwrap();
        assert_eq!((event.ret, event.vcpu), (-11, None));
    }
}
