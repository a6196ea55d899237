//! What a step costs on the machine that is simulated: nothing, or a wait.

use core::time::Duration;

use crate::table::{StallKind, wait};

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

    /// Pays it.
    #[inline]
    pub fn pay(self) {
        if let Self::Wait(duration, kind) = self {
            wait(duration, kind);
        }
    }

    /// Pays it `times` times at once: one wait, so that the operating system's slack counts once.
    pub fn pay_for(self, times: u64) {
        if let Self::Wait(duration, kind) = self
            && times != 0
        {
            wait(duration.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX)), kind);
        }
    }
}
