//! What a request would take, looked at before anything is changed: tables, and what stands in its way.

use super::View;
use super::batch::Batch;
use super::build::Part;
use super::error::Error;
use super::map::{Existing, MapOptions};
use super::reclaim::Access;
use super::tlb::Tlb;
use super::walk::{At, Step, Visitor};
use super::wanted::Wanted;
use crate::arch::{EntryKind, Ipa, Pte};
use crate::memory::TableMemory;

/// Counts the tables that a request needs as the table is now, and finds what is in its way.
pub(crate) struct Plan<L> {
    pub(crate) leaves: L,
    pub(crate) options: MapOptions,
    pub(crate) tables: usize,
}

impl<M: TableMemory, T: Tlb, A: Access, L: Wanted> Visitor<M, T, A> for Plan<L> {
    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        _: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        let level = at.level();
        let fits = at.whole() && self.leaves.fits(level);
        if pte.is_table(level) {
            let replace = self.options.existing == Existing::Replace
                || self.options.existing == Existing::Keep && self.options.over_tables;
            if fits && replace && !L::MARKS {
                refuse_marks_below(view, at, pte)?;
            }
            return Ok(if fits && replace { Step::Next } else { Step::Descend });
        }
        if !pte.is_empty() {
            match self.options.existing {
                Existing::Keep => return Ok(Step::Next),
                Existing::Replace if pte.is_valid() || L::MARKS => {}
                Existing::Replace | Existing::Error => {
                    return Err(Error::Conflict {
                        ipa: at.ipa(),
                        level,
                        raw: pte,
                    });
                }
            }
        }
        let stays = self.leaves.same(&at, pte) && level >= self.leaves.largest();
        if !fits
            && !stays
            && let Some(part) = Part::behind(&at)
        {
            self.tables += view.tables_needed(part, &self.leaves);
        }
        Ok(Step::Next)
    }
}

/// A table is to be replaced by a block: not if it holds an owner's mark. (One that a peer writes after this look is found
/// when the table is frozen.)
pub(crate) fn refuse_marks_below<M: TableMemory, T: Tlb, A: Access>(
    view: &View<'_, M, T, A>,
    at: At<'_>,
    pte: Pte,
) -> Result<(), Error> {
    let mut marked = None;
    let _ = view.all_may_go(view.child(at.table, pte), at.base, &mut |level, ipa, found: Pte| {
        if matches!(found.kind(level), EntryKind::Annotated(_)) {
            marked = Some((level, ipa, found));
        }
        marked.is_none()
    });
    match marked {
        Some((level, ipa, raw)) => Err(Error::Conflict {
            ipa: Ipa::new(ipa),
            level,
            raw,
        }),
        None => Ok(()),
    }
}
