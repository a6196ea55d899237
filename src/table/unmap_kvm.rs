//! Taking translations away as KVM does: whole blocks, and where the CPU allows it with one TLBI for all leaves.
//!
//! KVM empties entry after entry and, with FWB and range TLBIs, invalidates once at the end. It may, as a write lock keeps
//! everybody out. Here peers walk on, and an entry that is empty before its TLBI is complete could be filled by one of them
//! (R5). So leaves of such a batch stay LOCKED until the one TLBI, across tables, and R10 holds because the batch lets go of
//! them before it waits for anything. A subtree that lies in the range as a whole is unlinked instead (R6), with one TLBI.
//!
//! A table that keeps an entry outside of the range may become empty by a peer while ours are LOCKED, and he passes it by. A
//! second look at the tables of the range, with nothing LOCKED, finds it.

use super::View;
use super::batch::Batch;
use super::error::Error;
use super::reclaim::Access;
use super::tlb::Tlb;
use super::unlink::{Farewell, Unlink};
use super::walk::{At, Step, Visitor};
use crate::arch::{Geometry, Ipa, Level, Pa, Pte};
use crate::memory::TableMemory;
use alloc::vec::Vec;

/// An entry that the batch holds LOCKED.
struct Held {
    table: Pa,
    level: Level,
    index: usize,
}

/// Lets go what the range touches, and counts it.
struct Inside<'a> {
    geometry: &'a Geometry,
    start: u64,
    end: u64,
    removed: u64,
}

impl Farewell for Inside<'_> {
    fn may_go(&mut self, level: Level, ipa: u64, _: Pte) -> bool {
        ipa < self.end && self.start < ipa + self.geometry.size(level)
    }

    fn leaves(&mut self, level: Level, count: u64) {
        self.removed += count << self.geometry.shift(level);
    }
}

struct Unmap {
    start: u64,
    end: u64,
    /// One TLBI for all leaves.
    deferred: bool,
    held: Vec<Held>,
    /// First and last byte of what the held entries and the range translate.
    lo: u64,
    hi: u64,
    /// The TLBI for the held entries is the last one of the call.
    last: bool,
    /// Some leaf was held, so a table may have been passed by.
    passed: bool,
    removed: u64,
}

impl<M: TableMemory, T: Tlb, A: Access> Visitor<M, T, A> for Unmap {
    const AFTER: bool = true;

    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        let level = at.level();
        if pte.is_empty() {
            return Ok(Step::Next);
        }
        if pte.is_table(level) {
            return if self.deferred {
                self.unlink_inside(view, guard, at, pte)
            } else {
                Ok(Step::Descend)
            };
        }
        if !pte.is_valid() {
            let done = view.mark(at.table, at.index, pte, Pte::EMPTY);
            return Ok(done.map_or(Step::Retry, |()| Step::Next));
        }
        self.held.reserve(1);
        if view.lock(at.table, at.index, pte).is_err() {
            return Ok(Step::Retry);
        }
        self.removed += at.size;
        if self.deferred {
            self.held.push(Held {
                table: at.table.pa,
                level,
                index: at.index,
            });
            self.lo = self.lo.min(at.base);
            self.hi = self.hi.max(at.base + at.size);
            self.passed = true;
        } else {
            mutated!(KvmUnmapUntold, (), view.invalidate_leaf(&at));
            view.make(at.table, at.index, Pte::EMPTY);
            view.clean_output(pte, view.core.format.output(pte, level), at.size);
        }
        Ok(Step::Next)
    }

    fn faulting(&self, _: &View<'_, M, T, A>) -> bool {
        false
    }

    fn release(&mut self, view: &View<'_, M, T, A>, guard: &A::Guard) {
        if self.held.is_empty() {
            return;
        }
        mutated!(KvmUnmapMadeFirst, (), view.invalidate_span(self.lo, self.hi));
        for held in self.held.drain(..) {
            let table = view.table_at(guard, held.table, held.level);
            view.make(table, held.index, Pte::EMPTY);
        }
        mutated!(KvmUnmapMadeFirst, view.invalidate_span(self.lo, self.hi));
        (self.lo, self.hi) = (self.start, self.end);
        self.last = true;
    }

    fn after<'g>(&mut self, view: &'g View<'_, M, T, A>, guard: &'g A::Guard, at: At<'g>) {
        let geometry = &view.core.config.geometry;
        let Some(below) = at.level().deeper() else { return };
        let first = geometry.index(Ipa::new(at.lo), below);
        let last = geometry.index(Ipa::new(at.hi - 1), below);
        if self.held.is_empty() {
            view.unlink_if_empty(guard, at, first, last + 1);
        } else {
            // With entries held it must not wait; the second look does what it leaves.
            view.impatient().unlink_if_empty(guard, at, first, last + 1);
        }
    }
}

