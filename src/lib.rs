//! The Arm stage-2 page table as a library.

#![cfg_attr(not(any(feature = "std", loom, shuttle)), no_std)]

extern crate alloc;

#[macro_use]
mod faults;

pub mod arch;
#[cfg(all(feature = "std", not(loom), not(shuttle)))]
pub mod bench;
#[cfg(all(feature = "std", not(loom), not(shuttle)))]
pub mod history;
pub mod image;
#[cfg(all(feature = "std", not(loom)))]
pub mod machine;
pub mod memory;
pub mod sync;
pub mod table;
#[cfg(all(feature = "std", not(loom), not(shuttle)))]
pub mod vm;
// Not the layer, but what of it others meet in.
#[cfg(all(test, loom))]
#[path = "vm/loom_tests.rs"]
mod vm_loom_tests;

#[cfg(feature = "python")]
mod python;

/// The README's examples are tested like those of the documentation.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
