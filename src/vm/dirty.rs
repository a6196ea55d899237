//! The dirty log: which pages of a slot were written since somebody asked last.
//!
//! One bit a page. Pages whose bit is clear are write-protected, so that the next write faults; the fault makes the
//! page writable and sets the bit.
//!
//! **No write is lost**, although harvesting runs beside the faults. At every moment, for every page of a logged slot:
//! *if the page is writable, then its bit is set, or the fault that made it writable has yet to set it, or a harvest that
//! took the bit has yet to protect it and then to hand the bit out.* Three orders keep that true:
//!
//! * a fault makes the page writable first and sets its bit second, with a read-modify-write even where the bit is set
//!   already (looking first would not be ordered against a harvest: the look could see a bit that is just being taken
//!   while the harvest does not see the page writable);
//! * a harvest takes bits first (swap) and protects second. If the fault's bit came first, the swap sees it, and with it
//!   the writable page (release, acquire), which is then protected. If the swap came first, the bit stays for the next
//!   harvest, however the entry changed meanwhile;
//! * write protection is complete on every CPU (TLBI) before the bits are handed out. So what is copied after a harvest
//!   contains every write that the harvest reports, and a later write faults and shows in the next one.
//!
//! Switching the log on publishes the logged slot, settles (see `policy`), and only then protects: a fault that did not
//! know of the log and may have mapped a writable block has ended by then.
//!
//! Blocks are write-protected whole, also where the bits cover only part of them: splitting is left to the write that
//! needs it. Too much protection costs a fault and loses nothing. Source of the calls' rules: KVM-SEMANTICS 4.5.

use super::Vm;
use super::error::Error;
use super::ring::Rings;
use super::slots::{Entry, Slot, SlotTable};
use crate::arch::{Ipa, Level};
use crate::memory::TableMemory;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::table::{Clean, Handle, Tlb};

/// When pages are write-protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DirtyLogMode {
    /// The whole slot when logging starts, and what [`Vm::dirty_log`] reports when it reports it: KVM without manual
    /// protection.
    Auto,
    /// The whole slot when logging starts; later only what [`Vm::clear_dirty_log`] clears.
    Manual,
    /// Nothing when logging starts: every page counts as dirty at first, and [`Vm::clear_dirty_log`] protects what it
    /// clears. This is what VMMs use, since it spreads the cost.
    #[default]
    ManualInitiallySet,
}

/// Who notices a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DirtyTracking {
    /// Write protection: the first write to a clean page faults.
    #[default]
    WriteProtect,
    /// Hardware (VTCR_EL2.HD, DBM): the first write makes the leaf writable, without a fault. Needs a table made with `hd`.
    /// By the page only where blocks are split; a block is dirty as a whole.
    Hardware,
}

/// How a slot is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirtyLogOptions {
    /// When pages are protected.
    pub mode: DirtyLogMode,
    /// Who notices a write.
    pub tracking: DirtyTracking,
    /// Split blocks ahead of the writes that would, so many bytes at a time (a multiple of a block's size; KVM's eager page
    /// splitting): the whole slot when logging starts or, in mode
    /// [`ManualInitiallySet`](DirtyLogMode::ManualInitiallySet), what a clear protects. As far as there are frames; the rest
    /// is split by the writes. `None`: by the writes.
    pub eager_split: Option<u64>,
}

impl From<DirtyLogMode> for DirtyLogOptions {
    fn from(mode: DirtyLogMode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }
}

/// The bits of one logged slot.
#[derive(Debug)]
pub(crate) struct Bitmap {
    words: Box<[AtomicU64]>,
    pages: u64,
    options: DirtyLogOptions,
}

/// Pages per word.
const WORD: u64 = 64;

/// The bits that exist in word `index` of a bitmap of `pages` pages.
const fn valid(pages: u64, index: u64) -> u64 {
    let rest = pages - index * WORD;
    if rest >= WORD { u64::MAX } else { (1 << rest) - 1 }
}

/// An empty vector with room for so many words: a slot may be larger than its bitmap can be here.
fn room<T>(words: u64) -> Result<Vec<T>, Error> {
    let mut room = Vec::new();
    let enough = usize::try_from(words).is_ok_and(|words| room.try_reserve_exact(words).is_ok());
    let bytes = words.saturating_mul(8);
    if enough {
        Ok(room)
    } else {
        Err(Error::NoMemory { bytes })
    }
}

