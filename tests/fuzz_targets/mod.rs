//! Bodies of the fuzz targets (`fuzz/`): each takes any bytes and panics where the library answers wrong.
//!
//! They are plain functions, so that the same code runs under libFuzzer and, over the seeds of `tests/data/fuzz`, as an
//! ordinary test. What they expect is written here a second time, in the simplest way, and never asked of the library.

pub mod arch;
pub mod dump;
pub mod image;
pub mod ptdump;
pub mod table;

mod bytes;
mod leaf;
mod model;
mod script;
mod shape;
