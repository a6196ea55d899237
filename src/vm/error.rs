//! What the VM layer refuses, each with the value in hex and the limit that it broke.

use crate::arch::{AccessKind, FaultKind, Ipa};
use crate::table;

/// Why a call on a [`Vm`](super::Vm) was refused. After any error nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The table refused: a range, an attribute, or no frames left.
    #[error(transparent)]
    Table(#[from] table::Error),
    /// A field of a memory slot is not a multiple of the page size.
    #[error("slot {slot}: {what} {value:#x} is not a multiple of {required:#x}")]
    SlotAlignment {
        /// Id of the slot.
        slot: u32,
        /// Which field.
        what: &'static str,
        /// Its value, in bytes.
        value: u64,
        /// What it must be a multiple of, in bytes.
        required: u64,
    },
    /// A memory slot is empty.
    #[error("slot {slot}: size is 0x0; it must be at least {required:#x}")]
    SlotEmpty {
        /// Id of the slot.
        slot: u32,
        /// The smallest size, one page.
        required: u64,
    },
    /// A memory slot ends beyond an address space, or beyond 64 bits.
    #[error("slot {slot}: {what} {value:#x} of size {size:#x} ends beyond {limit:#x}")]
    SlotAddress {
        /// Id of the slot.
        slot: u32,
        /// Which address.
        what: &'static str,
        /// Where it starts.
        value: u64,
        /// How long the slot is, in bytes.
        size: u64,
        /// The first address that is too large.
        limit: u64,
    },
    /// The guest range of a slot overlaps that of another one.
    #[error("slot {slot} at {ipa} of size {size:#x} overlaps slot {other} at {other_ipa} of size {other_size:#x}")]
    SlotOverlap {
        /// Id of the slot that was refused.
        slot: u32,
        /// Where it was to be.
        ipa: Ipa,
        /// Its size, in bytes.
        size: u64,
        /// Id of the slot in the way.
        other: u32,
        /// Where that one is.
        other_ipa: Ipa,
        /// Its size, in bytes.
        other_size: u64,
    },
    /// Dirty rings of a VM that was made without.
    #[error("the VM has no dirty rings: its writes are logged in bitmaps")]
    NoRings,
    /// The dirty bitmap of a VM whose writes go to rings.
    #[error("slot {slot}: the VM logs writes in dirty rings, not in bitmaps")]
    RingsOnly {
        /// Id of the slot.
        slot: u32,
    },
    /// Options of a dirty log that do not go together.
    #[error("slot {slot}: {what}")]
    LogOptions {
        /// Id of the slot.
        slot: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// A slot with this id exists already.
    #[error("slot {slot} exists already")]
    SlotExists {
        /// Id of the slot.
        slot: u32,
    },
    /// No slot has this id.
    #[error("there is no slot {slot}")]
    NoSlot {
        /// The id asked for.
        slot: u32,
    },
    /// The dirty bitmap is larger than the machine's memory.
    #[error("a dirty bitmap needs {bytes:#x} bytes of memory, which there are not")]
    NoMemory {
        /// Bytes of the bitmap.
        bytes: u64,
    },
    /// The slot's dirty log is off (KVM: `ENOENT`).
    #[error("the dirty log of slot {slot} is off")]
    NotLogging {
        /// Id of the slot.
        slot: u32,
    },
    /// The slot's dirty log is on already.
    #[error("the dirty log of slot {slot} is on already")]
    AlreadyLogging {
        /// Id of the slot.
        slot: u32,
    },
    /// The pages to clear do not start and end at 64-page words of the bitmap (the end of the slot excepted), or lie
    /// outside the slot (KVM: `EINVAL`).
    #[error(
        "slot {slot}: pages {first_page:#x} + {pages:#x} cannot be cleared; both must be multiples of 0x40, or end at \
         the slot's {slot_pages:#x} pages"
    )]
    ClearRange {
        /// Id of the slot.
        slot: u32,
        /// First page of the request.
        first_page: u64,
        /// How many pages.
        pages: u64,
        /// How many pages the slot has.
        slot_pages: u64,
    },
    /// The bitmap given is shorter than the pages that it is to name.
    #[error("slot {slot}: a bitmap of {words:#x} words is too short; {required:#x} are needed")]
    BitmapLength {
        /// Id of the slot.
        slot: u32,
        /// Words given.
        words: usize,
        /// Words needed.
        required: usize,
    },
    /// A fault that no stage-2 table of this kind raises: a read refused by a leaf that should allow it.
    #[error("{access:?} permission fault at {ipa} is unexpected: every mapping made here can be read")]
    UnexpectedFault {
        /// Where.
        ipa: Ipa,
        /// What the guest did.
        access: AccessKind,
    },
    /// A fault that a memory slot cannot resolve (external abort, TLB conflict, ...).
    #[error("fault {kind:?} at {ipa} cannot be resolved by mapping memory")]
    UnsupportedFault {
        /// Where.
        ipa: Ipa,
        /// What the syndrome said.
        kind: FaultKind,
    },
    /// The host has no page behind this address, or none that may be written.
    #[error("slot {slot} has no {}host page behind {ipa}", if *write { "writable " } else { "" })]
    NoHostPage {
        /// Id of the slot.
        slot: u32,
        /// Where.
        ipa: Ipa,
        /// Whether it was to be written.
        write: bool,
    },
}
