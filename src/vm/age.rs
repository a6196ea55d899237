//! Ageing: has the guest used this memory since somebody asked last?

use super::Vm;
use super::error::Error;
use crate::arch::Ipa;
use crate::memory::TableMemory;
use crate::table::{Handle, Tlb};

impl<M: TableMemory, T: Tlb> Vm<M, T> {
    /// Whether any leaf that overlaps [`ipa`, `ipa + size`) was accessed (access flag set); with `clear`, its flag is
    /// cleared and cached translations are invalidated, so that the next access shows again.
    ///
    /// `ipa` and `size` are bytes, multiples of the granule. Ageing works on whole leaves and splits none. A
    /// `Serial` or `Parallel` VM excludes faults meanwhile, as KVM's notifiers do.
    ///
    /// # Errors
    /// [`Error::Table`] for a range that is misaligned, empty or beyond the IPA space.
    ///
    /// ```
    /// use s2pt::arch::{AccessKind, Ipa, Pa};
    /// use s2pt::vm::{VmOptions, Slot};
    ///
    /// let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// vm.vcpu().access(Ipa::new(0x8000_1000), AccessKind::Read)?;
    /// assert!(vm.age(Ipa::new(0x8000_0000), 64 << 20, true)?);
    /// assert!(!vm.age(Ipa::new(0x8000_0000), 64 << 20, false)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn age(&self, ipa: Ipa, size: u64, clear: bool) -> Result<bool, Error> {
        self.age_by(&self.stage2.handle(), ipa, size, clear)
    }

    /// [`age`](Self::age) through a handle that the caller keeps: registering a thread costs several times what a page does.
    ///
    /// # Errors
    /// As [`age`](Self::age).
    pub fn age_by(&self, handle: &Handle<'_, M, T>, ipa: Ipa, size: u64, clear: bool) -> Result<bool, Error> {
        let end = self.check_range(ipa, size)?;
        let mut young = false;
        for (start, bytes) in self.chunks(ipa.get(), end) {
            let _section = self.gate.change();
            let start = Ipa::new(start);
            young |= if clear {
                handle.test_and_clear_young(start, bytes, true)?
            } else {
                handle.test_young(start, bytes)?
            };
        }
        Ok(young)
    }
}
