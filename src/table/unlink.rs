//! Taking a whole subtree out of the tree with one break (R6).
//!
//! The parent entry is LOCKED, so nobody new comes in. Then every entry below is frozen, in ascending order: peers who
//! are already inside find FROZEN and start again at the root, where they meet the parent. Freezing yields each last
//! value, so whatever a peer wrote before is seen: it is removed with the rest, or the unlink is called off.

use super::View;
use super::entry::Table;
use super::error::Error;
#[cfg(s2pt_mutations)]
use super::reclaim::free_subtree;
use super::reclaim::{Access, Unlinked};
use super::tlb::{Event, Tlb};
use super::walk::At;
use crate::arch::{Level, Pte};
use crate::memory::TableMemory;
use crate::sync::{Backoff, Ordering, fence};

/// What is asked, and told, about the entries of a subtree that is taken out.
pub(crate) trait Farewell {
    /// Whether [`may_go`](Self::may_go) is asked at all.
    const ASKS: bool = true;

    /// Whether this entry, which is not empty, may go; asked once it is frozen.
    fn may_go(&mut self, _level: Level, _ipa: u64, _entry: Pte) -> bool {
        true
    }

    /// So many leaves of one table go.
    fn leaves(&mut self, _level: Level, _count: u64) {}
}

/// A question alone.
impl<F: FnMut(Level, u64, Pte) -> bool> Farewell for F {
    fn may_go(&mut self, level: Level, ipa: u64, entry: Pte) -> bool {
        self(level, ipa, entry)
    }
}

/// What became of an unlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unlink {
    /// The subtree is out of the tree.
    Done,
    /// A peer changed the entry first; nothing was done.
    Lost,
    /// Something below must stay; everything is as it was.
    Refused,
}

/// How the entry above an unlinked table is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making {
    /// Its value from now on.
    pub(crate) new: Pte,
    /// No TLBI: the table is not in use.
    pub(crate) silent: bool,
}

impl From<Pte> for Making {
    fn from(new: Pte) -> Self {
        Self { new, silent: false }
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Replaces the TABLE entry `old` at `at` and retires everything below. `farewell` is asked about everything below that
    /// is not empty; its first no calls the unlink off.
    ///
    /// # Errors
    /// [`Error::Again`] if an entry below is LOCKED and this view does not wait: everything is as it was.
    pub(crate) fn unlink<'g>(
        &'g self,
        guard: &A::Guard,
        at: At<'g>,
        old: Pte,
        making: impl Into<Making>,
        farewell: &mut impl Farewell,
    ) -> Result<Unlink, Error> {
        mutated!(TableTlbiFirst, self.invalidate_table(&at));
        if self.lock(at.table, at.index, old).is_err() {
            return Ok(Unlink::Lost);
        }
        let child = self.child(at.table, old);
        let why = match self.freeze_all(child, at.base, farewell) {
            Ok(frames) => {
                self.finish_unlink(guard, at, child, frames, making.into());
                return Ok(Unlink::Done);
            }
            Err(why) => why,
        };
        mutated!(MadeBeforeThaw, self.make(at.table, at.index, old));
        self.thaw_all(child);
        mutated!(MadeBeforeThaw, (), self.make(at.table, at.index, old));
        match why {
            Stopped::Refused => Ok(Unlink::Refused),
            Stopped::Locked => Err(Error::Again {
                ipa: at.ipa(),
                level: at.level(),
            }),
        }
    }

    /// The second half: everything below is frozen; invalidate, make, retire.
    fn finish_unlink(&self, guard: &A::Guard, at: At<'_>, child: Table<'_>, frames: usize, making: Making) {
        mutated!(FreedBeforeTlbi, free_subtree(self.core, child.pa, child.level));
        if mutated!(TableUntold | TableTlbiFirst | TableMadeFirst, false, !making.silent) {
            self.invalidate_table(&at);
        }
        self.make_and_retire(guard, at, child, frames, making.new);
        mutated!(TableMadeFirst, self.invalidate_table(&at));
    }

