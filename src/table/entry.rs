//! The entry protocol: the only code that writes an entry of a live table.
//!
//! An entry is one 64-bit word in one of six states.
//!
//! | state | bits | meaning |
//! |---|---|---|
//! | EMPTY | 0 | nothing here |
//! | ANNOTATED | invalid, payload | an owner's mark |
//! | LOCKED | invalid, bit 10 | somebody is between break and make; he alone writes it until then |
//! | FROZEN | invalid, bit 63, old value | the table that holds it has been unlinked: restart from the root |
//! | LEAF | valid | a block or a page |
//! | TABLE | valid | the next table |
//!
//! Every change is one of the moves below, and each move is one compare-exchange from the value that the caller read,
//! so a peer who was faster is always noticed.
//!
//! | move | from → to | rule |
//! |---|---|---|
//! | [`publish`](View::publish) | EMPTY or ANNOTATED → LEAF or TABLE | R2: one release compare-exchange, no lock, no TLBI |
//! | [`change`](View::change) | LEAF → LEAF, same output | R4: in place, then the TLBI that the change needs |
//! | [`mark`](View::mark) | EMPTY or ANNOTATED → EMPTY or ANNOTATED | R2: neither is seen by hardware |
//! | [`lock`](View::lock) | anything but LOCKED, FROZEN → LOCKED | the break of R3, R5, R6 |
//! | [`make`](View::make) | LOCKED → anything | the make: a release store, after TLBI and DSB |
//! | [`freeze`](View::freeze) | anything but LOCKED → FROZEN | R6: waits out a peer's LOCKED, yields the last value |
//! | [`thaw`](View::thaw) | FROZEN → the value it carries | undoes a freeze whose unlink was called off |
//!
//! FROZEN carries the last value of the entry, so an unlinked subtree can still be followed by the one who frees it,
//! and a freeze can be undone in place without remembering anything.
//!
//! With exclusive access ([`Access::SHARED`] false) nobody else writes, and the same moves are plain stores.

use super::View;
use super::reclaim::Access;
use super::tlb::{Event, Tlb};
#[cfg(all(feature = "std", not(loom)))]
use crate::arch::Format;
use crate::arch::{Level, Pa, Pte};
use crate::memory::{TableMemory, Tables, prefetch};
use crate::sync::{AtomicU64, Backoff, Ordering};
use core::ops::Range;

/// One table of the tree, reached by a walk: as many entries as its level has, root frames side by side.
///
/// The lifetime is that of the guard under which the walk runs; R8 keeps the frame from being reused until then.
#[derive(Clone, Copy)]
pub(crate) struct Table<'g> {
    entries: &'g [AtomicU64],
    pub(crate) pa: Pa,
    /// The level of the entries in it.
    pub(crate) level: Level,
    #[cfg(any(debug_assertions, loom, shuttle))]
    generation: u32,
}

/// A peer changed the entry first. What he wrote is not said: who wants to know reads it again (R1), and that acquires.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost;

/// A table that this thread has seen under the guard that it still holds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    pa: Pa,
    #[cfg(any(debug_assertions, loom, shuttle))]
    generation: u32,
}

impl Table<'_> {
    /// To come back to it under the same guard.
    #[inline(always)]
    pub(crate) fn seen(&self) -> Seen {
        Seen {
            pa: self.pa,
            #[cfg(any(debug_assertions, loom, shuttle))]
            generation: self.generation,
        }
    }

    /// Asks for the cache line of an entry.
    #[inline(always)]
    pub(crate) fn prefetch(&self, index: usize) {
        if let Some(entry) = self.entries.get(index) {
            prefetch(entry);
        }
    }

    /// Number of entries.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Physical address of entry `index`.
    #[inline]
    pub(crate) fn entry_pa(&self, index: usize) -> Pa {
        Pa::new(self.pa.get() + 8 * index as u64)
    }
}

