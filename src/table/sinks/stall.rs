//! Steps that take their time.

use crate::arch::Tlbi;
use crate::table::tlb::{Event, Tlb};
use core::time::Duration;
use std::time::Instant;

/// How a [`Stall`] waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StallKind {
    /// The thread gives up its core, as a stalled vCPU's physical core is nobody else's: many of them can stall at once on
    /// a machine with few cores. The operating system adds its own slack, some 50 us.
    Sleep,
    /// The thread burns its core: exact, and honest only with a core for each thread.
    Spin,
}

/// Waits for `duration`; not at all if it is zero.
pub(crate) fn wait(duration: Duration, kind: StallKind) {
    if duration.is_zero() {
        return;
    }
    match kind {
        StallKind::Sleep => std::thread::sleep(duration),
        StallKind::Spin => {
            let start = Instant::now();
            while start.elapsed() < duration {
                core::hint::spin_loop();
            }
        }
    }
}

/// Waits at maintenance: the time in which the core that asks for it stands still.
///
/// A stage-2 TLBI waits while the entry being broken is LOCKED. A TLBI of the issuing core alone waits too: its DSB is no
/// shorter for the one who executes it. The stage-1 part of a sequence and the barriers are counted into the same wait.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// At each stage-2 TLBI.
    pub tlbi: Duration,
    /// At each cache operation, for each 4 KiB of it.
    pub cache_per_page: Duration,
    /// At each table frame that is taken.
    pub allocation: Duration,
    /// How.
    pub kind: StallKind,
}

impl Stall {
    /// Waits `tlbi` at each stage-2 TLBI, and nowhere else.
    pub const fn new(tlbi: Duration, kind: StallKind) -> Self {
        Self {
            tlbi,
            cache_per_page: Duration::ZERO,
            allocation: Duration::ZERO,
            kind,
        }
    }

    /// Whether it waits anywhere.
    pub const fn is_none(&self) -> bool {
        self.tlbi.is_zero() && self.cache_per_page.is_zero() && self.allocation.is_zero()
    }
}

impl Tlb for Stall {
    #[inline]
    fn event(&self, event: Event) {
        let time = match event {
            Event::Tlbi(Tlbi::Ipa { .. } | Tlbi::Range { .. } | Tlbi::Vmid) => self.tlbi,
            Event::Cache(op) => self
                .cache_per_page
                .saturating_mul(u32::try_from(op.size().div_ceil(4096)).unwrap_or(u32::MAX)),
            Event::Allocate { .. } => self.allocation,
            _ => return,
        };
        wait(time, self.kind);
    }
}
