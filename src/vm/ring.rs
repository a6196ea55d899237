//! The dirty ring: what one vCPU wrote, in the order of its faults.
//!
//! Each vCPU has a ring of its own and is the only one who puts something in; the host takes out. So a fault under logging
//! writes to no line that another vCPU writes. A ring that is nearly full keeps its vCPU out of the guest
//! ([`ExitReason::RingFull`](super::ExitReason::RingFull)) until the host has taken something out: nothing is ever dropped.
//!
//! Nothing is lost for the same reason as with the bitmap (`dirty.rs`): a fault makes the page writable first and puts it in
//! second; the host takes it out first, protects it second, and hands it out when the TLBI is complete. Source of the
//! calls' rules: KVM-SEMANTICS 4.6.

use super::Vm;
use super::error::Error;
use super::slots::Entry;
use super::vcpu::Vcpu;
use crate::arch::Ipa;
use crate::memory::TableMemory;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, PoisonError};
use crate::table::{Handle, Tlb};

/// One page that was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirtyPage {
    /// Id of its slot.
    pub slot: u32,
    /// Its number in the slot.
    pub page: u64,
}

impl DirtyPage {
    /// Slot ids are small in practice; 2^40 pages are 4 PiB of the smallest granule.
    const PAGE_BITS: u32 = 40;

    fn pack(self) -> Option<u64> {
        let fits = self.page < 1 << Self::PAGE_BITS && u64::from(self.slot) < 1 << (64 - Self::PAGE_BITS);
        fits.then(|| u64::from(self.slot) << Self::PAGE_BITS | self.page)
    }

    const fn unpack(raw: u64) -> Self {
        Self {
            slot: (raw >> Self::PAGE_BITS) as u32,
            page: raw & ((1 << Self::PAGE_BITS) - 1),
        }
    }
}

/// Entries that stay free for a vCPU that is about to leave: one fault puts one page in.
const RESERVED: u64 = 8;

/// One vCPU's ring.
#[derive(Debug)]
pub(crate) struct Ring {
    entries: Box<[AtomicU64]>,
    /// How many were put in; written by the vCPU.
    put: AtomicU64,
    /// How many were taken out; written by the host, under the lock of all rings.
    taken: AtomicU64,
}

impl Ring {
    fn new(entries: u32) -> Self {
        Self {
            entries: (0..entries).map(|_| AtomicU64::new(0)).collect(),
            put: AtomicU64::new(0),
            taken: AtomicU64::new(0),
        }
    }

    fn len(&self) -> u64 {
        // Acquire: an entry that was taken out may be written over.
        self.put.load(Ordering::Relaxed) - self.taken.load(Ordering::Acquire)
    }

    /// Whether its vCPU must not enter the guest.
    #[inline]
    pub(crate) fn is_soft_full(&self) -> bool {
        self.len() + RESERVED > self.entries.len() as u64
    }

    /// Puts a page in, after it became writable. By its vCPU alone, which was seen not to be soft-full since.
    pub(crate) fn put(&self, page: DirtyPage) {
        let put = self.put.load(Ordering::Relaxed);
        let Some(raw) = page.pack() else {
            return debug_assert!(false, "slots of a VM with rings were checked to fit");
        };
        self.entries[(put % self.entries.len() as u64) as usize].store(raw, Ordering::Relaxed);
        // Release: the entry, and the page that became writable before.
        self.put.store(put + 1, Ordering::Release);
    }

    /// Takes everything out. By one host thread at a time.
    fn take(&self, into: &mut Vec<DirtyPage>) {
        // Acquire: pairs with `put`.
        let put = self.put.load(Ordering::Acquire);
        let first = self.taken.load(Ordering::Relaxed);
        for at in first..put {
            let raw = self.entries[(at % self.entries.len() as u64) as usize].load(Ordering::Relaxed);
            into.push(DirtyPage::unpack(raw));
        }
        // Release: pairs with `len`.
        self.taken.store(put, Ordering::Release);
    }
}

/// The rings of all vCPUs of a VM.
#[derive(Debug)]
pub(crate) struct Rings {
    entries: u32,
    all: Mutex<Vec<Arc<Ring>>>,
}

impl Rings {
    /// Rings of `entries` entries; 0: this VM has none.
    pub(crate) fn new(entries: u32) -> Self {
        Self {
            entries,
            all: Mutex::default(),
        }
    }

    /// Whether writes go to rings, and not into bitmaps.
    pub(crate) fn exist(&self) -> bool {
        self.entries != 0
    }

    /// Bytes of one ring.
    pub(crate) const fn bytes(&self) -> u64 {
        self.entries as u64 * size_of::<AtomicU64>() as u64
    }

    /// A ring for a new vCPU. It is forgotten when its vCPU is gone and it is empty.
    pub(crate) fn register(&self) -> Option<Arc<Ring>> {
        if !self.exist() {
            return None;
        }
        let ring = Arc::new(Ring::new(self.entries));
        let mut all = self.lock();
        all.retain(|ring| Arc::strong_count(ring) > 1 || ring.len() > 0);
        all.push(Arc::clone(&ring));
        Some(ring)
    }

