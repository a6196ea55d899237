//! The contestants, one file for each library.

pub mod aarch64_paging;
pub mod alone;
pub mod btree;
pub mod locked;
pub mod multiarch;
pub mod s2pt;
pub mod x86_64;
