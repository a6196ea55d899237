//! Memory slots come, go, move.
//!
//! Each change publishes the new set of slots first and then settles (see `policy`): after that no fault that knew
//! the old set can install anything, so what it does to the table is final.

use super::Vm;
use super::error::Error;
use super::policy::Near;
use super::slots::{Entry, Slot, SlotTable, Slots};
use crate::arch::Ipa;
use crate::memory::TableMemory;
use crate::table::{Clean, Tlb};

impl<M: TableMemory, T: Tlb> Vm<M, T> {
    /// Adds a memory slot. Nothing is mapped by that; faults will.
    ///
    /// # Errors
    /// A [`SlotAlignment`](Error::SlotAlignment), [`SlotEmpty`](Error::SlotEmpty), [`SlotAddress`](Error::SlotAddress),
    /// [`SlotOverlap`](Error::SlotOverlap) or [`SlotExists`](Error::SlotExists).
    pub fn create_slot(&self, slot: Slot) -> Result<(), Error> {
        Slots::check(&slot, self.geometry())?;
        let _changing = self.slots.change();
        let table = self.slots.current().with(Entry { slot, log: None })?;
        self.slots.publish(table);
        Ok(())
    }

    /// Removes a slot: when this returns, nothing of it is mapped and no fault can map any of it.
    ///
    /// # Errors
    /// [`Error::NoSlot`].
    ///
    /// An example is at [`move_slot`](Self::move_slot).
    pub fn delete_slot(&self, id: u32) -> Result<Slot, Error> {
        let _changing = self.slots.change();
        let (rest, gone) = self.slots.current().without(id)?;
        self.withdraw(rest, &gone)?;
        Ok(gone.slot)
    }

    /// Moves a slot to another guest address; its memory stays what it is. In between it is absent, as in KVM: an access
    /// meanwhile exits as MMIO. A dirty log goes along.
    ///
    /// # Errors
    /// As [`create_slot`](Self::create_slot), and [`Error::NoSlot`]; then the slot is where it was.
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, Ipa, Pa};
    /// # use s2pt::vm::{Slot, VmOptions};
    /// # let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// # vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// # let mut vcpu = vm.vcpu();
    /// vcpu.access(Ipa::new(0x8000_1000), AccessKind::Write)?;
    /// vm.move_slot(0, Ipa::new(0x1_0000_0000))?;
    /// assert_eq!(vcpu.access(Ipa::new(0x1_0000_1000), AccessKind::Read)?.pa, Pa::new(0x4000_1000));
    /// assert!(vcpu.access(Ipa::new(0x8000_1000), AccessKind::Read).is_err()); // an exit: no memory is there now
    /// vm.delete_slot(0)?;
    /// assert!(vm.slots().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn move_slot(&self, id: u32, ipa: Ipa) -> Result<(), Error> {
        let _changing = self.slots.change();
        let (rest, gone) = self.slots.current().without(id)?;
        let slot = Slot { ipa, ..gone.slot };
        Slots::check(&slot, self.geometry())?;
        let log = gone.log.clone();
        let moved = rest.with(Entry { slot, log })?;
        self.withdraw(rest, &gone)?;
        self.slots.publish(moved);
        Ok(())
    }

    /// All slots, ascending by guest address.
    pub fn slots(&self) -> Vec<Slot> {
        self.slots.current().iter().map(|e| e.slot).collect()
    }

    /// The slot with this id.
    ///
    /// # Errors
    /// [`Error::NoSlot`].
    pub fn slot(&self, id: u32) -> Result<Slot, Error> {
        Ok(self.slots.current().by_id(id)?.slot)
    }

    /// Which guest ranges (address, bytes) stand for host addresses [`host`, `host + size`), grown to whole pages: what a
    /// notifier of the host, which speaks of host addresses, means for this VM. Parts outside every slot are left out.
    ///
    /// ```
    /// # use s2pt::arch::{Ipa, Pa};
    /// # use s2pt::vm::{Slot, VmOptions};
    /// # let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// # vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// assert_eq!(vm.guest_ranges(0x4000_1800, 0x1000), [(Ipa::new(0x8000_1000), 0x2000)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn guest_ranges(&self, host: u64, size: u64) -> Vec<(Ipa, u64)> {
        let page = self.page_size();
        let end = host.saturating_add(size);
        let clip = |slot: &Slot| {
            // Slots were checked: their sums do not overflow.
            let first = host.max(slot.host);
            let last = end.min(slot.host + slot.size);
            (first < last).then(|| {
                let start = (first - slot.host) & !(page - 1);
                let stop = (last - slot.host).next_multiple_of(page);
                (Ipa::new(slot.ipa.get() + start), stop - start)
            })
        };
        self.slots.current().iter().filter_map(|e| clip(&e.slot)).collect()
    }

    /// Publishes a set without an entry, and unmaps its slot.
    fn withdraw(&self, rest: SlotTable, gone: &Entry) -> Result<(), Error> {
        let slot = &gone.slot;
        self.slots.publish(rest);
        if let Some(log) = gone.log.as_ref().filter(|log| log.by_hardware()) {
            self.settle(slot);
            let range = (slot.ipa, slot.size);
            self.note_hardware(&self.stage2.handle(), slot, log, range, Clean::Protected)?;
        }
        // Any fault that still knows the slot retries from here on; those under way are waited for by the take-back.
        self.take_back(slot.ipa, slot.size)?;
        Ok(())
    }

    /// Everything in flight in the slot, if it began before what was published, has ended when this returns.
    pub(crate) fn settle(&self, slot: &Slot) {
        drop(
            self.gate
                .change_settled(Near::new(slot.ipa.get(), slot.end(), self.largest_size())),
        );
    }
}
