//! What the host does to a range of guest memory besides taking it back.

use super::Vm;
use super::error::Error;
use super::invalidate::Invalidation;
use super::policy::Near;
use crate::arch::{Attrs, Ipa, Level, Pa};
use crate::memory::TableMemory;
use crate::table::{Changed, Handle, MapOptions, Mapped, Tlb};

impl<M: TableMemory, T: Tlb> Vm<M, T> {
    /// Takes the right to write from everything in [`ipa`, `ipa + size`), blocks that it cuts included (none is split),
    /// and waits until no CPU writes through an old translation.
    ///
    /// `ipa` and `size` are bytes, multiples of the granule. Beside the dirty log this is rarely needed: it marks nothing.
    ///
    /// # Errors
    /// [`Error::Table`] for a range that is misaligned, empty or beyond the IPA space.
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, Ipa, Pa};
    /// # use s2pt::vm::{Slot, VmOptions};
    /// # let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// # vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// # let mut vcpu = vm.vcpu();
    /// vcpu.access(Ipa::new(0x8000_1000), AccessKind::Write)?; // maps a block
    /// assert_eq!(vm.write_protect(Ipa::new(0x8000_0000), 0x1000)?.leaves, 1);
    /// assert!(vcpu.translate(Ipa::new(0x8000_1000), AccessKind::Write).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_protect(&self, ipa: Ipa, size: u64) -> Result<Changed, Error> {
        self.write_protect_by(&self.stage2.handle(), ipa, size)
    }

    /// [`write_protect`](Self::write_protect) through a handle that the caller keeps.
    ///
    /// # Errors
    /// As [`write_protect`](Self::write_protect).
    pub fn write_protect_by(&self, handle: &Handle<'_, M, T>, ipa: Ipa, size: u64) -> Result<Changed, Error> {
        let end = self.check_range(ipa, size)?;
        let mut changed = Changed::default();
        for (start, bytes) in self.chunks(ipa.get(), end) {
            let _section = self.gate.change();
            let part = handle.write_protect_leaves([(Ipa::new(start), bytes)])?;
            changed.leaves += part.leaves;
            changed.bytes += part.bytes;
        }
        Ok(changed)
    }

    /// Splits every block in [`ipa`, `ipa + size`) to pages ahead of the writes that would split it (eager splitting).
    /// Returns how many blocks were split.
    ///
    /// # Errors
    /// [`Error::Table`] for a range that is misaligned, empty or beyond the IPA space, or without frames for the tables;
    /// gigabytes before the one that failed are split then.
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, Ipa, Pa};
    /// # use s2pt::vm::{Slot, VmOptions};
    /// # let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// # vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// # let mut vcpu = vm.vcpu();
    /// vcpu.access(Ipa::new(0x8000_1000), AccessKind::Write)?; // maps a block
    /// assert_eq!(vm.split(Ipa::new(0x8000_0000), 64 << 20)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn split(&self, ipa: Ipa, size: u64) -> Result<u64, Error> {
        let end = self.check_range(ipa, size)?;
        let handle = self.stage2.handle();
        let mut blocks = 0;
        for (start, bytes) in self.chunks(ipa.get(), end) {
            let _section = self.gate.change();
            blocks += handle.split(Ipa::new(start), bytes, Level::L3)?;
        }
        Ok(blocks)
    }

    /// Maps a range outside any fault, in place of whatever is there. Faults under way on it retry.
    ///
    /// # Errors
    /// [`Error::Table`], as [`View::map`](crate::table::View::map).
    pub fn map(&self, ipa: Ipa, size: u64, pa: Pa, attrs: &Attrs, options: MapOptions) -> Result<Mapped, Error> {
        let end = self.check_range(ipa, size)?;
        let _invalidation = Invalidation::begin(&self.sequence, ipa.get(), end);
        let handle = self.stage2.handle();
        let _section = self.gate.change_settled(Near::new(ipa.get(), end, self.largest_size()));
        Ok(handle.map(ipa, size, pa, attrs, options)?)
    }
}
