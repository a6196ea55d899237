//! The memory that a run really fills, beside what the machine has.
//!
//! Guests are only counted here, mostly: what a run takes then is its table frames. Some have bytes, which are real. Either
//! way a run that the machine has no room for would go on until the kernel ends something, so it is refused before it begins.
//! It is an estimate from below: what must be filled for certain, and nothing of what a run needs beside it.

use sysinfo::{MemoryRefreshKind, System};

use super::error::WorkloadError;
use super::load::Region;
use crate::memory::TableMemory;
use crate::table::Tlb;
use crate::vm::{DirtyPage, Vm};

/// Bytes of an entry, of which a page of the guest takes one.
const ENTRY: u64 = 8;

/// What a run fills, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filled {
    /// The guest's own bytes, where they are real.
    pub(crate) guest: u64,
    /// Table frames, beyond those in use.
    pub(crate) tables: u64,
    /// Bitmaps, rings, and what was taken out of rings.
    pub(crate) logs: u64,
}

impl Filled {
    /// The table frames for a region; `in_pages`: for every page of it, also where faults map blocks.
    pub(crate) fn tables<M: TableMemory, T: Tlb>(vm: &Vm<M, T>, region: &Region, in_pages: bool) -> Self {
        let pages = region.bytes / region.page;
        let leaves = if in_pages || vm.largest_size() == region.page {
            pages
        } else {
            region.leaves(vm).map_or(pages, |leaves| leaves.all())
        };
        let used = vm.stage2().memory().frames_in_use() as u64 * region.page;
        let tables = Self::pages(leaves).tables.saturating_sub(used);
        Self {
            tables,
            ..Self::default()
        }
    }

    /// The table frames for so many pages.
    pub(crate) const fn pages(pages: u64) -> Self {
        Self {
            guest: 0,
            tables: pages.saturating_mul(ENTRY),
            logs: 0,
        }
    }

    /// The same with so many bytes of the guest's.
    pub(crate) const fn and_guest(self, bytes: u64) -> Self {
        Self { guest: bytes, ..self }
    }

    /// The same with so many bitmaps of so many pages.
    pub(crate) const fn and_bitmaps(self, pages: u64, bitmaps: u64) -> Self {
        let logs = self.logs.saturating_add((pages / 8).saturating_mul(bitmaps));
        Self { logs, ..self }
    }

    /// The same with the rings of a VM for so many vCPUs, and `pending` pages that were taken out and not told yet.
    pub(crate) fn and_rings<M: TableMemory, T: Tlb>(self, vm: &Vm<M, T>, vcpus: usize, pending: u64) -> Self {
        let taken = pending.saturating_mul(size_of::<DirtyPage>() as u64);
        let rings = vm.rings.bytes().saturating_mul(vcpus as u64);
        let logs = self.logs.saturating_add(taken).saturating_add(rings);
        Self { logs, ..self }
    }

    /// Refuses what the machine has no room for.
    pub(crate) fn check(self) -> Result<(), WorkloadError> {
        self.within(available())
    }

    fn within(self, available: Option<u64>) -> Result<(), WorkloadError> {
        match available {
            Some(available) if self.all() > available => Err(WorkloadError::NoRoom {
                guest: self.guest,
                tables: self.tables,
                logs: self.logs,
                available,
            }),
            _ => Ok(()),
        }
    }

    const fn all(self) -> u64 {
        self.guest.saturating_add(self.tables).saturating_add(self.logs)
    }
}

/// Bytes that a process could still take without swapping, if the system says: what the kernel could free counts, and the
/// limit of the process's control group.
fn available() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    if system.total_memory() == 0 {
        return None;
    }
    // What a group's files take goes when something else needs it.
    let group = system.cgroup_limits();
    let group = group.map(|group| group.total_memory.saturating_sub(group.rss));
    Some(system.available_memory().min(group.unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Null;
    use crate::vm::VmOptions;

    #[test]
    fn what_fits_to_the_byte_is_not_refused() {
        let filled = Filled {
            guest: 5 << 20,
            tables: 3 << 20,
            logs: 1 << 20,
        };
        assert_eq!(filled.within(Some(9 << 20)), Ok(()));
        assert_eq!(filled.within(None), Ok(()));
        let refused = filled.within(Some((9 << 20) - 1)).expect_err("a byte too much");
        let said = "the run would take 9 MiB of memory (5 for the guest's bytes, 3 for tables, 1 for dirty logs), \
                    and 8 MiB are available";
        assert_eq!(refused.to_string(), said);
        let most = Filled {
            guest: u64::MAX,
            tables: u64::MAX,
            logs: u64::MAX,
        };
        assert!(most.within(Some(u64::MAX - 1)).is_err());
    }

    #[test]
    fn logs_are_counted() {
        let vm = VmOptions {
            dirty_ring: 1024,
            ..VmOptions::default()
        };
        let vm = vm.build(Null).expect("a VM");
        let filled = Filled::pages(1 << 20).and_bitmaps(1 << 20, 2).and_rings(&vm, 3, 1000);
        assert_eq!((filled.guest, filled.tables), (0, 8 << 20));
        assert_eq!(filled.logs, 2 * (1 << 17) + 3 * 1024 * 8 + 1000 * 16);
    }

    #[test]
    fn the_machine_has_some() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
