//! A stage-2 fault: what was tried, where, and why the walk refused it.

use super::{Ipa, Level};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Execute,
}

/// Why the access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An address in the table or the output is beyond the physical address size.
    AddressSize,
    /// Nothing valid at the level where the walk ended.
    Translation,
    /// The leaf's access flag is clear.
    AccessFlag,
    /// The leaf does not grant the access.
    Permission,
}

/// A stage-2 fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Address that stage 2 was asked to translate.
    pub ipa: Ipa,
    /// What was tried.
    pub access: AccessKind,
    /// Why it was refused.
    pub kind: FaultKind,
    /// Level at which the walk ended.
    pub level: Level,
    /// The access was a stage-1 walk's own, not the guest instruction's.
    pub s1ptw: bool,
}
