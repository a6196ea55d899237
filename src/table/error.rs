//! What an operation can refuse, each with the value in hex and the limit that it broke.

use super::semantics::WalkFlags;
use crate::arch::{AttrsError, GeometryError, Ipa, Level, Pte, VttbrError};
use crate::memory::OutOfFrames;

/// Why an operation on the table was refused. After any error the table's mappings are as they were (but see
/// [`Semantics::Kvm`](super::Semantics::Kvm), under which an operation may end part way).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address or a size is not a multiple of what the operation works in.
    #[error("{what} {value:#x} is not a multiple of {required:#x}")]
    Alignment {
        /// Which argument.
        what: &'static str,
        /// Its value, in bytes.
        value: u64,
        /// What it must be a multiple of, in bytes.
        required: u64,
    },
    /// A range ends beyond the address space, or beyond 64 bits.
    #[error("{what} {value:#x} of size {size:#x} ends beyond {limit:#x}")]
    Address {
        /// Which argument.
        what: &'static str,
        /// Where the range starts.
        value: u64,
        /// How long it is, in bytes.
        size: u64,
        /// The first address that is too large.
        limit: u64,
    },
    /// A size of zero: an operation on nothing is taken for a mistake.
    #[error("size of the range at {ipa} is 0x0; it must be at least {required:#x}")]
    ZeroSize {
        /// Where the range starts.
        ipa: Ipa,
        /// The smallest size, one page.
        required: u64,
    },
    /// An owner that no mark can name.
    #[error("owner {owner:#x} at {ipa} is beyond {most:#x}")]
    Owner {
        /// Where it was to be written.
        ipa: Ipa,
        /// The owner.
        owner: u64,
        /// The largest that there is.
        most: u64,
    },
    /// Nothing is mapped where the operation needs a mapping.
    #[error("nothing is mapped at {ipa} (the walk ends at level {level})")]
    NotMapped {
        /// The first address without a mapping.
        ipa: Ipa,
        /// Where the walk ended.
        level: Level,
    },
    /// Something is there already that the operation was told not to touch.
    #[error("{ipa} is taken: level {level} entry {:#x}", raw.raw())]
    Conflict {
        /// Where.
        ipa: Ipa,
        /// At which level.
        level: Level,
        /// The entry found.
        raw: Pte,
    },
    /// The memory has too few frames for the tables that the operation needs. Nothing was changed.
    #[error("the operation needs {needed} table frames and {available} are available")]
    OutOfFrames {
        /// How many it needs.
        needed: usize,
        /// How many there were.
        available: usize,
    },
    /// A peer is changing this entry or changed it first: look again (on a fault, re-enter the guest).
    #[error("{ipa} is being changed by a peer, or was changed first (level {level}): try again")]
    Again {
        /// Where.
        ipa: Ipa,
        /// At which level.
        level: Level,
    },
    /// The attributes contradict each other, or this table's format has no room for them.
    #[error("attributes refused at {ipa}: {reason}")]
    Attrs {
        /// Where they were to go.
        ipa: Ipa,
        /// What is wrong with them.
        reason: AttrsError,
    },
    /// Walk flags on a table that has not KVM's semantics.
    #[error("walk flags {:#x} need a table with KVM's semantics", flags.bits())]
    Flags {
        /// The flags.
        flags: WalkFlags,
    },
    /// Dirty state in hardware's hands on a table that was made without it.
    #[error("hardware notes writes only in a table made with hd")]
    NoDirtyState,
    /// The geometry does not exist.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The root does not lie where VTTBR_EL2 can point to.
    #[error(transparent)]
    Root(#[from] VttbrError),
}

impl From<OutOfFrames> for Error {
    fn from(e: OutOfFrames) -> Self {
        Self::OutOfFrames {
            needed: e.needed,
            available: e.available,
        }
    }
}
