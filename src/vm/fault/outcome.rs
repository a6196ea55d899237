//! What the host says of a page, and what becomes of a fault.

use crate::arch::{Level, MemType, Pa};

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
