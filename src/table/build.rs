//! Tables built in private, complete before anybody can see them.
//!
//! What an operation needs in frames it reserves before it changes anything (R9); a built subtree is then linked with one
//! compare-exchange. When a block is cut, the new table holds the whole block: the part that changes with its new
//! value, the rest with the translation that it had, so that nothing else is lost.

use super::View;
use super::frames::Reserve;
use super::reclaim::Access;
use super::tlb::{Event, Tlb};
use super::walk::At;
#[cfg(s2pt_mutations)]
use crate::arch::Format;
use crate::arch::{Level, Pa, Pte};
use crate::memory::{Frame, TableMemory};
use crate::sync::Ordering;

/// What the covered part of a new table gets.
pub(crate) trait Piece {
    /// The entry at `level` for `ipa`, or `None` if it must be a deeper table. `old` is what was there before.
    /// At level 3 there is always an entry.
    fn piece(&self, level: Level, ipa: u64, old: Pte) -> Option<Pte>;

    /// How far the entries of `size` bytes each in `lo..hi` are apart, each from the one before, if they are evenly; `inherited` is the
    /// distance in what was there before. `None`: they must be asked for one by one.
    fn step(&self, _size: u64, _lo: u64, _hi: u64, inherited: u64) -> Option<u64> {
        Some(inherited)
    }

    /// Whether an entry at `level` of which a part is covered must be cut for that part.
    fn cuts(&self, _level: Level) -> bool {
        true
    }

    /// Whether [`piece`](Self::piece) gives entries at this level; must not depend on anything that changes.
    fn fits(&self, level: Level) -> bool;
}

/// The part of one table's span that an operation changes.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// Level of the entries in the table.
    pub(crate) level: Level,
    /// First IPA that the table translates.
    pub(crate) base: u64,
    pub(crate) lo: u64,
    pub(crate) hi: u64,
}

