//! `Stage2`: a history of concurrent operations, for `s2pt.testing.linearizability`.

use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;

use super::convert::{IpaArg, Number};
use super::stage2::PyStage2;
use super::{error, exit};
use crate::arch::Level;
use crate::history::{Plan, Record, record};

/// Threads and operations of each: what nobody's machine is brought down by.
const MOST_THREADS: u64 = 64;
const MOST_OPERATIONS: u64 = 1 << 20;

#[pymethods]
impl PyStage2 {
    /// For tests: run random operations of several threads on a few pages from `ipa` on, and return one row of numbers for
    /// each, in the order of the fields of `s2pt.testing.linearizability`. What is mapped in the block of `ipa` goes.
    #[pyo3(signature = (ipa, *, pages, threads, operations, seed, blocks))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python method")]
    fn _record<'py>(
        &self,
        py: Python<'py>,
        ipa: IpaArg,
        pages: Number,
        threads: Number,
        operations: Number,
        seed: Number,
        blocks: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let table = self.table(py)?;
        let geometry = &table.config().geometry;
        let entries = geometry.size(Level::L2) / geometry.granule().size();
        for (what, value, most) in [
            ("pages", pages.0, entries),
            ("threads", threads.0, MOST_THREADS),
            ("operations", operations.0, MOST_OPERATIONS),
        ] {
            if !(1..=most).contains(&value) {
                return Err(error::option(py, format!("{what} {value} is not in 1..={most}")));
            }
        }
        let plan = Plan {
            ipa: ipa.0,
            pages: pages.0,
            threads: threads.0,
            operations: operations.0,
            seed: seed.0,
            blocks,
        };
        let history = exit::detach(py, || record(&table, plan)).map_err(|refused| error::table(py, refused))?;
        let words = history.iter().flat_map(Record::row).collect();
        let rows = PyArray1::from_vec(py, words).reshape([history.len(), Record::FIELDS])?;
        Ok(rows.into_any())
    }
}
