//! Why a workload did not run, or ended early.

use super::crew::NoThreads;
use crate::vm::{AccessError, Error};

/// Why a run did not happen or ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// A count is outside its range.
    #[error("{what} is {value} ({value:#x}); it must be {min} {}", most(*max, max))]
    Option {
        /// Which option.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The least it may be.
        min: u64,
        /// The most it may be; `u64::MAX` if nothing else limits it.
        max: u64,
    },
    /// A number of bytes is outside its range.
    #[error("{what} is {value:#x}; it must be {min:#x} {}", most(*max, &format!("{max:#x}")))]
    Size {
        /// Which option.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The least it may be.
        min: u64,
        /// The most it may be; `u64::MAX` if nothing else limits it.
        max: u64,
    },
    /// The memory of a vCPU is not whole pages.
    #[error("bytes per vCPU {value:#x} is not a multiple of {required:#x}")]
    Alignment {
        /// Bytes per vCPU.
        value: u64,
        /// The granule, or the host's page where the workload needs whole ones.
        required: u64,
    },
    /// The slots are too small for all vCPUs.
    #[error("slot {slot} has {size:#x} bytes; the run needs {required:#x}")]
    SlotTooSmall {
        /// Id of the first slot.
        slot: u32,
        /// Size of all slots in bytes.
        size: u64,
        /// What the vCPUs need together.
        required: u64,
    },
    /// Two slots that are to be one piece of guest memory are not.
    #[error("slot {slot} does not begin where slot {before} ends")]
    SlotsApart {
        /// Id of a slot.
        slot: u32,
        /// Id of the one before it.
        before: u32,
    },
    /// The memory cannot be mapped in whole pages of the host.
    #[error("the memory from slot {slot} on cannot be mapped in whole pages of {size:#x} bytes")]
    NoBlocks {
        /// Id of the first slot.
        slot: u32,
        /// Bytes of such a page.
        size: u64,
    },
    /// A call on the VM was refused.
    #[error(transparent)]
    Vm(#[from] Error),
    /// An access of a vCPU failed.
    #[error("vCPU {vcpu}: {reason}")]
    Access {
        /// Which one.
        vcpu: usize,
        /// Why.
        reason: AccessError,
    },
    /// The run would fill more memory than the machine has.
    #[error(
        "the run would take {} MiB of memory ({} for the guest's bytes, {} for tables, {} for dirty logs), \
         and {} MiB are available",
        mebibytes(*guest).saturating_add(mebibytes(*tables)).saturating_add(mebibytes(*logs)),
        mebibytes(*guest), mebibytes(*tables), mebibytes(*logs), available >> 20
    )]
    NoRoom {
        /// Bytes of the guest's, where they are real.
        guest: u64,
        /// Bytes of table frames.
        tables: u64,
        /// Bytes of bitmaps, rings, and what was taken out of rings.
        logs: u64,
        /// Bytes that could be had.
        available: u64,
    },
    /// There is no address space for the guest's memory once more.
    #[error("no address space for {bytes:#x} bytes of guest memory")]
    Memory {
        /// How many bytes.
        bytes: u64,
    },
    /// There are not enough threads.
    #[error(transparent)]
    Threads(#[from] NoThreads),
}

fn most(max: u64, shown: &dyn core::fmt::Display) -> String {
    match max {
        u64::MAX => String::from("or more"),
        _ => format!("to {shown}"),
    }
}

const fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Refuses a number of bytes outside its range.
pub(crate) fn within_bytes(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), WorkloadError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(WorkloadError::Size { what, value, min, max })
    }
}

/// Refuses a count outside its range.
pub(crate) fn within(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), WorkloadError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(WorkloadError::Option { what, value, min, max })
    }
}
