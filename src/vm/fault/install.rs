//! Step 4: what was decided is installed, in a section that changes by the host wait for, unless it is out of date.

use super::decide::Plan;
use super::{Handled, Outcome, Retry};
use crate::arch::{AccessKind, Ipa};
use crate::memory::TableMemory;
use crate::table::{self, Tlb};
use crate::vm::error::Error;
use crate::vm::ring::DirtyPage;
use crate::vm::sequence::Sample;
use crate::vm::slots::Entry;
use crate::vm::vcpu::Vcpu;

impl<M: TableMemory, T: Tlb> Vcpu<'_, M, T> {
    /// Step 4: installs what was decided, unless it is out of date.
    #[inline]
    pub(super) fn install(
        &self,
        entry: &Entry,
        ipa: Ipa,
        access: AccessKind,
        sample: Sample,
        plan: &Plan,
    ) -> Result<Outcome, Error> {
        let vm = self.vm();
        let _section = vm.gate.fault(&self.marker, ipa);
        if mutated!(MovedUnasked, false, vm.sequence.moved(ipa, sample)) {
            return Ok(Outcome::Again(Retry::Invalidated));
        }
        if mutated!(SlotsUnasked, false, self.slots.stale(&vm.slots)) {
            return Ok(Outcome::Again(Retry::SlotsChanged));
        }
        let mark = || {
            if let Some(log) = &entry.log {
                let page = ipa.offset_from(entry.slot.ipa) / vm.page_size();
                match &self.ring {
                    Some(ring) => ring.put(DirtyPage {
                        slot: entry.slot.id,
                        page,
                    }),
                    None if log.by_hardware() => {} // the leaf says it
                    None => log.mark(page),
                }
            }
        };
        mutated!(
            MarkedFirst,
            if access == AccessKind::Write {
                mark()
            }
        );
        let result = match *plan {
            Plan::Map {
                ipa,
                size,
                pa,
                attrs,
                options,
                done,
            } => self.impatient.map(ipa, size, pa, &attrs, options).map(|_| done),
            Plan::Relax { ipa, size, prot, done } => self.impatient.relax(ipa, size, prot).map(|_| done),
            Plan::Young { ipa } => self
                .impatient
                .mark_young(ipa, vm.page_size())
                .map(|_| Handled::MarkedYoung),
        };
        match result {
            Ok(done) => {
                // Only now, and still inside the section: a page that somebody may write is marked, or the fault that
                // allowed it is one that the next change of the log waits for.
                if mutated!(MarkedFirst, false, access == AccessKind::Write) && done != Handled::MarkedYoung {
                    mark();
                }
                Ok(Outcome::Handled(done))
            }
            // A peer was first, holds the entry, or took it away: the guest will see.
            Err(table::Error::Again { .. } | table::Error::NotMapped { .. }) => Ok(Outcome::Again(Retry::Peer)),
            Err(e) => Err(e.into()),
        }
    }
}
