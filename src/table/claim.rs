//! Maps a range in which nothing may be mapped (`existing=error`): all of it, or nothing.
//!
//! The range is looked over first, so that only a peer who comes meanwhile can still be in the way. If holes were filled one
//! after the other until his page is met, those behind would have to be emptied again, and another peer may have found one of
//! them mapped as he wanted, and rely on it. So holes are not filled but locked, all of the range. What is LOCKED tells nobody
//! anything; a peer waits or tries again. With the last of them nothing can refuse the call any more, and they are made. If a
//! page is in the way, or frames are short, they become holes again, which nobody saw to be anything else.
//!
//! R10: before anything is waited for the entries are let go, and the walk begins anew. No table in which one is held can be
//! unlinked, since who freezes it waits for that entry.

use super::View;
use super::batch::Batch;
use super::build::Part;
use super::error::Error;
use super::frames::Reserve;
use super::map::Mapped;
use super::reclaim::Access;
use super::tlb::Tlb;
use super::unmap_kvm::Sweep;
use super::walk::{At, Step, Visitor};
use super::wanted::Wanted;
use crate::arch::{Level, Pa, Pte};
use crate::memory::TableMemory;
use crate::sync::Backoff;
use alloc::vec::Vec;

/// A hole that is held LOCKED, and what it becomes.
struct Held {
    table: Pa,
    level: Level,
    index: usize,
    value: Pte,
    /// The level of the private table that `value` points to.
    below: Option<Level>,
}

struct Claim<'m, M: TableMemory, L> {
    leaves: L,
    reserve: Reserve<'m, M>,
    start: u64,
    end: u64,
    held: Vec<Held>,
    /// All of the range is held.
    whole: bool,
    /// What was held was let go: something had to be waited for, or the call is refused.
    let_go: bool,
    /// The walk was ended to begin anew.
    anew: bool,
    /// Something became a hole again, at some time.
    gave_back: bool,
}

impl<M: TableMemory, T: Tlb, A: Access, L: Wanted> Visitor<M, T, A> for Claim<'_, M, L> {
    /// A long walk must not leave in the middle: what is held would have to be let go.
    const WHOLE_TABLES: bool = true;

    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        _: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        let (ipa, level) = (at.ipa(), at.level());
        if self.let_go {
            self.anew = true;
            return Err(Error::Again { ipa, level });
        }
        if pte.is_table(level) {
            return Ok(Step::Descend);
        }
        if !pte.is_empty() {
            return Err(Error::Conflict { ipa, level, raw: pte });
        }
        let (value, below) = if at.whole() && self.leaves.fits(level) {
            let leaf = self.leaves.leaf(level, at.base);
            view.prepare_output(level, pte, leaf);
            (leaf, None)
        } else {
            // A level-3 entry always fits, so there is a level below.
            let Some(part) = Part::behind(&at) else {
                return Ok(Step::Retry);
            };
            self.reserve.ensure(view.tables_needed(part, &self.leaves))?;
            if let Some((pa, page)) = self.leaves.output(at.lo) {
                view.prepare_bytes(pa, at.bytes(), page);
            }
            (view.build(&mut self.reserve, part, pte, &self.leaves), Some(part.level))
        };
        let done = if (at.lo, at.hi) == (self.start, self.end) {
            // One entry is all or nothing by itself.
            view.publish(at.table, at.index, pte, value).is_ok()
        } else {
            self.held.reserve(1);
            let locked = view.lock(at.table, at.index, pte).is_ok();
            if locked {
                self.held.push(Held {
                    table: at.table.pa,
                    level,
                    index: at.index,
                    value,
                    below,
                });
            }
            locked
        };
        if !done {
            if let Some(below) = below {
                view.discard(&mut self.reserve, value, below);
            }
            return Ok(Step::Retry);
        }
        self.whole = at.hi == self.end;
        Ok(Step::Next)
    }

    fn release(&mut self, view: &View<'_, M, T, A>, guard: &A::Guard) {
        if self.held.is_empty() {
            return;
        }
        let filled = mutated!(UndoForgotten, true, self.whole);
        for held in self.held.drain(..) {
            let table = view.table_at(guard, held.table, held.level);
            view.make(table, held.index, if filled { held.value } else { Pte::EMPTY });
            if let (false, Some(below)) = (filled, held.below) {
                view.discard(&mut self.reserve, held.value, below);
            }
        }
        self.let_go = !self.whole;
        self.gave_back |= self.let_go;
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Fills the holes that `start..end` must consist of, with frames that were set aside.
    pub(crate) fn claim<L: Wanted>(
        &self,
        start: u64,
        end: u64,
        leaves: L,
        reserve: Reserve<'_, M>,
    ) -> Result<Mapped, Error> {
        let mut visitor = Claim {
            leaves,
            reserve,
            start,
            end,
            held: Vec::new(),
            whole: false,
            let_go: false,
            anew: false,
            gave_back: false,
        };
        let mut backoff = Backoff::new();
        let walked = loop {
            match self.walk(start, end, &mut visitor) {
                // Who does not wait is told so.
                Err(Error::Again { .. }) if visitor.anew && self.wait => {
                    (visitor.let_go, visitor.anew) = (false, false);
                    backoff.wait();
                }
                walked => break walked,
            }
        };
        self.publish_barrier();
        let gave_back = visitor.gave_back;
        drop(visitor);
        if walked.is_err() && gave_back {
            // A peer who emptied the rest of a table left it to us.
            let _ = self.walk(start, end, &mut Sweep);
        }
        self.relieve();
        let bytes = end - start;
        walked.map(|()| Mapped { bytes, kept: 0 })
    }
}