    /// The last steps of an unlink: the old translations are invalidated.
    pub(crate) fn make_and_retire(&self, guard: &A::Guard, at: At<'_>, child: Table<'_>, frames: usize, new: Pte) {
        mutated!(FreedBeforeMade, free_subtree(self.core, child.pa, child.level));
        self.make(at.table, at.index, new);
        mutated!(RetireForgotten | FreedBeforeMade | FreedBeforeTlbi, return);
        let unlinked = Unlinked {
            pa: child.pa,
            level: child.level,
            frames,
        };
        mutated!(RetireTwice, self.access.retire(guard, self.owner, unlinked));
        mutated!(
            RetireTopOnly,
            return self
                .access
                .retire(guard, self.owner, Unlinked { frames: 1, ..unlinked })
        );
        if T::ACTIVE {
            self.core.tlb.event(Event::Retire {
                frame: unlinked.pa,
                level: unlinked.level,
            });
        }
        self.access.retire(guard, self.owner, unlinked);
        self.owes.set(true);
    }

    /// Freezes a table, which translates from `base` on, and all below it. Returns the number of frames; otherwise all
    /// before the entry where it stopped is frozen, and perhaps that one too.
    fn freeze_all<F: Farewell>(&self, table: Table<'_>, base: u64, farewell: &mut F) -> Result<usize, Stopped> {
        let (mut frames, mut leaves) = (1, 0);
        if !A::SHARED && !F::ASKS && table.level.is_last() {
            // Nothing to freeze, nobody to ask: what is valid is counted.
            let entries = self.alone_in(table, 0..table.len());
            leaves = entries.iter().map(|entry| entry.load(Ordering::Relaxed) & 1).sum();
            farewell.leaves(table.level, leaves);
            return Ok(frames);
        }
        let shift = self.core.config.geometry.shift(table.level);
        for index in 0..table.len() {
            let last = self.freeze(table, index).ok_or(Stopped::Locked)?;
            let ipa = base + ((index as u64) << shift);
            let asks = mutated!(UnlinkUnasked, false, F::ASKS);
            if asks && !last.is_empty() && !farewell.may_go(table.level, ipa, last) {
                return Err(Stopped::Refused);
            }
            if last.is_table(table.level) {
                frames += self.freeze_all(self.child(table, last), ipa, farewell)?;
            } else {
                leaves += u64::from(last.is_valid());
            }
        }
        farewell.leaves(table.level, leaves);
        Ok(frames)
    }

    /// Whether `may_go` says yes to everything below a table, as it is at this moment.
    pub(crate) fn all_may_go(
        &self,
        table: Table<'_>,
        base: u64,
        may_go: &mut impl FnMut(Level, u64, Pte) -> bool,
    ) -> bool {
        let shift = self.core.config.geometry.shift(table.level);
        (0..table.len()).all(|index| {
            let found = self.load(table, index);
            let ipa = base + ((index as u64) << shift);
            found.is_empty()
                || may_go(table.level, ipa, found)
                    && (!found.is_table(table.level) || self.all_may_go(self.child(table, found), ipa, may_go))
        })
    }

    /// Undoes a [`freeze_all`](Self::freeze_all) that stopped half way, deepest first.
    fn thaw_all(&self, table: Table<'_>) {
        for index in 0..table.len() {
            let frozen = self.load(table, index);
            // Only the caller freezes below an entry that he holds, so the first other one is where he stopped.
            if !frozen.is_frozen() {
                return;
            }
            let value = frozen.thaw();
            mutated!(ThawTopFirst, self.thaw(table, index));
            if value.is_table(table.level) {
                self.thaw_all(self.child(table, value));
            }
            mutated!(ThawTopFirst, (), self.thaw(table, index));
        }
    }

    /// Freezes the entries of one table as long as `keep_on(index, value)` says so. True if all are frozen; otherwise
    /// they are as they were, and the parent entry `at` holds `parent` again.
    ///
    /// The caller holds `at` LOCKED.
    pub(crate) fn freeze_if(
        &self,
        at: At<'_>,
        parent: Pte,
        child: Table<'_>,
        mut keep_on: impl FnMut(usize, Pte) -> bool,
    ) -> bool {
        for index in 0..child.len() {
            let last = self.freeze(child, index);
            if !last.is_some_and(|last| keep_on(index, last)) {
                let frozen = index + usize::from(last.is_some());
                mutated!(MadeBeforeThaw, self.make(at.table, at.index, parent));
                (0..frozen).for_each(|index| self.thaw(child, index));
                mutated!(MadeBeforeThaw, (), self.make(at.table, at.index, parent));
                return false;
            }
        }
        true
    }