impl Bitmap {
    fn new(pages: u64, options: DirtyLogOptions) -> Result<Self, Error> {
        let set = options.mode == DirtyLogMode::ManualInitiallySet;
        let word = |index| AtomicU64::new(if set { valid(pages, index) } else { 0 });
        let mut words = room(pages.div_ceil(WORD))?;
        words.extend((0..pages.div_ceil(WORD)).map(word));
        Ok(Self {
            words: words.into_boxed_slice(),
            pages,
            options,
        })
    }

    /// Whether hardware notices the writes.
    #[inline]
    pub(crate) fn by_hardware(&self) -> bool {
        self.options.tracking == DirtyTracking::Hardware
    }

    /// Marks every page of [`ipa`, `ipa + size`) that is in `slot`.
    fn mark_range(&self, slot: &Slot, page: u64, ipa: Ipa, size: u64) {
        let first = ipa.get().max(slot.ipa.get());
        let end = (ipa.get() + size).min(slot.end());
        for number in (first - slot.ipa.get()) / page..(end.max(first) - slot.ipa.get()).div_ceil(page) {
            self.mark(number);
        }
    }

    /// Sets a page's bit, after the page was made writable.
    #[inline]
    pub(crate) fn mark(&self, page: u64) {
        // AcqRel: releases the entry that was made writable to the harvest that takes the bit. Always a
        // read-modify-write; see the header.
        let word = &self.words[(page / WORD) as usize];
        mutated!(
            MarkLooksFirst,
            if word.load(Ordering::Relaxed) >> (page % WORD) & 1 != 0 {
                return;
            }
        );
        word.fetch_or(1 << (page % WORD), Ordering::AcqRel);
    }

    /// Takes the bits of `mask` out of a word.
    fn take(&self, index: usize, mask: u64) -> u64 {
        let word = &self.words[index];
        // A word that looks clean needs no write: what is set a moment later belongs to the next harvest anyway.
        if word.load(Ordering::Relaxed) & mask == 0 {
            return 0;
        }
        // AcqRel: whoever's bit is taken, his entry is seen by the write protection that follows.
        word.fetch_and(!mask, Ordering::AcqRel) & mask
    }

    fn copy(&self) -> Result<Vec<u64>, Error> {
        let mut copy = room(self.words.len() as u64)?;
        copy.extend(self.words.iter().map(|w| w.load(Ordering::Acquire)));
        Ok(copy)
    }
}

/// Runs of pages to protect: neighbouring words join, holes between the first and the last bit are included.
#[derive(Default)]
struct Spans(Vec<(u64, u64)>);

impl Spans {
    /// Adds the pages from the lowest to the highest bit of word `index`.
    fn add(&mut self, index: u64, bits: u64) {
        if bits == 0 {
            return;
        }
        let first = index * WORD + u64::from(bits.trailing_zeros());
        let end = (index + 1) * WORD - u64::from(bits.leading_zeros());
        match self.0.last_mut() {
            // Same or next word: one run.
            Some((_, last)) if last.div_ceil(WORD) >= index => *last = end,
            _ => self.0.push((first, end)),
        }
    }
}

