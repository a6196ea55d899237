//! The host's side of the logs of several slots: on, harvest, off, whatever ends the run.

use super::Harvested;
use crate::memory::TableMemory;
use crate::sync::PoisonError;
use crate::table::Tlb;
use crate::vm::{DirtyLogOptions, DirtyPage, Error, Slot, Vm};

/// Keeps what a vCPU took out of its ring for the host's next get.
pub(super) fn stash(harvested: &Harvested, pages: Vec<DirtyPage>) {
    let mut all = harvested.lock().unwrap_or_else(PoisonError::into_inner);
    all.extend(pages);
}

/// The logs of a run.
pub(super) struct Logs<'v, M: TableMemory, T: Tlb> {
    vm: &'v Vm<M, T>,
    slots: &'v [Slot],
    options: DirtyLogOptions,
    harvested: &'v Harvested,
    /// Of how many slots the log is on.
    on: usize,
    /// What the last get gave, a bitmap for each slot.
    bitmaps: Vec<Vec<u64>>,
}

impl<'v, M: TableMemory, T: Tlb> Logs<'v, M, T> {
    pub(super) const fn new(
        vm: &'v Vm<M, T>,
        slots: &'v [Slot],
        options: DirtyLogOptions,
        harvested: &'v Harvested,
    ) -> Self {
        Self {
            vm,
            slots,
            options,
            harvested,
            on: 0,
            bitmaps: Vec::new(),
        }
    }

    pub(super) fn enable(&mut self) -> Result<(), Error> {
        for slot in self.slots {
            self.vm.enable_dirty_log_with(slot.id, self.options)?;
            self.on += 1;
        }
        Ok(())
    }

    /// Gets the bitmaps, or empties the rings; how many pages were dirty.
    pub(super) fn get(&mut self) -> Result<u64, Error> {
        if self.vm.ring_mode() {
            stash(self.harvested, self.vm.harvest_rings()?);
            let mut all = self.harvested.lock().unwrap_or_else(PoisonError::into_inner);
            let mut pages = core::mem::take(&mut *all);
            pages.sort_unstable();
            pages.dedup();
            return Ok(pages.len() as u64);
        }
        self.bitmaps.clear();
        for slot in self.slots {
            self.bitmaps.push(self.vm.dirty_log(slot.id)?);
        }
        let words = self.bitmaps.iter().flatten();
        Ok(words.map(|word| u64::from(word.count_ones())).sum())
    }

    /// Clears what the last get gave.
    pub(super) fn clear(&mut self) -> Result<(), Error> {
        for (slot, bitmap) in self.slots.iter().zip(&self.bitmaps) {
            let pages = slot.size / self.vm.page_size();
            self.vm.clear_dirty_log(slot.id, 0, pages, bitmap)?;
        }
        Ok(())
    }

    pub(super) fn disable(&mut self) -> Result<(), Error> {
        while let Some(last) = self.on.checked_sub(1) {
            self.on = last;
            self.vm.disable_dirty_log(self.slots[last].id)?;
        }
        Ok(())
    }
}

impl<M: TableMemory, T: Tlb> Drop for Logs<'_, M, T> {
    fn drop(&mut self) {
        // Something is on only after an error, which is reported; that the log is gone meanwhile is as good.
        while self.on > 0 {
            let _ = self.disable();
        }
    }
}
