//! How many faults each pass takes: the formulas of `docs/dirty-log.md`.
//!
//! They count faults that change the table. A vCPU that met a peer tries again, and that is no fault of the formula's.

use super::DirtyLog;
use crate::memory::TableMemory;
use crate::table::Tlb;
use crate::vm::workload::load::{Leaves, Region};
use crate::vm::workload::report::Expected;
use crate::vm::{DirtyLogMode, DirtyTracking, Vm};

/// What the formulas are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Formula {
    leaves: Leaves,
    /// Whether it is known what the vCPUs write: each page once.
    writes_all: bool,
    /// Whether no two vCPUs go to the same leaf.
    apart: bool,
    hardware: bool,
    /// Whether a write to a block takes the block away, and its other pages fault once more.
    forgets: bool,
    /// The iteration that first meets protected memory.
    first: u32,
}

impl Formula {
    pub(super) fn new<M: TableMemory, T: Tlb>(
        options: &DirtyLog,
        vm: &Vm<M, T>,
        region: &Region,
        leaves: Leaves,
    ) -> Self {
        let log = &options.log;
        Self {
            leaves,
            writes_all: options.write_percent == 100
                && !options.random
                && (options.load.vcpus == 1 || !options.load.overlap),
            apart: region.apart(leaves.largest),
            hardware: log.tracking == DirtyTracking::Hardware,
            forgets: vm.kvm() && log.eager_split.is_none(),
            first: if log.mode == DirtyLogMode::ManualInitiallySet {
                2
            } else {
                1
            },
        }
    }

    /// One fault a leaf.
    pub(super) const fn populate(self) -> Expected {
        Expected {
            translation: self.leaves.all(),
            permission: 0,
            access_flag: 0,
        }
    }

    /// The pass of iteration `n`.
    pub(super) const fn dirty(self, n: u32) -> Option<Expected> {
        let none = Expected {
            translation: 0,
            permission: 0,
            access_flag: 0,
        };
        if self.hardware || n < self.first {
            return Some(none);
        }
        if !self.writes_all {
            return None;
        }
        if n > self.first || !self.forgets {
            return Some(Expected {
                permission: self.leaves.touched(),
                ..none
            });
        }
        if !self.apart {
            return None;
        }
        Some(Expected {
            translation: self.leaves.in_blocks - self.leaves.blocks,
            permission: self.leaves.all(),
            ..none
        })
    }
}
