//! The MMU of one CPU: what its caches hold, how it walks and what it writes of itself, the access in flight.

use alloc::collections::BTreeMap;

use super::access::{Access, CpuCounts};
use super::cache::Caches;
use super::judge::ViolationKind;
use super::log::What;
use super::shared::Shared;
use super::space::{Observer, Space};
use super::walker::{Found, Next, Reached, Regime, Walk};
use crate::arch::{AccessKind, El, Fault, FaultKind, Ipa, Level, Pa, Pte};
use crate::sync::Arc;
use crate::table::hardware_update;

/// An access that has its translation and has not yet reached memory.
#[derive(Debug)]
pub(super) struct Flying {
    pub access: Access,
    pub found: Found,
    pub pa: Pa,
    pub vmid: u16,
}

/// A CPU's own.
#[derive(Default)]
pub(super) struct State {
    caches: BTreeMap<u16, Caches>,
    pub flying: Option<Flying>,
    pub space: Option<Arc<Space>>,
    pub counts: CpuCounts,
}

/// Where a CPU works: the machine around it, and the table that it walks.
#[derive(Clone, Copy)]
pub(super) struct Seat<'a> {
    pub shared: &'a Shared,
    pub space: &'a Space,
    pub walk: &'a dyn Walk,
    pub regime: &'a Regime,
    pub cpu: usize,
}

/// What is wanted of a walk: an access, or nothing but the translation.
type Purpose = Option<AccessKind>;

impl State {
    /// How many translations and tables it holds, of all VMIDs.
    pub fn held(&self) -> usize {
        self.caches.values().map(Caches::len).sum()
    }

    pub fn caches(&mut self, regime: &Regime) -> &Caches {
        self.caches_mut(regime)
    }

    pub fn caches_mut(&mut self, regime: &Regime) -> &mut Caches {
        self.caches.entry(regime.vmid).or_insert_with(|| Caches::new(regime))
    }

    /// Lets the access in flight reach memory.
    pub fn land(&mut self, shared: &Shared, cpu: usize) -> Option<u64> {
        let Flying { access, pa, .. } = self.flying.take()?;
        self.counts.accesses += 1;
        let (kind, ipa) = (access.kind, access.ipa);
        shared.log.add(Some(cpu), What::Access { kind, ipa, pa });
        if kind == AccessKind::Write {
            shared.ram.write(pa, access.size, access.value);
            return Some(0);
        }
        Some(shared.ram.read(pa, access.size).unwrap_or(0))
    }

    /// Lets it reach memory if the translation that it uses is held no more: it is what a DSB waits for.
    pub fn land_if_dropped(&mut self, regime: &Regime, shared: &Shared, cpu: usize) {
        let Some(flying) = self.flying.as_ref().filter(|flying| flying.vmid == regime.vmid) else {
            return;
        };
        let ipa = flying.access.ipa;
        let used = flying.found.clone();
        let caches = self.caches_mut(regime);
        let held = |combined| caches.find(ipa, combined) == Some(&used);
        if !held(false) && !held(true) {
            self.land(shared, cpu);
        }
    }

    /// Reads a translation ahead of any access, as hardware may at any time. Nothing is written.
    pub fn speculate(&mut self, seat: Seat<'_>, ipa: Ipa) {
        let _ = self.walk(seat, ipa, None);
    }

    /// The translation for an access, or the fault.
    pub fn translate(&mut self, seat: Seat<'_>, access: Access) -> Result<Found, Fault> {
        let regime = seat.regime;
        let (ipa, kind) = (access.ipa, access.kind);
        let fault = |kind, level| Fault {
            ipa,
            access: access.kind,
            kind,
            level,
            s1ptw: false,
        };
        if ipa.get() >= regime.geometry.ipa_limit() {
            return Err(fault(FaultKind::Translation, Level::L0));
        }
        let caches = self.caches_mut(regime);
        let held = caches.find(ipa, true).or_else(|| caches.find(ipa, false)).cloned();
        if let Some(found) = held {
            // A refusal is remembered like a permission.
            let allowed = regime.format.check_access(found.leaf, kind, El::El1, regime.update);
            allowed.map_err(|kind| fault(kind, found.level))?;
            if regime.format.after_access(found.leaf, kind, regime.update) == found.leaf {
                self.counts.hits += 1;
                if let Some(conflict) = self.caches_mut(regime).keep(&found, true) {
                    conflicts(seat, ipa, &found, &conflict);
                }
                return Ok(found);
            }
        }
        self.walk(seat, ipa, Some(kind))
            .map_err(|(kind, level)| fault(kind, level))
    }

