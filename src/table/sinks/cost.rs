//! What a step costs on the machine that is simulated: nothing, or a wait.

use core::time::Duration;
use std::time::Instant;

/// How a cost is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StallKind {
    /// The thread gives up its core, as a stalled vCPU's physical core is nobody else's: many of them can stall at once on
    /// a machine with few cores. The operating system adds its own slack, some 50 us.
    Sleep,
    /// The thread burns its core: exact, and honest only with a core for each thread.
    Spin,
}

/// A cost of one step, on top of what the step itself takes here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cost {
    /// None.
    #[default]
    None,
    /// A wait, burning the core or giving it up. See [`StallKind`] for which is honest when.
    Wait(Duration, StallKind),
}

impl Cost {
    /// A wait of `duration`; none if that is zero.
    pub const fn new(duration: Duration, kind: StallKind) -> Self {
        if duration.is_zero() {
            Self::None
        } else {
            Self::Wait(duration, kind)
        }
    }

    /// Whether it costs nothing.
    pub const fn is_none(self) -> bool {
        matches!(self, Self::None)
    }

    /// Pays it.
    #[inline]
    pub fn pay(self) {
        self.pay_for(1);
    }

    /// Pays it `times` times at once: one wait, so that the operating system's slack counts once.
    #[inline]
    pub fn pay_for(self, times: u64) {
        if let Self::Wait(duration, kind) = self
            && times != 0
        {
            #[cfg(all(test, not(any(loom, shuttle))))]
            paid::note(self, times);
            wait(duration.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX)), kind);
        }
    }
}

fn wait(duration: Duration, kind: StallKind) {
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

/// How often each cost was paid, for tests: they look at counts and at no clock. A cost is known by its length, so each test
/// takes lengths of its own.
#[cfg(all(test, not(any(loom, shuttle))))]
pub(crate) mod paid {
    use super::Cost;
    use crate::sync::{Mutex, MutexGuard, PoisonError};

    static PAID: Mutex<Vec<(Cost, u64)>> = Mutex::new(Vec::new());

    fn all() -> MutexGuard<'static, Vec<(Cost, u64)>> {
        PAID.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(cost: Cost, times: u64) {
        let mut all = all();
        match all.iter_mut().find(|(known, _)| *known == cost) {
            Some((_, count)) => *count += times,
            None => all.push((cost, times)),
        }
    }

    /// How often so far.
    pub(crate) fn times(cost: Cost) -> u64 {
        all()
            .iter()
            .find(|(known, _)| *known == cost)
            .map_or(0, |&(_, count)| count)
    }
}
