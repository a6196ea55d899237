//! One CPU, as who drives it sees it: accesses, whole or begun, and the thread that runs on it.

use super::access::{Access, CpuCounts};
use super::judge::ViolationKind;
use super::log::What;
use super::mmu::{Flying, Seat, State};
use super::shared::Shared;
use crate::arch::{Fault, FaultKind, Ipa, Level, Pa};
use crate::sync::Arc;

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
        self.shared.cpu(self.number).held()
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
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::machine::{Access, Machine, MachineOptions};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::sync::Arc;
    /// # use s2pt::table::{Config, MapOptions, Stage2};
    /// # let machine = Machine::new(MachineOptions::default())?;
    /// # let port = machine.port();
    /// # let config = Config::new(Geometry::new(GeometryOptions::default())?);
    /// # let table = Arc::new(Stage2::new(config, Arena::new(ArenaOptions::default())?, port.clone())?);
    /// # port.attach(&table);
    /// # machine.load(&port);
    /// # let (view, cpu) = (table.handle(), machine.cpu(0));
    /// # let (page, attrs) = (Ipa::new(0x1000), Attrs::new(Prot::RW));
    /// view.map(page, 0x1000, Pa::new(0x1000), &attrs, MapOptions::default())?;
    /// cpu.begin(Access::write(page, 8, 42)).unwrap(); // has its translation, is not in memory
    /// view.unmap(page, 0x1000)?; // the DSB of its TLBI waits for the access
    /// assert_eq!((cpu.finish(), machine.audit()), (None, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::machine::{Access, Machine, MachineOptions};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::sync::Arc;
    /// # use s2pt::table::{Config, MapOptions, Stage2};
    /// # let machine = Machine::new(MachineOptions::default())?;
    /// # let port = machine.port();
    /// # let config = Config::new(Geometry::new(GeometryOptions::default())?);
    /// # let table = Arc::new(Stage2::new(config, Arena::new(ArenaOptions::default())?, port.clone())?);
    /// # port.attach(&table);
    /// # machine.load(&port);
    /// # let (view, cpu) = (table.handle(), machine.cpu(0));
    /// # let (page, attrs) = (Ipa::new(0x1000), Attrs::new(Prot::RW));
    /// let value = cpu.run(Access::read(page, 8), |fault| {
    ///     view.map(fault.ipa, 0x1000, Pa::new(0x1000), &attrs, MapOptions::FAULT).map(|_| true)
    /// })?;
    /// assert_eq!(value, Ok(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
