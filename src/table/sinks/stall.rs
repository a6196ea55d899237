//! A TLBI that takes its time.

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

/// Waits at every stage-2 TLBI: the time in which the core that issued it stands still.
///
/// The entry being broken is LOCKED meanwhile. A TLBI of the issuing core alone waits too: its DSB is no shorter for the
/// one who executes it. The stage-1 part of a sequence and the barriers are counted into the same wait.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    duration: Duration,
    kind: StallKind,
}

impl Stall {
    /// Waits `duration` at each stage-2 TLBI.
    pub const fn new(duration: Duration, kind: StallKind) -> Self {
        Self { duration, kind }
    }

    fn wait(&self) {
        if self.duration.is_zero() {
            return;
        }
        match self.kind {
            StallKind::Sleep => std::thread::sleep(self.duration),
            StallKind::Spin => {
                let start = Instant::now();
                while start.elapsed() < self.duration {
                    core::hint::spin_loop();
                }
            }
        }
    }
}

impl Tlb for Stall {
    #[inline]
    fn event(&self, event: Event) {
        if matches!(event, Event::Tlbi(Tlbi::Ipa { .. } | Tlbi::Range { .. } | Tlbi::Vmid)) {
            self.wait();
        }
    }
}