impl Unmap {
    /// Takes the table behind `at` out as a whole if nothing in it lies outside of the range.
    fn unlink_inside<'g, M: TableMemory, T: Tlb, A: Access>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        guard: &'g A::Guard,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        let (start, end) = (self.start, self.end);
        let geometry = &view.core.config.geometry;
        let mut inside = |level, ipa: u64, _: Pte| ipa < end && start < ipa + geometry.size(level);
        if !at.whole() && !view.all_may_go(view.child(at.table, pte), at.base, &mut inside) {
            return Ok(Step::Descend);
        }
        let mut inside = Inside {
            geometry,
            start,
            end,
            removed: 0,
        };
        // Freezing waits for peers: only with nothing held.
        let unlinked = if self.held.is_empty() {
            view.unlink(guard, at, pte, Pte::EMPTY, &mut inside)
        } else {
            view.impatient().unlink(guard, at, pte, Pte::EMPTY, &mut inside)
        };
        match unlinked {
            Ok(Unlink::Done) => {
                self.removed += inside.removed;
                Ok(Step::Next)
            }
            Ok(Unlink::Lost) => Ok(Step::Retry),
            // A peer holds an entry below, or has put one outside of the range: entry by entry.
            Ok(Unlink::Refused) | Err(_) => Ok(Step::Descend),
        }
    }
}

/// Unlinks the tables of a range in which nothing is left.
pub(crate) struct Sweep;

impl<M: TableMemory, T: Tlb, A: Access> Visitor<M, T, A> for Sweep {
    const AFTER: bool = true;

    fn entry<'g>(
        &mut self,
        _: &'g View<'_, M, T, A>,
        _: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        Ok(if pte.is_table(at.level()) {
            Step::Descend
        } else {
            Step::Next
        })
    }

    fn faulting(&self, _: &View<'_, M, T, A>) -> bool {
        false
    }

    fn after<'g>(&mut self, view: &'g View<'_, M, T, A>, guard: &'g A::Guard, at: At<'g>) {
        view.unlink_if_empty(guard, at, 0, 0);
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// [`unmap`](Self::unmap) with KVM's semantics.
    pub(crate) fn unmap_as_kvm(&self, start: u64, end: u64) -> Result<u64, Error> {
        let config = &self.core.config;
        let mut visitor = Unmap {
            start,
            end,
            deferred: config.fwb && config.tlbi_range,
            held: Vec::new(),
            lo: start,
            hi: end,
            last: false,
            passed: false,
            removed: 0,
        };
        let walked = self.walk(start, end, &mut visitor);
        if visitor.deferred && !visitor.last {
            // KVM's one TLBI, due or not.
            self.invalidate_span(start, end);
        }
        walked?;
        if visitor.passed {
            self.walk(start, end, &mut Sweep)?;
        }
        // Part of it may have been done by an impatient view.
        self.owes.set(true);
        self.relieve();
        Ok(visitor.removed)
    }
}
