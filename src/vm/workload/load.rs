//! Who works on what: the vCPUs of a workload and the part of guest memory that each of them goes through.

use super::control::{Control, Ended};
use super::error::{WorkloadError, within, within_bytes};
use super::random::Random;
use crate::arch::{Ipa, Level};
use crate::memory::TableMemory;
use crate::table::Tlb;
use crate::vm::backing::largest_in_slot;
use crate::vm::{PaSource, Slot, Vm};

/// What all workloads are told alike. Names in brackets are those of KVM's tests.
///
/// vCPU `i` owns bytes `i * bytes_per_vcpu` to `(i + 1) * bytes_per_vcpu` of the guest's memory, unless they overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// vCPU threads (-v).
    pub vcpus: usize,
    /// Guest memory of each, in bytes, a multiple of the granule (-b).
    pub bytes_per_vcpu: u64,
    /// Every vCPU goes through the memory of all (-o).
    pub overlap: bool,
    /// How many slots the memory lies in: one behind the other in the guest, with consecutive ids (-x).
    pub slots: u32,
    /// Seed of all that is random; vCPU `i` uses `seed + i` (-r).
    pub seed: u64,
}

impl Default for Load {
    /// One vCPU with 1 GiB in one slot, seed 1.
    fn default() -> Self {
        Self {
            vcpus: 1,
            bytes_per_vcpu: 1 << 30,
            overlap: false,
            slots: 1,
            seed: 1,
        }
    }
}

/// More threads than this are a mistake.
const MOST_VCPUS: u64 = 4096;
/// More slots, too.
const MOST_SLOTS: u64 = 4096;
/// Accesses between two looks at the control.
const STRIDE: u64 = 256;

/// The memory that a load works on, as it was found in the VM.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    load: Load,
    pub(crate) slots: Vec<Slot>,
    pub(crate) base: Ipa,
    /// What all vCPUs use together.
    pub(crate) bytes: u64,
    pub(crate) page: u64,
}

/// How many leaves faults make of a range: blocks, single pages, and the pages that lie in the blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaves {
    pub(crate) blocks: u64,
    pub(crate) pages: u64,
    pub(crate) in_blocks: u64,
    /// Bytes of the largest of them.
    pub(crate) largest: u64,
}

impl Load {
    /// Refuses numbers that are too large for any VM, and none.
    ///
    /// # Errors
    /// [`WorkloadError::Option`].
    pub fn validate(&self) -> Result<(), WorkloadError> {
        within("slots", u64::from(self.slots), 1, MOST_SLOTS)?;
        within("vcpus", self.vcpus as u64, 1, MOST_VCPUS)
    }

    /// The memory that it works on, from slot `first` on.
    pub(crate) fn check<M: TableMemory, T: Tlb>(&self, vm: &Vm<M, T>, first: u32) -> Result<Region, WorkloadError> {
        self.validate()?;
        let mut slots = vec![vm.slot(first)?];
        for id in 1..self.slots {
            let (slot, before) = (vm.slot(first.saturating_add(id))?, slots[slots.len() - 1]);
            if before.end() != slot.ipa.get() {
                return Err(WorkloadError::SlotsApart {
                    slot: slot.id,
                    before: before.id,
                });
            }
            slots.push(slot);
        }
        let (page, size) = (vm.page_size(), slots.iter().map(|slot| slot.size).sum());
        // Too much is said beside what the slots have, below.
        within_bytes("bytes per vCPU", self.bytes_per_vcpu, page, u64::MAX)?;
        if !self.bytes_per_vcpu.is_multiple_of(page) {
            return Err(WorkloadError::Alignment {
                value: self.bytes_per_vcpu,
                required: page,
            });
        }
        let bytes = self.bytes_per_vcpu.saturating_mul(self.vcpus as u64);
        if bytes > size {
            return Err(WorkloadError::SlotTooSmall {
                slot: first,
                size,
                required: bytes,
            });
        }
        Ok(Region {
            load: *self,
            base: slots[0].ipa,
            slots,
            bytes,
            page,
        })
    }
}

impl Region {
    /// Where vCPU `index` begins, and its pages.
    pub(crate) fn share(&self, index: usize) -> (Ipa, u64) {
        if self.load.overlap {
            return (self.base, self.bytes / self.page);
        }
        let bytes = self.load.bytes_per_vcpu;
        (Ipa::new(self.base.get() + index as u64 * bytes), bytes / self.page)
    }

    /// Accesses of one pass, all vCPUs together.
    pub(crate) fn accesses(&self) -> u64 {
        self.share(0).1 * self.load.vcpus as u64
    }

    /// Random numbers of vCPU `index` in pass `number`.
    pub(crate) fn random(&self, index: usize, number: u64) -> Random {
        Random::new((self.load.seed.wrapping_add(index as u64)) ^ number << 48)
    }

    /// Whether no two vCPUs go to the same host page of `size` bytes.
    pub(crate) fn apart(&self, size: u64) -> bool {
        let cut = !(self.base.get() | self.load.bytes_per_vcpu).is_multiple_of(size);
        self.load.vcpus == 1 || !(self.load.overlap || cut)
    }

    /// The leaves that faults make of all that the vCPUs use, if the slots say what is behind them.
    pub(crate) fn leaves<M: TableMemory, T: Tlb>(&self, vm: &Vm<M, T>) -> Option<Leaves> {
        let (mut at, end) = (self.base.get(), self.base.get() + self.bytes);
        let mut leaves = Leaves::default();
        for slot in &self.slots {
            let PaSource::Linear(pa) = slot.source else { return None };
            let geometry = vm.geometry();
            while at < end.min(slot.end()) {
                let mut level = largest_in_slot(geometry, slot, Ipa::new(at), vm.largest());
                while !level.is_last() && (pa.get() ^ slot.ipa.get()) & (geometry.size(level) - 1) != 0 {
                    level = level.deeper().unwrap_or(Level::L3);
                }
                let size = geometry.size(level);
                leaves.largest = leaves.largest.max(size);
                let next = (at & !(size - 1)) + size;
                if level.is_last() {
                    leaves.pages += 1;
                } else {
                    leaves.blocks += 1;
                    leaves.in_blocks += (next.min(end) - at) / self.page;
                }
                at = next;
            }
        }
        Some(leaves)
    }
}

impl Leaves {
    /// Blocks and single pages.
    pub(crate) const fn all(&self) -> u64 {
        self.blocks + self.pages
    }

    /// Pages in all.
    pub(crate) const fn touched(&self) -> u64 {
        self.pages + self.in_blocks
    }
}

/// Does `step` for each number below `steps`, shows that in `control` and listens to it.
pub(crate) fn each(
    steps: u64,
    control: &Control,
    mut step: impl FnMut(u64) -> Result<(), WorkloadError>,
) -> Result<(), Ended> {
    for n in 0..steps {
        if n % STRIDE == 0 {
            if n != 0 {
                control.add(STRIDE);
            }
            control.go_on()?;
        }
        step(n)?;
    }
    if steps != 0 {
        control.add((steps - 1) % STRIDE + 1);
    }
    Ok(())
}
