//! One CPU: its caches, its walks, its accesses.

use alloc::collections::BTreeMap;

use super::cache::Caches;
use super::judge::ViolationKind;
use super::log::What;
use super::shared::Shared;
use super::space::{Observer, Space};
use super::walker::{Found, Next, Reached, Regime, Walk};
use crate::arch::{AccessKind, El, Fault, FaultKind, Ipa, Level, Pa, Pte};
use crate::sync::Arc;
use crate::table::hardware_update;

/// An access of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its first byte, a multiple of `size`.
    pub ipa: Ipa,
    /// What it does.
    pub kind: AccessKind,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u32,
    /// What a write stores.
    pub value: u64,
}

impl Access {
    /// Reads `size` bytes.
    pub const fn read(ipa: Ipa, size: u32) -> Self {
        Self {
            ipa,
            kind: AccessKind::Read,
            size,
            value: 0,
        }
    }

    /// Writes the lowest `size` bytes of `value`.
    pub const fn write(ipa: Ipa, size: u32, value: u64) -> Self {
        Self {
            ipa,
            kind: AccessKind::Write,
            size,
            value,
        }
    }

    /// Fetches an instruction of four bytes.
    pub const fn fetch(ipa: Ipa) -> Self {
        Self {
            ipa,
            kind: AccessKind::Execute,
            size: 4,
            value: 0,
        }
    }
}

/// An access that has its translation and has not yet reached memory.
#[derive(Debug)]
pub(super) struct Flying {
    pub access: Access,
    pub found: Found,
    pa: Pa,
    vmid: u16,
}

/// What a CPU has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCounts {
    /// Accesses that reached memory.
    pub accesses: u64,
    /// Those of them whose translation the CPU held already.
    pub hits: u64,
    /// Walks that ended at a leaf, for an access or ahead of one.
    pub fills: u64,
    /// Accesses that faulted.
    pub faults: u64,
    /// Access flags and dirty states that hardware wrote.
    pub updates: u64,
}

impl CpuCounts {
    /// Each number with its name, in the order of the fields.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("accesses", self.accesses),
            ("hits", self.hits),
            ("fills", self.fills),
            ("faults", self.faults),
            ("updates", self.updates),
        ]
        .into_iter()
    }
}

impl core::ops::AddAssign for CpuCounts {
    fn add_assign(&mut self, other: Self) {
        self.accesses += other.accesses;
        self.hits += other.hits;
        self.fills += other.fills;
        self.faults += other.faults;
        self.updates += other.updates;
    }
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
    fn translate(&mut self, seat: Seat<'_>, access: Access) -> Result<Found, Fault> {
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

/// A handle on one CPU of a machine.
///
/// Any thread may drive it; what it does is done one access after the other.
#[derive(Clone)]
pub struct Cpu {
    pub(super) shared: Arc<Shared>,
    pub(super) number: usize,
    pub(super) patience: usize,
}

impl core::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Cpu")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// The calling thread runs on this CPU until this is dropped.
#[must_use = "the thread leaves the CPU as soon as this is dropped"]
#[derive(Debug)]
pub struct Bound<'c> {
    cpu: &'c Cpu,
    before: Option<usize>,
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        self.cpu.shared.with_core(|core| core.cpu = self.before);
    }
}

impl Cpu {
    /// Its number, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// What it has counted.
    pub fn counts(&self) -> CpuCounts {
        self.shared.cpu(self.number).counts
    }

    /// How many translations and tables it holds, of all VMIDs.
    pub fn held(&self) -> usize {
        let state = self.shared.cpu(self.number);
        state.caches.values().map(Caches::len).sum()
    }

    /// From now on it walks the table of `port`: what a write of VTTBR_EL2 does. What it holds it keeps, by VMID.
    pub fn load(&self, port: &super::Port) {
        self.shared.cpu(self.number).space = Some(port.space.clone());
    }

