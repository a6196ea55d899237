//! How an arena is to be, and why there can be none like that.

use crate::arch::{Granule, Pa};

/// How to build an [`Arena`](super::Arena).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaOptions {
    /// Address of the first frame; a multiple of the granule.
    pub base: Pa,
    /// Size of a frame.
    pub granule: Granule,
    /// How many frames there can be at most, roots included. Address space is reserved for twice as many (roots have
    /// a part of their own); memory is used only for frames that were handed out.
    pub capacity_frames: usize,
    /// How many frames may be out or reserved at a time; `None`: as many as there are.
    pub quota: Option<usize>,
}

impl Default for ArenaOptions {
    /// 2^20 frames of 4 KiB from 4 GiB on, no quota: tables for more than a tebibyte mapped in 4 KiB pages.
    fn default() -> Self {
        Self {
            base: Pa::new(1 << 32),
            granule: Granule::K4,
            capacity_frames: 1 << 20,
            quota: None,
        }
    }
}

/// Why an [`Arena`](super::Arena) cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// The base address is not a multiple of the granule.
    #[error("base {base} of the table memory is not a multiple of {granule:#x}")]
    Base {
        /// The address given.
        base: Pa,
        /// The size of a frame, bytes.
        granule: u64,
    },
    /// No frame at all, or more than can be numbered or addressed from `base` on.
    #[error("{frames:#x} frames from {base}: the table memory takes 1 to 0x3fffffff frames, below address {limit:#x}")]
    Capacity {
        /// The capacity asked for.
        frames: usize,
        /// The base address.
        base: Pa,
        /// First address that no table frame can have.
        limit: u64,
    },
    /// The operating system refused the reservation.
    #[error("cannot reserve {bytes:#x} bytes for table frames: {source}")]
    Reserve {
        /// Bytes of address space asked for.
        bytes: u64,
        /// What it said.
        source: std::io::Error,
    },
}