    /// Walks, from where the walk cache has it, and keeps what it finds.
    fn walk(&mut self, seat: Seat<'_>, ipa: Ipa, purpose: Purpose) -> Result<Found, (FaultKind, Level)> {
        let Seat {
            shared,
            space,
            walk,
            regime,
            cpu,
        } = seat;
        let mut at = self
            .caches_mut(regime)
            .deepest(ipa)
            .cloned()
            .unwrap_or_else(|| regime.start());
        loop {
            let Some((entry, pte)) = regime.read(walk, &at, ipa) else {
                return Err((FaultKind::ExternalAbort, at.level));
            };
            if space.is_freed(at.table) {
                let what = alloc::format!("a walk for {ipa} read {pte:?} in the {at}, which is free");
                shared.violation(ViolationKind::FreedFrame, Some(cpu), Some(ipa), what);
            }
            let pte = space.seen(Observer::Cpu(cpu), entry, pte);
            match regime
                .step(&at, entry, pte, ipa)
                .map_err(|stopped| (stopped.kind, stopped.level))?
            {
                Next::Table(below) => {
                    if let Some(other) = self.caches_mut(regime).keep_table(ipa, &below) {
                        let what = alloc::format!("for {ipa} the CPU found the {below} and held the {other}");
                        shared.violation(ViolationKind::Conflict, Some(cpu), Some(ipa), what);
                    }
                    at = below;
                }
                Next::Leaf(mut found) => {
                    if let Some(kind) = purpose {
                        let allowed = regime.format.check_access(found.leaf, kind, El::El1, regime.update);
                        allowed.map_err(|kind| (kind, found.level))?;
                        let after = regime.format.after_access(found.leaf, kind, regime.update);
                        if after != found.leaf {
                            if !self.update(seat, ipa, &at, &found, after) {
                                continue; // somebody changed it: read it again
                            }
                            found.leaf = after;
                        }
                    } else if !regime.format.af(found.leaf) {
                        return Ok(found); // what is not accessed is not held
                    }
                    self.fill(seat, ipa, &found);
                    return Ok(found);
                }
            }
        }
    }

    fn fill(&mut self, seat: Seat<'_>, ipa: Ipa, found: &Found) {
        self.counts.fills += 1;
        let (entry, leaf) = (found.entry(), found.leaf);
        seat.shared.log.add(Some(seat.cpu), What::Fill { ipa, entry, leaf });
        for combined in [false, true] {
            if let Some(conflict) = self.caches_mut(seat.regime).keep(found, combined) {
                conflicts(seat, ipa, found, &conflict);
            }
        }
    }

    /// Hardware's own write into a leaf. False if the leaf is another by now.
    fn update(&mut self, seat: Seat<'_>, ipa: Ipa, at: &Reached, found: &Found, new: Pte) -> bool {
        let regime = seat.regime;
        let old = found.leaf;
        let page = ipa.align_down(regime.geometry.granule().size());
        let offset = page.offset_from(found.base);
        let output = Pa::new(regime.format.output(old, found.level).get() + offset);
        let format = &regime.format;
        let dirty = format.prot(new) != format.prot(old);
        let index = regime.geometry.index(ipa, at.level);
        let word = seat.walk.entry(at.table, index);
        let done = word.is_some_and(|word| hardware_update(word, old, new));
        if done {
            // Under the lock of this CPU: who takes what hardware noted passes through it first.
            seat.space.notes(page, output, true, dirty);
            self.counts.updates += 1;
            let entry = found.entry();
            seat.shared.log.add(Some(seat.cpu), What::Update { entry, old, new });
        }
        done
    }
}

fn conflicts(seat: Seat<'_>, ipa: Ipa, found: &Found, other: &Found) {
    let what = alloc::format!("the CPU found {found} while it held {other}");
    seat.shared
        .violation(ViolationKind::Conflict, Some(seat.cpu), Some(ipa), what);
}
