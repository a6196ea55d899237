//! Where KVM installs otherwise: a leaf with the same output is left alone, and the way to the level below is an empty table.

use super::Map;
use crate::arch::{Format, Pte};
use crate::memory::TableMemory;
use crate::table::View;
use crate::table::error::Error;
use crate::table::reclaim::Access;
use crate::table::semantics::WalkFlags;
use crate::table::tlb::Tlb;
use crate::table::walk::{At, Step};
use crate::table::wanted::Wanted;

impl<M: TableMemory, L: Wanted> Map<'_, M, L> {
    /// KVM's way with a leaf that stands where the caller wants his own, or a table.
    pub(super) fn replace_as_kvm<T: Tlb, A: Access>(
        &mut self,
        view: &View<'_, M, T, A>,
        at: At<'_>,
        pte: Pte,
        fits: bool,
    ) -> Result<Step, Error> {
        let level = at.level();
        let flags = self.options.flags;
        if !fits {
            return self.link_empty(view, at, pte);
        }
        let leaf = self.leaves.leaf(level, at.base);
        let differs = pte.raw() ^ leaf.raw();
        if differs & !view.core.format.perm_mask() == 0 {
            // Permissions are for `relax`; who asks for them here has lost a race.
            if flags.contains(WalkFlags::HANDLE_FAULT) {
                return Err(Error::Again { ipa: at.ipa(), level });
            }
            self.mapped.kept += at.bytes();
            return Ok(Step::Next);
        }
        if !flags.contains(WalkFlags::SHARED) && differs & !Format::SOFTWARE_MASK == 0 {
            let done = view.change(at.table, at.index, pte, leaf).is_ok();
            return Ok(self.wrote(done, &at));
        }
        if view.lock(at.table, at.index, pte).is_err() {
            return Ok(Step::Retry);
        }
        if mutated!(
            KvmReplaceUntold | KvmMadeFirst,
            false,
            !flags.contains(WalkFlags::SKIP_BBM_TLBI)
        ) {
            view.invalidate_leaf(&at);
        }
        self.prepare(view, level, Pte::EMPTY, leaf);
        view.make(at.table, at.index, leaf);
        mutated!(KvmMadeFirst, view.invalidate_leaf(&at));
        Ok(self.wrote(true, &at))
    }

    /// KVM's way to the level below: an empty table takes the place of whatever is here. What else a block translated
    /// faults again.
    pub(super) fn link_empty<T: Tlb, A: Access>(
        &mut self,
        view: &View<'_, M, T, A>,
        at: At<'_>,
        old: Pte,
    ) -> Result<Step, Error> {
        let Some(below) = at.level().deeper() else {
            return Ok(Step::Retry);
        };
        self.reserve.ensure(1)?;
        let table = view.empty_table(&mut self.reserve);
        let done = if old.is_valid() {
            let locked = view.lock(at.table, at.index, old).is_ok();
            if locked {
                if mutated!(
                    KvmLinkUntold,
                    false,
                    !self.options.flags.contains(WalkFlags::SKIP_BBM_TLBI)
                ) {
                    view.invalidate_leaf(&at);
                }
                view.make(at.table, at.index, table);
            }
            locked
        } else {
            view.publish(at.table, at.index, old, table).is_ok()
        };
        if !done {
            view.discard(&mut self.reserve, table, below);
        }
        Ok(Step::Retry) // and go down
    }
}
