//! Eight threads change one table at once. Whatever they do, no acknowledged operation may be lost, no CPU may keep a translation
//! that was taken away, and every frame must come back.

#[path = "../chance/mod.rs"]
mod chance;
mod chaos;
mod kvm;
mod log;
mod owners;
mod soft_tlb;
mod support;
