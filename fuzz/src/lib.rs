//! The bodies of the targets, which the ordinary tests run too: they live beside those.

#[path = "../../tests/fuzz_targets/mod.rs"]
pub mod targets;