    /// Whether an entry beside the one that the caller has just emptied holds something, so that the table is not empty.
    ///
    /// In either direction: ranges are given back page by page from both ends. The fence is that of
    /// [`unlink_if_empty`](Self::unlink_if_empty): of two peers who empty neighbours, one sees the other's.
    #[inline]
    pub(crate) fn has_neighbour(&self, table: Table<'_>, index: usize) -> bool {
        if mutated!(NeighbourUnfenced, false, A::SHARED) {
            fence(Ordering::SeqCst);
        }
        let last = table.len() - 1;
        // FROZEN tells nothing: a peer who merges the table has begun, and may give up what was empty before.
        let holds = |index: usize| {
            let found = self.load(table, index & last);
            !found.is_empty() && !found.is_frozen()
        };
        holds(index + 1) || holds(index.wrapping_sub(1))
    }

    /// Whether anything is left in a table of which the entries `first..next` were emptied.
    fn look(&self, table: Table<'_>, first: usize, next: usize) -> Look {
        let len = table.len();
        if mutated!(LookUnfenced, false, A::SHARED) {
            fence(Ordering::SeqCst);
        }
        // Above the table that was worked on, the entry on the way is mostly still there: nothing more to look at. Who
        // empties it later looks then.
        let on_the_way = self.load(table, first);
        if !on_the_way.is_empty() && !on_the_way.is_frozen() {
            return Look::Holds;
        }
        let mut look = Look::Empty;
        for index in core::iter::once(first + len - 1).chain(next..next + len) {
            let found = self.load(table, index % len);
            if found.is_frozen() {
                look = Look::Busy;
            } else if !found.is_empty() {
                return Look::Holds;
            }
        }
        look
    }

    /// Unlinks the table behind `at` if nothing is left in it.
    ///
    /// The look before the freeze is a hint: the neighbours of the emptied entries `first..next` come first, since a range
    /// is taken away page by page, in either direction, as often as at once. The fence makes two peers who empty the
    /// last two entries at the same time not both miss it.
    pub(crate) fn unlink_if_empty<'g>(&'g self, guard: &A::Guard, at: At<'g>, first: usize, next: usize) {
        let mut backoff = Backoff::new();
        let (old, child) = loop {
            let old = self.load(at.table, at.index);
            // A peer who tries to merge or unlink this table will call that off if it has become empty meanwhile, and nobody
            // would look again. The caller holds nothing, so he may wait for a holder above (R10), also for one who came
            // after this look: then entries are FROZEN, or the lock fails.
            let look = if old.is_locked() {
                Look::Busy
            } else if old.is_table(at.level()) {
                self.look(self.child(at.table, old), first, next)
            } else {
                return;
            };
            match look {
                Look::Holds => return,
                Look::Empty if self.lock(at.table, at.index, old).is_ok() => break (old, self.child(at.table, old)),
                _ if mutated!(BusyLeft, true, !self.wait) => return,
                _ => backoff.wait(),
            }
        };
        if self.freeze_if(at, old, child, |_, last| {
            mutated!(EmptyUnchecked, true, last.is_empty())
        }) {
            mutated!(FreedBeforeTlbi, free_subtree(self.core, child.pa, child.level));
            mutated!(EmptyUntold | EmptyMadeFirst, (), self.invalidate_empty_table(&at));
            self.make_and_retire(guard, at, child, 1, Pte::EMPTY);
            mutated!(EmptyMadeFirst, self.invalidate_empty_table(&at));
        }
    }
}

/// What a look through a table found.
enum Look {
    Empty,
    Holds,
    /// A peer has the table.
    Busy,
}

/// Why a freeze stopped.
enum Stopped {
    /// At an entry that it must not wait for.
    Locked,
    /// At an entry that must stay.
    Refused,
}
