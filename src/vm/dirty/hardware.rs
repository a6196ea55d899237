//! Writes that hardware noted in the leaves, and nobody in the bitmap: they are looked up before the bitmap is read, and
//! before the leaves go.

use super::bitmap::{Bitmap, WORD};
use super::spans::Spans;
use crate::arch::Ipa;
use crate::memory::TableMemory;
use crate::table::{Clean, Handle, Tlb};
use crate::vm::Vm;
use crate::vm::error::Error;
use crate::vm::slots::{Entry, Slot, SlotTable};

impl<M: TableMemory, T: Tlb> Vm<M, T> {
    /// Marks what hardware noted in [`start`, `start + bytes`), a part of `slot`, in its log. `then` as for the table.
    pub(crate) fn note_hardware(
        &self,
        handle: &Handle<'_, M, T>,
        slot: &Slot,
        log: &Bitmap,
        (ipa, bytes): (Ipa, u64),
        then: Clean,
    ) -> Result<(), Error> {
        for (ipa, size) in handle.take_dirty(ipa, bytes, then)? {
            log.mark_range(slot, self.page_size(), ipa, size);
        }
        Ok(())
    }

    /// The same for every slot of a range that is about to be unmapped: with the leaves goes what hardware noted in them.
    pub(crate) fn note_before_unmap(
        &self,
        handle: &Handle<'_, M, T>,
        slots: &SlotTable,
        ipa: Ipa,
        bytes: u64,
    ) -> Result<(), Error> {
        let end = ipa.get() + bytes;
        for Entry { slot, log } in slots.iter() {
            let first = slot.ipa.get().max(ipa.get());
            let last = slot.end().min(end);
            if let Some(log) = log.as_ref().filter(|log| log.by_hardware() && first < last) {
                let range = (Ipa::new(first), last - first);
                self.note_hardware(handle, slot, log, range, Clean::Protected)?;
            }
        }
        Ok(())
    }

    /// Makes the pages whose bits were taken clean in the table, too. What else was found dirty in the spans is marked, since
    /// nobody has asked for it.
    pub(super) fn clean_spans(
        &self,
        handle: &Handle<'_, M, T>,
        slot: &Slot,
        log: &Bitmap,
        spans: &Spans,
        (first_page, cleared): (u64, &[u64]),
    ) -> Result<(), Error> {
        let page = self.page_size();
        for &(first, end) in &spans.0 {
            let _section = self.gate.change();
            let ipa = Ipa::new(slot.ipa.get() + first * page);
            for (ipa, size) in handle.take_dirty(ipa, (end - first) * page, Clean::Watched)? {
                let number = |ipa: u64| ipa.saturating_sub(slot.ipa.get()) / page;
                let last = number(ipa.get() + size).min(log.pages);
                for dirty in number(ipa.get())..last {
                    let asked = dirty.checked_sub(first_page).is_some_and(|at| {
                        let word = cleared.get((at / WORD) as usize);
                        word.is_some_and(|word| word >> (at % WORD) & 1 != 0)
                    });
                    if !asked {
                        log.mark(dirty);
                    }
                }
            }
        }
        Ok(())
    }
}