impl<M: TableMemory, T: Tlb> Vm<M, T> {
    /// Starts logging writes to a slot.
    ///
    /// When it returns, every page that the guest writes from now on is reported by a later harvest. From here on faults
    /// on the slot map single pages. Maintenance: unless all pages count as dirty at first, one TLBI a gigabyte.
    ///
    /// # Errors
    /// [`Error::NoSlot`], [`Error::AlreadyLogging`].
    ///
    /// ```
    /// use s2pt::arch::{AccessKind, Ipa, Pa};
    /// use s2pt::vm::{DirtyLogMode, Machine, Slot};
    ///
    /// let vm = Machine::default().build(s2pt::table::Null)?;
    /// vm.create_slot(Slot::linear(7, Ipa::new(0x8000_0000), 4 << 20, Pa::new(0x4000_0000)))?;
    /// let mut vcpu = vm.vcpu();
    /// vcpu.access(Ipa::new(0x8000_0000), AccessKind::Write)?; // a 2 MiB block
    /// vm.enable_dirty_log(7, DirtyLogMode::Auto)?;
    /// vcpu.access(Ipa::new(0x8000_3000), AccessKind::Write)?; // splits it
    /// assert_eq!(vm.dirty_log(7)?[0], 1 << 3);
    /// assert_eq!(vm.dirty_log(7)?[0], 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn enable_dirty_log(&self, id: u32, mode: DirtyLogMode) -> Result<(), Error> {
        self.enable_dirty_log_with(id, mode.into())
    }

    /// [`enable_dirty_log`](Self::enable_dirty_log) with everything that there is to choose.
    ///
    /// # Errors
    /// As [`enable_dirty_log`](Self::enable_dirty_log); [`Error::LogOptions`] if the options contradict each other or the VM:
    /// hardware tracking needs a table made with `hd`, bitmaps, and exact semantics; eager splitting a multiple of the
    /// smallest block's size; with dirty rings the mode is [`Auto`](DirtyLogMode::Auto). Nothing has changed then.
    pub fn enable_dirty_log_with(&self, id: u32, options: DirtyLogOptions) -> Result<(), Error> {
        let _changing = self.slots.change();
        let current = self.slots.current();
        let Entry { slot, log } = current.by_id(id)?;
        if log.is_some() {
            return Err(Error::AlreadyLogging { slot: id });
        }
        self.check_log(slot, options)?;
        let bitmap = Arc::new(Bitmap::new(slot.size / self.page_size(), options)?);
        self.slots.publish(current.with_log(id, Some(bitmap))?);
        self.settle(slot);
        let initially_set = options.mode == DirtyLogMode::ManualInitiallySet;
        match options.tracking {
            // Also where every page counts as dirty: by then it must be one of many, not of a block.
            DirtyTracking::Hardware => {
                self.split_ahead(slot.ipa, slot.size, options.eager_split.unwrap_or(slot.size));
                let handle = self.stage2.handle();
                for (start, bytes) in self.chunks(slot.ipa.get(), slot.end()) {
                    let _section = self.gate.change();
                    handle.watch_writes(Ipa::new(start), bytes)?;
                }
            }
            DirtyTracking::WriteProtect if !initially_set => {
                self.write_protect(slot.ipa, slot.size)?;
                if let Some(chunk) = options.eager_split {
                    self.split_ahead(slot.ipa, slot.size, chunk);
                }
            }
            DirtyTracking::WriteProtect => {}
        }
        Ok(())
    }

    fn check_log(&self, slot: &Slot, options: DirtyLogOptions) -> Result<(), Error> {
        let refused = |what| Err(Error::LogOptions { slot: slot.id, what });
        if options.tracking == DirtyTracking::Hardware {
            if !self.stage2.config().hd {
                return refused("hardware tracking needs a table whose hardware notes writes (hd)");
            }
            if self.kvm() || self.rings.exist() {
                return refused("hardware tracking needs bitmaps, and a table with exact semantics");
            }
        }
        let block = self.smallest_block();
        if options
            .eager_split
            .is_some_and(|chunk| chunk == 0 || chunk % block != 0)
        {
            return refused("eager splitting takes a multiple of the smallest block at a time");
        }
        if self.rings.exist() {
            if options.mode != DirtyLogMode::Auto {
                return refused("with dirty rings the host clears nothing: the mode must be auto");
            }
            if !Rings::fits(slot.id, slot.size / self.page_size()) {
                return refused("ids of logged slots are below 2^24, pages below 2^40, with dirty rings");
            }
        }
        Ok(())
    }

    /// Splits the blocks of a range, `chunk` bytes at a time, as far as there are frames for it.
    fn split_ahead(&self, ipa: Ipa, size: u64, chunk: u64) {
        let handle = self.stage2.handle();
        let (mut at, end) = (ipa.get(), ipa.get() + size);
        while at < end {
            let next = end.min((at / chunk + 1).saturating_mul(chunk));
            let _section = self.gate.change();
            // Without frames the blocks stay: the writes will split them, or say that they cannot.
            let _ = handle.split(Ipa::new(at), next - at, Level::L3);
            at = next;
        }
    }

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

    /// Stops logging a slot. Its pages stay as they are; faults map and merge them at full size again.
    ///
    /// # Errors
    /// [`Error::NoSlot`], [`Error::NotLogging`].
    pub fn disable_dirty_log(&self, id: u32) -> Result<(), Error> {
        let _changing = self.slots.change();
        let current = self.slots.current();
        let Entry { slot, log } = current.by_id(id)?;
        if log.is_none() {
            return Err(Error::NotLogging { slot: id });
        }
        let by_hardware = log.as_ref().is_some_and(|log| log.by_hardware());
        self.slots.publish(current.with_log(id, None)?);
        self.settle(slot);
        if by_hardware {
            let handle = self.stage2.handle();
            for (start, bytes) in self.chunks(slot.ipa.get(), slot.end()) {
                let _section = self.gate.change();
                handle.unwatch_writes(Ipa::new(start), bytes)?;
            }
        }
        Ok(())
    }

    /// Merges the pages of a slot to blocks as large as faults would map, where they are complete and alike: what faults do
    /// one block at a time after logging has ended. Returns how many tables were replaced.
    ///
    /// # Errors
    /// [`Error::NoSlot`]; [`Error::AlreadyLogging`] while the slot is logged.
    pub fn merge(&self, id: u32) -> Result<u64, Error> {
        let _changing = self.slots.change();
        let current = self.slots.current();
        let Entry { slot, log } = current.by_id(id)?;
        if log.is_some() {
            return Err(Error::AlreadyLogging { slot: id });
        }
        let handle = self.stage2.handle();
        let mut merged = 0;
        for (start, bytes) in self.chunks(slot.ipa.get(), slot.end()) {
            let _section = self.gate.change();
            merged += handle.collapse(Ipa::new(start), bytes)?;
        }
        Ok(merged)
    }

    /// How a slot is logged, if it is.
    ///
    /// # Errors
    /// [`Error::NoSlot`].
    pub fn dirty_log_options(&self, id: u32) -> Result<Option<DirtyLogOptions>, Error> {
        Ok(self.slots.current().by_id(id)?.log.as_ref().map(|log| log.options))
    }

    /// When pages of a slot are protected, if it is logged.
    ///
    /// # Errors
    /// [`Error::NoSlot`].
    pub fn dirty_log_mode(&self, id: u32) -> Result<Option<DirtyLogMode>, Error> {
        Ok(self.dirty_log_options(id)?.map(|options| options.mode))
    }

    /// The dirty bitmap of a slot: bit `n % 64` of word `n / 64` is page `n`.
    ///
    /// In mode [`Auto`](DirtyLogMode::Auto) this is a harvest: the bits reported are cleared and their pages protected, and
    /// a write that they report happened before this returns. In the other modes it is a copy.
    /// Maintenance: one TLBI over what was protected.
    ///
    /// # Errors
    /// [`Error::NoSlot`], [`Error::NotLogging`], [`Error::NoMemory`].
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

    /// Makes the pages whose bits were taken clean in the table, too. What else was found dirty in the spans is marked, since
    /// nobody has asked for it.
    fn clean_spans(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_join_neighbouring_words_and_keep_holes() {
        let mut spans = Spans::default();
        spans.add(0, 0b1010_0000);
        spans.add(1, 0);
        spans.add(2, 1 << 63);
        spans.add(3, 0b110);
        spans.add(9, u64::MAX);
        assert_eq!(spans.0, [(5, 8), (191, 195), (576, 640)]);
    }

    #[test]
    fn a_span_that_ends_before_its_word_does_joins_the_next_word_only() {
        let mut spans = Spans::default();
        spans.add(0, 1);
        spans.add(1, 1);
        assert_eq!(spans.0, [(0, 65)]);
        let mut spans = Spans::default();
        spans.add(0, 1);
        spans.add(2, 1);
        assert_eq!(spans.0, [(0, 1), (128, 129)]);
    }

    #[test]
    fn bits_beyond_the_last_page_do_not_exist() {
        let bitmap = Bitmap::new(70, DirtyLogMode::ManualInitiallySet.into()).unwrap();
        assert_eq!(bitmap.copy().unwrap(), [u64::MAX, 0b11_1111]);
        assert_eq!(
            Bitmap::new(70, DirtyLogMode::Auto.into()).unwrap().copy().unwrap(),
            [0, 0]
        );
    }

    #[test]
    fn only_asked_bits_are_taken() {
        let bitmap = Bitmap::new(64, DirtyLogMode::Auto.into()).unwrap();
        bitmap.mark(3);
        bitmap.mark(40);
        assert_eq!(bitmap.take(0, 0xff), 1 << 3);
        assert_eq!(bitmap.take(0, 0xff), 0);
        assert_eq!(bitmap.copy().unwrap(), [1 << 40]);
    }
}
