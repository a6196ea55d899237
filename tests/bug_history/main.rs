//! One named test for each bug of docs/bug-history.md that could occur here: what KVM's stage 2, its peers, and their
//! tools got wrong over the years. `test_bug_history.py` holds the document against these names.

#[path = "../inject/mod.rs"]
mod inject;

mod attributes;
mod frames;
mod kvm;
mod peers;
mod races;
mod refusals;
mod support;
mod tlbi;
mod vm;
