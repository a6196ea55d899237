//! What a measurement refuses.

use super::ROWS;
use super::setup::{BLOCK, LARGEST};
use crate::memory::ArenaError;

/// Why rows cannot be measured as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// Guest memory that is no whole number of blocks, none, or too much.
    #[error("size {size:#x} of the guest memory is not a multiple of {BLOCK:#x} from {BLOCK:#x} to {LARGEST:#x}")]
    Size {
        /// Bytes asked for.
        size: u64,
    },
    /// No round at all, or more than anybody waits for.
    #[error("{rounds:#x} rounds: a measurement takes 0x1 to {:#x}", u16::MAX)]
    Rounds {
        /// The number given.
        rounds: u64,
    },
    /// A name that no row has.
    #[error("no row is called {id:?}; the rows are {}", names())]
    NoRow {
        /// The name given.
        id: String,
    },
    /// The operating system has no memory for the tables.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}

fn names() -> String {
    let names: Vec<&str> = ROWS.iter().map(|row| row.id).collect();
    names.join(", ")
}