/// What hardware does to a leaf by itself: access flag and dirty state (VTCR_EL2.HA and HD). False if the leaf is another
/// by now. The simulated machine's only write; software sees it as the success of a peer.
#[cfg(all(feature = "std", not(loom)))]
pub(crate) fn hardware_update(entry: &AtomicU64, old: Pte, new: Pte) -> bool {
    debug_assert!(old.is_valid() && (old.raw() ^ new.raw()) & !(Format::AF_BIT | Format::WRITE_BIT) == 0);
    // AcqRel: as any exchange of software; hardware's own update is no weaker.
    entry
        .compare_exchange(old.raw(), new.raw(), Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
}

impl<'t, M: TableMemory, T: Tlb, A: Access> View<'t, M, T, A> {
    /// The root, all of its concatenated frames as one table, for as long as `_guard` is held.
    #[inline(always)]
    pub(crate) fn root_table<'g>(&'g self, _guard: &'g A::Guard) -> Table<'g> {
        Table {
            entries: self.root,
            pa: self.core.root,
            level: self.core.config.geometry.start_level(),
            #[cfg(any(debug_assertions, loom, shuttle))]
            generation: self.core.memory.generation(self.core.root),
        }
    }

    /// The table that the TABLE entry `pte`, read in `parent`, points to.
    #[inline(always)]
    pub(crate) fn child<'g>(&'g self, parent: Table<'g>, pte: Pte) -> Table<'g> {
        self.table_behind(self.tables, parent, self.core.format.next_table(pte))
    }

    /// The same for a walk that has decoded the entry and holds the tables by value.
    #[inline(always)]
    pub(crate) fn table_behind<'g>(&'g self, tables: M::Tables<'t>, parent: Table<'g>, pa: Pa) -> Table<'g> {
        Table {
            entries: tables.find(pa),
            pa,
            // A TABLE entry exists at levels above the last one only.
            level: parent.level.below(),
            #[cfg(any(debug_assertions, loom, shuttle))]
            generation: self.core.memory.generation(pa),
        }
    }

    /// A table with entries at `level`, not the root, that was seen under `_guard`, which has not been repinned since: R8
    /// has kept its frame.
    #[inline(always)]
    pub(crate) fn table_again<'g>(&'g self, _guard: &'g A::Guard, seen: Seen, level: Level) -> Table<'g> {
        Table {
            entries: self.tables.find(seen.pa),
            pa: seen.pa,
            level,
            #[cfg(any(debug_assertions, loom, shuttle))]
            generation: seen.generation,
        }
    }

    /// The table at `pa`, with entries at `level`, in which the caller holds an entry LOCKED: so it is still linked.
    pub(crate) fn table_at<'g>(&'g self, guard: &'g A::Guard, pa: Pa, level: Level) -> Table<'g> {
        if pa == self.core.root {
            return self.root_table(guard);
        }
        Table {
            entries: self.tables.find(pa),
            pa,
            level,
            #[cfg(any(debug_assertions, loom, shuttle))]
            generation: self.core.memory.generation(pa),
        }
    }

    /// In debug builds and models: the frame must not have been freed since the walk reached it.
    #[inline(always)]
    fn check_alive(&self, _table: Table<'_>) {
        #[cfg(any(debug_assertions, loom, shuttle))]
        assert_eq!(
            self.core.memory.generation(_table.pa),
            _table.generation,
            "the table frame at {} was freed under a walker",
            _table.pa
        );
    }

    /// Reads an entry: once a visit (R1). Acquire, so that a TABLE value shows the table filled.
    #[inline(always)]
    pub(crate) fn load(&self, table: Table<'_>, index: usize) -> Pte {
        let ordering = mutated!(LoadRelaxed, Ordering::Relaxed, Ordering::Acquire);
        let pte = Pte::from_raw(table.entries[index].load(ordering));
        self.check_alive(table);
        pte
    }

    /// The one compare-exchange. Who lost it learns no more than that.
    #[inline]
    fn swap(&self, table: Table<'_>, index: usize, old: Pte, new: Pte, success: Ordering) -> Result<(), Lost> {
        self.exchange(table, index, old, new, success).map_err(|_| Lost)
    }

    /// It, and what was found instead: a value to compare with once more, not one to follow. Exclusive access stores plainly:
    /// nobody else can have changed the entry.
    #[inline]
    fn exchange(&self, table: Table<'_>, index: usize, old: Pte, new: Pte, success: Ordering) -> Result<(), Pte> {
        let entry = &table.entries[index];
        if A::SHARED {
            // Relaxed where it fails: a freeze exchanges what it found once more, and that acquires; nobody else is told.
            let swapped = entry.compare_exchange(old.raw(), new.raw(), success, Ordering::Relaxed);
            self.check_alive(table);
            swapped.map_err(Pte::from_raw)?;
        } else {
            self.check_alive(table);
            entry.store(new.raw(), Ordering::Relaxed);
        }
        self.stored(table, index, old, new, success == Ordering::Release);
        Ok(())
    }

    #[inline(always)]
    fn stored(&self, table: Table<'_>, index: usize, old: Pte, new: Pte, release: bool) {
        if T::ACTIVE {
            self.core.tlb.event(Event::Store {
                entry: table.entry_pa(index),
                old,
                new,
                release,
            });
        }
    }

    /// R2: an invalid entry becomes valid. What `new` points to must be complete: the exchange releases it.
    #[inline]
    pub(crate) fn publish(&self, table: Table<'_>, index: usize, old: Pte, new: Pte) -> Result<(), Lost> {
        debug_assert!(!old.is_valid() && !old.is_locked() && !old.is_frozen() && new.is_valid());
        mutated!(PublishBlind, return self.blind(table, index, old, new));
        mutated!(
            PublishLossTaken,
            return self.swap(table, index, old, new, Ordering::Release).or(Ok(()))
        );
        let release = mutated!(PublishRelaxed, Ordering::Relaxed, Ordering::Release);
        self.swap(table, index, old, new, release)
    }

    /// R4: permissions, access flag, dirty state or software bits of a leaf change in place. The caller owes the TLBI.
    #[inline]
    pub(crate) fn change(&self, table: Table<'_>, index: usize, old: Pte, new: Pte) -> Result<(), Lost> {
        debug_assert!(old.is_valid() && new.is_valid());
        mutated!(ChangeBlind, return self.blind(table, index, old, new));
        mutated!(
            ChangeLossTaken,
            return self.swap(table, index, old, new, Ordering::Release).or(Ok(()))
        );
        let release = mutated!(ChangeRelaxed, Ordering::Relaxed, Ordering::Release);
        self.swap(table, index, old, new, release)
    }

    /// An owner's mark comes or goes. Neither value is seen by hardware, so no TLBI is due.
    #[inline]
    pub(crate) fn mark(&self, table: Table<'_>, index: usize, old: Pte, new: Pte) -> Result<(), Lost> {
        debug_assert!(!old.is_valid() && !new.is_valid());
        mutated!(MarkBlind, return self.blind(table, index, old, new));
        mutated!(
            MarkLossTaken,
            return self.swap(table, index, old, new, Ordering::Release).or(Ok(()))
        );
        self.swap(table, index, old, new, Ordering::Release)
    }

    /// The break: from here to [`make`](Self::make) the entry is the caller's alone. Nothing between may fail (R9).
    #[inline]
    pub(crate) fn lock(&self, table: Table<'_>, index: usize, old: Pte) -> Result<(), Lost> {
        debug_assert!(!old.is_locked() && !old.is_frozen());
        mutated!(LockBlind, return self.blind(table, index, old, Pte::LOCKED));
        mutated!(
            LockLossTaken,
            return self.swap(table, index, old, Pte::LOCKED, Ordering::Acquire).or(Ok(()))
        );
        // Acquire: the value may have gone and come back since it was read, by an unlink that was called off. What was thawed
        // behind it must be seen so. Nothing is released.
        let acquire = mutated!(LockRelaxed, Ordering::Relaxed, Ordering::Acquire);
        self.swap(table, index, old, Pte::LOCKED, acquire)
    }

    /// The make: the caller's LOCKED entry gets its new value, after TLBI and DSB. Releases what `new` points to.
    ///
    /// The sink hears of it just before: until the store nobody else can write the entry, so what was stored there is told
    /// in the order in which it happened.
    #[inline]
    pub(crate) fn make(&self, table: Table<'_>, index: usize, new: Pte) {
        self.check_alive(table);
        let entry = &table.entries[index];
        debug_assert_eq!(entry.load(Ordering::Relaxed), Pte::LOCKED.raw(), "make without a break");
        self.stored(table, index, Pte::LOCKED, new, true);
        entry.store(
            new.raw(),
            if A::SHARED {
                mutated!(MakeRelaxed, Ordering::Relaxed, Ordering::Release)
            } else {
                Ordering::Relaxed
            },
        );
    }

    /// Writes any value over an entry, past all rules: what a test needs to leave an entry as a peer would who died between
    /// break and make.
    pub(crate) fn overwrite(&self, table: Table<'_>, index: usize, old: Pte, new: Pte) -> Result<(), Lost> {
        self.swap(table, index, old, new, Ordering::Release)
    }

    /// Entries of one table, for who is alone in it and deals with all of them in one go, by Relaxed loads and stores.
    ///
    /// They are plain moves. Plain words could be vectorised besides; but the frames of a memory can be looked at by
    /// anybody who has it (`TableMemory::table` is safe), and then that would be a data race.
    ///
    /// # Panics
    /// With shared access.
    #[inline]
    pub(crate) fn alone_in<'g>(&self, table: Table<'g>, indices: Range<usize>) -> &'g [AtomicU64] {
        assert!(!A::SHARED, "stores without an exchange beside others");
        self.check_alive(table);
        &table.entries[indices]
    }

    /// R6: ends the life of an entry whose table is being unlinked, and yields its last value.
    ///
    /// The caller holds the table's parent entry LOCKED. A peer that holds this entry LOCKED is waited for: he waits
    /// downwards only (R10), so he finishes. A view that does not wait gets `None`, and must call the unlink off.
    #[inline]
    pub(crate) fn freeze(&self, table: Table<'_>, index: usize) -> Option<Pte> {
        let mut value = self.load(table, index);
        if !A::SHARED {
            return Some(value);
        }
        mutated!(FreezeNothing, return Some(value));
        mutated!(
            FreezeNotPages,
            if table.level.is_last() {
                return Some(value);
            }
        );
        mutated!(
            FreezeNotAbove,
            if !table.level.is_last() {
                return Some(value);
            }
        );
        mutated!(
            FreezeNotLast,
            if index == table.len() - 1 {
                return Some(value);
            }
        );
        let mut backoff = Backoff::new();
        loop {
            if mutated!(FreezeOverLocked, false, value.is_locked()) {
                if !self.wait {
                    return None;
                }
                backoff.wait();
                value = self.load(table, index);
                continue;
            }
            debug_assert!(!value.is_frozen(), "two owners of one unlink");
            // Acquire: the last value may be a TABLE whose contents are read next, and may have gone and come back, as for
            // `lock`. Nothing is released.
            mutated!(FreezeBlind, {
                let _ = self.blind(table, index, value, value.freeze());
                return Some(value);
            });
            let acquire = mutated!(FreezeRelaxed, Ordering::Relaxed, Ordering::Acquire);
            match self.exchange(table, index, value, value.freeze(), acquire) {
                Ok(()) => return Some(value),
                Err(found) => {
                    mutated!(FreezeStale, {
                        let _ = self.blind(table, index, found, value.freeze());
                        return Some(value);
                    });
                    value = found;
                }
            }
        }
    }

    /// Gives a frozen entry back the value that it carries: the unlink was called off.
    ///
    /// Hardware saw the value, then an invalid entry, then the same value: no translation changed, no TLBI is due. What a
    /// TABLE value points to must be thawed before, so that nobody starts a second unlink there.
    #[inline]
    pub(crate) fn thaw(&self, table: Table<'_>, index: usize) {
        let frozen = self.load(table, index);
        if !A::SHARED {
            return;
        }
        debug_assert!(frozen.is_frozen(), "thaw of an entry that is not frozen");
        mutated!(ThawNothing, return);
        let value = mutated!(ThawDropsDirty, without_write(frozen.thaw(), table.level), frozen.thaw());
        self.stored(table, index, frozen, value, true);
        let release = mutated!(ThawRelaxed, Ordering::Relaxed, Ordering::Release);
        table.entries[index].store(value.raw(), release);
    }

    /// What mutations do in place of an exchange.
    #[cfg(s2pt_mutations)]
    fn blind(&self, table: Table<'_>, index: usize, old: Pte, new: Pte) -> Result<(), Lost> {
        self.check_alive(table);
        table.entries[index].store(new.raw(), Ordering::Release);
        self.stored(table, index, old, new, true);
        Ok(())
    }

    /// What a mutation does in place of a publish: the new table is linked empty, and filled then.
    #[cfg(s2pt_mutations)]
    pub(crate) fn link_hollow(&self, at: &super::walk::At<'_>, old: Pte, new: Pte) -> Result<(), Lost> {
        let entries = self.core.memory.table(self.core.format.next_table(new));
        let values = entries.iter().map(|entry| entry.swap(0, Ordering::Relaxed));
        let values: alloc::vec::Vec<u64> = values.collect();
        let done = self.publish(at.table, at.index, old, new);
        for (entry, value) in entries.iter().zip(values) {
            entry.store(value, Ordering::Release);
        }
        done
    }
}

/// A leaf without the right to write, for mutations.
#[cfg(s2pt_mutations)]
pub(crate) fn without_write(pte: Pte, level: Level) -> Pte {
    if pte.is_leaf(level) {
        Pte::from_raw(pte.raw() & !crate::arch::Format::WRITE_BIT)
    } else {
        pte
    }
}

/// What mutations of a fault take for empty.
#[cfg(s2pt_mutations)]
pub(crate) fn fillable(pte: Pte) -> bool {
    pte.is_empty()
        || mutated!(LockedFilled, pte.is_locked(), false)
        || mutated!(FrozenFilled, pte.is_frozen() && pte.thaw().is_empty(), false)
}
