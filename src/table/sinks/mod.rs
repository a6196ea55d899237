//! Sinks for people who want to know, or to feel, what maintenance a table does.

#[cfg(feature = "std")]
mod counting;
#[cfg(feature = "std")]
mod recording;
#[cfg(feature = "std")]
mod stall;

#[cfg(feature = "std")]
pub use counting::{Counting, Counts};
#[cfg(feature = "std")]
pub use recording::{Record, Recording};
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub(crate) use stall::wait;
#[cfg(feature = "std")]
pub use stall::{Stall, StallKind};