    /// The calling thread runs on this CPU: a local TLBI that it issues is this CPU's. A thread that runs on none has its
    /// local TLBIs go nowhere.
    pub fn bind(&self) -> Bound<'_> {
        let mut before = None;
        self.shared.with_core(|core| before = core.cpu.replace(self.number));
        Bound { cpu: self, before }
    }

    /// Executes an access: translates, and reads or writes the guest's memory. Returns what a read gives; outside of the
    /// machine's memory reads give 0 and writes are lost.
    ///
    /// # Errors
    /// The [`Fault`], as hardware reports it to EL2; an access that is no whole word of its size is an alignment fault.
    ///
    /// # Panics
    /// If no table was loaded, or the table is gone.
    pub fn access(&self, access: Access) -> Result<u64, Fault> {
        let mut state = self.begin_in(access)?;
        Ok(state.land(&self.shared, self.number).unwrap_or(0))
    }

    /// Executes an access up to the point where it has its translation. It reaches memory with the CPU's next access, with
    /// [`finish`](Self::finish), or when a DSB waits for it.
    ///
    /// # Errors
    /// As [`access`](Self::access).
    pub fn begin(&self, access: Access) -> Result<(), Fault> {
        self.begin_in(access).map(drop)
    }

    /// Lets the access in flight reach memory; `None` if there is none, or it has.
    pub fn finish(&self) -> Option<u64> {
        self.shared.cpu(self.number).land(&self.shared, self.number)
    }

    fn begin_in(&self, access: Access) -> Result<crate::sync::MutexGuard<'_, State>, Fault> {
        let (shared, number) = (&*self.shared, self.number);
        let mut state = shared.cpu(number);
        state.land(shared, number);
        let space = state.space.clone().expect("no table was loaded into the CPU");
        let (walk, regime) = space.table().expect("the table of the CPU is gone");
        let size = access.size;
        if !matches!(size, 1 | 2 | 4 | 8) || !access.ipa.is_aligned(size.into()) {
            return Err(Fault {
                ipa: access.ipa,
                access: access.kind,
                kind: FaultKind::Alignment,
                level: Level::L3,
                s1ptw: false,
            });
        }
        let seat = Seat {
            shared,
            space: &space,
            walk: &*walk,
            regime,
            cpu: number,
        };
        match state.translate(seat, access) {
            Ok(found) => {
                let offset = access.ipa.offset_from(found.base);
                let pa = Pa::new(regime.format.output(found.leaf, found.level).get() + offset);
                let vmid = regime.vmid;
                state.flying = Some(Flying {
                    access,
                    found,
                    pa,
                    vmid,
                });
                Ok(state)
            }
            Err(fault) => {
                state.counts.faults += 1;
                shared.log.add(Some(number), What::Fault(fault));
                Err(fault)
            }
        }
    }

    /// Reads the translation of `ipa` ahead of any access, if there is one.
    ///
    /// # Panics
    /// As [`access`](Self::access).
    pub fn speculate(&self, ipa: Ipa) {
        let mut state = self.shared.cpu(self.number);
        let space = state.space.clone().expect("no table was loaded into the CPU");
        let (walk, regime) = space.table().expect("the table of the CPU is gone");
        if ipa.get() < regime.geometry.ipa_limit() {
            let seat = Seat {
                shared: &self.shared,
                space: &space,
                walk: &*walk,
                regime,
                cpu: self.number,
            };
            state.speculate(seat, ipa);
        }
    }

    /// Executes an access as a guest does: each fault goes to `handle`, on this CPU, and the access is tried again.
    ///
    /// An access that does not get through after very many handled faults is a violation
    /// ([`Stuck`](ViolationKind::Stuck)), and gives its fault back.
    ///
    /// # Errors
    /// What `handle` returns as an error; `Ok(Err(fault))` if it says that it can do nothing about the fault.
    pub fn run<E>(
        &self,
        access: Access,
        mut handle: impl FnMut(&Fault) -> Result<bool, E>,
    ) -> Result<Result<u64, Fault>, E> {
        let _bound = self.bind();
        let mut tries = 0;
        loop {
            let fault = match self.access(access) {
                Ok(value) => return Ok(Ok(value)),
                Err(fault) => fault,
            };
            if !handle(&fault)? {
                return Ok(Err(fault));
            }
            tries += 1;
            if tries == self.patience {
                let what = alloc::format!("{fault:?} after it was handled {tries} times");
                self.shared
                    .violation(ViolationKind::Stuck, Some(self.number), Some(fault.ipa), what);
                return Ok(Err(fault));
            }
        }
    }
}
