//! The Arm stage-2 page table as a library: many threads change one live table at once, without a writer lock.
//!
//! | module | holds |
//! |---|---|
//! | [`arch`] | what the architecture says: addresses, geometry, descriptors, registers, syndromes, TLBIs |
//! | [`memory`] | where frames for tables come from: a trait, and an arena |
//! | [`table`] | the table itself: a [`Stage2`](table::Stage2), and a [`View`](table::View) with all its operations |
//! | [`vm`] | what a hypervisor does around it: slots, faults, lock policies, dirty logs; whole experiments |
//! | [`machine`] | simulated CPUs that walk a live table and say which rule of maintenance was broken |
//! | [`image`] | tables in somebody's dump: walked, explained, compared, printed |
//!
//! Begin with the example at [`table::Stage2`]. Without the feature `std` the core is `no_std` + `alloc`: `arch`, the trait of
//! `memory`, `table` and `image`. Nothing here executes a TLBI or a barrier: they go to a [`Tlb`](table::Tlb), as data.

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
