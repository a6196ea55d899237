//! The log of a slot is switched on and off, and what becomes of the slot's leaves then.
//!
//! On: the logged slot is published, `settle` waits for the faults that do not know of it, and only then are pages protected
//! (or, where hardware notes the writes, watched). Off: the same with the slot that is not logged. Blocks come back by
//! faults, or at once by [`Vm::merge`].

use super::bitmap::Bitmap;
use super::{DirtyLogMode, DirtyLogOptions, DirtyTracking};
use crate::arch::{Ipa, Level};
use crate::memory::TableMemory;
use crate::sync::Arc;
use crate::table::Tlb;
use crate::vm::Vm;
use crate::vm::error::Error;
use crate::vm::ring::Rings;
use crate::vm::slots::{Entry, Slot};

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
    /// use s2pt::vm::{DirtyLogMode, VmOptions, Slot};
    ///
    /// let vm = VmOptions::default().build(s2pt::table::Null)?;
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

    /// Refuses options that contradict each other or the VM.
    pub(crate) fn check_log(&self, slot: &Slot, options: DirtyLogOptions) -> Result<(), Error> {
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
    pub(super) fn split_ahead(&self, ipa: Ipa, size: u64, chunk: u64) {
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
}
