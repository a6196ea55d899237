//! What happens when table frames run short, and when retired ones pile up.

#![cfg(not(any(loom, shuttle)))]

#[path = "../chance/mod.rs"]
mod chance;
#[path = "../inject/mod.rs"]
mod inject;

mod backlog;
mod corner;
mod cycles;
mod parked;
mod refusals;
mod refusals_kvm;
mod script;
mod support;
mod threads;
