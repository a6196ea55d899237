//! Where a table's maintenance reaches the CPUs: the sink of one table.
//!
//! Everything happens as late, and in as bad an order, as the architecture allows:
//!
//! * a TLBI takes effect at the DSB that completes it, not before;
//! * TLBIs that no DSB separates take effect in the worse order: stage 1 first, with combined entries made again from
//!   what stage 2 still holds;
//! * an invalidation does not find what was read through an entry whose break is not visible yet (no DSB before it);
//! * as soon as something was dropped a CPU reads it again, if the table still gives it;
//! * an access in flight ends at the DSB that waits for it, not before;
//! * a new entry is not seen by other CPUs before the barrier that publishes it.

use alloc::vec::Vec;

use super::judge::ViolationKind;
use super::mmu::Seat;
use super::shared::Shared;
use super::space::{Observer, Space};
use super::walker::Walk;
use crate::arch::{Dsb, Ipa, Pa, Pte, Scope, Tlbi};
use crate::sync::{Arc, unique_number};
use crate::table::{Event, Tlb};

/// The sink of one table on the machine: [`Machine::port`](super::Machine::port) makes it, the table is built with it, and
/// [`attach`](Self::attach) then tells the machine which table that was.
#[derive(Clone)]
pub struct Port {
    pub(super) shared: Arc<Shared>,
    pub(super) space: Arc<Space>,
}

impl core::fmt::Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Port").finish_non_exhaustive()
    }
}

/// An invalidation that was issued and is not complete.
struct Issued {
    tlbi: Tlbi,
    /// Entries whose break was not visible when it was issued.
    unseen: Vec<Pa>,
}

/// The core that a thread runs on, as far as maintenance of one machine goes.
pub(super) struct Core {
    /// The CPU that it is, if it is one of the machine's.
    pub cpu: Option<usize>,
    /// The thread's number.
    number: u32,
    issued: Vec<Issued>,
    /// Entries with a translation that were overwritten since the last barrier; whether this core itself sees it.
    unseen: Vec<(Pa, bool)>,
}

impl Core {
    pub fn new() -> Self {
        Self {
            cpu: None,
            number: unique_number(),
            issued: Vec::new(),
            unseen: Vec::new(),
        }
    }

    /// Whose view of memory it has.
    fn observer(&self) -> Observer {
        self.cpu.map_or(Observer::Host(self.number), Observer::Cpu)
    }
}

/// How many addresses are read again at once where an invalidation dropped more.
const READ_AGAIN: usize = 64;

impl Port {
    /// Says which table its maintenance is of. False if it was said before.
    ///
    /// The port holds the table weakly: the machine does not keep it alive.
    #[expect(private_bounds, reason = "what a CPU needs of a table is the machine's own affair")]
    pub fn attach(&self, table: &Arc<impl Walk + 'static>) -> bool {
        self.space.attach(table)
    }

    fn store(&self, core: &mut Core, entry: Pa, old: Pte, new: Pte) {
        if old.is_valid() {
            core.unseen.push((entry, false));
        }
        if new.is_locked() {
            self.space.broke(entry, old);
        }
        let mut restored = old.is_frozen();
        if old.is_locked()
            && let Some(before) = self.space.makes(entry)
        {
            restored = before == new;
            if before.is_valid() && !restored {
                self.check_made(entry, before, new);
            }
        }
        if new.is_valid() && !old.is_valid() && !restored {
            self.space.hide(core.observer(), entry, old, new);
        }
    }

    /// An entry that held `before` is given its new value: nobody may still have what was read through it.
    fn check_made(&self, entry: Pa, before: Pte, new: Pte) {
        let Some(regime) = self.space.regime() else { return };
        for (cpu, mut state) in self.shared.cpus() {
            let held = state.caches(regime).through(entry, Pa::new(entry.get() + 1));
            let flying = state.flying.as_ref();
            let flying = flying.filter(|flying| flying.found.path.contains(&entry));
            let held = held.or_else(|| flying.map(|flying| alloc::format!("in flight {}", flying.found)));
            if let Some(held) = held {
                let (before, new) = (before.raw(), new.raw());
                let what = alloc::format!("entry {entry}: {before:#x} becomes {new:#x} while the CPU has {held}");
                self.shared
                    .violation(ViolationKind::MadeTooEarly, Some(cpu), None, what);
            }
        }
    }

