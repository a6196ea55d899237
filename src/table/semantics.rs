//! Whose habits a table has: the exact ones of this library, or those of Linux KVM 6.12.
//!
//! Both run on one tree, one walker and one entry protocol (R1 to R11). They part at a few points, each a method here:
//!
//! | where | exact | KVM |
//! |---|---|---|
//! | a part of a block is unmapped, write-protected | the rest stays as it was | the whole block goes, or changes |
//! | a page is mapped into a block | the rest stays mapped | an empty table replaces the block; the rest faults again |
//! | a leaf with the same output is mapped again | permissions change in place | left alone: [`Again`](super::Error::Again), or passed over |
//! | frames | reserved for the whole call | taken table by table: a call may end part way |
//! | taking the right to write | invalidates | the caller invalidates |
//! | a LOCKED entry, without waiting | `Again` | `Again` on a fault, else passed over |
//! | split | what the range needs | whole blocks: at once to pages if the frames allow, else level by level |
//! | an owner's mark and a block in its place | refused | refused: here KVM would lose the mark |
//!
//! KVM's rules are those of KVM-SEMANTICS 3. Where KVM swallows an error (a range that wraps, a PA beyond the limit, device memory
//! that becomes executable or normal, a lost mark), this library refuses under either.

/// Which code a table behaves like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Semantics {
    /// An operation changes its range and nothing else.
    #[default]
    Exact,
    /// As Linux KVM/arm64 6.12: stage 2 is a cache of what the host has, and may forget more than it was asked to.
    Kvm,
}

impl Semantics {
    /// Blocks are handled whole, tables are linked empty, leaves of the same output are left alone.
    #[inline(always)]
    pub const fn is_kvm(self) -> bool {
        matches!(self, Self::Kvm)
    }
}

bitflags::bitflags! {
    /// How KVM's callers walk: flags of a `map` under [`Semantics::Kvm`], with KVM's bit numbers.
    ///
    /// ```
    /// use s2pt::table::WalkFlags;
    /// assert_eq!(WalkFlags::FAULT.bits(), 24);
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct WalkFlags: u8 {
        /// Others walk at the same time: software bits change by break-before-make, not in place. (The table is safe
        /// for any number of threads with or without it.)
        const SHARED = 1 << 3;
        /// A fault: the first entry that must be left alone, or that a peer holds, ends the call with
        /// [`Again`](super::Error::Again). Without it such entries are passed over.
        const HANDLE_FAULT = 1 << 4;
        /// No TLBI between break and make: the table is not in use.
        const SKIP_BBM_TLBI = 1 << 5;
        /// No cache maintenance on what is mapped.
        const SKIP_CMO = 1 << 6;
        /// What a vCPU's fault passes.
        const FAULT = Self::SHARED.bits() | Self::HANDLE_FAULT.bits();
    }
}