impl Part {
    /// The table that would stand behind the entry `at`. `None` at level 3, where no table can.
    pub(crate) fn behind(at: &At<'_>) -> Option<Self> {
        Some(Self {
            level: at.level().deeper()?,
            base: at.base,
            lo: at.lo,
            hi: at.hi,
        })
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// How many tables [`build`](Self::build) takes for this part.
    pub(crate) fn tables_needed(&self, part: Part, piece: &impl Piece) -> usize {
        let Some(deeper) = part.level.deeper() else { return 1 };
        let size = self.core.config.geometry.size(part.level);
        let fits = piece.fits(part.level);
        let mut tables = 1;
        let mut ipa = part.lo;
        while ipa < part.hi {
            let base = ipa & !(size - 1);
            // What lies between the ends, where whole entries fit, takes no tables.
            let whole = part.hi & !(size - 1);
            if fits && ipa == base && ipa < whole {
                ipa = whole;
                continue;
            }
            let hi = part.hi.min(base + size);
            let deepens = if hi - ipa < size { piece.cuts(part.level) } else { !fits };
            if deepens {
                tables += self.tables_needed(
                    Part {
                        level: deeper,
                        base,
                        lo: ipa,
                        hi,
                    },
                    piece,
                );
            }
            ipa = hi;
        }
        tables
    }

    /// How many leaves the covered part of a block becomes when it is cut: as few as its ends allow.
    pub(crate) fn pieces(&self, at: &At<'_>) -> u64 {
        let geometry = &self.core.config.geometry;
        let (mut ipa, mut pieces) = (at.lo, 0);
        while ipa < at.hi {
            let mut level = at.level();
            let mut size = geometry.size(level);
            while ipa & (size - 1) != 0 || at.hi - ipa < size {
                let Some(deeper) = level.deeper() else { break };
                level = deeper;
                size = geometry.size(level);
            }
            pieces += 1;
            ipa += size;
        }
        pieces
    }

    /// Builds the table for `part` and all below it: outside of the part it continues `old`, the leaf (or mark, or
    /// nothing) at the level above that it will replace. Frames come from `reserve`, which holds enough.
    pub(crate) fn build(&self, reserve: &mut Reserve<'_, M>, part: Part, old: Pte, piece: &impl Piece) -> Pte {
        let core = self.core;
        let mut frame = reserve.take();
        self.allocated(frame.pa());
        let heir = Heir::new(self, part, old);
        #[cfg(s2pt_mutations)]
        let heir = heir.poorer();
        let shift = core.config.geometry.shift(part.level);
        let ipa = |index: usize| part.base + ((index as u64) << shift);
        let from_base = mutated!(CutDropsRest, false, part.lo == part.base);
        let whole = from_base && part.hi - part.base == core.config.geometry.span(part.level);
        let line = (whole && piece.fits(part.level))
            .then(|| piece.step(1 << shift, part.lo, part.hi, heir.step))
            .flatten();
        if let Some(step) = line {
            // Leaves from end to end, each the one before plus a step: a loop that can be vectorised.
            let first = piece
                .piece(part.level, part.base, heir.entry(0))
                .unwrap_or(heir.entry(0))
                .raw();
            let line = Heir { first, step };
            core.memory.fill(&mut frame, |index| line.entry(index).raw());
        } else if part.level.is_last() {
            // Pages: no recursion, and bounds as numbers of entries.
            let covered = ((part.lo - part.base) >> shift) as usize..((part.hi - part.base) >> shift) as usize;
            core.memory.fill(&mut frame, |index| {
                let inherited = heir.entry(index);
                let entry = if covered.contains(&index) {
                    piece.piece(part.level, ipa(index), inherited).unwrap_or(inherited)
                } else {
                    mutated!(CutDropsRest, Pte::EMPTY, inherited)
                };
                entry.raw()
            });
        } else {
            core.memory.fill(&mut frame, |index| {
                self.subtree(reserve, part, ipa(index), heir.entry(index), piece).raw()
            });
        }
        let pa = frame.into_pa();
        self.filled(pa);
        core.format.table(pa)
    }

    /// Tells a sink that asks for it what a private table holds: runs of entries, each the one before plus a step.
    #[inline(always)]
    fn filled(&self, pa: Pa) {
        if T::ACTIVE && self.core.tlb.contents() {
            self.tell_contents(pa);
        }
    }

    #[inline(never)]
    fn tell_contents(&self, pa: Pa) {
        // Relaxed: nobody else has seen this frame.
        let table = self.core.memory.table(pa);
        let at = |index: usize| table[index].load(Ordering::Relaxed);
        let mut index = 0;
        while index < table.len() {
            let (first, start) = (at(index), index);
            index += 1;
            if first == 0 {
                continue;
            }
            let step = match table.get(index) {
                Some(_) if at(index) != 0 => at(index).wrapping_sub(first),
                _ => 0,
            };
            while index < table.len() && at(index) != 0 && at(index).wrapping_sub(at(index - 1)) == step {
                index += 1;
            }
            self.core.tlb.event(Event::Fill {
                entry: Pa::new(pa.get() + 8 * start as u64),
                count: (index - start) as u32,
                first: Pte::from_raw(first),
                step,
            });
        }
    }

    /// One entry of a table that is being built, with the tables below it.
    fn subtree(&self, reserve: &mut Reserve<'_, M>, part: Part, base: u64, inherited: Pte, piece: &impl Piece) -> Pte {
        let size = self.core.config.geometry.size(part.level);
        let (lo, hi) = (part.lo.max(base), part.hi.min(base + size));
        if lo >= hi || hi - lo < size && !piece.cuts(part.level) {
            mutated!(CutDropsRest, return Pte::EMPTY);
            return inherited;
        }
        if hi - lo == size
            && let Some(entry) = piece.piece(part.level, base, inherited)
        {
            return entry;
        }
        match part.level.deeper() {
            Some(level) => self.build(reserve, Part { level, base, lo, hi }, inherited, piece),
            None => inherited,
        }
    }

    /// A table with nothing in it, out of `reserve`.
    pub(crate) fn empty_table(&self, reserve: &mut Reserve<'_, M>) -> Pte {
        let frame = reserve.take();
        self.allocated(frame.pa());
        self.core.format.table(frame.into_pa())
    }

    /// Takes a subtree apart that was built and could not be linked.
    pub(crate) fn discard(&self, reserve: &mut Reserve<'_, M>, table: Pte, level: Level) {
        let pa = self.core.format.next_table(table);
        if let Some(deeper) = level.deeper() {
            for entry in self.core.memory.table(pa) {
                // Relaxed: nobody else has seen this frame.
                let value = Pte::from_raw(entry.load(Ordering::Relaxed));
                if value.is_table(level) {
                    self.discard(reserve, value, deeper);
                }
            }
        }
        mutated!(LostTableLeaks, return);
        if T::ACTIVE {
            self.core.tlb.event(Event::Free { frame: pa });
        }
        mutated!(LostTableTwice, reserve.put_back(Frame::from_pa(pa)));
        reserve.put_back(Frame::from_pa(pa));
    }
}

/// How the entries of a new table continue the leaf (or mark, or nothing) that it replaces.
///
/// A block is aligned to its size, so the address bits of its pieces differ in one run of bits only, whatever the format:
/// each entry is the one before plus a step.
#[derive(Clone, Copy)]
struct Heir {
    first: u64,
    step: u64,
}

impl Heir {
    fn new<M: TableMemory, T: Tlb, A: Access>(view: &View<'_, M, T, A>, part: Part, old: Pte) -> Self {
        match part.level.shallower() {
            Some(above) if old.is_valid() => Self {
                first: view.core.format.relevel(old, above, part.level).raw(),
                step: view.core.config.geometry.size(part.level),
            },
            _ => Self {
                first: old.raw(),
                step: 0,
            },
        }
    }

    /// What mutations lose of it.
    #[cfg(s2pt_mutations)]
    fn poorer(self) -> Self {
        let lost = mutated!(
            CutDropsAf,
            Format::AF_BIT,
            mutated!(CutDropsDirty, Format::WRITE_BIT, 0)
        );
        let first = if Pte::from_raw(self.first).is_valid() {
            self.first & !lost
        } else {
            self.first
        };
        Self { first, ..self }
    }

    #[inline(always)]
    fn entry(self, index: usize) -> Pte {
        Pte::from_raw(self.first.wrapping_add((index as u64).wrapping_mul(self.step)))
    }
}
