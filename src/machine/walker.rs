//! The hardware's walk: reads entries, takes no guard, waits for nobody.

use alloc::vec::Vec;

use crate::arch::{FaultKind, Format, Geometry, HardwareUpdate, Ipa, Level, Pa, Pte};
use crate::memory::TableMemory;
use crate::sync::{AtomicU64, Ordering};
use crate::table::{Stage2, Tlb};

/// A table as a CPU's registers and memory bus give it.
pub(crate) trait Walk: Send + Sync {
    /// The word of entry `index` in the table at `table`; `None` if no memory is there.
    fn entry(&self, table: Pa, index: usize) -> Option<&AtomicU64>;
    fn regime(&self) -> Regime;
}

/// What VTCR_EL2 and VTTBR_EL2 say.
#[derive(Clone, Copy)]
pub(crate) struct Regime {
    pub root: Pa,
    pub geometry: Geometry,
    pub format: Format,
    pub update: HardwareUpdate,
    pub vmid: u16,
}

impl<M: TableMemory, T: Tlb> Walk for Stage2<M, T> {
    fn entry(&self, table: Pa, index: usize) -> Option<&AtomicU64> {
        let memory = self.memory();
        if table == self.root() {
            return memory.root(table, self.config().geometry.root_frames()).get(index);
        }
        memory.has_frame(table).then(|| memory.table(table))?.get(index)
    }

    fn regime(&self) -> Regime {
        let config = self.config();
        Regime {
            root: self.root(),
            geometry: config.geometry,
            format: *self.format(),
            update: HardwareUpdate::new(config.ha, config.hd),
            vmid: config.vmid,
        }
    }
}

/// A table that a walk has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub table: Pa,
    /// Level of its entries.
    pub level: Level,
    /// The entries that led there, from the root on.
    pub path: Vec<Pa>,
}

/// The leaf at the end of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub base: Ipa,
    pub size: u64,
    pub level: Level,
    pub leaf: Pte,
    /// The entries that led there, the leaf's own last.
    pub path: Vec<Pa>,
}

impl Found {
    /// Where the leaf is.
    pub fn entry(&self) -> Pa {
        self.path.last().copied().unwrap_or(Pa::new(0))
    }
}

/// Why a walk found no leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped {
    pub kind: FaultKind,
    pub level: Level,
}

impl Regime {
    /// The root.
    pub(super) fn start(&self) -> Reached {
        Reached {
            table: self.root,
            level: self.geometry.start_level(),
            path: Vec::new(),
        }
    }

    /// The entry for `ipa` in a table, and its value now: one load, as hardware does.
    pub(super) fn read(&self, walk: &dyn Walk, at: &Reached, ipa: Ipa) -> Option<(Pa, Pte)> {
        let index = self.geometry.index(ipa, at.level);
        // Acquire: walks are ordered after the store that linked what they follow, by the address they read.
        let raw = walk.entry(at.table, index)?.load(Ordering::Acquire);
        Some((Pa::new(at.table.get() + 8 * index as u64), Pte::from_raw(raw)))
    }

    /// One step: a table below, the leaf, or the fault.
    pub(super) fn step(&self, at: &Reached, entry: Pa, pte: Pte, ipa: Ipa) -> Result<Next, Stopped> {
        let stopped = |kind| Stopped { kind, level: at.level };
        let mut path = at.path.clone();
        path.push(entry);
        if pte.is_table(at.level) {
            let table = self.format.next_table(pte);
            if table.get() >= self.geometry.pa_limit() {
                return Err(stopped(FaultKind::AddressSize));
            }
            return Ok(Next::Table(Reached {
                table,
                level: at.level.below(),
                path,
            }));
        }
        if !pte.is_leaf(at.level) || !at.level.is_last() && !self.geometry.block_allowed(at.level) {
            return Err(stopped(FaultKind::Translation));
        }
        if self.format.output(pte, at.level).get() >= self.geometry.pa_limit() {
            return Err(stopped(FaultKind::AddressSize));
        }
        Ok(Next::Leaf(Found {
            base: self.geometry.entry_base(ipa, at.level),
            size: self.geometry.size(at.level),
            level: at.level,
            leaf: pte,
            path,
        }))
    }
}

/// Where a step led.
pub(super) enum Next {
    Table(Reached),
    Leaf(Found),
}

impl core::fmt::Display for Found {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (base, level, leaf) = (self.base, self.level.get(), self.leaf.raw());
        write!(f, "IPA {base}, level {level}, {leaf:#x} read at {}", self.entry())
    }
}

impl core::fmt::Display for Reached {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let from = self.path.last().copied().unwrap_or(self.table);
        write!(f, "table {} of level {}, read at {from}", self.table, self.level.get())
    }
}
