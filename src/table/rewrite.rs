//! The walk behind the attribute operations: each leaf of a range gets a new value in place (R4), with the TLBI that this
//! needs.

mod run;
mod value;

use run::plain_run;
use value::Rewritten;
pub(crate) use value::{Clear, Rewrite, Set};

use super::View;
use super::attrs::Changed;
use super::batch::Batch;
use super::entry::Table;
use super::error::Error;
use super::frames::Reserve;
use super::maintenance::Stale;
use super::reclaim::Access;
use super::tlb::Tlb;
use super::walk::{At, Step, Visitor};
use super::way::{ByAccess, Way};
use crate::arch::{Format, Ipa, Level, Pte};
use crate::memory::TableMemory;
use core::borrow::Borrow;
use core::ops::Range;

/// Which TLBI a change of attributes needs before the operation returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Rights go: no core may keep them.
    Broadcast,
    /// Rights come: the faulting core must not keep its refusal, whoever granted them.
    Local,
    /// What changed is to show on every core, and nobody is promised anything of the rest: a peer who changed that invalidates
    /// it himself.
    Shown,
    /// The caller does not need it.
    None,
}

struct Attributes<'m, M: TableMemory, W> {
    rewrite: W,
    reserve: Reserve<'m, M>,
    /// Ageing is about leaves: a block that is covered in part changes as a whole.
    whole_leaves: bool,
    flush: Flush,
    /// A hole ends the walk with `Again`: KVM's fault operations.
    faulting: bool,
    tally: Tally,
}

/// What was done so far. A run keeps one of its own, so that the loop has it in registers.
#[derive(Clone, Copy)]
struct Tally {
    stale: Stale,
    changed: Changed,
    /// All bits of the leaves that were seen, together.
    flags: u64,
}

impl Tally {
    const NONE: Self = Self {
        stale: Stale::NONE,
        changed: Changed { leaves: 0, bytes: 0 },
        flags: 0,
    };

    #[inline(always)]
    fn seen(&mut self, at: &At<'_>, pte: Pte) {
        self.flags |= pte.raw();
        self.changed.bytes += at.bytes();
    }

    fn add(&mut self, other: Self) {
        if !other.stale.is_none() {
            self.stale.add_all(other.stale);
        }
        self.flags |= other.flags;
        self.changed.leaves += other.changed.leaves;
        self.changed.bytes += other.changed.bytes;
    }
}

impl<M: TableMemory, T: Tlb, A: Access, W: Rewrite> Visitor<M, T, A> for Attributes<'_, M, W> {
    #[inline]
    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        _: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        if !pte.is_valid() {
            if self.faulting {
                return Err(Error::Again {
                    ipa: at.ipa(),
                    level: at.level(),
                });
            }
            return Ok(Step::Next);
        }
        if pte.is_table(at.level()) {
            return Ok(Step::Descend);
        }
        let done = if at.whole() || self.whole_leaves {
            {
                let mut tally = self.tally;
                let done = self.leaf(view, &mut tally, &at, pte);
                self.tally = tally;
                done
            }
        } else {
            self.part(view, at, pte)?
        };
        Ok(if done { Step::Next } else { Step::Retry })
    }

    #[inline]
    fn run<'g>(&mut self, view: &'g View<'_, M, T, A>, table: Table<'g>, indices: Range<usize>, base: u64) -> usize {
        // What ends at a hole is for the walk; so is a right that may need cache operations first.
        if self.faulting {
            return 0;
        }
        if A::SHARED {
            return self.run_beside_peers(view, table, indices, base);
        }
        if T::ACTIVE && (W::GIVES || view.core.tlb.watches()) {
            return 0;
        }
        self.run_alone(view, table, indices, base)
    }

    fn faulting(&self, view: &View<'_, M, T, A>) -> bool {
        self.faulting || !view.kvm()
    }
}

