//! The log is read: bits are taken first, then their pages are protected, then the bits are handed out.

use super::DirtyLogMode;
use super::bitmap::{Bitmap, WORD, room};
use super::spans::Spans;
use crate::arch::Ipa;
use crate::memory::TableMemory;
use crate::sync::Arc;
use crate::table::{Clean, Handle, Tlb};
use crate::vm::Vm;
use crate::vm::error::Error;
use crate::vm::slots::Slot;

impl<M: TableMemory, T: Tlb> Vm<M, T> {
    /// The dirty bitmap of a slot: bit `n % 64` of word `n / 64` is page `n`.
    ///
    /// In mode [`Auto`](DirtyLogMode::Auto) this is a harvest: the bits reported are cleared and their pages protected, and
    /// a write that they report happened before this returns. In the other modes it is a copy.
    /// Maintenance: one TLBI over what was protected.
    ///
    /// # Errors
    /// [`Error::NoSlot`], [`Error::NotLogging`], [`Error::NoMemory`].
    ///
    /// An example is at [`enable_dirty_log`](Self::enable_dirty_log).
    pub fn dirty_log(&self, id: u32) -> Result<Vec<u64>, Error> {
        let (slot, log) = self.logged(id)?;
        let handle = self.stage2.handle();
        if log.by_hardware() {
            for (start, bytes) in self.chunks(slot.ipa.get(), slot.end()) {
                let _section = self.gate.change();
                self.note_hardware(&handle, &slot, &log, (Ipa::new(start), bytes), Clean::Watched)?;
            }
        }
        if log.options.mode != DirtyLogMode::Auto {
            return log.copy();
        }
        // Before anything is taken: what is taken has to be handed out.
        let mut bits = room(log.words.len() as u64)?;
        if log.by_hardware() {
            // Who marked in between has made the page clean before, or is a fault that maps it so.
            bits.extend((0..log.words.len()).map(|index| log.take(index, u64::MAX)));
            return Ok(bits);
        }
        let _section = self.gate.change();
        let mut spans = Spans::default();
        mutated!(BitsTakenLate, _ = handle.write_protect(slot.ipa, slot.size)?);
        let take = |index| {
            let bits = log.take(index, u64::MAX);
            spans.add(index as u64, bits);
            bits
        };
        bits.extend((0..log.words.len()).map(take));
        mutated!(BitsTakenLate, return Ok(bits));
        self.protect_spans(&handle, &slot, &spans)?;
        Ok(bits)
    }

    /// Clears bits of a slot's log, and protects their pages, so that the next write shows again.
    ///
    /// Bit `n % 64` of `bitmap[n / 64]` stands for page `first_page + n`. Only bits set both there and in the log are
    /// cleared. Call it *before* copying the pages. Maintenance: one TLBI over what was protected.
    ///
    /// # Errors
    /// [`Error::NoSlot`]; [`Error::NotLogging`]; [`Error::ClearRange`] unless `first_page` and `pages` are multiples of 64
    /// inside the slot, where `pages` may also end exactly at its end; [`Error::BitmapLength`].
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, Ipa, Pa};
    /// # use s2pt::vm::{DirtyLogMode, Slot, VmOptions};
    /// # let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// # vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// # let mut vcpu = vm.vcpu();
    /// vm.enable_dirty_log(0, DirtyLogMode::Manual)?;
    /// vcpu.access(Ipa::new(0x8000_3000), AccessKind::Write)?;
    /// let dirty = vm.dirty_log(0)?;
    /// vm.clear_dirty_log(0, 0, 64, &dirty)?; // of the first 64 pages
    /// assert_eq!((dirty[0], vm.dirty_log(0)?[0]), (1 << 3, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear_dirty_log(&self, id: u32, first_page: u64, pages: u64, bitmap: &[u64]) -> Result<(), Error> {
        let (slot, log) = self.logged(id)?;
        let in_slot = first_page <= log.pages && pages <= log.pages - first_page;
        let aligned = first_page.is_multiple_of(WORD)
            && (pages.is_multiple_of(WORD) || pages == log.pages.wrapping_sub(first_page));
        if !(in_slot && aligned) {
            return Err(Error::ClearRange {
                slot: id,
                first_page,
                pages,
                slot_pages: log.pages,
            });
        }
        let words = pages.div_ceil(WORD) as usize;
        if bitmap.len() < words {
            return Err(Error::BitmapLength {
                slot: id,
                words: bitmap.len(),
                required: words,
            });
        }
        let handle = self.stage2.handle();
        let mut spans = Spans::default();
        let first = (first_page / WORD) as usize;
        let mut cleared = Vec::with_capacity(words);
        {
            let _section = self.gate.change();
            for (index, &mask) in (first..).zip(&bitmap[..words]) {
                let taken = log.take(index, mask);
                spans.add(index as u64, taken);
                cleared.push(taken);
            }
            if !log.by_hardware() {
                self.protect_spans(&handle, &slot, &spans)?;
            }
        }
        if log.by_hardware() {
            return self.clean_spans(&handle, &slot, &log, &spans, (first_page, &cleared));
        }
        if log.options.mode == DirtyLogMode::ManualInitiallySet
            && let Some(chunk) = log.options.eager_split
        {
            let page = self.page_size();
            for &(first, end) in &spans.0 {
                self.split_ahead(Ipa::new(slot.ipa.get() + first * page), (end - first) * page, chunk);
            }
        }
        Ok(())
    }

    fn logged(&self, id: u32) -> Result<(Slot, Arc<Bitmap>), Error> {
        let current = self.slots.current();
        let entry = current.by_id(id)?;
        let log = entry.log.clone().ok_or(Error::NotLogging { slot: id })?;
        if self.rings.exist() {
            return Err(Error::RingsOnly { slot: id });
        }
        Ok((entry.slot, log))
    }

    /// Protects the pages whose bits were taken, with one TLBI for all.
    fn protect_spans(&self, handle: &Handle<'_, M, T>, slot: &Slot, spans: &Spans) -> Result<(), Error> {
        let page = self.page_size();
        let range = |&(first, end): &(u64, u64)| (Ipa::new(slot.ipa.get() + first * page), (end - first) * page);
        handle.write_protect_leaves(spans.0.iter().map(range))?;
        Ok(())
    }
}