    fn lock(&self) -> crate::sync::MutexGuard<'_, Vec<Arc<Ring>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a slot of so many pages, with this id, can be logged.
    pub(crate) fn fits(slot: u32, pages: u64) -> bool {
        let last = DirtyPage {
            slot,
            page: pages.saturating_sub(1),
        };
        last.pack().is_some()
    }
}

impl<M: TableMemory, T: Tlb> Vm<M, T> {
    /// How many pages stand in the rings of all vCPUs.
    pub fn ring_entries(&self) -> u64 {
        self.rings.lock().iter().map(|ring| ring.len()).sum()
    }

    /// Empties the rings of all vCPUs: says which pages were written to, each once, ascending, and protects them, so that
    /// the next write shows again. What is copied after this contains every write that it reports.
    ///
    /// Neighbouring pages are protected together, as are those of one run of 64 pages with what lies between them.
    /// Maintenance: one TLBI for each slot. vCPUs whose ring was full may go on.
    ///
    /// # Errors
    /// [`Error::NoRings`] if the VM has none.
    ///
    /// ```
    /// use s2pt::arch::{AccessKind, Ipa, Pa};
    /// use s2pt::vm::{DirtyLogMode, DirtyPage, VmOptions, Slot};
    ///
    /// let vm = VmOptions { dirty_ring: 64, ..VmOptions::default() }.build(s2pt::table::Null)?;
    /// vm.create_slot(Slot::linear(7, Ipa::new(0x8000_0000), 4 << 20, Pa::new(0x4000_0000)))?;
    /// vm.enable_dirty_log(7, DirtyLogMode::Auto)?;
    /// let mut vcpu = vm.vcpu();
    /// vcpu.access(Ipa::new(0x8000_3000), AccessKind::Write)?;
    /// assert_eq!(vm.harvest_rings()?, [DirtyPage { slot: 7, page: 3 }]);
    /// assert!(vm.harvest_rings()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn harvest_rings(&self) -> Result<Vec<DirtyPage>, Error> {
        if !self.rings.exist() {
            return Err(Error::NoRings);
        }
        let mut pages = Vec::new();
        {
            let rings = self.rings.lock();
            rings.iter().for_each(|ring| ring.take(&mut pages));
        }
        self.harvested(&self.stage2.handle(), pages)
    }

    /// Protects what was taken out of rings, and hands it out in order.
    fn harvested(&self, handle: &Handle<'_, M, T>, mut pages: Vec<DirtyPage>) -> Result<Vec<DirtyPage>, Error> {
        pages.sort_unstable();
        pages.dedup();
        let current = self.slots.current();
        let size = self.page_size();
        for run in pages.chunk_by(|a, b| a.slot == b.slot) {
            // A slot that is gone has nothing left to protect.
            let Ok(Entry { slot, .. }) = current.by_id(run[0].slot) else {
                continue;
            };
            let spans = run.chunk_by(|a, b| a.page / 64 == b.page / 64 || a.page + 1 == b.page);
            let range = |span: &[DirtyPage]| {
                let (first, end) = (span[0].page, span[span.len() - 1].page + 1);
                (Ipa::new(slot.ipa.get() + first * size), (end - first) * size)
            };
            let _section = self.gate.change();
            handle.write_protect_leaves(spans.map(range))?;
        }
        Ok(pages)
    }
}

impl<M: TableMemory, T: Tlb> Vcpu<'_, M, T> {
    /// Empties this vCPU's ring alone, as its own thread does when the ring is full
    /// ([`ExitReason::RingFull`](super::ExitReason::RingFull)): [`Vm::harvest_rings`] of one.
    ///
    /// # Errors
    /// [`Error::NoRings`] if the VM has none.
    pub fn harvest_ring(&mut self) -> Result<Vec<DirtyPage>, Error> {
        let ring = self.ring.as_ref().ok_or(Error::NoRings)?;
        let mut pages = Vec::new();
        {
            // One takes at a time.
            let _rings = self.vm().rings.lock();
            ring.take(&mut pages);
        }
        self.vm().harvested(&self.handle, pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(page: u64) -> DirtyPage {
        DirtyPage { slot: 3, page }
    }

    #[test]
    fn what_is_put_in_comes_out_once_in_order() {
        let ring = Ring::new(16);
        let mut out = Vec::new();
        for round in 0..10 {
            for n in 0..5 {
                ring.put(page(round * 5 + n));
            }
            ring.take(&mut out);
        }
        assert_eq!(out, (0..50).map(page).collect::<Vec<_>>());
        assert_eq!(ring.len(), 0);
    }

    #[test]
    fn a_ring_is_soft_full_before_it_is_full() {
        let ring = Ring::new(16);
        for n in 0..8 {
            assert!(!ring.is_soft_full());
            ring.put(page(n));
        }
        assert!(!ring.is_soft_full());
        ring.put(page(8));
        assert!(ring.is_soft_full());
        ring.take(&mut Vec::new());
        assert!(!ring.is_soft_full());
    }

    #[test]
    fn slots_and_pages_that_do_not_fit_are_known() {
        assert!(Rings::fits((1 << 24) - 1, 1 << 40));
        assert!(!Rings::fits(1 << 24, 1));
        assert!(!Rings::fits(0, (1 << 40) + 1));
    }
}
