//! Simulated hardware that judges the software: CPUs with TLBs that walk a live table.
//!
//! A [`Machine`] has CPUs. Each looks an access up in its TLB, walks the table if it has to, as hardware does: without a
//! guard, with a walk cache, setting access flag and dirty state where VTCR_EL2 says so. It keeps what it finds until an
//! invalidation names it, reads and writes real bytes of the guest's memory, or reports a stage-2 fault.
//!
//! The machine hears of every step of the table through a [`Port`], the table's sink, and lets each take effect as late and
//! in as bad an order as the architecture allows (see `port.rs`). Where the software relied on more, it says so: a
//! [`Violation`]. So one forgotten TLBI, barrier or wait has a witness, mostly in a run of a few steps on one thread: the
//! judge needs no luck with timing.
//!
//! Four kinds of checks:
//!
//! * at every fill: two translations of one address that contradict each other;
//! * at every make and every free of a frame: whether a CPU still holds, or an access in flight still uses, what was read
//!   through the entry or the frame;
//! * [`Machine::check`], by who knows that his change of a range has returned: whether a CPU holds more than the table gives,
//!   and whether what hardware noted there is still there;
//! * [`Machine::audit`], when nothing runs: the same for everything.
//!
//! ```
//! use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
//! use s2pt::machine::{Access, Machine, MachineOptions};
//! use s2pt::memory::{Arena, ArenaOptions};
//! use s2pt::sync::Arc;
//! use s2pt::table::{Config, MapOptions, Stage2};
//!
//! let machine = Machine::new(MachineOptions { cpus: 2, ram: Some((Pa::new(0x4000_0000), 1 << 20)), ..Default::default() })?;
//! let port = machine.port();
//! let config = Config::new(Geometry::new(GeometryOptions::default())?);
//! let table = Arc::new(Stage2::new(config, Arena::new(ArenaOptions::default())?, port.clone())?);
//! port.attach(&table);
//! machine.load(&port);
//!
//! table.handle().map(Ipa::new(0x8000_0000), 4096, Pa::new(0x4000_0000), &Attrs::new(Prot::RW), MapOptions::default())?;
//! let cpu = machine.cpu(0);
//! cpu.access(Access::write(Ipa::new(0x8000_0010), 8, 42)).unwrap();
//! assert_eq!(machine.cpu(1).access(Access::read(Ipa::new(0x8000_0010), 8)), Ok(42));
//!
//! table.handle().unmap(Ipa::new(0x8000_0000), 4096)?;
//! assert!(cpu.access(Access::read(Ipa::new(0x8000_0010), 8)).is_err());
//! machine.audit();
//! assert!(machine.violations().is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod cache;
mod cpu;
mod judge;
mod log;
mod mmu;
mod port;
mod shared;
mod space;
mod walker;

pub use access::{Access, CpuCounts};
pub use cpu::{Bound, Cpu};
pub use judge::{Violation, ViolationKind};
pub use log::{Entry, What};
pub use port::Port;
#[cfg(not(shuttle))]
pub(crate) use walker::{Regime, Walk};

use alloc::vec::Vec;

use crate::arch::{Ipa, Pa};
use crate::memory::Ram;
use crate::sync::Arc;
use crate::table::Counts;
use shared::Shared;
use space::Space;

/// What a machine is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineOptions {
    /// How many CPUs.
    pub cpus: usize,
    /// The guest's memory: first physical address, and bytes; beyond it reads give 0 and writes are lost. `None`: there is
    /// memory at every address, at the price of a lock for each access.
    pub ram: Option<(Pa, u64)>,
    /// How many of the last happenings are kept for [`Machine::log`].
    pub log: usize,
    /// After how many handled faults of one access [`Cpu::run`] says that it is stuck.
    pub patience: usize,
}

impl Default for MachineOptions {
    /// Four CPUs, memory everywhere, no log, patience for 10,000 faults.
    fn default() -> Self {
        Self {
            cpus: 4,
            ram: None,
            log: 0,
            patience: 10_000,
        }
    }
}

/// CPUs, their memory, and the judge. Cheap to clone: all clones are one machine.
#[derive(Clone)]
pub struct Machine {
    shared: Arc<Shared>,
    spaces: Arc<crate::sync::Mutex<Vec<Arc<Space>>>>,
    patience: usize,
}

