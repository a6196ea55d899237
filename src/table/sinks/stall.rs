//! Steps that take their time.

use super::cost::{Cost, StallKind};
use crate::arch::Tlbi;
use crate::table::tlb::{Event, Tlb};
use core::time::Duration;

/// Pays for maintenance: the time in which the core that asks for it stands still.
///
/// A stage-2 TLBI is paid for while the entry being broken is LOCKED. One of the issuing core alone costs too: its DSB is no
/// shorter for the one who executes it. The stage-1 part of a sequence and the barriers are counted into the same cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// At each stage-2 TLBI.
    pub tlbi: Cost,
    /// At each cache operation, for each 4 KiB of it.
    pub cache: Cost,
    /// At each table frame that is taken.
    pub allocation: Cost,
}

impl Stall {
    /// Waits `tlbi` at each stage-2 TLBI, and nowhere else.
    pub const fn new(tlbi: Duration, kind: StallKind) -> Self {
        Self {
            tlbi: Cost::new(tlbi, kind),
            cache: Cost::None,
            allocation: Cost::None,
        }
    }

    /// Whether nothing costs anything.
    pub const fn is_none(&self) -> bool {
        self.tlbi.is_none() && self.cache.is_none() && self.allocation.is_none()
    }
}

impl Tlb for Stall {
    #[inline]
    fn event(&self, event: Event) {
        match event {
            Event::Tlbi(Tlbi::Ipa { .. } | Tlbi::Range { .. } | Tlbi::Vmid) => self.tlbi.pay(),
            Event::Cache(op) => self.cache.pay_for(op.size().div_ceil(4096)),
            Event::Allocate { .. } => self.allocation.pay(),
            _ => {}
        }
    }
}
