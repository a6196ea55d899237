//! The rows of the budget table, so that `cargo bench`, callgrind and `s2pt bench` measure the same code.
//!
//! A row prepares a table, hands the measured part to a [`Meter`] once, and throws the table away. The clock runs it
//! many times and divides; callgrind runs it once and counts. All rows share the arena of one [`Bench`], whose frames
//! have been touched, so that no row pays for page faults of the process, and all use the [`Null`] sink: a TLBI costs
//! nothing here.
//!
//! It is public for these three and no part of what the crate promises: rows come and go.
//!
//! ```
//! use s2pt::bench::{Bench, Meter, ROWS};
//!
//! struct Stopwatch(std::time::Duration);
//! impl Meter for Stopwatch {
//!     fn measure(&mut self, body: &mut dyn FnMut()) {
//!         let start = std::time::Instant::now();
//!         body();
//!         self.0 += start.elapsed();
//!     }
//! }
//!
//! let bench = Bench::new(4 << 20)?; // 4 MiB of guest memory
//! let row = &ROWS[0];
//! let mut watch = Stopwatch(Default::default());
//! row.run(&bench, &mut watch);
//! println!("{}: {:?} for {} operations", row.title, watch.0, row.operations(&bench));
//! # Ok::<(), s2pt::bench::BenchError>(())
//! ```
//!
//! [`Null`]: crate::table::Null

mod attributes;
mod blocks;
mod error;
mod faults;
mod lookups;
mod reference;
mod rows;
mod run;
mod setup;
mod unmapping;

pub use error::BenchError;
pub use rows::ROWS;
pub use run::{Measured, Run, Timed};
pub use setup::{BLOCK, Bench, GIB, IPA, PA, PAGE, Table};

/// Takes the measure of the one part of a row that counts.
pub trait Meter {
    /// Calls `body`, once, and measures what it does.
    fn measure(&mut self, body: &mut dyn FnMut());
}

/// What times and counts are given per.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// A page of the guest memory.
    Page,
    /// A block of the guest memory.
    Block,
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    /// A name for files and options.
    pub id: &'static str,
    /// What it does, for people. Where it says 1 GiB, it does so to the guest memory of the [`Bench`], whatever that is.
    pub title: &'static str,
    /// What an operation is.
    pub per: Per,
    /// At most this many nanoseconds an operation.
    pub budget_ns: Option<f64>,
    /// At most this many instructions an operation.
    pub budget_instructions: Option<f64>,
    /// Nanoseconds that Linux 6.12's code takes in user space, as the design gives them.
    pub kvm_ns: Option<f64>,
    /// Instructions that it takes.
    pub kvm_instructions: Option<f64>,
    run: fn(&Bench, &mut dyn Meter),
}

impl Row {
    /// The row that `id` names.
    ///
    /// # Errors
    /// [`BenchError::NoRow`].
    pub fn named(id: &str) -> Result<&'static Self, BenchError> {
        let found = ROWS.iter().find(|row| row.id == id);
        found.ok_or_else(|| BenchError::NoRow { id: id.to_owned() })
    }

    /// Does it once; the part that counts goes to `meter`.
    pub fn run(&self, bench: &Bench, meter: &mut dyn Meter) {
        (self.run)(bench, meter);
    }

    /// How many operations the measured part does.
    pub fn operations(&self, bench: &Bench) -> u64 {
        match self.per {
            Per::Page => bench.pages(),
            Per::Block => bench.blocks(),
        }
    }
}
