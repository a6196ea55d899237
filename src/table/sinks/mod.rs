//! Sinks for people who want to know, or to feel, what maintenance a table does.

#[cfg(feature = "std")]
mod cost;
#[cfg(feature = "std")]
mod counting;
#[cfg(feature = "std")]
mod recording;
#[cfg(feature = "std")]
mod stall;

#[cfg(all(test, feature = "std", not(any(loom, shuttle))))]
pub(crate) use cost::paid;
#[cfg(feature = "std")]
pub use cost::{Cost, StallKind};
#[cfg(feature = "std")]
pub use counting::{Counting, Counts};
#[cfg(feature = "std")]
pub use recording::{Record, Recording};
#[cfg(feature = "std")]
pub use stall::Stall;