impl<M: TableMemory, W: Rewrite> Attributes<'_, M, W> {
    /// Changes a leaf as a whole. False if a peer changed it first.
    #[inline(always)]
    fn leaf<T: Tlb, A: Access>(&self, view: &View<'_, M, T, A>, tally: &mut Tally, at: &At<'_>, pte: Pte) -> bool {
        let new = self.rewrite.rewrite(&view.core.format, pte);
        if new == pte {
            self.unchanged(view, tally, at);
        } else {
            if W::GIVES {
                view.prepare_output(at.level(), pte, new);
            }
            if view.change(at.table, at.index, pte, new).is_err() {
                return false;
            }
            self.touched(tally, at);
            tally.changed.leaves += 1;
        }
        tally.seen(at, pte);
        true
    }

    /// Changes the part of a block that the range covers: cuts it. False if a peer changed it first.
    fn part<T: Tlb, A: Access>(&mut self, view: &View<'_, M, T, A>, at: At<'_>, pte: Pte) -> Result<bool, Error> {
        let format = &view.core.format;
        let new = self.rewrite.rewrite(format, pte);
        let mut tally = self.tally;
        if new == pte {
            self.unchanged(view, &mut tally, &at);
        } else {
            let piece = Rewritten {
                format,
                rewrite: &self.rewrite,
            };
            view.prepare_output(at.level(), pte, new);
            if !view.cut(&mut self.reserve, at, pte, &piece)? {
                return Ok(false);
            }
            tally.changed.leaves += view.pieces(&at);
        }
        tally.seen(&at, pte);
        self.tally = tally;
        Ok(true)
    }

    /// A peer was faster. If a right was asked for, this core's refusal is still cached, and would be met again and again;
    /// if one was to go, the peer's TLBI may still be under way.
    #[inline(always)]
    fn unchanged<T: Tlb, A: Access>(&self, view: &View<'_, M, T, A>, tally: &mut Tally, at: &At<'_>) {
        if mutated!(SettledUntold, false, self.flush == Flush::Local)
            || self.flush == Flush::Broadcast && view.narrowed_by_peer(1)
        {
            self.touched(tally, at);
        }
    }

    /// Pages of one table, up to the first that somebody else holds or has frozen. Returns how many entries are done.
    fn run_beside_peers<'g, T: Tlb, A: Access>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        table: Table<'g>,
        indices: Range<usize>,
        base: u64,
    ) -> usize {
        let size = view.core.config.geometry.size(Level::L3);
        let (mut index, mut lo) = (indices.start, base);
        let mut tally = Tally::NONE;
        while index < indices.end {
            let pte = view.load(table, index);
            if pte.is_valid() {
                let at = At::leaf(table, index, lo, size);
                if !self.leaf(view, &mut tally, &at, pte) {
                    continue;
                }
            } else if pte.is_locked() || pte.is_frozen() {
                break;
            }
            index += 1;
            lo += size;
        }
        self.tally.add(tally);
        index - indices.start
    }

    /// Pages of one table by who is alone in it. All of them or, if one is LOCKED (its holder died), none.
    fn run_alone<'g, T: Tlb, A: Access>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        table: Table<'g>,
        indices: Range<usize>,
        base: u64,
    ) -> usize {
        let (format, rewrite) = (&view.core.format, &self.rewrite);
        let size = view.core.config.geometry.size(Level::L3);
        let Some(run) = plain_run::<T, W>(format, rewrite, view.alone_in(table, indices)) else {
            return 0;
        };
        if let Some((first, last)) = run.span {
            let from = Ipa::new(base + first as u64 * size);
            self.tally
                .stale
                .add(from, (last - first + 1) as u64 * size, Some(Level::L3));
        }
        self.tally.changed.leaves += run.changed;
        self.tally.changed.bytes += run.valid * size;
        self.tally.flags |= run.flags;
        run.entries
    }

    /// The leaf at `at` is to be invalidated: all of it, or on this core what faulted.
    #[inline]
    fn touched(&self, tally: &mut Tally, at: &At<'_>) {
        // From the first faulting byte on; further leaves whole, so that the span reaches into each of them.
        let (base, bytes) = if self.faulting && tally.stale.is_none() {
            (at.lo, at.bytes())
        } else {
            (at.base, at.size)
        };
        tally.stale.add(Ipa::new(base), bytes, Some(at.level()));
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// A rewrite on behalf of a fault. With KVM's semantics it waits for nobody and stops at the first entry that is no
    /// leaf, and this core forgets what made it fault.
    #[inline]
    pub(crate) fn rewrite_fault<W: Rewrite>(
        &self,
        start: u64,
        end: u64,
        rewrite: W,
        flush: Flush,
        whole_leaves: bool,
    ) -> Result<Outcome, Error> {
        if flush == Flush::Local
            && end - start == self.core.config.geometry.size(Level::L3)
            && let Some(changed) = self.rewrite_page(|| self.access.pin(), &ByAccess, Ipa::new(start), &rewrite)
        {
            return Ok(Outcome { changed, young: false });
        }
        if !self.kvm() {
            return self.rewrite_as(start, end, rewrite, flush, whole_leaves, false);
        }
        let done = self.impatient().rewrite_as(start, end, rewrite, flush, true, true);
        if let (Flush::Local, Err(Error::Again { ipa, .. })) = (flush, &done) {
            self.invalidate_refusal(*ipa);
        }
        done
    }

    /// Walks the range with one rewrite and issues the TLBI that it needs. With KVM's semantics leaves change whole.
    #[inline]
    pub(crate) fn rewrite<W: Rewrite>(
        &self,
        start: u64,
        end: u64,
        rewrite: W,
        flush: Flush,
        whole_leaves: bool,
    ) -> Result<Outcome, Error> {
        self.rewrite_as(start, end, rewrite, flush, whole_leaves || self.kvm(), false)
    }

    #[inline]
    fn rewrite_as<W: Rewrite>(
        &self,
        start: u64,
        end: u64,
        rewrite: W,
        flush: Flush,
        whole_leaves: bool,
        faulting: bool,
    ) -> Result<Outcome, Error> {
        let mut reserve = self.reserve();
        if !whole_leaves {
            let format = &self.core.format;
            let piece = Rewritten {
                format,
                rewrite: &rewrite,
            };
            let changes = |pte: Pte| pte.is_valid() && rewrite.rewrite(format, pte) != pte;
            self.reserve_for_edges(&mut reserve, start, end, &piece, changes)?;
        }
        let mut visitor = Attributes {
            rewrite,
            reserve,
            whole_leaves,
            flush,
            faulting,
            tally: Tally::NONE,
        };
        if flush == Flush::Broadcast {
            self.narrowing();
            mutated!(ProtectTlbiFirst, self.invalidate_span(start, end));
        }
        let walked = self.walk(start, end, &mut visitor);
        match flush {
            Flush::Broadcast => {
                mutated!(NarrowedEarly, self.narrowed());
                mutated!(
                    ProtectUntold | ProtectTlbiFirst,
                    (),
                    self.invalidate(visitor.tally.stale)
                );
                mutated!(NarrowedEarly, (), self.narrowed());
            }
            Flush::Shown => mutated!(ProtectUntold, (), self.invalidate(visitor.tally.stale)),
            Flush::Local => mutated!(RelaxUntold, (), self.invalidate_local(visitor.tally.stale)),
            Flush::None => {}
        }
        walked?;
        Ok(Outcome {
            changed: visitor.tally.changed,
            young: visitor.tally.flags & Format::AF_BIT != 0,
        })
    }

    /// The fault path's common case: a page gets a right. `None`: it is not that simple, the visitor deals with it.
    #[inline(always)]
    pub(crate) fn rewrite_page<W: Rewrite, G: Borrow<A::Guard>>(
        &self,
        enter: impl FnOnce() -> G,
        way: &impl Way,
        ipa: Ipa,
        rewrite: &W,
    ) -> Option<Changed> {
        let guard = enter();
        let (table, index, pte) = way.find(self, guard.borrow(), ipa, Level::L3);
        if !table.level.is_last() || !pte.is_valid() {
            return None;
        }
        let size = self.core.config.geometry.size(table.level);
        let new = rewrite.rewrite(&self.core.format, pte);
        if new != pte {
            self.prepare_output(table.level, pte, new);
            self.change(table, index, pte, new).ok()?;
        }
        // Also where a peer was faster: this core's refusal is still cached.
        let mut stale = Stale::NONE;
        stale.add(ipa, size, Some(table.level));
        mutated!(
            SettledUntold,
            if new == pte {
                stale = Stale::NONE
            }
        );
        mutated!(RelaxPageUntold, (), self.invalidate_local(stale));
        Some(Changed {
            leaves: u64::from(new != pte),
            bytes: size,
        })
    }
}

/// What a walk did, and saw.
pub(crate) struct Outcome {
    pub(crate) changed: Changed,
    pub(crate) young: bool,
}