impl core::fmt::Debug for Machine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Machine")
            .field("cpus", &self.cpus())
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Builds one, with no table.
    ///
    /// # Errors
    /// What the operating system says if there is no address space for the guest's memory.
    pub fn new(options: MachineOptions) -> std::io::Result<Self> {
        let ram = match options.ram {
            None => Ram::everywhere(),
            #[cfg(not(shuttle))]
            Some((base, bytes)) => Ram::new(base, bytes)?,
            #[cfg(shuttle)]
            Some(_) => Ram::everywhere(),
        };
        Ok(Self {
            shared: Arc::new(Shared::new(options.cpus, ram, options.log)),
            spaces: Arc::default(),
            patience: options.patience.max(1),
        })
    }

    /// The sink for one more table of this machine.
    pub fn port(&self) -> Port {
        let space = Arc::new(Space::default());
        self.spaces().push(space.clone());
        Port {
            shared: self.shared.clone(),
            space,
        }
    }

    fn spaces(&self) -> crate::sync::MutexGuard<'_, Vec<Arc<Space>>> {
        self.spaces.lock().unwrap_or_else(crate::sync::PoisonError::into_inner)
    }

    /// How many CPUs it has.
    pub fn cpus(&self) -> usize {
        self.shared.len()
    }

    /// One of them, from 0.
    ///
    /// # Panics
    /// If there is none of that number.
    pub fn cpu(&self, number: usize) -> Cpu {
        assert!(number < self.cpus(), "CPU {number} of {}", self.cpus());
        Cpu {
            shared: self.shared.clone(),
            number,
            patience: self.patience,
        }
    }

    /// Every CPU walks the table of `port` from now on.
    pub fn load(&self, port: &Port) {
        (0..self.cpus()).for_each(|number| self.cpu(number).load(port));
    }

    /// The guest's memory.
    pub fn ram(&self) -> &Ram {
        &self.shared.ram
    }

    /// What was broken so far; of very many the first.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.docket.kept()
    }

    /// How many rules were broken so far.
    pub fn violated(&self) -> u64 {
        self.shared.docket.all()
    }

    /// The last happenings, in order.
    pub fn log(&self) -> Vec<Entry> {
        self.shared.log.entries()
    }

    /// The maintenance of all its tables so far.
    pub fn maintenance(&self) -> Counts {
        self.shared.counting.counts()
    }

    /// What all CPUs have counted, together.
    pub fn counts(&self) -> CpuCounts {
        let mut sum = CpuCounts::default();
        for (_, state) in self.shared.cpus() {
            sum += state.counts;
        }
        sum
    }

    /// Looks whether a CPU holds more of [`ipa`, `ipa + size`) than the table gives, or an access in flight uses it, or
    /// what hardware noted there is gone: for who knows that nobody is changing what the range translates to.
    ///
    /// Others may split and merge leaves meanwhile. Returns the number of violations that were added.
    pub fn check(&self, port: &Port, ipa: Ipa, size: u64) -> u64 {
        self.check_space(&port.space, ipa.get(), ipa.get().saturating_add(size))
    }

    /// [`check`](Self::check) of everything; nothing else may run.
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
    /// cpu.access(Access::read(page, 8)).unwrap();
    /// view.poke(page, s2pt::arch::Level::L3, s2pt::arch::Pte::EMPTY)?; // no break, no TLBI
    /// assert!(machine.audit() > 0);
    /// assert_eq!(machine.violations()[0].kind.name(), "stale");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn audit(&self) -> u64 {
        let spaces = self.spaces().clone();
        spaces.iter().map(|space| self.check_space(space, 0, u64::MAX)).sum()
    }

    /// Takes what hardware noted in [`ipa`, `ipa + size`): who has just taken rights, access flags or the mapping away there,
    /// or has taken note of what was written.
    pub fn forget(&self, port: &Port, ipa: Ipa, size: u64) {
        // What a CPU has written into a leaf and not yet put down, it puts down before it is let go.
        self.shared.cpus().for_each(drop);
        port.space.forget(ipa.get(), ipa.get().saturating_add(size));
    }

    fn check_space(&self, space: &Space, first: u64, end: u64) -> u64 {
        let Some((walk, regime)) = space.table() else {
            return 0;
        };
        let mut added = 0;
        for (cpu, mut state) in self.shared.cpus() {
            let flying = state.flying.as_ref().map(|flying| flying.found.clone());
            let caches = state.caches(regime);
            let held = caches.covering(first, end).map(|(found, combined)| {
                let kind = if combined {
                    "a combined entry"
                } else {
                    "a stage-2 entry"
                };
                (found, kind)
            });
            let all = held.chain(flying.iter().map(|found| (found, "an access in flight")));
            for (found, kind) in all {
                if let Some((ipa, what)) = judge::stale(&*walk, regime, found, first, end) {
                    let what = alloc::format!("{kind}: {what}");
                    self.shared.violation(ViolationKind::Stale, Some(cpu), Some(ipa), what);
                    added += 1;
                }
            }
        }
        for ipa in space.noted(first, end) {
            if let Some((kind, what)) = judge::lost(space, &*walk, regime, ipa) {
                self.shared.violation(kind, None, Some(ipa), what);
                added += 1;
            }
        }
        added
    }
}
