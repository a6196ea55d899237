//! `Stage2`: the frames of its tables, from the arena and back.

use pyo3::prelude::*;

use super::PyStage2;
use crate::memory::TableMemory;
use crate::python::convert::Number;
use crate::python::{error, hook, types};

#[pymethods]
impl PyStage2 {
    /// Table frames that are not free: those of the table, its root included, and those unlinked whose grace period runs.
    ///
    /// After `drain` the table has no others.
    #[getter]
    fn frames_in_use(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.table(py)?.memory().frames_in_use())
    }

    /// What became of the frames of unlinked tables, since the table was made: a `s2pt.types.ReclaimStats`.
    ///
    /// A frame is free when every call that may still stand in it has ended. Who unlinks more than `pending_limit` waits for
    /// that; a call that gets no frames collects what is pending before it raises OutOfFramesError.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2(pending_limit=0)
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> _ = s2.unmap(0x1000, 4096)
    /// >>> s2.reclaim
    /// ReclaimStats(retired=2, freed=2, pending=0, peak=2, overruns=0)
    #[getter]
    fn reclaim<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        types::reclaim(py, &self.table(py)?.reclaim_stats())
    }

    /// Count table frames and leaves by level, and the bytes mapped. Reads every entry of the table once.
    ///
    /// Returns
    /// -------
    /// s2pt.types.Stats
    ///     Beside writers each number is of some moment during the count.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (shape, census) = self.detached(py, |table| (table.config().geometry, table.stats()))?;
        types::stats(py, &shape, &census)
    }

    /// Wait until every frame that was unlinked is free.
    ///
    /// Waits for the calls of other threads that were under way, at most.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        // The frees that it would wait for come after the call that the function is told of.
        if hook::inside() {
            let message = "drain waits for the very call that the sink is told of: call it elsewhere";
            return Err(error::base(py, message.into()));
        }
        self.detached(py, |table| table.drain())
    }

    /// Refuse, once, the operation that asks for the `k`-th frame from now on, counting from 0: for tests.
    ///
    /// The operation raises OutOfFramesError and changes nothing. (If unlinked frames are pending it collects them and asks
    /// again, and gets them then: `drain` before, if that must not be.)
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.fail_allocation(1)
    /// >>> s2.map(0x1000, 4096, pa=0x1000)
    /// Traceback (most recent call last):
    ///     ...
    /// s2pt.errors.OutOfFramesError: the operation needs 2 table frames and 1 are available
    /// >>> s2.stats().mapped_bytes
    /// 0
    /// >>> s2.map(0x1000, 4096, pa=0x1000)
    /// Mapped(bytes=4KiB, kept=0B)
    fn fail_allocation(&self, py: Python<'_>, k: Number) -> PyResult<()> {
        self.table(py)?
            .memory()
            .fail_allocation(usize::try_from(k.0).unwrap_or(usize::MAX));
        Ok(())
    }
}
