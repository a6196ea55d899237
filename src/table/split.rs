//! Cutting blocks into smaller leaves ahead of time, so that a later fault need not.

use super::View;
use super::batch::Batch;
use super::build::{Part, Piece};
use super::error::Error;
use super::frames::Reserve;
use super::reclaim::Access;
use super::tlb::Tlb;
use super::walk::{At, Step, Visitor};
use crate::arch::{Format, Ipa, Level, Pte};
use crate::memory::TableMemory;

/// Inside the range no leaf coarser than `to`; outside the block as it was.
#[derive(Clone, Copy)]
struct DownTo {
    to: Level,
    /// Bits that each new leaf has, whether the block had them or not.
    set: u64,
}

impl Piece for DownTo {
    fn piece(&self, level: Level, _: u64, old: Pte) -> Option<Pte> {
        (level >= self.to).then_some(Pte::from_raw(old.raw() | self.set))
    }

    fn cuts(&self, level: Level) -> bool {
        level < self.to
    }

    fn fits(&self, level: Level) -> bool {
        level >= self.to
    }
}

struct Split<'m, M: TableMemory> {
    down: DownTo,
    /// `None` while the frames are counted, so that nothing is cut yet.
    reserve: Option<Reserve<'m, M>>,
    frames: usize,
}

impl<M: TableMemory, T: Tlb, A: Access> Visitor<M, T, A> for Split<'_, M> {
    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        _: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        let level = at.level();
        if pte.is_table(level) {
            return Ok(if level < self.down.to {
                Step::Descend
            } else {
                Step::Next
            });
        }
        if !pte.is_valid() || level >= self.down.to {
            return Ok(Step::Next);
        }
        let Some(part) = Part::behind(&at) else {
            return Ok(Step::Next);
        };
        if view.kvm() {
            return self.cut_as_kvm(view, at, part, pte);
        }
        let tables = view.tables_needed(part, &self.down);
        if let Some(reserve) = &mut self.reserve
            && !view.cut(reserve, at, pte, &self.down)?
        {
            return Ok(Step::Retry);
        }
        self.frames += tables;
        Ok(Step::Next)
    }

    fn faulting(&self, view: &View<'_, M, T, A>) -> bool {
        !view.kvm()
    }
}

impl<M: TableMemory> Split<'_, M> {
    /// KVM's way: all of a block, at once down to `to` if there are frames for that, else by one level; the walk then goes
    /// down to what it still has to cut. New leaves are young: KVM makes them afresh.
    fn cut_as_kvm<T: Tlb, A: Access>(
        &mut self,
        view: &View<'_, M, T, A>,
        at: At<'_>,
        part: Part,
        pte: Pte,
    ) -> Result<Step, Error> {
        let Some(reserve) = &mut self.reserve else {
            return Ok(Step::Next);
        };
        let whole = Part {
            lo: at.base,
            hi: at.base + at.size,
            ..part
        };
        let set = Format::AF_BIT;
        let mut down = DownTo { set, ..self.down };
        let mut tables = view.tables_needed(whole, &down);
        if reserve.ensure(tables).is_err() {
            down.to = part.level;
            tables = 1;
        }
        if view.cut_part(reserve, at, whole, pte, &down)? {
            self.frames += tables;
        }
        Ok(Step::Retry)
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Cuts every block that the range touches until no leaf inside it is coarser than level `to`. Translations stay.
    ///
    /// `ipa` and `size` (bytes) are multiples of the page size. What lies outside of the range stays as coarse as
    /// it can. A level at which no block can stand cuts what is coarser, like any other.
    /// Returns how many blocks were cut, those that came from larger ones counted too.
    /// Maintenance: break-before-make with one broadcast TLBI a block.
    ///
    /// With KVM's semantics a block is cut whole, at once down to `to` if [`with_frames`](Self::with_frames) allows it, else
    /// by one level as often as the range needs it; memory types stay (KVM's do not), and new leaves are young.
    ///
    /// # Errors
    /// [`Error::OutOfFrames`] if the tables for all of it are not to be had: nothing was cut then, save in the corner that
    /// [`map`](Self::map) names (KVM's semantics: what there were frames for); errors of the range.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// assert_eq!(view.split(Ipa::new(0x1000), 0x1000, Level::L3)?, 1);
    /// assert_eq!(view.leaves(Ipa::new(0), 2 << 20)?.count(), 512);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn split(&self, ipa: Ipa, size: u64, to: Level) -> Result<u64, Error> {
        let end = self.check_range(ipa, size)?;
        let down = DownTo { to, set: 0 };
        let mut reserve = self.reserve();
        if !self.kvm() {
            let mut plan = Split {
                down,
                reserve: None,
                frames: 0,
            };
            self.walk(ipa.get(), end, &mut plan)?;
            if plan.frames == 0 {
                return Ok(0);
            }
            self.set_aside(&mut reserve, plan.frames)?;
        }
        let mut visitor = Split {
            down,
            reserve: Some(reserve),
            frames: 0,
        };
        self.walk(ipa.get(), end, &mut visitor)?;
        Ok(visitor.frames as u64)
    }
}
