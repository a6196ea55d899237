//! Memory slots: which guest addresses are memory, and what stands behind them.
//!
//! The set of slots is immutable and replaced as a whole. A vCPU keeps the set that it saw last together with its
//! number; a fault compares the number (one load of a line that only slot changes write) and takes the new set only when
//! it differs. So the fault path looks slots up without writing to anything shared.
//!
//! The number also ends races between a slot change and faults under way: the change publishes first, a fault compares
//! again in the section that the change waits for (see `policy`), and a fault that worked with the old set retries.

use super::dirty::Bitmap;
use super::error::Error;
use crate::arch::{Geometry, Ipa, Pa};
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};

/// Where the output addresses of a slot come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaSource {
    /// The slot is one contiguous run of physical memory from here on.
    Linear(Pa),
    /// Each fault says what the host has there: [`Vcpu::handle_fault_with`](super::Vcpu::handle_fault_with).
    Supplied,
}

/// One run of guest memory. All addresses and the size are in bytes and multiples of the granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What the other calls name the slot by.
    pub id: u32,
    /// Where it starts in the guest.
    pub ipa: Ipa,
    /// Its size in bytes.
    pub size: u64,
    /// Where it starts in the host process. Only its alignment relative to `ipa` matters, for the size of blocks.
    pub host: u64,
    /// Where its output addresses come from.
    pub source: PaSource,
    /// A write by the guest is left to the device model ([`ExitReason::ReadOnly`](super::ExitReason::ReadOnly)).
    pub readonly: bool,
}

impl Slot {
    /// A writable slot backed by contiguous memory from `pa` on; its host address is taken to be `pa` too.
    pub const fn linear(id: u32, ipa: Ipa, size: u64, pa: Pa) -> Self {
        Self {
            id,
            ipa,
            size,
            host: pa.get(),
            source: PaSource::Linear(pa),
            readonly: false,
        }
    }

    /// The first address after it. Cannot overflow once the slot is part of a VM.
    pub(crate) const fn end(&self) -> u64 {
        self.ipa.get() + self.size
    }

    /// Whether the window of `size` bytes (a power of two) around `ipa` can be one mapping: guest and host congruent,
    /// the window inside the slot.
    pub(crate) fn holds_window(&self, ipa: Ipa, size: u64) -> bool {
        let congruent = (self.ipa.get() ^ self.host) & (size - 1) == 0;
        let window = ipa.get() & !(size - 1);
        congruent && window >= self.ipa.get() && self.end() - window >= size
    }

    fn check(&self, geometry: &Geometry) -> Result<(), Error> {
        let (slot, page) = (self.id, geometry.granule().size());
        for (what, value) in [("ipa", self.ipa.get()), ("size", self.size), ("host", self.host)] {
            if value % page != 0 {
                return Err(Error::SlotAlignment {
                    slot,
                    what,
                    value,
                    required: page,
                });
            }
        }
        if self.size == 0 {
            return Err(Error::SlotEmpty { slot, required: page });
        }
        let fits = |what, value: u64, limit| match value.checked_add(self.size) {
            Some(end) if end <= limit => Ok(()),
            _ => Err(Error::SlotAddress {
                slot,
                what,
                value,
                size: self.size,
                limit,
            }),
        };
        fits("ipa", self.ipa.get(), geometry.ipa_limit())?;
        fits("host", self.host, u64::MAX)?;
        if let PaSource::Linear(pa) = self.source {
            if pa.get() % page != 0 {
                return Err(Error::SlotAlignment {
                    slot,
                    what: "pa",
                    value: pa.get(),
                    required: page,
                });
            }
            fits("pa", pa.get(), geometry.pa_limit())?;
        }
        Ok(())
    }
}

/// A slot as the VM holds it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) slot: Slot,
    /// Present while the slot is logged.
    pub(crate) log: Option<Arc<Bitmap>>,
}

/// All slots, ascending by IPA; never changed, only replaced.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlotTable {
    entries: Vec<Entry>,
}