    fn free(&self, frame: Pa) {
        if let Some(regime) = self.space.regime() {
            let size = regime.geometry.granule().size();
            let end = Pa::new(frame.get() + size);
            for (cpu, mut state) in self.shared.cpus() {
                let caches = state.caches(regime);
                if let Some(held) = caches.through(frame, end).or_else(|| caches.leads_to(frame)) {
                    let what = alloc::format!("table frame {frame} is freed while the CPU has {held}");
                    self.shared.violation(ViolationKind::FreedFrame, Some(cpu), None, what);
                }
            }
        }
        self.space.freed(frame);
    }

    /// A DSB completes what this core has issued, of the kinds that it waits for.
    fn complete(&self, core: &mut Core, only_local: bool) {
        let mut done = Vec::new();
        core.issued.retain_mut(|issued| {
            let local = issued.tlbi.scope() == Scope::Local;
            if only_local && !local {
                return true;
            }
            done.push((issued.tlbi, core::mem::take(&mut issued.unseen)));
            false
        });
        if done.is_empty() {
            return;
        }
        let Some((walk, regime)) = self.space.table() else {
            return;
        };
        // Stage 1 first where nothing separates the two.
        done.sort_by_key(|(tlbi, _)| tlbi.is_stage2());
        let mixed = !done[0].0.is_stage2() && done.iter().any(|(tlbi, _)| tlbi.is_stage2());
        for cpu in 0..self.shared.len() {
            let reached = |tlbi: Tlbi| tlbi.scope() == Scope::Broadcast || core.cpu == Some(cpu);
            // What is invalidated locally keeps no other CPU from its work.
            if !done.iter().any(|(tlbi, _)| reached(*tlbi)) {
                continue;
            }
            let mut state = self.shared.cpu(cpu);
            let mut gone: Vec<Ipa> = Vec::new();
            let mut recombined = !mixed;
            for (tlbi, unseen) in done.iter().filter(|(tlbi, _)| reached(*tlbi)) {
                let caches = state.caches_mut(regime);
                if tlbi.is_stage2() && !recombined {
                    caches.recombine();
                    recombined = true;
                }
                caches.invalidate(*tlbi, unseen, &mut gone);
            }
            state.land_if_dropped(regime, &self.shared, cpu);
            gone.sort_unstable();
            gone.dedup();
            let seat = Seat {
                shared: &self.shared,
                space: &self.space,
                walk: &*walk,
                regime,
                cpu,
            };
            for &ipa in gone.iter().take(READ_AGAIN) {
                state.speculate(seat, ipa);
            }
        }
    }

    fn barrier(&self, core: &mut Core, dsb: Dsb) {
        match dsb {
            Dsb::Ish => self.complete(core, false),
            Dsb::Nsh => self.complete(core, true),
            Dsb::Ishst | Dsb::Nshst => {}
        }
        match dsb {
            Dsb::Ish | Dsb::Ishst => self.publish(core),
            Dsb::Nsh | Dsb::Nshst => core.unseen.iter_mut().for_each(|(_, own)| *own = true),
        }
    }

    fn publish(&self, core: &mut Core) {
        core.unseen.clear();
        self.space.reveal(core.observer());
    }
}

impl Tlb for Port {
    fn event(&self, event: Event) {
        self.shared.counted(&event);
        self.shared.with_core(|core| match event {
            Event::Store { entry, old, new, .. } => self.store(core, entry, old, new),
            Event::Tlbi(tlbi) => {
                let local = tlbi.scope() == Scope::Local;
                let unseen = core.unseen.iter().filter(|&&(_, own)| !(local && own));
                let unseen = unseen.map(|&(entry, _)| entry).collect();
                core.issued.push(Issued { tlbi, unseen });
            }
            Event::Dsb(dsb) => self.barrier(core, dsb),
            Event::Publish => self.publish(core),
            Event::Allocate { frame } => self.space.allocated(frame),
            Event::Free { frame } => self.free(frame),
            Event::Retire { .. } | Event::Cache(_) | Event::Isb | Event::Fill { .. } | Event::Return => {}
        });
    }
}