impl SlotTable {
    /// The slot that holds `ipa`. `hint` is where the last look-up of this caller ended.
    #[inline]
    pub(crate) fn find(&self, ipa: Ipa, hint: &mut usize) -> Option<&Entry> {
        let holds = |e: &&Entry| ipa.get().wrapping_sub(e.slot.ipa.get()) < e.slot.size;
        if let Some(entry) = self.entries.get(*hint).filter(holds) {
            return Some(entry);
        }
        *hint = self.entries.partition_point(|e| e.slot.ipa <= ipa).checked_sub(1)?;
        self.entries.get(*hint).filter(holds)
    }

    pub(crate) fn by_id(&self, id: u32) -> Result<&Entry, Error> {
        self.entries
            .iter()
            .find(|e| e.slot.id == id)
            .ok_or(Error::NoSlot { slot: id })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The same set with one more slot.
    pub(crate) fn with(&self, entry: Entry) -> Result<Self, Error> {
        let new = entry.slot;
        if self.by_id(new.id).is_ok() {
            return Err(Error::SlotExists { slot: new.id });
        }
        let overlaps = |e: &&Entry| e.slot.ipa.get() < new.end() && new.ipa.get() < e.slot.end();
        if let Some(Entry { slot: other, .. }) = self.entries.iter().find(overlaps) {
            return Err(Error::SlotOverlap {
                slot: new.id,
                ipa: new.ipa,
                size: new.size,
                other: other.id,
                other_ipa: other.ipa,
                other_size: other.size,
            });
        }
        let mut entries = self.entries.clone();
        entries.insert(entries.partition_point(|e| e.slot.ipa < new.ipa), entry);
        Ok(Self { entries })
    }

    /// The same set without slot `id`.
    pub(crate) fn without(&self, id: u32) -> Result<(Self, Entry), Error> {
        let gone = self.by_id(id)?.clone();
        let entries = self.entries.iter().filter(|e| e.slot.id != id).cloned().collect();
        Ok((Self { entries }, gone))
    }

    /// The same set with another dirty log (or none) for slot `id`.
    pub(crate) fn with_log(&self, id: u32, log: Option<Arc<Bitmap>>) -> Result<Self, Error> {
        let (rest, gone) = self.without(id)?;
        rest.with(Entry { log, ..gone })
    }
}

/// The current set of slots and its number.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// Counts publications. A fault reads it twice; see the module's header.
    generation: AtomicU64,
    current: Mutex<Arc<SlotTable>>,
    /// Held over a whole change, so that changes follow one another.
    changing: Mutex<()>,
}

impl Slots {
    /// Makes the caller the only one who changes slots.
    pub(crate) fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current set.
    pub(crate) fn current(&self) -> Arc<SlotTable> {
        Arc::clone(&self.lock())
    }

    /// Replaces the set. The caller holds [`change`](Self::change) and afterwards waits for the faults that may still
    /// work with the old one.
    pub(crate) fn publish(&self, table: SlotTable) {
        let mut current = self.lock();
        *current = Arc::new(table);
        // SeqCst: one side of the store-buffering pair with `CachedSlots::stale` (the other side's store is the marker).
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<SlotTable>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a slot's numbers against the address spaces.
    pub(crate) fn check(slot: &Slot, geometry: &Geometry) -> Result<(), Error> {
        slot.check(geometry)
    }
}

/// The set of slots as one vCPU saw it last.
#[derive(Debug)]
pub(crate) struct CachedSlots {
    generation: u64,
    pub(crate) table: Arc<SlotTable>,
    pub(crate) hint: usize,
}

impl CachedSlots {
    pub(crate) fn new(slots: &Slots) -> Self {
        let mut cached = Self {
            generation: u64::MAX,
            table: Arc::default(),
            hint: 0,
        };
        cached.refresh(slots);
        cached
    }

    /// Takes the newest set if it is not this one.
    #[inline]
    pub(crate) fn refresh(&mut self, slots: &Slots) {
        // Acquire pairs with `publish`; the mutex below orders the set itself.
        if slots.generation.load(Ordering::Acquire) != self.generation {
            self.take(slots);
        }
    }

    #[cold]
    fn take(&mut self, slots: &Slots) {
        let current = slots.lock();
        self.generation = slots.generation.load(Ordering::Relaxed); // only written under this lock
        self.table = Arc::clone(&current);
    }

    /// Whether a newer set was published. Called where the fault can be waited for.
    #[inline]
    pub(crate) fn stale(&self, slots: &Slots) -> bool {
        slots.generation.load(Ordering::SeqCst) != self.generation
    }
}
